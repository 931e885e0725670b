//! The running agent delivers what it raised, across its own sudden end.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    thread,
};

use saker_tests::{Agent, root_or_skip, until};
use serde_json::Value;

/// A rule that asks for one test's own acts: agents see the whole machine, and others of these tests run beside it.
fn rules(test: &str) -> String {
    format!(
        "
- rule: Marked
  desc: a test's own act
  condition: evt.type = execve and proc.cmdline contains saker-delivery-mark-{test}
  output: marked (cmdline=%proc.cmdline)
  priority: WARNING
  tags: [T1059]
"
    )
}

fn configure(folder: &Path, test: &str) -> std::path::PathBuf {
    let config = folder.join("saker.yaml");
    let rules = folder.join("rules.yaml");
    fs::write(&rules, self::rules(test)).expect("it is written");
    let text = format!(
        "http: {{listen: '127.0.0.1:0'}}\n\
         grpc: {{unix: {{enabled: false}}}}\n\
         rules: {{paths: [{}]}}\n\
         stdout: {{enabled: false}}\n\
         alerts: {{same_max: 5}}\n\
         alert_log: {{directory: {}}}\n\
         sinks:\n  file:\n    - {{name: plain, path: {}}}\n    - {{name: findings, path: {}, format: ocsf}}\n",
        rules.display(),
        folder.join("state").display(),
        folder.join("plain.jsonl").display(),
        folder.join("findings.jsonl").display(),
    );
    fs::write(&config, text).expect("it is written");
    config
}

fn act(mark: &str) {
    let done = Command::new("/bin/true")
        .arg(format!("saker-delivery-mark-{mark}"))
        .stdout(Stdio::null())
        .status()
        .expect("it runs");
    assert!(done.success());
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect()
}

fn with(alerts: &[Value], mark: &str) -> usize {
    let mark = format!("saker-delivery-mark-{mark}");
    let has = |alert: &&Value| alert.to_string().contains(&mark);
    alerts.iter().filter(has).count()
}

#[test]
fn alerts_survive_the_agent_and_carry_what_ties_them_together() {
    if !root_or_skip() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = configure(folder.path(), "whole");
    let plain = folder.path().join("plain.jsonl");
    let agent = Agent::start_with(&config, &[]);
    act("whole-first");
    until("the first is delivered", || {
        with(&lines(&plain), "whole-first") == 1
    });
    agent.signal(libc::SIGKILL);
    drop(agent);
    // A second agent goes on in the same log.
    let agent = Agent::start_with(&config, &[]);
    act("whole-second");
    until("the second is delivered", || {
        with(&lines(&plain), "whole-second") == 1
    });
    for _ in 0..30 {
        act("whole-same");
    }
    let stopped = agent.stop();
    assert_eq!(stopped.status.code(), Some(0), "{:?}", stopped.log);

    let alerts = lines(&plain);
    let text = |alert: &Value, name: &str| alert["output_fields"][name].as_str().map(str::to_owned);
    let mut ids: Vec<_> = alerts
        .iter()
        .map(|alert| text(alert, "saker.alert_id").expect("every alert has an id"))
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(
        ids.len(),
        alerts.len(),
        "ids are unique, and nothing came twice"
    );
    let version = |alert: &Value| text(alert, "saker.rule_version").expect("every alert has one");
    let marked: Vec<_> = alerts
        .iter()
        .filter(|alert| alert["rule"] == "Marked")
        .collect();
    assert!(
        marked
            .iter()
            .all(|alert| version(alert) == version(marked[0]))
    );
    assert!(
        marked
            .iter()
            .all(|alert| text(alert, "saker.lineage_uid").is_some())
    );
    // Five as they are, the other twenty-five in one.
    let summaries: Vec<_> = marked
        .iter()
        .filter(|alert| alert["output_fields"]["saker.suppressed"].is_u64())
        .collect();
    assert_eq!(with(&alerts, "whole-same"), 6, "{alerts:?}");
    assert_eq!(summaries.len(), 1);
    assert_eq!(summaries[0]["output_fields"]["saker.suppressed"], 25);

    let findings = lines(&folder.path().join("findings.jsonl"));
    assert_eq!(findings.len(), alerts.len());
    let first = findings
        .iter()
        .find(|finding| finding.to_string().contains("mark-whole-first"))
        .expect("it was delivered");
    let process = &first["evidences"][0]["process"];
    assert_eq!(process["name"], "true", "{first}");
    assert!(process["parent_process"]["pid"].is_u64(), "{first}");
    assert_eq!(
        first["finding_info"]["attacks"][0]["technique"]["uid"],
        "T1059"
    );
}

#[test]
fn a_second_agent_is_refused_and_told_why() {
    if !root_or_skip() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = configure(folder.path(), "second-agent");
    let agent = Agent::start_with(&config, &[]);
    let second = Command::new(saker_tests::program("saker"))
        .args(["run", "--config"])
        .arg(&config)
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(3), "{said}");
    let pid = agent.pid().to_string();
    assert!(
        said.contains("alert_log.directory") && said.contains(&pid),
        "{said}"
    );
}

/// What the agent says of alerts that do not arrive is an alert itself, for the sinks that work.
#[test]
fn alerts_that_a_full_log_drops_and_that_are_refused_are_told() {
    if !root_or_skip() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = configure(folder.path(), "full");
    let text = fs::read_to_string(&config).expect("it is there");
    // In memory, and little of it; beside the sinks that work one that has no folder, and a server that refuses everything.
    let server = TcpListener::bind("127.0.0.1:0").expect("some port is free");
    let address = server.local_addr().expect("it is bound");
    thread::spawn(move || server.incoming().flatten().for_each(refuse));
    let state = folder.path().join("state");
    let text = text
        .replace(
            &format!("directory: {}", state.display()),
            "memory_bytes_max: 65536",
        )
        .replace("same_max: 5", "window_s: 0")
        + &format!(
            "    - {{name: lagging, path: {}, pause_max_s: 3600}}\n  http:\n    - {{name: refusing, url: 'http://{address}/'}}\n",
            folder.path().join("missing/file").display(),
        );
    fs::write(&config, text).expect("it is written");
    let mut agent = Agent::start_with(&config, &[]);
    let endpoint = agent.endpoint();
    for _ in 0..200 {
        act("full-many");
    }
    let plain = folder.path().join("plain.jsonl");
    let told = |cause: &str| {
        let is_it = |alert: &Value| {
            alert["rule"] == "Events were lost"
                && alert["output"]
                    .as_str()
                    .is_some_and(|text| text.contains(&format!("cause={cause}")))
        };
        lines(&plain).iter().any(is_it)
    };
    until("what the full log dropped is told", || {
        told("alert_log_full")
    });
    until("what was refused is told", || told("alert_refused"));
    let count = |name: &str, labels: &str| endpoint.metric(name, labels).unwrap_or_default();
    assert!(count("saker_sink_missed_total", "lagging") > 0.0);
    assert!(count("saker_alerts_dropped_total", "log_full") > 0.0);
    assert!(count("saker_sink_dead_letters_total", "refusing") > 0.0);
    assert_eq!(count("saker_sink_dead_letters_total", "plain"), 0.0);
    // Dead letters are said with the alert's id and the reason.
    let line = agent.await_log("dead letters");
    assert!(line.contains("refusing") && line.contains("400"), "{line}");
}

/// Answers every request of a connection with 400.
fn refuse(stream: TcpStream) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let line = line.trim().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().expect("a number");
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
        if reader.get_mut().write_all(answer).is_err() {
            return;
        }
    }
}
