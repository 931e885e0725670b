//! What the node's container runtimes know of its containers: names, images, labels, pods.
//!
//! Asking takes milliseconds, or for ever when a runtime hangs. So it is done on tokio ([`resolver`]), and the sensor thread has a
//! [`Directory`] of what was answered; both talk by bounded channels. Which container an event belongs to is not decided here
//! but in [`super::container`]; what happens to events that come before the answer is the pipeline's business.

pub mod cri;
pub mod directory;
pub mod docker;
pub mod metadata;
mod recent;
pub mod resolver;

use std::{path::PathBuf, time::Duration};

pub use directory::{Directory, Look};
pub use metadata::Container;

/// How long one call to a runtime may take. A healthy one answers within milliseconds.
pub const CALL: Duration = Duration::from_secs(2);

/// Where runtimes are, and how often they are asked.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// Sockets that speak CRI.
    pub cri: Vec<PathBuf>,
    /// Sockets that speak the Docker Engine API.
    pub docker: Vec<PathBuf>,
    /// Which of these somebody named in the configuration.
    pub named: Vec<PathBuf>,
    /// Below which the others are looked for.
    pub host_root: PathBuf,
    /// How often a runtime is asked for all its containers.
    pub poll: Duration,
    /// How long events wait for an answer.
    pub hold: Duration,
}

impl RuntimeConfig {
    /// What is to be said of paths that were named and are not what they should be.
    pub fn problems(&self) -> Vec<String> {
        use std::os::unix::fs::FileTypeExt as _;
        let mut problems = Vec::new();
        for socket in &self.named {
            let shown = socket.display();
            match std::fs::metadata(socket) {
                Ok(file) if file.file_type().is_socket() => {}
                Ok(_) => problems.push(format!("{shown} is configured as a container runtime's socket and is no socket")),
                Err(error) => problems.push(format!(
                    "{shown} is configured as a container runtime's socket and cannot be found: {error}; it is looked for every second"
                )),
            }
        }
        if !self.host_root.is_dir() {
            problems.push(format!(
                "containers.host_root is {}, which is no folder: no container runtime is found below it",
                self.host_root.display()
            ));
        }
        problems
    }
}

/// Where containerd and CRI-O listen on the distributions that Kubernetes runs on.
pub const CRI_SOCKETS: &[&str] = &[
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/k0s/containerd.sock",
    "/var/snap/microk8s/common/run/containerd.sock",
    "/run/cri-dockerd.sock",
];

/// Where Docker and Podman listen.
pub const DOCKER_SOCKETS: &[&str] = &["/run/docker.sock", "/run/podman/podman.sock"];

/// Why a runtime did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It knows none of this id.
    #[error("not found")]
    NotFound,
    /// It does not have this call.
    #[error("does not speak this protocol")]
    Unsupported,
    /// No answer in time.
    #[error("no answer within {CALL:?}")]
    Timeout,
    /// There is no connection, or it is broken.
    #[error("{0}")]
    Broken(String),
    /// It answers with an error, or with what cannot be read.
    #[error("{0}")]
    Refused(String),
}

/// A message of somebody else's, fit for a log line.
fn one_line(message: &str) -> String {
    let printable = message
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c });
    printable.take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_named_and_is_not_there_is_said() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let socket = folder.path().join("a.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        let check = |named: &[&std::path::Path], host_root: &std::path::Path, expected: &[&str]| {
            let config = RuntimeConfig {
                cri: Vec::new(),
                docker: Vec::new(),
                named: named.iter().map(Into::into).collect(),
                host_root: host_root.into(),
                poll: Duration::from_secs(30),
                hold: Duration::ZERO,
            };
            let problems = config.problems();
            assert_eq!(problems.len(), expected.len(), "{problems:?}");
            for (problem, part) in problems.iter().zip(expected) {
                assert!(problem.contains(part), "{problem:?} lacks {part:?}");
            }
        };
        let missing = folder.path().join("missing.sock");
        check(&[&socket], folder.path(), &[]);
        check(&[], folder.path(), &[]);
        check(
            &[&missing, &socket],
            folder.path(),
            &["missing.sock is configured"],
        );
        check(&[folder.path()], folder.path(), &["is no socket"]);
        check(&[], &missing, &["containers.host_root"]);
    }
}
