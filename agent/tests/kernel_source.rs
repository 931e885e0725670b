//! Every hook of the sensor on the real kernel, each with a real act. Needs root; says so and passes without.

mod kernel;

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::Write;
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use kernel::{Watch, watch};
use saker::event::{Body, Connect, DeviceType, Event, Exec, OpenSyscall};
use saker::source::devices::Accelerators;
use saker::source::{Kind, Sensor, SensorConfig, SensorError, cgroup, offsets};

fn kinds(kinds: &[Kind]) -> SensorConfig {
    SensorConfig {
        kinds: kinds.iter().copied().collect(),
        ring_bytes: 1 << 20,
        ..SensorConfig::default()
    }
}

/// The exec event of the process `pid`.
fn exec_of<T>(watch: &mut Watch, pid: u32, f: impl Fn(&Event<'_>, &Exec<'_>) -> T) -> T {
    watch.until("exec", |event| match &event.body {
        Body::Exec(exec) if event.tgid == pid => Some(f(event, exec)),
        _ => None,
    })
}

fn run(command: &mut Command) -> u32 {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("spawn");
    child.wait().expect("wait");
    child.id()
}

fn owned(argv: &Exec<'_>) -> Vec<Vec<u8>> {
    argv.argv.iter().map(<[u8]>::to_vec).collect()
}

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
        for (link, found) in [("mnt", exec.mount_ns), ("pid", exec.pid_ns)] {
            let expected = fs::read_link(format!("/proc/self/ns/{link}")).expect("read link");
            let found = format!("{link}:[{}]", found.expect("is known"));
            assert_eq!(expected, PathBuf::from(found));
        }
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

fn path_call(syscall: libc::c_long, path: &Path, second: u64, third: u64) -> i32 {
    let path = CString::new(path.as_os_str().as_bytes()).expect("no NUL");
    let how = [second, third, 0u64];
    let at = i64::from(libc::AT_FDCWD);
    // SAFETY: each call gets a C string and the integers or the struct that it takes.
    let result = unsafe {
        match syscall {
            libc::SYS_openat2 => libc::syscall(syscall, at, path.as_ptr(), how.as_ptr(), 24usize),
            libc::SYS_openat => libc::syscall(syscall, at, path.as_ptr(), second, third),
            _ => libc::syscall(syscall, path.as_ptr(), second, third),
        }
    };
    if result >= 0 {
        // SAFETY: the descriptor was just opened and is nobody else's.
        unsafe { libc::close(result as i32) };
        return result as i32;
    }
    -std::io::Error::last_os_error()
        .raw_os_error()
        .expect("an errno")
}

#[test]
fn opens_by_every_call_with_their_results() {
    let folder = tempfile::tempdir().expect("a folder");
    let prefix = folder.path().join("wanted").as_os_str().as_bytes().to_vec();
    let config = SensorConfig {
        open_prefixes: vec![b"/dev/nvidia".to_vec(), prefix],
        ..kinds(&[Kind::Open])
    };
    // Made before anybody watches: making it is an open too.
    let file = folder.path().join("wanted-file");
    fs::write(&file, b"").expect("write");
    let Some(mut watch) = watch(config) else {
        return;
    };
    let mut check = |syscall, call, path: &Path, second, third, flags, mode| {
        // What nobody asked for comes first: it must not be what is found.
        let _ = File::open("/etc/hostname");
        let result = path_call(syscall, path, second, third);
        watch.until("open", |event| {
            let Body::Open(open) = event.body else {
                return None;
            };
            assert_ne!(open.path.bytes, b"/etc/hostname");
            if event.tgid != std::process::id()
                || open.syscall != call
                || open.path.bytes != path.as_os_str().as_bytes()
            {
                return None;
            }
            assert_eq!(
                (open.flags, open.mode, open.res),
                (flags, mode, result),
                "{open:?}"
            );
            assert_eq!(open.dfd, libc::AT_FDCWD);
            assert!(!open.path.cut && !open.how_unreadable);
            Some(())
        });
        result
    };
    let read_write = libc::O_RDWR as u64;
    let missing = Path::new("/dev/nvidia-not-there");
    use OpenSyscall::{Creat, Open, Openat, Openat2};
    assert!(
        check(
            libc::SYS_openat,
            Openat,
            &file,
            read_write,
            0,
            read_write,
            0
        ) >= 0
    );
    assert_eq!(
        check(
            libc::SYS_openat,
            Openat,
            missing,
            read_write,
            0o600,
            read_write,
            0o600
        ),
        -libc::ENOENT
    );
    assert!(
        check(
            libc::SYS_openat2,
            Openat2,
            &file,
            read_write,
            0,
            read_write,
            0
        ) >= 0
    );
    assert_eq!(
        check(libc::SYS_openat2, Openat2, missing, 0, 0, 0, 0),
        -libc::ENOENT
    );
    #[cfg(target_arch = "x86_64")]
    {
        let created = (libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC) as u64;
        assert!(check(libc::SYS_open, Open, &file, read_write, 0, read_write, 0) >= 0);
        assert!(check(libc::SYS_creat, Creat, &file, 0o640, 0, created, 0o640) >= 0);
    }
    let opens = *watch.sensor.counters().expect("counters").kind(Kind::Open);
    assert!(opens.filtered >= 6, "{opens:?}");
}

