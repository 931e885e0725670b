//! What reaches the stages besides records, as a capture holds it.

use serde::{Deserialize, Serialize};

use crate::context::{names::Accounts, process::Seed, runtime::Container};
use crate::event::{MountNs, gpu::GpuSample};

/// One thing that happened, at its place among the records.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Note {
    /// A process that ran when the recording began.
    Process(Seed),
    /// All of them were noted.
    Scanned,
    /// What the boot clock's distance to the wall clock was from here on, nanoseconds.
    Clock(i64),
    /// The accelerators' drivers from here on, by major number.
    Drivers(Vec<(u32, String)>),
    /// Users and groups of a mount namespace from here on; `None`: the host's.
    Accounts(Option<MountNs>, Accounts),
    /// Whether any container runtime could be asked.
    RuntimesPresent(bool),
    /// What a runtime said of a container, and when on the boot clock.
    Runtime(u64, String, Option<Box<Container>>),
    /// The events of this container had waited long enough.
    HoldOver(String),
    /// Events were lost: when, how many, why, and in which cgroup most.
    Lost(u64, u64, String, Option<u64>),
    /// Something happened inside the agent: when, what, and in words.
    Internal(u64, String, String),
    /// The recording ended here.
    End(Totals),
    /// What a look at all GPUs found.
    Gpus(GpuSample),
}

/// What the recording agent counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Events that hooks saw.
    pub seen: u64,
    /// Events read, decoded and evaluated.
    pub delivered: u64,
    /// Events that no rule wanted.
    pub filtered: u64,
    /// Events that were lost.
    pub lost: u64,
    /// Alerts that its rules raised.
    pub alerts: u64,
}
