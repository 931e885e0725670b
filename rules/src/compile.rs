//! From checked rules to a bundle.
//!
//! 1. `graph`: all conditions become one graph of shared parts.
//! 2. Here: for every kind of event that a rule names, conditions are simplified by what the kind decides. What is left is the kind's
//!    *program*; kinds with equal programs share one. Conditions that do not look at the kind stand in a program of their own that serves every event.
//! 3. `parts`: a program is split by coarse comparisons that many rules require (`container.id != host`).
//! 4. `gates`: each condition gets the constants it is found by; a condition without becomes one that is always visited.
//! 5. `branch`: conditions become steps. 6. `registry`, `bundle`: everything becomes tables.

use std::collections::BTreeMap;

use regex_automata::{
    dfa::{StartKind, dense},
    nfa::thompson,
    util::syntax,
};
use rustc_hash::{FxHashMap, FxHashSet};
use sha2::{Digest, Sha256};

use crate::{
    FieldArgRef, FieldSource,
    bundle::{
        self, Builder, Bundle, BundleError, codec,
        rows::{
            AtomRow, ConditionRow, EVENT, HOLD, PartRow, PostRow, ProgramRow, RuleRow, SetRow,
            TypeRow, UnitRow, kind,
        },
    },
    expr::{Expr, FieldArg, FieldRef, Literal, Op, Operand, Rhs, Test},
    fields::Field,
    kernel_filter::{self, KernelFilter},
    matcher::{Pool, Span, equal},
    ruleset::{Detection, Rule, RuleSet},
    semantics,
    value::Value,
};
use atoms::{Class, Const, Form, Method, Needle};
use branch::{Branches, Code};
use graph::{AtomId, FALSE, Graph, NodeId};
use registry::{KeyRef, Registry};

pub(crate) mod atoms;
mod branch;
mod gates;
pub(crate) mod graph;
mod parts;
mod registry;

/// What the compiler may be told.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CompileOptions {
    /// The digest to record as that of the source; by default one over the rules as loaded.
    pub source_digest: Option<[u8; 32]>,
}

/// Why rules cannot be compiled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// A condition is nested too deep.
    #[error(
        "the condition of rule {rule:?} is nested deeper than {}",
        graph::DEPTH_MAX
    )]
    TooDeep {
        /// The rule.
        rule: String,
    },
    /// A transformer is nested too deep.
    #[error(
        "transformers in rule {rule:?} are nested deeper than {}",
        codec::DEPTH_MAX
    )]
    TransformersTooDeep {
        /// The rule; empty where the test stands in several.
        rule: String,
    },
    /// The tables outgrow their numbers.
    #[error("the compiled rules take {bytes} bytes, more than {BYTES_MAX}")]
    TooLarge {
        /// What they would take.
        bytes: usize,
    },
    /// The result does not load. Always a mistake in the compiler.
    #[error("the compiled rules do not load")]
    Bundle(#[from] BundleError),
}

/// Rules that compile to more are refused: no node could afford the memory.
const BYTES_MAX: usize = 1 << 30;
/// Regular expressions whose automaton would be larger are compiled when they are first needed, and matched by a slower engine.
const AUTOMATON_BYTES_MAX: usize = 256 << 10;
/// Bound on the bytes of constants, which keeps every table's numbers in range.
const CONSTANTS_MAX: usize = 64 << 20;

impl Bundle {
    /// Compiles the enabled rules; disabled ones keep their description.
    pub fn compile(rules: &RuleSet, options: &CompileOptions) -> Result<Self, CompileError> {
        let constants: usize = rules
            .rules
            .iter()
            .flat_map(conditions)
            .map(|(_, expr)| constant_bytes(expr))
            .sum();
        if constants > CONSTANTS_MAX {
            return Err(CompileError::TooLarge { bytes: constants });
        }
        let mut compiler = Compiler::default();
        for (id, rule) in rules.rules.iter().enumerate() {
            compiler.add_rule(id as u32, rule)?;
        }
        compiler.compile(rules)?;
        let digest = match options.source_digest {
            Some(digest) => digest,
            None => digest(rules)?,
        };
        let bytes = compiler.out.size();
        if bytes > BYTES_MAX {
            return Err(CompileError::TooLarge { bytes });
        }
        Ok(bundle::assemble(&compiler.out, digest)?)
    }
}

