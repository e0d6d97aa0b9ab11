//! Host sources: opened before any target is touched, checked, copied detached, given their attributes, and held.
//!
//! This runs in the mount namespace that the sources are in: in the first process, or in the opener, a child of the
//! supervisor with the caller's rights, which hands the results over.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::content::attach_aside;
use super::filesystem::Filesystem;
use super::id_map::IdMaps;
use super::overlay::{self, WithoutUpper};
use super::template::Template;
pub use super::verify::Original;
use crate::error::{CallContext, Error, ErrorCode, Result, SysError};
use crate::hint::Hint;
use crate::journal::Identity;
use crate::kernel::{AttributeChange, FileKind, FileStatus, Follow, Kernel, NodeKind};
use crate::options::{Attributes, Links, Propagation, PropagationType, attr};
use crate::path::PathBytes;
use crate::plan::{Action, Plan, Step};
use crate::resolve;
use crate::spec::{BindSource, Device, DeviceType, IdMap, Mount, MountKind, Root};

/// What a source is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// It is mounted.
    Mount,
    /// The upper directory of the step's overlay, where mountpoints are looked for afterwards.
    Upper,
    /// A lock on the work directory of the step's overlay.
    Lock,
}

/// What an opened source is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The step it belongs to.
    pub step: u32,
    /// The path on the host.
    pub path: PathBytes,
    /// Which file it is.
    pub identity: Identity,
    /// Whether it is a directory.
    pub directory: bool,
    /// Whether it is the root of a procfs.
    pub proc_root: bool,
    /// What it is for.
    pub role: Role,
    /// The mount that it is a copy of, if that is to be compared with it.
    pub original: Option<Original>,
    /// The id that its mount has, if that is known; see [`Kernel::mount_id`].
    pub mount: Option<u64>,
}

/// A source, opened.
#[derive(Debug)]
pub struct Opened {
    /// What it is.
    pub description: Description,
    /// A detached copy, or a detached overlay; of what isn't mounted the directory, or the symbolic link, itself.
    pub mount: OwnedFd,
    /// The same as `description.identity`.
    pub identity: Identity,
}

/// All sources of a plan.
#[derive(Debug, Default)]
pub struct Sources {
    opened: BTreeMap<u32, Opened>,
    beside: BTreeMap<(u32, Role), Opened>,
    root: Option<u32>,
}

impl Sources {
    /// Adds a source.
    pub fn add(&mut self, opened: Opened, is_root: bool) {
        let Description { step, role, .. } = opened.description;
        if role != Role::Mount {
            self.beside.insert((step, role), opened);
            return;
        }
        if is_root {
            self.root = Some(step);
        }
        self.opened.insert(step, opened);
    }

    /// Adds an overlay and what comes with it.
    fn add_overlay(&mut self, (overlay, beside): (Opened, Vec<Opened>), is_root: bool) {
        self.add(overlay, is_root);
        for opened in beside {
            self.add(opened, false);
        }
    }

    /// The source of a step; `None` if it was missing and optional.
    pub fn take(&mut self, step: u32) -> Option<Opened> {
        self.opened.remove(&step)
    }

    /// The upper directory of a step's overlay, if it is the host's.
    pub fn take_upper(&mut self, step: u32) -> Option<Opened> {
        self.beside.remove(&(step, Role::Upper))
    }

    /// The lock of a step's overlay, to be held as long as it is mounted.
    pub fn take_lock(&mut self, step: u32) -> Option<OwnedFd> {
        self.beside.remove(&(step, Role::Lock)).map(|opened| opened.mount)
    }

    /// The root directory.
    pub fn take_root(&mut self) -> Option<Opened> {
        self.root.and_then(|step| self.take(step))
    }

    /// What the root directory is.
    pub(super) fn root_description(&self) -> Option<&Description> {
        self.root.and_then(|step| self.opened.get(&step)).map(|opened| &opened.description)
    }

    /// All of them, in the order of their steps.
    pub fn into_list(self) -> Vec<Opened> {
        self.opened.into_values().chain(self.beside.into_values()).collect()
    }
}

/// How sources are opened.
#[derive(Debug, Default)]
pub struct Request<'a> {
    /// Descriptors that came with the request.
    pub fds: &'a [OwnedFd],
    /// Device nodes are made here, for a user namespace with this mapping in which they can't be.
    pub devices_for: Option<&'a IdMap>,
    /// The mapping of the container's user namespace.
    pub user: Option<&'a IdMap>,
    /// Whether this process is in a mount namespace of the container's own.
    pub own_mount_namespace: bool,
    /// Whether layers of overlays, and what nodes are made in, must be attached, as on kernels before 6.15; else that is tried.
    pub attached_layers: bool,
    /// Whether the mounts are to be compared with those that they are copies of.
    pub verify: bool,
    /// What is open already, if this is a container of a template.
    pub template: Option<&'a Template>,
    /// Only the sources of these steps are wanted; all, if it is `None`.
    pub only: Option<&'a BTreeSet<u32>>,
}

