//! Metrics from the raised alert to its last sink: the alert log, what limits alerts, and each sink.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use saker_rules::ruleset::Priority;

use super::{Cause, Count, Level, MetricInfo};

/// The part of the table.
pub(super) static METRICS: &[MetricInfo] = &[
    MetricInfo {
        name: "saker_alerts_total",
        kind: "counter",
        labels: &["priority"],
        help: "Alerts appended to the alert log.",
    },
    MetricInfo {
        name: "saker_alerts_suppressed_total",
        kind: "counter",
        labels: &["cause"],
        help: "Alerts that were not delivered each on its own but counted in a summary alert, by cause: same (the same was said often enough), rate (too many of one rule and container).",
    },
    MetricInfo {
        name: "saker_alerts_dropped_total",
        kind: "counter",
        labels: &["cause"],
        help: "Alerts that were raised and not delivered, by cause: queue_full (before the log), log_full (dropped from the log before a sink had them), log_damaged (acknowledged by the log, and no longer in its files at the next start), refused (by a sink's other side, for good), sink_closed (nobody reads stdout any more), undelivered (left in memory when the agent stopped).",
    },
    MetricInfo {
        name: "saker_alert_log_bytes",
        kind: "gauge",
        labels: &[],
        help: "Bytes of alerts held in the alert log: in its files where it has a directory, in memory otherwise.",
    },
    MetricInfo {
        name: "saker_alert_log_memory_bytes",
        kind: "gauge",
        labels: &[],
        help: "Bytes of alerts that the alert log holds in memory.",
    },
    MetricInfo {
        name: "saker_alert_log_oldest_seconds",
        kind: "gauge",
        labels: &[],
        help: "Age of the oldest alert in the alert log.",
    },
    MetricInfo {
        name: "saker_alert_log_failing",
        kind: "gauge",
        labels: &[],
        help: "1 while alerts cannot be stored and are kept in memory; 0 otherwise.",
    },
    MetricInfo {
        name: "saker_alert_log_errors_total",
        kind: "counter",
        labels: &[],
        help: "Reads and writes of the alert log's files that failed.",
    },
    MetricInfo {
        name: "saker_sink_alerts_total",
        kind: "counter",
        labels: &["sink"],
        help: "Alerts that a sink delivered.",
    },
    MetricInfo {
        name: "saker_sink_filtered_total",
        kind: "counter",
        labels: &["sink"],
        help: "Alerts that a sink's filter left out.",
    },
    MetricInfo {
        name: "saker_sink_errors_total",
        kind: "counter",
        labels: &["sink"],
        help: "Deliveries that failed.",
    },
    MetricInfo {
        name: "saker_sink_retries_total",
        kind: "counter",
        labels: &["sink"],
        help: "Deliveries that were tried again.",
    },
    MetricInfo {
        name: "saker_sink_dead_letters_total",
        kind: "counter",
        labels: &["sink"],
        help: "Alerts that the other side refused for good; they are not tried again.",
    },
    MetricInfo {
        name: "saker_sink_missed_total",
        kind: "counter",
        labels: &["sink"],
        help: "Alerts that the log's bounds dropped before this sink had them.",
    },
    MetricInfo {
        name: "saker_sink_lag_alerts",
        kind: "gauge",
        labels: &["sink"],
        help: "Alerts in the log that a sink has not delivered.",
    },
    MetricInfo {
        name: "saker_sink_lag_seconds",
        kind: "gauge",
        labels: &["sink"],
        help: "Age of the oldest alert that a sink has not delivered; 0 where it has all.",
    },
];

/// Why alerts are dropped: values of the label `cause`.
pub const DROP_CAUSES: [&str; 6] = [
    "queue_full",
    "log_full",
    "log_damaged",
    "refused",
    "sink_closed",
    "undelivered",
];

/// Why alerts are only counted: values of the label `cause`.
pub const SUPPRESS_CAUSES: [&str; 2] = ["same", "rate"];

/// The `priority` label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PriorityName {
    /// One of Falco's eight.
    pub priority: &'static str,
}

/// The `sink` label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SinkName {
    /// A configured sink.
    pub sink: String,
}

