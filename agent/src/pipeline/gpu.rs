//! Looks at GPUs on their way: each is an event of the GPU, and one of each process on it; and what pools' names were heard.

use std::{collections::HashMap, mem, path::Path, sync::Arc};

use super::{Pipeline, Scene};
use crate::{
    alert::Alert,
    context::{
        container::{Owner, ProcessKey},
        gpu::{GpuFacts, Gpus, Key, Seen, Use},
        outside::{Note, Question},
        process::{Process, Relatives, Slot},
        procfs,
        runtime::{Container, Look as RuntimeLook},
    },
    event::{
        Body, DeviceOpen, Event, Gpu,
        gpu::{GpuProcess, GpuSample, GpuState, Look},
    },
    fields::Carried,
    metrics::gpu::{CardState, Row, RowProcess},
    mining::{self, About, Identity, pools, stratum},
};

/// NVIDIA's cards: minor numbers below are cards, above are the driver's own nodes.
const NVIDIA_MAJOR: u32 = 195;
const CARDS_MAX: u32 = 254;
/// Between two verdicts on one process.
const JUDGE_NS: u64 = 10_000_000_000;
/// How long a pool's name is remembered, and of how many containers and processes.
const POOL_NS: u64 = 3_600_000_000_000;
const POOLS_MAX: usize = 1_024;
const ANCESTORS_MAX: usize = 32;

/// What is known of GPUs and of who looked for pools.
#[derive(Debug, Default)]
pub(super) struct GpuWatch {
    known: Gpus,
    pools: HashMap<Caller, Heard>,
    observe_ns: u64,
}

/// What was heard of pools, and when.
#[derive(Clone, Debug, Default)]
struct Heard {
    /// A name, and how.
    pool: Option<(Box<str>, &'static str, u64)>,
    /// A method of Stratum that a connection began with.
    stratum: Option<(&'static str, u64)>,
}

impl Heard {
    /// What of it is not too old.
    fn since(&self, now_ns: u64) -> Self {
        let is_fresh = |at: u64| at.saturating_add(POOL_NS) > now_ns;
        Self {
            pool: self.pool.clone().filter(|(_, _, at)| is_fresh(*at)),
            stratum: self.stratum.filter(|(_, at)| is_fresh(*at)),
        }
    }

    fn is_empty(&self) -> bool {
        self.pool.is_none() && self.stratum.is_none()
    }
}

/// Whom a name was told: a container, or a process outside of any.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Caller {
    Container(Arc<str>),
    Process(u32),
}

impl Caller {
    fn of(owner: &Owner, tgid: u32) -> Self {
        match owner {
            Owner::Container(id) | Owner::Nested { outer: id, .. } | Owner::Rootless(id) => {
                Self::Container(Arc::clone(id))
            }
            Owner::Host | Owner::Unknown => Self::Process(tgid),
        }
    }
}

impl GpuWatch {
    pub(super) fn new(observe_s: u64) -> Self {
        Self {
            observe_ns: observe_s * 1_000_000_000,
            ..Self::default()
        }
    }

    /// Remembers who was told a pool's name, or greeted one.
    pub(super) fn heard(&mut self, event: &Event<'_>, carried: Option<&Carried>, owner: &Owner) {
        let (name, how) = match carried {
            Some(Carried::Dns(answer)) => {
                let names = answer.name.iter().chain(&answer.cnames);
                let Some(name) = names.map(|name| &**name).find_map(pools::pool) else {
                    return;
                };
                (name, "DNS")
            }
            Some(Carried::Tls(hello)) => {
                let name = hello.sni.as_deref();
                let name = name.and_then(|name| std::str::from_utf8(name).ok());
                let Some(name) = name.and_then(pools::pool) else {
                    return;
                };
                (name, "TLS")
            }
            None => return,
        };
        let heard = self.heard_by(event, owner);
        heard.pool = Some((name.into(), how, event.ts_ns));
    }

    /// Remembers who greeted somebody as miners greet their pools.
    pub(super) fn greeted(&mut self, event: &Event<'_>, greeting: &[u8], owner: &Owner) {
        if let Some(method) = stratum::method(greeting) {
            self.heard_by(event, owner).stratum = Some((method, event.ts_ns));
        }
    }

