//! Mounts, device nodes and links.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use nix::errno::Errno;

use super::filesystem::Filesystem;
use super::sources::{
    Later, Opened, apply_attributes, apply_propagation, apply_to_fallback, attachable, propagation_of_copy,
};
use super::{Done, Execution, Expectation, HostPlace};
use crate::error::{CallContext, Error, ErrorCode, Result, SysError};
use crate::hint::Hint;
use crate::kernel::copy_tree::{self, Top};
use crate::kernel::{AttributeChange, FileKind, FileStatus, Follow};
use crate::options::{Links, Propagation, attr};
use crate::path::PathBytes;
use crate::procfs::{self, Mounted};
use crate::resolve::{self, Missing, Resolved};
use crate::spec::{BindSource, IdMap, Mount, MountKind, Namespace, Symlink};

impl Execution<'_> {
    pub(super) fn empty_root(&self, size: Option<u64>, mode: u32) -> Result<OwnedFd> {
        let mut data = vec![("mode".to_owned(), Some(format!("{mode:o}")))];
        data.extend(size.map(|size| ("size".to_owned(), Some(size.to_string()))));
        self.new_filesystem("tmpfs", Some(&"tmpfs".into()), &[], &data, 0)
    }

    /// A filesystem of the container's own, mounted detached.
    pub(super) fn new_filesystem(
        &self,
        fstype: &str,
        source: Option<&PathBytes>,
        superblock: &[String],
        data: &[(String, Option<String>)],
        flags: u64,
    ) -> Result<OwnedFd> {
        let mut data = data.to_vec();
        if let Some(label) = self.context
            && takes_context(fstype)
            && !data.iter().any(|(key, _)| key == "context")
        {
            data.push(("context".to_owned(), Some(label.to_owned())));
        }
        let wanted = Filesystem {
            fstype: fstype.to_owned(),
            source: source.cloned(),
            superblock: superblock.to_vec(),
            data,
            flags,
        };
        self.stock.take_or_make(self.kernel, wanted)
    }

    pub(super) fn mount(&mut self, mount: &Mount, readonly_later: bool, step: u32) -> Result<Done> {
        self.parent = None;
        match &mount.kind {
            MountKind::Bind { source, recursive, optional, .. } => {
                self.bind(mount, source, *recursive, *optional, readonly_later, step)
            }
            MountKind::Filesystem { fstype, source, superblock, data, .. } => {
                self.filesystem(mount, fstype, source.as_ref(), superblock, data, readonly_later, step)
            }
            MountKind::File { content, mode, uid, gid } => {
                self.file(mount, content, *mode, (*uid, *gid), step)
            }
            MountKind::Overlay(_) => self.overlay(mount, step),
            MountKind::Cgroup { source, superblock, data } => {
                self.cgroup(mount, source.as_ref(), (superblock, data), step)
            }
            MountKind::Remount { bind, superblock, data } => {
                self.remount(mount, *bind, superblock, data, readonly_later, step)
            }
        }
    }

    fn bind(
        &mut self,
        mount: &Mount,
        source: &BindSource,
        recursive: bool,
        optional: bool,
        readonly_later: bool,
        step: u32,
    ) -> Result<Done> {
        let later = Later::of(self.plan, step, readonly_later);
        let (copy, directory, proc_root, host, original) = if let BindSource::InRoot(path) = source {
            match self.copy_in_root(mount, path, recursive, later)? {
                Some((link, status)) if mount.links.copy && status.kind == FileKind::Symlink => {
                    return self.copy_link(mount, &link);
                }
                Some((copy, status)) => {
                    let proc_root = procfs::is_proc_root(self.kernel, copy.as_fd(), &status)?;
                    let directory = status.kind == FileKind::Directory;
                    let host = if directory { self.place_in_root(path, &status)? } else { None };
                    let original = self.expectations.original(status.mount);
                    ((copy, None), directory, proc_root, host, original)
                }
                None if optional => return Ok(Done::skipped()),
                None => {
                    return Err(Error::new(
                        ErrorCode::Source,
                        format!("{path}: source does not exist in the root"),
                    ));
                }
            }
        } else {
            match self.sources.take(step) {
                Some(opened) => {
                    let Opened { description: source, mount: copy, identity } = opened;
                    if mount.links.copy && self.is_link(&copy)? {
                        return self.copy_link(mount, &copy);
                    }
                    let host = HostPlace::new(source.path, identity);
                    let copy = (copy, source.mount);
                    (copy, source.directory, source.proc_root, Some(host), source.original)
                }
                None if optional => return Ok(Done::skipped()),
                None => return Err(Error::new(ErrorCode::Source, "source was not opened")),
            }
        };
        if !directory && !matches!(source, BindSource::InRoot(_)) {
            self.warn_about_file(source, &copy.0, step)?;
        }
        let missing = if directory { Missing::Directory } else { Missing::File };
        let destination = self.mountpoint(mount, missing)?;
        let mounted = if proc_root { Mounted::ProcRoot } else { Mounted::Other };
        let root_propagation = match source {
            BindSource::InRoot(_) => Propagation::RSLAVE,
            BindSource::Host(_) | BindSource::Fd { .. } => self.root_propagation(),
        };
        let done = self.place(mount, copy, &destination, directory, mounted, host, step)?;
        let locked = self.setting.user.is_some();
        if let Some(expected) = self.expectations.last_mut() {
            let propagation = propagation_of_copy(mount, root_propagation);
            let again = if later.propagation { &mount.propagation[..] } else { &[] };
            let propagation = attachable(propagation, later);
            expected.copied_from(original, &mount.attributes, (&propagation, again), locked);
            expected.recursive = recursive;
            if mount.id_map.is_some() {
                expected.is_idmapped();
            }
        }
        Ok(done)
    }

    fn is_link(&self, file: &OwnedFd) -> Result<bool> {
        let status = self.kernel.status(file.as_fd());
        status
            .map(|status| status.kind == FileKind::Symlink)
            .context(ErrorCode::Source, || "the source can't be looked at")
    }

    /// Makes a symbolic link like the source.
    fn copy_link(&mut self, mount: &Mount, link: &OwnedFd) -> Result<Done> {
        let target = self
            .kernel
            .read_link(link.as_fd())
            .context(ErrorCode::Source, || "the symbolic link can't be read")?;
        self.link(&Symlink { target, path: mount.destination.clone() })
    }

    /// The destination of a mount: what a symbolic link leads to, unless the link itself is meant.
    fn mountpoint(&mut self, mount: &Mount, missing: Missing) -> Result<Resolved> {
        let path = &mount.destination;
        if !mount.links.destination {
            return self.destination(path, missing);
        }
        let root = self.root()?;
        match resolve::resolve(self.kernel, root.as_fd(), path, Follow::AllButLast) {
            Err(call) if call.is(Errno::ENOENT) => self.destination(path, missing),
            other => {
                let fd = other.map_err(|call| resolve::resolution_error(path, &call))?;
                let status =
                    self.kernel.status(fd.as_fd()).map_err(|call| resolve::resolution_error(path, &call))?;
                self.ground.lock(status.mount)?;
                Ok(Resolved { fd, status, path: None, created: false, linkless: false })
            }
        }
    }

    /// Editors and package managers replace files by renaming others over them; the bind stays with the old one.
    fn warn_about_file(&mut self, source: &BindSource, copy: &OwnedFd, step: u32) -> Result<()> {
        let (BindSource::Host(path) | BindSource::Fd { path, .. } | BindSource::InRoot(path)) = source;
        let status = self
            .kernel
            .status(copy.as_fd())
            .context(ErrorCode::Source, || format!("{path} can't be looked at"))?;
        if status.kind == FileKind::Regular {
            self.warn(
                "single-file",
                step,
                format!("{path} is bound as a file: when it is replaced on the host by a rename, that isn't seen inside"),
            );
        }
        Ok(())
    }

    /// A copy of a part of the tree that is being built.
    fn copy_in_root(
        &self,
        mount: &Mount,
        path: &PathBytes,
        recursive: bool,
        later: Later,
    ) -> Result<Option<(OwnedFd, FileStatus)>> {
        let Some((file, status)) = self.source_in_root(path, mount.links)? else { return Ok(None) };
        if mount.links.copy && status.kind == FileKind::Symlink {
            return Ok(Some((file, status)));
        }
        let copy = self
            .kernel
            .clone_mount(file.as_fd(), recursive)
            .context(ErrorCode::Mount, || format!("{path}: the source can't be bound"))?;
        if let Some(wanted) = &mount.id_map {
            self.id_maps.apply(self.kernel, copy.as_fd(), wanted, None)?;
        }
        apply_attributes(self.kernel, copy.as_fd(), mount, later, Some(Propagation::RSLAVE))?;
        Ok(Some((copy, status)))
    }

    fn source_in_root(&self, path: &PathBytes, links: Links) -> Result<Option<(OwnedFd, FileStatus)>> {
        if !links.copy && !links.source {
            return self.existing(path);
        }
        let root = self.root()?;
        let fail = |call: SysError| resolve::resolution_error(path, &call);
        match resolve::resolve(self.kernel, root.as_fd(), path, Follow::AllButLast) {
            Err(call) if call.is(Errno::ENOENT) => Ok(None),
            other => {
                let file = other.map_err(fail)?;
                let status = self.kernel.status(file.as_fd()).map_err(fail)?;
                Ok(Some((file, status)))
            }
        }
    }

    /// Which directory of the host it is a copy of. What is made in the copy is made there.
    fn place_in_root(&mut self, path: &PathBytes, status: &FileStatus) -> Result<Option<HostPlace>> {
        let root = self.root()?;
        let place = resolve::place_of(self.kernel, root.as_fd(), path, status, &mut self.ground)?;
        let place = place.ok_or_else(|| {
            Error::new(ErrorCode::Race, format!("{path} was replaced while it was bound in the root"))
        })?;
        Ok(self.ground.part_of(&place))
    }

    /// Attaches an overlay, which was made when its directories were opened.
    fn overlay(&mut self, mount: &Mount, step: u32) -> Result<Done> {
        let opened = self
            .sources
            .take(step)
            .ok_or_else(|| Error::new(ErrorCode::Source, "the overlay was not made"))?;
        self.ground.locks.extend(self.sources.take_lock(step));
        let host = self.sources.take_upper(step).map(HostPlace::of_upper);
        let destination = self.mountpoint(mount, Missing::Directory)?;
        self.place(mount, (opened.mount, None), &destination, true, Mounted::Other, host, step)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the fields of one mount, taken apart by the caller's match"
    )]
    fn filesystem(
        &mut self,
        mount: &Mount,
        fstype: &str,
        source: Option<&PathBytes>,
        superblock: &[String],
        data: &[(String, Option<String>)],
        readonly_later: bool,
        step: u32,
    ) -> Result<Done> {
        let destination = if matches!(fstype, "proc" | "sysfs") {
            self.ordinary_directory(&mount.destination)?
        } else {
            self.mountpoint(mount, Missing::Directory)?
        };
        let mut data = data.to_vec();
        self.adapt_options(fstype, &mut data, &destination, step);
        let flags = mount.attributes.of_new_mount(readonly_later);
        let mut superblock = superblock.to_vec();
        if flags & attr::RDONLY != 0 && self.plan.has_own_superblock(&mount.kind) {
            superblock.push("ro".to_owned());
        }
        let made = self.new_filesystem(fstype, source, &superblock, &data, flags);
        let (fd, strategy) = match made {
            Err(error) if error.errno == Some(libc::EPERM) && self.is_in_user_namespace() => {
                self.without_permission(fstype, mount, error)?
            }
            other => (other?, None),
        };
        if let (MountKind::Filesystem { copy_up: true, .. }, None) = (&mount.kind, strategy) {
            self.copy_up(mount, &fd, &destination, step)?;
        }
        if let (Some(label), "mqueue", None) = (self.context, fstype, strategy) {
            let what = || "the message queues can't be labelled";
            self.kernel.set_label(fd.as_fd(), label).context(ErrorCode::Mount, what)?;
        }
        self.share_ahead(mount, &fd, step)?;
        let mounted = if fstype == "proc" { Mounted::Proc } else { Mounted::Other };
        let mut done = self.place(mount, (fd, None), &destination, true, mounted, None, step)?;
        done.strategy = strategy;
        if let (Some(_), Some(expected)) = (strategy, self.expectations.last_mut()) {
            expected.is_fallback(&mount.attributes, expected.attributes);
            expected.superblock_readonly = false;
        }
        Ok(done)
    }

    /// Fills a tmpfs with what is at its place, before anybody sees it.
    fn copy_up(&mut self, mount: &Mount, fd: &OwnedFd, covered: &Resolved, step: u32) -> Result<()> {
        check_types(&mount.destination, true, &covered.status)?;
        if covered.created {
            return Ok(());
        }
        let MountKind::Filesystem { data, .. } = &mount.kind else { return Ok(()) };
        let given = |key: &str| data.iter().any(|(other, _)| other == key);
        let top = Top { user: !given("uid"), group: !given("gid"), mode: !given("mode") };
        let destination = &mount.destination;
        let copied = self.kernel.copy_tree(covered.fd.as_fd(), fd.as_fd(), top).map_err(|call| {
            let (code, what) = match Errno::from_raw(call.errno) {
                Errno::ENOSPC | Errno::EDQUOT => {
                    (ErrorCode::Mount, "the tmpfs is too small for a copy of it")
                }
                Errno::EAGAIN => (ErrorCode::Race, "it was changed while it was copied"),
                Errno::EACCES => (ErrorCode::Mount, "a file in it can't be read to be copied"),
                _ => (ErrorCode::Mount, "it can't be copied"),
            };
            let error = Error::from_call(code, format!("{destination}: {what}"), &call);
            if code == ErrorCode::Mount && call.is(Errno::ENOSPC) {
                return error.with_hint(Hint::SmallTmpfs);
            }
            error
        })?;
        if let Some(message) = copy_tree::describe(&copied, destination) {
            self.warn("copy-up", step, message);
        }
        Ok(())
    }

    /// proc and sysfs are only mounted on a directory whose path has no symbolic link: one could lead them to a place
    /// where what is written "to /proc" goes to a file of the image (CVE-2019-19921).
    fn ordinary_directory(&mut self, path: &PathBytes) -> Result<Resolved> {
        let refuse = || {
            let mut error = Error::new(
                ErrorCode::Proc,
                format!("{path}: must be mounted on ordinary directory, not through a symbolic link"),
            );
            error.destination = Some(path.clone());
            error
        };
        let root = self.root()?;
        let fail = |call: &SysError| {
            if call.is(Errno::ELOOP) { refuse() } else { resolve::resolution_error(path, call) }
        };
        let fd = match resolve::resolve(self.kernel, root.as_fd(), path, Follow::None) {
            // What is missing is made, but only below directories that are no links either.
            Err(call) if call.is(Errno::ENOENT) => {
                if self.passes_through_link(path)? {
                    return Err(refuse());
                }
                self.destination(path, Missing::Directory)?;
                resolve::resolve(self.kernel, root.as_fd(), path, Follow::None).map_err(|call| fail(&call))?
            }
            other => other.map_err(|call| fail(&call))?,
        };
        let status = self
            .kernel
            .status(fd.as_fd())
            .context(ErrorCode::Proc, || format!("{path} can't be looked at"))?;
        if status.kind != FileKind::Directory {
            return Err(refuse());
        }
        self.ground.lock(status.mount)?;
        Ok(Resolved { fd, status, path: None, created: false, linkless: false })
    }

    /// Whether a part of the path that exists is a symbolic link.
    fn passes_through_link(&self, path: &PathBytes) -> Result<bool> {
        let root = self.root()?;
        let mut prefix = PathBytes::from("/");
        for name in path.normalized().components() {
            prefix = prefix.join(name);
            match resolve::resolve(self.kernel, root.as_fd(), &prefix, Follow::AllButLast) {
                Ok(fd) => {
                    let status = self
                        .kernel
                        .status(fd.as_fd())
                        .context(ErrorCode::Proc, || format!("{prefix} can't be looked at"))?;
                    if status.kind == FileKind::Symlink {
                        return Ok(true);
                    }
                }
                Err(call) if call.is(Errno::ENOENT) => return Ok(false),
                Err(call) => return Err(resolve::resolution_error(path, &call)),
            }
        }
        Ok(false)
    }

    /// Options that depend on where the filesystem is mounted and by whom.
    fn adapt_options(
        &mut self,
        fstype: &str,
        data: &mut Vec<(String, Option<String>)>,
        destination: &Resolved,
        step: u32,
    ) {
        if fstype == "tmpfs" && !data.iter().any(|(key, _)| key == "mode") {
            // A tmpfs looks like the directory it covers.
            let mode = if destination.created { 0o1777 } else { destination.status.mode };
            data.push(("mode".to_owned(), Some(format!("{mode:o}"))));
        }
        if fstype == "devpts"
            && let Some(user) = &self.setting.user
        {
            let unmapped = |value: &Option<String>| {
                let id = value.as_deref().and_then(|value| value.parse::<u32>().ok());
                id.is_none_or(|id| IdMap::to_host(&user.gids, id).is_none())
            };
            if data.iter().any(|(key, value)| key == "gid" && unmapped(value)) {
                data.retain(|(key, _)| key != "gid");
                self.warn(
                    "unmapped-gid",
                    step,
                    "the group of terminals is not mapped in the user namespace and is left out".to_owned(),
                );
            }
        }
    }

    /// Whether this process is in a user namespace, the container's own or one around all.
    fn is_in_user_namespace(&self) -> bool {
        self.setting.user.is_some() || self.kernel.in_initial_user_namespace().is_ok_and(|initial| !initial)
    }

    /// What is done where a user namespace may not make the filesystem.
    fn without_permission(
        &mut self,
        fstype: &str,
        mount: &Mount,
        error: Box<Error>,
    ) -> Result<(OwnedFd, Option<&'static str>)> {
        match fstype {
            "sysfs" => {
                let what = || "the host's /sys can't be bound in its place";
                let source =
                    self.kernel.open_host(&"/sys".into(), true, false).context(ErrorCode::Denied, what)?;
                let copy = self.kernel.clone_mount(source.as_fd(), true).context(ErrorCode::Denied, what)?;
                let flags = attr::RDONLY | mount.attributes.of_new_mount(false);
                apply_to_fallback(self.kernel, copy.as_fd(), &mount.attributes, flags, what())?;
                Ok((copy, Some("bind-fallback")))
            }
            "proc" if matches!(mount.kind, MountKind::Filesystem { bind_fallback: true, .. }) => {
                let copy = self.callers_proc(mount, &error)?;
                Ok((copy, Some("bind-fallback")))
            }
            "proc" if self.only_its_flags_are_refused(mount) => {
                let mut error = error;
                error.code = ErrorCode::Locked;
                Err(error.with_hint(Hint::LockedProc))
            }
            "proc" => {
                let mut error = error;
                error.code = ErrorCode::Denied;
                let own = self.plan.namespaces().is_none_or(|namespaces| namespaces.pid == Namespace::New);
                Err(error.with_hint(if own { Hint::MaskedProc } else { Hint::ProcOfOthers }))
            }
            "mqueue" => Err(error.with_hint(Hint::ForeignMqueue)),
            _ => Err(error),
        }
    }

    /// Whether a mount that was refused would be allowed with the usual flags.
    fn only_its_flags_are_refused(&self, mount: &Mount) -> bool {
        let MountKind::Filesystem { fstype, source, superblock, data, .. } = &mount.kind else {
            return false;
        };
        mount.attributes.of_new_mount(false) & !attr::PLAIN != 0
            && self.new_filesystem(fstype, source.as_ref(), superblock, data, attr::RELATIME).is_ok()
    }

    /// The caller's own proc, with what hides parts of it: for a user namespace that may not mount a new one. It shows the
    /// processes of the caller's pid namespace.
    fn callers_proc(&self, mount: &Mount, refused: &Error) -> Result<OwnedFd> {
        let what = || "the caller's /proc can't be bound in its place";
        if let MountKind::Filesystem { data, .. } = &mount.kind
            && !data.is_empty()
        {
            let mut error = refused.clone();
            error.code = ErrorCode::Denied;
            return Err(Box::new(error).with_hint(Hint::BoundProcOptions));
        }
        let source = self.kernel.open_host(&"/proc".into(), true, false).context(ErrorCode::Denied, what)?;
        let status = self.kernel.status(source.as_fd()).context(ErrorCode::Denied, what)?;
        if !procfs::is_proc_root(self.kernel, source.as_fd(), &status)? {
            return Err(Error::new(ErrorCode::Proc, "the caller's /proc is no proc"));
        }
        // What hides a part of it is locked to it: it can only be bound with all of them.
        let copy = self.kernel.clone_mount(source.as_fd(), true).context(ErrorCode::Denied, what)?;
        let flags = mount.attributes.of_new_mount(false);
        apply_to_fallback(self.kernel, copy.as_fd(), &mount.attributes, flags, what())?;
        Ok(copy)
    }

    /// Gives a new filesystem's mount its propagation, unless that comes when it is in place.
    pub(super) fn share_ahead(&self, mount: &Mount, fd: &OwnedFd, step: u32) -> Result<()> {
        if self.plan.sets_propagation_later(step) {
            return Ok(());
        }
        apply_propagation(self.kernel, fd.as_fd(), &mount.propagation)
    }

    /// Attaches a mount, whose id may be known, at its destination, after the last checks.
    #[expect(clippy::too_many_arguments, reason = "each says another thing about one mount")]
    pub(super) fn place(
        &mut self,
        mount: &Mount,
        (fd, id): (OwnedFd, Option<u64>),
        destination: &Resolved,
        directory: bool,
        mounted: Mounted,
        host: Option<HostPlace>,
        step: u32,
    ) -> Result<Done> {
        let root = self.root()?;
        let place = self.plain_path(&mount.destination)?;
        let new_root = mount.destination.is_top();
        if self.is_root(&destination.status) && !new_root {
            return Err(Error::new(
                ErrorCode::Mount,
                format!(
                    "{} leads to the root itself, which would stay uncovered below it",
                    mount.destination
                ),
            ));
        }
        check_types(&mount.destination, directory, &destination.status)?;
        let magic = self.filesystem_of(mount, destination)?;
        procfs::check_destination(
            self.kernel,
            root.as_fd(),
            &mount.destination,
            (&destination.status, magic),
            mounted,
            self.proc_is_mounted,
        )?;
        // Where a link leads, it may hide mounts whose names say nothing of that: then no name is taken for a mount's.
        let through_link = !destination.linkless
            && resolve::resolve(self.kernel, root.as_fd(), &mount.destination, Follow::None).is_err();
        self.kernel
            .attach(fd.as_fd(), destination.fd.as_fd())
            .context(ErrorCode::Mount, || "it can't be attached")?;
        let fd = Rc::new(fd);
        if self.plan.sets_propagation_later(step) {
            apply_propagation(self.kernel, fd.as_fd(), &mount.propagation)?;
        }
        let shows = host.as_ref().map(|host| host.identity);
        let id = self.ground.add_tree(&fd, id, host)?;
        let path = destination.path.clone().unwrap_or_else(|| place.clone());
        let attributes = mount.attributes.of_new_mount(false);
        if new_root {
            self.expectations.clear();
        }
        let mut one = Expectation::new(step, id, destination.status.mount, Some(path), attributes);
        one.parent = one.parent.filter(|_| !new_root);
        let expected = self.expectations.add(one);
        expected.shows = shows;
        expected.propagation = expected.propagation.changed(&mount.propagation);
        expected.keeps_places = matches!(
            &mount.kind,
            MountKind::Filesystem { fstype, .. } if ["tmpfs", "proc", "sysfs"].contains(&&**fstype)
        );
        expected.superblock_readonly = mount.attributes.readonly()
            && (matches!(mount.kind, MountKind::File { .. } | MountKind::Overlay(_))
                || self.plan.has_own_superblock(&mount.kind));
        if new_root {
            let status =
                self.kernel.status(fd.as_fd()).context(ErrorCode::Mount, || "it can't be looked at")?;
            (self.root_mount, self.root_inode) = (id, status.inode);
            self.root = Some(Rc::clone(&fd));
            self.proc_is_mounted = false;
        } else if place.as_bytes() == b"/proc" {
            self.proc_is_mounted = mounted != Mounted::Other;
        }
        let resolved = destination.path.clone().filter(|path| *path != place);
        if through_link && !new_root {
            self.placed.forget();
        } else {
            self.placed.add(place, &fd, id);
        }
        self.kept.insert(step, fd);
        Ok(Done { resolved, ..Done::default() })
    }

    /// The type of the filesystem that a mount is put on: the same for all that are put on one mount.
    fn filesystem_of(&mut self, mount: &Mount, destination: &Resolved) -> Result<u64> {
        let on = destination.status.mount;
        if let Some((_, magic)) = self.put_on.filter(|(id, _)| *id == on && self.kernel.ids_are_unique()) {
            return Ok(magic);
        }
        let magic = self.kernel.filesystem_magic(destination.fd.as_fd()).context(ErrorCode::Proc, || {
            format!("{}: the filesystem type can't be found out", mount.destination)
        })?;
        self.put_on = Some((on, magic));
        Ok(magic)
    }

    pub(super) fn readonly_mount(
        &mut self,
        step: u32,
        destination: &PathBytes,
        superblock: bool,
        recursive: bool,
    ) -> Result<Done> {
        let Some(fd) = self.kept.get(&step).cloned() else { return Ok(Done::skipped()) };
        let what = || "it can't be made read-only";
        let id = self.kernel.mount_id(fd.as_fd()).context(ErrorCode::Mount, what)?;
        // A remount may have said something else since, and a mount on / have hidden it.
        let Some(expected) = self.expectations.get(id) else { return Ok(Done::by("hidden")) };
        let wanted = expected.attributes & attr::RDONLY != 0;
        let superblock = superblock && expected.superblock_readonly;
        let recursive = recursive && !expected.below_writable;
        if !wanted && !superblock && !recursive {
            return Ok(Done::by("remounted"));
        }
        if self.plan.enters_by_chroot() {
            // What is mounted on a detached tree can't be changed any more, but covered by a copy. The steps come with the
            // innermost first, so that nothing is shown that is hidden.
            let change = AttributeChange { set: attr::RDONLY, ..AttributeChange::default() };
            let copy = self.kernel.clone_mount(fd.as_fd(), true).context(ErrorCode::Mount, what)?;
            self.kernel.set_attributes(copy.as_fd(), change).context(ErrorCode::Mount, what)?;
            self.kernel.attach(copy.as_fd(), fd.as_fd()).context(ErrorCode::Mount, what)?;
        } else {
            if recursive {
                self.make_all_readonly(&fd, destination)?;
            }
            if wanted != recursive {
                let flag = attr::RDONLY;
                let (set, clear) = if wanted { (flag, 0) } else { (0, flag) };
                let change = AttributeChange { set, clear, ..AttributeChange::default() };
                self.kernel.set_attributes(fd.as_fd(), change).context(ErrorCode::Mount, what)?;
            }
        }
        if superblock && self.may_change_filesystem(step, fd.as_fd())? {
            // Somebody may still have a file open for writing; that passes.
            let mut tries = 0;
            loop {
                let mut log = Vec::new();
                match self.kernel.make_superblock_readonly(fd.as_fd(), &mut log) {
                    Err(call) if call.is(Errno::EBUSY) && tries < 5 => {
                        tries += 1;
                        self.kernel.pause(100);
                    }
                    // An overlay of the host's user namespace: nobody in the container has rights over it.
                    Err(call) if call.is(Errno::EPERM) && self.is_overlay(step) => {
                        if let Some(expected) = self.expectations.get_mut(id) {
                            expected.superblock_readonly = false;
                        }
                        return Ok(Done::by("mount-only"));
                    }
                    other => {
                        other
                            .context(ErrorCode::Mount, || "its superblock can't be made read-only")
                            .map_err(|error| error.with_kernel_log(log))?;
                        break;
                    }
                }
            }
        }
        Ok(Done::default())
    }
}

impl Execution<'_> {
    fn is_overlay(&self, step: u32) -> bool {
        self.plan.mount(step).is_some_and(|mount| matches!(mount.kind, MountKind::Overlay(_)))
    }
}

/// Whether files of a filesystem can get their SELinux context by an option. Those of the kernel itself have theirs from
/// the policy, and mqueue takes it as an attribute.
fn takes_context(fstype: &str) -> bool {
    !["proc", "sysfs", "mqueue", "cgroup", "cgroup2"].contains(&fstype)
}

/// A file is mounted on a file and a directory on a directory; `move_mount` itself would only say `EINVAL`.
fn check_types(path: &PathBytes, directory: bool, status: &FileStatus) -> Result<()> {
    let (errno, what) = match (directory, status.kind == FileKind::Directory) {
        (true, false) => (libc::ENOTDIR, "a directory can't be mounted on something that is none"),
        (false, true) => (libc::EISDIR, "something that is no directory can't be mounted on a directory"),
        _ => return Ok(()),
    };
    let call = SysError { syscall: "move_mount", errno, arguments: format!("{path:?}") };
    Err(Error::from_call(ErrorCode::Mount, what, &call))
}
