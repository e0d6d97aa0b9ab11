//! What containers and their commands say, and how they are ended.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rootfs::Hint;
use rootfs::error::{Error, ErrorCode, Result, SysError};
use rootfs::kernel::process::{self, Target};
use rootfs::kernel::{memfd, without_pidfds};
use rootfs::mountinfo;
use rootfs::protocol::{self, Exit, Frame, FrameError, Kind, Spawned, TakenDown};

use super::collector::{finish, finish_of};
use super::outlet::Outgoing;
use super::{Container, Event, News, State, Token, closed};

pub(super) fn deliver(state: &mut State, id: u64, child: u64, container: &Container, news: News) {
    let key = if child == 0 { id } else { child };
    let news = match state.collectors.get_mut(&key) {
        Some(collector) => {
            if let Some(news) = collector.note(news) {
                news
            } else {
                if collector.finished.report.is_some()
                    && let Some(signal) = collector.queued.take()
                    && let Some(pidfd) = &collector.process
                {
                    let pidfd = pidfd.as_fd();
                    let _ = process::send_signal(pidfd, signal, Target::Group)
                        .or_else(|_| process::send_signal(pidfd, signal, Target::Process));
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
        0 => container.process.as_ref().and_then(|(_, pidfd)| pidfd.clone()),
        _ => container.children.get(&child).and_then(Clone::clone),
    }
}

/// Sends a signal to a command, or to the first process. `false` if it isn't there, or may not be signalled.
pub(super) fn kill_process(state: &mut State, id: u64, child: u64, signal: i32) -> bool {
    // One that isn't watched may have said that it exists.
    hear_container(state, id);
    let pidfd = state.containers.get(&id).and_then(|container| pidfd_of(container, child));
    pidfd.is_some_and(|pidfd| process::send_signal(pidfd.as_fd(), signal, Target::Process).is_ok())
}

/// Ends a command with a signal, and what it has begun: it is waited for, and nothing else that holds its streams. One that
/// is still being started gets the signal then. `false` if there is nothing that could get it: the first process of a
/// container that has not become its command yet ignores most signals.
pub(super) fn end_process(state: &mut State, id: u64, child: u64, signal: i32) -> bool {
    hear_container(state, id);
    let key = if child == 0 { id } else { child };
    let mut group = None;
    if let Some(collector) = state.collectors.get_mut(&key) {
        collector.ending = true;
        group.clone_from(&collector.process);
        if child != 0 && group.is_none() && !collector.over {
            collector.queued = Some(signal);
            return true;
        }
    }
    let container = state.containers.get(&id);
    let target = group.or_else(|| container.and_then(|container| pidfd_of(container, child)));
    let sent = match target {
        Some(leader) if child != 0 => signal_group(state, id, child, &leader, signal),
        Some(first) if container.is_some_and(|container| container.told) => {
            process::send_signal(first.as_fd(), signal, Target::Process).is_ok()
        }
        _ => false,
    };
    // It may be over already, and only its streams are open.
    finish(state, key);
    sent
}

/// Signals the process group of a command: each leads one of its own.
fn signal_group(state: &mut State, id: u64, child: u64, leader: &OwnedFd, signal: i32) -> bool {
    const ESRCH: i32 = 3;
    match process::send_signal(leader.as_fd(), signal, Target::Group) {
        Ok(()) => true,
        Err(call) if call.errno == ESRCH => false,
        // Before Linux 6.9, and where the caller has given up the rights for it. The first process knows which groups are
        // its commands', and has their numbers as long as it has not waited for them.
        Err(_) => {
            state.send_to_container(id, Kind::Signal, child, protocol::encode(&signal), Vec::new()).is_ok()
        }
    }
}

/// A container that never began.
pub(super) fn fail(state: &mut State, id: u64, error: Box<Error>) {
    if let Some(mut container) = state.containers.remove(&id) {
        container.ignore(&state.epoll);
        deliver(state, id, 0, &container, News::Failed(error));
        deliver(state, id, 0, &container, News::Closed(TakenDown::default()));
    }
}

/// The first process has ended.
pub(super) fn end(state: &mut State, id: u64, exit: Exit) {
    let Some(mut container) = state.containers.remove(&id) else { return };
    for (child, begun) in std::mem::take(&mut container.children) {
        // Commands end with the first process of their pid namespace, and nobody is left to tell how.
        let news = if begun.is_some() { News::Exited(Exit::Signal(9)) } else { News::Failed(closed()) };
        deliver(state, id, child, &container, news);
    }
    // It stays, so that what is heard later, such as the end of its socket, doesn't tell of a beginning.
    if let Some(error) = container.failure.clone() {
        deliver(state, id, 0, &container, News::Failed(error));
    } else if !container.told && container.report.is_none() {
        let how = match exit {
            Exit::Code(code) => format!("with status {code}"),
            Exit::Signal(signal) => format!("by signal {signal}"),
        };
        let (who, what) = if container.keeper {
            ("keeper", "template was made")
        } else {
            ("first process", "root was prepared")
        };
        let error = Error::new(ErrorCode::Closed, format!("the {who} ended {how} before the {what}"));
        deliver(state, id, 0, &container, News::Failed(error));
    } else {
        tell_begun(state, id, &mut container);
        deliver(state, id, 0, &container, News::Exited(exit));
    }
    state.containers.insert(id, container);
}

/// Tells once that the command runs, or that the root is prepared, when all is known that belongs to it.
pub(super) fn tell_begun(state: &mut State, id: u64, container: &mut Container) {
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
pub(super) fn hear_container(state: &mut State, id: u64) {
    let Some(mut container) = state.containers.remove(&id) else { return };
    let mut failed = None;
    while !container.silent {
        match protocol::receive(&container.outlet.socket) {
            Ok(frame) => {
                if let Err(error) = serve_container(state, id, &mut container, frame) {
                    failed.get_or_insert(error);
                }
            }
            Err(FrameError::WouldBlock) => break,
            Err(FrameError::Closed) => container.silent = true,
            Err(error) => {
                container.silent = true;
                failed.get_or_insert_with(|| {
                    let what = format!("the first process says something that is not understood: {error}");
                    Error::new(ErrorCode::Supervisor, what)
                });
            }
        }
    }
    if container.silent {
        // The end of file would be reported again and again.
        container.ignore(&state.epoll);
    }
    let broken = failed.is_some();
    if let Some(error) = failed {
        container.failure.get_or_insert(error);
    }
    tell_begun(state, id, &mut container);
    state.containers.insert(id, container);
    if broken {
        state.send_close(id);
    }
}

/// Before any command is asked for: what tells of one has its pid as a credential.
fn expect_pids(container: &Container) {
    if !container.one_command {
        let _ = rustix::net::sockopt::set_socket_passcred(&container.outlet.socket, true);
    }
}

/// A part of what a keeper holds: descriptors, or at last what they are.
fn receive_kept(container: &mut Container, frame: Frame) -> Result<()> {
    let what = "what the template holds can't be received";
    let wrong = || Error::new(ErrorCode::Supervisor, what);
    frame.check_descriptors(ErrorCode::Supervisor, what)?;
    // Nobody else has it before all is there.
    let kept = Arc::get_mut(&mut container.kept).ok_or_else(wrong)?;
    if frame.id == 0 {
        kept.descriptors.extend(frame.fds);
        return Ok(());
    }
    kept.template = frame.decode_long().map_err(|_| wrong())?;
    if kept.template.descriptors() == kept.descriptors.len() { Ok(()) } else { Err(wrong()) }
}

/// An error is one of the whole container.
fn serve_container(state: &mut State, id: u64, container: &mut Container, mut frame: Frame) -> Result<()> {
    let child = frame.id;
    match frame.kind {
        Kind::Started => {
            let Ok(pid) = frame.decode::<i32>() else { return Ok(()) };
            let pidfd = frame.fds.pop().inspect(|pidfd| without_pidfds::remember(pid, pidfd)).map(Arc::new);
            container.process = Some((pid, pidfd));
            // A command that is run to its end may be over already; the supervisor can end it, if that is asked for.
            if !state.collectors.contains_key(&id) {
                frame.check_descriptors(ErrorCode::Supervisor, "the container can't be watched")?;
            }
        }
        Kind::Ready => {
            frame.check_descriptors(
                ErrorCode::Supervisor,
                "the report of the first process can't be received",
            )?;
            let report = frame.decode_long().unwrap_or_default();
            container.report = Some(report);
            expect_pids(container);
        }
        Kind::Kept => receive_kept(container, frame)?,
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
        Kind::Spawned if container.children.contains_key(&child) => {
            let first = container.process.as_ref().map(|(pid, _)| *pid);
            let Ok(Spawned { pid, report }) = frame.decode::<Spawned>() else { return Ok(()) };
            let named = frame.sender.map(|(pid, ..)| pid).filter(|pid| *pid > 0 && Some(*pid) != first);
            let told = named.or(container.host_pids.then_some(pid));
            match frame
                .check_descriptors(ErrorCode::Exec, "the command can't be watched, and is ended")
                .and_then(|()| watchable(frame.fds.pop(), told))
            {
                Ok((pid, pidfd)) => {
                    let pidfd = Arc::new(pidfd);
                    if let Some(collector) = state.collectors.get_mut(&child) {
                        collector.process = Some(Arc::clone(&pidfd));
                    }
                    container.children.insert(child, Some(pidfd));
                    deliver(state, id, child, container, News::Spawned { pid, report });
                }
                Err(error) => {
                    container.children.remove(&child);
                    let signal = Outgoing {
                        kind: Kind::Signal,
                        id: child,
                        body: protocol::encode(&9),
                        fds: Vec::new(),
                        sender: None,
                    };
                    if let Ok(flushed) = container.outlet.send(&state.epoll, signal) {
                        state.later(container.outlet.token(), &flushed);
                    }
                    deliver(state, id, child, container, News::Failed(error));
                }
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
            let what = "the mount table can't be received";
            let text =
                frame.check_descriptors(ErrorCode::Proc, what).and_then(|()| match frame.fds.first() {
                    Some(file) => memfd::read_sealed(file, 256 << 20)
                        .map_err(|call| Error::from_call(ErrorCode::Proc, what, &call)),
                    None => Err(Error::new(ErrorCode::Proc, what)),
                });
            let news = match text {
                Ok(text) => News::Mounts(mountinfo::parse(&text)),
                Err(error) => News::Failed(error),
            };
            deliver(state, id, child, container, news);
        }
        _ => {}
    }
    Ok(())
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

/// A new command, by its pid as this process sees it: as it was told, or else as its pidfd says, which is -1 if it is gone
/// already; `proc_pid_fdinfo(5)`.
#[expect(
    clippy::disallowed_methods,
    reason = "fdinfo of our own process, to read which process a pidfd is of"
)]
fn watchable(pidfd: Option<OwnedFd>, told: Option<i32>) -> Result<(i32, OwnedFd)> {
    use std::os::fd::AsRawFd;
    let what = "the command can't be watched, and is ended";
    let missing = || Error::new(ErrorCode::Supervisor, what);
    let pidfd = pidfd.ok_or_else(missing)?;
    if let Some(pid) = told {
        without_pidfds::remember(pid, &pidfd);
        return Ok((pid, pidfd));
    }
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let name = CString::new(path.clone()).map_err(|_| missing())?;
    let text = rustix::fs::open(name.as_c_str(), flags, rustix::fs::Mode::empty())
        .map_err(|errno| SysError::new("open", errno, format!("{path:?}, O_RDONLY|O_CLOEXEC")))
        .and_then(|file| rootfs::kernel::linux::read_to_end(file.as_fd()))
        .map_err(|call| Error::from_call(ErrorCode::Exec, what, &call))?;
    let pid = String::from_utf8_lossy(&text)
        .lines()
        .find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok())
        .ok_or_else(missing)?;
    Ok((pid, pidfd))
}

/// Frames that could not be sent for good: what was asked for with them fails.
pub(super) fn give_up(state: &mut State, token: Token, failed: Vec<(Outgoing, Box<Error>)>) {
    for (frame, error) in failed {
        match (token, frame.kind) {
            (Token::Supervisor(_), Kind::Fds | Kind::Start) => fail(state, frame.id, error),
            (Token::Container(id), Kind::Spawn | Kind::Mounts) => {
                let Some(mut container) = state.containers.remove(&id) else { continue };
                if container.children.remove(&frame.id).is_some() {
                    deliver(state, id, frame.id, &container, News::Failed(error));
                }
                state.containers.insert(id, container);
            }
            (Token::Container(id), Kind::FunctionDone) => state.send_close(id),
            _ => {}
        }
    }
}
