//! The options of a command.

use std::sync::Arc;

use rootfs::process::{Capabilities, ProcessSpec, RLIMITS, Rlimit, User, capability_number};
use rootfs::{ErrorCode, PathBytes};

use crate::argument::{
    JsArg, MAX_SAFE_INTEGER, Options, Parsed, array, id, integer, integer32, path, text, unexpected, word,
};
use crate::failure::{ArgumentKind, Failure};
use crate::stdio::{self, Stream};

/// The `PATH` of a command when no environment is given.
const DEFAULT_PATH: &[u8] = b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command and its streams.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) process: ProcessSpec,
    pub(crate) streams: Vec<Stream>,
}

/// What is known of commands before one is given.
#[derive(Clone, Debug)]
pub(crate) enum Configured {
    /// There is no OCI config.
    Nothing,
    /// There is one, and it has no process.
    WithoutProcess,
    /// The process of the OCI config. Each command is as it is.
    Process(Arc<ProcessSpec>),
}

impl Configured {
    /// The process of the OCI config.
    pub(crate) fn process(&self) -> Option<&Arc<ProcessSpec>> {
        match self {
            Self::Process(process) => Some(process),
            Self::Nothing | Self::WithoutProcess => None,
        }
    }
}

/// Parses a command, its arguments, and those options that TypeScript leaves to us. Without a command it is the process
/// of the OCI config. A command of the caller's own is that process but for its words, so that it may not do more than
/// the config allows. The options replace what they name; `beside` are those that TypeScript has taken.
pub(crate) fn parse(
    command: &JsArg,
    args: &JsArg,
    options: JsArg,
    configured: &Configured,
    beside: &[&[&'static str]],
) -> Parsed<Command> {
    let mut process = match (command, configured) {
        (JsArg::Undefined, Configured::Process(process)) if *args == JsArg::Undefined => {
            ProcessSpec::clone(process)
        }
        (JsArg::Undefined, Configured::Process(_)) => {
            return Err(unexpected(
                ArgumentKind::Type,
                "string or Uint8Array, as there are arguments,",
                "command",
                command,
            ));
        }
        (JsArg::Undefined, Configured::WithoutProcess) => {
            let what = "process: the config has none that could be run, and no command is given";
            return Err(rootfs::Error::new(ErrorCode::Spec, what).with_pointer("/process").into());
        }
        (JsArg::Undefined, Configured::Nothing) => {
            return Err(unexpected(
                ArgumentKind::Type,
                "string or Uint8Array",
                "command",
                &JsArg::Other("undefined, and there is no OCI config whose process could be run"),
            ));
        }
        (_, configured) => named(command, args, configured.process())?,
    };
    let mut options = Options::of_call(options)?;
    if let Some(env) = options.take("env", environment)? {
        process.env = env;
    }
    if let Some(cwd) = options.take("cwd", working_directory)? {
        process.cwd = Some(cwd);
    }
    if let Some(capabilities) = options.take("capabilities", capabilities)? {
        process.capabilities = Some(capabilities);
    }
    if let Some(user) = options.take("user", user)? {
        let umask = user.umask.or(process.user.umask);
        process.user = User { umask, ..user };
    }
    process.no_new_privileges = options.flag("noNewPrivileges", process.no_new_privileges)?;
    if let Some(rlimits) = options.take("rlimits", rlimits)? {
        process.rlimits = rlimits;
    }
    if let Some(filter) = options.take("seccomp", filter)? {
        process.seccomp = Some(filter);
    }
    let streams = options.take("stdio", stdio::streams)?.unwrap_or_else(|| stdio::DEFAULT_STREAMS.to_vec());
    process.descriptors = stdio::further_descriptors(&streams);
    options.finish_beside(beside)?;
    Ok(Command { process, streams })
}

/// A command with what it gets when nothing is said: that of the configured process, if there is one.
fn named(command: &JsArg, args: &JsArg, configured: Option<&Arc<ProcessSpec>>) -> Parsed<ProcessSpec> {
    let command = path("command", command)?;
    let mut words = vec![command.as_bytes().to_vec()];
    if *args != JsArg::Undefined {
        words.extend(array("args", args, text)?.into_iter().map(String::into_bytes));
    }
    if let Some(configured) = configured {
        return Ok(ProcessSpec { command, args: words, ..ProcessSpec::clone(configured) });
    }
    Ok(ProcessSpec::with_defaults(command, words, vec![DEFAULT_PATH.to_vec()]))
}

fn working_directory(name: &str, value: &JsArg) -> Parsed<PathBytes> {
    let path = path(name, value)?;
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(unexpected(ArgumentKind::Value, "absolute path in the container", name, value))
    }
}

fn environment(name: &str, value: &JsArg) -> Parsed<Vec<Vec<u8>>> {
    let JsArg::Object(entries) = value else {
        return Err(unexpected(ArgumentKind::Type, "object", name, value));
    };
    let mut environment = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        // As child_process has it: an undefined value is left out.
        if *value == JsArg::Undefined {
            continue;
        }
        if key.is_empty() || key.contains(['=', '\0']) {
            return Err(Failure::argument(
                ArgumentKind::Value,
                format!("Expected name without '=' and NUL bytes for a key of {name} but received {key:?}"),
            ));
        }
        let value = text(&format!("{name}.{key}"), value)?;
        environment.push(format!("{key}={value}").into_bytes());
    }
    Ok(environment)
}

