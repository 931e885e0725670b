//! What this process may do: asked before the kernel is, which says only EPERM of a refused BPF call; and given up once everything is
//! loaded, but for the rows of [`NEEDED`].
//!
//! Capabilities, the bounding set and `no_new_privs` are a thread's, and a thread starts with its maker's. So they are given up by the first
//! thread, before it makes any other.

use std::fmt::{self, Display, Formatter};
use std::fs;
use std::io;

use aya::util::KernelVersion;
use rustix::thread::{self, CapabilitySet, CapabilitySets};

use super::errors::SensorError;

/// A capability that is needed for as long as the agent runs.
#[derive(Debug)]
pub struct Needed {
    capability: CapabilitySet,
    /// As `capabilities(7)` has it.
    pub name: &'static str,
    /// What it is needed for once everything is loaded.
    pub purpose: &'static str,
    when: When,
}

/// Whether it is needed here.
#[derive(Debug)]
enum When {
    /// Nothing can be loaded without.
    Required,
    /// The agent works without, and then does not see this.
    Wanted(&'static str),
    /// Where the configuration names a port below 1024.
    LowPorts,
}

/// All that the agent keeps.
pub const NEEDED: [Needed; 7] = [
    Needed {
        capability: CapabilitySet::BPF,
        name: "CAP_BPF",
        purpose: "maps, which change with rules and containers; programs that new rules want",
        when: When::Required,
    },
    Needed {
        capability: CapabilitySet::PERFMON,
        name: "CAP_PERFMON",
        purpose: "probes in Python interpreters, each when it first runs; tracepoints, and programs that read the kernel's memory, when new rules want them",
        when: When::Required,
    },
    Needed {
        capability: CapabilitySet::NET_ADMIN,
        name: "CAP_NET_ADMIN",
        purpose: "programs at cgroups (connections, datagrams, DNS, TLS, devices), when new rules or a GPU's driver want them",
        when: When::Required,
    },
    Needed {
        capability: CapabilitySet::SYS_PTRACE,
        name: "CAP_SYS_PTRACE",
        purpose: "`/proc/PID/exe`, `environ` and `root` of processes of other users",
        when: When::Wanted(
            "what a process may hide from others is not seen: programs, environment and open files of those older than the agent; \
             and the files of containers, so what pickles load inside Python, and names of users and groups there",
        ),
    },
    Needed {
        capability: CapabilitySet::DAC_READ_SEARCH,
        name: "CAP_DAC_READ_SEARCH",
        purpose: "the path of a cgroup by its id; files that only their owner may read",
        when: When::Wanted(
            "cgroups older than the agent have no path, so events in them no container and no pod; and interpreters that only their \
             owner may read are not looked into",
        ),
    },
    Needed {
        capability: CapabilitySet::SYS_ADMIN,
        name: "CAP_SYS_ADMIN",
        purpose: "the same probes, where the kernel asks for it, as most do since July 2025; a mount of the agent's own for each watched interpreter, so that others can be unmounted",
        when: When::Wanted(
            "what pickles load inside Python is not seen, unless the kernel still attaches probes to programs for less; \
             `saker_python_failures_total` counts what could not be watched",
        ),
    },
    Needed {
        capability: CapabilitySet::NET_BIND_SERVICE,
        name: "CAP_NET_BIND_SERVICE",
        purpose: "only where `http.listen` or `grpc.tcp.listen` names a port below 1024",
        when: When::LowPorts,
    },
];

/// What decides about some of the rows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Circumstances {
    /// Ports below 1024 are listened on.
    pub has_low_ports: bool,
}

impl Circumstances {
    /// Of an agent that listens on these ports.
    pub fn of(ports: impl IntoIterator<Item = u16>) -> Self {
        Self {
            // The kernel picks another one for 0.
            has_low_ports: ports.into_iter().any(|port| (1..1024).contains(&port)),
        }
    }
}

/// What became of the capabilities.
#[derive(Debug, PartialEq, Eq)]
pub struct Reduced {
    /// Those that are left.
    pub kept: Vec<&'static str>,
    /// How many were given up.
    pub given_up: u32,
}

impl Display for Reduced {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "kept once loaded: {}", self.kept.join(" "))?;
        match self.given_up {
            0 => write!(f, "; there were no others"),
            1 => write!(f, "; given up: one other"),
            others => write!(f, "; given up: {others} others"),
        }
    }
}

/// Gives up, for this thread and all that it will make, whatever is not needed any more; for ever: `no_new_privs` keeps a program that is started
/// from having it again. Nothing else may run in this process.
pub fn give_up(circumstances: Circumstances) -> io::Result<Reduced> {
    let before = thread::capabilities(None)?;
    let kept = kept_of(before.permitted, circumstances);
    thread::set_no_new_privs(true)?;
    // Kernels before 4.3 have no ambient set; those that the agent works on do.
    thread::clear_ambient_capability_set()?;
    if before.effective.contains(CapabilitySet::SETPCAP) {
        for capability in known().filter(|capability| !kept.contains(*capability)) {
            // An error: the kernel does not have it.
            if thread::capability_is_in_bounding_set(capability).unwrap_or(false) {
                thread::remove_capability_from_bounding_set(capability)?;
            }
        }
    }
    thread::set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        },
    )?;
    Ok(reduced(before.permitted, kept))
}

