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
        act: |folder| gpu_called(folder, "not-a-gpu"),
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
    Scenario {
        what: "a GPU's node has a name that no driver gives it",
        rule: "GPU opened under another name",
        act: |folder| gpu_called(folder, "innocent"),
    },
    Scenario {
        what: "a program that sends files reads a model's weights",
        rule: "Model file read by a transfer tool",
        act: |folder| {
            let weights = file(folder, "weights.safetensors")?;
            run(Command::new(copied(folder, "/bin/cat", "rclone")?).arg(&weights))?;
            Ok(weights)
        },
    },
    Scenario {
        what: "a shell writes a start-up file among Python's packages",
        rule: "Python start-up file written",
        act: |folder| write_by_shell(folder, "site-packages/start.pth"),
    },
    Scenario {
        what: "cat looks into the keys of a cloud",
        rule: "Cloud credentials read",
        act: |folder| read_by_cat(folder, ".aws/credentials"),
    },
    Scenario {
        what: "cat looks into a model hub's token",
        rule: "Token of a model hub read",
        act: |folder| read_by_cat(folder, "huggingface/token"),
    },
    Scenario {
        what: "a shell adds a key for logins",
        rule: "Key added for logins",
        act: |folder| write_by_shell(folder, ".ssh/authorized_keys"),
    },
    Scenario {
        what: "a program runs from memory",
        rule: "Program ran from memory",
        act: |folder| {
            let marker = unique(folder);
            let code = "import os, sys\n\
                fd = os.memfd_create('x')\n\
                os.write(fd, open('/bin/true', 'rb').read())\n\
                os.execv(f'/proc/self/fd/{fd}', ['true', sys.argv[1]])";
            run(Command::new("python3").args(["-c", code, &marker]))?;
            Ok(marker)
        },
    },
    Scenario {
        what: "the container toolkit is started with a library of an image's",
        rule: "Library loaded into the container toolkit",
        act: |folder| {
            let library = folder.join("library.so").display().to_string();
            run(Command::new(named(folder, "nvidia-ctk")?).env("LD_PRELOAD", &library))?;
            Ok(library)
        },
    },
    Scenario {
        what: "a shell is to connect by itself",
        rule: "Shell opens a network connection",
        act: |folder| {
            let code = format!(": {} /dev/tcp/203.0.113.5/4444", unique(folder));
            run(Command::new("sh").args(["-c", &code]))?;
            Ok(code)
        },
    },
    Scenario {
        what: "a shell reads its commands from a socket",
        rule: "Shell reads its commands from a socket",
        act: |folder| {
            let shell = copied(folder, "/bin/sh", "sh")?.display().to_string();
            // The shell has the other end itself, so it waits for commands until its time is over: the agent looks what its input is.
            let code = "import socket, subprocess, sys\n\
                ours, its = socket.socketpair()\n\
                command = ['timeout', '20', sys.argv[1]]\n\
                subprocess.Popen(command, stdin=its, stdout=its, stderr=its, pass_fds=[ours.fileno()])";
            run(Command::new("python3").args(["-c", code, &shell]))?;
            Ok(shell)
        },
    },
    Scenario {
        what: "a model server starts a shell",
        rule: "Shell started by a model server",
        act: |folder| {
            let marker = unique(folder);
            let code = format!("sh -c ': {marker}'; :");
            run(Command::new(copied(folder, "/bin/sh", "ollama")?).args(["-c", &code]))?;
            Ok(format!(": {marker}"))
        },
    },
    Scenario {
        what: "somebody ends every process that is called like the agent",
        rule: "Agent stopped or disabled",
        act: |folder| {
            let name = format!("saker-{}", unique(folder));
            run(Command::new(named(folder, "pkill")?).arg(&name))?;
            Ok(name)
        },
    },
];

/// A file of the folder, made with its own.
fn file(folder: &Path, name: &str) -> io::Result<String> {
    let path = folder.join(name);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(&path, "nothing of value")?;
    Ok(path.display().to_string())
}

fn read_by_cat(folder: &Path, name: &str) -> io::Result<String> {
    let path = file(folder, name)?;
    run(Command::new("cat").arg(&path))?;
    Ok(path)
}

fn write_by_shell(folder: &Path, name: &str) -> io::Result<String> {
    let path = file(folder, name)?;
    run(Command::new("sh").args(["-c", "echo >> \"$0\"", &path]))?;
    Ok(path)
}

/// A copy of a program under another name.
fn copied(folder: &Path, original: &str, name: &str) -> io::Result<PathBuf> {
    let path = folder.join(name);
    run(Command::new("cp")
        .args(["--dereference", original])
        .arg(&path))?;
    Ok(path)
}

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

/// Opens a GPU's node under a name of its own; the node's path.
fn gpu_called(folder: &Path, name: &str) -> io::Result<String> {
    let node = folder.join(name);
    let open = ["195", "0"];
    run(Command::new(program("open_device")).arg(&node).args(open))?;
    Ok(node.display().to_string())
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
