//! The alert log: the hub of delivery. Alerts are appended with a growing cursor; every sink reads at its own pace.
//!
//! New alerts are in memory; where the log has a directory, a thread of its own stores them ([`store`]), and readers see them
//! once that has happened: what they see survives SIGKILL. While the directory cannot be written (the disk is full, or read-only)
//! alerts stay in memory, readers see them all the same, and they are stored when that works again. Without a directory, memory is all.
//!
//! Both are bounded. The oldest goes first, and is counted where a reader had not delivered it.
//!
//! A cursor is never given twice: each start goes on behind the newest that is known, and behind the clock's seconds × 2²⁰, which
//! holds where files were lost.

mod directory;
mod follow;
mod late;
mod reader;
mod record;
mod state;
mod store;
mod writer;

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread::JoinHandle,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::sync::watch;
use tracing::{error, warn};

pub use follow::{Follower, Newest};
pub use reader::{Batch, Reader};
pub use record::{Entry, Record};
pub use store::StoreError;

use crate::metrics::{Metrics, SinkName};
use directory::Directory;
use state::State;
use store::Store;

/// The position behind an alert; grows with every alert, and may leave numbers out.
pub type Cursor = u64;

/// What the log keeps, and where.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where files go; `None`: nowhere.
    pub directory: Option<PathBuf>,
    /// Most bytes of alerts in files.
    pub bytes_max: u64,
    /// How long alerts are kept in files.
    pub age_max: Duration,
    /// Most bytes of alerts in memory.
    pub memory_bytes_max: usize,
    /// How often what was stored is brought to the disk, which only matters to a power cut.
    pub sync: Duration,
}

