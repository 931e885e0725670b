//! The thread that owns the ring: waits, drains fairly, keeps the books, and at the end drains to the last record.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io, mem,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};
use tracing::{error, warn};

use crate::{
    alert::Alert,
    api::Health,
    context::outside::Totals,
    decode::{self, PythonSign},
    detect::Detect,
    metrics::{
        Cause, KindOutcome, Metrics, OVER_SHARE, PYTHON_FAILURES, PYTHON_STATES, RINGS, RingName,
        State, level, raise_to,
    },
    pipeline::{Delivery, Pipeline},
    source::{
        HookStatus, KernelCounters, Kind, Sensor, Waker, Wish,
        capture::Written,
        gpu::Driver,
        priority,
        python::watch::{Looker, Watch},
    },
    watch::Watcher,
};

use super::{gpus::GpuSource, losses::Losses, memory};

/// Records per wake: under a flood the housekeeping below must still come round.
const DRAIN_MAX: usize = 8192;

/// An event that comes so soon after the last waits as long for more of its kind, if that kind comes in crowds. The
/// kernel wakes this thread for each record that meets it waiting, which costs whoever does what is seen more than all the rest.
const GATHER: Duration = Duration::from_millis(1);

/// Events that are no further apart than this are a stream, which is looked for without being woken.
const STREAM: Duration = Duration::from_millis(4);

/// How long the first look at all processes may keep the agent from saying that it watches.
const FIRST_LOOK: Duration = Duration::from_secs(10);

/// How often counters are read and metrics published.
const TICK: Duration = Duration::from_secs(1);

/// How long after the start, and after other rules, what only they needed is given back once more: listing containers, the first events of each kind and the
/// first that ask for metrics need much once, too.
const SETTLED: Duration = Duration::from_secs(60);

/// Causes of lost alerts as events tell them, and as the metric does.
const DROPPED_ALERTS: [(&str, &str); 4] = [
    ("alert_queue_full", "queue_full"),
    ("alert_log_full", "log_full"),
    ("alert_log_damaged", "log_damaged"),
    ("alert_refused", "refused"),
];

/// Everything the thread needs; it is moved into it whole.
pub struct SensorThread {
    sensor: Sensor,
    pipeline: Pipeline,
    alerts: mpsc::Sender<Alert>,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    stop: Arc<AtomicBool>,
    /// Watches interpreters, until the end of the thread.
    pythons: Option<Watch>,
    looker: Option<Looker>,
    orders: mpsc::Receiver<Order>,
    gpus: GpuSource,
    /// Dropped when the thread ends, however it ends.
    _ended: oneshot::Sender<()>,
    /// Losses that were already reported.
    losses: Losses,
    /// When memory is to be given back; none while nothing new needed any.
    settles: Option<Instant>,
}

/// What the thread is asked for.
#[derive(Debug)]
pub enum Order {
    /// Somebody watches, and is told once that is so.
    Watch(Watcher, oneshot::Sender<()>),
    /// Something happened inside the agent, which rules may alert on.
    Tell {
        /// What, in one word.
        what: &'static str,
        /// In words.
        text: String,
    },
    /// Another configuration.
    Change(Box<Change>),
}

/// Another configuration, as far as it concerns the thread: all of it from one event to the next, or nothing.
#[derive(Debug)]
pub struct Change {
    /// Other rules.
    pub rules: Option<Rules>,
    /// Alerts are passed on otherwise.
    pub delivery: Option<Delivery>,
    /// What became of it; of rules where there were any.
    pub done: oneshot::Sender<Result<Option<Changed>, String>>,
}

/// Other rules.
#[derive(Debug)]
pub struct Rules {
    /// They, ready.
    pub detect: Detect,
    /// What they want of the kernel side.
    pub wish: Wish,
    /// What they want besides while a GPU's driver is there.
    pub on_gpus: BTreeSet<Kind>,
}

/// Other rules are at work.
#[derive(Debug)]
pub struct Changed {
    /// The old ones: to let go of them takes a while.
    pub old: Detect,
    /// How each kind of events is supplied now.
    pub status: Vec<HookStatus>,
}

/// Asks the thread to stop.
#[derive(Clone, Debug)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Takes effect at once, also while the thread waits.
    pub fn stop(&self, waker: &Waker) {
        self.0.store(true, Ordering::Release);
        waker.wake();
    }
}

