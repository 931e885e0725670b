//! A guest: one kernel, one archive as its file system, no disk and no network, a hard time limit.
//!
//! It is emulated: virtual machines inside virtual machines do not work everywhere that these tests must. The first serial
//! port is the kernel's console, the second carries what the guest reports; both are files here.

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::apt::{Apt, Debian};
use crate::process::{command, is_root, output};

const PROGRAM: &str = "qemu-system-x86_64";

/// The first release known to run every kernel of the matrix: 7.2 crashes under Linux 6.12.
const MAJOR_MIN: u32 = 10;

/// How much memory a guest gets, for its file system and its programs together.
const MEMORY_MIB: u32 = 2048;

/// How often a running guest is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Makes sure that QEMU is here, installed from this machine's release or its backports; the error says why not.
pub fn ensure(debian: &Debian, cache: &Path) -> Result<()> {
    let found = output(command(PROGRAM).arg("--version"))
        .ok()
        .and_then(|text| major(&text));
    if found.is_some_and(|major| major >= MAJOR_MIN) {
        return Ok(());
    }
    if !is_root() {
        bail!("QEMU {MAJOR_MIN} or newer is not installed, and only root can install it");
    }
    let backports = format!("{}-backports", debian.codename);
    println!("vm: installing qemu-system-x86 from {backports}");
    let apt = Apt::update(
        debian,
        &[&debian.codename, &backports],
        &cache.join("qemu-apt"),
    )?;
    apt.install_here("qemu-system-x86", &backports)
        .context("QEMU cannot be installed")?;
    fs::remove_dir_all(cache.join("qemu-apt"))?;
    let version = output(command(PROGRAM).arg("--version"))?;
    if major(&version).is_none_or(|major| major < MAJOR_MIN) {
        bail!("{backports} has no QEMU {MAJOR_MIN} or newer");
    }
    Ok(())
}

/// The first number of a release, from what `--version` writes.
fn major(version: &str) -> Option<u32> {
    let release = version.strip_prefix("QEMU emulator version ")?;
    release.split('.').next()?.parse().ok()
}

/// What to boot, and where its two serial ports are written.
#[derive(Debug)]
pub struct Guest<'a> {
    /// The kernel's image.
    pub kernel: &'a Path,
    /// The archive.
    pub archive: &'a Path,
    /// Receives the console.
    pub console: &'a Path,
    /// Receives what the guest reports.
    pub report: &'a Path,
    /// After this the guest is killed.
    pub limit: Duration,
    /// One processor, whose every instruction takes a nanosecond of the guest's time.
    pub is_counted: bool,
}

impl Guest<'_> {
    /// Runs the guest until it powers itself off, and says how long that took. An error when it had to be stopped.
    pub fn run(&self) -> Result<Duration> {
        let started = Instant::now();
        File::create(self.report)?;
        let mut qemu = Command::new(PROGRAM)
            .args([
                "-nodefaults",
                "-no-reboot",
                "-display",
                "none",
                "-accel",
                "tcg",
            ])
            .args(["-m", &MEMORY_MIB.to_string()])
            .args(if self.is_counted {
                // While all sleep, its clock goes on to whatever comes next. With two processors one's time would be the other's, too.
                ["-smp", "1", "-icount", "shift=0,sleep=off"].as_slice()
            } else {
                ["-smp", "2"].as_slice()
            })
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.archive)
            // Without `bpf` in this list no LSM program can be attached.
            .args([
                "-append",
                "console=ttyS0 panic=-1 lsm=landlock,lockdown,yama,bpf",
            ])
            .arg("-serial")
            .arg(format!("file:{}", self.console.display()))
            .arg("-serial")
            .arg(format!("file:{}", self.report.display()))
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {PROGRAM}"))?;
        loop {
            if let Some(status) = qemu.try_wait()? {
                if status.success() {
                    return Ok(started.elapsed());
                }
                bail!("{PROGRAM} ended with {status}");
            }
            if started.elapsed() > self.limit {
                qemu.kill()?;
                qemu.wait()?;
                bail!(
                    "did not end within {} s and was stopped",
                    self.limit.as_secs()
                );
            }
            sleep(LOOK_EVERY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_read_from_the_version_line() {
        let check = |text: &str, expected| assert_eq!(major(text), expected, "{text}");
        check("QEMU emulator version 10.0.2 (Debian 1:10.0.2)", Some(10));
        check("QEMU emulator version 7.2.11", Some(7));
        check("qemu: not found", None);
        check("", None);
    }
}
