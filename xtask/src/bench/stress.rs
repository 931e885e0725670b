//! `cargo xtask bench stress`: four actors and stress-ng open, connect and start programs as fast as they can for some minutes.
//! At the end the books must close to the last event, and the agent must not have grown.

use std::{
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use super::{
    agent::{Agent, Memory, Programs, machine, number},
    need_root,
};
use crate::{process::command, setup};

/// Options.
#[derive(clap::Args)]
pub struct Args {
    /// How long.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
}

/// Processes that ended are remembered for a minute, so memory would follow how many start a minute, which on a shared machine is
/// anything. With a table that is full soon it does not. All of the load may run in one cgroup: its share would leave little of it.
const CONFIG: &str = "http: {enabled: false}\nalerts: {window_s: 0}\nprocesses: {max: 16384}\nsensor: {cgroup_events_per_s: 0}\n";

/// Of the time, before memory is looked at for the first time: until then tables and caches fill to their bounds.
const WARM: f64 = 0.2;

/// What memory may grow by after that, in parts of it and at least in MB: allocators are not exact.
const GROWTH_MAX: (f64, f64) = (0.1, 4.0);

/// Runs it.
pub fn bench(args: &Args) -> Result<()> {
    need_root()?;
    let programs = Programs::build()?;
    let rules = programs.all_rules()?;
    println!("{}", machine());
    let bundle = rules.to_string_lossy();
    let agent = Agent::start(&programs, CONFIG, &["run", "--bundle", &bundle])?;
    let load = load(&programs, args.seconds)?;
    let begun = Instant::now();
    let total = Duration::from_secs(args.seconds);
    let mut samples: Vec<(f64, Memory)> = Vec::new();
    let mut alerts = 0_u64;
    while begun.elapsed() < total {
        thread::sleep((total / 100).max(Duration::from_millis(500)));
        alerts += agent.alerts.try_iter().count() as u64;
        samples.push((begun.elapsed().as_secs_f64(), agent.memory()?));
    }
    let mut acts = 0;
    for actor in load {
        acts += acts_of(actor)?;
    }
    let cpu_s = agent.cpu_s()?;
    let books = agent.stop()?;
    let of = |name: &str| number(&books, name);
    let (seen, delivered) = (of("seen")?, of("delivered")?);
    let (filtered, lost) = (of("filtered")?, of("lost")?);
    println!(
        "{} s: {acts} acts of the actors; seen {seen} = delivered {delivered} + filtered {filtered} + lost {lost}; {alerts} alerts read",
        args.seconds
    );
    println!(
        "{:.0} events a second seen, {:.0} delivered; {:.2} s of processor time a million delivered",
        seen as f64 / args.seconds as f64,
        delivered as f64 / args.seconds as f64,
        cpu_s * 1e6 / delivered.max(1) as f64
    );
    if seen != delivered + filtered + lost {
        bail!("the books do not close");
    }
    if seen < acts {
        bail!("the actors alone did more than was seen");
    }
    grown(&samples, args.seconds)
}

/// Waits for an actor, and reads how often it has done what it does: `open 1234`. stress-ng says nothing.
fn acts_of(actor: Child) -> Result<u64> {
    let output = actor.wait_with_output()?;
    if !output.status.success() {
        bail!("a part of the load ended with {}", output.status);
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let count = text.split_whitespace().nth(1);
    Ok(count.map_or(Ok(0), str::parse)?)
}

/// Memory at the end of the warm-up, and the most of the last fifth.
fn grown(samples: &[(f64, Memory)], seconds: u64) -> Result<()> {
    let total = seconds as f64;
    let between = |from: f64, to: f64| {
        samples
            .iter()
            .filter(|(at, _)| (from..to).contains(&(at / total)))
            .map(|(_, memory)| memory.own_mb())
            .fold(0.0, f64::max)
    };
    let (first, last) = (between(WARM, 0.4), between(0.8, 2.0));
    println!(
        "memory without the rings: at most {first:.1} MB from a fifth to two fifths of the time, {last:.1} MB in the last fifth"
    );
    let allowed = (first * GROWTH_MAX.0).max(GROWTH_MAX.1);
    if last > first + allowed {
        bail!("memory has grown by {:.1} MB", last - first);
    }
    Ok(())
}

fn load(programs: &Programs, seconds: u64) -> Result<Vec<Child>> {
    let time = seconds.to_string();
    let nothing = programs.actors.join("nothing");
    let mut running = Vec::new();
    for kind in ["open", "connect", "exec", "exec"] {
        let mut actor = programs.actor("flat_out");
        actor.args([kind, &time]);
        if kind == "exec" {
            actor.arg(&nothing);
        }
        running.push(actor.stdout(Stdio::piped()).spawn()?);
    }
    if setup::bench_package("stress-ng") {
        let mut stress = command("stress-ng");
        stress.args([
            "--fork",
            "1",
            "--exec",
            "1",
            "--open",
            "1",
            "--sock",
            "1",
            "--timeout",
            &time,
        ]);
        // It makes files where it stands.
        stress.current_dir(&programs.folder);
        running.push(stress.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    } else {
        println!("SKIP stress-ng: the actors alone make the load");
    }
    Ok(running)
}
