//! The options of the builder's methods, as parts of a specification.

use rootfs::PathBytes;
use rootfs::options::{Attributes, Links, Propagation, attr};
use rootfs::origin::Origin;
use rootfs::overlay::{MAX_LOWER, Overlay, pair};
use rootfs::spec::{
    BindSource, Hook, HookPoint, IdMap, IdMapping, MAX_LABEL, MissingMask, Mount, MountIdMap, MountIds,
    MountKind, Namespace, Namespaces, Root, UserNamespace, mount_from_oci,
};

use crate::argument::{
    JsArg, Options, Parsed, absolute_path, array, id, integer, integer32, mode, path, size, text, unexpected,
    word,
};
use crate::failure::{ArgumentKind, Failure};

const PROPAGATION: [&str; 8] =
    ["private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable"];

pub(crate) fn propagation(name: &str, value: &JsArg) -> Parsed<Propagation> {
    word(name, value, &PROPAGATION, Propagation::from_name)
}

/// A path of the host: a relative one is taken from the working directory at the call.
pub(crate) fn host_path(name: &str, value: &JsArg) -> Parsed<PathBytes> {
    let path = path(name, value)?;
    if path.is_absolute() {
        return Ok(path);
    }
    let cwd = rustix::process::getcwd(Vec::new()).map_err(|errno| {
        Failure::argument(
            ArgumentKind::Value,
            format!("{name} is relative, and there is no working directory: {errno}"),
        )
    })?;
    Ok(PathBytes::new(cwd.into_bytes()).join(path.as_bytes()))
}

/// Whether the source of a bind is a descriptor, and which.
pub(crate) enum Source {
    Path(PathBytes),
    InRoot(PathBytes),
    Fd(i32),
}

pub(crate) fn bind_source(value: &JsArg) -> Parsed<Source> {
    if !matches!(value, JsArg::Object(_)) {
        return host_path("source", value).map(Source::Path);
    }
    let mut object = Options::nested("source", value)?;
    let fd = object.take("fd", |name, value| integer32(name, value, 0, i32::MAX.cast_unsigned()))?;
    let in_root = object.take("inRoot", path)?;
    object.finish()?;
    match (fd, in_root) {
        (Some(fd), None) => Ok(Source::Fd(fd.cast_signed())),
        (None, Some(path)) => Ok(Source::InRoot(path)),
        _ => Err(unexpected(ArgumentKind::Value, "path, { fd } or { inRoot }", "source", value)),
    }
}

pub(crate) fn bind(source: BindSource, destination: PathBytes, options: JsArg) -> Parsed<Mount> {
    let mut options = Options::of_call(options)?;
    let mut set = 0;
    for (key, bit, default) in [
        ("readonly", attr::RDONLY, false),
        ("nosuid", attr::NOSUID, true),
        ("nodev", attr::NODEV, true),
        ("noexec", attr::NOEXEC, false),
        ("nosymfollow", attr::NOSYMFOLLOW, false),
    ] {
        if options.flag(key, default)? {
            set |= bit;
        }
    }
    let recursive = options.flag("recursive", true)?;
    let optional = options.flag("optional", false)?;
    let atime = options.take("atime", |name, value| {
        word(name, value, &["noatime", "relatime", "strictatime"], |text| match text {
            "noatime" => Some(attr::NOATIME),
            "relatime" => Some(attr::RELATIME),
            "strictatime" => Some(attr::STRICTATIME),
            _ => None,
        })
    })?;
    let propagation = options.take("propagation", propagation)?.unwrap_or(Propagation::RPRIVATE);
    let within = options.take("within", host_path)?;
    let ids = options.take("idMap", mount_ids)?;
    options.finish()?;
    Ok(Mount {
        destination,
        kind: MountKind::Bind { source, recursive, optional, within },
        attributes: Attributes { set_recursive: set, atime_recursive: atime, ..Attributes::default() },
        propagation: vec![propagation],
        id_map: ids.map(|ids| MountIdMap { ids, recursive }),
        ineffective: Vec::new(),
        links: Links::default(),
    })
}

fn filesystem(destination: PathBytes, fstype: &str, set: u64, data: Vec<(String, Option<String>)>) -> Mount {
    Mount {
        destination,
        kind: MountKind::Filesystem {
            fstype: fstype.to_owned(),
            source: None,
            superblock: Vec::new(),
            data,
            bind_fallback: false,
            copy_up: false,
        },
        attributes: Attributes { set, ..Attributes::default() },
        propagation: Vec::new(),
        id_map: None,
        ineffective: Vec::new(),
        links: Links::default(),
    }
}

