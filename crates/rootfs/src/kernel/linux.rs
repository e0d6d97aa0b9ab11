//! The real kernel.

use std::cell::{Cell, OnceCell};
use std::collections::BTreeSet;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use pathrs::Root;
use pathrs::error::ErrorKind;
use pathrs::procfs::{ProcfsBase, ProcfsHandle, ProcfsHandleBuilder};
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};
use rustix::path::Arg;

use super::{
    AttributeChange, FileKind, FileStatus, Follow, HostCopy, Kernel, ListedMount, MountState, NodeKind,
    mount_table,
};
use crate::error::{Result, SysError, SysResult};
use crate::mountinfo;
use crate::options::{Propagation, PropagationType, attr};
use crate::path::PathBytes;
use crate::spec::IdMap;

/// The kernel this process runs on.
#[derive(Default)]
pub struct Linux {
    procfs: OnceCell<ProcfsHandle>,
    /// The directory of a process in it, and which that is, where pathrs could not find it again: without `openat2` it needs
    /// /proc itself, which a root that was entered may not have.
    own_directory: OnceCell<(u32, OwnedFd)>,
    /// The directory /proc/sys, which is only opened for writing below it.
    sysctls: OnceCell<OwnedFd>,
    unique_ids: Cell<Option<bool>>,
    /// Whether `open_tree_attr` is known to be missing.
    no_open_tree_attr: Cell<bool>,
    openat2: Cell<Option<bool>>,
    /// How the layers of an overlay were given last time.
    pub(super) layers: Cell<super::overlay::Way>,
    /// The next filesystem's layers are names that are looked up when it is made.
    pub(super) late_names: Cell<bool>,
}

const STATX_MNT_ID_UNIQUE: u32 = 0x4000;
/// The number that `open_tree_attr(2)` has on every architecture.
const SYS_OPEN_TREE_ATTR: libc::c_long = 467;
const OPEN_TREE_CLONE: u32 = 1;
const AT_RECURSIVE: u32 = 0x8000;
const AT_EMPTY_PATH: u32 = 0x1000;

#[repr(C)]
#[derive(Default)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

pub(super) fn failed(
    syscall: &'static str,
    arguments: impl FnOnce() -> String,
) -> impl FnOnce(Errno) -> SysError {
    move |errno| SysError { syscall, errno: errno.raw_os_error(), arguments: arguments() }
}

pub(super) fn last_error(syscall: &'static str, arguments: impl FnOnce() -> String) -> SysError {
    let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    SysError { syscall, errno, arguments: arguments() }
}

pub(super) fn number(fd: BorrowedFd<'_>) -> String {
    fd.as_raw_fd().to_string()
}

/// Mount attributes as strace prints them.
fn attribute_names(bits: u64) -> String {
    const NAMES: [(u64, &str); 9] = [
        (attr::RDONLY, "RDONLY"),
        (attr::NOSUID, "NOSUID"),
        (attr::NODEV, "NODEV"),
        (attr::NOEXEC, "NOEXEC"),
        (attr::NOATIME, "NOATIME"),
        (attr::STRICTATIME, "STRICTATIME"),
        (attr::NODIRATIME, "NODIRATIME"),
        (attr::IDMAP, "IDMAP"),
        (attr::NOSYMFOLLOW, "NOSYMFOLLOW"),
    ];
    let mut left = bits;
    let mut names = Vec::new();
    for (bit, name) in NAMES {
        if bits & bit != 0 {
            left &= !bit;
            names.push(format!("MOUNT_ATTR_{name}"));
        }
    }
    if left != 0 || names.is_empty() {
        names.push(format!("{left:#x}"));
    }
    names.join("|")
}

/// Flags of `open(2)` as strace prints them.
pub(super) fn open_flags(flags: OFlags) -> String {
    let names = flags.iter_names().map(|(name, _)| match name {
        "CREATE" => "O_CREAT".to_owned(),
        name => format!("O_{name}"),
    });
    let access =
        (!flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::PATH)).then(|| "O_RDONLY".to_owned());
    access.into_iter().chain(names).collect::<Vec<_>>().join("|")
}

/// The last argument of `openat2(2)`.
pub(super) fn open_how(flags: OFlags, resolve: ResolveFlags) -> String {
    let resolve: Vec<_> = resolve.iter_names().map(|(name, _)| format!("RESOLVE_{name}")).collect();
    format!("{{flags={}, resolve={}}}", open_flags(flags), resolve.join("|"))
}

pub(super) fn from_pathrs(error: &pathrs::error::Error, path: &PathBytes) -> SysError {
    let errno = match error.kind() {
        ErrorKind::OsError(Some(errno)) => errno,
        ErrorKind::NotImplemented | ErrorKind::NotSupported => libc::ENOSYS,
        ErrorKind::InvalidArgument => libc::EINVAL,
        // What is left is a path that was moved while it was walked, or a tampered /proc.
        _ => libc::EXDEV,
    };
    SysError { syscall: "openat2", errno, arguments: format!("{path:?}, RESOLVE_IN_ROOT: {error}") }
}

fn propagation_flag(kind: PropagationType) -> MountPropagationFlags {
    match kind {
        PropagationType::Private => MountPropagationFlags::PRIVATE,
        PropagationType::Shared => MountPropagationFlags::SHARED,
        PropagationType::Slave => MountPropagationFlags::DOWNSTREAM,
        PropagationType::Unbindable => MountPropagationFlags::UNBINDABLE,
    }
}

/// Refuses what `pathrs` panics at: whatever procfs it has of its own, it looks for this process below /proc too.
#[expect(
    clippy::disallowed_methods,
    reason = "only whether the caller's /proc is one is asked, and nothing is opened"
)]
fn check_procfs() -> SysResult<()> {
    match rustix::fs::statfs(c"/proc") {
        Ok(status) if status.f_type.cast_unsigned() == crate::procfs::PROC_SUPER_MAGIC => Ok(()),
        Ok(_) => Err(SysError {
            syscall: "statfs",
            errno: libc::EXDEV,
            arguments: "\"/proc\", which is no procfs".into(),
        }),
        Err(errno) => Err(failed("statfs", || "\"/proc\"".into())(errno)),
    }
}

/// Refuses what `pathrs` panics at: a call that fails for want of descriptors is described by opening /proc, which fails too.
/// Eight at once are more than it needs, without `openat2` too. Whatever else keeps them from being opened is none of this.
#[expect(
    clippy::disallowed_methods,
    reason = "only whether anything can be opened is asked, by a call that nobody does without"
)]
fn check_descriptors() -> SysResult<()> {
    let held = [(); 8].map(|()| rustix::fs::open(c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()));
    match held.into_iter().find_map(Result::err) {
        Some(errno @ (rustix::io::Errno::MFILE | rustix::io::Errno::NFILE)) => {
            Err(failed("openat", || "\"/\", O_PATH|O_CLOEXEC".into())(errno))
        }
        _ => Ok(()),
    }
}

impl Linux {
    /// The same, resolving as it does where the kernel has no `openat2(2)`.
    #[doc(hidden)]
    pub fn without_openat2() -> Self {
        Self { openat2: Cell::new(Some(false)), ..Self::default() }
    }

