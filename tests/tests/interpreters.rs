//! Every kind of Python that a node may have, each started while the agent runs and never seen by it before: what it unpickles is
//! seen, with its version and its container.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use saker_tests::{
    Agent, Cgroup, Containerd,
    agent::assert_books_close,
    containerd::{Pod, Wanted},
    python::{self, Interpreter, debian, fresh_copy, pyenv, virtual_environment},
    root_or_skip,
};

/// Loads, from the moment it runs, a pickle that names a dangerous global, again and again until somebody ends it. The arguments
/// tell which unpickler. How often the very first load is caught is a matter of milliseconds, and of `cargo xtask bench race`.
const LOAD: &str = "
import importlib, io, sys, time
unpickler = getattr(importlib.import_module(sys.argv[1]), sys.argv[2])
for _ in range(600):
    unpickler(io.BytesIO(b'cos\\nsystem\\n.')).load()
    time.sleep(0.05)
";

const RULE: &str = "Unpickler asked for a name that runs code";

/// Interpreters by what they are, with their minor version.
fn environments(folder: &Path) -> Vec<(String, PathBuf, u32)> {
    let mut found = Vec::new();
    let mut add = |what: &str, program: PathBuf, of: &Interpreter| {
        found.push((format!("{what} 3.{}", of.minor), program, of.minor));
    };
    let (pyenv, debian) = (pyenv(), debian());
    for interpreter in &pyenv {
        add("pyenv", interpreter.program.clone(), interpreter);
    }
    for (name, interpreter) in [("pyenv", pyenv.last()), ("debian", debian.as_ref())] {
        let Some(interpreter) = interpreter else {
            continue;
        };
        let place = |what: &str| folder.join(format!("{name}-{what}"));
        for copies in [false, true] {
            let kind = if copies { "copies" } else { "links" };
            let what = format!("environment of {kind} of {name}");
            let program = virtual_environment(interpreter, &place(&what), copies);
            add(&what, program, interpreter);
        }
        // With Debian's this is what conda and uv install: an interpreter at a path of its own with `_pickle` in it.
        let program = fresh_copy(interpreter, &place("copy"));
        add(&format!("copy of {name}"), program, interpreter);
    }
    if let Some(interpreter) = debian {
        add("debian", interpreter.program.clone(), &interpreter);
    }
    found
}

#[test]
fn every_kind_of_interpreter_is_seen() {
    if !root_or_skip() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let environments = environments(folder.path());
    let mut agent = Agent::start(&[]);
    // The last is written in Python, and joblib's is made of it.
    for unpickler in [
        ["_pickle", "Unpickler"],
        ["pickle", "Unpickler"],
        ["pickle", "_Unpickler"],
    ] {
        for (what, program, minor) in &environments {
            let cgroup = Cgroup::like_a_container().expect("a cgroup");
            let mut command = Command::new(program);
            cgroup.enter(command.args(["-c", LOAD]).args(unpickler));
            let mut child = command.spawn().expect("it starts");
            let pid = u64::from(child.id());
            let version = format!("3.{minor}");
            let alert = agent.await_alert(&format!("{unpickler:?} in {what}"), |alert| {
                alert["rule"] == RULE && alert["output_fields"]["proc.pid"] == pid
            });
            child.kill().expect("it runs");
            child.wait().expect("it ends");
            let fields = &alert["output_fields"];
            for (field, value) in [
                ("pickle.module", "os"),
                ("pickle.name", "system"),
                ("container.id", cgroup.short_id()),
                ("python.version", &version),
            ] {
                assert_eq!(fields[field], value, "{what}: {alert}");
            }
        }
    }
    assert_books_close(&agent.stop());
}

/// Loads, and at a line has the child of a child load, which ends at once; then goes on until it is ended.
const FORKS: &str = "
import io, os, pickle, sys, time
load = lambda name: pickle.loads(b'cposix\\n' + name + b'\\n.')
load(b'system')
sys.stdin.readline()
if os.fork() == 0:
    if os.fork() == 0:
        load(b'execv')
        os._exit(0)
    print(os.wait()[0], flush=True)
    os._exit(0)
os.wait()
time.sleep(600)
";

