//! `saker rules compile`: a bundle on disk.

use std::{io::IsTerminal as _, path::PathBuf};

use saker_rules::loader::LoadOptions;

use super::{Selection, load};
use crate::cli::{Failure, chain, print};

/// Options of `saker rules compile`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    selection: Selection,
    /// Where the bundle is written; an existing file is replaced at once or not at all.
    #[arg(short, long, value_name = "BUNDLE")]
    output: PathBuf,
}

/// Loads, compiles, writes.
pub fn run(args: &Args) -> Result<(), Failure> {
    let report = load::selected(&args.selection.paths, &LoadOptions::default())?;
    if report.has_errors() {
        eprint!("{}", report.render(std::io::stderr().is_terminal()));
        return Err(Failure::Input(
            "no bundle was written; the errors above say what to mend".into(),
        ));
    }
    let bundle = load::compiled(&report)?;
    bundle
        .write_to(&args.output)
        .map_err(|error| Failure::Input(format!("{}: {}", args.output.display(), chain(&error))))?;
    let path = args.output.display();
    print(&format!(
        "{path}: {} rules, {} bytes\n",
        report.ruleset.rules.len(),
        bundle.as_bytes().len()
    ))
}
