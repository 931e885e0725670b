//! House rules that a machine can check: layering, file headers, sizes, and what must never be committed.

use std::{collections::BTreeSet, fs};

use anyhow::{Context as _, Result, bail};

use crate::process::{command, output, root};

/// Who may depend on whom among our own packages: the rooms of ARCHITECTURE.md. Development dependencies count.
const MAY_DEPEND: &[(&str, &[&str])] = &[
    ("saker-ebpf", &[]),
    ("saker-rules", &["saker-tests"]),
    (
        "saker",
        &[
            "saker-ebpf",
            "saker-rules",
            "saker-tests",
            "saker-nvml-stand-in",
        ],
    ),
    ("saker-tests", &["saker-nvml-stand-in"]),
    ("saker-nvml-stand-in", &[]),
    ("saker-gpu-check", &[]),
    ("xtask", &[]),
];

/// Packages that a room must not know, and why.
const MUST_NOT_USE: &[(&str, &[&str], &str)] = &[
    (
        "saker-rules",
        &["aya", "aya-obj", "tokio", "prometheus-client"],
        "the rule engine is a library without kernel, agent or runtime",
    ),
    (
        "saker-ebpf",
        &["serde", "serde_json", "saker-rules"],
        "the wire format knows neither JSON nor rules",
    ),
    (
        "xtask",
        &["saker", "aya"],
        "setup must build on a machine that cannot build the agent yet",
    ),
];

/// In the agent, a module uses those that stand before it in the flow, never after. `daemon`, `cli` and `reference` see all.
const AGENT_FLOW: &[&[&str]] = &[
    &["bounded", "proto"],
    &["metrics"],
    &["event"],
    &["decode"],
    &["source"],
    &["mining"],
    &["context"],
    &["redact"],
    &["fields"],
    &["detect"],
    &["watch"],
    &["alert"],
    &["log"],
    &["sink"],
    &["api"],
    &["config"],
    &["pipeline"],
    &["daemon", "fuzz", "reference"],
    &["cli"],
];

/// A source file above this many lines no longer says one thing; flat tables are exempt by name.
const LINES_MAX: usize = 700;
const LONG_TABLES: &[&str] = &["rules/src/fields.rs", "rules/src/kinds.rs"];

/// Runs every house rule and reports all violations at once.
pub fn tidy() -> Result<()> {
    let mut wrong = Vec::new();
    dependencies(&mut wrong)?;
    let files = tracked_files()?;
    for file in &files {
        let Ok(text) = fs::read_to_string(root().join(file)) else {
            if !file.ends_with(".png") && root().join(file).exists() {
                wrong.push(format!(
                    "{file}: not text; binaries are built or fetched, never committed"
                ));
            }
            continue;
        };
        if !file.starts_with("rules/testdata") {
            content(file, &text, &mut wrong);
        }
        if file.ends_with(".rs") {
            source(file, &text, &mut wrong);
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    bail!(
        "{} violations of house rules:\n  {}",
        wrong.len(),
        wrong.join("\n  ")
    );
}

/// Tracked files and new ones that git does not ignore.
fn tracked_files() -> Result<Vec<String>> {
    let list =
        output(command("git").args(["ls-files", "--cached", "--others", "--exclude-standard"]))?;
    Ok(list
        .lines()
        .map(str::to_owned)
        .filter(|file| root().join(file).is_file())
        .collect())
}

fn dependencies(wrong: &mut Vec<String>) -> Result<()> {
    let metadata = cargo_metadata::MetadataCommand::new()
        .current_dir(root())
        .no_deps()
        .exec()?;
    let ours: BTreeSet<String> = metadata
        .packages
        .iter()
        .map(|package| package.name.to_string())
        .collect();
    for package in &metadata.packages {
        let name = package.name.as_str();
        let allowed = MAY_DEPEND
            .iter()
            .find(|(of, _)| *of == name)
            .with_context(|| {
                format!("package {name} has no row in the layering table of xtask/src/tidy.rs")
            })?
            .1;
        for dependency in &package.dependencies {
            if ours.contains(&dependency.name) && !allowed.contains(&dependency.name.as_str()) {
                wrong.push(format!("{name} must not depend on {}", dependency.name));
            }
            for (of, banned, why) in MUST_NOT_USE {
                if *of == name && banned.contains(&dependency.name.as_str()) {
                    wrong.push(format!("{name} must not use {}: {why}", dependency.name));
                }
            }
        }
    }
    Ok(())
}

/// Rules for every text file.
fn content(file: &str, text: &str, wrong: &mut Vec<String>) {
    // Split so that this file does not name what it forbids.
    let banned = [
        (concat!("/ro", "ot/"), "a path of one machine"),
        (concat!("/ho", "me/"), "a path of one machine"),
        (concat!("/work/", "main"), "a path of one machine"),
        (concat!("BEGIN PRIV", "ATE KEY"), "a secret"),
    ];
    for (needle, what) in banned {
        for (number, line) in text.lines().enumerate() {
            // Rules and their tests speak of such paths because processes on any node have them.
            let about_rules = file.starts_with("rules/") || file.starts_with("docs/");
            if line.contains(needle) && !(about_rules && needle.len() <= 6) {
                wrong.push(format!("{file}:{}: contains {what}", number + 1));
            }
        }
    }
    if !text.is_empty() && !text.ends_with('\n') && !file.ends_with(".expected") {
        wrong.push(format!("{file}: no newline at its end"));
    }
}

/// Rules for Rust files.
fn source(file: &str, text: &str, wrong: &mut Vec<String>) {
    if !text.starts_with("//!") && !text.starts_with("#!") {
        wrong.push(format!(
            "{file}: has no header; open with //! and the file's one job"
        ));
    }
    let lines = text.lines().count();
    if lines > LINES_MAX && !LONG_TABLES.contains(&file) {
        wrong.push(format!(
            "{file}: {lines} lines; split what no longer says one thing (at most {LINES_MAX})"
        ));
    }
    if let Some(module) = file.strip_prefix("agent/src/") {
        flow(file, module, text, wrong);
    }
}

/// One direction through the agent's stages.
fn flow(file: &str, module: &str, text: &str, wrong: &mut Vec<String>) {
    let top = module.split(['/', '.']).next().unwrap_or_default();
    let rank = |name: &str| AGENT_FLOW.iter().position(|stage| stage.contains(&name));
    let Some(own) = rank(top) else {
        if !["lib", "main"].contains(&top) {
            wrong.push(format!(
                "{file}: module {top} has no place in the flow table of xtask/src/tidy.rs"
            ));
        }
        return;
    };
    for (number, line) in text.lines().enumerate() {
        for used in modules_used(line) {
            if rank(&used).is_some_and(|stage| stage > own) {
                wrong.push(format!(
                    "{file}:{}: {top} must not use {used}, which stands after it in the flow",
                    number + 1
                ));
            }
        }
    }
}

/// The modules that a line names as `crate::x` or in a `crate::{x, y::…}` group on one line.
fn modules_used(line: &str) -> Vec<String> {
    let mut used = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        let rest = &line[at + "crate::".len()..];
        let inside = rest.strip_prefix('{').map_or(rest, |group| group);
        let parts = if inside.len() < rest.len() {
            inside.split(',').collect()
        } else {
            vec![inside]
        };
        for part in parts {
            let name: String = part
                .trim()
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                .collect();
            used.push(name);
        }
    }
    used
}
