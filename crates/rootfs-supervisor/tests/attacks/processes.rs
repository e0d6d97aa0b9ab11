//! Attacks on the processes of a container and of the supervisor: by neighbours that trace, by what is sent, and from inside
//! on the caller's terminal.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use rootfs::namespace::NamespaceKind;
use rootfs::protocol::{self, Exit, FrameError, Kind};
use rootfs::spec::{Hook, HookPoint, Namespace, RootfsSpec, UserNamespace};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::net::SendFlags;
use rustix::thread::CapabilitySet;

use super::ground::Ground;
use super::list::{Check, Control, Expect, Stage, Staged, container, staged};
use super::support::{self, Cell, Running, Supervisor, bind, default_spec, shell};

// ---------------------------------------------------------------- tracing

/// Tries, until it is killed, to trace and to read the processes of ours that execute nothing of the container yet: in the user
/// namespace of `target` with all capabilities, or as root without `CAP_SYS_PTRACE`. Fails when it can.
pub fn snoop(target: &str, parents: &[String]) -> ExitCode {
    let namespace = |of: &str| fs::read_link(format!("/proc/{of}/ns/user")).unwrap();
    if namespace(target) == namespace("self") {
        let mut sets = rustix::thread::capabilities(None).unwrap();
        for set in [&mut sets.effective, &mut sets.permitted, &mut sets.inheritable] {
            set.remove(CapabilitySet::SYS_PTRACE);
        }
        rustix::thread::set_capabilities(None, sets).unwrap();
    } else {
        let file = fs::File::open(format!("/proc/{target}/ns/user")).unwrap();
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWUSER).unwrap();
        nix::unistd::setgid(0.into()).unwrap();
        nix::unistd::setuid(0.into()).unwrap();
        assert!(rustix::thread::capabilities(None).unwrap().effective.contains(CapabilitySet::SYS_PTRACE));
    }
    let parents: Vec<i32> = parents.iter().map(|pid| pid.parse().unwrap()).collect();
    println!("ready");
    loop {
        let last = fs::read_to_string("/proc/loadavg").unwrap();
        let last: i32 = last.trim().rsplit_once(' ').unwrap().1.parse().unwrap();
        for pid in parents.iter().copied().chain(last - 20..last + 40) {
            if !is_ours(pid, &parents) {
                continue;
            }
            let Some(how) = got(pid) else { continue };
            // What it is after it has executed the command is the container's own.
            if is_ours(pid, &parents) {
                println!("{how}");
                return ExitCode::FAILURE;
            }
            let process = Pid::from_raw(pid);
            if ptrace::interrupt(process).is_ok() && waitpid(process, Some(WaitPidFlag::__WALL)).is_ok() {
                let _ = ptrace::detach(process, None);
            }
        }
    }
}

/// Whether a process is one of these or a child of one, and executes the supervisor's program.
fn is_ours(pid: i32, parents: &[i32]) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let Some((name, rest)) = stat.split_once(" (").and_then(|(_, rest)| rest.rsplit_once(") ")) else {
        return false;
    };
    let parent = rest.split(' ').nth(1).and_then(|parent| parent.parse().ok());
    name.starts_with("rootfs-")
        && (parents.contains(&pid) || parent.is_some_and(|parent| parents.contains(&parent)))
}

fn got(pid: i32) -> Option<String> {
    let what = |how: &str| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Some(format!("{how} of {}", name.trim()))
    };
    if fs::read_link(format!("/proc/{pid}/root")).is_ok() {
        return what("the root");
    }
    // Their numbers can be listed by who may list any directory; not what they are.
    if fs::read_link(format!("/proc/{pid}/fd/0")).is_ok() {
        return what("a descriptor");
    }
    if fs::File::open(format!("/proc/{pid}/mem")).is_ok() {
        return what("the memory");
    }
    let process = Pid::from_raw(pid);
    ptrace::seize(process, ptrace::Options::empty()).is_ok().then(|| what("a trace")).flatten()
}

/// What a naive program is before it executes the command: dumpable, with the command's rights.
pub fn naive_first_process() -> ExitCode {
    let sets = rustix::thread::CapabilitySets {
        effective: CapabilitySet::CHOWN,
        permitted: CapabilitySet::CHOWN,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets).unwrap();
    nix::sys::prctl::set_name(c"rootfs-naive").unwrap();
    println!("ready");
    let _ = std::io::stdin().read(&mut [0]);
    ExitCode::SUCCESS
}

