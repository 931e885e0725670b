//! What is recorded can be replayed by anybody, anywhere, with the same alerts; of a damaged capture everything before the
//! damage.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use saker_tests::{
    Agent, program, root_or_skip,
    scenario::{SCENARIOS, named, run},
};
use serde_json::Value;

/// What a replay gave.
#[derive(Debug)]
struct Replayed {
    code: Option<i32>,
    alerts: Vec<Value>,
    stderr: String,
}

fn replayed(output: &Output) -> Replayed {
    let stdout = String::from_utf8(output.stdout.clone()).expect("JSON is UTF-8");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!stderr.contains("panicked"), "{stderr}");
    Replayed {
        code: output.status.code(),
        alerts: stdout
            .lines()
            .map(|line| serde_json::from_str(line).expect("stdout holds JSON lines"))
            .collect(),
        stderr,
    }
}

fn replay(capture: &Path, args: &[&str]) -> Replayed {
    let output = Command::new(program("saker"))
        .arg("replay")
        .arg(capture)
        .args(args)
        .output()
        .expect("it starts");
    replayed(&output)
}

/// Replays as the user nobody, who sees an empty `/proc` and an empty `/sys`: nothing of this machine can have a part in it.
fn replay_elsewhere(capture: &Path, args: &[&str]) -> Replayed {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let open = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its permissions");
    };
    open(folder.path(), 0o755);
    let copied = [("saker", program("saker")), ("capture", capture.into())].map(|(name, from)| {
        let to = folder.path().join(name);
        run(Command::new("cp").arg(from).arg(&to)).expect("it is copied");
        open(&to, 0o755);
        to
    });
    let script = "mount -t tmpfs none /proc && mount -t tmpfs none /sys && \
                  exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$@\"";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(&copied[0])
        .arg("replay")
        .arg(&copied[1])
        .args(args)
        .output()
        .expect("it starts");
    replayed(&output)
}

/// Records every scenario of the demo and some more; returns the capture and the alerts of the agent that made it.
fn record(folder: &Path, args: &[&str]) -> (PathBuf, Vec<Value>) {
    let capture = folder.join("capture");
    let mut agent = Agent::record(&capture, None, args);
    for scenario in SCENARIOS {
        let marker = (scenario.act)(folder).expect(scenario.what);
        agent.await_rule(scenario.rule, &marker);
    }
    let stopped = agent.stop();
    assert!(stopped.status.success(), "{stopped:?}");
    let recorded = stopped.log.iter().any(|line| line.contains("captured: "));
    assert!(recorded, "{stopped:?}");
    assert!(stopped.alerts.len() >= SCENARIOS.len());
    (capture, stopped.alerts)
}

#[test]
fn a_replay_raises_the_alerts_of_the_recording_agent() {
    if !root_or_skip() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (capture, alerts) = record(folder.path(), &[]);
    let check = |replayed: Replayed| {
        assert_eq!(replayed.code, Some(0), "{}", replayed.stderr);
        assert_eq!(replayed.alerts, alerts, "{}", replayed.stderr);
        let summary = format!("alerts={}", alerts.len());
        // Its own count, and the recording agent's.
        assert_eq!(replayed.stderr.matches(&summary).count(), 2);
        for trouble in ["no answer", "make no sense", "not recorded"] {
            assert!(!replayed.stderr.contains(trouble), "{}", replayed.stderr);
        }
    };
    check(replay(&capture, &[]));
    check(replay_elsewhere(&capture, &[]));
    check(replay_elsewhere(&capture, &["--speed", "recorded"]));
    let mode = fs::metadata(&capture).expect("it is there").permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
}

