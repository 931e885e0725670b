//! The exported functions, each with the signature that NVIDIA's header gives it.
//!
//! A device's handle is no pointer: it holds the numbers of GPU and instance. A GPM sample is a box with the GPU's number and the
//! second in which it was taken, as the real one holds counters.

#![allow(
    non_upper_case_globals,
    reason = "the names of codes are those of the generated bindings"
)]

use std::{
    ffi::{CStr, c_char, c_int, c_uint, c_ulonglong},
    ptr,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nvml_wrapper_sys::bindings::{
    nvmlClockType_t, nvmlDevice_t, nvmlEccCounterType_t, nvmlFieldValue_t, nvmlGpmMetricsGet_t,
    nvmlGpmSample_t, nvmlGpmSupport_t, nvmlMemory_t, nvmlMemory_v2_t, nvmlMemoryErrorType_t,
    nvmlPciInfo_t, nvmlPcieUtilCounter_t, nvmlProcessInfo_v2_t, nvmlProcessUtilizationSample_t,
    nvmlReturn_t, nvmlTemperatureSensors_t, nvmlUtilization_t, *,
};

use crate::{
    scenario::{self, Gpu, Instance, Scenario},
    workload::Load,
};

const SUCCESS: nvmlReturn_t = nvmlReturn_enum_NVML_SUCCESS;
const INVALID: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT;
const NOT_SUPPORTED: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED;
const NOT_FOUND: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_NOT_FOUND;
const TOO_SMALL: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE;
const NO_DRIVER: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_DRIVER_NOT_LOADED;
const UNPLAYABLE: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_UNKNOWN;
const UNINITIALIZED: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_UNINITIALIZED;

static INITIALIZED: AtomicU32 = AtomicU32::new(0);

type Answer = Result<(), nvmlReturn_t>;

/// A GPU or an instance, in the scenario and the second of one call.
struct Target {
    scenario: Scenario,
    second: f64,
    gpu: usize,
    instance: Option<usize>,
}

impl Target {
    fn gpu(&self) -> &Gpu {
        &self.scenario.gpus[self.gpu]
    }

    fn instance(&self) -> Option<&Instance> {
        self.gpu().mig.get(self.instance?)
    }

    /// The id of the instance that it stands for.
    fn id(&self) -> Option<u32> {
        self.instance().map(|instance| instance.id)
    }

    fn load(&self) -> Load {
        self.gpu().load(self.id(), self.second)
    }

    /// Counters of the whole card are not given for an instance, nor while the card is divided.
    fn whole(&self) -> Answer {
        match self.instance {
            Some(_) => Err(NOT_SUPPORTED),
            None => Ok(()),
        }
    }
}

/// The scenario, once it lets this call return.
fn enter(call: &str, gpu: Option<usize>) -> Result<(Scenario, f64), nvmlReturn_t> {
    loop {
        let now = scenario::now().map_err(|_| UNPLAYABLE)?;
        let (scenario, second) = now.ok_or(NO_DRIVER)?;
        let fault = scenario
            .faults
            .iter()
            .find(|fault| fault.concerns(call, gpu, second));
        match fault {
            Some(fault) if fault.hang => thread::sleep(Duration::from_millis(5)),
            Some(fault) if fault.code != SUCCESS => return Err(fault.code),
            _ => return Ok((scenario, second)),
        }
    }
}

fn on_library(call: &str, answer: impl FnOnce(&Scenario) -> Answer) -> nvmlReturn_t {
    if INITIALIZED.load(Ordering::Acquire) == 0 {
        return UNINITIALIZED;
    }
    let done = enter(call, None).and_then(|(scenario, _)| answer(&scenario));
    done.err().unwrap_or(SUCCESS)
}

fn on_device(
    call: &str,
    device: nvmlDevice_t,
    answer: impl FnOnce(&Target) -> Answer,
) -> nvmlReturn_t {
    if INITIALIZED.load(Ordering::Acquire) == 0 {
        return UNINITIALIZED;
    }
    let number = device as usize;
    let Some(gpu) = (number >> 8).checked_sub(1) else {
        return INVALID;
    };
    let done = enter(call, Some(gpu)).and_then(|(scenario, second)| {
        let target = Target {
            instance: (number & 0xff).checked_sub(1),
            scenario,
            second,
            gpu,
        };
        match target.scenario.gpus.get(gpu) {
            Some(found) if target.instance.is_none_or(|at| at < found.mig.len()) => answer(&target),
            Some(_) => Err(INVALID),
            None => Err(nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST),
        }
    });
    done.err().unwrap_or(SUCCESS)
}

fn handle(gpu: usize, instance: Option<usize>) -> nvmlDevice_t {
    ptr::without_provenance_mut((gpu + 1) << 8 | instance.map_or(0, |at| at + 1))
}

/// Writes through a caller's pointer.
fn give<T>(to: *mut T, value: T) -> Answer {
    if to.is_null() {
        return Err(INVALID);
    }
    // SAFETY: NVML's contract: a pointer that is not null points to room for the value.
    unsafe { to.write(value) };
    Ok(())
}

fn give_text(to: *mut c_char, length: c_uint, text: &str) -> Answer {
    if to.is_null() {
        return Err(INVALID);
    }
    if text.len() >= length as usize {
        return Err(TOO_SMALL);
    }
    // SAFETY: NVML's contract: there is room for `length` bytes.
    unsafe {
        ptr::copy_nonoverlapping(text.as_ptr().cast(), to, text.len());
        to.add(text.len()).write(0);
    }
    Ok(())
}

/// Gives a list as NVML does: the number alone where there is no room.
fn give_list<T: Copy>(to: *mut T, count: *mut c_uint, list: &[T]) -> Answer {
    if count.is_null() {
        return Err(INVALID);
    }
    // SAFETY: NVML's contract: `count` says how many there is room for at `to`.
    unsafe {
        let room = if to.is_null() { 0 } else { *count as usize };
        *count = c_uint::try_from(list.len()).unwrap_or(c_uint::MAX);
        if list.len() > room {
            return Err(TOO_SMALL);
        }
        ptr::copy_nonoverlapping(list.as_ptr(), to, list.len());
    }
    Ok(())
}

fn percent(share: f32) -> c_uint {
    share.round() as c_uint
}

/// The functions of the interface that ask something of a device.
macro_rules! of_device {
    ($($name:ident($target:ident $(, $arg:ident: $ty:ty)*) $body:block)*) => {
        $(
            /// As NVIDIA's header has it.
            #[unsafe(no_mangle)]
            pub extern "C" fn $name(device: nvmlDevice_t $(, $arg: $ty)*) -> nvmlReturn_t {
                on_device(stringify!($name), device, |$target| $body)
            }
        )*
    };
}

/// Begins.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> nvmlReturn_t {
    match enter("nvmlInit_v2", None) {
        Ok(_) => {
            INITIALIZED.fetch_add(1, Ordering::AcqRel);
            SUCCESS
        }
        Err(code) => code,
    }
}

