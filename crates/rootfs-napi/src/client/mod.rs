//! The client of the supervisor: one for the whole Node process, with one thread that speaks with the supervisor and
//! with every container.
//!
//! JavaScript threads only queue: they send a request on a socket that doesn't wait, and what comes back is delivered
//! to the environment it belongs to.

mod collector;
mod containers;
mod outlet;
mod supervisors;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rootfs::error::{CallContext, Error, ErrorCode, Result, SysError};
use rootfs::execute::template::Template;
use rootfs::kernel::{memfd, without_pidfds};
use rootfs::mountinfo;
use rootfs::namespace::NamespaceKind;
use rootfs::plan::Plan;
use rootfs::process::ProcessSpec;
use rootfs::protocol::{
    self, Answer, ExecutedStep, Exit, Frame, FunctionCall, Kind, Leftover, MAX_BODY, MAX_FDS, Report, Start,
    TakenDown,
};
use rustix::event::{EventfdFlags, Timespec, epoll};

use self::collector::Collector;
use self::containers::{give_up, hear_container, kill_process};
use self::outlet::{Flushed, Outgoing, Outlet};
use self::supervisors::{Lost, Supervisor};
use crate::identity::{self, Credentials, Identity};
use crate::supervisor::{duplicate, socket_pair};

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
    /// Of the OCI config: what its commands are like.
    pub(crate) configured: Option<Arc<ProcessSpec>>,
    pub(crate) start: Start,
    /// The payload, encoded.
    pub(crate) payload: Vec<u8>,
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

#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
struct Container {
    supervisor: u64,
    environment: u64,
    plan: Arc<Plan>,
    configured: Option<Arc<ProcessSpec>>,
    one_command: bool,
    /// Whose rights it was made with.
    identity: Identity,
    /// Whether all its processes end with the first.
    pid_namespace: bool,
    /// Whether it has pids as this process sees them.
    host_pids: bool,
    /// Our end of the first process's socket.
    outlet: Outlet,
    journal: OwnedFd,
    /// The first process; without a pidfd if that could not be opened.
    process: Option<(i32, Option<Arc<OwnedFd>>)>,
    report: Option<Report>,
    failure: Option<Box<Error>>,
    /// Whether the thread is woken by what the first process says.
    watched: bool,
    /// The first process has closed its end: its command is executed, or it is gone.
    silent: bool,
    told: bool,
    /// The poststart programs still run: it has not begun before.
    starting: bool,
    /// Whether it is the keeper of a template.
    keeper: bool,
    /// What it keeps for the containers; not all of it, before it is told.
    kept: Arc<Kept>,
    children: BTreeMap<u64, Option<Arc<OwnedFd>>>,
}

/// What containers of a template are begun with.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    template: Template,
    pub(crate) descriptors: Vec<OwnedFd>,
    /// The encoded plan, made when it is first needed.
    bytes: OnceLock<Arc<[u8]>>,
}

impl Kept {
    /// What of the payload is the same for all of them: `before` is how many descriptors come before its own.
    pub(crate) fn bytes(&self, plan: &Plan, before: usize) -> Arc<[u8]> {
        let encode = || {
            let template = self.template.clone().after(u32::try_from(before).unwrap_or(u32::MAX));
            protocol::encode_plan(&template.rest_of(plan), Some(&template)).into()
        };
        Arc::clone(self.bytes.get_or_init(encode))
    }
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

struct State {
    epoll: Arc<OwnedFd>,
    supervisors: Vec<Supervisor>,
    /// Beginnings that wait for a supervisor.
    waiting: Vec<(u64, OwnedFd, Beginning)>,
    starting: bool,
    containers: BTreeMap<u64, Container>,
    environments: BTreeMap<u64, Sink>,
    /// Whose frames are tried again in a moment.
    busy: Vec<Token>,
    spares: Vec<SpareProcess>,
    path: Option<CString>,
    /// By the number of the container that is one command, or of the command.
    collectors: BTreeMap<u64, Collector>,
    /// Containers that are taken down while their output is still being read.
    ended: BTreeMap<u64, (u64, Arc<Plan>)>,
    /// Containers whose supervisor has ended, for somebody who may wait.
    lost: Lost,
}

/// The one client.
pub(crate) struct Client {
    epoll: Arc<OwnedFd>,
    wake: OwnedFd,
    state: Mutex<State>,
    /// The supervisor's executable, in memory.
    executable: Mutex<Option<OwnedFd>>,
    next: AtomicU64,
}

static CLIENT: OnceLock<Arc<Client>> = OnceLock::new();

/// What an event of the thread is about: a number that the kernel keeps for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Wake,
    Supervisor(u64),
    Container(u64),
    Stream(u64, usize),
    /// A supervisor's process: its end.
    Process(u64),
}

