//! The `linux` part of an OCI config, read and written.

use serde_json::{Map, Value, json};

use super::mounts::{cannot, path_text};
use super::node::{Node, Object};
use crate::error::{ErrorCode, Result};
use crate::options::Propagation;
use crate::path::PathBytes;
use crate::spec::{
    Content, Device, DeviceType, IdMap, IdMapping, MAX_ID, MAX_LABEL, Mask, MissingMask, MountKind,
    Namespace, Namespaces, RootfsSpec, UserNamespace, validate_mappings,
};
use crate::sysctl;

/// The largest numbers that a `dev_t` of the kernel holds.
const MAX_MAJOR: u32 = 0xfff;
const MAX_MINOR: u32 = 0xf_ffff;

pub(super) fn read(top: &Object<'_>, rootfs: &mut RootfsSpec) -> Result<()> {
    // What is not named is the caller's own, as the specification has it.
    rootfs.namespaces.user = UserNamespace::None;
    for (_, namespace) in others(&mut rootfs.namespaces) {
        *namespace = Namespace::Inherit;
    }
    let bind_covers_dev = bind_covers_dev(rootfs);
    rootfs.dev = !bind_covers_dev;
    let Some(linux) = top.get("linux") else { return Err(top.missing("linux")) };
    let linux = linux.object()?;
    read_namespaces(&linux, rootfs)?;
    if let Some(devices) = linux.get("devices") {
        for device in devices.items()? {
            let Some(read) = read_device(&device)? else { continue };
            if bind_covers_dev {
                let message = format!("{}: {} is not made: a bind covers /dev", device.name, read.path);
                device.context().warn("device-not-made", message);
            } else {
                read.validate(&device.name).map_err(|error| error.with_pointer(&device.pointer))?;
                rootfs.devices.push(read);
            }
        }
    }
    rootfs.propagation = linux.read("rootfsPropagation", read_propagation)?.flatten();
    let paths = |key| linux.read(key, |list| list.list(read_path_below_root));
    let masks = paths("maskedPaths")?.unwrap_or_default();
    rootfs.masks.extend(masks.into_iter().map(|path| Mask { path, missing: MissingMask::Skip }));
    rootfs.readonly_paths = paths("readonlyPaths")?.unwrap_or_default();
    if rootfs.namespaces.mount != Namespace::New {
        for (key, empty) in
            [("maskedPaths", rootfs.masks.is_empty()), ("readonlyPaths", rootfs.readonly_paths.is_empty())]
        {
            if let Some(list) = linux.get(key).filter(|_| !empty) {
                return Err(list.wrong("needs a mount namespace of the container's own in linux.namespaces"));
            }
        }
    }
    if let Some(parameters) = linux.get("sysctl") {
        rootfs.sysctl = parameters.strings(|node, name| {
            let path = sysctl::path_of(name).map_err(|what| node.wrong(what))?;
            sysctl::check(&path, &rootfs.namespaces).map_err(|what| node.wrong(what))
        })?;
    }
    let label = linux.read("mountLabel", |label| match label.text()? {
        text if text.len() > MAX_LABEL => {
            Err(label.unexpected(format_args!("string of at most {MAX_LABEL} bytes")))
        }
        text => Ok(text),
    })?;
    rootfs.mount_label = label.filter(|label| !label.is_empty()).map(str::to_owned);
    Ok(())
}

/// Nothing can be mounted between a process and its root.
fn read_path_below_root(node: &Node<'_>) -> Result<PathBytes> {
    let path = node.absolute_path()?;
    if path.is_top() {
        return Err(node.wrong(format_args!("{path} is the root itself; root.readonly makes that read-only")));
    }
    Ok(path)
}

/// Whether the usual content of /dev is somebody else's.
fn bind_covers_dev(rootfs: &RootfsSpec) -> bool {
    rootfs.content.iter().any(|content| match content {
        Content::Mount(mount) => {
            matches!(mount.kind, MountKind::Bind { .. }) && mount.destination.normalized() == "/dev".into()
        }
        Content::Directory(_) | Content::Symlink(_) => false,
    })
}

