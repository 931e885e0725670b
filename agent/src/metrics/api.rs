//! Metrics of the gRPC services and of reloads.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{Count, MetricInfo, Outcome};

/// The part of the table.
pub(super) static METRICS: &[MetricInfo] = &[
    MetricInfo {
        name: "saker_grpc_connections_total",
        kind: "counter",
        labels: &["outcome"],
        help: "Connections of gRPC clients: accepted, refused (too many, of all or of one peer), handshake_failed (TLS).",
    },
    MetricInfo {
        name: "saker_grpc_connections_open",
        kind: "gauge",
        labels: &[],
        help: "Connections of gRPC clients that are open.",
    },
    MetricInfo {
        name: "saker_grpc_calls_total",
        kind: "counter",
        labels: &["outcome"],
        help: "gRPC calls: accepted, refused (too many are being answered).",
    },
    MetricInfo {
        name: "saker_grpc_cut_off_total",
        kind: "counter",
        labels: &[],
        help: "gRPC clients that were disconnected because they took nothing of their stream.",
    },
    MetricInfo {
        name: "saker_watchers",
        kind: "gauge",
        labels: &[],
        help: "Clients that watch events.",
    },
    MetricInfo {
        name: "saker_watched_events_total",
        kind: "counter",
        labels: &["outcome"],
        help: "Events that a client watches for: sent, dropped (it does not read fast enough).",
    },
    MetricInfo {
        name: "saker_reloads_total",
        kind: "counter",
        labels: &["outcome"],
        help: "Reloads of configuration and rules: applied, unchanged, failed (the old ones go on).",
    },
    MetricInfo {
        name: "saker_reload_failed",
        kind: "gauge",
        labels: &[],
        help: "1 while the last reload failed, so that what runs is not what is in the files; 0 otherwise.",
    },
    MetricInfo {
        name: "saker_rules_loaded_timestamp_seconds",
        kind: "gauge",
        labels: &[],
        help: "When the rules at work were loaded, seconds since the Unix epoch.",
    },
];

/// Values of the label `outcome`, by metric.
const CONNECTIONS: [&str; 3] = ["accepted", "refused", "handshake_failed"];
const CALLS: [&str; 2] = ["accepted", "refused"];
const EVENTS: [&str; 2] = ["sent", "dropped"];
const RELOADS: [&str; 3] = ["applied", "unchanged", "failed"];

/// The metrics themselves.
#[derive(Debug, Default)]
#[allow(missing_docs, reason = "each is documented in its row of METRICS")]
pub struct Api {
    pub grpc_connections: Count<Outcome>,
    pub grpc_connections_open: Gauge<i64, AtomicI64>,
    pub grpc_calls: Count<Outcome>,
    pub grpc_cut_off: Counter<u64, AtomicU64>,
    pub watchers: Gauge<i64, AtomicI64>,
    pub watched_events: Count<Outcome>,
    pub reloads: Count<Outcome>,
    pub reload_failed: Gauge<i64, AtomicI64>,
    pub rules_loaded: Gauge<i64, AtomicI64>,
}

impl Api {
    pub(super) fn register(&self, registry: &mut Registry) {
        for row in METRICS {
            let mut family = |counters: &Count<Outcome>, outcomes: &[&'static str]| {
                // An alert rule on a counter that is not there yet never fires.
                for outcome in outcomes {
                    drop(counters.get_or_create(&Outcome { outcome }));
                }
                row.register(registry, Family::clone(counters));
            };
            match row.name {
                "saker_grpc_connections_total" => family(&self.grpc_connections, &CONNECTIONS),
                "saker_grpc_calls_total" => family(&self.grpc_calls, &CALLS),
                "saker_watched_events_total" => family(&self.watched_events, &EVENTS),
                "saker_reloads_total" => family(&self.reloads, &RELOADS),
                "saker_grpc_connections_open" => {
                    row.register(registry, self.grpc_connections_open.clone());
                }
                "saker_grpc_cut_off_total" => {
                    row.register(registry, self.grpc_cut_off.clone());
                }
                "saker_watchers" => row.register(registry, self.watchers.clone()),
                "saker_reload_failed" => {
                    row.register(registry, self.reload_failed.clone());
                }
                "saker_rules_loaded_timestamp_seconds" => {
                    row.register(registry, self.rules_loaded.clone());
                }
                other => unreachable!("METRICS names {other}, which nothing registers"),
            }
        }
    }
}
