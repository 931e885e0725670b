//! `saker-gpu-check`: what Saker says of a real GPU, held against `nvidia-smi` and against loads of which it is known what they do.
//!
//! Needs the built `saker` beside it, root, NVIDIA's driver and an idle first card; no toolkit, no network. Each load runs for some time as a
//! process of its own, the agent looks every second, and one line says what came of each comparison. Ends with 0 where all are right, 1
//! where one is not, and 77 where there is no GPU, so that nothing was checked.

mod agent;
mod compare;
mod cuda;
mod smi;

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use clap::Parser;

use agent::Agent;
use compare::{Line, Seen};
use cuda::Load;

/// As test harnesses know a skip.
const SKIPPED: u8 = 77;
/// How long the agent may take to see a load, a first compilation of the kernels included.
const APPEARS: Duration = Duration::from_secs(60);

/// Checks what Saker says of a real NVIDIA GPU. Needs root and an idle first card.
#[derive(Debug, Parser)]
struct Args {
    /// The agent; by default the one beside this program.
    #[arg(long)]
    saker: Option<PathBuf>,
    /// How long each load is watched: the verdict needs 30 s.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(40..=3600))]
    seconds: u64,
    /// Only makes this load.
    #[arg(long, hide = true)]
    load: Option<Load>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let time = Duration::from_secs(args.seconds);
    if let Some(load) = args.load {
        return match cuda::keep_busy(load, time) {
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => fail(&format!("the load {} cannot be made: {error}", load.name())),
        };
    }
    match cuda::count() {
        Ok(count) => println!("{count} GPUs; the first is checked"),
        Err(error) => {
            eprintln!("skipped, nothing was checked: no GPU can be used here: {error}");
            return ExitCode::from(SKIPPED);
        }
    }
    match check(args.saker.as_deref(), time) {
        Ok(lines) => {
            let wrong = lines.iter().filter(|line| line.is_wrong()).count();
            for line in &lines {
                println!("{line}");
            }
            println!("{} comparisons, {wrong} wrong", lines.len());
            ExitCode::from(u8::from(wrong > 0))
        }
        Err(error) => fail(&error),
    }
}

fn fail(error: &str) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

fn check(saker: Option<&Path>, time: Duration) -> Result<Vec<Line>, String> {
    let own = env::current_exe().map_err(|error| format!("this program's path: {error}"))?;
    let beside = own.with_file_name("saker");
    let folder =
        tempfile::tempdir_in("/tmp").map_err(|error| format!("a folder in /tmp: {error}"))?;
    // As a dropped miner is: no name that says anything, in a folder where anybody may write.
    let dropped = folder.path().join("worker");
    fs::copy(&own, &dropped).map_err(|error| format!("{}: {error}", dropped.display()))?;
    let mut agent = Agent::start(saker.unwrap_or(&beside), folder.path())?;
    let mut lines = Vec::new();
    for load in Load::ALL {
        let program = if load == Load::Hash { &dropped } else { &own };
        let mut child = Worker::start(program, load, time + APPEARS)?;
        let seen = watch(&mut agent, &mut child, time)?;
        lines.extend(compare::lines(load, &seen));
    }
    Ok(lines)
}

/// What the agent says of a process in this time, and what `nvidia-smi` says in the middle of it.
fn watch(agent: &mut Agent, worker: &mut Worker, time: Duration) -> Result<Seen, String> {
    let mut seen = Seen {
        pid: worker.0.id(),
        ..Seen::default()
    };
    let begun = Instant::now();
    let mut until = begun + APPEARS;
    while Instant::now() < until {
        worker.check()?;
        let Some(alert) = agent.next(Duration::from_secs(1))? else {
            continue;
        };
        let fields = &alert["output_fields"];
        if fields["proc.pid"].as_u64() != Some(seen.pid.into()) {
            continue;
        }
        if seen.fields.is_empty() {
            until = Instant::now() + time;
        }
        seen.fields.push(fields.clone());
        if seen.smi.is_none() && until.saturating_duration_since(Instant::now()) < time / 2 {
            seen.at_smi = seen.fields.len() - 1;
            seen.smi = Some(smi::ask()?);
        }
    }
    Ok(seen)
}

/// A load's process; ends with this value.
struct Worker(Child);

impl Worker {
    fn start(program: &Path, load: Load, time: Duration) -> Result<Self, String> {
        let started = Command::new(program)
            .args(["--load", load.name(), "--seconds"])
            .arg(time.as_secs().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        started
            .map(Self)
            .map_err(|error| format!("{}: {error}", program.display()))
    }

    fn check(&mut self) -> Result<(), String> {
        match self.0.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(format!("the load ended too early: {status}")),
            Err(error) => Err(format!("the load cannot be waited for: {error}")),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        stop(&mut self.0);
    }
}

/// Ends a child, whatever it does.
fn stop(child: &mut Child) {
    let ended: io::Result<_> = child.kill().and_then(|()| child.wait());
    if let Err(error) = ended {
        eprintln!("process {} cannot be ended: {error}", child.id());
    }
}
