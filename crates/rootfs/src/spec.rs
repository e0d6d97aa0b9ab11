//! What is wanted: one specification, made from builder calls or an OCI config, checked without a kernel.

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use crate::content::{Directory, FileContent, Symlink};
use crate::error::{Error, ErrorCode, Result};
use crate::namespace::NamespaceKind;
use crate::options::{self, Attributes, Links, Propagation, option_text};
use crate::origin::{Item, Origins, Part, locate};
use crate::overlay::Overlay;
use crate::path::PathBytes;
use crate::plan::Warning;
use crate::protocol::MAX_PAYLOAD;
use crate::sysctl;

/// The largest id there is: `u32::MAX` means "none" to the kernel.
pub const MAX_ID: u32 = u32::MAX - 1;
/// The largest major number of a device; `makedev(3)` and the kernel's `MINORBITS`.
pub const MAX_MAJOR: u32 = (1 << 12) - 1;
/// The largest minor number of a device.
pub const MAX_MINOR: u32 = (1 << 20) - 1;

/// The longest SELinux context of a mount: more doesn't go through `fsconfig(2)`.
pub const MAX_LABEL: usize = 255;

/// The root filesystem itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Root {
    /// An existing directory of the host.
    Directory(PathBytes),
    /// A new, empty tmpfs.
    Empty {
        /// Its size in bytes; the kernel's default is half of memory.
        size: Option<u64>,
        /// The mode of its root directory.
        mode: u32,
    },
    /// An overlay. Without an upper directory, changes go to a tmpfs of its own.
    Overlay {
        /// What it is made of.
        overlay: Overlay,
        /// The size of the tmpfs in bytes; the kernel's default is half of memory.
        size: Option<u64>,
    },
}

/// Where the content of a bind comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BindSource {
    /// An absolute path of the host.
    Host(PathBytes),
    /// The `n`-th file descriptor handed over with the request, and the path it had when it was taken.
    Fd {
        /// Index among the request's source descriptors.
        index: u32,
        /// For messages, and to find it again where a descriptor can't be used.
        path: PathBytes,
    },
    /// A path in the tree that is being built.
    InRoot(PathBytes),
}

/// What kind of mount it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A part of an existing tree, made visible in another place.
    Bind {
        /// Where it comes from.
        source: BindSource,
        /// Whether mounts below the source come along.
        recursive: bool,
        /// Whether a missing source is skipped.
        optional: bool,
        /// A directory of the host that no symbolic link in the source may lead out of.
        within: Option<PathBytes>,
    },
    /// A new filesystem, by its name.
    Filesystem {
        /// Its type, such as `tmpfs`.
        fstype: String,
        /// What mountinfo shows as its source; the type when nothing is given.
        source: Option<PathBytes>,
        /// `fsconfig` flags of the superblock.
        superblock: Vec<String>,
        /// Its own options.
        data: Vec<(String, Option<String>)>,
        /// Whether it begins with a copy of what the root has at its place; of a tmpfs only.
        copy_up: bool,
        /// Whether a proc that a user namespace may not mount is the caller's, bound.
        bind_fallback: bool,
    },
    /// A file with a content of its own, on a filesystem that holds nothing else.
    File {
        /// What is in it.
        content: FileContent,
        /// Permission bits, exact whatever the umask.
        mode: u32,
        /// Owner, as the container sees it.
        uid: u32,
        /// Group, as the container sees it.
        gid: u32,
    },
    /// An overlay; without an upper directory it is only read.
    Overlay(Overlay),
    /// The cgroup filesystems the host has: version 2, or version 1 with a directory for each hierarchy.
    Cgroup {
        /// What the mount table shows as its source, if that isn't `cgroup`.
        source: Option<PathBytes>,
        /// `fsconfig` flags of the superblock, for version 2.
        superblock: Vec<String>,
        /// Options of the filesystem, for version 2.
        data: Vec<(String, Option<String>)>,
    },
    /// What is mounted there already gets other flags.
    Remount {
        /// Only the mount itself changes, and not its filesystem.
        bind: bool,
        /// `fsconfig` flags of the superblock.
        superblock: Vec<String>,
        /// Options of the filesystem.
        data: Vec<(String, Option<String>)>,
    },
}

/// Whose files those of a bind seem to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountIds {
    /// What the container's user namespace maps.
    UserNamespace,
    /// A file of `container_id` in the source looks, through the mount, as if it belonged to the host's `host_id`.
    Map(IdMap),
}

/// How a bind is idmapped; `mount_setattr(2)`, `MOUNT_ATTR_IDMAP`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountIdMap {
    /// The mapping.
    pub ids: MountIds,
    /// Whether mounts below the source are mapped too.
    pub recursive: bool,
}

impl MountIdMap {
    /// The option word for it.
    pub const fn word(&self) -> &'static str {
        if self.recursive { "ridmap" } else { "idmap" }
    }
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where, in the root.
    pub destination: PathBytes,
    /// What.
    pub kind: MountKind,
    /// With which flags.
    pub attributes: Attributes,
    /// Applied one after the other.
    pub propagation: Vec<Propagation>,
    /// Of a bind: whose files those of the source seem to be.
    pub id_map: Option<MountIdMap>,
    /// Option words that have no effect on a bind; they become plan warnings.
    pub ineffective: Vec<String>,
    /// What is done about symbolic links that its source or destination ends in.
    pub links: Links,
}

/// Something that is put into the tree.
#[allow(clippy::large_enum_variant, reason = "nearly all of them are mounts")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "nearly all are mounts")]
pub enum Content {
    /// A mount.
    Mount(Mount),
    /// A directory.
    Directory(Directory),
    /// A symbolic link.
    Symlink(Symlink),
}

impl Content {
    /// Where, in the root.
    pub fn destination(&self) -> &PathBytes {
        match self {
            Self::Mount(mount) => &mount.destination,
            Self::Directory(directory) => &directory.path,
            Self::Symlink(symlink) => &symlink.path,
        }
    }

