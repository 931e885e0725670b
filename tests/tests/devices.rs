//! An open of a device that two hooks see is one event to rules, however they ask for it.

use std::{fs, process::Command};

use saker_tests::{Agent, program, root_or_skip};
use serde_json::Value;

/// A rule that any open of any file may meet has the agent see every open.
const EVERY_OPEN: &str = "
- rule: Every open
  desc: d
  condition: evt.type in (open, openat, openat2, creat) and proc.name = nobody-has-this-name
  output: o
  priority: WARNING
";

const BY_DEVICE: &str = "
- rule: By device
  desc: d
  condition: evt.type = device_open and evt.is_open_read = true and fd.name = /dev/nvidia7
  output: \"%evt.type %fd.dev.name %fd.dev.major %fd.dev.minor %fd.nameraw read=%evt.is_open_read\"
  priority: WARNING
";

const EITHER: &str = "
- rule: Either
  desc: d
  condition: evt.type in (open, openat, device_open) and evt.is_open_read = true and fd.dev.name startswith /dev/nvidia
  output: \"%evt.type %fd.dev.name %fd.nameraw\"
  priority: WARNING
";

const BY_CALL: &str = "
- rule: By call
  desc: d
  condition: evt.type in (open, openat) and fd.dev.name = /dev/nvidia7 and evt.res != EINPROGRESS
  output: \"%evt.type %fd.dev.name %fd.dev.major %fd.nameraw %evt.res\"
  priority: WARNING
";

/// What each rule says of one open of a device under another name, when these rules are loaded, and how often.
fn alerts(rules: &[&str]) -> Option<(String, Vec<(String, String)>)> {
    if !root_or_skip() {
        return None;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("rules.yaml");
    // Named by the folder: other tests run meanwhile.
    let mark = folder.path().to_str().expect("the path is UTF-8");
    let last = format!(
        "
- rule: Last
  desc: d
  condition: evt.type = execve and proc.cmdline contains \"last-of {mark}\"
  output: o
  priority: WARNING
"
    );
    fs::write(&file, [rules, &[last.as_str()]].concat().concat()).expect("the rules are written");
    let mut agent = Agent::start(&["--rules", file.to_str().expect("the path is UTF-8")]);
    let node = folder.path().join("innocent");
    let opened = Command::new(program("open_device"))
        .arg(&node)
        .args(["195", "7"])
        .output()
        .expect("it runs");
    assert!(opened.status.success(), "{opened:?}");
    // Events are evaluated in order: once this has alerted, all of the earlier ones were.
    let status = Command::new(program("nothing"))
        .args(["last-of", mark])
        .status();
    assert!(status.expect("it runs").success());
    agent.await_rule("Last", "o");
    let mut seen: Vec<(String, String)> = agent.alerts().iter().map(told).collect();
    let node = node.to_str().expect("text").to_owned();
    // Others may open such a device meanwhile.
    seen.retain(|(_, said)| said.contains(&node));
    seen.sort();
    assert!(agent.stop().status.success());
    Some((node, seen))
}

/// A rule's name, and what it says behind the time and the priority.
fn told(alert: &Value) -> (String, String) {
    let text = |key: &str| alert[key].as_str().expect("text").to_owned();
    let output = text("output");
    let said = output
        .split_once("Warning ")
        .map_or(output.as_str(), |(_, said)| said);
    (text("rule"), said.to_owned())
}

fn pairs(expected: &[(&str, String)]) -> Vec<(String, String)> {
    expected
        .iter()
        .map(|(rule, said)| ((*rule).to_owned(), said.clone()))
        .collect()
}

#[test]
fn a_device_is_one_event_to_each_rule_where_every_open_is_seen() {
    let Some((node, seen)) = alerts(&[EVERY_OPEN, BY_DEVICE, EITHER, BY_CALL]) else {
        return;
    };
    let expected = [
        // No driver answers: the open has failed, and is known to be of a device all the same.
        ("By call", format!("openat /dev/nvidia7 195 {node} ENXIO")),
        (
            "By device",
            format!("device_open /dev/nvidia7 195 7 {node} read=true"),
        ),
        // It meets both, and says so once.
        ("Either", format!("device_open /dev/nvidia7 {node}")),
    ];
    assert_eq!(seen, pairs(&expected));
}

#[test]
fn the_path_as_opened_needs_no_hook_of_opens() {
    let Some((node, seen)) = alerts(&[BY_DEVICE]) else {
        return;
    };
    let expected = [(
        "By device",
        format!("device_open /dev/nvidia7 195 7 {node} read=true"),
    )];
    assert_eq!(seen, pairs(&expected));
}
