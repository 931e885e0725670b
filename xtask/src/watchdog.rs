//! Ends a test program that hangs, so that a run names it and goes on instead of ending as a whole by somebody's clock.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::process::line;

/// How often cargo's children are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Runs cargo's tests to the end. A test program among cargo's children, one whose file is below `programs`, gets `limit`; then it and
/// what it started are killed, and the run fails with its name.
pub fn run_tests(cargo: &mut Command, programs: &Path, limit: Duration) -> Result<()> {
    let mut child = cargo
        .spawn()
        .with_context(|| format!("cannot start {}", cargo.get_program().display()))?;
    let pid = child.id();
    let (over, is_over) = channel::<()>();
    let programs = programs.to_owned();
    let watch = thread::spawn(move || {
        let mut since: HashMap<u32, Instant> = HashMap::new();
        let mut hung = Vec::new();
        while is_over.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
            let running = children(pid);
            since.retain(|known, _| running.contains(known));
            for child in running {
                let began = *since.entry(child).or_insert_with(Instant::now);
                let Some(program) = program(child).filter(|file| file.starts_with(&programs))
                else {
                    continue;
                };
                if began.elapsed() > limit {
                    println!(
                        "test: {} has run for {} s and is killed: what it says has been running for over 60 seconds hangs",
                        program.display(),
                        limit.as_secs()
                    );
                    kill(child);
                    hung.push(program);
                    since.remove(&child);
                }
            }
        }
        hung
    });
    let status = child.wait();
    drop(over);
    let hung = watch.join().unwrap_or_default();
    let status = status.context("cannot wait for the tests")?;
    if let Some(first) = hung.first() {
        bail!("{} hung", first.display());
    }
    if !status.success() {
        bail!("{} ended with {status}", line(cargo));
    }
    Ok(())
}

/// A process's children; none where the kernel does not say (`CONFIG_PROC_CHILDREN`) or it is gone.
fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let lists = tasks
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| {
            let pids = list.split_whitespace().map(str::parse);
            pids.flatten().collect::<Vec<u32>>()
        })
        .collect()
}

fn program(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe")).ok()
}

/// Kills a process and all below it, parents first, so that none starts more.
fn kill(pid: u32) {
    if let Ok(target) = i32::try_from(pid) {
        // SAFETY: kill takes two numbers; cargo's child keeps its pid until cargo has waited for it, which it was not killed for yet.
        unsafe { libc::kill(target, libc::SIGSTOP) };
        for child in children(pid) {
            kill(child);
        }
        // SAFETY: as above; a stopped process does not end by itself.
        unsafe { libc::kill(target, libc::SIGKILL) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program of our own in a folder, run by a shell that stands for cargo.
    fn run(script: &str, limit: Duration) -> (Result<()>, tempfile::TempDir) {
        let folder = tempfile::tempdir().expect("a folder");
        fs::copy("/bin/sleep", folder.path().join("sleeper")).expect("a program");
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", script]).current_dir(folder.path());
        (run_tests(&mut shell, folder.path(), limit), folder)
    }

    #[test]
    fn what_hangs_is_killed_and_named_and_the_run_goes_on() {
        let (outcome, folder) = run(
            "./sleeper 1000 & wait $!; echo on > after",
            Duration::from_secs(2),
        );
        let error = outcome.expect_err("it hung").to_string();
        assert!(error.ends_with("sleeper hung"), "{error}");
        assert!(folder.path().join("after").exists());
    }

    #[test]
    fn other_programs_and_what_ends_by_itself_are_left_alone() {
        let (outcome, _folder) = run("./sleeper 0.1; sleep 3", Duration::from_secs(1));
        outcome.expect("nothing hung");
        let (outcome, _folder) = run("exit 3", Duration::from_secs(1));
        let error = outcome.expect_err("it failed").to_string();
        assert!(error.ends_with("exit status: 3"), "{error}");
    }
}