impl Token {
    fn pack(self) -> u64 {
        match self {
            Self::Wake => 0,
            Self::Supervisor(number) => number << 3 | 1,
            Self::Container(id) => id << 3 | 2,
            Self::Stream(id, index) => id << 3 | (3 + index as u64),
            Self::Process(number) => number << 3 | 6,
        }
    }

    fn unpack(word: u64) -> Self {
        match (word >> 3, word & 7) {
            (number, 1) => Self::Supervisor(number),
            (id, 2) => Self::Container(id),
            (id, 3) => Self::Stream(id, 0),
            (id, 4) => Self::Stream(id, 1),
            (id, 5) => Self::Stream(id, 2),
            (number, 6) => Self::Process(number),
            _ => Self::Wake,
        }
    }
}

fn closed() -> Box<Error> {
    Error::new(ErrorCode::Closed, "the container has ended")
}

impl Container {
    fn new(id: u64, beginning: &Beginning, identity: Identity, socket: OwnedFd, journal: OwnedFd) -> Self {
        Self {
            supervisor: 0,
            environment: beginning.environment,
            plan: Arc::clone(&beginning.plan),
            configured: beginning.configured.clone(),
            one_command: beginning.one_command,
            identity,
            pid_namespace: beginning.start.pid,
            host_pids: !beginning.start.pid && !beginning.start.joins.contains(&NamespaceKind::Pid),
            outlet: Outlet::new(socket, Token::Container(id)),
            journal,
            process: None,
            report: None,
            failure: None,
            watched: false,
            silent: false,
            told: false,
            starting: beginning.start.poststart,
            keeper: beginning.start.keeper,
            kept: Arc::default(),
            children: BTreeMap::new(),
        }
    }

    /// Nothing is expected from its first process any more.
    fn ignore(&mut self, epoll: &OwnedFd) {
        if std::mem::take(&mut self.watched) {
            let _ = epoll::delete(epoll, &self.outlet.socket);
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
        without_pidfds::remember(pid, &pidfd);
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
    /// The client, and its thread, begin with the first use. If that fails, it may be tried again.
    pub(crate) fn get() -> Result<Arc<Self>> {
        static BEGINNING: Mutex<()> = Mutex::new(());
        if let Some(client) = CLIENT.get() {
            return Ok(Arc::clone(client));
        }
        let _alone = BEGINNING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = CLIENT.get() {
            return Ok(Arc::clone(client));
        }
        let client = Self::begin()
            .map_err(|error| Error::new(ErrorCode::Supervisor, format!("the client can't begin: {error}")))?;
        Ok(Arc::clone(CLIENT.get_or_init(|| client)))
    }

    fn begin() -> std::result::Result<Arc<Self>, std::io::Error> {
        let epoll = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(Token::Wake.pack()), epoll::EventFlags::IN)?;
        let state = Mutex::new(State::new(Arc::clone(&epoll)));
        let client =
            Arc::new(Self { epoll, wake, state, executable: Mutex::default(), next: AtomicU64::new(1) });
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
            state.send_close(id);
        }
    }

