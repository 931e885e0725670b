//! Which hooks an agent uses with its rules, in the words of the actor `empty_programs`; and where tracepoints are found.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
};

use anyhow::{Context as _, Result, bail};

use super::super::agent::{Agent, Programs};
use crate::process::{command, run};

const TRACEFS: &str = "/sys/kernel/tracing";

const CONNECT: &[&str] = &["cgroup_inet4_connect@", "cgroup_inet6_connect@"];
const SENDMSG: &[&str] = &["cgroup_udp4_sendmsg@", "cgroup_udp6_sendmsg@"];

/// Hooks of the agent's probe table, and what they attach to. `@` stands for the root cgroup.
const HOOKS: &[(&str, &[&[&str]])] = &[
    (
        "raw_tp/sched_process_fork",
        &[&["raw_tracepoint:sched_process_fork"]],
    ),
    (
        "raw_tp/sched_process_exec",
        &[&["raw_tracepoint:sched_process_exec"]],
    ),
    (
        "raw_tp/sched_process_exit",
        &[&["raw_tracepoint:sched_process_exit"]],
    ),
    ("raw_tp/cgroup_mkdir", &[&["raw_tracepoint:cgroup_mkdir"]]),
    ("cgroup_device", &[&["cgroup_device@"]]),
    ("cgroup/connect", &[CONNECT]),
    ("cgroup/sendmsg", &[SENDMSG]),
    // Both also need to know whose sockets the packets are.
    (
        "cgroup_skb/ingress",
        &[CONNECT, SENDMSG, &["cgroup_inet_ingress@"]],
    ),
    ("cgroup_skb/egress", &[CONNECT, &["cgroup_inet_egress@"]]),
    // Only Pythons pay for it.
    ("uprobe/pickle.find_class", &[]),
    // The actor has no programs on functions: where the agent does, its opens are compared with no programs at all.
    ("fexit/open*", &[]),
    (
        "syscalls/open* (end)",
        &[&[
            "tracepoint:syscalls/sys_exit_openat",
            "tracepoint:syscalls/sys_exit_openat2",
            "tracepoint:syscalls/sys_exit_open",
            "tracepoint:syscalls/sys_exit_creat",
        ]],
    ),
    (
        "syscalls/open*",
        &[&[
            "tracepoint:syscalls/sys_exit_openat",
            "tracepoint:syscalls/sys_enter_openat",
            "tracepoint:syscalls/sys_exit_openat2",
            "tracepoint:syscalls/sys_enter_openat2",
            "tracepoint:syscalls/sys_exit_open",
            "tracepoint:syscalls/sys_enter_open",
            "tracepoint:syscalls/sys_exit_creat",
            "tracepoint:syscalls/sys_enter_creat",
        ]],
    ),
];

/// Starts the agent for as long as it takes to ask it.
pub fn of_agent(programs: &Programs, verb: &[String]) -> Result<Vec<String>> {
    // Free now, and nobody is told of it: another program may take it, and then the agent says so.
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let config = format!("http: {{listen: \"{address}\"}}\n");
    let verb: Vec<&str> = verb.iter().map(String::as_str).collect();
    let agent = Agent::start(programs, &config, &verb)?;
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    agent.stop()?;
    let cgroup = cgroup_root()?;
    let mut programs = Vec::new();
    for hook in text.lines().filter_map(attached) {
        let Some((_, groups)) = HOOKS.iter().find(|(name, _)| *name == hook) else {
            bail!("{hook} has no row in xtask/src/bench/kernel/hooks.rs");
        };
        for program in groups.iter().copied().flatten() {
            let program = program.replace('@', &format!("@{cgroup}"));
            if !programs.contains(&program) {
                programs.push(program);
            }
        }
    }
    if programs.is_empty() {
        bail!("the agent names no hooks in its metrics");
    }
    Ok(programs)
}

/// `saker_probe_attached{kind="exec",hook="raw_tp/sched_process_exec"} 1`
fn attached(line: &str) -> Option<&str> {
    let labels = line
        .strip_prefix("saker_probe_attached{")?
        .strip_suffix("} 1")?;
    let (_, hook) = labels.split_once("hook=\"")?;
    hook.split('"').next()
}

/// Where tracefs is not mounted it is, as long as this lives: empty programs and bpftrace look for tracepoints there.
pub struct Tracefs {
    is_ours: bool,
}

impl Tracefs {
    /// Mounts it, unless it is.
    pub fn mount() -> Result<Self> {
        let is_ours = !Path::new(TRACEFS).join("events").exists();
        if is_ours {
            run(command("mount").args(["-t", "tracefs", "tracefs", TRACEFS]))?;
        }
        Ok(Self { is_ours })
    }
}

impl Drop for Tracefs {
    fn drop(&mut self) {
        if self.is_ours {
            let _ = run(command("umount").arg(TRACEFS));
        }
    }
}

fn cgroup_root() -> Result<String> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    let found = mounts.lines().find_map(|line| {
        let mut columns = line.split(' ');
        let path = columns.nth(1)?;
        (columns.next()? == "cgroup2").then(|| path.to_owned())
    });
    found.context("cgroup v2 is not mounted")
}
