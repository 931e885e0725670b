//! Metrics of GPUs by owner, and the table that `saker gpu` shows: both are what the last look found.
//!
//! Labels name GPUs, and the pods and containers that are on one; there are at most [`ROWS_MAX`] of them at a time, and those of a look
//! replace those of the one before. The table is behind a lock that the sensor thread takes once a look, never for an event.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use serde::{Deserialize, Serialize};

use super::{MetricInfo, Outcome, State};

/// Rows of a look; further ones are left out and counted.
pub const ROWS_MAX: usize = 512;

/// Of the reason why GPUs are not watched so many letters are told.
const WHY_MAX: usize = 300;

const OWNER: &[&str] = &["gpu", "uuid", "namespace", "pod", "container", "app"];

const fn row(
    name: &'static str,
    kind: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> MetricInfo {
    MetricInfo {
        name,
        kind,
        labels,
        help,
    }
}

/// The table.
pub static GPU_METRICS: &[MetricInfo] = &[
    row(
        "saker_gpu_driver_state",
        "gauge",
        &["state"],
        "1 for the state that the GPU driver is in: absent, answering, failing, hanging.",
    ),
    row(
        "saker_gpu_looks_total",
        "counter",
        &["outcome"],
        "Looks at all GPUs: taken, dropped (the sensor did not come round). And rows of a look that were left out of metrics and table: rows_left_out.",
    ),
    row(
        "saker_gpu_up_ratio",
        "gauge",
        &["gpu", "uuid"],
        "1 while a GPU answers or sleeps, 0 when it is lost or refuses.",
    ),
    row(
        "saker_gpu_utilization_ratio",
        "gauge",
        OWNER,
        "Time in which anything ran on the GPU (NVML), once for each owner of a process on it; the owner is empty where nobody uses it. The label app is the pod's label app.",
    ),
    row(
        "saker_gpu_owner_utilization_ratio",
        "gauge",
        OWNER,
        "Share of the GPU's multiprocessors that the owner's processes use; absent where the driver does not tell, as on divided cards.",
    ),
    row(
        "saker_gpu_owner_memory_used_bytes",
        "gauge",
        OWNER,
        "Memory of the GPU that the owner's processes use.",
    ),
    row(
        "saker_gpu_owner_idle_seconds",
        "gauge",
        OWNER,
        "Time since any of the owner's processes last used the GPU that they hold.",
    ),
    row(
        "saker_gpu_owner_mining_score",
        "gauge",
        OWNER,
        "Highest score of evidence of mining among the owner's processes; from 6 on, with two families, it is alerted. See docs/mining-detection.md.",
    ),
    row(
        "saker_gpu_tensor_utilization_ratio",
        "gauge",
        &["gpu", "uuid"],
        "Use of the tensor cores (GPM).",
    ),
    row(
        "saker_gpu_memory_used_bytes",
        "gauge",
        &["gpu", "uuid"],
        "Memory of the GPU in use.",
    ),
    row(
        "saker_gpu_power_watts",
        "gauge",
        &["gpu", "uuid"],
        "Power that the GPU takes.",
    ),
    row(
        "saker_gpu_power_cap_watts",
        "gauge",
        &["gpu", "uuid"],
        "Power that the GPU may take at most, as enforced.",
    ),
    row(
        "saker_gpu_temperature_celsius",
        "gauge",
        &["gpu", "uuid"],
        "Temperature of the GPU.",
    ),
    row(
        "saker_gpu_sm_clock_hertz",
        "gauge",
        &["gpu", "uuid"],
        "Clock of the multiprocessors.",
    ),
    row(
        "saker_gpu_memory_clock_hertz",
        "gauge",
        &["gpu", "uuid"],
        "Clock of the memory.",
    ),
    row(
        "saker_gpu_ecc_uncorrected_errors",
        "gauge",
        &["gpu", "uuid"],
        "Memory errors that could not be corrected, since the driver was loaded: a gauge, because a reset of the GPU sets it back.",
    ),
    row(
        "saker_gpu_pcie_receive_bytes_per_second",
        "gauge",
        &["gpu", "uuid"],
        "Traffic to the GPU over PCIe; absent while nobody uses it.",
    ),
    row(
        "saker_gpu_pcie_transmit_bytes_per_second",
        "gauge",
        &["gpu", "uuid"],
        "Traffic from the GPU over PCIe; absent while nobody uses it.",
    ),
    row(
        "saker_gpu_nvlink_bytes_per_second",
        "gauge",
        &["gpu", "uuid"],
        "Traffic over NVLink, both ways together; absent while nobody uses it.",
    ),
];

/// A gauge of a card alone, and where it comes from.
type OfCard = (&'static str, fn(&Row) -> Option<f64>);
/// Gauges of cards.
const OF_CARDS: [OfCard; 11] = [
    ("saker_gpu_tensor_utilization_ratio", |row| {
        row.tensor.map(|share| f64::from(share) / 100.0)
    }),
    ("saker_gpu_memory_used_bytes", |row| {
        row.mem_used.map(|bytes| bytes as f64)
    }),
    ("saker_gpu_power_watts", |row| row.power.map(Into::into)),
    ("saker_gpu_power_cap_watts", |row| {
        row.state.power_cap.map(Into::into)
    }),
    ("saker_gpu_temperature_celsius", |row| {
        row.state.temperature.map(Into::into)
    }),
    ("saker_gpu_sm_clock_hertz", |row| {
        row.state.clock_sm.map(|mhz| f64::from(mhz) * 1e6)
    }),
    ("saker_gpu_memory_clock_hertz", |row| {
        row.state.clock_mem.map(|mhz| f64::from(mhz) * 1e6)
    }),
    ("saker_gpu_ecc_uncorrected_errors", |row| {
        row.state.ecc_uncorrected.map(|count| count as f64)
    }),
    ("saker_gpu_pcie_receive_bytes_per_second", |row| {
        row.state.pcie_rx.map(|rate| rate as f64)
    }),
    ("saker_gpu_pcie_transmit_bytes_per_second", |row| {
        row.state.pcie_tx.map(|rate| rate as f64)
    }),
    ("saker_gpu_nvlink_bytes_per_second", |row| {
        row.state.nvlink.map(|rate| rate as f64)
    }),
];

/// The `gpu` and `uuid` labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Card {
    gpu: u32,
    uuid: String,
}

/// A GPU and the owner of processes on it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, EncodeLabelSet)]
pub struct Owner {
    gpu: u32,
    uuid: String,
    namespace: String,
    pod: String,
    container: String,
    app: String,
}

/// A GPU, and a process on it if there is one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The driver's number.
    pub gpu: u32,
    /// Identity of GPU or instance.
    pub uuid: String,
    /// The product's name.
    pub name: String,
    /// `answers`, `asleep`, `lost` or `refused`.
    pub health: String,
    /// Percent.
    pub util: Option<f32>,
    /// Percent.
    pub tensor: Option<f32>,
    /// Bytes.
    pub mem_used: Option<u64>,
    /// Bytes.
    pub mem_total: Option<u64>,
    /// Watts.
    pub power: Option<f32>,
    /// The rest of its state.
    #[serde(flatten)]
    pub state: CardState,
    /// Who uses it.
    pub process: Option<RowProcess>,
}

