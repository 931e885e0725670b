//! Conditions simplified by what each kind of event decides.

use std::collections::BTreeMap;

use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    Compiler,
    graph::{self, AtomId, FALSE, NodeId},
};
use crate::{
    FieldArgRef, FieldSource,
    expr::{FieldArg, FieldRef, Literal, Op, Operand, Rhs, Test},
    fields::Field,
    value::Value,
};

/// What is left of conditions for some kinds of event: condition numbers and nodes.
pub(super) type Residual = Vec<(u32, NodeId)>;

pub(super) struct Programs {
    /// One for each set of kinds; then the three special ones.
    pub(super) residuals: Vec<Residual>,
    /// Kinds that rules name.
    pub(super) types: BTreeMap<Box<[u8]>, u32>,
}

impl Compiler {
    /// Simplifies the conditions by each kind of event.
    pub(super) fn programs(&mut self) -> Programs {
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
fn is_kind_test(test: &Test) -> bool {
    matches!(
        &test.lhs,
        Operand::Field(FieldRef {
            field: Field::EvtType,
            arg: FieldArg::None
        })
    ) && !matches!(test.rhs, Rhs::Operand(_))
}
