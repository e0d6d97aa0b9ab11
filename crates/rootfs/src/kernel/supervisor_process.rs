//! Starting the supervisor from a multithreaded process, without forking it.
//!
//! `fork` of a Node process copies its page tables and stops it for tens of milliseconds. Here the child borrows the
//! parent's memory (`CLONE_VM | CLONE_VFORK`), runs on a stack of its own, makes only raw system calls, and executes at
//! once.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::linux::failed;
use super::without_pidfds;
use crate::error::{SysError, SysResult};

/// What is executed.
pub enum Executable<'fd> {
    /// A sealed memory file.
    Memory(BorrowedFd<'fd>),
    /// A file, by its path.
    Path(CString),
}

/// The supervisor, as its parent sees it.
#[derive(Debug)]
pub struct SupervisorProcess {
    /// Its pid.
    pub pid: i32,
    /// Readable when it has ended.
    pub pidfd: OwnedFd,
}

struct ChildArguments {
    executable: i32,
    path: *const libc::c_char,
    argv: *const *const libc::c_char,
    envp: *const *const libc::c_char,
    socket: i32,
    failed_call: u32,
    errno: i32,
}

const CALLS: [&str; 4] = ["dup3", "close_range", "execveat", "sigaction"];
const STACK: usize = 64 << 10;

/// Runs in the child, on its own stack, in the parent's memory.
extern "C" fn child(argument: *mut libc::c_void) -> libc::c_int {
    // SAFETY: the parent waits (CLONE_VFORK) until this child has executed or ended, so the struct and all it points
    // to live as long as they are used here. Only system calls are made: no allocation, no lock, no unwinding.
    unsafe {
        let arguments = &mut *argument.cast::<ChildArguments>();
        let fail = |arguments: &mut ChildArguments, call: u32| {
            arguments.failed_call = call;
            arguments.errno = *libc::__errno_location();
            libc::syscall(libc::SYS_exit_group, 127);
            127
        };
        // Handlers of the parent must not run on this stack: all signals are blocked here, and what is ignored (Node
        // ignores SIGPIPE) or handled goes back to its default before the mask is undone by the new program.
        for signal in 1..65 {
            if signal != libc::SIGKILL && signal != libc::SIGSTOP {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = libc::SIG_DFL;
                libc::sigaction(signal, &raw const action, std::ptr::null_mut());
            }
        }
        // The executable first moves out of the way of the socket's number.
        let executable = if arguments.path.is_null() {
            let moved = libc::fcntl(arguments.executable, libc::F_DUPFD_CLOEXEC, 10);
            if moved < 0 {
                return fail(arguments, 0);
            }
            moved
        } else {
            -1
        };
        if arguments.socket == 3 {
            if libc::fcntl(3, libc::F_SETFD, 0) < 0 {
                return fail(arguments, 0);
            }
        } else if libc::syscall(libc::SYS_dup3, arguments.socket, 3, 0) < 0 {
            return fail(arguments, 0);
        }
        // Everything else closes with the execution: Node leaks inherited descriptors into its children.
        if libc::syscall(libc::SYS_close_range, 4_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) < 0 {
            let mut limit: libc::rlimit = std::mem::zeroed();
            libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
            let end = i32::try_from(limit.rlim_cur.min(1 << 20)).unwrap_or(1 << 20);
            for fd in 4..end {
                libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
            }
        }
        if arguments.path.is_null() {
            libc::syscall(
                libc::SYS_execveat,
                executable,
                c"".as_ptr(),
                arguments.argv,
                arguments.envp,
                libc::AT_EMPTY_PATH,
            );
        } else {
            libc::execve(arguments.path, arguments.argv, arguments.envp);
        }
        fail(arguments, 2)
    }
}

