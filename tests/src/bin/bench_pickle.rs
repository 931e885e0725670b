//! What watching Python costs, and how often the first load of a Python that was never seen before is caught.
//!
//! `cargo xtask bench pickle` and `bench race` build the release agent and run this. With and without the agent in turn, many rounds
//! in one run, so that what else the machine does falls on both sides; medians.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    process::{Command, Stdio},
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
const RUNS: &[(&str, usize)] = &[
    ("globals", 4),
    ("import", 2),
    ("loader", 3),
    ("tiny-loader", 3),
];

/// By part, side (without, with) and clock (CPU, wall): nanoseconds, by round.
type Times = BTreeMap<String, [[Vec<Vec<f64>>; 2]; 2]>;

fn cost(agent: &std::path::Path, rounds: usize, part: Option<&str>) {
    let wanted = RUNS
        .iter()
        .filter(|(name, _)| part.is_none_or(|part| part == *name));
    let python = libraries().expect("cargo xtask setup installs the libraries");
    let mut times = Times::new();
    for round in 0..rounds {
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
                let stopped = running.stop();
                let summary = stopped.log.iter().rfind(|line| line.contains("lost="));
                assert!(
                    summary.is_some_and(|line| line.contains(" lost=0 ")),
                    "events were lost, so this is no fair picture: {:?}",
                    stopped.log
                );
            }
        }
        eprintln!("round {} of {rounds}", round + 1);
    }
    println!(
        "part        clock   without        with  difference  quartiles            ratio   (medians of {rounds} rounds)"
    );
    for (part, sides) in &times {
        for (clock, name) in ["CPU", "wall"].into_iter().enumerate() {
            let [without, with] = [0, 1].map(|side| by_round(&sides[side][clock]));
            // Each round's own: what changes slowly on the machine is the same on both sides of it.
            let differences: Vec<f64> = without.iter().zip(&with).map(|(a, b)| b - a).collect();
            let [low, difference, high] = [0.25, 0.5, 0.75].map(|at| quantile(&differences, at));
            let [without, with] = [&without, &with].map(|values| quantile(values, 0.5));
            let unit = if without > 1e6 { 1e6 } else { 1.0 };
            println!(
                "{part:<12}{name:<5}{:>10.1}{:>12.1}{:>10.1} {} {:>8.1} {:>8.1}{:>10.4}",
                without / unit,
                with / unit,
                difference / unit,
                if unit > 1.0 { "ms" } else { "ns" },
                low / unit,
                high / unit,
                1.0 + difference / without
            );
        }
    }
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

fn race(agent: &std::path::Path, copies: usize, only: Option<&str>) {
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
