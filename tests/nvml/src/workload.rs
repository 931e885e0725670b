//! What programs do to a GPU over time: a pure function of the kind, a seed and the second.
//!
//! # Where the numbers come from
//!
//! No GPU was measured for them. Each is from a publication, or derived here from a published design; ranges are drawn once a seed.
//!
//! - **Training**: utilization above 90 in about two thirds of all samples: Hu et al., *Characterization of Large Language Model
//!   Development in the Datacenter* (NSDI 2024), clusters Seren and Kalos. Tensor cores 25 to 55 %: the model FLOPs utilization that
//!   training reports is 30 to 55 % (Jiang et al., *MegaScale*, NSDI 2024; Chowdhery et al., *PaLM*, 2022). A checkpoint every
//!   5 to 30 minutes that stalls for seconds to a minute: Mohan et al., *CheckFreq* (FAST 2021). Stalls of the data loader:
//!   Mohan et al., *Analyzing and Mitigating Data Stalls in DNN Training* (VLDB 2021).
//! - **Inference of language models**: requests in bursts: the Azure traces in Patel et al., *Splitwise* (ISCA 2024). Memory 85 to 92 %
//!   full: vLLM's `gpu_memory_utilization` is 0.9. A decode step reads all weights, so that it is bound by DRAM and uses the tensor
//!   cores for a few percent (Splitwise, section 3); dequantizing and attention use FP16 and FP32 pipes.
//! - **Notebooks**: idle for most of their time: Jeon et al., *Analysis of Large-Scale Multi-Tenant GPU Clusters* (ATC 2019).
//! - **Simulation**: FP64 without tensor cores at steady load, as HPC codes profile in NVIDIA's *DCGM* documentation of
//!   `fp64_active`.
//! - **Ethash**: 64 reads of 128 bytes a hash (Ethereum's yellow paper, appendix J), so that DRAM is at 85 to 94 %. Per hash
//!   about 64 × 32 FNV multiplications and two Keccak-f\[1600\], some 18,000 integer operations: at 3.35 TB/s (H100 data sheet) 400 MH/s
//!   and 7 T integer operations a second, of some 15 T that 132 SMs of 64 lanes do. No floating point in the algorithm.
//! - **KawPow**: ProgPoW's random integer math (EIP-1057) with reads of 256 bytes: more integer, less DRAM; no floating point.
//! - **kHeavyHash**: Keccak and a product of a 64 × 64 matrix of 4-bit numbers (Kaspa's specification): integer only, no DRAM.
//! - **All miners**: a job is some hundred bytes and a share some hundred bytes, so the bus is quiet; a hash's cost does
//!   not vary, so the load is flat.

use serde::{Deserialize, Serialize};

use crate::script::Script;

/// Kinds of programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the module's documentation describes each")]
pub enum Workload {
    Training,
    /// Training in FP32 on a card whose framework does not use TF32.
    TrainingFp32,
    Inference,
    /// Inference at full load all the time, as a batch of offline requests is.
    InferenceSaturated,
    Notebook,
    Simulation,
    /// Video: encoder and decoder.
    Transcoding,
    Ethash,
    Kawpow,
    Kheavyhash,
    /// What [`Play::phases`] say.
    Custom,
}

impl Workload {
    /// All of them that are played here.
    pub const ALL: [Self; 10] = [
        Self::Training,
        Self::TrainingFp32,
        Self::Inference,
        Self::InferenceSaturated,
        Self::Notebook,
        Self::Simulation,
        Self::Transcoding,
        Self::Ethash,
        Self::Kawpow,
        Self::Kheavyhash,
    ];

    /// Is it what must be found?
    pub fn is_miner(self) -> bool {
        matches!(self, Self::Ethash | Self::Kawpow | Self::Kheavyhash)
    }
}

/// A workload with what its operator does to hide it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Play {
    /// What runs.
    pub workload: Workload,
    /// Which of its many forms.
    #[serde(default)]
    pub seed: u64,
    /// Intensity, as a share of full; `None`: full.
    #[serde(default)]
    pub cap: Option<f32>,
    /// Seconds on and seconds off.
    #[serde(default)]
    pub duty: Option<(f64, f64)>,
    /// Seconds in which it grows to its full intensity.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ramp_s: f64,
    /// Intensity that is drawn anew: from, to, and every how many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttle: Option<(f32, f32, f64)>,
    /// What the workload `custom` does.
    #[serde(default)]
    pub phases: Script,
}

