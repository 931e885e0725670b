//! The tokio side: finds sockets, asks every runtime for every id that is wanted, follows what comes and goes, and says
//! when a runtime stops or starts answering.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OnceCell, Semaphore, mpsc},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};

use super::{
    Failure, RuntimeConfig, cri,
    directory::{Answer, Ends, REQUESTS_MAX},
    docker,
    metadata::Container,
};
use crate::metrics::{Metrics, RuntimeOutcome, RuntimeState};

/// Look-ups under way at once. A runtime that is asked too much at once answers all of it late.
const LOOKUPS_MAX: usize = 32;
/// Of these, how many may be for containers that no event waits for.
const AHEAD_MAX: usize = 4;

/// How often sockets are looked for.
const DISCOVER: Duration = Duration::from_secs(1);

/// Between two questions for an id that nobody knows yet: at first it is being made at this moment.
const RETRY_FIRST: Duration = Duration::from_millis(5);
const RETRY_LAST: Duration = Duration::from_millis(500);

/// How long an id is asked for before it counts as not found. Longer than any hold: a restarted runtime comes back within it.
const LOOKUP: Duration = Duration::from_secs(10);

/// How long after its creation a container that had not started is asked for again, for its start.
const STARTED_AFTER: Duration = Duration::from_secs(1);

