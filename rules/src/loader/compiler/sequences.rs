//! Sequences: the field that keeps one, and its steps as conditions.

use std::time::Duration;

use super::Compiler;
use crate::{
    ast::Span,
    check,
    diagnostic::{Code, Diagnostic},
    expr::{FieldRef, Operand},
    loader::items::{RuleItem, SequenceItem},
    parser,
    ruleset::Detection,
};

impl Compiler<'_> {
    pub(super) fn sequence(
        &mut self,
        item: &RuleItem,
        sequence: &SequenceItem,
        found: &mut Vec<Diagnostic>,
    ) -> Option<Detection> {
        let by = self.sequence_field(sequence, found);
        if let Some(exception) = item.exceptions.first() {
            let message = "exceptions do not apply to a sequence; put them into its steps";
            found.push(Diagnostic::new(Code::InvalidSequence, message).at(exception.place, ""));
        }
        let mut steps = Vec::with_capacity(sequence.steps.len());
        for step in &sequence.steps {
            if let Some((typed, _)) = self.condition(step, found) {
                self.warn_breadth(item, &typed.expr, found);
                steps.push(typed.expr);
            }
        }
        (steps.len() == sequence.steps.len()).then_some(())?;
        Some(Detection::Sequence {
            by: by?,
            within: Duration::from_nanos(sequence.within_ns),
            steps,
        })
    }

    fn sequence_field(
        &mut self,
        sequence: &SequenceItem,
        found: &mut Vec<Diagnostic>,
    ) -> Option<FieldRef> {
        let text = sequence.by.as_str();
        let place = sequence.by.place(Span::new(0, text.len()));
        let operand = match parser::parse_operand(text.trim()) {
            Ok(operand) => operand,
            Err(error) => {
                let diagnostic = Diagnostic::new(Code::InvalidSequence, error.message);
                found.push(diagnostic.at(place, ""));
                return None;
            }
        };
        match check::check_output_operand(&operand) {
            Ok(Operand::Field(field)) => Some(field),
            Ok(_) => {
                let message = "a sequence is kept by a field, not by a transformer";
                found.push(Diagnostic::new(Code::InvalidSequence, message).at(sequence.place, ""));
                None
            }
            Err(diagnostics) => {
                for mut diagnostic in diagnostics {
                    diagnostic.secondary.clear();
                    found.push(diagnostic.at(place, ""));
                }
                None
            }
        }
    }
}
