//! A double of the kernel for unit tests: a small tree in memory, and a record of every call.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::copy_tree::{Copied, Top};
use super::{AttributeChange, FileKind, FileStatus, Follow, Kernel, ListedMount, MountState, NodeKind};
use crate::error::{Error, ErrorCode, Result, SysError, SysResult};
use crate::mountinfo::Entry;
use crate::options::{Propagation, PropagationState};
use crate::path::PathBytes;
use crate::procfs::PROC_SUPER_MAGIC;
use crate::spec::IdMap;

/// What a name in the tree is.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    Directory,
    File,
    Null,
    Symlink(&'static str),
}

#[derive(Clone, Debug)]
enum Handle {
    /// A path of the host.
    Host(PathBytes),
    /// A place in the container's tree.
    Place(PathBytes),
    /// A detached or attached mount, by what it is of.
    Mount(String),
    Context(String),
}

/// What a descriptor is known by: its number is used again when it is closed, by any test of this process.
fn key(file: &impl AsFd) -> u64 {
    rustix::fs::fstat(file).expect("a descriptor").st_ino
}

/// What a hook mounts has no descriptor.
const BY_HOOK: u64 = 0;

/// Changes a mount table.
pub(crate) type Tamper = Box<dyn FnMut(&mut Vec<ListedMount>)>;

/// Records calls, and answers them from the tree in memory.
#[derive(Default)]
pub(crate) struct Recording {
    /// Every call that changes something, or opens something of the host.
    pub(crate) calls: RefCell<Vec<String>>,
    tree: RefCell<BTreeMap<PathBytes, Node>>,
    handles: RefCell<BTreeMap<u64, Handle>>,
    /// When each was opened.
    opened: RefCell<BTreeMap<u64, u64>>,
    opened_so_far: Cell<u64>,
    attributes: RefCell<BTreeMap<u64, u64>>,
    refuse: RefCell<Vec<(&'static str, i32)>>,
    procfs_at: RefCell<Option<PathBytes>>,
    root_mount: Cell<u64>,
    propagation: RefCell<BTreeMap<u64, PropagationState>>,
    /// What was attached, and where.
    attached: RefCell<BTreeMap<u64, (u64, PathBytes)>>,
    /// What the mounts of the host are like.
    pub(crate) source: Cell<MountState>,
    /// Where mounts are, when the table was last read.
    places: RefCell<BTreeMap<PathBytes, u64>>,
    /// How often the mount table was read.
    pub(crate) tables_read: Cell<usize>,
    /// Paths lead to nothing that was attached.
    pub(crate) leads_to_no_mounts: Cell<bool>,
    /// What a hook mounts, until it has.
    by_hook: RefCell<Option<PathBytes>>,
    /// Changes the mount table that is read.
    pub(crate) tamper: RefCell<Option<Tamper>>,
    /// Has the kernel forget that mounts are read-only.
    pub(crate) forgets_readonly: Cell<bool>,
    /// What the attributes of security modules say, by their names.
    security: RefCell<BTreeMap<String, Vec<u8>>>,
    /// Whether the host has SELinux.
    pub(crate) selinux: Cell<bool>,
    /// Whether this process is in another user namespace than the first.
    pub(crate) in_user_namespace: Cell<bool>,
    /// Has the kernel copy only what is attached.
    pub(crate) copies_no_detached: Cell<bool>,
    /// The own cgroups: controllers and path.
    pub(crate) cgroups: RefCell<Vec<(String, PathBytes)>>,
    /// The cgroup filesystems of the host.
    pub(crate) cgroup_mounts: RefCell<Vec<Entry>>,
}

impl Recording {
    /// A tree with these names.
    pub(crate) fn new(names: &[(&str, Node)]) -> Self {
        let recording = Self::default();
        for (name, node) in names {
            recording.tree.borrow_mut().insert((*name).into(), node.clone());
        }
        recording
    }

    /// Has calls whose record begins with this fail.
    pub(crate) fn refuse(&self, call: &'static str, errno: i32) {
        self.refuse.borrow_mut().push((call, errno));
    }

