//! Reads the items of rules files: structure, keys and their types.
//!
//! Keys that Falco knows mean what they mean there. Every wrong key is reported, not only the first.
//! Conditions and outputs are taken as text; what they say is checked once all files are read.
//! This file tells items apart; each kind is read in a module of its own.

mod exceptions;
mod lists;
mod macros;
mod overrides;
mod places;
mod rule_changes;
mod rules;
mod sequences;
mod values;
mod versions;

use super::{
    SourceFile,
    items::{ListItem, MacroItem, RuleItem, Table},
    yaml::{Kind, Node},
};
use crate::diagnostic::{Code, Diagnostic, nearest};
use lists::LIST_KEYS;
use macros::MACRO_KEYS;
use rules::RULE_KEYS;
pub use versions::ENGINE_VERSION;

/// All items of a load so far.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    pub(crate) lists: Table<ListItem>,
    pub(crate) macros: Table<MacroItem>,
    pub(crate) rules: Table<RuleItem>,
    pub(crate) engine_version: Option<(u32, u32, u32)>,
    /// Counts changes, for the visibility of macros.
    clock: usize,
    list_items: usize,
}

/// Reads one file's items into what was collected before.
pub(crate) struct Reader<'a> {
    pub(crate) file: usize,
    pub(crate) source: &'a SourceFile,
    pub(crate) collected: &'a mut Collected,
    pub(crate) diagnostics: &'a mut Vec<Diagnostic>,
    pub(crate) known_sources: &'a [String],
}

/// The item at hand, for its diagnostics.
#[derive(Clone, Copy)]
struct About<'n> {
    kind: &'static str,
    name: &'n str,
    node: &'n Node,
}

/// The item is broken beyond use; why was reported.
struct Broken;

type Read<T> = Result<T, Broken>;

impl Reader<'_> {
    /// Reads a document.
    pub(crate) fn document(&mut self, document: &Node) {
        let items = match &document.kind {
            Kind::Null => return,
            Kind::Sequence(items) => items,
            Kind::Mapping(_) => {
                let message = "Rules content is not yaml array of objects";
                let help = "begin every list, macro and rule with `- `";
                let diagnostic =
                    Diagnostic::new(Code::YamlStructure, message).at(self.head(document), "");
                self.diagnostics.push(diagnostic.help(help));
                return;
            }
            Kind::Scalar(..) => {
                self.report(
                    Code::YamlStructure,
                    "Rules content is not yaml",
                    self.head(document),
                );
                return;
            }
        };
        for item in items {
            if !item.is_null() {
                // What is wrong was reported; the next item is read all the same.
                let _ = self.item(item);
            }
        }
    }

    fn item(&mut self, node: &Node) -> Read<()> {
        let Kind::Mapping(entries) = &node.kind else {
            let message =
                "Unexpected element type. Each element should be a yaml associative array.";
            return self.broken(Code::YamlStructure, message, self.head(node));
        };
        if let Some(value) = node.get("required_engine_version") {
            return self.engine_version(value);
        }
        if let Some(value) = node.get("required_plugin_versions") {
            return self.plugin_versions(value);
        }
        for (kind, keys) in [
            ("list", LIST_KEYS),
            ("macro", MACRO_KEYS),
            ("rule", RULE_KEYS),
        ] {
            let Some(name_node) = node.get(kind) else {
                continue;
            };
            let name = self.text_value(
                name_node,
                kind,
                About {
                    kind,
                    name: "",
                    node,
                },
            )?;
            let name = name.as_str().to_owned();
            let about = About {
                kind,
                name: &name,
                node,
            };
            self.unknown_keys(node, keys, about);
            return match kind {
                "list" => self.list(about),
                "macro" => self.macro_(about),
                _ => self.rule(about),
            };
        }
        let place = entries
            .first()
            .map_or(self.head(node), |(key, _)| self.place(key));
        let name = entries
            .first()
            .and_then(|(key, _)| key.scalar())
            .unwrap_or("");
        let mut diagnostic = Diagnostic::new(
            Code::UnknownItem,
            format!("Unknown top level item '{name}'"),
        )
        .at(place, "");
        let known = [
            "list",
            "macro",
            "rule",
            "required_engine_version",
            "required_plugin_versions",
        ];
        if let Some(near) = nearest(name, known.into_iter()) {
            diagnostic = diagnostic.help(format!("did you mean `{near}`?"));
        }
        self.diagnostics.push(diagnostic);
        Ok(())
    }
}
