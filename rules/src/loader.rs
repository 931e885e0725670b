//! Rules files to checked rules: YAML is read, lists, macros, overrides and exceptions are resolved,
//! conditions and outputs are checked.
//!
//! Files are read in order, and what a later file says extends or replaces what an earlier one said.
//! Everything wrong is reported in one go. All work is bounded by the size of the input: files, lists,
//! macros and diagnostics have limits, so hostile files are refused and not survived by luck.

mod items;
mod messages;
mod read;
mod resolve;
mod text;
pub(crate) mod yaml;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use serde_json::{Value, json};

pub use read::ENGINE_VERSION;
pub(crate) use text::Text;

use crate::{
    ast::{self, Span},
    check::{self, Checker, MacroError, Typed, lint, reach},
    diagnostic::{Code, Diagnostic, Lines, Place, Severity, nearest},
    expr::{Expr, FieldRef, Operand},
    parser,
    ruleset::{Detection, Rule, RuleSet},
    template::Template,
};
use items::{MacroItem, RuleItem, SequenceItem};
use read::{Collected, Reader};
use resolve::Lists;

const FILE_BYTES_MAX: usize = 32 << 20;
/// Nobody reads more, and each costs what rendering its line costs.
const DIAGNOSTICS_MAX: usize = 1_000;
/// What the conditions of a load may take together, in bytes, roughly: a list or macro that many rules name is
/// copied into each.
const CONDITIONS_BYTES_MAX: usize = 256 << 20;
/// Each level costs stack. Falco's rules nest four deep.
const MACRO_NESTING_MAX: usize = 64;
/// Errors of macros that are shown with one condition.
const MACRO_ERRORS_MAX: usize = 32;

/// A rules file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// Its path, or what stands for one.
    pub name: String,
    /// Its contents.
    pub text: String,
    /// A library's lists and macros may stay unused without a warning.
    pub is_library: bool,
}

/// What loading depends on besides the files.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Sources of events that exist; rules of others are skipped.
    pub sources: Vec<String>,
    /// Text behind the outputs of rules.
    pub extra_outputs: Vec<ExtraOutput>,
    /// Whether the rules will run first match only, so that a rule may hide those behind it; then such
    /// rules are warned of.
    pub first_match: bool,
}

/// Text behind the outputs of some rules.
#[derive(Clone, Debug, Default)]
pub struct ExtraOutput {
    /// What is added, behind a blank.
    pub format: String,
    /// Only to rules of this source; empty: of any.
    pub source: String,
    /// Only to rules with all these tags.
    pub tags: Vec<String>,
    /// Only to the rule of this name; empty: to any.
    pub rule: String,
}

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

impl SourceFile {
    /// A file of the user's.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            text: text.into(),
            is_library: false,
        }
    }

    /// A file whose lists and macros are there to be used by others.
    pub fn library(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            is_library: true,
            ..Self::new(name, text)
        }
    }
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            sources: vec!["syscall".to_owned()],
            extra_outputs: Vec::new(),
            first_match: false,
        }
    }
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

    /// Keeps what is shown within bounds, and warnings from crowding out errors.
    fn truncate(&mut self) {
        if self.diagnostics.len() > DIAGNOSTICS_MAX {
            // Stable: within a severity, in the order of files.
            self.diagnostics
                .sort_by_key(|diagnostic| diagnostic.severity);
            self.diagnostics.truncate(DIAGNOSTICS_MAX);
            self.sort();
        }
    }

    /// In the order of files.
    fn sort(&mut self) {
        self.diagnostics.sort_by_key(|diagnostic| {
            let place = diagnostic.primary.as_ref().map(|label| label.place);
            let place = place.unwrap_or_default();
            (place.file, place.span.start)
        });
    }
}

/// Loads rules files in order.
pub fn load(files: &[SourceFile], options: &LoadOptions) -> LoadReport {
    let mut report = LoadReport {
        files: files.to_vec(),
        ..LoadReport::default()
    };
    let mut collected = Collected::default();
    for (index, file) in files.iter().enumerate() {
        if file.text.len() > FILE_BYTES_MAX {
            let message = format!("file has more than {FILE_BYTES_MAX} bytes");
            let place = Place {
                file: index,
                span: Span::default(),
            };
            report
                .diagnostics
                .push(Diagnostic::new(Code::TooLarge, message).at(place, ""));
            continue;
        }
        match yaml::parse(&file.text, index) {
            Err(diagnostic) => report.diagnostics.push(*diagnostic),
            Ok(documents) => {
                let mut reader = Reader {
                    file: index,
                    source: file,
                    collected: &mut collected,
                    diagnostics: &mut report.diagnostics,
                    known_sources: &options.sources,
                };
                for document in &documents {
                    reader.document(document);
                }
            }
        }
    }
    Compiler::new(&collected, options, &mut report.diagnostics).run(
        &mut report.ruleset,
        &mut report.rules,
        &report.files,
    );
    report.macros = collected
        .macros
        .items()
        .iter()
        .map(|item| item.name.clone())
        .collect();
    let lists = Lists::new(&collected.lists, &mut Vec::new());
    report.lists = collected
        .lists
        .items()
        .iter()
        .map(|list| ListText {
            name: list.name.clone(),
            items: lists.items(&list.name).to_vec(),
        })
        .collect();
    report.sort();
    report.truncate();
    report
}

