//! Reads an OCI config: the top level, the root, and hooks.

use serde_json::Value;

use super::node::{Context, Node, Object};
use super::{json, linux, mounts, process};
use crate::error::{ErrorCode, Result};
use crate::path::PathBytes;
use crate::process::ProcessSpec;
use crate::spec::{Hook, HookPoint, Namespace, ReadonlyRoot, Root, RootfsSpec};

/// How a config is read.
#[derive(Clone, Debug)]
pub struct ReadOptions {
    /// Fields that may be present and are not enforced: names such as `linux.seccomp`, or JSON pointers. They are
    /// taken as absent, and listed among the plan's warnings.
    pub ignore: Vec<String>,
    /// Whether there must be a root; without one it is an empty tmpfs.
    pub expect_root: bool,
    /// What relative paths are taken from; absolute.
    pub bundle: PathBytes,
    /// Whether the bundle is a directory that the caller named, which hooks are told.
    pub has_bundle: bool,
}

/// What an OCI config says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The root filesystem.
    pub rootfs: RootfsSpec,
    /// The process, if there is one.
    pub process: Option<ProcessSpec>,
}

/// Reads a config. Every field is enforced, or refused with its JSON pointer: [`super::fields`].
pub fn read(text: &[u8], options: &ReadOptions) -> Result<Config> {
    read_value(&json::parse(text)?, options)
}

pub(super) fn read_value(value: &Value, options: &ReadOptions) -> Result<Config> {
    read_in(&Context::new(&options.ignore), value, options)
}

pub(super) fn read_in(context: &Context<'_>, value: &Value, options: &ReadOptions) -> Result<Config> {
    let top = Node::top(context, value).object()?;
    top.require("ociVersion", check_version)?;
    let mut rootfs = RootfsSpec::new(Root::Empty { size: None, mode: 0o755 });
    rootfs.bundle = options.has_bundle.then(|| options.bundle.clone());
    match top.get("root") {
        Some(root) => read_root(&root.object()?, options, &mut rootfs)?,
        None if options.expect_root => return Err(top.missing("root")),
        None => {}
    }
    let mounts = top.read("mounts", |list| mounts::read(list, options, &mut rootfs))?.unwrap_or_default();
    linux::read(&top, &mut rootfs)?;
    mounts::check(&mounts, &rootfs)?;
    for (key, place) in [("hostname", &mut rootfs.hostname), ("domainname", &mut rootfs.domainname)] {
        if let Some(name) = top.get(key) {
            *place = read_name(name, &rootfs.namespaces.uts)?;
        }
    }
    if let Some(hooks) = top.get("hooks") {
        read_hooks(&hooks.object()?, &mut rootfs)?;
    }
    rootfs.annotations = top.read("annotations", |node| node.strings(|_, _| Ok(())))?.unwrap_or_default();
    let process = top.read("process", |process| process::read(process, &mut rootfs.unenforced))?;
    rootfs.warnings = context.take_warnings();
    // Each part is checked where it is read, so that errors have its place; what the parts are together is checked here.
    rootfs.validate()?;
    Ok(Config { rootfs, process })
}

fn check_version(version: &Node<'_>) -> Result<()> {
    let text = version.text()?;
    let numbers = text.split(['-', '+']).next().unwrap_or_default();
    let parts: Vec<&str> = numbers.split('.').collect();
    let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if parts.len() != 3 || !parts.iter().all(is_number) {
        return Err(version.unexpected("version such as '1.2.0'"));
    }
    if parts[0] != "1" {
        return Err(version.error(
            ErrorCode::Unsupported,
            format_args!("version {text} of the runtime-spec is not known here, only 1.x"),
        ));
    }
    Ok(())
}

fn read_root(root: &Object<'_>, options: &ReadOptions, rootfs: &mut RootfsSpec) -> Result<()> {
    rootfs.root = Root::Directory(root.require("path", |path| Ok(in_bundle(&path.path()?, options)))?);
    if root.read("readonly", Node::boolean)?.unwrap_or(false) {
        rootfs.readonly = Some(ReadonlyRoot { recursive: false });
    }
    Ok(())
}

/// A path as it is from the bundle. `.` is the bundle itself; `..` is left to the kernel, because of symlinks.
pub(super) fn in_bundle(path: &PathBytes, options: &ReadOptions) -> PathBytes {
    if path.is_absolute() {
        return path.clone();
    }
    path.components().fold(options.bundle.clone(), |path, name| path.join(name))
}

fn read_name(name: &Node<'_>, uts: &Namespace) -> Result<Option<String>> {
    let text = name.text()?;
    if text.is_empty() {
        return Ok(None);
    }
    if text.len() > 64 {
        return Err(name.unexpected("string of at most 64 bytes"));
    }
    if *uts == Namespace::Inherit {
        return Err(name.wrong("needs a uts namespace in linux.namespaces, or the host's would be changed"));
    }
    Ok(Some(text.to_owned()))
}

fn read_hooks(hooks: &Object<'_>, rootfs: &mut RootfsSpec) -> Result<()> {
    for point in HookPoint::ALL {
        let Some(list) = hooks.get(point.name()) else { continue };
        let items = list.items()?;
        if !items.is_empty() && point.needs_attached_tree() && rootfs.namespaces.mount != Namespace::New {
            return Err(list.wrong("needs a mount namespace of the container's own in linux.namespaces"));
        }
        for item in &items {
            rootfs.hooks.push(read_hook(&item.object()?, point)?);
        }
    }
    Ok(())
}

fn read_hook(hook: &Object<'_>, point: HookPoint) -> Result<Hook> {
    Ok(Hook {
        point,
        path: hook.require("path", Node::absolute_path)?,
        args: hook.read("args", |args| args.list(Node::bytes))?.unwrap_or_default(),
        env: hook.read("env", |env| env.list(Node::bytes))?.unwrap_or_default(),
        timeout: hook.read("timeout", |timeout| timeout.integer32(1, i32::MAX.cast_unsigned()))?,
        function: None,
    })
}
