//! The supervisors: one for each identity that the caller has had, from the first request to the last breath.
//!
//! Nothing here waits for one: a supervisor that is to end is asked to by the end of its connection, killed if it doesn't,
//! and waited for when its pidfd says that it has ended.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rootfs::error::{Error, ErrorCode, Result};
use rootfs::journal;
use rootfs::kernel::supervisor_process::SupervisorProcess;
use rootfs::kernel::{process, without_pidfds};
use rootfs::protocol::{self, Answer, Ended, Exit, Frame, FrameError, Kind, Leftover, TakenDown};
use rustix::event::epoll;

use super::collector::remember;
use super::containers::{deliver, end, fail, hear_container, tell_begun};
use super::outlet::Outlet;
use super::{Client, Container, MAX_SPARES, News, SpareProcess, State, Token, closed, watch};
use crate::identity::{self, Identity};
use crate::supervisor::{self, SupervisorFile, duplicate};

/// How long one that has no containers any more has to end: poststop programs get ten seconds.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long one has to take everything down that is not understood any more.
const SHORT_PATIENCE: Duration = Duration::from_secs(2);

pub(super) struct Supervisor {
    pub(super) number: u64,
    pub(super) outlet: Outlet,
    process: SupervisorProcess,
    pub(super) identity: Identity,
    /// Nothing is asked of it any more.
    pub(super) leaving: bool,
    /// When it is killed.
    until: Option<Instant>,
}

/// Containers whose supervisor has ended before them.
pub(super) type Lost = Vec<(u64, Container)>;

impl Client {
    /// Starts a supervisor for all that wait. Runs on the thread, without the lock while it takes time.
    pub(super) fn start_supervisor(&self) {
        let identity = Identity::of_this_process();
        let started =
            self.executable().and_then(|executable| supervisor::begin(&executable, &identity.credentials));
        let mut state = self.state();
        state.starting = false;
        let asked_by = |state: &State, id: u64| state.containers.get(&id).map(|known| known.identity.clone());
        let (fitting, others): (Vec<_>, Vec<_>) = std::mem::take(&mut state.waiting)
            .into_iter()
            .partition(|(id, ..)| asked_by(&state, *id).as_ref() == Some(&identity));
        match started {
            Ok((process, socket)) => {
                let number = self.number();
                let outlet = Outlet::new(socket, Token::Supervisor(number));
                let watched = watch(&state.epoll, outlet.socket.as_fd(), Token::Supervisor(number))
                    .and_then(|()| watch(&state.epoll, process.pidfd.as_fd(), Token::Process(number)));
                let supervisor =
                    Supervisor { number, outlet, process, identity, leaving: false, until: None };
                if watched.is_ok() {
                    state.supervisors.push(supervisor);
                } else {
                    supervisor::end(supervisor.process, supervisor.outlet.socket);
                }
                for (id, theirs, beginning) in fitting {
                    let sent = match &watched {
                        Ok(()) => state.send_start(number, id, theirs, beginning),
                        Err(error) => Err(error.clone()),
                    };
                    if let Err(error) = sent {
                        fail(&mut state, id, error);
                    }
                }
            }
            Err(error) => {
                for (id, ..) in fitting {
                    fail(&mut state, id, error.clone());
                }
            }
        }
        if !others.is_empty() {
            let now = Identity::of_this_process();
            for (id, theirs, beginning) in others {
                // Somebody who has become another meanwhile gets a supervisor of his own. Whoever has asked and is gone
                // gets none: it would have other rights.
                if asked_by(&state, id).as_ref() == Some(&now) {
                    state.waiting.push((id, theirs, beginning));
                    state.starting = true;
                } else {
                    fail(&mut state, id, identity::changed());
                }
            }
        }
        state.retire();
    }

    /// The supervisor's executable: its file, or a sealed copy of it. Only the thread asks for it.
    fn executable(&self) -> Result<SupervisorFile> {
        if let Some(file) = SupervisorFile::of_environment()? {
            return Ok(file);
        }
        let path = self.path();
        let mut copied = self.executable.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let copy = match copied.take() {
            Some(copy) => copy,
            None => SupervisorFile::copy(&path)?,
        };
        duplicate(copied.insert(copy)).map(SupervisorFile::Memory)
    }

