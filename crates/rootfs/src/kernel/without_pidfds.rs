//! Processes where there are no pidfds that can be polled and waited for, before Linux 5.4: an `eventfd(2)` stands for each
//! child. It can be read when the child has ended, and whoever has made the child, or was given the descriptor with the
//! child's number, can signal it. The number of a child belongs to nobody else until its parent has waited for it; who is not
//! its parent looks at the descriptor first, which leaves a moment in which the number could have become another's.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::EventfdFlags;

use super::linux::failed;
use super::process::{self, Fork, last_error};
use crate::error::{SysError, SysResult};

static NEEDED: AtomicBool = AtomicBool::new(false);

struct Process {
    pid: i32,
    /// Of a child: what tells of its end.
    event: Option<OwnedFd>,
}

/// By the numbers of the descriptors that stand for them.
static PROCESSES: Mutex<BTreeMap<RawFd, Process>> = Mutex::new(BTreeMap::new());

fn processes() -> MutexGuard<'static, BTreeMap<RawFd, Process>> {
    PROCESSES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether descriptors of processes are no pidfds in this process.
pub fn are_needed() -> bool {
    NEEDED.load(Ordering::Relaxed)
}

/// From here on they are none.
pub(super) fn need() {
    NEEDED.store(true, Ordering::Relaxed);
}

/// Finds out by a trial. To be called before the first process is made.
pub fn find_out() {
    let own = process::pidfd_of_self();
    if own.is_ok_and(|own| process::is_complete_pidfd(own.as_fd())) {
        return;
    }
    // It may be that call alone that is refused.
    match process::fork(process::CloneRequest::default()) {
        Ok(Fork::Child) => process::exit(0),
        Ok(Fork::Parent { pid, pidfd }) => {
            if !process::is_complete_pidfd(pidfd.as_fd()) {
                need();
            }
            process::end_child(pid);
        }
        Err(call) if call == process::no_pidfds() => need(),
        // What is wrong is told by whoever needs a process.
        Err(_) => {}
    }
}

/// A descriptor for a new child.
pub(super) fn stand_for(pid: i32) -> SysResult<OwnedFd> {
    let made = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
    let handle = made.map_err(failed("eventfd", String::new))?;
    watch(pid, &handle)?;
    Ok(handle)
}

/// The same for a child that another process has made for this one.
pub fn watch(pid: i32, handle: &OwnedFd) -> SysResult<()> {
    if are_needed() {
        let event = rustix::io::fcntl_dupfd_cloexec(handle, 0).map_err(failed("fcntl", String::new))?;
        processes().insert(handle.as_raw_fd(), Process { pid, event: Some(event) });
    }
    Ok(())
}

/// Remembers whom a descriptor stands for that somebody else has made.
pub fn remember(pid: i32, handle: &OwnedFd) {
    if are_needed() {
        processes().insert(handle.as_raw_fd(), Process { pid, event: None });
    }
}

/// Whom a descriptor stands for.
pub(super) fn pid_of(handle: BorrowedFd<'_>) -> SysResult<i32> {
    processes().get(&handle.as_raw_fd()).map(|known| known.pid).ok_or_else(|| SysError {
        syscall: "waitid",
        errno: libc::ECHILD,
        arguments: format!("{}: no process is known by it", handle.as_raw_fd()),
    })
}

/// A child has ended, which its parent has found out by itself.
pub fn notice_end(handle: BorrowedFd<'_>) {
    if let Some(event) = processes().get(&handle.as_raw_fd()).and_then(|known| known.event.as_ref()) {
        let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
    }
}

/// It was waited for: the number isn't its own any more.
pub fn forget(handle: BorrowedFd<'_>) {
    processes().remove(&handle.as_raw_fd());
}

/// In a new process, which is the parent of none of them.
pub(super) fn forget_all() {
    processes().clear();
}

/// Looks which children have ended, and says so on their descriptors. To be called when `SIGCHLD` has come.
pub fn notice_ends() {
    for known in processes().values() {
        if let Some(event) = &known.event
            && has_child_ended(known.pid)
        {
            let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
        }
    }
}

/// Looks at the end of a child, and leaves it as it is. `false` if it isn't there yet.
fn look(pid: i32, flags: libc::c_int) -> SysResult<bool> {
    let mut information = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    let flags = flags | libc::WEXITED | libc::WNOWAIT | libc::__WALL;
    // SAFETY: the struct outlives the call, and is zero where the call leaves it alone: then the child lives.
    unsafe {
        if libc::waitid(libc::P_PID, pid.cast_unsigned(), information.as_mut_ptr(), flags) != 0 {
            return Err(last_error("waitid", pid.to_string()));
        }
        Ok(information.assume_init().si_pid() == pid)
    }
}

/// Whether a child has ended that nobody has waited for.
pub(super) fn has_child_ended(pid: i32) -> bool {
    look(pid, libc::WNOHANG) == Ok(true)
}

/// Waits until nobody has this number, at most until then.
pub fn wait_until_gone(pid: i32, until: Instant) {
    while process::exists(pid) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until a child has ended, and leaves it as it is.
pub(super) fn wait_until_ended(pid: i32) {
    while look(pid, 0).is_err_and(|call| call.is(nix::errno::Errno::EINTR)) {}
}
