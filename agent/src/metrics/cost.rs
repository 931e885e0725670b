//! Metrics of what the agent costs: time in its stages, in the kernel's programs and in container runtimes, memory and processor.

use std::{
    fs,
    sync::{
        PoisonError,
        atomic::{AtomicI64, AtomicU64},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::{Count, Level, MetricInfo, Metrics, RINGS, RingName};

/// The part of the table.
pub(super) static METRICS: &[MetricInfo] = &[
    MetricInfo {
        name: "saker_stage_seconds",
        kind: "histogram",
        labels: &["stage"],
        help: "Time that events and alerts take: ring (from the kernel's timestamp until an event is read), decode, evaluate (its context, its fields and all rules), log (from the event until its alert is appended to the alert log). One event in 64 is measured, and every alert.",
    },
    MetricInfo {
        name: "saker_ring_capacity_bytes",
        kind: "gauge",
        labels: &["ring"],
        help: "Size of a ring. With saker_ring_waiting_bytes, how full it is.",
    },
    MetricInfo {
        name: "saker_runtime_lookup_seconds",
        kind: "histogram",
        labels: &["runtime"],
        help: "Time that a container runtime took to answer for one container, whatever the answer.",
    },
    MetricInfo {
        name: "saker_ebpf_run_seconds_total",
        kind: "counter",
        labels: &["program"],
        help: "Time spent in a kernel program. The kernel counts it while kernel.bpf_stats_enabled is 1, which costs a little at each run; 0 otherwise.",
    },
    MetricInfo {
        name: "saker_ebpf_runs_total",
        kind: "counter",
        labels: &["program"],
        help: "Runs of a kernel program, counted while kernel.bpf_stats_enabled is 1.",
    },
    MetricInfo {
        name: "saker_process_resident_memory_bytes",
        kind: "gauge",
        labels: &[],
        help: "Memory that the agent's process has in use, from /proc/self/statm.",
    },
    MetricInfo {
        name: "saker_process_cpu_seconds_total",
        kind: "counter",
        labels: &[],
        help: "Processor time of the agent's process, of user and system together, from /proc/self/stat.",
    },
    MetricInfo {
        name: "saker_process_start_time_seconds",
        kind: "gauge",
        labels: &[],
        help: "When the agent started, seconds since the Unix epoch.",
    },
];

/// The stages: values of the label `stage`.
pub const STAGES: [&str; 4] = ["ring", "decode", "evaluate", "log"];

/// The `stage` label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Stage {
    /// One of [`STAGES`].
    pub stage: &'static str,
}

/// The `runtime` label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RuntimeName {
    /// The runtime's socket: configured or one of a fixed list.
    pub runtime: String,
}

/// The `program` label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ProgramName {
    /// A kernel program, by its name in the object.
    pub program: &'static str,
}

/// A family of histograms.
pub type Times<L> = Family<L, Histogram, fn() -> Histogram>;

/// The metrics themselves.
#[derive(Debug)]
#[allow(missing_docs, reason = "each is documented in its row of METRICS")]
pub struct Cost {
    pub stages: Times<Stage>,
    pub ring_capacity: Level<RingName>,
    pub runtime_lookups: Times<RuntimeName>,
    pub ebpf_run_time: Family<ProgramName, Counter<f64, AtomicU64>>,
    pub ebpf_runs: Count<ProgramName>,
    pub resident: Gauge<i64, AtomicI64>,
    pub cpu: Counter<f64, AtomicU64>,
    pub started: Gauge<i64, AtomicI64>,
}

impl Default for Cost {
    fn default() -> Self {
        Self {
            // 100 ns to 10 s.
            stages: Times::new_with_constructor(|| {
                Histogram::new([
                    1e-7, 1e-6, 5e-6, 2.5e-5, 1e-4, 5e-4, 2.5e-3, 0.01, 0.1, 1.0, 10.0,
                ])
            }),
            ring_capacity: Family::default(),
            // 1 ms to the longest that is waited.
            runtime_lookups: Times::new_with_constructor(|| {
                Histogram::new([
                    1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
                ])
            }),
            ebpf_run_time: Family::default(),
            ebpf_runs: Family::default(),
            resident: Gauge::default(),
            cpu: Counter::default(),
            started: Gauge::default(),
        }
    }
}

impl Cost {
    pub(super) fn register(&self, registry: &mut Registry) {
        for row in METRICS {
            match row.name {
                "saker_stage_seconds" => {
                    row.register(registry, self.stages.clone());
                }
                "saker_ring_capacity_bytes" => {
                    let level = self.ring_capacity.clone();
                    row.register(registry, level);
                }
                "saker_runtime_lookup_seconds" => {
                    let times = self.runtime_lookups.clone();
                    row.register(registry, times);
                }
                "saker_ebpf_run_seconds_total" => {
                    let time = self.ebpf_run_time.clone();
                    row.register(registry, time);
                }
                "saker_ebpf_runs_total" => row.register(registry, self.ebpf_runs.clone()),
                "saker_process_resident_memory_bytes" => {
                    row.register(registry, self.resident.clone());
                }
                "saker_process_cpu_seconds_total" => {
                    row.register(registry, self.cpu.clone());
                }
                "saker_process_start_time_seconds" => {
                    row.register(registry, self.started.clone());
                }
                other => unreachable!("METRICS names {other}, which nothing registers"),
            }
        }
        for stage in STAGES {
            drop(self.stages.get_or_create(&Stage { stage }));
        }
        for ring in RINGS {
            drop(self.ring_capacity.get_or_create(&RingName { ring }));
        }
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let seconds = now.unwrap_or_default().as_secs();
        self.started.set(super::level(seconds));
    }

