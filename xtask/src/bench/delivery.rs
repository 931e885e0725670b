//! `cargo xtask bench delivery`: many alerts, two sinks of which one is stuck, for a minute. The same code as the test, optimised.

use anyhow::Result;

use crate::process::{cargo, run};

/// Options.
#[derive(clap::Args)]
pub struct Args {
    /// For how long alerts are offered.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// How many a second.
    #[arg(long, default_value_t = 50_000)]
    rate: u32,
}

/// Runs it, and prints what it measured.
pub fn bench(args: &Args) -> Result<()> {
    let test = "flood::a_stuck_sink_holds_nobody_up_and_catches_up";
    run(cargo()
        .args([
            "test",
            "--release",
            "--package",
            "saker",
            "--test",
            "delivery",
            "--",
        ])
        .args(["--exact", test, "--nocapture"])
        .env("SAKER_TEST_FLOOD_SECONDS", args.seconds.to_string())
        .env("SAKER_TEST_FLOOD_RATE", args.rate.to_string()))
}
