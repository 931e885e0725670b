//! The flat tables that answer every constant of every rule on one value at once.
//!
//! Each kind of test has a table: built from `(constant, key)` pairs, stored as plain words in a [`Pool`], and
//! read in place from a bundle. A lookup yields the *keys* whose constant the value meets. What a key
//! means to a rule is the compiler's and the engine's business; whether a rule's comparison holds in every
//! corner case is that of `semantics.rs`: a table may yield a key too many where its caller says so, never one too few.
//!
//! All reads go through slices, so a damaged table yields wrong keys at worst; loops are bounded by the length
//! of the value and of the table.

pub mod affix;
pub mod equal;
pub mod gram;
pub mod hash;
pub mod net;
pub mod range;

/// Where tables live: one array for each width, addressed by [`Span`]s.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    /// Tables of 32-bit words.
    pub words: Vec<u32>,
    /// Tables of 64-bit words.
    pub quads: Vec<u64>,
}

/// A borrowed pool.
#[derive(Clone, Copy, Debug)]
pub struct PoolRef<'a> {
    /// Tables of 32-bit words.
    pub words: &'a [u32],
    /// Tables of 64-bit words.
    pub quads: &'a [u64],
}

/// A range of one of the pool's arrays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Span {
    /// First element.
    pub start: u32,
    /// Number of elements.
    pub len: u32,
}

impl Span {
    /// The range as indexes; an end past `u32::MAX` saturates and then fails the slice check.
    #[inline]
    pub fn range(self) -> core::ops::Range<usize> {
        self.start as usize..(self.start as usize).saturating_add(self.len as usize)
    }
}

impl Pool {
    /// Appends a table of 32-bit words.
    pub fn add_words(&mut self, table: &[u32]) -> Span {
        let start = self.words.len() as u32;
        self.words.extend_from_slice(table);
        Span {
            start,
            len: table.len() as u32,
        }
    }

    /// Appends a table of 64-bit words.
    pub fn add_quads(&mut self, table: &[u64]) -> Span {
        let start = self.quads.len() as u32;
        self.quads.extend_from_slice(table);
        Span {
            start,
            len: table.len() as u32,
        }
    }

    /// The pool, to read from.
    pub fn as_ref(&self) -> PoolRef<'_> {
        PoolRef {
            words: &self.words,
            quads: &self.quads,
        }
    }
}

impl<'a> PoolRef<'a> {
    /// The words of a table; empty where the span does not fit.
    #[inline]
    pub fn words(self, span: Span) -> &'a [u32] {
        self.words.get(span.range()).unwrap_or(&[])
    }

    /// The quads of a table; empty where the span does not fit.
    #[inline]
    pub fn quads(self, span: Span) -> &'a [u64] {
        self.quads.get(span.range()).unwrap_or(&[])
    }
}
