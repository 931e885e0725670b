//! The thread that asks drivers, and who watches over it.
//!
//! A driver that hangs takes this one thread with it and nothing else: nobody waits for it, no second one is started, and
//! the sensor thread sees by a time stamp that it does not come back. A library that is missing is looked for again.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError},
    },
    thread,
    time::{Duration, Instant},
};

use tracing::{info, warn};

use super::{GpuSample, nvml};
use crate::event::gpu::Health;

/// Looks that wait for the sensor thread; more means that it does not come round at all.
const QUEUE: usize = 4;

/// How and how often to ask.
#[derive(Clone, Debug)]
pub struct SamplerConfig {
    /// Between two looks.
    pub interval: Duration,
    /// Between two attempts to find a driver.
    pub retry: Duration,
    /// A question that takes longer hangs.
    pub patience: Duration,
    /// NVIDIA's library; `None`: where the loader finds `libnvidia-ml.so.1`.
    pub library: Option<PathBuf>,
}

/// What state the driver is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// There is none: no GPU of a kind that can be asked.
    Absent,
    /// It answers.
    Answers,
    /// It is there, and cannot be used.
    Failing,
    /// A question to it has not returned.
    Hangs,
}

impl Driver {
    /// All of them, as metrics name them.
    pub const ALL: [(Self, &'static str); 4] = [
        (Self::Absent, "absent"),
        (Self::Answers, "answering"),
        (Self::Failing, "failing"),
        (Self::Hangs, "hanging"),
    ];
}

/// The sensor thread's end.
#[derive(Debug)]
pub struct Sampler {
    samples: Receiver<GpuSample>,
    shared: Arc<Shared>,
    /// The thread ends when it is dropped.
    _stop: SyncSender<()>,
    /// A question that takes longer hangs.
    patience: Duration,
    is_hanging: bool,
}

#[derive(Debug)]
struct Shared {
    begun: Instant,
    /// Since when a question is open, in milliseconds since `begun`; 0: none is.
    asking_since_ms: AtomicU64,
    /// A place in [`Driver::ALL`].
    driver: AtomicU64,
    looks: AtomicU64,
    dropped: AtomicU64,
    /// Why GPUs are not watched; empty while they are.
    trouble: Mutex<String>,
    /// Processes that are to be looked at besides.
    openers: Mutex<Vec<u32>>,
}

impl Sampler {
    /// Starts the thread; `wake` is called when there is something to take.
    pub fn start(config: SamplerConfig, wake: impl Fn() + Send + 'static) -> std::io::Result<Self> {
        let (send, samples) = mpsc::sync_channel(QUEUE);
        let (stop, stopped) = mpsc::sync_channel(0);
        let shared = Arc::new(Shared {
            begun: Instant::now(),
            asking_since_ms: AtomicU64::new(0),
            driver: AtomicU64::new(0),
            looks: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            trouble: Mutex::new(String::new()),
            openers: Mutex::new(Vec::new()),
        });
        let patience = config.patience;
        let thread = Thread {
            config,
            send,
            stopped,
            shared: Arc::clone(&shared),
            said: String::new(),
        };
        thread::Builder::new()
            .name("gpu".into())
            .spawn(move || thread.run(&wake))?;
        Ok(Self {
            samples,
            shared,
            _stop: stop,
            patience,
            is_hanging: false,
        })
    }

    /// The next look, if there is one; never waits.
    pub fn take(&self) -> Option<GpuSample> {
        self.samples.try_recv().ok()
    }

    /// Has these processes looked at from the next look on, besides those that drivers name.
    pub fn also(&self, openers: Vec<u32>) {
        let known = self.shared.openers.lock();
        *known.unwrap_or_else(PoisonError::into_inner) = openers;
    }

    /// What state the driver is in; says once when it begins and when it ceases to hang.
    pub fn watch(&mut self) -> Driver {
        let since_ms = self.shared.asking_since_ms.load(Ordering::Acquire);
        let open = (since_ms > 0).then(|| {
            let since = self.shared.begun + Duration::from_millis(since_ms);
            since.elapsed()
        });
        let hangs = open.is_some_and(|open| open > self.patience);
        if hangs != self.is_hanging {
            self.is_hanging = hangs;
            if hangs {
                warn!(
                    "the GPU driver does not answer since {:?}: GPUs are not watched until it does",
                    self.patience
                );
            } else {
                info!("the GPU driver answers again");
            }
        }
        if hangs {
            return Driver::Hangs;
        }
        let state = self.shared.driver.load(Ordering::Acquire) as usize;
        Driver::ALL
            .get(state)
            .map_or(Driver::Absent, |(state, _)| *state)
    }

