//! Saker's developer commands: `cargo xtask <command>`. This file is the list of them; each has its own file.

mod bench;
mod check;
mod demo;
mod docs;
mod image;
mod process;
mod run;
mod setup;
mod test;
mod tidy;
mod vm;
mod watchdog;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Saker's developer commands",
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what the build and the tests need; says what it installs, and does nothing twice.
    Setup,
    /// Set up, build and start `saker run`; further arguments are passed on to it.
    Run {
        /// Arguments of `saker run`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Set up, start the agent, perform each behaviour that the shipped rules watch for, show each alert.
    Demo,
    /// Set up and run every check and every test that this machine allows; names what it skipped.
    Test {
        /// Only tests whose name contains this; skips the checks.
        filter: Option<String>,
    },
    /// Format, clippy with warnings as errors, house rules, references equal to their tables.
    Check {
        /// Write what can be written (format, references) instead of only comparing.
        #[arg(long)]
        fix: bool,
    },
    /// Benchmarks; each measures both sides in one run.
    Bench {
        /// Which one.
        #[command(subcommand)]
        which: bench::Bench,
    },
    /// The container image, without registry or daemon: OCI layout, archive, bill of materials.
    Image(image::Args),
    /// The sensor's tests on every kernel of the matrix, each in an emulated guest; prints which hook supplies what.
    Vm(vm::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Setup => setup::setup(setup::Need::Tests),
        Command::Run { args } => run::run(&args),
        Command::Demo => demo::demo(),
        Command::Test { filter } => test::test(filter.as_deref()),
        Command::Check { fix } => check::check(fix),
        Command::Bench { which } => bench::bench(&which),
        Command::Image(args) => image::image(&args),
        Command::Vm(args) => vm::vm(&args),
    };
    // One line, all causes; a backtrace of this program helps nobody.
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
