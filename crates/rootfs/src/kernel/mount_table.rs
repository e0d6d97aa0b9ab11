//! The kernel's mount table: `listmount(2)` and `statmount(2)`, since Linux 6.8, or the text of `proc_pid_mountinfo(5)`.

use std::mem::MaybeUninit;

use rustix::mount::MountPropagationFlags;

use super::linux::{last_error, read_to_end};
use super::{ListedMount, MountState};
use crate::error::SysResult;
use crate::mountinfo::{self, Entry};
use crate::options::PropagationState;
use crate::path::PathBytes;

const SYS_STATMOUNT: libc::c_long = 457;
const SYS_LISTMOUNT: libc::c_long = 458;
const STATMOUNT_SB_BASIC: u64 = 0x1;
const STATMOUNT_MNT_BASIC: u64 = 0x2;
const STATMOUNT_MNT_POINT: u64 = 0x10;
/// All that can be reached from the root of the calling process.
const LSMT_ROOT: u64 = u64::MAX;
const SB_RDONLY: u32 = 1;
const SB_LAZYTIME: u32 = 1 << 25;
/// How many ids are asked for at first, beyond those that are expected.
const ROOM: usize = 64;

#[repr(C)]
struct MountIdRequest {
    size: u32,
    spare: u32,
    mnt_id: u64,
    param: u64,
}

impl MountIdRequest {
    fn new(mnt_id: u64, param: u64) -> Self {
        Self { size: 24, spare: 0, mnt_id, param }
    }
}

/// `struct statmount` up to the fields used here, and the strings behind it; `statmount(2)`.
#[repr(C)]
struct StatMount {
    size: u32,
    mnt_opts: u32,
    mask: u64,
    sb_dev_major: u32,
    sb_dev_minor: u32,
    sb_magic: u64,
    sb_flags: u32,
    fs_type: u32,
    mnt_id: u64,
    mnt_parent_id: u64,
    mnt_id_old: u32,
    mnt_parent_id_old: u32,
    mnt_attr: u64,
    mnt_propagation: u64,
    mnt_peer_group: u64,
    mnt_master: u64,
    propagate_from: u64,
    mnt_root: u32,
    mnt_point: u32,
    rest: [u8; HEAD - 120],
}

/// The size of the struct before its strings, which no kernel changes.
const HEAD: usize = 512;

impl StatMount {
    fn state(&self) -> MountState {
        let has = |flag: MountPropagationFlags| self.mnt_propagation & u64::from(flag.bits()) != 0;
        let propagation = PropagationState {
            shared: has(MountPropagationFlags::SHARED),
            peers: has(MountPropagationFlags::SHARED),
            slave: has(MountPropagationFlags::DOWNSTREAM),
            unbindable: has(MountPropagationFlags::UNBINDABLE),
        };
        MountState { attributes: self.mnt_attr, propagation }
    }
}

/// Calls `statmount(2)`. `None` if there is no such mount in this process's mount namespace.
///
/// The buffer is of 64-bit words, so that the struct at its beginning is aligned.
fn call(id: u64, mask: u64, buffer: &mut [MaybeUninit<u64>]) -> SysResult<Option<()>> {
    let request = MountIdRequest::new(id, mask);
    // SAFETY: the kernel writes at most as many bytes as it is told the buffer has, and both outlive the call.
    let result = unsafe {
        libc::syscall(SYS_STATMOUNT, &raw const request, buffer.as_mut_ptr(), size_of_val(buffer), 0_u32)
    };
    if result == 0 {
        return Ok(Some(()));
    }
    let error = last_error("statmount", || id.to_string());
    if error.errno == libc::ENOENT { Ok(None) } else { Err(error) }
}

/// What was written to a buffer.
fn head(buffer: &[MaybeUninit<u64>]) -> &StatMount {
    assert!(size_of_val(buffer) >= HEAD, "the struct fits into the buffer");
    // SAFETY: the buffer is aligned, as large as the struct, and was zeroed when it was made: the struct has only integers.
    unsafe { &*buffer.as_ptr().cast::<StatMount>() }
}

/// Whether both calls can be made: a filter may know one of them.
pub(super) fn is_complete(id: u64) -> bool {
    // Behind the last id that there can be: the caller's table may have thousands, and the kernel would look at each.
    state(id).is_ok() && list_some(id, u64::MAX - 1, &mut [0]).is_ok()
}

/// The state of a mount of this process's mount namespace.
pub(super) fn state(id: u64) -> SysResult<Option<MountState>> {
    let mut buffer = [MaybeUninit::zeroed(); HEAD / 8];
    let found = call(id, STATMOUNT_MNT_BASIC, &mut buffer)?;
    Ok(found.map(|()| head(&buffer).state()))
}

/// Whether the filesystem of a mount has the flag `lazytime`.
pub(super) fn is_lazy(id: u64) -> SysResult<bool> {
    let mut buffer = [MaybeUninit::zeroed(); HEAD / 8];
    let found = call(id, STATMOUNT_SB_BASIC, &mut buffer)?;
    Ok(found.is_some_and(|()| head(&buffer).sb_flags & SB_LAZYTIME != 0))
}

