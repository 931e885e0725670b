//! Alerts as Detection Findings (class 2004) of the Open Cybersecurity Schema Framework, release 1.5.
//!
//! What the rule's own fields lack comes from the record's context. A value that is not known is left out: the schema knows no null.

use saker_rules::ruleset::Priority;
use serde_json::{Map, Value, json};

use crate::log::Record;

/// The release that findings are of.
pub const SCHEMA: &str = "1.5.0";

/// Parents that are told, the nearest inside the next.
const PARENTS: [&str; 4] = ["p", "[2]", "[3]", "[4]"];

/// The finding of an alert.
pub fn finding(record: &Record) -> Value {
    let alert = record.value();
    let context: Map<String, Value> = record
        .context
        .as_deref()
        .and_then(|context| serde_json::from_str(context).ok())
        .unwrap_or_default();
    let fields = Fields {
        context,
        own: alert["output_fields"]
            .as_object()
            .cloned()
            .unwrap_or_default(),
    };
    let time_ms = record.time_ns / 1_000_000;
    let (severity_id, severity) = severity(record.priority);
    let tags: Vec<&str> = alert["tags"]
        .as_array()
        .map(|tags| tags.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let attacks = attacks(&tags);
    let mut finding = json!({
        "activity_id": 1,
        "activity_name": "Create",
        "category_uid": 2,
        "category_name": "Findings",
        "class_uid": 2004,
        "class_name": "Detection Finding",
        "type_uid": 200_401,
        "type_name": "Detection Finding: Create",
        "time": time_ms,
        "severity_id": severity_id,
        "severity": severity,
        "status_id": 1,
        "status": "New",
        "message": alert["output"],
        "metadata": {
            "version": SCHEMA,
            "uid": &*record.id,
            "log_name": "alerts",
            "original_time": alert["time"],
            "product": {
                "name": "Saker",
                "vendor_name": "Saker",
                "version": env!("CARGO_PKG_VERSION"),
            },
            "profiles": ["container", "host"],
            "labels": tags,
        },
        "finding_info": {
            "uid": &*record.id,
            "title": &*record.rule,
            "desc": alert["output"],
            "created_time": time_ms,
            "types": ["runtime security"],
            "analytic": without_nothing(json!({
                "name": &*record.rule,
                "uid": &*record.rule,
                "type_id": 1,
                "type": "Rule",
                "version": fields.text("saker.rule_version"),
            })),
            "attacks": attacks,
            "related_events": fields.text("saker.sequence_uid").map(|uid| json!([{"uid": uid}])),
        },
        "device": device(&alert),
        "evidences": [evidence(&fields, &alert)],
        "unmapped": Value::Object(fields.own),
    });
    finding["finding_info"] = without_nothing(finding["finding_info"].take());
    finding
}

struct Fields {
    context: Map<String, Value>,
    own: Map<String, Value>,
}

impl Fields {
    fn get(&self, name: &str) -> Option<&Value> {
        let of =
            |fields: &'_ Map<String, Value>| fields.get(name).is_some_and(|value| !value.is_null());
        if of(&self.context) {
            return self.context.get(name);
        }
        self.own.get(name).filter(|value| !value.is_null())
    }

    fn text(&self, name: &str) -> Option<String> {
        Some(match self.get(name)? {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
    }

    fn number(&self, name: &str) -> Option<i64> {
        self.get(name)?.as_i64()
    }
}

/// Falco's priorities as OCSF's severities.
fn severity(priority: Priority) -> (u8, &'static str) {
    match priority {
        Priority::Emergency => (6, "Fatal"),
        Priority::Alert | Priority::Critical => (5, "Critical"),
        Priority::Error => (4, "High"),
        Priority::Warning => (3, "Medium"),
        Priority::Notice => (2, "Low"),
        Priority::Informational | Priority::Debug => (1, "Informational"),
    }
}

/// MITRE's techniques and tactics among a rule's tags: `T1059.004`, `mitre_execution`, and ATLAS's `AML.T0010`, `AML.TA0004`. An attack is of
/// one matrix, which its numbers and links tell; which release of it a rule's author had in mind nobody says.
fn attacks(tags: &[&str]) -> Option<Value> {
    let mut attacks = Vec::new();
    for matrix in [Matrix::Attack, Matrix::Atlas] {
        let tactics: Vec<_> = tags.iter().filter_map(|tag| tactic(matrix, tag)).collect();
        let techniques = tags.iter().filter_map(|tag| technique(matrix, tag));
        let mut own: Vec<_> = techniques.collect();
        if own.is_empty() {
            own.extend(tactics.iter().map(|tactic| json!({"tactic": tactic})));
        } else if let [tactic] = tactics.as_slice() {
            // One tactic is that of every technique; of several nobody says which belongs to which.
            for attack in &mut own {
                attack["tactic"] = tactic.clone();
            }
        }
        attacks.append(&mut own);
    }
    (!attacks.is_empty()).then(|| attacks.into())
}

/// Whose numbers they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Matrix {
    Attack,
    Atlas,
}

impl Matrix {
    /// What its numbers begin with.
    fn beginning(self) -> &'static str {
        match self {
            Self::Attack => "",
            Self::Atlas => "AML.",
        }
    }

    /// Where a technique or tactic is described.
    fn link(self, kind: &str, uid: &str) -> String {
        match self {
            Self::Attack => format!(
                "https://attack.mitre.org/{kind}/{}/",
                uid.replacen('.', "/", 1)
            ),
            Self::Atlas => format!("https://atlas.mitre.org/{kind}/{uid}"),
        }
    }
}

/// The technique that a tag names, and of which it is a part.
fn technique(matrix: Matrix, tag: &str) -> Option<Value> {
    let id = tag.to_ascii_uppercase();
    let bare = id.strip_prefix(matrix.beginning())?;
    if !is_technique(bare) {
        return None;
    }
    let Some((whole, _)) = bare.split_once('.') else {
        return Some(json!({"technique": named(matrix, &id)}));
    };
    let whole = format!("{}{whole}", matrix.beginning());
    Some(json!({
        "technique": named(matrix, &whole),
        "sub_technique": named(matrix, &id),
    }))
}

/// A technique with its name: of those that the shipped rules speak of it is known, of others the number stands for it.
fn named(matrix: Matrix, uid: &str) -> Value {
    const NAMES: [(&str, &str); 11] = [
        ("T1059", "Command and Scripting Interpreter"),
        ("T1059.004", "Unix Shell"),
        ("T1059.006", "Python"),
        ("T1195", "Supply Chain Compromise"),
        ("T1496", "Resource Hijacking"),
        ("T1562", "Impair Defenses"),
        ("T1611", "Escape to Host"),
        ("AML.T0010", "ML Supply Chain Compromise"),
        ("AML.T0010.003", "Model"),
        ("AML.T0011", "User Execution"),
        ("AML.T0029", "Denial of ML Service"),
    ];
    let known = NAMES.iter().find(|(known, _)| *known == uid);
    json!({
        "uid": uid,
        "name": known.map_or(uid, |(_, name)| name),
        "src_url": matrix.link("techniques", uid),
    })
}

/// `T` and four digits, and for a part of one a dot and three.
fn is_technique(id: &str) -> bool {
    let digits = |text: &str, count: usize| {
        text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    let Some(rest) = id.strip_prefix('T') else {
        return false;
    };
    match rest.split_once('.') {
        Some((whole, part)) => digits(whole, 4) && digits(part, 3),
        None => digits(rest, 4),
    }
}

/// Falco's names of tactics, and ATLAS's numbers.
fn tactic(matrix: Matrix, tag: &str) -> Option<Value> {
    const TACTICS: [(&str, &str, &str); 14] = [
        ("reconnaissance", "TA0043", "Reconnaissance"),
        ("resource_development", "TA0042", "Resource Development"),
        ("initial_access", "TA0001", "Initial Access"),
        ("execution", "TA0002", "Execution"),
        ("persistence", "TA0003", "Persistence"),
        ("privilege_escalation", "TA0004", "Privilege Escalation"),
        ("defense_evasion", "TA0005", "Defense Evasion"),
        ("credential_access", "TA0006", "Credential Access"),
        ("discovery", "TA0007", "Discovery"),
        ("lateral_movement", "TA0008", "Lateral Movement"),
        ("collection", "TA0009", "Collection"),
        ("command_and_control", "TA0011", "Command and Control"),
        ("exfiltration", "TA0010", "Exfiltration"),
        ("impact", "TA0040", "Impact"),
    ];
    let of = |uid: &str, name: &str| json!({"uid": uid, "name": name, "src_url": matrix.link("tactics", uid)});
    if matrix == Matrix::Atlas {
        let uid = tag.to_ascii_uppercase();
        let number = uid.strip_prefix("AML.TA")?;
        let is_number = number.len() == 4 && number.bytes().all(|byte| byte.is_ascii_digit());
        return is_number.then(|| of(&uid, &uid));
    }
    let name = tag.strip_prefix("mitre_")?;
    let (_, uid, title) = TACTICS.iter().find(|(known, ..)| *known == name)?;
    Some(of(uid, title))
}

/// The node.
fn device(alert: &Value) -> Value {
    json!({
        "hostname": alert["hostname"],
        "name": alert["hostname"],
        "type_id": 1,
        "type": "Server",
        "os": {"name": "Linux", "type_id": 200, "type": "Linux"},
    })
}

/// Who did what with what.
fn evidence(fields: &Fields, alert: &Value) -> Value {
    let process = process(fields);
    let mut evidence = json!({
        "data": without_nothing(json!({
            "event_type": fields.text("evt.type"),
            "source": alert["source"],
            "namespace": fields.text("k8s.ns.name"),
            "pod": fields.text("k8s.pod.name"),
            "pickle_global": fields.text("pickle.global"),
        })),
        "process": process,
        "actor": process.as_ref().map(|process| json!({
            "process": process,
            "user": process["user"],
        })),
        "file": file(fields),
        "dst_endpoint": endpoint(fields),
        "container": container(fields),
    });
    // The container belongs to its process too, but there it has been told.
    if let Some(actor) = evidence["actor"].as_object_mut() {
        actor.retain(|_, value| !value.is_null());
    }
    without_nothing(evidence)
}

fn process(fields: &Fields) -> Option<Value> {
    let pid = fields.number("proc.pid")?;
    let parent = parent(fields, &PARENTS);
    Some(without_nothing(json!({
        "pid": pid,
        "uid": fields.text("saker.process_uid"),
        "name": fields.text("proc.name"),
        "cmd_line": fields.text("proc.cmdline"),
        "working_directory": fields.text("proc.cwd"),
        "tid": fields.number("thread.tid"),
        "created_time": fields.number("proc.pid.ts").map(|ns| ns / 1_000_000),
        "ancestry": ancestry(fields),
        "file": fields.text("proc.exepath").map(|path| of_path(&path)),
        "user": user(fields),
        "container": container(fields),
        "parent_process": parent,
    })))
}

fn parent(fields: &Fields, generations: &[&str]) -> Option<Value> {
    let (generation, further) = generations.split_first()?;
    let of = |name: &str| above(name, generation);
    let pid = fields.number(&of("pid"))?;
    Some(without_nothing(json!({
        "pid": pid,
        "name": fields.text(&of("name")),
        "cmd_line": fields.text(&of("cmdline")),
        "file": fields.text(&of("exepath")).map(|path| of_path(&path)),
        "parent_process": parent(fields, further),
    })))
}

/// The processes above, the nearest first: what `parent_process` tells in depth, in a list.
fn ancestry(fields: &Fields) -> Option<Value> {
    let of = |generation: &&str| {
        let pid = fields.number(&above("pid", generation))?;
        Some(without_nothing(json!({
            "pid": pid,
            "name": fields.text(&above("name", generation)),
            "cmd_line": fields.text(&above("cmdline", generation)),
            "path": fields.text(&above("exepath", generation)),
        })))
    };
    let above: Vec<_> = PARENTS.iter().map_while(of).collect();
    (!above.is_empty()).then(|| above.into())
}

/// The field of a process above: `proc.ppid`, `proc.apid[2]`.
fn above(name: &str, generation: &str) -> String {
    if generation == "p" {
        format!("proc.p{name}")
    } else {
        format!("proc.a{name}{generation}")
    }
}

fn user(fields: &Fields) -> Option<Value> {
    let uid = fields.text("user.uid")?;
    let kind = if uid == "0" {
        (2, "Admin")
    } else {
        (1, "User")
    };
    let groups = fields.text("group.gid").map(|gid| {
        let group = without_nothing(json!({"uid": gid, "name": fields.text("group.name")}));
        json!([group])
    });
    Some(without_nothing(json!({
        "uid": uid,
        "name": fields.text("user.name"),
        "type_id": kind.0,
        "type": kind.1,
        "groups": groups,
    })))
}

fn of_path(path: &str) -> Value {
    let name = path.rsplit('/').next().unwrap_or(path);
    json!({"path": path, "name": name, "type_id": 1, "type": "Regular File"})
}

fn file(fields: &Fields) -> Option<Value> {
    if let Some(path) = fields.text("pickle.file") {
        return Some(of_path(&path));
    }
    if fields.text("fd.typechar").as_deref() != Some("f") {
        return None;
    }
    let path = fields.text("fd.name")?;
    if path.starts_with("/dev/") {
        let name = path.rsplit('/').next().unwrap_or(&path);
        return Some(json!({"path": path, "name": name, "type_id": 3, "type": "Character Device"}));
    }
    Some(of_path(&path))
}

fn endpoint(fields: &Fields) -> Option<Value> {
    let ip = fields.text("fd.rip");
    let hostname = ["tls.sni", "fd.sip.name", "dns.name"]
        .iter()
        .find_map(|name| fields.text(name));
    if ip.is_none() && hostname.is_none() {
        return None;
    }
    Some(without_nothing(json!({
        "ip": ip,
        "port": fields.number("fd.rport"),
        "hostname": hostname,
    })))
}

fn container(fields: &Fields) -> Option<Value> {
    let uid = ["container.full_id", "container.id"]
        .iter()
        .find_map(|name| fields.text(name))
        .filter(|uid| uid != "host")?;
    let image = fields.text("container.image.repository").map(|name| {
        without_nothing(json!({
            "name": name,
            "uid": fields.text("container.image.digest").unwrap_or(name),
            "labels": fields.text("container.image.tag").map(|tag| json!([tag])),
        }))
    });
    Some(without_nothing(json!({
        "uid": uid,
        "name": fields.text("container.name"),
        "image": image,
        "runtime": fields.text("container.type"),
        "pod_uuid": fields.text("k8s.pod.uid"),
        "orchestrator": fields.text("k8s.pod.name").map(|_| "Kubernetes"),
    })))
}

/// Without the members that are not known.
fn without_nothing(mut value: Value) -> Value {
    if let Some(object) = value.as_object_mut() {
        object.retain(|_, value| !value.is_null());
    }
    value
}

#[cfg(test)]
mod tests;
