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
    let len = value.len();
    let (a, b) = if len > 16 {
        return long(value);
    } else if len >= 8 {
        (read8(value, 0), read8(value, len - 8))
    } else if len >= 4 {
        (u64::from(read4(value, 0)), u64::from(read4(value, len - 4)))
    } else if len > 0 {
        (u64::from(value[0]) | u64::from(value[len / 2]) << 8 | u64::from(value[len - 1]) << 16, 0)
    } else {
        (0, 0)
    };
    fold(a ^ K0, b ^ K1 ^ (len as u64).wrapping_mul(K2))
}

fn long(value: &[u8]) -> u64 {
    let len = value.len();
    let mut state = (len as u64).wrapping_mul(K2);
    let mut at = 0;
    while at + 16 < len {
        state = fold(read8(value, at) ^ K0, read8(value, at + 8) ^ state ^ K1);
        at += 16;
    }
    fold(read8(value, len - 16) ^ K0 ^ state, read8(value, len - 8) ^ K1)
}

/// Hashes a number together with a small one.
#[inline]
pub fn pair(number: u64, small: u32) -> u64 {
    fold(number ^ K0, u64::from(small).wrapping_mul(K2) ^ K1)
}

/// Eight bytes at an offset, which must exist.
#[inline]
pub fn read8(value: &[u8], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&value[at..at + 8]);
    u64::from_le_bytes(raw)
}

/// Four bytes at an offset, which must exist.
#[inline]
pub fn read4(value: &[u8], at: usize) -> u32 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&value[at..at + 4]);
    u32::from_le_bytes(raw)
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
        assert!(count - seen.len() <= 1, "{} of {count} collided", count - seen.len());
    }
}