/// What [`give_up`] would do.
pub fn outlook(circumstances: Circumstances) -> io::Result<Reduced> {
    let before = thread::capabilities(None)?.permitted;
    Ok(reduced(before, kept_of(before, circumstances)))
}

/// Every capability that there may be; the kernel's sets have 64 bits.
fn known() -> impl Iterator<Item = CapabilitySet> {
    (0..u64::BITS).map(|bit| CapabilitySet::from_bits_retain(1 << bit))
}

fn kept_of(given: CapabilitySet, circumstances: Circumstances) -> CapabilitySet {
    let rows = NEEDED.iter().filter(|row| match row.when {
        When::Required | When::Wanted(_) => true,
        When::LowPorts => circumstances.has_low_ports,
    });
    rows.fold(CapabilitySet::empty(), |kept, row| kept | row.capability) & given
}

fn reduced(before: CapabilitySet, kept: CapabilitySet) -> Reduced {
    let rows = NEEDED.iter().filter(|row| kept.contains(row.capability));
    Reduced {
        kept: rows.map(|row| row.name).collect(),
        given_up: (before - kept).bits().count_ones(),
    }
}

/// Inode number of the initial pid namespace, fixed by the kernel.
const INITIAL_PID_NS: &str = "pid:[4026531836]";

/// Fails when a capability is missing without which nothing can be loaded.
pub fn check() -> Result<(), SensorError> {
    // Where the kernel does not say, its own answer has to do.
    let Ok(own) = thread::capabilities(None) else {
        return Ok(());
    };
    // SYS_ADMIN stands for all three, as it did before they were split from it.
    match missing(own.effective) {
        Some(missing) if !own.effective.contains(CapabilitySet::SYS_ADMIN) => {
            Err(SensorError::NotPermitted { missing })
        }
        _ => Ok(()),
    }
}

/// The capabilities that this thread lacks and the agent works without, by name, each with what it costs.
pub fn costs() -> Vec<(&'static str, &'static str)> {
    thread::capabilities(None).map_or_else(|_| Vec::new(), |own| lacking(own.effective))
}

fn lacking(effective: CapabilitySet) -> Vec<(&'static str, &'static str)> {
    let rows = NEEDED
        .iter()
        .filter(|row| !effective.contains(row.capability));
    rows.filter_map(|row| match row.when {
        When::Wanted(cost) => Some((row.name, cost)),
        When::Required | When::LowPorts => None,
    })
    .collect()
}

/// What keeps this process from looking at others though it holds the capability, and what that costs: AppArmor or SELinux has the last word. `None` where it
/// may look, and where that cannot be tried.
pub fn overruled() -> Option<(String, &'static str)> {
    let holds = thread::capabilities(None)
        .is_ok_and(|own| own.effective.contains(CapabilitySet::SYS_PTRACE));
    // In another namespace process 1 is one of ours.
    if !holds || !is_in_host_pid_namespace() || !is_refused(&fs::read_link("/proc/1/exe")) {
        return None;
    }
    let (_, cost) = lacking(CapabilitySet::all() - CapabilitySet::SYS_PTRACE).pop()?;
    let label = fs::read("/proc/self/attr/current").unwrap_or_default();
    Some((label_of(&label), cost))
}

fn is_refused<T>(answer: &io::Result<T>) -> bool {
    matches!(answer, Err(error) if error.kind() == io::ErrorKind::PermissionDenied)
}

