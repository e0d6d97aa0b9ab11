//! The order of an execution and what it refuses, on the recording kernel: no privileges are needed.

use std::os::fd::{BorrowedFd, OwnedFd};

use super::sources;
use super::{Execution, Level, Outcome, Setting, Surroundings};
use crate::defaults;
use crate::error::{Error, ErrorCode, Result};
use crate::journal::{self, Identity, State, Writer};
use crate::kernel::recording::{Node, Recording};
use crate::options::{Attributes, Links, attr};
use crate::path::PathBytes;
use crate::plan::Plan;
use crate::protocol::ExecutedStep;
use crate::resolve::Missing;
use crate::spec::{
    BindSource, Directory, Hook, HookPoint, Mask, MissingMask, Mount, MountKind, ReadonlyRoot, Root,
    RootfsSpec,
};

struct Alone<'a>(&'a Recording);

impl Surroundings for Alone<'_> {
    fn make(&mut self, _: BorrowedFd<'_>, _: &PathBytes, _: Missing) -> Result<bool> {
        Err(Error::new(ErrorCode::Unsupported, "nobody is there"))
    }
    fn make_symlink(&mut self, _: &PathBytes, _: BorrowedFd<'_>, _: &PathBytes) -> Result<bool> {
        Err(Error::new(ErrorCode::Unsupported, "nobody is there"))
    }
    fn change(&mut self, _: BorrowedFd<'_>, _: &Directory) -> Result<()> {
        Err(Error::new(ErrorCode::Unsupported, "nobody is there"))
    }
    fn open_directory(&mut self, _: BorrowedFd<'_>) -> Result<OwnedFd> {
        Err(Error::new(ErrorCode::Unsupported, "nobody is there"))
    }
    fn attach_root(&mut self, _: BorrowedFd<'_>, _: &PathBytes, _: Identity) -> Result<bool> {
        Ok(false)
    }
    fn run_hook(&mut self, hook: &Hook, _: BorrowedFd<'_>, root: &PathBytes) -> Result<()> {
        self.0.calls.borrow_mut().push(format!("hook {} {root}", hook.point.name()));
        self.0.hook_runs();
        Ok(())
    }
    fn host_has(&mut self, _: &PathBytes) -> bool {
        false
    }
    fn step_done(&mut self, _: &ExecutedStep) {}
}

fn setting(level: Level) -> Setting<'static> {
    Setting {
        level,
        own_mount_namespace: false,
        user: None,
        cgroup_namespace: true,
        new_cgroup_namespace: false,
        verify: true,
        stub: None,
    }
}

pub(super) fn run(kernel: &Recording, spec: &RootfsSpec, level: Level) -> Result<Outcome> {
    run_with(kernel, spec, level, None)
}

fn run_with(kernel: &Recording, spec: &RootfsSpec, level: Level, journal: Option<Writer>) -> Result<Outcome> {
    let plan = Plan::new(spec)?;
    let sources = sources::open(kernel, &plan, &sources::Request { verify: true, ..Default::default() })?;
    let mut alone = Alone(kernel);
    Execution::new(kernel, &plan, setting(level), sources, &mut alone, journal).run()
}

pub(super) fn bind(source: &str, destination: &str) -> Mount {
    Mount {
        destination: destination.into(),
        kind: MountKind::Bind {
            source: BindSource::Host(source.into()),
            recursive: true,
            optional: false,
            within: None,
        },
        attributes: Attributes { set: attr::RDONLY, exact: true, ..Attributes::default() },
        propagation: vec![],
        ineffective: vec![],
        links: Links::default(),
    }
}

pub(super) fn spec() -> RootfsSpec {
    let mut spec = RootfsSpec::new(Root::Directory("/srv/root".into()));
    spec.add(bind("/data", "/data"));
    spec.add(defaults::filesystem("/tmp", "tmpfs", attr::RDONLY, &[]));
    spec.readonly = Some(ReadonlyRoot { recursive: false });
    spec.masks.push(Mask { path: "/etc/secret".into(), missing: MissingMask::Skip });
    spec
}

pub(super) fn tree() -> Recording {
    Recording::new(&[
        ("/data", Node::Directory),
        ("/tmp", Node::Directory),
        ("/etc", Node::Directory),
        ("/etc/secret", Node::File),
    ])
}