    /// Begins a container. What comes of it is told as news.
    pub(crate) fn start(&self, mut beginning: Beginning) -> Result<u64> {
        // A caller who has become somebody else must not keep an older, stronger supervisor.
        let identity = Identity::of_this_process();
        let mut state = self.state();
        let mut serving = state.supervisors.iter().rev().filter(|supervisor| !supervisor.leaving);
        let current = serving.find(|supervisor| supervisor.identity == identity);
        let current = current.map(|supervisor| supervisor.number);
        let mut identity = identity;
        if let Some(spare) = current.and_then(|number| take_spare(&mut state, number, &beginning)) {
            let id = spare.id;
            match state.begin_spare(spare, beginning, identity)? {
                None => return Ok(id),
                Some(given_back) => (beginning, identity) = given_back,
            }
        }
        let id = self.number();
        let (ours, theirs) = socket_pair()?;
        let journal = rustix::fs::memfd_create(c"rootfs-journal", rustix::fs::MemfdFlags::CLOEXEC)
            .map_err(|errno| SysError::new("memfd_create", errno, "\"rootfs-journal\""))
            .context(ErrorCode::Supervisor, || "the journal can't be made")?;
        let container = Container::new(id, &beginning, identity, ours, journal);
        let collection = beginning.collection.take();
        state.add_container(id, container, beginning.watch, collection, beginning.functions)?;
        if let Some(number) = current {
            if let Err(error) = state.send_start(number, id, theirs, beginning) {
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

    /// Starts a command in a prepared root. Its number.
    pub(crate) fn spawn(
        &self,
        container: u64,
        payload: OwnedFd,
        mut streams: Vec<OwnedFd>,
        collection: Option<Collection>,
    ) -> Result<u64> {
        streams.insert(0, payload);
        self.ask(container, Kind::Spawn, streams, collection)
    }

    /// What the containers of a template are begun with, as long as its keeper is there.
    pub(crate) fn template(&self, keeper: u64) -> Result<Arc<Kept>> {
        let what = "the template has been closed, or its keeper has ended";
        let state = self.state();
        let known = state.containers.get(&keeper).filter(|known| !known.silent);
        let known = known.ok_or_else(|| Error::new(ErrorCode::Closed, what))?;
        if known.identity.credentials != Credentials::of_this_process() {
            return Err(identity::other_than_prepared());
        }
        Ok(Arc::clone(&known.kept))
    }

    /// The process of the OCI config that a container was made from.
    pub(crate) fn configured(&self, container: u64) -> Option<Arc<ProcessSpec>> {
        self.state().containers.get(&container)?.configured.clone()
    }

    /// Asks a first process for something. The number of the answer.
    fn ask(
        &self,
        container: u64,
        kind: Kind,
        fds: Vec<OwnedFd>,
        collection: Option<Collection>,
    ) -> Result<u64> {
        let child = self.number();
        let mut state = self.state();
        let known = state.containers.get_mut(&container).ok_or_else(closed)?;
        if known.silent {
            return Err(closed());
        }
        // Rights that the caller has given up must not live on in what he prepared before.
        if known.identity.credentials != Credentials::of_this_process() {
            return Err(identity::other_than_prepared());
        }
        known.children.insert(child, None);
        let asked = match collection {
            Some(collection) => state.collect(container, child, collection),
            None => Ok(()),
        }
        .and_then(|()| state.send_to_container(container, kind, child, Vec::new(), fds));
        if let Err(error) = asked {
            state.collectors.remove(&child);
            if let Some(known) = state.containers.get_mut(&container) {
                known.children.remove(&child);
            }
            return Err(error);
        }
        Ok(child)
    }

    /// Asks for the mount table. The number of the answer.
    pub(crate) fn mounts(&self, container: u64) -> Result<u64> {
        self.ask(container, Kind::Mounts, Vec::new(), None)
    }

    /// Sends a signal to a command, or with 0 to the first process. `false` if it isn't there, or may not be signalled.
    pub(crate) fn kill(&self, container: u64, child: u64, signal: i32) -> bool {
        kill_process(&mut self.state(), container, child, signal)
    }

    /// Ends a command, with what it has begun, or with 0 the command that the container is. `false` if the signal has
    /// reached nobody.
    pub(crate) fn end(&self, container: u64, child: u64, signal: i32) -> bool {
        containers::end_process(&mut self.state(), container, child, signal)
    }

    /// Tells a first process how the function went that it has asked for.
    pub(crate) fn answer_function(&self, container: u64, failure: Option<String>) {
        let answer: Answer<()> = match failure {
            Some(message) => Answer::Failed(Error::new(ErrorCode::Hook, message)),
            None => Answer::Done(()),
        };
        let mut state = self.state();
        if state
            .send_to_container(container, Kind::FunctionDone, 0, protocol::encode(&answer), Vec::new())
            .is_err()
        {
            state.send_close(container);
        }
    }

    /// Has a container killed and taken down.
    pub(crate) fn close(&self, container: u64) {
        self.state().send_close(container);
    }

    /// Where the file of the supervisor is.
    pub(crate) fn path(&self) -> CString {
        self.state().path.clone().unwrap_or_default()
    }

    /// The thread.
    fn listen(self: &Arc<Self>) {
        let mut events = Vec::with_capacity(256);
        loop {
            events.clear();
            let timeout = self.state().patience();
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
                for token in std::mem::take(&mut state.busy) {
                    state.flush(token);
                }
                for event in &events {
                    let flags = event.flags;
                    state.serve(Token::unpack(event.data.u64()), flags.contains(epoll::EventFlags::OUT));
                }
            }));
            let mut state = self.state();
            if served.is_err() {
                state.dismiss_all();
            }
            let (starting, lost) = (state.starting, std::mem::take(&mut state.lost));
            drop(state);
            if !lost.is_empty() {
                self.clean_up_after(lost);
            }
            if starting {
                self.start_supervisor();
            }
        }
    }
}

