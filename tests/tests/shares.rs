//! A container that floods the agent with events is named, keeps others' events from nobody, and does the same in a replay.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use saker_tests::{Agent, Cgroup, program, root_or_skip};
use serde_json::Value;

const CONFIG: &str = "http: {listen: '127.0.0.1:0'}\nalerts: {window_s: 0}\nsensor: {cgroup_events_per_s: 5, cgroup_burst: 100}\n";
const OPENS: u32 = 1500;

fn rules(folder: &Path) -> String {
    format!(
        "- rule: Opened\n  desc: d\n  condition: evt.type in (open, openat, openat2) and fd.name startswith {}/\n  \
         output: opened (%fd.filename)\n  priority: DEBUG\n\
         - rule: Left out\n  desc: d\n  condition: evt.type = lost\n  \
         output: lost (%lost.count %lost.cause %container.id)\n  priority: DEBUG\n",
        folder.display()
    )
}

/// Opens a file many times from inside a cgroup, without starting anything else.
fn open_from(cgroup: &Cgroup, file: &Path, times: u32) {
    let script = "i=0; while [ $i -lt $2 ]; do : < $1; i=$((i+1)); done";
    let mut command = Command::new("sh");
    command
        .args(["-c", script, "sh"])
        .arg(file)
        .arg(times.to_string())
        .stdin(Stdio::null())
        // Else the loader of programs looks for libraries in many folders, and all those opens count.
        .env_remove("LD_LIBRARY_PATH");
    cgroup.enter(&mut command);
    assert!(command.status().expect("it starts").success());
}

fn opened<'a>(alerts: &'a [Value], name: &'a str) -> impl Iterator<Item = &'a Value> {
    alerts.iter().filter(move |alert| {
        alert["rule"] == "Opened" && alert["output_fields"]["fd.filename"] == name
    })
}

#[test]
fn whoever_makes_more_events_than_its_share_is_named() {
    if !root_or_skip() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let of = |name: &str| folder.path().join(name);
    let write = |name: &str, text: &str| fs::write(of(name), text).expect("it is written");
    let below = folder.path().join("below");
    fs::create_dir(&below).expect("a folder");
    write("config.yaml", CONFIG);
    write("rules.yaml", &rules(&below));
    write("below/noisy", "");
    write("below/quiet", "");
    let rules_file = of("rules.yaml");
    let args = ["--rules", rules_file.to_str().expect("UTF-8")];
    let (noisy, quiet) = (
        Cgroup::like_a_container().expect("a cgroup"),
        Cgroup::like_a_container().expect("a cgroup"),
    );
    let capture = of("capture");
    let mut agent = Agent::record(&capture, Some(&of("config.yaml")), &args);
    open_from(&noisy, &below.join("noisy"), OPENS);
    open_from(&quiet, &below.join("quiet"), 10);
    let is_of_noisy = |alert: &Value| {
        alert["rule"] == "Left out" && alert["output_fields"]["container.id"] == noisy.short_id()
    };
    agent.await_alert("what was left out", is_of_noisy);
    let stopped = agent.stop();
    assert_eq!(opened(&stopped.alerts, "quiet").count(), 10);
    let noise = opened(&stopped.alerts, "noisy").count() as u64;
    let left_out: u64 = stopped
        .alerts
        .iter()
        .filter(|alert| is_of_noisy(alert))
        .map(|alert| {
            let fields = &alert["output_fields"];
            assert_eq!(fields["lost.cause"], "over_share", "{alert}");
            fields["lost.count"].as_u64().expect("a number")
        })
        .sum();
    assert!(noise + left_out >= OPENS.into(), "{noise} {left_out}");
    assert!(noise > 0 && left_out > 0, "{noise}");

    let replayed = Command::new(program("saker"))
        .arg("replay")
        .arg(&capture)
        .arg("--config")
        .arg(of("config.yaml"))
        .args(args)
        .output()
        .expect("it starts");
    let alerts: Vec<Value> = String::from_utf8_lossy(&replayed.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("stdout holds JSON lines"))
        .collect();
    assert_eq!(alerts, stopped.alerts);
}
