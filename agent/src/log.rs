//! The alert log: the hub of delivery. Alerts are appended with a growing cursor; every sink reads at its own pace.
//!
//! This log lives in memory and is bounded by bytes: it keeps what no sink has read yet across a slow sink, not across a
//! restart. What every reader has delivered is let go. When the bound is reached the oldest alert goes, and is counted where a
//! reader had not delivered it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::{
    alert::Alert,
    metrics::{Cause, Metrics, level},
};

/// The position behind an alert; the first alert has cursor 1.
pub type Cursor = u64;

/// Bytes a held alert costs beyond its texts.
const ENTRY_OVERHEAD_BYTES: usize = 512;

/// The writing end; clones share one log.
#[derive(Clone, Debug)]
pub struct AlertLog {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    entries: Mutex<Entries>,
    /// The cursor of the newest alert; `closed` where no more will come.
    newest: watch::Sender<Newest>,
    bytes_max: usize,
    metrics: Arc<Metrics>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Newest {
    cursor: Cursor,
    closed: bool,
}

#[derive(Debug, Default)]
struct Entries {
    alerts: VecDeque<(Cursor, usize, Arc<Alert>)>,
    bytes: usize,
    /// How far each reader has delivered.
    committed: Vec<Cursor>,
}

impl Entries {
    /// Lets go of what every reader has delivered.
    fn trim(&mut self) {
        let done = self.committed.iter().copied().min().unwrap_or(0);
        while self
            .alerts
            .front()
            .is_some_and(|(cursor, ..)| *cursor <= done)
        {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) -> Option<Cursor> {
        let (cursor, size, _) = self.alerts.pop_front()?;
        self.bytes -= size;
        Some(cursor)
    }
}

impl AlertLog {
    /// An empty log of at most `bytes_max` bytes.
    pub fn in_memory(bytes_max: usize, metrics: Arc<Metrics>) -> Self {
        let (newest, _) = watch::channel(Newest::default());
        let entries = Mutex::default();
        Self {
            shared: Arc::new(Shared {
                entries,
                newest,
                bytes_max,
                metrics,
            }),
        }
    }

    /// Appends an alert and wakes the readers. Does not block on any of them. What the bound drops before every reader
    /// has delivered it is counted.
    pub fn append(&self, alert: Alert) -> Cursor {
        let size = alert.size_bytes() + ENTRY_OVERHEAD_BYTES;
        let cursor = self.shared.newest.borrow().cursor + 1;
        {
            let mut entries = self.shared.lock();
            entries.alerts.push_back((cursor, size, Arc::new(alert)));
            entries.bytes += size;
            let mut dropped = 0;
            // The newest stays even if it alone exceeds the bound: an alert is bounded by its own fields.
            while entries.bytes > self.shared.bytes_max && entries.alerts.len() > 1 {
                let missed_by_one = entries
                    .drop_oldest()
                    .is_some_and(|oldest| entries.committed.iter().any(|at| *at < oldest));
                dropped += u64::from(missed_by_one);
            }
            self.shared.count_dropped("log_full", dropped);
            self.shared.show_bytes(&entries);
        }
        self.shared
            .newest
            .send_modify(|newest| newest.cursor = cursor);
        cursor
    }

    /// Says that no more alerts will come: readers end after the last one.
    pub fn close(&self) {
        self.shared
            .newest
            .send_modify(|newest| newest.closed = true);
    }

    /// A reader of everything that is appended from now on, and of what is still there.
    pub fn reader(&self) -> Reader {
        let mut entries = self.shared.lock();
        let after = entries
            .alerts
            .front()
            .map_or(self.shared.newest.borrow().cursor, |(first, ..)| first - 1);
        entries.committed.push(after);
        let index = entries.committed.len() - 1;
        Reader {
            shared: Arc::clone(&self.shared),
            newest: self.shared.newest.subscribe(),
            index,
            after,
        }
    }

    /// Alerts that some reader has not delivered, counted as dropped: for the end, when nobody will deliver them any more.
    pub fn abandon(&self) -> u64 {
        let entries = self.shared.lock();
        let newest = self.shared.newest.borrow().cursor;
        let slowest = entries.committed.iter().copied().min().unwrap_or(newest);
        let left = entries
            .alerts
            .iter()
            .filter(|(cursor, ..)| *cursor > slowest)
            .count() as u64;
        self.shared.count_dropped("undelivered", left);
        left
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        // A panic while the lock is held leaves a queue that is still a queue.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_dropped(&self, cause: &str, count: u64) {
        if count > 0 {
            self.metrics
                .alerts_dropped
                .get_or_create(&Cause {
                    cause: cause.into(),
                })
                .inc_by(count);
        }
    }

    fn show_bytes(&self, entries: &Entries) {
        self.metrics.alert_log_bytes.set(level(entries.bytes));
    }
}

/// One sink's place in the log.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    newest: watch::Receiver<Newest>,
    /// Its place in `Entries::committed`.
    index: usize,
    after: Cursor,
}

/// What a reader gets.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Alerts in order.
    pub alerts: Vec<Arc<Alert>>,
    /// Where this batch ends; what [`Reader::commit`] takes.
    pub end: Cursor,
}

