//! What is done with each field of an OCI config: one table, read by the reader, the documentation and the tests.
//!
//! Source: OCI runtime-spec 1.3, `config.md` and `config-linux.md`.

use crate::error::ErrorCode;

/// What is done with a field that is there and not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// It is done, or the whole config is refused.
    Enforced,
    /// It is refused with this code.
    Refused(ErrorCode),
    /// It is not done, and is listed among the plan's warnings.
    Reported,
    /// The specification itself says that it has no effect here.
    WithoutEffect,
}

impl Treatment {
    /// The word in the documentation.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enforced => "enforced",
            Self::Refused(ErrorCode::Unsupported) => "refused: not built",
            Self::Refused(_) => "refused",
            Self::Reported => "warning",
            Self::WithoutEffect => "no effect",
        }
    }
}

/// A field and what is done with it.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Names separated by dots; `[]` is any element of an array, and `*` any name.
    pub path: &'static str,
    /// What is done.
    pub treatment: Treatment,
    /// How, or why not.
    pub note: &'static str,
}

const fn enforced(path: &'static str, note: &'static str) -> Field {
    Field { path, treatment: Treatment::Enforced, note }
}

/// What asks for a protection or a resource that isn't given.
const fn refused(path: &'static str, note: &'static str) -> Field {
    Field { path, treatment: Treatment::Refused(ErrorCode::Spec), note }
}