fn user(name: &str, value: &JsArg) -> Parsed<User> {
    let mut object = Options::nested(name, value)?;
    let user = User {
        uid: object.require("uid", id)?,
        gid: object.require("gid", id)?,
        additional_gids: object
            .take("additionalGids", |name, value| array(name, value, id))?
            .unwrap_or_default(),
        umask: object.take("umask", |name, value| integer32(name, value, 0, 0o777))?,
    };
    object.finish()?;
    Ok(user)
}

fn capability_set(name: &str, value: &JsArg) -> Parsed<u64> {
    let numbers = array(name, value, |name, value| match value {
        JsArg::String(text) => capability_number(text)
            .ok_or_else(|| unexpected(ArgumentKind::Value, "name of a capability", name, value)),
        other => Err(unexpected(ArgumentKind::Type, "name of a capability", name, other)),
    })?;
    Ok(numbers.into_iter().fold(0, |set, number| set | 1 << number))
}

/// One list for the bounding, effective and permitted set, or each set by its name.
fn capabilities(name: &str, value: &JsArg) -> Parsed<Capabilities> {
    if matches!(value, JsArg::Array(_)) {
        let set = capability_set(name, value)?;
        return Ok(Capabilities {
            bounding: set,
            effective: set,
            permitted: set,
            inheritable: 0,
            ambient: 0,
        });
    }
    if !matches!(value, JsArg::Object(_)) {
        return Err(unexpected(ArgumentKind::Type, "array of names, or object of such arrays,", name, value));
    }
    let mut object = Options::nested(name, value)?;
    let mut set = |key| Ok::<_, Failure>(object.take(key, capability_set)?.unwrap_or(0));
    let capabilities = Capabilities {
        bounding: set("bounding")?,
        effective: set("effective")?,
        permitted: set("permitted")?,
        inheritable: set("inheritable")?,
        ambient: set("ambient")?,
    };
    object.finish()?;
    if capabilities.effective & !capabilities.permitted != 0 {
        return Err(Failure::argument(
            ArgumentKind::Value,
            format!("Expected subset of {name}.permitted for {name}.effective"),
        ));
    }
    if capabilities.ambient & !(capabilities.permitted & capabilities.inheritable) != 0 {
        return Err(Failure::argument(
            ArgumentKind::Value,
            format!("Expected subset of {name}.permitted and {name}.inheritable for {name}.ambient"),
        ));
    }
    Ok(capabilities)
}

fn rlimits(name: &str, value: &JsArg) -> Parsed<Vec<Rlimit>> {
    let rlimits = array(name, value, rlimit)?;
    for (index, limit) in rlimits.iter().enumerate() {
        if rlimits[..index].iter().any(|other| other.resource == limit.resource) {
            let what = format!("Expected a type that no limit before it has for {name}[{index}].type");
            return Err(Failure::argument(ArgumentKind::Value, what));
        }
    }
    Ok(rlimits)
}

fn rlimit(name: &str, value: &JsArg) -> Parsed<Rlimit> {
    const INFINITY: u64 = u64::MAX;
    let names: Vec<&str> = RLIMITS.iter().map(|(name, _)| *name).collect();
    let find = |text: &str| RLIMITS.iter().find(|(name, _)| *name == text).map(|(_, number)| *number);
    let limit = |name: &str, value: &JsArg| match value {
        JsArg::Number(number) if *number == f64::INFINITY => Ok(INFINITY),
        value => integer(name, value, 0, MAX_SAFE_INTEGER),
    };
    let mut object = Options::nested(name, value)?;
    let rlimit = Rlimit {
        resource: object.require("type", |name, value| word(name, value, &names, find))?,
        soft: object.require("soft", limit)?,
        hard: object.require("hard", limit)?,
    };
    object.finish()?;
    if rlimit.soft > rlimit.hard {
        return Err(Failure::argument(
            ArgumentKind::Range,
            format!("Expected number not greater than {name}.hard for {name}.soft"),
        ));
    }
    Ok(rlimit)
}

fn filter(name: &str, value: &JsArg) -> Parsed<Vec<u8>> {
    match value {
        JsArg::Bytes(bytes) if !bytes.is_empty() && bytes.len() % 8 == 0 && bytes.len() / 8 <= 4096 => {
            Ok(bytes.clone())
        }
        JsArg::Bytes(_) => Err(unexpected(
            ArgumentKind::Value,
            "compiled classic-BPF filter of 1 to 4096 instructions of 8 bytes",
            name,
            value,
        )),
        other => Err(unexpected(ArgumentKind::Type, "Uint8Array", name, other)),
    }
}