fn is_zero(number: &f64) -> bool {
    *number == 0.0
}

/// What a GPU does in one moment. Shares in percent, rates in bytes a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "each is named after NVML's metric")]
pub struct Load {
    pub util: f32,
    pub mem_util: f32,
    pub sm: f32,
    pub occupancy: f32,
    pub tensor: f32,
    pub integer: f32,
    pub fp16: f32,
    pub fp32: f32,
    pub fp64: f32,
    pub dram: f32,
    pub pcie_rx: f32,
    pub pcie_tx: f32,
    pub nvlink: f32,
    /// Percent of the power cap.
    pub power: f32,
    pub encoder: f32,
    pub decoder: f32,
    /// Percent of the card's memory.
    pub memory: f32,
}

const MB: f32 = 1e6;
const GB: f32 = 1e9;

impl Play {
    /// Full intensity, always on.
    pub fn of(workload: Workload, seed: u64) -> Self {
        Self {
            workload,
            seed,
            cap: None,
            duty: None,
            ramp_s: 0.0,
            throttle: None,
            phases: Script::default(),
        }
    }

    /// Is everything within its range? If not, what is not, by its key.
    pub fn check(&self) -> Result<(), String> {
        match self.workload {
            Workload::Custom => self.phases.check()?,
            _ if !self.phases.phases.is_empty() => {
                return Err("phases: only the workload custom has some".into());
            }
            _ => {}
        }
        if let Some(cap) = self.cap.filter(|cap| !(0.0..=1.0).contains(cap)) {
            return Err(format!("cap: {cap} is not within 0 and 1"));
        }
        let is_turn = |(on, off): (f64, f64)| on > 0.0 && off >= 0.0 && (on + off).is_finite();
        if let Some((on, off)) = self.duty.filter(|duty| !is_turn(*duty)) {
            return Err(format!("duty: {on} and {off} s are no turns"));
        }
        let is_throttle = |(from, to, every_s): (f32, f32, f64)| {
            (0.0..=to).contains(&from) && to <= 1.0 && (1.0..=86_400.0).contains(&every_s)
        };
        if let Some(throttle) = self.throttle.filter(|throttle| !is_throttle(*throttle)) {
            return Err(format!(
                "throttle: {throttle:?} is not two of 0 to 1 in their order, and 1 to 86400 s"
            ));
        }
        let ramp_s = self.ramp_s;
        if !(0.0..=86_400.0).contains(&ramp_s) {
            return Err(format!("ramp_s: {ramp_s} is not within 0 and 86400"));
        }
        Ok(())
    }

    /// The load at second `t` of the scenario.
    pub fn at(&self, t: f64) -> Load {
        let dice = Dice {
            seed: self.seed ^ (self.workload as u64) << 48,
            moment: (t * 10.0) as u64,
        };
        let off = self.duty.is_some_and(|(on, off)| {
            let phase = dice.once(90, 0.0, (on + off) as f32);
            (t + f64::from(phase)) % (on + off) >= on
        });
        let mut load = match self.workload {
            _ if off => Load {
                memory: 8.0,
                power: 15.0,
                ..Load::default()
            },
            Workload::Training => training(&dice, t, true),
            Workload::TrainingFp32 => training(&dice, t, false),
            Workload::Inference => inference(&dice, t),
            Workload::InferenceSaturated => saturated(&dice),
            Workload::Notebook => notebook(&dice, t),
            Workload::Simulation => simulation(&dice, t),
            Workload::Transcoding => transcoding(&dice),
            Workload::Ethash => miner(&dice, (35.0, 50.0), (85.0, 94.0), (55.0, 80.0)),
            Workload::Kawpow => miner(&dice, (50.0, 65.0), (50.0, 75.0), (75.0, 97.0)),
            Workload::Kheavyhash => miner(&dice, (70.0, 90.0), (0.5, 3.0), (60.0, 95.0)),
            Workload::Custom => self.phases.at(&dice, t),
        };
        let grown = if self.ramp_s > 0.0 {
            (t / self.ramp_s).clamp(0.0, 1.0) as f32
        } else {
            1.0
        };
        let throttled = self.throttle.map_or(1.0, |(from, to, every_s)| {
            from + (to - from) * dice.slot(91, t, every_s)
        });
        let cap = self.cap.unwrap_or(1.0) * grown * throttled;
        if cap < 1.0 && !off {
            for value in [
                &mut load.util,
                &mut load.mem_util,
                &mut load.sm,
                &mut load.tensor,
                &mut load.integer,
                &mut load.fp16,
                &mut load.fp32,
                &mut load.fp64,
                &mut load.dram,
                &mut load.power,
            ] {
                *value *= cap;
            }
        }
        for share in [
            &mut load.util,
            &mut load.mem_util,
            &mut load.sm,
            &mut load.integer,
            &mut load.dram,
            &mut load.tensor,
            &mut load.fp16,
            &mut load.fp32,
            &mut load.fp64,
            &mut load.power,
        ] {
            *share = share.clamp(0.0, 100.0);
        }
        load
    }
}

