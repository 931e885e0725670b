//! The alert log: the hub of delivery. Alerts are appended with a growing cursor; every sink reads at its own pace.
//!
//! This log lives in memory and is bounded by bytes: it keeps what no sink has read yet across a slow sink, not across a
//! restart. When the bound is reached the oldest alert goes, and the readers that had not had it count it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::{alert::Alert, metrics::Metrics};

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
}

impl AlertLog {
    /// An empty log of at most `bytes_max` bytes.
    pub fn in_memory(bytes_max: usize, metrics: Arc<Metrics>) -> Self {
        let (newest, _) = watch::channel(Newest::default());
        Self {
            shared: Arc::new(Shared {
                entries: Mutex::default(),
                newest,
                bytes_max,
                metrics,
            }),
        }
    }

    /// Appends an alert and wakes the readers. Does not block on any of them.
    pub fn append(&self, alert: Alert) -> Cursor {
        let size = alert.size_bytes() + ENTRY_OVERHEAD_BYTES;
        let cursor = self.shared.newest.borrow().cursor + 1;
        let bytes = {
            let mut entries = self.shared.lock();
            entries.alerts.push_back((cursor, size, Arc::new(alert)));
            entries.bytes += size;
            // The newest stays even if it alone exceeds the bound: an alert is bounded by its own fields.
            while entries.bytes > self.shared.bytes_max && entries.alerts.len() > 1 {
                let (_, size, _) = entries
                    .alerts
                    .pop_front()
                    .expect("the loop saw two entries");
                entries.bytes -= size;
            }
            entries.bytes
        };
        self.shared
            .metrics
            .alert_log_bytes
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
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

    /// A reader that starts behind `after`.
    pub fn reader(&self, after: Cursor) -> Reader {
        Reader {
            shared: Arc::clone(&self.shared),
            newest: self.shared.newest.subscribe(),
            after,
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        // A panic while the lock is held leaves a queue that is still a queue.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One sink's place in the log.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    newest: watch::Receiver<Newest>,
    after: Cursor,
}

/// What a reader gets.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Alerts in order.
    pub alerts: Vec<Arc<Alert>>,
    /// Alerts between the last batch and this one that the bound dropped.
    pub dropped: u64,
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
        if batch.dropped > 0 {
            let cause = crate::metrics::Cause {
                cause: "log_full".into(),
            };
            self.shared
                .metrics
                .alerts_dropped
                .get_or_create(&cause)
                .inc_by(batch.dropped);
        }
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
            dropped: first.saturating_sub(self.after + 1),
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
        let (mut fast, mut slow) = (log.reader(0), log.reader(0));
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
        let mut reader = log.reader(0);
        log.append(Alert::for_tests("one"));
        assert_eq!(names(&reader.next(1).await.expect("first try")), ["one"]);
        assert_eq!(names(&reader.next(1).await.expect("second try")), ["one"]);
    }

    #[tokio::test]
    async fn a_closed_log_is_read_to_its_end() {
        let log = log(1 << 20);
        let mut reader = log.reader(0);
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
        let mut reader = log.reader(0);
        for name in ["a", "b", "c", "d"] {
            log.append(Alert::for_tests(name));
        }
        let batch = reader.next(10).await.expect("two alerts are there");
        assert_eq!(
            (names(&batch), batch.dropped),
            (vec!["c".into(), "d".into()], 2)
        );
    }
}
