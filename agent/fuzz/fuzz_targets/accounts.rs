//! Any bytes as the account files of a container.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| saker::fuzz::accounts(bytes));
