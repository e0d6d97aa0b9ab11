//! What `openat2(2)` does with `RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS`, for hosts where it is missing or refused.
//!
//! Each component is opened relative to the descriptor of the one before and never followed; a link's text is put in front of
//! what is left; `..` goes back along the descriptors that are held. So nothing that moves meanwhile leads out: no call of
//! this module ever goes up. It needs no /proc.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags};

use super::Follow;
use super::linux::{failed, number, open_flags};
use crate::error::{SysError, SysResult};
use crate::path::PathBytes;
use crate::procfs::PROC_SUPER_MAGIC;

/// As many links as the kernel follows; `path_resolution(7)`.
const MAX_LINKS: usize = 40;
/// `AAFS_MAGIC` of linux/magic.h: `AppArmor` has links like those of proc.
const AAFS_MAGIC: u64 = 0x5a3c_69f0;
/// The inode of a procfs's root directory, whose own links are ordinary ones.
const PROC_ROOT_INODE: u64 = 1;

/// Resolves a path inside a root.
pub(super) fn resolve(root: BorrowedFd<'_>, path: &PathBytes, follow: Follow) -> SysResult<OwnedFd> {
    let looping = || SysError {
        syscall: "openat2",
        errno: libc::ELOOP,
        arguments: format!("{}, {path:?}, RESOLVE_IN_ROOT (emulated)", number(root)),
    };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut held: Vec<OwnedFd> = Vec::new();
    let mut is_directory = true;
    let mut left: VecDeque<PathBytes> = parts(path).collect();
    let mut links = 0;
    while let Some(name) = left.pop_front() {
        if matches!(name.as_bytes(), b"." | b"..") {
            if !is_directory {
                return Err(SysError { errno: libc::ENOTDIR, ..looping() });
            }
            if name.as_bytes() == b".." {
                held.pop();
            }
            continue;
        }
        let parent = held.last().map_or(root, AsFd::as_fd);
        let file = rustix::fs::openat(parent, name.as_path(), flags, Mode::empty())
            .map_err(failed("openat", || format!("{}, {name:?}, {}", number(parent), open_flags(flags))))?;
        let stat = rustix::fs::statx(&file, c"", AtFlags::EMPTY_PATH, StatxFlags::TYPE)
            .map_err(failed("statx", || number(file.as_fd())))?;
        let kind = FileType::from_raw_mode(stat.stx_mode.into());
        if kind != FileType::Symlink {
            is_directory = kind == FileType::Directory;
            held.push(file);
            continue;
        }
        match follow {
            Follow::AllButLast if left.is_empty() => return Ok(file),
            Follow::None => return Err(looping()),
            Follow::All | Follow::AllButLast => {}
        }
        links += 1;
        if links > MAX_LINKS || is_magic(parent, file.as_fd())? {
            return Err(looping());
        }
        let target = rustix::fs::readlinkat(&file, c"", Vec::new())
            .map(|target| PathBytes::new(target.into_bytes()))
            .map_err(failed("readlinkat", || number(file.as_fd())))?;
        if target.is_absolute() {
            held.clear();
        }
        for part in parts(&target).rev() {
            left.push_front(part);
        }
    }
    if let Some(file) = held.pop() {
        return Ok(file);
    }
    // The root itself, as another descriptor of the same kind.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(root, c".", flags, Mode::empty())
        .map_err(failed("openat", || format!("{}, \".\", {}", number(root), open_flags(flags))))
}

/// The components of a path; with a slash, or a dot, at its end it must be a directory, which a last `.` stands for.
fn parts(path: &PathBytes) -> impl DoubleEndedIterator<Item = PathBytes> {
    let last = path.names_a_directory().then(|| PathBytes::from("."));
    path.components().map(PathBytes::new).chain(last)
}

/// Whether a link may lead where its text doesn't: any of proc's but those in its root directory, such as `self`.
fn is_magic(parent: BorrowedFd<'_>, link: BorrowedFd<'_>) -> SysResult<bool> {
    let magic = rustix::fs::fstatfs(link)
        .map(|stat| stat.f_type.cast_unsigned())
        .map_err(failed("fstatfs", || number(link)))?;
    if magic != PROC_SUPER_MAGIC {
        return Ok(magic == AAFS_MAGIC);
    }
    let stat = rustix::fs::fstat(parent).map_err(failed("fstat", || number(parent)))?;
    Ok(stat.st_ino != PROC_ROOT_INODE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Kernel;
    use crate::kernel::linux::Linux;
    use std::os::unix::fs::symlink;

    /// The same answers as the kernel's own call.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test makes its own files")]
    fn it_resolves_as_the_kernel_does() {
        let top = std::env::temp_dir().join(format!("rootfs-emulated-{}", std::process::id()));
        std::fs::create_dir_all(top.join("a/b/c")).unwrap();
        std::fs::write(top.join("a/file"), b"").unwrap();
        for (target, name) in [
            ("/a/b", "absolute"),
            ("../../../../../../a", "a/b/up"),
            ("a/b/../file", "to-file"),
            ("loop", "loop"),
            ("/absolute/c", "two"),
            ("/nowhere", "dangling"),
            ("/etc/passwd", "out"),
        ] {
            symlink(target, top.join(name)).unwrap();
        }
        let kernel = Linux::default();
        let root = kernel.open_host(&top.clone().into(), true, false).unwrap();
        let mut compared = 0;
        for path in [
            "/",
            ".",
            "..",
            "a",
            "/a/b/c",
            "a/b/../../../..",
            "absolute",
            "absolute/c",
            "a/b/up",
            "a/b/up/b",
            "to-file",
            "loop",
            "two",
            "two/..",
            "dangling",
            "out",
            "out/x",
            "a/file/x",
            "a/file/..",
            "a/file/",
            "a/file/.",
            "to-file/",
            "absolute/",
            "absolute/.",
            "missing",
            "missing/x",
            "a/./b//c",
        ] {
            for follow in [Follow::All, Follow::AllButLast, Follow::None] {
                let path = PathBytes::from(path);
                let look = |found: SysResult<OwnedFd>| match found {
                    Ok(fd) => {
                        kernel.status(fd.as_fd()).map(|status| (status.device, status.inode)).map_err(|_| 0)
                    }
                    Err(call) => Err(call.errno),
                };
                // Somebody else who renames things makes the kernel give up where there is a `..`.
                let real = loop {
                    match look(kernel.resolve(root.as_fd(), &path, follow)) {
                        Err(libc::EAGAIN) => {}
                        other => break other,
                    }
                };
                assert_eq!(look(resolve(root.as_fd(), &path, follow)), real, "{path} {follow:?}");
                compared += 1;
            }
        }
        std::fs::remove_dir_all(&top).unwrap();
        assert!(compared > 60);
    }

    #[test]
    fn links_of_proc_that_lead_elsewhere_are_refused() {
        let kernel = Linux::default();
        let root = kernel.open_host(&"/proc".into(), true, false).unwrap();
        for name in ["self/root", "self/fd/0", "self/cwd/x", "self/exe"] {
            let call = resolve(root.as_fd(), &name.into(), Follow::All).unwrap_err();
            assert_eq!(call.errno, libc::ELOOP, "{name}");
        }
        assert!(resolve(root.as_fd(), &"self/status".into(), Follow::All).is_ok());
    }
}
