//! Turns what was collected from all files into checked rules.
//!
//! Here a rule is put together and its conditions are checked within bounds; macros, outputs, sequences and
//! warnings are left to the modules below.

mod macros;
mod outputs;
mod sequences;
mod warnings;

use std::time::Duration;

use super::{
    LoadOptions, RuleText, SourceFile,
    condition::syntax_diagnostic,
    items::RuleItem,
    read::Collected,
    report::DIAGNOSTICS_MAX,
    resolve::{self, Lists},
    text::Text,
};
use crate::{
    ast::{self, Span},
    check::{Checker, Typed, reach},
    diagnostic::{Code, Diagnostic, Lines, Severity},
    parser,
    ruleset::{Detection, Rule, RuleSet},
};
use macros::MacroState;

/// What the conditions of a load may take together, in bytes, roughly: a list or macro that many rules name is
/// copied into each.
const CONDITIONS_BYTES_MAX: usize = 256 << 20;

/// Turns what was collected into checked rules.
pub(super) struct Compiler<'a> {
    collected: &'a Collected,
    options: &'a LoadOptions,
    lists: Lists<'a>,
    macros: Vec<MacroState>,
    /// How many macros are being checked, each for the sake of the one before.
    nesting: usize,
    /// What is left of [`CONDITIONS_BYTES_MAX`]; `None` once that was exceeded, which is reported once.
    bytes_left: Option<usize>,
    /// Rules with errors so far.
    broken_rules: usize,
    diagnostics: &'a mut Vec<Diagnostic>,
}

impl<'a> Compiler<'a> {
    pub(super) fn new(
        collected: &'a Collected,
        options: &'a LoadOptions,
        diagnostics: &'a mut Vec<Diagnostic>,
    ) -> Self {
        let lists = Lists::new(&collected.lists, diagnostics);
        let macros = macros::states(collected, &lists, diagnostics);
        Self {
            collected,
            options,
            lists,
            macros,
            nesting: 0,
            bytes_left: Some(CONDITIONS_BYTES_MAX),
            broken_rules: 0,
            diagnostics,
        }
    }

    pub(super) fn run(
        mut self,
        ruleset: &mut RuleSet,
        texts: &mut Vec<RuleText>,
        files: &[SourceFile],
    ) {
        let lines = Lines::new(files);
        for item in self.collected.rules.items() {
            if !self.options.sources.contains(&item.source) {
                continue;
            }
            // What is wrong beyond is not shown.
            if self.bytes_left.is_none() || self.broken_rules > DIAGNOSTICS_MAX {
                break;
            }
            if let Some((rule, text)) = self.rule(item, files, &lines) {
                ruleset.rules.push(rule);
                texts.push(text);
            }
        }
        self.mark_macros_used_by_macros(files);
        self.warn_unused(files);
        if self.options.first_match {
            self.warn_shadowed(ruleset);
        }
    }

    /// A rule, or `None` after reporting what is wrong with it.
    fn rule(
        &mut self,
        item: &RuleItem,
        files: &[SourceFile],
        lines: &Lines,
    ) -> Option<(Rule, RuleText)> {
        if item.is_broken && item.condition.is_empty() && item.sequence.is_none() {
            return None;
        }
        let output_text = self.output(item);
        let mut found = Vec::new();
        let output = self.output_template(item, &output_text, &mut found);
        let detection = match &item.sequence {
            Some(sequence) => self
                .sequence(item, sequence, &mut found)
                .map(|found| (found, String::new())),
            None => self.event_detection(item, &mut found),
        };
        if !self.settle(item, found) || item.is_broken {
            return None;
        }
        let (detection, compiled_condition) = detection?;
        let output = output?;
        let origin = item.changed_at;
        let line = lines.line(origin.file, origin.span.start);
        let rule = Rule {
            name: item.name.clone(),
            desc: item.desc.clone(),
            condition_text: condition_text(item),
            inactive: inactive(&detection),
            detection,
            output,
            priority: item.priority,
            source: item.source.clone(),
            tags: item.tags.iter().cloned().collect(),
            enabled: item.enabled
                && self
                    .options
                    .profile
                    .is_none_or(|profile| item.profiles.contains(&profile)),
            profiles: item.profiles.iter().copied().collect(),
            origin: (files[origin.file].name.clone(), line),
        };
        let text = RuleText {
            name: item.name.clone(),
            compiled_condition,
            compiled_output: output_text,
            capture: item.capture,
            capture_duration_ms: item.capture_duration_ms,
            place: item.changed_at,
        };
        Some((rule, text))
    }

