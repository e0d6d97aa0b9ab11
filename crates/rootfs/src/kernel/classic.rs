//! The kernel as it was before it had detached mounts: every mount is made with mount(2), `Level::Classic`.
//!
//! A mount that others make detached is made in a place of our own ([`super::staging`]), is changed there by remounting it,
//! and is attached with `MS_MOVE`. So a descriptor of it is as good as one of a detached mount, and an execution is the same
//! at every level. What mount(2) has no means for is an error: it is looked for before anything is mounted, see
//! [`crate::execute::classic`].

use std::cell::{Cell, Ref, RefCell};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use super::copy_tree::{Copied, Top};
use super::linux::{Linux, c_path, failed};
use super::staging::{Staging, check_nosymfollow, mount_flags};
use super::{AttributeChange, FileStatus, Follow, Kernel, ListedMount, MountState, NodeKind};
use crate::error::{Result, SysError, SysResult};
use crate::mountinfo;
use crate::options::{Propagation, PropagationType, attr};
use crate::path::PathBytes;
use crate::spec::IdMap;

/// mount(2) copies one page of options, and cuts off what is more without a word.
pub const MAX_OPTIONS: usize = 4095;

/// The kernel, with mount(2) only.
pub struct Classic<'a> {
    linux: &'a Linux,
    /// `None` while hooks run, and at the end.
    staging: RefCell<Option<Staging<'a>>>,
    finished: Cell<bool>,
    contexts: RefCell<BTreeMap<i32, Context>>,
}

/// What is said about a filesystem until it is mounted.
#[derive(Debug, Default)]
struct Context {
    fstype: String,
    source: Option<PathBytes>,
    /// Superblock flags of mount(2).
    flags: u64,
    options: Vec<Vec<u8>>,
    /// The mount whose filesystem is changed.
    picked: Option<OwnedFd>,
}

/// Options that mount(2) takes as flags: what they set, and what they clear.
const SUPERBLOCK_FLAGS: [(&str, u64, u64); 11] = [
    ("ro", libc::MS_RDONLY, 0),
    ("rw", 0, libc::MS_RDONLY),
    ("sync", libc::MS_SYNCHRONOUS, 0),
    ("async", 0, libc::MS_SYNCHRONOUS),
    ("dirsync", libc::MS_DIRSYNC, 0),
    ("mand", libc::MS_MANDLOCK, 0),
    ("nomand", 0, libc::MS_MANDLOCK),
    ("lazytime", MS_LAZYTIME, 0),
    ("nolazytime", 0, MS_LAZYTIME),
    ("iversion", libc::MS_I_VERSION, 0),
    ("noiversion", 0, libc::MS_I_VERSION),
];
const MS_LAZYTIME: u64 = 1 << 25;

/// Options of SELinux: what has a comma, as ranges of categories have, is quoted.
const LABELS: [&str; 4] = ["context", "fscontext", "defcontext", "rootcontext"];

/// One option as it has to be in the one string that mount(2) takes. `None` where it can't be: commas end an option there,
/// and only overlay and SELinux have a way to write them.
pub fn joined_option(fstype: &str, key: &str, value: Option<&[u8]>) -> Option<Vec<u8>> {
    let mut option = key.as_bytes().to_vec();
    if option.contains(&b',') {
        return None;
    }
    let Some(value) = value else { return Some(option) };
    option.push(b'=');
    if LABELS.contains(&key) && value.contains(&b',') && !value.contains(&b'"') {
        option.extend([b"\"", value, b"\""].concat());
        return Some(option);
    }
    for byte in value {
        if *byte == b',' {
            if fstype != "overlay" {
                return None;
            }
            option.push(b'\\');
        }
        option.push(*byte);
    }
    Some(option)
}

fn propagation_flags(propagation: Propagation, recursive: bool) -> u64 {
    let kind = match propagation.kind {
        PropagationType::Private => libc::MS_PRIVATE,
        PropagationType::Shared => libc::MS_SHARED,
        PropagationType::Slave => libc::MS_SLAVE,
        PropagationType::Unbindable => libc::MS_UNBINDABLE,
    };
    kind | if recursive { libc::MS_REC } else { 0 }
}

fn invalid(arguments: String) -> SysError {
    SysError { syscall: "mount", errno: libc::EINVAL, arguments }
}

impl<'a> Classic<'a> {
    /// Moves this process into a mount namespace of its own, unless it is in one, and makes a place for mounts there.
    pub fn begin(linux: &'a Linux, own_namespace: bool) -> SysResult<Self> {
        if !own_namespace {
            linux.new_mount_namespace()?;
        }
        Ok(Self::with(linux, Staging::make(linux)?))
    }

