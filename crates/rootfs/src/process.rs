//! A process in the container: what it is, and the last things done before it is executed.

use serde::{Deserialize, Serialize};

use crate::path::PathBytes;

/// Who a process is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct User {
    /// User id, as the container sees it.
    pub uid: u32,
    /// Group id, as the container sees it.
    pub gid: u32,
    /// Supplementary groups.
    pub additional_gids: Vec<u32>,
    /// File mode creation mask; 0022 when nothing is given.
    pub umask: Option<u32>,
}

/// Capability sets, as bits; `capabilities(7)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// What can ever be had.
    pub bounding: u64,
    /// What is in force.
    pub effective: u64,
    /// What may be put in force.
    pub permitted: u64,
    /// What is kept across an execve of a file with inheritable capabilities.
    pub inheritable: u64,
    /// What is kept across an execve.
    pub ambient: u64,
}

/// The names of capabilities; the position is the number. `capabilities(7)`.
pub const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The number of a capability by its name, with or without `CAP_`, in any case.
pub fn capability_number(name: &str) -> Option<u32> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    CAPABILITIES.iter().position(|known| *known == short).and_then(|number| u32::try_from(number).ok())
}

/// What `runc spec` gives: `CAP_AUDIT_WRITE`, `CAP_KILL`, `CAP_NET_BIND_SERVICE`.
pub const DEFAULT_CAPABILITIES: u64 = 1 << 29 | 1 << 5 | 1 << 10;

impl Capabilities {
    /// What a process gets when nothing is said: the OCI default set for root, none for others.
    pub fn default_for(uid: u32) -> Self {
        let set = if uid == 0 { DEFAULT_CAPABILITIES } else { 0 };
        Self { bounding: set, effective: set, permitted: set, inheritable: 0, ambient: 0 }
    }

    /// Whether the process has the capability, or can get it.
    pub fn keeps(&self, name: &str) -> bool {
        let sets = self.bounding | self.effective | self.permitted | self.inheritable | self.ambient;
        capability_number(name).is_some_and(|number| sets & 1 << number != 0)
    }
}

/// Names of resource limits and their numbers; `getrlimit(2)`.
pub const RLIMITS: [(&str, u32); 16] = [
    ("RLIMIT_CPU", 0),
    ("RLIMIT_FSIZE", 1),
    ("RLIMIT_DATA", 2),
    ("RLIMIT_STACK", 3),
    ("RLIMIT_CORE", 4),
    ("RLIMIT_RSS", 5),
    ("RLIMIT_NPROC", 6),
    ("RLIMIT_NOFILE", 7),
    ("RLIMIT_MEMLOCK", 8),
    ("RLIMIT_AS", 9),
    ("RLIMIT_LOCKS", 10),
    ("RLIMIT_SIGPENDING", 11),
    ("RLIMIT_MSGQUEUE", 12),
    ("RLIMIT_NICE", 13),
    ("RLIMIT_RTPRIO", 14),
    ("RLIMIT_RTTIME", 15),
];

/// A resource limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// Its number, from [`RLIMITS`].
    pub resource: u32,
    /// The limit in force.
    pub soft: u64,
    /// How far the process may raise it.
    pub hard: u64,
}

/// A command and everything about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// What is executed: a path, or a name that is looked up in the `PATH` of `env`, inside the root.
    pub command: PathBytes,
    /// The arguments, the first being the program's name.
    pub args: Vec<Vec<u8>>,
    /// The whole environment, as `NAME=value`.
    pub env: Vec<Vec<u8>>,
    /// The working directory, made if it is missing; `/` when nothing is given.
    pub cwd: Option<PathBytes>,
    /// Who it is.
    pub user: User,
    /// What it may do; the default for its user when nothing is given.
    pub capabilities: Option<Capabilities>,
    /// Whether `execve` can give it more than it has.
    pub no_new_privileges: bool,
    /// Its resource limits; others are inherited.
    pub rlimits: Vec<Rlimit>,
    /// A compiled classic-BPF seccomp filter.
    pub seccomp: Option<Vec<u8>>,
    /// The numbers of the descriptors it has besides the standard three: ascending, as they come.
    pub descriptors: Vec<u32>,
    /// How likely it is to be killed when memory is short, from -1000 (never) to 1000; `proc_pid_oom_score_adj(5)`.
    pub oom_score_adj: Option<i32>,
    /// The `AppArmor` profile that confines it.
    pub apparmor_profile: Option<String>,
    /// Its SELinux context.
    pub selinux_label: Option<String>,
}

impl ProcessSpec {
    /// A command with what it gets when nothing else is said: it is root of the container with the default capabilities, and
    /// nothing it executes has more.
    pub fn with_defaults(command: PathBytes, args: Vec<Vec<u8>>, env: Vec<Vec<u8>>) -> Self {
        Self {
            command,
            args,
            env,
            cwd: None,
            user: User::default(),
            capabilities: None,
            no_new_privileges: true,
            rlimits: Vec::new(),
            seccomp: None,
            descriptors: Vec::new(),
            oom_score_adj: None,
            apparmor_profile: None,
            selinux_label: None,
        }
    }

    /// Whether a security module is to confine it.
    pub fn is_confined(&self) -> bool {
        self.apparmor_profile.is_some() || self.selinux_label.is_some()
    }

    /// The capabilities it gets.
    pub fn effective_capabilities(&self) -> Capabilities {
        self.capabilities.unwrap_or_else(|| Capabilities::default_for(self.user.uid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_found_by_name() {
        assert_eq!(capability_number("CAP_SYS_ADMIN"), Some(21));
        assert_eq!(capability_number("kill"), Some(5));
        assert_eq!(capability_number("CAP_CHECKPOINT_RESTORE"), Some(40));
        assert_eq!(capability_number("NOSUCH"), None);
        let names = ["AUDIT_WRITE", "KILL", "NET_BIND_SERVICE"];
        let bits = names
            .iter()
            .filter_map(|name| capability_number(name))
            .fold(0, |bits, number| bits | 1 << number);
        assert_eq!(bits, DEFAULT_CAPABILITIES);
    }
}
