//! Errors as data: they cross process borders whole, and no layer flattens them to a string.

use std::fmt;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::hint::Hint;
use crate::origin::{Location, Part};
use crate::path::PathBytes;

/// The result of everything that can fail here. The error is boxed: it is large, and rare.
pub type Result<T, E = Box<Error>> = std::result::Result<T, E>;

macro_rules! error_codes {
    ($($variant:ident $name:literal $meaning:literal $advice:literal;)*) => {
        /// What kind of thing went wrong. The one table of codes: documentation and the TypeScript union are made from it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum ErrorCode { $(#[doc = $meaning] $variant,)* }

        impl ErrorCode {
            /// Every code, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name that JavaScript sees in `error.code`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One line that says what the code means.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }

            /// What to do about it, for the documentation.
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$variant => $advice,)* }
            }
        }
    };
}

error_codes! {
    Spec "ERR_ROOTFS_SPEC" "The description is wrong or contradicts itself."
        "Correct what the message names.";
    Root "ERR_ROOTFS_ROOT" "The root directory is missing, a symbolic link, or not a directory."
        "Give an existing directory, absolute, whose last component is no link (`fs.realpath`).";
    Source "ERR_ROOTFS_SOURCE" "A source is missing, can't be read, or changed while it was used."
        "Check the path; `optional: true` skips a bind whose source is missing.";
    Escape "ERR_ROOTFS_ESCAPE" "A path or working directory would leave the root."
        "Look at the image: something leads out of it.";
    Proc "ERR_ROOTFS_PROC" "A mount on or below /proc that is not allowed, or a /proc that was tampered with."
        "Mount `proc` on /proc, on an ordinary directory; mask or bind single files instead.";
    Mount "ERR_ROOTFS_MOUNT" "The kernel refused a mount or one of its attributes."
        "`kernelLog` has the kernel's own words about options; `errno` the rest.";
    Locked "ERR_ROOTFS_LOCKED" "A mount flag that is locked by a more privileged mount namespace was to be cleared."
        "Leave the flag as it is, or do without the user namespace.";
    Device "ERR_ROOTFS_DEVICE" "A device node could not be made, or one that exists is another device."
        "Remove the file that is in the way, or map the owner.";
    Race "ERR_ROOTFS_RACE" "Something kept changing underneath; it may be tried again."
        "Try again.";
    Verify "ERR_ROOTFS_VERIFY" "The kernel's mount table is not what was asked for."
        "The message says what differs, each with its destination. Did a hook, or somebody on the host, change a mount? Else report it: the kernel did something else than it was asked to. `verify: false` leaves the comparison out.";
    Hook "ERR_ROOTFS_HOOK" "A hook failed or ran out of time."
        "The message has the hook's exit status and output.";
    Exec "ERR_ROOTFS_EXEC" "The command could not be started."
        "Check the command, its interpreter and libraries in the root, and its mode.";
    Denied "ERR_ROOTFS_DENIED" "The policy of the host forbids it, or the caller has other rights than before."
        "`hint` names what forbids it: missing privileges, a sysctl, a security module, a change of user.";
    Unsupported "ERR_ROOTFS_UNSUPPORTED" "The kernel, the platform or this version lacks something."
        "See [kernels.md](kernels.md), or the README's limits for what this version lacks.";
    Supervisor "ERR_ROOTFS_SUPERVISOR" "The helper process is missing, can't be executed, is of another version, died, or takes no requests."
        "Reinstall the package; where memory files can't be executed, set `ROOTFS_SUPERVISOR_EXEC`.";
    Closed "ERR_ROOTFS_CLOSED" "The prepared root filesystem has been closed."
        "Use a prepared root before it is closed.";
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name of an errno, such as `EPERM`.
pub fn errno_name(errno: i32) -> String {
    format!("{:?}", Errno::from_raw(errno))
}

/// The kernel's own sentence for an errno, such as `Operation not permitted`.
pub fn errno_text(errno: i32) -> &'static str {
    Errno::from_raw(errno).desc()
}

/// A system call that failed, printed the way strace prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SysError {
    /// The name of the call.
    pub syscall: &'static str,
    /// Its positive errno.
    pub errno: i32,
    /// Its arguments, for people.
    pub arguments: String,
}

/// The result of one call of the kernel trait.
pub type SysResult<T> = std::result::Result<T, SysError>;

impl SysError {
    /// A call that failed outside of the kernel trait.
    pub fn new(syscall: &'static str, errno: rustix::io::Errno, arguments: impl Into<String>) -> Self {
        Self { syscall, errno: errno.raw_os_error(), arguments: arguments.into() }
    }

