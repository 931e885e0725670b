//! Reading a capture that anybody may have made: total, in bounded memory, and everything before a damage is whole.

use std::io::{self, Read};

use saker_ebpf::wire;

use super::{
    BLOCK_BYTES_MAX, BLOCK_HEADER_BYTES, BlockHeader, CaptureError, Damage, FORMAT,
    FRAME_HEADER_BYTES, Fault, Frame, HEADER_BYTES_MAX, Header, MAGIC, PREFIX_BYTES,
    survey::survey,
};

/// Hands out the frames of a capture, one after another.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    header: Header,
    /// Frames of the block that is being read.
    raw: Vec<u8>,
    at: usize,
    packed: Vec<u8>,
    /// Number of the block that comes next.
    next: u32,
    is_last: bool,
    is_over: bool,
    damage: Option<Damage>,
}

impl<R: Read> Reader<R> {
    /// Reads and checks the header.
    pub fn open(mut input: R) -> Result<Self, CaptureError> {
        let read = |source| CaptureError::Io {
            attempt: "read the capture",
            source,
        };
        let mut prefix = [0; PREFIX_BYTES];
        let found = fill(&mut input, &mut prefix).map_err(read)?;
        if found < MAGIC.len() || prefix[..MAGIC.len()] != MAGIC {
            return Err(CaptureError::NotACapture);
        }
        if found < PREFIX_BYTES {
            return Err(CaptureError::Short);
        }
        let short = |at: usize| u16::from_le_bytes([prefix[at], prefix[at + 1]]);
        let long = |at: usize| u32::from(short(at)) | u32::from(short(at + 2)) << 16;
        if short(8) != FORMAT {
            return Err(CaptureError::Format { found: short(8) });
        }
        if short(10) != wire::VERSION {
            return Err(CaptureError::Wire { found: short(10) });
        }
        let length = long(12);
        if length > HEADER_BYTES_MAX {
            return Err(CaptureError::Header {
                problem: format!("{length} bytes, of at most {HEADER_BYTES_MAX}"),
            });
        }
        let mut header = vec![0; length as usize];
        if fill(&mut input, &mut header).map_err(read)? < header.len() {
            return Err(CaptureError::Short);
        }
        if crc32fast::hash(&header) != long(16) {
            return Err(CaptureError::Header {
                problem: "its checksum is wrong".into(),
            });
        }
        Ok(Self {
            input,
            header: Header::parse(&header)?,
            raw: Vec::new(),
            at: 0,
            packed: Vec::new(),
            next: 0,
            is_last: false,
            is_over: false,
            damage: None,
        })
    }

    /// What the capture says of its origin.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The next frame; `None` at the end, or where the rest is damaged.
    #[expect(
        clippy::should_implement_trait,
        reason = "what it returns borrows from the reader, which no iterator can"
    )]
    pub fn next(&mut self) -> Option<Frame<'_>> {
        while self.at >= self.raw.len() {
            if !self.next_block() {
                return None;
            }
        }
        let (at, rest) = (self.at, &self.raw[self.at..]);
        let Some((tag, length)) = frame_header(rest) else {
            self.stop(Fault::Frames);
            return None;
        };
        self.at += FRAME_HEADER_BYTES + length;
        let start = at + FRAME_HEADER_BYTES;
        // The tag was checked with the length.
        Frame::from_tag(tag, &self.raw[start..start + length])
    }

    /// What is wrong with the file, once [`Self::next`] has returned `None`; `None` for a whole one.
    pub fn damage(&self) -> Option<&Damage> {
        self.damage.as_ref()
    }

    fn next_block(&mut self) -> bool {
        if self.is_over {
            return false;
        }
        match self.read_block() {
            Ok(more) => {
                self.is_over = !more;
                more
            }
            Err((fault, unread)) => {
                self.damaged(fault, &unread);
                false
            }
        }
    }

    /// Reads a block whole, or says what is wrong and which bytes of it were taken from the input.
    fn read_block(&mut self) -> Result<bool, (Fault, Vec<u8>)> {
        let mut bytes = [0; BLOCK_HEADER_BYTES];
        let found = fill(&mut self.input, &mut bytes).map_err(|error| failed(&error))?;
        if self.is_last {
            return match found {
                0 => Ok(false),
                found => Err((Fault::Behind, bytes[..found].to_vec())),
            };
        }
        if found < bytes.len() {
            let fault = if found == 0 { Fault::NoEnd } else { Fault::Cut };
            return Err((fault, bytes[..found].to_vec()));
        }
        let Some(header) = BlockHeader::parse(&bytes) else {
            return Err((Fault::NoBlock, bytes.to_vec()));
        };
        self.packed.resize(header.packed_len as usize, 0);
        let found = fill(&mut self.input, &mut self.packed).map_err(|error| failed(&error))?;
        let unread = |packed: &[u8]| [&bytes[..], packed].concat();
        if found < self.packed.len() {
            return Err((Fault::Cut, unread(&self.packed[..found])));
        }
        if !header.is_sound(&bytes, &self.packed) {
            return Err((Fault::Sum, unread(&self.packed)));
        }
        if header.number != self.next {
            return Err((Fault::OutOfOrder, unread(&self.packed)));
        }
        self.raw.resize(header.raw_len as usize, 0);
        self.at = 0;
        // It writes into what is there and never beyond, whatever the bytes say.
        let length = lz4_flex::block::decompress_into(&self.packed, &mut self.raw);
        if length.ok() != Some(self.raw.len()) {
            self.raw.clear();
            return Err((Fault::Compression, unread(&self.packed)));
        }
        self.next = self.next.wrapping_add(1);
        self.is_last = header.is_last;
        Ok(true)
    }

    /// The block that is being read turns out to be none.
    fn stop(&mut self, fault: Fault) {
        self.raw.clear();
        self.next = self.next.wrapping_sub(1);
        self.damaged(fault, &[]);
    }

    fn damaged(&mut self, fault: Fault, unread: &[u8]) {
        let mut rest = unread.chain(&mut self.input);
        let (bytes, records) = survey(&mut rest);
        self.is_over = true;
        self.damage = Some(Damage {
            block: self.next,
            fault,
            bytes,
            records,
        });
    }
}

fn failed(error: &io::Error) -> (Fault, Vec<u8>) {
    (Fault::Io(error.kind()), Vec::new())
}

/// What a frame is and how long, where all of it is there.
fn frame_header(rest: &[u8]) -> Option<(u8, usize)> {
    let (header, rest) = rest.split_first_chunk::<FRAME_HEADER_BYTES>()?;
    let [tag, length @ ..] = *header;
    let length = u32::from_le_bytes(length) as usize;
    let is_whole = length <= rest.len().min(BLOCK_BYTES_MAX) && Frame::from_tag(tag, &[]).is_some();
    is_whole.then_some((tag, length))
}

/// Reads until the buffer is full or the input ends; says how much there was.
pub(super) fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
