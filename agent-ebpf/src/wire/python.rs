//! Records from inside Python interpreters.

use super::Header;

/// Most bytes of a module's or a name's text that a [`Pickle`] carries; longer ones are cut and marked.
///
/// A power of two less one: the verifier accepts a mask as the bound of a length.
pub const PICKLE_TEXT_BYTES_MAX: usize = 255;

/// An unpickler is about to resolve a global.
///
/// The texts are as the interpreter stores them, each in an area of its own, so that the record has one size and is built
/// where it stays: a program at a uprobe can be preempted, and memory of the CPU's would then be shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Pickle {
    /// The unpickling thread.
    pub header: Header,
    /// Bytes of the module's text.
    pub module_len: u32,
    /// Bytes of the name's text.
    pub name_len: u32,
    /// How the module is stored: one of `TEXT_*`.
    pub module_form: u32,
    /// How the name is stored: one of `TEXT_*`.
    pub name_form: u32,
    /// `PICKLE_*` bits.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
    /// The module; what lies behind its length says nothing.
    pub module: [u8; PICKLE_TEXT_BYTES_MAX + 1],
    /// The name.
    pub name: [u8; PICKLE_TEXT_BYTES_MAX + 1],
}

/// ASCII, a byte a character.
pub const TEXT_ASCII: u32 = 0;
/// Latin-1, a byte a character.
pub const TEXT_LATIN1: u32 = 1;
/// UCS-2 in the machine's byte order.
pub const TEXT_UCS2: u32 = 2;
/// UCS-4 in the machine's byte order.
pub const TEXT_UCS4: u32 = 4;
/// It is no compact string, and its text was not read.
pub const TEXT_UNKNOWN: u32 = 8;

/// The module is longer than the record carries; its start is there.
pub const PICKLE_MODULE_CUT: u32 = 1 << 0;
/// The name is longer than the record carries; its start is there.
pub const PICKLE_NAME_CUT: u32 = 1 << 1;
/// The module or the name could not be read from the process's memory.
pub const PICKLE_FAULT: u32 = 1 << 2;
