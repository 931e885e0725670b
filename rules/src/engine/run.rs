//! The evaluation of one event.

use std::net::IpAddr;

use regex_automata::{
    Anchored, Input,
    dfa::{Automaton, sparse},
};

use super::general::LazyTest;
use crate::{
    FieldArgRef, FieldSource,
    bundle::{
        Tables,
        rows::{AtomRow, NO, TableRow, YES, kind},
    },
    compile::atoms::{Class, Method},
    expr::{FieldArg, FieldRef, Literal, Op, Operand, Rhs, Test},
    fields::Field,
    matcher::{
        PoolRef, Span,
        affix::{self, Affix, End},
        equal,
        gram::{self, Grams},
        net::{self, Nets},
        range::{self, Bounds},
    },
    value::Value,
};

/// A table of constants, its layout read once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    slot: u32,
    keys: Span,
    method: Method,
    layout: Layout,
}

#[derive(Clone, Copy, Debug)]
enum Layout {
    Equal(Span),
    Affix(Affix),
    Grams(Grams),
    Net(Nets),
    Bounds(Bounds),
}

impl Table {
    pub fn parse(tables: &Tables<'_>, row: &TableRow) -> Self {
        const METHODS: [Method; 12] = [
            Method::EqualBytes,
            Method::EqualUint,
            Method::EqualInt,
            Method::EqualIp,
            Method::StartsWith,
            Method::EndsWith,
            Method::PathPrefix,
            Method::Contains,
            Method::ContainsNoCase,
            Method::Net,
            Method::BoundUint,
            Method::BoundInt,
        ];
        let words = tables.words.get(row.layout.range()).unwrap_or_default();
        let method = METHODS
            .into_iter()
            .find(|&method| method as u32 == row.method)
            .unwrap_or(Method::EqualBytes);
        let layout = match method {
            Method::EqualBytes | Method::EqualUint | Method::EqualInt | Method::EqualIp => {
                Layout::Equal(read(words))
            }
            Method::StartsWith | Method::EndsWith | Method::PathPrefix => {
                Layout::Affix(read(words))
            }
            Method::Contains | Method::ContainsNoCase => Layout::Grams(read(words)),
            Method::Net => Layout::Net(read(words)),
            Method::BoundUint | Method::BoundInt => Layout::Bounds(read(words)),
        };
        Self {
            slot: row.slot,
            keys: row.keys,
            method,
            layout,
        }
    }
}

/// A layout from its words; an empty table where there are too few.
fn read<T: bytemuck::Pod + Default>(words: &[u32]) -> T {
    let bytes: &[u8] = bytemuck::cast_slice(words);
    bytes
        .get(..size_of::<T>())
        .map_or_else(T::default, bytemuck::pod_read_unaligned)
}

/// Room that evaluations share. Everything in it is stamped with the number of the event that it belongs to,
/// so that nothing is cleared between events.
#[derive(Debug)]
pub struct Scratch {
    epoch: u32,
    /// By field: stamp and place in `live`.
    slots: Vec<(u32, u32)>,
    /// Values of this event; empty between events, kept for its memory.
    live: Vec<Option<Value<'static>>>,
    /// By comparison: twice the stamp, plus the answer.
    memo: Vec<u32>,
    /// By partition: stamp of taking part.
    parts: Vec<u32>,
    /// By unit: stamp of being a candidate.
    units: Vec<u32>,
    /// By table: stamp and what was found.
    tables: Vec<(u32, Found)>,
    /// By table: stamp of having named candidates.
    looked: Vec<u32>,
    /// By constant: stamp of being contained in the value.
    keys: Vec<u32>,
    elements: Vec<u32>,
    active: Vec<u32>,
    candidates: Vec<u32>,
    text: Vec<u8>,
}

/// What a table says of the event's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
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

/// Sets up to this size are compared one by one where nothing was looked up yet.
const COMPARED_MAX: usize = 4;

/// Searching for one constant costs about an eighth of searching for all of a class, or half where they are long.
const ASKED_MAX: u8 = 8;

/// An element that is no constant.
const NO_KEY: u32 = u32::MAX;

/// The stamp's highest value: `memo` needs a bit for the answer.
const EPOCH_MAX: u32 = u32::MAX >> 1;

