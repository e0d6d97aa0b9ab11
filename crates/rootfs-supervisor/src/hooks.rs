//! Hook programs: the container's state on stdin, their output kept for the error, killed when their time is over.

use std::ffi::CString;
use std::fmt::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rootfs::error::{Error, ErrorCode, Result};
use rootfs::kernel::{memfd, process};
use rootfs::path::PathBytes;
use rootfs::protocol::Exit;
use rootfs::spec::Hook;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::MemfdFlags;

/// As much of a hook's output as an error carries.
const OUTPUT_LIMIT: usize = 4096;

/// Where a hook runs and what it is told.
pub(crate) struct Context<'a> {
    /// The host's pid of the first process.
    pub(crate) pid: i32,
    /// The working directory.
    pub(crate) directory: Option<BorrowedFd<'a>>,
    /// The path of the root, as the hook sees it.
    pub(crate) root: &'a PathBytes,
}

/// The state, as OCI runtime-spec `runtime.md` has it.
fn state(context: &Context<'_>) -> Vec<u8> {
    let root = context.root.to_string();
    let state = serde_json::json!({
        "ociVersion": "1.2.0",
        "id": format!("rootfs-{}", context.pid),
        "status": "creating",
        "pid": context.pid,
        "bundle": root,
        "root": root,
        "annotations": {},
    });
    state.to_string().into_bytes()
}

fn failure(hook: &Hook, what: impl Into<String>) -> Box<Error> {
    let mut error =
        Error::new(ErrorCode::Hook, format!("hook {} {}: {}", hook.point.name(), hook.path, what.into()));
    error.source = Some(hook.path.clone());
    error
}

/// Runs a hook and waits until it has ended.
pub(crate) fn run(hook: &Hook, context: &Context<'_>) -> Result<()> {
    let input = memfd::sealed(c"rootfs-state", &state(context), false)
        .map_err(|call| failure(hook, call.to_string()))?;
    let capture = || {
        rustix::fs::memfd_create(c"rootfs-hook-output", MemfdFlags::CLOEXEC)
            .map_err(|errno| failure(hook, errno.to_string()))
    };
    let (output, errors) = (capture()?, capture()?);
    let (report, child_report) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|errno| failure(hook, errno.to_string()))?;
    let fork =
        process::fork(process::CloneRequest::default()).map_err(|call| failure(hook, call.to_string()))?;
    let process::Fork::Parent { pidfd, .. } = fork else {
        execute(hook, context, [input.as_fd(), output.as_fd(), errors.as_fd()], child_report.as_fd());
    };
    drop(child_report);
    let in_time = wait(pidfd.as_fd(), hook.timeout);
    if !in_time {
        process::kill(pidfd.as_fd());
    }
    let exit = process::wait_for(pidfd.as_fd()).map_err(|call| failure(hook, call.to_string()))?;
    let mut start_failure = [0; 512];
    let length = rustix::io::read(&report, &mut start_failure).unwrap_or(0);
    if length > 0 {
        return Err(failure(hook, String::from_utf8_lossy(&start_failure[..length])));
    }
    if !in_time {
        let seconds = hook.timeout.unwrap_or_default();
        return Err(failure(hook, format!("did not end within {seconds} s{}", said(&output, &errors))));
    }
    match exit {
        Exit::Code(0) => Ok(()),
        Exit::Code(code) => Err(failure(hook, format!("exit status {code}{}", said(&output, &errors)))),
        Exit::Signal(signal) => {
            Err(failure(hook, format!("killed by signal {signal}{}", said(&output, &errors))))
        }
    }
}

/// Waits for the end of a process. `false` when the time was over first.
fn wait(pidfd: BorrowedFd<'_>, seconds: Option<u32>) -> bool {
    let deadline =
        seconds.map(|seconds| std::time::Instant::now() + std::time::Duration::from_secs(u64::from(seconds)));
    loop {
        let left = deadline.map(|deadline| {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            }
        });
        match rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], left.as_ref()) {
            Ok(0) => return false,
            Err(rustix::io::Errno::INTR) => {}
            Ok(_) | Err(_) => return true,
        }
    }
}

/// What a hook wrote, for the error.
fn said(output: &OwnedFd, errors: &OwnedFd) -> String {
    let mut text = String::new();
    for (name, fd) in [("stdout", output), ("stderr", errors)] {
        let mut bytes = vec![0; OUTPUT_LIMIT];
        let length = rustix::io::pread(fd, &mut bytes, 0).unwrap_or(0);
        let words = String::from_utf8_lossy(&bytes[..length]);
        if !words.trim().is_empty() {
            let _ = write!(text, ", {name}: {}", words.trim());
        }
    }
    text
}

/// Runs in the child.
fn execute(hook: &Hook, context: &Context<'_>, streams: [BorrowedFd<'_>; 3], report: BorrowedFd<'_>) -> ! {
    let fail = |what: String| -> ! {
        let _ = rustix::io::write(report, what.as_bytes());
        process::exit(127);
    };
    if let Some(directory) = context.directory
        && let Err(errno) = rustix::process::fchdir(directory)
    {
        fail(format!("its working directory {} can't be entered: fchdir: {errno}", context.root));
    }
    for (number, stream) in (0..).zip(streams) {
        if let Err(call) = process::duplicate_to(stream, number) {
            fail(call.to_string());
        }
    }
    let _ = process::new_session();
    process::set_umask(0o022);
    process::unblock_signals();
    // Every other descriptor is close-on-exec.
    let strings = |list: &[Vec<u8>]| -> Vec<CString> {
        list.iter().filter_map(|item| CString::new(item.clone()).ok()).collect()
    };
    let path = CString::from(&hook.path);
    let mut args = strings(&hook.args);
    if args.is_empty() {
        args.push(path.clone());
    }
    let call = process::execute(&path, &args, &strings(&hook.env));
    fail(call.to_string());
}
