//! What the TypeScript layer calls to begin, use and end containers. Everything here only queues.

use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::Arc;

use napi::{Env, Result};
use napi_derive::napi;
use rootfs::ErrorCode;
use rootfs::PathBytes;
use rootfs::error::{CallContext, SysError};
use rootfs::execute::Level;
use rootfs::kernel::process;
use rootfs::namespace::NamespaceKind;
use rootfs::plan::Plan;
use rootfs::process::ProcessSpec;
use rootfs::protocol::{self, PayloadRest, Start};
use rootfs::spec::{HookPoint, IdMap, IdMapping, Namespace, Namespaces, UserNamespace};

use crate::argument::{JsArg, MAX_SAFE_INTEGER, Options, Parsed, unexpected};
use crate::builder::{EncodedPlan, Rootfs};
use crate::client::{Beginning, Client, Collection, sealed_payload};
use crate::command::{self, Command, Configured};
use crate::environment::Environment;
use crate::failure::{ArgumentKind, Failure};
use crate::js::internal_object;
use crate::namespace;
use crate::options::host_path;
use crate::stdio::{self, Ends, Stream};

internal_object! {
    /// A container or command that has been asked for.
    Launched {
        /// Its number, which its news carry.
        id as "id": f64,
        /// Our ends of pipes; `null` where there is none.
        streams as "streams": Vec<Option<i32>>,
        ..
    }
}

impl Launched {
    /// What is not begun, because its signal is aborted already: only its arguments are checked. Pipes that JavaScript
    /// asked for are there, and at their end.
    fn nothing(streams: &[Stream], wanted: Option<Wanted>) -> Parsed<Self> {
        let (_, ours, _) = open_streams(streams, wanted)?;
        Ok(Self::new(0, ours))
    }

    fn new(id: u64, ours: Vec<Option<OwnedFd>>) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "nobody starts 2^53 containers")]
        let id = id as f64;
        Self { id, streams: ours.into_iter().map(|fd| fd.map(IntoRawFd::into_raw_fd)).collect() }
    }
}

/// The options that TypeScript takes out before the others come here.
mod beside {
    /// Of all commands.
    pub(super) const CONTROL: &[&str] = &["signal", "timeout", "killSignal"];
    /// Of those that are run to their end.
    pub(super) const COLLECTION: &[&str] = &["input", "encoding", "maxBuffer"];
    /// Of those that a container is made for.
    pub(super) const PREPARATION: &[&str] = &["cgroup", "verify", "onStep"];
}

/// What `PrepareOptions` say.
struct Preparation {
    verify: bool,
    report_steps: bool,
    cgroup: Option<PathBytes>,
}

fn preparation(options: JsArg) -> Parsed<Preparation> {
    let mut options = Options::of_call(options)?;
    let preparation = Preparation {
        verify: options.flag("verify", true)?,
        report_steps: options.flag("reportSteps", false)?,
        cgroup: options.take("cgroup", host_path)?,
    };
    options.finish()?;
    Ok(preparation)
}

/// The mapping of the user namespace; `None` for none.
pub(crate) fn mapping(namespaces: &Namespaces, privileged: bool) -> Option<IdMap> {
    match &namespaces.user {
        UserNamespace::None | UserNamespace::Path(_) => None,
        UserNamespace::UnlessPrivileged if privileged => None,
        UserNamespace::Mapped(map) => Some(map.clone()),
        UserNamespace::Caller | UserNamespace::UnlessPrivileged => {
            let line = |host_id| vec![IdMapping { container_id: 0, host_id, size: 1 }];
            Some(IdMap {
                uids: line(rustix::process::geteuid().as_raw()),
                gids: line(rustix::process::getegid().as_raw()),
            })
        }
    }
}

/// Forces a level, for tests of both.
fn forced_level() -> Parsed<Option<Level>> {
    match std::env::var("ROOTFS_TEST_LEVEL") {
        Ok(name) => Level::from_name(&name).map(Some).ok_or_else(|| {
            rootfs::Error::new(ErrorCode::Unsupported, format!("ROOTFS_TEST_LEVEL={name}: no such level"))
                .into()
        }),
        Err(_) => Ok(None),
    }
}

/// What is collected of a command that is run to its end.
struct Wanted {
    input: Option<Vec<u8>>,
    max_buffer: usize,
}

