//! A first process that stays: it reaps what ends in its container, and starts commands when Node asks.

use std::collections::{BTreeMap, VecDeque};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rootfs::error::{CallContext, Error, ErrorCode, Result, SysError};
use rootfs::kernel::linux::Linux;
use rootfs::kernel::{memfd, process, without_pidfds};
use rootfs::lsm;
use rootfs::plan::{Warning, mask_warning};
use rootfs::process::ProcessSpec;
use rootfs::protocol::{self, Exit, Frame, FrameError, Kind, MAX_PAYLOAD, Report, Spawned};
use rustix::event::{PollFd, PollFlags};
use rustix::net::UCred;
use rustix::thread::CapabilitySet;

use crate::broker::connection_error;
use crate::command::{Groups, Parent, become_command};
use crate::first_process::{check_sender, send_failure, send_report, write_oom_score_adjustment};

/// What such a process begins with.
pub(crate) struct FirstOfMany<'a> {
    /// Its connection to Node.
    pub(crate) node: &'a OwnedFd,
    /// Its connection to the supervisor, whose end means its own.
    pub(crate) control: &'a OwnedFd,
    /// The open mount table.
    pub(crate) mountinfo: Option<OwnedFd>,
    /// Its own files.
    pub(crate) own_files: Option<OwnFiles>,
    /// What was done.
    pub(crate) report: &'a Report,
    /// The step of the first mask, if there is one.
    pub(crate) first_mask: Option<u32>,
    /// Whether groups can be set.
    pub(crate) groups: Groups,
    /// Whether this is the first process of a pid namespace, so that all others end with it.
    pub(crate) pid_namespace: bool,
    /// Whose requests are served, where that can be told.
    pub(crate) caller: Option<(u32, u32)>,
}

/// Files of this process in /proc, which were opened when that was still at hand. They tell of this process alone.
pub(crate) struct OwnFiles {
    /// What its children inherit; or why it can't be changed.
    pub(crate) oom_score_adj: Result<OwnedFd>,
    /// The list of its children, if it has to end them itself.
    pub(crate) children: Option<OwnedFd>,
    /// A procfs in which commands find themselves, if a security module is to confine them.
    pub(crate) procfs: Option<Linux>,
}

/// A command that was started.
struct Child {
    id: u64,
    pidfd: OwnedFd,
    /// Closed by the execution; what is written into it before means that there was none.
    execution: Option<OwnedFd>,
    /// What the caller should know about it.
    warning: Option<Warning>,
}

/// What was started.
#[derive(Default)]
struct Commands {
    /// By their pids.
    running: BTreeMap<i32, Child>,
    /// The last ones that have ended, by the numbers that Node has given them: what they have begun may still be in their
    /// process groups.
    ended: VecDeque<(u64, i32)>,
}

impl Commands {
    /// So many are remembered.
    const REMEMBERED: usize = 256;

    /// Sends a signal to the process group of a command.
    fn signal(&self, id: u64, signal: i32) {
        if let Some((pid, _)) = self.running.iter().find(|(_, child)| child.id == id) {
            process::signal_group(*pid, signal);
        } else if let Some((_, pid)) = self.ended.iter().find(|(ended, _)| *ended == id)
            // As long as a group has members its number belongs to no new process.
            && !process::exists(*pid)
        {
            process::signal_group(*pid, signal);
        }
    }

    fn ended(&mut self, id: u64, pid: i32) {
        self.ended.truncate(Self::REMEMBERED - 1);
        self.ended.push_front((id, pid));
    }
}

/// The capabilities that this process uses itself: for signals to commands of other users, naming a command by its pid to Node,
/// and OOM scores. Commands, which are its children, may be given all.
const NEEDED: CapabilitySet =
    CapabilitySet::KILL.union(CapabilitySet::SYS_ADMIN).union(CapabilitySet::SYS_RESOURCE);

/// Stays until Node or the supervisor closes its end. Returns only an error.
pub(crate) fn run(first: &FirstOfMany<'_>) -> Box<Error> {
    use std::os::fd::AsRawFd;
    process::set_name(c"rootfs-init");
    // The mount table and the two sockets are all that is still needed; nothing of the host's is held.
    let mut keep: Vec<i32> = vec![first.node.as_raw_fd(), first.control.as_raw_fd()];
    keep.extend(first.mountinfo.iter().map(AsRawFd::as_raw_fd));
    if let Some(files) = &first.own_files {
        keep.extend(files.oom_score_adj.iter().chain(&files.children).map(AsRawFd::as_raw_fd));
        keep.extend(files.procfs.iter().flat_map(Linux::procfs_descriptors));
    }
    keep.sort_unstable();
    process::close_all_but(3, &keep);
    let _ = process::narrow_capabilities(NEEDED);
    process::refuse_executable_memory();
    let mut commands = Commands::default();
    let result = serve(first, &mut commands);
    if !first.pid_namespace {
        end_all(first, &commands.running);
    }
    match result {
        Ok(()) => process::exit(0),
        Err(error) => error,
    }
}

