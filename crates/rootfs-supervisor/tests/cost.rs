//! What one container costs, in numbers that are the same on each run: times are the benchmark's.
#![allow(clippy::disallowed_methods, reason = "tests make and read their own files")]

mod support;

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rootfs::protocol::Exit;
use rootfs::spec::{Content, Mount, MountKind};
use support::{Cell, Scratch, Supervisor, busybox_root, default_spec, is_alive, shell, soon};

/// How many system calls a process makes until it executes a program. It is let go then.
fn calls_until_exec(pid: i32, begin: impl FnOnce()) -> usize {
    let pid = Pid::from_raw(pid);
    ptrace::attach(pid).unwrap();
    assert!(matches!(waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap(), WaitStatus::Stopped(..)));
    ptrace::setoptions(pid, ptrace::Options::PTRACE_O_TRACESYSGOOD | ptrace::Options::PTRACE_O_TRACEEXEC)
        .unwrap();
    ptrace::syscall(pid, None).unwrap();
    begin();
    let mut stops = 0;
    loop {
        match waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap() {
            WaitStatus::PtraceSyscall(_) => stops += 1,
            WaitStatus::PtraceEvent(..) => break,
            WaitStatus::Stopped(..) => {}
            other => panic!("it was to execute a program: {other:?}"),
        }
        ptrace::syscall(pid, None).unwrap();
    }
    ptrace::detach(pid, None).unwrap();
    // Each call stops twice: when it begins, and when it ends.
    stops / 2
}

/// For the default set, from the request to the exec, of a debug build, which looks at each descriptor before it closes it.
/// A change that makes it more has to be worth it.
const MOST_CALLS: usize = 349;

#[test]
fn a_container_takes_few_system_calls() {
    let mut supervisor = Supervisor::start(Cell::Root);
    let scratch = Scratch::new();
    let mut spec = default_spec(&busybox_root(&scratch.0, Cell::Root, true));
    // It depends on the host which hierarchies there are.
    spec.content
        .retain(|content| !matches!(content, Content::Mount(Mount { kind: MountKind::Cgroup { .. }, .. })));
    // What is made ahead is known from the container before.
    assert_eq!(supervisor.run(Cell::Root, &spec, "true", None).exit, Exit::Code(0));
    let spare = supervisor.take_spare();
    let (pid, mut running) = (spare.pid, None);
    soon("it waits", || is_alive(pid, "rootfs-spare"));
    let calls = calls_until_exec(pid, || running = Some(spare.ask(&spec, shell("true"), 0)));
    let ended = supervisor.finish(&running.unwrap());
    assert_eq!((ended.exit, ended.failure), (Exit::Code(0), None));
    println!("{calls} system calls");
    assert!(calls <= MOST_CALLS, "{calls} system calls, and at most {MOST_CALLS} were to be made");
    assert!(calls > 100, "{calls} can't be all");
}
