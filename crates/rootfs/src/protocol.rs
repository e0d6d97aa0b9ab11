//! The wire between Node, the supervisor and the first process: small, versioned, length-checked frames on
//! `SOCK_SEQPACKET` sockets, with file descriptors beside them. What is large is in a sealed memfd.
//!
//! A frame that is wrong ends the connection: [`FrameError`] says what was wrong with it.

use std::cell::RefCell;
use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, UCred,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode, SysError};
use crate::execute::Level;
use crate::execute::template::Template;
use crate::kernel::memfd;
use crate::namespace::NamespaceKind;
use crate::path::PathBytes;
use crate::plan::{Plan, Warning};
use crate::process::ProcessSpec;
use crate::spec::IdMap;

/// Both sides must have the same: the addon and the supervisor are released together.
pub const VERSION: u16 = 1;
/// The release.
pub const RELEASE: &str = env!("CARGO_PKG_VERSION");
/// The release, and a number made from the sources of this crate: what goes in frames is the same within one build only.
pub const BUILD: &str = concat!(env!("CARGO_PKG_VERSION"), "+", env!("ROOTFS_SOURCES"));
/// The first bytes of every frame.
pub const MAGIC: [u8; 4] = *b"RTFS";
/// A frame's body is at most this long; what is longer goes into a memfd.
pub const MAX_BODY: usize = 64 << 10;
/// The kernel takes 253 descriptors with a message; `unix(7)`.
pub const MAX_FDS: usize = 250;
/// A payload is at most this long.
pub const MAX_PAYLOAD: u64 = 64 << 20;

const HEADER: usize = 24;

