//! Any bytes as an answer to a DNS query: what can be read of it is remembered within bounds.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| saker::fuzz::dns(bytes));
