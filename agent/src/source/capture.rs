//! Captures: what the sensor delivered, in a file.
//!
//! A file is a prefix ([`MAGIC`], versions), a [`Header`] in JSON, and blocks. A block is compressed, numbered and has a sum of
//! its own, so that of a damaged file everything before the damage is whole. Inside are frames: a record from the ring as it
//! was, or something that the stages behind have noted. What a note means is their business.
//!
//! | bytes | of the prefix |
//! |---|---|
//! | 8 | `SAKERCAP` |
//! | 2 | version of this format |
//! | 2 | version of the wire format |
//! | 4 | length of the header |
//! | 4 | CRC-32 of the header |
//!
//! | bytes | of a block |
//! |---|---|
//! | 4 | `SBLK`, or `SEND` for the last one |
//! | 4 | number, from 0 |
//! | 4 | records in it |
//! | 4 | length of its frames |
//! | 4 | length of its frames compressed (LZ4), which follow |
//! | 4 | CRC-32 of the 20 bytes before and of the compressed frames |
//!
//! A frame is a byte that says what it is, four bytes of length, and as many bytes. Numbers are little-endian; what is in a
//! record is in the byte order of the machine that wrote it, which the version of the wire format tells.

mod errors;
mod header;
mod reader;
mod survey;
mod writer;

pub use errors::{CaptureError, Damage, Fault};
pub use header::Header;
pub use reader::Reader;
pub use writer::{Writer, Written};

/// What a capture starts with.
pub const MAGIC: [u8; 8] = *b"SAKERCAP";

/// Raised with every change to this format, or to what notes mean.
pub const FORMAT: u16 = 2;

/// The longest header.
const HEADER_BYTES_MAX: u32 = 256 << 10;

/// A block is closed when its frames are this long.
const BLOCK_BYTES: usize = 256 << 10;

/// The frames of a block are never longer: what a reader has to hold. One frame can be this long.
const BLOCK_BYTES_MAX: usize = 4 << 20;

const PREFIX_BYTES: usize = 20;
const BLOCK_HEADER_BYTES: usize = 24;
const FRAME_HEADER_BYTES: usize = 5;

const BLOCK: [u8; 4] = *b"SBLK";
const LAST_BLOCK: [u8; 4] = *b"SEND";

/// A part of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A record as the ring held it.
    Record(&'a [u8]),
    /// An answer of the machine to a question that the next record or note raised.
    Answer(&'a [u8]),
    /// Something else that happened.
    Note(&'a [u8]),
}

impl<'a> Frame<'a> {
    const fn tag(&self) -> u8 {
        match self {
            Self::Record(_) => 1,
            Self::Answer(_) => 2,
            Self::Note(_) => 3,
        }
    }

    const fn bytes(&self) -> &'a [u8] {
        match self {
            Self::Record(bytes) | Self::Answer(bytes) | Self::Note(bytes) => bytes,
        }
    }

    const fn from_tag(tag: u8, bytes: &'a [u8]) -> Option<Self> {
        Some(match tag {
            1 => Self::Record(bytes),
            2 => Self::Answer(bytes),
            3 => Self::Note(bytes),
            _ => return None,
        })
    }
}

/// The numbers in front of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BlockHeader {
    is_last: bool,
    number: u32,
    records: u32,
    raw_len: u32,
    packed_len: u32,
    sum: u32,
}

impl BlockHeader {
    fn to_bytes(self, packed: &[u8]) -> [u8; BLOCK_HEADER_BYTES] {
        let mut bytes = [0; BLOCK_HEADER_BYTES];
        bytes[..4].copy_from_slice(if self.is_last { &LAST_BLOCK } else { &BLOCK });
        let numbers = [self.number, self.records, self.raw_len, self.packed_len];
        for (at, number) in numbers.into_iter().enumerate() {
            bytes[4 + 4 * at..8 + 4 * at].copy_from_slice(&number.to_le_bytes());
        }
        let sum = sum(&bytes[..20], packed);
        bytes[20..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// `None` where the bytes are no block's header, or say that it is longer than a block can be.
    fn parse(bytes: &[u8; BLOCK_HEADER_BYTES]) -> Option<Self> {
        let number = |at: usize| {
            let mut four = [0; 4];
            four.copy_from_slice(&bytes[at..at + 4]);
            u32::from_le_bytes(four)
        };
        let is_last = bytes[..4] == LAST_BLOCK;
        if !is_last && bytes[..4] != BLOCK {
            return None;
        }
        let header = Self {
            is_last,
            number: number(4),
            records: number(8),
            raw_len: number(12),
            packed_len: number(16),
            sum: number(20),
        };
        let fits = header.raw_len as usize <= BLOCK_BYTES_MAX
            && header.packed_len as usize <= packed_bytes_max();
        fits.then_some(header)
    }

    fn is_sound(&self, bytes: &[u8; BLOCK_HEADER_BYTES], packed: &[u8]) -> bool {
        sum(&bytes[..20], packed) == self.sum
    }
}

fn packed_bytes_max() -> usize {
    lz4_flex::block::get_maximum_output_size(BLOCK_BYTES_MAX)
}

fn sum(header: &[u8], packed: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(packed);
    hasher.finalize()
}

#[cfg(test)]
mod tests;
