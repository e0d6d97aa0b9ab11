//! The supervisor's loop: it starts containers, tells Node when they end, cleans up, and ends them all when Node goes.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rootfs::Hint;
use rootfs::error::{CallContext, Error, ErrorCode, Result, SysError};
use rootfs::execute::Level;
use rootfs::execute::filesystem::Filesystem;
use rootfs::journal::{self, Record};
use rootfs::kernel::linux::{Linux, become_stub, has_mount_api};
use rootfs::kernel::memfd;
use rootfs::kernel::process::{self, namespaces};
use rootfs::kernel::{host, without_pidfds};
use rootfs::namespace::NamespaceKind;
use rootfs::plan::Plan;
use rootfs::process::Rlimit;
use rootfs::protocol::{
    self, Answer, Ended, Exit, Frame, FrameError, Hello, Kind, Leftover, Spare, Start, TakenDown,
};
use rootfs::spec::{HookPoint, IdMap};
use rustix::event::{PollFd, PollFlags, epoll};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

use crate::cgroup;
use crate::first_process::{Asked, FirstProcess, SetUp, Written, check_sender, error_body, set_alarm};
use crate::hooks::Runner;
use crate::idmap;
use crate::join;
use crate::opener::Opener;
use crate::queue::Queue;
use crate::spare::{Process, begin_spare};

const RLIMIT_NOFILE: u32 = 7;
/// As many descriptors are closed one by one in less than a millisecond.
const MOST_TO_CLOSE: u64 = 4096;

/// What an event is about: a number that the kernel keeps for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Node,
    Ended(u64),
    Control(u64),
    Cleaned,
    Stub,
    Hooks(u64),
    Left(u64),
    /// A child has ended, and there is no pidfd that says so.
    Child,
}

impl Event {
    fn pack(self) -> u64 {
        match self {
            Self::Node => 0,
            Self::Ended(id) => id << 2 | 1,
            Self::Control(id) => id << 2 | 2,
            Self::Cleaned => 3,
            Self::Stub => 1 << 2 | 3,
            Self::Child => 2 << 2 | 3,
            // They count from three.
            Self::Left(number) => number << 2 | 3,
            // No container has the number 0.
            Self::Hooks(id) => id << 2,
        }
    }

    fn unpack(word: u64) -> Self {
        match (word >> 2, word & 3) {
            (id, 1) => Self::Ended(id),
            (id, 2) => Self::Control(id),
            (0, 3) => Self::Cleaned,
            (1, 3) => Self::Stub,
            (2, 3) => Self::Child,
            (number, 3) => Self::Left(number),
            (0, _) => Self::Node,
            (id, _) => Self::Hooks(id),
        }
    }
}

/// A container, from the request until everything is taken down.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct Container {
    pid: i32,
    pidfd: OwnedFd,
    start: Start,
    journal: OwnedFd,
    control: OwnedFd,
    /// When to listen to that, where nothing that is said there is urgent.
    alarm: Option<OwnedFd>,
    /// Whether it was made before it was asked for.
    ahead: bool,
    opener: Option<OwnedFd>,
    /// A child that runs newuidmap, among those that end soon.
    mapper: Option<u64>,
    /// What holds the memory of a spare first process.
    holder: Option<OwnedFd>,
    /// Held as long as it lives, so that nobody removes its mountpoints.
    locks: Vec<OwnedFd>,
    /// Whether all its steps are done.
    set_up: bool,
    /// Whether its first process stays, to start commands.
    stays: bool,
    /// Since when its first process has been asked to end, and everything in it.
    ending: Option<Instant>,
    /// What it has needed.
    filesystems: Vec<Filesystem>,
    /// What its hooks are found in, if there are any that come after the start.
    payload: Option<OwnedFd>,
    /// The programs that run now.
    hooks: Option<Runner>,
    /// Whether the beginning is over, with what follows from it.
    begun: bool,
    /// Its cgroup, if that is what ends all of it.
    cgroup: Option<OwnedFd>,
    /// Which that is, when it was killed.
    killed: Option<cgroup::Identity>,
    /// How it has ended.
    exit: Option<Exit>,
    /// Mountpoints that are left, when the poststop programs run.
    left: Option<Vec<Leftover>>,
}

/// What a spare first process is made for.
#[derive(Clone, Debug)]
struct Wanted {
    start: Start,
    /// What it can make ahead.
    filesystems: Vec<Filesystem>,
}

/// The mount namespace with nothing in it, from which those of containers are copied.
enum Stub {
    /// Nobody has needed it yet.
    Unknown,
    /// A child is making it, and sends it here. Then a spare first process like this is made.
    Making { pidfd: OwnedFd, socket: OwnedFd, like: Wanted },
    /// It is there.
    Made(OwnedFd),
    /// It can't be had.
    None,
}

/// When nothing has happened for so long, there is time to make a spare first process. Not at once: it would take the time
/// of the container that has just been begun.
const QUIET: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 0, tv_nsec: 3_000_000 };

/// How long a first process has to end what it has started. It waits for nothing but the kernel, unless it was stopped.
const ENDING: Duration = Duration::from_secs(2);

/// The usual `kernel.overflowuid`.
const NOBODY: u32 = 65534;

/// As many holders may wait for such a moment.
const HOLDERS: usize = 8;

/// As many containers are prepared at once; others wait. More would only take the processors, and memory, from each other.
const MOST_PREPARING: usize = 64;

/// As many requests wait here. Each holds a few descriptors.
const MOST_QUEUED: usize = 256;

/// One that takes longer waits for something itself, such as a filesystem that doesn't answer. Nobody waits for that.
const SLOW: Duration = Duration::from_millis(500);

/// The number of spare first processes that one supervisor can make.
const SPARES: u64 = 1 << 28;

/// A child that removes mountpoints. There is never more than one: two would be in each other's way.
struct Cleaner {
    pidfd: OwnedFd,
    result: OwnedFd,
    /// The containers it cleans up after.
    containers: Vec<u64>,
    /// What it was given of earlier ones.
    pending: Vec<Record>,
    /// Whether another was killed that should have done the same.
    again: bool,
}

/// What a cleaner found.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Cleaned {
    in_use: Vec<Record>,
    /// Directories with something in them.
    not_empty: Vec<Record>,
    /// Names that stay, and which container made them.
    left: Vec<(u64, Leftover)>,
}

