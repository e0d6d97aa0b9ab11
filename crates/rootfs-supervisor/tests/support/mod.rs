//! A client of the supervisor for tests: what the addon does, without Node.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests make and read their own files")]
#![allow(unreachable_pub, dead_code, missing_docs, reason = "each test program uses a part of this")]

use std::cell::RefCell;
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rootfs::defaults;
use rootfs::error::Error;
use rootfs::execute::Level;
use rootfs::kernel::memfd;
use rootfs::namespace::NamespaceKind;
use rootfs::options::{Attributes, Links, Propagation, attr};
use rootfs::path::PathBytes;
use rootfs::plan::Plan;
use rootfs::process::{ProcessSpec, User};
use rootfs::protocol::{
    self, Exit, Frame, FrameError, Kind, Leftover, Payload, PayloadRest, Report, Start, TakenDown,
};
use rootfs::spec::{
    BindSource, HookPoint, IdMap, IdMapping, Mask, MissingMask, Mount, MountKind, ReadonlyRoot, Root,
    RootfsSpec,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// The user of the unprivileged cell.
pub const NOBODY: u32 = 65534;

/// A cell of the table: who calls, and with which user namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// Root without a user namespace.
    Root,
    /// Root with a user namespace that maps one id.
    RootUser,
    /// Root with a user namespace that maps a range.
    RootRange,
    /// An ordinary user.
    Ordinary,
}

impl Cell {
    pub const ALL: [Self; 4] = [Self::Root, Self::RootUser, Self::RootRange, Self::Ordinary];

    pub fn map(self) -> Option<IdMap> {
        let line = |host_id, size| vec![IdMapping { container_id: 0, host_id, size }];
        match self {
            Self::Root => None,
            Self::RootUser => Some(IdMap { uids: line(0, 1), gids: line(0, 1) }),
            Self::RootRange => Some(IdMap { uids: line(100_000, 65536), gids: line(100_000, 65536) }),
            Self::Ordinary => Some(IdMap { uids: line(NOBODY, 1), gids: line(NOBODY, 1) }),
        }
    }

    pub fn owner(self) -> u32 {
        self.map().map_or(0, |map| map.uids[0].host_id)
    }

    pub fn privileged(self) -> bool {
        self != Self::Ordinary
    }

    /// The levels that this caller can have on this kernel.
    pub fn levels(self) -> Vec<Level> {
        // The opener's mounts only attach in the first process's namespace.
        let opener = matches!(self, Self::RootUser | Self::RootRange);
        let detached = !opener && kernel() >= (6, 15);
        Level::ALL.iter().copied().filter(|level| detached || *level != Level::Detached).collect()
    }
}