/// Begins; no flag makes a difference without a GPU.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlInitWithFlags(_flags: c_uint) -> nvmlReturn_t {
    nvmlInit_v2()
}

/// Ends.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> nvmlReturn_t {
    let ended = INITIALIZED.fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| {
        count.checked_sub(1)
    });
    ended.map_or(UNINITIALIZED, |_| SUCCESS)
}

/// What a code means.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlErrorString(code: nvmlReturn_t) -> *const c_char {
    let text: &CStr = match code {
        SUCCESS => c"Success",
        NOT_SUPPORTED => c"Not Supported",
        NO_DRIVER => c"Driver Not Loaded",
        nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST => c"GPU is lost",
        _ => c"Error of the scenario",
    };
    text.as_ptr()
}

/// The driver's version.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlSystemGetDriverVersion(to: *mut c_char, length: c_uint) -> nvmlReturn_t {
    on_library("nvmlSystemGetDriverVersion", |scenario| {
        give_text(to, length, &scenario.driver)
    })
}

/// The library's version.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlSystemGetNVMLVersion(to: *mut c_char, length: c_uint) -> nvmlReturn_t {
    on_library("nvmlSystemGetNVMLVersion", |scenario| {
        give_text(to, length, &format!("12.{}", scenario.driver))
    })
}

