//! The types that users see: option interfaces, plans, steps and what was done. `index.d.ts` is made from their
//! comments.

#![allow(
    dead_code,
    reason = "option interfaces are declared here; their values are read by `argument`, which refuses unknown keys"
)]

use napi_derive::napi;
use rootfs::PathBytes;
use rootfs::plan;
use rootfs::protocol;

/// Text for people: bytes that are not UTF-8 are replaced.
pub(crate) fn lossy(path: &PathBytes) -> String {
    path.to_string()
}

/// Options of `Rootfs.empty`.
#[napi(object, object_to_js = false)]
pub(crate) struct EmptyOptions {
    /// How much it can hold; tmpfs(5), `size`. @default half of the machine's memory
    #[napi(ts_type = "Size")]
    pub size: Option<f64>,
    /// Permission bits of the root directory. @default 0o755
    pub mode: Option<u32>,
}

/// Options of `Rootfs.overlay`.
#[napi(object, object_to_js = false)]
pub(crate) struct OverlayRootOptions {
    /// Directories that are only read; the first one is on top. 1 to 500, none twice. A relative one is taken from the cwd
    /// at the call.
    #[napi(ts_type = "readonly PathLike[]")]
    pub lower: Vec<String>,
    /// Where changes go, with `work`; of one container at a time (`ERR_ROOTFS_SOURCE`).
    /// @default a tmpfs that is gone afterwards
    #[napi(ts_type = "PathLike")]
    pub upper: Option<String>,
    /// An empty directory on the same mount as `upper`, for the kernel's own use.
    #[napi(ts_type = "PathLike")]
    pub work: Option<String>,
    /// How much the tmpfs can hold; not with `upper`. @default half of the machine's memory
    #[napi(ts_type = "Size")]
    pub size: Option<f64>,
    /// Don't wait for the disk; Linux 5.10. The kernel refuses to mount such an `upper` again until the directory
    /// `work/incompat` in `work` is removed, because after a crash it may be incomplete. @default false
    pub volatile: Option<bool>,
}

/// Options of `overlay`.
#[napi(object, object_to_js = false)]
pub(crate) struct OverlayOptions {
    /// Directories that are only read; the first one is on top. 1 to 500, none twice; 2 or more without `upper`. A relative
    /// one is taken from the cwd at the call.
    #[napi(ts_type = "readonly PathLike[]")]
    pub lower: Vec<String>,
    /// Where changes go, with `work`; of one container at a time (`ERR_ROOTFS_SOURCE`). @default none: read-only
    #[napi(ts_type = "PathLike")]
    pub upper: Option<String>,
    /// An empty directory on the same mount as `upper`, for the kernel's own use.
    #[napi(ts_type = "PathLike")]
    pub work: Option<String>,
    /// See `OverlayRootOptions`. @default false
    pub volatile: Option<bool>,
}

/// Options of `defaults`.
#[napi(object, object_to_js = false)]
pub(crate) struct DefaultsOptions {
    /// Whether `/sys/fs/cgroup` is mounted, read-only. @default true
    pub cgroup: Option<bool>,
}

