//! Reading `/proc`: what ran before the agent did. Everything here may vanish while it is read.

use std::{fs, io::Read as _, path::Path, sync::Arc};

use super::process::{Image, Seed, Start, TICK_NS};
use crate::event::MountNs;

/// A command line is kept up to this length; the kernel side cuts at the same order of size.
const ARGV_BYTES_MAX: usize = 4096;

/// An environment is looked through up to here. Processes may have made theirs longer than any start could.
const ENV_BYTES_MAX: u64 = 1 << 20;

/// Every process that `/proc` shows now, in no order, with these variables of its environment.
pub fn scan(proc: &Path, variables: &[String]) -> Vec<Seed> {
    let Ok(entries) = fs::read_dir(proc) else {
        return Vec::new();
    };
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| read(proc, pid, variables)).collect()
}

/// One process, or `None` where it is gone or was replaced by another while it was read.
pub fn read(proc: &Path, pid: u32, variables: &[String]) -> Option<Seed> {
    let seed = read_once(proc, pid, variables)?;
    // The files were read one after another: an exec between them mixes two programs. Its name and start tell.
    let stat = Stat::parse(&fs::read(proc.join(pid.to_string()).join("stat")).ok()?)?;
    if stat.start_ticks.saturating_mul(TICK_NS) != seed.start_ns {
        return None;
    }
    if stat.comm != seed.image.name {
        return read_once(proc, pid, variables).filter(|again| again.start_ns == seed.start_ns);
    }
    Some(seed)
}

