//! Macros and lists that rules may use without defining them.

/// The rules file that is loaded before any other. Later files may define its names again.
pub const PRELUDE: &str = include_str!("../packs/prelude.yaml");
