//! What loading yields, and how it is shown: for people, and in the shape of Falco's validation.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::SourceFile;
use crate::{
    diagnostic::{Code, Diagnostic, Lines, Place, Severity},
    ruleset::RuleSet,
};

/// Nobody reads more, and each costs what rendering its line costs.
pub(super) const DIAGNOSTICS_MAX: usize = 1_000;

/// What loading yields.
#[derive(Debug, Default)]
pub struct LoadReport {
    /// The rules that are sound. To be used only where there is no error.
    pub ruleset: RuleSet,
    /// Everything found, in order of files.
    pub diagnostics: Vec<Diagnostic>,
    /// The files, for rendering.
    pub files: Vec<SourceFile>,
    /// The texts of the rules, for listings.
    pub rules: Vec<RuleText>,
    /// The lists, with lists among their items resolved.
    pub lists: Vec<ListText>,
    /// The names of the macros.
    pub macros: Vec<String>,
}

/// A rule's texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleText {
    /// Its name.
    pub name: String,
    /// The condition in canonical form, lists and macros resolved, exceptions added. Empty for a sequence.
    pub compiled_condition: String,
    /// The output with what the options add.
    pub compiled_output: String,
    /// Whether matches should start a capture, as the file says. Saker records on request only.
    pub capture: bool,
    /// How long, in milliseconds.
    pub capture_duration_ms: Option<u32>,
    /// Where its name was last written.
    pub place: Place,
}

/// A list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListText {
    /// Its name.
    pub name: String,
    /// Its items.
    pub items: Vec<String>,
}

impl LoadReport {
    /// Whether any file is wrong.
    pub fn has_errors(&self) -> bool {
        self.diagnostics
            .iter()
            .any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// All diagnostics for people, errors and warnings in order.
    pub fn render(&self, colour: bool) -> String {
        let lines = Lines::new(&self.files);
        let mut out = String::new();
        for diagnostic in &self.diagnostics {
            out.push_str(&diagnostic.render_at(&self.files, &lines, colour));
            out.push('\n');
        }
        out
    }

    /// In the shape of Falco's validation: one result a file. A library of which there is nothing to say is
    /// left out, for the user named no such file. What would be expensive is no warning of Falco's, whose tools
    /// take a file with warnings for a worse one; it stands apart.
    pub fn to_falco_json(&self) -> Value {
        let own = self.files.iter().position(|file| !file.is_library);
        let lines = Lines::new(&self.files);
        let mut results = Vec::new();
        for (index, file) in self.files.iter().enumerate() {
            let found: Vec<_> = self
                .diagnostics
                .iter()
                .filter(|diagnostic| {
                    let place = diagnostic.primary.as_ref().map(|label| label.place);
                    place.map_or(own.unwrap_or(0), |place| place.file) == index
                })
                .collect();
            if found.is_empty() && file.is_library {
                continue;
            }
            let of = |wanted: &dyn Fn(&Diagnostic) -> bool| -> Vec<_> {
                let wanted = found.iter().filter(|diagnostic| wanted(diagnostic));
                wanted
                    .map(|diagnostic| diagnostic.to_falco_json_at(&self.files, &lines))
                    .collect()
            };
            let is_error = |found: &Diagnostic| found.severity == Severity::Error;
            let errors = of(&is_error);
            let mut result = json!({
                "name": file.name,
                "successful": errors.is_empty(),
                "errors": errors,
                "warnings": of(&|found| !is_error(found) && found.code != Code::Expensive),
            });
            let expensive = of(&|found| found.code == Code::Expensive);
            if !expensive.is_empty() {
                result["expensive"] = expensive.into();
            }
            results.push(result);
        }
        json!({ "falco_load_results": results })
    }

    /// Warns of rules that keep the kernel from dropping events early: their names, with the kinds of events
    /// that must all be seen because of them, as [`crate::kernel_filter::KernelFilter::blockers`] says.
    pub fn warn_expensive(&mut self, blockers: &BTreeMap<String, BTreeSet<String>>) {
        for (name, kinds) in blockers {
            let Some(rule) = self.rules.iter().find(|rule| rule.name == *name) else {
                continue;
            };
            let kinds: Vec<_> = kinds.iter().map(String::as_str).collect();
            let message = format!(
                "no event can be dropped in the kernel because of this rule, of: {}",
                kinds.join(", ")
            );
            self.diagnostics.push(
                Diagnostic::new(Code::Expensive, message)
                    .at(rule.place, "")
                    .about("rule", name)
                    .help("name event types, and for opens compare fd.name with paths, prefixes or suffixes"),
            );
        }
        self.sort();
    }

    /// Warns of rules with ends of paths that the kernel cannot compare, so that every open is reported: their names, with the ends.
    /// It compares at most `bytes_max`.
    pub fn warn_long_ends(&mut self, ends: &BTreeMap<String, BTreeSet<Vec<u8>>>, bytes_max: usize) {
        for (name, ends) in ends {
            let Some(rule) = self.rules.iter().find(|rule| rule.name == *name) else {
                continue;
            };
            let ends: Vec<_> = ends
                .iter()
                .map(|end| String::from_utf8_lossy(end))
                .collect();
            let message = format!(
                "every open on the node is reported because of this rule: the kernel cannot compare the end of a path with: {}",
                ends.join(", ")
            );
            let help = format!(
                "it compares what follows the last dot, or a whole name behind a slash, of at most {bytes_max} bytes with the dot or the slash; \
                 write one like that (`.pt`, `/token`), or compare whole paths or prefixes"
            );
            self.diagnostics.push(
                Diagnostic::new(Code::Expensive, message)
                    .at(rule.place, "")
                    .about("rule", name)
                    .help(help),
            );
        }
        self.sort();
    }

    /// Keeps what is shown within bounds, and warnings from crowding out errors.
    pub(super) fn truncate(&mut self) {
        if self.diagnostics.len() > DIAGNOSTICS_MAX {
            // Stable: within a severity, in the order of files.
            self.diagnostics
                .sort_by_key(|diagnostic| diagnostic.severity);
            self.diagnostics.truncate(DIAGNOSTICS_MAX);
            self.sort();
        }
    }

    /// In the order of files.
    pub(super) fn sort(&mut self) {
        self.diagnostics.sort_by_key(|diagnostic| {
            let place = diagnostic.primary.as_ref().map(|label| label.place);
            let place = place.unwrap_or_default();
            (place.file, place.span.start)
        });
    }
}
