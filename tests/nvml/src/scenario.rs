//! The scenario file: a node's GPUs, what runs on them and when, and what goes wrong.

use std::{
    env, fs,
    io::{self, Write as _},
    sync::{Mutex, OnceLock, PoisonError},
    time::Instant,
};

use serde::{Deserialize, Serialize};

use crate::workload::{Load, Play};

/// Names the scenario's file.
pub const FILE: &str = "SAKER_NVML_SCENARIO";
/// Names the file with the scenario's time.
pub const CLOCK: &str = "SAKER_NVML_CLOCK";

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scenario {
    /// Version of the driver.
    pub driver: String,
    /// Its GPUs, in NVML's order.
    pub gpus: Vec<Gpu>,
    /// What goes wrong.
    pub faults: Vec<Fault>,
}

/// A GPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gpu {
    /// As in `GPU-…`.
    pub uuid: String,
    /// The product's name.
    pub name: String,
    /// Of the device node.
    pub minor: u32,
    /// Bytes.
    pub memory: u64,
    /// Milliwatts.
    pub power_cap: u32,
    /// Whether it has GPM: Hopper and newer.
    pub gpm: bool,
    /// Its instances, where it is divided.
    pub mig: Vec<Instance>,
    /// What runs on it.
    pub processes: Vec<Process>,
    /// Uncorrected memory errors so far.
    pub ecc_uncorrected: u64,
}

impl Default for Gpu {
    fn default() -> Self {
        Self {
            uuid: "GPU-00000000-0000-0000-0000-000000000000".into(),
            name: "NVIDIA H100 80GB HBM3".into(),
            minor: 0,
            memory: 80 << 30,
            power_cap: 700_000,
            gpm: true,
            mig: Vec::new(),
            processes: Vec::new(),
            ecc_uncorrected: 0,
        }
    }
}

/// A part of a GPU that is one to programs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    /// As in `MIG-…`.
    pub uuid: String,
    /// Id of the GPU instance.
    pub id: u32,
    /// Bytes.
    pub memory: u64,
}

/// A program on a GPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// In the host's namespace.
    pub pid: u32,
    /// What it does: the keys of [`Play`] stand beside these.
    #[serde(flatten)]
    pub play: Play,
    /// Second in which it starts.
    #[serde(default)]
    pub from_s: f64,
    /// Second in which it has ended.
    #[serde(default)]
    pub until_s: Option<f64>,
    /// The instance that it runs on.
    #[serde(default)]
    pub instance: Option<u32>,
    /// Whether it draws instead of computing.
    #[serde(default)]
    pub graphics: bool,
}

/// Something that goes wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The function, or `*` for every function but those that begin and end.
    pub call: String,
    /// The GPU; `None`: any.
    #[serde(default)]
    pub gpu: Option<usize>,
    /// What it returns: a number of `nvmlReturn_t`. 0 together with `hang` is a call that takes long.
    #[serde(default)]
    pub code: u32,
    /// It does not return while this stands.
    #[serde(default)]
    pub hang: bool,
    /// Second from which on.
    #[serde(default)]
    pub from_s: f64,
    /// Second until which.
    #[serde(default)]
    pub until_s: Option<f64>,
}

impl Fault {
    /// Does it concern this call now?
    pub fn concerns(&self, call: &str, gpu: Option<usize>, t: f64) -> bool {
        let is_call = self.call == call || self.call == "*" && call.starts_with("nvmlDevice");
        is_call && (self.gpu.is_none() || self.gpu == gpu) && during(t, self.from_s, self.until_s)
    }
}

impl Gpu {
    /// What runs on it, or on one instance of it, in a second.
    pub fn running(&self, instance: Option<u32>, t: f64) -> impl Iterator<Item = &Process> {
        self.processes.iter().filter(move |process| {
            (instance.is_none() || process.instance == instance)
                && during(t, process.from_s, process.until_s)
        })
    }

    /// All loads together, within what there is.
    pub fn load(&self, instance: Option<u32>, t: f64) -> Load {
        let mut sum = Load {
            power: 10.0,
            ..Load::default()
        };
        for process in self.running(instance, t) {
            let load = process.play.at(t - process.from_s);
            for (all, part) in [
                (&mut sum.util, load.util),
                (&mut sum.mem_util, load.mem_util),
                (&mut sum.sm, load.sm),
                (&mut sum.occupancy, load.occupancy),
                (&mut sum.tensor, load.tensor),
                (&mut sum.integer, load.integer),
                (&mut sum.fp16, load.fp16),
                (&mut sum.fp32, load.fp32),
                (&mut sum.fp64, load.fp64),
                (&mut sum.dram, load.dram),
                (&mut sum.encoder, load.encoder),
                (&mut sum.decoder, load.decoder),
                (&mut sum.memory, load.memory),
            ] {
                *all = (*all + part).min(100.0);
            }
            sum.power = sum.power.max(load.power);
            sum.pcie_rx += load.pcie_rx;
            sum.pcie_tx += load.pcie_tx;
            sum.nvlink += load.nvlink;
        }
        sum
    }

