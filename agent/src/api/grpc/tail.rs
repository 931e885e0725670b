//! Reading the alert log for clients: from any place in it, without holding anything back for them.

use std::sync::Arc;

use serde_json::Value;
use tonic::Status;

use crate::log::{AlertLog, Cursor, Follower, Record};

/// An alert of the log.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its place.
    pub cursor: Cursor,
    /// The alert.
    pub record: Arc<Record>,
    /// Its JSON, read.
    pub value: Value,
}

/// A part of the log.
#[derive(Debug)]
pub struct Page {
    /// Alerts in order.
    pub rows: Vec<Row>,
    /// Where it ends: behind the last alert where some could not be read.
    pub end: Cursor,
    /// Whether some of it could not be read.
    pub is_damaged: bool,
}

/// What the log holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// The oldest alert's cursor; behind the newest where there is none.
    pub oldest: Cursor,
    /// The newest alert's, also of one that is gone.
    pub newest: Cursor,
}

/// A reader of the log.
#[derive(Debug)]
pub struct Tail {
    log: AlertLog,
    newest: Follower,
}

impl Tail {
    /// A reader.
    pub fn new(log: &AlertLog) -> Self {
        Self {
            newest: log.follow(),
            log: log.clone(),
        }
    }

    /// What the log holds now.
    pub fn extent(&self) -> Extent {
        Extent {
            oldest: self.log.oldest(),
            newest: self.log.newest(),
        }
    }

    /// About `max` alerts behind a cursor.
    pub async fn after(&self, cursor: Cursor, max: usize) -> Result<Page, Status> {
        let found = self.log.read_after(cursor, max).await;
        let found = found.map_err(unreadable)?;
        let rows = found
            .alerts
            .into_iter()
            .map(|entry| Row {
                cursor: entry.cursor,
                value: entry.record.value(),
                record: entry.record,
            })
            .collect();
        Ok(Page {
            rows,
            end: found.end,
            is_damaged: found.damaged > 0,
        })
    }

    /// The cursor before the first alert of an event at this time or later.
    pub async fn before(&self, time_ns: i64) -> Result<Cursor, Status> {
        self.log.cursor_at(time_ns).await.map_err(unreadable)
    }

    /// Waits until there are alerts behind a cursor; `false` where there never will be.
    pub async fn wait(&mut self, cursor: Cursor) -> bool {
        self.newest.reaches(cursor.saturating_add(1)).await
    }
}

fn unreadable(error: impl std::error::Error) -> Status {
    Status::unavailable(format!("the alert log cannot be read: {error}"))
}
