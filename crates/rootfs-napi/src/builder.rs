//! The class `Rootfs`: a specification that grows with each call, and is checked at each.

use std::cell::{OnceCell, RefCell};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use napi::bindgen_prelude::{Object, This};
use napi::{Env, Result};
use napi_derive::napi;
use rootfs::PathBytes;
use rootfs::defaults;
use rootfs::origin::Item;
use rootfs::plan::Plan;
use rootfs::protocol;
use rootfs::spec::{BindSource, Content, Mask, MissingMask, ReadonlyRoot, Root, RootfsSpec};

use crate::api::{Step, Warning, lossy, step, warning};
use crate::argument::{JsArg, Options, Parsed, absolute_path, mode, path, size, text, unexpected};
use crate::command::Configured;
use crate::content;
use crate::failure::{ArgumentKind, Failure};
use crate::js::internal_object;
use crate::options;
use crate::stdio;

/// Describes a root filesystem. Methods append in call order, check their arguments at once (the error is thrown at the
/// line that is wrong) and return `this`. Nothing touches the system until `prepare`, `run` or `spawn`; those take a
/// snapshot, so a builder can be used again.
#[napi]
pub struct Rootfs {
    /// Shared with what is known, until it is changed.
    spec: Rc<RootfsSpec>,
    described: Described,
    sources: Vec<Arc<OwnedFd>>,
    /// What the OCI config says of processes that it was made from.
    configured: Configured,
    /// Made when it is first needed after a change.
    plan: OnceCell<EncodedPlan>,
}

/// A plan, and what of it is sent.
#[derive(Clone)]
pub(crate) struct EncodedPlan {
    pub(crate) plan: Arc<Plan>,
    pub(crate) bytes: Arc<[u8]>,
}

/// How far a builder was described.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Described {
    /// Only its root.
    Root,
    /// Its root, and `defaults()`.
    Defaults,
    /// In another way.
    Otherwise,
}

/// A description whose plan was made.
struct Known {
    described: Described,
    spec: Rc<RootfsSpec>,
    plan: EncodedPlan,
}

/// A longer plan is made again, in bytes: the content of files is not kept after its builder.
const LARGEST_KEPT: usize = 1 << 18;
/// As many are kept.
const MOST_KEPT: usize = 4;

thread_local! {
    /// The last ones: programs often describe the same again for each container.
    static KNOWN: RefCell<Vec<Known>> = const { RefCell::new(Vec::new()) };
}

/// The plan is a function of the specification alone.
fn plan_of(spec: &Rc<RootfsSpec>, described: Described) -> Parsed<EncodedPlan> {
    let known = KNOWN.with_borrow_mut(|known| {
        let mut found = known.remove(known.iter().position(|known| *known.spec == **spec)?);
        if described != Described::Otherwise {
            found.described = described;
        }
        let plan = found.plan.clone();
        known.insert(0, found);
        Some(plan)
    });
    if let Some(plan) = known {
        return Ok(plan);
    }
    let plan = Plan::new(spec)?;
    let bytes = protocol::encode_plan(&plan, None).into();
    let plan = EncodedPlan { plan: Arc::new(plan), bytes };
    if plan.bytes.len() <= LARGEST_KEPT {
        KNOWN.with_borrow_mut(|known| {
            known.truncate(MOST_KEPT - 1);
            known.insert(0, Known { described, spec: Rc::clone(spec), plan: plan.clone() });
        });
    }
    Ok(plan)
}

impl Rootfs {
    fn describe(root: Root) -> Self {
        Self { described: Described::Root, ..Self::from_config(RootfsSpec::new(root), Configured::Nothing) }
    }

    /// What an OCI config says.
    pub(crate) fn from_config(spec: RootfsSpec, configured: Configured) -> Self {
        let described = Described::Otherwise;
        Self { spec: Rc::new(spec), described, sources: Vec::new(), configured, plan: OnceCell::new() }
    }

