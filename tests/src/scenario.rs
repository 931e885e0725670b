//! The behaviours that the shipped rules watch for, each as one harmless act. The demo shows them, a test awaits them.

use std::{
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{Cgroup, program};

/// One behaviour.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// What happens, for people.
    pub what: &'static str,
    /// The rule that must alert.
    pub rule: &'static str,
    /// Performs it. Programs it needs are copied into the folder; the returned text is in the alert of this act and of no other.
    pub act: fn(folder: &Path) -> io::Result<String>,
}

/// All behaviours, in the order of the demo.
pub static SCENARIOS: &[Scenario] = &[
    Scenario {
        what: "a GPU device node is made anew under another name and opened",
        rule: "GPU opened on the host by a program that is not ML",
        act: |folder| {
            let node = folder.join("not-a-gpu");
            let marker = node.display().to_string();
            run(Command::new(program("open_device"))
                .arg(&node)
                .args(["195", "0"]))?;
            Ok(marker)
        },
    },
    Scenario {
        what: "a container whose image nobody approved opens a GPU",
        rule: "GPU opened outside the approved images",
        act: |folder| {
            let cgroup = Cgroup::like_a_container()?;
            let mut command = Command::new(program("open_device"));
            command
                .arg(folder.join("gpu-in-container"))
                .args(["195", "1"]);
            cgroup.enter(&mut command);
            run(&mut command)?;
            Ok(cgroup.short_id().to_owned())
        },
    },
    Scenario {
        what: "curl fetches a model from a public hub",
        rule: "Model downloaded from a place that is not approved",
        act: |folder| {
            let url = format!(
                "https://huggingface.co/{}/resolve/main/model.safetensors",
                unique(folder)
            );
            run(Command::new(named(folder, "curl")?).args(["--location", &url]))?;
            Ok(url)
        },
    },
    Scenario {
        what: "Python fetches a whole model repository",
        rule: "Model downloaded from a place that is not approved",
        act: |folder| {
            let code = format!(
                "pass  # huggingface_hub.snapshot_download('{}')",
                unique(folder)
            );
            run(Command::new("python3").args(["-c", &code]))?;
            Ok(code)
        },
    },
    Scenario {
        what: "a Python one-liner loads a model with torch.load",
        rule: "Unsafe model load on a command line",
        act: |folder| {
            let code = format!("pass  # torch.load('{}')", unique(folder));
            run(Command::new("python3").args(["-c", &code]))?;
            Ok(code)
        },
    },
    Scenario {
        what: "a program of no name is started with a mining pool's address",
        rule: "Mining pool address on a command line",
        act: |folder| {
            let worker = unique(folder);
            run(Command::new(named(folder, "kworkerd")?).args([
                "-o",
                "stratum+tcp://127.0.0.1:3333",
                "-u",
                &worker,
            ]))?;
            Ok(worker)
        },
    },
    Scenario {
        what: "a well-known miner is started",
        rule: "Known miner started",
        act: |folder| {
            let worker = unique(folder);
            run(Command::new(named(folder, "xmrig")?).args(["--user", &worker]))?;
            Ok(worker)
        },
    },
];

/// A copy of the actor that does nothing, under another name.
pub fn named(folder: &Path, name: &str) -> io::Result<PathBuf> {
    let path = folder.join(name);
    // Through a process of its own: a child that another thread forks meanwhile would hold our descriptor open for writing,
    // and the kernel runs no file that somebody may write to.
    run(Command::new("cp").arg(program("nothing")).arg(&path))?;
    Ok(path)
}

/// Text that stands in this act's alert only: the folder is made for one run.
fn unique(folder: &Path) -> String {
    folder
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Runs an actor to its end; its output is of no interest, its failure is.
pub fn run(command: &mut Command) -> io::Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr)
        .trim_end()
        .to_owned();
    Err(io::Error::other(format!(
        "{} ended with {}: {message}",
        command.get_program().display(),
        output.status
    )))
}