struct Server {
    node: OwnedFd,
    epoll: OwnedFd,
    kernel: Linux,
    containers: BTreeMap<u64, Container>,
    /// Descriptors that came before their request.
    early: BTreeMap<u64, Vec<OwnedFd>>,
    /// Mountpoints that could not be removed because other containers use their tree, or had made others in them.
    pending: Vec<Record>,
    cleaner: Option<Cleaner>,
    /// Containers that have ended, and wait for the cleaner.
    unclean: Vec<u64>,
    /// Containers whose first process ends all that is in them.
    ending: Vec<u64>,
    /// Containers that were asked of this process, and whose steps are not all done.
    preparing: BTreeMap<u64, Instant>,
    /// Requests that wait until there are fewer of those.
    queued: Queue,
    level: Option<Level>,
    /// Whether there is more than mount(2), once somebody has needed to know.
    mount_api: Option<bool>,
    identity: (u32, u32),
    open_files: Option<Rlimit>,
    /// What Node has not taken yet: a Node that is stopped must not stop this loop.
    unsent: VecDeque<Unsent>,
    /// The first processes that wait to be asked for something, as far as is known here: one of a kind.
    spares: Vec<u64>,
    spares_made: u64,
    /// What a spare first process is to be made for, when there is time.
    wanted: Option<Wanted>,
    stub: Stub,
    /// The cgroups that were killed.
    killed: Vec<cgroup::Identity>,
    /// Holders that nobody needs any more.
    unneeded: Vec<OwnedFd>,
    /// Children that end soon: holders that were killed, and those that run newuidmap.
    leaving: BTreeMap<u64, OwnedFd>,
    leaving_before: u64,
    /// Whether everything is being ended.
    closing: bool,
    /// Where signals tell that a child has ended.
    child_signals: Option<OwnedFd>,
}

/// A frame that waits for Node.
struct Unsent {
    kind: Kind,
    id: u64,
    body: Vec<u8>,
    fds: Vec<OwnedFd>,
}

/// Serves until Node goes. The exit status of the supervisor.
pub(crate) fn run(node: OwnedFd) -> i32 {
    let Ok(epoll) = epoll::create(epoll::CreateFlags::CLOEXEC) else { return 1 };
    let open_files = process::rlimit(RLIMIT_NOFILE).ok();
    if let Some(limit) = open_files {
        // Each container costs a few descriptors here; the first process gets the caller's own limit back. Where a child has to
        // close each that there may be, it would take long, and meanwhile hold what others wait for.
        let most = if process::can_close_ranges() { limit.hard } else { limit.hard.min(MOST_TO_CLOSE) };
        let _ = process::set_rlimit(Rlimit { soft: most.max(limit.soft), ..limit });
    }
    let identity = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let mut server = Server {
        node,
        epoll,
        kernel: Linux::default(),
        containers: BTreeMap::new(),
        early: BTreeMap::new(),
        pending: Vec::new(),
        cleaner: None,
        unclean: Vec::new(),
        ending: Vec::new(),
        preparing: BTreeMap::new(),
        queued: Queue::default(),
        level: None,
        mount_api: None,
        identity,
        open_files,
        unsent: VecDeque::new(),
        spares: Vec::new(),
        spares_made: 0,
        wanted: None,
        stub: Stub::Unknown,
        killed: Vec::new(),
        unneeded: Vec::new(),
        leaving: BTreeMap::new(),
        leaving_before: 0,
        closing: false,
        child_signals: None,
    };
    if without_pidfds::are_needed() {
        let Ok(signals) = process::child_signals() else { return 1 };
        if server.watch(signals.as_fd(), Event::Child).is_err() {
            return 1;
        }
        server.child_signals = Some(signals);
    }
    if rustix::net::sockopt::set_socket_passcred(&server.node, true).is_err()
        || rustix::io::ioctl_fionbio(&server.node, true).is_err()
        || server.watch(server.node.as_fd(), Event::Node).is_err()
        || server.greet().is_err()
    {
        return 1;
    }
    server.serve();
    server.end_all();
    0
}

