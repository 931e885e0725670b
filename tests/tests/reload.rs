//! Reloads while things happen: nothing is missed, nothing comes twice, and what is wrong changes nothing.

use std::{
    fs,
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use saker_tests::{
    agent::assert_books_close,
    grpc::{Client, Served},
    program, root_or_skip,
    scenario::run,
    until,
};

const RELOADS: usize = 50;

/// Rules that stay, and one that comes and goes with what it wants of the kernel side.
fn rules(exe: &Path, opened: &Path, round: usize) -> String {
    let exe = exe.display();
    let opened = opened.display();
    let mut text = format!(
        "- rule: Flood\n  desc: d\n  condition: evt.type = execve and proc.exepath = {exe}\n  output: flood (args=%proc.args)\n  priority: DEBUG\n\
         - rule: Opened\n  desc: d\n  condition: evt.type in (open, openat) and fd.name startswith {opened}/\n  output: opened (name=%fd.name)\n  priority: DEBUG\n"
    );
    let (condition, output) = match round % 4 {
        0 => return text,
        1 => (
            "evt.type = connect and fd.sport = 1".into(),
            "c (%proc.env[ROUND])",
        ),
        2 => (
            format!("evt.type in (open, openat) and fd.name startswith /nowhere-{round}/"),
            "o",
        ),
        _ => (
            "evt.type in (open, openat) and fd.name endswith .gone".into(),
            "e",
        ),
    };
    text += &format!(
        "- rule: Round {round}\n  desc: d\n  condition: {condition}\n  output: {output}\n  priority: DEBUG\n"
    );
    text
}

#[test]
fn fifty_reloads_miss_nothing_and_repeat_nothing() {
    if !root_or_skip() {
        return;
    }
    const STARTS: usize = 4000;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let exe = saker_tests::scenario::named(folder.path(), "reloadflood").expect("an actor");
    let opened = folder.path().join("opened");
    fs::create_dir(&opened).expect("a folder");
    let mut served = Served::start(
        // Whatever else this machine does is in the same cgroup; and each alert counts here.
        "reload: {watch_files: false}\nsensor: {cgroup_events_per_s: 0}\nalerts: {window_s: 0}",
        &rules(&exe, &opened, 0),
    );
    let file = served.folder.path().join("rules.yaml");

    let is_done = AtomicBool::new(false);
    let opens = thread::scope(|scope| {
        let starts = scope.spawn(|| {
            run(Command::new(program("exec_flood"))
                .arg(STARTS.to_string())
                .arg(&exe))
            .expect("it runs");
        });
        let opens = scope.spawn(|| {
            let mut count = 0_usize;
            while !is_done.load(Ordering::Acquire) {
                fs::write(opened.join(count.to_string()), "").expect("a file");
                count += 1;
                thread::park_timeout(std::time::Duration::from_millis(1));
            }
            count
        });
        let endpoint = served.agent.endpoint();
        for round in 1..=RELOADS {
            fs::write(&file, rules(&exe, &opened, round)).expect("the rules are written");
            served.agent.signal(libc::SIGHUP);
            until("it is reloaded", || {
                endpoint.metric("saker_reloads_total", "applied") == Some(round as f64)
            });
        }
        starts.join().expect("it ran");
        is_done.store(true, Ordering::Release);
        opens.join().expect("it ran")
    });
    let stopped = served.agent.stop();
    let count = |rule: &str, field: &str, value: &str| {
        let is_it = |alert: &&serde_json::Value| {
            alert["rule"] == rule && alert["output_fields"][field] == value
        };
        stopped.alerts.iter().filter(is_it).count()
    };
    let flood: Vec<_> = stopped
        .alerts
        .iter()
        .filter(|alert| alert["rule"] == "Flood")
        .collect();
    let mut seen = vec![0_u32; STARTS];
    for alert in flood {
        let args = alert["output_fields"]["proc.args"].as_str().expect("text");
        let round = args
            .strip_prefix("--round=")
            .and_then(|round| round.parse::<usize>().ok());
        seen[round.expect("a round")] += 1;
    }
    let wrong: Vec<_> = (0..STARTS).filter(|round| seen[*round] != 1).collect();
    assert!(
        wrong.is_empty(),
        "log: {:?}\nstarts that were not seen once: {wrong:?}; of losses the log says: {:?}",
        stopped.log,
        stopped.losses()
    );
    let mut files = vec![0_u32; opens];
    for alert in stopped
        .alerts
        .iter()
        .filter(|alert| alert["rule"] == "Opened")
    {
        let name = alert["output_fields"]["fd.name"].as_str().expect("text");
        let number = name
            .rsplit('/')
            .next()
            .and_then(|name| name.parse::<usize>().ok());
        files[number.expect("a number")] += 1;
    }
    let wrong: Vec<_> = (0..opens)
        .filter(|file| files[*file] != 1)
        .map(|file| (file, files[file]))
        .collect();
    assert!(
        wrong.is_empty(),
        "log: {:?}\nopens that were not seen once: {wrong:?} of {opens}; of losses the log says: {:?}",
        stopped.log,
        stopped.losses()
    );
    assert!(opens > 100, "{opens} opens");
    assert_eq!(
        count("Rules were reloaded", "evt.type", "internal"),
        0,
        "the field is not in its text"
    );
    let told = stopped
        .alerts
        .iter()
        .filter(|alert| alert["rule"] == "Rules were reloaded")
        .count();
    assert_eq!(told, RELOADS);
    assert_books_close(&stopped);
}

/// A rule for what this test marks: agents see the whole machine, also what other tests mark at the same time.
fn good(test: &str) -> String {
    format!(
        "- rule: R\n  desc: d\n  condition: evt.type = execve and proc.args contains reload-marker-{test}-\n  output: r (args=%proc.args)\n  priority: DEBUG\n"
    )
}

fn mark(test: &str, marker: &str) {
    run(Command::new("true").arg(format!("reload-marker-{test}-{marker}"))).expect("it runs");
}

#[test]
fn wrong_rules_leave_the_old_ones_at_work_and_everybody_is_told() {
    if !root_or_skip() {
        return;
    }
    let mut served = Served::start("reload: {watch_files: false}", &good("rules"));
    let endpoint = served.agent.endpoint();
    let file = served.folder.path().join("rules.yaml");
    fs::write(&file, good("rules").replace("proc.args", "proc.argz"))
        .expect("the rules are written");
    served.agent.signal(libc::SIGHUP);
    let line = served.agent.await_log("not reloaded");
    assert!(
        line.contains("the old configuration and rules go on"),
        "{line}"
    );
    let alert = served
        .agent
        .await_rule("Configuration or rules could not be reloaded", "proc.argz");
    assert_eq!(alert["priority"], "Error", "{alert}");
    assert!(
        alert["output"]
            .as_str()
            .expect("text")
            .contains("rules.yaml:3:"),
        "{alert}"
    );
    assert_eq!(endpoint.metric("saker_reload_failed", ""), Some(1.0));
    assert_eq!(endpoint.metric("saker_reloads_total", "failed"), Some(1.0));
    mark("rules", "old");
    served.agent.await_rule("R", "reload-marker-rules-old");
    if let Some(client) = Client::saker(&served.address()) {
        let answer = &client.call(&["reload"])[0];
        assert!(
            answer["error"]
                .as_str()
                .expect("text")
                .contains("proc.argz"),
            "{answer}"
        );
        assert!(answer["ok"].is_null(), "{answer}");
        let status = &client.call(&["status"])[0];
        assert!(
            status["last_reload"]["error"]
                .as_str()
                .expect("text")
                .contains("proc.argz"),
            "{status}"
        );
        fs::write(&file, good("rules").replace("rule: R", "rule: S"))
            .expect("the rules are written");
        let answer = &client.call(&["reload"])[0];
        assert_eq!(
            (&answer["ok"], &answer["changed"]),
            (&true.into(), &true.into()),
            "{answer}"
        );
        assert_eq!(answer["rules"]["generation"], "2", "{answer}");
        let again = &client.call(&["reload"])[0];
        assert_eq!(
            (&again["ok"], &again["changed"]),
            (&true.into(), &serde_json::Value::Null),
            "{again}"
        );
    } else {
        fs::write(&file, good("rules").replace("rule: R", "rule: S"))
            .expect("the rules are written");
        served.agent.signal(libc::SIGHUP);
    }
    until("it is well again", || {
        endpoint.metric("saker_reload_failed", "") == Some(0.0)
    });
    mark("rules", "new");
    served.agent.await_rule("S", "reload-marker-rules-new");
}

#[test]
fn a_config_map_that_is_turned_over_is_noticed() {
    if !root_or_skip() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    let version = |name: &str, rules: &str| {
        fs::create_dir(path(name)).expect("a folder");
        fs::write(path(name).join("rules.yaml"), rules).expect("the rules are written");
        std::os::unix::fs::symlink(name, path("next")).expect("a link");
        fs::rename(path("next"), path("..data")).expect("it is turned over");
    };
    version("..first", &good("map"));
    // As the kubelet makes it: a link to a link.
    std::os::unix::fs::symlink("..data/rules.yaml", path("rules.yaml")).expect("a link");
    let config = path("saker.yaml");
    let text = format!(
        "http: {{listen: '127.0.0.1:0'}}\ngrpc: {{unix: {{enabled: false}}}}\nreload: {{poll_s: 1}}\nrules: {{paths: [{}]}}\n",
        path("rules.yaml").display()
    );
    fs::write(&config, text).expect("the configuration is written");
    let mut agent = saker_tests::Agent::start_with(&config, &[]);
    mark("map", "first");
    agent.await_rule("R", "reload-marker-map-first");
    version("..second", &good("map").replace("rule: R", "rule: S"));
    agent.await_log("reloaded (files changed)");
    mark("map", "second");
    agent.await_rule("S", "reload-marker-map-second");
    // A key that needs a restart is named, and what is new beside it is at work.
    let text = fs::read_to_string(&config).expect("it is there");
    fs::write(&config, text + "processes: {max: 2048}\n").expect("the configuration is written");
    agent.await_log("only after a restart: processes.max");
}

/// A configuration with these sinks, in the folder of the agent's own.
fn with_sinks(served: &Served, sinks: &str) {
    let config = served.folder.path().join("saker.yaml");
    let text = fs::read_to_string(&config).expect("it is there");
    let (before, _) = text.split_once("sinks:").expect("sinks stand last");
    fs::write(&config, format!("{before}sinks:\n{sinks}")).expect("the configuration is written");
}

fn file_sink(name: &str, path: &Path, more: &str) -> String {
    let filter = "filter: {rules: [Flood]}";
    format!(
        "    - {{name: {name}, path: {}, {filter}{more}}}\n",
        path.display()
    )
}

/// The rounds of the flood that a file has, in its order.
fn rounds(path: &Path) -> Vec<usize> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let round = |line: &str| {
        let (_, rest) = line.split_once("--round=")?;
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        rest[..end].parse().ok()
    };
    text.lines()
        .map(|line| round(line).unwrap_or_else(|| panic!("no round in {line}")))
        .collect()
}

