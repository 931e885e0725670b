//! Wires all stages: the sensor thread, the alert log, the sinks, the endpoints, reloads; starts them, and stops them in order.
//!
//! One plain thread owns the ring and the pipeline. It hands alerts to the log by a bounded channel and waits for nobody.
//! Stopping goes with the flow: the probes are detached, the ring is drained, the channel is closed, the sinks read the log
//! to its end, and only then does the process end.

mod gpus;
mod losses;
mod memory;
pub mod reload;
mod report;
mod sensor_thread;
mod sinks;

use std::{
    collections::BTreeSet,
    fs::File,
    future::pending,
    io,
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use saker_ebpf::config::ENV_NAMES_MAX;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tracing::{error, info, warn};

use crate::{
    alert::Alert,
    api::{
        self, Health,
        grpc::{self, GrpcError},
        node::Node,
    },
    config::{Config, KernelLog},
    context::runtime::{Directory, resolver},
    detect::Detect,
    log::{AlertLog, LogError, Record},
    metrics::{Metrics, PriorityName},
    pipeline::Pipeline,
    source::{
        Kind, Sensor, SensorConfig, SensorError, ShareLimit, Waker, Wish,
        capture::{CaptureError, Header, Writer},
        gpu::{Sampler, nvml::is_driver_loaded},
        privileges::{self, Circumstances},
    },
};
use gpus::GpuSource;
use reload::{Reloader, Source};
use report::{report_capture, report_hooks, show_hooks, show_rules, summarise, traced};
use sensor_thread::{Order, SensorThread};
use sinks::Sinks;

/// Alerts that are moved into the log at once.
const APPEND_MAX: usize = 512;

/// Orders to the sensor thread that it has not come to.
const ORDERS_MAX: usize = 16;

/// How long sinks may take to deliver what is left when the agent stops.
const FLUSH: Duration = Duration::from_secs(5);

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The kernel side cannot work at all on this machine.
    #[error(transparent)]
    Sensor(#[from] SensorError),
    /// The endpoint's address cannot be used.
    #[error(
        "cannot serve metrics on {address}; set http.listen to another address, or http.enabled to false"
    )]
    Listen {
        /// `http.listen`.
        address: std::net::SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The alert log's directory cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// gRPC cannot be served as it is configured.
    #[error(transparent)]
    Grpc(#[from] GrpcError),
    /// The capture cannot be made, or could not be finished.
    #[error("{}", path.display())]
    Capture {
        /// The file.
        path: PathBuf,
        /// Why.
        source: CaptureError,
    },
    /// Threads, signals or the runtime could not be set up, or the sensor thread died.
    #[error("{what}")]
    Internal {
        /// What was attempted.
        what: String,
    },
}

/// Where everything that comes in is written down.
#[derive(Clone, Debug)]
pub struct Recording {
    /// The file.
    pub path: PathBuf,
    /// Its bound; the agent stops when it is reached.
    pub bytes_max: u64,
}

impl Recording {
    fn failed(&self, source: CaptureError) -> DaemonError {
        DaemonError::Capture {
            path: self.path.clone(),
            source,
        }
    }
}

/// Runs until SIGINT or SIGTERM, or until a recording is full; returns once everything raised is delivered or given up. With a `source`
/// SIGHUP reloads, else it stops too.
pub fn run(
    config: &Config,
    detect: Detect,
    metrics: Arc<Metrics>,
    recording: Option<&Recording>,
    source: Option<Source>,
) -> Result<(), DaemonError> {
    memory::share_one_heap();
    let loaded = load(config, &detect, recording)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| internal("cannot start the async runtime", &error))?;
    let outcome = runtime.block_on(supervise(config, detect, metrics, loaded, source));
    // A write to a stuck stdout cannot be cancelled; the process must end all the same.
    runtime.shutdown_background();
    outcome
}

/// What was made while the process had all that it was started with.
struct Loaded<'a> {
    sensor: Sensor,
    wanted: SensorConfig,
    on_gpus: BTreeSet<Kind>,
    has_gpus: bool,
    capture: Option<(&'a Recording, File)>,
}