/// Ends every command with its group, then all that is left of them, which this process inherits: what else could, the kernel
/// does only in a pid namespace.
fn end_all(first: &FirstOfMany<'_>, children: &BTreeMap<i32, Child>) {
    for pid in children.keys() {
        process::kill_group(*pid);
        // It may not have a group yet.
        process::kill_child(*pid);
    }
    let list = first.own_files.as_ref().and_then(|files| files.children.as_ref());
    loop {
        // Nothing is waited for between the look and the kill, so each number is still that child's.
        for pid in list.map(own_children).unwrap_or_default() {
            process::kill_child(pid);
        }
        if list.is_none() {
            // Those that were known have been killed. Others would be waited for without end.
            reap_known(children);
            return;
        }
        // What ends leaves its own children here.
        if !process::reap_next() {
            return;
        }
    }
}

/// The pids in the list.
fn own_children(list: &OwnedFd) -> Vec<i32> {
    if rustix::fs::seek(list, rustix::fs::SeekFrom::Start(0)).is_err() {
        return Vec::new();
    }
    let text = rootfs::kernel::linux::read_to_end(list.as_fd()).unwrap_or_default();
    String::from_utf8_lossy(&text).split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn reap_known(children: &BTreeMap<i32, Child>) {
    for child in children.values() {
        let _ = process::wait_for(child.pidfd.as_fd());
    }
}

fn serve(first: &FirstOfMany<'_>, commands: &mut Commands) -> Result<()> {
    if !first.pid_namespace {
        process::become_subreaper()
            .map_err(|call| Error::from_call(ErrorCode::Supervisor, "orphans can't be taken over", &call))?;
    }
    let signals = process::child_signals()
        .map_err(|call| Error::from_call(ErrorCode::Supervisor, "children can't be waited for", &call))?;
    if first.caller.is_some() {
        // Before the first request: those come when it is known that this process is ready.
        rustix::net::sockopt::set_socket_passcred(first.node, true)
            .map_err(|errno| SysError::new("setsockopt", errno, "SO_PASSCRED"))
            .context(ErrorCode::Supervisor, || "requests can't be checked")?;
    }
    send_report(first.node.as_fd(), first.report)?;
    loop {
        let children = &mut commands.running;
        let mut executing: Vec<i32> =
            children.iter().filter(|(_, child)| child.execution.is_some()).map(|(pid, _)| *pid).collect();
        let (node_ready, ended) = {
            let mut poll = vec![
                PollFd::new(first.node, PollFlags::IN),
                PollFd::new(first.control, PollFlags::IN),
                PollFd::new(&signals, PollFlags::IN),
            ];
            poll.extend(
                children
                    .values()
                    .filter_map(|child| child.execution.as_ref())
                    .map(|fd| PollFd::new(fd, PollFlags::IN)),
            );
            match rustix::event::poll(&mut poll, None) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => {
                    let call = SysError::new("poll", errno, "commands");
                    return Err(Error::from_call(
                        ErrorCode::Supervisor,
                        "commands can't be waited for",
                        &call,
                    ));
                }
                Ok(_) => {}
            }
            let ready = |at: usize| poll.get(at).is_some_and(|fd| !fd.revents().is_empty());
            if ready(1) {
                // The supervisor says nothing more: this is its end.
                return Ok(());
            }
            executing.retain({
                let mut at = 2;
                move |_| {
                    at += 1;
                    ready(at)
                }
            });
            (poll[0].revents(), poll[2].revents())
        };
        let (node_ready, ended) = (!node_ready.is_empty(), !ended.is_empty());
        for pid in &executing {
            if let Some(child) = children.get_mut(pid) {
                tell_execution(first, *pid, child);
            }
        }
        if ended {
            process::drain_signals(&signals);
            reap(first, commands);
        }
        if node_ready {
            match protocol::receive(first.node) {
                Ok(frame) => serve_frame(first, frame, commands)?,
                Err(FrameError::Closed) => return Ok(()),
                Err(error) => return Err(connection_error("Node", &error)),
            }
        }
    }
}

