//! Model files that run code, and those that do not, loaded by real interpreters and libraries.

use std::{path::Path, process::Command};

use saker_tests::{
    Agent, Cgroup,
    agent::alarms,
    python::{libraries, run_in, script},
    root_or_skip,
};

const SHELL: &str = "Shell after a model file was read";

/// Loads a pickle by an unpickler that asks nobody, as those do that are meant to restrict what is loaded; it runs a shell.
fn load_unseen(python: &Path, cgroup: &Cgroup, folder: &Path, marker: &str) {
    let file = folder.join("unseen.pkl");
    std::fs::write(&file, format!("cos\nsystem\n(S': {marker}'\ntR."))
        .expect("the model is written");
    let code = "
import importlib, pickle, sys
class Own(pickle.Unpickler):
    def find_class(self, module, name):
        return getattr(importlib.import_module(module), name)
Own(open(sys.argv[1], 'rb')).load()";
    run_in(cgroup, Command::new(python).args(["-c", code]).arg(&file));
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
