//! `saker alerts`, `saker events` and `saker config`.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Command, Output, Stdio},
};

use saker_tests::{grpc::Served, program, root_or_skip, scenario::run};
use serde_json::Value;

const RULES: &str = r"
- rule: Marked start
  desc: a start that a test makes
  condition: evt.type = execve and proc.args contains client-marker
  output: marked (args=%proc.args)
  priority: WARNING
  tags: [marked]
- rule: Quiet start
  desc: the same, and less important
  condition: evt.type = execve and proc.args contains client-marker
  output: quiet (args=%proc.args)
  priority: DEBUG
";

fn saker(arguments: &[&str]) -> Output {
    Command::new(program("saker"))
        .args(arguments)
        .output()
        .expect("it starts")
}

fn lines(output: &Output) -> Vec<String> {
    let text = String::from_utf8(output.stdout.clone()).expect("text");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn alerts_and_events_are_shown() {
    if !root_or_skip() {
        return;
    }
    let mut served = Served::start("", RULES);
    let address = served.address();
    let mark = |marker: &str| {
        run(Command::new("true").arg(format!("client-marker-{marker}"))).expect("it runs");
    };
    mark("\u{1b}[31m\nred");
    served.agent.await_rule("Quiet start", "client-marker");

    let there =
        |more: &[&str]| saker(&[&["alerts", "--address", &address, "--no-follow"], more].concat());
    let all = lines(&there(&[]));
    let alerts: Vec<Value> = all
        .iter()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(alerts.len(), 2, "{all:?}");
    assert!(
        alerts[0]["cursor"].as_u64() < alerts[1]["cursor"].as_u64(),
        "{alerts:?}"
    );
    let first = alerts[0]["cursor"].to_string();
    assert_eq!(lines(&there(&["--since", &first])).len(), 1);
    assert_eq!(lines(&there(&["--since", "1h"])).len(), 2);
    assert_eq!(lines(&there(&["--since", "2100-01-01T00:00:00Z"])).len(), 0);
    assert_eq!(lines(&there(&["--priority", "warning"])).len(), 1);
    assert_eq!(lines(&there(&["--tag", "marked"])).len(), 1);
    assert_eq!(lines(&there(&["--rule", "Quiet start"])).len(), 1);
    assert_eq!(lines(&there(&["--namespace", "none"])).len(), 0);
    let text = lines(&there(&["--output", "text", "--colour", "always"]));
    assert_eq!(text.len(), 2, "{text:?}");
    assert!(
        text[0].contains("\u{1b}[33m") && !text[0].contains("\u{1b}[31mred"),
        "{text:?}"
    );
    assert!(text[0].contains("\\u{1b}[31m\\nred"), "{text:?}");

    let mut follow = Command::new(program("saker"))
        .args([
            "events",
            "--address",
            &address,
            "-n",
            "1",
            "-f",
            "proc.args",
        ])
        .args([
            "-c",
            "evt.type = execve and proc.args contains client-marker-event",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut remark = String::new();
    let mut stderr = BufReader::new(follow.stderr.take().expect("stderr is piped"));
    stderr.read_line(&mut remark).expect("a remark");
    assert!(
        remark.contains("traced: ") && remark.contains("execve"),
        "{remark}"
    );
    mark("event");
    let output = follow.wait_with_output().expect("it ends after one");
    assert!(output.status.success());
    let event: Value = serde_json::from_str(&lines(&output)[0]).expect("JSON");
    assert_eq!(event["proc.args"], "client-marker-event", "{event}");

    let check = |arguments: &[&str], code: i32, expected: &str| {
        let output = saker(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(
            stderr.contains(expected),
            "{arguments:?}: no {expected:?} in {stderr}"
        );
    };
    check(
        &["events", "--address", &address, "-c", "proc.nam = x"],
        1,
        "proc.nam",
    );
    check(
        &["alerts", "--address", &address, "--since", "soon"],
        1,
        "soon",
    );
    check(
        &["alerts", "--address", &address, "--priority", "huge"],
        1,
        "huge",
    );
    check(
        &[
            "alerts",
            "--address",
            &address,
            "--since",
            "18446744073709551615",
        ],
        1,
        "not of this log",
    );
    check(
        &["alerts", "--address", "unix:/no/such/socket"],
        3,
        "/no/such/socket",
    );
    check(&["alerts", "--address", "nowhere"], 1, "nowhere");
    check(&["alerts", "--address", "127.0.0.1:1"], 3, "127.0.0.1:1");
}

#[test]
fn a_configuration_is_checked_printed_and_described() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("saker.yaml");
    let path = file.to_str().expect("text");
    fs::write(&file, "hostname: a\nsensor: {ring_byte: 1}\n").expect("a file");
    let wrong = saker(&["config", "check", "--config", path]);
    let stderr = String::from_utf8_lossy(&wrong.stderr);
    assert_eq!(wrong.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("did you mean `ring_bytes`?"), "{stderr}");

    fs::write(&file, "hostname: a\n").expect("a file");
    assert!(
        saker(&["config", "check", "--config", path])
            .status
            .success()
    );
    let printed = Command::new(program("saker"))
        .args(["config", "print", "--config", path])
        .env("SAKER__HTTP__LISTEN", "127.0.0.1:1234")
        .output()
        .expect("it starts");
    let text = String::from_utf8(printed.stdout).expect("text");
    assert!(
        text.contains("hostname: a") && text.contains("127.0.0.1:1234"),
        "{text}"
    );
    // What is printed is a configuration, and the same.
    fs::write(&file, &text).expect("a file");
    let again = saker(&["config", "print", "--config", path]);
    assert_eq!(String::from_utf8_lossy(&again.stdout), text);

    let refused = Command::new(program("saker"))
        .args(["config", "check"])
        .env("SAKER__HTP__LISTEN", "127.0.0.1:1234")
        .output()
        .expect("it starts");
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("SAKER__HTP__LISTEN") && stderr.contains("did you mean `http`?"),
        "{stderr}"
    );

    let schema: Value = serde_json::from_slice(&saker(&["config", "schema"]).stdout).expect("JSON");
    assert!(schema["properties"]["grpc"].is_object(), "{schema}");
}