#[test]
fn sinks_come_go_and_change_while_alerts_flow_and_none_is_lost_or_given_twice() {
    if !root_or_skip() {
        return;
    }
    const STARTS: usize = 2000;
    const CHANGES: usize = 30;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    let exe = saker_tests::scenario::named(folder.path(), "sinkflood").expect("an actor");
    fs::create_dir(path("opened")).expect("a folder");
    let sinks = |round: usize| {
        let mut text = "  file:\n".to_owned();
        text += &file_sink("stays", &path("stays"), "");
        // Elsewhere each time, and by turns in another shape.
        let to = path(&format!("moves-{}", round % 2));
        let format = if round % 4 < 2 { ", format: ocsf" } else { "" };
        text += &file_sink("moves", &to, format);
        if round % 3 == 1 {
            text += &file_sink("comes", &path("comes"), "");
        }
        text
    };
    let state = path("state");
    fs::write(path("rules.yaml"), rules(&exe, &path("opened"), 0)).expect("a file");
    let mut served = Served::start(
        &format!(
            "reload: {{watch_files: false}}\nsensor: {{cgroup_events_per_s: 0}}\nalerts: {{window_s: 0}}\n\
             alert_log: {{directory: {}}}\nrules: {{paths: [{}]}}\nsinks:\n{}",
            state.display(),
            path("rules.yaml").display(),
            sinks(0)
        ),
        "",
    );
    let endpoint = served.agent.endpoint();
    thread::scope(|scope| {
        let starts = scope.spawn(|| {
            run(Command::new(program("exec_flood"))
                .arg(STARTS.to_string())
                .arg(&exe))
            .expect("it runs");
        });
        for round in 1..=CHANGES {
            with_sinks(&served, &sinks(round));
            served.agent.signal(libc::SIGHUP);
            until("it is reloaded", || {
                endpoint.metric("saker_reloads_total", "applied") == Some(round as f64)
            });
        }
        starts.join().expect("it ran");
    });
    let told = |agent: &mut saker_tests::Agent| {
        let alerts = agent.alerts().iter();
        alerts
            .filter(|alert| alert["rule"] == "Configuration was changed")
            .count()
    };
    until("each change was told", || {
        told(&mut served.agent) == CHANGES
    });
    assert_eq!(
        endpoint.metric("saker_sink_alerts_total", "comes"),
        None,
        "one that is gone is not shown"
    );
    let stopped = served.agent.stop();
    assert_eq!(stopped.status.code(), Some(0), "{:?}", stopped.log);
    let all: Vec<_> = (0..STARTS).collect();
    assert_eq!(rounds(&path("stays")), all, "{:?}", stopped.log);
    let (first, second) = (rounds(&path("moves-0")), rounds(&path("moves-1")));
    assert!(!first.is_empty() && !second.is_empty(), "both were at work");
    let mut moved = [first, second].concat();
    moved.sort_unstable();
    assert_eq!(moved, all, "{:?}", stopped.log);
    let came = rounds(&path("comes"));
    assert!(
        came.is_sorted_by(|one, next| one < next),
        "none came twice: {came:?}"
    );
    assert_books_close(&stopped);
}

