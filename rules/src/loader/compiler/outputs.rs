//! Outputs: a rule's text with what the options add, read as a template.

use super::Compiler;
use crate::{
    ast::Span,
    check::lint,
    diagnostic::{Code, Diagnostic},
    loader::items::RuleItem,
    template::Template,
};

impl Compiler<'_> {
    /// The output's text with what the options add.
    pub(super) fn output(&self, item: &RuleItem) -> String {
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

    pub(super) fn output_template(
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
}
