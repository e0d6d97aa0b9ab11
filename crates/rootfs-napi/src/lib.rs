//! The Node.js binding: the builder with its checks, and the client of the supervisor. Thin: what a root filesystem
//! is, and how it is made, is in the `rootfs` crate.
//!
//! * [`argument`]: JavaScript values as plain Rust data, and the checks that name what is wrong with one.
//! * [`builder`]: the class `Rootfs`, with [`options`] for the options of its methods and [`api`] for their types.
//! * [`config`]: builders from OCI configs, and back.
//! * [`command`]: the options of a process, and [`stdio`] its streams.
//! * [`container`]: what JavaScript calls to begin, use and end containers.
//! * [`supervisor`]: how the supervisor is started.
//! * [`client`]: the one thread that speaks with the supervisor and with every container, and [`identity`] who it is.
//! * [`probe`]: what the host allows.
//! * [`open`]: opening a file under a root.
//! * [`failure`] and [`event`]: how errors and news get to JavaScript.

// What napi-derive makes of a function needs owned arguments.
#![cfg_attr(test, allow(dead_code, reason = "in unit tests napi-derive exports nothing"))]
#![allow(clippy::needless_pass_by_value, reason = "the values that Node.js hands over are owned")]

mod api;
mod argument;
mod builder;
mod client;
mod command;
mod config;
mod container;
mod content;
mod environment;
mod event;
mod failure;
mod identity;
mod js;
mod namespace;
mod open;
mod options;
mod probe;
mod stdio;
mod supervisor;