    /// Whether the call failed with this errno.
    pub fn is(&self, errno: Errno) -> bool {
        self.errno == errno as i32
    }
}

impl fmt::Display for SysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}({}): {} ({})",
            self.syscall,
            self.arguments,
            errno_text(self.errno),
            errno_name(self.errno)
        )
    }
}

/// What went wrong, at which step, on what, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// The kind of failure.
    pub code: ErrorCode,
    /// What was wanted and what happened.
    pub message: String,
    /// The index of the plan's step that failed.
    pub step: Option<u32>,
    /// The system call that failed.
    pub syscall: Option<String>,
    /// Its positive errno.
    pub errno: Option<i32>,
    /// The source of the mount.
    pub source: Option<PathBytes>,
    /// The destination inside the root.
    pub destination: Option<PathBytes>,
    /// What the destination was resolved to.
    pub resolved: Option<PathBytes>,
    /// The flags that were asked for.
    pub flags: Vec<String>,
    /// What the kernel said about a filesystem's options.
    pub kernel_log: Vec<String>,
    /// Which value of an OCI config is wrong, as a JSON pointer (RFC 6901).
    pub pointer: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// Which part of an item of the specification it is about, until its place is known.
    #[serde(skip)]
    pub(crate) part: Option<Part>,
}

impl Error {
    /// An error with a code and a message and nothing else yet.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Box<Self> {
        Box::new(Self {
            code,
            message: message.into(),
            step: None,
            syscall: None,
            errno: None,
            source: None,
            destination: None,
            resolved: None,
            flags: Vec::new(),
            kernel_log: Vec::new(),
            pointer: None,
            hint: None,
            part: None,
        })
    }

    /// An error made from a failed system call: `what` says what was wanted.
    pub fn from_call(code: ErrorCode, what: impl fmt::Display, call: &SysError) -> Box<Self> {
        let mut error = Self::new(code, format!("{what}: {call}"));
        error.syscall = Some(call.syscall.to_owned());
        error.errno = Some(call.errno);
        error.hint = Hint::of_call(call).map(String::from);
        error
    }

    /// Says which value of an OCI config it is about, unless that is known more exactly already.
    pub fn with_pointer(mut self: Box<Self>, pointer: impl Into<String>) -> Box<Self> {
        self.pointer.get_or_insert_with(|| pointer.into());
        self
    }

    /// Says which part of an item it is about, unless that is known more exactly already.
    pub(crate) fn about(mut self: Box<Self>, part: Part) -> Box<Self> {
        self.part.get_or_insert(part);
        self
    }

    /// Says where the part is that it is about.
    pub fn located(mut self: Box<Self>, locate: impl FnOnce(&Part) -> Location) -> Box<Self> {
        let location = locate(&self.part.take().unwrap_or(Part::Whole));
        // In OCI form it has no such name.
        if self.message.starts_with("idMap: ") {
            self.message.drain(.."idMap: ".len());
        }
        if let Some(name) = location.name() {
            self.message = format!("{name}: {}", self.message);
        }
        self.pointer = self.pointer.take().or(location.pointer);
        self
    }

    /// Adds what the kernel said about a filesystem.
    pub(crate) fn with_kernel_log(mut self: Box<Self>, log: Vec<String>) -> Box<Self> {
        self.kernel_log = log;
        self
    }

    /// Adds advice, unless there already is some.
    pub fn with_hint(mut self: Box<Self>, hint: impl Into<String>) -> Box<Self> {
        self.hint.get_or_insert_with(|| hint.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if !self.kernel_log.is_empty() {
            write!(f, " (kernel: {})", self.kernel_log.join("; "))?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// Turns a failed call into an [`Error`] in passing.
pub trait CallContext<T> {
    /// With a code, and a sentence that is only made on failure.
    fn context<D: fmt::Display>(self, code: ErrorCode, what: impl FnOnce() -> D) -> Result<T>;
}

impl<T> CallContext<T> for SysResult<T> {
    fn context<D: fmt::Display>(self, code: ErrorCode, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|call| Error::from_call(code, what(), &call))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_distinct_names() {
        let mut names: Vec<_> = ErrorCode::ALL.iter().map(|code| code.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ErrorCode::ALL.len());
    }

    #[test]
    fn a_failed_call_prints_like_strace() {
        let call = SysError { syscall: "move_mount", errno: 1, arguments: "5, 6".into() };
        assert_eq!(call.to_string(), "move_mount(5, 6): Operation not permitted (EPERM)");
    }
}
