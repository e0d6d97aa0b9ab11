//! The end of the first process, of the supervisor and of its client, at each system call between the request and the
//! execution of the command: nothing of the container is left within a second.
//!
//! Every eleventh stop of a first process that waits, and some of those that have user namespaces; `ROOTFS_KILLS=full` for each,
//! at each level.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests make and read their own files")]

mod support;

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use rootfs::execute::Level;
use rootfs::protocol::Exit;
use rootfs::spec::{Content, Mount, MountKind, RootfsSpec};
use support::{
    Cell, Running, Scratch, Supervisor, busybox_root, clean_up_by_another, default_spec, exit_of,
    host_mounts, is_alive, listing, pair, shell, soon,
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
    fn new(cell: Cell) -> Self {
        let scratch = Scratch::new();
        let root = busybox_root(&scratch.0, cell, false);
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

fn full() -> bool {
    std::env::var("ROOTFS_KILLS").is_ok_and(|kills| kills == "full")
}

fn step() -> usize {
    if full() { 1 } else { 11 }
}

#[test]
fn of_the_first_process() {
    let place = Place::new(Cell::Root);
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
    let place = Place::new(Cell::Root);
    let mut turns = 0;
    for stops in (0..).step_by(step()) {
        let mut supervisor = place.supervisor();
        let Some(running) = ask_and_stop(&supervisor, &place.spec, stops) else { break };
        supervisor.child.kill().unwrap();
        supervisor.child.wait().unwrap();
        see_end(&running);
        assert!(exit_of(&running.pidfd), "{stops}");
        let what = format!("stop {stops}");
        clean_up_by_another(&running, &what);
        place.is_as_before(&what);
        turns += 1;
    }
    assert!(turns > 200 / step(), "{turns}");
}

#[test]
fn of_the_client() {
    let place = Place::new(Cell::Root);
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

// ---------------------------------------------------------------- where no first process waits

/// What the tracer has seen of a first process.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Stopped,
    Executed,
}

/// Traces a supervisor, and with it the first process from its first instruction on. A thread of its own: tracing is a
/// thread's, and meanwhile frames are waited for.
struct Tracer {
    thread: JoinHandle<()>,
    seen: Receiver<Seen>,
}

const WAIT: WaitPidFlag = WaitPidFlag::__WALL.union(WaitPidFlag::__WNOTHREAD);

impl Tracer {
    fn begin(supervisor: &Supervisor, stops: usize) -> Self {
        let pid = Pid::from_raw(supervisor.child.id().cast_signed());
        let (told, seen) = channel();
        let (ready, is_ready) = channel();
        let thread = std::thread::spawn(move || {
            let options = ptrace::Options::PTRACE_O_TRACESYSGOOD
                | ptrace::Options::PTRACE_O_TRACEEXEC
                | ptrace::Options::PTRACE_O_TRACECLONE
                | ptrace::Options::PTRACE_O_TRACEFORK
                | ptrace::Options::PTRACE_O_TRACEVFORK;
            ptrace::seize(pid, options).unwrap();
            ready.send(()).unwrap();
            trace(pid, stops, &told);
        });
        is_ready.recv().unwrap();
        Self { thread, seen }
    }

    /// The end of the supervisor is that of its tracer, which leaves its status to others.
    fn end(self) {
        self.thread.join().unwrap();
    }
}

fn trace(supervisor: Pid, stops: usize, told: &Sender<Seen>) {
    let mut first = None;
    let mut left = stops + 1;
    loop {
        let peek = WAIT | WaitPidFlag::WEXITED | WaitPidFlag::WSTOPPED | WaitPidFlag::WNOWAIT;
        let pid = match waitid(Id::All, peek).unwrap() {
            WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) if pid == supervisor => {
                // Who was stopped goes on, and finds itself alone.
                first.map(|pid| ptrace::detach(pid, None));
                return;
            }
            status => status.pid().unwrap(),
        };
        let status = waitpid(pid, Some(WAIT)).unwrap();
        let signal = match status {
            WaitStatus::Stopped(_, signal) => Some(signal),
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => {
                first = first.filter(|first| *first != pid);
                continue;
            }
            _ => None,
        };
        if pid == supervisor {
            let _ = ptrace::cont(pid, signal);
        } else if first.is_none() && left > 0 && is_first_process(pid) {
            first = Some(pid);
            let _ = ptrace::syscall(pid, None);
        } else if first != Some(pid) {
            let _ = ptrace::detach(pid, None);
        } else if matches!(status, WaitStatus::PtraceEvent(_, _, event) if event == ptrace::Event::PTRACE_EVENT_EXEC as i32)
        {
            (first, left) = (None, 0);
            let _ = ptrace::detach(pid, None);
            told.send(Seen::Executed).unwrap();
        } else {
            left = left.saturating_sub(1);
            if left == 0 {
                told.send(Seen::Stopped).unwrap();
            } else {
                let _ = ptrace::syscall(pid, signal);
            }
        }
    }
}

/// It has a number in a pid namespace of its own, which is 1.
fn is_first_process(pid: Pid) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1"))
}

