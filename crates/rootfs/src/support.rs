//! What the library uses of a host: the one table of features. `probe()` tries each, and docs/kernels.md lists them.

use serde::{Deserialize, Serialize};

use crate::error::SysError;
use crate::hint::Hint;

macro_rules! features {
    ($($variant:ident $name:literal $since:literal $purpose:literal $without:literal;)*) => {
        /// Something that a host may allow or not.
        #[allow(clippy::doc_markdown, reason = "the text is for the documents, which are Markdown too")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Feature { $(#[doc = $purpose] $variant,)* }

        impl Feature {
            /// Every feature, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Its key in `HostSupport.features`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The first Linux that has it, for people: it is found by trying.
            pub const fn since(self) -> &'static str {
                match self { $(Self::$variant => $since,)* }
            }

            /// What it is needed for.
            pub const fn purpose(self) -> &'static str {
                match self { $(Self::$variant => $purpose,)* }
            }

            /// What happens without it.
            pub const fn without(self) -> &'static str {
                match self { $(Self::$variant => $without,)* }
            }
        }
    };
}

features! {
    Supervisor "supervisor" "–" "starting the helper process" "nothing works: `ERR_ROOTFS_SUPERVISOR`";
    MemfdExec "memfdExec" "3.17" "executing the supervisor from memory, where nobody can change it; the sysctl vm.memfd_noexec below 2" "`ROOTFS_SUPERVISOR_EXEC=/path/to/rootfs-supervisor`";
    Pidfd "pidfd" "5.4" "making and watching processes: pidfds that can be polled and waited for" "nothing works: `ERR_ROOTFS_UNSUPPORTED`";
    MountApi "mountApi" "5.12" "every mount: `fsopen`, `open_tree`, `mount_setattr`, `move_mount`" "level `classic`: mount(2), see below";
    DetachedMounts "detachedMounts" "6.15" "mounting on detached mounts: assembling a tree that nobody sees (level `detached`)" "level `attached`";
    OpenTreeAttr "openTreeAttr" "6.15" "copying a mount with other attributes in one call" "two calls";
    Statmount "statmount" "6.8" "comparing the mount table with the plan, by unique mount ids" "/proc/self/mountinfo";
    Openat2 "openat2" "5.6" "resolution inside the root" "emulated by pathrs, also where a filter refuses it";
    StubNamespace "stubNamespace" "6.15" "entering a root without copying the host's mounts; needs CAP_SYS_ADMIN and CAP_SYS_CHROOT" "`pivot_root`";
    CloneIntoCgroup "cloneIntoCgroup" "5.7" "beginning in a cgroup: `CLONE_INTO_CGROUP`, in a cgroup that the caller may write to" "the option `cgroup` is refused";
    Cgroup2 "cgroup2" "4.5" "`cgroup()` as one filesystem" "on v1 and hybrid hosts: a directory per hierarchy";
    IdmappedMounts "idmappedMounts" "5.12" "showing files under mapped owners; needs CAP_SYS_ADMIN" "the option `idMap` is refused";
    Overlay "overlay" "3.18" "overlay filesystems" "`ERR_ROOTFS_UNSUPPORTED`";
    UserNamespaces "userNamespaces" "3.8" "running without root" "`ERR_ROOTFS_DENIED`, with the sysctl that forbids it";
    IdRanges "idRanges" "–" "mapping more than one id: root, or newuidmap, newgidmap, /etc/subuid and /etc/subgid" "one id, or `ERR_ROOTFS_DENIED`";
    OverlayInUserNamespace "overlayInUserNamespace" "5.11" "overlay filesystems in a user namespace" "`ERR_ROOTFS_MOUNT`";
    ProcInUserNamespace "procInUserNamespace" "3.8" "a proc of its own in a user namespace" "`ERR_ROOTFS_DENIED`: in a container whose /proc is partly hidden";
    SysfsInUserNamespace "sysfsInUserNamespace" "3.8" "a sysfs of its own in a user and network namespace" "the host's /sys, bound read-only";
    PidNamespaces "pidNamespaces" "3.8" "`namespaces({ pid })` for this caller" "`ERR_ROOTFS_DENIED`";
    IpcNamespaces "ipcNamespaces" "3.0" "`namespaces({ ipc })` for this caller" "`ERR_ROOTFS_DENIED`";
    UtsNamespaces "utsNamespaces" "3.0" "`namespaces({ uts })` for this caller" "`ERR_ROOTFS_DENIED`";
    CgroupNamespaces "cgroupNamespaces" "4.6" "`namespaces({ cgroup })` for this caller" "`ERR_ROOTFS_DENIED`";
    NetworkNamespaces "networkNamespaces" "3.0" "`namespaces({ network })` for this caller" "`ERR_ROOTFS_DENIED`";
    Seccomp "seccomp" "3.17" "the option `seccomp`" "`ERR_ROOTFS_EXEC`";
    AppArmor "apparmor" "2.6.36" "AppArmor is active: profiles of processes" "it restricts nobody, and profiles of processes are refused";
    Selinux "selinux" "2.6" "SELinux is active: mount labels, labels of processes" "mount labels have no effect, labels of processes are refused";
}

/// Why something isn't there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What was tried and what happened.
    pub reason: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Refusal {
    /// A reason, without advice.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), hint: None }
    }

    /// A failed call, with advice for it if there is some.
    pub fn of_call(call: &SysError, hint: Option<Hint>) -> Self {
        Self { reason: call.to_string(), hint: hint.or_else(|| Hint::of_call(call)).map(String::from) }
    }
}

impl From<SysError> for Refusal {
    fn from(call: SysError) -> Self {
        Self::of_call(&call, None)
    }
}

/// What was found out about a feature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Which.
    pub feature: Feature,
    /// Why it isn't there; `None` if it is.
    pub refusal: Option<Refusal>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn features_have_distinct_keys() {
        let names: BTreeSet<_> = Feature::ALL.iter().map(|feature| feature.name()).collect();
        assert_eq!(names.len(), Feature::ALL.len());
        assert!(names.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_alphanumeric())));
    }
}
