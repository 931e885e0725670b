//! The table and the registry agree.

use super::*;

#[test]
fn every_row_is_registered_under_its_name() {
    let metrics = Metrics::new();
    // A family without a label value is not shown; these get theirs from hooks and rules.
    let kind = String::from("execve");
    let hook = String::from("none");
    metrics
        .probe_attached
        .get_or_create(&KindHook {
            kind: kind.clone(),
            hook,
        })
        .set(0);
    metrics
        .kernel_events
        .get_or_create(&KindOutcome {
            kind: kind.clone(),
            outcome: "seen",
        })
        .inc();
    metrics.events.get_or_create(&Kind { kind }).inc();
    let runtime = String::from("/run/x.sock");
    let state = RuntimeState {
        runtime: runtime.clone(),
        state: "present",
    };
    metrics.runtime_state.get_or_create(&state).set(1);
    let lookup = RuntimeOutcome {
        runtime,
        outcome: "found",
    };
    metrics.runtime_lookups.get_or_create(&lookup).inc();
    let outcome = HELLO_OUTCOMES[0];
    metrics.tls_hellos.get_or_create(&Outcome { outcome }).inc();
    metrics.count_match("A rule", "Error");
    metrics.cost.show_program("saker_exec", 1, 1);
    let runtime = RuntimeName {
        runtime: "/run/x.sock".into(),
    };
    metrics
        .cost
        .runtime_lookups
        .get_or_create(&runtime)
        .observe(0.01);
    metrics.gpu.driver(&["absent"], "absent", "");
    let process = gpu::RowProcess {
        sm: Some(1.0),
        mem: Some(1),
        ..gpu::RowProcess::default()
    };
    metrics.gpu.publish(vec![gpu::Row {
        uuid: "GPU-1".into(),
        util: Some(1.0),
        tensor: Some(1.0),
        mem_used: Some(1),
        power: Some(1.0),
        state: gpu::CardState {
            power_cap: Some(1.0),
            temperature: Some(1),
            clock_sm: Some(1),
            clock_mem: Some(1),
            ecc_uncorrected: Some(1),
            pcie_rx: Some(1),
            pcie_tx: Some(1),
            nvlink: Some(1),
        },
        process: Some(process),
        ..gpu::Row::default()
    }]);
    let text = metrics.render();
    for row in rows() {
        let stem = row.name.trim_end_matches("_total");
        let line = format!("# TYPE {stem} {}", row.kind);
        assert!(
            text.contains(&line),
            "{} is missing from:\n{text}",
            row.name
        );
    }
    assert!(
        text.contains("saker_alerts_dropped_total{cause=\"log_full\"} 0"),
        "{text}"
    );
}

#[test]
fn an_absolute_value_never_lowers_a_counter() {
    let counter = Counter::default();
    raise_to(&counter, 5);
    raise_to(&counter, 3);
    assert_eq!(counter.get(), 5);
}