impl Request<'_> {
    fn wants(&self, step: u32) -> bool {
        self.only.is_none_or(|steps| steps.contains(&step))
    }

    /// What a template holds open for a step.
    fn pinned(&self, step: u32) -> Option<BorrowedFd<'_>> {
        self.fds.get(self.template?.descriptor(step)?).map(AsFd::as_fd)
    }
}

/// The mounts that others are copies of, looked at once each.
#[derive(Default)]
struct Originals(RefCell<BTreeMap<u64, Original>>);

impl Originals {
    fn known(&self, mount: u64) -> Option<Original> {
        self.0.borrow().get(&mount).copied()
    }

    fn of(&self, kernel: &dyn Kernel, file: BorrowedFd<'_>, mount: u64) -> Result<Original> {
        let original = self.known(mount).map_or_else(|| Original::of(kernel, file, mount), Ok)?;
        self.0.borrow_mut().insert(mount, original);
        Ok(original)
    }
}

/// Opens all host sources of a plan.
pub fn open(kernel: &dyn Kernel, plan: &Plan, request: &Request<'_>) -> Result<Sources> {
    let mut sources = Sources::default();
    let mut root_propagation = Propagation::RSLAVE;
    let maps = IdMaps::default();
    let originals = Originals::default();
    let context = selinux_context(kernel, plan);
    let attached = request.attached_layers;
    let mut nodes = request.devices_for.map(|map| Nodes { kernel, map, context, tmpfs: None, attached });
    for step in &plan.steps {
        let at = |error: Box<Error>| locate_source(error, step);
        match &step.action {
            Action::Root { root, propagation } => {
                root_propagation = *propagation;
                match root {
                    _ if !request.wants(step.index) => {}
                    Root::Directory(path) => {
                        let opened = open_root(kernel, path, *propagation, step.index, request);
                        sources.add(opened.map_err(at)?, true);
                    }
                    Root::Overlay { overlay, size } => {
                        let wanted = overlay::Wanted {
                            overlay,
                            flags: 0,
                            without_upper: WithoutUpper::Private(*size),
                            context,
                            step: step.index,
                        };
                        sources.add_overlay(overlay::open(kernel, &wanted, request).map_err(at)?, true);
                    }
                    Root::Empty { .. } => {}
                }
            }
            _ if !request.wants(step.index) => {}
            Action::Mount {
                mount: Mount { kind: MountKind::Overlay(overlay), attributes, propagation, .. },
                readonly_later,
                propagation_later,
            } => {
                let wanted = overlay::Wanted {
                    overlay,
                    flags: attributes.of_new_mount(*readonly_later),
                    without_upper: WithoutUpper::Readonly,
                    context,
                    step: step.index,
                };
                let made = overlay::open(kernel, &wanted, request).map_err(at)?;
                if !propagation_later {
                    apply_propagation(kernel, made.0.mount.as_fd(), propagation).map_err(at)?;
                }
                sources.add_overlay(made, false);
            }
            Action::Mount { mount, readonly_later, .. } => {
                let bind = Bind {
                    mount,
                    later: Later::of(plan, step.index, *readonly_later),
                    step: step.index,
                    root_propagation,
                    originals: &originals,
                };
                let opened = open_bind(kernel, &bind, request, &maps);
                if let Some(opened) = opened.map_err(at)? {
                    sources.add(opened, false);
                }
            }
            Action::Device(device) => {
                let Some(nodes) = &mut nodes else { continue };
                match nodes.make(device, step.index) {
                    // In a user namespace, and where the devices of a cgroup are limited, the first process binds the host's.
                    Err(error)
                        if error.errno == Some(libc::EPERM)
                            && error.syscall.as_deref() == Some("mknodat")
                            && device.kind != DeviceType::Fifo => {}
                    made => sources.add(made.map_err(at)?, false),
                }
            }
            _ => {}
        }
    }
    Ok(sources)
}