    /// Why GPUs are not watched; empty while they are.
    pub fn trouble(&self) -> String {
        if self.is_hanging {
            return format!("a question to it is open for more than {:?}", self.patience);
        }
        let trouble = self.shared.trouble.lock();
        trouble.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks that were handed on, and those for which there was no room.
    pub fn counts(&self) -> (u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.shared.looks), read(&self.shared.dropped))
    }
}

struct Thread {
    config: SamplerConfig,
    send: SyncSender<GpuSample>,
    stopped: Receiver<()>,
    shared: Arc<Shared>,
    /// What was said last, so that it is said once.
    said: String,
}

impl Thread {
    fn run(mut self, wake: &dyn Fn()) {
        loop {
            self.session(wake);
            if self.is_over(self.config.retry) {
                return;
            }
        }
    }

    /// From finding a driver to losing it.
    fn session(&mut self, wake: &dyn Fn()) {
        let opened = self.ask(|config| nvml::open(config.library.as_deref()));
        let nvml = match opened {
            Ok(nvml) => nvml,
            Err(error) if nvml::is_absence(&error) => {
                self.trouble(&error);
                self.state(Driver::Absent);
                return self.say(format!("no GPU of NVIDIA's is watched: {error}"), false);
            }
            Err(error) => {
                self.trouble(&error);
                self.state(Driver::Failing);
                return self.say(format!("GPUs cannot be watched: {error}"), true);
            }
        };
        let mut reader = nvml::Reader::new(&nvml);
        let mut lost = 0;
        let mut is_first = true;
        loop {
            let now_ns = boot_ns();
            let openers = {
                let openers = self.shared.openers.lock();
                openers.unwrap_or_else(PoisonError::into_inner).clone()
            };
            let looked = self.ask(|_| reader.look(&openers, now_ns));
            let (gpus, openers) = match looked {
                Ok(found) => found,
                Err(error) => {
                    self.trouble(&error);
                    self.state(Driver::Failing);
                    return self.say(format!("the GPU driver is gone: {error}"), true);
                }
            };
            self.trouble(&"");
            self.state(Driver::Answers);
            if is_first {
                is_first = false;
                let driver = nvml.sys_driver_version().unwrap_or_default();
                self.say(
                    format!(
                        "{} GPUs and instances are watched, driver {driver}",
                        gpus.len()
                    ),
                    false,
                );
            }
            let unanswering = gpus
                .iter()
                .filter(|gpu| matches!(gpu.health, Health::Lost | Health::Refused))
                .count();
            if unanswering != lost {
                lost = unanswering;
                warn!("{lost} of {} GPUs do not answer", gpus.len());
            }
            let sample = GpuSample {
                taken_ns: now_ns,
                gpus,
                openers,
            };
            match self.send.try_send(sample) {
                Ok(()) => {
                    self.shared.looks.fetch_add(1, Ordering::Relaxed);
                    wake();
                }
                Err(TrySendError::Full(_)) => {
                    self.shared.dropped.fetch_add(1, Ordering::Relaxed);
                }
                Err(TrySendError::Disconnected(_)) => return,
            }
            if self.is_over(self.config.interval) {
                return;
            }
        }
    }

    /// Asks the driver, under watch.
    fn ask<A>(&self, question: impl FnOnce(&SamplerConfig) -> A) -> A {
        let since = self.shared.begun.elapsed().as_millis().max(1);
        let since = u64::try_from(since).unwrap_or(u64::MAX);
        self.shared.asking_since_ms.store(since, Ordering::Release);
        let answer = question(&self.config);
        self.shared.asking_since_ms.store(0, Ordering::Release);
        answer
    }

    fn trouble(&self, why: &dyn std::fmt::Display) {
        let trouble = self.shared.trouble.lock();
        *trouble.unwrap_or_else(PoisonError::into_inner) = why.to_string();
    }

    fn state(&self, state: Driver) {
        let place = Driver::ALL.iter().position(|(known, _)| *known == state);
        let place = place.unwrap_or(0) as u64;
        self.shared.driver.store(place, Ordering::Release);
    }

    fn say(&mut self, text: String, is_trouble: bool) {
        if self.said == text {
            return;
        }
        if is_trouble {
            warn!("{text}");
        } else {
            info!("{text}");
        }
        self.said = text;
    }

    /// Waits; is nobody there any more?
    fn is_over(&self, time: Duration) -> bool {
        !matches!(
            self.stopped.recv_timeout(time),
            Err(RecvTimeoutError::Timeout)
        )
    }
}

fn boot_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the struct is ours and outlives the call, which writes it.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000
        + u64::try_from(time.tv_nsec).unwrap_or(0)
}
