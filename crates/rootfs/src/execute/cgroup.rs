//! The cgroup filesystems: version 2, or on older hosts a directory for each hierarchy of version 1.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::protect::READONLY;
use super::sources::apply_to_fallback;
use super::{Done, Execution, Expectation};
use crate::error::{CallContext, Error, ErrorCode, Result, SysError};
use crate::kernel::Follow;
use crate::mountinfo::Entry;
use crate::options::{Attributes, attr};
use crate::path::PathBytes;
use crate::procfs::Mounted;
use crate::resolve::Missing;
use crate::spec::{Mount, Namespace};

/// `CGROUP2_SUPER_MAGIC`; `statfs(2)`.
const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;
const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// What is said of the hierarchy of version 2 as a whole; `cgroups(7)`.
const OF_THE_HIERARCHY: [&str; 6] = [
    "nsdelegate",
    "favordynmods",
    "memory_localevents",
    "memory_recursiveprot",
    "memory_hugetlb_accounting",
    "pids_localevents",
];
/// What each hierarchy of version 1 has at least.
const PLAIN: u64 = attr::NOSUID | attr::NODEV | attr::NOEXEC;

/// Flags of a superblock, and options of a filesystem.
type Options<'m> = (&'m [String], &'m [(String, Option<String>)]);

/// A hierarchy of version 1 that the host has mounted.
struct Hierarchy<'m> {
    /// `cpu,cpuacct`, or `name=systemd`.
    controllers: String,
    /// The own cgroup in it.
    own: PathBytes,
    /// Where the host has it.
    mounted: &'m Entry,
}

impl<'m> Hierarchy<'m> {
    fn find((controllers, own): (String, PathBytes), mounts: &'m [Entry]) -> Option<Self> {
        let is_it = |entry: &&Entry| {
            entry.fstype == "cgroup"
                && controllers.split(',').all(|name| entry.super_options.iter().any(|option| option == name))
        };
        let usual = |entry: &&Entry| entry.destination.starts_with(&CGROUP_ROOT.into());
        let all = mounts.iter().filter(is_it);
        let mounted = all.clone().find(usual).or_else(|| all.clone().next())?;
        Some(Self { controllers, own, mounted })
    }

    /// The name of a hierarchy that has no controllers.
    fn name(&self) -> Option<&str> {
        self.controllers.strip_prefix("name=")
    }
}

/// Where the own cgroup is below the one that is mounted. `None` if it isn't, or if a cgroup namespace hides the way.
pub(super) fn below_mounted(own: &PathBytes, mounted: &PathBytes) -> Option<PathBytes> {
    let mut names = own.components();
    if !mounted.components().all(|name| names.next() == Some(name)) {
        return None;
    }
    let mut path = PathBytes::default();
    for name in names {
        if name == b".." {
            return None;
        }
        path = path.join(name);
    }
    Some(path)
}