/// Checks a condition that uses no lists or macros.
pub fn check_condition(text: &str) -> Result<Expr, Vec<Diagnostic>> {
    let (checked, diagnostics) = check_condition_with_warnings(text);
    checked.ok_or_else(|| {
        diagnostics
            .into_iter()
            .filter(|diagnostic| diagnostic.severity == Severity::Error)
            .collect()
    })
}

/// Checks a condition that uses no lists or macros: the condition if it is sound, and every diagnostic.
pub fn check_condition_with_warnings(text: &str) -> (Option<Expr>, Vec<Diagnostic>) {
    let mut written = Text::default();
    written.push_copy(text, 0, 0);
    let mut diagnostics = Vec::new();
    let typed = match parser::parse(text) {
        Ok(expr) => {
            let mut checker = Checker {
                text: &written,
                diagnostics: &mut diagnostics,
                macros: &mut |_| Err(MacroError::Undefined(None)),
            };
            checker.expr(&expr)
        }
        Err(error) => {
            diagnostics.push(syntax_diagnostic(&error, &written));
            None
        }
    };
    (typed.map(|typed| typed.expr), diagnostics)
}

/// Checks a condition's grammar alone: names are not looked up.
pub fn check_condition_syntax(text: &str) -> Result<ast::Expr, Box<Diagnostic>> {
    let mut written = Text::default();
    written.push_copy(text, 0, 0);
    parser::parse(text).map_err(|error| Box::new(syntax_diagnostic(&error, &written)))
}

fn syntax_diagnostic(error: &parser::SyntaxError, text: &Text) -> Diagnostic {
    let diagnostic = Diagnostic::new(Code::ConditionSyntax, error.message.clone())
        .at(text.place(error.span), "here");
    match &error.help {
        Some(help) => diagnostic.help(help.as_str()),
        None => diagnostic,
    }
}

/// Turns what was collected into checked rules.
struct Compiler<'a> {
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

/// A macro on its way to a typed condition.
struct MacroState {
    /// The condition with lists resolved, and its syntax tree if it has one.
    text: Text,
    parsed: Option<ast::Expr>,
    typed: Progress,
    is_used: bool,
}

enum Progress {
    NotYet,
    Running,
    Done(Typed),
    /// With the errors of its condition; none where its syntax error was reported.
    Failed(Vec<Diagnostic>),
}