    /// What the builder says now.
    pub(crate) fn spec(&self) -> &RootfsSpec {
        &self.spec
    }

    /// What the OCI config says of processes that it was made from.
    pub(crate) fn configured(&self) -> &Configured {
        &self.configured
    }

    /// Descriptors of bind sources.
    pub(crate) fn sources(&self) -> &[Arc<OwnedFd>] {
        &self.sources
    }

    /// The plan of what the builder says now.
    pub(crate) fn encoded_plan(&self) -> Parsed<EncodedPlan> {
        if let Some(plan) = self.plan.get() {
            return Ok(plan.clone());
        }
        let plan = plan_of(&self.spec, self.described)?;
        Ok(self.plan.get_or_init(|| plan).clone())
    }

    /// Applies a change as a whole or not at all, and checks the result.
    fn change(&mut self, env: Env, change: impl FnOnce(&mut RootfsSpec) -> Parsed<()>) -> Result<()> {
        let spec = Rc::make_mut(&mut self.spec);
        let before = spec.checkpoint();
        let changed = change(spec)
            .and_then(|()| spec.validate_since(&before).map_err(Failure::from))
            .map_err(Failure::of_argument);
        match changed {
            Ok(()) => {
                self.has_changed();
                Ok(())
            }
            Err(failure) => {
                spec.restore(before);
                Err(failure.throw(env))
            }
        }
    }

    /// Adds to what is mounted and made, and checks that alone: there may be thousands of them.
    fn add<C: Into<Content>>(&mut self, env: Env, content: impl FnOnce() -> Parsed<C>) -> Result<()> {
        let added = content()
            .and_then(|content| Rc::make_mut(&mut self.spec).add_valid(content).map_err(Failure::from))
            .map_err(|failure| failure.of_argument().throw(env));
        if added.is_ok() {
            self.has_changed();
        }
        added
    }

    fn has_changed(&mut self) {
        self.plan = OnceCell::new();
        self.described = Described::Otherwise;
    }

    /// Becomes a description that is known: the same root, with `defaults()`.
    fn become_known(&mut self) -> bool {
        self.described == Described::Root
            && KNOWN.with_borrow(|known| {
                let same = |known: &&Known| {
                    known.described == Described::Defaults && known.spec.root == self.spec.root
                };
                let Some(known) = known.iter().find(same) else { return false };
                self.spec = Rc::clone(&known.spec);
                self.described = known.described;
                self.plan = OnceCell::from(known.plan.clone());
                true
            })
    }

    fn mount_defaults(spec: &mut RootfsSpec, cgroup: bool) {
        spec.add(defaults::proc());
        spec.extend(defaults::dev(defaults::DEV_SIZE, false));
        spec.add(defaults::sysfs(true));
        if cgroup {
            spec.add(defaults::cgroup(true));
        }
        spec.dev = true;
        let mask = |path| Mask { path: PathBytes::from(path), missing: MissingMask::Skip };
        spec.masks.extend(defaults::MASKED_PATHS.map(mask));
        spec.readonly_paths.extend(defaults::READONLY_PATHS.map(PathBytes::from));
    }
}

#[napi]
impl Rootfs {
    /// An existing directory as root. Absolute; the last component may not be a symlink (`ERR_ROOTFS_ROOT` when it is
    /// used). Missing mountpoints are made in that directory, and removed again; what `directory`, `symlink` and `device`
    /// make outside a tmpfs is made in it too, and stays. `Rootfs.overlay({ lower: [directory] })` shows the same and writes
    /// nothing to it; `Rootfs.empty` is a root of parts.
    #[napi(constructor, ts_args_type = "directory: PathLike")]
    pub fn new(env: Env, directory: JsArg) -> Result<Self> {
        let path = absolute_path("directory", &directory).map_err(|failure| failure.throw(env))?;
        Ok(Self::describe(Root::Directory(path.as_entry())))
    }

