//! Host name, domain name and kernel parameters: what is set in the container's namespaces at the end.

use nix::errno::Errno;

use super::{Done, Execution};
use crate::error::{CallContext, Error, ErrorCode, Result};
use crate::plan::Action;

impl Execution<'_> {
    pub(super) fn set_hostname(&self, name: &str) -> Result<Done> {
        self.kernel.set_hostname(name).context(ErrorCode::Denied, || "the host name can't be set")?;
        Ok(Done::default())
    }

    pub(super) fn set_domainname(&self, name: &str) -> Result<Done> {
        self.kernel.set_domainname(name).context(ErrorCode::Denied, || "the domain name can't be set")?;
        Ok(Done::default())
    }

    /// The handle on proc through which parameters are set is had before the root is entered: what the image or a mount has
    /// on /proc/sys is never asked (CVE-2025-52881).
    pub(super) fn prepare_sysctls(&self) -> Result<()> {
        if self.plan.steps.iter().any(|step| matches!(step.action, Action::Sysctl { .. })) {
            self.kernel
                .prepare_sysctl()
                .context(ErrorCode::Proc, || "no safe /proc can be had to set kernel parameters")?;
        }
        Ok(())
    }

    pub(super) fn set_sysctl(&self, name: &str, path: &str, value: &str) -> Result<Done> {
        // The file is for the machine's root only; the call that does the same is for the owner of the namespace.
        if path == "kernel/domainname" {
            return self.set_domainname(value);
        }
        self.kernel.write_sysctl(path, value).map_err(|call| {
            let (code, what) = match Errno::from_raw(call.errno) {
                Errno::ENOENT => (ErrorCode::Unsupported, "the kernel has no such parameter here"),
                Errno::EINVAL | Errno::ERANGE => (ErrorCode::Spec, "the kernel refuses the value"),
                Errno::EXDEV => (ErrorCode::Proc, "something is mounted over it"),
                _ => (ErrorCode::Denied, "it can't be set"),
            };
            Error::from_call(code, format!("sysctl {name}: {what}"), &call)
        })?;
        Ok(Done::default())
    }
}
