//! Changing what is mounted already: the mount at a destination, and its filesystem where that is the container's own.

use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

use nix::errno::Errno;

use super::deny::is_private;
use super::filesystem::{counts_changes, is_iversion, is_lazy, refused};
use super::sources::{Later, apply_attributes};
use super::{Done, Execution, Expectation, Level};
use crate::error::{CallContext, Error, ErrorCode, Result, SysError};
use crate::hint::Hint;
use crate::kernel::Follow;
use crate::options::attr;
use crate::path::PathBytes;
use crate::plan::Action;
use crate::resolve;
use crate::spec::{Mount, MountKind};

impl Execution<'_> {
    pub(super) fn remount(
        &mut self,
        mount: &Mount,
        bind: bool,
        superblock: &[String],
        data: &[(String, Option<String>)],
        readonly_later: bool,
        step: u32,
    ) -> Result<Done> {
        let path = &mount.destination;
        let root = self.root()?;
        let follow = if mount.links.destination { Follow::AllButLast } else { Follow::All };
        let nothing = |call: &SysError| {
            Error::from_call(ErrorCode::Mount, format!("{path}: nothing is mounted there"), call)
        };
        let file = match resolve::resolve(self.kernel, root.as_fd(), path, follow) {
            Err(call) if call.is(Errno::ENOENT) => return Err(nothing(&call)),
            other => other.map_err(|call| resolve::resolution_error(path, &call))?,
        };
        let status = self
            .kernel
            .status(file.as_fd())
            .context(ErrorCode::Mount, || format!("{path} can't be looked at"))?;
        // First the filesystem: its context can only be had at the root of a mount, and that is a check.
        let changes = Self::superblock_changes(mount, superblock, readonly_later);
        let mut done = Done::default();
        let changes_filesystem = !(changes.is_empty() && data.is_empty());
        let says_readonly = mount.attributes.mentioned() & attr::RDONLY != 0;
        let may_change = !bind
            && (changes_filesystem || says_readonly)
            && self.may_change_filesystem(step, file.as_fd())?;
        if changes_filesystem && !bind {
            if may_change {
                self.reconfigure(path, file.as_fd(), &changes, superblock, data)?;
            } else if let Some(word) = superblock.first().or(data.first().map(|(key, _)| key)) {
                return Err(Error::new(
                    ErrorCode::Spec,
                    format!(
                        "{path}: the option \"{word}\" would change a filesystem of the host, and not the mount alone"
                    ),
                ));
            } else {
                done = Done::by("mount-only");
            }
        }
        // And so is a change of its attributes.
        let later = Later::of(self.plan, step, readonly_later);
        apply_attributes(self.kernel, file.as_fd(), mount, later, None).map_err(|mut error| {
            if error.errno == Some(libc::EINVAL) {
                error.message = format!("{path}: nothing is mounted there: {}", error.message);
            }
            error
        })?;
        let attributes = &mount.attributes;
        if let Some(expected) = self.expectations.get_mut(status.mount) {
            expected.change(attributes, &mount.propagation);
            if may_change && says_readonly {
                expected.superblock_readonly = attributes.readonly();
            }
            let reaches_covered = self.setting.level != Level::Classic;
            let below = (&mount.destination, reaches_covered);
            self.expectations.change_below(status.mount, attributes, &mount.propagation, below);
        } else {
            // One that was brought along.
            let mut one =
                Expectation::new(step, status.mount, status.mount, Some(mount.destination.clone()), 0);
            one.parent = None;
            let expected = self.expectations.add(one);
            expected.copied_from(None, attributes, (&mount.propagation, &[]), false);
            expected.recursive = true;
        }
        self.kept.insert(step, Rc::new(file));
        Ok(done)
    }

    fn superblock_changes<'m>(mount: &Mount, superblock: &'m [String], readonly_later: bool) -> Vec<&'m str> {
        let mut changes: Vec<&str> = superblock.iter().map(String::as_str).collect();
        if mount.attributes.mentioned() & attr::RDONLY != 0 && !readonly_later {
            changes.push(if mount.attributes.readonly() { "ro" } else { "rw" });
        }
        changes
    }

    fn reconfigure(
        &self,
        path: &PathBytes,
        mount: BorrowedFd<'_>,
        changes: &[&str],
        superblock: &[String],
        data: &[(String, Option<String>)],
    ) -> Result<()> {
        let kernel = self.kernel;
        let context = kernel.pick_filesystem(mount).map_err(|call| {
            let what =
                if call.is(Errno::EINVAL) { "nothing is mounted there" } else { "it can't be changed" };
            Error::from_call(ErrorCode::Mount, format!("{path}: {what}"), &call)
        })?;
        for key in changes.iter().filter(|key| !is_iversion(key)) {
            kernel.set_filesystem_flag(context.as_fd(), key).map_err(|call| {
                refused(kernel, &context, format!("the option \"{key}\" is refused"), &call)
            })?;
        }
        for (key, value) in data {
            let set = match value {
                Some(value) => kernel.set_filesystem_option(context.as_fd(), key, &value.as_str().into()),
                None => kernel.set_filesystem_flag(context.as_fd(), key),
            };
            set.map_err(|call| refused(kernel, &context, format!("the option \"{key}\" is refused"), &call))?;
        }
        kernel.reconfigure_filesystem(context.as_fd()).map_err(|call| {
            let error = refused(kernel, &context, "the filesystem can't be changed".to_owned(), &call);
            if changes.contains(&"dirsync") { error.with_hint(Hint::DirsyncLater) } else { error }
        })?;
        if let Some(count) = counts_changes(superblock) {
            let lazytime = is_lazy(superblock);
            kernel
                .count_changes(mount, count, lazytime)
                .context(ErrorCode::Mount, || format!("{path}: the option \"iversion\" is refused"))?;
        }
        Ok(())
    }

    /// Whether the filesystem of a mount was made for this container: that of the host is nobody's to change here. For the
    /// step that made it the answer is known.
    pub(super) fn may_change_filesystem(&self, step: u32, mount: BorrowedFd<'_>) -> Result<bool> {
        let what = || "a mount can't be looked at";
        let is_remount = |mount: &Mount| matches!(mount.kind, MountKind::Remount { .. });
        if !self.plan.mount(step).is_some_and(is_remount) {
            return Ok(true);
        }
        let device = self.kernel.status(mount).context(ErrorCode::Mount, what)?.device;
        for made in &self.plan.steps {
            let top = match &made.action {
                // Without a directory of the host's for it, what is written to an overlay goes to a tmpfs.
                Action::Root { root, .. } if is_private(root) => {
                    self.ground.trees.first().map(|tree| Rc::clone(&tree.fd))
                }
                Action::Mount { mount, .. } if self.plan.has_own_superblock(&mount.kind) => {
                    self.kept.get(&made.index).cloned()
                }
                _ => None,
            };
            if let Some(top) = top
                && self.kernel.status(top.as_fd()).context(ErrorCode::Mount, what)?.device == device
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
