//! What an attack takes place on: a hostile root, a directory outside of it that must not change, a volume that others write to.

use std::cell::RefCell;
use std::fs;
use std::io::{Read, Seek};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};

use rootfs::execute::Level;

use super::support::{Cell, Scratch, busybox_root};

/// What is in the file outside. It must not come out of a container.
pub const SECRET: &str = "outside-secret";
/// What is in the file that the image hides.
pub const HIDDEN: &str = "hidden-secret";

pub struct Ground {
    pub scratch: Scratch,
    pub root: PathBuf,
    pub outside: PathBuf,
    pub shared: PathBuf,
    pub owner: u32,
    pub cell: Cell,
    /// How mounts are made; as the kernel has it where nobody says so.
    pub level: Option<Level>,
}

impl Ground {
    pub fn new(cell: Cell, level: Option<Level>) -> Self {
        let scratch = Scratch::new();
        let root = busybox_root(&scratch.0, cell, true);
        for name in ["head", "ln", "mv", "grep", "rm"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        let [outside, shared] = ["outside", "shared"].map(|name| scratch.0.join(name));
        for directory in [&outside, &shared] {
            fs::create_dir(directory).unwrap();
        }
        fs::create_dir(outside.join("directory")).unwrap();
        fs::write(outside.join("secret"), SECRET).unwrap();
        fs::write(outside.join("directory/file"), "").unwrap();
        std::os::unix::fs::symlink("secret", outside.join("link")).unwrap();
        let ground = Self { scratch, root, outside, shared, owner: cell.owner(), cell, level };
        ground.own(&ground.outside);
        ground.own(&ground.shared);
        ground
    }

    /// The attacker owns it: whoever acts as container root may change it.
    pub fn own(&self, path: &Path) {
        lchown(path, Some(self.owner), Some(self.owner)).unwrap();
        if path.is_dir() && !path.is_symlink() {
            for entry in fs::read_dir(path).unwrap() {
                self.own(&entry.unwrap().path());
            }
        }
    }

    /// A link of the image, or of the volume, in place of what is there.
    pub fn link(&self, target: impl AsRef<Path>, at: &Path) {
        if at.is_dir() && !at.is_symlink() {
            fs::remove_dir_all(at).unwrap();
        } else {
            let _ = fs::remove_file(at);
        }
        std::os::unix::fs::symlink(target, at).unwrap();
        lchown(at, Some(self.owner), Some(self.owner)).unwrap();
    }

    pub fn directory(&self, path: &Path) {
        fs::create_dir_all(path).unwrap();
        lchown(path, Some(self.owner), Some(self.owner)).unwrap();
    }

    pub fn file(&self, path: &Path, text: &str) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
        lchown(path, Some(self.owner), Some(self.owner)).unwrap();
    }

    /// The directory outside, by a path that leads up from anywhere.
    pub fn upwards(&self) -> PathBuf {
        let below = self.outside.strip_prefix("/").unwrap();
        Path::new(&"../".repeat(20)).join(below)
    }

    pub fn below_self(&self, before: &str) -> PathBuf {
        Path::new(before).join(self.outside.strip_prefix("/").unwrap())
    }
}

