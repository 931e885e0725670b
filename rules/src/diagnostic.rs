//! What loading rules has to say: errors and warnings, each with a stable code, its place and help.
//!
//! A diagnostic points into the source files by bytes. Rendering for people and in Falco's JSON shape
//! happens here; when a diagnostic is due is decided by whoever makes it.

use std::fmt::Write;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde_json::{Value, json};

pub use code::Code;

use crate::{ast::Span, loader::SourceFile};

mod code;

/// Lines longer than this are not shown, for the renderer walks them for every diagnostic.
const EXCERPT_BYTES_MAX: usize = 32 << 10;

/// Whether loading fails because of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing is loaded.
    Error,
    /// The rules load.
    Warning,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Which kind of finding.
    pub code: Code,
    /// Usually the code's own; an unknown field is a mere warning in a rule that asks for that.
    pub severity: Severity,
    /// In one sentence, with the names involved.
    pub message: String,
    /// The place. `None` where no text is at fault.
    pub primary: Option<Label>,
    /// Other places that explain it, such as the macro that a condition came from.
    pub secondary: Vec<Label>,
    /// What to do about it.
    pub help: Vec<String>,
    /// The list, macro or rule that it is about.
    pub item: Option<Item>,
}

/// A place in a source file, with a word on its role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Where.
    pub place: Place,
    /// What is there; may be empty.
    pub text: String,
}

/// A range of bytes in a source file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Place {
    /// Index of the file in the load.
    pub file: usize,
    /// The bytes.
    pub span: Span,
}

/// A named part of a rules file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Item {
    /// `list`, `macro` or `rule`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
}

impl Diagnostic {
    /// A finding without a place.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            severity: code.severity(),
            message: message.into(),
            primary: None,
            secondary: Vec::new(),
            help: Vec::new(),
            item: None,
        }
    }

    /// Sets the place.
    #[must_use]
    pub fn at(mut self, place: Place, label: impl Into<String>) -> Self {
        self.primary = Some(Label {
            place,
            text: label.into(),
        });
        self
    }

    /// Adds an explaining place.
    #[must_use]
    pub fn also(mut self, place: Place, label: impl Into<String>) -> Self {
        self.secondary.push(Label {
            place,
            text: label.into(),
        });
        self
    }

    /// Adds help.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    /// Names the list, macro or rule that it is about.
    #[must_use]
    pub fn about(mut self, kind: &'static str, name: &str) -> Self {
        self.item = Some(Item {
            kind,
            name: name.to_owned(),
        });
        self
    }

    /// Turns it into a warning.
    #[must_use]
    pub fn as_warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    /// For people: message, place with source line and caret, help.
    pub fn render(&self, files: &[SourceFile], colour: bool) -> String {
        self.render_at(files, &Lines::new(files), colour)
    }

    pub(crate) fn render_at(&self, files: &[SourceFile], lines: &Lines, colour: bool) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level
            .primary_title(self.message.as_str())
            .id(self.code.id());
        let mut group = Group::with_title(title);
        for (file_index, file) in files.iter().enumerate() {
            let labels: Vec<_> = self
                .labels()
                .filter(|(label, _)| label.place.file == file_index)
                .collect();
            let spans: Vec<_> = labels
                .iter()
                .map(|(label, _)| clip(label.place.span, &file.text))
                .collect();
            let Some(first) = spans.iter().map(|span| span.start).min() else {
                continue;
            };
            let last = spans.iter().map(|span| span.end).max().unwrap_or(first);
            // Only the lines in question: the renderer walks all that it is given.
            let start = file.text[..first].rfind('\n').map_or(0, |at| at + 1);
            let end = file.text[last..]
                .find('\n')
                .map_or(file.text.len(), |at| last + at + 1);
            let line = lines.line(file_index, start) as usize;
            if end - start > EXCERPT_BYTES_MAX {
                let first = spans.iter().map(|span| span.start).min().unwrap_or(start);
                let origin = Origin::path(file.name.as_str())
                    .line(lines.line(file_index, first) as usize)
                    .char_column(column(&file.text, first) as usize);
                group = group.element(origin);
                continue;
            }
            let mut snippet = Snippet::source(&file.text[start..end])
                .line_start(line)
                .path(file.name.as_str());
            for ((label, kind), span) in labels.into_iter().zip(spans) {
                let mut annotation = kind.span(span.start - start..span.end - start);
                if !label.text.is_empty() {
                    annotation = annotation.label(label.text.as_str());
                }
                snippet = snippet.annotation(annotation);
            }
            group = group.element(snippet);
        }
        for help in &self.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        let renderer = if colour {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let mut text = renderer.render(&[group]);
        text.push('\n');
        text
    }

    /// In the shape of Falco's validation results. Lines and columns count from 0, as Falco's do.
    pub fn to_falco_json(&self, files: &[SourceFile]) -> Value {
        self.to_falco_json_at(files, &Lines::new(files))
    }

    pub(crate) fn to_falco_json_at(&self, files: &[SourceFile], lines: &Lines) -> Value {
        let place = self
            .primary
            .as_ref()
            .map(|label| label.place)
            .unwrap_or_default();
        let file = files.get(place.file);
        let (line, column) = file.map_or((1, 1), |file| {
            let line = lines.line(place.file, place.span.start);
            (line, column(&file.text, place.span.start))
        });
        let snippet = file.map_or("", |file| line_at(&file.text, place.span.start));
        let name = file.map_or("", |file| file.name.as_str());
        let position = json!({"name": name, "line": line - 1, "column": column - 1, "offset": place.span.start});
        let (kind, item) = self
            .item
            .as_ref()
            .map_or(("rules content", ""), |item| (item.kind, &item.name));
        let mut message = self.message.clone();
        for help in &self.help {
            let _ = write!(message, " ({help})");
        }
        let (code, description) = self.code.falco(self.severity);
        json!({
            "code": code,
            "codedesc": description,
            "message": message,
            "context": {
                "locations": [{"item_type": kind, "item_name": item, "position": position}],
                "snippet": snippet,
            },
        })
    }

    fn labels(&self) -> impl Iterator<Item = (&Label, AnnotationKind)> {
        self.primary
            .iter()
            .map(|label| (label, AnnotationKind::Primary))
            .chain(
                self.secondary
                    .iter()
                    .map(|label| (label, AnnotationKind::Context)),
            )
    }
}

