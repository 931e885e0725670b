//! Knowing ahead: lists a runtime's containers now and then, and follows its own notices of new ones where it has them.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{info, warn};

use super::{
    DISCOVER, Shared,
    client::{Client, Told},
};
use crate::context::runtime::{CALL, Failure, cri};

/// Between two attempts after a failure: doubled each time up to the longest.
const PAUSE: Duration = Duration::from_secs(1);
/// For its list of containers.
const LIST_PAUSE_MAX: Duration = Duration::from_secs(8);
/// For its notices.
const NOTICES_PAUSE_MAX: Duration = Duration::from_secs(300);
/// Notices that came for so long are fine.
const NOTICES_FINE: Duration = Duration::from_secs(60);

/// Follows one runtime for good.
pub async fn follow(shared: Arc<Shared>, index: usize, poll: Duration) {
    let runtime = &shared.runtimes[index];
    let mut seen = HashSet::new();
    let mut list_pause = PAUSE;
    let mut notices = Notices::default();
    loop {
        if !runtime.is_present() {
            sleep(DISCOVER).await;
            continue;
        }
        let Ok(ids) = runtime.ids().await else {
            sleep(list_pause).await;
            list_pause = (list_pause * 2).min(LIST_PAUSE_MAX);
            continue;
        };
        list_pause = PAUSE;
        let ids: HashSet<Box<str>> = ids
            .into_iter()
            .filter(|id| is_id(id))
            .map(Into::into)
            .collect();
        for id in ids.difference(&seen) {
            ahead(&shared, index, id).await;
        }
        seen = ids;
        let next_poll = Instant::now() + poll;
        if notices.is_due() {
            let began = Instant::now();
            if let Ok(ended) = timeout(poll, listen(&shared, index)).await {
                notices.ended(ended, began.elapsed(), &runtime.name);
                // Soon the list is asked for what they would have told.
                sleep(DISCOVER).await;
            } else {
                notices = Notices::default();
            }
        } else {
            sleep_until(notices.next.map_or(next_poll, |next| next.min(next_poll))).await;
        }
    }
}

/// When notices are listened to again after they ended.
#[derive(Debug)]
struct Notices {
    /// `None`: never, the runtime has none.
    next: Option<Instant>,
    pause: Duration,
    failures: u32,
}

impl Default for Notices {
    fn default() -> Self {
        Self {
            next: Some(Instant::now()),
            pause: PAUSE,
            failures: 0,
        }
    }
}

impl Notices {
    fn is_due(&self) -> bool {
        self.next.is_some_and(|next| next <= Instant::now())
    }

    fn ended(&mut self, how: Result<(), Failure>, after: Duration, name: &str) {
        if after >= NOTICES_FINE {
            *self = Self::default();
        }
        self.next = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(NOTICES_PAUSE_MAX);
        self.failures += 1;
        match how {
            Err(Failure::Unsupported) => {
                info!(
                    "container runtime {name} has no notices of new containers; it is asked at a container's first event"
                );
                self.next = None;
            }
            // The first time it may just have been restarted.
            Err(failure) if self.failures == 2 => warn!(
                "container runtime {name}: its notices of new containers cannot be followed: {failure}; it is asked at a container's first event"
            ),
            _ => {}
        }
    }
}

/// Looks a container up that no event has asked for.
async fn ahead(shared: &Arc<Shared>, index: usize, id: &str) {
    let _permit = shared.ahead.acquire().await;
    if let Told::Container(container) = shared.runtimes[index].ask(id).await {
        shared.answer(id, Some(container)).await;
    }
}

/// Listens to the runtime's notices until they end.
async fn listen(shared: &Arc<Shared>, index: usize) -> Result<(), Failure> {
    match &shared.runtimes[index].client {
        Client::Cri(client) => {
            let mut stream = timeout(CALL, client.events())
                .await
                .map_err(|_| Failure::Timeout)??;
            loop {
                match stream.message().await {
                    Ok(Some(event)) => {
                        let is_new = event.container_event_type != cri::messages::DELETED;
                        if is_new && is_id(&event.container_id) {
                            ahead(shared, index, &event.container_id).await;
                        }
                    }
                    Ok(None) => return Ok(()),
                    Err(status) => return Err(cri::failure(&status)),
                }
            }
        }
        Client::Docker(client) => {
            let mut stream = timeout(CALL, client.events())
                .await
                .map_err(|_| Failure::Timeout)??;
            while let Some(id) = stream.next_id().await? {
                if is_id(&id) {
                    ahead(shared, index, &id).await;
                }
            }
            Ok(())
        }
    }
}

/// Runtimes' ids are 64 hexadecimal digits; whatever else a list holds is not asked for.
fn is_id(id: &str) -> bool {
    id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}
