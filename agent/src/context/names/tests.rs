//! Names of the host and of containers, each from its own files.

use std::{
    fs,
    os::unix::fs::symlink,
    time::{Duration, Instant},
};

use super::*;

/// A `/proc` with processes of given mount namespaces, each with a root folder of its own.
struct Fake {
    folder: tempfile::TempDir,
}

impl Fake {
    fn new() -> Self {
        let fake = Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
        };
        fake.process(
            1,
            1,
            "root:x:0:0::/r:/bin/sh\nann:x:7:7::/a:/bin/sh\n",
            "0 0 4294967295",
        );
        fake
    }

    fn process(&self, pid: u32, mount_ns: u32, passwd: &str, map: &str) {
        let process = self.folder.path().join(pid.to_string());
        fs::create_dir_all(process.join("ns")).expect("a folder");
        fs::create_dir_all(process.join("root/etc")).expect("a folder");
        symlink(format!("mnt:[{mount_ns}]"), process.join("ns/mnt")).expect("a link");
        fs::write(process.join("root/etc/passwd"), passwd).expect("written");
        fs::write(process.join("root/etc/group"), "wheel:x:7:\n").expect("written");
        for file in ["uid_map", "gid_map"] {
            fs::write(process.join(file), map).expect("written");
        }
    }

    fn names(&self) -> Names {
        let mut names = Names::new(&self.folder.path().join("1/root"), self.folder.path());
        names.refresh(Instant::now());
        names
    }
}

/// A namespace whose root nobody changed.
fn ns(number: u32) -> MountNs {
    MountNs {
        number,
        ..MountNs::default()
    }
}

fn name(names: &Names, mount_ns: u32, uid: u32) -> Option<String> {
    name_in(names, ns(mount_ns), uid)
}

fn name_in(names: &Names, mount_ns: MountNs, uid: u32) -> Option<String> {
    let user = names.user(Some(mount_ns), uid)?;
    Some(String::from_utf8_lossy(&user.name).into_owned())
}

/// Waits until the reader has answered everything, without a bound on its time but the test's.
fn settle(names: &mut Names) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while names
        .containers
        .values()
        .any(|container| container.is_asked)
    {
        assert!(Instant::now() < deadline, "the reader does not answer");
        names.take_answers(Duration::ZERO, None);
        std::thread::yield_now();
    }
}

#[test]
fn containers_have_names_of_their_own() {
    let fake = Fake::new();
    fake.process(20, 2, "app:x:7:7::/app:/bin/app\n", "0 0 4294967295");
    fake.process(30, 3, "inner:x:7:7::/:/bin/sh\n", "0 100000 65536");
    let mut names = fake.names();
    for (mount_ns, pid) in [(1, 1), (2, 20), (3, 30)] {
        names.prepare(ns(mount_ns), pid, Instant::now());
    }
    settle(&mut names);
    let check = |mount_ns: u32, uid: u32, expected: Option<&str>| {
        assert_eq!(
            name(&names, mount_ns, uid).as_deref(),
            expected,
            "{mount_ns} {uid}"
        );
    };
    check(1, 7, Some("ann"));
    check(2, 7, Some("app"));
    check(2, 0, None);
    check(3, 100_007, Some("inner"));
    check(3, 7, None);
    check(4, 7, None);
    assert_eq!(names.group(Some(ns(3)), 100_007), Some(&b"wheel"[..]));
    assert_eq!(
        names.user(None, 7).map(|user| &*user.name),
        Some(&b"ann"[..])
    );
}

