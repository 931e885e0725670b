//! Any bytes as a record of the ring: refused, or it goes through all stages and every field of it can be shown.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| saker::fuzz::record(bytes));
