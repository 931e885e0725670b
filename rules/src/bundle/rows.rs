//! The rows of a bundle's tables. All fields are little-endian numbers; every number that refers to another table is checked on load.

use bytemuck::{Pod, Zeroable};

use crate::matcher::Span;

/// A jump target or entry that says "the condition does not hold".
pub const NO: u32 = u32::MAX - 1;
/// A jump target or entry that says "the condition holds".
pub const YES: u32 = u32::MAX;

/// A field with its argument, and where its equality tables are.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct SlotRow {
    /// `Field as u16`.
    pub field: u16,
    /// 0 none, 1 index, 2 key.
    pub arg_kind: u16,
    /// The index; zero for other kinds.
    pub index: u32,
    /// The key's text; empty for other kinds.
    pub key: Span,
}

/// A comparison.
#[derive(Clone, Copy, Debug, Pod, Zeroable, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct AtomRow {
    /// See [`kind`].
    pub kind: u8,
    /// The operator, where the kind has several: 0 less, 1 at most, 2 greater, 3 at least. For `SUB`: how deep
    /// shared conditions nest below it. For `EQUAL` and `WORD`: 1 where the rule says `in`.
    pub op: u8,
    /// The class of the constants: `Class as u8`.
    pub class: u8,
    /// 1 where one step alone refers to it, so that its answer need not be remembered.
    pub once: u8,
    /// The field.
    pub slot: u32,
    /// By kind.
    pub a: u32,
    /// By kind.
    pub b: u32,
}

/// Kinds of comparison.
pub mod kind {
    /// By `semantics.rs`; `a` is the number of the general test.
    pub const GENERAL: u8 = 0;
    /// There is a value.
    pub const EXISTS: u8 = 1;
    /// The value is the constant of key `a` of table `b`.
    pub const EQUAL: u8 = 2;
    /// The value is a constant of a set; `a` is the set.
    pub const IN: u8 = 3;
    /// There is a value, and it is not the constant of key `a` of table `b`.
    pub const NOT_EQUAL: u8 = 4;
    /// The value starts with `text[a..a + b]`.
    pub const STARTS_WITH: u8 = 5;
    /// The value ends with `text[a..a + b]`.
    pub const ENDS_WITH: u8 = 6;
    /// The value contains the constant of key `a` of table `b`.
    pub const CONTAINS: u8 = 7;
    /// Order of numbers; the operand is `b << 32 | a`.
    pub const COMPARE: u8 = 8;
    /// The value is this number; `b << 32 | a`.
    pub const WORD: u8 = 9;
    /// A shared condition, entered at node `a`; all its nodes stand before `b`.
    pub const SUB: u8 = 10;
    /// The automaton `a` accepts the value; for values of other types, general test `b`.
    pub const REGEX: u8 = 11;
}

/// A set of keys of one table.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct SetRow {
    /// The table.
    pub table: u32,
    /// The keys, ascending, in `lists`.
    pub keys: Span,
}

/// A step of a condition: test, then go on. Targets stand after the node.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct NodeRow {
    /// What to test.
    pub atom: u32,
    /// Where to go when it holds: a node, [`YES`] or [`NO`].
    pub yes: u32,
    /// Where to go when it does not.
    pub no: u32,
}

/// A table: all constants that are looked for in one field by one method.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct TableRow {
    /// `Method as u32`.
    pub method: u32,
    /// The field.
    pub slot: u32,
    /// Its constants, in `keys`.
    pub keys: Span,
    /// What `matcher` needs to read it, in `words`.
    pub layout: Span,
}

/// A constant of a table.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct KeyRow {
    /// Its bytes, in `text`. Empty for methods that keep the constant in their table.
    pub text: Span,
    /// Whom it may matter to, in `posts`, ordered by partition.
    pub posts: Span,
}

/// A unit that a key makes a candidate, where the partition takes part.
#[derive(Clone, Copy, Debug, Pod, Zeroable, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct PostRow {
    /// The partition.
    pub part: u32,
    /// The unit.
    pub unit: u32,
}

/// A condition of a rule, left over for some kinds of event.
#[derive(Clone, Copy, Debug, Pod, Zeroable, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct UnitRow {
    /// First node, or [`YES`].
    pub entry: u32,
    /// Whose condition it is.
    pub condition: u32,
}

/// A rule's condition, or one of its sequence's steps.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct ConditionRow {
    /// The rule.
    pub rule: u32,
    /// [`EVENT`], [`HOLD`] or the number of the step.
    pub role: u32,
}

/// Role of the condition of a rule that fires on an event.
pub const EVENT: u32 = u32::MAX;
/// Role of the condition of a `for` rule.
pub const HOLD: u32 = u32::MAX - 1;

/// What is evaluated for some kinds of event.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct ProgramRow {
    /// Its partitions, in `parts`.
    pub parts: Span,
    /// Conditions of `for` rules that events of these kinds can meet or interrupt, in `lists`.
    pub holds: Span,
    /// The fields that its rules can ask for, in `lists`, ascending.
    pub slots: Span,
}

/// Rules that share required comparisons.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct PartRow {
    /// The comparisons, in `lists`: atom * 2, plus one where it must hold and zero where it must not.
    pub guards: Span,
    /// The tables to look in, in `lists`.
    pub tables: Span,
    /// The units to visit whatever the tables say, in `lists`.
    pub always: Span,
}

/// A kind of event.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct TypeRow {
    /// Its name, in `text`.
    pub name: Span,
    /// Its program.
    pub program: u32,
}

/// What is told of a rule. Spans are of `notes`, and UTF-8, unless another table is named.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct RuleRow {
    pub name: Span,
    pub desc: Span,
    pub condition: Span,
    pub source: Span,
    pub origin_file: Span,
    pub origin_line: u32,
    /// `Priority as u32`.
    pub priority: u32,
    /// 1 where the rule is enabled.
    pub enabled: u32,
    /// 0 event, 1 sequence, 2 for.
    pub detection: u32,
    /// Nanoseconds of `within` or `for`; low and high half.
    pub span_ns: [u32; 2],
    /// Number of steps of a sequence.
    pub steps: u32,
    /// Slot of a sequence's `by`.
    pub by: u32,
    /// Texts, in `spans`.
    pub tags: Span,
    /// Texts, in `spans`.
    pub inactive: Span,
    /// The template, encoded.
    pub output: Span,
}
