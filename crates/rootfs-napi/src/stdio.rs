//! Streams of commands, and descriptors given by the caller.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use rootfs::PathBytes;
use rootfs::error::SysError;
use rustix::fs::{FileType, OFlags};

use crate::argument::{JsArg, Parsed, integer32, unexpected};
use crate::failure::{ArgumentKind, Failure};

/// Where one stream of a command goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Pipe,
    Inherit,
    Ignore,
    Fd(i32),
}

fn stream_word(text: &str) -> Option<Stream> {
    match text {
        "pipe" => Some(Stream::Pipe),
        "inherit" => Some(Stream::Inherit),
        "ignore" => Some(Stream::Ignore),
        _ => None,
    }
}

fn stream(name: &str, value: &JsArg) -> Parsed<Stream> {
    const WANTED: &str = "'pipe', 'inherit', 'ignore' or a file descriptor";
    match value {
        JsArg::String(text) => {
            stream_word(text).ok_or_else(|| unexpected(ArgumentKind::Value, WANTED, name, value))
        }
        JsArg::Number(_) => {
            integer32(name, value, 0, i32::MAX.cast_unsigned()).map(|fd| Stream::Fd(fd.cast_signed()))
        }
        other => Err(unexpected(ArgumentKind::Type, WANTED, name, other)),
    }
}

/// As many streams can a command have: they, and what describes it, go in one message.
const MAX_STREAMS: usize = 200;

/// The streams of a command that says nothing about them.
pub(crate) const DEFAULT_STREAMS: [Stream; 3] = [Stream::Pipe; 3];

/// The option `stdio`: one word for the standard three, or one for each and for further descriptors, from the number 3 on.
pub(crate) fn streams(name: &str, value: &JsArg) -> Parsed<Vec<Stream>> {
    match value {
        JsArg::Array(items) if items.len() <= MAX_STREAMS => {
            let mut streams = DEFAULT_STREAMS.to_vec();
            // As child_process has it: nothing said means a pipe for the standard three, and nothing for the others.
            streams.resize(items.len().max(3), Stream::Ignore);
            for (index, item) in items.iter().enumerate() {
                if *item != JsArg::Undefined && *item != JsArg::Null {
                    streams[index] = stream(&format!("{name}[{index}]"), item)?;
                }
            }
            Ok(streams)
        }
        JsArg::Array(_) => Err(unexpected(
            ArgumentKind::Value,
            format!("array of at most {MAX_STREAMS} elements"),
            name,
            value,
        )),
        JsArg::String(_) => stream(name, value).map(|stream| vec![stream; 3]),
        other => Err(unexpected(ArgumentKind::Type, "string or array", name, other)),
    }
}

/// The numbers of the descriptors that a command has besides the standard three.
pub(crate) fn further_descriptors(streams: &[Stream]) -> Vec<u32> {
    (0..)
        .zip(streams)
        .skip(3)
        .filter(|(_, stream)| **stream != Stream::Ignore)
        .map(|(number, _)| number)
        .collect()
}

/// The two ends of a command's streams.
#[derive(Debug)]
pub(crate) struct Ends {
    /// What the command gets: the standard three, then those of [`further_descriptors`].
    pub(crate) theirs: Vec<OwnedFd>,
    /// What this process keeps of pipes, for each stream.
    pub(crate) ours: Vec<Option<OwnedFd>>,
}

fn system(what: &str, syscall: &'static str, arguments: &str, errno: rustix::io::Errno) -> Failure {
    let call = SysError::new(syscall, errno, arguments);
    rootfs::Error::from_call(rootfs::ErrorCode::Exec, what, &call).into()
}

/// A copy of a descriptor the caller names. `borrow` is how the only place with `unsafe` sees it.
fn duplicate(number: i32) -> Result<OwnedFd, rustix::io::Errno> {
    rustix::io::fcntl_dupfd_cloexec(borrow(number), 3)
}

/// A descriptor that belongs to the caller, for the one call that duplicates it.
#[allow(unsafe_code)]
fn borrow(number: i32) -> BorrowedFd<'static> {
    // SAFETY: numbers come from the caller and are checked to be at least 0; the borrow is used for a single fcntl, which
    // answers EBADF when nothing is open there.
    unsafe { BorrowedFd::borrow_raw(number.max(0)) }
}

