//! From the request until everything is taken down: prepared roots, shared directories, failures, and a Node that goes.
#![allow(clippy::disallowed_methods, reason = "tests make and read their own files")]

mod support;

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use rootfs::error::ErrorCode;
use rootfs::kernel::memfd;
use rootfs::kernel::process::{filter_instruction, set_seccomp_filter};
use rootfs::mountinfo;
use rootfs::namespace::NamespaceKind;
use rootfs::process::{Capabilities, ProcessSpec};
use rootfs::protocol::{self, Exit, FrameError, Kind};
use rootfs::spec::UserNamespace;
use support::{
    Cell, NOBODY, Scratch, Supervisor, bind, busybox_root, children, clean_up_by_another, command,
    default_spec, exit_of, host_mounts, is_alive, listing, process, shell, soon,
};

#[test]
fn a_prepared_root_runs_commands_and_reaps_orphans() {
    for cell in Cell::ALL {
        let scratch = Scratch::new();
        let root = busybox_root(&scratch.0, cell, true);
        let mut supervisor = Supervisor::start(cell);
        let running = supervisor.begin(cell, &default_spec(&root), None, None).unwrap();
        let ready = running.receive().unwrap();
        assert_eq!(ready.kind, Kind::Ready, "{cell:?}: {:?}", ready.decode::<rootfs::Error>());
        let report: protocol::Report = ready.decode().unwrap();
        assert!(report.steps.len() > 20, "{cell:?}: {report:?}");
        assert_eq!(command(&running, 1, "echo $$; exit 3"), (Exit::Code(3), "2\n".into()), "{cell:?}");
        let (exit, _) = command(&running, 2, "kill -9 $$");
        assert_eq!(exit, Exit::Signal(9), "{cell:?}");
        command(&running, 3, "for i in 1 2 3 4 5 6 7 8; do (sleep 0.01 &) ; done");
        std::thread::sleep(Duration::from_millis(100));
        let (_, processes) = command(&running, 4, "cd /proc; echo [0-9]*; ls -l /proc/self/fd | wc -l");
        // Process 1, the shell, and nothing else; of descriptors 0, 1, 2 and the one that ls opens, after a total.
        assert_eq!(processes.lines().next().unwrap().split(' ').count(), 2, "{cell:?}: {processes}");
        assert!(processes.ends_with("5\n"), "{cell:?}: {processes}");
        protocol::send(&running.node, Kind::Mounts, 5, &[], &[]).unwrap();
        let table = running.receive().unwrap();
        assert_eq!(table.kind, Kind::MountTable);
        let entries = mountinfo::parse(&memfd::read(&table.fds[0], 1 << 20).unwrap());
        assert_eq!(entries[0].destination, "/".into(), "{cell:?}");
        assert!(entries.iter().any(|entry| entry.destination == "/proc".into()), "{cell:?}: {entries:?}");
        supervisor.close(running.id);
        let ended = supervisor.finish(&running);
        assert_eq!((ended.exit, ended.left.len()), (Exit::Signal(9), 0), "{cell:?}");
    }
}

/// Most end while the command runs that has left them, and the rest while others begin and end, which are told how they have
/// ended themselves.
#[test]
fn a_thousand_orphans_leave_no_zombie() {
    for cell in Cell::ALL {
        let scratch = Scratch::new();
        let root = busybox_root(&scratch.0, cell, true);
        let mut supervisor = Supervisor::start(cell);
        let running = supervisor.begin(cell, &default_spec(&root), None, None).unwrap();
        assert_eq!(running.receive().unwrap().kind, Kind::Ready, "{cell:?}");
        // Each is left at once, and is nobody's child but the first process's.
        let leave = "o() { i=0; while [ $i -lt $1 ]; do (sleep $2 &); i=$((i + 1)); done; }; o";
        let script = format!("{leave} 200 0.3; o 800 0; exit 7");
        assert_eq!(command(&running, 1, &script).0, Exit::Code(7), "{cell:?}");
        let pid = u32::try_from(running.pid).unwrap();
        soon("all are reaped", || all_children(pid).is_empty());
        // A command that itself is killed, and one after it, are told apart from what was left.
        assert_eq!(command(&running, 2, &format!("{leave} 50 0; kill -9 $$")).0, Exit::Signal(9), "{cell:?}");
        assert_eq!(command(&running, 3, "exit 3").0, Exit::Code(3), "{cell:?}");
        soon("all are reaped", || all_children(pid).is_empty());
        supervisor.close(running.id);
        let ended = supervisor.finish(&running);
        assert_eq!((ended.exit, ended.left.len()), (Exit::Signal(9), 0), "{cell:?}");
    }
}

