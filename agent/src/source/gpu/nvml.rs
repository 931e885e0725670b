//! NVIDIA's management library: one look at all GPUs, their instances and their processes.
//!
//! It creates no context and changes no setting. A card that power management has switched off is not asked, because that would wake
//! it; of one that nobody uses only that is asked. What a card or an older library cannot tell is absent; only a
//! library that answers nothing any more ends the session.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsStr,
    fs,
    path::Path,
};

use nvml_wrapper::{
    Device, GpmSample, Nvml,
    enum_wrappers::device::{Clock, EccCounter, MemoryError, PcieUtilCounter, TemperatureSensor},
    enums::{
        device::{SampleValue, UsedGpuMemory},
        gpm::GpmMetricId,
    },
    error::NvmlError,
    gpm::gpm_metrics_get,
    structs::device::FieldId,
    sys_exports::field_id::{
        NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX, NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX,
    },
};

use super::look::Looks;
use crate::event::gpu::{GpuProcess, GpuState, Health, Opener, Pipes};

/// A node holds 16 cards at most; each can be divided into 7.
const GPUS_MAX: u32 = 64;
/// Processes of one GPU that are looked at. A card has room for some dozens of contexts.
const PROCESSES_MAX: usize = 256;

/// The driver samples what processes use at least this often.
const SAMPLED_NS: u64 = 3_000_000_000;

/// Counters that are asked for, in the order of [`Reader::pipes`].
const METRICS: [GpmMetricId; 9] = [
    GpmMetricId::SmUtil,
    GpmMetricId::IntegerUtil,
    GpmMetricId::AnyTensorUtil,
    GpmMetricId::Fp16Util,
    GpmMetricId::Fp32Util,
    GpmMetricId::Fp64Util,
    GpmMetricId::DramBwUtil,
    GpmMetricId::PcieRxPerSec,
    GpmMetricId::PcieTxPerSec,
];

/// Is NVIDIA's kernel module there? To look asks no driver anything.
pub fn is_driver_loaded() -> bool {
    Path::new("/proc/driver/nvidia/version").exists()
}

/// Loads the library and connects to the driver.
pub fn open(library: Option<&Path>) -> Result<Nvml, NvmlError> {
    match library {
        Some(path) => Nvml::builder().lib_path(OsStr::new(path)).init(),
        None => Nvml::init(),
    }
}

/// Is it normal not to have this library or driver?
pub fn is_absence(error: &NvmlError) -> bool {
    matches!(
        error,
        NvmlError::LibloadingError(_)
            | NvmlError::DriverNotLoaded
            | NvmlError::LibraryNotFound
            | NvmlError::NotFound
    )
}

/// What is remembered between two looks of one session.
pub struct Reader<'n> {
    nvml: &'n Nvml,
    /// Counters of the look before, by the GPU's identity.
    counters: HashMap<Box<str>, GpmSample<'n>>,
    /// NVLink's bytes then, and when.
    links: HashMap<Box<str>, (u64, u64)>,
    /// Up to when utilization of processes was read, microseconds of the driver's clock, and when that was.
    seen_us: HashMap<Box<str>, (u64, u64)>,
    looks: Looks,
    /// Who was where, for a card that can say nothing more of itself.
    uuids: HashMap<u32, Box<str>>,
}

impl<'n> Reader<'n> {
    /// Nothing is known yet.
    pub fn new(nvml: &'n Nvml) -> Self {
        Self {
            nvml,
            counters: HashMap::new(),
            links: HashMap::new(),
            seen_us: HashMap::new(),
            looks: Looks::default(),
            uuids: HashMap::new(),
        }
    }

