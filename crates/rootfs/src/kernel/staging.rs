//! The place where mounts are made with mount(2) before they are attached, for kernels without detached mounts.
//!
//! A small tmpfs becomes the root of this process's own mount namespace, and the host's tree is moved below it. The process
//! then has that tree as its root again, so that every path of the host means what it meant, nothing of the host is
//! covered, and no path leads to the tmpfs: only the descriptor held here does. In it are the mounts that wait to be
//! attached, and a procfs of our own, whose `self/fd` is how mount(2) is told which descriptors are meant. Every path
//! given to the kernel is relative to that descriptor, so nobody else can have a say in where it leads.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use rustix::fs::{Dir, FileType, Mode, OFlags};

use super::linux::{Linux, failed, read_to_end};
use crate::error::{SysError, SysResult};
use crate::mountinfo::{self, Entry};
use crate::options::attr;
use crate::procfs::PROC_SUPER_MAGIC;

/// `TMPFS_MAGIC`; `statfs(2)`.
const TMPFS_MAGIC: u64 = 0x0102_1994;
/// The inode of every procfs's root directory.
const PROC_ROOT_INODE: u64 = 1;
/// Where the host's tree is until the root is entered.
const HOST: &CStr = c"host";
/// Where this process's procfs is.
const PROC: &CStr = c"proc";
/// Where a helper makes its own place.
const HELPER: &CStr = c"helper";
/// Since Linux 5.10; earlier ones take it and do nothing.
const MS_NOSYMFOLLOW: u64 = 0x100;
const ST_NOSYMFOLLOW: u64 = 0x2000;
const DIRECTORY: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Mount attributes, and the flags of mount(2) and of statfs(2) that are the same. Access-time modes are another matter.
const FLAGS: [(u64, u64, u64); 6] = [
    (attr::RDONLY, libc::MS_RDONLY, 0x1),
    (attr::NOSUID, libc::MS_NOSUID, 0x2),
    (attr::NODEV, libc::MS_NODEV, 0x4),
    (attr::NOEXEC, libc::MS_NOEXEC, 0x8),
    (attr::NODIRATIME, libc::MS_NODIRATIME, 0x800),
    (attr::NOSYMFOLLOW, MS_NOSYMFOLLOW, ST_NOSYMFOLLOW),
];
const ST_NOATIME: u64 = 0x400;
const ST_RELATIME: u64 = 0x1000;

/// The flags of mount(2) for `MOUNT_ATTR_*` bits, with the access-time mode said.
pub(super) fn mount_flags(attributes: u64) -> u64 {
    let mode = match attributes & attr::ATIME {
        attr::NOATIME => libc::MS_NOATIME,
        attr::STRICTATIME => libc::MS_STRICTATIME,
        _ => libc::MS_RELATIME,
    };
    FLAGS.iter().filter(|(bit, ..)| attributes & bit != 0).fold(mode, |flags, (_, flag, _)| flags | flag)
}

/// The place, and who uses it.
pub(super) struct Staging<'a> {
    linux: &'a Linux,
    top: OwnedFd,
    next: Cell<u64>,
    /// The root that this process has when it doesn't look at the place itself.
    root: RefCell<OwnedFd>,
    /// Tells whether the mounts of this namespace have changed; `proc_pid_mountinfo(5)`.
    watch: OnceCell<OwnedFd>,
    /// The last copy, if there was nothing mounted below it.
    alone: Cell<Option<u64>>,
}

impl<'a> Staging<'a> {
    /// Makes the place, in a mount namespace of this process's own.
    #[expect(clippy::disallowed_methods, reason = "`.` is a directory that was entered by its descriptor")]
    pub(super) fn make(linux: &'a Linux) -> SysResult<Self> {
        let root = open(rustix::fs::CWD, c"/", DIRECTORY)?;
        // Only this one mount: those below stay peers of the host's, because a copy may be asked to be one.
        call(None, c"/", None, libc::MS_SLAVE, None)?;
        let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        call(Some(c"tmpfs"), c"/", Some(c"tmpfs"), flags, Some(c"mode=0700"))?;
        // The one path that comes to what is mounted on the root.
        let top = open(rustix::fs::CWD, c"/..", DIRECTORY.difference(OFlags::NOFOLLOW))?;
        if magic(top.as_fd())? != TMPFS_MAGIC
            || linux.reusable_mount_id(top.as_fd())? == linux.reusable_mount_id(root.as_fd())?
        {
            let arguments = "the tmpfs on / can't be reached".to_owned();
            return Err(SysError { syscall: "openat", errno: libc::EXDEV, arguments });
        }
        make_directory(&top, HOST)?;
        rustix::process::fchdir(&top).map_err(failed("fchdir", || "/..".into()))?;
        rustix::process::pivot_root(c".", HOST).map_err(failed("pivot_root", || "\".\", \"host\"".into()))?;
        let staging = Self::with(linux, top, root);
        staging.return_to_root()?;
        staging.set_propagation(c".", libc::MS_PRIVATE)?;
        make_directory(&staging.top, HELPER)?;
        staging.mount_proc(c"host/proc")?;
        Ok(staging)
    }

