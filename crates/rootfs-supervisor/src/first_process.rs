//! The first process of a container: it carries out the plan, then becomes the command, or stays and starts others.

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use rootfs::Hint;
use rootfs::error::{CallContext, Error, ErrorCode, Result, SysError};
use rootfs::execute::filesystem::{Filesystem, Stock};
use rootfs::execute::sources::{self, Opened, Sources};
use rootfs::execute::{Execution, Level, Outcome, Setting, Surroundings, classic};
use rootfs::journal::{Identity, Writer};
use rootfs::kernel::classic::Classic;
use rootfs::kernel::linux::{Linux, can_assemble_detached, has_mount_api};
use rootfs::kernel::process::namespaces;
use rootfs::kernel::{Kernel, holder, memfd, process};
use rootfs::lsm;
use rootfs::namespace::NamespaceKind;
use rootfs::path::PathBytes;
use rootfs::plan::{Action, Plan, mask_warning};
use rootfs::process::ProcessSpec;
use rootfs::protocol::{
    self, Answer, ExecutedStep, FrameError, FunctionCall, Kind, MAX_BODY, MAX_PAYLOAD, Payload, Report, Start,
};
use rootfs::resolve::Missing;
use rootfs::spec::{Directory, Hook, HookPoint, Namespace};
use rustix::fs::{AtFlags, OFlags};

use crate::broker::{self, Request, SourceBatch, connection_error};
use crate::command::{Groups, Parent, become_command, is_connected};
use crate::hooks;
use crate::join::join;
use crate::keeper;
use crate::pid1;
use crate::server::pair;

/// What a first process begins with.
pub(crate) struct FirstProcess {
    /// How the container is begun.
    pub(crate) start: Start,
    /// What it is asked for; `None` if Node says so later.
    pub(crate) asked: Option<Asked>,
    /// Its connection to Node.
    pub(crate) node: OwnedFd,
    /// The journal.
    pub(crate) journal: OwnedFd,
    /// Its connection to the supervisor.
    pub(crate) control: OwnedFd,
    /// What tells the supervisor, in a moment, to listen to that connection; `None` if it does anyway.
    pub(crate) alarm: Option<OwnedFd>,
    /// Its connection to the opener.
    pub(crate) opener: Option<OwnedFd>,
    /// The level that was found to work for an earlier container.
    pub(crate) known_level: Option<Level>,
    /// A mount namespace with nothing in it, if there is one.
    pub(crate) stub: Option<OwnedFd>,
    /// What a container like this one has needed before.
    pub(crate) filesystems: Vec<Filesystem>,
    /// The supervisor's own limit of open files, which it has raised for itself.
    pub(crate) open_files: Option<rootfs::process::Rlimit>,
    /// Whose requests are served: user and group.
    pub(crate) identity: (u32, u32),
}

/// What a first process is asked for.
pub(crate) struct Asked {
    /// What it is told.
    pub(crate) payload: Written,
    /// stdin, stdout, stderr.
    pub(crate) streams: [OwnedFd; 3],
    /// Namespaces that are joined.
    pub(crate) namespaces: Vec<OwnedFd>,
    /// Further descriptors of the command, then those of bind sources.
    pub(crate) others: Vec<OwnedFd>,
    /// Whether the process was there before.
    pub(crate) later: bool,
}

/// An encoded [`Payload`].
pub(crate) enum Written {
    /// In a sealed memory file.
    File(OwnedFd),
    /// In the frame.
    Frame(Vec<u8>),
}

impl Asked {
    /// From a [`Kind::Begin`].
    fn from_frame(frame: protocol::Frame, namespaces: usize) -> Option<Self> {
        let mut fds = frame.fds.into_iter();
        let payload =
            if frame.body.is_empty() { Written::File(fds.next()?) } else { Written::Frame(frame.body) };
        let streams = [fds.next()?, fds.next()?, fds.next()?];
        let namespaces = fds.by_ref().take(namespaces).collect();
        Some(Self { payload, streams, namespaces, others: fds.collect(), later: true })
    }

    pub(crate) fn read(&self) -> Result<Payload> {
        match &self.payload {
            Written::File(file) => read_payload(file),
            Written::Frame(bytes) => decode_payload(bytes),
        }
    }

    /// The streams of the command, and the bind sources.
    pub(crate) fn parts(&self, payload: &Payload) -> Result<(Vec<BorrowedFd<'_>>, &[OwnedFd])> {
        let further = payload.further_descriptors();
        let (further, sources) = self.others.split_at_checked(further).ok_or_else(|| {
            Error::new(ErrorCode::Supervisor, "a request without its command's descriptors")
        })?;
        Ok((self.streams.iter().chain(further).map(AsFd::as_fd).collect(), sources))
    }
}

