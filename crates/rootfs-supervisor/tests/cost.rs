//! What one container costs, in numbers that are the same on each run: times are the benchmark's.
#![allow(clippy::disallowed_methods, reason = "tests make and read their own files")]
#![allow(unsafe_code, reason = "an allocator that counts can't be had without it")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use nix::libc;
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rootfs::plan::Plan;
use rootfs::protocol::{self, Exit};
use rootfs::spec::{Content, Mount, MountKind, RootfsSpec};
use support::{
    Cell, Scratch, SpareProcess, Supervisor, bind, busybox_root, default_spec, is_alive, shell, soon,
};

/// Many.
const BINDS: usize = 1000;

/// Adds that many to a description, and their mountpoints to its root.
fn add_binds(spec: &mut RootfsSpec, scratch: &Path, root: &Path) {
    let source = scratch.join("source");
    fs::create_dir(&source).unwrap();
    for number in 0..BINDS {
        fs::create_dir_all(root.join(format!("mnt/{number}"))).unwrap();
        spec.add(bind(&source, &format!("/mnt/{number}")));
    }
}

/// A system call.
struct Call {
    number: libc::c_long,
    /// Of `listmount(2)`: behind which id it begins.
    behind: Option<u64>,
}

/// libc doesn't have it everywhere. It has the same number on every architecture.
const SYS_LISTMOUNT: libc::c_long = 458;

impl Call {
    /// The one that a process has stopped at.
    fn of(pid: Pid) -> Self {
        let stop = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap();
        let mut words = stop.split(' ');
        let number = words.next().unwrap().parse().unwrap();
        let behind = (number == SYS_LISTMOUNT).then(|| {
            let request = u64::from_str_radix(words.next().unwrap().trim_start_matches("0x"), 16).unwrap();
            // The third field of struct mnt_id_req, after two halves and the mount.
            let mut id = [0; 8];
            let memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
            memory.read_exact_at(&mut id, request + 16).unwrap();
            u64::from_ne_bytes(id)
        });
        Self { number, behind }
    }
}

/// The system calls that a process makes until it executes a program. It is let go then.
fn calls_until_exec(pid: i32, begin: impl FnOnce()) -> Vec<Call> {
    let pid = Pid::from_raw(pid);
    ptrace::attach(pid).unwrap();
    assert!(matches!(waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap(), WaitStatus::Stopped(..)));
    ptrace::setoptions(pid, ptrace::Options::PTRACE_O_TRACESYSGOOD | ptrace::Options::PTRACE_O_TRACEEXEC)
        .unwrap();
    ptrace::syscall(pid, None).unwrap();
    begin();
    let mut stops = Vec::new();
    loop {
        match waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap() {
            WaitStatus::PtraceSyscall(_) => stops.push(Call::of(pid)),
            WaitStatus::PtraceEvent(..) => break,
            WaitStatus::Stopped(..) => {}
            other => panic!("it was to execute a program: {other:?}"),
        }
        ptrace::syscall(pid, None).unwrap();
    }
    ptrace::detach(pid, None).unwrap();
    // Each call stops twice: when it begins, and when it ends.
    stops.into_iter().step_by(2).collect()
}

/// What was allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Allocated {
    bytes: u64,
    times: u64,
}

impl Allocated {
    /// By a supervisor and all processes that it has made; a debug build counts that.
    fn by(supervisor: &Supervisor) -> Self {
        let pid = supervisor.child.id();
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let line = maps.lines().find(|line| line.contains("/memfd:rootfs-allocations")).unwrap();
        let address = u64::from_str_radix(line.split('-').next().unwrap(), 16).unwrap();
        let mut numbers = [0; 16];
        fs::File::open(format!("/proc/{pid}/mem")).unwrap().read_exact_at(&mut numbers, address).unwrap();
        let number = |at: usize| u64::from_ne_bytes(numbers[at..at + 8].try_into().unwrap());
        Self { bytes: number(0), times: number(8) }
    }