    /// Has the next hook mount something.
    pub(crate) fn mounts_by_hook(&self, at: &str) {
        *self.by_hook.borrow_mut() = Some(at.into());
    }

    /// A hook runs.
    pub(crate) fn hook_runs(&self) {
        if let Some(at) = self.by_hook.borrow_mut().take() {
            let fd = BY_HOOK;
            self.attributes.borrow_mut().insert(fd, 0);
            self.attached.borrow_mut().insert(fd, (self.root_mount.get(), at));
        }
    }

    /// Has an attribute of a security module be there, and say this.
    pub(crate) fn attribute(&self, name: &str, value: &str) {
        self.security.borrow_mut().insert(name.to_owned(), value.as_bytes().to_vec());
    }

    /// Has a directory of the tree be the root of a procfs.
    pub(crate) fn mount_procfs(&self, at: &str) {
        *self.procfs_at.borrow_mut() = Some(at.into());
    }

    pub(crate) fn position(&self, call: &str) -> usize {
        let calls = self.calls.borrow();
        calls
            .iter()
            .position(|made| made.starts_with(call))
            .unwrap_or_else(|| panic!("no {call} in {calls:#?}"))
    }

    fn record(&self, syscall: &'static str, text: String) -> SysResult<()> {
        let refused =
            self.refuse.borrow().iter().find(|(call, _)| text.starts_with(call)).map(|(_, errno)| *errno);
        self.calls.borrow_mut().push(text.clone());
        match refused {
            Some(errno) => Err(SysError { syscall, errno, arguments: text }),
            None => Ok(()),
        }
    }

    fn open(&self, handle: Handle) -> OwnedFd {
        let fd =
            rustix::fs::memfd_create(c"recording", rustix::fs::MemfdFlags::CLOEXEC).expect("a descriptor");
        self.handles.borrow_mut().insert(key(&fd), handle);
        self.attributes.borrow_mut().insert(key(&fd), 0);
        self.opened_so_far.set(self.opened_so_far.get() + 1);
        self.opened.borrow_mut().insert(key(&fd), self.opened_so_far.get());
        fd
    }

    /// The id of a mount, by its descriptor. There is room between them for those that nobody has opened.
    fn mount_number(&self, fd: u64) -> u64 {
        (self.opened.borrow().get(&fd).copied().unwrap_or(0) + 10) * 100
    }

    fn handle(&self, fd: BorrowedFd<'_>) -> Handle {
        self.handles.borrow().get(&key(&fd)).cloned().unwrap_or(Handle::Mount("unknown".into()))
    }

    fn name(&self, fd: BorrowedFd<'_>) -> String {
        match self.handle(fd) {
            Handle::Host(path) => format!("host:{path}"),
            Handle::Place(path) => path.to_string(),
            Handle::Mount(what) => format!("[{what}]"),
            Handle::Context(fstype) => format!("context:{fstype}"),
        }
    }

    fn place(&self, fd: BorrowedFd<'_>) -> PathBytes {
        match self.handle(fd) {
            Handle::Place(path) => path,
            _ => "/".into(),
        }
    }
}

fn missing(path: &PathBytes) -> SysError {
    SysError { syscall: "openat2", errno: libc::ENOENT, arguments: path.to_string() }
}

impl Kernel for Recording {
    fn open_host(&self, path: &PathBytes, _directory: bool, _follow: bool) -> SysResult<OwnedFd> {
        self.record("openat", format!("open_host {path}"))?;
        Ok(self.open(Handle::Host(path.clone())))
    }

