//! The shipped rules on real behaviour: every scenario of the demo raises its alert.

use saker_tests::{Agent, root_or_skip, scenario::SCENARIOS};

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