    /// A stage took so long.
    pub fn stage(&self, stage: &'static str, time: Duration) {
        self.stages
            .get_or_create(&Stage { stage })
            .observe(time.as_secs_f64());
    }

    /// What the kernel has counted of a program since it was loaded.
    pub fn show_program(&self, program: &'static str, run_ns: u64, runs: u64) {
        let labels = ProgramName { program };
        super::raise_to(&self.ebpf_runs.get_or_create(&labels), runs);
        let time = self.ebpf_run_time.get_or_create(&labels);
        raise_seconds_to(&time, run_ns as f64 / 1e9);
    }

    /// Memory and processor time of this process, as they are now.
    pub fn show_process(&self) {
        if let Some((resident, cpu)) = read_process() {
            self.resident.set(super::level(resident));
            raise_seconds_to(&self.cpu, cpu);
        }
    }
}

/// Brings a counter up to a value that something else counts.
fn raise_seconds_to(counter: &Counter<f64, AtomicU64>, total: f64) {
    let more = total - counter.get();
    if more > 0.0 {
        counter.inc_by(more);
    }
}

/// Bytes in use and seconds of processor time.
fn read_process() -> Option<(u64, f64)> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name is in parentheses, and may hold anything.
    let mut rest = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || rest.next()?.parse::<u64>().ok();
    let ticks = ticks()? + ticks()?;
    // SAFETY: takes numbers.
    let (page, tick) = unsafe {
        (
            libc::sysconf(libc::_SC_PAGESIZE),
            libc::sysconf(libc::_SC_CLK_TCK),
        )
    };
    let page = u64::try_from(page).ok()?;
    (tick > 0).then(|| (pages * page, ticks as f64 / tick as f64))
}

/// Rules that have a label of their own; what is beyond counts as [`OTHER`].
pub const RULE_LABELS_MAX: usize = 1000;

/// The label of what has none of its own.
pub const OTHER: &str = "other";

impl Metrics {
    /// Counts a match of a rule. However many rules come and go, there are so many labels and no more.
    pub fn count_match(&self, rule: &str, priority: &'static str) {
        let mut known = self
            .matched_rules
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let has_label =
            known.contains(rule) || known.len() < RULE_LABELS_MAX && known.insert(rule.to_owned());
        drop(known);
        let rule = if has_label { rule } else { OTHER }.to_owned();
        self.rule_matches
            .get_or_create(&super::RuleName { rule, priority })
            .inc();
    }

    /// All metrics in the classic text format, which knows neither units nor the end.
    pub fn render_classic(&self) -> String {
        let text = self.render();
        let mut classic = String::with_capacity(text.len());
        let mut counter = None;
        for line in text.lines() {
            // A family's first line is its HELP; its TYPE tells whether names need their suffix back.
            if let Some(rest) = line.strip_prefix("# HELP ") {
                counter = Some(rest);
                continue;
            }
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.rsplit_once(' ').unwrap_or((rest, "untyped"));
                let suffix = if kind == "counter" { "_total" } else { "" };
                if let Some(help) = counter.take().and_then(|help| help.strip_prefix(name)) {
                    classic += &format!("# HELP {name}{suffix}{help}\n");
                }
                classic += &format!("# TYPE {name}{suffix} {kind}\n");
                continue;
            }
            if line.starts_with("# UNIT ") || line == "# EOF" {
                continue;
            }
            classic.push_str(line);
            classic.push('\n');
        }
        classic
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_classic_format_has_the_names_of_the_table() {
        let metrics = Metrics::new();
        metrics.count_match("A rule", "Error");
        metrics.cost.show_process();
        let text = metrics.render_classic();
        for line in [
            "# TYPE saker_alerts_dropped_total counter",
            "# HELP saker_alerts_dropped_total Alerts that were raised",
            "# TYPE saker_stage_seconds histogram",
            "# TYPE saker_alert_log_bytes gauge",
            "saker_rule_matches_total{rule=\"A rule\",priority=\"Error\"} 1",
        ] {
            assert!(text.contains(line), "no {line} in:\n{text}");
        }
        assert!(
            !text.contains("# UNIT") && !text.contains("# EOF"),
            "{text}"
        );
        assert!(metrics.cost.resident.get() > 1 << 20);
    }

    #[test]
    fn rules_without_end_get_labels_with_an_end() {
        let metrics = Metrics::new();
        for number in 0..RULE_LABELS_MAX + 10 {
            metrics.count_match(&format!("rule {number}"), "Notice");
        }
        metrics.count_match("rule 3", "Notice");
        let text = metrics.render();
        let labels = text
            .lines()
            .filter(|line| line.starts_with("saker_rule_matches_total{"))
            .count();
        assert_eq!(labels, RULE_LABELS_MAX + 1);
        assert!(text.contains("{rule=\"rule 3\",priority=\"Notice\"} 2"));
        assert!(text.contains("{rule=\"other\",priority=\"Notice\"} 10"));
    }
}
