//! Text that remembers where each of its bytes was written.
//!
//! A condition is glued together from folded YAML scalars, appended parts, exceptions and lists; a
//! diagnostic about it must still point at the token in the file.

use crate::{ast::Span, diagnostic::Place};

/// Text with the origin of every byte.
#[derive(Clone, Debug, Default)]
pub(crate) struct Text {
    text: String,
    /// In order of `start`; each reaches to the next one's start.
    pieces: Vec<Piece>,
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    /// Where in the text.
    start: usize,
    place: Place,
    /// Whether the text's bytes are those of the place, one for one. Else the whole piece stands for the
    /// whole place.
    is_copy: bool,
}

impl Text {
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Adds bytes that stand in the file from `start` on.
    pub(crate) fn push_copy(&mut self, text: &str, file: usize, start: usize) {
        let place = Place {
            file,
            span: Span::new(start, start + text.len()),
        };
        if let Some(last) = self.pieces.last_mut()
            && last.is_copy
            && last.place.file == file
            && last.place.span.end == start
            && last.start + (start - last.place.span.start) == self.text.len()
        {
            last.place.span.end += text.len();
        } else if !text.is_empty() {
            self.pieces.push(Piece {
                start: self.text.len(),
                place,
                is_copy: true,
            });
        }
        self.text.push_str(text);
    }

    /// Adds text that stands for a place.
    pub(crate) fn push_for(&mut self, text: &str, place: Place) {
        if !text.is_empty() {
            self.pieces.push(Piece {
                start: self.text.len(),
                place,
                is_copy: false,
            });
        }
        self.text.push_str(text);
    }

    /// Adds a part of another text with its origins.
    pub(crate) fn push_part(&mut self, other: &Text, range: std::ops::Range<usize>) {
        if range.is_empty() {
            return;
        }
        let shift = self.text.len();
        let first = other
            .pieces
            .partition_point(|piece| piece.start <= range.start)
            .max(1)
            - 1;
        for piece in &other.pieces[first.min(other.pieces.len())..] {
            if piece.start >= range.end {
                break;
            }
            let skipped = range.start.saturating_sub(piece.start);
            let mut piece = *piece;
            if piece.is_copy {
                piece.place.span.start += skipped;
            }
            piece.start = shift + (piece.start + skipped - range.start);
            self.pieces.push(piece);
        }
        self.text.push_str(&other.text[range]);
    }

    /// Adds a whole other text.
    pub(crate) fn push_text(&mut self, other: &Text) {
        self.push_part(other, 0..other.text.len());
    }

    /// Whether what begins there stands in the file as it is, and does not stand for something else.
    pub(crate) fn is_written(&self, span: Span) -> bool {
        self.piece_at(span.start).is_none_or(|piece| piece.is_copy)
    }

    /// Where a range of the text was written.
    pub(crate) fn place(&self, span: Span) -> Place {
        let Some(first) = self.piece_at(span.start) else {
            return Place::default();
        };
        let start = if first.is_copy {
            first.place.span.start + (span.start - first.start)
        } else {
            first.place.span.start
        };
        let last = self
            .piece_at(span.end.saturating_sub(1).max(span.start))
            .unwrap_or(first);
        let end = if last.place.file != first.place.file {
            first.place.span.end
        } else if last.is_copy && span.end > span.start {
            (last.place.span.start + (span.end - last.start)).min(last.place.span.end)
        } else {
            last.place.span.end
        };
        let end = if span.end <= span.start {
            start
        } else {
            end.max(start)
        };
        Place {
            file: first.place.file,
            span: Span::new(start, end),
        }
    }

    fn piece_at(&self, offset: usize) -> Option<&Piece> {
        let behind = self.pieces.partition_point(|piece| piece.start <= offset);
        self.pieces.get(behind.max(1) - 1)
    }
}
