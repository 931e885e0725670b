//! The sensor thread's side: what is known of each container, what was asked for, and what was given up.
//!
//! Bounded by entries and bytes; the container that was needed longest ago goes first, and is asked for again should it
//! come back. That keeps removed containers for their late events as long as there is room.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use rustc_hash::FxHashMap;
use tokio::sync::mpsc;

use super::metadata::Container;

/// Questions under way; beyond it containers are asked for with their next event.
pub const REQUESTS_MAX: usize = 4096;
/// Answers under way; beyond it the resolver waits.
pub const ANSWERS_MAX: usize = 1024;

/// How long a container that no runtime knew is not asked for again, in nanoseconds of the event clock: each time twice as
/// long, up to the longest.
const ASK_AGAIN_NS: u64 = 2_000_000_000;
const ASK_AGAIN_DOUBLED_MAX: u32 = 5;

/// A question for a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The full id.
    pub id: Box<str>,
    /// Whether events wait for the answer. Else it was not found before, and once is enough.
    pub patient: bool,
}

/// What a runtime said about an id.
#[derive(Debug)]
pub struct Answer {
    /// The full id.
    pub id: Box<str>,
    /// `None`: nobody knows it, or nobody answered.
    pub container: Option<Arc<Container>>,
}

/// What is known of a container now.
#[derive(Clone, Debug)]
pub enum Look {
    /// All of it.
    Known(Arc<Container>),
    /// A runtime is being asked, and an answer is worth waiting for.
    Asked,
    /// Nothing; waiting is no use.
    Unknown(Why),
}

/// Why nothing is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// No runtime's socket is there.
    NoRuntime,
    /// The time is over, and no answer has come.
    Late,
    /// No runtime knows the id.
    NotFound,
}

#[derive(Debug)]
enum State {
    Known(Arc<Container>),
    /// Asked; `patient` while events wait for it.
    Asked {
        patient: bool,
        /// How often it was not found before.
        times: u32,
    },
    NotFound {
        at_ns: u64,
        times: u32,
    },
}

#[derive(Debug)]
struct Entry {
    state: State,
    /// When it was last looked at, nanoseconds of the event clock.
    used_ns: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Directory {
    entries: FxHashMap<Box<str>, Entry>,
    requests: mpsc::Sender<Request>,
    answers: mpsc::Receiver<Answer>,
    /// Whether any runtime's socket is there.
    present: Arc<AtomicBool>,
    max: usize,
    bytes_max: usize,
    bytes: usize,
    evicted: u64,
}

/// The resolver's ends of a directory's channels.
#[derive(Debug)]
pub struct Ends {
    /// Ids to ask for.
    pub requests: mpsc::Receiver<Request>,
    /// What came of it.
    pub answers: mpsc::Sender<Answer>,
    /// To be set while a runtime's socket is there.
    pub present: Arc<AtomicBool>,
}

impl Directory {
    /// An empty directory for at most `max` containers in about `bytes_max` bytes.
    pub fn new(max: usize, bytes_max: usize) -> (Self, Ends) {
        let (requests, asked) = mpsc::channel(REQUESTS_MAX);
        let (answer, answers) = mpsc::channel(ANSWERS_MAX);
        let present = Arc::new(AtomicBool::new(false));
        let directory = Self {
            entries: FxHashMap::default(),
            requests,
            answers,
            present: Arc::clone(&present),
            max: max.max(1),
            bytes_max,
            bytes: 0,
            evicted: 0,
        };
        let ends = Ends {
            requests: asked,
            answers: answer,
            present,
        };
        (directory, ends)
    }

    /// What is known of a container; asks for it the first time.
    pub fn look(&mut self, id: &str, now_ns: u64) -> Look {
        let mut before = 0;
        if let Some(entry) = self.entries.get_mut(id) {
            entry.used_ns = now_ns;
            match &entry.state {
                State::Known(container) => return Look::Known(Arc::clone(container)),
                State::Asked { patient: true, .. } => return Look::Asked,
                State::Asked { .. } => return Look::Unknown(Why::Late),
                State::NotFound { at_ns, times } => {
                    let pause_ns = ASK_AGAIN_NS << (times - 1).min(ASK_AGAIN_DOUBLED_MAX);
                    if now_ns.saturating_sub(*at_ns) < pause_ns {
                        return Look::Unknown(Why::NotFound);
                    }
                    before = *times;
                }
            }
        }
        if !self.present.load(Ordering::Relaxed) {
            return Look::Unknown(Why::NoRuntime);
        }
        // A second question after "not found" holds nobody up: the runtime has had its time.
        let patient = before == 0;
        let request = Request {
            id: id.into(),
            patient,
        };
        // Full, or the resolver is gone: the next event asks again.
        if self.requests.try_send(request).is_err() {
            return Look::Unknown(Why::Late);
        }
        let state = State::Asked {
            patient,
            times: before,
        };
        self.put(id.into(), state, now_ns);
        if patient {
            Look::Asked
        } else {
            Look::Unknown(Why::NotFound)
        }
    }

