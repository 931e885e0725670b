//! Every metric that `/metrics` exposes: one table, from which they are registered and documented.
//!
//! Created once and passed down. Label values are bounded: kinds, causes, hooks and sinks are closed sets,
//! rules are those that are loaded.

mod api;
mod cost;
mod delivery;
pub mod gpu;

use std::{
    collections::HashSet,
    sync::{
        Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Metric, Registry, Unit},
};

pub use cost::{Cost, OTHER, RULE_LABELS_MAX, RuntimeName, STAGES, Stage};
pub use delivery::{DROP_CAUSES, Delivery, PriorityName, SinkName};

/// One row of the reference.
#[derive(Clone, Copy, Debug)]
pub struct MetricInfo {
    /// As Prometheus shows it.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Label names.
    pub labels: &'static [&'static str],
    /// What it counts, and where the value comes from.
    pub help: &'static str,
}

impl MetricInfo {
    /// Registers it. Suffixes that say that it counts, or in what unit, are the encoder's to append.
    fn register(&self, registry: &mut Registry, metric: impl Metric) {
        let (stem, help) = (
            self.name.trim_end_matches("_total"),
            self.help.trim_end_matches('.'),
        );
        for (suffix, unit) in [("_seconds", Unit::Seconds), ("_bytes", Unit::Bytes)] {
            if let Some(bare) = stem.strip_suffix(suffix) {
                return registry.register_with_unit(bare, help, unit, metric);
            }
        }
        registry.register(stem, help, metric);
    }
}

/// Every row: of this table, and of those of parts.
pub fn rows() -> impl Iterator<Item = &'static MetricInfo> {
    METRICS
        .iter()
        .chain(delivery::METRICS)
        .chain(cost::METRICS)
        .chain(api::METRICS)
        .chain(gpu::GPU_METRICS)
}

