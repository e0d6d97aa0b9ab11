//! Processes: making the first one of a container, what it is allowed to be, and executing its command.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::{CapabilitySet, CapabilitySets};

use super::linux::owned;
use super::without_pidfds;
use crate::error::{SysError, SysResult};
use crate::process::{Capabilities, Rlimit};

pub(super) fn last_error(syscall: &'static str, arguments: impl Into<String>) -> SysError {
    let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    SysError { syscall, errno, arguments: arguments.into() }
}

fn check(
    result: libc::c_long,
    syscall: &'static str,
    arguments: impl FnOnce() -> String,
) -> SysResult<libc::c_long> {
    if result < 0 { Err(last_error(syscall, arguments())) } else { Ok(result) }
}

fn word(value: u64) -> libc::c_ulong {
    value
}

/// Which side of a fork this is.
#[derive(Debug)]
pub enum Fork {
    /// The new process.
    Child,
    /// The old one.
    Parent {
        /// The new process's pid.
        pid: i32,
        /// The new process's pidfd.
        pidfd: OwnedFd,
    },
}

/// The namespaces a new process gets, as `CLONE_NEW*` flags, and its cgroup.
#[derive(Clone, Copy, Debug, Default)]
pub struct CloneRequest<'fd> {
    /// `CLONE_NEW*` flags.
    pub namespaces: u64,
    /// The directory of a cgroup v2 group in which it begins.
    pub cgroup: Option<BorrowedFd<'fd>>,
}

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// `clone3(2)` as a fork: the child goes on here with a copy of the memory.
///
/// Refused with `EINVAL` in a process that has more than one thread, because the child could then find a lock that
/// nobody will ever release.
pub fn fork(request: CloneRequest<'_>) -> SysResult<Fork> {
    clone_process(request, 0, libc::SIGCHLD)
}

/// The same for a child of this process's own parent: it tells that one of its end as this process does.
pub fn fork_sibling(request: CloneRequest<'_>) -> SysResult<Fork> {
    clone_process(request, u64::from(libc::CLONE_PARENT.cast_unsigned()), 0)
}

fn clone_process(request: CloneRequest<'_>, flags: u64, exit_signal: libc::c_int) -> SysResult<Fork> {
    // CLONE_THREAD asks the kernel for nothing, but it answers EINVAL when there are other threads.
    unshare(libc::CLONE_THREAD)?;
    let mut pidfd: libc::c_int = -1;
    let with_pidfd = if without_pidfds::are_needed() { 0 } else { libc::CLONE_PIDFD };
    let mut args = CloneArgs {
        flags: flags | request.namespaces | u64::from(with_pidfd.cast_unsigned()),
        pidfd: (&raw mut pidfd).addr() as u64,
        exit_signal: exit_signal.cast_unsigned().into(),
        ..CloneArgs::default()
    };
    if let Some(cgroup) = request.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    // SAFETY: no stack and no CLONE_VM: the child has its own copy of this one's memory, like after fork(2). There is
    // only one thread, checked above, so no lock of the C library is held by another. The struct outlives the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    let pid = match check(pid, "clone3", || format!("{{flags={}}}", clone_flag_names(args.flags))) {
        // Filters that can't look at what the call points to answer that it doesn't exist.
        Err(call) if call.errno == libc::ENOSYS && request.cgroup.is_none() => {
            clone_without_struct(args.flags, &raw mut pidfd)?
        }
        other => other?,
    };
    match pid {
        0 => {
            if without_pidfds::are_needed() {
                without_pidfds::forget_all();
                unblock_signals();
            }
            if BATCH.swap(false, Ordering::Relaxed) {
                schedule(libc::SCHED_OTHER);
            }
            // In a new user namespace it has all.
            if request.namespaces & u64::from(libc::CLONE_NEWUSER.cast_unsigned()) != 0 {
                NARROWED.store(0, Ordering::Relaxed);
            }
            widen_capabilities();
            Ok(Fork::Child)
        }
        pid => {
            let pid = i32::try_from(pid).unwrap_or(-1);
            if without_pidfds::are_needed() {
                let pidfd = without_pidfds::stand_for(pid).inspect_err(|_| end_child(pid))?;
                return Ok(Fork::Parent { pid, pidfd });
            }
            if pidfd < 0 {
                // A kernel before Linux 5.2 has ignored the flag.
                end_child(pid);
                return Err(no_pidfds());
            }
            Ok(Fork::Parent { pid, pidfd: owned(pidfd.into()) })
        }
    }
}

/// What a kernel without them says about pidfds.
pub fn no_pidfds() -> SysError {
    SysError { syscall: "clone", errno: libc::ENOSYS, arguments: "CLONE_PIDFD: pidfds need Linux 5.4".into() }
}

/// Whether the processes of pidfds can be waited for, which came last of what is needed of them: Linux 5.4.
pub fn can_wait_for_pidfds(pidfd: BorrowedFd<'_>) -> bool {
    use rustix::process::{WaitId, WaitIdOptions};
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let waited = rustix::process::waitid(WaitId::PidFd(pidfd), options);
    !matches!(waited, Err(rustix::io::Errno::INVAL))
}

