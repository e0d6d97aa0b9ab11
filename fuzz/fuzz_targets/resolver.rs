#![no_main]

use rootfs_fuzz::resolver::Trees;

thread_local! {
    static TREES: Trees = Trees::new("target");
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    TREES.with(|trees| trees.run(bytes));
});
