//! Starts the agent, performs each behaviour that the shipped rules watch for, and shows the alert that each one raised.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use saker_tests::{Agent, scenario::SCENARIOS};

#[derive(Parser)]
#[command(about = "Shows an alert for each behaviour that the shipped rules watch for")]
struct Cli {
    /// The agent's binary.
    #[arg(long)]
    agent: PathBuf,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    println!("Starting {} with its shipped rules\n", cli.agent.display());
    let mut agent = Agent::start_from(&cli.agent, &[]);
    let folder = tempfile::Builder::new()
        .prefix("saker-demo-")
        .tempdir()
        .expect("a temporary folder");
    let mut failed = 0;
    for (number, scenario) in SCENARIOS.iter().enumerate() {
        println!("{}. {}", number + 1, scenario.what);
        match (scenario.act)(folder.path()) {
            Ok(marker) => {
                let alert = agent.await_rule(scenario.rule, &marker);
                println!(
                    "{}\n",
                    serde_json::to_string_pretty(&alert).expect("an alert is JSON")
                );
            }
            Err(error) => {
                failed += 1;
                println!("   could not be performed here: {error}\n");
            }
        }
    }
    let stopped = agent.stop();
    println!("The agent stopped with {}:", stopped.status);
    for line in stopped.log.iter().rev().take(3).rev() {
        println!("   {line}");
    }
    println!(
        "\n{} of {} behaviours raised their alert.",
        SCENARIOS.len() - failed,
        SCENARIOS.len()
    );
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
