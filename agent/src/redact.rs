//! Keeps credentials out of alerts: rules match the true text, what leaves the process has the secret parts replaced.
//!
//! What is looked for is text, not meaning: names that say what stands behind them (`--password X`, `DB_PASSWORD=X`),
//! values whose shape gives them away (cloud keys, tokens of well-known services, JSON web tokens, private keys), and
//! credentials within addresses. The built-in patterns lie in [`patterns`]; a configuration adds its own. Matching is
//! linear in the text. What no pattern describes is not found: arguments are a bad place for secrets all the same.

mod patterns;

use std::borrow::Cow;

use regex::{Captures, Regex, RegexBuilder, RegexSet, RegexSetBuilder};
use serde_json::Value;

use crate::alert::Alert;

/// Most patterns that a configuration may add, and their longest text: all of them are tried on every alert.
const PATTERNS_MAX: usize = 64;
const PATTERN_BYTES_MAX: usize = 1024;

/// Memory that a compiled pattern may take: a counted repetition can ask for any amount.
const COMPILED_BYTES_MAX: usize = 1 << 20;

/// Secrets shorter than this are not looked for elsewhere in an alert: every second word would be one.
const LITERAL_BYTES_MIN: usize = 4;

/// The group whose text is replaced, where a pattern has one; else all of the match is.
const GROUP: &str = "secret";

/// Why a pattern cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedactError {
    /// There are too many.
    #[error("{0} patterns; at most {PATTERNS_MAX}")]
    TooMany(usize),
    /// One is longer than a pattern need be.
    #[error("pattern {number} is {bytes} bytes long; at most {PATTERN_BYTES_MAX}")]
    TooLong {
        /// Which, from 1.
        number: usize,
        /// How long.
        bytes: usize,
    },
    /// One is no regular expression, or too large a one.
    #[error("pattern {number} ({pattern}): {problem}")]
    Pattern {
        /// Which, from 1.
        number: usize,
        /// Its text.
        pattern: String,
        /// What is wrong with it.
        problem: String,
    },
    /// One matches where nothing is: it would replace between all characters.
    #[error("pattern {number} ({pattern}): matches the empty text, which is everywhere")]
    Empty {
        /// Which, from 1.
        number: usize,
        /// Its text.
        pattern: String,
    },
}

/// Compiled patterns.
#[derive(Clone, Debug)]
pub struct Redactor {
    /// All patterns at once: most alerts hold no secret, and this tells after one pass.
    any: RegexSet,
    patterns: Vec<Regex>,
    replacement: String,
}

impl Redactor {
    /// The built-in patterns and `more`.
    pub fn new(more: &[String], replacement: &str) -> Result<Self, RedactError> {
        if more.len() > PATTERNS_MAX {
            return Err(RedactError::TooMany(more.len()));
        }
        let mut texts: Vec<&str> = patterns::BUILT_IN.iter().map(|row| row.pattern).collect();
        for (at, pattern) in more.iter().enumerate() {
            check(at + 1, pattern)?;
            texts.push(pattern);
        }
        let compiled: Result<Vec<Regex>, _> = texts.iter().map(|text| compile(text)).collect();
        let too_large = |error: regex::Error| RedactError::Pattern {
            number: more.len(),
            pattern: more.join(" "),
            problem: one_line(&error),
        };
        let any = RegexSetBuilder::new(&texts)
            .size_limit(texts.len() * COMPILED_BYTES_MAX)
            .build()
            .map_err(too_large)?;
        Ok(Self {
            any,
            patterns: compiled.map_err(too_large)?,
            replacement: replacement.into(),
        })
    }