impl Server {
    fn watch(&self, fd: BorrowedFd<'_>, event: Event) -> rustix::io::Result<()> {
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(event.pack()), epoll::EventFlags::IN)
    }

    fn greet(&self) -> std::result::Result<(), FrameError> {
        let groups = rustix::process::getgroups().unwrap_or_default();
        let hello = Hello {
            pid: own_pid(),
            release: protocol::BUILD.to_owned(),
            uid: self.identity.0,
            gid: self.identity.1,
            groups: groups.into_iter().map(rustix::fs::Gid::as_raw).collect(),
            capabilities: process::own_capabilities().map_or(u64::MAX, |(_, permitted)| permitted),
        };
        protocol::send(&self.node, Kind::Hello, 0, &protocol::encode(&hello), &[])
    }

    /// Tells Node something, now or when it can take it.
    fn tell_node(&mut self, kind: Kind, id: u64, body: Vec<u8>, fds: Vec<OwnedFd>) {
        self.unsent.push_back(Unsent { kind, id, body, fds });
        self.flush();
    }

    fn tell_failure(&mut self, id: u64, error: &Error) {
        self.tell_node(Kind::Refused, id, error_body(error), Vec::new());
    }

    /// Sends what Node can take, and asks to be woken for the rest.
    fn flush(&mut self) {
        while let Some(frame) = self.unsent.front() {
            let fds: Vec<BorrowedFd<'_>> = frame.fds.iter().map(AsFd::as_fd).collect();
            match protocol::send(&self.node, frame.kind, frame.id, &frame.body, &fds) {
                Err(FrameError::WouldBlock) => {
                    self.watch_writable(true);
                    return;
                }
                // A Node that is gone is noticed where it is heard.
                Ok(()) | Err(_) => {
                    self.unsent.pop_front();
                }
            }
        }
    }

    fn watch_writable(&self, writable: bool) {
        let mut flags = epoll::EventFlags::IN;
        flags.set(epoll::EventFlags::OUT, writable);
        let _ = epoll::modify(&self.epoll, &self.node, epoll::EventData::new_u64(Event::Node.pack()), flags);
    }

    fn serve(&mut self) {
        let mut events = Vec::with_capacity(64);
        loop {
            events.clear();
            let patience = self.patience();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), patience.as_ref()) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return,
                Ok(0) => {
                    self.prepare_for_more();
                    self.end_holders();
                }
                Ok(_) => {}
            }
            if !self.ending.is_empty() {
                self.end_late();
            }
            // What has ended is told before new requests are served: they may be waiting for just that.
            let mut node = false;
            for event in &events {
                match Event::unpack(event.data.u64()) {
                    Event::Node => {
                        let flags = event.flags;
                        node |= flags.intersects(
                            epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR,
                        );
                        if flags.contains(epoll::EventFlags::OUT) {
                            self.watch_writable(false);
                            self.flush();
                        }
                    }
                    Event::Ended(id) => self.ended(id),
                    Event::Control(id) => self.controlled(id),
                    Event::Cleaned => self.cleaned(),
                    Event::Stub => self.stub_made(),
                    Event::Hooks(id) => self.hooks_ended(id),
                    Event::Left(number) => self.left(number),
                    Event::Child => self.child_ended(),
                }
            }
            if node && !self.hear_node() {
                return;
            }
            self.begin_queued();
            if self.unneeded.len() > HOLDERS {
                self.end_holders();
            }
        }
    }

    /// How long to wait for events.
    fn patience(&self) -> Option<rustix::event::Timespec> {
        if self.wanted.is_some() || !self.unneeded.is_empty() {
            return Some(QUIET);
        }
        let endings = self.ending.iter().filter_map(|id| Some(self.containers.get(id)?.ending? + ENDING));
        let slow = self.preparing.values().filter(|_| !self.queued.is_empty()).map(|since| *since + SLOW);
        let due = endings.chain(slow.filter(|due| *due > Instant::now())).min()?;
        let left = due.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        Some(rustix::event::Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(0),
            tv_nsec: left.subsec_nanos().into(),
        })
    }

    /// Kills first processes that were asked to end and haven't.
    fn end_late(&mut self) {
        let containers = &mut self.containers;
        self.ending.retain(|id| {
            let Some(container) = containers.get_mut(id).filter(|container| container.exit.is_none()) else {
                return false;
            };
            let late = container.ending.is_none_or(|since| since.elapsed() >= ENDING);
            if late {
                container.kill_now();
            }
            !late
        });
    }

    /// Serves what Node says. `false` when Node is gone, or not to be understood.
    ///
    /// One request at a time goes through as quickly as can be. When there are more, all that are there are looked at before one
    /// is begun, so that each caller has its turn; those that don't fit in the queue wait in Node.
    fn hear_node(&mut self) -> bool {
        let mut said = self.hear_frame();
        while said == Some(true) && !self.preparing.is_empty() && self.queued.len() < MOST_QUEUED {
            said = self.hear_frame();
        }
        said.is_some()
    }

    /// Serves one frame, if there is one. `None` when Node is gone, or not to be understood.
    fn hear_frame(&mut self) -> Option<bool> {
        let frame = match protocol::receive(&self.node) {
            Ok(frame) => frame,
            Err(FrameError::WouldBlock) => return Some(false),
            Err(_) => return None,
        };
        self.serve_frame(frame).then_some(true)
    }

    fn serve_frame(&mut self, frame: Frame) -> bool {
        let id = frame.id;
        match frame.kind {
            Kind::Fds if id != 0 => {
                // Those that were lost are missed when their request comes.
                self.early.entry(id).or_default().extend(frame.fds);
                true
            }
            Kind::Start if id != 0 && id < 1 << 51 && !self.knows(id) => {
                self.request(frame);
                true
            }
            Kind::Close if self.queued.remove(id) => {
                self.early.remove(&id);
                let error = Error::new(ErrorCode::Closed, "the container was closed before it was begun");
                self.tell_failure(id, &error);
                true
            }
            Kind::Close => {
                self.catch_up(id);
                if let Some(container) = self.containers.get_mut(&id)
                    && container.kill()
                    && !self.ending.contains(&id)
                {
                    self.ending.push(id);
                }
                true
            }
            _ => false,
        }
    }

    fn knows(&self, id: u64) -> bool {
        self.containers.contains_key(&id) || self.queued.contains(id)
    }

    /// Begins a container, or has its request wait.
    fn request(&mut self, frame: Frame) {
        if !self.preparing.is_empty()
            && let Ok(start) = frame.decode::<Start>()
            && waits(&start)
        {
            return self.queued.push(start.caller, frame);
        }
        self.begin(frame);
    }

    /// How many containers are being prepared, without those that are slow.
    fn are_preparing(&self) -> usize {
        self.preparing.values().filter(|since| since.elapsed() < SLOW).count()
    }

    fn begin(&mut self, frame: Frame) {
        let id = frame.id;
        if let Err(error) = self.start(frame) {
            self.tell_failure(id, &error);
        }
    }

    /// Begins what has waited, as far as there is room.
    fn begin_queued(&mut self) {
        while !self.queued.is_empty()
            && self.are_preparing() < MOST_PREPARING
            && let Some(frame) = self.queued.next()
        {
            self.begin(frame);
        }
    }

    fn start(&mut self, frame: Frame) -> Result<()> {
        check_sender(&frame, self.identity)?;
        let too_many = "the supervisor can't receive the descriptors of a request";
        frame.check_descriptors(ErrorCode::Supervisor, too_many)?;
        let id = frame.id;
        let wrong =
            |what: &str| Error::new(ErrorCode::Supervisor, format!("a request that is wrong: {what}"));
        let start: Start = frame.decode().map_err(|error| wrong(&error.to_string()))?;
        let mut fds = frame.fds.into_iter();
        let mut next = || fds.next().ok_or_else(|| wrong("a descriptor is missing"));
        let (payload, node, journal) = (next()?, next()?, next()?);
        let streams = [next()?, next()?, next()?];
        let cgroup = if start.cgroup { Some(next()?) } else { None };
        let namespaces = start.joins.iter().map(|_| next()).collect::<Result<Vec<_>>>()?;
        let mut sources = self.early.remove(&id).unwrap_or_default();
        sources.extend(fds);
        if sources.len() != start.sources as usize {
            return Err(wrong("the number of sources"));
        }
        let (control, first_control) = pair()?;
        let (opener_end, first_opener) = if start.opener {
            let (here, there) = pair()?;
            (Some(here), Some(there))
        } else {
            (None, None)
        };
        let mut first = FirstProcess {
            start: start.clone(),
            asked: Some(Asked {
                payload: Written::File(duplicate(&payload)?),
                streams,
                namespaces,
                others: sources,
                later: false,
            }),
            node,
            journal: duplicate(&journal)?,
            control: first_control,
            alarm: None,
            opener: first_opener,
            known_level: self.level.filter(|_| start.user.is_none() && !start.joins_first()),
            stub: if start.can_wait() { self.stub() } else { None },
            filesystems: Vec::new(),
            open_files: self.open_files,
            identity: self.identity,
        };
        // Since Linux 6.14 a process that is cloned into a cgroup where cgroup.kill was ever used is killed at once. It can
        // still be made by one that has been moved there.
        let again = cgroup.as_ref().filter(|cgroup| {
            !self.killed.is_empty() && cgroup::identity(cgroup).is_some_and(|id| self.killed.contains(&id))
        });
        let request = process::CloneRequest {
            namespaces: clone_flags(&start),
            cgroup: if again.is_none() { cgroup.as_ref().map(AsFd::as_fd) } else { None },
        };
        let mut start = start;
        let process = if start.joins_first() || again.is_some() {
            let namespaces = first.asked.as_ref().map_or(&[][..], |asked| &asked.namespaces);
            match join::make(&self.kernel, &start, namespaces, again, request)? {
                join::Side::Supervisor(made) => {
                    start.user = made.user.or(start.user);
                    (made.pid, made.pidfd)
                }
                join::Side::First(user) => {
                    first.start.user = user.or(first.start.user);
                    first.run();
                }
            }
        } else {
            match process::fork(request).map_err(|call| clone_error(&start, &call))? {
                process::Fork::Parent { pid, pidfd } => (pid, pidfd),
                process::Fork::Child => first.run(),
            }
        };
        let mut container = Container::new(process, start, journal, control);
        // With a pid namespace the end of its first process is the end of all.
        container.cgroup = cgroup.filter(|_| !container.start.pid);
        if container.start.poststart || container.start.poststop {
            container.payload = Some(duplicate(&payload)?);
        }
        if let Err(error) = self.introduce(id, &mut container, opener_end.as_ref(), &payload, &first) {
            container.kill();
            let _ = process::wait_for(container.pidfd.as_fd());
            return Err(error);
        }
        if waits(&container.start) {
            self.preparing.insert(id, Instant::now());
        }
        self.containers.insert(id, container);
        Ok(())
    }

    /// Makes a first process before it is asked for, so that the next container needn't wait for that.
    fn make_spare(&mut self, wanted: &Wanted) -> Result<()> {
        let like = &wanted.start.without_sources();
        let exists =
            self.spares.iter().filter_map(|id| self.containers.get(id)).any(|spare| spare.start == *like);
        if exists || self.spares_made == SPARES {
            return Ok(());
        }
        let system = |errno: rustix::io::Errno| {
            let call = SysError::new("epoll_ctl", errno, "a spare first process");
            Error::from_call(ErrorCode::Supervisor, "a spare first process can't be watched", &call)
        };
        let Some(identity) = seen_in(like.user.as_ref(), self.identity) else { return Ok(()) };
        // Whoever has rights over the host has an opener for a user namespace, who takes part in the beginning.
        if like.user.is_some() && process::children_have_capability(process::CAP_SYS_ADMIN) {
            return Ok(());
        }
        let start = like.clone();
        let (control, first_control) = pair()?;
        let (node_end, first_node) = pair()?;
        rustix::net::sockopt::set_socket_passcred(&first_node, true).map_err(system)?;
        let journal =
            rustix::fs::memfd_create(c"rootfs-journal", rustix::fs::MemfdFlags::CLOEXEC).map_err(system)?;
        let alarm = rustix::time::timerfd_create(
            rustix::time::TimerfdClockId::Monotonic,
            rustix::time::TimerfdFlags::CLOEXEC,
        )
        .map_err(system)?;
        let first = FirstProcess {
            start: start.clone(),
            asked: None,
            node: first_node,
            journal: duplicate(&journal)?,
            control: first_control,
            alarm: Some(duplicate(&alarm)?),
            opener: None,
            known_level: self.level,
            stub: self.stub(),
            filesystems: wanted.filesystems.clone(),
            open_files: self.open_files,
            identity,
        };
        let Process { pid, pidfd, holder } = begin_spare(&start, first)?;
        // Numbers that Node doesn't give, and no other supervisor: Node counts from one.
        let id = 1 << 51 | u64::from(own_pid().cast_unsigned()) << 28 | self.spares_made;
        self.spares_made += 1;
        let mut container = Container::new((pid, pidfd), start, journal, control);
        container.holder = holder;
        let told = self
            .watch(container.pidfd.as_fd(), Event::Ended(id))
            .and_then(|()| self.watch(alarm.as_fd(), Event::Control(id)))
            .and_then(|()| match container.start.user {
                Some(_) => self.watch(container.control.as_fd(), Event::Control(id)),
                None => Ok(()),
            })
            .map_err(system)
            .and_then(|()| Ok(vec![node_end, duplicate(&container.journal)?, duplicate(&container.pidfd)?]));
        container.alarm = Some(alarm);
        container.ahead = true;
        match told {
            Ok(fds) => {
                let spare = Spare { start: container.start.clone(), pid };
                self.containers.insert(id, container);
                self.spares.push(id);
                self.tell_node(Kind::Spare, id, protocol::encode(&spare), fds);
                Ok(())
            }
            Err(error) => {
                container.kill();
                for child in [Some(container.pidfd), container.holder].into_iter().flatten() {
                    process::kill(child.as_fd());
                    let _ = process::wait_for(child.as_fd());
                }
                Err(error)
            }
        }
    }

    /// A spare is one no longer: it was asked for something, or has ended.
    fn take_spare(&mut self, id: u64) {
        self.spares.retain(|spare| *spare != id);
    }

    /// Asks to be woken when the other side has nothing more to say, and not for what it says.
    fn watch_end(&self, fd: BorrowedFd<'_>, event: Event) -> rustix::io::Result<()> {
        epoll::add(
            &self.epoll,
            fd,
            epoll::EventData::new_u64(event.pack()),
            epoll::EventFlags::RDHUP | epoll::EventFlags::HUP,
        )
    }

    /// Tells everybody about a new first process.
    fn introduce(
        &mut self,
        id: u64,
        container: &mut Container,
        opener: Option<&OwnedFd>,
        payload: &OwnedFd,
        first: &FirstProcess,
    ) -> Result<()> {
        let pid = protocol::encode(&container.pid);
        let gone = |error: FrameError| crate::broker::connection_error("a first process", &error);
        if container.start.is_told_pid() {
            // It can't open its own without being open to all who are in a user namespace that it has joined.
            let joined = container.start.joins.contains(&NamespaceKind::User);
            let score = joined.then(|| self.kernel.open_proc(container.pid, "oom_score_adj").ok()).flatten();
            let fds: Vec<BorrowedFd<'_>> = score.iter().map(AsFd::as_fd).collect();
            protocol::send(&container.control, Kind::Started, id, &pid, &fds).map_err(gone)?;
        }
        // On the container's own socket: whoever only waits for the end need not be woken for the beginning. The socket is
        // new, so this doesn't wait, and it comes before the end of file, which needs this end closed too.
        protocol::send(&first.node, Kind::Started, id, &pid, &[container.pidfd.as_fd()]).map_err(gone)?;
        let watched = self.watch(container.pidfd.as_fd(), Event::Ended(id)).and_then(|()| {
            let control = container.control.as_fd();
            if container.is_heard() {
                self.watch(control, Event::Control(id))
            } else {
                self.watch_end(control, Event::Control(id))
            }
        });
        watched
            .map_err(|errno| SysError::new("epoll_ctl", errno, "EPOLL_CTL_ADD"))
            .context(ErrorCode::Supervisor, || "the supervisor can't watch a first process")?;
        let mount_api = opener.is_some() && *self.mount_api.get_or_insert_with(has_mount_api);
        if let Some(socket) = opener {
            let fork = process::fork(process::CloneRequest::default())
                .map_err(|call| Error::from_call(ErrorCode::Supervisor, "an opener can't be made", &call))?;
            match fork {
                process::Fork::Child => Opener {
                    start: &container.start,
                    payload,
                    descriptors: first.asked.as_ref().map_or(&[][..], |asked| &asked.others),
                    socket,
                    pid: container.pid,
                    pidfd: &container.pidfd,
                    has_mount_api: mount_api,
                }
                .run(),
                process::Fork::Parent { pidfd, .. } => container.opener = Some(pidfd),
            }
        }
        Ok(())
    }

    /// A first process says something, or has said all.
    fn controlled(&mut self, id: u64) {
        loop {
            let Some(container) = self.containers.get_mut(&id) else { return };
            if !is_readable(&container.control) {
                // It still prepares, or executes its command.
                if container.set_up {
                    self.stop_alarm(id);
                } else if let Some(alarm) = &container.alarm {
                    let _ = set_alarm(alarm);
                }
                return;
            }
            // On a socket that waits: what is asked for is there, see below.
            match protocol::receive(&container.control) {
                Ok(Frame { kind: Kind::MapIds, .. }) => return self.map_ids(id),
                Ok(frame) if frame.kind == Kind::SetUp && frame.descriptors_lost => {
                    // Without its locks, others would remove its mountpoints from under it.
                    let what = "the supervisor can't receive the locks of a container's mountpoints";
                    container.set_up = false;
                    if container.exit.is_some() {
                        // It needs none any more.
                        continue;
                    }
                    container.kill();
                    if let Err(error) = frame.check_descriptors(ErrorCode::Supervisor, what) {
                        self.tell_failure(id, &error);
                    }
                    break;
                }
                Ok(frame) if frame.kind == Kind::SetUp => {
                    if let Ok(set_up) = frame.decode::<SetUp>() {
                        container.set_up = true;
                        container.filesystems = set_up.filesystems;
                        container.stays = set_up.stays;
                        if container.start.can_wait() {
                            self.level.get_or_insert(set_up.level);
                        }
                    }
                    container.locks.extend(frame.fds);
                    if container.is_heard() {
                        // There may be more, and that wakes this loop.
                        return;
                    }
                }
                Ok(Frame { kind: Kind::Failed, .. }) => container.set_up = false,
                _ => break,
            }
        }
        self.begun(id);
    }

    /// Hears what a first process has said that isn't listened to all the time: it matters when that ends, or is to end.
    fn catch_up(&mut self, id: u64) {
        let said = |known: &Container| !known.begun && !known.is_heard() && is_readable(&known.control);
        if self.containers.get(&id).is_some_and(said) {
            self.controlled(id);
        }
    }

    /// All its steps are done, and still it has not become its command: it is waited for.
    fn stop_alarm(&mut self, id: u64) {
        let Some(container) = self.containers.get_mut(&id) else { return };
        let Some(alarm) = container.alarm.take() else { return };
        let _ = epoll::delete(&self.epoll, &alarm);
        let Some(container) = self.containers.get(&id) else { return };
        let _ = self.watch_end(container.control.as_fd(), Event::Control(id));
    }

    /// It has ended, become its command, or stays. Either way it asks for nothing more.
    fn begun(&mut self, id: u64) {
        let Some(container) = self.containers.get_mut(&id) else { return };
        for watched in container.alarm.iter().chain([&container.control]) {
            let _ = epoll::delete(&self.epoll, watched);
        }
        self.preparing.remove(&id);
        if std::mem::replace(&mut container.begun, true) {
            return;
        }
        self.unneeded.extend(container.holder.take());
        if container.start.poststart && container.set_up && !self.closing {
            self.run_hooks(id, HookPoint::Poststart);
            return;
        }
        if container.start.can_wait() && container.set_up {
            // What can't be made now is made when it is asked for, or its error is told then.
            let filesystems = std::mem::take(&mut container.filesystems);
            self.wanted = Some(Wanted { start: container.start.clone(), filesystems });
        }
        self.take_spare(id);
    }

    /// Has ready what another container like this can use.
    fn prepare_for_more(&mut self) {
        let Some(like) = &self.wanted.take() else { return };
        if matches!(self.stub, Stub::Unknown) {
            self.stub = if self.level == Some(Level::Detached)
                && process::children_have_capability(process::CAP_SYS_CHROOT)
                && process::children_have_capability(process::CAP_SYS_ADMIN)
            {
                self.make_stub(like).unwrap_or(Stub::None)
            } else {
                Stub::None
            };
        }
        if !matches!(self.stub, Stub::Making { .. }) {
            let _ = self.make_spare(like);
        }
    }

    /// Has a child make a mount namespace with nothing in it: to copy the host's mounts and detach them takes long where
    /// there are many.
    fn make_stub(&self, like: &Wanted) -> Option<Stub> {
        let (socket, there) = pair().ok()?;
        match process::fork(process::CloneRequest::default()).ok()? {
            process::Fork::Child => {
                process::close_all_but(3, &[there.as_raw_fd()]);
                if let Ok(namespace) = become_stub() {
                    let _ = protocol::send(&there, Kind::SetUp, 0, &[], &[namespace.as_fd()]);
                }
                process::exit(0)
            }
            process::Fork::Parent { pidfd, .. } => {
                if self.watch(socket.as_fd(), Event::Stub).is_err() {
                    let _ = process::wait_for(pidfd.as_fd());
                    return None;
                }
                Some(Stub::Making { pidfd, socket, like: like.clone() })
            }
        }
    }

    /// The child has sent the namespace, or has failed.
    fn stub_made(&mut self) {
        let Stub::Making { pidfd, socket, like } = std::mem::replace(&mut self.stub, Stub::None) else {
            return;
        };
        let made = protocol::receive(&socket).ok().and_then(|mut frame| frame.fds.pop());
        // It has nothing left to do but to end.
        let _ = process::wait_for(pidfd.as_fd());
        let _ = epoll::delete(&self.epoll, &socket);
        self.stub = made.map_or(Stub::None, Stub::Made);
        let _ = self.make_spare(&like);
    }

    fn stub(&self) -> Option<OwnedFd> {
        match &self.stub {
            Stub::Made(namespace) => duplicate(namespace).ok(),
            _ => None,
        }
    }

    fn map_ids(&mut self, id: u64) {
        let Some(container) = self.containers.get_mut(&id) else { return };
        let (control, Some(map)) = (&container.control, &container.start.user) else { return };
        if container.ahead {
            // The one that waits asks for nothing else.
            let _ = epoll::delete(&self.epoll, control);
        }
        let writer = idmap::writer(map);
        let result = if writer == idmap::Writer::Helpers {
            // The helpers take milliseconds; a child waits for them and answers.
            match process::fork(process::CloneRequest::default()) {
                Ok(process::Fork::Child) => {
                    answer_mapped(control, idmap::run_helpers(container.pid, map));
                    process::exit(0)
                }
                Ok(process::Fork::Parent { pidfd, .. }) => {
                    let mapper = self.wait_later(pidfd);
                    if let Some(container) = self.containers.get_mut(&id) {
                        container.mapper = Some(mapper);
                    }
                    return;
                }
                Err(call) => Err(Error::from_call(ErrorCode::Supervisor, "a helper can't be made", &call)),
            }
        } else {
            idmap::write(&self.kernel, container.pid, map, writer)
        };
        answer_mapped(control, result);
    }

    /// A first process has ended.
    fn ended(&mut self, id: u64) {
        let Some(container) = self.containers.get(&id) else { return };
        // A command may end before it is known here that it has begun.
        if container.start.poststart && !container.begun {
            self.controlled(id);
        }
        let Some(container) = self.containers.get_mut(&id) else { return };
        let exit = container.ended();
        // The end is told after the beginning is over.
        if container.hooks.is_none() {
            self.tell_end(id, exit);
        } else {
            self.let_go(id);
        }
    }

    /// Gives up what was held for a first process, now that it has ended.
    fn let_go(&mut self, id: u64) {
        self.catch_up(id);
        if self.containers.get(&id).is_some_and(|known| !known.begun && !known.start.poststart) {
            self.begun(id);
        }
        self.preparing.remove(&id);
        let Some(container) = self.containers.get_mut(&id) else { return };
        let _ = epoll::delete(&self.epoll, &container.pidfd);
        container.let_go();
        if let Some(mapper) = container.mapper.take().and_then(|mapper| self.leaving.get(&mapper)) {
            process::kill(mapper.as_fd());
        }
        if let Some(killed) = container.killed
            && !self.killed.contains(&killed)
        {
            self.killed.push(killed);
        }
        self.unneeded.extend(container.holder.take());
        self.take_spare(id);
    }

    /// Tells Node of an end, and takes down what is left.
    fn tell_end(&mut self, id: u64, exit: Exit) {
        let Some(container) = self.containers.get_mut(&id) else { return };
        let closed = journal::is_empty(&container.journal)
            && self.pending.is_empty()
            && self.cleaner.is_none()
            && !container.start.poststop;
        if closed {
            // Whoever hears that nothing is left may use the same mountpoints at once.
            self.catch_up(id);
            if let Some(container) = self.containers.get_mut(&id) {
                container.let_go();
            }
        }
        // Before everything else: somebody waits for it.
        self.tell_node(Kind::Exited, id, protocol::encode(&Ended { exit, closed }), Vec::new());
        self.let_go(id);
        if closed {
            self.containers.remove(&id);
        } else {
            self.unclean.push(id);
            self.clean();
        }
        // Whoever has waited for this end may begin the next soon. But first Node hears of the end: the thread that listens may
        // have been put on this processor, to wait until this process waits.
        process::yield_processor();
        // While others are being made it would take their time: a spare one costs more than it saves then. It is made when
        // nothing has happened for a moment.
        if self.are_preparing() == 0 {
            self.prepare_for_more();
        }
    }

    /// What stands for a child that has ended can be read afterwards.
    fn child_ended(&self) {
        let Some(signals) = &self.child_signals else { return };
        process::drain_signals(signals);
        without_pidfds::notice_ends();
    }

    /// Holders that nobody needs any more end when there is time for that.
    fn end_holders(&mut self) {
        for holder in std::mem::take(&mut self.unneeded) {
            process::kill(holder.as_fd());
            self.wait_later(holder);
        }
    }

    /// Waits for a child that ends soon when it has ended. Its number among those.
    fn wait_later(&mut self, child: OwnedFd) -> u64 {
        // See `Event`.
        let number = self.leaving_before + 3;
        self.leaving_before += 1;
        if self.watch(child.as_fd(), Event::Left(number)).is_ok() {
            self.leaving.insert(number, child);
        } else {
            let _ = process::wait_for(child.as_fd());
        }
        number
    }

    fn left(&mut self, number: u64) {
        let Some(child) = self.leaving.remove(&number) else { return };
        let _ = epoll::delete(&self.epoll, &child);
        let _ = process::wait_for(child.as_fd());
    }

    /// Has a child remove the mountpoints that were made: the filesystem may be slow.
    fn clean(&mut self) {
        if self.cleaner.is_some() || self.unclean.is_empty() {
            return;
        }
        let ids = std::mem::take(&mut self.unclean);
        let pending = std::mem::take(&mut self.pending);
        self.clean_after(ids, pending, false);
    }

    fn clean_after(&mut self, ids: Vec<u64>, pending: Vec<Record>, again: bool) {
        let journals: Vec<(u64, &OwnedFd)> =
            ids.iter().filter_map(|id| Some((*id, &self.containers.get(id)?.journal))).collect();
        let started = rustix::fs::memfd_create(c"rootfs-cleaned", rustix::fs::MemfdFlags::CLOEXEC)
            .map_err(rustix::io::Errno::raw_os_error)
            .and_then(|result| {
                let fork = process::fork(process::CloneRequest::default()).map_err(|call| call.errno)?;
                Ok((fork, result))
            });
        match started {
            Ok((process::Fork::Child, result)) => {
                process::set_name(c"rootfs-cleaner");
                // It must not hold the locks of those that live.
                let mut keep: Vec<i32> = journals.iter().map(|(_, journal)| journal.as_raw_fd()).collect();
                keep.push(result.as_raw_fd());
                keep.sort_unstable();
                process::close_all_but(3, &keep);
                let cleaned = clean_now(&journals, pending);
                let _ = rustix::io::write(&result, &protocol::encode(&cleaned));
                process::exit(0)
            }
            Ok((process::Fork::Parent { pidfd, .. }, result)) => {
                let data = epoll::EventData::new_u64(Event::Cleaned.pack());
                let watched = epoll::add(&self.epoll, &pidfd, data, epoll::EventFlags::IN).is_ok();
                self.cleaner = Some(Cleaner { pidfd, result, containers: ids, pending, again });
                // A cleaner that isn't waited for by the loop is waited for here.
                if !watched {
                    self.cleaned();
                }
            }
            Err(_) => {
                let cleaned = clean_now(&journals, pending);
                self.finish_cleaning(&ids, cleaned);
            }
        }
    }

    fn cleaned(&mut self) {
        let Some(cleaner) = self.cleaner.take() else { return };
        let _ = epoll::delete(&self.epoll, &cleaner.pidfd);
        match cleaner.result() {
            Some(found) => self.finish_cleaning(&cleaner.containers, found),
            // What it has removed is found to be gone.
            None if !cleaner.again => {
                let Cleaner { containers, pending, .. } = cleaner;
                return self.clean_after(containers, pending, true);
            }
            None => {
                let found = self.left_by(&cleaner);
                self.finish_cleaning(&cleaner.containers, found);
            }
        }
        self.clean();
    }

    /// What may be left of containers whose cleaners were killed. It can be tried again when another has ended.
    fn left_by(&self, cleaner: &Cleaner) -> Cleaned {
        let reason = "the process that removes it was killed";
        let mut found = Cleaned { in_use: cleaner.pending.clone(), ..Cleaned::default() };
        for id in &cleaner.containers {
            let Some(container) = self.containers.get(id) else { continue };
            for record in journal::read(&container.journal) {
                found.left.push((*id, journal::leftover(&record, reason)));
                found.in_use.push(record);
            }
        }
        found
    }

    fn finish_cleaning(&mut self, ids: &[u64], cleaned: Cleaned) {
        self.pending.extend(cleaned.in_use);
        // Another container drops its locks when it ends, and is cleaned up after later: what is in a directory may be its
        // mountpoint. Without such a container it is somebody else's file.
        if !cleaned.not_empty.is_empty() && self.others_have_mountpoints(ids) {
            self.pending.extend(cleaned.not_empty);
        }
        for id in ids {
            let left: Vec<Leftover> = cleaned
                .left
                .iter()
                .filter(|(owner, _)| owner == id)
                .map(|(_, leftover)| leftover.clone())
                .collect();
            self.closed(*id, left);
        }
    }

    /// Whether containers besides these have made mountpoints, and are not cleaned up after yet.
    fn others_have_mountpoints(&self, ids: &[u64]) -> bool {
        self.containers.iter().any(|(id, other)| !ids.contains(id) && !journal::is_empty(&other.journal))
    }

    fn closed(&mut self, id: u64, left: Vec<Leftover>) {
        if let Some(container) = self.containers.get_mut(&id)
            && container.start.poststop
        {
            container.left = Some(left);
            self.run_hooks(id, HookPoint::Poststop);
        } else {
            self.tell_closed(id, TakenDown { left, failures: Vec::new() });
        }
    }

    fn tell_closed(&mut self, id: u64, mut taken_down: TakenDown) {
        self.containers.remove(&id);
        // What doesn't fit into a frame is left out; the first hundreds tell enough.
        let mut body = protocol::encode(&taken_down);
        while body.len() > protocol::MAX_BODY {
            taken_down.left.truncate(taken_down.left.len() / 2);
            taken_down.failures.truncate(taken_down.failures.len() / 2);
            body = protocol::encode(&taken_down);
        }
        self.tell_node(Kind::Closed, id, body, Vec::new());
    }

    /// Has a child run the programs of a point.
    fn run_hooks(&mut self, id: u64, point: HookPoint) {
        let Some(container) = self.containers.get_mut(&id) else { return };
        let Some(payload) = &container.payload else { return };
        let begun = Runner::begin(payload, point, container.pid).and_then(|runner| {
            let data = epoll::EventData::new_u64(Event::Hooks(id).pack());
            epoll::add(&self.epoll, &runner.pidfd, data, epoll::EventFlags::IN).map_err(|errno| {
                process::kill(runner.pidfd.as_fd());
                let _ = process::wait_for(runner.pidfd.as_fd());
                Error::new(ErrorCode::Hook, format!("{} hooks can't be waited for: {errno}", point.name()))
            })?;
            Ok(runner)
        });
        match begun {
            Ok(runner) => container.hooks = Some(runner),
            Err(error) => self.hooks_told(id, point, vec![*error]),
        }
    }

    /// The child has ended.
    fn hooks_ended(&mut self, id: u64) {
        let Some(runner) = self.containers.get_mut(&id).and_then(|container| container.hooks.take()) else {
            return;
        };
        let _ = epoll::delete(&self.epoll, &runner.pidfd);
        let failures = runner.failures();
        self.hooks_told(id, runner.point, failures);
    }

    fn hooks_told(&mut self, id: u64, point: HookPoint, failures: Vec<Error>) {
        let Some(container) = self.containers.get_mut(&id) else { return };
        if point == HookPoint::Poststop {
            let left = container.left.take().unwrap_or_default();
            return self.tell_closed(id, TakenDown { left, failures });
        }
        let exit = container.exit;
        let answer = match failures.into_iter().next() {
            Some(error) => {
                container.kill();
                Answer::Failed(Box::new(error))
            }
            None => Answer::Done(()),
        };
        self.tell_node(Kind::Poststart, id, protocol::encode(&answer), Vec::new());
        if let Some(exit) = exit {
            self.tell_end(id, exit);
        }
    }

    /// Node is gone, however that happened: so is everything.
    fn end_all(&mut self) {
        self.closing = true;
        for id in self.containers.keys().copied().collect::<Vec<_>>() {
            self.catch_up(id);
        }
        for container in self.containers.values_mut() {
            container.kill();
        }
        self.wait_for_endings();
        let containers = std::mem::take(&mut self.containers);
        let mut journals = Vec::new();
        let mut stopped = Vec::new();
        for (id, mut container) in containers {
            if container.exit.is_none() {
                process::wait_until_ended(container.pidfd.as_fd());
                container.ended();
                container.let_go();
            }
            self.unneeded.extend(container.holder.take());
            if container.start.poststop {
                stopped.push((container.pid, container.payload, container.hooks));
            }
            journals.push((id, container.journal));
        }
        self.end_holders();
        for child in self.leaving.values() {
            let _ = process::wait_for(child.as_fd());
        }
        if let Some(cleaner) = self.cleaner.take() {
            // The journals are all gone through again below.
            self.pending.extend(match cleaner.result() {
                Some(found) => [found.in_use, found.not_empty].concat(),
                None => cleaner.pending,
            });
        }
        let journals: Vec<(u64, &OwnedFd)> = journals.iter().map(|(id, journal)| (*id, journal)).collect();
        clean_now(&journals, std::mem::take(&mut self.pending));
        // All at once, and nobody is left to be told of failures.
        let runners = stopped.into_iter().filter_map(|(pid, payload, running)| match running {
            Some(runner) if runner.point == HookPoint::Poststop => Some(runner),
            _ => Runner::begin(&payload?, HookPoint::Poststop, pid).ok(),
        });
        for runner in runners.collect::<Vec<_>>() {
            runner.end_within(LAST_PATIENCE);
        }
    }
}

