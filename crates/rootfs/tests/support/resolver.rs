//! Paths in a tree of files, directories and links: what is found is what `openat2(2)` finds, and what is made is where
//! `openat2(2)` finds it. The tree and the paths are a text, one step a line, so that anything at all can be tried:
//!
//! | line | meaning |
//! | --- | --- |
//! | `d PATH`, `f PATH`, `p PATH` | there is a directory, a file, a pipe |
//! | `l PATH TARGET` | there is a symbolic link |
//! | `= PATH`, `- PATH`, `! PATH` | it is looked up: with all links, with all but the last, with none |
//! | `D PATH`, `F PATH`, `P PATH` | it is looked up and made if it is missing: as a directory, a file, a placeholder |
//!
//! `@` at the beginning of a path or target is a directory outside of the root. A line that means nothing is left out.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rootfs::error::SysResult;
use rootfs::kernel::linux::Linux;
use rootfs::kernel::{Follow, Kernel};
use rootfs::path::PathBytes;
use rootfs::resolve::{Missing, resolve_or_make};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

use super::maker::Simple;

/// Where the trees are made, one after the other.
pub struct Trees {
    top: PathBuf,
    kernel: Linux,
    emulation: Linux,
}

/// How much there was to compare.
#[derive(Default)]
pub struct Compared {
    pub found: u64,
    pub made: u64,
}

impl Trees {
    pub fn new(name: &str) -> Self {
        let top = std::env::temp_dir().join(format!("rootfs-fuzz-{name}-{}", std::process::id()));
        std::fs::create_dir_all(top.join("outside")).unwrap();
        Self { top, kernel: Linux::default(), emulation: Linux::without_openat2() }
    }

    /// Does what the text says, in an empty root.
    pub fn run(&self, text: &[u8]) -> Compared {
        let root = self.top.join("root");
        let _ = std::fs::remove_dir_all(&root);
        std::fs::create_dir(&root).unwrap();
        let mut tree = Tree {
            trees: self,
            root: self.kernel.open_host(&root.into(), true, false).unwrap(),
            compared: Compared::default(),
        };
        for line in text.split(|byte| *byte == b'\n').take(64).filter(|line| !line.contains(&0)) {
            if let [verb, b' ', rest @ ..] = line {
                tree.step(*verb, rest);
            }
        }
        let is_empty = std::fs::read_dir(self.top.join("outside")).unwrap().next().is_none();
        assert!(is_empty, "something was made outside");
        assert_eq!(std::fs::read_dir(&self.top).unwrap().count(), 2, "something was made beside the root");
        tree.compared
    }

    fn expand(&self, path: &[u8]) -> PathBytes {
        match path {
            [b'@', rest @ ..] => {
                let mut bytes = self.top.join("outside").into_os_string().into_encoded_bytes();
                bytes.extend_from_slice(rest);
                PathBytes::new(bytes)
            }
            _ => PathBytes::new(path),
        }
    }
}

impl Drop for Trees {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.top);
    }
}

struct Tree<'a> {
    trees: &'a Trees,
    root: OwnedFd,
    compared: Compared,
}

impl Tree<'_> {
    fn step(&mut self, verb: u8, rest: &[u8]) {
        let mut fields = rest.splitn(2, |byte| *byte == b' ');
        let path = self.trees.expand(fields.next().unwrap_or_default());
        let target = self.trees.expand(fields.next().unwrap_or_default());
        if path.as_bytes().is_empty() {
            return;
        }
        match verb {
            b'd' | b'f' | b'p' | b'l' => drop(self.plant(verb, &path, &target)),
            b'=' => self.look_up(&path, Follow::All),
            b'-' => self.look_up(&path, Follow::AllButLast),
            b'!' => self.look_up(&path, Follow::None),
            b'D' => self.make(&path, Missing::Directory),
            b'F' => self.make(&path, Missing::File),
            b'P' => self.make(&path, Missing::Placeholder),
            _ => {}
        }
    }

    /// Without the code that is tested, and in the root whatever the path is.
    fn plant(&self, verb: u8, path: &PathBytes, target: &PathBytes) -> rustix::io::Result<()> {
        let bytes = path.as_bytes();
        let (parent, name) =
            bytes.iter().rposition(|byte| *byte == b'/').map_or((&b"."[..], bytes), |slash| {
                (bytes.get(..slash).unwrap_or_default(), bytes.get(slash + 1..).unwrap_or_default())
            });
        let parent = if parent.is_empty() { b"." } else { parent };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let parent = rustix::fs::openat2(&self.root, parent, flags, Mode::empty(), inside)?;
        match verb {
            b'd' => rustix::fs::mkdirat(&parent, name, Mode::from(0o755)),
            b'f' => rustix::fs::mknodat(&parent, name, FileType::RegularFile, Mode::from(0o644), 0),
            b'p' => rustix::fs::mknodat(&parent, name, FileType::Fifo, Mode::from(0o644), 0),
            _ => rustix::fs::symlinkat(target.as_bytes(), &parent, name),
        }
    }

    /// What the kernel itself finds. Somebody on the machine who renames things makes it say `EAGAIN` where there is a `..`.
    fn by_kernel(&self, path: &PathBytes, follow: Follow) -> std::result::Result<(u64, u64), i32> {
        loop {
            match self.trees.kernel.resolve(self.root.as_fd(), path, follow) {
                Err(call) if call.errno == libc::EAGAIN => {}
                other => return self.identity(other),
            }
        }
    }

    fn identity(&self, found: SysResult<OwnedFd>) -> std::result::Result<(u64, u64), i32> {
        let status = self.trees.kernel.status(found.map_err(|call| call.errno)?.as_fd()).unwrap();
        Ok((status.device, status.inode))
    }

    fn look_up(&mut self, path: &PathBytes, follow: Follow) {
        let theirs = self.by_kernel(path, follow);
        let ours = self.identity(self.trees.emulation.resolve(self.root.as_fd(), path, follow));
        assert_eq!(ours, theirs, "{path} {follow:?}");
        self.compared.found += u64::from(ours.is_ok());
    }

    fn make(&mut self, path: &PathBytes, missing: Missing) {
        // What one makes the other finds, so they take turns.
        let kernel =
            if self.compared.made.is_multiple_of(2) { &self.trees.kernel } else { &self.trees.emulation };
        let Ok(resolved) = resolve_or_make(kernel, self.root.as_fd(), path, missing, &mut Simple(kernel))
        else {
            return;
        };
        let ours = (resolved.status.device, resolved.status.inode);
        assert_eq!(Ok(ours), self.by_kernel(path, Follow::All), "{path} {missing:?}");
        self.compared.made += u64::from(resolved.created);
    }
}
