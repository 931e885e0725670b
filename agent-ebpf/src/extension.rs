//! Extensions of file names, and names that have none: the key by which wanted ones are kept, and how it is cut from the end of a name.
//! Wanted ones are kept by the last extension alone, which most names are decided by; two in a row stand beside it.
//!
//! A name without a dot is kept whole, behind a slash: `/token`. So credentials and the like, which are called by such names, are found by
//! the look-up that finds extensions, and no path has to be walked.
//!
//! What runs for every open has no loop: a loop's rounds are a third of what an unwanted open costs.

/// Name of the map of wanted file name extensions, keyed by [`extension_key`].
pub const EXTENSIONS_MAP: &str = "OPEN_EXTENSIONS";
/// Most extensions that the map can hold.
pub const EXTENSIONS_MAX: u32 = 256;
/// Bytes of an extension with its dot, or of a name with its slash, that are told apart. A longer one cannot be asked for.
pub const EXTENSION_BYTES: usize = 16;

/// Bit of the map's value: every name with this extension is wanted.
pub const EXTENSION_OF_ALL: u8 = 1;
/// Some are whose last two extensions are in the map too: `.pkl.gz` under `.gz`.
pub const EXTENSION_OF_PAIR: u8 = 2;
/// Some are whose file is a module of Python's that holds an unpickler, or takes one from elsewhere, by how they start.
pub const EXTENSION_OF_MODULE: u8 = 4;
/// How their names start, as little-endian words.
pub const MODULES: [u64; 2] = [
    u64::from_le_bytes(*b"_pickle."),
    u64::from_le_bytes(*b"_ctypes."),
];

/// Which last two bytes wanted names have: nearly every name is decided by them, without its key and without a look-up.
///
/// Six bits of each byte count, so that a name may be taken for one that is not wanted's, and its key decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Ends([u64; ENDS_WORDS]);

/// Words of [`Ends`]: a bit for each of 64 by 64 bytes.
pub const ENDS_WORDS: usize = 64;

impl Ends {
    /// None.
    pub const NONE: Self = Self([0; ENDS_WORDS]);

    /// Adds those of the names with this key.
    pub fn add(&mut self, key: [u64; 2]) {
        let length = (0..EXTENSION_BYTES)
            .rev()
            .find(|at| byte(key, *at) != 0)
            .map_or(0, |last| last + 1);
        if length < 2 {
            // Before a dot alone, which may end a name, stands anything.
            let (_, bit) = Self::place(u64::from(byte(key, 0)) << 56);
            self.0.iter_mut().for_each(|word| *word |= 1 << bit);
            return;
        }
        let end = u64::from(byte(key, length - 2)) << 48 | u64::from(byte(key, length - 1)) << 56;
        let (word, bit) = Self::place(end);
        self.0[word] |= 1 << bit;
    }

    /// Those of both.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        Self(core::array::from_fn(|at| self.0[at] | other.0[at]))
    }

    /// The word, and the number of the bit in it, for a name whose last bytes, as a little-endian word that ends where it does, are `tail`. Only the last two of them count.
    #[inline(always)]
    pub fn place(tail: u64) -> (usize, u64) {
        (((tail >> 48) & 63) as usize, (tail >> 56) & 63)
    }
}

/// A byte of a key.
fn byte(key: [u64; 2], at: usize) -> u8 {
    (key[at / 8] >> (8 * (at % 8))) as u8
}

/// The key of an extension, of two, or of a whole name: its bytes from the dot or the slash on, zero-padded. `None` for what is none of
/// them, or too long.
pub fn extension_key(extension: &[u8]) -> Option<[u64; 2]> {
    let dots_max = match extension.first() {
        Some(b'.') => 1,
        Some(b'/') => 0,
        _ => return None,
    };
    let rest = &extension[1..];
    let is_one = extension.len() <= EXTENSION_BYTES
        && !rest.iter().any(|byte| matches!(byte, b'/' | 0))
        && rest.iter().filter(|byte| **byte == b'.').count() <= dots_max;
    let word = |word: usize| {
        u64::from_le_bytes(core::array::from_fn(|at| {
            extension.get(word * 8 + at).copied().unwrap_or(0)
        }))
    };
    is_one.then(|| [word(0), word(1)])
}

/// The key of what follows the last dot, or the last slash where no dot is behind it, of a name or path that is `length` long and whose last
/// bytes are `tail`, as little-endian words that end where it does. What stands before a shorter one does not count; it is as if it
/// stood behind a slash. `None` where the end has neither.
#[inline(always)]
pub fn key_of_tail(tail: [u64; 2], length: u32) -> Option<[u64; 2]> {
    const SLASH: u64 = b'/' as u64;
    let (low, high) = of_name(tail, length);
    let (low, high) = if length >= 16 {
        (low, high)
    } else if length >= 8 {
        (low | (SLASH << (8 * (15 - length))), high)
    } else if length > 0 {
        (low, high | (SLASH << (8 * (7 - length))))
    } else {
        return None;
    };
    cut(low, high, marks(low), marks(high))
}