/// Opens what the given steps of a plan are made from, and no more: the files that a template's containers are all made from.
/// `None` for what is missing and optional; steps whose sources are no files of the host are left out.
pub(super) fn pin(
    kernel: &dyn Kernel,
    plan: &Plan,
    wants: impl Fn(u32) -> bool,
) -> Result<Vec<(u32, Option<OwnedFd>)>> {
    let mut pinned = Vec::new();
    for step in plan.steps.iter().filter(|step| wants(step.index)) {
        let opened = match &step.action {
            Action::Root { root: Root::Directory(path), .. } => {
                open_root_directory(kernel, path).map(|(directory, _)| Some(directory))
            }
            Action::Mount {
                mount:
                    Mount {
                        kind: MountKind::Bind { source: BindSource::Host(path), optional, within, .. },
                        links,
                        ..
                    },
                ..
            } => match open_source(kernel, path, within.as_ref(), *links) {
                Err(error) if *optional && error.errno == Some(libc::ENOENT) => Ok(None),
                other => other.map(Some),
            },
            _ => continue,
        };
        pinned.push((step.index, opened.map_err(|error| locate_source(error, step))?));
    }
    Ok(pinned)
}

/// Adds to an error of a source which step it is of.
fn locate_source(mut error: Box<Error>, step: &Step) -> Box<Error> {
    error.step = Some(step.index);
    error.source = error.source.or_else(|| step.action.source());
    error.destination = error.destination.or_else(|| step.action.destination());
    if error.flags.is_empty() {
        error.flags = step.action.flags();
    }
    if !matches!(step.action, Action::Root { .. }) {
        let place = step.action.destination().map(|path| path.to_string()).unwrap_or_default();
        error.message = format!("step {} ({} {place}): {}", step.index, step.action.name(), error.message);
    }
    error
}

/// Opens a directory that is to be a root, and is no symbolic link.
pub fn open_root_directory(kernel: &dyn Kernel, path: &PathBytes) -> Result<(OwnedFd, FileStatus)> {
    let path = &path.as_entry();
    let fail = |call: &SysError| {
        let what = match Errno::from_raw(call.errno) {
            Errno::ENOENT => "the root directory doesn't exist",
            // With O_NOFOLLOW a symbolic link is opened itself, and that is no directory.
            Errno::ENOTDIR | Errno::ELOOP => match kernel.open_host(path, false, false) {
                Ok(fd) if kernel.status(fd.as_fd()).is_ok_and(|status| status.kind == FileKind::Symlink) => {
                    "the root directory is a symbolic link"
                }
                _ => "the root directory is no directory",
            },
            _ => "the root directory can't be opened",
        };
        Error::from_call(ErrorCode::Root, format!("{path}: {what}"), call)
    };
    let directory = kernel.open_host(path, true, false).map_err(|call| fail(&call))?;
    let status = kernel.status(directory.as_fd()).map_err(|call| fail(&call))?;
    Ok((directory, status))
}

fn open_root(
    kernel: &dyn Kernel,
    path: &PathBytes,
    propagation: Propagation,
    step: u32,
    request: &Request<'_>,
) -> Result<Opened> {
    let cannot_be_copied = |call: &SysError| {
        Error::from_call(ErrorCode::Root, format!("{path}: the root directory can't be copied"), call)
    };
    let pinned = request.pinned(step);
    if let (Some(tree), Some(description)) = (pinned, request.template.and_then(Template::tree)) {
        let mount = kernel.clone_mount(tree, true).map_err(|call| cannot_be_copied(&call))?;
        let identity = description.identity;
        return Ok(Opened { description: description.clone(), mount, identity });
    }
    let (directory, status) = match pinned {
        None => open_root_directory(kernel, path)?,
        Some(pinned) => {
            let what = || format!("{path}: the root directory of the template can't be looked at");
            let directory = rustix::io::fcntl_dupfd_cloexec(pinned, 0)
                .map_err(|errno| SysError::new("fcntl", errno, "F_DUPFD_CLOEXEC"))
                .context(ErrorCode::Root, what)?;
            let status = kernel.status(pinned).context(ErrorCode::Root, what)?;
            (directory, status)
        }
    };
    let mount = match kernel.clone_mount(directory.as_fd(), true) {
        // It is of another mount namespace.
        Err(call) if pinned.is_some() && call.is(Errno::EINVAL) => {
            let (again, found) = open_root_directory(kernel, path)?;
            if (found.device, found.inode) != (status.device, status.inode) {
                let what = "the root directory is not the one that the template was made with";
                return Err(Error::new(ErrorCode::Root, format!("{path}: {what}")));
            }
            kernel.clone_mount(again.as_fd(), true)
        }
        other => other,
    }
    .map_err(|call| cannot_be_copied(&call))?;
    let change = AttributeChange {
        propagation: Some(implied_propagation(propagation)),
        recursive: true,
        ..AttributeChange::default()
    };
    kernel
        .set_attributes(mount.as_fd(), change)
        .context(ErrorCode::Root, || format!("{path}: its propagation can't be changed"))?;
    let identity = Identity { device: status.device, inode: status.inode };
    let original =
        request.verify.then(|| Original::of(kernel, directory.as_fd(), status.mount)).transpose()?;
    let description = Description {
        step,
        path: path.clone(),
        identity,
        directory: true,
        proc_root: false,
        role: Role::Mount,
        original,
        mount: None,
    };
    Ok(Opened { description, mount, identity })
}