    /// Reports what was found about a rule; whether the rule stands.
    fn settle(&mut self, item: &RuleItem, found: Vec<Diagnostic>) -> bool {
        let is_error = |diagnostic: &Diagnostic| diagnostic.severity == Severity::Error;
        let has_errors = found.iter().any(is_error);
        let is_skipped = has_errors
            && item.skip_if_unknown_filter
            && found
                .iter()
                .filter(|diagnostic| is_error(diagnostic))
                .all(is_unknown_name);
        self.broken_rules += usize::from(has_errors && !is_skipped);
        for diagnostic in found {
            let diagnostic = match diagnostic.item {
                None => diagnostic.about("rule", &item.name),
                Some(_) => diagnostic,
            };
            self.diagnostics
                .push(if is_skipped && is_error(&diagnostic) {
                    diagnostic
                        .as_warning()
                        .help("the rule is skipped, as skip-if-unknown-filter asks")
                } else {
                    diagnostic
                });
        }
        !has_errors
    }

    fn event_detection(
        &mut self,
        item: &RuleItem,
        found: &mut Vec<Diagnostic>,
    ) -> Option<(Detection, String)> {
        // Broken exceptions were reported and would only be reported again.
        let exceptions = if item.is_broken {
            &[]
        } else {
            item.exceptions.as_slice()
        };
        let text = match resolve::with_exceptions(&item.condition, exceptions) {
            Ok(text) => text,
            Err(diagnostic) => {
                found.push(*diagnostic);
                return None;
            }
        };
        let (typed, printed) = self.condition(&text, found)?;
        if item.source == "syscall" {
            self.warn_breadth(item, &typed.expr, found);
        }
        let detection = match item.hold_ns {
            None => Detection::Event(typed.expr),
            Some(ns) => Detection::For {
                condition: typed.expr,
                hold: Duration::from_nanos(ns),
            },
        };
        Some((detection, printed))
    }

    /// A condition typed, and printed with macros and lists resolved.
    fn condition(&mut self, text: &Text, found: &mut Vec<Diagnostic>) -> Option<(Typed, String)> {
        let (text, parsed) = match parse(&self.lists, text) {
            Ok(parsed) => parsed,
            Err(diagnostic) => {
                found.push(*diagnostic);
                return None;
            }
        };
        let typed = self.check(&text, &parsed, usize::MAX, found)?;
        self.spend(&text, &typed, found)?;
        // The check has bounded what the macros expand to.
        let mut printed = parsed;
        self.expand(&mut printed);
        Some((typed, printed.to_string()))
    }

    /// Takes a condition's size from what is left; `None` where that is too little.
    fn spend(&mut self, text: &Text, typed: &Typed, found: &mut Vec<Diagnostic>) -> Option<()> {
        let bytes = 4 * text.as_str().len() + 64 * (typed.nodes + typed.values);
        self.bytes_left = self.bytes_left?.checked_sub(bytes);
        if self.bytes_left.is_none() {
            let message = format!(
                "conditions take more than {CONDITIONS_BYTES_MAX} bytes in all once lists and macros are expanded; no further rule is read"
            );
            let place = text.place(Span::new(0, text.as_str().len()));
            found.push(Diagnostic::new(Code::TooLarge, message).at(place, ""));
        }
        self.bytes_left.map(|_| ())
    }

    fn check(
        &mut self,
        text: &Text,
        parsed: &ast::Expr,
        visible_until: usize,
        found: &mut Vec<Diagnostic>,
    ) -> Option<Typed> {
        let mut from_macros = Vec::new();
        let mut checker = Checker {
            text,
            diagnostics: found,
            macros: &mut |name| {
                let place = text.place(name.span);
                self.macro_(name, visible_until, place, &mut from_macros)
            },
        };
        let typed = checker.expr(parsed);
        found.append(&mut from_macros);
        typed
    }
}

fn parse(lists: &Lists<'_>, text: &Text) -> Result<(Text, ast::Expr), Box<Diagnostic>> {
    let text = lists.substitute(text)?;
    match parser::parse(text.as_str()) {
        Ok(expr) => Ok((text, expr)),
        Err(error) => Err(Box::new(syntax_diagnostic(&error, &text))),
    }
}

fn condition_text(item: &RuleItem) -> String {
    match &item.sequence {
        None => match resolve::with_exceptions(&item.condition, &item.exceptions) {
            Ok(text) => text.as_str().trim_end().to_owned(),
            Err(_) => item.condition.as_str().trim_end().to_owned(),
        },
        Some(sequence) => {
            let steps: Vec<_> = sequence
                .steps
                .iter()
                .map(|step| step.as_str().trim().to_owned())
                .collect();
            steps.join(" then ")
        }
    }
}

fn inactive(detection: &Detection) -> Vec<String> {
    match detection {
        Detection::Event(expr)
        | Detection::For {
            condition: expr, ..
        } => reach::inactive_reasons(expr),
        Detection::Sequence { steps, .. } => {
            let mut reasons: Vec<String> = steps.iter().flat_map(reach::inactive_reasons).collect();
            reasons.sort();
            reasons.dedup();
            reasons
        }
    }
}

/// Whether an error is but a name that this version does not know.
fn is_unknown_name(diagnostic: &Diagnostic) -> bool {
    matches!(
        diagnostic.code,
        Code::UnknownField | Code::FieldArgument | Code::UnknownEventType | Code::OutputField
    )
}
