//! Reads single tokens of the condition grammar off a text.
//!
//! The grammar has no token stream: what may come next decides how bytes are read (a bare string may
//! contain what is an operator elsewhere), so the parser asks for one kind of token at a time.
//! Every reader either advances past its token or leaves the position as it was.

use crate::ast::{Span, Value};

/// A position in a condition.
#[derive(Clone, Debug)]
pub(crate) struct Lexer<'a> {
    text: &'a str,
    pos: usize,
}

/// A quoted string whose end or escapes are wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EscapeError {
    pub(crate) message: String,
    pub(crate) span: Span,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, pos: 0 }
    }

    pub(crate) fn pos(&self) -> usize {
        self.pos
    }

    pub(crate) fn reset(&mut self, pos: usize) {
        self.pos = pos;
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.pos >= self.text.len()
    }

    /// Skips blanks; whether there were any.
    pub(crate) fn blank(&mut self) -> bool {
        self.take(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x8))
            .is_some()
    }

    /// Skips exactly this text.
    pub(crate) fn literal(&mut self, text: &str) -> bool {
        let found = self.rest().starts_with(text);
        if found {
            self.pos += text.len();
        }
        found
    }

    /// `not` with a blank behind it, blanks included.
    pub(crate) fn not_word(&mut self) -> bool {
        let start = self.pos;
        if self.literal("not") && self.take(is_space).is_some() {
            return true;
        }
        self.pos = start;
        false
    }

    /// A letter, then letters, digits and underscores.
    pub(crate) fn identifier(&mut self) -> Option<&'a str> {
        let start = self.pos;
        if !self.peek().is_some_and(|byte| byte.is_ascii_alphabetic()) {
            return None;
        }
        self.take(is_word);
        Some(&self.text[start..self.pos])
    }

    /// At least two identifiers joined by dots.
    pub(crate) fn field_name(&mut self) -> Option<&'a str> {
        let start = self.pos;
        self.identifier()?;
        let mut parts = 1;
        loop {
            let before_dot = self.pos;
            if self.literal(".") && self.identifier().is_some() {
                parts += 1;
            } else {
                self.pos = before_dot;
                break;
            }
        }
        if parts < 2 {
            self.pos = start;
            return None;
        }
        Some(&self.text[start..self.pos])
    }

    /// What may stand in brackets without quotes.
    pub(crate) fn bare_arg(&mut self) -> Option<&'a str> {
        self.take(|byte| !matches!(byte, b'[' | b']' | b'"' | b'\'') && !is_space(byte))
    }

    /// What may stand as a value without quotes.
    pub(crate) fn bare_string(&mut self) -> Option<&'a str> {
        self.take(|byte| {
            !matches!(byte, b'(' | b')' | b'"' | b'\'' | b'=' | b',') && !is_space(byte)
        })
    }

    /// A hexadecimal number, or a decimal one with sign, fraction and exponent.
    pub(crate) fn number(&mut self) -> Option<&'a str> {
        let start = self.pos;
        if (self.literal("0x") || self.literal("0X"))
            && self.take(|byte| byte.is_ascii_alphanumeric()).is_some()
        {
            return Some(&self.text[start..self.pos]);
        }
        self.pos = start;
        if !self.literal("+") {
            self.literal("-");
        }
        if self.take(|byte| byte.is_ascii_digit()).is_none() {
            self.pos = start;
            return None;
        }
        self.literal(".");
        self.take(|byte| byte.is_ascii_digit());
        let mantissa_end = self.pos;
        let exponent = (self.literal("e") || self.literal("E"))
            && (self.literal("+") || self.literal("-"))
            && self.take(|byte| byte.is_ascii_digit()).is_some();
        if !exponent {
            self.pos = mantissa_end;
        }
        Some(&self.text[start..self.pos])
    }

    /// A string in single or double quotes. `Ok(None)` where none begins here or where it never ends.
    ///
    /// As in Falco, a quote right behind a backslash never ends the string, even where that backslash
    /// is itself escaped.
    pub(crate) fn quoted_string(&mut self) -> Result<Option<Value>, EscapeError> {
        let bytes = self.text.as_bytes();
        let start = self.pos;
        let Some(&quote @ (b'"' | b'\'')) = bytes.get(start) else {
            return Ok(None);
        };
        let mut end = start + 1;
        let mut previous = quote;
        loop {
            match bytes.get(end) {
                None | Some(0) => return Ok(None),
                Some(&byte) if byte == quote && previous != b'\\' => break,
                Some(&byte) => previous = byte,
            }
            end += 1;
        }
        let span = Span::new(start, end + 1);
        let value = unescape(&bytes[start + 1..end], quote, start + 1)?;
        self.pos = end + 1;
        Ok(Some(Value {
            bytes: value,
            span,
            quoted: true,
        }))
    }

    fn rest(&self) -> &'a str {
        &self.text[self.pos..]
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.pos).copied()
    }

    /// Takes bytes while they fit; `None` where the first does not. Callers must accept or refuse all
    /// bytes from 0x80 alike, which keeps the position on a character's border.
    fn take(&mut self, fits: impl Fn(u8) -> bool) -> Option<&'a str> {
        let rest = self.rest();
        let len = rest
            .bytes()
            .position(|byte| byte == 0 || !fits(byte))
            .unwrap_or(rest.len());
        self.pos += len;
        (len > 0).then(|| &rest[..len])
    }
}

/// Removes the escapes from the inside of a string. `offset` is where the inside begins.
pub(crate) fn unescape(inside: &[u8], quote: u8, offset: usize) -> Result<Vec<u8>, EscapeError> {
    let mut out = Vec::with_capacity(inside.len());
    let mut index = 0;
    while let Some(&byte) = inside.get(index) {
        index += 1;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let start = offset + index - 1;
        let error = |message: String, len: usize| EscapeError {
            message,
            span: Span::new(start, (start + len).min(offset + inside.len())),
        };
        let Some(&escaped) = inside.get(index) else {
            return Err(error("string ends inside an escape sequence".to_owned(), 1));
        };
        index += 1;
        out.push(match escaped {
            b'b' => 0x8,
            b'f' => 0xc,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            // Falco keeps the backslash and drops the blank, for the sake of old rules.
            b'\\' | b' ' => b'\\',
            b'/' => b'/',
            b'"' | b'\'' if escaped == quote => quote,
            b'"' => {
                return Err(error(
                    "invalid \\\" escape in '-quoted string".to_owned(),
                    2,
                ));
            }
            b'\'' => {
                return Err(error(
                    "invalid \\' escape in \"-quoted string".to_owned(),
                    2,
                ));
            }
            b'x' => {
                let digit = |at: usize| inside.get(at).and_then(|&c| char::from(c).to_digit(16));
                let (Some(high), Some(low)) = (digit(index), digit(index + 1)) else {
                    let message = "\\x escape needs two hexadecimal digits".to_owned();
                    return Err(error(message, 4));
                };
                index += 2;
                (high * 16 + low) as u8
            }
            other => {
                let shown = char::from(other);
                let message = format!("unsupported string escape sequence: \\{shown}");
                return Err(error(message, 2));
            }
        });
    }
    Ok(out)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0xb | 0xc)
}