/// Whether a child's pidfd can be used for all that is done with one.
pub(super) fn is_complete_pidfd(pidfd: BorrowedFd<'_>) -> bool {
    let refused = |call: SysError| [libc::ENOSYS, libc::EPERM].contains(&call.errno);
    can_wait_for_pidfds(pidfd) && !send_signal(pidfd, 0, Target::Process).is_err_and(refused)
}

/// `clone(2)`, which clone3 is the newer form of. The order of its arguments is not the same everywhere.
fn clone_without_struct(flags: u64, pidfd: *mut libc::c_int) -> SysResult<libc::c_long> {
    let flags = flags | u64::from(libc::SIGCHLD.cast_unsigned());
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: as with clone3 above: no stack and no CLONE_VM. The kernel writes the pidfd where it is told.
    let pid = unsafe {
        if cfg!(target_arch = "s390x") {
            libc::syscall(libc::SYS_clone, none, flags, pidfd, none, none)
        } else {
            libc::syscall(libc::SYS_clone, flags, none, pidfd, none, none)
        }
    };
    check(pid, "clone", || format!("flags={flags:#x}"))
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Whether this process has given up the right to interrupt others. Its children have it again.
static BATCH: AtomicBool = AtomicBool::new(false);

/// Has this process, when it is woken, not interrupt what runs on the processor, unless the caller chose a policy of his
/// own; `sched(7)`. Its children are scheduled as before.
pub fn do_not_interrupt() {
    // SAFETY: takes no memory. As a system call, because musl's function refuses.
    let ordinary =
        unsafe { libc::syscall(libc::SYS_sched_getscheduler, 0) } == libc::c_long::from(libc::SCHED_OTHER);
    BATCH.store(ordinary && schedule(libc::SCHED_BATCH), Ordering::Relaxed);
}

fn schedule(policy: libc::c_int) -> bool {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameters outlive the call.
    unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, policy, &raw const parameters) == 0 }
}

/// Flags as strace prints them.
fn clone_flag_names(flags: u64) -> String {
    const NAMES: [(libc::c_int, &str); 8] = [
        (libc::CLONE_PIDFD, "CLONE_PIDFD"),
        (libc::CLONE_NEWUSER, "CLONE_NEWUSER"),
        (libc::CLONE_NEWNS, "CLONE_NEWNS"),
        (libc::CLONE_NEWPID, "CLONE_NEWPID"),
        (libc::CLONE_NEWIPC, "CLONE_NEWIPC"),
        (libc::CLONE_NEWUTS, "CLONE_NEWUTS"),
        (libc::CLONE_NEWCGROUP, "CLONE_NEWCGROUP"),
        (libc::CLONE_NEWNET, "CLONE_NEWNET"),
    ];
    let mut left = flags;
    let mut names = Vec::new();
    let known = NAMES.iter().map(|(flag, name)| (u64::from(flag.cast_unsigned()), *name));
    for (flag, name) in known.chain([(CLONE_INTO_CGROUP, "CLONE_INTO_CGROUP")]) {
        if left & flag != 0 {
            left &= !flag;
            names.push(name.to_owned());
        }
    }
    if left != 0 || names.is_empty() {
        names.push(format!("{left:#x}"));
    }
    names.join("|")
}

/// A pidfd of this process; `pidfd_open(2)`.
pub fn pidfd_of_self() -> SysResult<OwnedFd> {
    // SAFETY: takes no memory.
    pidfd_of(unsafe { libc::getpid() })
}

/// A pidfd of a child that nobody has waited for yet: its number can't belong to anybody else; `pidfd_open(2)`.
pub fn pidfd_of_child(pid: i32) -> SysResult<OwnedFd> {
    pidfd_of(pid)
}

fn pidfd_of(pid: i32) -> SysResult<OwnedFd> {
    // SAFETY: takes no memory.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    check(fd, "pidfd_open", || pid.to_string()).map(owned)
}

/// The mount namespace of a process, since Linux 6.11; `PIDFD_GET_MNT_NAMESPACE` of `ioctl_pidfd(2)`.
pub fn mount_namespace_of(pidfd: BorrowedFd<'_>) -> SysResult<OwnedFd> {
    const PIDFD_GET_MNT_NAMESPACE: libc::Ioctl = 0xff03;
    // SAFETY: this request takes no argument and returns a descriptor.
    let fd = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_MNT_NAMESPACE, 0) };
    check(fd.into(), "ioctl", || "PIDFD_GET_MNT_NAMESPACE".into()).map(owned)
}

/// Lets others run that wait for this processor; `sched_yield(2)`.
pub fn yield_processor() {
    // SAFETY: takes no memory, and can't fail.
    unsafe {
        libc::sched_yield();
    }
}

/// `unshare(2)`.
pub fn unshare(flags: libc::c_int) -> SysResult<()> {
    // SAFETY: takes no memory.
    check(unsafe { libc::unshare(flags) }.into(), "unshare", || {
        clone_flag_names(u64::from(flags.cast_unsigned()))
    })
    .map(drop)
}

/// Joins the namespace of a descriptor, or those of a pidfd's process; `setns(2)`.
pub fn set_namespace(fd: BorrowedFd<'_>, kind: libc::c_int) -> SysResult<()> {
    // SAFETY: takes no memory.
    check(unsafe { libc::setns(fd.as_raw_fd(), kind) }.into(), "setns", || {
        format!("{}, {}", fd.as_raw_fd(), clone_flag_names(u64::from(kind.cast_unsigned())))
    })
    .map(drop)
}

