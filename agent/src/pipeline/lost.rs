//! What the agent tells of itself, as events: those that it lost, and what happened inside it.

use super::{Pipeline, Scene};
use crate::{
    alert::Alert,
    context::{
        container::{Owner, ProcessKey},
        outside::Note,
        runtime::Look,
    },
    event::{Body, Event, Internal, Lost},
};

/// Bytes of what is told of something inside the agent.
const TEXT_BYTES_MAX: usize = 1024;

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
            gpu: None,
            owner: &owner,
            container,
            incomplete: owner != Owner::Host && container.is_none(),
        };
        self.evaluate(&event, &scene, alerts);
        self.outside
            .note(|| Note::Lost(now_ns, count, cause.to_owned(), cgroup_id));
    }

    /// Raises an event about something inside the agent. Of the text what fits is told.
    pub fn internal(&mut self, what: &str, text: &str, alerts: &mut dyn FnMut(Alert)) {
        let now_ns = self.clock.boot_ns();
        let text = &text[..text.floor_char_boundary(TEXT_BYTES_MAX)];
        let event = Event::internal(
            now_ns,
            self.own_tgid,
            Body::Internal(Internal { what, text }),
        );
        self.number += 1;
        let scene = Scene {
            number: self.number,
            actor: None,
            past: None,
            folder: None,
            python: None,
            gpu: None,
            owner: &Owner::Host,
            container: None,
            incomplete: false,
        };
        self.evaluate(&event, &scene, alerts);
        self.outside
            .note(|| Note::Internal(now_ns, what.to_owned(), text.to_owned()));
    }
}
