//! Machines that lack something: each refusal is told apart, and the rest goes on.

use saker::event::Body;
use saker::source::cast::Cast;
use saker::source::{Kind, Sensor, SensorConfig, SensorError, cgroup, offsets};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::device::renamed_node;
use crate::{Watch, exec_of, file, kernel_is_at_least, kinds, run, watch};

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
        // Tracepoints of calls are found in a file system, functions are not.
        let mut watch = watch(SensorConfig {
            disabled_hooks: vec![file::FUNCTIONS.to_owned()],
            ..kinds(&[Kind::DeviceOpen, Kind::Open])
        })
        .expect("loads");
        for row in watch.sensor.status().iter().filter(|row| row.wanted) {
            match row.kind {
                "open" => assert_eq!(row.hook, Some(file::hook(&[file::FUNCTIONS])), "{row:?}"),
                _ => assert_eq!(row.refused, [], "{row:?}"),
            }
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
        let error = load(SensorConfig {
            sheddable_ring_bytes: ring_bytes,
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

#[test]
fn signals_while_loading_are_survived() {
    extern "C" fn ignore(_: libc::c_int) {}
    // SAFETY: the handler does nothing, and the struct outlives the call.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = ignore as *const () as usize;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(libc::SIGUSR2, &raw const action, std::ptr::null_mut());
    }
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    // SAFETY: takes nothing and cannot fail.
    let loader = unsafe { libc::pthread_self() };
    let sender = std::thread::spawn({
        let done = std::sync::Arc::clone(&done);
        move || {
            loop {
                if done.load(std::sync::atomic::Ordering::Acquire) {
                    return;
                }
                // SAFETY: the loading thread lives until it has joined this one.
                unsafe { libc::pthread_kill(loader, libc::SIGUSR2) };
                std::thread::yield_now();
            }
        }
    });
    let watched = watch(kinds(&[Kind::Exec]));
    done.store(true, std::sync::atomic::Ordering::Release);
    sender.join().expect("the sender ends");
    let Some(watched) = watched else { return };
    assert!(
        watched
            .sensor
            .status()
            .iter()
            .all(|status| !status.wanted || status.hook.is_some())
    );
}

#[test]
fn kernels_that_have_it_are_read_by_plain_loads() {
    let Some(_watch) = watch(kinds(&[Kind::Exec])) else {
        return;
    };
    let found = offsets::read(None).expect("the kernel's types");
    let is_compiled = std::fs::read_to_string("/proc/sys/net/core/bpf_jit_enable");
    if is_compiled.is_ok_and(|enabled| enabled.trim() == "0") {
        return saker_tests::skip("this kernel does not compile its programs");
    }
    let works = found.cast.is_some_and(|cast| cast.works());
    assert_eq!(works, kernel_is_at_least(6, 2), "{:?}", found.cast);
    // A function that is not there for programs, and a type that is none.
    for wrong in [
        Cast {
            function: 1,
            type_number: 1,
        },
        Cast {
            type_number: u32::MAX,
            ..found.cast.unwrap_or(Cast {
                function: 1,
                type_number: 0,
            })
        },
    ] {
        assert!(!wrong.works(), "{wrong:?}");
    }
}