fn prctl(option: libc::c_int, argument: u64, name: &'static str) -> SysResult<libc::c_long> {
    // SAFETY: only options whose arguments are numbers are used with this.
    let result = unsafe { libc::prctl(option, word(argument), 0_u64, 0_u64, 0_u64) };
    check(result.into(), "prctl", || format!("{name}, {argument}"))
}

/// Whether others may look into this process; `PR_SET_DUMPABLE(2const)`.
pub fn set_dumpable(dumpable: bool) -> SysResult<()> {
    prctl(libc::PR_SET_DUMPABLE, dumpable.into(), "PR_SET_DUMPABLE").map(drop)
}

/// Has the kernel kill this process when its parent ends; `PR_SET_PDEATHSIG(2const)`. A change of ids, or the execution of
/// a set-user-ID program, undoes it.
pub fn die_with_parent() -> SysResult<()> {
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL.cast_unsigned().into(), "PR_SET_PDEATHSIG").map(drop)
}

/// Makes orphans of descendants children of this process; `PR_SET_CHILD_SUBREAPER(2const)`.
pub fn become_subreaper() -> SysResult<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, 1, "PR_SET_CHILD_SUBREAPER").map(drop)
}

/// Gives this process a session keyring of its own, empty and without a name: the caller's holds keys that are not for its
/// container; `session-keyring(7)`. Where there are no keys, or a filter hides them, there is nothing to be kept from it.
pub fn new_session_keyring() -> SysResult<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: no name, so no memory is read.
    let keyring = unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>())
    };
    match check(keyring, "keyctl", || "KEYCTL_JOIN_SESSION_KEYRING, NULL".into()) {
        Err(call) if call.errno == libc::ENOSYS || call.errno == libc::EPERM => Ok(()),
        other => other.map(drop),
    }
}

/// `PR_SET_NO_NEW_PRIVS(2const)`.
pub fn set_no_new_privileges() -> SysResult<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, "PR_SET_NO_NEW_PRIVS").map(drop)
}

/// The name in /proc/PID/comm.
pub fn set_name(name: &std::ffi::CStr) {
    // SAFETY: the name is NUL-terminated; the kernel takes at most 16 bytes.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, name.as_ptr());
    }
}

/// Keeps capabilities when the user id changes from root; undone by `execve`.
fn keep_capabilities() -> SysResult<()> {
    prctl(libc::PR_SET_KEEPCAPS, 1, "PR_SET_KEEPCAPS").map(drop)
}

/// A new session, so that nobody can type into the caller's terminal; `setsid(2)`.
pub fn new_session() -> SysResult<()> {
    // SAFETY: takes no memory.
    check(unsafe { libc::setsid() }.into(), "setsid", String::new).map(drop)
}

/// `SIG_DFL`, without flags, restorer and mask, as the kernel has an action.
const DEFAULT_ACTION: [u64; 4] = [0; 4];

/// Signal handlers and the signal mask as a new program expects them.
pub fn reset_signals() {
    // SAFETY: the sets and actions are initialized before they are read.
    unsafe {
        for signal in 1..65 {
            // As a system call: the C library keeps some signals for itself, which the caller can have ignored all the same.
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                DEFAULT_ACTION.as_ptr(),
                std::ptr::null_mut::<u64>(),
                size_of::<u64>(),
            );
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// A descriptor that is readable when a child has ended; `signalfd(2)`.
pub fn child_signals() -> SysResult<OwnedFd> {
    // SAFETY: the set is initialized before it is read.
    let fd = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    check(fd.into(), "signalfd", String::new).map(owned)
}

/// Takes the signals that have come.
pub fn drain_signals(signals: &OwnedFd) {
    let mut information = [0_u8; 1024];
    while rustix::io::read(signals, &mut information).is_ok_and(|count| count > 0) {}
}

/// Closes every descriptor from `first` on but the ones to keep, which must be sorted; `close_range(2)`.
pub fn close_all_but(first: i32, keep: &[i32]) {
    let mut from = first;
    for fd in keep.iter().copied().filter(|fd| *fd >= first) {
        if fd > from {
            close_range(from, fd - 1);
        }
        from = fd + 1;
    }
    close_range(from, i32::MAX);
}

/// Closes descriptors, those with consecutive numbers in one call.
pub fn close_all(fds: impl Iterator<Item = OwnedFd>) {
    let mut numbers: Vec<i32> = fds.map(IntoRawFd::into_raw_fd).collect();
    numbers.sort_unstable();
    for range in numbers.chunk_by(|one, next| one + 1 == *next) {
        close_range(range[0], range[range.len() - 1]);
    }
}

/// Whether descriptors can be closed all at once. Else each child closes as many as there may be, one after the other.
pub fn can_close_ranges() -> bool {
    // SAFETY: no descriptor has this number.
    unsafe { libc::syscall(libc::SYS_close_range, u32::MAX, u32::MAX, 0) == 0 }
}

fn close_range(from: i32, to: i32) {
    // SAFETY: the descriptors in this range belong to nobody: the caller has named all that are still used.
    let result = unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) };
    if result < 0 {
        // Before Linux 5.9, or where it is refused: one after the other, as far as the limit lets there be any.
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: as above; the struct outlives the call.
        unsafe {
            libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
            let end = i32::try_from(limit.rlim_cur.min(1 << 20)).unwrap_or(1 << 20);
            for fd in from..=to.min(end) {
                libc::close(fd);
            }
        }
    }
}

