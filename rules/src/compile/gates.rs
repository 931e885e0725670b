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

/// Estimated cost of visiting a candidate, in nanoseconds.
const VISIT_NS: f32 = 15.0;
/// Estimated cost of evaluating a condition that has no gate.
const UNGATED_NS: f32 = 7.0;

/// Gates of all comparisons, worked out once.
#[derive(Default)]
pub struct Gates {
    known: FxHashMap<AtomId, Vec<(u32, f32)>>,
    tables: Vec<TableName>,
    table_index: FxHashMap<TableName, u32>,
}

/// A comparison, and which of its gates.
pub type Chosen = (AtomId, u8);

/// Comparisons, and the estimated share of events that meet one.
type Choice = (f32, Vec<Chosen>);

impl Gates {
    fn of(&mut self, graph: &Graph, atom: AtomId) -> &[(u32, f32)] {
        let Self { known, tables, table_index } = self;
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
            // What each table's conditions would cost without it.
            let mut users: FxHashMap<u32, Vec<usize>> = FxHashMap::default();
            for (index, choice) in choices.iter().enumerate() {
                let mut tables: Vec<_> = choice
                    .iter()
                    .flat_map(|choice| &choice.1)
                    .map(|&(atom, gate)| self.of(graph, atom)[usize::from(gate)].0)
                    .collect();
                tables.sort_unstable();
                tables.dedup();
                for table in tables {
                    users.entry(table).or_default().push(index);
                }
            }
            let mut best: Option<(f32, u32)> = None;
            let mut names: Vec<_> = users.iter().collect();
            names.sort_unstable();
            for (&table, users) in names {
                let saved = open_ns(&self.tables[table as usize]);
                // So many conditions cannot be dearer elsewhere by less.
                if users.len() as f32 * UNGATED_NS < saved || users.len() < 400 {
                    closed.insert(table);
                    let mut lost = 0.0;
                    for &user in users {
                        lost += cost(&self.best(graph, conditions[user], &closed))
                            - cost(&choices[user]);
                        if lost > saved {
                            break;
                        }
                    }
                    closed.remove(&table);
                    if lost < saved && best.is_none_or(|(gain, _)| saved - lost > gain) {
                        best = Some((saved - lost, table));
                    }
                }
            }
            let Some((_, table)) = best else { break };
            closed.insert(table);
            for &user in &users[&table] {
                choices[user] = self.best(graph, conditions[user], &closed);
            }
        }
        choices
            .into_iter()
            .map(|choice| choice.map(|(_, atoms)| atoms))
            .collect()
    }

    /// The condition's rarest gate in open tables, where it is better than none.
    fn best(&mut self, graph: &Graph, node: NodeId, closed: &FxHashSet<u32>) -> Option<Choice> {
        self.rarest(graph, node, true, closed)
            .filter(|(share, _)| share * VISIT_NS < UNGATED_NS)
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
                let open = (0..).zip(self.of(graph, *atom)).find(|(_, (table, _))| !closed.contains(table));
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

fn cost(choice: &Option<Choice>) -> f32 {
    choice
        .as_ref()
        .map_or(UNGATED_NS, |(share, _)| share * VISIT_NS)
}

/// Estimated cost of one look-up in a table, in nanoseconds.
fn open_ns((field, method): &TableName) -> f32 {
    let long = matches!(
        field.field.info().name,
        "proc.cmdline" | "proc.args" | "proc.pcmdline" | "evt.args" | "proc.env" | "proc.exeline"
    );
    match method {
        Method::EqualBytes | Method::EqualUint | Method::EqualInt | Method::EqualIp => 7.0,
        Method::BoundUint | Method::BoundInt => 7.0,
        Method::StartsWith | Method::EndsWith | Method::PathPrefix | Method::Net => 14.0,
        Method::Contains if long => 45.0,
        Method::Contains => 25.0,
        Method::ContainsNoCase if long => 80.0,
        Method::ContainsNoCase => 45.0,
    }
}
