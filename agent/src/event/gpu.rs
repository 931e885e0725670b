//! What a look at the GPUs finds, of whatever vendor: values as drivers give them, absent where one gives none.
//!
//! Owned, because it crosses threads, and serializable, because a capture holds it.

use serde::{Deserialize, Serialize};

/// All GPUs at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GpuSample {
    /// Nanoseconds of `CLOCK_BOOTTIME`.
    pub taken_ns: u64,
    /// GPUs, and the instances of those that are divided.
    pub gpus: Vec<GpuState>,
    /// What processes show that opened a GPU and that no driver names.
    pub openers: Vec<Opener>,
}

/// A process that opened a GPU and that no driver names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opener {
    /// In the host's pid namespace.
    pub pid: u32,
    /// What `/proc` shows of it.
    pub look: Look,
}

/// One GPU, or one instance of a divided one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GpuState {
    /// The driver's number of it; an instance has its card's.
    pub index: u32,
    /// Its own identity, also after a restart.
    pub uuid: Box<str>,
    /// The product's name.
    pub name: Box<str>,
    /// Minor number of the device node.
    pub minor: Option<u32>,
    /// Id of the instance, where it is one (MIG).
    pub instance: Option<u32>,
    /// Whether it answers.
    pub health: Health,
    /// Time in which anything ran on it, percent of the last interval of the driver's own (up to a second).
    pub util: Option<f32>,
    /// Time in which its memory was read or written, percent.
    pub mem_util: Option<f32>,
    /// Bytes.
    pub mem_used: Option<u64>,
    /// Bytes.
    pub mem_total: Option<u64>,
    /// Watts.
    pub power: Option<f32>,
    /// Watts.
    pub power_cap: Option<f32>,
    /// Degrees Celsius.
    pub temperature: Option<u32>,
    /// MHz of the multiprocessors.
    pub clock_sm: Option<u32>,
    /// MHz of the memory.
    pub clock_mem: Option<u32>,
    /// Bytes a second to the GPU.
    pub pcie_rx: Option<u64>,
    /// Bytes a second from the GPU.
    pub pcie_tx: Option<u64>,
    /// Bytes a second to and from other GPUs.
    pub nvlink: Option<u64>,
    /// Memory errors that could not be corrected, since the driver was loaded.
    pub ecc_uncorrected: Option<u64>,
    /// Percent.
    pub encoder: Option<f32>,
    /// Percent.
    pub decoder: Option<f32>,
    /// What its counters say, where it has them.
    pub pipes: Option<Pipes>,
    /// Who uses it, as its driver says.
    pub processes: Vec<GpuProcess>,
}

/// Does a GPU answer?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Health {
    /// It does.
    #[default]
    Answers,
    /// It is switched off by power management, and was not asked in order not to wake it.
    Asleep,
    /// It fell off the bus, or must be reset.
    Lost,
    /// Its driver refuses.
    Refused,
}

impl Health {
    /// All of them, as metrics name them.
    pub const ALL: [(Self, &'static str); 4] = [
        (Self::Answers, "answers"),
        (Self::Asleep, "asleep"),
        (Self::Lost, "lost"),
        (Self::Refused, "refused"),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(health, _)| *health == self)
            .map_or("", |(_, name)| name)
    }
}

/// How busy the parts of the multiprocessors were since the sample before, percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pipes {
    /// Multiprocessors with anything to do.
    pub sm: f32,
    /// Integer units.
    pub integer: f32,
    /// Tensor cores of any kind.
    pub tensor: f32,
    /// Units for numbers of 16 bits.
    pub fp16: f32,
    /// Units for numbers of 32 bits.
    pub fp32: f32,
    /// Units for numbers of 64 bits.
    pub fp64: f32,
    /// The memory's bandwidth.
    pub dram: f32,
}

/// A process that a driver says uses a GPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GpuProcess {
    /// In the host's pid namespace.
    pub pid: u32,
    /// Bytes of the GPU's memory; `None` where the driver does not say.
    pub mem_used: Option<u64>,
    /// Percent of the multiprocessors; `None` where the driver does not say, as on divided cards.
    pub sm: Option<f32>,
    /// Percent of the time in which memory was read or written.
    pub mem_util: Option<f32>,
    /// Whether it draws and does not compute.
    pub graphics: bool,
    /// What `/proc` showed of it; `None` where it was gone.
    pub look: Option<Look>,
}

/// What a running process shows that matters to what it uses a GPU for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// Its start, nanoseconds since boot in steps of a clock tick.
    pub start_ns: u64,
    /// Libraries that it has mapped; `None` where they could not be read.
    pub libraries: Option<Libraries>,
    /// Whether its executable has no name in any folder any more.
    pub deleted: bool,
    /// Its established connections to other machines; `None` where they could not be read.
    pub connections: Option<Connections>,
    /// The minor numbers of the cards that it holds open; `None` where its descriptors could not be read.
    pub holds: Option<Vec<u32>>,
}

/// What the mapped libraries say of a program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Libraries {
    /// One that machine learning or scientific computing uses, where there is any.
    pub runtime: Option<Box<str>>,
}

/// Who made connections to more other ends than this is not told by them.
pub const CONNECTIONS_MAX: usize = 8;

/// Connections with other machines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// How many other ends it connected to.
    pub count: u32,
    /// These, unless they are more than [`CONNECTIONS_MAX`].
    pub made: Vec<Made>,
    /// Whether another machine connected to it.
    pub is_called: bool,
    /// Whether it made any, within its own machine too.
    pub calls: bool,
}

/// What a process connected to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// The other end.
    pub remote: Box<str>,
    /// Bytes that its sockets have carried both ways; `None` where the kernel does not tell.
    pub bytes: Option<u64>,
}
