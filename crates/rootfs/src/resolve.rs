//! Finding a destination inside the root, and making it where it is missing, so that nothing in the tree can lead out.
//!
//! What exists is resolved in one call of the kernel ([`Kernel::resolve`]). What is missing is walked a component at a
//! time, each one relative to a descriptor that is already held, so that another process may move and replace things meanwhile: a
//! component is opened without following it, a symbolic link's text is put in front of what is left to walk, and `..`
//! goes back along the held descriptors and never to the filesystem.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode, Result, SysError, SysResult};
use crate::kernel::{FileKind, FileStatus, Follow, Kernel, NodeKind};
use crate::path::PathBytes;

/// As many links as the kernel follows; `path_resolution(7)`.
const MAX_LINKS: usize = 40;
/// How often a component that keeps changing is tried again.
const MAX_RETRIES: usize = 128;

/// What a missing destination is made as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Missing {
    /// A directory, mode 0755.
    Directory,
    /// An empty file, mode 0644.
    File,
    /// An empty file that nobody may open, mode 000: a device node is bound on it.
    Placeholder,
    /// Nothing: it is an error.
    Error,
}

/// Where a walk is: enough to say where on the host it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The mount that was entered last and is known to the walker.
    pub mount: u64,
    /// The way from that mount's root.
    pub relative: PathBytes,
}

/// What makes names. One implementation only calls the kernel; others keep a journal, or ask for help.
pub trait Maker {
    /// Whether a mount is known, so that places are told relative to it.
    fn knows_mount(&self, mount: u64) -> bool;
    /// Makes a directory, or an empty file, in `parent`. `false` if somebody else was quicker.
    fn make(
        &mut self,
        parent: BorrowedFd<'_>,
        place: &Place,
        name: &PathBytes,
        what: Missing,
    ) -> Result<bool>;
    /// What has just been made.
    fn made(&mut self, place: &Place, name: &PathBytes, what: Missing, status: &FileStatus) -> Result<()>;
}

/// A destination that was found or made.
#[derive(Debug)]
pub struct Resolved {
    /// The destination, `O_PATH`.
    pub fd: OwnedFd,
    /// What it is.
    pub status: FileStatus,
    /// Its place inside the root without any symbolic link, where the walk had to go there itself.
    pub path: Option<PathBytes>,
    /// Whether it was made.
    pub created: bool,
    /// Whether no symbolic link was on the way, where that is known. For the bookkeeping of names: it can change at any time.
    pub linkless: bool,
}

/// Turns a failed resolution into an error that says what it means.
pub fn resolution_error(path: &PathBytes, call: &SysError) -> Box<Error> {
    let (code, what) = match Errno::from_raw(call.errno) {
        Errno::EAGAIN => (ErrorCode::Race, "kept changing while it was resolved"),
        Errno::EXDEV => (ErrorCode::Escape, "would leave the root"),
        Errno::ELOOP => (ErrorCode::Mount, "passes through too many, or forbidden, symbolic links"),
        Errno::ENOTDIR if path.names_a_directory() => {
            (ErrorCode::Mount, "ends in a slash, and is or passes through something that is no directory")
        }
        Errno::ENOTDIR => (ErrorCode::Mount, "passes through something that is no directory"),
        _ => (ErrorCode::Mount, "can't be resolved in the root"),
    };
    Error::from_call(code, format!("{path} {what}"), call)
}

/// Resolves inside the root, trying again a bounded number of times while the kernel says that something moved.
pub fn resolve(
    kernel: &dyn Kernel,
    root: BorrowedFd<'_>,
    path: &PathBytes,
    follow: Follow,
) -> SysResult<OwnedFd> {
    let mut tries = 0;
    loop {
        match kernel.resolve(root, path, follow) {
            Err(call) if call.is(Errno::EAGAIN) && tries < MAX_RETRIES => tries += 1,
            other => return other,
        }
    }
}

