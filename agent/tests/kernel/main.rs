//! Every hook of the sensor on the real kernel, each with a real act. Needs root; says so and passes without.
//!
//! One binary, a file a hook family; what they share is here.

mod books;
mod cgroup;
mod connect;
mod device;
mod file;
#[cfg(target_arch = "x86_64")]
mod file32;
mod identity;
mod machine;
mod network;
mod process;
mod python;
mod rings;
mod sockets;
mod tls;
mod uring;

use std::collections::VecDeque;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use saker::decode::decode;
use saker::event::{Body, Event, Exec};
use saker::source::{Kind, Sensor, SensorConfig, SensorError};

/// How long an event may take before the test fails. Far longer than it ever takes.
const DEADLINE: Duration = Duration::from_secs(20);

/// A loaded sensor, and what it has shown so far.
struct Watch {
    /// The sensor.
    sensor: Sensor,
    /// Drained, and not looked at yet.
    waiting: VecDeque<Vec<u8>>,
    /// Looked at, in words, for the message of a test that fails.
    seen: Vec<String>,
}

/// Loads a sensor that also reports this process; `None`, with a visible line, where the machine does not allow it.
fn watch(config: SensorConfig) -> Option<Watch> {
    match Sensor::load(&SensorConfig {
        own_tgid: 0,
        ..config
    }) {
        Ok(sensor) => {
            saker_tests::needs_root();
            Some(Watch {
                sensor,
                waiting: VecDeque::new(),
                seen: Vec::new(),
            })
        }
        Err(error @ (SensorError::NotPermitted { .. } | SensorError::Refused { .. })) => {
            saker_tests::skip(&error.to_string());
            None
        }
        Err(error) => panic!("{error}"),
    }
}

impl Watch {
    /// Waits for an event that `wanted` makes something of. Those after it are left for the next call.
    fn until<T>(&mut self, what: &str, mut wanted: impl FnMut(&Event<'_>) -> Option<T>) -> T {
        let end = Instant::now() + DEADLINE;
        loop {
            while let Some(record) = self.waiting.pop_front() {
                let event = decode(&record).expect("the kernel's records decode");
                if let Some(found) = wanted(&event) {
                    return found;
                }
                if self.seen.len() < 200 {
                    self.seen.push(format!("{event:?}"));
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "no {what} came; these did: {:#?}",
                self.seen
            );
            self.sensor.poll(left).expect("poll");
            let waiting = &mut self.waiting;
            self.sensor
                .drain(256, &mut |record| waiting.push_back(record.to_vec()));
        }
    }

    /// Detaches, and hands out everything that is left.
    fn finish(&mut self, f: &mut dyn FnMut(&Event<'_>)) {
        self.sensor.detach().expect("detach");
        for record in self.waiting.drain(..) {
            f(&decode(&record).expect("the kernel's records decode"));
        }
        while self.sensor.drain(1000, &mut |record| {
            f(&decode(record).expect("the kernel's records decode"));
        }) > 0
        {}
    }
}

fn kinds(kinds: &[Kind]) -> SensorConfig {
    SensorConfig {
        kinds: kinds.iter().copied().collect(),
        ring_bytes: 1 << 20,
        sheddable_ring_bytes: 8 << 20,
        ..SensorConfig::default()
    }
}

/// The exec event of the process `pid`.
fn exec_of<T>(watch: &mut Watch, pid: u32, mut f: impl FnMut(&Event<'_>, &Exec<'_>) -> T) -> T {
    watch.until("exec", |event| match &event.body {
        Body::Exec(exec) if event.tgid == pid => Some(f(event, exec)),
        _ => None,
    })
}

/// Is the kernel this new? Some hooks need a newer one than the agent itself.
fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
    let mut numbers = release.split(['.', '-', '+']).map(str::parse::<u32>);
    let mut next = || numbers.next().expect("a number").expect("a number");
    (next(), next()) >= (major, minor)
}

fn run(command: &mut Command) -> u32 {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("spawn");
    child.wait().expect("wait");
    child.id()
}

fn owned(argv: &Exec<'_>) -> Vec<Vec<u8>> {
    argv.argv.iter().map(<[u8]>::to_vec).collect()
}
