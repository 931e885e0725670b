//! What the pipeline counts, as metrics.

use super::{Pipeline, UNRESOLVED};
use crate::metrics::{
    Cause, HOLD_OUTCOMES, INCOMPLETE_CAUSES, Kind, Outcome, State, level, raise_to,
};

impl Pipeline {
    /// Brings the metrics up to date.
    pub(super) fn publish(&mut self) {
        for (index, kind) in crate::event::TYPES.iter().enumerate() {
            let new = self.counts.kinds[index] - self.published.kinds[index];
            if new > 0 {
                self.metrics
                    .events
                    .get_or_create(&Kind {
                        kind: (*kind).into(),
                    })
                    .inc_by(new);
            }
        }
        for (index, outcome) in HOLD_OUTCOMES.iter().enumerate() {
            let counter = self
                .metrics
                .held_events_ended
                .get_or_create(&Outcome { outcome });
            raise_to(&counter, self.counts.held[index]);
        }
        for (index, cause) in INCOMPLETE_CAUSES.iter().enumerate() {
            let cause = (*cause).into();
            let counter = self
                .metrics
                .incomplete_events
                .get_or_create(&Cause { cause });
            raise_to(&counter, self.counts.incomplete[index]);
        }
        raise_to(
            &self.metrics.cgroups_unresolved,
            self.counts.incomplete[UNRESOLVED],
        );
        self.published = self.counts;
        let (live, exited, evicted) = self.table.sizes();
        self.metrics
            .processes
            .get_or_create(&State { state: "live" })
            .set(level(live));
        self.metrics
            .processes
            .get_or_create(&State { state: "exited" })
            .set(level(exited));
        raise_to(&self.metrics.processes_evicted, evicted);
        self.metrics.containers.set(level(self.containers.len()));
        self.metrics.held_events.set(level(self.hold.len()));
        let (known, bytes, forgotten) = self.runtimes.sizes();
        self.metrics.container_metadata.set(level(known));
        self.metrics.container_metadata_bytes.set(level(bytes));
        raise_to(&self.metrics.container_metadata_evicted, forgotten);
        let (_, forgotten, _) = self.names.sizes();
        raise_to(&self.metrics.names_evicted, forgotten);
        self.network.publish(&self.metrics);
    }
}
