//! Sequences and durations: what rules remember between events.
//!
//! **Sequences.** An event that meets the first step opens an instance under the value of `by` (for a list such as
//! `proc.lineage`, its first element). An event that meets a later step moves on every instance that waits for this step and whose key
//! is the event's value of `by`, or one of its elements. When the last step is met within the time, the rule matches and the instance is closed. One
//! event never takes one instance two steps. There is one instance for each key and step waited for; where two meet, the one that was opened
//! later stays, for it can wait longer. An event without a value of `by` takes no part.
//!
//! **Durations.** A `for` rule is watched for each *owner*: the event's `gpu.uuid` (events of kind `gpu`), `container.id` and `proc.pid`,
//! as far as they can be extracted. An owner's condition begins to hold with the first event that meets it and goes on until an event of
//! a kind that the rule looks at, of the same owner, does not meet it, or until no event of the owner has met it for `gap_ns_max`. Once it has held for the rule's time
//! the rule matches, once: the condition must stop holding before it can match again.
//!
//! **Time** is the caller's. An event older than the newest seen counts as if it came at its own time: it can't make a
//! span negative, and does not turn the clock back.
//!
//! **Bounds.** A rule has at most `instances_max` instances; the oldest is dropped for a new one, and counted.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use crate::{
    FieldArgRef, FieldSource,
    bundle::rows::{EVENT, HOLD},
    engine::{Engine, RuleId, Scratch},
    expr::FieldRef,
    fields::{self, Field, Resolved},
    value::Value,
};

/// What the detector may be told.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DetectorOptions {
    /// Open instances a rule may have.
    pub instances_max: usize,
    /// A duration is interrupted when no event of its owner has met the condition for so long, in nanoseconds. Must be longer than the
    /// interval at which the condition's events come.
    pub gap_ns_max: u64,
}

impl Default for DetectorOptions {
    fn default() -> Self {
        Self {
            instances_max: 4_096,
            gap_ns_max: 60_000_000_000,
        }
    }
}

/// A rule that an event completes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// The rule.
    pub rule: RuleId,
    /// For a sequence, the events of the earlier steps; for a duration, the event that it began with; empty for other rules.
    pub earlier: Vec<Earlier>,
}

/// An event that a match looks back on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Earlier {
    /// When it came.
    pub at_ns: u64,
    /// Its `evt.type`.
    pub kind: Box<[u8]>,
    /// Its `evt.num`, where it has one.
    pub number: Option<u64>,
}

/// What the detector has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DetectorStats {
    /// Instances open now.
    pub open: u64,
    /// Instances opened.
    pub opened: u64,
    /// Instances that led to a match.
    pub completed: u64,
    /// Instances that ran out of time, or whose duration was interrupted.
    pub ended: u64,
    /// Instances that were dropped for newer ones.
    pub dropped: u64,
}

/// The engine, and what its rules remember.
#[derive(Debug)]
pub struct Detector {
    engine: Arc<Engine>,
    options: DetectorOptions,
    scratch: Scratch,
    /// By rule; `None` for rules without memory.
    rules: Vec<Option<Memory>>,
    owners: Vec<Option<FieldRef>>,
    stats: DetectorStats,
    met: Vec<u32>,
}

#[derive(Debug)]
struct Memory {
    span_ns: u64,
    steps: u32,
    by: Option<FieldRef>,
    instances: HashMap<(Key, u32), Instance>,
    /// Serial numbers of instances, oldest first; may name instances that are gone.
    order: VecDeque<(u64, Key, u32)>,
    next_serial: u64,
}

#[derive(Debug)]
struct Instance {
    serial: u64,
    /// When it was opened.
    first_ns: u64,
    /// When it was last met; for durations.
    last_ns: u64,
    has_matched: bool,
    earlier: Vec<Earlier>,
}

/// A value of `by`, or an owner.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Bytes(Box<[u8]>),
    Word(u64),
    Ip(IpAddr),
    Owner([Option<Box<Key>>; 3]),
}

impl Key {
    fn of(value: Value<'_>) -> Option<Self> {
        Some(match value {
            Value::Bytes(bytes) => Self::Bytes(bytes.into()),
            Value::Uint(number) => Self::Word(number),
            Value::Int(number) => Self::Word(number as u64),
            Value::Double(number) => Self::Word(number.to_bits()),
            Value::Bool(value) => Self::Word(u64::from(value)),
            Value::Ip(address) => Self::Ip(address),
            Value::List(_) => return None,
        })
    }
}

