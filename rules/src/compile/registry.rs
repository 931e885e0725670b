//! Fields and constants that the compiled rules refer to, each once.

use rustc_hash::FxHashMap;

use super::{
    atoms::{Class, Method, Needle},
    gates::TableName,
};
use crate::{
    bundle::{
        Builder,
        rows::{KeyRow, PostRow, SlotRow, TableRow},
    },
    expr::{FieldArg, FieldRef, Operand, Rhs, Test},
    matcher::{Pool, Span, affix, equal, gram, net, range},
};

/// A constant: its table, and its number in that table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyRef {
    /// The table.
    pub table: u32,
    /// The constant.
    pub key: u32,
}

#[derive(Default)]
struct Table {
    slot: u32,
    method: Option<Method>,
    needles: Vec<Needle>,
    index: FxHashMap<Needle, u32>,
    posts: Vec<Vec<PostRow>>,
}

/// Fields and tables of constants.
#[derive(Default)]
pub struct Registry {
    slots: Vec<FieldRef>,
    slot_index: FxHashMap<FieldRef, u32>,
    tables: Vec<Table>,
    table_index: FxHashMap<TableName, u32>,
}

impl Registry {
    /// The number of a field.
    pub fn slot(&mut self, field: &FieldRef) -> u32 {
        if let Some(&slot) = self.slot_index.get(field) {
            return slot;
        }
        let slot = self.slots.len() as u32;
        self.slots.push(field.clone());
        self.slot_index.insert(field.clone(), slot);
        slot
    }

    /// The number of a table.
    pub fn table(&mut self, field: &FieldRef, method: Method) -> u32 {
        let name = (field.clone(), method);
        if let Some(&table) = self.table_index.get(&name) {
            return table;
        }
        let slot = self.slot(field);
        let table = self.tables.len() as u32;
        self.tables.push(Table {
            slot,
            method: Some(method),
            ..Table::default()
        });
        self.table_index.insert(name, table);
        table
    }

    /// The number of a constant.
    pub fn key(&mut self, field: &FieldRef, method: Method, needle: &Needle) -> KeyRef {
        let number = self.table(field, method);
        let table = &mut self.tables[number as usize];
        if let Some(&key) = table.index.get(needle) {
            return KeyRef { table: number, key };
        }
        let key = table.needles.len() as u32;
        table.needles.push(needle.clone());
        table.index.insert(needle.clone(), key);
        table.posts.push(Vec::new());
        KeyRef { table: number, key }
    }

    /// Makes a unit a candidate wherever the constant is met.
    pub fn post(&mut self, key: KeyRef, post: PostRow) {
        self.tables[key.table as usize].posts[key.key as usize].push(post);
    }

    /// Numbers of the fields that a test mentions.
    pub fn slots_of(&mut self, test: &Test) -> Vec<u32> {
        let mut slots = Vec::new();
        self.slots_in(&test.lhs, &mut slots);
        if let Rhs::Operand(operand) = &test.rhs {
            self.slots_in(operand, &mut slots);
        }
        slots
    }

    fn slots_in(&mut self, operand: &Operand, slots: &mut Vec<u32>) {
        match operand {
            Operand::Field(field) => slots.push(self.slot(field)),
            Operand::Transform(transform) => transform
                .args
                .iter()
                .for_each(|arg| self.slots_in(arg, slots)),
            Operand::List(operands) => operands
                .iter()
                .for_each(|operand| self.slots_in(operand, slots)),
            Operand::Literal(_) => {}
        }
    }

    /// First key of each table, in the order of tables: what turns a [`KeyRef`] into a row of `keys`.
    pub fn key_bases(&self) -> Vec<u32> {
        let mut next = 0;
        let mut bases = Vec::with_capacity(self.tables.len());
        for table in &self.tables {
            bases.push(next);
            next += table.needles.len() as u32;
        }
        bases
    }

    /// Writes the rows.
    pub fn write(mut self, out: &mut Builder) {
        let mut pool = Pool::default();
        for table in &mut self.tables {
            let base = out.keys.len() as u32;
            for (needle, posts) in table.needles.iter().zip(&mut table.posts) {
                posts.sort_unstable();
                posts.dedup();
                let text = match needle {
                    Needle::Bytes(bytes) => out.add_text(bytes),
                    Needle::Word(word) => out.add_text(&word.to_le_bytes()),
                    Needle::Ip(address) => match address {
                        std::net::IpAddr::V4(address) => out.add_text(&address.octets()),
                        std::net::IpAddr::V6(address) => out.add_text(&address.octets()),
                    },
                    Needle::Net(..) | Needle::Bound(_) => Span::default(),
                };
                let start = out.posts.len() as u32;
                out.posts.extend_from_slice(posts);
                out.keys.push(KeyRow {
                    text,
                    posts: Span {
                        start,
                        len: posts.len() as u32,
                    },
                });
            }
            let texts: Vec<(&[u8], u32)> = (base..out.keys.len() as u32)
                .map(|key| (&out.text[out.keys[key as usize].text.range()], key))
                .collect();
            let Some(method) = table.method else { continue };
            let layout: Vec<u32> =
                match method {
                    Method::EqualBytes | Method::EqualUint | Method::EqualInt | Method::EqualIp => {
                        words(&equal::build(&mut pool, texts.into_iter()))
                    }
                    Method::StartsWith | Method::PathPrefix => words(&affix::build(
                        &mut pool,
                        affix::End::Front,
                        texts.into_iter(),
                    )),
                    Method::EndsWith => words(&affix::build(
                        &mut pool,
                        affix::End::Back,
                        texts.into_iter(),
                    )),
                    Method::Contains | Method::ContainsNoCase => {
                        words(&gram::build(&mut pool, texts.into_iter()))
                    }
                    Method::Net => {
                        let nets =
                            table.needles.iter().zip(base..).filter_map(
                                |(needle, key)| match needle {
                                    Needle::Net(address, len) => Some(((*address, *len), key)),
                                    _ => None,
                                },
                            );
                        words(&net::build(&mut pool, nets))
                    }
                    Method::BoundUint | Method::BoundInt => {
                        let bounds = table.needles.iter().zip(base..).filter_map(
                            |(needle, key)| match needle {
                                Needle::Bound(bound) => Some((*bound, key)),
                                _ => None,
                            },
                        );
                        words(&range::build(&mut pool, bounds))
                    }
                };
            let start = pool.words.len() as u32;
            pool.words.extend_from_slice(&layout);
            out.tables.push(TableRow {
                method: method as u32,
                slot: table.slot,
                keys: Span {
                    start: base,
                    len: table.needles.len() as u32,
                },
                layout: Span {
                    start,
                    len: layout.len() as u32,
                },
            });
        }
        for field in &self.slots {
            let (arg_kind, index, key) = match &field.arg {
                FieldArg::None => (0, 0, Span::default()),
                FieldArg::Index(index) => (1, *index, Span::default()),
                FieldArg::Key(key) => (2, 0, out.add_text(key.as_bytes())),
            };
            out.slots.push(SlotRow {
                field: field.field as u16,
                arg_kind,
                index,
                key,
            });
        }
        out.set_pool(pool);
    }
}

fn words<T: bytemuck::Pod>(layout: &T) -> Vec<u32> {
    bytemuck::cast_slice(std::slice::from_ref(layout)).to_vec()
}

/// The table that finds a constant of a set.
pub fn equal_method(class: Class) -> Option<Method> {
    match class {
        Class::Uint => Some(Method::EqualUint),
        Class::Int => Some(Method::EqualInt),
        Class::Bool => None,
    }
}