/// Makes a descriptor available as another number, which stays open across `execve`.
pub fn duplicate_to(fd: BorrowedFd<'_>, number: i32) -> SysResult<()> {
    let result = if fd.as_raw_fd() == number {
        // SAFETY: takes no memory.
        unsafe { libc::fcntl(number, libc::F_SETFD, 0) }
    } else {
        // SAFETY: the target number is a command's, who is executed next: nothing here owns it any more.
        unsafe { libc::dup2(fd.as_raw_fd(), number) }
    };
    check(result.into(), "dup2", || format!("{}, {number}", fd.as_raw_fd())).map(drop)
}

/// Drops all supplementary groups and sets others.
pub fn set_groups(groups: &[u32]) -> SysResult<()> {
    // SAFETY: the slice outlives the call, which is told its length. The raw call changes this one thread, and there
    // is only one.
    let result = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    check(result, "setgroups", || format!("{groups:?}")).map(drop)
}

/// Sets all group ids.
pub fn set_gid(gid: u32) -> SysResult<()> {
    // SAFETY: takes no memory.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) }, "setresgid", || gid.to_string())
        .map(drop)
}

/// Sets all user ids.
pub fn set_uid(uid: u32) -> SysResult<()> {
    // SAFETY: takes no memory.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }, "setresuid", || uid.to_string())
        .map(drop)
}

/// Sets the file mode creation mask.
pub fn set_umask(mask: u32) {
    // SAFETY: takes no memory and can't fail.
    unsafe {
        libc::umask(mask);
    }
}

fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> SysResult<()> {
    let [effective, permitted, inheritable] =
        [effective, permitted, inheritable].map(CapabilitySet::from_bits_retain);
    set_capability_sets(CapabilitySets { effective, permitted, inheritable })
}

fn set_capability_sets(sets: CapabilitySets) -> SysResult<()> {
    rustix::thread::set_capabilities(None, sets).map_err(|errno| {
        let (effective, permitted) = (sets.effective.bits(), sets.permitted.bits());
        SysError::new("capset", errno, format!("effective={effective:#x}, permitted={permitted:#x}"))
    })
}

fn capability_sets() -> SysResult<CapabilitySets> {
    rustix::thread::capabilities(None).map_err(|errno| SysError::new("capget", errno, ""))
}

/// The capabilities in force and permitted.
pub fn own_capabilities() -> SysResult<(u64, u64)> {
    capability_sets().map(|sets| (sets.effective.bits(), sets.permitted.bits()))
}

/// The capabilities that this process has put out of force, for as long as it forks no child.
static NARROWED: AtomicU64 = AtomicU64::new(0);

/// Puts all capabilities but these out of force in this process. Its children begin with what it had, because that is what
/// containers are made with and may be given.
pub fn narrow_capabilities(needed: CapabilitySet) -> SysResult<()> {
    let sets = capability_sets()?;
    let narrowed = sets.effective.difference(needed);
    if narrowed.is_empty() {
        return Ok(());
    }
    set_capability_sets(CapabilitySets { effective: sets.effective.intersection(needed), ..sets })?;
    NARROWED.store(narrowed.bits(), Ordering::Relaxed);
    Ok(())
}

/// Puts in force again what this process, or the one that it is a copy of, had put out of force.
fn widen_capabilities() {
    let narrowed = CapabilitySet::from_bits_retain(NARROWED.swap(0, Ordering::Relaxed));
    if !narrowed.is_empty()
        && let Ok(sets) = capability_sets()
    {
        let effective = sets.effective.union(narrowed.intersection(sets.permitted));
        let _ = set_capability_sets(CapabilitySets { effective, ..sets });
    }
}

/// Does the work of a child with a child's capabilities, also in a process that has put some out of force.
pub fn as_child<T>(work: impl FnOnce() -> T) -> T {
    let narrowed = NARROWED.load(Ordering::Relaxed);
    widen_capabilities();
    let done = work();
    if narrowed != 0 {
        let _ = narrow_capabilities(CapabilitySet::from_bits_retain(!narrowed));
    }
    done
}

/// Has the kernel refuse to make memory of this process executable, but not of its children, which execute programs;
/// `PR_SET_MDWE`, Linux 6.6. Before, nothing happens.
pub fn refuse_executable_memory() {
    let flags = libc::PR_MDWE_REFUSE_EXEC_GAIN | libc::PR_MDWE_NO_INHERIT;
    // SAFETY: the arguments are numbers.
    unsafe { libc::prctl(libc::PR_SET_MDWE, u64::from(flags), 0_u64, 0_u64, 0_u64) };
}

/// Whether the children of this process begin with a capability in force.
pub fn children_have_capability(number: u32) -> bool {
    let narrowed = NARROWED.load(Ordering::Relaxed);
    own_capabilities().is_ok_and(|(effective, _)| (effective | narrowed) & 1 << number != 0)
}

