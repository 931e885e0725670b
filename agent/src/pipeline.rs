//! One event's way through the agent: bytes → decode → context → fields → detect → alert.
//!
//! Owned by one thread, so that nothing on the way locks. Where the bytes come from (the ring, a capture) and where the
//! alerts go is the caller's business.

mod change;
mod clock;
mod devices;
mod gpu;
mod hold;
mod lost;
mod network;
mod publish;
mod release;
mod replay;
mod start;

use std::{
    os::fd::OwnedFd,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bumpalo::Bump;

use crate::{
    alert::{
        Alert,
        hygiene::{Hygiene, Suppressed},
    },
    config::Config,
    context::{
        container::{Containers, Owner, ProcessKey},
        gpu::GpuFacts,
        model_file::{self, LastOpened},
        names::Names,
        outside::{Note, Outside, Question, Totals},
        process::{Image, Moment, ProcessTable, Relatives, Seed, Slot},
        procfs,
        runtime::{Container, Directory, Look, directory::Why},
    },
    decode::decode,
    detect::Detect,
    event::{Body, Event, Exec},
    fields::{Carried, Device, EventView, Python},
    metrics::{Cause, HOLD_OUTCOMES, INCOMPLETE_CAUSES, Metrics},
    redact::Redactor,
    source::{
        capture::{Header, Writer, Written},
        devices::Accelerators,
        python::interpreters::Interpreters,
    },
    watch::Watchers,
};
pub use change::Delivery;
pub use replay::{Gaps, Replay};

use clock::Clock;
use devices::DeviceOpens;
use gpu::GpuWatch;
use hold::{Held, Hold, HoldLimits};
use network::Network;
use release::Ending;

/// An arena that an unusual event grew beyond this is given back.
const ARENA_KEEP_BYTES: usize = 1 << 20;

/// One event in this many has its latency measured: reading the clock costs more than many evaluations.
const LATENCY_SAMPLE: u64 = 64;

/// Forks in a row through which a Python's version is followed.
const KIN_MAX: usize = 16;

/// The stages and their state.
#[derive(Debug)]
pub struct Pipeline {
    table: ProcessTable,
    containers: Containers,
    runtimes: Directory,
    hold: Hold,
    names: Names,
    detect: Detect,
    hygiene: Hygiene,
    watchers: Watchers,
    redactor: Option<Redactor>,
    accelerators: Accelerators,
    interpreters: Option<Arc<Interpreters>>,
    outside: Outside,
    models: LastOpened,
    device_opens: DeviceOpens,
    network: Network,
    gpu: GpuWatch,
    arena: Bump,
    hostname: String,
    own_tgid: u32,
    /// Environment variables that are recorded of processes.
    variables: Vec<String>,
    clock: Clock,
    /// The last event's `evt.num`.
    number: u64,
    counts: Counts,
    published: Counts,
    metrics: Arc<Metrics>,
}

/// What went through, in events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records that decoded, per kind in the order of [`crate::event::TYPES`].
    pub kinds: [u64; crate::event::TYPES.len()],
    /// Records that did not.
    pub undecoded: u64,
    /// Alerts raised.
    pub alerts: u64,
    /// Events that were held, by how that ended, in the order of [`HOLD_OUTCOMES`].
    pub held: [u64; HOLD_OUTCOMES.len()],
    /// Events evaluated without their container's metadata, in the order of [`INCOMPLETE_CAUSES`].
    pub incomplete: [u64; INCOMPLETE_CAUSES.len()],
}

impl Counts {
    /// All records that decoded.
    pub fn delivered(&self) -> u64 {
        self.kinds.iter().sum()
    }
}

impl Pipeline {
    /// Empty context, rules ready. Containers are looked up below `cgroup_root`, their metadata in `runtimes`, devices among
    /// `accelerators`.
    pub fn new(
        config: &Config,
        hostname: &str,
        detect: Detect,
        cgroup_root: Option<OwnedFd>,
        runtimes: Directory,
        accelerators: Accelerators,
        metrics: Arc<Metrics>,
    ) -> Self {
        let place = Place {
            hostname: hostname.into(),
            own_tgid: std::process::id(),
            containers: Containers::new(cgroup_root),
            names: Names::new(host_root(), Path::new("/proc")),
            clock: Clock::new(),
            outside: Outside::machine(),
        };
        Self::at(place, config, detect, runtimes, accelerators, metrics)
    }

