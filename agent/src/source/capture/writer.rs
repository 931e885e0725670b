//! Writing a capture: frames are gathered here, and compressed and written by a thread of their own.
//!
//! Where the disk is slower than the events, the caller waits; the ring fills meanwhile, and what it loses is counted there.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    mem,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::{self, JoinHandle},
};

use saker_ebpf::wire;

use super::{
    BLOCK_BYTES, BLOCK_BYTES_MAX, BLOCK_HEADER_BYTES, BlockHeader, CaptureError, FORMAT,
    FRAME_HEADER_BYTES, Frame, Header, MAGIC, PREFIX_BYTES,
};

/// An error of the system while this was attempted.
fn failed(attempt: &'static str) -> impl FnOnce(io::Error) -> CaptureError {
    move |source| CaptureError::Io { attempt, source }
}

/// Blocks between the two threads.
const BLOCKS_WAITING: usize = 4;

/// What is kept free for the last block.
const END_BYTES: u64 = 4096;

/// The caller's side.
#[derive(Debug)]
pub struct Writer {
    block: Block,
    blocks: SyncSender<Block>,
    emptied: Receiver<Vec<u8>>,
    thread: JoinHandle<Written>,
    too_long: u64,
}

#[derive(Debug, Default)]
struct Block {
    frames: Vec<u8>,
    records: u32,
    is_last: bool,
}

/// What became of a capture.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// Records in the file.
    pub records: u64,
    /// Its length.
    pub bytes: u64,
    /// Records that are not in it: it had its length, or could not be written any more.
    pub left_out: u64,
    /// Notes that were longer than a block.
    pub too_long: u64,
    /// Why it could not be written any more.
    pub error: Option<String>,
}

impl Writer {
    /// Makes the file, or empties it, and writes to it as [`Writer::start`] does.
    pub fn create(
        path: &Path,
        header: &Header,
        bytes_max: u64,
        full: impl FnOnce() + Send + 'static,
    ) -> Result<Self, CaptureError> {
        Self::start(Self::make(path)?, header, bytes_max, full)
    }

    /// Makes the file, or empties it, for its owner alone: command lines hold secrets.
    pub fn make(path: &Path) -> Result<File, CaptureError> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            // A link that somebody put there leads to what is not meant to be emptied.
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
            .open(path)
            .map_err(failed("make the capture"))?;
        // Of a device's node the permissions would be everybody's.
        if !file.metadata().is_ok_and(|found| found.is_file()) {
            let other = io::Error::other("not a regular file");
            return Err(failed("make the capture")(other));
        }
        file.set_permissions(std::fs::Permissions::from_mode(0o600))
            .map_err(failed("keep the capture from others"))?;
        Ok(file)
    }

    /// Writes to a file that was made for it. It gets no longer than `bytes_max`; `full` is called when it is, and when it cannot be
    /// written any more.
    pub fn start(
        mut file: File,
        header: &Header,
        bytes_max: u64,
        full: impl FnOnce() + Send + 'static,
    ) -> Result<Self, CaptureError> {
        let start = start(header)?;
        file.write_all(&start)
            .map_err(failed("write the capture"))?;
        let (blocks, to_write) = sync_channel(BLOCKS_WAITING);
        let (empty, emptied) = sync_channel(BLOCKS_WAITING);
        let sink = Sink {
            file,
            bytes_max,
            packed: Vec::new(),
            number: 0,
            full: Some(full),
            written: Written {
                bytes: start.len() as u64,
                ..Written::default()
            },
        };
        let thread = thread::Builder::new()
            .name("capture".into())
            .spawn(move || sink.run(&to_write, &empty))
            .map_err(failed("start the thread that writes the capture"))?;
        Ok(Self {
            block: Block::default(),
            blocks,
            emptied,
            thread,
            too_long: 0,
        })
    }

    /// Adds a frame.
    pub fn frame(&mut self, frame: Frame<'_>) {
        let bytes = frame.bytes();
        let length = FRAME_HEADER_BYTES + bytes.len();
        let Some(number) = u32::try_from(bytes.len())
            .ok()
            .filter(|_| length <= BLOCK_BYTES_MAX)
        else {
            self.too_long += 1;
            return;
        };
        if self.block.frames.len() + length > BLOCK_BYTES {
            self.flush();
        }
        let frames = &mut self.block.frames;
        frames.push(frame.tag());
        frames.extend_from_slice(&number.to_le_bytes());
        frames.extend_from_slice(bytes);
        self.block.records += u32::from(matches!(frame, Frame::Record(_)));
    }

    /// Has everything so far written: what is lost when the machine goes down is what came since.
    pub fn flush(&mut self) {
        if self.block.frames.is_empty() {
            return;
        }
        let frames = self.emptied.try_recv().unwrap_or_default();
        let block = mem::replace(
            &mut self.block,
            Block {
                frames,
                ..Block::default()
            },
        );
        // Without the thread there is nobody to write; that it is gone shows at the end.
        let _ = self.blocks.send(block);
    }

    /// Ends the capture with one more frame, and waits until it is written.
    pub fn finish(mut self, last: Frame<'_>) -> Written {
        self.flush();
        self.frame(last);
        self.block.is_last = true;
        self.flush();
        drop(self.blocks);
        let mut written = self.thread.join().unwrap_or_else(|_| Written {
            error: Some("the thread that writes it has ended".into()),
            ..Written::default()
        });
        written.too_long = self.too_long;
        written
    }
}

