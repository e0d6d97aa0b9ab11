//! Copying what is in a directory into a filesystem of our own, descriptor to descriptor: nothing on the way is looked up by
//! a path that somebody could change, no symbolic link is followed, and what is mounted below is not entered.
//!
//! The source may be changed by others meanwhile. A name that vanishes is left out, and a directory that is moved away
//! while it is read is an error (`EAGAIN`). Each name that is copied takes an inode of the target, so that a source that
//! grows without end ends with `ENOSPC`. Neither depth costs stack, nor costs it descriptors.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RawDir, SeekFrom, StatxFlags, Timespec, Timestamps, XattrFlags,
};
use rustix::io::Errno;

use super::Kernel;
use super::linux::{Linux, failed};
use super::overlay::{in_directory, name_of, own_descriptors};
use crate::error::{SysError, SysResult};
use crate::path::PathBytes;

/// What of the directory itself is copied besides its extended attributes and times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Top {
    /// Its owner.
    pub user: bool,
    /// Its group.
    pub group: bool,
    /// Its permission bits.
    pub mode: bool,
}

/// What was not copied, or not as it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Files whose owner or group has no id here: they belong to root, without set-id bits.
    pub owners: u64,
    /// Device nodes that may not be made here.
    pub devices: u64,
    /// Extended attributes that may not be set here.
    pub attributes: u64,
    /// Mountpoints: they are there, and empty.
    pub mounts: u64,
}

/// So many directories on the way down are kept open; the way back to others goes through `..`, and is checked.
const OPEN: usize = 32;
/// No directory with more names is read: one to which others add all the time would never end.
const MAX_NAMES: usize = 1 << 22;
/// What an id looks like that isn't mapped; `DEFAULT_OVERFLOWUID`.
const OVERFLOW: u32 = 65534;
/// `XATTR_LIST_MAX` and `XATTR_SIZE_MAX`.
const MAX_ATTRIBUTE: usize = 64 << 10;
const CHUNK: usize = 256 << 10;

const SOURCE: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const TARGET: OFlags = SOURCE.union(OFlags::NOFOLLOW);
const HANDLE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Device, inode and mount.
type Identity = (u32, u32, u64, u64);

/// What `statx(2)` says.
struct Status {
    kind: FileType,
    mode: u32,
    owner: (u32, u32),
    size: u64,
    links: u32,
    device: (u32, u32),
    identity: Identity,
    times: Timestamps,
}

fn status(file: BorrowedFd<'_>) -> Result<Status, Errno> {
    let stat =
        rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)?;
    let time =
        |time: rustix::fs::StatxTimestamp| Timespec { tv_sec: time.tv_sec, tv_nsec: time.tv_nsec.into() };
    let mode = u32::from(stat.stx_mode);
    Ok(Status {
        kind: FileType::from_raw_mode(mode),
        mode: mode & 0o7777,
        owner: (stat.stx_uid, stat.stx_gid),
        size: stat.stx_size,
        links: stat.stx_nlink,
        device: (stat.stx_rdev_major, stat.stx_rdev_minor),
        identity: (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino, stat.stx_mnt_id),
        times: Timestamps { last_access: time(stat.stx_atime), last_modification: time(stat.stx_mtime) },
    })
}

/// A directory on the way down.
struct Level {
    /// The source and the copy; closed where there are many below.
    open: Option<(OwnedFd, OwnedFd)>,
    status: Status,
    copy: Identity,
    names: Vec<CString>,
    /// Its place in [`Copy::places`].
    place: usize,
}

struct Copy<'a> {
    /// This process's descriptors as files: to open, and to change, what a descriptor is of.
    descriptors: BorrowedFd<'a>,
    to: BorrowedFd<'a>,
    mount: u64,
    /// Whether ids can be without one here: they all look like [`OVERFLOW`].
    mapped: bool,
    /// Directories that were made: the place of the parent, and the name in it. The first is the top.
    places: Vec<(usize, CString)>,
    /// Where the first name of a file with several is.
    links: HashMap<Identity, (usize, CString)>,
    buffer: Vec<u8>,
    copied: Copied,
}

