//! Waiting for what comes next in the log. Copies are handed out, never a guard: who held one while he asked the log anything would
//! wait for the writer, which waits for him.

use tokio::sync::watch;

use super::Cursor;

/// How far the log goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Newest {
    /// The newest cursor that readers see.
    pub cursor: Cursor,
    /// Nothing will follow it.
    pub closed: bool,
}

/// Follows a log's newest cursor.
#[derive(Clone, Debug)]
pub struct Follower(watch::Receiver<Newest>);

impl Follower {
    pub(super) fn new(newest: &watch::Sender<Newest>) -> Self {
        Self(newest.subscribe())
    }

    /// How far the log goes now; [`Self::changed`] waits for more than this.
    pub fn newest(&mut self) -> Newest {
        *self.0.borrow_and_update()
    }

    /// Waits for a change since the last look; `false` where none will come.
    pub async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }

    /// Waits until readers see a cursor; `false` where they never will.
    pub async fn reaches(&mut self, cursor: Cursor) -> bool {
        loop {
            let newest = self.newest();
            if newest.cursor >= cursor || newest.closed || !self.changed().await {
                return self.newest().cursor >= cursor;
            }
        }
    }
}