    fn resolve(&self, root: BorrowedFd<'_>, path: &PathBytes, follow: Follow) -> SysResult<OwnedFd> {
        let mut current = self.place(root);
        let mut left: Vec<PathBytes> = path.components().rev().map(PathBytes::new).collect();
        let mut links = 0;
        while let Some(name) = left.pop() {
            let next = current.join(&name).normalized();
            let node = self.tree.borrow().get(&next).cloned().ok_or_else(|| missing(&next))?;
            match node {
                Node::Symlink(target) if !(left.is_empty() && follow == Follow::AllButLast) => {
                    links += 1;
                    if follow == Follow::None || links > 40 {
                        return Err(SysError {
                            syscall: "openat2",
                            errno: libc::ELOOP,
                            arguments: next.to_string(),
                        });
                    }
                    let target = PathBytes::from(target);
                    if target.is_absolute() {
                        current = "/".into();
                    }
                    left.extend(target.components().rev().map(PathBytes::new));
                }
                _ => current = next,
            }
        }
        Ok(self.open(Handle::Place(current)))
    }

    fn open_directory(&self, _directory: BorrowedFd<'_>) -> SysResult<OwnedFd> {
        Ok(self.open(Handle::Mount("lock".into())))
    }

    fn lock_shared(&self, _file: BorrowedFd<'_>) -> SysResult<()> {
        self.record("flock", "lock".into())
    }

    fn lock_exclusive(&self, _file: BorrowedFd<'_>) -> SysResult<()> {
        self.record("flock", "exclusive lock".into())
    }

    fn status_in(&self, directory: BorrowedFd<'_>, name: &PathBytes) -> SysResult<FileStatus> {
        let file = self.resolve(directory, name, Follow::AllButLast)?;
        let mut status = self.status(file.as_fd())?;
        if !self.places.borrow().is_empty() {
            status.mount = self.mount_at(&self.place(directory).join(name).normalized())?;
        }
        Ok(status)
    }

    fn status(&self, file: BorrowedFd<'_>) -> SysResult<FileStatus> {
        let (kind, rdev, inode) = match self.handle(file) {
            Handle::Place(path) => {
                let node = if path.as_bytes() == b"/" {
                    Some(Node::Directory)
                } else {
                    self.tree.borrow().get(&path).cloned()
                };
                let inode =
                    100 + path.as_bytes().iter().fold(0, |sum, byte| sum * 31 % 1_000_003 + u64::from(*byte));
                let is_procfs = self.procfs_at.borrow().as_ref() == Some(&path);
                let inode = if is_procfs { 1 } else { inode };
                match node {
                    Some(Node::Directory) => (FileKind::Directory, (0, 0), inode),
                    Some(Node::File) => (FileKind::Regular, (0, 0), inode),
                    Some(Node::Null) => (FileKind::CharacterDevice, (1, 3), inode),
                    Some(Node::Symlink(_)) => (FileKind::Symlink, (0, 0), inode),
                    None => return Err(missing(&path)),
                }
            }
            Handle::Host(path) if path.as_bytes() == b"/dev/null" => (FileKind::CharacterDevice, (1, 3), 2),
            Handle::Host(path) if path.as_bytes().ends_with(b".file") => (FileKind::Regular, (0, 0), 3),
            Handle::Host(path) => {
                let sum = path.as_bytes().iter().fold(0, |sum, byte| sum * 31 % 1_000_003 + u64::from(*byte));
                (FileKind::Directory, (0, 0), 2_000_000 + sum)
            }
            Handle::Mount(what) if what.contains("null") => (FileKind::CharacterDevice, (1, 3), 2),
            _ => (FileKind::Directory, (0, 0), 4),
        };
        Ok(FileStatus {
            kind,
            mode: 0o755,
            owner: (0, 0),
            device: 1,
            inode,
            mount: self.mount_id(file)?,
            rdev,
        })
    }

    fn mount_id(&self, file: BorrowedFd<'_>) -> SysResult<u64> {
        Ok(match self.handle(file) {
            Handle::Mount(_) => self.mount_number(key(&file)),
            Handle::Place(path) => {
                let attached = self.attached.borrow();
                if self.leads_to_no_mounts.get() {
                    return Ok(self.root_mount.get());
                }
                let on_it = attached.iter().filter(|(_, (_, at))| *at == path && path.as_bytes() != b"/");
                on_it.map(|(fd, _)| self.mount_number(*fd)).max().unwrap_or(self.root_mount.get())
            }
            _ => self.root_mount.get(),
        })
    }

