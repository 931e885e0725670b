//! Reads what any item is made of: required and unknown keys, text and booleans.

use std::rc::Rc;

use super::{About, Broken, Read, Reader};
use crate::{
    diagnostic::{Code, Diagnostic, Place, nearest},
    loader::{
        text::Text,
        yaml::{Kind, Node, scalar_text},
    },
};

impl Reader<'_> {
    pub(super) fn required<'n>(
        &mut self,
        node: &'n Node,
        key: &str,
        about: About<'_>,
    ) -> Read<&'n Rc<Node>> {
        match node.get(key) {
            Some(value) if value.is_null() => {
                let message = format!("Mapping for key '{key}' is empty");
                let place = self.place_of_key_itself(node, key);
                self.report_about(Code::MissingKey, message, place, about);
                Err(Broken)
            }
            Some(value) => Ok(value),
            None => {
                let message = format!("Item has no mapping for key '{key}'");
                self.report_about(Code::MissingKey, message, self.head(node), about);
                Err(Broken)
            }
        }
    }

    /// A scalar that is not empty, with the places of its characters.
    pub(super) fn text_value(&mut self, node: &Node, key: &str, about: About<'_>) -> Read<Text> {
        match &node.kind {
            Kind::Scalar(text, _) if text.is_empty() => {
                self.wrong(node, "Value must be non-empty", about)
            }
            Kind::Scalar(..) => Ok(scalar_text(node, &self.source.text, self.file)),
            Kind::Null => {
                let message = format!("Mapping for key '{key}' is empty");
                self.report_about(Code::MissingKey, message, self.head(node), about);
                Err(Broken)
            }
            _ => self.wrong(node, "Value is not a scalar value", about),
        }
    }

    pub(super) fn bool_value(&mut self, node: &Node, key: &str, about: About<'_>) -> Read<bool> {
        let text = self.text_value(node, key, about)?;
        match parse_bool(text.as_str()) {
            Some(value) => Ok(value),
            None => self.wrong(node, "Can't decode YAML scalar value", about),
        }
    }

    pub(super) fn unknown_keys(&mut self, node: &Node, known: &[&str], about: About<'_>) {
        let Kind::Mapping(entries) = &node.kind else {
            return;
        };
        for (index, (key_node, _)) in entries.iter().enumerate() {
            let key = key_node.scalar().unwrap_or("");
            let place = self.place(key_node);
            if entries[..index]
                .iter()
                .any(|(other, _)| other.scalar() == Some(key))
            {
                let message = format!("Key '{key}' is repeated; its first value is used");
                self.warn(Code::UnknownKey, message, place, about);
            } else if !known.contains(&key) {
                let mut diagnostic =
                    Diagnostic::new(Code::UnknownKey, format!("Unknown key '{key}'"))
                        .at(place, "")
                        .about(about.kind, about.name);
                if key == "<<" {
                    diagnostic = diagnostic.help("keys are not merged; write them out");
                } else if let Some(near) = nearest(key, known.iter().copied()) {
                    diagnostic = diagnostic.help(format!("did you mean `{near}`?"));
                }
                self.diagnostics.push(diagnostic);
            }
        }
    }
}

/// Puts more behind a text, as appends do.
pub(super) fn append(text: &mut Text, more: &Text, place: Place) {
    text.push_for(" ", place);
    text.push_text(more);
}

/// A text without blanks around it.
pub(super) fn trim(text: &Text) -> Text {
    let all = text.as_str();
    let start = all.len() - all.trim_start().len();
    let mut out = Text::default();
    out.push_part(text, start..start + all.trim().len());
    out
}

/// What yaml-cpp, and so Falco, takes for a boolean.
fn parse_bool(text: &str) -> Option<bool> {
    let lower = text.to_ascii_lowercase();
    let capitalised = |word: &str| {
        let mut chars = word.chars();
        chars.next().is_some_and(char::is_uppercase) && chars.all(char::is_lowercase)
    };
    let one_case = text == lower || text == text.to_ascii_uppercase() || capitalised(text);
    match lower.as_str() {
        _ if !one_case => None,
        "y" | "yes" | "true" | "on" => Some(true),
        "n" | "no" | "false" | "off" => Some(false),
        _ => None,
    }
}