/// The metrics themselves.
#[derive(Debug, Default)]
#[allow(missing_docs, reason = "each is documented in its row of METRICS")]
pub struct Delivery {
    pub alerts: Count<PriorityName>,
    pub suppressed: Count<Cause>,
    pub dropped: Count<Cause>,
    pub log_bytes: Gauge<i64, AtomicI64>,
    pub log_memory_bytes: Gauge<i64, AtomicI64>,
    pub log_oldest: Gauge<i64, AtomicI64>,
    pub log_failing: Gauge<i64, AtomicI64>,
    pub log_errors: Counter<u64, AtomicU64>,
    pub sink_alerts: Count<SinkName>,
    pub sink_filtered: Count<SinkName>,
    pub sink_errors: Count<SinkName>,
    pub sink_retries: Count<SinkName>,
    pub sink_dead_letters: Count<SinkName>,
    pub sink_missed: Count<SinkName>,
    pub sink_lag_alerts: Level<SinkName>,
    pub sink_lag_seconds: Level<SinkName>,
}

impl Delivery {
    pub(super) fn register(&self, registry: &mut Registry) {
        for row in METRICS {
            let mut counter = |family: &Count<SinkName>| {
                row.register(registry, Family::clone(family));
            };
            match row.name {
                "saker_sink_alerts_total" => counter(&self.sink_alerts),
                "saker_sink_filtered_total" => counter(&self.sink_filtered),
                "saker_sink_errors_total" => counter(&self.sink_errors),
                "saker_sink_retries_total" => counter(&self.sink_retries),
                "saker_sink_dead_letters_total" => counter(&self.sink_dead_letters),
                "saker_sink_missed_total" => counter(&self.sink_missed),
                "saker_alerts_total" => row.register(registry, self.alerts.clone()),
                "saker_alerts_suppressed_total" => {
                    row.register(registry, self.suppressed.clone());
                }
                "saker_alerts_dropped_total" => {
                    row.register(registry, self.dropped.clone());
                }
                "saker_alert_log_bytes" => {
                    row.register(registry, self.log_bytes.clone());
                }
                "saker_alert_log_memory_bytes" => {
                    let level = self.log_memory_bytes.clone();
                    row.register(registry, level);
                }
                "saker_alert_log_oldest_seconds" => {
                    let level = self.log_oldest.clone();
                    row.register(registry, level);
                }
                "saker_alert_log_failing" => {
                    row.register(registry, self.log_failing.clone());
                }
                "saker_alert_log_errors_total" => {
                    row.register(registry, self.log_errors.clone());
                }
                "saker_sink_lag_alerts" => {
                    row.register(registry, self.sink_lag_alerts.clone());
                }
                "saker_sink_lag_seconds" => {
                    let level = self.sink_lag_seconds.clone();
                    row.register(registry, level);
                }
                other => unreachable!("METRICS names {other}, which nothing registers"),
            }
        }
        self.show_zeroes();
    }

    fn show_zeroes(&self) {
        for priority in Priority::ALL.map(Priority::name) {
            drop(self.alerts.get_or_create(&PriorityName { priority }));
        }
        let cause = |cause: &str| Cause {
            cause: cause.into(),
        };
        for name in DROP_CAUSES {
            drop(self.dropped.get_or_create(&cause(name)));
        }
        for name in SUPPRESS_CAUSES {
            drop(self.suppressed.get_or_create(&cause(name)));
        }
        self.show_sink("stdout");
    }

    /// Shows a sink no longer, which is not configured any more.
    pub fn forget_sink(&self, name: &str) {
        let sink = SinkName { sink: name.into() };
        for counter in self.sink_counters() {
            counter.remove(&sink);
        }
        for level in [&self.sink_lag_alerts, &self.sink_lag_seconds] {
            level.remove(&sink);
        }
    }

    fn sink_counters(&self) -> [&Count<SinkName>; 6] {
        [
            &self.sink_alerts,
            &self.sink_filtered,
            &self.sink_errors,
            &self.sink_retries,
            &self.sink_dead_letters,
            &self.sink_missed,
        ]
    }

    /// Shows a sink's metrics from the start: an alert rule on a counter that is not there yet never fires.
    pub fn show_sink(&self, name: &str) {
        let sink = SinkName { sink: name.into() };
        for counter in self.sink_counters() {
            drop(counter.get_or_create(&sink));
        }
        for level in [&self.sink_lag_alerts, &self.sink_lag_seconds] {
            drop(level.get_or_create(&sink));
        }
    }

    /// Counts alerts as dropped.
    pub fn count_dropped(&self, cause: &str, count: u64) {
        if count > 0 {
            self.dropped
                .get_or_create(&Cause {
                    cause: cause.into(),
                })
                .inc_by(count);
        }
    }

    /// How many alerts were dropped for a cause.
    pub fn count_of(&self, cause: &str) -> u64 {
        let cause = cause.into();
        self.dropped.get_or_create(&Cause { cause }).get()
    }
}