/// What a first process tells the supervisor when all steps are done.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct SetUp {
    /// The level that was used.
    pub(crate) level: Level,
    /// The filesystems that were needed.
    pub(crate) filesystems: Vec<Filesystem>,
    /// Whether this process stays, and starts commands.
    pub(crate) stays: bool,
}

/// The content of a payload.
pub(crate) fn read_payload(payload: &OwnedFd) -> Result<Payload> {
    let bytes = memfd::read_sealed(payload, MAX_PAYLOAD)
        .context(ErrorCode::Supervisor, || "the payload of the request can't be read")?;
    decode_payload(&bytes)
}

fn decode_payload(bytes: &[u8]) -> Result<Payload> {
    protocol::decode(bytes).map_err(|error| connection_error("the payload of the request", &error))
}

/// An error as the body of a frame; one that is too long loses its details but not itself.
pub(crate) fn error_body(error: &Error) -> Vec<u8> {
    let body = protocol::encode(error);
    if body.len() <= MAX_BODY {
        return body;
    }
    let mut short = error.clone();
    short.message.truncate(short.message.floor_char_boundary(1000));
    short.kernel_log.clear();
    short.flags.clear();
    (short.source, short.destination, short.resolved) = (None, None, None);
    protocol::encode(&short)
}

/// Sends an error to Node.
pub(crate) fn send_failure(node: BorrowedFd<'_>, kind: Kind, id: u64, error: &Error) {
    let _ = protocol::send(node, kind, id, &error_body(error), &[]);
}

impl FirstProcess {
    /// Runs in the forked child; never comes back.
    pub(crate) fn run(self) -> ! {
        // Never dropped: at the end descriptors are closed by number, and a number must not be closed twice.
        let mut this = ManuallyDrop::new(self);
        let asked = ManuallyDrop::new(this.asked.take());
        let error = this.set_up(asked.as_ref());
        if this.start.poststart {
            // Nothing was started.
            let _ = protocol::send(&this.control, Kind::Failed, 0, &[], &[]);
        }
        send_failure(this.node.as_fd(), Kind::Failed, 0, &error);
        process::exit(127)
    }

    fn keep_only_own_descriptors(&self, asked: Option<&Asked>) {
        let mut keep: Vec<i32> = [&self.node, &self.journal, &self.control].map(AsRawFd::as_raw_fd).to_vec();
        keep.extend(self.opener.iter().chain(&self.stub).chain(&self.alarm).map(AsRawFd::as_raw_fd));
        if let Some(Asked { payload, streams, namespaces, others, .. }) = asked {
            if let Written::File(file) = payload {
                keep.push(file.as_raw_fd());
            }
            keep.extend(streams.iter().chain(namespaces).chain(others).map(AsRawFd::as_raw_fd));
        }
        keep.sort_unstable();
        process::close_all_but(3, &keep);
    }

    /// Does everything. Returns only an error.
    fn set_up(&self, asked: Option<&Asked>) -> Box<Error> {
        self.keep_only_own_descriptors(asked);
        let _ = process::new_session();
        process::set_umask(0);
        if let Some(asked) = asked.filter(|_| self.start.keeper) {
            return keeper::run(self, asked);
        }
        let later;
        let (asked, ahead) = match asked {
            Some(asked) => (asked, Ahead { level: self.known_level, stock: Stock::default() }),
            None => match self.wait_to_be_asked() {
                Ok((asked, ahead)) => {
                    later = ManuallyDrop::new(asked);
                    (&*later, ahead)
                }
                Err(error) => return error,
            },
        };
        match self.prepare(asked, ahead) {
            Ok(prepared) => self.finish(prepared, asked),
            Err(error) => error,
        }
    }

    /// Does what can be done before it is known what for, and waits. What it is asked for, and what it has done.
    fn wait_to_be_asked(&self) -> Result<(Asked, Ahead)> {
        let connection = |error| connection_error("Node", &error);
        if self.start.user.is_some() {
            self.become_mapped_root()?;
        }
        process::die_with_parent()
            .context(ErrorCode::Supervisor, || "the first process can't follow its parent")?;
        // It may have gone before.
        if !is_connected(self.control.as_fd()) {
            process::exit(0);
        }
        // In the caller's mount namespace the root of another user namespace may mount nothing.
        let level = match self.known_level {
            None if self.start.user.is_none() => probe().ok(),
            known => known,
        };
        if self.start.network {
            loopback_up()?;
        }
        let stock = match level {
            // mount(2) makes and mounts in one, and this is not the mount namespace for it yet.
            Some(Level::Classic) => Stock::default(),
            // The root of a user namespace can make none where somebody else's mounts are.
            _ if self.start.mount => fill_elsewhere(self.filesystems.clone()).unwrap_or_default(),
            _ => Stock::fill(&Linux::default(), self.filesystems.clone()),
        };
        if let Some(bounding) = self.start.bounding {
            process::limit_bounding_set_ahead(bounding);
        }
        leave_session_keyring()?;
        process::touch_memory();
        process::set_name(c"rootfs-spare");
        let frame = match protocol::receive(&self.node) {
            Ok(frame) => frame,
            // Nobody has asked.
            Err(FrameError::Closed) => process::exit(0),
            Err(error) => return Err(connection(error)),
        };
        if frame.kind != Kind::Begin {
            return Err(Error::new(ErrorCode::Supervisor, "Node says something unexpected"));
        }
        process::set_name(c"rootfs-first");
        check_sender(&frame, self.identity)?;
        frame.check_descriptors(ErrorCode::Supervisor, "the first process can't receive its descriptors")?;
        let asked = Asked::from_frame(frame, self.start.joins.len())
            .ok_or_else(|| Error::new(ErrorCode::Supervisor, "a request without its descriptors"))?;
        Ok((asked, Ahead { level, stock }))
    }

