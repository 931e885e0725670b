//! What watching Python costs, and how often the first load of a Python that was never seen before is caught.
//!
//! `cargo xtask bench pickle` and `bench race` build the release agent and run this. With and without the agent in turn, many rounds
//! in one run, so that what else the machine does falls on both sides; medians.

use std::{
    collections::{BTreeMap, HashSet},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use clap::{Parser, Subcommand};
use saker_tests::{
    Agent,
    python::{Interpreter, debian, fresh_copy, libraries, pyenv, script},
};

#[derive(Parser)]
struct Cli {
    /// The agent's binary.
    #[arg(long)]
    agent: PathBuf,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Time of one global, of `import torch` and of a loop over a `DataLoader`, with and without the agent.
    Cost {
        /// Turns of each side.
        #[arg(long, default_value_t = 11)]
        rounds: usize,
        /// Only one of `globals`, `import`, `loader`, `tiny-loader`.
        #[arg(long)]
        part: Option<String>,
    },
    /// Fresh copies of an interpreter, each started once and loading a pickle at once; counts those that were seen.
    Race {
        /// How many copies of each interpreter.
        #[arg(long, default_value_t = 200)]
        copies: usize,
        /// Only interpreters whose path contains this.
        #[arg(long)]
        only: Option<String>,
    },
}

fn main() {
    let cli = Cli::parse();
    match cli.what {
        What::Cost { rounds, part } => cost(&cli.agent, rounds, part.as_deref()),
        What::Race { copies, only } => race(&cli.agent, copies, only.as_deref()),
    }
}

/// Runs of each part in one turn: a turn's first one warms up what the agent's start pushed out, and is left out.
const RUNS: &[(&str, usize)] = &[("globals", 4), ("import", 2)];

/// Parts that are one process going round and round, with the agent and without in turn.
const LOOPS: &[&str] = &["loader", "tiny-loader"];

/// How long a loop is watched on each side, and left alone before that: what the agent attaches to at its start, and lets go of at its
/// end, takes a moment.
const WATCHED: Duration = Duration::from_secs(4);
const SETTLES: Duration = Duration::from_secs(1);

/// By part, side (without, with) and clock (CPU, wall): nanoseconds, by round.
type Times = BTreeMap<String, [[Vec<Vec<f64>>; 2]; 2]>;

fn cost(agent: &Path, rounds: usize, part: Option<&str>) {
    let is_wanted = |name: &&str| part.is_none_or(|part| part == *name);
    let wanted = RUNS.iter().filter(|(name, _)| is_wanted(name));
    let python = libraries().expect("cargo xtask setup installs the libraries");
    let mut times = Times::new();
    let turns = if wanted.clone().count() > 0 {
        rounds
    } else {
        0
    };
    for round in 0..turns {
        // Whoever is second finds the machine as the first left it: they take turns at that too.
        for side in [round % 2, 1 - round % 2] {
            let running = (side == 1).then(|| Agent::start_from(agent, &[]));
            for (part, runs) in wanted.clone() {
                for run in 0..*runs {
                    let output = Command::new(&python)
                        .arg(script("pickle_cost.py"))
                        .arg(part)
                        .stdin(Stdio::null())
                        .stderr(Stdio::inherit())
                        .output()
                        .expect("Python starts");
                    assert!(
                        output.status.success(),
                        "{part} ended with {}",
                        output.status
                    );
                    if run > 0 {
                        take(
                            &mut times,
                            round,
                            side,
                            &String::from_utf8_lossy(&output.stdout),
                        );
                    }
                }
            }
            if let Some(running) = running {
                end(running);
            }
        }
        eprintln!("round {} of {rounds}", round + 1);
    }
    for name in LOOPS.iter().copied().filter(is_wanted) {
        let sides = of_loop(agent, &python, name, rounds);
        times.insert(name.to_owned(), sides);
    }
    println!(
        "part        clock   without        with  difference     quartiles            ratio   (medians of {rounds} rounds)"
    );
    for (part, sides) in &times {
        for (clock, name) in ["CPU", "wall"].into_iter().enumerate() {
            let [without, with] = [0, 1].map(|side| by_round(&sides[side][clock]));
            // Each round's own: what changes slowly on the machine is the same on both sides of it.
            let differences: Vec<f64> = without.iter().zip(&with).map(|(a, b)| b - a).collect();
            let [low, difference, high] = [0.25, 0.5, 0.75].map(|at| quantile(&differences, at));
            let [without, with] = [&without, &with].map(|values| quantile(values, 0.5));
            let (unit, unit_name) = match without {
                1e8.. => (1e6, "ms"),
                1e5.. => (1e3, "µs"),
                _ => (1.0, "ns"),
            };
            println!(
                "{part:<12}{name:<5}{:>10.1}{:>12.1}{:>10.1} {unit_name} {:>8.1} {:>8.1}{:>10.4}",
                without / unit,
                with / unit,
                difference / unit,
                low / unit,
                high / unit,
                1.0 + difference / without
            );
        }
    }
}

/// Ends the agent, which must not have lost anything.
fn end(agent: Agent) {
    let stopped = agent.stop();
    let summary = stopped.log.iter().rfind(|line| line.contains("lost="));
    assert!(
        summary.is_some_and(|line| line.contains(" lost=0 ")),
        "events were lost, so this is no fair picture: {:?}",
        stopped.log
    );
}

/// A line of a loop: what it has used since its start.
struct Progress {
    cpu_ns: f64,
    wall_ns: f64,
    batches: f64,
}

/// One loop, a batch, by side and clock. Agents come and go beside it; each round's time without is the mean of what was before and after its
/// agent, so that what drifts with the machine is the same on both sides.
fn of_loop(agent: &Path, python: &Path, name: &str, rounds: usize) -> [[Vec<Vec<f64>>; 2]; 2] {
    let mut child = Command::new(python)
        .arg(script("pickle_cost.py"))
        .arg(name)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python starts");
    let stdout = child.stdout.take().expect("it is piped");
    let mut lines = BufReader::new(stdout).lines();
    let mut next = || {
        let line = lines.next().expect("it goes on").expect("text");
        let words: Vec<_> = line.split(' ').skip(1).map(str::parse).collect();
        let [Ok(cpu_ns), Ok(wall_ns), Ok(batches)] = words[..] else {
            panic!("{line}");
        };
        Progress {
            cpu_ns,
            wall_ns,
            batches,
        }
    };
    let mut watched = || {
        let mut after = |start: &Progress, length: Duration| loop {
            let now = next();
            if now.wall_ns - start.wall_ns >= length.as_nanos() as f64 {
                return now;
            }
        };
        // What it said until now waits in the pipe.
        let now = SystemTime::UNIX_EPOCH.elapsed().expect("the clock is set");
        let start = Progress {
            cpu_ns: 0.0,
            wall_ns: now.as_nanos() as f64,
            batches: 0.0,
        };
        let first = after(&start, SETTLES);
        let last = after(&first, WATCHED);
        let batches = last.batches - first.batches;
        [
            (last.cpu_ns - first.cpu_ns) / batches,
            (last.wall_ns - first.wall_ns) / batches,
        ]
    };
    let mut sides: [[Vec<Vec<f64>>; 2]; 2] = Default::default();
    let mut before = watched();
    for round in 0..rounds {
        let running = Agent::start_from(agent, &[]);
        let with = watched();
        end(running);
        let after = watched();
        for clock in 0..2 {
            sides[0][clock].push(vec![f64::midpoint(before[clock], after[clock])]);
            sides[1][clock].push(vec![with[clock]]);
        }
        before = after;
        eprintln!("{name}: round {} of {rounds}", round + 1);
    }
    // It ends with its standard input.
    drop(child.stdin.take());
    assert!(child.wait().expect("it ends").success());
    sides
}

/// The median of each round.
fn by_round(rounds: &[Vec<f64>]) -> Vec<f64> {
    rounds.iter().map(|runs| quantile(runs, 0.5)).collect()
}

/// Takes up "NAME CPU WALL" lines.
fn take(times: &mut Times, round: usize, side: usize, printed: &str) {
    for line in printed.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let [name, cpu, wall] = words[..] else {
            panic!("{line}");
        };
        let clocks = &mut times.entry(name.to_owned()).or_default()[side];
        for (clock, value) in [cpu, wall].into_iter().enumerate() {
            clocks[clock].resize_with(round + 1, Vec::new);
            clocks[clock][round].push(value.parse().expect("a number"));
        }
    }
}

