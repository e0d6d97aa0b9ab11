//! What a security module is to confine a process by: an `AppArmor` profile, or an SELinux context, which the kernel changes to
//! when the process executes its command; `apparmor(7)`, `proc_pid_attr(5)`.
//!
//! The kernel is told through a file below /proc. A file that only looks like it would leave the process unconfined
//! (CVE-2019-16884, CVE-2025-52881), so it is opened on a procfs of our own, and the kernel is asked what it has understood.

use std::collections::BTreeSet;

use nix::errno::Errno;

use crate::error::{CallContext, Error, ErrorCode, Result, SysError};
use crate::hint::Hint;
use crate::kernel::Kernel;
use crate::process::ProcessSpec;

/// Where `AppArmor` is spoken to since Linux 5.8, and where it was before, if it was the first module of its kind.
const APPARMOR: [[&str; 2]; 2] = [["apparmor/current", "apparmor/exec"], ["current", "exec"]];

/// What an OCI config calls the profile.
const PROFILE: &str = "apparmorProfile";
/// What an OCI config calls the context.
const LABEL: &str = "selinuxLabel";

/// Checks, before anything is done, that the modules are there that the process is to be confined by.
pub fn check(kernel: &dyn Kernel, process: &ProcessSpec) -> Result<()> {
    if process.apparmor_profile.is_some() {
        apparmor_exec(kernel)?;
    }
    if process.selinux_label.is_some() && !kernel.selinux_enabled() {
        return Err(absent(LABEL, "SELinux"));
    }
    Ok(())
}

/// Has this process be confined from its next execution on. [`check`] has found nothing missing. Before
/// [`no_new_privs`](ProcessSpec::no_new_privileges) is set, with which the modules allow less.
pub fn confine(kernel: &dyn Kernel, process: &ProcessSpec) -> Result<()> {
    if let Some(label) = &process.selinux_label {
        // Or the process could not use its own keyring. It is forgotten with the execution.
        write(kernel, LABEL, "keycreate", label.as_bytes())?;
        kernel
            .new_session_keyring()
            .context(ErrorCode::Denied, || "no session keyring with the process's label can be had")?;
        write(kernel, LABEL, "exec", label.as_bytes())?;
        read_back(kernel, LABEL, "exec", label, is_same_context)?;
    }
    if let Some(profile) = &process.apparmor_profile {
        let file = apparmor_exec(kernel)?;
        write(kernel, PROFILE, file, format!("exec {profile}").as_bytes())?;
        read_back(kernel, PROFILE, file, profile, is_same_profile)?;
    }
    Ok(())
}

/// The file that takes the profile.
fn apparmor_exec(kernel: &dyn Kernel) -> Result<&'static str> {
    let is_there = |[current, _]: &&[&str; 2]| match kernel.read_attribute(current) {
        // Before Linux 5.8, this could be another module's.
        Ok(_) => *current != APPARMOR[1][0] || !kernel.selinux_enabled(),
        // The kernel may have the module, and the module be switched off.
        Err(_) => false,
    };
    APPARMOR.iter().find(is_there).map(|[_, exec]| *exec).ok_or_else(|| absent(PROFILE, "AppArmor"))
}

fn absent(field: &str, module: &str) -> Box<Error> {
    Error::new(ErrorCode::Unsupported, format!("process.{field}: {module} is not active here"))
        .with_pointer(pointer(field))
        .with_hint(Hint::NoSecurityModule)
}

fn pointer(field: &str) -> String {
    format!("/process/{field}")
}

fn write(kernel: &dyn Kernel, field: &str, file: &str, value: &[u8]) -> Result<()> {
    kernel.write_attribute(file, value).map_err(|call| {
        let what = format!("process.{field}: /proc/self/attr/{file} can't be written");
        let code = match Errno::from_raw(call.errno) {
            Errno::EPERM | Errno::EACCES => ErrorCode::Denied,
            _ => ErrorCode::Exec,
        };
        let error = Error::from_call(code, what, &call).with_pointer(pointer(field));
        if call.is(Errno::ENOENT) && field == PROFILE { error.with_hint(Hint::UnknownProfile) } else { error }
    })
}