macro_rules! kinds {
    ($($variant:ident $number:literal $meaning:literal;)*) => {
        /// What a frame is about.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind { $(#[doc = $meaning] $variant,)* }

        impl Kind {
            const fn number(self) -> u16 {
                match self { $(Self::$variant => $number,)* }
            }

            const fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

kinds! {
    Hello 1 "Supervisor to Node: it is there. Body: [`Hello`].";
    Fds 2 "Node to supervisor: more descriptors for the `Start` with the same id that follows.";
    Start 3 "Node to supervisor: make a container. Body: [`Start`]. Descriptors: see [`Start`].";
    Close 4 "Node to supervisor: kill a container.";
    Started 5 "Supervisor to Node and to the first process, on their own sockets: it exists. Body: its pid. Descriptor for Node: its pidfd. A first process that waits tells the supervisor so, without either.";
    Exited 6 "Supervisor to Node: the first process has ended. Body: [`Ended`].";
    Closed 7 "Supervisor to Node: everything is taken down. Body: [`TakenDown`].";
    Refused 8 "Supervisor to Node: no first process could be made. Body: [`Error`].";
    Ready 9 "First process to Node: all steps are done. Body: [`Report`].";
    Step 10 "First process to Node: a step is done. Body: [`ExecutedStep`].";
    Failed 11 "First process to Node: a step failed, or the command could not be executed. Body: [`Error`].";
    Spawn 12 "Node to first process: start a command. Descriptors: payload ([`ProcessSpec`]), stdin, stdout, stderr, then its further ones.";
    Spawned 13 "First process to Node: the command is executed. Body: [`Spawned`]. Descriptor: its pidfd. Credential: its pid, if it can be told so.";
    SpawnFailed 14 "First process to Node: the command could not be executed. Body: [`Error`].";
    ChildExited 15 "First process to Node: a command has ended. Body: [`Exit`].";
    Mounts 16 "Node to first process: what is mounted?";
    MountTable 17 "First process to Node: its mountinfo. Descriptor: a memfd with it.";
    SetUp 18 "First process to supervisor: the container is set up. Descriptors: the locks it holds on host trees.";
    MapIds 19 "First process to supervisor: my user namespace exists, map its ids.";
    Mapped 20 "Supervisor to first process: the ids are mapped. Body: nothing, or an [`Error`].";
    Sources 21 "Opener to first process: opened sources. Body: which. Descriptors: the mounts.";
    Broker 22 "First process to opener: do this with host rights. Body: a request.";
    Brokered 23 "Opener to first process: it is done. Body: an answer.";
    Spare 24 "Supervisor to Node: a first process that waits for its request. Body: [`Spare`]. Descriptors: its socket, its journal, its pidfd.";
    Signal 26 "Node to first process: signal the process group of a command. Body: the signal, an `i32`.";
    Kept 27 "Keeper to Node: what a template holds open, in as many messages as are needed, with the id 0. Then with the id 1 what it is. Body: the [`Template`]; if it is long, nothing, and the descriptor is a memfd with it.";
    Begin 25 "Node to a spare first process: its request. Body: the [`Payload`]; if it is long, nothing, and the first descriptor is a memfd with it. Descriptors: stdin, stdout, stderr, then as many as its [`Start`] says.";
    Function 40 "First process to Node: run this function. Body: [`FunctionCall`].";
    FunctionDone 41 "Node to first process: it has run. Body: an [`Answer`].";
    Poststart 42 "Supervisor to Node: the poststart programs have run. Body: an [`Answer`]; after a failure the container is killed.";
    Probed 43 "Supervisor that only probes, to Node: what it has found. Body: a list of [`Finding`](crate::support::Finding).";
}

/// The first frame of a supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Its pid, in the namespace of the sender.
    pub pid: i32,
    /// Its [`BUILD`].
    pub release: String,
    /// Who it is, and will stay: its user, real, effective and saved.
    pub uid: u32,
    /// Its group, likewise.
    pub gid: u32,
    /// Its supplementary groups.
    pub groups: Vec<u32>,
    /// The capabilities that it can use.
    pub capabilities: u64,
}

/// How a container is begun. The supervisor reads this and nothing else.
///
/// Descriptors, in this order: the payload (a sealed memfd with a [`Payload`]), the first process's socket, the
/// journal, stdin, stdout, stderr, the cgroup directory if `cgroup`, those of `joins`, then `sources` more: those that the command has besides
/// the standard three, and bind sources.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
pub struct Start {
    /// The mapping of a new user namespace.
    pub user: Option<IdMap>,
    /// Whether a new pid namespace is made.
    pub pid: bool,
    /// The same for ipc.
    pub ipc: bool,
    /// The same for uts.
    pub uts: bool,
    /// The same for cgroup.
    pub cgroup_namespace: bool,
    /// The same for network.
    pub network: bool,
    /// Whether the mount namespace is made with the first process; else it makes its own when it needs it.
    pub mount: bool,
    /// Whether a child of the supervisor opens sources, and runs hooks, with the rights of the caller.
    pub opener: bool,
    /// Whether the plan has hooks, which are told the first process's pid.
    pub hooks: bool,
    /// Whether there are poststart programs, which a child of the supervisor runs.
    pub poststart: bool,
    /// Whether there are poststop programs, likewise.
    pub poststop: bool,
    /// Whether a cgroup directory is among the descriptors.
    pub cgroup: bool,
    /// Whether it is no container, but holds what those of a template have in common.
    pub keeper: bool,
    /// The namespaces that are joined, in the order of their descriptors.
    pub joins: Vec<NamespaceKind>,
    /// The bounding set of the one command that the container is, if nothing else is executed in it before. A first
    /// process that waits can give up the rest meanwhile.
    pub bounding: Option<u64>,
    /// How many descriptors come last: further ones of the command, whose payload says how many, and bind sources.
    pub sources: u32,
    /// Which of the callers in Node it is for, a thread each: none of them waits for all that another has asked for.
    pub caller: u64,
}

impl Start {
    /// Whether a first process can be made before it is asked for. Not where somebody else takes part in its beginning. It has
    /// no mount namespace before that: it would keep an old copy of the caller's mounts.
    pub fn can_wait(&self) -> bool {
        !self.opener && !self.hooks && !self.cgroup && !self.keeper && !self.joins_first()
    }

    /// Whether the supervisor tells the first process its pid, which is another in its own namespace.
    pub fn is_told_pid(&self) -> bool {
        self.hooks || self.joins.contains(&NamespaceKind::User)
    }

    /// Whether namespaces have to be joined before the first process is made: it couldn't do it itself, or it would not be in
    /// them.
    pub fn joins_first(&self) -> bool {
        let needs = |kind: &NamespaceKind| matches!(kind, NamespaceKind::User | NamespaceKind::Pid);
        self.joins.iter().any(needs) || (self.user.is_some() && !self.joins.is_empty())
    }

    /// What two requests have in common that the same spare first process can serve.
    pub fn without_sources(&self) -> Self {
        Self { sources: 0, caller: 0, ..self.clone() }
    }
}

/// A first process that was made before it is asked for. It waits for [`Kind::Begin`] on its socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spare {
    /// What kind of container it can begin.
    pub start: Start,
    /// Its pid, in the namespace of the supervisor.
    pub pid: i32,
}

/// How a container has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// How its first process has.
    pub exit: Exit,
    /// Whether everything is taken down already; else [`Kind::Closed`] follows.
    pub closed: bool,
}