/// The namespaces but those of users and mounts, by their OCI names.
fn others(namespaces: &mut Namespaces) -> [(&'static str, &mut Namespace); 5] {
    [
        ("pid", &mut namespaces.pid),
        ("network", &mut namespaces.network),
        ("ipc", &mut namespaces.ipc),
        ("uts", &mut namespaces.uts),
        ("cgroup", &mut namespaces.cgroup),
    ]
}

/// The types of namespaces.
const NAMESPACES: [(&str, &str); 8] = [
    ("pid", "pid"),
    ("network", "network"),
    ("mount", "mount"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("user", "user"),
    ("cgroup", "cgroup"),
    ("time", "time"),
];

fn read_namespaces(linux: &Object<'_>, rootfs: &mut RootfsSpec) -> Result<()> {
    let mut seen: Vec<&str> = Vec::new();
    let mut new_user = false;
    let list = linux.read("namespaces", Node::items)?.unwrap_or_default();
    for item in &list {
        let object = item.object()?;
        let kind = object.require("type", |kind| {
            let word = kind.word(&NAMESPACES)?;
            if seen.contains(&word) {
                return Err(kind.wrong(format_args!("there are two {word} namespaces")));
            }
            Ok(word)
        })?;
        seen.push(kind);
        let path = object.get("path").filter(|path| !matches!(path.text(), Ok("")));
        let path = path.map(|node| Ok::<_, Box<crate::Error>>((node, node.absolute_path()?))).transpose()?;
        match (kind, &path) {
            ("time", _) => {
                let what = "a time namespace is not supported by this version";
                return Err(item.error(ErrorCode::Unsupported, what));
            }
            ("mount", None) => rootfs.namespaces.mount = Namespace::New,
            ("mount", Some((_, path))) => rootfs.namespaces.mount = Namespace::Path(path.clone()),
            ("user", None) => new_user = true,
            ("user", Some((_, path))) => rootfs.namespaces.user = UserNamespace::Path(path.clone()),
            (_, path) => {
                for (name, place) in others(&mut rootfs.namespaces) {
                    if name == kind {
                        *place =
                            path.as_ref().map_or(Namespace::New, |(_, path)| Namespace::Path(path.clone()));
                    }
                }
            }
        }
    }
    if !seen.contains(&"mount") {
        rootfs.namespaces.mount = Namespace::Inherit;
    }
    let map = IdMap {
        uids: read_mappings(linux, "uidMappings", new_user)?,
        gids: read_mappings(linux, "gidMappings", new_user)?,
    };
    if new_user {
        // crun writes it so, and means the same.
        let nothing_said = map.uids.is_empty() && map.gids.is_empty();
        rootfs.namespaces.user =
            if nothing_said { UserNamespace::Caller } else { UserNamespace::Mapped(map) };
    }
    Ok(())
}

/// Whether a list has elements.
fn has(linux: &Object<'_>, key: &str) -> Result<bool> {
    linux.read(key, |list| list.items().map(|items| !items.is_empty())).map(Option::unwrap_or_default)
}

fn read_mappings(linux: &Object<'_>, key: &str, new_user: bool) -> Result<Vec<IdMapping>> {
    let mappings = linux.read(key, |list| list.list(read_mapping))?.unwrap_or_default();
    match linux.get(key) {
        Some(list) if !new_user && !mappings.is_empty() => {
            Err(list.wrong("mappings need a new user namespace in linux.namespaces"))
        }
        Some(list) if new_user && !mappings.is_empty() => {
            validate_mappings(&list.name, &mappings).map_err(|error| error.with_pointer(&list.pointer))?;
            Ok(mappings)
        }
        _ if new_user && (has(linux, "uidMappings")? || has(linux, "gidMappings")?) => {
            Err(linux.missing(key))
        }
        _ => Ok(mappings),
    }
}

pub(super) fn read_mapping(mapping: &Node<'_>) -> Result<IdMapping> {
    let object = mapping.object()?;
    Ok(IdMapping {
        container_id: object.require("containerID", |id| id.integer32(0, MAX_ID))?,
        host_id: object.require("hostID", |id| id.integer32(0, MAX_ID))?,
        size: object.require("size", |size| size.integer32(1, u32::MAX))?,
    })
}

const DEVICES: [(&str, DeviceType); 4] = [
    ("c", DeviceType::Character),
    ("u", DeviceType::Character),
    ("b", DeviceType::Block),
    ("p", DeviceType::Fifo),
];

fn read_device(device: &Node<'_>) -> Result<Option<Device>> {
    let object = device.object()?;
    let path = object.get("path").filter(|path| !matches!(path.text(), Ok("")));
    let path = path.map(Node::absolute_path).transpose()?;
    let kind = object.require("type", |kind| kind.word(&DEVICES))?;
    let number = |key, max| match kind {
        DeviceType::Fifo => object.read(key, |number| number.integer32(0, 0)).map(Option::unwrap_or_default),
        _ => object.require(key, |number| number.integer32(0, max)),
    };
    let (major, minor) = (number("major", MAX_MAJOR)?, number("minor", MAX_MINOR)?);
    // Some write the type of the file beside the permission bits.
    let mode = object.read("fileMode", |mode| mode.integer32(0, 0o17_7777))?.map(|mode| mode & 0o7777);
    let id = |key| object.read(key, |id| id.integer32(0, MAX_ID)).map(Option::unwrap_or_default);
    let (uid, gid) = (id("uid")?, id("gid")?);
    let Some(path) = path else {
        let message = format!("{}: without a path it is about cgroups only, and skipped", device.name);
        device.context().warn("device-not-made", message);
        return Ok(None);
    };
    Ok(Some(Device { path, kind, major, minor, mode: mode.unwrap_or(0o666), uid, gid }))
}

fn read_propagation(node: &Node<'_>) -> Result<Option<Propagation>> {
    let text = node.text()?;
    if text.is_empty() {
        return Ok(None);
    }
    Propagation::from_name(text).map(Some).ok_or_else(|| {
        node.unexpected(
            "one of 'private', 'rprivate', 'shared', 'rshared', 'slave', 'rslave', 'unbindable', 'runbindable'",
        )
    })
}

pub(super) fn write(rootfs: &RootfsSpec) -> Result<Value> {
    let mut linux = Map::new();
    let mut namespaces = Vec::new();
    match &rootfs.namespaces.mount {
        Namespace::New => namespaces.push(json!({ "type": "mount" })),
        Namespace::Path(path) => {
            namespaces.push(json!({ "type": "mount", "path": path_text("namespaces", path)? }));
        }
        Namespace::Inherit => {}
    }
    match &rootfs.namespaces.user {
        UserNamespace::Path(path) => {
            namespaces.push(json!({ "type": "user", "path": path_text("namespaces", path)? }));
        }
        UserNamespace::None => {}
        UserNamespace::Mapped(map) => {
            namespaces.push(json!({ "type": "user" }));
            linux.insert("uidMappings".into(), write_mappings(&map.uids));
            linux.insert("gidMappings".into(), write_mappings(&map.gids));
        }
        UserNamespace::UnlessPrivileged | UserNamespace::Caller => {
            return Err(cannot("namespaces.user", "which ids are mapped depends on the caller"));
        }
    }
    for (kind, namespace) in others(&mut rootfs.namespaces.clone()) {
        match namespace {
            Namespace::Inherit => {}
            Namespace::New => namespaces.push(json!({ "type": kind })),
            Namespace::Path(path) => {
                namespaces.push(json!({ "type": kind, "path": path_text("namespaces", path)? }));
            }
        }
    }
    linux.insert("namespaces".into(), namespaces.into());
    write_devices(rootfs, &mut linux)?;
    if let Some(propagation) = rootfs.propagation {
        linux.insert("rootfsPropagation".into(), propagation.name().into());
    }
    if rootfs.masks.iter().any(|mask| mask.missing != MissingMask::Skip) {
        return Err(cannot("mask", "a masked path that is missing is always skipped there"));
    }
    let masks: Vec<PathBytes> = rootfs.masks.iter().map(|mask| mask.path.clone()).collect();
    for (key, paths) in [("maskedPaths", &masks), ("readonlyPaths", &rootfs.readonly_paths)] {
        if !paths.is_empty() {
            let paths =
                paths.iter().map(|path| path_text(key, &absolute(path))).collect::<Result<Vec<_>>>()?;
            linux.insert(key.into(), paths.into());
        }
    }
    if !rootfs.sysctl.is_empty() {
        let sysctl: Map<String, Value> =
            rootfs.sysctl.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
        linux.insert("sysctl".into(), sysctl.into());
    }
    if let Some(label) = &rootfs.mount_label {
        linux.insert("mountLabel".into(), label.as_str().into());
    }
    Ok(Value::Object(linux))
}

/// A relative path in the root is taken from its top.
fn absolute(path: &PathBytes) -> PathBytes {
    if path.is_absolute() { path.clone() } else { PathBytes::from("/").join(path.as_bytes()) }
}

pub(super) fn write_mappings(mappings: &[IdMapping]) -> Value {
    mappings
        .iter()
        .map(|line| json!({ "containerID": line.container_id, "hostID": line.host_id, "size": line.size }))
        .collect()
}

fn write_devices(rootfs: &RootfsSpec, linux: &mut Map<String, Value>) -> Result<()> {
    if rootfs.dev == bind_covers_dev(rootfs) {
        return Err(if rootfs.dev {
            cannot("dev", "where a bind covers /dev, nothing is made in it")
        } else {
            cannot(
                "no dev()",
                "it always has the usual devices of /dev, unless a bind covers it: dev() or defaults() makes them",
            )
        });
    }
    if !rootfs.dev && !rootfs.devices.is_empty() {
        return Err(cannot("device", "where a bind covers /dev, nothing is made in it"));
    }
    let mut devices = Vec::new();
    for device in &rootfs.devices {
        let kind = match device.kind {
            DeviceType::Character => "c",
            DeviceType::Block => "b",
            DeviceType::Fifo => "p",
        };
        let mut value = json!({
            "path": path_text("device", &absolute(&device.path))?,
            "type": kind,
            "fileMode": device.mode,
            "uid": device.uid,
            "gid": device.gid,
        });
        if device.kind != DeviceType::Fifo {
            value["major"] = device.major.into();
            value["minor"] = device.minor.into();
        }
        devices.push(value);
    }
    if !devices.is_empty() {
        linux.insert("devices".into(), devices.into());
    }
    Ok(())
}