/// Options of `bind`.
#[napi(object, object_to_js = false)]
pub(crate) struct BindOptions {
    /// Nothing can be written through it. Covers every mount below the source too. @default false
    pub readonly: Option<bool>,
    /// Bring mounts below the source along. @default true
    pub recursive: Option<bool>,
    /// Set-user-id bits and file capabilities have no effect. Also for submounts. @default true
    pub nosuid: Option<bool>,
    /// Device nodes can't be opened. Also for submounts; binding a device node with it is a plan warning. @default true
    pub nodev: Option<bool>,
    /// Programs can't be executed. Also for submounts. @default false
    pub noexec: Option<bool>,
    /// Symbolic links are not followed. Also for submounts; Linux 5.14. @default false
    pub nosymfollow: Option<bool>,
    /// When access times are written; mount(8). Also for submounts. @default the source's own mode
    #[napi(ts_type = "'noatime' | 'relatime' | 'strictatime'")]
    pub atime: Option<String>,
    /// How mount events pass between the source and the container; `mount_namespaces(7)`. @default 'rprivate'
    #[napi(ts_type = "Propagation")]
    pub propagation: Option<String>,
    /// A missing source is skipped and listed in `PreparedRootfs.skipped`. @default false
    pub optional: Option<bool>,
    /// Resolve the source inside this directory: no symlink in it can lead out.
    #[napi(ts_type = "PathLike")]
    pub within: Option<String>,
    /// Show files under mapped owners: what belongs to `containerId` in the source looks, through the mount, as if it
    /// belonged to the host's `hostId`, and the reverse for what is written. `{ containerId: 0, hostId: 100000, size: 65536 }`
    /// shows root's files as 100000's, which a container that maps its 0 to 100000 sees as its own root's. `'userns'` takes
    /// the container's own mapping, which gives just that. Ids that are not mapped show as 65534, and can't be written.
    /// Also for submounts. With `{ inRoot }` in a user namespace, `hostId` is the container's. Needs root, Linux 5.12, and a filesystem that can (`ERR_ROOTFS_DENIED`,
    /// `ERR_ROOTFS_UNSUPPORTED`); `mount_setattr(2)`, ID-mapped mounts. @default none
    #[napi(ts_type = "IdMap | 'userns'")]
    pub id_map: Option<bool>,
}

/// A file descriptor as the source of a bind.
#[napi(object, object_to_js = false)]
pub(crate) struct FdSource {
    /// Of a directory or file, opened for anything or with `O_PATH`. It is duplicated at the call and can be closed
    /// afterwards. Not a memfd. Without privileges the file is found again by its path and must be the same inode. It only
    /// says which file is meant: what it was opened for doesn't matter, so one that was opened for reading still becomes a
    /// bind that can be written to, unless the option `readonly` is given.
    pub fd: f64,
}

/// A path of the tree that is being built, as the source of a bind.
#[napi(object, object_to_js = false)]
pub(crate) struct InRootSource {
    /// Resolved inside the root when its turn comes: earlier mounts are there.
    #[napi(ts_type = "PathLike")]
    pub in_root: String,
}

/// Options of `tmpfs`. It is always `nosuid` and `nodev`; tmpfs(5).
#[napi(object, object_to_js = false)]
pub(crate) struct TmpfsOptions {
    /// How much it can hold. @default half of the machine's memory
    #[napi(ts_type = "Size")]
    pub size: Option<f64>,
    /// How many files it can hold. @default half the number of the machine's pages
    pub inodes: Option<f64>,
    /// Permission bits of its directory. @default those of the directory it covers, 0o1777 if there is none
    pub mode: Option<u32>,
    /// Owner of its directory, as the container sees it. @default 0
    pub uid: Option<u32>,
    /// Group of its directory, as the container sees it. @default 0
    pub gid: Option<u32>,
    /// Becomes read-only when everything below it has been mounted. @default false
    pub readonly: Option<bool>,
    /// Programs can't be executed. @default false
    pub noexec: Option<bool>,
    /// Start with a copy of what the root has at that place: owners, modes, times, extended attributes, links, sparse files,
    /// fifos, sockets, devices. It is copied before the tmpfs is seen, and follows no link. What is mounted below is not
    /// copied: its mountpoint is there, and empty. In a user namespace the container's rights are what counts: what it may
    /// not read is `ERR_ROOTFS_MOUNT`; devices are left out; files whose owner isn't mapped lose their set-id bits and
    /// belong to 65534, whom they seemed to belong to, or to root where there is no such id. The warning `copy-up` says
    /// what differs. @default false
    pub copy_up: Option<bool>,
}