    /// A place for a helper of the process that has made one, in whose mount namespace the helper has arrived just now. The
    /// other's filesystem has no name for the ids of this one, who makes its own on it.
    pub(super) fn join(linux: &'a Linux) -> SysResult<Self> {
        let outer = open(rustix::fs::CWD, c"/", DIRECTORY)?;
        let host = open(outer.as_fd(), HOST, DIRECTORY)?;
        if magic(outer.as_fd())? != TMPFS_MAGIC {
            let arguments = "the root of the mount namespace is not the place for mounts".to_owned();
            return Err(SysError { syscall: "openat", errno: libc::EXDEV, arguments });
        }
        rustix::process::fchdir(&outer).map_err(failed("fchdir", || "/".into()))?;
        let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        call(Some(c"tmpfs"), HELPER, Some(c"tmpfs"), flags, Some(c"mode=0755"))?;
        let top = open(outer.as_fd(), HELPER, DIRECTORY)?;
        let staging = Self::with(linux, top, host);
        staging.mount_proc(c"../host/proc")?;
        staging.return_to_root()?;
        Ok(staging)
    }

    fn with(linux: &'a Linux, top: OwnedFd, root: OwnedFd) -> Self {
        let (watch, alone) = (OnceCell::new(), Cell::new(None));
        Self { linux, top, next: Cell::new(0), root: RefCell::new(root), watch, alone }
    }

    /// A procfs in which this process sees itself: a new one, or where that isn't allowed the host's. Nothing may be mounted
    /// where descriptors are looked up.
    fn mount_proc(&self, other: &CStr) -> SysResult<()> {
        make_directory(&self.top, PROC)?;
        let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        if self.mount(Some(c"proc"), PROC, Some(c"proc"), flags, None).is_err() || self.check_proc().is_err()
        {
            self.mount(Some(other), PROC, None, libc::MS_BIND | libc::MS_REC, None)?;
        }
        self.set_propagation(PROC, libc::MS_PRIVATE | libc::MS_REC)?;
        self.check_proc()
    }

    fn check_proc(&self) -> SysResult<()> {
        let proc = open(self.top.as_fd(), PROC, DIRECTORY)?;
        let stat = rustix::fs::fstat(&proc).map_err(failed("fstat", || "proc".into()))?;
        let descriptors = open(proc.as_fd(), c"self/fd", DIRECTORY)?;
        if magic(proc.as_fd())? == PROC_SUPER_MAGIC
            && stat.st_ino == PROC_ROOT_INODE
            && self.mount_id(proc.as_fd())? == self.mount_id(descriptors.as_fd())?
        {
            return Ok(());
        }
        let arguments = "something is mounted on /proc/self/fd, or /proc is no proc".to_owned();
        Err(SysError { syscall: "openat", errno: libc::EXDEV, arguments })
    }

    /// The path of a descriptor, for [`Staging::mount`].
    pub(super) fn path_of(fd: BorrowedFd<'_>) -> CString {
        let path = [PROC.to_bytes(), format!("/self/fd/{}", fd.as_raw_fd()).as_bytes()].concat();
        CString::new(path).unwrap_or_default()
    }

    /// mount(2), with paths that are relative to the place.
    pub(super) fn mount(
        &self,
        source: Option<&CStr>,
        target: &CStr,
        fstype: Option<&CStr>,
        flags: u64,
        data: Option<&CStr>,
    ) -> SysResult<()> {
        rustix::process::fchdir(&self.top).map_err(failed("fchdir", String::new))?;
        call(source, target, fstype, flags, data)
    }

