//! Finds out what this host allows its caller, by trying it. Each trial is a child process of its own: what it makes,
//! namespaces, mounts and descriptors, is gone with it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rootfs::Hint;
use rootfs::error::{SysError, SysResult};
use rootfs::kernel::classic::Classic;
use rootfs::kernel::linux::{Linux, become_stub, can_assemble_detached, read_to_end};
use rootfs::kernel::process::{self, CloneRequest, namespaces};
use rootfs::kernel::{Kernel, host, trial, without_pidfds};
use rootfs::mountinfo;
use rootfs::options::Propagation;
use rootfs::path::PathBytes;
use rootfs::protocol::{self, Exit, Kind};
use rootfs::spec::{IdMap, IdMapping};
use rootfs::support::{Feature, Finding, Refusal};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::idmap;

type Outcome = Result<(), Refusal>;

/// A trial that takes longer is ended: something holds it up.
const PATIENCE: Duration = Duration::from_secs(3);

/// Tries everything and says what was found. The exit status.
pub(crate) fn run(socket: &OwnedFd) -> i32 {
    let caller = Caller::new();
    let findings: Vec<Finding> = Feature::ALL
        .iter()
        .filter_map(|feature| {
            let outcome = caller.trial(*feature)?;
            Some(Finding { feature: *feature, refusal: outcome.err() })
        })
        .collect();
    i32::from(protocol::send(socket, Kind::Probed, 0, &protocol::encode(&findings), &[]).is_err())
}

/// Who probes.
struct Caller {
    /// Whether he has rights over the host.
    privileged: bool,
    uid: u32,
    gid: u32,
}

fn flags(list: &[i32]) -> u64 {
    list.iter().map(|flag| u64::from(flag.cast_unsigned())).sum()
}

/// Runs a trial in a child with new namespaces.
fn in_child(request: CloneRequest<'_>, work: impl FnOnce() -> Outcome) -> Outcome {
    let user_namespace = request.namespaces & flags(&[namespaces::USER]) != 0;
    let (report, child_report) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|errno| SysError::new("pipe2", errno, "O_CLOEXEC"))?;
    let fork = process::fork(request)
        .map_err(|call| Refusal::of_call(&call, Hint::of_clone(&call, user_namespace)))?;
    let process::Fork::Parent { pidfd, .. } = fork else {
        let _ = process::die_with_parent();
        let outcome = work();
        let _ = rustix::io::write(&child_report, &protocol::encode(&outcome));
        process::exit(0);
    };
    drop(child_report);
    let in_time = process::is_readable_within(report.as_fd(), Some(PATIENCE));
    if !in_time {
        process::kill(pidfd.as_fd());
    }
    let answer = read_to_end(report.as_fd()).unwrap_or_default();
    let exit = process::wait_for(pidfd.as_fd());
    match protocol::decode(&answer) {
        Ok(outcome) => outcome,
        Err(_) if !in_time => {
            Err(Refusal::new(format!("the trial did not end within {} s", PATIENCE.as_secs())))
        }
        Err(_) => Err(Refusal::new(match exit {
            Ok(Exit::Signal(31)) => "a seccomp filter kills the process that tries it (SIGSYS)".to_owned(),
            Ok(Exit::Signal(signal)) => format!("the process that tries it is killed by signal {signal}"),
            _ => "the process that tries it ends without a word".to_owned(),
        })),
    }
}