/// Only the tests go by version; the library probes.
fn kernel() -> (u32, u32) {
    let release = rustix::system::uname().release().to_str().unwrap().to_owned();
    let mut numbers = release.split(['.', '-', '+']).map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// A directory of our own that is removed at the end, unless something is mounted below it.
pub struct Scratch(pub PathBuf);

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Scratch {
    pub fn new() -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("rootfs-test-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.0.to_str().unwrap()), "a mount is left below {}", self.0.display());
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A root with busybox and nothing else.
pub fn busybox_root(directory: &Path, cell: Cell, mountpoints: bool) -> PathBuf {
    let root = directory.join("root");
    for name in ["", "bin", "etc"] {
        fs::create_dir(root.join(name)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("the Debian package busybox-static is needed");
    for name in
        ["sh", "cat", "id", "true", "sleep", "ls", "mkdir", "stat", "hostname", "echo", "test", "touch", "wc"]
    {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    if mountpoints {
        for name in ["proc", "dev", "sys", "tmp"] {
            fs::create_dir(root.join(name)).unwrap();
        }
    }
    give_to(&root, cell.owner());
    root
}

fn give_to(path: &Path, owner: u32) {
    std::os::unix::fs::lchown(path, Some(owner), Some(owner)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).unwrap() {
            give_to(&entry.unwrap().path(), owner);
        }
        chown(path, Some(owner), Some(owner)).unwrap();
    }
}

/// What every container gets.
pub fn default_spec(root: &Path) -> RootfsSpec {
    let mut spec = RootfsSpec::new(Root::Directory(PathBytes::from(root)));
    spec.add(defaults::proc());
    spec.extend(defaults::dev(defaults::DEV_SIZE, false));
    spec.add(defaults::sysfs(true));
    spec.add(defaults::cgroup(true));
    spec.dev = true;
    spec.readonly = Some(ReadonlyRoot { recursive: false });
    spec.readonly_paths = defaults::READONLY_PATHS.map(PathBytes::from).to_vec();
    spec.masks =
        defaults::MASKED_PATHS.map(|path| Mask { path: path.into(), missing: MissingMask::Skip }).to_vec();
    spec.hostname = Some("box".into());
    spec
}

/// A read-only bind as the builder makes it.
pub fn bind(source: &Path, destination: &str) -> Mount {
    Mount {
        destination: destination.into(),
        kind: MountKind::Bind {
            source: BindSource::Host(PathBytes::from(source)),
            recursive: true,
            optional: false,
            within: None,
        },
        attributes: Attributes {
            set_recursive: attr::RDONLY | attr::NOSUID | attr::NODEV,
            ..Attributes::default()
        },
        propagation: vec![Propagation::RPRIVATE],
        id_map: None,
        ineffective: vec![],
        links: Links::default(),
    }
}

pub fn shell(script: &str) -> ProcessSpec {
    ProcessSpec {
        command: "/bin/sh".into(),
        args: ["sh", "-c", script].map(|arg| arg.as_bytes().to_vec()).to_vec(),
        env: vec![b"PATH=/bin".to_vec()],
        cwd: None,
        user: User::default(),
        capabilities: None,
        no_new_privileges: true,
        rlimits: vec![],
        seccomp: None,
        descriptors: Vec::new(),
        oom_score_adj: None,
        apparmor_profile: None,
        selinux_label: None,
    }
}

/// A supervisor and the connection to it.
pub struct Supervisor {
    pub child: Child,
    pub socket: OwnedFd,
    /// What the next containers read from; otherwise nothing.
    pub stdin: Option<OwnedFd>,
    next: u64,
    spare: RefCell<Option<Frame>>,
}

/// What became of a container.
#[derive(Debug)]
pub struct Ended {
    pub exit: Exit,
    pub output: String,
    pub report: Option<Report>,
    pub failure: Option<Error>,
    pub left: Vec<Leftover>,
}

pub struct Running {
    pub id: u64,
    pub node: OwnedFd,
    pub journal: OwnedFd,
    pub pid: i32,
    pub pidfd: OwnedFd,
    output: OwnedFd,
    /// What the first process had said before the supervisor told of it.
    early: RefCell<Option<Frame>>,
}

impl Running {
    pub fn receive(&self) -> Result<Frame, FrameError> {
        self.early.take().map_or_else(|| protocol::receive(&self.node), Ok)
    }
}

/// A first process that waits to be asked for something.
pub struct SpareProcess {
    pub id: u64,
    pub start: Start,
    pub pid: i32,
    pub node: OwnedFd,
    pub journal: OwnedFd,
    pub pidfd: OwnedFd,
}

impl SpareProcess {
    /// Asks for a command, in the name of this user.
    pub fn ask(self, spec: &RootfsSpec, process: ProcessSpec, user: u32) -> Running {
        self.ask_for(spec, Some(process), user)
    }

    /// Asks for a root that commands can be started in.
    pub fn ask_to_prepare(self, spec: &RootfsSpec) -> Running {
        self.ask_for(spec, None, 0)
    }

    fn ask_for(self, spec: &RootfsSpec, process: Option<ProcessSpec>, user: u32) -> Running {
        let cell = if self.start.user.is_some() { Cell::Ordinary } else { Cell::Root };
        let payload = payload(Plan::new(spec).unwrap(), process, None, cell);
        let output = memory();
        let null = fs::File::open("/dev/null").unwrap();
        let fds = [payload.as_fd(), null.as_fd(), output.as_fd(), output.as_fd()];
        let sender = rustix::net::UCred {
            pid: rustix::process::getpid(),
            uid: rustix::fs::Uid::from_raw(user),
            gid: rustix::fs::Gid::from_raw(user),
        };
        protocol::send_as(&self.node, Kind::Begin, self.id, &[], &fds, Some(sender)).unwrap();
        let Self { id, pid, node, journal, pidfd, .. } = self;
        Running { id, node, journal, pid, pidfd, output, early: RefCell::new(None) }
    }
}

fn payload(plan: Plan, process: Option<ProcessSpec>, level: Option<Level>, cell: Cell) -> OwnedFd {
    let rest = PayloadRest {
        process,
        usual: None,
        verify: true,
        report_steps: false,
        level,
        privileged: cell.privileged(),
        user: None,
    };
    memfd::sealed(c"payload", &protocol::encode(&Payload { plan, template: None, rest }), false).unwrap()
}

pub fn pair() -> (OwnedFd, OwnedFd) {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

pub fn memory() -> OwnedFd {
    rustix::fs::memfd_create(c"test", rustix::fs::MemfdFlags::CLOEXEC).unwrap()
}

impl Supervisor {
    pub fn start(cell: Cell) -> Self {
        Self::start_by("exec /usr/bin/env", cell)
    }

    /// In a mount namespace of its own, with an empty tmpfs on this directory, and with filesystems of the kernel that are not
    /// the host's. Meanwhile [`Self::path`] leads there.
    pub fn start_isolated(cell: Cell, directory: &Path) -> Self {
        Self::start_isolated_with(cell, directory, "true")
    }

    /// The same, and then this is done there, in words of the shell without single quotes.
    pub fn start_isolated_with(cell: Cell, directory: &Path, script: &str) -> Self {
        let mount = format!("mount -t tmpfs -o mode=755 tmpfs {}; {script}", directory.display());
        let namespaces = "--mount --propagation private --ipc --net";
        Self::start_by(
            &format!("exec /usr/bin/unshare {namespaces} /bin/sh -ec '{mount}; exec /usr/bin/env \"$@\"' sh"),
            cell,
        )
    }

    /// How a path of the supervisor's mount namespace is reached.
    pub fn path(&self, path: &Path) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{}", self.child.id(), path.display()))
    }

    /// The mount table of the supervisor.
    pub fn mounts(&self) -> String {
        fs::read_to_string(format!("/proc/{}/mountinfo", self.child.id())).unwrap()
    }

    /// The same by a program that executes its arguments, and by env(1) below it.
    pub fn start_by(program: &str, cell: Cell) -> Self {
        let (here, there) = pair();
        // An ordinary user may have started these tests, and is in a cell alone.
        let user = if cell == Cell::Ordinary && rustix::process::geteuid().is_root() {
            format!("/usr/bin/setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups")
        } else {
            String::new()
        };
        let script = format!("exec 3<&0 </dev/null; {program} -i {user} \"$0\"");
        let child = Command::new("/bin/sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_rootfs-supervisor")])
            .env_clear()
            .stdin(Stdio::from(there))
            .spawn()
            .unwrap();
        let hello = protocol::receive(&here).unwrap();
        assert_eq!(hello.kind, Kind::Hello);
        Self { child, socket: here, stdin: None, next: 0, spare: RefCell::new(None) }
    }

    pub fn begin(
        &mut self,
        cell: Cell,
        spec: &RootfsSpec,
        process: Option<ProcessSpec>,
        level: Option<Level>,
    ) -> Result<Running, Box<Error>> {
        self.begin_joining(cell, spec, process, level, &[])
    }

    /// In these namespaces, which the specification has as paths.
    pub fn begin_joining(
        &mut self,
        cell: Cell,
        spec: &RootfsSpec,
        process: Option<ProcessSpec>,
        level: Option<Level>,
        joins: &[(NamespaceKind, OwnedFd)],
    ) -> Result<Running, Box<Error>> {
        self.next += 1;
        let plan = Plan::new(spec)?;
        let hooks: Vec<HookPoint> = plan.hooks().map(|hook| hook.point).collect();
        let in_user_namespace = cell.map().is_some();
        let joined = |kind| joins.iter().any(|(joined, _)| *joined == kind);
        let start = Start {
            user: cell.map().filter(|_| !joined(NamespaceKind::User)),
            pid: !joined(NamespaceKind::Pid),
            ipc: true,
            uts: true,
            cgroup_namespace: true,
            network: false,
            mount: in_user_namespace,
            opener: (cell.privileged() && in_user_namespace)
                || hooks.iter().any(|point| point.in_runtime_namespaces()),
            hooks: !hooks.is_empty(),
            poststart: false,
            poststop: false,
            cgroup: false,
            bounding: None,
            keeper: false,
            caller: 0,
            joins: joins.iter().map(|(kind, _)| *kind).collect(),
            sources: 0,
        };
        let payload = payload(plan, process, level, cell);
        let (node, first) = pair();
        let (journal, output) = (memory(), memory());
        let null = fs::File::open("/dev/null").unwrap();
        let stdin = self.stdin.as_ref().map_or(null.as_fd(), AsFd::as_fd);
        let mut fds: Vec<BorrowedFd<'_>> =
            vec![payload.as_fd(), first.as_fd(), journal.as_fd(), stdin, output.as_fd(), output.as_fd()];
        fds.extend(joins.iter().map(|(_, namespace)| namespace.as_fd()));
        // The kernel lets root say that it is somebody else, which here plays the ordinary user's program.
        let id = if cell.privileged() { 0 } else { NOBODY };
        let sender = rustix::net::UCred {
            pid: rustix::process::getpid(),
            uid: rustix::fs::Uid::from_raw(id),
            gid: rustix::fs::Gid::from_raw(id),
        };
        protocol::send_as(
            &self.socket,
            Kind::Start,
            self.next,
            &protocol::encode(&start),
            &fds,
            Some(sender),
        )
        .unwrap();
        drop(first);
        // Refused, the socket just ends, and the reason is on the supervisor's.
        let Ok(mut frame) = protocol::receive(&node) else {
            let refused = self.receive(self.next);
            assert_eq!(refused.kind, Kind::Refused);
            return Err(Box::new(refused.decode().unwrap()));
        };
        // The first process can be faster than the supervisor that has made it.
        let mut early = None;
        if frame.kind != Kind::Started {
            early = Some(std::mem::replace(&mut frame, protocol::receive(&node).unwrap()));
        }
        assert_eq!((frame.kind, frame.id), (Kind::Started, self.next));
        let pid = frame.decode().unwrap();
        let (id, pidfd, early) = (self.next, frame.fds.pop().unwrap(), RefCell::new(early));
        Ok(Running { id, node, journal, pid, pidfd, output, early })
    }

    /// The first process that the supervisor has made before it is asked for.
    pub fn take_spare(&self) -> SpareProcess {
        let frame = self.spare.take().unwrap_or_else(|| {
            let frame = protocol::receive(&self.socket).unwrap();
            assert_eq!(frame.kind, Kind::Spare);
            frame
        });
        let protocol::Spare { start, pid } = frame.decode().unwrap();
        let [node, journal, pidfd] = frame.fds.try_into().unwrap();
        SpareProcess { id: frame.id, start, pid, node, journal, pidfd }
    }

    pub fn receive(&self, id: u64) -> Frame {
        loop {
            let frame = protocol::receive(&self.socket).unwrap();
            if frame.kind == Kind::Spare {
                self.spare.replace(Some(frame));
                continue;
            }
            // A spare that is given up ends too.
            if frame.id == id {
                return frame;
            }
            assert!(frame.id >> 51 == 1, "{frame:?}");
        }
    }

    pub fn close(&self, id: u64) {
        protocol::send(&self.socket, Kind::Close, id, &[], &[]).unwrap();
    }

    /// Waits for the end of a container.
    pub fn finish(&self, running: &Running) -> Ended {
        let (mut report, mut failure) = (None, None);
        while let Ok(frame) = running.receive() {
            match frame.kind {
                Kind::Ready => report = Some(frame.decode().unwrap()),
                Kind::Failed => failure = Some(frame.decode().unwrap()),
                _ => {}
            }
        }
        let exit = self.receive(running.id);
        assert_eq!(exit.kind, Kind::Exited);
        let protocol::Ended { exit, closed } = exit.decode().unwrap();
        let left = if closed {
            Vec::new()
        } else {
            let closed = self.receive(running.id);
            assert_eq!(closed.kind, Kind::Closed);
            closed.decode::<TakenDown>().unwrap().left
        };
        let output = memfd::read(&running.output, 1 << 20).unwrap();
        Ended { exit, output: String::from_utf8_lossy(&output).into_owned(), report, failure, left }
    }

    pub fn run(&mut self, cell: Cell, spec: &RootfsSpec, script: &str, level: Option<Level>) -> Ended {
        let running = self.begin(cell, spec, Some(shell(script)), level).unwrap();
        self.finish(&running)
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // The end of the socket is the end of the supervisor.
        let (other, _) = pair();
        self.socket = other;
        self.child.wait().unwrap();
    }
}

/// Starts a command in a prepared root, and returns how it ended and what it wrote.
pub fn command(running: &Running, id: u64, script: &str) -> (Exit, String) {
    process(running, id, &shell(script))
}

/// The same with more to say about it.
pub fn process(running: &Running, id: u64, spec: &ProcessSpec) -> (Exit, String) {
    let output = memory();
    let payload = memfd::sealed(c"process", &protocol::encode(spec), false).unwrap();
    let null = fs::File::open("/dev/null").unwrap();
    let fds = [payload.as_fd(), null.as_fd(), output.as_fd(), output.as_fd()];
    protocol::send(&running.node, Kind::Spawn, id, &[], &fds).unwrap();
    let spawned = running.receive().unwrap();
    assert_eq!((spawned.kind, spawned.id, spawned.fds.len()), (Kind::Spawned, id, 1));
    let exited = running.receive().unwrap();
    assert_eq!((exited.kind, exited.id), (Kind::ChildExited, id));
    let text = memfd::read(&output, 1 << 20).unwrap();
    (exited.decode().unwrap(), String::from_utf8(text).unwrap())
}

/// Whether a process ends within a second.
pub fn exit_of(pidfd: &OwnedFd) -> bool {
    let poll = &mut [rustix::event::PollFd::new(pidfd, rustix::event::PollFlags::IN)];
    rustix::event::poll(poll, Some(&rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 })) == Ok(1)
}

/// The living processes of a name that a process has begun: their pids.
pub fn children(of: u32, name: &str) -> Vec<i32> {
    let list = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    let pids = list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok());
    pids.filter(|pid| is_alive(*pid, name)).collect()
}

/// Whether a process of this name lives; one that has ended and waits to be waited for doesn't.
pub fn is_alive(pid: i32, name: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.starts_with(&format!("Name:\t{name}\n")) && !status.contains("\nState:\tZ")
}

/// What a supervisor can't clean up any more, the other holder of the journal does, within a second.
pub fn clean_up_by_another(running: &Running, what: &str) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(1);
    loop {
        let cleaned = rootfs::journal::clean_up(&running.journal);
        if cleaned.in_use.is_empty() && cleaned.left.is_empty() {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{what}: {:?}", cleaned.left);
        std::thread::yield_now();
    }
}

/// Waits until something is so, for a second.
pub fn soon(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..200 {
        if is_so() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("not within a second: {what}");
}

/// The mount table of this process, to be compared.
pub fn host_mounts() -> String {
    let mut text = String::new();
    fs::File::open("/proc/self/mountinfo").unwrap().read_to_string(&mut text).unwrap();
    text
}

/// Names, types and modes below a directory.
pub fn listing(directory: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        names.push(format!("{} {:o} {}", path.display(), meta.mode(), meta.uid()));
        if meta.is_dir() {
            names.extend(listing(&path));
        }
    }
    names.sort();
    names
}
