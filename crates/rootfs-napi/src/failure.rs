//! How errors get to JavaScript: as data, from which one TypeScript function makes the error object.

use std::sync::Arc;

use napi::{Env, JsValue};
use rootfs::error::{Error, errno_name};
use rootfs::plan::Plan;
use rootfs::{ErrorCode, PathBytes};

use crate::api::{Step, lossy, step};
use crate::environment::Environment;
use crate::js::internal_object;

/// Which of Node's own codes a wrong argument gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ArgumentKind {
    Type,
    Range,
    Value,
}

impl ArgumentKind {
    const fn code(self) -> &'static str {
        match self {
            Self::Type => "ERR_INVALID_ARG_TYPE",
            Self::Range => "ERR_OUT_OF_RANGE",
            Self::Value => "ERR_INVALID_ARG_VALUE",
        }
    }
}

/// Why a call failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A wrong argument.
    Argument { kind: ArgumentKind, message: String },
    /// An error of the library.
    Rootfs { error: Box<Error>, plan: Option<Arc<Plan>> },
    /// Something that JavaScript threw, such as a getter of an options object, or a failed call of Node's.
    Js(napi::Error),
}

impl Failure {
    pub(crate) fn argument(kind: ArgumentKind, message: String) -> Self {
        Self::Argument { kind, message }
    }

    pub(crate) fn with_plan(error: Box<Error>, plan: &Arc<Plan>) -> Self {
        Self::Rootfs { error, plan: Some(Arc::clone(plan)) }
    }

    /// What fails here before the plan is carried out belongs to a step of it all the same.
    pub(crate) fn at_step(self, step: u32, plan: &Arc<Plan>) -> Self {
        match self {
            Self::Rootfs { mut error, .. } => {
                let name = plan.steps.get(step as usize).map_or("", |step| step.action.name());
                error.message = format!("step {step} ({name}): {}", error.message);
                error.step = Some(step);
                Self::with_plan(error, plan)
            }
            other => other,
        }
    }

    /// What contradicts itself in a builder call is a wrong argument there.
    pub(crate) fn of_argument(self) -> Self {
        match self {
            Self::Rootfs { error, .. } if error.code == ErrorCode::Spec => {
                Self::argument(ArgumentKind::Value, error.message)
            }
            other => other,
        }
    }

    /// The exception to throw.
    pub(crate) fn throw(self, env: Env) -> napi::Error {
        let data = match self {
            Self::Js(error) => return error,
            Self::Argument { kind, message } => {
                ErrorData { code: kind.code().to_owned(), message, ..ErrorData::default() }
            }
            Self::Rootfs { error, plan } => ErrorData::new(*error, plan.as_deref()),
        };
        let made = Environment::of(env).and_then(|environment| environment.make_error(env, data));
        match made {
            Ok(value) => napi::Error::from(value.to_unknown()),
            Err(error) => error,
        }
    }
}

impl From<Box<Error>> for Failure {
    fn from(error: Box<Error>) -> Self {
        Self::Rootfs { error, plan: None }
    }
}

impl From<napi::Error> for Failure {
    fn from(error: napi::Error) -> Self {
        Self::Js(error)
    }
}

internal_object! {
    /// An error, for `makeError` of errors.ts.
    ErrorData {
        /// One of Node's codes, or one of ours.
        code as "code": String,
        /// What was wanted and what happened.
        message as "message": String,
        ..
        /// The step that failed.
        step as "step": Step,
        /// The system call that failed.
        syscall as "syscall": String,
        /// Negative, as Node has it.
        errno as "errno": i32,
        /// Its name.
        errno_name as "errnoName": String,
        /// The source of the mount.
        source as "source": String,
        /// The destination in the root.
        destination as "destination": String,
        /// What the destination was resolved to.
        resolved as "resolved": String,
        /// The flags asked for.
        flags as "flags": Vec<String>,
        /// What the kernel said.
        kernel_log as "kernelLog": Vec<String>,
        /// Which value of an OCI config is wrong.
        pointer as "pointer": String,
        /// What to do about it.
        hint as "hint": String,
    }
}

impl ErrorData {
    pub(crate) fn new(error: Error, plan: Option<&Plan>) -> Self {
        let path = |path: Option<PathBytes>| path.map(|path| lossy(&path));
        let list = |list: Vec<String>| if list.is_empty() { None } else { Some(list) };
        Self {
            code: error.code.name().to_owned(),
            message: error.to_string(),
            step: error.step.and_then(|index| plan?.steps.get(index as usize)).map(step),
            syscall: error.syscall,
            errno: error.errno.map(|errno| -errno),
            errno_name: error.errno.map(errno_name),
            source: path(error.source),
            destination: path(error.destination),
            resolved: path(error.resolved),
            flags: list(error.flags),
            kernel_log: list(error.kernel_log),
            pointer: error.pointer,
            hint: error.hint,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The one table of codes is in Rust; the union that users see must have the same members.
    #[test]
    fn the_union_of_error_codes_is_the_table() {
        let header = include_str!("../../../src/api-header.d.ts");
        let union = header.split("export type RootfsErrorCode =").nth(1).unwrap();
        let union = union.split("\n\n").next().unwrap();
        let listed: Vec<&str> = union.split('\'').filter(|part| part.starts_with("ERR_")).collect();
        let table: Vec<&str> = ErrorCode::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(listed, table);
        for code in ErrorCode::ALL {
            assert!(union.contains(code.meaning()), "{code}: {}", code.meaning());
        }
    }
}