/// A child in a new user namespace that has done something there, and then stays until it is killed.
fn held_in_user_namespace(work: impl FnOnce() -> SysResult<()>) -> Result<(i32, OwnedFd), Refusal> {
    let (ready, child_ready) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|errno| SysError::new("pipe2", errno, "O_CLOEXEC"))?;
    let request = CloneRequest { namespaces: flags(&[namespaces::USER]), cgroup: None };
    let fork = process::fork(request).map_err(|call| Refusal::of_call(&call, Hint::of_clone(&call, true)))?;
    let process::Fork::Parent { pid, pidfd } = fork else {
        let _ = process::die_with_parent();
        let outcome: Outcome = work().map_err(Refusal::from);
        let _ = rustix::io::write(&child_ready, &protocol::encode(&outcome));
        drop(child_ready);
        loop {
            Linux::default().pause(1000);
        }
    };
    drop(child_ready);
    let answer = read_to_end(ready.as_fd())?;
    match protocol::decode::<Outcome>(&answer) {
        Ok(Ok(())) => Ok((pid, pidfd)),
        refused => {
            process::kill(pidfd.as_fd());
            let _ = process::wait_for(pidfd.as_fd());
            let silent = || Refusal::new("a process in a new user namespace ends without a word");
            Err(refused.ok().and_then(Result::err).unwrap_or_else(silent))
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a probe makes no container; constant paths of its own process and of the host"
)]
fn write_own(name: &str, content: &str) -> SysResult<()> {
    let path = format!("/proc/self/{name}");
    rustix::fs::open(&*path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        .and_then(|file| rustix::io::write(&file, content.as_bytes()))
        .map(drop)
        .map_err(|errno| SysError::new("write", errno, format!("{path:?}, {content:?}")))
}

/// A new tmpfs, detached.
fn tmpfs(kernel: &Linux) -> SysResult<OwnedFd> {
    let context = kernel.open_filesystem("tmpfs")?;
    kernel.mount_filesystem(context.as_fd(), 0)
}

/// Makes a filesystem that only shows what namespaces have.
fn pseudo_filesystem(fstype: &str, hint: Option<Hint>) -> Outcome {
    let kernel = Linux::default();
    let made = kernel
        .open_filesystem(fstype)
        .and_then(|context| kernel.mount_filesystem(context.as_fd(), 0).map(drop));
    made.map_err(|call| {
        let denied = call.errno == Errno::PERM.raw_os_error();
        Refusal::of_call(&call, hint.filter(|_| denied))
    })
}

/// Makes an overlay of directories in a tmpfs, in a mount namespace that is this process's own, as containers make theirs.
fn overlay() -> Outcome {
    let linux = Linux::default();
    linux.set_root_propagation(Propagation::RPRIVATE)?;
    if trial::mount_api().is_ok() {
        return overlay_by(&linux, |_| PathBytes::from(""));
    }
    // mount(2) is called in another directory.
    let below = |tmpfs: &OwnedFd| PathBytes::from(format!("/proc/self/fd/{}/", tmpfs.as_raw_fd()).as_str());
    overlay_by(&Classic::begin(&linux, true)?, below)
}

fn overlay_by(kernel: &dyn Kernel, below: impl FnOnce(&OwnedFd) -> PathBytes) -> Outcome {
    let tmpfs =
        kernel.open_filesystem("tmpfs").and_then(|context| kernel.mount_filesystem(context.as_fd(), 0))?;
    // Some kernels take no layers of a detached mount.
    let slash = kernel.open_host(&"/".into(), true, false)?;
    kernel.attach(tmpfs.as_fd(), slash.as_fd())?;
    for name in ["lower", "upper", "work"] {
        kernel.make_directory(tmpfs.as_fd(), &name.into(), 0o755)?;
    }
    rustix::process::fchdir(&tmpfs).map_err(|errno| SysError::new("fchdir", errno, "a tmpfs"))?;
    let below = below(&tmpfs);
    let context = kernel.open_filesystem("overlay")?;
    for (key, value) in [("lowerdir", "lower"), ("upperdir", "upper"), ("workdir", "work")] {
        kernel.set_filesystem_option(context.as_fd(), key, &format!("{below}{value}").as_str().into())?;
    }
    kernel.mount_filesystem(context.as_fd(), 0).map(drop).map_err(|call| {
        let mut refusal = Refusal::from(call);
        for line in kernel.filesystem_log(context.as_fd()) {
            refusal.reason += "; kernel: ";
            refusal.reason += &line;
        }
        refusal
    })
}

impl Caller {
    fn new() -> Self {
        Self {
            privileged: process::has_capability(process::CAP_SYS_ADMIN),
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        }
    }

    /// What comes of trying; `None` for what only Node can try.
    fn trial(&self, feature: Feature) -> Option<Outcome> {
        Some(match feature {
            Feature::Supervisor | Feature::MemfdExec => return None,
            Feature::Pidfd if without_pidfds::are_needed() => Err(Refusal::from(process::no_pidfds())),
            Feature::Pidfd => in_child(CloneRequest::default(), || Ok(())),
            Feature::MountApi => self.with_mounts(|| {
                trial::mount_api().map_err(|call| Refusal::of_call(&call, Some(Hint::NoMountApi)))
            }),
            Feature::DetachedMounts => self.with_mounts(|| match can_assemble_detached() {
                Ok(true) => Ok(()),
                Ok(false) => Err(Refusal {
                    reason: "move_mount refuses to mount on a detached mount".to_owned(),
                    hint: Some(Hint::NoDetachedTree.into()),
                }),
                Err(call) => Err(Refusal::of_call(&call, Some(Hint::NoMountApi))),
            }),
            Feature::OpenTreeAttr => self.with_mounts(|| Ok(trial::copy_with_attributes()?)),
            Feature::Statmount => in_child(CloneRequest::default(), || Ok(trial::statmount()?)),
            Feature::Openat2 => in_child(CloneRequest::default(), || Ok(trial::openat2()?)),
            Feature::StubNamespace => stub_namespace(),
            Feature::CloneIntoCgroup => clone_into_cgroup(),
            Feature::Cgroup2 => cgroup2(),
            Feature::IdmappedMounts => self.idmapped_mounts(),
            Feature::Overlay => self.with_new_mounts(overlay),
            Feature::UserNamespaces => self.as_mapped_root(&[namespaces::MOUNT], || {
                // Where AppArmor restricts them, they can be made and give no rights.
                trial::mount_api().map_err(|call| Refusal::of_call(&call, Hint::of_clone(&call, true)))
            }),
            Feature::IdRanges => self.id_ranges(),
            Feature::OverlayInUserNamespace => self.as_mapped_root(&[namespaces::MOUNT], overlay),
            Feature::ProcInUserNamespace => self
                .as_mapped_root(&[namespaces::MOUNT, namespaces::PID], || {
                    pseudo_filesystem("proc", Some(Hint::MaskedProc))
                }),
            Feature::SysfsInUserNamespace => self
                .as_mapped_root(&[namespaces::MOUNT, namespaces::NETWORK], || {
                    pseudo_filesystem("sysfs", None)
                }),
            Feature::PidNamespaces => self.namespace(namespaces::PID),
            Feature::IpcNamespaces => self.namespace(namespaces::IPC),
            Feature::UtsNamespaces => self.namespace(namespaces::UTS),
            Feature::CgroupNamespaces => self.namespace(namespaces::CGROUP),
            Feature::NetworkNamespaces => self.namespace(namespaces::NETWORK),
            Feature::Seccomp => in_child(CloneRequest::default(), || Ok(trial::filter()?)),
            Feature::AppArmor => security_module("AppArmor", "/sys/module/apparmor/parameters/enabled", "Y"),
            Feature::Selinux => selinux(),
        })
    }

    /// The namespace as a container of this caller's would get it.
    fn namespace(&self, kind: i32) -> Outcome {
        let list = if self.privileged { vec![kind] } else { vec![namespaces::USER, kind] };
        in_child(CloneRequest { namespaces: flags(&list), cgroup: None }, || Ok(()))
    }

    /// In a process that may make mounts which nobody sees.
    fn with_mounts(&self, work: impl FnOnce() -> Outcome) -> Outcome {
        if self.privileged {
            in_child(CloneRequest::default(), work)
        } else {
            self.as_mapped_root(&[namespaces::MOUNT], work)
        }
    }

    /// The same, in a mount namespace of its own.
    fn with_new_mounts(&self, work: impl FnOnce() -> Outcome) -> Outcome {
        if self.privileged {
            in_child(CloneRequest { namespaces: flags(&[namespaces::MOUNT]), cgroup: None }, work)
        } else {
            self.as_mapped_root(&[namespaces::MOUNT], work)
        }
    }

    /// As root of a new user namespace, which is the caller outside.
    fn as_mapped_root(&self, others: &[i32], work: impl FnOnce() -> Outcome) -> Outcome {
        let namespaces = flags(others) | flags(&[namespaces::USER]);
        in_child(CloneRequest { namespaces, cgroup: None }, || {
            self.map_own_ids().map_err(|call| Refusal::of_call(&call, Hint::of_clone(&call, true)))?;
            work()
        })
    }

    /// In a new user namespace.
    fn map_own_ids(&self) -> SysResult<()> {
        // The files of a process that is not dumpable belong to the host's root.
        process::set_dumpable(true)?;
        write_own("setgroups", "deny")?;
        write_own("uid_map", &format!("0 {} 1\n", self.uid))?;
        write_own("gid_map", &format!("0 {} 1\n", self.gid))
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a probe makes no container; constant paths of its own process and of the host"
    )]
    fn idmapped_mounts(&self) -> Outcome {
        self.with_mounts(|| {
            let kernel = Linux::default();
            let caller = Self::new();
            let (pid, pidfd) = held_in_user_namespace(|| caller.map_own_ids())?;
            let path = format!("/proc/{pid}/ns/user");
            let tried = rustix::fs::open(&*path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|errno| SysError::new("open", errno, format!("{path:?}")))
                .and_then(|namespace| map_some_owners(&kernel, namespace.as_fd()));
            process::kill(pidfd.as_fd());
            let _ = process::wait_for(pidfd.as_fd());
            tried.map_err(|call| {
                let hint = match Errno::from_raw_os_error(call.errno) {
                    Errno::PERM => Some(Hint::IdmapDenied),
                    Errno::INVAL => Some(Hint::IdmapUnsupported),
                    _ => None,
                };
                Refusal::of_call(&call, hint)
            })
        })
    }

    fn id_ranges(&self) -> Outcome {
        let own = |host_id| IdMapping { container_id: 0, host_id, size: 1 };
        let (uids, gids) = if self.uid == 0 {
            (1, 1)
        } else {
            let first = self.first_subordinate("/etc/subuid").zip(self.first_subordinate("/etc/subgid"));
            first.ok_or_else(|| Refusal {
                reason: format!("/etc/subuid or /etc/subgid grant nothing to user {}", self.uid),
                hint: Some(Hint::NoSubordinateIds.into()),
            })?
        };
        let more = |host_id| IdMapping { container_id: 1, host_id, size: 1 };
        let map = IdMap { uids: vec![own(self.uid), more(uids)], gids: vec![own(self.gid), more(gids)] };
        in_child(CloneRequest::default(), || {
            // newuidmap writes to files of that process, which must be the caller's.
            let (pid, pidfd) = held_in_user_namespace(|| process::set_dumpable(true))?;
            let result = match idmap::writer(&map) {
                idmap::Writer::Helpers => idmap::run_helpers(pid, &map),
                writer => idmap::write(&Linux::default(), pid, &map, writer),
            };
            process::kill(pidfd.as_fd());
            let _ = process::wait_for(pidfd.as_fd());
            result.map_err(|error| Refusal { reason: error.message, hint: error.hint })
        })
    }

    /// The first id that a file grants the caller, by number or by name; subuid(5).
    fn first_subordinate(&self, file: &str) -> Option<u32> {
        let name = host::text("/etc/passwd").and_then(|text| {
            let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
            let number = self.uid.to_string();
            text.lines()
                .map(fields)
                .find(|fields| fields.get(2) == Some(&number))
                .map(|fields| fields[0].clone())
        });
        host::text(file)?.lines().find_map(|line| {
            let mut fields = line.split(':');
            let (who, first, count) = (fields.next()?, fields.next()?, fields.next()?);
            let own = who.parse() == Ok(self.uid) || Some(who) == name.as_deref();
            (own && count.parse::<u32>().is_ok_and(|count| count > 0)).then(|| first.parse().ok())?
        })
    }
}

