//! Many alerts and a sink that is stuck: nobody waits for it, memory stays bounded, and it catches up.
//!
//! Short here; `cargo xtask bench delivery` runs it for a minute and prints what was measured.

use std::time::{Duration, Instant};

use saker::{
    log::{AlertLog, Settings},
    sink::deliver::{Failure, Message, Progress, Target},
};
use tokio::sync::mpsc;

use super::{alert, counts, finish, settings, start, until};

/// Takes everything, once it is let.
struct Gate {
    is_open: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl Target for Gate {
    async fn deliver(&mut self, messages: &[Message]) -> Progress {
        if self.is_open.load(std::sync::atomic::Ordering::Relaxed) {
            Progress::all(messages.len())
        } else {
            Progress::until(0, Failure::retry("stuck"))
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    let wanted = std::env::var(name).ok();
    wanted
        .and_then(|number| number.parse().ok())
        .unwrap_or(default)
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("it is there");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.expect("a number") << 10
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stuck_sink_holds_nobody_up_and_catches_up() {
    let (seconds, rate) = (
        number("SAKER_TEST_FLOOD_SECONDS", 2),
        number("SAKER_TEST_FLOOD_RATE", 5000),
    );
    let folder = tempfile::tempdir().expect("a folder");
    let metrics = std::sync::Arc::new(saker::metrics::Metrics::new());
    let settings = Settings {
        bytes_max: 4 << 30,
        memory_bytes_max: 64 << 20,
        ..settings(Some(folder.path()))
    };
    let log = AlertLog::open(settings, std::sync::Arc::clone(&metrics)).expect("it opens");
    let gate = || std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (stuck, free) = (gate(), gate());
    free.store(true, std::sync::atomic::Ordering::Relaxed);
    let is_open = std::sync::Arc::clone(&stuck);
    let sinks = vec![
        start(&log, "stuck", Gate { is_open }, &metrics),
        start(&log, "free", Gate { is_open: free }, &metrics),
    ];
    // As the daemon has it: a bounded channel from the sensor, which never waits.
    let (sender, mut queue) = mpsc::channel(8192);
    let appending = log.clone();
    let appender = tokio::spawn(async move {
        let mut records = Vec::new();
        while queue.recv_many(&mut records, 512).await > 0 {
            appending.append(std::mem::take(&mut records));
        }
    });
    let before = resident_bytes();
    let sensor = std::thread::spawn(move || {
        let begun = Instant::now();
        let (mut offered, mut refused, mut peak) = (0_u64, 0_u64, 0);
        let total = seconds * rate;
        while offered < total {
            let due = (begun.elapsed().as_secs_f64() * rate as f64) as u64;
            while offered < due.min(total) {
                offered += 1;
                refused += u64::from(sender.try_send(alert(offered)).is_err());
            }
            peak = peak.max(resident_bytes());
            std::thread::sleep(Duration::from_millis(2));
        }
        (offered, refused, peak, begun.elapsed())
    });
    let (offered, refused, peak, took) = tokio::task::spawn_blocking(|| sensor.join())
        .await
        .expect("it is waited for")
        .expect("no panic");
    appender.await.expect("no panic");
    until("the free one has all", || {
        counts(&metrics, "free")[0] == offered - refused
    })
    .await;
    assert_eq!(counts(&metrics, "stuck")[0], 0);
    let begun = Instant::now();
    stuck.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(finish(&log, sinks).await, 0);
    let catching_up = begun.elapsed();
    println!(
        "{offered} alerts in {took:.1?} ({:.0} a second): {refused} refused, {} dropped by the log; memory {} MiB before, {} MiB at its peak; the stuck sink caught up in {catching_up:.1?} ({:.0} a second); {} MiB of files",
        offered as f64 / took.as_secs_f64(),
        metrics.delivery.count_of("log_full"),
        before >> 20,
        peak >> 20,
        offered as f64 / catching_up.as_secs_f64(),
        metrics.delivery.log_bytes.get() >> 20,
    );
    assert_eq!(refused, 0, "the sensor was held up");
    assert_eq!(metrics.delivery.count_of("log_full"), 0);
    assert_eq!(counts(&metrics, "stuck")[0], offered);
    assert!(peak - before < 160 << 20, "{} MiB", (peak - before) >> 20);
}
