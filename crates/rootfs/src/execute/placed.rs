//! Which mounts of the plan are where. What lies in one of them is found through its descriptor and not by the path from
//! the root: others may share the root's directory, and whoever renames `/proc` in it while the container is made must
//! not make the masks of `/proc` miss, nor lead the names of `/dev` somewhere else.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use crate::path::PathBytes;

/// A mount, and where it is.
#[derive(Debug)]
struct Mounted {
    order: usize,
    fd: Rc<OwnedFd>,
    id: u64,
}

/// The mounts that can be seen, by their destinations.
#[derive(Debug, Default)]
pub(super) struct Placed {
    mounts: BTreeMap<PathBytes, Mounted>,
    count: usize,
}

/// What a path lies in.
#[derive(Debug)]
pub(super) struct Holder {
    /// The mount.
    pub(super) fd: Rc<OwnedFd>,
    /// Its id.
    pub(super) id: u64,
    /// Where it is.
    pub(super) destination: PathBytes,
    /// The way from there, with a slash at its end where the path has one; `/` for the mount itself.
    pub(super) rest: PathBytes,
}

impl Placed {
    /// Remembers a mount at a normalized path. One on `/` hides all that came before.
    pub(super) fn add(&mut self, destination: PathBytes, fd: &Rc<OwnedFd>, id: u64) {
        if destination.as_bytes() == b"/" {
            self.mounts.clear();
            return;
        }
        self.count += 1;
        self.mounts.insert(destination, Mounted { order: self.count, fd: Rc::clone(fd), id });
    }

    /// Parts of the tree were covered by copies of themselves: what was known may be hidden.
    pub(super) fn forget(&mut self) {
        self.mounts.clear();
    }

    /// A mount was covered by another, whole.
    pub(super) fn replace(&mut self, covered: u64, fd: &Rc<OwnedFd>, id: u64) {
        for mounted in self.mounts.values_mut().filter(|mounted| mounted.id == covered) {
            (mounted.fd, mounted.id) = (Rc::clone(fd), id);
        }
    }

    /// The mount that a path lies in: the last one that was mounted on the way, because it hides the others. `None` for
    /// the root, and for a path with `..`, whose meaning depends on links.
    pub(super) fn holder(&self, path: &PathBytes) -> Option<Holder> {
        if self.mounts.is_empty() || path.has_parents() {
            return None;
        }
        let plain = path.normalized();
        let text = plain.as_bytes();
        let mut found: Option<(&Mounted, usize)> = None;
        for end in (1..text.len()).filter(|at| text[*at] == b'/').chain([text.len()]) {
            if let Some(mounted) = self.mounts.get(&text[..end])
                && found.is_none_or(|(other, _)| other.order < mounted.order)
            {
                found = Some((mounted, end));
            }
        }
        let (mounted, end) = found?;
        let (destination, rest) = text.split_at(end);
        let slash: &[u8] = if rest.is_empty() || path.names_a_directory() { b"/" } else { b"" };
        Some(Holder {
            fd: Rc::clone(&mounted.fd),
            id: mounted.id,
            destination: PathBytes::new(destination),
            rest: PathBytes::new([rest, slash].concat()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(destinations: &[&str]) -> Placed {
        let fd = Rc::new(rustix::fs::memfd_create(c"mount", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        let mut placed = Placed::default();
        for (id, destination) in (0..).zip(destinations) {
            placed.add(PathBytes::from(*destination).normalized(), &fd, id);
        }
        placed
    }

    fn holder(placed: &Placed, path: &str) -> Option<(u64, String)> {
        placed.holder(&path.into()).map(|holder| (holder.id, holder.rest.to_string()))
    }

    #[test]
    fn a_path_lies_in_the_mount_that_was_mounted_last_on_its_way() {
        let mounts = placed(&["/dev", "/dev/pts", "//proc/."]);
        assert_eq!(holder(&mounts, "/dev/null"), Some((0, "/null".into())));
        assert_eq!(holder(&mounts, "/dev/./pts/ptmx"), Some((1, "/ptmx".into())));
        assert_eq!(holder(&mounts, "/dev/shm/."), Some((0, "/shm/".into())));
        assert_eq!(holder(&mounts, "/proc"), Some((2, "/".into())));
        assert_eq!(holder(&mounts, "/proc/"), Some((2, "/".into())));
        assert_eq!(holder(&mounts, "/devices"), None);
        assert_eq!(holder(&mounts, "/"), None);
        assert_eq!(holder(&mounts, "/proc/../dev/null"), None);
        assert_eq!(holder(&placed(&["/dev/pts", "/dev"]), "/dev/pts/0"), Some((1, "/pts/0".into())));
    }

    #[test]
    fn a_mount_on_the_root_hides_all_others() {
        assert_eq!(holder(&placed(&["/dev", "/"]), "/dev/null"), None);
    }
}
