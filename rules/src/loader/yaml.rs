//! YAML documents as trees in which every node knows its bytes in the file.
//!
//! Scalars keep their text only; `scalar_text` finds the place of each character behind folding, quoting
//! and escapes. Aliases share nodes, so that a small file stays small; depth and number of nodes are bounded.

use std::rc::Rc;

use granit_parser::{Event, Marker, Parser, ScalarStyle};

use super::text::Text;
use crate::{
    ast::Span,
    diagnostic::{Code, Diagnostic, Place},
};

const DEPTH_MAX: usize = 64;
const NODES_MAX: usize = 4_000_000;

/// A node and its bytes.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) span: Span,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Null,
    /// The text, and whether it was written plainly, without quotes or block indicator.
    Scalar(String, ScalarStyle),
    Sequence(Vec<Rc<Node>>),
    Mapping(Vec<(Rc<Node>, Rc<Node>)>),
}

impl Node {
    pub(crate) fn get(&self, key: &str) -> Option<&Rc<Node>> {
        let Kind::Mapping(entries) = &self.kind else {
            return None;
        };
        entries
            .iter()
            .find(|(name, _)| name.scalar() == Some(key))
            .map(|(_, value)| value)
    }

    pub(crate) fn scalar(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar(text, _) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self.kind, Kind::Null)
    }
}

/// Parses all documents of a file.
pub(crate) fn parse(text: &str, file: usize) -> Result<Vec<Rc<Node>>, Box<Diagnostic>> {
    let offsets = Offsets::new(text);
    let mut builder = Builder::default();
    let mut parser = Parser::new_from_str(text);
    loop {
        let (event, span) = match parser.next_event() {
            None => break,
            Some(Ok(event)) => event,
            Some(Err(error)) => {
                let start = offsets.byte(error.marker());
                let place = Place {
                    file,
                    span: Span::new(start, start + 1),
                };
                let message = format!("not valid YAML: {}", error.info());
                return Err(Box::new(
                    Diagnostic::new(Code::YamlSyntax, message).at(place, ""),
                ));
            }
        };
        let span = Span::new(offsets.byte(&span.start), offsets.byte(&span.end));
        if matches!(event, Event::StreamEnd) {
            break;
        }
        builder.event(event, span).map_err(|message| {
            let place = Place { file, span };
            Box::new(Diagnostic::new(Code::TooLarge, message).at(place, ""))
        })?;
    }
    Ok(builder.documents)
}

/// Markers count characters; spans count bytes.
struct Offsets {
    /// Of each character, where the text is not ASCII.
    bytes: Option<Vec<usize>>,
    len: usize,
}

impl Offsets {
    fn new(text: &str) -> Self {
        let bytes = (!text.is_ascii()).then(|| text.char_indices().map(|(at, _)| at).collect());
        Self {
            bytes,
            len: text.len(),
        }
    }

    fn byte(&self, marker: &Marker) -> usize {
        match &self.bytes {
            None => marker.index().min(self.len),
            Some(bytes) => bytes.get(marker.index()).copied().unwrap_or(self.len),
        }
    }
}

#[derive(Default)]
struct Builder {
    documents: Vec<Rc<Node>>,
    open: Vec<Open>,
    /// By anchor id, which the parser counts from 1.
    anchors: Vec<Option<Rc<Node>>>,
    nodes: usize,
}

/// A sequence or mapping whose end was not seen yet.
struct Open {
    span: Span,
    anchor: usize,
    is_mapping: bool,
    children: Vec<Rc<Node>>,
}

