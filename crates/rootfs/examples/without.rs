//! `without ENOSYS fsopen,move_mount -- program [argument...]`: executes a program for which these system calls fail so.
//!
//! For tests: what an older kernel lacks (`ENOSYS`) or doesn't understand (`EINVAL`), what a container runtime's filter
//! refuses (`EPERM`), and what there is no memory for (`ENOMEM`). Only root, who may filter without giving up set-user-id programs.

use std::ffi::CString;
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;

use rootfs::kernel::process::{execute, filter_instruction, set_seccomp_filter};

/// Calls that were added since Linux 4.18 and that matter here, one that has learned something, and one that is older.
const CALLS: [(&str, libc::c_long); 19] = [
    ("clone3", libc::SYS_clone3),
    ("close_range", libc::SYS_close_range),
    ("eventfd2", libc::SYS_eventfd2),
    ("fchmodat2", 452),
    ("fsconfig", libc::SYS_fsconfig),
    ("fsmount", libc::SYS_fsmount),
    ("fsopen", libc::SYS_fsopen),
    ("fspick", libc::SYS_fspick),
    ("listmount", 458),
    ("mount_setattr", libc::SYS_mount_setattr),
    ("move_mount", libc::SYS_move_mount),
    ("open_tree", libc::SYS_open_tree),
    ("open_tree_attr", 467),
    ("openat2", libc::SYS_openat2),
    ("pidfd_getfd", libc::SYS_pidfd_getfd),
    ("pidfd_open", libc::SYS_pidfd_open),
    ("pidfd_send_signal", libc::SYS_pidfd_send_signal),
    ("statmount", 457),
    ("waitid_pidfd", libc::SYS_waitid),
];

/// Calls that are refused only with this as their first argument: what an older kernel doesn't know of them.
const WITH_FIRST_ARGUMENT: [(&str, u32); 1] = [("waitid_pidfd", libc::P_PIDFD)];

const LOAD_WORD: u32 = 0x20;
const JUMP_IF_EQUAL: u32 = 0x15;
const RETURN: u32 = 0x06;
const ALLOW: u32 = 0x7fff_0000;
const FAIL: u32 = 0x0005_0000;
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

fn filter(calls: &[(u32, Option<u32>)], errno: u32) -> Vec<u8> {
    let mut program = Vec::new();
    let mut add = |code: u32, skip_if_true: u8, skip_if_false: u8, value: u32| {
        program.extend(filter_instruction(code, skip_if_true, skip_if_false, value));
    };
    // The architecture, then the number: fields of `struct seccomp_data`.
    add(LOAD_WORD, 0, 0, 4);
    add(JUMP_IF_EQUAL, 1, 0, ARCHITECTURE);
    add(RETURN, 0, 0, ALLOW);
    add(LOAD_WORD, 0, 0, 0);
    for (call, first) in calls {
        if let Some(first) = first {
            // Of the argument, a 64-bit word, the lower half.
            add(JUMP_IF_EQUAL, 0, 4, *call);
            add(LOAD_WORD, 0, 0, if cfg!(target_endian = "little") { 16 } else { 20 });
            add(JUMP_IF_EQUAL, 0, 1, *first);
            add(RETURN, 0, 0, FAIL | errno);
            add(LOAD_WORD, 0, 0, 0);
            continue;
        }
        add(JUMP_IF_EQUAL, 0, 1, *call);
        add(RETURN, 0, 0, FAIL | errno);
    }
    add(RETURN, 0, 0, ALLOW);
    program
}

fn run() -> Result<String, String> {
    let mut arguments = std::env::args_os().skip(1);
    let mut next = || arguments.next().map(|argument| argument.to_string_lossy().into_owned());
    let (Some(errno), Some(calls), Some(_)) = (next(), next(), next().filter(|dashes| dashes == "--")) else {
        return Err("usage: without ERRNO CALL,... -- PROGRAM [ARGUMENT...]".into());
    };
    let errno = match &*errno {
        "ENOSYS" => libc::ENOSYS,
        "EPERM" => libc::EPERM,
        "EINVAL" => libc::EINVAL,
        "ENOMEM" => libc::ENOMEM,
        other => return Err(format!("{other}: ENOSYS, EPERM, EINVAL or ENOMEM")),
    };
    let calls = calls
        .split(',')
        .map(|name| {
            let call = CALLS.iter().find(|(call, _)| *call == name);
            let first = WITH_FIRST_ARGUMENT.iter().find(|(call, _)| *call == name).map(|(_, first)| *first);
            call.and_then(|(_, number)| Some((u32::try_from(*number).ok()?, first)))
                .ok_or(format!("{name}: no call known here"))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let string = |text: std::ffi::OsString| CString::new(text.into_vec()).map_err(|error| error.to_string());
    let args = arguments.map(string).collect::<Result<Vec<_>, _>>()?;
    let path = args.first().ok_or("a program is missing")?.clone();
    let env = std::env::vars_os()
        .map(|(name, value)| string([name, value].join(std::ffi::OsStr::new("="))))
        .collect::<Result<Vec<_>, _>>()?;
    set_seccomp_filter(&filter(&calls, errno.cast_unsigned())).map_err(|call| call.to_string())?;
    Ok(execute(&path, &args, &env).to_string())
}

fn main() -> ExitCode {
    let (Ok(failure) | Err(failure)) = run();
    eprintln!("without: {failure}");
    ExitCode::from(127)
}
