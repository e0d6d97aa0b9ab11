//! The `process` of an OCI config, read and written.

use serde_json::{Map, Value, json};

use super::mounts::{cannot, path_text};
use super::node::{Node, Object};
use crate::error::{Error, Result};
use crate::hint::Hint;
use crate::path::PathBytes;
use crate::process::{CAPABILITIES, Capabilities, ProcessSpec, RLIMITS, Rlimit, User, capability_number};
use crate::spec::MAX_ID;

/// What `setrlimit(2)` takes for no limit.
const INFINITY: u64 = u64::MAX;

pub(super) fn read(process: &Node<'_>) -> Result<ProcessSpec> {
    let object = process.object()?;
    object.read("terminal", |terminal| {
        if !terminal.boolean()? {
            return Ok(());
        }
        let error = terminal.wrong("a terminal can't be given");
        Err(error.with_hint(Hint::OciTerminal))
    })?;
    let args = object.require("args", |args| {
        let words = args.list(Node::bytes)?;
        match words.first() {
            Some(command) if !command.is_empty() => Ok(words),
            _ => Err(args.wrong("a command is needed")),
        }
    })?;
    Ok(ProcessSpec {
        command: PathBytes::new(args.first().cloned().unwrap_or_default()),
        args,
        env: object.read("env", |env| env.list(read_variable))?.unwrap_or_default(),
        cwd: Some(object.require("cwd", Node::absolute_path)?),
        user: object.read("user", read_user)?.unwrap_or_default(),
        capabilities: Some(object.read("capabilities", read_capabilities)?.unwrap_or_default()),
        no_new_privileges: object.read("noNewPrivileges", Node::boolean)?.unwrap_or(false),
        rlimits: object.read("rlimits", read_rlimits)?.unwrap_or_default(),
        seccomp: None,
        descriptors: Vec::new(),
        oom_score_adj: object
            .read("oomScoreAdj", |score| score.integer(-1000, 1000))?
            .map(|score| i32::try_from(score).unwrap_or_default()),
        apparmor_profile: object.read("apparmorProfile", read_name)?.flatten(),
        selinux_label: object.read("selinuxLabel", read_name)?.flatten(),
    })
}

fn read_variable(node: &Node<'_>) -> Result<Vec<u8>> {
    match node.text()?.find('=') {
        Some(1..) => node.bytes(),
        _ => Err(node.unexpected("NAME=value")),
    }
}

/// A text that is as good as absent when it is empty.
fn read_name(node: &Node<'_>) -> Result<Option<String>> {
    Ok(Some(node.text()?).filter(|text| !text.is_empty()).map(str::to_owned))
}

fn read_user(user: &Node<'_>) -> Result<User> {
    let object = user.object()?;
    let id = |id: &Node<'_>| id.integer32(0, MAX_ID);
    Ok(User {
        uid: object.require("uid", id)?,
        gid: object.require("gid", id)?,
        additional_gids: object.read("additionalGids", |list| list.list(id))?.unwrap_or_default(),
        umask: object.read("umask", |mask| mask.integer32(0, 0o777))?,
    })
}

fn read_capabilities(node: &Node<'_>) -> Result<Capabilities> {
    let object = node.object()?;
    let set = |key| read_set(&object, key);
    let mut capabilities = Capabilities {
        bounding: set("bounding")?,
        effective: set("effective")?,
        permitted: set("permitted")?,
        inheritable: set("inheritable")?,
        ambient: set("ambient")?,
    };
    let beyond = capabilities.effective & !capabilities.permitted;
    if beyond != 0 {
        let list = names(beyond).join(", ");
        let effective = object.get("effective").unwrap_or(node);
        return Err(effective.wrong(format_args!("{list} must be permitted to be in force")));
    }
    let dropped = capabilities.ambient & !(capabilities.permitted & capabilities.inheritable);
    if dropped != 0 {
        capabilities.ambient &= !dropped;
        let message = format!(
            "process.capabilities.ambient: {} dropped: not permitted and inheritable",
            names(dropped).join(", ")
        );
        node.context().warn("ambient-dropped", message);
    }
    Ok(capabilities)
}

fn read_set(object: &Object<'_>, key: &str) -> Result<u64> {
    let Some(list) = object.get(key) else { return Ok(0) };
    let mut set = 0;
    for item in list.items()? {
        // Names that start otherwise are none of the specification's.
        match item.text()?.strip_prefix("CAP_").and_then(capability_number) {
            Some(number) => set |= 1 << number,
            // As the specification asks: a process with less than it asks for is safe.
            None => item.context().warn(
                "unknown-capability",
                format!("{}: {:?} is unknown, and not given", item.name, item.text()?),
            ),
        }
    }
    Ok(set)
}