    /// The procfs handle of `pathrs`: a proc of our own where the kernel allows it, checked for tampering where not.
    /// It must be made while the host's /proc can still be reached.
    pub fn procfs(&self) -> SysResult<&ProcfsHandle> {
        check_descriptors()?;
        if let Some(handle) = self.procfs.get() {
            return Ok(handle);
        }
        check_procfs()?;
        let handle = ProcfsHandle::new().map_err(|error| from_pathrs(&error, &"/proc".into()))?;
        if !has_openat2() {
            let flags = pathrs::flags::OpenFlags::O_PATH
                | pathrs::flags::OpenFlags::O_DIRECTORY
                | pathrs::flags::OpenFlags::O_CLOEXEC;
            let own = handle
                .open(ProcfsBase::ProcSelf, ".", flags)
                .map_err(|error| from_pathrs(&error, &"/proc/self".into()))?;
            let _ = self.own_directory.set((std::process::id(), own.into()));
        }
        Ok(self.procfs.get_or_init(|| handle))
    }

    /// The numbers of the descriptors that belong to it.
    pub fn procfs_descriptors(&self) -> Vec<i32> {
        let handle = self.procfs.get().map(|handle| handle.as_fd().as_raw_fd());
        handle.into_iter().chain(self.own_directory.get().map(|(_, own)| own.as_raw_fd())).collect()
    }

    /// Opens a file of this process below /proc.
    pub fn open_proc_self(&self, name: &str, flags: OFlags) -> SysResult<OwnedFd> {
        let procfs = self.procfs()?;
        if let Some((pid, directory)) = self.own_directory.get()
            && *pid == std::process::id()
        {
            let describe = || format!("/proc/self/{name}, {}", open_flags(flags));
            let file = rustix::fs::openat(directory, name, flags | OFlags::NOFOLLOW, Mode::empty())
                .map_err(failed("openat", describe))?;
            let mount = |file: BorrowedFd<'_>| {
                let stat = statx(file, StatxFlags::MNT_ID.bits()).ok()?;
                (stat.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(stat.stx_mnt_id)
            };
            // Nothing may be mounted on the way.
            if self.filesystem_magic(file.as_fd())? != crate::procfs::PROC_SUPER_MAGIC
                || mount(file.as_fd()) != mount(directory.as_fd())
            {
                return Err(SysError { syscall: "openat", errno: libc::EXDEV, arguments: describe() });
            }
            return Ok(file);
        }
        let flags = pathrs::flags::OpenFlags::from_bits_retain(u64::from(flags.bits()));
        procfs
            .open(ProcfsBase::ProcSelf, name, flags)
            .map(OwnedFd::from)
            .map_err(|error| from_pathrs(&error, &PathBytes::from(format!("/proc/self/{name}"))))
    }

    /// The list of this process's children, which stays true; `CONFIG_PROC_CHILDREN`.
    pub fn open_own_children(&self) -> SysResult<OwnedFd> {
        let flags = pathrs::flags::OpenFlags::O_RDONLY | pathrs::flags::OpenFlags::O_CLOEXEC;
        self.procfs()?
            .open(ProcfsBase::ProcThreadSelf, "children", flags)
            .map(OwnedFd::from)
            .map_err(|error| from_pathrs(&error, &"/proc/thread-self/children".into()))
    }

    /// A namespace of this process, by its name in /proc/self/ns.
    pub fn own_namespace(&self, name: &str) -> SysResult<OwnedFd> {
        let flags = pathrs::flags::OpenFlags::O_PATH | pathrs::flags::OpenFlags::O_CLOEXEC;
        self.procfs()?
            .open_follow(ProcfsBase::ProcSelf, format!("ns/{name}"), flags)
            .map(OwnedFd::from)
            .map_err(|error| from_pathrs(&error, &PathBytes::from(format!("/proc/self/ns/{name}"))))
    }

    /// Forgets the procfs handle: nothing of the host's may be held when a command runs.
    pub fn drop_procfs(&mut self) {
        self.procfs.take();
        self.own_directory.take();
        self.sysctls.take();
    }

    /// Joins the mount namespace of another process; with its pidfd since Linux 5.8, else by /proc.
    pub fn join_mount_namespace(&self, pidfd: BorrowedFd<'_>, pid: i32) -> SysResult<()> {
        match super::process::set_namespace(pidfd, libc::CLONE_NEWNS) {
            Err(error) if error.errno == libc::EINVAL => {}
            other => return other,
        }
        let flags = pathrs::flags::OpenFlags::O_RDONLY | pathrs::flags::OpenFlags::O_CLOEXEC;
        let base = ProcfsBase::ProcPid(u32::try_from(pid).unwrap_or(0));
        let namespace = self
            .procfs()?
            .open_follow(base, "ns/mnt", flags)
            .map_err(|error| from_pathrs(&error, &PathBytes::from(format!("/proc/{pid}/ns/mnt"))))?;
        // The number is that process's only as long as it hasn't been waited for.
        if super::process::has_ended(pidfd)? {
            return Err(SysError { syscall: "setns", errno: libc::ESRCH, arguments: pid.to_string() });
        }
        super::process::set_namespace(namespace.as_fd(), libc::CLONE_NEWNS)
    }

    /// Gets ready what [`Kernel::mount_states`] needs after the root has been entered.
    pub fn prepare_verification(&self) -> SysResult<()> {
        let slash = self.open_host(&"/".into(), true, false)?;
        self.mount_id(slash.as_fd())?;
        if self.unique_ids.get() != Some(true) {
            self.procfs()?;
        }
        Ok(())
    }

    /// Reads a file of a process below /proc.
    pub fn read_proc(&self, pid: i32, name: &str) -> SysResult<Vec<u8>> {
        let flags = pathrs::flags::OpenFlags::O_RDONLY | pathrs::flags::OpenFlags::O_CLOEXEC;
        let path = PathBytes::from(format!("/proc/{pid}/{name}"));
        let base = ProcfsBase::ProcPid(u32::try_from(pid).unwrap_or(0));
        let file = self.procfs()?.open(base, name, flags).map_err(|error| from_pathrs(&error, &path))?;
        read_to_end(file.as_fd())
    }

    /// Opens a file of a process below /proc, to read and write it.
    pub fn open_proc(&self, pid: i32, name: &str) -> SysResult<OwnedFd> {
        let flags = pathrs::flags::OpenFlags::O_RDWR | pathrs::flags::OpenFlags::O_CLOEXEC;
        let base = ProcfsBase::ProcPid(u32::try_from(pid).unwrap_or(0));
        self.procfs()?
            .open(base, name, flags)
            .map(OwnedFd::from)
            .map_err(|error| from_pathrs(&error, &PathBytes::from(format!("/proc/{pid}/{name}"))))
    }

    /// Writes a file of a process below /proc, in one call as id maps demand.
    pub fn write_proc(&self, pid: i32, name: &str, content: &[u8]) -> SysResult<()> {
        let flags = pathrs::flags::OpenFlags::O_WRONLY | pathrs::flags::OpenFlags::O_CLOEXEC;
        let path = PathBytes::from(format!("/proc/{pid}/{name}"));
        let base = ProcfsBase::ProcPid(u32::try_from(pid).unwrap_or(0));
        let file = self.procfs()?.open(base, name, flags).map_err(|error| from_pathrs(&error, &path))?;
        rustix::io::write(&file, content)
            .map(drop)
            .map_err(failed("write", || format!("{path:?}, {:?}", String::from_utf8_lossy(content))))
    }