pub(crate) fn tmpfs(destination: PathBytes, options: JsArg) -> Parsed<Mount> {
    let mut options = Options::of_call(options)?;
    let mut data = Vec::new();
    let mut option = |key: &str, value: Option<String>| {
        data.extend(value.map(|value| (key.to_owned(), Some(value))));
    };
    option("size", options.take("size", size)?.map(|size| size.to_string()));
    option(
        "nr_inodes",
        options
            .take("inodes", |name, value| integer(name, value, 1, 1 << 52))?
            .map(|count| count.to_string()),
    );
    option("mode", options.take("mode", mode)?.map(|mode| format!("{mode:o}")));
    option("uid", options.take("uid", id)?.map(|id| id.to_string()));
    option("gid", options.take("gid", id)?.map(|id| id.to_string()));
    let mut set = attr::NOSUID | attr::NODEV;
    for (key, bit) in [("readonly", attr::RDONLY), ("noexec", attr::NOEXEC)] {
        if options.flag(key, false)? {
            set |= bit;
        }
    }
    let wanted = options.flag("copyUp", false)?;
    options.finish()?;
    let mut mount = filesystem(destination, "tmpfs", set, data);
    if let MountKind::Filesystem { copy_up, .. } = &mut mount.kind {
        *copy_up = wanted;
    }
    Ok(mount)
}

/// The directories of an overlay, and whether it is volatile; the rest of the options is left.
fn overlay_of(options: &mut Options, private_upper: bool) -> Parsed<Overlay> {
    let lower = options.require("lower", |name, value| {
        let lower = array(name, value, host_path)?;
        if lower.is_empty() || lower.len() > MAX_LOWER {
            let wanted = format!("array of 1 to {MAX_LOWER} directories");
            return Err(unexpected(ArgumentKind::Value, wanted, name, value));
        }
        Ok(lower)
    })?;
    let upper = options.take("upper", host_path)?;
    let work = options.take("work", host_path)?;
    let volatile = options.flag("volatile", false)?;
    let upper = pair(upper, work).map_err(|what| Failure::argument(ArgumentKind::Value, what.to_owned()))?;
    let overlay = Overlay { lower, upper, volatile, ..Overlay::default() };
    overlay.validate(private_upper)?;
    Ok(overlay)
}

pub(crate) fn overlay_root(options: JsArg) -> Parsed<Root> {
    let mut options = Options::nested("options", &options)?;
    let overlay = overlay_of(&mut options, true)?;
    let size = options.take("size", |name, value| {
        if overlay.upper.is_some() {
            let what = format!(
                "{name} is of the tmpfs that an overlay without upper is written to, and there is upper"
            );
            return Err(Failure::argument(ArgumentKind::Value, what));
        }
        size(name, value)
    })?;
    options.finish()?;
    Ok(Root::Overlay { overlay, size })
}

pub(crate) fn overlay(destination: PathBytes, options: &JsArg) -> Parsed<Mount> {
    let mut options = Options::nested("options", options)?;
    let overlay = overlay_of(&mut options, false)?;
    options.finish()?;
    let readonly = if overlay.upper.is_none() { attr::RDONLY } else { 0 };
    Ok(Mount {
        destination,
        kind: MountKind::Overlay(overlay),
        attributes: Attributes { set: attr::NOSUID | attr::NODEV | readonly, ..Attributes::default() },
        propagation: Vec::new(),
        id_map: None,
        ineffective: Vec::new(),
        links: Links::default(),
    })
}

pub(crate) fn proc(destination: PathBytes, options: JsArg) -> Parsed<Mount> {
    const HIDEPID: [&str; 4] = ["off", "noaccess", "invisible", "ptraceable"];
    let mut options = Options::of_call(options)?;
    let mut data = Vec::new();
    let find = |words: &'static [&'static str]| {
        move |name: &str, value: &JsArg| {
            word(name, value, words, |text| words.iter().find(|word| **word == text).copied())
        }
    };
    for (key, words) in [("hidepid", &HIDEPID[..]), ("subset", &["pid"][..])] {
        if let Some(value) = options.take(key, find(words))? {
            data.push((key.to_owned(), Some(value.to_owned())));
        }
    }
    let mut set = attr::NOSUID | attr::NODEV | attr::NOEXEC;
    if options.flag("readonly", false)? {
        set |= attr::RDONLY;
    }
    let fallback = options.take("fallback", |name, value| {
        word(name, value, &["error", "bind"], |text| match text {
            "error" => Some(false),
            "bind" => Some(true),
            _ => None,
        })
    })?;
    options.finish()?;
    let mut mount = filesystem(destination, "proc", set, data);
    if let MountKind::Filesystem { bind_fallback, .. } = &mut mount.kind {
        *bind_fallback = fallback.unwrap_or(false);
    }
    Ok(mount)
}

