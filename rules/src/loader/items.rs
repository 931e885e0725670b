//! Lists, macros and rules as collected from files, in the order of their first definition.
//!
//! Definitions replace, appends extend and overrides change what came before; conditions stay text.

use std::collections::{BTreeSet, HashMap};

use super::text::Text;
use crate::{
    diagnostic::{Code, Diagnostic, Place},
    expr::{Modifier, Op},
    ruleset::{Priority, Profile},
};

/// A named item.
pub(crate) trait Named {
    fn name(&self) -> &str;
}

/// Items by name and in order of first definition.
#[derive(Debug)]
pub(crate) struct Table<T> {
    items: Vec<T>,
    by_name: HashMap<String, usize>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            by_name: HashMap::new(),
        }
    }
}

impl<T: Named> Table<T> {
    pub(crate) fn define(&mut self, item: T) {
        match self.by_name.get(item.name()) {
            Some(&index) => self.items[index] = item,
            None => {
                self.by_name
                    .insert(item.name().to_owned(), self.items.len());
                self.items.push(item);
            }
        }
    }

    pub(crate) fn index(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&T> {
        self.index(name).map(|index| &self.items[index])
    }

    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut T> {
        self.index(name).map(|index| &mut self.items[index])
    }

    pub(crate) fn items(&self) -> &[T] {
        &self.items
    }
}

/// A list.
#[derive(Clone, Debug)]
pub(crate) struct ListItem {
    pub(crate) name: String,
    pub(crate) items: Vec<(String, Place)>,
    pub(crate) place: Place,
}

/// A macro.
#[derive(Clone, Debug)]
pub(crate) struct MacroItem {
    pub(crate) name: String,
    pub(crate) condition: Text,
    /// When it was first defined and last changed, counted over all items. A macro sees the macros
    /// that were first defined before its own last change.
    pub(crate) defined: usize,
    pub(crate) changed: usize,
    pub(crate) place: Place,
}

/// A rule.
#[derive(Clone, Debug)]
pub(crate) struct RuleItem {
    pub(crate) name: String,
    pub(crate) desc: String,
    pub(crate) condition: Text,
    pub(crate) sequence: Option<SequenceItem>,
    /// How long the condition must hold, in nanoseconds.
    pub(crate) hold_ns: Option<u64>,
    pub(crate) output: Text,
    pub(crate) priority: Priority,
    pub(crate) source: String,
    pub(crate) tags: BTreeSet<String>,
    pub(crate) exceptions: Vec<ExceptionItem>,
    pub(crate) enabled: bool,
    pub(crate) profiles: BTreeSet<Profile>,
    pub(crate) warn_evttypes: bool,
    pub(crate) skip_if_unknown_filter: bool,
    pub(crate) capture: bool,
    pub(crate) capture_duration_ms: Option<u32>,
    /// Whether a key of its definition was wrong, as reported. Its conditions are checked all the same.
    pub(crate) is_broken: bool,
    /// Of the name in the first definition.
    pub(crate) place: Place,
    /// Of the name where it was last changed.
    pub(crate) changed_at: Place,
}

/// The steps of a sequence.
#[derive(Clone, Debug)]
pub(crate) struct SequenceItem {
    pub(crate) by: Text,
    pub(crate) within_ns: u64,
    pub(crate) steps: Vec<Text>,
    pub(crate) place: Place,
}

/// An exception.
#[derive(Clone, Debug)]
pub(crate) struct ExceptionItem {
    pub(crate) name: String,
    pub(crate) fields: Option<Entry>,
    pub(crate) comps: Option<Entry>,
    pub(crate) values: Vec<Entry>,
    pub(crate) place: Place,
}

/// One scalar, or a sequence of entries.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    One(Text, Place),
    Many(Vec<Entry>, Place),
}

impl Entry {
    pub(crate) fn place(&self) -> Place {
        match self {
            Entry::One(_, place) | Entry::Many(_, place) => *place,
        }
    }
}

impl Named for ListItem {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Named for MacroItem {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Named for RuleItem {
    fn name(&self) -> &str {
        &self.name
    }
}

/// Checks that an exception's fields and operators fit together, filling in the usual operators.
pub(crate) fn complete_exception(
    exception: &mut ExceptionItem,
) -> Result<Vec<(Op, Option<Modifier>)>, Box<Diagnostic>> {
    let error = |message: String, place: Place| {
        Box::new(Diagnostic::new(Code::InvalidException, message).at(place, ""))
    };
    match &exception.fields {
        None => Err(error(
            "Rule exception item must have fields property with a list of fields".to_owned(),
            exception.place,
        )),
        Some(Entry::Many(fields, place)) => {
            let comps = exception.comps.get_or_insert_with(|| {
                let equal = || {
                    let mut text = Text::default();
                    text.push_for("=", *place);
                    Entry::One(text, *place)
                };
                Entry::Many(fields.iter().map(|_| equal()).collect(), *place)
            });
            let comps_place = comps.place();
            let Entry::Many(comps, _) = comps else {
                return Err(error(
                    "Fields and comps lists must have equal length".to_owned(),
                    comps_place,
                ));
            };
            if comps.len() != fields.len() {
                return Err(error(
                    "Fields and comps lists must have equal length".to_owned(),
                    comps_place,
                ));
            }
            comps
                .iter()
                .map(|comp| {
                    let text = match comp {
                        Entry::One(text, _) => text.as_str(),
                        Entry::Many(..) => "",
                    };
                    crate::parser::parse_operator(text).ok_or_else(|| {
                        let shown = text.trim();
                        let message = format!("'{shown}' is not a supported comparison operator");
                        error(message, comp.place())
                    })
                })
                .collect()
        }
        Some(Entry::One(_, place)) => {
            let comps = exception.comps.get_or_insert_with(|| {
                let mut text = Text::default();
                text.push_for("in", *place);
                Entry::One(text, *place)
            });
            let place = comps.place();
            let Entry::One(comp, _) = comps else {
                return Err(error(
                    "Fields and comps must both be strings".to_owned(),
                    place,
                ));
            };
            match crate::parser::parse_operator(comp.as_str()) {
                Some((op @ (Op::In | Op::PMatch | Op::Intersects), None)) => Ok(vec![(op, None)]),
                Some((op, modifier @ Some(_))) => Ok(vec![(op, modifier)]),
                _ => Err(error(
                    "When fields is a single value, comps must be one of (in, pmatch, intersects) or an operator with a modifier".to_owned(),
                    place,
                )),
            }
        }
    }
}
