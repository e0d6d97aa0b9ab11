//! What is known about why a host refuses something, and what to do about it: the one table of hints. The documentation
//! is made from it.

use nix::errno::Errno;

use crate::error::{Error, ErrorCode, SysError};
use crate::kernel::host;

macro_rules! hints {
    ($($(#[doc = $doc:literal])* $variant:ident $when:literal $advice:literal;)*) => {
        /// A known cause of a failure.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Hint { $($(#[doc = $doc])* $variant,)* }

        impl Hint {
            /// Every hint, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// How the failure looks.
            pub const fn when(self) -> &'static str {
                match self { $(Self::$variant => $when,)* }
            }

            /// What the user reads: the cause, and what to do.
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$variant => $advice,)* }
            }
        }
    };
}

hints! {
    /// `AppArmor` lets only programs with a profile that says so use user namespaces.
    AppArmorUserNamespaces
        "EPERM or EACCES of `clone3`, or of any mount call of an ordinary user's container"
        "AppArmor restricts user namespaces (kernel.apparmor_restrict_unprivileged_userns is 1): set this sysctl to 0, or give the program an AppArmor profile with the rule \"userns,\"";
    /// Debian's switch.
    UnprivilegedUserNamespaces
        "EPERM of `clone3` with a user namespace"
        "ordinary users may make no user namespaces here (kernel.unprivileged_userns_clone is 0): set this sysctl to 1";
    /// The kernel's own limit is zero.
    NoUserNamespaces
        "ENOSPC of `clone3` with a user namespace"
        "user namespaces are switched off here (user.max_user_namespaces is 0): raise this sysctl";
    /// A limit of namespaces is reached.
    NamespaceLimit
        "ENOSPC of `clone3` or `unshare`"
        "a limit of namespaces is reached: look at the sysctls user.max_*_namespaces, and at how deep user namespaces are nested (32 levels)";
    /// A filter or the file system view refuses user namespaces.
    UserNamespacesRefused
        "EPERM of `clone3` with a user namespace, and no sysctl forbids it"
        "no sysctl forbids user namespaces: a seccomp filter or a security module of this process (a container runtime's, systemd's RestrictNamespaces), or a chroot that it is in, does";
    /// Namespaces need a capability where no user namespace is made.
    NeedsSysAdmin
        "EPERM of `clone3` or `unshare` without a user namespace"
        "new namespaces without a user namespace need CAP_SYS_ADMIN: leave namespaces({ user }) at its default, or run as root; a seccomp filter of a container runtime may refuse them too";
    /// The number of processes.
    ProcessLimit
        "EAGAIN of `clone3`"
        "a limit of processes is reached: look at RLIMIT_NPROC (ulimit -u), pids.max of the cgroup, and the sysctls kernel.pid_max and kernel.threads-max";
    /// The setuid helpers are not there.
    NoIdHelpers
        "a mapping of more than the caller's own id, without root"
        "install newuidmap and newgidmap (package uidmap on Debian and Ubuntu, shadow-utils on Fedora), or map only your own id";
    /// Nothing was granted.
    NoSubordinateIds
        "`newuidmap` or `newgidmap` refuses the mapping"
        "the ranges must be granted to the calling user in /etc/subuid and /etc/subgid, one line user:first:count in each";
    /// An id without a mapping.
    UnmappedId
        "EINVAL of `setresuid`, `setresgid` or `setgroups` in a container with a user namespace"
        "without ranges only id 0 is mapped, to the caller's own: map this id too with namespaces({ user: { uids, gids } }) (an ordinary user maps 1 and up to what /etc/subuid and /etc/subgid grant), or be a user that is mapped";
    /// The file is there, what it needs to run is not.
    MissingInterpreter
        "ENOENT of `execve` of a program that exists"
        "put its interpreter or loader into the root too: bind the directories that hold it (for a dynamic program /lib, /lib64 and /usr/lib), or take a static program; a script's first line may also end in a carriage return";
    /// The search has no result.
    NotInPath
        "a command without a slash that is in no directory of `PATH`"
        "the command is looked for inside the root, in the PATH of the option env: name its path there, or set PATH";
    /// It can't be executed as what it is.
    NotExecutable
        "EACCES of `execve`"
        "a program must be a regular file, executable for the command's user (chmod +x), below directories that the user may enter, on a mount without noexec";
    /// Nobody may raise a hard limit but the host's root.
    HardLimit
        "EPERM of `setrlimit`"
        "raising a hard limit needs CAP_SYS_RESOURCE on the host, outside of any user namespace: ask for no more than the caller has (ulimit -H -a); RLIMIT_NOFILE can't be above the sysctl fs.nr_open either";
    /// Whoever has asked is not who is there to be served.
    IdentityChanged
        "user, groups or capabilities change while a container waits to begin"
        "wait until the container has begun ('spawn', or the promise of prepare) before user, groups or capabilities change";
    /// Rights that were given up don't live on.
    PreparedWithOtherRights
        "user, groups or capabilities have changed since a root was prepared"
        "prepare another root with the rights that the caller has now";
    /// proc is only mounted where everything of one can be seen.
    MaskedProc
        "EPERM when proc is mounted in a user namespace with a pid namespace of its own"
        "a user namespace may mount proc only where an unmasked one is visible, with a pid namespace of its own: this looks like a container whose /proc is partly hidden; run the outer one with an unmasked /proc (docker: --security-opt systempaths=unconfined), or bind the caller's with proc('/proc', { fallback: 'bind' })";
    /// proc shows a pid namespace, which must belong to the user namespace.
    ProcOfOthers
        "EPERM when proc is mounted in a user namespace without a pid namespace of its own"
        "a new proc shows the pid namespace, and in a user namespace that must be one of the container's own: leave out pid: false, or bind the caller's with proc('/proc', { fallback: 'bind' })";
    /// The caller's own proc has its own options.
    BoundProcOptions
        "`proc` with `fallback: 'bind'` and options, where a new one is refused"
        "the caller's /proc could be bound in its place, but keeps its own options: leave out hidepid and subset";
    /// mqueue belongs to the ipc namespace.
    ForeignMqueue
        "EPERM when mqueue is mounted in a user namespace"
        "in a user namespace, mqueue needs an ipc namespace of the container's own";
    /// Parts of a locked tree can't be taken out of it.
    LockedSubmounts
        "EINVAL of `open_tree` for a bind that is not recursive"
        "in a user namespace, mounts below the source are locked in place: bind it recursively";
    /// The root directory was changed under a template.
    ChangedTemplate
        "a mount of a template that is not in its place"
        "it was moved or removed with a directory above it, or the template has ended meanwhile: make another template, of a root that its containers can't write";
    /// Locked flags.
    LockedFlags
        "EPERM of `mount_setattr` that clears a flag, or changes the access-time mode"
        "the flag belongs to a mount of a more privileged mount namespace: leave it as it is, or do without the user namespace";
    /// A new proc can be no less restricted than a visible one.
    LockedProc
        "EPERM when proc is mounted in a user namespace with a word for access times"
        "in a user namespace, a new proc must have the access-time mode of one that is visible: leave the words for that out";
    /// The kernel takes this flag only at first.
    DirsyncLater
        "EINVAL of `fsconfig` when `remount` is given with `dirsync`"
        "only a new filesystem can be given dirsync";
    /// Not every filesystem can be idmapped.
    IdmapUnsupported
        "EINVAL of `mount_setattr` with `MOUNT_ATTR_IDMAP`"
        "this filesystem, or one below it, doesn't support idmapped mounts in this kernel: among others ext4, xfs, btrfs and vfat do since Linux 5.12 to 5.15, tmpfs since 6.3; without recursive, mounts below the source are left as they are";
    /// Idmapping needs rights over the filesystem.
    IdmapDenied
        "EPERM of `mount_setattr` with `MOUNT_ATTR_IDMAP`"
        "an idmapped mount needs CAP_SYS_ADMIN in the user namespace that the filesystem was mounted in, and ids that the caller may map: run as root";
    /// The container's own mapping is wanted, and there is none.
    NoContainerIds
        "`idMap: 'userns'` in a container without a user namespace"
        "ask for one with namespaces({ user: … }), or give the mount a mapping of its own";
    /// What is copied up doesn't fit.
    SmallTmpfs
        "ENOSPC when a tmpfs is filled with a copy"
        "give the tmpfs a larger size, or more inodes";
    /// The kernel counts mounts.
    TooManyMounts
        "ENOSPC of a mount call"
        "the mount namespace would have more mounts than the sysctl fs.mount-max allows: raise it, or bind a smaller tree with recursive: false";
    /// This process's descriptors.
    TooManyFiles
        "EMFILE of any call"
        "this process has as many files open as it may (RLIMIT_NOFILE): raise the limit (ulimit -n), or close prepared roots that are not needed";
    /// The system's descriptors.
    TooManyFilesOnHost
        "ENFILE of any call"
        "the system has as many files open as it may: raise the sysctl fs.file-max";
    /// Executing memory files is forbidden.
    MemfdNoexec
        "EACCES or EPERM of `memfd_create` or `execveat` when the supervisor is started"
        "executing memory files is forbidden here (the sysctl vm.memfd_noexec is 2, or a security module does it): set ROOTFS_SUPERVISOR_EXEC to the path of the file rootfs-supervisor";
    /// The file has lost its mode.
    SupervisorNotExecutable
        "EACCES of `execve` with `ROOTFS_SUPERVISOR_EXEC`"
        "the file that ROOTFS_SUPERVISOR_EXEC names must be executable for this user (chmod 755) and on a filesystem without noexec; without that variable the mode doesn't matter";
    /// The file is not there, or not ours.
    SupervisorMissing
        "the supervisor's file can't be opened or read"
        "install the package again: the file rootfs-supervisor must be beside the addon, and readable for this user";
    /// The variable names nothing.
    SupervisorElsewhere
        "ENOENT or ENOTDIR of `execve` with `ROOTFS_SUPERVISOR_EXEC`"
        "let ROOTFS_SUPERVISOR_EXEC name the file rootfs-supervisor of this version, by an absolute path, or unset it";
    /// The tree is assembled in another way.
    NoDetachedTree
        "`detachedMounts` of `probe()`: `move_mount` is refused on a detached mount"
        "needs Linux 6.15; without it trees are assembled in the container's own mount namespace (level attached)";
    /// Entering a root without a copy of the host's mounts.
    StubRights
        "`stubNamespace` of `probe()`: the caller lacks a capability"
        "it only saves time: containers work without it. Root has CAP_SYS_ADMIN and CAP_SYS_CHROOT, unless they were dropped (docker: --cap-add)";
    /// The kernel refuses that way in.
    StubKernel
        "`stubNamespace` of `probe()`: the kernel refuses a call"
        "it only saves time, and needs Linux 6.15: containers work without it, and enter their root by pivot_root";
    /// There is no cgroup to begin in.
    NoOwnCgroup2
        "`cloneIntoCgroup` of `probe()`: no cgroup2 filesystem shows the caller's own cgroup"
        "cgroups of version 2 are needed, on /sys/fs/cgroup or on a hybrid host on /sys/fs/cgroup/unified, and Linux 5.7";
    /// Two releases are mixed.
    SupervisorVersion
        "the supervisor answers as another release, or another build"
        "the packages rootfs and rootfs-PLATFORM must be of one version: install them again, or let ROOTFS_SUPERVISOR_EXEC name the file of this version";
    /// The root has no place for a mount.
    RootNotWritable
        "EROFS, EACCES or EPERM when a missing mountpoint is made"
        "the mountpoint is missing, and this user can't write where it belongs: make it there before, or leave the image as it is and let an overlay have the mountpoints (Rootfs.overlay)";
    /// A mount needs a name to sit on.
    MissingMaskChoice
        "`mask` with `missing: 'deny-create'` below a directory of the host"
        "choose missing: 'readonly-parent' to make that directory read-only, or 'stub' to have an empty name on the host while the container runs";
    /// A link on the way could be replaced.
    LinkInMask
        "`mask` with `missing` of a path that passes through a symbolic link"
        "name the path without symbolic links";
    /// Where no node can be made, the host's is bound.
    NoHostDevice
        "EPERM of `mknodat`, and there is nothing to bind in its place"
        "the host has no such device in /dev that could be bound in its place";
    /// The score is lowered.
    OomScore
        "EACCES when /proc/self/oom_score_adj is written"
        "a score lower than the caller's own needs CAP_SYS_RESOURCE on the host";
    /// Every container has a keyring.
    KeyQuota
        "EDQUOT of `keyctl`"
        "every container has a session keyring of its own, and the user has as many keys as he may: raise the sysctl kernel.keys.maxkeys (kernel.keys.root_maxkeys for root)";
    /// Nobody is there to enforce it.
    NoSecurityModule
        "`process.apparmorProfile` or `process.selinuxLabel` in an OCI config, on a host where that module isn't active"
        "probe() tells which security modules are active: leave the field out, or name it in ignore, and the process isn't confined by it";
    /// Profiles are loaded by the host.
    UnknownProfile
        "ENOENT when an AppArmor profile is written"
        "the profile must have been loaded on the host (apparmor_parser; aa-status lists those that are)";
    /// A terminal in an OCI config.
    OciTerminal
        "`process.terminal` in an OCI config"
        "set it to false, or name it: { ignore: ['process.terminal'] }";
    /// The mount API is missing or filtered.
    NoMountApi
        "ENOSYS or EPERM of the first mount call"
        "the calls for detached mounts (fsopen, open_tree, mount_setattr, move_mount) need Linux 5.12 and a seccomp filter that knows them: those of old container runtimes answer ENOSYS or EPERM. Without them mount(2) does what it can";
    /// Nothing can be mounted over a root.
    RootItself
        "`readonlyPaths` with a path that is the root"
        "readonly() makes the root read-only";
    /// Somebody holds the lock of a directory.
    HostTreeLocked
        "EAGAIN of `flock`: another process holds an exclusive lock of the root directory, or of a bound one"
        "a process that can open this directory holds an exclusive lock of it (flock; see /proc/locks), as a container may in which it is mounted: end that process, or let only its owner read the directory";
    /// Who may put a process into a cgroup.
    CgroupRefused
        "an error of `clone3` with the option `cgroup`"
        "the caller must be allowed to write cgroup.procs of the cgroup and of the nearest one above both it and his own; a cgroup with domain controllers in cgroup.subtree_control, a threaded one, or one that is being removed takes no processes: cgroups(7)";
    /// Joined or shared mount namespaces have limits.
    OwnMountNamespace
        "a mount namespace that is not the container's own together with a user namespace"
        "let it have a mount namespace of its own, or name user: false and be privileged";
    /// The owner of a namespace file.
    UntraceableNamespace
        "EACCES or EPERM when a namespace is opened by its path"
        "a process's namespaces can be opened by whoever may trace it: its own user, unless it is not dumpable, or root";
    /// The wrong hierarchy.
    NoCgroup2
        "the option `cgroup` names a directory of another filesystem"
        "cgroups of version 2 are below /sys/fs/cgroup, or on a hybrid host below /sys/fs/cgroup/unified";
    /// Joining needs rights over the owner.
    ForeignOwner
        "EPERM of `setns` without a user namespace of the same owner"
        "joining needs CAP_SYS_ADMIN in the user namespace that owns the namespace: name that one too, as user: { path }";
    /// Mounting needs rights over the owner.
    ForeignMountNamespace
        "EPERM when the tree is made in a joined mount namespace"
        "it needs CAP_SYS_ADMIN in the user namespace that owns the mount namespace";
    /// Overlays may not share what they write to.
    SharedUpper
        "two containers with one `upper` or `work` directory"
        "each container that is written to needs upper and work of its own, or none: then it has a tmpfs";
}