/// Executes the supervisor with the socket as its descriptor 3, an empty environment, and at most one argument.
///
/// Call this from a thread that may wait for a fraction of a millisecond, never from the JavaScript thread.
pub fn start(
    executable: &Executable<'_>,
    argument: Option<&CStr>,
    socket: BorrowedFd<'_>,
) -> SysResult<SupervisorProcess> {
    let argument = argument.map_or(std::ptr::null(), CStr::as_ptr);
    let argv = [c"rootfs-supervisor".as_ptr(), argument, std::ptr::null()];
    let envp = [std::ptr::null()];
    let (fd, path) = match executable {
        Executable::Memory(fd) => (fd.as_raw_fd(), std::ptr::null()),
        Executable::Path(path) => (-1, path.as_ptr()),
    };
    let mut arguments = ChildArguments {
        executable: fd,
        path,
        argv: argv.as_ptr(),
        envp: envp.as_ptr(),
        socket: socket.as_raw_fd(),
        failed_call: 0,
        errno: 0,
    };
    let mut stack = vec![0_u128; STACK / 16];
    let mut pidfd: libc::c_int = -1;
    // SAFETY: the signal sets are initialized by sigfillset; the stack outlives the child's use of it because of
    // CLONE_VFORK, grows downwards from its end, and is aligned by its element type. Signals are blocked around the call so that no
    // handler of this process runs in the child.
    let (pid, errno) = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut old: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, &raw mut old);
        let pid = libc::clone(
            child,
            stack.as_mut_ptr().add(stack.len()).cast(),
            // No exit signal: the host program's SIGCHLD handler has nothing to do with this child.
            libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD,
            (&raw mut arguments).cast(),
            &raw mut pidfd,
        );
        let errno = *libc::__errno_location();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const old, std::ptr::null_mut());
        (pid, errno)
    };
    drop(stack);
    if pid < 0 {
        return Err(SysError {
            syscall: "clone",
            errno,
            arguments: "CLONE_VM|CLONE_VFORK|CLONE_PIDFD".into(),
        });
    }
    // A kernel before Linux 5.2 has ignored the flag.
    // SAFETY: else it has just made this descriptor for us.
    let pidfd = (pidfd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(pidfd) });
    if arguments.errno != 0 {
        reap(pid);
        let call = CALLS.get(arguments.failed_call as usize).copied().unwrap_or("execveat");
        return Err(SysError {
            syscall: call,
            errno: arguments.errno,
            arguments: "rootfs-supervisor".into(),
        });
    }
    let pidfd = match pidfd
        .filter(|pidfd| !without_pidfds::are_needed() && super::process::is_complete_pidfd(pidfd.as_fd()))
    {
        Some(pidfd) => pidfd,
        None => stand_for(pid).inspect_err(|_| end(pid))?,
    };
    Ok(SupervisorProcess { pid, pidfd })
}

/// Where there are no pidfds a thread waits for the supervisor, and leaves its status to others.
fn stand_for(pid: i32) -> SysResult<OwnedFd> {
    use rustix::event::EventfdFlags;
    without_pidfds::need();
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    let event = rustix::event::eventfd(0, flags).map_err(failed("eventfd", String::new))?;
    let own = rustix::io::fcntl_dupfd_cloexec(&event, 0).map_err(failed("fcntl", String::new))?;
    let thread = std::thread::Builder::new().name("rootfs-wait".into()).stack_size(64 << 10);
    let waiting = thread.spawn(move || {
        without_pidfds::wait_until_ended(pid);
        let _ = rustix::io::write(&own, &1_u64.to_ne_bytes());
    });
    if let Err(error) = waiting {
        let errno = error.raw_os_error().unwrap_or(libc::EAGAIN);
        return Err(SysError { syscall: "clone", errno, arguments: "a thread that waits".into() });
    }
    without_pidfds::remember(pid, &event);
    Ok(event)
}

/// Ends a supervisor that was started in vain.
fn end(pid: i32) {
    // SAFETY: this child has not been waited for, so the number is still its own.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
    }
    reap(pid);
}

/// Takes the exit status of a supervisor that has ended or will at once.
fn reap(pid: i32) {
    // SAFETY: no memory is given to the call; only this very child is waited for, so that the host program's other
    // children are left alone.
    unsafe {
        while libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL) < 0
            && *libc::__errno_location() == libc::EINTR
        {}
    }
}

impl SupervisorProcess {
    /// Takes the exit status if it has ended, without waiting. `false` as long as it lives.
    pub fn reap(&self) -> bool {
        loop {
            // SAFETY: as above.
            let (result, errno) = unsafe {
                let result = libc::waitpid(self.pid, std::ptr::null_mut(), libc::__WALL | libc::WNOHANG);
                (result, *libc::__errno_location())
            };
            // Somebody else, who waits for any child, may have taken the status.
            if result >= 0 || errno != libc::EINTR {
                return result != 0;
            }
        }
    }
}
