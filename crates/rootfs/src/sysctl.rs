//! Kernel parameters: which may be set for a container, and under which name; `sysctl(8)`, `proc_sys(5)`.

use crate::spec::{Namespace, Namespaces};

/// A parameter's name as a path below /proc/sys, as `sysctl(8)` has it: where the first separator is a dot, dots separate
/// and a slash stands for a dot in a name (`net.ipv4.conf.eth0/1.forwarding`); where it is a slash, slashes separate.
pub fn path_of(name: &str) -> Result<String, &'static str> {
    let dots = match name.find(['.', '/']) {
        Some(at) => name.as_bytes()[at] == b'.',
        None => return Err("a name with at least two parts, such as net.ipv4.ip_forward, is needed"),
    };
    let path: String = name
        .chars()
        .map(|char| match char {
            '.' if dots => '/',
            '/' if dots => '.',
            other => other,
        })
        .collect();
    if path.contains('\0') {
        return Err("the name contains a NUL byte");
    }
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err("the name has a part that is empty, \".\" or \"..\"");
    }
    Ok(path)
}

/// Whether the parameter belongs to a namespace that the container has: else setting it would change the host.
pub fn check(path: &str, namespaces: &Namespaces) -> Result<(), String> {
    let (kind, namespace) = match path {
        "kernel/hostname" => return Err("the host name is set with hostname".to_owned()),
        "kernel/domainname" => ("uts", &namespaces.uts),
        "kernel/sem" => ("ipc", &namespaces.ipc),
        _ if ["kernel/msg", "kernel/shm", "kernel/sem_", "fs/mqueue/"]
            .iter()
            .any(|start| path.starts_with(start)) =>
        {
            ("ipc", &namespaces.ipc)
        }
        _ if path.starts_with("net/") => ("network", &namespaces.network),
        _ => {
            return Err("it belongs to no namespace: setting it would change the whole machine".to_owned());
        }
    };
    if *namespace == Namespace::Inherit {
        return Err(format!("needs a {kind} namespace of its own, or the host's would be changed"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalized_as_sysctl_does_it() {
        for (name, path) in [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
            ("net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"),
            ("net/ipv4/conf/eth0.1/forwarding", "net/ipv4/conf/eth0.1/forwarding"),
        ] {
            assert_eq!(path_of(name).unwrap(), path);
        }
        for name in [
            "",
            "kernel",
            "net..ipv4",
            ".net",
            "net.",
            "net/../kernel/panic",
            "net.//.kernel",
            "net/./x",
            "/net/x",
            "net.a\0b",
        ] {
            assert!(path_of(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_parameter_needs_its_namespace() {
        let own = Namespaces { network: Namespace::New, ..Namespaces::default() };
        let none = Namespaces {
            ipc: Namespace::Inherit,
            uts: Namespace::Inherit,
            network: Namespace::Inherit,
            ..Namespaces::default()
        };
        for path in [
            "net/ipv4/ip_forward",
            "kernel/msgmax",
            "kernel/sem",
            "kernel/shm_rmid_forced",
            "fs/mqueue/msg_max",
            "kernel/domainname",
        ] {
            check(path, &own).unwrap();
            assert!(check(path, &none).unwrap_err().contains("of its own"), "{path}");
        }
        for path in ["kernel/hostname", "kernel/panic", "kernel/semaphore", "vm/swappiness", "fs/file-max"] {
            assert!(check(path, &own).is_err(), "{path}");
        }
    }
}
