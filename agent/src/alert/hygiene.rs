//! So that a loop in one pod floods nobody: what one rule says of one container is passed on up to a bound, and beyond it counted, and
//! told in one summary alert a window.
//!
//! Two bounds, because they cost differently: the *same* said again (every field but process ids, times and the like) tells little new
//! after a few times; *different* alerts each tell something, but nobody reads thousands a minute of one rule and container.
//!
//! Time is the events' own, so a replay suppresses what the recording agent would have.

use std::{
    collections::HashMap,
    hash::{Hash as _, Hasher as _},
};

use rustc_hash::FxHasher;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::{Alert, hex};

/// Rules and containers kept track of; the one that began first goes for a new one, its summary early.
const KEYS_MAX: usize = 4096;

/// Different alerts told apart for one rule and container: beyond it the bound of different ones decides anyway.
const SIGNATURES_MAX: usize = 256;

/// Events that waited for their container's names come later than others by less than this. What is further back was told by a clock that
/// was set back.
const BACK_NS: i64 = 30_000_000_000;

/// What is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long one window lasts; 0: everything is passed on.
    pub window_ns: i64,
    /// In it, how often the same.
    pub same_max: u32,
    /// In it, how many of one rule and container.
    pub rate_max: u32,
}

/// Why an alert was not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suppressed {
    /// The same was said often enough.
    Same,
    /// Too many of that rule and container.
    Rate,
}

/// What was passed on lately.
#[derive(Debug)]
pub struct Hygiene {
    limits: Limits,
    /// By rule and container.
    windows: HashMap<u64, Window, std::hash::BuildHasherDefault<FxHasher>>,
    /// When the next window ends.
    next_end_ns: i64,
    /// The latest time that it was told.
    latest_ns: i64,
}

#[derive(Debug)]
struct Window {
    begun_ns: i64,
    passed: u32,
    by_signature: HashMap<u64, u32, std::hash::BuildHasherDefault<FxHasher>>,
    same: u64,
    rate: u64,
    /// The last that was not passed on.
    last: Option<Box<Alert>>,
}

impl Hygiene {
    /// Nothing was said yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            windows: HashMap::default(),
            next_end_ns: i64::MAX,
            latest_ns: i64::MIN,
        }
    }

    /// Passes an alert on, or counts it; before it, what is due.
    pub fn pass(&mut self, alert: Alert, alerts: &mut dyn FnMut(Alert)) -> Option<Suppressed> {
        if self.limits.window_ns <= 0 {
            alerts(alert);
            return None;
        }
        let now_ns = alert.time_ns();
        self.tick(now_ns, alerts);
        let key = key(&alert);
        if self.windows.len() >= KEYS_MAX && !self.windows.contains_key(&key) {
            let first = self
                .windows
                .iter()
                .min_by_key(|(_, window)| window.begun_ns);
            if let Some((&first, _)) = first
                && let Some(window) = self.windows.remove(&first)
                && let Some(summary) = window.summary(now_ns)
            {
                alerts(summary);
            }
        }
        let window = self.windows.entry(key).or_insert_with(|| Window {
            begun_ns: now_ns,
            passed: 0,
            by_signature: HashMap::default(),
            same: 0,
            rate: 0,
            last: None,
        });
        self.next_end_ns = self
            .next_end_ns
            .min(window.begun_ns.saturating_add(self.limits.window_ns));
        let signature = signature(&alert);
        let suppressed = window.judge(signature, self.limits);
        match suppressed {
            None => alerts(alert),
            Some(_) => window.last = Some(Box::new(alert)),
        }
        suppressed
    }

    /// Hands on the summaries of windows that have ended.
    pub fn tick(&mut self, now_ns: i64, alerts: &mut dyn FnMut(Alert)) {
        if now_ns
            < self
                .latest_ns
                .saturating_sub(self.limits.window_ns.max(BACK_NS))
        {
            // The clock was set back, and windows would stay open until it has caught up.
            self.finish(now_ns, alerts);
            self.latest_ns = now_ns;
        }
        self.latest_ns = self.latest_ns.max(now_ns);
        if now_ns < self.next_end_ns {
            return;
        }
        let length_ns = self.limits.window_ns;
        let mut over: Vec<_> = self
            .windows
            .extract_if(|_, window| now_ns >= window.begun_ns.saturating_add(length_ns))
            .collect();
        let left = self.windows.values().map(|window| window.begun_ns).min();
        self.next_end_ns = left.map_or(i64::MAX, |begun| begun.saturating_add(length_ns));
        // By time, then by rule and container: a replay tells them in the same order.
        over.sort_by_key(|(key, window)| (window.begun_ns, *key));
        for (_, window) in over {
            let end_ns = window.begun_ns.saturating_add(length_ns);
            if let Some(summary) = window.summary(end_ns) {
                alerts(summary);
            }
        }
    }

    /// Other limits from now on; what was counted under the old ones is told.
    pub fn limit(&mut self, limits: Limits, now_ns: i64, alerts: &mut dyn FnMut(Alert)) {
        if self.limits != limits {
            self.finish(now_ns, alerts);
            self.limits = limits;
        }
    }

    /// The end: whatever was counted is told.
    pub fn finish(&mut self, now_ns: i64, alerts: &mut dyn FnMut(Alert)) {
        let mut over: Vec<_> = self.windows.drain().collect();
        self.next_end_ns = i64::MAX;
        over.sort_by_key(|(key, window)| (window.begun_ns, *key));
        for (_, window) in over {
            if let Some(summary) = window.summary(now_ns) {
                alerts(summary);
            }
        }
    }
}