/// The one option of `sysfs` and `cgroup`.
pub(crate) fn readonly(options: JsArg, default: bool) -> Parsed<bool> {
    let mut options = Options::of_call(options)?;
    let readonly = options.flag("readonly", default)?;
    options.finish()?;
    Ok(readonly)
}

pub(crate) fn oci_mount(value: JsArg) -> Parsed<(Mount, Origin)> {
    let mut object = Options::nested("mount", &value)?;
    let destination = object.require("destination", path)?;
    let source = object.take("source", path)?;
    let fstype = object.take("type", text)?;
    let words = object.take("options", |name, value| array(name, value, text))?.unwrap_or_default();
    let lines = |name: &str, value: &JsArg| array(name, value, oci_mapping);
    let uids = object.take("uidMappings", lines)?.unwrap_or_default();
    let gids = object.take("gidMappings", lines)?.unwrap_or_default();
    object.finish()?;
    let mappings = match (uids.is_empty(), gids.is_empty()) {
        (true, true) => None,
        (false, false) => Some(IdMap { uids, gids }),
        (_, missing) => {
            let (given, missing) =
                if missing { ("uidMappings", "gidMappings") } else { ("gidMappings", "uidMappings") };
            return Err(Failure::argument(
                ArgumentKind::Value,
                format!("Expected array of mappings for mount.{missing} together with mount.{given}"),
            ));
        }
    };
    let origin = Origin::of_argument("mount", &words);
    let mut mount = mount_from_oci(destination, source, fstype.as_deref(), &words, mappings)
        .map_err(|error| error.located(|part| origin.locate(part)))?;
    if let MountKind::Overlay(overlay) = &mut mount.kind {
        for (name, path) in overlay.directories_mut().filter(|(_, path)| !path.is_absolute()) {
            *path = host_path(name, &JsArg::Bytes(path.as_bytes().to_vec()))?;
        }
    }
    if let MountKind::Bind { source: BindSource::Host(path), .. } = &mut mount.kind
        && !path.is_absolute()
    {
        *path = host_path("source", &JsArg::Bytes(path.as_bytes().to_vec()))?;
    }
    Ok((mount, origin))
}

/// One path or several.
pub(crate) fn paths(value: &JsArg) -> Parsed<Vec<PathBytes>> {
    match value {
        JsArg::Array(_) => array("paths", value, path),
        _ => Ok(vec![path("paths", value)?]),
    }
}

pub(crate) fn missing(options: JsArg) -> Parsed<MissingMask> {
    let words = MissingMask::ALL.map(|(word, _)| word);
    let mut options = Options::of_call(options)?;
    let missing = options.take("missing", |name, value| {
        word(name, value, &words, |text| {
            MissingMask::ALL.into_iter().find(|(word, _)| *word == text).map(|(_, missing)| missing)
        })
    })?;
    options.finish()?;
    Ok(missing.unwrap_or(MissingMask::Skip))
}

fn mapping(name: &str, value: &JsArg) -> Parsed<IdMapping> {
    let mut object = Options::nested(name, value)?;
    let mapping = IdMapping {
        container_id: object.require("containerId", id)?,
        host_id: object.require("hostId", id)?,
        size: object.require("size", |name, value| integer32(name, value, 1, u32::MAX))?,
    };
    object.finish()?;
    Ok(mapping)
}

/// A line of `uidMappings` or `gidMappings`, whose keys the OCI writes in capitals.
fn oci_mapping(name: &str, value: &JsArg) -> Parsed<IdMapping> {
    let mut object = Options::nested(name, value)?;
    let mapping = IdMapping {
        container_id: object.require("containerID", id)?,
        host_id: object.require("hostID", id)?,
        size: object.require("size", |name, value| integer32(name, value, 1, u32::MAX))?,
    };
    object.finish()?;
    Ok(mapping)
}

fn id_map(name: &str, value: &JsArg) -> Parsed<IdMap> {
    let mut object = Options::nested(name, value)?;
    let uids = object.require("uids", |name, value| array(name, value, mapping))?;
    let gids = object.require("gids", |name, value| array(name, value, mapping))?;
    object.finish()?;
    Ok(IdMap { uids, gids })
}

fn mount_ids(name: &str, value: &JsArg) -> Parsed<MountIds> {
    match value {
        JsArg::String(text) if text == "userns" => Ok(MountIds::UserNamespace),
        JsArg::String(_) => Err(unexpected(ArgumentKind::Value, "object or 'userns'", name, value)),
        JsArg::Object(_) => id_map(name, value).map(MountIds::Map),
        other => Err(unexpected(ArgumentKind::Type, "object or 'userns'", name, other)),
    }
}

/// The SELinux context of new filesystems.
pub(crate) fn mount_label(value: &JsArg) -> Parsed<String> {
    let label = text("label", value)?;
    if label.is_empty() || label.len() > MAX_LABEL {
        let wanted = format!("string of 1 to {MAX_LABEL} bytes");
        return Err(unexpected(ArgumentKind::Value, wanted, "label", value));
    }
    Ok(label)
}

