//! Requests that wait until there are fewer containers in preparation.

use std::collections::{BTreeMap, VecDeque};

use rootfs::protocol::Frame;

/// Requests that wait, in a queue for each caller.
#[derive(Default)]
pub(crate) struct Queue {
    callers: BTreeMap<u64, VecDeque<Frame>>,
    /// Who was served last.
    last: u64,
}

impl Queue {
    pub(crate) fn push(&mut self, caller: u64, request: Frame) {
        self.callers.entry(caller).or_default().push_back(request);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.callers.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.callers.values().map(VecDeque::len).sum()
    }

    pub(crate) fn contains(&self, id: u64) -> bool {
        self.callers.values().flatten().any(|request| request.id == id)
    }

    /// The oldest one of the next caller.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        let after = (std::ops::Bound::Excluded(self.last), std::ops::Bound::Unbounded);
        let caller = *self.callers.range(after).next().or_else(|| self.callers.iter().next())?.0;
        self.last = caller;
        let queue = self.callers.get_mut(&caller)?;
        let request = queue.pop_front();
        if queue.is_empty() {
            self.callers.remove(&caller);
        }
        request
    }

    /// Takes a request out of it. `false` if it isn't there.
    pub(crate) fn remove(&mut self, id: u64) -> bool {
        let mut found = false;
        self.callers.retain(|_, queue| {
            let before = queue.len();
            queue.retain(|request| request.id != id);
            found |= queue.len() != before;
            !queue.is_empty()
        });
        found
    }
}