    /// Checks it as a part of a specification.
    pub(crate) fn validate(&self, spec: &RootfsSpec) -> Result<()> {
        match self {
            Self::Mount(mount) => spec.validate_mount(mount),
            Self::Directory(directory) => {
                check_path("destination", &directory.path)?;
                for id in [directory.uid, directory.gid].into_iter().flatten() {
                    check_id("directory", id)?;
                }
                check_mode("directory", directory.mode.unwrap_or(0))
            }
            Self::Symlink(Symlink { target, path }) => {
                check_path("target", target)?;
                check_path("path", path)?;
                check_name("path", path)
            }
        }
    }
}

impl From<Mount> for Content {
    fn from(mount: Mount) -> Self {
        Self::Mount(mount)
    }
}

impl From<Directory> for Content {
    fn from(directory: Directory) -> Self {
        Self::Directory(directory)
    }
}

impl From<Symlink> for Content {
    fn from(symlink: Symlink) -> Self {
        Self::Symlink(symlink)
    }
}

/// The type of a device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceType {
    /// A character device.
    Character,
    /// A block device.
    Block,
    /// A named pipe.
    Fifo,
}

/// A device node to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Where, in the root.
    pub path: PathBytes,
    /// What.
    pub kind: DeviceType,
    /// Major and minor number; zero for a fifo.
    pub major: u32,
    /// See `major`.
    pub minor: u32,
    /// Permission bits, exact whatever the umask.
    pub mode: u32,
    /// Owner, as the container sees it.
    pub uid: u32,
    /// Group, as the container sees it.
    pub gid: u32,
}

/// What a mask does about a path that isn't there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MissingMask {
    /// Nothing.
    Skip,
    /// It is an error.
    Error,
    /// It can't be created inside: its parent must be a mount that was made for the container, or be read-only.
    DenyCreate,
    /// The directory that it would be created in becomes read-only.
    ReadonlyParent,
    /// An empty file is made, where it may be on the host, and hidden; it is removed again like a mountpoint.
    Stub,
}

impl MissingMask {
    /// With the words that name them.
    pub const ALL: [(&'static str, Self); 5] = [
        ("skip", Self::Skip),
        ("error", Self::Error),
        ("deny-create", Self::DenyCreate),
        ("readonly-parent", Self::ReadonlyParent),
        ("stub", Self::Stub),
    ];

    /// The word for it.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, one)| *one == self).map_or("", |(name, _)| name)
    }
}

/// A path that is hidden.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mask {
    /// Which, in the root.
    pub path: PathBytes,
    /// What happens when it is missing.
    pub missing: MissingMask,
}

/// How the root is made read-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadonlyRoot {
    /// Whether that covers what the root directory brought along.
    pub recursive: bool,
}

/// A line of `uid_map` or `gid_map`; `user_namespaces(7)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMapping {
    /// First id inside.
    pub container_id: u32,
    /// First id outside.
    pub host_id: u32,
    /// How many.
    pub size: u32,
}

/// The mappings of a user namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// Of users.
    pub uids: Vec<IdMapping>,
    /// Of groups.
    pub gids: Vec<IdMapping>,
}

impl IdMap {
    /// Whether each map is one line of one id, which the owner of the namespace may write himself.
    pub fn is_single(&self) -> bool {
        matches!((&self.uids[..], &self.gids[..]), ([u], [g]) if u.size == 1 && g.size == 1)
    }

    /// Of a namespace in which only root is mapped: to nobody that matters here.
    fn single() -> Self {
        let line = IdMapping { container_id: 0, host_id: 0, size: 1 };
        Self { uids: vec![line], gids: vec![line] }
    }

    /// The host's id of an id inside, in one of the two lists.
    pub fn to_host(list: &[IdMapping], inside: u32) -> Option<u32> {
        list.iter().find_map(|line| {
            let offset = inside.checked_sub(line.container_id)?;
            if offset < line.size { line.host_id.checked_add(offset) } else { None }
        })
    }

    /// The id inside of one of the host's.
    pub fn from_host(list: &[IdMapping], outside: u32) -> Option<u32> {
        list.iter().find_map(|line| {
            let offset = outside.checked_sub(line.host_id)?;
            if offset < line.size { line.container_id.checked_add(offset) } else { None }
        })
    }
}

/// The user namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserNamespace {
    /// A new one unless the caller is privileged.
    #[default]
    UnlessPrivileged,
    /// The caller's own.
    None,
    /// A new one in which the container's root is the calling user.
    Caller,
    /// A new one with these mappings.
    Mapped(IdMap),
    /// An existing one, with the mappings it has.
    Path(PathBytes),
}

/// One of the other namespaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Namespace {
    /// The caller's own.
    Inherit,
    /// A new one.
    New,
    /// An existing one.
    Path(PathBytes),
}

/// Which namespaces the container gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// Ids.
    pub user: UserNamespace,
    /// Mounts. In one that isn't new nothing is changed: the tree is detached, and entered by `chroot`.
    pub mount: Namespace,
    /// Processes.
    pub pid: Namespace,
    /// System V IPC and POSIX message queues.
    pub ipc: Namespace,
    /// Host and domain name.
    pub uts: Namespace,
    /// The view of the cgroup tree.
    pub cgroup: Namespace,
    /// Network.
    pub network: Namespace,
}

impl Default for Namespaces {
    fn default() -> Self {
        Self {
            user: UserNamespace::UnlessPrivileged,
            mount: Namespace::New,
            pid: Namespace::New,
            ipc: Namespace::New,
            uts: Namespace::New,
            cgroup: Namespace::New,
            network: Namespace::Inherit,
        }
    }
}

/// When a hook runs, and thereby where; OCI runtime-spec, config.md, POSIX-platform Hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HookPoint {
    /// In the runtime's namespaces, before `createRuntime`.
    Prestart,
    /// In the runtime's namespaces, when the mounts are there and before the root is entered.
    CreateRuntime,
    /// In the container's namespaces, before the root is entered.
    CreateContainer,
    /// In the container's namespaces, after the root is entered and before the command is executed.
    StartContainer,
    /// In the runtime's namespaces, after the command is executed.
    Poststart,
    /// In the runtime's namespaces, after everything is taken down.
    Poststop,
}

