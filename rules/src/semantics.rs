//! What a comparison means, for every operator and type.
//!
//! This is the one definition: the reference evaluator uses it for every comparison, the engine for those
//! that it does not specialise, and tests compare the two. The meaning is Falco's:
//!
//! - A field that cannot be extracted makes every comparison false, `!=` included.
//! - A list-valued operand is `in` values if all its elements are, and `intersects` if one is.
//! - A field that stands for several values without being a list (any ancestor, either end of a
//!   connection) satisfies a comparison if one value does; `!=` on either end of a connection asks that
//!   both ends differ.
//! - `oneof`, `anyof` and `allof` count how many values of the right side satisfy the comparison: exactly
//!   one, at least one, or all and at least one.
//!
//! Text is bytes: nothing here asks for UTF-8, and letters other than ASCII's have no case.

mod bytes;
mod glob;
mod path;
mod transform;

use std::{cmp::Ordering, net::IpAddr};

use rustc_hash::FxHashSet;

pub(crate) use bytes::{check_regex, regex_pattern};
pub(crate) use glob::Glob;
pub(crate) use path::PathSet;
pub(crate) use transform::{Computed, evaluate};

use crate::{
    FieldSource,
    expr::{Literal, Modifier, Op, Operand, Rhs, Test},
    fields::Field,
    value::Value,
};
use bytes::BytesTest;

/// A comparison made ready: sets hashed, patterns compiled.
#[derive(Debug)]
pub(crate) struct PreparedTest {
    lhs: Operand,
    /// Whether the left side's list is a list to Falco, and not several values of one field.
    is_list: bool,
    /// Whether `!=` asks for all of several values.
    differs_in_all: bool,
    right: Right,
}

#[derive(Debug)]
enum Right {
    Exists,
    Constant(Leaf),
    /// One comparison for each value beside a modifier.
    Counted(Modifier, Vec<Leaf>),
    Operand(Op, Operand),
}

/// One comparison of a single value with constants.
#[derive(Debug)]
struct Leaf {
    kind: LeafKind,
    /// Whether the operator is `in`, which on a list asks for all elements.
    is_in: bool,
}

#[derive(Debug)]
enum LeafKind {
    Never,
    Bytes(BytesTest),
    Uint(Op, u64),
    UintSet(FxHashSet<u64>),
    Int(Op, i64),
    IntSet(FxHashSet<i64>),
    Double(Op, f64),
    DoubleSet(Vec<f64>),
    Bool(Op, bool),
    BoolSet { with_true: bool, with_false: bool },
    Ip(Op, IpAddr),
    IpSet(FxHashSet<IpAddr>),
    Net(Op, IpAddr, u8),
    NetSet(Vec<(IpAddr, u8)>),
}

impl PreparedTest {
    pub(crate) fn new(test: &Test) -> Self {
        let right = match (&test.rhs, test.modifier) {
            (Rhs::None, _) => Right::Exists,
            (Rhs::Operand(operand), _) => Right::Operand(test.op, operand.clone()),
            (Rhs::Values(values), None) => Right::Constant(Leaf::new(test.op, values)),
            (Rhs::Values(values), Some(modifier)) => Right::Counted(
                modifier,
                values
                    .iter()
                    .map(|value| Leaf::new(test.op, std::slice::from_ref(value)))
                    .collect(),
            ),
        };
        let is_ne = test.op == Op::Ne;
        Self {
            lhs: test.lhs.clone(),
            is_list: is_list(&test.lhs),
            differs_in_all: is_ne && is_either_end(&test.lhs),
            right,
        }
    }

    /// Whether the comparison holds for an event.
    pub(crate) fn holds<S: FieldSource + ?Sized>(&self, source: &S) -> bool {
        match &self.lhs {
            Operand::Field(field) => {
                self.holds_for(source.field(field.field, (&field.arg).into()), source)
            }
            operand => match evaluate(operand, source) {
                None => false,
                Some(Computed::Value(value)) => self.holds_for(Some(value), source),
                Some(Computed::Bytes(bytes)) => self.holds_for(Some(Value::Bytes(&bytes)), source),
                Some(Computed::List(parts)) => {
                    let values: Vec<_> = parts.iter().map(Computed::as_value).collect();
                    self.holds_for(Some(Value::List(&values)), source)
                }
            },
        }
    }