/// The key of what follows the last dot but one of a name. `None` where there are not two among the last bytes.
#[inline(always)]
pub fn key_of_pair(tail: [u64; 2], length: u32) -> Option<[u64; 2]> {
    let (low, high) = of_name(tail, length);
    let (in_low, in_high) = (dots(low), dots(high));
    if in_high != 0 {
        return cut(low, high, in_low, but_last(in_high));
    }
    if in_low == 0 {
        return None;
    }
    cut(low, high, but_last(in_low), 0)
}

/// The tail without what stands before a shorter name.
#[inline(always)]
fn of_name([low, high]: [u64; 2], length: u32) -> (u64, u64) {
    if length >= 16 {
        (low, high)
    } else if length > 8 {
        (low & last_bytes(length - 8), high)
    } else if length == 8 {
        (0, high)
    } else if length > 0 {
        (0, high & last_bytes(length))
    } else {
        (0, 0)
    }
}

/// What follows the last mark, zero-padded.
#[inline(always)]
fn cut(low: u64, high: u64, in_low: u64, in_high: u64) -> Option<[u64; 2]> {
    if in_high != 0 {
        return Some([high >> last_mark(in_high), 0]);
    }
    if in_low == 0 {
        return None;
    }
    let shift = last_mark(in_low);
    // In two steps: a shift by all 64 bits is none.
    Some([(low >> shift) | (high << 1 << (63 - shift)), high >> shift])
}

/// All marks but the last.
#[inline(always)]
fn but_last(marks: u64) -> u64 {
    marks & ((1 << last_mark(marks)) - 1)
}

/// A mask of the last `count` bytes of a word, 1 to 8.
#[inline(always)]
fn last_bytes(count: u32) -> u64 {
    u64::MAX << (64 - 8 * count)
}

/// The upper bit of each byte that is a dot.
#[inline(always)]
pub(crate) fn dots(word: u64) -> u64 {
    zeros(word ^ u64::from_ne_bytes([b'.'; 8]))
}

/// The upper bit of each byte that is a slash.
#[inline(always)]
pub(crate) fn slashes(word: u64) -> u64 {
    zeros(word ^ u64::from_ne_bytes([b'/'; 8]))
}

/// The upper bit of each byte that is a dot or a slash: `.` is 0x2e, `/` 0x2f, which differ in the lowest bit alone.
#[inline(always)]
fn marks(word: u64) -> u64 {
    zeros((word | u64::from_ne_bytes([1; 8])) ^ u64::from_ne_bytes([b'/'; 8]))
}

/// The upper bit of each byte that is 0.
#[inline(always)]
pub(crate) fn zeros(word: u64) -> u64 {
    const LOWER: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    // Such a byte stays below 0x80 when 0x7f is added; no carry leaves a byte, so that no other is taken for one.
    !(((word & LOWER) + LOWER) | word | LOWER)
}

/// Bits before the last byte that is marked.
#[inline(always)]
fn last_mark(marks: u64) -> u32 {
    let mut marks = marks;
    let mut bits = 0;
    if marks >> 32 != 0 {
        bits += 32;
        marks >>= 32;
    }
    if marks >> 16 != 0 {
        bits += 16;
        marks >>= 16;
    }
    if marks >> 8 != 0 {
        bits += 8;
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel side has it.
    fn may_be_wanted(ends: &Ends, name: &[u8]) -> bool {
        let last = |at: usize| name.len().checked_sub(at).map_or(b'x', |at| name[at]);
        let tail = u64::from_le_bytes(core::array::from_fn(|at| last(8 - at)));
        let (word, bit) = Ends::place(tail);
        name.len() < 2 || ends.0[word] >> bit & 1 != 0
    }

    #[test]
    fn the_last_two_bytes_tell_most_names_from_wanted_ones() {
        let wanted: [(&[u8], &[&[u8]]); 7] = [
            (b".pkl", &[b"a.pkl", b".pkl", b"a.b.pkl"]),
            (b".h", &[b"a.h", b".h"]),
            (b".safetensors", &[b"model.safetensors"]),
            (b"/token", &[b"token"]),
            (b"/k", &[b"k"]),
            (b".", &[b"a.", b"..", b"."]),
            (b"/fifteen-letters", &[b"fifteen-letters"]),
        ];
        for (text, names) in wanted {
            let mut ends = Ends::NONE;
            ends.add(extension_key(text).expect("a key"));
            for name in names {
                assert!(may_be_wanted(&ends, name), "{text:?} {name:?}");
            }
            for name in [&b"libc.so.6"[..], b"main.c", b"ld.so.cache", b"README"] {
                assert!(!may_be_wanted(&ends, name), "{text:?} {name:?}");
            }
        }
        assert!(!may_be_wanted(&Ends::NONE, b"token"));
    }
}