/// CUDA 12.4.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlSystemGetCudaDriverVersion(to: *mut c_int) -> nvmlReturn_t {
    on_library("nvmlSystemGetCudaDriverVersion", |_| give(to, 12_040))
}

/// How many GPUs there are.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetCount_v2(to: *mut c_uint) -> nvmlReturn_t {
    on_library("nvmlDeviceGetCount_v2", |scenario| {
        give(to, scenario.gpus.len() as c_uint)
    })
}

/// A GPU by its number.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetHandleByIndex_v2(
    index: c_uint,
    to: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    let index = index as usize;
    on_device("nvmlDeviceGetHandleByIndex_v2", handle(index, None), |_| {
        give(to, handle(index, None))
    })
}

/// A GPU or an instance by its UUID.
///
/// # Safety
/// The text must end with a NUL, as C's do.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByUUID(
    uuid: *const c_char,
    to: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    on_library("nvmlDeviceGetHandleByUUID", |scenario| {
        if uuid.is_null() {
            return Err(INVALID);
        }
        // SAFETY: the caller's, as it says above.
        let wanted = unsafe { CStr::from_ptr(uuid) }
            .to_str()
            .map_err(|_| INVALID)?;
        for (index, gpu) in scenario.gpus.iter().enumerate() {
            if gpu.uuid == wanted {
                return give(to, handle(index, None));
            }
            if let Some(at) = gpu.mig.iter().position(|instance| instance.uuid == wanted) {
                return give(to, handle(index, Some(at)));
            }
        }
        Err(NOT_FOUND)
    })
}

