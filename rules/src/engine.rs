//! Evaluates compiled rules: which rules does this event meet?
//!
//! For one event the engine takes the program of its kind and the one for every kind. It tests the guards of their partitions, looks the
//! values of the gating fields up in the tables of constants, and visits the units that these look-ups name, and those that
//! have no gate. Fields are asked for when first needed and once; a comparison's answer is kept for the event.
//! Nothing is allocated for an event that meets no rule, once the scratch space has seen a few events.
//!
//! The engine holds no state between events: sequences and durations are `state.rs`'s.

use crate::{
    FieldSource,
    bundle::{
        Bundle, SPECIAL_PROGRAMS, Tables, codec,
        rows::{EVENT, ProgramRow, RuleRow},
    },
    expr::{FieldArg, FieldRef},
    fields::Field,
    kernel_filter::{self, KernelFilter},
    matcher::{PoolRef, Span, equal, gram},
    ruleset::Priority,
    template::Template,
};
use general::LazyTest;
use regex_automata::dfa::sparse;
use run::{Parts, Run, Table};

pub(crate) use general::general;
pub use run::Scratch;

mod general;
mod run;

/// A rule's number: its place in the rule set that was compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(pub u32);

/// How many rules an event may raise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RuleMatching {
    /// Every rule that it meets: no rule hides another.
    #[default]
    All,
    /// Of each source, the first that it meets in order of definition.
    First,
}

/// What the engine may be told.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct EngineOptions {
    /// How many rules an event may raise.
    pub rule_matching: RuleMatching,
    /// Rules of other sources are left out; `None` takes all.
    pub sources: Option<Vec<String>>,
}

/// Compiled rules, ready to evaluate. Shared freely between threads; each brings its own [`Scratch`].
pub struct Engine {
    bundle: Bundle,
    options: EngineOptions,
    tables: Vec<Table>,
    tests: Vec<LazyTest>,
    automata: Vec<sparse::DFA<Vec<u8>>>,
    fields: Vec<FieldRef>,
    rarest: Vec<u16>,
    /// By sketch of the kind: its row in `types`.
    kinds: Box<[u16; KINDS]>,
    /// By rule: whether its source takes part.
    active: Vec<bool>,
}

impl Engine {
    /// Readies a bundle: decodes the few tests that have no table form and nothing else.
    pub fn new(bundle: Bundle, options: EngineOptions) -> Self {
        let tables = bundle.tables();
        let tests = tables
            .tests
            .iter()
            .map(|&test| LazyTest::new(test))
            .collect();
        let automata = tables
            .automata
            .iter()
            .map(|&automaton| {
                let read =
                    sparse::DFA::from_bytes(tables.blob.get(automaton.range()).unwrap_or_default());
                read.map_or_else(
                    |_| unreachable!("loading a bundle reads every automaton"),
                    |(automaton, _)| automaton.to_owned(),
                )
            })
            .collect();
        let active = tables
            .rules
            .iter()
            .map(|rule| {
                let source = str::from_utf8(tables.note(rule.source)).unwrap_or_default();
                options
                    .sources
                    .as_ref()
                    .is_none_or(|sources| sources.iter().any(|wanted| wanted == source))
            })
            .collect();
        let fields = (0..tables.slots.len())
            .filter_map(|slot| slot_field(tables, slot as u32))
            .collect();
        let rarest = tables
            .keys
            .iter()
            .map(|key| gram::rarest(tables.bytes(key.text)).min(usize::from(u16::MAX)) as u16)
            .collect();
        let parsed = tables
            .tables
            .iter()
            .map(|row| Table::parse(tables, row))
            .collect();
        Self {
            tables: parsed,
            tests,
            automata,
            fields,
            rarest,
            kinds: sketched(tables),
            active,
            options,
            bundle,
        }
    }

    /// Room for one thread's evaluations.
    pub fn scratch(&self) -> Scratch {
        Scratch::new(self.bundle.tables())
    }

    /// The rules that the event alone meets, appended in order of definition. Sequences and durations are not among them.
    pub fn evaluate<S: FieldSource>(
        &self,
        scratch: &mut Scratch,
        source: &S,
        out: &mut Vec<RuleId>,
    ) {
        let start = out.len();
        let tables = self.bundle.tables();
        self.conditions(scratch, source, |condition| {
            let row = &tables.conditions[condition as usize];
            if row.role == EVENT {
                out.push(RuleId(row.rule));
            }
        });
        if out.len() > start {
            self.settle_by(out, start, |&rule| rule);
        }
    }