/// What identifies the owner of a duration; the first only in events of kind `gpu`.
const OWNER: [&str; 3] = ["gpu.uuid", "container.id", "proc.pid"];

impl Detector {
    /// Rules of the engine, with nothing remembered.
    pub fn new(engine: impl Into<Arc<Engine>>, options: DetectorOptions) -> Self {
        let engine = engine.into();
        let rules = engine
            .rules()
            .map(|rule| {
                use crate::engine::DetectionKind;
                let (span_ns, steps) = match rule.detection() {
                    DetectionKind::Event => return None,
                    DetectionKind::Sequence { steps, within_ns } => (within_ns, steps),
                    DetectionKind::For { hold_ns } => (hold_ns, 0),
                };
                let by = rule.sequence_by();
                Some(Memory {
                    span_ns,
                    steps,
                    by,
                    instances: HashMap::new(),
                    order: VecDeque::new(),
                    next_serial: 0,
                })
            })
            .collect();
        let owners = OWNER
            .iter()
            .map(|name| match fields::resolve(name, None) {
                Resolved::Field(field) => Some(field),
                Resolved::Unknown | Resolved::BadArg(..) => None,
            })
            .collect();
        let scratch = engine.scratch();
        Self {
            engine,
            options,
            scratch,
            rules,
            owners,
            stats: DetectorStats::default(),
            met: Vec::new(),
        }
    }

    /// The engine.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// What has been done so far.
    pub fn stats(&self) -> DetectorStats {
        self.stats
    }

    /// Takes an event of that time and appends the rules that it completes, in order of definition.
    pub fn observe<S: FieldSource>(&mut self, source: &S, now_ns: u64, matches: &mut Vec<Match>) {
        let engine = Arc::clone(&self.engine);
        let tables = engine.bundle().tables();
        self.met.clear();
        let met = &mut self.met;
        engine.conditions(&mut self.scratch, source, |condition| met.push(condition));
        let programs = engine.programs(source.event_type());
        if self.met.is_empty() && programs.iter().all(|program| program.holds.len == 0) {
            return;
        }
        // Later steps first, so that an event does not take an instance that it has just opened or moved on further.
        self.met.sort_unstable_by_key(|&condition| {
            let row = &tables.conditions[condition as usize];
            (row.rule, core::cmp::Reverse(row.role))
        });
        self.met.dedup();
        let start = matches.len();
        for at in 0..self.met.len() {
            let row = &tables.conditions[self.met[at] as usize];
            match row.role {
                EVENT => matches.push(Match {
                    rule: RuleId(row.rule),
                    earlier: Vec::new(),
                }),
                HOLD => {}
                step => self.step(source, now_ns, RuleId(row.rule), step, matches),
            }
        }
        for program in programs {
            for &condition in tables.list(program.holds) {
                let rule = RuleId(tables.conditions[condition as usize].rule);
                let holds = self.met.contains(&condition);
                self.hold(source, now_ns, rule, holds, matches);
            }
        }
        if matches.len() > start {
            self.engine.settle_by(matches, start, |found| found.rule);
        }
    }

    fn step<S: FieldSource>(
        &mut self,
        source: &S,
        now_ns: u64,
        rule: RuleId,
        step: u32,
        matches: &mut Vec<Match>,
    ) {
        let Some(memory) = self.rules.get_mut(rule.0 as usize).and_then(Option::as_mut) else {
            return;
        };
        let Some(by) = memory.by.clone() else { return };
        let Some(value) = source.field(by.field, (&by.arg).into()) else {
            return;
        };
        let single = [value];
        let keys: &[Value<'_>] = match &value {
            Value::List(elements) => elements,
            _ => &single,
        };
        if step == 0 {
            if let Some(key) = keys.first().and_then(|&value| Key::of(value)) {
                let instance = memory.instance(now_ns, vec![earlier(source, now_ns)]);
                self.stats.opened += 1;
                memory.put(key, 1, instance, &self.options, &mut self.stats);
            }
            return;
        }
        let mut is_matched = false;
        for key in keys.iter().filter_map(|&value| Key::of(value)) {
            let Some(mut instance) = memory.instances.remove(&(key.clone(), step)) else {
                continue;
            };
            if now_ns.saturating_sub(instance.first_ns) > memory.span_ns {
                self.stats.ended += 1;
                self.stats.open -= 1;
                continue;
            }
            if step + 1 == memory.steps {
                self.stats.completed += 1;
                self.stats.open -= 1;
                // Several instances of one rule are one match: the event is the same.
                if !std::mem::replace(&mut is_matched, true) {
                    matches.push(Match {
                        rule,
                        earlier: instance.earlier,
                    });
                }
                continue;
            }
            instance.earlier.push(earlier(source, now_ns));
            self.stats.open -= 1;
            memory.put(key, step + 1, instance, &self.options, &mut self.stats);
        }
    }