    fn filesystem_magic(&self, file: BorrowedFd<'_>) -> SysResult<u64> {
        let below = match (self.handle(file), self.procfs_at.borrow().as_ref()) {
            (Handle::Place(path), Some(procfs)) => path.starts_with(procfs),
            _ => false,
        };
        Ok(if below { PROC_SUPER_MAGIC } else { 0x0102_1994 })
    }

    fn read_link(&self, link: BorrowedFd<'_>) -> SysResult<PathBytes> {
        match self.tree.borrow().get(&self.place(link)) {
            Some(Node::Symlink(target)) => Ok((*target).into()),
            _ => Err(SysError { syscall: "readlinkat", errno: libc::EINVAL, arguments: String::new() }),
        }
    }

    fn clone_mount(&self, file: BorrowedFd<'_>, recursive: bool) -> SysResult<OwnedFd> {
        let what = self.name(file);
        self.record("open_tree", format!("clone {what} recursive={recursive}"))?;
        let aside = || self.calls.borrow().iter().any(|call| call.starts_with("attach [tmpfs] -> host:"));
        if what == "/file" && self.copies_no_detached.get() && !aside() {
            return Err(SysError { syscall: "open_tree", errno: libc::EINVAL, arguments: what });
        }
        let is_root = what == "host:/srv/root";
        let of_host = matches!(self.handle(file), Handle::Host(_));
        let fd = self.open(Handle::Mount(what));
        if of_host {
            let MountState { attributes, propagation } = self.source.get();
            self.attributes.borrow_mut().insert(key(&fd), attributes);
            self.propagation.borrow_mut().insert(key(&fd), propagation);
        }
        if is_root {
            self.root_mount.set(self.mount_id(std::os::fd::AsFd::as_fd(&fd))?);
        }
        Ok(fd)
    }

    fn set_attributes(&self, mount: BorrowedFd<'_>, change: AttributeChange) -> SysResult<()> {
        let propagation = change.propagation.map_or("", Propagation::name);
        self.record(
            "mount_setattr",
            format!("set {} +{:x} -{:x} {propagation}", self.name(mount), change.set, change.clear),
        )?;
        let mut attributes = self.attributes.borrow_mut();
        let bits = attributes.entry(key(&mount)).or_default();
        *bits = *bits & !change.clear | change.set;
        if let Some(propagation) = change.propagation {
            let mut all = self.propagation.borrow_mut();
            let state = all.entry(key(&mount)).or_default();
            *state = state.changed(propagation.kind);
        }
        Ok(())
    }

    fn attach(&self, mount: BorrowedFd<'_>, destination: BorrowedFd<'_>) -> SysResult<()> {
        self.record("move_mount", format!("attach {} -> {}", self.name(mount), self.name(destination)))?;
        let (parent, place) = match self.handle(destination) {
            Handle::Place(path) => (self.mount_id(destination)?, path),
            _ => (0, "/".into()),
        };
        self.attached.borrow_mut().insert(key(&mount), (parent, place));
        Ok(())
    }

    fn open_filesystem(&self, fstype: &str) -> SysResult<OwnedFd> {
        self.record("fsopen", format!("fsopen {fstype}"))?;
        Ok(self.open(Handle::Context(fstype.to_owned())))
    }

    fn set_filesystem_flag(&self, _context: BorrowedFd<'_>, key: &str) -> SysResult<()> {
        self.record("fsconfig", format!("option {key}"))
    }

    fn set_filesystem_option(&self, _context: BorrowedFd<'_>, key: &str, value: &PathBytes) -> SysResult<()> {
        self.record("fsconfig", format!("option {key}={value}"))
    }

    fn create_filesystem(&self, _context: BorrowedFd<'_>) -> SysResult<()> {
        Ok(())
    }

    fn mount_created(&self, context: BorrowedFd<'_>, attributes: u64) -> SysResult<OwnedFd> {
        let Handle::Context(fstype) = self.handle(context) else {
            return Err(SysError { syscall: "fsmount", errno: libc::EBADF, arguments: String::new() });
        };
        self.record("fsmount", format!("fsmount {fstype} {attributes:x}"))?;
        let fd = self.open(Handle::Mount(fstype));
        self.attributes.borrow_mut().insert(key(&fd), attributes);
        Ok(fd)
    }

