//! Comparisons of strings, paths and buffers.

use memchr::memmem;
use regex::bytes::{Regex, RegexBuilder};
use rustc_hash::FxHashSet;

use super::{Glob, PathSet};
use crate::expr::Op;

const REGEX_BYTES_MAX: usize = 4 << 20;

/// A comparison of bytes with constants.
#[derive(Debug)]
pub(super) enum BytesTest {
    Eq(Box<[u8]>),
    Ne(Box<[u8]>),
    Lt(Box<[u8]>),
    Le(Box<[u8]>),
    Gt(Box<[u8]>),
    Ge(Box<[u8]>),
    In(Strings),
    Contains(Box<memmem::Finder<'static>>),
    IContains(Box<[u8]>),
    StartsWith(Box<[u8]>),
    EndsWith(Box<[u8]>),
    Glob(Glob),
    Regex(Box<Regex>),
    PMatch(PathSet),
}

/// A set of strings. Most values are of no wanted length, which is cheaper to see than to hash.
#[derive(Debug)]
pub(super) struct Strings {
    set: FxHashSet<Box<[u8]>>,
    len_min: usize,
    len_max: usize,
}

impl BytesTest {
    /// `None` where no value can satisfy the comparison.
    pub(super) fn new(op: Op, values: &[&[u8]]) -> Option<Self> {
        let first: Box<[u8]> = (*values.first()?).into();
        Some(match op {
            Op::Eq => Self::Eq(first),
            Op::Ne => Self::Ne(first),
            Op::Lt => Self::Lt(first),
            Op::Le => Self::Le(first),
            Op::Gt => Self::Gt(first),
            Op::Ge => Self::Ge(first),
            Op::In | Op::Intersects => Self::In(Strings {
                set: values.iter().map(|value| (*value).into()).collect(),
                len_min: values.iter().map(|value| value.len()).min()?,
                len_max: values.iter().map(|value| value.len()).max()?,
            }),
            Op::Contains | Op::BContains => {
                Self::Contains(Box::new(memmem::Finder::new(&first).into_owned()))
            }
            Op::IContains => Self::IContains(first.to_ascii_lowercase().into()),
            Op::StartsWith | Op::BStartsWith => Self::StartsWith(first),
            Op::EndsWith => Self::EndsWith(first),
            Op::Glob => Self::Glob(Glob::new(&first, false)),
            Op::IGlob => Self::Glob(Glob::new(&first, true)),
            Op::Regex => Self::Regex(Box::new(compile_regex(&first).ok()?)),
            Op::PMatch => Self::PMatch(PathSet::new(values)),
            Op::Exists => return None,
        })
    }

