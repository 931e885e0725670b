//! What tests share: visible skips, a running agent, actors, interpreters, cgroups named like a container's.
//!
//! Everything is driven from outside, as a user would: the agent and the actors are programs, alerts are its output.

pub mod agent;
pub mod cgroup;
pub mod containerd;
pub mod docker;
pub mod endpoint;
pub mod grpc;
pub mod image;
pub mod manifests;
pub mod nvml;
pub mod python;
pub mod scenario;
pub mod skip;

use std::{
    env,
    path::{Path, PathBuf},
};

pub use agent::Agent;
pub use cgroup::Cgroup;
pub use containerd::Containerd;
pub use endpoint::{Endpoint, until};
pub use skip::{needs_root, root_or_skip, shared, skip};

/// The repository root.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests is a folder of the repository")
}

/// Where the built programs are: `SAKER_BIN_DIR`, or beside the running test.
pub fn bin_dir() -> PathBuf {
    if let Some(dir) = env::var_os("SAKER_BIN_DIR") {
        return dir.into();
    }
    let own = env::current_exe().expect("a running program has a path");
    let mut dir = own.parent().expect("a program is in a folder");
    if dir.ends_with("deps") {
        dir = dir.parent().expect("deps is inside a profile's folder");
    }
    dir.to_path_buf()
}

/// A built program: `saker`, or an actor by its name.
pub fn program(name: &str) -> PathBuf {
    let path = bin_dir().join(name);
    assert!(
        path.exists(),
        "{} is not built: run `cargo xtask test`, or `cargo build --workspace --bins` first",
        path.display()
    );
    path
}

/// Makes a character device node, which need not have a driver.
pub fn make_device(path: &Path, major: u32, minor: u32) {
    use std::os::unix::ffi::OsStrExt as _;
    let node = std::ffi::CString::new(path.as_os_str().as_bytes()).expect("no NUL in a path");
    // SAFETY: the path is a NUL-terminated string that outlives the call.
    let made = unsafe {
        libc::mknod(
            node.as_ptr(),
            libc::S_IFCHR | 0o666,
            libc::makedev(major, minor),
        )
    };
    assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
}
