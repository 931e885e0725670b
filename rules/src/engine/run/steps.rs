//! A condition's steps: whether each comparison holds, remembered where several conditions ask.

use regex_automata::{Anchored, Input, dfa::Automaton};

use super::{Run, restore::restore, scratch::Found};
use crate::{
    FieldSource,
    bundle::rows::{AtomRow, NO, YES, kind},
    compile::atoms::{Class, Method},
    engine::general,
    fields::Field,
    matcher::{Span, range},
    value::Value,
};

/// Sets up to this size are compared one by one where nothing was looked up yet.
const COMPARED_MAX: usize = 4;

impl<'a, S: FieldSource> Run<'a, S> {
    /// Whether a list meets `=` or `in`: with one element, or where the field is a list to Falco and the operator is `in`, with all.
    fn elements_in(&self, atom: &AtomRow, elements: Span, is_in: impl Fn(u32) -> bool) -> bool {
        let elements = self
            .scratch
            .elements
            .get(elements.range())
            .unwrap_or_default();
        let slot = &self.rules.slots[atom.slot as usize];
        let is_list =
            Field::from_index(usize::from(slot.field)).is_some_and(|field| field.info().list);
        if is_list && (atom.kind == kind::IN || atom.op == 1) {
            elements.iter().all(|&key| is_in(key))
        } else {
            elements.iter().any(|&key| is_in(key))
        }
    }

    /// Follows a condition's steps. Comparisons are part of this loop; what is long or rare is not.
    #[inline(never)]
    pub(super) fn holds(&mut self, entry: u32) -> bool {
        let mut at = entry;
        while at < NO {
            let node = self.rules.nodes[at as usize];
            at = if self.atom(node.atom) {
                node.yes
            } else {
                node.no
            };
        }
        at == YES
    }

    /// Whether a comparison holds.
    #[inline(always)]
    pub(super) fn atom(&mut self, number: u32) -> bool {
        let rules = self.rules;
        let atom = &rules.atoms[number as usize];
        if atom.once != 0 {
            return self.compare(atom);
        }
        let memo = self.scratch.memo[number as usize];
        if memo >> 1 == self.epoch {
            return memo & 1 != 0;
        }
        let answer = self.compare(atom);
        self.scratch.memo[number as usize] = self.epoch << 1 | u32::from(answer);
        answer
    }

    #[inline(always)]
    fn compare(&mut self, atom: &'a AtomRow) -> bool {
        match atom.kind {
            kind::SUB => self.holds(atom.a),
            kind::EQUAL => match self.found_for(atom) {
                Found::Key(key) => key == atom.a,
                Found::Elements(elements) => self.elements_in(atom, elements, |key| key == atom.a),
                Found::OtherType => self.restored(atom),
                Found::Nothing | Found::Other | Found::Searched { .. } => false,
            },
            kind::NOT_EQUAL => match self.found_for(atom) {
                Found::Key(key) => key != atom.a,
                Found::Other => true,
                Found::Elements(_) | Found::OtherType => self.restored(atom),
                Found::Nothing | Found::Searched { .. } => false,
            },
            kind::IN => {
                let set = self.rules.sets[atom.a as usize];
                let keys = self.rules.list(set.keys);
                if keys.len() <= COMPARED_MAX
                    && self.scratch.tables[set.table as usize].0 != self.epoch
                    && self.tables[set.table as usize].method == Method::EqualBytes
                    && let Some(Value::Bytes(value)) = self.value(atom.slot)
                {
                    return keys.iter().any(|&key| self.constant(key) == value);
                }
                match self.found(set.table) {
                    Found::Key(key) => keys.binary_search(&key).is_ok(),
                    Found::Elements(elements) => {
                        self.elements_in(atom, elements, |key| keys.binary_search(&key).is_ok())
                    }
                    Found::OtherType => self.restored(atom),
                    Found::Nothing | Found::Other | Found::Searched { .. } => false,
                }
            }
            kind::EXISTS => self.value(atom.slot).is_some(),
            kind::STARTS_WITH | kind::ENDS_WITH => {
                let text = self.rules.bytes(Span {
                    start: atom.a,
                    len: atom.b,
                });
                match self.value(atom.slot) {
                    None => false,
                    Some(Value::Bytes(value)) if atom.kind == kind::STARTS_WITH => {
                        value.starts_with(text)
                    }
                    Some(Value::Bytes(value)) => value.ends_with(text),
                    Some(_) => self.restored(atom),
                }
            }
            kind::CONTAINS => match self.value(atom.slot) {
                None => false,
                Some(Value::Bytes(text)) => self.contains(atom, text),
                Some(_) => self.restored(atom),
            },
            kind::WORD | kind::COMPARE => {
                let Some(value) = self.value(atom.slot) else {
                    return false;
                };
                let operand = u64::from(atom.a) | u64::from(atom.b) << 32;
                let number = match value {
                    Value::Uint(number) if atom.class == Class::Uint as u8 => number,
                    Value::Int(number)
                        if atom.class == Class::Int as u8 && atom.kind == kind::WORD =>
                    {
                        number as u64
                    }
                    Value::Int(number) if atom.class == Class::Int as u8 => {
                        range::ordered_int(number)
                    }
                    Value::Bool(value) if atom.class == Class::Bool as u8 => u64::from(value),
                    _ => return self.restored(atom),
                };
                match (atom.kind, atom.op) {
                    (kind::WORD, _) => number == operand,
                    (_, 0) => number < operand,
                    (_, 1) => number <= operand,
                    (_, 2) => number > operand,
                    _ => number >= operand,
                }
            }
            _ => self.long(atom),
        }
    }

    /// A regular expression, or a comparison that only `semantics.rs` knows.
    #[inline(never)]
    fn long(&mut self, atom: &AtomRow) -> bool {
        if atom.kind == kind::REGEX {
            match self.value(atom.slot) {
                None => return false,
                Some(Value::Bytes(text)) => {
                    // Automata without quit bytes answer every search.
                    let input = Input::new(text).anchored(Anchored::Yes).earliest(true);
                    return self.automata[atom.a as usize]
                        .try_search_fwd(&input)
                        .is_ok_and(|end| end.is_some());
                }
                Some(_) => {}
            }
        }
        let test = if atom.kind == kind::REGEX {
            atom.b
        } else {
            atom.a
        };
        self.tests[test as usize].get(self.rules).holds(self.source)
    }

    /// A comparison whose value is of another type than its constants: rebuilt, and left to `semantics.rs`.
    #[cold]
    fn restored(&mut self, atom: &AtomRow) -> bool {
        // A single value of another type never compares.
        if !matches!(self.value(atom.slot), Some(Value::List(_))) {
            return false;
        }
        restore(self.rules, self.tables, atom).is_some_and(|test| general(&test, self.source))
    }
}