    /// The id of the mount that a descriptor is on, as mountinfo has it: it is used again after the mount is gone.
    pub(super) fn reusable_mount_id(&self, file: BorrowedFd<'_>) -> SysResult<u64> {
        let stat = statx(file, StatxFlags::MNT_ID.bits())?;
        self.mount_of(file, &stat)
    }

    /// What `statx(2)` said about the mount, or before Linux 5.8, which has it say nothing, what `proc_pid_fdinfo(5)` says.
    fn mount_of(&self, file: BorrowedFd<'_>, stat: &rustix::fs::Statx) -> SysResult<u64> {
        if stat.stx_mask & (StatxFlags::MNT_ID.bits() | STATX_MNT_ID_UNIQUE) != 0 {
            return Ok(stat.stx_mnt_id);
        }
        let info =
            self.open_proc_self(&format!("fdinfo/{}", file.as_raw_fd()), OFlags::RDONLY | OFlags::CLOEXEC)?;
        let text = read_to_end(info.as_fd())?;
        String::from_utf8_lossy(&text)
            .lines()
            .find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
            .ok_or_else(|| SysError {
                syscall: "read",
                errno: libc::ENODATA,
                arguments: "mnt_id of fdinfo".into(),
            })
    }

    /// What a path leads to, or with an empty one the descriptor itself.
    fn status_at(&self, at: BorrowedFd<'_>, path: &PathBytes, flags: AtFlags) -> SysResult<FileStatus> {
        let id =
            if self.unique_ids.get() == Some(true) { STATX_MNT_ID_UNIQUE } else { StatxFlags::MNT_ID.bits() };
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::from_bits_retain(id);
        let stat = rustix::fs::statx(at, path.as_path(), flags, wanted)
            .map_err(failed("statx", || format!("{}, {path:?}", number(at))))?;
        let mode = u32::from(stat.stx_mode);
        let kind = match FileType::from_raw_mode(mode) {
            FileType::Directory => FileKind::Directory,
            FileType::Symlink => FileKind::Symlink,
            FileType::CharacterDevice => FileKind::CharacterDevice,
            FileType::BlockDevice => FileKind::BlockDevice,
            FileType::Fifo => FileKind::Fifo,
            FileType::Socket => FileKind::Socket,
            FileType::RegularFile | FileType::Unknown => FileKind::Regular,
        };
        Ok(FileStatus {
            kind,
            mode: mode & 0o7777,
            owner: (stat.stx_uid, stat.stx_gid),
            device: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            mount: self.mount_of(at, &stat)?,
            rdev: (stat.stx_rdev_major, stat.stx_rdev_minor),
        })
    }

    /// The unique id of the mount that a descriptor is on, where the kernel has such.
    pub(super) fn unique_mount_id(file: BorrowedFd<'_>) -> SysResult<Option<u64>> {
        let stat = statx(file, STATX_MNT_ID_UNIQUE)?;
        Ok((stat.stx_mask & STATX_MNT_ID_UNIQUE != 0).then_some(stat.stx_mnt_id))
    }

    /// The whole table, as text.
    fn mount_table_as_text(&self) -> SysResult<Vec<ListedMount>> {
        let fd = self.open_proc_self("mountinfo", OFlags::RDONLY | OFlags::CLOEXEC)?;
        mount_table::table_from_mountinfo(fd.as_fd())
    }
}

/// Everything a descriptor has to say, from where it stands.
pub fn read_to_end(fd: BorrowedFd<'_>) -> SysResult<Vec<u8>> {
    let mut text = Vec::new();
    loop {
        // The files of /proc tell a page at a time.
        text.reserve(4096);
        match rustix::io::read(fd, rustix::buffer::spare_capacity(&mut text)) {
            Ok(0) => return Ok(text),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(failed("read", || number(fd))(errno)),
        }
    }
}

impl Kernel for Linux {
    fn open_host(&self, path: &PathBytes, directory: bool, follow: bool) -> SysResult<OwnedFd> {
        let mut flags = OFlags::PATH | OFlags::CLOEXEC;
        flags.set(OFlags::DIRECTORY, directory);
        flags.set(OFlags::NOFOLLOW, !follow);
        rustix::fs::openat(rustix::fs::CWD, path.as_path(), flags, Mode::empty())
            .map_err(failed("openat", || format!("{path:?}, {}", open_flags(flags))))
    }

    fn resolve(&self, root: BorrowedFd<'_>, path: &PathBytes, follow: Follow) -> SysResult<OwnedFd> {
        // Not by pathrs: on a missing name, which is common here, it spends eight more calls on describing it. And where there
        // is no /proc, as in a root that was entered, its description of a failure fails in turn, without end.
        if self.openat2.get() != Some(false) {
            let mut flags = OFlags::PATH | OFlags::CLOEXEC;
            flags.set(OFlags::NOFOLLOW, follow == Follow::AllButLast);
            let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            resolve.set(ResolveFlags::NO_SYMLINKS, follow == Follow::None);
            match rustix::fs::openat2(root, path.as_path(), flags, Mode::empty(), resolve) {
                Err(Errno::NOSYS | Errno::PERM) if self.openat2.get().is_none() => {
                    self.openat2.set(Some(false));
                }
                result => {
                    self.openat2.set(Some(true));
                    return result.map_err(failed("openat2", || {
                        format!("{}, {path:?}, {}", number(root), open_how(flags, resolve))
                    }));
                }
            }
        }
        super::emulated::resolve(root, path, follow)
    }

    fn open_directory(&self, directory: BorrowedFd<'_>) -> SysResult<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(directory, c".", flags, Mode::empty())
            .map_err(failed("openat", || format!("{}, \".\", {}", number(directory), open_flags(flags))))
    }

    fn lock_shared(&self, file: BorrowedFd<'_>) -> SysResult<()> {
        rustix::fs::flock(file, FlockOperation::NonBlockingLockShared)
            .map_err(failed("flock", || format!("{}, LOCK_SH|LOCK_NB", number(file))))
    }

