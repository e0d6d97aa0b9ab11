//! Opening a file under a root, on a thread of Node's pool.

use napi::bindgen_prelude::AsyncTask;
use napi::{Env, Result, Task};
use napi_derive::napi;
use rootfs::PathBytes;
use rootfs::error::{Error, ErrorCode};
use rootfs::kernel::open;
use rustix::fs::OFlags;

use crate::argument::{JsArg, Parsed, absolute_path, integer32, mode, path};
use crate::failure::ErrorData;

/// What is to be opened, and the descriptor that is to be it.
pub(crate) struct Opening {
    root: PathBytes,
    path: PathBytes,
    flags: OFlags,
    mode: u32,
    /// A descriptor of a `FileHandle` that nobody else knows yet.
    target: i32,
}

impl Opening {
    fn open(&self) -> rootfs::Result<()> {
        let file = rootfs::open::open_in_root(&self.root, &self.path, self.flags, self.mode)?;
        open::replace(self.target, &file).map_err(|call| {
            Error::from_call(ErrorCode::Source, format!("{} can't be handed over", self.path), &call)
        })
    }
}

impl Task for Opening {
    type Output = Option<Box<Error>>;
    type JsValue = Option<ErrorData>;

    fn compute(&mut self) -> Result<Self::Output> {
        Ok(self.open().err())
    }

    fn resolve(&mut self, _: Env, failure: Self::Output) -> Result<Self::JsValue> {
        Ok(failure.map(|error| ErrorData::new(*error, None)))
    }
}

fn parse(root: &JsArg, path_in_root: &JsArg, flags: &JsArg, permissions: &JsArg) -> Parsed<Opening> {
    let flags = integer32("flags", flags, 0, i32::MAX.cast_unsigned())?;
    Ok(Opening {
        root: absolute_path("root", root)?,
        path: path("path", path_in_root)?,
        flags: OFlags::from_bits_retain(flags),
        mode: mode("mode", permissions)?,
        target: -1,
    })
}

/// Has the open file behind `target` become `path` under `root`. `undefined`, or an error.
#[napi(skip_typescript)]
pub(crate) fn open_in_root(
    env: Env,
    root: JsArg,
    path: JsArg,
    flags: JsArg,
    mode: JsArg,
    target: i32,
) -> Result<AsyncTask<Opening>> {
    parse(&root, &path, &flags, &mode)
        .map(|opening| AsyncTask::new(Opening { target, ..opening }))
        .map_err(|failure| failure.throw(env))
}
