//! Alerts, events and values as protobuf messages, Saker's and Falco's.

use std::time::SystemTime;

use prost_types::Timestamp;
use saker_rules::{engine::RuleView, ruleset::Priority};
use serde_json::{Map, Value as Json};

use super::tail::Row;
use crate::{
    proto::{
        falco::{outputs, schema},
        saker::v1 as pb,
    },
    watch::Seen,
};

/// A moment.
pub fn timestamp(time_ns: i64) -> Timestamp {
    Timestamp {
        seconds: time_ns.div_euclid(1_000_000_000),
        nanos: i32::try_from(time_ns.rem_euclid(1_000_000_000)).unwrap_or(0),
    }
}

/// A moment of the system's clock.
pub fn system_time(time: SystemTime) -> Timestamp {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    timestamp(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// Nanoseconds since the epoch; `None` beyond what they can say.
pub fn nanoseconds(time: &Timestamp) -> Option<i64> {
    // Wider on the way: of the earliest moments the seconds alone are out of range.
    let sum = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    i64::try_from(sum).ok()
}

/// A priority.
pub fn priority(priority: Priority) -> pb::Priority {
    match priority {
        Priority::Emergency => pb::Priority::Emergency,
        Priority::Alert => pb::Priority::Alert,
        Priority::Critical => pb::Priority::Critical,
        Priority::Error => pb::Priority::Error,
        Priority::Warning => pb::Priority::Warning,
        Priority::Notice => pb::Priority::Notice,
        Priority::Informational => pb::Priority::Informational,
        Priority::Debug => pb::Priority::Debug,
    }
}

/// An alert.
pub fn alert(row: &Row) -> pb::Alert {
    let text = |name: &str| row.value[name].as_str().unwrap_or_default().to_owned();
    pb::Alert {
        cursor: row.cursor,
        time: Some(timestamp(row.record.time_ns)),
        hostname: text("hostname"),
        priority: priority(row.record.priority).into(),
        source: text("source"),
        tags: texts(&row.value["tags"]),
        output: text("output"),
        fields: row.value["output_fields"]
            .as_object()
            .map(fields)
            .unwrap_or_default(),
        rule: row.record.rule.to_string(),
        json: row.record.json.to_string(),
        id: row.record.id.to_string(),
    }
}

/// An alert as Falco's clients get it.
pub fn falco(row: &Row) -> outputs::Response {
    let text = |name: &str| row.value[name].as_str().unwrap_or_default().to_owned();
    let level = Priority::ALL
        .iter()
        .position(|level| *level == row.record.priority)
        .and_then(|level| i32::try_from(level).ok());
    #[allow(deprecated, reason = "clients from before `source` read the other one")]
    outputs::Response {
        time: Some(timestamp(row.record.time_ns)),
        priority: level.unwrap_or(schema::Priority::Debug.into()),
        source_deprecated: schema::Source::Syscall.into(),
        rule: row.record.rule.to_string(),
        output: text("output"),
        output_fields: row.value["output_fields"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.clone(), falco_text(value)))
            .collect(),
        hostname: text("hostname"),
        tags: texts(&row.value["tags"]),
        source: text("source"),
    }
}

/// Falco's clients get every value as text, and a missing one as `<NA>`.
fn falco_text(value: &Json) -> String {
    match value {
        Json::Null => "<NA>".into(),
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// An event.
pub fn event(seen: &Seen) -> pb::Event {
    pb::Event {
        time: Some(timestamp(seen.time_ns)),
        r#type: seen.kind.into(),
        number: seen.number,
        fields: fields(&seen.fields),
    }
}

/// A rule.
pub fn rule(view: RuleView<'_>) -> pb::Rule {
    let (file, line) = view.origin();
    pb::Rule {
        name: view.name().into(),
        description: view.desc().trim().into(),
        priority: priority(view.priority()).into(),
        source: view.source().into(),
        tags: view.tags().map(str::to_owned).collect(),
        enabled: view.is_enabled(),
        inactive: view.inactive().map(str::to_owned).collect(),
        file: file.into(),
        line,
    }
}

fn texts(value: &Json) -> Vec<String> {
    let values = value.as_array().into_iter().flatten();
    values.filter_map(Json::as_str).map(str::to_owned).collect()
}

fn fields(map: &Map<String, Json>) -> std::collections::HashMap<String, pb::Value> {
    map.iter()
        .map(|(name, json)| (name.clone(), value(json)))
        .collect()
}

fn value(json: &Json) -> pb::Value {
    use pb::value::Kind;
    let kind = match json {
        Json::Bool(value) => Kind::Boolean(*value),
        Json::String(text) => Kind::Text(text.clone()),
        Json::Array(values) => Kind::List(pb::ValueList {
            values: values.iter().map(value).collect(),
        }),
        Json::Number(number) => number
            .as_i64()
            .map(Kind::Integer)
            .or_else(|| number.as_u64().map(Kind::Unsigned))
            .or_else(|| number.as_f64().map(Kind::Real))
            .unwrap_or(Kind::Null(0)),
        Json::Null | Json::Object(_) => Kind::Null(0),
    };
    pb::Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_both_ways_and_nonsense_is_refused() {
        for time_ns in [0, 1, -1, 1_700_000_000_123_456_789, i64::MAX, i64::MIN + 1] {
            assert_eq!(nanoseconds(&timestamp(time_ns)), Some(time_ns));
        }
        let beyond = Timestamp {
            seconds: i64::MAX,
            nanos: 0,
        };
        assert_eq!(nanoseconds(&beyond), None);
    }

    #[test]
    fn numbers_keep_all_their_digits() {
        use pb::value::Kind;
        let check = |json: Json, expected: Kind| assert_eq!(value(&json).kind, Some(expected));
        check(
            Json::from(1_507_591_916_746_609_046_i64),
            Kind::Integer(1_507_591_916_746_609_046),
        );
        check(Json::from(u64::MAX), Kind::Unsigned(u64::MAX));
        check(Json::from(1.5), Kind::Real(1.5));
        check(Json::Null, Kind::Null(0));
    }
}