#[test]
fn sources_are_opened_before_anything_is_attached() {
    for level in [Level::Detached, Level::Attached] {
        let kernel = tree();
        run(&kernel, &spec(), level).unwrap();
        assert!(kernel.position("clone host:/data") < kernel.position("attach"), "{level:?}");
        assert!(kernel.position("set [host:/data]") < kernel.position("attach [host:/data]"), "{level:?}");
    }
}

#[test]
fn a_detached_tree_is_attached_once_and_last() {
    let kernel = tree();
    run(&kernel, &spec(), Level::Detached).unwrap();
    assert!(kernel.position("attach [tmpfs] -> /tmp") < kernel.position("unshare mount"));
    assert!(kernel.position("unshare mount") < kernel.position("attach [host:/srv/root] -> host:/"));
    assert!(kernel.position("attach [host:/srv/root]") < kernel.position("pivot"));
}

#[test]
fn an_attached_tree_is_in_its_own_namespace_before_the_first_mount() {
    let kernel = tree();
    run(&kernel, &spec(), Level::Attached).unwrap();
    assert!(kernel.position("unshare mount") < kernel.position("root propagation rslave"));
    assert!(kernel.position("root propagation") < kernel.position("attach [host:/srv/root] -> host:/"));
    assert!(kernel.position("attach [host:/srv/root]") < kernel.position("attach [tmpfs] -> /tmp"));
}

#[test]
fn hooks_see_the_tree_at_its_own_path_whatever_the_level() {
    for level in [Level::Detached, Level::Attached] {
        let kernel = tree();
        let mut spec = spec();
        for point in HookPoint::ALL {
            spec.hooks.push(Hook { point, path: "/h".into(), args: vec![], env: vec![], timeout: None });
        }
        run(&kernel, &spec, level).unwrap();
        assert!(
            kernel.position("attach [host:/srv/root] -> host:/srv/root")
                < kernel.position("hook prestart /srv/root")
        );
        assert!(kernel.position("hook createContainer /srv/root") < kernel.position("pivot"));
        assert!(kernel.position("pivot") < kernel.position("hook startContainer /"));
    }
}

#[test]
fn a_read_only_tmpfs_is_read_only_down_to_its_superblock_and_only_at_the_end() {
    let kernel = tree();
    run(&kernel, &spec(), Level::Detached).unwrap();
    assert!(kernel.calls.borrow().iter().any(|call| call == "fsmount tmpfs 0"));
    assert!(kernel.position("pivot") < kernel.position("superblock ro [tmpfs]"));
}