/// How a process has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// By itself, with this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// What a first process is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    /// The steps.
    pub plan: Plan,
    /// What is ready for them, if this is a container of a template.
    pub template: Option<Template>,
    /// What else.
    pub rest: PayloadRest,
}

impl Payload {
    /// How many descriptors of the request are the command's, besides the standard three.
    pub fn further_descriptors(&self) -> usize {
        self.rest.process.as_ref().map_or(0, |process| process.descriptors.len())
    }
}

/// What a first process is told, but for the plan and its template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayloadRest {
    /// The command that it becomes; `None` if it stays as the container's first process and starts others.
    pub process: Option<ProcessSpec>,
    /// Of a container that stays, what its commands are like where an OCI config says so.
    pub usual: Option<ProcessSpec>,
    /// Whether the kernel's mount table is compared with the plan.
    pub verify: bool,
    /// Whether each step is reported when it is done.
    pub report_steps: bool,
    /// The level to use; `None` to use the best there is.
    pub level: Option<Level>,
    /// Whether the caller has `CAP_SYS_ADMIN` in his user namespace.
    pub privileged: bool,
    /// Of a keeper: the mapping of the user namespaces that the containers get.
    pub user: Option<IdMap>,
}

impl PayloadRest {
    /// What is begun in the container: the command, or what the OCI config says of those that come later.
    pub fn usual_process(&self) -> Option<&ProcessSpec> {
        self.process.as_ref().or(self.usual.as_ref())
    }
}

/// A step that was carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutedStep {
    /// The index of the plan's step.
    pub index: u32,
    /// What its destination was resolved to, where that differs.
    pub resolved: Option<PathBytes>,
    /// Which of several ways was taken.
    pub strategy: Option<String>,
    /// How long it took, in nanoseconds.
    pub duration_ns: u64,
}

/// What a first process did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Each step; empty for a container that is one command.
    pub steps: Vec<ExecutedStep>,
    /// Steps that were skipped.
    pub skipped: Vec<u32>,
    /// What the caller should know.
    pub warnings: Vec<Warning>,
}

/// A function of the caller that is to be run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionCall {
    /// By which number he knows it.
    pub function: u32,
    /// Where the container's root is, in the mount namespace of its first process.
    pub root: PathBytes,
}

/// What is left to say when everything is taken down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenDown {
    /// Mountpoints that stay.
    pub left: Vec<Leftover>,
    /// Poststop programs that failed.
    pub failures: Vec<Error>,
}

/// A mountpoint that was not removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leftover {
    /// The path on the host.
    pub path: PathBytes,
    /// Why.
    pub reason: String,
}

