//! Which alerts a sink is for.

use saker_rules::ruleset::Priority;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::log::Record;

/// Names in one list.
const NAMES_MAX: usize = 1024;

/// All that is set must hold; a list that is empty asks for nothing.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Only alerts of this priority or a more urgent one.
    #[schemars(with = "Option<String>")]
    pub priority_min: Option<Level>,
    /// Only alerts of these rules; a `*` at the end stands for any rest.
    pub rules: Vec<String>,
    /// Only alerts with at least one of these tags.
    pub tags: Vec<String>,
    /// Only alerts of pods in these namespaces; a `*` at the end stands for any rest.
    pub namespaces: Vec<String>,
}

/// A priority by its name, in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Level(pub Priority);

impl<'de> Deserialize<'de> for Level {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Priority::parse(&name).map(Self).ok_or_else(|| {
            let known = Priority::ALL.map(Priority::name).join(", ");
            serde::de::Error::custom(format!("{name:?} is no priority; one of {known}"))
        })
    }
}

/// The part of an alert that tags are looked for in.
#[derive(Deserialize)]
struct Tags {
    tags: Vec<String>,
}

impl Filter {
    /// Whether a sink with this filter is to have an alert.
    pub fn wants(&self, record: &Record) -> bool {
        let is_urgent = |least: Level| urgency(record.priority) <= urgency(least.0);
        if !self.priority_min.is_none_or(is_urgent) {
            return false;
        }
        if !self.rules.is_empty() && !matches_any(&self.rules, &record.rule) {
            return false;
        }
        if !self.namespaces.is_empty() {
            let namespace = record.namespace.as_deref();
            if !namespace.is_some_and(|name| matches_any(&self.namespaces, name)) {
                return false;
            }
        }
        if self.tags.is_empty() {
            return true;
        }
        let tags = serde_json::from_str(&record.json).map_or(Vec::new(), |found: Tags| found.tags);
        tags.iter().any(|tag| self.tags.contains(tag))
    }

    /// What no list may be: too long, or with nothing in a name. The key and what is wrong.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let lists = [
            ("filter.rules", &self.rules),
            ("filter.tags", &self.tags),
            ("filter.namespaces", &self.namespaces),
        ];
        for (key, list) in lists {
            if list.len() > NAMES_MAX {
                return Err((key, format!("{} names; at most {NAMES_MAX}", list.len())));
            }
            if list.iter().any(String::is_empty) {
                return Err((key, "an empty name matches nothing".into()));
            }
        }
        Ok(())
    }
}

/// 0 is most urgent.
fn urgency(priority: Priority) -> usize {
    let place = Priority::ALL.iter().position(|known| *known == priority);
    place.unwrap_or(Priority::ALL.len())
}

fn matches_any(patterns: &[String], name: &str) -> bool {
    patterns
        .iter()
        .any(|pattern| match pattern.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => pattern == name,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::Alert;

    #[test]
    fn all_that_is_set_must_hold() {
        let mut alert = Alert::for_tests("GPU used");
        alert.tags = vec!["T1496".into(), "ml".into()];
        alert.namespace = Some("training".into());
        let record = Record::new(&alert);
        let check = |yaml: &str, expected: bool| {
            let filter: Filter = serde_saphyr::from_str(yaml).expect(yaml);
            assert_eq!(filter.wants(&record), expected, "{yaml}");
        };
        check("{}", true);
        check("priority_min: warning", true);
        check("priority_min: Notice", true);
        check("priority_min: Error", false);
        check("rules: [GPU used, other]", true);
        check("rules: [GPU*]", true);
        check("rules: [GPU]", false);
        check("tags: [x, ml]", true);
        check("tags: [x]", false);
        check("namespaces: [train*]", true);
        check("namespaces: [kube-system]", false);
        check("{rules: [GPU*], tags: [x]}", false);
        let host = Filter {
            namespaces: vec!["*".into()],
            ..Filter::default()
        };
        let of_host = Record::new(&Alert::for_tests("r"));
        assert!(!host.wants(&of_host), "what has no namespace is in none");
    }

    #[test]
    fn an_unknown_priority_is_named_with_the_known_ones() {
        let error = serde_saphyr::from_str::<Filter>("priority_min: high").expect_err("unknown");
        let text = error.to_string();
        assert!(
            text.contains("\"high\"") && text.contains("Warning"),
            "{text}"
        );
    }
}
