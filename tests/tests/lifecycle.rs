//! Starting, stopping, and the numbers in between.

use std::process::Command;

use saker_tests::{Agent, program, root_or_skip, scenario::run};

#[test]
fn metrics_and_health_are_served() {
    if !root_or_skip() {
        return;
    }
    let mut agent = Agent::start(&[]);
    let endpoint = agent.endpoint();
    assert!(endpoint.get("/healthz").starts_with("HTTP/1.1 200"));
    assert!(endpoint.get("/readyz").starts_with("HTTP/1.1 200"));
    assert!(endpoint.get("/nothing").starts_with("HTTP/1.1 404"));
    let classic = endpoint.get("/metrics");
    assert!(classic.contains("text/plain; version=0.0.4"), "{classic}");
    assert!(
        classic.contains("# TYPE saker_alerts_total counter"),
        "{classic}"
    );
    let metrics = endpoint.get_with("/metrics", "Accept: application/openmetrics-text\r\n");
    assert!(
        metrics.contains("application/openmetrics-text"),
        "{metrics}"
    );
    assert!(metrics.contains("saker_build_info{version="), "{metrics}");
    assert!(
        metrics.contains("saker_probe_attached{kind=\"exec\""),
        "{metrics}"
    );
    assert!(metrics.trim_end().ends_with("# EOF"), "{metrics}");
}

#[test]
fn both_signals_stop_it_with_a_summary() {
    if !root_or_skip() {
        return;
    }
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let agent = Agent::start(&[]);
        agent.signal(signal);
        let stopped = agent.stop();
        assert_eq!(stopped.status.code(), Some(0), "{stopped:?}");
        let summary = stopped
            .log
            .iter()
            .find(|line| line.contains("stopped"))
            .unwrap_or_else(|| panic!("no summary: {:?}", stopped.log));
        for word in ["seen", "lost", "alerts"] {
            assert!(summary.contains(word), "{summary}");
        }
    }
}

#[test]
fn what_happened_before_the_stop_is_alerted_before_the_end() {
    if !root_or_skip() {
        return;
    }
    let agent = Agent::start(&[]);
    for round in 0..50 {
        run(Command::new("python3").args([
            "-S",
            "-c",
            &format!("pass  # pickle.load drained-{round}."),
        ]))
        .expect("it runs");
    }
    let stopped = agent.stop();
    for round in 0..50 {
        let marker = format!("drained-{round}.");
        let found = stopped.alerts.iter().any(|alert| {
            alert["output"]
                .as_str()
                .is_some_and(|output| output.contains(&marker))
        });
        assert!(found, "no alert with {marker}; log: {:?}", stopped.log);
    }
}

#[test]
fn ten_thousand_short_lived_processes_are_all_seen_with_their_arguments() {
    if !root_or_skip() {
        return;
    }
    const ROUNDS: usize = 10_000;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let marker = format!("flood{}", std::process::id());
    let program_copy = saker_tests::scenario::named(folder.path(), &marker[..marker.len().min(15)])
        .expect("an actor");
    let rules = folder.path().join("flood.yaml");
    let rule = format!(
        "- rule: Flood\n  desc: every start of the flood\n  condition: spawned_process and proc.exepath = {}\n  \
         output: flood (args=%proc.args)\n  priority: DEBUG\n",
        program_copy.display()
    );
    std::fs::write(&rules, rule).expect("the rule is written");
    let agent = Agent::start(&["--rules", rules.to_str().expect("UTF-8")]);
    run(Command::new(program("exec_flood"))
        .arg(ROUNDS.to_string())
        .arg(&program_copy))
    .expect("the flood runs");
    let stopped = agent.stop();

    let mut seen = vec![0_u32; ROUNDS];
    for alert in stopped
        .alerts
        .iter()
        .filter(|alert| alert["rule"] == "Flood")
    {
        let args = alert["output_fields"]["proc.args"]
            .as_str()
            .expect("arguments are text");
        let round: usize = args
            .strip_prefix("--round=")
            .and_then(|round| round.parse().ok())
            .unwrap_or_else(|| panic!("wrong arguments: {args}"));
        seen[round] += 1;
    }
    let wrong: Vec<_> = seen
        .iter()
        .enumerate()
        .filter(|(_, count)| **count != 1)
        .map(|(round, _)| round)
        .collect();
    assert!(
        wrong.is_empty(),
        "rounds not seen exactly once: {wrong:?}; log: {:?}",
        stopped.log
    );

    let summary = stopped
        .log
        .iter()
        .find(|line| line.contains("stopped"))
        .expect("a summary");
    let number = |name: &str| -> u64 {
        let rest = summary
            .split(&format!("{name}="))
            .nth(1)
            .unwrap_or_else(|| panic!("no {name} in {summary}"));
        rest.split(|c: char| !c.is_ascii_digit())
            .next()
            .and_then(|digits| digits.parse().ok())
            .expect("a number")
    };
    assert_eq!(
        number("seen"),
        number("delivered") + number("filtered") + number("lost"),
        "{summary}"
    );
    assert!(number("delivered") >= ROUNDS as u64, "{summary}");
}