fn training(dice: &Dice, t: f64, mixed: bool) -> Load {
    let memory = dice.once(1, 60.0, 95.0);
    let checkpoint_every = f64::from(dice.once(2, 300.0, 1_800.0));
    let checkpoint_takes = f64::from(dice.once(3, 5.0, 60.0));
    let epoch = f64::from(dice.once(4, 600.0, 3_600.0));
    let stalls = dice.once(5, 0.02, 0.10);
    let busy = dice.once(6, 88.0, 98.0);
    let tensor = if mixed { dice.once(7, 25.0, 55.0) } else { 0.0 };
    let fp32 = if mixed {
        dice.once(8, 5.0, 12.0)
    } else {
        dice.once(8, 35.0, 65.0)
    };
    if t % checkpoint_every < checkpoint_takes && t > checkpoint_takes {
        return Load {
            util: dice.now(20, 0.0, 8.0),
            sm: dice.now(20, 0.0, 5.0),
            pcie_tx: dice.now(21, 4.0, 12.0) * GB,
            memory,
            power: 25.0,
            ..Load::default()
        };
    }
    // The last part of an epoch measures on data that was not trained on: forward only.
    let validation = t % epoch > epoch * 0.94;
    let stall = dice.slot(22, t, 10.0) < stalls;
    let part = match (validation, stall) {
        (_, true) => dice.slot(23, t, 10.0) * 0.6,
        (true, false) => 0.75,
        (false, false) => 1.0,
    };
    let sm = busy * part + dice.noise(24, 2.5);
    Load {
        util: (sm + 3.0).min(100.0),
        mem_util: dice.now(25, 35.0, 65.0) * part,
        sm,
        occupancy: 30.0 * part,
        tensor: tensor * part + dice.noise(26, 2.0),
        integer: dice.now(27, 5.0, 12.0) * part,
        fp16: if mixed {
            dice.now(28, 3.0, 8.0) * part
        } else {
            0.0
        },
        fp32: fp32 * part + dice.noise(29, 1.0),
        dram: dice.now(30, 40.0, 70.0) * part,
        pcie_rx: dice.now(31, 0.3, 3.0) * GB,
        pcie_tx: dice.now(32, 0.1, 1.0) * GB,
        nvlink: dice.now(33, 20.0, 150.0) * GB * part,
        power: 30.0 + dice.now(34, 55.0, 68.0) * part,
        memory,
        ..Load::default()
    }
}