/// Tells Node that a command is executed, once. One that failed has told so itself. It must not have been waited for yet: its
/// pid goes along as a credential, which the kernel translates for Node, and which Node can still read when it has ended.
fn tell_execution(first: &FirstOfMany<'_>, pid: i32, child: &mut Child) {
    let Some(execution) = child.execution.take() else { return };
    let mut failed = [0_u8];
    if rustix::io::read(&execution, &mut failed) == Ok(0) {
        let report =
            child.warning.take().map(|warning| Report { warnings: vec![warning], ..Report::default() });
        let body = protocol::encode(&Spawned { pid, report });
        let credential = rustix::process::Pid::from_raw(pid).map(|pid| UCred {
            pid,
            uid: rustix::process::getuid(),
            gid: rustix::process::getgid(),
        });
        let fds = [child.pidfd.as_fd()];
        let send =
            |credential| protocol::send_as(first.node, Kind::Spawned, child.id, &body, &fds, credential);
        // Naming another needs rights over the pid namespace.
        if send(credential).is_err() {
            let _ = send(None);
        }
    } else {
        child.id = FAILED;
    }
}

/// The id of a command whose failure Node knows already.
const FAILED: u64 = u64::MAX;

fn reap(first: &FirstOfMany<'_>, commands: &mut Commands) {
    loop {
        let children = &mut commands.running;
        let ended = process::reap_any(|pid| {
            if let Some(child) = children.get_mut(&pid) {
                tell_execution(first, pid, child);
                without_pidfds::notice_end(child.pidfd.as_fd());
            }
        });
        let Some((pid, exit)) = ended else { return };
        // What is not in the list is an orphan, and nobody asks how it ended.
        let Some(child) = children.remove(&pid) else { continue };
        without_pidfds::forget(child.pidfd.as_fd());
        if child.id != FAILED {
            commands.ended(child.id, pid);
            let _ = protocol::send(
                first.node,
                Kind::ChildExited,
                child.id,
                &protocol::encode::<Exit>(&exit),
                &[],
            );
        }
    }
}

fn serve_frame(first: &FirstOfMany<'_>, frame: Frame, commands: &mut Commands) -> Result<()> {
    let id = frame.id;
    let checked = first.caller.map_or(Ok(()), |caller| check_sender(&frame, caller));
    match frame.kind {
        // The end of its commands is nothing that needs rights, nor the end of all, which is the end of the connection.
        Kind::Signal => {
            if let Ok(signal) = frame.decode::<i32>() {
                commands.signal(id, signal);
            }
            Ok(())
        }
        Kind::Spawn | Kind::Mounts if checked.is_err() => {
            if let Err(error) = checked {
                send_failure(first.node.as_fd(), Kind::SpawnFailed, id, &error);
            }
            Ok(())
        }
        Kind::Spawn => {
            match spawn(first, frame) {
                Ok((pid, child)) => {
                    commands.running.insert(pid, child);
                }
                Err(error) => send_failure(first.node.as_fd(), Kind::SpawnFailed, id, &error),
            }
            Ok(())
        }
        Kind::Mounts => {
            match mount_table(first) {
                Ok(table) => {
                    let _ = protocol::send(first.node, Kind::MountTable, id, &[], &[table.as_fd()]);
                }
                Err(error) => send_failure(first.node.as_fd(), Kind::SpawnFailed, id, &error),
            }
            Ok(())
        }
        _ => Err(Error::new(ErrorCode::Supervisor, "Node asks for something unexpected")),
    }
}

/// The mount table as it is now. The open file belongs to this mount namespace and root, whatever is mounted on /proc.
fn mount_table(first: &FirstOfMany<'_>) -> Result<OwnedFd> {
    let fail = |what: String| Error::new(ErrorCode::Proc, format!("the mount table can't be read: {what}"));
    let file = first.mountinfo.as_ref().ok_or_else(|| fail("it was not opened".into()))?;
    rustix::fs::seek(file, rustix::fs::SeekFrom::Start(0))
        .map_err(|errno| fail(SysError::new("lseek", errno, "mountinfo").to_string()))?;
    let text = rootfs::kernel::linux::read_to_end(file.as_fd()).map_err(|call| fail(call.to_string()))?;
    memfd::sealed(c"rootfs-mountinfo", &text, false).map_err(|call| fail(call.to_string()))
}