/// The label of new filesystems, where the host has SELinux.
pub(super) fn selinux_context<'a>(kernel: &dyn Kernel, plan: &'a Plan) -> Option<&'a str> {
    plan.mount_label.as_deref().filter(|_| kernel.selinux_enabled())
}

/// A bind of the plan.
struct Bind<'a> {
    mount: &'a Mount,
    later: Later,
    step: u32,
    root_propagation: Propagation,
    originals: &'a Originals,
}

fn open_bind(
    kernel: &dyn Kernel,
    bind: &Bind<'_>,
    request: &Request<'_>,
    maps: &IdMaps,
) -> Result<Option<Opened>> {
    let Bind { mount, later, step, root_propagation, originals } = *bind;
    let MountKind::Bind { source, recursive, optional, within } = &mount.kind else { return Ok(None) };
    if let Some(opened) = open_plain_bind(kernel, bind, request)? {
        return Ok(Some(opened));
    }
    let original = |file: BorrowedFd<'_>, status: &FileStatus| {
        request.verify.then(|| originals.of(kernel, file, status.mount)).transpose()
    };
    let (path, copy, status, original) = match source {
        BindSource::InRoot(_) => return Ok(None),
        BindSource::Host(_) if request.template.is_some_and(|template| template.is_missing(step)) => {
            return Ok(None);
        }
        BindSource::Host(path) => {
            let open = || open_source(kernel, path, within.as_ref(), mount.links);
            let pinned = request.pinned(step);
            let file = match pinned {
                Some(pinned) => rustix::io::fcntl_dupfd_cloexec(pinned, 0)
                    .map_err(|errno| SysError::new("fcntl", errno, "F_DUPFD_CLOEXEC"))
                    .context(ErrorCode::Source, || {
                        format!("{path}: the source of the template can't be used")
                    })?,
                None => match open() {
                    Err(error) if *optional && error.errno == Some(libc::ENOENT) => return Ok(None),
                    other => other?,
                },
            };
            let status = status_of(kernel, file.as_fd(), path)?;
            if mount.links.copy && status.kind == FileKind::Symlink {
                let identity = Identity { device: status.device, inode: status.inode };
                let path = path.clone();
                let description = Description {
                    step,
                    path,
                    identity,
                    directory: false,
                    proc_root: false,
                    role: Role::Mount,
                    original: None,
                    mount: None,
                };
                return Ok(Some(Opened { description, mount: file, identity }));
            }
            let copy = if pinned.is_some() {
                let what = "source is not the file that the template was made with";
                copy_descriptor(kernel, file.as_fd(), &status, *recursive, path, (&open, what))?
            } else {
                copy(kernel, file.as_fd(), *recursive, path)?
            };
            (path, copy, status, original(file.as_fd(), &status)?)
        }
        BindSource::Fd { index, path } => {
            let file = request.fds.get(*index as usize).ok_or_else(|| {
                Error::new(
                    ErrorCode::Source,
                    format!("{path}: its file descriptor didn't come with the request"),
                )
            })?;
            let status = status_of(kernel, file.as_fd(), path)?;
            let again = || kernel.open_host(path, false, true).map_err(|call| source_error(path, &call));
            let what = "source is not the file of the given descriptor";
            let copy = copy_descriptor(kernel, file.as_fd(), &status, *recursive, path, (&again, what))?;
            (path, copy, status, original(file.as_fd(), &status)?)
        }
    };
    // A mount can only be idmapped as long as nobody has seen it.
    if let Some(wanted) = &mount.id_map {
        maps.apply(kernel, copy.as_fd(), wanted, request.user)?;
    }
    apply_attributes(kernel, copy.as_fd(), mount, later, Some(root_propagation))?;
    let identity = Identity { device: status.device, inode: status.inode };
    let description = Description {
        step,
        path: path.clone(),
        identity,
        directory: status.kind == FileKind::Directory,
        proc_root: crate::procfs::is_proc_root(kernel, copy.as_fd(), &status)?,
        role: Role::Mount,
        original,
        mount: None,
    };
    Ok(Some(Opened { description, mount: copy, identity }))
}

