//! Any bytes as the beginning of a TLS connection: it says the same whole and in pieces.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| saker::fuzz::tls(bytes));
