//! Hook programs: the container's state on stdin, their output kept for the error, killed when their time is over.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fmt::Write as _;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rootfs::error::{CallContext, Error, ErrorCode, Result, SysError};
use rootfs::kernel::linux::Linux;
use rootfs::kernel::{memfd, process};
use rootfs::lsm;
use rootfs::oci::OCI_VERSION;
use rootfs::path::PathBytes;
use rootfs::plan::Plan;
use rootfs::process::{ProcessSpec, Rlimit};
use rootfs::protocol::{self, Exit};
use rootfs::spec::{Hook, HookPoint, Root};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::MemfdFlags;

use crate::command::{Groups, limit_resources, strings, take_identity};
use crate::unexecutable::why_not_executed;

/// As much of a hook's output as an error carries.
const OUTPUT_LIMIT: usize = 4096;

/// What a pipe takes at once.
const PIPE_BUF: usize = 4096;

/// Where a hook runs and what it is told.
pub(crate) struct Context<'a> {
    /// The host's pid of the first process.
    pub(crate) pid: i32,
    /// The working directory.
    pub(crate) directory: Option<BorrowedFd<'a>>,
    /// The path of the root, as the hook sees it.
    pub(crate) root: &'a PathBytes,
    /// What the hook is of.
    pub(crate) plan: &'a Plan,
    /// Whose rights a hook has, and, if it has none of its own, whose environment. Without one it is the caller's program,
    /// with the rights of this process.
    pub(crate) rights: Option<Rights<'a>>,
}

/// What a program of the image may do.
#[derive(Clone, Copy)]
pub(crate) struct Rights<'a> {
    /// The command, or what a command would be.
    pub(crate) process: &'a ProcessSpec,
    /// Whether it can have groups.
    pub(crate) groups: Groups,
    /// The limit of open files, where this process has another.
    pub(crate) open_files: Option<Rlimit>,
    /// By which a security module is told.
    pub(crate) kernel: &'a Linux,
}

impl Rights<'_> {
    /// Gives up all others.
    fn take(&self, as_user: impl FnOnce() -> Result<()>) -> Result<()> {
        if let Some(limit) = self.open_files {
            process::set_rlimit(limit)
                .context(ErrorCode::Exec, || "the limit of open files can't be set back")?;
        }
        limit_resources(self.process)?;
        take_identity(self.process, self.groups, as_user)
    }
}

/// The state, as OCI runtime-spec `runtime.md` has it.
fn state(point: HookPoint, context: &Context<'_>) -> Vec<u8> {
    let root = match (point, context.plan.root()) {
        (_, Some(Root::Directory(_))) | (HookPoint::CreateContainer | HookPoint::StartContainer, _) => {
            Some(context.root.to_string())
        }
        // A root that the host doesn't have: as a path of the host's, its own name for it would mean something else.
        (HookPoint::Prestart | HookPoint::CreateRuntime, _) => {
            Some(format!("/proc/{}/root{}", context.pid, context.root))
        }
        (HookPoint::Poststart, _) => Some(format!("/proc/{}/root", context.pid)),
        (HookPoint::Poststop, _) => None,
    };
    let bundle = context.plan.bundle.as_ref().map(ToString::to_string).or_else(|| root.clone());
    let annotations: BTreeMap<_, _> =
        context.plan.annotations.iter().map(|(name, value)| (name, value)).collect();
    let mut state = serde_json::json!({
        "ociVersion": OCI_VERSION,
        "id": format!("rootfs-{}", context.pid),
        "status": point.status(),
        "annotations": annotations,
    });
    for (name, value) in [("bundle", bundle), ("root", root)] {
        if let Some(value) = value {
            state[name] = value.into();
        }
    }
    // A number that may belong to somebody else by now is of no use.
    if point != HookPoint::Poststop {
        state["pid"] = context.pid.into();
    }
    state.to_string().into_bytes()
}

