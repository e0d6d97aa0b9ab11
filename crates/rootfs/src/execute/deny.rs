//! Masks of paths that aren't there: they shall not be created inside either.
//!
//! A mountpoint can't be renamed or removed in its own mount namespace, but a directory above it can, and another made in
//! its place. So every directory on the way is made a mountpoint too, by a bind of itself, unless it is one already or is in
//! a read-only mount.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use nix::errno::Errno;

use super::protect::{READONLY, nothing_there};
use super::{Done, Execution};
use crate::error::{CallContext, Error, ErrorCode, Result};
use crate::hint::Hint;
use crate::kernel::{AttributeChange, FileKind, FileStatus, Follow, Kernel};
use crate::options::{Propagation, attr};
use crate::path::PathBytes;
use crate::plan::Action;
use crate::procfs::PROC_SUPER_MAGIC;
use crate::resolve::{self, Missing};
use crate::spec::{Mask, MissingMask, Mount, MountKind, Root};

/// `SYSFS_MAGIC`; `statfs(2)`.
const SYSFS_MAGIC: u64 = 0x6265_6572;
/// As many links as the kernel follows; `path_resolution(7)`.
const MAX_LINKS: usize = 40;

/// A directory on the way.
#[derive(Clone)]
pub(super) struct Held {
    fd: Rc<OwnedFd>,
    mount: u64,
    device: u64,
    readonly: bool,
    /// Whether it was made a mountpoint by this walk.
    bound: bool,
}