/// Loads the kernel side, makes what only the user who starts the agent may, and then gives up what is not needed any more. Everything the kernel
/// refuses is refused here, before anything is promised. No other thread runs yet: it would keep what it began with.
fn load<'a>(
    config: &Config,
    detect: &Detect,
    recording: Option<&'a Recording>,
) -> Result<Loaded<'a>, DaemonError> {
    let on_gpus = kinds_on_gpus(config, detect);
    let has_gpus = is_driver_loaded();
    let mut wanted = sensor_config(config, detect);
    if has_gpus {
        wanted.kinds.extend(&on_gpus);
    }
    let sensor = Sensor::load(&wanted)?;
    let capture = match recording {
        Some(recording) => {
            let file = Writer::make(&recording.path).map_err(|error| recording.failed(error))?;
            Some((recording, file))
        }
        None => None,
    };
    let listened = config.http.enabled.then_some(config.http.listen);
    let ports = listened.into_iter().chain(config.grpc.tcp.listen);
    let circumstances = Circumstances::of(ports.map(|address| address.port()));
    let reduced = privileges::give_up(circumstances)
        .map_err(|error| internal("cannot give up privileges", &error))?;
    info!("privileges: {reduced}");
    Ok(Loaded {
        sensor,
        wanted,
        on_gpus,
        has_gpus,
        capture,
    })
}

