#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rootfs_fuzz::checks::frame(bytes));