struct Snooper(Child);

impl Drop for Snooper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Snooper {
    fn start(target: i32, parents: &[i32]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("--snoop").arg(target.to_string()).args(parents.iter().map(i32::to_string));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        assert_eq!(first_line(&mut child), "ready\n");
        Self(child)
    }

    /// Whether it has got nothing.
    fn end(mut self) -> Result<(), String> {
        if self.0.try_wait().unwrap().is_none() {
            return Ok(());
        }
        let mut said = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        Err(format!("a neighbour has {}", said.trim()))
    }
}

fn first_line(child: &mut Child) -> String {
    // A byte at a time, to leave the rest.
    let mut line = String::new();
    BufReader::with_capacity(1, child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    line
}

fn prepared(
    supervisor: &mut Supervisor,
    ground: &Ground,
    spec: &RootfsSpec,
    joins: &[(NamespaceKind, OwnedFd)],
) -> Result<Running, String> {
    let running = supervisor
        .begin_joining(ground.cell, spec, None, ground.level, joins)
        .map_err(|error| error.to_string())?;
    let frame = running.receive().map_err(|error| error.to_string())?;
    if frame.kind == Kind::Ready {
        return Ok(running);
    }
    let error: rootfs::error::Error = frame.decode().map_err(|error| error.to_string())?;
    Err(error.to_string())
}

/// How often each of them is begun while somebody tries to get at it.
const TRACED: u64 = 25;

pub fn neighbour_ptrace(_: &Ground, variant: &str) -> Stage {
    let variant = variant.to_owned();
    let ours: Check = Box::new(move |ground| {
        let mut supervisor = Supervisor::start(ground.cell);
        let helper = i32::try_from(supervisor.child.id()).unwrap();
        let spec = default_spec(&ground.root);
        let first = prepared(&mut supervisor, ground, &spec, &[])?;
        let snooper = Snooper::start(first.pid, &[helper, first.pid]);
        if variant == "commands" {
            for id in 0..TRACED {
                let ended = support::command(&first, id + 1, "true").0;
                assert_eq!(ended, Exit::Code(0));
            }
            return snooper.end();
        }
        let mut spec = spec;
        let mut kinds = Vec::new();
        if ground.cell != Cell::Root {
            kinds.push((NamespaceKind::User, "user"));
            spec.namespaces.user = UserNamespace::Path("/box".into());
        }
        if variant != "hooks" {
            kinds.push((NamespaceKind::Pid, "pid"));
            spec.namespaces.pid = Namespace::Path("/box".into());
        }
        if variant == "hooks" {
            spec.hooks.push(Hook {
                function: None,
                point: HookPoint::CreateContainer,
                path: "/bin/sleep".into(),
                args: ["sleep", "0.02"].map(|arg| arg.as_bytes().to_vec()).to_vec(),
                env: Vec::new(),
                timeout: None,
            });
        }
        for _ in 0..TRACED {
            let joins: Vec<(NamespaceKind, OwnedFd)> = kinds
                .iter()
                .map(|(kind, name)| {
                    let path = format!("/proc/{}/ns/{name}", first.pid);
                    (*kind, rustix::fs::openat(CWD, path, OFlags::CLOEXEC, Mode::empty()).unwrap())
                })
                .collect();
            let running = prepared(&mut supervisor, ground, &spec, &joins)?;
            supervisor.close(running.id);
            supervisor.finish(&running);
        }
        snooper.end()
    });
    let control: Check = Box::new(|_| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("--naive-first-process").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut first = command.spawn().unwrap();
        assert_eq!(first_line(&mut first), "ready\n");
        let pid = i32::try_from(first.id()).unwrap();
        let mut snooper = Snooper::start(pid, &[pid]);
        let _ = snooper.0.wait();
        let result = snooper.end();
        drop(first.stdin.take());
        first.wait().unwrap();
        result
    });
    Stage::Direct(ours, control)
}

// ---------------------------------------------------------------- the terminal

