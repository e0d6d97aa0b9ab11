//! Read-only root, read-only paths and masked paths.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use nix::errno::Errno;

use super::{Done, Execution, Expectation};
use crate::error::{CallContext, Error, ErrorCode, Result};
use crate::hint::Hint;
use crate::kernel::{AttributeChange, FileKind, FileStatus, Kernel};
use crate::options::{Attributes, Propagation, attr};
use crate::path::PathBytes;
use crate::plan::Action;
use crate::spec::{Mask, MissingMask};

/// What `ro` means for what is there.
pub(super) const READONLY: Attributes = Attributes {
    set: attr::RDONLY,
    clear: 0,
    atime: None,
    set_recursive: 0,
    clear_recursive: 0,
    atime_recursive: None,
    exact: false,
};

impl Execution<'_> {
    pub(super) fn readonly_root(&mut self, recursive: bool) -> Result<Done> {
        let root = self.root()?;
        let change = AttributeChange { set: attr::RDONLY, ..AttributeChange::default() };
        self.kernel
            .set_attributes(root.as_fd(), change)
            .context(ErrorCode::Mount, || "the root can't be made read-only")?;
        if recursive {
            // What the root directory brought along, and not what was mounted since: that has its own flags.
            self.make_all_readonly(&root, &"/".into())?;
        }
        if let Some(expected) = self.expectations.root_mut() {
            expected.change(&READONLY, &[]);
        }
        Ok(Done::default())
    }

    /// Makes a mount and what is below it read-only, then gives our own mounts back what they were asked to be.
    pub(super) fn make_all_readonly(&self, top: &OwnedFd, destination: &PathBytes) -> Result<()> {
        let what = || "the mounts below can't be made read-only";
        let id = self.kernel.mount_id(top.as_fd()).context(ErrorCode::Mount, what)?;
        let change = AttributeChange { set: attr::RDONLY, recursive: true, ..AttributeChange::default() };
        self.kernel.set_attributes(top.as_fd(), change).context(ErrorCode::Mount, what)?;
        let undo = AttributeChange { clear: attr::RDONLY, ..AttributeChange::default() };
        for mount in self.expectations.writable_below(id, destination) {
            // One that was brought along is known by the remount that has said so.
            let remounted = || self.kept.get(&self.expectations.get(mount)?.step).map(|fd| fd.as_fd());
            if let Some(fd) = self.ground.tree(mount).map(|tree| tree.fd.as_fd()).or_else(remounted) {
                self.kernel.set_attributes(fd, undo).context(ErrorCode::Mount, what)?;
            }
        }
        Ok(())
    }

    pub(super) fn readonly_path(&mut self, path: &PathBytes, step: u32) -> Result<Done> {
        let Some((file, status)) = self.existing(path)? else { return Ok(Done::missing()) };
        if self.is_root(&status) {
            return Err(root_itself(path, "made read-only as a path").with_hint(Hint::RootItself));
        }
        let what = || format!("{path} can't be made read-only");
        let change = AttributeChange {
            set: attr::RDONLY,
            clear: 0,
            propagation: Some(Propagation::RPRIVATE),
            recursive: true,
        };
        let copy = self.kernel.clone_mount_with(file.as_fd(), change).context(ErrorCode::Mount, what)?;
        let place = self.plain_path(path)?;
        self.kernel.attach(copy.as_fd(), file.as_fd()).context(ErrorCode::Mount, what)?;
        let expected = self.expect_copy(&copy, status.mount, Some(place.clone()), step)?;
        expected.change(&READONLY, &[]);
        let id = expected.mount;
        self.placed.add(place, &Rc::new(copy), id);
        Ok(Done::default())
    }

    /// A private copy of what is below a mount was put on that mount.
    pub(super) fn expect_copy(
        &mut self,
        copy: &OwnedFd,
        of: u64,
        path: Option<PathBytes>,
        step: u32,
    ) -> Result<&mut Expectation> {
        let id = self
            .kernel
            .mount_id(copy.as_fd())
            .context(ErrorCode::Mount, || "a mount's id can't be found out")?;
        let original = self.expectations.original(of);
        let expected = self.expectations.add(Expectation::new(step, id, of, path, 0));
        expected.copied_from(original, &Attributes::default(), (&[Propagation::RPRIVATE], &[]), false);
        expected.recursive = true;
        Ok(expected)
    }

    /// What masks of files are made from: a copy of the host's null device, opened before the host is left. It can be
    /// attached anywhere, and copied only where it is attached.
    pub(super) fn prepare_masks(&mut self) -> Result<()> {
        let masks = self.plan.steps.iter().any(|step| matches!(step.action, Action::Mask(_)));
        if !masks || self.null.is_some() {
            return Ok(());
        }
        let what = || "/dev/null of the host can't be used for masks";
        let null =
            self.kernel.open_host(&"/dev/null".into(), false, false).context(ErrorCode::Device, what)?;
        check_null(self.kernel, &null)?;
        self.null = Some(copy_cover(self.kernel, &null)?);
        Ok(())
    }

    pub(super) fn mask(&mut self, mask: &Mask, step: u32) -> Result<Done> {
        let Some((file, status)) = self.existing(&mask.path)? else {
            return match mask.missing {
                MissingMask::Skip => Ok(Done::missing()),
                MissingMask::Error => Err(nothing_there(&mask.path)),
                MissingMask::DenyCreate | MissingMask::ReadonlyParent | MissingMask::Stub => {
                    self.deny(mask, step)
                }
            };
        };
        if !self.stubs.contains(&mask.path.normalized()) {
            return self.cover(&mask.path, &file, &status, step);
        }
        self.hold_in_place(&mask.path, step)?;
        // The directory it is in is another mount now.
        let Some((file, status)) = self.existing(&mask.path)? else {
            return Err(Error::new(
                ErrorCode::Race,
                format!("{} was removed while it was masked", mask.path),
            ));
        };
        self.cover(&mask.path, &file, &status, step)
    }

    /// Mounts what hides a file or directory on it.
    pub(super) fn cover(
        &mut self,
        path: &PathBytes,
        file: &OwnedFd,
        status: &FileStatus,
        step: u32,
    ) -> Result<Done> {
        if self.is_root(status) {
            return Err(root_itself(path, "masked"));
        }
        let what = || format!("{path} can't be masked");
        let directory = status.kind == FileKind::Directory;
        let cover = if directory { self.empty_directory()? } else { self.null_device()? };
        let place = self.plain_path(path)?;
        self.kernel.attach(cover.as_fd(), file.as_fd()).context(ErrorCode::Mount, what)?;
        let id = self.kernel.mount_id(cover.as_fd()).context(ErrorCode::Mount, what)?;
        let set = if directory { attr::RDONLY } else { 0 };
        let one = Expectation::new(step, id, status.mount, Some(place), set);
        let expected = self.expectations.add(one);
        expected.superblock_readonly = directory;
        if !directory {
            // The null device is the host's, or the container's own.
            expected.unsure = !0;
        }
        // The next one is copied from this one, which is attached: a detached one that is left over at the end would cost
        // a grace period of RCU.
        *(if directory { &mut self.empty } else { &mut self.null }) = Some(cover);
        Ok(Done::by(if directory { "empty-directory" } else { "null-device" }))
    }

    /// A mount of one empty tmpfs that is read-only down to its superblock.
    fn empty_directory(&mut self) -> Result<OwnedFd> {
        if let Some(empty) = &self.empty {
            return copy_cover(self.kernel, empty);
        }
        let make = |room: &str| {
            let data = ["nr_blocks", "nr_inodes"].map(|key| (key.to_owned(), Some(room.to_owned())));
            self.new_filesystem("tmpfs", Some(&"tmpfs".into()), &["ro".to_owned()], &data, attr::RDONLY)
        };
        // One inode is the root directory; some kernels want one more.
        make("1").or_else(|_| make("2"))
    }

    /// The first is the one that was opened before, the next ones are copies of what is attached.
    fn null_device(&mut self) -> Result<OwnedFd> {
        let Some(null) = self.null.take() else {
            return Err(Error::new(ErrorCode::Device, "there is no null device to mask files with"));
        };
        check_null(self.kernel, &null)?;
        if std::mem::replace(&mut self.null_is_attached, true) {
            copy_cover(self.kernel, &null)
        } else {
            Ok(null)
        }
    }
}