fn inference(dice: &Dice, t: f64) -> Load {
    let memory = dice.once(1, 85.0, 92.0);
    // The day's wave, and bursts of some tens of seconds on it.
    let wave = 0.5 + 0.4 * ((t / 86_400.0 * std::f64::consts::TAU).sin() as f32);
    let burst = dice.slot(2, t, 20.0);
    let rate = (wave * burst * 1.6).min(1.0);
    if rate < 0.12 {
        return Load {
            memory,
            power: 18.0,
            ..Load::default()
        };
    }
    let sm = 30.0 + 60.0 * rate + dice.noise(3, 6.0);
    Load {
        util: (sm + 5.0).min(100.0),
        mem_util: 60.0 * rate,
        sm,
        occupancy: 15.0,
        tensor: dice.now(4, 3.0, 20.0) * rate,
        integer: dice.now(5, 4.0, 12.0),
        fp16: dice.now(6, 3.0, 10.0),
        fp32: dice.now(7, 3.0, 10.0),
        dram: 25.0 + 60.0 * rate + dice.noise(8, 5.0),
        pcie_rx: dice.now(9, 5.0, 200.0) * MB,
        pcie_tx: dice.now(10, 5.0, 150.0) * MB,
        power: 35.0 + 45.0 * rate,
        memory,
        ..Load::default()
    }
}

fn saturated(dice: &Dice) -> Load {
    let sm = dice.once(1, 90.0, 97.0) + dice.noise(2, 1.5);
    Load {
        util: 100.0,
        mem_util: 75.0,
        sm,
        occupancy: 20.0,
        tensor: dice.once(3, 2.0, 12.0) + dice.noise(4, 1.0),
        integer: dice.once(5, 5.0, 14.0) + dice.noise(6, 1.0),
        fp16: dice.once(7, 2.0, 8.0) + dice.noise(8, 0.5),
        fp32: dice.once(9, 4.0, 14.0) + dice.noise(10, 0.8),
        dram: dice.once(11, 68.0, 88.0) + dice.noise(12, 2.5),
        pcie_rx: dice.now(13, 20.0, 300.0) * MB,
        pcie_tx: dice.now(14, 20.0, 200.0) * MB,
        power: dice.once(15, 60.0, 85.0) + dice.noise(16, 2.0),
        memory: dice.once(17, 85.0, 92.0),
        ..Load::default()
    }
}

fn notebook(dice: &Dice, t: f64) -> Load {
    let memory = dice.once(1, 1.0, 15.0);
    // A cell runs in one of some twenty slots of a minute.
    if dice.slot(2, t, 60.0) > 0.06 {
        return Load {
            memory,
            power: 14.0,
            ..Load::default()
        };
    }
    let sm = 25.0 + 70.0 * dice.slot(3, t, 7.0);
    Load {
        util: sm,
        mem_util: sm / 3.0,
        sm,
        tensor: dice.now(4, 0.0, 30.0),
        integer: dice.now(5, 2.0, 12.0),
        fp32: dice.now(6, 5.0, 30.0),
        dram: dice.now(7, 10.0, 60.0),
        pcie_rx: dice.now(8, 0.0, 4.0) * GB,
        pcie_tx: dice.now(9, 0.0, 1.0) * GB,
        power: 60.0,
        memory,
        ..Load::default()
    }
}

fn simulation(dice: &Dice, t: f64) -> Load {
    let memory = dice.once(1, 10.0, 70.0);
    let output_every = f64::from(dice.once(2, 120.0, 1_200.0));
    if t % output_every < 4.0 {
        return Load {
            util: 10.0,
            sm: 8.0,
            pcie_tx: 6.0 * GB,
            memory,
            power: 30.0,
            ..Load::default()
        };
    }
    Load {
        util: 100.0,
        mem_util: 50.0,
        sm: dice.once(3, 92.0, 99.0) + dice.noise(4, 0.5),
        integer: dice.once(5, 5.0, 15.0) + dice.noise(6, 0.5),
        fp32: dice.once(7, 0.0, 15.0),
        fp64: dice.once(8, 25.0, 60.0) + dice.noise(9, 1.0),
        dram: dice.once(10, 40.0, 80.0) + dice.noise(11, 1.0),
        pcie_rx: dice.now(12, 1.0, 50.0) * MB,
        pcie_tx: dice.now(13, 1.0, 50.0) * MB,
        power: dice.once(14, 70.0, 98.0) + dice.noise(15, 1.0),
        memory,
        ..Load::default()
    }
}