    /// Whether the comparison holds where the left side has this value.
    pub(crate) fn holds_for<S: FieldSource + ?Sized>(
        &self,
        value: Option<Value<'_>>,
        source: &S,
    ) -> bool {
        let Some(value) = value else {
            return false;
        };
        match &self.right {
            Right::Operand(op, operand) => evaluate(operand, source)
                .is_some_and(|right| self.holds_for_operand(*op, value, &right)),
            _ => self.holds_for_value(value),
        }
    }

    /// Whether the comparison holds where the left side has this value and the right side is constant.
    /// False where the right side is another operand.
    pub(crate) fn holds_for_value(&self, value: Value<'_>) -> bool {
        match &self.right {
            Right::Exists => true,
            Right::Constant(leaf) => self.leaf_holds(leaf, value),
            Right::Counted(modifier, leaves) => {
                let holds = |leaf: &&Leaf| self.leaf_holds(leaf, value);
                match modifier {
                    Modifier::OneOf => leaves.iter().filter(holds).count() == 1,
                    Modifier::AnyOf => leaves.iter().any(|leaf| holds(&leaf)),
                    Modifier::AllOf => !leaves.is_empty() && leaves.iter().all(|leaf| holds(&leaf)),
                }
            }
            Right::Operand(..) => false,
        }
    }

    fn leaf_holds(&self, leaf: &Leaf, value: Value<'_>) -> bool {
        let Value::List(values) = value else {
            return leaf.holds(value);
        };
        let mut values = values.iter();
        if (self.is_list && leaf.is_in) || self.differs_in_all {
            values.all(|value| leaf.holds(*value))
        } else {
            values.any(|value| leaf.holds(*value))
        }
    }

    fn holds_for_operand(&self, op: Op, left: Value<'_>, right: &Computed<'_>) -> bool {
        let right = right.to_literals();
        let leaf = Leaf::new(op, &right);
        self.leaf_holds(&leaf, left)
    }
}

impl Leaf {
    fn new(op: Op, values: &[Literal]) -> Self {
        Self {
            kind: LeafKind::new(op, values),
            is_in: op == Op::In,
        }
    }

    fn holds(&self, value: Value<'_>) -> bool {
        self.kind.holds(value)
    }
}

impl LeafKind {
    fn new(op: Op, values: &[Literal]) -> Self {
        let is_set = matches!(op, Op::In | Op::Intersects);
        let Some(first) = values.first() else {
            return LeafKind::Never;
        };
        match first {
            Literal::Bytes(_) => {
                let strings: Vec<&[u8]> = values
                    .iter()
                    .filter_map(|value| match value {
                        Literal::Bytes(bytes) => Some(&**bytes),
                        _ => None,
                    })
                    .collect();
                BytesTest::new(op, &strings).map_or(LeafKind::Never, LeafKind::Bytes)
            }
            Literal::Uint(_) if is_set => {
                LeafKind::UintSet(values.iter().filter_map(uint).collect())
            }
            Literal::Uint(number) => LeafKind::Uint(op, *number),
            Literal::Int(_) if is_set => LeafKind::IntSet(
                values
                    .iter()
                    .filter_map(|value| match value {
                        Literal::Int(number) => Some(*number),
                        _ => None,
                    })
                    .collect(),
            ),
            Literal::Int(number) => LeafKind::Int(op, *number),
            Literal::Double(_) if is_set => LeafKind::DoubleSet(
                values
                    .iter()
                    .filter_map(|value| match value {
                        Literal::Double(bits) => Some(f64::from_bits(*bits)),
                        _ => None,
                    })
                    .collect(),
            ),
            Literal::Double(bits) => LeafKind::Double(op, f64::from_bits(*bits)),
            Literal::Bool(_) if is_set => LeafKind::BoolSet {
                with_true: values.contains(&Literal::Bool(true)),
                with_false: values.contains(&Literal::Bool(false)),
            },
            Literal::Bool(wanted) => LeafKind::Bool(op, *wanted),
            Literal::Ip(_) if is_set => LeafKind::IpSet(
                values
                    .iter()
                    .filter_map(|value| match value {
                        Literal::Ip(address) => Some(*address),
                        _ => None,
                    })
                    .collect(),
            ),
            Literal::Ip(address) => LeafKind::Ip(op, *address),
            Literal::Net(..) if is_set => LeafKind::NetSet(
                values
                    .iter()
                    .filter_map(|value| match value {
                        Literal::Net(address, len) => Some((*address, *len)),
                        _ => None,
                    })
                    .collect(),
            ),
            Literal::Net(address, len) => LeafKind::Net(op, *address, *len),
        }
    }