    /// The same when all have come to rest: it stays the same for a while.
    fn at_rest(supervisor: &Supervisor) -> Self {
        let last = RefCell::new((Self::by(supervisor), 0));
        soon("all have come to rest", || {
            let (now, mut last) = (Self::by(supervisor), last.borrow_mut());
            *last = (now, if last.0 == now { last.1 + 1 } else { 0 });
            last.1 == 20
        });
        last.into_inner().0
    }

    /// By this thread.
    fn here() -> Self {
        let (bytes, times) = HERE.get();
        Self { bytes, times }
    }

    fn since(self, before: Self) -> Self {
        Self { bytes: self.bytes - before.bytes, times: self.times - before.times }
    }

    /// Rounded up.
    fn for_each_of(self, count: u64) -> Self {
        Self { bytes: self.bytes.div_ceil(count), times: self.times.div_ceil(count) }
    }

    fn fits(self, most: Self) -> bool {
        // Where much less is enough, the guard has to come closer, or counts nothing.
        let near = |this: u64, most: u64| (most / 2..=most).contains(&this);
        near(self.bytes, most.bytes) && near(self.times, most.times)
    }
}

thread_local! {
    static HERE: std::cell::Cell<(u64, u64)> = const { std::cell::Cell::new((0, 0)) };
}

/// Counts what the threads of this test allocate, each its own.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: everything is done by the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // At its end a thread has no such variable any more.
        let _ = HERE.try_with(|here| here.set((here.get().0 + layout.size() as u64, here.get().1 + 1)));
        // SAFETY: as the caller has promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as the caller has promised.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// The processes that one makes, and those make, while something is done.
struct Processes {
    made: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    tracer: Option<JoinHandle<()>>,
}

