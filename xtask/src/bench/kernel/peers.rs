//! bpftrace and auditd on the same system calls: installed when they are missing, named when they cannot be.

use std::{
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::setup;

const CALLS: &[&str] = &["open", "openat", "openat2", "creat", "connect", "execve"];

/// Can bpftrace attach here?
pub fn bpftrace_is_there() -> bool {
    let there = setup::bench_package("bpftrace");
    let works = there
        && Command::new("bpftrace")
            .args([
                "-e",
                "tracepoint:syscalls:sys_enter_openat { exit(); } interval:s:1 { exit(); }",
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
    if !works {
        println!("SKIP bpftrace: it is not to be had, or does not attach here");
    }
    works
}

/// It counts the calls, and says every so often that it does: its first word of all comes before it is attached.
pub fn bpftrace() -> Command {
    let probes: Vec<_> = CALLS
        .iter()
        .map(|call| format!("tracepoint:syscalls:sys_enter_{call}"))
        .collect();
    let program = format!(
        "{} {{ @[probe] = count(); }} interval:s:1 {{ printf(\"ready\\n\"); }}",
        probes.join(",")
    );
    let mut command = Command::new("bpftrace");
    command.args(["-B", "none", "-e", &program]);
    command.stderr(Stdio::null());
    command
}

/// Can audit rules be set here?
pub fn auditd_works() -> bool {
    let works = setup::bench_package("auditd") && is_unused();
    if !works {
        println!(
            "SKIP auditd: it is not to be had, or the kernel's audit is not ours to configure"
        );
    }
    works
}

/// Audit that somebody uses is not ours to take from him.
fn is_unused() -> bool {
    let output = Command::new("/sbin/auditctl").arg("-s").output();
    output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("enabled 0"))
}

fn auditctl(args: &[&str]) -> Result<()> {
    let output = Command::new("/sbin/auditctl").args(args).output()?;
    if !output.status.success() {
        bail!(
            "auditctl {}: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// While it lives, tasks that start get no audit context, without which a system call goes the short way.
pub struct NoAuditContext(());

impl NoAuditContext {
    /// Where audit is not there at all, nothing needs to be done.
    pub fn new() -> Self {
        let _ = auditctl(&["-D"]);
        let _ = auditctl(&["-a", "task,never"]);
        Self(())
    }
}

impl Drop for NoAuditContext {
    fn drop(&mut self) {
        let _ = auditctl(&["-D"]);
    }
}

/// A running auditd with rules for the calls. The kernel's audit was not in use before it.
pub struct Auditd(Child);

impl Auditd {
    /// Starts it, in the foreground, and waits until it is the kernel's listener.
    pub fn start() -> Result<Self> {
        auditctl(&["-D"])?;
        let child = Command::new("/sbin/auditd")
            .arg("-n")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let auditd = Self(child);
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is_listening(auditd.0.id())? {
            if Instant::now() > deadline {
                auditd.stop();
                bail!("auditd does not listen");
            }
            thread::sleep(Duration::from_millis(50));
        }
        auditctl(&["-e", "1"])?;
        let mut rule = vec!["-a", "always,exit", "-F", "arch=b64"];
        for call in CALLS {
            rule.extend(["-S", *call]);
        }
        auditctl(&rule)?;
        Ok(auditd)
    }

    /// Ends it, and its rules.
    pub fn stop(mut self) {
        let _ = auditctl(&["-D"]);
        let _ = auditctl(&["-a", "task,never"]);
        if let Ok(pid) = i32::try_from(self.0.id()) {
            // SAFETY: kill takes two numbers; the child was not waited for, so the pid is its own.
            unsafe { libc::kill(pid, libc::SIGTERM) };
        }
        let _ = self.0.wait();
        let _ = auditctl(&["-e", "0"]);
    }
}

/// `auditctl -s` names the listener's pid.
fn is_listening(pid: u32) -> Result<bool> {
    let output = Command::new("/sbin/auditctl").arg("-s").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().any(|line| line == format!("pid {pid}")))
}
