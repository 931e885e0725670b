//! Any text as a condition: it is refused or it is compiled, and then the engine and the reference agree.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| saker_rules::fuzz::condition(text));