/// A security module's name for what a process may do, as `attr/current` has it; SELinux ends it with a zero.
fn label_of(label: &[u8]) -> String {
    let label = String::from_utf8_lossy(label);
    let label = label.trim_matches(|mark: char| mark == '\0' || mark.is_whitespace());
    if label.is_empty() {
        return "a security module that does not say its name".to_owned();
    }
    format!("the security label \"{}\"", label.escape_debug())
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

/// Names those that are required and missing; `None` when all are there.
fn missing(effective: CapabilitySet) -> Option<String> {
    let rows = NEEDED
        .iter()
        .filter(|row| matches!(row.when, When::Required) && !effective.contains(row.capability));
    let names: Vec<_> = rows.map(|row| row.name).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: CapabilitySet = CapabilitySet::empty();
    const REQUIRED: CapabilitySet = CapabilitySet::BPF
        .union(CapabilitySet::PERFMON)
        .union(CapabilitySet::NET_ADMIN);
    const ALWAYS: CapabilitySet = REQUIRED
        .union(CapabilitySet::SYS_PTRACE)
        .union(CapabilitySet::DAC_READ_SEARCH)
        .union(CapabilitySet::SYS_ADMIN);

    #[test]
    fn names_the_missing_capabilities() {
        let check = |effective: CapabilitySet, expected: Option<&str>| {
            assert_eq!(missing(effective).as_deref(), expected, "{effective:?}");
        };
        check(NONE, Some("CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN"));
        check(REQUIRED, None);
        check(
            CapabilitySet::BPF | CapabilitySet::PERFMON,
            Some("CAP_NET_ADMIN"),
        );
        check(CapabilitySet::BPF, Some("CAP_PERFMON, CAP_NET_ADMIN"));
    }

    #[test]
    fn names_what_is_lost_without_the_others() {
        let check = |effective: CapabilitySet, expected: &[&str]| {
            let names: Vec<_> = lacking(effective).into_iter().map(|row| row.0).collect();
            assert_eq!(names, expected, "{effective:?}");
        };
        check(CapabilitySet::all(), &[]);
        check(ALWAYS, &[]);
        let admin = CapabilitySet::SYS_ADMIN;
        check(CapabilitySet::SYS_PTRACE | admin, &["CAP_DAC_READ_SEARCH"]);
        check(CapabilitySet::DAC_READ_SEARCH | admin, &["CAP_SYS_PTRACE"]);
        check(ALWAYS - admin, &["CAP_SYS_ADMIN"]);
        check(
            NONE,
            &["CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH", "CAP_SYS_ADMIN"],
        );
    }

    #[test]
    fn only_what_is_needed_and_was_given_is_kept() {
        let check = |given, ports: &[u16], expected| {
            let circumstances = Circumstances::of(ports.iter().copied());
            assert_eq!(
                kept_of(given, circumstances),
                expected,
                "{given:?} {ports:?}"
            );
        };
        let (all, bind) = (CapabilitySet::all(), CapabilitySet::NET_BIND_SERVICE);
        check(all, &[], ALWAYS);
        check(all, &[9765, 0, 1024], ALWAYS);
        check(all, &[9765, 443], ALWAYS | bind);
        check(ALWAYS | CapabilitySet::SYS_RESOURCE, &[443], ALWAYS);
        check(
            REQUIRED | CapabilitySet::KILL | bind,
            &[1023],
            REQUIRED | bind,
        );
        check(NONE, &[1], NONE);
    }

    #[test]
    fn whoever_has_the_last_word_is_named() {
        let check = |label: &[u8], expected: &str| assert_eq!(label_of(label), expected);
        let apparmor = b"cri-containerd.apparmor.d (enforce)\n";
        check(
            apparmor,
            "the security label \"cri-containerd.apparmor.d (enforce)\"",
        );
        let selinux = b"system_u:system_r:container_t:s0:c1,c2\0";
        check(
            selinux,
            "the security label \"system_u:system_r:container_t:s0:c1,c2\"",
        );
        check(b"a\x1bb", "the security label \"a\\u{1b}b\"");
        for nothing in [&b""[..], b"\0", b"\n"] {
            check(nothing, "a security module that does not say its name");
        }
        let answer = |number| Err::<(), _>(io::Error::from_raw_os_error(number));
        assert!(is_refused(&answer(libc::EACCES)));
        assert!(is_refused(&answer(libc::EPERM)));
        assert!(!is_refused(&answer(libc::ENOENT)));
        assert!(!is_refused(&Ok(())));
    }

    /// A row of a table in `docs/install.md`: the capability, and what it is for.
    fn documented(text: &str) -> Vec<(&str, &str)> {
        let rows = text.lines().filter_map(|line| {
            let (name, rest) = line.strip_prefix("| `CAP_")?.split_once("` | ")?;
            Some((name, rest.trim_end_matches(" |")))
        });
        rows.collect()
    }

    #[test]
    fn the_documentation_says_what_is_kept() {
        let text = include_str!("../../../docs/install.md");
        let (_, section) = text
            .split_once("\n## Privileges\n")
            .expect("there is a section");
        let section = section.split("\n## ").next().expect("there is a first");
        let short = |row: &'static Needed| (&row.name["CAP_".len()..], row.purpose);
        assert_eq!(
            documented(section),
            NEEDED.iter().map(short).collect::<Vec<_>>()
        );
    }

    /// What is given by the files of `deploy/` is what is kept, and what is needed to load.
    #[test]
    fn what_is_deployed_gives_what_is_kept() {
        let always: Vec<_> = NEEDED
            .iter()
            .filter(|row| matches!(row.when, When::Required | When::Wanted(_)))
            .map(|row| row.name)
            .collect();
        let unit = include_str!("../../../deploy/systemd/saker.service");
        let given = unit
            .lines()
            .find_map(|line| line.strip_prefix("CapabilityBoundingSet="))
            .expect("the unit limits them");
        assert_eq!(given.split(' ').collect::<Vec<_>>(), always);

        let manifest = include_str!("../../../deploy/kubernetes/saker.yaml");
        let (_, added) = manifest
            .split_once("add:\n")
            .expect("the manifest adds some");
        let added: Vec<_> = added
            .lines()
            .map(str::trim)
            .take_while(|line| line.starts_with(['-', '#']))
            .filter_map(|line| line.strip_prefix("- "))
            .map(|name| format!("CAP_{name}"))
            .collect();
        assert_eq!(added, always);
    }
}
