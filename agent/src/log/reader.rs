//! Reading the log: a sink's own place in it, and reading behind any cursor. What memory no longer has comes from the files.

use std::{sync::Arc, time::Duration};

use tokio::task::spawn_blocking;
use tracing::error;

use super::{
    AlertLog, Cursor, Entry, Follower, Shared, chain,
    state::{Missed, Place},
    store::{Store, StoreError},
};
use crate::metrics::SinkName;

/// Between tries to read files that cannot be read.
const PAUSE: Duration = Duration::from_secs(1);

/// What a reader gets.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Alerts in order.
    pub alerts: Vec<Entry>,
    /// Where this batch ends; what [`Reader::commit`] takes. Behind the last alert where some could not be read.
    pub end: Cursor,
    /// How many alerts of this part of the log are damaged and were passed over.
    pub damaged: u64,
}

/// One sink's place in the log.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    newest: Follower,
    name: String,
    /// Its place in `State::readers`.
    index: usize,
    after: Cursor,
    /// While it reads what files that came late had for it: where that ends, and where it goes on then.
    detour: Option<(Cursor, Cursor)>,
    /// Its place was given up.
    has_left: bool,
}

impl Reader {
    pub(super) fn new(log: &AlertLog, name: &str) -> Self {
        let shared = Arc::clone(&log.shared);
        let mut state = shared.lock();
        let known = state.sinks.iter().find(|(known, _)| known == name);
        let known = known.map(|(_, cursor)| *cursor);
        // A sink of that name that ended before (its settings changed) hands its place on.
        let ended = state
            .readers
            .iter()
            .position(|place| place.has_ended && place.name == name);
        let after = match (ended, known) {
            (Some(index), _) => state.readers[index].committed,
            (None, Some(cursor)) => cursor,
            (None, None) if state.lost_places => state.oldest.min(state.next) - 1,
            (None, None) => state.next - 1,
        };
        let place = Place {
            name: name.into(),
            committed: after,
            in_hand: after,
            missed: 0,
            backlog: None,
            // From now on it is due what comes, across a restart too.
            is_dirty: known.is_none(),
            has_ended: false,
        };
        let free = || state.readers.iter().position(Place::is_free);
        let index = match ended.or_else(free) {
            Some(index) => {
                state.readers[index] = place;
                index
            }
            None => {
                state.readers.push(place);
                state.readers.len() - 1
            }
        };
        drop(state);
        shared.work.notify_one();
        shared.metrics.delivery.show_sink(name);
        Self {
            newest: Follower::new(&shared.newest),
            shared,
            name: name.into(),
            index,
            after,
            detour: None,
            has_left: false,
        }
    }

    /// The sink's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits for alerts behind the committed cursor and returns about `max` of them; `None` once the log is closed
    /// and read to its end.
    pub async fn next(&mut self, max: usize) -> Option<Batch> {
        loop {
            let newest = self.newest.newest();
            self.turn_back();
            if newest.cursor > self.after {
                match read_after(&self.shared, self.after, max).await {
                    Ok(mut batch) if batch.end > self.after => {
                        if let Some((until, _)) = self.detour {
                            batch.alerts.retain(|entry| entry.cursor <= until);
                            batch.end = batch.end.min(until);
                        }
                        self.take(&mut batch);
                        if !batch.alerts.is_empty() {
                            return Some(batch);
                        }
                        // What was there is gone.
                        self.commit(&batch).await;
                        continue;
                    }
                    Ok(_) => {}
                    Err(error) => {
                        self.shared.failed(&error);
                        error!("alerts cannot be read for {}: {}", self.name, chain(&error));
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    }
                }
            }
            if newest.closed || !self.newest.changed().await {
                return None;
            }
        }
    }

    /// Goes back to what files that came late hold for it.
    fn turn_back(&mut self) {
        let mut state = self.shared.lock();
        if let Some((from, until)) = state.readers[self.index].backlog.take() {
            self.detour = Some((until, self.after));
            self.after = from;
        }
    }

    /// Leaves out what was counted as dropped while it was read; what is in hand is not counted so any more.
    fn take(&self, batch: &mut Batch) {
        let mut state = self.shared.lock();
        let place = &mut state.readers[self.index];
        let missed = place.missed;
        batch.alerts.retain(|entry| entry.cursor > missed);
        place.in_hand = place.in_hand.max(batch.end);
    }