async fn supervise(
    config: &Config,
    detect: Detect,
    metrics: Arc<Metrics>,
    loaded: Loaded<'_>,
    source: Option<Source>,
) -> Result<(), DaemonError> {
    let Loaded {
        sensor,
        wanted,
        on_gpus,
        has_gpus,
        capture,
    } = loaded;
    let recording = capture.as_ref().map(|(recording, _)| *recording);
    let mut interrupt =
        signal(SignalKind::interrupt()).map_err(|error| internal("cannot watch SIGINT", &error))?;
    let mut hangup =
        signal(SignalKind::hangup()).map_err(|error| internal("cannot watch SIGHUP", &error))?;
    let mut terminate = signal(SignalKind::terminate())
        .map_err(|error| internal("cannot watch SIGTERM", &error))?;

    let health = Arc::new(Health::default());
    let (stop_http, http_stopped) = oneshot::channel::<()>();
    let mut servers = JoinSet::new();
    if config.http.enabled {
        let address = config.http.listen;
        let listener = api::bind(address)
            .await
            .map_err(|source| DaemonError::Listen { address, source })?;
        let bound = listener.local_addr().unwrap_or(address);
        info!("metrics and health on http://{bound}/metrics");
        let stopped = async {
            let _ = http_stopped.await;
        };
        servers.spawn(api::serve(
            listener,
            Arc::clone(&metrics),
            Arc::clone(&health),
            stopped,
        ));
    }

    let grpc = grpc::bind(&config.grpc).await?;

    let variables = detect.variables(&config.sensor.environment);
    if let Some(left_out) = variables
        .get(ENV_NAMES_MAX..)
        .filter(|names| !names.is_empty())
    {
        warn!(
            "rules and sensor.environment name more than {ENV_NAMES_MAX} environment variables; not recorded: {}",
            left_out.join(", ")
        );
    }
    report_hooks(sensor.status(), &metrics);
    let engine = Arc::clone(detect.engine());
    show_rules(&engine, &metrics);

    let log = AlertLog::open(config.alert_log.settings(), Arc::clone(&metrics))?;
    if !log.is_stored() {
        info!(
            "the alert log is in memory: alerts that no sink has delivered do not survive a restart"
        );
    }
    let hostname = hostname(config);
    let sinks = Sinks::start(config, &hostname, &log, &metrics);
    let (alerts, queue) = mpsc::channel(config.alert_log.queue_max);
    let appender = tokio::spawn(append(queue, log.clone(), Arc::clone(&metrics)));

    let cgroup_root = sensor.cgroup_root().try_clone_to_owned().ok();
    let (directory, ends) = Directory::new(config.containers.max, config.containers.bytes_max);
    let runtimes = config.containers.runtimes();
    if resolver::any_socket(&runtimes) {
        ends.present
            .store(true, std::sync::atomic::Ordering::Relaxed);
    } else {
        info!("no container runtime's socket was found: containers have ids and no names");
    }
    let runtime_waker = sensor.waker();
    let resolver = tokio::spawn(resolver::run(
        runtimes,
        ends,
        move || runtime_waker.wake(),
        Arc::clone(&metrics),
    ));
    let mut pipeline = Pipeline::new(
        config,
        &hostname,
        detect,
        cgroup_root,
        directory,
        sensor.accelerators().clone(),
        Arc::clone(&metrics),
    );
    let mut full = None;
    if let Some((recording, file)) = capture {
        let mut header = header(&sensor, &wanted);
        pipeline.describe(&mut header);
        let (tell, told) = oneshot::channel();
        let stop = || {
            // Whoever no longer listens has stopped already.
            let _ = tell.send(());
        };
        let writer = Writer::start(file, &header, recording.bytes_max, stop)
            .map_err(|error| recording.failed(error))?;
        pipeline.record_to(writer);
        full = Some(told);
    }
    let waker = sensor.waker();
    let (orders, ordered) = mpsc::channel(ORDERS_MAX);
    let (asks, asked) = mpsc::channel(reload::ASKS_MAX);
    let watchers = {
        let (orders, waker) = (orders.clone(), waker.clone());
        move |watcher| {
            let (done, taken) = oneshot::channel();
            orders.try_send(Order::Watch(watcher, done)).ok()?;
            waker.wake();
            Some(taken)
        }
    };
    let node = Arc::new(Node::new(
        &hostname,
        Arc::clone(&metrics),
        Arc::clone(&health),
        log.clone(),
        asks,
        Box::new(watchers),
    ));
    let status = sensor.status().to_vec();
    let (kinds, partly) = traced(&status, &sensor.wanted());
    node.set(|state| {
        state.probes = status;
        (state.traced, state.partly_traced) = (kinds, partly);
        state.rules = Some(engine);
        state.generation = 1;
    });
    let identity = grpc.identity();
    let mut services = JoinSet::new();
    services.spawn(grpc.serve(Arc::clone(&node)));
    let gpus = GpuSource {
        sampler: watch_gpus(config, waker.clone()),
        kinds: on_gpus,
        is_present: has_gpus,
        changed: show_change(&node, &metrics),
    };
    let (sensor_thread, stop_sensor, mut sensor_ended) = SensorThread::new(
        sensor,
        pipeline,
        gpus,
        alerts,
        Arc::clone(&metrics),
        Arc::clone(&health),
        ordered,
    );
    let thread = thread::Builder::new()
        .name("sensor".into())
        .spawn(move || sensor_thread.run())
        .map_err(|error| internal("cannot start the sensor thread", &error))?;

    let mut hung_up = None;
    match source {
        Some(source) => {
            let reloader = Reloader {
                source: Arc::new(source),
                running: config.clone(),
                node,
                orders,
                waker: waker.clone(),
                metrics: Arc::clone(&metrics),
                sinks: Arc::clone(&sinks),
                identity,
            };
            services.spawn(reloader.run(hangup, asked));
        }
        // The terminal or the session that started it went away: no reason to lose what it has seen.
        None => hung_up = Some(async move { hangup.recv().await }),
    }
    let died = tokio::select! {
        _ = interrupt.recv() => false,
        () = async {
            match hung_up {
                Some(hung_up) => drop(hung_up.await),
                None => pending().await,
            }
        } => false,
        _ = terminate.recv() => false,
        () = async {
            match full {
                Some(full) => drop(full.await),
                None => pending().await,
            }
        } => false,
        _ = &mut sensor_ended => true,
    };
    info!("stopping");
    stop_sensor.stop(&waker);
    let summary = tokio::task::spawn_blocking(move || thread.join())
        .await
        .map_err(|error| internal("cannot wait for the sensor thread", &error))?
        .map_err(|_| DaemonError::Internal {
            what: "the sensor thread panicked; this is a bug".into(),
        })?;

    resolver.abort();
    let _ = appender.await;
    log.close();
    let in_time = tokio::time::timeout(FLUSH, sinks.finish()).await.is_ok();
    let ending = log.clone();
    let left = tokio::task::spawn_blocking(move || ending.finish()).await;
    if !in_time {
        let left = left.unwrap_or(0);
        if log.is_stored() {
            warn!(
                "a sink did not deliver everything within {FLUSH:?}: it goes on at the next start; {left} alerts could not be stored"
            );
        } else {
            warn!("a sink did not deliver everything within {FLUSH:?}; {left} alerts are given up");
        }
    }
    // To their end: the socket's file goes with the one that listens on it.
    let _ = tokio::time::timeout(FLUSH, services.shutdown()).await;
    let _ = stop_http.send(());
    servers.abort_all();
    summarise(&summary, &metrics);
    if died {
        return Err(DaemonError::Internal {
            what: "the sensor thread ended by itself; the log above says why".into(),
        });
    }
    match (recording, summary.capture) {
        (Some(recording), Some(written)) => report_capture(&recording.path, &written),
        _ => Ok(()),
    }
}

/// What a capture says of this machine in front, as far as the sensor knows it.
fn header(sensor: &Sensor, wanted: &SensorConfig) -> Header {
    let read = |file: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.trim().to_owned()
    };
    let hooks = sensor.status().iter().filter(|status| status.wanted);
    Header {
        kernel: read("/proc/sys/kernel/osrelease"),
        machine: std::env::consts::ARCH.into(),
        hooks: hooks
            .map(|status| (status.kind.to_string(), status.hook.map(str::to_owned)))
            .collect(),
        opens: wanted.opens.clone(),
        ..Header::of_this_agent()
    }
}