    pub(super) fn holds(&self, value: &[u8]) -> bool {
        match self {
            Self::Eq(wanted) => value == &**wanted,
            Self::Ne(wanted) => value != &**wanted,
            Self::Lt(wanted) => value < &**wanted,
            Self::Le(wanted) => value <= &**wanted,
            Self::Gt(wanted) => value > &**wanted,
            Self::Ge(wanted) => value >= &**wanted,
            Self::In(strings) => {
                (strings.len_min..=strings.len_max).contains(&value.len())
                    && strings.set.contains(value)
            }
            Self::Contains(finder) => finder.find(value).is_some(),
            Self::IContains(wanted) => contains_ignoring_case(value, wanted),
            Self::StartsWith(wanted) => value.starts_with(wanted),
            Self::EndsWith(wanted) => value.ends_with(wanted),
            Self::Glob(glob) => glob.matches(value),
            Self::Regex(regex) => regex.is_match(value),
            Self::PMatch(paths) => paths.contains_prefix_of(value),
        }
    }
}

/// Whether a pattern is a regular expression, and if not, why.
pub(crate) fn check_regex(pattern: &[u8]) -> Result<(), String> {
    // On its own first: a stray parenthesis must not pair with those put around it.
    builder(&latin1(pattern))
        .build()
        .map_err(|error| describe(&error))?;
    compile_regex(pattern)
        .map(drop)
        .map_err(|error| describe(&error))
}

/// The pattern that matches a whole value, in the syntax of the `regex` crate without Unicode, with
/// `multi_line`. Bytes that are not ASCII stand for themselves.
pub(crate) fn regex_pattern(pattern: &[u8]) -> String {
    format!(r"\A(?:{})\z", latin1(pattern))
}

fn compile_regex(pattern: &[u8]) -> Result<Regex, regex::Error> {
    builder(&regex_pattern(pattern)).build()
}

fn builder(pattern: &str) -> RegexBuilder {
    let mut builder = RegexBuilder::new(pattern);
    // As RE2's POSIX syntax has it: bytes, and `^` and `$` at every line.
    builder
        .unicode(false)
        .multi_line(true)
        .size_limit(REGEX_BYTES_MAX);
    builder
}

/// Rewrites what the two syntaxes read differently: bytes beyond ASCII, braces that are no repetition
/// (RE2 takes them as they are), and brackets and operators inside classes.
fn latin1(pattern: &[u8]) -> String {
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut at = 0;
    while let Some(&byte) = pattern.get(at) {
        match byte {
            b'\\' => {
                out.push('\\');
                at += 1;
                if let Some(&escaped) = pattern.get(at) {
                    push_byte(&mut out, escaped);
                    at += 1;
                }
                continue;
            }
            b'[' => {
                at = class(pattern, at, &mut out);
                continue;
            }
            b'{' if !is_repetition(&pattern[at..]) => out.push_str("\\{"),
            other => push_byte(&mut out, other),
        }
        at += 1;
    }
    out
}

/// Rewrites a class that begins at a bracket; where the pattern goes on.
fn class(pattern: &[u8], start: usize, out: &mut String) -> usize {
    out.push('[');
    let mut at = start + 1;
    if pattern.get(at) == Some(&b'^') {
        out.push('^');
        at += 1;
    }
    let first = at;
    while let Some(&byte) = pattern.get(at) {
        let named = pattern[at..].starts_with(b"[:")
            && pattern[at + 2..].windows(2).any(|pair| pair == b":]");
        match byte {
            b']' if at > first => {
                out.push(']');
                return at + 1;
            }
            b']' => out.push_str("\\]"),
            b'[' if named => {
                while !pattern[at..].starts_with(b":]") {
                    push_byte(out, pattern[at]);
                    at += 1;
                }
                out.push_str(":]");
                at += 2;
                continue;
            }
            b'[' | b'&' | b'~' => {
                out.push('\\');
                push_byte(out, byte);
            }
            b'-' if pattern.get(at + 1) == Some(&b'-') => out.push_str("\\-"),
            b'\\' => {
                out.push('\\');
                at += 1;
                if let Some(&escaped) = pattern.get(at) {
                    push_byte(out, escaped);
                }
            }
            other => push_byte(out, other),
        }
        at += 1;
    }
    at
}

fn push_byte(out: &mut String, byte: u8) {
    match byte {
        0x80.. => out.push_str(&format!("\\x{byte:02x}")),
        _ => out.push(char::from(byte)),
    }
}

/// `{2}`, `{2,}`, `{2,4}`.
fn is_repetition(text: &[u8]) -> bool {
    let Some(end) = text.iter().position(|byte| *byte == b'}') else {
        return false;
    };
    let inside = &text[1..end];
    let (low, high) = match inside.iter().position(|byte| *byte == b',') {
        Some(comma) => (&inside[..comma], &inside[comma + 1..]),
        None => (inside, &[][..]),
    };
    !low.is_empty() && low.iter().chain(high).all(u8::is_ascii_digit)
}

fn describe(error: &regex::Error) -> String {
    let text = error.to_string();
    // The crate draws the pattern over several lines; its last line says what is wrong.
    text.lines()
        .last()
        .unwrap_or("")
        .trim_start_matches("error: ")
        .to_owned()
}

fn contains_ignoring_case(value: &[u8], lower: &[u8]) -> bool {
    let Some(first) = lower.first() else {
        return true;
    };
    let upper = first.to_ascii_uppercase();
    let mut rest = value;
    while rest.len() >= lower.len() {
        let within = &rest[..=rest.len() - lower.len()];
        let Some(at) = memchr::memchr2(*first, upper, within) else {
            return false;
        };
        if rest[at..at + lower.len()].eq_ignore_ascii_case(lower) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regular_expressions_match_whole_values_of_bytes() {
        let check = |pattern: &[u8], value: &[u8], expected: bool| {
            let test = BytesTest::new(Op::Regex, &[pattern]).unwrap();
            assert_eq!(test.holds(value), expected, "{pattern:?} on {value:?}");
        };
        check(b"sys.*", b"syscall", true);
        check(b".*yscal", b"syscall", false);
        check(b"/p./q.", b"/p\xff/q\xff", true);
        check(b"a|ab", b"ab", true);
        check(b"x{2", b"x{2", true);
        check(b"x{2,3}", b"xxx", true);
        check(b"x{,3}", b"x{,3}", true);
        check(b"[[]x", b"[x", true);
        check(b"[]a]+", b"]a", true);
        check(b"[^]a]+", b"bc", true);
        check(b"[[:digit:]]+", b"42", true);
        check(b"[a&&b]+", b"&ab", true);
        check(b"[a--]+", b"a-", true);
        check(b"[\xe9]", b"\xe9", true);
        check(b"a\\.b", b"a.b", true);
        check(b"a.b", b"a\nb", false);
    }

    #[test]
    fn broken_expressions_are_refused() {
        for pattern in [&b"("[..], b"a)|(b", b"*a", b"[", b"a\\", b"x{1000000}"] {
            assert!(check_regex(pattern).is_err(), "{pattern:?}");
        }
    }

    #[test]
    fn case_is_ignored_in_ascii_alone() {
        let check = |value: &str, wanted: &str, expected: bool| {
            let test = BytesTest::new(Op::IContains, &[wanted.as_bytes()]).unwrap();
            assert_eq!(
                test.holds(value.as_bytes()),
                expected,
                "{wanted} in {value}"
            );
        };
        check("O_RDWR|O_CREAT", "o_creat", true);
        check("abc", "", true);
        check("ab", "abc", false);
        check("aab", "AB", true);
        check("É", "é", false);
    }
}