/// The books at the end. They close: seen = delivered + filtered + lost.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Events that a hook saw, or that the kernel says it would have.
    pub seen: u64,
    /// Read, decoded and evaluated.
    pub delivered: u64,
    /// Dropped in the kernel because no rule wants them.
    pub filtered: u64,
    /// Lost, by cause.
    pub lost_by_cause: BTreeMap<&'static str, u64>,
    /// Alerts raised.
    pub alerts: u64,
    /// What became of the capture, where one was made.
    pub capture: Option<Written>,
}

impl Summary {
    /// Lost for any cause.
    pub fn lost(&self) -> u64 {
        self.lost_by_cause.values().sum()
    }

    /// `cause=count` for each cause that lost something.
    pub fn causes(&self) -> String {
        let causes: Vec<_> = self
            .lost_by_cause
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(cause, count)| format!("{cause}={count}"))
            .collect();
        causes.join(" ")
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "events seen={} delivered={} filtered={} lost={}",
            self.seen,
            self.delivered,
            self.filtered,
            self.lost()
        )
    }
}

impl SensorThread {
    /// The thread's body, the switch that stops it, and a receiver that resolves when it ended.
    pub fn new(
        mut sensor: Sensor,
        mut pipeline: Pipeline,
        gpus: GpuSource,
        alerts: mpsc::Sender<Alert>,
        metrics: Arc<Metrics>,
        health: Arc<Health>,
        orders: mpsc::Receiver<Order>,
    ) -> (Self, Stop, oneshot::Receiver<()>) {
        let stop = Arc::new(AtomicBool::new(false));
        let (ended, has_ended) = oneshot::channel();
        let pythons = watch_pythons(&mut sensor);
        pipeline.set_interpreters(pythons.as_ref().map(Watch::interpreters));
        let thread = Self {
            sensor,
            pipeline,
            alerts,
            metrics,
            health,
            stop: Arc::clone(&stop),
            looker: pythons.as_ref().map(Watch::looker),
            pythons,
            orders,
            gpus,
            _ended: ended,
            losses: Losses::default(),
            settles: None,
        };
        (thread, Stop(stop), has_ended)
    }

    /// Runs until it is stopped or the ring cannot be waited for.
    pub fn run(mut self) -> Summary {
        priority::hurry();
        self.pipeline.scan(Path::new("/proc"));
        // Who is told that the agent watches may load a model the next moment, in a Python that runs already.
        if let Some(pythons) = &self.pythons
            && !pythons.wait(FIRST_LOOK)
        {
            warn!(
                "looking at the Python of all processes that run already takes longer than {FIRST_LOOK:?}"
            );
        }
        self.pipeline.tick();
        memory::give_back();
        self.settles = Some(Instant::now() + SETTLED);
        self.health.set_ready(true);
        tracing::info!("watching");
        let mut next_tick = Instant::now() + TICK;
        let mut next_due = None;
        // When the rings were last empty; none while there is more.
        let mut caught_up: Option<Instant> = None;
        // Whether the last look found something, and it was not long after the one before.
        let mut is_streaming = false;
        while !self.stop.load(Ordering::Acquire) {
            let next = next_due.map_or(next_tick, |due| next_tick.min(due));
            if let Err(error) = self.wait(next, caught_up, is_streaming) {
                error!("cannot wait for events: {error}");
                break;
            }
            let taken = self.drain(DRAIN_MAX);
            is_streaming = taken > 0 && caught_up.is_none_or(|when| when.elapsed() < STREAM);
            caught_up = (taken < DRAIN_MAX).then(Instant::now);
            next_due = self.release();
            self.obey();
            self.look_at_gpus();
            if Instant::now() >= next_tick {
                self.tick();
                next_tick = Instant::now() + TICK;
            }
        }
        self.health.set_ready(false);
        self.finish()
    }

    /// Waits for events, at most until `next`.
    fn wait(
        &mut self,
        next: Instant,
        caught_up: Option<Instant>,
        is_streaming: bool,
    ) -> io::Result<()> {
        let Some(caught_up) = caught_up else {
            return Ok(());
        };
        if !is_streaming {
            self.sensor
                .poll(next.saturating_duration_since(Instant::now()))?;
            if caught_up.elapsed() >= GATHER {
                return Ok(());
            }
        }
        self.sensor.gather(GATHER)
    }