#[test]
fn a_command_of_a_prepared_root_has_its_own_oom_score() {
    let own: i32 = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim().parse().unwrap();
    let read = "cat /proc/self/oom_score_adj";
    for cell in Cell::ALL {
        let scratch = Scratch::new();
        let root = busybox_root(&scratch.0, cell, true);
        let mut supervisor = Supervisor::start(cell);
        let running = supervisor.begin(cell, &default_spec(&root), None, None).unwrap();
        running.receive().unwrap();
        let spec = ProcessSpec { oom_score_adj: Some(300), ..shell(read) };
        assert_eq!(process(&running, 1, &spec), (Exit::Code(0), "300\n".into()), "{cell:?}");
        assert_eq!(command(&running, 2, read), (Exit::Code(0), format!("{own}\n")), "{cell:?}");
        supervisor.close(running.id);
        supervisor.finish(&running);
    }
}

#[test]
fn in_a_joined_user_namespace_the_supervisor_opens_the_oom_score_if_it_can() {
    for cell in [Cell::RootRange, Cell::Ordinary] {
        let scratch = Scratch::new();
        let mut spec = default_spec(&busybox_root(&scratch.0, cell, true));
        let mut supervisor = Supervisor::start(cell);
        let first = supervisor.begin(cell, &spec, None, None).unwrap();
        first.receive().unwrap();
        let namespace = std::fs::File::open(format!("/proc/{}/ns/user", first.pid)).unwrap();
        spec.namespaces.user = UserNamespace::Path("/first".into());
        let score = ProcessSpec { oom_score_adj: Some(300), ..shell("cat /proc/self/oom_score_adj") };
        let second = supervisor
            .begin_joining(cell, &spec, Some(score), None, &[(NamespaceKind::User, namespace.into())])
            .unwrap();
        let ended = supervisor.finish(&second);
        match ended.failure {
            None => assert_eq!((cell, ended.output.as_str()), (Cell::RootRange, "300\n")),
            Some(error) => {
                assert_eq!((cell, error.code), (Cell::Ordinary, ErrorCode::Unsupported), "{error}");
            }
        }
    }
}

#[test]
fn a_command_that_cannot_be_executed_is_told_and_the_root_goes_on() {
    let scratch = Scratch::new();
    let root = busybox_root(&scratch.0, Cell::Root, true);
    let mut supervisor = Supervisor::start(Cell::Root);
    let running = supervisor.begin(Cell::Root, &default_spec(&root), None, None).unwrap();
    running.receive().unwrap();
    let mut process = shell("true");
    process.command = "/bin/nowhere".into();
    let payload = memfd::sealed(c"process", &protocol::encode(&process), false).unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let fds = [payload.as_fd(), null.as_fd(), null.as_fd(), null.as_fd()];
    protocol::send(&running.node, Kind::Spawn, 1, &[], &fds).unwrap();
    let failed = running.receive().unwrap();
    assert_eq!((failed.kind, failed.id), (Kind::SpawnFailed, 1));
    let error: rootfs::Error = failed.decode().unwrap();
    assert_eq!((error.code, error.errno), (ErrorCode::Exec, Some(2)));
    assert_eq!(command(&running, 2, "echo on"), (Exit::Code(0), "on\n".into()));
}

/// Asks a prepared root for a command, in the name of this user; its streams are the null device.
fn ask_for(running: &support::Running, id: u64, script: &str, user: u32) {
    let payload = memfd::sealed(c"process", &protocol::encode(&shell(script)), false).unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let fds = [payload.as_fd(), null.as_fd(), null.as_fd(), null.as_fd()];
    let sender = rustix::net::UCred {
        pid: rustix::process::getpid(),
        uid: rustix::fs::Uid::from_raw(user),
        gid: rustix::fs::Gid::from_raw(user),
    };
    protocol::send_as(&running.node, Kind::Spawn, id, &[], &fds, Some(sender)).unwrap();
}