#[test]
fn a_wrong_sink_leaves_all_as_it_was_and_what_needs_a_restart_is_named() {
    if !root_or_skip() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    let file =
        |name: &str, to: &str| format!("    - {{name: {name}, path: {}}}\n", path(to).display());
    let plain = format!("  file:\n{}", file("plain", "plain"));
    fs::write(path("rules.yaml"), good("sink")).expect("a file");
    let mut served = Served::start(
        &format!(
            "reload: {{watch_files: false}}\nrules: {{paths: [{}]}}\nsinks:\n{plain}",
            path("rules.yaml").display()
        ),
        "",
    );
    let endpoint = served.agent.endpoint();
    let has = |name: &str, mark: &str| {
        fs::read_to_string(path(name)).is_ok_and(|text| text.contains(mark))
    };
    // The new rules are right, the sinks beside them are not: neither is put to work.
    fs::write(
        path("rules.yaml"),
        good("sink").replace("rule: R", "rule: S"),
    )
    .expect("a file");
    with_sinks(&served, &(plain + &file("plain", "other")));
    served.agent.signal(libc::SIGHUP);
    let line = served.agent.await_log("not reloaded");
    assert!(line.contains("sinks.file[1].name"), "{line}");
    served.agent.await_rule(
        "Configuration or rules could not be reloaded",
        "sinks.file[1].name",
    );
    assert_eq!(endpoint.metric("saker_reload_failed", ""), Some(1.0));
    mark("sink", "old");
    served.agent.await_rule("R", "reload-marker-sink-old");
    until("the old sink goes on", || {
        has("plain", "reload-marker-sink-old")
    });
    // The other way round: good sinks, and rules that are wrong.
    fs::write(
        path("rules.yaml"),
        good("sink").replace("proc.args", "proc.argz"),
    )
    .expect("a file");
    with_sinks(&served, &format!("  file:\n{}", file("plain", "other")));
    served.agent.forget_log();
    served.agent.signal(libc::SIGHUP);
    served.agent.await_log("not reloaded");
    mark("sink", "still");
    until("the old sink goes on", || {
        has("plain", "reload-marker-sink-still")
    });
    assert!(!path("other").exists());
    // All is well, and beside it a key that needs a restart, and one that does not.
    fs::write(path("rules.yaml"), good("sink")).expect("a file");
    let config = served.folder.path().join("saker.yaml");
    let text = fs::read_to_string(&config).expect("it is there");
    let text = format!("gpu: {{interval_s: 7}}\nalerts: {{same_max: 1}}\n{text}");
    fs::write(&config, text).expect("it is written");
    served.agent.forget_log();
    served.agent.signal(libc::SIGHUP);
    let line = served.agent.await_log("only after a restart");
    assert!(line.ends_with(": gpu.interval_s"), "{line}");
    let line = served.agent.await_log("at work from now on");
    assert!(line.ends_with(": alerts.same_max, sinks.file"), "{line}");
    served
        .agent
        .await_rule("Configuration was changed", "alerts.same_max, sinks.file");
    until("it is reloaded", || {
        endpoint.metric("saker_reloads_total", "applied") == Some(1.0)
    });
    mark("sink", "new");
    until("the sink is elsewhere", || {
        has("other", "reload-marker-sink-new")
    });
    assert!(!has("plain", "reload-marker-sink-new"));
    for _ in 0..3 {
        mark("sink", "new");
    }
    let stopped = served.agent.stop();
    let told = |alert: &&serde_json::Value| alert.to_string().contains("reload-marker-sink-new");
    let told: Vec<_> = stopped.alerts.iter().filter(told).collect();
    assert_eq!(told.len(), 2, "one, and one that sums up: {told:?}");
    assert_eq!(told[1]["output_fields"]["saker.suppressed"], 3);
}

