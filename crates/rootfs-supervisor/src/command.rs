//! The last things a process does before it becomes its command, in the order that matters.

use std::ffi::{CString, OsStr};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rootfs::Hint;
use rootfs::error::{CallContext, Error, ErrorCode, Result, SysError};
use rootfs::kernel::{holder, process};
use rootfs::path::PathBytes;
use rootfs::process::{ProcessSpec, RLIMITS, Rlimit, User};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::unexecutable::why_not_executed;

/// The umask that OCI runtimes give.
const UMASK: u32 = 0o022;

/// Whether groups can be set: not where the user namespace maps one id and denies it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Groups {
    /// They can.
    Allowed,
    /// `setgroups` is denied; the process keeps those of the caller, which have no name in the container.
    Denied,
}

/// Whose end is that of the command too, whatever it is allowed to do: it may have become another user.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Parent {
    /// A process of another pid namespace, at the other end of the last report.
    Connected,
    /// The process with this pid.
    Process(i32),
    /// The first process of its pid namespace, with which the kernel ends all others.
    Init,
}

/// Becomes the command. Returns only when that failed. `reports` are kept until the execution closes them; all other
/// descriptors are closed, so their owners must never be dropped in this process.
///
/// The streams are the standard three, then one for each of `process.descriptors`.
pub(crate) fn become_command(
    process: &ProcessSpec,
    streams: &[BorrowedFd<'_>],
    reports: &[BorrowedFd<'_>],
    groups: Groups,
    parent: Parent,
) -> Box<Error> {
    let mut moved = Vec::new();
    let error = match prepare(process, streams, reports, &mut moved, (groups, parent)) {
        Ok(prepared) => prepared.execute(process),
        Err(error) => error,
    };
    // The failure is reported where the reports were.
    for (report, place) in moved.iter().zip(reports) {
        let _ = process::duplicate_to(report.as_fd(), place.as_raw_fd());
    }
    error
}

/// Gives the streams their numbers. What must stay open is moved out of their way first, into `moved`.
fn place_streams(
    numbers: &[u32],
    streams: &[BorrowedFd<'_>],
    reports: &[BorrowedFd<'_>],
    moved: &mut Vec<OwnedFd>,
) -> Result<()> {
    let what = |number: i32| format!("stdio[{number}] can't be set up");
    let (standard, further) = streams.split_at_checked(3).unwrap_or((streams, &[]));
    for (number, stream) in (0..).zip(standard) {
        let own_null = container_null(*stream);
        let source = own_null.as_ref().map_or(*stream, AsFd::as_fd);
        process::duplicate_to(source, number).context(ErrorCode::Exec, || what(number))?;
    }
    let numbers: Vec<i32> = numbers.iter().filter_map(|number| i32::try_from(*number).ok()).collect();
    if numbers.len() != further.len() {
        return Err(Error::new(ErrorCode::Supervisor, "the number of the command's descriptors"));
    }
    let Some(last) = numbers.last() else { return Ok(()) };
    let out_of_the_way = |fd: &BorrowedFd<'_>| {
        rustix::io::fcntl_dupfd_cloexec(fd, last + 1).map_err(|errno| {
            let call = SysError {
                syscall: "fcntl",
                errno: libc_errno(errno),
                arguments: format!("{}, F_DUPFD_CLOEXEC, {}", fd.as_raw_fd(), last + 1),
            };
            Error::from_call(ErrorCode::Exec, what(*last), &call)
        })
    };
    // Closed by number before the execution, so never dropped.
    let further = ManuallyDrop::new(further.iter().map(out_of_the_way).collect::<Result<Vec<OwnedFd>>>()?);
    for report in reports {
        moved.push(out_of_the_way(report)?);
    }
    for (stream, number) in further.iter().zip(numbers) {
        process::duplicate_to(stream.as_fd(), number).context(ErrorCode::Exec, || what(number))?;
    }
    Ok(())
}

struct Prepared {
    candidates: Vec<CString>,
    args: Vec<CString>,
    env: Vec<CString>,
}

#[expect(clippy::disallowed_methods, reason = "`/` of this process, which has just been entered")]
fn prepare(
    process: &ProcessSpec,
    streams: &[BorrowedFd<'_>],
    reports: &[BorrowedFd<'_>],
    moved: &mut Vec<OwnedFd>,
    (groups, parent): (Groups, Parent),
) -> Result<Prepared> {
    place_streams(&process.descriptors, streams, reports, moved)?;
    // Everything of the host is closed for real; the reports close with the execution.
    let mut keep: Vec<i32> = if moved.is_empty() {
        reports.iter().map(AsRawFd::as_raw_fd).collect()
    } else {
        moved.iter().map(AsRawFd::as_raw_fd).collect()
    };
    keep.extend(process.descriptors.iter().filter_map(|number| i32::try_from(*number).ok()));
    keep.sort_unstable();
    process::close_all_but(3, &keep);
    limit_resources(process)?;
    let cwd = process.cwd.clone().unwrap_or_else(|| PathBytes::from("/"));
    let entered = enter_directory(&cwd)?;
    let connection = moved.last().map(AsFd::as_fd).or(reports.last().copied());
    take_identity(process, groups, || {
        follow_parent(parent, connection)?;
        if !entered {
            rustix::process::chdir(cwd.as_path()).map_err(|errno| directory_error(&cwd, errno))?;
        }
        check_directory(&cwd)
    })?;
    process::unblock_signals();
    Ok(Prepared { candidates: candidates(process), args: strings(&process.args), env: strings(&process.env) })
}

/// Sets the resource limits of the process.
pub(crate) fn limit_resources(process: &ProcessSpec) -> Result<()> {
    for limit in &process.rlimits {
        process::set_rlimit(*limit).map_err(|call| limit_error(*limit, &call))?;
    }
    Ok(())
}

/// Becomes the user of the process, with its rights and no others. What the user has to do before the filter is in force and
/// new rights are impossible is given.
pub(crate) fn take_identity(
    process: &ProcessSpec,
    groups: Groups,
    as_user: impl FnOnce() -> Result<()>,
) -> Result<()> {
    // With no_new_privs a filter needs no capability; without, it has to come while there is CAP_SYS_ADMIN.
    if !process.no_new_privileges
        && let Some(filter) = &process.seccomp
    {
        process::set_seccomp_filter(filter).context(ErrorCode::Exec, || "the seccomp filter is refused")?;
    }
    let user = &process.user;
    let additional = match groups {
        Groups::Allowed => Some(&user.additional_gids[..]),
        Groups::Denied if user.additional_gids.is_empty() => None,
        Groups::Denied => {
            return Err(Error::new(
                ErrorCode::Exec,
                "additional groups can't be set: the user namespace maps one id, and setgroups is denied in it",
            ));
        }
    };
    process::become_user(user.uid, user.gid, additional, process.effective_capabilities())
        .map_err(|call| user_error(user, &call))?;
    as_user()?;
    process::set_umask(user.umask.unwrap_or(UMASK));
    if process.no_new_privileges {
        process::set_no_new_privileges().context(ErrorCode::Exec, || "no_new_privs can't be set")?;
        if let Some(filter) = &process.seccomp {
            process::set_seccomp_filter(filter)
                .context(ErrorCode::Exec, || "the seccomp filter is refused")?;
        }
    }
    Ok(())
}

/// Has the kernel kill this process with its parent. Not before it has become its user: that undoes it.
fn follow_parent(parent: Parent, connection: Option<BorrowedFd<'_>>) -> Result<()> {
    if matches!(parent, Parent::Init) {
        return Ok(());
    }
    process::die_with_parent()
        .context(ErrorCode::Exec, || "the command can't follow the process that began it")?;
    // It may have ended before that was said.
    let there = match parent {
        Parent::Init => true,
        Parent::Process(pid) => process::parent_pid() == pid,
        Parent::Connected => connection.is_some_and(is_connected),
    };
    if there {
        Ok(())
    } else {
        Err(Error::new(ErrorCode::Supervisor, "the process that began the command is gone"))
    }
}

/// Whether somebody is at the other end.
pub(crate) fn is_connected(connection: BorrowedFd<'_>) -> bool {
    let mut poll = [PollFd::new(&connection, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut poll, Some(&now)).is_ok()
        && !poll[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}

impl Prepared {
    fn execute(&self, process: &ProcessSpec) -> Box<Error> {
        let mut failure = SysError {
            syscall: "execve",
            errno: libc_errno(Errno::NOENT),
            arguments: format!("{:?}", process.command),
        };
        for path in &self.candidates {
            let call = process::execute(path, &self.args, &self.env);
            // The search goes on past what isn't there; what is there and can't be executed is told at the end.
            if !is_missing(&call) || self.candidates.len() == 1 {
                failure = call;
            }
            if !is_missing(&failure) && failure.errno != libc_errno(Errno::ACCESS) {
                break;
            }
        }
        let what = format!("{} can't be executed", process.command);
        // What is looked at next belongs to the container.
        let _ = holder::let_go();
        // A filter may kill whoever looks further.
        let reason = match process.seccomp {
            Some(_) => None,
            None => self.candidates.iter().find_map(|path| why_not_executed(path, &failure)),
        };
        match reason {
            Some(reason) => reason.explain(&what, &failure),
            None if is_missing(&failure) && !process.command.as_bytes().contains(&b'/') => {
                let what = match search_path(process) {
                    Some(path) => {
                        format!("{what}: it was not found in PATH={}", String::from_utf8_lossy(path))
                    }
                    None => format!("{what}: its environment has no PATH to find it in"),
                };
                Error::from_call(ErrorCode::Exec, what, &failure).with_hint(Hint::NotInPath)
            }
            None => Error::from_call(ErrorCode::Exec, what, &failure),
        }
    }
}

fn is_missing(call: &SysError) -> bool {
    call.errno == libc_errno(Errno::NOENT) || call.errno == libc_errno(Errno::NOTDIR)
}

fn libc_errno(errno: Errno) -> i32 {
    errno.raw_os_error()
}

pub(crate) fn strings(list: &[Vec<u8>]) -> Vec<CString> {
    list.iter().filter_map(|item| CString::new(item.clone()).ok()).collect()
}

/// Where the command may be: itself if it has a slash, else below each directory of the container's own PATH.
fn candidates(process: &ProcessSpec) -> Vec<CString> {
    if process.command.as_bytes().contains(&b'/') {
        return vec![CString::from(&process.command)];
    }
    search_path(process)
        .unwrap_or_default()
        .split(|byte| *byte == b':')
        .filter(|directory| directory.first() == Some(&b'/'))
        .filter_map(|directory| CString::new([directory, b"/", process.command.as_bytes()].concat()).ok())
        .collect()
}

/// The container's own `PATH`.
fn search_path(process: &ProcessSpec) -> Option<&[u8]> {
    process.env.iter().rev().find_map(|entry| entry.strip_prefix(b"PATH="))
}

/// A stream that is the host's /dev/null becomes the container's own, if that is one.
#[expect(
    clippy::disallowed_methods,
    reason = "the root is entered, and what is there is looked at before it is used"
)]
fn container_null(stream: BorrowedFd<'_>) -> Option<OwnedFd> {
    let is_null = |fd: BorrowedFd<'_>| {
        rustix::fs::fstat(fd).is_ok_and(|stat| {
            FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
                && (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)) == (1, 3)
        })
    };
    if !is_null(stream) {
        return None;
    }
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    // Looked at before it is opened: opening another device could have an effect.
    let place =
        rustix::fs::open(c"/dev/null", OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            .ok()?;
    if !is_null(place.as_fd()) {
        return None;
    }
    let own = rustix::fs::open(c"/dev/null", flags, Mode::empty()).ok()?;
    rustix::fs::fcntl_setfl(&own, OFlags::empty()).ok()?;
    is_null(own.as_fd()).then_some(own)
}

fn user_error(user: &User, call: &SysError) -> Box<Error> {
    let id = |ids: &[u32]| ids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    // The kernel says so where an id is no id, and that is only where nothing of the host is it.
    let unmapped = match call.syscall {
        _ if call.errno != libc_errno(Errno::INVAL) => None,
        "setresuid" => Some(format!("uid {}", user.uid)),
        "setresgid" => Some(format!("gid {}", user.gid)),
        "setgroups" => Some(format!("one of the gids {}", id(&user.additional_gids))),
        _ => None,
    };
    let what = format!("the process can't become user {}:{}", user.uid, user.gid);
    match unmapped {
        Some(id) => {
            let what = format!("{what}: {id} is not mapped in the user namespace");
            Error::from_call(ErrorCode::Exec, what, call).with_hint(Hint::UnmappedId)
        }
        None => Error::from_call(ErrorCode::Exec, what, call),
    }
}

fn limit_error(limit: Rlimit, call: &SysError) -> Box<Error> {
    let name =
        RLIMITS.iter().find(|(_, number)| *number == limit.resource).map_or("a limit", |(name, _)| name);
    let error = Error::from_call(ErrorCode::Exec, format!("the resource limit {name} can't be set"), call);
    if call.errno == libc_errno(Errno::PERM) { error.with_hint(Hint::HardLimit) } else { error }
}

fn directory_error(path: &PathBytes, errno: Errno) -> Box<Error> {
    let call = SysError { syscall: "chdir", errno: errno.raw_os_error(), arguments: format!("{path:?}") };
    Error::from_call(ErrorCode::Exec, format!("the working directory {path} can't be entered"), &call)
}

/// Enters the working directory, which is made if it is missing. `false` if only the user may be allowed to.
#[expect(
    clippy::disallowed_methods,
    reason = "the root is entered: nothing of the host can be reached by a path"
)]
fn enter_directory(path: &PathBytes) -> Result<bool> {
    match rustix::process::chdir(path.as_path()) {
        Ok(()) => Ok(true),
        Err(Errno::ACCESS | Errno::PERM) => Ok(false),
        Err(Errno::NOENT) => {
            make_directories(path)?;
            rustix::process::chdir(path.as_path()).map_err(|errno| directory_error(path, errno))?;
            Ok(true)
        }
        Err(errno) => Err(directory_error(path, errno)),
    }
}

/// Makes the missing parts of a path. The root is entered, so nothing of the host can be reached.
#[expect(
    clippy::disallowed_methods,
    reason = "the root is entered: nothing of the host can be reached by a path"
)]
fn make_directories(path: &PathBytes) -> Result<()> {
    let mut prefix = PathBytes::from("/");
    for name in path.components() {
        prefix = prefix.join(name);
        match rustix::fs::mkdir(prefix.as_path(), Mode::from_bits_retain(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => {
                // It may be there and on a filesystem that is read-only.
                if rustix::fs::stat(prefix.as_path()).is_err() {
                    return Err(directory_error(path, errno));
                }
            }
        }
    }
    Ok(())
}

/// The working directory must be inside: a descriptor's link could have led out (CVE-2024-21626).
fn check_directory(path: &PathBytes) -> Result<()> {
    match rustix::process::getcwd(Vec::new()) {
        Ok(text) if text.as_bytes().starts_with(b"/") => Ok(()),
        Ok(text) => Err(Error::new(
            ErrorCode::Escape,
            format!(
                "the working directory {path} is outside the root: {}",
                OsStr::from_bytes(text.as_bytes()).display()
            ),
        )),
        Err(errno) => {
            let call =
                SysError { syscall: "getcwd", errno: errno.raw_os_error(), arguments: format!("{path:?}") };
            Err(Error::from_call(
                ErrorCode::Escape,
                format!("the working directory {path} is outside the root"),
                &call,
            ))
        }
    }
}
