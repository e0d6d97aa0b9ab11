//! What a first process asks of the opener: a child of the supervisor with the caller's rights and namespaces.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rootfs::error::{Error, ErrorCode, Result};
use rootfs::execute::sources::Description;
use rootfs::journal::Identity;
use rootfs::path::PathBytes;
use rootfs::protocol::{self, Answer, Frame, FrameError, Kind};
use rootfs::resolve::Missing;
use rootfs::spec::Directory;
use serde::{Deserialize, Serialize};

/// A request; descriptors are told in each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Make a mountpoint in the directory that comes along.
    Make {
        /// Its name.
        name: PathBytes,
        /// As what.
        what: Missing,
    },
    /// Make a symbolic link in the directory that comes along.
    MakeSymlink {
        /// What it says.
        target: PathBytes,
        /// Its name.
        name: PathBytes,
    },
    /// Give the directory that comes along this mode and owner.
    Change(Directory),
    /// Open the directory that comes along for locking.
    OpenDirectory,
    /// Open the sources of the plan in the mount namespace of the first process, which has a place for them there.
    Sources,
    /// Attach the tree that comes along in the mount namespace of the first process.
    AttachRoot {
        /// Where.
        path: PathBytes,
        /// Which directory must be there.
        identity: Identity,
    },
    /// Run a hook of the plan in the caller's namespaces.
    Hook {
        /// The index of its step.
        step: u32,
        /// What the state calls the container's root.
        root: PathBytes,
    },
}

/// A source, or several, on their way to the first process. One descriptor comes for each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SourceBatch {
    /// What they are.
    pub(crate) sources: Vec<Description>,
    /// The step of the root, if it is a directory.
    pub(crate) root: Option<u32>,
    /// Whether this is the last batch.
    pub(crate) last: bool,
    /// Nothing is opened yet: at level classic that has to be asked for, see [`Request::Sources`].
    pub(crate) on_request: bool,
}

/// A broken connection between the processes of a container as an error.
pub(crate) fn connection_error(what: &str, error: &FrameError) -> Box<Error> {
    Error::new(ErrorCode::Supervisor, format!("{what}: {error}"))
}

/// Asks, and waits for the answer.
pub(crate) fn ask(
    socket: BorrowedFd<'_>,
    request: &Request,
    fds: &[BorrowedFd<'_>],
) -> Result<(bool, Vec<OwnedFd>)> {
    protocol::send(socket, Kind::Broker, 0, &protocol::encode(request), fds)
        .map_err(|error| connection_error("the opener can't be asked", &error))?;
    let frame =
        protocol::receive(socket).map_err(|error| connection_error("the opener doesn't answer", &error))?;
    let Frame { kind: Kind::Brokered, .. } = frame else {
        return Err(Error::new(ErrorCode::Supervisor, "the opener answers something else"));
    };
    match frame.decode::<Answer<bool>>() {
        Ok(Answer::Done(value)) => Ok((value, frame.fds)),
        Ok(Answer::Failed(error)) => Err(error),
        Err(error) => Err(connection_error("the opener's answer", &error)),
    }
}

/// Answers a request.
pub(crate) fn answer(socket: BorrowedFd<'_>, result: Result<(bool, Option<OwnedFd>)>) {
    let (answer, fd) = match result {
        Ok((value, fd)) => (Answer::Done(value), fd),
        Err(error) => (Answer::Failed(error), None),
    };
    let fds: Vec<BorrowedFd<'_>> = fd.iter().map(AsFd::as_fd).collect();
    // A first process that is gone needs no answer.
    let _ = protocol::send(socket, Kind::Brokered, 0, &protocol::encode(&answer), &fds);
}
