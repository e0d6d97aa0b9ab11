//! Opening a path under a root, for callers who only want that.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use rustix::fs::OFlags;

use crate::error::{Error, ErrorCode, Result, SysError};
use crate::execute::sources::open_root_directory;
use crate::kernel::linux::Linux;
use crate::kernel::open;
use crate::path::PathBytes;

/// How often is tried while something moves.
const MAX_TRIES: usize = 128;

/// Opens `path` under the directory `root`; `/` and `..` mean that directory and stay in it. `mode` is for files that are made.
///
/// Opening never waits: a pipe without a writer is open at once, as with `O_NONBLOCK`, which is taken back afterwards if it
/// was not asked for. The terminal that is opened doesn't become this process's.
pub fn open_in_root(root: &PathBytes, path: &PathBytes, flags: OFlags, mode: u32) -> Result<OwnedFd> {
    let (root, _) = open_root_directory(&Linux::default(), root)?;
    let only_place = flags.contains(OFlags::PATH);
    let added = if only_place { OFlags::empty() } else { OFlags::NONBLOCK | OFlags::NOCTTY };
    let mut tries = 0;
    let file = loop {
        tries += 1;
        match open::open_in_root(root.as_fd(), path, flags | OFlags::CLOEXEC | added, mode) {
            Err(call) if call.is(Errno::EAGAIN) && tries < MAX_TRIES => {}
            Err(call) => {
                let magic = call.is(Errno::ELOOP) && open::passes_magic_link(root.as_fd(), path);
                return Err(failure(path, &call, magic));
            }
            Ok(file) => break file,
        }
    };
    if !only_place && !flags.contains(OFlags::NONBLOCK) {
        open::set_nonblocking(&file, false).map_err(|call| failure(path, &call, false))?;
    }
    Ok(file)
}

fn failure(path: &PathBytes, call: &SysError, magic: bool) -> Box<Error> {
    let (code, what) = match Errno::from_raw(call.errno) {
        Errno::EAGAIN => (ErrorCode::Race, "kept changing while it was opened"),
        Errno::EXDEV => (ErrorCode::Escape, "would leave the root"),
        Errno::ELOOP if magic => {
            (ErrorCode::Escape, "passes through a magic link, which could leave the root")
        }
        Errno::ELOOP => (ErrorCode::Source, "passes through too many symbolic links, or is one"),
        Errno::ENOENT => (ErrorCode::Source, "doesn't exist in the root"),
        Errno::EEXIST => (ErrorCode::Source, "exists in the root"),
        _ => (ErrorCode::Source, "can't be opened in the root"),
    };
    let mut error = Error::from_call(code, format!("{path} {what}"), call);
    error.source = Some(path.clone());
    error
}