fn read_back(
    kernel: &dyn Kernel,
    field: &str,
    file: &str,
    wanted: &str,
    is_same: fn(&str, &str) -> bool,
) -> Result<()> {
    let fail = |what: &str, call: Option<&SysError>| {
        let what = format!("process.{field}: {what}");
        let error = match call {
            Some(call) => Error::from_call(ErrorCode::Proc, what, call),
            None => Error::new(ErrorCode::Proc, what),
        };
        error.with_pointer(pointer(field))
    };
    let bytes = kernel
        .read_attribute(file)
        .map_err(|call| fail(&format!("/proc/self/attr/{file} can't be read back"), Some(&call)))?;
    let text = String::from_utf8_lossy(&bytes);
    let found = text.trim_end_matches(['\n', '\0']);
    if is_same(wanted, found) {
        Ok(())
    } else {
        Err(fail(&format!("{wanted:?} was written, and the kernel says {found:?}"), None))
    }
}

/// The kernel adds the mode, such as `(enforce)`, tells the parts of a stack in an order of its own, and writes a namespace
/// with slashes.
fn is_same_profile(wanted: &str, found: &str) -> bool {
    fn parts(stack: &str) -> BTreeSet<(Option<&str>, &str)> {
        let part = |text| match str::strip_prefix(text, ":").and_then(|rest| rest.split_once(':')) {
            Some((namespace, name)) => (Some(namespace), name.strip_prefix("//").unwrap_or(name)),
            None => (None, text),
        };
        stack.split("//&").map(part).collect()
    }
    let name = match found.rsplit_once(" (") {
        Some((name, mode)) if mode.ends_with(')') => name,
        _ => found,
    };
    parts(wanted) == parts(name)
}

/// The kernel writes categories in their order, those that follow each other as a range, and a range of levels that is one
/// level once.
fn is_same_context(wanted: &str, found: &str) -> bool {
    wanted == found || matches!((normalized(wanted), normalized(found)), (Some(a), Some(b)) if a == b)
}

type Level<'a> = (&'a str, BTreeSet<u32>);

/// User, role and type, and the lowest and highest level; `None` if there is no level, or it is written otherwise.
fn normalized(context: &str) -> Option<([&str; 3], Level<'_>, Level<'_>)> {
    let mut parts = context.splitn(4, ':');
    let names = [parts.next()?, parts.next()?, parts.next()?];
    let range = parts.next()?;
    let (low, high) = range.split_once('-').unwrap_or((range, range));
    Some((names, level(low)?, level(high)?))
}

