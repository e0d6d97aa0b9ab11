//! The flag `iversion` of a filesystem, for which `fsconfig(2)` has no word: `mount(2)` sets it, on a copy of the mount
//! that a short-lived child attaches in a mount namespace nobody else is in. The flag is the filesystem's, so the mount it
//! was copied from has it too.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::StatVfsMountFlags;
use rustix::mount::MountFlags;

use super::linux::{Linux, failed};
use super::process::{self, Fork};
use super::{AttributeChange, Kernel, mount_table};
use crate::error::{SysError, SysResult};
use crate::options::{Propagation, attr};
use crate::protocol::Exit;

/// `MS_I_VERSION`; `mount(2)`.
const MS_I_VERSION: MountFlags = MountFlags::from_bits_retain(1 << 23);

pub(super) fn count_changes(
    kernel: &Linux,
    mount: BorrowedFd<'_>,
    count: bool,
    lazytime: bool,
) -> SysResult<()> {
    // Only where a mount is, it can be copied.
    let copy = kernel.clone_mount(mount, false)?;
    let Fork::Parent { pidfd, .. } = process::fork(process::CloneRequest::default())? else {
        let errno = match remount_copy(kernel, copy.as_fd(), count, lazytime) {
            Ok(()) => 0,
            Err(error) => error.errno,
        };
        // What there is to say fits into an exit status.
        process::exit(errno & 0xff);
    };
    let words = if count { "MS_REMOUNT|MS_I_VERSION" } else { "MS_REMOUNT" };
    let fail = |errno| Err(SysError { syscall: "mount", errno, arguments: words.to_owned() });
    match process::wait_for(pidfd.as_fd())? {
        Exit::Code(0) => Ok(()),
        Exit::Code(errno) => fail(errno),
        Exit::Signal(_) => fail(libc::EINTR),
    }
}

/// In the child.
#[expect(
    clippy::disallowed_methods,
    reason = "`.`, or a name of our own in a directory that was entered by its descriptor"
)]
fn remount_copy(kernel: &Linux, copy: BorrowedFd<'_>, count: bool, lazytime: bool) -> SysResult<()> {
    kernel.new_mount_namespace()?;
    kernel.set_root_propagation(Propagation::RPRIVATE)?;
    let slash = kernel.open_host(&"/".into(), true, false)?;
    kernel.attach(copy, slash.as_fd())?;
    // So that what is read-only now is the filesystem.
    let change = AttributeChange { clear: attr::RDONLY, ..AttributeChange::default() };
    kernel.set_attributes(copy, change)?;
    // A remount takes away what is not said again.
    let stat = rustix::fs::fstatvfs(copy).map_err(failed("fstatfs", String::new))?;
    let has = |flag: StatVfsMountFlags| stat.f_flag.contains(flag);
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::RDONLY, has(StatVfsMountFlags::RDONLY));
    flags.set(MountFlags::SYNCHRONOUS, has(StatVfsMountFlags::SYNCHRONOUS));
    flags.set(MountFlags::PERMIT_MANDATORY_FILE_LOCKING, has(StatVfsMountFlags::MANDLOCK));
    let id = kernel.mount_id(copy)?;
    let is_lazy = if kernel.ids_are_unique() { mount_table::is_lazy(id)? } else { lazytime };
    flags.set(MountFlags::LAZYTIME, is_lazy);
    flags.set(MS_I_VERSION, count);
    rustix::process::fchdir(copy).map_err(failed("fchdir", String::new))?;
    rustix::mount::mount_remount(c".", flags, c"").map_err(failed("mount", String::new))
}
