//! From a comparison's row back to the test that it was made from.

use std::net::IpAddr;

use super::table::Table;
use crate::{
    bundle::{
        Tables,
        rows::{AtomRow, kind},
    },
    compile::atoms::{Class, Method},
    expr::{FieldArg, FieldRef, Literal, Op, Operand, Rhs, Test},
    fields::Field,
    matcher::{Span, range},
};

/// The test that a row was made from.
pub(super) fn restore(rules: &Tables<'_>, tables: &[Table], atom: &AtomRow) -> Option<Test> {
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