fn level(text: &str) -> Option<Level<'_>> {
    let (sensitivity, categories) = text.split_once(':').unwrap_or((text, ""));
    let number = |name: &str| name.strip_prefix('c')?.parse::<u16>().ok().map(u32::from);
    let mut set = BTreeSet::new();
    for part in categories.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('.').unwrap_or((part, part));
        set.extend(number(first)?..=number(last)?);
    }
    Some((sensitivity, set))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::recording::Recording;

    const CONTEXT: &str = "system_u:system_r:container_t:s0:c2,c1";

    fn process(profile: Option<&str>, label: Option<&str>) -> ProcessSpec {
        ProcessSpec {
            apparmor_profile: profile.map(str::to_owned),
            selinux_label: label.map(str::to_owned),
            ..ProcessSpec::with_defaults("/bin/true".into(), vec![], vec![])
        }
    }

    fn attributes(kernel: &Recording) -> Vec<String> {
        kernel.calls.borrow().clone()
    }

    #[test]
    fn a_profile_is_written_as_a_command_and_read_back() {
        for files in APPARMOR {
            let [current, exec] = files;
            let kernel = Recording::new(&[]);
            kernel.attribute(current, "unconfined\n");
            kernel.attribute(exec, "docker-default (enforce)\n");
            let wanted = process(Some("docker-default"), None);
            check(&kernel, &wanted).unwrap();
            assert_eq!(attributes(&kernel), Vec::<String>::new());
            confine(&kernel, &wanted).unwrap();
            assert_eq!(attributes(&kernel), [format!("attribute {exec} = exec docker-default")]);
        }
    }

    #[test]
    fn a_context_is_that_of_the_keyring_too() {
        let kernel = Recording::new(&[]);
        kernel.selinux.set(true);
        kernel.attribute("exec", "system_u:system_r:container_t:s0:c1,c2");
        let wanted = process(None, Some(CONTEXT));
        check(&kernel, &wanted).unwrap();
        confine(&kernel, &wanted).unwrap();
        let expected = [
            format!("attribute keycreate = {CONTEXT}"),
            "session keyring".to_owned(),
            format!("attribute exec = {CONTEXT}"),
        ];
        assert_eq!(attributes(&kernel), expected);
    }

    #[test]
    fn a_process_that_asks_for_nothing_needs_no_module() {
        let kernel = Recording::new(&[]);
        let wanted = process(None, None);
        check(&kernel, &wanted).unwrap();
        confine(&kernel, &wanted).unwrap();
        assert!(attributes(&kernel).is_empty());
    }

    #[test]
    fn without_its_module_a_request_is_refused_before_anything_is_done() {
        let selinux = Recording::new(&[]);
        selinux.selinux.set(true);
        selinux.attribute("current", "system_u:system_r:init_t:s0");
        for (kernel, wanted, field) in [
            (Recording::new(&[]), process(Some("p"), None), "apparmorProfile"),
            (Recording::new(&[]), process(None, Some(CONTEXT)), "selinuxLabel"),
            // The file is that of SELinux.
            (selinux, process(Some("p"), None), "apparmorProfile"),
        ] {
            let error = check(&kernel, &wanted).unwrap_err();
            assert_eq!(error.code, ErrorCode::Unsupported);
            assert_eq!(error.pointer, Some(format!("/process/{field}")));
            assert!(error.message.contains(field) && error.hint.is_some(), "{error:?}");
            assert!(attributes(&kernel).is_empty());
        }
    }

    #[test]
    fn what_the_kernel_has_understood_otherwise_is_an_error() {
        let other = [
            (process(Some("docker-default"), None), "apparmor/exec", "unconfined\n"),
            (process(Some("docker-default"), None), "apparmor/exec", ""),
            (process(None, Some(CONTEXT)), "exec", "system_u:system_r:unconfined_t:s0:c1,c2"),
            (process(None, Some(CONTEXT)), "exec", ""),
        ];
        for (wanted, file, answer) in other {
            let kernel = Recording::new(&[]);
            kernel.selinux.set(wanted.selinux_label.is_some());
            kernel.attribute("apparmor/current", "unconfined\n");
            kernel.attribute(file, answer);
            let error = confine(&kernel, &wanted).unwrap_err();
            assert_eq!(error.code, ErrorCode::Proc, "{answer:?}");
            assert!(error.pointer.is_some());
        }
    }

    #[test]
    fn what_the_module_refuses_is_an_error_with_its_reason() {
        for (errno, code, hint) in [
            (libc::ENOENT, ErrorCode::Exec, true),
            (libc::EACCES, ErrorCode::Denied, false),
            (libc::EINVAL, ErrorCode::Exec, false),
        ] {
            let kernel = Recording::new(&[]);
            kernel.attribute("apparmor/current", "unconfined\n");
            kernel.refuse("attribute", errno);
            let error = confine(&kernel, &process(Some("p"), None)).unwrap_err();
            assert_eq!((error.code, error.errno, error.hint.is_some()), (code, Some(errno), hint));
        }
    }

    #[test]
    fn answers_are_compared_as_the_kernel_writes_them() {
        for (wanted, found, same) in [
            ("p", "p (enforce)", true),
            ("p", "p (complain)", true),
            ("unconfined", "unconfined", true),
            ("/usr/bin/a b", "/usr/bin/a b (enforce)", true),
            ("p", "p2 (enforce)", false),
            ("p", "p//hat (enforce)", false),
            ("b//&a", "a//&b (mixed)", true),
            ("b//&a", "a (enforce)", false),
            (":ns:p", ":ns://p (enforce)", true),
            (":ns:p", "p (enforce)", false),
        ] {
            assert_eq!(is_same_profile(wanted, found), same, "{wanted} {found}");
        }
        for (wanted, found, same) in [
            ("u:r:t:s0", "u:r:t:s0", true),
            ("u:r:t:s0-s0", "u:r:t:s0", true),
            ("u:r:t:s0:c2,c1", "u:r:t:s0:c1,c2", true),
            ("u:r:t:s0:c0,c1,c2", "u:r:t:s0:c0.c2", true),
            ("u:r:t:s0-s0:c0.c1023", "u:r:t:s0-s0:c0.c1023", true),
            ("u:r:t:s0:c1", "u:r:t:s0", false),
            ("u:r:t:s0:c1", "u:r:t:s0:c1,c2", false),
            ("u:r:t:s0:c1", "u:r:other:s0:c1", false),
            ("u:r:t", "u:r:t2", false),
            ("u:r:t", "u:r:t:s0", false),
        ] {
            assert_eq!(is_same_context(wanted, found), same, "{wanted} {found}");
        }
    }
}
