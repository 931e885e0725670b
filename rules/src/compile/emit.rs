//! The compiler's results as the bundle's rows: partitions with their units, kinds of event, the kernel's filter, comparisons.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use super::{
    CompileError, Compiler, atoms,
    branch::{Branches, Code},
    comparison::keys_of,
    gates,
    graph::{AtomId, NodeId},
    parts,
    programs::{Programs, Residual},
    registry::KeyRef,
};
use crate::{
    bundle::{
        self,
        rows::{AtomRow, PartRow, PostRow, TypeRow, UnitRow, kind},
    },
    kernel_filter::{self, KernelFilter},
    matcher::{Pool, equal},
    ruleset::RuleSet,
};

impl Compiler {
    pub(super) fn write_part(
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

    /// Derives the kernel's filter from the rules that can match on a live agent.
    pub(super) fn write_filter(&mut self, programs: &Programs, rules: &RuleSet) {
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
        let devices: BTreeMap<u32, NodeId> = programs
            .types
            .get(&b"device_open"[..])
            .map(|&program| {
                programs.residuals[program as usize]
                    .iter()
                    .copied()
                    .collect()
            })
            .unwrap_or_default();
        for (name, &program) in &programs.types {
            let Ok(name) = str::from_utf8(name) else {
                continue;
            };
            let mut residual = programs.residuals[program as usize].clone();
            if kernel_filter::OPENS.contains(&name) {
                residual.retain(|(condition, open)| {
                    !devices.get(condition).is_some_and(|&device| {
                        kernel_filter::devices::supplies(&self.graph, device, *open)
                    })
                });
            }
            kinds.insert(name, of(&residual));
        }
        for (name, own) in kinds {
            let rules = own.into_iter().chain(every.iter().copied());
            if let Some(kind) = kernel_filter::derive(&self.graph, name, rules) {
                filter.kinds.insert(name.to_owned(), kind);
            }
        }
        self.out.filter = kernel_filter::encode(&filter);
    }

    pub(super) fn write_types(&mut self, programs: &Programs) {
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

    pub(super) fn write_atoms(&mut self, branches: &Branches) -> Result<(), CompileError> {
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
