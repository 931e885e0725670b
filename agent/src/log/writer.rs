//! The threads behind the log's files: one stores alerts and the places of sinks, drops what is beyond the bounds, and tries again
//! what failed; the other brings what was stored to the disk, so that the first waits for no disk.

use std::{
    sync::{Arc, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tracing::{error, info, warn};

use super::{
    Cursor, Disk, LogError, Record, Shared, chain, late, now_ns, open_store, reader,
    state::State,
    store::{Store, StoreError},
};
use crate::metrics::{SinkName, level};

/// Alerts stored at once, and bytes of them: enough that a commit costs little, little enough that sinks see them soon.
const BATCH_ALERTS: usize = 4096;
const BATCH_BYTES: usize = 4 << 20;

/// Between tries while the files cannot be written.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// How often bounds are looked at and metrics published when nothing else happens.
const TICK: Duration = Duration::from_secs(1);

pub(super) fn start(shared: &Arc<Shared>) -> Result<(), LogError> {
    let spawn = |name: &str, run: fn(&Shared)| {
        let shared = Arc::clone(shared);
        thread::Builder::new()
            .name(name.into())
            .spawn(move || run(&shared))
    };
    let threads = [spawn("alert-log", write)?, spawn("alert-log-sync", sync)?];
    shared
        .threads
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .extend(threads);
    Ok(())
}

/// What is to be stored next.
struct Work {
    records: Vec<Arc<Record>>,
    last: Cursor,
    cursors: Vec<(String, Cursor)>,
    stored_ever: u64,
    is_over: bool,
}

fn write(shared: &Shared) {
    let files = shared.disk.get();
    let Some(disk) = files.or_else(|| late::await_files(shared)) else {
        return;
    };
    // Those that came late are tried at once.
    let mut retry_at = files.is_none().then(Instant::now);
    let mut next_tick = Instant::now();
    loop {
        let work = next_work(shared, retry_at, next_tick);
        if Instant::now() >= next_tick {
            housekeeping(shared, disk);
            next_tick = Instant::now() + TICK;
        }
        let is_retry = retry_at.is_some();
        if work.records.is_empty() && work.cursors.is_empty() {
            if work.is_over {
                break;
            }
            if !is_retry {
                continue;
            }
        }
        if retry_at.is_some_and(|at| Instant::now() < at) && !work.is_over {
            continue;
        }
        match store(shared, disk, &work, is_retry) {
            Ok(()) if is_retry => {
                info!("the alert log can be written again");
                retry_at = None;
            }
            Ok(()) => {}
            Err(error) => {
                shared.failed(&error);
                if !is_retry {
                    error!(
                        "alerts cannot be stored and are kept in memory, tried again every {RETRY:?}: {}",
                        chain(&error)
                    );
                }
                retry_at = Some(Instant::now() + RETRY);
                let mut state = shared.lock();
                state.failing = true;
                shared.metrics.delivery.log_failing.set(1);
                shared.show(&state);
                if work.is_over {
                    break;
                }
            }
        }
    }
    housekeeping(shared, disk);
}

/// Waits for something to store, for the time of a retry, or for that of a tick.
fn next_work(shared: &Shared, retry_at: Option<Instant>, next_tick: Instant) -> Work {
    let mut state = shared.lock();
    loop {
        let now = Instant::now();
        let has_new =
            state.stored + 1 < state.next || state.readers.iter().any(|place| place.is_dirty);
        let may_store = retry_at.is_none_or(|at| now >= at);
        if has_new && may_store
            || state.closed
            || now >= next_tick
            || retry_at.is_some_and(|at| now >= at)
        {
            break;
        }
        let until = retry_at.map_or(next_tick, |at| at.min(next_tick));
        let wait = until.saturating_duration_since(now);
        (state, _) = shared
            .work
            .wait_timeout(state, wait)
            .unwrap_or_else(PoisonError::into_inner);
    }
    let first = state
        .memory
        .front()
        .map_or(state.next, |entry| entry.cursor);
    let skip = usize::try_from((state.stored + 1).saturating_sub(first)).unwrap_or(usize::MAX);
    let mut bytes = 0;
    let mut last = state.stored;
    let records = state
        .memory
        .iter()
        .skip(skip)
        .take(BATCH_ALERTS)
        .take_while(|entry| {
            let fits = bytes < BATCH_BYTES;
            bytes += entry.record.size_bytes();
            fits
        })
        .map(|entry| {
            last = entry.cursor;
            Arc::clone(&entry.record)
        })
        .collect();
    let dirty = state.readers.iter().filter(|place| place.is_dirty);
    Work {
        records,
        last,
        cursors: dirty
            .map(|place| (place.name.clone(), place.committed))
            .collect(),
        stored_ever: state.stored_ever,
        is_over: state.closed,
    }
}

/// Stores it, and says so to readers. After a failure the files are opened anew first: what failed may be the files themselves.
fn store(shared: &Shared, disk: &Disk, work: &Work, is_retry: bool) -> Result<(), StoreError> {
    if is_retry {
        let (store, extent) = open_store(&disk.directory)?;
        let mut state = shared.lock();
        state.disk_bytes = extent.bytes;
        (state.oldest, state.oldest_ns) = (extent.oldest, extent.oldest_ns);
        drop(state);
        *disk.store.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(store);
    }
    let store = disk.store();
    let bytes = if work.records.is_empty() {
        store.commit(&work.cursors)?;
        0
    } else {
        store.append(
            &work.records,
            work.last,
            work.stored_ever,
            now_ns(),
            &work.cursors,
        )?
    };
    let total = work.stored_ever + work.records.len() as u64;
    if !work.records.is_empty()
        && let Err(error) = disk.directory.note_newest(work.last, total)
    {
        // The alerts are stored all the same.
        warn!("cannot note the newest alert: {error}");
    }
    let mut state = shared.lock();
    // Memory may have dropped some of them meanwhile.
    state.stored = state.stored.max(work.last);
    if !work.records.is_empty() {
        state.in_files = work.last;
    }
    state.stored_ever = total;
    if state.disk_bytes == 0 && bytes > 0 {
        state.oldest = work.last + 1 - work.records.len() as u64;
        state.oldest_ns = now_ns();
    }
    state.disk_bytes += bytes;
    let mut left = Vec::new();
    for (name, cursor) in &work.cursors {
        let mut places = state.readers.iter_mut();
        match places.find(|place| place.name == *name) {
            Some(place) => place.is_dirty &= place.committed != *cursor,
            // It left while its place was on its way into the files.
            None => left.push(name),
        }
    }
    state.failing = false;
    shared.metrics.delivery.log_failing.set(0);
    shared.bound_memory(&mut state);
    shared.show(&state);
    let is_full = state.disk_bytes > shared.settings.bytes_max;
    drop(state);
    for name in left {
        store.forget(name)?;
    }
    if is_full {
        trim(shared, &store)?;
    }
    Ok(())
}

/// Drops what is beyond the bounds of bytes and age, and counts what a reader had not had of it.
fn trim(shared: &Shared, store: &Store) -> Result<(), StoreError> {
    let age_ns = i64::try_from(shared.settings.age_max.as_nanos()).unwrap_or(i64::MAX);
    loop {
        let bytes = shared.lock().disk_bytes;
        let too_old = now_ns().saturating_sub(age_ns);
        let excess = store.excess(bytes, shared.settings.bytes_max, too_old)?;
        let Some(newest) = excess.last() else {
            return Ok(());
        };
        {
            // Before they go: a reader that meets them meanwhile leaves them to this count.
            let mut state = shared.lock();
            let first = excess.first().map_or(newest.last, |oldest| {
                (oldest.last + 1).saturating_sub(oldest.count)
            });
            let missed = state.miss(first, newest.last);
            shared.count_missed(&missed);
        }
        store.drop_to(newest.last)?;
        let oldest = store.oldest()?;
        let mut state = shared.lock();
        let freed = excess.iter().map(|block| block.bytes).sum();
        state.disk_bytes = state.disk_bytes.saturating_sub(freed);
        (state.oldest, state.oldest_ns) = oldest.unwrap_or((state.stored + 1, 0));
    }
}

/// What is done once a second.
fn housekeeping(shared: &Shared, disk: &Disk) {
    let store = disk.store();
    let (is_failing, oldest_ns) = {
        let state = shared.lock();
        (state.failing, state.oldest_ns)
    };
    if !is_failing {
        if let Err(error) = trim(shared, &store) {
            shared.failed(&error);
        }
        if !store.is_in_place() {
            error!("the alert log's file was removed: it is made anew, and what it held is lost");
            match open_store(&disk.directory) {
                Ok((fresh, extent)) => {
                    let mut state = shared.lock();
                    shared.metrics.delivery.log_errors.inc();
                    state.disk_bytes = extent.bytes;
                    (state.oldest, state.oldest_ns) = (extent.oldest, extent.oldest_ns);
                    drop(state);
                    *disk.store.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
                }
                Err(error) => shared.failed(&error),
            }
        }
    }
    let now_ns = now_ns();
    publish(shared, Some(&store), now_ns);
    let age_ns = if oldest_ns > 0 { now_ns - oldest_ns } else { 0 };
    let delivery = &shared.metrics.delivery;
    // A clock that was set back makes nothing younger than new.
    delivery.log_oldest.set(age_ns.max(0) / 1_000_000_000);
}

/// Brings the metrics up to date.
pub(super) fn publish(shared: &Shared, store: Option<&Store>, now_ns: i64) {
    let delivery = &shared.metrics.delivery;
    {
        let state = shared.lock();
        let memory = level(state.memory_bytes);
        delivery.log_memory_bytes.set(memory);
        delivery.log_bytes.set(match store {
            Some(_) => level(state.disk_bytes),
            None => memory,
        });
        if store.is_none() {
            let oldest = state.memory.front();
            let age_ns = oldest.map_or(0, |entry| now_ns - entry.record.time_ns);
            delivery.log_oldest.set(age_ns.max(0) / 1_000_000_000);
        }
    }
    for (name, alerts, age_ns) in reader::lags(shared, store, now_ns) {
        let sink = SinkName { sink: name };
        let state = shared.lock();
        if !state.readers.iter().any(|place| place.name == sink.sink) {
            // It has left meanwhile, and must not be shown for ever.
            continue;
        }
        delivery
            .sink_lag_alerts
            .get_or_create(&sink)
            .set(level(alerts));
        delivery
            .sink_lag_seconds
            .get_or_create(&sink)
            .set(age_ns.max(0) / 1_000_000_000);
    }
}

/// Brings what was stored to the disk, every so often, and once at the end.
fn sync(shared: &Shared) {
    let mut connection = None;
    loop {
        let is_over = wait(shared, shared.settings.sync);
        let Some(disk) = shared.disk.get() else {
            if is_over {
                return;
            }
            continue;
        };
        let store = disk.store();
        let done = match connection.take() {
            Some((of, connection)) if Arc::ptr_eq(&of, &store) => Ok(connection),
            _ => store.connection(),
        }
        .and_then(|own| store.sync(&own).map(|()| own));
        match done {
            Ok(own) => connection = Some((store, own)),
            Err(error) => shared.failed(&error),
        }
        if is_over {
            return;
        }
    }
}

/// Waits that long, or until the log is closed and stored; `true` where it is.
fn wait(shared: &Shared, time: Duration) -> bool {
    let state = shared.lock();
    let goes_on = |state: &mut State| !shared.visible(state).closed;
    let (mut state, _) = shared
        .over
        .wait_timeout_while(state, time, goes_on)
        .unwrap_or_else(PoisonError::into_inner);
    !goes_on(&mut state)
}