/// Why a message is no frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The other side is gone.
    Closed,
    /// The call itself failed.
    System(i32),
    /// Nothing is there yet, on a socket that doesn't wait.
    WouldBlock,
    /// It was cut off by the kernel.
    Truncated,
    /// It is shorter than a header, or its length is not what the header says.
    Length,
    /// The first bytes are others.
    Magic,
    /// The other side is of another version.
    Version(u16),
    /// The kind is unknown, or makes no sense here.
    Kind(u16),
    /// The number of descriptors is not what the header says.
    Descriptors,
    /// The body can't be decoded.
    Body,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the connection is closed"),
            Self::System(errno) => write!(f, "{}", crate::error::errno_text(*errno)),
            Self::WouldBlock => f.write_str("no frame is there yet"),
            Self::Truncated => f.write_str("the frame was cut off"),
            Self::Length => f.write_str("the frame's length is wrong"),
            Self::Magic => f.write_str("this is no frame of ours"),
            Self::Version(version) => {
                write!(f, "the other side speaks version {version}, this one {VERSION}")
            }
            Self::Kind(kind) => write!(f, "a frame of kind {kind} is not expected"),
            Self::Descriptors => f.write_str("the number of file descriptors is wrong"),
            Self::Body => f.write_str("the frame's body can't be decoded"),
        }
    }
}

impl std::error::Error for FrameError {}

/// A frame, as received.
#[derive(Debug)]
pub struct Frame {
    /// What it is about.
    pub kind: Kind,
    /// Which container or command it is about.
    pub id: u64,
    /// The rest of it.
    pub body: Vec<u8>,
    /// The descriptors that came with it, all close-on-exec.
    pub fds: Vec<OwnedFd>,
    /// This process could not open as many descriptors as came: none is here, and those that were opened are closed again.
    pub descriptors_lost: bool,
    /// Who sent it, where the socket was asked to tell: pid, uid and gid.
    pub sender: Option<(i32, u32, u32)>,
}

impl Frame {
    /// The body as a value.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, FrameError> {
        decode(&self.body)
    }

    /// The same, of a body that was too long for a frame and is in a sealed memfd then: the first descriptor.
    pub fn decode_long<T: DeserializeOwned>(&self) -> Result<T, FrameError> {
        match self.fds.first() {
            Some(file) => decode(&memfd::read_sealed(file, MAX_PAYLOAD).map_err(|_| FrameError::Body)?),
            None => self.decode(),
        }
    }

    /// An error if this process was at its limit of open files when the frame arrived.
    pub fn check_descriptors(&self, code: ErrorCode, what: &str) -> crate::error::Result<()> {
        if self.descriptors_lost {
            let call = SysError::new("recvmsg", Errno::MFILE, "SCM_RIGHTS");
            return Err(Error::from_call(code, what, &call));
        }
        Ok(())
    }
}

/// A value as bytes.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // The types of this module have no maps of unknown length and no custom serializers: it can't fail.
    postcard::to_stdvec(value).unwrap_or_default()
}

/// A [`Payload`] as bytes, with its plan encoded before by [`encode_plan`]: a builder that is used often has the same one each
/// time.
pub fn encode_payload(plan: &[u8], rest: &PayloadRest) -> Vec<u8> {
    let rest = encode(rest);
    [plan, &rest].concat()
}

/// What of a [`Payload`] is the same for each container of a builder, or of a template.
pub fn encode_plan(plan: &Plan, template: Option<&Template>) -> Vec<u8> {
    [encode(plan), encode(&template)].concat()
}

/// Bytes as a value; bytes left over are an error.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FrameError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok(_) | Err(_) => Err(FrameError::Body),
    }
}

/// The [`BUILD`] in the body of a [`Hello`], also where the rest of that is different.
pub fn build_of_hello(body: &[u8]) -> Option<String> {
    postcard::take_from_bytes::<(i32, String)>(body).ok().map(|((_, build), _)| build)
}

