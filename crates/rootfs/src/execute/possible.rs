//! How events may pass to and from a mount: older kernels don't say it of a bind's source.

use serde::{Deserialize, Serialize};

use crate::options::{Propagation, PropagationState, PropagationType};

/// States, one of which is a mount's; a bit for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Possible(u16);

const SHARED: u16 = 1;
const PEERS: u16 = 2;
const SLAVE: u16 = 4;
const UNBINDABLE: u16 = 8;

impl From<PropagationState> for Possible {
    fn from(state: PropagationState) -> Self {
        let bit = |set: bool, bit: u16| if set { bit } else { 0 };
        let facts = bit(state.shared, SHARED)
            | bit(state.peers, PEERS)
            | bit(state.slave, SLAVE)
            | bit(state.unbindable, UNBINDABLE);
        Self(1 << facts)
    }
}

impl Possible {
    pub(super) const PRIVATE: Self = Self(1);

    /// Nothing is known: every state that there is.
    pub(super) const ANY: Self = Self(
        1 | 1 << SHARED
            | 1 << (SHARED | PEERS)
            | 1 << SLAVE
            | 1 << (SHARED | SLAVE)
            | 1 << (SHARED | PEERS | SLAVE)
            | 1 << UNBINDABLE,
    );

    fn states(self) -> impl Iterator<Item = PropagationState> {
        (0..16_u16).filter(move |facts| self.0 >> facts & 1 != 0).map(|facts| PropagationState {
            shared: facts & SHARED != 0,
            peers: facts & PEERS != 0,
            slave: facts & SLAVE != 0,
            unbindable: facts & UNBINDABLE != 0,
        })
    }

    fn map(self, change: impl Fn(PropagationState) -> PropagationState) -> Self {
        Self(self.states().fold(0, |all, state| all | Self::from(change(state)).0))
    }

    /// What propagation types make of it, one after the other.
    pub(super) fn changed(self, types: &[Propagation]) -> Self {
        types.iter().fold(self, |before, next| before.map(|state| state.changed(next.kind)))
    }

    /// What it becomes where it is attached: on a shared mount it becomes shared, and where that one has peers, so has this.
    pub(super) fn attached_to(self, other: Self) -> Self {
        let on = |other: PropagationState| {
            self.map(|state| {
                if !other.shared {
                    return state;
                }
                let shared = state.changed(PropagationType::Shared);
                PropagationState { peers: shared.peers || other.peers, ..shared }
            })
        };
        Self(other.states().fold(0, |all, other| all | on(other).0))
    }

    /// A copy of it was made: they are peers if it is shared.
    pub(super) fn copied(self) -> Self {
        self.map(|state| PropagationState { peers: state.shared, ..state })
    }

    /// Whether a state is one of these, to what is seen of it.
    pub(super) fn includes(self, found: PropagationState) -> bool {
        self.states().any(|state| state.words() == found.words())
    }

    /// In words.
    pub(super) fn words(self) -> String {
        let mut words: Vec<_> = self.states().map(PropagationState::words).collect();
        words.dedup();
        words.join(" or ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::parse;

    fn after(before: Possible, words: &[&str]) -> Possible {
        before.changed(&parse(words).unwrap().propagation)
    }

    #[test]
    fn of_a_source_that_nothing_is_known_of() {
        let cases = [
            (&[][..], "private or shared or slave or shared,slave or unbindable"),
            (&["private"], "private"),
            (&["rslave"], "private or slave or unbindable"),
            // In a user namespace a shared mount of the host is a slave, which then shares what it receives.
            (&["shared"], "shared or shared,slave"),
            (&["private", "shared"], "shared"),
            (&["unbindable"], "unbindable"),
        ];
        for (words, wanted) in cases {
            assert_eq!(after(Possible::ANY, words).words(), wanted, "{words:?}");
        }
    }

    #[test]
    fn on_a_mount_that_nothing_is_known_of() {
        let on = |parent: Possible| Possible::PRIVATE.attached_to(parent).words();
        assert_eq!(on(Possible::ANY), "private or shared");
        assert_eq!(on(after(Possible::ANY, &["rslave"])), "private");
        assert_eq!(on(after(Possible::ANY, &["rslave", "rshared"])), "shared");
    }

    #[test]
    fn a_copy_is_a_peer_of_what_is_shared() {
        let shared = after(Possible::PRIVATE, &["shared"]);
        assert_eq!(after(shared, &["slave"]).words(), "private");
        assert_eq!(after(shared.copied(), &["slave"]).words(), "slave");
        assert_eq!(after(Possible::PRIVATE.attached_to(shared.copied()), &["slave"]).words(), "slave");
        assert!(shared.includes(PropagationState {
            shared: true,
            peers: true,
            ..PropagationState::default()
        }));
        assert!(!shared.includes(PropagationState::default()));
    }
}