impl Processes {
    fn of(pid: u32) -> Self {
        let (made, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (begun, has_begun) = mpsc::channel();
        // A tracer is a thread, and only that can wait for what it traces.
        let tracer = std::thread::spawn({
            let (made, over) = (made.clone(), over.clone());
            move || {
                let options = ptrace::Options::PTRACE_O_TRACECLONE
                    | ptrace::Options::PTRACE_O_TRACEFORK
                    | ptrace::Options::PTRACE_O_TRACEVFORK;
                ptrace::seize(Pid::from_raw(pid.cast_signed()), options).unwrap();
                begun.send(()).unwrap();
                while !over.load(Ordering::Relaxed) {
                    Self::follow(&made);
                }
            }
        });
        has_begun.recv().unwrap();
        Self { made, over, tracer: Some(tracer) }
    }

    /// Lets whatever has stopped go on.
    fn follow(made: &AtomicUsize) {
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD | WaitPidFlag::WNOHANG;
        let (pid, signal) = match waitpid(None, Some(flags)) {
            Ok(WaitStatus::StillAlive) | Err(_) => {
                return std::thread::sleep(std::time::Duration::from_micros(100));
            }
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => return,
            Ok(WaitStatus::PtraceEvent(pid, _, event)) => {
                if matches!(
                    event,
                    libc::PTRACE_EVENT_CLONE | libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK
                ) {
                    made.fetch_add(1, Ordering::Relaxed);
                }
                (pid, None)
            }
            Ok(WaitStatus::Stopped(pid, signal)) => (pid, Some(signal)),
            Ok(other) => panic!("{other:?}"),
        };
        // One that was killed while it was stopped is gone.
        let _ = ptrace::cont(pid, signal);
    }

    fn made(&self) -> usize {
        self.made.load(Ordering::Relaxed)
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // The end of the tracer lets go what it traces.
        self.tracer.take().unwrap().join().unwrap();
    }
}

/// The default set without the host's cgroups: it depends on the host which hierarchies there are.
fn usual_spec(root: &Path) -> RootfsSpec {
    let mut spec = default_spec(root);
    spec.content
        .retain(|content| !matches!(content, Content::Mount(Mount { kind: MountKind::Cgroup { .. }, .. })));
    spec
}

/// For the default set, from the request to the exec, of a debug build, which looks at each descriptor before it closes it.
/// A change that makes it more has to be worth it.
const MOST_CALLS: usize = 340;

/// For each bind but the first whose source is on a mount: it is looked at and copied, and the copy is looked at; the destination
/// is opened, looked at and closed (for a debug build two calls), and the copy put on it; at the end its state and its place are
/// looked at.
const MOST_CALLS_OF_A_BIND: usize = 10;

/// For many binds together: memory, ids that are listed in parts, and descriptors that are closed together.
const MORE_CALLS: usize = 40;

/// For the default set, in bytes and times: what the supervisor, the first process, and the pid 1 in front of the command
/// allocate, and what is made ahead for the next container. 98304 bytes of it are the memory that a first process touches while it
/// waits, for what it needs later. What grows in place counts whole each time.
const MOST_ALLOCATED: Allocated = Allocated { bytes: 184_000, times: 850 };

/// For each of a thousand binds.
const MOST_ALLOCATED_OF_A_BIND: Allocated = Allocated { bytes: 1_900, times: 14 };

/// For the plan of the default set, and its encoding, as the addon makes it once for each description.
const MOST_ALLOCATED_OF_A_PLAN: Allocated = Allocated { bytes: 66_000, times: 410 };

/// The first process, and the two of the next: that and its holder. And once, what makes the stub namespace.
const MOST_PROCESSES: usize = 4;

/// The first process was there; these are the next one and its holder.
const MOST_PROCESSES_WITH_SPARE: usize = 2;

/// A first process that waits for this, and what was made ahead for the last container.
fn waiting(supervisor: &Supervisor) -> SpareProcess {
    let spare = supervisor.take_spare();
    soon("it waits", || is_alive(spare.pid, "rootfs-spare"));
    spare
}

fn calls_of(supervisor: &Supervisor, spec: &RootfsSpec) -> Vec<Call> {
    let spare = waiting(supervisor);
    let (pid, mut running) = (spare.pid, None);
    let calls = calls_until_exec(pid, || running = Some(spare.ask(spec, shell("true"), 0)));
    let ended = supervisor.finish(&running.unwrap());
    assert_eq!((ended.exit, ended.failure), (Exit::Code(0), None));
    calls
}

/// How many of them get memory from the kernel, or give it back.
fn for_memory(calls: &[Call]) -> usize {
    let memory = [libc::SYS_brk, libc::SYS_mmap, libc::SYS_mremap, libc::SYS_munmap, libc::SYS_madvise];
    calls.iter().filter(|call| memory.contains(&call.number)).count()
}

/// What is made ahead is known from the container before: a supervisor that has had one, its root and its description.
fn after_one() -> (Supervisor, Scratch, PathBuf, RootfsSpec) {
    let mut supervisor = Supervisor::start(Cell::Root);
    let scratch = Scratch::new();
    let root = busybox_root(&scratch.0, Cell::Root, true);
    let spec = usual_spec(&root);
    assert_eq!(supervisor.run(Cell::Root, &spec, "true", None).exit, Exit::Code(0));
    (supervisor, scratch, root, spec)
}

#[test]
fn a_container_takes_few_system_calls() {
    let (supervisor, scratch, root, mut spec) = after_one();
    let calls = calls_of(&supervisor, &spec);
    let (count, memory) = (calls.len(), for_memory(&calls));
    println!("{count} system calls, {memory} of them for memory");
    assert!(count <= MOST_CALLS, "{count} system calls, and at most {MOST_CALLS} were to be made");
    assert!(count > 100, "{count} can't be all");
    assert_eq!(memory, 0, "a first process that waits has the memory for a usual container");

    // The kernel looks at each mount behind the id that it is given, and the caller may have thousands.
    let in_callers = calls.iter().take_while(|call| call.number != libc::SYS_setns);
    let behind: Vec<u64> = in_callers.filter_map(|call| call.behind).collect();
    assert!(
        behind.iter().all(|id| *id > u64::MAX / 2),
        "the mount table of the caller is walked: {behind:?}"
    );

    // Much more than it was made for: that has to be seen.
    add_binds(&mut spec, &scratch.0, &root);
    let calls = calls_of(&supervisor, &spec);
    let memory = for_memory(&calls);
    println!("with 1000 binds {} system calls, {memory} of them for memory", calls.len());
    assert!((1..=12).contains(&memory), "{memory}");
    let all = calls.len() - count;
    assert!(
        (5 * BINDS..=MOST_CALLS_OF_A_BIND * BINDS + MORE_CALLS).contains(&all),
        "{all}, and at most {MOST_CALLS_OF_A_BIND} for each of {BINDS} were to be made, and {MORE_CALLS} more"
    );
}

#[test]
fn a_container_allocates_little() {
    let (supervisor, scratch, root, mut spec) = after_one();
    let mut spare = Some(waiting(&supervisor));
    let mut allocated = |spec: &RootfsSpec| {
        let before = Allocated::at_rest(&supervisor);
        let running = spare.take().unwrap().ask(spec, shell("true"), 0);
        assert_eq!(supervisor.finish(&running).exit, Exit::Code(0));
        spare = Some(waiting(&supervisor));
        Allocated::at_rest(&supervisor).since(before)
    };
    let usual = [(); 3].map(|()| allocated(&spec));
    println!("{usual:?}");
    assert!(usual.iter().all(|one| one.fits(MOST_ALLOCATED)), "{usual:?}, of {MOST_ALLOCATED:?}");
    add_binds(&mut spec, &scratch.0, &root);
    let with_binds = allocated(&spec).since(usual[0]);
    let each = with_binds.for_each_of(BINDS as u64);
    println!("for each bind {each:?}");
    assert!(each.fits(MOST_ALLOCATED_OF_A_BIND), "{each:?}, of {MOST_ALLOCATED_OF_A_BIND:?}");
}

#[test]
fn a_plan_allocates_little() {
    let scratch = Scratch::new();
    let spec = usual_spec(&scratch.0);
    let allocated = [(); 3].map(|()| {
        let before = Allocated::here();
        let plan = Plan::new(&spec).unwrap();
        protocol::encode_plan(&plan, None);
        Allocated::here().since(before)
    });
    println!("{allocated:?}");
    assert!(allocated.iter().all(|one| *one == allocated[0]), "{allocated:?}");
    assert!(allocated[0].fits(MOST_ALLOCATED_OF_A_PLAN), "{allocated:?}, of {MOST_ALLOCATED_OF_A_PLAN:?}");
}

#[test]
fn a_container_takes_few_processes() {
    let mut supervisor = Supervisor::start(Cell::Root);
    let scratch = Scratch::new();
    let spec = usual_spec(&busybox_root(&scratch.0, Cell::Root, true));
    let processes = Processes::of(supervisor.child.id());
    assert_eq!(supervisor.run(Cell::Root, &spec, "true", None).exit, Exit::Code(0));
    let mut spare = waiting(&supervisor);
    let made = processes.made();
    println!("{made} processes");
    assert!((2..=MOST_PROCESSES).contains(&made), "{made}, and at most {MOST_PROCESSES} were to be made");
    for _ in 0..3 {
        let before = processes.made();
        let running = spare.ask(&spec, shell("true"), 0);
        assert_eq!(supervisor.finish(&running).exit, Exit::Code(0));
        spare = waiting(&supervisor);
        let made = processes.made() - before;
        println!("{made} processes with one that waits");
        assert!((1..=MOST_PROCESSES_WITH_SPARE).contains(&made), "{made}, of {MOST_PROCESSES_WITH_SPARE}");
    }
}
