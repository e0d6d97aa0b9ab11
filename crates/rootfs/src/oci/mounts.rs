//! Mounts of an OCI config, read and written.

use serde_json::{Map, Value, json};

use super::linux::{read_mapping, write_mappings};
use super::node::{Context, Node, Object};
use super::read::{ReadOptions, in_bundle};
use crate::error::{Error, ErrorCode, Result};
use crate::options::{option_text, parse};
use crate::origin::{Item, Origin, locate};
use crate::overlay::{Overlay, Upper};
use crate::path::PathBytes;
use crate::spec::{
    BindSource, Content, IdMap, Mount, MountIdMap, MountIds, MountKind, Root, RootfsSpec, mount_from_oci,
    validate_mappings,
};

/// Reads the list, and returns what is to be checked when the rest is read.
pub(super) fn read<'a>(
    list: &Node<'a>,
    options: &ReadOptions,
    rootfs: &mut RootfsSpec,
) -> Result<Vec<Node<'a>>> {
    let items = list.items()?;
    for item in &items {
        let (mount, origin) = read_mount(&item.object()?, options, &rootfs.root)?;
        rootfs.origins.insert(Item::Content(rootfs.content.len()), origin);
        rootfs.add(mount);
    }
    Ok(items)
}

/// Checks what depends on other parts of the config, such as its namespaces. There is nothing else in the tree yet.
pub(super) fn check(items: &[Node<'_>], rootfs: &RootfsSpec) -> Result<()> {
    for (index, content) in rootfs.content.iter().enumerate().take(items.len()) {
        content.validate(rootfs).map_err(|mut error| {
            error.destination = Some(content.destination().clone());
            error.located(|part| locate(&rootfs.origins, Item::Content(index), part))
        })?;
    }
    Ok(())
}

fn read_mount(object: &Object<'_>, options: &ReadOptions, root: &Root) -> Result<(Mount, Origin)> {
    let destination = object.require("destination", Node::path)?;
    let source = object.get("source").filter(|source| !matches!(source.text(), Ok("")));
    let source = source.map(Node::path).transpose()?;
    let fstype = object.read("type", Node::text)?;
    let words = object.read("options", |list| list.list(read_word))?.unwrap_or_default();
    let origin = Origin::of_config(&object.node().pointer, words.clone());
    let words: Vec<String> = words.into_iter().map(|(_, word)| word).collect();
    let destination = below_root(&destination, root).unwrap_or(destination);
    let mappings = read_id_map(object)?;
    let mut mount = mount_from_oci(destination, source, fstype, &words, mappings)
        .map_err(|error| error.located(|part| origin.locate(part)))?;
    if let MountKind::Bind { source: source @ BindSource::Host(_), .. } = &mut mount.kind
        && let BindSource::Host(path) = source
    {
        let path = in_bundle(path, options);
        *source = match below_root(&path, root) {
            Some(inside) => BindSource::InRoot(inside),
            None => BindSource::Host(path),
        };
    }
    if let MountKind::Overlay(overlay) = &mut mount.kind {
        for (_, path) in overlay.directories_mut() {
            *path = in_bundle(path, options);
        }
    }
    Ok((mount, origin))
}

/// `uidMappings` and `gidMappings` of a mount; neither or both.
fn read_id_map(object: &Object<'_>) -> Result<Option<IdMap>> {
    let list = |key| object.read(key, |list| list.list(read_mapping));
    match (list("uidMappings")?, list("gidMappings")?) {
        (None, None) => Ok(None),
        (Some(uids), Some(gids)) => {
            for (key, mappings) in [("uidMappings", &uids), ("gidMappings", &gids)] {
                let list = object.require(key, |list| Ok((list.name.clone(), list.pointer.clone())))?;
                validate_mappings(&list.0, mappings).map_err(|error| error.with_pointer(&list.1))?;
            }
            Ok(Some(IdMap { uids, gids }))
        }
        (Some(_), None) => Err(object.missing("gidMappings")),
        (None, Some(_)) => Err(object.missing("uidMappings")),
    }
}

/// A word and its place. It is checked by itself, so that the error says which.
fn read_word(word: &Node<'_>) -> Result<(usize, String)> {
    let text = word.text()?;
    parse(&[text]).map_err(|error| word.located(error))?;
    Ok((word.place(), text.to_owned()))
}

/// What a path is in the tree that is being built, if it is below the root directory as the config writes it. Text
/// only: what comes out is resolved inside the root, and a path that leads up out of it is none.
fn below_root(path: &PathBytes, root: &Root) -> Option<PathBytes> {
    let Root::Directory(root) = root else { return None };
    if !path.is_absolute() || root.normalized() == "/".into() {
        return None;
    }
    let mut names = path.components();
    if !root.components().all(|name| name != b".." && names.next() == Some(name)) {
        return None;
    }
    let mut depth = 0_usize;
    let mut inside = PathBytes::from("/");
    for name in names {
        depth = if name == b".." { depth.checked_sub(1)? } else { depth + 1 };
        inside = inside.join(name);
    }
    Some(inside)
}

/// Why something can't be written.
pub(super) fn cannot(what: &str, why: &str) -> Box<Error> {
    Error::new(ErrorCode::Unsupported, format!("{what}: an OCI config can't say this: {why}"))
}

/// A path as a JSON string.
pub(super) fn path_text(what: &str, path: &PathBytes) -> Result<String> {
    let text = std::str::from_utf8(path.as_bytes());
    text.map(str::to_owned).map_err(|_| cannot(what, "the name is not UTF-8"))
}

pub(super) fn write(rootfs: &RootfsSpec, root: &PathBytes) -> Result<Vec<Value>> {
    let mut list = Vec::new();
    for (index, content) in rootfs.content.iter().enumerate() {
        let what = format!("mounts[{index}]");
        let Content::Mount(mount) = content else {
            return Err(cannot(&what, "it has nothing but mounts to put into the tree"));
        };
        let value = write_mount(&what, mount, root)?;
        let same = |value: &Value| reread(value, &rootfs.root).as_ref() == Ok(&canonical(mount));
        // In the words that it was said in, if they say it here: others would mean the same in another order.
        if let Some(origin) = rootfs.origins.get(&Item::Content(index)) {
            let mut said = value.clone();
            let words: Vec<&str> = origin.words().collect();
            said["options"] = words.into();
            if said["options"] != json!([]) && same(&said) {
                list.push(said);
                continue;
            }
        }
        // Whatever has no words of its own is found here: what is written must mean the same when it is read.
        if !same(&value) {
            return Err(cannot(
                &what,
                &format!("it has no words for all of the mount on {}", mount.destination),
            ));
        }
        list.push(value);
    }
    Ok(list)
}

/// A path in the root as the reader makes it.
fn from_slash(path: &PathBytes) -> PathBytes {
    path.components().fold(PathBytes::from("/"), |path, name| path.join(name))
}

fn canonical(mount: &Mount) -> Mount {
    let mut mount = mount.clone();
    if let MountKind::Bind { source: BindSource::InRoot(path), .. } = &mut mount.kind {
        *path = from_slash(path);
    }
    mount
}

fn reread(value: &Value, root: &Root) -> Result<Mount> {
    let options = ReadOptions {
        ignore: Vec::new(),
        expect_root: true,
        bundle: PathBytes::from("/"),
        has_bundle: false,
    };
    let (context, config) = (Context::new(&[]), json!({ "mounts": [value] }));
    let top = Node::top(&context, &config).object()?;
    let items = top.require("mounts", Node::items)?;
    let item = items.first().ok_or_else(|| top.missing("mounts"))?;
    read_mount(&item.object()?, &options, root).map(|(mount, _)| mount)
}

fn write_mount(what: &str, mount: &Mount, root: &PathBytes) -> Result<Value> {
    let mut value = Map::new();
    let mut words: Vec<String> = Vec::new();
    let destination = if below_root(&mount.destination, &Root::Directory(root.clone())).is_some() {
        // Else it would be taken for the root's own path.
        from_slash(&mount.destination).components().fold(root.clone(), |path, name| path.join(name))
    } else {
        mount.destination.clone()
    };
    value.insert("destination".into(), path_text(what, &destination)?.into());
    let mut set = |key: &str, text: String| value.insert(key.to_owned(), text.into());
    match &mount.kind {
        MountKind::Bind { source, recursive, .. } => {
            let path = match source {
                BindSource::Host(path) => path.clone(),
                BindSource::InRoot(path) => {
                    path.components().fold(root.clone(), |path, name| path.join(name))
                }
                BindSource::Fd { .. } => return Err(cannot(what, "the source is a file descriptor")),
            };
            set("type", "bind".to_owned());
            set("source", path_text(what, &path)?);
            words.push(if *recursive { "rbind" } else { "bind" }.to_owned());
        }
        MountKind::Filesystem { fstype, source, .. } => {
            set("type", fstype.clone());
            if let Some(source) = source {
                set("source", path_text(what, source)?);
            }
        }
        MountKind::Overlay(overlay) => {
            set("type", "overlay".to_owned());
            set("source", source_text(what, overlay.source.as_ref(), "overlay")?);
            words.extend(overlay_words(what, overlay)?);
        }
        MountKind::Cgroup { source, .. } => {
            set("type", "cgroup".to_owned());
            set("source", source_text(what, source.as_ref(), "cgroup")?);
        }
        MountKind::Remount { bind, .. } => {
            words.push("remount".to_owned());
            words.extend(bind.then(|| "bind".to_owned()));
        }
        MountKind::File { .. } => return Err(cannot(what, "it has no files with a content of their own")),
    }
    words.extend(mount.links.words().map(str::to_owned));
    words.extend(mount.attributes.words().into_iter().map(str::to_owned));
    words.extend(mount.propagation.iter().map(|propagation| propagation.name().to_owned()));
    if let MountKind::Filesystem { copy_up: true, .. } = &mount.kind {
        words.push("tmpcopyup".to_owned());
    }
    if let MountKind::Filesystem { superblock, data, .. }
    | MountKind::Cgroup { superblock, data, .. }
    | MountKind::Remount { superblock, data, .. } = &mount.kind
    {
        words.extend(superblock.iter().cloned());
        words.extend(data.iter().map(|(key, value)| option_text(key, value.as_deref())));
    }
    words.extend(mount.ineffective.iter().cloned());
    if let Some(MountIdMap { ids, recursive }) = &mount.id_map {
        words.push(if *recursive { "ridmap" } else { "idmap" }.to_owned());
        if let MountIds::Map(map) = ids {
            value.insert("uidMappings".into(), write_mappings(&map.uids));
            value.insert("gidMappings".into(), write_mappings(&map.gids));
        }
    }
    if !words.is_empty() {
        value.insert("options".into(), words.into());
    }
    Ok(Value::Object(value))
}

/// What the mount table shows as source.
fn source_text(what: &str, source: Option<&PathBytes>, usual: &str) -> Result<String> {
    source.map_or_else(|| Ok(usual.to_owned()), |source| path_text(what, source))
}

/// An overlay as option words: what separates words and directories is escaped.
fn overlay_words(what: &str, overlay: &Overlay) -> Result<Vec<String>> {
    let escaped = |path: &PathBytes| {
        let text = path_text(what, path)?;
        Ok(text.chars().fold(String::new(), |mut escaped, letter| {
            if matches!(letter, '\\' | ':' | ',') {
                escaped.push('\\');
            }
            escaped.push(letter);
            escaped
        }))
    };
    let lower = overlay.lower.iter().map(escaped).collect::<Result<Vec<_>>>()?;
    let mut words = vec![format!("lowerdir={}", lower.join(":"))];
    if let Some(Upper { directory, work }) = &overlay.upper {
        words.push(format!("upperdir={}", escaped(directory)?));
        words.push(format!("workdir={}", escaped(work)?));
    }
    words.extend(overlay.volatile.then(|| "volatile".to_owned()));
    words.extend(overlay.superblock.iter().cloned());
    words.extend(overlay.data.iter().map(|(key, value)| option_text(key, value.as_deref())));
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_below_the_root_directory_is_one_in_the_tree() {
        let root = Root::Directory("/b/rootfs".into());
        let inside = |path: &str| below_root(&path.into(), &root).map(|path| path.to_string());
        assert_eq!(inside("/b/rootfs/data").as_deref(), Some("/data"));
        assert_eq!(inside("/b//./rootfs/").as_deref(), Some("/"));
        assert_eq!(inside("/b/rootfs/a/../c").as_deref(), Some("/a/../c"));
        for outside in
            ["/b", "/b/rootfs2/data", "/b/rootfs/../x", "/b/rootfs/a/../../x", "/data", "data", "/"]
        {
            assert_eq!(inside(outside), None, "{outside}");
        }
        assert_eq!(below_root(&"/data".into(), &Root::Directory("/".into())), None);
    }
}
