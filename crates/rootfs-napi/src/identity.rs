//! Who the caller is: what decides with whose rights a container is made.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use rootfs::Hint;
use rootfs::error::{Error, ErrorCode};
use rootfs::kernel::process;
use rootfs::protocol::Hello;
use rustix::fs::{Mode, OFlags};
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
    namespaces: [Option<CString>; 3],
}

/// Links in `/proc/self/ns`, which say the numbers of namespaces. The way there is walked once.
///
/// Not the user namespace's: a process with more than one thread, as Node is, can't change that.
#[expect(clippy::disallowed_methods, reason = "links of our own process in /proc, to compare what they say")]
fn links() -> &'static [Option<OwnedFd>; 3] {
    static LINKS: OnceLock<[Option<OwnedFd>; 3]> = OnceLock::new();
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let names = [c"/proc/self/ns/mnt", c"/proc/self/ns/pid_for_children", c"/proc/self/ns/net"];
    LINKS.get_or_init(|| names.map(|name| rustix::fs::open(name, flags, Mode::empty()).ok()))
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
        let namespaces =
            links().each_ref().map(|link| rustix::fs::readlinkat(link.as_ref()?, c"", Vec::new()).ok());
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
