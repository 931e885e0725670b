//! Visible skips: a test that lacks something says so where `cargo xtask test` and CI see it.

use std::{env, fs::OpenOptions, io::Write as _, path::PathBuf};

/// Records that the running test did not run, and why. The caller returns right after.
///
/// The name is the test's own, taken from the thread that the test runner gave it.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("unnamed");
    eprintln!("SKIP {name}: {reason}");
    if let Some(path) = env::var_os("SAKER_SKIPS") {
        let file = OpenOptions::new().append(true).create(true).open(&path);
        let written = file.and_then(|mut file| writeln!(file, "{name}: {reason}"));
        written.unwrap_or_else(|error| {
            panic!(
                "cannot record a skip in {}: {error}",
                PathBuf::from(&path).display()
            )
        });
    }
}

/// `../shared/<path>` beside the repository, or `None` after recording a skip.
pub fn shared(path: &str) -> Option<PathBuf> {
    let full = crate::repository().parent()?.join("shared").join(path);
    if full.exists() {
        return Some(full);
    }
    skip(&format!("../shared/{path} is not there"));
    None
}

/// Whether this process is root; records a skip where it is not.
pub fn root_or_skip() -> bool {
    // SAFETY: geteuid takes nothing, touches no memory of ours and cannot fail.
    let root = unsafe { libc::geteuid() == 0 };
    if !root {
        skip("needs root to load kernel programs");
    }
    root
}
