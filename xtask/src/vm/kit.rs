//! What a guest unpacks: programs of Debian's, the agent, test binaries, and the scripts that run them.

use std::{
    fs,
    io::BufReader,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail};
use cargo_metadata::Message;

use super::{
    cpio::Archive,
    userland::{PLAIN, Userland, WITH_SYSTEMD},
};
use crate::process::{cargo, run, target_dir};

/// Mounts what is needed and runs the script, without an init system.
pub const PLAIN_MAIN: &[u8] = include_bytes!("guest/plain.sh");

/// A kind of guest.
#[derive(Debug)]
pub struct Kit {
    /// Its name; of the archive too.
    pub name: &'static str,
    /// Debian's programs.
    pub userland: &'static Userland,
    /// The package whose test binaries run in it.
    package: &'static str,
    /// The test binaries.
    pub suites: &'static [&'static str],
    /// What the test binaries are given: which tests to run or to leave out.
    arguments: &'static str,
    /// What is said of that before the guest starts.
    pub left_out: &'static str,
    /// The guest's first program after `init.sh`.
    main: &'static [u8],
    /// Further files: path and content.
    files: &'static [(&'static str, &'static [u8])],
}

/// The sensor alone, on a kernel with as little around it as possible.
pub const MATRIX: Kit = Kit {
    name: "matrix",
    userland: &PLAIN,
    package: "saker",
    suites: &["kernel", "kernel_offsets"],
    arguments: "--skip ten_thousand_short_processes_are_ten_thousand_events \
                --skip an_overlays_layers_are_told_apart \
                --skip a_file_that_containers_share_is_attached_once",
    left_out: "ten_thousand_short_processes_are_ten_thousand_events \
               (ten thousand processes take minutes on an emulated processor) and \
               an_overlays_layers_are_told_apart and a_file_that_containers_share_is_attached_once \
               (overlayfs is a module, and guests have none)",
    main: PLAIN_MAIN,
    files: &[],
};

/// A node as Kubernetes has them: systemd, cgroup v2 alone, and containerd whose containers are systemd's scopes.
pub const SYSTEMD: Kit = Kit {
    name: "systemd",
    userland: &WITH_SYSTEMD,
    package: "saker-tests",
    suites: &["containers"],
    arguments: "--exact an_alert_names_container_image_and_pod",
    left_out: "the other tests of containers (this guest is for the names of systemd's cgroups)",
    main: include_bytes!("guest/systemd.sh"),
    files: &[
        (
            "etc/systemd/system/default.target",
            include_bytes!("guest/default.target"),
        ),
        (
            "etc/systemd/system/saker-tests.service",
            include_bytes!("guest/saker-tests.service"),
        ),
        // The runtime copies these into every pod.
        ("etc/hostname", b"node\n"),
        ("etc/hosts", b"127.0.0.1 localhost node\n"),
        ("etc/resolv.conf", b""),
        // Any id will do; without one systemd takes this for a first boot and sets up the machine.
        ("etc/machine-id", b"00000000000000000000000000005a4e\n"),
    ],
};

impl Kit {
    /// Builds what is ours and writes the archive.
    pub fn archive(&self, userland: &Path, path: &Path) -> Result<()> {
        let mut files = self.files.to_vec();
        files.push(("saker/arguments", self.arguments.as_bytes()));
        let contents = Contents {
            main: self.main,
            script: include_bytes!("guest/tests.sh"),
            files: &files,
            programs: &self.build()?,
        };
        contents.archive(userland, path)
    }

    /// Builds the agent and the test binaries; each with its name in the guest.
    fn build(&self) -> Result<Vec<(String, PathBuf)>> {
        run(cargo().args(["build", "--quiet", "--package", "saker", "--bin", "saker"]))?;
        let mut programs = vec![("saker/saker".to_owned(), target_dir()?.join("debug/saker"))];
        let mut build = cargo();
        build.args(["test", "--no-run", "--quiet", "--package", self.package]);
        for suite in self.suites {
            build.args(["--test", suite]);
        }
        let mut build = build
            .arg("--message-format=json-render-diagnostics")
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start cargo")?;
        let messages = BufReader::new(build.stdout.take().context("no pipe")?);
        for message in Message::parse_stream(messages) {
            if let Message::CompilerArtifact(artifact) = message?
                && let Some(binary) = artifact.executable
                && artifact.profile.test
            {
                let name = format!("saker/tests/{}", artifact.target.name);
                programs.push((name, binary.into_std_path_buf()));
            }
        }
        if !build.wait()?.success() || programs.len() != self.suites.len() + 1 {
            bail!("the tests for guests could not be built");
        }
        Ok(programs)
    }
}

/// What a guest unpacks beside Debian's programs.
#[derive(Debug)]
pub struct Contents<'a> {
    /// The guest's first program after `init.sh`.
    pub main: &'a [u8],
    /// What that runs, `/saker/tests.sh`.
    pub script: &'a [u8],
    /// Further files: path and content.
    pub files: &'a [(&'a str, &'a [u8])],
    /// Programs: path in the guest, and here.
    pub programs: &'a [(String, PathBuf)],
}

impl Contents<'_> {
    /// Writes the archive.
    pub fn archive(&self, userland: &Path, path: &Path) -> Result<()> {
        let mut archive = Archive::create(path)?;
        archive.tree(userland)?;
        // The kernel opens it for the first program before anything is mounted.
        archive.character_device(Path::new("dev/console"), 5, 1)?;
        let executable = 0o755;
        for folder in ["saker", "saker/tests"] {
            archive.folder(Path::new(folder))?;
        }
        for (name, script) in [
            ("init", &include_bytes!("guest/init.sh")[..]),
            ("saker/main", self.main),
            ("saker/tests.sh", self.script),
        ] {
            archive.file(Path::new(name), executable, script)?;
        }
        for (name, content) in self.files {
            archive.file(Path::new(name), 0o644, content)?;
        }
        for (name, program) in self.programs {
            let content =
                fs::read(program).with_context(|| format!("reading {}", program.display()))?;
            archive.file(Path::new(name), executable, &content)?;
        }
        archive.finish()?;
        Ok(())
    }
}
