//! A capture's way through the stages: what was recorded comes in where the ring and the machine did.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use super::{Clock, Ending, Pipeline, Place};
use crate::{
    alert::Alert,
    config::Config,
    context::{
        container::Containers,
        names::Names,
        outside::{Note, Outside, Totals},
        runtime::{
            Directory,
            directory::{Answer, Ends},
        },
    },
    detect::Detect,
    metrics::Metrics,
    source::{
        capture::{Frame, Header},
        devices::Accelerators,
    },
};

/// A pipeline over a capture.
#[derive(Debug)]
pub struct Replay {
    pipeline: Pipeline,
    /// The other ends of what would be the container runtimes.
    runtimes: Ends,
    totals: Option<Totals>,
    recorded_lost: u64,
    unreadable: u64,
}

/// What a replay could not do as the recording agent did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gaps {
    /// Questions to the machine that the recording agent did not ask.
    pub unanswered: u64,
    /// Notes and answers that make no sense.
    pub unreadable: u64,
}

impl Replay {
    /// A pipeline with these rules that knows nothing but what a capture's header says.
    pub fn new(config: &Config, header: &Header, detect: Detect, metrics: Arc<Metrics>) -> Self {
        let place = Place {
            hostname: header.hostname.clone(),
            own_tgid: header.own_tgid,
            containers: Containers::told(header.cgroup_root, header.has_cgroup_v1),
            names: Names::told(header.host_mount_ns),
            clock: Clock::told(header.epoch_offset_ns),
            outside: Outside::replaying(),
        };
        let (directory, runtimes) =
            Directory::new(config.containers.max, config.containers.bytes_max);
        let accelerators = Accelerators::recorded(Vec::new());
        Self {
            pipeline: Pipeline::at(place, config, detect, directory, accelerators, metrics),
            runtimes,
            totals: None,
            recorded_lost: 0,
            unreadable: 0,
        }
    }

    #[cfg(test)]
    pub(super) fn pipeline(&mut self) -> &mut Pipeline {
        &mut self.pipeline
    }

    /// Takes in what comes next.
    pub fn frame(&mut self, frame: Frame<'_>, alerts: &mut dyn FnMut(Alert)) {
        match frame {
            Frame::Record(bytes) => {
                if let Some(ts_ns) = crate::decode::moment(bytes) {
                    self.pipeline.clock.tell(ts_ns);
                }
                self.pipeline.record(bytes, alerts);
                // Nobody is there to ask; what was answered is in the capture.
                while self.runtimes.requests.try_recv().is_ok() {}
            }
            Frame::Answer(bytes) => self.pipeline.outside.learn(bytes),
            Frame::Note(bytes) => match postcard::from_bytes(bytes) {
                Ok(note) => self.note(note, alerts),
                Err(_) => self.unreadable += 1,
            },
        }
    }

    fn note(&mut self, note: Note, alerts: &mut dyn FnMut(Alert)) {
        let pipeline = &mut self.pipeline;
        // The others come in the midst of a record, whose answers have yet to be asked for.
        let is_whole = matches!(
            note,
            Note::Runtime(..)
                | Note::HoldOver(_)
                | Note::Lost(..)
                | Note::Internal(..)
                | Note::End(_)
                | Note::Gpus(_)
        );
        match note {
            Note::Process(seed) => {
                let now_ns = pipeline.clock.boot_ns();
                pipeline.table.add(seed, now_ns);
            }
            Note::Scanned => pipeline.table.link_parents(),
            Note::Clock(epoch_offset_ns) => pipeline.clock.epoch_offset_ns = epoch_offset_ns,
            Note::Drivers(drivers) => {
                pipeline.accelerators = Accelerators::recorded(drivers);
            }
            Note::Accounts(mount_ns, accounts) => pipeline.names.tell(mount_ns, accounts),
            Note::RuntimesPresent(present) => self.runtimes.present.store(present, Relaxed),
            Note::Runtime(now_ns, id, container) => {
                pipeline.clock.tell(now_ns);
                let answer = Answer {
                    id: id.into(),
                    container: container.map(Arc::from),
                };
                // It is taken out at once, so there is always room.
                let _ = self.runtimes.answers.try_send(answer);
                pipeline.take_answer(now_ns, alerts);
            }
            Note::HoldOver(container) => {
                pipeline.end_hold(&container, Ending::Timeout, alerts);
            }
            Note::Lost(now_ns, count, cause, cgroup_id) => {
                pipeline.clock.tell(now_ns);
                self.recorded_lost = self.recorded_lost.saturating_add(count);
                pipeline.lost(count, &cause, cgroup_id, alerts);
            }
            Note::Internal(now_ns, what, text) => {
                pipeline.clock.tell(now_ns);
                pipeline.internal(&what, &text, alerts);
            }
            Note::Gpus(sample) => {
                pipeline.clock.tell(sample.taken_ns);
                pipeline.gpus(&sample, alerts);
            }
            Note::End(totals) => {
                pipeline.release_all(alerts);
                self.totals = Some(totals);
            }
        }
        if is_whole {
            self.pipeline.outside.done();
        }
    }

    /// Evaluates what still waits, which in a whole capture nothing does, and publishes metrics.
    pub fn finish(&mut self, alerts: &mut dyn FnMut(Alert)) {
        self.pipeline.release_all(alerts);
        self.pipeline.summarise(true, alerts);
        self.pipeline.tick();
    }

    /// What went through so far.
    pub fn counts(&self) -> super::Counts {
        self.pipeline.counts()
    }

    /// What the recording agent counted; `None` where the capture has no end.
    pub fn totals(&self) -> Option<Totals> {
        self.totals
    }

    /// Events that the recording agent lost, as far as the capture goes.
    pub fn recorded_lost(&self) -> u64 {
        self.recorded_lost
    }

    /// What could not be done as it was.
    pub fn gaps(&self) -> Gaps {
        let (unanswered, unusable) = self.pipeline.outside.gaps();
        Gaps {
            unanswered,
            unreadable: self.unreadable + unusable,
        }
    }
}
