//! Attaching hooks, each by itself: all programs of one or none, and the reason in one line.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use aya::programs::cgroup_device::CgroupDeviceLink;
use aya::programs::cgroup_skb::CgroupSkbLink;
use aya::programs::cgroup_sock_addr::CgroupSockAddrLink;
use aya::programs::fexit::FExitLink;
use aya::programs::raw_trace_point::RawTracePointLink;
use aya::programs::{CgroupAttachMode, CgroupSkbAttachType, Program, ProgramError, ProgramFd};
use aya::{Btf, Ebpf, Endianness};
use saker_ebpf::wire::Kind;

use super::cgroup::RootCgroup;
use super::loader::one_line;
use super::offsets::{FoundOffsets, KERNEL_BTF};
use super::perf::{self, Tracefs};
use super::probes::{Attach, Hook, Probe, ProgramRow};
use super::sensor::SensorConfig;
use super::status::{HookStatus, Refusal};

/// Programs attached to the kernel, until this is dropped.
pub enum Attachment {
    /// At a raw tracepoint.
    RawTracepoint(RawTracePointLink),
    /// At a cgroup's device access.
    CgroupDevice(CgroupDeviceLink),
    /// At a cgroup's connect.
    CgroupAddress(CgroupSockAddrLink),
    /// At a cgroup's packets.
    CgroupPackets(CgroupSkbLink),
    /// At a kernel function's end.
    FunctionEnd(FExitLink),
    /// At a tracepoint, through a perf event.
    Perf(OwnedFd),
    /// Nowhere yet: where it goes is found while the agent runs.
    Later,
}

/// A loaded program: what asks the kernel how often it ran.
pub struct LoadedProgram {
    /// Its name in the object.
    pub name: &'static str,
    /// The kind that it reports.
    pub kind: Kind,
    /// Keeps its statistics reachable.
    pub fd: ProgramFd,
}

