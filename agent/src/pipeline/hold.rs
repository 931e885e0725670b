//! Events that wait for their container's metadata: in order within a container, no longer than the hold time, and bounded in
//! number and bytes. One container can take a quarter of the room, so that a noisy one does not end the wait of the others.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use rustc_hash::{FxHashMap, FxHashSet};

use crate::{
    context::{container::Owner, process::Moment},
    fields::Python,
};

/// What it costs to know of an image that it is counted.
const IMAGE_BYTES: usize = 32;

/// An event as it was when it came: what it speaks of may have moved on when it is evaluated.
#[derive(Debug)]
pub struct Held {
    /// The record.
    pub bytes: Box<[u8]>,
    /// Its `evt.num`.
    pub number: u64,
    /// Where it happened.
    pub owner: Owner,
    /// The process that acted and its ancestors, as they were: an exec meanwhile must not change what is seen of them.
    pub actor: Option<Moment>,
    /// Where its relative path starts.
    pub folder: Option<Box<[u8]>>,
    /// What was known of the Python that it came from.
    pub python: Option<Python>,
}

impl Held {
    /// Bytes of it, and of the images that it alone of its container's events keeps alive; those are noted.
    fn size_bytes(&self, images: &mut FxHashSet<usize>) -> usize {
        let python = self.python.as_ref();
        let file = python.and_then(|python| python.model_file.as_ref());
        let version = python.and_then(|python| python.version.as_ref());
        let of_images = |moment: &Moment| -> usize {
            let images = moment.images().filter(|image| {
                // An address tells images apart as long as they are kept, and they are kept as long as this is.
                images.insert(Arc::as_ptr(image) as usize)
            });
            images.map(|image| image.size_bytes() + IMAGE_BYTES).sum()
        };
        size_of::<Self>()
            + self.bytes.len()
            + self.folder.as_ref().map_or(0, |folder| folder.len())
            + file.map_or(0, |file| file.len())
            + version.map_or(0, |version| version.len())
            + self.actor.as_ref().map_or(0, Moment::size_bytes)
            + self.actor.as_ref().map_or(0, of_images)
    }
}