/// Finds a destination, and makes it when it is missing.
pub fn resolve_or_make(
    kernel: &dyn Kernel,
    root: BorrowedFd<'_>,
    path: &PathBytes,
    missing: Missing,
    maker: &mut dyn Maker,
) -> Result<Resolved> {
    // Mostly there is no link, and then that is known with one call.
    let (found, linkless) = match resolve(kernel, root, path, Follow::None) {
        Err(call) if call.is(Errno::ELOOP) => (resolve(kernel, root, path, Follow::All), false),
        found => (found, true),
    };
    match found {
        Ok(fd) => {
            let status = kernel.status(fd.as_fd()).map_err(|call| resolution_error(path, &call))?;
            Ok(Resolved { fd, status, path: None, created: false, linkless })
        }
        Err(call) if call.is(Errno::ENOENT) && missing != Missing::Error => {
            Walk::new(kernel, root, path)?.run(missing, maker)
        }
        Err(call) => Err(resolution_error(path, &call)),
    }
}

/// Looks at one path after the other. Where several in turn are in the same directory, that is opened once for all of them, and
/// afterwards must still be where its path leads: others may move it meanwhile.
pub struct Siblings<'a> {
    kernel: &'a dyn Kernel,
    root: BorrowedFd<'a>,
    /// How links are followed on the way to the directory. The last name is never followed.
    follow: Follow,
    /// The directory of the last one, and what it leads to if another was in it.
    last: Option<(PathBytes, Option<OwnedFd>)>,
    moved: Option<PathBytes>,
}

impl<'a> Siblings<'a> {
    /// None was looked at yet.
    pub fn new(kernel: &'a dyn Kernel, root: BorrowedFd<'a>, follow: Follow) -> Self {
        Self { kernel, root, follow, last: None, moved: None }
    }

    /// What a path leads to, if the one before was in the same directory. `None` if it wasn't, or that can't be told.
    pub fn status(&mut self, path: &PathBytes) -> Option<FileStatus> {
        let (parent, name) = path.split_last()?;
        if self.last.as_ref().is_none_or(|(last, _)| last.as_bytes() != parent) {
            self.leave();
            self.last = Some((PathBytes::new(parent), None));
            return None;
        }
        let (parent, directory) = self.last.as_mut()?;
        if directory.is_none() && !parent.is_top() {
            *directory = Some(resolve(self.kernel, self.root, parent, self.follow).ok()?);
        }
        let directory = directory.as_ref().map_or(self.root, AsFd::as_fd);
        self.kernel.status_in(directory, &PathBytes::new(name)).ok()
    }

    /// The first directory that is no longer where its path leads. Only without one is what was told true of the paths.
    pub fn moved(mut self) -> Option<PathBytes> {
        self.leave();
        self.moved
    }

    fn leave(&mut self) {
        let Some((path, Some(directory))) = self.last.take() else { return };
        let identity = |file: BorrowedFd<'_>| {
            let status = self.kernel.status(file).ok()?;
            Some((status.mount, status.device, status.inode))
        };
        let again = resolve(self.kernel, self.root, &path, self.follow).ok();
        let there = again.and_then(|again| identity(again.as_fd()));
        if there.is_none() || there != identity(directory.as_fd()) {
            self.moved.get_or_insert(path);
        }
    }
}

/// The top of a mount that is held, which may be a file.
pub fn top_of(kernel: &dyn Kernel, mount: BorrowedFd<'_>) -> SysResult<(OwnedFd, FileStatus)> {
    let fd = rustix::io::fcntl_dupfd_cloexec(mount, 0)
        .map_err(|errno| SysError::new("fcntl", errno, "F_DUPFD_CLOEXEC"))?;
    let status = kernel.status(fd.as_fd())?;
    Ok((fd, status))
}

