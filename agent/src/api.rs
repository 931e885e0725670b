//! What the agent answers: metrics and health for Prometheus and the kubelet, here; gRPC for everybody else, in `grpc`.
//!
//! Whoever reaches the port may be hostile: connections are few and short-lived, see `limit`.

pub mod grpc;
mod limit;
pub mod node;
mod peers;

use std::{future::Future, io, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, HeaderName, StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use tokio::{net::TcpListener, sync::watch};

use crate::metrics::Metrics;
use limit::Limited;

/// The media type of Prometheus's own text format, for whoever does not ask for the other.
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The media type that Prometheus asks for and prometheus-client writes.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the health endpoints report.
#[derive(Debug, Default)]
pub struct Health {
    /// Set once the probes are attached and the sensor thread drains the ring; cleared when it ends.
    ready: watch::Sender<bool>,
}

impl Health {
    /// Says whether the sensor works.
    pub fn set_ready(&self, ready: bool) {
        self.ready.send_replace(ready);
    }

    /// Does it?
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Tells when that changes.
    pub fn changes(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }
}

/// Binds the address; fails where it is taken or not ours.
pub async fn bind(listen: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(listen).await
}

/// What state the GPU driver is in, beside the rows of `/gpu`.
pub const GPU_DRIVER: HeaderName = HeaderName::from_static("saker-gpu-driver");

/// Serves until `stop` resolves: `/metrics`, `/healthz` (the process lives), `/readyz` (it detects).
pub async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let routes = Router::new()
        .route(
            "/metrics",
            get(
                |State(metrics): State<Arc<Metrics>>, headers: HeaderMap| async move {
                    metrics.cost.show_process();
                    let accepted = headers.get_all(header::ACCEPT).into_iter();
                    let mut accepted = accepted.filter_map(|value| value.to_str().ok());
                    if accepted.any(|value| value.contains("application/openmetrics-text")) {
                        ([(header::CONTENT_TYPE, OPEN_METRICS)], metrics.render())
                    } else {
                        ([(header::CONTENT_TYPE, CLASSIC)], metrics.render_classic())
                    }
                },
            ),
        )
        .route(
            "/gpu",
            get(|State(metrics): State<Arc<Metrics>>| async move {
                let rows = metrics.gpu.table();
                let text = serde_json::to_string(&*rows).unwrap_or_default();
                let kind = (header::CONTENT_TYPE, "application/json".to_owned());
                let state = (GPU_DRIVER, metrics.gpu.state());
                ([kind, state], text)
            }),
        )
        .with_state(metrics)
        .route("/healthz", get(|| async { "ok\n" }))
        .route(
            "/readyz",
            get(move || async move {
                if health.is_ready() {
                    (StatusCode::OK, "ready\n").into_response()
                } else {
                    (
                        StatusCode::SERVICE_UNAVAILABLE,
                        "the sensor is not running\n",
                    )
                        .into_response()
                }
            }),
        );
    axum::serve(Limited::new(listener), routes)
        .with_graceful_shutdown(stop)
        .await
}
