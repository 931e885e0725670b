//! The sensor: loaded programs, their rings, and their counters. It belongs to one plain thread.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aya::maps::{Array, MapData, PerCpuArray, RingBuf};
use aya::programs::ProgramFd;
use aya::{Ebpf, Pod};
use aya_log::EbpfLogger;
use saker_ebpf::wire::{Counters, Kind};
use serde::{Deserialize, Serialize};

use super::attach::{Attacher, Attachment, LoadedProgram};
use super::cgroup::RootCgroup;
use super::devices::Accelerators;
use super::errors::SensorError;
use super::loader::{self, DeviceMap, map_error};
use super::perf::Runs;
use super::probes::{DEVICE_HOOK, PROBES, Probe};
use super::ring::{Ring, Rings};
use super::shares::{ShareLimit, Shares};
use super::status::HookStatus;
use super::wanted::WantedMaps;
use super::{cgroup, object, offsets, privileges};
use crate::metrics::LOSS_CAUSES;

/// What the sensor is to report.
#[derive(Clone, Debug)]
pub struct SensorConfig {
    /// Size of the ring of what must not be lost, bytes: a power of two of at least 16384.
    pub ring_bytes: u32,
    /// Size of the ring of what can be shed, likewise.
    pub sheddable_ring_bytes: u32,
    /// How much of that one cgroup may write.
    pub share: ShareLimit,
    /// The event kinds to report. Opens make every system call a little slower; the others cost only what they see.
    pub kinds: BTreeSet<Kind>,
    /// The opens to report, with [`Kind::Open`].
    pub opens: OpenFilter,
    /// Type information of the running kernel, when it is not in its usual place.
    pub btf_path: Option<PathBuf>,
    /// Log what the kernel programs do, up to this level. `None` costs nothing.
    pub kernel_log: Option<aya_log::Level>,
    /// The agent's own process id in the initial pid namespace: its opens and connects are not reported. 0 for none.
    pub own_tgid: u32,
    /// Report new threads as well as new processes.
    pub report_threads: bool,
    /// Environment variables to report of started programs. Those that do not fit in the kernel's table are left out.
    pub environment: Vec<String>,
    /// Hooks not to use, by their name in the probe table.
    pub disabled_hooks: Vec<String>,
    /// Let programs read the kernel's memory by plain loads, where the kernel allows it; else always by a helper, which is slower.
    pub plain_loads: bool,
}

/// Which opens to report: those that meet a prefix or an extension.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenFilter {
    /// What paths start with; an empty one stands for every path.
    pub prefixes: Vec<Vec<u8>>,
    /// Prefixes are compared with the path of the file that was opened, and opens that failed are reported unless their path as passed is
    /// plain and not wanted. Else with the path as passed, which is cheaper, and evaded by a detour.
    pub resolved: bool,
    /// What file names end with: one extension or two, dots included, at most 16 bytes.
    pub extensions: Vec<Vec<u8>>,
    /// The modules of Python that the thread which looks for unpicklers waits for.
    #[serde(default)]
    pub modules: bool,
}

impl OpenFilter {
    /// Does it report whatever another one would?
    pub fn covers(&self, other: &Self) -> bool {
        let is_everything = self.prefixes.iter().any(Vec::is_empty);
        let has_prefix = |wanted: &Vec<u8>| {
            self.prefixes
                .iter()
                .any(|prefix| wanted.starts_with(prefix))
        };
        is_everything
            || (other.prefixes.iter().all(has_prefix)
                && (self.resolved || !other.resolved)
                && (self.modules || !other.modules)
                && other
                    .extensions
                    .iter()
                    .all(|wanted| self.extensions.contains(wanted)))
    }

    /// Lets every open through.
    pub fn everything() -> Self {
        Self {
            prefixes: vec![Vec::new()],
            ..Self::default()
        }
    }
}

