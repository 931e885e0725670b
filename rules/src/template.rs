//! Alert text with `%field` placeholders.

use crate::expr::Operand;

/// A parsed output: literal text and operands in turn.
#[derive(Clone, Debug, Default)]
pub struct Template {
    /// In order of appearance.
    pub parts: Vec<Part>,
}

/// A piece of a template.
#[derive(Clone, Debug)]
pub enum Part {
    /// Text, printed as it is.
    Text(String),
    /// `%proc.name`, `%toupper(proc.name)`: the name as written (the key in `output_fields`) and its operand.
    Field(String, Operand),
}