impl Execution<'_> {
    pub(super) fn cgroup(
        &mut self,
        mount: &Mount,
        source: Option<&PathBytes>,
        options: Options<'_>,
        step: u32,
    ) -> Result<Done> {
        let version2 = match self.kernel.open_host(&CGROUP_ROOT.into(), true, true) {
            Ok(fd) => {
                self.kernel.filesystem_magic(fd.as_fd()).is_ok_and(|magic| magic == CGROUP2_SUPER_MAGIC)
            }
            Err(_) => true,
        };
        if version2 {
            return self.cgroup2(mount, source, options, step);
        }
        let mounts = self.mounted()?;
        if mounts.iter().any(|entry| entry.fstype == "cgroup") {
            self.warn_about_options(mount, options, "the hierarchies of version 1", step);
            self.cgroup1(mount, &mounts, step)
        } else {
            self.cgroup2(mount, source, options, step)
        }
    }

    /// What the host has mounted. To find that out takes longer than to mount.
    fn mounted(&self) -> Result<Vec<Entry>> {
        let what = || "the host's cgroup filesystems can't be found out";
        self.kernel.cgroup_mounts().context(ErrorCode::Mount, what)
    }

    fn own_cgroups(&self) -> Result<Vec<(String, PathBytes)>> {
        self.kernel.own_cgroups().context(ErrorCode::Mount, || "the own cgroups can't be found out")
    }

    /// Whether the cgroup namespace is not the caller's.
    fn has_cgroup_namespace(&self) -> bool {
        self.plan.namespaces().is_some_and(|namespaces| namespaces.cgroup != Namespace::Inherit)
    }

    /// Says which options could not be given to anything.
    fn warn_about_options(&mut self, mount: &Mount, (superblock, data): Options<'_>, what: &str, step: u32) {
        for word in superblock.iter().chain(data.iter().map(|(key, _)| key)) {
            let message = format!("\"{word}\" has no effect on {what}, mounted on {}", mount.destination);
            self.warn("cgroup-option", step, message);
        }
    }

    /// In the first cgroup namespace a mount says anew what the whole hierarchy is like, for the host too: it has to say what
    /// the host has said.
    fn of_the_host(&self, asked: &[(String, Option<String>)]) -> Result<Vec<(String, Option<String>)>> {
        if self.plan.namespaces().is_some_and(|namespaces| namespaces.cgroup == Namespace::New) {
            return Ok(asked.to_vec());
        }
        let mounts = match self.mounted() {
            Err(error) if asked.iter().any(|(key, _)| OF_THE_HIERARCHY.contains(&&**key)) => {
                return Err(error);
            }
            mounts => mounts.unwrap_or_default(),
        };
        let host = mounts.iter().find(|entry| entry.fstype == "cgroup2");
        let has =
            |word: &str| host.is_some_and(|host| host.super_options.iter().any(|option| option == word));
        let changes = |key: &str| OF_THE_HIERARCHY.contains(&key) && host.is_some() && !has(key);
        if let Some((key, _)) = asked.iter().find(|(key, _)| changes(key)) {
            return Err(Error::new(
                ErrorCode::Spec,
                format!("the option \"{key}\" would change the cgroups of the host, and not the mount alone"),
            ));
        }
        let given = |key: &str| asked.iter().any(|(other, _)| other == key);
        let kept = OF_THE_HIERARCHY.into_iter().filter(|key| has(key) && !given(key));
        Ok(asked.iter().cloned().chain(kept.map(|key| (key.to_owned(), None))).collect())
    }

    fn flags(mount: &Mount) -> u64 {
        mount.attributes.of_new_mount(false)
    }

    fn cgroup2(
        &mut self,
        mount: &Mount,
        source: Option<&PathBytes>,
        options: Options<'_>,
        step: u32,
    ) -> Result<Done> {
        let destination = self.destination(&mount.destination, Missing::Directory)?;
        let usual = PathBytes::from("cgroup");
        let source = Some(source.unwrap_or(&usual));
        let data = self.of_the_host(options.1)?;
        let made = self.new_filesystem("cgroup2", source, options.0, &data, Self::flags(mount));
        let (fd, strategy) = match made {
            Ok(fd) => (fd, None),
            // Only where a user namespace may not have its own: everything else is a failure.
            Err(error) if [Some(libc::EPERM), Some(libc::EBUSY)].contains(&error.errno) => {
                self.warn_about_options(mount, options, "what is there in the place of a cgroup2", step);
                match self.bind_cgroup2(mount)? {
                    Some(fd) => (fd, Some("bind-fallback")),
                    None => (self.empty_cgroup(mount)?, Some("masked")),
                }
            }
            Err(error) => return Err(error),
        };
        self.share_ahead(mount, &fd, step)?;
        let mut done = self.place(mount, (fd, None), &destination, true, Mounted::Other, None, step)?;
        done.strategy = strategy;
        if let Some(expected) = self.expectations.last_mut() {
            match strategy {
                Some("masked") => expected.change(&READONLY, &[]),
                Some(_) => expected.is_fallback(&mount.attributes, expected.attributes),
                None => {}
            }
        }
        Ok(done)
    }

    /// The host's cgroup tree, or with a cgroup namespace the own cgroup's part of it, with the flags kept below too. `None` if
    /// there is none, or if it isn't known which part that is: the whole would show what the namespace is to hide.
    fn bind_cgroup2(&self, mount: &Mount) -> Result<Option<OwnedFd>> {
        let mut path = PathBytes::from(CGROUP_ROOT);
        if self.has_cgroup_namespace() {
            let own = self.own_cgroups()?.into_iter().find(|(controllers, _)| controllers.is_empty());
            let mounts = self.mounted()?;
            let mounted = mounts.iter().rfind(|entry| entry.fstype == "cgroup2" && entry.destination == path);
            let (Some((_, own)), Some(mounted)) = (own, mounted) else { return Ok(None) };
            let Some(below) = below_mounted(&own, &mounted.root) else { return Ok(None) };
            path = path.join(below);
        }
        match self.kernel.open_host(&path, true, false) {
            Ok(source) => self.copy_cgroup(source.as_fd(), mount, Self::flags(mount)).map(Some),
            Err(call) if call.is(Errno::ENOENT) => Ok(None),
            Err(call) => Err(Error::from_call(ErrorCode::Mount, format!("{path} can't be bound"), &call)),
        }
    }

    fn copy_cgroup(&self, source: BorrowedFd<'_>, mount: &Mount, flags: u64) -> Result<OwnedFd> {
        let what = "the host's cgroup filesystem can't be bound";
        let copy = self.kernel.clone_mount(source, true).context(ErrorCode::Mount, || what)?;
        apply_to_fallback(self.kernel, copy.as_fd(), &mount.attributes, flags, what)?;
        Ok(copy)
    }

    fn empty_cgroup(&self, mount: &Mount) -> Result<OwnedFd> {
        let flags = Self::flags(mount) | attr::RDONLY;
        self.new_filesystem("tmpfs", Some(&"cgroup".into()), &["ro".to_owned()], &[], flags)
    }

    fn cgroup1(&mut self, mount: &Mount, mounts: &[Entry], step: u32) -> Result<Done> {
        let destination = self.destination(&mount.destination, Missing::Directory)?;
        let mode = [("mode".to_owned(), Some("755".to_owned()))];
        let tmpfs = self.new_filesystem("tmpfs", Some(&"tmpfs".into()), &[], &mode, PLAIN)?;
        // The directory itself is never read-only: links and directories are made in it.
        let mut open = mount.clone();
        open.attributes = Attributes { set: PLAIN, ..Attributes::default() };
        let top = rustix::io::fcntl_dupfd_cloexec(&tmpfs, 0)
            .map_err(|errno| SysError::new("fcntl", errno, "F_DUPFD_CLOEXEC"))
            .context(ErrorCode::Mount, || "a descriptor can't be duplicated")?;
        self.share_ahead(mount, &tmpfs, step)?;
        self.place(&open, (tmpfs, None), &destination, true, Mounted::Other, None, step)?;
        let parent = self.expectations.last_mut().map_or(0, |expected| expected.mount);
        let cgroups = self.own_cgroups()?.into_iter().filter(|(controllers, _)| !controllers.is_empty());
        // What the host has mounted nowhere is not mounted here.
        for hierarchy in cgroups.filter_map(|cgroup| Hierarchy::find(cgroup, mounts)) {
            self.hierarchy(mount, (top.as_fd(), parent), &hierarchy, step)?;
        }
        Ok(Done::by("version-1"))
    }

    /// One hierarchy of version 1, with links for controllers that share it.
    fn hierarchy(
        &mut self,
        mount: &Mount,
        (top, parent): (BorrowedFd<'_>, u64),
        hierarchy: &Hierarchy<'_>,
        step: u32,
    ) -> Result<()> {
        let Hierarchy { controllers, own, mounted } = hierarchy;
        let what = || format!("the cgroup hierarchy {controllers} can't be mounted");
        let directory = PathBytes::from(hierarchy.name().unwrap_or(controllers));
        // As it is called on the host.
        let directory = mounted.destination.components().next_back().map_or(directory, PathBytes::new);
        self.kernel.make_directory(top, &directory, 0o755).context(ErrorCode::Mount, what)?;
        let place =
            self.kernel.resolve(top, &directory, Follow::AllButLast).context(ErrorCode::Mount, what)?;
        let flags = Self::flags(mount) | PLAIN;
        let is_bound = !self.has_cgroup_namespace();
        let fd = if is_bound {
            let Some(below) = below_mounted(own, &mounted.root) else {
                return Err(Error::new(
                    ErrorCode::Mount,
                    format!(
                        "{}: the own cgroup, {own}, is not below {}, which is mounted there",
                        what(),
                        mounted.root
                    ),
                ));
            };
            let source = mounted.destination.join(below);
            let source = self.kernel.open_host(&source, true, false).context(ErrorCode::Mount, what)?;
            self.copy_cgroup(source.as_fd(), mount, flags)?
        } else {
            let data: Vec<(String, Option<String>)> = match hierarchy.name() {
                Some(name) => {
                    vec![("none".to_owned(), None), ("name".to_owned(), Some(name.to_owned()))]
                }
                None => controllers.split(',').map(|controller| (controller.to_owned(), None)).collect(),
            };
            let source = PathBytes::from(hierarchy.name().unwrap_or("cgroup"));
            self.new_filesystem("cgroup", Some(&source), &[], &data, flags)?
        };
        self.kernel.attach(fd.as_fd(), place.as_fd()).context(ErrorCode::Mount, what)?;
        let id = self.kernel.mount_id(fd.as_fd()).context(ErrorCode::Mount, what)?;
        let path = mount.destination.join(&directory);
        let expected = self.expectations.add(Expectation::new(step, id, parent, Some(path), flags));
        if is_bound {
            expected.is_fallback(&mount.attributes, flags);
        }
        if hierarchy.name().is_none() {
            for controller in controllers.split(',').map(PathBytes::from).filter(|name| *name != directory) {
                match self.kernel.make_symlink(&directory, top, &controller) {
                    Err(call) if call.is(Errno::EEXIST) => {}
                    other => other.context(ErrorCode::Mount, what)?,
                }
            }
        }
        Ok(())
    }
}
