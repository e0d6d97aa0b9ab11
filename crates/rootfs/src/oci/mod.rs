//! OCI runtime-spec configurations: reading `config.json` into a specification, and writing one.
//!
//! Nothing of a configuration is dropped in silence. [`fields`] is the one table of what is done with each field; a field
//! that isn't in it, or that asks for what isn't enforced, is an error with its JSON pointer, unless the caller named it.
//!
//! * [`fields`]: the table, which the reader, docs/oci.md and the tests share.
//! * `json`: the text, in which a name can't be there twice.
//! * `node`: JSON values with their pointers, and the checks that name what is wrong with one.
//! * `read`: the top level, the root, and hooks; `mounts`, `linux` and `process`: their parts, in both directions.
//! * `write`: a specification as a configuration.

pub mod fields;
#[cfg(test)]
mod generated_tests;
mod json;
mod linux;
mod mounts;
mod node;
mod process;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use read::{Config, ReadOptions, read};
pub use write::write;

/// The version of the runtime-spec that is written, and told to hooks.
pub const OCI_VERSION: &str = "1.2.0";
