//! Macros: each is checked once, at its first use, and its errors are told to whatever uses it.

use super::{Compiler, parse};
use crate::{
    ast,
    check::{MacroError, Typed},
    diagnostic::{Code, Diagnostic, Place, Severity, nearest},
    loader::{SourceFile, items::MacroItem, read::Collected, resolve::Lists, text::Text},
};

/// Each level costs stack. Falco's rules nest four deep.
const MACRO_NESTING_MAX: usize = 64;

/// Errors of macros that are shown with one condition.
const MACRO_ERRORS_MAX: usize = 32;

/// A macro on its way to a typed condition.
pub(super) struct MacroState {
    /// The condition with lists resolved, and its syntax tree if it has one.
    text: Text,
    parsed: Option<ast::Expr>,
    typed: Progress,
    pub(super) is_used: bool,
}

/// How far the check of a macro is.
enum Progress {
    NotYet,
    Running,
    Done(Typed),
    /// With the errors of its condition; none where its syntax error was reported.
    Failed(Vec<Diagnostic>),
}

/// The macros before any is checked, their lists resolved.
pub(super) fn states(
    collected: &Collected,
    lists: &Lists<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<MacroState> {
    let mut macros = Vec::new();
    for item in collected.macros.items() {
        let (text, parsed) = match parse(lists, &item.condition) {
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
    macros
}

impl Compiler<'_> {
    /// A macro's typed condition, checked at its first use.
    pub(super) fn macro_(
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
    pub(super) fn expand(&self, expr: &mut ast::Expr) {
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

    /// Macros that no rule uses but another macro names are used in Falco's sense.
    /// A library's own use of a macro that the user defines anew is no use of the user's.
    pub(super) fn mark_macros_used_by_macros(&mut self, files: &[SourceFile]) {
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
