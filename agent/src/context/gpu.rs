//! What is known of GPUs over time: windows of what looks found, who uses which GPU since when, who opened one.
//!
//! Bounded: so many GPUs, processes and openings, each with so many looks. Verdicts on mining are kept here and made in `mining`.

use std::collections::{HashMap, VecDeque};

use crate::{
    event::gpu::{GpuProcess, GpuSample, GpuState, Look, Pipes},
    mining::{self, Verdict},
};

const SECOND_NS: u64 = 1_000_000_000;
/// The longest window of fields, and how many looks it holds at one a second.
const WINDOW_NS: u64 = 3_600 * SECOND_NS;
const WINDOW_MAX: usize = 3_700;
/// What a verdict looks back on.
const SERIES_NS: u64 = 600 * SECOND_NS;
const SERIES_MAX: usize = 600;
const UNITS_MAX: usize = 512;
const USES_MAX: usize = 4_096;
/// Processes that opened a GPU and have not ended, and for how long one is told of that the driver never names.
const OPENINGS_MAX: usize = 4_096;
/// A process that was missing from looks for so long has let go of the GPU; a miner that stops between its turns keeps its history.
const GONE_NS: u64 = 300 * SECOND_NS;
/// What counts as use, percent.
const BUSY: f32 = 1.0;

/// One process, for as long as the machine is up.
pub type Key = (u32, u64);

/// Everything that is known.
#[derive(Debug, Default)]
pub struct Gpus {
    units: HashMap<Box<str>, Unit>,
    openings: VecDeque<Opening>,
}

/// A GPU or an instance.
#[derive(Debug, Default)]
pub struct Unit {
    /// The last look.
    pub state: GpuState,
    /// Utilization.
    pub util: Window,
    /// Who uses it, by pid.
    pub uses: HashMap<u32, Use>,
    seen_ns: u64,
}

/// What a process does on a GPU.
#[derive(Debug)]
pub struct Use {
    /// Its start, by `/proc`; 0 where it was gone.
    pub start_ns: u64,
    /// First seen.
    pub since_ns: u64,
    /// Last seen doing anything.
    pub busy_ns: u64,
    /// Last seen.
    pub seen_ns: u64,
    /// Where it is seen from.
    pub seen: Seen,
    /// What it did lately.
    pub series: VecDeque<mining::Point>,
    /// Its only connection.
    pub connection: Option<OnlyConnection>,
    /// What that says.
    pub verdict: Verdict,
    /// When it was made.
    pub judged_ns: u64,
}

/// The only connection of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnlyConnection {
    /// The other end.
    pub remote: Box<str>,
    /// First seen.
    pub since_ns: u64,
    /// Bytes that it had carried then, and has now, where they are known.
    pub bytes: Option<(u64, u64)>,
}

impl OnlyConnection {
    /// For how many seconds it has been so.
    pub fn seconds(&self, now_ns: u64) -> u64 {
        now_ns.saturating_sub(self.since_ns) / SECOND_NS
    }

    /// Bytes a second since it was first seen.
    pub fn rate(&self, now_ns: u64) -> Option<f64> {
        let (first, last) = self.bytes?;
        let span_ns = now_ns.saturating_sub(self.since_ns);
        let carried = last.checked_sub(first)?;
        (span_ns > 0).then(|| carried as f64 * 1e9 / span_ns as f64)
    }
}

/// Where a process on a GPU is seen from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Its driver names it.
    Driver,
    /// It opened the device.
    Device,
    /// Both.
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Opening {
    process: Key,
    minor: u32,
    at_ns: u64,
}

/// An event's GPU, and what its process does there.
#[derive(Clone, Copy, Debug)]
pub struct GpuFacts<'e> {
    /// The GPU.
    pub unit: &'e Unit,
    /// The process; `None` where the event is about the GPU alone.
    pub used: Option<&'e Use>,
}

impl Gpus {
    /// Takes a look in. What is known of GPUs and processes that were not seen for some time is forgotten.
    pub fn learn(&mut self, sample: &GpuSample) {
        let now_ns = sample.taken_ns;
        for state in &sample.gpus {
            if state.uuid.is_empty()
                || self.units.len() >= UNITS_MAX && !self.units.contains_key(&state.uuid)
            {
                continue;
            }
            let unit = self.units.entry(state.uuid.clone()).or_default();
            unit.learn(state, &self.openings, now_ns);
        }
        self.units
            .retain(|_, unit| now_ns.saturating_sub(unit.seen_ns) <= GONE_NS);
    }

