//! What the fuzz targets check, which the fuzz tests of the library check too.

#[path = "../../crates/rootfs/tests/support/checks.rs"]
pub mod checks;
#[path = "../../crates/rootfs/tests/support/maker.rs"]
pub mod maker;
#[path = "../../crates/rootfs/tests/support/resolver.rs"]
pub mod resolver;
