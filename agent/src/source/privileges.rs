//! What this process may do, asked before the kernel is: a refused BPF call says only EPERM.

use std::fs;
use std::io;

use aya::util::KernelVersion;

use super::errors::SensorError;

const CAP_DAC_READ_SEARCH: u32 = 2;
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_PTRACE: u32 = 19;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Capabilities without which the agent works, and what it then does not see.
const WANTED: &[(u32, &str, &str)] = &[
    (
        CAP_SYS_PTRACE,
        "CAP_SYS_PTRACE",
        "what a process may hide from others is not seen: programs, environment and open files of those older than the agent; \
         and the files of containers, so what pickles load inside Python, and names of users and groups there",
    ),
    (
        CAP_DAC_READ_SEARCH,
        "CAP_DAC_READ_SEARCH",
        "cgroups older than the agent have no path, so events in them no container and no pod; and interpreters that only their \
         owner may read are not looked into",
    ),
];

/// Inode number of the initial pid namespace, fixed by the kernel.
const INITIAL_PID_NS: &str = "pid:[4026531836]";

/// Fails when a capability is missing without which nothing can be loaded.
pub fn check() -> Result<(), SensorError> {
    // Where /proc cannot be read the kernel's own answer has to do.
    let Some(effective) = own_capabilities() else {
        return Ok(());
    };
    match missing(effective) {
        None => Ok(()),
        Some(missing) => Err(SensorError::NotPermitted { missing }),
    }
}

/// The capabilities that this process lacks and works without, by name, each with what it costs.
pub fn costs() -> Vec<(&'static str, &'static str)> {
    own_capabilities().map(lacking).unwrap_or_default()
}

/// Those of this thread: capabilities are a thread's.
fn own_capabilities() -> Option<u64> {
    let status = fs::read_to_string("/proc/thread-self/status").ok()?;
    effective_capabilities(&status)
}

fn lacking(effective: u64) -> Vec<(&'static str, &'static str)> {
    let lacks = |capability: u32| effective & (1 << capability) == 0;
    let rows = WANTED.iter().filter(|row| lacks(row.0));
    rows.map(|(_, name, cost)| (*name, *cost)).collect()
}

/// Does this process live in the initial pid namespace, whose process ids the kernel programs report?
pub fn is_in_host_pid_namespace() -> bool {
    fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link.as_os_str() == INITIAL_PID_NS)
}

/// Lifts the limit on locked memory, which maps counted against before Linux 5.11.
pub fn raise_memlock() -> Result<(), SensorError> {
    let unlimited = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: takes a pointer to a limit.
    if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited) } == 0 {
        return Ok(());
    }
    let source = io::Error::last_os_error();
    // Newer kernels account for maps in the memory cgroup, and a sandbox may forbid raising limits.
    if KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(5, 11, 0)) {
        return Ok(());
    }
    Err(SensorError::Memlock { source })
}

/// The `CapEff` line of `/proc/PID/status`.
fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Names what is missing; `None` when it suffices.
fn missing(effective: u64) -> Option<String> {
    let has = |capability: u32| effective & (1 << capability) != 0;
    // SYS_ADMIN stands for all three, as it did before they were split from it.
    if has(CAP_SYS_ADMIN) {
        return None;
    }
    let names: Vec<&str> = [
        (CAP_BPF, "CAP_BPF"),
        (CAP_PERFMON, "CAP_PERFMON"),
        (CAP_NET_ADMIN, "CAP_NET_ADMIN"),
    ]
    .into_iter()
    .filter(|(capability, _)| !has(*capability))
    .map(|(_, name)| name)
    .collect();
    (!names.is_empty()).then(|| names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_missing_capabilities() {
        let check = |effective: u64, expected: Option<&str>| {
            assert_eq!(missing(effective).as_deref(), expected, "{effective:#x}");
        };
        check(0, Some("CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN"));
        check(1 << CAP_SYS_ADMIN, None);
        check(1 << CAP_BPF | 1 << CAP_PERFMON | 1 << CAP_NET_ADMIN, None);
        check(1 << CAP_BPF | 1 << CAP_PERFMON, Some("CAP_NET_ADMIN"));
        check(1 << CAP_BPF, Some("CAP_PERFMON, CAP_NET_ADMIN"));
    }

    #[test]
    fn names_what_is_lost_without_the_others() {
        let check = |effective: u64, expected: &[&str]| {
            let names: Vec<_> = lacking(effective).into_iter().map(|row| row.0).collect();
            assert_eq!(names, expected, "{effective:#x}");
        };
        check(u64::MAX, &[]);
        check(1 << CAP_SYS_PTRACE | 1 << CAP_DAC_READ_SEARCH, &[]);
        check(1 << CAP_SYS_PTRACE, &["CAP_DAC_READ_SEARCH"]);
        check(1 << CAP_DAC_READ_SEARCH, &["CAP_SYS_PTRACE"]);
        check(0, &["CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"]);
    }

    #[test]
    fn reads_the_effective_set() {
        let check = |status: &str, expected: Option<u64>| {
            assert_eq!(effective_capabilities(status), expected, "{status:?}");
        };
        check(
            "Name:\tx\nCapEff:\t000001ffffffffff\n",
            Some(0x1ff_ffff_ffff),
        );
        check("CapEff:\t0\n", Some(0));
        check("CapEff:\tnonsense\n", None);
        check("Name:\tx\n", None);
    }
}