    /// The mean of what counters saw from one second to another.
    pub fn mean(&self, instance: Option<u32>, from: f64, to: f64, of: fn(&Load) -> f32) -> f64 {
        const POINTS: u32 = 8;
        let at = |part: u32| from + (to - from) * (f64::from(part) + 0.5) / f64::from(POINTS);
        let sum: f64 = (0..POINTS)
            .map(|part| f64::from(of(&self.load(instance, at(part)))))
            .sum();
        sum / f64::from(POINTS)
    }
}

impl Scenario {
    /// Reads a scenario; or what is wrong, by line and column or by key.
    pub fn parse(text: &str) -> Result<Self, String> {
        let scenario: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        for (at, gpu) in scenario.gpus.iter().enumerate() {
            let of_gpu = |error| format!("gpus[{at}].{error}");
            gpu.check().map_err(of_gpu)?;
            let is_again = |other: &Gpu| other.uuid == gpu.uuid;
            if scenario.gpus[..at].iter().any(is_again) {
                return Err(format!("gpus[{at}].uuid: {} is there twice", gpu.uuid));
            }
        }
        for (at, fault) in scenario.faults.iter().enumerate() {
            if let Some(gpu) = fault.gpu.filter(|gpu| *gpu >= scenario.gpus.len()) {
                return Err(format!("faults[{at}].gpu: there is no GPU {gpu}"));
            }
        }
        Ok(scenario)
    }
}

impl Gpu {
    fn check(&self) -> Result<(), String> {
        let is_there = |id: u32| self.mig.iter().any(|instance| instance.id == id);
        for (at, process) in self.processes.iter().enumerate() {
            let of_process = |error| format!("processes[{at}].{error}");
            process.play.check().map_err(of_process)?;
            if let Some(id) = process.instance.filter(|id| !is_there(*id)) {
                return Err(format!("processes[{at}].instance: {id} is not in mig"));
            }
            if process.until_s.is_some_and(|until| until < process.from_s) {
                return Err(format!("processes[{at}].until_s: it is before from_s"));
            }
        }
        Ok(())
    }
}

/// The scenario and the second that it has come to; `Ok(None)` where there is none: then there is no driver either. An error where it
/// cannot be played: what is wrong is said on standard error, once.
pub fn now() -> Result<Option<(Scenario, f64)>, Unplayable> {
    static LOADED: OnceLock<Instant> = OnceLock::new();
    static SAID: Mutex<String> = Mutex::new(String::new());
    let loaded = *LOADED.get_or_init(Instant::now);
    let Some(file) = env::var_os(FILE).map(std::path::PathBuf::from) else {
        return Ok(None);
    };
    let mut wrong = String::new();
    // Whoever writes the file may be half through: a moment later it is whole.
    for _ in 0..200 {
        let Ok(text) = fs::read_to_string(&file) else {
            return Ok(None);
        };
        match Scenario::parse(&text) {
            Ok(scenario) => {
                let second = match env::var_os(CLOCK) {
                    Some(clock) => fs::read_to_string(clock)
                        .unwrap_or_default()
                        .trim()
                        .parse()
                        .unwrap_or(0.0),
                    None => loaded.elapsed().as_secs_f64(),
                };
                return Ok(Some((scenario, second)));
            }
            Err(error) => wrong = format!("{}: {error}", file.display()),
        }
        std::thread::yield_now();
    }
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if *said != wrong {
        // Nobody is left to tell where this fails.
        let _ = writeln!(io::stderr(), "the scenario cannot be played: {wrong}");
        *said = wrong;
    }
    Err(Unplayable)
}

/// The scenario's file is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unplayable;

fn during(t: f64, from: f64, until: Option<f64>) -> bool {
    t >= from && until.is_none_or(|until| t < until)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_named() {
        let check = |text: &str, expected: &str| {
            let error = Scenario::parse(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        };
        check("{", "line 1 column 1");
        check(r#"{"gpu": []}"#, "unknown field `gpu`, expected one of");
        check(
            r#"{"gpus": [{"uuid": "GPU-a"}, {"uuid": "GPU-a"}]}"#,
            "gpus[1].uuid: GPU-a is there twice",
        );
        check(
            r#"{"gpus": [{"processes": [{"pid": 1, "workload": "ethash", "cap": 7}]}]}"#,
            "gpus[0].processes[0].cap: 7 is not within 0 and 1",
        );
        check(
            r#"{"gpus": [{"processes": [{"pid": 1, "workload": "ethash", "instance": 7}]}]}"#,
            "gpus[0].processes[0].instance: 7 is not in mig",
        );
        check(
            r#"{"gpus": [{"processes": [{"pid": 1, "workload": "ethash", "from_s": 7, "until_s": 3}]}]}"#,
            "gpus[0].processes[0].until_s: it is before from_s",
        );
        check(
            r#"{"gpus": [{"processes": [{"workload": "ethash"}]}]}"#,
            "missing field `pid`",
        );
        check(
            r#"{"faults": [{"call": "*", "gpu": 0}]}"#,
            "faults[0].gpu: there is no GPU 0",
        );
        assert_eq!(Scenario::parse("{}"), Ok(Scenario::default()));
    }
}
