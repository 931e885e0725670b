//! All constants that a value contains: every constant posts a few rare grams to a bitmap, the value's grams are looked up
//! there, and only what survives is compared.
//!
//! Constants of seven bytes and more post the four overlapping 4-grams of their rarest seven-byte window, so that one of them lies at
//! a multiple of four wherever the constant stands: the value is read at every fourth byte only. Constants of four to six bytes post
//! one 4-gram, shorter ones themselves, and are looked for at every byte. No look-up waits for the one before, as each
//! byte does in an automaton, and the bitmap stays in the first cache levels at any number of constants.
//!
//! A value that is full of a constant's gram costs a comparison at each place; equal grams of many constants are avoided by choosing
//! each constant's rarest, counted over all constants. The worst case, all constants equal in every gram, is
//! (constants × length) comparisons, bounded by the length of values, which the kernel side bounds.
//!
//! Measured (`cargo bench -p saker-rules --bench automata`), ns a value of 57 bytes and MB, for 100, 1,000 and 10,000 constants: this 27, 30, 67 and
//! 0.01, 0.08, 0.77; Aho-Corasick, contiguous 176, 172, 171 and 0.02, 0.13, 1.05; as a DFA 136, 135, 136 and 0.16, 1.33, 10.4. An unanchored
//! `regex-automata` DFA cannot be built at 10,000, and its lazy kin thrashes its cache there.

use super::{Pool, PoolRef, Span, hash};
use rustc_hash::FxHashMap;

/// One class of constants: those that share gram length and stride.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Class {
    /// A bit for each hash of a posted gram; a power of two of bits. Empty where the class has no constants.
    pub bitmap: Span,
    /// Bucket starts in `posts`, one more than a power of two.
    pub heads: Span,
    /// Three words each: gram, key, offset of the gram in the constant.
    pub posts: Span,
}

/// The classes: long, medium, then constants of three, two and one bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Grams {
    /// See [`CLASSES`].
    pub classes: [Class; CLASS_COUNT],
}

/// Gram length and stride of each class.
const CLASSES: [(usize, usize); CLASS_COUNT] = [(4, 4), (4, 1), (3, 1), (2, 1), (1, 1)];

const MULTIPLIER: u32 = 0x9e37_79b1;

/// Bits per posted gram; at 32 a random gram passes once in 32 or rarer, times the chance that the value resembles the constants.
const BITS_PER_GRAM: usize = 32;
/// 512 bytes to 32 KiB: below, false hits cost more than the memory; above, the first cache level is left.
const BITS_LOG2: core::ops::RangeInclusive<u32> = 12..=18;

/// Builds the tables. Each constant stands once and is not empty.
pub fn build<'c>(pool: &mut Pool, constants: impl Iterator<Item = (&'c [u8], u32)>) -> Grams {
    let mut by_class: [Vec<(&[u8], u32)>; CLASS_COUNT] = Default::default();
    for (constant, key) in constants {
        if constant.is_empty() {
            continue;
        }
        let class = class_of(constant.len());
        by_class[class].push((constant, key));
    }
    let mut grams = Grams::default();
    for (index, constants) in by_class.iter().enumerate() {
        if !constants.is_empty() {
            grams.classes[index] = build_class(pool, constants, CLASSES[index]);
        }
    }
    grams
}

fn build_class(
    pool: &mut Pool,
    constants: &[(&[u8], u32)],
    (gram_len, stride): (usize, usize),
) -> Class {
    let mut shared: FxHashMap<u32, u32> = FxHashMap::default();
    for (constant, _) in constants {
        for window in constant.windows(gram_len) {
            *shared.entry(gram_of(window)).or_default() += 1;
        }
    }
    let mut posts: Vec<[u32; 3]> = Vec::with_capacity(constants.len() * stride);
    for &(constant, key) in constants {
        let span = gram_len + stride - 1;
        let start = (0..=constant.len() - span)
            .min_by_key(|&at| {
                (at..at + stride)
                    .map(|gram| commonness(&constant[gram..gram + gram_len], &shared))
                    .sum::<u32>()
            })
            .unwrap_or(0);
        for at in start..start + stride {
            posts.push([gram_of(&constant[at..at + gram_len]), key, at as u32]);
        }
    }
    let bits_log2 = (posts.len() * BITS_PER_GRAM)
        .next_power_of_two()
        .trailing_zeros()
        .clamp(*BITS_LOG2.start(), *BITS_LOG2.end());
    let mut bitmap = vec![0_u64; 1 << (bits_log2 - 6)];
    let buckets_log2 = posts.len().next_power_of_two().trailing_zeros().max(1);
    posts.sort_unstable_by_key(|post| (bucket(post[0], buckets_log2), *post));
    let mut heads = vec![0_u32; (1 << buckets_log2) + 1];
    for post in &posts {
        let bit = bucket(post[0], bits_log2) as usize;
        bitmap[bit >> 6] |= 1 << (bit & 63);
        heads[bucket(post[0], buckets_log2) as usize + 1] += 1;
    }
    for at in 1..heads.len() {
        heads[at] += heads[at - 1];
    }
    Class {
        bitmap: pool.add_quads(&bitmap),
        heads: pool.add_words(&heads),
        posts: pool.add_words(posts.as_flattened()),
    }
}