#[test]
fn an_open_without_a_readable_path_is_no_loss() {
    let Some(mut watch) = watch(kinds(&[Kind::Open])) else {
        return;
    };
    // SAFETY: the kernel refuses the address.
    let result = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, 8usize, 0, 0) };
    assert_eq!(result, -1);
    watch.finish(&mut |_| {});
    let opens = *watch.sensor.counters().expect("counters").kind(Kind::Open);
    assert_eq!(opens.lost(), 0, "{opens:?}");
}

/// A device node with an accelerator's number under an innocent name.
fn renamed_node(folder: &Path) -> PathBuf {
    let path = folder.join("innocent");
    let name = CString::new(path.as_os_str().as_bytes()).expect("no NUL");
    // SAFETY: takes a C string and integers.
    let made = unsafe { libc::mknod(name.as_ptr(), libc::S_IFCHR | 0o600, libc::makedev(195, 0)) };
    assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
    path
}

#[test]
fn a_renamed_device_is_seen_by_its_number() {
    let Some(mut watch) = watch(kinds(&[Kind::DeviceOpen])) else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let node = renamed_node(folder.path());
    let mut next = || {
        watch.until("device", |event| match event.body {
            Body::DeviceOpen(device) if event.tgid == std::process::id() => Some(device),
            _ => None,
        })
    };
    let made = next();
    assert_eq!((made.mknod, made.read, made.write), (true, false, false));
    // No driver answers, but the kernel had been asked.
    let error = File::options()
        .read(true)
        .write(true)
        .open(&node)
        .expect_err("no such driver");
    assert_eq!(error.raw_os_error(), Some(libc::ENXIO));
    let opened = next();
    assert_eq!(
        (opened.major, opened.minor, opened.dev_type),
        (195, 0, DeviceType::Character)
    );
    assert_eq!(
        (opened.mknod, opened.read, opened.write),
        (false, true, true)
    );
    assert_eq!(
        watch.sensor.accelerators().path(195, 0).as_deref(),
        Some("/dev/nvidia0")
    );
    // Other devices are counted and dropped.
    File::open("/dev/null").expect("open");
    watch.finish(&mut |event| assert_ne!(event.tgid, std::process::id(), "{event:?}"));
    let devices = *watch
        .sensor
        .counters()
        .expect("counters")
        .kind(Kind::DeviceOpen);
    assert!(devices.filtered > 0, "{devices:?}");
}

#[test]
fn a_driver_loaded_later_is_watched_too() {
    let Some(mut watch) = watch(kinds(&[Kind::DeviceOpen])) else {
        return;
    };
    assert!(!watch.sensor.refresh_accelerators().expect("refresh"));
    // No driver is loaded for a test; /dev/null's stands in for it.
    File::open("/dev/null").expect("open");
    let later = Accelerators::parse("Character devices:\n  1 nvidia-uvm\n");
    watch.sensor.watch_accelerators(later).expect("watch");
    File::options().write(true).open("/dev/null").expect("open");
    let first = watch.until("device", |event| match event.body {
        Body::DeviceOpen(device) if event.tgid == std::process::id() => Some(device),
        _ => None,
    });
    assert_eq!((first.major, first.minor), (1, 3));
    assert!(first.write && !first.read);
    assert!(watch.sensor.refresh_accelerators().expect("refresh"));
}

/// Acts, and returns this process's connect event to `port`.
fn connect_to(watch: &mut Watch, port: u16, act: impl FnOnce()) -> Connect {
    act();
    watch.until("connect", |event| match event.body {
        Body::Connect(connect) if event.tgid == std::process::id() && connect.port == port => {
            Some(connect)
        }
        _ => None,
    })
}