impl From<Hint> for String {
    fn from(hint: Hint) -> Self {
        hint.advice().to_owned()
    }
}

/// Calls that make mounts, and fail with `ENOSPC` when there are too many.
const MOUNT_CALLS: [&str; 6] =
    ["open_tree", "open_tree_attr", "move_mount", "fsmount", "mount", "pivot_root"];

impl Hint {
    /// What a failed call says by itself, whatever it was made for.
    pub fn of_call(call: &SysError) -> Option<Self> {
        match Errno::from_raw(call.errno) {
            Errno::EMFILE => Some(Self::TooManyFiles),
            Errno::ENFILE => Some(Self::TooManyFilesOnHost),
            Errno::EAGAIN if matches!(call.syscall, "clone3" | "clone" | "fork") => Some(Self::ProcessLimit),
            Errno::ENOSPC if MOUNT_CALLS.contains(&call.syscall) => Some(Self::TooManyMounts),
            Errno::ENOSPC if matches!(call.syscall, "clone3" | "unshare") => Some(Self::NamespaceLimit),
            _ => None,
        }
    }

    /// Why a process in new namespaces can't be made. Reads the sysctls that may be the reason.
    pub fn of_clone(call: &SysError, user_namespace: bool) -> Option<Self> {
        match Errno::from_raw(call.errno) {
            Errno::ENOSPC if user_namespace && sysctl_is("user.max_user_namespaces", "0") => {
                Some(Self::NoUserNamespaces)
            }
            Errno::EPERM | Errno::EACCES if user_namespace => Some(Self::of_refused_user_namespace()),
            Errno::EPERM | Errno::EACCES => Some(Self::NeedsSysAdmin),
            _ => Self::of_call(call),
        }
    }

