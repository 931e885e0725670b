//! `cargo xtask demo`: real behaviours, real alerts, in one command.
//!
//! The scenarios themselves are in `tests/src/bin/demo.rs`: they share harness and actors with the tests.

use anyhow::Result;

use crate::{
    process::{build_agent, cargo, command, is_root, run, target_dir},
    setup,
};

/// Builds the agent, the actors and the demo, then runs it.
pub fn demo() -> Result<()> {
    setup::setup(setup::Need::Build)?;
    let agent = build_agent()?;
    run(cargo().args(["build", "--release", "--package", "saker-tests", "--bins"]))?;
    let demo = target_dir()?.join("release/demo");
    let mut command = if is_root() {
        command(&demo.to_string_lossy())
    } else {
        println!("demo: loading kernel programs needs root: going through sudo");
        let mut sudo = command("sudo");
        sudo.args(["--preserve-env=PATH"]).arg(demo);
        sudo
    };
    run(command.arg("--agent").arg(agent))
}