/// Copies what is in `from` into `to`, which must be empty and nobody else's.
pub(super) fn copy(kernel: &Linux, from: BorrowedFd<'_>, to: BorrowedFd<'_>, top: Top) -> SysResult<Copied> {
    let descriptors = own_descriptors(kernel)?;
    let mapped = !kernel.in_initial_user_namespace()?;
    // Calls about extended attributes take a path, and no directory that it would be relative to.
    in_directory(descriptors.as_fd(), || {
        let begin = |errno| failed("openat", || "the directory that is copied".to_owned())(errno);
        let from = rustix::fs::openat(from, c".", SOURCE, Mode::empty()).map_err(begin)?;
        let target = rustix::fs::openat(to, c".", TARGET, Mode::empty()).map_err(begin)?;
        let mount = status(from.as_fd()).map_err(failed("statx", String::new))?.identity.3;
        let copy = Copy {
            descriptors: descriptors.as_fd(),
            to,
            mount,
            mapped,
            places: vec![(0, CString::default())],
            links: HashMap::new(),
            buffer: vec![0; CHUNK],
            copied: Copied::default(),
        };
        copy.run(from, target, top)
    })
}

impl Copy<'_> {
    fn run(mut self, from: OwnedFd, to: OwnedFd, top: Top) -> SysResult<Copied> {
        let mut levels =
            vec![Self::level(from, to, 0).map_err(|(call, errno)| self.error(call, errno, 0, c""))?];
        while let Some(level) = levels.last_mut() {
            let place = level.place;
            let Some(name) = level.names.pop() else {
                self.leave(&mut levels, top)?;
                continue;
            };
            let Some((from, to)) = &level.open else { break };
            let below = Self::entry(&mut self, from.as_fd(), to.as_fd(), place, &name)
                .map_err(|(call, errno)| self.error(call, errno, place, &name))?;
            if let Some(below) = below {
                levels.push(below);
                if let Some(above) = levels.len().checked_sub(OPEN + 1) {
                    levels[above].open = None;
                }
            }
        }
        Ok(self.copied)
    }

    /// Where in the tree something happened.
    fn error(&self, syscall: &'static str, errno: Errno, place: usize, name: &CStr) -> SysError {
        let mut names = vec![name];
        let mut at = place;
        // The whole way of a very deep tree would be no use to anybody.
        while at != 0 && names.len() < 20 {
            let (parent, name) = &self.places[at];
            names.push(name);
            at = *parent;
        }
        let text: Vec<String> = names.iter().rev().map(|name| name.to_string_lossy().into_owned()).collect();
        let dots = if at == 0 { "" } else { ".../" };
        SysError { syscall, errno: errno.raw_os_error(), arguments: format!("\"{dots}{}\"", text.join("/")) }
    }

    /// Begins with a directory: reads its names.
    fn level(from: OwnedFd, to: OwnedFd, place: usize) -> Step<Level> {
        let (at, copy) = (status(from.as_fd()).at("statx")?, status(to.as_fd()).at("statx")?.identity);
        let mut names = Vec::new();
        let mut buffer = Vec::with_capacity(32 << 10);
        let mut entries = RawDir::new(&from, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry.at("getdents64")?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                names.push(name.to_owned());
            }
            if names.len() > MAX_NAMES {
                return Err(("getdents64", Errno::TOOBIG));
            }
        }
        // They are taken from the end.
        names.reverse();
        Ok(Level { open: Some((from, to)), status: at, copy, names, place })
    }

    /// Ends with a directory: its attributes come last, because its content changes its times.
    fn leave(&mut self, levels: &mut Vec<Level>, top: Top) -> SysResult<()> {
        let Some(Level { open: Some((from, to)), status: at, place, .. }) = levels.pop() else {
            return Ok(());
        };
        let fail = |this: &Self, (call, errno)| this.error(call, errno, place, c"");
        let what = if place == 0 { top } else { Top { user: true, group: true, mode: true } };
        self.attributes(from.as_fd(), to.as_fd(), &at, what).map_err(|error| fail(self, error))?;
        if let Some(level) = levels.last_mut()
            && level.open.is_none()
        {
            let parent = |fd: &OwnedFd, expected: Identity| {
                let parent = rustix::fs::openat(fd, c"..", SOURCE, Mode::empty()).at("openat")?;
                let found = status(parent.as_fd()).at("statx")?.identity;
                if found == expected { Ok(parent) } else { Err(("openat", Errno::AGAIN)) }
            };
            let open = parent(&from, level.status.identity)
                .and_then(|from| Ok((from, parent(&to, level.copy)?)))
                .map_err(|error| fail(self, error))?;
            level.open = Some(open);
        }
        Ok(())
    }

    /// Copies one name. A directory is begun with, and returned.
    fn entry(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        place: usize,
        name: &CStr,
    ) -> Step<Option<Level>> {
        let file = match rustix::fs::openat(from, name, HANDLE, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.at("openat")?,
        };
        let at = status(file.as_fd()).at("statx")?;
        let existed = match self.make(&file, &at, to, place, name) {
            // Renamed while the names were read, it was there twice.
            Err((_, Errno::EXIST)) => return Ok(None),
            other => other?,
        };
        match existed {
            Made::Complete => {}
            Made::File(made) => {
                let every = Top { user: true, group: true, mode: at.kind != FileType::Symlink };
                self.attributes(file.as_fd(), made.as_fd(), &at, every)?;
            }
            Made::Directory(copy) => {
                let source =
                    rustix::fs::openat(self.descriptors, &*name_of(file.as_fd()), SOURCE, Mode::empty());
                let source = source.at("openat")?;
                self.places.push((place, name.to_owned()));
                return Self::level(source, copy, self.places.len() - 1).map(Some);
            }
        }
        Ok(None)
    }

    /// Makes the name, and what is in it unless it is a directory.
    fn make(
        &mut self,
        file: &OwnedFd,
        at: &Status,
        to: BorrowedFd<'_>,
        place: usize,
        name: &CStr,
    ) -> Step<Made> {
        let open = |flags| rustix::fs::openat(to, name, flags, Mode::empty()).at("openat");
        if at.identity.3 != self.mount {
            self.copied.mounts += 1;
            return match at.kind {
                FileType::Directory => {
                    rustix::fs::mkdirat(to, name, Mode::from_bits_retain(0o755)).at("mkdirat")
                }
                _ => rustix::fs::mknodat(to, name, FileType::RegularFile, Mode::from_bits_retain(0o644), 0)
                    .at("mknodat"),
            }
            .map(|()| Made::Complete);
        }
        if at.links > 1
            && at.kind != FileType::Directory
            && let Some((place, first)) = self.links.get(&at.identity)
        {
            let parent = self.open_place(*place)?;
            rustix::fs::linkat(&parent, &**first, to, name, AtFlags::empty()).at("linkat")?;
            return Ok(Made::Complete);
        }
        let made = match at.kind {
            FileType::Directory => {
                rustix::fs::mkdirat(to, name, Mode::RWXU).at("mkdirat")?;
                return open(TARGET).map(Made::Directory);
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(file, c"", Vec::new()).at("readlinkat")?;
                rustix::fs::symlinkat(&*target, to, name).at("symlinkat")?;
                open(HANDLE)?
            }
            FileType::RegularFile => {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let made = rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR).at("openat")?;
                let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                let source =
                    rustix::fs::openat(self.descriptors, &*name_of(file.as_fd()), flags, Mode::empty())
                        .at("openat")?;
                self.content(&source, &made, at.size)?;
                made
            }
            kind => {
                let device = rustix::fs::makedev(at.device.0, at.device.1);
                let node = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
                let device = if node { device } else { 0 };
                match rustix::fs::mknodat(to, name, kind, Mode::empty(), device) {
                    // A user namespace can't make them.
                    Err(Errno::PERM) if node => {
                        self.copied.devices += 1;
                        return Ok(Made::Complete);
                    }
                    other => other.at("mknodat")?,
                }
                open(HANDLE)?
            }
        };
        if at.links > 1 {
            self.links.insert(at.identity, (place, name.to_owned()));
        }
        Ok(Made::File(made))
    }

    /// A directory that was made, by its names from the top: there are only our own names on this way.
    fn open_place(&self, place: usize) -> Step<OwnedFd> {
        let mut names = Vec::new();
        let mut at = place;
        while at != 0 {
            let (parent, name) = &self.places[at];
            names.push(name);
            at = *parent;
        }
        let flags = HANDLE | OFlags::DIRECTORY;
        let top = rustix::fs::openat(self.to, c".", flags, Mode::empty()).at("openat")?;
        names.iter().rev().try_fold(top, |directory, name| {
            rustix::fs::openat(&directory, &***name, flags, Mode::empty()).at("openat")
        })
    }

    /// Copies a file's bytes; where it has none, the copy has none either.
    fn content(&mut self, from: &OwnedFd, to: &OwnedFd, size: u64) -> Step<()> {
        let (mut at, mut size) = (0, size);
        while at < size {
            let begin = match rustix::fs::seek(from, SeekFrom::Data(at)) {
                Err(Errno::NXIO) => break,
                // A filesystem that doesn't know of holes.
                Err(_) => at,
                Ok(begin) => begin,
            };
            let end = rustix::fs::seek(from, SeekFrom::Hole(begin)).unwrap_or(size).min(size);
            at = begin;
            while at < end {
                let wanted = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
                let count =
                    again(|| rustix::io::pread(from, &mut self.buffer[..wanted], at)).at("pread64")?;
                let mut rest = &self.buffer[..count];
                while !rest.is_empty() {
                    let written = again(|| rustix::io::pwrite(to, rest, at)).at("pwrite64")?;
                    at += written as u64;
                    rest = &rest[written..];
                }
                if count == 0 {
                    // Somebody has made it shorter.
                    (size, at) = (at, size);
                    break;
                }
            }
        }
        rustix::fs::ftruncate(to, size).at("ftruncate")
    }

    /// Owner, mode, extended attributes and times, in the order in which none undoes another.
    fn attributes(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, at: &Status, what: Top) -> Step<()> {
        let mut mode = at.mode;
        if !Self::owner(to, at, what)? {
            self.copied.owners += 1;
            mode &= 0o1777;
        }
        // Where the container has that id itself, it can't be told from one that isn't mapped.
        if self.mapped && [at.owner.0, at.owner.1].contains(&OVERFLOW) {
            mode &= 0o1777;
        }
        if what.mode {
            rustix::fs::chmodat(
                self.descriptors,
                &*name_of(to),
                Mode::from_bits_retain(mode),
                AtFlags::empty(),
            )
            .at("fchmodat")?;
        }
        self.extended_attributes(from, to)?;
        // An empty path is refused by older kernels, and the name of a descriptor stands for what it is of.
        rustix::fs::utimensat(self.descriptors, &*name_of(to), &at.times, AtFlags::empty()).at("utimensat")
    }

    /// Sets the owner. `false` where a part of it has no id in this user namespace.
    fn owner(to: BorrowedFd<'_>, at: &Status, what: Top) -> Step<bool> {
        let change = |user: Option<u32>, group: Option<u32>| {
            rustix::fs::chownat(
                to,
                c"",
                user.map(rustix::fs::Uid::from_raw),
                group.map(rustix::fs::Gid::from_raw),
                AtFlags::EMPTY_PATH,
            )
        };
        let (user, group) = (what.user.then_some(at.owner.0), what.group.then_some(at.owner.1));
        match change(user, group) {
            Err(Errno::INVAL) => {}
            other => return other.at("fchownat").map(|()| true),
        }
        for (user, group) in [(user, None), (None, group)] {
            match change(user, group) {
                Err(Errno::INVAL) => {}
                other => other.at("fchownat")?,
            }
        }
        Ok(false)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "self/fd of a procfs that nobody else has: these calls take no O_PATH descriptor"
    )]
    fn extended_attributes(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Step<()> {
        let (from, to) = (name_of(from), name_of(to));
        let (list, value) = self.buffer.split_at_mut(MAX_ATTRIBUTE);
        let count = match rustix::fs::listxattr(&*from, &mut *list) {
            Ok(0) | Err(Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS) => return Ok(()),
            other => other.at("listxattr")?,
        };
        for name in list[..count].split_inclusive(|byte| *byte == 0) {
            let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
            let bytes = name.to_bytes();
            // The label of what is new comes from the policy or from the mount, and the other is about this inode alone.
            if bytes == b"security.selinux" || bytes == b"security.evm" {
                continue;
            }
            let count = match rustix::fs::getxattr(&*from, name, &mut value[..MAX_ATTRIBUTE]) {
                Err(Errno::NODATA | Errno::OPNOTSUPP) => continue,
                other => other.at("getxattr")?,
            };
            match rustix::fs::setxattr(&*to, name, &value[..count], XattrFlags::empty()) {
                // Without its access list a file could be open to more than before.
                Err(errno) if bytes.starts_with(b"system.posix_acl_") => return Err(("setxattr", errno)),
                Err(Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS | Errno::INVAL) => {
                    self.copied.attributes += 1;
                }
                other => other.at("setxattr")?,
            }
        }
        Ok(())
    }
}

/// What became of a name.
enum Made {
    /// There is nothing more to do.
    Complete,
    /// Its attributes are missing.
    File(OwnedFd),
    /// Its content is missing.
    Directory(OwnedFd),
}

/// A call that failed, by its name.
type Step<T> = Result<T, (&'static str, Errno)>;

trait At<T> {
    fn at(self, syscall: &'static str) -> Step<T>;
}

impl<T> At<T> for Result<T, Errno> {
    fn at(self, syscall: &'static str) -> Step<T> {
        self.map_err(|errno| (syscall, errno))
    }
}

fn again<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// What of a copy its caller should know, as a sentence without an end; `None` if all was copied as it was.
pub fn describe(copied: &Copied, destination: &PathBytes) -> Option<String> {
    let parts: Vec<String> = [
        (copied.owners, "files have owners that are not mapped, and belong to root in the copy"),
        (copied.devices, "device nodes can't be made in a user namespace, and are missing"),
        (copied.attributes, "extended attributes can't be set here, and are missing"),
        (copied.mounts, "mountpoints are there, without what is mounted on them"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{count} {what}"))
    .collect();
    (!parts.is_empty()).then(|| format!("the copy in {destination} differs: {}", parts.join("; ")))
}
