//! The shipped alerts over metrics, by Prometheus's own checker.

use std::{fs, process::Command};

use saker_tests::{repository, skip};

#[test]
fn alerts_over_gpu_metrics_fire_when_they_should() {
    if Command::new("promtool").arg("--version").output().is_err() {
        return skip("promtool is not installed (Debian: prometheus)");
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let shipped = repository().join("deploy/prometheus");
    let rule = fs::read_to_string(shipped.join("gpu-alerts.yaml")).expect("it is there");
    // Prometheus reads what the operator takes out of the resource: its spec.
    let (_, spec) = rule.split_once("\nspec:\n").expect("a spec");
    let groups: Vec<&str> = spec
        .lines()
        .map(|line| line.strip_prefix("  ").unwrap_or(line))
        .collect();
    fs::write(folder.path().join("rules.yaml"), groups.join("\n") + "\n").expect("it is written");
    let test = folder.path().join("test.yaml");
    fs::copy(shipped.join("gpu-alerts_test.yaml"), &test).expect("it is copied");
    let outcome = Command::new("promtool")
        .args(["test", "rules"])
        .arg(&test)
        .output()
        .expect("promtool runs");
    assert!(outcome.status.success(), "{outcome:?}");
}
