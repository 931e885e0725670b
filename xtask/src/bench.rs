//! `cargo xtask bench`: each benchmark runs Saker and its peers in one run, interleaved, and reports ratios.

use anyhow::Result;
use clap::Subcommand;

use crate::process::{cargo, run};

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
}

/// Runs one.
pub fn bench(which: &Bench) -> Result<()> {
    match which {
        Bench::Context => run(cargo().args(["bench", "--package", "saker", "--bench", "context"])),
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
    }
}