    fn drain(&mut self, max: usize) -> usize {
        let Self {
            sensor,
            pipeline,
            alerts,
            metrics,
            looker,
            ..
        } = self;
        sensor.drain(max, &mut |record| {
            // Before anything else: a Python that has just started is about to import what is watched in it.
            if let Some(looker) = &*looker {
                match decode::python_sign(record) {
                    Some(PythonSign::Started(pid)) => looker.look(pid),
                    Some(PythonSign::Opened(pid, path)) => looker.opened(pid, path),
                    Some(PythonSign::Expected) => looker.expect(),
                    None => {}
                }
            }
            pipeline.record(record, &mut |alert| offer(alerts, metrics, alert));
        })
    }

    /// Lets go what waited for a container's metadata; returns when the next wait is over.
    fn release(&mut self) -> Option<Instant> {
        let Self {
            pipeline,
            alerts,
            metrics,
            ..
        } = self;
        pipeline.release(&mut |alert| offer(alerts, metrics, alert))
    }

    /// Does what others have asked for, between two events.
    fn obey(&mut self) {
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Watch(watcher, done) => {
                    self.pipeline.watch(watcher);
                    // Whoever asked may have gone.
                    let _ = done.send(());
                }
                Order::Tell { what, text } => self.tell(what, &text),
                Order::Change(change) => {
                    let Change {
                        rules,
                        delivery,
                        done,
                    } = *change;
                    let outcome = rules.map(|rules| self.change_rules(rules)).transpose();
                    self.settles = Some(Instant::now() + SETTLED);
                    if let (Ok(_), Some(delivery)) = (&outcome, delivery) {
                        let (alerts, metrics) = (&self.alerts, &self.metrics);
                        self.pipeline
                            .set_delivery(delivery, &mut |alert| offer(alerts, metrics, alert));
                    }
                    // Whoever asked may have gone.
                    let _ = done.send(outcome);
                }
            }
        }
    }

    /// Raises an event about something inside the agent.
    fn tell(&mut self, what: &str, text: &str) {
        let (alerts, metrics) = (&self.alerts, &self.metrics);
        self.pipeline
            .internal(what, text, &mut |alert| offer(alerts, metrics, alert));
    }

    /// Puts other rules to work, and what they want while a GPU's driver is there.
    fn change_rules(&mut self, rules: Rules) -> Result<Changed, String> {
        let before = mem::replace(&mut self.gpus.kinds, rules.on_gpus);
        let wish = self.gpus.and(rules.wish);
        let outcome = self.change(rules.detect, &wish);
        if outcome.is_err() {
            self.gpus.kinds = before;
        }
        outcome
    }

    /// Puts other rules to work. The kernel side reports what the old and the new ones want before they change places, and only then
    /// no longer what the old ones alone wanted: no event that either wants is missed, and each is evaluated once.
    fn change(&mut self, detect: Detect, wish: &Wish) -> Result<Changed, String> {
        self.sensor.can_want(wish)?;
        let before = self.sensor.wanted();
        let mut both = before.and(wish);
        if self.sensor.can_want(&both).is_err() {
            both.environment.clone_from(&wish.environment);
        }
        if let Err(error) = self.sensor.want(&both) {
            if let Err(error) = self.sensor.want(&before) {
                error!("the kernel side cannot go back to what the old rules want: {error}");
            }
            return Err(format!(
                "the kernel side cannot supply what the rules want: {error}"
            ));
        }
        if wish.kinds.contains(&Kind::Pickle) && self.pythons.is_none() {
            self.pythons = watch_pythons(&mut self.sensor);
            self.looker = self.pythons.as_ref().map(Watch::looker);
        }
        // What has happened by now is for the old rules.
        self.drain(DRAIN_MAX);
        self.pipeline.set_variables(wish.environment.clone());
        let old = self.pipeline.set_detect(detect);
        if let Err(error) = self.sensor.want(wish) {
            warn!("the kernel side goes on to report what only the old rules wanted: {error}");
        }
        if !wish.kinds.contains(&Kind::Pickle) {
            (self.looker, self.pythons) = (None, None);
        }
        self.pipeline
            .set_interpreters(self.pythons.as_ref().map(Watch::interpreters));
        Ok(Changed {
            old,
            status: self.sensor.status().to_vec(),
        })
    }

    /// Takes in what the thread that asks drivers has found.
    fn look_at_gpus(&mut self) {
        let Self {
            gpus,
            pipeline,
            alerts,
            metrics,
            ..
        } = self;
        let Some(sampler) = &gpus.sampler else {
            return;
        };
        while let Some(sample) = sampler.take() {
            pipeline.gpus(&sample, &mut |alert| offer(alerts, metrics, alert));
            sampler.also(pipeline.gpu_openers());
        }
    }

    fn publish_gpus(&mut self) {
        self.gpus.look_for_driver(&mut self.sensor);
        let Some(gpus) = &mut self.gpus.sampler else {
            return;
        };
        let driver = gpus.watch();
        let name = |wanted: Driver| {
            let found = Driver::ALL.iter().find(|(state, _)| *state == wanted);
            found.map_or("", |(_, name)| name)
        };
        let states = Driver::ALL.map(|(_, name)| name);
        self.metrics
            .gpu
            .driver(&states, name(driver), &gpus.trouble());
        if driver != Driver::Answers {
            // What was seen last says nothing of now, and alerts must not stay on it.
            self.metrics.gpu.publish(Vec::new());
        }
        let (taken, dropped) = gpus.counts();
        self.metrics.gpu.looks(taken, dropped);
    }

    fn tick(&mut self) {
        // A driver that is loaded later brings device numbers of its own.
        match self.sensor.refresh_accelerators() {
            Ok(true) => self
                .pipeline
                .set_accelerators(self.sensor.accelerators().clone()),
            Ok(false) => {}
            Err(error) => warn!(
                "devices of drivers that were loaded since the start are not watched: {error}"
            ),
        }
        match self.sensor.counters() {
            Ok(counters) => {
                publish(&counters, &self.metrics);
                self.report_losses(&counters);
            }
            Err(error) => warn!("cannot read the kernel's counters: {error}"),
        }
        self.report_dropped_alerts();
        let (alerts, metrics) = (&self.alerts, &self.metrics);
        let offer = &mut |alert| offer(alerts, metrics, alert);
        self.pipeline.summarise(false, offer);
        self.publish_rings();
        self.publish_pythons();
        self.publish_gpus();
        self.pipeline.tick();
        if self.settles.is_some_and(|when| Instant::now() >= when) {
            self.settles = None;
            memory::give_back();
        }
    }

    fn publish_pythons(&self) {
        let Some(pythons) = &self.pythons else {
            return;
        };
        let interpreters = pythons.interpreters();
        let counts = interpreters.counts();
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        for (state, count) in
            PYTHON_STATES
                .into_iter()
                .zip([&counts.at_call, &counts.at_entry, &counts.in_python])
        {
            self.metrics
                .python_files
                .get_or_create(&State { state })
                .set(level(read(count)));
        }
        let failures = [
            &counts.without_site,
            &counts.failed,
            &counts.queue_full,
            &counts.evicted,
            &counts.unreadable,
            &counts.cut,
            &counts.unseconded,
        ];
        for (cause, count) in PYTHON_FAILURES.into_iter().zip(failures) {
            let failures = self.metrics.python_failures.get_or_create(&Cause {
                cause: cause.into(),
            });
            raise_to(&failures, read(count));
        }
    }

    /// Lost events are an event: rules alert on them, and the next loss is measured from here.
    fn report_losses(&mut self, counters: &KernelCounters) {
        let last = self.stop.load(Ordering::Acquire);
        for (cause, total) in by_cause(counters) {
            let Some(count) = self.losses.due(cause, total, Instant::now(), last) else {
                continue;
            };
            let cgroup_id = if cause == OVER_SHARE {
                self.most_over_share()
            } else {
                None
            };
            warn!("{count} events were lost: {cause}");
            let (alerts, metrics) = (&self.alerts, &self.metrics);
            self.pipeline.lost(count, cause, cgroup_id, &mut |alert| {
                offer(alerts, metrics, alert);
            });
        }
    }

    /// Alerts that no longer reach a sink are a loss like any other.
    fn report_dropped_alerts(&mut self) {
        let last = self.stop.load(Ordering::Acquire);
        for (cause, dropped_for) in DROPPED_ALERTS {
            let total = self.metrics.delivery.count_of(dropped_for);
            if let Some(count) = self.losses.due(cause, total, Instant::now(), last) {
                warn!("{count} alerts were lost: {cause}");
                let (alerts, metrics) = (&self.alerts, &self.metrics);
                self.pipeline.lost(count, cause, None, &mut |alert| {
                    offer(alerts, metrics, alert);
                });
            }
        }
    }

    fn most_over_share(&mut self) -> Option<u64> {
        match self.sensor.shares().left_out() {
            Ok(left_out) => self.losses.most_over_share(&left_out),
            Err(error) => {
                warn!("cannot tell whose events were left out: {error}");
                None
            }
        }
    }

    fn publish_rings(&mut self) {
        for (program, runs) in self.sensor.runs() {
            self.metrics
                .cost
                .show_program(program, runs.time_ns, runs.count);
        }
        for (ring, bytes) in RINGS.into_iter().zip(self.sensor.ring_bytes()) {
            self.metrics
                .cost
                .ring_capacity
                .get_or_create(&RingName { ring })
                .set(level(bytes));
        }
        let rings = self.sensor.rings();
        raise_to(&self.metrics.ring_overtaken, rings.overtaken());
        for (ring, bytes) in RINGS.into_iter().zip(rings.take_waited_bytes()) {
            self.metrics
                .ring_waiting_bytes
                .get_or_create(&RingName { ring })
                .set(level(bytes));
        }
    }

    /// No more producers, then the rest of the ring, then the books.
    fn finish(mut self) -> Summary {
        self.publish_pythons();
        self.looker = None;
        self.pythons = None;
        if let Err(error) = self.sensor.detach() {
            warn!("cannot wait for the last kernel programs to end: {error}");
        }
        while self.drain(DRAIN_MAX) > 0 {}
        // What was asked may still be answered: the last events get as much time as all others.
        while let Some(due) = self.release() {
            if let Err(error) = self
                .sensor
                .poll(due.saturating_duration_since(Instant::now()))
            {
                warn!("cannot wait for container runtimes: {error}");
                break;
            }
        }
        let Self {
            pipeline,
            alerts,
            metrics,
            ..
        } = &mut self;
        pipeline.release_all(&mut |alert| offer(alerts, metrics, alert));
        pipeline.summarise(true, &mut |alert| offer(alerts, metrics, alert));
        self.tick();
        let counts = self.pipeline.counts();
        let mut summary = Summary {
            delivered: counts.delivered(),
            alerts: counts.alerts,
            ..Summary::default()
        };
        if let Ok(counters) = self.sensor.counters() {
            for (_, kind) in counters.iter() {
                summary.seen += kind.seen;
                summary.filtered += kind.filtered;
            }
            summary.lost_by_cause = by_cause(&counters);
        }
        summary
            .lost_by_cause
            .insert("undecodable", counts.undecoded);
        summary.capture = self.pipeline.end_recording(Totals {
            seen: summary.seen,
            delivered: summary.delivered,
            filtered: summary.filtered,
            lost: summary.lost(),
            alerts: summary.alerts,
        });
        summary
    }
}

