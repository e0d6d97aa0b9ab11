//! A generator of random choices: the same seed gives the same, so that a failure can be had again.

use std::time::{Duration, Instant};

/// xorshift64*.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap_or(0)
    }

    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

/// As many cases are run, however slow the machine is.
const FEWEST: u64 = 101;

/// Runs a case for each seed, for as long as the variable `ROOTFS_FUZZ_SECONDS` says or one second. `ROOTFS_FUZZ_SEED` is the
/// first seed, to begin where a run has failed.
pub fn for_seeds(mut case: impl FnMut(u64, &mut Random)) -> u64 {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let end = Instant::now() + Duration::from_secs(number("ROOTFS_FUZZ_SECONDS").unwrap_or(1));
    let first = number("ROOTFS_FUZZ_SEED").unwrap_or(0);
    let mut seed = first;
    while seed - first < FEWEST || Instant::now() < end {
        case(seed, &mut Random::new(seed));
        seed += 1;
    }
    seed - first
}