of_device! {
    nvmlDeviceGetIndex(target, to: *mut c_uint) { give(to, target.gpu as c_uint) }
    nvmlDeviceGetMinorNumber(target, to: *mut c_uint) {
        target.whole()?;
        give(to, target.gpu().minor)
    }
    nvmlDeviceGetName(target, to: *mut c_char, length: c_uint) {
        give_text(to, length, &target.gpu().name)
    }
    nvmlDeviceGetUUID(target, to: *mut c_char, length: c_uint) {
        let uuid = target.instance().map_or(&target.gpu().uuid, |instance| &instance.uuid);
        give_text(to, length, uuid)
    }
    nvmlDeviceGetPciInfo_v3(target, to: *mut nvmlPciInfo_t) {
        target.whole()?;
        let bus = target.gpu as c_uint + 1;
        // SAFETY: a structure of numbers, for which zeros are values.
        let mut info: nvmlPciInfo_t = unsafe { std::mem::zeroed() };
        info.bus = bus;
        for (to, byte) in info.busId.iter_mut().zip(format!("00000000:{bus:02X}:00.0").bytes()) {
            *to = byte as c_char;
        }
        for (to, byte) in info.busIdLegacy.iter_mut().zip(format!("0000:{bus:02X}:00.0").bytes()) {
            *to = byte as c_char;
        }
        give(to, info)
    }
    nvmlDeviceGetUtilizationRates(target, to: *mut nvmlUtilization_t) {
        // A divided card has none: NVIDIA's MIG guide.
        if !target.gpu().mig.is_empty() {
            return Err(NOT_SUPPORTED);
        }
        let load = target.load();
        give(to, nvmlUtilization_t { gpu: percent(load.util), memory: percent(load.mem_util) })
    }
    nvmlDeviceGetMemoryInfo(target, to: *mut nvmlMemory_t) {
        let total = target.instance().map_or(target.gpu().memory, |instance| instance.memory);
        let used = (f64::from(target.load().memory) / 100.0 * total as f64) as c_ulonglong;
        give(to, nvmlMemory_t { total, used, free: total - used })
    }
    nvmlDeviceGetMemoryInfo_v2(target, to: *mut nvmlMemory_v2_t) {
        let total = target.instance().map_or(target.gpu().memory, |instance| instance.memory);
        let used = (f64::from(target.load().memory) / 100.0 * total as f64) as c_ulonglong;
        let version = (size_of::<nvmlMemory_v2_t>() | 2 << 24) as c_uint;
        give(to, nvmlMemory_v2_t { version, total, reserved: 0, used, free: total - used })
    }
    nvmlDeviceGetPowerUsage(target, to: *mut c_uint) {
        target.whole()?;
        let cap = target.gpu().power_cap;
        give(to, (f64::from(cap) * f64::from(target.load().power) / 100.0) as c_uint)
    }
    nvmlDeviceGetEnforcedPowerLimit(target, to: *mut c_uint) {
        target.whole()?;
        give(to, target.gpu().power_cap)
    }
    nvmlDeviceGetTemperature(target, _sensor: nvmlTemperatureSensors_t, to: *mut c_uint) {
        target.whole()?;
        give(to, 30 + percent(target.load().power) * 2 / 5)
    }
    nvmlDeviceGetClockInfo(target, kind: nvmlClockType_t, to: *mut c_uint) {
        target.whole()?;
        let busy = target.load().util > 1.0;
        give(to, match (kind, busy) {
            (nvmlClockType_enum_NVML_CLOCK_MEM, _) => 2_619,
            (_, true) => 1_755,
            (_, false) => 345,
        })
    }
    nvmlDeviceGetPcieThroughput(target, counter: nvmlPcieUtilCounter_t, to: *mut c_uint) {
        target.whole()?;
        let load = target.load();
        let bytes = match counter {
            nvmlPcieUtilCounter_enum_NVML_PCIE_UTIL_TX_BYTES => load.pcie_tx,
            nvmlPcieUtilCounter_enum_NVML_PCIE_UTIL_RX_BYTES => load.pcie_rx,
            _ => return Err(INVALID),
        };
        give(to, (bytes / 1024.0) as c_uint)
    }
    nvmlDeviceGetNvLinkState(target, link: c_uint, to: *mut nvmlEnableState_t) {
        target.whole()?;
        if link >= 18 {
            return Err(INVALID);
        }
        give(to, nvmlEnableState_enum_NVML_FEATURE_ENABLED)
    }
    nvmlDeviceGetFieldValues(target, count: c_int, values: *mut nvmlFieldValue_t) {
        target.whole()?;
        if values.is_null() {
            return Err(INVALID);
        }
        for at in 0..usize::try_from(count).map_err(|_| INVALID)? {
            // SAFETY: NVML's contract: there are `count` values.
            let value = unsafe { &mut *values.add(at) };
            value.nvmlReturn = match value.fieldId {
                field_id::NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX | field_id::NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX => {
                    let rate = target.gpu().mean(None, 0.0, target.second, |load| load.nvlink);
                    value.valueType = nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG_LONG;
                    value.value.ullVal = (rate / 2.0 * target.second / 1024.0) as c_ulonglong;
                    SUCCESS
                }
                _ => NOT_SUPPORTED,
            };
        }
        Ok(())
    }
    nvmlDeviceGetTotalEccErrors(target, kind: nvmlMemoryErrorType_t, _counter: nvmlEccCounterType_t, to: *mut c_ulonglong) {
        target.whole()?;
        let uncorrected = kind == nvmlMemoryErrorType_enum_NVML_MEMORY_ERROR_TYPE_UNCORRECTED;
        give(to, if uncorrected { target.gpu().ecc_uncorrected } else { 0 })
    }
    nvmlDeviceGetEncoderUtilization(target, to: *mut c_uint, period_us: *mut c_uint) {
        target.whole()?;
        give(to, percent(target.load().encoder))?;
        give(period_us, 167_000)
    }
    nvmlDeviceGetDecoderUtilization(target, to: *mut c_uint, period_us: *mut c_uint) {
        target.whole()?;
        give(to, percent(target.load().decoder))?;
        give(period_us, 167_000)
    }
    nvmlDeviceGetComputeRunningProcesses_v3(target, count: *mut c_uint, to: *mut nvmlProcessInfo_v2_t) {
        processes(target, false, count, to)
    }
    nvmlDeviceGetComputeRunningProcesses_v2(target, count: *mut c_uint, to: *mut nvmlProcessInfo_v2_t) {
        processes(target, false, count, to)
    }
    nvmlDeviceGetGraphicsRunningProcesses_v3(target, count: *mut c_uint, to: *mut nvmlProcessInfo_v2_t) {
        processes(target, true, count, to)
    }
    nvmlDeviceGetProcessUtilization(target, to: *mut nvmlProcessUtilizationSample_t, count: *mut c_uint, since_us: c_ulonglong) {
        // Not while the card is divided: NVIDIA's MIG guide.
        if !target.gpu().mig.is_empty() {
            return Err(NOT_SUPPORTED);
        }
        // The driver stamps them with the machine's own time, and has one only of a process that did anything in the last sample
        // (the reference of NVML's API, nvmlDeviceGetProcessUtilization).
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_us = now.as_micros() as c_ulonglong;
        let samples: Vec<_> = target.gpu().running(None, target.second)
            .map(|process| {
                let load = process.play.at(target.second - process.from_s);
                nvmlProcessUtilizationSample_t {
                    pid: process.pid,
                    timeStamp: now_us,
                    smUtil: percent(load.sm),
                    memUtil: percent(load.mem_util),
                    encUtil: percent(load.encoder),
                    decUtil: percent(load.decoder),
                }
            })
            .filter(|sample| sample.timeStamp > since_us)
            .filter(|sample| sample.smUtil + sample.memUtil + sample.encUtil + sample.decUtil > 0)
            .collect();
        if samples.is_empty() {
            return Err(NOT_FOUND);
        }
        give_list(to, count, &samples)
    }
    nvmlDeviceGetMigMode(target, current: *mut c_uint, pending: *mut c_uint) {
        target.whole()?;
        let is_divided = c_uint::from(!target.gpu().mig.is_empty());
        give(current, is_divided)?;
        give(pending, is_divided)
    }
    nvmlDeviceGetMaxMigDeviceCount(target, to: *mut c_uint) { give(to, 7.max(target.gpu().mig.len() as c_uint)) }
    nvmlDeviceGetMigDeviceHandleByIndex(target, index: c_uint, to: *mut nvmlDevice_t) {
        if index as usize >= target.gpu().mig.len() {
            return Err(NOT_FOUND);
        }
        give(to, handle(target.gpu, Some(index as usize)))
    }
    nvmlDeviceIsMigDeviceHandle(target, to: *mut c_uint) { give(to, c_uint::from(target.instance.is_some())) }
    nvmlDeviceGetDeviceHandleFromMigDeviceHandle(target, to: *mut nvmlDevice_t) {
        target.instance.ok_or(INVALID)?;
        give(to, handle(target.gpu, None))
    }
    nvmlDeviceGetGpuInstanceId(target, to: *mut c_uint) { give(to, target.id().ok_or(NOT_FOUND)?) }
    nvmlDeviceGetComputeInstanceId(target, to: *mut c_uint) {
        target.id().ok_or(NOT_FOUND)?;
        give(to, 0)
    }
    nvmlGpmQueryDeviceSupport(target, to: *mut nvmlGpmSupport_t) {
        if to.is_null() {
            return Err(INVALID);
        }
        // SAFETY: NVML's contract: it points to one.
        unsafe { (*to).isSupportedDevice = c_uint::from(target.gpu().gpm) };
        Ok(())
    }
    nvmlGpmSampleGet(target, sample: nvmlGpmSample_t) {
        target.whole()?;
        take_sample(target, None, sample)
    }
    nvmlGpmMigSampleGet(target, instance: c_uint, sample: nvmlGpmSample_t) {
        if !target.gpu().mig.iter().any(|found| found.id == instance) {
            return Err(INVALID);
        }
        take_sample(target, Some(instance), sample)
    }
}

