//! The end of a wait: what container runtimes answer, what took too long, and the end of the agent.

use std::time::Instant;

use super::{COMPLETE, NOT_FOUND, Pipeline, Scene};
use crate::{
    alert::Alert,
    context::{outside::Note, runtime::Look},
    decode::decode,
};

/// Why a container's events wait no longer. The numbers are places in [`crate::metrics::INCOMPLETE_CAUSES`], and one less than those in
/// [`crate::metrics::HOLD_OUTCOMES`].
#[derive(Clone, Copy, Debug)]
pub(super) enum Ending {
    Timeout = 0,
    QueueFull = 1,
    Stopped = 3,
    /// Whatever the answer was.
    Answered,
}

impl Pipeline {
    /// Takes in what container runtimes have answered, and evaluates the events that waited for it or have waited long enough.
    /// Returns when the next wait is over.
    pub fn release(&mut self, alerts: &mut dyn FnMut(Alert)) -> Option<Instant> {
        let mut now_ns = self.clock.boot_ns();
        while let Some(id) = self.take_answer(now_ns, alerts) {
            let known = self
                .runtimes
                .known(&id)
                .map(|known| Box::new((**known).clone()));
            self.outside
                .note(|| Note::Runtime(now_ns, id.into(), known));
            now_ns = self.clock.boot_ns();
        }
        let now = Instant::now();
        while let Some(container) = self.hold.overdue(now) {
            self.end_hold(&container, Ending::Timeout, alerts);
            self.outside.note(|| Note::HoldOver(container.into()));
        }
        self.hold.next_due()
    }

    /// Takes in one answer of a container runtime, evaluates what waited for it, and says whose it was.
    pub(super) fn take_answer(
        &mut self,
        now_ns: u64,
        alerts: &mut dyn FnMut(Alert),
    ) -> Option<Box<str>> {
        let container = self.runtimes.next_answer(now_ns)?;
        if self.hold.holds(&container) {
            self.end_hold(&container, Ending::Answered, alerts);
        }
        Some(container)
    }

    /// Evaluates everything that still waits: there will be no more answers.
    pub fn release_all(&mut self, alerts: &mut dyn FnMut(Alert)) {
        self.late_hellos(u64::MAX, alerts);
        while let Some(container) = self.hold.oldest() {
            self.end_hold(&container, Ending::Stopped, alerts);
        }
    }

    /// Evaluates what a container held, in order.
    pub(super) fn end_hold(&mut self, id: &str, ending: Ending, alerts: &mut dyn FnMut(Alert)) {
        let look = self.runtimes.look(id, self.clock.boot_ns());
        let (container, outcome) = match (&look, ending) {
            (Look::Known(container), _) => (Some(&**container), COMPLETE),
            (_, Ending::Answered) => (None, NOT_FOUND),
            (_, ending) => (None, ending as usize),
        };
        if container.is_none() {
            self.runtimes.give_up(id);
        }
        for held in self.hold.take(id) {
            // It was decoded when it came; that it decodes again is certain.
            let Ok(event) = decode(&held.bytes) else {
                continue;
            };
            self.counts.held[match outcome {
                COMPLETE => 0,
                cause => cause + 1,
            }] += 1;
            if container.is_none() {
                self.counts.incomplete[outcome] += 1;
            }
            let scene = Scene {
                number: held.number,
                actor: None,
                past: held.actor.as_ref(),
                folder: held.folder.as_deref(),
                python: held.python.as_ref(),
                gpu: None,
                owner: &held.owner,
                container,
                incomplete: container.is_none_or(|container| container.cut),
            };
            self.evaluate(&event, &scene, alerts);
        }
    }
}
