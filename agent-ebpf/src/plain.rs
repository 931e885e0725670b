//! Paths that begin and end as they say: absolute, and nothing in them makes another beginning or end of it.
//!
//! Rules see the path of an open that failed made plain: without doubled slashes, `.`, `..` and a slash at its end. What is wanted by its beginning or by the end of its
//! name can be compared as it was passed where making it plain leaves both alone.

use crate::extension::{dots, slashes, zeros};

/// Words of a path that are looked at.
pub const PLAIN_WORDS: usize = 32;
/// Bytes of them; a longer path is not plain.
pub const PLAIN_BYTES: usize = 8 * PLAIN_WORDS;
/// Words in which what is left out moves one of the first 32 bytes: `/./` may begin in the last of them.
const MOVING_WORDS: usize = 5;

/// Does a path of `length` bytes have the same first 32 bytes, or end within them, and the same name at its end once it was made plain? `word` gives its words in
/// memory's order, with zeros behind its end.
///
/// It never says so of one that has not. Of some that have it does not: two dots in a row count as `..`, also within a name.
///
/// Without a branch: the verifier would follow all that comes after it from each.
#[inline(always)]
pub fn is_plain(word: impl Fn(usize) -> u64, length: u32) -> bool {
    let first = word(0).to_le();
    // All bits but those of the first slash.
    let mut found = (first & 0xff) ^ u64::from(b'/');
    let mut dot_before = 0;
    let mut slash_before = 0;
    let mut slash_dot_before = 0;
    let mut at = 0;
    while at < PLAIN_WORDS {
        let word = word(at).to_le();
        let (dots, slashes) = (dots(word), slashes(word));
        let slash = (slashes << 8) | slash_before;
        let slash_dot = ((slash & dots) << 8) | slash_dot_before;
        // What is wanted by the end of its name is compared as it was passed, too.
        let ends = if at < MOVING_WORDS {
            slashes | zeros(word)
        } else {
            zeros(word)
        };
        found |= ends & (slash | slash_dot) | dots & ((dots << 8) | dot_before);
        dot_before = dots >> 56;
        slash_before = slashes >> 56;
        slash_dot_before = (slash & dots) >> 56;
        at += 1;
    }
    found == 0 && length < PLAIN_BYTES as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel side has it.
    fn check(path: &[u8]) -> bool {
        let mut text = [0; PLAIN_BYTES];
        let length = path.len().min(PLAIN_BYTES);
        text[..length].copy_from_slice(&path[..length]);
        let word = |at: usize| {
            let bytes: [u8; 8] = core::array::from_fn(|byte| text[at * 8 + byte]);
            u64::from_ne_bytes(bytes)
        };
        is_plain(word, path.len() as u32)
    }

    /// The first bytes of a path that was made plain, by components.
    fn beginning(path: &[u8]) -> [u8; 32] {
        let mut plain = [0_u8; PLAIN_BYTES];
        let mut length = 0;
        for name in path.split(|byte| *byte == b'/') {
            match name {
                b"" | b"." => {}
                b".." => {
                    while length > 0 {
                        length -= 1;
                        if plain[length] == b'/' {
                            break;
                        }
                    }
                }
                _ => {
                    plain[length] = b'/';
                    plain[length + 1..][..name.len()].copy_from_slice(name);
                    length += 1 + name.len();
                }
            }
        }
        let mut first = [0; 32];
        let length = length.min(32);
        first[..length].copy_from_slice(&plain[..length]);
        first
    }

    /// Whoever compares the first bytes of `path` as it is finds what he would find once it is plain.
    fn keeps(path: &[u8]) -> bool {
        let mut first = [0; 32];
        let length = path.len().min(32);
        first[..length].copy_from_slice(&path[..length]);
        let is_named = |name: &[u8]| !matches!(name, b"" | b"." | b"..");
        path.first() == Some(&b'/')
            && first == beginning(path)
            && path
                .rsplit(|byte| *byte == b'/')
                .next()
                .is_some_and(is_named)
    }

    #[test]
    fn paths_are_told_apart() {
        let plain: [&[u8]; 6] = [
            b"/a",
            b"/etc/shadow",
            b"/opt/.cache/.data/a.b",
            b"/usr/lib/x86_64-linux-gnu/glibc-hwcaps/x86-64-v4/libgcc_s.so.1",
            b"/a.",
            b"/a-name-of-more-than-thirty-two-bytes-and-eight-more//b/./c",
        ];
        for path in plain {
            assert!(check(path), "{path:?}");
        }
        let others: [&[u8]; 17] = [
            b"",
            b"a",
            b"./a",
            b"/",
            b"/.",
            b"/a/",
            b"/a/.",
            b"//a",
            b"/./a",
            b"/../etc",
            b"/..",
            b"/a/..",
            b"/a/./b",
            b"/tmp/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/../../etc/shadow",
            b"/tmp/aaaaaaaaaaaaaaaaaaaaaa//b",
            b"/a-name-of-more-than-thirty-two-bytes-and-eight-more/",
            b"/a-name-of-more-than-thirty-two-bytes-and-eight-more/x.pkl/.",
        ];
        for path in others {
            assert!(!check(path), "{path:?}");
        }
    }

    #[test]
    fn it_is_so_wherever_in_a_word_it_stands() {
        let parts: [&[u8]; 8] = [b"/", b".", b"a", b"..", b"/.", b"//", b"bc", b"/.."];
        // Every sequence of four behind every number of letters.
        for letters in 0..48 {
            for number in 0..parts.len().pow(4) {
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
                for at in 0..4 {
                    add(parts[number / parts.len().pow(at) % parts.len()]);
                }
                let path = &path[..length];
                assert!(
                    !check(path) || keeps(path),
                    "{:?}",
                    core::str::from_utf8(path)
                );
            }
        }
    }

    #[test]
    fn long_paths_are_nothing() {
        let mut path = [b'a'; PLAIN_BYTES + 1];
        path[0] = b'/';
        assert!(check(&path[..PLAIN_BYTES - 1]));
        assert!(!check(&path[..PLAIN_BYTES]));
        assert!(!check(&path));
        // Its last component says something.
        path[PLAIN_BYTES - 4..PLAIN_BYTES - 1].copy_from_slice(b"/..");
        assert!(!check(&path[..PLAIN_BYTES - 1]));
    }
}
