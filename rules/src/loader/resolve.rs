//! Lists and exceptions become text, as in Falco: a list's items take the place of its name, and an
//! exception becomes `and not (…)` behind the condition.
//!
//! Two differences: names inside quotes stay, and lists of lists of lists are resolved to the end.

use std::{
    cell::Cell,
    collections::{HashMap, HashSet},
};

use super::{
    items::{Entry, ExceptionItem, ListItem, Table},
    text::Text,
};
use crate::{
    diagnostic::{Code, Diagnostic, Place},
    expr::{Modifier, Op},
};

const TEXT_BYTES_MAX: usize = 8 << 20;
const EXPANDED_ITEMS_MAX: usize = 2_000_000;
const NESTING_MAX: usize = 100;

/// Lists with their items resolved.
pub(crate) struct Lists<'a> {
    by_name: HashMap<&'a str, Expanded>,
    /// Names that a scan for words cannot find.
    odd_names: Vec<&'a str>,
}

struct Expanded {
    items: Vec<String>,
    /// The items as text that can stand in a condition.
    text: String,
    is_used: Cell<bool>,
}

impl<'a> Lists<'a> {
    pub(crate) fn new(table: &'a Table<ListItem>, diagnostics: &mut Vec<Diagnostic>) -> Self {
        let mut lists = Self {
            by_name: HashMap::new(),
            odd_names: Vec::new(),
        };
        let mut budget = EXPANDED_ITEMS_MAX;
        let mut used = HashSet::new();
        let mut is_reported = false;
        for list in table.items() {
            let mut open = vec![list.name.as_str()];
            let mut items = Vec::new();
            if let Err(name) = expand(table, list, &mut open, &mut items, &mut budget, &mut used) {
                used.extend(list.items.iter().map(|(item, _)| item.as_str()));
                // What follows is cut short for the same reason.
                if !std::mem::replace(&mut is_reported, true) {
                    let message =
                        format!("list '{name}' has too many items once its lists are resolved");
                    diagnostics.push(Diagnostic::new(Code::TooLarge, message).at(list.place, ""));
                }
            }
            let quoted: Vec<_> = items.iter().map(|item| quote_item(item)).collect();
            let text = quoted.join(", ");
            if list.name.contains(|c: char| is_delimiter(c as u32)) {
                lists.odd_names.push(&list.name);
            }
            let is_used = Cell::new(false);
            lists.by_name.insert(
                &list.name,
                Expanded {
                    items,
                    text,
                    is_used,
                },
            );
        }
        for name in used {
            if let Some(list) = lists.by_name.get(name) {
                list.is_used.set(true);
            }
        }
        lists
    }

    pub(crate) fn is_used(&self, name: &str) -> bool {
        self.by_name.get(name).is_none_or(|list| list.is_used.get())
    }

    pub(crate) fn items(&self, name: &str) -> &[String] {
        self.by_name.get(name).map_or(&[], |list| &list.items)
    }

    /// The text with every list's name replaced by its items. Items stand for the place of the name.
    pub(crate) fn substitute(&self, text: &Text) -> Result<Text, Box<Diagnostic>> {
        let source = text.as_str();
        let bytes = source.as_bytes();
        let mut out = Text::default();
        let mut copied = 0;
        let mut at = 0;
        while at < bytes.len() {
            if matches!(bytes[at], b'"' | b'\'') {
                at = quoted_end(bytes, at);
                continue;
            }
            let begins_word = at == 0 || is_delimiter(bytes[at - 1].into());
            if is_delimiter(bytes[at].into()) || !begins_word {
                at += 1;
                continue;
            }
            let Some((name, list)) = self.name_at(source, at) else {
                at += 1;
                continue;
            };
            list.is_used.set(true);
            let place = text.place(crate::ast::Span::new(at, at + name.len()));
            let end = at + name.len();
            let blanks = |range: &[u8]| range.iter().take_while(|byte| is_blank(**byte)).count();
            let before = bytes[copied..at]
                .iter()
                .rev()
                .take_while(|byte| is_blank(**byte))
                .count();
            let mut head_end = at - before;
            let mut tail_start = end + blanks(&bytes[end..]);
            if list.text.is_empty() {
                // An empty list takes one comma with it.
                if head_end > copied && bytes[head_end - 1] == b',' {
                    head_end -= 1;
                } else if bytes.get(tail_start) == Some(&b',') {
                    tail_start += 1;
                }
            }
            out.push_part(text, copied..head_end);
            out.push_for(" ", place);
            out.push_for(&list.text, place);
            out.push_for(" ", place);
            copied = tail_start;
            at = tail_start;
            if out.as_str().len() > TEXT_BYTES_MAX {
                let message = format!(
                    "condition has more than {TEXT_BYTES_MAX} bytes once lists are resolved"
                );
                return Err(Box::new(
                    Diagnostic::new(Code::TooLarge, message).at(place, ""),
                ));
            }
        }
        if copied == 0 {
            return Ok(text.clone());
        }
        out.push_part(text, copied..source.len());
        Ok(out)
    }