fn user(name: &str, value: &JsArg) -> Parsed<UserNamespace> {
    match value {
        JsArg::Bool(true) => Ok(UserNamespace::Caller),
        JsArg::Bool(false) => Ok(UserNamespace::None),
        JsArg::Object(entries) if entries.iter().any(|(key, _)| key == "path") => {
            if entries.iter().any(|(key, _)| key == "uids" || key == "gids") {
                let message = format!(
                    "Expected {{ path }} without uids and gids for {name}: it has its mappings already"
                );
                return Err(Failure::argument(ArgumentKind::Value, message));
            }
            namespace_path(name, value).map(UserNamespace::Path)
        }
        JsArg::Object(_) => id_map(name, value).map(UserNamespace::Mapped),
        other => Err(unexpected(ArgumentKind::Type, "boolean or object", name, other)),
    }
}

fn namespace(name: &str, value: &JsArg) -> Parsed<Namespace> {
    match value {
        JsArg::Bool(true) => Ok(Namespace::New),
        JsArg::Bool(false) => Ok(Namespace::Inherit),
        JsArg::Object(_) => namespace_path(name, value).map(Namespace::Path),
        other => Err(unexpected(ArgumentKind::Type, "boolean or object", name, other)),
    }
}

fn namespace_path(name: &str, value: &JsArg) -> Parsed<PathBytes> {
    let mut object = Options::nested(name, value)?;
    let path = object.require("path", absolute_path)?;
    object.finish()?;
    Ok(path)
}

/// Changes the namespaces that are named and leaves the others.
pub(crate) fn namespaces(namespaces: &mut Namespaces, value: &JsArg) -> Parsed<()> {
    let mut object = Options::nested("namespaces", value)?;
    let mut changed = namespaces.clone();
    if let Some(user) = object.take("user", user)? {
        changed.user = user;
    }
    if let Some(pid) = object.take("pid", namespace)? {
        changed.pid = pid;
    }
    for (key, place) in [
        ("ipc", &mut changed.ipc),
        ("uts", &mut changed.uts),
        ("cgroup", &mut changed.cgroup),
        ("network", &mut changed.network),
    ] {
        if let Some(wanted) = object.take(key, namespace)? {
            *place = wanted;
        }
    }
    if let Some(path) = object.take("mount", namespace_path)? {
        changed.mount = Namespace::Path(path);
    }
    object.finish()?;
    *namespaces = changed;
    Ok(())
}

const HOOK_POINTS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

fn hook_point(when: &JsArg, points: &[&str]) -> Parsed<HookPoint> {
    word("when", when, points, |text| {
        points
            .contains(&text)
            .then(|| HookPoint::ALL.into_iter().find(|point| point.name() == text))
            .flatten()
    })
}

/// A function of the caller, under the number by which TypeScript knows it.
pub(crate) fn function_hook(when: &JsArg, number: u32, name: String) -> Parsed<Hook> {
    let named = |point: &&HookPoint| *when == JsArg::String(point.name().into());
    if let Some(point) = HookPoint::ALL.iter().find(named).filter(|point| !point.takes_functions()) {
        let others = HookPoint::ALL.iter().filter(|point| point.takes_functions());
        let others: Vec<&str> = others.map(|point| point.name()).collect();
        return Err(Failure::argument(
            ArgumentKind::Type,
            format!(
                "Expected program ({{ path }}) for hook but received a function: hooks at {} run in the container's \
                 namespaces, where this process isn't; functions can run at {}",
                point.name(),
                others.join(", ")
            ),
        ));
    }
    let point = hook_point(when, &HOOK_POINTS)?;
    let path = if name.is_empty() { "function".to_owned() } else { name };
    Ok(Hook {
        point,
        path: path.into(),
        args: Vec::new(),
        env: Vec::new(),
        timeout: None,
        function: Some(number),
    })
}

pub(crate) fn hook(when: &JsArg, value: &JsArg) -> Parsed<Hook> {
    let point = hook_point(when, &HOOK_POINTS)?;
    let bytes = |name: &str, value: &JsArg| text(name, value).map(String::into_bytes);
    let mut object = Options::nested("hook", value)?;
    let hook = Hook {
        point,
        path: object.require("path", absolute_path)?,
        args: object.take("args", |name, value| array(name, value, bytes))?.unwrap_or_default(),
        env: object.take("env", |name, value| array(name, value, bytes))?.unwrap_or_default(),
        timeout: object.take("timeout", |name, value| integer32(name, value, 1, i32::MAX.cast_unsigned()))?,
        function: None,
    };
    object.finish()?;
    Ok(hook)
}
