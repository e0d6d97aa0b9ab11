//! The narrow interface to the kernel, and everything behind it.
//!
//! [`Kernel`] is what an execution needs. [`linux::Linux`] is the real one: this module and those below are the only
//! place with system calls and the only one with `unsafe`. [`recording::Recording`] serves unit tests.
#![allow(unsafe_code)]

pub mod classic;
pub mod copy_tree;
mod emulated;
pub mod holder;
pub mod host;
mod id_map;
mod iversion;
pub mod linux;
pub mod memfd;
mod mount_table;
pub mod open;
mod overlay;
pub mod process;
#[cfg(test)]
pub mod recording;
mod staging;
pub mod supervisor_process;
pub mod trial;
pub mod without_pidfds;

use std::os::fd::{BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::error::{Result, SysResult};
use crate::mountinfo;
use crate::options::{Propagation, PropagationState};
use crate::path::PathBytes;
use crate::spec::IdMap;

/// What kind of file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A directory.
    Directory,
    /// A regular file.
    Regular,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// What `statx(2)` says about a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStatus {
    /// The type.
    pub kind: FileKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// The filesystem's device number.
    pub device: u64,
    /// The inode number.
    pub inode: u64,
    /// The id of the mount it is on; see [`Kernel::mount_id`].
    pub mount: u64,
    /// Major and minor number of a device node.
    pub rdev: (u32, u32),
}

/// What the kernel says about a mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountState {
    /// `MOUNT_ATTR_*` bits.
    pub attributes: u64,
    /// How events pass.
    pub propagation: PropagationState,
}

/// A mount, as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedMount {
    /// Its id; see [`Kernel::mount_id`].
    pub id: u64,
    /// The mount it is on.
    pub parent: u64,
    /// Where it is, from the root of this process.
    pub mountpoint: PathBytes,
    /// Its own flags, and its propagation.
    pub state: MountState,
    /// Whether its filesystem is read-only too.
    pub superblock_readonly: bool,
}

/// A detached copy of a mount of the host.
#[derive(Debug)]
pub struct HostCopy {
    /// The copy.
    pub fd: OwnedFd,
    /// What it is.
    pub status: FileStatus,
    /// The mount that it is a copy of.
    pub of: u64,
}

/// A change of a mount's attributes; `mount_setattr(2)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttributeChange {
    /// Bits to set.
    pub set: u64,
    /// Bits to clear.
    pub clear: u64,
    /// The new propagation type; its own `recursive` is not looked at.
    pub propagation: Option<Propagation>,
    /// Whether mounts below change too.
    pub recursive: bool,
}

/// How a path inside a root is resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// Every symbolic link, inside the root.
    All,
    /// All but a link that is the last component: that is opened itself.
    AllButLast,
    /// None: a link on the way is `ELOOP`.
    None,
}

/// The type of a node made by [`Kernel::make_node`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// A regular file.
    Regular,
    /// A character device.
    Character(u32, u32),
    /// A block device.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
}

/// `SELINUX_MAGIC`; `statfs(2)`.
pub const SELINUX_MAGIC: u64 = 0xf97c_ff8c;

