//! Opening a file inside a root for its content, so that no link in it leads out.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use pathrs::RootRef;
use pathrs::flags::OpenFlags;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::linux::{failed, from_pathrs, open_how};
use super::trial;
use crate::error::{SysError, SysResult};
use crate::path::PathBytes;

/// `openat2(2)` with `RESOLVE_IN_ROOT` and without magic links, or its emulation by `pathrs` where it is missing or a filter
/// refuses it. `mode` is for files that are made; the umask applies.
pub fn open_in_root(root: BorrowedFd<'_>, path: &PathBytes, flags: OFlags, mode: u32) -> SysResult<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let makes = flags.contains(OFlags::CREATE) || flags.contains(OFlags::TMPFILE);
    let given = if makes { Mode::from_bits_retain(mode) } else { Mode::empty() };
    match rustix::fs::openat2(root, path.as_path(), flags, given, resolve) {
        // The second can also be said of the file.
        Err(Errno::NOSYS | Errno::PERM) if trial::openat2().is_err() => emulated(root, path, flags, mode),
        result => result.map_err(failed("openat2", || {
            format!("{}, {path:?}, {}", root.as_raw_fd(), open_how(flags, resolve))
        })),
    }
}

fn emulated(root: BorrowedFd<'_>, path: &PathBytes, flags: OFlags, permissions: u32) -> SysResult<OwnedFd> {
    let root = RootRef::from_fd(root);
    let words = |flags: OFlags| OpenFlags::from_bits_retain(u64::from(flags.bits()));
    let fail = |error: pathrs::error::Error| from_pathrs(&error, path);
    let make = |flags| {
        use std::os::unix::fs::PermissionsExt;
        let given = std::fs::Permissions::from_mode(permissions);
        root.create_file(path.as_path(), words(flags), &given).map(OwnedFd::from).map_err(fail)
    };
    if flags.contains(OFlags::TMPFILE) || flags.contains(OFlags::CREATE | OFlags::EXCL) {
        return make(flags);
    }
    let existing = root
        .open_subpath(path.as_path(), words(flags.difference(OFlags::CREATE)))
        .map(OwnedFd::from)
        .map_err(fail);
    match existing {
        // What is there follows links; what is made does not.
        Err(call) if flags.contains(OFlags::CREATE) && call.is(nix::errno::Errno::ENOENT) => make(flags),
        other => other,
    }
}

/// Whether a path is refused only because it goes through a magic link, such as those of `/proc/PID/fd`.
pub fn passes_magic_link(root: BorrowedFd<'_>, path: &PathBytes) -> bool {
    // A lookup that is scoped to a root stops there with another error; nothing is opened for more than a look.
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let found = rustix::fs::openat2(root, path.as_path(), flags, Mode::empty(), ResolveFlags::IN_ROOT);
    matches!(found, Err(Errno::XDEV))
}

/// Has file operations of a descriptor wait, or not.
pub fn set_nonblocking(file: &OwnedFd, nonblocking: bool) -> SysResult<()> {
    rustix::io::ioctl_fionbio(file, nonblocking).map_err(failed("ioctl", || "FIONBIO".into()))
}

/// Makes a descriptor's number refer to another open file, in one step; `dup3(2)`.
pub fn replace(number: i32, file: &OwnedFd) -> SysResult<()> {
    // SAFETY: takes no memory. The caller owns the number: nothing else refers to the file it meant before.
    let result = unsafe { libc::dup3(file.as_raw_fd(), number, libc::O_CLOEXEC) };
    if result >= 0 {
        return Ok(());
    }
    let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    Err(SysError { syscall: "dup3", errno, arguments: format!("{}, {number}, O_CLOEXEC", file.as_raw_fd()) })
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests make and read their own files")]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::path::PathBuf;

    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str) -> Self {
            let top = std::env::temp_dir().join(format!("rootfs-open-{name}-{}", std::process::id()));
            std::fs::create_dir_all(top.join("root/etc")).unwrap();
            std::fs::write(top.join("root/etc/name"), "inside").unwrap();
            std::fs::write(top.join("name"), "outside").unwrap();
            for (target, link) in
                [("../name", "out"), ("/etc/name", "in"), ("loop", "loop"), ("/etc/new", "new")]
            {
                std::os::unix::fs::symlink(target, top.join("root").join(link)).unwrap();
            }
            Self(top)
        }

        fn root(&self) -> OwnedFd {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(self.0.join("root"), flags, Mode::empty()).unwrap()
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    type Opener = fn(BorrowedFd<'_>, &PathBytes, OFlags, u32) -> SysResult<OwnedFd>;

    /// Each case by the system call and by its emulation.
    fn each(name: &str, case: impl Fn(&Tree, &dyn Fn(&str, OFlags) -> SysResult<OwnedFd>)) {
        let openers: [(&str, Opener); 2] = [("openat2", open_in_root), ("emulated", emulated)];
        for (way, opener) in openers {
            let tree = Tree::new(&format!("{name}-{way}"));
            let root = tree.root();
            case(&tree, &|path, flags| opener(root.as_fd(), &path.into(), flags | OFlags::CLOEXEC, 0o600));
        }
    }

    fn text(file: OwnedFd) -> String {
        std::io::read_to_string(std::fs::File::from(file)).unwrap()
    }

    #[test]
    fn links_stay_inside() {
        each("links", |_, open| {
            for path in ["etc/name", "/etc/name", "in", "../etc/../../etc/name"] {
                assert_eq!(text(open(path, OFlags::RDONLY).unwrap()), "inside", "{path}");
            }
            assert!(open("out", OFlags::RDONLY).unwrap_err().is(nix::errno::Errno::ENOENT));
            assert!(open("loop", OFlags::RDONLY).unwrap_err().is(nix::errno::Errno::ELOOP));
        });
    }

    #[test]
    fn what_is_made_is_made_inside() {
        each("made", |tree, open| {
            let flags = OFlags::WRONLY | OFlags::CREATE;
            assert!(open("etc/made", flags).is_ok());
            assert!(open("etc/made", flags).is_ok());
            let exists = open("etc/made", flags | OFlags::EXCL).unwrap_err();
            assert!(exists.is(nix::errno::Errno::EEXIST), "{exists}");
            // A link to what isn't there: openat2 makes it inside, the emulation makes nothing through a link.
            let _ = open("new", flags);
            let _ = open("out", flags);
            assert_eq!(std::fs::read_to_string(tree.0.join("name")).unwrap(), "outside");
            let mut outside: Vec<_> =
                std::fs::read_dir(&tree.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            outside.sort();
            assert_eq!(outside, ["name", "root"]);
        });
    }

    #[test]
    fn a_number_is_replaced_in_one_step() {
        let tree = Tree::new("replaced");
        let root = tree.root();
        let file = open_in_root(root.as_fd(), &"etc/name".into(), OFlags::RDONLY, 0).unwrap();
        replace(root.as_raw_fd(), &file).unwrap();
        assert_eq!(text(root), "inside");
    }
}
