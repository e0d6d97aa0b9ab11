//! Making a first process before it is asked for, with a holder for its memory.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rootfs::error::Result;
use rootfs::kernel::process::{self, namespaces};
use rootfs::kernel::{holder, host};
use rootfs::protocol::{self, Frame, Kind, Start};
use rustix::event::{PollFd, PollFlags};

use crate::first_process::FirstProcess;
use crate::server::{clone_error, clone_flags, own_pid, pair};

/// A spare first process that was made.
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) holder: Option<OwnedFd>,
}

/// Makes a spare first process, with a holder for its memory where that can be had.
pub(crate) fn begin_spare(start: &Start, first: FirstProcess) -> Result<Process> {
    // The copy of the caller's mounts would be old when it is needed.
    let namespaces = clone_flags(start) & !u64::from(namespaces::MOUNT.cast_unsigned());
    let mut first = Some(first);
    if let Some(process) = begin_held(namespaces, &mut first) {
        return Ok(process);
    }
    let request = process::CloneRequest { namespaces, cgroup: None };
    match process::fork(request).map_err(|call| clone_error(start, &call))? {
        process::Fork::Parent { pid, pidfd } => Ok(Process { pid, pidfd, holder: None }),
        process::Fork::Child => become_first(&mut first),
    }
}

fn become_first(first: &mut Option<FirstProcess>) -> ! {
    if let Some(first) = first.take() {
        first.run();
    }
    process::exit(127)
}

/// Whether a filter lets nobody open the pidfd of a process that is there.
static NO_PIDFD_OPEN: AtomicBool = AtomicBool::new(false);

/// The same by way of a holder, which makes the first process. Waits for that, which takes as long as two clones.
/// Afterwards there is either one first process or none.
fn begin_held(namespaces: u64, first: &mut Option<FirstProcess>) -> Option<Process> {
    // A holder has to close what the first process has: others wait for its end. And where processes that change their ids
    // may be looked into, their new user could write to what they share with it.
    let dumpable = host::sysctl("fs.suid_dumpable").is_none_or(|value| value == "1");
    if dumpable || !process::can_close_ranges() || NO_PIDFD_OPEN.load(Ordering::Relaxed) {
        return None;
    }
    let birth = holder::Birth::new().ok()?;
    let (here, there) = pair().ok()?;
    let supervisor = own_pid();
    let process::Fork::Parent { pidfd: holder, .. } = process::fork(process::CloneRequest::default()).ok()?
    else {
        hold(supervisor, namespaces, &birth, &there, first);
    };
    drop(there);
    if has_begun(&here, &holder)
        && let Some(pid) = birth.pid()
    {
        match process::pidfd_of_child(pid) {
            Ok(pidfd) => return Some(Process { pid, pidfd, holder: Some(holder) }),
            Err(call) if call.is(nix::errno::Errno::ENOSYS) || call.is(nix::errno::Errno::EPERM) => {
                NO_PIDFD_OPEN.store(true, Ordering::Relaxed);
            }
            Err(_) => {}
        }
    }
    // What was to be its descriptors is for another, and it must not use them too.
    process::kill(holder.as_fd());
    let _ = process::wait_for(holder.as_fd());
    if let Some(pid) = birth.pid() {
        process::end_child(pid);
    }
    None
}

/// Waits until a first process has begun, or can't any more.
fn has_begun(socket: &OwnedFd, holder: &OwnedFd) -> bool {
    let patience = rustix::event::Timespec { tv_sec: 0, tv_nsec: 500_000_000 };
    let mut ends = [PollFd::new(socket, PollFlags::IN), PollFd::new(holder, PollFlags::IN)];
    let polled = loop {
        match rustix::event::poll(&mut ends, Some(&patience)) {
            Err(rustix::io::Errno::INTR) => {}
            polled => break polled,
        }
    };
    polled.is_ok()
        && ends[0].revents().contains(PollFlags::IN)
        && matches!(protocol::receive(socket), Ok(Frame { kind: Kind::Started, .. }))
}

fn hold(
    supervisor: i32,
    namespaces: u64,
    birth: &holder::Birth,
    socket: &OwnedFd,
    first: &mut Option<FirstProcess>,
) -> ! {
    process::set_name(c"rootfs-holder");
    if process::die_with_parent().is_err() || process::parent_pid() != supervisor {
        process::exit(1);
    }
    // The first process tells of its beginning: then its holder has nothing more to do that others wait for.
    let work = || {
        if protocol::send(socket, Kind::Started, 0, &[], &[]).is_ok() {
            become_first(first);
        }
    };
    holder::begin(namespaces, birth, work, |made| {
        if made.is_err() {
            process::exit(1);
        }
        process::close_all_but(0, &[]);
        if holder::confine().is_err() {
            process::exit(1);
        }
        holder::hold()
    })
}
