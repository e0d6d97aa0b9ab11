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

use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::futex;

use super::process::{
    filter_instruction, last_error, set_no_new_privileges, set_seccomp_filter, unshare, yield_processor,
};
use crate::error::{SysError, SysResult};

/// Set as long as the first process wants its memory held.
static USED: AtomicU32 = AtomicU32::new(0);
/// Whether the first process may begin: until then its parent has the memory for itself.
static BEGUN: AtomicU32 = AtomicU32::new(0);
/// Where the stack of the first process is.
static STACK: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];

/// As much as a program gets by default. What isn't used takes no memory.
const STACK_SIZE: usize = 8 << 20;
/// As much of it is made ready ahead.
const STACK_READY: usize = 128 << 10;
/// How long a holder may take to end. It does nothing else.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many seconds a first process waits to begin.
const BEGINNING: i64 = 1;

/// Where the kernel writes the pid of a first process as it makes it: memory of a holder and its parent. Whenever the holder
/// is killed, its parent knows whether there is a first process to wait for.
#[derive(Debug)]
pub struct Birth(NonNull<AtomicI32>);

impl Birth {
    /// Maps it. It has to be done before the holder is made.
    pub fn new() -> SysResult<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, wherever the kernel finds a place.
        let page =
            unsafe { libc::mmap(std::ptr::null_mut(), size_of::<AtomicI32>(), protection, kind, -1, 0) };
        match NonNull::new(page) {
            Some(page) if page.as_ptr() != libc::MAP_FAILED => Ok(Self(page.cast())),
            _ => Err(last_error("mmap", "MAP_SHARED|MAP_ANONYMOUS")),
        }
    }

    /// The pid, as the holder and its parent see it, if there is such a process.
    pub fn pid(&self) -> Option<i32> {
        // SAFETY: mapped as long as this lives, zero at first, and written only by the kernel.
        let pid = unsafe { self.0.as_ref() }.load(Ordering::Acquire);
        (pid != 0).then_some(pid)
    }
}

impl Drop for Birth {
    fn drop(&mut self) {
        // SAFETY: nobody has a reference to it.
        unsafe { libc::munmap(self.0.as_ptr().cast(), size_of::<AtomicI32>()) };
    }
}

/// Makes a first process in memory that this process shares with it, on a stack of its own and as a child of this
/// process's parent. It runs `work` when [`hold`] lets it begin. This process goes on with `then`, and never returns: the
/// other one uses what is on its stack.
pub fn begin<F: FnOnce()>(
    namespaces: u64,
    birth: &Birth,
    work: F,
    then: impl FnOnce(SysResult<()>) -> std::convert::Infallible,
) -> ! {
    let mut work = Some(work);
    match then(make(namespaces, birth, &mut work)) {}
}

fn make<F: FnOnce()>(namespaces: u64, birth: &Birth, work: &mut Option<F>) -> SysResult<()> {
    let failed = || last_error("clone", format!("CLONE_VM|CLONE_PARENT|{namespaces:#x}"));
    // What doesn't fit has no flag of this older call.
    let Ok(new) = libc::c_int::try_from(namespaces) else {
        return Err(SysError { errno: libc::EINVAL, ..failed() });
    };
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
    let flags = libc::CLONE_VM | libc::CLONE_PARENT | libc::CLONE_PARENT_SETTID | new;
    // SAFETY: the child has a stack of its own, and touches nothing before this process calls `hold`, which leaves the
    // memory to it. `work` is in the frame of `begin`, which never returns.
    let pid =
        unsafe { libc::clone(enter::<F>, top, flags, std::ptr::from_mut(work).cast(), birth.0.as_ptr()) };
    if pid < 0 { Err(failed()) } else { Ok(()) }
}

extern "C" fn enter<F: FnOnce()>(work: *mut libc::c_void) -> libc::c_int {
    let patience = futex::Timespec { tv_sec: BEGINNING, tv_nsec: 0 };
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

/// Takes from this process all system calls but the two that [`hold`] makes. Who changed the memory it goes on with could
/// have it do nothing.
pub fn confine() -> SysResult<()> {
    let allowed = [libc::SYS_futex, libc::SYS_exit_group];
    set_no_new_privileges()?;
    set_seccomp_filter(&only(&allowed))
}

/// A filter that kills whoever makes another call; `seccomp(2)`. Calls of another architecture's have other numbers: where
/// theirs are the same, they are the same calls or take no descriptor, of which there is none.
fn only(allowed: &[libc::c_long]) -> Vec<u8> {
    // `seccomp_data.nr` comes first.
    let mut filter = filter_instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0).to_vec();
    for (index, call) in allowed.iter().enumerate() {
        let to_end = u8::try_from(allowed.len() - index).unwrap_or_default();
        let number = u32::try_from(*call).unwrap_or(u32::MAX);
        filter.extend(filter_instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, to_end, 0, number));
    }
    filter.extend(filter_instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_KILL_PROCESS));
    filter.extend(filter_instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW));
    filter
}

/// Lets the first process begin, and holds its memory until that lets it go, or somebody kills this process. Makes no call
/// that could write to what they share: the C library's `errno` is one for both.
pub fn hold() -> ! {
    BEGUN.store(1, Ordering::Release);
    let _ = futex::wake(&BEGUN, futex::Flags::empty(), 1);
    while USED.load(Ordering::Acquire) == 1 {
        let _ = futex::wait(&USED, futex::Flags::empty(), 1, None);
    }
    super::process::exit(0)
}

fn is_held() -> bool {
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