#[test]
fn a_missing_mountpoint_is_made_and_written_down() {
    let kernel = Recording::new(&[("/etc", Node::Directory), ("/link", Node::Symlink("/a/b"))]);
    let mut spec = RootfsSpec::new(Root::Directory("/srv/root".into()));
    spec.add(bind("/data", "/link"));
    spec.add(bind("/x.file", "/etc/x"));
    let file = rustix::fs::memfd_create(c"journal", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let writer = Writer::new(rustix::io::fcntl_dupfd_cloexec(&file, 0).unwrap());
    run_with(&kernel, &spec, Level::Detached, Some(writer)).unwrap();
    let records = journal::read(&file);
    let names: Vec<String> =
        records.iter().map(|record| record.top.join(&record.parent).join(&record.name).to_string()).collect();
    assert_eq!(names, ["/srv/root/a", "/srv/root/a/b", "/srv/root/etc/x"]);
    assert!(records.iter().all(|record| matches!(record.state, State::Made(_))), "{records:?}");
    let calls = kernel.calls.borrow();
    for call in ["mkdir /a 755", "mkdir /a/b 755", "mknod /etc/x Regular 644"] {
        assert!(calls.iter().any(|made| made == call), "{call} is missing in {calls:#?}");
    }
}

#[test]
fn a_failing_step_ends_the_execution_and_says_what_and_where() {
    let kernel = tree();
    kernel.refuse("option size=banana", libc::EINVAL);
    let mut spec = spec();
    spec.add(defaults::filesystem("/etc", "tmpfs", 0, &[("size", "banana")]));
    let error = run(&kernel, &spec, Level::Detached).unwrap_err();
    assert_eq!((error.code, error.step, error.errno), (ErrorCode::Mount, Some(4), Some(libc::EINVAL)));
    assert_eq!(error.destination, Some("/etc".into()));
    assert_eq!(error.kernel_log, ["e tmpfs: Unknown parameter"]);
    assert!(error.message.contains("size=banana"), "{}", error.message);
    assert!(!kernel.calls.borrow().iter().any(|call| call == "pivot"));
}

#[test]
fn nothing_is_mounted_over_or_inside_proc() {
    let kernel = Recording::new(&[
        ("/proc", Node::Directory),
        ("/proc/self", Node::Directory),
        ("/proc/meminfo", Node::File),
        ("/disguise", Node::Symlink("proc/self")),
    ]);
    kernel.mount_procfs("/proc");
    for (destination, source, fine) in [
        ("/proc", "/data", false),
        ("//proc/.", "/data", false),
        ("/x/../proc", "/data", false),
        ("/disguise", "/data", false),
        ("/proc/self", "/data", false),
        ("/proc/meminfo", "/x.file", true),
    ] {
        let mut spec = RootfsSpec::new(Root::Directory("/srv/root".into()));
        spec.add(bind(source, destination));
        let result = run(&kernel, &spec, Level::Detached);
        assert_eq!(result.is_ok(), fine, "{destination}");
        if let Err(error) = result {
            let expected = if destination.contains("..") {
                vec![ErrorCode::Proc, ErrorCode::Mount]
            } else {
                vec![ErrorCode::Proc]
            };
            assert!(expected.contains(&error.code), "{destination}: {error}");
        }
    }
}

#[test]
fn proc_is_not_mounted_through_a_link() {
    for (names, destination) in [
        (vec![("/elsewhere", Node::Directory), ("/proc", Node::Symlink("/elsewhere"))], "/proc"),
        (vec![("/proc", Node::Symlink("/dangling"))], "/proc"),
        (vec![("/a", Node::Symlink("/dangling"))], "/a/proc"),
    ] {
        let kernel = Recording::new(&names);
        let mut spec = RootfsSpec::new(Root::Directory("/srv/root".into()));
        let mut proc = defaults::proc();
        proc.destination = destination.into();
        spec.add(proc);
        let error = run(&kernel, &spec, Level::Detached).unwrap_err();
        assert_eq!(error.code, ErrorCode::Proc, "{error}");
        assert!(error.message.contains("ordinary directory"));
    }
}

#[test]
fn a_directory_is_not_mounted_on_a_file() {
    let kernel = Recording::new(&[("/file", Node::File)]);
    let mut spec = RootfsSpec::new(Root::Directory("/srv/root".into()));
    spec.add(bind("/data", "/file"));
    let error = run(&kernel, &spec, Level::Detached).unwrap_err();
    assert_eq!((error.code, error.errno), (ErrorCode::Mount, Some(libc::ENOTDIR)));
}

#[test]
fn a_flag_that_did_not_stick_is_an_error() {
    let kernel = tree();
    kernel.forgets_readonly.set(true);
    let error = run(&kernel, &spec(), Level::Detached).unwrap_err();
    assert_eq!(error.code, ErrorCode::Verify, "{error}");
}

#[test]
fn a_superblock_that_stays_busy_is_an_error() {
    let kernel = tree();
    kernel.refuse("superblock", libc::EBUSY);
    let error = run(&kernel, &spec(), Level::Detached).unwrap_err();
    assert_eq!((error.code, error.errno), (ErrorCode::Mount, Some(libc::EBUSY)));
    let tries = kernel.calls.borrow().iter().filter(|call| call.starts_with("superblock")).count();
    assert_eq!(tries, 6);
}

#[test]
fn masks_use_a_null_device_that_was_checked() {
    let kernel = tree();
    run(&kernel, &spec(), Level::Detached).unwrap();
    assert!(kernel.position("clone host:/dev/null") < kernel.position("pivot"));
    assert!(kernel.position("unshare mount") < kernel.position("clone host:/dev/null"));
    assert!(
        kernel.calls.borrow().iter().any(|call| call.starts_with("attach") && call.ends_with("/etc/secret"))
    );
}

#[test]
fn a_missing_mask_is_skipped_or_an_error_as_asked() {
    let kernel = tree();
    let mut spec = spec();
    spec.masks = vec![Mask { path: "/nowhere".into(), missing: MissingMask::Skip }];
    let report = run(&kernel, &spec, Level::Detached).unwrap().report;
    assert!(
        report.skipped.is_empty()
            && report.steps.iter().any(|step| step.strategy.as_deref() == Some("missing"))
    );
    spec.masks[0].missing = MissingMask::Error;
    assert_eq!(run(&kernel, &spec, Level::Detached).unwrap_err().errno, Some(libc::ENOENT));
}
