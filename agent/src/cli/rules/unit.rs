//! `saker rules test`: unit tests of rules, written beside them.

use std::{fmt::Write as _, path::PathBuf};

use saker_rules::unit_test;

use crate::cli::{Failure, chain, print};

/// Options of `saker rules test`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Test files.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Runs every test of every file; a failed one makes the command fail after all were run.
pub fn run(args: &Args) -> Result<(), Failure> {
    let (mut passed, mut failed) = (0, 0);
    let mut text = String::new();
    let mut broken = Vec::new();
    for file in &args.files {
        let outcomes = match unit_test::run_file(file) {
            Ok(outcomes) => outcomes,
            Err(error) => {
                broken.push(chain(&error));
                continue;
            }
        };
        for outcome in outcomes {
            if outcome.is_passed() {
                passed += 1;
                continue;
            }
            failed += 1;
            let _ = writeln!(
                text,
                "{}:{}: {}",
                file.display(),
                outcome.line,
                outcome.test
            );
            for alert in &outcome.missing {
                let _ = writeln!(
                    text,
                    "    no alert of {:?} for event {}",
                    alert.rule, alert.event
                );
            }
            for alert in &outcome.unexpected {
                let _ = writeln!(
                    text,
                    "    unexpected alert of {:?} for event {}",
                    alert.rule, alert.event
                );
            }
        }
    }
    let _ = writeln!(text, "{passed} passed, {failed} failed");
    print(&text)?;
    if !broken.is_empty() {
        return Err(Failure::Input(broken.join("\nsaker: ")));
    }
    if failed > 0 {
        Err(Failure::Input(String::new()))
    } else {
        Ok(())
    }
}