impl Execution<'_> {
    /// Makes an empty file that is to be hidden, where nothing is.
    pub(super) fn stub(&mut self, path: &PathBytes) -> Result<Done> {
        if self.existing(path)?.is_some() {
            return Ok(Done::by("existing"));
        }
        let made = match self.destination(path, Missing::File) {
            // Then it can't be created inside either.
            Err(error) if error.errno == Some(libc::EROFS) => return Ok(Done::by("read-only")),
            other => other?,
        };
        if !made.created {
            return Ok(Done::by("existing"));
        }
        self.stubs.insert(path.normalized());
        let resolved = made.path.filter(|resolved| *resolved != path.normalized());
        Ok(Done { resolved, ..Done::by("made") })
    }

    /// Sees to it that a path that isn't there can't be created.
    pub(super) fn deny(&mut self, mask: &Mask, step: u32) -> Result<Done> {
        let path = &mask.path;
        let what = || format!("{path} can't be kept from being created");
        let (parent, depth, name) = self.hold_in_place(path, step)?;
        let Some(name) = name else {
            return Err(Error::new(ErrorCode::Race, format!("{path} was created while it was masked")));
        };
        let magic = self.kernel.filesystem_magic(parent.fd.as_fd()).context(ErrorCode::Mount, what)?;
        if [PROC_SUPER_MAGIC, SYSFS_MAGIC].contains(&magic) {
            return Ok(Done::by("no-names-made"));
        }
        if parent.readonly {
            return Ok(Done::by("read-only"));
        }
        if mask.missing == MissingMask::Stub {
            // One was made, or found, and something has removed it, which may make it again.
            return Err(nothing_there(path));
        }
        if mask.missing == MissingMask::ReadonlyParent {
            self.make_readonly(&parent, depth, step)?;
            return Ok(Done::by("readonly-parent"));
        }
        if !self.own_devices()?.contains(&parent.device) {
            return Err(Error::new(
                ErrorCode::Unsupported,
                format!(
                    "{path} doesn't exist, and a mount that keeps it from being created needs a name: the directory it would be \
                     created in is not on a tmpfs of the container's own"
                ),
            )
            .with_hint(Hint::MissingMaskChoice));
        }
        // A directory: nothing can be written to it, while what is written to a null device would seem to succeed.
        self.kernel.make_directory(parent.fd.as_fd(), &name, 0).context(ErrorCode::Mount, what)?;
        let file = self
            .kernel
            .resolve(parent.fd.as_fd(), &name, Follow::AllButLast)
            .context(ErrorCode::Mount, what)?;
        let status = self.kernel.status(file.as_fd()).context(ErrorCode::Mount, what)?;
        self.cover(path, &file, &status, step)?;
        if let Some(expected) = self.expectations.last_mut() {
            // It is on the first name that is missing, and not on the whole path.
            expected.path = None;
        }
        Ok(Done::by("placeholder"))
    }

    /// Makes every directory on the way to a path one that can't be renamed or removed. The last one there is, how deep it
    /// is, and the name that is missing in it.
    pub(super) fn hold_in_place(
        &mut self,
        path: &PathBytes,
        step: u32,
    ) -> Result<(Held, usize, Option<PathBytes>)> {
        let fail = |call: &crate::error::SysError| resolve::resolution_error(path, call);
        let root = self.root()?;
        let status = self.kernel.status(root.as_fd()).map_err(|call| fail(&call))?;
        let mut levels = vec![self.held(root, &status, false)?];
        let mut left: VecDeque<PathBytes> = path.components().map(PathBytes::new).collect();
        let mut links = 0;
        while let Some(name) = left.pop_front() {
            let depth = levels.len() - 1;
            let current = levels[depth].clone();
            if name.as_bytes() == b".." {
                levels.truncate(depth.max(1));
                continue;
            }
            let file = match self.kernel.resolve(current.fd.as_fd(), &name, Follow::AllButLast) {
                Err(call) if call.is(Errno::ENOENT) => return Ok((current, depth, Some(name))),
                other => other.map_err(|call| fail(&call))?,
            };
            let status = self.kernel.status(file.as_fd()).map_err(|call| fail(&call))?;
            match status.kind {
                FileKind::Symlink => {
                    links += 1;
                    if !current.readonly {
                        return Err(replaceable_link(path, &name));
                    }
                    let target = self.kernel.read_link(file.as_fd()).map_err(|call| fail(&call))?;
                    if links > MAX_LINKS {
                        return Err(resolve::resolution_error(
                            path,
                            &crate::error::SysError {
                                syscall: "readlinkat",
                                errno: libc::ELOOP,
                                arguments: format!("{target:?}"),
                            },
                        ));
                    }
                    if target.is_absolute() {
                        levels.truncate(1);
                    }
                    for part in target.components().rev() {
                        left.push_front(PathBytes::new(part));
                    }
                }
                FileKind::Directory => {
                    let held = self.hold(file, &status, &current, step)?;
                    if held.bound {
                        // What is mounted below is seen through a copy now.
                        self.placed.forget();
                    }
                    levels.push(held);
                }
                _ if left.is_empty() => return Ok((current, depth, None)),
                _ => {
                    let arguments = format!("{name:?}");
                    let call = crate::error::SysError { syscall: "openat2", errno: libc::ENOTDIR, arguments };
                    return Err(fail(&call));
                }
            }
        }
        let depth = levels.len() - 1;
        Ok((levels[depth].clone(), depth, None))
    }

    fn held(&self, fd: Rc<OwnedFd>, status: &FileStatus, bound: bool) -> Result<Held> {
        let readonly = self
            .kernel
            .is_readonly(fd.as_fd())
            .context(ErrorCode::Mount, || "whether a mount is read-only can't be found out")?;
        let mount = self
            .kernel
            .mount_id(fd.as_fd())
            .context(ErrorCode::Mount, || "a mount's id can't be found out")?;
        Ok(Held { fd, mount, device: status.device, readonly, bound })
    }

    /// Enters a directory, and holds it in place where it could be renamed.
    fn hold(&mut self, directory: OwnedFd, status: &FileStatus, above: &Held, step: u32) -> Result<Held> {
        if status.mount != above.mount || above.readonly {
            return self.held(Rc::new(directory), status, false);
        }
        let copy = bind_on_itself(self.kernel, &directory)?;
        self.expect_copy(&copy, status.mount, None, step)?;
        self.held(Rc::new(copy), status, true)
    }

    fn make_readonly(&mut self, parent: &Held, depth: usize, step: u32) -> Result<()> {
        let what = || "the directory can't be made read-only";
        let change = AttributeChange { set: attr::RDONLY, ..AttributeChange::default() };
        // Nothing can be mounted between a process and the root it has.
        let fd = if depth == 0 || parent.bound {
            Rc::clone(&parent.fd)
        } else {
            let copy = bind_on_itself(self.kernel, &parent.fd)?;
            self.expect_copy(&copy, parent.mount, None, step)?;
            Rc::new(copy)
        };
        self.kernel.set_attributes(fd.as_fd(), change).context(ErrorCode::Mount, what)?;
        let id = self.kernel.mount_id(fd.as_fd()).context(ErrorCode::Mount, what)?;
        if let Some(expected) = self.expectations.get_mut(id) {
            expected.change(&READONLY, &[]);
        }
        self.placed.replace(parent.mount, &fd, id);
        Ok(())
    }

    /// The filesystems that were made for this container, and in which names can be made: tmpfs.
    fn own_devices(&self) -> Result<Vec<u64>> {
        let mut mounts = Vec::new();
        for step in &self.plan.steps {
            match &step.action {
                // Without a directory of the host's for it, what is written to an overlay goes to a tmpfs.
                Action::Root { root, .. } if is_private(root) => {
                    mounts.extend(self.ground.trees.first().map(|tree| Rc::clone(&tree.fd)));
                }
                Action::Mount { mount: Mount { kind: MountKind::Filesystem { fstype, .. }, .. }, .. }
                    if fstype == "tmpfs" =>
                {
                    mounts.extend(self.kept.get(&step.index).cloned());
                }
                _ => {}
            }
        }
        mounts
            .iter()
            .map(|mount| self.kernel.status(mount.as_fd()).map(|status| status.device))
            .collect::<Result<_, _>>()
            .context(ErrorCode::Mount, || "a mount can't be looked at")
    }
}

/// Whether the root was made for this container, and not even its upper directory is the host's.
pub(super) fn is_private(root: &Root) -> bool {
    match root {
        Root::Directory(_) => false,
        Root::Overlay { overlay, .. } => overlay.upper.is_none(),
        Root::Empty { .. } => true,
    }
}

/// A private bind of a directory on itself, with what is mounted below it.
fn bind_on_itself(kernel: &dyn Kernel, directory: &OwnedFd) -> Result<OwnedFd> {
    let what = || "a directory can't be held in place";
    let change = AttributeChange {
        propagation: Some(Propagation::RPRIVATE),
        recursive: true,
        ..AttributeChange::default()
    };
    let copy = kernel.clone_mount_with(directory.as_fd(), change).context(ErrorCode::Mount, what)?;
    kernel.attach(copy.as_fd(), directory.as_fd()).context(ErrorCode::Mount, what)?;
    Ok(copy)
}

fn replaceable_link(path: &PathBytes, name: &PathBytes) -> Box<Error> {
    Error::new(
        ErrorCode::Unsupported,
        format!("{path} passes through the symbolic link {name}, which could be replaced inside"),
    )
    .with_hint(Hint::LinkInMask)
}
