//! What is kept for each JavaScript environment: the main thread has one, and each worker its own.

use std::ffi::CString;
use std::sync::atomic::{AtomicU64, Ordering};

use napi::Env;
use napi::bindgen_prelude::{Function, FunctionRef, Unknown};
use napi::threadsafe_function::{ThreadsafeCallContext, ThreadsafeFunctionCallMode};
use napi_derive::napi;

use crate::client::Client;
use crate::event::JsEvent;
use crate::failure::{ErrorData, Failure};

/// What the TypeScript layer hands over when it is loaded.
pub(crate) struct Environment {
    /// Which environment events of a container belong to.
    pub(crate) id: u64,
    make_error: FunctionRef<ErrorData, Unknown<'static>>,
}

static NEXT: AtomicU64 = AtomicU64::new(1);

impl Environment {
    /// The one of a call.
    pub(crate) fn of(env: Env) -> napi::Result<&'static Self> {
        env.get_instance_data::<Self>()?
            .map(|environment| &*environment)
            .ok_or_else(|| napi::Error::from_reason("the addon is used without its TypeScript layer"))
    }

    /// The error object for an error.
    pub(crate) fn make_error(&self, env: Env, data: ErrorData) -> napi::Result<Unknown<'static>> {
        self.make_error.borrow_back(&env)?.call(data)
    }
}

/// Begins to serve an environment: errors are made by one function of it, and news are told to another.
#[napi(skip_typescript)]
pub(crate) fn initialize(
    env: Env,
    make_error: Function<'_, ErrorData, Unknown<'static>>,
    tell: Function<'_, JsEvent, ()>,
    supervisor: String,
) -> napi::Result<()> {
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    env.set_instance_data(Environment { id, make_error: make_error.create_ref()? }, (), |_| {})?;
    // Weak: what keeps Node alive is decided in TypeScript, by what is still running.
    let tell = tell
        .build_threadsafe_function::<crate::client::Event>()
        .weak::<true>()
        .callee_handled::<false>()
        .build_callback(|context: ThreadsafeCallContext<crate::client::Event>| {
            Ok(JsEvent::new(context.value))
        })?;
    let client = Client::get().map_err(|error| Failure::from(error).throw(env))?;
    let path = CString::new(supervisor)
        .map_err(|_| napi::Error::from_reason("the path of the supervisor contains a NUL byte"))?;
    let sink = Box::new(move |event| {
        tell.call(event, ThreadsafeFunctionCallMode::NonBlocking);
    });
    client.add_environment(id, sink, path);
    env.add_env_cleanup_hook(client, move |client| client.remove_environment(id))?;
    Ok(())
}

/// The release that this addon is of; the TypeScript layer must be of the same.
#[napi(skip_typescript)]
pub(crate) fn version() -> &'static str {
    rootfs::protocol::RELEASE
}