/// A rule's conditions with their roles.
pub(crate) fn conditions(rule: &Rule) -> Vec<(u32, &Expr)> {
    match &rule.detection {
        Detection::Event(expr) => vec![(EVENT, expr)],
        Detection::For { condition, .. } => vec![(HOLD, condition)],
        Detection::Sequence { steps, .. } => (0..).zip(steps).collect(),
    }
}

fn constant_bytes(expr: &Expr) -> usize {
    match expr {
        Expr::And(parts) | Expr::Or(parts) => parts.iter().map(constant_bytes).sum(),
        Expr::Not(part) => constant_bytes(part),
        Expr::Test(test) => match &test.rhs {
            Rhs::Values(values) => values
                .iter()
                .map(|value| match value {
                    Literal::Bytes(bytes) => bytes.len() + 16,
                    _ => 16,
                })
                .sum(),
            _ => 16,
        },
    }
}

#[derive(Default)]
struct Compiler {
    graph: Graph,
    /// Root of each row of `out.conditions`.
    roots: Vec<NodeId>,
    registry: Registry,
    out: Builder,
}

/// What is left of conditions for some kinds of event: condition numbers and nodes.
type Residual = Vec<(u32, NodeId)>;

impl Compiler {
    fn add_rule(&mut self, id: u32, rule: &Rule) -> Result<(), CompileError> {
        let (detection, span_ns, steps, by) = match &rule.detection {
            Detection::Event(_) => (0, 0, 0, 0),
            Detection::Sequence { by, within, steps } => (
                1,
                within.as_nanos() as u64,
                steps.len() as u32,
                self.registry.slot(by),
            ),
            Detection::For { hold, .. } => (2, hold.as_nanos() as u64, 0, 0),
        };
        let output = codec::encode_template(&rule.output).ok_or_else(|| {
            CompileError::TransformersTooDeep {
                rule: rule.name.clone(),
            }
        })?;
        let out = &mut self.out;
        let row = RuleRow {
            name: out.add_note(rule.name.as_bytes()),
            desc: out.add_note(rule.desc.as_bytes()),
            condition: out.add_note(rule.condition_text.as_bytes()),
            source: out.add_note(rule.source.as_bytes()),
            origin_file: out.add_note(rule.origin.0.as_bytes()),
            origin_line: rule.origin.1,
            priority: rule.priority as u32,
            enabled: u32::from(rule.enabled),
            detection,
            span_ns: [span_ns as u32, (span_ns >> 32) as u32],
            steps,
            by,
            tags: out.add_texts(&rule.tags),
            inactive: out.add_texts(&rule.inactive),
            output: out.add_note(&output),
        };
        out.rules.push(row);
        if rule.enabled {
            for (role, expr) in conditions(rule) {
                let root = self.graph.add(expr).ok_or_else(|| CompileError::TooDeep {
                    rule: rule.name.clone(),
                })?;
                self.out.conditions.push(ConditionRow { rule: id, role });
                self.roots.push(root);
            }
        }
        Ok(())
    }