    /// Events of this container wait no longer, whatever comes.
    pub fn give_up(&mut self, id: &str) {
        if let Some(Entry {
            state: State::Asked { patient, .. },
            ..
        }) = self.entries.get_mut(id)
        {
            *patient = false;
        }
    }

    /// Can any runtime be asked?
    pub fn is_present(&self) -> bool {
        self.present.load(Ordering::Relaxed)
    }

    /// What is known of a container, without asking.
    pub fn known(&self, id: &str) -> Option<&Arc<Container>> {
        match &self.entries.get(id)?.state {
            State::Known(container) => Some(container),
            _ => None,
        }
    }

    /// Takes one answer in, and says whose it was.
    pub fn next_answer(&mut self, now_ns: u64) -> Option<Box<str>> {
        let Answer { id, container } = self.answers.try_recv().ok()?;
        let before = self.entries.get(&id).map(|entry| &entry.state);
        let state = match (container, before) {
            (Some(container), _) => State::Known(container),
            (None, Some(State::Known(_))) => return Some(id),
            (None, Some(State::Asked { times, .. } | State::NotFound { times, .. })) => {
                State::NotFound {
                    at_ns: now_ns,
                    times: times.saturating_add(1),
                }
            }
            (None, None) => State::NotFound {
                at_ns: now_ns,
                times: 1,
            },
        };
        self.put(id.clone(), state, now_ns);
        Some(id)
    }

    /// Entries, bytes of what they hold, and how many were dropped for room since the start.
    pub fn sizes(&self) -> (usize, usize, u64) {
        (self.entries.len(), self.bytes, self.evicted)
    }

    fn put(&mut self, id: Box<str>, state: State, now_ns: u64) {
        self.bytes += size_of(&state);
        if let Some(before) = self.entries.insert(
            id,
            Entry {
                state,
                used_ns: now_ns,
            },
        ) {
            self.bytes -= size_of(&before.state);
        }
        if self.entries.len() > self.max || self.bytes > self.bytes_max {
            self.make_room();
        }
    }

