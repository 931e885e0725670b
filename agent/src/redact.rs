//! Keeps credentials out of alerts: rules match the true text, what leaves the process has the secret parts replaced.
//!
//! A secret is replaced where it stands, in the argument, variable or label that it is the value of, and nowhere else: whoever
//! starts a program chooses its arguments, and must not choose by them what else an alert shows. So it works on values before
//! they are joined to texts; which fields it works on, `fields` knows.
//!
//! Looked for are values whose names announce them (`names`, `scan`), those that single programs take in ways of their own
//! (`tools`), and those whose shape gives them away (`patterns`, to which a configuration adds). What none of them
//! describes is not found: arguments are a bad place for secrets all the same.

mod names;
mod patterns;
mod scan;
mod tools;

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    ops::Range,
    sync::{Arc, Weak},
};

use regex::bytes::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};
use rustc_hash::FxHashMap;

use crate::context::process::Image;
use scan::Piece;

/// Most patterns that a configuration may add, and their longest text: all of them are tried on every alert.
const PATTERNS_MAX: usize = 64;
const PATTERN_BYTES_MAX: usize = 1024;

/// Memory that a compiled pattern may take: a counted repetition can ask for any amount.
const COMPILED_BYTES_MAX: usize = 1 << 20;

/// Programs whose command lines are remembered: an alert shows the same ancestors as the one before.
const LINES_MAX: usize = 512;

/// How far scripts are followed into what they start.
const DEPTH_MAX: usize = 3;

/// The group whose text is replaced, where a pattern has one; else all of the match is.
const GROUP: &str = "secret";

/// The group whose text must announce a secret, where a pattern has one.
const NAME_GROUP: &str = "name";

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

/// Compiled patterns, and what they found in the command lines shown last.
#[derive(Debug)]
pub struct Redactor {
    /// All patterns at once: most texts hold no secret, and this tells after one pass.
    any: RegexSet,
    patterns: Vec<Regex>,
    replacement: String,
    /// By the address of the program's image.
    lines: RefCell<FxHashMap<usize, Remembered>>,
    count: Cell<u64>,
}

/// What is shown of a program's command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// `argv[0]`.
    pub exe: Box<[u8]>,
    /// The name and the arguments.
    pub cmdline: Box<[u8]>,
    /// Where in it the arguments begin.
    args_at: usize,
    count: u64,
}

/// A line, for as long as its program is known; `None` where it may be shown as it is.
#[derive(Debug)]
struct Remembered {
    image: Weak<Image>,
    line: Option<Arc<Line>>,
}

impl Line {
    /// The arguments.
    pub fn args(&self) -> &[u8] {
        &self.cmdline[self.args_at..]
    }
}

impl Redactor {
    /// The built-in patterns and `more`.
    pub fn new(more: &[String], replacement: &str) -> Result<Self, RedactError> {
        if more.len() > PATTERNS_MAX {
            return Err(RedactError::TooMany(more.len()));
        }
        let mut compiled = Vec::new();
        for row in patterns::BUILT_IN {
            compiled.push(compile(row.pattern, false).expect("a built-in pattern compiles"));
        }
        for (at, pattern) in more.iter().enumerate() {
            compiled.push(checked(at + 1, pattern)?);
        }
        // What is built in is about bytes; what is configured may name letters of any script.
        let built_in = patterns::BUILT_IN
            .iter()
            .map(|row| format!("(?-u){}", row.pattern));
        let texts: Vec<String> = built_in.chain(more.iter().cloned()).collect();
        let any = RegexSetBuilder::new(&texts)
            .size_limit(texts.len() * COMPILED_BYTES_MAX)
            .build()
            .map_err(|error| RedactError::Pattern {
                number: more.len(),
                pattern: more.join(" "),
                problem: one_line(&error),
            })?;
        Ok(Self {
            any,
            patterns: compiled,
            replacement: replacement.into(),
            lines: RefCell::default(),
            count: Cell::new(0),
        })
    }

    /// How many secrets were replaced since this was last asked.
    pub fn take_count(&self) -> u64 {
        self.count.take()
    }

