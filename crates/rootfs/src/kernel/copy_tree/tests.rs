//! Copies of trees, on the real kernel, in directories of their own.
#![expect(clippy::disallowed_methods, reason = "tests make, change and remove files of their own")]

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::*;
use crate::kernel::process;

const EVERYTHING: Top = Top { user: true, group: true, mode: true };

/// A source and a target, removed at the end.
struct Pair(PathBuf);

impl Pair {
    fn new(name: &str) -> Self {
        let top = std::env::temp_dir().join(format!("rootfs-copy-{}-{name}", std::process::id()));
        for path in ["", "from", "to"] {
            fs::create_dir(top.join(path)).unwrap();
        }
        Self(top)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn open(&self, name: &str) -> OwnedFd {
        Linux::default().open_host(&self.path(name).into(), true, false).unwrap()
    }

    fn copy(&self) -> SysResult<Copied> {
        copy(&Linux::default(), self.open("from").as_fd(), self.open("to").as_fd(), EVERYTHING)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // `remove_dir_all` keeps a descriptor for each level.
        let _ = std::process::Command::new("rm").arg("-rf").arg(&self.0).status();
    }
}

fn set_times(path: &Path, seconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: 7 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

#[test]
fn content_modes_times_and_links_are_copied() {
    let pair = Pair::new("plain");
    let from = pair.path("from");
    fs::create_dir(from.join("below")).unwrap();
    fs::write(from.join("below/file"), "content").unwrap();
    fs::set_permissions(from.join("below/file"), PermissionsExt::from_mode(0o4751)).unwrap();
    fs::hard_link(from.join("below/file"), from.join("again")).unwrap();
    symlink("../../outside", from.join("link")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, from.join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(from.join("socket")).unwrap();
    drop(socket);
    fs::set_permissions(from.join("below"), PermissionsExt::from_mode(0o1711)).unwrap();
    for (name, seconds) in [("below/file", 1000), ("link", 2000), ("below", 3000), ("", 4000)] {
        set_times(&from.join(name), seconds);
    }
    assert_eq!(pair.copy().unwrap(), Copied::default());

    let to = |name: &str| fs::symlink_metadata(pair.path("to").join(name)).unwrap();
    assert_eq!(fs::read(pair.path("to/below/file")).unwrap(), b"content");
    assert_eq!(to("below/file").permissions().mode() & 0o7777, 0o4751);
    assert_eq!(to("below").permissions().mode() & 0o7777, 0o1711);
    assert_eq!((to("again").ino(), to("again").nlink()), (to("below/file").ino(), 2));
    assert_eq!(fs::read_link(pair.path("to/link")).unwrap(), Path::new("../../outside"));
    assert!(to("fifo").file_type().is_fifo() && to("socket").file_type().is_socket());
    for (name, seconds) in [("below/file", 1000), ("link", 2000), ("below", 3000), ("", 4000)] {
        assert_eq!((to(name).mtime(), to(name).mtime_nsec()), (seconds, 7), "{name}");
    }
}

#[test]
fn holes_stay_holes() {
    let pair = Pair::new("sparse");
    let file = fs::File::create(pair.path("from/sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"middle", 40 << 20).unwrap();
    file.set_len(100 << 20).unwrap();
    pair.copy().unwrap();
    let copy = fs::symlink_metadata(pair.path("to/sparse")).unwrap();
    assert_eq!(copy.len(), 100 << 20);
    assert!(copy.blocks() * 512 < 1 << 20, "{} blocks", copy.blocks());
    let mut found = [0; 8];
    let file = fs::File::open(pair.path("to/sparse")).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut found, (40 << 20) - 1).unwrap();
    assert_eq!(&found, b"\0middle\0");
}

#[test]
fn extended_attributes_come_along() {
    let pair = Pair::new("attributes");
    let file = pair.path("from/file");
    fs::write(&file, "").unwrap();
    symlink("nowhere", pair.path("from/link")).unwrap();
    let none = XattrFlags::empty();
    let root = process::has_capability(process::CAP_SYS_ADMIN);
    // Version 2, CAP_NET_RAW permitted and effective.
    let capability: Vec<u8> =
        [0x0200_0001_u32, 1 << 13, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
    // Version 2: owner rwx, user 1234 r, group r, mask r, other nothing.
    let entries = [(1, 7, u32::MAX), (2, 4, 1234), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)];
    let mut access = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        access.extend([u16::to_le_bytes(tag), u16::to_le_bytes(rights)].concat());
        access.extend(u32::to_le_bytes(id));
    }
    let mut wanted = vec![("user.color", b"blue".to_vec()), ("system.posix_acl_access", access)];
    if root {
        wanted.push(("security.capability", capability));
        wanted.push(("trusted.note", b"kept".to_vec()));
        rustix::fs::lsetxattr(pair.path("from/link"), "trusted.note", b"link", none).unwrap();
    }
    for (name, value) in &wanted {
        rustix::fs::setxattr(&file, *name, value, none).unwrap();
    }
    assert_eq!(pair.copy().unwrap(), Copied::default());
    for (name, value) in &wanted {
        let mut found = vec![0; 1024];
        let count = rustix::fs::getxattr(pair.path("to/file"), *name, &mut found[..]).unwrap();
        assert_eq!(&found[..count], value, "{name}");
    }
    if root {
        let mut found = [0; 16];
        let count = rustix::fs::lgetxattr(pair.path("to/link"), "trusted.note", &mut found[..]).unwrap();
        assert_eq!(&found[..count], b"link");
    }
}

#[test]
fn depth_costs_neither_stack_nor_descriptors() {
    const DEPTH: usize = 5000;
    let pair = Pair::new("deep");
    let mut directory = pair.open("from");
    for level in 0..DEPTH {
        rustix::fs::mkdirat(&directory, c"d", Mode::RWXU).unwrap();
        if level % 1000 == 0 {
            rustix::fs::mknodat(&directory, c"file", FileType::RegularFile, Mode::RUSR, 0).unwrap();
        }
        directory = rustix::fs::openat(&directory, c"d", HANDLE, Mode::empty()).unwrap();
    }
    rustix::fs::mknodat(&directory, c"bottom", FileType::RegularFile, Mode::RUSR, 0).unwrap();
    rustix::fs::linkat(&directory, c"bottom", &directory, c"linked", AtFlags::empty()).unwrap();
    assert_eq!(pair.copy().unwrap(), Copied::default());
    let mut directory = pair.open("to");
    for _ in 0..DEPTH {
        directory = rustix::fs::openat(&directory, c"d", HANDLE, Mode::empty()).unwrap();
    }
    assert_eq!(rustix::fs::statat(&directory, c"linked", AtFlags::empty()).unwrap().st_nlink, 2);
}

#[test]
fn a_source_that_others_change_leads_nowhere_else() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let pair = Pair::new("race");
    let (from, outside) = (pair.path("from"), pair.path("outside"));
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    fs::create_dir_all(from.join("a/b")).unwrap();
    fs::write(from.join("a/b/secret"), "fine").unwrap();
    fs::write(from.join("file"), "fine").unwrap();
    symlink(&outside, from.join("link")).unwrap();
    symlink(outside.join("secret"), from.join("file-link")).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let exchange = |one: &str, other: &str| {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                let at = rustix::fs::CWD;
                rustix::fs::renameat_with(at, from.join(one), at, from.join(other), flags).unwrap();
            };
            while !done.load(Ordering::Relaxed) {
                exchange("a", "link");
                exchange("file", "file-link");
                exchange("a", "link");
                exchange("file", "file-link");
            }
        });
        // On a busy machine fewer rounds must do.
        let begin = std::time::Instant::now();
        for round in (0..200).take_while(|round| *round < 20 || begin.elapsed().as_secs() < 3) {
            let to = pair.path("to").join(round.to_string());
            fs::create_dir(&to).unwrap();
            let to_fd = Linux::default().open_host(&to.clone().into(), true, false).unwrap();
            let result = copy(&Linux::default(), pair.open("from").as_fd(), to_fd.as_fd(), EVERYTHING);
            if let Err(call) = result {
                assert!([libc::EAGAIN, libc::ENOENT].contains(&call.errno), "{call}");
            }
            for entry in ["a/b/secret", "link/b/secret", "file", "file-link"] {
                let path = to.join(entry);
                // What is a link in the copy leads outside, as it did in the source; only what was copied counts.
                let through_link = path.ancestors().take_while(|part| *part != to).any(Path::is_symlink);
                if !through_link && path.exists() {
                    assert_eq!(fs::read(&path).unwrap(), b"fine", "{entry}");
                }
            }
            assert!(!to.join("a/secret").exists() || to.join("a").is_symlink());
            assert!(!to.join("link/secret").exists() || to.join("link").is_symlink());
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_directory_that_is_moved_away_while_it_is_read_is_an_error() {
    let pair = Pair::new("moved");
    let names: Vec<&str> = vec!["d"; OPEN + 8];
    fs::create_dir_all(pair.path("from").join(names.join("/"))).unwrap();
    // The way back from below leads to another directory than it came from.
    let kernel = Linux::default();
    let descriptors = own_descriptors(&kernel).unwrap();
    let (from, to) = (pair.open("from"), pair.open("to"));
    let open = |fd: &OwnedFd| rustix::fs::openat(fd, c".", SOURCE, Mode::empty()).unwrap();
    let mut copy = Copy {
        descriptors: descriptors.as_fd(),
        to: to.as_fd(),
        mount: status(from.as_fd()).unwrap().identity.3,
        mapped: false,
        places: vec![(0, CString::default())],
        links: HashMap::new(),
        buffer: vec![0; CHUNK],
        copied: Copied::default(),
    };
    let mut above = Copy::level(open(&from), open(&to), 0).unwrap();
    above.open = None;
    let elsewhere = pair.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::create_dir(pair.path("to/d")).unwrap();
    let (source, target) = (pair.open("from/d"), pair.open("to/d"));
    let below = Copy::level(open(&source), open(&target), 0).unwrap();
    fs::rename(pair.path("from/d"), elsewhere.join("d")).unwrap();
    let mut levels = vec![above, below];
    let result = in_directory(descriptors.as_fd(), || copy.leave(&mut levels, EVERYTHING));
    assert_eq!(result.unwrap_err().errno, libc::EAGAIN);
}
