//! Which constants each condition is found by.
//!
//! A *gate* is a set of comparisons of which at least one must hold wherever the condition holds: one comparison of an `and`,
//! one of every branch of an `or`. A condition whose gate meets nothing is never visited. Conditions have several gates to choose from, and
//! each table that is looked in costs something for every event, so the choice is made for a whole partition: begin with each condition's
//! rarest gate, then close tables whose conditions do nearly as well elsewhere, until closing none helps.

use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    atoms::{self, Method},
    graph::{AtomId, Graph, Node, NodeId},
};
use crate::expr::FieldRef;

/// A table, named by what it looks for.
pub type TableName = (FieldRef, Method);

/// Estimated cost of visiting a unit, besides what its comparisons cost, in nanoseconds.
const UNIT_NS: f32 = 4.0;
/// What a candidate costs more: it must be named first.
const CANDIDATE_NS: f32 = 10.0;
/// Tables with more conditions are not closed together with others for the sake of one.
const SHARED_FEW: usize = 3;
/// So many conditions are not cheaper without their table.
const MANY: usize = 400;

/// Gates of all comparisons, worked out once.
#[derive(Default)]
pub struct Gates {
    known: FxHashMap<AtomId, Vec<(u32, f32)>>,
    costs: FxHashMap<NodeId, (f32, f32)>,
    tables: Vec<TableName>,
    table_index: FxHashMap<TableName, u32>,
}

/// A comparison, and which of its gates.
pub type Chosen = (AtomId, u8);

/// Comparisons, and the estimated share of events that meet one.
type Choice = (f32, Vec<Chosen>);

impl Gates {
    fn of(&mut self, graph: &Graph, atom: AtomId) -> &[(u32, f32)] {
        let Self {
            known,
            tables,
            table_index,
            ..
        } = self;
        known.entry(atom).or_insert_with(|| {
            let gates = atoms::gates(graph.atom(atom));
            gates
                .into_iter()
                .map(|gate| {
                    let name = (gate.field, gate.method);
                    let table = *table_index.entry(name.clone()).or_insert_with(|| {
                        tables.push(name);
                        tables.len() as u32 - 1
                    });
                    (table, gate.share)
                })
                .collect()
        })
    }

    /// Chooses a gate, or none, for each of a partition's conditions.
    pub fn choose(&mut self, graph: &Graph, conditions: &[NodeId]) -> Vec<Option<Vec<Chosen>>> {
        let mut closed: FxHashSet<u32> = FxHashSet::default();
        let mut choices: Vec<_> = conditions
            .iter()
            .map(|&node| self.best(graph, node, &closed))
            .collect();
        loop {
            let mut users: FxHashMap<u32, Vec<usize>> = FxHashMap::default();
            let mut sets: Vec<Vec<u32>> = Vec::new();
            for (index, choice) in choices.iter().enumerate() {
                let mut tables = self.tables_of(graph, choice);
                for &table in &tables {
                    users.entry(table).or_default().push(index);
                }
                // Tables that one condition needs together are of use together only.
                if tables.len() > 1 {
                    tables.truncate(8);
                    sets.push(tables);
                }
            }
            sets.retain_mut(|tables| {
                tables.retain(|table| users[table].len() <= SHARED_FEW);
                tables.len() > 1
            });
            sets.extend(users.keys().map(|&table| vec![table]));
            sets.sort_unstable();
            sets.dedup();
            let mut best: Option<(f32, Vec<u32>)> = None;
            for set in sets {
                let saved: f32 = set
                    .iter()
                    .map(|&table| open_ns(&self.tables[table as usize]))
                    .sum();
                let affected = affected(&users, &set);
                if affected.len() > MANY {
                    continue;
                }
                closed.extend(&set);
                let mut lost = 0.0;
                for user in affected {
                    let without = self.best(graph, conditions[user], &closed);
                    lost += self.cost(graph, conditions[user], &without);
                    lost -= self.cost(graph, conditions[user], &choices[user]);
                }
                closed.retain(|table| !set.contains(table));
                if lost < saved && best.as_ref().is_none_or(|(gain, _)| saved - lost > *gain) {
                    best = Some((saved - lost, set));
                }
            }
            let Some((_, set)) = best else { break };
            closed.extend(&set);
            for user in affected(&users, &set) {
                choices[user] = self.best(graph, conditions[user], &closed);
            }
        }
        choices
            .into_iter()
            .map(|choice| choice.map(|(_, atoms)| atoms))
            .collect()
    }

    fn tables_of(&mut self, graph: &Graph, choice: &Option<Choice>) -> Vec<u32> {
        let chosen = choice.iter().flat_map(|choice| &choice.1);
        let mut tables: Vec<_> = chosen
            .map(|&(atom, gate)| self.of(graph, atom)[usize::from(gate)].0)
            .collect();
        tables.sort_unstable();
        tables.dedup();
        tables
    }