/// The table. Names carry the `saker_` prefix and, for counters, `_total`.
static METRICS: &[MetricInfo] = &[
    MetricInfo {
        name: "saker_build_info",
        kind: "gauge",
        labels: &["version", "rustc", "arch"],
        help: "Always 1; the labels say which agent runs, what it was built with, and for what machines.",
    },
    MetricInfo {
        name: "saker_node_info",
        kind: "gauge",
        labels: &["kernel"],
        help: "Always 1; the label is the release of the kernel that runs. By what hooks it is watched, saker_probe_attached says.",
    },
    MetricInfo {
        name: "saker_probe_attached",
        kind: "gauge",
        labels: &["kind", "hook"],
        help: "1 for each event kind that has a hook, 0 for one that no hook supplies on this node.",
    },
    MetricInfo {
        name: "saker_kernel_events_total",
        kind: "counter",
        labels: &["kind", "outcome"],
        help: "Events as the kernel programs counted them: seen = filtered + submitted + those lost, which have the cause for an outcome. From per-CPU counters, read once a second.",
    },
    MetricInfo {
        name: "saker_events_total",
        kind: "counter",
        labels: &["kind"],
        help: "Events read from the ring, decoded and evaluated.",
    },
    MetricInfo {
        name: "saker_events_lost_total",
        kind: "counter",
        labels: &["cause"],
        help: "Events that were seen and not evaluated, by cause: those that the kernel programs dropped, and records that did not decode.",
    },
    MetricInfo {
        name: "saker_ring_waiting_bytes",
        kind: "gauge",
        labels: &["ring"],
        help: "Most bytes that waited when a ring was looked at, during the last second: of what must not be lost, or of what can be shed.",
    },
    MetricInfo {
        name: "saker_ring_overtaken_total",
        kind: "counter",
        labels: &[],
        help: "Events that must not be lost and were read before older ones of the other ring, because their own was half full.",
    },
    MetricInfo {
        name: "saker_event_latency_seconds",
        kind: "histogram",
        labels: &[],
        help: "From the kernel's timestamp of an event to the end of its evaluation; one event in 64 is measured.",
    },
    MetricInfo {
        name: "saker_rules",
        kind: "gauge",
        labels: &["state"],
        help: "Loaded rules: active, inactive, disabled.",
    },
    MetricInfo {
        name: "saker_rule_matches_total",
        kind: "counter",
        labels: &["rule", "priority"],
        help: "Events that matched a rule. A rule appears with its first match; behind the first 1,000 of an agent's run the others count together as other.",
    },
    MetricInfo {
        name: "saker_redactions_total",
        kind: "counter",
        labels: &[],
        help: "Credentials that were replaced in the text and the fields of alerts.",
    },
    MetricInfo {
        name: "saker_processes",
        kind: "gauge",
        labels: &["state"],
        help: "Entries of the process table: live, exited.",
    },
    MetricInfo {
        name: "saker_processes_evicted_total",
        kind: "counter",
        labels: &[],
        help: "Entries dropped because the process table was full.",
    },
    MetricInfo {
        name: "saker_names_evicted_total",
        kind: "counter",
        labels: &[],
        help: "Containers whose names of users and groups were forgotten for room; they are read again when asked for.",
    },
    MetricInfo {
        name: "saker_containers",
        kind: "gauge",
        labels: &[],
        help: "Cgroups whose container is known or known to be none, in the bounded cache.",
    },
    MetricInfo {
        name: "saker_cgroups_unresolved_total",
        kind: "counter",
        labels: &[],
        help: "Events whose cgroup was gone before it could be looked up: their container is not known.",
    },
    MetricInfo {
        name: "saker_runtime_state",
        kind: "gauge",
        labels: &["runtime", "state"],
        help: "1 for the state that each container runtime is in: absent (no socket), present, answering, failing. A runtime appears once its socket was there.",
    },
    MetricInfo {
        name: "saker_runtime_lookups_total",
        kind: "counter",
        labels: &["runtime", "outcome"],
        help: "Look-ups of containers, by runtime socket: found, not_found, refused (the answer is an error or cannot be read), timeout, error (no connection), skipped (it does not answer, and others ask already). One that is not found yet is asked for again, and each time counts.",
    },
    MetricInfo {
        name: "saker_container_lookups_given_up_total",
        kind: "counter",
        labels: &["cause"],
        help: "Containers that were not asked for, or not again: overrun (new ones come faster than runtimes answer), retries (too many that no runtime knows).",
    },
    MetricInfo {
        name: "saker_container_metadata",
        kind: "gauge",
        labels: &[],
        help: "Containers whose metadata is known or asked for, removed ones included while there is room.",
    },
    MetricInfo {
        name: "saker_container_metadata_bytes",
        kind: "gauge",
        labels: &[],
        help: "Bytes of that metadata.",
    },
    MetricInfo {
        name: "saker_container_metadata_evicted_total",
        kind: "counter",
        labels: &[],
        help: "Containers forgotten because the bounds on metadata were reached; they are asked for again when needed.",
    },
    MetricInfo {
        name: "saker_python_files",
        kind: "gauge",
        labels: &["state"],
        help: "Files of Python interpreters that are watched for pickles, by how: at_call, at_entry (dearer), in_python (only for unpicklers that are written in Python; the other is in a file of its own).",
    },
    MetricInfo {
        name: "saker_python_failures_total",
        kind: "counter",
        labels: &["cause"],
        help: "Why pickles of an interpreter are not seen: no_site (nothing to attach to was found in it), attach (the kernel refused), queue_full (too many processes started, or opened parts of Python, at once), evicted (too many files), unreadable (a file that is no sound ELF file, or could not be read), cut (a bound on what is looked at in one process or file was reached), not_looked_again (too many processes wait for a second look).",
    },
    MetricInfo {
        name: "saker_dns_names",
        kind: "gauge",
        labels: &[],
        help: "Names of addresses that containers were given by DNS, in the bounded table.",
    },
    MetricInfo {
        name: "saker_dns_names_bytes",
        kind: "gauge",
        labels: &[],
        help: "Bytes of that table.",
    },
    MetricInfo {
        name: "saker_dns_names_evicted_total",
        kind: "counter",
        labels: &[],
        help: "Names that were forgotten before their time because the bounds of the table were reached.",
    },
    MetricInfo {
        name: "saker_tls_hellos_total",
        kind: "counter",
        labels: &["outcome"],
        help: "Beginnings of TLS connections, by how they came: whole (in one piece), joined (in several), unreadable, late (the rest did not come), evicted (no room to wait for the rest). And pieces that belong to no beginning that is waited for: gap.",
    },
    MetricInfo {
        name: "saker_events_waiting",
        kind: "gauge",
        labels: &[],
        help: "Events that wait for their container's metadata.",
    },
    MetricInfo {
        name: "saker_held_events_total",
        kind: "counter",
        labels: &["outcome"],
        help: "Events that waited for their container's metadata, by how that ended: complete, timeout, queue_full, not_found, stopped.",
    },
    MetricInfo {
        name: "saker_incomplete_events_total",
        kind: "counter",
        labels: &["cause"],
        help: "Events of containers that were evaluated without their container's metadata (container.incomplete): timeout, queue_full, not_found, stopped, no_runtime, late (given up earlier), unresolved (the cgroup was gone).",
    },
];