    /// For a helper of a process that has begun so, in whose mount namespace the helper has arrived just now.
    pub fn join(linux: &'a Linux) -> SysResult<Self> {
        Ok(Self::with(linux, Staging::join(linux)?))
    }

    fn with(linux: &'a Linux, staging: Staging<'a>) -> Self {
        Self {
            linux,
            staging: RefCell::new(Some(staging)),
            finished: Cell::new(false),
            contexts: RefCell::default(),
        }
    }

    /// The place for mounts, which is made again after hooks have run.
    fn staging(&self) -> SysResult<Ref<'_, Staging<'a>>> {
        if self.staging.borrow().is_none() {
            if self.finished.get() {
                return Err(invalid("a mount after the last one".into()));
            }
            *self.staging.borrow_mut() = Some(Staging::make(self.linux)?);
        }
        Ref::filter_map(self.staging.borrow(), Option::as_ref)
            .map_err(|_| invalid("no place for mounts".into()))
    }

    /// Takes away what a helper has mounted for itself. What it has made for others stays.
    pub fn leave(&self) -> SysResult<()> {
        self.staging()?.leave()
    }

    /// Whether mounts of this kernel can refuse to follow symbolic links: tried on a mount of our own.
    pub fn has_nosymfollow(&self) -> bool {
        self.open_filesystem("tmpfs")
            .and_then(|context| self.mount_created(context.as_fd(), attr::NOSYMFOLLOW))
            .is_ok()
    }

    fn in_context(&self, context: BorrowedFd<'_>, change: impl FnOnce(&mut Context)) -> SysResult<()> {
        match self.contexts.borrow_mut().get_mut(&context.as_raw_fd()) {
            Some(context) => {
                change(context);
                Ok(())
            }
            None => Err(invalid("what is no filesystem's context".into())),
        }
    }

    fn add_option(&self, context: BorrowedFd<'_>, key: &str, value: Option<&PathBytes>) -> SysResult<()> {
        let mut refused = false;
        self.in_context(context, |context| {
            match joined_option(&context.fstype, key, value.map(PathBytes::as_bytes)) {
                Some(option) => context.options.push(option),
                None => refused = true,
            }
        })?;
        if refused {
            return Err(invalid(format!("\"{key}\", {value:?}: mount(2) takes no comma in an option")));
        }
        Ok(())
    }
}

impl Classic<'_> {
    /// What the mount table says about the mount that a descriptor is on, which may be one that isn't attached to the tree yet.
    fn mountinfo_entry(&self, mount: BorrowedFd<'_>) -> SysResult<mountinfo::Entry> {
        self.staging()?
            .entry(mount)?
            .ok_or_else(|| invalid("a mount that is not in the mount table".to_owned()))
    }

    /// Changes the filesystem of a mount. What isn't said again is taken away, of the mount too: its own flags are given
    /// back.
    fn remount_filesystem(&self, mount: BorrowedFd<'_>, flags: u64, data: Option<&CStr>) -> SysResult<()> {
        let attributes = self.mountinfo_entry(mount)?.attributes();
        let staging = self.staging()?;
        let all = libc::MS_REMOUNT | flags | mount_flags(attributes & !attr::RDONLY);
        staging.mount(None, &Staging::path_of(mount), None, all, data)?;
        match (attributes & attr::RDONLY != 0, flags & libc::MS_RDONLY != 0) {
            (true, false) => staging.remount(mount, attr::RDONLY, 0),
            (false, true) => staging.remount(mount, 0, attr::RDONLY),
            _ => Ok(()),
        }
    }
}

/// The flags of a filesystem, as the mount table has them.
fn superblock_flags(entry: &mountinfo::Entry) -> u64 {
    let words = entry.super_options.iter().filter_map(|word| {
        SUPERBLOCK_FLAGS.iter().find(|(name, set, _)| name == word && *set != 0).map(|(_, set, _)| set)
    });
    words.fold(0, |flags, set| flags | set)
}

/// What has nothing to do with mounts is the same.
macro_rules! as_before {
    ($(fn $name:ident(&self $(, $argument:ident: $type:ty)*) -> $result:ty;)*) => { $(
        fn $name(&self $(, $argument: $type)*) -> $result {
            self.linux.$name($($argument),*)
        }
    )* };
}

