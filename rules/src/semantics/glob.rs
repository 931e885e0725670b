//! Shell patterns as `fnmatch` reads them without flags: `*` and `?` match any byte, a slash included.

/// A compiled pattern.
#[derive(Clone, Debug)]
pub(crate) struct Glob {
    tokens: Vec<Token>,
    ignores_case: bool,
}

#[derive(Clone, Debug)]
enum Token {
    Byte(u8),
    Any,
    Star,
    /// A set of bytes, a bit each.
    Class(Box<[u64; 4]>),
    /// A backslash that escapes nothing.
    Never,
}

impl Glob {
    pub(crate) fn new(pattern: &[u8], ignores_case: bool) -> Self {
        let mut tokens = Vec::new();
        let mut at = 0;
        while let Some(&byte) = pattern.get(at) {
            at += 1;
            tokens.push(match byte {
                b'*' => {
                    while pattern.get(at) == Some(&b'*') {
                        at += 1;
                    }
                    Token::Star
                }
                b'?' => Token::Any,
                b'\\' => match pattern.get(at) {
                    None => Token::Never,
                    Some(&escaped) => {
                        at += 1;
                        Token::Byte(fold(escaped, ignores_case))
                    }
                },
                b'[' => match class(&pattern[at..], ignores_case) {
                    Some((set, len)) => {
                        at += len;
                        Token::Class(Box::new(set))
                    }
                    None => Token::Byte(b'['),
                },
                other => Token::Byte(fold(other, ignores_case)),
            });
        }
        Self {
            tokens,
            ignores_case,
        }
    }

    /// Whether the whole value matches. Costs at most the product of both lengths.
    pub(crate) fn matches(&self, value: &[u8]) -> bool {
        let (mut token, mut at) = (0, 0);
        // Where the last star stands, and how much it has taken.
        let mut star: Option<(usize, usize)> = None;
        loop {
            match self.tokens.get(token) {
                Some(Token::Star) => {
                    star = Some((token, at));
                    token += 1;
                    continue;
                }
                Some(single) if at < value.len() && self.fits(single, value[at]) => {
                    token += 1;
                    at += 1;
                    continue;
                }
                None if at == value.len() => return true,
                _ => {}
            }
            let Some((star_token, taken)) = star else {
                return false;
            };
            if taken >= value.len() {
                return false;
            }
            star = Some((star_token, taken + 1));
            token = star_token + 1;
            at = taken + 1;
        }
    }

    fn fits(&self, token: &Token, byte: u8) -> bool {
        match token {
            Token::Any => true,
            Token::Byte(wanted) => *wanted == fold(byte, self.ignores_case),
            Token::Class(set) => contains(set, byte),
            Token::Star | Token::Never => false,
        }
    }
}

/// The set behind a `[` and the length of its text; `None` where no `]` ends it.
fn class(pattern: &[u8], ignores_case: bool) -> Option<([u64; 4], usize)> {
    let mut set = [0u64; 4];
    let mut at = 0;
    let is_negated = matches!(pattern.first(), Some(b'!' | b'^'));
    if is_negated {
        at += 1;
    }
    let start = at;
    loop {
        let byte = *pattern.get(at)?;
        if byte == b']' && at > start {
            at += 1;
            break;
        }
        if byte == b'[' && pattern.get(at + 1) == Some(&b':') {
            let name_len = pattern[at + 2..].windows(2).position(|pair| pair == b":]");
            if let Some(len) = name_len {
                add_named(&mut set, &pattern[at + 2..at + 2 + len])?;
                at += len + 4;
                continue;
            }
        }
        let (low, after_low) = class_byte(pattern, at)?;
        at = after_low;
        let is_range =
            pattern.get(at) == Some(&b'-') && !matches!(pattern.get(at + 1), None | Some(b']'));
        let high = if is_range {
            let (high, after_high) = class_byte(pattern, at + 1)?;
            at = after_high;
            high
        } else {
            low
        };
        for byte in low..=high {
            add(&mut set, byte);
        }
    }
    if ignores_case {
        let plain = set;
        for byte in (0..=u8::MAX).filter(|&byte| contains(&plain, byte)) {
            add(&mut set, byte.to_ascii_lowercase());
            add(&mut set, byte.to_ascii_uppercase());
        }
    }
    if is_negated {
        set = set.map(|word| !word);
    }
    Some((set, at))
}

