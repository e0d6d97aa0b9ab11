//! The undo journal: mountpoints made on the host, written down before and after they are made.
//!
//! The journal is a memory file that Node, the supervisor and the first process all hold, so that the death of any of
//! them leaves another to clean up. Removing is careful: what another container uses as a mountpoint is never removed,
//! because the kernel would strip its mount from it. Each container holds a shared `flock` on the top of each host tree
//! it has mountpoints in; a name is removed only under the exclusive lock, taken without waiting, and only if it is the
//! same inode and empty.

use std::fmt::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::kernel::memfd;
use crate::path::PathBytes;
use crate::protocol::{self, Leftover};

/// A file or directory, by what never changes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The filesystem's device number.
    pub device: u64,
    /// The inode number.
    pub inode: u64,
}

/// A mountpoint that is about to be made, or has been.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The top of the host's tree: the root directory or a bound source.
    pub top: PathBytes,
    /// Which directory that was.
    pub top_identity: Identity,
    /// The way from there to the parent; empty for the top itself.
    pub parent: PathBytes,
    /// The name in the parent.
    pub name: PathBytes,
    /// Whether it is a directory; else an empty file.
    pub directory: bool,
    /// How far it has come.
    pub state: State,
}

/// How far the making of a name has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// It is about to be made.
    Planned,
    /// It was made, and is this.
    Made(Identity),
    /// It was not: somebody else was quicker, or the call failed.
    NotMade,
}

/// A journal is at most this long; a container with more mountpoints than that fits is refused.
const LIMIT: u64 = 64 << 20;

/// Writes records; each is on the file when the call returns.
#[derive(Debug)]
pub struct Writer {
    file: OwnedFd,
    offset: u64,
}

impl Writer {
    /// Writes to this empty memory file.
    pub fn new(file: OwnedFd) -> Self {
        Self { file, offset: 0 }
    }

    /// Adds a record.
    pub fn write(&mut self, record: &Record) -> Result<(), Errno> {
        let body = protocol::encode(record);
        let length = u32::try_from(body.len()).map_err(|_| Errno::FBIG)?;
        if self.offset + body.len() as u64 + 4 > LIMIT {
            return Err(Errno::FBIG);
        }
        // The length comes last: a reader sees a record whole or not at all.
        let mut at = self.offset + 4;
        let mut rest = &body[..];
        while !rest.is_empty() {
            let count = rustix::io::pwrite(&self.file, rest, at)?;
            at += count as u64;
            rest = &rest[count..];
        }
        rustix::io::pwrite(&self.file, &length.to_le_bytes(), self.offset)?;
        self.offset = at;
        Ok(())
    }
}

/// The records of a journal, in the order they were made; of a name that was made, the record that says so.
pub fn read(journal: impl AsFd) -> Vec<Record> {
    let bytes = memfd::read(journal, LIMIT).unwrap_or_default();
    let mut records: Vec<Record> = Vec::new();
    let mut rest = &bytes[..];
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        if length == 0 || length > tail.len() {
            break;
        }
        let (body, after) = tail.split_at(length);
        rest = after;
        let Ok(record) = protocol::decode::<Record>(body) else { break };
        let same = |other: &Record| {
            other.state == State::Planned
                && other.name == record.name
                && other.parent == record.parent
                && other.top_identity == record.top_identity
        };
        match records.iter_mut().rev().find(|other| same(other)) {
            Some(before) if record.state != State::Planned => *before = record,
            _ => records.push(record),
        }
    }
    records.retain(|record| record.state != State::NotMade);
    records
}

/// Whether the journal has any record at all.
pub fn is_empty(journal: impl AsFd) -> bool {
    rustix::fs::fstat(journal).map_or(true, |stat| stat.st_size == 0)
}

/// The reason why something with a content is left.
pub const NOT_EMPTY: &str = "it is not empty";

/// Why a name was left where it is.
enum Left {
    /// It is not there any more: nothing to do.
    Gone,
    /// Another container has mountpoints in this tree; it may be tried again when that has ended.
    InUse,
    /// It is a directory that something is in.
    NotEmpty,
    /// It isn't ours any more, or can't be removed.
    Kept(String),
}

impl From<Errno> for Left {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::NOENT => Self::Gone,
            Errno::WOULDBLOCK => Self::InUse,
            other => Self::Kept(crate::error::errno_text(other.raw_os_error()).to_owned()),
        }
    }
}

