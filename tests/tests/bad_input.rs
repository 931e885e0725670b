//! Wrong input and poor machines: exit codes and one clear sentence each.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use saker_tests::{program, root_or_skip};

fn saker(args: &[&str]) -> Output {
    Command::new(program("saker"))
        .args(args)
        .output()
        .expect("the agent starts")
}

/// Runs and compares the exit code; every text must stand on stderr.
fn check(args: &[&str], code: i32, texts: &[&str]) {
    let output = saker(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    for text in texts {
        assert!(stderr.contains(text), "{args:?}: no {text:?} in:\n{stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
}

fn file(folder: &Path, name: &str, text: impl AsRef<[u8]>) -> String {
    let path = folder.join(name);
    fs::write(&path, text).expect("the file is written");
    path.to_str().expect("the path is UTF-8").to_owned()
}

#[test]
fn usage_errors_exit_2() {
    check(&["run", "--no-such-option"], 2, &["--no-such-option"]);
    check(&["nonsense"], 2, &["nonsense"]);
    check(&[], 2, &["Usage"]);
    check(&["rules", "eval"], 2, &[]);
}

/// An end of a path that the kernel cannot compare costs a report of every open; the rule that has it is named, and no other.
#[test]
fn rules_that_make_the_kernel_report_every_open_are_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rules = "- list: endings\n  items: [.pt, .an-extension-of-17]\n\
                 - rule: Cheap\n  desc: d\n  condition: evt.type = openat and fd.name endswith .pt\n  output: o\n  priority: WARNING\n\
                 - rule: Dear\n  desc: d\n  condition: evt.type = openat and fd.name endswith anyof (endings)\n  output: o\n  priority: WARNING\n";
    let dear = file(folder.path(), "dear.yaml", rules);
    let found = [
        "every open",
        "dear.yaml:8:",
        ".an-extension-of-17",
        "16 bytes",
    ];
    check(&["rules", "check", &dear], 0, &found);
    let output = saker(&["rules", "check", &dear]);
    let (out, err) = (output.stdout, output.stderr);
    let (out, err) = (String::from_utf8_lossy(&out), String::from_utf8_lossy(&err));
    assert!(!err.contains("dear.yaml:3:"), "{err}");
    assert!(out.contains("2 rules, 0 errors, 1 warnings"), "{out}");
}

#[test]
fn wrong_rules_exit_1_with_every_error() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let two_errors = "- rule: One\n  desc: d\n  condition: evt.type = execve and no.such.field = 1\n  output: o\n  priority: WARNING\n\
                      - rule: Two\n  desc: d\n  condition: evt.type = execve and (proc.name = x\n  output: o\n  priority: WARNING\n";
    let wrong = file(folder.path(), "wrong.yaml", two_errors);
    check(
        &["rules", "check", &wrong],
        1,
        &["no.such.field", "wrong.yaml:3:", "wrong.yaml:8:", "^"],
    );
    check(
        &["run", "--rules", &wrong],
        1,
        &["no.such.field", "wrong.yaml:3:", "wrong.yaml:8:", "^"],
    );

    let not_yaml = file(folder.path(), "not.yaml", "- rule: [unclosed\n  x: }");
    check(&["run", "--rules", &not_yaml], 1, &["not.yaml"]);
    let binary = file(folder.path(), "binary.yaml", [0xff, 0xfe, 0, 1]);
    check(&["run", "--rules", &binary], 1, &["binary.yaml", "UTF-8"]);
    check(
        &["run", "--rules", "/no/such/file.yaml"],
        1,
        &["/no/such/file.yaml"],
    );
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).expect("a folder");
    check(
        &["run", "--rules", empty.to_str().expect("UTF-8")],
        1,
        &["empty"],
    );
}