    fn prepare(&self, asked: &Asked, ahead: Ahead) -> Result<Prepared> {
        let payload = asked.read()?;
        let step = payload.plan.steps.get(Plan::NAMESPACES as usize);
        let in_namespaces = |error| match step {
            Some(step) => Execution::locate(error, step),
            None => error,
        };
        let hooks = payload.plan.hooks().next().is_some();
        if hooks || payload.rest.process.is_none() {
            have_own_memory()?;
        }
        let (pid, score_file) = if self.start.is_told_pid() {
            self.own_pid().map(|(pid, file)| (Some(pid), file))?
        } else {
            (None, None)
        };
        if asked.later && self.start.mount {
            process::unshare(namespaces::MOUNT)
                .context(ErrorCode::Denied, || "a mount namespace can't be made")
                .map_err(in_namespaces)?;
        }
        if self.start.user.is_some() && !asked.later {
            self.become_mapped_root().map_err(in_namespaces)?;
        }
        process::die_with_parent()
            .context(ErrorCode::Supervisor, || "the first process can't follow its parent")?;
        if !asked.later {
            // In the user namespace, so that it belongs to that one's root.
            leave_session_keyring()?;
        }
        let namespace = self.join_namespaces(asked).map_err(in_namespaces)?;
        if self.start.network && !asked.later {
            loopback_up().map_err(in_namespaces)?;
        }
        let kernel = Linux::default();
        if let Some(process) = payload.rest.usual_process() {
            lsm::check(&kernel, process)?;
        }
        let handed = self.handed_over(&payload)?;
        let level = choose_level(&payload, ahead.level, handed.as_ref())?;
        let classic = match level {
            Level::Classic => Some(self.begin_classic(&kernel, &payload.plan)?),
            Level::Detached | Level::Attached => None,
        };
        let mounting: &dyn Kernel = classic.as_ref().map_or(&kernel, |classic| classic);
        let sources = self.sources(mounting, asked, &payload, handed, classic.is_some())?;
        if payload.rest.verify {
            kernel
                .prepare_verification()
                .context(ErrorCode::Verify, || "the mount table can't be read later")?;
        }
        let stays = payload.rest.process.is_none();
        let own_files = if stays {
            kernel.procfs().context(ErrorCode::Proc, || "no safe /proc can be had")?;
            let score = self.open_oom_score(&kernel, score_file);
            Some(Self::open_own_files(&kernel, score, &self.start, payload.rest.usual.as_ref())?)
        } else {
            // Before the root is entered: afterwards no /proc could be trusted.
            if let Some(score) = payload.rest.process.as_ref().and_then(|process| process.oom_score_adj) {
                write_oom_score_adjustment(&self.open_oom_score(&kernel, score_file)?, score)?;
            }
            None
        };
        let mut around = Around {
            process: self,
            kernel: &kernel,
            privileged: payload.rest.privileged,
            pid,
            report: payload.rest.report_steps,
            payload: &payload,
        };
        let journal = rustix::io::fcntl_dupfd_cloexec(&self.journal, 0).ok().map(Writer::new);
        // What was made before other namespaces were joined belongs to those it was made in.
        let unusable = !self.start.joins.is_empty() || level == Level::Classic;
        let stock = if unusable { Stock::default() } else { ahead.stock };
        let setting = self.setting(level, payload.rest.verify);
        let execution = Execution::new(mounting, &payload.plan, setting, sources, &mut around, journal);
        let cwd = payload.rest.usual_process().and_then(|process| process.cwd.as_ref());
        let outcome = execution
            .with_template(payload.template.as_ref())
            .with_stock(stock)
            .with_namespace(namespace)
            .with_cwd(cwd)
            .run()?;
        let mountinfo = if stays { Some(open_mount_table(&kernel)?) } else { None };
        let Outcome { mut report, mut locks, root, filesystems } = outcome;
        if payload.plan.namespaces().is_some_and(|namespaces| namespaces.mount != Namespace::New) {
            // A tree that is attached nowhere is there as long as somebody holds it.
            locks.push(root);
        }
        if let Some(process) = &payload.rest.process {
            let capabilities = process.effective_capabilities();
            report.warnings.extend(mask_warning(payload.plan.first_mask(), &capabilities));
            lsm::confine(&kernel, process)?;
        }
        self.tell_supervisor(&SetUp { level, filesystems, stays }, &locks)?;
        if let Some(limit) = self.open_files {
            process::set_rlimit(limit)
                .context(ErrorCode::Exec, || "the limit of open files can't be set back")?;
        }
        Ok(Prepared { payload, report, mountinfo, own_files })
    }

