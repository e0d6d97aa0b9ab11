//! The layers of an overlay, given to the kernel as descriptors: no path is looked up that somebody could change.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use pathrs::procfs::ProcfsBase;
use rustix::fs::{Mode, OFlags};
use rustix::mount::UnmountFlags;

use super::linux::{Linux, failed, from_pathrs, number};
use super::{Kernel, process};
use crate::error::{CallContext, Error, ErrorCode, Result, SysError, SysResult};
use crate::options::Propagation;
use crate::path::PathBytes;
use crate::protocol::{self, Answer, Kind};

/// How layers can be given, newest first. Later ways name them by their numbers in a proc of our own, whose `self/fd` is
/// the working directory meanwhile: nobody else can change what such a name means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// As descriptors; Linux 6.13.
    #[default]
    Descriptors,
    /// One name at a time; Linux 6.7.
    Names,
    /// All names in one string of at most 255 bytes.
    List,
    /// The same before Linux 6.5, which looks at no option before the filesystem is made.
    Late,
}

/// Whether an error can mean that the kernel doesn't know this way. It is known once it has taken the first layer.
fn unknown(errno: i32, done: usize) -> bool {
    done == 0 && [libc::EINVAL, libc::EBADF, libc::EOPNOTSUPP].contains(&errno)
}

pub(super) fn set_layers(
    kernel: &Linux,
    context: BorrowedFd<'_>,
    lower: &[BorrowedFd<'_>],
    upper: Option<(BorrowedFd<'_>, BorrowedFd<'_>)>,
) -> SysResult<()> {
    let others: Vec<(&str, BorrowedFd<'_>)> =
        upper.into_iter().flat_map(|(upper, work)| [("upperdir", upper), ("workdir", work)]).collect();
    let all: Vec<(&str, BorrowedFd<'_>)> =
        lower.iter().map(|fd| ("lowerdir+", *fd)).chain(others.iter().copied()).collect();
    let mut first = None;
    if kernel.layers.get() == Way::Descriptors {
        match each(&all, |key, fd| set_descriptor(context, key, fd)) {
            Err((call, done)) if unknown(call.errno, done) => first = Some(call),
            other => return other.map_err(|(call, _)| call),
        }
    }
    let by_name = |key: &str, fd| set_string(context, key, &number(fd));
    let result = in_own_descriptors(kernel, || {
        if kernel.layers.get() <= Way::Names && looks_late(kernel)? {
            kernel.layers.set(Way::Late);
        }
        if kernel.layers.get() <= Way::Names {
            match each(&all, by_name) {
                Ok(()) => {
                    kernel.layers.set(Way::Names);
                    return Ok(());
                }
                Err((call, done)) if unknown(call.errno, done) => {
                    first.get_or_insert(call);
                }
                Err((call, _)) => return Err(call),
            }
        }
        let list: Vec<String> = lower.iter().map(|fd| number(*fd)).collect();
        set_string(context, "lowerdir", &list.join(":"))?;
        if kernel.layers.get() == Way::Late {
            kernel.late_names.set(true);
        } else {
            kernel.layers.set(Way::List);
        }
        each(&others, by_name).map_err(|(call, _)| call)
    });
    // Where no way is known it was not the way that was wrong, and the newest says best what was.
    result.map_err(|call| if kernel.layers.get() >= Way::List { call } else { first.unwrap_or(call) })
}

/// Whether an option that there isn't is taken: then names mean something only when the filesystem is made.
fn looks_late(kernel: &Linux) -> SysResult<bool> {
    let trial = kernel.open_filesystem("overlay")?;
    Ok(set_string(trial.as_fd(), "no-such-option", "").is_ok())
}

/// Gives layers one after the other. With an error comes how many were taken.
fn each<'a>(
    layers: &[(&'a str, BorrowedFd<'a>)],
    set: impl Fn(&'a str, BorrowedFd<'a>) -> SysResult<()>,
) -> std::result::Result<(), (SysError, usize)> {
    for (done, (key, fd)) in layers.iter().enumerate() {
        set(key, *fd).map_err(|call| (call, done))?;
    }
    Ok(())
}

fn set_descriptor(context: BorrowedFd<'_>, key: &str, fd: BorrowedFd<'_>) -> SysResult<()> {
    rustix::mount::fsconfig_set_fd(context, key, fd).map_err(failed("fsconfig", || {
        format!("{}, FSCONFIG_SET_FD, \"{key}\", {}", number(context), number(fd))
    }))
}

fn set_string(context: BorrowedFd<'_>, key: &str, value: &str) -> SysResult<()> {
    rustix::mount::fsconfig_set_string(context, key, value).map_err(failed("fsconfig", || {
        format!("{}, FSCONFIG_SET_STRING, \"{key}\", \"{value}\"", number(context))
    }))
}

/// The directory of this process's descriptors in a proc that nobody else can mount on.
pub(super) fn own_descriptors(kernel: &Linux) -> SysResult<OwnedFd> {
    let flags = pathrs::flags::OpenFlags::O_PATH
        | pathrs::flags::OpenFlags::O_DIRECTORY
        | pathrs::flags::OpenFlags::O_CLOEXEC;
    kernel
        .procfs()?
        .open(ProcfsBase::ProcSelf, "fd", flags)
        .map(OwnedFd::from)
        .map_err(|error| from_pathrs(&error, &PathBytes::from("/proc/self/fd")))
}

/// Runs something with this process's descriptors as working directory.
pub(super) fn in_own_descriptors<T>(kernel: &Linux, work: impl FnOnce() -> SysResult<T>) -> SysResult<T> {
    let descriptors = own_descriptors(kernel)?;
    in_directory(descriptors.as_fd(), work)
}

/// Tests run in threads, and there is one working directory.
#[cfg(test)]
static WORKING_DIRECTORY: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// Runs something in another working directory, and comes back.
pub(super) fn in_directory<T>(
    directory: BorrowedFd<'_>,
    work: impl FnOnce() -> SysResult<T>,
) -> SysResult<T> {
    #[cfg(test)]
    let _alone = WORKING_DIRECTORY.lock();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let before = rustix::fs::openat(rustix::fs::CWD, c".", flags, Mode::empty())
        .map_err(failed("openat", || "\".\"".into()))?;
    rustix::process::fchdir(directory).map_err(failed("fchdir", || number(directory)))?;
    let result = work();
    rustix::process::fchdir(&before).map_err(failed("fchdir", || number(before.as_fd())))?;
    result
}

/// Detaches a mount by its own root, so that no path is needed.
#[expect(
    clippy::disallowed_methods,
    reason = "`.`, or a name of our own in a directory that was entered by its descriptor"
)]
pub(super) fn detach(mount: BorrowedFd<'_>) -> SysResult<()> {
    in_directory(mount, || {
        rustix::mount::unmount(c".", UnmountFlags::DETACH)
            .map_err(failed("umount2", || "\".\", MNT_DETACH".into()))
    })
}

