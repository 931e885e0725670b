//! A table of constants as the engine reads it: its layout, and which values its constants compare with.

use crate::{
    bundle::{Tables, rows::TableRow},
    compile::atoms::Method,
    matcher::{
        Span,
        affix::Affix,
        gram::Grams,
        net::Nets,
        range::{self, Bounds},
    },
    value::Value,
};

/// A table of constants, its layout read once.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Table {
    pub(super) slot: u32,
    pub(super) keys: Span,
    pub(super) method: Method,
    pub(super) layout: Layout,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Layout {
    Equal(Span),
    Affix(Affix),
    Grams(Grams),
    Net(Nets),
    Bounds(Bounds),
}

impl Table {
    pub(in crate::engine) fn parse(tables: &Tables<'_>, row: &TableRow) -> Self {
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

/// Whether the table's constants are of the value's type.
#[inline]
pub(super) fn fits(method: Method, value: Value<'_>) -> bool {
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

pub(super) fn ordered(method: Method, value: Value<'_>) -> Option<u64> {
    match (method, value) {
        (Method::BoundUint, Value::Uint(number)) => Some(number),
        (Method::BoundInt, Value::Int(number)) => Some(range::ordered_int(number)),
        _ => None,
    }
}