impl Server {
    /// Waits for first processes that end what they have started, then kills those that haven't.
    fn wait_for_endings(&self) {
        let asked = || self.containers.values().filter(|container| container.exit.is_none());
        for container in asked() {
            let Some(since) = container.ending else { continue };
            let left = ENDING.saturating_sub(since.elapsed());
            process::wait_until_ended_within(container.pidfd.as_fd(), Some(left));
            container.kill_now();
        }
    }
}

impl Cleaner {
    /// Waits for its end, and what it has to say; nothing if it was killed.
    fn result(&self) -> Option<Cleaned> {
        let ended = process::wait_for(self.pidfd.as_fd());
        let bytes = memfd::read(&self.result, 64 << 20).ok()?;
        protocol::decode(&bytes).ok().filter(|_| ended.is_ok_and(|exit| exit == Exit::Code(0)))
    }
}

/// How many seconds poststop programs get when Node is gone.
const LAST_PATIENCE: u32 = 10;

/// Removes what these containers made, and what earlier ones made in trees that were in use.
fn clean_now(journals: &[(u64, &OwnedFd)], pending: Vec<Record>) -> Cleaned {
    let first = journals.first().map_or(0, |(id, _)| *id);
    let (mut owners, mut records): (Vec<u64>, Vec<Record>) =
        pending.into_iter().map(|record| (first, record)).unzip();
    let earlier = records.len();
    for (id, journal) in journals {
        let own = journal::read(journal);
        owners.extend(own.iter().map(|_| *id));
        records.extend(own);
    }
    let mut cleaned = Cleaned::default();
    let outcomes = process::as_child(|| journal::remove_each(&records));
    for (index, ((record, owner), outcome)) in records.into_iter().zip(owners).zip(outcomes).enumerate() {
        match outcome {
            journal::Outcome::Removed => {}
            journal::Outcome::Kept(reason) => {
                cleaned.left.push((owner, journal::leftover(&record, reason)));
            }
            journal::Outcome::NotEmpty => {
                if index >= earlier {
                    cleaned.left.push((owner, journal::leftover(&record, journal::NOT_EMPTY)));
                }
                cleaned.not_empty.push(record);
            }
            journal::Outcome::InUse => {
                // It was told already for earlier ones.
                if index >= earlier {
                    let reason = "another container has mountpoints in this tree";
                    cleaned.left.push((owner, journal::leftover(&record, reason)));
                }
                cleaned.in_use.push(record);
            }
        }
    }
    cleaned
}