    /// Looks at everything, and at these processes besides. An error means that the session is over: the driver is gone, or another one
    /// is there.
    pub fn look(
        &mut self,
        openers: &[u32],
        now_ns: u64,
    ) -> Result<(Vec<GpuState>, Vec<Opener>), NvmlError> {
        let count = self.nvml.device_count()?.min(GPUS_MAX);
        let mut all = Vec::new();
        for index in 0..count {
            match self.nvml.device_by_index(index) {
                Ok(device) => self.card(&device, index, now_ns, &mut all),
                Err(error) if ends(&error) => return Err(error),
                Err(error) => all.push(self.unanswered(index, &error)),
            }
        }
        let named = |pid: u32| {
            let processes = all.iter().flat_map(|gpu| &gpu.processes);
            processes.into_iter().any(|process| process.pid == pid)
        };
        let openers: Vec<Opener> = openers
            .iter()
            .filter(|pid| !named(**pid))
            .filter_map(|pid| {
                let look = self.looks.of(*pid, now_ns)?;
                Some(Opener { pid: *pid, look })
            })
            .collect();
        self.looks.sweep(&all, &openers);
        // Whoever divides a card anew makes instances that never were before.
        let there: HashSet<&str> = all.iter().map(|gpu| &*gpu.uuid).collect();
        self.counters.retain(|uuid, _| there.contains(&**uuid));
        self.links.retain(|uuid, _| there.contains(&**uuid));
        self.seen_us.retain(|uuid, _| there.contains(&**uuid));
        Ok((all, openers))
    }

