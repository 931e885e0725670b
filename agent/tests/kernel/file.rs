//! Hooks of files opened by path.

use saker::event::{Body, OpenSyscall};
use saker::source::{Kind, OpenFilter, SensorConfig, ShareLimit};
use std::ffi::CString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::{kernel_is_at_least, kinds, watch};

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

/// The ways to see an open: at the end of the functions, or of the calls, with the arguments that are still there, and with those that
/// the entry of the call kept. Each by what is not to be used for it.
const HOOKS: [&[&str]; 3] = [&[], &[FUNCTIONS], &[FUNCTIONS, END]];
pub const FUNCTIONS: &str = "fexit/open*";
const END: &str = "syscalls/open* (end)";

/// The hook that this machine must use.
pub fn hook(disabled: &[&str]) -> &'static str {
    let are_functions_open = kernel_is_at_least(5, 12)
        && matches!(
            aya::sys::is_program_supported(aya::programs::ProgramType::Tracing),
            Ok(true)
        );
    if are_functions_open && !disabled.contains(&FUNCTIONS) {
        FUNCTIONS
    } else if kernel_is_at_least(5, 15) && !disabled.contains(&END) {
        END
    } else {
        "syscalls/open*"
    }
}

fn opens(filter: OpenFilter, disabled: &[&str]) -> SensorConfig {
    SensorConfig {
        opens: filter,
        // What others open meanwhile takes nothing from what is opened here.
        share: ShareLimit {
            events_per_s: 0,
            ..ShareLimit::default()
        },
        disabled_hooks: disabled.iter().map(|name| (*name).to_owned()).collect(),
        ..kinds(&[Kind::Open])
    }
}

#[test]
fn opens_by_every_call_with_their_results() {
    for disabled in HOOKS {
        every_call(disabled);
    }
}

fn every_call(disabled: &[&str]) {
    let folder = tempfile::tempdir().expect("a folder");
    let prefix = folder.path().join("wanted").as_os_str().as_bytes().to_vec();
    let filter = OpenFilter {
        prefixes: vec![b"/dev/nvidia".to_vec(), prefix],
        ..OpenFilter::default()
    };
    let config = opens(filter, disabled);
    // Made before anybody watches: making it is an open too.
    let file = folder.path().join("wanted-file");
    fs::write(&file, b"").expect("write");
    let Some(mut watch) = watch(config) else {
        return;
    };
    let row = watch.sensor.status().iter().find(|row| row.kind == "open");
    assert_eq!(row.expect("a row").hook, Some(hook(disabled)), "{row:?}");
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
            assert!(!open.path.cut && !open.how_unreadable && !open.path_unreadable);
            assert!(!open.resolved.cut && !open.detached);
            let opened = if result < 0 { b"" } else { open.path.bytes };
            assert_eq!(open.resolved.bytes, opened);
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

/// Every hook, and the last again with the other way to read the kernel's memory.
fn ways_to_see() -> impl Iterator<Item = (&'static [&'static str], bool)> {
    let last = HOOKS[HOOKS.len() - 1];
    HOOKS
        .into_iter()
        .map(|disabled| (disabled, true))
        .chain([(last, false)])
}

/// This thread: other tests open files too.
pub fn own_tid() -> u32 {
    // SAFETY: takes nothing, cannot fail.
    unsafe { libc::gettid() as u32 }
}