#[test]
fn connections_are_seen_as_attempts() {
    let Some(mut watch) = watch(kinds(&[Kind::Connect])) else {
        return;
    };
    assert_eq!(
        watch
            .sensor
            .status()
            .iter()
            .find(|row| row.kind == "connect")
            .expect("a row")
            .hook,
        Some("cgroup/connect")
    );
    let listener = TcpListener::bind("[::]:0").expect("bind");
    let port = listener.local_addr().expect("address").port();
    for (address, expected, is_inet6) in [
        ("127.0.0.1", "127.0.0.1", false),
        ("::1", "::1", true),
        ("::ffff:127.0.0.1", "127.0.0.1", true),
    ] {
        let address: IpAddr = address.parse().expect("an address");
        let connect = connect_to(&mut watch, port, || {
            TcpStream::connect((address, port)).expect("connect");
        });
        let expected: IpAddr = expected.parse().expect("an address");
        assert_eq!((connect.addr, connect.is_inet6), (expected, is_inet6));
        assert_eq!(
            (connect.protocol, connect.res),
            (Some(libc::IPPROTO_TCP as u16), -libc::EINPROGRESS)
        );
        assert_eq!(connect.socket_type, Some(libc::SOCK_STREAM as u16));
    }
    let datagrams = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let port = datagrams.local_addr().expect("address").port();
    let connect = connect_to(&mut watch, port, || {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
        socket.connect(("127.0.0.1", port)).expect("connect");
    });
    assert_eq!(connect.protocol, Some(libc::IPPROTO_UDP as u16));
    assert_eq!(connect.socket_type, Some(libc::SOCK_DGRAM as u16));
}

#[test]
fn tracepoints_stand_in_for_the_connect_hooks() {
    let Some(mut watch) = watch(SensorConfig {
        disabled_hooks: vec!["cgroup/connect".to_owned()],
        ..kinds(&[Kind::Connect])
    }) else {
        return;
    };
    let status = watch
        .sensor
        .status()
        .iter()
        .find(|row| row.kind == "connect")
        .expect("a row")
        .clone();
    assert_eq!(status.hook, Some("syscalls/connect"));
    assert_eq!(status.refused[0].reason, "disabled by configuration");
    assert!(!status.lost.is_empty());
    let listener = TcpListener::bind("[::]:0").expect("bind");
    let port = listener.local_addr().expect("address").port();
    for address in ["127.0.0.1", "::1"] {
        let address: IpAddr = address.parse().expect("an address");
        let connect = connect_to(&mut watch, port, || {
            TcpStream::connect((address, port)).expect("connect");
        });
        assert_eq!(
            (connect.addr, connect.protocol, connect.res),
            (address, None, 0)
        );
    }
    drop(listener);
    let connect = connect_to(&mut watch, port, || {
        TcpStream::connect(("127.0.0.1", port)).expect_err("nobody listens");
    });
    assert_eq!(connect.res, -libc::ECONNREFUSED);
}

#[test]
fn opens_stand_in_for_the_device_hook() {
    let Some(mut watch) = watch(SensorConfig {
        disabled_hooks: vec!["cgroup_device".to_owned()],
        ..kinds(&[Kind::DeviceOpen])
    }) else {
        return;
    };
    let status = watch
        .sensor
        .status()
        .iter()
        .find(|row| row.kind == "device_open")
        .expect("a row")
        .clone();
    assert_eq!(status.hook, Some("syscalls/open* on device paths"));
    let _ = File::open("/dev/nvidia-not-there");
    watch.until("open", |event| match event.body {
        Body::Open(open) if open.path.bytes == b"/dev/nvidia-not-there" => Some(()),
        _ => None,
    });
}

#[test]
fn a_hook_that_cannot_attach_leaves_the_rest() {
    let Some(mut watch) = watch(SensorConfig {
        disabled_hooks: vec!["raw_tp/sched_process_exit".to_owned()],
        ..kinds(&[Kind::Exec, Kind::Exit])
    }) else {
        return;
    };
    let status = watch
        .sensor
        .status()
        .iter()
        .find(|row| row.kind == "exit")
        .expect("a row")
        .clone();
    assert_eq!(
        (status.hook, status.refused.len(), status.lost.len()),
        (None, 1, 1)
    );
    let started = run(&mut Command::new("/bin/true"));
    exec_of(&mut watch, started, |_, _| ());
}