impl Reader {
    /// Waits for alerts behind the committed cursor and returns at most `max` of them; `None` once the log is closed
    /// and read to its end.
    pub async fn next(&mut self, max: usize) -> Option<Batch> {
        loop {
            let newest = *self.newest.borrow_and_update();
            if newest.cursor > self.after {
                return Some(self.batch(max));
            }
            if newest.closed || self.newest.changed().await.is_err() {
                return None;
            }
        }
    }

    /// Moves the cursor behind a delivered batch. Without it the same alerts come again.
    pub fn commit(&mut self, batch: &Batch) {
        self.after = batch.end;
        let mut entries = self.shared.lock();
        entries.committed[self.index] = batch.end;
        entries.trim();
        self.shared.show_bytes(&entries);
    }

    /// As [`Self::commit`], for a batch that will never be delivered: it is counted as dropped for that cause.
    pub fn give_up(&mut self, batch: &Batch, cause: &str) {
        self.shared.count_dropped(cause, batch.alerts.len() as u64);
        self.commit(batch);
    }

    fn batch(&self, max: usize) -> Batch {
        let entries = self.shared.lock();
        let first = entries
            .alerts
            .front()
            .map_or(self.after + 1, |(cursor, ..)| *cursor);
        let skip = usize::try_from((self.after + 1).saturating_sub(first)).unwrap_or(usize::MAX);
        let chosen: Vec<_> = entries.alerts.iter().skip(skip).take(max).collect();
        Batch {
            end: chosen.last().map_or(self.after, |(cursor, ..)| *cursor),
            alerts: chosen
                .into_iter()
                .map(|(_, _, alert)| Arc::clone(alert))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(bytes_max: usize) -> AlertLog {
        AlertLog::in_memory(bytes_max, Arc::new(Metrics::new()))
    }

    fn names(batch: &Batch) -> Vec<String> {
        batch
            .alerts
            .iter()
            .map(|alert| alert.rule.clone())
            .collect()
    }

    #[tokio::test]
    async fn each_reader_has_its_own_place() {
        let log = log(1 << 20);
        let (mut fast, mut slow) = (log.reader(), log.reader());
        log.append(Alert::for_tests("one"));
        log.append(Alert::for_tests("two"));
        let batch = fast.next(10).await.expect("two alerts are there");
        assert_eq!(names(&batch), ["one", "two"]);
        fast.commit(&batch);
        log.append(Alert::for_tests("three"));
        assert_eq!(
            names(&fast.next(10).await.expect("a third is there")),
            ["three"]
        );
        assert_eq!(
            names(&slow.next(2).await.expect("slow has read nothing")),
            ["one", "two"]
        );
    }

    #[tokio::test]
    async fn what_is_not_committed_comes_again() {
        let log = log(1 << 20);
        let mut reader = log.reader();
        log.append(Alert::for_tests("one"));
        assert_eq!(names(&reader.next(1).await.expect("first try")), ["one"]);
        assert_eq!(names(&reader.next(1).await.expect("second try")), ["one"]);
    }

    #[tokio::test]
    async fn a_closed_log_is_read_to_its_end() {
        let log = log(1 << 20);
        let mut reader = log.reader();
        log.append(Alert::for_tests("one"));
        log.close();
        let batch = reader.next(10).await.expect("one alert is there");
        reader.commit(&batch);
        assert!(reader.next(10).await.is_none());
    }

    #[tokio::test]
    async fn the_bound_drops_the_oldest_and_counts_it() {
        let one = Alert::for_tests("a").size_bytes() + ENTRY_OVERHEAD_BYTES;
        let log = log(2 * one);
        let mut reader = log.reader();
        for name in ["a", "b", "c", "d"] {
            log.append(Alert::for_tests(name));
        }
        let batch = reader.next(10).await.expect("two alerts are there");
        assert_eq!(
            (names(&batch), dropped(&log, "log_full")),
            (vec!["c".into(), "d".into()], 2)
        );
    }

    #[tokio::test]
    async fn what_every_reader_has_delivered_is_let_go() {
        let log = log(1 << 20);
        let (mut fast, mut slow) = (log.reader(), log.reader());
        log.append(Alert::for_tests("one"));
        let batch = fast.next(10).await.expect("one alert is there");
        fast.commit(&batch);
        assert_eq!(
            log.shared.lock().alerts.len(),
            1,
            "the slow reader has not had it"
        );
        let batch = slow.next(10).await.expect("one alert is there");
        slow.commit(&batch);
        let entries = log.shared.lock();
        assert_eq!((entries.alerts.len(), entries.bytes), (0, 0));
        drop(entries);
        assert_eq!(log.abandon(), 0);
    }

    #[tokio::test]
    async fn what_is_never_delivered_is_counted() {
        let log = log(1 << 20);
        let mut reader = log.reader();
        log.append(Alert::for_tests("one"));
        let batch = reader.next(10).await.expect("one alert is there");
        reader.give_up(&batch, "sink_closed");
        log.append(Alert::for_tests("two"));
        assert_eq!(
            (
                log.abandon(),
                dropped(&log, "sink_closed"),
                dropped(&log, "undelivered")
            ),
            (1, 1, 1)
        );
    }

    fn dropped(log: &AlertLog, cause: &str) -> u64 {
        log.shared
            .metrics
            .alerts_dropped
            .get_or_create(&Cause {
                cause: cause.into(),
            })
            .get()
    }
}
