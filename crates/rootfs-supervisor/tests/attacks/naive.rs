//! The positive control: what a program does that joins strings, makes directories and calls mount(2). Each attack must get
//! through it, or the attack proves nothing.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use rootfs::options::attr;
use rootfs::spec::{BindSource, Content, MountKind, RootfsSpec};

const NO: Option<&str> = None;

/// Runs something in a mount namespace of its own, which is gone afterwards.
pub fn in_private_mounts<T: Send>(shared: bool, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            // Private first: what is shared then is shared with nobody of the machine.
            mount(NO, "/", NO, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NO).unwrap();
            if shared {
                mount(NO, "/", NO, MsFlags::MS_REC | MsFlags::MS_SHARED, NO).unwrap();
            }
            super::ground::hold_table();
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// What `mkdir -p` becomes where links are followed by their text.
pub fn make_directories(path: &Path, depth: usize) -> std::io::Result<PathBuf> {
    let mut made = PathBuf::from("/");
    for part in path.components() {
        made.push(part);
        if let Ok(target) = fs::read_link(&made)
            && !made.exists()
            && depth < 8
        {
            made.pop();
            made = make_directories(&made.join(target), depth + 1)?;
        }
        if !made.is_dir() {
            fs::create_dir(&made)?;
        }
    }
    Ok(made)
}

fn joined(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn place(root: &Path, path: &Path, directory: bool) -> PathBuf {
    let target = joined(root, path);
    if directory {
        let _ = make_directories(&target, 0);
    } else {
        let _ = make_directories(target.parent().unwrap(), 0);
        // A named pipe would wait for a reader.
        let _ = fs::OpenOptions::new().append(true).create(true).custom_flags(0o4000).open(&target);
    }
    target
}

/// Builds what is asked for, and goes on after errors.
pub fn build(root: &Path, spec: &RootfsSpec) {
    for content in &spec.content {
        let destination = content.destination().as_path();
        match content {
            Content::Directory(_) => drop(make_directories(&joined(root, destination), 0)),
            Content::Symlink(link) => {
                let _ = std::os::unix::fs::symlink(link.target.as_path(), joined(root, destination));
            }
            Content::Mount(what) => match &what.kind {
                MountKind::Filesystem { fstype, data, .. } => {
                    let target = place(root, destination, true);
                    let data: Vec<String> = data
                        .iter()
                        .map(|(key, value)| {
                            value.as_ref().map_or(key.clone(), |value| format!("{key}={value}"))
                        })
                        .collect();
                    let data = data.join(",");
                    let _ = mount(
                        Some("none"),
                        &target,
                        Some(fstype.as_str()),
                        MsFlags::empty(),
                        Some(data.as_str()),
                    );
                }
                MountKind::Bind { source: BindSource::Host(source), .. } => {
                    let target = place(root, destination, source.as_path().is_dir());
                    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
                    let _ = mount(Some(source.as_path()), &target, NO, flags, NO);
                    if what.attributes.set_recursive & attr::RDONLY != 0 {
                        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
                        let _ = mount(NO, &target, NO, flags, NO);
                    }
                }
                MountKind::File { content, .. } => {
                    let _ = fs::write(place(root, destination, false), content.as_bytes());
                }
                _ => {}
            },
        }
    }
    if spec.dev {
        for name in ["null", "zero", "full", "random", "urandom", "tty", "ptmx"] {
            let source = Path::new("/dev").join(name);
            let target = place(root, &source, false);
            let _ = mount(Some(&source), &target, NO, MsFlags::MS_BIND, NO);
        }
    }
    for mask in &spec.masks {
        let target = joined(root, mask.path.as_path());
        let _ = mount(Some(&root.join("dev/null")), &target, NO, MsFlags::MS_BIND, NO);
    }
    for (name, value) in &spec.sysctl {
        let _ = fs::write(format!("/proc/sys/{}", name.replace('.', "/")), value);
    }
}
