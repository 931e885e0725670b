//! The verdict on mining over whole days of scenarios, and the table of `docs/mining-detection.md`.
//!
//! Time is injected: a day of looks is judged in seconds. `SAKER_UPDATE=1` writes the table into the document, which
//! otherwise must hold it.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    fs,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use saker::{
    event::gpu::Pipes,
    mining::{
        About, Ancestor, Connection, Evidence, Family, Identity, Point, SIGNALS, Verdict, shape,
        weigh,
    },
};
use saker_nvml_stand_in::{
    scenario::{Fault, Gpu, Instance, Scenario},
    script::Phase,
    trial::{Program, Trial},
    workload::{Load, Play, Workload},
};

const SECOND_NS: u64 = 1_000_000_000;
/// As the agent's default.
const LOOK_S: u64 = 5;
const OBSERVE_NS: u64 = 300 * SECOND_NS;
const WINDOW: usize = 121;
const SEEDS: u64 = 20;
const DAY_S: u64 = 86_400;
/// A miner must be found by then.
const FOUND_S: u64 = 600;
/// As the agent, in the benchmark; unoptimised that would take minutes, and each moment is judged twice all the same, because what is
/// looked at is ten minutes long.
const JUDGED_EVERY_S: u64 = if cfg!(debug_assertions) { 300 } else { 10 };

/// What is known of a program besides its GPU.
fn program(label: &str) -> Program {
    let text = match label {
        // Python with PyTorch.
        "Framework" => {
            r#"{"label": "Framework", "name": "python3", "exe": "/usr/bin/python3.11", "args": "train.py --algo ppo",
                "library": "libtorch_cuda.so"}"#
        }
        // A program that links everything into itself.
        "Static" => {
            r#"{"label": "Static", "name": "solver", "exe": "/usr/local/bin/solver", "args": "-i input.json"}"#
        }
        // Such a one, started in a notebook's terminal.
        "StaticInNotebook" => {
            r#"{"label": "StaticInNotebook", "name": "solver", "exe": "/usr/local/bin/solver", "args": "-i input.json",
                "ancestors": ["bash", "jupyter-lab"]}"#
        }
        // A miner as it is downloaded: name, arguments, and its pool's name resolved.
        "Known" => {
            r#"{"label": "Known", "name": "t-rex", "exe": "/opt/t-rex",
                "args": "-a kawpow -o stratum+tcp://rvn.2miners.com:6060 -u R", "pool": "rvn.2miners.com"}"#
        }
        // A renamed miner that was dropped into /dev/shm and removed there; its pool is behind a proxy.
        "Dropped" => {
            r#"{"label": "Dropped", "exe": "/dev/shm/.w/worker", "deleted": true,
                "connection": {"remote": "198.51.100.7:443", "rate": 180}}"#
        }
        // A renamed miner in an image of its own; its pool is behind a proxy.
        "Hidden" => {
            r#"{"label": "Hidden", "args": "--config /etc/worker.json",
                "connection": {"remote": "198.51.100.7:443", "rate": 180}}"#
        }
        other => panic!("{other} is no program"),
    };
    serde_json::from_str(text).expect("a program")
}