/// Moves alerts from the sensor's channel into the log until the sensor is done.
async fn append(mut queue: mpsc::Receiver<Alert>, log: AlertLog, metrics: Arc<Metrics>) {
    let mut alerts = Vec::new();
    while queue.recv_many(&mut alerts, APPEND_MAX).await > 0 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = i64::try_from(now.unwrap_or_default().as_nanos()).unwrap_or(i64::MAX);
        let records: Vec<_> = alerts
            .drain(..)
            .map(|alert| {
                let priority = alert.priority.name();
                let counter = &metrics.delivery.alerts;
                counter.get_or_create(&PriorityName { priority }).inc();
                let since = now.saturating_sub(alert.time_ns());
                let since = Duration::from_nanos(since.try_into().unwrap_or(0));
                metrics.cost.stage("log", since);
                Record::new(&alert)
            })
            .collect();
        log.append(records);
    }
}

/// Starts to look at GPUs, where that is wanted.
fn watch_gpus(config: &Config, waker: Waker) -> Option<Sampler> {
    if !config.gpu.enabled {
        return None;
    }
    match Sampler::start(config.gpu.sampler(), move || waker.wake()) {
        Ok(sampler) => Some(sampler),
        Err(error) => {
            error!("GPUs are not watched: the thread for it cannot start: {error}");
            None
        }
    }
}

/// Tells clients and metrics that kinds of events are supplied from now on that were not.
fn show_change(node: &Arc<Node>, metrics: &Arc<Metrics>) -> gpus::Changed {
    let (node, metrics) = (Arc::clone(node), Arc::clone(metrics));
    Box::new(move |status, wish| {
        show_hooks(&status, &node.state().probes, &metrics);
        let (kinds, partly) = traced(&status, wish);
        node.set(|state| {
            state.probes = status;
            (state.traced, state.partly_traced) = (kinds, partly);
        });
    })
}

/// What is wanted besides while a GPU's driver is there. Nothing where GPUs are not looked at: no rule on them has an event then.
fn kinds_on_gpus(config: &Config, detect: &Detect) -> BTreeSet<Kind> {
    if config.gpu.enabled {
        detect.wanted().on_gpus
    } else {
        BTreeSet::new()
    }
}

/// What rules want of the kernel side.
fn wish(config: &Config, detect: &Detect) -> Wish {
    let mut wanted = detect.wanted();
    // Who loads the unpickler late is found by that.
    wanted.opens.modules |= wanted.kinds.contains(&Kind::Pickle);
    Wish {
        kinds: wanted.kinds,
        opens: wanted.opens,
        environment: detect.variables(&config.sensor.environment),
    }
}

fn sensor_config(config: &Config, detect: &Detect) -> SensorConfig {
    let wanted = wish(config, detect);
    SensorConfig {
        ring_bytes: config.sensor.ring_bytes,
        sheddable_ring_bytes: config.sensor.sheddable_ring_bytes,
        share: ShareLimit {
            events_per_s: config.sensor.cgroup_events_per_s,
            burst: config.sensor.cgroup_burst,
        },
        kinds: wanted.kinds,
        opens: wanted.opens,
        environment: wanted.environment,
        btf_path: config.sensor.btf.clone(),
        kernel_log: match config.sensor.kernel_log {
            KernelLog::Off => None,
            KernelLog::Error => Some(aya_log::Level::Error),
            KernelLog::Warn => Some(aya_log::Level::Warn),
            KernelLog::Info => Some(aya_log::Level::Info),
            KernelLog::Debug => Some(aya_log::Level::Debug),
            KernelLog::Trace => Some(aya_log::Level::Trace),
        },
        ..SensorConfig::default()
    }
}

/// The configured name, `SAKER_HOSTNAME` (in Kubernetes the node's name, by the downward API), or the host's own.
fn hostname(config: &Config) -> String {
    config
        .hostname
        .clone()
        .or_else(|| {
            std::env::var("SAKER_HOSTNAME")
                .ok()
                .filter(|name| !name.is_empty())
        })
        .or_else(|| {
            std::fs::read_to_string("/proc/sys/kernel/hostname")
                .ok()
                .map(|name| name.trim().to_owned())
        })
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".into())
}

fn internal(what: &str, error: &dyn std::error::Error) -> DaemonError {
    DaemonError::Internal {
        what: format!("{what}: {error}"),
    }
}