/// Whether a container waits for others, and others for it. Not where its preparation waits for the caller, who may need another
/// container for that, nor where it never ends.
fn waits(start: &Start) -> bool {
    !start.hooks && !start.keeper
}

fn answer_mapped(control: &OwnedFd, result: Result<()>) {
    let answer = match result {
        Ok(()) => Answer::Done(()),
        Err(error) => Answer::Failed(error),
    };
    let _ = protocol::send(control, Kind::Mapped, 0, &protocol::encode(&answer), &[]);
}

impl Container {
    fn new((pid, pidfd): (i32, OwnedFd), start: Start, journal: OwnedFd, control: OwnedFd) -> Self {
        Self {
            pid,
            pidfd,
            start,
            journal,
            control,
            alarm: None,
            ahead: false,
            opener: None,
            mapper: None,
            holder: None,
            locks: Vec::new(),
            set_up: false,
            stays: false,
            ending: None,
            filesystems: Vec::new(),
            payload: None,
            hooks: None,
            begun: false,
            cgroup: None,
            killed: None,
            exit: None,
            left: None,
        }
    }

    /// Whether all that its first process says wakes the supervisor: only one in a user namespace asks for something.
    fn is_heard(&self) -> bool {
        self.start.user.is_some() && !self.ahead
    }

