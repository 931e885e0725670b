//! Why a file is no capture that can be read, and what is wrong with one that is damaged.

use std::{fmt, io};

use saker_ebpf::wire;

use super::FORMAT;

/// Why nothing of a file can be read.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file cannot be read or written.
    #[error("cannot {attempt}")]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It does not start as a capture does.
    #[error("not a capture: it does not start with SAKERCAP")]
    NotACapture,
    /// It ends before its header does.
    #[error("not a whole capture: it ends within its header")]
    Short,
    /// The file is of another version of Saker.
    #[error(
        "the capture has format {found}, this agent reads {FORMAT}; replay it with the version of Saker that recorded it"
    )]
    Format {
        /// The format that it claims.
        found: u16,
    },
    /// The records are of another version of Saker.
    #[error(
        "the capture has records of wire version {found}, this agent reads {}; replay it with the version of Saker that recorded it",
        wire::VERSION
    )]
    Wire {
        /// The version that it claims.
        found: u16,
    },
    /// The records have the version's number and another layout: another machine's, or a build between two versions.
    #[error(
        "the capture's records are laid out otherwise than this agent reads them; replay it with the build of Saker that recorded it"
    )]
    Layout,
    /// The header is damaged.
    #[error("the capture's header is damaged: {problem}")]
    Header {
        /// What is wrong with it.
        problem: String,
    },
}

/// Where a capture stops making sense, and what is left unread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The block that cannot be read.
    pub block: u32,
    /// What is wrong with it.
    pub fault: Fault,
    /// Bytes from there to the end of the file.
    pub bytes: u64,
    /// Records that whole blocks behind it hold.
    pub records: u64,
}

/// What is wrong with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The file ends where a block should start: its end is missing.
    NoEnd,
    /// The file ends within the block.
    Cut,
    /// Something else stands where a block should start.
    NoBlock,
    /// Another block stands there.
    OutOfOrder,
    /// The sum is another.
    Sum,
    /// The compressed bytes are none, or give another length.
    Compression,
    /// The frames do not fill the block.
    Frames,
    /// Something stands behind the last block.
    Behind,
    /// The file cannot be read any further.
    Io(io::ErrorKind),
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::NoEnd => "the file ends here and has no end mark",
            Self::Cut => "the file ends within it",
            Self::NoBlock => "something else stands in its place",
            Self::OutOfOrder => "another block stands in its place",
            Self::Sum => "its checksum is wrong",
            Self::Compression => "it cannot be uncompressed",
            Self::Frames => "its frames do not add up",
            Self::Behind => "it stands behind the end",
            Self::Io(kind) => return write!(out, "it cannot be read: {kind}"),
        })
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "block {}: {}; not replayed: {} bytes, and in whole blocks among them {} records",
            self.block, self.fault, self.bytes, self.records
        )
    }
}
