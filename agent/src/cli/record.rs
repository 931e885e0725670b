//! `saker record`: the daemon, with everything that comes in written down.

use std::{path::PathBuf, sync::Arc};

use super::{
    Failure,
    run::{Detection, finish},
};
use crate::{
    daemon::{self, Recording},
    metrics::Metrics,
};

/// Options of `saker record`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The capture. Only its owner can read it: it holds command lines as they were, credentials included.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    detection: Detection,
    /// Write alerts to stdout meanwhile, as `saker run` does.
    #[arg(long)]
    alerts: bool,
    /// Stop when the capture has this many bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 30)]
    bytes_max: u64,
}

/// Records until a signal stops it, or the capture has its length.
pub fn run(args: &Args) -> Result<(), Failure> {
    args.detection.start_logging();
    let mut config = args.detection.config()?;
    // An agent may be at work on this machine, and has the port and the socket.
    config.http.enabled = false;
    config.grpc.unix.enabled = false;
    config.grpc.tcp.listen = None;
    config.stdout.enabled = args.alerts;
    let metrics = Arc::new(Metrics::new());
    let detect = args.detection.detect(&config)?;
    let recording = Recording {
        path: args.output.clone(),
        bytes_max: args.bytes_max,
    };
    finish(&daemon::run(
        &config,
        detect,
        metrics,
        Some(&recording),
        None,
    ))
}