fn read_once(proc: &Path, pid: u32, variables: &[String]) -> Option<Seed> {
    let folder = proc.join(pid.to_string());
    let stat = Stat::parse(&fs::read(folder.join("stat")).ok()?)?;
    // The first line holds the name, which need not be UTF-8.
    let status = fs::read(folder.join("status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    let mut argv = fs::read(folder.join("cmdline")).unwrap_or_default();
    let argv_truncated = argv.len() > ARGV_BYTES_MAX;
    argv.truncate(ARGV_BYTES_MAX);
    let link = |name: &str| {
        fs::read_link(folder.join(name))
            .map(|path| path.into_os_string().into_encoded_bytes())
            .unwrap_or_default()
    };
    let exe = link("exe");
    // The kernel appends this to the link of an executable that was unlinked; the path itself stays the same.
    let exe_path = exe.strip_suffix(b" (deleted)").unwrap_or(&exe);
    let from_memfd = exe_path.starts_with(b"/memfd:");
    let (env, env_truncated) = environment(&folder, variables);
    let last = |key: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .and_then(|ids| ids.split_whitespace().last())
    };
    let capabilities = |key: &str| u64::from_str_radix(last(key)?, 16).ok();
    Some(Seed {
        tgid: pid,
        start_ns: stat.start_ticks.saturating_mul(TICK_NS),
        start_rounded: true,
        ppid: stat.ppid,
        image: Arc::new(Image::new(&Start {
            name: &stat.comm,
            exe_path,
            argv: &argv,
            argv_truncated,
            argc: None,
            cwd: &link("cwd"),
            env: &env,
            env_truncated,
            from_memfd,
            file: None,
        })),
        image_shared: false,
        uid: real_id(&status, "Uid:")?,
        gid: real_id(&status, "Gid:")?,
        loginuid: fs::read_to_string(folder.join("loginuid"))
            .ok()
            .and_then(|id| id.trim().parse().ok())
            .unwrap_or(u32::MAX),
        sid: stat.sid,
        tty: stat.tty,
        vpid: last("NSpid:").and_then(|id| id.parse().ok()),
        pgid: stat.pgid,
        vpgid: last("NSpgid:")
            .and_then(|id| id.parse().ok())
            .filter(|id| *id != 0),
        pid_ns_start_ns: None,
        capabilities: capabilities("CapPrm:")
            .zip(capabilities("CapEff:"))
            .zip(capabilities("CapInh:"))
            .map(|((permitted, effective), inheritable)| [permitted, effective, inheritable]),
        mount_ns: mount_namespace(proc, pid).map(|number| MountNs {
            number,
            ..MountNs::default()
        }),
        cgroup_id: 0,
    })
}

/// When a process started, nanoseconds since boot in steps of a clock tick; `None` where it is gone.
pub fn start_ns(proc: &Path, pid: u32) -> Option<u64> {
    let stat = Stat::parse(&fs::read(proc.join(pid.to_string()).join("stat")).ok()?)?;
    Some(stat.start_ticks.saturating_mul(TICK_NS))
}

/// Is a start from `/proc` the one that the kernel recorded?
pub fn is_same_start(from_proc_ns: u64, recorded_ns: u64) -> bool {
    from_proc_ns / TICK_NS == recorded_ns / TICK_NS
}

/// The mount namespace of a process, by its inode number.
pub fn mount_namespace(proc: &Path, pid: u32) -> Option<u32> {
    let link = fs::read_link(proc.join(pid.to_string()).join("ns/mnt")).ok()?;
    let number = link.to_str()?.strip_prefix("mnt:[")?.strip_suffix(']')?;
    number.parse().ok()
}

/// The wanted variables of an environment, as it was at exec or as the process has overwritten it since; and whether some
/// may be missing. Everything else of it is dropped here.
fn environment(folder: &Path, variables: &[String]) -> (Vec<u8>, Option<bool>) {
    if variables.is_empty() {
        return (Vec::new(), None);
    }
    let mut bytes = Vec::new();
    let read = fs::File::open(folder.join("environ"))
        .and_then(|file| file.take(ENV_BYTES_MAX).read_to_end(&mut bytes));
    let Ok(length) = read else {
        return (Vec::new(), Some(true));
    };
    let mut kept = Vec::new();
    let mut truncated = length as u64 == ENV_BYTES_MAX;
    for variable in bytes.split(|byte| *byte == 0) {
        let name = variable
            .split(|byte| *byte == b'=')
            .next()
            .unwrap_or_default();
        if name.len() < variable.len() && variables.iter().any(|wanted| wanted.as_bytes() == name) {
            if kept.len() + variable.len() >= saker_ebpf::wire::ENV_BYTES_MAX {
                truncated = true;
                continue;
            }
            kept.extend_from_slice(variable);
            kept.push(0);
        }
    }
    (kept, Some(truncated))
}

/// Where a relative path of a process starts now: at its working directory, or at the folder behind a descriptor. `None`
/// where the process is gone, or the descriptor is no folder's.
pub fn folder(proc: &Path, pid: u32, dfd: i32) -> Option<Vec<u8>> {
    let folder = proc.join(pid.to_string());
    let link = if dfd == libc::AT_FDCWD {
        folder.join("cwd")
    } else {
        folder.join("fd").join(dfd.to_string())
    };
    let target = fs::read_link(link)
        .ok()?
        .into_os_string()
        .into_encoded_bytes();
    (target.starts_with(b"/") && !target.ends_with(b" (deleted)")).then_some(target)
}

/// The columns of `/proc/PID/stat` that are used; proc(5) numbers them from 1.
struct Stat {
    comm: Box<[u8]>,
    ppid: u32,
    pgid: u32,
    sid: u32,
    tty: u32,
    start_ticks: u64,
}

impl Stat {
    /// The name stands in parentheses and may itself hold blanks and parentheses: the last one ends it.
    fn parse(text: &[u8]) -> Option<Self> {
        let open = text.iter().position(|byte| *byte == b'(')?;
        let close = text.iter().rposition(|byte| *byte == b')')?;
        let comm = text.get(open + 1..close)?.into();
        let rest = std::str::from_utf8(text.get(close + 1..)?).ok()?;
        let mut columns = rest.split_ascii_whitespace();
        // Column 3 (state) comes first here, so column N is at N - 3.
        let mut column = |number: usize, skipped: &mut usize| {
            let value = columns.nth(number - 3 - *skipped);
            *skipped = number - 2;
            value
        };
        let mut skipped = 0;
        let ppid = column(4, &mut skipped)?.parse().ok()?;
        let pgid = column(5, &mut skipped)?.parse().ok()?;
        let sid = column(6, &mut skipped)?.parse().ok()?;
        // A negative number never occurs, but the column is signed.
        let tty = column(7, &mut skipped)?
            .parse::<i64>()
            .ok()
            .and_then(|tty| u32::try_from(tty).ok())
            .unwrap_or(0);
        let start_ticks = column(22, &mut skipped)?.parse().ok()?;
        Some(Self {
            comm,
            ppid,
            pgid,
            sid,
            tty,
            start_ticks,
        })
    }
}

/// The first number behind a key of `/proc/PID/status`: the real id.
fn real_id(status: &str, key: &str) -> Option<u32> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(key))?
        .split_ascii_whitespace()
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines_with_hostile_names_are_read() {
        let tail = "S 5 7 6 34816 7 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1000 2";
        for name in ["bash", "a b", "x) S 1 1 1 (y", ")", "("] {
            let stat = Stat::parse(format!("42 ({name}) {tail}").as_bytes()).expect(name);
            assert_eq!(&*stat.comm, name.as_bytes());
            assert_eq!(
                (stat.ppid, stat.pgid, stat.sid, stat.tty, stat.start_ticks),
                (5, 7, 6, 34816, 98765),
                "{name}"
            );
        }
    }

    #[test]
    fn broken_stat_lines_are_refused() {
        for text in [
            "",
            "42",
            "42 (bash",
            "42 (bash)",
            "42 )bash( S 1 2 3",
            "42 (bash) S x 1 1 1",
        ] {
            assert!(Stat::parse(text.as_bytes()).is_none(), "{text}");
        }
    }

    #[test]
    fn this_process_is_found_with_its_arguments() {
        let own = read(Path::new("/proc"), std::process::id(), &["PATH".into()])
            .expect("this process runs");
        let exe = std::env::current_exe().expect("it has an executable");
        assert_eq!(&*own.image.exe_path, exe.as_os_str().as_encoded_bytes());
        assert!(own.start_ns > 0);
        let path = std::env::var_os("PATH").map(std::ffi::OsString::into_encoded_bytes);
        assert_eq!(own.image.variable(b"PATH").map(<[u8]>::to_vec), path);
        assert_eq!(own.image.variables().count(), usize::from(path.is_some()));
        assert!(own.capabilities.is_some() && own.mount_ns.is_some() && own.pgid > 0);
        assert!(
            scan(Path::new("/proc"), &[])
                .iter()
                .any(|seed| seed.tgid == own.tgid)
        );
    }
}
