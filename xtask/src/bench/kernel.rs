//! `cargo xtask bench kernel`: what an operation costs more with kernel programs attached, in nanoseconds.
//!
//! In every round each set-up in turn is attached, all operations are measured, and it is detached; what a set-up adds is
//! compared with the same round's measurement with nothing attached. The floor is programs of two instructions on the hooks
//! that the agent says it uses: no agent could cost less there. bpftrace counts the same system calls, auditd logs them.

mod peers;

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{
    agent::{Agent, Programs, machine},
    median, need_root,
};
use crate::process::{output, root};

/// Options.
#[derive(clap::Args)]
pub struct Args {
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Milliseconds for each measurement.
    #[arg(long, default_value_t = 300)]
    milliseconds: u64,
}

/// What is measured: the actor's name of it, and people's.
const OPERATIONS: &[(&str, &str)] = &[
    ("getppid", "getppid, a bystander"),
    ("open", "open and close of an ordinary file"),
    ("null", "open and close of /dev/null"),
    ("exec", "fork and exec"),
    ("tcp", "TCP connect, accept, a byte, close"),
    ("udp", "UDP echo"),
];

/// What is attached meanwhile.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Setup {
    Nothing,
    Floor,
    Saker,
    /// With the three rules that began it all, which ask of opens only devices.
    Seed,
    Bpftrace,
    Auditd,
}

impl Setup {
    const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing attached",
            Self::Floor => "empty programs on the same hooks",
            Self::Saker => "Saker with its packs",
            Self::Seed => "Saker, rules that want no opens",
            Self::Bpftrace => "bpftrace, counting the calls",
            Self::Auditd => "auditd, logging the calls",
        }
    }
}

/// Runs it.
pub fn bench(args: &Args) -> Result<()> {
    need_root()?;
    let programs = Programs::build()?;
    println!("{}", machine());
    let hooks = floor(&programs)?;
    println!("hooks of the floor: {}", hooks.join(" "));
    let mut setups = vec![Setup::Nothing, Setup::Floor, Setup::Saker];
    if root().join("../shared/seed-falco-ml-rules.yaml").exists() {
        setups.push(Setup::Seed);
    }
    setups.extend(peers::bpftrace_is_there().then_some(Setup::Bpftrace));
    setups.extend(peers::auditd_works().then_some(Setup::Auditd));
    // Tasks with an audit context pay for it at every call, whoever is measured; those that start now have none.
    let _quiet = peers::NoAuditContext::new();
    let mut times = vec![vec![Vec::new(); OPERATIONS.len()]; setups.len()];
    for round in 0..args.rounds.max(1) {
        for at in 0..setups.len() {
            // Each round begins with another one: whatever drifts meets all of them.
            let at = (at + round) % setups.len();
            let attached = attach(setups[at], &programs, &hooks)?;
            for (operation, (name, _)) in OPERATIONS.iter().enumerate() {
                let each = measure(&programs, name, args.milliseconds)?;
                times[at][operation].push(each);
            }
            attached.detach()?;
        }
        println!("round {} of {}", round + 1, args.rounds.max(1));
    }
    report(&setups, &times);
    Ok(())
}

fn measure(programs: &Programs, operation: &str, milliseconds: u64) -> Result<f64> {
    let file = match operation {
        "exec" => programs.actors.join("nothing"),
        _ => "/usr/bin/env".into(),
    };
    let mut actor = programs.actor("measure");
    actor.args([operation, &milliseconds.to_string()]).arg(file);
    Ok(output(&mut actor)?.parse()?)
}

/// A median of the rounds, and for each set-up the median of what it adds in its own round.
fn report(setups: &[Setup], times: &[Vec<Vec<f64>>]) {
    for (operation, (_, what)) in OPERATIONS.iter().enumerate() {
        let base = &times[0][operation];
        println!("\n{what}: {:.0} ns", median(&mut base.clone()));
        let mut floor = f64::NAN;
        for (at, setup) in setups.iter().enumerate().skip(1) {
            let pairs = times[at][operation].iter().zip(base);
            let mut added: Vec<f64> = pairs.map(|(with, without)| with - without).collect();
            let added = median(&mut added);
            if *setup == Setup::Floor {
                floor = added;
            }
            let part = added / median(&mut base.clone()) * 100.0;
            println!(
                "  {:<34} {added:>+9.0} ns {part:>+7.1} %  {:>6.2} of the floor",
                setup.name(),
                added / floor
            );
        }
    }
}

/// What must be undone.
enum Attached {
    Nothing,
    Agent(Agent),
    Child(Child),
    Auditd(peers::Auditd),
}

