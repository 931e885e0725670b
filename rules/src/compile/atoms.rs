//! What a comparison is to the compiler: how the engine answers it, which constants it can be found by, and how often it holds.
//!
//! Nothing here decides what a comparison means: a form is chosen only where it is plain equality, order or search, and
//! the engine falls back to `semantics.rs` where an event's value is not of the expected type.

use std::net::IpAddr;

use crate::{
    expr::{FieldRef, Literal, Op, Operand, Rhs, Test},
    fields::Field,
    matcher::range::{self, Bound},
    semantics::regex_pattern,
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
    /// Whether the pattern matches the whole value.
    Regex(&'t [u8]),
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
    Uint,
    Int,
    Bool,
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
        (Op::Regex, [Literal::Bytes(pattern)]) => Form::Regex(pattern),
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

/// The constants by which a rule that needs the comparison can be found: alternatives, the rarest first.
pub fn gates(test: &Test) -> Vec<Gate> {
    let (Operand::Field(field), Rhs::Values(values)) = (&test.lhs, &test.rhs) else {
        return Vec::new();
    };
    let one = |gate: Option<(Method, Vec<Needle>)>| gate.into_iter().collect();
    let found: Vec<(Method, Vec<Needle>)> = match test.op {
        _ if values.is_empty() => Vec::new(),
        Op::Eq | Op::In | Op::Intersects => one(equality(values)),
        Op::StartsWith | Op::BStartsWith => one(texts(Method::StartsWith, values)),
        Op::EndsWith => one(texts(Method::EndsWith, values)),
        Op::Contains | Op::BContains => one(texts(Method::Contains, values)),
        Op::IContains => one(texts(Method::ContainsNoCase, values)),
        Op::PMatch => one(values
            .iter()
            .map(path_start)
            .collect::<Option<_>>()
            .map(|needles| (Method::PathPrefix, needles))),
        Op::Glob => pieces(values, glob_pieces),
        Op::Regex => pieces(values, regex_pieces),
        Op::Lt | Op::Le | Op::Gt | Op::Ge => one(bound(test.op, values)),
        Op::Exists | Op::Ne | Op::IGlob => Vec::new(),
    };
    let mut gates: Vec<Gate> = found
        .into_iter()
        .map(|(method, needles)| {
            let share = needles
                .iter()
                .map(|needle| share(field.field, method, needle))
                .sum::<f32>()
                .min(1.0);
            Gate {
                field: field.clone(),
                method,
                needles,
                share,
            }
        })
        .collect();
    gates.sort_by(|a, b| a.share.total_cmp(&b.share));
    gates
}

/// Texts of which a value has one, where a pattern matches it; by where they stand.
#[derive(Default)]
struct Pieces {
    starts: Option<Vec<Vec<u8>>>,
    ends: Option<Vec<Vec<u8>>>,
    inside: Option<Vec<Vec<u8>>>,
}

/// All patterns by their starts, all by their ends, all by text inside: whichever of these every pattern has.
fn pieces(values: &[Literal], of: impl Fn(&[u8]) -> Pieces) -> Vec<(Method, Vec<Needle>)> {
    let mut all = [
        (Method::StartsWith, Some(Vec::new())),
        (Method::EndsWith, Some(Vec::new())),
        (Method::Contains, Some(Vec::new())),
    ];
    for value in values {
        let pieces = match value {
            Literal::Bytes(pattern) => of(pattern),
            _ => Pieces::default(),
        };
        for ((_, all), own) in all
            .iter_mut()
            .zip([pieces.starts, pieces.ends, pieces.inside])
        {
            let own =
                own.filter(|texts| !texts.is_empty() && texts.iter().all(|text| !text.is_empty()));
            *all = match (all.take(), own) {
                (Some(mut all), Some(own)) => {
                    all.extend(own.into_iter().map(|text| Needle::Bytes(text.into())));
                    Some(all)
                }
                _ => None,
            };
        }
    }
    all.into_iter()
        .filter_map(|(method, needles)| Some((method, needles?)))
        .collect()
}

fn glob_pieces(pattern: &[u8]) -> Pieces {
    let starts = Some(vec![literal_start(pattern).to_vec()]);
    // A bracket or an escape makes it hard to say where literal text ends; the start is still plain.
    if pattern.iter().any(|byte| b"[\\".contains(byte)) {
        return Pieces {
            starts,
            ..Pieces::default()
        };
    }
    let parts = || pattern.split(|byte| b"*?".contains(byte));
    Pieces {
        starts,
        ends: parts().next_back().map(|part| vec![part.to_vec()]),
        inside: parts()
            .max_by_key(|part| part.len())
            .map(|part| vec![part.to_vec()]),
    }
}

fn regex_pieces(pattern: &[u8]) -> Pieces {
    use regex_syntax::{
        ParserBuilder,
        hir::{
            Hir, HirKind,
            literal::{ExtractKind, Extractor},
        },
    };
    // As `semantics.rs` compiles it.
    let parsed = ParserBuilder::new()
        .unicode(false)
        .utf8(false)
        .multi_line(true)
        .build()
        .parse(&regex_pattern(pattern));
    let Ok(parsed) = parsed else {
        return Pieces::default();
    };
    let literals = |kind| {
        let found = Extractor::new().kind(kind).limit_total(32).extract(&parsed);
        found.literals().map(|literals| {
            literals
                .iter()
                .map(|literal| literal.as_bytes().to_vec())
                .collect()
        })
    };
    fn longest(hir: &Hir) -> Option<&[u8]> {
        match hir.kind() {
            HirKind::Literal(literal) => Some(&literal.0),
            HirKind::Concat(parts) => parts
                .iter()
                .filter_map(longest)
                .max_by_key(|text| text.len()),
            HirKind::Capture(capture) => longest(&capture.sub),
            HirKind::Repetition(repetition) if repetition.min > 0 => longest(&repetition.sub),
            _ => None,
        }
    }
    Pieces {
        starts: literals(ExtractKind::Prefix),
        ends: literals(ExtractKind::Suffix),
        inside: longest(&parsed).map(|text| vec![text.to_vec()]),
    }
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

fn texts(method: Method, values: &[Literal]) -> Option<(Method, Vec<Needle>)> {
    let needles = values.iter().map(|value| match value {
        Literal::Bytes(text) if text.is_empty() => None,
        Literal::Bytes(text) if method == Method::ContainsNoCase => {
            Some(Needle::Bytes(text.to_ascii_lowercase().into()))
        }
        Literal::Bytes(text) => Some(Needle::Bytes(text.clone())),
        _ => None,
    });
    Some((method, needles.collect::<Option<_>>()?))
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
    let gate = gates(test).first().map(|gate| gate.share);
    let coarse = matches!(&test.lhs, Operand::Field(field) if is_coarse(field.field));
    match form(test) {
        Form::Exists => (0.8, 5.0),
        Form::In(constants) if matches!(constants[0], Const::Word(Class::Bool, _)) => (0.3, 6.0),
        Form::In(_) => (gate.unwrap_or(0.1), 9.0),
        Form::Ne(_) => (if coarse { 0.5 } else { 0.95 }, 8.0),
        Form::StartsWith(_) | Form::EndsWith(_) => (gate.unwrap_or(0.2), 7.0),
        Form::Contains(_) => (gate.unwrap_or(0.1), 16.0),
        Form::Regex(_) => (gate.unwrap_or(0.1), 40.0),
        Form::Compare(..) => (0.5, 6.0),
        Form::General => match test.op {
            Op::Regex | Op::IGlob => (gate.unwrap_or(0.1), 60.0),
            Op::Ne => (0.9, 25.0),
            _ => (gate.unwrap_or(0.1), 30.0),
        },
    }
}
