//! What every sink does alike: reads the log in order, leaves out what its filter does not want, tries again what failed, counts what is
//! refused for good, and stores its place behind what is done.

use std::{
    collections::hash_map::RandomState,
    future::{pending, ready},
    hash::{BuildHasher as _, Hasher as _},
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use super::{Format, filter::Filter, text};
use crate::{
    log::{Batch, Cursor, Entry, Reader, Record},
    metrics::{Count, Delivery, Metrics, SinkName},
};

/// Alerts read at once: enough to amortise a round trip, little enough that what may come twice after a crash is little.
const BATCH_ALERTS: usize = 256;

/// The first pause after a failure; doubled each time.
const PAUSE_MIN: Duration = Duration::from_millis(200);

/// How often a failure that goes on is said, and refused alerts are.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// The default of the longest pause between tries.
pub(super) fn pause_max_s() -> u64 {
    60
}

/// An alert as it goes out.
#[derive(Debug)]
pub struct Message {
    /// Its cursor in the log.
    pub cursor: Cursor,
    /// The alert.
    pub record: Arc<Record>,
    /// In the sink's format, without the end of a line.
    pub text: String,
}

/// How far a delivery came.
#[derive(Debug, Default)]
pub struct Progress {
    /// Messages, from the first, that the other side has.
    pub done: usize,
    /// Why not all.
    pub failure: Option<Failure>,
}

/// Why a message is not delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It may work later; `after` is what the other side asked for.
    Retry {
        /// What went wrong.
        why: String,
        /// How long to wait at least.
        after: Option<Duration>,
    },
    /// The other side will never take the first message that is not done.
    Refused(String),
    /// Nobody will ever read it.
    Closed(String),
}

impl Failure {
    /// May work later.
    pub fn retry(why: impl Into<String>) -> Self {
        Self::Retry {
            why: why.into(),
            after: None,
        }
    }
}

impl Progress {
    /// All of so many.
    pub fn all(done: usize) -> Self {
        Self {
            done,
            failure: None,
        }
    }

    /// So many, then a failure.
    pub fn until(done: usize, failure: Failure) -> Self {
        Self {
            done,
            failure: Some(failure),
        }
    }
}

/// The other side of a sink.
pub trait Target: Send {
    /// Delivers messages in order, as many as it can. Ends by itself: whatever may hang has a timeout.
    fn deliver(&mut self, messages: &[Message]) -> impl Future<Output = Progress> + Send;

    /// How many it is given at most: between one delivery and the next a sink can be stopped.
    fn at_once(&self) -> usize {
        usize::MAX
    }
}

/// Why a sink delivers no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The log is closed and read to its end.
    LogClosed,
    /// It was asked to stop. What the other side has is behind the reader's place, and nothing else is.
    Stopped,
}

/// What all sinks are told.
#[derive(Clone, Debug, PartialEq)]
pub struct Common {
    /// How alerts are written.
    pub format: Format,
    /// Which ones.
    pub filter: Filter,
    /// Longest pause between tries.
    pub pause_max: Duration,
}

/// Delivers until the log is closed and read to its end.
pub async fn run(mut reader: Reader, common: Common, target: impl Target, metrics: Arc<Metrics>) {
    run_until(&mut reader, &common, target, &metrics, pending()).await;
}

/// Likewise, or until it is asked to stop: a delivery that is under way comes to its end first, a pause does not.
pub async fn run_until(
    reader: &mut Reader,
    common: &Common,
    mut target: impl Target,
    metrics: &Metrics,
    stop: impl Future<Output = ()> + Send,
) -> End {
    let sink = SinkName {
        sink: reader.name().into(),
    };
    let delivery = &metrics.delivery;
    let mut state = Trouble::new(common.pause_max);
    let mut stop = pin!(stop);
    let mut is_closed = false;
    loop {
        let next = tokio::select! {
            biased;
            () = &mut stop => return End::Stopped,
            next = reader.next(BATCH_ALERTS) => next,
        };
        let Some(batch) = next else {
            return End::LogClosed;
        };
        if is_closed {
            give_up(reader, &batch, common).await;
            continue;
        }
        let messages = messages(&batch, common);
        let way = Way {
            delivery,
            sink: &sink,
            trouble: &mut state,
            stop: stop.as_mut(),
        };
        let outcome = way.deliver(reader, &mut target, &messages).await;
        match outcome {
            Outcome::Done => reader.commit(&batch).await,
            Outcome::Closed => {
                // What is left of this batch, and all that comes.
                give_up(reader, &batch, common).await;
                is_closed = true;
            }
            Outcome::Stopped => reader.put_back(&batch),
        }
        let at = reader.after();
        let is_left_out =
            |entry: &&Entry| entry.cursor <= at && !common.filter.wants(&entry.record);
        let filtered = batch.alerts.iter().filter(is_left_out).count();
        count(&delivery.sink_filtered, &sink, filtered as u64);
        if matches!(outcome, Outcome::Stopped) {
            return End::Stopped;
        }
    }
}

async fn give_up(reader: &mut Reader, batch: &Batch, common: &Common) {
    let at = reader.after();
    let is_left = |entry: &&Entry| entry.cursor > at && common.filter.wants(&entry.record);
    let left = batch.alerts.iter().filter(is_left).count();
    reader.give_up(batch, left as u64, "sink_closed").await;
}