    /// Ends everything in it. `true` if its first process does that, and has to be killed when it doesn't.
    fn kill(&mut self) -> bool {
        self.kill_hooks();
        let asked = self.exit.is_none()
            && !self.start.pid
            && self.stays
            && rustix::net::shutdown(&self.control, rustix::net::Shutdown::Both).is_ok();
        if asked {
            self.ending.get_or_insert_with(Instant::now);
        } else {
            self.kill_now();
        }
        asked
    }

    fn kill_hooks(&self) {
        if let Some(hooks) = self.hooks.as_ref().filter(|hooks| hooks.point == HookPoint::Poststart) {
            process::kill(hooks.pidfd.as_fd());
        }
    }

    fn kill_now(&self) {
        if self.exit.is_some() {
            return;
        }
        process::kill(self.pidfd.as_fd());
        self.kill_others();
    }

    /// Without a pid namespace the end of the first process ends no other. It leads a session and group of its own; its
    /// cgroup holds also those that have left the group.
    fn kill_others(&self) -> Option<cgroup::Identity> {
        if !self.start.pid {
            process::kill_group(self.pid);
        }
        self.cgroup.as_ref().and_then(cgroup::kill)
    }

    /// The first process has ended. How it has.
    fn ended(&mut self) -> Exit {
        // First: as soon as it has been waited for, its number may be another's.
        self.killed = self.kill_others();
        let exit = process::wait_for(self.pidfd.as_fd()).unwrap_or(Exit::Code(255));
        self.exit = Some(exit);
        exit
    }

