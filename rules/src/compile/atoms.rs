//! What a comparison is to the compiler: how the engine answers it, which constants it can be found by, and how often it holds.
//!
//! Nothing here decides what a comparison means: a form is chosen only where it is plain equality, order or search, and
//! the engine falls back to `semantics.rs` where an event's value is not of the expected type.

use std::net::IpAddr;

use crate::{
    expr::{FieldRef, Literal, Op, Operand, Rhs, Test},
    fields::Field,
    matcher::range::{self, Bound},
};

/// How the engine answers a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form<'t> {
    /// By `semantics.rs`.
    General,
    /// Whether there is a value.
    Exists,
    /// Whether the value is one of these.
    In(Vec<Const<'t>>),
    /// Whether there is a value other than this.
    Ne(Const<'t>),
    /// Whether the value starts with this.
    StartsWith(&'t [u8]),
    /// Whether the value ends with this.
    EndsWith(&'t [u8]),
    /// Whether the value contains this.
    Contains(&'t [u8]),
    /// Order of numbers: type, operator, operand.
    Compare(Class, Op, u64),
}

/// A constant of a set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Const<'t> {
    /// Of a byte string.
    Bytes(&'t [u8]),
    /// Of a number.
    Word(Class, u64),
    /// Of an address.
    Ip(IpAddr),
}

/// What a slot's table is keyed by. The types of literals, and so of a field's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are the definition")]
pub enum Class {
    Bytes,
    Uint,
    Int,
    Bool,
    Ip,
}

/// A table of the engine: what it looks for in a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[allow(missing_docs, reason = "named after the operators")]
pub enum Method {
    EqualBytes,
    EqualUint,
    EqualInt,
    EqualIp,
    StartsWith,
    EndsWith,
    PathPrefix,
    Contains,
    ContainsNoCase,
    Net,
    BoundUint,
    BoundInt,
}

/// A constant by which a rule can be found.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "named after the operators")]
pub enum Needle {
    Bytes(Box<[u8]>),
    Word(u64),
    Ip(IpAddr),
    Net(IpAddr, u8),
    Bound(Bound),
}

/// Constants of which at least one must be met wherever the comparison holds.
#[derive(Clone, Debug)]
pub struct Gate {
    /// The field.
    pub field: FieldRef,
    /// The table that finds them.
    pub method: Method,
    /// The constants.
    pub needles: Vec<Needle>,
    /// Estimated share of events in which one is met.
    pub share: f32,
}

/// How the engine answers the comparison.
pub fn form(test: &Test) -> Form<'_> {
    let Operand::Field(_) = &test.lhs else {
        return Form::General;
    };
    if test.modifier.is_some() {
        return Form::General;
    }
    let values = match &test.rhs {
        Rhs::None if test.op == Op::Exists => return Form::Exists,
        Rhs::Values(values) => values,
        _ => return Form::General,
    };
    match (test.op, &values[..]) {
        (Op::In | Op::Eq, values) if test.op == Op::In || values.len() == 1 => {
            match values.iter().map(constant).collect::<Option<Vec<_>>>() {
                Some(mut constants) if !constants.is_empty() => {
                    constants.sort();
                    constants.dedup();
                    Form::In(constants)
                }
                _ => Form::General,
            }
        }
        (Op::Ne, [value]) => constant(value).map_or(Form::General, Form::Ne),
        (Op::StartsWith, [Literal::Bytes(text)]) => Form::StartsWith(text),
        (Op::EndsWith, [Literal::Bytes(text)]) => Form::EndsWith(text),
        (Op::Contains, [Literal::Bytes(text)]) if !text.is_empty() => Form::Contains(text),
        (Op::Lt | Op::Le | Op::Gt | Op::Ge, [Literal::Uint(value)]) => {
            Form::Compare(Class::Uint, test.op, *value)
        }
        (Op::Lt | Op::Le | Op::Gt | Op::Ge, [Literal::Int(value)]) => {
            Form::Compare(Class::Int, test.op, range::ordered_int(*value))
        }
        _ => Form::General,
    }
}

fn constant(literal: &Literal) -> Option<Const<'_>> {
    Some(match literal {
        Literal::Bytes(bytes) => Const::Bytes(bytes),
        Literal::Uint(value) => Const::Word(Class::Uint, *value),
        Literal::Int(value) => Const::Word(Class::Int, *value as u64),
        Literal::Bool(value) => Const::Word(Class::Bool, u64::from(*value)),
        Literal::Ip(address) => Const::Ip(*address),
        Literal::Double(_) | Literal::Net(..) => return None,
    })
}

/// The constants by which a rule that needs the comparison can be found, if there are any.
pub fn gate(test: &Test) -> Option<Gate> {
    let Operand::Field(field) = &test.lhs else {
        return None;
    };
    let Rhs::Values(values) = &test.rhs else {
        return None;
    };
    if values.is_empty() {
        return None;
    }
    let (method, needles) = match test.op {
        Op::Eq | Op::In | Op::Intersects => equality(values)?,
        Op::StartsWith | Op::BStartsWith => (Method::StartsWith, texts(values)?),
        Op::EndsWith => (Method::EndsWith, texts(values)?),
        Op::Contains | Op::BContains => (Method::Contains, texts(values)?),
        Op::IContains => {
            let lower = |needle: Needle| match needle {
                Needle::Bytes(text) => Needle::Bytes(text.to_ascii_lowercase().into()),
                other => other,
            };
            (
                Method::ContainsNoCase,
                texts(values)?.into_iter().map(lower).collect(),
            )
        }
        Op::PMatch => (
            Method::PathPrefix,
            values.iter().map(path_start).collect::<Option<_>>()?,
        ),
        Op::Glob => glob(values)?,
        Op::Lt | Op::Le | Op::Gt | Op::Ge => bound(test.op, values)?,
        Op::Exists | Op::Ne | Op::IGlob | Op::Regex => return None,
    };
    let share = needles
        .iter()
        .map(|needle| share(field.field, method, needle))
        .sum::<f32>()
        .min(1.0);
    Some(Gate {
        field: field.clone(),
        method,
        needles,
        share,
    })
}

/// What a path starts with whose components a `pmatch` pattern is a prefix of, when the path is written plainly: a slash before each component and none behind.
fn path_start(value: &Literal) -> Option<Needle> {
    let Literal::Bytes(pattern) = value else {
        return None;
    };
    let mut start = Vec::with_capacity(pattern.len());
    for component in pattern
        .split(|&byte| byte == b'/')
        .filter(|component| !component.is_empty())
    {
        let literal = literal_start(component);
        start.push(b'/');
        start.extend_from_slice(literal);
        if literal.len() < component.len() {
            break;
        }
    }
    // A slash alone tells nothing.
    (start.len() > 1).then(|| Needle::Bytes(start.into()))
}

fn texts(values: &[Literal]) -> Option<Vec<Needle>> {
    values
        .iter()
        .map(|value| match value {
            Literal::Bytes(text) if !text.is_empty() => Some(Needle::Bytes(text.clone())),
            _ => None,
        })
        .collect()
}

fn equality(values: &[Literal]) -> Option<(Method, Vec<Needle>)> {
    let method = match values[0] {
        Literal::Bytes(_) => Method::EqualBytes,
        Literal::Uint(_) => Method::EqualUint,
        Literal::Int(_) => Method::EqualInt,
        Literal::Ip(_) => Method::EqualIp,
        Literal::Net(..) => Method::Net,
        Literal::Double(_) | Literal::Bool(_) => return None,
    };
    // Addresses and networks in one set are all looked up as networks.
    let nets = values.iter().any(|value| matches!(value, Literal::Net(..)));
    let method = if nets { Method::Net } else { method };
    let needles = values
        .iter()
        .map(|value| {
            Some(match (method, value) {
                (Method::EqualBytes, Literal::Bytes(text)) => Needle::Bytes(text.clone()),
                (Method::EqualUint, Literal::Uint(value)) => Needle::Word(*value),
                (Method::EqualInt, Literal::Int(value)) => Needle::Word(*value as u64),
                (Method::EqualIp, Literal::Ip(address)) => Needle::Ip(*address),
                (Method::Net, Literal::Net(address, len)) => Needle::Net(*address, *len),
                (Method::Net, Literal::Ip(address)) => {
                    Needle::Net(*address, if address.is_ipv4() { 32 } else { 128 })
                }
                _ => return None,
            })
        })
        .collect::<Option<Vec<_>>>()?;
    Some((method, needles))
}

fn bound(op: Op, values: &[Literal]) -> Option<(Method, Vec<Needle>)> {
    let [value] = values else { return None };
    let (method, number) = match value {
        Literal::Uint(value) => (Method::BoundUint, *value),
        Literal::Int(value) => (Method::BoundInt, range::ordered_int(*value)),
        _ => return None,
    };
    let bound = match op {
        Op::Ge => Bound::AtLeast(number),
        Op::Le => Bound::AtMost(number),
        Op::Gt => Bound::AtLeast(number.checked_add(1)?),
        Op::Lt => Bound::AtMost(number.checked_sub(1)?),
        _ => return None,
    };
    Some((method, vec![Needle::Bound(bound)]))
}

/// The part of a pattern before its first special character.
fn literal_start(pattern: &[u8]) -> &[u8] {
    let end = pattern
        .iter()
        .position(|byte| b"*?[\\".contains(byte))
        .unwrap_or(pattern.len());
    &pattern[..end]
}

/// All patterns by their starts, or all by their ends, or all by the longest text inside: whichever is the most telling.
fn glob(values: &[Literal]) -> Option<(Method, Vec<Needle>)> {
    let mut pieces: [(Method, Vec<&[u8]>); 3] = [
        (Method::StartsWith, Vec::new()),
        (Method::EndsWith, Vec::new()),
        (Method::Contains, Vec::new()),
    ];
    for value in values {
        let Literal::Bytes(pattern) = value else {
            return None;
        };
        // A bracket or an escape makes it hard to say where literal text ends; the start is still plain.
        let tricky = pattern.iter().any(|byte| b"[\\".contains(byte));
        pieces[0].1.push(literal_start(pattern));
        let mut parts = pattern.split(|byte| b"*?".contains(byte));
        pieces[1].1.push(if tricky {
            b""
        } else {
            parts.next_back().unwrap_or_default()
        });
        pieces[2].1.push(if tricky {
            b""
        } else {
            pattern
                .split(|byte| b"*?".contains(byte))
                .max_by_key(|part| part.len())
                .unwrap_or_default()
        });
    }
    // A start or an end is cheaper to look up than text inside, so the latter must be clearly longer.
    let worth = |(method, parts): &(Method, Vec<&[u8]>)| {
        let shortest = parts.iter().map(|part| part.len()).min().unwrap_or(0);
        if *method == Method::Contains {
            shortest.saturating_sub(4)
        } else {
            shortest
        }
    };
    let best = pieces
        .into_iter()
        .filter(|piece| piece.1.iter().all(|part| !part.is_empty()))
        .max_by_key(worth)?;
    Some((
        best.0,
        best.1
            .into_iter()
            .map(|part| Needle::Bytes(part.into()))
            .collect(),
    ))
}

/// Fields of which a few values make up most events.
fn is_coarse(field: Field) -> bool {
    let name = field.info().name;
    matches!(
        name,
        "container.id"
            | "container.type"
            | "container.name"
            | "evt.dir"
            | "evt.res"
            | "evt.source"
            | "evt.category"
            | "fd.type"
            | "fd.typechar"
            | "fd.l4proto"
            | "fd.sockfamily"
            | "fd.lip"
            | "user.name"
            | "user.uid"
            | "user.loginuid"
            | "user.loginname"
            | "group.gid"
            | "group.name"
            | "proc.tty"
            | "proc.vpid"
            | "k8s.ns.name"
            | "syscall.type"
    )
}

/// Estimated share of events in which the constant is met. Rough: it only has to order the alternatives of a rule.
fn share(field: Field, method: Method, needle: &Needle) -> f32 {
    match (method, needle) {
        _ if is_coarse(field)
            && matches!(
                method,
                Method::EqualBytes | Method::EqualUint | Method::EqualInt
            ) =>
        {
            0.25
        }
        (Method::EqualBytes, Needle::Bytes(text)) if text.is_empty() => 0.05,
        (Method::EqualBytes, Needle::Bytes(_)) => 0.002,
        (Method::EqualUint | Method::EqualInt, Needle::Word(word)) if *word <= 1 => 0.05,
        (Method::EqualUint | Method::EqualInt | Method::EqualIp, _) => 0.004,
        (Method::StartsWith | Method::PathPrefix, Needle::Bytes(text)) => decay(text, 0.7, 0.004),
        (Method::EndsWith, Needle::Bytes(text)) => decay(text, 0.55, 0.004),
        (Method::Contains | Method::ContainsNoCase, Needle::Bytes(text)) => decay(text, 0.5, 0.003),
        (Method::Net, Needle::Net(_, len)) => 0.8_f32.powi(i32::from(*len)).max(0.004),
        _ => 0.5,
    }
}

fn decay(text: &[u8], base: f32, least: f32) -> f32 {
    base.powi(text.len().min(64) as i32).max(least)
}

/// Estimated share of events in which the comparison holds, and the cost of finding out in nanoseconds.
pub fn estimate(test: &Test) -> (f32, f32) {
    let gate = gate(test).map(|gate| gate.share);
    let coarse = matches!(&test.lhs, Operand::Field(field) if is_coarse(field.field));
    match form(test) {
        Form::Exists => (0.8, 3.0),
        Form::In(constants) if matches!(constants[0], Const::Word(Class::Bool, _)) => (0.3, 3.0),
        Form::In(_) => (gate.unwrap_or(0.1), 4.0),
        Form::Ne(_) => (if coarse { 0.5 } else { 0.95 }, 4.0),
        Form::StartsWith(_) | Form::EndsWith(_) => (gate.unwrap_or(0.2), 5.0),
        Form::Contains(_) => (gate.unwrap_or(0.1), 20.0),
        Form::Compare(..) => (0.5, 3.0),
        Form::General => match test.op {
            Op::Regex | Op::IGlob => (0.1, 80.0),
            Op::Ne => (0.9, 25.0),
            _ => (gate.unwrap_or(0.1), 30.0),
        },
    }
}
