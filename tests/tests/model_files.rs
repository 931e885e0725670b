//! Model files that run code, and those that do not, loaded by real interpreters and libraries.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use saker_tests::{Agent, Cgroup, bin_dir, repository, root_or_skip, skip};
use serde_json::Value;

const SHELL: &str = "Shell after a model file was read";

/// A script of `tests/python`.
fn script(name: &str) -> PathBuf {
    repository().join("tests/python").join(name)
}

/// The Python of the virtual environment that `cargo xtask setup` made, or `None` after recording a skip.
fn libraries() -> Option<PathBuf> {
    let folder = env::var_os("SAKER_PYTHON_LIBRARIES").map_or_else(
        || bin_dir().with_file_name("python-libraries"),
        PathBuf::from,
    );
    let python = folder.join("bin/python3");
    if python.exists() {
        return Some(python);
    }
    skip("the Python libraries are not installed: cargo xtask setup");
    None
}

/// Runs a program in a cgroup of its own to its end and returns what it printed.
fn run_in(cgroup: &Cgroup, command: &mut Command) -> String {
    cgroup.enter(command);
    let output = command.output().expect("the program starts");
    assert!(
        output.status.success(),
        "{command:?} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Loads a pickle by pure Python, whose unpickler tells nobody what it resolves, and which runs a shell.
fn load_unseen(python: &Path, cgroup: &Cgroup, folder: &Path, marker: &str) {
    let file = folder.join("unseen.pkl");
    std::fs::write(&file, format!("cos\nsystem\n(S': {marker}'\ntR."))
        .expect("the model is written");
    run_in(
        cgroup,
        Command::new(python)
            .args([
                "-c",
                "import pickle, sys; pickle._Unpickler(open(sys.argv[1], 'rb')).load()",
            ])
            .arg(&file),
    );
}

/// The alerts of a container at WARNING or above, without those that these tests provoke: short ids of cgroups of one run are equal.
fn alarms<'a>(alerts: &'a [Value], cgroup: &Cgroup) -> Vec<&'a Value> {
    alerts
        .iter()
        .filter(|alert| {
            alert["output"].as_str().is_some_and(|text| {
                text.contains(cgroup.short_id()) && !text.contains("(command=sh -c : ")
            })
        })
        .filter(|alert| {
            !matches!(
                alert["priority"].as_str(),
                Some("Notice" | "Informational" | "Debug")
            )
        })
        .collect()
}

#[test]
fn a_shell_is_seen_where_no_global_is() {
    if !root_or_skip() {
        return;
    }
    let mut agent = Agent::start(&[]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cgroup = Cgroup::like_a_container().expect("a cgroup");
    load_unseen(Path::new("python3"), &cgroup, folder.path(), "unseen");
    let alert = agent.await_rule(SHELL, ": unseen");
    assert_eq!(alert["priority"], "Warning", "{alert}");
    let output = alert["output"].as_str().unwrap_or_default();
    assert!(output.contains(cgroup.short_id()), "{alert}");
}

#[test]
fn ordinary_models_of_every_library_raise_nothing() {
    if !root_or_skip() {
        return;
    }
    let Some(python) = libraries() else { return };
    let mut agent = Agent::start(&[]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cgroup = Cgroup::like_a_container().expect("a cgroup");
    let loaded = run_in(
        &cgroup,
        Command::new(&python)
            .arg(script("ordinary_models.py"))
            .arg(folder.path()),
    );
    for library in [
        "cloudpickle",
        "dill",
        "joblib",
        "multiprocessing",
        "numpy",
        "pandas",
        "pickle",
        "shelve",
        "torch",
    ] {
        assert!(
            loaded.lines().any(|line| line.starts_with(library)),
            "nothing was saved with {library}:\n{loaded}"
        );
    }
    // An alert that is due: what comes before it has been judged.
    let last = Cgroup::like_a_container().expect("a cgroup");
    load_unseen(Path::new("python3"), &last, folder.path(), "after-all");
    agent.await_rule(SHELL, ": after-all");
    let stopped = agent.stop();
    assert!(
        !stopped.log.iter().any(|line| line.contains("lost events")),
        "{stopped:?}"
    );
    let raised = alarms(&stopped.alerts, &cgroup);
    assert!(raised.is_empty(), "{raised:#?}");
}
