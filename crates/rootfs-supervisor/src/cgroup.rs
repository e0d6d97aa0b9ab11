//! Ending all processes of a cgroup; `cgroups(7)`, cgroup.kill.

use std::os::fd::{AsFd, OwnedFd};

use rootfs::kernel::linux::read_to_end;
use rustix::fs::{Mode, OFlags};

/// Which cgroup it is: device and inode.
pub(crate) type Identity = (u64, u64);

/// Which cgroup a directory is of.
pub(crate) fn identity(cgroup: &OwnedFd) -> Option<Identity> {
    rustix::fs::fstat(cgroup).ok().map(|stat| (stat.st_dev, stat.st_ino))
}

fn open(cgroup: &OwnedFd, name: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(cgroup, name, flags | OFlags::CLOEXEC, Mode::empty())
}

/// Moves this process into a cgroup.
pub(crate) fn enter(cgroup: &OwnedFd) -> rustix::io::Result<()> {
    rustix::io::write(open(cgroup, "cgroup.procs", OFlags::WRONLY)?, b"0").map(drop)
}

/// Kills everything in a cgroup and below it, unless this process or the caller is in it. Needs Linux 5.14 and the right to
/// write the file; else nothing happens. Which cgroup was killed.
pub(crate) fn kill(cgroup: &OwnedFd) -> Option<Identity> {
    let list = open(cgroup, "cgroup.procs", OFlags::RDONLY).ok()?;
    let text = read_to_end(list.as_fd()).ok()?;
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let caller = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    let is_ours = |line: &str| line.parse().is_ok_and(|pid: i32| pid == own || pid == caller);
    if String::from_utf8_lossy(&text).lines().any(is_ours) {
        return None;
    }
    rustix::io::write(open(cgroup, "cgroup.kill", OFlags::WRONLY).ok()?, b"1").ok()?;
    identity(cgroup)
}
