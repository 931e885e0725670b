//! Any bytes as the answer of a container runtime: refused, or a container within its bounds.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| saker::fuzz::runtime(bytes));
