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
    /// How often a runtime is asked for all its containers.
    pub poll: Duration,
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
    /// The connection or the answer is broken.
    #[error("{0}")]
    Broken(String),
}

/// A message of somebody else's, fit for a log line.
fn one_line(message: &str) -> String {
    let printable = message
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c });
    printable.take(200).collect()
}
