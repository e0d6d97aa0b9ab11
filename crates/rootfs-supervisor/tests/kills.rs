//! The end of the first process, of the supervisor and of its client, at each system call between the request and the
//! execution of the command: nothing of the container is left within a second.
//!
//! Every eleventh stop; `ROOTFS_KILLS=full` for each.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests make and read their own files")]

mod support;

use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rootfs::protocol::Exit;
use rootfs::spec::{Content, Mount, MountKind, RootfsSpec};
use support::{
    Cell, Running, Scratch, Supervisor, busybox_root, default_spec, exit_of, host_mounts, is_alive, listing,
    shell, soon,
};

/// Lets a process make so many stops at system calls after it was asked; it stays stopped. `None` if it executes the command
/// before.
fn ask_and_stop(supervisor: &Supervisor, spec: &RootfsSpec, stops: usize) -> Option<Running> {
    let spare = supervisor.take_spare();
    let pid = Pid::from_raw(spare.pid);
    soon("it waits", || is_alive(spare.pid, "rootfs-spare"));
    ptrace::attach(pid).unwrap();
    assert!(matches!(waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap(), WaitStatus::Stopped(..)));
    ptrace::setoptions(pid, ptrace::Options::PTRACE_O_TRACESYSGOOD | ptrace::Options::PTRACE_O_TRACEEXEC)
        .unwrap();
    ptrace::syscall(pid, None).unwrap();
    let running = spare.ask(spec, shell("exit 7"), 0);
    for _ in 0..stops {
        match waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap() {
            WaitStatus::PtraceSyscall(_) | WaitStatus::Stopped(..) => {}
            WaitStatus::PtraceEvent(..) => {
                ptrace::detach(pid, None).unwrap();
                assert_eq!(supervisor.finish(&running).exit, Exit::Code(7));
                return None;
            }
            other => panic!("it was to execute a program: {other:?}"),
        }
        ptrace::syscall(pid, None).unwrap();
    }
    assert!(matches!(
        waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap(),
        WaitStatus::PtraceSyscall(_) | WaitStatus::Stopped(..) | WaitStatus::PtraceEvent(..)
    ));
    Some(running)
}

/// The end of a process that this one traces is told to the tracer first.
fn see_end(running: &Running) {
    while !matches!(
        waitpid(Pid::from_raw(running.pid), Some(WaitPidFlag::__WALL)),
        Ok(WaitStatus::Signaled(..) | WaitStatus::Exited(..)) | Err(_)
    ) {}
}

struct Place {
    root: std::path::PathBuf,
    spec: RootfsSpec,
    before: (String, Vec<String>),
    _scratch: Scratch,
}

impl Place {
    /// A root without a single directory for mounts.
    fn new() -> Self {
        let scratch = Scratch::new();
        let root = busybox_root(&scratch.0, Cell::Root, false);
        let mut spec = default_spec(&root);
        // It depends on the host which hierarchies there are.
        spec.content.retain(|content| {
            !matches!(content, Content::Mount(Mount { kind: MountKind::Cgroup { .. }, .. }))
        });
        let before = (host_mounts(), listing(&root));
        Self { root, spec, before, _scratch: scratch }
    }

    fn supervisor(&self) -> Supervisor {
        let mut supervisor = Supervisor::start(Cell::Root);
        assert_eq!(supervisor.run(Cell::Root, &self.spec, "true", None).exit, Exit::Code(0));
        supervisor
    }

    fn is_as_before(&self, what: &str) {
        let deadline = Instant::now() + Duration::from_secs(1);
        while (host_mounts(), listing(&self.root)) != self.before {
            assert!(Instant::now() < deadline, "{what}: {:?}", listing(&self.root));
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn step() -> usize {
    if std::env::var("ROOTFS_KILLS").is_ok_and(|kills| kills == "full") { 1 } else { 11 }
}

#[test]
fn of_the_first_process() {
    let place = Place::new();
    let mut supervisor = place.supervisor();
    let mut turns = 0;
    for stops in (0..).step_by(step()) {
        let Some(running) = ask_and_stop(&supervisor, &place.spec, stops) else { break };
        kill(Pid::from_raw(running.pid), Signal::SIGKILL).unwrap();
        see_end(&running);
        let ended = supervisor.finish(&running);
        assert_eq!((ended.exit, ended.left.len()), (Exit::Signal(9), 0), "{stops}: {:?}", ended.left);
        place.is_as_before(&format!("stop {stops}"));
        // The next one works, and has a first process wait again.
        assert_eq!(supervisor.run(Cell::Root, &place.spec, "true", None).exit, Exit::Code(0), "{stops}");
        turns += 1;
    }
    assert!(turns > 200 / step(), "{turns}");
}

#[test]
fn of_the_supervisor() {
    let place = Place::new();
    let mut turns = 0;
    for stops in (0..).step_by(step()) {
        let mut supervisor = place.supervisor();
        let Some(running) = ask_and_stop(&supervisor, &place.spec, stops) else { break };
        supervisor.child.kill().unwrap();
        supervisor.child.wait().unwrap();
        see_end(&running);
        assert!(exit_of(&running.pidfd), "{stops}");
        // What it can't clean up any more, the other holder of the journal does.
        let deadline = Instant::now() + Duration::from_secs(1);
        loop {
            let cleaned = rootfs::journal::clean_up(&running.journal);
            if cleaned.in_use.is_empty() && cleaned.left.is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "{stops}: {:?}", cleaned.left);
            std::thread::yield_now();
        }
        place.is_as_before(&format!("stop {stops}"));
        turns += 1;
    }
    assert!(turns > 200 / step(), "{turns}");
}

#[test]
fn of_the_client() {
    let place = Place::new();
    let mut turns = 0;
    for stops in (0..).step_by(step()) {
        let supervisor = place.supervisor();
        let Some(running) = ask_and_stop(&supervisor, &place.spec, stops) else { break };
        // Its sockets end with it, while the tracer still has to see the end of the first process.
        let pid = Pid::from_raw(running.pid);
        std::thread::scope(|scope| {
            let end = scope.spawn(move || drop(supervisor));
            while !matches!(
                waitpid(pid, Some(WaitPidFlag::__WALL)),
                Ok(WaitStatus::Signaled(..) | WaitStatus::Exited(..)) | Err(_)
            ) {}
            end.join().unwrap();
        });
        assert!(exit_of(&running.pidfd), "{stops}");
        place.is_as_before(&format!("stop {stops}"));
        turns += 1;
    }
    assert!(turns > 200 / step(), "{turns}");
}