    /// A value of another type than the constants' never compares.
    fn holds(&self, value: Value<'_>) -> bool {
        match (self, value) {
            (LeafKind::Bytes(test), Value::Bytes(bytes)) => test.holds(bytes),
            (LeafKind::Uint(op, wanted), Value::Uint(number)) => ordered(*op, &number, wanted),
            (LeafKind::UintSet(set), Value::Uint(number)) => set.contains(&number),
            (LeafKind::Int(op, wanted), Value::Int(number)) => ordered(*op, &number, wanted),
            (LeafKind::IntSet(set), Value::Int(number)) => set.contains(&number),
            (LeafKind::Double(op, wanted), Value::Double(number)) => ordered(*op, &number, wanted),
            (LeafKind::DoubleSet(set), Value::Double(number)) => set.contains(&number),
            (LeafKind::Bool(op, wanted), Value::Bool(is)) => ordered(*op, &is, wanted),
            (
                LeafKind::BoolSet {
                    with_true,
                    with_false,
                },
                Value::Bool(is),
            ) => {
                if is {
                    *with_true
                } else {
                    *with_false
                }
            }
            (LeafKind::Ip(op, wanted), Value::Ip(address)) => ordered(*op, &address, wanted),
            (LeafKind::IpSet(set), Value::Ip(address)) => set.contains(&address),
            (LeafKind::Net(op, net, len), Value::Ip(address)) => {
                net_contains(*net, *len, address) == (*op != Op::Ne)
            }
            (LeafKind::NetSet(nets), Value::Ip(address)) => nets
                .iter()
                .any(|(net, len)| net_contains(*net, *len, address)),
            _ => false,
        }
    }
}

fn uint(value: &Literal) -> Option<u64> {
    match value {
        Literal::Uint(number) => Some(*number),
        _ => None,
    }
}

/// Comparisons by order. `in` with one value is equality.
fn ordered<T: PartialOrd>(op: Op, left: &T, right: &T) -> bool {
    let order = left.partial_cmp(right);
    match op {
        Op::Eq | Op::In | Op::Intersects => order == Some(Ordering::Equal),
        Op::Ne => order != Some(Ordering::Equal),
        Op::Lt => order == Some(Ordering::Less),
        Op::Le => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        Op::Gt => order == Some(Ordering::Greater),
        Op::Ge => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
        _ => false,
    }
}

/// Whether an address lies in a network of the same family.
pub(crate) fn net_contains(net: IpAddr, len: u8, address: IpAddr) -> bool {
    match (net, address) {
        (IpAddr::V4(net), IpAddr::V4(address)) => {
            let mask = u32::MAX
                .checked_shl(32 - u32::from(len.min(32)))
                .unwrap_or(0);
            net.to_bits() & mask == address.to_bits() & mask
        }
        (IpAddr::V6(net), IpAddr::V6(address)) => {
            let mask = u128::MAX
                .checked_shl(128 - u32::from(len.min(128)))
                .unwrap_or(0);
            net.to_bits() & mask == address.to_bits() & mask
        }
        _ => false,
    }
}

fn is_list(operand: &Operand) -> bool {
    match operand {
        Operand::Field(field) => field.field.info().list,
        // Transformers yield lists of their own, or map a list element by element.
        _ => true,
    }
}

fn is_either_end(operand: &Operand) -> bool {
    matches!(operand, Operand::Field(field) if matches!(
        field.field,
        Field::FdIp
            | Field::FdPort
            | Field::FdNet
            | Field::FdProto
            | Field::FdCipName
            | Field::FdSipName
            | Field::FdLipName
            | Field::FdRipName
    ))
}