/// How files of interpreters are watched: values of the label `state`.
pub const PYTHON_STATES: [&str; 3] = ["at_call", "at_entry", "in_python"];

/// Why pickles of an interpreter are not seen: values of the label `cause`.
pub const PYTHON_FAILURES: [&str; 7] = [
    "no_site",
    "attach",
    "queue_full",
    "evicted",
    "unreadable",
    "cut",
    "not_looked_again",
];

/// How beginnings of TLS connections come: values of the label `outcome`.
pub const HELLO_OUTCOMES: [&str; 6] = ["whole", "joined", "unreadable", "late", "evicted", "gap"];

/// How the wait of held events ends: values of the label `outcome`.
pub const HOLD_OUTCOMES: [&str; 5] = ["complete", "timeout", "queue_full", "not_found", "stopped"];

/// Why an event lacks metadata: values of the label `cause`.
pub const INCOMPLETE_CAUSES: [&str; 7] = [
    "timeout",
    "queue_full",
    "not_found",
    "stopped",
    "no_runtime",
    "late",
    "unresolved",
];

/// States of a container runtime.
pub const RUNTIME_STATES: [&str; 4] = ["absent", "present", "answering", "failing"];

/// The `kind` label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Kind {
    /// An event kind.
    pub kind: String,
}

/// The `kind` and `outcome` labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindOutcome {
    /// An event kind.
    pub kind: String,
    /// `seen`, `filtered`, `submitted`, or one of [`LOSS_CAUSES`].
    pub outcome: &'static str,
}

/// The `kind` and `hook` labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindHook {
    /// An event kind.
    pub kind: String,
    /// The hook, or `none`.
    pub hook: String,
}

/// The `cause` label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Cause {
    /// Why.
    pub cause: String,
}

/// The `state` label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct State {
    /// One of a metric's states.
    pub state: &'static str,
}

/// The `rule` label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RuleName {
    /// A loaded rule, or `other`.
    pub rule: String,
    /// Its priority.
    pub priority: &'static str,
}

/// Names of the causes for which the kernel side loses events.
pub const LOSS_CAUSES: [&str; 6] = [
    "ring_full",
    "too_big",
    "map_full",
    "read_fault",
    OVER_SHARE,
    "missed_run",
];

/// The cause of what a cgroup lost by itself.
pub const OVER_SHARE: &str = "over_share";

/// The `ring` label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RingName {
    /// One of [`RINGS`].
    pub ring: &'static str,
}

/// The rings: of what must not be lost, and of what can be shed.
pub const RINGS: [&str; 2] = ["kept", "sheddable"];

/// The `outcome` label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// How it ended.
    pub outcome: &'static str,
}

/// The `runtime` and `state` labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RuntimeState {
    /// The runtime's socket: configured or one of a fixed list.
    pub runtime: String,
    /// One of [`RUNTIME_STATES`].
    pub state: &'static str,
}

/// The `runtime` and `outcome` labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RuntimeOutcome {
    /// The runtime's socket.
    pub runtime: String,
    /// How a look-up ended.
    pub outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
    rustc: &'static str,
    arch: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Node {
    kernel: String,
}

/// A family of counters.
pub type Count<L> = Family<L, Counter<u64, AtomicU64>>;
type Level<L> = Family<L, Gauge<i64, AtomicI64>>;

