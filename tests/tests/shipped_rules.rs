//! The shipped rules on real behaviour: every scenario of the demo raises its alert.

use std::{fs, process::Command};

use saker_tests::{
    Agent, root_or_skip,
    scenario::{SCENARIOS, run},
};

#[test]
fn every_scenario_raises_its_alert() {
    if !root_or_skip() {
        return;
    }
    let mut agent = Agent::start(&[]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    for scenario in SCENARIOS {
        let marker = (scenario.act)(folder.path())
            .unwrap_or_else(|error| panic!("{}: {error}", scenario.what));
        let alert = agent.await_rule(scenario.rule, &marker);
        for key in [
            "hostname",
            "output",
            "output_fields",
            "priority",
            "rule",
            "source",
            "tags",
            "time",
        ] {
            assert!(
                !alert[key].is_null(),
                "{}: {key} is missing in {alert}",
                scenario.what
            );
        }
    }
    let stopped = agent.stop();
    assert!(stopped.status.success(), "{stopped:?}");
}

/// Rules of one's own are read behind the shipped ones: both are at work, and what is appended to a shipped list counts.
#[test]
fn rules_of_one_s_own_stand_beside_them() {
    if !root_or_skip() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    let own = "- list: approved_tmp_parents\n  items: [true]\n  override: {items: append}\n\
               - rule: Of one's own\n  desc: d\n  condition: evt.type = execve and proc.name in (approved_tmp_parents)\n  \
               output: own (%proc.args)\n  priority: NOTICE\n";
    fs::write(path("own.yaml"), own).expect("the rules are written");
    let config = format!(
        "http: {{listen: '127.0.0.1:0'}}\nalerts: {{window_s: 0}}\ngrpc: {{unix: {{enabled: false}}}}\n\
         rules: {{paths: [{}], keep_shipped: true}}\n",
        path("own.yaml").display()
    );
    fs::write(path("saker.yaml"), config).expect("the configuration is written");
    let mut agent = Agent::start_with(&path("saker.yaml"), &[]);
    run(Command::new("true").arg("own-rules-marker")).expect("it runs");
    agent.await_rule("Of one's own", "own-rules-marker");
    let scenario = SCENARIOS.first().expect("there is one");
    let marker = (scenario.act)(folder.path()).expect("it is done");
    agent.await_rule(scenario.rule, &marker);
    let stopped = agent.stop();
    assert!(stopped.status.success(), "{stopped:?}");
}
