//! `cargo xtask bench instructions`: how many instructions an operation takes more with the agent.
//!
//! An emulator counts them: each takes a nanosecond of the guest's time, and the guest has one processor, so that what an operation takes of its process's
//! time is how many instructions that were, the kernel's among them. No cache, no other load and no clock has a part in it, and the guest's kernel has
//! fexit and fentry where this machine's may not.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};

use super::{
    agent::Programs,
    kernel::{CONFIG, RULES, Rules, arguments, chosen},
};
use crate::{process::is_root, vm};

/// Options.
#[derive(clap::Args)]
pub struct Args {
    /// The guest's kernel.
    #[arg(long, default_value = "6.12")]
    kernel: String,
    /// Millions of instructions for each measurement, at least.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    millions: u64,
    /// Only these operations, of those of `cargo xtask bench kernel`.
    #[arg(long, value_delimiter = ',')]
    operations: Vec<String>,
}

/// Runs it.
pub fn bench(args: &Args) -> Result<()> {
    let operations = chosen(&args.operations)?;
    let programs = Programs::build()?;
    let setups = setups(&programs)?;
    let actor = |name: &str| (format!("saker/{name}"), programs.actors.join(name));
    let inside: [(String, PathBuf); 4] = [
        ("saker/saker".into(), programs.saker.clone()),
        actor("measure"),
        actor("nothing"),
        actor("empty_programs"),
    ];
    let rules: Vec<(String, &str)> = RULES
        .iter()
        .enumerate()
        .filter_map(|(at, rules)| Some((path_of_rules(at), rules.text?)))
        .collect();
    let mut files: Vec<(&str, &[u8])> = rules
        .iter()
        .map(|(path, text)| (path.as_str(), text.as_bytes()))
        .collect();
    files.push(("saker/config.yaml", CONFIG.as_bytes()));
    let names: Vec<&str> = operations.iter().map(|(name, _)| *name).collect();
    let script = script(&names, &setups, args.millions)?;
    let contents = vm::Contents {
        main: vm::PLAIN_MAIN,
        script: script.as_bytes(),
        files: &files,
        programs: &inside,
    };
    // Ten millions a second is a slow machine; starting the agent with each set of rules comes on top.
    let measurements = (setups.len() + 1) * operations.len();
    let limit = Duration::from_secs(1200 + args.millions * measurements as u64 / 10);
    let said = vm::count(&args.kernel, &contents, limit)?;
    let (kernel, hooks, counts) = parse(&said);
    println!("Linux {kernel}, emulated, an instruction a nanosecond");
    for hook in hooks {
        println!("  {hook}");
    }
    for (name, what) in operations {
        let of = |at: usize| {
            let count = counts.get(&(at, name)).copied();
            count.with_context(|| format!("the guest says nothing of {name}, set-up {at}:\n{said}"))
        };
        let alone = of(0)?;
        println!("\n{what}: {alone:.0} instructions; more with");
        for (at, setup) in setups.iter().enumerate() {
            let more = of(at + 1)? - alone;
            let percent = more / alone * 100.0;
            println!("  {:<68} {more:>+7.0} ({percent:>+6.2} %)", setup.name);
        }
    }
    Ok(())
}

fn path_of_rules(at: usize) -> String {
    format!("saker/rules-{at}.yaml")
}

/// What is attached in the guest, and how.
struct Setup {
    name: String,
    /// Command lines: they return once it is attached.
    start: String,
    /// Command lines.
    stop: &'static str,
}

/// The agent with each set of rules, and in front of it, where that can be found out, programs of two instructions on the hooks that it uses.
fn setups(programs: &Programs) -> Result<Vec<Setup>> {
    let with_floors = is_root();
    if !with_floors {
        println!(
            "bench: only root can ask the agent for its hooks; without empty programs on them"
        );
    }
    let mut setups = Vec::new();
    for (at, rules) in RULES.iter().enumerate() {
        if with_floors {
            let (_, hooks) = rules.hooks(programs, at)?;
            setups.push(floor(rules.name, &hooks));
        }
        setups.push(agent(rules, at));
    }
    Ok(setups)
}

fn floor(rules: &str, hooks: &[String]) -> Setup {
    // The hooks that the agent uses on this machine. The guest has functions where it may have tracepoints of system calls, and on functions there are no
    // empty programs.
    let hooks = hooks
        .iter()
        .filter(|hook| !hook.starts_with("tracepoint:syscalls/"));
    let hooks: Vec<String> = hooks.map(|hook| in_guest(hook)).collect();
    Setup {
        name: format!("empty programs but for opens, {rules}"),
        start: format!(
            "busybox mkfifo /tmp/end
exec 3<>/tmp/end
/saker/empty_programs {} </tmp/end >/tmp/floor 2>&1 3>&- &
{}",
            hooks.join(" "),
            until("attached", "/tmp/floor"),
        ),
        stop: "exec 3>&-\nwait\nbusybox rm /tmp/end /tmp/floor\n",
    }
}