    /// A name to mount something on.
    pub(super) fn slot(&self, directory: bool) -> SysResult<CString> {
        let number = self.next.get();
        self.next.set(number + 1);
        let name = CString::new(number.to_string()).unwrap_or_default();
        if directory {
            make_directory(&self.top, &name)?;
        } else {
            rustix::fs::mknodat(&self.top, &name, FileType::RegularFile, Mode::empty(), 0)
                .map_err(failed("mknodat", || format!("{name:?}")))?;
        }
        Ok(name)
    }

    /// What is mounted on a name.
    pub(super) fn open_slot(&self, name: &CStr) -> SysResult<OwnedFd> {
        open(self.top.as_fd(), name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC)
    }

    /// A copy of the mount at the descriptor that isn't attached anywhere else yet.
    pub(super) fn bind(&self, file: BorrowedFd<'_>, recursive: bool) -> SysResult<OwnedFd> {
        let slot = self.slot(is_directory(file)?)?;
        let flags = libc::MS_BIND | if recursive { libc::MS_REC } else { 0 };
        self.mount(Some(&Self::path_of(file)), &slot, None, flags, None)?;
        // What comes to be mounted below it from here on is noticed.
        let watched = self.have_mounts_changed().is_ok();
        let alone = watched && self.has_nothing_below(&slot);
        let copy = self.open_slot(&slot)?;
        self.alone.set(if alone { Some(self.mount_id(copy.as_fd())?) } else { None });
        Ok(copy)
    }

