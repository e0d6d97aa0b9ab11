//! Starting a supervisor: where its executable comes from, and that it is one of this release.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::time::{Duration, Instant};

use rootfs::Hint;
use rootfs::error::{CallContext, Error, ErrorCode, Result, SysError};
use rootfs::kernel::memfd;
use rootfs::kernel::supervisor_process::{self, Executable, SupervisorProcess};
use rootfs::protocol::{self, BUILD, FrameError, Hello, Kind, RELEASE};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::identity::{self, Credentials};

/// How long a supervisor may take to say that it is there.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the supervisor is executed from.
pub(crate) enum SupervisorFile {
    /// A sealed copy in memory.
    Memory(OwnedFd),
    /// The file itself.
    Path(CString),
}

impl SupervisorFile {
    /// What the environment says: a path, or nothing.
    pub(crate) fn of_environment() -> Result<Option<Self>> {
        let path = std::env::var_os("ROOTFS_SUPERVISOR_EXEC").filter(|path| !path.is_empty());
        let Some(path) = path else { return Ok(None) };
        CString::new(path.into_vec())
            .map(|path| Some(Self::Path(path)))
            .map_err(|_| Error::new(ErrorCode::Supervisor, "ROOTFS_SUPERVISOR_EXEC contains a NUL byte"))
    }

    /// A sealed copy of a file. Its mode doesn't matter, as long as it can be read.
    pub(crate) fn copy(path: &CStr) -> Result<OwnedFd> {
        memfd::sealed(c"rootfs-supervisor", &read_file(path)?, true).map_err(|call| {
            let error =
                Error::from_call(ErrorCode::Supervisor, "the supervisor can't be copied to memory", &call);
            match Errno::from_raw_os_error(call.errno) {
                Errno::ACCESS | Errno::PERM => error.with_hint(Hint::MemfdNoexec),
                _ => error,
            }
        })
    }
}

#[expect(clippy::disallowed_methods, reason = "the program of this package, beside the addon that is loaded")]
fn read_file(path: &CStr) -> Result<Vec<u8>> {
    let name = path.to_string_lossy();
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| SysError::new("open", errno, format!("{name:?}, O_RDONLY")))
        .and_then(|file| memfd::read(&file, 64 << 20))
        .map_err(|call| {
            Error::from_call(ErrorCode::Supervisor, format!("the supervisor {name} can't be read"), &call)
                .with_hint(Hint::SupervisorMissing)
        })
}

/// Executes a supervisor, without waiting for what it says. `argument` is what it is to do, if it isn't to serve.
pub(crate) fn execute(
    file: &SupervisorFile,
    argument: Option<&CStr>,
) -> Result<(SupervisorProcess, OwnedFd)> {
    let (ours, theirs) = socket_pair()?;
    let executable = match file {
        SupervisorFile::Memory(fd) => Executable::Memory(fd.as_fd()),
        SupervisorFile::Path(path) => Executable::Path(path.clone()),
    };
    let process = supervisor_process::start(&executable, argument, theirs.as_fd()).map_err(|call| {
        let what = match file {
            SupervisorFile::Memory(_) => "the supervisor can't be started".to_owned(),
            SupervisorFile::Path(path) => {
                format!("the supervisor {} (ROOTFS_SUPERVISOR_EXEC) can't be started", path.to_string_lossy())
            }
        };
        let unsupported = call.errno == Errno::NOSYS.raw_os_error();
        let code = if unsupported { ErrorCode::Unsupported } else { ErrorCode::Supervisor };
        let error = Error::from_call(code, what, &call);
        match (file, Errno::from_raw_os_error(call.errno)) {
            (SupervisorFile::Memory(_), Errno::ACCESS | Errno::PERM) => error.with_hint(Hint::MemfdNoexec),
            (SupervisorFile::Path(_), Errno::ACCESS | Errno::PERM) => {
                error.with_hint(Hint::SupervisorNotExecutable)
            }
            (SupervisorFile::Path(_), Errno::NOENT | Errno::NOTDIR) => {
                error.with_hint(Hint::SupervisorElsewhere)
            }
            _ => error,
        }
    })?;
    Ok((process, ours))
}