    fn at(
        place: Place,
        config: &Config,
        mut detect: Detect,
        runtimes: Directory,
        accelerators: Accelerators,
        metrics: Arc<Metrics>,
    ) -> Self {
        detect.tell_context(config.sinks.needs_context(&config.stdout));
        Self {
            variables: detect.variables(&config.sensor.environment),
            table: ProcessTable::new(config.processes.max, config.processes.bytes_max),
            containers: place.containers,
            runtimes,
            hold: Hold::new(HoldLimits {
                time: config.containers.hold(),
                events_max: config.containers.hold_events_max,
                bytes_max: config.containers.hold_bytes_max,
            }),
            names: place.names,
            detect,
            hygiene: Hygiene::new(config.alerts.limits()),
            watchers: Watchers::default(),
            redactor: config.redact.redactor(),
            accelerators,
            interpreters: None,
            models: LastOpened::default(),
            device_opens: DeviceOpens::default(),
            network: Network::default(),
            gpu: GpuWatch::new(config.gpu.mining_observe_s),
            arena: Bump::new(),
            hostname: place.hostname,
            own_tgid: place.own_tgid,
            clock: place.clock,
            outside: place.outside,
            number: 0,
            counts: Counts::default(),
            published: Counts::default(),
            metrics,
        }
    }

    /// Fills the process table with what runs now. Called after the probes are attached and before the ring is read, so that
    /// no process falls between; events that the ring already holds then meet their own process again.
    pub fn scan(&mut self, proc: &Path) {
        let now_ns = self.clock.boot_ns();
        for seed in procfs::scan(proc, &self.variables) {
            self.outside.note(|| Note::Process(seed.clone()));
            self.table.add(seed, now_ns);
        }
        self.table.link_parents();
        self.outside.note(|| Note::Scanned);
    }

    /// From now on writes down everything that comes in. Before anything does: a replay starts with nothing.
    pub fn record_to(&mut self, writer: Writer) {
        self.outside = Outside::recording(writer);
        self.names.watch_changes();
        let drivers = self.accelerators.drivers().to_vec();
        self.outside.note(|| Note::Drivers(drivers));
    }

    /// Ends the recording, if there is one.
    pub fn end_recording(&mut self, totals: Totals) -> Option<Written> {
        self.outside.finish(totals)
    }

    /// What a capture has to say of this pipeline in front.
    pub fn describe(&self, header: &mut Header) {
        header.hostname.clone_from(&self.hostname);
        header.own_tgid = self.own_tgid;
        header.epoch_offset_ns = self.clock.epoch_offset_ns;
        header.host_mount_ns = self.names.host_ns();
        (header.cgroup_root, header.has_cgroup_v1) = self.containers.origin();
        header.variables.clone_from(&self.variables);
    }

    /// Takes one record from the wire.
    pub fn record(&mut self, bytes: &[u8], alerts: &mut dyn FnMut(Alert)) {
        let begun = self.is_measured().then(Instant::now);
        match decode(bytes) {
            Ok(event) => {
                if let Some(begun) = begun {
                    let waited_ns = self.clock.boot_ns().saturating_sub(event.ts_ns);
                    let cost = &self.metrics.cost;
                    cost.stage("ring", Duration::from_nanos(waited_ns));
                    cost.stage("decode", begun.elapsed());
                }
                let begun = begun.map(|_| Instant::now());
                self.counts.kinds[event.type_index()] += 1;
                self.late_hellos(event.ts_ns, alerts);
                match event.body {
                    Body::Tls(packet) => self.hello(&event, &packet, bytes, alerts),
                    _ => self.event(&event, bytes, alerts),
                }
                if let Some(begun) = begun {
                    self.metrics.cost.stage("evaluate", begun.elapsed());
                }
            }
            Err(error) => {
                self.counts.undecoded += 1;
                self.metrics
                    .events_lost
                    .get_or_create(&Cause {
                        cause: error.cause().into(),
                    })
                    .inc();
            }
        }
        self.outside.record(bytes);
    }