    /// Drops the eighth that was used longest ago: now and then a walk over all, rather than a list to keep up at every event.
    fn make_room(&mut self) {
        let mut ages: Vec<u64> = self.entries.values().map(|entry| entry.used_ns).collect();
        let count = (ages.len() / 8).max(1).min(ages.len() - 1);
        if count == 0 {
            return;
        }
        let (_, oldest, _) = ages.select_nth_unstable(count - 1);
        let (oldest, mut left) = (*oldest, count);
        let Self {
            entries,
            bytes,
            evicted,
            ..
        } = self;
        entries.retain(|_, entry| {
            let go = entry.used_ns <= oldest && left > 0;
            if go {
                left -= 1;
                *bytes -= size_of(&entry.state);
                *evicted += 1;
            }
            !go
        });
    }
}

fn size_of(state: &State) -> usize {
    let held = match state {
        State::Known(container) => container.size_bytes(),
        _ => 0,
    };
    held + std::mem::size_of::<Entry>() + 64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(id: &str) -> Answer {
        let container = Container {
            id: id.into(),
            ..Container::default()
        };
        Answer {
            id: id.into(),
            container: Some(Arc::new(container)),
        }
    }

    #[test]
    fn a_container_is_asked_for_once_and_then_known() {
        let (mut directory, mut ends) = Directory::new(10, 1 << 20);
        assert!(matches!(
            directory.look("a", 1),
            Look::Unknown(Why::NoRuntime)
        ));
        ends.present.store(true, Ordering::Relaxed);
        assert!(matches!(directory.look("a", 2), Look::Asked));
        assert!(matches!(directory.look("a", 3), Look::Asked));
        let asked = Request {
            id: "a".into(),
            patient: true,
        };
        assert_eq!(ends.requests.try_recv(), Ok(asked));
        assert!(ends.requests.try_recv().is_err());
        ends.answers.try_send(known("a")).expect("there is room");
        assert_eq!(directory.next_answer(4).as_deref(), Some("a"));
        assert_eq!(directory.next_answer(4), None);
        assert!(matches!(directory.look("a", 5), Look::Known(_)));
    }

    #[test]
    fn who_was_given_up_or_not_found_holds_nobody_up() {
        let (mut directory, mut ends) = Directory::new(10, 1 << 20);
        ends.present.store(true, Ordering::Relaxed);
        assert!(matches!(directory.look("a", 1), Look::Asked));
        directory.give_up("a");
        assert!(matches!(directory.look("a", 2), Look::Unknown(Why::Late)));
        ends.answers
            .try_send(Answer {
                id: "a".into(),
                container: None,
            })
            .expect("there is room");
        assert!(directory.next_answer(3).is_some());
        assert!(matches!(
            directory.look("a", 4),
            Look::Unknown(Why::NotFound)
        ));
        assert!(ends.requests.try_recv().is_ok());
        assert!(ends.requests.try_recv().is_err());
        assert!(matches!(
            directory.look("a", 4 + ASK_AGAIN_NS),
            Look::Unknown(Why::NotFound)
        ));
        let again = ends.requests.try_recv().expect("it is asked for again");
        assert!(!again.patient, "once");
        let not_found = || Answer {
            id: "a".into(),
            container: None,
        };
        ends.answers.try_send(not_found()).expect("there is room");
        assert!(directory.next_answer(5 + ASK_AGAIN_NS).is_some());
        directory.look("a", 5 + 2 * ASK_AGAIN_NS);
        assert!(ends.requests.try_recv().is_err(), "later than before");
        directory.look("a", 5 + 3 * ASK_AGAIN_NS);
        assert!(ends.requests.try_recv().is_ok());
        // A late answer is still good, and "not found" never takes back what was known.
        ends.answers.try_send(known("a")).expect("there is room");
        ends.answers
            .try_send(Answer {
                id: "a".into(),
                container: None,
            })
            .expect("there is room");
        while directory.next_answer(9).is_some() {}
        assert!(matches!(directory.look("a", 10), Look::Known(_)));
    }

    #[test]
    fn entries_bytes_and_questions_are_bounded() {
        let (mut directory, ends) = Directory::new(100, 1 << 20);
        ends.present.store(true, Ordering::Relaxed);
        for n in 0..100_000_u64 {
            let id = format!("{n:064x}");
            if n % 2 == 0 {
                ends.answers.try_send(known(&id)).expect("it is drained");
                directory.next_answer(n);
            } else {
                directory.look(&id, n);
            }
            assert!(directory.sizes().0 <= 100);
        }
        let (entries, bytes, evicted) = directory.sizes();
        assert!(
            entries > 50 && bytes < 1 << 20 && evicted > 40_000,
            "{entries} {bytes} {evicted}"
        );
        let (mut small, ends) = Directory::new(1000, 100_000);
        for n in 0..1000 {
            let id: Box<str> = format!("{n:064x}").into();
            let name = "x".repeat(4096).into();
            let image = super::super::metadata::Image {
                given: name,
                ..Default::default()
            };
            let container = Some(Arc::new(Container {
                image,
                ..Container::default()
            }));
            ends.answers
                .try_send(Answer { id, container })
                .expect("it is drained");
            small.next_answer(n);
            assert!(small.sizes().1 <= 120_000, "{:?}", small.sizes());
        }
        for (id, entry) in &small.entries {
            assert!(matches!(entry.state, State::Known(_)), "{id}");
        }
    }

    #[test]
    fn a_full_queue_is_no_reason_to_wait() {
        let (mut directory, ends) = Directory::new(100_000, 1 << 30);
        ends.present.store(true, Ordering::Relaxed);
        for n in 0..REQUESTS_MAX {
            assert!(matches!(directory.look(&n.to_string(), 1), Look::Asked));
        }
        assert!(matches!(
            directory.look("one more", 1),
            Look::Unknown(Why::Late)
        ));
    }
}