    fn compile(&mut self, rules: &RuleSet) -> Result<(), CompileError> {
        let programs = self.programs();
        let mut gates = gates::Gates::default();
        // Partitions with the conditions' gates, before any steps are written: steps need to know what is shared.
        let mut planned = Vec::new();
        for program in &programs.residuals {
            let mut parts = Vec::new();
            for part in parts::split(&mut self.graph, program.clone()) {
                let nodes: Vec<_> = part.conditions.iter().map(|&(_, node)| node).collect();
                let chosen = gates.choose(&self.graph, &nodes);
                parts.push((part, chosen));
            }
            planned.push(parts);
        }
        let roots: Vec<_> = planned
            .iter()
            .flatten()
            .flat_map(|(part, _)| part.conditions.iter().map(|&(_, node)| node))
            .collect();
        let mut branches = Branches::default();
        branches.prepare(&self.graph, &roots);
        for (parts, residual) in planned.iter().zip(&programs.residuals) {
            let first = self.out.parts.len() as u32;
            for (part, chosen) in parts {
                self.write_part(part, chosen, &mut branches);
            }
            let holds: Vec<u32> = residual
                .iter()
                .map(|&(condition, _)| condition)
                .filter(|&condition| self.out.conditions[condition as usize].role == HOLD)
                .collect();
            let mut slots: Vec<u32> = Vec::new();
            let mut seen = FxHashSet::default();
            for &(_, node) in residual {
                for atom in self.atoms_of(node, &mut seen) {
                    slots.extend(self.registry.slots_of(self.graph.atom(atom)));
                }
            }
            slots.sort_unstable();
            slots.dedup();
            let row = ProgramRow {
                parts: Span {
                    start: first,
                    len: self.out.parts.len() as u32 - first,
                },
                holds: self.out.add_list(&holds),
                slots: self.out.add_list(&slots),
            };
            self.out.programs.push(row);
        }
        self.write_types(&programs);
        self.write_filter(&programs, rules);
        self.write_atoms(&branches)?;
        self.out.nodes = branches.nodes;
        std::mem::take(&mut self.registry).write(&mut self.out);
        Ok(())
    }

    fn write_part(
        &mut self,
        part: &parts::Part,
        chosen: &[Option<Vec<gates::Chosen>>],
        branches: &mut Branches,
    ) {
        let number = self.out.parts.len() as u32;
        let guards: Vec<u32> = part
            .guards
            .iter()
            .map(|&(atom, holds)| branches.test(atom) * 2 + u32::from(holds))
            .collect();
        let mut always = Vec::new();
        let mut tables = Vec::new();
        for (&(condition, node), gate) in part.conditions.iter().zip(chosen) {
            let entry = branches.entry(&self.graph, node);
            let unit = self.out.units.len() as u32;
            self.out.units.push(UnitRow { entry, condition });
            let Some(gate) = gate else {
                always.push(unit);
                continue;
            };
            for &(atom, gate) in gate {
                let Some(gate) = atoms::gates(self.graph.atom(atom))
                    .into_iter()
                    .nth(usize::from(gate))
                else {
                    continue;
                };
                for needle in &gate.needles {
                    let key = self.registry.key(&gate.field, gate.method, needle);
                    self.registry.post(key, PostRow { part: number, unit });
                    tables.push(key.table);
                }
            }
        }
        tables.sort_unstable();
        tables.dedup();
        let row = PartRow {
            guards: self.out.add_list(&guards),
            tables: self.out.add_list(&tables),
            always: self.out.add_list(&always),
        };
        self.out.parts.push(row);
    }

    fn atoms_of(&self, root: NodeId, seen: &mut FxHashSet<NodeId>) -> Vec<AtomId> {
        let mut atoms = Vec::new();
        let mut stack = vec![root];
        while let Some(node) = stack.pop() {
            if !seen.insert(node) {
                continue;
            }
            match self.graph.node(node) {
                graph::Node::Atom(atom) => atoms.push(*atom),
                graph::Node::Not(part) => stack.push(*part),
                graph::Node::And(parts) | graph::Node::Or(parts) => stack.extend_from_slice(parts),
                graph::Node::False | graph::Node::True => {}
            }
        }
        atoms
    }