/// Whether this process has a capability in force.
pub fn has_capability(number: u32) -> bool {
    own_capabilities().is_ok_and(|(effective, _)| effective & 1 << number != 0)
}

/// Does something in whose course files are made, which belong to these ids from the beginning: to give a file away by its
/// name afterwards could be to give another one away that was put in its place; `setfsuid(2)`. All other rights stay.
pub fn making_files_of<T>(user: u32, group: u32, work: impl FnOnce() -> T) -> SysResult<T> {
    let (_, permitted) = own_capabilities()?;
    // SAFETY: takes no memory, and returns the id that was in force.
    let (own_user, own_group) = unsafe { (libc::setfsuid(u32::MAX), libc::setfsgid(u32::MAX)) };
    let set = |user: u32, group: u32| {
        // SAFETY: as above; an id that can't be set leaves things as they are.
        let now = unsafe {
            libc::setfsgid(group);
            libc::setfsuid(user);
            (libc::setfsuid(u32::MAX), libc::setfsgid(u32::MAX))
        };
        if (now.0.cast_unsigned(), now.1.cast_unsigned()) == (user, group) {
            return Ok(());
        }
        Err(SysError { syscall: "setfsuid", errno: libc::EPERM, arguments: format!("{user}, {group}") })
    };
    let restore = || set(own_user.cast_unsigned(), own_group.cast_unsigned());
    // To become another takes away the rights over files of others.
    let done = set(user, group).and_then(|()| set_capabilities(permitted, permitted, 0)).map(|()| work());
    restore()?;
    set_capabilities(permitted, permitted, 0)?;
    set_dumpable(false)?;
    done
}

/// The number of `CAP_SYS_ADMIN`.
pub const CAP_SYS_ADMIN: u32 = 21;
/// The number of `CAP_SETGID`.
pub const CAP_SETGID: u32 = 6;
/// The number of `CAP_SETUID`.
pub const CAP_SETUID: u32 = 7;
/// The number of `CAP_SYS_CHROOT`.
pub const CAP_SYS_CHROOT: u32 = 18;
const CAP_SETPCAP: u32 = 8;

/// What this process's bounding set may still have. Each capability is a call, so what is known to be gone isn't dropped
/// again.
static BOUNDING: AtomicU64 = AtomicU64::new(u64::MAX);

/// Gives up what is not in the bounding set. Stops at the first number the kernel doesn't know.
fn limit_bounding_set(keep: u64) -> SysResult<()> {
    let surplus = BOUNDING.load(Ordering::Relaxed) & !keep;
    for number in (0..64_u32).filter(|number| surplus & 1 << number != 0) {
        match prctl(libc::PR_CAPBSET_DROP, number.into(), "PR_CAPBSET_DROP") {
            Err(call) if call.errno == libc::EINVAL => break,
            other => other?,
        };
    }
    BOUNDING.fetch_and(keep, Ordering::Relaxed);
    Ok(())
}

/// Limits the bounding set ahead of [`become_user`], where that is allowed. What this process itself may do stays.
pub fn limit_bounding_set_ahead(keep: u64) {
    if own_capabilities().is_ok_and(|(effective, _)| effective & 1 << CAP_SETPCAP != 0) {
        // What can't be dropped now gives its error when it has to be.
        let _ = limit_bounding_set(keep);
    }
}

/// Becomes a user with these capabilities and no others, in the order the kernel demands.
///
/// `groups` is `None` where the user namespace forbids `setgroups`.
pub fn become_user(uid: u32, gid: u32, groups: Option<&[u32]>, capabilities: Capabilities) -> SysResult<()> {
    let (_, permitted) = own_capabilities()?;
    if permitted & 1 << CAP_SETPCAP != 0 {
        limit_bounding_set(capabilities.bounding)?;
    }
    if let Some(groups) = groups {
        set_groups(groups)?;
    }
    set_gid(gid)?;
    if uid != 0 {
        keep_capabilities()?;
    }
    set_uid(uid)?;
    set_capabilities(capabilities.effective, capabilities.permitted, capabilities.inheritable)?;
    // SAFETY: the arguments are numbers.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0_u64, 0_u64, 0_u64) };
    for number in (0..64_u64).filter(|number| capabilities.ambient & 1 << number != 0) {
        // SAFETY: the arguments are numbers.
        let result = unsafe {
            libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, word(number), 0_u64, 0_u64)
        };
        check(result.into(), "prctl", || format!("PR_CAP_AMBIENT_RAISE, {number}"))?;
    }
    Ok(())
}

/// Sets a resource limit.
pub fn set_rlimit(limit: Rlimit) -> SysResult<()> {
    let value = libc::rlimit { rlim_cur: limit.soft, rlim_max: limit.hard };
    // SAFETY: the struct outlives the call.
    let result = unsafe { libc::setrlimit(limit.resource, &raw const value) };
    check(result.into(), "setrlimit", || format!("{}, {}, {}", limit.resource, limit.soft, limit.hard))
        .map(drop)
}