/// Binds what a path of the host leads to without opening it first, where the mount that it is on is known from a bind before:
/// where there are many, this is a third of what opening them takes. `None` if it has to be done the other way.
fn open_plain_bind(kernel: &dyn Kernel, bind: &Bind<'_>, request: &Request<'_>) -> Result<Option<Opened>> {
    let Bind { mount, later, step, root_propagation, originals } = *bind;
    let MountKind::Bind { source: BindSource::Host(path), recursive, within: None, .. } = &mount.kind else {
        return Ok(None);
    };
    if mount.links.copy || mount.id_map.is_some() || later.top_readonly || request.template.is_some() {
        return Ok(None);
    }
    let changes = Changes::of(mount, later, Some(root_propagation), false);
    let first = AttributeChange { recursive: *recursive, ..changes.below };
    let is_known = |of| originals.known(of).is_some();
    let Some(copy) = kernel.clone_host(path, !mount.links.source, first, &is_known) else { return Ok(None) };
    changes.apply_rest(kernel, copy.fd.as_fd(), mount)?;
    let identity = Identity { device: copy.status.device, inode: copy.status.inode };
    let description = Description {
        step,
        path: path.clone(),
        identity,
        directory: copy.status.kind == FileKind::Directory,
        proc_root: crate::procfs::is_proc_root(kernel, copy.fd.as_fd(), &copy.status)?,
        role: Role::Mount,
        original: originals.known(copy.of),
        mount: Some(copy.status.mount),
    };
    Ok(Some(Opened { description, mount: copy.fd, identity }))
}

fn source_error(path: &PathBytes, call: &SysError) -> Box<Error> {
    let what = match Errno::from_raw(call.errno) {
        Errno::ENOENT => "source does not exist",
        Errno::EACCES => "source can't be reached",
        _ => "source can't be opened",
    };
    let mut error = Error::from_call(ErrorCode::Source, format!("{path}: {what}"), call);
    error.source = Some(path.clone());
    error
}

fn status_of(kernel: &dyn Kernel, file: BorrowedFd<'_>, path: &PathBytes) -> Result<FileStatus> {
    kernel.status(file).map_err(|call| source_error(path, &call))
}

fn open_source(
    kernel: &dyn Kernel,
    path: &PathBytes,
    within: Option<&PathBytes>,
    links: Links,
) -> Result<OwnedFd> {
    let follow_last = !links.source;
    let Some(within) = within else {
        if links.copy {
            let file = kernel.open_host(path, false, false).map_err(|call| source_error(path, &call))?;
            if !follow_last || status_of(kernel, file.as_fd(), path)?.kind == FileKind::Symlink {
                return Ok(file);
            }
        }
        return kernel.open_host(path, false, follow_last).map_err(|call| source_error(path, &call));
    };
    let (inside, outside) = (path.normalized(), within.normalized());
    let Ok(relative) = inside.as_path().strip_prefix(outside.as_path()) else {
        return Err(Error::new(ErrorCode::Source, format!("{path}: source is not inside {within}")));
    };
    let top = kernel.open_host(within, true, true).map_err(|call| source_error(within, &call))?;
    let relative = PathBytes::from("/").join(PathBytes::from(relative));
    let follow = if follow_last && !links.copy { Follow::All } else { Follow::AllButLast };
    resolve::resolve(kernel, top.as_fd(), &relative, follow).map_err(|call| source_error(path, &call))
}

fn copy(kernel: &dyn Kernel, file: BorrowedFd<'_>, recursive: bool, path: &PathBytes) -> Result<OwnedFd> {
    kernel.clone_mount(file, recursive).map_err(|call| {
        let locked = !recursive && call.is(Errno::EINVAL);
        let error = Error::from_call(ErrorCode::Mount, format!("{path}: the source can't be bound"), &call);
        if locked { error.with_hint(Hint::LockedSubmounts) } else { error }
    })
}