impl HookPoint {
    /// In the order they run.
    pub const ALL: [Self; 6] = [
        Self::Prestart,
        Self::CreateRuntime,
        Self::CreateContainer,
        Self::StartContainer,
        Self::Poststart,
        Self::Poststop,
    ];

    /// The OCI name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }

    /// Whether it needs the tree attached at the root's path while the host's tree is still there.
    pub const fn needs_attached_tree(self) -> bool {
        matches!(self, Self::Prestart | Self::CreateRuntime | Self::CreateContainer)
    }

    /// Whether it runs in the namespaces of the caller.
    pub const fn in_runtime_namespaces(self) -> bool {
        !matches!(self, Self::CreateContainer | Self::StartContainer)
    }

    /// Whether it comes after the command was executed: then the first process has nothing to do with it.
    pub const fn is_after_start(self) -> bool {
        matches!(self, Self::Poststart | Self::Poststop)
    }

    /// Whether a function of the caller can run there: it runs where the caller is.
    pub const fn takes_functions(self) -> bool {
        self.in_runtime_namespaces()
    }

    /// The container's status as the hook is told it; OCI runtime-spec, runtime.md, State.
    pub const fn status(self) -> &'static str {
        match self {
            Self::Prestart | Self::CreateRuntime | Self::CreateContainer => "creating",
            Self::StartContainer => "created",
            Self::Poststart => "running",
            Self::Poststop => "stopped",
        }
    }
}

/// A program, or a function of the caller, that runs at a point of a container's life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// When.
    pub point: HookPoint,
    /// The program, absolute; or the name of the function.
    pub path: PathBytes,
    /// Its arguments, the first being its name; the path when empty.
    pub args: Vec<Vec<u8>>,
    /// Its whole environment.
    pub env: Vec<Vec<u8>>,
    /// After how many seconds it is killed, which is a failure.
    pub timeout: Option<u32>,
    /// The number by which the caller knows his function; `None` for a program.
    pub function: Option<u32>,
}

/// What an OCI config says and nothing comes of: a config that is written says it again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unenforced {
    /// `linux.resources`.
    pub resources: Option<Value>,
    /// Entries of `linux.devices` that make no node, each with its place in that list.
    pub devices: Vec<(usize, Value)>,
    /// `process.consoleSize`.
    pub console_size: Option<Value>,
    /// The sets of `process.capabilities`, with the names that are unknown or of no use there.
    pub capabilities: Vec<(String, Vec<String>)>,
}

/// Everything about a root filesystem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootfsSpec {
    /// The root itself.
    pub root: Root,
    /// Whether and how it is read-only.
    pub readonly: Option<ReadonlyRoot>,
    /// How events pass between the container's mounts and the host's. `rslave` when nothing is given.
    pub propagation: Option<Propagation>,
    /// What is put into the tree, in this order.
    pub content: Vec<Content>,
    /// Whether the usual device nodes and links of /dev are made.
    pub dev: bool,
    /// More device nodes.
    pub devices: Vec<Device>,
    /// Hidden paths.
    pub masks: Vec<Mask>,
    /// Paths that can't be written.
    pub readonly_paths: Vec<PathBytes>,
    /// Namespaces.
    pub namespaces: Namespaces,
    /// The host name inside.
    pub hostname: Option<String>,
    /// The NIS domain name inside.
    pub domainname: Option<String>,
    /// Kernel parameters inside, by their names, and what they are set to.
    pub sysctl: Vec<(String, String)>,
    /// The SELinux context of the files of new filesystems.
    pub mount_label: Option<String>,
    /// Programs to run on the way.
    pub hooks: Vec<Hook>,
    /// What hooks are told about the container: name and value.
    pub annotations: Vec<(String, String)>,
    /// The directory of the OCI bundle it comes from, for hooks.
    pub bundle: Option<PathBytes>,
    /// What was found when the specification was read, and the caller should know.
    pub warnings: Vec<Warning>,
    /// What else the OCI config says that it comes from.
    pub unenforced: Unenforced,
    /// Where its items were said.
    pub origins: Origins,
}

/// A state of a [`RootfsSpec`] to which it can go back.
#[derive(Debug)]
pub struct Checkpoint {
    /// How long the lists were.
    lengths: [usize; 5],
    /// Everything but the lists, which are empty here.
    rest: RootfsSpec,
}

impl RootfsSpec {
    /// A specification of nothing but a root.
    pub fn new(root: Root) -> Self {
        Self {
            root,
            readonly: None,
            propagation: None,
            content: Vec::new(),
            dev: false,
            devices: Vec::new(),
            masks: Vec::new(),
            readonly_paths: Vec::new(),
            namespaces: Namespaces::default(),
            hostname: None,
            domainname: None,
            sysctl: Vec::new(),
            mount_label: None,
            hooks: Vec::new(),
            annotations: Vec::new(),
            bundle: None,
            warnings: Vec::new(),
            unenforced: Unenforced::default(),
            origins: Origins::new(),
        }
    }

    /// Puts a mount, or something else, into the tree: after what is there already.
    pub fn add(&mut self, content: impl Into<Content>) {
        self.content.push(content.into());
    }

    /// The same for several.
    pub fn extend<T: Into<Content>>(&mut self, content: impl IntoIterator<Item = T>) {
        self.content.extend(content.into_iter().map(Into::into));
    }

    fn lengths(&self) -> [usize; 5] {
        [
            self.content.len(),
            self.devices.len(),
            self.masks.len(),
            self.readonly_paths.len(),
            self.hooks.len(),
        ]
    }

    /// Adds something if it is valid beside what was checked before; else nothing is changed.
    pub fn add_valid(&mut self, content: impl Into<Content>) -> Result<()> {
        let lengths = self.lengths();
        self.add(content);
        let valid = self.validate_after(lengths);
        if valid.is_err() {
            self.content.pop();
        }
        valid
    }

    /// What is needed to take back a change that only adds to the lists.
    pub fn checkpoint(&mut self) -> Checkpoint {
        let lengths = self.lengths();
        // The lists may be long, and every builder call makes a checkpoint: they are not copied.
        let mut lists = Self::new(self.root.clone());
        self.exchange_lists(&mut lists);
        let rest = self.clone();
        self.exchange_lists(&mut lists);
        Checkpoint { lengths, rest }
    }

