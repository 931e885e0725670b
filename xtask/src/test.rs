//! `cargo xtask test`: set up, check, build, run every test, and say what was skipped and why.
//!
//! A test that lacks something (root, a service, `../shared`) calls `saker_tests::skip`, which writes a line to the file
//! named by SAKER_SKIPS. After the run the lines are printed; in CI every one must be on `.ci/allowed-skips`.

use std::{collections::BTreeSet, env, fs, time::Duration};

use anyhow::{Context as _, Result, bail};

use crate::{
    check,
    process::{cargo, is_root, root, run, target_dir},
    setup, vm, watchdog,
};

/// What one test program may take; the longest takes a tenth of it on two cores.
const PROGRAM_LIMIT: Duration = Duration::from_secs(20 * 60);

/// Runs everything, or with a filter only the tests whose name contains it.
pub fn test(filter: Option<&str>) -> Result<()> {
    setup::setup(setup::Need::Tests)?;
    if filter.is_none() {
        check::check(false)?;
    }
    if !is_root() {
        println!(
            "test: not root: every test that loads kernel programs or makes cgroups will skip itself"
        );
    }
    let target = target_dir()?;
    let skips = target.join("skips");
    let needing_root = target.join("needing-root");
    fs::create_dir_all(&target)?;
    fs::write(&skips, "")?;
    fs::write(&needing_root, "")?;

    // The end-to-end tests start the agent and the actors as programs.
    run(cargo().args(["build", "--workspace", "--bins"]))?;
    let mut tests = cargo();
    // Every failure in one run.
    tests
        .args(["test", "--workspace", "--no-fail-fast"])
        .args(filter);
    tests
        // A failed test's own words are the last that it prints.
        .env("RUST_BACKTRACE", "0")
        .env("SAKER_SKIPS", &skips)
        .env("SAKER_NEEDS_ROOT", &needing_root)
        .env("SAKER_BIN_DIR", target.join("debug"))
        .env("SAKER_PYTHON_LIBRARIES", setup::python_folder()?);
    match vm::newer_containerd() {
        Ok(folder) => {
            tests.env("SAKER_NEWER_CONTAINERD", folder);
        }
        Err(why) => {
            println!("test: no newer containerd ({why:#}): the test of its events skips itself");
        }
    }
    let outcome = watchdog::run_tests(&mut tests, &target.join("debug/deps"), PROGRAM_LIMIT);
    // The whole matrix or nothing: a filter is for the tests of one machine.
    let matrix = match filter {
        None => vm::as_test(&skips),
        Some(_) => Ok(()),
    };

    let rooted = fs::read_to_string(&needing_root).unwrap_or_default();
    let rooted: BTreeSet<_> = rooted.lines().collect();
    if !rooted.is_empty() {
        println!(
            "test: {} tests ran that would be skipped without root:",
            rooted.len()
        );
        for name in rooted {
            println!("  {name}");
        }
    }

    let skipped = fs::read_to_string(&skips).context("the list of skipped tests vanished")?;
    report_skips(&skipped)?;
    outcome.and(matrix)
}

/// Prints what was skipped; in CI a skip that is not allowed is an error.
fn report_skips(skipped: &str) -> Result<()> {
    let mut lines: Vec<_> = skipped.lines().collect();
    lines.sort_unstable();
    lines.dedup();
    println!("test: {} skipped", lines.len());
    for line in &lines {
        println!("  SKIP {line}");
    }
    if env::var_os("CI").is_none() {
        return Ok(());
    }
    let allowed = fs::read_to_string(root().join(".ci/allowed-skips"))
        .context("cannot read .ci/allowed-skips")?;
    let allowed: Vec<_> = allowed
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .collect();
    let unexpected: Vec<_> = lines
        .iter()
        .filter(|line| {
            !allowed
                .iter()
                .any(|name| line.starts_with(&format!("{name}:")))
        })
        .collect();
    if !unexpected.is_empty() {
        bail!(
            "{} tests were skipped that .ci/allowed-skips does not list",
            unexpected.len()
        );
    }
    Ok(())
}
