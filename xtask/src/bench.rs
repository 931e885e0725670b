//! `cargo xtask bench`: each benchmark runs Saker and its peers in one run, interleaved, and reports ratios.

mod agent;
mod delivery;
mod image;
mod instructions;
mod kernel;
mod pipeline;
mod stress;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;

use crate::{
    process::{build_agent, cargo, is_root, run},
    setup,
};

/// The benchmarks.
#[derive(Subcommand)]
pub enum Bench {
    /// Nanoseconds and instructions per event of the rule engine, beside a tree walk and wirefilter.
    Rules {
        /// Arguments of the benchmark.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Memory and look-up times of 100,000 processes and 2,000 containers.
    Context,
    /// Alerts a second through the alert log with a stuck sink, its memory, and how it catches up.
    Delivery(delivery::Args),
    /// The image's size, the time from start to the first event, and what an idle agent takes. Needs root.
    Image(image::Args),
    /// The verdict on mining over days of scenarios: the table of docs/mining-detection.md.
    Mining {
        /// A trial's file, or a folder of them, which are judged instead of the document's.
        #[arg(long)]
        trials: Option<PathBuf>,
    },
    /// Events a second on one core, memory, and time to the alert, with Falco's rules and all packs.
    Pipeline(pipeline::Args),
    /// What the kernel programs add to system calls, beside empty programs, bpftrace and auditd.
    Kernel(kernel::Args),
    /// Instructions that an operation takes more with the agent, in a guest that counts them and whose kernel has fexit.
    Instructions(instructions::Args),
    /// Everything flat out for some minutes: every event is accounted for, and memory does not grow.
    Stress(stress::Args),
    /// What one global, `import torch` and a `DataLoader` cost, with and without the agent. Needs root.
    Pickle {
        /// Arguments of the benchmark.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Alerts of the shipped rules while a node does ordinary work of machine learning, and those of each attack. Needs root.
    Noise {
        /// Arguments of the benchmark.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// How many first loads of interpreters that were never seen before are caught. Needs root.
    Race {
        /// Arguments of the benchmark.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

/// Runs one.
pub fn bench(which: &Bench) -> Result<()> {
    match which {
        Bench::Context => run(cargo().args(["bench", "--package", "saker", "--bench", "context"])),
        Bench::Mining { trials } => mining(trials.as_deref()),
        Bench::Pickle { args } => with_agent("bench_pickle", &["cost"], args),
        Bench::Race { args } => with_agent("bench_pickle", &["race"], args),
        Bench::Noise { args } => with_agent("bench_noise", &[], args),
        Bench::Rules { args } => run(cargo()
            .args([
                "bench",
                "--package",
                "saker-rules",
                "--bench",
                "rules",
                "--",
            ])
            .args(args)),
        Bench::Delivery(args) => delivery::bench(args),
        Bench::Image(args) => image::bench(args),
        Bench::Pipeline(args) => pipeline::bench(args),
        Bench::Kernel(args) => kernel::bench(args),
        Bench::Instructions(args) => instructions::bench(args),
        Bench::Stress(args) => stress::bench(args),
    }
}

fn mining(trials: Option<&Path>) -> Result<()> {
    let mut command = cargo();
    command.args([
        "test",
        "--release",
        "--package",
        "saker",
        "--test",
        "mining",
    ]);
    command.args(["--", "--nocapture", "miners_are_found"]);
    if let Some(trials) = trials {
        // The test runs elsewhere.
        let place = trials
            .canonicalize()
            .with_context(|| format!("no trials in {}", trials.display()))?;
        command.env("SAKER_MINING_TRIALS", place);
    }
    run(&mut command)
}

/// For benchmarks that load kernel programs.
fn need_root() -> Result<()> {
    if is_root() {
        return Ok(());
    }
    bail!("this benchmark loads kernel programs and needs root");
}

/// The middle one.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// One of the benchmarks that are programs of the tests, with real interpreters and the release agent.
fn with_agent(program: &str, which: &[&str], args: &[String]) -> Result<()> {
    need_root()?;
    setup::setup(setup::Need::Tests)?;
    let agent = build_agent()?;
    // The programs that it starts.
    run(cargo().args(["build", "--package", "saker-tests", "--bins"]))?;
    run(cargo()
        .args(["run", "--quiet", "--package", "saker-tests", "--bin"])
        .args([program, "--", "--agent"])
        .arg(agent)
        .args(which)
        .args(args))
}