enum Victim {
    FirstProcess,
    Supervisor,
    Client,
}

fn in_a_user_namespace(cell: Cell, level: Level, victim: &Victim, step: usize) {
    let place = Place::new(cell);
    let mut turns = 0;
    for stops in (0..).step_by(step) {
        let what = format!("{cell:?}, {level:?}, stop {stops}");
        let mut supervisor = Supervisor::start(cell);
        let tracer = Tracer::begin(&supervisor, stops);
        let running = supervisor.begin(cell, &place.spec, Some(shell("exit 7")), Some(level)).unwrap();
        let seen = tracer.seen.recv().unwrap();
        let executed = seen == Seen::Executed;
        if executed {
            assert_eq!(supervisor.finish(&running).exit, Exit::Code(7), "{what}");
        } else {
            turns += 1;
        }
        match victim {
            Victim::FirstProcess if !executed => {
                kill(Pid::from_raw(running.pid), Signal::SIGKILL).unwrap();
                let ended = supervisor.finish(&running);
                assert_eq!((ended.exit, ended.left.len()), (Exit::Signal(9), 0), "{what}: {:?}", ended.left);
                place.is_as_before(&what);
                let next = supervisor.run(cell, &place.spec, "true", Some(level));
                assert_eq!(next.exit, Exit::Code(0), "{what}: {:?}", next.failure);
            }
            Victim::Supervisor if !executed => supervisor.child.kill().unwrap(),
            _ => {}
        }
        // Its end must be seen by the tracer first; that of the client is that of its socket.
        supervisor.socket = pair().0;
        tracer.end();
        drop(supervisor);
        assert!(exit_of(&running.pidfd), "{what}");
        if matches!(victim, Victim::Supervisor) {
            clean_up_by_another(&running, &what);
        }
        place.is_as_before(&what);
        if executed {
            break;
        }
    }
    assert!(turns > 100 / step, "{turns}");
}

/// Each cell and level that there is in `full`, and else one of each.
fn in_user_namespaces(victim: &Victim) {
    if !full() {
        for (cell, level) in [(Cell::RootRange, Level::Attached), (Cell::Ordinary, Level::Classic)] {
            in_a_user_namespace(cell, level, victim, 37);
        }
        return;
    }
    for cell in Cell::ALL.into_iter().filter(|cell| cell.map().is_some()) {
        for level in cell.levels() {
            in_a_user_namespace(cell, level, victim, 1);
        }
    }
}

#[test]
fn of_the_first_process_in_a_user_namespace() {
    in_user_namespaces(&Victim::FirstProcess);
}

#[test]
fn of_the_supervisor_of_a_user_namespace() {
    in_user_namespaces(&Victim::Supervisor);
}

#[test]
fn of_the_client_of_a_user_namespace() {
    in_user_namespaces(&Victim::Client);
}