    /// Whether nothing is mounted below what is mounted on a name, and nobody uses it: then it could expire, which it is only
    /// marked for the first time. `false` if it isn't known. The mount table would tell, but it is read as a whole.
    #[expect(
        clippy::disallowed_methods,
        reason = "`.`, or a name of our own in a directory that was entered by its descriptor"
    )]
    fn has_nothing_below(&self, slot: &CStr) -> bool {
        let flags = rustix::mount::UnmountFlags::EXPIRE | rustix::mount::UnmountFlags::NOFOLLOW;
        rustix::process::fchdir(&self.top).is_ok()
            && rustix::mount::unmount(slot, flags) == Err(rustix::io::Errno::AGAIN)
    }

    /// Whether mounts of this namespace have changed since this was asked last.
    fn have_mounts_changed(&self) -> SysResult<bool> {
        if self.watch.get().is_none() {
            let path = CString::new([PROC.to_bytes(), b"/self/mountinfo"].concat()).unwrap_or_default();
            let file = open(self.top.as_fd(), &path, OFlags::RDONLY | OFlags::CLOEXEC)?;
            let _ = self.watch.set(file);
        }
        let Some(watch) = self.watch.get() else { return Ok(true) };
        let mut fds = [rustix::event::PollFd::new(watch, rustix::event::PollFlags::PRI)];
        let now = rustix::event::Timespec::default();
        rustix::event::poll(&mut fds, Some(&now)).map_err(failed("poll", String::new))?;
        Ok(fds[0].revents().intersects(rustix::event::PollFlags::PRI | rustix::event::PollFlags::ERR))
    }

    /// Moves a mount to where a descriptor is.
    pub(super) fn move_to(&self, mount: BorrowedFd<'_>, destination: BorrowedFd<'_>) -> SysResult<()> {
        self.mount(Some(&Self::path_of(mount)), &Self::path_of(destination), None, libc::MS_MOVE, None)
    }

    pub(super) fn set_propagation(&self, target: &CStr, flags: u64) -> SysResult<()> {
        self.mount(None, target, None, flags, None)
    }

    /// Changes the attributes of one mount. mount(2) takes all of them each time, so the others are said again.
    pub(super) fn remount(&self, mount: BorrowedFd<'_>, set: u64, clear: u64) -> SysResult<()> {
        let mut current = attributes(mount)?;
        if current & attr::RDONLY != 0 && (set | clear) & attr::RDONLY == 0 {
            // That may be the superblock's alone, and must not become the mount's.
            if let Some(entry) = self.entry(mount)? {
                current = current & !attr::RDONLY | entry.attributes() & attr::RDONLY;
            }
        }
        let wanted = current & !clear | set;
        // Without a word about access times they are kept.
        let times = attr::ATIME | attr::NODIRATIME;
        let mut flags = mount_flags(wanted);
        if (set | clear) & times == 0 {
            flags &= !(libc::MS_NOATIME | libc::MS_STRICTATIME | libc::MS_RELATIME | libc::MS_NODIRATIME);
        }
        let flags = flags | libc::MS_REMOUNT | libc::MS_BIND;
        self.mount(None, &Self::path_of(mount), None, flags, None)?;
        check_nosymfollow(mount, set)
    }

    /// Changes the attributes of a mount and of all below it. A mount that others cover can't be reached, from inside the
    /// container either, and is left.
    pub(super) fn remount_all(&self, mount: BorrowedFd<'_>, set: u64, clear: u64) -> SysResult<()> {
        let id = self.mount_id(mount)?;
        let alone = self.alone.take() == Some(id) && !self.have_mounts_changed()?;
        self.remount(mount, set, clear)?;
        if alone || !is_directory(mount)? {
            return Ok(());
        }
        // What is renamed on the way meanwhile is looked for again.
        for _ in 0..16 {
            let table = self.table(mount)?;
            let below: BTreeSet<u64> =
                table.iter().map(|entry| entry.id).filter(|other| *other != id).collect();
            let mut moved = false;
            for entry in table.iter().filter(|entry| entry.id != id) {
                match open_entry(mount, entry) {
                    Ok(found) => {
                        let found_id = self.mount_id(found.as_fd())?;
                        if found_id == entry.id {
                            self.remount(found.as_fd(), set, clear)?;
                        } else if found_id != id && !below.contains(&found_id) {
                            moved = true;
                        }
                    }
                    // The directory it is on has been removed by somebody.
                    Err(_) if entry.destination.as_bytes().ends_with(b"//deleted") => {}
                    Err(error) if [libc::ENOENT, libc::ENOTDIR, libc::ELOOP].contains(&error.errno) => {
                        moved = true;
                    }
                    Err(error) => return Err(error),
                }
            }
            if !moved {
                return Ok(());
            }
        }
        let arguments = "mounts that are moved again and again".to_owned();
        Err(SysError { syscall: "mount", errno: libc::EAGAIN, arguments })
    }

    /// What the mount table says about a mount.
    pub(super) fn entry(&self, mount: BorrowedFd<'_>) -> SysResult<Option<Entry>> {
        let id = self.mount_id(mount)?;
        let top = if is_directory(mount)? { mount } else { self.top.as_fd() };
        Ok(self.table(top)?.into_iter().find(|entry| entry.id == id))
    }

    /// The part of the mount table that is a mount and all below it: only a process whose root it is is shown that, and no
    /// more. What it is attached to doesn't matter.
    #[expect(clippy::disallowed_methods, reason = "`.` is a directory that was entered by its descriptor")]
    fn table(&self, mount: BorrowedFd<'_>) -> SysResult<Vec<Entry>> {
        rustix::process::fchdir(mount).map_err(failed("fchdir", String::new))?;
        rustix::process::chroot(c".").map_err(failed("chroot", String::new))?;
        let path = [PROC.to_bytes(), b"/self/mountinfo"].concat();
        let path = CString::new(path).unwrap_or_default();
        let file = open(self.top.as_fd(), &path, OFlags::RDONLY | OFlags::CLOEXEC);
        self.return_to_root()?;
        Ok(mountinfo::parse(&read_to_end(file?.as_fd())?))
    }

    #[expect(clippy::disallowed_methods, reason = "`.` is a directory that was entered by its descriptor")]
    fn return_to_root(&self) -> SysResult<()> {
        rustix::process::fchdir(&*self.root.borrow()).map_err(failed("fchdir", String::new))?;
        rustix::process::chroot(c".").map_err(failed("chroot", || "\".\"".into()))
    }

    /// Makes the host's tree the root of the mount namespace again, where a process that joins it finds itself, and does away
    /// with the place and what is left in it.
    #[expect(clippy::disallowed_methods, reason = "`/` of this process, which has just been entered")]
    pub(super) fn dissolve(self) -> SysResult<()> {
        rustix::process::fchdir(&self.top).map_err(failed("fchdir", String::new))?;
        rustix::process::chroot(c".").map_err(failed("chroot", String::new))?;
        rustix::process::fchdir(&*self.root.borrow()).map_err(failed("fchdir", String::new))?;
        // The place is on top of the new root then.
        rustix::process::pivot_root(c".", c".").map_err(failed("pivot_root", || "\".\", \".\"".into()))?;
        rustix::mount::unmount(c".", rustix::mount::UnmountFlags::DETACH)
            .map_err(failed("umount2", || "\".\", MNT_DETACH".into()))?;
        rustix::process::chdir(c"/").map_err(failed("chdir", || "\"/\"".into()))
    }

    /// Makes a mount the root of this process, and detaches the host's tree.
    #[expect(clippy::disallowed_methods, reason = "`/` of this process, which has just been entered")]
    pub(super) fn enter(&self, root: BorrowedFd<'_>) -> SysResult<()> {
        let slot = self.open_slot(&self.slot(true)?)?;
        self.move_to(root, slot.as_fd())?;
        *self.root.borrow_mut() = rustix::io::fcntl_dupfd_cloexec(root, 0)
            .map_err(failed("fcntl", || root.as_raw_fd().to_string()))?;
        self.return_to_root()?;
        // A slave and not private: a private one would keep mounts of the host busy that are unmounted there. What is
        // unmounted here must not be unmounted there.
        self.set_propagation(HOST, libc::MS_SLAVE | libc::MS_REC)?;
        self.unmount(HOST)?;
        rustix::process::chdir(c"/").map_err(failed("chdir", || "\"/\"".into()))
    }

    /// Leaves nothing in the place but the root, which is mounted on it: each way up from there comes back to it. As with
    /// the stub namespace, see `Kernel::enter_root_by_stub`.
    #[expect(clippy::disallowed_methods, reason = "`/` of this process, which has just been entered")]
    pub(super) fn clear(&self) -> SysResult<()> {
        let root = self.root.borrow();
        let own = self.mount_id(root.as_fd())?;
        let entries = open(self.top.as_fd(), c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC)?;
        for entry in Dir::new(entries).map_err(failed("openat", String::new))? {
            let entry = entry.map_err(failed("getdents64", String::new))?;
            let name = entry.file_name();
            if [c".", c"..", PROC].contains(&name) || self.mount_id(self.open_slot(name)?.as_fd())? == own {
                continue;
            }
            match self.unmount(name) {
                // Nothing is mounted on it any more.
                Err(error) if error.errno == libc::EINVAL => {}
                other => other?,
            }
        }
        let readonly =
            libc::MS_REMOUNT | libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        self.mount(None, c".", None, readonly, None)?;
        self.mount(Some(&Self::path_of(root.as_fd())), c".", None, libc::MS_MOVE, None)?;
        self.unmount(PROC)?;
        rustix::process::chdir(c"/").map_err(failed("chdir", || "\"/\"".into()))
    }

    /// The id of a mount as mountinfo has it.
    fn mount_id(&self, fd: BorrowedFd<'_>) -> SysResult<u64> {
        self.linux.reusable_mount_id(fd)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "`.`, or a name of our own in a directory that was entered by its descriptor"
    )]
    fn unmount(&self, name: &CStr) -> SysResult<()> {
        rustix::process::fchdir(&self.top).map_err(failed("fchdir", String::new))?;
        let flags = rustix::mount::UnmountFlags::DETACH | rustix::mount::UnmountFlags::NOFOLLOW;
        rustix::mount::unmount(name, flags).map_err(failed("umount2", || format!("{name:?}, MNT_DETACH")))
    }

    /// Takes away what a helper has mounted for itself. What it has made for the other process stays, until that one clears
    /// its own place.
    pub(super) fn leave(&self) -> SysResult<()> {
        self.unmount(PROC)
    }
}