/// Finds a name in a mount that is held, and makes it when it is missing. `None` if a symbolic link is on the way: it may
/// lead out of the mount.
pub fn make_below(
    kernel: &dyn Kernel,
    (mount, id): (BorrowedFd<'_>, u64),
    path: &PathBytes,
    missing: Missing,
    maker: &mut dyn Maker,
) -> Result<Option<Resolved>> {
    if path.components().next().is_none() {
        let (fd, status) = top_of(kernel, mount).map_err(|call| resolution_error(path, &call))?;
        return Ok(Some(Resolved { fd, status, path: None, created: false, linkless: false }));
    }
    // A single name is looked up by the walk itself.
    if path.components().nth(1).is_some() || missing == Missing::Error {
        match resolve(kernel, mount, path, Follow::None) {
            Ok(fd) => {
                let status = kernel.status(fd.as_fd()).map_err(|call| resolution_error(path, &call))?;
                return Ok(Some(Resolved { fd, status, path: None, created: false, linkless: false }));
            }
            Err(call) if call.is(Errno::ELOOP) => return Ok(None),
            Err(call) if call.is(Errno::ENOENT) && missing != Missing::Error => {}
            Err(call) => return Err(resolution_error(path, &call)),
        }
    }
    let walk = Walk { links: None, ..Walk::from(kernel, mount, id, path) };
    match walk.run(missing, maker) {
        Err(error) if error.errno == Some(libc::ELOOP) => Ok(None),
        other => other.map(Some),
    }
}

/// The path of something that is there, without symbolic links and `..`.
pub fn plain_path(
    kernel: &dyn Kernel,
    root: BorrowedFd<'_>,
    path: &PathBytes,
    maker: &mut dyn Maker,
) -> Result<PathBytes> {
    let resolved = Walk::new(kernel, root, path)?.run(Missing::Error, maker)?;
    Ok(resolved.path.unwrap_or_else(|| path.normalized()))
}

/// Where something that is there has its place: relative to the last mount on the way that is known. `None` if what the path
/// names is another thing by now.
pub fn place_of(
    kernel: &dyn Kernel,
    root: BorrowedFd<'_>,
    path: &PathBytes,
    expected: &FileStatus,
    maker: &mut dyn Maker,
) -> Result<Option<Place>> {
    let mut walk = Walk::new(kernel, root, path)?;
    let last = walk.go(Missing::Error, maker)?;
    let place = walk.place();
    let status = walk.finish(last)?.status;
    let same = (status.device, status.inode) == (expected.device, expected.inode);
    Ok(same.then_some(place))
}

struct Level {
    /// `None` for the root itself.
    fd: Option<OwnedFd>,
    name: PathBytes,
    place: Place,
}

struct Walk<'a> {
    kernel: &'a dyn Kernel,
    root: BorrowedFd<'a>,
    path: &'a PathBytes,
    left: VecDeque<PathBytes>,
    levels: Vec<Level>,
    /// How many links were followed; `None` if none may be.
    links: Option<usize>,
    /// Whether the path, or a link at its end, can only name a directory.
    must_be_directory: bool,
    created: bool,
}

impl<'a> Walk<'a> {
    fn new(kernel: &'a dyn Kernel, root: BorrowedFd<'a>, path: &'a PathBytes) -> Result<Self> {
        let mount = kernel.mount_id(root).map_err(|call| resolution_error(path, &call))?;
        Ok(Self::from(kernel, root, mount, path))
    }

    fn from(kernel: &'a dyn Kernel, root: BorrowedFd<'a>, mount: u64, path: &'a PathBytes) -> Self {
        let place = Place { mount, relative: PathBytes::default() };
        Self {
            kernel,
            root,
            path,
            left: path.components().map(PathBytes::new).collect(),
            levels: vec![Level { fd: None, name: PathBytes::default(), place }],
            links: Some(0),
            must_be_directory: path.names_a_directory(),
            created: false,
        }
    }

    fn run(mut self, missing: Missing, maker: &mut dyn Maker) -> Result<Resolved> {
        let last = self.go(missing, maker)?;
        self.finish(last)
    }