/// Every process that starts, with what context knows of it and what only the running process could tell.
const EVERYTHING: &str = "\
- rule: Start
  desc: every start
  condition: evt.type = execve
  output: >
    start (%evt.num %evt.time %proc.pid %proc.ppid %proc.name %proc.cmdline %proc.exepath %proc.cwd %proc.pname
    %proc.aname[2] %proc.aname[3] %proc.lineage %proc.sid %proc.sname %proc.vpid %proc.tty %proc.env[LD_PRELOAD]
    %proc.nthreads %proc.stdin.name %proc.stdout.type %proc.fdopencount %user.name %user.uid %user.loginuid %group.name
    %user.homedir %container.id %container.name %evt.hostname)
  priority: DEBUG
- rule: Relative
  desc: an open by a relative path
  condition: evt.type in (open, openat, openat2) and fd.name contains relative-file
  output: opened (%fd.name %fd.nameraw %evt.res %proc.name %evt.time)
  priority: DEBUG
";

#[test]
fn everything_that_the_machine_was_asked_is_in_the_capture() {
    if !root_or_skip() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rules = folder.path().join("everything.yaml");
    fs::write(&rules, EVERYTHING).expect("the rules are written");
    let rules = ["--rules", rules.to_str().expect("UTF-8")];
    let capture = folder.path().join("capture");
    let mut agent = Agent::record(&capture, None, &rules);
    // As another user, by a relative path that does not exist, and after a program that has ended before anybody could ask it.
    run(&mut Command::new(
        named(folder.path(), "first").expect("copied"),
    ))
    .expect("it runs");
    let mut user = Command::new("setpriv");
    user.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    run(user.args([
        "sh",
        "-c",
        "cd / && true; cat no-such-relative-file || sleep 0",
    ]))
    .expect("it runs");
    agent.await_rule("Start", "no-such-relative-file");
    agent.await_rule("Relative", "no-such-relative-file");
    let stopped = agent.stop();
    let replayed = replay_elsewhere(&capture, &rules);
    assert_eq!(replayed.code, Some(0), "{}", replayed.stderr);
    assert_eq!(replayed.alerts, stopped.alerts, "{}", replayed.stderr);
    assert!(
        !replayed.stderr.contains("no answer"),
        "{}",
        replayed.stderr
    );
    let user = replayed
        .alerts
        .iter()
        .find(|alert| alert["output_fields"]["proc.cmdline"] == "cat no-such-relative-file");
    let user = &user.expect("it was started")["output_fields"];
    assert_eq!(user["user.name"], "nobody", "{user}");

    // Other rules than those that it was made with ask what it does not answer, and are told so.
    let replayed = replay_elsewhere(&capture, &[]);
    assert_eq!(replayed.code, Some(0));
    assert!(
        replayed.stderr.contains("device_open: not recorded"),
        "{}",
        replayed.stderr
    );
}

#[test]
fn a_damaged_capture_loses_its_end_and_says_so() {
    if !root_or_skip() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (capture, alerts) = record(folder.path(), &[]);
    let bytes = fs::read(&capture).expect("it is there");
    let starts: Vec<_> = (0..bytes.len())
        .filter(|at| bytes[*at..].starts_with(b"SBLK") || bytes[*at..].starts_with(b"SEND"))
        .collect();
    assert!(starts.len() > 2, "{starts:?}");
    let damaged = folder.path().join("damaged");
    let check = |bytes: &[u8], block: usize| {
        fs::write(&damaged, bytes).expect("it is written");
        let replayed = replay(&damaged, &[]);
        assert_eq!(replayed.code, Some(1), "{}", replayed.stderr);
        assert!(alerts.starts_with(&replayed.alerts), "{replayed:?}");
        let place = format!("damaged at block {block}:");
        assert!(replayed.stderr.contains(&place), "{block}: {replayed:?}");
        assert!(replayed.stderr.contains("not replayed: "), "{replayed:?}");
    };
    let ends = starts[1..].iter().copied().chain([bytes.len()]);
    for (block, (start, end)) in starts.iter().copied().zip(ends).enumerate() {
        check(&bytes[..start], block);
        for at in [start, start + 12, (start + end) / 2, end - 1] {
            check(&bytes[..at.max(start + 1)], block);
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            check(&flipped, block);
        }
    }
    // An agent that was killed leaves what it had written by then.
    let mut agent = Agent::record(&capture, None, &[]);
    let scenario = &SCENARIOS[0];
    let marker = (scenario.act)(folder.path()).expect(scenario.what);
    agent.await_rule(scenario.rule, &marker);
    // The second tick after an alert has written it.
    let before = fs::metadata(&capture).expect("it is there").len();
    let deadline = std::time::Instant::now() + saker_tests::agent::DEADLINE;
    while fs::metadata(&capture).expect("it is there").len() == before {
        assert!(std::time::Instant::now() < deadline, "nothing is written");
        std::thread::yield_now();
    }
    agent.signal(libc::SIGKILL);
    drop(agent);
    let replayed = replay(&capture, &[]);
    assert_eq!(replayed.code, Some(1), "{}", replayed.stderr);
    assert!(replayed.stderr.contains("damaged at block"));
}