/// What became of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The name is not there any more.
    Removed,
    /// Another container has mountpoints in this tree; it may be tried again when that has ended.
    InUse,
    /// It is a directory that something is in: the mountpoint of another container, which has ended but not been cleaned up
    /// after yet, or a file of somebody else. Whoever knows of no such container knows that it stays.
    NotEmpty,
    /// It stays, for this reason.
    Kept(String),
}

/// What became of a journal.
#[derive(Debug, Default)]
pub struct Cleaned {
    /// Names in trees that other containers use: to be tried again later.
    pub in_use: Vec<Record>,
    /// Names that stay, with the reason.
    pub left: Vec<Leftover>,
}

/// Removes what the journal says was made, deepest first. Follows no link and removes nothing that was not made by us.
///
/// This may wait for a filesystem, so it runs in a process or thread that has nothing else to do.
pub fn clean_up(journal: impl AsFd) -> Cleaned {
    remove(read(journal))
}

/// The same for records that were in use before.
pub fn remove(records: Vec<Record>) -> Cleaned {
    let mut cleaned = Cleaned::default();
    let outcomes = remove_each(&records);
    for (record, outcome) in records.into_iter().zip(outcomes) {
        match outcome {
            Outcome::Removed => {}
            Outcome::InUse => cleaned.in_use.push(record),
            Outcome::NotEmpty => cleaned.left.push(leftover(&record, NOT_EMPTY)),
            Outcome::Kept(reason) => cleaned.left.push(leftover(&record, reason)),
        }
    }
    cleaned
}

/// What became of each record, in the order given. The records may come from many journals: a name that one container
/// made can be in a directory that another made.
pub fn remove_each(records: &[Record]) -> Vec<Outcome> {
    let depth = |record: &Record| record.top.components().count() + record.parent.components().count();
    let mut order: Vec<usize> = (0..records.len()).rev().collect();
    order.sort_by_key(|index| std::cmp::Reverse(depth(&records[*index])));
    let mut outcomes = vec![Outcome::Removed; records.len()];
    let mut in_use: Vec<PathBytes> = Vec::new();
    for index in order {
        let record = &records[index];
        outcomes[index] = match remove_one(record) {
            Ok(()) | Err(Left::Gone) => Outcome::Removed,
            Err(Left::InUse) => Outcome::InUse,
            // The lock may have been let go since it kept what is in the directory.
            Err(Left::NotEmpty) if in_use.iter().any(|path| path.starts_with(&full_path(record))) => {
                Outcome::InUse
            }
            Err(Left::NotEmpty) => Outcome::NotEmpty,
            Err(Left::Kept(reason)) => Outcome::Kept(reason),
        };
        if outcomes[index] == Outcome::InUse {
            in_use.push(full_path(record));
        }
    }
    outcomes
}

fn full_path(record: &Record) -> PathBytes {
    record.top.join(&record.parent).join(&record.name)
}

/// A record as something that is told to the caller.
pub fn leftover(record: &Record, reason: impl Into<String>) -> Leftover {
    Leftover { path: full_path(record), reason: reason.into() }
}

fn remove_one(record: &Record) -> Result<(), Left> {
    // The source of a bind may be a link. Wherever it leads now, what is there has to be the same directory.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rustix::fs::openat(rustix::fs::CWD, record.top.as_path(), flags, Mode::empty())?;
    if identity(top.as_fd())? != record.top_identity {
        return Err(Left::Kept("the tree it was made in is another one now".into()));
    }
    lock(&top)?;
    let parent = descend(&top, &record.parent)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&parent, record.name.as_path(), flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    let found = Identity { device: stat.st_dev, inode: stat.st_ino };
    let kind = FileType::from_raw_mode(stat.st_mode);
    let expected = if record.directory { FileType::Directory } else { FileType::RegularFile };
    // A record without an identity was written before the name was made, and its writer died: an empty thing of the
    // right type is then what we made.
    if matches!(record.state, State::Made(made) if made != found) || kind != expected {
        return Err(Left::Kept("another file has taken its place".into()));
    }
    if !record.directory && stat.st_size != 0 {
        return Err(Left::Kept(NOT_EMPTY.into()));
    }
    let flags = if record.directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    rustix::fs::unlinkat(&parent, record.name.as_path(), flags).map_err(|errno| match errno {
        Errno::NOTEMPTY | Errno::EXIST => Left::NotEmpty,
        other => other.into(),
    })
}

