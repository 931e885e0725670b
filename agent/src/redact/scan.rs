//! Where in a text values stand that their names make secrets: `NAME=value`, `name: value`, `"name": "value"`; the passwords of
//! addresses; and the words of a command line in one piece.
//!
//! Written out and not a pattern, because where a value ends depends on what it stands in: a whole argument, a quoted text, a
//! word of a script. Everything here takes time linear in the text.

use std::ops::Range;

use memchr::memchr;

use super::names::{self, NAME_BYTES_MAX};

/// Longest address whose password is looked for.
const ADDRESS_BYTES_MAX: usize = 1024;

/// Blanks that may stand between a name, its sign and the value.
const BLANKS_MAX: usize = 8;

/// A part of a text that was one thing before texts were joined: an argument, a variable, a label's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it lies.
    pub range: Range<usize>,
    /// Whether it is read as commands: then a value ends with its word. Else one that the piece begins with is all the rest.
    pub script: bool,
    /// Whether it is a header by itself, whose value need not be set off by a blank.
    pub header: bool,
}

/// Finds the values of names that announce secrets.
pub fn named(text: &[u8], piece: &Piece, found: &mut Vec<Range<usize>>) {
    let bytes = &text[piece.range.clone()];
    let start = piece.range.start;
    let mut at = 0;
    while let Some(sign) = bytes[at..]
        .iter()
        .position(|byte| matches!(byte, b'=' | b':'))
        .map(|sign| at + sign)
    {
        at = sign + 1;
        let Some(value) = value_of(bytes, sign, piece) else {
            continue;
        };
        at = at.max(value.end);
        found.push(start + value.start..start + value.end);
    }
}

/// The value behind a sign, if the name before it makes it a secret.
fn value_of(bytes: &[u8], sign: usize, piece: &Piece) -> Option<Range<usize>> {
    let is_colon = bytes[sign] == b':' && bytes.get(sign + 1) != Some(&b'=');
    let mut name_end = sign;
    // `+=` and `?=` set something, too.
    if !is_colon && name_end > 0 && matches!(bytes[name_end - 1], b'+' | b'?') {
        name_end -= 1;
    }
    let unspaced = skip_back(bytes, name_end, |byte| matches!(byte, b' ' | b'\t'));
    let is_spaced = unspaced < name_end;
    name_end = skip_back(bytes, unspaced, |byte| {
        matches!(byte, b'"' | b'\'' | b']' | b'\\')
    });
    let is_quoted = name_end < unspaced;
    let name_start = bytes[..name_end]
        .iter()
        .rev()
        .take(NAME_BYTES_MAX)
        .position(|byte| !is_name(*byte))
        .map_or(name_end.saturating_sub(NAME_BYTES_MAX), |back| {
            name_end - back
        });
    let class = names::class(&bytes[name_start..name_end])?;

    let mut at = sign + 1;
    while at < bytes.len() && at <= sign + 2 && matches!(bytes[at], b'=' | b'>') {
        at += 1;
    }
    let behind_sign = at;
    let is_blank =
        |byte: u8| matches!(byte, b' ' | b'\t') || is_quoted && matches!(byte, b'\n' | b'\r');
    while at < bytes.len() && at < behind_sign + BLANKS_MAX && is_blank(bytes[at]) {
        at += 1;
    }
    let is_set_off = at > behind_sign;
    let before = name_start.checked_sub(1).map(|at| bytes[at]);
    let is_first = skip_back(bytes, name_start, |byte| {
        matches!(byte, b'"' | b'\'' | b'/' | b'@' | b' ')
    }) == 0
        || is_behind_option(bytes, name_start);
    let is_option = is_first && (bytes[name_start] == b'-' || before == Some(b'/'));
    if is_colon && !is_quoted && !is_set_off {
        // What stands in an image's name or a mount is none; an option or a header is.
        let is_windows = is_option && bytes.get(at) != Some(&b'/');
        if !(is_windows || piece.header && is_first) {
            return None;
        }
    }
    // In a shell `NAME= command` empties the variable.
    let is_word = !is_first || piece.script;
    if is_word && is_set_off && !is_colon && !is_spaced && !is_quoted {
        return None;
    }

    let enclosing = before.filter(|byte| matches!(byte, b'"' | b'\'') && !is_quoted);
    let whole = is_first && !piece.script && !is_quoted;
    let is_escaped = name_start >= 2 && bytes[name_start - 2] == b'\\';
    let value = if let Some(quote) = enclosing.filter(|_| is_escaped) {
        at..end(bytes, at, |byte| byte == quote || byte == b'\\')
    } else if let Some(quote) = enclosing {
        at..quoted_end(bytes, at, quote)
    } else if let Some(value) = quoted(bytes, at)
        && (!whole || value.end + 1 >= bytes.len())
    {
        value
    } else if whole && !is_colon {
        at..bytes.len()
    } else if whole {
        at..end(bytes, at, |byte| matches!(byte, b'\n' | b'\r'))
    } else if is_quoted {
        at..end(bytes, at, |byte| {
            matches!(byte, b',' | b'}' | b']' | b')') || byte.is_ascii_whitespace()
        })
    } else if is_colon && is_set_off && !starts_line(bytes, name_start) {
        at..word_end(bytes, at)
    } else if is_set_off {
        at..end(bytes, at, |byte| {
            matches!(byte, b'\n' | b'\r' | b';' | b'&' | b'|' | b')')
        })
    } else if before.is_none_or(|byte| byte.is_ascii_whitespace() || is_control(byte)) {
        at..word_end(bytes, at)
    } else {
        at..end(bytes, at, |byte| {
            byte.is_ascii_whitespace()
                || is_control(byte)
                || matches!(byte, b'"' | b'\'' | b',' | b'#')
        })
    };
    let secret = &bytes[value.clone()];
    let is_reference = piece.script && is_reference(secret);
    (class.holds(secret) && !is_reference).then_some(value)
}