pub(super) fn in_private_mounts(
    kernel: &Linux,
    work: &mut dyn FnMut() -> Result<OwnedFd>,
) -> Result<OwnedFd> {
    let what = || "a helper process with mounts of its own can't be had";
    let broken = |error: String| Error::new(ErrorCode::Supervisor, format!("{}: {error}", what()));
    let (ours, theirs) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|errno| broken(errno.to_string()))?;
    let fork = process::fork(process::CloneRequest::default()).context(ErrorCode::Supervisor, what)?;
    let process::Fork::Parent { pidfd, .. } = fork else {
        let result = kernel
            .new_mount_namespace()
            .and_then(|()| kernel.set_root_propagation(Propagation::RPRIVATE))
            .context(ErrorCode::Denied, what)
            .and_then(|()| work());
        let (answer, fd) = match result {
            Ok(fd) => (Answer::Done(()), Some(fd)),
            Err(error) => (Answer::Failed(error), None),
        };
        let fds: Vec<BorrowedFd<'_>> = fd.iter().map(AsFd::as_fd).collect();
        let _ = protocol::send(&theirs, Kind::Brokered, 0, &protocol::encode(&answer), &fds);
        process::exit(0);
    };
    drop(theirs);
    let frame = protocol::receive(&ours);
    let _ = process::wait_for(pidfd.as_fd());
    let frame = frame.map_err(|error| broken(error.to_string()))?;
    match frame.decode::<Answer<()>>() {
        Ok(Answer::Done(())) => {
            frame.fds.into_iter().next().ok_or_else(|| broken("it sent no descriptor".to_owned()))
        }
        Ok(Answer::Failed(error)) => Err(error),
        Err(error) => Err(broken(error.to_string())),
    }
}

/// The number of a descriptor as a C string, a name in [`own_descriptors`].
pub(super) fn name_of(fd: BorrowedFd<'_>) -> std::ffi::CString {
    std::ffi::CString::new(fd.as_raw_fd().to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs the rights to mount; nothing is attached anywhere.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test makes its own directories")]
    fn each_way_of_giving_layers_makes_the_same_overlay() {
        if !process::has_capability(process::CAP_SYS_ADMIN) {
            assert!(std::env::var_os("CI").is_none(), "cannot run: it has to run as root");
            eprintln!("skipped: it has to run as root");
            return;
        }
        let directory = std::env::temp_dir().join(format!("rootfs-layers-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let open = |name: &str| {
            let path = directory.join(name);
            std::fs::create_dir(&path).unwrap();
            std::fs::write(path.join("which"), name).unwrap();
            Linux::default().open_host(&path.into(), true, false).unwrap()
        };
        let [one, two, upper] = ["o:n,e", "two", "upper"].map(open);
        std::fs::remove_file(directory.join("upper/which")).unwrap();
        let found: Vec<String> = [Way::Descriptors, Way::Names, Way::List]
            .into_iter()
            .enumerate()
            .map(|(number, way)| {
                let kernel = Linux::default();
                kernel.layers.set(way);
                let work = open(&format!("work-{number}"));
                let context = kernel.open_filesystem("overlay").unwrap();
                let lower = [one.as_fd(), two.as_fd()];
                kernel
                    .set_overlay_layers(context.as_fd(), &lower, Some((upper.as_fd(), work.as_fd())))
                    .unwrap();
                let mount = kernel.mount_filesystem(context.as_fd(), 0).unwrap();
                let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                let file = rustix::fs::openat(&mount, c"which", flags, Mode::empty()).unwrap();
                String::from_utf8(super::super::linux::read_to_end(file.as_fd()).unwrap()).unwrap()
            })
            .collect();
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(found, ["o:n,e", "o:n,e", "o:n,e"]);
    }
}
