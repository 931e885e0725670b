//! Rules files to checked rules: YAML is read, lists, macros, overrides and exceptions are resolved,
//! conditions and outputs are checked.
//!
//! Files are read in order, and what a later file says extends or replaces what an earlier one said.
//! Everything wrong is reported in one go. All work is bounded by the size of the input: files, lists,
//! macros and diagnostics have limits, so hostile files are refused and not survived by luck.

mod compiler;
mod condition;
mod items;
mod messages;
mod read;
mod report;
mod resolve;
mod text;
pub(crate) mod yaml;

pub use condition::{check_condition, check_condition_syntax, check_condition_with_warnings};
pub use read::ENGINE_VERSION;
pub use report::{ListText, LoadReport, RuleText};
pub(crate) use text::Text;

use crate::{
    ast::Span,
    diagnostic::{Code, Diagnostic, Place},
    ruleset::Profile,
};
use compiler::Compiler;
use read::{Collected, Reader};
use resolve::Lists;

const FILE_BYTES_MAX: usize = 32 << 20;

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
    /// Only rules that this profile enables are enabled; `None`: whatever their profiles are.
    pub profile: Option<Profile>,
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
            profile: None,
        }
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
