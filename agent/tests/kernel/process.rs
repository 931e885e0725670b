//! Hooks of processes: exec, fork, exit.

use saker::event::Body;
use saker::source::{Kind, SensorConfig};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Watch, exec_of, kinds, owned, run, watch};

#[test]
fn every_default_hook_attaches() {
    let Some(watch) = watch(SensorConfig::default()) else {
        return;
    };
    for status in watch.sensor.status() {
        assert_eq!(status.hook.is_some(), status.wanted, "{status:?}");
        assert_eq!(status.refused, [], "{status:?}");
        if status.wanted {
            assert_eq!(status.lost, [""; 0], "{status:?}");
        }
    }
}

#[test]
fn exec_shows_what_the_kernel_started() {
    let Some(mut watch) = watch(kinds(&[Kind::Exec])) else {
        return;
    };
    let started = run(Command::new("/bin/true")
        .arg0("odd name")
        .args(["", "a b", "\u{fc}\n", "--x=1"])
        .current_dir("/usr/share"));
    exec_of(&mut watch, started, |event, exec| {
        let expected: [&[u8]; 5] = [b"odd name", b"", b"a b", "\u{fc}\n".as_bytes(), b"--x=1"];
        assert_eq!(owned(exec), expected);
        assert_eq!(
            (exec.argv.argc, exec.argv.cut, exec.argv.unreadable),
            (5, false, false)
        );
        assert_eq!(exec.filename.bytes, b"/bin/true");
        let real = fs::canonicalize("/bin/true").expect("canonicalize");
        assert_eq!(exec.exe.bytes, real.as_os_str().as_bytes());
        assert_eq!(exec.cwd.bytes, b"/usr/share");
        assert!(!exec.memfd && !exec.deleted && !exec.detached);
        let metadata = fs::metadata(&real).expect("metadata");
        assert_eq!(exec.inode, std::os::unix::fs::MetadataExt::ino(&metadata));
        let device = std::os::unix::fs::MetadataExt::dev(&metadata);
        assert_eq!(exec.device, (libc::major(device), libc::minor(device)));
        assert_eq!(event.comm, b"true");
        assert_eq!(event.ppid, std::process::id());
        // SAFETY: these calls take nothing and cannot fail.
        let ids = unsafe {
            (
                libc::getuid(),
                libc::getgid(),
                libc::geteuid(),
                libc::getegid(),
            )
        };
        assert_eq!((event.uid, event.gid, event.euid, event.egid), ids);
        assert!(exec.parent_start_ns > 0 && exec.parent_start_ns <= event.start_ns);
        assert!(event.start_ns <= event.ts_ns);
        // SAFETY: takes a process id, 0 for this one.
        let session = unsafe { libc::getsid(0) }.cast_unsigned();
        // A kernel's first processes are in no session.
        assert_eq!(exec.session_leader, (session != 0).then_some(session));
        let mount_ns = exec.mount_ns.expect("is known");
        for (link, found) in [("mnt", Some(mount_ns.number)), ("pid", exec.pid_ns)] {
            let expected = fs::read_link(format!("/proc/self/ns/{link}")).expect("read link");
            let found = format!("{link}:[{}]", found.expect("is known"));
            assert_eq!(expected, PathBuf::from(found));
        }
        let root = fs::metadata("/").expect("the root");
        assert_eq!(mount_ns.root.1, root.ino());
        assert_ne!(mount_ns.sequence, 0);
    });
}

#[test]
fn a_start_matches_what_proc_shows() {
    let Some(mut watch) = watch(kinds(&[Kind::Exec])) else {
        return;
    };
    let mut child = Command::new("/bin/sleep")
        .arg("1000")
        .spawn()
        .expect("spawn");
    let start_ns = exec_of(&mut watch, child.id(), |event, _| event.start_ns);
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).expect("stat");
    child.kill().expect("kill");
    child.wait().expect("wait");
    let after_name = stat.rsplit_once(')').expect("a name in brackets").1;
    let ticks: u64 = after_name
        .split_whitespace()
        .nth(19)
        .and_then(|ticks| ticks.parse().ok())
        .expect("a start time");
    // SAFETY: takes the number of a setting.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.cast_unsigned();
    assert_eq!(start_ns / (1_000_000_000 / per_second), ticks);
}