    /// Simplifies the conditions by each kind of event.
    fn programs(&mut self) -> Programs {
        let kind_atoms: Vec<AtomId> = (0..self.graph.atom_count() as AtomId)
            .filter(|&atom| is_kind_test(self.graph.atom(atom)))
            .collect();
        let mut names: Vec<Box<[u8]>> = Vec::new();
        for &atom in &kind_atoms {
            if let Rhs::Values(values) = &self.graph.atom(atom).rhs {
                names.extend(values.iter().filter_map(|value| match value {
                    Literal::Bytes(name) => Some(name.clone()),
                    _ => None,
                }));
            }
        }
        names.sort();
        names.dedup();

        let is_kind: FxHashSet<AtomId> = kind_atoms.iter().copied().collect();
        let mut looks_at_kind = vec![false; self.graph.len()];
        for node in 0..self.graph.len() {
            looks_at_kind[node] = match self.graph.node(node as NodeId) {
                graph::Node::Atom(atom) => is_kind.contains(atom),
                graph::Node::Not(part) => looks_at_kind[*part as usize],
                graph::Node::And(parts) | graph::Node::Or(parts) => {
                    parts.iter().any(|&part| looks_at_kind[part as usize])
                }
                graph::Node::False | graph::Node::True => false,
            };
        }
        let (with, without): (Residual, Residual) = (0..)
            .zip(self.roots.iter().copied())
            .partition(|&(_, root)| looks_at_kind[root as usize]);

        let mut residuals: Vec<Residual> = Vec::new();
        let mut index: FxHashMap<Residual, u32> = FxHashMap::default();
        let mut by_answers: FxHashMap<Vec<Option<bool>>, u32> = FxHashMap::default();
        let mut types = BTreeMap::new();
        for name in names {
            let event = KindOnly(Some(&name));
            let answers: Vec<_> = kind_atoms
                .iter()
                .map(|&atom| Some(crate::engine::general(self.graph.atom(atom), &event)))
                .collect();
            let program = match by_answers.get(&answers) {
                Some(&program) => program,
                None => {
                    let residual = self.residual(&with, &kind_atoms, &answers);
                    let program = *index.entry(residual.clone()).or_insert_with(|| {
                        residuals.push(residual);
                        residuals.len() as u32 - 1
                    });
                    by_answers.insert(answers, program);
                    program
                }
            };
            types.insert(name, program);
        }
        // A kind that no rule names equals no constant; what else it meets is not known.
        let other: Vec<_> = kind_atoms
            .iter()
            .map(|&atom| {
                let test = self.graph.atom(atom);
                match (test.op, test.modifier) {
                    (Op::Eq | Op::In, None) => Some(false),
                    (Op::Ne, None) | (Op::Exists, _) => Some(true),
                    _ => None,
                }
            })
            .collect();
        residuals.push(self.residual(&with, &kind_atoms, &other));
        let absent = KindOnly(None);
        let absent: Vec<_> = kind_atoms
            .iter()
            .map(|&atom| Some(crate::engine::general(self.graph.atom(atom), &absent)))
            .collect();
        residuals.push(self.residual(&with, &kind_atoms, &absent));
        residuals.push(
            without
                .into_iter()
                .filter(|&(_, root)| root != FALSE)
                .collect(),
        );
        Programs { residuals, types }
    }

    fn residual(
        &mut self,
        conditions: &Residual,
        atoms: &[AtomId],
        answers: &[Option<bool>],
    ) -> Residual {
        let known: FxHashMap<AtomId, bool> = atoms
            .iter()
            .zip(answers)
            .filter_map(|(&atom, answer)| Some((atom, (*answer)?)))
            .collect();
        let mut memo = FxHashMap::default();
        conditions
            .iter()
            .map(|&(condition, root)| {
                (
                    condition,
                    self.graph
                        .assume(root, &|atom| known.get(&atom).copied(), &mut memo),
                )
            })
            .filter(|&(_, node)| node != FALSE)
            .collect()
    }