    fn card(&mut self, device: &Device<'n>, index: u32, now_ns: u64, all: &mut Vec<GpuState>) {
        let uuid = match device.uuid() {
            Ok(uuid) => uuid,
            Err(error) => return all.push(self.unanswered(index, &error)),
        };
        if self.uuids.get(&index).is_none_or(|known| **known != *uuid) {
            self.uuids.insert(index, uuid.as_str().into());
        }
        let mut card = GpuState {
            index,
            uuid: uuid.into(),
            name: device.name().unwrap_or_default().into(),
            minor: device.minor_number().ok(),
            ..GpuState::default()
        };
        if is_suspended(device) {
            card.health = Health::Asleep;
            return all.push(card);
        }
        let memory = match device.memory_info() {
            Err(error @ (NvmlError::GpuLost | NvmlError::ResetRequired)) => {
                card.health = health(&error);
                return all.push(card);
            }
            other => other.ok(),
        };
        card.mem_used = memory.as_ref().map(|memory| memory.used);
        card.mem_total = memory.as_ref().map(|memory| memory.total);
        let utilization = device.utilization_rates().ok();
        card.util = utilization.as_ref().map(|rates| rates.gpu as f32);
        card.mem_util = utilization.as_ref().map(|rates| rates.memory as f32);
        let milliwatts = |value: Result<u32, NvmlError>| Some(value.ok()? as f32 / 1000.0);
        card.power = milliwatts(device.power_usage());
        card.power_cap = milliwatts(device.enforced_power_limit());
        card.temperature = device.temperature(TemperatureSensor::Gpu).ok();
        card.clock_sm = device.clock_info(Clock::SM).ok();
        card.clock_mem = device.clock_info(Clock::Memory).ok();
        card.ecc_uncorrected = device
            .total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile)
            .ok();
        let is_divided = device.mig_mode().is_ok_and(|mode| mode.current == 1);
        if is_divided {
            all.push(card);
            return self.instances(device, index, now_ns, all);
        }
        card.processes = self.processes(device, &card.uuid, now_ns);
        let is_idle = card.processes.is_empty() && card.util.is_none_or(|util| util == 0.0);
        if is_idle {
            // Further questions would keep a card awake that nobody uses.
            self.counters.remove(&card.uuid);
            self.links.remove(&card.uuid);
            return all.push(card);
        }
        let percent = |part: Result<u32, NvmlError>| Some(part.ok()? as f32);
        card.encoder = percent(device.encoder_utilization().map(|info| info.utilization));
        card.decoder = percent(device.decoder_utilization().map(|info| info.utilization));
        card.nvlink = self.nvlink(device, &card.uuid, now_ns);
        let sample = device
            .gpm_support()
            .unwrap_or(false)
            .then(|| device.gpm_sample());
        self.pipes(&mut card, sample.and_then(Result::ok));
        if card.pcie_rx.is_none() {
            // Each of the two takes 20 ms of the driver's time, so only where counters do not tell.
            let rate = |counter| Some(u64::from(device.pcie_throughput(counter).ok()?) * 1024);
            card.pcie_rx = rate(PcieUtilCounter::Receive);
            card.pcie_tx = rate(PcieUtilCounter::Send);
        }
        all.push(card);
    }

    /// A card that says nothing but why; it is the one that was there before.
    fn unanswered(&self, index: u32, error: &NvmlError) -> GpuState {
        GpuState {
            index,
            uuid: self.uuids.get(&index).cloned().unwrap_or_default(),
            health: health(error),
            ..GpuState::default()
        }
    }

    fn instances(&mut self, card: &Device<'n>, index: u32, now_ns: u64, all: &mut Vec<GpuState>) {
        for at in 0..card.mig_device_count().unwrap_or(0).min(16) {
            let Ok(device) = card.mig_device_by_index(at) else {
                continue;
            };
            let Ok(uuid) = device.uuid() else { continue };
            let id = self.instance_id(&device);
            let memory = device.memory_info().ok();
            let mut instance = GpuState {
                index,
                name: device.name().unwrap_or_default().into(),
                instance: id,
                mem_used: memory.as_ref().map(|memory| memory.used),
                mem_total: memory.as_ref().map(|memory| memory.total),
                processes: self.processes(&device, &uuid, now_ns),
                uuid: uuid.into(),
                ..GpuState::default()
            };
            if !instance.processes.is_empty() && card.gpm_support().unwrap_or(false) {
                let sample = id.and_then(|id| card.gpm_mig_sample(id).ok());
                self.pipes(&mut instance, sample);
            }
            all.push(instance);
        }
    }

    /// The wrapper has no function for it.
    fn instance_id(&self, device: &Device<'n>) -> Option<u32> {
        let ask = self.nvml.lib().nvmlDeviceGetGpuInstanceId.as_ref().ok()?;
        let mut id = 0;
        // SAFETY: the handle is the device's, from this library, and the number is ours.
        let code = unsafe { ask(device.handle(), &raw mut id) };
        (code == 0).then_some(id)
    }

    fn processes(&mut self, device: &Device<'n>, uuid: &str, now_ns: u64) -> Vec<GpuProcess> {
        let compute = match device.running_compute_processes() {
            Err(NvmlError::FailedToLoadSymbol(_)) => device.running_compute_processes_v2(),
            other => other,
        };
        let (since_us, then_ns) = self.seen_us.get(uuid).copied().unwrap_or_default();
        // Whoever did nothing in the last sample has none; where nobody did anything, that is the error NotFound.
        let (shares, is_told) = match device.process_utilization_stats(since_us) {
            // Between two of the driver's own samples nobody has a new one.
            Err(NvmlError::NotFound) => (Vec::new(), now_ns.saturating_sub(then_ns) >= SAMPLED_NS),
            told => {
                let is_told = told.is_ok();
                (told.unwrap_or_default(), is_told)
            }
        };
        if let Some(newest) = shares.iter().map(|share| share.timestamp).max() {
            self.seen_us.insert(uuid.into(), (newest, now_ns));
        }
        let graphics = device.running_graphics_processes().unwrap_or_default();
        let compute = compute.unwrap_or_default();
        let found = compute
            .iter()
            .map(|process| (process, false))
            .chain(graphics.iter().map(|process| (process, true)));
        let mut all: Vec<GpuProcess> = Vec::new();
        for (process, graphics) in found.take(PROCESSES_MAX) {
            // One that does both is one process.
            if all.iter().any(|known| known.pid == process.pid) {
                continue;
            }
            // There are several samples of one process where this thread was late.
            let share = shares
                .iter()
                .filter(|share| share.pid == process.pid)
                .max_by_key(|share| share.timestamp);
            let percent = |of: fn(
                &nvml_wrapper::struct_wrappers::device::ProcessUtilizationSample,
            ) -> u32| {
                // More than all there is comes from drivers' rounding.
                let known = share.map(|share| (of(share) as f32).min(100.0));
                known.or(is_told.then_some(0.0))
            };
            all.push(GpuProcess {
                pid: process.pid,
                mem_used: match process.used_gpu_memory {
                    UsedGpuMemory::Used(bytes) => Some(bytes),
                    UsedGpuMemory::Unavailable => None,
                },
                sm: percent(|share| share.sm_util),
                mem_util: percent(|share| share.mem_util),
                graphics,
                look: self.looks.of(process.pid, now_ns),
            });
        }
        all
    }

    /// What the counters did since the look before.
    fn pipes(&mut self, gpu: &mut GpuState, sample: Option<GpmSample<'n>>) {
        let Some(sample) = sample else {
            self.counters.remove(&gpu.uuid);
            return;
        };
        if let Some(before) = self.counters.get(&gpu.uuid) {
            gpu.read_pipes(self.nvml, before, &sample);
        }
        self.counters.insert(gpu.uuid.clone(), sample);
    }

    fn nvlink(&mut self, device: &Device<'n>, uuid: &str, now_ns: u64) -> Option<u64> {
        let ids = [
            FieldId(NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX),
            FieldId(NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX),
        ];
        let mut kib = 0_u64;
        for field in device.field_values_for(&ids).ok()? {
            kib = kib.saturating_add(match field.ok()?.value.ok()? {
                SampleValue::U64(count) => count,
                SampleValue::U32(count) => count.into(),
                _ => return None,
            });
        }
        let (before, then_ns) = self.links.insert(uuid.into(), (kib, now_ns))?;
        let elapsed_ns = u128::from(now_ns.checked_sub(then_ns).filter(|span| *span > 0)?);
        let bytes = u128::from(kib.checked_sub(before)?) * 1024;
        u64::try_from(bytes * 1_000_000_000 / elapsed_ns).ok()
    }
}

