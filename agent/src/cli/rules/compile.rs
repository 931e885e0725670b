//! `saker rules compile`: a bundle on disk.

use std::{io::IsTerminal as _, path::PathBuf};

use super::{Selection, load};
use crate::{
    cli::{Failure, chain, complain, print},
    config::Profile,
};

/// Options of `saker rules compile`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    selection: Selection,
    /// Where the bundle is written; an existing file is replaced at once or not at all.
    #[arg(short, long, value_name = "BUNDLE")]
    output: PathBuf,
    /// Which of the rules the bundle has at work.
    #[arg(long, value_name = "PROFILE", default_value = "default")]
    profile: Profile,
}

/// Loads, compiles, writes.
pub fn run(args: &Args) -> Result<(), Failure> {
    let report = load::selected(
        &args.selection.paths,
        args.selection.keep_shipped,
        &load::enabled_by(args.profile.into()),
    )?;
    if report.has_errors() {
        complain(&report.render(std::io::stderr().is_terminal()));
        return Err(Failure::Input(
            "no bundle was written; the errors above say what to mend".into(),
        ));
    }
    // The file is replaced whole: a device or a pipe of that name would be lost.
    if args.output.metadata().is_ok_and(|found| !found.is_file()) {
        return Err(Failure::Input(format!(
            "{}: is there and is not a regular file",
            args.output.display()
        )));
    }
    let output = args
        .output
        .canonicalize()
        .unwrap_or_else(|_| args.output.clone());
    let bundle = load::compiled(&report)?;
    bundle
        .write_to(&output)
        .map_err(|error| Failure::Input(format!("{}: {}", args.output.display(), chain(&error))))?;
    let path = args.output.display();
    print(&format!(
        "{path}: {} rules, {} bytes\n",
        report.ruleset.rules.len(),
        bundle.as_bytes().len()
    ))
}