impl Scratch {
    pub(super) fn new(tables: &Tables<'_>) -> Self {
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

    fn next_event(&mut self) {
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

    /// Looks the field's value up and makes the units that its constants name candidates. Once an event for each table.
    fn look_up(&mut self, number: u32) {
        let tables = self.tables;
        let table = &tables[number as usize];
        let state = &mut self.scratch.looked[number as usize];
        if std::mem::replace(state, self.epoch) == self.epoch {
            return;
        }
        if matches!(table.layout, Layout::Equal(_)) {
            return match self.found(number) {
                Found::Key(key) => self.post(key),
                Found::Elements(elements) if elements.len > 0 => {
                    for at in elements.range() {
                        let key = self.scratch.elements[at];
                        self.post(key);
                    }
                }
                Found::Elements(_) | Found::OtherType => self.post_all(table),
                Found::Nothing | Found::Other | Found::Searched { .. } => {}
            };
        }
        let Some(value) = self.value(table.slot) else {
            return;
        };
        if fits(table.method, value) {
            return self.name(number, table, value);
        }
        match value {
            // A comparison that a list meets is met by one of its elements.
            Value::List(elements)
                if !elements.is_empty()
                    && elements.iter().all(|&element| fits(table.method, element)) =>
            {
                for &element in elements {
                    self.name(number, table, element);
                }
            }
            _ => self.post_all(table),
        }
    }

    /// Makes all of a table's units candidates: of a value of another type, nothing is known.
    fn post_all(&mut self, table: &Table) {
        for key in table.keys.range() {
            self.post(key as u32);
        }
    }

    /// Makes the units candidates that a value of the table's type names.
    fn name(&mut self, number: u32, table: &Table, value: Value<'a>) {
        match (&table.layout, value) {
            (Layout::Affix(layout), Value::Bytes(bytes)) if table.method == Method::PathPrefix => {
                let pool = self.pool;
                let mut plain = std::mem::take(&mut self.scratch.text);
                let path = plain_path(bytes, &mut plain);
                affix::find(pool, *layout, End::Front, path, |key| self.post(key));
                self.scratch.text = plain;
            }
            (Layout::Affix(layout), Value::Bytes(bytes)) => {
                let end = if table.method == Method::StartsWith {
                    End::Front
                } else {
                    End::Back
                };
                let pool = self.pool;
                affix::find(pool, *layout, end, bytes, |key| self.post(key));
            }
            (Layout::Grams(layout), Value::Bytes(bytes)) => {
                self.search(number, table, layout, bytes);
            }
            (Layout::Net(layout), Value::Ip(address)) => {
                net::find(self.pool, *layout, address, |key| self.post(key));
            }
            (Layout::Bounds(layout), value) => {
                if let Some(number) = ordered(table.method, value) {
                    range::find(self.pool, *layout, number, |key| self.post(key));
                }
            }
            _ => {}
        }
    }

    /// Makes the units of a constant candidates, where their partition takes part.
    #[inline]
    fn post(&mut self, key: u32) {
        let Some(posts) = self
            .rules
            .keys
            .get(key as usize)
            .and_then(|row| self.rules.posts.get(row.posts.range()))
        else {
            return;
        };
        for post in posts {
            if self.scratch.parts[post.part as usize] == self.epoch {
                let stamp = &mut self.scratch.units[post.unit as usize];
                if std::mem::replace(stamp, self.epoch) != self.epoch {
                    self.scratch.candidates.push(post.unit);
                }
            }
        }
    }

    /// The constant that the value is.
    #[inline]
    fn equal(&self, table: &Table, value: Value<'_>) -> Option<u32> {
        let Layout::Equal(index) = table.layout else {
            return None;
        };
        let find = |bytes: &[u8]| {
            let is = |key: u32| {
                self.rules
                    .keys
                    .get(key as usize)
                    .is_some_and(|row| self.rules.bytes(row.text) == bytes)
            };
            equal::find(self.pool, index, bytes, is)
        };
        match value {
            Value::Bytes(bytes) => find(bytes),
            Value::Uint(number) => find(&number.to_le_bytes()),
            Value::Int(number) => find(&number.to_le_bytes()),
            Value::Ip(IpAddr::V4(address)) => find(&address.octets()),
            Value::Ip(IpAddr::V6(address)) => find(&address.octets()),
            Value::Double(_) | Value::Bool(_) | Value::List(_) => None,
        }
    }

    /// Searches a text for all constants of a table, stamps them, and makes their units candidates.
    fn search(&mut self, number: u32, table: &Table, layout: &Grams, text: &[u8]) {
        let mut lower = std::mem::take(&mut self.scratch.text);
        let text = if table.method == Method::ContainsNoCase {
            lower.clear();
            lower.extend_from_slice(text);
            lower.make_ascii_lowercase();
            &lower
        } else {
            text
        };
        for class in 0..gram::CLASS_COUNT {
            self.search_class(layout, class, text, true);
        }
        self.scratch.tables[number as usize] = (
            self.epoch,
            Found::Searched {
                classes: u8::MAX,
                asked: 0,
            },
        );
        self.scratch.text = lower;
    }

    #[inline]
    fn search_class(&mut self, layout: &Grams, class: usize, text: &[u8], posting: bool) {
        let (rules, pool, epoch) = (self.rules, self.pool, self.epoch);
        gram::find_class(pool, layout, class, text, |key, start| {
            let Some(row) = rules.keys.get(key as usize) else {
                return;
            };
            // A stamp may be older than this search, so it does not say that candidates were named.
            let is_known = self.scratch.keys[key as usize] == epoch;
            if (!is_known || posting) && text[start..].starts_with(rules.bytes(row.text)) {
                self.scratch.keys[key as usize] = epoch;
                if posting {
                    self.post(key);
                }
            }
        });
    }

    /// Whether a text contains a constant. The first few that are asked for are searched for one by one, then all of their class;
    /// of long constants, which are searched for faster, the fewer.
    #[inline(never)]
    fn contains(&mut self, atom: &AtomRow, text: &[u8]) -> bool {
        let tables = self.tables;
        let (mut classes, mut asked) = match self.scratch.tables[atom.b as usize] {
            (stamp, Found::Searched { classes, asked }) if stamp == self.epoch => (classes, asked),
            _ => (0, 0),
        };
        let wanted = self.constant(atom.a);
        let class = gram::class_of(wanted.len());
        if classes >> class & 1 == 0 {
            if asked < if class == 0 { ASKED_MAX / 4 } else { ASKED_MAX } {
                asked += 1;
                self.scratch.tables[atom.b as usize] =
                    (self.epoch, Found::Searched { classes, asked });
                let rarest = self.rarest.get(atom.a as usize).copied().unwrap_or(0);
                return gram::contains(text, wanted, usize::from(rarest));
            }
            if let Layout::Grams(layout) = &tables[atom.b as usize].layout {
                self.search_class(layout, class, text, false);
            }
            classes |= 1 << class;
            self.scratch.tables[atom.b as usize] = (self.epoch, Found::Searched { classes, asked });
        }
        self.scratch.keys[atom.a as usize] == self.epoch
    }

    /// What an equality table says of the field's value.
    #[inline(never)]
    fn found(&mut self, number: u32) -> Found {
        let (stamp, found) = self.scratch.tables[number as usize];
        if stamp == self.epoch {
            return found;
        }
        let tables = self.tables;
        let table = &tables[number as usize];
        let found = match self.value(table.slot) {
            None => Found::Nothing,
            Some(Value::List(elements)) => self.found_elements(table, elements),
            Some(value) if !fits(table.method, value) => Found::OtherType,
            Some(value) => self.equal(table, value).map_or(Found::Other, Found::Key),
        };
        self.scratch.tables[number as usize] = (self.epoch, found);
        found
    }

    /// The bytes of a constant.
    #[inline]
    fn constant(&self, key: u32) -> &'a [u8] {
        self.rules
            .keys
            .get(key as usize)
            .map_or(&[], |row| self.rules.bytes(row.text))
    }

    /// The same for one constant, which is compared where nothing was looked up yet: that is cheaper than a look-up.
    #[inline]
    fn found_for(&mut self, atom: &AtomRow) -> Found {
        if self.scratch.tables[atom.b as usize].0 != self.epoch
            && let Some(Value::Bytes(value)) = self.value(atom.slot)
            && self.tables[atom.b as usize].method == Method::EqualBytes
        {
            let wanted = self
                .rules
                .keys
                .get(atom.a as usize)
                .map_or(&b""[..], |row| self.rules.bytes(row.text));
            return if value == wanted {
                Found::Key(atom.a)
            } else {
                Found::Other
            };
        }
        self.found(atom.b)
    }

    fn found_elements(&mut self, table: &Table, elements: &[Value<'_>]) -> Found {
        if !elements.iter().all(|&element| fits(table.method, element)) {
            return Found::OtherType;
        }
        let start = self.scratch.elements.len() as u32;
        for &element in elements {
            let key = self.equal(table, element).unwrap_or(NO_KEY);
            self.scratch.elements.push(key);
        }
        Found::Elements(Span {
            start,
            len: elements.len() as u32,
        })
    }

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
    fn holds(&mut self, entry: u32) -> bool {
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
    fn atom(&mut self, number: u32) -> bool {
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
        restore(self.rules, self.tables, atom)
            .is_some_and(|test| super::general(&test, self.source))
    }
}

/// Whether the table's constants are of the value's type.
#[inline]
fn fits(method: Method, value: Value<'_>) -> bool {
    match method {
        Method::EqualBytes
        | Method::StartsWith
        | Method::EndsWith
        | Method::PathPrefix
        | Method::Contains
        | Method::ContainsNoCase => matches!(value, Value::Bytes(_)),
        Method::EqualUint | Method::BoundUint => matches!(value, Value::Uint(_)),
        Method::EqualInt | Method::BoundInt => matches!(value, Value::Int(_)),
        Method::EqualIp | Method::Net => matches!(value, Value::Ip(_)),
    }
}

/// The path with one slash before each component and none behind; as it is, where it is written so.
fn plain_path<'p>(path: &'p [u8], room: &'p mut Vec<u8>) -> &'p [u8] {
    let is_plain = path.starts_with(b"/") && !path.windows(2).any(|pair| pair == b"//");
    if is_plain {
        return path;
    }
    room.clear();
    for component in path
        .split(|&byte| byte == b'/')
        .filter(|component| !component.is_empty())
    {
        room.push(b'/');
        room.extend_from_slice(component);
    }
    room
}

fn ordered(method: Method, value: Value<'_>) -> Option<u64> {
    match (method, value) {
        (Method::BoundUint, Value::Uint(number)) => Some(number),
        (Method::BoundInt, Value::Int(number)) => Some(range::ordered_int(number)),
        _ => None,
    }
}

/// The test that a row was made from.
fn restore(rules: &Tables<'_>, tables: &[Table], atom: &AtomRow) -> Option<Test> {
    let slot = rules.slots.get(atom.slot as usize)?;
    let arg = match slot.arg_kind {
        0 => FieldArg::None,
        1 => FieldArg::Index(slot.index),
        _ => FieldArg::Key(rules.str(slot.key).into()),
    };
    let field = FieldRef {
        field: Field::from_index(usize::from(slot.field))?,
        arg,
    };
    let literal = |key: u32, table: u32| {
        let bytes = rules.bytes(rules.keys.get(key as usize)?.text);
        let word = || Some(u64::from_le_bytes(bytes.try_into().ok()?));
        Some(match tables.get(table as usize)?.method {
            Method::EqualUint => Literal::Uint(word()?),
            Method::EqualInt => Literal::Int(word()? as i64),
            Method::EqualIp => match bytes.len() {
                4 => Literal::Ip(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
                _ => Literal::Ip(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
            },
            _ => Literal::Bytes(bytes.into()),
        })
    };
    let word = u64::from(atom.a) | u64::from(atom.b) << 32;
    let text = || {
        Literal::Bytes(
            rules
                .bytes(Span {
                    start: atom.a,
                    len: atom.b,
                })
                .into(),
        )
    };
    let equality = if atom.op == 0 { Op::Eq } else { Op::In };
    let (op, values) = match atom.kind {
        kind::EQUAL => (equality, vec![literal(atom.a, atom.b)?]),
        kind::NOT_EQUAL => (Op::Ne, vec![literal(atom.a, atom.b)?]),
        kind::IN => {
            let set = rules.sets.get(atom.a as usize)?;
            let values = rules
                .list(set.keys)
                .iter()
                .map(|&key| literal(key, set.table))
                .collect::<Option<_>>()?;
            (Op::In, values)
        }
        kind::STARTS_WITH => (Op::StartsWith, vec![text()]),
        kind::ENDS_WITH => (Op::EndsWith, vec![text()]),
        kind::CONTAINS => (Op::Contains, vec![literal(atom.a, atom.b)?]),
        kind::WORD if atom.class == Class::Uint as u8 => (equality, vec![Literal::Uint(word)]),
        kind::WORD if atom.class == Class::Int as u8 => (equality, vec![Literal::Int(word as i64)]),
        kind::WORD => (equality, vec![Literal::Bool(word != 0)]),
        kind::COMPARE => {
            let op = [Op::Lt, Op::Le, Op::Gt, Op::Ge][usize::from(atom.op) & 3];
            let is_int = atom.class == Class::Int as u8;
            (
                op,
                vec![if is_int {
                    Literal::Int(range::ordered_int(word as i64) as i64)
                } else {
                    Literal::Uint(word)
                }],
            )
        }
        _ => return None,
    };
    Some(Test {
        lhs: Operand::Field(field),
        op,
        modifier: None,
        rhs: Rhs::Values(values),
    })
}

/// The vector's memory for values of another event.
fn reuse<'b>(mut values: Vec<Option<Value<'_>>>) -> Vec<Option<Value<'b>>> {
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
