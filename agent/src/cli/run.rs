//! `saker run`: the daemon.

use std::{
    io::{self, IsTerminal as _, Stderr, Write},
    path::PathBuf,
    sync::Arc,
};

use tracing_subscriber::EnvFilter;

use super::{
    Failure, chain,
    rules::load::{self, Given, Wrong},
};
use crate::{
    config::{Config, Matching, Profile},
    daemon::{
        self, DaemonError,
        reload::{Fresh, Source},
    },
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
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Detection {
    /// Configuration file; without one every key has its default.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Rule file, or folder of `*.yaml`; may be given many times, in order. Replaces the shipped rules and `rules.paths`.
    #[arg(long, value_name = "PATH", conflicts_with = "bundle")]
    rules: Vec<PathBuf>,
    /// With `--rules`: the shipped rules too, in front of the files, which may append to them and replace them.
    #[arg(long, requires = "rules")]
    keep_shipped: bool,
    /// Rules compiled by `saker rules compile`; no rule is compiled at start-up.
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    /// Which of the rules are at work. Replaces `rules.profile`.
    #[arg(long, value_name = "PROFILE", conflicts_with = "bundle")]
    profile: Option<Profile>,
    /// More log lines on stderr; the environment variable SAKER_LOG sets them by module.
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
}

/// Runs until a signal stops it.
pub fn run(args: &Args) -> Result<(), Failure> {
    args.detection.start_logging();
    let config = args.detection.config()?;
    let metrics = Arc::new(Metrics::new());
    let detect = args.detection.detect(&config)?;
    let source = args.detection.source();
    finish(&daemon::run(&config, detect, metrics, None, Some(source)))
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
        Config::load(self.config.as_deref()).map_err(|error| Failure::Input(chain(&error)))
    }

    /// The rules, ready.
    pub(super) fn detect(&self, config: &Config) -> Result<Detect, Failure> {
        let bundle = load::for_run(self.given(config))?;
        Ok(Detect::new(bundle, &options(config)))
    }

    fn given<'a>(&'a self, config: &'a Config) -> Given<'a> {
        Given {
            paths: self.paths(config),
            keep_shipped: self.keep_shipped || config.rules.keep_shipped && self.rules.is_empty(),
            bundle: self.bundle.as_deref(),
            profile: self.profile.unwrap_or(config.rules.profile).into(),
        }
    }

    fn paths<'a>(&'a self, config: &'a Config) -> &'a [PathBuf] {
        if self.rules.is_empty() {
            &config.rules.paths
        } else {
            &self.rules
        }
    }

    /// How configuration and rules are read again.
    fn source(&self) -> Source {
        let (load, files) = (self.clone(), self.clone());
        Source {
            load: Box::new(move || load.fresh()),
            files: Box::new(move |config| files.files(config)),
        }
    }

    fn fresh(&self) -> Result<Fresh, String> {
        let text = |failure| match failure {
            Failure::Input(text) | Failure::Machine(text) | Failure::Internal(text) => text,
        };
        let config = self.config().map_err(text)?;
        let bundle = load::for_reload(self.given(&config), false);
        let bundle = bundle.map_err(|wrong| match wrong {
            Wrong::Rules(rendered) => rendered,
            Wrong::Other(failure) => text(failure),
        })?;
        let detect = Detect::new(bundle, &options(&config));
        Ok(Fresh { config, detect })
    }

    /// What has to be looked at to see whether anything has changed.
    fn files(&self, config: &Config) -> Vec<PathBuf> {
        let mut files: Vec<_> = self.config.iter().chain(&self.bundle).cloned().collect();
        if self.bundle.is_none() {
            files.extend(load::watched(self.paths(config)));
        }
        files
    }

    /// From now on log lines go to stderr.
    pub(super) fn start_logging(&self) {
        start_logging(self.verbose);
    }
}

fn options(config: &Config) -> DetectOptions {
    DetectOptions {
        first_match: config.rules.matching == Matching::First,
        instances_max: config.rules.instances_max.0,
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
