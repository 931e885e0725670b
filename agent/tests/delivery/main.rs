//! Delivery as a whole: the alert log with real sinks and real other sides, without a kernel. A file for each kind of trouble.

mod crash;
mod disk;
mod flood;
mod http;
mod nats;
mod ocsf;
mod rsyslog;
mod server;

use std::{path::Path, sync::Arc, time::Duration};

use saker::{
    alert::{Alert, RuleInfo},
    log::{AlertLog, Record, Settings},
    metrics::{Metrics, SinkName},
    sink::{
        Format,
        deliver::{self, Common, Target},
        filter::Filter,
    },
};
use saker_rules::ruleset::Priority;
use serde_json::Map;
use tokio::task::JoinHandle;

/// Longest wait for anything; a test that waits this long has failed.
const DEADLINE: Duration = Duration::from_secs(60);

/// An alert that can be told from others by its number.
fn alert(number: u64) -> Record {
    let rule = RuleInfo {
        name: &format!("rule {number}"),
        priority: Priority::Warning,
        source: "syscall",
        tags: &["ml".to_owned()],
    };
    let text = format!("something happened (number={number})");
    let fields = Map::from_iter([
        (
            "proc.cmdline".to_owned(),
            "python3 train.py --epochs 10".into(),
        ),
        ("number".to_owned(), number.into()),
    ]);
    let time_ns = 1_700_000_000_000_000_000 + i64::try_from(number).expect("a small number");
    let mut alert = Alert::new("node", time_ns, rule, &text, fields);
    alert.id = format!("{number:032x}");
    Record::new(&alert)
}

fn number(text: &str) -> Option<u64> {
    let alert: serde_json::Value = serde_json::from_str(text).ok()?;
    alert["output_fields"]["number"].as_u64()
}

fn settings(directory: Option<&Path>) -> Settings {
    Settings {
        directory: directory.map(Into::into),
        bytes_max: 1 << 30,
        age_max: Duration::from_secs(3600),
        memory_bytes_max: 16 << 20,
        sync: Duration::from_millis(200),
    }
}

fn open(directory: &Path) -> (AlertLog, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new());
    let log = AlertLog::open(settings(Some(directory)), Arc::clone(&metrics)).expect("it opens");
    (log, metrics)
}

fn in_memory() -> (AlertLog, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new());
    (AlertLog::in_memory(64 << 20, Arc::clone(&metrics)), metrics)
}

/// Starts a sink with short pauses.
fn start(
    log: &AlertLog,
    name: &str,
    target: impl Target + 'static,
    metrics: &Arc<Metrics>,
) -> JoinHandle<()> {
    // What a sink says of its trouble is shown with a test that fails.
    let _ = tracing_subscriber::fmt().with_test_writer().try_init();
    let common = Common {
        format: Format::Json,
        filter: Filter::default(),
        pause_max: Duration::from_millis(300),
    };
    tokio::spawn(deliver::run(
        log.reader(name),
        common,
        target,
        Arc::clone(metrics),
    ))
}

/// Settings of a sink as a configuration has them.
fn parse<S: serde::de::DeserializeOwned>(yaml: &str) -> S {
    serde_saphyr::from_str(yaml).expect(yaml)
}

async fn finish(log: &AlertLog, sinks: Vec<JoinHandle<()>>) -> u64 {
    log.close();
    for sink in sinks {
        tokio::time::timeout(DEADLINE, sink)
            .await
            .expect("a sink ends when it has delivered all")
            .expect("no sink panics");
    }
    let log = log.clone();
    tokio::task::spawn_blocking(move || log.finish())
        .await
        .expect("the log ends")
}

/// Waits until something holds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !holds() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "not in time: {what}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A sink's counts: delivered, failed, dead letters, missed.
fn counts(metrics: &Metrics, sink: &str) -> [u64; 4] {
    let sink = SinkName { sink: sink.into() };
    let delivery = &metrics.delivery;
    [
        &delivery.sink_alerts,
        &delivery.sink_errors,
        &delivery.sink_dead_letters,
        &delivery.sink_missed,
    ]
    .map(|counter| counter.get_or_create(&sink).get())
}
