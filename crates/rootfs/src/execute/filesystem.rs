//! New filesystems, and those made before it is known what for: a first process that waits makes the ones that the
//! container before it had, for itself alone, so that the next one finds them ready. They are mounted when they are
//! needed: the kernel's mount table is in the order of mounting.

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::content::attach_aside;
use crate::error::{CallContext, Error, ErrorCode, Result, SysError, SysResult};
use crate::kernel::Kernel;
use crate::options::{Effect, IVERSION, find, option_text};
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
            .filter_map(|filesystem| filesystem.create(kernel).ok().map(|context| (filesystem, context)))
            .collect();
        Self::of_ready(ready)
    }

    /// What is ready, to be given to another process.
    pub fn into_ready(self) -> Vec<(Filesystem, OwnedFd)> {
        self.ready.into_inner()
    }

    /// What another process has made ahead, in the same namespaces but that of mounts.
    pub fn of_ready(ready: Vec<(Filesystem, OwnedFd)>) -> Self {
        Self { ready: RefCell::new(ready), needed: RefCell::default() }
    }

    /// A mounted filesystem: one that is ready, or a new one.
    pub(super) fn take_or_make(&self, kernel: &dyn Kernel, wanted: Filesystem) -> Result<OwnedFd> {
        let position = self.ready.borrow().iter().position(|(ready, _)| *ready == wanted);
        let mount = match position {
            Some(position) => {
                let (_, context) = self.ready.borrow_mut().remove(position);
                wanted.mount(kernel, &context)?
            }
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
    /// Makes it and mounts it, detached.
    pub(super) fn make(&self, kernel: &dyn Kernel) -> Result<OwnedFd> {
        let context = self.create(kernel)?;
        self.mount(kernel, &context)
    }

    /// The same with options that are no strings.
    pub(super) fn make_with(
        &self,
        kernel: &dyn Kernel,
        configure: impl FnOnce(BorrowedFd<'_>) -> SysResult<()>,
    ) -> Result<OwnedFd> {
        let context = self.create_with(kernel, configure)?;
        self.mount(kernel, &context)
    }

    /// Makes it. The context that holds it is what it is mounted from.
    fn create(&self, kernel: &dyn Kernel) -> Result<OwnedFd> {
        self.create_with(kernel, |_| Ok(()))
    }

    fn create_with(
        &self,
        kernel: &dyn Kernel,
        configure: impl FnOnce(BorrowedFd<'_>) -> SysResult<()>,
    ) -> Result<OwnedFd> {
        let fstype = &*self.fstype;
        let context = kernel.open_filesystem(fstype).map_err(|call| {
            let other = || Error::from_call(ErrorCode::Mount, format!("a {fstype} can't be made"), &call);
            unknown(fstype, &call).unwrap_or_else(other)
        })?;
        let fail = |what: String, call: &SysError| refused(kernel, &context, what, call);
        let set = |key: &str, value: Option<&PathBytes>| match value {
            Some(value) => kernel.set_filesystem_option(context.as_fd(), key, value),
            None => kernel.set_filesystem_flag(context.as_fd(), key),
        };
        let named: PathBytes = self.source.clone().unwrap_or_else(|| fstype.into());
        set("source", Some(&named)).map_err(|call| fail(format!("a {fstype} can't be made"), &call))?;
        for key in self.superblock.iter().filter(|key| kernel.takes_iversion() || !is_iversion(key)) {
            set(key, None).map_err(|call| fail(format!("the option \"{key}\" is refused"), &call))?;
        }
        for (key, value) in &self.data {
            let bytes = value.as_deref().map(PathBytes::from);
            set(key, bytes.as_ref()).map_err(|call| {
                let value = value.as_deref().map(|value| format!("={value}")).unwrap_or_default();
                fail(format!("the option \"{key}{value}\" is refused"), &call)
            })?;
        }
        configure(context.as_fd())
            .and_then(|()| kernel.create_filesystem(context.as_fd()))
            .map_err(|call| fail(format!("a {fstype} can't be made"), &call))?;
        Ok(context)
    }

    fn mount(&self, kernel: &dyn Kernel, context: &OwnedFd) -> Result<OwnedFd> {
        let mount = kernel.mount_created(context.as_fd(), self.flags).map_err(|call| {
            let other = || match self.refused_by_mount(kernel, &call) {
                Some(word) => refused(kernel, context, format!("the option \"{word}\" is refused"), &call),
                None => refused(kernel, context, format!("a {} can't be mounted", self.fstype), &call),
            };
            // With mount(2) only now.
            unknown(&self.fstype, &call).unwrap_or_else(other)
        })?;
        // A new filesystem counts no changes, unless it always does.
        if counts_changes(&self.superblock) != Some(true) || kernel.takes_iversion() {
            return Ok(mount);
        }
        let what = || format!("the option \"{IVERSION}\" is refused");
        let count = || kernel.count_changes(mount.as_fd(), true, is_lazy(&self.superblock));
        match count() {
            // Before Linux 6.15 only a mount that is attached can be copied.
            Err(call) if call.syscall == "open_tree" && call.is(Errno::EINVAL) => {
                kernel.in_private_mounts(&mut || {
                    attach_aside(kernel, &mount)?;
                    count().context(ErrorCode::Mount, what)?;
                    kernel.clone_mount(mount.as_fd(), false).context(ErrorCode::Mount, what)
                })
            }
            other => other.context(ErrorCode::Mount, what).map(|()| mount),
        }
    }

    /// The first option that mount(2) refuses, which doesn't say so: found by leaving out the last ones. What is mounted
    /// on the way goes with the place where it is made. Only a filesystem of the kernel's own can be mounted for a trial.
    fn refused_by_mount(&self, kernel: &dyn Kernel, call: &SysError) -> Option<String> {
        if call.syscall != "mount" || !call.is(Errno::EINVAL) || !TYPES.contains(&&*self.fstype) {
            return None;
        }
        let fails = |count: usize| {
            let some = Self { data: self.data[..count].to_vec(), ..self.clone() };
            let context = some.create(kernel).ok()?;
            Some(kernel.mount_created(context.as_fd(), some.flags).err()?.is(Errno::EINVAL))
        };
        if fails(0).is_some() {
            return None;
        }
        let first = (1..=self.data.len()).find(|count| fails(*count) == Some(true))?;
        let (key, value) = &self.data[first - 1];
        Some(option_text(key, value.as_deref()))
    }
}

/// Whether a flag of the superblock is one that `fsconfig(2)` doesn't take.
pub(super) fn is_iversion(key: &str) -> bool {
    find(key).is_some_and(|word| matches!(word.effect, Effect::Iversion(_)))
}

/// What the last word about it says, if there is one.
pub(super) fn counts_changes(flags: &[String]) -> Option<bool> {
    flags.iter().rfind(|key| is_iversion(key)).map(|key| key == IVERSION)
}

/// Whether the last word about it makes time stamps lazy.
pub(super) fn is_lazy(flags: &[String]) -> bool {
    flags.iter().rfind(|key| key.ends_with("lazytime")).is_some_and(|key| key == "lazytime")
}

/// What a kernel says about a type that it doesn't have.
fn unknown(fstype: &str, call: &SysError) -> Option<Box<Error>> {
    let what = || format!("the kernel has no filesystem \"{fstype}\"");
    call.is(Errno::ENODEV).then(|| Error::from_call(ErrorCode::Unsupported, what(), call))
}

/// An error with what the kernel said about the filesystem.
pub(super) fn refused(kernel: &dyn Kernel, context: &OwnedFd, what: String, call: &SysError) -> Box<Error> {
    let mut error = Error::from_call(ErrorCode::Mount, what, call);
    error.kernel_log = kernel.filesystem_log(context.as_fd());
    error
}
