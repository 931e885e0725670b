//! Does a process on a GPU mine? Evidence of independent families is weighed; `docs/mining-detection.md` says why so.
//!
//! Pure: samples and what is known of the process come in, a verdict comes out; time is theirs. No family suffices alone, and none is
//! about ports.

pub mod identity;
pub mod pools;
pub mod shape;
pub mod signals;
pub mod stratum;

use std::collections::VecDeque;

use crate::event::gpu::Pipes;
pub use identity::Identity;
pub use signals::{Family, SIGNALS, Signal};

/// From here on evidence suffices, where two families have some.
pub const SCORE_MIN: i32 = 6;
/// What a family must say to count as one.
const FAMILY_MIN: i32 = 2;

/// A process's use of a GPU at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    /// Nanoseconds of `CLOCK_BOOTTIME`.
    pub at_ns: u64,
    /// Share of the multiprocessors, percent.
    pub sm: f32,
    /// What the GPU's counters say, where they are there and the process is nearly all that runs on it.
    pub pipes: Option<Pipes>,
    /// Bytes a second over PCIe, likewise.
    pub bus: Option<f32>,
    /// Use of the card's encoders and decoders, percent of the busier; 0 where it is not known.
    pub video: f32,
}

/// Evidence: a signal and the numbers that it was seen by.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    /// Which.
    pub signal: &'static Signal,
    /// The numbers.
    pub what: String,
}

impl Evidence {
    /// Of the signal with this name in [`SIGNALS`].
    pub(crate) fn of(name: &str, what: String) -> Self {
        let signal = SIGNALS
            .iter()
            .find(|signal| signal.name == name)
            .unwrap_or_else(|| unreachable!("{name} is not in the table of signals"));
        Self { signal, what }
    }
}

/// What evidence comes to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// Sum of the families' weights; but `process` none counts below 0, and neither does the sum.
    pub score: i32,
    /// Everything that was seen, also what speaks against it.
    pub evidence: Vec<Evidence>,
}

impl Verdict {
    /// Weighs evidence.
    pub fn of(evidence: Vec<Evidence>) -> Self {
        // What the program is speaks against any other evidence; what a GPU does is not undone by a name that was looked up.
        let least = |family| {
            if family == Family::Process {
                i32::MIN
            } else {
                0
            }
        };
        let sum = |family| family_score(&evidence, family).max(least(family));
        Self {
            score: Family::ALL.into_iter().map(sum).sum::<i32>().max(0),
            evidence,
        }
    }

    /// Families that say something for it.
    pub fn families(&self) -> impl Iterator<Item = Family> {
        let says = |family: &Family| family_score(&self.evidence, *family) >= FAMILY_MIN;
        Family::ALL.into_iter().filter(says)
    }

    /// Is it enough for an alert?
    pub fn is_suspected(&self) -> bool {
        self.score >= SCORE_MIN && self.families().count() >= 2
    }

    /// How sure it is.
    pub fn certainty(&self) -> &'static str {
        match self.score {
            _ if !self.is_suspected() => "none",
            ..8 => "possible",
            8..12 => "likely",
            _ => "near certain",
        }
    }
}

fn family_score(evidence: &[Evidence], family: Family) -> i32 {
    evidence
        .iter()
        .filter(|evidence| evidence.signal.family == family)
        .map(|evidence| evidence.signal.weight)
        .sum()
}

/// What is known of a process besides its use of the GPU.
#[derive(Clone, Debug, Default)]
pub struct About<'a> {
    /// Its program.
    pub identity: Identity<'a>,
    /// A pool whose name its container was told by DNS, or that it greeted by TLS; and how.
    pub pool: Option<(&'a str, &'static str)>,
    /// The method of Stratum by which a connection of its container began.
    pub stratum: Option<&'a str>,
    /// Its only connection, where it made one alone.
    pub connection: Option<Connection<'a>>,
    /// The names of the programs that it comes from, nearest first.
    pub ancestors: &'a [&'a [u8]],
}

/// A process's only connection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Connection<'a> {
    /// The other end.
    pub remote: &'a str,
    /// For how many seconds it has been so.
    pub seconds: u64,
    /// Bytes a second both ways meanwhile; `None` where it is not known.
    pub rate: Option<f64>,
}

/// A connection counts from here on, seconds.
const LONG_S: u64 = 300;
/// Bytes a second of a connection that carries jobs and shares.
const RATE_MAX: f64 = 2_000.0;
/// And of one that carries more than those ever are.
const BULK: f64 = 20_000.0;

/// Weighs everything. Below `observe_ns` of use what the GPU does says nothing.
pub fn judge(series: &VecDeque<Point>, about: &About<'_>, observe_ns: u64) -> Verdict {
    weigh(shape::evidence(series, observe_ns), about)
}

/// Weighs what is known of a process together with what the GPU does.
pub fn weigh(mut evidence: Vec<Evidence>, about: &About<'_>) -> Verdict {
    identity::evidence(&about.identity, &mut evidence);
    if let Some((name, how)) = about.pool {
        evidence.push(Evidence::of(
            "network.pool-name",
            format!("{name} by {how}"),
        ));
    }
    if let Some(method) = about.stratum {
        let what = format!("{method} in the first bytes sent");
        evidence.push(Evidence::of("network.stratum", what));
    }
    let is_long = |connection: &Connection<'_>| connection.seconds >= LONG_S;
    if let Some(Connection {
        remote,
        seconds,
        rate,
    }) = about.connection.filter(is_long)
    {
        if rate.is_none_or(|rate| rate <= BULK) {
            let what = format!("only {remote} for {seconds} s");
            evidence.push(Evidence::of("network.single-connection", what));
        }
        if let Some(rate) = rate.filter(|rate| *rate > 0.0 && *rate <= RATE_MAX) {
            let what = format!("{rate:.0} bytes a second");
            evidence.push(Evidence::of("network.low-rate", what));
        }
    }
    identity::lineage(about.ancestors, &mut evidence);
    Verdict::of(evidence)
}