    /// Takes back what has changed since.
    pub fn restore(&mut self, checkpoint: Checkpoint) {
        let Checkpoint { lengths: [content, devices, masks, readonly_paths, hooks], mut rest } = checkpoint;
        self.content.truncate(content);
        self.devices.truncate(devices);
        self.masks.truncate(masks);
        self.readonly_paths.truncate(readonly_paths);
        self.hooks.truncate(hooks);
        self.exchange_lists(&mut rest);
        *self = rest;
        self.origins.retain(|item, _| match item {
            Item::Content(place) => *place < content,
            Item::Device(place) => *place < devices,
            Item::Mask(place) => *place < masks,
            Item::Namespaces => true,
        });
    }

    fn exchange_lists(&mut self, other: &mut Self) {
        use std::mem::swap;
        swap(&mut self.content, &mut other.content);
        swap(&mut self.devices, &mut other.devices);
        swap(&mut self.masks, &mut other.masks);
        swap(&mut self.readonly_paths, &mut other.readonly_paths);
        swap(&mut self.hooks, &mut other.hooks);
        swap(&mut self.origins, &mut other.origins);
    }

    /// Checks everything that can be checked without a kernel, except what the types rule out already.
    pub fn validate(&self) -> Result<()> {
        self.validate_from([0; 5])?;
        self.validate_sysctl(true)
    }

    /// The same where everything was checked before but what was added since: a long list isn't walked for each addition.
    pub fn validate_since(&self, checkpoint: &Checkpoint) -> Result<()> {
        self.validate_after(checkpoint.lengths)
    }

    fn validate_after(&self, lengths: [usize; 5]) -> Result<()> {
        self.validate_from(lengths)?;
        self.validate_sysctl(false)
    }

    fn validate_from(&self, [content, devices, masks, readonly_paths, hooks]: [usize; 5]) -> Result<()> {
        if let Root::Directory(path) = &self.root {
            check_path("root", path)?;
            if !path.is_absolute() {
                return Err(spec_error(format!("root: {path} is not an absolute path")));
            }
        }
        if let Root::Overlay { overlay, size } = &self.root {
            overlay.validate(true)?;
            if size.is_some() && overlay.upper.is_some() {
                return Err(spec_error("size: only the tmpfs of an overlay without upper has a size"));
            }
        }
        for (index, item) in self.content.iter().enumerate().skip(content) {
            item.validate(self).map_err(|mut error| {
                error.destination = Some(item.destination().clone());
                if self.origins.contains_key(&Item::Content(index)) {
                    return error.located(|part| locate(&self.origins, Item::Content(index), part));
                }
                error.part = None;
                error.message = format!("mounts[{index}]: {}", error.message);
                error
            })?;
        }
        for (index, device) in self.devices.iter().enumerate().skip(devices) {
            let what = format!("devices[{index}]");
            device.validate(&what)?;
        }
        for (index, mask) in self.masks.iter().enumerate().skip(masks) {
            check_below_root(&format!("masks[{index}]"), &mask.path)?;
        }
        for (index, path) in self.readonly_paths.iter().enumerate().skip(readonly_paths) {
            check_below_root(&format!("readonlyPaths[{index}]"), path)?;
        }
        self.namespaces.validate()?;
        self.validate_mount_namespace()?;
        for (what, name) in [("hostname", &self.hostname), ("domainname", &self.domainname)] {
            let Some(name) = name else { continue };
            if name.len() > 64 || name.contains('\0') {
                return Err(spec_error(format!("{what}: at most 64 bytes and no NUL byte are possible")));
            }
            if self.namespaces.uts == Namespace::Inherit {
                return Err(spec_error(format!(
                    "{what}: needs a uts namespace of its own, or the host's would be changed"
                )));
            }
        }
        if let Some(label) = &self.mount_label
            && (label.is_empty() || label.len() > MAX_LABEL || label.contains('\0'))
        {
            return Err(spec_error(format!(
                "mountLabel: 1 to {MAX_LABEL} bytes and no NUL byte are possible"
            )));
        }
        for (index, hook) in self.hooks.iter().enumerate().skip(hooks) {
            let what = format!("hooks.{}[{index}]", hook.point.name());
            if hook.function.is_some() {
                if !hook.point.takes_functions() {
                    return Err(spec_error(format!("{what}: only a program can run there")));
                }
                continue;
            }
            check_path(&what, &hook.path)?;
            if !hook.path.is_absolute() {
                return Err(spec_error(format!("{what}: {} is not an absolute path", hook.path)));
            }
            if hook.timeout == Some(0) {
                return Err(spec_error(format!("{what}: timeout must be greater than zero seconds")));
            }
        }
        Ok(())
    }

    /// What can't be had where the mount namespace is not the container's own.
    fn validate_mount_namespace(&self) -> Result<()> {
        if self.namespaces.mount == Namespace::New {
            return Ok(());
        }
        let what = if !self.masks.is_empty() {
            "masks"
        } else if !self.readonly_paths.is_empty() {
            "readonlyPaths"
        } else if self.readonly.is_some_and(|readonly| readonly.recursive) {
            "readonly, recursive"
        } else if let Some(hook) = self.hooks.iter().find(|hook| hook.point.needs_attached_tree()) {
            return Err(spec_error(format!(
                "hooks.{}: needs a mount namespace of the container's own",
                hook.point.name()
            )));
        } else {
            return Ok(());
        };
        Err(spec_error(format!("{what}: needs a mount namespace of the container's own")))
    }

    /// Without a network namespace nothing is said about parameters of the network while the specification is not `whole`:
    /// by default there is none, and it may still be asked for.
    fn validate_sysctl(&self, whole: bool) -> Result<()> {
        for (name, value) in &self.sysctl {
            let fail = |what: &str| spec_error(format!("sysctl {name}: {what}"));
            let path = sysctl::path_of(name).map_err(fail)?;
            if whole || !path.starts_with("net/") {
                sysctl::check(&path, &self.namespaces).map_err(|what| fail(&what))?;
            }
            if value.contains('\0') {
                return Err(fail("the value contains a NUL byte"));
            }
        }
        Ok(())
    }

