//! Hooks of files opened by path.

use saker::event::{Body, OpenSyscall};
use saker::source::{Kind, SensorConfig};
use std::ffi::CString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::{kinds, watch};

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
