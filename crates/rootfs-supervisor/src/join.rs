//! Making a first process in namespaces that exist already: a short-lived child joins them and makes it as its sibling, so
//! that it is the supervisor's child.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rootfs::Hint;
use rootfs::error::{Error, ErrorCode, Result, SysError};
use rootfs::kernel::linux::Linux;
use rootfs::kernel::process::{self, CloneRequest, Fork};
use rootfs::kernel::without_pidfds;
use rootfs::namespace::NamespaceKind;
use rootfs::protocol::{self, Answer, Kind, Start};
use rootfs::spec::{IdMap, IdMapping};

use crate::broker::connection_error;
use crate::first_process::error_body;

/// Which side of the making this is, as after a fork.
pub(crate) enum Side {
    /// The first process, with the mapping of the user namespace if that is one that was joined.
    First(Option<IdMap>),
    /// The supervisor.
    Supervisor(Made),
}

/// A first process that was made.
pub(crate) struct Made {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    /// The mapping of the user namespace it is in, if that is one that was joined.
    pub(crate) user: Option<IdMap>,
}

/// Joins a namespace, with what can be done when that is refused.
pub(crate) fn join(kind: NamespaceKind, namespace: BorrowedFd<'_>) -> Result<()> {
    process::set_namespace(namespace, kind.flag()).map_err(|call| {
        let what = format!("the {} namespace can't be joined", kind.name());
        Error::from_call(ErrorCode::Denied, what, &call).with_hint(Hint::ForeignOwner)
    })
}

/// Has a child join the namespaces, and enter the cgroup if that is given, and make the first process. Waits for both, which takes as long as a clone.
pub(crate) fn make(
    kernel: &Linux,
    start: &Start,
    namespaces: &[OwnedFd],
    cgroup: Option<&OwnedFd>,
    request: CloneRequest<'_>,
) -> Result<Side> {
    let failed =
        |what: &str, call: &rootfs::error::SysError| Error::from_call(ErrorCode::Supervisor, what, call);
    let (here, there) = crate::server::pair()?;
    let fork = process::fork(CloneRequest::default())
        .map_err(|call| failed("a process that joins namespaces can't be made", &call))?;
    let Fork::Parent { pid: joiner, pidfd } = fork else {
        drop(here);
        return Ok(Side::First(run(&there, start, namespaces, cgroup, request)));
    };
    drop(there);
    let result = hear(kernel, &here, joiner);
    let _ = process::wait_for(pidfd.as_fd());
    result.map(Side::Supervisor)
}

/// What the child has to say.
fn hear(kernel: &Linux, socket: &OwnedFd, joiner: i32) -> Result<Made> {
    let gone = |error| connection_error("a process that joins namespaces", &error);
    let mut user = None;
    loop {
        let mut frame = protocol::receive(socket).map_err(gone)?;
        match frame.kind {
            Kind::MapIds => {
                let map = read_map(kernel, joiner);
                let answer = match &map {
                    Ok(map) => Answer::Done(map.clone()),
                    Err(error) => Answer::Failed(error.clone()),
                };
                protocol::send(socket, Kind::Mapped, 0, &protocol::encode(&answer), &[]).map_err(gone)?;
                user = Some(map?);
            }
            Kind::Started => {
                let pid = frame.decode().map_err(gone)?;
                let Some(pidfd) = frame.fds.pop() else {
                    // Nobody else knows of it.
                    process::end_child(pid);
                    return Err(gone(protocol::FrameError::Descriptors));
                };
                without_pidfds::watch(pid, &pidfd).map_err(|call| {
                    process::end_child(pid);
                    Error::from_call(ErrorCode::Supervisor, "the first process can't be watched", &call)
                })?;
                return Ok(Made { pid, pidfd, user });
            }
            _ => return Err(frame.decode::<Error>().map_or_else(gone, Box::new)),
        }
    }
}

/// The mapping of a process's user namespace, as it is seen from here.
fn read_map(kernel: &Linux, pid: i32) -> Result<IdMap> {
    let read = |name: &str| -> Result<Vec<IdMapping>> {
        let text = kernel.read_proc(pid, name).map_err(|call| {
            Error::from_call(
                ErrorCode::Denied,
                format!("{name} of the joined user namespace can't be read"),
                &call,
            )
        })?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let line = |line: &str| {
            let mut numbers = line.split_ascii_whitespace().map(str::parse);
            let mut next = || numbers.next()?.ok();
            Some(IdMapping { container_id: next()?, host_id: next()?, size: next()? })
        };
        Ok(text.lines().filter_map(line).collect())
    };
    let map = IdMap { uids: read("uid_map")?, gids: read("gid_map")? };
    if IdMap::to_host(&map.uids, 0).is_none() || IdMap::to_host(&map.gids, 0).is_none() {
        return Err(Error::new(
            ErrorCode::Denied,
            "the joined user namespace maps no root: the container's first process begins as its user 0",
        ));
    }
    Ok(map)
}

/// Runs in the child, and comes back in the first process alone.
fn run(
    socket: &OwnedFd,
    start: &Start,
    namespaces: &[OwnedFd],
    cgroup: Option<&OwnedFd>,
    request: CloneRequest<'_>,
) -> Option<IdMap> {
    let _ = process::die_with_parent();
    let entered = cgroup.map_or(Ok(()), |cgroup| {
        crate::cgroup::enter(cgroup).map_err(|errno| {
            let call =
                SysError { syscall: "write", errno: errno.raw_os_error(), arguments: "cgroup.procs".into() };
            crate::server::clone_error(start, &call)
        })
    });
    let joined = entered
        .and_then(|()| if start.joins_first() { join_all(socket, start, namespaces) } else { Ok(None) });
    let made = joined.and_then(|user| {
        let fork = process::fork_sibling(request).map_err(|call| crate::server::clone_error(start, &call))?;
        Ok((fork, user))
    });
    match made {
        Ok((Fork::Child, user)) => return user,
        Ok((Fork::Parent { pid, pidfd }, _)) => {
            let _ = protocol::send(socket, Kind::Started, 0, &protocol::encode(&pid), &[pidfd.as_fd()]);
        }
        Err(error) => {
            let _ = protocol::send(socket, Kind::Failed, 0, &error_body(&error), &[]);
        }
    }
    process::exit(0)
}

/// Joins everything but a mount namespace. First what the caller himself may join, because a user namespace takes his rights
/// away; then that; then what belongs to it. The mapping of a user namespace that was joined.
fn join_all(socket: &OwnedFd, start: &Start, namespaces: &[OwnedFd]) -> Result<Option<IdMap>> {
    let pairs = || start.joins.iter().copied().zip(namespaces);
    let user = pairs().find(|(kind, _)| *kind == NamespaceKind::User);
    let mut others: Vec<(NamespaceKind, &OwnedFd)> =
        pairs().filter(|(kind, _)| !matches!(kind, NamespaceKind::User | NamespaceKind::Mount)).collect();
    let mut map = None;
    if let Some((kind, namespace)) = user {
        others.retain(|(kind, namespace)| join(*kind, namespace.as_fd()).is_err());
        join(kind, namespace.as_fd())?;
        let gone = |error| connection_error("the supervisor", &error);
        protocol::send(socket, Kind::MapIds, 0, &[], &[]).map_err(gone)?;
        match protocol::receive(socket).and_then(|frame| frame.decode::<Answer<IdMap>>()).map_err(gone)? {
            Answer::Done(found) => map = Some(found),
            Answer::Failed(error) => return Err(error),
        }
    }
    for (kind, namespace) in others {
        join(kind, namespace.as_fd())?;
    }
    Ok(map)
}