/// The guest's cgroups are all in one place.
fn in_guest(hook: &str) -> String {
    match hook.split_once('@') {
        Some((hook, _)) => format!("{hook}@/sys/fs/cgroup"),
        None => hook.to_owned(),
    }
}

/// Waits for a word in the log of the program that was just started. Should that end without it, so does the guest, with what it said.
fn until(word: &str, log: &str) -> String {
    format!(
        "until busybox grep -q {word} {log}; do
    kill -0 $! 2>/dev/null || {{ busybox cat {log}; exit 1; }}
    busybox sleep 1
done
"
    )
}

fn agent(rules: &Rules, at: usize) -> Setup {
    let which = match rules.text {
        Some(_) => format!("--rules /{}", path_of_rules(at)),
        None => String::new(),
    };
    // A minute after it has started the agent gives memory back; what that takes is no part of what operations take.
    Setup {
        name: format!("Saker, {}", rules.name),
        start: format!(
            "/saker/saker run --config /saker/config.yaml {which} >/dev/null 2>/tmp/log &
{}busybox sleep 90
",
            until("watching", "/tmp/log"),
        ),
        stop: "kill $!\nwait\nbusybox rm /tmp/log\n",
    }
}

/// What the guest runs: every operation alone, then beside each of what can be attached.
fn script(operations: &[&str], setups: &[Setup], millions: u64) -> Result<String> {
    let mut script = String::from(
        "#!/bin/busybox sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin HOME=/root
busybox stty -F /dev/ttyS1 -opost
echo \"@kernel $(busybox uname -r)\"
busybox mount -t tracefs none /sys/kernel/tracing
/saker/saker doctor
all() {
",
    );
    for operation in operations {
        let arguments = arguments(operation, millions, "/saker/nothing").join(" ");
        writeln!(
            script,
            "    echo \"@count $1 {operation} $(/saker/measure {arguments})\""
        )?;
    }
    script.push_str("}\nall 0\n");
    for (at, setup) in setups.iter().enumerate() {
        let Setup { start, stop, .. } = setup;
        write!(script, "{start}all {}\n{stop}", at + 1)?;
    }
    Ok(script)
}

/// The kernel's release, what the doctor says, and instructions by the place of the set-up, from 1 (0 is with nothing attached), and by operation.
fn parse(said: &str) -> (&str, Vec<&str>, BTreeMap<(usize, &str), f64>) {
    let (mut kernel, mut hooks, mut counts) = ("", Vec::new(), BTreeMap::new());
    for line in said.lines() {
        if let Some(release) = line.strip_prefix("@kernel ") {
            kernel = release;
        } else if let Some(count) = line.strip_prefix("@count ") {
            let mut words = count.split(' ');
            let mut next = || words.next().unwrap_or_default();
            if let (Ok(at), operation, Ok(count)) = (next().parse(), next(), next().parse()) {
                counts.insert((at, operation), count);
            }
        } else if counts.is_empty() {
            hooks.push(line);
        }
    }
    (kernel, hooks, counts)
}

#[cfg(test)]
mod tests {
    use super::super::kernel::OPERATIONS;
    use super::*;

    #[test]
    fn what_the_guest_says_is_told_apart() {
        let said = "@kernel 6.12.1\nopen fexit/open*\n@count 0 open 900.5\n@count 2 open 1000\n@count x open 1\nlater\n";
        let (kernel, hooks, counts) = parse(said);
        assert_eq!((kernel, hooks), ("6.12.1", vec!["open fexit/open*"]));
        let expected = [((0, "open"), 900.5), ((2, "open"), 1000.0)];
        assert_eq!(counts, BTreeMap::from(expected));
    }

    #[test]
    fn the_script_measures_every_operation_with_everything_attached() {
        let names: Vec<&str> = OPERATIONS.iter().map(|(name, _)| *name).collect();
        let hooks = [
            "tracepoint:syscalls/sys_exit_open".to_owned(),
            "raw_tracepoint:sched_process_exec".to_owned(),
            "cgroup_device@/sys/fs/cgroup/unified".to_owned(),
        ];
        let setups = [floor("some rules", &hooks), agent(&RULES[1], 1)];
        let script = script(&names, &setups, 7).expect("it is text");
        for name in names {
            assert!(script.contains(&format!("@count $1 {name} $(")), "{name}");
        }
        assert!(script.contains("/saker/measure exec 7 /saker/nothing)"));
        assert!(script.contains(
            "empty_programs raw_tracepoint:sched_process_exec cgroup_device@/sys/fs/cgroup <"
        ));
        assert!(script.contains("--rules /saker/rules-1.yaml"));
        assert!(script.contains("\nall 0\n") && script.contains("\nall 2\n"));
    }
}
