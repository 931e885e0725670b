//! What a running agent may still do, read from the kernel for each of its threads; and that it suffices.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command},
};

use saker_tests::{
    Agent, Containerd,
    agent::assert_books_close,
    containerd::Wanted,
    program,
    python::{fresh_copy, pyenv},
    root_or_skip,
};
use serde_json::Value;

/// Numbers of the capabilities that are kept, by `capabilities(7)`: DAC_READ_SEARCH, NET_ADMIN, SYS_PTRACE, SYS_ADMIN, PERFMON, BPF.
const ALWAYS: [u32; 6] = [2, 12, 19, 21, 38, 39];
const SYS_ADMIN: u32 = 21;

/// Unpickles a name that runs code, again and again: how often the first load is caught is not asked here.
const LOAD: &str = "
import io, pickle, time
for _ in range(2400):
    pickle.Unpickler(io.BytesIO(b'cos\\nsystem\\n.')).load()
    time.sleep(0.05)
";

const RULES: &str = "
- rule: Unpickled
  desc: of the first rules
  condition: evt.type = pickle and pickle.dangerous = true
  output: unpickled (%pickle.name %proc.pid)
  priority: WARNING
- rule: Marked
  desc: who and where
  condition: evt.type = execve and proc.args contains privileges-marker
  output: marked (%proc.args %container.id %container.image.repository %k8s.pod.name)
  priority: WARNING
";

/// Wants kinds of events that the rules before do not.
const MORE_RULES: &str = "
- rule: Opened
  desc: comes with the reload
  condition: evt.type in (open, openat, openat2) and fd.name endswith .privileges-test
  output: opened (%fd.name)
  priority: WARNING
- rule: Asked
  desc: comes with the reload, and wants programs at cgroups
  condition: evt.type = connect and fd.sport = 4242
  output: connected (%fd.name)
  priority: WARNING
";

fn set(capabilities: impl IntoIterator<Item = u32>) -> String {
    let bits = capabilities
        .into_iter()
        .fold(0, |bits, one| bits | 1_u64 << one);
    format!("{bits:016x}")
}

/// Asserts that every thread of a process has these capabilities, cannot have others, and will not.
#[track_caller]
fn assert_every_thread_has(pid: u32, expected: &str) {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let mut threads = 0;
    for task in tasks {
        // A thread may end meanwhile.
        let path = task.expect("an entry").path().join("status");
        let Ok(status) = fs::read_to_string(path) else {
            continue;
        };
        let value = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.expect("the kernel has it").trim().to_owned()
        };
        for (name, expected) in [
            ("CapEff:", expected),
            ("CapPrm:", expected),
            ("CapBnd:", expected),
            ("CapInh:", "0000000000000000"),
            ("CapAmb:", "0000000000000000"),
            ("NoNewPrivs:", "1"),
        ] {
            assert_eq!(value(name), expected, "{name} of {}", value("Name:"));
        }
        threads += 1;
    }
    assert!(threads > 3, "{threads} threads");
}

/// Ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A Python that no agent has seen yet is watched.
fn assert_first_seen_python_is_watched(agent: &mut Agent, folder: &Path) {
    let Some(of) = pyenv().pop() else { return };
    let copy = fresh_copy(&of, folder);
    let child = Command::new(copy).args(["-c", LOAD]).spawn();
    let python = Running(child.expect("it starts"));
    let pid = u64::from(python.0.id());
    agent.await_alert("a pickle in a new Python", |alert| {
        alert["rule"] == "Unpickled" && alert["output_fields"]["proc.pid"] == pid
    });
}

/// A folder with the rules, and `saker` as it is started there.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().expect("a temporary folder"));
        place.write(RULES);
        place
    }

    fn write(&self, rules: &str) {
        fs::write(self.0.path().join("rules.yaml"), rules).expect("the rules are written");
    }

    fn rules(&self) -> String {
        let path = self.0.path().join("rules.yaml");
        path.to_str().expect("UTF-8").to_owned()
    }

    /// A program that starts `saker` by way of others.
    fn started_by(&self, way: &str) -> PathBuf {
        let path = self.0.path().join("start");
        let text = format!(
            "#!/bin/sh\nexec {way} {} \"$@\"\n",
            program("saker").display()
        );
        fs::write(&path, text).expect("it is written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
        path
    }
}

/// The agent has what the table says and no more, and with that it does what it did: it looks into Pythons that it has not seen, takes new
/// rules that want other programs, names containers; and another can be started.
fn check(way: Option<&str>, kept: &str, names: &[&str]) {
    let place = Place::new();
    let saker = way.map_or_else(|| program("saker"), |way| place.started_by(way));
    let rules = place.rules();
    for round in ["first", "second"] {
        place.write(RULES);
        let mut agent = Agent::start_from(&saker, &["--rules", &rules]);
        let said = agent.await_log("privileges: kept once loaded: ");
        for name in names {
            assert!(said.contains(name), "{name}: {said}");
        }
        assert_eq!(said.matches("CAP_").count(), names.len(), "{said}");
        assert_every_thread_has(agent.pid(), kept);
        assert_first_seen_python_is_watched(&mut agent, &place.0.path().join(round));

        place.write(&[RULES, MORE_RULES].concat());
        agent.signal(libc::SIGHUP);
        agent.await_log("reloaded");
        let opened = place.0.path().join(format!("{round}.privileges-test"));
        fs::write(&opened, "").expect("it is written");
        agent.await_rule("Opened", opened.to_str().expect("UTF-8"));
        // Reading rules, looking into files and naming have each made threads.
        assert_every_thread_has(agent.pid(), kept);
        assert_books_close(&agent.stop());
    }
}

