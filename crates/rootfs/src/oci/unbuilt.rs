//! What a config can say, the specification has a place for, and the execution can't do yet: refused in this one place.

use crate::error::{Error, ErrorCode, Result};
use crate::spec::RootfsSpec;

pub(super) fn check(rootfs: &RootfsSpec) -> Result<()> {
    for (wanted, name, pointer) in [(rootfs.mount_label.is_some(), "linux.mountLabel", "/linux/mountLabel")] {
        if wanted {
            let message = format!("{name}: this is not supported by this version");
            return Err(Error::new(ErrorCode::Unsupported, message).with_pointer(pointer));
        }
    }
    Ok(())
}
