//! The tokio side: finds sockets, asks every runtime for every id that is wanted, and follows what comes and goes.

mod client;
mod follow;
mod health;
mod schedule;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use tracing::warn;

use super::{
    RuntimeConfig,
    directory::{Answer, Ends, Request},
    metadata::Container,
};
use crate::metrics::{Cause, Metrics, raise_to};
use client::{Runtime, Told, is_socket};
use schedule::{Outcome, Question, Schedule};

/// How often sockets are looked for.
const DISCOVER: Duration = Duration::from_secs(1);

/// Look-ups under way at once for containers that no event waits for.
const AHEAD_MAX: usize = 4;

/// Without anything to ask, the schedule is looked at this often.
const IDLE: Duration = Duration::from_secs(60);

/// Runs until the sensor thread's end of the channels is dropped. `wake` ends the sensor thread's wait after an answer.
pub async fn run(
    config: RuntimeConfig,
    ends: Ends,
    wake: impl Fn() + Send + Sync + 'static,
    metrics: Arc<Metrics>,
) {
    let Ends {
        mut requests,
        answers,
        present,
    } = ends;
    let shared = Arc::new(Shared {
        runtimes: Runtime::all(&config, &metrics).into(),
        answers,
        wake: Box::new(wake),
        ahead: Semaphore::new(AHEAD_MAX),
    });
    discover(&shared.runtimes, &present);
    for problem in config.problems() {
        warn!("{problem}");
    }
    let mut followers = JoinSet::new();
    for index in 0..shared.runtimes.len() {
        followers.spawn(follow::follow(Arc::clone(&shared), index, config.poll));
    }
    let mut look_for_sockets = tokio::time::interval(DISCOVER);
    let mut schedule = Schedule::new(config.hold, Instant::now());
    let mut asked: JoinSet<(Question, Option<Arc<Container>>, Outcome)> = JoinSet::new();
    loop {
        let now = Instant::now();
        while let Some(late) = schedule.overdue(now) {
            shared.answer(&late.id, None).await;
        }
        while let Some(question) = schedule.next(now) {
            let shared = Arc::clone(&shared);
            asked.spawn(async move {
                let (found, outcome) = shared.ask_all(&question.id).await;
                (question, found, outcome)
            });
        }
        let next = schedule.due().unwrap_or(now + IDLE);
        tokio::select! {
            wanted = requests.recv() => {
                let Some(Request { id, patient }) = wanted else { break };
                if let Some(given_up) = schedule.add(id, patient, Instant::now()) {
                    shared.answer(&given_up.id, None).await;
                }
            }
            Some(done) = asked.join_next(), if !asked.is_empty() => {
                let Ok((question, found, outcome)) = done else { continue };
                let id = question.id.clone();
                if schedule.done(question, outcome, Instant::now()) {
                    shared.answer(&id, found).await;
                }
            }
            () = tokio::time::sleep_until(next.into()) => {}
            _ = look_for_sockets.tick() => {
                discover(&shared.runtimes, &present);
                publish(&schedule, &metrics);
            }
        }
    }
}

/// Whether any socket is there now: before the sensor thread starts, so that its first event already knows.
pub fn any_socket(config: &RuntimeConfig) -> bool {
    config
        .cri
        .iter()
        .chain(&config.docker)
        .any(|socket| is_socket(socket))
}

fn discover(runtimes: &[Runtime], any: &AtomicBool) {
    for runtime in runtimes {
        runtime.look();
    }
    any.store(runtimes.iter().any(Runtime::is_present), Ordering::Relaxed);
}

fn publish(schedule: &Schedule, metrics: &Metrics) {
    let skipped = schedule.skipped();
    for (cause, count) in [("overrun", skipped.overrun), ("retries", skipped.retries)] {
        let cause = cause.into();
        let counter = metrics.lookups_given_up.get_or_create(&Cause { cause });
        raise_to(&counter, count);
    }
}

struct Shared {
    runtimes: Box<[Runtime]>,
    answers: mpsc::Sender<Answer>,
    wake: Box<dyn Fn() + Send + Sync>,
    ahead: Semaphore,
}

impl Shared {
    /// The first runtime that knows it; one that hangs does not keep the answer of another.
    async fn ask_all(self: &Arc<Self>, id: &str) -> (Option<Arc<Container>>, Outcome) {
        let mut asked = JoinSet::new();
        for (index, runtime) in self.runtimes.iter().enumerate() {
            if runtime.is_present() {
                let (shared, id) = (Arc::clone(self), id.to_owned());
                asked.spawn(async move { shared.runtimes[index].ask(&id).await });
            }
        }
        let mut outcome = Outcome::NotFound;
        while let Some(told) = asked.join_next().await {
            match told {
                Ok(Told::Container(container)) => {
                    let started = container.started_ns != 0;
                    return (Some(container), Outcome::Found { started });
                }
                Ok(Told::NotFound) => {}
                Ok(Told::Failed) | Err(_) => outcome = Outcome::Failed,
            }
        }
        (None, outcome)
    }

    async fn answer(&self, id: &str, container: Option<Arc<Container>>) {
        let answer = Answer {
            id: id.into(),
            container,
        };
        // An error means that the sensor thread has ended.
        let _ = self.answers.send(answer).await;
        (self.wake)();
    }
}