/// Copies the mount of a descriptor; one from another mount namespace is found again by its path and must be the same.
fn copy_descriptor(
    kernel: &dyn Kernel,
    file: BorrowedFd<'_>,
    status: &FileStatus,
    recursive: bool,
    path: &PathBytes,
    (open, what): (&dyn Fn() -> Result<OwnedFd>, &str),
) -> Result<OwnedFd> {
    match kernel.clone_mount(file, recursive) {
        Err(call) if call.is(Errno::EINVAL) => {}
        Err(call) => {
            return Err(Error::from_call(
                ErrorCode::Mount,
                format!("{path}: the source can't be bound"),
                &call,
            ));
        }
        Ok(mount) => return Ok(mount),
    }
    let again = open()?;
    let found = status_of(kernel, again.as_fd(), path)?;
    if (found.device, found.inode) != (status.device, status.inode) {
        return Err(Error::new(ErrorCode::Source, format!("{path}: {what}")));
    }
    copy(kernel, again.as_fd(), recursive, path)
}

/// What a copy of a mount becomes where nothing is said: it would keep its peer group, and mounts made inside would appear on
/// the host.
pub(super) fn implied_propagation(root: Propagation) -> Propagation {
    match root.kind {
        PropagationType::Shared => Propagation::RSLAVE,
        _ => Propagation { recursive: true, ..root },
    }
}

/// The propagation types that a copy of a mount gets.
pub(super) fn propagation_of_copy(wanted: &Mount, root: Propagation) -> Vec<Propagation> {
    let words = &wanted.propagation;
    let brings_others = matches!(wanted.kind, MountKind::Bind { recursive: true, .. });
    let only_for_the_top = brings_others && !words.iter().any(|word| word.recursive);
    // One that is to be shared keeps its peers, and so does what it brings along.
    let shared = words.first().is_some_and(|word| word.kind == PropagationType::Shared);
    if words.is_empty() || (only_for_the_top && !shared) {
        [&[implied_propagation(root)], &words[..]].concat()
    } else {
        words.clone()
    }
}

/// What of a mount comes when it is in place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Later {
    /// The mount itself becomes read-only, because something is still to be made below.
    top_readonly: bool,
    /// And so do those that it brings along. In a tree that is never attached they can't be changed once something is mounted on
    /// them.
    below_readonly: bool,
    /// Its propagation.
    pub(super) propagation: bool,
}

impl Later {
    pub(super) fn of(plan: &Plan, step: u32, readonly_later: bool) -> Self {
        Self {
            top_readonly: readonly_later,
            below_readonly: readonly_later && !plan.enters_by_chroot(),
            propagation: plan.sets_propagation_later(step),
        }
    }
}

/// What a mount is before it is attached, if its propagation comes afterwards: one that can't be bound could not be put on a
/// shared one.
pub(super) fn attachable(propagation: Vec<Propagation>, later: Later) -> Vec<Propagation> {
    let kind = |kind| match kind {
        PropagationType::Unbindable if later.propagation => PropagationType::Private,
        other => other,
    };
    propagation.into_iter().map(|one| Propagation { kind: kind(one.kind), ..one }).collect()
}

/// Gives a mount its flags and propagation, with as few calls as the kernel allows.
pub(super) fn apply_attributes(
    kernel: &dyn Kernel,
    mount: BorrowedFd<'_>,
    wanted: &Mount,
    later: Later,
    root_propagation: Option<Propagation>,
) -> Result<()> {
    // What comes along is made read-only with the top, which gets back what it had.
    let reopened = later.top_readonly
        && !later.below_readonly
        && wanted.attributes.set_recursive & attr::RDONLY != 0
        && !kernel.is_readonly(mount).context(ErrorCode::Source, || "the source can't be looked at")?;
    let changes = Changes::of(wanted, later, root_propagation, reopened);
    let below = changes.below;
    if below.set | below.clear != 0 || below.propagation.is_some() {
        kernel.set_attributes(mount, below).map_err(|call| refused(&call, below.set | below.clear))?;
    }
    changes.apply_rest(kernel, mount, wanted)
}

/// What is changed of a mount, one after the other.
struct Changes {
    /// Of it and all below.
    below: AttributeChange,
    /// Of itself. It comes last: it is an exception to what is said of all below.
    top: AttributeChange,
    propagation: Vec<Propagation>,
}

