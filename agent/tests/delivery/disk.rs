//! The disk is full, or read-only, and comes back: nothing acknowledged is lost, and delivery goes on meanwhile.

use std::{fs, os::unix::ffi::OsStrExt as _, path::Path, process::Command};

use saker::sink::file::{FileTarget, Settings as FileSettings};

use super::{AlertLog, DEADLINE, alert, counts, finish, number, open, parse, start, until};

/// A file system of its own in memory, of so many bytes; gone with it.
struct Small(tempfile::TempDir);

impl Small {
    fn mount(bytes: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        mount(folder.path(), 0, &format!("size={bytes}"));
        Self(folder)
    }

    fn remount(&self, flags: u64) {
        mount(self.0.path(), libc::MS_REMOUNT | flags, "");
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let path = c_path(self.0.path());
        // SAFETY: the path is a NUL-terminated string that outlives the call.
        unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
    }
}

fn mount(path: &Path, flags: u64, data: &str) {
    let (path, data) = (c_path(path), std::ffi::CString::new(data).expect("no NUL"));
    // SAFETY: every pointer is to a NUL-terminated string that outlives the call.
    let mounted = unsafe {
        libc::mount(
            c"tmpfs".as_ptr(),
            path.as_ptr(),
            c"tmpfs".as_ptr(),
            flags,
            data.as_ptr().cast(),
        )
    };
    assert_eq!(mounted, 0, "{}", std::io::Error::last_os_error());
}

fn c_path(path: &Path) -> std::ffi::CString {
    std::ffi::CString::new(path.as_os_str().as_bytes()).expect("no NUL in a path")
}

async fn stored(log: &AlertLog, numbers: std::ops::RangeInclusive<u64>) {
    let cursor = log.append(numbers.map(alert).collect());
    let mut newest = log.follow();
    let seen = tokio::time::timeout(DEADLINE, newest.reaches(cursor));
    assert!(seen.await.expect("in time"), "the log is open");
}

async fn check(fill: impl Fn(&Small), free: impl Fn(&Small)) {
    let small = Small::mount(8 << 20);
    let elsewhere = tempfile::tempdir().expect("a folder");
    let out = elsewhere.path().join("out.jsonl");
    let sink = || {
        let yaml = format!("{{name: file, path: {}}}", out.display());
        FileTarget::new(parse::<FileSettings>(&yaml))
    };
    let (log, metrics) = open(small.0.path());
    let stuck = log.reader("stuck");
    let file = start(&log, "file", sink(), &metrics);
    stored(&log, 1..=100).await;
    fill(&small);
    let is_failing = || metrics.delivery.log_failing.get() == 1;
    stored(&log, 101..=200).await;
    until("it is noticed", is_failing).await;
    until("delivery goes on", || counts(&metrics, "file")[0] == 200).await;
    free(&small);
    until("it works again", || !is_failing()).await;
    stored(&log, 201..=300).await;
    assert_eq!(finish(&log, vec![file]).await, 0);
    assert!(metrics.delivery.log_errors.get() > 0);
    assert_eq!(metrics.delivery.count_of("log_full"), 0);
    drop((stuck, log));
    // All of it is in the files: a sink that had nothing gets everything.
    let (log, metrics) = open(small.0.path());
    let yaml = format!(
        "{{name: stuck, path: {}}}",
        elsewhere.path().join("late").display()
    );
    let late = FileTarget::new(parse::<FileSettings>(&yaml));
    let late = start(&log, "stuck", late, &metrics);
    let file = start(&log, "file", sink(), &metrics);
    assert_eq!(finish(&log, vec![late, file]).await, 0);
    let numbers = |path: &Path| -> Vec<u64> {
        let text = fs::read_to_string(path).expect("it was written");
        text.lines().filter_map(number).collect()
    };
    let all: Vec<_> = (1..=300).collect();
    assert_eq!(numbers(&out), all);
    assert_eq!(numbers(&elsewhere.path().join("late")), all);
    drop(log);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_costs_nothing_that_was_acknowledged() {
    if !saker_tests::root_or_skip() {
        return;
    }
    let filler = |small: &Small| small.0.path().join("filler");
    check(
        |small| {
            use std::io::Write as _;
            let mut file = fs::File::create(filler(small)).expect("it is made");
            while file.write_all(&[1; 4096]).is_ok() {}
        },
        |small| fs::remove_file(filler(small)).expect("it is ours"),
    )
    .await;
}

/// An open file keeps a disk from becoming read-only, so here it is when the agent starts. It is tried again, and once it can be written
/// all goes on as if it had been there from the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_cannot_be_written_at_the_start_keeps_no_agent_from_watching() {
    if !saker_tests::root_or_skip() {
        return;
    }
    let small = Small::mount(8 << 20);
    let elsewhere = tempfile::tempdir().expect("a folder");
    let out = elsewhere.path().join("out.jsonl");
    let sink = || {
        let yaml = format!("{{name: file, path: {}}}", out.display());
        FileTarget::new(parse::<FileSettings>(&yaml))
    };
    let (log, _) = open(small.0.path());
    let reader = log.reader("file");
    stored(&log, 1..=10).await;
    assert_eq!(finish(&log, Vec::new()).await, 0);
    drop((reader, log));

    small.remount(libc::MS_RDONLY);
    let (log, metrics) = open(small.0.path());
    assert!(!log.is_stored());
    let is_failing = || metrics.delivery.log_failing.get() == 1;
    assert!(is_failing());
    let tries = || metrics.delivery.log_errors.get();
    let (file, new) = (start(&log, "file", sink(), &metrics), log.reader("new"));
    log.append((11..=20).map(alert).collect());
    until("it delivers", || counts(&metrics, "file")[0] == 10).await;
    until("it is tried again", || tries() >= 2).await;
    small.remount(0);
    until("it is in the files", || !is_failing()).await;
    assert!(log.is_stored());
    stored(&log, 21..=30).await;
    assert_eq!(finish(&log, vec![file]).await, 0);
    drop((new, log));
    let numbers = |path: &Path| -> Vec<u64> {
        let text = fs::read_to_string(path).expect("it was written");
        text.lines().filter_map(number).collect()
    };
    let expected: Vec<_> = (11..=20).chain(1..=10).chain(21..=30).collect();
    assert_eq!(
        numbers(&out),
        expected,
        "what was stored before is delivered when it can be read again, and nothing twice"
    );

    // And all of it is in the files: the next agent finds each sink's place, and what memory had.
    let (log, metrics) = open(small.0.path());
    let late = elsewhere.path().join("late");
    let yaml = format!("{{name: new, path: {}}}", late.display());
    let new = FileTarget::new(parse::<FileSettings>(&yaml));
    let sinks = vec![
        start(&log, "file", sink(), &metrics),
        start(&log, "new", new, &metrics),
    ];
    assert_eq!(finish(&log, sinks).await, 0);
    assert_eq!(numbers(&out), expected);
    assert_eq!(numbers(&late), (11..=30).collect::<Vec<_>>());
}

