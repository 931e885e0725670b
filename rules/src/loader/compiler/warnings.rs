//! Warnings of what is sound but hardly meant: rules that match too much, never match or hide behind others,
//! and lists and macros that nothing uses.

use std::collections::HashMap;

use super::Compiler;
use crate::{
    check::reach,
    diagnostic::{Code, Diagnostic, Place},
    expr::Expr,
    loader::{SourceFile, items::RuleItem, messages},
    ruleset::{Detection, Rule, RuleSet},
};

impl Compiler<'_> {
    pub(super) fn warn_breadth(
        &mut self,
        item: &RuleItem,
        expr: &Expr,
        found: &mut Vec<Diagnostic>,
    ) {
        match reach::breadth(expr) {
            reach::Breadth::Some => {}
            reach::Breadth::All if item.warn_evttypes => found.push(
                Diagnostic::new(Code::NoEventType, messages::NO_EVTTYPE)
                    .at(item.changed_at, "")
                    .help("restrict the rule, as in `evt.type = execve and …`"),
            ),
            reach::Breadth::All => {}
            reach::Breadth::None if reach::is_deliberately_never_true(expr) => {}
            reach::Breadth::None => found.push(
                Diagnostic::new(Code::NeverTrue, "the condition can never be true")
                    .at(item.changed_at, "no type of event meets it"),
            ),
        }
    }

    pub(super) fn warn_unused(&mut self, files: &[SourceFile]) {
        let is_library = |place: Place| files[place.file].is_library;
        for (state, item) in self.macros.iter().zip(self.collected.macros.items()) {
            if !state.is_used && !is_library(item.place) {
                let message = "Macro not referred to by any other rule/macro";
                let diagnostic = Diagnostic::new(Code::UnusedMacro, message).at(item.place, "");
                self.diagnostics.push(diagnostic.about("macro", &item.name));
            }
        }
        for item in self.collected.lists.items() {
            if !self.lists.is_used(&item.name) && !is_library(item.place) {
                let message = "List not referred to by any other rule/macro";
                let diagnostic = Diagnostic::new(Code::UnusedList, message).at(item.place, "");
                self.diagnostics.push(diagnostic.about("list", &item.name));
            }
        }
    }

    /// Under first match, a rule whose condition an earlier rule has as well never fires.
    pub(super) fn warn_shadowed(&mut self, ruleset: &RuleSet) {
        let mut seen: HashMap<String, &Rule> = HashMap::new();
        for rule in ruleset.rules.iter().filter(|rule| rule.enabled) {
            let Detection::Event(expr) = &rule.detection else {
                continue;
            };
            // A rule is hidden by one that asks for the same, or for a part of the same.
            let mut asked: Vec<&[Expr]> = vec![std::slice::from_ref(expr)];
            if let Expr::And(parts) = expr {
                asked.extend((1..parts.len()).map(|len| &parts[..len]));
                asked.extend(parts.iter().map(std::slice::from_ref));
            }
            let earlier = asked.iter().find_map(|part| seen.get(&key_of(part)));
            if let Some(earlier) = earlier
                && let Some(item) = self.collected.rules.get(&rule.name)
            {
                let message = format!(
                    "rule never fires: '{}' matches the same events first",
                    earlier.name
                );
                let mut diagnostic =
                    Diagnostic::new(Code::ShadowedRule, message).at(item.changed_at, "");
                if let Some(other) = self.collected.rules.get(&earlier.name) {
                    diagnostic = diagnostic.also(other.changed_at, "this rule is asked first");
                }
                self.diagnostics.push(diagnostic.about("rule", &rule.name));
                continue;
            }
            seen.entry(key_of(conjuncts(expr))).or_insert(rule);
        }
    }
}

fn conjuncts(expr: &Expr) -> &[Expr] {
    match expr {
        Expr::And(parts) => parts,
        other => std::slice::from_ref(other),
    }
}

fn key_of(parts: &[Expr]) -> String {
    match parts {
        [Expr::And(inner)] => format!("{inner:?}"),
        _ => format!("{parts:?}"),
    }
}
