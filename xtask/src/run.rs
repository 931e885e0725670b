//! `cargo xtask run`: set up, build, become the agent.

use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result};

use crate::{
    process::{build_agent, command, is_root, output},
    setup,
};

/// Replaces this process by `saker run`, so that signals and exit codes are the agent's own.
pub fn run(args: &[String]) -> Result<()> {
    setup::setup(setup::Need::Build)?;
    let agent = build_agent()?;
    let agent = agent
        .to_str()
        .context("the target directory's path is not UTF-8")?;
    let mut command = if is_root() {
        command(agent)
    } else if output(command("sudo").arg("--version")).is_ok() {
        println!("run: loading kernel programs needs root: starting the agent through sudo");
        let mut sudo = command("sudo");
        sudo.arg(agent);
        sudo
    } else {
        println!("run: not root and no sudo: the agent will say what it cannot do");
        command(agent)
    };
    Err(command.arg("run").args(args).exec()).context("cannot start the agent")
}