#[test]
fn a_file_that_changed_is_read_again() {
    let fake = Fake::new();
    fake.process(20, 2, "app:x:7:7::/app:/bin/app\n", "0 0 4294967295");
    let mut names = fake.names();
    let start = Instant::now();
    names.prepare(ns(2), 20, start);
    settle(&mut names);
    let passwd = fake
        .folder
        .path()
        .join("20")
        .join("root")
        .join("etc/passwd");
    fs::write(passwd, "changed:x:7:7::/app:/bin/app\n").expect("written");
    names.prepare(ns(2), 20, start);
    settle(&mut names);
    assert_eq!(
        name(&names, 2, 7).as_deref(),
        Some("app"),
        "not looked at again so soon"
    );
    names.prepare(ns(2), 20, Instant::now() + RECHECK_CONTAINER);
    settle(&mut names);
    assert_eq!(name(&names, 2, 7).as_deref(), Some("changed"));
}

#[test]
fn the_hosts_names_follow_its_files() {
    let fake = Fake::new();
    let start = Instant::now();
    let mut names = fake.names();
    let passwd = fake.folder.path().join("1").join("root").join("etc/passwd");
    fs::write(&passwd, "admin:x:0:0::/:/bin/sh\n").expect("written");
    names.refresh(start);
    assert_eq!(
        name(&names, 1, 0).as_deref(),
        Some("root"),
        "not within a second"
    );
    names.refresh(start + 2 * RECHECK);
    assert_eq!(name(&names, 1, 0).as_deref(), Some("admin"));
    fs::remove_file(&passwd).expect("removed");
    names.refresh(start + 4 * RECHECK);
    assert_eq!(name(&names, 1, 0), None);
}

#[test]
fn a_pid_that_went_to_another_namespace_names_nobody() {
    let fake = Fake::new();
    fake.process(20, 2, "app:x:7:7::/app:/bin/app\n", "0 0 4294967295");
    let mut names = fake.names();
    names.prepare(ns(9), 20, Instant::now());
    names.prepare(ns(8), 99, Instant::now());
    settle(&mut names);
    assert_eq!((name(&names, 9, 7), name(&names, 8, 7)), (None, None));
    // A process that is of it is asked with its next event.
    fake.process(21, 9, "late:x:7:7::/:/bin/sh\n", "0 0 4294967295");
    names.prepare(ns(9), 21, Instant::now());
    settle(&mut names);
    assert_eq!(name(&names, 9, 7).as_deref(), Some("late"));
}

#[test]
fn containers_come_and_go_within_bounds() {
    let fake = Fake::new();
    let mut names = fake.names();
    // Nobody waits for so many: no process has these numbers.
    names.waited = WAIT_PER_SECOND;
    let count = u32::try_from(CONTAINERS_MAX).expect("small") * 3;
    for mount_ns in 0..count {
        names.prepare(ns(1_000 + mount_ns), 1_000_000, Instant::now());
    }
    let (containers, evicted, _) = names.sizes();
    assert!(containers <= CONTAINERS_MAX, "{containers}");
    assert_eq!(containers as u64 + evicted, u64::from(count));
    assert!(names.containers.contains_key(&ns(1_000 + count - 1)));
}

#[test]
fn the_hosts_namespace_is_the_first_process_s_or_else_an_agents_outside_containers() {
    let fake = Fake::new();
    let own = std::process::id();
    let check = |cgroup: &str, expected: Option<u32>| {
        let file = fake.folder.path().join(own.to_string()).join("cgroup");
        fs::write(file, cgroup).expect("written");
        assert_eq!(fake.names().host_ns(), expected, "{cgroup}");
    };
    fake.process(own, 77, "", "");
    check("0::/system.slice/saker.service\n", Some(1));
    fs::remove_file(fake.folder.path().join("1/ns/mnt")).expect("removed");
    check("0::/system.slice/saker.service\n", Some(77));
    let id = "5a".repeat(32);
    check(&format!("0::/docker/{id}\n"), None);
}

