//! Which types of events a condition can match, and whether a live agent can ever make it true.
//!
//! Every part of a condition gets two answers for a kind of event: may it be true, may it be false.
//! Comparisons of the event's type are exact; a field that the agent cannot supply makes comparisons
//! false, which `not` turns into true; all else may be either.

use std::collections::BTreeSet;

use crate::{
    expr::{Expr, FieldRef, Literal, Modifier, Op, Operand, Rhs, Test},
    fields::{Field, Supply},
    kinds::{self, KINDS, KindInfo, Origin},
    semantics::PreparedTest,
    value::Value,
};

/// More kinds than this, and a rule is said to have no restriction. The bound is Falco's.
const KINDS_MAX: usize = 100;

/// What a condition's restriction on event types comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Breadth {
    /// No type of event can match.
    None,
    /// Few enough types can match.
    Some,
    /// Nearly every type can match.
    All,
}

/// Kinds of events, a bit for each row of [`KINDS`].
#[derive(Clone, Copy, PartialEq, Eq)]
struct KindSet([u64; KINDS_WORDS]);

const KINDS_WORDS: usize = KINDS.len().div_ceil(64);

/// The kinds of events on which a condition may hold, and those on which it may fail.
#[derive(Clone, Copy)]
struct May {
    hold: KindSet,
    fail: KindSet,
}

/// What is known about fields.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Knowledge {
    /// Any field may have any value.
    Types,
    /// Fields have the values that a live agent supplies.
    Live,
    /// Fields that a live agent supplies for some kind of event are taken for all kinds.
    LiveSomewhere,
}

/// How many types of events a condition matches.
pub(crate) fn breadth(expr: &Expr) -> Breadth {
    let matching = may(expr, Knowledge::Types).hold;
    let falco = KindSet::of(|kind| kind.origin != Origin::Saker);
    match matching.and(falco).len() {
        0 if matching.is_empty() => Breadth::None,
        0..=KINDS_MAX => Breadth::Some,
        _ => Breadth::All,
    }
}

/// Whether a condition is a macro's customary way to say `false`: `evt.num = 0`.
pub(crate) fn is_deliberately_never_true(expr: &Expr) -> bool {
    match expr {
        Expr::And(parts) => parts.iter().any(is_deliberately_never_true),
        Expr::Or(parts) => parts.iter().all(is_deliberately_never_true),
        Expr::Not(_) => false,
        Expr::Test(test) => is_event_number_zero(test),
    }
}

/// Why a live agent can never make a condition true, in one sentence each; empty where it can.
pub(crate) fn inactive_reasons(expr: &Expr) -> Vec<String> {
    let traced = KindSet::of(KindInfo::is_traced);
    if !may(expr, Knowledge::Live).hold.and(traced).is_empty() {
        return Vec::new();
    }
    let matching = may(expr, Knowledge::Types).hold;
    if matching.and(traced).is_empty() {
        return untraced(&matching.rows().collect::<Vec<_>>());
    }
    let mut absent = BTreeSet::new();
    collect_absent(expr, &mut absent);
    let somewhere = may(expr, Knowledge::LiveSomewhere).hold.and(traced);
    if absent.is_empty() || !somewhere.is_empty() {
        return vec!["no traced event carries all the fields that the condition needs".to_owned()];
    }
    absent
        .into_iter()
        .map(|(name, reason)| format!("{name} cannot be supplied: {reason}"))
        .collect()
}

fn untraced(matching: &[usize]) -> Vec<String> {
    const NAMED_MAX: usize = 8;
    if matching.is_empty() {
        return vec!["the condition can never be true".to_owned()];
    }
    let mut by_reason: Vec<(&str, Vec<&str>)> = Vec::new();
    for &kind in matching {
        let kinds::Supply::Untraced(reason) = KINDS[kind].supply else {
            continue;
        };
        match by_reason.iter_mut().find(|(other, _)| *other == reason) {
            Some((_, names)) => names.push(KINDS[kind].name),
            None => by_reason.push((reason, vec![KINDS[kind].name])),
        }
    }
    by_reason
        .into_iter()
        .map(|(reason, names)| {
            let more = names.len().saturating_sub(NAMED_MAX);
            let shown = names[..names.len().min(NAMED_MAX)].join(", ");
            match more {
                0 => format!("events {shown}: {reason}"),
                _ => format!("events {shown} and {more} more: {reason}"),
            }
        })
        .collect()
}

fn may(expr: &Expr, knowledge: Knowledge) -> May {
    match expr {
        Expr::And(parts) => parts.iter().fold(
            May {
                hold: KindSet::ALL,
                fail: KindSet::NONE,
            },
            |all, part| {
                let part = may(part, knowledge);
                May {
                    hold: all.hold.and(part.hold),
                    fail: all.fail.or(part.fail),
                }
            },
        ),
        Expr::Or(parts) => parts.iter().fold(
            May {
                hold: KindSet::NONE,
                fail: KindSet::ALL,
            },
            |all, part| {
                let part = may(part, knowledge);
                May {
                    hold: all.hold.or(part.hold),
                    fail: all.fail.and(part.fail),
                }
            },
        ),
        Expr::Not(part) => {
            let part = may(part, knowledge);
            May {
                hold: part.fail,
                fail: part.hold,
            }
        }
        Expr::Test(test) => may_test(test, knowledge),
    }
}

