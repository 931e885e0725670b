//! Reads the exceptions of a rule: structure only. Whether fields, operators and values fit together is
//! checked by [`complete_exception`](crate::loader::items::complete_exception) and when they become text.

use std::{collections::HashSet, rc::Rc};

use super::{About, Broken, Read, Reader};
use crate::{
    diagnostic::Code,
    loader::{
        items::{Entry, ExceptionItem},
        yaml::{Kind, Node},
    },
};

const EXCEPTION_KEYS: &[&str] = &["name", "fields", "comps", "values"];

impl Reader<'_> {
    pub(super) fn exceptions(
        &mut self,
        node: &Node,
        is_append: bool,
        about: About<'_>,
    ) -> Read<Vec<ExceptionItem>> {
        let nodes = match &node.kind {
            Kind::Null => return Ok(Vec::new()),
            Kind::Sequence(nodes) => nodes,
            _ => return self.wrong(node, "Rule exceptions must be a sequence", about),
        };
        let mut exceptions: Vec<ExceptionItem> = Vec::with_capacity(nodes.len());
        let mut names = HashSet::new();
        let mut broken = false;
        for node in nodes {
            let Ok(exception) = self.exception(node, is_append, about) else {
                broken = true;
                continue;
            };
            if !names.insert(exception.name.clone()) {
                let message = format!(
                    "Multiple definitions of exception '{}' in the same rule",
                    exception.name
                );
                self.warn(Code::ExceptionRepeated, message, exception.place, about);
            }
            exceptions.push(exception);
        }
        if broken { Err(Broken) } else { Ok(exceptions) }
    }

    fn exception(&mut self, node: &Node, is_append: bool, about: About<'_>) -> Read<ExceptionItem> {
        if !matches!(node.kind, Kind::Mapping(_)) {
            return self.wrong(node, "Rule exception must be a mapping", about);
        }
        self.unknown_keys(node, EXCEPTION_KEYS, about);
        let name_node = self.required(node, "name", about)?;
        let name = self.text_value(name_node, "name", about)?;
        let place = self.place(name_node);
        let fields = match node.get("fields") {
            None if is_append => None,
            _ => {
                let fields = self.required(node, "fields", about)?;
                Some(self.entry(fields, "fields", about)?)
            }
        };
        let comps = match node.get("comps") {
            None => None,
            Some(comps) => Some(self.entry(comps, "comps", about)?),
        };
        let mut values = Vec::new();
        match node.get("values") {
            Some(node) => {
                let Kind::Sequence(nodes) = &node.kind else {
                    return self.wrong(node, "Rule exception values must be a sequence", about);
                };
                for value in nodes {
                    values.push(self.entry(value, "values", about)?);
                }
            }
            None if is_append => {
                let message = "Overriding/appending exception with no values".to_owned();
                self.warn(Code::ExceptionWithoutValues, message, place, about);
            }
            None => {}
        }
        Ok(ExceptionItem {
            name: name.as_str().to_owned(),
            fields,
            comps,
            values,
            place,
        })
    }

    fn entry(&mut self, node: &Rc<Node>, key: &str, about: About<'_>) -> Read<Entry> {
        match &node.kind {
            Kind::Sequence(nodes) => {
                let mut entries = Vec::with_capacity(nodes.len());
                for node in nodes {
                    entries.push(self.entry(node, key, about)?);
                }
                Ok(Entry::Many(entries, self.place(node)))
            }
            _ => {
                let text = self.text_value(node, key, about)?;
                Ok(Entry::One(text, self.place(node)))
            }
        }
    }
}
