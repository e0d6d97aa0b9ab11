//! Device nodes, and the links of /dev.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use super::sources::node_kind;
use super::{Done, Execution, Expectation};
use crate::defaults;
use crate::error::{CallContext, Error, ErrorCode, Result, SysError};
use crate::hint::Hint;
use crate::kernel::{AttributeChange, FileKind, FileStatus, Follow, Kernel, NodeKind};
use crate::options::{Propagation, attr};
use crate::path::PathBytes;
use crate::resolve::{self, Missing};
use crate::spec::{Device, DeviceType};

/// Whom files belong to whose owner has no id here, unless the host says otherwise; `/proc/sys/kernel/overflowuid`.
const NOBODY: u32 = 65534;

impl Execution<'_> {
    pub(super) fn device(&mut self, device: &Device, step: u32) -> Result<Done> {
        if let Some(opened) = self.sources.take(step) {
            return self.bind_device(device, opened.mount, "bind-private-node", step);
        }
        let kernel = self.kernel;
        // In a user namespace no device can be made. What is made on the host for the bind is a mountpoint.
        if device.kind != DeviceType::Fifo
            && self.setting.user.is_some()
            && !self.parent_is_ours(&device.path, ErrorCode::Device)?
        {
            if self.same_device_exists(device)? {
                return Ok(Done::by("existing"));
            }
            let denied =
                SysError { syscall: "mknodat", errno: libc::EPERM, arguments: device.path.to_string() };
            return self.bind_host_node(device, &denied, step);
        }
        let (parent, name) = self.parent_of(&device.path, ErrorCode::Device)?;
        let parent = parent.as_fd();
        let made = kernel.make_node(parent, &name, node_kind(device), device.mode);
        match made {
            Ok(()) => {
                let (node, status) = open_node(kernel, parent, &name, device)?;
                give(kernel, device, &node, &status)?;
                self.remember_null(device, node);
                Ok(Done::by("mknod"))
            }
            Err(call) if call.is(Errno::EEXIST) => {
                let (node, _) = open_node(kernel, parent, &name, device)?;
                self.remember_null(device, node);
                Ok(Done::by("existing"))
            }
            Err(call) if call.is(Errno::EPERM) && device.kind != DeviceType::Fifo => {
                self.bind_host_node(device, &call, step)
            }
            Err(call) => {
                Err(Error::from_call(ErrorCode::Device, format!("{} can't be made", device.path), &call))
            }
        }
    }

    /// Binds the host's node, which keeps its own mode and owner, and says so where others than those may use it.
    fn bind_host_node(&mut self, device: &Device, denied: &SysError, step: u32) -> Result<Done> {
        let (mount, status) = copy_host_node(self.kernel, device, denied)?;
        // In a user namespace the host's ids have no number that could be compared; in one around all they are NOBODY.
        let owners_known = self.setting.user.is_none() && status.owner.0 != NOBODY;
        if let Some(message) = other_rights(device, &status, owners_known) {
            self.warn("device-mode", step, message);
        }
        self.bind_device(device, mount, "bind-host-node", step)
    }

    /// Whether the name is this very device already; a link is another thing.
    fn same_device_exists(&self, device: &Device) -> Result<bool> {
        let root = self.root()?;
        match resolve::resolve(self.kernel, root.as_fd(), &device.path.as_entry(), Follow::AllButLast) {
            Ok(node) => {
                let status = self
                    .kernel
                    .status(node.as_fd())
                    .context(ErrorCode::Device, || format!("{} can't be checked", device.path))?;
                Ok(check_device(device, &status).is_ok())
            }
            Err(call) if call.is(Errno::ENOENT) => Ok(false),
            Err(call) => Err(resolve::resolution_error(&device.path, &call)),
        }
    }

    fn remember_null(&mut self, device: &Device, node: OwnedFd) {
        if (device.kind, device.major, device.minor) == (DeviceType::Character, 1, 3) && self.null.is_none() {
            self.null = Some(node);
            self.null_is_attached = true;
        }
    }

    /// Binds a node on a placeholder that nobody can open should the bind go away.
    fn bind_device(
        &mut self,
        device: &Device,
        mount: OwnedFd,
        strategy: &'static str,
        step: u32,
    ) -> Result<Done> {
        let kernel = self.kernel;
        let what = || format!("{} can't be bound", device.path);
        let placeholder = if self.parent_is_ours(&device.path, ErrorCode::Device)? {
            let (parent, name) = self.parent_of(&device.path, ErrorCode::Device)?;
            match kernel.make_node(parent.as_fd(), &name, NodeKind::Regular, 0) {
                Err(call) if !call.is(Errno::EEXIST) => {
                    return Err(Error::from_call(
                        ErrorCode::Device,
                        format!("{} can't be made", device.path),
                        &call,
                    ));
                }
                _ => {}
            }
            kernel.resolve(parent.as_fd(), &name, Follow::AllButLast).context(ErrorCode::Device, what)?
        } else {
            let root = self.root()?;
            // As where a node is made, a slash at the end is none of the name.
            let path = device.path.as_entry();
            match resolve::resolve(kernel, root.as_fd(), &path, Follow::AllButLast) {
                Err(call) if call.is(Errno::ENOENT) => {
                    self.parent = None;
                    self.destination(&path, Missing::Placeholder)?.fd
                }
                other => other.map_err(|call| resolve::resolution_error(&device.path, &call))?,
            }
        };
        let status = kernel.status(placeholder.as_fd()).context(ErrorCode::Device, what)?;
        if matches!(status.kind, FileKind::Symlink | FileKind::Directory) {
            let mut error =
                Error::new(ErrorCode::Device, format!("{} is in the way of a device", device.path));
            error.errno = Some(libc::EEXIST);
            return Err(error);
        }
        kernel.attach(mount.as_fd(), placeholder.as_fd()).context(ErrorCode::Device, what)?;
        if self.setting.verify {
            let id = kernel.mount_id(mount.as_fd()).context(ErrorCode::Device, what)?;
            let flags = attr::NOSUID | attr::NOEXEC;
            let one = Expectation::new(step, id, status.mount, Some(device.path.clone()), flags);
            // A node of the host keeps the flags of the mount that it is on, and a read-only root makes all below it so.
            self.expectations.add(one).unsure = !flags;
        }
        self.remember_null(device, mount);
        Ok(Done::by(strategy))
    }

    pub(super) fn symlink(
        &mut self,
        target: &PathBytes,
        path: &PathBytes,
        replace: bool,
        only_if_host_has: Option<&PathBytes>,
    ) -> Result<Done> {
        if let Some(file) = only_if_host_has
            && !self.ground.surroundings.host_has(file)
        {
            return Ok(Done::missing());
        }
        let kernel = self.kernel;
        let (parent, name) = self.parent_of(path, ErrorCode::Device)?;
        let parent = parent.as_fd();
        let what = || format!("the link {path} can't be made");
        match kernel.make_symlink(target, parent, &name) {
            Err(call) if call.is(Errno::EEXIST) && replace => {
                let existing =
                    kernel.resolve(parent, &name, Follow::AllButLast).context(ErrorCode::Mount, what)?;
                let status = kernel.status(existing.as_fd()).context(ErrorCode::Mount, what)?;
                if status.kind == FileKind::Symlink
                    && kernel.read_link(existing.as_fd()).context(ErrorCode::Mount, what)? == *target
                {
                    return Ok(Done::by("existing"));
                }
                kernel
                    .remove_file(parent, &name)
                    .and_then(|()| kernel.make_symlink(target, parent, &name))
                    .context(ErrorCode::Mount, what)?;
                Ok(Done::by("replaced"))
            }
            Err(call) if call.is(Errno::EEXIST) => Ok(Done::by("existing")),
            other => other.context(ErrorCode::Mount, what).map(|()| Done::default()),
        }
    }
}

