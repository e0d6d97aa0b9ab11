//! Give a process a root filesystem.
//!
//! The library has three layers, each usable without the next:
//!
//! 1. [`spec`]: what is wanted, as one [`spec::RootfsSpec`]; mount option words are parsed here ([`options`]). [`oci`] reads
//!    it from, and writes it as, an OCI runtime-spec configuration.
//! 2. [`plan`]: a pure function from the specification to an ordered list of typed steps, whose stages only go forward.
//! 3. [`execute`]: carries out the steps on the narrow [`kernel::Kernel`] trait.
//!
//! The processes around a container (the supervisor, the first process, the opener) use [`protocol`], [`process`]
//! and [`journal`]. All system calls, and all `unsafe` code, are in [`kernel`].

pub mod content;
pub mod defaults;
pub mod error;
pub mod execute;
pub mod hint;
pub mod journal;
pub mod kernel;
pub mod lsm;
pub mod mountinfo;
pub mod namespace;
pub mod oci;
pub mod open;
pub mod options;
pub mod overlay;
pub mod path;
pub mod plan;
pub mod process;
pub mod procfs;
pub mod protocol;
pub mod resolve;
pub mod spec;
pub mod support;
pub mod sysctl;

pub use error::{Error, ErrorCode, Result};
pub use hint::Hint;
pub use path::PathBytes;
