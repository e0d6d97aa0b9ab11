//! The keeper: holds what the containers of a template have in common, in the caller's namespaces and with his rights, until the
//! template is closed. It hands the descriptors to Node, which sends them with each request; the containers need nothing of it.
//! It stays because of the mountpoints that it has made and the locks that it holds.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rootfs::error::{CallContext, Error, ErrorCode, Result};
use rootfs::execute::{Level, Surroundings, sources, template};
use rootfs::journal::{Identity, Writer};
use rootfs::kernel::linux::Linux;
use rootfs::kernel::process;
use rootfs::path::PathBytes;
use rootfs::protocol::{self, ExecutedStep, FrameError, Kind, MAX_FDS, Report};
use rootfs::resolve::Missing;
use rootfs::spec::{Directory, Hook};
use rustix::thread::CapabilitySet;

use crate::broker::connection_error;
use crate::first_process::{Asked, FirstProcess, SetUp, choose_level, send_long, send_report};

/// Runs in the forked child. Comes back only with an error.
pub(crate) fn run(first: &FirstProcess, asked: &Asked) -> Box<Error> {
    process::set_name(c"rootfs-keeper");
    match keep(first, asked) {
        Ok(()) => process::exit(0),
        Err(error) => error,
    }
}

fn keep(first: &FirstProcess, asked: &Asked) -> Result<()> {
    process::die_with_parent().context(ErrorCode::Supervisor, || "the keeper can't follow its parent")?;
    let payload = asked.read()?;
    let (_, fds) = asked.parts(&payload)?;
    let kernel = Linux::default();
    // Without rights over the caller's mounts there is nothing to choose: nothing is mounted here.
    let level = if payload.rest.privileged {
        choose_level(&payload, first.known_level, None)?
    } else {
        Level::Classic
    };
    let share = template::can_share(&payload.plan, level);
    let request = sources::Request {
        fds,
        user: payload.rest.user.as_ref(),
        verify: payload.rest.verify,
        ..sources::Request::default()
    };
    let journal = rustix::io::fcntl_dupfd_cloexec(&first.journal, 0).ok().map(Writer::new);
    let mut alone = Alone { node: first.node.as_fd(), report: payload.rest.report_steps };
    let kept = template::keep(&kernel, &payload.plan, &request, &mut alone, journal, share)?;
    // It doesn't end what it has started, because that is nothing: the supervisor needn't ask it to.
    first.tell_supervisor(&SetUp { level, filesystems: Vec::new(), stays: false }, &kept.locks)?;
    hand_over(first.node.as_fd(), &kept)?;
    let template::Kept { descriptors, locks, .. } = kept;
    // A tree that is attached nowhere is there as long as somebody holds it.
    let held: (Vec<OwnedFd>, Vec<OwnedFd>) = (descriptors, locks);
    let _ = process::narrow_capabilities(CapabilitySet::empty());
    process::refuse_executable_memory();
    let answer = protocol::receive(&first.node);
    drop(held);
    match answer {
        Err(FrameError::Closed) => Ok(()),
        Ok(_) => Err(Error::new(ErrorCode::Supervisor, "Node says something unexpected")),
        Err(error) => Err(connection_error("Node", &error)),
    }
}

fn hand_over(node: BorrowedFd<'_>, kept: &template::Kept) -> Result<()> {
    let fds: Vec<BorrowedFd<'_>> = kept.descriptors.iter().map(AsFd::as_fd).collect();
    for batch in fds.chunks(MAX_FDS) {
        protocol::send(node, Kind::Kept, 0, &[], batch).map_err(|error| connection_error("Node", &error))?;
    }
    send_long(node, Kind::Kept, 1, &protocol::encode(&kept.template))?;
    let report = Report { warnings: kept.warnings.clone(), ..Report::default() };
    send_report(node, &report)
}

/// The keeper has the caller's rights: whoever could be asked has no more.
struct Alone<'a> {
    node: BorrowedFd<'a>,
    report: bool,
}

fn nobody() -> Box<Error> {
    Error::new(ErrorCode::Unsupported, "nobody with more rights is there to ask")
}

impl Surroundings for Alone<'_> {
    fn make(&mut self, _: BorrowedFd<'_>, _: &PathBytes, _: Missing) -> Result<bool> {
        Err(nobody())
    }

    fn make_symlink(&mut self, _: &PathBytes, _: BorrowedFd<'_>, _: &PathBytes) -> Result<bool> {
        Err(nobody())
    }

    fn change(&mut self, _: BorrowedFd<'_>, _: &Directory) -> Result<()> {
        Err(nobody())
    }

    fn open_directory(&mut self, _: BorrowedFd<'_>) -> Result<OwnedFd> {
        Err(nobody())
    }

    fn attach_root(&mut self, _: BorrowedFd<'_>, _: &PathBytes, _: Identity) -> Result<bool> {
        Ok(false)
    }

    fn run_hook(&mut self, _: &Hook, _: BorrowedFd<'_>, _: &PathBytes) -> Result<()> {
        Err(nobody())
    }

    fn host_has(&mut self, _: &PathBytes) -> bool {
        false
    }

    fn step_done(&mut self, step: &ExecutedStep) {
        if self.report {
            let _ = protocol::send(self.node, Kind::Step, 0, &protocol::encode(step), &[]);
        }
    }
}