fn wanted(options: JsArg) -> Parsed<Option<Wanted>> {
    if options == JsArg::Undefined {
        return Ok(None);
    }
    let mut options = Options::of_call(options)?;
    let input = options.take("input", |name, value| match value {
        JsArg::String(text) => Ok(text.clone().into_bytes()),
        JsArg::Bytes(bytes) => Ok(bytes.clone()),
        other => Err(unexpected(ArgumentKind::Type, "string or Uint8Array", name, other)),
    })?;
    let max_buffer = options.require("maxBuffer", |name, value| match value {
        JsArg::Number(number) if number.is_nan() || *number < 0.0 => {
            Err(unexpected(ArgumentKind::Range, "number of bytes that is not negative", name, value))
        }
        #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        JsArg::Number(number) => Ok(number.min(MAX_SAFE_INTEGER as f64) as usize),
        other => Err(unexpected(ArgumentKind::Type, "number of bytes", name, other)),
    })?;
    options.finish()?;
    Ok(Some(Wanted { input, max_buffer }))
}

/// The ends of a command, those that go to JavaScript, and those that are collected here.
type OpenStreams = (Vec<OwnedFd>, Vec<Option<OwnedFd>>, Option<Collection>);

/// The streams of a command: those that are collected stay here, the others go to JavaScript.
fn open_streams(streams: &[Stream], wanted: Option<Wanted>) -> Parsed<OpenStreams> {
    let Some(Wanted { input, max_buffer }) = wanted else {
        let Ends { theirs, ours } = stdio::open(streams)?;
        return Ok((theirs, ours, None));
    };
    let mut streams = streams.to_vec();
    if let Some(number) = (3..).zip(streams.iter().skip(3)).find(|(_, stream)| **stream == Stream::Pipe) {
        return Err(Failure::argument(
            ArgumentKind::Value,
            format!(
                "Expected 'inherit', 'ignore' or a file descriptor for stdio[{}] but received 'pipe' of type string: a \
                 command that is run to its end has no further pipes; use spawn",
                number.0
            ),
        ));
    }
    if input.is_none() && streams[0] == Stream::Pipe {
        // Nothing to read is what the null device has.
        streams[0] = Stream::Ignore;
    }
    let Ends { theirs, ours } = stdio::open(&streams)?;
    let mut ours = ours.into_iter().chain([None, None, None]);
    let standard = [(); 3].map(|()| ours.next().flatten());
    Ok((
        theirs,
        Vec::new(),
        Some(Collection { max_buffer, input: input.unwrap_or_default(), streams: standard }),
    ))
}

/// Descriptors that are sent, and kept too.
fn duplicates<'a>(fds: impl Iterator<Item = &'a OwnedFd>) -> Parsed<Vec<OwnedFd>> {
    let copy = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, 3);
    let copies = fds.map(copy).collect::<std::result::Result<_, _>>();
    Ok(copies
        .map_err(|errno| SysError::new("fcntl", errno, "F_DUPFD_CLOEXEC"))
        .context(ErrorCode::Source, || "the descriptor of a bind can't be duplicated")?)
}