fn start(header: &Header) -> Result<Vec<u8>, CaptureError> {
    let problem = |problem: String| CaptureError::Header { problem };
    let text = serde_json::to_vec(header).map_err(|error| problem(error.to_string()))?;
    let length = u32::try_from(text.len())
        .ok()
        .filter(|length| *length <= super::HEADER_BYTES_MAX)
        .ok_or_else(|| problem(format!("{} bytes are too many", text.len())))?;
    let mut start = Vec::with_capacity(PREFIX_BYTES + text.len());
    start.extend_from_slice(&MAGIC);
    start.extend_from_slice(&FORMAT.to_le_bytes());
    start.extend_from_slice(&wire::VERSION.to_le_bytes());
    start.extend_from_slice(&length.to_le_bytes());
    start.extend_from_slice(&crc32fast::hash(&text).to_le_bytes());
    start.extend_from_slice(&text);
    Ok(start)
}

/// The thread's side.
struct Sink<F: FnOnce()> {
    file: File,
    bytes_max: u64,
    packed: Vec<u8>,
    number: u32,
    full: Option<F>,
    written: Written,
}

impl<F: FnOnce()> Sink<F> {
    fn run(mut self, blocks: &Receiver<Block>, empty: &SyncSender<Vec<u8>>) -> Written {
        for Block {
            mut frames,
            records,
            is_last,
        } in blocks
        {
            let is_written = self.written.error.is_none()
                && (is_last || self.full.is_some())
                && self.block(&frames, records, is_last);
            if is_written {
                self.written.records += u64::from(records);
            } else {
                self.written.left_out += u64::from(records);
                if let Some(full) = self.full.take() {
                    full();
                }
            }
            frames.clear();
            // Where enough of them wait already, this one is not needed.
            let _ = empty.try_send(frames);
        }
        if self.written.error.is_none()
            && let Err(error) = self.file.sync_all()
        {
            self.written.error = Some(error.to_string());
        }
        self.written
    }

    /// `false` where there is no room, or the disk refuses.
    fn block(&mut self, frames: &[u8], records: u32, is_last: bool) -> bool {
        let most = lz4_flex::block::get_maximum_output_size(frames.len());
        self.packed.resize(most, 0);
        let Ok(length) = lz4_flex::block::compress_into(frames, &mut self.packed) else {
            return false;
        };
        let packed = &self.packed[..length];
        let size = (BLOCK_HEADER_BYTES + length) as u64;
        let kept = if is_last { 0 } else { END_BYTES };
        if self.written.bytes + size + kept > self.bytes_max {
            return false;
        }
        let number = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let header = BlockHeader {
            is_last,
            number: self.number,
            records,
            raw_len: number(frames.len()),
            packed_len: number(length),
            sum: 0,
        };
        let header = header.to_bytes(packed);
        let written = self
            .file
            .write_all(&header)
            .and_then(|()| self.file.write_all(packed));
        if let Err(error) = written {
            self.written.error = Some(error.to_string());
            return false;
        }
        self.number += 1;
        self.written.bytes += size;
        true
    }
}
