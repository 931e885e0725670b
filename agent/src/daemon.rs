//! Wires all stages: the sensor thread, the alert log, the sinks, the endpoint; starts them, and stops them in order.
//!
//! One plain thread owns the ring and the pipeline. It hands alerts to the log by a bounded channel and waits for nobody.
//! Stopping goes with the flow: the probes are detached, the ring is drained, the channel is closed, the sinks read the log
//! to its end, and only then does the process end.

mod losses;
mod sensor_thread;

use std::{future::pending, io, path::PathBuf, sync::Arc, thread, time::Duration};

use saker_ebpf::config::ENV_NAMES_MAX;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tracing::{error, info, warn};

use crate::{
    alert::Alert,
    api::{self, Health},
    config::{Config, KernelLog},
    context::runtime::{Directory, resolver},
    detect::Detect,
    log::AlertLog,
    metrics::{DROP_CAUSES, KindHook, Metrics},
    pipeline::Pipeline,
    sink,
    source::{
        Kind, Sensor, SensorConfig, SensorError, ShareLimit,
        capture::{CaptureError, Header, Writer, Written},
        privileges::is_in_host_pid_namespace,
    },
};
use sensor_thread::{SensorThread, Summary};

/// What the names of libraries end with that programs load while they run, Python's `_pickle` among them.
const LIBRARY: &[u8] = b".so";

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

/// Runs until SIGINT or SIGTERM, or until a recording is full; returns once everything raised is delivered or given up.
pub fn run(
    config: &Config,
    detect: Detect,
    metrics: Arc<Metrics>,
    recording: Option<&Recording>,
) -> Result<(), DaemonError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| internal("cannot start the async runtime", &error))?;
    let outcome = runtime.block_on(supervise(config, detect, metrics, recording));
    // A write to a stuck stdout cannot be cancelled; the process must end all the same.
    runtime.shutdown_background();
    outcome
}