/// Makes the ends: pipes, copies of the caller's own streams, or the null device.
pub(crate) fn open(streams: &[Stream]) -> Parsed<Ends> {
    let mut theirs = Vec::with_capacity(streams.len());
    let mut ours = Vec::with_capacity(streams.len());
    for (index, stream) in streams.iter().enumerate() {
        let mut our = None;
        let number = i32::try_from(index).unwrap_or(0);
        theirs.push(match stream {
            Stream::Pipe if index > 2 => {
                let (their, end) = socket_pair()?;
                our = Some(end);
                their
            }
            Stream::Pipe => {
                let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
                    .map_err(|errno| system("a pipe can't be made", "pipe2", "O_CLOEXEC", errno))?;
                let (their, end) = if index == 0 { (read, write) } else { (write, read) };
                our = Some(end);
                their
            }
            Stream::Ignore if index > 2 => {
                ours.push(None);
                continue;
            }
            Stream::Ignore => null()?,
            Stream::Inherit => given(number, &format!("stdio[{index}]"))?,
            Stream::Fd(fd) => given(*fd, &format!("stdio[{index}]"))?,
        });
        ours.push(our);
    }
    Ok(Ends { theirs, ours })
}

/// A pipe that goes both ways, as Node has it for what is not a standard stream.
fn socket_pair() -> Parsed<(OwnedFd, OwnedFd)> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|errno| system("a pipe can't be made", "socketpair", "AF_UNIX, SOCK_STREAM", errno))
}

/// The null device, opened once and verified to be it: a command whose `/dev` has another reopens its own.
#[expect(clippy::disallowed_methods, reason = "the caller's own null device, as node:child_process opens it")]
fn null() -> Parsed<OwnedFd> {
    static NULL: OnceLock<OwnedFd> = OnceLock::new();
    let copy = |null: &OwnedFd| {
        rustix::io::fcntl_dupfd_cloexec(null, 3)
            .map_err(|errno| system("the null device can't be duplicated", "fcntl", "F_DUPFD_CLOEXEC", errno))
    };
    if let Some(null) = NULL.get() {
        return copy(null);
    }
    let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, rustix::fs::Mode::empty())
        .map_err(|errno| {
            system("the null device can't be opened", "open", "\"/dev/null\", O_RDWR|O_CLOEXEC", errno)
        })?;
    let stat = rustix::fs::fstat(&null)
        .map_err(|errno| system("the null device can't be looked at", "fstat", "\"/dev/null\"", errno))?;
    let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice || device != (1, 3) {
        let what = "/dev/null is not the null device";
        return Err(rootfs::Error::new(rootfs::ErrorCode::Exec, what).into());
    }
    copy(NULL.get_or_init(|| null))
}

/// A copy of a descriptor for a command: never a directory, nor one that only names a file.
fn given(number: i32, name: &str) -> Parsed<OwnedFd> {
    let refuse =
        |wanted: &str| unexpected(ArgumentKind::Value, wanted, name, &JsArg::Number(f64::from(number)));
    let fd = duplicate(number).map_err(|_| refuse("open file descriptor"))?;
    let stat = rustix::fs::fstat(&fd).map_err(|_| refuse("open file descriptor"))?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err(refuse("file descriptor that is no directory"));
    }
    let flags = rustix::fs::fcntl_getfl(&fd).map_err(|_| refuse("open file descriptor"))?;
    if flags.contains(OFlags::PATH) {
        return Err(refuse("file descriptor that was not opened with O_PATH"));
    }
    Ok(fd)
}

/// A copy of a descriptor for a bind, and the path it has now.
#[expect(
    clippy::disallowed_methods,
    reason = "a link of our own process in /proc: the path that the caller knows the descriptor by"
)]
pub(crate) fn bind_source(number: i32) -> Result<(OwnedFd, PathBytes), &'static str> {
    let fd = duplicate(number).map_err(|_| "open file descriptor")?;
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd.as_fd()));
    let path = rustix::fs::readlink(link, Vec::new()).map_err(|_| "file descriptor with a path")?;
    let path = PathBytes::new(path.into_bytes());
    if path.as_bytes().starts_with(b"/memfd:") || !path.is_absolute() {
        return Err("file descriptor of a file or directory of a mounted filesystem");
    }
    Ok((fd, path))
}
