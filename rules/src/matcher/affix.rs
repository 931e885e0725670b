//! All constants that a value starts with, or ends with: a trie of eight-byte steps, each step a hash probe.
//!
//! A constant of 20 bytes is two full steps and one of four bytes. A node knows which lengths of last step exist
//! below it, so a value that leaves the trie costs one probe a length and one for the full step; the probes
//! of a node do not depend on each other, unlike the bytes of an automaton. Constants that end values are read backwards.
//!
//! Measured (`cargo bench -p saker-rules --bench automata`), ns a value of 57 bytes and MB, for 100, 1,000 and 10,000 prefixes: this 7, 7, 6 and
//! 0.01, 0.07, 0.54; `regex-automata` dense 11, 10, 11 and 0.11, 0.82, 6.34; sparse 16, 17, 16 and 0.01, 0.10, 0.88; a sorted
//! array searched once for each length 824, 1,127, 1,606. Building 10,000 takes 1.6 ms, the dense automaton 155 ms.

use super::{Pool, PoolRef, Span, hash};
use rustc_hash::FxHashMap;

/// Which end of the value is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// `startswith`
    Front,
    /// `endswith`
    Back,
}

/// The two tables of a trie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Affix {
    /// Of each node, the lengths of last step below it: bit `n` for a step of `n + 1` bytes.
    pub nodes: Span,
    /// Hash table of steps, two quads each: the bytes; node (24 bits), length (8 bits; 0 for a full step to a child) and
    /// the key or child plus one.
    pub steps: Span,
}

const NODE_BITS: u32 = 24;

/// Builds the trie. Each constant stands once and is not empty.
///
/// # Panics
/// Never for fewer than 2^24 nodes, which the compiler ensures by its bound on the constants' bytes.
pub fn build<'c>(
    pool: &mut Pool,
    end: End,
    constants: impl Iterator<Item = (&'c [u8], u32)>,
) -> Affix {
    let mut nodes = vec![0_u32];
    let mut steps: FxHashMap<(u64, u32, u32), u32> = FxHashMap::default();
    for (constant, key) in constants {
        let (mut node, mut at) = (0_u32, 0);
        while constant.len() - at > 8 {
            let (chunk, _) = read(constant, at, end);
            let next = nodes.len() as u32;
            node = *steps.entry((chunk, node, 0)).or_insert_with(|| {
                nodes.push(0);
                next
            });
            at += 8;
        }
        let len = (constant.len() - at) as u32;
        let (chunk, _) = read(constant, at, end);
        nodes[node as usize] |= 1 << (len - 1);
        steps.insert((chunk & mask(len), node, len), key);
    }
    assert!(
        nodes.len() < 1 << NODE_BITS,
        "the compiler bounds the bytes of constants"
    );
    let capacity = (steps.len().max(1) * 2).next_power_of_two();
    let mut table = vec![0_u64; capacity * 2];
    let mut sorted: Vec<_> = steps.into_iter().collect();
    sorted.sort_unstable();
    for ((chunk, node, len), target) in sorted {
        let tag = node | len << NODE_BITS;
        let mut at = hash::pair(chunk, tag) as usize & (capacity - 1);
        while table[at * 2 + 1] != 0 {
            at = (at + 1) & (capacity - 1);
        }
        table[at * 2] = chunk;
        table[at * 2 + 1] = u64::from(tag) << 32 | u64::from(target + 1);
    }
    Affix {
        nodes: pool.add_words(&nodes),
        steps: pool.add_quads(&table),
    }
}

/// Calls `hit` with the key of every constant that the value starts (or ends) with, shortest first.
#[inline]
pub fn find(pool: PoolRef<'_>, table: Affix, end: End, value: &[u8], mut hit: impl FnMut(u32)) {
    let nodes = pool.words(table.nodes);
    let steps = pool.quads(table.steps);
    let mut node = 0_u32;
    let mut at = 0;
    while at < value.len() {
        let Some(&lengths) = nodes.get(node as usize) else {
            return;
        };
        let (chunk, left) = read(value, at, end);
        let mut rest = lengths & ((1_u32 << left.min(8)) - 1);
        while rest != 0 {
            let len = rest.trailing_zeros() + 1;
            rest &= rest - 1;
            if let Some(key) = probe(steps, chunk & mask(len), node | len << NODE_BITS) {
                hit(key);
            }
        }
        if left <= 8 {
            return;
        }
        match probe(steps, chunk, node) {
            Some(next) => node = next,
            None => return,
        }
        at += 8;
    }
}

#[inline]
fn probe(steps: &[u64], chunk: u64, tag: u32) -> Option<u32> {
    let steps = steps.as_chunks::<2>().0;
    // An empty table, which only a malformed bundle has, is not entered.
    let mask = steps.len().wrapping_sub(1);
    let mut at = hash::pair(chunk, tag) as usize & mask;
    for _ in 0..steps.len() {
        let &[bytes, target] = steps.get(at)?;
        if target == 0 {
            return None;
        }
        if bytes == chunk && (target >> 32) as u32 == tag {
            return Some((target as u32).wrapping_sub(1));
        }
        at = (at + 1) & mask;
    }
    None
}