    fn heard_by(&mut self, event: &Event<'_>, owner: &Owner) -> &mut Heard {
        let caller = Caller::of(owner, event.tgid);
        if self.pools.len() >= POOLS_MAX && !self.pools.contains_key(&caller) {
            self.pools
                .retain(|_, heard| !heard.since(event.ts_ns).is_empty());
            if self.pools.len() >= POOLS_MAX {
                self.pools.clear();
            }
        }
        self.pools.entry(caller).or_default()
    }

    /// Remembers who opened a card.
    pub(super) fn opened(&mut self, event: &Event<'_>, open: &DeviceOpen<'_>) {
        if open.major == NVIDIA_MAJOR && open.minor < CARDS_MAX && (open.read || open.write) {
            let process = (event.tgid, event.start_ns);
            self.known.opened(process, open.minor, event.ts_ns);
        }
    }

    pub(super) fn ended(&mut self, process: Key) {
        self.known.ended(process);
        // Its pid may be another's soon.
        self.pools.remove(&Caller::Process(process.0));
    }
}

/// What is known of a process on a GPU.
struct Actor {
    slot: Slot,
    owner: Owner,
    container: Option<Arc<Container>>,
}

impl Pipeline {
    /// Takes a look at all GPUs.
    pub fn gpus(&mut self, sample: &GpuSample, alerts: &mut dyn FnMut(Alert)) {
        let mut watch = mem::take(&mut self.gpu);
        watch.known.learn(sample);
        let mut rows = Vec::new();
        for state in &sample.gpus {
            self.card(&watch, state, sample.taken_ns, alerts);
            let before = rows.len();
            for process in &state.processes {
                self.user(
                    &mut watch,
                    state,
                    process,
                    sample.taken_ns,
                    &mut rows,
                    alerts,
                );
            }
            for ((pid, start_ns), look) in watch.known.unnamed(sample, state) {
                let process = GpuProcess {
                    pid,
                    look: Some(look.unwrap_or_else(|| Look {
                        start_ns,
                        ..Look::default()
                    })),
                    ..GpuProcess::default()
                };
                let key = (pid, start_ns);
                self.opener(
                    &mut watch,
                    state,
                    &process,
                    key,
                    sample.taken_ns,
                    &mut rows,
                    alerts,
                );
            }
            if rows.len() == before {
                rows.push(row(state, None));
            }
        }
        self.metrics.gpu.publish(rows);
        // What alerts have made of it may not be lost with the sample.
        let kept = mem::replace(&mut self.gpu, watch);
        self.gpu.pools.extend(kept.pools);
        self.outside.note(|| Note::Gpus(sample.clone()));
    }

    /// Processes that the next look at GPUs is to show too.
    pub fn gpu_openers(&self) -> Vec<u32> {
        self.gpu.known.openers()
    }

    /// The event of a GPU alone.
    fn card(
        &mut self,
        watch: &GpuWatch,
        state: &GpuState,
        now_ns: u64,
        alerts: &mut dyn FnMut(Alert),
    ) {
        let body = Body::Gpu(Gpu {
            state,
            process: None,
        });
        let event = Event::internal(now_ns, self.own_tgid, body);
        self.number += 1;
        let scene = Scene {
            number: self.number,
            actor: None,
            past: None,
            folder: None,
            python: None,
            gpu: watch
                .known
                .unit(&state.uuid)
                .map(|unit| GpuFacts { unit, used: None }),
            // It is nobody's: not the host's either.
            owner: &Owner::Unknown,
            container: None,
            incomplete: false,
        };
        self.evaluate(&event, &scene, alerts);
    }

