//! Reads lists: their names and items.

use super::{About, Read, Reader};
use crate::{
    diagnostic::Code,
    loader::{items::ListItem, messages, yaml::Kind},
};

const LIST_ITEMS_MAX: usize = 1_000_000;

pub(super) const LIST_KEYS: &[&str] = &["list", "items", "append", "override"];

impl Reader<'_> {
    pub(super) fn list(&mut self, about: About<'_>) -> Read<()> {
        let node = about.node;
        let name_place = self.place_of_key(node, "list");
        if !is_bare_string(about.name) {
            let message = format!("{} '{}'", messages::INVALID_LIST_NAME, about.name);
            self.warn(Code::InvalidName, message, name_place, about);
        }
        let items = self.required(node, "items", about)?;
        let Kind::Sequence(nodes) = &items.kind else {
            return self.wrong(items, "Value is not a sequence", about);
        };
        let mut values = Vec::with_capacity(nodes.len());
        for item in nodes {
            match item.scalar() {
                Some(text) => values.push((text.to_owned(), self.place(item))),
                // YAML reads a plain `null` as nothing; in a list it is a word like any other.
                None if item.is_null() => {
                    let text = self.source.text.get(item.span.start..item.span.end);
                    values.push((text.unwrap_or("").trim().to_owned(), self.place(item)));
                }
                None => return self.wrong(item, "sequence value is not scalar", about),
            }
        }
        self.collected.list_items += values.len();
        if self.collected.list_items > LIST_ITEMS_MAX {
            let message = format!("lists have more than {LIST_ITEMS_MAX} items in all");
            return self.broken(Code::TooLarge, &message, name_place);
        }
        let (append_flag, overrides) = self.changes(node, &["items"], &["items"], about)?;
        self.collected.clock += 1;
        if append_flag || overrides.append.contains("items") {
            return match self.collected.lists.get_mut(about.name) {
                Some(list) => {
                    list.items.extend(values);
                    Ok(())
                }
                None => self.no_previous(messages::NO_PREVIOUS_LIST, name_place, about),
            };
        }
        self.collected.lists.define(ListItem {
            name: about.name.to_owned(),
            items: values,
            place: name_place,
        });
        Ok(())
    }
}

fn is_bare_string(name: &str) -> bool {
    !name.is_empty()
        && !name.contains(|c: char| {
            c.is_ascii_whitespace() || matches!(c, '(' | ')' | '"' | '\'' | '=' | ',')
        })
}
