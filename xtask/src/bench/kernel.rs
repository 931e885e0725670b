//! `cargo xtask bench kernel`: what an operation costs more with kernel programs attached, in nanoseconds.
//!
//! In every round each set-up in turn is attached, all operations are measured, and it is detached; what a set-up adds is
//! compared with the same round's measurement with nothing attached. Each of Saker's has its floor: programs of two
//! instructions on the hooks that the agent uses with those rules, below which no agent could be. bpftrace counts the same
//! system calls, auditd logs them.

mod hooks;
mod inside;
mod peers;

use std::{
    fs,
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
use crate::process::output;

/// Options.
#[derive(clap::Args)]
pub struct Args {
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Milliseconds for each measurement.
    #[arg(long, default_value_t = 300)]
    milliseconds: u64,
    /// Only these operations: getppid, open, alike, null, exec, tcp, page, udp.
    #[arg(long, value_delimiter = ',')]
    operations: Vec<String>,
    /// Measure how long the programs themselves run, by the kernel's account, and not the operations.
    #[arg(long)]
    inside: bool,
}

/// The agent's configuration.
pub const CONFIG: &str = "http: {enabled: false}\n";

/// What is measured: the actor's name of it, and people's. Of TCP first what costs most for what it does, then what is usual.
pub const OPERATIONS: &[Operation] = &[
    ("getppid", "getppid, a bystander"),
    ("open", "open and close of an ordinary file"),
    (
        "alike",
        "open and close of a file whose name ends like a wanted one",
    ),
    ("null", "open and close of /dev/null"),
    ("exec", "fork, exec, exit and wait"),
    ("tcp", "TCP connect, accept, a byte, close"),
    (
        "page",
        "TCP connect, a request of 200 bytes, an answer of 64 KiB",
    ),
    ("udp", "UDP echo"),
];

/// A set of rules, which decides on the hooks.
pub struct Rules {
    /// In words.
    pub name: &'static str,
    /// `None`: the shipped packs.
    pub text: Option<&'static str>,
}

impl Rules {
    /// How the agent is started with them, the ones of this number; and, once it has been, the hooks that it uses then.
    pub fn hooks(&self, programs: &Programs, number: usize) -> Result<(Vec<String>, Vec<String>)> {
        let mut run = vec!["run".to_owned()];
        if let Some(text) = self.text {
            let file = programs.folder.join(format!("kernel-{number}.yaml"));
            fs::write(&file, text)?;
            run.extend(["--rules".into(), file.to_string_lossy().into_owned()]);
        }
        let hooks = hooks::of_agent(programs, &run)?;
        Ok((run, hooks))
    }
}

/// All that are measured.
pub const RULES: &[Rules] = &[
    Rules {
        name: "the shipped packs",
        text: None,
    },
    Rules {
        name: "rules that want no opens",
        text: Some(
            "
- rule: Program
  desc: d
  condition: evt.type = execve and proc.name = nobody-has-this-name
  output: o
  priority: WARNING
- rule: Device
  desc: d
  condition: evt.type = device_open and fd.name startswith /dev/nvidia
  output: o
  priority: WARNING
- rule: Connection
  desc: d
  condition: evt.type = connect and fd.sip = 192.0.2.1
  output: o
  priority: WARNING
",
        ),
    },
    Rules {
        name: "rules on connections and names in TLS",
        text: Some(
            "
- rule: Connection
  desc: d
  condition: evt.type = connect and fd.sip = 192.0.2.1
  output: o
  priority: WARNING
- rule: TLS
  desc: d
  condition: evt.type = tls and tls.sni = nowhere.invalid
  output: o
  priority: WARNING
",
        ),
    },
    Rules {
        name: "rules on DNS answers and datagrams",
        text: Some(
            "
- rule: DNS
  desc: d
  condition: evt.type = dns and dns.name = nowhere.invalid
  output: o
  priority: WARNING
- rule: Datagram
  desc: d
  condition: evt.type = sendto and fd.sip = 192.0.2.1
  output: o
  priority: WARNING
",
        ),
    },
];

/// What is attached meanwhile.
enum Setup {
    Nothing,
    /// Empty programs on these hooks.
    Floor(&'static str, Vec<String>),
    /// The agent with these arguments.
    Saker(&'static str, Vec<String>),
    Bpftrace,
    Auditd,
}

impl Setup {
    fn name(&self) -> String {
        match self {
            Self::Nothing => "nothing attached".into(),
            Self::Floor(rules, _) => format!("empty programs, {rules}"),
            Self::Saker(rules, _) => format!("Saker, {rules}"),
            Self::Bpftrace => "bpftrace, counting the calls".into(),
            Self::Auditd => "auditd, logging the calls".into(),
        }
    }
}

/// Runs it.
pub fn bench(args: &Args) -> Result<()> {
    need_root()?;
    let programs = Programs::build()?;
    println!("{}", machine());
    let _tracefs = hooks::Tracefs::mount()?;
    let setups = setups(&programs)?;
    // Tasks with an audit context pay for it at every call, whoever is measured; those that start now have none.
    let _quiet = peers::NoAuditContext::new();
    let operations = chosen(&args.operations)?;
    if args.inside {
        return measure_inside(args, &programs, &setups, &operations);
    }
    let mut times = vec![vec![Vec::new(); operations.len()]; setups.len()];
    for round in 0..args.rounds.max(1) {
        for at in 0..setups.len() {
            // Each round begins with another one: whatever drifts meets all of them.
            let at = (at + round) % setups.len();
            let attached = attach(&setups[at], &programs)?;
            for (operation, (name, _)) in operations.iter().enumerate() {
                let each = measure(&programs, name, args.milliseconds)?;
                times[at][operation].push(each);
            }
            attached.detach()?;
        }
        println!("round {} of {}", round + 1, args.rounds.max(1));
    }
    report(&setups, &operations, &times);
    Ok(())
}

/// The least time of a run of the program that an operation has run most, of all rounds.
fn measure_inside(
    args: &Args,
    programs: &Programs,
    setups: &[Setup],
    operations: &[Operation],
) -> Result<()> {
    let _account = inside::Account::keep()?;
    for setup in setups {
        if !matches!(setup, Setup::Floor(..) | Setup::Saker(..)) {
            continue;
        }
        let attached = attach(setup, programs)?;
        let pid = attached.pid().context("a program is attached")?;
        println!("{}", setup.name());
        for (name, what) in operations {
            let mut least = f64::INFINITY;
            for _ in 0..args.rounds.max(1) {
                let before = inside::of_process(pid)?;
                measure(programs, name, args.milliseconds)?;
                let each = inside::each(&before, &inside::of_process(pid)?);
                least = least.min(each.unwrap_or(f64::INFINITY));
            }
            println!("  {what:<42} {least:>7.1} ns a run");
        }
        attached.detach()?;
    }
    Ok(())
}

/// What the actor calls it, and people.
pub type Operation = (&'static str, &'static str);

/// Those of these names; all where there are none.
pub fn chosen(names: &[String]) -> Result<Vec<Operation>> {
    if names.is_empty() {
        return Ok(OPERATIONS.to_vec());
    }
    let find = |name: &String| {
        let found = OPERATIONS.iter().find(|(known, _)| known == name);
        found
            .copied()
            .with_context(|| format!("no operation is called {name:?}"))
    };
    names.iter().map(find).collect()
}

/// All that can be attached here. A floor stands in front of what it is the floor of.
fn setups(programs: &Programs) -> Result<Vec<Setup>> {
    let mut setups = vec![Setup::Nothing];
    for (number, rules) in RULES.iter().enumerate() {
        let (run, hooks) = rules.hooks(programs, number)?;
        println!("hooks with {}: {}", rules.name, hooks.join(" "));
        setups.push(Setup::Floor(rules.name, hooks));
        setups.push(Setup::Saker(rules.name, run));
    }
    if peers::bpftrace_is_there() {
        setups.push(Setup::Bpftrace);
    }
    if peers::auditd_works() {
        setups.push(Setup::Auditd);
    }
    Ok(setups)
}

fn measure(programs: &Programs, operation: &str, milliseconds: u64) -> Result<f64> {
    let nothing = programs.actors.join("nothing");
    let mut actor = programs.actor("measure");
    actor.args(arguments(
        operation,
        milliseconds,
        &nothing.to_string_lossy(),
    ));
    Ok(output(&mut actor)?.parse()?)
}

/// What the actor is given for an operation; `nothing` is a program that does nothing.
pub fn arguments(operation: &str, milliseconds: u64, nothing: &str) -> [String; 3] {
    let (what, file) = match operation {
        "exec" => (operation, nothing),
        // As `.zshenv` does, which rules ask for.
        "alike" => ("open", "/usr/bin/env"),
        _ => (operation, "/usr/bin/true"),
    };
    [what.into(), milliseconds.to_string(), file.into()]
}

/// A median of the rounds, and for each set-up the median and the quartiles of what it adds in its own round.
fn report(setups: &[Setup], operations: &[Operation], times: &[Vec<Vec<f64>>]) {
    for (operation, (_, what)) in operations.iter().enumerate() {
        let base = &times[0][operation];
        let alone = median(&mut base.clone());
        println!("\n{what}: {alone:.0} ns with nothing attached; added by");
        let mut floor = f64::NAN;
        for (at, setup) in setups.iter().enumerate().skip(1) {
            let pairs = times[at][operation].iter().zip(base);
            let mut added: Vec<f64> = pairs.map(|(with, without)| with - without).collect();
            let middle = median(&mut added);
            let (low, high) = (added[added.len() / 4], added[added.len() * 3 / 4]);
            let compared = match setup {
                Setup::Floor(..) => {
                    floor = middle;
                    String::new()
                }
                Setup::Saker(..) => format!("{:>6.2} of the empty programs'", middle / floor),
                _ => String::new(),
            };
            println!(
                "  {:<56} {middle:>+9.0} ns ({low:>+7.0} to {high:>+7.0}) {:>+7.1} % {compared}",
                setup.name(),
                middle / alone * 100.0,
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
    /// The process that holds the programs.
    fn pid(&self) -> Option<u32> {
        match self {
            Self::Agent(agent) => Some(agent.pid()),
            Self::Child(child) => Some(child.id()),
            Self::Nothing | Self::Auditd(_) => None,
        }
    }

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

fn attach(setup: &Setup, programs: &Programs) -> Result<Attached> {
    Ok(match setup {
        Setup::Nothing => Attached::Nothing,
        Setup::Floor(_, hooks) => {
            let mut empty = programs.actor("empty_programs");
            Attached::Child(start(empty.args(hooks), "attached")?)
        }
        Setup::Saker(_, run) => {
            let run: Vec<&str> = run.iter().map(String::as_str).collect();
            Attached::Agent(Agent::start(programs, CONFIG, &run)?)
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