fn begin(
    environment: u64,
    rootfs: &Rootfs,
    command: Option<Command>,
    preparation: &Preparation,
    wanted: Option<Wanted>,
    (aborted, template): (bool, Option<f64>),
) -> Parsed<Launched> {
    let spec = rootfs.spec();
    let EncodedPlan { plan, mut bytes } = rootfs.encoded_plan()?;
    if aborted {
        let streams = command.map_or_else(|| [Stream::Ignore; 3].to_vec(), |command| command.streams);
        return Launched::nothing(&streams, wanted);
    }
    let with_plan = |error| Failure::with_plan(error, &plan);
    let privileged = process::has_capability(process::CAP_SYS_ADMIN);
    let user = mapping(&spec.namespaces, privileged);
    let (joins, joined) = namespace::open(spec, privileged, user.is_some())
        .map_err(|failure| failure.at_step(Plan::NAMESPACES, &plan))?;
    let in_user_namespace = user.is_some() || joins.contains(&NamespaceKind::User);
    let cgroup = preparation.cgroup.as_ref().map(namespace::open_cgroup).transpose()?;
    let mut sources = duplicates(rootfs.sources().iter().map(|fd| &**fd))?;
    if let Some(template) = template {
        let kept = Client::get().and_then(|client| client.template(id(template))).map_err(with_plan)?;
        bytes = kept.bytes(&plan, sources.len());
        sources.extend(duplicates(kept.descriptors.iter())?);
    }
    let further = command.as_ref().map_or(0, |command| command.process.descriptors.len());
    let new = |namespace: &Namespace| *namespace == Namespace::New;
    let hooks = &spec.hooks;
    let programs = |point| hooks.iter().any(|hook| hook.point == point && hook.function.is_none());
    let functions = hooks.iter().any(|hook| hook.function.is_some());
    let start = Start {
        pid: new(&spec.namespaces.pid),
        ipc: new(&spec.namespaces.ipc),
        uts: new(&spec.namespaces.uts),
        cgroup_namespace: new(&spec.namespaces.cgroup),
        network: new(&spec.namespaces.network),
        mount: in_user_namespace && spec.namespaces.mount == Namespace::New,
        opener: (privileged && in_user_namespace)
            || programs(HookPoint::Prestart)
            || programs(HookPoint::CreateRuntime),
        hooks: !hooks.is_empty(),
        poststart: programs(HookPoint::Poststart),
        poststop: programs(HookPoint::Poststop),
        cgroup: cgroup.is_some(),
        keeper: false,
        joins,
        bounding: command
            .as_ref()
            .filter(|_| hooks.is_empty())
            .map(|command| command.process.effective_capabilities().bounding),
        sources: u32::try_from(sources.len() + further).unwrap_or(u32::MAX),
        caller: environment,
        user,
    };
    let one_command = command.is_some();
    let usual =
        if one_command { None } else { rootfs.configured().process().map(|usual| ProcessSpec::clone(usual)) };
    let (process, streams) = match command {
        Some(command) => (Some(command.process), command.streams),
        None => (None, [Stream::Ignore; 3].to_vec()),
    };
    let rest = PayloadRest {
        process,
        usual,
        verify: preparation.verify,
        report_steps: preparation.report_steps,
        level: forced_level()?,
        privileged,
        user: None,
    };
    let payload = payload(&bytes, &rest).map_err(with_plan)?;
    let (theirs, ours, collection) = open_streams(&streams, wanted)?;
    let beginning = Beginning {
        environment,
        plan: Arc::clone(&plan),
        configured: rootfs.configured().process().cloned(),
        start,
        payload,
        streams: theirs,
        cgroup,
        joined,
        sources,
        one_command,
        watch: collection.is_none() || preparation.report_steps || functions,
        functions,
        collection,
    };
    let id = Client::get().and_then(|client| client.start(beginning)).map_err(with_plan)?;
    Ok(Launched::new(id, ours))
}

fn payload(plan: &[u8], rest: &PayloadRest) -> rootfs::error::Result<Vec<u8>> {
    let payload = protocol::encode_payload(plan, rest);
    if payload.len() as u64 <= protocol::MAX_PAYLOAD {
        return Ok(payload);
    }
    let what = format!(
        "the plan, the content of files and the command are {} bytes together: at most {} can be handed over",
        payload.len(),
        protocol::MAX_PAYLOAD
    );
    Err(rootfs::Error::new(ErrorCode::Spec, what))
}

/// Begins the keeper of a template.
fn begin_keeper(
    environment: u64,
    rootfs: &Rootfs,
    preparation: &Preparation,
    aborted: bool,
) -> Parsed<Launched> {
    let spec = rootfs.spec();
    let EncodedPlan { plan, bytes } = rootfs.encoded_plan()?;
    if aborted {
        return Launched::nothing(&[Stream::Ignore; 3], None);
    }
    let with_plan = |error| Failure::with_plan(error, &plan);
    let privileged = process::has_capability(process::CAP_SYS_ADMIN);
    let sources = duplicates(rootfs.sources().iter().map(|fd| &**fd))?;
    let start =
        Start { keeper: true, sources: u32::try_from(sources.len()).unwrap_or(u32::MAX), ..Start::default() };
    let rest = PayloadRest {
        process: None,
        usual: None,
        verify: preparation.verify,
        report_steps: preparation.report_steps,
        level: forced_level()?,
        privileged,
        user: mapping(&spec.namespaces, privileged),
    };
    let payload = payload(&bytes, &rest).map_err(with_plan)?;
    let (streams, _, _) = open_streams(&[Stream::Ignore; 3], None)?;
    let beginning = Beginning {
        environment,
        plan: Arc::clone(&plan),
        configured: None,
        start,
        payload,
        streams,
        cgroup: None,
        joined: Vec::new(),
        sources,
        one_command: false,
        watch: true,
        functions: false,
        collection: None,
    };
    let id = Client::get().and_then(|client| client.start(beginning)).map_err(with_plan)?;
    Ok(Launched::new(id, Vec::new()))
}

/// Begins the keeper of a template.
#[napi(skip_typescript)]
pub(crate) fn keep(env: Env, rootfs: &Rootfs, options: JsArg, aborted: bool) -> Result<Launched> {
    let environment = Environment::of(env)?;
    preparation(options)
        .and_then(|preparation| begin_keeper(environment.id, rootfs, &preparation, aborted))
        .map_err(|failure| failure.throw(env))
}