impl Default for SensorConfig {
    fn default() -> Self {
        Self {
            ring_bytes: 4 << 20,
            sheddable_ring_bytes: 4 << 20,
            share: ShareLimit::default(),
            kinds: Kind::ALL
                .into_iter()
                .filter(|kind| *kind != Kind::Open)
                .collect(),
            opens: OpenFilter {
                prefixes: vec![b"/dev/nvidia".to_vec()],
                ..OpenFilter::default()
            },
            btf_path: None,
            kernel_log: None,
            own_tgid: std::process::id(),
            report_threads: false,
            environment: Vec::new(),
            disabled_hooks: Vec::new(),
            plain_loads: true,
        }
    }
}

/// The running kernel programs and what they write.
pub struct Sensor {
    rings: Rings,
    awake: Awake,
    shares: Shares,
    counters: PerCpuArray<MapData, CounterSlot>,
    attachments: Vec<(&'static str, Attachment)>,
    programs: Vec<LoadedProgram>,
    uprobes: Vec<(&'static str, ProgramFd)>,
    status: Vec<HookStatus>,
    accelerators: Accelerators,
    devices: DeviceMap,
    wanted: WantedMaps,
    cgroup: RootCgroup,
    /// The object, with the programs that no rule wants yet.
    ebpf: Ebpf,
    config: SensorConfig,
    /// Runs that were left out of programs that are no longer attached.
    missed_before: [u64; Kind::ALL.len()],
    waker: Waker,
    logger: Option<EbpfLogger<KernelLog>>,
}

impl Sensor {
    /// Loads the kernel programs and attaches every hook that works here.
    ///
    /// Blocks for some hundred milliseconds. Events are recorded from the moment it returns, and some from before.
    pub fn load(config: &SensorConfig) -> Result<Self, SensorError> {
        Self::load_object(object::OBJECT, config)
    }

    /// As [`Sensor::load`], with another object file.
    pub fn load_object(object: &[u8], config: &SensorConfig) -> Result<Self, SensorError> {
        loader::check_ring_bytes(config.ring_bytes)?;
        loader::check_ring_bytes(config.sheddable_ring_bytes)?;
        object::check(object)?;
        privileges::check()?;
        let offsets = offsets::read(config.btf_path.as_deref())?;
        let cgroup = cgroup::open_root()?;
        privileges::raise_memlock()?;
        let accelerators = Accelerators::read();
        let loader::Loaded {
            mut ebpf,
            devices,
            wanted,
            attachments,
            programs,
            uprobes,
            status,
        } = loader::load(object, config, &offsets, &cgroup, &accelerators.ranges())?;

        let mut ring = |map: &str, bytes: u32| {
            let records =
                RingBuf::try_from(loader::take_map(&mut ebpf, map)?).map_err(map_error)?;
            Ring::new(records, bytes).map_err(|error| SensorError::Kernel {
                attempt: "looking at a ring's positions",
                reason: error.to_string(),
            })
        };
        let kept = ring(loader::KEPT_MAP, config.ring_bytes)?;
        let sheddable = ring(loader::SHEDDABLE_MAP, config.sheddable_ring_bytes)?;
        let shares = Shares::new(loader::take_map(&mut ebpf, Shares::MAP)?)?;
        let counters =
            PerCpuArray::try_from(loader::take_map(&mut ebpf, "COUNTERS")?).map_err(map_error)?;
        let awake = Awake {
            map: Array::try_from(loader::take_map(&mut ebpf, "AWAKE")?).map_err(map_error)?,
            is_set: false,
        };
        let logger = match config.kernel_log {
            Some(_) => Some(EbpfLogger::init_with_logger(&mut ebpf, KernelLog).map_err(
                |error| SensorError::Kernel {
                    attempt: "opening the kernel log",
                    reason: error.to_string(),
                },
            )?),
            None => None,
        };
        drop(offsets);
        Ok(Self {
            rings: Rings::new(kept, sheddable),
            awake,
            shares,
            counters,
            attachments,
            programs,
            uprobes,
            status,
            accelerators,
            devices,
            wanted,
            cgroup,
            ebpf,
            config: config.clone(),
            missed_before: [0; Kind::ALL.len()],
            waker: Waker::new()?,
            logger,
        })
    }

    /// How each event kind is supplied, a row a kind.
    pub fn status(&self) -> &[HookStatus] {
        &self.status
    }

    /// The programs for interpreters, which [`super::python::Watch`] attaches; none where pickles are not wanted, or not possible.
    pub fn take_uprobes(&mut self) -> Vec<(&'static str, ProgramFd)> {
        std::mem::take(&mut self.uprobes)
    }

    /// The accelerators that device events are reported for.
    pub fn accelerators(&self) -> &Accelerators {
        &self.accelerators
    }

    /// The root of the cgroup v2 hierarchy that events' cgroup ids belong to.
    pub fn cgroup_root(&self) -> BorrowedFd<'_> {
        self.cgroup.folder.as_fd()
    }

    /// Looks for drivers that were loaded or unloaded since, and reports their devices too. `true` when there were any.
    /// Cheap: one small file is read.
    pub fn refresh_accelerators(&mut self) -> Result<bool, SensorError> {
        let accelerators = Accelerators::read();
        if accelerators == self.accelerators {
            return Ok(false);
        }
        self.watch_accelerators(accelerators)?;
        Ok(true)
    }

    /// Reports the devices of these drivers from now on.
    pub fn watch_accelerators(&mut self, accelerators: Accelerators) -> Result<(), SensorError> {
        self.devices.set(&accelerators.ranges())?;
        self.accelerators = accelerators;
        Ok(())
    }

    /// Waits until a record can be drained, at most `timeout`. `false` when there is none: the time is up, a signal
    /// came, or a [`Waker`] was used.
    pub fn poll(&mut self, timeout: Duration) -> io::Result<bool> {
        // Before the rings are looked at: what comes later wakes.
        self.awake.set(false)?;
        let mut descriptors: Vec<RawFd> = self.rings.descriptors().to_vec();
        let rings = descriptors.len();
        descriptors.push(self.waker.event.as_raw_fd());
        descriptors.extend(self.logger.as_ref().map(AsRawFd::as_raw_fd));
        let ready = super::ring::wait(&descriptors, timeout)?;
        if ready[rings] {
            self.waker.clear();
        }
        if let (Some(true), Some(logger)) = (ready.get(rings + 1), self.logger.as_mut()) {
            logger.flush();
        }
        Ok(ready[..rings].contains(&true))
    }

    /// Waits, at most `time`, for something that is not to wait: a record of what must not be lost, or the [`Waker`]. Meanwhile
    /// what comes in crowds (what can be shed, and globals of models) gathers in the rings, and the kernel wakes nobody for it, until
    /// the next [`Sensor::poll`].
    pub fn gather(&mut self, time: Duration) -> io::Result<()> {
        self.awake.set(true)?;
        let [kept, _] = self.rings.descriptors();
        let waker = self.waker.event.as_raw_fd();
        super::ring::wait(&[kept, waker], time).map(drop)
    }

    /// Hands at most `max` records to `f`, in the order in which they happened, and returns how many there were. Does not wait.
    pub fn drain(&mut self, max: usize, f: &mut dyn FnMut(&[u8])) -> usize {
        self.rings.drain(max, f)
    }

    /// Of records that waited to be drained.
    pub fn rings(&mut self) -> &mut Rings {
        &mut self.rings
    }

    /// Cgroups that had more than their share of the ring of what can be shed.
    pub fn shares(&self) -> &Shares {
        &self.shares
    }

    /// Ends a wait in [`Sensor::poll`] from any thread.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// What the kernel programs have counted so far.
    pub fn counters(&self) -> io::Result<KernelCounters> {
        let mut by_kind = [KindCounters::default(); Kind::ALL.len()];
        for (slot, kind) in by_kind.iter_mut().zip(Kind::ALL) {
            let per_cpu = self
                .counters
                .get(&u32::from(kind as u16), 0)
                .map_err(io::Error::other)?;
            *slot = KindCounters::sum(per_cpu.iter().map(|CounterSlot(counters)| counters));
        }
        for program in &self.programs {
            let missed = super::perf::runs(program.fd.as_fd())?.missed;
            let counts = &mut by_kind[program.kind as usize - 1];
            counts.missed_runs += missed;
            counts.seen += missed;
        }
        for (counts, missed) in by_kind.iter_mut().zip(self.missed_before) {
            counts.missed_runs += missed;
            counts.seen += missed;
        }
        Ok(KernelCounters { by_kind })
    }

    /// What the kernel has counted of each program that is attached.
    pub fn runs(&self) -> impl Iterator<Item = (&'static str, Runs)> {
        self.programs.iter().filter_map(|program| {
            let runs = super::perf::runs(program.fd.as_fd()).ok()?;
            Some((program.name, runs))
        })
    }

    /// Size of each ring, of what must not be lost first.
    pub fn ring_bytes(&self) -> [u32; 2] {
        [self.config.ring_bytes, self.config.sheddable_ring_bytes]
    }

    /// Detaches every program and waits until none runs any more. What is in the rings can still be drained, and the
    /// counters no longer change.
    pub fn detach(&mut self) -> io::Result<()> {
        self.attachments.clear();
        barrier()
    }

    /// What rules want of it now.
    pub fn wanted(&self) -> Wish {
        Wish {
            kinds: self.config.kinds.clone(),
            opens: self.config.opens.clone(),
            environment: self.config.environment.clone(),
        }
    }

    /// Can this be wanted without loading everything anew? If not, why.
    pub fn can_want(&self, wish: &Wish) -> Result<(), String> {
        if self.wanted.fits(&wish.environment) {
            return Ok(());
        }
        Err(format!(
            "the rules name more environment variables than there is room for while the agent runs ({}); restart it",
            wish.environment.join(", ")
        ))
    }

    /// From now on this is wanted, and nothing else. Whoever must miss nothing wants both the old and the new first, and then the new
    /// alone. Blocks while the kernel verifies programs that were not wanted before: some milliseconds each.
    pub fn want(&mut self, wish: &Wish) -> Result<(), SensorError> {
        let before = std::mem::take(&mut self.config.kinds);
        self.config.kinds.clone_from(&wish.kinds);
        self.config.opens.clone_from(&wish.opens);
        self.config.environment.clone_from(&wish.environment);
        self.wanted.set(&self.config)?;
        let is_new =
            |probe: &Probe| wish.kinds.contains(&probe.kind) && !before.contains(&probe.kind);
        if PROBES.iter().any(is_new) {
            self.attach(is_new)?;
        }
        if before.iter().any(|kind| !wish.kinds.contains(kind)) {
            self.detach_unwanted()?;
        }
        Ok(())
    }

    fn attach(&mut self, is_new: impl Fn(&Probe) -> bool) -> Result<(), SensorError> {
        let offsets = offsets::read(self.config.btf_path.as_deref())?;
        let used = self.attachments.iter().map(|(name, _)| *name).collect();
        let mut attacher =
            Attacher::new(&mut self.ebpf, &self.cgroup, &offsets, &self.config, used);
        for (probe, status) in PROBES.iter().zip(&mut self.status) {
            if is_new(probe) {
                *status = attacher.attach_probe(probe, true);
            }
        }
        let Attacher {
            attachments,
            programs,
            uprobes,
            ..
        } = attacher;
        self.attachments.extend(attachments);
        self.programs.extend(programs);
        self.uprobes.extend(uprobes);
        let is_disabled = self
            .config
            .disabled_hooks
            .iter()
            .any(|hook| hook == DEVICE_HOOK);
        if !is_disabled && !self.wanted.by_path && loader::lacks_device_hook(&self.status) {
            self.wanted.by_path = true;
            self.wanted.set(&self.config)?;
        }
        Ok(())
    }

    /// Detaches programs that serve no kind that is wanted.
    fn detach_unwanted(&mut self) -> Result<(), SensorError> {
        let mut needed = BTreeSet::new();
        for (probe, status) in PROBES.iter().zip(&mut self.status) {
            status.wanted = self.config.kinds.contains(&probe.kind);
            if !status.wanted {
                status.hook = None;
                status.lost.clear();
                status.refused.clear();
            }
            let in_use = probe
                .hooks
                .iter()
                .filter(|hook| status.hook == Some(hook.name));
            needed.extend(in_use.flat_map(|hook| hook.programs).map(|row| row.name));
        }
        self.attachments.retain(|(name, _)| needed.contains(name));
        self.uprobes.retain(|(name, _)| needed.contains(name));
        for program in self
            .programs
            .extract_if(.., |program| !needed.contains(program.name))
        {
            let missed = super::perf::runs(program.fd.as_fd())
                .unwrap_or_default()
                .missed;
            self.missed_before[program.kind as usize - 1] += missed;
        }
        Ok(())
    }
}

/// What rules want of a sensor; see the fields of the same name in [`SensorConfig`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "see above")]
pub struct Wish {
    pub kinds: BTreeSet<Kind>,
    pub opens: OpenFilter,
    pub environment: Vec<String>,
}

impl Wish {
    /// The same with other kinds besides.
    pub fn besides(&self, kinds: &BTreeSet<Kind>) -> Self {
        Self {
            kinds: self.kinds.union(kinds).copied().collect(),
            ..self.clone()
        }
    }