nix::ioctl_write_ptr_bad!(type_character, nix::libc::TIOCSTI, nix::libc::c_char);
nix::ioctl_write_ptr_bad!(console_request, 0x541C, nix::libc::c_char);

/// Types into the terminal that is its input; says what the kernel says.
pub fn type_into_terminal() -> ExitCode {
    #[expect(unsafe_code, reason = "there is no safe form of either")]
    // SAFETY: both read one byte, which is there.
    let (typed, pasted) = unsafe { (type_character(0, &b'x'.cast_signed()), console_request(0, &3)) };
    let word = |result: nix::Result<i32>| result.map_or_else(|errno| errno.to_string(), |_| "done".into());
    println!("TIOCSTI {} TIOCLINUX {}", word(typed), word(pasted));
    ExitCode::SUCCESS
}

fn waiting_input(terminal: &OwnedFd) -> u64 {
    rustix::io::ioctl_fionread(terminal).unwrap()
}

pub fn terminal_input(ground: &Ground, variant: &str) -> Stage {
    let terminal = nix::pty::openpty(None, None).unwrap();
    // What is typed is there at once, and not first at the end of a line.
    let mut settings = rustix::termios::tcgetattr(&terminal.slave).unwrap();
    settings.make_raw();
    rustix::termios::tcsetattr(&terminal.slave, rustix::termios::OptionalActions::Now, &settings).unwrap();
    let program = ground.scratch.0.join("attacker");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut spec = default_spec(&ground.root);
    for place in ["/lib", "/lib64", "/usr"].into_iter().filter(|place| Path::new(place).exists()) {
        spec.add(bind(Path::new(place), place));
    }
    spec.add(bind(&program, "/attacker"));
    let slave = terminal.slave.try_clone().unwrap();
    let stdin = terminal.slave.try_clone().unwrap();
    let starter = if variant == "its controlling terminal" {
        let path = nix::unistd::ttyname(&terminal.slave).unwrap();
        // The leader of a session gets the first terminal that it opens.
        format!("/usr/bin/setsid /bin/sh -c 'exec 4<>{}; exec \"$@\"' sh", path.display())
    } else {
        String::new()
    };
    let check = Box::new(move |_: &Ground, text: &str| {
        let refused = text.starts_with("TIOCSTI E") && text.contains("TIOCLINUX E");
        match waiting_input(&slave) {
            0 if refused => Ok(()),
            count => Err(format!("{count} bytes were typed: {text:?}")),
        }
    });
    let slave = terminal.slave;
    let control = Box::new(move |_: &Ground| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("--type-into-terminal").stdin(slave.try_clone().unwrap()).stdout(Stdio::null());
        command.status().unwrap();
        match waiting_input(&slave) {
            0 => Ok(()),
            count => Err(format!("{count} bytes were typed")),
        }
    });
    container(Staged {
        script: "/attacker --type-into-terminal".into(),
        expect: Expect::Runs,
        check: Some(check),
        control: Control::Naive(Some(control)),
        starter,
        stdin: Some(stdin),
        held: vec![terminal.master],
        ..staged(spec)
    })
}

// ---------------------------------------------------------------- what is sent

const LONG: usize = (1 << 16) + 24;

/// A frame, and how many descriptors come with it.
fn wrong_frame(variant: &str) -> (Vec<u8>, usize) {
    let good = protocol::frame_bytes(Kind::Close, 7, b"body", 0);
    let with = |from: usize, bytes: &[u8]| {
        let mut frame = good.clone();
        frame[from..from + bytes.len()].copy_from_slice(bytes);
        frame
    };
    let frame = match variant {
        "nonsense" => b"\0nonsense".to_vec(),
        "shorter than a header" => good[..23].to_vec(),
        "another magic" => with(0, b"RTFX"),
        "another version" => with(4, &[0xff, 0xff]),
        "an unknown kind" => with(6, &[0xff, 0x7f]),
        "a longer body" => with(16, &u32::MAX.to_le_bytes()),
        "a shorter body" => with(16, &[1, 0, 0, 0]),
        "missing descriptors" => with(20, &[3, 0, 0, 0]),
        "more descriptors" => return (good, 5),
        "a kind of the other side" => protocol::frame_bytes(Kind::Exited, 7, b"", 0),
        "too long" => protocol::frame_bytes(Kind::Close, 7, &vec![0; protocol::MAX_BODY + 1], 0),
        _ => protocol::frame_bytes(Kind::Start, 7, &[0xff; 64], 0),
    };
    (frame, 0)
}

