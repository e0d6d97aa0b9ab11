//! The client of the supervisor: one for the whole Node process, with one thread that speaks with the supervisor and
//! with every container.
//!
//! JavaScript threads only queue: they send a request on a socket that doesn't wait, and what comes back is delivered
//! to the environment it belongs to.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rootfs::Hint;
use rootfs::error::{CallContext, Error, ErrorCode, Result, SysError};
use rootfs::journal;
use rootfs::kernel::supervisor_process::{self, SupervisorProcess};
use rootfs::kernel::{memfd, process};
use rootfs::mountinfo;
use rootfs::plan::Plan;
use rootfs::protocol::{
    self, Answer, Ended, ExecutedStep, Exit, Frame, FrameError, FunctionCall, Kind, Leftover, MAX_FDS,
    Report, Start, TakenDown,
};
use rustix::event::{EventfdFlags, epoll};
use rustix::net::UCred;
use rustix::process::Signal;

use crate::identity::Identity;
use crate::supervisor::{self, SupervisorFile, duplicate, socket_pair};

/// What happened to a container, or to a command in one.
#[derive(Debug)]
pub(crate) enum News {
    /// A step was carried out.
    Step(ExecutedStep),
    /// All steps are done, and the first process waits for commands.
    Ready { pid: i32, report: Report },
    /// The command runs.
    Spawned { pid: i32, report: Option<Report> },
    /// It could not be prepared or started.
    Failed(Box<Error>),
    /// It has ended.
    Exited(Exit),
    /// A function of the caller is to be run.
    Function { pid: i32, call: FunctionCall },
    /// Everything is taken down.
    Closed(TakenDown),
    /// The mount table.
    Mounts(Vec<mountinfo::Entry>),
    /// A command whose output was collected is over with everything.
    Finished(Box<Finished>),
}

/// All there is to know about a command that was run to its end.
#[derive(Debug, Default)]
pub(crate) struct Finished {
    pub(crate) exit: Option<Exit>,
    pub(crate) failure: Option<Box<Error>>,
    pub(crate) report: Option<Report>,
    pub(crate) left: Vec<Leftover>,
    /// Hooks that failed after its end.
    pub(crate) failures: Vec<Error>,
    pub(crate) output: [Vec<u8>; 2],
    /// The stream that had more than was to be taken: 1 or 2.
    pub(crate) overflow: Option<usize>,
}

/// How the output of a command is collected, and what it is given to read.
#[derive(Debug)]
pub(crate) struct Collection {
    pub(crate) max_buffer: usize,
    pub(crate) input: Vec<u8>,
    /// Our ends: of standard input, output and error.
    pub(crate) streams: [Option<OwnedFd>; 3],
}

/// The collection of one command, under way.
struct Collector {
    container: u64,
    child: u64,
    streams: [Option<OwnedFd>; 3],
    /// The command's own ends of its pipes. As long as they are open, the end of its processes wakes nobody here; they all
    /// end with the container, and then what is left in the pipes is read.
    held: Vec<OwnedFd>,
    input: Vec<u8>,
    written: usize,
    max_buffer: usize,
    finished: Finished,
    /// Nothing more is told about it.
    over: bool,
    /// A signal asked for before there was a process.
    queued: Option<i32>,
    /// Whether its beginning is told at once, and not only at the end.
    announce: bool,
}

/// News, and what it is about.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) container: u64,
    /// Which command; 0 for the container itself.
    pub(crate) child: u64,
    pub(crate) plan: Arc<Plan>,
    pub(crate) news: News,
}

/// Where the news of an environment goes. Called on the client's thread.
pub(crate) type Sink = Box<dyn Fn(Event) + Send>;

/// Everything that a container is begun with.
pub(crate) struct Beginning {
    pub(crate) environment: u64,
    pub(crate) plan: Arc<Plan>,
    pub(crate) start: Start,
    /// A sealed memory file.
    pub(crate) payload: OwnedFd,
    /// The ends of the container: the standard three, then further ones.
    pub(crate) streams: Vec<OwnedFd>,
    /// The cgroup's directory.
    pub(crate) cgroup: Option<OwnedFd>,
    /// Namespaces that are joined.
    pub(crate) joined: Vec<OwnedFd>,
    /// Bind sources.
    pub(crate) sources: Vec<OwnedFd>,
    /// Whether it is one command.
    pub(crate) one_command: bool,
    /// Whether its output is collected here.
    pub(crate) collection: Option<Collection>,
    /// Whether what the first process says is told at once, and not only at the end.
    pub(crate) watch: bool,
    /// Whether functions of the caller run on the way.
    pub(crate) functions: bool,
}

struct Supervisor {
    number: u64,
    socket: Arc<OwnedFd>,
    process: SupervisorProcess,
    identity: Identity,
}

#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
struct Container {
    supervisor: u64,
    environment: u64,
    plan: Arc<Plan>,
    one_command: bool,
    /// Our end of the first process's socket.
    socket: Arc<OwnedFd>,
    journal: OwnedFd,
    process: Option<(i32, Arc<OwnedFd>)>,
    report: Option<Report>,
    failure: Option<Box<Error>>,
    /// The first process has closed its end: its command is executed, or it is gone.
    silent: bool,
    told: bool,
    /// The poststart programs still run: it has not begun before.
    starting: bool,
    children: BTreeMap<u64, Option<Arc<OwnedFd>>>,
}

/// A first process that waits to be asked for something.
struct SpareProcess {
    id: u64,
    supervisor: u64,
    start: Start,
    socket: OwnedFd,
    journal: OwnedFd,
    pid: i32,
    pidfd: OwnedFd,
    /// When it is given up.
    until: Instant,
}

