//! Loading the kernel object with its settings, and having every wanted probe attached. A hook that cannot be is
//! reported, and the rest goes on; only with none at all loading fails.

use std::error::Error as _;
use std::io;

use aya::maps::{Array, Map, MapData, MapError};
use aya::programs::ProgramFd;
use aya::{Ebpf, EbpfError, EbpfLoader, Pod};
use saker_ebpf::config::{
    DEVICES_MAP, DeviceRange, DeviceTable, ENV_NAMES_MAX, SETTINGS_GLOBAL, Settings,
};
use saker_ebpf::wire::{Kind, RECORD_BYTES_MAX};

use super::attach::{Attacher, Attachment, LoadedProgram};
use super::cast;
use super::cgroup::RootCgroup;
use super::errors::SensorError;
use super::numbers;
use super::offsets::FoundOffsets;
use super::probes::{DEVICE_HOOK, OPEN_END_HOOK, PROBES};
use super::sensor::SensorConfig;
use super::shares::Shares;
use super::status::HookStatus;
use super::wanted::WantedMaps;

/// Names of the rings in the object: of what must not be lost, and of what can be shed.
pub const KEPT_MAP: &str = "EVENTS";
/// See [`KEPT_MAP`].
pub const SHEDDABLE_MAP: &str = "SHEDDABLE";

