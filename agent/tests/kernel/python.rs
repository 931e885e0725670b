//! What unpicklers resolve, in every interpreter on this machine.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;

use saker::event::Body;
use saker::source::Kind;
use saker::source::python::watch;

use crate::{DEADLINE, Watch, kinds, watch};

/// Resolves each pair of names that it is given a line each, once it is told to start; what fails is no matter.
const SCRIPT: &str = r#"
import pickle, struct, sys
print(flush=True)
def text(value):
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data
sys.stdin.buffer.readline()
for line in sys.stdin.buffer:
    module, name = eval(line)
    try:
        pickle.loads(b"\x80\x04" + text(module) + text(name) + b"\x93.")
    except Exception:
        pass
"#;

/// Interpreters that this machine has: pyenv's, and the distribution's.
fn interpreters() -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("/usr/bin/python3")];
    let root = Command::new("pyenv").arg("root").output();
    if let Ok(root) = root {
        let versions = PathBuf::from(String::from_utf8_lossy(&root.stdout).trim()).join("versions");
        if let Ok(entries) = std::fs::read_dir(versions) {
            found.extend(
                entries
                    .flatten()
                    .map(|entry| entry.path().join("bin/python3")),
            );
        }
    }
    found.retain(|path| path.exists());
    found.sort();
    found
}

/// The minor version, by asking.
fn minor(python: &PathBuf) -> u8 {
    let output = Command::new(python)
        .args(["-c", "import sys; print(sys.version_info[1])"])
        .output()
        .expect("it runs");
    String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .expect("a number")
}

/// Starts it and waits until it runs: whoever starts a program goes on before the kernel shows the program as its child's (`exec_mmap`
/// wakes the parent first), and on emulated processors one look in six still saw this test's own.
fn start(python: &Path) -> Child {
    let mut child = Command::new(python)
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let said = child.stdout.as_mut().expect("a pipe");
    said.read_exact(&mut [0]).expect("it runs");
    child
}

/// Has the process looked at, and waits until that is done.
fn look(pythons: &watch::Watch, pid: u32) {
    pythons.looker().look(pid);
    assert!(pythons.wait(DEADLINE), "nobody looked at {pid}");
}

/// What the process `pid` is seen to resolve when it is given `globals`: module and name, and whether each is cut.
fn resolved(
    watch: &mut Watch,
    child: &mut Child,
    globals: &[(&str, &str)],
) -> Vec<(String, String, bool, bool)> {
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(b"start\n").expect("it reads");
    for (module, name) in globals.iter().chain(&[("the", "end")]) {
        writeln!(input, "({module:?}, {name:?})").expect("it reads");
    }
    drop(input);
    let pid = child.id();
    let mut seen = Vec::new();
    watch.until("end", |event| {
        let Body::Pickle(pickle) = event.body else {
            return None;
        };
        if event.tgid != pid {
            return None;
        }
        assert!(!pickle.unreadable, "{pickle:?}");
        let module: String = pickle.module.chars().collect();
        if module == "the" {
            return Some(());
        }
        let name = pickle.name.chars().collect();
        seen.push((module, name, pickle.module.cut, pickle.name.cut));
        None
    });
    assert!(child.wait().expect("it ends").success());
    seen
}