/// What is at the place of a mount that is below another, through no symbolic link.
fn open_entry(top: BorrowedFd<'_>, entry: &Entry) -> SysResult<OwnedFd> {
    let mut current = open(top, c".", DIRECTORY)?;
    for name in entry.destination.components() {
        let name = CString::new(name).unwrap_or_default();
        current = open(current.as_fd(), &name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC)?;
    }
    Ok(current)
}

/// `MOUNT_ATTR_*` bits of the mount, and whether it or its superblock is read-only; `statfs(2)`.
pub(super) fn attributes(mount: BorrowedFd<'_>) -> SysResult<u64> {
    let stat = rustix::fs::fstatvfs(mount).map_err(failed("fstatfs", || mount.as_raw_fd().to_string()))?;
    let flags = stat.f_flag.bits();
    let mode = match (flags & ST_NOATIME != 0, flags & ST_RELATIME != 0) {
        (true, _) => attr::NOATIME,
        (false, true) => attr::RELATIME,
        (false, false) => attr::STRICTATIME,
    };
    Ok(FLAGS.iter().filter(|(.., flag)| flags & flag != 0).fold(mode, |bits, (bit, ..)| bits | bit))
}

/// A kernel before 5.10 takes the flag without a word.
pub(super) fn check_nosymfollow(mount: BorrowedFd<'_>, set: u64) -> SysResult<()> {
    if set & attr::NOSYMFOLLOW == 0 || attributes(mount)? & attr::NOSYMFOLLOW != 0 {
        return Ok(());
    }
    Err(SysError {
        syscall: "mount",
        errno: libc::EOPNOTSUPP,
        arguments: "MS_NOSYMFOLLOW, since Linux 5.10".into(),
    })
}