/// Maps owners of a copy of the root's filesystem, or, where that can't be, of a tmpfs.
fn map_some_owners(kernel: &Linux, namespace: BorrowedFd<'_>) -> SysResult<()> {
    let slash = kernel.open_host(&"/".into(), true, false)?;
    // With what is mounted below: in a user namespace it can't be left out.
    let copy = kernel.clone_mount(slash.as_fd(), true)?;
    match trial::map_owners(copy.as_fd(), namespace) {
        Err(call) if call.errno == Errno::INVAL.raw_os_error() => {
            trial::map_owners(tmpfs(kernel)?.as_fd(), namespace)
        }
        other => other,
    }
}

fn stub_namespace() -> Outcome {
    let missing = [(process::CAP_SYS_ADMIN, "CAP_SYS_ADMIN"), (process::CAP_SYS_CHROOT, "CAP_SYS_CHROOT")]
        .into_iter()
        .find(|(number, _)| !process::has_capability(*number));
    if let Some((_, name)) = missing {
        return Err(Refusal {
            reason: format!("it needs {name}, which this process doesn't have"),
            hint: Some(Hint::StubRights.into()),
        });
    }
    in_child(CloneRequest::default(), || {
        let kernel = Linux::default();
        let entered = become_stub()
            .and_then(|stub| kernel.enter_root_by_stub(stub.as_fd(), tmpfs(&kernel)?.as_fd()))
            .map_err(|call| Refusal::of_call(&call, Some(Hint::StubKernel)))?;
        if entered {
            Ok(())
        } else {
            Err(Refusal {
                reason: "the mount namespace can't be entered again".to_owned(),
                hint: Some(Hint::StubKernel.into()),
            })
        }
    })
}

