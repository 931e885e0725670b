//! Files that cannot be used when the agent starts, because the disk is full or read-only: alerts are in memory, as without a directory,
//! and the files are tried again. Once they can be used, what memory holds is stored behind what they hold, and each sink first gets
//! what the files had for it, then goes on where it was.

use std::{path::Path, sync::PoisonError, time::Instant};

use tracing::{error, info};

use super::{
    Disk, LogError, Shared, chain, directory::Directory, open_store, store::Extent, writer,
};
use crate::metrics::Metrics;

/// Opens the files in a directory. What was acknowledged and is no longer there is said and counted.
pub(super) fn open(configured: &Path, metrics: &Metrics) -> Result<(Disk, Extent), LogError> {
    let directory = Directory::take(configured)?;
    let failed = |source| LogError::Store {
        path: directory.path().into(),
        source,
    };
    let (store, mut extent) = open_store(&directory).map_err(failed)?;
    if let Some((newest, total)) = directory.newest() {
        extent.newest = extent.newest.max(newest);
        let lost = total.saturating_sub(extent.total);
        if lost > 0 {
            error!(
                "{lost} alerts that were in the alert log are no longer there: its files were damaged"
            );
            metrics.delivery.count_dropped("log_damaged", lost);
            extent.total = total;
            extent.was_damaged = true;
        }
    }
    info!(
        "alert log in {}: {} bytes",
        directory.path().display(),
        extent.bytes
    );
    Ok((Disk::new(directory, store), extent))
}

/// Waits until the files can be used; `None` where the log is closed before.
pub(super) fn await_files(shared: &Shared) -> Option<&Disk> {
    let directory = shared.settings.directory.as_deref()?;
    let mut said = String::new();
    loop {
        if wait(shared) {
            return None;
        }
        match open(directory, &shared.metrics) {
            Ok((disk, extent)) => match join(shared, disk, &extent) {
                Ok(disk) => return Some(disk),
                Err(why) => {
                    error!("alerts are kept in memory until the next start: {why}");
                    return None;
                }
            },
            Err(why) => {
                shared.metrics.delivery.log_errors.inc();
                // What the disk lacks was said at the start.
                let is_known = why.is_of_the_disk();
                let why = chain(&why);
                if !is_known && why != said {
                    error!("alerts are still kept in memory: {why}");
                    said = why;
                }
            }
        }
    }
}

/// For the time between two tries; whether the log was closed meanwhile.
fn wait(shared: &Shared) -> bool {
    let until = Instant::now() + writer::RETRY;
    let mut state = shared.lock();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if state.closed || left.is_zero() {
            return state.closed;
        }
        (state, _) = shared
            .work
            .wait_timeout(state, left)
            .unwrap_or_else(PoisonError::into_inner);
    }
}

/// Puts the files behind what is in memory.
fn join<'s>(shared: &'s Shared, disk: Disk, extent: &Extent) -> Result<&'s Disk, String> {
    let mut state = shared.lock();
    let first = state
        .memory
        .front()
        .map_or(state.next, |entry| entry.cursor);
    if extent.newest >= first {
        return Err(format!(
            "the clock stands before the alerts in {}",
            disk.directory.path().display()
        ));
    }
    state.learn(extent);
    state.stored = first - 1;
    // Until the first of them is stored, readers go on to see what memory has.
    state.failing = true;
    let places = state.sinks.clone();
    for place in state.readers.iter_mut().filter(|place| !place.has_ended) {
        place.is_dirty = true;
        let known = places.iter().find(|(name, _)| *name == place.name);
        let after = match known {
            Some((_, cursor)) => *cursor,
            None if extent.was_damaged => extent.oldest.min(first) - 1,
            None => continue,
        };
        if after < extent.newest {
            place.backlog = Some((after, extent.newest));
            (place.committed, place.in_hand, place.missed) = (after, after, 0);
            place.is_dirty = false;
        }
    }
    let forgets_others = state.forgets_others;
    if shared.disk.set(disk).is_err() {
        unreachable!("one thread opens the files");
    }
    shared.show(&state);
    drop(state);
    if forgets_others {
        shared.forget_others();
    }
    Ok(shared
        .disk
        .get()
        .unwrap_or_else(|| unreachable!("it was set above")))
}
