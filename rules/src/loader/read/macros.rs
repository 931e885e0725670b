//! Reads macros: their names and conditions, and when each was defined and changed.

use super::{About, Read, Reader, values::append};
use crate::{
    diagnostic::Code,
    loader::{items::MacroItem, messages},
};

pub(super) const MACRO_KEYS: &[&str] = &["macro", "condition", "append", "override"];

impl Reader<'_> {
    pub(super) fn macro_(&mut self, about: About<'_>) -> Read<()> {
        let node = about.node;
        let place = self.place_of_key(node, "macro");
        if !is_identifier(about.name) {
            let message = format!("{} '{}'", messages::INVALID_MACRO_NAME, about.name);
            self.warn(Code::InvalidName, message, place, about);
        }
        let condition = self.required(node, "condition", about)?;
        let condition = self.text_value(condition, "condition", about)?;
        let (append_flag, overrides) = self.changes(node, &["condition"], &["condition"], about)?;
        let now = self.collected.clock;
        self.collected.clock += 1;
        if append_flag || overrides.append.contains("condition") {
            return match self.collected.macros.get_mut(about.name) {
                Some(previous) => {
                    append(&mut previous.condition, &condition, place);
                    previous.changed = now;
                    Ok(())
                }
                None => self.no_previous(messages::NO_PREVIOUS_MACRO, place, about),
            };
        }
        let defined = self
            .collected
            .macros
            .get(about.name)
            .map_or(now, |old| old.defined);
        self.collected.macros.define(MacroItem {
            name: about.name.to_owned(),
            condition,
            defined,
            changed: now,
            place,
        });
        Ok(())
    }
}

fn is_identifier(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