/// Opens `path`, from the folder `dfd`.
fn open_at(dfd: i32, path: &str) -> i32 {
    let path = CString::new(path).expect("no NUL");
    // SAFETY: a C string and integers.
    let descriptor = unsafe { libc::openat(dfd, path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if descriptor >= 0 {
        // SAFETY: just opened, and nobody else's.
        unsafe { libc::close(descriptor) };
    }
    descriptor
}

/// The opens of this process that are reported when `act` runs under `filter`, as (as passed, resolved); and how many were not.
fn reported(
    filter: &OpenFilter,
    (disabled, plain_loads): (&[&str], bool),
    act: impl FnOnce(),
) -> Option<(Vec<(String, String)>, u64)> {
    let mut watch = watch(SensorConfig {
        plain_loads,
        ..opens(filter.clone(), disabled)
    })?;
    act();
    let mut seen = Vec::new();
    watch.finish(&mut |event| {
        if let Body::Open(open) = event.body
            && event.tid == own_tid()
        {
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            seen.push((text(open.path.bytes), text(open.resolved.bytes)));
        }
    });
    let opens = *watch.sensor.counters().expect("counters").kind(Kind::Open);
    assert_eq!(opens.lost(), 0, "{opens:?}");
    assert_eq!(opens.seen, opens.filtered + opens.submitted, "{opens:?}");
    Some((seen, opens.filtered))
}

#[test]
fn a_file_is_known_by_its_own_path_however_it_was_reached() {
    let outer = tempfile::tempdir().expect("a folder");
    let folder = outer.path().canonicalize().expect("its path");
    fs::create_dir_all(folder.join("secret/deep")).expect("folders");
    let file = folder.join("secret/deep/file");
    fs::write(&file, b"").expect("write");
    symlink(&file, folder.join("link")).expect("link");
    symlink("secret", folder.join("way")).expect("link");
    fs::write(folder.join("other"), b"").expect("write");
    let filter = OpenFilter {
        prefixes: vec![folder.join("secret").as_os_str().as_bytes().to_vec()],
        resolved: true,
        ..OpenFilter::default()
    };
    let name = folder.to_str().expect("text");
    let descriptor = File::open(&folder).expect("the folder");
    let dfd = std::os::fd::AsRawFd::as_raw_fd(&descriptor);
    let ways = [
        (libc::AT_FDCWD, format!("{name}/secret/deep/file")),
        (libc::AT_FDCWD, format!("{name}/link")),
        (libc::AT_FDCWD, format!("{name}//way/../secret/./deep/file")),
        (dfd, "way/deep/file".to_owned()),
        (
            libc::AT_FDCWD,
            format!("/proc/self/fd/{dfd}/secret/deep/file"),
        ),
    ];
    for way_to_see in ways_to_see() {
        let Some((seen, filtered)) = reported(&filter, way_to_see, || {
            for (dfd, way) in &ways {
                assert!(open_at(*dfd, way) >= 0, "{way}");
            }
            assert!(open_at(dfd, "other") >= 0);
            assert!(open_at(dfd, "not-there") < 0);
        }) else {
            return;
        };
        let resolved = file.to_str().expect("text").to_owned();
        let mut expected: Vec<_> = ways
            .iter()
            .map(|(_, way)| (way.clone(), resolved.clone()))
            .collect();
        // What failed has no path of its own, and may be written in many ways: it is reported.
        expected.push(("not-there".to_owned(), String::new()));
        assert_eq!(seen, expected, "{way_to_see:?}");
        assert!(filtered >= 1, "{way_to_see:?}");
    }
}

#[test]
fn of_one_extension_only_the_names_are_reported_that_are_asked_for() {
    let outer = tempfile::tempdir().expect("a folder");
    let folder = outer.path().canonicalize().expect("its path");
    let wanted = [
        "m.pkl.gz",
        ".pkl.gz",
        "a.b.pkl.gz",
        "_pickle.cpython-311-x86_64-linux-gnu.so",
        "_ctypes.so",
    ];
    let unwanted = [
        "m.gz",
        "m.1.gz",
        "pkl.gz",
        "m.xpkl.gz",
        "m.pkl",
        "libc.so",
        "_picklex.so",
        "x_pickle.so",
        "_pickle.py",
        ".so",
    ];
    for name in wanted.iter().chain(&unwanted) {
        fs::write(folder.join(name), b"").expect("write");
    }
    let filter = OpenFilter {
        extensions: vec![b".pkl.gz".to_vec()],
        modules: true,
        ..OpenFilter::default()
    };
    let path = |name: &str| folder.join(name).to_str().expect("text").to_owned();
    for way_to_see in ways_to_see() {
        let Some((seen, filtered)) = reported(&filter, way_to_see, || {
            for name in wanted.iter().chain(&unwanted) {
                assert!(open_at(libc::AT_FDCWD, &path(name)) >= 0, "{name}");
            }
            for name in ["not-there.pkl.gz", "not-there.gz", "_pickle.not-there.so"] {
                assert!(open_at(libc::AT_FDCWD, &path(name)) < 0, "{name}");
            }
        }) else {
            return;
        };
        let mut expected: Vec<_> = wanted.iter().map(|name| (path(name), path(name))).collect();
        expected.push((path("not-there.pkl.gz"), String::new()));
        assert_eq!(seen, expected, "{way_to_see:?}");
        assert!(filtered >= unwanted.len() as u64 + 2, "{way_to_see:?}");
    }
}

/// Opens `path` as a user without rights; the error's negative number.
fn refused(path: &str, flags: i32) -> i32 {
    let path = CString::new(path).expect("no NUL");
    // SAFETY: a C string and integers; the user for files is this thread's alone.
    unsafe {
        libc::setfsuid(65534);
        let descriptor = libc::openat(libc::AT_FDCWD, path.as_ptr(), flags | libc::O_CLOEXEC);
        let error = std::io::Error::last_os_error();
        libc::setfsuid(0);
        assert_eq!(descriptor, -1, "{path:?} was opened");
        -error.raw_os_error().expect("an errno")
    }
}

#[test]
fn a_refused_open_is_reported_with_the_reason() {
    let outer = tempfile::tempdir().expect("a folder");
    let folder = outer.path().canonicalize().expect("its path");
    let name = |file: &str| folder.join(file).to_str().expect("text").to_owned();
    let mode = |file: &str, mode| {
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(name(file), permissions).expect("its mode");
    };
    fs::create_dir(name("closed")).expect("a folder");
    for file in ["secret", "shown", "closed/secret"] {
        fs::write(name(file), b"").expect("write");
    }
    for (file, bits) in [
        ("", 0o755),
        ("secret", 0o600),
        ("shown", 0o644),
        ("closed", 0o700),
    ] {
        mode(file, bits);
    }
    let acts = [
        // The file's mode, that of a folder on the way, and what only the owner may ask for.
        ("secret", libc::O_RDONLY, -libc::EACCES),
        ("shown", libc::O_WRONLY, -libc::EACCES),
        ("closed/secret", libc::O_RDONLY, -libc::EACCES),
        ("shown", libc::O_RDONLY | libc::O_NOATIME, -libc::EPERM),
    ];
    let filter = OpenFilter {
        prefixes: vec![folder.as_os_str().as_bytes().to_vec()],
        resolved: true,
        ..OpenFilter::default()
    };
    for (disabled, plain_loads) in ways_to_see() {
        let Some(mut watch) = watch(SensorConfig {
            plain_loads,
            ..opens(filter.clone(), disabled)
        }) else {
            return;
        };
        for (file, flags, error) in acts {
            assert_eq!(refused(&name(file), flags), error, "{file}");
        }
        let mut seen = Vec::new();
        watch.finish(&mut |event| {
            if let Body::Open(open) = event.body
                && event.tid == own_tid()
            {
                assert!(open.resolved.bytes.is_empty(), "{open:?}");
                let flags = open.flags as i32 & !(libc::O_CLOEXEC | libc::O_LARGEFILE);
                let path = String::from_utf8_lossy(open.path.bytes).into_owned();
                seen.push((path, flags, open.res));
            }
        });
        let expected = acts.map(|(file, flags, error)| (name(file), flags, error));
        assert_eq!(seen, expected, "{disabled:?}");
    }
}

#[test]
fn only_names_with_a_wanted_extension_are_reported() {
    let outer = tempfile::tempdir().expect("a folder");
    let folder = outer.path().canonicalize().expect("its path");
    let long = format!("{}.safetensors", "n".repeat(200));
    let wanted = [".pt", "m.pt", "a.b.pt", &long, "15.safetensors"];
    let unwanted = [
        "pt",
        "m.ptx",
        "m.p",
        "m.PT",
        "m.pt.",
        "m.pt~",
        "safetensors",
        "x.very-long-extension.",
        "m.ptt",
        ".p",
    ];
    for name in wanted.iter().chain(&unwanted) {
        fs::write(folder.join(name), b"").expect("write");
    }
    fs::create_dir(folder.join("d.pt")).expect("a folder");
    fs::write(folder.join("d.pt/inside"), b"").expect("write");
    symlink("m.pt", folder.join("hidden")).expect("link");
    symlink("pt", folder.join("shown.pt")).expect("link");
    let filter = OpenFilter {
        extensions: vec![b".pt".to_vec(), b".safetensors".to_vec()],
        ..OpenFilter::default()
    };
    let path = |name: &str| folder.join(name).to_str().expect("text").to_owned();
    for way_to_see in ways_to_see() {
        let Some((seen, filtered)) = reported(&filter, way_to_see, || {
            for name in wanted.iter().chain(&unwanted) {
                assert!(open_at(libc::AT_FDCWD, &path(name)) >= 0, "{name}");
            }
            for name in ["d.pt/inside", "hidden", "shown.pt"] {
                assert!(open_at(libc::AT_FDCWD, &path(name)) >= 0, "{name}");
            }
            for name in ["not-there.pt", "not-there.txt", "n.tp", "not-there"] {
                assert!(open_at(libc::AT_FDCWD, &path(name)) < 0, "{name}");
            }
            assert!(open_at(-1, ".pt") < 0);
            assert!(open_at(-1, "t") < 0);
        }) else {
            return;
        };
        let mut expected: Vec<_> = wanted.iter().map(|name| (path(name), path(name))).collect();
        expected.push((path("hidden"), path("m.pt")));
        expected.push((path("not-there.pt"), String::new()));
        expected.push((".pt".to_owned(), String::new()));
        assert_eq!(seen, expected, "{way_to_see:?}");
        assert!(filtered >= unwanted.len() as u64 + 6, "{way_to_see:?}");
    }
}
