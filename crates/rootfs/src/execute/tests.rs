//! The order of an execution and what it refuses, on the recording kernel: no privileges are needed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::sources;
use super::{Execution, Level, Outcome, Setting, Surroundings};
use crate::defaults;
use crate::error::{Error, ErrorCode, Result};
use crate::journal::{self, Identity, State, Writer};
use crate::kernel::recording::{Node, Recording};
use crate::options::{Attributes, Links, attr};
use crate::overlay::{Overlay, Upper};
use crate::path::PathBytes;
use crate::plan::Plan;
use crate::protocol::ExecutedStep;
use crate::resolve::Missing;
use crate::spec::{
    BindSource, Device, DeviceType, Directory, Hook, HookPoint, IdMap, IdMapping, Mask, MissingMask, Mount,
    MountIdMap, MountIds, MountKind, Namespace, ReadonlyRoot, Root, RootfsSpec,
};

pub(super) struct Alone<'a>(pub(super) &'a Recording);

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

pub(super) fn setting(level: Level) -> Setting<'static> {
    Setting {
        level,
        own_mount_namespace: false,
        user: None,
        new_cgroup_namespace: false,
        verify: true,
        stub: None,
    }
}

pub(super) fn run(kernel: &Recording, spec: &RootfsSpec, level: Level) -> Result<Outcome> {
    run_with(kernel, spec, level, None)
}

pub(super) fn run_with(
    kernel: &Recording,
    spec: &RootfsSpec,
    level: Level,
    journal: Option<Writer>,
) -> Result<Outcome> {
    let plan = Plan::new(spec)?;
    let sources = sources::open(kernel, &plan, &sources::Request { verify: true, ..Default::default() })?;
    let mut alone = Alone(kernel);
    Execution::new(kernel, &plan, setting(level), sources, &mut alone, journal).run()
}