#[test]
fn a_wrong_configuration_exits_1() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    check(&["run", "--config", "/no/such.yaml"], 1, &["/no/such.yaml"]);
    let unknown = file(folder.path(), "unknown.yaml", "sensor:\n  rings: 3\n");
    check(
        &["run", "--config", &unknown],
        1,
        &["unknown.yaml", "rings"],
    );
    let value = file(folder.path(), "value.yaml", "sensor: {ring_bytes: 12345}\n");
    check(
        &["run", "--config", &value],
        1,
        &["sensor.ring_bytes", "power of two"],
    );
}

#[test]
fn without_root_it_exits_3_and_says_so() {
    if !root_or_skip() {
        return;
    }
    // The built agent may lie below a folder that only root may enter: the copy lies where everybody may.
    let folder = tempfile::Builder::new()
        .prefix("saker-unprivileged-")
        .tempdir()
        .expect("a temporary folder");
    fs::set_permissions(
        folder.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .expect("the folder is opened");
    let copy = folder.path().join("saker");
    let copied = Command::new("cp").arg(program("saker")).arg(&copy).status();
    assert!(copied.expect("cp starts").success());
    let config = file(folder.path(), "quiet.yaml", "http: {enabled: false}\n");
    let output = Command::new("setpriv")
        .args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--inh-caps=-all",
            "--bounding-set=-all",
        ])
        .arg(&copy)
        .args(["run", "--config"])
        .arg(&config)
        .output()
        .expect("setpriv starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(
        stderr.contains("root") && stderr.contains("CAP_BPF"),
        "{stderr}"
    );
}

#[test]
fn a_kernel_without_btf_exits_3() {
    if !root_or_skip() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let missing = file(
        folder.path(),
        "missing.yaml",
        "http: {enabled: false}\nsensor: {btf: /no/such/btf}\n",
    );
    check(&["run", "--config", &missing], 3, &["/no/such/btf", "BTF"]);
    let junk = file(folder.path(), "junk", "this is no BTF");
    let junk = file(
        folder.path(),
        "junk.yaml",
        format!("http: {{enabled: false}}\nsensor: {{btf: {junk}}}\n"),
    );
    check(&["run", "--config", &junk], 3, &["BTF"]);
}

#[test]
fn a_ring_that_the_kernel_refuses_exits_3_with_its_size() {
    if !root_or_skip() {
        return;
    }
    let Some(cgroup) = MemoryCgroup::with_limit(64 << 20) else {
        return saker_tests::skip("no cgroup memory controller is mounted as v1");
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let text = "http: {enabled: false}\nsensor: {ring_bytes: 536870912}\n";
    let config = file(folder.path(), "large.yaml", text);
    let procs = cgroup.0.join("cgroup.procs");
    let mut command = Command::new(program("saker"));
    command.args(["run", "--config", &config]);
    // SAFETY: between fork and exec the closure only opens, writes and closes a file; the path was allocated before.
    unsafe {
        std::os::unix::process::CommandExt::pre_exec(&mut command, move || fs::write(&procs, "0"));
    }
    let output = command.output().expect("the agent starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(
        stderr.contains("536870912") && stderr.contains("ring"),
        "{stderr}"
    );
}

/// A cgroup in which memory is short, removed at its end. Rings are charged to it.
struct MemoryCgroup(std::path::PathBuf);

impl MemoryCgroup {
    fn with_limit(bytes: u64) -> Option<Self> {
        let path =
            Path::new("/sys/fs/cgroup/memory").join(format!("saker-test-{}", std::process::id()));
        fs::create_dir(&path).ok()?;
        let cgroup = Self(path);
        fs::write(cgroup.0.join("memory.limit_in_bytes"), bytes.to_string()).ok()?;
        Some(cgroup)
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_port_that_is_taken_exits_3() {
    if !root_or_skip() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("it has an address");
    let config = file(
        folder.path(),
        "taken.yaml",
        format!("http: {{listen: '{address}'}}\n"),
    );
    check(
        &["run", "--config", &config],
        3,
        &[&address.to_string(), "http.listen"],
    );
}