#[test]
fn a_forked_process_that_is_gone_has_the_version_of_those_it_came_from() {
    if !root_or_skip() {
        return;
    }
    let mut agent = Agent::start(&[]);
    for of in pyenv() {
        let mut command = Command::new(&of.program);
        command.args(["-c", FORKS]).stdout(Stdio::piped());
        let mut waiting = Waiting::start(&mut command);
        let parent = u64::from(waiting.0.id());
        agent.await_alert("the parent's load", |alert| {
            alert["rule"] == RULE && alert["output_fields"]["proc.pid"] == parent
        });
        agent.signal(libc::SIGSTOP);
        waiting.go();
        let mut line = String::new();
        let output = waiting.0.stdout.take().expect("a pipe");
        BufReader::new(output)
            .read_line(&mut line)
            .expect("it says so");
        agent.signal(libc::SIGCONT);
        let grandchild: u64 = line.trim().parse().expect("its pid");
        let alert = agent.await_alert("the grandchild's load", |alert| {
            alert["output_fields"]["proc.pid"] == grandchild
        });
        let version = format!("3.{}", of.minor);
        assert_eq!(alert["output_fields"]["python.version"], version, "{alert}");
    }
    assert_books_close(&agent.stop());
}

/// What a process runs that imports nothing until it gets a line; the arguments tell which file the unpickler comes from.
const LATE: &str = "
import sys
sys.stdin.readline()
import io, time
from importlib import machinery, util
loader = machinery.ExtensionFileLoader('_pickle', sys.argv[1])
module = util.module_from_spec(util.spec_from_loader('_pickle', loader))
loader.exec_module(module)
for _ in range(600):
    module.Unpickler(io.BytesIO(b'cos\\nsystem\\n.')).load()
    time.sleep(0.05)
";

/// A process that waits for a line before it does what it is there for; it is ended when dropped.
struct Waiting(Child);

impl Waiting {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::piped()).spawn().expect("it starts"))
    }

    fn go(&mut self) {
        let input = self.0.stdin.as_mut().expect("a pipe");
        input.write_all(b"go\n").expect("it reads");
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_is_loaded_late_is_seen() {
    if !root_or_skip() {
        return;
    }
    let Some(of) = pyenv().pop() else { return };
    let prefix = of
        .program
        .parent()
        .and_then(Path::parent)
        .expect("a prefix");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let extensions = prefix.join(format!("lib/python3.{}/lib-dynload", of.minor));
    let module = std::fs::read_dir(extensions)
        .expect("a folder")
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with("_pickle."))
        .expect("a module of its own");
    // The same module, where no interpreter would look for it.
    let elsewhere = folder.path().join(module.file_name());
    std::fs::copy(module.path(), &elsewhere).expect("a copy");
    let library = prefix.join(format!("lib/libpython3.{}.so.1.0", of.minor));
    // All of them run before the agent does.
    let late =
        |module: &Path| Waiting::start(Command::new(&of.program).args(["-c", LATE]).arg(module));
    let embedded = "import sys\nsys.argv = ['-c', 'pickle', 'Unpickler']\n";
    let mut processes = vec![
        ("the module that was there", late(&module.path())),
        ("a module that lies elsewhere", late(&elsewhere)),
    ];
    if library.exists() {
        let mut command = Command::new(saker_tests::program("embed_python"));
        command
            .arg(&library)
            .arg(format!("{embedded}{LOAD}"))
            .env("PYTHONHOME", prefix);
        processes.push((
            "a program that becomes a Python",
            Waiting::start(&mut command),
        ));
    }
    let mut agent = Agent::start(&[]);
    for (what, process) in &mut processes {
        process.go();
        let pid = u64::from(process.0.id());
        agent.await_alert(what, |alert| {
            alert["rule"] == RULE && alert["output_fields"]["proc.pid"] == pid
        });
    }
    drop(processes);
    assert_books_close(&agent.stop());
}

/// A file system of its own, which can be unmounted only if nobody holds anything in it.
struct Mounted(tempfile::TempDir);

impl Mounted {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "saker-tests"])
            .arg(folder.path());
        assert!(mount.status().expect("mount runs").success());
        Self(folder)
    }

    fn unmount(&self) -> bool {
        let unmounted = Command::new("umount").arg(self.0.path()).status();
        unmounted.expect("umount runs").success()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Already done, where the test went well.
        let _ = Command::new("umount")
            .args(["--quiet", "--lazy"])
            .arg(self.0.path())
            .status();
    }
}

