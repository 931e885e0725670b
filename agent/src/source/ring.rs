//! Draining the rings: fairly, and never for longer than the caller says.
//!
//! `while let Some(_) = ring.next()` does not end while a fast producer keeps up, so every drain has a cap.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use aya::maps::{MapData, RingBuf};

/// Records taken from one ring before the next one has its turn.
const TURN_RECORDS: usize = 64;

/// The rings that the kernel programs write to.
pub struct Rings {
    rings: Vec<RingBuf<MapData>>,
    /// The ring whose turn it is.
    next: usize,
}

impl Rings {
    /// Reads from these rings.
    pub fn new(rings: Vec<RingBuf<MapData>>) -> Self {
        Self { rings, next: 0 }
    }

    /// Hands at most `max` records to `f`, turn by turn, and returns how many. Fewer than `max` means that every ring
    /// was empty at some moment since.
    pub fn drain(&mut self, max: usize, f: &mut dyn FnMut(&[u8])) -> usize {
        let mut taken = 0;
        let mut empty = 0;
        while taken < max && empty < self.rings.len() {
            let turn = self.next;
            self.next = (turn + 1) % self.rings.len();
            let ring = &mut self.rings[turn];
            let before = taken;
            let end = max.min(taken + TURN_RECORDS);
            while taken < end
                && let Some(record) = ring.next()
            {
                f(&record);
                taken += 1;
            }
            // A whole turn proves nothing about what is left; an empty one does.
            empty = if taken == before { empty + 1 } else { 0 };
        }
        taken
    }

    /// The descriptors that become readable with a new record.
    pub fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        self.rings.iter().map(AsRawFd::as_raw_fd)
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