/// The outcome of loading.
pub struct Loaded {
    /// The object's other maps.
    pub ebpf: Ebpf,
    /// The device numbers to report.
    pub devices: DeviceMap,
    /// What rules want.
    pub wanted: WantedMaps,
    /// What is attached. Dropping it detaches.
    pub attachments: Vec<(&'static str, Attachment)>,
    /// The programs that are attached.
    pub programs: Vec<LoadedProgram>,
    /// Programs for places that are found later, by name.
    pub uprobes: Vec<(&'static str, ProgramFd)>,
    /// A row a kind.
    pub status: Vec<HookStatus>,
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Global<T>(T);

// SAFETY: `Settings` is repr(C), Copy, and holds integers only.
unsafe impl Pod for Global<Settings> {}
// SAFETY: `DeviceTable` is repr(C), Copy, and holds integers only.
unsafe impl Pod for Global<DeviceTable> {}

/// The device numbers to report, which can change while the programs run.
pub struct DeviceMap(Array<MapData, Global<DeviceTable>>);

impl DeviceMap {
    fn new(map: Map) -> Result<Self, SensorError> {
        Array::try_from(map).map(Self).map_err(map_error)
    }

    /// Reports these numbers from now on, and no others.
    pub fn set(&mut self, ranges: &[DeviceRange]) -> Result<(), SensorError> {
        let table = Global(DeviceTable::new(ranges));
        self.0.set(0, table, 0).map_err(map_error)
    }
}

/// A map that is there and cannot be used.
pub fn map_error(error: impl Into<MapError>) -> SensorError {
    SensorError::Kernel {
        attempt: "using a map",
        reason: one_line(&error.into()),
    }
}

/// What the kernel programs are told once and for all.
fn settings(config: &SensorConfig) -> Settings {
    let mut settings = Settings {
        own_tgid: config.own_tgid,
        report_threads: u32::from(config.report_threads),
        ..Settings::NONE
    };
    // Without randomness names could be chosen to hide behind others; the addresses of this process are the next best.
    let mut seeds = [0u64; 2];
    // SAFETY: the buffer is as long as is said.
    let drawn = unsafe { libc::getrandom(seeds.as_mut_ptr().cast(), size_of_val(&seeds), 0) };
    if drawn != size_of_val(&seeds) as isize {
        let here = (&raw const seeds) as u64;
        seeds = [here, here.rotate_left(29) ^ u64::from(std::process::id())];
    }
    settings.seeds = seeds;
    config.share.apply(&mut settings);
    settings.env_slots = env_slots(config);
    settings
}

/// Names of variables that rules may come to want while the agent runs. Each takes a little time at every start of a program, wanted
/// or not.
const ENV_SPARE: usize = 3;

/// How many variables the programs compare.
fn env_slots(config: &SensorConfig) -> u32 {
    (config.environment.len() + ENV_SPARE).min(ENV_NAMES_MAX) as u32
}

/// Loads `object` and attaches what `config` wants.
pub fn load(
    object: &[u8],
    config: &SensorConfig,
    offsets: &FoundOffsets,
    cgroup: &RootCgroup,
    ranges: &[DeviceRange],
) -> Result<Loaded, SensorError> {
    let mut settings = settings(config);
    // Without an id nothing is exempt, which costs events only on a node that shares one cgroup.
    settings.root_cgroup_id = cgroup.id().unwrap_or(0);
    if let Some((state, hierarchy)) = super::cgroup::v1_stand_in(&offsets.controllers) {
        (settings.v1_state, settings.v1_hierarchy) = (state, hierarchy);
    }
    // Another kernel's types may stand in for this one's, but not for their numbers.
    let is_own = config.plain_loads && config.btf_path.is_none();
    let cast = offsets.cast.filter(|cast| is_own && cast.works());
    let mut object = object.to_vec();
    cast::resolve(&mut object, cast);
    numbers::resolve(&mut object, &offsets.by_field, cast)?;
    let settings = Global(settings);
    // AYA_LOG_LEVEL is aya-log's own global: 0 turns every line into dead code, which the verifier removes.
    let level = config.kernel_log.map_or(0u8, |level| level as u8);
    let mut loader = EbpfLoader::new();
    loader
        .btf(None)
        .override_global(SETTINGS_GLOBAL, &settings, true)
        .override_global(aya_log::LEVEL, &level, true)
        .map_max_entries(KEPT_MAP, config.ring_bytes)
        .map_max_entries(SHEDDABLE_MAP, config.sheddable_ring_bytes);
    if config.share.events_per_s == 0 {
        loader.map_max_entries(Shares::MAP, 1);
    }
    // Maps of kinds that no rule wants have their size all the same: rules change, and maps cannot.
    if !pairs_opens(config) {
        loader.map_max_entries("OPEN_PENDING", FEW_PENDING);
    }
    if config.kernel_log.is_none() {
        loader.map_max_entries("AYA_LOGS", 1);
    }
    let mut ebpf = loader
        .load(&object)
        .map_err(|error| load_error(error, config))?;
    drop(object);
    let mut devices = DeviceMap::new(take_map(&mut ebpf, DEVICES_MAP)?)?;
    devices.set(ranges)?;
    let is_disabled = config.disabled_hooks.iter().any(|hook| hook == DEVICE_HOOK);
    let mut wanted = WantedMaps::new(&mut ebpf, settings.0.env_slots)?;
    wanted.by_path = is_disabled;
    wanted.set(config)?;

    let mut attacher = Attacher::new(&mut ebpf, cgroup, offsets, config, Vec::new());
    let status: Vec<HookStatus> = PROBES
        .iter()
        .map(|probe| attacher.attach_probe(probe, config.kinds.contains(&probe.kind)))
        .collect();
    let Attacher {
        attachments,
        programs,
        uprobes,
        ..
    } = attacher;
    if !is_disabled && lacks_device_hook(&status) {
        wanted.by_path = true;
        wanted.set(config)?;
    }
    let wanted_none = status.iter().all(|status| !status.wanted);
    if attachments.is_empty() && !wanted_none {
        return Err(no_hook(&status));
    }
    Ok(Loaded {
        ebpf,
        devices,
        wanted,
        attachments,
        programs,
        uprobes,
        status,
    })
}

/// Are devices wanted, and must opens stand in for their hook?
pub fn lacks_device_hook(status: &[HookStatus]) -> bool {
    status.iter().any(|status| {
        status.wanted && status.kind == Kind::DeviceOpen.name() && status.hook != Some(DEVICE_HOOK)
    })
}

/// Room for opens between entry and end where the end alone is expected to do. Should it be refused all the same, this many
/// can be under way at a time, and what finds no room is counted.
const FEW_PENDING: u32 = 1024;

/// Will entry and end of an open have to be put together?
fn pairs_opens(config: &SensorConfig) -> bool {
    // The first with `bpf_task_pt_regs`.
    const END_ALONE: (u32, u32) = (5, 15);
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split('.').map_while(|number| number.parse().ok());
    let version = numbers.next().zip(numbers.next());
    let is_disabled = config
        .disabled_hooks
        .iter()
        .any(|hook| hook == OPEN_END_HOOK);
    is_disabled
        || cfg!(not(target_arch = "x86_64"))
        || version.is_none_or(|version| version < END_ALONE)
}

fn no_hook(status: &[HookStatus]) -> SensorError {
    let first_reason = status
        .iter()
        .flat_map(|status| &status.refused)
        .map(|refusal| format!("{}: {}", refusal.hook, refusal.reason))
        .next()
        .unwrap_or_else(|| "every hook is disabled".to_owned());
    SensorError::NoHook { first_reason }
}

/// An error and what caused it, on one line.
pub fn one_line(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_line = cause.to_string();
        if !line.contains(&cause_line) {
            line.push_str(": ");
            line.push_str(&cause_line);
        }
        source = cause.source();
    }
    line.replace('\n', " ")
}

fn load_error(error: EbpfError, config: &SensorConfig) -> SensorError {
    match error {
        EbpfError::MapError(MapError::CreateError { name, io_error }) => {
            create_error(&name, io_error, config)
        }
        EbpfError::ParseError(error) => SensorError::ObjectDamaged {
            found: error.to_string(),
        },
        other => SensorError::Kernel {
            attempt: "loading the kernel object",
            reason: match other.source() {
                Some(_) => one_line(&other),
                None => other.to_string(),
            },
        },
    }
}

fn create_error(map: &str, source: io::Error, config: &SensorConfig) -> SensorError {
    let bytes = match map {
        SHEDDABLE_MAP => config.sheddable_ring_bytes,
        _ => config.ring_bytes,
    };
    match (source.raw_os_error(), map) {
        (Some(libc::ENOMEM), KEPT_MAP | SHEDDABLE_MAP) => SensorError::RingRefused {
            bytes,
            advice: "the machine or the container's memory limit has no room for it, make it smaller",
            source,
        },
        (Some(libc::EINVAL | libc::E2BIG), KEPT_MAP | SHEDDABLE_MAP) => SensorError::RingRefused {
            bytes,
            advice: "it must be a power of two of at least one page, on Linux 5.8 or newer",
            source,
        },
        (Some(libc::EPERM), _) => SensorError::Refused { source },
        (Some(libc::EINVAL), _) => SensorError::OldKernel {
            lacking: format!("map of the kind that {map} is"),
            needs: "5.8",
        },
        _ => SensorError::Kernel {
            attempt: "creating a map",
            reason: format!("{map}: {source}"),
        },
    }
}

/// Is a ring of this size one that the kernel takes, and one that can hold a record?
pub fn check_ring_bytes(bytes: u32) -> Result<(), SensorError> {
    let least = (RECORD_BYTES_MAX as u32).next_power_of_two();
    if bytes.is_power_of_two() && bytes >= least {
        return Ok(());
    }
    Err(SensorError::RingRefused {
        bytes,
        advice: "it must be a power of two of at least 16384 bytes",
        source: io::Error::from_raw_os_error(libc::EINVAL),
    })
}

/// Takes a map out of the object.
pub fn take_map(ebpf: &mut Ebpf, name: &str) -> Result<Map, SensorError> {
    ebpf.take_map(name)
        .ok_or_else(|| SensorError::ObjectDamaged {
            found: format!("it has no map {name}"),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_ring_sizes_are_refused_before_the_kernel_is_asked() {
        let check = |bytes: u32, expected: bool| {
            assert_eq!(check_ring_bytes(bytes).is_ok(), expected, "{bytes}");
        };
        check(16384, true);
        check(8192, false);
        check(1 << 22, true);
        check(0, false);
        check(4096, false);
        check(100_000, false);
    }
}
