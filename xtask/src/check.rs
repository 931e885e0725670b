//! `cargo xtask check`: everything that needs no test, in the order in which it fails fastest.

use anyhow::Result;

use crate::{
    docs,
    process::{cargo, run},
    setup, tidy,
};

/// Runs all checks, or with `fix` writes what can be written first.
pub fn check(fix: bool) -> Result<()> {
    setup::setup(setup::Need::Build)?;
    step("format");
    let mut fmt = cargo();
    fmt.args(["fmt", "--all"]);
    if !fix {
        fmt.arg("--check");
    }
    run(&mut fmt)?;
    step("house rules");
    tidy::tidy()?;
    step("clippy");
    run(cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ]))?;
    step("references match their tables");
    docs::docs(fix)?;
    println!("check: all green");
    Ok(())
}

fn step(name: &str) {
    println!("check: {name}");
}