/// Starts to look into interpreters, where the kernel side has programs for them.
fn watch_pythons(sensor: &mut Sensor) -> Option<Watch> {
    let uprobes = sensor.take_uprobes();
    if uprobes.is_empty() {
        return None;
    }
    match Watch::start(uprobes) {
        Ok(pythons) => Some(pythons),
        Err(error) => {
            error!("what pickles load is not seen: the thread for it cannot start: {error}");
            None
        }
    }
}

/// Hands an alert to the log without waiting; a full queue is counted.
fn offer(alerts: &mpsc::Sender<Alert>, metrics: &Metrics, alert: Alert) {
    if alerts.try_send(alert).is_err() {
        metrics.delivery.count_dropped("queue_full", 1);
    }
}

fn by_cause(counters: &KernelCounters) -> BTreeMap<&'static str, u64> {
    let mut causes = BTreeMap::new();
    for (_, kind) in counters.iter() {
        for (cause, count) in kind.by_cause() {
            *causes.entry(cause).or_default() += count;
        }
    }
    causes
}

fn publish(counters: &KernelCounters, metrics: &Metrics) {
    for (kind, counts) in counters.iter() {
        let outcomes = [
            ("seen", counts.seen),
            ("filtered", counts.filtered),
            ("submitted", counts.submitted),
        ];
        for (outcome, total) in outcomes.into_iter().chain(counts.by_cause()) {
            let labels = KindOutcome {
                kind: kind.name().into(),
                outcome,
            };
            raise_to(&metrics.kernel_events.get_or_create(&labels), total);
        }
    }
    for (cause, total) in by_cause(counters) {
        raise_to(
            &metrics.events_lost.get_or_create(&Cause {
                cause: cause.into(),
            }),
            total,
        );
    }
}