/// What a card says of itself besides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CardState {
    /// Watts.
    pub power_cap: Option<f32>,
    /// Degrees Celsius.
    pub temperature: Option<u32>,
    /// MHz.
    pub clock_sm: Option<u32>,
    /// MHz.
    pub clock_mem: Option<u32>,
    /// Errors since the driver was loaded.
    pub ecc_uncorrected: Option<u64>,
    /// Bytes a second.
    pub pcie_rx: Option<u64>,
    /// Bytes a second.
    pub pcie_tx: Option<u64>,
    /// Bytes a second.
    pub nvlink: Option<u64>,
}

/// A process on a GPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RowProcess {
    /// In the host's pid namespace.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// Its executable.
    pub exe: String,
    /// `driver`, `device` or `both`.
    pub seen: String,
    /// Container's name; empty on the host.
    pub container: String,
    /// Its image.
    pub image: String,
    /// Its pod.
    pub pod: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's label `app`.
    pub app: String,
    /// Percent of the multiprocessors.
    pub sm: Option<f32>,
    /// Bytes.
    pub mem: Option<u64>,
    /// Seconds since it was first seen on the GPU.
    pub since_s: u64,
    /// Seconds since it last used it.
    pub idle_s: u64,
    /// `none`, `possible`, `likely` or `near certain`.
    pub mining: String,
    /// Sum of the evidence's weights.
    pub mining_score: i32,
    /// The evidence.
    pub evidence: Vec<String>,
}