impl Changes {
    fn of(wanted: &Mount, later: Later, root_propagation: Option<Propagation>, reopened: bool) -> Self {
        let attributes = &wanted.attributes;
        let now = |when: bool| if when { !0 } else { !attr::RDONLY };
        let (top_now, below_now) = (now(!later.top_readonly), now(!later.below_readonly));
        // Of the access-time modes, all or nothing can be changed.
        let atime = |mode: Option<u64>| mode.map_or((0, 0), |mode| (mode, attr::ATIME));
        let (atime_set, atime_clear) = atime(attributes.atime);
        let (recursive_atime_set, recursive_atime_clear) = atime(attributes.atime_recursive);
        let top = AttributeChange {
            set: attributes.set & top_now | atime_set,
            clear: attributes.clear | atime_clear | if reopened { attr::RDONLY } else { 0 },
            ..AttributeChange::default()
        };
        let mut below = AttributeChange {
            set: attributes.set_recursive & below_now | recursive_atime_set,
            clear: attributes.clear_recursive | recursive_atime_clear,
            propagation: None,
            recursive: true,
        };
        let propagation = match root_propagation {
            Some(root) => propagation_of_copy(wanted, root),
            None => wanted.propagation.clone(),
        };
        let mut propagation = attachable(propagation, later);
        if let Some(first) = propagation.first().copied().filter(|first| first.recursive) {
            below.propagation = Some(first);
            propagation.remove(0);
        }
        Self { below, top, propagation }
    }

    /// Makes all changes but the first, of the mount and all below.
    fn apply_rest(&self, kernel: &dyn Kernel, mount: BorrowedFd<'_>, wanted: &Mount) -> Result<()> {
        let (attributes, top) = (&wanted.attributes, self.top);
        let implied = attr::EXACT & !(attributes.set | attributes.set_recursive);
        if attributes.exact {
            apply_exactly(kernel, mount, top, implied)?;
        } else if top.set | top.clear != 0 {
            kernel.set_attributes(mount, top).map_err(|call| refused(&call, top.set | top.clear))?;
        }
        apply_propagation(kernel, mount, &self.propagation)
    }
}

/// Gives a copy of the caller's mounts, in the place of a filesystem that a user namespace may not have, the flags that were
/// asked for. Those that it has are locked: what can't be is told.
pub(super) fn apply_to_fallback(
    kernel: &dyn Kernel,
    copy: BorrowedFd<'_>,
    attributes: &Attributes,
    flags: u64,
    what: &str,
) -> Result<()> {
    let change = AttributeChange {
        set: flags & attr::PLAIN,
        clear: 0,
        propagation: Some(Propagation::RPRIVATE),
        recursive: true,
    };
    kernel.set_attributes(copy, change).context(ErrorCode::Denied, || what)?;
    let rest = attributes.mentioned() & !attr::PLAIN;
    if rest != 0 {
        let set = flags & rest;
        let change =
            AttributeChange { set, clear: rest & (attr::ATIME | !set), ..AttributeChange::default() };
        kernel.set_attributes(copy, change).map_err(|call| refused(&call, rest))?;
    }
    Ok(())
}

/// Gives a mount its propagation types, one after the other.
pub(super) fn apply_propagation(
    kernel: &dyn Kernel,
    mount: BorrowedFd<'_>,
    propagation: &[Propagation],
) -> Result<()> {
    for propagation in propagation {
        let change = AttributeChange {
            propagation: Some(*propagation),
            recursive: propagation.recursive,
            ..AttributeChange::default()
        };
        kernel
            .set_attributes(mount, change)
            .context(ErrorCode::Mount, || format!("it can't be made {}", propagation.name()))?;
    }
    Ok(())
}

/// Clears flags that are not asked for too, where that is possible.
fn apply_exactly(
    kernel: &dyn Kernel,
    mount: BorrowedFd<'_>,
    asked: AttributeChange,
    implied: u64,
) -> Result<()> {
    let change = AttributeChange { clear: asked.clear | implied, ..asked };
    match kernel.set_attributes(mount, change) {
        // In a user namespace flags of the host are locked: those that are not asked to go may stay. And before Linux 5.14
        // one of them is not known.
        Err(call) if (call.is(Errno::EPERM) || call.is(Errno::EINVAL)) && implied != 0 => {
            if asked.set | asked.clear != 0 {
                kernel
                    .set_attributes(mount, asked)
                    .map_err(|call| refused(&call, asked.set | asked.clear))?;
            }
            for bit in (0..64).map(|bit| 1_u64 << bit).filter(|bit| implied & bit != 0) {
                let change = AttributeChange { clear: bit, ..AttributeChange::default() };
                match kernel.set_attributes(mount, change) {
                    Err(call) if call.is(Errno::EPERM) => {}
                    Err(call) if call.is(Errno::EINVAL) && bit == attr::NOSYMFOLLOW => {}
                    other => other.map_err(|call| refused(&call, 0))?,
                }
            }
            Ok(())
        }
        other => other.map_err(|call| refused(&call, asked.set | asked.clear)),
    }
}