    /// Moves the cursor behind a delivered batch, and stores it there. Without it the same alerts come again.
    pub async fn commit(&mut self, batch: &Batch) {
        self.after = batch.end;
        if let Some((until, back)) = self.detour
            && batch.end >= until
        {
            (self.after, self.detour) = (back, None);
        }
        let after = self.after;
        let store = {
            let mut state = self.shared.lock();
            let is_failing = state.failing;
            let place = &mut state.readers[self.index];
            if place.backlog.is_some() {
                // What comes before it is not delivered yet: it is the place that counts.
                return;
            }
            place.committed = after;
            place.in_hand = place.in_hand.max(after);
            place.is_dirty = true;
            if self.shared.disk.get().is_none() {
                self.shared.bound_memory(&mut state);
            }
            self.shared.disk.get().filter(|_| !is_failing)
        };
        let Some(store) = store.map(super::Disk::store) else {
            return;
        };
        let place = [(self.name.clone(), after)];
        match blocking(move || store.commit(&place)).await {
            Ok(()) => {
                let mut state = self.shared.lock();
                let place = &mut state.readers[self.index];
                if place.committed == after {
                    place.is_dirty = false;
                }
            }
            // It stays dirty, and the thread that stores alerts tries again.
            Err(error) => self.shared.failed(&error),
        }
    }

    /// As [`Self::commit`], for a part of a batch: up to an alert of it.
    pub async fn commit_to(&mut self, cursor: Cursor) {
        let part = Batch {
            end: cursor,
            ..Batch::default()
        };
        self.commit(&part).await;
    }

    /// Gives back what is left of a batch: it comes again with the next one, unless the log's bounds have dropped it meanwhile, which is
    /// counted.
    pub fn put_back(&mut self, batch: &Batch) {
        let mut state = self.shared.lock();
        let oldest = self.shared.oldest(&state);
        let place = &mut state.readers[self.index];
        place.in_hand = place.committed;
        let (after, missed) = (place.committed, place.missed);
        place.missed = missed.max(oldest - 1);
        drop(state);
        let is_gone = |entry: &&Entry| entry.cursor > after.max(missed) && entry.cursor < oldest;
        let count = batch.alerts.iter().filter(is_gone).count() as u64;
        if count > 0 {
            self.shared.count_missed(&Missed {
                by_any: count,
                by: vec![(self.name.clone(), count)],
            });
        }
    }

    /// Gives the place up for good: nobody waits for this sink any more, and one of the same name that comes later is a new one. Returns how
    /// many alerts that the log holds it had not delivered.
    pub async fn leave(mut self) -> u64 {
        let name = self.name.clone();
        self.has_left = true;
        let (after, stored_ever, in_memory) = {
            let mut state = self.shared.lock();
            state.sinks.retain(|(known, _)| *known != name);
            let stored = self.shared.disk.get().map_or(0, |_| state.stored);
            let after = state.readers[self.index].committed;
            let is_left = |entry: &&Entry| entry.cursor > after.max(stored);
            let in_memory = state.memory.iter().filter(is_left).count() as u64;
            state.readers[self.index].free();
            // Others may have had what memory kept for this one.
            self.shared.bound_memory(&mut state);
            (after, state.stored_ever, in_memory)
        };
        let Some(store) = self.shared.disk.get().map(super::Disk::store) else {
            return in_memory;
        };
        let left = blocking(move || {
            let left = store.count_after(after, stored_ever)?;
            store.forget(&name)?;
            Ok(left.map_or(0, |(count, _)| count))
        });
        match left.await {
            Ok(in_files) => in_files + in_memory,
            Err(error) => {
                self.shared.failed(&error);
                in_memory
            }
        }
    }

    /// Where it is: everything up to there is delivered.
    pub fn after(&self) -> Cursor {
        self.after
    }

    /// As [`Self::commit`], for a batch of which so many alerts will never be delivered: they are counted as dropped for that cause.
    pub async fn give_up(&mut self, batch: &Batch, count: u64, cause: &str) {
        self.shared.metrics.delivery.count_dropped(cause, count);
        self.commit(batch).await;
    }
}