/// The soft and hard limit of a resource.
pub fn rlimit(resource: u32) -> SysResult<Rlimit> {
    let mut value = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct outlives the call.
    let result = unsafe { libc::getrlimit(resource, &raw mut value) };
    check(result.into(), "getrlimit", || resource.to_string())?;
    Ok(Rlimit { resource, soft: value.rlim_cur, hard: value.rlim_max })
}

/// One instruction of a filter as [`set_seccomp_filter`] takes it: a `struct sock_filter`.
pub fn filter_instruction(code: u32, skip_if_true: u8, skip_if_false: u8, value: u32) -> [u8; 8] {
    let code = u16::try_from(code).unwrap_or_default().to_ne_bytes();
    let value = value.to_ne_bytes();
    [code[0], code[1], skip_if_true, skip_if_false, value[0], value[1], value[2], value[3]]
}

/// Installs a compiled classic-BPF seccomp filter; `seccomp(2)`.
pub fn set_seccomp_filter(filter: &[u8]) -> SysResult<()> {
    if filter.is_empty() || !filter.len().is_multiple_of(8) || filter.len() / 8 > usize::from(u16::MAX) {
        return Err(SysError {
            syscall: "seccomp",
            errno: libc::EINVAL,
            arguments: "length of the filter".into(),
        });
    }
    let instructions: Vec<libc::sock_filter> = filter
        .chunks_exact(8)
        .map(|bytes| libc::sock_filter {
            code: u16::from_ne_bytes([bytes[0], bytes[1]]),
            jt: bytes[2],
            jf: bytes[3],
            k: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        })
        .collect();
    let program = libc::sock_fprog {
        len: u16::try_from(instructions.len()).unwrap_or(u16::MAX),
        filter: instructions.as_ptr().cast_mut(),
    };
    // SAFETY: the program and its instructions outlive the call.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0_u32, &raw const program) };
    check(result, "seccomp", || "SECCOMP_SET_MODE_FILTER".into()).map(drop)
}

/// Replaces this program. Returns only when that failed.
pub fn execute(path: &CString, args: &[CString], env: &[CString]) -> SysError {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|item| item.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(args), pointers(env));
    // SAFETY: both arrays end with a null pointer and outlive the call, and so do the strings they point to.
    unsafe {
        libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr());
    }
    last_error("execve", format!("{path:?}"))
}

/// Ends this process at once: no destructor, no buffer, nothing that a fork has copied is touched.
pub fn exit(status: i32) -> ! {
    // SAFETY: takes no memory and never returns.
    unsafe { libc::_exit(status) }
}

/// Brings up the loopback device of this network namespace.
pub fn loopback_up() -> SysResult<()> {
    #[expect(clippy::cast_possible_truncation, reason = "the low bits")]
    const UP: i16 = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: takes no memory.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    let socket = owned(check(socket.into(), "socket", || "AF_INET".into())?);
    // SAFETY: an all-zero ifreq is valid; its name is NUL-terminated; it outlives the calls.
    let result = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = (*from).cast_signed();
        }
        request.ifr_ifru.ifru_flags = UP;
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request)
    };
    check(result.into(), "ioctl", || "SIOCSIFFLAGS, lo".into()).map(drop)
}

/// Takes over a descriptor that this program was started with; `None` if it isn't open.
pub fn inherited(number: i32) -> Option<OwnedFd> {
    // SAFETY: takes no memory.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return None;
    }
    let fd = owned(number.into());
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC).ok()?;
    Some(fd)
}

/// Unblocks all signals: what a new program expects.
pub fn unblock_signals() {
    // SAFETY: the set is initialized before it is read.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// The kind of the namespace that a file stands for, as its `CLONE_NEW*` flag; `NS_GET_NSTYPE` of `ioctl_nsfs(2)`.
pub fn namespace_type(file: BorrowedFd<'_>) -> SysResult<libc::c_int> {
    const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
    // SAFETY: this request takes no argument.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) };
    check(kind.into(), "ioctl", || "NS_GET_NSTYPE".into()).map(|_| kind)
}

/// `CLONE_NEW*` flags, for callers without the C library's names.
pub mod namespaces {
    /// Users.
    pub const USER: i32 = libc::CLONE_NEWUSER;
    /// Mounts.
    pub const MOUNT: i32 = libc::CLONE_NEWNS;
    /// Processes.
    pub const PID: i32 = libc::CLONE_NEWPID;
    /// System V IPC and message queues.
    pub const IPC: i32 = libc::CLONE_NEWIPC;
    /// Host names.
    pub const UTS: i32 = libc::CLONE_NEWUTS;
    /// cgroups.
    pub const CGROUP: i32 = libc::CLONE_NEWCGROUP;
    /// Network.
    pub const NETWORK: i32 = libc::CLONE_NEWNET;
}

/// How a child has ended.
pub fn wait_for(pidfd: BorrowedFd<'_>) -> SysResult<crate::protocol::Exit> {
    use rustix::process::{WaitId, WaitIdOptions};
    if without_pidfds::are_needed() {
        let pid = without_pidfds::pid_of(pidfd)?;
        let status = wait_for_pid(pid)?;
        without_pidfds::forget(pidfd);
        return Ok(exit_of_status(status));
    }
    loop {
        match rustix::process::waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED) {
            Ok(status) => return Ok(exit_of(status.as_ref())),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(super::linux::failed("waitid", || "P_PIDFD".into())(errno)),
        }
    }
}