#[test]
fn a_number_used_again_and_a_new_root_are_read_anew() {
    let fake = Fake::new();
    fake.process(20, 2, "first:x:7:7::/:/bin/sh\n", "0 0 4294967295");
    fake.process(21, 2, "second:x:7:7::/:/bin/sh\n", "0 0 4294967295");
    fake.process(22, 2, "third:x:7:7::/:/bin/sh\n", "0 0 4294967295");
    let mut names = fake.names();
    let early = MountNs {
        sequence: 5,
        root: (1, 2),
        ..ns(2)
    };
    let moved = MountNs {
        root: (40, 9),
        ..early
    };
    let later = MountNs {
        sequence: 6,
        ..early
    };
    for (mount_ns, pid, expected) in [
        (early, 20, "first"),
        (moved, 21, "second"),
        (later, 22, "third"),
    ] {
        names.prepare(mount_ns, pid, Instant::now());
        settle(&mut names);
        let found = name_in(&names, mount_ns, 7);
        assert_eq!(found.as_deref(), Some(expected), "{mount_ns:?}");
    }
    assert_eq!(name_in(&names, early, 7).as_deref(), Some("first"));
}

/// A file system whose owner never answers, until this is dropped.
struct Hanging {
    owner: Option<fs::File>,
    folder: std::path::PathBuf,
}

impl Hanging {
    fn mount_or_skip(folder: &std::path::Path) -> Option<Self> {
        use std::os::{fd::AsRawFd as _, unix::ffi::OsStrExt as _};

        let owner = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/fuse");
        let Ok(owner) = owner else {
            saker_tests::skip("/dev/fuse cannot be opened");
            return None;
        };
        let text = |text: &[u8]| std::ffi::CString::new(text).expect("no NUL");
        let (target, options) = (
            text(folder.as_os_str().as_bytes()),
            text(
                format!(
                    "fd={},rootmode=40000,user_id=0,group_id=0",
                    owner.as_raw_fd()
                )
                .as_bytes(),
            ),
        );
        // SAFETY: five pointers to texts that end with a zero.
        let mounted = unsafe {
            libc::mount(
                c"saker-tests".as_ptr(),
                target.as_ptr(),
                c"fuse".as_ptr(),
                0,
                options.as_ptr().cast(),
            )
        };
        if mounted < 0 {
            saker_tests::skip("a FUSE file system cannot be mounted");
            return None;
        }
        Some(Self {
            owner: Some(owner),
            folder: folder.into(),
        })
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        use std::os::unix::ffi::OsStrExt as _;

        // Without its owner nothing waits for it any more.
        self.owner = None;
        let folder = std::ffi::CString::new(self.folder.as_os_str().as_bytes()).expect("no NUL");
        // SAFETY: a text that ends with a zero.
        unsafe { libc::umount2(folder.as_ptr(), libc::MNT_DETACH) };
    }
}

#[test]
fn a_container_whose_files_hang_takes_no_names_from_others() {
    let fake = Fake::new();
    for (mount_ns, pid) in [(2, 20), (3, 30)] {
        fake.process(pid, mount_ns, "app:x:7:7::/:/bin/sh\n", "0 0 4294967295");
    }
    let Some(hanging) = Hanging::mount_or_skip(&fake.folder.path().join("20").join("root/etc"))
    else {
        return;
    };
    let mut names = fake.names();
    let mut now = Instant::now();
    let deadline = now + Duration::from_secs(20);
    names.prepare(ns(2), 20, now);
    names.prepare(ns(3), 30, now);
    // More often than readers may hang.
    for _ in 0..20 {
        now += Duration::from_secs(60);
        names.refresh(now);
        names.prepare(ns(2), 20, now);
        names.prepare(ns(3), 30, now);
        while names.containers[&ns(3)].is_asked {
            assert!(Instant::now() < deadline, "the other container waits");
            names.take_answers(Duration::ZERO, None);
            std::thread::yield_now();
        }
        assert_eq!(name(&names, 3, 7).as_deref(), Some("app"));
        assert_eq!(names.sizes().2, 1, "one hangs, and nobody follows it");
    }
    drop(hanging);
    while names.sizes().2 > 0 {
        assert!(Instant::now() < deadline, "who hung has not ended");
        std::thread::yield_now();
    }
}