/// Where the lines of files begin, so that not every diagnostic counts them anew.
#[derive(Debug)]
pub(crate) struct Lines {
    /// Of every line but a file's first.
    starts: Vec<Vec<usize>>,
}

impl Lines {
    pub(crate) fn new(files: &[SourceFile]) -> Self {
        let starts = |file: &SourceFile| {
            memchr::memchr_iter(b'\n', file.text.as_bytes())
                .map(|at| at + 1)
                .collect()
        };
        Self {
            starts: files.iter().map(starts).collect(),
        }
    }

    /// The line of a byte, from 1.
    pub(crate) fn line(&self, file: usize, offset: usize) -> u32 {
        let starts = self.starts.get(file).map_or(&[][..], Vec::as_slice);
        saturate(1 + starts.partition_point(|start| *start <= offset))
    }
}

/// Line and column of a byte, both from 1, the column in characters.
pub fn line_column(text: &str, offset: usize) -> (u32, u32) {
    let before = &text.as_bytes()[..floor_boundary(text, offset)];
    let line = memchr::memchr_iter(b'\n', before).count();
    (saturate(line + 1), column(text, offset))
}

fn column(text: &str, offset: usize) -> u32 {
    let before = &text[..floor_boundary(text, offset)];
    let line = before.rfind('\n').map_or(0, |at| at + 1);
    saturate(before[line..].chars().count() + 1)
}

/// The candidate nearest to a misspelt name, if one is near enough to be meant.
pub(crate) fn nearest<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    // Long names come from hostile files only, and the distance costs their product.
    if name.len() > 64 {
        return None;
    }
    let distance_max = |candidate: &str| 1 + name.len().min(candidate.len()) / 5;
    candidates
        // The distance is no smaller than this, and costs more.
        .filter(|candidate| name.len().abs_diff(candidate.len()) <= distance_max(candidate))
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|&(distance, candidate)| distance <= distance_max(candidate))
        .min_by_key(|&(distance, candidate)| (distance, candidate.len()))
        .map(|(_, candidate)| candidate)
}

/// The line of a byte, and of a long one what is near.
fn line_at(text: &str, offset: usize) -> &str {
    const NEAR_BYTES: usize = 200;
    let offset = floor_boundary(text, offset);
    let start = text[..offset].rfind('\n').map_or(0, |index| index + 1);
    let start = start.max(floor_boundary(text, offset.saturating_sub(NEAR_BYTES)));
    let end = floor_boundary(text, offset + NEAR_BYTES);
    text[start..end].lines().next().unwrap_or("")
}

/// A span that lies inside the text, on characters' borders, and covers something where it can.
fn clip(span: Span, text: &str) -> Span {
    let start = floor_boundary(text, span.start);
    let mut end = span.end.clamp(start, text.len());
    while !text.is_char_boundary(end) {
        end += 1;
    }
    Span::new(start, end)
}

fn floor_boundary(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

fn saturate(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