impl Builder {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), &'static str> {
        match event {
            Event::DocumentStart(..) => {
                self.anchors.clear();
                Ok(())
            }
            Event::Alias(anchor) => {
                let node = self.anchors.get(anchor).cloned().flatten();
                self.add(node.unwrap_or_else(|| {
                    Rc::new(Node {
                        kind: Kind::Null,
                        span,
                    })
                }))
            }
            Event::Scalar(text, style, anchor, tag) => {
                let is_null = style == ScalarStyle::Plain
                    && tag.is_none()
                    && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let kind = if is_null {
                    Kind::Null
                } else {
                    Kind::Scalar(text.into_owned(), style)
                };
                self.add_anchored(Node { kind, span }, anchor)
            }
            Event::SequenceStart(_, anchor, _) => self.open(span, anchor, false),
            Event::MappingStart(_, anchor, _) => self.open(span, anchor, true),
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            _ => Ok(()),
        }
    }

    fn open(&mut self, span: Span, anchor: usize, is_mapping: bool) -> Result<(), &'static str> {
        if self.open.len() >= DEPTH_MAX {
            return Err("YAML is nested too deeply");
        }
        self.open.push(Open {
            span,
            anchor,
            is_mapping,
            children: Vec::new(),
        });
        Ok(())
    }

    fn close(&mut self, end: Span) -> Result<(), &'static str> {
        let Some(open) = self.open.pop() else {
            return Ok(());
        };
        let span = Span::new(open.span.start, end.end.max(open.span.end));
        let kind = if open.is_mapping {
            let mut entries = Vec::with_capacity(open.children.len() / 2);
            let mut children = open.children.into_iter();
            while let (Some(key), Some(value)) = (children.next(), children.next()) {
                entries.push((key, value));
            }
            Kind::Mapping(entries)
        } else {
            Kind::Sequence(open.children)
        };
        self.add_anchored(Node { kind, span }, open.anchor)
    }

    fn add_anchored(&mut self, node: Node, anchor: usize) -> Result<(), &'static str> {
        let node = Rc::new(node);
        if anchor > 0 {
            if self.anchors.len() <= anchor {
                self.anchors.resize(anchor + 1, None);
            }
            self.anchors[anchor] = Some(node.clone());
        }
        self.add(node)
    }

    fn add(&mut self, node: Rc<Node>) -> Result<(), &'static str> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err("YAML has too many nodes");
        }
        match self.open.last_mut() {
            Some(open) => open.children.push(node),
            None => self.documents.push(node),
        }
        Ok(())
    }
}

/// A scalar's text with the place of every character.
///
/// Walks the value and the file's bytes side by side. Characters other than blanks must agree, escapes
/// in double quotes aside; blanks that folding made stand for the line break. Should the walk ever lose
/// the thread, the rest of the text stands for the whole scalar.
pub(crate) fn scalar_text(node: &Node, source: &str, file: usize) -> Text {
    let Kind::Scalar(value, style) = &node.kind else {
        return Text::default();
    };
    let whole = Place {
        file,
        span: node.span,
    };
    let mut text = Text::default();
    let mut at = content_start(node, source, *style);
    for (index, c) in value.char_indices() {
        let Some((start, len)) = locate(source, at, c, *style) else {
            text.push_for(&value[index..], whole);
            return text;
        };
        let shown = &value[index..index + c.len_utf8()];
        if source[start..].starts_with(c) && len == c.len_utf8() {
            text.push_copy(shown, file, start);
        } else {
            text.push_for(
                shown,
                Place {
                    file,
                    span: Span::new(start, start + len),
                },
            );
        }
        at = start + len;
    }
    text
}

fn content_start(node: &Node, source: &str, style: ScalarStyle) -> usize {
    let start = node.span.start;
    match style {
        ScalarStyle::Plain => start,
        ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => start + 1,
        // The indicator's line may carry a comment.
        ScalarStyle::Literal | ScalarStyle::Folded => match source.get(start..) {
            Some(rest) if rest.starts_with(['|', '>']) => {
                rest.find('\n').map_or(source.len(), |at| start + at + 1)
            }
            _ => start,
        },
    }
}

/// Where a character of the value was written, from a position on: its first byte and length.
fn locate(source: &str, mut at: usize, wanted: char, style: ScalarStyle) -> Option<(usize, usize)> {
    loop {
        let c = source.get(at..)?.chars().next()?;
        let is_blank = matches!(c, ' ' | '\t' | '\n' | '\r');
        if style == ScalarStyle::DoubleQuoted && c == '\\' {
            match escape_len(&source[at..]) {
                // An escaped line break joins lines.
                None => at += 1 + source[at + 1..].chars().next()?.len_utf8(),
                Some(len) => return Some((at, len)),
            }
        } else if style == ScalarStyle::SingleQuoted && c == '\'' {
            return (wanted == '\'').then_some((at, 2));
        } else if c == wanted || (is_blank && matches!(wanted, ' ' | '\n')) {
            return Some((at, c.len_utf8()));
        } else if is_blank {
            at += c.len_utf8();
        } else if matches!(wanted, ' ' | '\n') && at > 0 {
            // A blank that stands for nothing more in the file, such as a block's last line break.
            return Some((at, 0));
        } else {
            return None;
        }
    }
}

/// Length of the escape at the beginning; `None` for an escaped line break.
fn escape_len(text: &str) -> Option<usize> {
    let escaped = text[1..].chars().next()?;
    match escaped {
        '\n' | '\r' => None,
        'x' => Some(4),
        'u' => Some(6),
        'U' => Some(10),
        c => Some(1 + c.len_utf8()),
    }
}
