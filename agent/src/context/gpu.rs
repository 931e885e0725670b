//! What is known of GPUs over time: windows of what looks found, who uses which GPU since when, who opened one.
//!
//! Bounded: so many GPUs, processes and openings, each with so many looks. Verdicts on mining are kept here and made in `mining`.

mod window;

use std::{
    collections::{HashMap, VecDeque},
    mem,
};

use crate::{
    context::procfs,
    event::gpu::{GpuProcess, GpuSample, GpuState, Look, Pipes},
    mining::{self, Verdict},
};
pub use window::{Summary, Window};

const SECOND_NS: u64 = 1_000_000_000;
/// What a verdict looks back on.
const SERIES_NS: u64 = 600 * SECOND_NS;
const SERIES_MAX: usize = 600;
const UNITS_MAX: usize = 512;
const USES_MAX: usize = 4_096;
/// Processes that opened a GPU and have not ended, and for how long one is told of that the driver never names.
const OPENINGS_MAX: usize = 4_096;
/// Of these so many are looked at and told of, for each card.
const OPENERS_MAX: usize = 64;
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
    /// The connections to other machines that it made, unless they are many.
    pub connections: Vec<Connected>,
    /// When another machine was last connected to it.
    pub called_ns: Option<u64>,
    /// When it was last connected to anything, within its machine too.
    pub calls_ns: Option<u64>,
    /// What that says.
    pub verdict: Verdict,
    /// When it was made.
    pub judged_ns: u64,
}

/// A connection of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    /// The other end.
    pub remote: Box<str>,
    /// First seen.
    pub since_ns: u64,
    /// Bytes that it had carried then, and has now, where they are known.
    pub bytes: Option<(u64, u64)>,
}

impl Connected {
    /// For how many seconds it has been there.
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

/// A process that opened a GPU.
#[derive(Debug)]
pub struct Opening {
    process: Key,
    minor: u32,
    /// What is known of it while its driver does not name it, from when it opened the GPU.
    pub used: Use,
    /// What `/proc` showed of it last.
    look: Option<Look>,
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
            unit.learn(state, minor(sample, state), &self.openings, now_ns);
        }
        for opener in &sample.openers {
            let is_it = |known: &&mut Opening| {
                known.process.0 == opener.pid
                    && procfs::is_same_start(known.process.1, opener.look.start_ns)
            };
            for known in self.openings.iter_mut().filter(is_it) {
                known.used.seen_ns = now_ns;
                known.used.learn_connections(Some(&opener.look), now_ns);
                known.look = Some(opener.look.clone());
            }
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
            used: Use {
                seen: Seen::Device,
                ..Use::new(process.1, at_ns)
            },
            look: None,
        });
    }

    /// A process ended.
    pub fn ended(&mut self, process: Key) {
        if !self.openings.is_empty() {
            self.openings.retain(|known| known.process != process);
        }
    }

    /// Pids of processes that opened a GPU, so many that all of them can be looked at.
    pub fn openers(&self) -> Vec<u32> {
        let mut pids: Vec<u32> = self
            .openings
            .iter()
            .rev()
            .map(|opening| opening.process.0)
            .take(OPENERS_MAX)
            .collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Processes that opened a GPU before the last look, that hold it, as far as that is known, and that its driver does not name; of a
    /// divided card neither on any instance.
    pub fn unnamed(&self, sample: &GpuSample, state: &GpuState) -> Vec<(Key, Option<Look>)> {
        let card: Vec<&GpuState> = sample
            .gpus
            .iter()
            .filter(|other| other.index == state.index)
            .collect();
        let is_named = |pid: u32| {
            let mut processes = card.iter().flat_map(|part| &part.processes);
            processes.any(|process| process.pid == pid)
        };
        let holds = |opening: &Opening| {
            let held = opening.look.as_ref().and_then(|look| look.holds.as_ref());
            held.is_none_or(|held| held.contains(&opening.minor))
        };
        self.openings
            .iter()
            .filter(|opening| Some(opening.minor) == state.minor && state.instance.is_none())
            .filter(|opening| {
                opening.used.since_ns < sample.taken_ns && !is_named(opening.process.0)
            })
            .filter(|opening| holds(opening))
            .map(|opening| (opening.process, opening.look.clone()))
            .take(OPENERS_MAX)
            .collect()
    }

    /// What is known of a process that opened the GPU with this minor number.
    pub fn opening_mut(&mut self, process: Key, minor: Option<u32>) -> Option<&mut Use> {
        let mut known = self.openings.iter_mut();
        let found = known.find(|known| known.process == process && Some(known.minor) == minor)?;
        Some(&mut found.used)
    }

    /// The same, to be told.
    pub fn opening(&self, process: Key, minor: Option<u32>) -> Option<&Use> {
        let mut known = self.openings.iter();
        let found = known.find(|known| known.process == process && Some(known.minor) == minor)?;
        Some(&found.used)
    }
}