/// A frame's bytes, without descriptors.
pub fn frame_bytes(kind: Kind, id: u64, body: &[u8], fds: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&kind.number().to_le_bytes());
    bytes.extend_from_slice(&id.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(fds).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// Checks a message: kind, id and body. `fds` is how many descriptors came with it, if that is known.
pub fn parse_frame(bytes: &[u8], fds: Option<usize>) -> Result<(Kind, u64, &[u8]), FrameError> {
    let (header, body) = bytes.split_at_checked(HEADER).ok_or(FrameError::Length)?;
    let field = |from: usize, to: usize| header.get(from..to).unwrap_or_default();
    let small = |from| u16::from_le_bytes(field(from, from + 2).try_into().unwrap_or_default());
    let medium = |from| u32::from_le_bytes(field(from, from + 4).try_into().unwrap_or_default());
    if field(0, 4) != MAGIC {
        return Err(FrameError::Magic);
    }
    if small(4) != VERSION {
        return Err(FrameError::Version(small(4)));
    }
    let kind = Kind::from_number(small(6)).ok_or(FrameError::Kind(small(6)))?;
    let id = u64::from_le_bytes(field(8, 16).try_into().unwrap_or_default());
    if medium(16) as usize != body.len() || body.len() > MAX_BODY {
        return Err(FrameError::Length);
    }
    if fds.is_some_and(|fds| medium(20) as usize != fds) {
        return Err(FrameError::Descriptors);
    }
    Ok((kind, id, body))
}

/// Sends a frame. `WouldBlock` only comes from a socket that doesn't wait.
pub fn send(
    socket: impl AsFd,
    kind: Kind,
    id: u64,
    body: &[u8],
    fds: &[BorrowedFd<'_>],
) -> Result<(), FrameError> {
    send_as(socket, kind, id, body, fds, None)
}

/// Sends a frame and says who sends it: the kernel checks that this is true.
pub fn send_as(
    socket: impl AsFd,
    kind: Kind,
    id: u64,
    body: &[u8],
    fds: &[BorrowedFd<'_>],
    sender: Option<UCred>,
) -> Result<(), FrameError> {
    if body.len() > MAX_BODY {
        return Err(FrameError::Length);
    }
    if fds.len() > MAX_FDS {
        return Err(FrameError::Descriptors);
    }
    let bytes = frame_bytes(kind, id, body, fds.len());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS), ScmCredentials(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(fds));
    }
    if let Some(sender) = sender {
        ancillary.push(SendAncillaryMessage::ScmCredentials(sender));
    }
    loop {
        match rustix::net::sendmsg(&socket, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Err(FrameError::WouldBlock),
            Err(Errno::PIPE | Errno::CONNRESET) => return Err(FrameError::Closed),
            Err(errno) => return Err(FrameError::System(errno.raw_os_error())),
        }
    }
}

thread_local! {
    /// Where frames are received: clearing so much for each would take longer than most frames do.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; HEADER + MAX_BODY]);
}

/// Receives one frame. Descriptors of a frame that is wrong are closed.
pub fn receive(socket: impl AsFd) -> Result<Frame, FrameError> {
    BUFFER.with_borrow_mut(|buffer| receive_into(socket.as_fd(), buffer))
}

fn receive_into(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> Result<Frame, FrameError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS + 3), ScmCredentials(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        match rustix::net::recvmsg(
            socket,
            &mut [IoSliceMut::new(bytes)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            Ok(message) => break message,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Err(FrameError::WouldBlock),
            Err(Errno::CONNRESET) => return Err(FrameError::Closed),
            Err(errno) => return Err(FrameError::System(errno.raw_os_error())),
        }
    };
    let mut fds = Vec::new();
    let mut sender = None;
    for item in ancillary.drain() {
        match item {
            RecvAncillaryMessage::ScmRights(rights) => fds.extend(rights),
            RecvAncillaryMessage::ScmCredentials(credentials) => {
                sender = Some((
                    credentials.pid.as_raw_nonzero().get(),
                    credentials.uid.as_raw(),
                    credentials.gid.as_raw(),
                ));
            }
            _ => {}
        }
    }
    if message.bytes == 0 {
        return Err(FrameError::Closed);
    }
    if message.flags.contains(ReturnFlags::TRUNC) {
        return Err(FrameError::Truncated);
    }
    // There is room for all that a frame has: what is missing could not be opened. The connection is as good as before.
    let descriptors_lost = message.flags.contains(ReturnFlags::CTRUNC);
    if descriptors_lost {
        fds.clear();
    }
    let known = (!descriptors_lost).then_some(fds.len());
    let (kind, id, body) = parse_frame(bytes.get(..message.bytes).unwrap_or_default(), known)?;
    Ok(Frame { kind, id, body: body.to_vec(), fds, descriptors_lost, sender })
}

/// A command that is executed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spawned {
    /// Its pid, in the namespace of the sender.
    pub pid: i32,
    /// What the caller should know, if anything.
    pub report: Option<Report>,
}

