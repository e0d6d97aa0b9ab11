//! Making overlays: their directories are opened as the host sources that they are, and the filesystem is mounted detached
//! from those descriptors before any target is touched.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::filesystem::Filesystem;
use super::sources::{Description, Opened, Request, Role};
use crate::error::{CallContext, Error, ErrorCode, Result};
use crate::hint::Hint;
use crate::journal::Identity;
use crate::kernel::{FileStatus, Follow, Kernel};
use crate::options::{attr, is_known_option};
use crate::overlay::{Overlay, Upper};
use crate::path::PathBytes;

/// A directory of an overlay.
struct Layer {
    fd: OwnedFd,
    status: FileStatus,
}

/// The directories of an overlay, opened.
struct Layers {
    lower: Vec<Layer>,
    /// Where it is written to, and the kernel's own directory.
    upper: Option<(Layer, Layer)>,
}

/// What an overlay without an upper directory is written to.
#[derive(Clone, Copy, Debug)]
pub(super) enum WithoutUpper {
    /// Nothing.
    Readonly,
    /// A tmpfs that nobody else sees, of this size.
    Private(Option<u64>),
}

/// An overlay to be made.
pub(super) struct Wanted<'a> {
    pub(super) overlay: &'a Overlay,
    /// `MOUNT_ATTR_*` bits.
    pub(super) flags: u64,
    /// What happens without an upper directory.
    pub(super) without_upper: WithoutUpper,
    /// The SELinux context of its files.
    pub(super) context: Option<&'a str>,
    /// The step it belongs to.
    pub(super) step: u32,
}

/// Makes an overlay. Its mount comes first; if it is written to the host, its upper directory and its lock come along.
pub(super) fn open(
    kernel: &dyn Kernel,
    wanted: &Wanted<'_>,
    request: &Request<'_>,
) -> Result<(Opened, Vec<Opened>)> {
    let layers = Layers::open(kernel, wanted.overlay)?;
    let lock = match (&layers.upper, &wanted.overlay.upper) {
        (Some((_, work)), Some(names)) => Some(lock(kernel, work, &names.work)?),
        _ => None,
    };
    let mount = match (&layers.upper, wanted.without_upper) {
        (None, WithoutUpper::Private(size)) => with_private_upper(kernel, wanted, &layers, size, request)?,
        _ => make(kernel, wanted, &layers, None)?,
    };
    let status =
        kernel.status(mount.as_fd()).context(ErrorCode::Mount, || "the overlay can't be looked at")?;
    let identity = |status: &FileStatus| Identity { device: status.device, inode: status.inode };
    let opened = |path: &PathBytes, identity, role, mount| Opened {
        description: Description {
            step: wanted.step,
            path: path.clone(),
            identity,
            directory: true,
            proc_root: false,
            role,
            original: None,
            mount: None,
        },
        mount,
        identity,
    };
    let mut beside = Vec::new();
    if let (Some((upper, work)), Some(names)) = (layers.upper, &wanted.overlay.upper) {
        beside.push(opened(&names.directory, identity(&upper.status), Role::Upper, upper.fd));
        beside.extend(lock.map(|lock| opened(&names.work, identity(&work.status), Role::Lock, lock)));
    }
    Ok((opened(&"overlay".into(), identity(&status), Role::Mount, mount), beside))
}

/// Two overlays that write to the same directories are undefined, and the kernel refuses them only where it keeps an index.
/// So each holds a lock on its work directory.
fn lock(kernel: &dyn Kernel, work: &Layer, path: &PathBytes) -> Result<OwnedFd> {
    let directory = kernel.open_directory(work.fd.as_fd()).context(ErrorCode::Source, || {
        format!("{path}: the work directory of the overlay can't be opened")
    })?;
    // A container that has just ended may be about to let go of it.
    let mut tries = 0;
    loop {
        match kernel.lock_exclusive(directory.as_fd()) {
            Ok(()) => return Ok(directory),
            Err(call) if call.is(Errno::EWOULDBLOCK) && tries < 20 => {
                tries += 1;
                kernel.pause(10);
            }
            Err(call) if call.is(Errno::EWOULDBLOCK) => {
                let what = format!("{path}: the work directory is in use by another container's overlay");
                let mut error = Error::from_call(ErrorCode::Source, what, &call).with_hint(Hint::SharedUpper);
                error.source = Some(path.clone());
                return Err(error);
            }
            Err(call) => {
                let what = format!("{path}: the work directory of the overlay can't be locked");
                return Err(Error::from_call(ErrorCode::Source, what, &call));
            }
        }
    }
}