    /// A new, empty tmpfs as root: put `bind`, `tmpfs` … into it. Nothing is written on the host.
    #[napi(factory, ts_args_type = "options?: EmptyOptions", ts_return_type = "Rootfs")]
    pub fn empty(env: Env, options: JsArg) -> Result<Self> {
        let parse = || -> Parsed<Root> {
            let mut options = Options::of_call(options)?;
            let size = options.take("size", size)?;
            let mode = options.take("mode", mode)?.unwrap_or(0o755);
            options.finish()?;
            Ok(Root::Empty { size, mode })
        };
        let root = parse().map_err(|failure| failure.throw(env))?;
        Ok(Self::describe(root))
    }

    /// An overlay as root; `mount(8)`, overlay. Without `upper`, changes go to a tmpfs that is gone afterwards, and nothing is
    /// written on the host. With `upper` they stay there, but for mountpoints, which are removed again; directories that
    /// the kernel copied there to make one stay. All are directories of the host, or symbolic links to some, opened before anything is mounted
    /// (`ERR_ROOTFS_SOURCE`); mounts below a lower directory are not seen. Owner and mode of the root are those of `upper`,
    /// else of the first lower directory. Without privileges it needs Linux 5.11, and what is hidden and replaced is
    /// written in `user.overlay.` attributes; root's overlays are made with root's rights, for user namespaces too.
    #[napi(
        factory,
        js_name = "overlay",
        ts_args_type = "options: OverlayRootOptions",
        ts_return_type = "Rootfs"
    )]
    pub fn overlay_root(env: Env, options: JsArg) -> Result<Self> {
        let root = options::overlay_root(options).map_err(|failure| failure.of_argument().throw(env))?;
        Ok(Self::describe(root))
    }

    /// What an OCI runtime gives every container, as the configuration that `runc spec` writes has it: /proc, /dev
    /// (`dev()`), /sys and /sys/fs/cgroup read-only, the usual masked and read-only paths.
    #[napi(ts_args_type = "options?: DefaultsOptions", ts_return_type = "this")]
    pub fn defaults<'a>(&mut self, env: Env, this: This<'a>, options: JsArg) -> Result<Object<'a>> {
        let usual = options == JsArg::Undefined;
        if usual && self.become_known() {
            return Ok(this.object);
        }
        let first = self.described == Described::Root;
        self.change(env, |spec| {
            let mut options = Options::of_call(options)?;
            let cgroup = options.flag("cgroup", true)?;
            options.finish()?;
            Self::mount_defaults(spec, cgroup);
            Ok(())
        })?;
        if usual && first {
            self.described = Described::Defaults;
        }
        Ok(this.object)
    }

    /// Makes a file or directory of the host visible. A relative path is taken from the cwd at this call. `{ fd }`: a
    /// directory, file or `O_PATH` descriptor, duplicated at this call (not a memfd; without privileges it is found
    /// again by its path and must be the same inode). `{ inRoot }`: a path in the tree being built.
    #[napi(
        ts_args_type = "source: PathLike | FdSource | InRootSource, destination: PathLike, options?: BindOptions",
        ts_return_type = "this"
    )]
    pub fn bind<'a>(
        &mut self,
        env: Env,
        this: This<'a>,
        source: JsArg,
        destination: JsArg,
        options: JsArg,
    ) -> Result<Object<'a>> {
        let known = self.sources.len();
        let mut added = None;
        self.add(env, || {
            let source = match options::bind_source(&source)? {
                options::Source::Path(path) => BindSource::Host(path),
                options::Source::InRoot(path) => BindSource::InRoot(path),
                options::Source::Fd(number) => {
                    let (fd, path) = stdio::bind_source(number).map_err(|what| {
                        unexpected(ArgumentKind::Value, what, "source.fd", &source_fd(number))
                    })?;
                    let index = u32::try_from(known).unwrap_or(u32::MAX);
                    added = Some(Arc::new(fd));
                    BindSource::Fd { index, path }
                }
            };
            options::bind(source, path("destination", &destination)?, options)
        })?;
        self.sources.extend(added);
        Ok(this.object)
    }

    /// A new tmpfs, always nosuid and nodev; tmpfs(5).
    #[napi(ts_args_type = "destination: PathLike, options?: TmpfsOptions", ts_return_type = "this")]
    pub fn tmpfs<'a>(
        &mut self,
        env: Env,
        this: This<'a>,
        destination: JsArg,
        options: JsArg,
    ) -> Result<Object<'a>> {
        self.add(env, || options::tmpfs(path("destination", &destination)?, options))?;
        Ok(this.object)
    }

    /// A new proc of the container's pid namespace, always nosuid, nodev and noexec; proc(5).
    /// @param destination @default '/proc'
    #[napi(ts_args_type = "destination?: PathLike, options?: ProcOptions", ts_return_type = "this")]
    pub fn proc<'a>(
        &mut self,
        env: Env,
        this: This<'a>,
        destination: JsArg,
        options: JsArg,
    ) -> Result<Object<'a>> {
        self.add(env, || options::proc(optional_path(&destination, "/proc")?, options))?;
        Ok(this.object)
    }

    /// A new sysfs of the container's network namespace, always nosuid, nodev and noexec; sysfs(5). In a user namespace
    /// without a network namespace of its own, the host's /sys is bound read-only instead (`strategy: 'bind-fallback'`).
    /// @param destination @default '/sys'
    #[napi(ts_args_type = "destination?: PathLike, options?: ReadonlyOptions", ts_return_type = "this")]
    pub fn sysfs<'a>(
        &mut self,
        env: Env,
        this: This<'a>,
        destination: JsArg,
        options: JsArg,
    ) -> Result<Object<'a>> {
        self.add(env, || {
            let mut mount = defaults::sysfs(options::readonly(options, true)?);
            mount.destination = optional_path(&destination, "/sys")?;
            Ok(mount)
        })?;
        Ok(this.object)
    }

    /// The cgroup filesystem, always nosuid, nodev and noexec: version 2, or on other hosts a directory for each
    /// hierarchy of version 1; cgroups(7).
    /// @param destination @default '/sys/fs/cgroup'
    #[napi(ts_args_type = "destination?: PathLike, options?: ReadonlyOptions", ts_return_type = "this")]
    pub fn cgroup<'a>(
        &mut self,
        env: Env,
        this: This<'a>,
        destination: JsArg,
        options: JsArg,
    ) -> Result<Object<'a>> {
        self.add(env, || {
            let mut mount = defaults::cgroup(options::readonly(options, true)?);
            mount.destination = optional_path(&destination, "/sys/fs/cgroup")?;
            Ok(mount)
        })?;
        Ok(this.object)
    }

    /// A tmpfs on /dev with null, zero, full, tty, random and urandom, links fd, stdin, stdout, stderr, ptmx and core,
    /// and devpts, shm and mqueue in it.
    #[napi(ts_args_type = "options?: DevOptions", ts_return_type = "this")]
    pub fn dev<'a>(&mut self, env: Env, this: This<'a>, options: JsArg) -> Result<Object<'a>> {
        self.change(env, |spec| {
            let mut options = Options::of_call(options)?;
            let size = options.take("size", size)?.unwrap_or(defaults::DEV_SIZE);
            let readonly = options.flag("readonly", false)?;
            options.finish()?;
            spec.extend(defaults::dev(size, readonly));
            spec.dev = true;
            Ok(())
        })?;
        Ok(this.object)
    }

    /// An overlay, always nosuid and nodev; `mount(8)`, overlay. Without `upper` it is read-only, and needs two lower
    /// directories or more: for one, use `bind`. All are directories of the host, opened before anything is mounted;
    /// mounts below them are not seen. For other options of the filesystem use `mount({ type: 'overlay' })`.
    #[napi(ts_args_type = "destination: PathLike, options: OverlayOptions", ts_return_type = "this")]
    pub fn overlay<'a>(
        &mut self,
        env: Env,
        this: This<'a>,
        destination: JsArg,
        options: JsArg,
    ) -> Result<Object<'a>> {
        self.add(env, || options::overlay(path("destination", &destination)?, &options))?;
        Ok(this.object)
    }

    /// Any mount in OCI form: option words keep their OCI meaning exactly.
    #[napi(ts_args_type = "mount: OciMount", ts_return_type = "this")]
    pub fn mount<'a>(&mut self, env: Env, this: This<'a>, mount: JsArg) -> Result<Object<'a>> {
        self.change(env, |spec| {
            let (mount, origin) = options::oci_mount(mount)?;
            spec.origins.insert(Item::Content(spec.content.len()), origin);
            spec.add(mount);
            Ok(())
        })?;
        Ok(this.object)
    }

    /// A file with the given content, on a private mount of its own: always nosuid and nodev, and noexec unless `mode` has an
    /// execute bit. It and its filesystem are read-only unless `writable`; then it can grow to 16 MiB beyond the content.
    /// On a directory root its mountpoint is made like any other: links are followed inside the root, and an existing file
    /// is covered. A directory there is `ERR_ROOTFS_MOUNT` (`EISDIR`). Text is written as UTF-8. All that is handed over for
    /// a container, the content of files included, is at most 64 MiB.
    #[napi(
        ts_args_type = "destination: PathLike, content: string | Uint8Array, options?: FileOptions",
        ts_return_type = "this"
    )]
    pub fn file<'a>(
        &mut self,
        env: Env,
        this: This<'a>,
        destination: JsArg,
        content: JsArg,
        options: JsArg,
    ) -> Result<Object<'a>> {
        self.add(env, || content::file(path("destination", &destination)?, content, options))?;
        Ok(this.object)
    }

    /// A directory, made where its turn comes among the mounts; missing ones above it are made too, with mode 0o755. On a host
    /// directory (not on a tmpfs) it stays. An existing directory is kept, and gets the mode and owner that are given;
    /// anything else there is `ERR_ROOTFS_MOUNT` (`EEXIST`). Links are followed inside the root; mkdir(2).
    #[napi(ts_args_type = "destination: PathLike, options?: DirectoryOptions", ts_return_type = "this")]
    pub fn directory<'a>(
        &mut self,
        env: Env,
        this: This<'a>,
        destination: JsArg,
        options: JsArg,
    ) -> Result<Object<'a>> {
        self.add(env, || content::directory(path("destination", &destination)?, options))?;
        Ok(this.object)
    }

    /// A symbolic link at `path` that says `target`, made where its turn comes among the mounts; missing directories above it
    /// are made too. On a host directory (not on a tmpfs) it stays. The same link is kept; anything else there is
    /// `ERR_ROOTFS_MOUNT` (`EEXIST`). What it says is not looked at; symlink(2).
    #[napi(ts_args_type = "target: PathLike, path: PathLike", ts_return_type = "this")]
    pub fn symlink<'a>(
        &mut self,
        env: Env,
        this: This<'a>,
        target: JsArg,
        path: JsArg,
    ) -> Result<Object<'a>> {
        self.add(env, || content::symlink(&target, &path))?;
        Ok(this.object)
    }

    /// A device node or fifo, anywhere in the root; missing directories above it are made. On a host directory (not on a
    /// tmpfs) it stays. An existing node is kept if it is the same device; anything else there is `ERR_ROOTFS_DEVICE`
    /// (`EEXIST`). For root in a user namespace it is made elsewhere and bound on a mountpoint. Without privileges the
    /// host's node is bound, with the host's own mode and owner. The warning `device-mode` says where the mode is another
    /// than the one that was asked for, and without a user namespace the owner too. With `dev()`, `/dev/ptmx` is always the
    /// link to the container's own terminals. `/dev/console` is `ERR_ROOTFS_UNSUPPORTED`: it is the container's terminal,
    /// and there is none. mknod(2); runtime-spec config-linux.md, Devices.
    #[napi(ts_args_type = "node: DeviceNode", ts_return_type = "this")]
    pub fn device<'a>(&mut self, env: Env, this: This<'a>, node: JsArg) -> Result<Object<'a>> {
        self.change(env, |spec| {
            spec.devices.push(content::device(&node)?);
            Ok(())
        })?;
        Ok(this.object)
    }

    /// Hides paths: files read as empty, directories are empty and read-only. `missing` says what is done about a path that
    /// isn't there.
    #[napi(
        ts_args_type = "paths: PathLike | readonly PathLike[], options?: MaskOptions",
        ts_return_type = "this"
    )]
    pub fn mask<'a>(&mut self, env: Env, this: This<'a>, paths: JsArg, options: JsArg) -> Result<Object<'a>> {
        self.change(env, |spec| {
            let missing = options::missing(options)?;
            spec.masks.extend(options::paths(&paths)?.into_iter().map(|path| Mask { path, missing }));
            Ok(())
        })?;
        Ok(this.object)
    }

    /// Makes paths read-only, with all mounts below them. A missing one is skipped.
    #[napi(ts_args_type = "paths: PathLike | readonly PathLike[]", ts_return_type = "this")]
    pub fn readonly_paths<'a>(&mut self, env: Env, this: This<'a>, paths: JsArg) -> Result<Object<'a>> {
        self.change(env, |spec| {
            spec.readonly_paths.extend(options::paths(&paths)?);
            Ok(())
        })?;
        Ok(this.object)
    }

    /// Makes the root read-only; `recursive` also covers what the root directory brought along.
    #[napi(ts_args_type = "options?: ReadonlyRootOptions", ts_return_type = "this")]
    pub fn readonly<'a>(&mut self, env: Env, this: This<'a>, options: JsArg) -> Result<Object<'a>> {
        self.change(env, |spec| {
            let mut options = Options::of_call(options)?;
            let recursive = options.flag("recursive", false)?;
            options.finish()?;
            spec.readonly = Some(ReadonlyRoot { recursive });
            Ok(())
        })?;
        Ok(this.object)
    }

    /// How mount events pass between the container's mounts and the host's; `mount_namespaces(7)`.
    /// @param mode @default 'rslave'
    #[napi(ts_args_type = "mode: Propagation", ts_return_type = "this")]
    pub fn propagation<'a>(&mut self, env: Env, this: This<'a>, mode: JsArg) -> Result<Object<'a>> {
        self.change(env, |spec| {
            spec.propagation = Some(options::propagation("mode", &mode)?);
            Ok(())
        })?;
        Ok(this.object)
    }

    /// Which namespaces the container has to itself. Those that are not named stay as they are.
    #[napi(ts_args_type = "options: NamespaceOptions", ts_return_type = "this")]
    pub fn namespaces<'a>(&mut self, env: Env, this: This<'a>, options: JsArg) -> Result<Object<'a>> {
        self.change(env, |spec| options::namespaces(&mut spec.namespaces, &options))?;
        Ok(this.object)
    }

    /// The host name inside; needs a uts namespace of the container's own. At most 64 bytes; sethostname(2).
    #[napi(ts_args_type = "name: string", ts_return_type = "this")]
    pub fn hostname<'a>(&mut self, env: Env, this: This<'a>, name: JsArg) -> Result<Object<'a>> {
        self.change(env, |spec| {
            let hostname = text("name", &name)?;
            if hostname.is_empty() || hostname.len() > 64 {
                return Err(unexpected(ArgumentKind::Value, "string of 1 to 64 bytes", "name", &name));
            }
            spec.hostname = Some(hostname);
            Ok(())
        })?;
        Ok(this.object)
    }

    /// The SELinux context of the files of new filesystems: tmpfs, devpts, overlays, what masks directories, message queues.
    /// Files of binds, proc, sysfs and cgroup keep their own. Without SELinux on the host it has no effect. 1 to 255 bytes;
    /// `mount(8)`, `context`.
    #[napi(ts_args_type = "label: string", ts_return_type = "this")]
    pub fn mount_label<'a>(&mut self, env: Env, this: This<'a>, label: JsArg) -> Result<Object<'a>> {
        self.change(env, |spec| {
            spec.mount_label = Some(options::mount_label(&label)?);
            Ok(())
        })?;
        Ok(this.object)
    }

    /// The NIS domain name inside; needs a uts namespace of the container's own. At most 64 bytes; setdomainname(2).
    #[napi(ts_args_type = "name: string", ts_return_type = "this")]
    pub fn domainname<'a>(&mut self, env: Env, this: This<'a>, name: JsArg) -> Result<Object<'a>> {
        self.change(env, |spec| {
            let domainname = text("name", &name)?;
            if domainname.is_empty() || domainname.len() > 64 {
                return Err(unexpected(ArgumentKind::Value, "string of 1 to 64 bytes", "name", &name));
            }
            spec.domainname = Some(domainname);
            Ok(())
        })?;
        Ok(this.object)
    }

    /// A kernel parameter, set in the container's namespaces when the root has been entered. Its name is written with dots
    /// (`net.ipv4.ip_forward`) or slashes, as sysctl(8) has it; the last value of a name wins. Only what belongs to a
    /// namespace that the container has to itself can be set: `net.*` (network), `kernel.msg*`, `kernel.sem`,
    /// `kernel.shm*` and `fs.mqueue.*` (ipc), `kernel.domainname` (uts). Without a network namespace, which may be asked for
    /// after this call, `net.*` is `ERR_ROOTFS_SPEC` when the builder is used. What the kernel refuses names the parameter:
    /// `ERR_ROOTFS_UNSUPPORTED` where there is none of that name, `ERR_ROOTFS_SPEC` for a value, else `ERR_ROOTFS_DENIED`.
    /// `proc_sys(5)`; runtime-spec config-linux.md, Sysctl.
    #[napi(ts_args_type = "name: string, value: string", ts_return_type = "this")]
    pub fn sysctl<'a>(&mut self, env: Env, this: This<'a>, name: JsArg, value: JsArg) -> Result<Object<'a>> {
        self.change(env, |spec| {
            spec.sysctl.push(content::sysctl(&name, &value)?);
            Ok(())
        })?;
        Ok(this.object)
    }

    /// An OCI hook: a program that runs at a point of the container's life. `prestart`, `createRuntime`, `poststart` and
    /// `poststop` run in the caller's namespaces, `createContainer` and `startContainer` in the container's. When one fails,
    /// everything is undone and the error is `ERR_ROOTFS_HOOK`; `poststop` runs when everything is taken down, and its
    /// failure is a process warning.
    ///
    /// A `startContainer` program is one of the image, and is what the command is: its user and groups, its capabilities,
    /// `noNewPrivileges`, resource limits, seccomp filter and label; its working directory is `/`. With `prepare`, which has
    /// no command yet, it is what a command is when nothing is said: the process of the OCI config, or without one root of the
    /// container with `CAP_AUDIT_WRITE`, `CAP_KILL` and `CAP_NET_BIND_SERVICE`, and `noNewPrivileges`. Programs at the other
    /// points are the caller's, with all rights that the caller has (`createContainer`: over the container). runtime-spec
    /// config.md, POSIX-platform Hooks.
    #[napi(ts_args_type = "when: HookPoint, hook: OciHook", ts_return_type = "this")]
    pub fn hook<'a>(&mut self, env: Env, this: This<'a>, when: JsArg, hook: JsArg) -> Result<Object<'a>> {
        self.change(env, |spec| {
            spec.hooks.push(options::hook(&when, &hook)?);
            Ok(())
        })?;
        Ok(this.object)
    }

    /// The same description, which doesn't change when this one does.
    #[napi(skip_typescript)]
    pub fn snapshot(&self) -> Self {
        Self {
            spec: Rc::clone(&self.spec),
            described: self.described,
            sources: self.sources.clone(),
            configured: self.configured.clone(),
            plan: self.plan.clone(),
        }
    }

    /// A function of the TypeScript layer, by its number and name. Its place among the hooks of that point.
    #[napi(skip_typescript)]
    pub fn function_hook(&mut self, env: Env, when: JsArg, number: u32, name: String) -> Result<u32> {
        let mut place = 0;
        self.change(env, |spec| {
            let hook = options::function_hook(&when, number, name)?;
            place = spec.hooks.iter().filter(|other| other.point == hook.point).count();
            spec.hooks.push(hook);
            Ok(())
        })?;
        Ok(u32::try_from(place).unwrap_or(u32::MAX))
    }

    /// What functions are told of the container.
    #[napi(skip_typescript)]
    pub fn hook_facts(&self) -> HookFacts {
        let root = match &self.spec.root {
            Root::Directory(path) => Some(lossy(path)),
            Root::Empty { .. } | Root::Overlay { .. } => None,
        };
        let annotations = self.spec.annotations.iter();
        HookFacts {
            root,
            annotations: annotations.map(|(name, value)| vec![name.clone(), value.clone()]).collect(),
        }
    }

    /// What `util.inspect` shows: the kind of root with its directories, and how much is put into it.
    #[napi(skip_typescript)]
    pub fn facts(&self) -> BuilderFacts {
        let root = match &self.spec.root {
            Root::Directory(path) => lossy(path),
            Root::Overlay { overlay, .. } => {
                let lower: Vec<_> = overlay.lower.iter().map(lossy).collect();
                format!("overlay of {}", lower.join(":"))
            }
            Root::Empty { .. } => "empty".to_owned(),
        };
        BuilderFacts { root, content: u32::try_from(self.spec.content.len()).unwrap_or(u32::MAX) }
    }

    /// The steps that `prepare` would take, and its text; made into a `Plan` by the TypeScript layer.
    #[napi(skip_typescript)]
    pub fn make_plan(&self, env: Env) -> Result<PlanData> {
        let EncodedPlan { plan, .. } = self.encoded_plan().map_err(|failure| failure.throw(env))?;
        let text = plan.to_string();
        Ok(PlanData {
            steps: plan.steps.iter().map(step).collect(),
            warnings: plan.warnings.iter().map(warning).collect(),
            text,
        })
    }
}

internal_object! {
    /// What is shown of a builder.
    BuilderFacts {
        /// The root, in words.
        root as "root": String,
        /// How many mounts, directories and links.
        content as "content": u32,
        ..
    }
}

internal_object! {
    /// What functions are told of the container.
    HookFacts {
        /// Pairs of a name and a value.
        annotations as "annotations": Vec<Vec<String>>,
        ..
        /// The root directory, if the host has one.
        root as "root": String,
    }
}

internal_object! {
    /// A plan and its text.
    PlanData {
        /// The steps.
        steps as "steps": Vec<Step>,
        /// The warnings.
        warnings as "warnings": Vec<Warning>,
        /// A table for people.
        text as "text": String,
        ..
    }
}

fn optional_path(value: &JsArg, default: &str) -> Parsed<PathBytes> {
    match value {
        JsArg::Undefined => Ok(default.into()),
        value => path("destination", value),
    }
}

fn source_fd(number: i32) -> JsArg {
    JsArg::Number(f64::from(number))
}
