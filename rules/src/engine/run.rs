//! The evaluation of one event: which partitions take part, which of their units are candidates, which of those hold.
//!
//! `table` reads the tables' layouts, `scratch` keeps what evaluations share, `lookup` asks the tables, `steps` follows a condition,
//! and `restore` rebuilds the tests of rare values.

use regex_automata::dfa::sparse;

use super::general::LazyTest;
use crate::{
    FieldArgRef, FieldSource,
    bundle::Tables,
    expr::{FieldArg, FieldRef},
    matcher::{PoolRef, Span},
    value::Value,
};
use scratch::reuse;

pub use scratch::Scratch;
pub(super) use table::Table;

mod lookup;
mod restore;
mod scratch;
mod steps;
mod table;

/// What an engine keeps beside its bundle's tables.
#[derive(Clone, Copy)]
pub(super) struct Parts<'e> {
    pub tables: &'e [Table],
    pub tests: &'e [LazyTest],
    pub automata: &'e [sparse::DFA<Vec<u8>>],
    pub fields: &'e [FieldRef],
    /// By constant: where its rarest byte stands.
    pub rarest: &'e [u16],
}

/// One event's evaluation.
pub(super) struct Run<'a, S> {
    rules: &'a Tables<'a>,
    pool: PoolRef<'a>,
    tables: &'a [Table],
    tests: &'a [LazyTest],
    automata: &'a [sparse::DFA<Vec<u8>>],
    fields: &'a [FieldRef],
    rarest: &'a [u16],
    source: &'a S,
    live: Vec<Option<Value<'a>>>,
    scratch: &'a mut Scratch,
    epoch: u32,
}

impl<'a, S: FieldSource> Run<'a, S> {
    #[inline]
    pub fn begin(
        rules: &'a Tables<'a>,
        parts: Parts<'a>,
        source: &'a S,
        scratch: &'a mut Scratch,
    ) -> Self {
        // A scratch space of another engine would have other sizes.
        if scratch.memo.len() != rules.atoms.len() || scratch.keys.len() != rules.keys.len() {
            *scratch = Scratch::new(rules);
        }
        scratch.next_event();
        let live = reuse(std::mem::take(&mut scratch.live));
        let epoch = scratch.epoch;
        let Parts {
            tables,
            tests,
            automata,
            fields,
            rarest,
        } = parts;
        Self {
            rules,
            pool: rules.pool(),
            tables,
            tests,
            automata,
            fields,
            rarest,
            source,
            live,
            scratch,
            epoch,
        }
    }

    /// Gives the memory back.
    pub fn end(&mut self) {
        self.scratch.live = reuse(std::mem::take(&mut self.live));
    }

    pub fn evaluate(&mut self, parts: &[Span], mut met: impl FnMut(u32)) {
        let rules = self.rules;
        for &parts in parts {
            for part in parts.range() {
                let guards = rules.list(rules.parts[part].guards);
                if guards
                    .iter()
                    .all(|&guard| self.atom(guard >> 1) == (guard & 1 != 0))
                {
                    self.scratch.parts[part] = self.epoch;
                    self.scratch.active.push(part as u32);
                }
            }
        }
        for at in 0..self.scratch.active.len() {
            let part = &rules.parts[self.scratch.active[at] as usize];
            for &table in rules.list(part.tables) {
                self.look_up(table);
            }
        }
        for at in 0..self.scratch.candidates.len() {
            let unit = rules.units[self.scratch.candidates[at] as usize];
            if self.holds(unit.entry) {
                met(unit.condition);
            }
        }
        for at in 0..self.scratch.active.len() {
            let part = &rules.parts[self.scratch.active[at] as usize];
            for &unit in rules.list(part.always) {
                let unit = rules.units[unit as usize];
                if self.holds(unit.entry) {
                    met(unit.condition);
                }
            }
        }
    }

    #[inline]
    fn value(&mut self, slot: u32) -> Option<Value<'a>> {
        let (stamp, at) = self.scratch.slots[slot as usize];
        if stamp == self.epoch {
            return self.live[at as usize];
        }
        self.extract(slot)
    }

    #[inline(never)]
    fn extract(&mut self, slot: u32) -> Option<Value<'a>> {
        let field = &self.fields[slot as usize];
        let arg = match &field.arg {
            FieldArg::None => FieldArgRef::None,
            FieldArg::Index(index) => FieldArgRef::Index(*index),
            FieldArg::Key(key) => FieldArgRef::Key(key),
        };
        let value = self.source.field(field.field, arg);
        self.scratch.slots[slot as usize] = (self.epoch, self.live.len() as u32);
        self.live.push(value);
        value
    }
}