    /// The event of a process that the driver names.
    fn user(
        &mut self,
        watch: &mut GpuWatch,
        state: &GpuState,
        process: &GpuProcess,
        now_ns: u64,
        rows: &mut Vec<Row>,
        alerts: &mut dyn FnMut(Alert),
    ) {
        let actor = self.gpu_actor(process, now_ns);
        let GpuWatch {
            known,
            pools,
            observe_ns,
        } = &mut *watch;
        if let Some(used) = known.used_mut(&state.uuid, process.pid) {
            self.judge_by_turns(used, pools, actor.as_ref(), process, now_ns, *observe_ns);
        }
        let used = watch
            .known
            .unit(&state.uuid)
            .and_then(|unit| unit.uses.get(&process.pid));
        self.tell(
            watch,
            state,
            process,
            used,
            actor.as_ref(),
            now_ns,
            rows,
            alerts,
        );
    }

    /// The event of a process that opened a GPU and that the driver does not name.
    #[expect(
        clippy::too_many_arguments,
        reason = "one event's parts, each by its own name"
    )]
    fn opener(
        &mut self,
        watch: &mut GpuWatch,
        state: &GpuState,
        process: &GpuProcess,
        key: Key,
        now_ns: u64,
        rows: &mut Vec<Row>,
        alerts: &mut dyn FnMut(Alert),
    ) {
        let actor = self.gpu_actor(process, now_ns);
        let GpuWatch {
            known,
            pools,
            observe_ns,
        } = &mut *watch;
        if let Some(used) = known.opening_mut(key, state.minor) {
            self.judge_by_turns(used, pools, actor.as_ref(), process, now_ns, *observe_ns);
        }
        let used = watch.known.opening(key, state.minor);
        self.tell(
            watch,
            state,
            process,
            used,
            actor.as_ref(),
            now_ns,
            rows,
            alerts,
        );
    }

    /// Judges a process if it was not lately.
    fn judge_by_turns(
        &self,
        used: &mut Use,
        pools: &HashMap<Caller, Heard>,
        actor: Option<&Actor>,
        process: &GpuProcess,
        now_ns: u64,
        observe_ns: u64,
    ) {
        if used.judged_ns != 0 && used.judged_ns + JUDGE_NS > now_ns {
            return;
        }
        used.judged_ns = now_ns;
        let owner = actor.map_or(&Owner::Unknown, |actor| &actor.owner);
        let heard = pools.get(&Caller::of(owner, process.pid));
        let heard = heard.map_or_else(Heard::default, |heard| heard.since(now_ns));
        let known = actor.and_then(|actor| self.table.get(actor.slot));
        used.verdict = self.judge(known, process, used, &heard, now_ns, observe_ns);
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one event's parts, each by its own name"
    )]
    fn tell(
        &mut self,
        watch: &GpuWatch,
        state: &GpuState,
        process: &GpuProcess,
        used: Option<&Use>,
        actor: Option<&Actor>,
        now_ns: u64,
        rows: &mut Vec<Row>,
        alerts: &mut dyn FnMut(Alert),
    ) {
        let unit = watch.known.unit(&state.uuid);
        let start_ns = process.look.as_ref().map_or(0, |look| look.start_ns);
        // Only where there is no room for it.
        let unknown = Use::new(start_ns, now_ns);
        let used = used.unwrap_or(&unknown);
        let known = actor.and_then(|actor| self.table.get(actor.slot));
        let body = Body::Gpu(Gpu {
            state,
            process: Some(process),
        });
        let mut event = Event::internal(now_ns, process.pid, body);
        let name = known.map(|known| Arc::clone(&known.image));
        if let (Some(known), Some(image)) = (known, &name) {
            event.comm = &image.name;
            event.start_ns = known.start_ns;
            event.ppid = known.ppid;
            (event.uid, event.gid) = (known.uid, known.gid);
            (event.euid, event.egid) = (known.uid, known.gid);
            event.cgroup_id = known.cgroup_id;
        }
        let container = actor.and_then(|actor| actor.container.as_deref());
        rows.push(row(
            state,
            Some(row_process(process, used, known, container, now_ns)),
        ));
        self.number += 1;
        let owner = actor.map_or(&Owner::Unknown, |actor| &actor.owner);
        let scene = Scene {
            number: self.number,
            actor: actor.map(|actor| actor.slot),
            past: None,
            folder: None,
            python: None,
            gpu: unit.map(|unit| GpuFacts {
                unit,
                used: Some(used),
            }),
            owner,
            container,
            incomplete: owner.runtime_id().is_some()
                && container.is_none_or(|container| container.cut),
        };
        self.evaluate(&event, &scene, alerts);
    }

    /// The process that a driver's pid stands for, and whose it is.
    fn gpu_actor(&mut self, process: &GpuProcess, now_ns: u64) -> Option<Actor> {
        let start_ns = process.look.as_ref()?.start_ns;
        let is_it = |known: &Process| procfs::is_same_start(known.start_ns, start_ns);
        let live = self.table.live(process.pid);
        let slot = match live.filter(|slot| self.table.get(*slot).is_some_and(is_it)) {
            Some(slot) => slot,
            None => {
                let question = Question::Process(process.pid);
                let seed = self.outside.ask(question, || {
                    procfs::read(Path::new("/proc"), process.pid, &self.variables)
                        .filter(|seed| seed.is_started_at(start_ns))
                });
                self.table.add(seed.flatten()?, now_ns)
            }
        };
        let known = self.table.get(slot)?;
        let key = ProcessKey {
            tgid: process.pid,
            start_ns: known.start_ns,
        };
        let owner = match known.cgroup_id {
            // It ran before the agent did, and no event has told where.
            0 => self.containers.of_process(&self.outside, key),
            cgroup_id => self
                .containers
                .resolve(&self.outside, cgroup_id, key, false),
        };
        if let Some(mount_ns) = known.mount_ns
            && !self.names.is_hosts(mount_ns)
        {
            self.names
                .prepare(mount_ns, process.pid, std::time::Instant::now());
        }
        let look = owner.runtime_id().map(|id| {
            self.outside.runtimes_present(self.runtimes.is_present());
            self.runtimes.look(id, now_ns)
        });
        let container = match look {
            Some(RuntimeLook::Known(container)) => Some(container),
            _ => None,
        };
        Some(Actor {
            slot,
            owner,
            container,
        })
    }

    fn judge(
        &self,
        known: Option<&Process>,
        process: &GpuProcess,
        used: &Use,
        heard: &Heard,
        now_ns: u64,
        observe_ns: u64,
    ) -> mining::Verdict {
        let look = process.look.as_ref();
        let runtime = look
            .and_then(|look| look.libraries.as_ref())
            .map(|libraries| libraries.runtime.as_deref());
        let image = known.map(|known| &*known.image);
        let identity = image.map(|image| Identity {
            name: &image.name,
            exe: &image.exe_path,
            args: image.args(),
            memfd: image.from_memfd,
            deleted: look.is_some_and(|look| look.deleted),
            runtime,
            is_kernel: image.exe_path.is_empty() && image.args().is_empty(),
        });
        let relatives = Relatives::Now(&self.table);
        let ancestors = known.into_iter().flat_map(|known| {
            let all = relatives.ancestors(known).take(ANCESTORS_MAX);
            all.map(|ancestor| mining::Ancestor {
                name: &ancestor.image.name,
                args: ancestor.image.args(),
            })
        });
        let ancestors: Vec<_> = ancestors.collect();
        let connections = used.connections.iter().map(|known| mining::Connection {
            remote: &known.remote,
            seconds: known.seconds(now_ns),
            rate: known.rate(now_ns),
        });
        let connections: Vec<_> = connections.collect();
        let about = About {
            identity: identity.unwrap_or_default(),
            pool: heard.pool.as_ref().map(|(name, how, _)| (&**name, *how)),
            stratum: heard.stratum.map(|(method, _)| method),
            connections: &connections,
            serves: used.serves(now_ns),
            ancestors: &ancestors,
        };
        mining::judge(&used.series, &about, observe_ns)
    }
}