/// The same with its place, if that is wanted.
fn listed(id: u64, place: bool, buffer: &mut Vec<MaybeUninit<u64>>) -> SysResult<Option<ListedMount>> {
    let mask = STATMOUNT_SB_BASIC | STATMOUNT_MNT_BASIC | if place { STATMOUNT_MNT_POINT } else { 0 };
    loop {
        match call(id, mask, buffer) {
            Err(error) if error.errno == libc::EOVERFLOW && buffer.len() < (1 << 17) => {
                buffer.resize(buffer.len() * 4, MaybeUninit::zeroed());
            }
            Err(error) => return Err(error),
            Ok(None) => return Ok(None),
            Ok(Some(())) => break,
        }
    }
    let stat = head(buffer);
    // SAFETY: every element was zeroed when it was made.
    let bytes = unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), buffer.len() * 8) };
    // What is beyond the size is of the call before.
    let end = (stat.size as usize).clamp(HEAD, bytes.len());
    let text = bytes.get(HEAD + stat.mnt_point as usize..end).filter(|_| place).unwrap_or_default();
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(Some(ListedMount {
        id,
        parent: stat.mnt_parent_id,
        mountpoint: PathBytes::new(text),
        state: stat.state(),
        superblock_readonly: stat.sb_flags & SB_RDONLY != 0,
    }))
}

/// So many of them as there is room for, behind an id; how many there were.
fn list_some(top: u64, last: u64, room: &mut [u64]) -> SysResult<usize> {
    let request = MountIdRequest::new(top, last);
    // SAFETY: the kernel writes at most as many ids as it is told there is room for, and both outlive the call.
    let found =
        unsafe { libc::syscall(SYS_LISTMOUNT, &raw const request, room.as_mut_ptr(), room.len(), 0_u32) };
    usize::try_from(found).map_err(|_| last_error("listmount", || top.to_string()))
}

/// The ids of what is below a mount, or of all that can be reached from this process's root, in their order.
fn list(top: u64, expected: usize) -> SysResult<Vec<u64>> {
    let mut ids = vec![0_u64; expected + ROOM];
    let mut count = 0;
    loop {
        // What was found last; the kernel goes on behind it.
        let last = ids[..count].last().copied().unwrap_or(0);
        let free = &mut ids[count..];
        let found = list_some(top, last, free)?;
        let full = found == free.len();
        count += found;
        if !full {
            ids.truncate(count);
            return Ok(ids);
        }
        ids.resize(count * 2, 0);
    }
}

/// The mount table, from `listmount(2)` and `statmount(2)`.
pub(super) fn table(expected: usize) -> SysResult<Vec<ListedMount>> {
    listed_all(&list(LSMT_ROOT, expected)?, true)
}

/// The same without places, if it has exactly so many mounts.
pub(super) fn table_of(count: usize) -> SysResult<Option<Vec<ListedMount>>> {
    let ids = list(LSMT_ROOT, count)?;
    if ids.len() == count { listed_all(&ids, false).map(Some) } else { Ok(None) }
}

fn listed_all(ids: &[u64], places: bool) -> SysResult<Vec<ListedMount>> {
    let mut buffer = vec![MaybeUninit::zeroed(); (HEAD + 512) / 8];
    let mut mounts = Vec::with_capacity(ids.len());
    for id in ids {
        // One that has gone meanwhile is missing.
        mounts.extend(listed(*id, places, &mut buffer)?);
    }
    Ok(mounts)
}

/// What is below a mount, from `listmount(2)`.
pub(super) fn below(mount: u64) -> SysResult<Vec<u64>> {
    list(mount, 0)
}

/// The mount table, from the text.
pub(super) fn table_from_mountinfo(fd: std::os::fd::BorrowedFd<'_>) -> SysResult<Vec<ListedMount>> {
    let mut mounts: Vec<_> = mountinfo::parse(&read_to_end(fd)?).iter().map(from_entry).collect();
    mounts.sort_by_key(|mount| mount.id);
    Ok(mounts)
}

/// A line of the text.
pub(super) fn from_entry(entry: &Entry) -> ListedMount {
    let has = |what: &str| entry.propagation.iter().any(|field| field.starts_with(what));
    ListedMount {
        id: entry.id,
        parent: entry.parent_id,
        mountpoint: entry.destination.clone(),
        state: MountState {
            attributes: entry.attributes(),
            propagation: PropagationState {
                shared: has("shared:"),
                peers: has("shared:"),
                slave: has("master:"),
                unbindable: has("unbindable"),
            },
        },
        superblock_readonly: entry.super_options.iter().any(|option| option == "ro"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::super::Kernel;
    use super::super::linux::Linux;
    use super::*;

    #[test]
    fn both_ways_to_read_the_table_say_the_same() {
        let kernel = Linux::default();
        let slash = kernel.open_host(&"/".into(), true, false).unwrap();
        let root = kernel.mount_id(slash.as_fd()).unwrap();
        if !kernel.ids_are_unique() {
            return;
        }
        let facts = |table: Vec<ListedMount>| {
            let mut facts: Vec<_> = table
                .into_iter()
                .map(|mount| {
                    let readonly = mount.superblock_readonly;
                    (mount.mountpoint, mount.state.attributes, mount.state.propagation.words(), readonly)
                })
                .collect();
            facts.sort();
            facts
        };
        // Other tests, or the machine, may mount something meanwhile.
        let same = (0..100).any(|_| {
            let text = kernel.open_proc_self("mountinfo", rustix::fs::OFlags::RDONLY).unwrap();
            facts(table(0).unwrap()) == facts(table_from_mountinfo(text.as_fd()).unwrap())
        });
        assert!(same);
        let listed = table(0).unwrap();
        assert!(listed.is_sorted_by_key(|mount| mount.id));
        assert!(listed.iter().any(|mount| mount.id == root && mount.mountpoint == "/".into()));
        assert!(below(root).unwrap().len() < listed.len());
        assert_eq!(state(u64::MAX - 1).unwrap(), None);
    }
}
