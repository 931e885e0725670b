//! Draining the two rings as one: in the order in which things happened, and never for longer than the caller says.
//!
//! What must not be lost (the kinds that are not [`Kind::is_sheddable`]) has a ring of its own, so that a flood of opens or
//! packets takes no room from it. But a program's start must be known before what the program opens is judged, and its end
//! not before. So records are taken from whichever ring has the older one in front, by the moment that each carries.
//!
//! A record carries the moment before it got its place in its ring. So whatever stands in front of a process's start is older than anything that
//! the process does, and is taken before that.
//!
//! That is not enough where a ring looks empty: the older record may just be on its way. Two facts make it so.
//!
//! - What one process does, it does one after another: the record of what it did first is complete before the second exists.
//!   So when one ring has a record in front and the other none, the other is looked at **again**, after the record was seen. If
//!   it is empty then, nothing that led to the record is missing.
//! - A ring hands nothing out from behind a record that another processor is still writing. Then the other ring waits as well:
//!   the drain ends, and the next one goes on. Writing takes some microseconds, and while it lasts waiting for the rings ends at
//!   once, so that nothing is missed.
//!
//! In one case the order is given up: where the ring of what must not be lost is half full, it is emptied first, whatever the
//! other one holds. A start or an end is then known too early, which is better than not at all; how many is counted.
//!
//! Records from the same ring stay in its order: that is the order of their moments within a process, and nearly so between
//! processes.
//!
//! [`Kind::is_sheddable`]: saker_ebpf::wire::Kind::is_sheddable

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aya::maps::{MapData, RingBuf};

use crate::decode;

/// The rings that the kernel programs write to.
pub struct Rings {
    kept: Ring,
    sheddable: Ring,
    overtaken: u64,
}

/// Whose turn it is.
enum Turn {
    Kept,
    Sheddable,
    /// Nobody's: there is nothing, or it is still being written.
    None,
}

impl Rings {
    /// Reads from these rings.
    pub fn new(kept: Ring, sheddable: Ring) -> Self {
        Self {
            kept,
            sheddable,
            overtaken: 0,
        }
    }

    /// Hands at most `max` records to `f`, and returns how many. Fewer than `max` means that both rings were empty at some
    /// moment since, or that one waits for a record that is still being written.
    pub fn drain(&mut self, max: usize, f: &mut dyn FnMut(&[u8])) -> usize {
        self.kept.note_waiting();
        self.sheddable.note_waiting();
        for taken in 0..max {
            match self.turn() {
                Turn::Kept => self.kept.take(f),
                Turn::Sheddable => self.sheddable.take(f),
                Turn::None => return taken,
            }
        }
        max
    }

    fn turn(&mut self) -> Turn {
        // In this order: where only the second has something, the first is asked again below, and where only the first has, the
        // second was asked after it.
        match (self.kept.front(), self.sheddable.front()) {
            (Some(kept), Some(sheddable)) if kept <= sheddable => Turn::Kept,
            (Some(_), Some(_)) if self.kept.is_half_full() => {
                self.overtaken += 1;
                Turn::Kept
            }
            (Some(_), Some(_)) => Turn::Sheddable,
            (Some(kept), None) => match self.sheddable.front_or_empty() {
                Front::At(sheddable) if sheddable < kept => Turn::Sheddable,
                Front::InWriting if !self.kept.is_half_full() => Turn::None,
                Front::InWriting => {
                    self.overtaken += 1;
                    Turn::Kept
                }
                _ => Turn::Kept,
            },
            (None, Some(sheddable)) => match self.kept.front_or_empty() {
                Front::At(kept) if kept <= sheddable => Turn::Kept,
                Front::InWriting => Turn::None,
                _ => Turn::Sheddable,
            },
            (None, None) => Turn::None,
        }
    }

    /// The descriptors that become readable with a new record.
    pub fn descriptors(&self) -> [RawFd; 2] {
        [
            self.kept.records.as_raw_fd(),
            self.sheddable.records.as_raw_fd(),
        ]
    }

    /// Records that were taken before older ones of the other ring, because their own was half full.
    pub fn overtaken(&self) -> u64 {
        self.overtaken
    }

    /// The most bytes that waited at the beginning of a drain since this was last asked: in the ring of what must not be lost,
    /// and in the other.
    pub fn take_waited_bytes(&mut self) -> [usize; 2] {
        [&mut self.kept, &mut self.sheddable].map(|ring| std::mem::take(&mut ring.waited_bytes))
    }
}

