//! Commands that are run to their end: what they write is collected here, and all of it is told at once.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rootfs::error::{CallContext, ErrorCode, Result, SysError};
use rootfs::plan::Plan;
use rustix::event::epoll;

use super::containers::end_process;
use super::{Collection, Container, Event, Finished, News, State, Token, watch};

/// As much as is read at once.
const CHUNK: usize = 64 << 10;

/// So many times in a row, so that others have their turn.
const TURNS: usize = 16;

/// The collection of one command, under way.
pub(super) struct Collector {
    pub(super) container: u64,
    pub(super) child: u64,
    streams: [Option<OwnedFd>; 3],
    /// The command's own ends of its pipes. As long as they are open, the end of its processes wakes nobody here; they all
    /// end with the container, and then what is left in the pipes is read.
    pub(super) held: Vec<OwnedFd>,
    input: Vec<u8>,
    written: usize,
    max_buffer: usize,
    pub(super) finished: Finished,
    /// Nothing more is told about it.
    pub(super) over: bool,
    /// It is being ended from here: whatever else holds its streams is not waited for.
    pub(super) ending: bool,
    /// A signal asked for before there was a process.
    pub(super) queued: Option<i32>,
    /// The command in a prepared root, also when it is gone: its process group may have more members.
    pub(super) process: Option<Arc<OwnedFd>>,
    /// Whether its beginning is told at once, and not only at the end.
    pub(super) announce: bool,
}

impl State {
    /// Has the thread collect what a command writes, and give it what it is to read.
    pub(super) fn collect(&mut self, container: u64, child: u64, collection: Collection) -> Result<()> {
        let key = if child == 0 { container } else { child };
        let Collection { max_buffer, input, streams } = collection;
        for (index, stream) in streams.iter().enumerate() {
            if let Some(stream) = stream {
                rustix::io::ioctl_fionbio(stream, true)
                    .map_err(|errno| SysError::new("ioctl", errno, "FIONBIO"))
                    .context(ErrorCode::Exec, || format!("the pipe of stdio[{index}] can't be used"))?;
                if let Err(error) = watch(&self.epoll, stream.as_fd(), Token::Stream(key, index)) {
                    for watched in streams[..index].iter().flatten() {
                        let _ = epoll::delete(&self.epoll, watched);
                    }
                    return Err(error);
                }
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
            ending: false,
            queued: None,
            process: None,
            announce: false,
        };
        self.collectors.insert(key, collector);
        Ok(())
    }

    /// What was to be collected of a container that has not begun.
    pub(super) fn give_back(&mut self, id: u64) -> Option<Collection> {
        let Collector { max_buffer, input, streams, .. } = self.collectors.remove(&id)?;
        for stream in streams.iter().flatten() {
            let _ = epoll::delete(&self.epoll, stream);
        }
        Some(Collection { max_buffer, input, streams })
    }

    /// Reads what a command has written, or writes what it can take.
    pub(super) fn serve_stream(&mut self, key: u64, index: usize) {
        let Some(collector) = self.collectors.get_mut(&key) else { return };
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
        if overflow && !end_process(self, container, child, 9) && child == 0 {
            // Its beginning is not over yet.
            self.send_close(container);
        }
        finish(self, key);
    }
}

impl Collector {
    /// Holds the command's own ends of what is collected.
    pub(super) fn hold(&mut self, ends: Vec<OwnedFd>) {
        let piped = self.streams.iter().map(Option::is_some);
        let ends = ends.into_iter().zip(piped).skip(1);
        self.held = ends.filter_map(|(end, piped)| piped.then_some(end)).collect();
    }

    /// Takes what is there. `false` at the end.
    fn read(&mut self, stream: &OwnedFd, index: usize) -> bool {
        let into = &mut self.finished.output[index - 1];
        let mut turns = 0;
        while turns < TURNS {
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
                    turns += 1;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
        true
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

    /// Takes what the command has left in its pipes. Others who hold them may go on writing: they are not waited for.
    fn read_last(&mut self) {
        self.held.clear();
        self.streams[0] = None;
        for index in 1..3 {
            if let Some(stream) = self.streams[index].take() {
                self.read(&stream, index);
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
    pub(super) fn note(&mut self, news: News) -> Option<News> {
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
        self.over && (silent || self.ending || self.finished.failure.is_some())
    }
}

/// Keeps what is needed to tell the end of commands whose output is still being read.
pub(super) fn remember(state: &mut State, id: u64, container: &Container) {
    if state.collectors.values().any(|collector| collector.container == id) {
        state.ended.insert(id, (container.environment, Arc::clone(&container.plan)));
    }
}

/// Tells of the end of a command if that was the last of it.
pub(super) fn finish(state: &mut State, key: u64) {
    let Some(id) = state.collectors.get(&key).map(|collector| collector.container) else { return };
    // The container may be gone already: its streams end last.
    if let Some(container) = state.containers.remove(&id) {
        finish_of(state, key, &container);
        state.containers.insert(id, container);
    } else if let Some((environment, plan)) = state.ended.get(&id).cloned() {
        tell_finished(state, key, environment, &plan);
    }
}

pub(super) fn finish_of(state: &mut State, key: u64, container: &Container) {
    let (environment, plan) = (container.environment, Arc::clone(&container.plan));
    tell_finished(state, key, environment, &plan);
}

fn tell_finished(state: &mut State, key: u64, environment: u64, plan: &Arc<Plan>) {
    if !state.collectors.get(&key).is_some_and(Collector::is_finished) {
        return;
    }
    let Some(mut collector) = state.collectors.remove(&key) else { return };
    if collector.ending {
        collector.read_last();
    }
    let Collector { container, child, finished, .. } = collector;
    if !state.collectors.values().any(|other| other.container == container) {
        state.ended.remove(&container);
    }
    if let Some(sink) = state.environments.get(&environment) {
        let news = News::Finished(Box::new(finished));
        sink(Event { container, child, plan: Arc::clone(plan), news });
    }
}