/// How often a gram is to be expected, in steps of about a factor of two: how many constants share it, and how common its bytes are in paths
/// and command lines.
fn commonness(gram: &[u8], shared: &FxHashMap<u32, u32>) -> u32 {
    let count = shared.get(&gram_of(gram)).copied().unwrap_or(1);
    let bytes: u32 = gram.iter().map(|&byte| byte_commonness(byte)).sum();
    bytes + 2 * count.ilog2()
}

/// How common a byte is in paths and command lines, in the same steps.
fn byte_commonness(byte: u8) -> u32 {
    match byte {
        b'e' | b't' | b'a' | b'o' | b'i' | b'n' | b's' | b'r' | b'/' | b' ' => 4,
        b'a'..=b'z' | b'.' | b'-' => 3,
        b'0'..=b'9' | b'_' => 2,
        _ => 1,
    }
}

/// Whether there is any constant to look for.
#[inline]
pub fn is_empty(table: &Grams) -> bool {
    table.classes.iter().all(|class| class.posts.len == 0)
}

/// Number of classes.
pub const CLASS_COUNT: usize = 5;

/// The class of constants of a length, which is not zero. Class 0 is the one that costs least to search.
#[inline]
pub fn class_of(len: usize) -> usize {
    match len {
        0 | 1 => 4,
        2 => 3,
        3 => 2,
        4..=6 => 1,
        _ => 0,
    }
}

/// Calls `candidate` with each key whose gram stands in the value where the constant may start, and with that start.
/// The caller compares the constant, and may be called for a key more than once.
#[inline]
pub fn find(pool: PoolRef<'_>, table: &Grams, value: &[u8], mut candidate: impl FnMut(u32, usize)) {
    for class in 0..CLASS_COUNT {
        find_class(pool, table, class, value, &mut candidate);
    }
}

/// The same for constants of one class.
#[inline]
pub fn find_class(
    pool: PoolRef<'_>,
    table: &Grams,
    class: usize,
    value: &[u8],
    mut candidate: impl FnMut(u32, usize),
) {
    match class {
        0 => scan::<4, 4>(pool, &table.classes[0], value, &mut candidate),
        1 => scan::<4, 1>(pool, &table.classes[1], value, &mut candidate),
        2 => scan::<3, 1>(pool, &table.classes[2], value, &mut candidate),
        3 => scan::<2, 1>(pool, &table.classes[3], value, &mut candidate),
        _ => scan::<1, 1>(pool, &table.classes[4], value, &mut candidate),
    }
}

/// Where a constant's rarest byte stands, for [`contains`].
pub fn rarest(wanted: &[u8]) -> usize {
    (0..wanted.len())
        .min_by_key(|&at| byte_commonness(wanted[at]))
        .unwrap_or(0)
}

/// Whether a value contains one constant, given where its rarest byte stands: looks for that byte, then compares.
#[inline]
pub fn contains(value: &[u8], wanted: &[u8], rarest: usize) -> bool {
    let Some(&byte) = wanted.get(rarest) else {
        return wanted.is_empty();
    };
    let Some(slack) = value.len().checked_sub(wanted.len()) else {
        return false;
    };
    // Where that byte can stand, if the whole constant is to fit.
    memchr::memchr_iter(byte, &value[rarest..=rarest + slack])
        .any(|at| &value[at..at + wanted.len()] == wanted)
}

#[inline]
fn scan<const LEN: usize, const STRIDE: usize>(
    pool: PoolRef<'_>,
    class: &Class,
    value: &[u8],
    candidate: &mut impl FnMut(u32, usize),
) {
    if class.bitmap.len == 0 || value.len() < LEN {
        return;
    }
    let bitmap = pool.quads(class.bitmap);
    let bits_log2 = 6 + bitmap.len().max(1).trailing_zeros();
    let last = value.len() - LEN;
    let mut at = 0;
    while at <= last {
        let gram = read::<LEN>(value, at);
        let bit = bucket(gram, bits_log2) as usize;
        if bitmap
            .get(bit >> 6)
            .is_some_and(|word| word >> (bit & 63) & 1 != 0)
        {
            posts(pool, class, gram, at, candidate);
        }
        at += STRIDE;
    }
}