impl Window {
    fn judge(&mut self, signature: u64, limits: Limits) -> Option<Suppressed> {
        let known = self.by_signature.get(&signature).copied().unwrap_or(0);
        if known >= limits.same_max {
            self.same += 1;
            return Some(Suppressed::Same);
        }
        if self.passed >= limits.rate_max {
            self.rate += 1;
            return Some(Suppressed::Rate);
        }
        if known > 0 || self.by_signature.len() < SIGNATURES_MAX {
            self.by_signature.insert(signature, known + 1);
        }
        self.passed += 1;
        None
    }

    /// One alert for all that were counted, in the words of the last of them.
    fn summary(self, end_ns: i64) -> Option<Alert> {
        let mut alert = *self.last?;
        let (same, rate) = (self.same, self.rate);
        let seconds = (end_ns - self.begun_ns).max(0) / 1_000_000_000;
        let told = alert.told().to_owned();
        let of = std::mem::take(&mut alert.id);
        let text = format!("same as above, {} more in {seconds} s: {told}", same + rate);
        alert.retell(&text);
        alert.id = hex(&Sha256::digest(format!("summary {of} {same} {rate}"))[..16]);
        let fields = &mut alert.output_fields;
        let mut add = |name: &str, value: Value| fields.insert(name.into(), value);
        add("saker.alert_id", alert.id.clone().into());
        add("saker.summary_of", of.into());
        add("saker.suppressed", (same + rate).into());
        add("saker.suppressed_same", same.into());
        add("saker.suppressed_rate", rate.into());
        add("saker.suppressed_window_s", seconds.into());
        Some(alert)
    }
}

/// Which rule, and which container.
fn key(alert: &Alert) -> u64 {
    let mut hasher = FxHasher::default();
    alert.rule.hash(&mut hasher);
    let container = alert.output_fields.get("container.id");
    container.and_then(Value::as_str).hash(&mut hasher);
    hasher.finish()
}

/// What an alert says, but for what differs each time anyway.
fn signature(alert: &Alert) -> u64 {
    let mut hasher = FxHasher::default();
    let mut differs = false;
    for (name, value) in said(&alert.output_fields) {
        differs = true;
        name.hash(&mut hasher);
        match value {
            Value::String(text) => text.hash(&mut hasher),
            other => other.to_string().hash(&mut hasher),
        }
    }
    if !differs {
        alert.tags.hash(&mut hasher);
    }
    hasher.finish()
}

fn said(fields: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    fields.iter().filter(|(name, _)| !is_volatile(name))
}

