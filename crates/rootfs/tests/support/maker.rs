//! What makes mountpoints where no container is made.

use std::os::fd::BorrowedFd;

use rootfs::error::Result;
use rootfs::kernel::FileStatus;
use rootfs::kernel::linux::Linux;
use rootfs::path::PathBytes;
use rootfs::resolve::{Maker, Missing, Place, make_with_kernel, resolution_error};

/// Makes what is missing, and remembers nothing.
pub struct Simple<'a>(pub &'a Linux);

impl Maker for Simple<'_> {
    fn knows_mount(&self, _: u64) -> bool {
        false
    }

    fn make(&mut self, parent: BorrowedFd<'_>, _: &Place, name: &PathBytes, what: Missing) -> Result<bool> {
        make_with_kernel(self.0, parent, name, what).map_err(|call| resolution_error(name, &call))
    }

    fn made(&mut self, _: &Place, _: &PathBytes, _: Missing, _: &FileStatus) -> Result<()> {
        Ok(())
    }
}