    fn set_overlay_layers(
        &self,
        _context: BorrowedFd<'_>,
        lower: &[BorrowedFd<'_>],
        upper: Option<(BorrowedFd<'_>, BorrowedFd<'_>)>,
    ) -> SysResult<()> {
        let lower: Vec<String> = lower.iter().map(|fd| self.name(*fd)).collect();
        let upper =
            upper.map(|(upper, work)| format!(" upper {} work {}", self.name(upper), self.name(work)));
        self.record("fsconfig", format!("layers {}{}", lower.join(" "), upper.unwrap_or_default()))
    }

    fn in_initial_user_namespace(&self) -> SysResult<bool> {
        Ok(!self.in_user_namespace.get())
    }

    fn selinux_enabled(&self) -> bool {
        self.selinux.get()
    }

    fn set_label(&self, directory: BorrowedFd<'_>, label: &str) -> SysResult<()> {
        self.record("fsetxattr", format!("label {} {label}", self.name(directory)))
    }

    fn user_namespace(&self, map: &IdMap) -> SysResult<OwnedFd> {
        let first = map.uids.first().map_or(0, |line| line.host_id);
        self.record("clone3", format!("user namespace {first}"))?;
        Ok(self.open(Handle::Mount(format!("ids {first}"))))
    }

    fn map_mount_ids(
        &self,
        mount: BorrowedFd<'_>,
        user_namespace: BorrowedFd<'_>,
        recursive: bool,
    ) -> SysResult<()> {
        *self.attributes.borrow_mut().entry(key(&mount)).or_default() |= crate::options::attr::IDMAP;
        let (mount, ids) = (self.name(mount), self.name(user_namespace));
        self.record("mount_setattr", format!("map {mount} {ids} recursive={recursive}"))
    }

    fn copy_tree(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, top: Top) -> SysResult<Copied> {
        self.record("copy", format!("copy {} -> {} {top:?}", self.name(from), self.name(to)))?;
        Ok(Copied::default())
    }

    fn detach(&self, mount: BorrowedFd<'_>) -> SysResult<()> {
        self.record("umount2", format!("detach {}", self.name(mount)))
    }

    fn in_private_mounts(&self, work: &mut dyn FnMut() -> Result<OwnedFd>) -> Result<OwnedFd> {
        self.record("unshare", "private mounts".into())
            .map_err(|call| Error::from_call(ErrorCode::Denied, "private mounts", &call))?;
        work()
    }

    fn make_superblock_readonly(&self, mount: BorrowedFd<'_>, log: &mut Vec<String>) -> SysResult<()> {
        self.record("fspick", format!("superblock ro {}", self.name(mount)))
            .inspect_err(|_| *log = self.filesystem_log(mount))
    }

    fn pick_filesystem(&self, mount: BorrowedFd<'_>) -> SysResult<OwnedFd> {
        let name = self.name(mount);
        self.record("fspick", format!("pick {name}"))?;
        Ok(self.open(Handle::Context(name)))
    }

    fn reconfigure_filesystem(&self, context: BorrowedFd<'_>) -> SysResult<()> {
        self.record("fsconfig", format!("reconfigure {}", self.name(context)))
    }

    fn count_changes(&self, mount: BorrowedFd<'_>, count: bool, _lazytime: bool) -> SysResult<()> {
        self.record("mount", format!("iversion {} {count}", self.name(mount)))
    }

    fn filesystem_log(&self, _context: BorrowedFd<'_>) -> Vec<String> {
        vec!["e tmpfs: Unknown parameter".into()]
    }

    fn mount_states(&self, ids: &[u64]) -> SysResult<Vec<Option<MountState>>> {
        let attributes = self.attributes.borrow();
        let opened = self.opened.borrow();
        Ok(ids
            .iter()
            .map(|id| {
                let fd = opened.iter().find(|(_, at)| (*at + 10) * 100 == *id).map_or(BY_HOOK, |(fd, _)| *fd);
                let kept = if self.forgets_readonly.get() { !crate::options::attr::RDONLY } else { !0 };
                attributes.get(&fd).map(|bits| MountState {
                    attributes: *bits & kept,
                    propagation: self.propagation.borrow().get(&fd).copied().unwrap_or_default(),
                })
            })
            .collect())
    }

    fn source_state(&self, _file: BorrowedFd<'_>, _id: u64) -> SysResult<(Option<MountState>, u64)> {
        Ok((Some(self.source.get()), 0))
    }

    fn mount_table(&self, _expected: usize) -> SysResult<Vec<ListedMount>> {
        self.tables_read.set(self.tables_read.get() + 1);
        let mut table = Vec::new();
        for (fd, (parent, mountpoint)) in self.attached.borrow().iter() {
            let id = self.mount_number(*fd);
            let Some(state) = self.mount_states(&[id])?.pop().flatten() else { continue };
            table.push(ListedMount {
                id,
                parent: *parent,
                mountpoint: mountpoint.clone(),
                state,
                superblock_readonly: !self.forgets_readonly.get(),
            });
        }
        table.sort_by_key(|mount| mount.id);
        if let Some(tamper) = self.tamper.borrow_mut().as_mut() {
            tamper(&mut table);
        }
        Ok(table)
    }

    fn mount_table_of(&self, count: usize) -> SysResult<Option<Vec<ListedMount>>> {
        let mut table = self.mount_table(count)?;
        // Whose places a test has changed are found by the names that they have.
        *self.places.borrow_mut() = table.iter().map(|mount| (mount.mountpoint.clone(), mount.id)).collect();
        for mount in &mut table {
            mount.mountpoint = "".into();
        }
        Ok((table.len() == count).then_some(table))
    }

    fn mount_at(&self, path: &PathBytes) -> SysResult<u64> {
        Ok(self.places.borrow().get(path).copied().unwrap_or(self.root_mount.get()))
    }

    fn mounts_below(&self, _mount: u64) -> SysResult<Vec<u64>> {
        Ok(self.attached.borrow().keys().map(|fd| self.mount_number(*fd)).collect())
    }

    fn ids_are_unique(&self) -> bool {
        true
    }

    fn make_directory(&self, parent: BorrowedFd<'_>, name: &PathBytes, mode: u32) -> SysResult<()> {
        let path = self.place(parent).join(name);
        self.record("mkdirat", format!("mkdir {path} {mode:o}"))?;
        self.tree.borrow_mut().insert(path, Node::Directory);
        Ok(())
    }

    fn make_node(
        &self,
        parent: BorrowedFd<'_>,
        name: &PathBytes,
        kind: NodeKind,
        mode: u32,
    ) -> SysResult<()> {
        let path = self.place(parent).join(name);
        self.record("mknodat", format!("mknod {path} {kind:?} {mode:o}"))?;
        let node = if kind == NodeKind::Character(1, 3) { Node::Null } else { Node::File };
        self.tree.borrow_mut().insert(path, node);
        Ok(())
    }

    fn change_owner(&self, parent: BorrowedFd<'_>, name: &PathBytes, uid: u32, gid: u32) -> SysResult<()> {
        self.record("fchownat", format!("chown {} {uid}:{gid}", self.place(parent).join(name)))
    }

    fn make_file(
        &self,
        parent: BorrowedFd<'_>,
        name: &PathBytes,
        content: &[u8],
        mode: u32,
        (uid, gid): (u32, u32),
    ) -> SysResult<()> {
        let path = self.place(parent).join(name);
        self.record("openat", format!("file {path} {mode:o} {uid}:{gid} {} bytes", content.len()))?;
        self.tree.borrow_mut().insert(path, Node::File);
        Ok(())
    }

    fn set_owner(&self, file: BorrowedFd<'_>, uid: Option<u32>, gid: Option<u32>) -> SysResult<()> {
        self.record("fchownat", format!("owner {} {uid:?}:{gid:?}", self.name(file)))
    }

    fn set_mode(&self, file: BorrowedFd<'_>, mode: u32) -> SysResult<()> {
        self.record("fchmodat2", format!("mode {} {mode:o}", self.name(file)))
    }

    fn set_directory_mode(&self, directory: BorrowedFd<'_>, mode: u32) -> SysResult<()> {
        self.record("fchmodat", format!("mode {} {mode:o}", self.name(directory)))
    }

    fn is_readonly(&self, file: BorrowedFd<'_>) -> SysResult<bool> {
        let attributes = self.attributes.borrow();
        Ok(attributes.get(&key(&file)).is_some_and(|bits| bits & crate::options::attr::RDONLY != 0))
    }

    fn make_symlink(&self, target: &PathBytes, parent: BorrowedFd<'_>, name: &PathBytes) -> SysResult<()> {
        let path = self.place(parent).join(name);
        if self.tree.borrow().contains_key(&path) {
            let arguments = path.to_string();
            return Err(SysError { syscall: "symlinkat", errno: libc::EEXIST, arguments });
        }
        self.record("symlinkat", format!("symlink {path} -> {target}"))
    }

    fn remove_file(&self, parent: BorrowedFd<'_>, name: &PathBytes) -> SysResult<()> {
        self.record("unlinkat", format!("unlink {}", self.place(parent).join(name)))
    }

    fn new_mount_namespace(&self) -> SysResult<()> {
        self.record("unshare", "unshare mount".into())
    }

    fn new_cgroup_namespace(&self) -> SysResult<()> {
        self.record("unshare", "unshare cgroup".into())
    }

    fn set_root_propagation(&self, propagation: Propagation) -> SysResult<()> {
        self.record("mount", format!("root propagation {}", propagation.name()))
    }

    fn make_containing_mount_private(&self, file: BorrowedFd<'_>, slave: bool) -> SysResult<()> {
        self.record("mount_setattr", format!("containing mount of {} slave={slave}", self.name(file)))
    }

    fn enter_root(&self, _root: BorrowedFd<'_>) -> SysResult<()> {
        self.record("pivot_root", "pivot".into())
    }

    fn enter_root_by_stub(&self, _stub: BorrowedFd<'_>, root: BorrowedFd<'_>) -> SysResult<bool> {
        self.record("setns", format!("enter {} by stub", self.name(root)))?;
        Ok(true)
    }

    fn enter_root_by_chroot(&self, root: BorrowedFd<'_>, namespace: Option<BorrowedFd<'_>>) -> SysResult<()> {
        let joined = if namespace.is_some() { " in a joined namespace" } else { "" };
        self.record("chroot", format!("{}{joined}", self.name(root)))
    }

    fn own_cgroups(&self) -> SysResult<Vec<(String, PathBytes)>> {
        Ok(self.cgroups.borrow().clone())
    }

    fn cgroup_mounts(&self) -> SysResult<Vec<Entry>> {
        Ok(self.cgroup_mounts.borrow().clone())
    }

    fn set_hostname(&self, name: &str) -> SysResult<()> {
        self.record("sethostname", format!("hostname {name}"))
    }

    fn set_domainname(&self, name: &str) -> SysResult<()> {
        self.record("setdomainname", format!("domainname {name}"))
    }

    fn prepare_sysctl(&self) -> SysResult<()> {
        self.record("openat", "prepare sysctl".into())
    }

    fn write_sysctl(&self, path: &str, value: &str) -> SysResult<()> {
        self.record("write", format!("sysctl {path} = {value}"))
    }

    fn read_attribute(&self, name: &str) -> SysResult<Vec<u8>> {
        self.security.borrow().get(name).cloned().ok_or_else(|| missing(&name.into()))
    }

    fn write_attribute(&self, name: &str, value: &[u8]) -> SysResult<()> {
        self.record("write", format!("attribute {name} = {}", String::from_utf8_lossy(value)))
    }

    fn new_session_keyring(&self) -> SysResult<()> {
        self.record("keyctl", "session keyring".to_owned())
    }

    fn pause(&self, _milliseconds: u64) {}
}