    /// What was held for a first process that has ended goes too.
    fn let_go(&mut self) {
        self.release_locks();
        if let Some(opener) = self.opener.take() {
            process::kill(opener.as_fd());
            let _ = process::wait_for(opener.as_fd());
        }
    }
}

impl Container {
    /// Gives up the locks that the first process has sent, and those that nobody has received yet: a connection holds what is
    /// in it. A child of the supervisor that has just been made may still have copies, so closing them is not enough.
    fn release_locks(&mut self) {
        while !self.begun
            && is_readable(&self.control)
            && let Ok(frame) = protocol::receive(&self.control)
        {
            self.locks.extend(frame.fds);
        }
        for lock in self.locks.drain(..) {
            let _ = rustix::fs::flock(&lock, rustix::fs::FlockOperation::Unlock);
        }
    }
}

/// Whether something was said on a connection, or all was.
fn is_readable(socket: &OwnedFd) -> bool {
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&now)) == Ok(1)
}

/// How somebody's user and group are seen in a user namespace, if nobody else is seen so.
fn seen_in(map: Option<&IdMap>, (user, group): (u32, u32)) -> Option<(u32, u32)> {
    let Some(map) = map else { return Some((user, group)) };
    // Whoever isn't mapped is seen as this one; `user_namespaces(7)`.
    let of_others = |name| host::sysctl(name).and_then(|id| id.parse().ok()).unwrap_or(NOBODY);
    let seen = |list, id, others| IdMap::from_host(list, id).filter(|id| *id != others);
    Some((
        seen(&map.uids, user, of_others("kernel.overflowuid"))?,
        seen(&map.gids, group, of_others("kernel.overflowgid"))?,
    ))
}

