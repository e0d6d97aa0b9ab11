//! The opener: a child of the supervisor with the caller's rights and namespaces. It opens host sources for a first
//! process in a user namespace, and does what that one has no right to.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rootfs::error::{CallContext, Error, ErrorCode, Result, SysError, SysResult};
use rootfs::execute::content::change_directory;
use rootfs::execute::{Level, attach_at, sources};
use rootfs::kernel::classic::Classic;
use rootfs::kernel::linux::Linux;
use rootfs::kernel::{Kernel, process};
use rootfs::plan::Action;
use rootfs::protocol::{self, Answer, Kind, Payload, Start};
use rootfs::resolve::make_with_kernel;
use rootfs::spec::{Directory, IdMap};

use crate::broker::{self, Request, SourceBatch};
use crate::hooks;

/// How many sources go with one message.
const BATCH: usize = 100;

/// What an opener begins with.
pub(crate) struct Opener<'a> {
    /// How the container is begun.
    pub(crate) start: &'a Start,
    /// What it is told.
    pub(crate) payload: &'a OwnedFd,
    /// Descriptors of the request: the command's further ones, then bind sources.
    pub(crate) descriptors: &'a [OwnedFd],
    /// The connection to the first process.
    pub(crate) socket: &'a OwnedFd,
    /// The first process.
    pub(crate) pid: i32,
    /// The same.
    pub(crate) pidfd: &'a OwnedFd,
    /// Whether there is more than mount(2).
    pub(crate) has_mount_api: bool,
}

