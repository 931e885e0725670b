//! The configuration of the gRPC services: its keys, their defaults and what no agent can want.

use std::{net::SocketAddr, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// gRPC: alerts, events, status and rules for clients on this node and elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Grpc {
    /// A socket on this node.
    pub unix: Unix,
    /// An address for clients elsewhere.
    pub tcp: Tcp,
    /// How much clients may take.
    pub limits: Limits,
}

/// A socket on this node.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Unix {
    /// Whether gRPC is served on a Unix socket. Only the agent's own user can open it (mode 0600).
    pub enabled: bool,
    /// Where; its folder is made if it is not there. A socket that nobody listens on any more is replaced, any other file is left
    /// alone. An absolute path.
    pub path: PathBuf,
}

impl Default for Unix {
    fn default() -> Self {
        Self {
            enabled: true,
            path: "/run/saker/saker.sock".into(),
        }
    }
}

/// An address for clients elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tcp {
    /// Address and port; none: gRPC is not served over TCP. Without `tls` only a loopback address is accepted.
    #[schemars(with = "Option<String>")]
    pub listen: Option<SocketAddr>,
    /// Encryption, and the certificates of those who may connect.
    pub tls: Option<Tls>,
    /// Whether clients over TCP may have rules reloaded.
    pub allow_reload: bool,
}

/// Files in PEM form. They are read again with every reload.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The agent's certificate, and those between it and its root.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Root certificates; a client needs a certificate of one of them.
    pub client_ca: PathBuf,
}

/// How much clients may take.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections, of all clients together (1 to 4096). Further ones are closed at once.
    #[schemars(range(min = 1, max = 4096))]
    pub connections_max: usize,
    /// Connections of one address, or of one user of the Unix socket (1 to 4096).
    #[schemars(range(min = 1, max = 4096))]
    pub connections_per_peer_max: usize,
    /// Calls that are being answered, streams included, of all clients together (1 to 4096). Further ones are refused.
    #[schemars(range(min = 1, max = 4096))]
    pub calls_max: usize,
    /// Clients that watch events at a time (0 to 64): each costs the sensor the evaluation of its condition for every event.
    #[schemars(range(max = 64))]
    pub watchers_max: usize,
    /// Events that wait for a watcher to read them (1 to 65536); further ones are dropped and counted, and it is told.
    #[schemars(range(min = 1, max = 65_536))]
    pub watcher_events_max: usize,
    /// A client that takes nothing of its stream for so many seconds is disconnected (1 to 3600).
    #[schemars(range(min = 1, max = 3600))]
    pub stuck_s: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 64,
            connections_per_peer_max: 32,
            calls_max: 64,
            watchers_max: 8,
            watcher_events_max: 1024,
            stuck_s: 30,
        }
    }
}

impl Grpc {
    /// What no agent can want; the key and what is wrong with its value.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if self.unix.enabled && !self.unix.path.is_absolute() {
            let problem = format!("{:?} is not an absolute path", self.unix.path);
            return Err(("grpc.unix.path", problem));
        }
        if let (Some(address), None) = (self.tcp.listen, &self.tcp.tls)
            && !address.ip().is_loopback()
        {
            let problem = format!(
                "{address} can be reached from elsewhere, and without grpc.tcp.tls everybody could read alerts; set it, or listen on 127.0.0.1 or [::1]"
            );
            return Err(("grpc.tcp.listen", problem));
        }
        if self.tcp.listen.is_none() && self.tcp.tls.is_some() {
            return Err((
                "grpc.tcp.tls",
                "is set without grpc.tcp.listen: nothing would be served".into(),
            ));
        }
        let limits = &self.limits;
        let ranges = [
            (
                "grpc.limits.connections_max",
                limits.connections_max,
                1..=4096,
            ),
            (
                "grpc.limits.connections_per_peer_max",
                limits.connections_per_peer_max,
                1..=4096,
            ),
            ("grpc.limits.calls_max", limits.calls_max, 1..=4096),
            ("grpc.limits.watchers_max", limits.watchers_max, 0..=64),
            (
                "grpc.limits.watcher_events_max",
                limits.watcher_events_max,
                1..=65_536,
            ),
            (
                "grpc.limits.stuck_s",
                usize::try_from(limits.stuck_s).unwrap_or(usize::MAX),
                1..=3600,
            ),
        ];
        for (key, value, range) in ranges {
            if !range.contains(&value) {
                let problem = format!("{value} is not from {} to {}", range.start(), range.end());
                return Err((key, problem));
            }
        }
        Ok(())
    }
}
