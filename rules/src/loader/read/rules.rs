//! Reads rules: which kind of item one is, and the keys of a definition.
//!
//! What extends or replaces an earlier rule is left to [`rule_changes`](super::rule_changes).

use std::collections::BTreeSet;

use super::{About, Broken, Read, Reader, values::trim};
use crate::{
    diagnostic::{Code, Diagnostic, Place, nearest},
    loader::{
        items::{RuleItem, complete_exception},
        text::Text,
        yaml::{Kind, Node},
    },
    ruleset::{Priority, Profile},
};

pub(super) const RULE_KEYS: &[&str] = &[
    "rule",
    "condition",
    "output",
    "desc",
    "priority",
    "source",
    "enabled",
    "tags",
    "exceptions",
    "append",
    "override",
    "warn_evttypes",
    "skip-if-unknown-filter",
    "capture",
    "capture_duration",
    "sequence",
    "for",
    "action",
    "profiles",
];

const RULE_APPENDABLE: &[&str] = &["condition", "output", "desc", "tags", "exceptions"];

pub(super) const RULE_REPLACEABLE: &[&str] = &[
    "condition",
    "output",
    "desc",
    "priority",
    "tags",
    "exceptions",
    "enabled",
    "profiles",
    "warn_evttypes",
    "skip-if-unknown-filter",
    "capture",
    "capture_duration",
    "for",
    "sequence",
];

const LOWER_PRIORITIES: [&str; 8] = [
    "emergency",
    "alert",
    "critical",
    "error",
    "warning",
    "notice",
    "informational",
    "debug",
];

