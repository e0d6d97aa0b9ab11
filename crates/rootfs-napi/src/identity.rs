//! Who the calling process is: its ids, capabilities and namespaces.

use rootfs::kernel::process;

/// What a supervisor must have in common with its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    capabilities: u64,
    namespaces: Vec<(u64, u64)>,
}

impl Identity {
    /// Of this process, now.
    pub(crate) fn of_this_process() -> Self {
        let groups = rustix::process::getgroups().unwrap_or_default();
        let namespaces = [
            c"/proc/self/ns/user",
            c"/proc/self/ns/mnt",
            c"/proc/self/ns/pid_for_children",
            c"/proc/self/ns/net",
        ]
        .into_iter()
        .filter_map(|path| rustix::fs::stat(path).ok())
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