fn row(state: &GpuState, process: Option<RowProcess>) -> Row {
    Row {
        gpu: state.index,
        uuid: state.uuid.to_string(),
        name: state.name.to_string(),
        health: state.health.name().into(),
        util: state.util.or(state.pipes.map(|pipes| pipes.sm)),
        tensor: state.pipes.map(|pipes| pipes.tensor),
        mem_used: state.mem_used,
        mem_total: state.mem_total,
        power: state.power,
        state: CardState {
            power_cap: state.power_cap,
            temperature: state.temperature,
            clock_sm: state.clock_sm,
            clock_mem: state.clock_mem,
            ecc_uncorrected: state.ecc_uncorrected,
            pcie_rx: state.pcie_rx,
            pcie_tx: state.pcie_tx,
            nvlink: state.nvlink,
        },
        process,
    }
}

fn row_process(
    process: &GpuProcess,
    used: &Use,
    known: Option<&Process>,
    container: Option<&Container>,
    now_ns: u64,
) -> RowProcess {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let pod = container.and_then(|container| container.pod.as_ref());
    let app = pod.and_then(|pod| crate::context::runtime::metadata::find(&pod.labels, "app"));
    let evidence = used.verdict.evidence.iter();
    RowProcess {
        pid: process.pid,
        name: known
            .map(|known| text(&known.image.name))
            .unwrap_or_default(),
        exe: known
            .map(|known| text(&known.image.exe_path))
            .unwrap_or_default(),
        seen: match used.seen {
            Seen::Driver => "driver",
            Seen::Device => "device",
            Seen::Both => "both",
        }
        .into(),
        container: container
            .map(|container| container.name.to_string())
            .unwrap_or_default(),
        image: container
            .map(|container| container.image.given.to_string())
            .unwrap_or_default(),
        pod: pod.map(|pod| pod.name.to_string()).unwrap_or_default(),
        namespace: pod.map(|pod| pod.namespace.to_string()).unwrap_or_default(),
        app: app.unwrap_or_default().to_owned(),
        sm: process.sm,
        mem: process.mem_used,
        since_s: now_ns.saturating_sub(used.since_ns) / 1_000_000_000,
        idle_s: now_ns.saturating_sub(used.busy_ns) / 1_000_000_000,
        mining: used.verdict.certainty().into(),
        mining_score: used.verdict.score,
        evidence: evidence
            .map(|evidence| {
                format!(
                    "{:+} {}: {}",
                    evidence.signal.weight, evidence.signal.name, evidence.what
                )
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use saker_rules::{
        bundle::Bundle,
        compile::CompileOptions,
        loader::{LoadOptions, load},
        packs,
    };

    use super::*;
    use crate::{
        config::Config,
        detect::{Detect, DetectOptions},
        metrics::Metrics,
        pipeline::Replay,
        source::capture::Header,
    };

    #[test]
    fn who_opened_a_gpu_and_is_not_named_is_judged_and_told_since_when() {
        const SECOND: u64 = 1_000_000_000;
        let report = load(&packs::shipped(), &LoadOptions::default());
        let bundle = Bundle::compile(&report.ruleset, &CompileOptions::default());
        let options = DetectOptions {
            first_match: false,
            instances_max: 10,
        };
        let detect = Detect::new(bundle.expect("they fit"), &options);
        let (config, metrics) = (Config::default(), Arc::new(Metrics::new()));
        let mut replay = Replay::new(&config, &Header::default(), detect, metrics);
        let pipeline = replay.pipeline();
        pipeline.gpu.known.opened((30, SECOND), 0, 90 * SECOND);
        let heard = Heard {
            stratum: Some(("mining.subscribe", 95 * SECOND)),
            pool: None,
        };
        pipeline.gpu.pools.insert(Caller::Process(30), heard);
        let look = GpuSample {
            taken_ns: 100 * SECOND,
            gpus: vec![GpuState {
                uuid: "GPU-a".into(),
                minor: Some(0),
                ..GpuState::default()
            }],
            openers: Vec::new(),
        };
        assert_eq!(pipeline.gpu_openers(), [30]);
        pipeline.gpus(&look, &mut |_| {});
        let rows = pipeline.metrics.gpu.table();
        let told: Vec<_> = rows.iter().filter_map(|row| row.process.as_ref()).collect();
        let [told] = &told[..] else {
            panic!("one process: {rows:?}")
        };
        assert_eq!(
            (told.pid, told.seen.as_str(), told.since_s, told.idle_s),
            (30, "device", 10, 10)
        );
        assert!(told.mining_score >= 6, "{told:?}");
    }
}