/// The calls an execution needs. Descriptors returned are close-on-exec; all but those of filesystem contexts and locks are `O_PATH`
/// descriptors or mounts.
pub trait Kernel {
    /// Opens a path of the host, in the caller's mount namespace. `directory` demands one; a last component that is a
    /// symbolic link is followed only with `follow`.
    fn open_host(&self, path: &PathBytes, directory: bool, follow: bool) -> SysResult<OwnedFd>;
    /// Resolves a path inside a root; `openat2(2)` with `RESOLVE_IN_ROOT`, or its emulation.
    fn resolve(&self, root: BorrowedFd<'_>, path: &PathBytes, follow: Follow) -> SysResult<OwnedFd>;
    /// Opens a directory again so that it can be locked and listed.
    fn open_directory(&self, directory: BorrowedFd<'_>) -> SysResult<OwnedFd>;
    /// Takes a shared lock without waiting; `flock(2)`.
    fn lock_shared(&self, file: BorrowedFd<'_>) -> SysResult<()>;
    /// The same for the exclusive lock.
    fn lock_exclusive(&self, file: BorrowedFd<'_>) -> SysResult<()>;

    /// What the descriptor refers to.
    fn status(&self, file: BorrowedFd<'_>) -> SysResult<FileStatus>;
    /// What a name in a directory is, or the top of what is mounted there. A link is not followed.
    fn status_in(&self, directory: BorrowedFd<'_>, name: &PathBytes) -> SysResult<FileStatus>;
    /// The id of the mount that the descriptor is on; the unique one where the kernel has it.
    fn mount_id(&self, file: BorrowedFd<'_>) -> SysResult<u64>;
    /// The magic number of the filesystem; `fstatfs(2)`.
    fn filesystem_magic(&self, file: BorrowedFd<'_>) -> SysResult<u64>;
    /// What a symbolic link opened itself says.
    fn read_link(&self, link: BorrowedFd<'_>) -> SysResult<PathBytes>;

    /// A detached copy of the mount at the descriptor; `open_tree(2)`.
    fn clone_mount(&self, file: BorrowedFd<'_>, recursive: bool) -> SysResult<OwnedFd>;
    /// The same with other attributes, recursive as they are; one call with `open_tree_attr(2)`, since Linux 6.15.
    fn clone_mount_with(&self, file: BorrowedFd<'_>, change: AttributeChange) -> SysResult<OwnedFd> {
        let copy = self.clone_mount(file, change.recursive)?;
        self.set_attributes(std::os::fd::AsFd::as_fd(&copy), change)?;
        Ok(copy)
    }
    /// The same of what a path of the host leads to, without a descriptor of that, if it is on a mount that is known. `None`
    /// wherever that isn't so easy: the calls one by one say more.
    fn clone_host(
        &self,
        _path: &PathBytes,
        _follow: bool,
        _change: AttributeChange,
        _is_known: &dyn Fn(u64) -> bool,
    ) -> Option<HostCopy> {
        None
    }
    /// Changes attributes and propagation of a mount; `mount_setattr(2)`.
    fn set_attributes(&self, mount: BorrowedFd<'_>, change: AttributeChange) -> SysResult<()>;
    /// Attaches a mount; `move_mount(2)`.
    fn attach(&self, mount: BorrowedFd<'_>, destination: BorrowedFd<'_>) -> SysResult<()>;
    /// A context to make a filesystem in; `fsopen(2)`.
    fn open_filesystem(&self, fstype: &str) -> SysResult<OwnedFd>;
    /// Sets a flag of the filesystem; `fsconfig(2)`.
    fn set_filesystem_flag(&self, context: BorrowedFd<'_>, key: &str) -> SysResult<()>;
    /// Sets an option of the filesystem; `fsconfig(2)`.
    fn set_filesystem_option(&self, context: BorrowedFd<'_>, key: &str, value: &PathBytes) -> SysResult<()>;
    /// Makes the filesystem and mounts it detached; `fsconfig(2)`, `fsmount(2)`.
    fn mount_filesystem(&self, context: BorrowedFd<'_>, attributes: u64) -> SysResult<OwnedFd> {
        self.create_filesystem(context)?;
        self.mount_created(context, attributes)
    }
    /// Makes the filesystem, without mounting it; `fsconfig(2)`.
    fn create_filesystem(&self, context: BorrowedFd<'_>) -> SysResult<()>;
    /// Mounts, detached, a filesystem that was made; `fsmount(2)`.
    fn mount_created(&self, context: BorrowedFd<'_>, attributes: u64) -> SysResult<OwnedFd>;
    /// Sets the layers of an overlay, the first lower one being on top, and where it is written to with the kernel's own
    /// directory beside it. Descriptors may be `O_PATH`; no path of the host is looked up.
    fn set_overlay_layers(
        &self,
        context: BorrowedFd<'_>,
        lower: &[BorrowedFd<'_>],
        upper: Option<(BorrowedFd<'_>, BorrowedFd<'_>)>,
    ) -> SysResult<()>;
    /// Whether this process is in the first user namespace, whose processes may use `trusted` attributes.
    fn in_initial_user_namespace(&self) -> SysResult<bool>;
    /// Whether SELinux is in force on this host.
    fn selinux_enabled(&self) -> bool {
        self.open_host(&"/sys/fs/selinux".into(), true, false).is_ok_and(|directory| {
            self.filesystem_magic(std::os::fd::AsFd::as_fd(&directory))
                .is_ok_and(|magic| magic == SELINUX_MAGIC)
        })
    }
    /// Gives a file its SELinux context; `fsetxattr(2)`.
    fn set_label(&self, directory: BorrowedFd<'_>, label: &str) -> SysResult<()>;
    /// A user namespace with these mappings, in which nothing runs; `clone(2)`, `user_namespaces(7)`.
    fn user_namespace(&self, map: &IdMap) -> SysResult<OwnedFd>;
    /// Has a detached mount show its files' owners as a user namespace maps them; `mount_setattr(2)`, `MOUNT_ATTR_IDMAP`.
    fn map_mount_ids(
        &self,
        mount: BorrowedFd<'_>,
        user_namespace: BorrowedFd<'_>,
        recursive: bool,
    ) -> SysResult<()>;
    /// Copies what is in a directory into another; see [`copy_tree`].
    fn copy_tree(
        &self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        top: copy_tree::Top,
    ) -> SysResult<copy_tree::Copied>;
    /// Takes back [`Self::attach`] of a mount that nobody uses; `umount2(2)`, `MNT_DETACH`.
    fn detach(&self, mount: BorrowedFd<'_>) -> SysResult<()>;
    /// Runs something in a child with a private copy of this mount namespace, and returns the descriptor that it makes.
    fn in_private_mounts(&self, work: &mut dyn FnMut() -> Result<OwnedFd>) -> Result<OwnedFd>;
    /// Whether the flag `iversion` is set like any other when a filesystem is made.
    fn takes_iversion(&self) -> bool {
        false
    }
    /// Makes the superblock of a mount read-only; `fspick(2)`. What the kernel says of a failure goes to `log`.
    fn make_superblock_readonly(&self, mount: BorrowedFd<'_>, log: &mut Vec<String>) -> SysResult<()>;
    /// A context in which the filesystem of a mount is changed; `fspick(2)`.
    fn pick_filesystem(&self, mount: BorrowedFd<'_>) -> SysResult<OwnedFd>;
    /// Changes the filesystem as its context says; `fsconfig(2)`.
    fn reconfigure_filesystem(&self, context: BorrowedFd<'_>) -> SysResult<()>;
    /// Sets or clears the one flag of a filesystem that only mount(2) takes: whether changes of its inodes are counted. Before
    /// Linux 6.8 it must be said whether it has the flag `lazytime`, which it keeps as all others.
    fn count_changes(&self, mount: BorrowedFd<'_>, count: bool, lazytime: bool) -> SysResult<()>;
    /// What the kernel said about the options of a context.
    fn filesystem_log(&self, context: BorrowedFd<'_>) -> Vec<String>;
    /// The state of mounts of this namespace, by id; `None` for one that isn't there.
    fn mount_states(&self, ids: &[u64]) -> SysResult<Vec<Option<MountState>>>;
    /// The state of the mount of this namespace that a descriptor is on, by its id too. Where only the text of the mount
    /// table could tell, or it is another namespace's, the second is what `fstatfs(2)` says: flags that the mount or its
    /// filesystem has.
    fn source_state(&self, file: BorrowedFd<'_>, id: u64) -> SysResult<(Option<MountState>, u64)>;
    /// All mounts that can be reached from the root of this process, in the order of their ids. About as many are expected.
    fn mount_table(&self, expected: usize) -> SysResult<Vec<ListedMount>>;
    /// The same without their places, which are the dear part of it, if it has exactly so many mounts. `None` too where that can't
    /// be told by numbers.
    fn mount_table_of(&self, count: usize) -> SysResult<Option<Vec<ListedMount>>>;
    /// The mount that a path leads to, from the root of this process.
    fn mount_at(&self, path: &PathBytes) -> SysResult<u64>;
    /// The ids of the mounts below one, in their order.
    fn mounts_below(&self, mount: u64) -> SysResult<Vec<u64>>;
    /// Whether ids of mounts are never used again, and later ones are larger.
    fn ids_are_unique(&self) -> bool;

    /// Makes a directory whose mode is exact.
    fn make_directory(&self, parent: BorrowedFd<'_>, name: &PathBytes, mode: u32) -> SysResult<()>;
    /// Makes a node; a regular file too. An existing name is `EEXIST`.
    fn make_node(&self, parent: BorrowedFd<'_>, name: &PathBytes, kind: NodeKind, mode: u32)
    -> SysResult<()>;
    /// Changes the owner of a node that has just been made.
    fn change_owner(&self, parent: BorrowedFd<'_>, name: &PathBytes, uid: u32, gid: u32) -> SysResult<()>;
    /// Makes a file with this content, mode and owner, all exact. An existing name is `EEXIST`.
    fn make_file(
        &self,
        parent: BorrowedFd<'_>,
        name: &PathBytes,
        content: &[u8],
        mode: u32,
        owner: (u32, u32),
    ) -> SysResult<()>;
    /// Changes the owner, the group, or both, of what is open.
    fn set_owner(&self, file: BorrowedFd<'_>, uid: Option<u32>, gid: Option<u32>) -> SysResult<()>;
    /// Changes the permission bits of what is open, a device too.
    fn set_mode(&self, file: BorrowedFd<'_>, mode: u32) -> SysResult<()>;
    /// Changes the permission bits of a directory.
    fn set_directory_mode(&self, directory: BorrowedFd<'_>, mode: u32) -> SysResult<()>;
    /// Whether the mount, or its filesystem, is read-only; `fstatfs(2)`.
    fn is_readonly(&self, file: BorrowedFd<'_>) -> SysResult<bool>;
    /// Makes a symbolic link.
    fn make_symlink(&self, target: &PathBytes, parent: BorrowedFd<'_>, name: &PathBytes) -> SysResult<()>;
    /// Removes a name that is no directory.
    fn remove_file(&self, parent: BorrowedFd<'_>, name: &PathBytes) -> SysResult<()>;

    /// Moves this process into a new mount namespace, which is a copy of its own; `unshare(2)`.
    fn new_mount_namespace(&self) -> SysResult<()>;
    /// Moves this process into a new cgroup namespace.
    fn new_cgroup_namespace(&self) -> SysResult<()>;
    /// Sets the propagation of `/` of this process.
    fn set_root_propagation(&self, propagation: Propagation) -> SysResult<()>;
    /// Makes the mount that contains the descriptor private, or a slave.
    fn make_containing_mount_private(&self, file: BorrowedFd<'_>, slave: bool) -> SysResult<()>;
    /// Makes the mount the root of this mount namespace and detaches what was there; `pivot_root(2)`.
    fn enter_root(&self, root: BorrowedFd<'_>) -> SysResult<()>;
    /// Moves this process into a copy of a mount namespace that holds one empty filesystem, and makes the detached mount its
    /// root there: what `pivot_root(2)` would give, without copying and detaching the host's mounts; `setns(2)`, `chroot(2)`.
    /// `false` if that namespace can't be entered, and nothing was changed.
    fn enter_root_by_stub(&self, stub: BorrowedFd<'_>, root: BorrowedFd<'_>) -> SysResult<bool>;
    /// Makes a detached mount the root of this process alone, in a mount namespace that it first joins, or its own: nothing
    /// in that changes. `chroot(2)`, `setns(2)`.
    fn enter_root_by_chroot(&self, root: BorrowedFd<'_>, namespace: Option<BorrowedFd<'_>>) -> SysResult<()>;
    /// Others will look at this mount namespace, or join it: takes out of it what mounts are made with, until the next mount.
    /// None is waiting to be attached.
    fn suspend_mounting(&self) -> SysResult<()> {
        Ok(())
    }
    /// Nothing is mounted any more: gives up what mounts were made with. Before the mount table is compared with the plan.
    fn finish_mounting(&self) -> SysResult<()> {
        Ok(())
    }
    /// The cgroups of this process: controllers and path of each hierarchy; `cgroups(7)`.
    fn own_cgroups(&self) -> SysResult<Vec<(String, PathBytes)>>;
    /// The cgroup filesystems of both versions that are mounted in the tree of this process; `proc_pid_mountinfo(5)`.
    fn cgroup_mounts(&self) -> SysResult<Vec<mountinfo::Entry>>;
    /// Sets the host name of this uts namespace.
    fn set_hostname(&self, name: &str) -> SysResult<()>;
    /// Sets the NIS domain name of this uts namespace.
    fn set_domainname(&self, name: &str) -> SysResult<()>;
    /// Gets ready what [`Kernel::write_sysctl`] needs after the root has been entered.
    fn prepare_sysctl(&self) -> SysResult<()>;
    /// Writes a file below /proc/sys, in this process's namespaces; `proc_sys(5)`.
    fn write_sysctl(&self, path: &str, value: &str) -> SysResult<()>;
    /// Reads an attribute that this process has from a security module; `proc_pid_attr(5)`.
    fn read_attribute(&self, name: &str) -> SysResult<Vec<u8>>;
    /// Sets one, in one call.
    fn write_attribute(&self, name: &str, value: &[u8]) -> SysResult<()>;
    /// Gives this process a session keyring of its own; [`process::new_session_keyring`].
    fn new_session_keyring(&self) -> SysResult<()> {
        process::new_session_keyring()
    }
    /// Waits this many milliseconds: for the few things that may be tried again.
    fn pause(&self, milliseconds: u64);
}
