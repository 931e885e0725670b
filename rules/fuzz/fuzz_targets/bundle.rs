//! Any bytes as a bundle, their checksum made right: refused, or harmless.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| saker_rules::fuzz::bundle(bytes));