/// One byte of a class, perhaps escaped, and where the next begins.
fn class_byte(pattern: &[u8], at: usize) -> Option<(u8, usize)> {
    match *pattern.get(at)? {
        b'\\' => Some((*pattern.get(at + 1)?, at + 2)),
        byte => Some((byte, at + 1)),
    }
}

/// `None` for a class that does not exist, which makes the bracket a plain character.
fn add_named(set: &mut [u64; 4], name: &[u8]) -> Option<()> {
    let fits: fn(&u8) -> bool = match name {
        b"alpha" => u8::is_ascii_alphabetic,
        b"digit" => u8::is_ascii_digit,
        b"alnum" => u8::is_ascii_alphanumeric,
        b"upper" => u8::is_ascii_uppercase,
        b"lower" => u8::is_ascii_lowercase,
        b"space" => |byte| byte.is_ascii_whitespace() || *byte == 0xb,
        b"blank" => |byte| matches!(byte, b' ' | b'\t'),
        b"punct" => u8::is_ascii_punctuation,
        b"cntrl" => u8::is_ascii_control,
        b"graph" => u8::is_ascii_graphic,
        b"print" => |byte| byte.is_ascii_graphic() || *byte == b' ',
        b"xdigit" => u8::is_ascii_hexdigit,
        _ => return None,
    };
    for byte in (0..=u8::MAX).filter(fits) {
        add(set, byte);
    }
    Some(())
}

fn add(set: &mut [u64; 4], byte: u8) {
    set[usize::from(byte / 64)] |= 1 << (byte % 64);
}

fn contains(set: &[u64; 4], byte: u8) -> bool {
    set[usize::from(byte / 64)] & (1 << (byte % 64)) != 0
}

fn fold(byte: u8, ignores_case: bool) -> u8 {
    if ignores_case {
        byte.to_ascii_lowercase()
    } else {
        byte
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_values() {
        let check = |pattern: &str, value: &[u8], expected: bool| {
            let glob = Glob::new(pattern.as_bytes(), false);
            assert_eq!(glob.matches(value), expected, "{pattern} on {value:?}");
        };
        check("", b"", true);
        check("", b"a", false);
        check("*", b"", true);
        check("*", b"/a/b", true);
        check("a*c", b"abbc", true);
        check("a*c", b"abbd", false);
        check("a*b*c", b"aXbXbXc", true);
        check("*.so", b"/lib/x.so", true);
        check("?", b"\xff", true);
        check("?", b"", false);
        check("/p?/q?", b"/p\xff/q\xff", true);
        check("[abc]x", b"bx", true);
        check("[!abc]x", b"bx", false);
        check("[^abc]x", b"dx", true);
        check("[a-c]", b"b", true);
        check("[a-]", b"-", true);
        check("[]x]", b"]", true);
        check("[[:digit:]]*", b"7up", true);
        check("[abc", b"[abc", true);
        check("[abc", b"a", false);
        check(r"\*", b"*", true);
        check(r"\*", b"x", false);
        check(r"a\", b"a\\", false);
        check("**a", b"xa", true);
    }

    #[test]
    fn case_is_folded_on_request() {
        let check = |pattern: &str, value: &str, expected: bool| {
            let glob = Glob::new(pattern.as_bytes(), true);
            assert_eq!(
                glob.matches(value.as_bytes()),
                expected,
                "{pattern} on {value}"
            );
        };
        check("MY*", "myexe", true);
        check("[A-C]x", "bX", true);
        check("[!a]", "A", false);
    }
}