#[test]
fn the_agent_does_not_see_its_own_connections_and_devices() {
    // By this sensor's configuration, so past the harness, which turns it off.
    let config = SensorConfig {
        own_tgid: std::process::id(),
        ..kinds(&[Kind::DeviceOpen, Kind::Connect, Kind::Exec])
    };
    let mut sensor = match Sensor::load(&config) {
        Ok(sensor) => sensor,
        Err(error) => return saker_tests::skip(&error.to_string()),
    };
    let folder = tempfile::tempdir().expect("a folder");
    let node = renamed_node(folder.path());
    let _ = File::open(&node);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    socket.connect(("127.0.0.1", 9)).expect("connect");
    let child = run(Command::new("/bin/cat").arg(&node));
    sensor.detach().expect("detach");
    let (mut own, mut childs) = (0, BTreeSet::new());
    while sensor.drain(1000, &mut |record| {
        let event = saker::decode::decode(record).expect("decodes");
        own += u32::from(event.tgid == std::process::id());
        if event.tgid == child {
            childs.extend(event.kind());
        }
    }) > 0
    {}
    assert_eq!(own, 0);
    assert_eq!(childs, BTreeSet::from([Kind::Exec, Kind::DeviceOpen]));
}

#[test]
fn ten_thousand_short_processes_are_ten_thousand_events() {
    const PROCESSES: usize = 10_000;
    let Some(mut watch) = watch(SensorConfig {
        ring_bytes: 4 << 20,
        ..kinds(&[Kind::Exec, Kind::Fork, Kind::Exit])
    }) else {
        return;
    };
    let spawner = std::thread::spawn(|| {
        for number in 0..PROCESSES {
            run(Command::new("/bin/true").arg(number.to_string()));
        }
    });
    let mut execs = vec![0u32; PROCESSES];
    let mut delivered = std::collections::BTreeMap::<Kind, u64>::new();
    let mut take = |event: &Event<'_>| {
        *delivered
            .entry(event.kind().expect("from the kernel"))
            .or_default() += 1;
        if let Body::Exec(exec) = &event.body
            && event.ppid == std::process::id()
            && let [program, number] = owned(exec).as_slice()
            && program == b"/bin/true"
        {
            let number: usize = String::from_utf8_lossy(number).parse().expect("a number");
            execs[number] += 1;
        }
    };
    while !spawner.is_finished() {
        watch.sensor.poll(Duration::from_millis(50)).expect("poll");
        watch.sensor.drain(4096, &mut |record| {
            take(&saker::decode::decode(record).expect("decodes"));
        });
    }
    spawner.join().expect("join");
    watch.finish(&mut take);
    let counters = watch.sensor.counters().expect("counters");
    for (kind, counts) in counters.iter() {
        eprintln!(
            "{}: delivered {}, {counts:?}",
            kind.name(),
            delivered.get(&kind).unwrap_or(&0)
        );
        assert_eq!(
            counts.seen,
            counts.filtered + counts.submitted + counts.lost(),
            "{kind:?}"
        );
        assert_eq!(
            counts.submitted,
            delivered.get(&kind).copied().unwrap_or(0),
            "{kind:?}"
        );
    }
    assert_eq!(counters.lost(), 0);
    let wrong: Vec<usize> = (0..PROCESSES)
        .filter(|number| execs[*number] != 1)
        .collect();
    assert_eq!(
        wrong, [0usize; 0],
        "numbers whose exec did not come exactly once"
    );
}

#[test]
fn a_full_ring_loses_by_count() {
    let Some(mut watch) = watch(SensorConfig {
        ring_bytes: 8192,
        kernel_log: Some(aya_log::Level::Warn),
        ..kinds(&[Kind::Exec, Kind::Fork, Kind::Exit])
    }) else {
        return;
    };
    for _ in 0..100 {
        run(&mut Command::new("/bin/true"));
    }
    let mut delivered = 0u64;
    watch.finish(&mut |_| delivered += 1);
    let counters = watch.sensor.counters().expect("counters");
    let sum = |count: fn(&saker::source::sensor::KindCounters) -> u64| -> u64 {
        counters.iter().map(|(_, counts)| count(counts)).sum()
    };
    assert_eq!(sum(|counts| counts.submitted), delivered);
    assert!(sum(|counts| counts.lost_ring_full) > 0);
    assert_eq!(
        sum(|counts| counts.seen),
        sum(|counts| counts.filtered + counts.submitted) + counters.lost()
    );
}

