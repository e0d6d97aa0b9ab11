//! Arguments of the builder's methods that put files, directories, links and devices into the tree.

use rootfs::PathBytes;
use rootfs::options::{Attributes, Links, Propagation, attr};
use rootfs::protocol::MAX_PAYLOAD;
use rootfs::spec::{
    Device, DeviceType, Directory, FileContent, MAX_MAJOR, MAX_MINOR, Mount, MountKind, Symlink,
};
use rootfs::sysctl::path_of;

use crate::argument::{JsArg, Options, Parsed, id, integer32, mode, path, text, unexpected, word};
use crate::failure::{ArgumentKind, Failure};

fn file_content(value: JsArg) -> Parsed<FileContent> {
    let (bytes, what) = match value {
        JsArg::String(text) => (text.into_bytes(), "a string"),
        JsArg::Bytes(bytes) => (bytes, "a Uint8Array"),
        other => return Err(unexpected(ArgumentKind::Type, "string or Uint8Array", "content", &other)),
    };
    if bytes.len() as u64 > MAX_PAYLOAD {
        return Err(Failure::argument(
            ArgumentKind::Range,
            format!(
                "Expected at most {MAX_PAYLOAD} bytes for content but received {what} of {} bytes",
                bytes.len()
            ),
        ));
    }
    Ok(FileContent::new(bytes))
}

pub(crate) fn file(destination: PathBytes, content: JsArg, options: JsArg) -> Parsed<Mount> {
    let content = file_content(content)?;
    let mut options = Options::of_call(options)?;
    let mode = options.take("mode", mode)?.unwrap_or(0o644);
    let uid = options.take("uid", id)?.unwrap_or(0);
    let gid = options.take("gid", id)?.unwrap_or(0);
    let writable = options.flag("writable", false)?;
    options.finish()?;
    let mut set = attr::NOSUID | attr::NODEV;
    for (bit, wanted) in [(attr::RDONLY, !writable), (attr::NOEXEC, mode & 0o111 == 0)] {
        if wanted {
            set |= bit;
        }
    }
    Ok(Mount {
        destination,
        kind: MountKind::File { content, mode, uid, gid },
        attributes: Attributes { set, ..Attributes::default() },
        propagation: vec![Propagation::RPRIVATE],
        id_map: None,
        ineffective: Vec::new(),
        links: Links::default(),
    })
}

pub(crate) fn directory(destination: PathBytes, options: JsArg) -> Parsed<Directory> {
    let mut options = Options::of_call(options)?;
    let directory = Directory {
        path: destination,
        mode: options.take("mode", mode)?,
        uid: options.take("uid", id)?,
        gid: options.take("gid", id)?,
    };
    options.finish()?;
    Ok(directory)
}

/// A path that ends in a name, under which something can be made.
fn name_path(name: &str, value: &JsArg) -> Parsed<PathBytes> {
    let path = path(name, value)?;
    if path.components().next_back().is_none_or(|last| last == b"..") {
        return Err(unexpected(ArgumentKind::Value, "path that ends in a name", name, value));
    }
    Ok(path)
}

pub(crate) fn symlink(target: &JsArg, link: &JsArg) -> Parsed<Symlink> {
    Ok(Symlink { target: path("target", target)?, path: name_path("path", link)? })
}

pub(crate) fn device(value: &JsArg) -> Parsed<Device> {
    let mut object = Options::nested("node", value)?;
    let path = object.require("path", name_path)?;
    let kind = object.require("type", |name, value| {
        word(name, value, &["c", "b", "p", "u"], |text| match text {
            "c" | "u" => Some(DeviceType::Character),
            "b" => Some(DeviceType::Block),
            "p" => Some(DeviceType::Fifo),
            _ => None,
        })
    })?;
    let major = |name: &str, value: &JsArg| integer32(name, value, 0, MAX_MAJOR);
    let minor = |name: &str, value: &JsArg| integer32(name, value, 0, MAX_MINOR);
    let none = |name: &str, value: &JsArg| {
        Err::<u32, _>(unexpected(ArgumentKind::Value, "nothing (a fifo has no number)", name, value))
    };
    let (major, minor) = if kind == DeviceType::Fifo {
        object.take("major", none)?;
        object.take("minor", none)?;
        (0, 0)
    } else {
        (object.require("major", major)?, object.require("minor", minor)?)
    };
    let device = Device {
        path,
        kind,
        major,
        minor,
        mode: object.take("mode", mode)?.unwrap_or(0o666),
        uid: object.take("uid", id)?.unwrap_or(0),
        gid: object.take("gid", id)?.unwrap_or(0),
    };
    object.finish()?;
    Ok(device)
}

pub(crate) fn sysctl(name: &JsArg, value: &JsArg) -> Parsed<(String, String)> {
    let (parameter, setting) = (text("name", name)?, text("value", value)?);
    if let Err(why) = path_of(&parameter) {
        let wanted = format!("name of a kernel parameter ({why})");
        return Err(unexpected(ArgumentKind::Value, wanted, "name", name));
    }
    Ok((parameter, setting))
}