#[test]
fn a_prepared_root_serves_nobody_else_and_lets_anybody_end_commands() {
    let scratch = Scratch::new();
    let root = busybox_root(&scratch.0, Cell::Root, true);
    let mut supervisor = Supervisor::start(Cell::Root);
    let running = supervisor.begin(Cell::Root, &default_spec(&root), None, None).unwrap();
    assert_eq!(running.receive().unwrap().kind, Kind::Ready);
    ask_for(&running, 1, "true", NOBODY);
    let refused = running.receive().unwrap();
    assert_eq!((refused.kind, refused.id), (Kind::SpawnFailed, 1));
    assert_eq!(refused.decode::<rootfs::Error>().unwrap().code, ErrorCode::Denied);
    ask_for(&running, 2, "sleep 1000 & sleep 1000", 0);
    assert_eq!(running.receive().unwrap().kind, Kind::Spawned);
    let nobody = rustix::net::UCred {
        pid: rustix::process::getpid(),
        uid: rustix::fs::Uid::from_raw(NOBODY),
        gid: rustix::fs::Gid::from_raw(NOBODY),
    };
    protocol::send_as(&running.node, Kind::Signal, 2, &protocol::encode(&9), &[], Some(nobody)).unwrap();
    let exited = running.receive().unwrap();
    assert_eq!((exited.kind, exited.id, exited.decode().unwrap()), (Kind::ChildExited, 2, Exit::Signal(9)));
    // Its whole group: process 1 and the shell that looks are what is left.
    std::thread::sleep(Duration::from_millis(100));
    let (_, processes) = command(&running, 3, "cd /proc; echo [0-9]*");
    assert_eq!(processes.trim().split(' ').count(), 2, "{processes}");
    // Nobody has this number: nothing happens, and the root goes on.
    protocol::send(&running.node, Kind::Signal, 4, &protocol::encode(&9), &[]).unwrap();
    assert_eq!(command(&running, 5, "echo on"), (Exit::Code(0), "on\n".into()));
}

#[test]
fn closing_one_of_two_containers_leaves_the_mounts_and_masks_of_the_other() {
    let scratch = Scratch::new();
    let root = busybox_root(&scratch.0, Cell::Root, false);
    let before = listing(&root);
    let mut supervisor = Supervisor::start(Cell::Root);
    let first = supervisor.begin(Cell::Root, &default_spec(&root), None, None).unwrap();
    assert_eq!(first.receive().unwrap().kind, Kind::Ready);
    let second = supervisor.begin(Cell::Root, &default_spec(&root), None, None).unwrap();
    assert_eq!(second.receive().unwrap().kind, Kind::Ready);
    let table = |id| command(&second, id, "cat /proc/self/mountinfo; wc -c < /proc/keys; ls /sys/firmware").1;
    let mounts = table(1);
    assert!(mounts.contains(" /proc/keys ") && mounts.contains(" /sys/firmware "), "{mounts}");
    supervisor.close(first.id);
    let ended = supervisor.finish(&first);
    assert!(!ended.left.is_empty(), "what the other container uses must be told");
    assert_eq!(table(2), mounts);
    supervisor.close(second.id);
    assert!(supervisor.finish(&second).left.is_empty());
    assert_eq!(listing(&root), before);
}

#[test]
fn a_failed_preparation_leaves_nothing() {
    for cell in Cell::ALL {
        let scratch = Scratch::new();
        let root = busybox_root(&scratch.0, cell, false);
        let before = (host_mounts(), listing(&root));
        let mut spec = default_spec(&root);
        spec.add(rootfs::defaults::filesystem("/last", "tmpfs", 0, &[("size", "banana")]));
        let mut supervisor = Supervisor::start(cell);
        let ended = supervisor.run(cell, &spec, "true", None);
        let error = ended.failure.unwrap();
        assert_eq!(error.code, ErrorCode::Mount, "{cell:?}: {error}");
        assert!(error.message.contains("size=banana"), "{cell:?}: {error}");
        assert_eq!(ended.exit, Exit::Code(127));
        assert!(ended.left.is_empty(), "{cell:?}: {:?}", ended.left);
        assert_eq!((host_mounts(), listing(&root)), before, "{cell:?}");
    }
}