/// The minor number of a card's node, also for its instances.
fn minor(sample: &GpuSample, state: &GpuState) -> Option<u32> {
    let is_card = |other: &&GpuState| other.index == state.index && other.instance.is_none();
    let card = || sample.gpus.iter().find(is_card);
    state.minor.or_else(|| card()?.minor)
}

impl Unit {
    fn learn(
        &mut self,
        state: &GpuState,
        minor: Option<u32>,
        openings: &VecDeque<Opening>,
        now_ns: u64,
    ) {
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
            let was_opened = openings
                .iter()
                .any(|opening| opening.process.0 == process.pid && Some(opening.minor) == minor);
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
            connections: Vec::new(),
            called_ns: None,
            calls_ns: None,
            verdict: Verdict::default(),
            judged_ns: 0,
        }
    }

    fn learn(&mut self, gpu: &GpuState, process: &GpuProcess, is_alone: bool, now_ns: u64) {
        self.seen_ns = now_ns;
        // Where nobody says whose it is, what the GPU does is done by the one who is there; and nothing is done by nobody.
        let whole = gpu.pipes.map(|pipes| pipes.sm).or(gpu.util);
        let is_idle = |whole: &f32| *whole < BUSY;
        let sm = process
            .sm
            .or(whole.filter(|whole| is_alone || is_idle(whole)));
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
        self.learn_connections(process.look.as_ref(), now_ns);
    }

    fn learn_connections(&mut self, look: Option<&Look>, now_ns: u64) {
        let Some(now) = look.and_then(|look| look.connections.as_ref()) else {
            return;
        };
        if now.is_called {
            self.called_ns = Some(now_ns);
        }
        if now.calls {
            self.calls_ns = Some(now_ns);
        }
        let before = mem::take(&mut self.connections);
        let made = now.made.iter().take(mining::CONNECTIONS_MAX);
        self.connections = made
            .map(
                |made| match before.iter().find(|known| known.remote == made.remote) {
                    Some(known) => Connected {
                        bytes: match (known.bytes, made.bytes) {
                            // Another connection with the same end counts from its own beginning.
                            (Some((_, last)), Some(now)) if now < last => Some((0, now)),
                            (Some((first, _)), Some(now)) => Some((first, now)),
                            _ => None,
                        },
                        ..known.clone()
                    },
                    None => Connected {
                        remote: made.remote.clone(),
                        since_ns: now_ns,
                        bytes: made.bytes.map(|bytes| (bytes, bytes)),
                    },
                },
            )
            .collect();
    }

    /// Do other machines connect to it, and it to nothing?
    pub fn serves(&self, now_ns: u64) -> bool {
        let is_lately =
            |at: Option<u64>| at.is_some_and(|at| at.saturating_add(SERIES_NS) >= now_ns);
        is_lately(self.called_ns) && !is_lately(self.calls_ns)
    }
}