#[test]
fn nothing_comes_after_detaching() {
    let Some(mut watch) = watch(kinds(&[Kind::Exec])) else {
        return;
    };
    watch.finish(&mut |_| {});
    let before = watch.sensor.counters().expect("counters");
    let _ = run(&mut Command::new("/bin/true"));
    assert_eq!(watch.sensor.drain(100, &mut |_| ()), 0);
    assert_eq!(watch.sensor.counters().expect("counters"), before);
}

#[test]
fn a_drain_stops_at_its_cap() {
    let Some(mut watch) = watch(kinds(&[Kind::Exec])) else {
        return;
    };
    for _ in 0..200 {
        run(&mut Command::new("/bin/true"));
    }
    watch.sensor.detach().expect("detach");
    let mut handed = 0;
    assert_eq!(watch.sensor.drain(150, &mut |_| handed += 1), 150);
    assert_eq!(handed, 150);
    assert!(watch.sensor.drain(10_000, &mut |_| handed += 1) >= 50);
    assert_eq!(watch.sensor.drain(1, &mut |_| ()), 0);
}

#[test]
fn a_waker_ends_a_wait() {
    let Some(mut watch) = watch(kinds(&[])) else {
        return;
    };
    let waker = watch.sensor.waker();
    let thread = std::thread::spawn(move || waker.wake());
    assert!(!watch.sensor.poll(Duration::from_secs(600)).expect("poll"));
    thread.join().expect("join");
}

/// The kernel's own type information with a member called something else, as on a kernel that does not have it.
fn without_member(folder: &Path, member: &str) -> PathBuf {
    let mut bytes = fs::read(offsets::KERNEL_BTF).expect("the kernel's BTF");
    let name = [b"\0", member.as_bytes(), b"\0"].concat();
    let places: Vec<usize> = bytes
        .windows(name.len())
        .enumerate()
        .filter_map(|(at, window)| (window == name).then_some(at))
        .collect();
    assert!(!places.is_empty(), "{member}");
    for at in places {
        bytes[at + 1] = b'?';
    }
    let path = folder.join(member);
    fs::write(&path, bytes).expect("write");
    path
}

#[test]
fn a_missing_field_disables_what_needs_it_and_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let with = |member: &str| {
        watch(SensorConfig {
            btf_path: Some(without_member(folder.path(), member)),
            ..kinds(&[Kind::Exec, Kind::Fork])
        })
    };
    // Needed by exec records alone.
    let Some(mut without_arguments) = with("arg_start") else {
        return;
    };
    let row = |watch: &Watch, kind: &str| {
        let rows = watch.sensor.status();
        rows.iter()
            .find(|row| row.kind == kind)
            .expect("a row")
            .clone()
    };
    let exec = row(&without_arguments, "exec");
    assert_eq!(exec.hook, None);
    assert_eq!(
        exec.refused[0].reason,
        "the kernel lacks mm_struct.arg_start: no member arg_start"
    );
    assert_eq!(row(&without_arguments, "fork").refused, []);
    let child = run(&mut Command::new("/bin/true"));
    without_arguments.until("fork", |event| match event.body {
        Body::Fork(fork) if fork.child_tgid == child => Some(()),
        _ => None,
    });

    // Needed by nothing: the record says that it does not know.
    for (member, lost) in [
        (
            "loginuid",
            "login user and audit session (task_struct.loginuid: no member loginuid)",
        ),
        (
            "mnt_ns",
            "mount namespace (nsproxy.mnt_ns: no member mnt_ns)",
        ),
        (
            "thread_pid",
            "process id in the container, session leader, pid namespace \
             (task_struct.thread_pid: no member thread_pid)",
        ),
    ] {
        let mut watch = with(member).expect("loads");
        let exec = row(&watch, "exec");
        assert!(exec.hook.is_some() && exec.lost == [lost], "{exec:?}");
        let started = run(&mut Command::new("/bin/true"));
        exec_of(&mut watch, started, |_, exec| match member {
            "loginuid" => assert_eq!(exec.loginuid, None),
            "mnt_ns" => assert_eq!(exec.mount_ns, None),
            _ => assert_eq!(
                (exec.ns_tgid, exec.session_leader, exec.pid_ns),
                (None, None, None)
            ),
        });
    }

    // Needed by every header: nothing is left.
    let error = Sensor::load(&SensorConfig {
        btf_path: Some(without_member(folder.path(), "start_boottime")),
        ..SensorConfig::default()
    })
    .err()
    .expect("must not load");
    assert!(matches!(error, SensorError::NoHook { .. }), "{error:?}");
    assert!(
        error.to_string().contains("task_struct.start_boottime"),
        "{error}"
    );
}

