//! What may be mounted on and below /proc, decided on the resolved descriptor and never on the text of a path.
//!
//! A mount inside procfs could answer in the kernel's place: for labels, for `/proc/self/exe`, for sysctls (CVE-2019-16884,
//! CVE-2019-19921, CVE-2025-52881). So only the files that tools such as lxcfs replace may be mounted over.

use std::os::fd::{AsFd, BorrowedFd};

use crate::error::{CallContext, Error, ErrorCode, Result};
use crate::kernel::{FileKind, FileStatus, Follow, Kernel};
use crate::path::PathBytes;

/// `PROC_SUPER_MAGIC`; `statfs(2)`.
pub const PROC_SUPER_MAGIC: u64 = 0x9fa0;
/// The inode of every procfs's root directory.
const PROC_ROOT_INODE: u64 = 1;

/// Files below /proc that may be mounted over.
pub const REPLACEABLE: [&str; 10] = [
    "cpuinfo",
    "diskstats",
    "meminfo",
    "stat",
    "swaps",
    "uptime",
    "loadavg",
    "slabinfo",
    "sys/kernel/ns_last_pid",
    "sys/crypto/fips_enabled",
];

/// What is to be mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mounted {
    /// A new procfs.
    Proc,
    /// A bind of the root directory of a procfs.
    ProcRoot,
    /// Anything else.
    Other,
}

/// Whether a descriptor is the root of a procfs.
pub fn is_proc_root(kernel: &dyn Kernel, fd: BorrowedFd<'_>, status: &FileStatus) -> Result<bool> {
    Ok(status.kind == FileKind::Directory
        && status.inode == PROC_ROOT_INODE
        && kernel
            .filesystem_magic(fd)
            .context(ErrorCode::Proc, || "the filesystem type can't be found out")?
            == PROC_SUPER_MAGIC)
}

fn refused(destination: &PathBytes, why: &str) -> Box<Error> {
    let mut error = Error::new(ErrorCode::Proc, format!("{destination}: {why}"));
    error.destination = Some(destination.clone());
    error
}

/// Checks that this may be mounted there. Where /proc is known to be a procfs (`proc_is_mounted`), no other directory can be
/// what /proc names.
pub fn check_destination(
    kernel: &dyn Kernel,
    root: BorrowedFd<'_>,
    destination: &PathBytes,
    (status, magic): (&FileStatus, u64),
    mounted: Mounted,
    proc_is_mounted: bool,
) -> Result<()> {
    if magic != PROC_SUPER_MAGIC {
        if mounted == Mounted::Other && !proc_is_mounted && is_slash_proc(kernel, root, status) {
            return Err(refused(destination, "only proc can be mounted on /proc"));
        }
        return Ok(());
    }
    if status.inode == PROC_ROOT_INODE && status.kind == FileKind::Directory {
        return match mounted {
            Mounted::Proc | Mounted::ProcRoot => Ok(()),
            Mounted::Other => Err(refused(destination, "only proc can be mounted on /proc")),
        };
    }
    if mounted == Mounted::Other && is_replaceable(kernel, root, status) {
        return Ok(());
    }
    Err(refused(destination, "nothing can be mounted here: it is inside /proc"))
}

/// Whether the destination is the directory that /proc names, before anything is mounted on it.
fn is_slash_proc(kernel: &dyn Kernel, root: BorrowedFd<'_>, status: &FileStatus) -> bool {
    kernel
        .resolve(root, &"/proc".into(), Follow::All)
        .and_then(|fd| kernel.status(fd.as_fd()))
        .is_ok_and(|proc| (proc.device, proc.inode) == (status.device, status.inode))
}

/// Whether the destination is one of the replaceable files of the procfs on /proc.
fn is_replaceable(kernel: &dyn Kernel, root: BorrowedFd<'_>, status: &FileStatus) -> bool {
    status.kind == FileKind::Regular
        && REPLACEABLE.iter().any(|name| {
            kernel
                .resolve(root, &PathBytes::from("/proc").join(name), Follow::None)
                .and_then(|fd| kernel.status(fd.as_fd()))
                .is_ok_and(|file| (file.device, file.inode) == (status.device, status.inode))
        })
}