    /// Is the next event one of those whose stages are measured?
    fn is_measured(&self) -> bool {
        (self.number + 1).is_multiple_of(LATENCY_SAMPLE) && self.clock.is_running()
    }

    /// Housekeeping, about once a second: names of users, the clock's offset, metrics.
    pub fn tick(&mut self) {
        self.names.refresh(Instant::now());
        self.note_names();
        self.clock.adjust();
        let offset_ns = self.clock.epoch_offset_ns;
        self.outside.note(|| Note::Clock(offset_ns));
        self.outside.tick();
        self.network.sweep(self.clock.boot_ns());
        self.watchers.sweep();
        self.publish();
    }

    /// Hands on what is to be said of alerts that were only counted; at the end all of it.
    pub fn summarise(&mut self, is_end: bool, alerts: &mut dyn FnMut(Alert)) {
        let now_ns = self.clock.epoch_ns();
        let raised = &mut self.counts.alerts;
        let mut alerts = |alert| {
            *raised += 1;
            alerts(alert);
        };
        if is_end {
            self.hygiene.finish(now_ns, &mut alerts);
        } else {
            self.hygiene.tick(now_ns, &mut alerts);
        }
    }

    /// What went through so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn event(&mut self, event: &Event<'_>, bytes: &[u8], alerts: &mut dyn FnMut(Alert)) {
        // Of a packet whose socket was connected before the agent started only the cgroup is known.
        if event.tgid == 0 {
            return self.consider(event, bytes, None, alerts);
        }
        let actor = self.actor(event);
        match event.body {
            Body::Exec(exec) => self.exec(event, &exec, actor),
            Body::Fork(_) => self.fork(event, actor),
            Body::CgroupMkdir(made) => {
                self.containers
                    .made(made.id, made.path.bytes, made.path.cut);
            }
            Body::Open(open) if open.res >= 0 => {
                let thread = (event.tgid, event.start_ns, event.tid);
                self.models.opened(thread, open.resolved.bytes);
            }
            _ => {}
        }
        let process = self.table.get(actor);
        if let Some(mount_ns) = process.and_then(|process| process.mount_ns)
            && !self.names.is_hosts(mount_ns)
        {
            self.names.prepare(mount_ns, event.tgid, Instant::now());
            self.note_names();
        }
        // What the agent does itself is no news, and an alert about an alert would have no end.
        if event.tgid != self.own_tgid {
            self.consider(event, bytes, Some(actor), alerts);
        }
        if let Body::Exit(_) = event.body {
            self.gpu.ended((event.tgid, event.start_ns));
            self.table.end(actor, event.ts_ns);
        }
    }

    /// The process that an event speaks of. One that is not known (its fork was lost) starts with what `/proc` still has,
    /// or else with what the event says.
    fn actor(&mut self, event: &Event<'_>) -> Slot {
        if let Some(slot) = self.table.find(event.tgid, event.start_ns) {
            self.table.set_parent_pid(slot, event.ppid);
            return slot;
        }
        let process = self.outside.ask(Question::Process(event.tgid), || {
            procfs::read(Path::new("/proc"), event.tgid, &self.variables)
                .filter(|seed| seed.is_started_at(event.start_ns))
        });
        if let Some(seed) = process.flatten() {
            return self.table.add(seed, event.ts_ns);
        }
        let seed = Seed {
            tgid: event.tgid,
            start_ns: event.start_ns,
            ppid: event.ppid,
            image: Arc::new(Image::named(event.comm)),
            uid: event.uid,
            gid: event.gid,
            loginuid: u32::MAX,
            cgroup_id: event.cgroup_id,
            ..Seed::default()
        };
        self.table.add(seed, event.ts_ns)
    }

    fn exec<'a>(&mut self, event: &Event<'a>, exec: &Exec<'a>, actor: Slot) {
        let image = start::image(event, exec, &self.variables);
        self.table.set_image(actor, image, event.ts_ns);
        let Some(process) = self.table.get_mut(actor) else {
            return;
        };
        process.ppid = event.ppid;
        process.uid = event.uid;
        process.gid = event.gid;
        process.loginuid = exec.loginuid.unwrap_or(u32::MAX);
        process.sid = exec.session_leader.unwrap_or(0);
        process.tty = exec.tty;
        process.vpid = exec.ns_tgid;
        process.pgid = exec.pgid.unwrap_or(0);
        process.vpgid = exec.ns_pgid;
        process.pid_ns_start_ns = exec.pid_ns_start_ns;
        process.capabilities = exec.capabilities;
        process.mount_ns = exec.mount_ns;
        process.cgroup_id = event.cgroup_id;
    }

    /// A new process starts as a copy of its creator; a new thread changes nothing.
    fn fork(&mut self, event: &Event<'_>, creator: Slot) {
        let Body::Fork(fork) = event.body else { return };
        if fork.is_thread() {
            return;
        }
        let Some(creator) = self.table.get_mut(creator) else {
            return;
        };
        // Neither setsid nor setpgid is traced: a fork and an exec show what they did meanwhile.
        creator.sid = fork.session_leader.unwrap_or(creator.sid);
        creator.pgid = fork.pgid.unwrap_or(creator.pgid);
        let seed = Seed {
            tgid: fork.child_tgid,
            start_ns: fork.child_start_ns,
            start_rounded: false,
            ppid: fork.child_ppid,
            image: Arc::clone(&creator.image),
            image_shared: true,
            uid: event.uid,
            gid: event.gid,
            loginuid: creator.loginuid,
            sid: creator.sid,
            tty: creator.tty,
            vpid: fork.child_ns_tgid,
            pgid: creator.pgid,
            vpgid: fork.child_ns_pgid,
            pid_ns_start_ns: creator.pid_ns_start_ns,
            capabilities: creator.capabilities,
            mount_ns: creator.mount_ns,
            cgroup_id: fork.child_cgroup_id,
        };
        self.table.add(seed, event.ts_ns);
    }

    /// What is known of the Python that an event came from. It is asked now: the process goes on, and closes its files.
    fn python(&self, event: &Event<'_>) -> Option<Python> {
        let Body::Pickle(_) = event.body else {
            return None;
        };
        let proc = Path::new("/proc");
        let thread = (event.tgid, event.start_ns, event.tid);
        let remembered = self.models.of(thread).map(Into::into);
        // Whoever was forked and has started nothing since shares its image with those that it comes from.
        let process = self.table.find(event.tgid, event.start_ns);
        let process = process.and_then(|slot| self.table.get(slot));
        let kin = || {
            let process = process.into_iter();
            process.flat_map(|process| {
                let ancestors = self.table.ancestors(process).take(KIN_MAX);
                let same = ancestors.take_while(|kin| Arc::ptr_eq(&kin.image, &process.image));
                same.map(|kin| kin.tgid)
            })
        };
        let ask = || Python {
            version: self
                .interpreters
                .as_ref()
                .and_then(|interpreters| interpreters.version_of(proc, event.tgid, kin()))
                .map(|version| version.to_string().into()),
            model_file: remembered.or_else(|| model_file::of_process(proc, event.tgid)),
        };
        self.outside.ask(Question::Python(event.tgid), ask)
    }

    /// Evaluates an event now, or lets it wait for its container's metadata.
    fn consider(
        &mut self,
        event: &Event<'_>,
        bytes: &[u8],
        actor: Option<Slot>,
        alerts: &mut dyn FnMut(Alert),
    ) {
        self.number += 1;
        // Only the process itself knows where its relative paths start: chdir is not traced. It may be gone already.
        let folder = match event.body {
            Body::Open(open)
                if open.resolved.bytes.is_empty() && !open.path.bytes.starts_with(b"/") =>
            {
                let question = Question::Folder(event.tgid, open.dfd);
                let folder = || procfs::folder(Path::new("/proc"), event.tgid, open.dfd);
                self.outside.ask(question, folder).flatten()
            }
            _ => None,
        };
        let process = ProcessKey {
            tgid: event.tgid,
            start_ns: event.start_ns,
        };
        if let Body::Fork(fork) = event.body
            && !fork.is_thread()
        {
            let child = ProcessKey {
                tgid: fork.child_tgid,
                start_ns: fork.child_start_ns,
            };
            let cgroup_id = fork.child_cgroup_id;
            self.containers
                .forked(&self.outside, process, child, cgroup_id);
        }
        let moved = matches!(event.body, Body::Exec(_));
        let owner = self
            .containers
            .resolve(&self.outside, event.cgroup_id, process, moved);
        let look = owner.runtime_id().map(|id| {
            self.outside.runtimes_present(self.runtimes.is_present());
            self.runtimes.look(id, event.ts_ns)
        });
        match owner {
            Owner::Unknown => self.counts.incomplete[UNRESOLVED] += 1,
            Owner::Rootless(_) => self.counts.incomplete[NOT_FOUND] += 1,
            Owner::Host | Owner::Container(_) | Owner::Nested { .. } => {}
        }
        self.network.learn(event, &owner);
        let python = self.python(event);
        let mut scene = Scene {
            number: self.number,
            python: python.as_ref(),
            gpu: None,
            actor,
            past: None,
            folder: folder.as_deref(),
            owner: &owner,
            container: None,
            incomplete: owner.is_nameless(),
        };
        if let (Some(id), Some(look)) = (owner.runtime_id(), &look) {
            match look {
                Look::Known(container) => scene.container = Some(container),
                Look::Asked => {
                    let held = Held {
                        bytes: bytes.into(),
                        number: scene.number,
                        owner: owner.clone(),
                        actor: actor
                            .and_then(|slot| self.table.get(slot))
                            .map(|process| Moment::of(&self.table, process)),
                        folder: folder.as_deref().map(Into::into),
                        python: python.clone(),
                    };
                    if self.hold.push(id, held, Instant::now()) {
                        return;
                    }
                    self.runtimes.give_up(id);
                    self.end_hold(id, Ending::QueueFull, alerts);
                    self.counts.incomplete[Ending::QueueFull as usize] += 1;
                }
                Look::Unknown(why) => {
                    let cause = match why {
                        Why::NotFound => NOT_FOUND,
                        Why::NoRuntime => NO_RUNTIME,
                        Why::Late => LATE,
                    };
                    self.counts.incomplete[cause] += 1;
                }
            }
            scene.incomplete = scene.container.is_none_or(|container| container.cut);
            // Nothing of a container overtakes what waits.
            if self.hold.holds(id) {
                self.end_hold(id, Ending::Timeout, alerts);
            }
        }
        self.evaluate(event, &scene, alerts);
    }

    fn evaluate(&mut self, event: &Event<'_>, scene: &Scene<'_>, alerts: &mut dyn FnMut(Alert)) {
        let begun = match &event.body {
            Body::Open(open) => self.device_opens.end(event, open),
            _ => None,
        };
        let numbers = match event.body {
            Body::DeviceOpen(open) => Some((open.major, open.minor)),
            _ => begun.as_ref().map(|begun| (begun.major, begun.minor)),
        };
        let device = numbers.and_then(|(major, minor)| {
            let name = self.accelerators.path(major, minor)?;
            Some((name, major, minor))
        });
        if let Body::Tls(packet) = event.body
            && packet.begins_as_json()
        {
            // It is evidence for what is said of GPUs, and no event of TLS.
            return self.gpu.greeted(event, packet.data.bytes, scene.owner);
        }
        let carried = Carried::of(event);
        self.gpu.heard(event, carried.as_ref(), scene.owner);
        let view = EventView {
            event,
            number: scene.number,
            epoch_offset_ns: self.clock.epoch_offset_ns,
            hostname: &self.hostname,
            process: match scene.past {
                Some(moment) => Some(&moment.process),
                None => scene.actor.and_then(|slot| self.table.get(slot)),
            },
            relatives: scene
                .past
                .map_or(Relatives::Now(&self.table), Relatives::Then),
            folder: scene.folder,
            device: device.as_ref().map(|(name, major, minor)| Device {
                name,
                major: *major,
                minor: *minor,
            }),
            python: scene.python,
            gpu: scene.gpu,
            carried: carried.as_ref(),
            resolved: &self.network.resolved,
            owner: scene.owner,
            container: scene.container,
            incomplete: scene.incomplete,
            names: &self.names,
            proc: Path::new("/proc"),
            outside: &self.outside,
            redactor: None,
            arena: &self.arena,
        };
        let shown = EventView {
            redactor: self.redactor.as_ref(),
            ..view
        };
        let raised = &mut self.counts.alerts;
        let hygiene = &mut self.hygiene;
        let mut alerted = begun.map_or_else(Vec::new, |begun| begun.alerted);
        self.detect
            .observe(&view, &shown, &self.metrics, &mut alerted, &mut |alert| {
                if let Some(redactor) = shown.redactor {
                    self.metrics.redactions.inc_by(redactor.take_count());
                }
                let suppressed = hygiene.pass(alert, &mut |alert| {
                    *raised += 1;
                    alerts(alert);
                });
                if let Some(why) = suppressed {
                    let cause = match why {
                        Suppressed::Same => "same",
                        Suppressed::Rate => "rate",
                    };
                    let cause = cause.into();
                    let counter = &self.metrics.delivery.suppressed;
                    counter.get_or_create(&Cause { cause }).inc();
                }
            });
        if !self.watchers.is_empty() {
            self.watchers.observe(&view, &shown);
            // The metric counts what is taken out of alerts.
            let _ = shown.redactor.map(Redactor::take_count);
        }
        if let Body::DeviceOpen(open) = &event.body {
            self.gpu.opened(event, open);
            self.device_opens.begin(event, open, alerted);
        }
        if scene.number.is_multiple_of(LATENCY_SAMPLE) && self.clock.is_running() {
            let latency_ns = self.clock.boot_ns().saturating_sub(event.ts_ns);
            self.metrics.event_latency.observe(latency_ns as f64 / 1e9);
        }
        if self.arena.allocated_bytes() > ARENA_KEEP_BYTES {
            self.arena = Bump::new();
        } else {
            self.arena.reset();
        }
    }

    /// Notes whose names of users and groups have changed.
    fn note_names(&mut self) {
        for (mount_ns, accounts) in self.names.take_changes() {
            self.outside.note(|| Note::Accounts(mount_ns, accounts));
        }
    }
}