#[test]
fn every_interpreter_shows_what_it_unpickles() {
    let interpreters = interpreters();
    if interpreters.is_empty() {
        saker_tests::skip("this machine has no Python");
        return;
    }
    let Some(mut sensor) = watch(kinds(&[Kind::Pickle])) else {
        return;
    };
    let pythons = watch::Watch::start(sensor.sensor.take_uprobes()).expect("a thread");
    assert!(pythons.wait(DEADLINE));
    let long = "n".repeat(300);
    let globals = [
        ("os", "system"),
        ("logging", "os.system"),
        ("os", "system"),
        ("caf\u{e9}", "na\u{ef}ve"),
        ("mod\u{3b1}", "\u{4e2d}\u{6587}"),
        ("sn\u{1f40d}ke", "x"),
        ("m", &long),
        ("m", &long),
        ("", ""),
    ];
    let whole = |module: &str, name: &str| (module.to_owned(), name.to_owned(), false, false);
    let cut = || ("m".to_owned(), "n".repeat(255), false, true);
    // Once each; what is cut is always told, because its rest may differ.
    let expected = [
        whole("os", "system"),
        whole("logging", "os.system"),
        whole("caf\u{e9}", "na\u{ef}ve"),
        whole("mod\u{3b1}", "\u{4e2d}\u{6587}"),
        whole("sn\u{1f40d}ke", "x"),
        cut(),
        cut(),
        whole("", ""),
    ];
    for python in &interpreters {
        let minor = minor(python);
        if minor < 8 {
            // The audit event came with 3.8: there is nothing to watch, and no harm in looking.
            let mut child = start(python);
            look(&pythons, child.id());
            drop(child.stdin.take());
            child.wait().expect("it ends");
            continue;
        }
        // The second process of the same file finds it watched, and is told apart from the first.
        for _ in 0..2 {
            let mut child = start(python);
            let pid = child.id();
            look(&pythons, pid);
            let version = pythons
                .interpreters()
                .version_of("/proc".as_ref(), pid, [])
                .unwrap_or_else(|| {
                    let counts = pythons.interpreters();
                    panic!("no version of {}: {:?}", python.display(), counts.counts())
                });
            assert_eq!((version.minor, version.free_threaded), (minor, false));
            let mut seen = resolved(&mut sensor, &mut child, &globals);
            // Whatever the interpreter itself unpickles at its start is not the test's.
            seen.retain(|(module, ..)| module != "collections");
            assert_eq!(seen, expected, "{}", python.display());
        }
    }
    let counts = *sensor
        .sensor
        .counters()
        .expect("counters")
        .kind(Kind::Pickle);
    assert_eq!(counts.lost(), 0, "{counts:?}");
    assert!(counts.filtered >= interpreters.len() as u64, "{counts:?}");
    drop(pythons);
    sensor.finish(&mut |_| {});
}

/// A file system that shows the files of another under a device number of its own, as a container's does.
struct Overlay {
    folder: tempfile::TempDir,
}

impl Overlay {
    fn of(lower: &Path) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for name in ["upper", "work", "merged"] {
            std::fs::create_dir(at(name)).expect("a folder");
        }
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            at("upper").display(),
            at("work").display()
        );
        let mounted = Command::new("mount")
            .args(["-t", "overlay", "overlay", "-o", &options])
            .arg(at("merged"))
            .output();
        mounted
            .is_ok_and(|mounted| mounted.status.success())
            .then_some(Self { folder })
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("merged")
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.root()).status();
    }
}

#[test]
fn a_file_that_containers_share_is_attached_once() {
    let Some(mut sensor) = watch(kinds(&[Kind::Pickle])) else {
        return;
    };
    let Some(of) = saker_tests::python::pyenv().pop() else {
        return;
    };
    let lower = tempfile::tempdir().expect("a folder");
    let program = saker_tests::python::fresh_copy(&of, lower.path());
    let inside = program
        .strip_prefix(lower.path())
        .expect("it is in the folder");
    let (Some(one), Some(other)) = (Overlay::of(lower.path()), Overlay::of(lower.path())) else {
        saker_tests::skip("overlay file systems cannot be mounted here");
        return;
    };
    let pythons = watch::Watch::start(sensor.sensor.take_uprobes()).expect("a thread");
    assert!(pythons.wait(DEADLINE));
    let interpreters = pythons.interpreters();
    let attached = || interpreters.counts().at_call.load(Ordering::Relaxed);
    let before = attached();
    for overlay in [&one, &other] {
        let mut child = start(&overlay.root().join(inside));
        look(&pythons, child.id());
        assert_eq!(attached(), before + 1);
        let mut seen = resolved(&mut sensor, &mut child, &[("os", "system")]);
        seen.retain(|(module, ..)| module != "collections");
        assert_eq!(seen, [("os".to_owned(), "system".to_owned(), false, false)]);
    }
    drop(pythons);
    sensor.finish(&mut |_| {});
}