/// Why a log cannot be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The directory cannot be used.
    #[error("alert_log.directory: cannot {attempt} {}", path.display())]
    Directory {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another agent is at work there.
    #[error("alert_log.directory: {} belongs to a running agent (pid {pid}); each needs one of its own", path.display())]
    Taken {
        /// The directory.
        path: PathBuf,
        /// Whose.
        pid: String,
    },
    /// Its files cannot be used.
    #[error("alert_log.directory: {}", path.display())]
    Store {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: StoreError,
    },
    /// A thread cannot be started.
    #[error("cannot start the alert log's thread")]
    Thread(#[from] io::Error),
}

impl LogError {
    /// Whether the disk is full or read-only, rather than the configuration wrong.
    fn is_of_the_disk(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        match self {
            Self::Directory { source, .. } => {
                matches!(
                    source.kind(),
                    QuotaExceeded | ReadOnlyFilesystem | StorageFull
                )
            }
            Self::Store { source, .. } => source.is_of_the_disk(),
            Self::Taken { .. } | Self::Thread(_) => false,
        }
    }
}

/// The writing end; clones share one log.
#[derive(Clone, Debug)]
pub struct AlertLog {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Wakes the thread that stores.
    work: Condvar,
    /// Wakes who waits for the end.
    over: Condvar,
    /// The newest cursor that readers see.
    newest: watch::Sender<Newest>,
    settings: Settings,
    /// Where the files are; for a disk that could not be written at the start, from when it can.
    disk: OnceLock<Disk>,
    metrics: Arc<Metrics>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Disk {
    directory: Directory,
    /// Made anew after a failure.
    store: Mutex<Arc<Store>>,
}

impl Disk {
    fn new(directory: Directory, store: Store) -> Self {
        Self {
            directory,
            store: Mutex::new(Arc::new(store)),
        }
    }

    fn store(&self) -> Arc<Store> {
        Arc::clone(&self.store.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl AlertLog {
    /// A log that forgets everything with the process.
    pub fn in_memory(bytes_max: usize, metrics: Arc<Metrics>) -> Self {
        let settings = Settings {
            directory: None,
            bytes_max: 0,
            age_max: Duration::ZERO,
            memory_bytes_max: bytes_max,
            sync: Duration::from_secs(1),
        };
        Self::start(settings, None, State::new(first_cursor()), metrics)
    }

    /// Opens the log that the settings name. Files that are damaged are opened with what is good of them, and what is missing is counted.
    /// A disk that is full or read-only keeps no agent from watching: the log is in memory until the disk can be written, which is tried
    /// again and again.
    pub fn open(settings: Settings, metrics: Arc<Metrics>) -> Result<Self, LogError> {
        let bytes_max = settings.memory_bytes_max;
        let Some(configured) = settings.directory.clone() else {
            return Ok(Self::in_memory(bytes_max, metrics));
        };
        let log = match late::open(&configured, &metrics) {
            Ok((disk, extent)) => {
                let mut state = State::new(first_cursor().max(extent.newest + 1));
                state.learn(&extent);
                state.stored = state.next - 1;
                Self::start(settings, Some(disk), state, metrics)
            }
            Err(why) if why.is_of_the_disk() => {
                error!(
                    "alerts are kept in memory until the disk can be written, which is tried again every {:?}: {}",
                    writer::RETRY,
                    chain(&why)
                );
                metrics.delivery.log_errors.inc();
                metrics.delivery.log_failing.set(1);
                // What is read-only can be read: cursors go on behind what is there.
                let newest = Directory::newest_in(&configured).unwrap_or(0);
                let state = State::new(first_cursor().max(newest + 1));
                Self::start(settings, None, state, metrics)
            }
            Err(why) => return Err(why),
        };
        writer::start(&log.shared)?;
        Ok(log)
    }

    fn start(settings: Settings, disk: Option<Disk>, state: State, metrics: Arc<Metrics>) -> Self {
        let (newest, _) = watch::channel(Newest {
            cursor: state.next - 1,
            closed: false,
        });
        let shared = Shared {
            state: Mutex::new(state),
            work: Condvar::new(),
            over: Condvar::new(),
            newest,
            settings,
            disk: disk.map_or_else(OnceLock::new, OnceLock::from),
            metrics,
            threads: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Whether alerts survive the process.
    pub fn is_stored(&self) -> bool {
        self.shared.disk.get().is_some()
    }

    /// Appends alerts in order. Blocks on no reader and no disk. What the bound drops before every reader has delivered it is counted.
    /// Returns the last one's cursor.
    pub fn append(&self, records: Vec<Record>) -> Cursor {
        let mut state = self.shared.lock();
        for record in records {
            state.push(record);
        }
        self.shared.bound_memory(&mut state);
        let last = state.next - 1;
        self.shared.show(&state);
        drop(state);
        self.shared.work.notify_one();
        last
    }

    /// Says that no more alerts will come: readers end after the last one.
    pub fn close(&self) {
        let mut state = self.shared.lock();
        state.closed = true;
        self.shared.show(&state);
        drop(state);
        self.shared.work.notify_one();
    }

    /// Brings the metrics of a log in memory up to date; the threads of another do so themselves.
    pub fn publish(&self) {
        if self.shared.disk.get().is_none() {
            writer::publish(&self.shared, None, now_ns());
        }
    }

    /// Stores what is left, brings it to the disk and ends the log's threads. To be called once, after [`Self::close`]; blocks.
    /// Returns how many alerts nobody will deliver any more: those that are in no file and that a reader has not delivered.
    pub fn finish(&self) -> u64 {
        let threads = std::mem::take(
            &mut *self
                .shared
                .threads
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for thread in threads {
            if thread.join().is_err() {
                error!("a thread of the alert log panicked; this is a bug");
            }
        }
        let state = self.shared.lock();
        let left = state.undelivered(self.shared.disk.get().is_some());
        self.shared
            .metrics
            .delivery
            .count_dropped("undelivered", left);
        left
    }

    /// A sink's reader: goes on where the sink of this name stopped, or begins with the next alert.
    pub fn reader(&self, name: &str) -> Reader {
        Reader::new(self, name)
    }

    /// Forgets the places of sinks that nobody reads as any more, and says so.
    pub fn forget_others(&self) {
        self.shared.forget_others();
    }

    /// Cursor of the oldest alert that the log still has; behind [`Self::newest`] where it has none.
    pub fn oldest(&self) -> Cursor {
        self.shared.oldest(&self.shared.lock())
    }

    /// Cursor of the newest alert that readers see.
    pub fn newest(&self) -> Cursor {
        self.shared.newest.borrow().cursor
    }

    /// Follows [`Self::newest`].
    pub fn follow(&self) -> Follower {
        Follower::new(&self.shared.newest)
    }

    /// Alerts behind a cursor, oldest first: about `max` of them, none where there is none. An unknown cursor is as good as any: what is
    /// behind it comes.
    pub async fn read_after(&self, after: Cursor, max: usize) -> Result<Batch, StoreError> {
        reader::read_after(&self.shared, after, max).await
    }

    /// The cursor to read after for every alert whose event was at a time (nanoseconds since the Unix epoch) or later. Alerts are in
    /// the order in which they were raised, so somewhat earlier ones may be among them.
    pub async fn cursor_at(&self, time_ns: i64) -> Result<Cursor, StoreError> {
        reader::cursor_at(&self.shared, time_ns).await
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock is held leaves a queue that is still a queue.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget_others(&self) {
        let mut state = self.lock();
        state.forgets_others = true;
        let known: Vec<_> = state
            .readers
            .iter()
            .map(|place| place.name.clone())
            .collect();
        let gone: Vec<_> = state
            .sinks
            .extract_if(.., |(name, _)| !known.contains(name))
            .collect();
        let total = state.stored_ever;
        drop(state);
        let Some(disk) = self.disk.get() else {
            return;
        };
        for (name, cursor) in gone {
            let left = disk.store().count_after(cursor, total);
            let left = left.ok().flatten().map_or(0, |(count, _)| count);
            warn!(
                "sink {name} is no longer configured: its place in the alert log is forgotten; {left} alerts in the log were not delivered to it"
            );
            if let Err(error) = disk.store().forget(&name) {
                self.failed(&error);
            }
        }
    }

    fn oldest(&self, state: &State) -> Cursor {
        let in_memory = state
            .memory
            .front()
            .map_or(state.next, |entry| entry.cursor);
        if self.disk.get().is_some() && state.disk_bytes > 0 {
            state.oldest.min(in_memory)
        } else {
            in_memory
        }
    }

    /// What readers may see.
    fn visible(&self, state: &State) -> Newest {
        let is_storing = self.disk.get().is_some() && !state.failing;
        Newest {
            cursor: if is_storing {
                state.stored
            } else {
                state.next - 1
            },
            closed: state.closed && (!is_storing || state.stored + 1 == state.next),
        }
    }

    /// Lets go of what memory has no room for, and shows readers what is new.
    fn bound_memory(&self, state: &mut State) {
        let dropped = state.bound(self.settings.memory_bytes_max, self.disk.get().is_some());
        self.count_missed(&dropped);
    }

    /// Counts alerts that were dropped before readers had them: for each how many, and all together.
    fn count_missed(&self, dropped: &state::Missed) {
        self.metrics
            .delivery
            .count_dropped("log_full", dropped.by_any);
        for (name, count) in &dropped.by {
            let sink = SinkName { sink: name.clone() };
            self.metrics
                .delivery
                .sink_missed
                .get_or_create(&sink)
                .inc_by(*count);
        }
    }

    fn show(&self, state: &State) {
        let visible = self.visible(state);
        self.newest.send_if_modified(|newest| {
            let is_new = *newest != visible;
            *newest = visible;
            is_new
        });
        if visible.closed {
            self.over.notify_all();
        }
    }

    /// Counts an error of the files and says it once until it is over.
    fn failed(&self, error: &StoreError) {
        self.metrics.delivery.log_errors.inc();
        tracing::debug!("alert log: {}", crate::log::chain(error));
    }
}

/// Opens the files; what is damaged is put aside and what is good of it taken over.
fn open_store(directory: &Directory) -> Result<(Store, store::Extent), StoreError> {
    let opened = Store::open(directory.path()).and_then(|store| {
        let extent = store.extent()?;
        Ok((store, extent))
    });
    let error = match opened {
        Err(error) if error.is_damage() => error,
        other => return other,
    };
    warn!(
        "the alert log's files are damaged ({}); taking over what can be read",
        chain(&error)
    );
    let aside = store::salvage(directory.path()).map_err(|error| StoreError {
        attempt: "put the damaged log aside",
        source: rusqlite::Error::ToSqlConversionFailure(Box::new(error)),
    })?;
    let store = Store::open(directory.path())?;
    let blocks = store::copy_readable(&aside, &store)?;
    warn!(
        "{blocks} blocks of alerts were taken over; the damaged file is kept as {}",
        aside.display()
    );
    let mut extent = store.extent()?;
    extent.was_damaged = true;
    Ok((store, extent))
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text += &format!(": {source}");
        cause = source.source();
    }
    text
}

/// Nanoseconds since the Unix epoch.
fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    })
}

fn first_cursor() -> Cursor {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(1, |since| (since.as_secs() << 20) + 1)
}

#[cfg(test)]
mod tests;