    fn validate_mount(&self, mount: &Mount) -> Result<()> {
        check_path("destination", &mount.destination)
            .map_err(|error| error.about(Part::Field("destination")))?;
        mount.validate_links()?;
        if let Some(id_map) = &mount.id_map {
            self.validate_id_map(id_map, &mount.kind).map_err(|error| {
                error.about(match id_map.ids {
                    MountIds::Map(_) => Part::Field("uidMappings"),
                    MountIds::UserNamespace => Part::Option(id_map.word().to_owned()),
                })
            })?;
        }
        let of_source = |error: Box<Error>| error.about(Part::Field("source"));
        match &mount.kind {
            MountKind::Bind { source, within, .. } => {
                let path = match source {
                    BindSource::Host(path) | BindSource::Fd { path, .. } | BindSource::InRoot(path) => path,
                };
                check_path("source", path).map_err(of_source)?;
                if matches!(source, BindSource::Host(_)) && !path.is_absolute() {
                    return Err(of_source(spec_error(format!("source: {path} is not an absolute path"))));
                }
                if let Some(within) = within {
                    check_path("within", within)?;
                    if !matches!(source, BindSource::Host(_)) {
                        return Err(spec_error(
                            "within: only a source that is a path of the host can be inside it",
                        ));
                    }
                }
            }
            MountKind::Filesystem { fstype, source, copy_up, .. } => {
                if *copy_up && fstype != "tmpfs" {
                    return Err(spec_error(format!(
                        "the option \"tmpcopyup\" is for a tmpfs, and this is a {fstype}"
                    ))
                    .about(Part::Option("tmpcopyup".to_owned())));
                }
                if fstype.is_empty() || fstype.contains('\0') {
                    return Err(spec_error("type: a filesystem's name is needed").about(Part::Field("type")));
                }
                if let Some(source) = source {
                    check_path("source", source).map_err(of_source)?;
                }
            }
            MountKind::File { content, mode, uid, gid } => {
                if content.len() > MAX_PAYLOAD {
                    return Err(spec_error(format!(
                        "content: {} bytes are more than the {MAX_PAYLOAD} that can be handed over",
                        content.len()
                    )));
                }
                check_id("file", *uid)?;
                check_id("file", *gid)?;
                check_mode("file", *mode)?;
            }
            MountKind::Overlay(overlay) => overlay.validate(false).map_err(|error| {
                // What the builder's method calls it is in front.
                let name = error.message.split(':').next().unwrap_or_default();
                let word = if name == "volatile" { name.to_owned() } else { format!("{name}dir") };
                error.about(Part::Option(word))
            })?,
            MountKind::Cgroup { .. } | MountKind::Remount { .. } => {}
        }
        match &self.namespaces.user {
            UserNamespace::Mapped(map) => mount.validate_ids(map),
            UserNamespace::Caller => mount.validate_ids(&IdMap::single()),
            // It depends on the caller, or is known when the namespace is joined.
            UserNamespace::UnlessPrivileged | UserNamespace::Path(_) | UserNamespace::None => Ok(()),
        }
    }

    fn validate_id_map(&self, id_map: &MountIdMap, kind: &MountKind) -> Result<()> {
        let MountKind::Bind { source, .. } = kind else {
            return Err(spec_error("idMap: only a bind can be idmapped"));
        };
        match &id_map.ids {
            MountIds::Map(map) => {
                validate_mappings("idMap.uids", &map.uids)?;
                validate_mappings("idMap.gids", &map.gids)
            }
            MountIds::UserNamespace if matches!(source, BindSource::InRoot(_)) => Err(spec_error(
                "idMap: what is in the root has the container's own ids already; a mapping must be given",
            )),
            MountIds::UserNamespace if self.namespaces.user == UserNamespace::None => Err(spec_error(
                "idMap: without mappings of its own a mount takes those of the container's user namespace, and there \
                 is none",
            )),
            MountIds::UserNamespace => Ok(()),
        }
    }
}

/// Filesystems whose destinations may not be, or pass through, a symbolic link anyway.
const ON_ORDINARY_DIRECTORIES: [&str; 3] = ["proc", "sysfs", "devpts"];

impl Mount {
    /// Options of a filesystem that are ids. The kernel takes them for ids of the user namespace in which it is made, which is
    /// the container's at every level, and refuses one without a mapping there with nothing but EINVAL, or takes
    /// it for nobody's (proc).
    pub(crate) fn validate_ids(&self, map: &IdMap) -> Result<()> {
        let (MountKind::Filesystem { data, .. } | MountKind::Remount { data, .. }) = &self.kind else {
            return Ok(());
        };
        let is_devpts = matches!(&self.kind, MountKind::Filesystem { fstype, .. } if fstype == "devpts");
        for (key, value) in data {
            let (list, whose) = match &**key {
                "uid" => (&map.uids, "users"),
                // It is left out, with a warning: the usual group of terminals is rarely mapped.
                "gid" if !is_devpts => (&map.gids, "groups"),
                _ => continue,
            };
            let Some(id) = value.as_deref().and_then(parse_id) else { continue };
            if IdMap::to_host(list, id).is_none() {
                let mapped: Vec<String> = list
                    .iter()
                    .map(|line| match line.size {
                        1 => line.container_id.to_string(),
                        size => format!("{} to {}", line.container_id, line.container_id + (size - 1)),
                    })
                    .collect();
                let word = format!("{key}={}", value.as_deref().unwrap_or_default());
                return Err(spec_error(format!(
                    "the option \"{word}\": {id} is none of the {whose} that the container's user namespace maps: {}",
                    mapped.join(", ")
                ))
                .about(Part::Option(word)));
            }
        }
        Ok(())
    }