    /// Derives the kernel's filter from the rules that can match on a live agent.
    fn write_filter(&mut self, programs: &Programs, rules: &RuleSet) {
        let of = |residual: &Residual| -> Vec<(&str, NodeId)> {
            residual
                .iter()
                .map(|&(condition, node)| {
                    (
                        &rules.rules[self.out.conditions[condition as usize].rule as usize],
                        node,
                    )
                })
                .filter(|(rule, _)| rule.inactive.is_empty())
                .map(|(rule, node)| (rule.name.as_str(), node))
                .collect()
        };
        let special = programs.residuals.len() - bundle::SPECIAL_PROGRAMS;
        // Live events have a kind, so the program of events without one is left out.
        let (other, every) = (
            of(&programs.residuals[special]),
            of(&programs.residuals[special + 2]),
        );
        let mut any_kind: Vec<String> = other
            .iter()
            .chain(&every)
            .map(|&(name, _)| name.to_owned())
            .collect();
        any_kind.sort();
        any_kind.dedup();
        let mut filter = KernelFilter {
            any_kind,
            ..KernelFilter::default()
        };
        let mut kinds: BTreeMap<&str, Vec<(&str, NodeId)>> = BTreeMap::new();
        // Kinds that can be filtered closer are told of even where no rule names them.
        kinds.extend(
            kernel_filter::OPENS
                .iter()
                .chain(&kernel_filter::CONNECTS)
                .map(|&kind| (kind, other.clone())),
        );
        for (name, &program) in &programs.types {
            if let Ok(name) = str::from_utf8(name) {
                kinds.insert(name, of(&programs.residuals[program as usize]));
            }
        }
        for (name, own) in kinds {
            let rules = own.into_iter().chain(every.iter().copied());
            if let Some(kind) = kernel_filter::derive(&self.graph, name, rules) {
                filter.kinds.insert(name.to_owned(), kind);
            }
        }
        self.out.filter = kernel_filter::encode(&filter);
    }

    fn write_types(&mut self, programs: &Programs) {
        for (name, &program) in &programs.types {
            let name = self.out.add_text(name);
            self.out.types.push(TypeRow { name, program });
        }
        let mut pool = Pool::default();
        let names: Vec<_> = programs
            .types
            .keys()
            .map(|name| &name[..])
            .zip(0..)
            .collect();
        equal::build(&mut pool, names.into_iter());
        self.out.type_index = pool.quads;
    }

    fn write_atoms(&mut self, branches: &Branches) -> Result<(), CompileError> {
        // Constants first: their numbers are final only when all are known.
        let tests: Vec<AtomId> = branches
            .codes
            .iter()
            .filter_map(|code| match code {
                Code::Test(atom) => Some(*atom),
                Code::Shared { .. } => None,
            })
            .collect();
        let mut keys: FxHashMap<AtomId, Vec<KeyRef>> = FxHashMap::default();
        for &atom in &tests {
            let found = keys_of(&mut self.registry, self.graph.atom(atom));
            keys.insert(atom, found);
        }
        let bases = self.registry.key_bases();
        let row_of = |key: KeyRef| bases[key.table as usize] + key.key;
        let mut uses = vec![0_u32; branches.codes.len()];
        let guards = self
            .out
            .parts
            .iter()
            .flat_map(|part| &self.out.lists[part.guards.range()])
            .map(|guard| guard / 2);
        for code in branches.nodes.iter().map(|node| node.atom).chain(guards) {
            uses[code as usize] += 1;
        }
        for (code, uses) in branches.codes.iter().zip(uses) {
            let row = match *code {
                Code::Shared { start, end, depth } => AtomRow {
                    kind: kind::SUB,
                    op: depth,
                    class: 0,
                    once: 0,
                    slot: 0,
                    a: start,
                    b: end,
                },
                Code::Test(atom) => {
                    let test = self.graph.atom(atom);
                    let keys = &keys[&atom];
                    self.out.atom(test, &mut self.registry, keys, row_of)?
                }
            };
            self.out.atoms.push(AtomRow {
                once: u8::from(uses <= 1),
                ..row
            });
        }
        Ok(())
    }
}

struct Programs {
    /// One for each set of kinds; then the three special ones.
    residuals: Vec<Residual>,
    /// Kinds that rules name.
    types: BTreeMap<Box<[u8]>, u32>,
}

/// An event of which only the kind is known.
struct KindOnly<'k>(Option<&'k [u8]>);

impl FieldSource for KindOnly<'_> {
    fn event_type(&self) -> Option<&[u8]> {
        self.0
    }

    fn field<'a>(&'a self, field: Field, _arg: FieldArgRef<'a>) -> Option<Value<'a>> {
        (field == Field::EvtType).then_some(Value::Bytes(self.0?))
    }
}

/// Whether the test is on the kind of event and nothing else.
pub(crate) fn is_kind_test(test: &Test) -> bool {
    matches!(
        &test.lhs,
        Operand::Field(FieldRef {
            field: Field::EvtType,
            arg: FieldArg::None
        })
    ) && !matches!(test.rhs, Rhs::Operand(_))
}

