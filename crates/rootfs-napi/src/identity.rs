//! Who the calling process is: its ids, capabilities and namespaces.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use rootfs::kernel::process;
use rustix::fs::{AtFlags, Mode, OFlags};

/// What a supervisor must have in common with its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    capabilities: u64,
    namespaces: Vec<(u64, u64)>,
}

/// `/proc/self/ns`; the way there is walked once.
fn directory() -> Option<&'static OwnedFd> {
    static DIRECTORY: OnceLock<Option<OwnedFd>> = OnceLock::new();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    DIRECTORY.get_or_init(|| rustix::fs::open(c"/proc/self/ns", flags, Mode::empty()).ok()).as_ref()
}

impl Identity {
    /// Of this process, now.
    pub(crate) fn of_this_process() -> Self {
        let groups = rustix::process::getgroups().unwrap_or_default();
        // Not the user namespace: a process with more than one thread, as Node is, can't change that.
        let namespaces = [c"mnt", c"pid_for_children", c"net"]
            .into_iter()
            .filter_map(|name| rustix::fs::statat(directory()?, name, AtFlags::empty()).ok())
            .map(|stat| (stat.st_dev, stat.st_ino))
            .collect();
        Self {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            groups: groups.into_iter().map(rustix::fs::Gid::as_raw).collect(),
            capabilities: process::own_capabilities().map_or(0, |(effective, _)| effective),
            namespaces,
        }
    }
}
