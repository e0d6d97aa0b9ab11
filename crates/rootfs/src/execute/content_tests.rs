//! What is put into the tree, and when, on the recording kernel.

use std::os::fd::OwnedFd;

use super::tests::{Alone, run, run_with, setting};
use super::{Execution, Level, sources};
use crate::error::{ErrorCode, Result};
use crate::journal::{self, Writer};
use crate::kernel::recording::{Node, Recording};
use crate::options::{Attributes, Links, attr};
use crate::plan::Plan;
use crate::spec::{
    Device, DeviceType, Directory, FileContent, IdMap, IdMapping, Mask, MissingMask, Mount, MountKind, Root,
    RootfsSpec, Symlink,
};

fn spec() -> RootfsSpec {
    RootfsSpec::new(Root::Directory("/srv/root".into()))
}

fn directory(path: &str, mode: Option<u32>) -> Directory {
    Directory { path: path.into(), mode, uid: None, gid: None }
}

fn file(path: &str, content: &str, writable: bool) -> Mount {
    let readonly = if writable { 0 } else { attr::RDONLY };
    Mount {
        destination: path.into(),
        kind: MountKind::File { content: FileContent::new(content.as_bytes()), mode: 0o640, uid: 5, gid: 6 },
        attributes: Attributes { set: attr::NOSUID | readonly, ..Attributes::default() },
        propagation: vec![],
        id_map: None,
        ineffective: vec![],
        links: Links::default(),
    }
}