/// The answer to a request that can fail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer<T> {
    /// It is done.
    Done(T),
    /// It failed.
    Failed(Box<Error>),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_frame_arrives_with_its_descriptors() {
        let (here, there) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        send(&here, Kind::Start, 7, b"body", &[here.as_fd(), there.as_fd()]).unwrap();
        let frame = receive(&there).unwrap();
        assert_eq!(
            (frame.kind, frame.id, &frame.body[..], frame.fds.len()),
            (Kind::Start, 7, &b"body"[..], 2)
        );
        drop((here, frame));
        assert_eq!(receive(&there).unwrap_err(), FrameError::Closed);
    }

    #[test]
    fn wrong_frames_are_told_apart() {
        let good = frame_bytes(Kind::Close, 1, b"xy", 0);
        assert!(parse_frame(&good, Some(0)).is_ok());
        assert_eq!(parse_frame(&good, Some(1)), Err(FrameError::Descriptors));
        assert_eq!(parse_frame(&good[..10], Some(0)), Err(FrameError::Length));
        assert_eq!(parse_frame(&good[..25], Some(0)), Err(FrameError::Length));
        let changed = |at: usize, to: u8| {
            let mut bytes = good.clone();
            bytes[at] = to;
            bytes
        };
        assert_eq!(parse_frame(&changed(0, b'X'), Some(0)), Err(FrameError::Magic));
        assert_eq!(parse_frame(&changed(4, 9), Some(0)), Err(FrameError::Version(9)));
        assert_eq!(parse_frame(&changed(6, 200), Some(0)), Err(FrameError::Kind(200)));
        assert_eq!(parse_frame(&changed(16, 200), Some(0)), Err(FrameError::Length));
    }

    #[test]
    fn a_payload_is_its_plan_and_the_rest() {
        let spec = crate::spec::RootfsSpec::new(crate::spec::Root::Empty { size: None, mode: 0o755 });
        let rest = PayloadRest {
            process: None,
            usual: None,
            verify: true,
            report_steps: false,
            level: None,
            privileged: true,
            user: None,
        };
        let payload = Payload { plan: Plan::new(&spec).unwrap(), template: None, rest };
        let bytes = encode_payload(&encode_plan(&payload.plan, None), &payload.rest);
        assert_eq!(bytes, encode(&payload));
        assert_eq!(decode::<Payload>(&bytes).unwrap(), payload);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), fds in 0_usize..5) {
            let _ = parse_frame(&bytes, Some(fds));
            let _ = parse_frame(&bytes, None);
            let _: Result<Start, _> = decode(&bytes);
            let _: Result<Payload, _> = decode(&bytes);
            let _: Result<Error, _> = decode(&bytes);
        }

        #[test]
        fn a_frame_with_one_byte_changed_is_whole_or_refused(at in 0_usize..26, to in any::<u8>()) {
            let mut bytes = frame_bytes(Kind::Close, 1, b"xy", 0);
            bytes[at] = to;
            if let Ok((_, _, body)) = parse_frame(&bytes, Some(0)) {
                prop_assert_eq!(body.len(), 2);
            }
        }
    }
}
