//! The supervisor: a small process beside Node that starts containers, and takes them down when Node goes.
//!
//! It is started from a sealed memory file with an empty environment and one socket, descriptor 3. It stays in the
//! caller's namespaces, has one thread, and its loop never waits for anything but events: what takes long is done in
//! forked children.

#[cfg(debug_assertions)]
mod allocations;
mod broker;
mod cgroup;
mod command;
mod first_process;
mod hooks;
mod idmap;
mod join;
mod keeper;
mod opener;
mod pid1;
mod probe;
mod queue;
mod server;
mod spare;
mod unexecutable;

use std::os::fd::{AsFd, OwnedFd};

use rootfs::kernel::{process, without_pidfds};
use rustix::fs::{Mode, OFlags};
use rustix::thread::CapabilitySet;

/// The descriptor of the socket that Node gives.
const SOCKET: i32 = 3;

/// The capabilities that this process uses itself: for namespaces, their ids, cgroups of other users, OOM scores, and signals.
const NEEDED: CapabilitySet = CapabilitySet::SYS_ADMIN
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::SYS_RESOURCE)
    .union(CapabilitySet::KILL);

fn main() {
    // Before anything else: nobody may look into this process or take its executable.
    if process::set_dumpable(false).is_err() {
        process::exit(1);
    }
    let Some(socket) = process::inherited(SOCKET) else {
        eprintln!("rootfs-supervisor is started by the rootfs library, not by hand");
        process::exit(2);
    };
    // What the caller could have become again is not for containers. This makes a process dumpable where the host says so.
    if process::keep_effective_ids_only().is_err() || process::set_dumpable(false).is_err() {
        process::exit(1);
    }
    process::close_all_but(SOCKET + 1, &[]);
    process::set_name(c"rootfs-super");
    process::reset_signals();
    // A signal of the terminal is for Node, which then closes the socket.
    let _ = process::new_session();
    if replace_standard_streams().is_err() {
        process::exit(1);
    }
    without_pidfds::find_out();
    let only_probe = std::env::args_os().nth(1).is_some_and(|argument| argument == "probe");
    if only_probe {
        process::exit(probe::run(&socket));
    }
    // All else is for its children: what they make containers with, and what commands may be given. For the same reason there is
    // no seccomp filter here: it would be theirs too.
    let _ = process::narrow_capabilities(NEEDED);
    process::refuse_executable_memory();
    #[cfg(debug_assertions)]
    if allocations::share().is_err() {
        process::exit(1);
    }
    // A container that becomes its command wakes this process, and shall not wait for it.
    process::do_not_interrupt();
    process::exit(server::run(socket));
}

/// Node's standard streams are not held open: whoever reads them must see their end when Node ends.
#[expect(clippy::disallowed_methods, reason = "the host's null device, at the start of the program")]
fn replace_standard_streams() -> Result<(), ()> {
    let null: OwnedFd =
        rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(drop)?;
    for number in 0..3 {
        process::duplicate_to(null.as_fd(), number).map_err(drop)?;
    }
    Ok(())
}