    /// What is known of a GPU.
    pub fn unit(&self, uuid: &str) -> Option<&Unit> {
        self.units.get(uuid)
    }

    /// What is known of a GPU, and nothing else any more.
    pub fn into_unit(mut self, uuid: &str) -> Option<Unit> {
        self.units.remove(uuid)
    }

    /// What is known of a process on a GPU, to judge it.
    pub fn used_mut(&mut self, uuid: &str, pid: u32) -> Option<&mut Use> {
        self.units.get_mut(uuid)?.uses.get_mut(&pid)
    }

    /// All GPUs.
    pub fn units(&self) -> impl Iterator<Item = &Unit> {
        self.units.values()
    }

    /// A process opened the node of the GPU with this minor number.
    pub fn opened(&mut self, process: Key, minor: u32, at_ns: u64) {
        let is_it = |known: &Opening| known.process == process && known.minor == minor;
        if self.openings.iter().any(is_it) {
            return;
        }
        if self.openings.len() >= OPENINGS_MAX {
            self.openings.pop_front();
        }
        self.openings.push_back(Opening {
            process,
            minor,
            at_ns,
        });
    }

    /// A process ended.
    pub fn ended(&mut self, process: Key) {
        if !self.openings.is_empty() {
            self.openings.retain(|known| known.process != process);
        }
    }

    /// Processes that opened a GPU before the last look and that its driver does not name: pid and start of each.
    pub fn unnamed(&self, state: &GpuState, taken_ns: u64) -> Vec<Key> {
        let is_named = |pid: u32| state.processes.iter().any(|process| process.pid == pid);
        self.openings
            .iter()
            .filter(|opening| Some(opening.minor) == state.minor)
            .filter(|opening| opening.at_ns < taken_ns && !is_named(opening.process.0))
            .map(|opening| opening.process)
            .take(64)
            .collect()
    }
}

impl Unit {
    fn learn(&mut self, state: &GpuState, openings: &VecDeque<Opening>, now_ns: u64) {
        self.seen_ns = now_ns;
        if let Some(util) = state.util.or(state.pipes.map(|pipes| pipes.sm)) {
            self.util.add(now_ns, util);
        }
        let sharers = state.processes.iter().filter(|process| !process.graphics);
        let is_alone = sharers.count() == 1;
        for process in &state.processes {
            if self.uses.len() >= USES_MAX && !self.uses.contains_key(&process.pid) {
                continue;
            }
            let start_ns = process.look.as_ref().map_or(0, |look| look.start_ns);
            let used = self
                .uses
                .entry(process.pid)
                .or_insert_with(|| Use::new(start_ns, now_ns));
            if used.start_ns != start_ns && used.start_ns != 0 && start_ns != 0 {
                *used = Use::new(start_ns, now_ns);
            } else if used.start_ns == 0 {
                used.start_ns = start_ns;
            }
            let was_opened = openings.iter().any(|opening| {
                opening.process.0 == process.pid && Some(opening.minor) == state.minor
            });
            used.seen = if was_opened { Seen::Both } else { Seen::Driver };
            used.learn(state, process, is_alone, now_ns);
        }
        self.uses
            .retain(|_, used| now_ns.saturating_sub(used.seen_ns) <= GONE_NS);
        self.state = state.clone();
    }
}

impl Use {
    /// Nothing is known yet.
    pub fn new(start_ns: u64, now_ns: u64) -> Self {
        Self {
            start_ns,
            since_ns: now_ns,
            busy_ns: now_ns,
            seen_ns: now_ns,
            seen: Seen::Driver,
            series: VecDeque::new(),
            connection: None,
            verdict: Verdict::default(),
            judged_ns: 0,
        }
    }

    fn learn(&mut self, gpu: &GpuState, process: &GpuProcess, is_alone: bool, now_ns: u64) {
        self.seen_ns = now_ns;
        // Where nobody says whose it is, what the GPU does is done by the one who is there.
        let whole = gpu.pipes.map(|pipes| pipes.sm).or(gpu.util);
        let sm = process.sm.or(whole.filter(|_| is_alone));
        if sm.is_none_or(|sm| sm >= BUSY) {
            self.busy_ns = now_ns;
        }
        // Counters are the whole GPU's: they say something of a process that is nearly all of it.
        let is_most = is_alone
            || matches!((process.sm, whole), (Some(own), Some(all)) if own >= 0.8 * all && own > 0.0);
        let pipes: Option<Pipes> = gpu.pipes.filter(|_| is_most);
        if let Some(sm) = sm {
            self.series.push_back(mining::Point {
                at_ns: now_ns,
                // The counters are finer than the driver's rounded share.
                sm: pipes.map_or(sm, |pipes| pipes.sm),
                pipes,
                bus: match (gpu.pcie_rx, gpu.pcie_tx) {
                    (Some(rx), Some(tx)) if is_most => Some((rx.saturating_add(tx)) as f32),
                    _ => None,
                },
                video: match (gpu.encoder, gpu.decoder) {
                    (encoder, decoder) if is_most => {
                        encoder.unwrap_or(0.0).max(decoder.unwrap_or(0.0))
                    }
                    _ => 0.0,
                },
            });
        }
        while self.series.len() > SERIES_MAX
            || self
                .series
                .front()
                .is_some_and(|point| point.at_ns + SERIES_NS < now_ns)
        {
            self.series.pop_front();
        }
        self.learn_connection(process.look.as_ref(), now_ns);
    }