/// Attaches probes, and remembers what it attached.
pub struct Attacher<'a> {
    ebpf: &'a mut Ebpf,
    cgroup: &'a RootCgroup,
    /// Opened by the first hook that needs it.
    tracefs: Option<Result<Tracefs, String>>,
    /// The kernel's types as aya reads them, for the first hook that names a function; all of them.
    types: Option<Result<Btf, String>>,
    btf_path: Option<&'a Path>,
    offsets: &'a FoundOffsets,
    disabled: &'a [String],
    /// What is attached so far.
    pub attachments: Vec<(&'static str, Attachment)>,
    /// The programs of it.
    pub programs: Vec<LoadedProgram>,
    /// Programs for places that are found later, by name.
    pub uprobes: Vec<(&'static str, ProgramFd)>,
    /// Programs attached so far: two hooks can share theirs.
    used: Vec<&'static str>,
}

impl<'a> Attacher<'a> {
    /// Programs in `used` are attached already. Hooks that `config` disables never will be.
    pub fn new(
        ebpf: &'a mut Ebpf,
        cgroup: &'a RootCgroup,
        offsets: &'a FoundOffsets,
        config: &'a SensorConfig,
        used: Vec<&'static str>,
    ) -> Self {
        Self {
            ebpf,
            cgroup,
            tracefs: None,
            types: None,
            btf_path: config.btf_path.as_deref(),
            offsets,
            disabled: &config.disabled_hooks,
            attachments: Vec::new(),
            programs: Vec::new(),
            uprobes: Vec::new(),
            used,
        }
    }

    /// Attaches the first hook of `probe` that works.
    pub fn attach_probe(&mut self, probe: &'static Probe, wanted: bool) -> HookStatus {
        let mut status = HookStatus {
            kind: probe.kind.name(),
            wanted,
            hook: None,
            needs: probe.hooks[0].needs,
            lost: Vec::new(),
            refused: Vec::new(),
        };
        if !wanted {
            return status;
        }
        for hook in probe.hooks {
            match self.attach_hook(probe.kind, hook) {
                Ok(lost) => {
                    status.hook = Some(hook.name);
                    status.needs = hook.needs;
                    if !hook.lost.is_empty() {
                        status.lost.push(hook.lost.to_owned());
                    }
                    status.lost.extend(lost);
                    break;
                }
                Err(failure) => status.refused.push(Refusal {
                    hook: hook.name,
                    reason: failure.reason,
                    verifier_log: failure.verifier_log,
                }),
            }
        }
        if status.hook.is_none() {
            status.lost.push(probe.lost_without.to_owned());
        } else if probe.kind == Kind::Exec {
            status.lost.extend(
                self.offsets
                    .lost_extras()
                    .map(|(lost, missing)| format!("{lost} ({})", missing.describe())),
            );
        }
        status
    }

    /// Attaches all programs of a hook, or none. Returns what is lost because an optional one is missing.
    fn attach_hook(&mut self, kind: Kind, hook: &'static Hook) -> Result<Vec<String>, Failure> {
        if self.disabled.iter().any(|name| name == hook.name) {
            return Err(Failure::new("disabled by configuration"));
        }
        if let Some(missing) = self.offsets.missing_in(hook.fields).next() {
            return Err(Failure::new(format!(
                "the kernel lacks {}",
                missing.describe()
            )));
        }
        let mut attached = Vec::new();
        let mut lost = Vec::new();
        for row in hook.programs {
            if self.used.contains(&row.name) {
                continue;
            }
            match self.attach_program(row) {
                Ok((attachment, fd)) => attached.push((attachment, fd, row.name)),
                Err(failure) if row.optional.is_empty() => return Err(failure),
                Err(failure) => {
                    let line = format!("{} ({})", row.optional, failure.reason);
                    if !lost.contains(&line) {
                        lost.push(line);
                    }
                }
            }
        }
        for (attachment, fd, name) in attached {
            self.attachments.push((name, attachment));
            self.programs.push(LoadedProgram { name, kind, fd });
            self.used.push(name);
        }
        Ok(lost)
    }

    fn attach_program(&mut self, row: &ProgramRow) -> Result<(Attachment, ProgramFd), Failure> {
        if let Some(missing) = self.offsets.missing_in(row.fields).next() {
            return Err(Failure::new(format!(
                "the kernel lacks {}",
                missing.describe()
            )));
        }
        let program = self
            .ebpf
            .program_mut(row.name)
            .ok_or_else(|| Failure::new(format!("the object has no program {}", row.name)))?;
        let cgroup = self.cgroup.folder.as_fd();
        let wrong_type = || Failure::new(format!("program {} is of another type", row.name));
        let attachment = match row.attach {
            Attach::RawTracepoint(names) => {
                let Program::RawTracePoint(program) = program else {
                    return Err(wrong_type());
                };
                ensure_loaded(|| program.load())?;
                let mut names = names.iter();
                let link = loop {
                    let name = names.next().copied().unwrap_or_default();
                    match program.attach(name) {
                        Ok(link) => break link,
                        Err(error) if names.len() == 0 => return Err(error.into()),
                        Err(_) => {}
                    }
                };
                Attachment::RawTracepoint(program.take_link(link)?)
            }
            Attach::CgroupDevice => {
                let Program::CgroupDevice(program) = program else {
                    return Err(wrong_type());
                };
                ensure_loaded(|| program.load())?;
                let link = program.attach(cgroup, CgroupAttachMode::Single)?;
                Attachment::CgroupDevice(program.take_link(link)?)
            }
            Attach::CgroupAddress => {
                let Program::CgroupSockAddr(program) = program else {
                    return Err(wrong_type());
                };
                ensure_loaded(|| program.load())?;
                let link = program.attach(cgroup, CgroupAttachMode::Single)?;
                Attachment::CgroupAddress(program.take_link(link)?)
            }
            Attach::CgroupIngress | Attach::CgroupEgress => {
                let Program::CgroupSkb(program) = program else {
                    return Err(wrong_type());
                };
                let way = if row.attach == Attach::CgroupIngress {
                    CgroupSkbAttachType::Ingress
                } else {
                    CgroupSkbAttachType::Egress
                };
                ensure_loaded(|| program.load())?;
                let link = program.attach(cgroup, way, CgroupAttachMode::Single)?;
                Attachment::CgroupPackets(program.take_link(link)?)
            }
            Attach::FunctionEnd(function) => {
                let Program::FExit(program) = program else {
                    return Err(wrong_type());
                };
                let types = self
                    .types
                    .get_or_insert_with(|| read_types(self.btf_path))
                    .as_ref()
                    .map_err(Failure::new)?;
                ensure_loaded(|| program.load(function, types))?;
                let link = program.attach()?;
                Attachment::FunctionEnd(program.take_link(link)?)
            }
            Attach::Uprobe => {
                let Program::UProbe(program) = program else {
                    return Err(wrong_type());
                };
                perf::uprobe_type().map_err(|error| {
                    Failure::new(format!("the kernel offers no uprobes: {error}"))
                })?;
                ensure_loaded(|| program.load())?;
                self.uprobes.push((
                    row.name,
                    program.fd()?.try_clone().map_err(ProgramError::from)?,
                ));
                Attachment::Later
            }
            Attach::Syscall(tracepoint) => {
                let Program::TracePoint(program) = program else {
                    return Err(wrong_type());
                };
                let tracefs = self
                    .tracefs
                    .get_or_insert_with(|| Tracefs::open().map_err(|error| error.to_string()))
                    .as_ref()
                    .map_err(|error| Failure::new(format!("tracefs cannot be opened: {error}")))?;
                ensure_loaded(|| program.load())?;
                let event = perf::attach(tracefs, "syscalls", tracepoint, program.fd()?.as_fd())
                    .map_err(|error| {
                        Failure::new(format!("syscalls/{tracepoint} cannot be attached: {error}"))
                    })?;
                Attachment::Perf(event)
            }
        };
        let fd = program.fd()?.try_clone().map_err(ProgramError::from)?;
        Ok((attachment, fd))
    }
}

fn read_types(path: Option<&Path>) -> Result<Btf, String> {
    let path = path.unwrap_or(Path::new(KERNEL_BTF));
    Btf::parse_file(path, Endianness::default())
        .map_err(|error| format!("the kernel's types cannot be read: {}", one_line(&error)))
}

/// Loads a program. It stays loaded when a hook that it shares could not be attached.
fn ensure_loaded(load: impl FnOnce() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    match without_signals(load) {
        Err(ProgramError::AlreadyLoaded) => Ok(()),
        other => other,
    }
}

/// Has the kernel verify a program. The verifier gives up with EAGAIN when a signal is pending for the thread, and a long program
/// takes it milliseconds: this thread takes no signals meanwhile. They wait, or other threads take them.
pub fn without_signals<T>(load: impl FnOnce() -> T) -> T {
    // SAFETY: both sets are ours and outlive the calls, which fill them; a valid `how` and valid sets cannot fail.
    let before = unsafe {
        let (mut all, mut before) = std::mem::zeroed::<(libc::sigset_t, libc::sigset_t)>();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        before
    };
    let result = load();
    // SAFETY: the set is the one that the kernel gave above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut()) };
    result
}

/// Why a hook could not be attached.
struct Failure {
    reason: String,
    verifier_log: Option<String>,
}

impl Failure {
    fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            verifier_log: None,
        }
    }
}