    /// The same for a process that begins in a cgroup.
    pub fn of_clone_into(call: &SysError, user_namespace: bool, cgroup: bool) -> Option<Self> {
        match Errno::from_raw(call.errno) {
            Errno::EPERM
            | Errno::ENOENT
            | Errno::EACCES
            | Errno::EBUSY
            | Errno::ENODEV
            | Errno::EOPNOTSUPP
                if cgroup =>
            {
                Some(Self::CgroupRefused)
            }
            _ => Self::of_clone(call, user_namespace),
        }
    }

    fn of_refused_user_namespace() -> Self {
        if sysctl_is("kernel.unprivileged_userns_clone", "0") {
            Self::UnprivilegedUserNamespaces
        } else if sysctl_is("kernel.apparmor_restrict_unprivileged_userns", "1") {
            Self::AppArmorUserNamespaces
        } else {
            Self::UserNamespacesRefused
        }
    }

    /// Why a process in a user namespace of an ordinary user is refused what the kernel itself allows it: where `AppArmor`
    /// restricts user namespaces, they can be made, but give no rights.
    pub fn of_restricted_user_namespace(error: &Error) -> Option<Self> {
        let refused = matches!(error.errno.map(Errno::from_raw), Some(Errno::EPERM | Errno::EACCES));
        let of_namespace =
            matches!(error.code, ErrorCode::Mount | ErrorCode::Denied | ErrorCode::Unsupported);
        (refused && of_namespace && sysctl_is("kernel.apparmor_restrict_unprivileged_userns", "1"))
            .then_some(Self::AppArmorUserNamespaces)
    }
}

