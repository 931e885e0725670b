//! What the log knows in memory: alerts that are not stored yet, some that are, and where each reader is.

use std::{collections::VecDeque, sync::Arc};

use super::{
    Cursor,
    record::{Entry, Record},
    store::Extent,
};

/// Alerts that are stored, or that every reader has delivered, stay up to this many bytes: readers that keep up never read files, and
/// who asks for the last few finds them.
const KEPT_BYTES: usize = 2 << 20;

/// What is handed out at once ends with the alert that reaches this.
const SLICE_BYTES: usize = 1 << 20;

/// Guarded by one lock, which nobody holds while waiting.
#[derive(Debug)]
pub(super) struct State {
    /// Without gaps, up to `next`.
    pub(super) memory: VecDeque<Entry>,
    pub(super) memory_bytes: usize,
    /// The next alert's cursor.
    pub(super) next: Cursor,
    /// Up to here alerts are stored, or were dropped.
    pub(super) stored: Cursor,
    /// How many were stored ever.
    pub(super) stored_ever: u64,
    /// Files hold nothing behind this. Numbers are left out between it and the first alert of a start.
    pub(super) in_files: Cursor,
    pub(super) disk_bytes: u64,
    /// The oldest in files, and when it was stored.
    pub(super) oldest: Cursor,
    pub(super) oldest_ns: i64,
    /// Files cannot be written at the moment.
    pub(super) failing: bool,
    pub(super) closed: bool,
    pub(super) readers: Vec<Place>,
    /// Places that files remember and nobody has asked for yet.
    pub(super) sinks: Vec<(String, Cursor)>,
    /// Every sink that there is has asked for its place: others may be forgotten.
    pub(super) forgets_others: bool,
    /// What is damaged up to here is counted.
    pub(super) damaged_to: Cursor,
    /// Places may have been lost: a sink without one begins with the oldest alert.
    pub(super) lost_places: bool,
}

/// Where a reader is.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) name: String,
    /// Everything up to here is delivered.
    pub(super) committed: Cursor,
    /// Everything up to here it has got, delivered or not.
    pub(super) in_hand: Cursor,
    /// What it had not got up to here was dropped, and is counted.
    pub(super) missed: Cursor,
    /// Files that came late hold alerts that it has not had: behind the first, up to the second.
    pub(super) backlog: Option<(Cursor, Cursor)>,
    /// Files do not know it yet.
    pub(super) is_dirty: bool,
    /// A reader that has ended for good is waited for by nobody.
    pub(super) has_ended: bool,
}

impl Place {
    /// Nobody's any more.
    pub(super) fn free(&mut self) {
        self.name.clear();
        (self.has_ended, self.is_dirty) = (true, false);
    }

    /// Whether it may be another sink's.
    pub(super) fn is_free(&self) -> bool {
        self.has_ended && self.name.is_empty()
    }
}

/// Alerts that were dropped before readers had them.
#[derive(Debug, Default)]
pub(super) struct Missed {
    /// That at least one reader had not had.
    pub(super) by_any: u64,
    /// By each.
    pub(super) by: Vec<(String, u64)>,
}

impl State {
    pub(super) fn new(next: Cursor) -> Self {
        Self {
            memory: VecDeque::new(),
            memory_bytes: 0,
            next,
            stored: next - 1,
            stored_ever: 0,
            in_files: 0,
            disk_bytes: 0,
            oldest: next,
            oldest_ns: 0,
            failing: false,
            closed: false,
            readers: Vec::new(),
            sinks: Vec::new(),
            forgets_others: false,
            damaged_to: 0,
            lost_places: false,
        }
    }

    /// What files hold.
    pub(super) fn learn(&mut self, extent: &Extent) {
        self.stored_ever = extent.total;
        self.in_files = extent.newest;
        (self.oldest, self.oldest_ns) = (extent.oldest, extent.oldest_ns);
        self.disk_bytes = extent.bytes;
        self.lost_places = extent.was_damaged;
        self.sinks.clone_from(&extent.sinks);
    }

    pub(super) fn push(&mut self, record: Record) {
        self.memory_bytes += record.size_bytes();
        let cursor = self.next;
        self.next += 1;
        let record = Arc::new(record);
        self.memory.push_back(Entry { cursor, record });
    }

    fn pop(&mut self) -> Option<Cursor> {
        let entry = self.memory.pop_front()?;
        self.memory_bytes -= entry.record.size_bytes();
        Some(entry.cursor)
    }

    /// Lets go of what is needed no more beyond what is kept anyway, and of the oldest beyond the bound.
    pub(super) fn bound(&mut self, bytes_max: usize, is_stored: bool) -> Missed {
        let done = if is_stored {
            self.stored
        } else {
            self.slowest().unwrap_or(self.next - 1)
        };
        while self.memory_bytes > KEPT_BYTES.min(bytes_max)
            && self
                .memory
                .front()
                .is_some_and(|entry| entry.cursor <= done)
        {
            self.pop();
        }
        // The newest stays even if it alone exceeds the bound: an alert is bounded by its own fields.
        let mut last = None;
        while self.memory_bytes > bytes_max && self.memory.len() > 1 {
            last = self.pop();
        }
        match last {
            Some(last) => {
                self.stored = self.stored.max(last);
                self.miss(done + 1, last)
            }
            None => Missed::default(),
        }
    }

    /// Alerts from `first` to `last` go: what readers had not got of them, and never will.
    pub(super) fn miss(&mut self, first: Cursor, last: Cursor) -> Missed {
        let mut missed = Missed::default();
        for place in self.readers.iter_mut().filter(|place| !place.has_ended) {
            let had = place.committed.max(place.in_hand).max(place.missed);
            let count = (last + 1).saturating_sub(first.max(had + 1));
            if count > 0 {
                place.missed = last;
                missed.by_any = missed.by_any.max(count);
                missed.by.push((place.name.clone(), count));
            }
        }
        missed
    }

    /// How far every reader has delivered; `None` where there is none.
    pub(super) fn slowest(&self) -> Option<Cursor> {
        let live = self.readers.iter().filter(|place| !place.has_ended);
        live.map(|place| place.committed).min()
    }

    /// Alerts that are in no file and that a reader has not delivered. What was dropped is counted already.
    pub(super) fn undelivered(&self, is_stored: bool) -> u64 {
        let slowest = self.slowest().unwrap_or(self.next - 1);
        let done = if is_stored {
            slowest.max(self.stored)
        } else {
            slowest
        };
        let left = self.memory.iter().filter(|entry| entry.cursor > done);
        left.count() as u64
    }

    /// Alerts of memory behind a cursor and up to another, at most `max`.
    pub(super) fn slice(&self, after: Cursor, up_to: Cursor, max: usize) -> Vec<Entry> {
        let first = self.memory.front().map_or(self.next, |entry| entry.cursor);
        let skip = usize::try_from((after + 1).saturating_sub(first)).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let wanted = self.memory.iter().skip(skip).take(max);
        wanted
            .take_while(|entry| {
                let fits = bytes < SLICE_BYTES && entry.cursor <= up_to;
                bytes += entry.record.size_bytes();
                fits
            })
            .cloned()
            .collect()
    }
}
