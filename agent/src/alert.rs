//! An alert and its stable JSON: Falco's shape, so that whatever reads Falco's alerts reads Saker's.

pub mod hygiene;

use jiff::Timestamp;
use saker_rules::ruleset::Priority;
use serde::Serialize;
use serde_json::{Map, Value};

/// What a rule says about one event.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Alert {
    /// The node.
    pub hostname: String,
    /// Time, priority and the rule's text with its fields filled in.
    pub output: String,
    /// The fields that the text names, typed; null where the event had no such value. `evt.time` is always there.
    pub output_fields: Map<String, Value>,
    /// The rule's.
    pub priority: Priority,
    /// The rule's name.
    pub rule: String,
    /// The rule's event source.
    pub source: String,
    /// The rule's, sorted.
    pub tags: Vec<String>,
    /// When the event happened: UTC, nine decimals.
    pub time: String,
    /// The same however often it is delivered.
    #[serde(skip)]
    pub id: String,
    /// The pod's namespace, where there is one; sinks filter by it.
    #[serde(skip)]
    pub namespace: Option<String>,
    /// Further fields of the event, for formats that tell more than the rule's text does.
    #[serde(skip)]
    pub context: Option<Map<String, Value>>,
}

impl Alert {
    /// An alert for an event at `time_ns` since the Unix epoch; `text` is the rule's output, filled in.
    pub fn new(
        hostname: &str,
        time_ns: i64,
        rule: RuleInfo<'_>,
        text: &str,
        mut output_fields: Map<String, Value>,
    ) -> Self {
        let time = Timestamp::from_nanosecond(i128::from(time_ns)).unwrap_or(Timestamp::UNIX_EPOCH);
        output_fields.insert("evt.time".into(), time_ns.into());
        Self {
            hostname: hostname.into(),
            output: format!(
                "{}: {:?} {text}",
                time.strftime("%H:%M:%S.%9f"),
                rule.priority
            ),
            output_fields,
            priority: rule.priority,
            rule: rule.name.into(),
            source: rule.source.into(),
            tags: rule.tags.to_vec(),
            time: time.strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string(),
            id: String::new(),
            namespace: None,
            context: None,
        }
    }

    /// When the event happened, nanoseconds since the Unix epoch.
    pub fn time_ns(&self) -> i64 {
        let time = self.output_fields.get("evt.time");
        time.and_then(Value::as_i64).unwrap_or(0)
    }

    /// The rule's text, without the time and the priority before it.
    fn told(&self) -> &str {
        let begin = format!("{:?} ", self.priority);
        let at = self.output.find(&begin);
        at.map_or(&self.output, |at| &self.output[at + begin.len()..])
    }

    /// Puts another text in the place of the rule's.
    fn retell(&mut self, text: &str) {
        let told = self.told().len();
        self.output.truncate(self.output.len() - told);
        self.output.push_str(text);
    }

    /// One line of JSON, keys in Falco's order.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self)
            .expect("an alert holds only strings, numbers and maps with string keys")
    }

    /// An alert of a rule with this name and nothing else.
    #[cfg(test)]
    pub fn for_tests(rule: &str) -> Self {
        let rule = RuleInfo {
            name: rule,
            priority: Priority::Warning,
            source: "syscall",
            tags: &[],
        };
        Self::new("node", 1_700_000_000_000_000_001, rule, "text", Map::new())
    }
}

/// What an alert takes from its rule.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "each is the field of Alert with the same name")]
pub struct RuleInfo<'a> {
    pub name: &'a str,
    pub priority: Priority,
    pub source: &'a str,
    pub tags: &'a [String],
}

/// Bytes as text.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_is_falcos() {
        let fields = Map::from_iter([
            ("fd.name".to_owned(), Value::Null),
            ("proc.pid".to_owned(), 7.into()),
        ]);
        let tags = ["T1059".to_owned(), "ml".to_owned()];
        let rule = RuleInfo {
            name: "A rule",
            priority: Priority::Critical,
            source: "syscall",
            tags: &tags,
        };
        let alert = Alert::new(
            "node-1",
            1_507_591_916_746_609_046,
            rule,
            "it happened (pid=7)",
            fields,
        );
        let expected = concat!(
            r#"{"hostname":"node-1","output":"23:31:56.746609046: Critical it happened (pid=7)","#,
            r#""output_fields":{"evt.time":1507591916746609046,"fd.name":null,"proc.pid":7},"#,
            r#""priority":"Critical","rule":"A rule","source":"syscall","tags":["T1059","ml"],"#,
            r#""time":"2017-10-09T23:31:56.746609046Z"}"#,
        );
        assert_eq!(alert.to_json(), expected);
    }

    #[test]
    fn a_time_without_a_fraction_keeps_nine_decimals() {
        let rule = RuleInfo {
            name: "r",
            priority: Priority::Notice,
            source: "syscall",
            tags: &[],
        };
        let alert = Alert::new("n", 1_700_000_000_000_000_000, rule, "x", Map::new());
        assert_eq!(alert.time, "2023-11-14T22:13:20.000000000Z");
    }
}
