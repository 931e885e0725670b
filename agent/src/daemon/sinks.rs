//! Every configured sink is a task that reads the alert log under its own name. Which there are, and how each is set, can change while they
//! are at work: one that stays as it was notices nothing, one that is set otherwise goes on at its place once what it is delivering
//! is done, one that is configured no more ends, and one that was not there before begins with the next alert.

use std::{
    collections::BTreeMap,
    future::pending,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::watch, task::JoinSet};
use tracing::{info, warn};

use crate::{
    config::{Config, delivery::common},
    log::{AlertLog, Reader},
    metrics::Metrics,
    sink::{
        deliver::{Common, End, run_until},
        file::{self, FileTarget},
        http::{self, Server},
        nats::{self, JetStream},
        stdout,
        syslog::{self, Receiver},
    },
};

/// Longest pause between tries of standard output, in seconds.
const STDOUT_PAUSE_MAX_S: u64 = 30;

/// The sinks at work.
#[derive(Debug)]
pub struct Sinks {
    log: AlertLog,
    hostname: String,
    metrics: Arc<Metrics>,
    running: Mutex<Running>,
}

#[derive(Debug, Default)]
struct Running {
    /// By name, what each is told. One that was told to end is here until it has.
    sinks: BTreeMap<String, watch::Sender<Option<Spec>>>,
    tasks: JoinSet<()>,
}

/// What a sink is to do.
#[derive(Clone, Debug, PartialEq)]
struct Spec {
    common: Common,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Stdout,
    File(file::Settings),
    Syslog(syslog::Settings),
    Http(http::Settings),
    Nats(nats::Settings),
}

impl Sinks {
    /// Starts those that are configured; `hostname` is this node's name. Places in the log of others are forgotten.
    pub fn start(
        config: &Config,
        hostname: &str,
        log: &AlertLog,
        metrics: &Arc<Metrics>,
    ) -> Arc<Self> {
        let sinks = Arc::new(Self {
            log: log.clone(),
            hostname: hostname.into(),
            metrics: Arc::clone(metrics),
            running: Mutex::default(),
        });
        sinks.apply(config);
        log.forget_others();
        sinks
    }

    /// Makes them what a configuration says. Waits for none: each follows as soon as it can.
    pub fn apply(self: &Arc<Self>, config: &Config) {
        let mut wanted = specs(config);
        let mut running = self.lock();
        for (name, orders) in &running.sinks {
            let spec = wanted.remove(name);
            orders.send_if_modified(|order| {
                let is_new = *order != spec;
                *order = spec;
                is_new
            });
        }
        for (name, spec) in wanted {
            let (orders, told) = watch::channel(Some(spec));
            let keep = Arc::clone(self).keep(name.clone(), self.log.reader(&name), told);
            running.tasks.spawn(keep);
            running.sinks.insert(name, orders);
        }
    }

    /// Waits until every sink has read the log to its end, which has to be closed. Where that is given up, so are they.
    pub async fn finish(&self) {
        let mut tasks = std::mem::take(&mut self.lock().tasks);
        while tasks.join_next().await.is_some() {}
    }

    /// One sink's task.
    async fn keep(
        self: Arc<Self>,
        name: String,
        mut reader: Reader,
        mut orders: watch::Receiver<Option<Spec>>,
    ) {
        loop {
            let order = orders.borrow_and_update().clone();
            let other_order = {
                let mut orders = orders.clone();
                async move {
                    if orders.changed().await.is_err() {
                        pending::<()>().await;
                    }
                }
            };
            if let Some(spec) = order {
                match spec
                    .deliver(&mut reader, &self.hostname, &self.metrics, other_order)
                    .await
                {
                    End::LogClosed => return,
                    End::Stopped => continue,
                }
            }
            let left = reader.leave().await;
            let text = format!("sink {name} is configured no more and has ended");
            if left > 0 {
                warn!("{text}; {left} alerts in the log were not delivered to it");
            } else {
                info!("{text}; it had every alert");
            }
            let mut running = self.lock();
            if orders.borrow().is_none() {
                running.sinks.remove(&name);
                return;
            }
            // It is wanted again, as a new one.
            reader = self.log.reader(&name);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spec {
    async fn deliver(
        self,
        reader: &mut Reader,
        hostname: &str,
        metrics: &Metrics,
        stop: impl Future<Output = ()> + Send,
    ) -> End {
        let common = &self.common;
        match self.kind {
            Kind::Stdout => {
                let target = stdout::Output::new();
                run_until(reader, common, target, metrics, stop).await
            }
            Kind::File(settings) => {
                let target = FileTarget::new(settings);
                run_until(reader, common, target, metrics, stop).await
            }
            Kind::Syslog(settings) => {
                let target = Receiver::new(settings, hostname);
                run_until(reader, common, target, metrics, stop).await
            }
            Kind::Http(settings) => {
                let target = Server::new(settings);
                run_until(reader, common, target, metrics, stop).await
            }
            Kind::Nats(settings) => {
                let target = JetStream::new(settings, hostname);
                run_until(reader, common, target, metrics, stop).await
            }
        }
    }
}

/// The sinks of a configuration, by name.
fn specs(config: &Config) -> BTreeMap<String, Spec> {
    let mut specs = BTreeMap::new();
    let mut add = |name: &str, common, kind| {
        specs.insert(name.to_owned(), Spec { common, kind });
    };
    let own = &config.stdout;
    if own.enabled {
        let common = common(own.format, &own.filter, STDOUT_PAUSE_MAX_S);
        add("stdout", common, Kind::Stdout);
    }
    for sink in &config.sinks.file {
        let common = common(sink.format, &sink.filter, sink.pause_max_s);
        add(&sink.name, common, Kind::File(sink.clone()));
    }
    for sink in &config.sinks.syslog {
        let common = common(sink.format, &sink.filter, sink.pause_max_s);
        add(&sink.name, common, Kind::Syslog(sink.clone()));
    }
    for sink in &config.sinks.http {
        let common = common(sink.format, &sink.filter, sink.pause_max_s);
        add(&sink.name, common, Kind::Http(sink.clone()));
    }
    for sink in &config.sinks.nats {
        let common = common(sink.format, &sink.filter, sink.pause_max_s);
        add(&sink.name, common, Kind::Nats(sink.clone()));
    }
    specs
}