    /// What this and another one want together.
    pub fn and(&self, other: &Self) -> Self {
        let both = |these: &[Vec<u8>], those: &[Vec<u8>]| {
            let all: BTreeSet<_> = these.iter().chain(those).cloned().collect();
            all.into_iter().collect()
        };
        let environment: BTreeSet<_> = self.environment.iter().chain(&other.environment).collect();
        Self {
            kinds: self.kinds.union(&other.kinds).copied().collect(),
            opens: OpenFilter {
                prefixes: both(&self.opens.prefixes, &other.opens.prefixes),
                resolved: self.opens.resolved || other.opens.resolved,
                extensions: both(&self.opens.extensions, &other.opens.extensions),
                modules: self.opens.modules || other.opens.modules,
            },
            environment: environment.into_iter().cloned().collect(),
        }
    }
}

/// Waits until no kernel program runs any more that had started: a barrier on all CPUs waits for them, for they run inside RCU's read
/// side.
pub fn barrier() -> io::Result<()> {
    let (no_flags, no_cpu): (libc::c_uint, libc::c_int) = (0, 0);
    // SAFETY: the call takes three integers.
    let result = unsafe {
        libc::syscall(
            libc::SYS_membarrier,
            libc::MEMBARRIER_CMD_GLOBAL,
            no_flags,
            no_cpu,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Tells the kernel programs whether to wake the agent for what comes in crowds.
struct Awake {
    map: Array<MapData, u32>,
    is_set: bool,
}

impl Awake {
    fn set(&mut self, is_awake: bool) -> io::Result<()> {
        if self.is_set != is_awake {
            self.map
                .set(0, u32::from(is_awake), 0)
                .map_err(io::Error::other)?;
            self.is_set = is_awake;
        }
        Ok(())
    }
}

/// Ends a sensor's wait from another thread.
#[derive(Clone, Debug)]
pub struct Waker {
    event: Arc<OwnedFd>,
}

impl Waker {
    fn new() -> Result<Self, SensorError> {
        // SAFETY: eventfd takes a count and flags.
        let event = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if event < 0 {
            return Err(SensorError::Kernel {
                attempt: "making an eventfd",
                reason: io::Error::last_os_error().to_string(),
            });
        }
        // SAFETY: the kernel has just handed out this descriptor, to nobody else.
        let event = Arc::new(unsafe { OwnedFd::from_raw_fd(event) });
        Ok(Self { event })
    }

    /// Ends the wait that is going on, or else the next one.
    pub fn wake(&self) {
        let one = 1u64.to_ne_bytes();
        // It fails only when the count is at its limit, and then the wait ends anyway.
        // SAFETY: `one` is as long as is said.
        let _ = unsafe { libc::write(self.event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    fn clear(&self) {
        let mut count = [0u8; 8];
        // It fails only when there is nothing to clear.
        // SAFETY: `count` is as long as is said.
        let _ = unsafe {
            libc::read(
                self.event.as_raw_fd(),
                count.as_mut_ptr().cast(),
                count.len(),
            )
        };
    }
}

/// The kernel's counts of every kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelCounters {
    by_kind: [KindCounters; Kind::ALL.len()],
}

impl KernelCounters {
    /// The counts of one kind.
    pub fn kind(&self, kind: Kind) -> &KindCounters {
        &self.by_kind[kind as usize - 1]
    }

    /// The counts of every kind, in the order of [`Kind::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (Kind, &KindCounters)> {
        Kind::ALL.into_iter().zip(&self.by_kind)
    }

    /// Events lost, of all kinds and causes.
    pub fn lost(&self) -> u64 {
        self.by_kind.iter().map(KindCounters::lost).sum()
    }
}

/// The kernel's counts of one kind, in events since load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KindCounters {
    /// Every event that the hook saw: `filtered + submitted + lost`, once the programs are detached.
    pub seen: u64,
    /// Dropped by the settings.
    pub filtered: u64,
    /// Written into the ring.
    pub submitted: u64,
    /// Lost because the ring was full.
    pub lost_ring_full: u64,
    /// Lost because the record did not fit.
    pub lost_too_big: u64,
    /// Lost because a map was full.
    pub lost_map_full: u64,
    /// Lost because memory could not be read.
    pub lost_read_fault: u64,
    /// Lost because the cgroup had more than its share.
    pub lost_over_share: u64,
    /// Runs that the kernel left out because the same program was running on that CPU. Whether they would have been
    /// filtered nobody knows; they count as seen and lost.
    pub missed_runs: u64,
}

impl KindCounters {
    /// Events lost, whatever the cause.
    pub fn lost(&self) -> u64 {
        self.by_cause().iter().map(|(_, count)| count).sum()
    }

    /// Events lost, by cause.
    pub fn by_cause(&self) -> [(&'static str, u64); LOSS_CAUSES.len()] {
        let counts = [
            self.lost_ring_full,
            self.lost_too_big,
            self.lost_map_full,
            self.lost_read_fault,
            self.lost_over_share,
            self.missed_runs,
        ];
        std::array::from_fn(|at| (LOSS_CAUSES[at], counts[at]))
    }

    fn sum<'a>(per_cpu: impl Iterator<Item = &'a Counters>) -> Self {
        let mut sum = Self::default();
        for counters in per_cpu {
            sum.seen += counters.passed + counters.filtered;
            sum.filtered += counters.filtered;
            sum.submitted += counters.submitted;
            sum.lost_ring_full += counters.lost_ring_full;
            sum.lost_too_big += counters.lost_too_big;
            sum.lost_map_full += counters.lost_map_full;
            sum.lost_read_fault += counters.lost_read_fault;
            sum.lost_over_share += counters.lost_over_share;
        }
        sum
    }
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct CounterSlot(Counters);

// SAFETY: `Counters` is repr(C), Copy, and holds integers only.
unsafe impl Pod for CounterSlot {}

/// Passes the kernel programs' log lines on to the agent's log.
struct KernelLog;

impl log::Log for KernelLog {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = record.args();
        match record.level() {
            log::Level::Error => tracing::error!(target: "saker::kernel", "{line}"),
            log::Level::Warn => tracing::warn!(target: "saker::kernel", "{line}"),
            log::Level::Info => tracing::info!(target: "saker::kernel", "{line}"),
            log::Level::Debug => tracing::debug!(target: "saker::kernel", "{line}"),
            log::Level::Trace => tracing::trace!(target: "saker::kernel", "{line}"),
        }
    }

    fn flush(&self) {}
}