    /// What supervisors that have ended could not clean up any more is cleaned up here. That may wait for filesystems, so it
    /// is done without the lock, and beside the thread.
    pub(super) fn clean_up_after(self: &Arc<Self>, lost: Lost) {
        let client = Arc::clone(self);
        let lost = Arc::new(std::sync::Mutex::new(lost));
        let shared = Arc::clone(&lost);
        let take = |of: &std::sync::Mutex<Lost>| {
            std::mem::take(&mut *of.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
        };
        let thread = std::thread::Builder::new().name("rootfs-clean".into()).stack_size(512 << 10);
        if thread.spawn(move || client.take_down(take(&shared))).is_err() {
            self.take_down(take(&lost));
        }
    }

    fn take_down(&self, lost: Lost) {
        for (_, container) in &lost {
            if let Some((pid, Some(pidfd))) = &container.process {
                // The kernel has killed it with its supervisor; what is in its group has only lost its leader.
                if !without_pidfds::are_needed() {
                    process::kill(pidfd.as_fd());
                }
                if container.pid_namespace {
                    continue;
                }
                // A number that there is could be anybody's, where there is no more than that.
                if !without_pidfds::are_needed() {
                    process::kill_group_of(pidfd.as_fd(), *pid);
                } else if !process::exists(*pid) {
                    process::kill_group(*pid);
                }
            }
        }
        let until = Instant::now() + Duration::from_secs(1);
        for (_, container) in &lost {
            match &container.process {
                Some((pid, Some(_))) if without_pidfds::are_needed() => {
                    without_pidfds::wait_until_gone(*pid, until);
                }
                Some((_, Some(pidfd))) => supervisor::wait_until_ended(pidfd, 1),
                _ => {}
            }
        }
        {
            let mut state = self.state();
            for (id, container) in &lost {
                let error =
                    Error::new(ErrorCode::Supervisor, "the supervisor has ended, and its containers with it");
                for child in container.children.keys() {
                    deliver(&mut state, *id, *child, container, News::Failed(error.clone()));
                }
                if container.told && container.one_command {
                    deliver(&mut state, *id, 0, container, News::Exited(Exit::Signal(9)));
                } else {
                    deliver(&mut state, *id, 0, container, News::Failed(error));
                }
            }
        }
        let left = clean(&lost);
        let mut state = self.state();
        for ((id, container), left) in lost.iter().zip(left) {
            let taken_down = TakenDown { left, failures: Vec::new() };
            deliver(&mut state, *id, 0, container, News::Closed(taken_down));
        }
    }
}

/// Removes what these containers made, all at once: a name that one made can be in a directory that another made. What
/// stays, for each.
fn clean(lost: &Lost) -> Vec<Vec<Leftover>> {
    let journals: Vec<_> = lost.iter().map(|(_, container)| journal::read(&container.journal)).collect();
    let records: Vec<_> = journals.iter().flatten().cloned().collect();
    let mut outcomes = records.iter().zip(journal::remove_each(&records));
    let left = |(record, outcome): (&journal::Record, journal::Outcome)| match outcome {
        journal::Outcome::Removed => None,
        journal::Outcome::InUse => Some(journal::leftover(record, "its tree is in use")),
        // Whatever this supervisor's containers had made there is among the records.
        journal::Outcome::NotEmpty => Some(journal::leftover(record, journal::NOT_EMPTY)),
        journal::Outcome::Kept(reason) => Some(journal::leftover(record, reason)),
    };
    journals.iter().map(|own| outcomes.by_ref().take(own.len()).filter_map(left).collect()).collect()
}

impl State {
    pub(super) fn supervisor(&mut self, number: u64) -> Option<&mut Supervisor> {
        self.supervisors.iter_mut().find(|known| known.number == number && !known.leaving)
    }

    /// Ends supervisors of earlier identities that have no containers any more.
    pub(super) fn retire(&mut self) {
        let serving = self.supervisors.iter().filter(|known| !known.leaving);
        let newest = serving.clone().next_back().map(|known| known.number);
        let idle: Vec<u64> = serving
            .map(|known| known.number)
            .filter(|number| Some(*number) != newest)
            .filter(|number| !self.containers.values().any(|container| container.supervisor == *number))
            .collect();
        for number in idle {
            self.dismiss(number, PATIENCE);
        }
    }

    /// Has a supervisor end everything, and itself.
    fn dismiss(&mut self, number: u64, patience: Duration) {
        self.spares.retain(|spare| spare.supervisor != number);
        let epoll = Arc::clone(&self.epoll);
        let Some(supervisor) = self.supervisor(number) else { return };
        let _ = epoll::delete(&epoll, &supervisor.outlet.socket);
        // Whoever else holds this end meanwhile: the other one is at its end.
        let _ = rustix::net::shutdown(&supervisor.outlet.socket, rustix::net::Shutdown::Both);
        supervisor.leaving = true;
        supervisor.until = Some(Instant::now() + patience);
    }