    fn lock_exclusive(&self, file: BorrowedFd<'_>) -> SysResult<()> {
        rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive)
            .map_err(failed("flock", || format!("{}, LOCK_EX|LOCK_NB", number(file))))
    }

    fn status(&self, file: BorrowedFd<'_>) -> SysResult<FileStatus> {
        if self.unique_ids.get().is_none() {
            self.mount_id(file)?;
        }
        self.status_at(file, &PathBytes::default(), AtFlags::EMPTY_PATH)
    }

    fn status_in(&self, directory: BorrowedFd<'_>, name: &PathBytes) -> SysResult<FileStatus> {
        if self.ids_are_unique() {
            return self.status_at(directory, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT);
        }
        // Where statx(2) doesn't tell the mount, only a descriptor does.
        let file = self.resolve(directory, name, Follow::AllButLast)?;
        self.status(file.as_fd())
    }

    fn mount_id(&self, file: BorrowedFd<'_>) -> SysResult<u64> {
        if self.unique_ids.get() != Some(false) {
            // An id is only of use with statmount, which may be missing or refused on its own.
            if let Some(id) = Self::unique_mount_id(file)?
                && (self.unique_ids.get().is_some() || mount_table::is_complete(id))
            {
                self.unique_ids.set(Some(true));
                return Ok(id);
            }
            self.unique_ids.set(Some(false));
        }
        self.reusable_mount_id(file)
    }

    fn filesystem_magic(&self, file: BorrowedFd<'_>) -> SysResult<u64> {
        rustix::fs::fstatfs(file)
            .map(|stat| stat.f_type.cast_unsigned())
            .map_err(failed("fstatfs", || number(file)))
    }

    fn read_link(&self, link: BorrowedFd<'_>) -> SysResult<PathBytes> {
        rustix::fs::readlinkat(link, c"", Vec::new())
            .map(|target| PathBytes::new(target.into_bytes()))
            .map_err(failed("readlinkat", || number(link)))
    }

    fn clone_mount(&self, file: BorrowedFd<'_>, recursive: bool) -> SysResult<OwnedFd> {
        let mut flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
        rustix::mount::open_tree(file, c"", flags).map_err(failed("open_tree", || {
            format!("{}, OPEN_TREE_CLONE{}", number(file), if recursive { "|AT_RECURSIVE" } else { "" })
        }))
    }

    fn clone_mount_with(&self, file: BorrowedFd<'_>, change: AttributeChange) -> SysResult<OwnedFd> {
        if !self.no_open_tree_attr.get() {
            let error = match open_tree_attr(file, &PathBytes::default(), AtFlags::EMPTY_PATH, change) {
                Ok(copy) => return Ok(copy),
                Err(error) => error,
            };
            // What else is wrong, the two calls say more exactly.
            if error.errno == libc::ENOSYS || error.errno == libc::EPERM {
                self.no_open_tree_attr.set(true);
            }
        }
        let copy = self.clone_mount(file, change.recursive)?;
        self.set_attributes(copy.as_fd(), change)?;
        Ok(copy)
    }

    fn clone_host(
        &self,
        path: &PathBytes,
        follow: bool,
        change: AttributeChange,
        is_known: &dyn Fn(u64) -> bool,
    ) -> Option<HostCopy> {
        if self.no_open_tree_attr.get() || !self.ids_are_unique() {
            return None;
        }
        let mut flags = AtFlags::NO_AUTOMOUNT;
        flags.set(AtFlags::SYMLINK_NOFOLLOW, !follow);
        let there = self.status_at(rustix::fs::CWD, path, flags).ok()?;
        if !is_known(there.mount) {
            return None;
        }
        let fd = open_tree_attr(rustix::fs::CWD, path, flags, change).ok()?;
        let status = self.status(fd.as_fd()).ok()?;
        // The path may lead to something else by now.
        let same = (status.device, status.inode) == (there.device, there.inode);
        same.then_some(HostCopy { fd, status, of: there.mount })
    }

    fn set_attributes(&self, mount: BorrowedFd<'_>, change: AttributeChange) -> SysResult<()> {
        let attr = mount_attr(change);
        let flags = AT_EMPTY_PATH | if change.recursive { AT_RECURSIVE } else { 0 };
        // SAFETY: the empty path is a constant, and the struct outlives the call, which is told its size.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                mount.as_raw_fd(),
                c"".as_ptr(),
                flags,
                &raw const attr,
                size_of::<MountAttr>(),
            )
        };
        if result == 0 {
            return Ok(());
        }
        Err(last_error("mount_setattr", || {
            format!(
                "{}, {{attr_set={}, attr_clr={}, propagation={}}}{}",
                number(mount),
                attribute_names(change.set),
                attribute_names(change.clear),
                change.propagation.map_or("none", Propagation::name),
                if change.recursive { ", AT_RECURSIVE" } else { "" }
            )
        }))
    }

    fn attach(&self, mount: BorrowedFd<'_>, destination: BorrowedFd<'_>) -> SysResult<()> {
        rustix::mount::move_mount(
            mount,
            c"",
            destination,
            c"",
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
        )
        .map_err(failed("move_mount", || format!("{}, {}", number(mount), number(destination))))
    }

    fn open_filesystem(&self, fstype: &str) -> SysResult<OwnedFd> {
        rustix::mount::fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC)
            .map_err(failed("fsopen", || format!("\"{fstype}\"")))
    }

    fn set_filesystem_flag(&self, context: BorrowedFd<'_>, key: &str) -> SysResult<()> {
        rustix::mount::fsconfig_set_flag(context, key)
            .map_err(failed("fsconfig", || format!("{}, FSCONFIG_SET_FLAG, \"{key}\"", number(context))))
    }

    fn set_filesystem_option(&self, context: BorrowedFd<'_>, key: &str, value: &PathBytes) -> SysResult<()> {
        rustix::mount::fsconfig_set_string(context, key, value.as_path()).map_err(failed("fsconfig", || {
            format!("{}, FSCONFIG_SET_STRING, \"{key}\", {value:?}", number(context))
        }))
    }

    fn create_filesystem(&self, context: BorrowedFd<'_>) -> SysResult<()> {
        let create = || {
            rustix::mount::fsconfig_create(context)
                .map_err(failed("fsconfig", || format!("{}, FSCONFIG_CMD_CREATE", number(context))))
        };
        if self.late_names.take() { super::overlay::in_own_descriptors(self, create) } else { create() }
    }

    fn mount_created(&self, context: BorrowedFd<'_>, attributes: u64) -> SysResult<OwnedFd> {
        let attributes = MountAttrFlags::from_bits_retain(u32::try_from(attributes).unwrap_or(u32::MAX));
        rustix::mount::fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
            .map_err(failed("fsmount", || {
                format!("{}, {}", number(context), attribute_names(attributes.bits().into()))
            }))
    }

    fn set_overlay_layers(
        &self,
        context: BorrowedFd<'_>,
        lower: &[BorrowedFd<'_>],
        upper: Option<(BorrowedFd<'_>, BorrowedFd<'_>)>,
    ) -> SysResult<()> {
        super::overlay::set_layers(self, context, lower, upper)
    }

    fn in_initial_user_namespace(&self) -> SysResult<bool> {
        super::id_map::in_initial_user_namespace(self)
    }

    fn set_label(&self, directory: BorrowedFd<'_>, label: &str) -> SysResult<()> {
        let directory = self.open_directory(directory)?;
        rustix::fs::fsetxattr(
            &directory,
            c"security.selinux",
            label.as_bytes(),
            rustix::fs::XattrFlags::empty(),
        )
        .map_err(failed("fsetxattr", || {
            format!("{}, \"security.selinux\", {label:?}", number(directory.as_fd()))
        }))
    }

    fn user_namespace(&self, map: &IdMap) -> SysResult<OwnedFd> {
        super::id_map::user_namespace(self, map)
    }

    fn map_mount_ids(
        &self,
        mount: BorrowedFd<'_>,
        user_namespace: BorrowedFd<'_>,
        recursive: bool,
    ) -> SysResult<()> {
        let attr = MountAttr {
            attr_set: crate::options::attr::IDMAP,
            userns_fd: u64::from(user_namespace.as_raw_fd().cast_unsigned()),
            ..MountAttr::default()
        };
        let flags = AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
        // SAFETY: as in set_attributes.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                mount.as_raw_fd(),
                c"".as_ptr(),
                flags,
                &raw const attr,
                size_of::<MountAttr>(),
            )
        };
        if result == 0 {
            return Ok(());
        }
        Err(last_error("mount_setattr", || {
            format!("{}, {{attr_set=MOUNT_ATTR_IDMAP, userns_fd={}}}", number(mount), number(user_namespace))
        }))
    }

    fn copy_tree(
        &self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        top: super::copy_tree::Top,
    ) -> SysResult<super::copy_tree::Copied> {
        super::copy_tree::copy(self, from, to, top)
    }

    fn detach(&self, mount: BorrowedFd<'_>) -> SysResult<()> {
        super::overlay::detach(mount)
    }

    fn in_private_mounts(&self, work: &mut dyn FnMut() -> Result<OwnedFd>) -> Result<OwnedFd> {
        super::overlay::in_private_mounts(self, work)
    }

    fn make_superblock_readonly(&self, mount: BorrowedFd<'_>, log: &mut Vec<String>) -> SysResult<()> {
        let context = self.pick_filesystem(mount)?;
        self.set_filesystem_flag(context.as_fd(), "ro")
            .and_then(|()| self.reconfigure_filesystem(context.as_fd()))
            .inspect_err(|_| *log = self.filesystem_log(context.as_fd()))
    }

    fn pick_filesystem(&self, mount: BorrowedFd<'_>) -> SysResult<OwnedFd> {
        rustix::mount::fspick(mount, c"", FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH)
            .map_err(failed("fspick", || number(mount)))
    }

    fn reconfigure_filesystem(&self, context: BorrowedFd<'_>) -> SysResult<()> {
        rustix::mount::fsconfig_reconfigure(context)
            .map_err(failed("fsconfig", || format!("{}, FSCONFIG_CMD_RECONFIGURE", number(context))))
    }

    fn count_changes(&self, mount: BorrowedFd<'_>, count: bool, lazytime: bool) -> SysResult<()> {
        super::iversion::count_changes(self, mount, count, lazytime)
    }

    fn filesystem_log(&self, context: BorrowedFd<'_>) -> Vec<String> {
        let mut lines = Vec::new();
        let mut line = [0_u8; 1024];
        // The log is read a message at a time and ends with ENODATA.
        while let Ok(count) = rustix::io::read(context, &mut line) {
            if count == 0 || lines.len() >= 32 {
                break;
            }
            lines.push(String::from_utf8_lossy(&line[..count]).trim_end().to_owned());
        }
        lines
    }

    fn mount_states(&self, ids: &[u64]) -> SysResult<Vec<Option<MountState>>> {
        if self.ids_are_unique() {
            return ids.iter().map(|id| mount_table::state(*id)).collect();
        }
        let table = self.mount_table_as_text()?;
        let find = |id: &u64| table.binary_search_by_key(id, |mount| mount.id).ok();
        Ok(ids.iter().map(|id| find(id).map(|at| table[at].state)).collect())
    }

    fn source_state(&self, file: BorrowedFd<'_>, id: u64) -> SysResult<(Option<MountState>, u64)> {
        if self.ids_are_unique()
            && let Some(state) = mount_table::state(id)?
        {
            return Ok((Some(state), 0));
        }
        let flags = rustix::fs::fstatvfs(file).map_err(failed("fstatfs", || number(file)))?.f_flag;
        Ok((None, attributes_of_statvfs(flags)))
    }

    fn mount_table(&self, expected: usize) -> SysResult<Vec<ListedMount>> {
        if self.ids_are_unique() { mount_table::table(expected) } else { self.mount_table_as_text() }
    }

    fn mount_table_of(&self, count: usize) -> SysResult<Option<Vec<ListedMount>>> {
        if self.ids_are_unique() { mount_table::table_of(count) } else { Ok(None) }
    }

    fn mount_at(&self, path: &PathBytes) -> SysResult<u64> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let found = rustix::fs::statx(
            rustix::fs::CWD,
            c_path(path),
            flags,
            StatxFlags::from_bits_retain(STATX_MNT_ID_UNIQUE),
        )
        .map_err(failed("statx", || path.to_string()))?;
        Ok(found.stx_mnt_id)
    }

    fn mounts_below(&self, mount: u64) -> SysResult<Vec<u64>> {
        if self.ids_are_unique() {
            return mount_table::below(mount);
        }
        let table = self.mount_table_as_text()?;
        let mut below = BTreeSet::from([mount]);
        // A mount can be on one with a larger id.
        loop {
            let before = below.len();
            below.extend(
                table.iter().filter(|one| below.contains(&one.parent)).map(|one| one.id).collect::<Vec<_>>(),
            );
            if below.len() == before {
                break;
            }
        }
        below.remove(&mount);
        Ok(below.into_iter().collect())
    }

    fn ids_are_unique(&self) -> bool {
        self.unique_ids.get() == Some(true)
    }

    fn make_directory(&self, parent: BorrowedFd<'_>, name: &PathBytes, mode: u32) -> SysResult<()> {
        rustix::fs::mkdirat(parent, name.as_path(), Mode::from_bits_retain(mode))
            .map_err(failed("mkdirat", || format!("{}, {name:?}, {mode:#o}", number(parent))))
    }

    fn make_node(
        &self,
        parent: BorrowedFd<'_>,
        name: &PathBytes,
        kind: NodeKind,
        mode: u32,
    ) -> SysResult<()> {
        let (kind, device) = match kind {
            NodeKind::Regular => (FileType::RegularFile, 0),
            NodeKind::Fifo => (FileType::Fifo, 0),
            NodeKind::Character(major, minor) => {
                (FileType::CharacterDevice, rustix::fs::makedev(major, minor))
            }
            NodeKind::Block(major, minor) => (FileType::BlockDevice, rustix::fs::makedev(major, minor)),
        };
        rustix::fs::mknodat(parent, name.as_path(), kind, Mode::from_bits_retain(mode), device)
            .map_err(failed("mknodat", || format!("{}, {name:?}, {kind:?}, {mode:#o}", number(parent))))
    }

    fn change_owner(&self, parent: BorrowedFd<'_>, name: &PathBytes, uid: u32, gid: u32) -> SysResult<()> {
        rustix::fs::chownat(
            parent,
            name.as_path(),
            Some(rustix::fs::Uid::from_raw(uid)),
            Some(rustix::fs::Gid::from_raw(gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(failed("fchownat", || format!("{}, {name:?}, {uid}, {gid}", number(parent))))
    }

    fn make_file(
        &self,
        parent: BorrowedFd<'_>,
        name: &PathBytes,
        content: &[u8],
        mode: u32,
        (uid, gid): (u32, u32),
    ) -> SysResult<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(parent, name.as_path(), flags, Mode::from_bits_retain(0o600))
            .map_err(failed("openat", || format!("{}, {name:?}, {flags:?}, 0600", number(parent))))?;
        let mut rest = content;
        while !rest.is_empty() {
            match rustix::io::write(&file, rest) {
                Ok(count) => rest = &rest[count..],
                Err(Errno::INTR) => {}
                Err(errno) => {
                    return Err(failed("write", || format!("{name:?}, {} bytes", rest.len()))(errno));
                }
            }
        }
        if (uid, gid) != (0, 0) {
            self.set_owner(file.as_fd(), Some(uid), Some(gid))?;
        }
        // Last: a new owner takes the set-user-id bit away.
        rustix::fs::fchmod(&file, Mode::from_bits_retain(mode))
            .map_err(failed("fchmod", || format!("{name:?}, {mode:#o}")))
    }

    fn set_owner(&self, file: BorrowedFd<'_>, uid: Option<u32>, gid: Option<u32>) -> SysResult<()> {
        rustix::fs::chownat(
            file,
            c"",
            uid.map(rustix::fs::Uid::from_raw),
            gid.map(rustix::fs::Gid::from_raw),
            AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(failed("fchownat", || format!("{}, {uid:?}, {gid:?}", number(file))))
    }

    fn set_mode(&self, file: BorrowedFd<'_>, mode: u32) -> SysResult<()> {
        // fchmod refuses O_PATH descriptors. SAFETY: the empty path is a constant, and the rest are numbers.
        let result = unsafe {
            libc::syscall(libc::SYS_fchmodat2, file.as_raw_fd(), c"".as_ptr(), mode, libc::AT_EMPTY_PATH)
        };
        if result == 0 {
            return Ok(());
        }
        let error = last_error("fchmodat2", || format!("{}, \"\", {mode:#o}, AT_EMPTY_PATH", number(file)));
        // Before Linux 6.6, and where a filter doesn't know it, by its name in our own procfs.
        if error.errno != libc::ENOSYS && error.errno != libc::EPERM {
            return Err(error);
        }
        let name = format!("self/fd/{}", file.as_raw_fd());
        rustix::fs::chmodat(self.procfs()?.as_fd(), &*name, Mode::from_bits_retain(mode), AtFlags::empty())
            .map_err(|_| error)
    }

    fn set_directory_mode(&self, directory: BorrowedFd<'_>, mode: u32) -> SysResult<()> {
        // fchmod refuses O_PATH descriptors, and fchmodat2, which doesn't, needs Linux 6.6. "." is no link.
        rustix::fs::chmodat(directory, c".", Mode::from_bits_retain(mode), AtFlags::empty())
            .map_err(failed("fchmodat", || format!("{}, \".\", {mode:#o}", number(directory))))
    }

    fn is_readonly(&self, file: BorrowedFd<'_>) -> SysResult<bool> {
        rustix::fs::fstatvfs(file)
            .map(|stat| stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
            .map_err(failed("fstatfs", || number(file)))
    }

    fn make_symlink(&self, target: &PathBytes, parent: BorrowedFd<'_>, name: &PathBytes) -> SysResult<()> {
        rustix::fs::symlinkat(target.as_path(), parent, name.as_path())
            .map_err(failed("symlinkat", || format!("{target:?}, {}, {name:?}", number(parent))))
    }

    fn remove_file(&self, parent: BorrowedFd<'_>, name: &PathBytes) -> SysResult<()> {
        rustix::fs::unlinkat(parent, name.as_path(), AtFlags::empty())
            .map_err(failed("unlinkat", || format!("{}, {name:?}", number(parent))))
    }

    fn new_mount_namespace(&self) -> SysResult<()> {
        super::process::unshare(libc::CLONE_NEWNS)
    }

    fn new_cgroup_namespace(&self) -> SysResult<()> {
        super::process::unshare(libc::CLONE_NEWCGROUP)
    }

    #[expect(clippy::disallowed_methods, reason = "`/` and `.` of this process, by no other name")]
    fn set_root_propagation(&self, propagation: Propagation) -> SysResult<()> {
        let mut flags = propagation_flag(propagation.kind);
        flags.set(MountPropagationFlags::REC, propagation.recursive);
        rustix::mount::mount_change(c"/", flags)
            .map_err(failed("mount", || format!("\"/\", {}", propagation.name())))
    }

    fn make_containing_mount_private(&self, file: BorrowedFd<'_>, slave: bool) -> SysResult<()> {
        let flag = if slave { MountPropagationFlags::DOWNSTREAM } else { MountPropagationFlags::PRIVATE };
        let attr = MountAttr { propagation: u64::from(flag.bits()), ..MountAttr::default() };
        let mut current: OwnedFd =
            rustix::io::fcntl_dupfd_cloexec(file, 0).map_err(failed("fcntl", || number(file)))?;
        // A mount's attributes can only be changed at its root: walk up until that is found.
        for _ in 0..4096 {
            // SAFETY: as in set_attributes.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_mount_setattr,
                    current.as_raw_fd(),
                    c"".as_ptr(),
                    AT_EMPTY_PATH,
                    &raw const attr,
                    size_of::<MountAttr>(),
                )
            };
            if result == 0 {
                return Ok(());
            }
            let error = last_error("mount_setattr", || number(current.as_fd()));
            if error.errno != libc::EINVAL {
                return Err(error);
            }
            let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            current = rustix::fs::openat(&current, c"..", flags, Mode::empty())
                .map_err(failed("openat", || "\"..\"".into()))?;
        }
        Err(SysError { syscall: "mount_setattr", errno: libc::ELOOP, arguments: number(file) })
    }

    #[expect(clippy::disallowed_methods, reason = "`/` of this process, which has just been entered")]
    fn enter_root(&self, root: BorrowedFd<'_>) -> SysResult<()> {
        // pivot_root(".", ".") puts the old root on top of the new one, without needing a directory for it.
        let old = rustix::fs::openat(
            rustix::fs::CWD,
            c"/",
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(failed("openat", || "\"/\"".into()))?;
        rustix::process::fchdir(root).map_err(failed("fchdir", || number(root)))?;
        rustix::process::pivot_root(c".", c".").map_err(failed("pivot_root", || "\".\", \".\"".into()))?;
        rustix::process::fchdir(&old).map_err(failed("fchdir", || number(old.as_fd())))?;
        // A slave and not private: a private one would keep mounts of the host busy that are unmounted there.
        rustix::mount::mount_change(c".", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
            .map_err(failed("mount", || "\".\", rslave".into()))?;
        // What is on top of it goes first: a root that another was mounted on stays there when that one is moved away. At
        // the end there is nothing any more that this could be a mountpoint of.
        let detach = || rustix::mount::unmount(c".", UnmountFlags::DETACH);
        detach().map_err(failed("umount2", || "\".\", MNT_DETACH".into()))?;
        while detach().is_ok() {}
        rustix::process::chdir(c"/").map_err(failed("chdir", || "\"/\"".into()))
    }

    #[expect(clippy::disallowed_methods, reason = "`.` is a directory that was entered by its descriptor")]
    fn enter_root_by_stub(&self, stub: BorrowedFd<'_>, root: BorrowedFd<'_>) -> SysResult<bool> {
        if super::process::set_namespace(stub, libc::CLONE_NEWNS).is_err() {
            return Ok(false);
        }
        super::process::unshare(libc::CLONE_NEWNS)?;
        // On top of the one filesystem there, whose ".." is itself: from here it can't be reached any more, not even by
        // a process that leaves its chroot, because each way up comes back to what is mounted on it.
        rustix::mount::move_mount(
            root,
            c"",
            rustix::fs::CWD,
            c"/",
            rustix::mount::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
        .map_err(failed("move_mount", || format!("{}, \"/\"", number(root))))?;
        rustix::process::fchdir(root).map_err(failed("fchdir", || number(root)))?;
        rustix::process::chroot(c".").map_err(failed("chroot", || "\".\"".into()))?;
        Ok(true)
    }

    #[expect(clippy::disallowed_methods, reason = "`.` is a directory that was entered by its descriptor")]
    fn enter_root_by_chroot(&self, root: BorrowedFd<'_>, namespace: Option<BorrowedFd<'_>>) -> SysResult<()> {
        if let Some(namespace) = namespace {
            super::process::set_namespace(namespace, libc::CLONE_NEWNS)?;
        }
        rustix::process::fchdir(root).map_err(failed("fchdir", || number(root)))?;
        rustix::process::chroot(c".").map_err(failed("chroot", || "\".\"".into()))
    }

    fn own_cgroups(&self) -> SysResult<Vec<(String, PathBytes)>> {
        let fd = self.open_proc_self("cgroup", OFlags::RDONLY | OFlags::CLOEXEC)?;
        let text = read_to_end(fd.as_fd())?;
        Ok(text
            .split(|byte| *byte == b'\n')
            .filter_map(|line| {
                let mut fields = line.splitn(3, |byte| *byte == b':');
                let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
                Some((String::from_utf8_lossy(controllers).into_owned(), PathBytes::new(path)))
            })
            .collect())
    }

    fn cgroup_mounts(&self) -> SysResult<Vec<mountinfo::Entry>> {
        let fd = self.open_proc_self("mountinfo", OFlags::RDONLY | OFlags::CLOEXEC)?;
        let mut table = mountinfo::parse(&read_to_end(fd.as_fd())?);
        table.retain(|entry| ["cgroup", "cgroup2"].contains(&&*entry.fstype));
        Ok(table)
    }

    fn set_hostname(&self, name: &str) -> SysResult<()> {
        rustix::system::sethostname(name.as_bytes()).map_err(failed("sethostname", || format!("\"{name}\"")))
    }

    fn set_domainname(&self, name: &str) -> SysResult<()> {
        rustix::system::setdomainname(name.as_bytes())
            .map_err(failed("setdomainname", || format!("\"{name}\"")))
    }

    fn prepare_sysctl(&self) -> SysResult<()> {
        // The handle for processes hides all but those. Which values are behind a name is decided by the namespaces of
        // the process that opens it.
        if self.sysctls.get().is_none() {
            let flags = pathrs::flags::OpenFlags::O_PATH
                | pathrs::flags::OpenFlags::O_DIRECTORY
                | pathrs::flags::OpenFlags::O_CLOEXEC;
            check_descriptors()?;
            check_procfs()?;
            let directory = ProcfsHandleBuilder::new()
                .unmasked()
                .build()
                .and_then(|handle| handle.open(ProcfsBase::ProcRoot, "sys", flags))
                .map_err(|error| from_pathrs(&error, &"/proc/sys".into()))?;
            let _ = self.sysctls.set(directory.into());
        }
        Ok(())
    }

    fn read_attribute(&self, name: &str) -> SysResult<Vec<u8>> {
        let file = self.open_proc_self(&format!("attr/{name}"), OFlags::RDONLY | OFlags::CLOEXEC)?;
        read_to_end(file.as_fd())
    }

    fn write_attribute(&self, name: &str, value: &[u8]) -> SysResult<()> {
        // By the process itself: what another has opened is refused.
        let file = self.open_proc_self(&format!("attr/{name}"), OFlags::WRONLY | OFlags::CLOEXEC)?;
        let call = || format!("\"/proc/self/attr/{name}\", {:?}", String::from_utf8_lossy(value));
        match rustix::io::write(&file, value) {
            Ok(written) if written == value.len() => Ok(()),
            // The kernel takes a page.
            Ok(_) => Err(SysError { syscall: "write", errno: libc::E2BIG, arguments: call() }),
            Err(errno) => Err(failed("write", call)(errno)),
        }
    }

    fn write_sysctl(&self, path: &str, value: &str) -> SysResult<()> {
        self.prepare_sysctl()?;
        let whole = || format!("\"/proc/sys/{path}\"");
        let Some(directory) = self.sysctls.get() else {
            return Err(SysError { syscall: "openat", errno: libc::ENOENT, arguments: whole() });
        };
        // Not with pathrs: once the root has been entered and has no /proc, it can't describe what fails. Below a directory
        // that was checked, and with neither links nor mounts on the way, there is nothing left for it to do.
        let mount = self.mount_id(directory.as_fd())?;
        let mut current: Option<OwnedFd> = None;
        let mut names = path.split('/').peekable();
        while let Some(name) = names.next() {
            let kind = if names.peek().is_some() { OFlags::PATH | OFlags::DIRECTORY } else { OFlags::WRONLY };
            let flags = kind | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let parent = current.as_ref().unwrap_or(directory);
            let file =
                rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(failed("openat", whole))?;
            if self.mount_id(file.as_fd())? != mount {
                return Err(SysError { syscall: "openat", errno: libc::EXDEV, arguments: whole() });
            }
            current = Some(file);
        }
        let file = current.as_ref().unwrap_or(directory);
        // One call: the kernel takes the first write as the whole value.
        rustix::io::write(file, value.as_bytes())
            .map(drop)
            .map_err(failed("write", || format!("{}, {value:?}", whole())))
    }

    fn pause(&self, milliseconds: u64) {
        std::thread::sleep(Duration::from_millis(milliseconds));
    }
}

/// Whether mounts can be moved onto detached mounts: tried with two tmpfs that nobody else sees.
///
/// Fails only where the mount API itself is missing or forbidden.
pub fn can_assemble_detached() -> SysResult<bool> {
    let kernel = Linux::default();
    let tmpfs = || -> SysResult<OwnedFd> {
        let context = kernel.open_filesystem("tmpfs")?;
        kernel.mount_filesystem(context.as_fd(), 0)
    };
    let (lower, upper) = (tmpfs()?, tmpfs()?);
    Ok(kernel.attach(upper.as_fd(), lower.as_fd()).is_ok())
}

/// Whether the calls that make mounts detached are there and not refused. Asked with arguments that the kernel refuses
/// before it does anything; a filter has refused the call itself.
pub fn has_mount_api() -> bool {
    let nothing = std::ptr::null::<libc::c_void>();
    let all = u32::MAX;
    let there = |_: libc::c_long| {
        let errno = std::io::Error::last_os_error().raw_os_error();
        ![Some(libc::ENOSYS), Some(libc::EPERM)].contains(&errno)
    };
    // SAFETY: null pointers and a size of zero, with flags that don't exist.
    unsafe {
        there(libc::syscall(libc::SYS_open_tree, -1, nothing, all))
            && there(libc::syscall(libc::SYS_mount_setattr, -1, nothing, all, nothing, 0_usize))
            && there(libc::syscall(libc::SYS_move_mount, -1, nothing, -1, nothing, all))
            && there(libc::syscall(libc::SYS_fsopen, nothing, all))
    }
}

/// Whether paths can be resolved with limits by the kernel. It says what is wrong with the arguments where it can.
fn has_openat2() -> bool {
    let nothing = std::ptr::null::<libc::c_void>();
    // SAFETY: the kernel is given no memory: a struct of no size is refused before anything is read.
    let result = unsafe { libc::syscall(libc::SYS_openat2, -1, nothing, nothing, 0) };
    let errno = std::io::Error::last_os_error().raw_os_error();
    result >= 0 || ![Some(libc::ENOSYS), Some(libc::EPERM)].contains(&errno)
}

/// Moves this process, for good, into a new mount namespace with nothing in it but one empty, read-only filesystem.
/// Copies of it are where [`Kernel::enter_root_by_stub`] puts a root.
pub fn become_stub() -> SysResult<OwnedFd> {
    let kernel = Linux::default();
    let own = super::process::pidfd_of_self()?;
    let context = kernel.open_filesystem("tmpfs")?;
    kernel.set_filesystem_flag(context.as_fd(), "ro")?;
    kernel.set_filesystem_option(context.as_fd(), "nr_inodes", &"1".into())?;
    let tmpfs = kernel.mount_filesystem(context.as_fd(), crate::options::attr::RDONLY)?;
    kernel.new_mount_namespace()?;
    kernel.set_root_propagation(Propagation::RPRIVATE)?;
    let slash = kernel.open_host(&"/".into(), true, false)?;
    kernel.attach(tmpfs.as_fd(), slash.as_fd())?;
    drop(slash);
    kernel.enter_root(tmpfs.as_fd())?;
    super::process::mount_namespace_of(own.as_fd())
}

/// The flags of `statvfs(3)` as `MOUNT_ATTR_*` bits.
fn attributes_of_statvfs(flags: rustix::fs::StatVfsMountFlags) -> u64 {
    use rustix::fs::StatVfsMountFlags as Flags;
    /// `ST_NOSYMFOLLOW`, which rustix has no name for.
    const NOSYMFOLLOW: Flags = Flags::from_bits_retain(0x2000);
    let table = [
        (Flags::RDONLY, attr::RDONLY),
        (Flags::NOSUID, attr::NOSUID),
        (Flags::NODEV, attr::NODEV),
        (Flags::NOEXEC, attr::NOEXEC),
        (Flags::NODIRATIME, attr::NODIRATIME),
        (NOSYMFOLLOW, attr::NOSYMFOLLOW),
    ];
    let plain = table.iter().filter(|(flag, _)| flags.contains(*flag)).fold(0, |bits, (_, bit)| bits | bit);
    let atime = if flags.contains(Flags::NOATIME) {
        attr::NOATIME
    } else if flags.contains(Flags::RELATIME) {
        attr::RELATIME
    } else {
        attr::STRICTATIME
    };
    plain | atime
}

/// `open_tree_attr(2)`, since Linux 6.15, of what a path leads to, or with an empty one of the descriptor itself.
pub(super) fn open_tree_attr(
    at: BorrowedFd<'_>,
    path: &PathBytes,
    flags: AtFlags,
    change: AttributeChange,
) -> SysResult<OwnedFd> {
    let attr = mount_attr(change);
    let flags = OPEN_TREE_CLONE
        | libc::O_CLOEXEC.cast_unsigned()
        | flags.bits()
        | if change.recursive { AT_RECURSIVE } else { 0 };
    path.as_path()
        .into_with_c_str(|path| {
            // SAFETY: the path and the struct outlive the call, which is told the size of the struct.
            let fd = unsafe {
                libc::syscall(
                    SYS_OPEN_TREE_ATTR,
                    at.as_raw_fd(),
                    path.as_ptr(),
                    flags,
                    &raw const attr,
                    size_of::<MountAttr>(),
                )
            };
            if fd >= 0 {
                Ok(owned(fd))
            } else {
                Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
            }
        })
        .map_err(failed("open_tree_attr", || format!("{}, {path:?}", number(at))))
}

fn mount_attr(change: AttributeChange) -> MountAttr {
    MountAttr {
        attr_set: change.set,
        attr_clr: change.clear,
        propagation: change
            .propagation
            .map_or(0, |propagation| u64::from(propagation_flag(propagation.kind).bits())),
        userns_fd: 0,
    }
}

fn statx(file: BorrowedFd<'_>, mask: u32) -> SysResult<rustix::fs::Statx> {
    rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::from_bits_retain(mask))
        .map_err(failed("statx", || number(file)))
}

/// Takes a descriptor that the kernel has just returned.
pub(super) fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: only called with a fresh descriptor that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap_or(-1)) }
}