/// As many kinds of containers have a first process that waits.
const MAX_SPARES: usize = 2;

/// How long a first process waits that nobody needs.
const SPARE_LIFETIME: Duration = Duration::from_secs(5);

/// A frame that waits until it can be sent.
struct Unsent {
    socket: Arc<OwnedFd>,
    kind: Kind,
    id: u64,
    body: Vec<u8>,
    fds: Vec<OwnedFd>,
}

#[derive(Default)]
struct State {
    executable: Option<OwnedFd>,
    supervisors: Vec<Supervisor>,
    /// Beginnings that wait for a supervisor.
    waiting: Vec<(u64, OwnedFd, Beginning)>,
    starting: bool,
    containers: BTreeMap<u64, Container>,
    environments: BTreeMap<u64, Sink>,
    unsent: Vec<Unsent>,
    spares: Vec<SpareProcess>,
    path: Option<CString>,
    /// By the number of the container that is one command, or of the command.
    collectors: BTreeMap<u64, Collector>,
    /// Containers that are taken down while their output is still being read.
    ended: BTreeMap<u64, (u64, Arc<Plan>)>,
}

/// The one client.
pub(crate) struct Client {
    epoll: OwnedFd,
    wake: OwnedFd,
    state: Mutex<State>,
    next: AtomicU64,
}

static CLIENT: OnceLock<std::result::Result<Arc<Client>, String>> = OnceLock::new();

/// What an event of the thread is about: a number that the kernel keeps for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Wake,
    Supervisor(u64),
    Container(u64),
    Stream(u64, usize),
}

impl Token {
    fn pack(self) -> u64 {
        match self {
            Self::Wake => 0,
            Self::Supervisor(number) => number << 3 | 1,
            Self::Container(id) => id << 3 | 2,
            Self::Stream(id, index) => id << 3 | (3 + index as u64),
        }
    }

    fn unpack(word: u64) -> Self {
        match (word >> 3, word & 7) {
            (number, 1) => Self::Supervisor(number),
            (id, 2) => Self::Container(id),
            (id, kind @ 3..=5) => Self::Stream(
                id,
                if kind == 3 {
                    0
                } else if kind == 4 {
                    1
                } else {
                    2
                },
            ),
            _ => Self::Wake,
        }
    }
}

fn closed() -> Box<Error> {
    Error::new(ErrorCode::Closed, "the container has ended")
}

impl Container {
    fn new(beginning: &Beginning, socket: OwnedFd, journal: OwnedFd) -> Self {
        Self {
            supervisor: 0,
            environment: beginning.environment,
            plan: Arc::clone(&beginning.plan),
            one_command: beginning.one_command,
            socket: Arc::new(socket),
            journal,
            process: None,
            report: None,
            failure: None,
            silent: false,
            told: false,
            starting: beginning.start.poststart,
            children: BTreeMap::new(),
        }
    }
}

impl SpareProcess {
    fn from_frame(supervisor: u64, frame: Frame) -> Option<Self> {
        let id = frame.id;
        let protocol::Spare { start, pid } = frame.decode().ok()?;
        let mut fds = frame.fds.into_iter();
        let (socket, journal, pidfd) = (fds.next()?, fds.next()?, fds.next()?);
        rustix::io::ioctl_fionbio(&socket, true).ok()?;
        let until = Instant::now() + SPARE_LIFETIME;
        Some(Self { id, supervisor, start, socket, journal, pid, pidfd, until })
    }
}

/// The spare process that can do what is asked for, if there is one.
fn take_spare(state: &mut State, supervisor: u64, beginning: &Beginning) -> Option<SpareProcess> {
    // Its request is one message.
    if beginning.sources.len() + beginning.streams.len() + beginning.joined.len() > MAX_FDS - 1
        || state.spares.is_empty()
    {
        return None;
    }
    let wanted = beginning.start.without_sources();
    let position =
        state.spares.iter().position(|spare| spare.supervisor == supervisor && spare.start == wanted)?;
    Some(state.spares.remove(position))
}

impl Client {
    /// The client, and its thread, begin with the first use.
    pub(crate) fn get() -> Result<Arc<Self>> {
        CLIENT
            .get_or_init(|| Self::begin().map_err(|errno| errno.to_string()))
            .clone()
            .map_err(|what| Error::new(ErrorCode::Supervisor, format!("the client can't begin: {what}")))
    }

