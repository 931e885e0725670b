//! The thread that lets files go. For each place in one the kernel waits until nobody is in the program any more, tens of milliseconds on
//! a busy node, and whoever wants to attach waits with it: a process that has just started has not got that long. So files are let go
//! one place at a time, and only when nothing was attached lately.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long after an attachment nothing is let go: where one Python starts, others do.
const QUIET: Duration = Duration::from_secs(1);

/// When a place is let go all the same, should it never be quiet, and how many may wait for that.
const PATIENCE: Duration = Duration::from_secs(60);
const WAITING_MAX: usize = 256;

/// How often it is looked whether it is quiet.
const LOOK: Duration = Duration::from_millis(100);

/// The running thread. When it is dropped, everything is let go at once.
#[derive(Debug)]
pub(super) struct Detacher {
    /// `None` once it is to end.
    places: Option<Sender<Place>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What is let go by being dropped, and since when it waits for that.
struct Place {
    since: Instant,
    _event: OwnedFd,
}

/// What both threads know.
#[derive(Debug)]
struct Shared {
    epoch: Instant,
    /// When something was attached last: milliseconds since `epoch`, and one; 0 means never.
    attached: AtomicU64,
    /// Places that wait.
    waiting: AtomicUsize,
    /// Nothing waits any more.
    stop: Arc<AtomicBool>,
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn is_quiet(&self) -> bool {
        let at = self.attached.load(Ordering::Relaxed);
        at == 0 || u128::from(self.now().saturating_sub(at - 1)) >= QUIET.as_millis()
    }

    fn may_wait(&self, place: &Place) -> bool {
        place.since.elapsed() < PATIENCE
            && self.waiting.load(Ordering::Relaxed) <= WAITING_MAX
            && !self.stop.load(Ordering::Acquire)
    }
}

impl Detacher {
    /// Starts the thread; `stop` ends its patience.
    pub(super) fn start(stop: &Arc<AtomicBool>) -> io::Result<Self> {
        let (places, wanted) = channel();
        let shared = Arc::new(Shared {
            epoch: Instant::now(),
            attached: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            stop: Arc::clone(stop),
        });
        let of_thread = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("python-detach".into())
            .spawn(move || run(&wanted, &of_thread))?;
        Ok(Self {
            places: Some(places),
            shared,
            thread: Some(thread),
        })
    }

    /// Something is about to be attached.
    pub(super) fn stand_back(&self) {
        let now = self.shared.now() + 1;
        self.shared.attached.store(now, Ordering::Relaxed);
    }

    /// Has places let go, soon.
    pub(super) fn let_go(&self, events: impl IntoIterator<Item = OwnedFd>) {
        let Some(queue) = &self.places else { return };
        for event in events {
            self.shared.waiting.fetch_add(1, Ordering::Relaxed);
            // Were the thread gone, this would let it go here.
            let _ = queue.send(Place {
                since: Instant::now(),
                _event: event,
            });
        }
    }
}

impl Drop for Detacher {
    fn drop(&mut self) {
        self.places = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(wanted: &Receiver<Place>, shared: &Shared) {
    while let Ok(place) = wanted.recv() {
        while !shared.is_quiet() && shared.may_wait(&place) {
            thread::sleep(LOOK);
        }
        drop(place);
        shared.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn places_are_let_go_when_it_is_quiet_and_at_the_end() {
        let stop = Arc::new(AtomicBool::new(false));
        let detacher = Detacher::start(&stop).unwrap();
        let let_go = |is_busy: bool| {
            let (reader, writer) = io::pipe().unwrap();
            if is_busy {
                detacher.stand_back();
            }
            assert_eq!(detacher.shared.is_quiet(), !is_busy);
            detacher.let_go([OwnedFd::from(writer)]);
            reader
        };
        // The other end of a pipe that was let go reads as ended.
        let mut now = let_go(false);
        assert_eq!(now.read(&mut [0]).unwrap(), 0);
        let mut later = let_go(true);
        stop.store(true, Ordering::Release);
        drop(detacher);
        assert_eq!(later.read(&mut [0]).unwrap(), 0);
    }
}
