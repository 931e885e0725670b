//! What lies behind a damage: how many bytes, and how many records in blocks that are whole.
//!
//! They are counted and not replayed: what they say builds on what is missing.

use std::io::Read;

use super::{BLOCK, BLOCK_HEADER_BYTES, BlockHeader, LAST_BLOCK, packed_bytes_max, reader::fill};

/// Places that look like a block's start and are none, after which nobody looks any closer: each costs a sum over up to a
/// whole block, and a file can consist of them.
const FALSE_STARTS_MAX: u32 = 64;

/// Bytes to the end, and records in the whole blocks among them.
pub(super) fn survey(input: &mut impl Read) -> (u64, u64) {
    let window = BLOCK_HEADER_BYTES + packed_bytes_max();
    let mut buffer = vec![0; 2 * window];
    let (mut start, mut end) = (0, 0);
    let (mut bytes, mut records, mut false_starts) = (0, 0, 0);
    loop {
        if end - start < window {
            buffer.copy_within(start..end, 0);
            (start, end) = (0, end - start);
            // An input that fails has ended as far as anybody can tell.
            let found = fill(input, &mut buffer[end..]).unwrap_or(0);
            bytes += found as u64;
            end += found;
        }
        let rest = &buffer[start..end];
        if rest.is_empty() {
            return (bytes, records);
        }
        if false_starts == FALSE_STARTS_MAX {
            start = end;
            continue;
        }
        match block(rest) {
            Start::Block { length, count } => {
                records += u64::from(count);
                start += length;
            }
            Start::False => {
                false_starts += 1;
                start += 1;
            }
            Start::None => {
                start += rest[1..]
                    .iter()
                    .position(|byte| *byte == BLOCK[0])
                    .map_or(rest.len(), |at| at + 1);
            }
        }
    }
}

enum Start {
    None,
    False,
    Block { length: usize, count: u32 },
}

fn block(rest: &[u8]) -> Start {
    if !rest.starts_with(&BLOCK) && !rest.starts_with(&LAST_BLOCK) {
        return Start::None;
    }
    let Some(bytes) = rest.first_chunk::<BLOCK_HEADER_BYTES>() else {
        return Start::None;
    };
    let Some(header) = BlockHeader::parse(bytes) else {
        return Start::None;
    };
    let length = BLOCK_HEADER_BYTES + header.packed_len as usize;
    match rest.get(BLOCK_HEADER_BYTES..length) {
        Some(packed) if header.is_sound(bytes, packed) => Start::Block {
            length,
            count: header.records,
        },
        _ => Start::False,
    }
}
