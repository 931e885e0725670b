//! One runtime, whichever protocol it speaks: its socket, its answers, and what is said of it in the log and the metrics.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use tokio::{
    sync::{OnceCell, Semaphore},
    time::timeout,
};
use tracing::{info, warn};

use super::health::{Health, News};
use crate::{
    context::runtime::{CALL, Container, Failure, RuntimeConfig, cri, docker},
    metrics::{Metrics, RUNTIME_STATES, RuntimeName, RuntimeOutcome, RuntimeState},
};

/// Questions under way to a runtime that does not answer: each may take as long as a call can.
const PROBES_MAX: usize = 2;

/// One runtime.
#[derive(Debug)]
pub struct Runtime {
    pub socket: PathBuf,
    /// For metrics and log lines.
    pub name: String,
    pub client: Client,
    kind: OnceCell<&'static str>,
    present: AtomicBool,
    health: Mutex<Health>,
    probes: Semaphore,
    metrics: Arc<Metrics>,
}

/// How it is spoken to.
#[derive(Debug)]
pub enum Client {
    Cri(cri::Client),
    Docker(docker::Client),
}

/// What a runtime says of an id.
#[derive(Debug)]
pub enum Told {
    Container(Arc<Container>),
    NotFound,
    /// Nothing that could be read.
    Failed,
}

impl Runtime {
    /// One for each socket of the configuration.
    pub fn all(config: &RuntimeConfig, metrics: &Arc<Metrics>) -> Vec<Self> {
        let new = |socket: &PathBuf, client: Result<Client, Failure>| {
            let client = client
                .inspect_err(|error| {
                    warn!(
                        "container runtime {} is not used: {error}",
                        socket.display()
                    );
                })
                .ok()?;
            Some(Self {
                socket: socket.clone(),
                name: socket.display().to_string(),
                client,
                kind: OnceCell::new(),
                present: AtomicBool::new(false),
                health: Mutex::default(),
                probes: Semaphore::new(PROBES_MAX),
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

    /// Whether its socket was there when it was last looked for.
    pub fn is_present(&self) -> bool {
        self.present.load(Ordering::Relaxed)
    }

    /// Looks for its socket, and whether it has come back.
    pub fn look(&self) {
        let is_there = is_socket(&self.socket);
        let was_there = self.present.swap(is_there, Ordering::Relaxed);
        if is_there != was_there {
            info!(
                "container runtime {}: socket {}",
                self.name,
                if is_there { "found" } else { "gone" }
            );
            self.publish(if is_there { "present" } else { "absent" });
        }
        let settled = self.health().settled(Instant::now());
        self.tell(settled, "", "");
    }

    /// Asks for one container.
    pub async fn ask(&self, id: &str) -> Told {
        let is_failing = self.health().is_failing();
        let probe = is_failing.then(|| self.probes.try_acquire());
        if let Some(Err(_)) = probe {
            self.count("skipped");
            return Told::Failed;
        }
        let begun = Instant::now();
        let answer = timeout(CALL * 2, self.container(id)).await;
        let now = Instant::now();
        let runtime = RuntimeName {
            runtime: self.name.clone(),
        };
        self.metrics
            .cost
            .runtime_lookups
            .get_or_create(&runtime)
            .observe((now - begun).as_secs_f64());
        let failure = match answer.unwrap_or(Err(Failure::Timeout)) {
            Ok(Some(container)) => {
                self.count("found");
                self.good(Health::told_of_container, now);
                return Told::Container(Arc::new(container));
            }
            Ok(None) | Err(Failure::NotFound) => {
                self.count("not_found");
                self.good(Health::told_of_container, now);
                return Told::NotFound;
            }
            Err(failure) => failure,
        };
        self.count(match failure {
            Failure::Timeout => "timeout",
            Failure::Refused(_) => "refused",
            _ => "error",
        });
        let is_refusal = matches!(failure, Failure::Refused(_));
        self.bad(
            if is_refusal {
                Health::refused
            } else {
                Health::failed
            },
            now,
            &failure,
            id,
        );
        Told::Failed
    }

    /// Ids of all its containers.
    pub async fn ids(&self) -> Result<Vec<String>, Failure> {
        let answer = timeout(CALL * 2, async {
            self.kind().await?;
            match &self.client {
                Client::Cri(client) => client.ids().await,
                Client::Docker(client) => client.ids().await,
            }
        });
        let answer = answer.await.unwrap_or(Err(Failure::Timeout));
        let now = Instant::now();
        match &answer {
            Ok(_) => self.good(Health::answered, now),
            Err(failure) => self.bad(Health::failed, now, failure, ""),
        }
        answer
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

    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn good(&self, note: fn(&mut Health, Instant), now: Instant) {
        note(&mut self.health(), now);
        self.show_health();
    }

    fn bad(
        &self,
        note: fn(&mut Health, Instant) -> Option<News>,
        now: Instant,
        why: &Failure,
        id: &str,
    ) {
        let news = note(&mut self.health(), now);
        self.tell(news, &why.to_string(), id);
        self.show_health();
    }

    fn tell(&self, news: Option<News>, why: &str, id: &str) {
        let name = &self.name;
        match news {
            Some(News::Stopped) => warn!(
                "container runtime {name} does not answer: {why}; events of containers that are not known yet come out with container.incomplete"
            ),
            Some(News::Again) => info!("container runtime {name} answers again"),
            Some(News::Refused) => warn!(
                "container runtime {name} cannot tell of container {id}: {why}; its events come out with container.incomplete"
            ),
            None => {}
        }
    }

    fn show_health(&self) {
        let is_failing = self.health().is_failing();
        self.publish(if is_failing { "failing" } else { "answering" });
    }

    fn count(&self, outcome: &'static str) {
        let labels = RuntimeOutcome {
            runtime: self.name.clone(),
            outcome,
        };
        self.metrics.runtime_lookups.get_or_create(&labels).inc();
    }

    fn publish(&self, now: &'static str) {
        for state in RUNTIME_STATES {
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

/// Does a socket stand there now?
pub fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    std::fs::metadata(path).is_ok_and(|file| file.file_type().is_socket())
}
