//! `saker rules`: everything about rules that needs no kernel. The commands' bodies are in files of their own.

mod check;
mod compile;
mod eval;
mod list;
pub mod load;
mod unit;

use std::path::PathBuf;

use clap::Subcommand;

use super::Failure;

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check rule files and report every error and warning; exits with 1 if there is an error.
    Check(check::Args),
    /// List the rules that are loaded.
    List(list::Args),
    /// Say which rules are active on a live agent, and why the others are not.
    Coverage(list::Args),
    /// Compile rules into a bundle that an agent uses as it is.
    Compile(compile::Args),
    /// Evaluate rules or one condition over recorded events, one JSON object a line.
    Eval(eval::Args),
    /// Run unit tests of rules: events in, expected alerts out.
    Test(unit::Args),
}

/// Which rules a command works on.
#[derive(Debug, clap::Args)]
pub struct Selection {
    /// Rule files or folders of `*.yaml`, in order, behind the shipped macros and lists. Without any: the shipped rules.
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The shipped rules too, in front of the files, which may append to their lists, macros and rules, and replace them.
    #[arg(long, requires = "paths")]
    keep_shipped: bool,
}

/// Runs one command.
pub fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Check(args) => check::run(args),
        Command::List(args) => list::list(args),
        Command::Coverage(args) => list::coverage(args),
        Command::Compile(args) => compile::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Test(args) => unit::run(args),
    }
}
