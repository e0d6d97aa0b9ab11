//! OCI configs: builders from them, and them from builders. TypeScript reads files and makes text of objects.

use std::sync::Arc;

use napi::{Env, Result};
use napi_derive::napi;
use rootfs::PathBytes;
use rootfs::kernel::process;
use rootfs::oci::{self, Config, ReadOptions};
use rootfs::spec::UserNamespace;

use crate::argument::{JsArg, Options, Parsed, array, path, text, unexpected};
use crate::builder::Rootfs;
use crate::command::Configured;
use crate::container::mapping;
use crate::failure::ArgumentKind;
use crate::options::host_path;

/// An absolute path without names that say nothing, so that its last one is a name.
fn tidy(path: &PathBytes) -> PathBytes {
    path.components().fold(PathBytes::from("/"), |path, name| path.join(name))
}

/// Texts of a config, which are UTF-8.
fn lossy_texts(texts: &[Vec<u8>]) -> Vec<String> {
    texts.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect()
}

fn from_config(config: &JsArg, directory: Option<&JsArg>, options: JsArg) -> Parsed<Rootfs> {
    let mut options = Options::of_call(options)?;
    let ignore = options.take("ignore", |name, value| {
        array(name, value, |name, value| match text(name, value)? {
            field if field.is_empty() => {
                Err(unexpected(ArgumentKind::Value, "name of a field, or JSON pointer,", name, value))
            }
            field => Ok(field),
        })
    })?;
    let expect_root = options.flag("expectRoot", true)?;
    let bundle = match directory {
        Some(directory) => Some(path("directory", directory)?),
        None => options.take("bundle", host_path)?,
    };
    options.finish()?;
    let has_bundle = bundle.is_some();
    let bundle = bundle.map_or_else(|| host_path("bundle", &JsArg::String(".".into())), Ok)?;
    let options =
        ReadOptions { ignore: ignore.unwrap_or_default(), expect_root, bundle: tidy(&bundle), has_bundle };
    let json = match config {
        JsArg::String(text) => text.as_bytes(),
        JsArg::Bytes(bytes) => bytes,
        other => return Err(unexpected(ArgumentKind::Type, "JSON", "config", other)),
    };
    let Config { rootfs, process } = oci::read(json, &options)?;
    let process =
        process.map_or(Configured::WithoutProcess, |process| Configured::Process(Arc::new(process)));
    Ok(Rootfs::from_config(rootfs, process))
}

#[napi]
impl Rootfs {
    /// An OCI bundle: its `config.json` gives root, mounts, devices, paths, namespaces, hooks and process. Every field is
    /// enforced, or refused with `ERR_ROOTFS_SPEC` or `ERR_ROOTFS_UNSUPPORTED` and its JSON pointer in the error's
    /// `pointer`; docs/oci.md has the table. Rejects with `ERR_ROOTFS_SOURCE` where the file can't be read.
    #[napi(
        factory,
        ts_args_type = "directory: PathLike, options?: SpecOptions",
        ts_return_type = "Promise<Rootfs>"
    )]
    pub fn from_bundle(env: Env, directory: JsArg, options: JsArg, config: JsArg) -> Result<Self> {
        from_config(&config, Some(&directory), options).map_err(|failure| failure.throw(env))
    }

    /// The same from an OCI runtime-spec object; relative paths are taken from `bundle`, which is the working directory
    /// when it isn't given. Numbers that JavaScript's don't hold can be bigints.
    #[napi(
        factory,
        ts_args_type = "spec: OciSpec, options?: SpecOptions & { bundle?: PathLike }",
        ts_return_type = "Rootfs"
    )]
    pub fn from_spec(env: Env, config: JsArg, options: JsArg) -> Result<Self> {
        from_config(&config, None, options).map_err(|failure| failure.throw(env))
    }

    /// The words of the config's process, if there is one.
    #[napi(skip_typescript)]
    pub fn configured_args(&self) -> Option<Vec<String>> {
        Some(lossy_texts(&self.configured().process()?.args))
    }

    /// The environment that commands have when none is given, if an OCI config says which. For the command line.
    #[napi(skip_typescript)]
    pub fn configured_env(&self) -> Option<Vec<String>> {
        Some(lossy_texts(&self.configured().process()?.env))
    }

    /// The OCI config that says the same, as JSON; made into an object by the TypeScript layer.
    #[napi(skip_typescript)]
    pub fn make_spec(&self, env: Env) -> Result<String> {
        let mut spec = self.spec().clone();
        // A config says which ids are mapped: here those that this process would get.
        let privileged = process::has_capability(process::CAP_SYS_ADMIN);
        if let UserNamespace::UnlessPrivileged | UserNamespace::Caller = spec.namespaces.user {
            spec.namespaces.user =
                mapping(&spec.namespaces, privileged).map_or(UserNamespace::None, UserNamespace::Mapped);
        }
        let process = self.configured().process().map(AsRef::as_ref);
        let written = spec.validate().and_then(|()| oci::write(&spec, process));
        written
            .map(|config| config.to_string())
            .map_err(|error| crate::failure::Failure::from(error).throw(env))
    }
}