fn processes(
    target: &Target,
    graphics: bool,
    count: *mut c_uint,
    to: *mut nvmlProcessInfo_v2_t,
) -> Answer {
    let gpu = target.gpu();
    let running: Vec<_> = gpu
        .running(target.id(), target.second)
        .filter(|process| process.graphics == graphics)
        .map(|process| {
            let load = process.play.at(target.second - process.from_s);
            nvmlProcessInfo_v2_t {
                pid: process.pid,
                usedGpuMemory: (f64::from(load.memory) / 100.0 * gpu.memory as f64) as c_ulonglong,
                gpuInstanceId: process.instance.unwrap_or(c_uint::MAX),
                computeInstanceId: process.instance.map_or(c_uint::MAX, |_| 0),
            }
        })
        .collect();
    give_list(to, count, &running)
}

/// What a GPM sample holds.
struct Taken {
    gpu: usize,
    instance: Option<u32>,
    second: f64,
}

/// Makes room for a sample.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlGpmSampleAlloc(to: *mut nvmlGpmSample_t) -> nvmlReturn_t {
    on_library("nvmlGpmSampleAlloc", |_| {
        let taken = Box::new(Taken {
            gpu: usize::MAX,
            instance: None,
            second: 0.0,
        });
        give(to, Box::into_raw(taken).cast())
    })
}