type Level<L> = Family<L, Gauge<f64, AtomicU64>>;

/// The metrics themselves.
#[derive(Debug, Default)]
pub struct GpuMetrics {
    driver: Family<State, Gauge>,
    looks: Family<Outcome, Counter>,
    up: Level<Card>,
    /// As in [`OF_CARDS`].
    cards: [Level<Card>; OF_CARDS.len()],
    util: Level<Owner>,
    owner_util: Level<Owner>,
    owner_memory: Level<Owner>,
    owner_idle: Level<Owner>,
    owner_score: Level<Owner>,
    table: Mutex<Arc<[Row]>>,
    state: Mutex<String>,
}

impl GpuMetrics {
    /// Registers every row of the table.
    pub fn register(&self, registry: &mut Registry) {
        for row in GPU_METRICS {
            match row.name {
                "saker_gpu_driver_state" => row.register(registry, self.driver.clone()),
                "saker_gpu_looks_total" => row.register(registry, self.looks.clone()),
                "saker_gpu_up_ratio" => row.register(registry, self.up.clone()),
                "saker_gpu_utilization_ratio" => row.register(registry, self.util.clone()),
                "saker_gpu_owner_utilization_ratio" => {
                    row.register(registry, self.owner_util.clone());
                }
                "saker_gpu_owner_memory_used_bytes" => {
                    row.register(registry, self.owner_memory.clone());
                }
                "saker_gpu_owner_idle_seconds" => {
                    row.register(registry, self.owner_idle.clone());
                }
                "saker_gpu_owner_mining_score" => {
                    row.register(registry, self.owner_score.clone());
                }
                other => {
                    let known = OF_CARDS.iter().zip(&self.cards);
                    let found = known.into_iter().find(|((known, _), _)| *known == other);
                    let Some((_, family)) = found else {
                        unreachable!("GPU_METRICS names {other}, which nothing registers")
                    };
                    row.register(registry, family.clone());
                }
            }
        }
        for outcome in ["taken", "dropped", "rows_left_out"] {
            drop(self.looks.get_or_create(&Outcome { outcome }));
        }
    }