    /// What may be shown of a program's command line; `None` where all of it may.
    pub fn line(&self, image: &Arc<Image>) -> Option<Arc<Line>> {
        let key = Arc::as_ptr(image) as usize;
        let mut lines = self.lines.borrow_mut();
        // While somebody remembers it, no other image has its address.
        let line = match lines.get(&key) {
            Some(known) => known.line.clone(),
            None => {
                if lines.len() >= LINES_MAX {
                    lines.retain(|_, known| known.image.strong_count() > 0);
                }
                if lines.len() >= LINES_MAX {
                    lines.clear();
                }
                let line = self.read(image).map(Arc::new);
                let image = Arc::downgrade(image);
                let remembered = Remembered {
                    image,
                    line: line.clone(),
                };
                lines.insert(key, remembered);
                line
            }
        };
        let count = line.as_ref().map_or(0, |line| line.count);
        self.count.set(self.count.get() + count);
        line
    }

    /// What may be shown of the value of a thing with a name: a variable, a label.
    pub fn value<'t>(&self, name: &[u8], value: &'t [u8]) -> Cow<'t, [u8]> {
        let mut found = Vec::new();
        if names::class(name).is_some_and(|class| class.holds(value)) {
            found.push(0..value.len());
        } else {
            self.find(value, false, &mut found);
        }
        self.counted(value, found)
    }

    /// What may be shown of any other text: words, a script, JSON.
    pub fn text<'t>(&self, text: &'t [u8]) -> Cow<'t, [u8]> {
        let mut found = Vec::new();
        self.find(text, true, &mut found);
        self.counted(text, found)
    }

    /// What may be shown of a path or a name: all but what the configuration's patterns describe.
    pub fn path<'t>(&self, text: &'t [u8]) -> Cow<'t, [u8]> {
        let configured = patterns::BUILT_IN.len()..;
        let mut found = Vec::new();
        if self.patterns.len() > configured.start {
            for at in self.any.matches(text).into_iter() {
                if configured.contains(&at) {
                    self.matches(at, text, |_| text.len(), &mut found);
                }
            }
        }
        self.counted(text, found)
    }

    /// Looks once at a command line and all that is in it.
    fn read(&self, image: &Image) -> Option<Line> {
        let text = &*image.cmdline;
        let args_at = text.len() - image.args().len();
        let names = [&*image.name, &*image.exe_path, &*image.argv0];
        let programs: Vec<&[u8]> = names.into_iter().filter(|name| !name.is_empty()).collect();
        let mut at = args_at;
        let words: Vec<Range<usize>> = image
            .arguments()
            .map(|argument| {
                let start = at;
                at += argument.len() + 1;
                start..start + argument.len()
            })
            .collect();
        let mut found = Vec::new();
        tools::command(text, &programs, &words, &mut found);
        for (at, range) in words.iter().enumerate() {
            let before = match at.checked_sub(1) {
                Some(at) => Some(&text[words[at].clone()]),
                None => Some(&*image.argv0),
            };
            let piece = Piece {
                range: range.clone(),
                script: tools::takes_script(&programs, before),
                header: matches!(before, Some(b"-H" | b"--header")),
            };
            self.look(text, &piece, &mut found);
        }
        // A match ends with its argument: more would be what the next one says.
        let end_of = |at: usize| {
            let word = words.partition_point(|word| word.end < at);
            words.get(word).map_or(text.len(), |word| word.end)
        };
        for at in self.any.matches(text) {
            let is_built_in = at < patterns::BUILT_IN.len();
            let bound = |at| if is_built_in { end_of(at) } else { text.len() };
            self.matches(at, text, bound, &mut found);
        }
        // The name is not the program's to choose what it looks like.
        found.retain(|range| range.start >= args_at);
        let mut found_in_exe = Vec::new();
        self.find(&image.argv0, true, &mut found_in_exe);
        let (cmdline, in_args) = self.replaced(text, found);
        let (exe, in_exe) = self.replaced(&image.argv0, found_in_exe);
        (in_args + in_exe > 0).then(|| Line {
            exe: exe.into(),
            cmdline: cmdline.into(),
            args_at,
            count: in_args + in_exe,
        })
    }

    /// Finds all there is in a text that was one thing.
    fn find(&self, text: &[u8], script: bool, found: &mut Vec<Range<usize>>) {
        let piece = Piece {
            range: 0..text.len(),
            script,
            header: false,
        };
        self.look(text, &piece, found);
        for at in self.any.matches(text) {
            self.matches(at, text, |_| text.len(), found);
        }
    }

    fn look(&self, text: &[u8], piece: &Piece, found: &mut Vec<Range<usize>>) {
        scan::named(text, piece, found);
        scan::addresses(text, piece.range.clone(), found);
        script(text, piece.range.clone(), 0, found);
    }

    /// What one pattern finds; `end_of` says how far what begins at a place may go.
    fn matches(
        &self,
        pattern: usize,
        text: &[u8],
        end_of: impl Fn(usize) -> usize,
        found: &mut Vec<Range<usize>>,
    ) {
        let pattern = &self.patterns[pattern];
        let mut at = 0;
        while let Some(captures) = pattern.captures_at(text, at) {
            let whole = captures.get(0).expect("a match has its own text");
            let secret = captures.name(GROUP).unwrap_or(whole);
            let is_secret = captures.name(NAME_GROUP).is_none_or(|name| {
                names::class(name.as_bytes()).is_some_and(|class| class.holds(secret.as_bytes()))
            });
            if is_secret {
                found.push(secret.start()..secret.end().min(end_of(secret.start())));
                at = whole.end();
            } else {
                // What stands in the value's place may be a name, too.
                at = secret.start();
            }
            at = at.max(whole.start() + 1);
            if at > text.len() {
                break;
            }
        }
    }

    fn counted<'t>(&self, text: &'t [u8], found: Vec<Range<usize>>) -> Cow<'t, [u8]> {
        let (replaced, count) = self.replaced(text, found);
        self.count.set(self.count.get() + count);
        replaced
    }

    /// The text with these places replaced, and how many there were. Those that overlap or touch are one.
    fn replaced<'t>(&self, text: &'t [u8], mut found: Vec<Range<usize>>) -> (Cow<'t, [u8]>, u64) {
        let replacement = self.replacement.as_bytes();
        found.retain(|range| !range.is_empty() && text[range.clone()] != *replacement);
        if found.is_empty() {
            return (Cow::Borrowed(text), 0);
        }
        found.sort_by_key(|range| range.start);
        found.dedup_by(|next, last| {
            let is_one = next.start <= last.end;
            if is_one {
                last.end = last.end.max(next.end);
            }
            is_one
        });
        let mut shown = Vec::with_capacity(text.len());
        let mut at = 0;
        for range in &found {
            shown.extend_from_slice(&text[at..range.start]);
            shown.extend_from_slice(replacement);
            at = range.end;
        }
        shown.extend_from_slice(&text[at..]);
        (Cow::Owned(shown), found.len() as u64)
    }
}

