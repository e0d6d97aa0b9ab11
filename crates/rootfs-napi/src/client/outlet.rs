//! What is sent: a queue for each socket, so that a process that takes nothing holds up only what is for itself.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rootfs::error::{Error, ErrorCode, Result, SysError};
use rootfs::protocol::{self, FrameError, Kind};
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::UCred;

use super::Token;

/// As many frames wait for one socket. What has descriptors is limited by their number long before.
const MAX_WAITING: usize = 1 << 14;

/// A frame on its way.
pub(super) struct Outgoing {
    pub(super) kind: Kind,
    pub(super) id: u64,
    pub(super) body: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
    /// Who sends it, for what is done with the sender's rights: those that he had when he asked.
    pub(super) sender: Option<UCred>,
}

/// What has become of the frames that were to be sent.
pub(super) enum Flushed {
    /// None waits.
    Empty,
    /// The rest is sent when epoll says that there is room.
    Full,
    /// There is room, but the kernel takes no more descriptors at the moment: nothing tells when.
    Busy,
}

/// Our end of a connection, which doesn't wait, and what waits to be sent on it.
pub(super) struct Outlet {
    pub(super) socket: OwnedFd,
    token: Token,
    waiting: VecDeque<Outgoing>,
}

enum Attempt {
    Sent,
    Full,
    Busy,
    Failed(Box<Error>),
}

fn attempt(socket: &OwnedFd, frame: &Outgoing) -> Attempt {
    let fds: Vec<BorrowedFd<'_>> = frame.fds.iter().map(AsFd::as_fd).collect();
    match protocol::send_as(socket, frame.kind, frame.id, &frame.body, &fds, frame.sender) {
        // One whose receiver is gone is dropped: its end is noticed elsewhere.
        Ok(()) | Err(FrameError::Closed) => Attempt::Sent,
        Err(FrameError::WouldBlock) => Attempt::Full,
        Err(FrameError::System(errno)) => match Errno::from_raw_os_error(errno) {
            // Too many descriptors in flight: they land when the other side has received some.
            Errno::TOOMANYREFS | Errno::NOBUFS | Errno::NOMEM => Attempt::Busy,
            // The kernel checks who sends.
            Errno::PERM if frame.sender.is_some() => Attempt::Failed(crate::identity::changed()),
            errno => Attempt::Failed(Error::from_call(
                ErrorCode::Supervisor,
                "a request can't be sent",
                &SysError::new("sendmsg", errno, format!("{:?}", frame.kind)),
            )),
        },
        Err(error) => {
            Attempt::Failed(Error::new(ErrorCode::Supervisor, format!("a request can't be sent: {error}")))
        }
    }
}

impl Outlet {
    pub(super) fn new(socket: OwnedFd, token: Token) -> Self {
        Self { socket, token, waiting: VecDeque::new() }
    }

    pub(super) fn token(&self) -> Token {
        self.token
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Sends now, or when there is room. An error means that it will never be sent.
    pub(super) fn send(&mut self, epoll: &OwnedFd, frame: Outgoing) -> Result<Flushed> {
        if self.waiting.is_empty() {
            let flushed = match attempt(&self.socket, &frame) {
                Attempt::Sent => return Ok(Flushed::Empty),
                Attempt::Failed(error) => return Err(error),
                Attempt::Full => self.watch_room(epoll, true),
                Attempt::Busy => Flushed::Busy,
            };
            self.waiting.push_back(frame);
            return Ok(flushed);
        }
        if self.waiting.len() >= MAX_WAITING {
            return Err(Error::new(
                ErrorCode::Supervisor,
                format!("{MAX_WAITING} requests wait for {}, which takes none: is it stopped?", self.whose()),
            ));
        }
        self.waiting.push_back(frame);
        Ok(Flushed::Full)
    }

    fn whose(&self) -> &'static str {
        match self.token {
            Token::Supervisor(_) => "the supervisor",
            _ => "the container's first process",
        }
    }

    /// Sends what waits, as far as there is room. Those that can never be sent are given back.
    pub(super) fn flush(&mut self, epoll: &OwnedFd) -> (Flushed, Vec<(Outgoing, Box<Error>)>) {
        let mut failed = Vec::new();
        while let Some(frame) = self.waiting.pop_front() {
            match attempt(&self.socket, &frame) {
                Attempt::Sent => {}
                Attempt::Failed(error) => failed.push((frame, error)),
                Attempt::Full => {
                    self.waiting.push_front(frame);
                    return (self.watch_room(epoll, true), failed);
                }
                Attempt::Busy => {
                    self.waiting.push_front(frame);
                    self.watch_room(epoll, false);
                    return (Flushed::Busy, failed);
                }
            }
        }
        self.watch_room(epoll, false);
        (Flushed::Empty, failed)
    }

    /// Has epoll say when there is room again.
    fn watch_room(&self, epoll: &OwnedFd, room: bool) -> Flushed {
        let mut flags = epoll::EventFlags::IN;
        flags.set(epoll::EventFlags::OUT, room);
        match epoll::modify(epoll, &self.socket, epoll::EventData::new_u64(self.token.pack()), flags) {
            Ok(()) => Flushed::Full,
            // Nobody listens to it.
            Err(_) => Flushed::Busy,
        }
    }
}