/// The error of a hook: which one by its point and place among those of that point.
pub(crate) fn failure(plan: &Plan, hook: &Hook, what: &str) -> Box<Error> {
    let point = hook.point.name();
    let index = plan.hooks_at(hook.point).position(|other| std::ptr::eq(other, hook)).unwrap_or(0);
    let mut error = Error::new(ErrorCode::Hook, format!("hook {point}[{index}] {}: {what}", hook.path));
    error.source = Some(hook.path.clone());
    error
}

/// Runs the programs of a point in the caller's namespaces, one after the other. What failed: a poststart hook that fails is
/// the last, and poststop hooks are all run.
pub(crate) fn run_all(plan: &Plan, point: HookPoint, pid: i32) -> Vec<Error> {
    let root = match plan.root() {
        Some(Root::Directory(path)) => path.clone(),
        // It has no path on the host.
        _ => PathBytes::from("/"),
    };
    let context = Context { pid, directory: None, root: &root, plan, rights: None };
    let mut failures = Vec::new();
    for hook in plan.hooks_at(point).filter(|hook| hook.function.is_none()) {
        if let Err(error) = run(hook, &context) {
            failures.push(*error);
            if point == HookPoint::Poststart {
                break;
            }
        }
    }
    failures
}

/// A child of the supervisor that runs programs.
#[derive(Debug)]
pub(crate) struct Runner {
    /// The child.
    pub(crate) pidfd: OwnedFd,
    /// What it says at its end: a memory file.
    result: OwnedFd,
    /// What it runs.
    pub(crate) point: HookPoint,
}

impl Runner {
    /// Begins to run the programs of a point.
    pub(crate) fn begin(payload: &OwnedFd, point: HookPoint, pid: i32) -> Result<Self> {
        let what = |text: String| {
            Error::new(ErrorCode::Hook, format!("{} hooks can't be run: {text}", point.name()))
        };
        let result = rustix::fs::memfd_create(c"rootfs-hooks", MemfdFlags::CLOEXEC)
            .map_err(|errno| what(SysError::new("memfd_create", errno, "\"rootfs-hooks\"").to_string()))?;
        let fork = process::fork(process::CloneRequest::default()).map_err(|call| what(call.to_string()))?;
        let process::Fork::Parent { pidfd, .. } = fork else {
            let _ = process::die_with_parent();
            process::set_name(c"rootfs-hooks");
            let mut keep = [payload, &result].map(AsRawFd::as_raw_fd);
            keep.sort_unstable();
            process::close_all_but(3, &keep);
            let failures = match crate::first_process::read_payload(payload) {
                Ok(payload) => run_all(&payload.plan, point, pid),
                Err(error) => vec![*error],
            };
            let written = rustix::io::write(&result, &protocol::encode(&failures));
            process::exit(i32::from(written.is_err()))
        };
        Ok(Self { pidfd, result, point })
    }

    /// What failed, when the child has ended.
    pub(crate) fn failures(&self) -> Vec<Error> {
        let ended = process::wait_for(self.pidfd.as_fd());
        let said = memfd::read(&self.result, 1 << 20).ok().and_then(|bytes| protocol::decode(&bytes).ok());
        match (ended, said) {
            (Ok(Exit::Code(0)), Some(failures)) => failures,
            _ => vec![*Error::new(ErrorCode::Hook, format!("the {} hooks were killed", self.point.name()))],
        }
    }

    /// Waits for its end as long as this, then kills it.
    pub(crate) fn end_within(&self, seconds: u32) {
        if !wait(self.pidfd.as_fd(), Some(seconds)) {
            process::kill(self.pidfd.as_fd());
        }
        let _ = process::wait_for(self.pidfd.as_fd());
    }
}