impl State {
    fn new(epoll: Arc<OwnedFd>) -> Self {
        Self {
            epoll,
            supervisors: Vec::new(),
            waiting: Vec::new(),
            starting: false,
            containers: BTreeMap::new(),
            environments: BTreeMap::new(),
            busy: Vec::new(),
            spares: Vec::new(),
            path: None,
            collectors: BTreeMap::new(),
            ended: BTreeMap::new(),
            lost: Vec::new(),
        }
    }

    /// What an event is about.
    fn serve(&mut self, token: Token, room: bool) {
        if room && matches!(token, Token::Supervisor(_) | Token::Container(_)) {
            self.flush(token);
        }
        match token {
            Token::Wake => {}
            Token::Supervisor(number) => self.hear_supervisor(number),
            Token::Container(id) => hear_container(self, id),
            Token::Stream(id, index) => self.serve_stream(id, index),
            Token::Process(number) => self.bury(number),
        }
    }

    /// How long the thread waits for events: until something may be sent again, a spare process is given up, or a supervisor's
    /// time is over.
    fn patience(&mut self) -> Option<Timespec> {
        if !self.busy.is_empty() {
            return Some(Timespec { tv_sec: 0, tv_nsec: 1_000_000 });
        }
        if self.spares.is_empty() && !self.supervisors.iter().any(|known| known.leaving) {
            return None;
        }
        let now = Instant::now();
        while let Some(position) = self.spares.iter().position(|spare| spare.until <= now) {
            self.give_up_spare(position);
        }
        let stubborn = self.kill_stubborn(now);
        let until = self.spares.iter().map(|spare| spare.until).chain(stubborn).min()?;
        Timespec::try_from(until.saturating_duration_since(now)).ok()
    }

    /// Sends what waits for somebody.
    fn flush(&mut self, token: Token) {
        let outlet = match token {
            Token::Supervisor(number) => {
                let known =
                    self.supervisors.iter_mut().find(|known| known.number == number && !known.leaving);
                known.map(|known| &mut known.outlet)
            }
            Token::Container(id) => self.containers.get_mut(&id).map(|known| &mut known.outlet),
            _ => None,
        };
        if let Some((flushed, failed)) = outlet.map(|outlet| outlet.flush(&self.epoll)) {
            self.later(token, &flushed);
            give_up(self, token, failed);
        }
    }

    /// Has the thread try again in a moment where nothing else would.
    fn later(&mut self, token: Token, flushed: &Flushed) {
        if matches!(flushed, Flushed::Busy) && !self.busy.contains(&token) {
            self.busy.push(token);
            if let Some(client) = CLIENT.get() {
                client.wake();
            }
        }
    }

    fn send_to_supervisor(&mut self, number: u64, frame: Outgoing) -> Result<()> {
        let epoll = Arc::clone(&self.epoll);
        let flushed = self.supervisor(number).ok_or_else(closed)?.outlet.send(&epoll, frame)?;
        self.later(Token::Supervisor(number), &flushed);
        Ok(())
    }

    fn send_to_container(
        &mut self,
        id: u64,
        kind: Kind,
        child: u64,
        body: Vec<u8>,
        fds: Vec<OwnedFd>,
    ) -> Result<()> {
        let container = self.containers.get_mut(&id).ok_or_else(closed)?;
        // What is done with the rights of whoever prepared it is asked for by him. The kernel checks that.
        let sender =
            matches!(kind, Kind::Spawn | Kind::Mounts).then(|| container.identity.credentials.sender());
        let flushed = container.outlet.send(&self.epoll, Outgoing { kind, id: child, body, fds, sender })?;
        self.later(Token::Container(id), &flushed);
        Ok(())
    }

    fn send_close_to(&mut self, supervisor: u64, id: u64) {
        let frame = Outgoing { kind: Kind::Close, id, body: Vec::new(), fds: Vec::new(), sender: None };
        // One that can't be told any more is about to end with all it has.
        let _ = self.send_to_supervisor(supervisor, frame);
    }

    /// Has a container ended and taken down. Its commands are not waited for any longer than it.
    fn send_close(&mut self, id: u64) {
        for collector in self.collectors.values_mut().filter(|collector| collector.container == id) {
            collector.ending = true;
        }
        if let Some(position) = self.waiting.iter().position(|(waiting, ..)| *waiting == id) {
            // Nobody has heard of it yet.
            self.waiting.remove(position);
            containers::fail(self, id, closed());
            return;
        }
        let Some(number) = self.containers.get(&id).map(|container| container.supervisor) else { return };
        self.send_close_to(number, id);
        // A supervisor that is stopped, or has much to do, notices the end of the first process when it can.
        if self.supervisor(number).is_none_or(|known| !known.outlet.is_empty()) {
            kill_process(self, id, 0, 9);
        }
    }

