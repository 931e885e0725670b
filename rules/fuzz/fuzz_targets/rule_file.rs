//! Any text as a rules file: it is refused with diagnostics that can be shown, or it is compiled.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| saker_rules::fuzz::rule_file(text));