/// Options of `proc`; proc(5), Mount options.
#[napi(object, object_to_js = false)]
pub(crate) struct ProcOptions {
    /// @default false
    pub readonly: Option<bool>,
    /// What is hidden of other users' processes; the words need Linux 5.8. @default 'off'
    #[napi(ts_type = "'off' | 'noaccess' | 'invisible' | 'ptraceable'")]
    pub hidepid: Option<String>,
    /// Show processes only and nothing of the system; Linux 5.8.
    #[napi(ts_type = "'pid'")]
    pub subset: Option<String>,
    /// What is done where a user namespace may not mount a new one, because the caller's own is partly hidden (as in a
    /// container) or there is no new pid namespace: `ERR_ROOTFS_DENIED`, or the caller's is bound with all that hides
    /// parts of it (`strategy: 'bind-fallback'`). A bound one shows the processes of the caller's pid namespace, and
    /// can't have `hidepid` or `subset`. @default 'error'
    #[napi(ts_type = "'error' | 'bind'")]
    pub fallback: Option<String>,
}

/// Options of `file`.
#[napi(object, object_to_js = false)]
pub(crate) struct FileOptions {
    /// Permission bits, exact whatever the umask. @default 0o644
    pub mode: Option<u32>,
    /// Owner, as the container sees it. @default 0
    pub uid: Option<u32>,
    /// Group, as the container sees it. @default 0
    pub gid: Option<u32>,
    /// The container may change it; nobody else sees that. @default false
    pub writable: Option<bool>,
}

/// Options of `directory`. An existing directory keeps what is not given.
#[napi(object, object_to_js = false)]
pub(crate) struct DirectoryOptions {
    /// Permission bits, exact whatever the umask. @default 0o755 for a new one
    pub mode: Option<u32>,
    /// Owner, as the container sees it. @default the container's root for a new one
    pub uid: Option<u32>,
    /// Group, as the container sees it. @default the container's root for a new one
    pub gid: Option<u32>,
}

/// A device node or fifo; runtime-spec config-linux.md, Devices.
#[napi(object, object_to_js = false)]
pub(crate) struct DeviceNode {
    /// Where, in the root.
    #[napi(ts_type = "PathLike")]
    pub path: String,
    /// A character device (`u` is the same), a block device, or a fifo.
    #[napi(ts_type = "'c' | 'b' | 'p' | 'u'")]
    pub r#type: String,
    /// From 0 to 4095. Devices need it, a fifo has none.
    pub major: Option<u32>,
    /// From 0 to 1048575. Devices need it, a fifo has none.
    pub minor: Option<u32>,
    /// Permission bits, exact whatever the umask. @default 0o666
    pub mode: Option<u32>,
    /// Owner, as the container sees it. @default 0
    pub uid: Option<u32>,
    /// Group, as the container sees it. @default 0
    pub gid: Option<u32>,
}

/// Options of `sysfs` and `cgroup`.
#[napi(object, object_to_js = false)]
pub(crate) struct ReadonlyOptions {
    /// As OCI runtimes have it. @default true
    pub readonly: Option<bool>,
}

/// Options of `dev`.
#[napi(object, object_to_js = false)]
pub(crate) struct DevOptions {
    /// How much /dev can hold. @default '64m'
    #[napi(ts_type = "Size")]
    pub size: Option<f64>,
    /// Becomes read-only when all is in it. @default false
    pub readonly: Option<bool>,
}

/// Options of `mask`.
#[napi(object, object_to_js = false)]
pub(crate) struct MaskOptions {
    /// What is done about a path that isn't there. `'skip'`: nothing. `'error'`: `ERR_ROOTFS_MOUNT` (`ENOENT`).
    ///
    /// The others keep it from being created inside, by a process without `CAP_SYS_ADMIN`. Where the directory that it would
    /// be created in is read-only already, nothing more is done. `'deny-create'`: where that directory is on a tmpfs of the
    /// container's own, a placeholder is put there, which shows as an empty read-only directory; else it is
    /// `ERR_ROOTFS_UNSUPPORTED`. `'readonly-parent'`: that directory, which must exist, becomes read-only.
    /// `'stub'`: an empty file is made there, on the host where that is a host directory, and hidden; it is removed again.
    /// Directories on the way can't be renamed either. A symbolic link on the way that could be replaced is
    /// `ERR_ROOTFS_UNSUPPORTED`. @default 'skip'
    #[napi(ts_type = "'skip' | 'error' | 'deny-create' | 'readonly-parent' | 'stub'")]
    pub missing: Option<String>,
}

