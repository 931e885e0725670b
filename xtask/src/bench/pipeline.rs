//! `cargo xtask bench pipeline`: a real capture through decode, context and all rules on one core; the agent's memory with all
//! rules loaded; and the time from a system call to its alert on stdout.

use std::{
    fs,
    io::{self, Read as _},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};

use super::{
    agent::{Agent, Programs, machine, number, pin},
    median, need_root,
};

/// Options.
#[derive(clap::Args)]
pub struct Args {
    /// A capture to replay instead of one that is made for the purpose; then root is not needed, and only the replay is measured.
    #[arg(long)]
    capture: Option<PathBuf>,
    /// Seconds of flat-out opening, connecting and starting of programs to record.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Replays; the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Alerts whose time is measured.
    #[arg(long, default_value_t = 500)]
    alerts: usize,
}

const CONFIG: &str = "http: {enabled: false}
alerts: {window_s: 0}
sensor: {ring_bytes: 67108864, sheddable_ring_bytes: 67108864, cgroup_events_per_s: 0}
";
/// The default ring, as an agent in service has it.
const SERVICE: &str = "http: {enabled: false}\nalerts: {window_s: 0}\n";
/// Likewise, and one cgroup may take all of it.
const UNSHARED: &str =
    "http: {enabled: false}\nalerts: {window_s: 0}\nsensor: {cgroup_events_per_s: 0}\n";

/// Events a second that are offered to agents in service.
const OFFERED: [u64; 5] = [50_000, 100_000, 200_000, 300_000, 400_000];
/// At least so many programs are started a second meanwhile.
const STARTS_A_SECOND: u64 = 50;

/// Kinds that the process table needs and no rule asks for.
const NOT_WANTED: &[&str] = &["clone", "procexit", "cgroup_mkdir"];

/// Runs it.
pub fn bench(args: &Args) -> Result<()> {
    println!("{}", machine());
    let programs = Programs::build()?;
    let rules = programs.all_rules()?;
    let rules = rules.to_str().context("a path of text")?;
    if let Some(capture) = &args.capture {
        return replay(&programs, rules, capture, args.rounds);
    }
    need_root()?;
    let capture = record(&programs, rules, args.seconds)?;
    replay(&programs, rules, &capture, args.rounds)?;
    live(&programs, rules, args.seconds)?;
    latency(&programs, rules, args.alerts)
}

/// Everything at once, on both sides of the ring.
fn record(programs: &Programs, rules: &str, seconds: u64) -> Result<PathBuf> {
    let capture = programs.folder.join("pipeline.capture");
    let path = capture.to_str().context("a path of text")?;
    let recorder = Agent::start(programs, CONFIG, &["record", "-o", path, "--bundle", rules])?;
    load(programs, seconds, None)?;
    let books = recorder.stop()?;
    let length = fs::metadata(&capture)?.len();
    println!(
        "recorded: {} events, {:.1} MB; lost meanwhile {}",
        number(&books, "delivered")?,
        length as f64 / 1e6,
        number(&books, "lost")?
    );
    Ok(capture)
}

/// The three kinds of load, side by side: all that they can, or so many events a second together.
fn load(programs: &Programs, seconds: u64, a_second: Option<u64>) -> Result<()> {
    let nothing = programs.actors.join("nothing");
    let nothing = nothing.to_str().context("a path of text")?;
    let mut running = Vec::new();
    // A start is three events and costs a thousand times as much as the others.
    for (kind, percent) in [("open", 40), ("connect", 60), ("exec", 0)] {
        let mut actor = programs.actor("flat_out");
        actor
            .args([kind, &seconds.to_string()])
            .stdout(Stdio::null());
        if kind == "exec" {
            actor.arg(nothing);
        }
        if let Some(a_second) = a_second {
            actor.arg((a_second * percent / 100).max(STARTS_A_SECOND).to_string());
        }
        running.push(actor.spawn()?);
    }
    for mut actor in running {
        let status = actor.wait()?;
        if !status.success() {
            bail!("flat_out ended with {status}");
        }
    }
    Ok(())
}