    fn sources(
        &self,
        kernel: &dyn Kernel,
        asked: &Asked,
        payload: &Payload,
        handed: Option<Handed>,
        classic: bool,
    ) -> Result<Sources> {
        match handed {
            Some(Handed::Now(sources)) => Ok(sources),
            Some(Handed::OnRequest) => self.ask_for_sources(),
            None => {
                let request = sources::Request {
                    fds: asked.parts(payload)?.1,
                    devices_for: None,
                    user: self.start.user.as_ref(),
                    own_mount_namespace: self.start.mount || classic,
                    attached_layers: payload.rest.level == Some(Level::Attached),
                    verify: payload.rest.verify,
                    template: payload.template.as_ref(),
                    only: None,
                };
                sources::open(kernel, &payload.plan, &request)
            }
        }
    }

    /// What the execution has to know about the namespaces it runs in.
    fn setting(&self, level: Level, verify: bool) -> Setting<'_> {
        Setting {
            level,
            own_mount_namespace: self.start.mount || level == Level::Classic,
            user: self.start.user.clone(),
            new_cgroup_namespace: self.start.cgroup && self.start.cgroup_namespace,
            verify,
            // Detached trees can be attached anywhere.
            stub: self.stub.as_ref().filter(|_| level == Level::Detached).map(AsFd::as_fd),
        }
    }

    /// The file with the OOM score of this process, which the kernel then prefers or spares with what it executes when memory is
    /// short. The files of a process that is not dumpable belong to the host's root, and so not to the root of a user namespace.
    /// In a new one it is dumpable for a moment, as nobody else is in that yet. In one that it has joined others could trace it
    /// meanwhile: the supervisor has opened the file, if it could.
    fn open_oom_score(&self, kernel: &Linux, given: Option<OwnedFd>) -> Result<OwnedFd> {
        let open =
            || kernel.open_proc_self("oom_score_adj", OFlags::RDWR | OFlags::CLOEXEC).map_err(oom_error);
        if self.start.user.is_none() {
            return open();
        }
        if self.start.joins.contains(&NamespaceKind::User) {
            return given.ok_or_else(|| {
                let what = "the OOM score can't be adjusted by an ordinary user in a user namespace that is joined: all who \
                    are in it could look into the container's first process";
                Error::new(ErrorCode::Unsupported, what)
            });
        }
        dumpable(true)?;
        let file = open();
        dumpable(false)?;
        file
    }

    /// What a first process that stays needs of its own files in /proc, while they can be reached.
    fn open_own_files(
        kernel: &Linux,
        oom_score_adj: Result<OwnedFd>,
        start: &Start,
        usual: Option<&ProcessSpec>,
    ) -> Result<pid1::OwnFiles> {
        // Without this file, which a kernel may be built without, orphans of a container without a pid namespace are not
        // found at its end.
        let children = (!start.pid).then(|| kernel.open_own_children().ok()).flatten();
        let procfs = if usual.is_some_and(ProcessSpec::is_confined) {
            let procfs = Linux::default();
            procfs.procfs().context(ErrorCode::Proc, || "no safe /proc can be had")?;
            Some(procfs)
        } else {
            None
        };
        Ok(pid1::OwnFiles { oom_score_adj, children, procfs })
    }

    /// Tells Node that all is done, and becomes what was asked for.
    fn finish(&self, prepared: Prepared, asked: &Asked) -> Box<Error> {
        let Prepared { payload, mut report, mountinfo, own_files } = prepared;
        let Some(command) = &payload.rest.process else {
            let first_mask = payload.plan.first_mask();
            // The content of files can be large.
            drop(payload);
            return pid1::run(&ManuallyDrop::new(pid1::FirstOfMany {
                node: &self.node,
                control: &self.control,
                mountinfo,
                own_files,
                report: &report,
                first_mask,
                groups: self.groups(),
                pid_namespace: self.start.pid,
                // In a user namespace the caller's ids have no numbers.
                caller: (self.start.user.is_none() && !self.start.joins.contains(&NamespaceKind::User))
                    .then_some(self.identity),
            }));
        };
        report.steps.clear();
        if let Err(error) = send_report(self.node.as_fd(), &report) {
            return error;
        }
        match asked.parts(&payload) {
            Ok((streams, _)) => {
                let reports = [self.node.as_fd(), self.control.as_fd()];
                become_command(command, &streams, &reports, self.groups(), Parent::Connected)
            }
            Err(error) => error,
        }
    }

    fn groups(&self) -> Groups {
        match &self.start.user {
            // The kernel refuses just where the supervisor had to deny it.
            Some(_) if process::set_groups(&[]).is_err() => Groups::Denied,
            _ => Groups::Allowed,
        }
    }

    /// The host's pid of this process, which only the supervisor knows, and the file that it has opened for it.
    fn own_pid(&self) -> Result<(i32, Option<OwnedFd>)> {
        let mut frame =
            protocol::receive(&self.control).map_err(|error| connection_error("the supervisor", &error))?;
        if frame.kind != Kind::Started {
            return Err(Error::new(ErrorCode::Supervisor, "the supervisor says something unexpected"));
        }
        let pid = frame.decode().map_err(|error| connection_error("the supervisor", &error))?;
        Ok((pid, frame.fds.pop()))
    }

    /// Has the ids of the new user namespace mapped, and becomes its root.
    fn become_mapped_root(&self) -> Result<()> {
        if !self.start.joins.contains(&NamespaceKind::User) {
            self.have_ids_mapped()?;
        }
        let what = || "the root of the user namespace can't be become: is id 0 mapped?";
        // Denied where one id is mapped; then the groups stay, without a name in the namespace.
        let _ = process::set_groups(&[]);
        process::set_gid(0).context(ErrorCode::Denied, what)?;
        process::set_uid(0).context(ErrorCode::Denied, what)?;
        dumpable(false)
    }

    fn have_ids_mapped(&self) -> Result<()> {
        // The files of a process that is not dumpable belong to root: an ordinary user's supervisor, or newuidmap, could
        // not write the maps. Nobody else is in this user namespace yet.
        dumpable(true)?;
        protocol::send(&self.control, Kind::MapIds, 0, &[], &[])
            .map_err(|error| connection_error("the supervisor", &error))?;
        let frame =
            protocol::receive(&self.control).map_err(|error| connection_error("the supervisor", &error))?;
        dumpable(false)?;
        match frame.decode::<Answer<()>>() {
            Ok(Answer::Done(())) if frame.kind == Kind::Mapped => Ok(()),
            Ok(Answer::Failed(error)) => Err(error),
            _ => Err(Error::new(ErrorCode::Supervisor, "the supervisor says something unexpected")),
        }
    }

    /// Joins what has not been joined before this process was made. A mount namespace that is to be joined at the end.
    fn join_namespaces<'a>(&self, asked: &'a Asked) -> Result<Option<BorrowedFd<'a>>> {
        let mut mount = None;
        for (kind, namespace) in self.start.joins.iter().zip(&asked.namespaces) {
            match kind {
                // In its user namespace this process may mount in no other.
                NamespaceKind::Mount if self.start.user.is_some() => join(*kind, namespace.as_fd())?,
                NamespaceKind::Mount => mount = Some(namespace.as_fd()),
                _ if self.start.joins_first() => {}
                _ => join(*kind, namespace.as_fd())?,
            }
        }
        Ok(mount)
    }

    /// Makes a place for mounts, in a mount namespace of this process's own.
    fn begin_classic<'a>(&self, kernel: &'a Linux, plan: &Plan) -> Result<Classic<'a>> {
        classic::check_namespaces(plan)?;
        let begun = Classic::begin(kernel, self.start.mount)
            .context(ErrorCode::Denied, || "a place for mounts can't be made with mount(2)")?;
        classic::check(&begun, plan)?;
        Ok(begun)
    }

    /// What the opener has opened; `None` if this process does that.
    fn handed_over(&self, payload: &Payload) -> Result<Option<Handed>> {
        if payload.rest.privileged && self.start.user.is_some() {
            self.receive_sources().map(Some)
        } else {
            Ok(None)
        }
    }

    fn source_opener(&self) -> Result<&OwnedFd> {
        self.opener
            .as_ref()
            .ok_or_else(|| Error::new(ErrorCode::Supervisor, "a user namespace needs an opener"))
    }

    /// Has the opener open sources in the mount namespace of this process.
    fn ask_for_sources(&self) -> Result<Sources> {
        protocol::send(self.source_opener()?, Kind::Broker, 0, &protocol::encode(&Request::Sources), &[])
            .map_err(|error| connection_error("the opener can't be asked", &error))?;
        match self.receive_sources()? {
            Handed::Now(sources) => Ok(sources),
            Handed::OnRequest => {
                Err(Error::new(ErrorCode::Supervisor, "the opener says something unexpected"))
            }
        }
    }

    fn receive_sources(&self) -> Result<Handed> {
        let opener = self.source_opener()?;
        let mut sources = Sources::default();
        loop {
            let frame = protocol::receive(opener).map_err(|error| connection_error("the opener", &error))?;
            let batch = match frame.decode::<Answer<SourceBatch>>() {
                Ok(Answer::Done(batch)) if batch.sources.len() == frame.fds.len() => batch,
                Ok(Answer::Failed(error)) => return Err(error),
                _ => return Err(Error::new(ErrorCode::Supervisor, "the opener says something unexpected")),
            };
            if batch.on_request {
                return Ok(Handed::OnRequest);
            }
            for (description, mount) in batch.sources.into_iter().zip(frame.fds) {
                let identity = description.identity;
                let root = batch.root == Some(description.step);
                sources.add(Opened { description, mount, identity }, root);
            }
            if batch.last {
                return Ok(Handed::Now(sources));
            }
        }
    }

    pub(crate) fn tell_supervisor(&self, set_up: &SetUp, locks: &[OwnedFd]) -> Result<()> {
        let mut body = protocol::encode(set_up);
        if body.len() > MAX_BODY {
            body = protocol::encode(&SetUp { filesystems: Vec::new(), ..*set_up });
        }
        let fds: Vec<BorrowedFd<'_>> = locks.iter().map(AsFd::as_fd).collect();
        let mut batches: Vec<&[BorrowedFd<'_>]> = fds.chunks(protocol::MAX_FDS).collect();
        if batches.is_empty() {
            batches.push(&[]);
        }
        for batch in batches {
            protocol::send(&self.control, Kind::SetUp, 0, &body, batch)
                .map_err(|error| connection_error("the supervisor", &error))?;
        }
        if let Some(alarm) = &self.alarm {
            // Without it the supervisor hears of this when it has to.
            let _ = set_alarm(alarm);
        }
        if set_up.stays {
            // The supervisor may not be woken by what it is told, but by the end of it. For a command that is its execution.
            let _ = rustix::net::shutdown(&self.control, rustix::net::Shutdown::Write);
        }
        Ok(())
    }
}

