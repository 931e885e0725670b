//! The stand-in for NVIDIA's library, for an agent that is started by a test.

use std::{
    fs,
    path::{Path, PathBuf},
};

pub use saker_nvml_stand_in::{
    scenario::{CLOCK, FILE, Gpu, Process, Scenario},
    workload::{Play, Workload},
};

/// The built library.
pub fn library() -> PathBuf {
    let name = "libsaker_nvml_stand_in.so";
    let places = [
        crate::bin_dir().join(name),
        crate::bin_dir().join("deps").join(name),
    ];
    let found = places.iter().find(|place| place.exists());
    found
        .unwrap_or_else(|| panic!("{name} is not built: run `cargo xtask test`"))
        .clone()
}

/// Writes a scenario in one step, so that nobody reads half of it.
pub fn write(path: &Path, scenario: &Scenario) {
    let text = serde_json::to_string(scenario).expect("it is JSON");
    let new = path.with_extension("new");
    fs::write(&new, text).expect("it is written");
    fs::rename(&new, path).expect("it is moved");
}