impl<'a> Compiler<'a> {
    fn new(
        collected: &'a Collected,
        options: &'a LoadOptions,
        diagnostics: &'a mut Vec<Diagnostic>,
    ) -> Self {
        let lists = Lists::new(&collected.lists, diagnostics);
        let mut macros = Vec::new();
        for item in collected.macros.items() {
            let (text, parsed) = match parse(&lists, &item.condition) {
                Ok((text, parsed)) => (text, Some(parsed)),
                Err(diagnostic) => {
                    diagnostics.push(diagnostic.about("macro", &item.name));
                    (Text::default(), None)
                }
            };
            macros.push(MacroState {
                text,
                parsed,
                typed: Progress::NotYet,
                is_used: false,
            });
        }
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

    fn run(mut self, ruleset: &mut RuleSet, texts: &mut Vec<RuleText>, files: &[SourceFile]) {
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
            enabled: item.enabled,
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

    fn sequence(
        &mut self,
        item: &RuleItem,
        sequence: &SequenceItem,
        found: &mut Vec<Diagnostic>,
    ) -> Option<Detection> {
        let by = self.sequence_field(sequence, found);
        if let Some(exception) = item.exceptions.first() {
            let message = "exceptions do not apply to a sequence; put them into its steps";
            found.push(Diagnostic::new(Code::InvalidSequence, message).at(exception.place, ""));
        }
        let mut steps = Vec::with_capacity(sequence.steps.len());
        for step in &sequence.steps {
            if let Some((typed, _)) = self.condition(step, found) {
                self.warn_breadth(item, &typed.expr, found);
                steps.push(typed.expr);
            }
        }
        (steps.len() == sequence.steps.len()).then_some(())?;
        Some(Detection::Sequence {
            by: by?,
            within: Duration::from_nanos(sequence.within_ns),
            steps,
        })
    }

    fn sequence_field(
        &mut self,
        sequence: &SequenceItem,
        found: &mut Vec<Diagnostic>,
    ) -> Option<FieldRef> {
        let text = sequence.by.as_str();
        let place = sequence.by.place(Span::new(0, text.len()));
        let operand = match parser::parse_operand(text.trim()) {
            Ok(operand) => operand,
            Err(error) => {
                let diagnostic = Diagnostic::new(Code::InvalidSequence, error.message);
                found.push(diagnostic.at(place, ""));
                return None;
            }
        };
        match check::check_output_operand(&operand) {
            Ok(Operand::Field(field)) => Some(field),
            Ok(_) => {
                let message = "a sequence is kept by a field, not by a transformer";
                found.push(Diagnostic::new(Code::InvalidSequence, message).at(sequence.place, ""));
                None
            }
            Err(diagnostics) => {
                for mut diagnostic in diagnostics {
                    diagnostic.secondary.clear();
                    found.push(diagnostic.at(place, ""));
                }
                None
            }
        }
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

    /// A macro's typed condition, checked at its first use.
    fn macro_(
        &mut self,
        name: &ast::Name,
        visible_until: usize,
        used_at: Place,
        found: &mut Vec<Diagnostic>,
    ) -> Result<Typed, MacroError> {
        let collected = self.collected;
        let Some(index) = collected.macros.index(&name.text) else {
            let names = collected
                .macros
                .items()
                .iter()
                .map(|item| item.name.as_str());
            return Err(MacroError::Undefined(
                nearest(&name.text, names).map(str::to_owned),
            ));
        };
        self.macros[index].is_used = true;
        if matches!(self.macros[index].typed, Progress::Running) {
            return Err(MacroError::Loop);
        }
        if collected.macros.items()[index].defined >= visible_until {
            return Err(MacroError::Later);
        }
        if matches!(self.macros[index].typed, Progress::NotYet) {
            self.macros[index].typed = Progress::Running;
            let item = &collected.macros.items()[index];
            self.macros[index].typed = self.check_macro(index, item);
        }
        match &mut self.macros[index].typed {
            Progress::Done(typed) => Ok(typed.clone()),
            Progress::NotYet | Progress::Running => Err(MacroError::Loop),
            Progress::Failed(diagnostics) => {
                let item = &collected.macros.items()[index];
                for diagnostic in diagnostics.iter() {
                    // Macros that use a broken one twice must not double its errors at every step.
                    let is_known = found.iter().any(|other: &Diagnostic| {
                        other.code == diagnostic.code && other.primary == diagnostic.primary
                    });
                    if is_known || found.len() >= MACRO_ERRORS_MAX {
                        continue;
                    }
                    let mut diagnostic = diagnostic.clone();
                    if diagnostic.secondary.is_empty() {
                        let label = format!("in macro `{}`, used here", item.name);
                        diagnostic = diagnostic.also(used_at, label);
                    }
                    found.push(diagnostic);
                }
                Err(MacroError::Broken)
            }
        }
    }

    fn check_macro(&mut self, index: usize, item: &MacroItem) -> Progress {
        if self.nesting >= MACRO_NESTING_MAX {
            let message = format!("macros refer to each other more than {MACRO_NESTING_MAX} deep");
            return Progress::Failed(vec![
                Diagnostic::new(Code::TooLarge, message).at(item.place, ""),
            ]);
        }
        let Some(parsed) = self.macros[index].parsed.take() else {
            return Progress::Failed(Vec::new());
        };
        self.nesting += 1;
        let text = std::mem::take(&mut self.macros[index].text);
        let mut found = Vec::new();
        let typed = self.check(&text, &parsed, item.changed, &mut found);
        let typed = typed.filter(|typed| self.spend(&text, typed, &mut found).is_some());
        self.nesting -= 1;
        self.macros[index].parsed = Some(parsed);
        self.macros[index].text = text;
        let (errors, warnings): (Vec<_>, Vec<_>) = found
            .into_iter()
            .map(|diagnostic| match diagnostic.item {
                None => diagnostic.about("macro", &item.name),
                Some(_) => diagnostic,
            })
            .partition(|diagnostic| diagnostic.severity == Severity::Error);
        self.diagnostics.extend(warnings);
        match typed {
            Some(typed) if errors.is_empty() => Progress::Done(typed),
            _ => Progress::Failed(errors),
        }
    }

    /// Puts macros' syntax trees in the place of their names.
    fn expand(&self, expr: &mut ast::Expr) {
        match expr {
            ast::Expr::And(parts) | ast::Expr::Or(parts) => {
                for part in parts {
                    self.expand(part);
                }
            }
            ast::Expr::Not(part, _) => self.expand(part),
            ast::Expr::Macro(name) => {
                let index = self.collected.macros.index(&name.text);
                if let Some(parsed) = index.and_then(|index| self.macros[index].parsed.as_ref()) {
                    let mut inner = parsed.clone();
                    self.expand(&mut inner);
                    *expr = inner;
                }
            }
            ast::Expr::Test(_) => {}
        }
    }

    fn warn_breadth(&mut self, item: &RuleItem, expr: &Expr, found: &mut Vec<Diagnostic>) {
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

    /// The output's text with what the options add.
    fn output(&self, item: &RuleItem) -> String {
        let mut output = item.output.as_str().to_owned();
        for extra in &self.options.extra_outputs {
            let applies = (extra.source.is_empty() || extra.source == item.source)
                && (extra.rule.is_empty() || extra.rule == item.name)
                && extra.tags.iter().all(|tag| item.tags.contains(tag));
            if applies {
                output.push(' ');
                output.push_str(&extra.format);
            }
        }
        output.replace("%container.info", "")
    }

    fn output_template(
        &self,
        item: &RuleItem,
        text: &str,
        found: &mut Vec<Diagnostic>,
    ) -> Option<Template> {
        if item.output.as_str().contains("%container.info") {
            let message =
                "%container.info is deprecated and no longer useful; it is removed from the output";
            let place = item.output.place(Span::new(0, item.output.as_str().len()));
            found.push(Diagnostic::new(Code::DeprecatedField, message).at(place, ""));
        }
        let template = match Template::parse(text) {
            Ok(template) => template,
            Err(errors) => {
                for error in errors {
                    // What the options add has no place in a file.
                    let span = if error.span.end <= item.output.as_str().len() {
                        error.span
                    } else {
                        Span::new(0, item.output.as_str().len())
                    };
                    let mut diagnostic =
                        Diagnostic::new(error.code, error.message).at(item.output.place(span), "");
                    diagnostic.help = error.help.into_iter().collect();
                    found.push(diagnostic);
                }
                return None;
            }
        };
        for field in template.fields() {
            if let Some(help) = lint::deprecated(field.field) {
                let name = field.field.info().name;
                let message = format!(
                    "usage of deprecated field '{name}' has been detected in the rule output"
                );
                let at = item.output.as_str().find(name).unwrap_or(0);
                let place = item.output.place(Span::new(at, at + name.len()));
                found.push(
                    Diagnostic::new(Code::DeprecatedField, message)
                        .at(place, "")
                        .help(help),
                );
            }
        }
        Some(template)
    }

    /// Macros that no rule uses but another macro names are used in Falco's sense.
    /// A library's own use of a macro that the user defines anew is no use of the user's.
    fn mark_macros_used_by_macros(&mut self, files: &[SourceFile]) {
        let mut named = Vec::new();
        for (state, item) in self.macros.iter().zip(self.collected.macros.items()) {
            if files[item.place.file].is_library {
                continue;
            }
            if let Some(parsed) = &state.parsed {
                collect_macros(parsed, &mut named);
            }
        }
        for name in named {
            if let Some(index) = self.collected.macros.index(&name) {
                self.macros[index].is_used = true;
            }
        }
    }

    fn warn_unused(&mut self, files: &[SourceFile]) {
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
    fn warn_shadowed(&mut self, ruleset: &RuleSet) {
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

fn parse(lists: &Lists<'_>, text: &Text) -> Result<(Text, ast::Expr), Box<Diagnostic>> {
    let text = lists.substitute(text)?;
    match parser::parse(text.as_str()) {
        Ok(expr) => Ok((text, expr)),
        Err(error) => Err(Box::new(syntax_diagnostic(&error, &text))),
    }
}

fn collect_macros(expr: &ast::Expr, names: &mut Vec<String>) {
    match expr {
        ast::Expr::And(parts) | ast::Expr::Or(parts) => {
            for part in parts {
                collect_macros(part, names);
            }
        }
        ast::Expr::Not(part, _) => collect_macros(part, names),
        ast::Expr::Macro(name) => names.push(name.text.clone()),
        ast::Expr::Test(_) => {}
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