fn replay(programs: &Programs, rules: &str, capture: &Path, rounds: usize) -> Result<()> {
    let (mut rates, mut wanted, mut costs) = (Vec::new(), Vec::new(), Vec::new());
    let mut peak = 0.0_f64;
    let mut summary = String::new();
    for _ in 0..rounds.max(1) {
        let mut command = Command::new(&programs.saker);
        command
            .arg("replay")
            .arg(capture)
            .args(["--bundle", rules])
            .stdout(Stdio::null());
        pin(&mut command, 0);
        let (text, usage) = run_measured(&mut command)?;
        let delivered = number(&text, "delivered")? as f64;
        let rate = text
            .split(" s, ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next()?.parse::<f64>().ok())
            .with_context(|| format!("no rate in {text:?}"))?;
        rates.push(rate);
        let unwanted = NOT_WANTED
            .iter()
            .map(|kind| number(&text, kind).unwrap_or(0));
        wanted.push(rate * (1.0 - unwanted.sum::<u64>() as f64 / delivered));
        costs.push(usage.cpu_s * 1e6 / delivered);
        peak = peak.max(usage.peak_bytes as f64 / 1e6);
        summary = text;
    }
    print!("{summary}");
    println!(
        "replay on one core, median of {rounds}: {:.0} events a second, of them {:.0} of kinds that rules ask for; {:.2} s of processor time a million events (start and reading of the capture included); {peak:.1} MB at the most",
        median(&mut rates),
        median(&mut wanted),
        median(&mut costs),
    );
    Ok(())
}

struct Usage {
    cpu_s: f64,
    peak_bytes: u64,
}

/// Runs it to its end; returns what it wrote on stderr, and what it alone has used.
fn run_measured(command: &mut Command) -> Result<(String, Usage)> {
    let mut child = command.stderr(Stdio::piped()).spawn()?;
    let mut text = String::new();
    let mut stderr = child.stderr.take().context("stderr is piped")?;
    stderr.read_to_string(&mut text)?;
    let pid = i32::try_from(child.id())?;
    let mut status = 0;
    // SAFETY: all zeros is a valid `rusage`; both pointers are to values of ours that outlive the call, and the child has not
    // been waited for, so the pid is its own.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        if libc::wait4(pid, &raw mut status, 0, &raw mut usage) < 0 {
            return Err(io::Error::last_os_error().into());
        }
        usage
    };
    let status = ExitStatus::from_raw(status);
    if !status.success() {
        bail!(
            "{} ended with {status}: {text}",
            command.get_program().display()
        );
    }
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    let usage = Usage {
        cpu_s: seconds(usage.ru_utime) + seconds(usage.ru_stime),
        peak_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
    };
    Ok((text, usage))
}

/// Agents in service while so many events a second are made: what they keep up with, what that costs. Then one beside programs that make all they can, and its
/// memory before and after.
fn live(programs: &Programs, rules: &str, seconds: u64) -> Result<()> {
    for a_second in OFFERED {
        let agent = Agent::start(programs, UNSHARED, &["run", "--bundle", rules])?;
        let cpu_before_s = agent.cpu_s()?;
        let begun = Instant::now();
        load(programs, seconds, Some(a_second))?;
        let time_s = begun.elapsed().as_secs_f64();
        let cpu_s = agent.cpu_s()? - cpu_before_s;
        let books = agent.stop()?;
        let (seen, delivered) = (number(&books, "seen")?, number(&books, "delivered")?);
        println!(
            "live, {a_second} events a second offered: {:.0} seen, {:.0} evaluated, {} of {seen} lost, {:.2} s of processor time a million",
            seen as f64 / time_s,
            delivered as f64 / time_s,
            number(&books, "lost")?,
            cpu_s * 1e6 / delivered as f64,
        );
    }
    let agent = Agent::start(programs, SERVICE, &["run", "--bundle", rules])?;
    let before = agent.memory()?;
    load(programs, seconds, None)?;
    let after = agent.memory()?;
    let books = agent.stop()?;
    println!(
        "live, beside programs that make all the events they can: {} of {} were beyond their cgroup's share",
        number(&books, "lost")?,
        number(&books, "seen")?,
    );
    println!(
        "resident memory without the rings: {:.1} MB at the start, {:.1} MB after that (rings: {:.1} MB)",
        before.own_mb(),
        after.own_mb(),
        after.rings as f64 / 1e6
    );
    Ok(())
}

/// From the kernel's time of an event, and from before the system call, to the moment that its alert can be read.
fn latency(programs: &Programs, rules: &str, count: usize) -> Result<()> {
    let miner = programs.folder.join("xmrig");
    fs::copy(programs.actors.join("nothing"), &miner)?;
    let agent = Agent::start(programs, SERVICE, &["run", "--bundle", rules])?;
    let (mut from_event, mut from_before) = (Vec::new(), Vec::new());
    for round in 0..count {
        let marker = format!("--round={round}.");
        let before = wall_ns()?;
        let mut child = Command::new(&miner).arg(&marker).spawn()?;
        let (alert, arrived) = await_alert(&agent, &marker)?;
        child.wait()?;
        let at = alert["output_fields"]["evt.time"]
            .as_i64()
            .context("the alert has a time")?;
        from_event.push((arrived - at) as f64 / 1e6);
        from_before.push((arrived - before) as f64 / 1e6);
    }
    agent.stop()?;
    fs::remove_file(miner)?;
    for (what, times) in [
        ("the kernel's time of the event", &mut from_event),
        ("before fork and exec", &mut from_before),
    ] {
        times.sort_by(f64::total_cmp);
        let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
        println!(
            "to the alert on stdout from {what}, {count} times: p50 {:.2} ms, p99 {:.2} ms, at most {:.2} ms",
            at(0.5),
            at(0.99),
            at(1.0)
        );
    }
    Ok(())
}

fn await_alert(agent: &Agent, marker: &str) -> Result<(serde_json::Value, i64)> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(line) = agent.alerts.recv_timeout(left) else {
            bail!("no alert with {marker}");
        };
        if line.contains(marker) {
            return Ok((serde_json::from_str(&line)?, wall_ns()?));
        }
    }
}

fn wall_ns() -> Result<i64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(i64::try_from(since.as_nanos())?)
}