/// Options of `readonly`.
#[napi(object, object_to_js = false)]
pub(crate) struct ReadonlyRootOptions {
    /// Also covers the mounts that the root directory brought along. @default false
    pub recursive: Option<bool>,
}

/// A line of a user namespace's `uid_map` or `gid_map`; `user_namespaces(7)`.
#[napi(object, object_to_js = false)]
pub(crate) struct IdMapping {
    /// First id in the container.
    pub container_id: u32,
    /// First id outside.
    pub host_id: u32,
    /// How many ids.
    pub size: u32,
}

/// The mappings of a user namespace. More than the caller's own id needs root, or subordinate ids in `/etc/subuid` and
/// `/etc/subgid` with the programs `newuidmap` and `newgidmap`.
#[napi(object, object_to_js = false)]
pub(crate) struct IdMap {
    /// Users. At most 340 lines that don't overlap.
    #[napi(ts_type = "readonly IdMapping[]")]
    pub uids: Vec<IdMapping>,
    /// Groups, likewise.
    #[napi(ts_type = "readonly IdMapping[]")]
    pub gids: Vec<IdMapping>,
}

/// An existing namespace.
#[napi(object, object_to_js = false)]
pub(crate) struct NamespacePath {
    /// Absolute, such as `/proc/PID/ns/net`.
    #[napi(ts_type = "PathLike")]
    pub path: String,
}

/// Which namespaces the container has to itself; namespaces(7). Those with a path are joined: they are opened with the rights
/// of the caller at the call that begins a container.
#[napi(object, object_to_js = false)]
pub(crate) struct NamespaceOptions {
    /// `true` maps the container's root to the calling user: an ordinary one, or, called by root, root of the host, whose
    /// files it can then use wherever a bind shows them, and whose kernel parameters where /proc/sys is not read-only. For
    /// other people's code let root map a range of ids that nobody has. @default true unless the caller has `CAP_SYS_ADMIN`
    ///
    /// One that is joined keeps the mappings it has, which need a root. Its other namespaces can be joined with it.
    #[napi(ts_type = "boolean | IdMap | NamespacePath")]
    pub user: Option<bool>,
    /// Processes. Without a new one, processes that leave the container's process group are not ended with it, unless there
    /// is a cgroup. @default true
    #[napi(ts_type = "boolean | NamespacePath")]
    pub pid: Option<bool>,
    /// System V IPC and POSIX message queues. @default true
    #[napi(ts_type = "boolean | NamespacePath")]
    pub ipc: Option<bool>,
    /// Host name. @default true
    #[napi(ts_type = "boolean | NamespacePath")]
    pub uts: Option<bool>,
    /// The view of the cgroup tree. @default true
    #[napi(ts_type = "boolean | NamespacePath")]
    pub cgroup: Option<bool>,
    /// A new network namespace has only a loopback, and it is up. @default false
    #[napi(ts_type = "boolean | NamespacePath")]
    pub network: Option<bool>,
    /// A mount namespace that is joined. Nothing in it changes: the tree is assembled outside of every mount namespace, held by
    /// this process's supervisor and entered by chroot(2). So it can be neither listed by `mounts()` nor compared with the
    /// plan, a new user namespace in it is refused by the kernel, and masks, read-only paths and hooks before the start
    /// are refused here. Needs Linux 6.15. @default a new one
    #[napi(ts_type = "NamespacePath")]
    pub mount: Option<String>,
}

