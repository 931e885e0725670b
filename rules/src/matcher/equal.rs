//! Equality with any of many constants: one hash, one probe.
//!
//! Open addressing with linear probing at a load of at most one half. An entry holds the upper half of the hash and
//! the key plus one; zero is empty. The caller compares the bytes, which it keeps for other uses anyhow. A filter of 512 bits over
//! length, first and last byte, asked before hashing, was tried: with Falco's rules it costs as much as it saves.

use super::{Pool, PoolRef, Span, hash};

/// Builds the table. Each constant stands once.
pub fn build<'c>(
    pool: &mut Pool,
    constants: impl ExactSizeIterator<Item = (&'c [u8], u32)>,
) -> Span {
    let capacity = (constants.len().max(2) * 2).next_power_of_two();
    let mut table = vec![0_u64; capacity];
    for (constant, key) in constants {
        let hash = hash::bytes(constant);
        let mut at = hash as usize & (capacity - 1);
        while table[at] != 0 {
            at = (at + 1) & (capacity - 1);
        }
        table[at] = (hash & !0xffff_ffff) | u64::from(key + 1);
    }
    pool.add_quads(&table)
}

/// Calls `is` with the keys whose constants have the value's hash, until it says that one has the same bytes.
#[inline]
pub fn find(pool: PoolRef<'_>, table: Span, value: &[u8], is: impl Fn(u32) -> bool) -> Option<u32> {
    let table = pool.quads(table);
    let hash = hash::bytes(value);
    let mask = table.len().wrapping_sub(1);
    let mut at = hash as usize & mask;
    for _ in 0..table.len() {
        let entry = *table.get(at)?;
        if entry == 0 {
            return None;
        }
        if (entry ^ hash) >> 32 == 0 {
            let key = (entry as u32).wrapping_sub(1);
            if is(key) {
                return Some(key);
            }
        }
        at = (at + 1) & mask;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_constants_and_nothing_else() {
        let constants: Vec<String> = (0..1_000)
            .map(|number| "x".repeat(number % 20) + &number.to_string())
            .chain([String::new()])
            .collect();
        let mut pool = Pool::default();
        let table = build(
            &mut pool,
            constants
                .iter()
                .map(String::as_bytes)
                .zip(0_u32..)
                .collect::<Vec<_>>()
                .into_iter(),
        );
        let look = |value: &str| {
            find(pool.as_ref(), table, value.as_bytes(), |key| {
                constants[key as usize] == value
            })
        };
        for (key, constant) in constants.iter().enumerate() {
            assert_eq!(look(constant), Some(key as u32), "{constant:?}");
            assert_eq!(look(&format!("{constant}y")), None);
        }
    }
}
