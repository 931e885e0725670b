//! What tables say of a field's value: which units become candidates, and which constants the value is or contains.

use std::net::IpAddr;

use super::{
    Run,
    scratch::{Found, NO_KEY},
    table::{Layout, Table, fits, ordered},
};
use crate::{
    FieldSource,
    bundle::rows::AtomRow,
    compile::atoms::Method,
    matcher::{
        Span,
        affix::{self, End},
        equal,
        gram::{self, Grams},
        net, range,
    },
    value::Value,
};

/// Searching for one constant costs about an eighth of searching for all of a class, or half where they are long.
const ASKED_MAX: u8 = 8;

impl<'a, S: FieldSource> Run<'a, S> {
    /// Looks the field's value up and makes the units that its constants name candidates. Once an event for each table.
    pub(super) fn look_up(&mut self, number: u32) {
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
    pub(super) fn contains(&mut self, atom: &AtomRow, text: &[u8]) -> bool {
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
    pub(super) fn found(&mut self, number: u32) -> Found {
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
    pub(super) fn constant(&self, key: u32) -> &'a [u8] {
        self.rules
            .keys
            .get(key as usize)
            .map_or(&[], |row| self.rules.bytes(row.text))
    }

    /// The same for one constant, which is compared where nothing was looked up yet: that is cheaper than a look-up.
    #[inline]
    pub(super) fn found_for(&mut self, atom: &AtomRow) -> Found {
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