    /// What state the driver is in, and why GPUs are not watched, in a line of printable ASCII; empty where nobody looks at GPUs.
    pub fn state(&self) -> String {
        let state = self.state.lock();
        state.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The driver is in one of these states, and why.
    pub fn driver(&self, states: &[&'static str], now: &'static str, why: &str) {
        let printable = |letter: char| {
            if letter == ' ' || letter.is_ascii_graphic() {
                letter
            } else {
                '?'
            }
        };
        let why: String = why.chars().take(WHY_MAX).map(printable).collect();
        let text = if why.is_empty() {
            now.to_owned()
        } else {
            format!("{now}: {why}")
        };
        let state = self.state.lock();
        *state.unwrap_or_else(PoisonError::into_inner) = text;
        for state in states {
            self.driver
                .get_or_create(&State { state })
                .set(i64::from(*state == now));
        }
    }

    /// Looks so far.
    pub fn looks(&self, taken: u64, dropped: u64) {
        for (outcome, total) in [("taken", taken), ("dropped", dropped)] {
            super::raise_to(&self.looks.get_or_create(&Outcome { outcome }), total);
        }
    }

    /// What the last look found.
    pub fn table(&self) -> Arc<[Row]> {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&table)
    }

    /// Replaces what the look before found.
    pub fn publish(&self, mut rows: Vec<Row>) {
        if rows.len() > ROWS_MAX {
            let outcome = "rows_left_out";
            let left_out = (rows.len() - ROWS_MAX) as u64;
            self.looks
                .get_or_create(&Outcome { outcome })
                .inc_by(left_out);
            rows.truncate(ROWS_MAX);
        }
        for family in self.cards.iter().chain([&self.up]) {
            family.clear();
        }
        for family in [
            &self.util,
            &self.owner_util,
            &self.owner_memory,
            &self.owner_idle,
            &self.owner_score,
        ] {
            family.clear();
        }
        let mut owners: BTreeMap<Owner, Vec<&Row>> = BTreeMap::new();
        for row in rows.iter().filter(|row| !row.uuid.is_empty()) {
            let card = Card {
                gpu: row.gpu,
                uuid: row.uuid.clone(),
            };
            let is_up = matches!(row.health.as_str(), "answers" | "asleep");
            self.up.get_or_create(&card).set(f64::from(u8::from(is_up)));
            for ((_, value), family) in OF_CARDS.iter().zip(&self.cards) {
                set(family, &card, value(row));
            }
            owners.entry(owner(row)).or_default().push(row);
        }
        for (owner, rows) in &owners {
            let processes = || rows.iter().filter_map(|row| row.process.as_ref());
            let util = rows.iter().find_map(|row| row.util);
            set(
                &self.util,
                owner,
                util.map(|share| f64::from(share) / 100.0),
            );
            let shares: Vec<f32> = processes().filter_map(|process| process.sm).collect();
            let sum = f64::from(shares.iter().sum::<f32>()) / 100.0;
            set(&self.owner_util, owner, (!shares.is_empty()).then_some(sum));
            let bytes: u64 = processes().filter_map(|process| process.mem).sum();
            let has_any = processes().next().is_some();
            set(&self.owner_memory, owner, has_any.then_some(bytes as f64));
            let idle = processes().map(|process| process.idle_s).min();
            set(&self.owner_idle, owner, idle.map(|seconds| seconds as f64));
            let score = processes().map(|process| process.mining_score).max();
            set(&self.owner_score, owner, score.map(Into::into));
        }
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        *table = rows.into();
    }
}

fn set<L>(family: &Level<L>, labels: &L, value: Option<f64>)
where
    L: Clone + std::hash::Hash + Eq,
{
    if let Some(value) = value {
        family.get_or_create(labels).set(value);
    }
}

fn owner(row: &Row) -> Owner {
    let of = |part: fn(&RowProcess) -> &String| {
        row.process.as_ref().map(part).cloned().unwrap_or_default()
    };
    Owner {
        gpu: row.gpu,
        uuid: row.uuid.clone(),
        namespace: of(|process| &process.namespace),
        pod: of(|process| &process.pod),
        container: of(|process| &process.container),
        app: of(|process| &process.app),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_replaces_the_one_before_and_owners_are_summed() {
        let metrics = GpuMetrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let row = |pod: &str, sm| Row {
            uuid: "GPU-a".into(),
            health: "answers".into(),
            util: Some(95.0),
            state: CardState {
                temperature: Some(61),
                clock_sm: Some(1_980),
                nvlink: Some(7),
                ..CardState::default()
            },
            process: Some(RowProcess {
                pod: pod.into(),
                sm: Some(sm),
                mem: Some(10),
                ..RowProcess::default()
            }),
            ..Row::default()
        };
        let shown = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).expect("a string");
            text
        };
        metrics.publish(vec![row("a", 20.0), row("a", 30.0), row("b", 40.0)]);
        let text = shown();
        for part in [
            "saker_gpu_owner_utilization_ratio{gpu=\"0\",uuid=\"GPU-a\",namespace=\"\",pod=\"a\",container=\"\",app=\"\"} 0.5",
            "saker_gpu_owner_memory_used_bytes{gpu=\"0\",uuid=\"GPU-a\",namespace=\"\",pod=\"a\",container=\"\",app=\"\"} 20.0",
            "pod=\"b\"",
            "saker_gpu_temperature_celsius{gpu=\"0\",uuid=\"GPU-a\"} 61.0",
            "saker_gpu_sm_clock_hertz{gpu=\"0\",uuid=\"GPU-a\"} 1980000000.0",
            "saker_gpu_nvlink_bytes_per_second{gpu=\"0\",uuid=\"GPU-a\"} 7.0",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        // What a card does not tell has no value, not 0.
        assert!(!shown().contains("saker_gpu_ecc_uncorrected_errors{"));
        metrics.publish(vec![row("b", 40.0)]);
        assert!(!shown().contains("pod=\"a\""));
        assert_eq!(metrics.table().len(), 1);
        metrics.publish(vec![row("b", 1.0); ROWS_MAX + 3]);
        assert!(
            shown().contains("outcome=\"rows_left_out\"} 3"),
            "{}",
            shown()
        );
    }
}
