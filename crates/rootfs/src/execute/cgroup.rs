//! The cgroup filesystems: version 2, or on older hosts a directory for each hierarchy of version 1.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::{Done, Execution, Expectation};
use crate::error::{CallContext, Error, ErrorCode, Result, SysError};
use crate::kernel::{AttributeChange, Follow};
use crate::options::{Propagation, attr};
use crate::path::PathBytes;
use crate::procfs::Mounted;
use crate::resolve::Missing;
use crate::spec::Mount;

/// `CGROUP2_SUPER_MAGIC`; `statfs(2)`.
const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;
const CGROUP_ROOT: &str = "/sys/fs/cgroup";

impl Execution<'_> {
    pub(super) fn cgroup(&mut self, mount: &Mount, step: u32) -> Result<Done> {
        let version2 = match self.kernel.open_host(&CGROUP_ROOT.into(), true, true) {
            Ok(fd) => {
                self.kernel.filesystem_magic(fd.as_fd()).is_ok_and(|magic| magic == CGROUP2_SUPER_MAGIC)
            }
            Err(_) => true,
        };
        if version2 { self.cgroup2(mount, step) } else { self.cgroup1(mount, step) }
    }

    fn flags(mount: &Mount) -> u64 {
        let attributes = &mount.attributes;
        attributes.set
            | attributes.set_recursive
            | attributes.atime_recursive.or(attributes.atime).unwrap_or(attr::RELATIME)
    }

    fn cgroup2(&mut self, mount: &Mount, step: u32) -> Result<Done> {
        let destination = self.destination(&mount.destination, Missing::Directory)?;
        let made = self.new_filesystem("cgroup2", Some(&"cgroup".into()), &[], &[], Self::flags(mount));
        let (fd, strategy) = match made {
            Ok(fd) => (fd, None),
            // Only where a user namespace may not have its own: everything else is a failure.
            Err(error) if [Some(libc::EPERM), Some(libc::EBUSY)].contains(&error.errno) => {
                match self.bind_cgroup2(mount)? {
                    Some(fd) => (fd, Some("bind-fallback")),
                    None => (self.empty_cgroup(mount)?, Some("masked")),
                }
            }
            Err(error) => return Err(error),
        };
        let mut done = self.place(mount, fd, &destination, true, Mounted::Other, None, step)?;
        done.strategy = strategy;
        Ok(done)
    }

    /// The host's cgroup tree, or with a cgroup namespace the own cgroup's part of it, with the flags kept below too.
    fn bind_cgroup2(&self, mount: &Mount) -> Result<Option<OwnedFd>> {
        let mut path = PathBytes::from(CGROUP_ROOT);
        if self.setting.cgroup_namespace {
            let own = self
                .kernel
                .own_cgroups()
                .context(ErrorCode::Mount, || "the own cgroup can't be found out")?
                .into_iter()
                .find(|(controllers, _)| controllers.is_empty());
            if let Some((_, own)) = own {
                let own = own.normalized();
                path = path.join(own.as_bytes().strip_prefix(b"/").unwrap_or_default());
            }
        }
        match self.kernel.open_host(&path, true, false) {
            Ok(source) => self.copy_cgroup(source.as_fd(), mount).map(Some),
            Err(call) if call.is(Errno::ENOENT) => Ok(None),
            Err(call) => Err(Error::from_call(ErrorCode::Mount, format!("{path} can't be bound"), &call)),
        }
    }

    fn copy_cgroup(&self, source: BorrowedFd<'_>, mount: &Mount) -> Result<OwnedFd> {
        let what = || "the host's cgroup filesystem can't be bound";
        let copy = self.kernel.clone_mount(source, true).context(ErrorCode::Mount, what)?;
        let change = AttributeChange {
            set: Self::flags(mount) & attr::PLAIN,
            clear: 0,
            propagation: Some(Propagation::RPRIVATE),
            recursive: true,
        };
        self.kernel.set_attributes(copy.as_fd(), change).context(ErrorCode::Mount, what)?;
        Ok(copy)
    }

    fn empty_cgroup(&self, mount: &Mount) -> Result<OwnedFd> {
        let flags = Self::flags(mount) | attr::RDONLY;
        self.new_filesystem("tmpfs", Some(&"cgroup".into()), &["ro".to_owned()], &[], flags)
    }

    fn cgroup1(&mut self, mount: &Mount, step: u32) -> Result<Done> {
        let destination = self.destination(&mount.destination, Missing::Directory)?;
        let plain = attr::NOSUID | attr::NODEV | attr::NOEXEC;
        let mode = [("mode".to_owned(), Some("755".to_owned()))];
        let tmpfs = self.new_filesystem("tmpfs", Some(&"tmpfs".into()), &[], &mode, plain)?;
        // The directory itself is never read-only: links and directories are made in it.
        let mut open = mount.clone();
        open.attributes.set = plain;
        open.attributes.set_recursive = 0;
        open.attributes.atime = None;
        let top = rustix::io::fcntl_dupfd_cloexec(&tmpfs, 0)
            .map_err(|errno| SysError::new("fcntl", errno, "F_DUPFD_CLOEXEC"))
            .context(ErrorCode::Mount, || "a descriptor can't be duplicated")?;
        self.place(&open, tmpfs, &destination, true, Mounted::Other, None, step)?;
        let cgroups =
            self.kernel.own_cgroups().context(ErrorCode::Mount, || "the own cgroups can't be found out")?;
        for (controllers, path) in cgroups.iter().filter(|(controllers, _)| !controllers.is_empty()) {
            self.hierarchy(mount, top.as_fd(), controllers, path, step)?;
        }
        Ok(Done::by("version-1"))
    }

    /// One hierarchy of version 1, with links for controllers that share it.
    fn hierarchy(
        &mut self,
        mount: &Mount,
        top: BorrowedFd<'_>,
        controllers: &str,
        path: &PathBytes,
        step: u32,
    ) -> Result<()> {
        let named = controllers.strip_prefix("name=");
        let directory = PathBytes::from(named.unwrap_or(controllers));
        let what = || format!("the cgroup hierarchy {controllers} can't be mounted");
        self.kernel.make_directory(top, &directory, 0o755).context(ErrorCode::Mount, what)?;
        let place =
            self.kernel.resolve(top, &directory, Follow::AllButLast).context(ErrorCode::Mount, what)?;
        let flags = Self::flags(mount) | attr::NOSUID | attr::NODEV | attr::NOEXEC;
        let fd = if self.setting.cgroup_namespace {
            let data: Vec<(String, Option<String>)> = match named {
                Some(name) => {
                    vec![("none".to_owned(), None), ("name".to_owned(), Some(name.to_owned()))]
                }
                None => controllers.split(',').map(|controller| (controller.to_owned(), None)).collect(),
            };
            let source = PathBytes::from(named.unwrap_or("cgroup"));
            self.new_filesystem("cgroup", Some(&source), &[], &data, flags)?
        } else {
            let own = PathBytes::from(CGROUP_ROOT)
                .join(&directory)
                .join(path.as_bytes().strip_prefix(b"/").unwrap_or(path.as_bytes()));
            let source = self.kernel.open_host(&own, true, false).context(ErrorCode::Mount, what)?;
            self.copy_cgroup(source.as_fd(), mount)?
        };
        self.kernel.attach(fd.as_fd(), place.as_fd()).context(ErrorCode::Mount, what)?;
        let id = self.kernel.mount_id(fd.as_fd()).context(ErrorCode::Mount, what)?;
        self.expectations.push(Expectation { step, mount: id, set: flags & attr::PLAIN, clear: 0 });
        if named.is_none() && controllers.contains(',') {
            for controller in controllers.split(',') {
                match self.kernel.make_symlink(&directory, top, &controller.into()) {
                    Err(call) if call.is(Errno::EEXIST) => {}
                    other => other.context(ErrorCode::Mount, what)?,
                }
            }
        }
        Ok(())
    }
}
