//! A first process that shares its memory with a holder.
//!
//! A process that executes a program gives up its memory first, page by page, and whoever waits for the program waits for
//! that too. If somebody else still uses that memory, there is nothing to give up: a holder is a process that does nothing
//! but that. It ends, and the memory with it, when the first process doesn't want it any more, or when the supervisor has
//! time for that: not while the command begins or ends, because it would be in the way of both.
//!
//! A holder is in the namespaces of its parent, with its rights, and goes on with what is in the memory. So nobody else may
//! be able to write there: before a program of the container's runs beside the first process, that lets the holder go
//! ([`let_go`]).

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::futex;

use super::linux::owned;
use super::process::{CloneRequest, last_error, unshare, yield_processor};
use crate::error::{SysError, SysResult};

/// Set as long as the first process wants its memory held.
static USED: AtomicU32 = AtomicU32::new(0);
/// Whether the first process may begin: until then its parent has the memory for itself.
static BEGUN: AtomicU32 = AtomicU32::new(0);
/// The pid of the first process, as its maker sees it.
static PID: AtomicI32 = AtomicI32::new(0);
/// Where the stack of the first process is.
static STACK: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];

/// As much as a program gets by default. What isn't used takes no memory.
const STACK_SIZE: usize = 8 << 20;
/// As much of it is made ready ahead.
const STACK_READY: usize = 128 << 10;
/// How long a holder may take to end. It does nothing else.
const PATIENCE: Duration = Duration::from_secs(2);

/// Makes a first process in memory that this process shares with it, on a stack of its own and as a child of this
/// process's parent. It runs `work` when [`hold`] lets it begin. This process goes on with `then`, and never returns: the
/// other one uses what is on its stack.
pub fn begin<F: FnOnce()>(
    request: CloneRequest<'_>,
    work: F,
    then: impl FnOnce(SysResult<OwnedFd>) -> std::convert::Infallible,
) -> ! {
    let mut work = Some(work);
    match then(make(request, &mut work)) {}
}

fn make<F: FnOnce()>(request: CloneRequest<'_>, work: &mut Option<F>) -> SysResult<OwnedFd> {
    // As for a fork.
    unshare(libc::CLONE_THREAD)?;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK | libc::MAP_NORESERVE;
    // SAFETY: a new mapping, wherever the kernel finds a place.
    let stack = unsafe { libc::mmap(std::ptr::null_mut(), STACK_SIZE, protection, kind, -1, 0) };
    if stack == libc::MAP_FAILED {
        return Err(last_error("mmap", "a stack"));
    }
    // SAFETY: within the mapping, which begins with a page that nobody may touch.
    let top = unsafe {
        libc::mprotect(stack, 4096, libc::PROT_NONE);
        stack.byte_add(STACK_SIZE)
    };
    STACK[0].store(stack.addr(), Ordering::Relaxed);
    STACK[1].store(top.addr(), Ordering::Relaxed);
    USED.store(1, Ordering::Relaxed);
    BEGUN.store(0, Ordering::Relaxed);
    let mut pidfd: libc::c_int = -1;
    let namespaces = libc::c_int::try_from(request.namespaces).unwrap_or(0);
    let flags = libc::CLONE_VM | libc::CLONE_PARENT | libc::CLONE_PIDFD | namespaces;
    // SAFETY: the child has a stack of its own, and touches nothing before this process calls `hold`, which leaves the
    // memory to it. `work` is in the frame of `begin`, which never returns.
    let pid = unsafe { libc::clone(enter::<F>, top, flags, std::ptr::from_mut(work).cast(), &raw mut pidfd) };
    if pid < 0 {
        return Err(last_error("clone", format!("CLONE_VM|CLONE_PARENT|{:#x}", request.namespaces)));
    }
    PID.store(pid, Ordering::Relaxed);
    Ok(owned(pidfd.into()))
}

/// In the first process: its pid as its maker sees it.
pub fn own_pid() -> i32 {
    PID.load(Ordering::Relaxed)
}

extern "C" fn enter<F: FnOnce()>(work: *mut libc::c_void) -> libc::c_int {
    let patience = futex::Timespec { tv_sec: 4, tv_nsec: 0 };
    while BEGUN.load(Ordering::Acquire) == 0 {
        let waited = futex::wait(&BEGUN, futex::Flags::empty(), 0, Some(&patience));
        if waited == Err(rustix::io::Errno::TIMEDOUT) {
            // Its maker was killed before it could let it begin.
            return 127;
        }
    }
    // SAFETY: the maker's `Option`, which it touches no more.
    if let Some(work) = unsafe { (*work.cast::<Option<F>>()).take() } {
        work();
    }
    127
}

/// Lets the first process begin, and holds its memory until that lets it go, or somebody kills this process. Makes no call that could write to what they
/// share: the C library's `errno` is one for both.
pub fn hold() -> ! {
    BEGUN.store(1, Ordering::Release);
    let _ = futex::wake(&BEGUN, futex::Flags::empty(), 1);
    while USED.load(Ordering::Acquire) == 1 {
        let _ = futex::wait(&USED, futex::Flags::empty(), 1, None);
    }
    super::process::exit(0)
}

/// Whether this process's memory is held.
pub fn is_held() -> bool {
    USED.load(Ordering::Acquire) == 1
}

/// Has the holder end, if there is one, and waits for that: afterwards nobody shares this process's memory.
pub fn let_go() -> SysResult<()> {
    if !is_held() {
        return Ok(());
    }
    USED.store(0, Ordering::Release);
    let _ = futex::wake(&USED, futex::Flags::empty(), 1);
    let since = Instant::now();
    // Asks for nothing that isn't so already, and is refused while the memory is shared.
    while let Err(call) = unshare(libc::CLONE_VM) {
        if since.elapsed() > PATIENCE {
            return Err(SysError {
                arguments: "CLONE_VM: a process shares this one's memory".into(),
                ..call
            });
        }
        yield_processor();
    }
    Ok(())
}

/// How much of a mapping is made ready: of a stack only the end where it begins.
pub(super) fn ready_part(from: usize, to: usize) -> usize {
    let stack = from <= STACK[1].load(Ordering::Relaxed) && to == STACK[1].load(Ordering::Relaxed);
    if stack { to.saturating_sub(STACK_READY).max(from) } else { from }
}
