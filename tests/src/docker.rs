//! A real Docker daemon of the test's own, without a network: its root, state and socket are below a temporary folder.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{agent::DEADLINE, containerd, image, skip};

/// The daemon, which brings a containerd along.
#[derive(Debug)]
pub struct Docker {
    daemon: Child,
    folder: tempfile::TempDir,
}

impl Docker {
    /// Debian's dockerd, or `None` after recording a skip where it is not installed or this process is not root.
    pub fn start_or_skip() -> Option<Self> {
        if !crate::root_or_skip() {
            return None;
        }
        for program in [
            "/usr/sbin/dockerd",
            "/usr/bin/docker",
            "/usr/bin/containerd",
            "/usr/sbin/runc",
            "/bin/busybox",
        ] {
            if !Path::new(program).exists() {
                skip(&format!("{program} is not installed (cargo xtask setup)"));
                return None;
            }
        }
        let folder = tempfile::Builder::new()
            .prefix("saker-dd")
            .tempdir()
            .expect("a temporary folder");
        let at = folder.path();
        let log = std::fs::File::create(at.join("log")).expect("a log file");
        std::fs::write(at.join("daemon.json"), "{}").expect("a configuration");
        let daemon = Command::new("/usr/sbin/dockerd")
            .args(["--iptables=false", "--ip6tables=false", "--bridge=none"])
            .args(["--storage-driver=vfs", "--cgroup-parent=/saker-test-docker"])
            .arg("--config-file")
            .arg(at.join("daemon.json"))
            .arg("--data-root")
            .arg(at.join("root"))
            .arg("--exec-root")
            .arg(at.join("exec"))
            .arg("--pidfile")
            .arg(at.join("pid"))
            .arg("--host")
            .arg(format!("unix://{}", at.join("docker.sock").display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("dockerd starts");
        let docker = Self { daemon, folder };
        docker.await_ready();
        Some(docker)
    }

    /// The socket that it listens on.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    /// Loads an image of this name (`repository:tag`).
    pub fn load(&self, name: &str) {
        let archive = image::archive(self.folder.path(), name, &[]).expect("an archive");
        self.docker(&["load", "--input", archive.to_str().expect("UTF-8")]);
    }

    /// Runs the client; returns what it wrote.
    pub fn docker(&self, args: &[&str]) -> String {
        let mut command = self.client();
        command.args(args);
        let done = image::output(&mut command);
        done.unwrap_or_else(|error| panic!("{error}; the daemon's log:\n{}", self.log()))
    }

    fn client(&self) -> Command {
        let mut command = Command::new("/usr/bin/docker");
        command
            .arg("--host")
            .arg(format!("unix://{}", self.socket().display()))
            .env("DOCKER_CONFIG", self.folder.path());
        command
    }

    fn await_ready(&self) {
        let deadline = Instant::now() + DEADLINE;
        while image::output(self.client().arg("version")).is_err() {
            assert!(
                Instant::now() < deadline,
                "dockerd does not answer:\n{}",
                self.log()
            );
            thread::park_timeout(Duration::from_millis(50));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let all = image::output(self.client().args(["ps", "--all", "--quiet"])).unwrap_or_default();
        for id in all.lines() {
            let _ = image::output(self.client().args(["rm", "--force", id]));
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        containerd::clean_up(self.folder.path(), "saker-test-docker");
    }
}
