//! The kinds of namespaces, and files that stand for one; `namespaces(7)`.

use serde::{Deserialize, Serialize};

use crate::kernel::process::namespaces;

/// A kind of namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NamespaceKind {
    /// Ids.
    User,
    /// Processes.
    Pid,
    /// Mounts.
    Mount,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Host and domain name.
    Uts,
    /// The view of the cgroup tree.
    Cgroup,
    /// Network.
    Network,
}

impl NamespaceKind {
    /// Every kind.
    pub const ALL: [Self; 7] =
        [Self::User, Self::Pid, Self::Mount, Self::Ipc, Self::Uts, Self::Cgroup, Self::Network];

    /// The name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Pid => "pid",
            Self::Mount => "mount",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::Cgroup => "cgroup",
            Self::Network => "network",
        }
    }

    /// Its `CLONE_NEW*` flag.
    pub const fn flag(self) -> i32 {
        match self {
            Self::User => namespaces::USER,
            Self::Pid => namespaces::PID,
            Self::Mount => namespaces::MOUNT,
            Self::Ipc => namespaces::IPC,
            Self::Uts => namespaces::UTS,
            Self::Cgroup => namespaces::CGROUP,
            Self::Network => namespaces::NETWORK,
        }
    }

    /// The kind with this flag.
    pub fn from_flag(flag: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.flag() == flag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_flag_and_name() {
        for kind in NamespaceKind::ALL {
            assert_eq!(NamespaceKind::from_flag(kind.flag()), Some(kind));
            assert_eq!(NamespaceKind::ALL.into_iter().filter(|other| other.name() == kind.name()).count(), 1);
        }
        assert_eq!(NamespaceKind::from_flag(0), None);
    }
}