    fn name_at<'s>(&self, source: &'s str, at: usize) -> Option<(&'s str, &Expanded)> {
        let rest = &source[at..];
        let odd = self.odd_names.iter().find(|name| {
            rest.strip_prefix(**name).is_some_and(|rest| {
                rest.bytes()
                    .next()
                    .is_none_or(|byte| is_delimiter(byte.into()))
            })
        });
        let len = match odd {
            Some(name) => name.len(),
            None => rest
                .bytes()
                .position(|byte| is_delimiter(byte.into()))
                .unwrap_or(rest.len()),
        };
        let name = &rest[..len];
        self.by_name.get(name).map(|list| (name, list))
    }
}

/// Adds a list's items, lists among them resolved; the name of a list that is too large.
fn expand<'a>(
    table: &'a Table<ListItem>,
    list: &'a ListItem,
    open: &mut Vec<&'a str>,
    out: &mut Vec<String>,
    budget: &mut usize,
    used: &mut HashSet<&'a str>,
) -> Result<(), &'a str> {
    for (item, _) in &list.items {
        *budget = budget.checked_sub(1).ok_or(list.name.as_str())?;
        match table.get(item) {
            // A list that names itself means the word.
            Some(inner) if !open.contains(&inner.name.as_str()) => {
                if open.len() >= NESTING_MAX {
                    return Err(&list.name);
                }
                used.insert(&inner.name);
                open.push(&inner.name);
                expand(table, inner, open, out, budget, used)?;
                open.pop();
            }
            _ => out.push(item.clone()),
        }
    }
    Ok(())
}

/// The condition with its exceptions behind it.
pub(crate) fn with_exceptions(
    condition: &Text,
    exceptions: &[ExceptionItem],
) -> Result<Text, Box<Diagnostic>> {
    let mut text = Text::default();
    let Some(first) = exceptions.first() else {
        return Ok(condition.clone());
    };
    text.push_for("(", first.place);
    text.push_text(condition);
    text.push_for(")", first.place);
    for exception in exceptions {
        let mut excepted = Text::default();
        match &exception.fields {
            Some(Entry::One(field, _)) => one_field(exception, field, &mut excepted)?,
            Some(Entry::Many(fields, _)) => many_fields(exception, fields, &mut excepted)?,
            None => {}
        }
        if !excepted.is_empty() {
            text.push_for(" and not ", exception.place);
            text.push_text(&excepted);
        }
    }
    Ok(text)
}

fn one_field(
    exception: &ExceptionItem,
    field: &Text,
    out: &mut Text,
) -> Result<(), Box<Diagnostic>> {
    let Some(Entry::One(comp, comp_place)) = &exception.comps else {
        return Ok(());
    };
    for (index, value) in exception.values.iter().enumerate() {
        let Entry::One(value, place) = value else {
            return Err(invalid(
                "Expected values array to contain a list of strings",
                value.place(),
            ));
        };
        if index == 0 {
            out.push_for("(", *place);
            out.push_text(field);
            out.push_for(" ", *comp_place);
            out.push_for(comp.as_str().trim(), *comp_place);
            out.push_for(" (", *place);
        } else {
            out.push_for(", ", *place);
        }
        push_quoted(out, value, *place);
    }
    if let Some(last) = exception.values.last() {
        out.push_for("))", last.place());
    }
    Ok(())
}

