//! Why the kernel refuses to execute a file: its error number alone has several meanings. Looked at only after the failure, by
//! the process that is refused, in the root and with the rights it has.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rootfs::Hint;
use rootfs::error::{Error, ErrorCode, SysError};
use rootfs::path::PathBytes;
use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;

/// As much of a file as the kernel reads for `#!`; `BINPRM_BUF_SIZE`.
const HEADER: usize = 256;
/// As many interpreters of interpreters as the kernel follows.
const DEPTH: usize = 5;

/// What is known besides the error number.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reason {
    text: String,
    hint: Hint,
}

impl Reason {
    /// The error of the call, with the reason.
    pub(crate) fn explain(self, what: &str, call: &SysError) -> Box<Error> {
        Error::from_call(ErrorCode::Exec, format!("{what}: {}", self.text), call).with_hint(self.hint)
    }
}

/// Why the file was not executed, if it can be found out.
pub(crate) fn why_not_executed(path: &CStr, call: &SysError) -> Option<Reason> {
    match Errno::from_raw_os_error(call.errno) {
        Errno::NOENT | Errno::NOTDIR => missing_interpreter(path),
        Errno::ACCESS => not_allowed(path),
        _ => None,
    }
}

#[expect(clippy::disallowed_methods, reason = "the root is entered; what is read is for messages alone")]
fn not_allowed(path: &CStr) -> Option<Reason> {
    let reason = |text: &str| Some(Reason { text: text.to_owned(), hint: Hint::NotExecutable });
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::ACCESS) => return reason("this user may not enter a directory on the way to it"),
        Err(_) => return None,
    };
    let stat = rustix::fs::fstat(&file).ok()?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return reason("it is a directory"),
        _ => return reason("it is no regular file"),
    }
    if rustix::fs::fstatvfs(&file).is_ok_and(|stat| stat.f_flag.contains(StatVfsMountFlags::NOEXEC)) {
        return reason("it is on a mount with noexec");
    }
    if stat.st_mode & 0o111 == 0 {
        return reason("its mode has no x bit");
    }
    if rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS) == Err(Errno::ACCESS) {
        return reason("its mode doesn't let this user execute it");
    }
    // Its interpreter is refused in the same way.
    let interpreter = interpreter_of(path)?;
    let refused = rustix::fs::accessat(CWD, &interpreter, Access::EXEC_OK, AtFlags::EACCESS).is_err();
    refused.then(|| Reason {
        text: format!("its interpreter {} can't be executed", shown(&interpreter)),
        hint: Hint::NotExecutable,
    })
}

fn missing_interpreter(path: &CStr) -> Option<Reason> {
    let mut file = path.to_owned();
    for _ in 0..DEPTH {
        match rustix::fs::accessat(CWD, &file, Access::EXISTS, AtFlags::empty()) {
            Ok(()) => {}
            Err(_) if file.as_c_str() == path => return None,
            Err(_) => {
                let text = format!("it exists, but its interpreter {} does not", shown(&file));
                return Some(Reason { text, hint: Hint::MissingInterpreter });
            }
        }
        match interpreter_of(&file) {
            Some(interpreter) => file = interpreter,
            None => break,
        }
    }
    // The file may be executable and not readable.
    let text = "it exists, but its interpreter or loader does not".to_owned();
    Some(Reason { text, hint: Hint::MissingInterpreter })
}

fn shown(path: &CStr) -> PathBytes {
    PathBytes::from(Path::new(OsStr::from_bytes(path.to_bytes())))
}

/// The interpreter of a script, or the loader of a program.
#[expect(clippy::disallowed_methods, reason = "the root is entered; what is read is for messages alone")]
fn interpreter_of(path: &CStr) -> Option<CString> {
    // It may have become a pipe or a terminal meanwhile.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    let stat = rustix::fs::fstat(&file).ok()?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return None;
    }
    let mut header = [0; HEADER];
    let length = rustix::io::pread(&file, &mut header, 0).ok()?;
    let header = header.get(..length)?;
    if let Some(line) = header.strip_prefix(b"#!") {
        return of_script(line);
    }
    let (place, length) = of_program(header, |table, place| {
        let length = table.len();
        rustix::io::pread(file.as_fd(), table, place) == Ok(length)
    })?;
    let mut name = vec![0; length];
    let read = rustix::io::pread(&file, &mut name, place).ok()?;
    Some(CStr::from_bytes_until_nul(name.get(..read)?).ok()?.to_owned())
}

