//! Any bytes as an ELF file of a container: refused, or its call sites lie inside of it.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| saker::fuzz::elf(bytes));
