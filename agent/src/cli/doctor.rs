//! `saker doctor`: tries every hook on this machine, attaches nothing for longer than the question takes, and reports.

use std::fmt::Write as _;

use super::{Failure, chain, print};
use crate::source::{HookStatus, Kind, Sensor, SensorConfig, program_types};

/// Options of `saker doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// One JSON array instead of text.
    #[arg(long)]
    json: bool,
    /// Also what the kernel's verifier said of a refused program.
    #[arg(short, long)]
    verbose: bool,
}

/// Loads everything, reports, and lets go.
pub fn run(args: &Args) -> Result<(), Failure> {
    let config = SensorConfig {
        kinds: Kind::ALL.into_iter().collect(),
        ..SensorConfig::default()
    };
    let sensor = Sensor::load(&config).map_err(|error| Failure::Machine(chain(&error)))?;
    let mut rows = sensor.status().to_vec();
    rows.extend(program_types::loadable());
    if args.json {
        let text = serde_json::to_string_pretty(&rows)
            .map_err(|error| Failure::Internal(error.to_string()))?;
        return print(&(text + "\n"));
    }
    let mut text = String::new();
    for status in &rows {
        describe(status, args.verbose, &mut text);
    }
    print(&text)
}

fn describe(status: &HookStatus, verbose: bool, text: &mut String) {
    let _ = writeln!(
        text,
        "{:12} {}",
        status.kind,
        status.hook.unwrap_or("NOT SUPPLIED")
    );
    for lost in &status.lost {
        let _ = writeln!(text, "{:12} lost: {lost}", "");
    }
    for refusal in &status.refused {
        let _ = writeln!(text, "{:12} tried {}: {}", "", refusal.hook, refusal.reason);
        if let (true, Some(log)) = (verbose, &refusal.verifier_log) {
            for line in log.lines() {
                let _ = writeln!(text, "{:16} {line}", "");
            }
        }
    }
}