/// A mount in OCI form; runtime-spec config.md, Mounts.
#[napi(object, object_to_js = false)]
pub(crate) struct OciMount {
    /// Where, in the root. A relative one is taken from `/`, with a plan warning.
    pub destination: String,
    /// A relative source of a bind is taken from the cwd at the call.
    pub source: Option<String>,
    /// The filesystem; not needed for binds.
    pub r#type: Option<String>,
    /// Words from left to right, the last one wins. One that is unknown goes to the filesystem.
    #[napi(ts_type = "readonly string[]")]
    pub options: Option<Vec<String>>,
    /// Of a bind, with `gidMappings`: a file of `containerID` in the source looks, through the mount, as if it belonged to the
    /// host's `hostID`. `idmap` among the options covers the source alone, `ridmap` what is mounted below it too; with one
    /// of them and no mappings it is the container's user namespace that maps.
    #[napi(ts_type = "readonly OciIdMapping[]")]
    pub uid_mappings: Option<Vec<OciIdMapping>>,
    /// The same for groups.
    #[napi(ts_type = "readonly OciIdMapping[]")]
    pub gid_mappings: Option<Vec<OciIdMapping>>,
}

/// A line of `uidMappings` or `gidMappings`; runtime-spec config.md, Mounts.
#[napi(object, object_to_js = false)]
pub(crate) struct OciIdMapping {
    /// First id in the source.
    #[napi(js_name = "containerID")]
    pub container_id: u32,
    /// First id that is shown, of the host.
    #[napi(js_name = "hostID")]
    pub host_id: u32,
    /// How many ids.
    pub size: u32,
}

/// How an OCI config is read; docs/oci.md.
#[napi(object, object_to_js = false)]
pub(crate) struct SpecOptions {
    /// Fields that may be present but are not enforced: they are taken as absent, and listed as plan warnings. Names such
    /// as `'linux.seccomp'` or `'mounts[].uidMappings'`, or JSON pointers such as `'/mounts/3'`. Any other field that is
    /// not enforced is an error. @default []
    #[napi(ts_type = "readonly string[]")]
    pub ignore: Option<Vec<String>>,
    /// Whether the config must have a `root`. With `false`, one without it gets an empty tmpfs, as `Rootfs.empty()`
    /// makes. @default true
    pub expect_root: Option<bool>,
}

/// A program that runs at a point of the container's life; runtime-spec config.md, POSIX-platform Hooks. It gets the
/// container's state as JSON on standard input. When it fails, everything is undone and the error is `ERR_ROOTFS_HOOK`.
#[napi(object, object_to_js = false)]
pub(crate) struct OciHook {
    /// The program; absolute. At `startContainer` it is one of the image and runs with the rights of the command.
    pub path: String,
    /// Arguments, the first being the program's name. @default [path]
    #[napi(ts_type = "readonly string[]")]
    pub args: Option<Vec<String>>,
    /// The whole environment, as `NAME=value`. @default [], at `startContainer` that of the command
    #[napi(ts_type = "readonly string[]")]
    pub env: Option<Vec<String>>,
    /// Seconds after which it is killed, which is a failure. @default none
    pub timeout: Option<u32>,
}

/// A step of a plan.
#[napi(object, object_from_js = false)]
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// What it does: `'namespaces'`, `'root'`, `'mount'`, `'file'`, `'directory'`, `'device'`, `'symlink'`, `'stub'`,
    /// `'hook'`, `'pivot'`, `'propagation'`, `'readonly'`, `'hostname'`, `'domainname'`, `'sysctl'`, `'mask'`, `'verify'`.
    #[napi(readonly)]
    pub r#type: String,
    /// Its place in the plan.
    #[napi(readonly)]
    pub index: u32,
    /// Where in the root it takes effect.
    #[napi(readonly)]
    pub destination: Option<String>,
    /// What it is made from.
    #[napi(readonly)]
    pub source: Option<String>,
    /// Flags and options, as words.
    #[napi(readonly, ts_type = "readonly string[]")]
    pub flags: Option<Vec<String>>,
}

