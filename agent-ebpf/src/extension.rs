//! Extensions of file names: the key by which wanted ones are kept, and how it is cut from the end of a name.
//!
//! What runs for every open has no loop: a loop's rounds are a third of what an unwanted open costs.

/// Name of the map of wanted file name extensions, keyed by [`extension_key`].
pub const EXTENSIONS_MAP: &str = "OPEN_EXTENSIONS";
/// Most extensions that the map can hold.
pub const EXTENSIONS_MAX: u32 = 256;
/// Bytes of an extension, its dot included, that are told apart. A longer one cannot be asked for.
pub const EXTENSION_BYTES: usize = 16;

/// The key of an extension: its bytes from the dot on, zero-padded. `None` for what is none, or too long.
pub fn extension_key(extension: &[u8]) -> Option<[u64; 2]> {
    let is_one = extension.len() <= EXTENSION_BYTES
        && extension.first() == Some(&b'.')
        && !extension[1..]
            .iter()
            .any(|byte| matches!(byte, b'.' | b'/' | 0));
    let word = |word: usize| {
        u64::from_le_bytes(core::array::from_fn(|at| {
            extension.get(word * 8 + at).copied().unwrap_or(0)
        }))
    };
    is_one.then(|| [word(0), word(1)])
}

/// The key of what follows the last dot of a name that is `length` long and whose last bytes are `tail`, as little-endian words
/// that end where the name does. What stands before a shorter name does not count. `None` where there is no dot.
#[inline(always)]
pub fn key_of_tail(tail: [u64; 2], length: u32) -> Option<[u64; 2]> {
    let [low, high] = tail;
    let (low, high) = if length >= 16 {
        (low, high)
    } else if length > 8 {
        (low & last_bytes(length - 8), high)
    } else if length == 8 {
        (0, high)
    } else if length > 0 {
        (0, high & last_bytes(length))
    } else {
        return None;
    };
    let dots = dots(high);
    if dots != 0 {
        return Some([high >> last_mark(dots), 0]);
    }
    let dots = self::dots(low);
    if dots == 0 {
        return None;
    }
    let shift = last_mark(dots);
    // In two steps: a shift by all 64 bits is none.
    Some([(low >> shift) | (high << 1 << (63 - shift)), high >> shift])
}

/// A mask of the last `count` bytes of a word, 1 to 8.
#[inline(always)]
fn last_bytes(count: u32) -> u64 {
    u64::MAX << (64 - 8 * count)
}

/// The upper bit of each byte that is a dot.
#[inline(always)]
fn dots(word: u64) -> u64 {
    const LOWER: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let other = word ^ u64::from_ne_bytes([b'.'; 8]);
    // A byte that is 0 stays below 0x80 when 0x7f is added; no carry leaves a byte, so that none is taken for a dot.
    !(((other & LOWER) + LOWER) | other | LOWER)
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