/// Opens a node and checks that it is the device that was wanted.
fn open_node(
    kernel: &dyn Kernel,
    parent: std::os::fd::BorrowedFd<'_>,
    name: &PathBytes,
    device: &Device,
) -> Result<(OwnedFd, FileStatus)> {
    let what = || format!("{} can't be checked", device.path);
    let node = kernel.resolve(parent, name, Follow::AllButLast).context(ErrorCode::Device, what)?;
    let status = kernel.status(node.as_fd()).context(ErrorCode::Device, what)?;
    check_device(device, &status)?;
    Ok((node, status))
}

/// Gives a node that was just made its owner and mode, by the descriptor that was checked: the name may be another file's by now.
/// A directory can have given it its group, or by its default ACL another mode.
fn give(kernel: &dyn Kernel, device: &Device, node: &OwnedFd, status: &FileStatus) -> Result<()> {
    let owner = (device.uid, device.gid);
    if status.owner != owner {
        kernel
            .set_owner(node.as_fd(), Some(owner.0), Some(owner.1))
            .context(ErrorCode::Device, || format!("{} can't be given to its owner", device.path))?;
    }
    // With another owner the bits for set-user-id and set-group-id are gone.
    if status.mode & 0o7777 != device.mode || (status.owner != owner && device.mode & 0o6000 != 0) {
        kernel
            .set_mode(node.as_fd(), device.mode)
            .context(ErrorCode::Device, || format!("{} can't be given its mode", device.path))?;
    }
    Ok(())
}