/// Sends bytes in the name of the user whose supervisor it is.
fn send_raw(socket: &OwnedFd, bytes: &[u8], fds: usize, cell: Cell) {
    let null = fs::File::open("/dev/null").unwrap();
    let fds = vec![null.as_fd(); fds];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16), ScmCredentials(1))];
    let mut ancillary = rustix::net::SendAncillaryBuffer::new(&mut space);
    let id = if cell.privileged() { 0 } else { support::NOBODY };
    let sender = rustix::net::UCred {
        pid: rustix::process::getpid(),
        uid: rustix::fs::Uid::from_raw(id),
        gid: rustix::fs::Gid::from_raw(id),
    };
    assert!(ancillary.push(rustix::net::SendAncillaryMessage::ScmCredentials(sender)));
    assert!(fds.is_empty() || ancillary.push(rustix::net::SendAncillaryMessage::ScmRights(&fds)));
    rustix::net::sendmsg(socket, &[std::io::IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)
        .unwrap();
}

/// Whether the other side has ended the connection, and said nothing on it but of the ends of containers.
fn ended(socket: &OwnedFd) -> Result<(), String> {
    let patience = Some(std::time::Duration::from_secs(2));
    rustix::net::sockopt::set_socket_timeout(socket, rustix::net::sockopt::Timeout::Recv, patience).unwrap();
    loop {
        match protocol::receive(socket) {
            Err(FrameError::Closed) => return Ok(()),
            Ok(frame)
                if matches!(
                    frame.kind,
                    Kind::Spare | Kind::Exited | Kind::Closed | Kind::Failed | Kind::Refused
                ) => {}
            other => return Err(format!("{other:?}")),
        }
    }
}

pub fn wrong_frames(_: &Ground, variant: &str) -> Stage {
    let (ours, naive) = (variant.to_owned(), variant.to_owned());
    Stage::Direct(
        Box::new(move |ground| {
            let mut supervisor = Supervisor::start(ground.cell);
            let first = prepared(&mut supervisor, ground, &default_spec(&ground.root), &[])?;
            if ours == "a length that wraps" {
                // Longer than 16 bits, and what it would be cut to is no argument of its own.
                let mut spec = shell("echo ${#0} $#");
                spec.args.push(vec![b'a'; LONG]);
                let said = support::process(&first, 1, &spec).1;
                return if said == format!("{LONG} 0\n") { Ok(()) } else { Err(said) };
            }
            let (bytes, fds) = wrong_frame(&ours);
            // To a first process: it ends, and what it is connected to goes on.
            if bytes.len() <= protocol::MAX_BODY {
                send_raw(&first.node, &bytes, fds, ground.cell);
                ended(&first.node)?;
                supervisor.finish(&first);
            }
            let second = prepared(&mut supervisor, ground, &default_spec(&ground.root), &[])?;
            send_raw(&supervisor.socket, &bytes, fds, ground.cell);
            if ours == "a body that is none" {
                // A request that is wrong in a frame that is right: only that is refused.
                let refused = supervisor.receive(7);
                return if refused.kind == Kind::Refused { Ok(()) } else { Err(format!("{refused:?}")) };
            }
            ended(&supervisor.socket)?;
            if support::exit_of(&second.pidfd) {
                Ok(())
            } else {
                Err("a container is there after the supervisor".into())
            }
        }),
        // One that believes what it reads: an index past the end, and lengths of 16 bits.
        Box::new(move |_| {
            let bytes = if naive == "a length that wraps" { vec![b'a'; LONG] } else { wrong_frame(&naive).0 };
            let length = u16::try_from(bytes.len() & 0xffff).unwrap();
            if usize::from(length) != bytes.len() {
                return Err("cut".into());
            }
            let said = bytes.get(16..20).map(|length| u32::from_le_bytes(length.try_into().unwrap()));
            match said {
                Some(said) if bytes.get(24..24 + said as usize).is_some() => Err("believed".into()),
                _ => Err("read past the end".into()),
            }
        }),
    )
}