    /// Orders matches, and applies `rule_matching`.
    pub(crate) fn settle_by<T>(
        &self,
        matches: &mut Vec<T>,
        start: usize,
        rule: impl Fn(&T) -> RuleId,
    ) {
        matches[start..].sort_by_key(&rule);
        if self.options.rule_matching == RuleMatching::First {
            let tables = self.bundle.tables();
            let source = |found: &T| tables.note(tables.rules[rule(found).0 as usize].source);
            let mut kept = start;
            for at in start..matches.len() {
                if matches[start..kept]
                    .iter()
                    .all(|earlier| source(earlier) != source(&matches[at]))
                {
                    matches.swap(kept, at);
                    kept += 1;
                }
            }
            matches.truncate(kept);
        }
    }

    /// Calls `met` with every condition that the event meets, of every role, in no order.
    pub(crate) fn conditions<S: FieldSource>(
        &self,
        scratch: &mut Scratch,
        source: &S,
        mut met: impl FnMut(u32),
    ) {
        let [own, every] = self.programs(source.event_type());
        let tables = self.bundle.tables();
        if own.parts.len == 0 && every.parts.len == 0 {
            return;
        }
        let mut run = Run::begin(tables, self.parts(), source, scratch);
        run.evaluate(&[own.parts, every.parts], |condition| {
            let rule = tables.conditions[condition as usize].rule;
            if self.active[rule as usize] {
                met(condition);
            }
        });
        run.end();
    }

    /// The program of the kind, and that of every kind.
    pub(crate) fn programs(&self, kind: Option<&[u8]>) -> [ProgramRow; 2] {
        let tables = self.bundle.tables();
        let special = tables.programs.len() - SPECIAL_PROGRAMS;
        let own = match kind {
            None => special + 1,
            Some(kind) => {
                // Most kinds are told apart by length, first and last byte.
                let row = match self.kinds[sketch(kind)] {
                    NO_KIND => None,
                    MANY_KINDS => self.find_kind(kind),
                    row => Some(usize::from(row)),
                };
                row.and_then(|row| tables.types.get(row))
                    .filter(|row| tables.bytes(row.name) == kind)
                    .map_or(special, |row| row.program as usize)
            }
        };
        [tables.programs[own], tables.programs[special + 2]]
    }

    fn find_kind(&self, kind: &[u8]) -> Option<usize> {
        let tables = self.bundle.tables();
        let pool = PoolRef {
            words: &[],
            quads: tables.type_index,
        };
        let index = Span {
            start: 0,
            len: tables.type_index.len() as u32,
        };
        let is = |row: u32| {
            tables
                .types
                .get(row as usize)
                .is_some_and(|row| tables.bytes(row.name) == kind)
        };
        equal::find(pool, index, kind, is).map(|row| row as usize)
    }

    /// Whether an event of the kind can meet any condition.
    pub fn wants(&self, kind: &str) -> bool {
        self.programs(Some(kind.as_bytes()))
            .iter()
            .any(|program| program.parts.len > 0)
    }

    /// The fields that an event of the kind can be asked for. Those that identify the owner of a state are not among them.
    pub fn fields_used(&self, kind: &str) -> Vec<FieldRef> {
        let tables = self.bundle.tables();
        let mut slots: Vec<u32> = self
            .programs(Some(kind.as_bytes()))
            .iter()
            .flat_map(|program| tables.list(program.slots))
            .copied()
            .collect();
        slots.sort_unstable();
        slots.dedup();
        slots
            .into_iter()
            .filter_map(|slot| slot_field(tables, slot))
            .collect()
    }

    /// What the kernel may drop. Derived from all active rules, whatever sources were chosen. Decoded at each call: keep it.
    pub fn kernel_filter(&self) -> KernelFilter {
        kernel_filter::decode(self.bundle.tables().filter).unwrap_or_default()
    }

    /// The rules, in order of definition, disabled ones included.
    pub fn rules(&self) -> impl ExactSizeIterator<Item = RuleView<'_>> {
        (0..self.bundle.tables().rules.len() as u32).map(|id| RuleView {
            engine: self,
            id: RuleId(id),
        })
    }

    /// The rule of that number, if there is one.
    pub fn rule(&self, id: RuleId) -> Option<RuleView<'_>> {
        ((id.0 as usize) < self.bundle.tables().rules.len())
            .then_some(RuleView { engine: self, id })
    }

    /// The bundle.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    fn parts(&self) -> Parts<'_> {
        Parts {
            tables: &self.tables,
            tests: &self.tests,
            automata: &self.automata,
            fields: &self.fields,
            rarest: &self.rarest,
        }
    }
}

/// Size of the table of kinds.
const KINDS: usize = 256;
/// No kind that rules name has this sketch.
const NO_KIND: u16 = u16::MAX;
/// Several have it.
const MANY_KINDS: u16 = u16::MAX - 1;

fn sketched(tables: &Tables<'_>) -> Box<[u16; KINDS]> {
    let mut kinds = Box::new([NO_KIND; KINDS]);
    for (row, kind) in tables.types.iter().enumerate() {
        let place = &mut kinds[sketch(tables.bytes(kind.name))];
        let row = u16::try_from(row).unwrap_or(MANY_KINDS).min(MANY_KINDS);
        *place = if *place == NO_KIND { row } else { MANY_KINDS };
    }
    kinds
}