#[test]
fn file_systems_that_nobody_mounted_are_reached_all_the_same() {
    if watch(kinds(&[])).is_none() {
        return;
    }
    // A thread can have a mount namespace of its own, in which nobody else's mounts are undone.
    let thread = std::thread::spawn(|| {
        // SAFETY: these calls take flags and C strings.
        unsafe {
            assert_eq!(libc::unshare(libc::CLONE_NEWNS), 0);
            let nothing = std::ptr::null();
            let private = libc::MS_REC | libc::MS_PRIVATE;
            assert_eq!(
                libc::mount(nothing, c"/".as_ptr(), nothing, private, nothing.cast()),
                0
            );
            assert_eq!(libc::umount2(c"/sys".as_ptr(), libc::MNT_DETACH), 0);
            // The kernel's BTF is in sysfs, so that much is put back, bare.
            assert_eq!(
                libc::mount(
                    c"none".as_ptr(),
                    c"/sys".as_ptr(),
                    c"sysfs".as_ptr(),
                    0,
                    nothing.cast()
                ),
                0
            );
        }
        assert_eq!(cgroup::open_root().expect("a root cgroup").path, None);
        let mut watch = watch(kinds(&[Kind::DeviceOpen, Kind::Open])).expect("loads");
        for row in watch.sensor.status().iter().filter(|row| row.wanted) {
            assert_eq!(row.refused, [], "{row:?}");
        }
        let folder = tempfile::tempdir().expect("a folder");
        let _ = File::open(renamed_node(folder.path()));
        watch.until("device", |event| match event.body {
            Body::DeviceOpen(device) if device.read && event.tgid == std::process::id() => Some(()),
            _ => None,
        });
        let _ = File::open("/dev/nvidia-not-there");
        watch.until("open", |event| {
            matches!(event.body, Body::Open(_)).then_some(())
        });
    });
    thread.join().expect("join");
}

#[test]
fn machines_that_cannot_are_told_apart() {
    let load = |config: SensorConfig| Sensor::load(&config).err();
    // Of the ring's size nothing needs to be loaded to know.
    for ring_bytes in [0, 4096, 12_345] {
        let error = load(SensorConfig {
            ring_bytes,
            ..SensorConfig::default()
        });
        assert!(
            matches!(error, Some(SensorError::RingRefused { .. })),
            "{error:?}"
        );
    }
    let unprivileged = std::thread::spawn(|| {
        drop_capabilities();
        Sensor::load(&SensorConfig::default()).err()
    });
    let error = unprivileged.join().expect("join").expect("must not load");
    assert!(
        matches!(error, SensorError::NotPermitted { .. }),
        "{error:?}"
    );
    assert!(
        error
            .to_string()
            .contains("CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN"),
        "{error}"
    );

    if watch(kinds(&[])).is_none() {
        return;
    }
    let with_btf = |path: &Path| SensorConfig {
        btf_path: Some(path.to_owned()),
        ..SensorConfig::default()
    };
    let error = load(with_btf(Path::new("/nowhere/vmlinux")));
    assert!(
        matches!(error, Some(SensorError::NoBtf { .. })),
        "{error:?}"
    );
    let error = load(with_btf(Path::new("/bin/true")));
    assert!(
        matches!(error, Some(SensorError::BadBtf { .. })),
        "{error:?}"
    );
    let error = Sensor::load_object(b"no object", &SensorConfig::default()).err();
    assert!(
        matches!(error, Some(SensorError::ObjectDamaged { .. })),
        "{error:?}"
    );
    let all = ["raw_tp/sched_process_exec".to_owned()].to_vec();
    let error = load(SensorConfig {
        disabled_hooks: all,
        ..kinds(&[Kind::Exec])
    });
    assert!(
        matches!(error, Some(SensorError::NoHook { .. })),
        "{error:?}"
    );
}

/// Takes every capability from this thread, and from no other.
fn drop_capabilities() {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let none = [0u32; 6];
    // SAFETY: the header names a version whose data is two times three words.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}