#[test]
fn wrong_roots_are_told_apart() {
    let scratch = Scratch::new();
    std::fs::write(scratch.0.join("file"), "").unwrap();
    std::os::unix::fs::symlink("/", scratch.0.join("link")).unwrap();
    let mut supervisor = Supervisor::start(Cell::Root);
    for (name, what) in [("nowhere", "doesn't exist"), ("file", "no directory"), ("link", "symbolic link")] {
        let ended = supervisor.run(Cell::Root, &default_spec(&scratch.0.join(name)), "true", None);
        let error = ended.failure.unwrap();
        assert_eq!(error.code, ErrorCode::Root, "{name}");
        assert!(error.message.contains(what), "{name}: {error}");
    }
}

#[test]
fn when_the_client_goes_everything_goes() {
    let scratch = Scratch::new();
    let root = busybox_root(&scratch.0, Cell::Root, false);
    let before = (host_mounts(), listing(&root));
    let mut supervisor = Supervisor::start(Cell::Root);
    let running: Vec<_> = (0..5)
        .map(|_| {
            let running = supervisor.begin(Cell::Root, &default_spec(&root), None, None).unwrap();
            assert_eq!(running.receive().unwrap().kind, Kind::Ready);
            command(&running, 1, "sleep 1000 & true");
            running
        })
        .collect();
    let begin = Instant::now();
    drop(supervisor);
    assert!(begin.elapsed() < Duration::from_secs(1));
    for container in &running {
        let poll = &mut [rustix::event::PollFd::new(&container.pidfd, rustix::event::PollFlags::IN)];
        assert_eq!(
            rustix::event::poll(poll, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })),
            Ok(1)
        );
    }
    assert_eq!((host_mounts(), listing(&root)), before);
}

/// Where the client goes the supervisor cleans up itself, with the rights that a cleaner has: whoever may not do all to others'
/// files removes nothing of theirs from a sticky directory.
#[test]
fn when_the_client_goes_a_mountpoint_in_a_sticky_directory_of_another_goes() {
    use std::os::unix::fs::PermissionsExt;
    let cell = Cell::RootRange;
    let scratch = Scratch::new();
    let root = busybox_root(&scratch.0, cell, true);
    std::fs::set_permissions(root.join("tmp"), PermissionsExt::from_mode(0o1777)).unwrap();
    let before = listing(&root);
    let mut supervisor = Supervisor::start(cell);
    let mut spec = default_spec(&root);
    spec.add(bind(std::path::Path::new("/bin"), "/tmp/made/in/it"));
    let running = supervisor.begin(cell, &spec, None, None).unwrap();
    assert_eq!(running.receive().unwrap().kind, Kind::Ready);
    assert_ne!(listing(&root), before);
    drop(supervisor);
    assert!(exit_of(&running.pidfd));
    assert_eq!(listing(&root), before);
}

#[test]
fn when_the_supervisor_goes_its_containers_go() {
    let scratch = Scratch::new();
    let root = busybox_root(&scratch.0, Cell::Root, false);
    let before = listing(&root);
    let mut supervisor = Supervisor::start(Cell::Root);
    let running = supervisor.begin(Cell::Root, &default_spec(&root), None, None).unwrap();
    assert_eq!(running.receive().unwrap().kind, Kind::Ready);
    supervisor.child.kill().unwrap();
    let poll = &mut [rustix::event::PollFd::new(&running.pidfd, rustix::event::PollFlags::IN)];
    assert_eq!(rustix::event::poll(poll, Some(&rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 })), Ok(1));
    clean_up_by_another(&running, "the supervisor is killed");
    assert_eq!(listing(&root), before);
}

#[test]
fn a_frame_that_is_wrong_ends_the_connection() {
    for bytes in [&b"nonsense"[..], &protocol::frame_bytes(Kind::Ready, 1, b"", 0), &[0; 24]] {
        let supervisor = Supervisor::start(Cell::Root);
        rustix::net::send(&supervisor.socket, bytes, rustix::net::SendFlags::NOSIGNAL).unwrap();
        assert_eq!(protocol::receive(&supervisor.socket).unwrap_err(), FrameError::Closed);
    }
}

