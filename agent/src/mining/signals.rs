//! THE table of signals: name, family, weight and reason of each. The documentation is made from it.

/// Kinds of evidence that do not depend on each other: who hides one still shows the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// What the GPU does.
    Gpu,
    /// What the program is.
    Process,
    /// Whom it talks to.
    Network,
    /// Who started it.
    Lineage,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Gpu, Self::Process, Self::Network, Self::Lineage];

    /// As rules see it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gpu => "gpu",
            Self::Process => "process",
            Self::Network => "network",
            Self::Lineage => "lineage",
        }
    }
}

/// One kind of evidence.
#[derive(Debug, PartialEq, Eq)]
pub struct Signal {
    /// As alerts show it.
    pub name: &'static str,
    /// What it belongs to.
    pub family: Family,
    /// What it counts for, or against.
    pub weight: i32,
    /// Whether nobody but miners does it; everything else is a circumstance, which others outweigh.
    pub is_specific: bool,
    /// Why.
    pub reason: &'static str,
}

const fn row(name: &'static str, family: Family, weight: i32, reason: &'static str) -> Signal {
    Signal {
        name,
        family,
        weight,
        is_specific: false,
        reason,
    }
}

/// A row of what nobody but miners does.
const fn specific(name: &'static str, family: Family, weight: i32, reason: &'static str) -> Signal {
    Signal {
        is_specific: true,
        ..row(name, family, weight, reason)
    }
}

/// Every signal.
pub static SIGNALS: &[Signal] = &[
    row(
        "gpu.integer",
        Family::Gpu,
        4,
        "The multiprocessors do integer arithmetic and nothing else: hashing has no floating point, learning and simulation consist of it.",
    ),
    row(
        "gpu.memory-bound",
        Family::Gpu,
        3,
        "The memory is busy and neither floating point nor tensor cores do anything, at less integer arithmetic: hashes that wait for memory.",
    ),
    row(
        "gpu.memory-hard",
        Family::Gpu,
        1,
        "At least 60 % of the memory's bandwidth beside either: hashes that are meant to be memory-hard.",
    ),
    row(
        "gpu.flat",
        Family::Gpu,
        1,
        "While it works it always does the same, at whatever intensity: each hash costs the same.",
    ),
    row(
        "gpu.quiet-bus",
        Family::Gpu,
        1,
        "Next to no PCIe traffic: a job and a share are some hundred bytes each.",
    ),
    row(
        "gpu.steady",
        Family::Gpu,
        1,
        "No pause: nothing is validated, saved or waited for.",
    ),
    row(
        "gpu.cycled",
        Family::Gpu,
        1,
        "On and off in turns of equal length: a miner that stays below averages.",
    ),
    row(
        "gpu.busy-quiet",
        Family::Gpu,
        3,
        "Where there are no counters (before Hopper): flat and busy with a quiet bus, steadily or in equal turns. Weak: some simulations look so.",
    ),
    row(
        "gpu.arithmetic",
        Family::Gpu,
        -6,
        "Tensor cores or floating point are at work, and not as a trace beside integers: not hashing.",
    ),
    row(
        "gpu.busy-bus",
        Family::Gpu,
        -3,
        "Data goes over the bus all the time: a hash needs none.",
    ),
    row(
        "gpu.uneven",
        Family::Gpu,
        -7,
        "While it works the shares of integers and of memory in what it does vary much: pieces of work differ, and hashes do not.",
    ),
    row(
        "gpu.video",
        Family::Gpu,
        -6,
        "The card's encoders or decoders are at work.",
    ),
    specific(
        "process.miner-name",
        Family::Process,
        5,
        "The program, or its file, has the name of a known miner.",
    ),
    specific(
        "process.miner-flags",
        Family::Process,
        6,
        "Arguments that only miners take: a pool's URL scheme, or an algorithm's name beside a pool.",
    ),
    row(
        "process.wallet",
        Family::Process,
        3,
        "An argument has the shape of a wallet's address.",
    ),
    row(
        "process.memfd",
        Family::Process,
        4,
        "The executable exists in memory only.",
    ),
    row(
        "process.deleted",
        Family::Process,
        2,
        "The executable was removed after it was started.",
    ),
    row(
        "process.temporary",
        Family::Process,
        2,
        "The executable lies where anybody may write.",
    ),
    row(
        "process.disguised",
        Family::Process,
        3,
        "It calls itself a thread of the kernel, or a system service, and is none.",
    ),
    row(
        "process.no-runtime",
        Family::Process,
        1,
        "No library of an ML, scientific or graphics framework is mapped, nor CUDA's runtime. Weak: whoever compiles a kernel of his own links the runtime in.",
    ),
    row(
        "process.runtime",
        Family::Process,
        -3,
        "A library of such a framework is mapped; CUDA's runtime alone counts for neither.",
    ),
    row(
        "process.integer-runtime",
        Family::Process,
        -6,
        "The same of one whose programs compute with integers at length: INT8 inference, tables, and what runs on many nodes by MPI.",
    ),
    row(
        "process.hash-tool",
        Family::Process,
        -2,
        "It has the name of a program that tries passwords: that is hashing, and no mining.",
    ),
    specific(
        "network.pool-name",
        Family::Network,
        4,
        "The name of a mining pool was resolved in its container, or greeted by TLS.",
    ),
    specific(
        "network.stratum",
        Family::Network,
        6,
        "The first bytes of a fresh connection call a method of Stratum, unencrypted.",
    ),
    row(
        "network.single-connection",
        Family::Network,
        1,
        "One connection to another machine that it made, for five minutes or longer, and no other; and it carries no bulk of data, as far as that is known.",
    ),
    row(
        "network.few-connections",
        Family::Network,
        1,
        "Some connections to other machines that it made, eight at most, of which one lasts and carries next to nothing.",
    ),
    row(
        "network.low-rate",
        Family::Network,
        1,
        "That connection carries next to nothing, at most 2 kB/s in the mean, and is not idle: jobs and shares.",
    ),
    row(
        "network.serves",
        Family::Network,
        -6,
        "Other machines connect to it, and it has made no connection, not even within its own: who mines must be told what.",
    ),
    row(
        "lineage.service-shell",
        Family::Lineage,
        3,
        "A shell under a web server, a notebook or a model server started it.",
    ),
];