    fn hold<S: FieldSource>(
        &mut self,
        source: &S,
        now_ns: u64,
        rule: RuleId,
        holds: bool,
        matches: &mut Vec<Match>,
    ) {
        let Some(memory) = self.rules.get_mut(rule.0 as usize).and_then(Option::as_mut) else {
            return;
        };
        if !holds && memory.instances.is_empty() {
            return;
        }
        let is_gpu = source.event_type() == Some(b"gpu");
        let part = |index: usize| {
            let field = self.owners[index]
                .as_ref()
                .filter(|_| index > 0 || is_gpu)?;
            Key::of(source.field(field.field, (&field.arg).into())?).map(Box::new)
        };
        let owner = (Key::Owner([part(0), part(1), part(2)]), 0);
        if !holds {
            if memory.instances.remove(&owner).is_some() {
                self.stats.ended += 1;
                self.stats.open -= 1;
            }
            return;
        }
        if let Some(instance) = memory.instances.get_mut(&owner) {
            if now_ns.saturating_sub(instance.last_ns) <= self.options.gap_ns_max {
                instance.last_ns = instance.last_ns.max(now_ns);
                if !instance.has_matched
                    && now_ns.saturating_sub(instance.first_ns) >= memory.span_ns
                {
                    instance.has_matched = true;
                    self.stats.completed += 1;
                    matches.push(Match {
                        rule,
                        earlier: instance.earlier.clone(),
                    });
                }
                return;
            }
            memory.instances.remove(&owner);
            self.stats.ended += 1;
            self.stats.open -= 1;
        }
        let mut instance = memory.instance(now_ns, vec![earlier(source, now_ns)]);
        if memory.span_ns == 0 {
            instance.has_matched = true;
            self.stats.completed += 1;
            matches.push(Match {
                rule,
                earlier: instance.earlier.clone(),
            });
        }
        self.stats.opened += 1;
        memory.put(owner.0, 0, instance, &self.options, &mut self.stats);
    }
}

impl Memory {
    fn instance(&mut self, now_ns: u64, earlier: Vec<Earlier>) -> Instance {
        self.next_serial += 1;
        Instance {
            serial: self.next_serial,
            first_ns: now_ns,
            last_ns: now_ns,
            has_matched: false,
            earlier,
        }
    }

    /// Stores an instance, and makes room for it.
    fn put(
        &mut self,
        key: Key,
        step: u32,
        instance: Instance,
        options: &DetectorOptions,
        stats: &mut DetectorStats,
    ) {
        let place = (key, step);
        if let Some(there) = self.instances.get(&place) {
            // Two instances meet: the later one can wait longer.
            stats.ended += 1;
            if there.first_ns > instance.first_ns {
                return;
            }
            stats.open -= 1;
        }
        self.order
            .push_back((instance.serial, place.0.clone(), place.1));
        self.instances.insert(place, instance);
        stats.open += 1;
        while self.instances.len() > options.instances_max.max(1) {
            let Some((serial, key, step)) = self.order.pop_front() else {
                break;
            };
            if self.is_current(serial, &key, step) {
                self.instances.remove(&(key, step));
                stats.dropped += 1;
                stats.open -= 1;
            }
        }
        // Names of instances that are gone are cleared before they outnumber the others.
        if self.order.len() > 2 * options.instances_max.max(16) {
            let mut order = std::mem::take(&mut self.order);
            order.retain(|(serial, key, step)| self.is_current(*serial, key, *step));
            self.order = order;
        }
    }

    fn is_current(&self, serial: u64, key: &Key, step: u32) -> bool {
        self.instances
            .get(&(key.clone(), step))
            .is_some_and(|instance| instance.serial == serial)
    }
}

fn earlier<S: FieldSource>(source: &S, now_ns: u64) -> Earlier {
    let number = match source.field(Field::EvtNum, FieldArgRef::None) {
        Some(Value::Uint(number)) => Some(number),
        _ => None,
    };
    Earlier {
        at_ns: now_ns,
        kind: source.event_type().unwrap_or_default().into(),
        number,
    }
}