#[test]
fn the_supervisor_cannot_be_looked_into() {
    let supervisor = Supervisor::start(Cell::Ordinary);
    let pid = supervisor.child.id();
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert!(environment.is_empty(), "{}", String::from_utf8_lossy(&environment));
    // Not dumpable: its files belong to root although it is an ordinary user's.
    assert_eq!(std::fs::metadata(format!("/proc/{pid}/mem")).unwrap().uid(), 0);
    let fds: Vec<_> = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().collect();
    assert_eq!(fds.len(), 5, "the standard three, the socket and the epoll");
}

/// A line of a process's status, as a number.
fn capabilities(pid: &str, set: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(set)).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

#[test]
fn what_stays_has_only_what_it_uses_in_force_and_its_children_have_all() {
    let mask = |numbers: &[u32]| numbers.iter().fold(0, |set, number| set | 1_u64 << number);
    let supervisor_needs = mask(&[1, 5, 6, 7, 19, 21, 24, 31]);
    let first_process_needs = mask(&[5, 21, 24]);
    for cell in Cell::ALL {
        let scratch = Scratch::new();
        let mut supervisor = Supervisor::start(cell);
        let root = busybox_root(&scratch.0, cell, true);
        let running = supervisor.begin(cell, &default_spec(&root), None, None).unwrap();
        assert_eq!(running.receive().unwrap().kind, Kind::Ready, "{cell:?}");
        let own = capabilities("self", "CapEff:");
        let (pid, first) = (supervisor.child.id().to_string(), running.pid.to_string());
        let wanted = if cell.privileged() { own & supervisor_needs } else { 0 };
        assert_eq!(capabilities(&pid, "CapEff:"), wanted, "{cell:?}");
        let permitted = capabilities(&first, "CapPrm:");
        assert_eq!(capabilities(&first, "CapEff:"), permitted & first_process_needs, "{cell:?}");
        assert_ne!(permitted & !first_process_needs, 0, "{cell:?}");
        // A command may be given any of them.
        let all = Capabilities { bounding: permitted, effective: permitted, permitted, ..Default::default() };
        let grep = ProcessSpec { capabilities: Some(all), ..shell("grep CapEff /proc/self/status") };
        let found = (Exit::Code(0), format!("CapEff:\t{permitted:016x}\n"));
        assert_eq!(process(&running, 1, &grep), found, "{cell:?}");
        supervisor.close(running.id);
        assert_eq!(supervisor.finish(&running).exit, Exit::Signal(9), "{cell:?}");
    }
}

#[test]
fn the_next_container_finds_a_first_process_that_waits() {
    for cell in [Cell::Root, Cell::Ordinary] {
        let mut supervisor = Supervisor::start(cell);
        let scratch = Scratch::new();
        let spec = default_spec(&busybox_root(&scratch.0, cell, true));
        assert_eq!(supervisor.run(cell, &spec, "true", None).exit, Exit::Code(0));
        for turn in 0..3 {
            let spare = supervisor.take_spare();
            assert!(spare.start.pid && !spare.start.network);
            let script = format!("echo $$ {turn} $(id -u); cat /proc/1/comm; exit 7");
            let running = spare.ask(&spec, shell(&script), cell.owner());
            let ended = supervisor.finish(&running);
            assert_eq!((ended.exit, ended.failure), (Exit::Code(7), None));
            assert_eq!(ended.output, format!("1 {turn} 0\nsh\n"));
        }
    }
}

#[test]
fn a_first_process_that_waits_serves_nobody_else() {
    // In a user namespace ids that it doesn't map look alike.
    for (cell, other) in [(Cell::Root, NOBODY), (Cell::Ordinary, 0), (Cell::Ordinary, NOBODY - 1)] {
        let mut supervisor = Supervisor::start(cell);
        let scratch = Scratch::new();
        let spec = default_spec(&busybox_root(&scratch.0, cell, true));
        supervisor.run(cell, &spec, "true", None);
        let running = supervisor.take_spare().ask(&spec, shell("echo served"), other);
        let ended = supervisor.finish(&running);
        assert_eq!(ended.failure.map(|error| error.code), Some(ErrorCode::Denied), "{cell:?}, {other}");
        assert_eq!((ended.exit, ended.output.as_str()), (Exit::Code(127), ""));
    }
}