/// The metrics themselves; cheap to share behind an `Arc`.
#[derive(Debug)]
#[allow(missing_docs, reason = "each is documented in its row of METRICS")]
pub struct Metrics {
    registry: Registry,
    pub gpu: gpu::GpuMetrics,
    pub probe_attached: Level<KindHook>,
    pub kernel_events: Count<KindOutcome>,
    pub events: Count<Kind>,
    pub events_lost: Count<Cause>,
    pub ring_waiting_bytes: Level<RingName>,
    pub ring_overtaken: Counter,
    pub event_latency: Histogram,
    pub rules: Level<State>,
    pub rule_matches: Count<RuleName>,
    pub redactions: Counter,
    pub delivery: Delivery,
    pub processes: Level<State>,
    pub processes_evicted: Counter,
    pub names_evicted: Counter,
    pub containers: Gauge,
    pub cgroups_unresolved: Counter,
    pub runtime_state: Level<RuntimeState>,
    pub runtime_lookups: Count<RuntimeOutcome>,
    pub lookups_given_up: Count<Cause>,
    pub container_metadata: Gauge,
    pub container_metadata_bytes: Gauge,
    pub container_metadata_evicted: Counter,
    pub python_files: Level<State>,
    pub python_failures: Count<Cause>,
    pub dns_names: Gauge,
    pub dns_names_bytes: Gauge,
    pub dns_names_evicted: Counter,
    pub tls_hellos: Count<Outcome>,
    pub held_events: Gauge,
    pub held_events_ended: Count<Outcome>,
    pub incomplete_events: Count<Cause>,
    pub cost: Cost,
    pub api: api::Api,
    matched_rules: Mutex<HashSet<String>>,
}

