//! Namespaces and cgroups that exist already, opened with the caller's own rights and looked at before they are used.

use std::os::fd::{AsFd, OwnedFd};

use rootfs::Hint;
use rootfs::PathBytes;
use rootfs::error::{Error, ErrorCode, SysError};
use rootfs::kernel::process;
use rootfs::namespace::NamespaceKind;
use rootfs::spec::{Namespace, Namespaces, RootfsSpec};
use rootfs::sysctl;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::argument::Parsed;

/// Opens the namespaces that are joined; which they are, and their descriptors.
pub(crate) fn open(
    spec: &RootfsSpec,
    privileged: bool,
    new_user: bool,
) -> Parsed<(Vec<NamespaceKind>, Vec<OwnedFd>)> {
    let (mut kinds, mut fds) = (Vec::new(), Vec::new());
    for (kind, path) in spec.namespaces.joined() {
        let fd = open_one(kind, path)?;
        if sets_something(spec, kind) && is_own(kind, &fd) {
            let message = format!(
                "namespaces.{}: {path} is the caller's own namespace: what is set there would change the host",
                kind.name()
            );
            return Err(Error::new(ErrorCode::Spec, message).into());
        }
        fds.push(fd);
        kinds.push(kind);
    }
    check(&spec.namespaces, &kinds, privileged, new_user)?;
    Ok((kinds, fds))
}

/// Whether names or kernel parameters of a namespace of this kind are set.
fn sets_something(spec: &RootfsSpec, kind: NamespaceKind) -> bool {
    let mut parameters = spec.sysctl.iter().filter_map(|(name, _)| sysctl::path_of(name).ok());
    match kind {
        NamespaceKind::Uts => {
            spec.hostname.is_some()
                || spec.domainname.is_some()
                || parameters.any(|path| path == "kernel/domainname")
        }
        NamespaceKind::Network => parameters.any(|path| path.starts_with("net/")),
        NamespaceKind::Ipc => parameters.any(|path| !path.starts_with("net/") && path != "kernel/domainname"),
        _ => false,
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a link of our own process in /proc, to compare it with what is held"
)]
fn is_own(kind: NamespaceKind, fd: &OwnedFd) -> bool {
    let name = if kind == NamespaceKind::Network { "net" } else { kind.name() };
    let own = rustix::fs::stat(format!("/proc/self/ns/{name}"));
    let same = |own: rustix::fs::Stat, other: rustix::fs::Stat| {
        (own.st_dev, own.st_ino) == (other.st_dev, other.st_ino)
    };
    // Where that can't be known, it is taken for the caller's: nothing is set on the host then.
    own.ok().zip(rustix::fs::fstat(fd).ok()).is_none_or(|(own, other)| same(own, other))
}

/// What the kernel would refuse later, in words that say less.
fn check(namespaces: &Namespaces, kinds: &[NamespaceKind], privileged: bool, new_user: bool) -> Parsed<()> {
    let joins_user = kinds.contains(&NamespaceKind::User);
    let what = match namespaces.mount {
        Namespace::New => return Ok(()),
        _ if new_user => "a new user namespace can mount nothing in a mount namespace that it doesn't own",
        Namespace::Inherit if joins_user => {
            "a user namespace that is joined can mount nothing in the caller's own"
        }
        Namespace::Path(_) if joins_user && privileged => {
            "a mount namespace can't be joined together with a user namespace by a privileged caller: the host's mounts \
             could not be brought along"
        }
        Namespace::Inherit | Namespace::Path(_) => return Ok(()),
    };
    Err(Error::new(ErrorCode::Unsupported, format!("namespaces.mount: {what}"))
        .with_hint(Hint::OwnMountNamespace)
        .into())
}

#[expect(clippy::disallowed_methods, reason = "a path of the caller's host, opened once and then held")]
fn open_one(kind: NamespaceKind, path: &PathBytes) -> Parsed<OwnedFd> {
    let name = kind.name();
    // Whatever it is, opening it must neither wait nor make it the terminal.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = rustix::fs::open(path.as_path(), flags, Mode::empty()).map_err(|errno| {
        let denied = matches!(errno, Errno::ACCESS | Errno::PERM);
        let code = if denied { ErrorCode::Denied } else { ErrorCode::Source };
        let error =
            from_errno(code, format!("namespaces.{name}: {path} can't be opened"), "open", path, errno);
        if denied { error.with_hint(Hint::UntraceableNamespace) } else { error }
    })?;
    let found = process::namespace_type(fd.as_fd()).map_err(|call| {
        let mut error =
            Error::from_call(ErrorCode::Source, format!("namespaces.{name}: {path} is no namespace"), &call);
        error.source = Some(path.clone());
        error
    })?;
    if found == kind.flag() {
        return Ok(fd);
    }
    let other = NamespaceKind::from_flag(found).map_or("unknown", NamespaceKind::name);
    let message = format!("namespaces.{name}: {path} is a namespace of the kind {other}");
    let mut error = Error::new(ErrorCode::Source, message);
    error.source = Some(path.clone());
    Err(error.into())
}

fn from_errno(
    code: ErrorCode,
    what: String,
    syscall: &'static str,
    path: &PathBytes,
    errno: Errno,
) -> Box<Error> {
    let call = SysError { syscall, errno: errno.raw_os_error(), arguments: format!("{path:?}") };
    let mut error = Error::from_call(code, what, &call);
    error.source = Some(path.clone());
    error
}

/// `CGROUP2_SUPER_MAGIC`; `statfs(2)`.
const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;

/// Opens the directory of a cgroup.
#[expect(clippy::disallowed_methods, reason = "a path of the caller's host, opened once and then held")]
pub(crate) fn open_cgroup(path: &PathBytes) -> Parsed<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fail = |call| {
        move |errno| {
            from_errno(ErrorCode::Source, format!("cgroup: {path} can't be opened"), call, path, errno)
        }
    };
    let fd = rustix::fs::open(path.as_path(), flags, Mode::empty()).map_err(fail("open"))?;
    let magic = rustix::fs::fstatfs(&fd).map_err(fail("fstatfs"))?.f_type;
    if u64::try_from(magic).is_ok_and(|magic| magic == CGROUP2_SUPER_MAGIC) {
        return Ok(fd);
    }
    let mut error =
        Error::new(ErrorCode::Source, format!("cgroup: {path} is no directory of a cgroup2 filesystem"));
    error.source = Some(path.clone());
    Err(error.with_hint(Hint::NoCgroup2).into())
}
