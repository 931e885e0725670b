//! The tables of a bundle: building, writing, and checking them when they are read.
//!
//! The checks make sure that conditions end (a node's targets stand after it, shared conditions refer to earlier ones),
//! and that every reference fits. What the tables of `matcher` hold is not checked: a wrong word there makes a look-up miss,
//! and their loops are bounded whatever they hold.

use regex_automata::dfa::sparse;

use super::{
    align, codec,
    rows::{
        AtomRow, ConditionRow, EVENT, HOLD, KeyRow, NO, NodeRow, PartRow, PostRow, ProgramRow,
        RuleRow, SetRow, SlotRow, TableRow, TypeRow, UnitRow, kind,
    },
};
use crate::{
    fields::Field,
    kernel_filter,
    matcher::{Pool, PoolRef, Span},
};

/// Shared conditions nest at most so deep: the engine recurses into them.
pub const SUB_DEPTH_MAX: u8 = 32;

macro_rules! sections {
    ($($(#[$doc:meta])* $name:ident: $row:ty,)*) => {
        /// Tables in the making.
        #[derive(Default)]
        pub(crate) struct Builder { $($(#[$doc])* pub $name: Vec<$row>,)* }

        /// Tables of a loaded bundle.
        #[derive(Clone, Copy)]
        pub(crate) struct Tables<'a> { $($(#[$doc])* pub $name: &'a [$row],)* }

        impl Builder {
            /// What the sections take.
            pub fn size(&self) -> usize {
                0 $(+ size_of_val(&self.$name[..]))*
            }

            /// Appends the directory (start and length in bytes of each section) and the sections.
            pub fn write(&self, bytes: &mut Vec<u8>) {
                let base = bytes.len();
                let count = [$(stringify!($name)),*].len();
                bytes.resize(base + count * 16, 0);
                let mut entry = base;
                $({
                    align(bytes);
                    let start = (bytes.len() - base) as u64;
                    let section: &[u8] = bytemuck::cast_slice(&self.$name);
                    bytes.extend_from_slice(section);
                    bytes[entry..entry + 8].copy_from_slice(&start.to_le_bytes());
                    bytes[entry + 8..entry + 16].copy_from_slice(&(section.len() as u64).to_le_bytes());
                    entry += 16;
                })*
                let _ = entry;
            }
        }

        impl<'a> Tables<'a> {
            fn size(&self) -> usize {
                0 $(+ size_of_val(self.$name))*
            }

            fn read(bytes: &'a [u8]) -> Option<Self> {
                let mut entries = bytes.as_chunks::<8>().0.iter().map(|raw| u64::from_le_bytes(*raw));
                Some(Self { $($name: {
                    let start = usize::try_from(entries.next()?).ok()?;
                    let len = usize::try_from(entries.next()?).ok()?;
                    let section = bytes.get(start..start.checked_add(len)?)?;
                    bytemuck::try_cast_slice(section).ok()?
                },)* })
            }
        }
    };
}

sections! {
    /// Rules, by id.
    rules: RuleRow,
    /// Conditions.
    conditions: ConditionRow,
    /// Fields.
    slots: SlotRow,
    /// Comparisons.
    atoms: AtomRow,
    /// Sets of keys.
    sets: SetRow,
    /// General tests: where each stands in `blob`.
    tests: Span,
    /// Automata: where each stands in `blob`.
    automata: Span,
    /// Steps of conditions.
    nodes: NodeRow,
    /// Units.
    units: UnitRow,
    /// Tables of constants.
    tables: TableRow,
    /// Constants.
    keys: KeyRow,
    /// Candidates by constant.
    posts: PostRow,
    /// Partitions.
    parts: PartRow,
    /// Programs. The last three serve kinds that no rule names, events without a kind, and every event.
    programs: ProgramRow,
    /// Kinds of event that rules name.
    types: TypeRow,
    /// Hash table of `types`.
    type_index: u64,
    /// Numbers that other rows refer to.
    lists: u32,
    /// Texts that rules refer to.
    spans: Span,
    /// 32-bit words of the tables of constants.
    words: u32,
    /// 64-bit words of the tables of constants.
    quads: u64,
    /// Constants, and names of kinds and arguments.
    text: u8,
    /// Encoded tests.
    blob: u8,
    /// What is told of rules: texts and encoded templates.
    notes: u8,
    /// The kernel's filter, encoded.
    filter: u8,
}

/// Programs at the end of `programs` that belong to no kind.
pub(crate) const SPECIAL_PROGRAMS: usize = 3;

impl<'a> Tables<'a> {
    /// Reads and checks; the error names the first thing that is wrong.
    pub fn load(bytes: &'a [u8]) -> Result<Self, &'static str> {
        let tables = Self::read(bytes).ok_or("a section lies outside the file")?;
        tables.check()?;
        Ok(tables)
    }

    pub fn pool(&self) -> PoolRef<'a> {
        PoolRef {
            words: self.words,
            quads: self.quads,
        }
    }

    pub fn list(&self, span: Span) -> &'a [u32] {
        self.lists.get(span.range()).unwrap_or(&[])
    }

    pub fn bytes(&self, span: Span) -> &'a [u8] {
        self.text.get(span.range()).unwrap_or(&[])
    }

    /// Text that was checked on load.
    pub fn str(&self, span: Span) -> &'a str {
        str::from_utf8(self.bytes(span)).unwrap_or_default()
    }

    /// What is told of a rule.
    pub fn note(&self, span: Span) -> &'a [u8] {
        self.notes.get(span.range()).unwrap_or(&[])
    }

    /// What takes part in evaluation, in bytes: all but what is told of rules.
    pub fn index_len(&self) -> usize {
        self.size() - size_of_val(self.notes) - size_of_val(self.rules) - size_of_val(self.spans)
    }

    fn check(&self) -> Result<(), &'static str> {
        self.check_rules()?;
        self.check_conditions()?;
        self.check_constants()?;
        self.check_programs()?;
        ensure(
            kernel_filter::decode(self.filter).is_some(),
            "the kernel's filter cannot be read",
        )
    }

    fn check_rules(&self) -> Result<(), &'static str> {
        for rule in self.rules {
            for text in [
                rule.name,
                rule.desc,
                rule.condition,
                rule.source,
                rule.origin_file,
            ] {
                self.check_note(text)?;
            }
            for texts in [rule.tags, rule.inactive] {
                for &text in self
                    .spans
                    .get(texts.range())
                    .ok_or("a rule's texts are missing")?
                {
                    self.check_note(text)?;
                }
            }
            // Decoded when it is asked for; what cannot be decoded is an empty template then.
            ensure(
                self.notes.get(rule.output.range()).is_some(),
                "a rule's output is missing",
            )?;
            ensure(
                rule.priority < 8 && rule.detection < 3,
                "a rule has an unknown priority or detection",
            )?;
            if rule.detection == 1 {
                ensure(
                    (rule.by as usize) < self.slots.len() && rule.steps >= 2,
                    "a sequence is incomplete",
                )?;
            }
        }
        for slot in self.slots {
            ensure(
                Field::from_index(usize::from(slot.field)).is_some(),
                "a field is unknown",
            )?;
            ensure(slot.arg_kind < 3, "a field's argument is unknown")?;
            self.check_text(slot.key)?;
        }
        Ok(())
    }

    fn check_note(&self, text: Span) -> Result<(), &'static str> {
        let text = self.notes.get(text.range()).ok_or("a text is missing")?;
        ensure(str::from_utf8(text).is_ok(), "a text is not UTF-8")
    }

    fn check_text(&self, text: Span) -> Result<(), &'static str> {
        let text = self.text.get(text.range()).ok_or("a text is missing")?;
        ensure(str::from_utf8(text).is_ok(), "a text is not UTF-8")
    }

    fn check_conditions(&self) -> Result<(), &'static str> {
        for condition in self.conditions {
            let rule = self
                .rules
                .get(condition.rule as usize)
                .ok_or("a condition's rule is missing")?;
            let fits = match condition.role {
                EVENT => rule.detection == 0,
                HOLD => rule.detection == 2,
                step => rule.detection == 1 && step < rule.steps,
            };
            ensure(fits, "a condition does not fit its rule")?;
        }
        for unit in self.units {
            self.check_target(unit.entry)?;
            ensure(
                (unit.condition as usize) < self.conditions.len(),
                "a unit's condition is missing",
            )?;
        }
        for (index, node) in self.nodes.iter().enumerate() {
            ensure(
                (node.atom as usize) < self.atoms.len(),
                "a comparison is missing",
            )?;
            for target in [node.yes, node.no] {
                self.check_target(target)?;
                ensure(target as usize > index, "a condition does not end")?;
            }
        }
        for test in self.tests {
            let test = self.blob.get(test.range()).ok_or("a test is missing")?;
            ensure(codec::decode_test(test).is_some(), "a test cannot be read")?;
        }
        for automaton in self.automata {
            let bytes = self
                .blob
                .get(automaton.range())
                .ok_or("an automaton is missing")?;
            ensure(
                sparse::DFA::from_bytes(bytes).is_ok(),
                "an automaton cannot be read",
            )?;
        }
        for set in self.sets {
            ensure(
                (set.table as usize) < self.tables.len(),
                "a set's table is missing",
            )?;
            let keys = self
                .lists
                .get(set.keys.range())
                .ok_or("a set's keys are missing")?;
            ensure(
                keys.iter().all(|&key| (key as usize) < self.keys.len()),
                "a set's key is missing",
            )?;
        }
        let mut shared = 0_usize;
        for (index, atom) in self.atoms.iter().enumerate() {
            self.check_atom(index, atom)?;
            if atom.kind == kind::SUB {
                // Each has its own nodes, which also bounds what these checks cost.
                shared = shared.saturating_add((atom.b - atom.a) as usize);
                ensure(shared <= self.nodes.len(), "shared conditions overlap")?;
            }
        }
        Ok(())
    }

    fn check_atom(&self, index: usize, atom: &AtomRow) -> Result<(), &'static str> {
        if !matches!(atom.kind, kind::GENERAL | kind::SUB) {
            ensure(
                (atom.slot as usize) < self.slots.len(),
                "a comparison's field is missing",
            )?;
        }
        match atom.kind {
            kind::GENERAL => ensure(
                (atom.a as usize) < self.tests.len(),
                "a comparison's test is missing",
            ),
            kind::REGEX => {
                let fits =
                    (atom.a as usize) < self.automata.len() && (atom.b as usize) < self.tests.len();
                ensure(fits, "a comparison's automaton is missing")
            }
            kind::EXISTS | kind::WORD => Ok(()),
            kind::COMPARE => ensure(atom.op < 4, "a comparison's operator is unknown"),
            kind::IN => ensure(
                (atom.a as usize) < self.sets.len(),
                "a comparison's set is missing",
            ),
            kind::EQUAL | kind::NOT_EQUAL | kind::CONTAINS => {
                let fits =
                    (atom.a as usize) < self.keys.len() && (atom.b as usize) < self.tables.len();
                ensure(fits, "a comparison's constant is missing")
            }
            kind::STARTS_WITH | kind::ENDS_WITH => {
                let text = Span {
                    start: atom.a,
                    len: atom.b,
                };
                ensure(
                    self.text.get(text.range()).is_some(),
                    "a comparison's constant is missing",
                )
            }
            kind::SUB => {
                ensure(atom.a < atom.b, "a shared condition is empty")?;
                ensure(atom.op <= SUB_DEPTH_MAX, "shared conditions nest too deep")?;
                let body = self
                    .nodes
                    .get(atom.a as usize..atom.b as usize)
                    .ok_or("a shared condition is missing")?;
                for node in body {
                    for target in [node.yes, node.no] {
                        ensure(
                            target >= NO || target < atom.b,
                            "a shared condition leaves its nodes",
                        )?;
                    }
                    let inner = &self.atoms[node.atom as usize];
                    if inner.kind == kind::SUB {
                        ensure(
                            (node.atom as usize) < index && inner.op < atom.op,
                            "a shared condition refers to itself",
                        )?;
                    }
                }
                Ok(())
            }
            _ => Err("a comparison's kind is unknown"),
        }
    }

    fn check_target(&self, target: u32) -> Result<(), &'static str> {
        ensure(
            target >= NO || (target as usize) < self.nodes.len(),
            "a condition's step is missing",
        )
    }

    fn check_constants(&self) -> Result<(), &'static str> {
        for table in self.tables {
            ensure(
                (table.slot as usize) < self.slots.len(),
                "a table's field is missing",
            )?;
            ensure(
                self.keys.get(table.keys.range()).is_some(),
                "a table's constants are missing",
            )?;
            ensure(
                self.words.get(table.layout.range()).is_some(),
                "a table's layout is missing",
            )?;
        }
        for key in self.keys {
            ensure(
                self.text.get(key.text.range()).is_some(),
                "a constant is missing",
            )?;
            ensure(
                self.posts.get(key.posts.range()).is_some(),
                "a constant's candidates are missing",
            )?;
        }
        let fits = |post: &PostRow| {
            (post.part as usize) < self.parts.len() && (post.unit as usize) < self.units.len()
        };
        ensure(self.posts.iter().all(fits), "a candidate is missing")
    }

    fn check_programs(&self) -> Result<(), &'static str> {
        ensure(
            self.programs.len() >= SPECIAL_PROGRAMS,
            "a program is missing",
        )?;
        let below = |span: Span, bound: usize| {
            self.lists
                .get(span.range())
                .is_some_and(|list| list.iter().all(|&item| (item as usize) < bound))
        };
        for program in self.programs {
            ensure(
                program.parts.range().end <= self.parts.len(),
                "a partition is missing",
            )?;
            ensure(
                below(program.slots, self.slots.len()),
                "a program's field is missing",
            )?;
            ensure(
                below(program.holds, self.conditions.len()),
                "a program's condition is missing",
            )?;
        }
        for part in self.parts {
            ensure(
                below(part.guards, self.atoms.len().saturating_mul(2)),
                "a guard is missing",
            )?;
            ensure(
                below(part.tables, self.tables.len()),
                "a partition's table is missing",
            )?;
            ensure(
                below(part.always, self.units.len()),
                "a partition's unit is missing",
            )?;
        }
        for kind in self.types {
            ensure(
                self.text.get(kind.name.range()).is_some(),
                "a kind's name is missing",
            )?;
            ensure(
                (kind.program as usize) < self.programs.len(),
                "a kind's program is missing",
            )?;
        }
        Ok(())
    }
}

