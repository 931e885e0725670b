//! What the agent answers over the network: metrics and health for Prometheus and the kubelet.
//!
//! Whoever reaches the port may be hostile: connections are few and short-lived, see `limit`.

mod limit;

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use tokio::net::TcpListener;

use crate::metrics::Metrics;
use limit::Limited;

/// The media type that Prometheus asks for and prometheus-client writes.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the health endpoints report.
#[derive(Debug, Default)]
pub struct Health {
    /// Set once the probes are attached and the sensor thread drains the ring; cleared when it ends.
    ready: AtomicBool,
}

impl Health {
    /// Says whether the sensor works.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }
}

/// Binds the address; fails where it is taken or not ours.
pub async fn bind(listen: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(listen).await
}

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
            get(|State(metrics): State<Arc<Metrics>>| async move {
                ([(header::CONTENT_TYPE, OPEN_METRICS)], metrics.render())
            }),
        )
        .with_state(metrics)
        .route("/healthz", get(|| async { "ok\n" }))
        .route(
            "/readyz",
            get(move || async move {
                if health.ready.load(Ordering::Acquire) {
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