    fn learn_connection(&mut self, look: Option<&Look>, now_ns: u64) {
        let Some(connections) = look.and_then(|look| look.connections.as_ref()) else {
            return;
        };
        let Some(remote) = &connections.only else {
            self.connection = None;
            return;
        };
        match &mut self.connection {
            Some(known) if known.remote == *remote => {
                known.bytes = match (known.bytes, connections.bytes) {
                    // Another connection with the same end counts from its own beginning.
                    (Some((_, last)), Some(now)) if now < last => Some((0, now)),
                    (Some((first, _)), Some(now)) => Some((first, now)),
                    _ => None,
                };
            }
            known => {
                *known = Some(OnlyConnection {
                    remote: remote.clone(),
                    since_ns: now_ns,
                    bytes: connections.bytes.map(|bytes| (bytes, bytes)),
                });
            }
        }
    }
}

impl GpuState {
    /// Power as a share of the cap, percent.
    pub fn power_ratio(&self) -> Option<f32> {
        let cap = self.power_cap.filter(|cap| *cap > 0.0)?;
        Some(self.power? / cap * 100.0)
    }
}

/// A value over time.
#[derive(Debug, Default)]
pub struct Window {
    points: VecDeque<(u64, f32)>,
}

/// What a window holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Mean.
    pub mean: f64,
    /// Standard deviation.
    pub deviation: f64,
    /// Least value.
    pub least: f64,
}

impl Window {
    /// Adds the newest value.
    pub fn add(&mut self, at_ns: u64, value: f32) {
        self.points.push_back((at_ns, value));
        while self.points.len() > WINDOW_MAX
            || self
                .points
                .front()
                .is_some_and(|(at, _)| at.saturating_add(WINDOW_NS * 2) < at_ns)
        {
            self.points.pop_front();
        }
    }