#[test]
fn long_arguments_are_cut_and_say_so() {
    let Some(mut watch) = watch(kinds(&[Kind::Exec])) else {
        return;
    };
    let long = "x".repeat(100_000);
    let started = run(Command::new("/bin/true").args(["first", &long, "last"]));
    exec_of(&mut watch, started, |_, exec| {
        let argv = owned(exec);
        assert!(exec.argv.cut && !exec.argv.unreadable);
        assert_eq!((exec.argv.argc, argv.len()), (4, 3));
        assert_eq!(argv[..2], [&b"/bin/true"[..], b"first"]);
        assert_eq!(exec.argv.bytes.len(), 4095);
        assert_eq!(exec.argv.total_bytes, 10 + 6 + 100_001 + 5);
    });
}

#[test]
fn exec_by_another_thread_keeps_the_process() {
    let Some(mut watch) = watch(kinds(&[Kind::Exec])) else {
        return;
    };
    let script = "import os, threading\n\
                  threading.Thread(target=lambda: os.execv('/bin/true', ['by-a-thread'])).start()\n";
    let Ok(mut child) = Command::new("python3").args(["-c", script]).spawn() else {
        return saker_tests::skip("no python3 to exec from a thread with");
    };
    child.wait().expect("wait");
    let pid = child.id();
    let (tid, old_tid) = watch.until("exec by a thread", |event| match &event.body {
        Body::Exec(exec) if event.tgid == pid && exec.argv.iter().eq([&b"by-a-thread"[..]]) => {
            Some((event.tid, exec.old_tid))
        }
        _ => None,
    });
    // The thread that called exec has taken the leader's place and number.
    assert_eq!(tid, pid);
    assert_ne!(old_tid, pid);
}

#[test]
fn exec_of_a_script_shows_both_files() {
    let Some(mut watch) = watch(kinds(&[Kind::Exec])) else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let script = folder.path().join("s.sh");
    write_program(&script, b"#!/bin/sh\nexit 0\n");
    let started = run(Command::new(&script).arg("x"));
    exec_of(&mut watch, started, |_, exec| {
        let script = script.as_os_str().as_bytes();
        let shell = fs::canonicalize("/bin/sh").expect("canonicalize");
        assert_eq!(exec.filename.bytes, script);
        assert_eq!(exec.exe.bytes, shell.as_os_str().as_bytes());
        assert_eq!(owned(exec), [b"/bin/sh", script, b"x"]);
    });
}

fn write_program(path: &Path, contents: &[u8]) {
    fs::write(path, contents).expect("write");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(path, mode).expect("make executable");
}

#[test]
fn programs_without_a_file_are_marked() {
    let Some(mut watch) = watch(kinds(&[Kind::Exec])) else {
        return;
    };
    let program = fs::read("/bin/true").expect("read");

    // SAFETY: takes a C string and flags; the descriptor is nobody else's.
    let mut memfd = unsafe { File::from_raw_fd(libc::memfd_create(c"hidden".as_ptr(), 0)) };
    memfd.write_all(&program).expect("write");
    let path = format!("/proc/{}/fd/{}", std::process::id(), memfd.as_raw_fd());
    let started = run(Command::new(&path).arg0("memfd"));
    exec_of(&mut watch, started, |_, exec| {
        assert!(exec.memfd && exec.deleted && exec.detached);
        assert_eq!(exec.exe.bytes, b"/memfd:hidden");
        assert_eq!(exec.filename.bytes, path.as_bytes());
    });

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("gone");
    write_program(&file, &program);
    let open = File::open(&file).expect("open");
    fs::remove_file(&file).expect("remove");
    let path = format!("/proc/{}/fd/{}", std::process::id(), open.as_raw_fd());
    let started = run(Command::new(&path).arg0("gone"));
    exec_of(&mut watch, started, |_, exec| {
        assert!(exec.deleted && !exec.memfd && !exec.detached);
        assert_eq!(exec.exe.bytes, file.as_os_str().as_bytes());
    });
}