impl GpuState {
    /// Power as a share of the cap, percent.
    pub fn power_ratio(&self) -> Option<f32> {
        let cap = self.power_cap.filter(|cap| *cap > 0.0)?;
        Some(self.power? / cap * 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::gpu::{Connections, Made, Opener};

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
            openers: Vec::new(),
        }
    }

    /// The pids that [`Gpus::unnamed`] tells for each GPU.
    fn unnamed(gpus: &Gpus, sample: &GpuSample) -> Vec<Vec<u32>> {
        let told = sample.gpus.iter().map(|state| {
            let unnamed = gpus.unnamed(sample, state);
            unnamed.iter().map(|((pid, _), _)| *pid).collect()
        });
        told.collect()
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
        assert_eq!(unnamed(&gpus, &look), [[8]]);
        let opener = gpus.opening((8, 1), Some(0)).expect("it opened it");
        assert_eq!(
            (opener.since_ns, opener.busy_ns, opener.seen),
            (90 * SECOND_NS, 90 * SECOND_NS, Seen::Device)
        );
        assert_eq!(
            gpus.used_mut("GPU-a", 7).map(|used| used.seen),
            Some(Seen::Both)
        );
        gpus.ended((8, 1));
        assert_eq!(unnamed(&gpus, &look), [[0_u32; 0]]);
        for pid in 0..10_000 {
            gpus.opened((pid, 2), 0, 0);
        }
        assert_eq!(gpus.openings.len(), OPENINGS_MAX);
    }

    #[test]
    fn who_let_go_of_a_gpu_is_not_told() {
        let mut gpus = Gpus::default();
        gpus.opened((8, SECOND_NS), 0, 90 * SECOND_NS);
        let mut look = sample(100, 0.0, &[]);
        for (holds, told) in [
            (None, vec![8]),
            (Some(vec![0]), vec![8]),
            (Some(vec![1]), vec![]),
            (Some(vec![1, 0]), vec![8]),
        ] {
            look.openers = vec![Opener {
                pid: 8,
                look: Look {
                    start_ns: SECOND_NS,
                    holds,
                    ..Look::default()
                },
            }];
            gpus.learn(&look);
            assert_eq!(unnamed(&gpus, &look), [told], "{:?}", look.openers);
        }
        assert_eq!(gpus.openers(), [8]);
    }

    #[test]
    fn of_a_divided_card_an_opener_is_told_once_and_not_if_an_instance_names_him() {
        let mut gpus = Gpus::default();
        gpus.opened((7, 1), 0, 90 * SECOND_NS);
        gpus.opened((8, 1), 0, 90 * SECOND_NS);
        let mut look = sample(100, 0.0, &[]);
        for (id, uuid, pids) in [(1, "MIG-1", &[7][..]), (2, "MIG-2", &[])] {
            let mut instance = sample(100, 50.0, pids).gpus.remove(0);
            (instance.uuid, instance.instance) = (uuid.into(), Some(id));
            // As the driver: an instance has no node of its own. But it would be the card's.
            instance.minor = (id == 2).then_some(0);
            look.gpus.push(instance);
        }
        gpus.learn(&look);
        let none: Vec<u32> = Vec::new();
        assert_eq!(unnamed(&gpus, &look), [vec![8], none.clone(), none]);
        let named = gpus.used_mut("MIG-1", 7).map(|used| used.seen);
        assert_eq!(named, Some(Seen::Both));
    }

    #[test]
    fn who_shares_a_gpu_and_does_nothing_is_idle() {
        // The whole's share, one's own, and whether one is busy.
        let check = |whole: f32, own: Option<f32>, is_busy: bool| {
            let mut gpus = Gpus::default();
            for at_s in [100, 200] {
                let mut look = sample(at_s, whole, &[7, 9]);
                look.gpus[0].processes[0].sm = own;
                look.gpus[0].processes[1].sm = None;
                gpus.learn(&look);
            }
            let used = gpus.used_mut("GPU-a", 7).expect("it is there");
            let busy = if is_busy { 200 } else { 100 };
            assert_eq!(used.busy_ns, busy * SECOND_NS, "{whole} {own:?}");
        };
        check(90.0, Some(0.0), false);
        check(90.0, Some(5.0), true);
        check(90.0, None, true);
        check(0.0, None, false);
    }