impl Metrics {
    /// Registers every row of the table.
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            gpu: gpu::GpuMetrics::default(),
            probe_attached: Family::default(),
            kernel_events: Family::default(),
            events: Family::default(),
            events_lost: Family::default(),
            ring_waiting_bytes: Family::default(),
            ring_overtaken: Counter::default(),
            // 10 µs to 10 s: below is the clock's noise, above the node is in trouble anyway.
            event_latency: Histogram::new([
                1e-5, 1e-4, 5e-4, 1e-3, 5e-3, 0.025, 0.1, 0.5, 1.0, 10.0,
            ]),
            rules: Family::default(),
            rule_matches: Family::default(),
            redactions: Counter::default(),
            delivery: Delivery::default(),
            processes: Family::default(),
            processes_evicted: Counter::default(),
            names_evicted: Counter::default(),
            containers: Gauge::default(),
            cgroups_unresolved: Counter::default(),
            runtime_state: Family::default(),
            runtime_lookups: Family::default(),
            lookups_given_up: Family::default(),
            container_metadata: Gauge::default(),
            container_metadata_bytes: Gauge::default(),
            container_metadata_evicted: Counter::default(),
            python_files: Family::default(),
            python_failures: Family::default(),
            dns_names: Gauge::default(),
            dns_names_bytes: Gauge::default(),
            dns_names_evicted: Counter::default(),
            tls_hellos: Family::default(),
            held_events: Gauge::default(),
            held_events_ended: Family::default(),
            incomplete_events: Family::default(),
            cost: Cost::default(),
            api: api::Api::default(),
            matched_rules: Mutex::default(),
        };
        let build: Level<Build> = Family::default();
        build
            .get_or_create(&Build {
                version: env!("CARGO_PKG_VERSION"),
                rustc: env!("SAKER_RUSTC_VERSION"),
                arch: std::env::consts::ARCH,
            })
            .set(1);
        let node: Level<Node> = Family::default();
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let kernel = kernel.trim().to_owned();
        node.get_or_create(&Node { kernel }).set(1);
        let mut taken = std::mem::take(&mut metrics.registry);
        let registry = &mut taken;
        for row in METRICS {
            match row.name {
                "saker_build_info" => row.register(registry, build.clone()),
                "saker_node_info" => row.register(registry, node.clone()),
                "saker_probe_attached" => {
                    row.register(registry, metrics.probe_attached.clone());
                }
                "saker_kernel_events_total" => {
                    row.register(registry, metrics.kernel_events.clone());
                }
                "saker_events_total" => row.register(registry, metrics.events.clone()),
                "saker_events_lost_total" => {
                    row.register(registry, metrics.events_lost.clone());
                }
                "saker_ring_waiting_bytes" => {
                    row.register(registry, metrics.ring_waiting_bytes.clone());
                }
                "saker_ring_overtaken_total" => {
                    row.register(registry, metrics.ring_overtaken.clone());
                }
                "saker_event_latency_seconds" => {
                    row.register(registry, metrics.event_latency.clone());
                }
                "saker_rules" => row.register(registry, metrics.rules.clone()),
                "saker_rule_matches_total" => {
                    row.register(registry, metrics.rule_matches.clone());
                }
                "saker_redactions_total" => {
                    row.register(registry, metrics.redactions.clone());
                }
                "saker_processes" => row.register(registry, metrics.processes.clone()),
                "saker_processes_evicted_total" => {
                    row.register(registry, metrics.processes_evicted.clone());
                }
                "saker_names_evicted_total" => {
                    row.register(registry, metrics.names_evicted.clone());
                }
                "saker_containers" => row.register(registry, metrics.containers.clone()),
                "saker_cgroups_unresolved_total" => {
                    row.register(registry, metrics.cgroups_unresolved.clone());
                }
                "saker_runtime_state" => {
                    row.register(registry, metrics.runtime_state.clone());
                }
                "saker_runtime_lookups_total" => {
                    row.register(registry, metrics.runtime_lookups.clone());
                }
                "saker_container_lookups_given_up_total" => {
                    row.register(registry, metrics.lookups_given_up.clone());
                }
                "saker_container_metadata" => {
                    row.register(registry, metrics.container_metadata.clone());
                }
                "saker_container_metadata_bytes" => {
                    row.register(registry, metrics.container_metadata_bytes.clone());
                }
                "saker_container_metadata_evicted_total" => {
                    row.register(registry, metrics.container_metadata_evicted.clone());
                }
                "saker_python_files" => {
                    row.register(registry, metrics.python_files.clone());
                }
                "saker_python_failures_total" => {
                    row.register(registry, metrics.python_failures.clone());
                }
                "saker_dns_names" => row.register(registry, metrics.dns_names.clone()),
                "saker_dns_names_bytes" => {
                    row.register(registry, metrics.dns_names_bytes.clone());
                }
                "saker_dns_names_evicted_total" => {
                    row.register(registry, metrics.dns_names_evicted.clone());
                }
                "saker_tls_hellos_total" => {
                    row.register(registry, metrics.tls_hellos.clone());
                }
                "saker_events_waiting" => {
                    row.register(registry, metrics.held_events.clone());
                }
                "saker_held_events_total" => {
                    row.register(registry, metrics.held_events_ended.clone());
                }
                "saker_incomplete_events_total" => {
                    row.register(registry, metrics.incomplete_events.clone());
                }
                other => unreachable!("METRICS names {other}, which nothing registers"),
            }
        }
        metrics.delivery.register(registry);
        metrics.cost.register(registry);
        metrics.api.register(registry);
        metrics.gpu.register(registry);
        metrics.registry = taken;
        metrics.show_zeroes();
        metrics
    }

    /// Shows the values that are known beforehand from the start: an alert rule on a counter that is not there yet never fires.
    fn show_zeroes(&self) {
        let zero = |counters: &Count<Cause>, causes: &[&str]| {
            for cause in causes {
                let cause = (*cause).into();
                drop(counters.get_or_create(&Cause { cause }));
            }
        };
        zero(&self.events_lost, &LOSS_CAUSES);
        zero(&self.python_failures, &PYTHON_FAILURES);
        zero(&self.incomplete_events, &INCOMPLETE_CAUSES);
        zero(&self.lookups_given_up, &["overrun", "retries"]);
        for ring in RINGS {
            drop(self.ring_waiting_bytes.get_or_create(&RingName { ring }));
        }
        for state in ["live", "exited"] {
            drop(self.processes.get_or_create(&State { state }));
        }
        for state in PYTHON_STATES {
            drop(self.python_files.get_or_create(&State { state }));
        }
        for outcome in HOLD_OUTCOMES {
            drop(self.held_events_ended.get_or_create(&Outcome { outcome }));
        }
        for state in ["active", "inactive", "disabled"] {
            drop(self.rules.get_or_create(&State { state }));
        }
    }

    /// All metrics in the OpenMetrics text format.
    pub fn render(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string cannot fail");
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// What a gauge shows of a number of things, or of bytes.
pub fn level<N>(count: N) -> i64
where
    i64: TryFrom<N>,
{
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Brings a counter up to an absolute value that something else counts. A value that fell back is ignored.
pub fn raise_to(counter: &Counter<u64, AtomicU64>, total: u64) {
    let atomic = counter.inner();
    atomic.fetch_max(total, Relaxed);
}

#[cfg(test)]
mod tests;