/// One runtime.
#[derive(Debug)]
struct Runtime {
    socket: PathBuf,
    /// For metrics and log lines.
    name: String,
    client: Client,
    kind: OnceCell<&'static str>,
    present: AtomicBool,
    /// Whether the last call was answered; says when to log.
    answers: AtomicBool,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
enum Client {
    Cri(cri::Client),
    Docker(docker::Client),
}

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
    let runtimes: Arc<[Runtime]> = runtimes(&config, &metrics).into();
    let shared = Arc::new(Shared {
        runtimes,
        answers,
        wake: Box::new(wake),
        urgent: Semaphore::new(LOOKUPS_MAX),
        ahead: Semaphore::new(AHEAD_MAX),
    });
    discover(&shared.runtimes, &present);
    let mut tasks = JoinSet::new();
    for index in 0..shared.runtimes.len() {
        tasks.spawn(follow(Arc::clone(&shared), index, config.poll));
    }
    let mut look_for_sockets = tokio::time::interval(DISCOVER);
    let mut lookups = JoinSet::new();
    loop {
        tokio::select! {
            wanted = requests.recv(), if lookups.len() < REQUESTS_MAX => {
                let Some(id) = wanted else { break };
                let shared = Arc::clone(&shared);
                // Bounded in number by the condition above, and each in time. Beyond that questions wait in their channel.
                lookups.spawn(async move { shared.look_up(id).await });
            }
            _ = look_for_sockets.tick() => discover(&shared.runtimes, &present),
            Some(_) = lookups.join_next(), if !lookups.is_empty() => {}
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

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    std::fs::metadata(path).is_ok_and(|file| file.file_type().is_socket())
}

fn runtimes(config: &RuntimeConfig, metrics: &Arc<Metrics>) -> Vec<Runtime> {
    let new = |socket: &PathBuf, client: Result<Client, Failure>| {
        let client = client
            .inspect_err(|error| {
                warn!(
                    "container runtime {} is not used: {error}",
                    socket.display()
                );
            })
            .ok()?;
        Some(Runtime {
            socket: socket.clone(),
            name: socket.display().to_string(),
            client,
            kind: OnceCell::new(),
            present: AtomicBool::new(false),
            answers: AtomicBool::new(true),
            metrics: Arc::clone(metrics),
        })
    };
    let cri = config
        .cri
        .iter()
        .filter_map(|socket| new(socket, cri::Client::new(socket).map(Client::Cri)));
    let docker = config
        .docker
        .iter()
        .filter_map(|socket| new(socket, Ok(Client::Docker(docker::Client::new(socket)))));
    cri.chain(docker).collect()
}

fn discover(runtimes: &[Runtime], any: &AtomicBool) {
    for runtime in runtimes {
        let is_there = is_socket(&runtime.socket);
        let was_there = runtime.present.swap(is_there, Ordering::Relaxed);
        if is_there != was_there {
            info!(
                "container runtime {}: socket {}",
                runtime.name,
                if is_there { "found" } else { "gone" }
            );
            runtime.publish(if is_there { "present" } else { "absent" });
        }
    }
    any.store(
        runtimes
            .iter()
            .any(|runtime| runtime.present.load(Ordering::Relaxed)),
        Ordering::Relaxed,
    );
}

struct Shared {
    runtimes: Arc<[Runtime]>,
    answers: mpsc::Sender<Answer>,
    wake: Box<dyn Fn() + Send + Sync>,
    urgent: Semaphore,
    ahead: Semaphore,
}

impl Shared {
    /// Asks until a runtime knows the id or the time is over, and answers in any case.
    async fn look_up(self: Arc<Self>, id: Box<str>) {
        let end = Instant::now() + LOOKUP;
        let mut pause = RETRY_FIRST;
        let found = loop {
            let permit = self.urgent.acquire().await;
            let found = self.ask_all(&id).await;
            drop(permit);
            if found.is_some() || Instant::now() + pause > end {
                break found;
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_LAST);
        };
        let started = found
            .as_ref()
            .is_none_or(|container| container.started_ns != 0);
        self.answer(&id, found).await;
        if !started {
            sleep(STARTED_AFTER).await;
            let _permit = self.ahead.acquire().await;
            if let Some(again) = self.ask_all(&id).await {
                self.answer(&id, Some(again)).await;
            }
        }
    }

    /// The first runtime that knows it; one that hangs does not keep the answer of another.
    async fn ask_all(self: &Arc<Self>, id: &str) -> Option<Container> {
        let mut asked = JoinSet::new();
        for index in 0..self.runtimes.len() {
            if self.runtimes[index].present.load(Ordering::Relaxed) {
                let (shared, id) = (Arc::clone(self), id.to_owned());
                asked.spawn(async move { shared.runtimes[index].ask(&id).await });
            }
        }
        while let Some(answer) = asked.join_next().await {
            if let Ok(Some(container)) = answer {
                return Some(container);
            }
        }
        None
    }

    async fn answer(&self, id: &str, container: Option<Container>) {
        let answer = Answer {
            id: id.into(),
            container: container.map(Arc::new),
        };
        // An error means that the sensor thread has ended.
        let _ = self.answers.send(answer).await;
        (self.wake)();
    }
}

impl Runtime {
    async fn ask(&self, id: &str) -> Option<Container> {
        let answer = timeout(super::CALL * 2, self.container(id)).await;
        let answer = answer.unwrap_or(Err(Failure::Timeout));
        let outcome = match &answer {
            Ok(Some(_)) => "found",
            Ok(None) | Err(Failure::NotFound) => "not_found",
            Err(Failure::Timeout) => "timeout",
            Err(Failure::Unsupported | Failure::Broken(_)) => "error",
        };
        let labels = RuntimeOutcome {
            runtime: self.name.clone(),
            outcome,
        };
        self.metrics.runtime_lookups.get_or_create(&labels).inc();
        match answer {
            Ok(found) => {
                self.healthy();
                found
            }
            Err(failure) => {
                self.unhealthy(&failure);
                None
            }
        }
    }

    async fn container(&self, id: &str) -> Result<Option<Container>, Failure> {
        let kind = self.kind().await?;
        match &self.client {
            Client::Cri(client) => client.container(id, kind).await,
            Client::Docker(client) => client.container(id, kind).await,
        }
    }

    async fn kind(&self) -> Result<&'static str, Failure> {
        let kind = self.kind.get_or_try_init(|| async {
            match &self.client {
                Client::Cri(client) => client.kind().await,
                Client::Docker(client) => client.kind().await,
            }
        });
        kind.await.copied()
    }

    async fn ids(&self) -> Result<Vec<String>, Failure> {
        match &self.client {
            Client::Cri(client) => client.ids().await,
            Client::Docker(client) => client.ids().await,
        }
    }

    /// One line when it changes, not one for each call.
    fn healthy(&self) {
        if !self.answers.swap(true, Ordering::Relaxed) {
            info!("container runtime {} answers again", self.name);
        }
        self.publish("answering");
    }

    fn unhealthy(&self, failure: &Failure) {
        if self.answers.swap(false, Ordering::Relaxed) {
            warn!(
                "container runtime {} does not answer: {failure}; events of containers that are not known yet come out with container.incomplete",
                self.name
            );
        }
        self.publish("failing");
    }

    fn publish(&self, now: &'static str) {
        for state in crate::metrics::RUNTIME_STATES {
            let labels = RuntimeState {
                runtime: self.name.clone(),
                state,
            };
            self.metrics
                .runtime_state
                .get_or_create(&labels)
                .set(i64::from(state == now));
        }
    }
}

/// Knows ahead: lists a runtime's containers now and then, and follows its events where it has them.
async fn follow(shared: Arc<Shared>, index: usize, poll: Duration) {
    let mut seen = HashSet::new();
    let mut has_events = true;
    loop {
        let runtime = &shared.runtimes[index];
        if !runtime.present.load(Ordering::Relaxed) {
            sleep(DISCOVER).await;
            continue;
        }
        let listed = timeout(super::CALL * 2, async {
            runtime.kind().await?;
            runtime.ids().await
        })
        .await
        .unwrap_or(Err(Failure::Timeout));
        match listed {
            Ok(ids) => {
                runtime.healthy();
                let ids: HashSet<Box<str>> = ids
                    .into_iter()
                    .filter(|id| is_id(id))
                    .map(Into::into)
                    .collect();
                for id in ids.difference(&seen) {
                    ahead(&shared, index, id).await;
                }
                seen = ids;
            }
            Err(failure) => {
                runtime.unhealthy(&failure);
                sleep(DISCOVER).await;
                continue;
            }
        }
        let next_poll = Instant::now() + poll;
        if has_events {
            match timeout(poll, events(&shared, index)).await {
                Ok(Err(Failure::Unsupported)) => {
                    info!(
                        "container runtime {} has no events; it is asked at a container's first event",
                        runtime.name
                    );
                    has_events = false;
                }
                Ok(Err(failure)) => runtime.unhealthy(&failure),
                Ok(Ok(())) | Err(_) => {}
            }
            sleep(DISCOVER).await;
        }
        if !has_events {
            tokio::time::sleep_until(next_poll).await;
        }
    }
}

/// Looks a container up that no event has asked for.
async fn ahead(shared: &Arc<Shared>, index: usize, id: &str) {
    let _permit = shared.ahead.acquire().await;
    if let Some(container) = shared.runtimes[index].ask(id).await {
        shared.answer(id, Some(container)).await;
    }
}

/// Follows the runtime's own events until the stream ends.
async fn events(shared: &Arc<Shared>, index: usize) -> Result<(), Failure> {
    match &shared.runtimes[index].client {
        Client::Cri(client) => {
            let mut stream = timeout(super::CALL, client.events())
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
                    Err(status) if status.code() == tonic::Code::Unimplemented => {
                        return Err(Failure::Unsupported);
                    }
                    Err(status) => return Err(Failure::Broken(super::one_line(status.message()))),
                }
            }
        }
        Client::Docker(client) => {
            let mut stream = timeout(super::CALL, client.events())
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
