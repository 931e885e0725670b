//! What the tests on the real kernel share: load a sensor or say why not, act, and await an event.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use saker::decode::decode;
use saker::event::Event;
use saker::source::{Sensor, SensorConfig, SensorError};

/// How long an event may take before the test fails. Far longer than it ever takes.
const DEADLINE: Duration = Duration::from_secs(20);

/// A loaded sensor, and what it has shown so far.
pub struct Watch {
    /// The sensor.
    pub sensor: Sensor,
    /// Drained, and not looked at yet.
    waiting: VecDeque<Vec<u8>>,
    /// Looked at, in words, for the message of a test that fails.
    seen: Vec<String>,
}

/// Loads a sensor that also reports this process; `None`, with a visible line, where the machine does not allow it.
pub fn watch(config: SensorConfig) -> Option<Watch> {
    match Sensor::load(&SensorConfig {
        own_tgid: 0,
        ..config
    }) {
        Ok(sensor) => Some(Watch {
            sensor,
            waiting: VecDeque::new(),
            seen: Vec::new(),
        }),
        Err(error @ (SensorError::NotPermitted { .. } | SensorError::Refused { .. })) => {
            saker_tests::skip(&error.to_string());
            None
        }
        Err(error) => panic!("{error}"),
    }
}

impl Watch {
    /// Waits for an event that `wanted` makes something of. Those after it are left for the next call.
    pub fn until<T>(&mut self, what: &str, mut wanted: impl FnMut(&Event<'_>) -> Option<T>) -> T {
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
    pub fn finish(&mut self, f: &mut dyn FnMut(&Event<'_>)) {
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