/// Where the caller's own cgroup v2 group is.
fn own_cgroup() -> Option<PathBytes> {
    let cgroups = Linux::default().own_cgroups().ok()?;
    let (_, path) = cgroups.into_iter().find(|(controllers, _)| controllers.is_empty())?;
    let table = host::text("/proc/self/mountinfo")?;
    let mount = mountinfo::parse(table.as_bytes()).into_iter().find(|entry| entry.fstype == "cgroup2")?;
    let below = path.as_path().strip_prefix(mount.root.as_path()).ok()?.to_owned();
    Some(mount.destination.join(PathBytes::from(&*below)))
}

fn clone_into_cgroup() -> Outcome {
    let Some(path) = own_cgroup() else {
        return Err(Refusal {
            reason: "no cgroup v2 is mounted in which this process is".to_owned(),
            hint: Some(Hint::NoOwnCgroup2.into()),
        });
    };
    let directory = Linux::default().open_host(&path, true, false)?;
    in_child(CloneRequest { namespaces: 0, cgroup: Some(directory.as_fd()) }, || Ok(())).map_err(|refusal| {
        Refusal {
            reason: format!("{}, with the caller's own cgroup {path}", refusal.reason),
            hint: Some(Hint::CgroupRefused.into()),
        }
    })
}

