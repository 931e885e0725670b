//! Falco's rule language: loaded, checked, compiled and evaluated.
//!
//! The library needs no agent. Rules files are loaded by [`loader::load`], which reports everything that is
//! wrong with them; conditions alone are checked by [`loader::check_condition`]. Events are whatever
//! implements [`FieldSource`]; [`json_event::JsonEvent`] reads recorded ones.
//!
//! ```
//! use saker_rules::{json_event::JsonEvent, loader, reference::Prepared};
//!
//! let condition = loader::check_condition("evt.type = execve and proc.name in (bash, sh)").unwrap();
//! let event = JsonEvent::parse(r#"{"evt.type": "execve", "proc.name": "sh"}"#).unwrap();
//! assert!(Prepared::new(&condition).evaluate(&event));
//! ```

pub mod ast;
pub mod bundle;
mod check;
pub mod compile;
pub mod diagnostic;
pub mod engine;
pub mod expr;
pub mod fields;
#[doc(hidden)]
pub mod fuzz;
pub mod hosts;
pub mod json_event;
pub mod kernel_filter;
pub mod kinds;
mod lexer;
pub mod loader;
#[doc(hidden)]
pub mod matcher;
pub mod packs;
pub mod parser;
pub mod prelude;
pub mod reference;
pub mod ruleset;
mod semantics;
pub mod state;
pub mod template;
pub mod unit_test;
pub mod value;

use fields::Field;
use value::Value;

/// An event, as rules see it.
///
/// The engine asks for a field only when a live test needs it, and at most once an event.
pub trait FieldSource {
    /// The event's kind, the value of `evt.type`; `None` where a recorded event has none.
    fn event_type(&self) -> Option<&[u8]>;

    /// The field's value, or `None` where it cannot be extracted from this event.
    /// Computed values live in storage of the source.
    fn field<'a>(&'a self, field: Field, arg: FieldArgRef<'a>) -> Option<Value<'a>>;
}

/// A field's argument, borrowed from the compiled rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldArgRef<'a> {
    /// No brackets.
    None,
    /// A number.
    Index(u32),
    /// Any other text.
    Key(&'a str),
}

impl<'a> From<&'a expr::FieldArg> for FieldArgRef<'a> {
    fn from(arg: &'a expr::FieldArg) -> Self {
        match arg {
            expr::FieldArg::None => FieldArgRef::None,
            expr::FieldArg::Index(index) => FieldArgRef::Index(*index),
            expr::FieldArg::Key(key) => FieldArgRef::Key(key),
        }
    }
}