/// A ring and its front.
pub struct Ring {
    records: RingBuf<MapData>,
    positions: Positions,
    /// When the record in front was written, if it has been looked at.
    front: Option<u64>,
    bytes: usize,
    waited_bytes: usize,
}

/// What a ring has in front.
enum Front {
    /// A record, written at this moment.
    At(u64),
    /// A record that is not complete.
    InWriting,
    /// Nothing.
    Empty,
}

impl Ring {
    /// A ring of `bytes`.
    pub fn new(records: RingBuf<MapData>, bytes: u32) -> io::Result<Self> {
        let positions = Positions::map(records.as_raw_fd())?;
        Ok(Self {
            records,
            positions,
            front: None,
            bytes: bytes as usize,
            waited_bytes: 0,
        })
    }

    /// When the record in front was written. It stays there.
    fn front(&mut self) -> Option<u64> {
        if self.front.is_none() {
            let record = self.records.next()?;
            // What is no record at all goes first, and fails to decode.
            self.front = Some(decode::moment(&record).unwrap_or(0));
            // Dropping it would take it out.
            std::mem::forget(record);
        }
        self.front
    }

    /// As [`Ring::front`], and if there is none, why.
    fn front_or_empty(&mut self) -> Front {
        if let Some(at) = self.front() {
            return Front::At(at);
        }
        if self.positions.waiting_bytes() == 0 {
            return Front::Empty;
        }
        // Written between the two looks, or still being written.
        self.front().map_or(Front::InWriting, Front::At)
    }

    fn take(&mut self, f: &mut dyn FnMut(&[u8])) {
        self.front = None;
        if let Some(record) = self.records.next() {
            f(&record);
        }
    }

    fn is_half_full(&self) -> bool {
        self.positions.waiting_bytes() >= self.bytes / 2
    }

    fn note_waiting(&mut self) {
        self.waited_bytes = self.waited_bytes.max(self.positions.waiting_bytes());
    }
}

/// Where a ring's writers and its reader are: two pages of the kernel's, to look at only.
struct Positions {
    pages: NonNull<u8>,
    page_bytes: usize,
}

// SAFETY: the mapping belongs to the process and is only read, atomically.
unsafe impl Send for Positions {}

impl Positions {
    fn map(ring: RawFd) -> io::Result<Self> {
        // SAFETY: takes a constant.
        let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let page_bytes = usize::try_from(page_bytes).map_err(io::Error::other)?;
        // SAFETY: a new mapping, at a place that the kernel chooses.
        let pages = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                2 * page_bytes,
                libc::PROT_READ,
                libc::MAP_SHARED,
                ring,
                0,
            )
        };
        if pages == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let pages = NonNull::new(pages.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Self { pages, page_bytes })
    }

    /// Bytes between the two, also of records that are still being written.
    fn waiting_bytes(&self) -> usize {
        // SAFETY: a page starts with a position, which the kernel and the reader change as one word; the mapping lives as long
        // as `self`.
        let position = |page: usize| unsafe {
            let at = self.pages.add(page * self.page_bytes);
            at.cast::<AtomicUsize>().as_ref().load(Ordering::Acquire)
        };
        let reader = position(0);
        position(1).wrapping_sub(reader)
    }
}

impl Drop for Positions {
    fn drop(&mut self) {
        // SAFETY: mapped above, this long, and looked at by nobody else.
        unsafe { libc::munmap(self.pages.as_ptr().cast(), 2 * self.page_bytes) };
    }
}

/// Waits until one of `descriptors` is readable, for at most `timeout`, and says which are. A signal ends the wait
/// early, as if nothing had happened.
pub fn wait(descriptors: &[RawFd], timeout: Duration) -> io::Result<Vec<bool>> {
    let mut polled: Vec<libc::pollfd> = descriptors
        .iter()
        .map(|fd| libc::pollfd {
            fd: *fd,
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    // Rounded up: a wait of less than a millisecond must not become a busy loop.
    let timeout = i32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX);
    // SAFETY: `polled` holds as many entries as are named.
    let ready = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout) };
    if ready < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
        return Ok(vec![false; descriptors.len()]);
    }
    Ok(polled.iter().map(|polled| polled.revents != 0).collect())
}