/// Names of fields that differ from one event to the next of the same kind: numbers of processes, times, ports that a client was given.
fn is_volatile(name: &str) -> bool {
    const BEGINNINGS: [&str; 5] = [
        "saker.",
        "evt.time",
        "evt.datetime",
        "evt.rawtime",
        "thread.",
    ];
    const NAMES: [&str; 11] = [
        "evt.num",
        "evt.cpu",
        "proc.lineage",
        "proc.sid",
        "proc.duration",
        "fd.num",
        "fd.cport",
        "fd.lport",
        "fd.containername",
        "lost.count",
        "container.duration",
    ];
    let has_pid = name.split(['.', '[']).any(|part| {
        matches!(
            part,
            "pid" | "ppid" | "apid" | "vpid" | "pvpid" | "pgid" | "vpgid"
        )
    });
    has_pid
        || NAMES.contains(&name)
        || BEGINNINGS
            .iter()
            .any(|beginning| name.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;

    fn hygiene(same_max: u32, rate_max: u32) -> Hygiene {
        Hygiene::new(Limits {
            window_ns: 60 * S,
            same_max,
            rate_max,
        })
    }

    fn alert(at_s: i64, container: &str, file: &str) -> Alert {
        let mut alert = Alert::for_tests("rule");
        let fields = &mut alert.output_fields;
        fields.insert("evt.time".into(), (at_s * S).into());
        fields.insert("container.id".into(), container.into());
        fields.insert("fd.name".into(), file.into());
        fields.insert("proc.pid".into(), at_s.into());
        alert.id = format!("{at_s}{container}{file}");
        alert
    }

    fn pass(hygiene: &mut Hygiene, alert: Alert) -> (Option<Suppressed>, Vec<Alert>) {
        let mut out = Vec::new();
        let suppressed = hygiene.pass(alert, &mut |alert| out.push(alert));
        (suppressed, out)
    }

    #[test]
    fn the_same_is_said_a_few_times_and_then_summed_up() {
        let mut hygiene = hygiene(3, 100);
        for second in 0..10 {
            let (suppressed, out) = pass(&mut hygiene, alert(second, "c", "f"));
            let expected = (second >= 3).then_some(Suppressed::Same);
            assert_eq!((suppressed, out.len()), (expected, usize::from(second < 3)));
        }
        // Something else of the same rule and container, and the same of another container.
        assert_eq!(pass(&mut hygiene, alert(11, "c", "g")).0, None);
        assert_eq!(pass(&mut hygiene, alert(12, "d", "f")).0, None);
        let (suppressed, out) = pass(&mut hygiene, alert(60, "c", "f"));
        assert_eq!((suppressed, out.len()), (None, 2));
        let summary = &out[0];
        assert!(
            summary
                .output
                .ends_with("Warning same as above, 7 more in 60 s: text"),
            "{}",
            summary.output
        );
        let field = |name: &str| summary.output_fields[name].clone();
        assert_eq!(field("saker.suppressed"), 7);
        assert_eq!(field("saker.summary_of"), "9cf");
        assert_eq!(field("saker.alert_id"), summary.id.as_str());
        assert_ne!(summary.id, "9cf");
    }

    #[test]
    fn different_ones_are_bounded_too() {
        let mut hygiene = hygiene(3, 50);
        let mut passed = 0;
        for number in 0..1000 {
            let (suppressed, out) = pass(&mut hygiene, alert(0, "c", &number.to_string()));
            passed += out.len();
            assert_eq!(suppressed, (number >= 50).then_some(Suppressed::Rate));
        }
        assert_eq!(passed, 50);
        let mut out = Vec::new();
        hygiene.finish(30 * S, &mut |alert| out.push(alert));
        assert!(
            out[0].output.contains("950 more in 30 s"),
            "{}",
            out[0].output
        );
        hygiene.finish(30 * S, &mut |alert| panic!("told twice: {alert:?}"));
    }

    #[test]
    fn what_is_kept_track_of_is_bounded_and_nothing_is_forgotten() {
        let mut hygiene = hygiene(1, 100);
        let (mut out, mut suppressed) = (0_u64, 0_u64);
        let mut told = 0;
        let mut count = |alert: Alert| match alert.output_fields.get("saker.suppressed") {
            Some(count) => told += count.as_u64().expect("a number"),
            None => out += 1,
        };
        for round in 0..3 {
            for container in 0..5000 {
                let alert = alert(round, &container.to_string(), "f");
                suppressed += u64::from(hygiene.pass(alert, &mut count).is_some());
            }
        }
        assert!(hygiene.windows.len() <= KEYS_MAX);
        hygiene.finish(10 * S, &mut count);
        assert_eq!((out + suppressed, told), (15_000, suppressed));
    }

    #[test]
    fn a_clock_that_is_set_back_keeps_nothing_shut() {
        let mut hygiene = hygiene(1, 100);
        assert_eq!(pass(&mut hygiene, alert(10_000, "c", "f")).0, None);
        assert!(pass(&mut hygiene, alert(10_001, "c", "f")).0.is_some());
        // Events of two rings are not quite in order.
        assert!(pass(&mut hygiene, alert(9_990, "c", "f")).0.is_some());
        let (suppressed, out) = pass(&mut hygiene, alert(100, "c", "f"));
        assert_eq!((suppressed, out.len()), (None, 2), "{out:?}");
        assert_eq!(out[0].output_fields["saker.suppressed"], 2);
        assert!(pass(&mut hygiene, alert(101, "c", "f")).0.is_some());
    }

    #[test]
    fn other_limits_hold_at_once_and_what_was_counted_is_told() {
        let mut hygiene = hygiene(2, 100);
        for second in 0..5 {
            pass(&mut hygiene, alert(second, "c", "f"));
        }
        let mut out = Vec::new();
        let mut limit = |hygiene: &mut Hygiene, same_max| {
            let limits = Limits {
                same_max,
                ..hygiene.limits
            };
            hygiene.limit(limits, 6 * S, &mut |alert| out.push(alert));
        };
        limit(&mut hygiene, 2);
        assert_eq!(pass(&mut hygiene, alert(7, "c", "f")).1.len(), 0);
        limit(&mut hygiene, 3);
        for second in 8..13 {
            let passed = pass(&mut hygiene, alert(second, "c", "f")).1.len();
            assert_eq!(passed, usize::from(second < 11), "{second}");
        }
        assert_eq!(out.len(), 1, "the same limits are no others: {out:?}");
        assert_eq!(out[0].output_fields["saker.suppressed"], 4);
    }

    #[test]
    fn a_window_of_nothing_passes_everything() {
        let mut hygiene = Hygiene::new(Limits {
            window_ns: 0,
            same_max: 1,
            rate_max: 1,
        });
        for _ in 0..10 {
            assert_eq!(pass(&mut hygiene, alert(0, "c", "f")).1.len(), 1);
        }
    }
}
