//! Paths that say what they mean: absolute, with nothing but names between their slashes.
//!
//! Rules see the path of an open that failed made plain: without doubled slashes, `.`, `..` and a slash at its end. One that is plain already can be compared as
//! it was passed.

use crate::extension::zeros;

/// How many bytes of a path are looked at; a power of two.
pub const PLAIN_BYTES: usize = 256;

/// What the bytes before the next word were, in its first byte.
#[derive(Clone, Copy, Default)]
struct Before {
    slash: u64,
    slash_dot: u64,
    slash_dot_dot: u64,
}

/// Is a path of `length` bytes plain? `word` gives its words from the beginning, in memory's order, and behind its end a zero and then anything.
/// A longer path than [`PLAIN_BYTES`] is not, whatever it says; a shorter one may be taken for one that is not, because of what stands
/// behind its end, but never the other way.
///
/// Without a branch for each word: the verifier would follow all that comes after from each of them.
#[inline(always)]
pub fn is_plain(word: impl Fn(usize) -> u64, length: u32) -> bool {
    let mut before = Before::default();
    let mut found = 0;
    let mut at = 0;
    while at < PLAIN_BYTES / 8 {
        // All ones up to the word with the end.
        let counts = (((at * 8) as i64) - i64::from(length) - 1) >> 63;
        found |= odd(word(at), &mut before) & counts.cast_unsigned();
        at += 1;
    }
    let is_absolute = word(0).to_le() & 0xff == u64::from(b'/');
    // The root's own name ends with a slash, and is plain.
    is_absolute && length < PLAIN_BYTES as u32 && (found == 0 || length == 1)
}

/// The upper bit of each byte at which a component ends that is no name.
#[inline(always)]
fn odd(word: u64, before: &mut Before) -> u64 {
    let word = word.to_le();
    let slashes = zeros(word ^ u64::from_ne_bytes([b'/'; 8]));
    let dots = zeros(word ^ u64::from_ne_bytes([b'.'; 8]));
    let ends = slashes | zeros(word);
    let slash = (slashes << 8) | before.slash;
    let slash_dot = ((slash & dots) << 8) | before.slash_dot;
    let slash_dot_dot = ((slash_dot & dots) << 8) | before.slash_dot_dot;
    *before = Before {
        slash: slashes >> 56,
        slash_dot: (slash & dots) >> 56,
        slash_dot_dot: (slash_dot & dots) >> 56,
    };
    (slash | slash_dot | slash_dot_dot) & ends
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel side has it: what was there before stands behind the end.
    fn check(path: &[u8], behind: u8) -> bool {
        let mut text = [behind; PLAIN_BYTES + 8];
        let length = path.len().min(PLAIN_BYTES);
        text[..length].copy_from_slice(&path[..length]);
        text[length] = 0;
        let word = |at: usize| {
            let bytes: [u8; 8] = core::array::from_fn(|byte| text[at * 8 + byte]);
            u64::from_ne_bytes(bytes)
        };
        is_plain(word, path.len() as u32)
    }

    /// By components.
    fn expected(path: &[u8]) -> bool {
        let Some(rest) = path.strip_prefix(b"/") else {
            return false;
        };
        path.len() < PLAIN_BYTES
            && (rest.is_empty() && path.len() == 1
                || rest
                    .split(|byte| *byte == b'/')
                    .all(|name| !matches!(name, b"" | b"." | b"..")))
    }

    #[test]
    fn paths_are_told_apart() {
        let plain: [&[u8]; 6] = [
            b"/",
            b"/a",
            b"/etc/shadow",
            b"/opt/.cache/..data/a..b/...",
            b"/usr/lib/x86_64-linux-gnu/glibc-hwcaps/x86-64-v4/libgcc_s.so.1",
            b"/a.",
        ];
        for path in plain {
            assert!(check(path, b'x'), "{path:?}");
        }
        let others: [&[u8]; 13] = [
            b"",
            b"a",
            b"./a",
            b"//a",
            b"/./a",
            b"/../etc",
            b"/.",
            b"/..",
            b"/a/..",
            b"/a/.",
            b"/tmp/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/../../etc/shadow",
            b"/a//",
            b"/a/",
        ];
        for path in others {
            assert!(!check(path, b'x'), "{path:?}");
        }
    }

    #[test]
    fn it_is_so_wherever_in_a_word_it_stands() {
        let parts: [&[u8]; 8] = [b"/", b".", b"a", b"..", b"/.", b"//", b"bc", b"/.."];
        // Every sequence of three behind every number of letters.
        for letters in 0..20 {
            for number in 0..parts.len().pow(3) {
                let mut path = [0_u8; 64];
                let mut length = 0;
                let mut add = |part: &[u8]| {
                    path[length..length + part.len()].copy_from_slice(part);
                    length += part.len();
                };
                add(b"/");
                for _ in 0..letters {
                    add(b"n");
                }
                add(parts[number % 8]);
                add(parts[number / 8 % 8]);
                add(parts[number / 64]);
                let path = &path[..length];
                assert_eq!(check(path, b'x'), expected(path), "{path:?}");
                // What was there before may hide that a path is plain, and nothing else.
                assert!(!check(path, b'/') || expected(path), "{path:?}");
                assert!(!check(path, b'.') || expected(path), "{path:?}");
            }
        }
    }

    #[test]
    fn long_paths_are_nothing() {
        let mut path = [b'a'; PLAIN_BYTES + 1];
        path[0] = b'/';
        assert!(check(&path[..PLAIN_BYTES - 1], 0));
        assert!(!check(&path[..PLAIN_BYTES], 0));
        assert!(!check(&path, 0));
        // Its last component says something.
        path[PLAIN_BYTES - 3..PLAIN_BYTES - 1].copy_from_slice(b"/.");
        assert!(!check(&path[..PLAIN_BYTES - 1], 0));
    }
}
