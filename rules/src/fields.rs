//! THE table of fields: name, type, argument, unit, event kinds, origin and meaning of each.
//!
//! `saker fields`, the reference in `docs/`, the checker and the agent's extraction all come from it.
//! Adding a field is adding a row; the agent then fails to compile until it supplies it.

use serde::Serialize;

use crate::value::FieldType;

/// Whether a field takes an argument in brackets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ArgRule {
    /// `field[...]` is an error.
    None,
    /// A number may stand in brackets.
    OptionalIndex,
    /// A number must stand in brackets.
    Index,
    /// A name must stand in brackets.
    Key,
    /// A number or a name must stand in brackets.
    IndexOrKey,
    /// A number or a name may stand in brackets.
    OptionalIndexOrKey,
}

/// Who supplies a field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Supply {
    /// A live agent, from this kernel hook, file or specification.
    Live(&'static str),
    /// Recorded events only; the reason is told to whoever loads a rule that uses it.
    Recorded(&'static str),
}

/// One row of the table.
#[derive(Debug, Serialize)]
pub struct FieldInfo {
    /// As rules write it.
    pub name: &'static str,
    /// Falco's type where Falco has the field.
    #[serde(rename = "type")]
    pub ty: FieldType,
    /// Whether it yields several values.
    pub list: bool,
    /// What may stand in brackets.
    pub arg: ArgRule,
    /// `""` where the value has no unit.
    pub unit: &'static str,
    /// The event kinds that carry it; empty: every kind.
    pub kinds: &'static [&'static str],
    /// Where the value comes from.
    pub supply: Supply,
    /// What it means, in one or two sentences.
    pub doc: &'static str,
}

macro_rules! fields {
    ($($variant:ident $name:literal $ty:ident $($list:literal)? [$($arg:ident)?] $unit:literal [$($kind:literal),*] $supply:ident($origin:literal) $doc:literal;)*) => {
        /// Every field, as a number: the row of [`FIELDS`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        #[allow(missing_docs, reason = "each is documented in its row of FIELDS")]
        pub enum Field { $($variant,)* }

        /// The table, indexed by `Field as usize`.
        pub static FIELDS: &[FieldInfo] = &[$(FieldInfo {
            name: $name,
            ty: FieldType::$ty,
            list: false $(|| $list == "list")?,
            arg: fields!(@arg $($arg)?),
            unit: $unit,
            kinds: &[$($kind),*],
            supply: Supply::$supply($origin),
            doc: $doc,
        },)*];

        const ALL: &[Field] = &[$(Field::$variant,)*];
    };
    (@arg) => { ArgRule::None };
    (@arg $arg:ident) => { ArgRule::$arg };
}

fields! {
    EvtType "evt.type" Str [] "" [] Live("the hook that fired") "The event's kind: a system call's name, or one of Saker's own kinds.";
    ProcName "proc.name" Str [] "" [] Live("task comm, set by the kernel at exec") "Name of the process, at most 15 bytes.";
}

impl Field {
    /// The field's row.
    pub fn info(self) -> &'static FieldInfo {
        &FIELDS[self as usize]
    }

    /// The field of that row number, if there is one.
    pub fn from_index(index: usize) -> Option<Self> {
        ALL.get(index).copied()
    }
}
