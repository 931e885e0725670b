//! Packets' part of the way: names are learnt from DNS answers, and hellos put together from their pieces.

use super::Pipeline;
use crate::{
    alert::Alert,
    context::{
        container::Owner,
        dns,
        resolved::Resolved,
        tls::assembly::{Assembly, Hidden, Step},
    },
    decode::{decode, with_payload},
    event::{Body, Event, Kind, Packet},
    metrics::{HELLO_OUTCOMES, Metrics, Outcome, level, raise_to},
};

/// Old names are looked for this often: it means looking at all of them.
const SWEEP_NS: u64 = 60_000_000_000;

/// What packets left behind.
#[derive(Debug, Default)]
pub(super) struct Network {
    /// Names of addresses.
    pub(super) resolved: Resolved,
    hellos: Assembly,
    /// When old names were last looked for.
    swept_ns: u64,
}

impl Network {
    /// Remembers the names of an answer's addresses for the container that was told.
    pub(super) fn learn(&mut self, event: &Event<'_>, owner: &Owner) {
        let Body::Dns(packet) = event.body else {
            return;
        };
        if let Some(answer) = dns::parse(packet.data.bytes, packet.data.cut) {
            self.resolved.learn(owner, &answer, event.ts_ns);
        }
    }

    /// Forgets old names, now and then.
    pub(super) fn sweep(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.swept_ns) >= SWEEP_NS {
            self.swept_ns = now_ns;
            self.resolved.sweep(now_ns);
        }
    }

    /// Brings the metrics up to date.
    pub(super) fn publish(&self, metrics: &Metrics) {
        let (names, bytes, evicted) = self.resolved.sizes();
        metrics.dns_names.set(level(names));
        metrics.dns_names_bytes.set(level(bytes));
        raise_to(&metrics.dns_names_evicted, evicted);
        let counts = self.hellos.counts();
        let outcomes = [
            counts.whole,
            counts.joined,
            counts.unreadable,
            counts.late,
            counts.evicted,
            counts.gap,
        ];
        for (outcome, count) in HELLO_OUTCOMES.into_iter().zip(outcomes) {
            let counter = metrics.tls_hellos.get_or_create(&Outcome { outcome });
            raise_to(&counter, count);
        }
    }
}

impl Pipeline {
    /// Takes a piece of a TLS connection's beginning; with the last one it is an event.
    pub(super) fn hello(
        &mut self,
        event: &Event<'_>,
        packet: &Packet<'_>,
        bytes: &[u8],
        alerts: &mut dyn FnMut(Alert),
    ) {
        if packet.begins_as_json() {
            // No hello, and there is no more of it.
            return self.event(event, bytes, alerts);
        }
        let fixed = &bytes[..Kind::Tls.fixed_bytes().min(bytes.len())];
        let data = packet.data.bytes;
        loop {
            let hellos = &mut self.network.hellos;
            match hellos.add(packet.connection, packet.offset, data, fixed, event.ts_ns) {
                Step::Itself => self.event(event, bytes, alerts),
                Step::Joined(whole) => self.joined(&whole, alerts),
                Step::Before(part) => {
                    self.joined(&part, alerts);
                    continue;
                }
                Step::Wait => {}
            }
            return;
        }
    }

    /// Hands on the beginnings whose rest is not waited for any longer. By the clock of records, not by that of the wall: a
    /// replay then does the same at the same place.
    pub(super) fn late_hellos(&mut self, now_ns: u64, alerts: &mut dyn FnMut(Alert)) {
        if self.network.hellos.is_empty() {
            return;
        }
        while let Some(part) = self.network.hellos.overdue(now_ns) {
            self.joined(&part, alerts);
        }
    }

    fn joined(&mut self, whole: &Hidden, alerts: &mut dyn FnMut(Alert)) {
        let Some(record) = with_payload(&whole.record, &whole.data) else {
            return;
        };
        // Its pieces decoded when they came, so it does.
        if let Ok(event) = decode(&record) {
            self.event(&event, &record, alerts);
        }
    }
}