/// Calls with what is known of a program after so many seconds.
fn with_about<A>(program: &Program, second: u64, take: impl FnOnce(&About<'_>) -> A) -> A {
    let ancestors = program.ancestors.iter().map(|text| {
        let (name, args) = text.split_once(' ').unwrap_or((text, ""));
        Ancestor {
            name: name.as_bytes(),
            args: args.as_bytes(),
        }
    });
    let ancestors: Vec<_> = ancestors.collect();
    let connections = program.connections.iter().chain(&program.connection);
    let connections = connections.map(|known| Connection {
        remote: &known.remote,
        seconds: second,
        rate: known.rate,
    });
    let connections: Vec<_> = connections.collect();
    take(&About {
        identity: Identity {
            name: program.name.as_bytes(),
            exe: program.exe.as_bytes(),
            args: program.args.as_bytes(),
            memfd: program.memfd,
            deleted: program.deleted,
            runtime: Some(program.library.as_deref()),
            is_kernel: false,
        },
        pool: program.pool.as_deref().map(|name| (name, "DNS")),
        stratum: program.stratum.as_deref(),
        connections: &connections,
        serves: program.serves,
        ancestors: &ancestors,
    })
}

/// One scenario on one kind of cards, with all its programs.
#[derive(Clone, Debug)]
struct Case {
    name: String,
    mines: bool,
    play: Play,
    programs: Vec<Program>,
    /// Whether the card has counters.
    counters: bool,
}

/// In how many of all seeds a program is suspected: with all families, and without each.
type Outcome = [u64; 5];

impl Case {
    fn point(&self, play: &Play, second: u64) -> Point {
        let t = second as f64;
        let (first, last) = (play.at((t - 3.7).max(0.0)), play.at(t));
        let mean = |of: fn(&Load) -> f32| f32::midpoint(of(&first), of(&last));
        let pipes = Pipes {
            sm: mean(|load| load.sm),
            integer: mean(|load| load.integer),
            tensor: mean(|load| load.tensor),
            fp16: mean(|load| load.fp16),
            fp32: mean(|load| load.fp32),
            fp64: mean(|load| load.fp64),
            dram: mean(|load| load.dram),
        };
        Point {
            at_ns: second * SECOND_NS,
            sm: if self.counters {
                pipes.sm
            } else {
                last.sm.round()
            },
            pipes: self.counters.then_some(pipes),
            bus: Some(mean(|load| load.pcie_rx + load.pcie_tx)),
            video: last.encoder.max(last.decoder),
        }
    }

    fn run(&self) -> Vec<Outcome> {
        let until_s = if self.mines { FOUND_S } else { DAY_S };
        let every_s = if self.mines { LOOK_S } else { JUDGED_EVERY_S };
        let mut suspected = vec![[0; 5]; self.programs.len()];
        for seed in 0..SEEDS {
            let play = Play {
                seed,
                ..self.play.clone()
            };
            let mut series = VecDeque::new();
            let mut seen = vec![[false; 5]; self.programs.len()];
            for second in (0..=until_s).step_by(LOOK_S as usize) {
                series.push_back(self.point(&play, second));
                if series.len() > WINDOW {
                    series.pop_front();
                }
                if second % every_s != 0 {
                    continue;
                }
                let shape = shape::evidence(&series, OBSERVE_NS);
                for (program, seen) in self.programs.iter().zip(&mut seen) {
                    let shape = shape.clone();
                    let verdict = with_about(program, second, |about| weigh(shape, about));
                    seen[0] |= verdict.is_suspected();
                    for (seen, family) in seen[1..].iter_mut().zip(Family::ALL) {
                        *seen |= without(&verdict, family).is_suspected();
                    }
                }
            }
            for (sum, seen) in suspected.iter_mut().flatten().zip(seen.iter().flatten()) {
                *sum += u64::from(*seen);
            }
        }
        suspected
    }
}

fn without(verdict: &Verdict, family: Family) -> Verdict {
    let others = |evidence: &&Evidence| evidence.signal.family != family;
    Verdict::of(verdict.evidence.iter().filter(others).cloned().collect())
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for workload in Workload::ALL {
        let programs: &[&str] = match workload {
            _ if workload.is_miner() => &["Known", "Dropped", "Hidden"],
            Workload::Notebook => &["Framework"],
            _ => &["Framework", "Static", "StaticInNotebook"],
        };
        let ways: &[_] = if workload.is_miner() {
            &[(None, None), (Some(0.5), None), (None, Some((60.0, 60.0)))]
        } else {
            &[(None, None)]
        };
        for (cap, duty) in ways {
            let play = Play {
                cap: *cap,
                duty: *duty,
                ..Play::of(workload, 0)
            };
            for counters in [true, false] {
                all.push(Case {
                    name: name(&play),
                    mines: workload.is_miner(),
                    play: play.clone(),
                    programs: programs.iter().map(|label| program(label)).collect(),
                    counters,
                });
            }
        }
    }
    all
}

fn name(play: &Play) -> String {
    let workload = serde_json::to_value(play.workload).expect("a name");
    let mut name = workload.as_str().unwrap_or_default().to_owned();
    if let Some(cap) = play.cap {
        let _ = write!(name, " at {:.0} %", cap * 100.0);
    }
    if let Some((on, off)) = play.duty {
        let _ = write!(name, " {on:.0} s on, {off:.0} s off");
    }
    name
}

fn trials(place: &Path) -> Vec<Case> {
    let trials = Trial::read(place).unwrap_or_else(|error| panic!("{error}"));
    let cases = trials.into_iter().flat_map(|(name, trial)| {
        let counters = trial.counters.clone();
        counters.into_iter().map(move |counters| Case {
            name: name.clone(),
            mines: trial.mines,
            play: trial.play.clone(),
            programs: trial.programs.clone(),
            counters,
        })
    });
    cases.collect()
}

/// By default what the document has. `SAKER_MINING_TRIALS` names a file or a folder of others, which are tried instead.
#[test]
fn miners_are_found_in_ten_minutes_and_nothing_else_in_a_day() {
    let others = std::env::var_os("SAKER_MINING_TRIALS");
    let cases = match &others {
        Some(place) => trials(Path::new(place)),
        None => {
            let mut all = cases();
            all.extend(trials(&saker_tests::repository().join("tests/nvml/trials")));
            all
        }
    };
    assert!(!cases.is_empty(), "there is nothing to try");
    // By turns, so that the days are shared out evenly.
    let next = AtomicUsize::new(0);
    let mut outcomes: Vec<(usize, Vec<Outcome>)> = thread::scope(|scope| {
        let work = || {
            let mut done = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(case) = cases.get(at) else {
                    return done;
                };
                done.push((at, case.run()));
            }
        };
        let threads = [(); 2].map(|()| scope.spawn(work));
        let done = threads
            .into_iter()
            .map(|thread| thread.join().expect("it ends"));
        done.flatten().collect()
    });
    outcomes.sort_by_key(|(at, _)| *at);
    let outcomes: Vec<_> = outcomes.into_iter().map(|(_, outcome)| outcome).collect();
    let table = table(&cases, &outcomes);
    println!("{table}");
    let mut wrong = Vec::new();
    for (case, outcome) in cases.iter().zip(&outcomes) {
        let expected = if case.mines { SEEDS } else { 0 };
        for (program, outcome) in case.programs.iter().zip(outcome) {
            let is_right = outcome[0] == expected;
            let is_limit = limit(case, program).is_some();
            if is_right == is_limit {
                let counters = case.counters;
                let label = &program.label;
                wrong.push(format!(
                    "{} {label}, counters {counters}: {outcome:?}, a limit {is_limit}",
                    case.name
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    if others.is_none() {
        check_document(&table);
    }
}

/// Why a program is judged wrongly, where the document says so.
fn limit<'c>(case: &Case, program: &'c Program) -> Option<&'c str> {
    if case.counters {
        program.limit.as_deref()
    } else {
        program.limit_without_counters.as_deref()
    }
}

fn table(cases: &[Case], outcomes: &[Vec<Outcome>]) -> String {
    let mut text = String::from(
        "| scenario | program | counters | suspected | without gpu | without process | without network | without lineage |\n|---|---|---|---|---|---|---|---|\n",
    );
    let mut sums = [[0; 5]; 2];
    let mut totals = [0; 2];
    let mut limits = String::from(
        "\n| scenario | program | counters | why it is judged wrongly |\n|---|---|---|---|\n",
    );
    for (case, outcome) in cases.iter().zip(outcomes) {
        let kind = usize::from(case.mines);
        let counters = if case.counters { "yes" } else { "no" };
        for (program, outcome) in case.programs.iter().zip(outcome) {
            totals[kind] += SEEDS;
            let _ = write!(text, "| {} | {} | {counters} |", case.name, program.label);
            for (sum, count) in sums[kind].iter_mut().zip(outcome) {
                *sum += count;
                let _ = write!(text, " {count}/{SEEDS} |");
            }
            text.push('\n');
            if let Some(why) = limit(case, program) {
                let _ = writeln!(
                    limits,
                    "| {} | {} | {counters} | {why} |",
                    case.name, program.label
                );
            }
        }
    }
    let mut share = |name: &str, of: &dyn Fn(usize) -> Option<(u64, u64)>| {
        let _ = write!(text, "| **{name}** | | |");
        for at in 0..5 {
            let _ = match of(at).filter(|(_, all)| *all > 0) {
                Some((part, all)) => write!(text, " {:.3} |", part as f64 / all as f64),
                None => write!(text, " – |"),
            };
        }
        text.push('\n');
    };
    share("precision", &|at| {
        Some((sums[1][at], sums[1][at] + sums[0][at]))
    });
    share("recall", &|at| Some((sums[1][at], totals[1])));
    text.push_str(&limits);
    text.push_str("\n| signal | family | weight | why |\n|---|---|---|---|\n");
    for signal in SIGNALS {
        let _ = writeln!(
            text,
            "| `{}` | {} | {:+} | {} |",
            signal.name,
            signal.family.name(),
            signal.weight,
            signal.reason
        );
    }
    text
}

#[test]
fn every_key_of_trials_and_scenarios_is_documented() {
    let path = saker_tests::repository().join("docs/mining-detection.md");
    let text = fs::read_to_string(&path).expect("the document is there");
    let check = |error: Option<serde_json::Error>| {
        let error = error.expect("nothing is called ?").to_string();
        // unknown field `?`, expected one of `about`, …
        let keys: Vec<&str> = error.split('`').skip(3).step_by(2).collect();
        assert!(!keys.is_empty(), "{error}");
        for key in keys {
            let is_there = text.contains(&format!("`{key}`"))
                || text.contains(&format!("].{key}`"))
                || text.contains(&format!("\"{key}\""));
            assert!(is_there, "{key} of: {error}");
        }
    };
    check(serde_json::from_str::<Trial>(r#"{"?": 1}"#).err());
    check(serde_json::from_str::<Program>(r#"{"?": 1}"#).err());
    check(serde_json::from_str::<Phase>(r#"{"?": 1}"#).err());
    check(serde_json::from_str::<Scenario>(r#"{"?": 1}"#).err());
    check(serde_json::from_str::<Gpu>(r#"{"?": 1}"#).err());
    check(serde_json::from_str::<Fault>(r#"{"?": 1}"#).err());
    check(serde_json::from_str::<Instance>(r#"{"?": 1}"#).err());
    check(serde_json::from_str::<Workload>(r#""?""#).err());
}

fn check_document(table: &str) {
    const BEGIN: &str = "<!-- table -->\n";
    const END: &str = "<!-- end of table -->\n";
    let path = saker_tests::repository().join("docs/mining-detection.md");
    let text = fs::read_to_string(&path).expect("the document is there");
    let (before, rest) = text.split_once(BEGIN).expect("the table has a place");
    let (found, after) = rest.split_once(END).expect("and an end");
    if std::env::var_os("SAKER_UPDATE").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}")).expect("it is written");
        return;
    }
    assert_eq!(
        found, table,
        "docs/mining-detection.md is stale: run this test with SAKER_UPDATE=1"
    );
}
