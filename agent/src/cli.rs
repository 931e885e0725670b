//! The command line: parsing, dispatch, exit codes. Each command has its own file.

mod alerts;
mod config;
mod doctor;
mod events;
mod fields;
mod gpu;
mod record;
mod reference;
mod remote;
mod replay;
mod rules;
mod run;
mod show;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

/// Runtime security for GPU nodes that run machine learning.
#[derive(Debug, Parser)]
#[command(name = "saker", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Load probes, detect, deliver: alerts as JSON lines on stdout, log lines on stderr, metrics on 127.0.0.1:9765.
    Run(run::Args),
    /// Alerts of a running agent: those in its log, and new ones as they are raised.
    Alerts(alerts::Args),
    /// Events as a running agent sees them, best effort.
    Events(events::Args),
    /// The configuration: its schema, whether it is sound, what it amounts to. Needs no root.
    #[command(subcommand)]
    Config(config::Command),
    /// Write down what `saker run` would see, in a file for `saker replay`.
    Record(record::Args),
    /// Feed a capture through the whole pipeline: alerts on stdout, a summary on stderr. Needs no root.
    Replay(replay::Args),
    /// Check, list, compile, evaluate and test rules. Needs no root.
    #[command(subcommand)]
    Rules(rules::Command),
    /// Every field that rules can use: type, unit, event kinds, where its value comes from.
    Fields(fields::Args),
    /// GPUs, and who uses them for what, as the running agent sees them.
    Gpu(gpu::Args),
    /// Which hooks and GPUs this node offers, what each missing one costs.
    Doctor(doctor::Args),
    /// Print a reference page of `docs/reference`, made from its table.
    #[command(hide = true)]
    Reference(reference::Args),
}

/// Why a command failed; decides the exit code.
#[derive(Debug)]
pub(crate) enum Failure {
    /// 1: rules, configuration or another input is wrong. The text may have many lines; empty where all was said.
    Input(String),
    /// 3: this machine can't, or doesn't let us.
    Machine(String),
    /// 4: a bug of ours.
    Internal(String),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::Input(_) => 1,
            Self::Machine(_) => 3,
            Self::Internal(_) => 4,
        }
    }
}

/// Runs the command that the arguments name. Usage errors exit with 2 inside the parser.
pub fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Alerts(args) => alerts::run(&args),
        Command::Events(args) => events::run(&args),
        Command::Config(command) => config::run(&command),
        Command::Record(args) => record::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Rules(command) => rules::run(&command),
        Command::Fields(args) => fields::run(&args),
        Command::Gpu(args) => gpu::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Reference(args) => reference::run(&args, Cli::command()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let (Failure::Input(text) | Failure::Machine(text) | Failure::Internal(text)) =
                &failure;
            if !text.is_empty() {
                complain(&format!("saker: {text}\n"));
            }
            ExitCode::from(failure.code())
        }
    }
}

/// Runs what waits for a network.
fn block_on(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Internal(format!("cannot start the async runtime: {error}")))?;
    runtime.block_on(work)
}

/// An error and all that caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Writes to stdout; a reader that went away ends the command quietly, as for any filter.
fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::Internal(
            format!("cannot write to stdout: {error}"),
        )),
        _ => Ok(()),
    }
}

/// Writes to stderr, if anybody can be reached there.
fn complain(text: &str) {
    use std::io::Write as _;
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
