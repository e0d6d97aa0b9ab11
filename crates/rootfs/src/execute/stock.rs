//! Filesystems made before it is known what for: a first process that waits makes those that the container before it
//! had, for itself alone, so that the next one finds them ready.

use std::cell::RefCell;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use super::mounts::make_filesystem;
use crate::error::Result;
use crate::kernel::Kernel;
use crate::path::PathBytes;

/// What a filesystem is made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filesystem {
    /// Its type.
    pub fstype: String,
    /// Its source, as the mount table shows it.
    pub source: Option<PathBytes>,
    /// Flags of the superblock.
    pub superblock: Vec<String>,
    /// Options, as `fsconfig(2)` takes them.
    pub data: Vec<(String, Option<String>)>,
    /// `MOUNT_ATTR_*` bits.
    pub flags: u64,
}

/// Types that hold nothing but what the container itself puts there, or what its namespaces show; their options are no
/// secrets, as those of a network filesystem can be.
const TYPES: [&str; 6] = ["proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup2"];
/// As many are made ahead.
const LIMIT: usize = 32;

/// What is ready, and what was needed.
#[derive(Debug, Default)]
pub struct Stock {
    ready: RefCell<Vec<(Filesystem, OwnedFd)>>,
    needed: RefCell<Vec<Filesystem>>,
}

impl Stock {
    /// Makes filesystems ahead, in the namespaces of this process. What can't be made now gives its error later.
    pub fn fill(kernel: &dyn Kernel, filesystems: Vec<Filesystem>) -> Self {
        let ready = filesystems
            .into_iter()
            .filter(|filesystem| TYPES.contains(&&*filesystem.fstype))
            .take(LIMIT)
            .filter_map(|filesystem| filesystem.make(kernel).ok().map(|mount| (filesystem, mount)))
            .collect();
        Self { ready: RefCell::new(ready), needed: RefCell::default() }
    }

    /// A mounted filesystem: one that is ready, or a new one.
    pub(super) fn take_or_make(&self, kernel: &dyn Kernel, wanted: Filesystem) -> Result<OwnedFd> {
        let position = self.ready.borrow().iter().position(|(ready, _)| *ready == wanted);
        let mount = match position {
            Some(position) => self.ready.borrow_mut().remove(position).1,
            None => wanted.make(kernel)?,
        };
        let mut needed = self.needed.borrow_mut();
        if needed.len() < LIMIT && TYPES.contains(&&*wanted.fstype) {
            needed.push(wanted);
        }
        Ok(mount)
    }

    /// What was needed, for the next one.
    pub(super) fn into_needed(self) -> Vec<Filesystem> {
        self.needed.into_inner()
    }
}

impl Filesystem {
    fn make(&self, kernel: &dyn Kernel) -> Result<OwnedFd> {
        let Self { fstype, source, superblock, data, flags } = self;
        make_filesystem(kernel, fstype, source.as_ref(), superblock, data, *flags)
    }
}
