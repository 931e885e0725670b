//! `cargo xtask bench`: each benchmark runs Saker and its peers in one run, interleaved, and reports ratios.

mod agent;
mod kernel;
mod pipeline;
mod stress;

use anyhow::{Result, bail};
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
    /// Events a second on one core, memory, and time to the alert, with Falco's rules and all packs.
    Pipeline(pipeline::Args),
    /// What the kernel programs add to system calls, beside empty programs, bpftrace and auditd.
    Kernel(kernel::Args),
    /// Everything flat out for some minutes: every event is accounted for, and memory does not grow.
    Stress(stress::Args),
    /// What one global, `import torch` and a `DataLoader` cost, with and without the agent. Needs root.
    Pickle {
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
        Bench::Pickle { args } => python("cost", args),
        Bench::Race { args } => python("race", args),
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
        Bench::Pipeline(args) => pipeline::bench(args),
        Bench::Kernel(args) => kernel::bench(args),
        Bench::Stress(args) => stress::bench(args),
    }
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

/// A measurement with real interpreters and the release agent.
fn python(which: &str, args: &[String]) -> Result<()> {
    need_root()?;
    setup::setup(setup::Need::Tests)?;
    let agent = build_agent()?;
    run(cargo()
        .args(["run", "--quiet", "--package", "saker-tests", "--bin"])
        .args(["bench_pickle", "--", "--agent"])
        .arg(agent)
        .arg(which)
        .args(args))
}