/// A disk of its own, in a file, which becomes read-only when something is wrong with it, as the disks of many nodes do.
struct Ailing {
    folder: tempfile::TempDir,
    device: String,
}

impl Ailing {
    /// `None` where this machine has no loop devices or no ext4, after recording a skip.
    fn make() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let image = folder.path().join("image");
        let file = fs::File::create(&image).expect("a file");
        file.set_len(16 << 20).expect("it grows");
        fs::create_dir(folder.path().join("disk")).expect("a folder");
        if let Err(why) = command(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image)) {
            saker_tests::skip(&format!("no file system can be made: {why}"));
            return None;
        }
        let mut disk = Self {
            folder,
            device: String::new(),
        };
        if let Err(why) = disk.mount() {
            saker_tests::skip(&format!("no loop device: {why}"));
            return None;
        }
        Some(disk)
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("disk")
    }

    fn mount(&mut self) -> Result<(), String> {
        let options = ["-o", "loop,errors=remount-ro"];
        let image = self.folder.path().join("image");
        command(
            Command::new("mount")
                .args(options)
                .arg(image)
                .arg(self.path()),
        )?;
        let find = ["-n", "-o", "SOURCE"];
        let device = command(Command::new("findmnt").args(find).arg(self.path()))?;
        self.device = device.trim().trim_start_matches("/dev/").to_owned();
        Ok(())
    }

    fn fail(&self) {
        let trigger = format!("/sys/fs/ext4/{}/trigger_fs_error", self.device);
        fs::write(trigger, "1").expect("it is ours");
    }

    /// What an operator does.
    fn repair(&mut self) {
        command(Command::new("umount").arg(self.path())).expect("nobody uses it");
        let image = self.folder.path().join("image");
        let _ = Command::new("e2fsck")
            .args(["-p", "-f"])
            .arg(image)
            .output();
        self.mount().expect("it is sound again");
    }
}

impl Drop for Ailing {
    fn drop(&mut self) {
        let _ = command(Command::new("umount").arg("-l").arg(self.path()));
    }
}

fn command(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_becomes_read_only_costs_nothing_that_was_acknowledged() {
    if !saker_tests::root_or_skip() {
        return;
    }
    let Some(mut disk) = Ailing::make() else {
        return;
    };
    let elsewhere = tempfile::tempdir().expect("a folder");
    let target = |name: &str, file: &str| {
        let path = elsewhere.path().join(file);
        let yaml = format!("{{name: {name}, path: {}}}", path.display());
        FileTarget::new(parse::<FileSettings>(&yaml))
    };
    let numbers = |file: &str| -> Vec<u64> {
        let text = fs::read_to_string(elsewhere.path().join(file)).expect("it was written");
        text.lines().filter_map(number).collect()
    };
    let (log, metrics) = open(&disk.path());
    let stuck = log.reader("stuck");
    let file = start(&log, "file", target("file", "out"), &metrics);
    stored(&log, 1..=100).await;
    // What fails so takes with it what is not on the disk yet, as a power cut does.
    assert_eq!(finish(&log, vec![file]).await, 0);
    drop((stuck, log));
    let (log, metrics) = open(&disk.path());
    let stuck = log.reader("stuck");
    let file = start(&log, "file", target("file", "out"), &metrics);
    disk.fail();
    stored(&log, 101..=200).await;
    until("it is noticed", || metrics.delivery.log_failing.get() == 1).await;
    until("delivery goes on", || counts(&metrics, "file")[0] == 100).await;
    assert_eq!(
        finish(&log, vec![file]).await,
        100,
        "those of the stuck one"
    );
    assert_eq!(metrics.delivery.count_of("undelivered"), 100);
    assert_eq!(numbers("out"), (1..=200).collect::<Vec<_>>());
    drop((stuck, log));

    disk.repair();
    let (log, metrics) = open(&disk.path());
    let sinks = vec![start(&log, "stuck", target("stuck", "late"), &metrics)];
    stored(&log, 201..=210).await;
    assert_eq!(finish(&log, sinks).await, 0);
    let expected: Vec<_> = (1..=100).chain(201..=210).collect();
    assert_eq!(numbers("late"), expected);
}
