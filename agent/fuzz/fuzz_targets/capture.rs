//! Any bytes as a capture, its versions and checksums made right: refused, or replayed to its damage.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| saker::fuzz::capture(bytes));