/// The constants that a comparison's row refers to.
fn keys_of(registry: &mut Registry, test: &Test) -> Vec<KeyRef> {
    let Operand::Field(field) = &test.lhs else {
        return Vec::new();
    };
    let mut key = |constant: &Const<'_>| {
        Some(match constant {
            Const::Bytes(bytes) => {
                registry.key(field, Method::EqualBytes, &Needle::Bytes((*bytes).into()))
            }
            Const::Word(class, word) => {
                registry.key(field, registry::equal_method(*class)?, &Needle::Word(*word))
            }
            Const::Ip(address) => registry.key(field, Method::EqualIp, &Needle::Ip(*address)),
        })
    };
    match atoms::form(test) {
        Form::In(constants) => match constants[..] {
            [Const::Word(..)] => Vec::new(),
            _ => constants.iter().filter_map(&mut key).collect(),
        },
        Form::Ne(constant) => key(&constant).into_iter().collect(),
        Form::Contains(text) => {
            vec![registry.key(field, Method::Contains, &Needle::Bytes(text.into()))]
        }
        _ => Vec::new(),
    }
}

impl Builder {
    fn atom(
        &mut self,
        test: &Test,
        registry: &mut Registry,
        keys: &[KeyRef],
        row_of: impl Fn(KeyRef) -> u32,
    ) -> Result<AtomRow, CompileError> {
        let slot = match &test.lhs {
            Operand::Field(field) => registry.slot(field),
            _ => 0,
        };
        let row = |kind, class: Option<Class>, a, b| AtomRow {
            kind,
            op: 0,
            class: class.map_or(0, |class| class as u8),
            once: 0,
            slot,
            a,
            b,
        };
        let split = |word: u64| (word as u32, (word >> 32) as u32);
        let is_in = u8::from(test.op == Op::In);
        Ok(match (atoms::form(test), keys) {
            (Form::Exists, _) => row(kind::EXISTS, None, 0, 0),
            (Form::In(constants), []) if let [Const::Word(class, word)] = constants[..] => {
                let (a, b) = split(word);
                AtomRow {
                    op: is_in,
                    ..row(kind::WORD, Some(class), a, b)
                }
            }
            (Form::In(constants), keys) if constants.len() == keys.len() => match keys {
                [key] => AtomRow {
                    op: is_in,
                    ..row(kind::EQUAL, None, row_of(*key), key.table)
                },
                [first, rest @ ..] if rest.iter().all(|key| key.table == first.table) => {
                    let mut list: Vec<u32> = keys.iter().map(|&key| row_of(key)).collect();
                    list.sort_unstable();
                    let keys = self.add_list(&list);
                    self.sets.push(SetRow {
                        table: first.table,
                        keys,
                    });
                    row(kind::IN, None, self.sets.len() as u32 - 1, 0)
                }
                _ => self.general(test)?,
            },
            (Form::Ne(_), [key]) => row(kind::NOT_EQUAL, None, row_of(*key), key.table),
            (Form::Contains(_), [key]) => row(kind::CONTAINS, None, row_of(*key), key.table),
            (Form::Regex(pattern), _) => self.regex(test, slot, pattern)?,
            (Form::StartsWith(text), _) => {
                let text = self.add_text(text);
                row(kind::STARTS_WITH, None, text.start, text.len)
            }
            (Form::EndsWith(text), _) => {
                let text = self.add_text(text);
                row(kind::ENDS_WITH, None, text.start, text.len)
            }
            (Form::Compare(class, op, word), _) => {
                let (a, b) = split(word);
                let op = match op {
                    Op::Lt => 0,
                    Op::Le => 1,
                    Op::Gt => 2,
                    _ => 3,
                };
                AtomRow {
                    op,
                    ..row(kind::COMPARE, Some(class), a, b)
                }
            }
            _ => self.general(test)?,
        })
    }

