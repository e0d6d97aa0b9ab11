//! Writes a specification as an OCI config.

use serde_json::{Map, Value, json};

use super::mounts::{cannot, path_text};
use super::{OCI_VERSION, linux, mounts, process};
use crate::error::Result;
use crate::path::PathBytes;
use crate::process::ProcessSpec;
use crate::spec::{Hook, HookPoint, Root, RootfsSpec};

/// The config that says the same. What OCI has no words for is an error that names it: reading what is written gives the
/// same specification again. The user namespace must be decided: none, or mapped.
pub fn write(rootfs: &RootfsSpec, process: Option<&ProcessSpec>) -> Result<Value> {
    let mut config = Map::new();
    config.insert("ociVersion".into(), OCI_VERSION.into());
    if let Some(process) = process {
        config.insert("process".into(), process::write(process, &rootfs.unenforced)?);
    }
    let Root::Directory(path) = &rootfs.root else {
        return Err(cannot("root", "its root is always a directory that exists"));
    };
    config.insert("root".into(), write_root(rootfs, path)?);
    for (key, name) in [("hostname", &rootfs.hostname), ("domainname", &rootfs.domainname)] {
        if let Some(name) = name {
            config.insert(key.into(), name.as_str().into());
        }
    }
    config.insert("mounts".into(), mounts::write(rootfs, path)?.into());
    if !rootfs.hooks.is_empty() {
        config.insert("hooks".into(), write_hooks(&rootfs.hooks)?);
    }
    if !rootfs.annotations.is_empty() {
        let annotations: Map<String, Value> =
            rootfs.annotations.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
        config.insert("annotations".into(), annotations.into());
    }
    config.insert("linux".into(), linux::write(rootfs)?);
    Ok(Value::Object(config))
}

fn write_root(rootfs: &RootfsSpec, path: &PathBytes) -> Result<Value> {
    let readonly = match rootfs.readonly {
        None => false,
        Some(readonly) if readonly.recursive => {
            return Err(cannot("readonly", "it makes the top mount of the root read-only, and no other"));
        }
        Some(_) => true,
    };
    Ok(json!({ "path": path_text("root", path)?, "readonly": readonly }))
}

fn write_hooks(hooks: &[Hook]) -> Result<Value> {
    let mut value = Map::new();
    for point in HookPoint::ALL {
        let list =
            hooks.iter().filter(|hook| hook.point == point).map(write_hook).collect::<Result<Vec<_>>>()?;
        if !list.is_empty() {
            value.insert(point.name().into(), list.into());
        }
    }
    Ok(Value::Object(value))
}

fn write_hook(hook: &Hook) -> Result<Value> {
    if hook.function.is_some() {
        return Err(cannot("hook", "it is a function of the calling program"));
    }
    let mut value = json!({ "path": path_text("hook", &hook.path)? });
    for (key, list) in [("args", &hook.args), ("env", &hook.env)] {
        if !list.is_empty() {
            let texts = list.iter().map(|text| path_text("hook", &PathBytes::new(text.clone())));
            value[key] = texts.collect::<Result<Vec<_>>>()?.into();
        }
    }
    if let Some(timeout) = hook.timeout {
        value["timeout"] = timeout.into();
    }
    Ok(value)
}