#[cold]
#[inline(never)]
fn posts(
    pool: PoolRef<'_>,
    class: &Class,
    gram: u32,
    at: usize,
    candidate: &mut impl FnMut(u32, usize),
) {
    let heads = pool.words(class.heads);
    let posts = pool.words(class.posts);
    let buckets_log2 = heads.len().saturating_sub(1).max(1).trailing_zeros();
    let bucket = bucket(gram, buckets_log2) as usize;
    let (Some(&start), Some(&end)) = (heads.get(bucket), heads.get(bucket + 1)) else {
        return;
    };
    for post in
        (start as usize..end as usize).filter_map(|index| posts.get(index * 3..index * 3 + 3))
    {
        if post[0] == gram && post[2] as usize <= at {
            candidate(post[1], at - post[2] as usize);
        }
    }
}

#[inline]
fn bucket(gram: u32, bits_log2: u32) -> u32 {
    gram.wrapping_mul(MULTIPLIER) >> (32 - bits_log2.clamp(1, 31))
}

#[inline]
fn read<const LEN: usize>(value: &[u8], at: usize) -> u32 {
    if LEN == 4 {
        return hash::read4(value, at);
    }
    gram_of(&value[at..at + LEN])
}

#[inline]
fn gram_of(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .rev()
        .fold(0, |gram, &byte| gram << 8 | u32::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(constants: &[Vec<u8>], value: &[u8]) -> Vec<u32> {
        let mut pool = Pool::default();
        let table = build(
            &mut pool,
            constants
                .iter()
                .enumerate()
                .map(|(k, c)| (c.as_slice(), k as u32)),
        );
        let mut keys = Vec::new();
        find(pool.as_ref(), &table, value, |key, start| {
            let constant = &constants[key as usize];
            if value[start..].starts_with(constant) {
                keys.push(key);
            }
        });
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    fn check(constants: &[&str], value: &str, expected: &[u32]) {
        let constants: Vec<_> = constants.iter().map(|c| c.as_bytes().to_vec()).collect();
        assert_eq!(found(&constants, value.as_bytes()), expected, "{value:?}");
    }

    #[test]
    fn finds_constants_of_every_length_at_every_place() {
        let constants = [
            "/etc/shadow",
            "passwd",
            "nc",
            ";",
            "sh ",
            "stratum+tcp://",
            "exec",
        ];
        check(&constants, "cat /etc/shadow", &[0]);
        check(&constants, "/etc/shado", &[]);
        check(&constants, "x=1;nc -e sh -c", &[2, 3, 4]);
        check(&constants, "xmrig -o stratum+tcp://pool", &[5]);
        for (constant, value, expected) in [
            ("", "", true),
            ("a", "", false),
            ("ab", "xab", true),
            ("ab", "xa", false),
            ("bab", "abbab", true),
            ("=x", "==x", true),
        ] {
            assert_eq!(
                contains(
                    value.as_bytes(),
                    constant.as_bytes(),
                    rarest(constant.as_bytes())
                ),
                expected,
                "{constant:?} in {value:?}"
            );
        }
        check(&constants, "passwd", &[1]);
        check(&constants, "exec /etc/shadow;passwd", &[0, 1, 3, 6]);
        check(&constants, "", &[]);
        check(&constants, "n", &[]);
    }

    #[test]
    fn agrees_with_plain_search() {
        let mut state = 7_u64;
        let mut next = |bound: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound
        };
        for _ in 0..500 {
            let mut word = |max| {
                (0..1 + next(max))
                    .map(|_| b"abc"[next(3) as usize])
                    .collect::<Vec<u8>>()
            };
            let mut constants: Vec<_> = (0..60).map(|_| word(14)).collect();
            constants.sort();
            constants.dedup();
            let value = word(80);
            let expected: Vec<u32> = (0..constants.len() as u32)
                .filter(|&k| {
                    value
                        .windows(constants[k as usize].len())
                        .any(|window| window == constants[k as usize])
                })
                .collect();
            assert_eq!(found(&constants, &value), expected);
            for (key, constant) in constants.iter().enumerate() {
                assert_eq!(
                    contains(&value, constant, rarest(constant)),
                    expected.contains(&(key as u32))
                );
            }
        }
    }
}