/// Waits until a child has ended, and leaves it as it is: as long as nobody has taken its status, its number belongs to
/// nobody else.
pub fn wait_until_ended(pidfd: BorrowedFd<'_>) {
    use rustix::process::{WaitId, WaitIdOptions};
    if without_pidfds::are_needed() {
        if let Ok(pid) = without_pidfds::pid_of(pidfd) {
            without_pidfds::wait_until_ended(pid);
        }
        return;
    }
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while matches!(rustix::process::waitid(WaitId::PidFd(pidfd), options), Err(rustix::io::Errno::INTR)) {}
}

/// Waits until a child has ended, and leaves it as it is. `false` when the time was over first.
pub fn wait_until_ended_within(pidfd: BorrowedFd<'_>, patience: Option<Duration>) -> bool {
    if !without_pidfds::are_needed() {
        return is_readable_within(pidfd, patience);
    }
    let deadline = patience.map(|patience| Instant::now() + patience);
    loop {
        // Nobody tells: whoever asks looks.
        match without_pidfds::pid_of(pidfd) {
            Ok(pid) if !without_pidfds::has_child_ended(pid) => {}
            _ => return true,
        }
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until there is something to read, or an end. `false` when the time was over first.
pub fn is_readable_within(fd: BorrowedFd<'_>, patience: Option<Duration>) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec};
    let deadline = patience.map(|patience| Instant::now() + patience);
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], left.as_ref()) {
            Ok(0) => return false,
            Err(rustix::io::Errno::INTR) => {}
            Ok(_) | Err(_) => return true,
        }
    }
}

fn wait_for_pid(pid: i32) -> SysResult<libc::c_int> {
    let mut status = 0;
    loop {
        // SAFETY: the status outlives the call.
        if unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) } >= 0 {
            return Ok(status);
        }
        let call = last_error("waitpid", pid.to_string());
        if !call.is(nix::errno::Errno::EINTR) {
            return Err(call);
        }
    }
}

fn exit_of_status(status: libc::c_int) -> crate::protocol::Exit {
    if libc::WIFSIGNALED(status) {
        crate::protocol::Exit::Signal(libc::WTERMSIG(status))
    } else {
        crate::protocol::Exit::Code(libc::WEXITSTATUS(status))
    }
}

fn exit_of(status: Option<&rustix::process::WaitIdStatus>) -> crate::protocol::Exit {
    use crate::protocol::Exit;
    match status {
        Some(status) => match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, Some(signal)) => Exit::Signal(signal),
            (None, None) => Exit::Code(255),
        },
        None => Exit::Code(255),
    }
}

/// Takes the status of any child that has ended, without waiting: its pid, and how it ended.
///
/// `before` is called with its number as long as that is still its own.
pub fn reap_any(before: impl FnOnce(i32)) -> Option<(i32, crate::protocol::Exit)> {
    let mut information = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the struct outlives the call, and is zero where the call leaves it alone: then no child has ended.
    let pid = unsafe {
        if libc::waitid(libc::P_ALL, 0, information.as_mut_ptr(), flags) != 0 {
            return None;
        }
        information.assume_init().si_pid()
    };
    if pid == 0 {
        return None;
    }
    before(pid);
    let mut status = 0;
    // SAFETY: the status outlives the call.
    let pid = unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) };
    if pid <= 0 {
        return None;
    }
    Some((pid, exit_of_status(status)))
}

/// Whether the process of a pidfd has ended.
pub fn has_ended(pidfd: BorrowedFd<'_>) -> SysResult<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec};
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&now))
        .map(|ready| ready > 0)
        .map_err(super::linux::failed("poll", || pidfd.as_raw_fd().to_string()))
}

/// Gives up what this process could still become: the real and the saved ids become the effective ones, and with the
/// last id of root go the capabilities; `credentials(7)`, `capabilities(7)`.
pub fn keep_effective_ids_only() -> SysResult<()> {
    let (mut ids, mut groups) = ([0; 3], [0; 3]);
    // SAFETY: the arrays outlive the calls, which can't fail.
    unsafe {
        let [real, effective, saved] = &mut ids;
        libc::getresuid(real, effective, saved);
        let [real, effective, saved] = &mut groups;
        libc::getresgid(real, effective, saved);
    }
    // Those that are the same already may have no name in this user namespace. Groups first, as long as that is allowed.
    if groups != [groups[1]; 3] {
        set_gid(groups[1])?;
    }
    if ids != [ids[1]; 3] {
        set_uid(ids[1])?;
    }
    Ok(())
}

/// Who gets a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The process.
    Process,
    /// Its process group, also when the process itself is gone; since Linux 6.9, `EINVAL` before.
    Group,
}

/// Sends any signal, also a real-time one, or with 0 none; `pidfd_send_signal(2)`.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32, target: Target) -> SysResult<()> {
    const PIDFD_SIGNAL_PROCESS_GROUP: libc::c_uint = 1 << 2;
    if without_pidfds::are_needed() {
        return signal_by_number(pidfd, signal, target);
    }
    let flags = if target == Target::Group { PIDFD_SIGNAL_PROCESS_GROUP } else { 0 };
    let no_information = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: without information about the signal, the kernel makes it, and no memory is given to the call.
    let result = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, no_information, flags)
    };
    check(result, "pidfd_send_signal", || format!("{signal}, {target:?}")).map(drop)
}