#[test]
fn a_sink_that_is_no_longer_configured_ends_and_says_what_it_had_not_had() {
    if !root_or_skip() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    fs::write(path("rules.yaml"), good("gone")).expect("a file");
    // There is no such folder yet.
    let sink = |file: &str| {
        format!(
            "  file:\n    - {{name: gone, path: {}, filter: {{rules: [R]}}}}\n",
            path(file).display()
        )
    };
    let mut served = Served::start(
        &format!(
            "reload: {{watch_files: false}}\nrules: {{paths: [{}]}}\nalert_log: {{directory: {}}}\nsinks:\n{}",
            path("rules.yaml").display(),
            path("state").display(),
            sink("missing/file")
        ),
        "",
    );
    mark("gone", "first");
    served.agent.await_rule("R", "reload-marker-gone-first");
    served.agent.await_log("gone: alerts cannot be delivered");
    with_sinks(&served, "  file: []\n");
    served.agent.signal(libc::SIGHUP);
    let line = served.agent.await_log("sink gone is configured no more");
    assert!(
        line.contains("alerts in the log were not delivered"),
        "{line}"
    );
    // It comes back as a new one: what was before is not for it.
    fs::create_dir(path("missing")).expect("a folder");
    with_sinks(&served, &sink("missing/file"));
    served.agent.signal(libc::SIGHUP);
    served.agent.await_log("at work from now on: sinks.file");
    let endpoint = served.agent.endpoint();
    until("both reloads are done", || {
        endpoint.metric("saker_reloads_total", "applied") == Some(2.0)
    });
    mark("gone", "second");
    let has = |mark: &str| {
        let text = fs::read_to_string(path("missing/file")).unwrap_or_default();
        text.contains(&format!("reload-marker-gone-{mark}"))
    };
    until("it delivers", || has("second"));
    assert!(!has("first"));
}