    /// Replaces what looks like a credential in an alert's text and fields; returns how many there were.
    ///
    /// `arguments` are those of the processes that the alert may speak of, an element each. A text that they were joined
    /// to no longer shows where a secret with blanks in it ends.
    pub fn alert<'a>(&self, alert: &mut Alert, arguments: impl Iterator<Item = &'a [u8]>) -> u64 {
        let mut secrets = self.secrets_in(arguments);
        for (name, value) in &alert.output_fields {
            if let (Some(variable), Value::String(value)) = (variable(name), value)
                && self.is_secret_of(variable, value)
            {
                secrets.push(value.clone());
            }
        }
        // The longest first: a secret may hold another.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        let mut count = 0;
        self.replace(&mut alert.output, &secrets, &mut count);
        for value in alert.output_fields.values_mut() {
            self.value(value, &secrets, &mut count);
        }
        count
    }

    /// The text with what looks like a credential replaced.
    pub fn text<'t>(&self, text: &'t str) -> (Cow<'t, str>, u64) {
        let mut count = 0;
        let mut text = Cow::Borrowed(text);
        // What one pattern replaced the next one leaves alone, so the order says which name a secret is found by.
        for at in self.any.matches(&text).into_iter().collect::<Vec<_>>() {
            let replaced = self.patterns[at].replace_all(&text, |found: &Captures<'_>| {
                self.replacement_for(found, &mut count)
            });
            if let Cow::Owned(replaced) = replaced {
                text = Cow::Owned(replaced);
            }
        }
        (text, count)
    }

    fn replacement_for(&self, found: &Captures<'_>, count: &mut u64) -> String {
        let whole = found.get(0).expect("a match has its own text");
        let secret = found.name(GROUP).unwrap_or(whole);
        // An absent field's value is no secret, and neither is what was replaced already.
        if secret.as_str() == "<NA>" || secret.as_str().starts_with(&self.replacement) {
            return whole.as_str().into();
        }
        *count += 1;
        let (start, end) = (secret.start() - whole.start(), secret.end() - whole.start());
        let text = whole.as_str();
        [&text[..start], &self.replacement, &text[end..]].concat()
    }

    fn replace(&self, text: &mut String, secrets: &[String], count: &mut u64) {
        for secret in secrets {
            let found = text.matches(secret.as_str()).count();
            if found > 0 {
                *text = text.replace(secret.as_str(), &self.replacement);
                *count += found as u64;
            }
        }
        let (replaced, found) = self.text(text);
        if let Cow::Owned(replaced) = replaced {
            *text = replaced;
            *count += found;
        }
    }

    fn value(&self, value: &mut Value, secrets: &[String], count: &mut u64) {
        match value {
            Value::String(text) => self.replace(text, secrets, count),
            Value::Array(values) => {
                // A list of arguments has a secret's name and the secret in two elements.
                for at in 1..values.len() {
                    let (before, behind) = values.split_at_mut(at);
                    if let (Some(Value::String(name)), Some(Value::String(value))) =
                        (before.last(), behind.first_mut())
                        && self.is_argument_of(name, value)
                    {
                        self.replacement.clone_into(value);
                        *count += 1;
                    }
                }
                for value in values {
                    self.value(value, secrets, count);
                }
            }
            _ => {}
        }
    }

    /// Arguments with blanks that stand behind an option which announces a secret, and values with blanks behind its `=`.
    fn secrets_in<'a>(&self, arguments: impl Iterator<Item = &'a [u8]>) -> Vec<String> {
        let mut secrets = Vec::new();
        let mut before = Cow::Borrowed("");
        for argument in arguments {
            let argument = String::from_utf8_lossy(argument);
            if argument.contains(char::is_whitespace) {
                if self.is_argument_of(&before, &argument) {
                    secrets.push(argument.clone().into_owned());
                } else if let Some((name, value)) = argument.split_once('=')
                    && !name.contains(char::is_whitespace)
                    && self.is_secret_of(name.trim_start_matches('-'), value)
                {
                    secrets.push(value.to_owned());
                }
            }
            before = argument;
        }
        secrets.retain(|secret| secret.len() >= LITERAL_BYTES_MIN);
        secrets
    }

    /// Would `name value` on a command line be a secret? Asked with a plain word in the value's place.
    fn is_argument_of(&self, name: &str, value: &str) -> bool {
        name.starts_with('-')
            && !name.contains(['=', ' '])
            && !value.is_empty()
            && !value.starts_with('-')
            && self.text(&format!("{name} placeholder")).1 > 0
    }

    /// Does a variable of this name hold a secret?
    fn is_secret_of(&self, variable: &str, value: &str) -> bool {
        value.len() >= LITERAL_BYTES_MIN && self.text(&format!("{variable}=placeholder")).1 > 0
    }
}

/// `NAME` of `proc.env[NAME]` and `proc.aenv[NAME]`.
fn variable(field: &str) -> Option<&str> {
    let rest = field
        .strip_prefix("proc.env[")
        .or_else(|| field.strip_prefix("proc.aenv["))?;
    rest.strip_suffix(']')
}

fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern)
        .size_limit(COMPILED_BYTES_MAX)
        .build()
}

fn check(number: usize, pattern: &str) -> Result<(), RedactError> {
    let bytes = pattern.len();
    if bytes > PATTERN_BYTES_MAX {
        return Err(RedactError::TooLong { number, bytes });
    }
    let compiled = compile(pattern).map_err(|error| RedactError::Pattern {
        number,
        pattern: pattern.into(),
        problem: one_line(&error),
    })?;
    if compiled.is_match("") {
        let pattern = pattern.into();
        return Err(RedactError::Empty { number, pattern });
    }
    Ok(())
}

/// The parser draws the pattern over several lines; its last one says what is wrong.
fn one_line(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default().trim();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

#[cfg(test)]
mod tests;
