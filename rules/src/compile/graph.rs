//! Conditions as one shared graph: equal parts of all rules are one node, so that a macro that a thousand rules use is
//! simplified, estimated and compiled once.
//!
//! Every comparison is either true or false for an event (a value that cannot be extracted makes it false), so the laws of
//! two-valued logic hold and nodes are simplified freely.

use rustc_hash::{FxHashMap, FxHashSet};

use crate::expr::{Expr, Literal, Op, Operand, Rhs, Test};

/// A node's number.
pub type NodeId = u32;
/// A comparison's number.
pub type AtomId = u32;

/// The node that never holds.
pub const FALSE: NodeId = 0;
/// The node that always holds.
pub const TRUE: NodeId = 1;

/// Conditions nested deeper are refused: the passes over them recurse.
pub const DEPTH_MAX: usize = 1_000;

/// One node. Parts of `And` and `Or` are sorted, at least two, without duplicates, and not of the same kind as the node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the definition")]
pub enum Node {
    False,
    True,
    Atom(AtomId),
    Not(NodeId),
    And(Box<[NodeId]>),
    Or(Box<[NodeId]>),
}

/// All conditions.
#[derive(Debug)]
pub struct Graph {
    nodes: Vec<Node>,
    index: FxHashMap<Node, NodeId>,
    atoms: Vec<Test>,
    atom_index: FxHashMap<Test, AtomId>,
}

impl Default for Graph {
    fn default() -> Self {
        let nodes = vec![Node::False, Node::True];
        let index = nodes.iter().cloned().zip([FALSE, TRUE]).collect();
        Self {
            nodes,
            index,
            atoms: Vec::new(),
            atom_index: FxHashMap::default(),
        }
    }
}

