//! `cargo xtask bench image`: what installing costs a node: the image's size, the time from start to the first event, and an idle agent's
//! processor time and memory. What is measured is the binary of the image, with the shipped rules, outside a container.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    agent::{Agent, Programs, machine},
    median, need_root,
};
use crate::{image, process::target_dir};

/// Options.
#[derive(clap::Args)]
pub struct Args {
    /// Starts of the agent.
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Seconds of idling.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// A `saker` that is built already, in place of one built for the image.
    #[arg(long)]
    binary: Option<PathBuf>,
}

const CONFIG: &str =
    "http: {listen: '127.0.0.1:0'}\ngrpc: {unix: {enabled: false}}\nalerts: {window_s: 0}\n";

/// Packs and measures.
pub fn bench(args: &Args) -> Result<()> {
    need_root()?;
    println!("{}", machine());
    let folder = target_dir()?.join("bench");
    fs::create_dir_all(&folder)?;
    let programs = Programs {
        saker: image::packed(args.binary.clone())?,
        // None of them is started.
        actors: target_dir()?.join("debug"),
        folder,
    };
    let (mut ready, mut first) = (Vec::new(), Vec::new());
    for _ in 0..args.rounds {
        let (watching, alert) = start(&programs)?;
        ready.push(watching);
        first.push(alert);
    }
    let at_most = first.iter().copied().fold(0.0, f64::max);
    println!(
        "from start until it watches, median of {}: {:.2} s; until the first alert of an event: {:.2} s, at most {at_most:.2} s",
        args.rounds,
        median(&mut ready),
        median(&mut first),
    );
    let agent = Agent::start(&programs, CONFIG, &["run"])?;
    let (before, at) = (agent.cpu_s()?, Instant::now());
    thread::sleep(Duration::from_secs(args.seconds));
    let used = agent.cpu_s()? - before;
    let (share, memory) = (used / at.elapsed().as_secs_f64() * 100.0, agent.memory()?);
    let books = agent.stop()?;
    println!(
        "idle for {} s: {share:.2} % of a core, {:.1} MB resident without the rings, {:.1} MB of rings\n{books}",
        args.seconds,
        memory.own_mb(),
        memory.rings as f64 / 1e6
    );
    Ok(())
}

/// Seconds from the agent's start until it watches, and until the alert of a program that is started all the time.
fn start(programs: &Programs) -> Result<(f64, f64)> {
    let miner = programs.folder.join("xmrig");
    fs::copy("/bin/true", &miner)?;
    let stop = Arc::new(AtomicBool::new(false));
    let begin = Instant::now();
    let starter = {
        let (stop, miner) = (Arc::clone(&stop), miner.clone());
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let child = Command::new(&miner).stdout(Stdio::null()).status();
                if child.is_err() {
                    return;
                }
                thread::sleep(Duration::from_millis(5));
            }
        })
    };
    let outcome = (|| {
        let agent = Agent::start(programs, CONFIG, &["run"])?;
        let watching = begin.elapsed().as_secs_f64();
        let patience = Duration::from_secs(30);
        let alert = loop {
            let line = agent.alerts.recv_timeout(patience);
            let line = line.context("no alert of a program called xmrig")?;
            if line.contains("xmrig") {
                break begin.elapsed().as_secs_f64();
            }
        };
        agent.stop()?;
        Ok((watching, alert))
    })();
    stop.store(true, Ordering::Relaxed);
    let _ = starter.join();
    fs::remove_file(miner)?;
    outcome
}