    /// Walks to the end. What is there, if that is known.
    fn go(&mut self, missing: Missing, maker: &mut dyn Maker) -> Result<Option<FileStatus>> {
        let mut retries = 0;
        let mut last: Option<FileStatus> = None;
        while let Some(name) = self.left.pop_front() {
            if name.as_bytes() == b".." {
                if last.is_some_and(|status| status.kind != FileKind::Directory) {
                    return Err(self.no_directory(&name));
                }
                if self.levels.len() > 1 {
                    self.levels.pop();
                    last = None;
                }
                continue;
            }
            // A file in the middle of the way has nothing below it; the kernel says so when it is opened.
            match self.kernel.resolve(self.current(), &name, Follow::AllButLast) {
                Ok(fd) => {
                    let status = self.kernel.status(fd.as_fd()).map_err(|call| self.error(&call))?;
                    if status.kind == FileKind::Symlink {
                        self.follow(&fd)?;
                    } else {
                        if self.left.is_empty()
                            && self.must_be_directory
                            && status.kind != FileKind::Directory
                        {
                            return Err(self.no_directory(&name));
                        }
                        self.enter(fd, name, status.mount, maker);
                        last = Some(status);
                    }
                }
                Err(call) if call.is(Errno::ENOENT) => {
                    let what = if self.left.is_empty() { missing } else { Missing::Directory };
                    if self.must_be_directory && matches!(what, Missing::File | Missing::Placeholder) {
                        return Err(self.no_file());
                    }
                    retries += 1;
                    if retries > MAX_RETRIES {
                        return Err(self.error(&SysError { errno: libc::EAGAIN, ..call }));
                    }
                    last = self.make(name, what, maker)?;
                }
                Err(call) => return Err(self.error(&call)),
            }
        }
        Ok(last)
    }

    fn current(&self) -> BorrowedFd<'_> {
        self.levels.last().and_then(|level| level.fd.as_ref()).map_or(self.root, AsFd::as_fd)
    }

    fn error(&self, call: &SysError) -> Box<Error> {
        resolution_error(self.path, call)
    }

    fn no_directory(&self, name: &PathBytes) -> Box<Error> {
        self.error(&SysError { syscall: "openat2", errno: libc::ENOTDIR, arguments: format!("{name:?}") })
    }

    /// What `open(2)` says too where a file is to be made by such a name.
    fn no_file(&self) -> Box<Error> {
        let whose = if self.path.names_a_directory() { "" } else { "leads to a link that " };
        let what = "ends in a slash, which only the name of a directory can, and a file is to be made there";
        let mut error = Error::new(ErrorCode::Mount, format!("{} {whose}{what}", self.path));
        error.errno = Some(libc::ENOTDIR);
        error
    }

    /// Puts a link's text in front of what is left; an absolute one starts again at the root.
    fn follow(&mut self, link: &OwnedFd) -> Result<()> {
        let target = self.kernel.read_link(link.as_fd()).map_err(|call| self.error(&call))?;
        self.links = self.links.map(|links| links + 1);
        if self.links.is_none_or(|links| links > MAX_LINKS) {
            let call =
                SysError { syscall: "readlinkat", errno: libc::ELOOP, arguments: format!("{target:?}") };
            return Err(self.error(&call));
        }
        if target.is_absolute() {
            self.levels.truncate(1);
        }
        self.must_be_directory |= self.left.is_empty() && target.names_a_directory();
        let parts: Vec<_> = target.components().map(PathBytes::new).collect();
        for part in parts.into_iter().rev() {
            self.left.push_front(part);
        }
        Ok(())
    }

    fn enter(&mut self, fd: OwnedFd, name: PathBytes, mount: u64, maker: &dyn Maker) {
        let above = self.place();
        let place = if mount != above.mount && maker.knows_mount(mount) {
            Place { mount, relative: PathBytes::default() }
        } else {
            Place { mount: above.mount, relative: above.relative.join(&name) }
        };
        self.levels.push(Level { fd: Some(fd), name, place });
    }

    fn place(&self) -> Place {
        // The first level is never removed.
        self.levels
            .last()
            .map_or(Place { mount: 0, relative: PathBytes::default() }, |level| level.place.clone())
    }

    /// Makes a component and enters it: what it is then. If somebody else has put another thing there, the walk looks at
    /// that.
    fn make(&mut self, name: PathBytes, what: Missing, maker: &mut dyn Maker) -> Result<Option<FileStatus>> {
        let place = self.place();
        if what == Missing::Error {
            return Err(self.error(&SysError {
                syscall: "openat2",
                errno: libc::ENOENT,
                arguments: format!("{name:?}"),
            }));
        }
        let made = maker.make(self.current(), &place, &name, what)?;
        if !made {
            self.left.push_front(name);
            return Ok(None);
        }
        let fd = match self.kernel.resolve(self.current(), &name, Follow::AllButLast) {
            Ok(fd) => fd,
            Err(call) if call.is(Errno::ENOENT) => {
                self.left.push_front(name);
                return Ok(None);
            }
            Err(call) => return Err(self.error(&call)),
        };
        let status = self.kernel.status(fd.as_fd()).map_err(|call| self.error(&call))?;
        maker.made(&place, &name, what, &status)?;
        self.created = true;
        let kind = if what == Missing::Directory { FileKind::Directory } else { FileKind::Regular };
        if status.kind == kind {
            self.enter(fd, name, status.mount, maker);
            return Ok(Some(status));
        }
        self.left.push_front(name);
        Ok(None)
    }

    fn finish(mut self, last: Option<FileStatus>) -> Result<Resolved> {
        let mut path = PathBytes::default();
        for level in self.levels.iter().skip(1) {
            path = PathBytes::new([path.as_bytes(), b"/", level.name.as_bytes()].concat());
        }
        if self.levels.len() == 1 {
            path = PathBytes::from("/");
        }
        let fd = match self.levels.pop().and_then(|level| level.fd) {
            Some(fd) => fd,
            None => self
                .kernel
                .resolve(self.root, &"/".into(), Follow::All)
                .map_err(|call| resolution_error(self.path, &call))?,
        };
        let status = match last {
            Some(status) => status,
            None => self.kernel.status(fd.as_fd()).map_err(|call| resolution_error(self.path, &call))?,
        };
        Ok(Resolved { fd, status, path: Some(path), created: self.created, linkless: false })
    }
}