pub(super) fn nothing_there(path: &PathBytes) -> Box<Error> {
    let mut error = Error::new(ErrorCode::Mount, format!("{path}: nothing is there to mask"));
    error.errno = Some(libc::ENOENT);
    error
}

fn copy_cover(kernel: &dyn Kernel, cover: &OwnedFd) -> Result<OwnedFd> {
    let what = || "what covers a masked path can't be copied";
    let change = AttributeChange { propagation: Some(Propagation::RPRIVATE), ..AttributeChange::default() };
    kernel.clone_mount_with(cover.as_fd(), change).context(ErrorCode::Mount, what)
}

/// Nothing can be mounted between a process and its root: it would be accepted and do nothing.
fn root_itself(path: &PathBytes, what: &str) -> Box<Error> {
    Error::new(ErrorCode::Mount, format!("{path} is the root itself, which can't be {what}"))
}

/// A mask that were not /dev/null would show, or take, what is written to it (CVE-2025-31133).
fn check_null(kernel: &dyn Kernel, null: &OwnedFd) -> Result<()> {
    let status = kernel.status(null.as_fd()).context(ErrorCode::Device, || "/dev/null can't be looked at")?;
    if status.kind == FileKind::CharacterDevice && status.rdev == (1, 3) {
        return Ok(());
    }
    let mut error = Error::new(ErrorCode::Device, "/dev/null is not the null device");
    error.errno = Some(Errno::ENODEV as i32);
    Err(error)
}
