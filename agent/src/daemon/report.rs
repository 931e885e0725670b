//! What the daemon says of itself: which hooks it has, which rules, what it counted, what it recorded.

use std::{io, path::Path, sync::Arc};

use saker_rules::engine::Engine;
use tracing::{error, info, warn};

use super::{DaemonError, sensor_thread::Summary};
use crate::{
    api::node::rule_states,
    event::types_of,
    metrics::{DROP_CAUSES, KindHook, Metrics, State},
    source::{
        HookStatus, Kind, Wish,
        capture::{CaptureError, Written},
        privileges::{self, is_in_host_pid_namespace},
    },
};

/// How many rules there are, and since when.
pub(super) fn show_rules(engine: &Arc<Engine>, metrics: &Metrics) {
    let states = ["active", "inactive", "disabled"];
    for (state, count) in states.into_iter().zip(rule_states(engine)) {
        metrics
            .rules
            .get_or_create(&State { state })
            .set(count.into());
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seconds = now.unwrap_or_default().as_secs();
    metrics
        .api
        .rules_loaded
        .set(i64::try_from(seconds).unwrap_or(i64::MAX));
}

/// Values of `evt.type` that are traced, and of them those of which only a part is.
pub(super) fn traced(status: &[HookStatus], wish: &Wish) -> (Vec<&'static str>, Vec<&'static str>) {
    let is_attached = |kind: &Kind| {
        let mut of_kind = status.iter().filter(|status| status.kind == kind.name());
        of_kind.any(|status| status.wanted && status.hook.is_some())
    };
    let mut kinds: Vec<_> = Kind::ALL
        .into_iter()
        .filter(is_attached)
        .flat_map(types_of)
        .copied()
        .collect();
    kinds.extend(["lost", "internal"]);
    let sees_all = wish.opens.prefixes.iter().any(Vec::is_empty);
    let partly = if sees_all || !is_attached(&Kind::Open) {
        Vec::new()
    } else {
        types_of(Kind::Open).to_vec()
    };
    (kinds, partly)
}

/// What this node does not offer is said once, with its cost; the rest goes on.
pub(super) fn report_hooks(status: &[HookStatus], metrics: &Metrics) {
    show_hooks(status, &[], metrics);
    for (capability, cost) in privileges::costs() {
        warn!("{capability} is missing: {cost}");
    }
    if let Some((label, cost)) = privileges::overruled() {
        warn!(
            "CAP_SYS_PTRACE counts for nothing under {label}, of processes with other labels: {cost}"
        );
    }
    if !is_in_host_pid_namespace() {
        warn!(
            "not in the host's pid namespace: processes that started before the agent have no names (in Kubernetes: hostPID: true)"
        );
    }
}

/// The same after a reload, of what is not as it was `before`.
pub(super) fn show_hooks(status: &[HookStatus], before: &[HookStatus], metrics: &Metrics) {
    metrics.probe_attached.clear();
    for status in status.iter().filter(|status| status.wanted) {
        let hook = status.hook.unwrap_or("none");
        let attached = KindHook {
            kind: status.kind.to_string(),
            hook: hook.to_owned(),
        };
        metrics
            .probe_attached
            .get_or_create(&attached)
            .set(i64::from(status.hook.is_some()));
        if before.contains(status) {
            continue;
        }
        for refusal in &status.refused {
            warn!(
                "{} by {} is not possible here: {}",
                status.kind, refusal.hook, refusal.reason
            );
        }
        for lost in &status.lost {
            warn!("{} ({hook}): {lost}", status.kind);
        }
        if status.hook.is_none() {
            error!(
                "{}: no hook supplies these events on this node; rules that need them stay silent",
                status.kind
            );
        }
    }
}

/// The last line of the log: what came of it all.
pub(super) fn summarise(summary: &Summary, metrics: &Metrics) {
    let counts = DROP_CAUSES.map(|cause| metrics.delivery.count_of(cause));
    let dropped: u64 = counts.iter().sum();
    info!(
        "stopped: {summary} alerts={} alerts_dropped={dropped}",
        summary.alerts
    );
    if summary.lost() > 0 {
        error!("{} events were lost: {}", summary.lost(), summary.causes());
    }
}

/// What came of a recording.
pub(super) fn report_capture(path: &Path, written: &Written) -> Result<(), DaemonError> {
    let Written {
        records,
        bytes,
        left_out,
        too_long,
        error,
    } = written;
    info!(
        "captured: records={records} bytes={bytes} left_out={left_out} too_long={too_long} in {}",
        path.display()
    );
    let Some(error) = error else {
        if *left_out > 0 {
            warn!("the capture has its greatest length; --bytes-max allows another");
        }
        return Ok(());
    };
    Err(DaemonError::Capture {
        path: path.into(),
        source: CaptureError::Io {
            attempt: "write the capture",
            source: io::Error::other(error.clone()),
        },
    })
}