/// `--env=NAME=value`: does all before the name belong to an option?
fn is_behind_option(bytes: &[u8], name_start: usize) -> bool {
    let Some((b'=', option)) = bytes[..name_start].split_last() else {
        return false;
    };
    option.first() == Some(&b'-') && option.iter().all(|byte| is_name(*byte))
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')
}

/// What ends a word in a script.
fn is_control(byte: u8) -> bool {
    matches!(byte, b';' | b'&' | b'|' | b'<' | b'>' | b'(' | b')' | b'`')
}

/// `$NAME`, `${NAME}`, or the beginning of `$(command)`: where a secret comes from.
pub fn is_reference(value: &[u8]) -> bool {
    match value.trim_ascii() {
        [b'$'] => true,
        [b'$', b'{', name @ .., b'}'] | [b'$', name @ ..] => name
            .iter()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_'),
        _ => false,
    }
}

fn skip_back(bytes: &[u8], from: usize, skipped: impl Fn(u8) -> bool) -> usize {
    let mut at = from;
    while at > 0 && from - at < BLANKS_MAX && skipped(bytes[at - 1]) {
        at -= 1;
    }
    at
}

fn end(bytes: &[u8], from: usize, ends: impl Fn(u8) -> bool) -> usize {
    bytes[from..]
        .iter()
        .position(|byte| ends(*byte))
        .map_or(bytes.len(), |at| from + at)
}

/// Is a name the first thing on its line, as in YAML?
fn starts_line(bytes: &[u8], name_start: usize) -> bool {
    let at = skip_back(bytes, name_start, |byte| {
        matches!(byte, b' ' | b'\t' | b'-')
    });
    at == 0 || bytes[at - 1] == b'\n'
}

/// The inside of a text in quotes that starts here; to the end where it is not closed.
fn quoted(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let mut open = at;
    while bytes
        .get(open)
        .is_some_and(|byte| matches!(byte, b'\\' | b'$'))
        && open < at + BLANKS_MAX
    {
        open += 1;
    }
    let quote = *bytes.get(open)?;
    if !matches!(quote, b'"' | b'\'') {
        return None;
    }
    let inside = open + 1;
    let is_escaped = open > at && bytes[open - 1] == b'\\';
    if !is_escaped {
        return Some(inside..quoted_end(bytes, inside, quote));
    }
    // Within a quoted text the quotes have a sign before them, and what is quoted inside has more.
    let mut at = inside;
    while let Some(close) = memchr(quote, &bytes[at..]).map(|close| at + close) {
        let start = skip_back(bytes, close, |byte| byte == b'\\').max(inside);
        if close - start < 2 {
            return Some(inside..start);
        }
        at = close + 1;
    }
    Some(inside..bytes.len())
}

/// Where a text in quotes ends; those that are escaped do not end it.
fn quoted_end(bytes: &[u8], from: usize, quote: u8) -> usize {
    let mut at = from;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' && quote == b'"' {
            2
        } else {
            1
        };
    }
    at.min(bytes.len())
}