impl Opener<'_> {
    /// Runs in the forked child until the first process needs it no more.
    pub(crate) fn run(&self) -> ! {
        use std::os::fd::AsRawFd;
        let _ = process::die_with_parent();
        process::set_name(c"rootfs-opener");
        let mut keep: Vec<i32> = [self.payload, self.socket, self.pidfd].map(AsRawFd::as_raw_fd).to_vec();
        keep.extend(self.descriptors.iter().map(AsRawFd::as_raw_fd));
        keep.sort_unstable();
        process::close_all_but(3, &keep);
        process::set_umask(0);
        let status = match self.serve() {
            Ok(()) => 0,
            Err(_) => 1,
        };
        process::exit(status);
    }

    fn serve(&self) -> Result<()> {
        let kernel = Linux::default();
        let payload = crate::first_process::read_payload(self.payload)?;
        let classic = self.is_classic(&payload);
        if payload.rest.privileged
            && let Some(map) = &self.start.user
        {
            if classic {
                // What mount(2) makes can only be attached where it was made, and that has to be got ready first.
                self.send_batch(&[], None, true, true)?;
            } else {
                let handed = self
                    .open_sources(&kernel, false, &payload, map)
                    .and_then(|opened| self.hand_over(&payload, &opened));
                self.tell_failure(handed)?;
            }
        }
        loop {
            let frame = protocol::receive(self.socket)
                .map_err(|error| broker::connection_error("the first process", &error))?;
            let request: Request =
                frame.decode().map_err(|error| broker::connection_error("the first process", &error))?;
            if let (Request::Sources, Some(map)) = (&request, &self.start.user) {
                let handed = self.in_container_mounts(&kernel, || {
                    let opened =
                        with_classic(&kernel, |classic| self.open_sources(classic, true, &payload, map))?;
                    // Last of all: with the last source the first process goes on, and may clear the place for mounts.
                    self.hand_over(&payload, &opened)
                });
                self.tell_failure(handed)?;
                continue;
            }
            let fd = frame.fds.first().map(AsFd::as_fd);
            let result = self.carry_out(&kernel, classic, &payload, &request, fd);
            broker::answer(self.socket.as_fd(), result);
        }
    }

    /// Whether only mount(2) is used.
    fn is_classic(&self, payload: &Payload) -> bool {
        payload.rest.level.map_or(!self.has_mount_api, |level| level == Level::Classic)
    }

    fn send_batch(
        &self,
        sources: &[sources::Opened],
        root: Option<u32>,
        last: bool,
        on_request: bool,
    ) -> Result<()> {
        let body = SourceBatch {
            sources: sources.iter().map(|source| source.description.clone()).collect(),
            root,
            last,
            on_request,
        };
        let fds: Vec<BorrowedFd<'_>> = sources.iter().map(|source| source.mount.as_fd()).collect();
        protocol::send(self.socket, Kind::Sources, 0, &protocol::encode(&Answer::Done(body)), &fds)
            .map_err(|error| broker::connection_error("the first process", &error))
    }

    fn tell_failure(&self, handed: Result<()>) -> Result<()> {
        if let Err(error) = &handed {
            let answer: Answer<SourceBatch> = Answer::Failed(error.clone());
            let _ = protocol::send(self.socket, Kind::Sources, 0, &protocol::encode(&answer), &[]);
        }
        handed
    }

    fn open_sources(
        &self,
        kernel: &dyn Kernel,
        classic: bool,
        payload: &Payload,
        map: &IdMap,
    ) -> Result<Vec<sources::Opened>> {
        let fds = self.descriptors.get(payload.further_descriptors()..).unwrap_or_default();
        let request = sources::Request {
            fds,
            devices_for: Some(map),
            user: Some(map),
            own_mount_namespace: classic,
            attached_layers: payload.rest.level == Some(Level::Attached),
            verify: payload.rest.verify,
            template: payload.template.as_ref(),
            only: None,
        };
        Ok(sources::open(kernel, &payload.plan, &request)?.into_list())
    }

    fn hand_over(&self, payload: &Payload, opened: &[sources::Opened]) -> Result<()> {
        let root = payload
            .plan
            .steps
            .iter()
            .find(|step| matches!(step.action, Action::Root { .. }))
            .map(|step| step.index);
        let batches: Vec<&[sources::Opened]> =
            if opened.is_empty() { vec![&[]] } else { opened.chunks(BATCH).collect() };
        for (number, batch) in batches.iter().enumerate() {
            self.send_batch(batch, root, number + 1 == batches.len(), false)?;
        }
        Ok(())
    }

    fn carry_out(
        &self,
        kernel: &Linux,
        classic: bool,
        payload: &Payload,
        request: &Request,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(bool, Option<OwnedFd>)> {
        let needed =
            || fd.ok_or_else(|| Error::new(ErrorCode::Supervisor, "a descriptor is missing in a request"));
        match request {
            Request::Make { name, what } => {
                let parent = needed()?;
                let made = self
                    .as_its_root(|| make_with_kernel(kernel, parent, name, *what))
                    .context(ErrorCode::Mount, || format!("the mountpoint {name} can't be made"))?;
                Ok((made, None))
            }
            Request::MakeSymlink { target, name } => {
                let parent = needed()?;
                let made = match self.as_its_root(|| kernel.make_symlink(target, parent, name)) {
                    Err(call) if call.is(nix::errno::Errno::EEXIST) => false,
                    other => other
                        .context(ErrorCode::Mount, || format!("the link {name} can't be made"))
                        .map(|()| true)?,
                };
                Ok((made, None))
            }
            Request::Change(wanted) => {
                let wanted = self.on_the_host(wanted)?;
                change_directory(kernel, needed()?, &wanted).context(ErrorCode::Mount, || {
                    format!("{} can't be given its mode or owner", wanted.path)
                })?;
                Ok((true, None))
            }
            Request::OpenDirectory => {
                let directory = kernel
                    .open_directory(needed()?)
                    .context(ErrorCode::Mount, || "a host tree can't be opened")?;
                Ok((true, Some(directory)))
            }
            Request::AttachRoot { path, identity } => {
                let root = needed()?;
                // A child does it: coming back from another mount namespace would change this process's root.
                self.in_container_mounts(kernel, || {
                    if classic {
                        with_classic(kernel, |classic| attach_at(classic, root, path, *identity))
                    } else {
                        attach_at(kernel, root, path, *identity)
                    }
                })?;
                Ok((true, None))
            }
            Request::Sources => {
                Err(Error::new(ErrorCode::Supervisor, "sources are only opened for a user namespace"))
            }
            Request::Hook { step, root } => {
                let Some(Action::Hook(hook)) =
                    payload.plan.steps.get(*step as usize).map(|step| &step.action)
                else {
                    return Err(Error::new(
                        ErrorCode::Supervisor,
                        "the hook of a request is not in the plan",
                    ));
                };
                let context = hooks::Context {
                    pid: self.pid,
                    directory: None,
                    root,
                    plan: &payload.plan,
                    rights: None,
                };
                hooks::run(hook, &context)?;
                Ok((true, None))
            }
        }
    }

    /// Makes something that belongs to the container's root.
    fn as_its_root<T>(&self, make: impl FnOnce() -> SysResult<T>) -> SysResult<T> {
        let Some(map) = &self.start.user else { return make() };
        let owner = |list| IdMap::to_host(list, 0).unwrap_or(0);
        process::making_files_of(owner(&map.uids), owner(&map.gids), make)?
    }

    /// A directory's mode and owner with ids as the host sees them.
    fn on_the_host(&self, wanted: &Directory) -> Result<Directory> {
        let Some(map) = &self.start.user else { return Ok(wanted.clone()) };
        let id = |list, id: Option<u32>| {
            let Some(id) = id else { return Ok(None) };
            let what = || format!("owner {id} is not mapped in the user namespace");
            IdMap::to_host(list, id).map(Some).ok_or_else(|| Error::new(ErrorCode::Mount, what()))
        };
        Ok(Directory { uid: id(&map.uids, wanted.uid)?, gid: id(&map.gids, wanted.gid)?, ..wanted.clone() })
    }

    /// Runs something in a child that is in the first process's mount namespace.
    fn in_container_mounts(&self, kernel: &Linux, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let what = || "the container's mount namespace can't be entered";
        let (report, child_report) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|errno| SysError::new("socketpair", errno, "AF_UNIX, SOCK_SEQPACKET"))
        .context(ErrorCode::Supervisor, what)?;
        let fork = process::fork(process::CloneRequest::default()).context(ErrorCode::Supervisor, what)?;
        let process::Fork::Parent { pidfd, .. } = fork else {
            let result = kernel
                .join_mount_namespace(self.pidfd.as_fd(), self.pid)
                .context(ErrorCode::Denied, what)
                .and_then(|()| work());
            broker::answer(child_report.as_fd(), result.map(|()| (true, None)));
            process::exit(0);
        };
        drop(child_report);
        let answer = protocol::receive(&report);
        let _ = process::wait_for(pidfd.as_fd());
        let frame = answer.map_err(|error| broker::connection_error("a helper process", &error))?;
        match frame.decode::<Answer<bool>>() {
            Ok(Answer::Done(_)) => Ok(()),
            Ok(Answer::Failed(error)) => Err(error),
            Err(error) => Err(broker::connection_error("a helper process", &error)),
        }
    }
}

/// Does something with mount(2) only, in the mount namespace of a first process that has begun so.
fn with_classic<T>(kernel: &Linux, work: impl FnOnce(&Classic<'_>) -> Result<T>) -> Result<T> {
    let what = || "the place for mounts in the container's mount namespace can't be used";
    let classic = Classic::join(kernel).context(ErrorCode::Mount, what)?;
    let result = work(&classic)?;
    classic.leave().context(ErrorCode::Mount, what)?;
    Ok(result)
}