/// Makes a name with the kernel alone. `false` if somebody else was quicker.
pub fn make_with_kernel(
    kernel: &dyn Kernel,
    parent: BorrowedFd<'_>,
    name: &PathBytes,
    what: Missing,
) -> SysResult<bool> {
    let result = match what {
        Missing::Directory => kernel.make_directory(parent, name, 0o755),
        Missing::Placeholder => kernel.make_node(parent, name, NodeKind::Regular, 0),
        Missing::File | Missing::Error => kernel.make_node(parent, name, NodeKind::Regular, 0o644),
    };
    match result {
        // Somebody was quicker; the walk looks at what is there now.
        Err(call) if call.is(Errno::EEXIST) => Ok(false),
        other => other.map(|()| true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::linux::Linux;

    struct Simple<'a>(&'a Linux);

    impl Maker for Simple<'_> {
        fn knows_mount(&self, _: u64) -> bool {
            false
        }

        fn make(
            &mut self,
            parent: BorrowedFd<'_>,
            _: &Place,
            name: &PathBytes,
            what: Missing,
        ) -> Result<bool> {
            make_with_kernel(self.0, parent, name, what).map_err(|call| resolution_error(name, &call))
        }

        fn made(&mut self, _: &Place, _: &PathBytes, _: Missing, _: &FileStatus) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test makes its own files")]
    fn names_in_one_directory_are_told_as_by_their_paths() {
        let top = std::env::temp_dir().join(format!("rootfs-siblings-{}", std::process::id()));
        std::fs::create_dir_all(top.join("a/b")).unwrap();
        std::fs::write(top.join("a/file"), b"").unwrap();
        std::os::unix::fs::symlink("/a", top.join("link")).unwrap();
        std::os::unix::fs::symlink("b", top.join("a/away")).unwrap();
        for kernel in &[Linux::default(), Linux::without_openat2()] {
            let root = kernel.open_host(&top.clone().into(), true, false).unwrap();
            let inode = |path: &str, follow| {
                let file = resolve(kernel, root.as_fd(), &path.into(), follow).ok()?;
                Some(kernel.status(file.as_fd()).unwrap().inode)
            };
            for follow in [Follow::None, Follow::All] {
                let mut siblings = Siblings::new(kernel, root.as_fd(), follow);
                let mut look = |path: &str| siblings.status(&path.into()).map(|found| found.inode);
                assert_eq!(look("/a/b"), None, "the first in its directory");
                assert_eq!(look("/a/file"), inode("/a/file", follow));
                assert_eq!(look("/a/b"), inode("/a/b", follow));
                // The last name is never followed.
                assert_eq!(look("/a/away"), inode("/a/away", Follow::AllButLast));
                assert_eq!(look("/a/missing"), None);
                assert_eq!(look("/link/b"), None, "the first in its directory");
                // Not with links, or inside the root.
                assert_eq!(look("/link/file"), inode("/link/file", follow));
                assert_eq!(look("/link/b/"), None, "it ends in no name");
                assert_eq!(look("/link"), None, "the first in its directory");
                assert_eq!(look("/a"), inode("/a", follow));
                assert_eq!(siblings.moved(), None);

                let mut siblings = Siblings::new(kernel, root.as_fd(), follow);
                let mut look = |path: &str| siblings.status(&path.into()).map(|found| found.inode);
                assert_eq!([look("/a/b"), look("/a/file")], [None, inode("/a/file", follow)]);
                std::fs::rename(top.join("a"), top.join("moved")).unwrap();
                std::fs::create_dir(top.join("a")).unwrap();
                assert_eq!(look("/a/file"), inode("/moved/file", follow), "the directory is held");
                assert_eq!([look("/link"), look("/moved")], [None, inode("/moved", follow)]);
                assert_eq!(siblings.moved(), Some("/a/".into()));
                std::fs::remove_dir(top.join("a")).unwrap();
                std::fs::rename(top.join("moved"), top.join("a")).unwrap();
            }
        }
        std::fs::remove_dir_all(&top).unwrap();
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test makes its own files")]
    fn no_file_has_a_name_that_ends_in_a_slash() {
        let top = std::env::temp_dir().join(format!("rootfs-slash-{}", std::process::id()));
        std::fs::create_dir_all(top.join("a")).unwrap();
        std::fs::write(top.join("a/file"), b"").unwrap();
        std::os::unix::fs::symlink("missing/", top.join("a/link")).unwrap();
        let kernels = [Linux::default(), Linux::without_openat2()];
        for kernel in &kernels {
            let root = kernel.open_host(&top.clone().into(), true, false).unwrap();
            let make = |path: &str, missing| {
                resolve_or_make(kernel, root.as_fd(), &path.into(), missing, &mut Simple(kernel))
            };
            for path in
                ["/a/new/", "/a/new/.", "a/new//", "/a/link", "/a/link/", "/a/file/", "/a/../a/file/."]
            {
                for missing in [Missing::File, Missing::Placeholder] {
                    let error = make(path, missing).unwrap_err();
                    assert_eq!((error.code, error.errno), (ErrorCode::Mount, Some(libc::ENOTDIR)), "{path}");
                    assert!(error.message.starts_with(path), "{}", error.message);
                }
            }
            assert_eq!(std::fs::read_dir(top.join("a")).unwrap().count(), 2, "nothing was made");
        }
        let [kernel, _] = &kernels;
        let root = kernel.open_host(&top.clone().into(), true, false).unwrap();
        let held = kernel.resolve(root.as_fd(), &"/a".into(), Follow::All).unwrap();
        let below = |path: &str, missing| {
            make_below(kernel, (held.as_fd(), 0), &path.into(), missing, &mut Simple(kernel))
        };
        for path in ["/new/", "/file/", "/file/."] {
            assert_eq!(below(path, Missing::File).unwrap_err().errno, Some(libc::ENOTDIR), "{path}");
        }
        let made = below("/new/", Missing::Directory).unwrap().unwrap();
        assert_eq!((made.created, made.status.kind), (true, FileKind::Directory));
        std::fs::remove_dir_all(top).unwrap();
    }
}
