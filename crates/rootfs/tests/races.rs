//! Resolutions while others exchange a component of the path with a link to the outside. `ROOTFS_RACES=full` makes as many as
//! docs/security.md tells of, and prints what came of them.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "tests make their own files, and print a table"
)]

#[path = "support/maker.rs"]
#[allow(unreachable_pub)]
mod maker;

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use maker::Simple;
use rootfs::kernel::linux::Linux;
use rootfs::kernel::{Follow, Kernel};
use rootfs::path::PathBytes;
use rootfs::resolve::{Missing, resolve_or_make};
use rustix::fs::{CWD, Mode, OFlags, RenameFlags};

struct Top(PathBuf);

impl Drop for Top {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A root with `x/secret`, which `y` leads away from, and the same outside.
fn build(name: &str, target: &str) -> Top {
    let top = std::env::temp_dir().join(format!("rootfs-race-{name}-{}", std::process::id()));
    for directory in ["root/x", "outside"] {
        std::fs::create_dir_all(top.join(directory)).unwrap();
        std::fs::write(top.join(directory).join("secret"), "").unwrap();
    }
    let outside = top.join("outside");
    let below = outside.strip_prefix("/").unwrap().display();
    let target = match target {
        "absolute" => outside.display().to_string(),
        "upwards" => format!("{}{below}", "../".repeat(20)),
        other => format!("{other}/{below}"),
    };
    symlink(target, top.join("root/y")).unwrap();
    Top(top)
}

fn identity(path: &Path) -> (u64, u64) {
    let status = std::fs::metadata(path).unwrap();
    (status.dev(), status.ino())
}

/// Exchanges `x` and `y` by this many threads meanwhile.
fn raced<T>(root: &Path, attackers: usize, work: impl FnOnce() -> T) -> T {
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..attackers {
            scope.spawn(|| {
                let (x, y) = (root.join("x"), root.join("y"));
                while !end.load(Ordering::Relaxed) {
                    let _ = rustix::fs::renameat_with(CWD, &x, CWD, &y, RenameFlags::EXCHANGE);
                }
            });
        }
        let _end = End(&end);
        work()
    })
}

/// Device and inode of what is found.
type Find<'a> = Box<dyn FnMut() -> std::result::Result<(u64, u64), String> + 'a>;

#[test]
fn a_component_that_is_exchanged_leads_nowhere_else() {
    let full = std::env::var("ROOTFS_RACES").is_ok_and(|races| races == "full");
    let (many, few) = if full { (20_000, 1_000) } else { (1_000, 200) };
    let (kernel, emulation) = (Linux::default(), Linux::without_openat2());
    println!("| case | attackers | resolutions | inside | errors | openat outside |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for target in ["absolute", "upwards", "/proc/self/root", "/proc/thread-self/root"] {
        for attackers in [1, 4] {
            let top = build(&format!("{attackers}-{}", target.replace('/', "-")), target);
            let root_path = top.0.join("root");
            let root = kernel.open_host(&PathBytes::from(root_path.as_path()), true, false).unwrap();
            let held =
                kernel.open_host(&PathBytes::from(root_path.join("x").as_path()), true, false).unwrap();
            let outside = identity(&top.0.join("outside/secret"));
            let path = PathBytes::from("x/secret");
            let mut maker = Simple(&kernel);
            let status = |fd: std::os::fd::OwnedFd| {
                let status = kernel.status(fd.as_fd()).unwrap();
                (status.device, status.inode)
            };
            let errno = |errno: i32| rustix::io::Errno::from_raw_os_error(errno).to_string();
            let errno = |number: i32| errno(number).split(" (").next().unwrap_or_default().to_owned();
            let cases: [(&str, usize, Find<'_>); 3] = [
                (
                    "openat2",
                    many,
                    Box::new(|| {
                        kernel
                            .resolve(root.as_fd(), &path, Follow::All)
                            .map(status)
                            .map_err(|call| errno(call.errno))
                    }),
                ),
                (
                    "emulated",
                    few,
                    Box::new(|| {
                        emulation
                            .resolve(root.as_fd(), &path, Follow::All)
                            .map(status)
                            .map_err(|call| errno(call.errno))
                    }),
                ),
                (
                    "made",
                    few,
                    Box::new(|| {
                        let path = PathBytes::from("/x/made/deep");
                        resolve_or_make(&kernel, root.as_fd(), &path, Missing::Directory, &mut maker)
                            .map(|found| (found.status.device, found.status.inode))
                            .map_err(|error| error.code.name().to_owned())
                    }),
                ),
            ];
            for (name, times, mut find) in cases {
                let mut errors = BTreeMap::<String, usize>::new();
                let (mut inside, mut fallen, mut turns) = (0, 0, 0);
                raced(&root_path, attackers, || {
                    // A short run may meet only one of both.
                    while turns < times || (turns < 100 * times && (inside == 0 || fallen == 0)) {
                        turns += 1;
                        match find() {
                            Ok(found) => {
                                assert_ne!(found, outside, "{name} {target} {attackers}");
                                inside += 1;
                            }
                            Err(error) => *errors.entry(error).or_default() += 1,
                        }
                        // To be made again. What would be outside is looked at below, so it stays.
                        if name == "made" {
                            let _ = rustix::fs::unlinkat(&held, "made/deep", rustix::fs::AtFlags::REMOVEDIR);
                            let _ = rustix::fs::unlinkat(&held, "made", rustix::fs::AtFlags::REMOVEDIR);
                        }
                        // The control: the same by the kernel's own rules for paths.
                        let flags = OFlags::PATH | OFlags::CLOEXEC;
                        let naive = rustix::fs::openat(&root, "x/secret", flags, Mode::empty());
                        fallen += usize::from(naive.is_ok_and(|fd| status(fd) == outside));
                    }
                });
                let errors: Vec<String> =
                    errors.iter().map(|(error, times)| format!("{error} {times}")).collect();
                println!(
                    "| {name}, {target} | {attackers} | {turns} | {inside} | {} | {fallen} |",
                    errors.join(", ")
                );
                assert!(fallen > 0, "the control has to fall: {name} {target} {attackers}");
                assert!(inside > 0, "{name} {target} {attackers}");
                assert_eq!(std::fs::read_dir(top.0.join("outside")).unwrap().count(), 1, "{name} {target}");
            }
        }
    }
}
