//! The cgroup filesystems on hosts of each kind, and what is done where a new one is denied.

use super::cgroup::below_mounted;
use super::tests::run_unverified;
use super::{Level, Outcome};
use crate::error::{ErrorCode, Result};
use crate::kernel::recording::{Node, Recording};
use crate::mountinfo::{self, Entry};
use crate::path::PathBytes;
use crate::spec::{Namespace, Root, RootfsSpec, mount_from_oci};

const CONTAINER: &str = "/sys/fs/cgroup";

/// The host's mount table, as far as it is about cgroups.
fn table(lines: &[&str]) -> Vec<Entry> {
    mountinfo::parse(lines.join("\n").as_bytes())
}

/// A host on which a cgroup2 can't be made for a reason.
fn host(errno: i32, cgroups: &[(&str, &str)], mounts: &[&str]) -> Recording {
    let kernel = Recording::new(&[
        ("/sys", Node::Directory),
        ("/sys/fs", Node::Directory),
        (CONTAINER, Node::Directory),
    ]);
    *kernel.cgroups.borrow_mut() =
        cgroups.iter().map(|(controllers, path)| ((*controllers).to_owned(), (*path).into())).collect();
    *kernel.cgroup_mounts.borrow_mut() = table(mounts);
    if errno != 0 {
        kernel.refuse("fsmount cgroup2", errno);
    }
    kernel
}

fn run_on(kernel: &Recording, namespace: Namespace, words: &[&str]) -> Result<Outcome> {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let mut spec = RootfsSpec::new(Root::Directory("/srv/root".into()));
    spec.namespaces.cgroup = namespace;
    spec.add(mount_from_oci(CONTAINER.into(), Some("cgroup".into()), Some("cgroup"), &words, None)?);
    run_unverified(kernel, &spec, Level::Detached)
}

fn strategy(outcome: &Outcome) -> Option<&str> {
    outcome.report.steps.iter().find(|step| step.index == 2).and_then(|step| step.strategy.as_deref())
}

#[test]
fn where_the_own_cgroup_is() {
    for (own, mounted, below) in [
        ("/", "/", Some("")),
        ("/a/b", "/", Some("a/b")),
        ("/docker/x", "/docker/x", Some("")),
        ("/docker/x/y", "/docker/x", Some("y")),
        ("/docker/xy", "/docker/x", None),
        // The mount was made outside of the cgroup namespace.
        ("/", "/../..", None),
        ("/../other", "/", None),
    ] {
        let found = below_mounted(&own.into(), &mounted.into());
        assert_eq!(found, below.map(PathBytes::from), "{own} in {mounted}");
    }
}

#[test]
fn version_2_is_new_where_it_may_be() {
    let kernel = host(0, &[("", "/")], &["41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw"]);
    let outcome = run_on(&kernel, Namespace::New, &["nosuid", "ro"]).unwrap();
    assert_eq!(strategy(&outcome), None);
    kernel.position("fsmount cgroup2 3");
}

/// In the first cgroup namespace a mount that doesn't repeat them takes them away, for the host too.
#[test]
fn what_the_host_says_of_its_cgroups_stays() {
    let mounts = ["41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot"];
    let options = |namespace: Namespace, words: &[&str]| {
        let kernel = host(0, &[("", "/")], &mounts);
        let outcome = run_on(&kernel, namespace, words);
        let calls = kernel.calls.borrow();
        let options: Vec<String> =
            calls.iter().filter_map(|call| call.strip_prefix("option ").map(str::to_owned)).collect();
        outcome.map(|_| options)
    };
    let own = Namespace::Path("/proc/1/ns/cgroup".into());
    for namespace in [Namespace::Inherit, own] {
        let found = options(namespace.clone(), &["nosuid"]).unwrap();
        assert_eq!(found, ["source=cgroup", "nsdelegate", "memory_recursiveprot"]);
        let found = options(namespace.clone(), &["memory_recursiveprot"]).unwrap();
        assert_eq!(found, ["source=cgroup", "memory_recursiveprot", "nsdelegate"]);
        let error = options(namespace, &["favordynmods"]).unwrap_err();
        assert_eq!(error.code, ErrorCode::Spec);
        assert!(error.message.contains("\"favordynmods\" would change"), "{}", error.message);
    }
    assert_eq!(options(Namespace::New, &["favordynmods"]).unwrap(), ["source=cgroup", "favordynmods"]);
}

#[test]
fn denied_it_is_a_bind_of_the_host_s_with_the_flags_kept() {
    for errno in [libc::EPERM, libc::EBUSY] {
        let kernel =
            host(errno, &[("", "/user/x")], &["41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw"]);
        let words = ["nosuid", "noexec", "ro", "noatime", "nosymfollow", "no-such"];
        let outcome = run_on(&kernel, Namespace::Inherit, &words).unwrap();
        assert_eq!(strategy(&outcome), Some("bind-fallback"));
        kernel.position("clone host:/sys/fs/cgroup recursive=true");
        let flags = kernel.position("set [host:/sys/fs/cgroup] +b -0 rprivate");
        assert_eq!(kernel.position("set [host:/sys/fs/cgroup] +200010 -70"), flags + 1);
        let [warning] = &outcome.report.warnings[..] else { panic!("{:?}", outcome.report.warnings) };
        assert_eq!((&*warning.code, warning.message.contains("\"no-such\"")), ("cgroup-option", true));
    }
    let kernel = host(libc::ENOMEM, &[("", "/")], &["41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw"]);
    let error = run_on(&kernel, Namespace::Inherit, &[]).unwrap_err();
    assert_eq!((error.code, error.errno), (ErrorCode::Mount, Some(libc::ENOMEM)));
}