/// Runs a hook and waits until it has ended.
pub(crate) fn run(hook: &Hook, context: &Context<'_>) -> Result<()> {
    let fail = |what: &str| failure(context.plan, hook, what);
    let input = memfd::sealed(c"rootfs-state", &state(hook.point, context), false)
        .map_err(|call| fail(&call.to_string()))?;
    let capture = || {
        rustix::fs::memfd_create(c"rootfs-hook-output", MemfdFlags::CLOEXEC).map_err(|errno| {
            fail(&SysError::new("memfd_create", errno, "\"rootfs-hook-output\"").to_string())
        })
    };
    let (output, errors) = (capture()?, capture()?);
    let (report, child_report) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|errno| fail(&SysError::new("pipe2", errno, "O_CLOEXEC").to_string()))?;
    let fork = process::fork(process::CloneRequest::default()).map_err(|call| fail(&call.to_string()))?;
    let process::Fork::Parent { pid, pidfd } = fork else {
        execute(hook, context, [input.as_fd(), output.as_fd(), errors.as_fd()], child_report.as_fd());
    };
    drop(child_report);
    let in_time = wait(pidfd.as_fd(), hook.timeout);
    if !in_time {
        process::kill(pidfd.as_fd());
        // What it has begun too: it leads a group of its own.
        process::kill_group(pid);
    }
    let exit = process::wait_for(pidfd.as_fd()).map_err(|call| fail(&call.to_string()))?;
    let mut start_failure = [0; PIPE_BUF];
    let length = rustix::io::read(&report, &mut start_failure).unwrap_or(0);
    if length > 0 {
        let (text, hint): (String, Option<String>) = protocol::decode(&start_failure[..length])
            .map_err(|_| fail("its failure to start can't be read"))?;
        let error = fail(&text);
        return Err(match hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        });
    }
    if !in_time {
        let seconds = hook.timeout.unwrap_or_default();
        return Err(fail(&format!("did not end within {seconds} s{}", said(&output, &errors))));
    }
    match exit {
        Exit::Code(0) => Ok(()),
        Exit::Code(code) => Err(fail(&format!("exit status {code}{}", said(&output, &errors)))),
        Exit::Signal(signal) => Err(fail(&format!("killed by signal {signal}{}", said(&output, &errors)))),
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
    let error = become_hook(hook, context, streams, report);
    let mut text = error.message;
    // So that the hint fits beside it.
    text.truncate(text.floor_char_boundary(PIPE_BUF / 2));
    let _ = rustix::io::write(report, &protocol::encode(&(text, error.hint)));
    process::exit(127)
}

/// Becomes the program. Returns only when that failed.
fn become_hook(
    hook: &Hook,
    context: &Context<'_>,
    streams: [BorrowedFd<'_>; 3],
    report: BorrowedFd<'_>,
) -> Box<Error> {
    if let Some(directory) = context.directory
        && let Err(errno) = rustix::process::fchdir(directory)
    {
        let what = format!("its working directory {} can't be entered: fchdir: {errno}", context.root);
        return Error::new(ErrorCode::Hook, what);
    }
    for (number, stream) in (0..).zip(streams) {
        if let Err(call) = process::duplicate_to(stream, number) {
            return Error::new(ErrorCode::Hook, call.to_string());
        }
    }
    let _ = process::new_session();
    // Whoever waits for it may be killed, and then nobody wants it any more.
    let follow = || {
        let _ = process::die_with_parent();
    };
    let mut own_env = &hook.env[..];
    if let Some(rights) = context.rights {
        if let Err(error) = lsm::confine(rights.kernel, rights.process) {
            return error;
        }
        // Once it is the user it may be looked into by others of that user: for real, not only with the execution.
        process::close_all_but(3, &[report.as_raw_fd()]);
        let taken = rights.take(|| {
            follow();
            Ok(())
        });
        if let Err(error) = taken {
            return error;
        }
        if own_env.is_empty() {
            own_env = &rights.process.env;
        }
    } else {
        follow();
        process::set_umask(0o022);
    }
    process::unblock_signals();
    // Every other descriptor is close-on-exec.
    let path = CString::from(&hook.path);
    let mut args = strings(&hook.args);
    if args.is_empty() {
        args.push(path.clone());
    }
    let call = process::execute(&path, &args, &strings(own_env));
    // A filter may kill whoever looks further.
    let filtered = context.rights.is_some_and(|rights| rights.process.seccomp.is_some());
    let reason = if filtered { None } else { why_not_executed(&path, &call) };
    match reason {
        Some(reason) => reason.explain("it can't be executed", &call),
        None => Error::new(ErrorCode::Hook, call.to_string()),
    }
}