#[test]
fn a_first_process_that_waits_sees_what_is_mounted_meanwhile() {
    for cell in [Cell::Root, Cell::Ordinary] {
        // Of this thread alone, and of what it starts.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
        nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let mut supervisor = Supervisor::start(cell);
        let scratch = Scratch::new();
        let mut spec = default_spec(&busybox_root(&scratch.0, cell, true));
        let source = scratch.0.join("source");
        std::fs::create_dir(&source).unwrap();
        spec.add(bind(&source, "/mnt"));
        assert_eq!(supervisor.run(cell, &spec, "ls /mnt", None).output, "");
        let spare = supervisor.take_spare();
        soon("it waits", || is_alive(spare.pid, "rootfs-spare"));
        nix::mount::mount(Some("later"), &source, Some("tmpfs"), nix::mount::MsFlags::empty(), None::<&str>)
            .unwrap();
        std::fs::write(source.join("new"), "").unwrap();
        let running = spare.ask(&spec, shell("ls /mnt"), cell.owner());
        let ended = supervisor.finish(&running);
        assert_eq!((ended.exit, ended.failure, &*ended.output), (Exit::Code(0), None, "new\n"), "{cell:?}");
        supervisor.child.kill().unwrap();
        nix::mount::umount2(&source, nix::mount::MntFlags::MNT_DETACH).unwrap();
    }
}

#[test]
fn a_first_process_that_nobody_asks_ends_with_its_socket() {
    let mut supervisor = Supervisor::start(Cell::Root);
    let scratch = Scratch::new();
    let spec = default_spec(&busybox_root(&scratch.0, Cell::Root, true));
    supervisor.run(Cell::Root, &spec, "true", None);
    let spare = supervisor.take_spare();
    drop(spare.node);
    let frame = supervisor.receive(spare.id);
    assert_eq!(frame.kind, Kind::Exited);
    let ended: rootfs::protocol::Ended = frame.decode().unwrap();
    assert!(ended.closed);
    assert_eq!(ended.exit, Exit::Code(0));
}

/// A supervisor with a first process that waits, and the root that is for it.
fn with_spare() -> (Supervisor, Scratch, rootfs::spec::RootfsSpec) {
    let mut supervisor = Supervisor::start(Cell::Root);
    let scratch = Scratch::new();
    let spec = default_spec(&busybox_root(&scratch.0, Cell::Root, true));
    assert_eq!(supervisor.run(Cell::Root, &spec, "true", None).exit, Exit::Code(0));
    (supervisor, scratch, spec)
}

const HOLDER: &str = "rootfs-holder";

/// What holds the memory of a first process that waits. That has its name for a moment too.
fn holder_of(supervisor: &Supervisor, spare: &support::SpareProcess) -> i32 {
    let mut holders = children(supervisor.child.id(), HOLDER);
    holders.retain(|pid| *pid != spare.pid);
    let [holder] = holders[..] else { panic!("one holder for one spare: {holders:?}") };
    holder
}

#[test]
fn a_holder_ends_when_the_command_has_begun() {
    let (supervisor, _scratch, spec) = with_spare();
    let spare = supervisor.take_spare();
    let holder = holder_of(&supervisor, &spare);
    // It holds no descriptor: somebody waits for the end of each.
    assert_eq!(std::fs::read_dir(format!("/proc/{holder}/fd")).unwrap().count(), 0);
    let running = spare.ask(&spec, shell("sleep 10"), 0);
    while running.receive().is_ok() {}
    soon("the holder is gone", || !is_alive(holder, HOLDER));
    soon("it was waited for", || !std::path::Path::new(&format!("/proc/{holder}")).exists());
    supervisor.close(running.id);
    assert_eq!(supervisor.finish(&running).exit, Exit::Signal(9));
}