/// Bounds of what is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldLimits {
    /// The longest wait of an event. Zero: nothing is held.
    pub time: Duration,
    /// Events of all containers.
    pub events_max: usize,
    /// Their bytes.
    pub bytes_max: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Hold {
    limits: HoldLimits,
    queues: FxHashMap<Box<str>, Queue>,
    /// When each queue's time is over, soonest first; may name queues that are gone.
    due: VecDeque<(Instant, Box<str>)>,
    events: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Queue {
    due: Instant,
    events: Vec<Held>,
    bytes: usize,
    /// Addresses of the images that its events keep alive.
    images: FxHashSet<usize>,
}

impl Hold {
    /// Empty.
    pub fn new(limits: HoldLimits) -> Self {
        Self {
            limits,
            queues: FxHashMap::default(),
            due: VecDeque::new(),
            events: 0,
            bytes: 0,
        }
    }

    /// Does an event of this container wait?
    pub fn holds(&self, container: &str) -> bool {
        !self.queues.is_empty() && self.queues.contains_key(container)
    }

    /// Lets an event wait. `false` where there is no room for it, or no waiting at all.
    pub fn push(&mut self, container: &str, held: Held, now: Instant) -> bool {
        let limits = self.limits;
        if limits.time.is_zero() || self.events >= limits.events_max {
            return false;
        }
        let mut new = FxHashSet::default();
        let queue = self.queues.get_mut(container);
        let is_new = queue.is_none();
        let (size, events, bytes) = match queue {
            Some(queue) => {
                let size = held.size_bytes(&mut queue.images);
                (size, queue.events.len(), queue.bytes)
            }
            None => (held.size_bytes(&mut new), 0, 0),
        };
        // A queue that is full is taken at once, so it does not matter what it has noted.
        if self.bytes + size > limits.bytes_max
            || events >= limits.events_max.div_ceil(4)
            || bytes + size > limits.bytes_max.div_ceil(4)
        {
            return false;
        }
        self.events += 1;
        self.bytes += size;
        if is_new {
            let due = now + limits.time;
            self.due.push_back((due, container.into()));
            let queue = Queue {
                due,
                events: vec![held],
                bytes: size,
                images: new,
            };
            self.queues.insert(container.into(), queue);
        } else if let Some(queue) = self.queues.get_mut(container) {
            queue.bytes += size;
            queue.events.push(held);
        }
        true
    }

    /// Ends a container's wait and hands out its events, the first first.
    pub fn take(&mut self, container: &str) -> Vec<Held> {
        let Some(queue) = self.queues.remove(container) else {
            return Vec::new();
        };
        self.events -= queue.events.len();
        self.bytes -= queue.bytes;
        queue.events
    }

    /// When the next wait is over.
    pub fn next_due(&mut self) -> Option<Instant> {
        self.drop_stale();
        self.due.front().map(|(due, _)| *due)
    }

    /// A container whose time is over.
    pub fn overdue(&mut self, now: Instant) -> Option<Box<str>> {
        self.drop_stale();
        if self.due.front()?.0 > now {
            return None;
        }
        self.due.pop_front().map(|(_, container)| container)
    }

    /// A container that holds events, the one that has waited longest first.
    pub fn oldest(&mut self) -> Option<Box<str>> {
        self.drop_stale();
        self.due.front().map(|(_, container)| container.clone())
    }

    /// Events that wait.
    pub fn len(&self) -> usize {
        self.events
    }

    fn drop_stale(&mut self) {
        while let Some((due, container)) = self.due.front() {
            if self
                .queues
                .get(container)
                .is_some_and(|queue| queue.due == *due)
            {
                return;
            }
            self.due.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::process::{Image, ProcessTable, Seed};

    const LIMITS: HoldLimits = HoldLimits {
        time: Duration::from_millis(500),
        events_max: 16,
        bytes_max: 1 << 20,
    };

    fn held(number: u64) -> Held {
        Held {
            bytes: vec![0; 100].into(),
            number,
            owner: Owner::Host,
            actor: None,
            folder: None,
            python: None,
        }
    }

    fn numbers(events: &[Held]) -> Vec<u64> {
        events.iter().map(|held| held.number).collect()
    }

    #[test]
    fn each_containers_events_keep_their_order() {
        let mut hold = Hold::new(LIMITS);
        let now = Instant::now();
        for number in 0..6 {
            let container = if number % 2 == 0 { "a" } else { "b" };
            assert!(hold.push(container, held(number), now));
        }
        assert!(hold.holds("a") && hold.holds("b") && !hold.holds("c"));
        assert_eq!(numbers(&hold.take("b")), [1, 3, 5]);
        assert_eq!(hold.len(), 3);
        assert_eq!(numbers(&hold.take("a")), [0, 2, 4]);
        assert_eq!((hold.len(), hold.bytes), (0, 0));
        assert!(hold.take("a").is_empty());
    }

    #[test]
    fn the_first_event_of_a_container_sets_its_time() {
        let mut hold = Hold::new(LIMITS);
        let start = Instant::now();
        let later = start + Duration::from_millis(400);
        assert!(hold.push("a", held(1), start));
        assert!(hold.push("b", held(2), later));
        assert!(hold.push("a", held(3), later));
        assert_eq!(hold.next_due(), Some(start + LIMITS.time));
        assert_eq!(hold.overdue(later), None);
        assert_eq!(hold.overdue(start + LIMITS.time).as_deref(), Some("a"));
        assert_eq!(numbers(&hold.take("a")), [1, 3]);
        assert_eq!(hold.next_due(), Some(later + LIMITS.time));
        // A container that was answered and holds again has a new time; the old one means nothing.
        hold.take("b");
        assert_eq!(hold.next_due(), None);
        assert!(hold.push("b", held(4), later + LIMITS.time / 2));
        assert_eq!(hold.overdue(later + LIMITS.time), None);
    }

    #[test]
    fn nobody_takes_all_the_room() {
        let mut hold = Hold::new(LIMITS);
        let now = Instant::now();
        for number in 0..4 {
            assert!(hold.push("noisy", held(number), now));
        }
        assert!(!hold.push("noisy", held(4), now), "a quarter is the most");
        for number in 0..12 {
            assert!(hold.push(&format!("c{number}"), held(number), now));
        }
        assert!(!hold.push("late", held(9), now), "all are the most");
        assert_eq!(hold.oldest().as_deref(), Some("noisy"));
        assert_eq!(hold.len(), 16);

        let mut small = Hold::new(HoldLimits {
            bytes_max: 1000,
            ..LIMITS
        });
        assert!(!small.push(
            "a",
            Held {
                bytes: vec![0; 600].into(),
                ..held(1)
            },
            now
        ));
        let mut off = Hold::new(HoldLimits {
            time: Duration::ZERO,
            ..LIMITS
        });
        assert!(!off.push("a", held(1), now));
    }

    #[test]
    fn what_is_kept_of_processes_counts() {
        let mut table = ProcessTable::new(1024, 1 << 20);
        let add = |table: &mut ProcessTable, tgid: u32, ppid: u32, name_bytes: usize| {
            let seed = Seed {
                tgid,
                ppid,
                start_ns: u64::from(tgid),
                image: Arc::new(Image::named(&vec![b'x'; name_bytes])),
                ..Seed::default()
            };
            table.add(seed, 0)
        };
        add(&mut table, 1, 0, 100_000);
        let child = add(&mut table, 2, 1, 10);
        let of_child = |table: &ProcessTable| Held {
            actor: table.get(child).map(|process| Moment::of(table, process)),
            ..held(1)
        };
        let mut hold = Hold::new(HoldLimits {
            bytes_max: 4 << 20,
            ..LIMITS
        });
        let now = Instant::now();
        assert!(hold.push("a", of_child(&table), now));
        let first = hold.bytes;
        assert!(first > 100_000, "its parent's image counts: {first}");
        assert!(hold.push("a", of_child(&table), now));
        assert!(hold.bytes < first + 10_000, "once: {}", hold.bytes);
        // Each exec leaves an image behind that only the waiting event keeps.
        for _ in 0..2 {
            table.set_image(child, Image::named(&[b'y'; 200_000]), 1);
            assert!(hold.push("a", of_child(&table), now));
        }
        assert!(hold.bytes > first + 400_000, "{}", hold.bytes);
        hold.take("a");
        assert_eq!((hold.events, hold.bytes), (0, 0));
    }
}