/// Every field of the specification, in its order.
pub const FIELDS: &[Field] = &[
    enforced("ociVersion", "must be 1.x"),
    enforced("root", "required, unless `expectRoot` is false: then the root is an empty tmpfs"),
    enforced("root.path", "a relative one is taken from the bundle; its last component may not be a symlink"),
    enforced("root.readonly", "the top mount only"),
    enforced("mounts", "in the order given"),
    enforced(
        "mounts[].destination",
        "the root's own path in front of it is removed; a relative one is taken from `/`",
    ),
    enforced(
        "mounts[].source",
        "of a bind a relative one is taken from the bundle; one below the root directory is a path of the tree being built",
    ),
    enforced("mounts[].type", "any filesystem the kernel has; of a bind it means nothing"),
    enforced("mounts[].options", "see options.md"),
    enforced("mounts[].uidMappings", "of a bind, together with gidMappings: an idmapped mount"),
    enforced("mounts[].uidMappings[].containerID", ""),
    enforced("mounts[].uidMappings[].hostID", ""),
    enforced("mounts[].uidMappings[].size", ""),
    enforced("mounts[].gidMappings", "of a bind, together with uidMappings: an idmapped mount"),
    enforced("mounts[].gidMappings[].containerID", ""),
    enforced("mounts[].gidMappings[].hostID", ""),
    enforced("mounts[].gidMappings[].size", ""),
    enforced(
        "process",
        "what `run()` and `spawn()` execute when they are given no command; one that they are given is like it",
    ),
    enforced("process.terminal", "only `false`"),
    Field { path: "process.consoleSize", treatment: Treatment::WithoutEffect, note: "without a terminal" },
    enforced("process.cwd", "made if it is missing"),
    enforced("process.env", "the whole environment"),
    enforced(
        "process.args",
        "a name without a slash is looked up in the `PATH` of `process.env`, in the container",
    ),
    refused("process.commandLine", "of Windows"),
    enforced("process.rlimits", "each type once"),
    enforced("process.rlimits[].type", ""),
    enforced("process.rlimits[].soft", "18446744073709551615 is no limit"),
    enforced("process.rlimits[].hard", "18446744073709551615 is no limit"),
    enforced("process.apparmorProfile", "where AppArmor is active; else `ERR_ROOTFS_UNSUPPORTED`"),
    enforced("process.capabilities", "without it there are none"),
    enforced("process.capabilities.bounding", "an unknown name is a warning"),
    enforced("process.capabilities.effective", "an unknown name is a warning"),
    enforced("process.capabilities.permitted", "an unknown name is a warning"),
    enforced("process.capabilities.inheritable", "an unknown name is a warning"),
    enforced(
        "process.capabilities.ambient",
        "what is not permitted and inheritable is dropped with a warning, as runc does",
    ),
    enforced("process.noNewPrivileges", "without it they are possible"),
    enforced("process.oomScoreAdj", "lowering it needs `CAP_SYS_RESOURCE`"),
    refused("process.scheduler", "the process would be scheduled in another way"),
    enforced("process.selinuxLabel", "where SELinux is active; else `ERR_ROOTFS_UNSUPPORTED`"),
    refused("process.ioPriority", "the process would have another priority"),
    refused("process.execCPUAffinity", "the process would run elsewhere"),
    enforced("process.user", "without it `0:0`"),
    enforced("process.user.uid", "from 0 to 4294967294"),
    enforced("process.user.gid", "from 0 to 4294967294"),
    enforced("process.user.umask", "0o022 when it is missing"),
    enforced("process.user.additionalGids", "not possible where the user namespace maps one id"),
    refused("process.user.username", "of Windows"),
    enforced("hostname", "needs a uts namespace"),
    enforced("domainname", "needs a uts namespace"),
    enforced("hooks", "see `Rootfs.hook`"),
    enforced("hooks.*[].path", "absolute"),
    enforced("hooks.*[].args", "the path when it is missing"),
    enforced("hooks.*[].env", "the whole environment"),
    enforced("hooks.*[].timeout", "in seconds"),
    enforced("hooks.prestart", ""),
    enforced("hooks.createRuntime", ""),
    enforced("hooks.createContainer", ""),
    enforced("hooks.startContainer", ""),
    enforced("hooks.poststart", ""),
    enforced("hooks.poststop", ""),
    enforced("annotations", "given to hooks; nothing here reads them"),
    enforced("linux", ""),
    enforced(
        "linux.namespaces",
        "those that are not named stay the caller's; without one of mounts, nothing can be masked",
    ),
    enforced("linux.namespaces[].type", "each once; not `time`"),
    enforced("linux.namespaces[].path", "absolute; an existing namespace is joined"),
    enforced(
        "linux.uidMappings",
        "of a new user namespace; without any its root is the calling user, as crun has it",
    ),
    enforced("linux.uidMappings[].containerID", ""),
    enforced("linux.uidMappings[].hostID", ""),
    enforced("linux.uidMappings[].size", ""),
    enforced(
        "linux.gidMappings",
        "of a new user namespace; without any its root is the calling user, as crun has it",
    ),
    enforced("linux.gidMappings[].containerID", ""),
    enforced("linux.gidMappings[].hostID", ""),
    enforced("linux.gidMappings[].size", ""),
    refused("linux.timeOffsets", "there is no time namespace"),
    enforced("linux.devices", "after the usual ones; none where a bind covers /dev"),
    enforced("linux.devices[].path", "an entry without one is for cgroups only, and skipped with a warning"),
    enforced("linux.devices[].type", "`c`, `b`, `u`, `p`"),
    enforced("linux.devices[].major", "required but for `p`"),
    enforced("linux.devices[].minor", "required but for `p`"),
    enforced(
        "linux.devices[].fileMode",
        "0o666 when it is missing; the warning `device-mode` where only the host's node can be bound, and has another",
    ),
    enforced("linux.devices[].uid", "0 when it is missing"),
    enforced("linux.devices[].gid", "0 when it is missing"),
    refused("linux.netDevices", "the devices would not be there"),
    refused("linux.cgroupsPath", "no cgroup is made"),
    Field {
        path: "linux.resources",
        treatment: Treatment::Reported,
        note: "no cgroup is made: limits are those of the caller's",
    },
    refused("linux.intelRdt", "the limits would not be in force"),
    refused("linux.memoryPolicy", "the process would get other memory"),
    enforced("linux.sysctl", "of the container's own namespaces only"),
    refused("linux.seccomp", "the filter would not be in force; `seccomp` of `spawn` takes a compiled one"),
    enforced("linux.rootfsPropagation", "`rslave` when it is missing"),
    enforced("linux.maskedPaths", "absolute; a missing one is skipped"),
    enforced("linux.readonlyPaths", "absolute; a missing one is skipped"),
    enforced("linux.mountLabel", "where SELinux is enabled"),
    refused("linux.personality", "the process would have another one"),
    refused("windows", "of another platform"),
    refused("solaris", "of another platform"),
    refused("freebsd", "of another platform"),
    refused("vm", "of another platform"),
    refused("zos", "of another platform"),
];

/// The table's entry for a field.
pub fn find(path: &str) -> Option<&'static Field> {
    let found = |path: &str| FIELDS.iter().find(|field| field.path == path);
    found(path).or_else(|| {
        // What a hook has doesn't depend on when it runs.
        let (_, rest) = path.strip_prefix("hooks.")?.split_once("[].")?;
        found(&format!("hooks.*[].{rest}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_field_is_in_the_table_twice_and_each_has_its_parent_there() {
        for (index, field) in FIELDS.iter().enumerate() {
            assert!(FIELDS[..index].iter().all(|other| other.path != field.path), "{}", field.path);
            if let Some((parent, _)) = field.path.rsplit_once('.') {
                let parent = parent.trim_end_matches("[]");
                assert!(parent == "hooks.*" || find(parent).is_some(), "{}", field.path);
            }
        }
    }

    #[test]
    fn hooks_of_all_points_have_the_same_fields() {
        assert_eq!(find("hooks.poststop[].timeout").unwrap().path, "hooks.*[].timeout");
        assert!(find("hooks.poststop[].other").is_none());
        assert!(find("mounts[].other").is_none());
    }
}