async fn supervise(
    config: &Config,
    detect: Detect,
    metrics: Arc<Metrics>,
    recording: Option<&Recording>,
) -> Result<(), DaemonError> {
    let mut interrupt =
        signal(SignalKind::interrupt()).map_err(|error| internal("cannot watch SIGINT", &error))?;
    // The terminal or the session that started the agent went away: no reason to lose what it has seen.
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
    // Everything the kernel refuses is refused here, before anything is promised.
    let wanted = sensor_config(config, &detect);
    let sensor = Sensor::load(&wanted)?;
    report_hooks(&sensor, &metrics);

    let log = AlertLog::in_memory(config.alert_log.bytes_max, Arc::clone(&metrics));
    info!("the alert log is in memory: alerts that no sink has delivered do not survive a restart");
    let mut sinks = JoinSet::new();
    if config.stdout.enabled {
        sinks.spawn(sink::stdout::run(
            log.reader(),
            config.stdout.format,
            Arc::clone(&metrics),
        ));
    }
    let (alerts, queue) = mpsc::channel(config.alert_log.queue_max);
    let appender = tokio::spawn(append(queue, log.clone(), Arc::clone(&metrics)));

    let hostname = hostname(config);
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
    if let Some(recording) = recording {
        let mut header = header(&sensor, &wanted);
        pipeline.describe(&mut header);
        let (tell, told) = oneshot::channel();
        let stop = || {
            // Whoever no longer listens has stopped already.
            let _ = tell.send(());
        };
        let writer = Writer::create(&recording.path, &header, recording.bytes_max, stop).map_err(
            |source| DaemonError::Capture {
                path: recording.path.clone(),
                source,
            },
        )?;
        pipeline.record_to(writer);
        full = Some(told);
    }
    let waker = sensor.waker();
    let (sensor_thread, stop_sensor, mut sensor_ended) = SensorThread::new(
        sensor,
        pipeline,
        alerts,
        Arc::clone(&metrics),
        Arc::clone(&health),
    );
    let thread = thread::Builder::new()
        .name("sensor".into())
        .spawn(move || sensor_thread.run())
        .map_err(|error| internal("cannot start the sensor thread", &error))?;

    let died = tokio::select! {
        _ = interrupt.recv() => false,
        _ = hangup.recv() => false,
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
    if tokio::time::timeout(FLUSH, async { while sinks.join_next().await.is_some() {} })
        .await
        .is_err()
    {
        warn!(
            "a sink did not deliver everything within {FLUSH:?}; {} alerts are given up",
            log.abandon()
        );
    }
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

fn report_capture(path: &std::path::Path, written: &Written) -> Result<(), DaemonError> {
    let Written {
        records,
        bytes,
        left_out,
        too_long,
        error,
    } = written;
    info!(
        "captured: records={records} bytes={bytes} left_out={left_out} too_long={too_long} in {}",
        path.display()
    );
    let Some(error) = error else {
        if *left_out > 0 {
            warn!("the capture has its greatest length; --bytes-max allows another");
        }
        return Ok(());
    };
    Err(DaemonError::Capture {
        path: path.into(),
        source: CaptureError::Io {
            attempt: "write the capture",
            source: io::Error::other(error.clone()),
        },
    })
}

/// Moves alerts from the sensor's channel into the log until the sensor is done.
async fn append(mut queue: mpsc::Receiver<Alert>, log: AlertLog, metrics: Arc<Metrics>) {
    while let Some(alert) = queue.recv().await {
        let priority = format!("{:?}", alert.priority);
        metrics
            .alerts
            .get_or_create(&crate::metrics::PriorityName { priority })
            .inc();
        log.append(alert);
    }
}

fn sensor_config(config: &Config, detect: &Detect) -> SensorConfig {
    let mut wanted = detect.wanted();
    if wanted.kinds.contains(&Kind::Pickle)
        && !wanted.opens.extensions.iter().any(|known| known == LIBRARY)
    {
        // Who loads the unpickler late is found by that.
        wanted.opens.extensions.push(LIBRARY.to_vec());
    }
    SensorConfig {
        ring_bytes: config.sensor.ring_bytes,
        sheddable_ring_bytes: config.sensor.sheddable_ring_bytes,
        share: ShareLimit {
            events_per_s: config.sensor.cgroup_events_per_s,
            burst: config.sensor.cgroup_burst,
        },
        kinds: wanted.kinds,
        opens: wanted.opens,
        environment: detect.variables(&config.sensor.environment),
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

/// What this node does not offer is said once, with its cost; the rest goes on.
fn report_hooks(sensor: &Sensor, metrics: &Metrics) {
    for status in sensor.status().iter().filter(|status| status.wanted) {
        let hook = status.hook.unwrap_or("none");
        let attached = KindHook {
            kind: status.kind.to_string(),
            hook: hook.to_owned(),
        };
        metrics
            .probe_attached
            .get_or_create(&attached)
            .set(i64::from(status.hook.is_some()));
        for refusal in &status.refused {
            warn!(
                "{} by {} is not possible here: {}",
                status.kind, refusal.hook, refusal.reason
            );
        }
        for lost in &status.lost {
            warn!("{} ({hook}): {lost}", status.kind);
        }
        if status.hook.is_none() {
            error!(
                "{}: no hook supplies these events on this node; rules that need them stay silent",
                status.kind
            );
        }
    }
    if !is_in_host_pid_namespace() {
        warn!(
            "not in the host's pid namespace: processes that started before the agent have no names (in Kubernetes: hostPID: true)"
        );
    }
}

fn summarise(summary: &Summary, metrics: &Metrics) {
    let count = |cause: &str| {
        metrics
            .alerts_dropped
            .get_or_create(&crate::metrics::Cause {
                cause: cause.into(),
            })
            .get()
    };
    let dropped: u64 = DROP_CAUSES.iter().map(|cause| count(cause)).sum();
    info!(
        "stopped: {summary} alerts={} alerts_dropped={dropped}",
        summary.alerts
    );
    if summary.lost() > 0 {
        error!("{} events were lost: {}", summary.lost(), summary.causes());
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