impl Builder {
    /// Adds text and says where it stands.
    pub fn add_text(&mut self, text: &[u8]) -> Span {
        let start = self.text.len() as u32;
        self.text.extend_from_slice(text);
        Span {
            start,
            len: text.len() as u32,
        }
    }

    /// Adds what is told of a rule and says where it stands.
    pub fn add_note(&mut self, bytes: &[u8]) -> Span {
        let start = self.notes.len() as u32;
        self.notes.extend_from_slice(bytes);
        Span {
            start,
            len: bytes.len() as u32,
        }
    }

    /// Adds encoded bytes and says where they stand.
    pub fn add_blob(&mut self, bytes: &[u8]) -> Span {
        let start = self.blob.len() as u32;
        self.blob.extend_from_slice(bytes);
        Span {
            start,
            len: bytes.len() as u32,
        }
    }

    /// Adds a list and says where it stands.
    pub fn add_list(&mut self, list: &[u32]) -> Span {
        let start = self.lists.len() as u32;
        self.lists.extend_from_slice(list);
        Span {
            start,
            len: list.len() as u32,
        }
    }

    /// Takes over the words of the constants' tables.
    pub fn set_pool(&mut self, pool: Pool) {
        self.words = pool.words;
        self.quads = pool.quads;
    }
}

fn ensure(holds: bool, what: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(what) }
}