    /// All are dismissed, because nobody knows what was not heard.
    pub(super) fn dismiss_all(&mut self) {
        let numbers: Vec<u64> = self.supervisors.iter().map(|known| known.number).collect();
        for number in numbers {
            self.dismiss(number, SHORT_PATIENCE);
        }
    }

    /// Kills those whose time is over. When the next one's is.
    pub(super) fn kill_stubborn(&mut self, now: Instant) -> Option<Instant> {
        for supervisor in &mut self.supervisors {
            if supervisor.until.is_some_and(|until| until <= now) {
                supervisor.until = None;
                process::kill(supervisor.process.pidfd.as_fd());
            }
        }
        self.supervisors.iter().filter_map(|supervisor| supervisor.until).min()
    }

    /// A supervisor has ended: so have its containers.
    pub(super) fn bury(&mut self, number: u64) {
        let Some(position) = self.supervisors.iter().position(|known| known.number == number) else { return };
        if !self.supervisors[position].process.reap() {
            return;
        }
        // What it said before comes first.
        self.hear_supervisor(number);
        let Some(position) = self.supervisors.iter().position(|known| known.number == number) else { return };
        let supervisor = self.supervisors.remove(position);
        let _ = epoll::delete(&self.epoll, &supervisor.process.pidfd);
        let _ = epoll::delete(&self.epoll, &supervisor.outlet.socket);
        self.spares.retain(|spare| spare.supervisor != number);
        let ids: Vec<u64> = self
            .containers
            .iter()
            .filter(|(_, container)| container.supervisor == number)
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            hear_container(self, id);
            let Some(mut container) = self.containers.remove(&id) else { continue };
            remember(self, id, &container);
            container.ignore(&self.epoll);
            self.lost.push((id, container));
        }
    }

    pub(super) fn hear_supervisor(&mut self, number: u64) {
        loop {
            let Some(supervisor) = self.supervisor(number) else { return };
            match protocol::receive(&supervisor.outlet.socket) {
                Ok(frame) => self.serve_supervisor(number, frame),
                Err(FrameError::WouldBlock) => return,
                // Its process has ended, or is about to.
                Err(_) => return self.dismiss(number, SHORT_PATIENCE),
            }
        }
    }

    fn serve_supervisor(&mut self, number: u64, frame: Frame) {
        let id = frame.id;
        match frame.kind {
            Kind::Spare => {
                if let Some(spare) = SpareProcess::from_frame(number, frame) {
                    // One of each kind, and not of many: the oldest is for something that isn't asked for any more.
                    if self.spares.len() >= MAX_SPARES {
                        self.give_up_spare(0);
                    }
                    self.spares.push(spare);
                } else {
                    // Its descriptors could not be opened.
                    self.send_close_to(number, id);
                }
            }
            Kind::Refused => {
                let error = frame.decode::<Error>().map_or_else(|_| closed(), Box::new);
                fail(self, id, error);
            }
            Kind::Exited => {
                // What the first process said before it ended comes first.
                hear_container(self, id);
                self.spares.retain(|spare| spare.id != id);
                let Ok(Ended { exit, closed }) = frame.decode() else { return };
                if let Some(container) = self.containers.get_mut(&id) {
                    container.silent = true;
                    end(self, id, exit);
                }
                if closed {
                    self.closed(id, TakenDown::default());
                }
            }
            Kind::Closed => {
                let taken_down = frame.decode().unwrap_or_default();
                self.closed(id, taken_down);
            }
            Kind::Poststart => {
                hear_container(self, id);
                let answer = frame.decode::<Answer<()>>().unwrap_or_else(|_| Answer::Failed(closed()));
                if let Some(mut container) = self.containers.remove(&id) {
                    container.starting = false;
                    match answer {
                        Answer::Done(()) => tell_begun(self, id, &mut container),
                        Answer::Failed(error) => container.failure = Some(error),
                    }
                    self.containers.insert(id, container);
                }
            }
            _ => {}
        }
    }

    /// All of a container is taken down.
    fn closed(&mut self, id: u64, taken_down: TakenDown) {
        if let Some(mut container) = self.containers.remove(&id) {
            remember(self, id, &container);
            deliver(self, id, 0, &container, News::Closed(taken_down));
            container.ignore(&self.epoll);
        }
        if self.supervisors.len() > 1 {
            self.retire();
        }
    }

    /// Has a spare process ended by its supervisor.
    pub(super) fn give_up_spare(&mut self, position: usize) {
        let SpareProcess { supervisor, id, .. } = self.spares.remove(position);
        self.send_close_to(supervisor, id);
    }
}
