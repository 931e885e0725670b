//! What makes an alert one that can be spoken of: an id that is the same however often the event is evaluated, and what ties it to
//! others of the same process, the same start, the same container.

use saker_rules::template::Template;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::{
    alert::{Alert, hex},
    fields::EventView,
};

/// Fields of where it happened, which every alert of a container has.
const PLACE: &str = "%container.id %k8s.ns.name %k8s.pod.name";

/// What the format `ocsf` tells beyond the rule's own fields: the process and who started it, the container, the file, the peer.
const CONTEXT: &str = "%evt.type %proc.pid %proc.name %proc.exepath %proc.cmdline %proc.cwd %proc.pid.ts %proc.ppid %proc.pname \
    %proc.pexepath %proc.pcmdline %proc.apid[2] %proc.aname[2] %proc.aexepath[2] %proc.acmdline[2] %proc.apid[3] %proc.aname[3] \
    %proc.aexepath[3] %proc.acmdline[3] %proc.apid[4] %proc.aname[4] %proc.aexepath[4] %proc.acmdline[4] %user.uid %user.name \
    %user.loginuid %group.gid %group.name %container.full_id %container.id %container.name %container.image.repository \
    %container.image.tag %container.image.digest %container.type %k8s.ns.name %k8s.pod.name %k8s.pod.uid %fd.name %fd.typechar %fd.rip \
    %fd.rport %fd.sip.name %fd.l4proto %thread.tid %dns.name %tls.sni %pickle.global %pickle.file";

/// Adds it to alerts.
#[derive(Debug)]
pub(super) struct Identify {
    place: Template,
    context: Template,
    /// Whether some sink tells the context.
    pub(super) with_context: bool,
    /// Of all rules together.
    ruleset: String,
}

impl Identify {
    pub(super) fn new(source_digest: [u8; 32]) -> Self {
        let parse = |text: &str| Template::parse(text).expect("a test parses it");
        Self {
            place: parse(PLACE),
            context: parse(CONTEXT),
            with_context: false,
            ruleset: hex(&source_digest[..8]),
        }
    }

    /// `ordinal` tells apart the alerts of one rule for one event; `sequence` is when the events began that a rule looks back on.
    pub(super) fn identify(
        &self,
        alert: &mut Alert,
        view: &EventView<'_>,
        shown: &EventView<'_>,
        rule_version: &str,
        ordinal: usize,
        sequence: Option<u64>,
    ) {
        let host = view.hostname;
        let event = view.event;
        let uid = |tgid: u32, start_ns: u64| {
            hex(&Sha256::digest(format!("process {host} {tgid} {start_ns}"))[..8])
        };
        let text = format!(
            "alert {host} {} {} {} {} {} {ordinal} {}",
            view.time_ns(),
            event.tgid,
            event.start_ns,
            event.tid,
            event.type_name(),
            alert.rule
        );
        alert.id = hex(&Sha256::digest(text)[..16]);
        let place = self.place.output_fields(shown);
        alert.namespace = place
            .get("k8s.ns.name")
            .and_then(Value::as_str)
            .map(str::to_owned);
        let known = |(_, value): &(String, Value)| !value.is_null();
        for (name, value) in place.into_iter().filter(known) {
            alert.output_fields.entry(name).or_insert(value);
        }
        let fields = &mut alert.output_fields;
        let mut add = |name: &str, value: String| fields.insert(name.into(), value.into());
        add("saker.alert_id", alert.id.clone());
        add("saker.rule_version", rule_version.into());
        add("saker.ruleset_version", self.ruleset.clone());
        if let Some(process) = view.process {
            add("saker.process_uid", uid(process.tgid, process.start_ns));
            let (tgid, start_ns) = beginning(view, (process.tgid, process.start_ns, process.vpid));
            add("saker.lineage_uid", uid(tgid, start_ns));
        }
        if let Some(began_ns) = sequence {
            let text = format!("sequence {host} {} {began_ns}", alert.rule);
            add("saker.sequence_uid", hex(&Sha256::digest(text)[..8]));
        }
        if self.with_context {
            let context: Map<_, _> = self
                .context
                .output_fields(shown)
                .into_iter()
                .filter(known)
                .collect();
            alert.context = Some(context);
        }
    }
}

/// The process that an event's lineage begins with: in a container its first one, elsewhere the outermost that is known below the
/// machine's first.
fn beginning(view: &EventView<'_>, own: (u32, u64, Option<u32>)) -> (u32, u64) {
    let mut outermost = (own.0, own.1);
    let ancestors = view.process.into_iter().flat_map(|process| {
        let ancestors = view.relatives.ancestors(process);
        ancestors.map(|ancestor| (ancestor.tgid, ancestor.start_ns, ancestor.vpid))
    });
    for (tgid, start_ns, vpid) in std::iter::once(own).chain(ancestors) {
        // The machine's first process, and the one that kernel threads come from.
        if tgid <= 2 {
            break;
        }
        outermost = (tgid, start_ns);
        if vpid == Some(1) {
            break;
        }
    }
    outermost
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_fields_are_known_ones() {
        let identify = Identify::new([7; 32]);
        assert!(identify.context.fields().len() > 40);
        assert_eq!(identify.ruleset, "0707070707070707");
    }
}
