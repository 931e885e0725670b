//! Conditions as steps: test a comparison, go here or there, until the answer is known.
//!
//! Parts of an `and` stand in the order of least expected cost (cost over the chance to fail), those of an `or` likewise. A part that several
//! conditions share and that is worth remembering becomes a comparison of its own, whose answer the engine keeps for the event.

use rustc_hash::FxHashMap;

use super::{
    atoms,
    graph::{AtomId, Graph, Node, NodeId, TRUE},
};
use crate::bundle::{
    SUB_DEPTH_MAX,
    rows::{NO, NodeRow, YES},
};

/// Shared parts with fewer comparisons are repeated: their comparisons are remembered anyhow.
const SHARED_ATOMS_MIN: u32 = 4;

/// A comparison as the engine will see it.
#[derive(Clone, Copy, Debug)]
pub enum Code {
    /// One of the rules' comparisons.
    Test(AtomId),
    /// A shared part: its nodes, and how deep shared parts nest in it.
    Shared {
        /// First node.
        start: u32,
        /// Behind the last node.
        end: u32,
        /// Zero where it holds no other shared part.
        depth: u8,
    },
}

/// The steps of all conditions.
#[derive(Default)]
pub struct Branches {
    /// Steps.
    pub nodes: Vec<NodeRow>,
    /// Comparisons that steps refer to.
    pub codes: Vec<Code>,
    tests: FxHashMap<AtomId, u32>,
    shared: FxHashMap<NodeId, u32>,
    entries: FxHashMap<NodeId, u32>,
    facts: Vec<Option<Facts>>,
}

#[derive(Clone, Copy)]
struct Facts {
    share: f32,
    cost: f32,
    atoms: u32,
    /// How deep shared parts nest, this one included.
    depth: u8,
    is_shared: bool,
}

impl Branches {
    /// Looks at all conditions to come, to know which parts they share.
    pub fn prepare(&mut self, graph: &Graph, roots: &[NodeId]) {
        self.facts.resize(graph.len(), None);
        let mut reached = vec![false; graph.len()];
        let mut uses = vec![0_u32; graph.len()];
        let mut stack: Vec<NodeId> = Vec::new();
        for &root in roots {
            uses[root as usize] += 1;
            stack.push(root);
            while let Some(node) = stack.pop() {
                if std::mem::replace(&mut reached[node as usize], true) {
                    continue;
                }
                for &part in parts(graph, &node) {
                    uses[part as usize] += 1;
                    stack.push(part);
                }
            }
        }
        // Parts have smaller numbers than what holds them.
        for node in 0..graph.len() as NodeId {
            if reached[node as usize] {
                let facts = self.learn(graph, node, uses[node as usize]);
                self.facts[node as usize] = Some(facts);
            }
        }
    }

    fn learn(&self, graph: &Graph, node: NodeId, uses: u32) -> Facts {
        let leaf = |share, cost, atoms| Facts {
            share,
            cost,
            atoms,
            depth: 0,
            is_shared: false,
        };
        let conjunction = match graph.node(node) {
            Node::False => return leaf(0.0, 0.0, 0),
            Node::True => return leaf(1.0, 0.0, 0),
            Node::Atom(atom) => {
                let (share, cost) = atoms::estimate(graph.atom(*atom));
                return leaf(share, cost, 1);
            }
            Node::Not(part) => {
                let part = self.facts(*part);
                return Facts {
                    share: 1.0 - part.share,
                    is_shared: false,
                    ..part
                };
            }
            Node::And(_) => true,
            Node::Or(_) => false,
        };
        let ordered = self.ordered(graph, node);
        let (mut reach, mut cost, mut atoms, mut depth) = (1.0, 0.0, 0_u32, 0);
        for part in ordered {
            let part = self.facts(part);
            cost += reach * part.cost;
            reach *= if conjunction {
                part.share
            } else {
                1.0 - part.share
            };
            atoms = atoms.saturating_add(part.atoms);
            depth = depth.max(part.depth);
        }
        let is_shared = uses >= 2 && atoms >= SHARED_ATOMS_MIN && depth < SUB_DEPTH_MAX;
        let share = if conjunction { reach } else { 1.0 - reach };
        Facts {
            share,
            cost,
            atoms,
            depth: depth + u8::from(is_shared),
            is_shared,
        }
    }