impl Layers {
    fn open(kernel: &dyn Kernel, overlay: &Overlay) -> Result<Self> {
        let open = |name: &'static str, path: &PathBytes| -> Result<Layer> {
            let opened = kernel.open_host(path, true, true).and_then(|fd| {
                let status = kernel.status(fd.as_fd())?;
                Ok(Layer { fd, status })
            });
            opened.map_err(|call| {
                let what = match Errno::from_raw(call.errno) {
                    Errno::ENOENT => "does not exist",
                    Errno::ENOTDIR => "is no directory",
                    Errno::EACCES => "can't be reached",
                    _ => "can't be opened",
                };
                let message = format!("{path}: the {name} directory of the overlay {what}");
                let mut error = Error::from_call(ErrorCode::Source, message, &call);
                error.source = Some(path.clone());
                error
            })
        };
        let lower = overlay.lower.iter().map(|path| open("lower", path)).collect::<Result<Vec<_>>>()?;
        let upper = match &overlay.upper {
            Some(Upper { directory, work }) => Some((open("upper", directory)?, open("work", work)?)),
            None => None,
        };
        let layers = Self { lower, upper };
        layers.check(overlay)?;
        Ok(layers)
    }

    /// What the kernel would refuse with less than a word.
    fn check(&self, overlay: &Overlay) -> Result<()> {
        let fail = |path: &PathBytes, what: String| {
            let mut error = Error::new(ErrorCode::Source, format!("{path}: {what}"));
            error.source = Some(path.clone());
            Err(error)
        };
        let identity = |layer: &Layer| (layer.status.device, layer.status.inode);
        let mut seen = std::collections::BTreeMap::new();
        let layers = self.lower.iter().chain(self.upper.iter().flat_map(|(upper, work)| [upper, work]));
        for (layer, (_, path)) in layers.zip(overlay.directories()) {
            if let Some(other) = seen.insert(identity(layer), path) {
                return fail(path, format!("the same directory is given to the overlay as {other}"));
            }
        }
        if let (Some((upper, work)), Some(names)) = (&self.upper, &overlay.upper)
            && upper.status.mount != work.status.mount
        {
            let directory = &names.directory;
            return fail(
                &names.work,
                format!(
                    "the work directory of an overlay must be on the same mount as the upper one, {directory}"
                ),
            );
        }
        Ok(())
    }
}

/// Makes the filesystem and mounts it, detached.
fn make(
    kernel: &dyn Kernel,
    wanted: &Wanted<'_>,
    layers: &Layers,
    private: Option<(BorrowedFd<'_>, BorrowedFd<'_>)>,
) -> Result<OwnedFd> {
    let Wanted { overlay, flags, context, .. } = wanted;
    let mut superblock = overlay.superblock.clone();
    if flags & attr::RDONLY != 0 {
        superblock.push("ro".to_owned());
    }
    if overlay.volatile {
        superblock.push("volatile".to_owned());
    }
    let user_namespace = !kernel
        .in_initial_user_namespace()
        .context(ErrorCode::Proc, || "the own user namespace can't be found out")?;
    if user_namespace && !overlay.data.iter().any(|(key, _)| key == "userxattr") {
        // What is hidden and replaced is written in attributes, and those of the kernel's own kind are for the host only.
        superblock.push("userxattr".to_owned());
    }
    let mut data = overlay.data.clone();
    if let Some(label) = context
        && !data.iter().any(|(key, _)| key == "context")
    {
        data.push(("context".to_owned(), Some((*label).to_owned())));
    }
    let filesystem = Filesystem {
        fstype: "overlay".to_owned(),
        source: Some(overlay.source.clone().unwrap_or_else(|| "overlay".into())),
        superblock,
        data,
        flags: *flags,
    };
    let lower: Vec<BorrowedFd<'_>> = layers.lower.iter().map(|layer| layer.fd.as_fd()).collect();
    let upper = layers.upper.as_ref().map(|(upper, work)| (upper.fd.as_fd(), work.fd.as_fd())).or(private);
    filesystem
        .make_with(kernel, |context| kernel.set_overlay_layers(context, &lower, upper))
        .map_err(|error| explain(error, overlay, upper.is_some(), user_namespace))
}

