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

pub use crate::event::gpu::CONNECTIONS_MAX;
use crate::event::gpu::Pipes;
pub use identity::{Ancestor, Identity};
pub use signals::{Family, SIGNALS, Signal};

/// From here on evidence suffices, where two families have some.
pub const SCORE_MIN: i32 = 6;
/// And from here on where only circumstances speak, and not what the GPU does: a program of one's own in `/tmp` that a notebook's shell
/// started has 6 of them.
pub const CIRCUMSTANCES_MIN: i32 = 7;
/// What a family must say to count as one; and beside what nobody but miners does, where it need be but a second sign.
const FAMILY_MIN: i32 = 2;
const FAMILY_MIN_BESIDE: i32 = 1;

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
    /// What is specific, and the circumstances as far as nothing outweighs them.
    pub score: i32,
    /// Everything that was seen, also what speaks against it.
    pub evidence: Vec<Evidence>,
}

impl Verdict {
    /// Weighs evidence.
    pub fn of(evidence: Vec<Evidence>) -> Self {
        let sum = |is_specific: bool| {
            let kind = evidence
                .iter()
                .filter(|evidence| evidence.signal.is_specific == is_specific);
            kind.map(|evidence| evidence.signal.weight).sum::<i32>()
        };
        // What nobody but miners does is not undone by what else the GPU does, nor by a library that is mapped: both cost nothing.
        Self {
            score: sum(true) + sum(false).max(0),
            evidence,
        }
    }

    /// Families that say something for it.
    pub fn families(&self) -> impl Iterator<Item = Family> {
        let least = if self.is_specific() {
            FAMILY_MIN_BESIDE
        } else {
            FAMILY_MIN
        };
        let says = move |family: &Family| family_score(&self.evidence, *family) >= least;
        Family::ALL.into_iter().filter(says)
    }

    /// Is it enough for an alert?
    pub fn is_suspected(&self) -> bool {
        let is_seen = self.is_specific() || family_score(&self.evidence, Family::Gpu) > 0;
        let least = if is_seen {
            SCORE_MIN
        } else {
            CIRCUMSTANCES_MIN
        };
        self.score >= least && self.families().count() >= 2
    }

    /// Is there anything that nobody but miners does?
    fn is_specific(&self) -> bool {
        self.evidence
            .iter()
            .any(|evidence| evidence.signal.is_specific)
    }

    /// How sure it is.
    pub fn certainty(&self) -> &'static str {
        match self.score {
            _ if !self.is_suspected() => "none",
            ..8 => "possible",
            // Two families of circumstances are what somebody's own program on integers can have.
            _ if !self.is_specific() && self.families().count() < 3 => "possible",
            12.. if self.is_specific() => "near certain",
            _ => "likely",
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
    /// The connections to other machines that it made; none where they are more than [`CONNECTIONS_MAX`].
    pub connections: &'a [Connection<'a>],
    /// Whether other machines connect to it and it has made no connection at all, within its own machine neither.
    pub serves: bool,
    /// The programs that it comes from, nearest first.
    pub ancestors: &'a [Ancestor<'a>],
}

/// A connection that a process made to another machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Connection<'a> {
    /// The other end.
    pub remote: &'a str,
    /// For how many seconds it has been there.
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
    network(about, &mut evidence);
    identity::lineage(about.ancestors, &mut evidence);
    Verdict::of(evidence)
}

