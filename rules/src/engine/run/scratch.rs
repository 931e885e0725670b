//! The room that evaluations share, and the stamps by which nothing in it is cleared between events.

use crate::{bundle::Tables, matcher::Span, value::Value};

/// Room that evaluations share. Everything in it is stamped with the number of the event that it belongs to,
/// so that nothing is cleared between events.
#[derive(Debug)]
pub struct Scratch {
    pub(super) epoch: u32,
    /// By field: stamp and place in `live`.
    pub(super) slots: Vec<(u32, u32)>,
    /// Values of this event; empty between events, kept for its memory.
    pub(super) live: Vec<Option<Value<'static>>>,
    /// By comparison: twice the stamp, plus the answer.
    pub(super) memo: Vec<u32>,
    /// By partition: stamp of taking part.
    pub(super) parts: Vec<u32>,
    /// By unit: stamp of being a candidate.
    pub(super) units: Vec<u32>,
    /// By table: stamp and what was found.
    pub(super) tables: Vec<(u32, Found)>,
    /// By table: stamp of having named candidates.
    pub(super) looked: Vec<u32>,
    /// By constant: stamp of being contained in the value.
    pub(super) keys: Vec<u32>,
    pub(super) elements: Vec<u32>,
    pub(super) active: Vec<u32>,
    pub(super) candidates: Vec<u32>,
    pub(super) text: Vec<u8>,
}

/// What a table says of the event's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// There is no value.
    Nothing,
    /// There is a value, and it is no constant.
    Other,
    /// This one.
    Key(u32),
    /// Constants of these classes (a bit each) were searched for, and those that are contained are stamped; so many others were
    /// searched for one by one.
    Searched { classes: u8, asked: u8 },
    /// The value is a list; of each element, the constant or [`NO_KEY`], in `elements`.
    Elements(Span),
    /// The value is of another type than the constants, or a list with such an element.
    OtherType,
}

/// An element that is no constant.
pub(super) const NO_KEY: u32 = u32::MAX;

/// The stamp's highest value: `memo` needs a bit for the answer.
const EPOCH_MAX: u32 = u32::MAX >> 1;

impl Scratch {
    pub(in crate::engine) fn new(tables: &Tables<'_>) -> Self {
        Self {
            epoch: 0,
            slots: vec![(0, 0); tables.slots.len()],
            live: Vec::with_capacity(tables.slots.len()),
            memo: vec![0; tables.atoms.len()],
            parts: vec![0; tables.parts.len()],
            units: vec![0; tables.units.len()],
            tables: vec![(0, Found::Nothing); tables.tables.len()],
            looked: vec![0; tables.tables.len()],
            keys: vec![0; tables.keys.len()],
            elements: Vec::with_capacity(64),
            active: Vec::with_capacity(16),
            candidates: Vec::with_capacity(64),
            text: Vec::new(),
        }
    }

    pub(super) fn next_event(&mut self) {
        if self.epoch == EPOCH_MAX {
            self.epoch = 0;
            self.slots.fill((0, 0));
            self.memo.fill(0);
            self.parts.fill(0);
            self.units.fill(0);
            self.tables.fill((0, Found::Nothing));
            self.looked.fill(0);
            self.keys.fill(0);
        }
        self.epoch += 1;
        self.elements.clear();
        self.active.clear();
        self.candidates.clear();
    }
}

/// The vector's memory for values of another event.
pub(super) fn reuse<'b>(mut values: Vec<Option<Value<'_>>>) -> Vec<Option<Value<'b>>> {
    values.clear();
    // SAFETY: both types are the same but for a lifetime, which has no part in their layout, and the vector is empty, so that
    // no value outlives what it borrows from. Collecting anew would keep the memory too, at fifty times the instructions.
    unsafe { std::mem::transmute::<Vec<Option<Value<'_>>>, Vec<Option<Value<'b>>>>(values) }
}

#[cfg(test)]
mod tests {
    use crate::{
        bundle::Bundle,
        compile::CompileOptions,
        engine::{Engine, EngineOptions},
        json_event::JsonEvent,
        loader::{self, LoadOptions, SourceFile},
    };

    #[test]
    fn stamps_start_over_after_the_last_number() {
        let rules = "- rule: r\n  desc: d\n  condition: evt.type = open and (fd.name contains x or proc.name in (a, b, c, d, e, f))\n  \
                     output: o\n  priority: INFO\n";
        let report = loader::load(&[SourceFile::new("t.yaml", rules)], &LoadOptions::default());
        let bundle = Bundle::compile(&report.ruleset, &CompileOptions::default()).unwrap();
        let engine = Engine::new(bundle, EngineOptions::default());
        let meets =
            JsonEvent::parse(r#"{"evt.type": "open", "fd.name": "/x", "proc.name": "z"}"#).unwrap();
        let misses =
            JsonEvent::parse(r#"{"evt.type": "open", "fd.name": "/y", "proc.name": "z"}"#).unwrap();
        let mut scratch = engine.scratch();
        for before in [0, super::EPOCH_MAX - 2] {
            scratch.epoch = before;
            for (event, expected) in [
                (&meets, 1),
                (&misses, 0),
                (&meets, 1),
                (&misses, 0),
                (&meets, 1),
            ] {
                let mut found = Vec::new();
                engine.evaluate(&mut scratch, event, &mut found);
                assert_eq!(found.len(), expected, "after {before}");
            }
        }
    }
}