    /// A look at one process, with what it shows.
    fn shown(at_s: u64, start_ns: u64, made: &[(&str, u64)]) -> GpuSample {
        let mut sample = sample(at_s, 90.0, &[7]);
        let made = made.iter().map(|(remote, bytes)| Made {
            remote: (*remote).into(),
            bytes: Some(*bytes),
        });
        sample.gpus[0].processes[0].look = (start_ns > 0).then(|| Look {
            start_ns,
            connections: Some(Connections {
                count: u32::try_from(made.len()).unwrap_or(0),
                made: made.collect(),
                is_called: false,
                calls: false,
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
                gpus.learn(&shown(100 + 5 * at as u64, *start_ns, &[]));
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
        let check = |looks: &[&[(&str, u64)]], expected: &[(u64, f64)]| {
            let mut gpus = Gpus::default();
            for (at, made) in looks.iter().enumerate() {
                gpus.learn(&shown(100 + 100 * at as u64, 3, made));
            }
            let now_ns = (100 + 100 * (looks.len() as u64 - 1)) * SECOND_NS;
            let used = gpus.used_mut("GPU-a", 7).expect("it is there");
            let found = used.connections.iter().map(|known| {
                let rate = known.rate(now_ns).unwrap_or(0.0);
                (known.seconds(now_ns), rate)
            });
            assert_eq!(found.collect::<Vec<_>>(), expected, "{looks:?}");
        };
        check(&[&[]], &[]);
        check(&[&[("a:1", 50)]], &[(0, 0.0)]);
        let thrice: [&[_]; 3] = [&[("a:1", 50)], &[("a:1", 250)], &[("a:1", 450)]];
        check(&thrice, &[(200, 2.0)]);
        // Another one with the same end, another end, and none for a while.
        check(&[&[("a:1", 450)], &[("a:1", 200)]], &[(100, 2.0)]);
        check(&[&[("a:1", 50)], &[("b:1", 70)]], &[(0, 0.0)]);
        check(&[&[("a:1", 50)], &[], &[("a:1", 70)]], &[(0, 0.0)]);
        // A second one takes nothing from the first.
        check(
            &[&[("a:1", 50)], &[("a:1", 250), ("b:1", 9)]],
            &[(100, 2.0), (0, 0.0)],
        );
    }

    #[test]
    fn who_is_called_and_calls_nobody_serves() {
        let check = |looks: &[(bool, bool)], expected: bool| {
            let mut gpus = Gpus::default();
            let mut at_s = 100;
            for (is_called, calls) in looks {
                at_s += 100;
                let mut sample = shown(at_s, 3, &[]);
                let look = sample.gpus[0].processes[0].look.as_mut();
                let connections = look.and_then(|look| look.connections.as_mut());
                let connections = connections.expect("it has some");
                (connections.is_called, connections.calls) = (*is_called, *calls);
                gpus.learn(&sample);
            }
            let used = gpus.used_mut("GPU-a", 7).expect("it is there");
            assert_eq!(used.serves(at_s * SECOND_NS), expected, "{looks:?}");
        };
        check(&[(false, false)], false);
        check(&[(true, false)], true);
        check(&[(true, false), (false, false)], true);
        check(&[(true, false), (false, true)], false);
        check(&[(true, true)], false);
        check(&[&[(false, true)][..], &[(true, false); 7]].concat(), true);
        check(
            &[&[(true, false)][..], &[(false, false); 7]].concat(),
            false,
        );
    }
}