/// What the kernel says about an overlay is mostly in its own log, which only the host's root can read.
fn explain(mut error: Box<Error>, overlay: &Overlay, has_upper: bool, user_namespace: bool) -> Box<Error> {
    if !error.kernel_log.is_empty() {
        return error;
    }
    // mount(2) doesn't say which, but it is known which there are.
    let unknown = overlay.data.iter().find(|(key, _)| !is_known_option(Some("overlay"), key));
    if let Some((key, value)) = unknown.filter(|_| error.errno == Some(libc::EINVAL)) {
        let value = value.as_deref().map(|value| format!("={value}")).unwrap_or_default();
        error.message = format!("the option \"{key}{value}\" is refused: {}", error.message);
        return error;
    }
    let hint = match error.errno.map(Errno::from_raw) {
        Some(Errno::EINVAL) if !has_upper && user_namespace => {
            "what the host has mounted below a layer is locked in place in a user namespace, so that it can't be one"
        }
        Some(Errno::EINVAL) if !has_upper => return error,
        Some(Errno::EPERM) if user_namespace => "an overlay in a user namespace needs Linux 5.11",
        Some(Errno::EINVAL) if user_namespace => {
            "upper and work must be neither inside the other, on a filesystem that can be written to; and what the host \
             has mounted below a layer is locked in place in a user namespace, so that it can't be one"
        }
        Some(Errno::EINVAL) => {
            "upper and work must be neither inside the other, on a filesystem that can be written to and that is no \
             network filesystem; dmesg says more"
        }
        Some(Errno::ELOOP) => "a directory of the overlay is inside another one of it; dmesg says more",
        Some(Errno::ESTALE | Errno::EBUSY) => {
            "upper or work is in use by another overlay, or was used with other lower directories"
        }
        _ => return error,
    };
    error.with_hint(hint)
}

/// Makes an overlay that is written to a tmpfs that nobody else sees. It lives as long as the overlay.
fn with_private_upper(
    kernel: &dyn Kernel,
    wanted: &Wanted<'_>,
    layers: &Layers,
    size: Option<u64>,
    request: &Request<'_>,
) -> Result<OwnedFd> {
    let what = || "the tmpfs that an overlay is written to can't be made";
    let private = Private::new(kernel, &layers.lower[0].status, size, wanted.context)?;
    // Before Linux 6.15 a layer must be attached in the own mount namespace. Just there nothing can be attached to a
    // detached mount either, so what forbids the one in tests forbids the other.
    if !request.attached_layers {
        match make(kernel, wanted, layers, Some(private.layers())) {
            Err(error) if error.errno == Some(libc::EINVAL) => {}
            other => return other,
        }
    }
    let attached = |layers: &Layers| -> Result<OwnedFd> {
        let slash = kernel.open_host(&"/".into(), true, false).context(ErrorCode::Mount, what)?;
        kernel.attach(private.tmpfs.as_fd(), slash.as_fd()).context(ErrorCode::Mount, what)?;
        let made = make(kernel, wanted, layers, Some(private.layers()));
        kernel.detach(private.tmpfs.as_fd()).context(ErrorCode::Mount, what)?;
        made
    };
    if request.own_mount_namespace {
        return attached(layers);
    }
    // Not in the caller's mount namespace. In a copy of that, the layers have to be opened again, and be the same.
    kernel.in_private_mounts(&mut || {
        let again = Layers::open(kernel, wanted.overlay)?;
        let same =
            |a: &Layer, b: &Layer| (a.status.device, a.status.inode) == (b.status.device, b.status.inode);
        if !again.lower.iter().zip(&layers.lower).all(|(a, b)| same(a, b)) {
            return Err(Error::new(
                ErrorCode::Race,
                "a lower directory was replaced while the overlay was made",
            ));
        }
        attached(&again)
    })
}

/// The tmpfs that an overlay without an upper directory is written to.
struct Private {
    tmpfs: OwnedFd,
    upper: OwnedFd,
    work: OwnedFd,
}

impl Private {
    fn new(
        kernel: &dyn Kernel,
        below: &FileStatus,
        size: Option<u64>,
        context: Option<&str>,
    ) -> Result<Self> {
        let what = || "the tmpfs that an overlay is written to can't be made";
        let mut data = vec![("mode".to_owned(), Some("700".to_owned()))];
        data.extend(size.map(|size| ("size".to_owned(), Some(size.to_string()))));
        data.extend(context.map(|label| ("context".to_owned(), Some(label.to_owned()))));
        let tmpfs = Filesystem {
            fstype: "tmpfs".to_owned(),
            source: Some("overlay-upper".into()),
            superblock: Vec::new(),
            data,
            flags: 0,
        };
        let tmpfs = tmpfs.make(kernel)?;
        let directory = |name: &str, mode| {
            let name = PathBytes::from(name);
            kernel
                .make_directory(tmpfs.as_fd(), &name, mode)
                .and_then(|()| kernel.resolve(tmpfs.as_fd(), &name, Follow::None))
                .context(ErrorCode::Mount, what)
        };
        // The root of an overlay looks like that of its upper directory, and shall look like the lower one's.
        let upper = directory("upper", below.mode)?;
        let (user, group) = below.owner;
        match kernel.change_owner(tmpfs.as_fd(), &"upper".into(), user, group) {
            // In a user namespace in which it has no id, it is root's.
            Err(call) if call.is(Errno::EINVAL) => {}
            other => other.context(ErrorCode::Mount, what)?,
        }
        let work = directory("work", 0o700)?;
        Ok(Self { tmpfs, upper, work })
    }

    fn layers(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        (self.upper.as_fd(), self.work.as_fd())
    }
}