/// The host's root folder: in a container of its own the agent sees it through the host's first process.
fn host_root() -> &'static Path {
    let through_first = Path::new("/proc/1/root");
    let own = procfs::mount_namespace(Path::new("/proc"), std::process::id());
    let is_host = own == procfs::mount_namespace(Path::new("/proc"), 1);
    if !is_host && through_first.join("etc/passwd").exists() {
        through_first
    } else {
        Path::new("/")
    }
}

/// Where a pipeline is at work: on a machine, or over what a capture says of one.
struct Place {
    hostname: String,
    own_tgid: u32,
    containers: Containers,
    names: Names,
    clock: Clock,
    outside: Outside,
}

/// What is known of an event besides itself.
struct Scene<'s> {
    number: u64,
    actor: Option<Slot>,
    /// The same and its ancestors as they were; `None`: as they are.
    past: Option<&'s Moment>,
    folder: Option<&'s [u8]>,
    python: Option<&'s Python>,
    gpu: Option<GpuFacts<'s>>,
    owner: &'s Owner,
    container: Option<&'s Container>,
    incomplete: bool,
}

// Further places in INCOMPLETE_CAUSES.
const NOT_FOUND: usize = 2;
const NO_RUNTIME: usize = 4;
const LATE: usize = 5;
const UNRESOLVED: usize = 6;
/// The metadata came.
const COMPLETE: usize = usize::MAX;