impl Kernel for Classic<'_> {
    as_before! {
        fn open_host(&self, path: &PathBytes, directory: bool, follow: bool) -> SysResult<OwnedFd>;
        fn resolve(&self, root: BorrowedFd<'_>, path: &PathBytes, follow: Follow) -> SysResult<OwnedFd>;
        fn open_directory(&self, directory: BorrowedFd<'_>) -> SysResult<OwnedFd>;
        fn lock_shared(&self, file: BorrowedFd<'_>) -> SysResult<()>;
        fn lock_exclusive(&self, file: BorrowedFd<'_>) -> SysResult<()>;
        fn status(&self, file: BorrowedFd<'_>) -> SysResult<FileStatus>;
        fn status_in(&self, directory: BorrowedFd<'_>, name: &PathBytes) -> SysResult<FileStatus>;
        fn mount_id(&self, file: BorrowedFd<'_>) -> SysResult<u64>;
        fn filesystem_magic(&self, file: BorrowedFd<'_>) -> SysResult<u64>;
        fn read_link(&self, link: BorrowedFd<'_>) -> SysResult<PathBytes>;
        fn in_initial_user_namespace(&self) -> SysResult<bool>;
        fn set_label(&self, directory: BorrowedFd<'_>, label: &str) -> SysResult<()>;
        fn user_namespace(&self, map: &IdMap) -> SysResult<OwnedFd>;
        fn copy_tree(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, top: Top) -> SysResult<Copied>;
        fn detach(&self, mount: BorrowedFd<'_>) -> SysResult<()>;
        fn in_private_mounts(&self, work: &mut dyn FnMut() -> Result<OwnedFd>) -> Result<OwnedFd>;
        fn mount_states(&self, ids: &[u64]) -> SysResult<Vec<Option<MountState>>>;
        fn source_state(&self, file: BorrowedFd<'_>, id: u64) -> SysResult<(Option<MountState>, u64)>;
        fn mount_table(&self, expected: usize) -> SysResult<Vec<ListedMount>>;
        fn mount_table_of(&self, count: usize) -> SysResult<Option<Vec<ListedMount>>>;
        fn mount_at(&self, path: &PathBytes) -> SysResult<u64>;
        fn mounts_below(&self, mount: u64) -> SysResult<Vec<u64>>;
        fn make_directory(&self, parent: BorrowedFd<'_>, name: &PathBytes, mode: u32) -> SysResult<()>;
        fn make_node(&self, parent: BorrowedFd<'_>, name: &PathBytes, kind: NodeKind, mode: u32) -> SysResult<()>;
        fn change_owner(&self, parent: BorrowedFd<'_>, name: &PathBytes, uid: u32, gid: u32) -> SysResult<()>;
        fn make_file(
            &self,
            parent: BorrowedFd<'_>,
            name: &PathBytes,
            content: &[u8],
            mode: u32,
            owner: (u32, u32)
        ) -> SysResult<()>;
        fn set_owner(&self, file: BorrowedFd<'_>, uid: Option<u32>, gid: Option<u32>) -> SysResult<()>;
        fn set_mode(&self, file: BorrowedFd<'_>, mode: u32) -> SysResult<()>;
        fn set_directory_mode(&self, directory: BorrowedFd<'_>, mode: u32) -> SysResult<()>;
        fn is_readonly(&self, file: BorrowedFd<'_>) -> SysResult<bool>;
        fn make_symlink(&self, target: &PathBytes, parent: BorrowedFd<'_>, name: &PathBytes) -> SysResult<()>;
        fn remove_file(&self, parent: BorrowedFd<'_>, name: &PathBytes) -> SysResult<()>;
        fn new_mount_namespace(&self) -> SysResult<()>;
        fn new_cgroup_namespace(&self) -> SysResult<()>;
        fn set_root_propagation(&self, propagation: Propagation) -> SysResult<()>;
        fn own_cgroups(&self) -> SysResult<Vec<(String, PathBytes)>>;
        fn cgroup_mounts(&self) -> SysResult<Vec<mountinfo::Entry>>;
        fn set_hostname(&self, name: &str) -> SysResult<()>;
        fn set_domainname(&self, name: &str) -> SysResult<()>;
        fn prepare_sysctl(&self) -> SysResult<()>;
        fn write_sysctl(&self, path: &str, value: &str) -> SysResult<()>;
        fn read_attribute(&self, name: &str) -> SysResult<Vec<u8>>;
        fn write_attribute(&self, name: &str, value: &[u8]) -> SysResult<()>;
    }

    fn ids_are_unique(&self) -> bool {
        self.linux.ids_are_unique()
    }

    fn pause(&self, milliseconds: u64) {
        self.linux.pause(milliseconds);
    }

    fn clone_mount(&self, file: BorrowedFd<'_>, recursive: bool) -> SysResult<OwnedFd> {
        self.staging()?.bind(file, recursive)
    }

    fn set_attributes(&self, mount: BorrowedFd<'_>, change: AttributeChange) -> SysResult<()> {
        // First: what others mount must not arrive between the changes of those below.
        if let Some(propagation) = change.propagation {
            let flags = propagation_flags(propagation, change.recursive);
            self.staging()?.set_propagation(&Staging::path_of(mount), flags)?;
        }
        match change {
            AttributeChange { set: 0, clear: 0, .. } => Ok(()),
            AttributeChange { set, clear, recursive: true, .. } => {
                self.staging()?.remount_all(mount, set, clear)
            }
            AttributeChange { set, clear, .. } => self.staging()?.remount(mount, set, clear),
        }
    }

    fn attach(&self, mount: BorrowedFd<'_>, destination: BorrowedFd<'_>) -> SysResult<()> {
        self.staging()?.move_to(mount, destination)
    }

    fn open_filesystem(&self, fstype: &str) -> SysResult<OwnedFd> {
        // Any descriptor will do: its number is what the context is known by.
        let context = rustix::fs::openat(
            rustix::fs::CWD,
            c"/",
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(failed("openat", || "\"/\"".into()))?;
        let new = Context { fstype: fstype.to_owned(), ..Context::default() };
        self.contexts.borrow_mut().insert(context.as_raw_fd(), new);
        Ok(context)
    }

    fn set_filesystem_flag(&self, context: BorrowedFd<'_>, key: &str) -> SysResult<()> {
        match SUPERBLOCK_FLAGS.iter().find(|(name, ..)| *name == key) {
            Some((_, set, clear)) => {
                self.in_context(context, |context| context.flags = context.flags & !clear | set)
            }
            None => self.add_option(context, key, None),
        }
    }

    fn set_filesystem_option(&self, context: BorrowedFd<'_>, key: &str, value: &PathBytes) -> SysResult<()> {
        if key == "source" {
            return self.in_context(context, |context| context.source = Some(value.clone()));
        }
        self.add_option(context, key, Some(value))
    }

    fn create_filesystem(&self, _: BorrowedFd<'_>) -> SysResult<()> {
        // It is made when it is mounted.
        Ok(())
    }

    fn mount_created(&self, context: BorrowedFd<'_>, attributes: u64) -> SysResult<OwnedFd> {
        let Some(context) = self.contexts.borrow_mut().remove(&context.as_raw_fd()) else {
            return Err(invalid("what is no filesystem's context".into()));
        };
        let data = context.options.join(&b","[..]);
        if data.len() > MAX_OPTIONS {
            let arguments = format!("{} bytes of options: mount(2) takes {MAX_OPTIONS}", data.len());
            return Err(invalid(arguments));
        }
        let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| invalid("an option with a NUL".into()));
        let (fstype, data) = (text(context.fstype.as_bytes())?, text(&data)?);
        let source = context.source.as_ref().map_or_else(|| fstype.clone(), c_path);
        // Said here, read-only would be the superblock's.
        let flags = context.flags | mount_flags(attributes & !attr::RDONLY);
        let staging = self.staging()?;
        let slot = staging.slot(true)?;
        staging.mount(Some(&source), &slot, Some(&fstype), flags, Some(&data))?;
        let mount = staging.open_slot(&slot)?;
        if attributes & attr::RDONLY != 0 && context.flags & libc::MS_RDONLY == 0 {
            staging.remount(mount.as_fd(), attr::RDONLY, 0)?;
        }
        check_nosymfollow(mount.as_fd(), attributes)?;
        Ok(mount)
    }

    fn set_overlay_layers(
        &self,
        context: BorrowedFd<'_>,
        lower: &[BorrowedFd<'_>],
        upper: Option<(BorrowedFd<'_>, BorrowedFd<'_>)>,
    ) -> SysResult<()> {
        let name = |fd: &BorrowedFd<'_>| Staging::path_of(*fd).into_bytes();
        let set = |key: &str, value: Vec<u8>| self.add_option(context, key, Some(&PathBytes::new(value)));
        set("lowerdir", lower.iter().map(name).collect::<Vec<_>>().join(&b':'))?;
        if let Some((upper, work)) = upper {
            set("upperdir", name(&upper))?;
            set("workdir", name(&work))?;
        }
        Ok(())
    }

    fn map_mount_ids(&self, mount: BorrowedFd<'_>, _: BorrowedFd<'_>, _: bool) -> SysResult<()> {
        // A plan with one is refused before.
        let arguments = format!("{}, {{attr_set=MOUNT_ATTR_IDMAP}}", mount.as_raw_fd());
        Err(SysError { syscall: "mount_setattr", errno: libc::ENOSYS, arguments })
    }

    fn takes_iversion(&self) -> bool {
        true
    }

    fn make_superblock_readonly(&self, mount: BorrowedFd<'_>, _: &mut Vec<String>) -> SysResult<()> {
        let attributes = super::staging::attributes(mount)?;
        let flags = libc::MS_REMOUNT | libc::MS_RDONLY | mount_flags(attributes);
        let staging = self.staging()?;
        staging.mount(None, &Staging::path_of(mount), None, flags, None)?;
        // The call changes both.
        if attributes & attr::RDONLY == 0 { staging.remount(mount, 0, attr::RDONLY) } else { Ok(()) }
    }

    fn pick_filesystem(&self, mount: BorrowedFd<'_>) -> SysResult<OwnedFd> {
        let entry = self.mountinfo_entry(mount)?;
        let context = self.open_filesystem(&entry.fstype)?;
        let picked = rustix::io::fcntl_dupfd_cloexec(mount, 0).map_err(failed("fcntl", String::new))?;
        self.in_context(context.as_fd(), |context| {
            (context.flags, context.picked) = (superblock_flags(&entry), Some(picked));
        })?;
        Ok(context)
    }

    fn reconfigure_filesystem(&self, context: BorrowedFd<'_>) -> SysResult<()> {
        let Some(context) = self.contexts.borrow_mut().remove(&context.as_raw_fd()) else {
            return Err(invalid("what is no filesystem's context".into()));
        };
        let Some(mount) = &context.picked else {
            return Err(invalid("a filesystem that isn't mounted".into()));
        };
        let data = CString::new(context.options.join(&b","[..]))
            .map_err(|_| invalid("an option with a NUL".into()))?;
        self.remount_filesystem(mount.as_fd(), context.flags, Some(&data))
    }

    fn count_changes(&self, mount: BorrowedFd<'_>, count: bool, lazytime: bool) -> SysResult<()> {
        let mut flags = superblock_flags(&self.mountinfo_entry(mount)?);
        for (wanted, flag) in [(count, libc::MS_I_VERSION), (lazytime, libc::MS_LAZYTIME)] {
            if wanted {
                flags |= flag;
            }
        }
        self.remount_filesystem(mount, flags, None)
    }

    fn filesystem_log(&self, _: BorrowedFd<'_>) -> Vec<String> {
        // Only the kernel's own log has it, among everything else.
        Vec::new()
    }

    fn make_containing_mount_private(&self, file: BorrowedFd<'_>, slave: bool) -> SysResult<()> {
        let flags = if slave { libc::MS_SLAVE } else { libc::MS_PRIVATE };
        let mut current: OwnedFd =
            rustix::io::fcntl_dupfd_cloexec(file, 0).map_err(failed("fcntl", String::new))?;
        // A mount's propagation can only be changed at its root: walk up until that is found.
        for _ in 0..4096 {
            match self.staging()?.set_propagation(&Staging::path_of(current.as_fd()), flags) {
                Err(error) if error.errno == libc::EINVAL => {}
                other => return other,
            }
            let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            current = rustix::fs::openat(&current, c"..", flags, Mode::empty())
                .map_err(failed("openat", || "\"..\"".into()))?;
        }
        Err(SysError { syscall: "mount", errno: libc::ELOOP, arguments: file.as_raw_fd().to_string() })
    }

    fn enter_root(&self, root: BorrowedFd<'_>) -> SysResult<()> {
        self.staging()?.enter(root)
    }

    fn enter_root_by_stub(&self, _: BorrowedFd<'_>, _: BorrowedFd<'_>) -> SysResult<bool> {
        Ok(false)
    }

    fn enter_root_by_chroot(&self, _: BorrowedFd<'_>, _: Option<BorrowedFd<'_>>) -> SysResult<()> {
        // A tree that is attached nowhere is what there is not. A plan with one is refused before.
        Err(SysError { syscall: "move_mount", errno: libc::ENOSYS, arguments: "a detached tree".into() })
    }

    fn suspend_mounting(&self) -> SysResult<()> {
        match self.staging.take() {
            Some(staging) => staging.dissolve(),
            None => Ok(()),
        }
    }

    fn finish_mounting(&self) -> SysResult<()> {
        self.staging()?.clear()?;
        self.finished.set(true);
        self.staging.take();
        Ok(())
    }
}