fn spawn(first: &FirstOfMany<'_>, frame: Frame) -> Result<(i32, Child)> {
    let id = frame.id;
    frame
        .check_descriptors(ErrorCode::Exec, "the first process can't receive the descriptors of a command")?;
    let mut fds = frame.fds.into_iter();
    let missing = || Error::new(ErrorCode::Supervisor, "a command needs other descriptors");
    let payload = fds.next().ok_or_else(missing)?;
    // Closed by number before the execution, so never dropped there.
    let streams: Vec<OwnedFd> = fds.collect();
    let bytes = memfd::read_sealed(&payload, MAX_PAYLOAD)
        .map_err(|call| Error::from_call(ErrorCode::Supervisor, "the command's description", &call))?;
    let spec: ProcessSpec =
        protocol::decode(&bytes).map_err(|error| connection_error("the command's description", &error))?;
    drop(payload);
    if streams.len() != 3 + spec.descriptors.len() {
        return Err(missing());
    }
    let (execution, child_execution) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|errno| SysError::new("pipe2", errno, "O_CLOEXEC"))
        .context(ErrorCode::Exec, || "the pipe that tells of the execution can't be made")?;
    let this = rustix::process::getpid().as_raw_nonzero().get();
    let fork = with_oom_score(first, spec.oom_score_adj, || {
        process::fork(process::CloneRequest::default())
            .map_err(|call| Error::from_call(ErrorCode::Exec, "a process can't be made", &call))
    })?;
    match fork {
        process::Fork::Parent { pid, pidfd } => {
            let warning = mask_warning(first.first_mask, &spec.effective_capabilities());
            Ok((pid, Child { id, pidfd, execution: Some(execution), warning }))
        }
        process::Fork::Child => {
            let _ = process::new_session();
            let streams = ManuallyDrop::new(streams);
            let error = execute(first, &spec, &streams, &child_execution, this);
            send_failure(first.node.as_fd(), Kind::SpawnFailed, id, &error);
            let _ = rustix::io::write(&child_execution, &[1]);
            process::exit(127)
        }
    }
}

/// Makes a process with another OOM score: it inherits this one's own, which is set back. The command has no /proc of its own
/// that could be trusted.
fn with_oom_score(
    first: &FirstOfMany<'_>,
    score: Option<i32>,
    make: impl FnOnce() -> Result<process::Fork>,
) -> Result<process::Fork> {
    let Some(score) = score else { return make() };
    let file = match first.own_files.as_ref().map(|files| &files.oom_score_adj) {
        Some(Ok(file)) => file,
        Some(Err(error)) => return Err(error.clone()),
        None => return Err(Error::new(ErrorCode::Supervisor, "the first process has no OOM score")),
    };
    let mut text = [0; 16];
    let before = rustix::io::pread(file, &mut text, 0).ok().and_then(|length| {
        std::str::from_utf8(&text[..length]).ok().and_then(|text| text.trim().parse::<i32>().ok())
    });
    let before = before.ok_or_else(|| Error::new(ErrorCode::Proc, "the OOM score can't be read"))?;
    write_oom_score_adjustment(file, score)?;
    let fork = make();
    if !matches!(fork, Ok(process::Fork::Child)) {
        write_oom_score_adjustment(file, before)?;
    }
    fork
}

/// Runs in the child.
fn execute(
    first: &FirstOfMany<'_>,
    spec: &ProcessSpec,
    streams: &[OwnedFd],
    execution: &OwnedFd,
    this: i32,
) -> Box<Error> {
    // With a pid namespace the kernel ends all with the first process.
    let parent = if first.pid_namespace { Parent::Init } else { Parent::Process(this) };
    if !first.pid_namespace
        && let Err(call) = process::die_with_parent()
    {
        return Error::from_call(ErrorCode::Exec, "the command can't follow its container", &call);
    }
    if let Err(error) = confine(first, spec) {
        return error;
    }
    let streams: Vec<BorrowedFd<'_>> = streams.iter().map(AsFd::as_fd).collect();
    become_command(spec, &streams, &[execution.as_fd(), first.node.as_fd()], first.groups, parent)
}

/// Has a security module confine the command as the config says.
fn confine(first: &FirstOfMany<'_>, spec: &ProcessSpec) -> Result<()> {
    match first.own_files.as_ref().and_then(|files| files.procfs.as_ref()) {
        Some(procfs) => lsm::confine(procfs, spec),
        None if spec.is_confined() => {
            Err(Error::new(ErrorCode::Supervisor, "a command that no security module can be told of"))
        }
        None => Ok(()),
    }
}