fn sysctl_is(name: &str, value: &str) -> bool {
    host::sysctl(name).is_some_and(|found| found == value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn call(syscall: &'static str, errno: Errno) -> SysError {
        SysError { syscall, errno: errno as i32, arguments: String::new() }
    }

    #[test]
    fn a_call_that_says_it_by_itself_gets_a_hint() {
        for (syscall, errno, hint) in [
            ("memfd_create", Errno::EMFILE, Some(Hint::TooManyFiles)),
            ("openat", Errno::ENFILE, Some(Hint::TooManyFilesOnHost)),
            ("clone3", Errno::EAGAIN, Some(Hint::ProcessLimit)),
            ("openat2", Errno::EAGAIN, None),
            ("move_mount", Errno::ENOSPC, Some(Hint::TooManyMounts)),
            ("open_tree", Errno::ENOSPC, Some(Hint::TooManyMounts)),
            ("mkdirat", Errno::ENOSPC, None),
            ("unshare", Errno::ENOSPC, Some(Hint::NamespaceLimit)),
            ("clone3", Errno::EPERM, None),
        ] {
            assert_eq!(Hint::of_call(&call(syscall, errno)), hint, "{syscall} {errno}");
        }
    }

    #[test]
    fn without_a_user_namespace_the_privilege_is_missing() {
        let hint = Hint::of_clone(&call("clone3", Errno::EPERM), false);
        assert_eq!(hint, Some(Hint::NeedsSysAdmin));
    }

    #[test]
    fn an_error_made_from_a_call_has_its_hint_and_keeps_it() {
        let error = Error::from_call(ErrorCode::Mount, "x", &call("fsmount", Errno::ENOSPC))
            .with_hint(Hint::LockedSubmounts);
        assert_eq!(error.hint.as_deref(), Some(Hint::TooManyMounts.advice()));
    }

    #[test]
    fn hints_are_told_apart_and_are_one_line() {
        let advice: BTreeSet<_> = Hint::ALL.iter().map(|hint| hint.advice()).collect();
        let when: BTreeSet<_> = Hint::ALL.iter().map(|hint| hint.when()).collect();
        assert_eq!((advice.len(), when.len()), (Hint::ALL.len(), Hint::ALL.len()));
        for hint in Hint::ALL {
            assert!(!hint.advice().contains(['\n', '|']) && !hint.advice().ends_with('.'), "{hint:?}");
        }
    }
}
