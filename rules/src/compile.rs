//! From checked rules to a bundle.
//!
//! 1. `graph`: all conditions become one graph of shared parts.
//! 2. `programs`: for every kind of event that a rule names, conditions are simplified by what the kind decides. What is left is the kind's
//!    *program*; kinds with equal programs share one. Conditions that do not look at the kind stand in a program of their own that serves every event.
//! 3. `parts`: a program is split by coarse comparisons that many rules require (`container.id != host`).
//! 4. `gates`: each condition gets the constants it is found by; a condition without becomes one that is always visited.
//! 5. `branch`: conditions become steps. 6. `emit`, `comparison`, `registry`, `bundle`: everything becomes tables.
//!
//! Here: the order of these steps, what bounds them, and the rules' own descriptions. `digest` names the source.

use rustc_hash::FxHashSet;

use crate::{
    bundle::{
        self, Builder, Bundle, BundleError, codec,
        rows::{ConditionRow, EVENT, HOLD, ProgramRow, RuleRow},
    },
    expr::{Expr, Literal, Rhs},
    matcher::Span,
    ruleset::{Detection, Rule, RuleSet},
};
use branch::Branches;
use digest::digest;
use graph::{AtomId, Graph, NodeId};
use registry::Registry;

pub(crate) mod atoms;
mod branch;
mod comparison;
mod digest;
mod emit;
mod gates;
pub(crate) mod graph;
mod parts;
mod programs;
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
}

impl Builder {
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