/// Gives it back.
///
/// # Safety
/// The sample must come from `nvmlGpmSampleAlloc` and not be used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlGpmSampleFree(sample: nvmlGpmSample_t) -> nvmlReturn_t {
    if sample.is_null() {
        return INVALID;
    }
    // SAFETY: the caller's, as it says above.
    drop(unsafe { Box::from_raw(sample.cast::<Taken>()) });
    SUCCESS
}

fn take_sample(target: &Target, instance: Option<u32>, sample: nvmlGpmSample_t) -> Answer {
    if !target.gpu().gpm {
        return Err(NOT_SUPPORTED);
    }
    let taken = Taken {
        gpu: target.gpu,
        instance,
        second: target.second,
    };
    // The box that the library itself gave out.
    give(sample.cast::<Taken>(), taken)
}

/// What counters say that lie between two samples.
///
/// # Safety
/// The request must be one, with samples that were taken.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlGpmMetricsGet(request: *mut nvmlGpmMetricsGet_t) -> nvmlReturn_t {
    on_library("nvmlGpmMetricsGet", |scenario| {
        // SAFETY: the caller's, as it says above.
        let Some(request) = (unsafe { request.as_mut() }) else {
            return Err(INVALID);
        };
        // SAFETY: likewise.
        let samples = unsafe {
            (
                request.sample1.cast::<Taken>().as_ref(),
                request.sample2.cast::<Taken>().as_ref(),
            )
        };
        let (Some(first), Some(second)) = samples else {
            return Err(INVALID);
        };
        let same = first.gpu == second.gpu && first.instance == second.instance;
        let gpu = scenario
            .gpus
            .get(first.gpu)
            .filter(|_| same)
            .ok_or(INVALID)?;
        for metric in request.metrics.iter_mut().take(request.numMetrics as usize) {
            let mean =
                |of: fn(&Load) -> f32| gpu.mean(first.instance, first.second, second.second, of);
            // By the numbers of nvmlGpmMetricId_t; rates are in MiB a second.
            const MIB: f64 = 1_048_576.0;
            let value = match metric.metricId {
                1 => Some(mean(|load| load.util)),
                2 => Some(mean(|load| load.sm)),
                3 => Some(mean(|load| load.occupancy)),
                4 => Some(mean(|load| load.integer)),
                5 | 7 => Some(mean(|load| load.tensor)),
                10 => Some(mean(|load| load.dram)),
                11 => Some(mean(|load| load.fp64)),
                12 => Some(mean(|load| load.fp32)),
                13 => Some(mean(|load| load.fp16)),
                20 => Some(mean(|load| load.pcie_tx) / MIB),
                21 => Some(mean(|load| load.pcie_rx) / MIB),
                60 | 61 => Some(mean(|load| load.nvlink) / 2.0 / MIB),
                _ => None,
            };
            metric.nvmlReturn = if value.is_some() {
                SUCCESS
            } else {
                NOT_SUPPORTED
            };
            metric.value = value.unwrap_or(0.0);
        }
        Ok(())
    })
}