/// Whoever may look into the first process could have it do things: not with the rights of a holder.
#[test]
fn no_command_begins_while_memory_is_shared() {
    let (supervisor, _scratch, spec) = with_spare();
    let spare = supervisor.take_spare();
    let holder = holder_of(&supervisor, &spare);
    let running = spare.ask_to_prepare(&spec);
    let ready = running.receive().unwrap();
    assert_eq!(ready.kind, Kind::Ready, "{:?}", ready.decode::<rootfs::Error>());
    assert!(!is_alive(holder, HOLDER));
    assert_eq!(command(&running, 1, "echo on"), (Exit::Code(0), "on\n".into()));
    supervisor.close(running.id);
    assert_eq!(supervisor.finish(&running).exit, Exit::Signal(9));
}

#[test]
fn a_holder_that_is_killed_is_not_missed() {
    let (supervisor, _scratch, spec) = with_spare();
    let spare = supervisor.take_spare();
    let holder = holder_of(&supervisor, &spare);
    kill(holder);
    let running = spare.ask(&spec, shell("echo on"), 0);
    let ended = supervisor.finish(&running);
    assert_eq!((ended.exit, ended.output.as_str()), (Exit::Code(0), "on\n"));
}

/// A holder that can't be confined ends when it has made a first process, which nobody may be left to use or to wait for;
/// and one that can't be watched has begun already. The next must not be there at once with it.
#[test]
fn without_a_holder_there_is_one_first_process() {
    for call in [nix::libc::SYS_seccomp, nix::libc::SYS_pidfd_open] {
        let starting = std::thread::spawn(move || {
            // Filters are a thread's, and its children's.
            refuse(call);
            Supervisor::start(Cell::Root)
        });
        let mut supervisor = starting.join().unwrap();
        let scratch = Scratch::new();
        let spec = default_spec(&busybox_root(&scratch.0, Cell::Root, true));
        assert_eq!(supervisor.run(Cell::Root, &spec, "true", None).exit, Exit::Code(0));
        for _ in 0..3 {
            let spare = supervisor.take_spare();
            assert_eq!(all_children(supervisor.child.id()), [spare.pid], "and no other");
            let running = spare.ask(&spec, shell("echo on"), 0);
            let ended = supervisor.finish(&running);
            assert_eq!((ended.exit, ended.output.as_str()), (Exit::Code(0), "on\n"));
        }
    }
}

/// Has a system call fail in this thread, and in what it starts.
fn refuse(call: std::ffi::c_long) {
    let number = u32::try_from(call).unwrap();
    let allow = nix::libc::SECCOMP_RET_ALLOW;
    let fail = nix::libc::SECCOMP_RET_ERRNO | nix::libc::EPERM.cast_unsigned();
    // The number is the first word; where it is this one, the next instruction fails it.
    let program = [
        filter_instruction(0x20, 0, 0, 0),
        filter_instruction(0x15, 0, 1, number),
        filter_instruction(0x06, 0, 0, fail),
        filter_instruction(0x06, 0, 0, allow),
    ];
    set_seccomp_filter(&program.concat()).unwrap();
}

/// The children of a process, those included that nobody has waited for.
fn all_children(pid: u32) -> Vec<i32> {
    let listed = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    listed.split_whitespace().map(|child| child.parse().unwrap()).collect()
}

#[test]
fn a_holder_ends_with_its_supervisor() {
    let (mut supervisor, _scratch, _spec) = with_spare();
    let spare = supervisor.take_spare();
    let holder = holder_of(&supervisor, &spare);
    supervisor.child.kill().unwrap();
    supervisor.child.wait().unwrap();
    soon("the holder is gone", || !is_alive(holder, HOLDER));
    soon("its first process is gone", || !is_alive(spare.pid, "rootfs-spare"));
}

#[test]
fn many_containers_leave_few_holders() {
    let (supervisor, _scratch, spec) = with_spare();
    let pid = supervisor.child.id();
    for _ in 0..60 {
        let running = supervisor.take_spare().ask(&spec, shell("true"), 0);
        assert_eq!(supervisor.finish(&running).exit, Exit::Code(0));
        // Eight may wait, and as many may have been killed and not have ended yet.
        assert!(children(pid, HOLDER).len() <= 20);
    }
    soon("one is left for the one that waits", || children(pid, HOLDER).len() <= 1);
}

/// A child of a supervisor that is a child of this process: nobody else has its number yet.
fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}