#[test]
fn paths_are_seen_from_the_process_root() {
    let Some(mut watch) = watch(kinds(&[Kind::Exec])) else {
        return;
    };
    // A mount below another, and a chroot: both of the walk's special cases.
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("root");
    let script = format!(
        "mkdir -p {root} && mount -t tmpfs none {root} && mkdir {root}/deep && cd {root}/deep && \
         /usr/bin/true mounted; cd / && mount --bind / {root} && exec chroot {root} /usr/bin/true chrooted",
        root = root.display()
    );
    let mut child = Command::new("unshare")
        .args(["--mount", "/bin/sh", "-c", &script])
        .spawn()
        .expect("spawn");
    child.wait().expect("wait");
    let by_argument = |watch: &mut Watch, argument: &[u8]| {
        watch.until("exec of true", |event| match &event.body {
            Body::Exec(exec) if exec.argv.iter().eq([&b"/usr/bin/true"[..], argument]) => {
                Some((exec.exe.bytes.to_vec(), exec.cwd.bytes.to_vec()))
            }
            _ => None,
        })
    };
    let deep = root.join("deep").as_os_str().as_bytes().to_vec();
    assert_eq!(
        by_argument(&mut watch, b"mounted"),
        (b"/usr/bin/true".to_vec(), deep)
    );
    assert_eq!(
        by_argument(&mut watch, b"chrooted"),
        (b"/usr/bin/true".to_vec(), b"/".to_vec())
    );
}

#[test]
fn forks_and_exits_bracket_a_process() {
    let Some(mut watch) = watch(kinds(&[Kind::Fork, Kind::Exit])) else {
        return;
    };
    for (script, code, signal) in [("exit 3", Some(3), None), ("kill -9 $$", None, Some(9))] {
        let child = run(Command::new("/bin/sh").args(["-c", script]));
        let (creator, start_ns) = watch.until("fork", |event| match event.body {
            Body::Fork(fork) if fork.child_tgid == child => {
                assert!(!fork.is_thread());
                assert_eq!(fork.child_ppid, std::process::id());
                assert_eq!(fork.child_cgroup_id, event.cgroup_id);
                Some((event.tgid, fork.child_start_ns))
            }
            _ => None,
        });
        assert_eq!(creator, std::process::id());
        watch.until("exit", |event| match event.body {
            Body::Exit(exit) if event.tgid == child => {
                assert_eq!((exit.code(), exit.signal()), (code, signal));
                assert_eq!(event.start_ns, start_ns);
                Some(())
            }
            _ => None,
        });
    }
}

#[test]
fn threads_are_told_apart_and_left_out_unless_wanted() {
    let Some(mut watch) = watch(SensorConfig {
        report_threads: true,
        ..kinds(&[Kind::Fork, Kind::Exit])
    }) else {
        return;
    };
    let thread = std::thread::spawn(|| {
        // SAFETY: takes nothing and cannot fail.
        unsafe { libc::gettid() }.cast_unsigned()
    });
    let tid = thread.join().expect("join");
    watch.until("thread", |event| match event.body {
        Body::Fork(fork) if fork.child_tid == tid => {
            assert!(fork.is_thread());
            assert_eq!(fork.child_tgid, std::process::id());
            Some(())
        }
        _ => None,
    });
    // The thread's end is no process's end.
    watch.finish(&mut |event| {
        assert!(
            !(matches!(event.body, Body::Exit(_)) && event.tgid == std::process::id()),
            "{event:?}"
        );
    });
}