impl Graph {
    /// The node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id as usize]
    }

    /// Number of nodes so far.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The comparison.
    pub fn atom(&self, id: AtomId) -> &Test {
        &self.atoms[id as usize]
    }

    /// Number of comparisons so far.
    pub fn atom_count(&self) -> usize {
        self.atoms.len()
    }

    /// Adds a condition; `None` where it is nested deeper than [`DEPTH_MAX`].
    pub fn add(&mut self, expr: &Expr) -> Option<NodeId> {
        self.add_at(expr, 0)
    }

    fn add_at(&mut self, expr: &Expr, depth: usize) -> Option<NodeId> {
        if depth > DEPTH_MAX {
            return None;
        }
        Some(match expr {
            Expr::Test(test) => self.test(test),
            Expr::Not(part) => {
                let part = self.add_at(part, depth + 1)?;
                self.not(part)
            }
            Expr::And(parts) => {
                let parts = parts
                    .iter()
                    .map(|part| self.add_at(part, depth + 1))
                    .collect::<Option<Vec<_>>>()?;
                self.and(parts)
            }
            Expr::Or(parts) => {
                let parts = parts
                    .iter()
                    .map(|part| self.add_at(part, depth + 1))
                    .collect::<Option<Vec<_>>>()?;
                self.or(parts)
            }
        })
    }

    fn intern(&mut self, node: Node) -> NodeId {
        if let Some(&id) = self.index.get(&node) {
            return id;
        }
        let id = self.nodes.len() as NodeId;
        self.nodes.push(node.clone());
        self.index.insert(node, id);
        id
    }

    /// The node of a comparison.
    pub fn test(&mut self, test: &Test) -> NodeId {
        let id = match self.atom_index.get(test) {
            Some(&id) => id,
            None => {
                let id = self.atoms.len() as AtomId;
                self.atoms.push(test.clone());
                self.atom_index.insert(test.clone(), id);
                id
            }
        };
        self.intern(Node::Atom(id))
    }

    /// The opposite.
    pub fn not(&mut self, part: NodeId) -> NodeId {
        match self.nodes[part as usize] {
            Node::False => TRUE,
            Node::True => FALSE,
            Node::Not(inner) => inner,
            _ => self.intern(Node::Not(part)),
        }
    }

    /// All of them.
    pub fn and(&mut self, parts: Vec<NodeId>) -> NodeId {
        let mut flat = Vec::with_capacity(parts.len());
        for part in parts {
            match &self.nodes[part as usize] {
                Node::And(inner) => flat.extend_from_slice(inner),
                _ => flat.push(part),
            }
        }
        match self.settle(flat, FALSE, TRUE) {
            Ok(node) => node,
            Err(parts) => self.intern(Node::And(parts.into())),
        }
    }

    /// Any of them.
    pub fn or(&mut self, parts: Vec<NodeId>) -> NodeId {
        let mut flat = Vec::with_capacity(parts.len());
        for part in parts {
            match &self.nodes[part as usize] {
                Node::Or(inner) => flat.extend_from_slice(inner),
                _ => flat.push(part),
            }
        }
        let flat = self.merge_sets(flat);
        match self.settle(flat, TRUE, FALSE) {
            Ok(node) => node,
            Err(parts) => self.intern(Node::Or(parts.into())),
        }
    }

    /// Sorts and simplifies the parts: `strong` decides alone, `weak` counts for nothing.
    fn settle(
        &self,
        mut parts: Vec<NodeId>,
        strong: NodeId,
        weak: NodeId,
    ) -> Result<NodeId, Vec<NodeId>> {
        parts.sort_unstable();
        parts.dedup();
        parts.retain(|&part| part != weak);
        if parts.first() == Some(&strong) || (strong == TRUE && parts.contains(&TRUE)) {
            return Ok(strong);
        }
        let opposed = parts.iter().any(|&part| match self.nodes[part as usize] {
            Node::Not(inner) => parts.binary_search(&inner).is_ok(),
            _ => false,
        });
        match parts[..] {
            _ if opposed => Ok(strong),
            [] => Ok(weak),
            [only] => Ok(only),
            _ => Err(parts),
        }
    }

    /// `a = x or a in (y, z)` is `a in (x, y, z)`: one look-up instead of several tests.
    fn merge_sets(&mut self, parts: Vec<NodeId>) -> Vec<NodeId> {
        let mut sets: FxHashMap<Operand, Vec<(NodeId, AtomId)>> = FxHashMap::default();
        for &part in &parts {
            if let Node::Atom(atom) = self.nodes[part as usize]
                && is_plain_set(&self.atoms[atom as usize])
            {
                sets.entry(self.atoms[atom as usize].lhs.clone())
                    .or_default()
                    .push((part, atom));
            }
        }
        sets.retain(|_, atoms| atoms.len() > 1);
        if sets.is_empty() {
            return parts;
        }
        let mut merged: FxHashSet<NodeId> = FxHashSet::default();
        let mut result = Vec::new();
        let mut sets: Vec<_> = sets.into_iter().collect();
        sets.sort_unstable_by_key(|(_, atoms)| atoms[0].0);
        for (lhs, mut atoms) in sets {
            atoms.sort_unstable();
            atoms.dedup();
            let mut seen: FxHashSet<Literal> = FxHashSet::default();
            let mut values = Vec::new();
            for &(node, atom) in &atoms {
                merged.insert(node);
                let Rhs::Values(literals) = &self.atoms[atom as usize].rhs else {
                    continue;
                };
                values.extend(
                    literals
                        .iter()
                        .filter(|literal| seen.insert((*literal).clone()))
                        .cloned(),
                );
            }
            result.push(self.test(&Test {
                lhs,
                op: Op::In,
                modifier: None,
                rhs: Rhs::Values(values),
            }));
        }
        result.extend(parts.into_iter().filter(|part| !merged.contains(part)));
        result
    }

    /// The condition with some comparisons decided.
    pub fn assume(
        &mut self,
        node: NodeId,
        known: &impl Fn(AtomId) -> Option<bool>,
        memo: &mut FxHashMap<NodeId, NodeId>,
    ) -> NodeId {
        match &self.nodes[node as usize] {
            Node::False | Node::True => return node,
            Node::Atom(atom) => {
                return match known(*atom) {
                    Some(true) => TRUE,
                    Some(false) => FALSE,
                    None => node,
                };
            }
            _ => {}
        }
        if let Some(&result) = memo.get(&node) {
            return result;
        }
        let result = match self.nodes[node as usize].clone() {
            Node::Not(part) => {
                let changed = self.assume(part, known, memo);
                if changed == part {
                    node
                } else {
                    self.not(changed)
                }
            }
            Node::And(parts) => {
                let changed: Vec<_> = parts
                    .iter()
                    .map(|&part| self.assume(part, known, memo))
                    .collect();
                if changed[..] == parts[..] {
                    node
                } else {
                    self.and(changed)
                }
            }
            Node::Or(parts) => {
                let changed: Vec<_> = parts
                    .iter()
                    .map(|&part| self.assume(part, known, memo))
                    .collect();
                if changed[..] == parts[..] {
                    node
                } else {
                    self.or(changed)
                }
            }
            Node::False | Node::True | Node::Atom(_) => node,
        };
        memo.insert(node, result);
        result
    }

    /// The comparisons that must hold, or must not hold, wherever the condition holds.
    pub fn required(&self, node: NodeId) -> Vec<(AtomId, bool)> {
        let literal = |part: NodeId| match self.nodes[part as usize] {
            Node::Atom(atom) => Some((atom, true)),
            Node::Not(inner) => match self.nodes[inner as usize] {
                Node::Atom(atom) => Some((atom, false)),
                _ => None,
            },
            _ => None,
        };
        match &self.nodes[node as usize] {
            Node::And(parts) => parts.iter().filter_map(|&part| literal(part)).collect(),
            _ => literal(node).into_iter().collect(),
        }
    }
}

/// Whether the test is equality of one scalar field with byte strings, however written.
fn is_plain_set(test: &Test) -> bool {
    let Operand::Field(field) = &test.lhs else {
        return false;
    };
    let Rhs::Values(values) = &test.rhs else {
        return false;
    };
    (test.op == Op::In || test.op == Op::Eq && values.len() == 1)
        && test.modifier.is_none()
        && !field.field.info().list
        && values
            .iter()
            .all(|value| matches!(value, Literal::Bytes(_)))
}
