//! `saker run`: the daemon.

use std::{
    io::{self, IsTerminal as _, Stderr, Write},
    path::PathBuf,
    sync::Arc,
};

use tracing_subscriber::EnvFilter;

use super::{Failure, chain, rules::load};
use crate::{
    config::{Config, Matching},
    daemon::{self, DaemonError},
    detect::{Detect, DetectOptions},
    metrics::Metrics,
};

/// Options of `saker run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    detection: Detection,
}

/// What every command that detects is told: configuration and rules.
#[derive(Debug, clap::Args)]
pub(super) struct Detection {
    /// Configuration file; without one every key has its default.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Rule file, or folder of `*.yaml`; may be given many times, in order. Replaces the shipped rules and `rules.paths`.
    #[arg(long, value_name = "PATH", conflicts_with = "bundle")]
    rules: Vec<PathBuf>,
    /// Rules compiled by `saker rules compile`; no rule is compiled at start-up.
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    /// More log lines on stderr; the environment variable SAKER_LOG sets them by module.
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
}

/// Runs until a signal stops it.
pub fn run(args: &Args) -> Result<(), Failure> {
    args.detection.start_logging();
    let config = args.detection.config()?;
    let metrics = Arc::new(Metrics::new());
    let detect = args.detection.detect(&config, &metrics)?;
    finish(&daemon::run(&config, detect, metrics, None))
}

/// What the end of a daemon means for the exit code.
pub(super) fn finish(outcome: &Result<(), DaemonError>) -> Result<(), Failure> {
    match outcome {
        Ok(()) => Ok(()),
        Err(error @ DaemonError::Internal { .. }) => Err(Failure::Internal(chain(error))),
        Err(error) => Err(Failure::Machine(chain(error))),
    }
}

impl Detection {
    /// The configuration.
    pub(super) fn config(&self) -> Result<Config, Failure> {
        match &self.config {
            Some(path) => Config::read(path).map_err(|error| Failure::Input(chain(&error))),
            None => Ok(Config::default()),
        }
    }

    /// The rules, ready.
    pub(super) fn detect(&self, config: &Config, metrics: &Metrics) -> Result<Detect, Failure> {
        let paths = if self.rules.is_empty() {
            &config.rules.paths
        } else {
            &self.rules
        };
        let bundle = load::for_run(paths, self.bundle.as_deref())?;
        let options = DetectOptions {
            first_match: config.rules.matching == Matching::First,
            instances_max: config.rules.instances_max.0,
        };
        Ok(Detect::new(bundle, &options, metrics))
    }

    /// From now on log lines go to stderr.
    pub(super) fn start_logging(&self) {
        start_logging(self.verbose);
    }
}

/// Standard error that swallows its own failures: a log that nobody can write to must not end detection.
struct Quiet(Stderr);

impl Write for Quiet {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let _ = self.0.write_all(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

fn start_logging(verbose: u8) {
    let level = match verbose {
        0 => "info",
        1 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("SAKER_LOG")
        .unwrap_or_else(|_| EnvFilter::new(format!("saker={level},warn")));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Quiet(std::io::stderr()))
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}