    /// The values of the last so many nanoseconds; `None` while values do not go back that far.
    pub fn over(&self, length_ns: u64) -> Option<Summary> {
        let (newest, _) = self.points.back()?;
        let from = newest.checked_sub(length_ns)?;
        if self.points.front()?.0 > from {
            return None;
        }
        let first = self.points.partition_point(|(at, _)| *at < from);
        let values = || {
            self.points
                .range(first..)
                .map(|(_, value)| f64::from(*value))
        };
        let count = (self.points.len() - first) as f64;
        let mean = values().sum::<f64>() / count;
        let variance = values().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
        Some(Summary {
            mean,
            deviation: variance.sqrt(),
            least: values().fold(f64::INFINITY, f64::min),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::gpu::Connections;

    fn sample(at_s: u64, util: f32, pids: &[u32]) -> GpuSample {
        let processes = pids.iter().map(|pid| GpuProcess {
            pid: *pid,
            sm: Some(util),
            ..GpuProcess::default()
        });
        GpuSample {
            taken_ns: at_s * SECOND_NS,
            gpus: vec![GpuState {
                uuid: "GPU-a".into(),
                minor: Some(0),
                util: Some(util),
                processes: processes.collect(),
                ..GpuState::default()
            }],
        }
    }

    #[test]
    fn a_window_speaks_once_it_is_filled() {
        let mut window = Window::default();
        for (at_s, value) in [(0, 90.0), (5, 100.0), (10, 80.0)] {
            window.add((100 + at_s) * SECOND_NS, value);
        }
        assert_eq!(window.over(11 * SECOND_NS), None);
        let all = window.over(10 * SECOND_NS).expect("it is filled");
        assert_eq!((all.mean, all.least), (90.0, 80.0));
        assert!((all.deviation - (200.0_f64 / 3.0).sqrt()).abs() < 1e-9);
        assert_eq!(window.over(5 * SECOND_NS).map(|part| part.mean), Some(90.0));
    }

    #[test]
    fn use_is_remembered_by_process_and_forgotten_when_it_ends() {
        let mut gpus = Gpus::default();
        gpus.learn(&sample(100, 50.0, &[7]));
        gpus.learn(&sample(105, 0.0, &[7]));
        let used = gpus.used_mut("GPU-a", 7).expect("it was seen");
        assert_eq!(used.since_ns, 100 * SECOND_NS);
        assert_eq!(used.busy_ns, 100 * SECOND_NS);
        assert_eq!(used.series.len(), 2);
        gpus.learn(&sample(500, 0.0, &[]));
        assert!(gpus.used_mut("GPU-a", 7).is_none());
    }

    #[test]
    fn who_opened_a_gpu_and_is_not_named_is_told_until_he_ends() {
        let mut gpus = Gpus::default();
        gpus.opened((7, 1), 0, 90 * SECOND_NS);
        gpus.opened((8, 1), 0, 90 * SECOND_NS);
        gpus.opened((9, 1), 1, 90 * SECOND_NS);
        let look = sample(100, 50.0, &[7]);
        gpus.learn(&look);
        assert_eq!(gpus.unnamed(&look.gpus[0], look.taken_ns), [(8, 1)]);
        assert_eq!(
            gpus.used_mut("GPU-a", 7).map(|used| used.seen),
            Some(Seen::Both)
        );
        gpus.ended((8, 1));
        assert!(gpus.unnamed(&look.gpus[0], look.taken_ns).is_empty());
        for pid in 0..10_000 {
            gpus.opened((pid, 2), 0, 0);
        }
        assert_eq!(gpus.openings.len(), OPENINGS_MAX);
    }

    /// A look at one process, with what it shows.
    fn shown(at_s: u64, start_ns: u64, connection: Option<(&str, u64)>) -> GpuSample {
        let mut sample = sample(at_s, 90.0, &[7]);
        sample.gpus[0].processes[0].look = (start_ns > 0).then(|| Look {
            start_ns,
            connections: Some(Connections {
                count: u32::from(connection.is_some()),
                only: connection.map(|(remote, _)| remote.into()),
                bytes: connection.map(|(_, bytes)| bytes),
            }),
            ..Look::default()
        });
        sample
    }

    #[test]
    fn a_pid_that_is_anothers_by_now_begins_anew() {
        let check = |starts: &[u64], looks: usize| {
            let mut gpus = Gpus::default();
            for (at, start_ns) in starts.iter().enumerate() {
                gpus.learn(&shown(100 + 5 * at as u64, *start_ns, None));
            }
            let used = gpus.used_mut("GPU-a", 7).expect("it is there");
            assert_eq!(used.series.len(), looks, "{starts:?}");
        };
        check(&[3, 3, 3], 3);
        check(&[3, 3, 8], 1);
        // In between nobody could tell: it was gone, or its pid is of another namespace.
        check(&[3, 0, 3], 3);
        check(&[3, 0, 8], 1);
        check(&[0, 3, 8], 1);
    }

    #[test]
    fn how_much_a_connection_carries_is_told_since_it_was_first_seen() {
        let check = |looks: &[Option<(&str, u64)>], expected: Option<(u64, f64)>| {
            let mut gpus = Gpus::default();
            for (at, connection) in looks.iter().enumerate() {
                gpus.learn(&shown(100 + 100 * at as u64, 3, *connection));
            }
            let now_ns = (100 + 100 * (looks.len() as u64 - 1)) * SECOND_NS;
            let used = gpus.used_mut("GPU-a", 7).expect("it is there");
            let found = used.connection.as_ref().map(|known| {
                let rate = known.rate(now_ns).unwrap_or(0.0);
                (known.seconds(now_ns), rate)
            });
            assert_eq!(found, expected, "{looks:?}");
        };
        check(&[None], None);
        check(&[Some(("a:1", 50))], Some((0, 0.0)));
        check(
            &[Some(("a:1", 50)), Some(("a:1", 250)), Some(("a:1", 450))],
            Some((200, 2.0)),
        );
        // Another one with the same end, another end, and none for a while.
        check(&[Some(("a:1", 450)), Some(("a:1", 200))], Some((100, 2.0)));
        check(&[Some(("a:1", 50)), Some(("b:1", 70))], Some((0, 0.0)));
        check(
            &[Some(("a:1", 50)), None, Some(("a:1", 70))],
            Some((0, 0.0)),
        );
    }
}
