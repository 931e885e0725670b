//! The hash behind the tables: a few multiplications for the short values that events carry.
//!
//! It is part of the bundle format: changing it needs a new format version. Attackers choose the values that are
//! looked up, never the constants in the tables, so a lookup costs at most the table's longest probe, which
//! is fixed when the table is built; a keyed hash would buy nothing.

const K0: u64 = 0x9e37_79b9_7f4a_7c15;
const K1: u64 = 0xd6e8_feb8_6659_fd93;
const K2: u64 = 0xa076_1d64_78bd_642f;

/// Multiplies to 128 bits and folds the halves.
#[inline]
pub fn fold(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    (wide as u64) ^ (wide >> 64) as u64
}

/// Hashes a byte string.
#[inline]
pub fn bytes(value: &[u8]) -> u64 {
    if value.len() > 16 {
        return long(value);
    }
    // Overlapping reads from both ends cover every length without a loop.
    let (a, b) = if let (Some(first), Some(last)) = (value.first_chunk(), value.last_chunk()) {
        (u64::from_le_bytes(*first), u64::from_le_bytes(*last))
    } else if let (Some(first), Some(last)) = (value.first_chunk(), value.last_chunk()) {
        (
            u64::from(u32::from_le_bytes(*first)),
            u64::from(u32::from_le_bytes(*last)),
        )
    } else if let [first, .., last] = value {
        (
            u64::from(*first) | u64::from(value[value.len() / 2]) << 8 | u64::from(*last) << 16,
            0,
        )
    } else {
        (
            value.first().map_or(0, |&byte| u64::from(byte) * 0x1_0101),
            0,
        )
    };
    fold(a ^ K0, b ^ K1 ^ (value.len() as u64).wrapping_mul(K2))
}

fn long(value: &[u8]) -> u64 {
    let mut state = (value.len() as u64).wrapping_mul(K2);
    let mut rest = value;
    while let Some((chunk, after)) = rest.split_first_chunk::<16>()
        && !after.is_empty()
    {
        let chunk = u128::from_le_bytes(*chunk);
        state = fold(chunk as u64 ^ K0, (chunk >> 64) as u64 ^ state ^ K1);
        rest = after;
    }
    let last = value
        .last_chunk()
        .map_or(0, |last| u128::from_le_bytes(*last));
    fold(last as u64 ^ K0 ^ state, (last >> 64) as u64 ^ K1)
}

/// Hashes a number together with a small one.
#[inline]
pub fn pair(number: u64, small: u32) -> u64 {
    fold(number ^ K0, u64::from(small).wrapping_mul(K2) ^ K1)
}

/// Eight bytes at an offset, which must exist.
#[inline]
pub fn read8(value: &[u8], at: usize) -> u64 {
    value[at..]
        .first_chunk()
        .map_or(0, |raw| u64::from_le_bytes(*raw))
}

/// Four bytes at an offset, which must exist.
#[inline]
pub fn read4(value: &[u8], at: usize) -> u32 {
    value[at..]
        .first_chunk()
        .map_or(0, |raw| u32::from_le_bytes(*raw))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    #[test]
    fn short_and_similar_values_rarely_collide() {
        let mut seen = HashSet::new();
        let mut count = 0;
        for len in 0..40 {
            for tail in 0..200_u8 {
                let mut value = vec![b'a'; len];
                if let Some(last) = value.last_mut() {
                    *last = tail;
                } else if tail > 0 {
                    break;
                }
                count += 1;
                // 32 bits are what the tables compare before the bytes.
                seen.insert((super::bytes(&value) >> 32) as u32);
            }
        }
        assert!(
            count - seen.len() <= 1,
            "{} of {count} collided",
            count - seen.len()
        );
    }
}
