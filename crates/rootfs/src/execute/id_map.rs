//! Idmapped mounts: a bind whose files seem to be others'.

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use crate::error::{Error, ErrorCode, Result, SysError};
use crate::hint::Hint;
use crate::kernel::Kernel;
use crate::spec::{IdMap, MountIdMap, MountIds};

/// The user namespaces that mappings are taken from: one for each mapping, however many mounts have it.
#[derive(Debug, Default)]
pub(super) struct IdMaps(RefCell<Vec<(IdMap, OwnedFd)>>);

impl IdMaps {
    /// Has a detached copy show other owners. It must have been attached nowhere yet.
    pub(super) fn apply(
        &self,
        kernel: &dyn Kernel,
        mount: BorrowedFd<'_>,
        wanted: &MountIdMap,
        container: Option<&IdMap>,
    ) -> Result<()> {
        let map = match (&wanted.ids, container) {
            (MountIds::Map(map), _) | (MountIds::UserNamespace, Some(map)) => map,
            (MountIds::UserNamespace, None) => {
                return Err(Error::new(
                    ErrorCode::Spec,
                    "the mount is to have the ids of the container's user namespace, and the container has none",
                )
                .with_hint(Hint::NoContainerIds));
            }
        };
        let position = self.prepare(kernel, map)?;
        let known = self.0.borrow();
        let (_, namespace) = &known[position];
        kernel
            .map_mount_ids(mount, namespace.as_fd(), wanted.recursive)
            .map_err(|call| refused(kernel, mount, &call))
    }

    /// Gets the namespace of a mapping, and its place in the list.
    pub(super) fn prepare(&self, kernel: &dyn Kernel, map: &IdMap) -> Result<usize> {
        let mut known = self.0.borrow_mut();
        if let Some(position) = known.iter().position(|(other, _)| other == map) {
            return Ok(position);
        }
        let made = kernel.user_namespace(map).map_err(|call| no_namespace(&call))?;
        known.push((map.clone(), made));
        Ok(known.len() - 1)
    }
}

fn no_namespace(call: &SysError) -> Box<Error> {
    let what = "a user namespace for an idmapped mount can't be made";
    if call.is(Errno::EPERM) {
        return Error::from_call(ErrorCode::Denied, what, call).with_hint(Hint::IdmapDenied);
    }
    let mut error = Error::from_call(ErrorCode::Denied, what, call);
    error.hint = Hint::of_clone(call, true).map(String::from);
    error
}

fn refused(kernel: &dyn Kernel, mount: BorrowedFd<'_>, call: &SysError) -> Box<Error> {
    match Errno::from_raw(call.errno) {
        Errno::EPERM => Error::from_call(ErrorCode::Denied, "the mount can't be idmapped", call)
            .with_hint(Hint::IdmapDenied),
        Errno::EINVAL => {
            let name =
                kernel.filesystem_magic(mount).map_or_else(|_| "this filesystem".to_owned(), filesystem_name);
            Error::from_call(
                ErrorCode::Unsupported,
                format!("{name} can't be idmapped, or what is mounted below it"),
                call,
            )
            .with_hint(Hint::IdmapUnsupported)
        }
        _ => Error::from_call(ErrorCode::Mount, "the mount can't be idmapped", call),
    }
}

/// Filesystems that people meet, by the magic numbers of `statfs(2)`.
const NAMES: [(u64, &str); 14] = [
    (0xef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x0102_1994, "tmpfs"),
    (0x794c_7630, "overlay"),
    (0x9fa0, "proc"),
    (0x6265_6572, "sysfs"),
    (0x6969, "nfs"),
    (0x6573_5546, "fuse"),
    (0x0102_1997, "9p"),
    (0x2fc1_2fc1, "zfs"),
    (0x8584_58f6, "ramfs"),
    (0xff53_4d42, "cifs"),
    (0x6367_7270, "cgroup2"),
];

fn filesystem_name(magic: u64) -> String {
    NAMES.iter().find(|(known, _)| *known == magic).map_or_else(
        || format!("the filesystem with magic number {magic:#x}"),
        |(_, name)| (*name).to_owned(),
    )
}
