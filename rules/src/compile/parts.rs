//! Splits a program's conditions by the comparisons that many of them require.
//!
//! `container.id != host` or `evt.is_open_write = true` stands in many rules; where it does not hold, those rules need no look-ups at all.
//! The split is on coarse comparisons only: rare ones do better as gates.

use rustc_hash::FxHashMap;

use super::{
    atoms,
    graph::{AtomId, FALSE, Graph, NodeId},
};

/// Conditions that share required comparisons.
pub struct Part {
    /// The comparisons, and whether each must hold or must not.
    pub guards: Vec<(AtomId, bool)>,
    /// Condition numbers and what is left of each when the guards are as they must be.
    pub conditions: Vec<(u32, NodeId)>,
}

/// More parts cost more than they save.
const PARTS_MAX: usize = 6;
/// A comparison dearer than this is no guard.
const GUARD_NS_MAX: f32 = 10.0;
/// A comparison that holds this rarely is a better gate.
const GUARD_SHARE_MIN: f32 = 0.04;
/// One that holds this often keeps nothing out.
const GUARD_SHARE_MAX: f32 = 0.85;

/// Splits a program's conditions.
pub fn split(graph: &mut Graph, conditions: Vec<(u32, NodeId)>) -> Vec<Part> {
    let mut parts = Vec::new();
    divide(graph, conditions, Vec::new(), &mut parts);
    parts
}

fn divide(
    graph: &mut Graph,
    conditions: Vec<(u32, NodeId)>,
    guards: Vec<(AtomId, bool)>,
    parts: &mut Vec<Part>,
) {
    if conditions.is_empty() {
        return;
    }
    let Some(guard) = common(graph, &conditions).filter(|_| parts.len() + 1 < PARTS_MAX) else {
        parts.push(Part { guards, conditions });
        return;
    };
    let (with, without): (Vec<_>, Vec<_>) = conditions
        .into_iter()
        .partition(|&(_, node)| graph.required(node).contains(&guard));
    let mut below = guards.clone();
    let mut left = with;
    // Everything that all of them require is tested once.
    let mut shared = graph.required(left[0].1);
    for &(_, node) in &left[1..] {
        let required = graph.required(node);
        shared.retain(|literal| required.contains(literal));
    }
    shared.retain(|&(atom, _)| atoms::estimate(graph.atom(atom)).1 <= GUARD_NS_MAX);
    shared.sort_by(|a, b| share(graph, *a).total_cmp(&share(graph, *b)));
    for (_, node) in &mut left {
        let known = |atom| {
            shared
                .iter()
                .find(|literal| literal.0 == atom)
                .map(|literal| literal.1)
        };
        *node = graph.assume(*node, &known, &mut FxHashMap::default());
    }
    // What the guards decide against holds for no event here.
    left.retain(|&(_, node)| node != FALSE);
    below.extend(shared);
    divide(graph, left, below, parts);
    divide(graph, without, guards, parts);
}

/// The comparison that keeps the most conditions from being looked at, if one is worth a split.
fn common(graph: &Graph, conditions: &[(u32, NodeId)]) -> Option<(AtomId, bool)> {
    let mut counts: FxHashMap<(AtomId, bool), u32> = FxHashMap::default();
    for &(_, node) in conditions {
        for literal in graph.required(node) {
            *counts.entry(literal).or_default() += 1;
        }
    }
    let mut counts: Vec<_> = counts
        .into_iter()
        .filter(|&(_, count)| count >= 3)
        .collect();
    counts.sort_unstable();
    counts
        .into_iter()
        .filter_map(|(literal, count)| {
            let share = share(graph, literal);
            let fits = atoms::estimate(graph.atom(literal.0)).1 <= GUARD_NS_MAX
                && (GUARD_SHARE_MIN..=GUARD_SHARE_MAX).contains(&share);
            fits.then_some((literal, count as f32 * (1.0 - share)))
        })
        .filter(|&(_, saved)| saved >= 5.0)
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(literal, _)| literal)
}

fn share(graph: &Graph, (atom, holds): (AtomId, bool)) -> f32 {
    let share = atoms::estimate(graph.atom(atom)).0;
    if holds { share } else { 1.0 - share }
}