fn may_test(test: &Test, knowledge: Knowledge) -> May {
    const NEVER: May = May {
        hold: KindSet::NONE,
        fail: KindSet::ALL,
    };
    if is_event_number_zero(test) {
        return NEVER;
    }
    if let Operand::Field(field) = &test.lhs
        && field.field == Field::EvtType
        && matches!(test.rhs, Rhs::None | Rhs::Values(_))
    {
        let hold = kinds_of(test);
        return May {
            hold,
            fail: hold.not(),
        };
    }
    if let Rhs::Values(values) = &test.rhs
        && values.is_empty()
        && (test.modifier.is_some() || !is_list_operand(&test.lhs))
    {
        return NEVER;
    }
    let mut hold = KindSet::ALL;
    if knowledge != Knowledge::Types {
        visit_fields(test, &mut |field| {
            hold = hold.and(supplied(field, knowledge));
        });
    }
    May {
        hold,
        fail: KindSet::ALL,
    }
}

/// The kinds that a comparison of the event's type accepts.
fn kinds_of(test: &Test) -> KindSet {
    let Rhs::Values(values) = &test.rhs else {
        return KindSet::ALL;
    };
    if test.modifier.is_some() || !matches!(test.op, Op::Eq | Op::Ne | Op::In | Op::Intersects) {
        let prepared = PreparedTest::new(test);
        return KindSet::of(|kind| prepared.holds_for_value(Value::Bytes(kind.name.as_bytes())));
    }
    let mut named = KindSet::NONE;
    for value in values {
        if let Literal::Bytes(name) = value
            && let Some(row) = std::str::from_utf8(name).ok().and_then(kinds::index_of)
        {
            named.0[row / 64] |= 1 << (row % 64);
        }
    }
    if test.op == Op::Ne {
        named.not()
    } else {
        named
    }
}

/// The kinds of events for which a live agent supplies a field.
fn supplied(field: &FieldRef, knowledge: Knowledge) -> KindSet {
    let info = field.field.info();
    match info.supply {
        Supply::Recorded(_) => KindSet::NONE,
        Supply::Live(_) if info.kinds.is_empty() || knowledge == Knowledge::LiveSomewhere => {
            KindSet::ALL
        }
        Supply::Live(_) => KindSet::of(|kind| info.kinds.contains(&kind.name)),
    }
}

impl KindSet {
    const NONE: Self = Self([0; KINDS_WORDS]);
    const ALL: Self = {
        let mut words = [0; KINDS_WORDS];
        let mut row = 0;
        while row < KINDS.len() {
            words[row / 64] |= 1 << (row % 64);
            row += 1;
        }
        Self(words)
    };

    fn of(fits: impl Fn(&KindInfo) -> bool) -> Self {
        let mut set = Self::NONE;
        for (row, _) in KINDS.iter().enumerate().filter(|(_, kind)| fits(kind)) {
            set.0[row / 64] |= 1 << (row % 64);
        }
        set
    }

    fn and(self, other: Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] & other.0[word]))
    }

    fn or(self, other: Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] | other.0[word]))
    }

    fn not(self) -> Self {
        Self(std::array::from_fn(|word| !self.0[word])).and(Self::ALL)
    }

    fn len(self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    fn is_empty(self) -> bool {
        self == Self::NONE
    }

    fn rows(self) -> impl Iterator<Item = usize> {
        (0..KINDS.len()).filter(move |row| self.0[row / 64] & (1 << (row % 64)) != 0)
    }
}

/// Fields that a live agent cannot supply, with the reasons.
fn collect_absent(expr: &Expr, absent: &mut BTreeSet<(&'static str, &'static str)>) {
    match expr {
        Expr::And(parts) | Expr::Or(parts) => {
            for part in parts {
                collect_absent(part, absent);
            }
        }
        // A field that is only asked for under `not` does not keep the condition from being true.
        Expr::Not(_) => {}
        Expr::Test(test) => visit_fields(test, &mut |field| {
            if let Supply::Recorded(reason) = field.field.info().supply {
                absent.insert((field.field.info().name, reason));
            }
        }),
    }
}

fn visit_fields(test: &Test, visit: &mut impl FnMut(&FieldRef)) {
    visit_operand(&test.lhs, visit);
    if let Rhs::Operand(operand) = &test.rhs {
        visit_operand(operand, visit);
    }
}

fn visit_operand(operand: &Operand, visit: &mut impl FnMut(&FieldRef)) {
    match operand {
        Operand::Field(field) => visit(field),
        Operand::Transform(transform) => {
            for arg in &transform.args {
                visit_operand(arg, visit);
            }
        }
        Operand::List(parts) => {
            for part in parts {
                visit_operand(part, visit);
            }
        }
        Operand::Literal(_) => {}
    }
}

fn is_list_operand(operand: &Operand) -> bool {
    match operand {
        Operand::Field(field) => field.field.info().list,
        Operand::Transform(_) | Operand::List(_) => true,
        Operand::Literal(_) => false,
    }
}

fn is_event_number_zero(test: &Test) -> bool {
    let Operand::Field(field) = &test.lhs else {
        return false;
    };
    let Rhs::Values(values) = &test.rhs else {
        return false;
    };
    field.field == Field::EvtNum
        && matches!(test.op, Op::Eq | Op::In)
        && test
            .modifier
            .is_none_or(|modifier| modifier == Modifier::AnyOf)
        && values.iter().all(|value| *value == Literal::Uint(0))
}
