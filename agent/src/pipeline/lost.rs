//! Events that the agent lost, as an event of their own.

use super::{Pipeline, Scene};
use crate::{
    alert::Alert,
    context::{
        container::{Owner, ProcessKey},
        outside::Note,
        runtime::Look,
    },
    event::{Body, Event, Lost},
};

impl Pipeline {
    /// Raises an event about events that were lost. `cgroup_id`: most of them were this cgroup's.
    pub fn lost(
        &mut self,
        count: u64,
        cause: &str,
        cgroup_id: Option<u64>,
        alerts: &mut dyn FnMut(Alert),
    ) {
        let now_ns = self.clock.boot_ns();
        let event = Event::internal(now_ns, self.own_tgid, Body::Lost(Lost { count, cause }));
        self.number += 1;
        // No process is known, only where it was.
        let nobody = ProcessKey {
            tgid: 0,
            start_ns: 0,
        };
        let owner = cgroup_id.map_or(Owner::Host, |cgroup_id| {
            self.containers
                .resolve(&self.outside, cgroup_id, nobody, false)
        });
        let look = owner.runtime_id().map(|id| {
            self.outside.runtimes_present(self.runtimes.is_present());
            self.runtimes.look(id, now_ns)
        });
        let container = match &look {
            Some(Look::Known(container)) => Some(&**container),
            _ => None,
        };
        let scene = Scene {
            number: self.number,
            actor: None,
            past: None,
            folder: None,
            python: None,
            owner: &owner,
            container,
            incomplete: owner != Owner::Host && container.is_none(),
        };
        self.evaluate(&event, &scene, alerts);
        self.outside
            .note(|| Note::Lost(now_ns, count, cause.to_owned(), cgroup_id));
    }
}