    fn begin() -> std::result::Result<Arc<Self>, std::io::Error> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(Token::Wake.pack()), epoll::EventFlags::IN)?;
        let client = Arc::new(Self { epoll, wake, state: Mutex::default(), next: AtomicU64::new(1) });
        let thread = Arc::clone(&client);
        std::thread::Builder::new()
            .name("rootfs".into())
            .stack_size(512 << 10)
            .spawn(move || thread.listen())?;
        Ok(client)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn wake(&self) {
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Says where news of an environment goes, and where the supervisor's executable is.
    pub(crate) fn add_environment(&self, environment: u64, sink: Sink, path: CString) {
        let mut state = self.state();
        state.environments.insert(environment, sink);
        state.path.get_or_insert(path);
    }

    /// An environment is torn down: so are its containers.
    pub(crate) fn remove_environment(&self, environment: u64) {
        let mut state = self.state();
        state.environments.remove(&environment);
        let ids: Vec<u64> = state
            .containers
            .iter()
            .filter(|(_, container)| container.environment == environment)
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.send_close(&mut state, id);
        }
    }

    /// Begins a container. What comes of it is told as news.
    pub(crate) fn start(&self, mut beginning: Beginning) -> Result<u64> {
        // A caller who has become somebody else must not keep an older, stronger supervisor.
        let identity = Identity::of_this_process();
        let mut state = self.state();
        let current = state.supervisors.iter().rev().find(|supervisor| supervisor.identity == identity);
        let current = current.map(|supervisor| supervisor.number);
        if let Some(spare) = current.and_then(|number| take_spare(&mut state, number, &beginning)) {
            let id = spare.id;
            match self.begin_spare(&mut state, spare, beginning)? {
                None => return Ok(id),
                Some(given_back) => beginning = given_back,
            }
        }
        let id = self.number();
        let (ours, theirs) = socket_pair()?;
        let journal = rustix::fs::memfd_create(c"rootfs-journal", rustix::fs::MemfdFlags::CLOEXEC)
            .map_err(|errno| SysError::new("memfd_create", errno, "\"rootfs-journal\""))
            .context(ErrorCode::Supervisor, || "the journal can't be made")?;
        let container = Container::new(&beginning, ours, journal);
        self.add_container(&mut state, id, container, &mut beginning)?;
        if let Some(number) = current {
            if let Err(error) = self.send_start(&mut state, number, id, theirs, beginning) {
                state.containers.remove(&id);
                state.collectors.remove(&id);
                return Err(error);
            }
        } else {
            state.waiting.push((id, theirs, beginning));
            state.starting = true;
            self.wake();
        }
        Ok(id)
    }

    /// Has a process that waits begin a container. If it was ended by somebody else, what it was to begin is given back.
    fn begin_spare(
        &self,
        state: &mut State,
        spare: SpareProcess,
        mut beginning: Beginning,
    ) -> Result<Option<Beginning>> {
        let id = spare.id;
        let mut container = Container::new(&beginning, spare.socket, spare.journal);
        container.supervisor = spare.supervisor;
        container.process = Some((spare.pid, Arc::new(spare.pidfd)));
        let socket = Arc::clone(&container.socket);
        // It is woken on this processor and waits until this thread sleeps: what can be done before is.
        self.add_container(state, id, container, &mut beginning)?;
        let Beginning { payload, streams, joined, sources, .. } = &beginning;
        let (standard, further) = streams.split_at(streams.len().min(3));
        let fds = std::iter::once(payload).chain(standard).chain(joined).chain(further).chain(sources);
        let fds: Vec<BorrowedFd<'_>> = fds.map(AsFd::as_fd).collect();
        // Its socket is empty, so this doesn't wait.
        if protocol::send_as(&socket, Kind::Begin, id, &[], &fds, Some(sender())).is_err() {
            state.containers.remove(&id);
            let _ = epoll::delete(&self.epoll, &socket);
            beginning.collection = state.collectors.remove(&id).map(|collector| self.take_back(collector));
            return Ok(Some(beginning));
        }
        if let Some(collector) = state.collectors.get_mut(&id)
            && beginning.start.pid
        {
            let piped = collector.streams.iter().map(Option::is_some);
            let ends = beginning.streams.into_iter().zip(piped).skip(1);
            collector.held = ends.filter_map(|(end, piped)| piped.then_some(end)).collect();
        }
        Ok(None)
    }

    /// What a collector was made from, before anything was read.
    fn take_back(&self, collector: Collector) -> Collection {
        let Collector { max_buffer, input, streams, .. } = collector;
        for stream in streams.iter().flatten() {
            let _ = epoll::delete(&self.epoll, stream);
        }
        Collection { max_buffer, input, streams }
    }

    /// Takes a container in. One that can't be is ended.
    fn add_container(
        &self,
        state: &mut State,
        id: u64,
        container: Container,
        beginning: &mut Beginning,
    ) -> Result<()> {
        let watched =
            if beginning.watch { self.watch(container.socket.as_fd(), Token::Container(id)) } else { Ok(()) };
        state.containers.insert(id, container);
        let added = watched.and_then(|()| match beginning.collection.take() {
            Some(collection) => {
                self.collect(state, id, 0, id, collection)?;
                if let Some(collector) = state.collectors.get_mut(&id) {
                    collector.announce = beginning.functions;
                }
                Ok(())
            }
            None => Ok(()),
        });
        if added.is_err() {
            self.send_close(state, id);
            state.containers.remove(&id);
        }
        added
    }

    fn watch(&self, fd: BorrowedFd<'_>, token: Token) -> Result<()> {
        let flags =
            if matches!(token, Token::Stream(_, 0)) { epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token.pack()), flags)
            .map_err(|errno| SysError::new("epoll_ctl", errno, format!("EPOLL_CTL_ADD, {token:?}")))
            .context(ErrorCode::Supervisor, || "the client can't watch a descriptor")
    }

    fn send_start(
        &self,
        state: &mut State,
        supervisor: u64,
        id: u64,
        socket: OwnedFd,
        beginning: Beginning,
    ) -> Result<()> {
        let Some(to) = state.supervisors.iter().find(|known| known.number == supervisor) else {
            return Err(closed());
        };
        let to = Arc::clone(&to.socket);
        let Some(container) = state.containers.get_mut(&id) else { return Err(closed()) };
        container.supervisor = supervisor;
        let journal = duplicate(&container.journal)?;
        let Beginning { start, payload, streams, cgroup, joined, sources, .. } = beginning;
        let mut streams = streams.into_iter();
        let mut fds = vec![payload, socket, journal];
        fds.extend(streams.by_ref().take(3));
        fds.extend(cgroup);
        fds.extend(joined);
        let mut others: Vec<OwnedFd> = streams.chain(sources).collect();
        // What doesn't fit into one message goes before.
        let room = MAX_FDS - fds.len();
        let early: Vec<OwnedFd> = others.drain(..others.len().saturating_sub(room)).collect();
        let mut early = early.into_iter().peekable();
        while early.peek().is_some() {
            let fds: Vec<OwnedFd> = early.by_ref().take(MAX_FDS).collect();
            self.send(state, &to, Kind::Fds, id, Vec::new(), fds);
        }
        fds.append(&mut others);
        self.send(state, &to, Kind::Start, id, protocol::encode(&start), fds);
        Ok(())
    }

    /// Sends now, or leaves it to the thread when the socket is full.
    fn send(
        &self,
        state: &mut State,
        socket: &Arc<OwnedFd>,
        kind: Kind,
        id: u64,
        body: Vec<u8>,
        fds: Vec<OwnedFd>,
    ) {
        let frame = Unsent { socket: Arc::clone(socket), kind, id, body, fds };
        if state.unsent.is_empty() {
            if let Err(frame) = try_send(frame) {
                state.unsent.push(frame);
                self.wake();
            }
        } else {
            state.unsent.push(frame);
        }
    }

    /// Starts a command in a prepared root. Its number.
    pub(crate) fn spawn(
        &self,
        container: u64,
        payload: OwnedFd,
        mut streams: Vec<OwnedFd>,
        collection: Option<Collection>,
    ) -> Result<u64> {
        let child = self.number();
        let mut state = self.state();
        let known = state.containers.get_mut(&container).ok_or_else(closed)?;
        if known.silent {
            return Err(closed());
        }
        known.children.insert(child, None);
        let socket = Arc::clone(&known.socket);
        if let Some(collection) = collection {
            self.collect(&mut state, container, child, child, collection)?;
        }
        streams.insert(0, payload);
        self.send(&mut state, &socket, Kind::Spawn, child, Vec::new(), streams);
        Ok(child)
    }

    /// Has the thread collect what a command writes, and give it what it is to read.
    fn collect(
        &self,
        state: &mut State,
        container: u64,
        child: u64,
        key: u64,
        collection: Collection,
    ) -> Result<()> {
        let Collection { max_buffer, input, streams } = collection;
        for (index, stream) in streams.iter().enumerate() {
            if let Some(stream) = stream {
                rustix::io::ioctl_fionbio(stream, true)
                    .map_err(|errno| SysError::new("ioctl", errno, "FIONBIO"))
                    .context(ErrorCode::Exec, || format!("the pipe of stdio[{index}] can't be used"))?;
                self.watch(stream.as_fd(), Token::Stream(key, index))?;
            }
        }
        let collector = Collector {
            container,
            child,
            streams,
            held: Vec::new(),
            input,
            written: 0,
            max_buffer,
            finished: Finished::default(),
            over: false,
            queued: None,
            announce: false,
        };
        state.collectors.insert(key, collector);
        Ok(())
    }

    /// Reads what a command has written, or writes what it can take.
    fn serve_stream(&self, state: &mut State, key: u64, index: usize) {
        let Some(collector) = state.collectors.get_mut(&key) else { return };
        let Some(stream) = collector.streams[index].take() else { return };
        let (container, child) = (collector.container, collector.child);
        let had_overflow = collector.finished.overflow.is_some();
        let open = if index == 0 { collector.write(&stream) } else { collector.read(&stream, index) };
        let overflow = !had_overflow && collector.finished.overflow.is_some();
        if open && !overflow {
            collector.streams[index] = Some(stream);
        } else {
            let _ = epoll::delete(&self.epoll, &stream);
        }
        if overflow {
            kill_process(state, container, child, 9);
        }
        finish(state, key);
    }

    /// Asks for the mount table. The number of the answer.
    pub(crate) fn mounts(&self, container: u64) -> Result<u64> {
        let request = self.number();
        let mut state = self.state();
        let known = state.containers.get_mut(&container).ok_or_else(closed)?;
        if known.silent {
            return Err(closed());
        }
        known.children.insert(request, None);
        let socket = Arc::clone(&known.socket);
        self.send(&mut state, &socket, Kind::Mounts, request, Vec::new(), Vec::new());
        Ok(request)
    }

    /// Sends a signal to a command, or with 0 to the first process. `false` if there is none.
    pub(crate) fn kill(&self, container: u64, child: u64, signal: i32) -> bool {
        kill_process(&mut self.state(), container, child, signal)
    }

    /// Tells a first process how the function went that it has asked for.
    pub(crate) fn answer_function(&self, container: u64, failure: Option<String>) {
        let answer: Answer<()> = match failure {
            Some(message) => Answer::Failed(Error::new(ErrorCode::Hook, message)),
            None => Answer::Done(()),
        };
        let mut state = self.state();
        let Some(socket) = state.containers.get(&container).map(|known| Arc::clone(&known.socket)) else {
            return;
        };
        self.send(&mut state, &socket, Kind::FunctionDone, 0, protocol::encode(&answer), Vec::new());
    }

    /// Has a container killed and taken down.
    pub(crate) fn close(&self, container: u64) {
        let mut state = self.state();
        self.send_close(&mut state, container);
    }

    fn send_close(&self, state: &mut State, id: u64) {
        if let Some(position) = state.waiting.iter().position(|(waiting, ..)| *waiting == id) {
            // Nobody has heard of it yet.
            state.waiting.remove(position);
            if let Some(container) = state.containers.remove(&id) {
                deliver(state, id, 0, &container, News::Failed(closed()));
                deliver(state, id, 0, &container, News::Closed(TakenDown::default()));
            }
            return;
        }
        let Some(number) = state.containers.get(&id).map(|container| container.supervisor) else { return };
        let socket = state
            .supervisors
            .iter()
            .find(|known| known.number == number)
            .map(|known| Arc::clone(&known.socket));
        if let Some(socket) = socket {
            self.send(state, &socket, Kind::Close, id, Vec::new(), Vec::new());
        }
    }

    /// The thread.
    fn listen(&self) {
        let mut events = Vec::with_capacity(256);
        loop {
            events.clear();
            let timeout = self.patience();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return,
            }
            let mut counter = [0; 8];
            let _ = rustix::io::read(&self.wake, &mut counter);
            // A panic must not end the thread that everything depends on, nor leave anybody waiting.
            let served = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let mut state = self.state();
                flush(&mut state);
                for event in &events {
                    match Token::unpack(event.data.u64()) {
                        Token::Wake => {}
                        Token::Supervisor(number) => self.hear_supervisor(&mut state, number),
                        Token::Container(id) => hear_container(&mut state, id),
                        Token::Stream(id, index) => self.serve_stream(&mut state, id, index),
                    }
                }
            }));
            if served.is_err() {
                let numbers: Vec<u64> = self.state().supervisors.iter().map(|known| known.number).collect();
                for number in numbers {
                    self.lose_supervisor(&mut self.state(), number);
                }
            }
            if self.state().starting {
                self.start_supervisor();
            }
        }
    }

    /// How long the thread waits for events: until something can be sent again, or a spare process is given up.
    fn patience(&self) -> Option<rustix::event::Timespec> {
        let mut state = self.state();
        if !state.unsent.is_empty() {
            return Some(rustix::event::Timespec { tv_sec: 0, tv_nsec: 1_000_000 });
        }
        let now = Instant::now();
        while let Some(position) = state.spares.iter().position(|spare| spare.until <= now) {
            self.give_up_spare(&mut state, position);
        }
        let until = state.spares.iter().map(|spare| spare.until).min()?;
        rustix::event::Timespec::try_from(until.saturating_duration_since(now)).ok()
    }

    /// Has a spare process ended by its supervisor.
    fn give_up_spare(&self, state: &mut State, position: usize) {
        let spare = state.spares.remove(position);
        let supervisor = state.supervisors.iter().find(|known| known.number == spare.supervisor);
        if let Some(socket) = supervisor.map(|known| Arc::clone(&known.socket)) {
            self.send(state, &socket, Kind::Close, spare.id, Vec::new(), Vec::new());
        }
    }

    /// Starts a supervisor for all that wait. Runs on the thread, without the lock while it takes time.
    fn start_supervisor(&self) {
        let identity = Identity::of_this_process();
        let started = self.executable().and_then(|executable| supervisor::begin(&executable));
        let mut state = self.state();
        state.starting = false;
        let waiting = std::mem::take(&mut state.waiting);
        match started {
            Ok((process, socket)) => {
                let number = self.number();
                let socket = Arc::new(socket);
                let watched = self.watch(socket.as_fd(), Token::Supervisor(number));
                state.supervisors.push(Supervisor { number, socket, process, identity });
                for (id, theirs, beginning) in waiting {
                    let sent = match &watched {
                        Ok(()) => self.send_start(&mut state, number, id, theirs, beginning),
                        Err(error) => Err(error.clone()),
                    };
                    if let Err(error) = sent {
                        fail(&mut state, id, error);
                    }
                }
            }
            Err(error) => {
                for (id, ..) in waiting {
                    fail(&mut state, id, error.clone());
                }
            }
        }
        self.retire(&mut state);
    }

    /// Ends supervisors of earlier identities that have no containers any more.
    fn retire(&self, state: &mut State) {
        let newest = state.supervisors.last().map(|known| known.number);
        let used: Vec<u64> = state.containers.values().map(|container| container.supervisor).collect();
        let mut kept = Vec::new();
        for supervisor in std::mem::take(&mut state.supervisors) {
            if Some(supervisor.number) == newest || used.contains(&supervisor.number) {
                kept.push(supervisor);
            } else {
                state.spares.retain(|spare| spare.supervisor != supervisor.number);
                let _ = epoll::delete(&self.epoll, &*supervisor.socket);
                drop(supervisor.socket);
                supervisor_process::reap(supervisor.process.pid);
            }
        }
        state.supervisors = kept;
    }

    /// The supervisor's executable: its file, or a sealed copy of it.
    fn executable(&self) -> Result<SupervisorFile> {
        let mut state = self.state();
        if let Some(file) = SupervisorFile::of_environment()? {
            return Ok(file);
        }
        if state.executable.is_none() {
            let path = state.path.clone().unwrap_or_default();
            state.executable = Some(SupervisorFile::copy(&path)?);
        }
        match &state.executable {
            Some(copy) => duplicate(copy).map(SupervisorFile::Memory),
            None => Err(Error::new(ErrorCode::Supervisor, "the supervisor's executable is missing")),
        }
    }

    /// Where the file of the supervisor is.
    pub(crate) fn path(&self) -> CString {
        self.state().path.clone().unwrap_or_default()
    }

    fn hear_supervisor(&self, state: &mut State, number: u64) {
        loop {
            let Some(socket) = state
                .supervisors
                .iter()
                .find(|known| known.number == number)
                .map(|known| Arc::clone(&known.socket))
            else {
                return;
            };
            match protocol::receive(&*socket) {
                Ok(frame) => self.serve_supervisor(state, number, frame),
                Err(FrameError::WouldBlock) => return,
                Err(_) => return self.lose_supervisor(state, number),
            }
        }
    }

    fn serve_supervisor(&self, state: &mut State, number: u64, frame: Frame) {
        let id = frame.id;
        match frame.kind {
            Kind::Spare => {
                if let Some(spare) = SpareProcess::from_frame(number, frame) {
                    // One of each kind, and not of many: the oldest is for something that isn't asked for any more.
                    if state.spares.len() >= MAX_SPARES {
                        self.give_up_spare(state, 0);
                    }
                    state.spares.push(spare);
                }
            }
            Kind::Refused => {
                let error = frame.decode::<Error>().map_or_else(|_| closed(), Box::new);
                fail(state, id, error);
            }
            Kind::Exited => {
                // What the first process said before it ended comes first.
                hear_container(state, id);
                state.spares.retain(|spare| spare.id != id);
                let Ok(Ended { exit, closed }) = frame.decode() else { return };
                if let Some(container) = state.containers.get_mut(&id) {
                    container.silent = true;
                    end(state, id, exit);
                }
                if closed {
                    self.closed(state, id, TakenDown::default());
                }
            }
            Kind::Closed => {
                let taken_down = frame.decode().unwrap_or_default();
                self.closed(state, id, taken_down);
            }
            Kind::Poststart => {
                hear_container(state, id);
                let answer = frame.decode::<Answer<()>>().unwrap_or_else(|_| Answer::Failed(closed()));
                if let Some(mut container) = state.containers.remove(&id) {
                    container.starting = false;
                    match answer {
                        Answer::Done(()) => tell_begun(state, id, &mut container),
                        Answer::Failed(error) => container.failure = Some(error),
                    }
                    state.containers.insert(id, container);
                }
            }
            _ => {}
        }
    }

    /// All of a container is taken down.
    fn closed(&self, state: &mut State, id: u64, taken_down: TakenDown) {
        if let Some(container) = state.containers.remove(&id) {
            let _ = epoll::delete(&self.epoll, &*container.socket);
            remember(state, id, &container);
            deliver(state, id, 0, &container, News::Closed(taken_down));
        }
        if state.supervisors.len() > 1 {
            self.retire(state);
        }
    }

    /// A supervisor is gone: so are its containers, and what it can't clean up any more is cleaned up here.
    fn lose_supervisor(&self, state: &mut State, number: u64) {
        let Some(position) = state.supervisors.iter().position(|known| known.number == number) else {
            return;
        };
        let supervisor = state.supervisors.remove(position);
        state.spares.retain(|spare| spare.supervisor != number);
        let _ = epoll::delete(&self.epoll, &*supervisor.socket);
        supervisor_process::reap(supervisor.process.pid);
        let ids: Vec<u64> = state
            .containers
            .iter()
            .filter(|(_, container)| container.supervisor == number)
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            hear_container(state, id);
            let Some(container) = state.containers.remove(&id) else { continue };
            remember(state, id, &container);
            let _ = epoll::delete(&self.epoll, &*container.socket);
            if let Some((_, pidfd)) = &container.process {
                rootfs::kernel::process::kill(pidfd.as_fd());
                wait_until_ended(pidfd);
            }
            let lost =
                Error::new(ErrorCode::Supervisor, "the supervisor has ended, and its containers with it");
            for child in container.children.keys() {
                deliver(state, id, *child, &container, News::Failed(lost.clone()));
            }
            if container.told && container.one_command {
                deliver(state, id, 0, &container, News::Exited(Exit::Signal(9)));
            } else {
                deliver(state, id, 0, &container, News::Failed(lost));
            }
            let cleaned = journal::clean_up(&container.journal);
            let mut left = cleaned.left;
            left.extend(cleaned.in_use.iter().map(|record| journal::leftover(record, "its tree is in use")));
            deliver(state, id, 0, &container, News::Closed(TakenDown { left, failures: Vec::new() }));
        }
    }
}

