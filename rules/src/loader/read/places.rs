//! Where nodes and keys stand in their file, and diagnostics there.

use super::{About, Broken, Read, Reader};
use crate::{
    ast::Span,
    diagnostic::{Code, Diagnostic, Place},
    loader::yaml::{Kind, Node},
};

impl Reader<'_> {
    pub(super) fn place(&self, node: &Node) -> Place {
        Place {
            file: self.file,
            span: node.span,
        }
    }

    /// The beginning of a node, where the whole would cover many lines.
    pub(super) fn head(&self, node: &Node) -> Place {
        if let Kind::Mapping(entries) = &node.kind
            && let Some((key, _)) = entries.first()
        {
            return self.place(key);
        }
        let text = self
            .source
            .text
            .get(node.span.start..node.span.end)
            .unwrap_or("");
        let len = text.find('\n').unwrap_or(text.len());
        let span = Span::new(node.span.start, node.span.start + len);
        Place {
            file: self.file,
            span,
        }
    }

    pub(super) fn place_of_key(&self, node: &Node, key: &str) -> Place {
        node.get(key)
            .map_or(self.head(node), |value| self.head(value))
    }

    pub(super) fn place_of_key_itself(&self, node: &Node, key: &str) -> Place {
        let Kind::Mapping(entries) = &node.kind else {
            return self.head(node);
        };
        entries
            .iter()
            .find(|(name, _)| name.scalar() == Some(key))
            .map_or(self.head(node), |(name, _)| self.place(name))
    }

    pub(super) fn report(&mut self, code: Code, message: &str, place: Place) {
        self.diagnostics
            .push(Diagnostic::new(code, message).at(place, ""));
    }

    pub(super) fn report_about(
        &mut self,
        code: Code,
        message: String,
        place: Place,
        about: About<'_>,
    ) {
        let diagnostic = Diagnostic::new(code, message)
            .at(place, "")
            .about(about.kind, about.name);
        self.diagnostics.push(diagnostic);
    }

    pub(super) fn warn(&mut self, code: Code, message: String, place: Place, about: About<'_>) {
        self.report_about(code, message, place, about);
    }

    pub(super) fn broken<T>(&mut self, code: Code, message: &str, place: Place) -> Read<T> {
        self.report(code, message, place);
        Err(Broken)
    }

    pub(super) fn wrong<T>(&mut self, node: &Node, message: &str, about: About<'_>) -> Read<T> {
        let place = self.head(node);
        self.report_about(Code::WrongType, message.to_owned(), place, about);
        Err(Broken)
    }

    pub(super) fn no_previous<T>(
        &mut self,
        message: &str,
        place: Place,
        about: About<'_>,
    ) -> Read<T> {
        self.report_about(Code::NoPreviousItem, message.to_owned(), place, about);
        Err(Broken)
    }
}