/// Begins a container that stays, and waits for commands; of a template, if that is given.
#[napi(skip_typescript)]
pub(crate) fn prepare(
    env: Env,
    rootfs: &Rootfs,
    options: JsArg,
    aborted: bool,
    template: Option<f64>,
) -> Result<Launched> {
    let environment = Environment::of(env)?;
    preparation(options)
        .and_then(|preparation| begin(environment.id, rootfs, None, &preparation, None, (aborted, template)))
        .map_err(|failure| failure.throw(env))
}

/// Begins a container that is one command; of a template, if that is given. With `collect`, its output is collected and told at
/// the end.
#[allow(clippy::too_many_arguments, reason = "called from one place, for which an object would be slower")]
#[napi(skip_typescript)]
pub(crate) fn launch(
    env: Env,
    rootfs: &Rootfs,
    command: JsArg,
    args: JsArg,
    process: JsArg,
    options: JsArg,
    collect: JsArg,
    aborted: bool,
    template: Option<f64>,
) -> Result<Launched> {
    let environment = Environment::of(env)?;
    let beside: &[_] = if collect == JsArg::Undefined {
        &[beside::CONTROL, beside::PREPARATION]
    } else {
        &[beside::CONTROL, beside::COLLECTION, beside::PREPARATION]
    };
    command::parse(&command, &args, process, rootfs.configured(), beside)
        .and_then(|command| {
            let (preparation, wanted) = (preparation(options)?, wanted(collect)?);
            begin(environment.id, rootfs, Some(command), &preparation, wanted, (aborted, template))
        })
        .map_err(|failure| failure.throw(env))
}

/// A number that TypeScript got from us.
fn id(number: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float cast saturates")]
    let id = number as u64;
    id
}

fn spawn_in(
    container: u64,
    process: &ProcessSpec,
    streams: &[Stream],
    wanted: Option<Wanted>,
) -> Parsed<Launched> {
    let payload = sealed_payload(&protocol::encode(process))?;
    let (theirs, ours, collection) = open_streams(streams, wanted)?;
    let child = Client::get().and_then(|client| client.spawn(container, payload, theirs, collection))?;
    Ok(Launched::new(child, ours))
}

/// Starts a command in a prepared container.
#[napi(skip_typescript)]
pub(crate) fn spawn(
    env: Env,
    container: f64,
    command: JsArg,
    args: JsArg,
    process: JsArg,
    collect: JsArg,
    aborted: bool,
) -> Result<Launched> {
    let configured = Client::get().ok().and_then(|client| client.configured(id(container)));
    let configured = configured.map_or(Configured::Nothing, Configured::Process);
    let beside: &[_] =
        if collect == JsArg::Undefined { &[beside::CONTROL] } else { &[beside::CONTROL, beside::COLLECTION] };
    command::parse(&command, &args, process, &configured, beside)
        .and_then(|command| match (wanted(collect)?, aborted) {
            (wanted, true) => Launched::nothing(&command.streams, wanted),
            (wanted, false) => spawn_in(id(container), &command.process, &command.streams, wanted),
        })
        .map_err(|failure| failure.throw(env))
}

/// Asks for the mount table of a prepared container.
#[napi(skip_typescript)]
pub(crate) fn mounts(env: Env, container: f64) -> Result<f64> {
    let request = Client::get().and_then(|client| client.mounts(id(container)));
    request
        .map(|request| Launched::new(request, Vec::new()).id)
        .map_err(|error| Failure::from(error).throw(env))
}

/// Sends a signal to a command, or with 0 to the container's first process. `false` if it isn't there.
#[napi(skip_typescript)]
pub(crate) fn kill(container: f64, child: f64, signal: i32) -> bool {
    Client::get().is_ok_and(|client| client.kill(id(container), id(child), signal))
}

/// Ends a command, with what it has begun, or with 0 the command that the container is. `false` if the signal has reached
/// nobody.
#[napi(skip_typescript)]
pub(crate) fn end(container: f64, child: f64, signal: i32) -> bool {
    Client::get().is_ok_and(|client| client.end(id(container), id(child), signal))
}

/// Says how a function went that the container's first process waits for: with a message, it failed.
#[napi(skip_typescript)]
pub(crate) fn answer_function(container: f64, failure: Option<String>) {
    if let Ok(client) = Client::get() {
        client.answer_function(id(container), failure);
    }
}

/// Has a container killed and taken down.
#[napi(skip_typescript)]
pub(crate) fn close(container: f64) {
    if let Ok(client) = Client::get() {
        client.close(id(container));
    }
}