/// The same where the double can't tell what is mounted where.
pub(super) fn run_unverified(kernel: &Recording, spec: &RootfsSpec, level: Level) -> Result<Outcome> {
    let plan = Plan::new(spec)?;
    let sources = sources::open(kernel, &plan, &sources::Request::default())?;
    let setting = Setting { verify: false, ..setting(level) };
    Execution::new(kernel, &plan, setting, sources, &mut Alone(kernel), None).run()
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
        id_map: None,
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
fn what_the_kernel_says_of_a_superblock_that_stays_writable_is_told() {
    let kernel = Recording::new(&[]);
    let mut spec = RootfsSpec::new(Root::Directory("/srv/root".into()));
    spec.add(defaults::filesystem("/x", "tmpfs", attr::RDONLY, &[]));
    kernel.refuse("superblock ro", libc::EPERM);
    let error = run(&kernel, &spec, Level::Detached).unwrap_err();
    assert!(error.message.contains("its superblock can't be made read-only"), "{error}");
    assert_eq!(error.kernel_log, ["e tmpfs: Unknown parameter"]);
}

#[test]
fn a_device_is_given_away_by_the_descriptor_that_was_checked() {
    let kernel = Recording::new(&[]);
    let mut spec = RootfsSpec::new(Root::Directory("/srv/root".into()));
    spec.devices.push(Device {
        path: "/x".into(),
        kind: DeviceType::Character,
        major: 1,
        minor: 3,
        mode: 0o640,
        uid: 5,
        gid: 6,
    });
    run(&kernel, &spec, Level::Detached).unwrap();
    let calls = kernel.calls.borrow();
    let made = calls.iter().position(|call| call.starts_with("mknod /x")).unwrap();
    let given: Vec<&str> = calls[made + 1..].iter().map(String::as_str).take(2).collect();
    assert_eq!(given, ["owner /x Some(5):Some(6)", "mode /x 640"], "{calls:?}");
    assert!(!calls.iter().any(|call| call.starts_with("chown")), "{calls:?}");
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
            spec.hooks.push(Hook {
                point,
                path: "/h".into(),
                args: vec![],
                env: vec![],
                timeout: None,
                function: None,
            });
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

const LABEL: &str = "system_u:object_r:container_file_t:s0:c1,c2";

fn labelled(selinux: bool) -> Recording {
    let kernel = Recording::new(&[
        ("/tmp", Node::Directory),
        ("/proc", Node::Directory),
        ("/sys", Node::Directory),
        ("/dev", Node::Directory),
        ("/dev/mqueue", Node::Directory),
        ("/secret", Node::Directory),
    ]);
    kernel.selinux.set(selinux);
    let mut spec = RootfsSpec::new(Root::Empty { size: None, mode: 0o755 });
    spec.mount_label = Some(LABEL.into());
    for (path, fstype) in [("/proc", "proc"), ("/sys", "sysfs"), ("/dev/mqueue", "mqueue"), ("/tmp", "tmpfs")]
    {
        spec.add(defaults::filesystem(path, fstype, 0, &[]));
    }
    spec.masks.push(Mask { path: "/secret".into(), missing: MissingMask::Error });
    run(&kernel, &spec, Level::Detached).unwrap();
    kernel
}

/// What was done to each filesystem, by its type.
fn contexts(kernel: &Recording) -> Vec<(String, bool)> {
    let mut found: Vec<(String, bool)> = Vec::new();
    for call in kernel.calls.borrow().iter() {
        if let Some(fstype) = call.strip_prefix("fsopen ") {
            found.push((fstype.to_owned(), false));
        } else if *call == format!("option context={LABEL}")
            && let Some(last) = found.last_mut()
        {
            last.1 = true;
        }
    }
    found
}

#[test]
fn new_filesystems_have_the_label_as_one_value_where_there_is_selinux() {
    let kernel = labelled(true);
    let expected = [
        ("tmpfs", true),
        ("proc", false),
        ("sysfs", false),
        ("mqueue", false),
        ("tmpfs", true),
        ("tmpfs", true),
    ];
    assert_eq!(contexts(&kernel), expected.map(|(fstype, label)| (fstype.to_owned(), label)));
    // The message queues have it as an attribute, before anybody sees them.
    assert!(kernel.position(&format!("label [mqueue] {LABEL}")) < kernel.position("attach [mqueue]"));
}

#[test]
fn without_selinux_a_label_has_no_effect() {
    let kernel = labelled(false);
    assert!(contexts(&kernel).iter().all(|(_, label)| !label));
    assert!(!kernel.calls.borrow().iter().any(|call| call.starts_with("label")));
}

#[test]
fn a_context_that_is_given_for_one_mount_is_kept() {
    let kernel = Recording::new(&[("/tmp", Node::Directory)]);
    kernel.selinux.set(true);
    let mut spec = RootfsSpec::new(Root::Directory("/srv/root".into()));
    spec.mount_label = Some(LABEL.into());
    spec.add(defaults::filesystem("/tmp", "tmpfs", 0, &[("context", "own")]));
    run(&kernel, &spec, Level::Detached).unwrap();
    let calls = kernel.calls.borrow();
    let given: Vec<_> = calls.iter().filter(|call| call.starts_with("option context")).collect();
    assert_eq!(given, ["option context=own"]);
}

fn overlay(lower: &[&str], upper: bool) -> Overlay {
    Overlay {
        lower: lower.iter().map(|path| PathBytes::from(*path)).collect(),
        upper: upper.then(|| Upper { directory: "/upper".into(), work: "/work".into() }),
        ..Overlay::default()
    }
}

fn overlay_root(kernel: &Recording, upper: bool, request: &sources::Request<'_>) -> Result<Outcome> {
    let overlay = overlay(&["/one", "/two"], upper);
    let spec = RootfsSpec::new(Root::Overlay { overlay, size: (!upper).then_some(4096) });
    let plan = Plan::new(&spec)?;
    let sources = sources::open(kernel, &plan, request)?;
    let mut alone = Alone(kernel);
    Execution::new(kernel, &plan, setting(Level::Attached), sources, &mut alone, None).run()
}

#[test]
fn the_layers_of_an_overlay_are_given_as_what_was_opened() {
    let kernel = Recording::new(&[]);
    overlay_root(&kernel, true, &sources::Request::default()).unwrap();
    let layers = kernel.position("layers host:/one host:/two upper host:/upper work host:/work");
    assert!(layers < kernel.position("fsmount overlay"));
    assert!(layers < kernel.position("unshare mount"), "sources are opened first");
    assert!(!kernel.calls.borrow().iter().any(|call| call.contains("userxattr")));
}

#[test]
fn in_a_user_namespace_an_overlay_uses_user_attributes() {
    let kernel = Recording::new(&[]);
    kernel.in_user_namespace.set(true);
    overlay_root(&kernel, true, &sources::Request::default()).unwrap();
    assert!(kernel.position("option userxattr") < kernel.position("fsmount overlay"));
}

#[test]
fn an_older_kernel_has_its_private_upper_directory_attached_meanwhile() {
    let private = Recording::new(&[("/upper", Node::Directory), ("/work", Node::Directory)]);
    let request = sources::Request { attached_layers: true, ..sources::Request::default() };
    overlay_root(&private, false, &request).unwrap();
    let order = ["fsmount tmpfs", "private mounts", "attach [tmpfs] -> host:/", "layers", "detach [tmpfs]"];
    let positions = order.map(|call| private.position(call));
    assert!(positions.is_sorted(), "{positions:?}");

    let own = Recording::new(&[("/upper", Node::Directory), ("/work", Node::Directory)]);
    let request = sources::Request { own_mount_namespace: true, ..request };
    overlay_root(&own, false, &request).unwrap();
    assert!(own.position("attach [tmpfs] -> host:/") < own.position("detach [tmpfs]"));
    assert!(!own.calls.borrow().contains(&"private mounts".to_owned()));
}

#[test]
fn an_idmapped_bind_is_mapped_before_anything_else_and_mappings_are_shared() {
    let kernel = Recording::new(&[("/a", Node::Directory), ("/b", Node::Directory), ("/c", Node::Directory)]);
    let line = |host_id| vec![IdMapping { container_id: 0, host_id, size: 1 }];
    let mut spec = RootfsSpec::new(Root::Directory("/srv/root".into()));
    for (path, host_id) in [("/a", 1000), ("/b", 2000), ("/c", 1000)] {
        let ids = MountIds::Map(IdMap { uids: line(host_id), gids: line(host_id) });
        spec.add(Mount { id_map: Some(MountIdMap { ids, recursive: true }), ..bind(path, path) });
    }
    run(&kernel, &spec, Level::Detached).unwrap();
    let calls = kernel.calls.borrow();
    let namespaces: Vec<_> = calls.iter().filter(|call| call.starts_with("user namespace")).collect();
    assert_eq!(namespaces, ["user namespace 1000", "user namespace 2000"]);
    for (path, host_id) in [("/a", 1000), ("/b", 2000), ("/c", 1000)] {
        let mapped = kernel.position(&format!("map [host:{path}] [ids {host_id}] recursive=true"));
        assert!(kernel.position(&format!("clone host:{path}")) < mapped);
        assert!(mapped < kernel.position(&format!("set [host:{path}]")));
    }
}

#[test]
fn the_container_s_own_mapping_is_needed_where_it_is_asked_for() {
    let kernel = Recording::new(&[("/a", Node::Directory)]);
    let mut spec = RootfsSpec::new(Root::Directory("/srv/root".into()));
    let id_map = Some(MountIdMap { ids: MountIds::UserNamespace, recursive: false });
    spec.add(Mount { id_map, ..bind("/a", "/a") });
    assert_eq!(run(&kernel, &spec, Level::Detached).unwrap_err().code, ErrorCode::Spec);

    let line = vec![IdMapping { container_id: 0, host_id: 5000, size: 1 }];
    let map = IdMap { uids: line.clone(), gids: line };
    let request = sources::Request { user: Some(&map), ..sources::Request::default() };
    sources::open(&kernel, &Plan::new(&spec).unwrap(), &request).unwrap();
    kernel.position("map [host:/a] [ids 5000] recursive=false");
}

#[test]
fn why_a_mount_is_not_idmapped_is_told_apart() {
    for (errno, code) in [(libc::EPERM, ErrorCode::Denied), (libc::EINVAL, ErrorCode::Unsupported)] {
        let kernel = Recording::new(&[("/a", Node::Directory)]);
        kernel.refuse("map", errno);
        let line = vec![IdMapping { container_id: 0, host_id: 1, size: 1 }];
        let ids = MountIds::Map(IdMap { uids: line.clone(), gids: line });
        let mut spec = RootfsSpec::new(Root::Directory("/srv/root".into()));
        spec.add(Mount { id_map: Some(MountIdMap { ids, recursive: false }), ..bind("/a", "/a") });
        let error = run(&kernel, &spec, Level::Detached).unwrap_err();
        assert_eq!(error.code, code);
        assert!(error.hint.is_some());
    }
}

#[test]
fn a_copy_is_made_before_the_tmpfs_is_attached() {
    let kernel = tree();
    let mut spec = RootfsSpec::new(Root::Directory("/srv/root".into()));
    let mut mount = defaults::filesystem("/data", "tmpfs", 0, &[("uid", "5")]);
    if let MountKind::Filesystem { copy_up, .. } = &mut mount.kind {
        *copy_up = true;
    }
    spec.add(mount);
    run(&kernel, &spec, Level::Detached).unwrap();
    // What is given is not taken from what is copied.
    let copied = kernel.position("copy /data -> [tmpfs] Top { user: false, group: true, mode: true }");
    assert!(copied < kernel.position("attach [tmpfs] -> /data"));
}

#[test]
fn hooks_after_the_start_are_not_the_first_process_s() {
    let kernel = tree();
    let mut spec = spec();
    for point in [HookPoint::Poststart, HookPoint::Poststop] {
        spec.hooks.push(Hook {
            point,
            path: "/h".into(),
            args: vec![],
            env: vec![],
            timeout: None,
            function: None,
        });
    }
    let outcome = run(&kernel, &spec, Level::Detached).unwrap();
    assert!(!kernel.calls.borrow().iter().any(|call| call.starts_with("hook")));
    assert_eq!(outcome.report.steps.len(), Plan::new(&spec).unwrap().steps.len() - 2);
}

/// What the specification of the other tests has, without what needs a mount namespace.
fn spec_in_foreign_mounts() -> RootfsSpec {
    let mut spec = spec();
    spec.masks.clear();
    spec.readonly_paths.clear();
    spec.namespaces.mount = Namespace::Path("/proc/1/ns/mnt".into());
    spec
}

#[test]
fn in_a_joined_mount_namespace_nothing_is_attached_outside_of_the_tree() {
    let kernel = tree();
    let spec = spec_in_foreign_mounts();
    let plan = Plan::new(&spec).unwrap();
    let sources = sources::open(&kernel, &plan, &sources::Request::default()).unwrap();
    let mut alone = Alone(&kernel);
    let namespace = rustix::fs::memfd_create(c"namespace", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let outcome = Execution::new(&kernel, &plan, setting(Level::Detached), sources, &mut alone, None)
        .with_namespace(Some(namespace.as_fd()))
        .run()
        .unwrap();
    let calls = kernel.calls.borrow();
    for never in ["unshare mount", "root propagation", "pivot", "enter"] {
        assert!(!calls.iter().any(|call| call.starts_with(never)), "{never}: {calls:#?}");
    }
    assert!(!calls.iter().any(|call| call.starts_with("attach") && call.contains("host:/ ")));
    // It is joined when there is nothing left to be copied.
    let last = calls.iter().rposition(|call| call.contains("in a joined namespace")).unwrap();
    assert!(calls.iter().rposition(|call| call.starts_with("attach")).unwrap() < last);
    assert!(outcome.report.warnings.iter().any(|warning| warning.code == "not-verified"));
}

#[test]
fn without_detached_assembly_a_joined_mount_namespace_is_refused() {
    let kernel = tree();
    let error = run(&kernel, &spec_in_foreign_mounts(), Level::Attached).unwrap_err();
    assert_eq!(error.code, ErrorCode::Unsupported);
    assert!(!kernel.calls.borrow().iter().any(|call| call.starts_with("attach")));
}
