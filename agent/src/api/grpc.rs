//! gRPC: Saker's service, Falco's former ones, health and reflection, on a Unix socket and over TCP.
//!
//! Clients are hostile until proven otherwise, and then they are slow. What they can take is bounded: connections, calls, the length of
//! a message, what waits for one that does not read (which is then cut off). None of it is the sensor's time: alerts are read from the
//! log, and events come through a queue that drops.

mod agent;
mod alerts;
mod calls;
pub mod convert;
mod falco;
mod listen;
pub mod options;
pub mod tail;
pub mod tls;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tracing::{info, warn};

use self::{
    agent::Agent,
    calls::Calls,
    falco::{Outputs, Version},
    listen::{Door, Socket, accept_tcp, accept_unix},
    options::Grpc,
    tls::{Identity, TlsError},
};
use super::node::Node;
use crate::proto::{
    self,
    falco::{outputs, version},
    saker::v1::agent_service_server::AgentServiceServer,
};

/// A request may have so many bytes: the longest are filters.
const REQUEST_BYTES_MAX: usize = 256 << 10;

/// What one connection may have under way.
const STREAMS_MAX: u32 = 32;

/// What a client may send ahead on one call, and on a connection.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 256 << 10;

/// Headers of a call.
const HEADER_BYTES_MAX: u32 = 16 << 10;

/// Calls that a client opens and takes back at once, until they are cleaned up.
const RESETS_MAX: usize = 16;

/// Connections that are accepted and not yet served.
const ACCEPTED_MAX: usize = 16;

/// A connection on which nothing is heard is asked for a sign of life, and closed where there is none.
const ASK: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_secs(20);

/// Why gRPC cannot be served as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum GrpcError {
    /// The address cannot be used.
    #[error("cannot serve gRPC on {address}; set grpc.tcp.listen to another address")]
    Listen {
        /// `grpc.tcp.listen`.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Certificates cannot be used.
    #[error("grpc.tcp.tls")]
    Tls {
        /// Why.
        #[from]
        source: TlsError,
    },
}

/// Where gRPC is served, bound.
#[derive(Debug)]
pub struct Bound {
    options: Grpc,
    socket: Option<Socket>,
    tcp: Option<TcpListener>,
    identity: Option<Arc<Identity>>,
}

/// Binds what is configured. A Unix socket that cannot be made is warned of, and the agent goes on without: it needs a folder that
/// not everybody may make.
pub async fn bind(options: &Grpc) -> Result<Bound, GrpcError> {
    let identity = match &options.tcp.tls {
        Some(files) => Some(Arc::new(Identity::read(files)?)),
        None => None,
    };
    let tcp = match options.tcp.listen {
        Some(address) => {
            let failed = |source| GrpcError::Listen { address, source };
            let listener = TcpListener::bind(address).await.map_err(failed)?;
            let bound = listener.local_addr().unwrap_or(address);
            let how = if identity.is_some() {
                "with TLS"
            } else {
                "without TLS"
            };
            info!("gRPC on {bound}, {how}");
            Some(listener)
        }
        None => None,
    };
    let mut socket = None;
    if options.unix.enabled {
        let path = &options.unix.path;
        match Socket::bind(path).await {
            Ok(bound) => {
                info!("gRPC on unix:{}", path.display());
                socket = Some(bound);
            }
            Err(error) => warn!("gRPC is not served on {}: {error}", path.display()),
        }
    }
    Ok(Bound {
        options: options.clone(),
        socket,
        tcp,
        identity,
    })
}

impl Bound {
    /// The TLS identity, which can be renewed.
    pub fn identity(&self) -> Option<Arc<Identity>> {
        self.identity.clone()
    }

    /// Serves until the future is dropped.
    pub async fn serve(self, node: Arc<Node>) {
        let limits = self.options.limits.clone();
        let door = Door::new(
            limits.connections_max,
            limits.connections_per_peer_max,
            Arc::clone(&node.metrics),
        );
        let (out, accepted) = mpsc::channel(ACCEPTED_MAX);
        let mut listeners = tokio::task::JoinSet::new();
        let (socket, _file) = self
            .socket
            .map(|Socket { listener, file }| (listener, file))
            .unzip();
        if let Some(listener) = socket {
            listeners.spawn(accept_unix(listener, door.clone(), out.clone()));
        }
        if let Some(listener) = self.tcp {
            listeners.spawn(accept_tcp(listener, self.identity, door, out.clone()));
        }
        drop(out);
        if listeners.is_empty() {
            return;
        }
        let stuck = Duration::from_secs(limits.stuck_s);
        let calls = Calls::new(limits.calls_max, Arc::clone(&node.metrics));
        let agent = Agent::new(Arc::clone(&node), limits, self.options.tcp.allow_reload);
        let (health, health_service) = tonic_health::server::health_reporter();
        let agent = AgentServiceServer::new(agent).max_decoding_message_size(REQUEST_BYTES_MAX);
        let outputs =
            outputs::service_server::ServiceServer::new(Outputs::new(Arc::clone(&node), stuck))
                .max_decoding_message_size(REQUEST_BYTES_MAX);
        let version = version::service_server::ServiceServer::new(Version)
            .max_decoding_message_size(REQUEST_BYTES_MAX);
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let (Ok(reflection_v1), Ok(reflection_v1alpha)) =
            (reflection().build_v1(), reflection().build_v1alpha())
        else {
            unreachable!("the descriptors are those that this program was built from");
        };
        let served = Server::builder()
            .layer(calls)
            .max_concurrent_streams(STREAMS_MAX)
            .concurrency_limit_per_connection(STREAMS_MAX as usize)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_max_header_list_size(HEADER_BYTES_MAX)
            .http2_max_pending_accept_reset_streams(Some(RESETS_MAX))
            .http2_keepalive_interval(Some(ASK))
            .http2_keepalive_timeout(Some(ANSWER))
            .add_service(agent)
            .add_service(outputs)
            .add_service(version)
            .add_service(health_service)
            .add_service(reflection_v1)
            .add_service(reflection_v1alpha)
            .serve_with_incoming(ReceiverStream::new(accepted));
        tokio::select! {
            outcome = served => if let Err(error) = outcome {
                warn!("gRPC is no longer served: {error}");
            },
            () = report(health, &node) => {}
        }
    }
}

/// Keeps the health service true.
async fn report(health: tonic_health::server::HealthReporter, node: &Node) {
    use tonic_health::ServingStatus::{NotServing, Serving};
    let mut changes = node.health.changes();
    loop {
        let status = if *changes.borrow_and_update() {
            Serving
        } else {
            NotServing
        };
        for service in ["", "saker.v1.AgentService", "falco.outputs.service"] {
            health.set_service_status(service, status).await;
        }
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