fn many_fields(
    exception: &ExceptionItem,
    fields: &[Entry],
    out: &mut Text,
) -> Result<(), Box<Diagnostic>> {
    let Some(Entry::Many(comps, _)) = &exception.comps else {
        return Ok(());
    };
    let place = exception.place;
    for (index, tuple) in exception.values.iter().enumerate() {
        let equal_length = "Fields and values lists must have equal length";
        let Entry::Many(values, _) = tuple else {
            return Err(invalid(equal_length, tuple.place()));
        };
        if values.len() != fields.len() {
            return Err(invalid(equal_length, tuple.place()));
        }
        out.push_for(if index == 0 { "((" } else { " or (" }, place);
        for (nth, ((field, comp), value)) in fields.iter().zip(comps).zip(values).enumerate() {
            let (Entry::One(field, _), Entry::One(comp, comp_place)) = (field, comp) else {
                return Err(invalid(
                    "Fields and comps must hold strings",
                    exception.place,
                ));
            };
            if nth > 0 {
                out.push_for(" and ", place);
            }
            out.push_text(field);
            out.push_for(" ", *comp_place);
            out.push_for(comp.as_str().trim(), *comp_place);
            out.push_for(" ", *comp_place);
            push_value(out, value, crate::parser::parse_operator(comp.as_str()))?;
        }
        out.push_for(")", place);
    }
    if !exception.values.is_empty() {
        out.push_for(")", place);
    }
    Ok(())
}

fn push_value(
    out: &mut Text,
    value: &Entry,
    comp: Option<(Op, Option<Modifier>)>,
) -> Result<(), Box<Diagnostic>> {
    match value {
        Entry::Many(items, place) => {
            out.push_for("(", *place);
            for (index, item) in items.iter().enumerate() {
                let Entry::One(text, place) = item else {
                    return Err(invalid("a value's list must hold strings", item.place()));
                };
                if index > 0 {
                    out.push_for(", ", *place);
                }
                push_quoted(out, text, *place);
            }
            out.push_for(")", *place);
        }
        Entry::One(text, place) => {
            let takes_list = matches!(
                comp,
                Some((Op::In | Op::PMatch | Op::Intersects, _) | (_, Some(_)))
            );
            if takes_list && !text.as_str().starts_with('(') {
                out.push_for("(", *place);
                out.push_text(text);
                out.push_for(")", *place);
            } else if takes_list {
                out.push_text(text);
            } else {
                push_quoted(out, text, *place);
            }
        }
    }
    Ok(())
}

fn push_quoted(out: &mut Text, text: &Text, place: Place) {
    match quoting(text.as_str()) {
        Quoting::Bare => out.push_text(text),
        Quoting::Verbatim => {
            out.push_for("\"", place);
            out.push_text(text);
            out.push_for("\"", place);
        }
        Quoting::Escaped => out.push_for(&quote_escaped(text.as_str()), place),
    }
}

fn quote_item(item: &str) -> String {
    match quoting(item) {
        Quoting::Bare => item.to_owned(),
        Quoting::Verbatim => format!("\"{item}\""),
        Quoting::Escaped => quote_escaped(item),
    }
}

enum Quoting {
    Bare,
    /// As Falco quotes a text with blanks: escapes in it are the author's.
    Verbatim,
    /// Falco would take the text apart.
    Escaped,
}

fn quoting(item: &str) -> Quoting {
    let has_quotes = item.contains(['"', '\'']);
    if item.starts_with(['"', '\'']) {
        Quoting::Bare
    } else if item.is_empty() || item.contains(|c: char| c.is_ascii_whitespace()) {
        if item.contains('"') && !item.contains('\\') {
            Quoting::Escaped
        } else {
            Quoting::Verbatim
        }
    } else if (has_quotes || item.contains([',', '='])) && !item.contains('(') {
        Quoting::Escaped
    } else {
        Quoting::Bare
    }
}

fn quote_escaped(item: &str) -> String {
    format!("\"{}\"", item.replace('\\', "\\\\").replace('"', "\\\""))
}

fn invalid(message: &str, place: Place) -> Box<Diagnostic> {
    Box::new(Diagnostic::new(Code::InvalidException, message).at(place, ""))
}

/// One behind the end of a quoted string, or the end of the text where it never ends.
fn quoted_end(bytes: &[u8], start: usize) -> usize {
    let mut previous = 0;
    for (index, &byte) in bytes.iter().enumerate().skip(start + 1) {
        if byte == bytes[start] && previous != b'\\' {
            return index + 1;
        }
        previous = byte;
    }
    bytes.len()
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

fn is_delimiter(c: u32) -> bool {
    u8::try_from(c).is_ok_and(|byte| is_blank(byte) || matches!(byte, b'(' | b')' | b',' | b'='))
}
