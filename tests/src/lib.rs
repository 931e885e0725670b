//! What tests share: visible skips, a running agent, actors, cgroups named like a container's.

pub mod skip;

use std::path::Path;

pub use skip::{root_or_skip, shared, skip};

/// The repository root.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests is a folder of the repository")
}
