//! Models that run code when they are loaded, saved and loaded with every library, in every way that scanners were led astray by:
//! each must raise an alarm that names what was asked for, by which process, in which container.

use std::process::Command;

use saker_tests::{
    Agent, Cgroup,
    agent::{Stopped, assert_books_close, is_alarm},
    python::{libraries, run_in, script},
    root_or_skip,
};
use serde_json::Value;

const CERTAIN: &str = "Unpickler asked for a name that runs code";
const SHELL: &str = "Shell after a model file was read";

/// Ways that name no global to anybody: what they start shows.
const UNSEEN: &[&str] = &["torch-jit", "torch-weights-only"];

/// What raised an alarm in a process: the alerts of its pid.
fn alarms_of<'a>(stopped: &'a Stopped, pid: &str) -> Vec<&'a Value> {
    let pid: u64 = pid.parse().expect("a process id");
    let is_of = |alert: &Value| alert["output_fields"]["proc.pid"].as_u64() == Some(pid);
    stopped
        .alerts
        .iter()
        .filter(|alert| is_alarm(alert) && is_of(alert))
        .collect()
}

fn is_of(alert: &Value, rule: &str, fields: &[(&str, &str)]) -> bool {
    alert["rule"] == rule
        && fields
            .iter()
            .all(|(field, value)| alert["output_fields"][field] == **value)
}

#[test]
fn every_library_shows_what_a_hostile_model_asks_for() {
    if !root_or_skip() {
        return;
    }
    let Some(python) = libraries() else { return };
    let agent = Agent::start(&[]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cgroup = Cgroup::like_a_container().expect("a cgroup");
    let loaded = run_in(
        &cgroup,
        Command::new(&python)
            .arg(script("hostile_libraries.py"))
            .arg(folder.path()),
    );
    let stopped = agent.stop();
    assert_books_close(&stopped);
    let mut missed = Vec::new();
    let mut libraries = Vec::new();
    for line in loaded.lines() {
        let [way, pid, ran] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        assert_eq!(ran, "ran", "the model of {way} does nothing");
        libraries.push(way.split('-').next().unwrap_or_default());
        let is_seen = if UNSEEN.contains(&way) {
            let command = format!("sh -c touch {}/ran-{way}", folder.path().display());
            stopped.alerts.iter().any(|alert| {
                is_of(
                    alert,
                    SHELL,
                    &[
                        ("proc.cmdline", &command),
                        ("container.id", cgroup.short_id()),
                    ],
                )
            })
        } else {
            alarms_of(&stopped, pid).into_iter().any(|alert| {
                is_of(
                    alert,
                    CERTAIN,
                    &[
                        ("pickle.module", "posix"),
                        ("pickle.name", "system"),
                        ("container.id", cgroup.short_id()),
                        ("python.version", "3.11"),
                    ],
                )
            })
        };
        if !is_seen {
            missed.push((way, alarms_of(&stopped, pid)));
        }
    }
    for library in [
        "pickle",
        "_pickle",
        "torch",
        "joblib",
        "numpy",
        "pandas",
        "dill",
        "cloudpickle",
        "shelve",
        "multiprocessing",
    ] {
        assert!(libraries.contains(&library), "{library}: {loaded}");
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn every_published_gadget_raises_an_alarm() {
    if !root_or_skip() {
        return;
    }
    let Some(python) = libraries() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cgroup = Cgroup::like_a_container().expect("a cgroup");
    let act = |what: &str| {
        run_in(
            &cgroup,
            Command::new(&python)
                .arg(script("hostile_models.py"))
                .arg(what)
                .arg(folder.path()),
        )
    };
    act("write");
    let agent = Agent::start(&[]);
    let loaded = act("load");
    let stopped = agent.stop();
    assert_books_close(&stopped);
    let (mut count, mut missed) = (0, Vec::new());
    for line in loaded.lines() {
        let [pid, name, ran] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        count += 1;
        if alarms_of(&stopped, pid).is_empty() {
            missed.push((name, ran));
        }
    }
    assert!(count > 100, "{loaded}");
    assert!(missed.is_empty(), "{missed:#?}");
}