/// A step that was carried out.
#[napi(object, object_from_js = false)]
pub(crate) struct ExecutedStep {
    /// See `Step`.
    #[napi(readonly)]
    pub r#type: String,
    /// Its place in the plan.
    #[napi(readonly)]
    pub index: u32,
    /// Where in the root it takes effect.
    #[napi(readonly)]
    pub destination: Option<String>,
    /// What it is made from.
    #[napi(readonly)]
    pub source: Option<String>,
    /// Flags and options, as words.
    #[napi(readonly, ts_type = "readonly string[]")]
    pub flags: Option<Vec<String>>,
    /// What the destination was resolved to, where that differs.
    #[napi(readonly)]
    pub resolved: Option<String>,
    /// Which of several ways was taken, such as `'bind-fallback'`.
    #[napi(readonly)]
    pub strategy: Option<String>,
    /// How long it took, in microseconds.
    #[napi(readonly)]
    pub duration_us: f64,
}

/// Something that works, and that one should know.
#[napi(object, object_from_js = false)]
#[derive(Clone, Debug)]
pub(crate) struct Warning {
    /// A short name, such as `'hidden-mount'`.
    #[napi(readonly)]
    pub code: String,
    /// What it means here.
    #[napi(readonly)]
    pub message: String,
    /// The index of the step it is about.
    #[napi(readonly)]
    pub step: Option<u32>,
    /// Which value of an OCI config it is about, as a JSON pointer (RFC 6901).
    #[napi(readonly)]
    pub pointer: Option<String>,
    /// Which argument of a builder's method it is about, such as `'destination'` or `'mount.options[2]'`.
    #[napi(readonly)]
    pub argument: Option<String>,
}

pub(crate) fn step(step: &plan::Step) -> Step {
    let action = &step.action;
    let flags = action.flags();
    Step {
        r#type: action.name().to_owned(),
        index: step.index,
        destination: action.destination().as_ref().map(lossy),
        source: action.source().as_ref().map(lossy),
        flags: if flags.is_empty() { None } else { Some(flags) },
    }
}

pub(crate) fn executed_step(plan: &plan::Plan, done: &protocol::ExecutedStep) -> Option<ExecutedStep> {
    let Step { r#type, index, destination, source, flags } = step(plan.steps.get(done.index as usize)?);
    #[expect(clippy::cast_precision_loss, reason = "a step doesn't take months")]
    let duration_us = done.duration_ns as f64 / 1000.0;
    let resolved = done.resolved.as_ref().map(lossy);
    Some(ExecutedStep {
        r#type,
        index,
        destination,
        source,
        flags,
        resolved,
        strategy: done.strategy.clone(),
        duration_us,
    })
}

pub(crate) fn warning(warning: &plan::Warning) -> Warning {
    Warning {
        code: warning.code.clone(),
        message: warning.message.clone(),
        step: warning.step,
        pointer: warning.location.pointer.clone(),
        argument: warning.location.argument.clone(),
    }
}

/// A line of the container's mount table; `proc_pid_mountinfo(5)`.
#[napi(object, object_from_js = false)]
pub(crate) struct MountInfo {
    /// The mount's id, which is used again after it is gone.
    pub id: f64,
    /// The id of the mount it is on.
    pub parent_id: f64,
    /// What of the filesystem is its root.
    pub root: String,
    /// Where it is.
    pub destination: String,
    /// The filesystem's type.
    pub r#type: String,
    /// The filesystem's source.
    pub source: String,
    /// The mount's own flags.
    pub options: Vec<String>,
    /// The superblock's options.
    pub super_options: Vec<String>,
    /// `shared:N`, `master:N`, `propagate_from:N`, `unbindable`; none for a private mount.
    pub propagation: Vec<String>,
}
