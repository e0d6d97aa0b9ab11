//! Carrying out a plan, on the narrow [`Kernel`] trait.
//!
//! Host sources are opened, copied detached and given their attributes first ([`sources`]), before any target is
//! touched. Then each step is carried out in order. Which namespaces this runs in is decided by who calls; see
//! `docs/architecture.md`.

mod cgroup;
#[cfg(test)]
mod cgroup_tests;
pub mod classic;
pub mod content;
#[cfg(test)]
mod content_tests;
mod deny;
mod devices;
pub mod filesystem;
mod id_map;
mod mounts;
mod overlay;
mod parameters;
mod placed;
mod possible;
mod protect;
mod remount;
pub mod sources;
pub mod template;
#[cfg(test)]
mod tests;
mod verify;
#[cfg(test)]
mod verify_tests;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Instant;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{CallContext, Error, ErrorCode, Result, SysError};
use crate::hint::Hint;
use crate::journal::{Identity, Record, State, Writer};
use crate::kernel::{AttributeChange, FileKind, FileStatus, Follow, Kernel, process};
use crate::options::{Attributes, Propagation, PropagationType};
use crate::origin::Location;
use crate::path::PathBytes;
use crate::plan::{Action, Plan, Step, Warning};
use crate::protocol::{ExecutedStep, Report};
use crate::resolve::{self, Maker, Missing, Place, Resolved};
use crate::spec::{BindSource, Directory, Hook, IdMap, Mount, MountIds, MountKind, Root};
use filesystem::{Filesystem, Stock};
use id_map::IdMaps;
use placed::{Holder, Placed};
use sources::Sources;
use template::Template;
use verify::{Expectation, Expectations};

/// How mounts are made, chosen by probing and never by version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Level {
    /// The whole tree is assembled detached, then attached once. Needs mounts that can be moved onto detached mounts
    /// (Linux 6.15).
    Detached,
    /// Each mount is made detached and attached inside the new mount namespace. Needs the mount API of Linux 5.12.
    Attached,
    /// Each mount is made with mount(2), in a place of our own inside the new mount namespace, and moved to where it belongs.
    Classic,
}

impl Level {
    /// Every level, the best first.
    pub const ALL: [Self; 3] = [Self::Detached, Self::Attached, Self::Classic];

    /// The name in reports and in tests.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Detached => "detached",
            Self::Attached => "attached",
            Self::Classic => "classic",
        }
    }

    /// The level that a name names.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }
}

/// The facts about where a plan is carried out.
#[derive(Clone, Debug)]
pub struct Setting<'a> {
    /// How mounts are made.
    pub level: Level,
    /// Whether this process already is in a mount namespace of its own; else it makes one when it needs it.
    pub own_mount_namespace: bool,
    /// The mapping of the new user namespace this process is in.
    pub user: Option<IdMap>,
    /// Whether this process makes a cgroup namespace, in its cgroup, because there was none with the process.
    pub new_cgroup_namespace: bool,
    /// Whether the kernel's mount table is compared with the plan.
    pub verify: bool,
    /// A mount namespace with nothing in it, if there is one; see [`Kernel::enter_root_by_stub`].
    pub stub: Option<BorrowedFd<'a>>,
}