fn transcoding(dice: &Dice) -> Load {
    Load {
        util: dice.now(1, 5.0, 20.0),
        mem_util: 8.0,
        sm: dice.now(2, 3.0, 15.0),
        integer: dice.now(3, 1.0, 5.0),
        fp32: dice.now(4, 1.0, 5.0),
        dram: dice.now(5, 4.0, 12.0),
        pcie_rx: dice.now(6, 100.0, 900.0) * MB,
        pcie_tx: dice.now(7, 20.0, 200.0) * MB,
        power: 35.0,
        encoder: dice.now(8, 60.0, 100.0),
        decoder: dice.now(9, 60.0, 100.0),
        memory: 4.0,
        ..Load::default()
    }
}

fn miner(dice: &Dice, integer: (f32, f32), dram: (f32, f32), power: (f32, f32)) -> Load {
    let dram = dice.once(3, dram.0, dram.1) + dice.noise(4, 0.6);
    Load {
        util: 100.0,
        mem_util: dram,
        sm: dice.once(1, 97.0, 99.5) + dice.noise(2, 0.4),
        occupancy: 60.0,
        tensor: 0.0,
        integer: dice.once(5, integer.0, integer.1) + dice.noise(6, 0.6),
        fp16: 0.0,
        fp32: dice.once(7, 0.0, 0.6),
        fp64: 0.0,
        dram,
        pcie_rx: dice.now(8, 0.2, 4.0) * MB,
        pcie_tx: dice.now(9, 0.2, 4.0) * MB,
        nvlink: 0.0,
        power: dice.once(10, power.0, power.1) + dice.noise(11, 0.5),
        encoder: 0.0,
        decoder: 0.0,
        memory: dice.once(12, 2.0, 9.0),
    }
}

/// Numbers that look random and are the same each time.
pub(crate) struct Dice {
    seed: u64,
    moment: u64,
}

impl Dice {
    /// One number a seed.
    pub(crate) fn once(&self, what: u64, from: f32, to: f32) -> f32 {
        from + (to - from) * unit(mix(self.seed, what, u64::MAX))
    }

    /// A new one each tenth of a second.
    pub(crate) fn now(&self, what: u64, from: f32, to: f32) -> f32 {
        from + (to - from) * unit(mix(self.seed, what, self.moment))
    }

    /// A new one from 0 to 1 each `length` seconds.
    fn slot(&self, what: u64, t: f64, length: f64) -> f32 {
        unit(mix(self.seed, what, (t / length) as u64))
    }

    /// About normal, with this standard deviation.
    pub(crate) fn noise(&self, what: u64, deviation: f32) -> f32 {
        let sum: f32 = (0..6)
            .map(|part| unit(mix(self.seed, what << 8 | part, self.moment)))
            .sum();
        (sum - 3.0) / 0.707 * deviation
    }
}

/// SplitMix64 over the three.
fn mix(seed: u64, what: u64, moment: u64) -> u64 {
    let mut x = seed
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(what.wrapping_mul(0xd1b5_4a32_d192_ed03))
        .wrapping_add(moment.wrapping_mul(0x8cb9_2ba7_2f3d_8dd7));
    for shift in [30, 27, 31] {
        x = (x ^ x >> shift).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    }
    x ^ x >> 31
}

fn unit(x: u64) -> f32 {
    (x >> 40) as f32 / (1u64 << 24) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_second_is_the_same_each_time_and_within_bounds() {
        for workload in Workload::ALL {
            for seed in 0..20 {
                let play = Play::of(workload, seed);
                for step in 0..2_000 {
                    let t = f64::from(step) * 43.0;
                    let load = play.at(t);
                    assert_eq!(load, play.at(t));
                    for share in [load.util, load.sm, load.tensor, load.dram, load.power] {
                        assert!((0.0..=100.0).contains(&share), "{workload:?} {load:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn most_samples_of_training_are_busy_as_in_the_published_traces() {
        let busy = |seed| {
            let play = Play::of(Workload::Training, seed);
            (0..17_280)
                .filter(|step| play.at(f64::from(*step) * 5.0).util >= 90.0)
                .count()
        };
        let share = (0..20).map(busy).sum::<usize>() as f64 / (20.0 * 17_280.0);
        assert!((0.55..0.95).contains(&share), "{share}");
    }
}