fn messages(batch: &Batch, common: &Common) -> Vec<Message> {
    let wanted = batch.alerts.iter();
    wanted
        .filter(|entry| common.filter.wants(&entry.record))
        .map(|Entry { cursor, record }| Message {
            cursor: *cursor,
            text: text(record, common.format).into_owned(),
            record: Arc::clone(record),
        })
        .collect()
}

/// How the delivery of a batch ended.
enum Outcome {
    Done,
    /// Nobody will read any more.
    Closed,
    /// It was asked to stop first.
    Stopped,
}

/// What goes along with the delivery of a batch.
struct Way<'w, S> {
    delivery: &'w Delivery,
    sink: &'w SinkName,
    trouble: &'w mut Trouble,
    stop: Pin<&'w mut S>,
}

impl<S: Future<Output = ()>> Way<'_, S> {
    /// Delivers all of them, or to the bitter end.
    async fn deliver(
        mut self,
        reader: &mut Reader,
        target: &mut impl Target,
        messages: &[Message],
    ) -> Outcome {
        let (delivery, sink) = (self.delivery, self.sink);
        let mut rest = messages;
        let mut last_done = None;
        while !rest.is_empty() {
            if self.is_stopped().await {
                if let Some(last) = last_done {
                    reader.commit_to(last).await;
                }
                return Outcome::Stopped;
            }
            let some = &rest[..rest.len().min(target.at_once().max(1))];
            let Progress { done, failure } = target.deliver(some).await;
            let done = done.min(some.len());
            count(&delivery.sink_alerts, sink, done as u64);
            if done > 0 {
                self.trouble.is_over(&sink.sink);
                last_done = Some(some[done - 1].cursor);
            }
            rest = &rest[done..];
            let Some(failure) = failure else { continue };
            count(&delivery.sink_errors, sink, 1);
            // What is done is done, even if the rest takes hours.
            match failure {
                Failure::Closed(why) => {
                    error!(
                        "{}: {why}: alerts from now on are dropped and counted",
                        sink.sink
                    );
                    if let Some(last) = last_done.take() {
                        reader.commit_to(last).await;
                    }
                    return Outcome::Closed;
                }
                Failure::Refused(why) => {
                    let Some((refused, after)) = rest.split_first() else {
                        continue;
                    };
                    rest = after;
                    last_done = Some(refused.cursor);
                    count(&delivery.sink_dead_letters, sink, 1);
                    delivery.count_dropped("refused", 1);
                    self.trouble.refused(&sink.sink, &refused.record.id, &why);
                }
                Failure::Retry { why, after } => {
                    if let Some(last) = last_done.take() {
                        reader.commit_to(last).await;
                    }
                    let pause = self.trouble.pause(&sink.sink, &why, after);
                    tokio::select! {
                        biased;
                        () = &mut self.stop => return Outcome::Stopped,
                        () = sleep(pause) => {}
                    }
                    count(&delivery.sink_retries, sink, 1);
                }
            }
        }
        Outcome::Done
    }

    /// Without waiting.
    async fn is_stopped(&mut self) -> bool {
        tokio::select! {
            biased;
            () = &mut self.stop => true,
            () = ready(()) => false,
        }
    }
}

/// A family's counter is locked while it is held, which no task may be over a wait.
fn count(counters: &Count<SinkName>, sink: &SinkName, count: u64) {
    counters.get_or_create(sink).inc_by(count);
}

/// A sink's failures in a row, and when they were last spoken of.
struct Trouble {
    next: Duration,
    pause_max: Duration,
    since: Option<Instant>,
    /// Kept when it is over: what fails and works by turns is not said each time.
    said: Option<Instant>,
    is_said: bool,
    refusals: u64,
    said_refusal: Option<Instant>,
}

impl Trouble {
    fn new(pause_max: Duration) -> Self {
        Self {
            next: PAUSE_MIN.min(pause_max),
            pause_max,
            since: None,
            said: None,
            is_said: false,
            refusals: 0,
            said_refusal: None,
        }
    }

    /// How long to wait after a failure: doubled each time up to the bound, and by chance between that and its half, so that a
    /// thousand nodes do not come back at the same moment.
    fn pause(&mut self, sink: &str, why: &str, after: Option<Duration>) -> Duration {
        let now = Instant::now();
        self.since.get_or_insert(now);
        let base = self.next;
        self.next = (self.next * 2).min(self.pause_max);
        let pause = base.mul_f64(0.5 + chance() / 2.0);
        let pause = pause.max(after.unwrap_or_default().min(self.pause_max));
        if self.said.is_none_or(|said| now - said >= SAY_AGAIN) {
            self.said = Some(now);
            self.is_said = true;
            warn!("{sink}: alerts cannot be delivered and are tried again: {why}");
        }
        pause
    }

    fn is_over(&mut self, sink: &str) {
        if let Some(since) = self.since.take() {
            if std::mem::take(&mut self.is_said) {
                info!("{sink}: delivers again after {:.1?}", since.elapsed());
            }
            self.next = PAUSE_MIN.min(self.pause_max);
        }
    }

    fn refused(&mut self, sink: &str, id: &str, why: &str) {
        let now = Instant::now();
        self.refusals += 1;
        if self.said_refusal.is_none_or(|said| now - said >= SAY_AGAIN) {
            self.said_refusal = Some(now);
            let count = std::mem::take(&mut self.refusals);
            warn!(
                "{sink}: {count} alerts were refused for good and are dead letters, the last of them {id}: {why}"
            );
        }
    }
}

/// From 0 to 1.
fn chance() -> f64 {
    // Each state is keyed anew: enough for a jitter.
    let number = RandomState::new().build_hasher().finish();
    (number >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests;
