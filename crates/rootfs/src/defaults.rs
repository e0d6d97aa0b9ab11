//! What an OCI runtime gives every container, as the configuration that `runc spec` writes has it.

use crate::options::{Attributes, Links, attr};
use crate::path::PathBytes;
use crate::spec::{Device, DeviceType, Mount, MountKind};

/// Paths that are hidden by default.
pub const MASKED_PATHS: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/proc/scsi",
];

/// Paths that are read-only by default.
pub const READONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The size of /dev and /dev/shm, in bytes.
pub const DEV_SIZE: u64 = 64 << 20;

/// The group that owns terminals on Debian and most others; dropped where it is not mapped.
pub const TTY_GROUP: u32 = 5;

/// A new filesystem with the given flags and options.
pub fn filesystem(destination: &str, fstype: &str, flags: u64, data: &[(&str, &str)]) -> Mount {
    Mount {
        destination: PathBytes::from(destination),
        kind: MountKind::Filesystem {
            fstype: fstype.to_owned(),
            source: Some(PathBytes::from(if fstype == "tmpfs" && destination == "/dev/shm" {
                "shm"
            } else {
                fstype
            })),
            superblock: Vec::new(),
            data: data
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (!value.is_empty()).then(|| (*value).to_owned())))
                .collect(),
            bind_fallback: false,
            copy_up: false,
        },
        attributes: Attributes { set: flags, ..Attributes::default() },
        propagation: Vec::new(),
        id_map: None,
        ineffective: Vec::new(),
        links: Links::default(),
    }
}

/// A fresh proc.
pub fn proc() -> Mount {
    filesystem("/proc", "proc", 0, &[])
}

/// A fresh sysfs.
pub fn sysfs(readonly: bool) -> Mount {
    let flags = attr::NOSUID | attr::NOEXEC | attr::NODEV | if readonly { attr::RDONLY } else { 0 };
    filesystem("/sys", "sysfs", flags, &[])
}

/// The host's kind of cgroup filesystem.
pub fn cgroup(readonly: bool) -> Mount {
    let flags = attr::NOSUID | attr::NOEXEC | attr::NODEV | if readonly { attr::RDONLY } else { 0 };
    Mount {
        destination: PathBytes::from("/sys/fs/cgroup"),
        kind: MountKind::Cgroup { source: None, superblock: Vec::new(), data: Vec::new() },
        attributes: Attributes { set: flags, atime: Some(attr::RELATIME), ..Attributes::default() },
        propagation: Vec::new(),
        id_map: None,
        ineffective: Vec::new(),
        links: Links::default(),
    }
}

/// The filesystems of /dev, without the nodes and links in it.
pub fn dev(size: u64, readonly: bool) -> Vec<Mount> {
    let size = size.to_string();
    let shm_size = DEV_SIZE.to_string();
    let mut dev = filesystem("/dev", "tmpfs", attr::NOSUID, &[("mode", "755"), ("size", &size)]);
    dev.attributes.atime = Some(attr::STRICTATIME);
    if readonly {
        dev.attributes.set |= attr::RDONLY;
    }
    let group = TTY_GROUP.to_string();
    let flags = attr::NOSUID | attr::NOEXEC;
    vec![
        dev,
        filesystem(
            "/dev/pts",
            "devpts",
            flags,
            &[("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", &group)],
        ),
        filesystem("/dev/shm", "tmpfs", flags | attr::NODEV, &[("mode", "1777"), ("size", &shm_size)]),
        filesystem("/dev/mqueue", "mqueue", flags | attr::NODEV, &[]),
    ]
}

/// The device nodes every container gets.
pub fn devices() -> Vec<Device> {
    [("null", 1, 3), ("random", 1, 8), ("full", 1, 7), ("tty", 5, 0), ("zero", 1, 5), ("urandom", 1, 9)]
        .into_iter()
        .map(|(name, major, minor)| Device {
            path: PathBytes::from(format!("/dev/{name}")),
            kind: DeviceType::Character,
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
        })
        .collect()
}

/// The links of /dev: name and target.
pub const DEV_LINKS: [(&str, &str); 4] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];

/// A link that is made only where the host has its target.
pub const CORE_LINK: (&str, &str) = ("/dev/core", "/proc/kcore");