impl Drop for Reader {
    /// Nobody waits for a sink that has ended; its place is kept for one of the same name.
    fn drop(&mut self) {
        let delivery = &self.shared.metrics.delivery;
        if self.has_left {
            delivery.forget_sink(&self.name);
            return;
        }
        let mut state = self.shared.lock();
        if !state.closed {
            state.readers[self.index].has_ended = true;
        }
        drop(state);
        let sink = SinkName {
            sink: self.name.clone(),
        };
        delivery.sink_lag_alerts.get_or_create(&sink).set(0);
        delivery.sink_lag_seconds.get_or_create(&sink).set(0);
    }
}

pub(super) async fn read_after(
    shared: &Shared,
    after: Cursor,
    max: usize,
) -> Result<Batch, StoreError> {
    let visible = {
        let state = shared.lock();
        let visible = shared.visible(&state).cursor;
        if after >= visible {
            return Ok(Batch {
                end: after,
                ..Batch::default()
            });
        }
        let first = state
            .memory
            .front()
            .map_or(state.next, |entry| entry.cursor);
        // Files that cannot be read may not hold up what they do not have.
        if first <= after + 1 || after >= state.in_files || shared.disk.get().is_none() {
            return Ok(batch(state.slice(after, visible, max), visible));
        }
        visible
    };
    let disk = shared.disk.get().map(super::Disk::store);
    let found = match disk {
        Some(store) => blocking(move || store.read(after, max)).await?,
        None => unreachable!("without files memory was read above"),
    };
    if found.damaged > 0 {
        error!(
            "{} alerts in the alert log are damaged and passed over",
            found.damaged
        );
        // Sinks meet it one after another, and clients as often as they ask.
        let mut state = shared.lock();
        if found.end > state.damaged_to {
            state.damaged_to = found.end;
            let delivery = &shared.metrics.delivery;
            delivery.count_dropped("log_damaged", found.damaged);
        }
    }
    if found.end > after {
        return Ok(Batch {
            alerts: found.entries,
            end: found.end,
            damaged: found.damaged,
        });
    }
    // Nothing in the files: what is next is in memory, or was dropped.
    let state = shared.lock();
    Ok(batch(state.slice(after, visible, max), visible))
}

pub(super) async fn cursor_at(shared: &Shared, time_ns: i64) -> Result<Cursor, StoreError> {
    if let Some(store) = shared.disk.get().map(super::Disk::store)
        && let Some(cursor) = blocking(move || store.place_of(time_ns)).await?
    {
        return Ok(cursor);
    }
    let state = shared.lock();
    let found = state
        .memory
        .iter()
        .find(|entry| entry.record.time_ns >= time_ns);
    Ok(found.map_or(state.next, |entry| entry.cursor) - 1)
}

fn batch(alerts: Vec<Entry>, visible: Cursor) -> Batch {
    Batch {
        end: alerts.last().map_or(visible, |entry| entry.cursor),
        alerts,
        damaged: 0,
    }
}

/// Runs what may wait for a disk where it holds up nobody else.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(StoreError {
            attempt: "use the alert log's files",
            source: rusqlite::Error::ToSqlConversionFailure(Box::new(error)),
        }),
    }
}

/// For the metrics: how far each reader is behind, in alerts and nanoseconds.
pub(super) fn lags(shared: &Shared, store: Option<&Store>, now_ns: i64) -> Vec<(String, u64, i64)> {
    let (readers, stored, stored_ever) = {
        let state = shared.lock();
        let live = state.readers.iter().filter(|place| !place.has_ended);
        let readers: Vec<_> = live
            .map(|place| {
                let waits = |entry: &&Entry| {
                    entry.cursor
                        > place
                            .committed
                            .max(if store.is_some() { state.stored } else { 0 })
                };
                let count = state.memory.iter().rev().take_while(waits).count();
                let first = state.memory.iter().find(waits);
                let age_ns = first.map_or(0, |entry| now_ns - entry.record.time_ns);
                (place.name.clone(), place.committed, count as u64, age_ns)
            })
            .collect();
        (readers, state.stored, state.stored_ever)
    };
    let lag = |(name, committed, count, age_ns): (String, Cursor, u64, i64)| {
        let in_files = store
            .filter(|_| committed < stored)
            .and_then(|store| store.count_after(committed, stored_ever).ok().flatten());
        match in_files {
            Some((more, since_ns)) => (name, count + more, now_ns - since_ns),
            None => (name, count, age_ns),
        }
    };
    readers.into_iter().map(lag).collect()
}