fn cgroup2() -> Outcome {
    const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;
    let kernel = Linux::default();
    let directory = kernel.open_host(&"/sys/fs/cgroup".into(), true, false)?;
    if kernel.filesystem_magic(directory.as_fd())? == CGROUP2_SUPER_MAGIC {
        return Ok(());
    }
    Err(Refusal {
        reason: "/sys/fs/cgroup is no cgroup2: this host has cgroup v1, or both (hybrid)".to_owned(),
        hint: Some(Hint::NoCgroup2.into()),
    })
}

fn security_module(name: &str, file: &str, active: &str) -> Outcome {
    match host::text(file) {
        Some(value) if value == active => Ok(()),
        Some(value) => Err(Refusal::new(format!("{name} is not active: {file} says {value:?}"))),
        None => Err(Refusal::new(format!("{name} is not active: there is no {file}{}", active_modules()))),
    }
}

fn selinux() -> Outcome {
    match host::text("/sys/fs/selinux/enforce") {
        Some(_) => Ok(()),
        None => Err(Refusal::new(format!(
            "SELinux is not active: there is no /sys/fs/selinux{}",
            active_modules()
        ))),
    }
}

fn active_modules() -> String {
    host::text("/sys/kernel/security/lsm").map(|list| format!("; active are {list}")).unwrap_or_default()
}