    /// A regular expression as an automaton in the bundle; where it would be too large, a general test.
    fn regex(&mut self, test: &Test, slot: u32, pattern: &[u8]) -> Result<AtomRow, CompileError> {
        let general = self.general(test)?;
        let built = dense::Builder::new()
            .configure(
                dense::Config::new()
                    .start_kind(StartKind::Anchored)
                    .accelerate(false)
                    .dfa_size_limit(Some(AUTOMATON_BYTES_MAX))
                    .determinize_size_limit(Some(AUTOMATON_BYTES_MAX)),
            )
            .syntax(
                syntax::Config::new()
                    .unicode(false)
                    .utf8(false)
                    .multi_line(true),
            )
            .thompson(
                thompson::Config::new()
                    .utf8(false)
                    .nfa_size_limit(Some(AUTOMATON_BYTES_MAX)),
            )
            .build(&semantics::regex_pattern(pattern))
            .ok()
            .and_then(|dense| dense.to_sparse().ok());
        Ok(match built {
            None => general,
            Some(automaton) => {
                let span = self.add_blob(&automaton.to_bytes_little_endian());
                self.automata.push(span);
                AtomRow {
                    kind: kind::REGEX,
                    slot,
                    a: self.automata.len() as u32 - 1,
                    b: general.a,
                    ..general
                }
            }
        })
    }

    fn general(&mut self, test: &Test) -> Result<AtomRow, CompileError> {
        let bytes = codec::encode_test(test).ok_or_else(|| CompileError::TransformersTooDeep {
            rule: String::new(),
        })?;
        let span = self.add_blob(&bytes);
        self.tests.push(span);
        let a = self.tests.len() as u32 - 1;
        Ok(AtomRow {
            kind: kind::GENERAL,
            op: 0,
            class: 0,
            once: 0,
            slot: 0,
            a,
            b: 0,
        })
    }

    fn add_texts(&mut self, texts: &[String]) -> Span {
        let spans: Vec<Span> = texts
            .iter()
            .map(|text| self.add_note(text.as_bytes()))
            .collect();
        let start = self.spans.len() as u32;
        self.spans.extend_from_slice(&spans);
        Span {
            start,
            len: spans.len() as u32,
        }
    }
}

/// A digest over everything that decides what the compiled rules do and say.
fn digest(rules: &RuleSet) -> Result<[u8; 32], CompileError> {
    let mut hash = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    for rule in &rules.rules {
        let texts = [&rule.name, &rule.desc, &rule.condition_text, &rule.source];
        for text in texts.into_iter().chain(&rule.tags).chain(&rule.inactive) {
            add(text.as_bytes());
        }
        add(&[rule.priority as u8, u8::from(rule.enabled)]);
        add(&codec::encode_template(&rule.output).ok_or_else(|| too_deep(rule))?);
        let span = match &rule.detection {
            Detection::Event(_) => 0,
            Detection::Sequence { within, .. } => within.as_nanos(),
            Detection::For { hold, .. } => hold.as_nanos(),
        };
        add(&span.to_le_bytes());
        if let Detection::Sequence { by, .. } = &rule.detection {
            let lhs = Operand::Field(by.clone());
            let exists = Test {
                lhs,
                op: Op::Exists,
                modifier: None,
                rhs: Rhs::None,
            };
            add(&codec::encode_test(&exists).ok_or_else(|| too_deep(rule))?);
        }
        for (role, expr) in conditions(rule) {
            add(&role.to_le_bytes());
            digest_expr(expr, &mut add).ok_or_else(|| too_deep(rule))?;
        }
    }
    Ok(hash.finalize().into())
}

fn digest_expr(expr: &Expr, add: &mut impl FnMut(&[u8])) -> Option<()> {
    let (tag, parts) = match expr {
        Expr::Test(test) => {
            add(&codec::encode_test(test)?);
            return Some(());
        }
        Expr::And(parts) => (b"and", &parts[..]),
        Expr::Or(parts) => (b"or ", &parts[..]),
        Expr::Not(part) => (b"not", std::slice::from_ref(&**part)),
    };
    add(tag);
    add(&(parts.len() as u64).to_le_bytes());
    parts.iter().try_for_each(|part| digest_expr(part, add))
}

fn too_deep(rule: &Rule) -> CompileError {
    CompileError::TransformersTooDeep {
        rule: rule.name.clone(),
    }
}