pub(crate) fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// A connection between two processes of a container.
pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|errno| SysError::new("socketpair", errno, "AF_UNIX, SOCK_SEQPACKET"))
        .context(ErrorCode::Supervisor, || "the supervisor can't make a connection to a first process")
}

fn duplicate(fd: &OwnedFd) -> Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd, 0)
        .map_err(|errno| SysError::new("fcntl", errno, format!("{}, F_DUPFD_CLOEXEC", fd.as_raw_fd())))
        .context(ErrorCode::Supervisor, || "the supervisor can't duplicate a descriptor of a request")
}

pub(crate) fn clone_flags(start: &Start) -> u64 {
    let mut flags = 0;
    for (wanted, flag) in [
        (start.user.is_some(), namespaces::USER),
        (start.mount, namespaces::MOUNT),
        (start.pid, namespaces::PID),
        (start.ipc, namespaces::IPC),
        (start.uts, namespaces::UTS),
        // In a cgroup of its own, the namespace is made from inside: its root is where it is made.
        (start.cgroup_namespace && !start.cgroup, namespaces::CGROUP),
        (start.network, namespaces::NETWORK),
    ] {
        if wanted {
            flags |= u64::from(flag.cast_unsigned());
        }
    }
    flags
}

pub(crate) fn clone_error(start: &Start, call: &SysError) -> Box<Error> {
    // The plan is for the first process to read, but this step is the same in each.
    let step = Plan::NAMESPACES;
    let what = format!("step {step} (namespaces): the container's first process can't be made");
    let mut error = Error::from_call(ErrorCode::Denied, what, call);
    error.step = Some(step);
    error.hint = Hint::of_clone_into(call, start.user.is_some(), start.cgroup).map(String::from);
    error
}

#[cfg(test)]
mod tests {
    use rootfs::spec::IdMapping;

    use super::*;

    #[test]
    fn nobody_else_is_seen_as_the_caller() {
        let line = |container_id, host_id| IdMapping { container_id, host_id, size: 1 };
        let caller = (1000, 1001);
        let seen = |uid, gid| {
            let map = IdMap {
                uids: vec![line(0, 100_000), line(uid, 1000)],
                gids: vec![line(0, 100_000), line(gid, 1001)],
            };
            seen_in(Some(&map), caller)
        };
        assert_eq!(seen_in(None, caller), Some(caller));
        assert_eq!(seen(5, 6), Some((5, 6)));
        let others = |name| host::sysctl(name).unwrap().parse().unwrap();
        assert_eq!(seen(others("kernel.overflowuid"), 6), None);
        assert_eq!(seen(5, others("kernel.overflowgid")), None);
        assert_eq!(seen_in(Some(&IdMap { uids: vec![line(0, 7)], gids: vec![line(0, 1001)] }), caller), None);
    }
}
