//! `cargo xtask bench instructions`: how many instructions an operation takes more with the agent.
//!
//! An emulator counts them: each takes a nanosecond of the guest's time, and the guest has one processor, so that what an operation takes of its process's
//! time is how many instructions that were, the kernel's among them. No cache, no other load and no clock has a part in it, and the guest's kernel has
//! fexit and fentry where this machine's may not.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf};

use anyhow::{Context as _, Result};

use super::{
    agent::Programs,
    kernel::{CONFIG, RULES, arguments, chosen},
};
use crate::vm;

/// Options.
#[derive(clap::Args)]
pub struct Args {
    /// The guest's kernel.
    #[arg(long, default_value = "6.12")]
    kernel: String,
    /// Millions of instructions for each measurement, at least.
    #[arg(long, default_value_t = 100)]
    millions: u64,
    /// Only these operations, of those of `cargo xtask bench kernel`.
    #[arg(long, value_delimiter = ',')]
    operations: Vec<String>,
}

/// Runs it.
pub fn bench(args: &Args) -> Result<()> {
    let operations = chosen(&args.operations)?;
    let programs = Programs::build()?;
    let actor = |name: &str| (format!("saker/{name}"), programs.actors.join(name));
    let inside: [(String, PathBuf); 3] = [
        ("saker/saker".into(), programs.saker.clone()),
        actor("measure"),
        actor("nothing"),
    ];
    let rules: Vec<(String, &str)> = RULES
        .iter()
        .enumerate()
        .filter_map(|(at, rules)| Some((format!("saker/rules-{at}.yaml"), rules.text?)))
        .collect();
    let mut files: Vec<(&str, &[u8])> = rules
        .iter()
        .map(|(path, text)| (path.as_str(), text.as_bytes()))
        .collect();
    files.push(("saker/config.yaml", CONFIG.as_bytes()));
    let names: Vec<&str> = operations.iter().map(|(name, _)| *name).collect();
    let script = script(&names, args.millions)?;
    let said = vm::count(&args.kernel, script.as_bytes(), &files, &inside)?;
    let (kernel, hooks, counts) = parse(&said);
    println!("Linux {kernel}, emulated, an instruction a nanosecond");
    for hook in hooks {
        println!("  {hook}");
    }
    for (name, what) in operations {
        let of = |at: usize| counts.get(&(at, name)).copied();
        let alone = of(0).with_context(|| format!("the guest says nothing of {name}: {said}"))?;
        println!("\n{what}: {alone:.0} instructions; more with");
        for (at, rules) in RULES.iter().enumerate() {
            let with = of(at + 1).with_context(|| format!("no {name} with {}", rules.name))?;
            let more = with - alone;
            let percent = more / alone * 100.0;
            println!("  {:<40} {more:>+9.0} ({percent:>+6.2} %)", rules.name);
        }
    }
    Ok(())
}

/// What the guest runs: every operation alone, then beside the agent with each set of rules.
fn script(operations: &[&str], millions: u64) -> Result<String> {
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
    for (at, rules) in RULES.iter().enumerate() {
        let which = match rules.text {
            Some(_) => format!("--rules /saker/rules-{at}.yaml"),
            None => String::new(),
        };
        // A minute after it has started the agent gives memory back; what that takes is no part of what operations take.
        write!(
            script,
            "/saker/saker run --config /saker/config.yaml {which} >/dev/null 2>/tmp/log &
until busybox grep -q watching /tmp/log; do busybox sleep 1; done
busybox sleep 90
all {}
kill $!
wait $!
",
            at + 1
        )?;
    }
    Ok(script)
}

/// The kernel's release, what the doctor says, and instructions by the place of the rules, from 1 (0 is without the agent), and by operation.
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
    fn the_script_measures_every_operation_with_every_set_of_rules() {
        let names: Vec<&str> = OPERATIONS.iter().map(|(name, _)| *name).collect();
        let script = script(&names, 7).expect("it is text");
        for name in names {
            assert!(script.contains(&format!("@count $1 {name} $(")), "{name}");
        }
        assert!(script.contains("/saker/measure exec 7 /saker/nothing)"));
        assert_eq!(script.matches("/saker/saker run").count(), RULES.len());
        assert_eq!(script.matches("\nall ").count(), RULES.len() + 1);
    }
}
