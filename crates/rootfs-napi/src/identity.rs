//! Who the caller is: what decides with whose rights a container is made.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use rootfs::Hint;
use rootfs::error::{Error, ErrorCode};
use rootfs::kernel::process;
use rootfs::protocol::Hello;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::net::UCred;

/// What a process may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Credentials {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    capabilities: u64,
}

/// What a supervisor must have in common with its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) credentials: Credentials,
    namespaces: Vec<(u64, u64)>,
}

/// `/proc/self/ns`; the way there is walked once.
fn directory() -> Option<&'static OwnedFd> {
    static DIRECTORY: OnceLock<Option<OwnedFd>> = OnceLock::new();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    DIRECTORY.get_or_init(|| rustix::fs::open(c"/proc/self/ns", flags, Mode::empty()).ok()).as_ref()
}

impl Credentials {
    /// Of this process, now.
    pub(crate) fn of_this_process() -> Self {
        let groups = rustix::process::getgroups().unwrap_or_default();
        Self {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            groups: groups.into_iter().map(rustix::fs::Gid::as_raw).collect(),
            capabilities: process::own_capabilities().map_or(0, |(effective, _)| effective),
        }
    }

    /// As whom a request is sent. The kernel refuses what this process can't be.
    pub(crate) fn sender(&self) -> UCred {
        UCred {
            pid: rustix::process::getpid(),
            uid: rustix::fs::Uid::from_raw(self.uid),
            gid: rustix::fs::Gid::from_raw(self.gid),
        }
    }

    /// Whether a supervisor has these rights and none else. Root gets all capabilities of its bounding set with an
    /// execution, as any program of root's does.
    pub(crate) fn are_those_of(&self, hello: &Hello) -> bool {
        (hello.uid, hello.gid, &hello.groups) == (self.uid, self.gid, &self.groups)
            && (self.uid == 0 || hello.capabilities & !self.capabilities == 0)
    }
}

impl Identity {
    /// Of this process, now.
    pub(crate) fn of_this_process() -> Self {
        // Not the user namespace: a process with more than one thread, as Node is, can't change that.
        let namespaces = [c"mnt", c"pid_for_children", c"net"]
            .into_iter()
            .filter_map(|name| rustix::fs::statat(directory()?, name, AtFlags::empty()).ok())
            .map(|stat| (stat.st_dev, stat.st_ino))
            .collect();
        Self { credentials: Credentials::of_this_process(), namespaces }
    }
}

/// A request of somebody who isn't the caller any more when it is served.
pub(crate) fn changed() -> Box<Error> {
    Error::new(ErrorCode::Denied, "the caller's identity changed before the container began")
        .with_hint(Hint::IdentityChanged)
}

/// A use of a container by somebody who wasn't the caller when it was prepared.
pub(crate) fn other_than_prepared() -> Box<Error> {
    let what = "the root filesystem was prepared with other rights: the caller's user, groups or capabilities have changed";
    Error::new(ErrorCode::Denied, what).with_hint(Hint::PreparedWithOtherRights)
}
