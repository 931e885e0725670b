//! The hook of devices, and what stands in for it.

use saker::event::{Body, DeviceOpen, DeviceType, Text};
use saker::source::devices::Accelerators;
use saker::source::{Kind, SensorConfig};
use std::ffi::CString;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::file::own_tid;
use crate::{kinds, watch};

/// A device node with an accelerator's number under an innocent name.
pub fn renamed_node(folder: &Path) -> PathBuf {
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
            Body::DeviceOpen(device) if event.tid == own_tid() => {
                assert!(!device.path.cut);
                Some((
                    DeviceOpen {
                        path: Text {
                            bytes: &[],
                            cut: false,
                        },
                        ..device
                    },
                    device.path.bytes.to_vec(),
                ))
            }
            _ => None,
        })
    };
    let (made, path) = next();
    assert_eq!((made.mknod, made.read, made.write), (true, false, false));
    assert!(path.is_empty(), "nothing is opened: {path:?}");
    // No driver answers, but the kernel had been asked.
    let error = File::options()
        .read(true)
        .write(true)
        .open(&node)
        .expect_err("no such driver");
    assert_eq!(error.raw_os_error(), Some(libc::ENXIO));
    let (opened, path) = next();
    assert_eq!(path, node.as_os_str().as_bytes());
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
    watch.finish(&mut |event| assert_ne!(event.tid, own_tid(), "{event:?}"));
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
    watch.until("device", |event| match event.body {
        Body::DeviceOpen(device) if event.tid == own_tid() => {
            assert_eq!((device.major, device.minor), (1, 3));
            assert!(device.write && !device.read);
            Some(())
        }
        _ => None,
    });
    assert!(watch.sensor.refresh_accelerators().expect("refresh"));
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
fn the_path_is_the_one_that_is_being_opened() {
    let Some(mut watch) = watch(kinds(&[Kind::DeviceOpen])) else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let node = renamed_node(folder.path());
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&node, &link).expect("a link");
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).expect("no NUL");
    let directory = File::open(folder.path()).expect("the folder");
    let dfd = std::os::fd::AsRawFd::as_raw_fd(&directory);
    let detour = format!("{}innocent", "./".repeat(200));
    // SAFETY: C strings, a descriptor and integers; nothing is opened, as there is no driver.
    unsafe {
        // Asked for without being opened.
        libc::access(text(&node).as_ptr(), libc::R_OK);
        libc::open(text(&link).as_ptr(), libc::O_RDONLY);
        libc::openat(dfd, c"innocent".as_ptr(), libc::O_WRONLY);
        libc::openat(
            dfd,
            CString::new(detour.clone()).expect("no NUL").as_ptr(),
            libc::O_RDWR,
        );
    }
    let mut seen = Vec::new();
    watch.finish(&mut |event| {
        if let Body::DeviceOpen(open) = event.body
            && event.tid == own_tid()
            && !open.mknod
            && (open.major, open.minor) == (195, 0)
        {
            seen.push((open.path.bytes.to_vec(), open.path.cut));
        }
    });
    let whole = |path: &[u8]| (path.to_vec(), false);
    let beginning = detour.as_bytes()[..255].to_vec();
    for expected in [
        whole(link.as_os_str().as_bytes()),
        whole(b"innocent"),
        (beginning, true),
    ] {
        assert!(seen.contains(&expected), "{expected:?} in {seen:?}");
    }
    assert!(seen.contains(&whole(b"")), "access opens nothing: {seen:?}");
    assert_eq!(seen.len(), 4, "{seen:?}");
}