fn signal_by_number(handle: BorrowedFd<'_>, signal: i32, target: Target) -> SysResult<()> {
    let fail = |errno| SysError { syscall: "kill", errno, arguments: format!("{signal}, {target:?}") };
    let pid = without_pidfds::pid_of(handle)?;
    if target == Target::Group {
        // As long as a group has members its number belongs to no new process. One that has the number is the leader, or
        // somebody else: whoever is the leader's parent knows.
        if pid <= 1 || exists(pid) {
            return Err(fail(libc::ENOSYS));
        }
        // SAFETY: takes no memory.
        let result = unsafe { libc::kill(-pid, signal) };
        return check(result.into(), "kill", || format!("-{pid}, {signal}")).map(drop);
    }
    if pid <= 1 || has_ended(handle)? {
        return Err(fail(libc::ESRCH));
    }
    // SAFETY: takes no memory.
    let result = unsafe { libc::kill(pid, signal) };
    check(result.into(), "kill", || format!("{pid}, {signal}")).map(drop)
}

/// Sends a signal to a process group; one that is gone is no error. Its leader must not have been waited for: its number
/// could belong to somebody else by then.
pub fn signal_group(leader: i32, signal: i32) {
    if leader > 1 {
        // SAFETY: takes no memory.
        unsafe {
            libc::kill(-leader, signal);
        }
    }
}

/// Whether there is a process with this number.
pub fn exists(pid: i32) -> bool {
    // SAFETY: takes no memory.
    pid > 0 && (unsafe { libc::kill(pid, 0) } == 0 || last_error("kill", "").errno == libc::EPERM)
}

/// Kills a process group, see [`signal_group`].
pub fn kill_group(leader: i32) {
    signal_group(leader, libc::SIGKILL);
}

/// Waits for any child and takes its status. `false` if there is no child left.
pub fn reap_next() -> bool {
    loop {
        // SAFETY: takes no memory.
        if unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) } > 0 {
            return true;
        }
        if std::io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return false;
        }
    }
}

/// Kills the process group that a process leads, also when it is gone.
pub fn kill_group_of(pidfd: BorrowedFd<'_>, pid: i32) {
    let refused = send_signal(pidfd, libc::SIGKILL, Target::Group);
    if refused.is_err_and(|call| [libc::EINVAL, libc::ENOSYS].contains(&call.errno)) && pid > 1 {
        // Before Linux 6.9. As long as a group has members its number belongs to no new process: one that has the number
        // now is either the leader himself, or somebody else's.
        let leads = send_signal(pidfd, 0, Target::Process).is_ok();
        if leads || !exists(pid) {
            kill_group(pid);
        }
    }
}

/// The pid of this process's parent; zero if that is in another pid namespace.
pub fn parent_pid() -> i32 {
    // SAFETY: takes no memory, and can't fail.
    unsafe { libc::getppid() }
}

/// Kills a child that nobody has waited for yet: its number can't belong to anybody else.
pub fn kill_child(pid: i32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// The same, and waits for its end.
pub fn end_child(pid: i32) {
    kill_child(pid);
    let _ = wait_for_pid(pid);
}

/// Kills the process of a pidfd.
pub fn kill(pidfd: BorrowedFd<'_>) {
    let _ = send_signal(pidfd, libc::SIGKILL, Target::Process);
}

/// Has the kernel map all of this program's memory now. After a fork each page would otherwise be mapped, and copied,
/// when it is first touched, which takes half a microsecond to a microsecond each; `madvise(2)`, `MADV_POPULATE_READ`.
/// A hint: what can't be done is left to later.
#[expect(
    clippy::disallowed_methods,
    reason = "our own memory map, for a hint to the kernel that has no other effect"
)]
pub fn touch_memory() {
    // Room at the end of the heap is touched by using it. Less than the C library gives back at once.
    drop(std::hint::black_box([vec![1_u8; 48 << 10], vec![1_u8; 48 << 10]]));
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let Ok(maps) = rustix::fs::open(c"/proc/self/maps", flags, rustix::fs::Mode::empty()) else { return };
    let Ok(text) = super::linux::read_to_end(maps.as_fd()) else { return };
    for line in String::from_utf8_lossy(&text).lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(range), Some(rights)) = (words.next(), words.next()) else { continue };
        let Some((Ok(from), Ok(to))) = range
            .split_once('-')
            .map(|(from, to)| (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16)))
        else {
            continue;
        };
        let advice = if rights.starts_with("rw") { MADV_POPULATE_WRITE } else { MADV_POPULATE_READ };
        let from = super::holder::ready_part(from, to);
        // SAFETY: this advice changes no content. A range that is gone, or special, is refused.
        unsafe {
            libc::madvise(std::ptr::without_provenance_mut(from), to.saturating_sub(from), advice);
        }
    }
}

const MADV_POPULATE_READ: libc::c_int = 22;
const MADV_POPULATE_WRITE: libc::c_int = 23;
