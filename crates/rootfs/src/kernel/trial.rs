//! Calls that are made only to find out whether the kernel has them. For processes that end afterwards.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};

use super::linux::{Linux, failed, open_tree_attr};
use super::{AttributeChange, Kernel, process};
use crate::error::{SysError, SysResult};
use crate::options::attr;
use crate::path::PathBytes;

fn slash() -> SysResult<OwnedFd> {
    Linux::default().open_host(&"/".into(), true, false)
}

/// `openat2(2)`, as destinations are resolved with it.
pub fn openat2() -> SysResult<()> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(slash()?, c".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
        .map(drop)
        .map_err(failed("openat2", || "\"/\", \".\", {resolve=RESOLVE_IN_ROOT|RESOLVE_NO_MAGICLINKS}".into()))
}

/// `statmount(2)` of the mount of `/`, by its unique id.
pub fn statmount() -> SysResult<()> {
    let slash = slash()?;
    let id = Linux::unique_mount_id(slash.as_fd())?.ok_or_else(|| SysError {
        syscall: "statx",
        errno: libc::EOPNOTSUPP,
        arguments: "\"/\", STATX_MNT_ID_UNIQUE".into(),
    })?;
    super::mount_table::state(id).map(drop)
}

/// The calls that every mount is made with, on a filesystem that nobody else sees.
pub fn mount_api() -> SysResult<()> {
    let kernel = Linux::default();
    let context = kernel.open_filesystem("tmpfs")?;
    let tmpfs = kernel.mount_filesystem(context.as_fd(), 0)?;
    let change = AttributeChange { set: attr::RDONLY, recursive: true, ..AttributeChange::default() };
    kernel.set_attributes(tmpfs.as_fd(), change)
}

/// `open_tree_attr(2)` of `/`.
pub fn copy_with_attributes() -> SysResult<()> {
    let change = AttributeChange { set: attr::RDONLY, recursive: true, ..AttributeChange::default() };
    open_tree_attr(slash()?.as_fd(), &PathBytes::default(), AtFlags::EMPTY_PATH, change).map(drop)
}

/// Maps the owners of a detached mount; `MOUNT_ATTR_IDMAP` of `mount_setattr(2)`.
pub fn map_owners(mount: BorrowedFd<'_>, user_namespace: BorrowedFd<'_>) -> SysResult<()> {
    let attr: [u64; 4] = [attr::IDMAP, 0, 0, u64::from(user_namespace.as_raw_fd().cast_unsigned())];
    // SAFETY: the empty path is a constant, and the struct, four words, outlives the call, which is told its size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            attr.as_ptr(),
            size_of_val(&attr),
        )
    };
    if result == 0 {
        return Ok(());
    }
    Err(SysError {
        syscall: "mount_setattr",
        errno: std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO),
        arguments: format!("{}, {{attr_set=MOUNT_ATTR_IDMAP}}", mount.as_raw_fd()),
    })
}

/// Installs a filter that allows everything; `seccomp(2)`.
pub fn filter() -> SysResult<()> {
    process::set_no_new_privileges()?;
    let allow = process::filter_instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW);
    process::set_seccomp_filter(&allow)
}
