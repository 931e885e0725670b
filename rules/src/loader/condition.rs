//! Checks single conditions, which use no lists or macros, and says what is wrong with any condition's grammar.

use super::Text;
use crate::{
    ast,
    check::{Checker, MacroError},
    diagnostic::{Code, Diagnostic, Severity},
    expr::Expr,
    parser,
};

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

pub(super) fn syntax_diagnostic(error: &parser::SyntaxError, text: &Text) -> Diagnostic {
    let diagnostic = Diagnostic::new(Code::ConditionSyntax, error.message.clone())
        .at(text.place(error.span), "here");
    match &error.help {
        Some(help) => diagnostic.help(help.as_str()),
        None => diagnostic,
    }
}