/// The names of a set.
fn names(set: u64) -> Vec<String> {
    let numbered = CAPABILITIES.iter().enumerate();
    numbered.filter(|(number, _)| set & 1 << number != 0).map(|(_, name)| format!("CAP_{name}")).collect()
}

fn read_rlimits(list: &Node<'_>) -> Result<Vec<Rlimit>> {
    let mut rlimits: Vec<Rlimit> = Vec::new();
    for item in list.items()? {
        let object = item.object()?;
        let resource = object.require("type", |kind| {
            let resource = kind.word(&RLIMITS)?;
            if rlimits.iter().any(|other| other.resource == resource) {
                return Err(kind.wrong("this limit is there twice"));
            }
            Ok(resource)
        })?;
        let hard = object.require("hard", Node::unsigned64)?;
        let soft = object.require("soft", |soft| match soft.unsigned64()? {
            limit if limit > hard => Err(soft.wrong("it is greater than the hard limit")),
            limit => Ok(limit),
        })?;
        rlimits.push(Rlimit { resource, soft, hard });
    }
    Ok(rlimits)
}

pub(super) fn write(process: &ProcessSpec) -> Result<Value> {
    if process.seccomp.is_some() {
        return Err(cannot("seccomp", "the filter is compiled"));
    }
    if process.args.first().map(Vec::as_slice) != Some(process.command.as_bytes()) {
        return Err(cannot("command", "its name is the first of its arguments there"));
    }
    let mut value = Map::new();
    let texts = |what: &str, list: &[Vec<u8>]| -> Result<Value> {
        let texts = list.iter().map(|text| path_text(what, &PathBytes::new(text.clone())));
        texts.collect::<Result<Vec<_>>>().map(Value::from)
    };
    value.insert("terminal".into(), false.into());
    value.insert("user".into(), write_user(&process.user));
    value.insert("args".into(), texts("process.args", &process.args)?);
    if !process.env.is_empty() {
        value.insert("env".into(), texts("process.env", &process.env)?);
    }
    let cwd = process.cwd.as_ref().map_or_else(|| Ok("/".to_owned()), |cwd| path_text("process.cwd", cwd))?;
    value.insert("cwd".into(), cwd.into());
    value.insert("capabilities".into(), write_capabilities(process.effective_capabilities()));
    if !process.rlimits.is_empty() {
        value.insert("rlimits".into(), write_rlimits(&process.rlimits)?);
    }
    value.insert("noNewPrivileges".into(), process.no_new_privileges.into());
    if let Some(score) = process.oom_score_adj {
        value.insert("oomScoreAdj".into(), score.into());
    }
    for (key, name) in
        [("apparmorProfile", &process.apparmor_profile), ("selinuxLabel", &process.selinux_label)]
    {
        if let Some(name) = name {
            value.insert(key.into(), name.as_str().into());
        }
    }
    Ok(Value::Object(value))
}

fn write_user(user: &User) -> Value {
    let mut value = json!({ "uid": user.uid, "gid": user.gid });
    if !user.additional_gids.is_empty() {
        value["additionalGids"] = user.additional_gids.clone().into();
    }
    if let Some(umask) = user.umask {
        value["umask"] = umask.into();
    }
    value
}

fn write_capabilities(capabilities: Capabilities) -> Value {
    let sets = [
        ("bounding", capabilities.bounding),
        ("effective", capabilities.effective),
        ("permitted", capabilities.permitted),
        ("inheritable", capabilities.inheritable),
        ("ambient", capabilities.ambient),
    ];
    let named = sets.into_iter().filter(|(_, set)| *set != 0);
    named.map(|(key, set)| (key.to_owned(), Value::from(names(set)))).collect::<Map<_, _>>().into()
}

fn write_rlimits(rlimits: &[Rlimit]) -> Result<Value> {
    let mut list = Vec::new();
    for limit in rlimits {
        let known = RLIMITS.iter().find(|(_, number)| *number == limit.resource);
        let Some((name, _)) = known else { return Err(cannot("rlimits", "the limit has no name")) };
        for value in [limit.soft, limit.hard] {
            if value != INFINITY && !survives_as_double(value) {
                return Err(unsafe_number(name, value));
            }
        }
        list.push(json!({ "type": name, "soft": limit.soft, "hard": limit.hard }));
    }
    Ok(list.into())
}

/// Whether JavaScript's numbers hold it.
fn survives_as_double(value: u64) -> bool {
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let back = (value as f64) as u64;
    back == value
}

fn unsafe_number(name: &str, value: u64) -> Box<Error> {
    cannot(name, &format!("{value} is no number of JavaScript's"))
}