/// What it means that the flags that were asked for were refused. Setting one is never forbidden where the mount is one's
/// own: it is a flag that was to go, or the access-time mode.
pub(super) fn refused(call: &SysError, asked: u64) -> Box<Error> {
    if !call.is(Errno::EPERM) || asked == 0 {
        return Error::from_call(ErrorCode::Mount, "its flags can't be set", call);
    }
    let what = if asked & attr::ATIME != 0 || asked & attr::NODIRATIME != 0 {
        "a flag that is locked can't be cleared, nor can the access-time mode of a locked mount be changed"
    } else {
        "a flag that is locked can't be cleared"
    };
    Error::from_call(ErrorCode::Locked, what, call).with_hint(Hint::LockedFlags)
}

/// Makes device nodes for a user namespace, in a tmpfs nobody else sees.
struct Nodes<'a> {
    kernel: &'a dyn Kernel,
    map: &'a IdMap,
    context: Option<&'a str>,
    /// Made when the first is.
    tmpfs: Option<OwnedFd>,
    /// Whether a part of a detached filesystem can't be copied, as before Linux 6.15.
    attached: bool,
}

impl Nodes<'_> {
    /// Makes a node, and a bind of it for the container.
    fn make(&mut self, device: &Device, step: u32) -> Result<Opened> {
        let what = || format!("{} can't be made", device.path);
        let mount = match self.detached(device, step)? {
            Some(mount) => mount,
            None => self.kernel.in_private_mounts(&mut || {
                let tmpfs = self.new_tmpfs()?;
                attach_aside(self.kernel, &tmpfs)?;
                let node = self.node(&tmpfs, device, step)?;
                self.kernel.clone_mount(node.as_fd(), false).context(ErrorCode::Device, what)
            })?,
        };
        let status = self.kernel.status(mount.as_fd()).context(ErrorCode::Device, what)?;
        let change = AttributeChange { set: attr::NOSUID | attr::NOEXEC, ..AttributeChange::default() };
        self.kernel.set_attributes(mount.as_fd(), change).context(ErrorCode::Device, what)?;
        let identity = Identity { device: status.device, inode: status.inode };
        let description = Description {
            step,
            path: device.path.clone(),
            identity,
            directory: false,
            proc_root: false,
            role: Role::Mount,
            original: None,
            mount: None,
        };
        Ok(Opened { description, mount, identity })
    }

    /// `None` if the tmpfs has to be attached first.
    fn detached(&mut self, device: &Device, step: u32) -> Result<Option<OwnedFd>> {
        if self.attached {
            return Ok(None);
        }
        let tmpfs = match self.tmpfs.take() {
            Some(tmpfs) => tmpfs,
            None => self.new_tmpfs()?,
        };
        let node = self.node(&tmpfs, device, step)?;
        self.tmpfs = Some(tmpfs);
        match self.kernel.clone_mount(node.as_fd(), false) {
            Err(call) if call.is(Errno::EINVAL) => {
                self.attached = true;
                Ok(None)
            }
            other => other.context(ErrorCode::Device, || format!("{} can't be made", device.path)).map(Some),
        }
    }

    fn new_tmpfs(&self) -> Result<OwnedFd> {
        let mut data = vec![("mode".to_owned(), Some("755".to_owned()))];
        data.extend(self.context.map(|label| ("context".to_owned(), Some(label.to_owned()))));
        let tmpfs =
            Filesystem { fstype: "tmpfs".to_owned(), source: None, superblock: Vec::new(), data, flags: 0 };
        tmpfs.make(self.kernel)
    }

    fn node(&self, tmpfs: &OwnedFd, device: &Device, step: u32) -> Result<OwnedFd> {
        let owner = (IdMap::to_host(&self.map.uids, device.uid), IdMap::to_host(&self.map.gids, device.gid));
        let (Some(uid), Some(gid)) = owner else {
            return Err(Error::new(
                ErrorCode::Device,
                format!("owner {}:{} is not mapped in the user namespace", device.uid, device.gid),
            ));
        };
        let name = PathBytes::from(step.to_string());
        self.kernel
            .make_node(tmpfs.as_fd(), &name, node_kind(device), device.mode)
            .and_then(|()| self.kernel.change_owner(tmpfs.as_fd(), &name, uid, gid))
            .and_then(|()| self.kernel.resolve(tmpfs.as_fd(), &name, Follow::AllButLast))
            .context(ErrorCode::Device, || format!("{} can't be made", device.path))
    }
}

pub(super) fn node_kind(device: &Device) -> NodeKind {
    match device.kind {
        DeviceType::Character => NodeKind::Character(device.major, device.minor),
        DeviceType::Block => NodeKind::Block(device.major, device.minor),
        DeviceType::Fifo => NodeKind::Fifo,
    }
}