#[test]
fn with_a_cgroup_namespace_only_the_own_cgroup_is_bound() {
    for (own, root, bound) in [
        ("/", "/", Some("/sys/fs/cgroup")),
        ("/user/x", "/user", Some("/sys/fs/cgroup/x")),
        // The namespace hides which part it is.
        ("/", "/../..", None),
    ] {
        let line = format!("41 31 0:38 {root} /sys/fs/cgroup rw - cgroup2 cgroup2 rw");
        let kernel = host(libc::EPERM, &[("", own)], &[&line]);
        let outcome = run_on(&kernel, Namespace::New, &["ro"]).unwrap();
        if let Some(path) = bound {
            kernel.position(&format!("clone host:{path} recursive=true"));
            kernel.position(&format!("set [host:{path}] +1 -0 rprivate"));
        } else {
            assert_eq!(strategy(&outcome), Some("masked"));
            kernel.position("fsmount tmpfs 1");
        }
    }
}

#[test]
fn where_there_is_nothing_to_bind_it_is_masked() {
    let kernel = host(libc::EPERM, &[("", "/")], &[]);
    kernel.refuse("open_host /sys/fs/cgroup", libc::ENOENT);
    let outcome = run_on(&kernel, Namespace::Inherit, &["nosuid"]).unwrap();
    assert_eq!(strategy(&outcome), Some("masked"));
    kernel.position("fsmount tmpfs 3");
}

const VERSION1: [&str; 5] = [
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct",
    "33 31 0:30 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids",
    "34 31 0:31 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory",
    "35 31 0:32 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd",
    "36 31 0:33 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw",
];
const OWN: [(&str, &str); 6] = [
    ("name=systemd", "/s"),
    ("memory", "/docker/x/y"),
    ("pids", "/p"),
    ("cpuacct,cpu", "/c"),
    ("freezer", "/f"),
    ("", "/u"),
];

#[test]
fn version_1_is_a_directory_for_each_hierarchy_that_the_host_has_mounted() {
    let kernel = host(0, &OWN, &VERSION1);
    let outcome = run_on(&kernel, Namespace::New, &["ro"]).unwrap();
    assert_eq!(strategy(&outcome), Some("version-1"));
    let calls = kernel.calls.borrow();
    let made: Vec<&str> = calls
        .iter()
        .map(String::as_str)
        .skip_while(|call| !call.starts_with("fsopen tmpfs"))
        .filter(|call| {
            ["option", "fsmount", "mkdir", "symlink", "clone"].iter().any(|verb| call.starts_with(verb))
        })
        .collect();
    // The tmpfs can be written, each hierarchy can't.
    assert_eq!(
        made,
        [
            "option source=tmpfs",
            "option mode=755",
            "fsmount tmpfs e",
            "mkdir /systemd 755",
            "option source=systemd",
            "option none",
            "option name=systemd",
            "fsmount cgroup f",
            "mkdir /memory 755",
            "option source=cgroup",
            "option memory",
            "fsmount cgroup f",
            "mkdir /pids 755",
            "option source=cgroup",
            "option pids",
            "fsmount cgroup f",
            "mkdir /cpu,cpuacct 755",
            "option source=cgroup",
            "option cpuacct",
            "option cpu",
            "fsmount cgroup f",
            "symlink /cpuacct -> cpu,cpuacct",
            "symlink /cpu -> cpu,cpuacct",
        ]
    );
}

#[test]
fn without_a_cgroup_namespace_the_own_cgroups_of_version_1_are_bound() {
    let kernel = host(0, &OWN, &VERSION1);
    run_on(&kernel, Namespace::Inherit, &["ro"]).unwrap();
    for source in ["systemd/s", "memory/y", "pids/p", "cpu,cpuacct/c"] {
        kernel.position(&format!("clone host:/sys/fs/cgroup/{source} recursive=true"));
        kernel.position(&format!("set [host:/sys/fs/cgroup/{source}] +f -0 rprivate"));
    }
    assert!(!kernel.calls.borrow().iter().any(|call| call.contains("freezer") || call.contains("unified")));
}

#[test]
fn an_existing_link_to_a_hierarchy_is_fine() {
    let kernel = host(0, &OWN, &VERSION1);
    let other = "37 31 0:34 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,freezer";
    kernel.cgroup_mounts.borrow_mut().extend(table(&[other]));
    kernel.cgroups.borrow_mut().sort_by_key(|(controllers, _)| controllers != "freezer");
    run_on(&kernel, Namespace::New, &[]).unwrap();
    kernel.position("mkdir /cpu 755");
    kernel.position("symlink /cpuacct -> cpu,cpuacct");
}

#[test]
fn an_own_cgroup_that_is_not_below_the_host_s_mount_is_an_error() {
    let kernel =
        host(0, &[("pids", "/p")], &["33 31 0:30 /../.. /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids"]);
    let error = run_on(&kernel, Namespace::Inherit, &[]).unwrap_err();
    assert_eq!(error.code, ErrorCode::Mount);
    assert!(error.message.contains("hierarchy pids"), "{}", error.message);
}