/// Reads a text as commands, and what they are given as commands again.
fn script(text: &[u8], range: Range<usize>, depth: usize, found: &mut Vec<Range<usize>>) {
    let has_words = text[range.clone()].iter().any(u8::is_ascii_whitespace);
    if depth == DEPTH_MAX || !has_words {
        return;
    }
    for words in scan::commands(text, range.clone()) {
        tools::command(text, &[], &words, found);
        for word in words {
            if word != range {
                script(text, word, depth + 1, found);
            }
        }
    }
}

fn compile(pattern: &str, unicode: bool) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern)
        .unicode(unicode)
        .size_limit(COMPILED_BYTES_MAX)
        .build()
}

fn checked(number: usize, pattern: &str) -> Result<Regex, RedactError> {
    let bytes = pattern.len();
    if bytes > PATTERN_BYTES_MAX {
        return Err(RedactError::TooLong { number, bytes });
    }
    let compiled = compile(pattern, true).map_err(|error| RedactError::Pattern {
        number,
        pattern: pattern.into(),
        problem: one_line(&error),
    })?;
    if compiled.is_match(b"") {
        let pattern = pattern.into();
        return Err(RedactError::Empty { number, pattern });
    }
    Ok(compiled)
}

/// The parser draws the pattern over several lines; its last one says what is wrong.
fn one_line(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default().trim();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

#[cfg(test)]
mod tests;
