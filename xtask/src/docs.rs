//! The references under `docs/reference/`: generated from the agent's and the rules' own tables, never written by hand.

use std::fs;

use anyhow::{Result, bail};

use crate::process::{cargo, output, root, run, target_dir};

/// Each reference: its file, seen from `docs/reference`, and what `saker reference` calls it.
const REFERENCES: &[(&str, &str)] = &[
    ("command-line.md", "command-line"),
    ("configuration.md", "configuration"),
    ("fields.md", "fields"),
    ("../metrics.md", "metrics"),
    ("event-kinds.md", "event-kinds"),
    ("diagnostics.md", "diagnostics"),
    ("rules.md", "rules"),
];

/// Compares each reference with its table, or with `write` brings it up to date.
pub fn docs(write: bool) -> Result<()> {
    run(cargo().args(["build", "--quiet", "--package", "saker"]))?;
    let agent = target_dir()?.join("debug/saker");
    let folder = root().join("docs/reference");
    let mut stale = Vec::new();
    for (file, name) in REFERENCES {
        let wanted =
            output(crate::process::command(&agent.to_string_lossy()).args(["reference", name]))?
                + "\n";
        let path = folder.join(file);
        if fs::read_to_string(&path).is_ok_and(|found| found == wanted) {
            continue;
        }
        if write {
            fs::create_dir_all(&folder)?;
            fs::write(&path, wanted)?;
            println!("docs: wrote docs/reference/{file}");
        } else {
            stale.push(*file);
        }
    }
    if !stale.is_empty() {
        bail!(
            "docs/reference/{{{}}} differ from their tables: run `cargo xtask check --fix`",
            stale.join(",")
        );
    }
    Ok(())
}