/// As whoever builds an image in a folder does, or containerd when it unpacks one: the interpreter is copied, it runs, and what it lay
/// on is unmounted.
#[test]
fn what_is_watched_can_be_unmounted() {
    if !root_or_skip() {
        return;
    }
    let Some(of) = pyenv().pop() else { return };
    let mut agent = Agent::start(&[]);
    let [unpacked, run] = [Mounted::new(), Mounted::new()];
    for mounted in [&unpacked, &run] {
        // Written by one program, and read by another.
        let program = fresh_copy(&of, &mounted.0.path().join("python"));
        let mut pack = Command::new("tar");
        pack.args(["-cf", "/dev/zero", "-C"]).arg(mounted.0.path());
        assert!(pack.arg(".").status().expect("tar runs").success());
        if mounted.0.path() == run.0.path() {
            let mut command = Command::new(program);
            let mut child = command
                .args(["-c", LOAD, "pickle", "Unpickler"])
                .spawn()
                .expect("it starts");
            let pid = u64::from(child.id());
            agent.await_alert("a load from what is mounted", |alert| {
                alert["rule"] == RULE && alert["output_fields"]["proc.pid"] == pid
            });
            child.kill().expect("it runs");
            child.wait().expect("it ends");
        }
    }
    assert!(unpacked.unmount(), "what was packed is held");
    assert!(run.unmount(), "what ran is held");
    assert_books_close(&agent.stop());
}

/// A rule that alerts for what the shipped one does, with everything that is known of the container.
const CONTAINER_RULE: &str = "
- rule: Unpickled in a container
  desc: as the shipped rule
  condition: evt.type = pickle and pickle.dangerous = true
  output: >
    unpickled (%proc.pid %pickle.module %pickle.name %python.version %container.full_id %container.name %container.image.repository
    %k8s.pod.name)
  priority: WARNING
";

struct Node {
    containerd: Containerd,
    agent: Agent,
    pod: Pod,
    _folder: tempfile::TempDir,
}

impl Node {
    fn start_or_skip(snapshotter: &str) -> Option<Self> {
        let containerd = Containerd::start_or_skip_with(snapshotter)?;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        let config = format!(
            "http: {{listen: '127.0.0.1:0'}}\nalerts: {{window_s: 0}}\n\
             containers: {{cri_sockets: ['{}'], docker_sockets: [], hold_ms: 10000}}\n",
            containerd.socket().display()
        );
        std::fs::write(path("agent.yaml"), config).expect("the configuration is written");
        std::fs::write(path("rules.yaml"), CONTAINER_RULE).expect("the rule is written");
        let rules = path("rules.yaml");
        let rules = rules.to_str().expect("UTF-8");
        let agent = Agent::start_with(&path("agent.yaml"), &["--rules", rules]);
        let pod = containerd.pod("trainer", &[], &[]);
        Some(Self {
            containerd,
            agent,
            pod,
            _folder: folder,
        })
    }

    /// Runs a container whose Python loads a hostile pickle at once, and awaits the alert that names it.
    #[track_caller]
    fn check(&mut self, name: &str, image: &str, program: &str, of: &Interpreter) {
        let id = self.containerd.run(
            &self.pod,
            &Wanted {
                name,
                image,
                command: &[program, "-c", LOAD, "pickle", "Unpickler"],
                ..Wanted::default()
            },
        );
        let alert = self
            .agent
            .await_alert(&format!("{name} of {image}"), |alert| {
                alert["rule"] == "Unpickled in a container"
                    && alert["output_fields"]["container.full_id"] == *id
            });
        let version = format!("3.{}", of.minor);
        let repository = image.rsplit_once(':').map_or(image, |(name, _)| name);
        for (field, value) in [
            ("pickle.module", "os"),
            ("pickle.name", "system"),
            ("python.version", &version),
            ("container.name", name),
            ("container.image.repository", repository),
            ("k8s.pod.name", "trainer"),
        ] {
            assert_eq!(alert["output_fields"][field], value, "{alert}");
        }
    }
}

#[test]
fn containers_of_every_image_are_seen() {
    let Some(mut node) = Node::start_or_skip("native") else {
        return;
    };
    if let Some(of) = debian() {
        let image = "registry.internal/debian-python:v1";
        node.containerd
            .import_with(image, &|root| python::install(&of, root, "/usr"));
        node.check("debian", image, "/usr/bin/python3", &of);
    }
    // As Docker's own image of Python: a shared build below /usr/local.
    for of in pyenv() {
        let image = format!("registry.internal/python:3.{}", of.minor);
        node.containerd
            .import_with(&image, &|root| python::install(&of, root, "/usr/local"));
        let name = format!("shared-{}", of.minor);
        node.check(&name, &image, "/usr/local/bin/python3", &of);
    }
    assert_books_close(&node.agent.stop());
}

#[test]
fn containers_that_share_their_files_are_each_seen() {
    let Some(mut node) = Node::start_or_skip("overlayfs") else {
        return;
    };
    let Some(of) = pyenv().pop() else { return };
    let image = "registry.internal/shared:v1";
    node.containerd
        .import_with(image, &|root| python::install(&of, root, "/usr/local"));
    for name in ["first", "second", "third"] {
        node.check(name, image, "/usr/local/bin/python3", &of);
    }
    assert_books_close(&node.agent.stop());
}