impl Attached {
    fn detach(self) -> Result<()> {
        match self {
            Self::Nothing => {}
            Self::Agent(agent) => drop(agent.stop()?),
            Self::Child(mut child) => {
                // The actor ends with its stdin, bpftrace with an interrupt.
                drop(child.stdin.take());
                let pid = i32::try_from(child.id())?;
                // SAFETY: kill takes two numbers; the child was not waited for, so the pid is its own.
                unsafe { libc::kill(pid, libc::SIGINT) };
                child.wait()?;
            }
            Self::Auditd(auditd) => auditd.stop(),
        }
        // Programs are freed after a grace period.
        thread::sleep(Duration::from_millis(300));
        Ok(())
    }
}

fn attach(setup: Setup, programs: &Programs, hooks: &[String]) -> Result<Attached> {
    const CONFIG: &str = "http: {enabled: false}\n";
    Ok(match setup {
        Setup::Nothing => Attached::Nothing,
        Setup::Floor => {
            let mut empty = programs.actor("empty_programs");
            Attached::Child(start(empty.args(hooks), "attached")?)
        }
        Setup::Saker => Attached::Agent(Agent::start(programs, CONFIG, &["run"])?),
        Setup::Seed => {
            let rules = root().join("../shared/seed-falco-ml-rules.yaml");
            let rules = rules.to_str().context("a path of text")?;
            Attached::Agent(Agent::start(programs, CONFIG, &["run", "--rules", rules])?)
        }
        Setup::Bpftrace => Attached::Child(start(&mut peers::bpftrace(), "ready")?),
        Setup::Auditd => Attached::Auditd(peers::Auditd::start()?),
    })
}

/// Starts a program and waits until it says that it is attached.
fn start(command: &mut Command, word: &str) -> Result<Child> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("stdout is piped")?).lines();
    let is_ready = lines.any(|line| line.is_ok_and(|line| line.contains(word)));
    if !is_ready {
        bail!("{} is not attached", command.get_program().display());
    }
    // Whatever else it says must not fill the pipe.
    thread::spawn(move || lines.for_each(drop));
    Ok(child)
}

/// Which hooks the agent uses with its packs on this machine, in the words of the actor `empty_programs`.
fn floor(programs: &Programs) -> Result<Vec<String>> {
    let doctor = output(Command::new(&programs.saker).args(["doctor", "--json"]))?;
    let doctor: serde_json::Value = serde_json::from_str(&doctor)?;
    let cgroup = cgroup_root()?;
    let mut hooks = Vec::new();
    let rows = doctor.as_array().or_else(|| doctor["hooks"].as_array());
    for row in rows.context("saker doctor lists hooks")? {
        let Some(name) = row["hook"].as_str() else {
            continue;
        };
        let known = HOOKS.iter().find(|(hook, _)| *hook == name);
        let Some((_, programs)) = known else {
            println!(
                "bench: the floor has nothing for {name}: it has no row in xtask/src/bench/kernel.rs"
            );
            continue;
        };
        hooks.extend(
            programs
                .iter()
                .map(|program| program.replace("@", &format!("@{cgroup}"))),
        );
    }
    hooks.dedup();
    Ok(hooks)
}

/// Hooks of the agent's probe table, and what they attach to.
const HOOKS: &[(&str, &[&str])] = &[
    (
        "raw_tp/sched_process_fork",
        &["raw_tracepoint:sched_process_fork"],
    ),
    (
        "raw_tp/sched_process_exec",
        &["raw_tracepoint:sched_process_exec"],
    ),
    (
        "raw_tp/sched_process_exit",
        &["raw_tracepoint:sched_process_exit"],
    ),
    ("cgroup_device", &["cgroup_device@"]),
    (
        "cgroup/connect",
        &["cgroup_inet4_connect@", "cgroup_inet6_connect@"],
    ),
    ("cgroup_skb/ingress", &["cgroup_inet_ingress@"]),
    ("cgroup_skb/egress", &["cgroup_inet_egress@"]),
    // Only Pythons pay for it.
    ("uprobe/pickle.find_class", &[]),
    (
        "syscalls/open* (end)",
        &[
            "tracepoint:syscalls/sys_exit_openat",
            "tracepoint:syscalls/sys_exit_openat2",
            "tracepoint:syscalls/sys_exit_open",
            "tracepoint:syscalls/sys_exit_creat",
        ],
    ),
    (
        "syscalls/open*",
        &[
            "tracepoint:syscalls/sys_exit_openat",
            "tracepoint:syscalls/sys_enter_openat",
            "tracepoint:syscalls/sys_exit_openat2",
            "tracepoint:syscalls/sys_enter_openat2",
            "tracepoint:syscalls/sys_exit_open",
            "tracepoint:syscalls/sys_enter_open",
            "tracepoint:syscalls/sys_exit_creat",
            "tracepoint:syscalls/sys_enter_creat",
        ],
    ),
];

fn cgroup_root() -> Result<String> {
    let mounts = std::fs::read_to_string("/proc/mounts")?;
    let found = mounts.lines().find_map(|line| {
        let mut columns = line.split(' ');
        let path = columns.nth(1)?;
        (columns.next()? == "cgroup2").then(|| path.to_owned())
    });
    found.context("cgroup v2 is not mounted")
}
