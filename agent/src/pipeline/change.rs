//! What changes while a pipeline is at work: rules, how alerts are passed on, drivers, interpreters, who watches. Each holds from the next event on.

use std::sync::Arc;

use super::Pipeline;
use crate::{
    alert::{Alert, hygiene::Limits},
    context::outside::Note,
    detect::Detect,
    redact::Redactor,
    source::{devices::Accelerators, python::interpreters::Interpreters},
    watch::Watcher,
};

/// How alerts are passed on.
#[derive(Debug)]
pub struct Delivery {
    /// How often the same may be said.
    pub limits: Limits,
    /// What replaces credentials.
    pub redactor: Option<Redactor>,
    /// Whether a sink tells more of an alert than its rule does.
    pub with_context: bool,
}

impl Pipeline {
    /// The devices that have names, when a driver came or went.
    pub fn set_accelerators(&mut self, accelerators: Accelerators) {
        let drivers = || Note::Drivers(accelerators.drivers().to_vec());
        self.outside.note(drivers);
        self.accelerators = accelerators;
    }

    /// Where versions of interpreters are known, if anywhere.
    pub fn set_interpreters(&mut self, interpreters: Option<Arc<Interpreters>>) {
        self.interpreters = interpreters;
    }

    /// Other rules from the next event on; returns the old ones. What they remember of sequences and durations goes with them.
    pub fn set_detect(&mut self, mut detect: Detect) -> Detect {
        detect.tell_context(self.detect.tells_context());
        self.device_opens.renumber(&self.detect.places_in(&detect));
        std::mem::replace(&mut self.detect, detect)
    }

    /// Alerts are passed on otherwise from the next one on. Summaries of what was counted so far are handed on.
    pub fn set_delivery(&mut self, delivery: Delivery, alerts: &mut dyn FnMut(Alert)) {
        self.detect.tell_context(delivery.with_context);
        self.redactor = delivery.redactor;
        let now_ns = self.clock.epoch_ns();
        let mut count = 0;
        self.hygiene.limit(delivery.limits, now_ns, &mut |alert| {
            count += 1;
            alerts(alert);
        });
        self.counts.alerts += count;
    }

    /// Other environment variables are recorded of processes that start from now on.
    pub fn set_variables(&mut self, variables: Vec<String>) {
        self.variables = variables;
    }

    /// Somebody watches.
    pub fn watch(&mut self, watcher: Watcher) {
        self.watchers.add(watcher);
    }
}
