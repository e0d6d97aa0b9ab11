//! Directories, links and files that are put into the tree.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::{ATTACH_POINTS, Done, Execution, lacks_rights, or_own};
use crate::error::{CallContext, Error, ErrorCode, Result, SysResult};
use crate::kernel::{AttributeChange, FileKind, Follow, Kernel};
use crate::options::{Propagation, attr};
use crate::path::PathBytes;
use crate::procfs::Mounted;
use crate::resolve::Missing;
use crate::spec::{Directory, FileContent, Mount, Symlink};

/// How far a writable file can grow beyond what it begins with, in bytes: it is memory.
pub const WRITABLE_ROOM: u64 = 16 << 20;

impl Execution<'_> {
    /// Makes a directory, or keeps the one that is there; either has the mode and owner that were asked for.
    pub(super) fn directory(&mut self, wanted: &Directory) -> Result<Done> {
        let found = self.lasting_directory(&wanted.path)?;
        if found.status.kind != FileKind::Directory {
            let mut error =
                Error::new(ErrorCode::Mount, format!("{} exists and is no directory", wanted.path));
            error.errno = Some(libc::EEXIST);
            return Err(error);
        }
        let changes =
            Directory { mode: wanted.mode.filter(|mode| *mode != found.status.mode), ..wanted.clone() };
        match change_directory(self.kernel, found.fd.as_fd(), &changes) {
            Err(call) if lacks_rights(&call) => {
                self.ground.surroundings.change(found.fd.as_fd(), wanted).map_err(|error| {
                    or_own(error, &call, || format!("{} can't be given its mode or owner", wanted.path))
                })?;
            }
            other => other.map_err(|call| self.owner_error(&wanted.path, wanted.uid, wanted.gid, &call))?,
        }
        let resolved = found.path.filter(|path| *path != wanted.path.normalized());
        let strategy = if found.created { "made" } else { "existing" };
        Ok(Done { resolved, ..Done::by(strategy) })
    }

    /// Makes a symbolic link, or keeps the same one that is there.
    pub(super) fn link(&mut self, wanted: &Symlink) -> Result<Done> {
        let Symlink { target, path } = wanted;
        let kernel = self.kernel;
        let (parent, name) = self.parent_of(path, ErrorCode::Mount)?;
        let what = || format!("the link {path} can't be made");
        let made = match kernel.make_symlink(target, parent.as_fd(), &name) {
            Err(call) if call.is(Errno::EEXIST) => false,
            Err(call) if lacks_rights(&call) => self
                .ground
                .surroundings
                .make_symlink(target, parent.as_fd(), &name)
                .map_err(|error| or_own(error, &call, what))?,
            other => other.context(ErrorCode::Mount, what).map(|()| true)?,
        };
        if made {
            return Ok(Done::by("made"));
        }
        let existing =
            kernel.resolve(parent.as_fd(), &name, Follow::AllButLast).context(ErrorCode::Mount, what)?;
        let status = kernel.status(existing.as_fd()).context(ErrorCode::Mount, what)?;
        let is_link = status.kind == FileKind::Symlink;
        if is_link && kernel.read_link(existing.as_fd()).context(ErrorCode::Mount, what)? == *target {
            return Ok(Done::by("existing"));
        }
        let is = if is_link { "leads somewhere else" } else { "is no symbolic link" };
        let mut error = Error::new(ErrorCode::Mount, format!("{path} exists and {is}"));
        error.errno = Some(libc::EEXIST);
        Err(error)
    }

    /// Mounts a file that nobody else has.
    pub(super) fn file(
        &mut self,
        mount: &Mount,
        content: &FileContent,
        mode: u32,
        owner: (u32, u32),
        step: u32,
    ) -> Result<Done> {
        let destination = self.destination(&mount.destination, Missing::File)?;
        let fd = self.private_file(mount, content, mode, owner)?;
        self.place(mount, (fd, None), &destination, false, Mounted::Other, None, step)
    }

    /// A file in a tmpfs of its own, which is just large enough for it, as a mount of the file alone. A memory file would do
    /// without one, but can't be mounted.
    fn private_file(
        &self,
        mount: &Mount,
        content: &FileContent,
        mode: u32,
        owner: (u32, u32),
    ) -> Result<OwnedFd> {
        let readonly = mount.attributes.readonly();
        let room = if readonly { 0 } else { WRITABLE_ROOM };
        // The kernel makes whole pages of it.
        let size = content.len().max(1) + room;
        let data = [("size".to_owned(), Some(size.to_string())), ("mode".to_owned(), Some("700".to_owned()))];
        let tmpfs = self.new_filesystem("tmpfs", Some(&"tmpfs".into()), &[], &data, 0)?;
        let name = PathBytes::from("file");
        let what = || "the file can't be made";
        self.kernel
            .make_file(tmpfs.as_fd(), &name, content.as_bytes(), mode, owner)
            .map_err(|call| self.owner_error(&mount.destination, Some(owner.0), Some(owner.1), &call))?;
        if readonly {
            let mut log = Vec::new();
            self.kernel
                .make_superblock_readonly(tmpfs.as_fd(), &mut log)
                .context(ErrorCode::Mount, what)
                .map_err(|error| error.with_kernel_log(log))?;
        }
        let file =
            self.kernel.resolve(tmpfs.as_fd(), &name, Follow::AllButLast).context(ErrorCode::Mount, what)?;
        let change = AttributeChange {
            set: mount.attributes.set & attr::PLAIN,
            propagation: Some(Propagation::RPRIVATE),
            ..AttributeChange::default()
        };
        match self.kernel.clone_mount_with(file.as_fd(), change) {
            Err(call) if call.is(Errno::EINVAL) && self.attached && !self.entered => {
                attach_aside(self.kernel, &tmpfs)?;
                self.kernel.clone_mount_with(file.as_fd(), change).context(ErrorCode::Mount, what)
            }
            other => other.context(ErrorCode::Mount, what),
        }
    }

    /// What a failed change of owner means, in a user namespace.
    fn owner_error(
        &self,
        path: &PathBytes,
        uid: Option<u32>,
        gid: Option<u32>,
        call: &crate::error::SysError,
    ) -> Box<Error> {
        if call.syscall == "fchownat" && call.is(Errno::EINVAL) && self.setting.user.is_some() {
            let id = |id: Option<u32>| id.map_or("-".to_owned(), |id| id.to_string());
            let what = format!("owner {}:{} is not mapped in the user namespace", id(uid), id(gid));
            return Error::from_call(ErrorCode::Mount, what, call);
        }
        Error::from_call(ErrorCode::Mount, format!("{path} can't be made as asked"), call)
    }
}

/// Attaches a filesystem somewhere in the host's tree, of which this process has its own: it goes with that tree. Before Linux
/// 6.15 a part of a detached filesystem can't be copied.
pub(super) fn attach_aside(kernel: &dyn Kernel, filesystem: &OwnedFd) -> Result<()> {
    let attached = ATTACH_POINTS.into_iter().any(|candidate| {
        let directory = kernel.open_host(&candidate.into(), true, false);
        directory.is_ok_and(|directory| kernel.attach(filesystem.as_fd(), directory.as_fd()).is_ok())
    });
    if attached {
        return Ok(());
    }
    let points = ATTACH_POINTS.join(", ");
    Err(Error::new(ErrorCode::Mount, format!("a filesystem can be attached to none of {points}")))
}

/// Gives a directory the owner and mode that are said, the mode last.
pub fn change_directory(kernel: &dyn Kernel, directory: BorrowedFd<'_>, wanted: &Directory) -> SysResult<()> {
    if wanted.uid.is_some() || wanted.gid.is_some() {
        kernel.set_owner(directory, wanted.uid, wanted.gid)?;
    }
    match wanted.mode {
        Some(mode) => kernel.set_directory_mode(directory, mode),
        None => Ok(()),
    }
}