/// Up to eight bytes from an offset, first byte lowest, and how many bytes are left in all.
#[inline]
fn read(value: &[u8], at: usize, end: End) -> (u64, usize) {
    let left = value.len() - at;
    let chunk = match end {
        End::Front if left >= 8 => hash::read8(value, at),
        End::Back if left >= 8 => hash::read8(value, left - 8).swap_bytes(),
        // The last bytes, shifted out of a read that reaches back over those before.
        End::Front if at > 0 => hash::read8(value, value.len() - 8) >> (8 * (8 - left)),
        End::Back if at > 0 => (hash::read8(value, 0) << (8 * (8 - left))).swap_bytes(),
        End::Front => value
            .iter()
            .rev()
            .fold(0, |chunk, &byte| chunk << 8 | u64::from(byte)),
        End::Back => value
            .iter()
            .fold(0, |chunk, &byte| chunk << 8 | u64::from(byte)),
    };
    (chunk, left)
}

#[inline]
fn mask(len: u32) -> u64 {
    u64::MAX >> (64 - 8 * len.clamp(1, 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(end: End, constants: &[&str], value: &str, expected: &[u32]) {
        let mut pool = Pool::default();
        let table = build(
            &mut pool,
            end,
            constants
                .iter()
                .enumerate()
                .map(|(key, text)| (text.as_bytes(), key as u32)),
        );
        let mut found = Vec::new();
        find(pool.as_ref(), table, end, value.as_bytes(), |key| {
            found.push(key);
        });
        assert_eq!(found, expected, "{constants:?} in {value:?}");
    }

    #[test]
    fn yields_every_prefix_shortest_first() {
        let paths = [
            "/etc/",
            "/etc/passwd",
            "/usr/lib",
            "/usr/lib/",
            "/",
            "/etc/passwd-backup.old",
            "/etc/sha",
        ];
        check(End::Front, &paths, "/etc/passwd", &[4, 0, 1]);
        check(
            End::Front,
            &paths,
            "/etc/passwd-backup.old.2",
            &[4, 0, 1, 5],
        );
        check(End::Front, &paths, "/usr/lib", &[4, 2]);
        check(End::Front, &paths, "/usr/lib/", &[4, 2, 3]);
        check(End::Front, &paths, "/usr/li", &[4]);
        check(End::Front, &paths, "", &[]);
        check(End::Front, &paths, "etc", &[]);
    }

    #[test]
    fn yields_every_suffix() {
        let names = [
            ".so",
            "/libcuda.so",
            "o",
            "/x/libcuda.so",
            "1234567890123456",
        ];
        check(End::Back, &names, "/opt/x/libcuda.so", &[2, 0, 1, 3]);
        check(End::Back, &names, "so", &[2]);
        check(End::Back, &names, "01234567890123456", &[4]);
        check(End::Back, &names, "1234567890123456", &[4]);
        check(End::Back, &names, "234567890123456", &[]);
    }

    #[test]
    fn a_table_that_does_not_fit_yields_nothing() {
        let mut pool = Pool::default();
        let whole = build(
            &mut pool,
            End::Front,
            [(&b"/etc/passwd"[..], 0)].into_iter(),
        );
        for steps in [
            Span::default(),
            Span { start: 9, len: 9 },
            Span {
                start: u32::MAX,
                len: u32::MAX,
            },
            Span { start: 0, len: 1 },
        ] {
            find(
                pool.as_ref(),
                Affix { steps, ..whole },
                End::Front,
                b"/etc/passwd",
                |key| panic!("found {key}"),
            );
        }
    }

    #[test]
    fn agrees_with_plain_comparison() {
        let mut state = 1_u64;
        let mut next = |bound: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound
        };
        for end in [End::Front, End::Back] {
            for _ in 0..300 {
                let mut word = |max| {
                    (0..1 + next(max))
                        .map(|_| b"ab"[next(2) as usize])
                        .collect::<Vec<u8>>()
                };
                let mut constants: Vec<_> = (0..40).map(|_| word(24)).collect();
                constants.sort();
                constants.dedup();
                let value = word(30);
                let mut pool = Pool::default();
                let table = build(
                    &mut pool,
                    end,
                    constants
                        .iter()
                        .enumerate()
                        .map(|(k, c)| (c.as_slice(), k as u32)),
                );
                let mut found = Vec::new();
                find(pool.as_ref(), table, end, &value, |key| found.push(key));
                found.sort_unstable();
                let expected: Vec<u32> = (0..constants.len() as u32)
                    .filter(|&k| match end {
                        End::Front => value.starts_with(&constants[k as usize]),
                        End::Back => value.ends_with(&constants[k as usize]),
                    })
                    .collect();
                assert_eq!(found, expected);
            }
        }
    }
}