/// Adds what only shows from here, where the host's policy can be read: the first process may be behind its root already.
fn explained(error: Box<Error>) -> Box<Error> {
    // Whoever has no rights over the host gets a user namespace.
    if error.hint.is_none()
        && !process::has_capability(process::CAP_SYS_ADMIN)
        && let Some(hint) = Hint::of_restricted_user_namespace(&error)
    {
        return error.with_hint(hint);
    }
    error
}

fn has_ended(pidfd: &OwnedFd) -> bool {
    let poll = &mut [rustix::event::PollFd::new(pidfd, rustix::event::PollFlags::IN)];
    rustix::event::poll(poll, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })) != Ok(0)
}

fn wait_until_ended(pidfd: &OwnedFd) {
    let poll = &mut [rustix::event::PollFd::new(pidfd, rustix::event::PollFlags::IN)];
    let _ = rustix::event::poll(poll, Some(&rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 }));
}

/// Who sends: the kernel checks it, and the supervisor compares it with who started it.
fn sender() -> UCred {
    UCred { pid: rustix::process::getpid(), uid: rustix::process::geteuid(), gid: rustix::process::getegid() }
}

/// Sends a frame; gives it back when it has to wait. One whose receiver is gone is dropped: its end is noticed elsewhere.
fn try_send(frame: Unsent) -> std::result::Result<(), Unsent> {
    const ETOOMANYREFS: i32 = 109;
    const ENOBUFS: i32 = 105;
    let fds: Vec<BorrowedFd<'_>> = frame.fds.iter().map(AsFd::as_fd).collect();
    let from = (frame.kind == Kind::Start).then(sender);
    match protocol::send_as(&*frame.socket, frame.kind, frame.id, &frame.body, &fds, from) {
        // Too many descriptors in flight: they land when the other side has received some.
        Err(FrameError::WouldBlock | FrameError::System(ETOOMANYREFS | ENOBUFS)) => Err(frame),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn flush(state: &mut State) {
    let mut waiting = std::mem::take(&mut state.unsent).into_iter();
    for frame in waiting.by_ref() {
        if let Err(frame) = try_send(frame) {
            state.unsent.push(frame);
            break;
        }
    }
    state.unsent.extend(waiting);
}

fn deliver(state: &mut State, id: u64, child: u64, container: &Container, news: News) {
    let key = if child == 0 { id } else { child };
    let news = match state.collectors.get_mut(&key) {
        Some(collector) => {
            if let Some(news) = collector.note(news) {
                news
            } else {
                let queued = collector.queued.filter(|_| collector.finished.report.is_some());
                if let (Some(signal), Some(pidfd)) = (queued, pidfd_of(container, child)) {
                    send_signal(&pidfd, signal);
                }
                return finish_of(state, key, container);
            }
        }
        None => news,
    };
    if let Some(sink) = state.environments.get(&container.environment) {
        sink(Event { container: id, child, plan: Arc::clone(&container.plan), news });
    }
}

fn pidfd_of(container: &Container, child: u64) -> Option<Arc<OwnedFd>> {
    match child {
        0 => container.process.as_ref().map(|(_, pidfd)| Arc::clone(pidfd)),
        _ => container.children.get(&child).and_then(Clone::clone),
    }
}

fn send_signal(pidfd: &OwnedFd, signal: i32) -> bool {
    if signal == 0 {
        return !has_ended(pidfd);
    }
    Signal::from_named_raw(signal)
        .is_some_and(|signal| rustix::process::pidfd_send_signal(pidfd, signal).is_ok())
}

/// Sends a signal now, or for a collected command as soon as it runs.
fn kill_process(state: &mut State, id: u64, child: u64, signal: i32) -> bool {
    // One that isn't watched may have said that it exists.
    hear_container(state, id);
    if let Some(pidfd) = state.containers.get(&id).and_then(|container| pidfd_of(container, child)) {
        return send_signal(&pidfd, signal);
    }
    match state.collectors.get_mut(&if child == 0 { id } else { child }) {
        Some(collector) if !collector.over => {
            collector.queued = Some(signal);
            true
        }
        _ => false,
    }
}

/// As much as is read at once.
const CHUNK: usize = 64 << 10;

impl Collector {
    /// Takes what is there. `false` at the end.
    fn read(&mut self, stream: &OwnedFd, index: usize) -> bool {
        let into = &mut self.finished.output[index - 1];
        loop {
            let before = into.len();
            into.reserve(CHUNK);
            match rustix::io::read(stream, rustix::buffer::spare_capacity(into)) {
                Ok(0) => return false,
                Ok(_) => {
                    if into.len() > self.max_buffer {
                        into.truncate(self.max_buffer);
                        self.finished.overflow = Some(index);
                        return false;
                    }
                    // A short read has taken all there was.
                    if into.len() - before < CHUNK {
                        return true;
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
    }

    /// Nobody is left who could write: takes what is there.
    fn read_rest(&mut self) {
        self.held.clear();
        for index in 1..3 {
            if let Some(stream) = self.streams[index].take() {
                // Until its end, the limit, or nothing more: an end that was given to a process outside doesn't count.
                let length = |of: &Self| of.finished.output[index - 1].len();
                let mut before = None;
                while before != Some(length(self)) {
                    before = Some(length(self));
                    if !self.read(&stream, index) {
                        break;
                    }
                }
            }
        }
    }

    /// Gives what can be taken. `false` when all is given, or nobody reads.
    fn write(&mut self, stream: &OwnedFd) -> bool {
        while self.written < self.input.len() {
            match rustix::io::write(stream, &self.input[self.written..]) {
                Ok(count) => self.written += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
        false
    }

    /// Keeps what is told until all is; what it doesn't keep goes on.
    fn note(&mut self, news: News) -> Option<News> {
        match news {
            News::Spawned { pid, report } => {
                self.finished.report = Some(report.unwrap_or_default());
                return self.announce.then_some(News::Spawned { pid, report: None });
            }
            News::Failed(error) => {
                self.finished.failure.get_or_insert(error);
                self.over |= self.child != 0;
            }
            News::Exited(exit) => {
                self.finished.exit = Some(exit);
                self.over |= self.child != 0;
            }
            News::Closed(taken_down) => {
                (self.finished.left, self.finished.failures) = (taken_down.left, taken_down.failures);
                self.over = true;
                if !self.held.is_empty() {
                    self.read_rest();
                }
            }
            other => return Some(other),
        }
        None
    }

    /// Whether nothing more will come.
    fn is_finished(&self) -> bool {
        let silent = self.streams[1].is_none() && self.streams[2].is_none();
        self.over && (silent || self.finished.failure.is_some())
    }
}

/// Keeps what is needed to tell the end of commands whose output is still being read.
fn remember(state: &mut State, id: u64, container: &Container) {
    if state.collectors.values().any(|collector| collector.container == id) {
        state.ended.insert(id, (container.environment, Arc::clone(&container.plan)));
    }
}

fn finish(state: &mut State, key: u64) {
    let Some(id) = state.collectors.get(&key).map(|collector| collector.container) else { return };
    // The container may be gone already: its streams end last.
    if let Some(container) = state.containers.remove(&id) {
        finish_of(state, key, &container);
        state.containers.insert(id, container);
    } else if let Some((environment, plan)) = state.ended.get(&id).cloned() {
        tell_finished(state, key, environment, &plan);
    }
}

fn finish_of(state: &mut State, key: u64, container: &Container) {
    let (environment, plan) = (container.environment, Arc::clone(&container.plan));
    tell_finished(state, key, environment, &plan);
}

fn tell_finished(state: &mut State, key: u64, environment: u64, plan: &Arc<Plan>) {
    if !state.collectors.get(&key).is_some_and(Collector::is_finished) {
        return;
    }
    let Some(collector) = state.collectors.remove(&key) else { return };
    let Collector { container, child, finished, .. } = collector;
    if !state.collectors.values().any(|other| other.container == container) {
        state.ended.remove(&container);
    }
    if let Some(sink) = state.environments.get(&environment) {
        let news = News::Finished(Box::new(finished));
        sink(Event { container, child, plan: Arc::clone(plan), news });
    }
}

/// A container that never began.
fn fail(state: &mut State, id: u64, error: Box<Error>) {
    if let Some(container) = state.containers.remove(&id) {
        deliver(state, id, 0, &container, News::Failed(error));
        deliver(state, id, 0, &container, News::Closed(TakenDown::default()));
    }
}

/// The first process has ended.
fn end(state: &mut State, id: u64, exit: Exit) {
    let Some(mut container) = state.containers.remove(&id) else { return };
    for (child, begun) in std::mem::take(&mut container.children) {
        // Commands end with the first process of their pid namespace, and nobody is left to tell how.
        let news = if begun.is_some() { News::Exited(Exit::Signal(9)) } else { News::Failed(closed()) };
        deliver(state, id, child, &container, news);
    }
    if let Some(error) = container.failure.take() {
        deliver(state, id, 0, &container, News::Failed(error));
    } else if !container.told && container.report.is_none() {
        let how = match exit {
            Exit::Code(code) => format!("with status {code}"),
            Exit::Signal(signal) => format!("by signal {signal}"),
        };
        let error = Error::new(
            ErrorCode::Closed,
            format!("the first process ended {how} before the root was prepared"),
        );
        deliver(state, id, 0, &container, News::Failed(error));
    } else {
        tell_begun(state, id, &mut container);
        deliver(state, id, 0, &container, News::Exited(exit));
    }
    state.containers.insert(id, container);
}

/// Tells once that the command runs, or that the root is prepared, when all is known that belongs to it.
fn tell_begun(state: &mut State, id: u64, container: &mut Container) {
    if container.told || container.starting || container.failure.is_some() {
        return;
    }
    let Some((pid, _)) = container.process else { return };
    if container.one_command {
        if container.silent && container.report.is_some() {
            container.told = true;
            let report = container.report.clone();
            deliver(state, id, 0, container, News::Spawned { pid, report });
        }
    } else if let Some(report) = container.report.clone() {
        container.told = true;
        deliver(state, id, 0, container, News::Ready { pid, report });
    }
}

/// Hears what a first process has to say, as far as it is there.
fn hear_container(state: &mut State, id: u64) {
    let Some(mut container) = state.containers.remove(&id) else { return };
    while !container.silent {
        match protocol::receive(&*container.socket) {
            Ok(frame) => serve_container(state, id, &mut container, frame),
            Err(FrameError::WouldBlock) => break,
            Err(_) => container.silent = true,
        }
    }
    if container.silent {
        // The end of file would be reported again and again.
        if let Some(Ok(client)) = CLIENT.get() {
            let _ = epoll::delete(&client.epoll, &*container.socket);
        }
    }
    tell_begun(state, id, &mut container);
    state.containers.insert(id, container);
}

fn serve_container(state: &mut State, id: u64, container: &mut Container, mut frame: Frame) {
    let child = frame.id;
    match frame.kind {
        Kind::Started => {
            if let (Ok(pid), Some(pidfd)) = (frame.decode::<i32>(), frame.fds.pop()) {
                container.process = Some((pid, Arc::new(pidfd)));
            }
        }
        Kind::Ready => {
            let report = match frame.fds.first() {
                Some(file) => memfd::read_sealed(file, 64 << 20)
                    .ok()
                    .and_then(|bytes| protocol::decode(&bytes).ok())
                    .unwrap_or_default(),
                None => frame.decode().unwrap_or_default(),
            };
            container.report = Some(report);
        }
        Kind::Step => {
            if let Ok(step) = frame.decode() {
                deliver(state, id, 0, container, News::Step(step));
            }
        }
        Kind::Function => {
            let pid = container.process.as_ref().map_or(0, |(pid, _)| *pid);
            if let Ok(call) = frame.decode() {
                deliver(state, id, 0, container, News::Function { pid, call });
            }
        }
        Kind::Failed => container.failure = frame.decode::<Error>().ok().map(|error| explained(error.into())),
        Kind::Spawned => {
            let Some(pidfd) = frame.fds.pop() else { return };
            let pid = pid_of(&pidfd);
            if let Some(known) = container.children.get_mut(&child) {
                *known = Some(Arc::new(pidfd));
                // There is none where there is nothing to say.
                let report = (!frame.body.is_empty()).then(|| frame.decode().unwrap_or_default());
                deliver(state, id, child, container, News::Spawned { pid, report });
            }
        }
        Kind::SpawnFailed if container.children.remove(&child).is_some() => {
            let error = frame.decode::<Error>().map_or_else(|_| closed(), Box::new);
            deliver(state, id, child, container, News::Failed(error));
        }
        Kind::ChildExited => {
            if container.children.remove(&child).is_some()
                && let Ok(exit) = frame.decode()
            {
                deliver(state, id, child, container, News::Exited(exit));
            }
        }
        Kind::MountTable if container.children.remove(&child).is_some() => {
            let text = frame.fds.first().and_then(|file| memfd::read_sealed(file, 256 << 20).ok());
            deliver(state, id, child, container, News::Mounts(mountinfo::parse(&text.unwrap_or_default())));
        }
        _ => {}
    }
}

/// The pid behind a pidfd, as this process sees it; `proc_pid_fdinfo(5)`.
fn pid_of(pidfd: &OwnedFd) -> i32 {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let Ok(path) = CString::new(path) else { return 0 };
    let Ok(file) = rustix::fs::open(
        path.as_c_str(),
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    ) else {
        return 0;
    };
    let text = rootfs::kernel::linux::read_to_end(file.as_fd()).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok())
        .unwrap_or(0)
}
