//! Reads what rules say of time: sequences with their steps, and spans.

use super::{About, Broken, Read, Reader};
use crate::{
    diagnostic::{Code, Diagnostic},
    loader::{
        items::SequenceItem,
        text::Text,
        yaml::{Kind, Node},
    },
};

const SEQUENCE_STEPS_MAX: usize = 16;
const SPAN_NS_MAX: u64 = 7 * 24 * 3600 * 1_000_000_000;
const SEQUENCE_KEYS: &[&str] = &["by", "within", "steps"];

impl Reader<'_> {
    pub(super) fn sequence(&mut self, node: &Node, about: About<'_>) -> Read<SequenceItem> {
        let place = self.head(node);
        if !matches!(node.kind, Kind::Mapping(_)) {
            let message = "a sequence has the keys `by`, `within` and `steps`";
            return self.broken(Code::InvalidSequence, message, place);
        }
        self.unknown_keys(node, SEQUENCE_KEYS, about);
        // Each is read before any is given up, so that all that is wrong is said.
        let by = self.required(node, "by", about);
        let by = by.and_then(|by| self.text_value(by, "by", about));
        let within = self.required(node, "within", about);
        let within_ns = within.and_then(|within| self.duration(within, about));
        let steps = self.steps(node, about);
        Ok(SequenceItem {
            by: by?,
            within_ns: within_ns?,
            steps: steps?,
            place,
        })
    }

    fn steps(&mut self, node: &Node, about: About<'_>) -> Read<Vec<Text>> {
        let steps_node = self.required(node, "steps", about)?;
        let Kind::Sequence(nodes) = &steps_node.kind else {
            return self.wrong(steps_node, "Value is not a sequence", about);
        };
        if !(2..=SEQUENCE_STEPS_MAX).contains(&nodes.len()) {
            let message = format!(
                "a sequence has 2 to {SEQUENCE_STEPS_MAX} steps, not {}",
                nodes.len()
            );
            return self.broken(Code::InvalidSequence, &message, self.head(steps_node));
        }
        let mut steps = Vec::with_capacity(nodes.len());
        for step in nodes {
            steps.push(self.text_value(step, "steps", about)?);
        }
        Ok(steps)
    }

    pub(super) fn duration(&mut self, node: &Node, about: About<'_>) -> Read<u64> {
        let text = self.text_value(node, "duration", about)?;
        match parse_duration_ns(text.as_str().trim()) {
            Some(ns @ 1..=SPAN_NS_MAX) => Ok(ns),
            _ => {
                let message = format!("'{}' is not a time span", text.as_str().trim());
                let diagnostic = Diagnostic::new(Code::InvalidSequence, message)
                    .at(self.place(node), "")
                    .about(about.kind, about.name)
                    .help(
                        "write a number and a unit, such as `10s`, `5m` or `1h30m`; at most 7 days",
                    );
                self.diagnostics.push(diagnostic);
                Err(Broken)
            }
        }
    }
}

fn parse_duration_ns(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = 0u64;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit_ns: u64 = match &rest[..letters] {
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60 * 1_000_000_000,
            "h" => 3600 * 1_000_000_000,
            "d" => 24 * 3600 * 1_000_000_000,
            _ => return None,
        };
        rest = &rest[letters..];
        total = total.checked_add(number.checked_mul(unit_ns)?)?;
    }
    Some(total)
}