    /// Has a process that waits begin a container. If it was ended by somebody else, what it was to begin is given back.
    fn begin_spare(
        &mut self,
        spare: SpareProcess,
        mut beginning: Beginning,
        identity: Identity,
    ) -> Result<Option<(Beginning, Identity)>> {
        let id = spare.id;
        let sender = identity.credentials.sender();
        let mut container = Container::new(id, &beginning, identity, spare.socket, spare.journal);
        container.supervisor = spare.supervisor;
        container.process = Some((spare.pid, Some(Arc::new(spare.pidfd))));
        let collection = beginning.collection.take();
        let Beginning { payload, streams, joined, sources, .. } = &beginning;
        let (standard, further) = streams.split_at(streams.len().min(3));
        let (body, file) = if payload.len() <= MAX_BODY {
            (&**payload, None)
        } else {
            (&[][..], Some(sealed_payload(payload)?))
        };
        // What can fail comes before the request: afterwards a command may run.
        self.add_container(id, container, beginning.watch, collection, beginning.functions)?;
        let fds = file.iter().chain(standard).chain(joined).chain(further).chain(sources);
        let fds: Vec<BorrowedFd<'_>> = fds.map(AsFd::as_fd).collect();
        let sent = match self.containers.get(&id) {
            // Its socket is empty, so this doesn't wait. It wakes while the rest is done here.
            Some(container) => {
                protocol::send_as(&container.outlet.socket, Kind::Begin, id, body, &fds, Some(sender)).is_ok()
            }
            None => false,
        };
        if !sent {
            beginning.collection = self.give_back(id);
            return Ok(self.containers.remove(&id).map(|mut container| {
                container.ignore(&self.epoll);
                (beginning, container.identity)
            }));
        }
        if let Some(collector) = self.collectors.get_mut(&id)
            && beginning.start.pid
        {
            collector.hold(beginning.streams);
        }
        Ok(None)
    }

    /// Takes a container in. One that can't be is ended.
    fn add_container(
        &mut self,
        id: u64,
        mut container: Container,
        watch_it: bool,
        collection: Option<Collection>,
        functions: bool,
    ) -> Result<()> {
        container.watched = watch_it;
        let watched = if watch_it {
            watch(&self.epoll, container.outlet.socket.as_fd(), Token::Container(id))
        } else {
            Ok(())
        };
        self.containers.insert(id, container);
        let added = watched.and_then(|()| match collection {
            Some(collection) => {
                self.collect(id, 0, collection)?;
                if let Some(collector) = self.collectors.get_mut(&id) {
                    collector.announce = functions;
                }
                Ok(())
            }
            None => Ok(()),
        });
        if added.is_err() {
            self.send_close(id);
            self.containers.remove(&id);
        }
        added
    }

    fn send_start(&mut self, supervisor: u64, id: u64, socket: OwnedFd, beginning: Beginning) -> Result<()> {
        let Some(container) = self.containers.get_mut(&id) else { return Err(closed()) };
        container.supervisor = supervisor;
        let sender = Some(container.identity.credentials.sender());
        let journal = duplicate(&container.journal)?;
        let Beginning { start, payload, streams, cgroup, joined, sources, .. } = beginning;
        let mut streams = streams.into_iter();
        let mut fds = vec![sealed_payload(&payload)?, socket, journal];
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
            let frame = Outgoing { kind: Kind::Fds, id, body: Vec::new(), fds, sender };
            self.send_to_supervisor(supervisor, frame)?;
        }
        fds.append(&mut others);
        let frame = Outgoing { kind: Kind::Start, id, body: protocol::encode(&start), fds, sender };
        self.send_to_supervisor(supervisor, frame)
    }
}

/// What somebody is told who reads it later.
pub(crate) fn sealed_payload(bytes: &[u8]) -> Result<OwnedFd> {
    memfd::sealed(c"rootfs-payload", bytes, false)
        .context(ErrorCode::Supervisor, || "the request can't be written down")
}

fn watch(epoll: &OwnedFd, fd: BorrowedFd<'_>, token: Token) -> Result<()> {
    let flags =
        if matches!(token, Token::Stream(_, 0)) { epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
    epoll::add(epoll, fd, epoll::EventData::new_u64(token.pack()), flags)
        .map_err(|errno| SysError::new("epoll_ctl", errno, format!("EPOLL_CTL_ADD, {token:?}")))
        .context(ErrorCode::Supervisor, || "the client can't watch a descriptor")
}