impl From<ProgramError> for Failure {
    fn from(error: ProgramError) -> Self {
        match error {
            ProgramError::LoadError {
                io_error,
                verifier_log,
            } => {
                let log = verifier_log.to_string();
                Self {
                    reason: match complaint(&log) {
                        Some(line) => {
                            format!("the kernel refused the program ({io_error}): {line}")
                        }
                        None => format!("the kernel refused the program: {io_error}"),
                    },
                    verifier_log: (!log.trim().is_empty()).then_some(log),
                }
            }
            other => Self::new(one_line(&other)),
        }
    }
}

/// What the verifier minded: it ends with statistics, and says that on the line before them.
fn complaint(log: &str) -> Option<&str> {
    const STATISTICS: [&str; 3] = ["processed ", "stack depth ", "verification time "];
    log.lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty() && !STATISTICS.iter().any(|start| line.starts_with(start)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifiers_complaint_stands_before_its_statistics() {
        let check = |log: &str, expected: Option<&str>| assert_eq!(complaint(log), expected);
        check(
            "20: (85) call unknown#158\ninvalid func unknown#158\nverification time 6994 usec\n\
             stack depth 16+0+0\nprocessed 23 insns (limit 1000000) max_states_per_insn 0\n\n",
            Some("invalid func unknown#158"),
        );
        check(
            "R1 invalid mem access 'inv'",
            Some("R1 invalid mem access 'inv'"),
        );
        check("processed 0 insns\n", None);
        check("", None);
    }
}
