//! Writing the id maps of a new user namespace: by the kernel's own rule, or by the setuid helpers of the distribution.

use std::ffi::CString;
use std::fmt::Write as _;
use std::os::fd::AsFd;

use rootfs::Hint;
use rootfs::error::{CallContext, Error, ErrorCode, Result, SysError};
use rootfs::kernel::linux::Linux;
use rootfs::kernel::{memfd, process};
use rootfs::protocol::Exit;
use rootfs::spec::{IdMap, IdMapping};

/// Who writes the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writer {
    /// This process may write any map: it has the rights over its own user namespace.
    Privileged,
    /// This process may map its own ids, one each.
    Own,
    /// `newuidmap` and `newgidmap` must.
    Helpers,
}

/// Who can write a map.
pub(crate) fn writer(map: &IdMap) -> Writer {
    if [process::CAP_SETUID, process::CAP_SETGID].into_iter().all(process::has_capability) {
        return Writer::Privileged;
    }
    let own = |list: &[IdMapping], id: u32| matches!(list, [line] if line.size == 1 && line.host_id == id);
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if own(&map.uids, uid) && own(&map.gids, gid) { Writer::Own } else { Writer::Helpers }
}

fn lines(list: &[IdMapping]) -> String {
    let mut text = String::new();
    for line in list {
        let _ = writeln!(text, "{} {} {}", line.container_id, line.host_id, line.size);
    }
    text
}

/// Writes the maps of a process directly.
pub(crate) fn write(kernel: &Linux, pid: i32, map: &IdMap, writer: Writer) -> Result<()> {
    if writer == Writer::Own {
        // The kernel lets a single gid be mapped only when the namespace can't drop groups: user_namespaces(7).
        kernel
            .write_proc(pid, "setgroups", b"deny")
            .context(ErrorCode::Denied, || "setgroups can't be denied in the user namespace")?;
    }
    for (file, list) in [("uid_map", &map.uids), ("gid_map", &map.gids)] {
        kernel
            .write_proc(pid, file, lines(list).as_bytes())
            .context(ErrorCode::Denied, || format!("{file} can't be written"))?;
    }
    Ok(())
}

const DIRECTORIES: [&str; 4] = ["/usr/bin", "/bin", "/usr/sbin", "/usr/local/bin"];

/// Has the helpers write the maps. Waits for them: for a forked child.
#[expect(
    clippy::disallowed_methods,
    reason = "newuidmap of the host, by constant paths and before anything of a container is there"
)]
pub(crate) fn run_helpers(pid: i32, map: &IdMap) -> Result<()> {
    for (name, list, file) in
        [("newuidmap", &map.uids, "/etc/subuid"), ("newgidmap", &map.gids, "/etc/subgid")]
    {
        let path = DIRECTORIES
            .iter()
            .filter_map(|directory| CString::new(format!("{directory}/{name}")).ok())
            .find(|path| rustix::fs::access(path.as_c_str(), rustix::fs::Access::EXEC_OK).is_ok());
        let Some(path) = path else {
            return Err(Error::new(
                ErrorCode::Denied,
                format!("{name} is needed to map ranges of ids and is not installed"),
            )
            .with_hint(Hint::NoIdHelpers));
        };
        let mut args = vec![name.to_owned(), pid.to_string()];
        for line in list {
            args.extend([line.container_id, line.host_id, line.size].map(|number| number.to_string()));
        }
        let args: Vec<CString> = args.into_iter().filter_map(|arg| CString::new(arg).ok()).collect();
        let errors = rustix::fs::memfd_create(c"rootfs-newidmap", rustix::fs::MemfdFlags::CLOEXEC)
            .map_err(|errno| SysError::new("memfd_create", errno, "\"rootfs-newidmap\""))
            .context(ErrorCode::Supervisor, || format!("the output of {name} can't be taken"))?;
        let fork = process::fork(process::CloneRequest::default()).context(ErrorCode::Denied, || name)?;
        let process::Fork::Parent { pidfd, .. } = fork else {
            for number in 1..3 {
                let _ = process::duplicate_to(errors.as_fd(), number);
            }
            process::unblock_signals();
            process::execute(&path, &args, &[]);
            process::exit(127);
        };
        let exit = process::wait_for(pidfd.as_fd()).context(ErrorCode::Denied, || name)?;
        if exit != Exit::Code(0) {
            let said = memfd::read(&errors, 4096).unwrap_or_default();
            let said = String::from_utf8_lossy(&said);
            return Err(Error::new(
                ErrorCode::Denied,
                format!("{name}, which reads {file}, refused the mapping: {}", said.trim()),
            )
            .with_hint(Hint::NoSubordinateIds));
        }
    }
    Ok(())
}
