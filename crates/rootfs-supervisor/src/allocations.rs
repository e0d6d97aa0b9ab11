//! What a debug build allocates: counted for the test of what a container costs, and in no other build.
//!
//! The numbers are in memory that the supervisor shares with all processes that it makes, so that they are those of a whole
//! container. Whoever may look into the supervisor finds them by the name of that memory.
// A global allocator and shared memory can't be had without it.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use nix::libc;

/// How the memory is named in `/proc/PID/maps`.
const NAME: &std::ffi::CStr = c"rootfs-allocations";

/// Two numbers of 64 bits: how many bytes, and how many times.
#[repr(C)]
struct Counts {
    bytes: AtomicU64,
    times: AtomicU64,
}

static COUNTS: AtomicPtr<Counts> = AtomicPtr::new(ptr::null_mut());

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Counting;

impl Counting {
    fn count(bytes: usize) {
        // SAFETY: it is null, or the memory that `share` has mapped for as long as there is the process.
        if let Some(counts) = unsafe { COUNTS.load(Ordering::Relaxed).as_ref() } {
            counts.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            counts.times.fetch_add(1, Ordering::Relaxed);
        }
    }
}

// SAFETY: everything is done by the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count(layout.size());
        // SAFETY: as the caller has promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::count(layout.size());
        // SAFETY: as the caller has promised.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::count(size);
        // SAFETY: as the caller has promised.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as the caller has promised.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Counts from now on, here and in all processes that this one makes.
pub(super) fn share() -> rustix::io::Result<()> {
    let size = size_of::<Counts>();
    let file = rustix::fs::memfd_create(NAME, rustix::fs::MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&file, size as u64)?;
    let (rights, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    // SAFETY: new memory, which nothing else uses; all bits zero are two numbers.
    let memory = unsafe { libc::mmap(ptr::null_mut(), size, rights, kind, file.as_raw_fd(), 0) };
    assert_ne!(memory, libc::MAP_FAILED, "memory for the counts");
    COUNTS.store(memory.cast(), Ordering::Relaxed);
    Ok(())
}