/// Starts a supervisor that serves, and waits until it is there. It must have these rights: the caller's can have changed
/// while it was executed.
pub(crate) fn begin(
    file: &SupervisorFile,
    credentials: &Credentials,
) -> Result<(SupervisorProcess, OwnedFd)> {
    let (process, socket) = execute(file, None)?;
    // The first frame may take a moment: this thread has nothing else to do before it is there.
    let mut build = None;
    let hello = receive(&socket).and_then(|frame| match frame.kind {
        Kind::Hello => {
            build = protocol::build_of_hello(&frame.body).filter(|build| build != BUILD);
            frame.decode::<Hello>()
        }
        _ => Err(FrameError::Magic),
    });
    let error = match (build, hello) {
        (Some(build), _) => Error::new(
            ErrorCode::Supervisor,
            format!("the supervisor is of version {build}, and the addon of version {BUILD}"),
        )
        .with_hint(Hint::SupervisorVersion),
        (None, Ok(hello)) if credentials.are_those_of(&hello) => return Ok((process, socket)),
        (None, Ok(_)) => identity::changed(),
        (None, Err(error)) => not_understood(&error),
    };
    end(process, socket);
    Err(error)
}

/// The next frame, unless it takes too long.
pub(crate) fn receive(socket: &OwnedFd) -> std::result::Result<protocol::Frame, FrameError> {
    let until = Instant::now() + PATIENCE;
    loop {
        let left = Timespec::try_from(until.saturating_duration_since(Instant::now())).unwrap_or_default();
        match rustix::event::poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&left)) {
            Ok(1) => return protocol::receive(socket),
            // The C library interrupts all threads when the caller changes his ids.
            Err(Errno::INTR) => {}
            _ => return Err(FrameError::WouldBlock),
        }
    }
}

/// What is wrong with a supervisor that doesn't say what it should.
pub(crate) fn not_understood(error: &FrameError) -> Box<Error> {
    let code = ErrorCode::Supervisor;
    match error {
        FrameError::Version(_) => Error::new(
            code,
            format!("the supervisor is of another version than the addon, which is {RELEASE}: {error}"),
        )
        .with_hint(Hint::SupervisorVersion),
        FrameError::Magic | FrameError::Length | FrameError::Kind(_) | FrameError::Body => Error::new(
            code,
            format!(
                "the supervisor says something that the addon (version {RELEASE}) doesn't understand: {error}"
            ),
        )
        .with_hint(Hint::SupervisorVersion),
        FrameError::WouldBlock => {
            Error::new(code, format!("the supervisor said nothing within {} s", PATIENCE.as_secs()))
        }
        _ => Error::new(code, format!("the supervisor ended before it said anything: {error}")),
    }
}

/// Ends a supervisor that is of no use. It is waited for here for a moment, and else beside everything: the caller may have
/// given up the right to kill it.
pub(crate) fn end(process: SupervisorProcess, socket: OwnedFd) {
    let _ = rustix::net::shutdown(&socket, rustix::net::Shutdown::Both);
    drop(socket);
    rootfs::kernel::process::kill(process.pidfd.as_fd());
    wait_until_ended(&process.pidfd, 1);
    if !process.reap() {
        let thread = std::thread::Builder::new().name("rootfs-reap".into()).stack_size(64 << 10);
        let _ = thread.spawn(move || {
            let poll = &mut [PollFd::new(&process.pidfd, PollFlags::IN)];
            while rustix::event::poll(poll, None) == Err(Errno::INTR) {}
            process.reap();
        });
    }
}

/// Waits until a process has ended, at most so many seconds.
pub(crate) fn wait_until_ended(pidfd: &OwnedFd, seconds: i64) {
    let poll = &mut [PollFd::new(pidfd, PollFlags::IN)];
    let patience = Timespec { tv_sec: seconds, tv_nsec: 0 };
    while rustix::event::poll(poll, Some(&patience)) == Err(Errno::INTR) {}
}

/// A connection whose own end doesn't wait.
pub(crate) fn socket_pair() -> Result<(OwnedFd, OwnedFd)> {
    let made =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .and_then(|(ours, theirs)| rustix::io::ioctl_fionbio(&ours, true).map(|()| (ours, theirs)));
    made.map_err(|errno| SysError::new("socketpair", errno, "AF_UNIX, SOCK_SEQPACKET"))
        .context(ErrorCode::Supervisor, || "a connection to the supervisor can't be made")
}

/// A copy of a descriptor.
pub(crate) fn duplicate(fd: &OwnedFd) -> Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd, 3)
        .map_err(|errno| SysError::new("fcntl", errno, format!("{}, F_DUPFD_CLOEXEC", fd.as_raw_fd())))
        .context(ErrorCode::Supervisor, || "a descriptor can't be duplicated")
}