    /// The condition's rarest gate in open tables, where it is better than none.
    fn best(&mut self, graph: &Graph, node: NodeId, closed: &FxHashSet<u32>) -> Option<Choice> {
        let choice = self.rarest(graph, node, true, closed);
        let gated = self.cost(graph, node, &choice);
        choice.filter(|_| gated < UNIT_NS + self.evaluate(graph, node).1)
    }

    /// Estimated cost of a condition with this gate, in nanoseconds for each event.
    fn cost(&mut self, graph: &Graph, node: NodeId, choice: &Option<Choice>) -> f32 {
        let visit = UNIT_NS + self.evaluate(graph, node).1;
        choice
            .as_ref()
            .map_or(visit, |(share, _)| share * (visit + CANDIDATE_NS))
    }

    /// Estimated share of events in which a condition holds, and the cost of finding out in nanoseconds.
    fn evaluate(&mut self, graph: &Graph, node: NodeId) -> (f32, f32) {
        if let Some(&known) = self.costs.get(&node) {
            return known;
        }
        let (parts, conjunction) = match graph.node(node) {
            Node::False => return (0.0, 0.0),
            Node::True => return (1.0, 0.0),
            Node::Atom(atom) => {
                let known = atoms::estimate(graph.atom(*atom));
                self.costs.insert(node, known);
                return known;
            }
            Node::Not(part) => {
                let (share, cost) = self.evaluate(graph, *part);
                return (1.0 - share, cost);
            }
            Node::And(parts) => (parts, true),
            Node::Or(parts) => (parts, false),
        };
        let mut parts: Vec<_> = parts
            .iter()
            .map(|&part| {
                let (share, cost) = self.evaluate(graph, part);
                // How often the next part has to be looked at.
                (if conjunction { share } else { 1.0 - share }, cost)
            })
            .collect();
        parts.sort_by(|a, b| {
            (a.1 / (1.0 - a.0).max(0.001)).total_cmp(&(b.1 / (1.0 - b.0).max(0.001)))
        });
        let (reach, cost) = parts.iter().fold((1.0, 0.0), |(reach, cost), part| {
            (reach * part.0, cost + reach * part.1)
        });
        let known = (if conjunction { reach } else { 1.0 - reach }, cost);
        self.costs.insert(node, known);
        known
    }

    fn rarest(
        &mut self,
        graph: &Graph,
        node: NodeId,
        holds: bool,
        closed: &FxHashSet<u32>,
    ) -> Option<Choice> {
        match (graph.node(node), holds) {
            (Node::Atom(atom), true) => {
                let open = (0..)
                    .zip(self.of(graph, *atom))
                    .find(|(_, (table, _))| !closed.contains(table));
                open.map(|(gate, &(_, share))| (share, vec![(*atom, gate)]))
            }
            (Node::Not(part), _) => self.rarest(graph, *part, !holds, closed),
            (Node::And(parts), true) | (Node::Or(parts), false) => {
                let mut best: Option<Choice> = None;
                for &part in parts {
                    if let Some(choice) = self.rarest(graph, part, holds, closed)
                        && best.as_ref().is_none_or(|best| choice.0 < best.0)
                    {
                        best = Some(choice);
                    }
                }
                best
            }
            (Node::Or(parts), true) | (Node::And(parts), false) => {
                let mut all: Choice = (0.0, Vec::new());
                for &part in parts {
                    let (share, atoms) = self.rarest(graph, part, holds, closed)?;
                    all.0 += share;
                    all.1.extend(atoms);
                }
                all.1.sort_unstable();
                all.1.dedup();
                Some(all)
            }
            (Node::Atom(_), false) | (Node::False | Node::True, _) => None,
        }
    }
}

/// Conditions that use one of the tables.
fn affected(users: &FxHashMap<u32, Vec<usize>>, set: &[u32]) -> Vec<usize> {
    let mut affected: Vec<_> = set
        .iter()
        .flat_map(|table| &users[table])
        .copied()
        .collect();
    affected.sort_unstable();
    affected.dedup();
    affected
}

/// Estimated cost of one look-up in a table, in nanoseconds.
fn open_ns((field, method): &TableName) -> f32 {
    let long = matches!(
        field.field.info().name,
        "proc.cmdline" | "proc.args" | "proc.pcmdline" | "evt.args" | "proc.env" | "proc.exeline"
    );
    match method {
        Method::EqualBytes | Method::EqualUint | Method::EqualInt | Method::EqualIp => 9.0,
        Method::BoundUint | Method::BoundInt => 7.0,
        Method::StartsWith | Method::EndsWith | Method::PathPrefix | Method::Net => 14.0,
        Method::Contains if long => 110.0,
        Method::Contains => 50.0,
        Method::ContainsNoCase if long => 160.0,
        Method::ContainsNoCase => 90.0,
    }
}