/// What a first process has done before it was asked for anything.
struct Ahead {
    level: Option<Level>,
    stock: Stock,
}

/// Sources that the opener has the rights to open.
pub(crate) enum Handed {
    /// They are open.
    Now(Sources),
    /// They are opened when this process has a place for them.
    OnRequest,
}

/// Has a child make filesystems ahead, in a mount namespace that ends with it.
fn fill_elsewhere(filesystems: Vec<Filesystem>) -> Option<Stock> {
    let (here, there) = pair().ok()?;
    let namespaces = u64::from(namespaces::MOUNT.cast_unsigned());
    match process::fork(process::CloneRequest { namespaces, cgroup: None }).ok()? {
        process::Fork::Child => {
            let _ = process::die_with_parent();
            process::close_all_but(3, &[there.as_raw_fd()]);
            let (made, contexts): (Vec<_>, Vec<_>) =
                Stock::fill(&Linux::default(), filesystems).into_ready().into_iter().unzip();
            let contexts: Vec<_> = contexts.iter().map(AsFd::as_fd).collect();
            let _ = protocol::send(&there, Kind::SetUp, 0, &protocol::encode(&made), &contexts);
            process::exit(0)
        }
        process::Fork::Parent { pidfd, .. } => {
            drop(there);
            let told = protocol::receive(&here);
            let _ = process::wait_for(pidfd.as_fd());
            let frame = told.ok().filter(|frame| !frame.descriptors_lost)?;
            let made: Vec<Filesystem> = frame.decode().ok()?;
            Some(Stock::of_ready(made.into_iter().zip(frame.fds).collect()))
        }
    }
}