/// A path for a call that takes a C string.
pub fn c_path(path: &PathBytes) -> CString {
    CString::from(path)
}

/// A root handle of `pathrs`, for callers outside an execution.
pub fn root_handle(fd: OwnedFd) -> Root {
    Root::from_fd(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_told_by_fdinfo_where_statx_does_not() {
        let kernel = Linux::default();
        for path in ["/", "/proc", "/dev"] {
            let file = kernel.open_host(&path.into(), true, true).unwrap();
            let mut stat = statx(file.as_fd(), StatxFlags::MNT_ID.bits()).unwrap();
            assert_ne!(stat.stx_mask & StatxFlags::MNT_ID.bits(), 0, "this test needs Linux 5.8");
            let id = std::mem::replace(&mut stat.stx_mnt_id, 0);
            stat.stx_mask = 0;
            assert_eq!(kernel.mount_of(file.as_fd(), &stat).unwrap(), id, "{path}");
        }
    }

    /// Needs the rights to join a mount namespace.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test makes and reads its own files")]
    fn a_mount_namespace_is_joined_where_pidfds_are_no_namespaces() {
        use std::process::{Command, Stdio};
        if !super::super::process::has_capability(super::super::process::CAP_SYS_ADMIN) {
            assert!(std::env::var_os("CI").is_none(), "cannot run: it has to run as root");
            eprintln!("skipped: it has to run as root");
            return;
        }
        let script = "echo; read wait";
        let mut child = Command::new("unshare")
            .args(["--mount", "sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0; 1];
        rustix::io::read(child.stdout.as_ref().unwrap(), &mut line).unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        // What isn't ready yet, and is no namespace: as a pidfd was before Linux 5.8.
        let running = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        let joined = std::thread::spawn(move || {
            // Threads that share a root can't change mount namespaces.
            super::super::process::unshare(libc::CLONE_FS).unwrap();
            let kernel = Linux::default();
            kernel.join_mount_namespace(running.as_fd(), pid).unwrap();
            let own = rustix::fs::readlink(c"/proc/thread-self/ns/mnt", Vec::new()).unwrap();
            let theirs = rustix::fs::readlink(format!("/proc/{pid}/ns/mnt"), Vec::new()).unwrap();
            (own, theirs)
        })
        .join()
        .unwrap();
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(joined.0, joined.1);
        assert_ne!(joined.0, rustix::fs::readlink(c"/proc/self/ns/mnt", Vec::new()).unwrap());
    }
}