/// Names, types, modes, owners, times, link targets and contents.
pub fn snapshot(path: &Path) -> Vec<String> {
    let device = path.parent().and_then(|parent| fs::metadata(parent).ok()).map(|meta| meta.dev());
    let Ok(meta) = fs::symlink_metadata(path) else { return vec![format!("{}: gone", path.display())] };
    if Some(meta.dev()) != device {
        return vec![format!("{}: another filesystem is mounted on it", path.display())];
    }
    let content = if meta.is_symlink() {
        fs::read_link(path).unwrap().display().to_string()
    } else if meta.is_file() {
        format!("{:?}", fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    } else {
        String::new()
    };
    let facts =
        (meta.mode(), meta.uid(), meta.gid(), meta.mtime(), meta.mtime_nsec(), meta.nlink(), meta.rdev());
    let mut lines = vec![format!("{} {facts:?} {content}", path.display())];
    if meta.is_dir() {
        let Ok(entries) = fs::read_dir(path) else { return vec![format!("{}: unreadable", path.display())] };
        let mut below: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        below.sort();
        lines.extend(below.iter().flat_map(|path| snapshot(path)));
    }
    lines
}

thread_local! {
    /// The mount table of this thread's namespace: an attack may cover /proc.
    static TABLE: RefCell<Option<fs::File>> = const { RefCell::new(None) };
}

/// To be called once the thread is in its namespace.
pub fn hold_table() {
    let file = fs::File::open("/proc/thread-self/mountinfo").unwrap();
    TABLE.with_borrow_mut(|table| *table = Some(file));
}

/// Of the mount namespace that this thread is in.
pub fn own_mounts() -> Vec<String> {
    TABLE.with_borrow_mut(|table| lines_of(table.as_mut().unwrap()))
}

fn lines_of(table: &mut fs::File) -> Vec<String> {
    let mut text = String::new();
    table.rewind().unwrap();
    table.read_to_string(&mut text).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// Root within the filesystem, and mountpoint, of a line of mountinfo.
pub fn places(line: &str) -> (&str, &str) {
    let mut fields = line.split(' ').skip(3);
    (fields.next().unwrap_or_default(), fields.next().unwrap_or_default())
}

/// A process that stays in the mount namespace this program was started in.
struct Sentinel {
    /// It is there to live in that namespace.
    _process: Child,
    /// Held, as an attack may cover /proc.
    table: Mutex<fs::File>,
}

static SENTINEL: OnceLock<Sentinel> = OnceLock::new();
static CALLER: OnceLock<Scratch> = OnceLock::new();

/// Begins the watch: call it before any thread moves. The caller's directory is one that nothing may change.
pub fn watch() {
    let caller = Scratch::new();
    fs::write(caller.0.join("file"), "the caller's").unwrap();
    std::env::set_current_dir(&caller.0).unwrap();
    CALLER.get_or_init(|| caller);
    // It ends with this program, whose end of the pipe it reads.
    let mut cat = Command::new("/bin/cat");
    let child = cat.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let table = Mutex::new(fs::File::open(format!("/proc/{}/mountinfo", child.id())).unwrap());
    SENTINEL.get_or_init(|| Sentinel { _process: child, table });
}

/// Ends it, and says what has changed in the machine's mount table since `before`.
pub fn end_watch(before: &[String]) -> bool {
    let unchanged = sentinel_mounts() == before;
    if let Some(caller) = CALLER.get() {
        std::env::set_current_dir("/").unwrap();
        fs::remove_dir_all(&caller.0).unwrap();
    }
    unchanged
}

pub fn sentinel_mounts() -> Vec<String> {
    SENTINEL.get().map(|sentinel| lines_of(&mut sentinel.table.lock().unwrap())).unwrap_or_default()
}

/// What must not change: O1 and O2.
pub struct Before {
    outside: Vec<String>,
    caller: Vec<String>,
    mounts: Vec<String>,
    machine: Vec<String>,
}

impl Before {
    pub fn of(ground: &Ground) -> Self {
        Self {
            outside: snapshot(&ground.outside),
            caller: CALLER.get().map(|caller| snapshot(&caller.0)).unwrap_or_default(),
            mounts: own_mounts(),
            machine: sentinel_mounts(),
        }
    }

    /// What has changed for those outside of the container.
    pub fn violations(&self, ground: &Ground) -> Vec<String> {
        let after = Self::of(ground);
        let mut found = Vec::new();
        for (what, before, after) in [
            ("O1 outside", &self.outside, &after.outside),
            ("O1 the caller's directory", &self.caller, &after.caller),
            ("O2 the mount table", &self.mounts, &after.mounts),
            ("O2 the machine's mount table", &self.machine, &after.machine),
        ] {
            if let Some(line) = after.iter().find(|line| !before.contains(line)) {
                found.push(format!("{what}: {line}"));
            } else if before != after {
                found.push(format!("{what}: something is gone"));
            }
        }
        found
    }

    /// The same for a naive program, seen from the namespace that it mounts in: its mounts may be below its root alone.
    pub fn naive_violations(&self, ground: &Ground) -> Vec<String> {
        let mut found = Vec::new();
        if snapshot(&ground.outside) != self.outside {
            found.push("O1".to_owned());
        }
        let below = format!("{}/", ground.root.display());
        let new: Vec<String> = own_mounts().into_iter().filter(|line| !self.mounts.contains(line)).collect();
        if new.iter().any(|line| !places(line).1.starts_with(&below)) {
            found.push("O2".to_owned());
        }
        if new.iter().any(|line| leads_outside(ground, line)) {
            found.push("O3".to_owned());
        }
        found
    }
}

/// O3: whether the source of a mount is the attacker's target.
pub fn leads_outside(ground: &Ground, line: &str) -> bool {
    places(line).0.contains(ground.outside.to_str().unwrap())
}