const NAMES: [&str; 6] = [
    "CAP_BPF",
    "CAP_PERFMON",
    "CAP_NET_ADMIN",
    "CAP_SYS_PTRACE",
    "CAP_DAC_READ_SEARCH",
    "CAP_SYS_ADMIN",
];

#[test]
fn root_keeps_what_is_needed() {
    if !root_or_skip() {
        return;
    }
    check(None, &set(ALWAYS), &NAMES);
}

/// The unit's own limits, which leave nothing to give up.
#[test]
fn what_the_service_is_given_suffices() {
    if !root_or_skip() {
        return;
    }
    let unit = saker_tests::repository().join("deploy/systemd/saker.service");
    let unit = fs::read_to_string(unit).expect("it is there");
    let given = unit
        .lines()
        .find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let given = given.expect("it has limits").replace("CAP_", "+");
    let given = given.to_lowercase().replace(' ', ",");
    let way = format!("unshare --mount setpriv --inh-caps -all --bounding-set -all,{given}");
    check(Some(&way), &set(ALWAYS), &NAMES);
}

/// Without CAP_SYS_ADMIN it starts, keeps the rest, and says what is lost.
#[test]
fn without_sys_admin_it_says_what_is_lost() {
    if !root_or_skip() {
        return;
    }
    let place = Place::new();
    let saker = place.started_by("setpriv --inh-caps -all --bounding-set -sys_admin");
    let mut agent = Agent::start_from(&saker, &["--rules", &place.rules()]);
    let said = agent.await_log("CAP_SYS_ADMIN is missing: ");
    assert!(said.contains("pickles"), "{said}");
    let kept = ALWAYS.into_iter().filter(|one| *one != SYS_ADMIN);
    assert_every_thread_has(agent.pid(), &set(kept));
    assert_books_close(&agent.stop());
}

#[test]
fn containers_are_named_with_what_is_kept() {
    let Some(containerd) = Containerd::start_or_skip() else {
        return;
    };
    let place = Place::new();
    let config = place.0.path().join("saker.yaml");
    let text = format!(
        "http: {{listen: '127.0.0.1:0'}}\nalerts: {{window_s: 0}}\ngrpc: {{unix: {{enabled: false}}}}\n\
         containers: {{cri_sockets: ['{}'], docker_sockets: [], hold_ms: 10000}}\n",
        containerd.socket().display()
    );
    fs::write(&config, text).expect("the configuration is written");
    let rules = place.rules();
    let mut agent = Agent::start_with(&config, &["--rules", &rules]);
    let image = "registry.internal/victim:v1";
    containerd.import(image, &["/bin/sh"]);
    let pod = containerd.pod("victim-0", &[], &[]);
    let id = containerd.run(
        &pod,
        &Wanted {
            name: "main",
            image,
            command: &["/bin/sleep", "1000", "privileges-marker"],
            ..Wanted::default()
        },
    );
    let alert = agent.await_rule("Marked", &id[..12]);
    let fields = &alert["output_fields"];
    assert_eq!(
        fields["container.image.repository"], "registry.internal/victim",
        "{alert}"
    );
    assert_eq!(fields["k8s.pod.name"], "victim-0", "{alert}");
    assert_every_thread_has(agent.pid(), &set(ALWAYS));
    assert_books_close(&agent.stop());
}

/// `saker doctor` says beforehand what will be kept.
#[test]
fn the_doctor_says_what_will_be_kept() {
    if !root_or_skip() {
        return;
    }
    let doctor = |args: &[&str]| {
        let mut command = Command::new("unshare");
        command.arg("--mount").arg(program("saker")).args(args);
        let output = command.output().expect("it runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let rows: Value = serde_json::from_str(&doctor(&["doctor", "--json"])).expect("JSON");
    let rows = rows.as_array().expect("an array");
    let row = rows.iter().find(|row| row["kind"] == "privileges");
    let row = row.expect("there is a row");
    assert_eq!(row["kept"], Value::from(NAMES.to_vec()), "{row}");
    assert!(row["given_up"].as_u64() > Some(0), "{row}");
    assert_eq!(row["missing"], Value::Array(Vec::new()), "{row}");
    let text = doctor(&["doctor"]);
    assert!(
        text.contains("privileges   kept once loaded: CAP_BPF CAP_PERFMON"),
        "{text}"
    );
}