    /// Options that are given to a filesystem though nothing is known of them.
    pub(crate) fn unknown_options(&self) -> impl Iterator<Item = String> {
        let (fstype, data) = match &self.kind {
            MountKind::Filesystem { fstype, data, .. } => (Some(fstype.as_str()), data.as_slice()),
            MountKind::Overlay(overlay) => (Some("overlay"), overlay.data.as_slice()),
            MountKind::Remount { data, .. } => (None, data.as_slice()),
            MountKind::Bind { .. } | MountKind::File { .. } | MountKind::Cgroup { .. } => (None, &[][..]),
        };
        data.iter()
            .filter(move |(key, _)| !options::is_known_option(fstype, key))
            .map(|(key, value)| option_text(key, value.as_deref()))
    }

    /// The words for symbolic links make sense only where there can be any.
    fn validate_links(&self) -> Result<()> {
        let refused = match &self.kind {
            MountKind::Bind { .. } => return Ok(()),
            MountKind::Filesystem { fstype, .. } if ON_ORDINARY_DIRECTORIES.contains(&&**fstype) => {
                self.links
            }
            _ => Links { destination: false, ..self.links },
        };
        match (refused.words().next(), &self.kind) {
            (None, _) => Ok(()),
            (Some(word), MountKind::Filesystem { fstype, .. }) => {
                Err(spec_error(format!("the option \"{word}\" can't be given to a {fstype}"))
                    .about(Part::Option(word.to_owned())))
            }
            (Some(word), _) => Err(spec_error(format!("the option \"{word}\" is for binds"))
                .about(Part::Option(word.to_owned()))),
        }
    }
}

impl Device {
    /// Checks it; `what` is what errors call it.
    pub(crate) fn validate(&self, what: &str) -> Result<()> {
        check_path(what, &self.path)?;
        check_name(what, &self.path)?;
        check_id(what, self.uid)?;
        check_id(what, self.gid)?;
        check_mode(what, self.mode)?;
        // Linux has 12 and 20 bits for them; a larger number would name another device.
        if self.major > MAX_MAJOR || self.minor > MAX_MINOR {
            return Err(spec_error(format!(
                "{what}: {}:{} is no device number: the largest is {MAX_MAJOR}:{MAX_MINOR}",
                self.major, self.minor
            )));
        }
        if self.path.normalized() == PathBytes::from("/dev/console") {
            return Err(Error::new(
                ErrorCode::Unsupported,
                format!("{what}: /dev/console is the container's terminal, which this version doesn't offer"),
            ));
        }
        Ok(())
    }
}

impl Namespaces {
    /// Those that exist already, with their paths.
    pub fn joined(&self) -> impl Iterator<Item = (NamespaceKind, &PathBytes)> {
        let user = match &self.user {
            UserNamespace::Path(path) => Some((NamespaceKind::User, path)),
            _ => None,
        };
        let others = [
            (NamespaceKind::Pid, &self.pid),
            (NamespaceKind::Mount, &self.mount),
            (NamespaceKind::Ipc, &self.ipc),
            (NamespaceKind::Uts, &self.uts),
            (NamespaceKind::Cgroup, &self.cgroup),
            (NamespaceKind::Network, &self.network),
        ];
        user.into_iter().chain(others.into_iter().filter_map(|(kind, namespace)| match namespace {
            Namespace::Path(path) => Some((kind, path)),
            Namespace::Inherit | Namespace::New => None,
        }))
    }

    fn validate(&self) -> Result<()> {
        for (kind, path) in self.joined() {
            let name = kind.name();
            check_path(&format!("namespaces.{name}"), path)?;
            if !path.is_absolute() {
                return Err(spec_error(format!("namespaces.{name}: {path} is not an absolute path")));
            }
        }
        if let UserNamespace::Mapped(map) = &self.user {
            validate_mappings("namespaces.user.uids", &map.uids)?;
            validate_mappings("namespaces.user.gids", &map.gids)?;
        }
        Ok(())
    }
}

/// The kernel takes 340 lines; `user_namespaces(7)`.
const MAX_MAPPINGS: usize = 340;

pub(crate) fn validate_mappings(name: &str, mappings: &[IdMapping]) -> Result<()> {
    if mappings.is_empty() {
        return Err(spec_error(format!("{name}: at least one mapping is needed")));
    }
    if mappings.len() > MAX_MAPPINGS {
        return Err(spec_error(format!("{name}: at most {MAX_MAPPINGS} mappings are possible")));
    }
    for (index, line) in mappings.iter().enumerate() {
        if line.size == 0 {
            return Err(spec_error(format!("{name}[{index}]: size must be greater than zero")));
        }
        for (key, first) in [("containerId", line.container_id), ("hostId", line.host_id)] {
            if u64::from(first) + u64::from(line.size) - 1 > u64::from(MAX_ID) {
                return Err(spec_error(format!(
                    "{name}[{index}]: {key} plus size is beyond the largest id, {MAX_ID}"
                )));
            }
        }
        for (other_index, other) in mappings.iter().enumerate().take(index) {
            let overlap = |a: u32, b: u32| {
                u64::from(a) < u64::from(b) + u64::from(other.size)
                    && u64::from(b) < u64::from(a) + u64::from(line.size)
            };
            if overlap(line.container_id, other.container_id) || overlap(line.host_id, other.host_id) {
                return Err(spec_error(format!("{name}[{index}]: overlaps with {name}[{other_index}]")));
            }
        }
    }
    Ok(())
}