/// Takes the exclusive lock. Containers hold the shared one as long as they live, so they are not waited for; somebody
/// else who removes holds the exclusive one for a moment only.
fn lock(top: &OwnedFd) -> Result<(), Left> {
    for _ in 0..200 {
        match rustix::fs::flock(top, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {}
            other => return other.map_err(Left::from),
        }
        match rustix::fs::flock(top, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => {
                let moment = rustix::thread::Timespec { tv_sec: 0, tv_nsec: 500_000 };
                let _ = rustix::thread::nanosleep(&moment);
            }
            _ => return Err(Left::InUse),
        }
    }
    Err(Left::InUse)
}

/// Walks down from the top by names that are directories; a link on the way is an error, and so is another mount, which
/// would be somebody's mountpoint.
fn descend(top: &OwnedFd, parent: &PathBytes) -> Result<OwnedFd, Left> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut current = rustix::io::fcntl_dupfd_cloexec(top, 0)?;
    for name in parent.components() {
        if name == b".." {
            return Err(Left::Kept("its path is not a plain one".into()));
        }
        current = rustix::fs::openat(&current, PathBytes::new(name).as_path(), flags, Mode::empty())
            .map_err(|errno| match errno {
                Errno::NOTDIR | Errno::LOOP => Left::Kept("a directory above it was replaced".into()),
                other => other.into(),
            })?;
    }
    Ok(current)
}

fn identity(file: BorrowedFd<'_>) -> Result<Identity, Errno> {
    rustix::fs::fstat(file).map(|stat| Identity { device: stat.st_dev, inode: stat.st_ino })
}

