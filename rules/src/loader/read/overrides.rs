//! Reads the keys `append` and `override`, by which any item says how it changes an earlier one.

use std::collections::BTreeSet;

use super::{About, Read, Reader};
use crate::{
    diagnostic::Code,
    loader::{
        messages,
        yaml::{Kind, Node},
    },
};

/// The keys that an item's `override` names, by operation.
#[derive(Default)]
pub(super) struct Overrides {
    pub(super) append: BTreeSet<String>,
    pub(super) replace: BTreeSet<String>,
}

impl Reader<'_> {
    /// Reads `append` and `override`, and refuses both together.
    pub(super) fn changes(
        &mut self,
        node: &Node,
        appendable: &[&str],
        replaceable: &[&str],
        about: About<'_>,
    ) -> Read<(bool, Overrides)> {
        let mut append_flag = false;
        if let Some(value) = node.get("append") {
            append_flag = self.bool_value(value, "append", about)?;
            if append_flag {
                let place = self.place_of_key_itself(node, "append");
                self.warn(
                    Code::DeprecatedKey,
                    messages::APPEND.to_owned(),
                    place,
                    about,
                );
            }
        }
        let mut overrides = Overrides::default();
        let Some(value) = node.get("override") else {
            return Ok((append_flag, overrides));
        };
        let entries = match &value.kind {
            Kind::Mapping(entries) => entries.as_slice(),
            Kind::Null => &[],
            _ => return self.wrong(value, "Value of override must be a mapping", about),
        };
        for (key_node, operation_node) in entries {
            let key = self
                .text_value(key_node, "override", about)?
                .as_str()
                .to_owned();
            let operation = self.text_value(operation_node, &key, about)?;
            let may_append = appendable.contains(&key.as_str());
            let may_replace = replaceable.contains(&key.as_str());
            let place = self.place(key_node);
            match operation.as_str() {
                "append" if may_append => overrides.append.insert(key),
                "append" => {
                    let message =
                        format!("Key '{key}' cannot be appended to, use 'replace' instead");
                    return self.broken(Code::InvalidOverride, &message, place);
                }
                "replace" if may_replace => overrides.replace.insert(key),
                "replace" => {
                    let message = format!("Key '{key}' cannot be replaced");
                    return self.broken(Code::InvalidOverride, &message, place);
                }
                other => {
                    let mut message = format!(
                        "Invalid override operation for key '{key}': '{other}'. Allowed values are: "
                    );
                    for (allowed, word) in [(may_append, "append "), (may_replace, "replace ")] {
                        if allowed {
                            message.push_str(word);
                        }
                    }
                    let place = self.place(operation_node);
                    return self.broken(Code::InvalidOverride, message.trim_end(), place);
                }
            };
        }
        if append_flag && !(overrides.append.is_empty() && overrides.replace.is_empty()) {
            let place = self.place_of_key_itself(node, "override");
            return self.broken(Code::InvalidOverride, messages::OVERRIDE_AND_APPEND, place);
        }
        Ok((append_flag, overrides))
    }
}
