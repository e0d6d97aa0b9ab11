//! Starting a supervisor: where its executable comes from, and that it is one of this release.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use rootfs::Hint;
use rootfs::error::{CallContext, Error, ErrorCode, Result, SysError};
use rootfs::kernel::memfd;
use rootfs::kernel::supervisor_process::{self, Executable, SupervisorProcess};
use rootfs::protocol::{self, FrameError, Hello, Kind, RELEASE};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// How long a supervisor may take to say that it is there.
const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

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
        let Some(path) = std::env::var_os("ROOTFS_SUPERVISOR_EXEC") else { return Ok(None) };
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
                format!("the supervisor {} can't be started", path.to_string_lossy())
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
            (SupervisorFile::Path(_), Errno::NOENT) => error.with_hint(Hint::SupervisorMissing),
            _ => error,
        }
    })?;
    Ok((process, ours))
}

/// Starts a supervisor that serves, and waits until it is there.
pub(crate) fn begin(file: &SupervisorFile) -> Result<(SupervisorProcess, OwnedFd)> {
    let (process, socket) = execute(file, None)?;
    // The first frame may take a moment: this thread has nothing else to do before it is there.
    let hello = receive(&socket).and_then(|frame| match frame.kind {
        Kind::Hello => frame.decode::<Hello>(),
        _ => Err(FrameError::Magic),
    });
    let error = match hello {
        Ok(hello) if hello.release == RELEASE => return Ok((process, socket)),
        Ok(hello) => Error::new(
            ErrorCode::Supervisor,
            format!("the supervisor is of version {}, and the addon of version {RELEASE}", hello.release),
        )
        .with_hint(Hint::SupervisorVersion),
        Err(error) => not_understood(&error),
    };
    end(&process);
    Err(error)
}

/// The next frame, unless it takes too long.
pub(crate) fn receive(socket: &OwnedFd) -> std::result::Result<protocol::Frame, FrameError> {
    let poll = &mut [PollFd::new(socket, PollFlags::IN)];
    if rustix::event::poll(poll, Some(&PATIENCE)) == Ok(1) {
        protocol::receive(socket)
    } else {
        Err(FrameError::WouldBlock)
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
            Error::new(code, format!("the supervisor said nothing within {} s", PATIENCE.tv_sec))
        }
        _ => Error::new(code, format!("the supervisor ended before it said anything: {error}")),
    }
}

/// Ends a supervisor that is of no use.
pub(crate) fn end(process: &SupervisorProcess) {
    rootfs::kernel::process::kill(process.pidfd.as_fd());
    supervisor_process::reap(process.pid);
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