impl Reader<'_> {
    pub(super) fn rule(&mut self, about: About<'_>) -> Read<()> {
        let node = about.node;
        let place = self.place_of_key(node, "rule");
        let (append_flag, overrides) =
            self.changes(node, RULE_APPENDABLE, RULE_REPLACEABLE, about)?;
        self.collected.clock += 1;
        if !overrides.append.is_empty() || !overrides.replace.is_empty() {
            return self.rule_overrides(&overrides, place, about);
        }
        if append_flag {
            return self.rule_append(place, about);
        }
        let defines = ["condition", "output", "desc", "priority", "sequence"]
            .iter()
            .any(|key| node.get(key).is_some());
        if defines {
            self.rule_definition(place, about)
        } else {
            self.rule_enable(place, about)
        }
    }

    fn rule_definition(&mut self, place: Place, about: About<'_>) -> Read<()> {
        let node = about.node;
        let mut broken = false;
        let mut keep = |read: Read<()>| broken |= read.is_err();
        let mut rule = RuleItem {
            name: about.name.to_owned(),
            desc: String::new(),
            condition: Text::default(),
            sequence: None,
            hold_ns: None,
            output: Text::default(),
            priority: Priority::Debug,
            source: "syscall".to_owned(),
            tags: BTreeSet::new(),
            exceptions: Vec::new(),
            enabled: true,
            profiles: BTreeSet::from(Profile::ALL),
            warn_evttypes: true,
            skip_if_unknown_filter: false,
            capture: false,
            capture_duration_ms: None,
            is_broken: false,
            place,
            changed_at: place,
        };
        match node.get("sequence") {
            Some(sequence) => {
                if let Some(other) = node.get("condition").or(node.get("for")) {
                    let message = "a rule has either a condition or a sequence";
                    keep(self.broken(Code::InvalidSequence, message, self.place(other)));
                }
                keep(
                    self.sequence(sequence, about)
                        .map(|read| rule.sequence = Some(read)),
                );
            }
            None => keep(self.rule_key(&mut rule, "condition", true, about)),
        }
        for key in ["output", "desc", "priority"] {
            keep(self.rule_key(&mut rule, key, true, about));
        }
        for key in [
            "source",
            "enabled",
            "warn_evttypes",
            "skip-if-unknown-filter",
            "capture",
            "capture_duration",
            "tags",
            "profiles",
            "exceptions",
            "for",
        ] {
            keep(self.rule_key(&mut rule, key, false, about));
        }
        keep(self.action(about));
        if let Some(previous) = self.collected.rules.get(about.name)
            && previous.source != rule.source
        {
            let previous = previous.place;
            self.source_changed(place, previous, about);
            broken = true;
        }
        if !self.known_sources.contains(&rule.source) {
            let message = format!("Unknown source {}, skipping", rule.source);
            let place = node.get("source").map_or(place, |value| self.place(value));
            self.warn(Code::UnknownSource, message, place, about);
        }
        for exception in &mut rule.exceptions {
            if let Err(diagnostic) = complete_exception(exception) {
                self.diagnostics.push(diagnostic.about("rule", about.name));
                broken = true;
            }
        }
        rule.is_broken = broken;
        self.collected.rules.define(rule);
        Ok(())
    }

    /// Reads one key into a rule, replacing what was there.
    pub(super) fn rule_key(
        &mut self,
        rule: &mut RuleItem,
        key: &str,
        is_required: bool,
        about: About<'_>,
    ) -> Read<()> {
        let Some(value) = about.node.get(key) else {
            return if is_required {
                self.required(about.node, key, about).map(|_| ())
            } else {
                Ok(())
            };
        };
        match key {
            "condition" => rule.condition = self.text_value(value, key, about)?,
            "output" => rule.output = trim(&self.text_value(value, key, about)?),
            "desc" => rule.desc = self.text_value(value, key, about)?.as_str().to_owned(),
            "priority" => rule.priority = self.priority(value, about)?,
            "source" => rule.source = self.text_value(value, key, about)?.as_str().to_owned(),
            "enabled" => rule.enabled = self.bool_value(value, key, about)?,
            "warn_evttypes" => rule.warn_evttypes = self.bool_value(value, key, about)?,
            "skip-if-unknown-filter" => {
                rule.skip_if_unknown_filter = self.bool_value(value, key, about)?;
            }
            "capture" => rule.capture = self.bool_value(value, key, about)?,
            "capture_duration" => {
                let text = self.text_value(value, key, about)?;
                match text.as_str().trim().parse() {
                    Ok(number) => rule.capture_duration_ms = Some(number),
                    Err(_) => return self.wrong(value, "Can't decode YAML scalar value", about),
                }
            }
            "tags" => rule.tags = self.tags(value, about)?,
            "profiles" => rule.profiles = self.profiles(value, about)?,
            "exceptions" => rule.exceptions = self.exceptions(value, false, about)?,
            "for" => rule.hold_ns = Some(self.duration(value, about)?),
            "sequence" => {
                rule.sequence = Some(self.sequence(value, about)?);
                rule.condition = Text::default();
            }
            _ => unreachable!("the callers name the keys above only"),
        }
        Ok(())
    }

    fn priority(&mut self, node: &Node, about: About<'_>) -> Read<Priority> {
        let text = self.text_value(node, "priority", about)?;
        let word = text.as_str().trim();
        if let Some(priority) = Priority::parse(word) {
            return Ok(priority);
        }
        let names = Priority::ALL.map(Priority::name);
        let mut diagnostic =
            Diagnostic::new(Code::InvalidPriority, format!("Invalid priority '{word}'"))
                .at(self.place(node), "")
                .about(about.kind, about.name);
        diagnostic = match nearest(&word.to_ascii_lowercase(), LOWER_PRIORITIES.into_iter()) {
            Some(near) => diagnostic.help(format!("did you mean `{}`?", near.to_ascii_uppercase())),
            None => diagnostic.help(format!("one of {}", names.join(", "))),
        };
        self.diagnostics.push(diagnostic);
        Err(Broken)
    }

    fn action(&mut self, about: About<'_>) -> Read<()> {
        let Some(value) = about.node.get("action") else {
            return Ok(());
        };
        let text = self.text_value(value, "action", about)?;
        let place = self.place(value);
        match text.as_str().trim() {
            "observe" => Ok(()),
            action @ ("deny" | "kill") => {
                let message = format!(
                    "action '{action}' is not available: this version observes and enforces nothing"
                );
                let diagnostic = Diagnostic::new(Code::UnsupportedAction, message)
                    .at(place, "")
                    .about(about.kind, about.name)
                    .help("write `action: observe`, or leave the key out");
                self.diagnostics.push(diagnostic);
                Err(Broken)
            }
            other => {
                let message = format!("unknown action '{other}'");
                let diagnostic = Diagnostic::new(Code::UnsupportedAction, message)
                    .at(place, "")
                    .about(about.kind, about.name)
                    .help("the only action of this version is `observe`");
                self.diagnostics.push(diagnostic);
                Err(Broken)
            }
        }
    }

    /// The profiles that enable a rule. None at all would be a rule that nothing enables, which `enabled: false` says.
    fn profiles(&mut self, node: &Node, about: About<'_>) -> Read<BTreeSet<Profile>> {
        let names = Profile::ALL.map(Profile::name);
        let nodes = match &node.kind {
            Kind::Sequence(nodes) if !nodes.is_empty() => nodes,
            _ => {
                let message = format!(
                    "Rule profiles must be a sequence of at least one of {}",
                    names.join(", ")
                );
                return self.wrong(node, &message, about);
            }
        };
        let mut profiles = BTreeSet::new();
        for item in nodes {
            let name = item.scalar().unwrap_or_default().trim();
            let Some(profile) = Profile::parse(name) else {
                let message = format!("Invalid profile '{name}'");
                let help = match nearest(name, names.into_iter()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("one of {}", names.join(", ")),
                };
                let diagnostic = Diagnostic::new(Code::InvalidProfile, message)
                    .at(self.place(item), "")
                    .about(about.kind, about.name);
                self.diagnostics.push(diagnostic.help(help));
                return Err(Broken);
            };
            profiles.insert(profile);
        }
        Ok(profiles)
    }

    pub(super) fn tags(&mut self, node: &Node, about: About<'_>) -> Read<BTreeSet<String>> {
        let Kind::Sequence(nodes) = &node.kind else {
            return self.wrong(node, "Value is not a sequence", about);
        };
        let mut tags = BTreeSet::new();
        for item in nodes {
            match item.scalar() {
                Some(tag) => tags.insert(tag.to_owned()),
                None => return self.wrong(item, "sequence value is not scalar", about),
            };
        }
        Ok(tags)
    }
}