/// Makes a mount from its OCI form: option words keep their OCI meaning exactly. `mappings` are `uidMappings` and
/// `gidMappings`.
pub fn mount_from_oci(
    destination: PathBytes,
    source: Option<PathBytes>,
    fstype: Option<&str>,
    words: &[String],
    mappings: Option<IdMap>,
) -> Result<Mount> {
    let parsed = options::parse(words)?;
    let superblock = || parsed.superblock.iter().map(|key| (*key).to_owned()).collect();
    let other_than = |usual: &str| source.clone().filter(|source| source.as_bytes() != usual.as_bytes());
    let kind = if parsed.remount {
        match parsed.bind {
            // What a bind shares with its source is not changed.
            Some(_) => MountKind::Remount { bind: true, superblock: Vec::new(), data: Vec::new() },
            None => MountKind::Remount { bind: false, superblock: superblock(), data: parsed.data.clone() },
        }
    } else if let Some(recursive) = parsed.bind {
        let source =
            source.ok_or_else(|| spec_error("a bind needs a source").about(Part::Field("source")))?;
        MountKind::Bind { source: BindSource::Host(source), recursive, optional: false, within: None }
    } else {
        match fstype {
            None | Some("" | "none") => {
                return Err(spec_error("a mount needs a type, or the option \"bind\" or \"rbind\"")
                    .about(Part::Field("type")));
            }
            Some("bind") => {
                return Err(spec_error("a mount of type \"bind\" needs the option \"bind\" or \"rbind\"")
                    .about(Part::Field("options")));
            }
            Some("cgroup" | "cgroup2") => MountKind::Cgroup {
                source: other_than("cgroup"),
                superblock: superblock(),
                data: parsed.data.clone(),
            },
            Some("overlay") => MountKind::Overlay(Overlay {
                source: other_than("overlay"),
                ..Overlay::from_options(superblock(), parsed.data.clone())?
            }),
            Some(fstype) => MountKind::Filesystem {
                fstype: fstype.to_owned(),
                source,
                superblock: superblock(),
                data: parsed.data.clone(),
                bind_fallback: false,
                copy_up: parsed.copy_up,
            },
        }
    };
    if parsed.copy_up && !matches!(kind, MountKind::Filesystem { .. }) {
        return Err(spec_error("the option \"tmpcopyup\" is for a mount of type tmpfs")
            .about(Part::Option("tmpcopyup".to_owned())));
    }
    let id_map = match (parsed.id_map, mappings) {
        (None, None) => None,
        (recursive, mappings) => Some(MountIdMap {
            ids: mappings.map_or(MountIds::UserNamespace, MountIds::Map),
            recursive: recursive.unwrap_or(false),
        }),
    };
    let mut ineffective = Vec::new();
    if matches!(kind, MountKind::Bind { .. } | MountKind::Remount { bind: true, .. }) {
        ineffective.extend(parsed.superblock.iter().map(|key| (*key).to_owned()));
        ineffective.extend(parsed.data.iter().map(|(key, value)| option_text(key, value.as_deref())));
    }
    Ok(Mount {
        destination,
        kind,
        attributes: parsed.attributes,
        propagation: parsed.propagation,
        id_map,
        ineffective,
        links: parsed.links,
    })
}

fn spec_error(message: impl Into<String>) -> Box<Error> {
    Error::new(ErrorCode::Spec, message)
}

fn check_path(what: &str, path: &PathBytes) -> Result<()> {
    if path.as_bytes().is_empty() {
        return Err(spec_error(format!("{what}: the path is empty")));
    }
    if path.as_bytes().contains(&0) {
        return Err(spec_error(format!("{what}: the path contains a NUL byte")));
    }
    Ok(())
}

/// Nothing can be mounted between a process and its root.
fn check_below_root(what: &str, path: &PathBytes) -> Result<()> {
    check_path(what, path)?;
    if path.is_top() {
        return Err(spec_error(format!(
            "{what}: {path} is the root itself; readonly() makes that read-only"
        )));
    }
    Ok(())
}

/// Something that is made under a name needs one.
fn check_name(what: &str, path: &PathBytes) -> Result<()> {
    match path.components().next_back() {
        None | Some(b"..") => Err(spec_error(format!("{what}: {path} doesn't end in a name"))),
        Some(_) => Ok(()),
    }
}

/// A number as the kernel reads it in an option: `kstrtouint()`, base 0. Whatever else is there, it refuses itself.
fn parse_id(text: &str) -> Option<u32> {
    let (digits, radix) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&text[2..], 16),
        [b'0', _, ..] => (&text[1..], 8),
        _ => (text, 10),
    };
    u32::from_str_radix(digits, radix).ok()
}

fn check_mode(what: &str, mode: u32) -> Result<()> {
    if mode > 0o7777 {
        Err(spec_error(format!("{what}: mode {mode:o} has bits that are no permission")))
    } else {
        Ok(())
    }
}

