//! The seed's three rules, loaded unchanged from `../shared`, on real processes.

use std::process::Command;

use saker_tests::{
    Agent, Cgroup, program, root_or_skip,
    scenario::{named, run},
    shared,
};

#[test]
fn each_seed_rule_alerts_on_a_real_process() {
    let Some(rules) = shared("seed-falco-ml-rules.yaml") else {
        return;
    };
    if !root_or_skip() {
        return;
    }
    let mut agent = Agent::start(&["--rules", rules.to_str().expect("the path is UTF-8")]);
    let folder = tempfile::tempdir().expect("a temporary folder");

    let curl = named(folder.path(), "curl").expect("an actor");
    run(Command::new(curl).arg("https://example.invalid/seed-one.safetensors")).expect("it runs");
    let alert = agent.await_rule("Model File Download from Untrusted Source", "seed-one");
    assert_eq!(alert["priority"], "Warning");
    assert_eq!(
        alert["output_fields"]["proc.cmdline"],
        "curl https://example.invalid/seed-one.safetensors"
    );
    assert_eq!(alert["output_fields"]["user.name"], "root");

    let cgroup = Cgroup::like_a_container().expect("a cgroup");
    let mut python = Command::new("python3");
    python.args(["-c", "pass  # seed-two torch.load"]);
    cgroup.enter(&mut python);
    run(&mut python).expect("it runs");
    let alert = agent.await_rule("Pickle Deserialization in ML Container", "seed-two");
    assert_eq!(alert["priority"], "Critical");
    // No runtime knows this container: the name is absent, never wrong.
    assert!(
        alert["output_fields"]["container.name"].is_null(),
        "{alert}"
    );

    let node = folder.path().join("seed-three");
    run(Command::new(program("open_device"))
        .arg(&node)
        .args(["195", "7"]))
    .expect("it runs");
    let alert = agent.await_rule("GPU Device Access by Non-ML Container", "/dev/nvidia7");
    assert_eq!(alert["output_fields"]["fd.name"], "/dev/nvidia7");

    // The device event is all that the third rule needs: no system call is slowed down for its sake.
    let metrics = agent.endpoint().get("/metrics");
    let is_attached =
        |kind: &str| metrics.contains(&format!("saker_probe_attached{{kind=\"{kind}\""));
    assert!(
        is_attached("device_open") && !is_attached("open"),
        "{metrics}"
    );

    assert!(agent.stop().status.success());
}

#[test]
fn outside_a_container_the_seed_rule_for_containers_is_silent() {
    let Some(rules) = shared("seed-falco-ml-rules.yaml") else {
        return;
    };
    if !root_or_skip() {
        return;
    }
    let mut agent = Agent::start(&["--rules", rules.to_str().expect("the path is UTF-8")]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    run(Command::new("python3").args(["-c", "pass  # on-the-host torch.load"])).expect("it runs");
    // Events are evaluated in order: once the later act has alerted, the earlier one was evaluated.
    let curl = named(folder.path(), "curl").expect("an actor");
    run(Command::new(curl).arg("https://example.invalid/later.onnx")).expect("it runs");
    agent.await_rule("Model File Download from Untrusted Source", "later.onnx");
    let on_host = agent
        .alerts()
        .iter()
        .filter(|alert| {
            alert["output"]
                .as_str()
                .is_some_and(|output| output.contains("on-the-host"))
        })
        .count();
    assert_eq!(on_host, 0);
}