/// The interpreter in the first line, as the kernel reads it: a carriage return belongs to the name.
fn of_script(line: &[u8]) -> Option<CString> {
    let line = line.split(|byte| *byte == b'\n').next()?;
    let name = line.split(|byte| matches!(byte, b' ' | b'\t')).find(|word| !word.is_empty())?;
    CString::new(name).ok()
}

/// Where `PT_INTERP` is in an ELF file of this machine's byte order, and how long; `elf(5)`.
fn of_program(header: &[u8], mut read: impl FnMut(&mut [u8], u64) -> bool) -> Option<(u64, usize)> {
    const PT_INTERP: u64 = 3;
    const LONGEST: u64 = 4096;
    let number = |bytes: &[u8], place: usize, size: usize| -> Option<u64> {
        let mut word = [0; 8];
        let bytes = bytes.get(place..place.checked_add(size)?)?;
        let within = if cfg!(target_endian = "little") { 0 } else { 8 - size };
        word[within..within + size].copy_from_slice(bytes);
        Some(u64::from_ne_bytes(word))
    };
    if !header.starts_with(b"\x7fELF") {
        return None;
    }
    // Places of e_phoff, e_phentsize and e_phnum, of p_offset and p_filesz, and the size of an address.
    let (table, entry_size, count, offset, length, word) = match header.get(4)? {
        1 => (28, 42, 44, 4, 16, 4),
        2 => (32, 54, 56, 8, 32, 8),
        _ => return None,
    };
    let table = number(header, table, word)?;
    let entry_size = number(header, entry_size, 2)?;
    let mut entry = vec![0; usize::try_from(entry_size).ok()?];
    for index in 0..number(header, count, 2)? {
        if !read(&mut entry, table.checked_add(index * entry_size)?) {
            return None;
        }
        if number(&entry, 0, 4)? == PT_INTERP {
            let length = number(&entry, length, word)?.min(LONGEST);
            return Some((number(&entry, offset, word)?, usize::try_from(length).ok()?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interpreter_of_a_script_is_read_as_the_kernel_does() {
        for (line, name) in [
            (&b"/bin/sh\necho"[..], Some(c"/bin/sh")),
            (b" \t/usr/bin/env node\n", Some(c"/usr/bin/env")),
            (b"/bin/sh\r\n", Some(c"/bin/sh\r")),
            (b"\n", None),
            (b"  \n/bin/sh", None),
        ] {
            assert_eq!(of_script(line).as_deref(), name);
        }
    }

    /// A program of one header, of each class.
    fn program(class: u8, kind: u32) -> Vec<u8> {
        let wide = class == 2;
        let (start, size) = if wide { (64, 56) } else { (52, 32) };
        let mut file = vec![0; start + size + 8];
        let mut put = |place: usize, bytes: &[u8]| file[place..place + bytes.len()].copy_from_slice(bytes);
        let word = |number: u32| {
            if wide { u64::from(number).to_ne_bytes().to_vec() } else { number.to_ne_bytes().to_vec() }
        };
        put(0, b"\x7fELF");
        put(4, &[class]);
        let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        put(if wide { 32 } else { 28 }, &word(small(start)));
        put(if wide { 54 } else { 42 }, &u16::try_from(size).unwrap_or(0).to_ne_bytes());
        put(if wide { 56 } else { 44 }, &1_u16.to_ne_bytes());
        put(start, &kind.to_ne_bytes());
        put(start + if wide { 8 } else { 4 }, &word(small(start + size)));
        put(start + if wide { 32 } else { 16 }, &word(8));
        file
    }

    #[test]
    fn the_loader_of_a_program_is_found_in_both_classes() {
        for class in [1, 2] {
            for (kind, found) in [(3, true), (1, false)] {
                let file = program(class, kind);
                let read = |table: &mut [u8], place: u64| {
                    let place = usize::try_from(place).unwrap_or(usize::MAX);
                    file.get(place..place + table.len()).is_some_and(|bytes| {
                        table.copy_from_slice(bytes);
                        true
                    })
                };
                let start = u64::try_from(file.len() - 8).unwrap_or(0);
                assert_eq!(
                    of_program(&file, read),
                    found.then_some((start, 8)),
                    "class {class}, kind {kind}"
                );
            }
        }
        assert_eq!(of_program(b"\x7fELF\x02", |_, _| true), None);
        assert_eq!(of_program(b"neither", |_, _| true), None);
    }
}