/// How mounts are made: as was asked for in a test, as it worked before, or the best way there is.
pub(crate) fn choose_level(
    payload: &Payload,
    known: Option<Level>,
    handed: Option<&Handed>,
) -> Result<Level> {
    // Mounts made by the opener come from another mount namespace, and attach only in this one.
    match handed {
        Some(Handed::Now(_)) => return Ok(Level::Attached),
        Some(Handed::OnRequest) => return Ok(Level::Classic),
        None => {}
    }
    if let Some(level) = payload.rest.level {
        if level == Level::Detached
            && !can_assemble_detached().context(ErrorCode::Unsupported, || "the mount API can't be used")?
        {
            return Err(Error::new(
                ErrorCode::Unsupported,
                "the level \"detached\" was asked for, and this kernel can't mount on detached mounts",
            ));
        }
        return Ok(level);
    }
    known.map_or_else(probe, Ok)
}

/// The best level there is.
fn probe() -> Result<Level> {
    if !has_mount_api() {
        return Ok(Level::Classic);
    }
    match can_assemble_detached() {
        Ok(true) => Ok(Level::Detached),
        Ok(false) => Ok(Level::Attached),
        // One of the calls with which a filesystem is made detached is missing, or refused.
        Err(call) if call.is(Errno::ENOSYS) || call.is(Errno::EPERM) => Ok(Level::Classic),
        Err(call) => Err(Error::from_call(ErrorCode::Unsupported, "the mount API can't be used", &call)),
    }
}