    fn facts(&self, node: NodeId) -> Facts {
        self.facts[node as usize].unwrap_or(Facts {
            share: 0.5,
            cost: 10.0,
            atoms: 1,
            depth: 0,
            is_shared: false,
        })
    }

    fn ordered(&self, graph: &Graph, node: NodeId) -> Vec<NodeId> {
        let conjunction = matches!(graph.node(node), Node::And(_));
        let rank = |part: NodeId| {
            let facts = self.facts(part);
            let decides = if conjunction {
                1.0 - facts.share
            } else {
                facts.share
            };
            facts.cost / decides.max(0.001)
        };
        let mut ordered = parts(graph, &node).to_vec();
        ordered.sort_by(|&a, &b| rank(a).total_cmp(&rank(b)).then(a.cmp(&b)));
        ordered
    }

    /// The number of a comparison, in `codes`.
    pub fn test(&mut self, atom: AtomId) -> u32 {
        *self.tests.entry(atom).or_insert_with(|| {
            self.codes.push(Code::Test(atom));
            self.codes.len() as u32 - 1
        })
    }

    /// Where a condition is entered.
    pub fn entry(&mut self, graph: &Graph, root: NodeId) -> u32 {
        if root == TRUE {
            return YES;
        }
        if let Some(&entry) = self.entries.get(&root) {
            return entry;
        }
        let (entry, _) = self.body(graph, root);
        self.entries.insert(root, entry);
        entry
    }

    /// Writes the steps of a node, and returns the first and the one behind the last.
    fn body(&mut self, graph: &Graph, node: NodeId) -> (u32, u32) {
        // Steps are made last first, so that each knows its targets; `backward` numbers count from the end.
        let mut backward: Vec<NodeRow> = Vec::new();
        let entry = self.emit(graph, node, YES, NO, &mut backward, true);
        let start = self.nodes.len() as u32;
        let last = start + backward.len() as u32 - 1;
        let forward = |target: u32| if target >= NO { target } else { last - target };
        for row in backward.iter().rev() {
            self.nodes.push(NodeRow {
                atom: row.atom,
                yes: forward(row.yes),
                no: forward(row.no),
            });
        }
        debug_assert_eq!(forward(entry), start);
        (start, last + 1)
    }

    fn emit(
        &mut self,
        graph: &Graph,
        node: NodeId,
        yes: u32,
        no: u32,
        backward: &mut Vec<NodeRow>,
        is_root: bool,
    ) -> u32 {
        let atom = match graph.node(node) {
            Node::True => return yes,
            Node::False => return no,
            Node::Not(part) => return self.emit(graph, *part, no, yes, backward, false),
            Node::Atom(atom) => self.test(*atom),
            Node::And(_) | Node::Or(_) if !is_root && self.facts(node).is_shared => {
                self.share(graph, node)
            }
            Node::And(_) => {
                let ordered = self.ordered(graph, node);
                return ordered.iter().rev().fold(yes, |next, &part| {
                    self.emit(graph, part, next, no, backward, false)
                });
            }
            Node::Or(_) => {
                let ordered = self.ordered(graph, node);
                return ordered.iter().rev().fold(no, |next, &part| {
                    self.emit(graph, part, yes, next, backward, false)
                });
            }
        };
        backward.push(NodeRow { atom, yes, no });
        backward.len() as u32 - 1
    }

    /// The number of a shared part, in `codes`.
    fn share(&mut self, graph: &Graph, node: NodeId) -> u32 {
        if let Some(&code) = self.shared.get(&node) {
            return code;
        }
        let (start, end) = self.body(graph, node);
        self.codes.push(Code::Shared {
            start,
            end,
            depth: self.facts(node).depth,
        });
        let code = self.codes.len() as u32 - 1;
        self.shared.insert(node, code);
        code
    }
}

fn parts<'g>(graph: &'g Graph, node: &'g NodeId) -> &'g [NodeId] {
    match graph.node(*node) {
        Node::And(parts) | Node::Or(parts) => parts,
        Node::Not(part) => std::slice::from_ref(part),
        Node::False | Node::True | Node::Atom(_) => &[],
    }
}