/// What an execution asks of the processes around it.
pub trait Surroundings {
    /// Makes a mountpoint with the rights of the caller, where this process has none. `false` if the name exists.
    fn make(&mut self, parent: BorrowedFd<'_>, name: &PathBytes, what: Missing) -> Result<bool>;
    /// Makes a symbolic link with the rights of the caller, where this process has none. `false` if the name exists.
    fn make_symlink(&mut self, target: &PathBytes, parent: BorrowedFd<'_>, name: &PathBytes) -> Result<bool>;
    /// Gives a directory the mode and owner that are wanted, with the rights of the caller.
    fn change(&mut self, directory: BorrowedFd<'_>, wanted: &Directory) -> Result<()>;
    /// Opens a directory for locking with the rights of the caller.
    fn open_directory(&mut self, directory: BorrowedFd<'_>) -> Result<OwnedFd>;
    /// Attaches the root at its own path in this process's mount namespace, with the rights of the caller. `false` if this
    /// process can do it itself.
    fn attach_root(&mut self, root: BorrowedFd<'_>, path: &PathBytes, identity: Identity) -> Result<bool>;
    /// Runs a hook where its point says.
    fn run_hook(&mut self, hook: &Hook, root: BorrowedFd<'_>, root_path: &PathBytes) -> Result<()>;
    /// Whether the host has a file.
    fn host_has(&mut self, path: &PathBytes) -> bool;
    /// A step is done.
    fn step_done(&mut self, step: &ExecutedStep);
}

/// A mount whose place on the host is known, or which is known to be no host's.
struct Tree {
    fd: Rc<OwnedFd>,
    host: Option<HostPlace>,
    locked: bool,
}

/// Which directory of the host a tree is.
#[derive(Clone, Debug)]
struct HostPlace {
    path: PathBytes,
    identity: Identity,
    /// The tree is an overlay, and this is the directory it is written to.
    upper: Option<Rc<OwnedFd>>,
    /// The tree is a part of another one, and this is where in that.
    part: Option<Part>,
}

/// Which part of another tree it is.
#[derive(Clone, Debug)]
struct Part {
    /// That tree.
    of: Rc<OwnedFd>,
    /// The way from its root.
    within: PathBytes,
}

impl HostPlace {
    fn new(path: PathBytes, identity: Identity) -> Self {
        Self { path, identity, upper: None, part: None }
    }

    /// The upper directory of an overlay: what is made in the overlay is in there on the host.
    fn of_upper(upper: sources::Opened) -> Self {
        let identity = upper.identity;
        Self { path: upper.description.path, identity, upper: Some(Rc::new(upper.mount)), part: None }
    }

    /// The way to something in the tree, from the directory that is the host's.
    fn relative(&self, path: &PathBytes) -> PathBytes {
        match &self.part {
            Some(part) => path.components().fold(part.within.clone(), |path, name| path.join(name)),
            None => path.clone(),
        }
    }
}

/// What making mountpoints needs.
struct Ground<'a> {
    kernel: &'a dyn Kernel,
    surroundings: &'a mut dyn Surroundings,
    trees: Vec<Tree>,
    /// Their places by their mounts, and how many of them are not locked yet: there can be many.
    by_mount: BTreeMap<u64, usize>,
    unlocked: usize,
    journal: Option<Writer>,
    locks: Vec<OwnedFd>,
}

/// What is left in the hands of the caller when all steps are done.
#[derive(Debug)]
pub struct Outcome {
    /// What was done.
    pub report: Report,
    /// Locks on host trees, to be held as long as the container lives.
    pub locks: Vec<OwnedFd>,
    /// The root.
    pub root: OwnedFd,
    /// What was made: another container like this needs the same.
    pub filesystems: Vec<Filesystem>,
}

/// A plan being carried out.
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
pub struct Execution<'a> {
    kernel: &'a dyn Kernel,
    plan: &'a Plan,
    setting: Setting<'a>,
    ground: Ground<'a>,
    sources: Sources,
    stock: Stock,
    /// A mount namespace to be joined.
    namespace: Option<BorrowedFd<'a>>,
    /// The directory that the process begins in.
    cwd: Option<&'a PathBytes>,
    /// What the root has already.
    template: Option<&'a Template>,
    root: Option<Rc<OwnedFd>>,
    root_path: PathBytes,
    attached: bool,
    entered: bool,
    proc_is_mounted: bool,
    kept: BTreeMap<u32, Rc<OwnedFd>>,
    placed: Placed,
    /// The inode of the root directory.
    root_inode: u64,
    /// The mount that is the root.
    root_mount: u64,
    /// The mount that another was put on last, and the type of its filesystem.
    put_on: Option<(u64, u64)>,
    null: Option<OwnedFd>,
    null_is_attached: bool,
    empty: Option<OwnedFd>,
    id_maps: IdMaps,
    /// The SELinux context of new filesystems.
    context: Option<&'a str>,
    parent: Option<Parent>,
    /// Empty files that were made to be hidden.
    stubs: BTreeSet<PathBytes>,
    expectations: Expectations,
    report: Report,
}

/// A directory that names are made in.
struct Parent {
    path: PathBytes,
    fd: Rc<OwnedFd>,
    mount: u64,
}

/// What a step has to tell about itself.
#[derive(Debug, Default)]
struct Done {
    resolved: Option<PathBytes>,
    strategy: Option<&'static str>,
    skipped: bool,
}

impl Done {
    fn by(strategy: &'static str) -> Self {
        Self { strategy: Some(strategy), ..Self::default() }
    }

    /// The caller said that this may be missing, and it is.
    fn skipped() -> Self {
        Self { skipped: true, ..Self::by("missing") }
    }

    /// By its meaning there is nothing to do where nothing is.
    fn missing() -> Self {
        Self::by("missing")
    }
}

/// Directories at which a tmpfs root can be attached while hooks run: any that exists will do, because the mount
/// namespace is our own.
const ATTACH_POINTS: [&str; 6] = ["/mnt", "/media", "/srv", "/opt", "/run", "/tmp"];

impl<'a> Execution<'a> {
    /// Takes filesystems from what is ready.
    #[must_use]
    pub fn with_stock(mut self, stock: Stock) -> Self {
        self.stock = stock;
        self
    }

    /// Ends in a mount namespace that exists already, where nothing changes.
    #[must_use]
    pub fn with_namespace(mut self, namespace: Option<BorrowedFd<'a>>) -> Self {
        self.namespace = namespace;
        self
    }

    /// Makes the directory that the process begins in, as long as something that becomes read-only can be written.
    #[must_use]
    pub fn with_cwd(mut self, cwd: Option<&'a PathBytes>) -> Self {
        self.cwd = cwd;
        self
    }

    /// Begins with what a template has ready.
    #[must_use]
    pub fn with_template(mut self, template: Option<&'a Template>) -> Self {
        self.template = template;
        if let Some(template) = template {
            self.report.warnings.extend_from_slice(&template.warnings);
        }
        self
    }

    /// Prepares to carry out a plan with sources that were opened before.
    pub fn new(
        kernel: &'a dyn Kernel,
        plan: &'a Plan,
        setting: Setting<'a>,
        sources: Sources,
        surroundings: &'a mut dyn Surroundings,
        journal: Option<Writer>,
    ) -> Self {
        Self {
            kernel,
            plan,
            setting,
            ground: Ground {
                kernel,
                surroundings,
                trees: Vec::new(),
                by_mount: BTreeMap::new(),
                unlocked: 0,
                journal,
                locks: Vec::new(),
            },
            sources,
            stock: Stock::default(),
            namespace: None,
            cwd: None,
            template: None,
            root: None,
            root_path: PathBytes::from("/"),
            attached: false,
            entered: false,
            proc_is_mounted: false,
            kept: BTreeMap::new(),
            placed: Placed::default(),
            root_inode: 0,
            root_mount: 0,
            put_on: None,
            null: None,
            null_is_attached: false,
            empty: None,
            id_maps: IdMaps::default(),
            context: sources::selinux_context(kernel, plan),
            parent: None,
            stubs: BTreeSet::new(),
            expectations: Expectations::default(),
            report: Report::default(),
        }
    }

    /// Which ids are mapped is known only here where that depends on the caller, or a user namespace is joined.
    fn check_ids(&self) -> Result<()> {
        let Some(user) = &self.setting.user else { return Ok(()) };
        for step in &self.plan.steps {
            if let Action::Mount { mount, .. } = &step.action {
                mount.validate_ids(user).map_err(|error| Self::locate(error, step))?;
            }
        }
        Ok(())
    }

    /// Carries out the steps that come before the command.
    pub fn run(mut self) -> Result<Outcome> {
        self.check_ids()?;
        self.prepare_id_maps()?;
        for step in &self.plan.steps {
            if matches!(&step.action, Action::Hook(hook) if hook.point.is_after_start()) {
                continue;
            }
            let begin = Instant::now();
            let done = self.carry_out(step).map_err(|error| Self::locate(error, step))?;
            if matches!(step.action, Action::Root { .. }) {
                self.check_shared()?;
            }
            if done.skipped {
                self.report.skipped.push(step.index);
            }
            let executed = ExecutedStep {
                index: step.index,
                resolved: done.resolved,
                strategy: done.strategy.map(str::to_owned),
                duration_ns: u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX),
            };
            self.ground.surroundings.step_done(&executed);
            self.report.steps.push(executed);
        }
        let Some(root) = self.root else {
            return Err(Error::new(ErrorCode::Spec, "the plan has no root"));
        };
        // Nothing is mounted any more: the descriptors of the mounts, which can be thousands, have no other use.
        drop((self.kept, self.placed, self.parent));
        process::close_all(self.ground.trees.into_iter().map(|tree| tree.fd).filter_map(Rc::into_inner));
        let root = Rc::try_unwrap(root)
            .or_else(|shared| rustix::io::fcntl_dupfd_cloexec(&*shared, 0))
            .map_err(|errno| SysError::new("fcntl", errno, "F_DUPFD_CLOEXEC"))
            .context(ErrorCode::Mount, || "the root's descriptor can't be duplicated")?;
        let filesystems = self.stock.into_needed();
        Ok(Outcome { report: self.report, locks: self.ground.locks, root, filesystems })
    }

    /// Gets the user namespaces of idmapped mounts of what is in the root. When the root is attached it is too late: a
    /// process whose root is not the top of its mount namespace counts as chrooted, and those can't make one.
    fn prepare_id_maps(&self) -> Result<()> {
        for step in &self.plan.steps {
            if let Action::Mount { mount: Mount { kind, id_map: Some(id_map), .. }, .. } = &step.action
                && matches!(kind, MountKind::Bind { source: BindSource::InRoot(_), .. })
                && let MountIds::Map(map) = &id_map.ids
            {
                self.id_maps.prepare(self.kernel, map).map_err(|error| Self::locate(error, step))?;
            }
        }
        Ok(())
    }

    /// Adds to an error where in the plan it happened.
    pub fn locate(mut error: Box<Error>, step: &Step) -> Box<Error> {
        error.step = Some(step.index);
        error.destination = error.destination.or_else(|| step.action.destination());
        error.source = error.source.or_else(|| step.action.source());
        if error.flags.is_empty() {
            error.flags = step.action.flags();
        }
        let name = step.action.name();
        error.message = match (&error.destination, &error.source) {
            _ if matches!(step.action, Action::Root { .. }) => format!("root: {}", error.message),
            (Some(destination), Some(source)) if name == "mount" => {
                format!("step {} (mount {source} on {destination}): {}", step.index, error.message)
            }
            (Some(destination), _) => {
                format!("step {} ({name} {destination}): {}", step.index, error.message)
            }
            _ => format!("step {} ({name}): {}", step.index, error.message),
        };
        error
    }

    fn warn(&mut self, code: &str, step: u32, message: String) {
        self.report.warnings.push(Warning {
            code: code.to_owned(),
            message,
            step: Some(step),
            location: Location::default(),
        });
    }

    fn carry_out(&mut self, step: &'a Step) -> Result<Done> {
        match &step.action {
            Action::Namespaces(_) => {
                if self.setting.new_cgroup_namespace {
                    self.kernel
                        .new_cgroup_namespace()
                        .context(ErrorCode::Denied, || "a cgroup namespace can't be made")?;
                }
                Ok(Done::by(self.setting.level.name()))
            }
            Action::Root { root, propagation } => self.make_root(root, *propagation, step.index),
            Action::Mount { mount, readonly_later, .. } => self.mount(mount, *readonly_later, step.index),
            Action::Shared { resolved, skipped, .. } => {
                Ok(Done { resolved: resolved.clone(), strategy: Some("template"), skipped: *skipped })
            }
            Action::Directory(directory) => self.directory(directory),
            Action::Link(symlink) => self.link(symlink),
            Action::Device(device) => self.device(device, step.index),
            Action::Symlink { target, path, replace, only_if_host_has } => {
                self.symlink(target, path, *replace, only_if_host_has.as_ref())
            }
            Action::Stub(path) => self.stub(path),
            Action::Hook(hook) => {
                let root = self.root()?;
                let path = if self.entered { PathBytes::from("/") } else { self.root_path.clone() };
                if !self.entered {
                    self.kernel
                        .suspend_mounting()
                        .context(ErrorCode::Mount, || "the mount namespace can't be got ready for hooks")?;
                }
                if hook.point.needs_attached_tree() {
                    self.watching_mounts(step.index, |this| {
                        this.ground.surroundings.run_hook(hook, root.as_fd(), &path)
                    })?;
                } else {
                    self.ground.surroundings.run_hook(hook, root.as_fd(), &path)?;
                }
                Ok(Done::default())
            }
            Action::Pivot => self.pivot(),
            Action::Propagation(propagation) => self.set_propagation(*propagation),
            Action::ReadonlyMount { mount, destination, superblock, recursive } => {
                self.readonly_mount(*mount, destination, *superblock, *recursive)
            }
            Action::ReadonlyRoot { recursive } => self.readonly_root(*recursive),
            Action::Hostname(name) => self.set_hostname(name),
            Action::Domainname(name) => self.set_domainname(name),
            Action::Sysctl { name, path, value } => self.set_sysctl(name, path, value),
            Action::ReadonlyPath(path) => self.readonly_path(path, step.index),
            Action::Mask(mask) => self.mask(mask, step.index),
            Action::Verify => {
                if self.plan.enters_by_chroot() {
                    return self.join_mount_namespace(step.index);
                }
                self.kernel
                    .finish_mounting()
                    .context(ErrorCode::Mount, || "what the mounts were made with can't be given up")?;
                if self.setting.verify {
                    self.verify()?;
                }
                Ok(Done::default())
            }
        }
    }

    fn root(&self) -> Result<Rc<OwnedFd>> {
        self.root.clone().ok_or_else(|| Error::new(ErrorCode::Spec, "the plan has a step before its root"))
    }

    /// The last step of a tree that is never attached. It is in no mount table, so there is none to compare with the plan.
    fn join_mount_namespace(&mut self, step: u32) -> Result<Done> {
        if let Some(namespace) = self.namespace.take() {
            // Where it was joined before, mounts of the caller's namespace could not have been copied any more.
            let root = self.root()?;
            self.kernel.enter_root_by_chroot(root.as_fd(), Some(namespace)).map_err(|call| {
                Error::from_call(ErrorCode::Denied, "the mount namespace can't be joined", &call)
                    .with_hint(Hint::ForeignMountNamespace)
            })?;
        }
        if self.setting.verify {
            let message = "a tree outside of a mount namespace of its own is in no mount table: not verified";
            self.warn("not-verified", step, message.to_owned());
        }
        Ok(Done::by("no-mount-table"))
    }

    fn early(&self) -> bool {
        self.setting.level == Level::Attached
            || self.plan.needs_attached_tree()
            || self.plan.changes_attached_mounts()
    }

    fn make_root(&mut self, root: &Root, propagation: Propagation, step: u32) -> Result<Done> {
        if self.plan.enters_by_chroot() && self.plan.changes_attached_mounts() {
            return Err(Error::new(
                ErrorCode::Unsupported,
                "a mount on /, a remount, and the propagation of what is put on a shared mount need a mount namespace of the \
                 container's own",
            ));
        }
        if self.plan.enters_by_chroot() && self.early() {
            return Err(Error::new(
                ErrorCode::Unsupported,
                "without a mount namespace of its own the tree has to be assembled detached, which needs Linux 6.15",
            ));
        }
        let mut original = None;
        let (mount, host) = match root {
            Root::Directory(path) => {
                let opened = self
                    .sources
                    .take_root()
                    .ok_or_else(|| Error::new(ErrorCode::Root, format!("{path} was not opened")))?;
                self.root_path = path.clone();
                original = opened.description.original;
                self.root_inode = opened.identity.inode;
                (opened.mount, Some(HostPlace::new(path.clone(), opened.identity)))
            }
            Root::Overlay { .. } => {
                let opened = self
                    .sources
                    .take_root()
                    .ok_or_else(|| Error::new(ErrorCode::Root, "the overlay was not made"))?;
                self.ground.locks.extend(self.sources.take_lock(step));
                (opened.mount, self.sources.take_upper(step).map(HostPlace::of_upper))
            }
            Root::Empty { size, mode } => (self.empty_root(*size, *mode)?, None),
        };
        let mount = Rc::new(mount);
        if !matches!(root, Root::Directory(_)) {
            let status = self
                .kernel
                .status(mount.as_fd())
                .context(ErrorCode::Root, || "the root can't be looked at")?;
            self.root_inode = status.inode;
        }
        self.root = Some(Rc::clone(&mount));
        let id = self.ground.add_tree(&mount, None, host)?;
        self.root_mount = id;
        self.ground.lock(id)?;
        let expected = self.expectations.add(Expectation::of_root(step, id));
        if matches!(root, Root::Directory(_)) {
            let propagation = sources::implied_propagation(propagation);
            expected.copied_from(original, &Attributes::default(), (&[propagation], &[]), false);
            expected.recursive = true;
            if let Some(template) = self.template {
                self.expectations.add_shared(template.mounts());
            }
        }
        if self.early() {
            self.attach_root(propagation)?;
        }
        Ok(Done::by(match self.setting.level {
            Level::Classic => Level::Classic.name(),
            _ if self.attached => Level::Attached.name(),
            _ => Level::Detached.name(),
        }))
    }

    /// Enters a mount namespace of our own, from which nothing goes back to the host, and attaches the root there.
    fn attach_root(&mut self, propagation: Propagation) -> Result<()> {
        if !self.setting.own_mount_namespace {
            self.kernel
                .new_mount_namespace()
                .context(ErrorCode::Denied, || "a mount namespace can't be made")?;
            self.setting.own_mount_namespace = true;
        }
        let slave = Propagation {
            kind: match propagation.kind {
                // What the root shall be comes after it is entered; until then nothing may get out.
                PropagationType::Shared | PropagationType::Slave => PropagationType::Slave,
                PropagationType::Private | PropagationType::Unbindable => PropagationType::Private,
            },
            recursive: true,
        };
        self.kernel
            .set_root_propagation(slave)
            .context(ErrorCode::Mount, || "the propagation of / can't be changed")?;
        let root = self.root()?;
        if self.plan.needs_attached_tree() {
            self.attach_root_for_hooks(&root)?;
        } else if self.setting.level != Level::Classic {
            // At level classic it is in our own namespace already.
            let slash = self
                .kernel
                .open_host(&"/".into(), true, false)
                .context(ErrorCode::Mount, || "/ can't be opened")?;
            self.kernel
                .attach(root.as_fd(), slash.as_fd())
                .context(ErrorCode::Mount, || "the root can't be attached")?;
        }
        self.attached = true;
        Ok(())
    }

    /// Attaches the root at its own path, where hooks look for it.
    fn attach_root_for_hooks(&mut self, root: &OwnedFd) -> Result<()> {
        let host = self.ground.trees.first().and_then(|tree| tree.host.clone());
        // An overlay has no path of its own on the host.
        let Some(host) = host.filter(|host| host.upper.is_none()) else {
            for candidate in ATTACH_POINTS {
                if let Ok(directory) = self.kernel.open_host(&candidate.into(), true, false)
                    && self.kernel.attach(root.as_fd(), directory.as_fd()).is_ok()
                {
                    self.root_path = candidate.into();
                    return Ok(());
                }
            }
            return Err(Error::new(
                ErrorCode::Mount,
                format!(
                    "a root that is no directory of the host can't be attached for hooks: none of {} can be used",
                    ATTACH_POINTS.join(", ")
                ),
            ));
        };
        if self.ground.surroundings.attach_root(root.as_fd(), &host.path, host.identity)? {
            return Ok(());
        }
        attach_at(self.kernel, root.as_fd(), &host.path, host.identity)
    }

    fn pivot(&mut self) -> Result<Done> {
        let closes = |step: &Step| {
            matches!(
                step.action,
                Action::ReadonlyMount { .. } | Action::ReadonlyRoot { .. } | Action::ReadonlyPath(_)
            )
        };
        if let Some(cwd) = self.cwd
            && self.plan.steps.iter().any(closes)
        {
            // What can't be made is told by the command that needs it.
            let _ = self.lasting_directory(cwd);
        }
        if self.plan.enters_by_chroot() {
            let root = self.root()?;
            self.kernel
                .enter_root_by_chroot(root.as_fd(), None)
                .context(ErrorCode::Mount, || "the root can't be entered")?;
            (self.entered, self.parent) = (true, None);
            return Ok(Done::by("chroot"));
        }
        if let Some(stub) = self.setting.stub.filter(|_| !self.attached && !self.setting.own_mount_namespace)
        {
            self.prepare_masks()?;
            self.prepare_sysctls()?;
            let root = self.root()?;
            let entered = self
                .kernel
                .enter_root_by_stub(stub, root.as_fd())
                .context(ErrorCode::Mount, || "the root can't be entered")?;
            if entered {
                (self.attached, self.entered, self.parent) = (true, true, None);
                self.setting.own_mount_namespace = true;
                return Ok(Done::by("stub-namespace"));
            }
            // A copy that was made in the namespace that is left now would be of no use in the next.
            if !self.null_is_attached {
                self.null = None;
            }
        }
        if !self.attached {
            self.attach_root(self.root_propagation())?;
        }
        let root = self.root()?;
        self.prepare_masks()?;
        self.prepare_sysctls()?;
        self.kernel.enter_root(root.as_fd()).context(ErrorCode::Mount, || "the root can't be entered")?;
        self.entered = true;
        self.parent = None;
        Ok(Done::by(if self.setting.level == Level::Classic { "move" } else { "pivot_root" }))
    }

    fn root_propagation(&self) -> Propagation {
        self.plan
            .steps
            .iter()
            .find_map(|step| match step.action {
                Action::Root { propagation, .. } => Some(propagation),
                _ => None,
            })
            .unwrap_or(Propagation::RSLAVE)
    }

    fn set_propagation(&mut self, propagation: Propagation) -> Result<Done> {
        let change = AttributeChange {
            propagation: Some(propagation),
            recursive: propagation.recursive,
            ..AttributeChange::default()
        };
        self.kernel
            .set_attributes(self.root()?.as_fd(), change)
            .context(ErrorCode::Mount, || format!("the root can't be made {}", propagation.name()))?;
        self.expectations.change_propagation(propagation);
        Ok(Done::default())
    }

    /// Resolves a destination and makes it when it is missing; holds the lock of the host tree it is in.
    fn destination(&mut self, path: &PathBytes, missing: Missing) -> Result<Resolved> {
        self.resolve_or_make(path, missing, false)
    }

    /// The same for what is not removed again: it was asked for, and is no mountpoint.
    fn lasting_directory(&mut self, path: &PathBytes) -> Result<Resolved> {
        self.resolve_or_make(path, Missing::Directory, true)
    }

    fn resolve_or_make(&mut self, path: &PathBytes, missing: Missing, lasting: bool) -> Result<Resolved> {
        let root = self.root()?;
        let holder = self.placed.holder(path);
        loop {
            let ground = &mut self.ground;
            let mut keeper;
            let maker: &mut dyn Maker = if lasting {
                keeper = Lasting(ground);
                &mut keeper
            } else {
                ground
            };
            let below = match &holder {
                Some(Holder { fd, id, rest, destination }) => {
                    resolve::make_below(self.kernel, (fd.as_fd(), *id), rest, missing, maker)?.map(
                        |resolved| {
                            let path =
                                resolved.path.as_ref().map(|path| destination.join(&path.as_bytes()[1..]));
                            Resolved { path, ..resolved }
                        },
                    )
                }
                None => None,
            };
            let resolved = match below {
                Some(resolved) => resolved,
                None => resolve::resolve_or_make(self.kernel, root.as_fd(), path, missing, maker)?,
            };
            // The top of a file that was mounted there has been found without the path.
            if path.names_a_directory() && resolved.status.kind != FileKind::Directory {
                let call =
                    SysError { syscall: "openat2", errno: libc::ENOTDIR, arguments: format!("{path:?}") };
                return Err(resolve::resolution_error(path, &call));
            }
            // Before the lock was held another container could have removed it: look again.
            if !self.ground.has_unlocked_trees() || !self.ground.lock(resolved.status.mount)? {
                return Ok(resolved);
            }
        }
    }

    /// Resolves a path that exists, following links inside the root. `None` if it is missing.
    fn existing(&self, path: &PathBytes) -> Result<Option<(OwnedFd, FileStatus)>> {
        let root = self.root()?;
        let below = self.placed.holder(path).map(|Holder { fd, rest, .. }| match rest.as_bytes() {
            b"/" => resolve::top_of(self.kernel, fd.as_fd()).map(|(top, _)| top),
            _ => resolve::resolve(self.kernel, fd.as_fd(), &rest, Follow::None),
        });
        let found = match below {
            // A link may lead out of the mount: it is followed from the root.
            None => resolve::resolve(self.kernel, root.as_fd(), path, Follow::All),
            Some(Err(call)) if call.is(Errno::ELOOP) => {
                resolve::resolve(self.kernel, root.as_fd(), path, Follow::All)
            }
            Some(other) => other,
        };
        match found {
            Ok(fd) => {
                let status = self
                    .kernel
                    .status(fd.as_fd())
                    .context(ErrorCode::Mount, || format!("{path} can't be looked at"))?;
                Ok(Some((fd, status)))
            }
            Err(call) if call.is(Errno::ENOENT) => Ok(None),
            Err(call) => Err(resolve::resolution_error(path, &call)),
        }
    }

    /// Where something that is there has its place: what its path says, unless that depends on links.
    fn plain_path(&mut self, path: &PathBytes) -> Result<PathBytes> {
        if !path.has_parents() {
            return Ok(path.normalized());
        }
        let root = self.root()?;
        resolve::plain_path(self.kernel, root.as_fd(), path, &mut self.ground)
    }

    /// Whether it is the root directory itself, to which a link of the image can lead.
    fn is_root(&self, status: &FileStatus) -> bool {
        (status.mount, status.inode) == (self.root_mount, self.root_inode)
    }

    /// The directory that a name is to be made in, which is remembered for the next name.
    fn parent_of(&mut self, path: &PathBytes, code: ErrorCode) -> Result<(Rc<OwnedFd>, PathBytes)> {
        let (directory, name) = split(path, code)?;
        if let Some(parent) = self.parent.as_ref().filter(|parent| parent.path == directory) {
            return Ok((Rc::clone(&parent.fd), name));
        }
        let resolved = self.lasting_directory(&directory)?;
        if resolved.status.kind != FileKind::Directory {
            return Err(Error::new(code, format!("{directory} is no directory")));
        }
        let fd = Rc::new(resolved.fd);
        self.parent = Some(Parent { path: directory, fd: Rc::clone(&fd), mount: resolved.status.mount });
        Ok((fd, name))
    }

    /// Whether a name would be made on a filesystem that was made for this container. A missing directory is not.
    fn parent_is_ours(&mut self, path: &PathBytes, code: ErrorCode) -> Result<bool> {
        let (directory, _) = split(path, code)?;
        if let Some(parent) = self.parent.as_ref().filter(|parent| parent.path == directory) {
            return Ok(self.ground.is_ours(parent.mount));
        }
        let Some((fd, status)) = self.existing(&directory)? else { return Ok(false) };
        if status.kind != FileKind::Directory {
            return Err(Error::new(code, format!("{directory} is no directory")));
        }
        let ours = self.ground.is_ours(status.mount);
        if ours {
            // A host's tree would have to be locked first.
            self.parent = Some(Parent { path: directory, fd: Rc::new(fd), mount: status.mount });
        }
        Ok(ours)
    }
}

/// A path as the directory and the name in it.
fn split(path: &PathBytes, code: ErrorCode) -> Result<(PathBytes, PathBytes)> {
    let mut parts = path.components();
    let name = parts.next_back().filter(|name| *name != b"..");
    let Some(name) = name else {
        return Err(Error::new(code, format!("{path} is a directory's name")));
    };
    let directory = parts.fold(PathBytes::from("/"), |directory, part| directory.join(part));
    Ok((directory, PathBytes::new(name)))
}

/// Attaches a tree at a path of the host, in a mount namespace that is the container's: if the directory there is the
/// one that was opened as the root.
pub fn attach_at(
    kernel: &dyn Kernel,
    root: BorrowedFd<'_>,
    path: &PathBytes,
    identity: Identity,
) -> Result<()> {
    let directory =
        kernel.open_host(path, true, false).context(ErrorCode::Root, || format!("{path} can't be opened"))?;
    let status =
        kernel.status(directory.as_fd()).context(ErrorCode::Root, || format!("{path} can't be looked at"))?;
    if identity_of(&status) != identity {
        return Err(Error::new(ErrorCode::Race, format!("{path} was replaced while it was prepared")));
    }
    kernel
        .make_containing_mount_private(directory.as_fd(), true)
        .context(ErrorCode::Mount, || format!("the mount that contains {path} can't be made a slave"))?;
    kernel
        .attach(root, directory.as_fd())
        .context(ErrorCode::Mount, || format!("the root can't be attached at {path}"))
}

fn identity_of(status: &FileStatus) -> Identity {
    Identity { device: status.device, inode: status.inode }
}

impl Ground<'_> {
    /// Remembers a mount and returns its id.
    fn add_tree(&mut self, fd: &Rc<OwnedFd>, id: Option<u64>, host: Option<HostPlace>) -> Result<u64> {
        let mount = id
            .map_or_else(|| self.kernel.mount_id(fd.as_fd()), Ok)
            .context(ErrorCode::Mount, || "a mount's id can't be found out")?;
        let locked = host.is_none();
        self.unlocked += usize::from(!locked);
        self.by_mount.insert(mount, self.trees.len());
        self.trees.push(Tree { fd: Rc::clone(fd), host, locked });
        Ok(mount)
    }

    /// The place of a tree that is a copy of a part of another.
    fn part_of(&self, place: &Place) -> Option<HostPlace> {
        let tree = self.tree(place.mount)?;
        let host = tree.host.as_ref()?;
        let of = host.part.as_ref().map_or(&tree.fd, |part| &part.of);
        let part = Part { of: Rc::clone(of), within: host.relative(&place.relative) };
        Some(HostPlace { part: Some(part), ..host.clone() })
    }

    fn has_unlocked_trees(&self) -> bool {
        self.unlocked > 0
    }

    /// Whether the mount was made for this container, and is no part of the host.
    fn is_ours(&self, mount: u64) -> bool {
        self.tree(mount).is_some_and(|tree| tree.host.is_none())
    }

    /// Makes a name, with the rights of the caller where this process has none. `false` if somebody was quicker.
    fn make_name(&mut self, parent: BorrowedFd<'_>, name: &PathBytes, what: Missing) -> Result<bool> {
        let kind = if what == Missing::Directory { "directory" } else { "file" };
        match resolve::make_with_kernel(self.kernel, parent, name, what) {
            Err(call) if lacks_rights(&call) => self
                .surroundings
                .make(parent, name, what)
                .map_err(|error| or_own(error, &call, || format!("the {kind} {name} can't be made"))),
            other => other.context(ErrorCode::Mount, || format!("the {kind} {name} can't be made")),
        }
    }

    fn tree(&self, mount: u64) -> Option<&Tree> {
        self.by_mount.get(&mount).map(|place| &self.trees[*place])
    }

    /// Takes the shared lock on a host tree. `true` if it was not held before.
    fn lock(&mut self, mount: u64) -> Result<bool> {
        let place = self.by_mount.get(&mount).copied();
        let Some(position) = place.filter(|place| !self.trees[*place].locked) else {
            return Ok(false);
        };
        self.trees[position].locked = true;
        self.unlocked -= 1;
        let tree = &self.trees[position];
        // Who removes mountpoints looks at the host's directory, and an overlay has locks of its own.
        let host = tree.host.as_ref();
        let upper = host.and_then(|host| host.upper.as_ref());
        let whole = host.and_then(|host| host.part.as_ref()).map_or(&tree.fd, |part| &part.of);
        let fd = Rc::clone(upper.unwrap_or(whole));
        let directory = match self.kernel.open_directory(fd.as_fd()) {
            Ok(directory) => directory,
            // A file has nothing below it.
            Err(call) if call.is(Errno::ENOTDIR) => return Ok(false),
            Err(call) if call.is(Errno::EACCES) => {
                let Ok(directory) = self.surroundings.open_directory(fd.as_fd()) else {
                    // What can't be read can't be locked. Nothing is made in it then, see `make`.
                    self.trees[position].locked = false;
                    self.unlocked += 1;
                    return Ok(false);
                };
                directory
            }
            Err(call) => {
                return Err(Error::from_call(ErrorCode::Mount, "a host tree can't be opened", &call));
            }
        };
        // Whoever removes mountpoints holds the exclusive lock for a moment. Waiting for it without end would let a
        // container that shares the tree stop us for ever.
        let mut tries = 0;
        loop {
            match self.kernel.lock_shared(directory.as_fd()) {
                Ok(()) => break,
                Err(call) if call.is(Errno::EWOULDBLOCK) && tries < 200 => {
                    tries += 1;
                    self.kernel.pause(10);
                }
                Err(call) => {
                    let code = if call.is(Errno::EWOULDBLOCK) { ErrorCode::Race } else { ErrorCode::Mount };
                    let error = Error::from_call(code, "a host tree can't be locked", &call);
                    return Err(if code == ErrorCode::Race {
                        error.with_hint(Hint::HostTreeLocked)
                    } else {
                        error
                    });
                }
            }
        }
        self.locks.push(directory);
        Ok(true)
    }

    fn record(&mut self, place: &Place, name: &PathBytes, what: Missing, state: State) -> Result<()> {
        let Some(host) = self.tree(place.mount).and_then(|tree| tree.host.clone()) else {
            return Ok(());
        };
        let parent = host.relative(&place.relative);
        let record = Record {
            top: host.path,
            top_identity: host.identity,
            parent,
            name: name.clone(),
            directory: what == Missing::Directory,
            state,
        };
        match &mut self.journal {
            Some(journal) => journal
                .write(&record)
                .map_err(|errno| SysError::new("pwrite", errno, "\"rootfs-journal\""))
                .context(ErrorCode::Mount, || format!("the mountpoint {name} can't be written down")),
            None => Ok(()),
        }
    }
}

impl Maker for Ground<'_> {
    fn knows_mount(&self, mount: u64) -> bool {
        self.tree(mount).is_some()
    }

    fn make(
        &mut self,
        parent: BorrowedFd<'_>,
        place: &Place,
        name: &PathBytes,
        what: Missing,
    ) -> Result<bool> {
        self.lock(place.mount)?;
        if self.tree(place.mount).is_some_and(|tree| !tree.locked) {
            return Err(Error::new(
                ErrorCode::Mount,
                format!(
                    "the mountpoint {name} is missing in a directory that can't be read, so it can't be made safely"
                ),
            ));
        }
        self.record(place, name, what, State::Planned)?;
        let made = match resolve::make_with_kernel(self.kernel, parent, name, what) {
            Err(call) if lacks_rights(&call) => self
                .surroundings
                .make(parent, name, what)
                .map_err(|error| or_own(error, &call, || format!("the mountpoint {name} can't be made"))),
            other => other.context(ErrorCode::Mount, || format!("the mountpoint {name} can't be made")),
        };
        let made = made.map_err(|error| match error.errno.map(Errno::from_raw) {
            Some(Errno::EROFS | Errno::EACCES | Errno::EPERM) => error.with_hint(Hint::RootNotWritable),
            _ => error,
        });
        if !matches!(made, Ok(true)) {
            self.record(place, name, what, State::NotMade)?;
        }
        made
    }

    fn made(&mut self, place: &Place, name: &PathBytes, what: Missing, status: &FileStatus) -> Result<()> {
        let host = self.tree(place.mount).and_then(|tree| tree.host.as_ref());
        let Some((host, upper)) = host.and_then(|host| Some((host, host.upper.clone()?))) else {
            return self.record(place, name, what, State::Made(identity_of(status)));
        };
        // In the overlay it has another identity than in the directory where it will be looked for.
        let path = host.relative(&place.relative).join(name);
        let status = resolve::resolve(self.kernel, upper.as_fd(), &path, Follow::None)
            .and_then(|file| self.kernel.status(file.as_fd()))
            .context(ErrorCode::Mount, || format!("the mountpoint {path} is not in the upper directory"))?;
        self.record(place, name, what, State::Made(identity_of(&status)))
    }
}

/// Makes what is asked for itself, and stays: there is nothing to remove, so nothing is written down.
struct Lasting<'g, 'a>(&'g mut Ground<'a>);

impl Maker for Lasting<'_, '_> {
    fn knows_mount(&self, mount: u64) -> bool {
        self.0.knows_mount(mount)
    }

    fn make(
        &mut self,
        parent: BorrowedFd<'_>,
        place: &Place,
        name: &PathBytes,
        what: Missing,
    ) -> Result<bool> {
        // Others may be removing what they have made here, and it could be the parent.
        self.0.lock(place.mount)?;
        self.0.make_name(parent, name, what)
    }

    fn made(&mut self, _: &Place, _: &PathBytes, _: Missing, _: &FileStatus) -> Result<()> {
        Ok(())
    }
}

/// Whether somebody with other rights might do what failed. A user namespace that has no name for the owner of a
/// directory gives `EOVERFLOW`.
fn lacks_rights(call: &SysError) -> bool {
    [Errno::EACCES, Errno::EPERM, Errno::EOVERFLOW].into_iter().any(|errno| call.is(errno))
}

/// Without anybody to ask, the kernel's own answer says more.
fn or_own(error: Box<Error>, call: &SysError, what: impl FnOnce() -> String) -> Box<Error> {
    if error.code == ErrorCode::Unsupported {
        Error::from_call(ErrorCode::Mount, what(), call)
    } else {
        error
    }
}
