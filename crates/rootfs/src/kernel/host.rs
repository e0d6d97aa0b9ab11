//! What the host's policy is, as its own files say. Only ever read, to explain, or to leave out what would only be faster.

use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags};

/// The text of a file of the host, without the end of its last line; `None` if it can't be read.
#[expect(
    clippy::disallowed_methods,
    reason = "files of /proc and /sys by constant names, for hints: nothing is decided by them"
)]
pub fn text(path: &str) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let file = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    let text = super::linux::read_to_end(file.as_fd()).ok()?;
    Some(String::from_utf8_lossy(&text).trim_end().to_owned())
}

/// The value of a sysctl by its name, such as `fs.mount-max`; `None` where the kernel doesn't have it; `proc_sys(5)`.
pub fn sysctl(name: &str) -> Option<String> {
    text(&format!("/proc/sys/{}", name.replace('.', "/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sysctl_is_read_by_its_name() {
        assert!(sysctl("fs.mount-max").is_some_and(|value| value.parse::<u64>().is_ok()));
        assert_eq!(sysctl("kernel.no_such_sysctl"), None);
    }
}
