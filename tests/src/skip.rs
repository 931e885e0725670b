//! Visible skips: a test that lacks something says so where `cargo xtask test` and CI see it.

use std::{env, fs::OpenOptions, io::Write as _, path::PathBuf};

/// Records that the running test did not run, and why. The caller returns right after.
pub fn skip(reason: &str) {
    let name = test_name();
    eprintln!("SKIP {name}: {reason}");
    record("SAKER_SKIPS", &format!("{name}: {reason}"));
}

/// Records that the running test works because this process is root, so that a run as root can tell what one without would lack.
pub fn needs_root() {
    record("SAKER_NEEDS_ROOT", &test_name());
}

/// The running test's own name: the test runner gives it to the thread.
fn test_name() -> String {
    std::thread::current()
        .name()
        .unwrap_or("unnamed")
        .to_owned()
}

/// Appends a line to the file that `cargo xtask test` named in the environment; without one there is nobody to tell.
fn record(variable: &str, line: &str) {
    let Some(path) = env::var_os(variable) else {
        return;
    };
    let file = OpenOptions::new().append(true).create(true).open(&path);
    let written = file.and_then(|mut file| writeln!(file, "{line}"));
    written.unwrap_or_else(|error| {
        panic!(
            "cannot write to {}: {error}",
            PathBuf::from(&path).display()
        )
    });
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
    if root {
        needs_root();
    } else {
        skip("needs root to load kernel programs");
    }
    root
}