/// Where a word of a script ends: at a blank or a control sign that is neither quoted nor escaped, or at a comma before a blank.
pub fn word_end(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(byte) = bytes.get(at).copied() {
        if byte.is_ascii_whitespace() || is_control(byte) {
            break;
        }
        if byte == b',' && bytes.get(at + 1).is_none_or(u8::is_ascii_whitespace) {
            break;
        }
        at = match byte {
            b'\\' => at + 2,
            // A quote that nothing closes is an apostrophe.
            b'"' | b'\'' => match quoted_end(bytes, at + 1, byte) {
                end if end < bytes.len() => end + 1,
                _ => at + 1,
            },
            _ => at + 1,
        };
    }
    at.min(bytes.len())
}

/// The commands of a script, each the places of its words, quotes around a whole word left off.
pub fn commands(text: &[u8], range: Range<usize>) -> Vec<Vec<Range<usize>>> {
    let bytes = &text[..range.end];
    let mut commands = vec![Vec::new()];
    let mut at = range.start;
    // Once a quote was not closed, none of its kind is: otherwise each would be looked for to the end.
    let mut open = [true, true];
    while let Some(byte) = bytes.get(at).copied() {
        if byte.is_ascii_whitespace() && byte != b'\n' || byte == b',' {
            at += 1;
            continue;
        }
        if byte == b'\n' || is_control(byte) {
            if commands.last().is_some_and(|command| !command.is_empty()) {
                commands.push(Vec::new());
            }
            at += 1;
            continue;
        }
        let start = at;
        while let Some(byte) = bytes.get(at).copied() {
            let ends_list = byte == b',' && bytes.get(at + 1).is_none_or(u8::is_ascii_whitespace);
            if byte.is_ascii_whitespace() || is_control(byte) || ends_list {
                break;
            }
            let which = usize::from(byte == b'"');
            at = match byte {
                b'\\' => at + 2,
                b'"' | b'\'' if open[which] => match quoted_end(bytes, at + 1, byte) {
                    end if end < bytes.len() => end + 1,
                    _ => {
                        open[which] = false;
                        at + 1
                    }
                },
                _ => at + 1,
            };
        }
        at = at.min(bytes.len());
        let word = without_quotes(bytes, start..at);
        commands.last_mut().expect("there is one").push(word);
    }
    commands
}

/// A place without the quotes around it, and the brackets behind them that end a list.
fn without_quotes(bytes: &[u8], range: Range<usize>) -> Range<usize> {
    let word = &bytes[range.clone()];
    let Some(quote @ (b'"' | b'\'')) = word.first() else {
        return range;
    };
    let tail = word
        .iter()
        .rev()
        .take_while(|byte| matches!(byte, b']' | b'}'))
        .count();
    let last = word.len() - tail - 1;
    if last > 0 && word[last] == *quote {
        range.start + 1..range.start + last
    } else {
        range
    }
}

/// Finds the passwords of addresses: `postgres://user:password@host`, also with signs in them that should have been escaped.
pub fn addresses(text: &[u8], range: Range<usize>, found: &mut Vec<Range<usize>>) {
    let bytes = &text[range.clone()];
    let mut at = 0;
    while let Some(slashes) = bytes[at..]
        .windows(3)
        .position(|three| three == b"://")
        .map(|slashes| at + slashes)
    {
        at = slashes + 3;
        if slashes == 0 || !bytes[slashes - 1].is_ascii_alphanumeric() {
            continue;
        }
        let end = end(bytes, at, |byte| {
            byte.is_ascii_whitespace() || matches!(byte, b'"' | b'\'' | b'<' | b'>' | b'`')
        });
        let rest = &bytes[at..end.min(at + ADDRESS_BYTES_MAX)];
        if let Some(secret) = password(rest) {
            found.push(range.start + at + secret.start..range.start + at + secret.end);
        }
    }
}

/// The password within what follows the scheme.
fn password(rest: &[u8]) -> Option<Range<usize>> {
    // Longest that an ordinary user's name is: a longer one alone is a token.
    const USER_BYTES_MAX: usize = 15;
    if rest.first() == Some(&b'[') {
        return None;
    }
    let authority = end(rest, 0, |byte| matches!(byte, b'/' | b'?' | b'#'));
    let last_at = |within: &[u8]| within.iter().rposition(|byte| *byte == b'@');
    if let Some(host) = last_at(&rest[..authority]) {
        return match memchr(b':', &rest[..host]) {
            Some(colon) => (colon + 1 < host).then_some(colon + 1..host),
            None => (host > USER_BYTES_MAX).then_some(0..host),
        };
    }
    // A slash in the password: what looks like a port is none.
    let colon = memchr(b':', &rest[..authority])?;
    let is_port = rest[colon + 1..authority].iter().all(u8::is_ascii_digit);
    let host = last_at(rest).filter(|host| *host > authority && !is_port)?;
    Some(colon + 1..host)
}