/// Other programs will run beside this process: nobody may share its memory.
fn have_own_memory() -> Result<()> {
    holder::let_go().context(ErrorCode::Supervisor, || "the memory of the first process is still shared")
}

/// Has the supervisor look at a first process in a moment. At once, it would take the processor from the command, or stand
/// in its way when that ends.
pub(crate) fn set_alarm(alarm: &OwnedFd) -> rustix::io::Result<()> {
    let never = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    let soon = rustix::time::Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
    let once = rustix::time::Itimerspec { it_interval: never, it_value: soon };
    rustix::time::timerfd_settime(alarm, rustix::time::TimerfdTimerFlags::empty(), &once).map(drop)
}

/// Requests are served with the rights the caller has now: one who has changed needs another supervisor.
pub(crate) fn check_sender(frame: &protocol::Frame, identity: (u32, u32)) -> Result<()> {
    match frame.sender {
        Some((_, uid, gid)) if (uid, gid) == identity => Ok(()),
        _ => Err(Error::new(
            ErrorCode::Denied,
            "the request doesn't come from the user who started the supervisor",
        )),
    }
}

/// Writes the OOM score into the open file of a process.
pub(crate) fn write_oom_score_adjustment(file: &OwnedFd, score: i32) -> Result<()> {
    rustix::io::write(file, score.to_string().as_bytes()).map(drop).map_err(|errno| {
        oom_error(SysError {
            syscall: "write",
            errno: errno.raw_os_error(),
            arguments: format!("/proc/self/oom_score_adj, {score}"),
        })
    })
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn oom_error(call: SysError) -> Box<Error> {
    Error::from_call(ErrorCode::Denied, "the OOM score can't be adjusted", &call).with_hint(Hint::OomScore)
}

/// Lets whoever has `CAP_SYS_PTRACE` in the user namespace of this process look into it, or nobody.
fn dumpable(yes: bool) -> Result<()> {
    process::set_dumpable(yes).context(ErrorCode::Supervisor, || "PR_SET_DUMPABLE")
}

/// The caller's session keyring is no business of a container's.
fn leave_session_keyring() -> Result<()> {
    process::new_session_keyring().map_err(|call| {
        let mut error = Error::from_call(
            ErrorCode::Denied,
            "the container can't be given a session keyring of its own",
            &call,
        );
        if call.errno == rustix::io::Errno::DQUOT.raw_os_error() {
            error = error.with_hint(Hint::KeyQuota);
        }
        error
    })
}

/// The mount table of a container that stays, for whoever asks for it later.
fn open_mount_table(kernel: &Linux) -> Result<OwnedFd> {
    kernel
        .open_proc_self("mountinfo", OFlags::RDONLY | OFlags::CLOEXEC)
        .context(ErrorCode::Proc, || "the mount table can't be opened")
}

fn loopback_up() -> Result<()> {
    process::loopback_up().context(ErrorCode::Denied, || "the loopback device can't be brought up")
}

struct Prepared {
    payload: Payload,
    report: Report,
    mountinfo: Option<OwnedFd>,
    own_files: Option<pid1::OwnFiles>,
}

/// Sends a report.
pub(crate) fn send_report(node: BorrowedFd<'_>, report: &Report) -> Result<()> {
    send_long(node, Kind::Ready, 0, &protocol::encode(report))
}

/// Sends Node a frame; a body that is too long goes in a memory file, see [`protocol::Frame::decode_long`].
pub(crate) fn send_long(node: BorrowedFd<'_>, kind: Kind, id: u64, body: &[u8]) -> Result<()> {
    let sent = if body.len() <= MAX_BODY {
        protocol::send(node, kind, id, body, &[])
    } else {
        let file = memfd::sealed(c"rootfs-report", body, false)
            .context(ErrorCode::Supervisor, || "the report can't be made")?;
        protocol::send(node, kind, id, &[], &[file.as_fd()])
    };
    sent.map_err(|error| connection_error("Node", &error))
}

/// What the execution asks of the processes around it.
struct Around<'a> {
    process: &'a FirstProcess,
    kernel: &'a Linux,
    /// Whether the caller has rights over the host.
    privileged: bool,
    pid: Option<i32>,
    report: bool,
    payload: &'a Payload,
}