fn check_device(device: &Device, status: &FileStatus) -> Result<()> {
    let same = match device.kind {
        DeviceType::Character => {
            status.kind == FileKind::CharacterDevice && status.rdev == (device.major, device.minor)
        }
        DeviceType::Block => {
            status.kind == FileKind::BlockDevice && status.rdev == (device.major, device.minor)
        }
        DeviceType::Fifo => status.kind == FileKind::Fifo,
    };
    if same {
        return Ok(());
    }
    let mut error = Error::new(
        ErrorCode::Device,
        format!("{} exists and is another thing than the device that was asked for", device.path),
    );
    error.errno = Some(libc::EEXIST);
    Err(error)
}

/// What the host's node lets others do than was asked for, if anything.
fn other_rights(device: &Device, status: &FileStatus, owners_known: bool) -> Option<String> {
    let mode = status.mode & 0o7777;
    // Whose group it is makes no difference where everybody may do the same.
    let group_counts = device.mode >> 3 & 7 != device.mode & 7;
    let other_owner = status.owner.0 != device.uid || (group_counts && status.owner.1 != device.gid);
    if mode == device.mode && !(owners_known && other_owner) {
        return None;
    }
    let (mut has, mut wanted) = (format!("mode {mode:o}"), format!("mode {:o}", device.mode));
    if owners_known {
        has = format!("{has} and belongs to {}:{}", status.owner.0, status.owner.1);
        wanted = format!("{wanted} and owner {}:{}", device.uid, device.gid);
    }
    Some(format!("{} is the host's node, which has {has}; asked for was {wanted}", device.path))
}

/// A copy of the host's node of the same name, where no node can be made.
fn copy_host_node(kernel: &dyn Kernel, device: &Device, denied: &SysError) -> Result<(OwnedFd, FileStatus)> {
    let what = || format!("{} can't be made, and the host's can't be bound", device.path);
    let same = |path: &PathBytes, follow: bool| {
        let node = kernel.open_host(path, false, follow)?;
        let status = kernel.status(node.as_fd())?;
        let same = check_device(device, &status).is_ok();
        Ok::<_, SysError>(same.then_some((node, status)))
    };
    // Under its own name, that of a usual device, or that which udev gives every device.
    let own = Some(device.path.normalized()).filter(|path| path.starts_with(&"/dev".into()));
    let usual = defaults::devices()
        .into_iter()
        .find(|usual| (usual.kind, usual.major, usual.minor) == (device.kind, device.major, device.minor));
    let kind = if device.kind == DeviceType::Block { "block" } else { "char" };
    let numbered = PathBytes::from(format!("/dev/{kind}/{}:{}", device.major, device.minor));
    let names = own.into_iter().chain(usual.map(|usual| usual.path)).map(|path| (path, false));
    let mut names = names.chain([(numbered, true)]);
    let Some((node, status)) = names.find_map(|(path, follow)| same(&path, follow).ok().flatten()) else {
        return Err(Error::from_call(ErrorCode::Device, what(), denied).with_hint(Hint::NoHostDevice));
    };
    let mount = kernel.clone_mount(node.as_fd(), false).context(ErrorCode::Device, what)?;
    let change = AttributeChange {
        set: attr::NOSUID | attr::NOEXEC,
        propagation: Some(Propagation::RPRIVATE),
        ..AttributeChange::default()
    };
    kernel.set_attributes(mount.as_fd(), change).context(ErrorCode::Device, what)?;
    Ok((mount, status))
}