/// The leftovers as one line for people.
pub fn describe(left: &[Leftover]) -> String {
    let mut text = String::new();
    for item in left {
        let _ = write!(text, "{}{} ({})", if text.is_empty() { "" } else { ", " }, item.path, item.reason);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn journal() -> OwnedFd {
        rustix::fs::memfd_create(c"journal", rustix::fs::MemfdFlags::CLOEXEC).unwrap()
    }

    struct Tree(PathBuf);

    impl Tree {
        #[expect(clippy::disallowed_methods, reason = "a test makes its own directory")]
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("rootfs-journal-{}-{name}", std::process::id()));
            std::fs::create_dir(&path).unwrap();
            Self(path)
        }

        #[expect(clippy::disallowed_methods, reason = "a test makes its own files")]
        fn record(&self, parent: &str, name: &str, directory: bool) -> Record {
            use std::os::unix::fs::MetadataExt;
            let path = self.0.join(parent).join(name);
            if directory {
                std::fs::create_dir(&path).unwrap();
            } else {
                std::fs::write(&path, b"").unwrap();
            }
            let id = |path: &PathBuf| {
                let meta = std::fs::symlink_metadata(path).unwrap();
                Identity { device: meta.dev(), inode: meta.ino() }
            };
            Record {
                top: self.0.clone().into(),
                top_identity: id(&self.0),
                parent: parent.into(),
                name: name.into(),
                directory,
                state: State::Made(id(&path)),
            }
        }

        #[expect(clippy::disallowed_methods, reason = "a test looks at its own files")]
        fn has(&self, name: &str) -> bool {
            self.0.join(name).exists()
        }
    }

    impl Drop for Tree {
        #[expect(clippy::disallowed_methods, reason = "a test removes its own directory")]
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn write(records: &[Record]) -> OwnedFd {
        let file = journal();
        let mut writer = Writer::new(rustix::io::fcntl_dupfd_cloexec(&file, 0).unwrap());
        for record in records {
            writer.write(&Record { state: State::Planned, ..record.clone() }).unwrap();
            writer.write(record).unwrap();
        }
        file
    }

    #[test]
    fn what_was_made_is_removed_deepest_first() {
        let tree = Tree::new("deepest");
        let records =
            [tree.record("", "a", true), tree.record("a", "b", true), tree.record("a/b", "f", false)];
        let file = write(&records);
        assert_eq!(read(&file), records);
        let cleaned = clean_up(&file);
        assert!(cleaned.left.is_empty() && cleaned.in_use.is_empty());
        assert!(!tree.has("a"));
    }

    #[test]
    fn names_of_many_journals_are_removed_deepest_first() {
        let tree = Tree::new("many");
        let records =
            [tree.record("", "a", true), tree.record("a", "b", true), tree.record("a/b", "f", false)];
        let outcomes = remove_each(&[records[1].clone(), records[2].clone(), records[0].clone()]);
        assert_eq!(outcomes, vec![Outcome::Removed; 3]);
        assert!(!tree.has("a"));
    }

    #[test]
    fn a_directory_with_a_mountpoint_of_another_journal_is_removed_after_that() {
        let tree = Tree::new("between");
        // One container has made the directory, another the mountpoint in it. Both have ended, and so dropped their locks,
        // but only the first one is cleaned up after.
        let (mine, other) = (tree.record("", "y", true), tree.record("y", "z", true));
        assert_eq!(remove_each(std::slice::from_ref(&mine)), [Outcome::NotEmpty]);
        assert_eq!(remove_each(&[mine, other]), vec![Outcome::Removed; 2]);
        assert!(!tree.has("y"));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test makes its own files")]
    fn a_directory_with_what_was_in_use_a_moment_ago_is_left_for_later_too() {
        let tree = Tree::new("a-moment-ago");
        let made = tree.record("", "y", true);
        let below = tree.record("y", "z", true);
        // As if the lock had been let go between the two: only the inner tree is locked.
        let inner = Record {
            top: tree.0.join("y").into(),
            top_identity: match made.state {
                State::Made(identity) => identity,
                _ => unreachable!(),
            },
            parent: PathBytes::from(""),
            ..below
        };
        let records = [made, inner];
        let lock =
            rustix::fs::open(tree.0.join("y"), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        rustix::fs::flock(&lock, FlockOperation::LockShared).unwrap();
        assert_eq!(remove_each(&records), vec![Outcome::InUse; 2]);
        drop(lock);
        assert_eq!(remove_each(&records), vec![Outcome::Removed; 2]);
        assert!(!tree.has("y"));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test makes and reads its own files")]
    fn somebody_else_who_removes_is_waited_for() {
        let tree = Tree::new("two-removers");
        let record = tree.record("", "d", true);
        let lock = rustix::fs::open(&tree.0, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).unwrap();
        let other = std::thread::spawn(move || remove(vec![record]));
        std::thread::sleep(std::time::Duration::from_millis(5));
        drop(lock);
        assert!(other.join().unwrap().in_use.is_empty());
        assert!(!tree.has("d"));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test makes its own files")]
    fn what_has_got_a_content_stays() {
        let tree = Tree::new("content");
        let record = tree.record("", "f", false);
        std::fs::write(tree.0.join("f"), b"precious").unwrap();
        let cleaned = clean_up(write(&[record]));
        assert_eq!(cleaned.left.len(), 1);
        assert!(tree.has("f"));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test makes its own files")]
    fn what_was_replaced_stays() {
        let tree = Tree::new("replaced");
        let record = tree.record("", "d", true);
        std::fs::create_dir(tree.0.join("other")).unwrap();
        std::fs::remove_dir(tree.0.join("d")).unwrap();
        std::fs::rename(tree.0.join("other"), tree.0.join("d")).unwrap();
        assert_eq!(clean_up(write(&[record])).left.len(), 1);
        assert!(tree.has("d"));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test makes its own files")]
    fn a_link_in_place_of_a_parent_is_not_followed() {
        let tree = Tree::new("link");
        let parent = tree.record("", "p", true);
        let child = tree.record("p", "c", true);
        std::fs::rename(tree.0.join("p"), tree.0.join("moved")).unwrap();
        std::os::unix::fs::symlink(tree.0.join("moved"), tree.0.join("p")).unwrap();
        let cleaned = clean_up(write(&[parent, child]));
        assert_eq!(cleaned.left.len(), 2);
        assert!(tree.has("moved/c"));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test makes and reads its own files")]
    fn a_top_that_is_a_link_is_followed_to_the_same_directory_and_no_other() {
        let tree = Tree::new("top");
        let links = Tree::new("top-links");
        let [good, bad] = ["good", "bad"].map(|name| links.0.join(name));
        std::os::unix::fs::symlink(&tree.0, &good).unwrap();
        std::os::unix::fs::symlink(&links.0, &bad).unwrap();
        let record = tree.record("", "d", true);
        let through = |link: PathBuf| clean_up(write(&[Record { top: link.into(), ..record.clone() }]));
        assert_eq!(through(bad).left.len(), 1);
        assert!(tree.has("d"));
        assert!(through(good).left.is_empty());
        assert!(!tree.has("d"));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test makes and reads its own files")]
    fn a_tree_that_is_in_use_is_left_for_later() {
        let tree = Tree::new("in-use");
        let record = tree.record("", "d", true);
        let lock = rustix::fs::open(&tree.0, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        rustix::fs::flock(&lock, FlockOperation::LockShared).unwrap();
        let cleaned = clean_up(write(&[record]));
        assert_eq!(cleaned.in_use.len(), 1);
        assert!(tree.has("d"));
        drop(lock);
        assert!(remove(cleaned.in_use).in_use.is_empty());
        assert!(!tree.has("d"));
    }
}