impl Around<'_> {
    fn ask(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(bool, Vec<OwnedFd>)> {
        match &self.process.opener {
            Some(opener) => broker::ask(opener.as_fd(), request, fds),
            None => Err(Error::new(ErrorCode::Unsupported, "nobody with more rights is there to ask")),
        }
    }

    /// Has Node run a function of the caller, and waits for it.
    fn call_function(&self, hook: &Hook, function: u32, root: &PathBytes) -> Result<()> {
        let node = &self.process.node;
        let call = FunctionCall { function, root: root.clone() };
        protocol::send(node, Kind::Function, 0, &protocol::encode(&call), &[])
            .map_err(|error| connection_error("Node", &error))?;
        let frame = protocol::receive(node).map_err(|error| connection_error("Node", &error))?;
        match frame.decode::<Answer<()>>() {
            Ok(Answer::Done(())) if frame.kind == Kind::FunctionDone => Ok(()),
            Ok(Answer::Failed(error)) => Err(hooks::failure(&self.payload.plan, hook, &error.message)),
            _ => Err(Error::new(ErrorCode::Supervisor, "Node says something unexpected")),
        }
    }

    /// Lets the owner of the user namespace look at this process's namespaces meanwhile: a hook may want to enter them. Nobody
    /// else is in its user and pid namespace yet, if they are new.
    fn visibly<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = &self.process.start;
        if start.user.is_none() || !start.pid || start.joins.contains(&NamespaceKind::User) {
            return work();
        }
        dumpable(true)?;
        let result = work();
        dumpable(false)?;
        result
    }

    /// Only an opener with more rights than this process is of any help.
    fn has_helper(&self) -> bool {
        self.privileged && self.process.opener.is_some() && self.process.start.user.is_some()
    }
}

impl Surroundings for Around<'_> {
    fn make(&mut self, parent: BorrowedFd<'_>, name: &PathBytes, what: Missing) -> Result<bool> {
        if !self.has_helper() {
            return Err(Error::new(ErrorCode::Unsupported, "nobody with more rights is there to ask"));
        }
        let request = Request::Make { name: name.clone(), what };
        self.ask(&request, &[parent]).map(|(made, _)| made)
    }

    fn make_symlink(&mut self, target: &PathBytes, parent: BorrowedFd<'_>, name: &PathBytes) -> Result<bool> {
        if !self.has_helper() {
            return Err(Error::new(ErrorCode::Unsupported, "nobody with more rights is there to ask"));
        }
        let request = Request::MakeSymlink { target: target.clone(), name: name.clone() };
        self.ask(&request, &[parent]).map(|(made, _)| made)
    }

    fn change(&mut self, directory: BorrowedFd<'_>, wanted: &Directory) -> Result<()> {
        if !self.has_helper() {
            return Err(Error::new(ErrorCode::Unsupported, "nobody with more rights is there to ask"));
        }
        self.ask(&Request::Change(wanted.clone()), &[directory]).map(drop)
    }

    fn open_directory(&mut self, directory: BorrowedFd<'_>) -> Result<OwnedFd> {
        let (_, fds) = self.ask(&Request::OpenDirectory, &[directory])?;
        fds.into_iter()
            .next()
            .ok_or_else(|| Error::new(ErrorCode::Supervisor, "the opener sent no descriptor"))
    }

    fn attach_root(&mut self, root: BorrowedFd<'_>, path: &PathBytes, identity: Identity) -> Result<bool> {
        // With the caller's rights only where those are more than this process's own.
        if !self.has_helper() {
            return Ok(false);
        }
        self.ask(&Request::AttachRoot { path: path.clone(), identity }, &[root])?;
        Ok(true)
    }

    fn run_hook(&mut self, hook: &Hook, root: BorrowedFd<'_>, root_path: &PathBytes) -> Result<()> {
        if let Some(function) = hook.function {
            return self.visibly(|| self.call_function(hook, function, root_path));
        }
        let plan = &self.payload.plan;
        if hook.point.in_runtime_namespaces() {
            let step = plan
                .steps
                .iter()
                .find(|step| matches!(&step.action, Action::Hook(other) if std::ptr::eq(other, hook)))
                .map_or(u32::MAX, |step| step.index);
            return self
                .visibly(|| self.ask(&Request::Hook { step, root: root_path.clone() }, &[]).map(drop));
        }
        let usual;
        let rights = if hook.point == HookPoint::StartContainer {
            // A program of the image: it has the rights of the command, or of what a command would be.
            let rest = &self.payload.rest;
            let process = if let Some(process) = rest.usual_process() {
                process
            } else {
                let path = b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
                usual = ProcessSpec::with_defaults(hook.path.clone(), Vec::new(), vec![path.to_vec()]);
                &usual
            };
            let (groups, open_files) = (self.process.groups(), self.process.open_files);
            Some(hooks::Rights { process, groups, open_files, kernel: self.kernel })
        } else {
            None
        };
        let pid = self.pid.unwrap_or(0);
        let context = hooks::Context { pid, directory: Some(root), root: root_path, plan, rights };
        hooks::run(hook, &context)
    }

    fn host_has(&mut self, path: &PathBytes) -> bool {
        rustix::fs::accessat(rustix::fs::CWD, path.as_path(), rustix::fs::Access::EXISTS, AtFlags::empty())
            .is_ok()
    }

    fn step_done(&mut self, step: &ExecutedStep) {
        if self.report {
            let _ = protocol::send(&self.process.node, Kind::Step, 0, &protocol::encode(step), &[]);
        }
    }
}
