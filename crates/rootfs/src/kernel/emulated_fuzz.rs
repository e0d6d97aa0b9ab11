//! Random trees and random paths: the emulation finds what `openat2(2)` finds, and what is made is where `openat2(2)` finds it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::emulated;
use super::linux::Linux;
use super::{FileStatus, Follow, Kernel};
use crate::error::{Result, SysResult};
use crate::path::PathBytes;
use crate::resolve::{Maker, Missing, Place, make_with_kernel, resolution_error, resolve_or_make};

#[path = "../../tests/support/random.rs"]
#[allow(unreachable_pub, reason = "other tests have it too")]
mod random;

use random::{Random, for_seeds};

const NAMES: [&str; 5] = ["a", "b", "c", "d", "l"];

struct Tree {
    top: PathBuf,
    /// Whether links may end in a slash.
    slashes: bool,
}

impl Tree {
    #[expect(clippy::disallowed_methods, reason = "a test makes its own files")]
    fn new(name: &str, slashes: bool) -> Self {
        let top = std::env::temp_dir().join(format!("rootfs-fuzz-{name}-{}", std::process::id()));
        std::fs::create_dir_all(top.join("outside")).unwrap();
        Self { top, slashes }
    }

    /// Directories, files and links of all kinds, new each time.
    #[expect(clippy::disallowed_methods, reason = "a test makes its own files")]
    fn root(&self, random: &mut Random) -> PathBuf {
        let root = self.top.join("root");
        let _ = std::fs::remove_dir_all(&root);
        std::fs::create_dir(&root).unwrap();
        let mut directories = vec![root.clone()];
        for _ in 0..3 + random.below(14) {
            let path = random.pick(&directories).join(random.pick(&NAMES));
            match random.below(5) {
                0 => drop(std::fs::File::create_new(&path)),
                1 | 2 if std::fs::create_dir(&path).is_ok() => directories.push(path),
                _ => drop(std::os::unix::fs::symlink(self.target(random), &path)),
            }
        }
        root
    }

    fn target(&self, random: &mut Random) -> String {
        let path = self.path(random);
        if self.slashes || path.bytes().all(|byte| byte == b'/') {
            path
        } else {
            path.trim_end_matches('/').to_owned()
        }
    }

    fn path(&self, random: &mut Random) -> String {
        if random.below(12) == 0 {
            return self.top.join("outside").display().to_string();
        }
        let mut path = ["", "/", "//", "./", "/.."][random.below(5)].to_owned();
        for number in 0..=random.below(5) {
            if number > 0 || path == "/.." {
                path.push_str(["/", "/", "/", "//", "/./"][random.below(5)]);
            }
            path.push_str(if random.below(4) == 0 { ".." } else { random.pick::<&str>(&NAMES) });
        }
        if random.below(8) == 0 {
            path.push('/');
        }
        path
    }
}

impl Drop for Tree {
    #[expect(clippy::disallowed_methods, reason = "a test removes its own files")]
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.top);
    }
}

fn open(kernel: &Linux, root: &Path) -> OwnedFd {
    kernel.open_host(&root.to_owned().into(), true, false).unwrap()
}

/// What the kernel itself finds. Somebody on the machine who renames things makes it say `EAGAIN` where there is a `..`.
fn by_kernel(kernel: &Linux, root: &OwnedFd, path: &PathBytes, follow: Follow) -> SysResult<OwnedFd> {
    loop {
        match kernel.resolve(root.as_fd(), path, follow) {
            Err(call) if call.errno == libc::EAGAIN => {}
            other => return other,
        }
    }
}

fn identity(kernel: &Linux, found: SysResult<OwnedFd>) -> std::result::Result<(u64, u64), i32> {
    let status = kernel.status(found.map_err(|call| call.errno)?.as_fd()).unwrap();
    Ok((status.device, status.inode))
}

#[test]
fn the_emulation_finds_what_the_kernel_finds() {
    let tree = Tree::new("resolve", true);
    let kernel = Linux::default();
    let mut found = 0;
    let cases = for_seeds(|seed, random| {
        let root = open(&kernel, &tree.root(random));
        for _ in 0..20 {
            let path = PathBytes::from(tree.path(random));
            let follow = *random.pick(&[Follow::All, Follow::AllButLast, Follow::None]);
            let theirs = identity(&kernel, by_kernel(&kernel, &root, &path, follow));
            let ours = identity(&kernel, emulated::resolve(root.as_fd(), &path, follow));
            assert_eq!(ours, theirs, "ROOTFS_FUZZ_SEED={seed}: {path} {follow:?}");
            found += u64::from(ours.is_ok());
        }
    });
    assert!(cases > 20 && found > cases, "{cases} {found}");
}

/// Makes what is missing, and remembers nothing.
pub(super) struct Simple<'a>(pub(super) &'a Linux);

impl Maker for Simple<'_> {
    fn knows_mount(&self, _: u64) -> bool {
        false
    }

    fn make(&mut self, parent: BorrowedFd<'_>, _: &Place, name: &PathBytes, what: Missing) -> Result<bool> {
        make_with_kernel(self.0, parent, name, what).map_err(|call| resolution_error(name, &call))
    }

    fn made(&mut self, _: &Place, _: &PathBytes, _: Missing, _: &FileStatus) -> Result<()> {
        Ok(())
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test looks at its own files")]
fn what_is_made_is_where_the_kernel_finds_it() {
    let tree = Tree::new("make", false);
    let kernel = Linux::default();
    let mut made = 0;
    let cases = for_seeds(|seed, random| {
        let root = open(&kernel, &tree.root(random));
        for _ in 0..10 {
            // What is made as a file has no slash at its end.
            let path = PathBytes::from(format!("/{}", tree.path(random).trim_end_matches('/')));
            let missing = *random.pick(&[Missing::Directory, Missing::File, Missing::Placeholder]);
            let result = resolve_or_make(&kernel, root.as_fd(), &path, missing, &mut Simple(&kernel));
            let Ok(resolved) = result else { continue };
            let theirs = identity(&kernel, by_kernel(&kernel, &root, &path, Follow::All));
            let ours = (resolved.status.device, resolved.status.inode);
            assert_eq!(Ok(ours), theirs, "ROOTFS_FUZZ_SEED={seed}: {path} {missing:?}");
            made += u64::from(resolved.created);
        }
        let outside: Vec<_> = std::fs::read_dir(tree.top.join("outside")).unwrap().collect();
        assert!(outside.is_empty(), "ROOTFS_FUZZ_SEED={seed}: {outside:?}");
        assert_eq!(
            std::fs::read_dir(&tree.top).unwrap().count(),
            2,
            "ROOTFS_FUZZ_SEED={seed}: beside the root"
        );
    });
    assert!(cases > 20 && made > cases / 2, "{cases} {made}");
}