#[inline]
fn sketch(kind: &[u8]) -> usize {
    let (first, last) = match kind {
        [] => (0, 0),
        [only] => (*only, *only),
        [first, .., last] => (*first, *last),
    };
    (kind.len() ^ usize::from(first) << 1 ^ usize::from(last) << 3) & (KINDS - 1)
}

fn slot_field(tables: &Tables<'_>, slot: u32) -> Option<FieldRef> {
    let row = tables.slots.get(slot as usize)?;
    let arg = match row.arg_kind {
        1 => FieldArg::Index(row.index),
        2 => FieldArg::Key(tables.str(row.key).into()),
        _ => FieldArg::None,
    };
    Some(FieldRef {
        field: Field::from_index(usize::from(row.field))?,
        arg,
    })
}

impl core::fmt::Debug for Engine {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Engine")
            .field("bundle", &self.bundle)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// What is told of a rule.
#[derive(Clone, Copy)]
pub struct RuleView<'e> {
    engine: &'e Engine,
    id: RuleId,
}

/// When a rule fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetectionKind {
    /// On an event.
    Event,
    /// On events in order, from the first to the last within this time.
    Sequence {
        /// Number of steps.
        steps: u32,
        /// Nanoseconds.
        within_ns: u64,
    },
    /// When the condition has held for this time.
    For {
        /// Nanoseconds.
        hold_ns: u64,
    },
}

impl<'e> RuleView<'e> {
    fn row(&self) -> &'e RuleRow {
        &self.engine.bundle.tables().rules[self.id.0 as usize]
    }

    fn text(&self, span: Span) -> &'e str {
        str::from_utf8(self.engine.bundle.tables().note(span)).unwrap_or_default()
    }

    fn texts(&self, span: Span) -> impl ExactSizeIterator<Item = &'e str> + use<'e> {
        let tables = self.engine.bundle.tables();
        tables
            .spans
            .get(span.range())
            .unwrap_or(&[])
            .iter()
            .map(|&text| str::from_utf8(tables.note(text)).unwrap_or_default())
    }

    /// The rule's number.
    pub fn id(&self) -> RuleId {
        self.id
    }

    /// Unique within its source.
    pub fn name(&self) -> &'e str {
        self.text(self.row().name)
    }

    /// What it detects, in words.
    pub fn desc(&self) -> &'e str {
        self.text(self.row().desc)
    }

    /// The condition as written, after appends and exceptions.
    pub fn condition_text(&self) -> &'e str {
        self.text(self.row().condition)
    }

    /// The source whose events it is for.
    pub fn source(&self) -> &'e str {
        self.text(self.row().source)
    }

    /// How urgent it is.
    pub fn priority(&self) -> Priority {
        const ALL: [Priority; 8] = [
            Priority::Emergency,
            Priority::Alert,
            Priority::Critical,
            Priority::Error,
            Priority::Warning,
            Priority::Notice,
            Priority::Informational,
            Priority::Debug,
        ];
        ALL[self.row().priority as usize % ALL.len()]
    }

    /// Sorted, without duplicates.
    pub fn tags(&self) -> impl ExactSizeIterator<Item = &'e str> + use<'e> {
        self.texts(self.row().tags)
    }

    /// Why it cannot match on a live agent; empty for an active rule.
    pub fn inactive(&self) -> impl ExactSizeIterator<Item = &'e str> + use<'e> {
        self.texts(self.row().inactive)
    }

    /// Whether it is evaluated at all.
    pub fn is_enabled(&self) -> bool {
        self.row().enabled != 0
    }

    /// The file that last defined or changed it, and the line there.
    pub fn origin(&self) -> (&'e str, u32) {
        (self.text(self.row().origin_file), self.row().origin_line)
    }

    /// When it fires.
    pub fn detection(&self) -> DetectionKind {
        let row = self.row();
        let span_ns = u64::from(row.span_ns[0]) | u64::from(row.span_ns[1]) << 32;
        match row.detection {
            1 => DetectionKind::Sequence {
                steps: row.steps,
                within_ns: span_ns,
            },
            2 => DetectionKind::For { hold_ns: span_ns },
            _ => DetectionKind::Event,
        }
    }

    /// What a sequence's events share; `None` for other rules.
    pub fn sequence_by(&self) -> Option<FieldRef> {
        let row = self.row();
        if row.detection == 1 {
            slot_field(self.engine.bundle.tables(), row.by)
        } else {
            None
        }
    }

    /// The alert's text. Decoded at each call: keep it.
    pub fn output(&self) -> Template {
        codec::decode_template(self.engine.bundle.tables().note(self.row().output))
            .unwrap_or_default()
    }
}

impl core::fmt::Debug for RuleView<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("RuleView")
            .field("id", &self.id)
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}