fn magic(fd: BorrowedFd<'_>) -> SysResult<u64> {
    rustix::fs::fstatfs(fd)
        .map(|stat| stat.f_type.cast_unsigned())
        .map_err(failed("fstatfs", || fd.as_raw_fd().to_string()))
}

fn is_directory(fd: BorrowedFd<'_>) -> SysResult<bool> {
    rustix::fs::fstat(fd)
        .map(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
        .map_err(failed("fstat", || fd.as_raw_fd().to_string()))
}

fn open(directory: BorrowedFd<'_>, path: &CStr, flags: OFlags) -> SysResult<OwnedFd> {
    rustix::fs::openat(directory, path, flags, Mode::empty())
        .map_err(failed("openat", || format!("{path:?}, {flags:?}")))
}

fn make_directory(directory: &OwnedFd, name: &CStr) -> SysResult<()> {
    rustix::fs::mkdirat(directory, name, Mode::RWXU).map_err(failed("mkdirat", || format!("{name:?}")))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place for mount(2): names in a directory of our own, or self/fd of a private procfs"
)]
fn call(
    source: Option<&CStr>,
    target: &CStr,
    fstype: Option<&CStr>,
    flags: u64,
    data: Option<&CStr>,
) -> SysResult<()> {
    let pointer = |text: Option<&CStr>| text.map_or(ptr::null(), CStr::as_ptr);
    // SAFETY: every pointer is null or a NUL-terminated string that outlives the call.
    let result = unsafe {
        libc::mount(pointer(source), target.as_ptr(), pointer(fstype), flags, pointer(data).cast())
    };
    if result == 0 {
        return Ok(());
    }
    let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    let text = |text: Option<&CStr>| text.map_or("NULL".to_owned(), |text| format!("{text:?}"));
    let arguments = format!("{}, {target:?}, {}, {flags:#x}, {}", text(source), text(fstype), text(data));
    Err(SysError { syscall: "mount", errno, arguments })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_time_mode_is_always_said() {
        assert_eq!(mount_flags(0), libc::MS_RELATIME);
        assert_eq!(mount_flags(attr::STRICTATIME | attr::RDONLY), libc::MS_STRICTATIME | libc::MS_RDONLY);
        assert_eq!(
            mount_flags(attr::NOATIME | attr::NODIRATIME | attr::PLAIN),
            libc::MS_NOATIME
                | libc::MS_NODIRATIME
                | libc::MS_RDONLY
                | libc::MS_NOSUID
                | libc::MS_NODEV
                | libc::MS_NOEXEC
        );
        assert_eq!(mount_flags(attr::NOSYMFOLLOW), libc::MS_RELATIME | MS_NOSYMFOLLOW);
    }

    #[test]
    fn the_attributes_of_a_mount_are_those_of_the_mount_table() {
        let linux = Linux::default();
        let proc = open(rustix::fs::CWD, c"/proc", DIRECTORY).unwrap();
        let id = linux.reusable_mount_id(proc.as_fd()).unwrap();
        let text = linux.open_proc_self("mountinfo", OFlags::RDONLY | OFlags::CLOEXEC).unwrap();
        let table = mountinfo::parse(&read_to_end(text.as_fd()).unwrap());
        let entry = table.iter().find(|entry| entry.id == id).unwrap();
        assert_eq!(attributes(proc.as_fd()).unwrap(), entry.attributes());
    }
}