/// What a process's connections say.
fn network(about: &About<'_>, evidence: &mut Vec<Evidence>) {
    let is_slow = |connection: &Connection<'_>| {
        connection
            .rate
            .is_some_and(|rate| rate > 0.0 && rate <= RATE_MAX)
    };
    let mut long = about
        .connections
        .iter()
        .filter(|connection| connection.seconds >= LONG_S);
    let told = if let [_] = about.connections {
        let one = long.next();
        one.filter(|one| one.rate.is_none_or(|rate| rate <= BULK))
            .map(|one| (one, "network.single-connection"))
    } else {
        // Further ones are opened for nothing, too: that one is such a connection suffices.
        long.find(|connection| is_slow(connection))
            .map(|one| (one, "network.few-connections"))
    };
    if let Some((connection, name)) = told {
        let Connection {
            remote, seconds, ..
        } = connection;
        let what = match about.connections.len() {
            1 => format!("only {remote} for {seconds} s"),
            count => format!("{remote} for {seconds} s, of {count}"),
        };
        evidence.push(Evidence::of(name, what));
        if let Some(rate) = connection.rate.filter(|_| is_slow(connection)) {
            let what = format!("{rate:.0} bytes a second");
            evidence.push(Evidence::of("network.low-rate", what));
        }
    }
    if about.serves {
        let what = "others connect to it, and it to nobody";
        evidence.push(Evidence::of("network.serves", what.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circumstances_are_outweighed_and_what_only_miners_do_is_not() {
        let check = |names: &[&str], score: i32, certainty: &str| {
            let evidence = names.iter().map(|name| Evidence::of(name, String::new()));
            let verdict = Verdict::of(evidence.collect());
            let found = (verdict.score, verdict.certainty());
            assert_eq!(found, (score, certainty), "{names:?}");
        };
        let in_tmp = [
            "process.temporary",
            "process.no-runtime",
            "lineage.service-shell",
        ];
        // A program of one's own in a notebook's terminal, whatever the GPU shows of it.
        check(&in_tmp, 6, "none");
        check(&[&in_tmp[..], &["gpu.arithmetic"]].concat(), 0, "none");
        check(&[&in_tmp[..], &["process.deleted"]].concat(), 8, "possible");
        check(&[&in_tmp[..], &["gpu.integer"]].concat(), 10, "likely");
        // Two families of circumstances are never more than possible.
        let integers = ["gpu.integer", "gpu.memory-hard", "gpu.flat", "gpu.steady"];
        let quiet = ["network.single-connection", "network.low-rate"];
        check(&[&integers[..], &quiet].concat(), 9, "possible");
        check(
            &[&integers[..], &["process.no-runtime"]].concat(),
            8,
            "none",
        );
        check(
            &[&integers[..], &quiet, &["network.serves"]].concat(),
            3,
            "none",
        );
        // One who mines beside training.
        check(
            &["gpu.arithmetic", "process.no-runtime", "network.stratum"],
            6,
            "possible",
        );
        check(
            &[
                "gpu.arithmetic",
                "process.runtime",
                "process.miner-flags",
                "network.pool-name",
            ],
            10,
            "likely",
        );
        // Of one family alone nothing is said.
        check(&["network.stratum", "network.pool-name"], 10, "none");
        check(&["gpu.arithmetic", "network.pool-name"], 4, "none");
    }

    #[test]
    fn a_lasting_quiet_connection_counts_among_few() {
        let check = |made: &[(u64, Option<f64>)], expected: &[&str]| {
            let connections: Vec<Connection<'_>> = made
                .iter()
                .map(|(seconds, rate)| Connection {
                    remote: "198.51.100.7:443",
                    seconds: *seconds,
                    rate: *rate,
                })
                .collect();
            let mut evidence = Vec::new();
            let about = About {
                connections: &connections,
                ..About::default()
            };
            network(&about, &mut evidence);
            let names: Vec<_> = evidence.iter().map(|found| found.signal.name).collect();
            assert_eq!(names, expected, "{made:?}");
        };
        let single = "network.single-connection";
        let few = "network.few-connections";
        let slow = "network.low-rate";
        check(&[], &[]);
        check(&[(299, Some(180.0))], &[]);
        check(&[(300, Some(180.0))], &[single, slow]);
        check(&[(300, None)], &[single]);
        check(&[(300, Some(30_000.0))], &[]);
        check(&[(300, Some(30_000.0)), (300, Some(180.0))], &[few, slow]);
        check(&[(300, Some(180.0)), (5, None)], &[few, slow]);
        check(&[(300, None), (300, None)], &[]);
        check(&[(300, Some(0.0)), (300, Some(9_000.0))], &[]);
    }
}