/// Between the two values next to `at` of their number.
fn quantile(values: &[f64], at: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let place = at * (values.len() - 1) as f64;
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    values[below] + (values[above] - values[below]) * place.fract()
}

fn race(agent: &Path, copies: usize, only: Option<&str>) {
    let interpreters = pyenv().into_iter().chain(debian());
    let wanted = interpreters.filter(|interpreter| {
        only.is_none_or(|only| interpreter.program.to_string_lossy().contains(only))
    });
    for interpreter in wanted {
        let agent = Agent::start_from(agent, &[]);
        let started: Vec<u32> = (0..copies).map(|_| load_once(&interpreter)).collect();
        let stopped = agent.stop();
        let seen: HashSet<u64> = stopped
            .alerts
            .iter()
            .filter(|alert| alert["output_fields"]["pickle.name"] == "system")
            .filter_map(|alert| alert["output_fields"]["proc.pid"].as_u64())
            .collect();
        let caught = started
            .iter()
            .filter(|pid| seen.contains(&u64::from(**pid)))
            .count();
        println!(
            "{}: {caught} of {copies} first loads seen",
            interpreter.program.display()
        );
    }
}

/// Makes a copy that nobody has seen, has it load a pickle as the first thing that it does, and returns its pid.
fn load_once(interpreter: &Interpreter) -> u32 {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = fresh_copy(interpreter, folder.path());
    let mut child = Command::new(program)
        .args([
            "-c",
            "import pickle; pickle.loads(b\"cos\\nsystem\\n(S'true'\\ntR.\")",
        ])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .spawn()
        .expect("the copy starts");
    assert!(child.wait().expect("it ends").success());
    child.id()
}
