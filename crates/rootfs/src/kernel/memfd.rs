//! Sealed memory files: what crosses a process border in one can't be changed afterwards by its sender.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, SealFlags};

use crate::error::{SysError, SysResult};

/// Every seal a read-only memory file can have; `fcntl(2)`, File Sealing.
pub const ALL_SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

fn failed(syscall: &'static str, arguments: &str) -> impl FnOnce(rustix::io::Errno) -> SysError {
    let arguments = arguments.to_owned();
    move |errno| SysError { syscall, errno: errno.raw_os_error(), arguments }
}

/// A memory file with these bytes that nobody can change. With `executable` it can be executed where the host allows
/// that (`vm.memfd_noexec`).
pub fn sealed(name: &CStr, bytes: &[u8], executable: bool) -> SysResult<OwnedFd> {
    let text = name.to_string_lossy();
    let base = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let wanted = base | if executable { MemfdFlags::EXEC } else { MemfdFlags::NOEXEC_SEAL };
    let fd = match rustix::fs::memfd_create(name, wanted) {
        // Before Linux 6.3 the two flags are unknown, and every memory file is executable.
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(name, base),
        other => other,
    }
    .map_err(failed("memfd_create", &text))?;
    let file = std::fs::File::from(fd);
    file.write_all_at(bytes, 0).map_err(|error| SysError {
        syscall: "pwrite",
        errno: error.raw_os_error().unwrap_or(libc::EIO),
        arguments: text.clone().into_owned(),
    })?;
    let fd = OwnedFd::from(file);
    rustix::fs::fcntl_add_seals(&fd, ALL_SEALS).map_err(failed("fcntl", "F_ADD_SEALS"))?;
    Ok(fd)
}

/// The content of a memory file, which must have all seals and at most `limit` bytes.
pub fn read_sealed(fd: impl AsFd, limit: u64) -> SysResult<Vec<u8>> {
    let seals = rustix::fs::fcntl_get_seals(&fd).map_err(failed("fcntl", "F_GET_SEALS"))?;
    if !seals.contains(ALL_SEALS) {
        return Err(SysError {
            syscall: "fcntl",
            errno: libc::EPERM,
            arguments: "F_GET_SEALS: not sealed".into(),
        });
    }
    read(fd, limit)
}

/// The content of a file from its start, of at most `limit` bytes, whatever the descriptor's offset.
pub fn read(fd: impl AsFd, limit: u64) -> SysResult<Vec<u8>> {
    let size = rustix::fs::fstat(&fd).map_err(failed("fstat", ""))?.st_size.cast_unsigned();
    if size > limit {
        return Err(SysError { syscall: "fstat", errno: libc::EFBIG, arguments: format!("{size} bytes") });
    }
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::io::pread(&fd, &mut bytes[filled..], filled as u64).map_err(failed("pread", ""))? {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_file_cannot_be_written() {
        let fd = sealed(c"test", b"content", false).unwrap();
        assert_eq!(read_sealed(&fd, 100).unwrap(), b"content");
        assert!(rustix::io::pwrite(&fd, b"x", 0).is_err());
        assert!(rustix::fs::ftruncate(&fd, 0).is_err());
        assert_eq!(read_sealed(&fd, 3).unwrap_err().errno, libc::EFBIG);
    }

    #[test]
    fn a_file_without_seals_is_refused() {
        let fd = rustix::fs::memfd_create(c"test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        assert_eq!(read_sealed(&fd, 100).unwrap_err().errno, libc::EPERM);
    }
}
