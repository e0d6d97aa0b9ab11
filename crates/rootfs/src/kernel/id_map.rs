//! User namespaces in which nothing runs: what an idmapped mount takes its mapping from.

use std::fmt::Write as _;
use std::os::fd::{AsFd, OwnedFd};

use pathrs::flags::OpenFlags;
use pathrs::procfs::ProcfsBase;

use super::linux::{Linux, failed, from_pathrs};
use super::process;
use crate::error::{SysError, SysResult};
use crate::path::PathBytes;
use crate::spec::{IdMap, IdMapping};

/// The inode number of the first user namespace; `PROC_USER_INIT_INO`.
const INITIAL: u64 = 0xefff_fffd;

fn open(kernel: &Linux, base: ProcfsBase, name: &str) -> SysResult<OwnedFd> {
    let flags = OpenFlags::O_RDONLY | OpenFlags::O_CLOEXEC;
    kernel
        .procfs()?
        .open_follow(base, name, flags)
        .map(OwnedFd::from)
        .map_err(|error| from_pathrs(&error, &PathBytes::from(format!("/proc/{base:?}/{name}"))))
}

pub(super) fn in_initial_user_namespace(kernel: &Linux) -> SysResult<bool> {
    let namespace = open(kernel, ProcfsBase::ProcSelf, "ns/user")?;
    rustix::fs::fstat(&namespace)
        .map(|stat| stat.st_ino == INITIAL)
        .map_err(failed("fstat", || "ns/user".into()))
}

fn lines(list: &[IdMapping]) -> String {
    let mut text = String::new();
    for line in list {
        let _ = writeln!(text, "{} {} {}", line.container_id, line.host_id, line.size);
    }
    text
}

/// Has a child that does nothing begin a user namespace, writes its maps, takes hold of it, and lets the child go.
pub(super) fn user_namespace(kernel: &Linux, map: &IdMap) -> SysResult<OwnedFd> {
    // Before the fork: both must look at the same proc, in which the child has the number that it reads there.
    kernel.procfs()?;
    let (ours, theirs) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .map_err(failed("socketpair", String::new))?;
    let namespaces = u64::from(libc::CLONE_NEWUSER.cast_unsigned());
    let fork = process::fork(process::CloneRequest { namespaces, cgroup: None })?;
    let process::Fork::Parent { pidfd, .. } = fork else {
        drop(ours);
        wait_as_namespace(kernel, &theirs);
    };
    drop(theirs);
    let result = hold(kernel, &ours, map);
    drop(ours);
    let _ = process::wait_for(pidfd.as_fd());
    result
}

/// The child: says which number it has, and ends with the other end of the connection.
fn wait_as_namespace(kernel: &Linux, connection: &OwnedFd) -> ! {
    use std::os::fd::AsRawFd;
    let _ = process::die_with_parent();
    // Its files in proc would belong to the host's root otherwise, and their maps could not be written from within a user
    // namespace.
    let _ = process::set_dumpable(true);
    if let Ok(own) = kernel.procfs().and_then(|procfs| {
        procfs
            .readlink(ProcfsBase::ProcRoot, "self")
            .map_err(|error| from_pathrs(&error, &"/proc/self".into()))
    }) {
        // What was copied from the parent must not be kept open by a process that waits.
        process::close_all_but(3, &[connection.as_raw_fd()]);
        let _ = rustix::net::send(
            connection,
            PathBytes::from(&*own).as_bytes(),
            rustix::net::SendFlags::NOSIGNAL,
        );
        let mut nothing = [0; 1];
        let _ = rustix::net::recv(connection, &mut nothing, rustix::net::RecvFlags::empty());
    }
    process::exit(0)
}

fn hold(kernel: &Linux, connection: &OwnedFd, map: &IdMap) -> SysResult<OwnedFd> {
    let mut text = [0; 32];
    let (count, _) = rustix::net::recv(connection, &mut text, rustix::net::RecvFlags::empty())
        .map_err(failed("recv", String::new))?;
    let pid = std::str::from_utf8(&text[..count]).ok().and_then(|text| text.parse::<i32>().ok()).ok_or_else(
        || SysError {
            syscall: "clone3",
            errno: libc::ECHILD,
            arguments: "CLONE_NEWUSER: it ended early".into(),
        },
    )?;
    for (file, list) in [("uid_map", &map.uids), ("gid_map", &map.gids)] {
        kernel.write_proc(pid, file, lines(list).as_bytes())?;
    }
    open(kernel, ProcfsBase::ProcPid(pid.cast_unsigned()), "ns/user")
}