fn memory_file() -> (OwnedFd, Writer) {
    let file = rustix::fs::memfd_create(c"journal", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let writer = Writer::new(rustix::io::fcntl_dupfd_cloexec(&file, 0).unwrap());
    (file, writer)
}

fn journalled(journal: &OwnedFd) -> Vec<String> {
    let records = journal::read(journal);
    records.iter().map(|record| record.top.join(&record.parent).join(&record.name).to_string()).collect()
}

#[test]
fn what_was_asked_for_is_no_mountpoint_to_remove() {
    let kernel = Recording::new(&[("/etc", Node::Directory)]);
    let mut spec = spec();
    spec.add(directory("/made/deep", Some(0o700)));
    spec.add(Symlink { target: "deep".into(), path: "/made/link".into() });
    spec.add(file("/etc/motd", "hello", false));
    let (journal, writer) = memory_file();
    run_with(&kernel, &spec, Level::Detached, Some(writer)).unwrap();
    assert_eq!(journalled(&journal), ["/srv/root/etc/motd"]);
    assert!(kernel.position("mkdir /made 755") < kernel.position("mkdir /made/deep 755"));
    assert!(kernel.position("mkdir /made/deep") < kernel.position("mode /made/deep 700"));
    assert!(kernel.position("mode /made/deep") < kernel.position("symlink /made/link -> deep"));
}

#[test]
fn a_file_is_read_only_down_to_its_superblock_before_anybody_sees_it() {
    let kernel = Recording::new(&[]);
    let mut spec = spec();
    spec.add(file("/motd", "hello", false));
    run(&kernel, &spec, Level::Detached).unwrap();
    assert!(kernel.position("file /file 640 5:6 5 bytes") < kernel.position("superblock ro [tmpfs]"));
    assert!(kernel.position("superblock ro") < kernel.position("clone /file"));
    assert!(kernel.position("clone /file") < kernel.position("attach [/file] -> /motd"));
    let writable = Recording::new(&[]);
    spec.content.clear();
    spec.add(file("/motd", "hello", true));
    run(&writable, &spec, Level::Detached).unwrap();
    assert!(!writable.calls.borrow().iter().any(|call| call.starts_with("superblock")));
}

#[test]
fn on_an_older_kernel_a_file_is_copied_from_an_attached_filesystem() {
    let kernel = Recording::new(&[]);
    kernel.copies_no_detached.set(true);
    let mut spec = spec();
    spec.add(file("/motd", "hello", false));
    run(&kernel, &spec, Level::Attached).unwrap();
    assert!(kernel.position("attach [tmpfs] -> host:/mnt") < kernel.position("attach [/file] -> /motd"));
    // Nothing is attached anywhere where this process has no mount namespace of its own yet.
    assert_eq!(run(&kernel_without(), &spec, Level::Detached).unwrap_err().errno, Some(libc::EINVAL));
}

fn kernel_without() -> Recording {
    let kernel = Recording::new(&[]);
    kernel.copies_no_detached.set(true);
    kernel
}

#[test]
fn another_thing_in_the_way_is_an_error_and_the_same_thing_is_none() {
    let tree = || Recording::new(&[("/file", Node::File), ("/link", Node::Symlink("file"))]);
    let link = |target: &str, path: &str| Symlink { target: target.into(), path: path.into() };
    let attempt = |content: &dyn Fn(&mut RootfsSpec)| {
        let mut spec = spec();
        content(&mut spec);
        run(&tree(), &spec, Level::Detached).map(drop).map_err(|error| (error.code, error.errno))
    };
    let exists = Err((ErrorCode::Mount, Some(libc::EEXIST)));
    assert_eq!(attempt(&|spec| spec.add(link("file", "/link"))), Ok(()));
    assert_eq!(attempt(&|spec| spec.add(link("other", "/link"))), exists);
    assert_eq!(attempt(&|spec| spec.add(link("file", "/file"))), exists);
    assert_eq!(attempt(&|spec| spec.add(directory("/file", None))), exists);
    assert_eq!(attempt(&|spec| spec.add(directory("/link", None))), exists);
}

#[test]
fn a_stub_is_made_before_anything_is_read_only_and_masked_after() {
    let kernel = Recording::new(&[("/etc", Node::Directory)]);
    let mut spec = spec();
    spec.readonly = Some(crate::spec::ReadonlyRoot { recursive: false });
    spec.masks.push(Mask { path: "/etc/none".into(), missing: MissingMask::Stub });
    let (journal, writer) = memory_file();
    run_with(&kernel, &spec, Level::Detached, Some(writer)).unwrap();
    assert_eq!(journalled(&journal), ["/srv/root/etc/none"]);
    assert!(kernel.position("mknod /etc/none Regular 644") < kernel.position("pivot"));
    let calls = kernel.calls.borrow();
    let masked = calls.iter().position(|call| call.starts_with("attach") && call.ends_with("-> /etc/none"));
    assert!(masked.is_some_and(|masked| masked > kernel.position("pivot")), "{calls:#?}");
}

#[test]
fn a_missing_path_on_the_host_is_denied_only_by_what_needs_no_name() {
    let deny = |missing, content: &[(&str, Node)]| {
        let kernel = Recording::new(content);
        let mut spec = spec();
        spec.masks.push(Mask { path: "/etc/new/none".into(), missing });
        let result = run(&kernel, &spec, Level::Detached);
        let calls = kernel.calls.borrow().clone();
        result.map(|outcome| (outcome, calls))
    };
    let etc = [("/etc", Node::Directory)];
    let error = deny(MissingMask::DenyCreate, &etc).map(drop).unwrap_err();
    assert_eq!(error.code, ErrorCode::Unsupported);
    assert!(error.hint.is_some_and(|hint| hint.contains("'readonly-parent'") && hint.contains("'stub'")));
    let (outcome, calls) = deny(MissingMask::ReadonlyParent, &etc).unwrap();
    assert!(outcome.report.steps.iter().any(|step| step.strategy.as_deref() == Some("readonly-parent")));
    assert!(calls.contains(&"attach [/etc] -> /etc".to_owned()), "{calls:#?}");
    assert!(calls.contains(&format!("set [/etc] +{:x} -0 ", attr::RDONLY)), "{calls:#?}");
    assert!(!calls.iter().any(|call| call.starts_with("mkdir") || call.starts_with("mknod")));
    // A link could be replaced by a directory in which the name can be made.
    let link = [("/etc", Node::Symlink("/real")), ("/real", Node::Directory)];
    assert_eq!(deny(MissingMask::ReadonlyParent, &link).map(drop).unwrap_err().code, ErrorCode::Unsupported);
}

#[test]
fn a_missing_path_in_an_empty_root_gets_a_placeholder() {
    let kernel = Recording::new(&[]);
    let mut spec = RootfsSpec::new(Root::Empty { size: None, mode: 0o755 });
    spec.masks.push(Mask { path: "/none/deep".into(), missing: MissingMask::DenyCreate });
    run(&kernel, &spec, Level::Detached).unwrap();
    assert!(kernel.position("mkdir /none 0") > kernel.position("pivot"));
    assert!(kernel.position("attach [tmpfs] -> /none") > kernel.position("mkdir /none 0"));
}

#[test]
fn parameters_are_set_at_the_end_through_what_was_opened_before() {
    let kernel = Recording::new(&[]);
    let mut spec = spec();
    spec.domainname = Some("example.org".into());
    for (name, value) in [("kernel.msgmax", "1"), ("kernel.domainname", "example.net")] {
        spec.sysctl.push((name.into(), value.into()));
    }
    run(&kernel, &spec, Level::Detached).unwrap();
    assert!(kernel.position("prepare sysctl") < kernel.position("pivot"));
    assert!(kernel.position("pivot") < kernel.position("domainname example.org"));
    assert!(kernel.position("domainname example.org") < kernel.position("sysctl kernel/msgmax = 1"));
    assert!(kernel.position("sysctl kernel/msgmax") < kernel.position("domainname example.net"));
    kernel.refuse("sysctl", libc::ENOENT);
    let error = run(&kernel, &spec, Level::Detached).unwrap_err();
    assert_eq!(error.code, ErrorCode::Unsupported);
    assert!(error.message.contains("sysctl kernel.msgmax: "), "{error}");
}

#[test]
fn in_a_user_namespace_a_device_on_the_host_is_bound_on_a_mountpoint_that_is_removed_again() {
    let kernel = Recording::new(&[]);
    let mut spec = spec();
    spec.devices.push(Device {
        path: "/nodes/null".into(),
        kind: DeviceType::Character,
        major: 1,
        minor: 3,
        mode: 0o666,
        uid: 0,
        gid: 0,
    });
    let own = IdMapping { container_id: 0, host_id: 1000, size: 1 };
    let mut setting = setting(Level::Attached);
    setting.user = Some(IdMap { uids: vec![own], gids: vec![own] });
    let (journal, writer) = memory_file();
    let attempt = |kernel: &Recording, writer| -> Result<()> {
        let plan = Plan::new(&spec)?;
        let sources = sources::open(kernel, &plan, &sources::Request::default())?;
        let mut alone = Alone(kernel);
        Execution::new(kernel, &plan, setting.clone(), sources, &mut alone, writer).run().map(drop)
    };
    attempt(&kernel, Some(writer)).unwrap();
    assert_eq!(journalled(&journal), ["/srv/root/nodes", "/srv/root/nodes/null"]);
    assert!(
        kernel.position("mknod /nodes/null Regular 0")
            < kernel.position("attach [host:/dev/null] -> /nodes/null")
    );
    assert!(!kernel.calls.borrow().iter().any(|call| call.contains("Character")));
    // A link there could lead what is bound anywhere.
    let link = Recording::new(&[("/nodes", Node::Directory), ("/nodes/null", Node::Symlink("/etc"))]);
    let error = attempt(&link, None).unwrap_err();
    assert_eq!((error.code, error.errno), (ErrorCode::Device, Some(libc::EEXIST)));
}

#[test]
fn a_host_node_with_other_rights_than_were_asked_for_is_a_warning() {
    let warnings = |mode, owner: (u32, u32), in_user_namespace: bool| {
        let kernel = Recording::new(&[]);
        kernel.refuse("mknod /nodes/null Character", libc::EPERM);
        let mut spec = spec();
        spec.devices.push(Device {
            path: "/nodes/null".into(),
            kind: DeviceType::Character,
            major: 1,
            minor: 3,
            mode,
            uid: owner.0,
            gid: owner.1,
        });
        let plan = Plan::new(&spec).unwrap();
        let mut setting = setting(Level::Attached);
        if in_user_namespace {
            let own = IdMapping { container_id: 0, host_id: 1000, size: 1 };
            setting.user = Some(IdMap { uids: vec![own], gids: vec![own] });
        }
        let sources = sources::open(&kernel, &plan, &sources::Request::default()).unwrap();
        let mut alone = Alone(&kernel);
        let done = Execution::new(&kernel, &plan, setting, sources, &mut alone, None).run().unwrap();
        assert!(done.report.steps.iter().any(|step| step.strategy.as_deref() == Some("bind-host-node")));
        done.report
            .warnings
            .into_iter()
            .map(|warning| {
                assert_eq!(warning.code, "device-mode");
                warning.message
            })
            .collect::<Vec<_>>()
    };
    // Those of the double are 755 and 0:0.
    let none: Vec<String> = Vec::new();
    for in_user_namespace in [false, true] {
        assert_eq!(warnings(0o755, (0, 0), in_user_namespace), none);
    }
    assert_eq!(warnings(0o755, (0, 5), false), none, "a group that may do what everybody may");
    assert_eq!(warnings(0o755, (5, 5), true), none, "an owner that can't be compared");
    assert_eq!(
        warnings(0o755, (5, 6), false),
        [
            "/nodes/null is the host's node, which has mode 755 and belongs to 0:0; asked for was mode 755 and owner 5:6"
        ]
    );
    assert_eq!(warnings(0o750, (0, 6), false).len(), 1);
    assert_eq!(
        warnings(0o600, (0, 0), true),
        ["/nodes/null is the host's node, which has mode 755; asked for was mode 600"]
    );
}