fn check_id(what: &str, id: u32) -> Result<()> {
    if id > MAX_ID {
        Err(spec_error(format!("{what}: {id} is no id: the largest is {MAX_ID}")))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn oci(fstype: Option<&str>, words: &[&str]) -> Result<Mount> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        mount_from_oci("/x".into(), Some("/src".into()), fstype, &words, None)
    }

    #[test]
    fn a_bind_word_makes_a_bind_whatever_the_type() {
        assert!(matches!(
            oci(Some("none"), &["bind"]).unwrap().kind,
            MountKind::Bind { recursive: false, .. }
        ));
        assert!(matches!(
            oci(Some("tmpfs"), &["rbind"]).unwrap().kind,
            MountKind::Bind { recursive: true, .. }
        ));
        assert_eq!(oci(Some("bind"), &["ro"]).unwrap_err().code, ErrorCode::Spec);
        assert_eq!(oci(None, &["ro"]).unwrap_err().code, ErrorCode::Spec);
    }

    #[test]
    fn overlapping_mappings_are_refused() {
        let line = |container_id, host_id, size| IdMapping { container_id, host_id, size };
        for (lines, fine) in [
            (vec![line(0, 1000, 1), line(1, 100_000, 65536)], true),
            (vec![line(0, 1000, 2), line(1, 100_000, 65536)], false),
            (vec![line(0, 1000, 10), line(10, 1009, 10)], false),
            (vec![line(0, u32::MAX, 1)], false),
            (vec![line(0, 0, 0)], false),
            (vec![], false),
        ] {
            assert_eq!(validate_mappings("uids", &lines).is_ok(), fine, "{lines:?}");
        }
    }

    #[test]
    fn an_inside_id_is_found_in_its_line() {
        let lines = [
            IdMapping { container_id: 0, host_id: 1000, size: 1 },
            IdMapping { container_id: 1, host_id: 100_000, size: 10 },
        ];
        assert_eq!(IdMap::to_host(&lines, 0), Some(1000));
        assert_eq!(IdMap::to_host(&lines, 10), Some(100_009));
        assert_eq!(IdMap::to_host(&lines, 11), None);
    }

    #[test]
    fn ids_among_the_options_of_a_filesystem_are_mapped() {
        let line = |container_id, host_id, size| IdMapping { container_id, host_id, size };
        let map = IdMap { uids: vec![line(0, 1000, 1), line(5, 2000, 10)], gids: vec![line(0, 1000, 8)] };
        for (fstype, word, mapped) in [
            ("tmpfs", "uid=0", true),
            ("tmpfs", "uid=1", false),
            ("tmpfs", "uid=14", true),
            ("tmpfs", "uid=15", false),
            ("tmpfs", "uid=0xe", true),
            ("tmpfs", "uid=0xf", false),
            ("tmpfs", "uid=010", true),
            ("tmpfs", "uid=020", false),
            ("tmpfs", "uid=me", true),
            ("tmpfs", "gid=7", true),
            ("tmpfs", "gid=8", false),
            ("proc", "gid=8", false),
            ("devpts", "gid=8", true),
            ("devpts", "uid=1", false),
            ("fuse", "size=1", true),
        ] {
            let mut spec = RootfsSpec::new(Root::Directory("/srv".into()));
            spec.add(oci(Some(fstype), &[word]).unwrap());
            spec.validate().unwrap();
            spec.namespaces.user = UserNamespace::Mapped(map.clone());
            let result = spec.validate();
            assert_eq!(result.is_ok(), mapped, "{fstype} {word}");
            if let Err(error) = result {
                assert!(error.code == ErrorCode::Spec && error.message.contains(word), "{error}");
                let list = if word.starts_with("gid") { "maps: 0 to 7" } else { "maps: 0, 5 to 14" };
                assert!(error.message.ends_with(list), "{error}");
            }
        }
        let mut spec = RootfsSpec::new(Root::Directory("/srv".into()));
        spec.namespaces.user = UserNamespace::Caller;
        spec.add(oci(Some("tmpfs"), &["uid=0"]).unwrap());
        spec.validate().unwrap();
        spec.add(oci(None, &["remount", "uid=1"]).unwrap());
        assert!(spec.validate().unwrap_err().message.contains("uid=1"));
    }

    #[test]
    fn a_host_name_needs_a_uts_namespace() {
        let mut spec = RootfsSpec::new(Root::Directory("/srv".into()));
        spec.hostname = Some("box".into());
        spec.validate().unwrap();
        spec.namespaces.uts = Namespace::Inherit;
        assert_eq!(spec.validate().unwrap_err().code, ErrorCode::Spec);
    }

    #[test]
    fn a_domain_name_and_a_sysctl_need_their_namespaces() {
        let mut spec = RootfsSpec::new(Root::Directory("/srv".into()));
        spec.domainname = Some("example.org".into());
        spec.sysctl.push(("kernel.msgmax".into(), "8192".into()));
        spec.validate().unwrap();
        spec.namespaces.uts = Namespace::Inherit;
        assert!(spec.validate().unwrap_err().message.contains("domainname"));
        spec.domainname = None;
        spec.namespaces.ipc = Namespace::Inherit;
        assert!(spec.validate().unwrap_err().message.contains("sysctl kernel.msgmax"));
        spec.sysctl.clear();
        let before = spec.checkpoint();
        spec.sysctl.push(("net.core.somaxconn".into(), "1".into()));
        spec.validate_since(&before).unwrap();
        assert!(spec.validate().unwrap_err().message.contains("sysctl net.core.somaxconn"));
        spec.namespaces.network = Namespace::New;
        spec.validate().unwrap();
    }

    #[test]
    fn a_device_has_a_number_that_linux_can_hold() {
        let device = |path: &str, major, minor| Device {
            path: path.into(),
            kind: DeviceType::Character,
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
        };
        let check = |device: Device| {
            let mut spec = RootfsSpec::new(Root::Directory("/srv".into()));
            spec.devices.push(device);
            spec.validate().map_err(|error| error.code)
        };
        assert_eq!(check(device("/dev/x", MAX_MAJOR, MAX_MINOR)), Ok(()));
        assert_eq!(check(device("/dev/x", MAX_MAJOR + 1, 0)), Err(ErrorCode::Spec));
        assert_eq!(check(device("/dev/x", 0, MAX_MINOR + 1)), Err(ErrorCode::Spec));
        assert_eq!(check(device("/dev/..", 1, 3)), Err(ErrorCode::Spec));
        assert_eq!(check(device("//dev/./console", 5, 1)), Err(ErrorCode::Unsupported));
    }

    #[test]
    fn what_needs_a_mount_namespace_is_refused_without_one() {
        let mut spec = RootfsSpec::new(Root::Directory("/srv".into()));
        spec.namespaces.mount = Namespace::Inherit;
        spec.validate().unwrap();
        let refused = |change: fn(&mut RootfsSpec)| {
            let mut spec = spec.clone();
            change(&mut spec);
            let error = spec.validate().unwrap_err();
            assert!(error.code == ErrorCode::Spec && error.message.contains("mount namespace"), "{error}");
        };
        refused(|spec| spec.masks.push(Mask { path: "/x".into(), missing: MissingMask::Skip }));
        refused(|spec| spec.readonly_paths.push("/x".into()));
        refused(|spec| spec.readonly = Some(ReadonlyRoot { recursive: true }));
        refused(|spec| {
            spec.hooks.push(Hook {
                point: HookPoint::Prestart,
                path: "/h".into(),
                args: vec![],
                env: vec![],
                timeout: None,
                function: None,
            });
        });
    }

    #[test]
    fn functions_run_where_the_caller_is() {
        for point in HookPoint::ALL {
            let mut spec = RootfsSpec::new(Root::Directory("/srv".into()));
            spec.hooks.push(Hook {
                point,
                path: "function".into(),
                args: vec![],
                env: vec![],
                timeout: None,
                function: Some(0),
            });
            assert_eq!(spec.validate().is_ok(), point.takes_functions(), "{point:?}");
        }
    }

    #[test]
    fn paths_with_nul_bytes_are_refused_with_their_place() {
        let mut spec = RootfsSpec::new(Root::Directory("/srv".into()));
        spec.masks.push(Mask { path: PathBytes::new(*b"/a\0b"), missing: MissingMask::Skip });
        assert!(spec.validate().unwrap_err().message.contains("masks[0]"));
    }
}