#[test]
fn what_is_no_capture_of_this_version_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let check = |bytes: Option<&[u8]>, texts: &[&str]| {
        let path = folder.path().join("file");
        if let Some(bytes) = bytes {
            fs::write(&path, bytes).expect("it is written");
        }
        let replayed = replay(&path, &[]);
        assert_eq!(replayed.code, Some(1), "{texts:?}: {}", replayed.stderr);
        assert!(replayed.alerts.is_empty());
        for text in texts {
            assert!(replayed.stderr.contains(text), "{}", replayed.stderr);
        }
        let _ = fs::remove_file(&path);
    };
    check(None, &["No such file", "file"]);
    check(Some(b""), &["not a capture"]);
    check(Some(b"{\"json\": true}\n"), &["not a capture"]);
    check(
        Some(&[0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0]),
        &["not a capture"],
    );
    check(Some(b"SAKERCAP"), &["not a whole capture"]);
    let with = |format: u16, wire: u16| {
        let mut bytes = b"SAKERCAP".to_vec();
        bytes.extend(format.to_le_bytes());
        bytes.extend(wire.to_le_bytes());
        bytes.extend([0; 200]);
        bytes
    };
    check(
        Some(&with(2, 1)),
        &["wire version 1", "the version of Saker that recorded it"],
    );
    check(Some(&with(2, 999)), &["wire version 999"]);
    check(
        Some(&with(7, 2)),
        &["format 7", "the version of Saker that recorded it"],
    );
    let as_folder = replay(folder.path(), &[]);
    assert_eq!(as_folder.code, Some(1), "{}", as_folder.stderr);
    assert!(as_folder.stderr.contains("not a regular file"));
    let device = replay(Path::new("/dev/zero"), &[]);
    assert_eq!(device.code, Some(1));
}

#[test]
fn a_recording_that_cannot_be_made_is_refused() {
    if !root_or_skip() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let check = |args: &[&str], code: i32, text: &str| {
        let output = Command::new(program("saker"))
            .arg("record")
            .args(args)
            .output()
            .expect("it starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(stderr.contains(text), "{args:?}: {stderr}");
    };
    check(&[], 2, "--output");
    let path = |name: &str| folder.path().join(name).display().to_string();
    check(&["-o", &path("no/folder")], 3, "make the capture");
    check(&["-o", "/dev/null"], 3, "not a regular file");
    check(&["-o", &path("x"), "--rules", "/no/such"], 1, "/no/such");
    assert!(!folder.path().join("x").exists());
    // A length that is reached ends it, as a signal would.
    check(
        &["-o", &path("small"), "--bytes-max", "6000"],
        0,
        "left_out=",
    );
    let length = fs::metadata(path("small")).expect("it is there").len();
    assert!(length <= 6000, "{length}");
    let replayed = replay(Path::new(&path("small")), &[]);
    assert_eq!(replayed.code, Some(0), "{}", replayed.stderr);
    assert!(replayed.stderr.contains("when it was recorded"));
}