impl GpuState {
    fn read_pipes<'n>(&mut self, nvml: &'n Nvml, before: &GpmSample<'n>, now: &GpmSample<'n>) {
        let Ok(values) = gpm_metrics_get(nvml, before, now, &METRICS) else {
            return;
        };
        // A counter that is not there, or says nonsense, makes the group of its kind unknown.
        let mut numbers = [None; METRICS.len()];
        for (number, value) in numbers.iter_mut().zip(values) {
            *number = value
                .ok()
                .map(|value| value.value)
                .filter(|value| value.is_finite());
        }
        let [sm, integer, tensor, fp16, fp32, fp64, dram, rx, tx] = numbers;
        let percent = |value: f64| value.clamp(0.0, 100.0) as f32;
        if let (Some(sm), Some(integer), Some(tensor), Some(dram)) = (sm, integer, tensor, dram) {
            self.pipes = Some(Pipes {
                sm: percent(sm),
                integer: percent(integer),
                tensor: percent(tensor),
                fp16: percent(fp16.unwrap_or(0.0)),
                fp32: percent(fp32.unwrap_or(0.0)),
                fp64: percent(fp64.unwrap_or(0.0)),
                dram: percent(dram),
            });
        }
        // Mebibytes a second.
        let rate = |value: f64| (value.clamp(0.0, 1e9) * 1_048_576.0) as u64;
        self.pcie_rx = rx.map(rate);
        self.pcie_tx = tx.map(rate);
    }
}

/// Does nothing that this library says count any more?
fn ends(error: &NvmlError) -> bool {
    matches!(
        error,
        NvmlError::Uninitialized
            | NvmlError::DriverNotLoaded
            | NvmlError::LibRmVersionMismatch
            | NvmlError::FailedToLoadSymbol(_)
    )
}

fn health(error: &NvmlError) -> Health {
    match error {
        NvmlError::GpuLost | NvmlError::ResetRequired => Health::Lost,
        _ => Health::Refused,
    }
}

/// Has power management switched it off? To read this wakes nobody.
fn is_suspended(device: &Device<'_>) -> bool {
    let Ok(info) = device.pci_info() else {
        return false;
    };
    // The driver writes eight digits of the domain, the kernel four.
    let bus_id = info.bus_id.to_ascii_lowercase();
    let Some(place) = bus_id.get(bus_id.len().saturating_sub(12)..) else {
        return false;
    };
    let status = format!("/sys/bus/pci/devices/{place}/power/runtime_status");
    fs::read_to_string(status).is_ok_and(|status| status.trim() == "suspended")
}
