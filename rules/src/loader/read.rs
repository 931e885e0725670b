//! Reads the items of rules files: structure, keys and their types.
//!
//! Keys that Falco knows mean what they mean there. Every wrong key is reported, not only the first.
//! Conditions and outputs are taken as text; what they say is checked once all files are read.

use std::{
    collections::{BTreeSet, HashSet},
    rc::Rc,
};

use super::{
    SourceFile,
    items::{
        Entry, ExceptionItem, ListItem, MacroItem, RuleItem, SequenceItem, Table,
        complete_exception,
    },
    messages,
    text::Text,
    yaml::{Kind, Node, scalar_text},
};
use crate::{
    diagnostic::{Code, Diagnostic, Place, nearest},
    ruleset::Priority,
};

/// Falco's engine whose rules files load here. A file may ask for this version or an earlier one.
pub const ENGINE_VERSION: (u32, u32, u32) = (0, 64, 0);

const LIST_ITEMS_MAX: usize = 1_000_000;
const SEQUENCE_STEPS_MAX: usize = 16;
const SPAN_NS_MAX: u64 = 7 * 24 * 3600 * 1_000_000_000;

/// All items of a load so far.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    pub(crate) lists: Table<ListItem>,
    pub(crate) macros: Table<MacroItem>,
    pub(crate) rules: Table<RuleItem>,
    pub(crate) engine_version: Option<(u32, u32, u32)>,
    /// Counts changes, for the visibility of macros.
    clock: usize,
    list_items: usize,
}

/// Reads one file's items into what was collected before.
pub(crate) struct Reader<'a> {
    pub(crate) file: usize,
    pub(crate) source: &'a SourceFile,
    pub(crate) collected: &'a mut Collected,
    pub(crate) diagnostics: &'a mut Vec<Diagnostic>,
    pub(crate) known_sources: &'a [String],
}

/// The item at hand, for its diagnostics.
#[derive(Clone, Copy)]
struct About<'n> {
    kind: &'static str,
    name: &'n str,
    node: &'n Node,
}

/// The item is broken beyond use; why was reported.
struct Broken;

type Read<T> = Result<T, Broken>;

const LIST_KEYS: &[&str] = &["list", "items", "append", "override"];
const MACRO_KEYS: &[&str] = &["macro", "condition", "append", "override"];
const RULE_KEYS: &[&str] = &[
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
];
const EXCEPTION_KEYS: &[&str] = &["name", "fields", "comps", "values"];
const SEQUENCE_KEYS: &[&str] = &["by", "within", "steps"];
const RULE_APPENDABLE: &[&str] = &["condition", "output", "desc", "tags", "exceptions"];
const RULE_REPLACEABLE: &[&str] = &[
    "condition",
    "output",
    "desc",
    "priority",
    "tags",
    "exceptions",
    "enabled",
    "warn_evttypes",
    "skip-if-unknown-filter",
    "capture",
    "capture_duration",
    "for",
    "sequence",
];

impl Reader<'_> {
    /// Reads a document.
    pub(crate) fn document(&mut self, document: &Node) {
        let items = match &document.kind {
            Kind::Null => return,
            Kind::Sequence(items) => items,
            Kind::Mapping(_) => {
                let message = "Rules content is not yaml array of objects";
                let help = "begin every list, macro and rule with `- `";
                let diagnostic =
                    Diagnostic::new(Code::YamlStructure, message).at(self.head(document), "");
                self.diagnostics.push(diagnostic.help(help));
                return;
            }
            Kind::Scalar(..) => {
                self.report(
                    Code::YamlStructure,
                    "Rules content is not yaml",
                    self.head(document),
                );
                return;
            }
        };
        for item in items {
            if !item.is_null() {
                // What is wrong was reported; the next item is read all the same.
                let _ = self.item(item);
            }
        }
    }

    fn item(&mut self, node: &Node) -> Read<()> {
        let Kind::Mapping(entries) = &node.kind else {
            let message =
                "Unexpected element type. Each element should be a yaml associative array.";
            return self.broken(Code::YamlStructure, message, self.head(node));
        };
        if let Some(value) = node.get("required_engine_version") {
            return self.engine_version(value);
        }
        if let Some(value) = node.get("required_plugin_versions") {
            return self.plugin_versions(value);
        }
        for (kind, keys) in [
            ("list", LIST_KEYS),
            ("macro", MACRO_KEYS),
            ("rule", RULE_KEYS),
        ] {
            let Some(name_node) = node.get(kind) else {
                continue;
            };
            let name = self.text_value(
                name_node,
                kind,
                About {
                    kind,
                    name: "",
                    node,
                },
            )?;
            let name = name.as_str().to_owned();
            let about = About {
                kind,
                name: &name,
                node,
            };
            self.unknown_keys(node, keys, about);
            return match kind {
                "list" => self.list(about),
                "macro" => self.macro_(about),
                _ => self.rule(about),
            };
        }
        let place = entries
            .first()
            .map_or(self.head(node), |(key, _)| self.place(key));
        let name = entries
            .first()
            .and_then(|(key, _)| key.scalar())
            .unwrap_or("");
        let mut diagnostic = Diagnostic::new(
            Code::UnknownItem,
            format!("Unknown top level item '{name}'"),
        )
        .at(place, "");
        let known = [
            "list",
            "macro",
            "rule",
            "required_engine_version",
            "required_plugin_versions",
        ];
        if let Some(near) = nearest(name, known.into_iter()) {
            diagnostic = diagnostic.help(format!("did you mean `{near}`?"));
        }
        self.diagnostics.push(diagnostic);
        Ok(())
    }

    fn list(&mut self, about: About<'_>) -> Read<()> {
        let node = about.node;
        let name_place = self.place_of_key(node, "list");
        if !is_bare_string(about.name) {
            let message = format!("{} '{}'", messages::INVALID_LIST_NAME, about.name);
            self.warn(Code::InvalidName, message, name_place, about);
        }
        let items = self.required(node, "items", about)?;
        let Kind::Sequence(nodes) = &items.kind else {
            return self.wrong(items, "Value is not a sequence", about);
        };
        let mut values = Vec::with_capacity(nodes.len());
        for item in nodes {
            match item.scalar() {
                Some(text) => values.push((text.to_owned(), self.place(item))),
                // YAML reads a plain `null` as nothing; in a list it is a word like any other.
                None if item.is_null() => {
                    let text = self.source.text.get(item.span.start..item.span.end);
                    values.push((text.unwrap_or("").trim().to_owned(), self.place(item)));
                }
                None => return self.wrong(item, "sequence value is not scalar", about),
            }
        }
        self.collected.list_items += values.len();
        if self.collected.list_items > LIST_ITEMS_MAX {
            let message = format!("lists have more than {LIST_ITEMS_MAX} items in all");
            return self.broken(Code::TooLarge, &message, name_place);
        }
        let (append_flag, overrides) = self.changes(node, &["items"], &["items"], about)?;
        self.collected.clock += 1;
        if append_flag || overrides.append.contains("items") {
            return match self.collected.lists.get_mut(about.name) {
                Some(list) => {
                    list.items.extend(values);
                    Ok(())
                }
                None => self.no_previous(messages::NO_PREVIOUS_LIST, name_place, about),
            };
        }
        self.collected.lists.define(ListItem {
            name: about.name.to_owned(),
            items: values,
            place: name_place,
        });
        Ok(())
    }

    fn macro_(&mut self, about: About<'_>) -> Read<()> {
        let node = about.node;
        let place = self.place_of_key(node, "macro");
        if !is_identifier(about.name) {
            let message = format!("{} '{}'", messages::INVALID_MACRO_NAME, about.name);
            self.warn(Code::InvalidName, message, place, about);
        }
        let condition = self.required(node, "condition", about)?;
        let condition = self.text_value(condition, "condition", about)?;
        let (append_flag, overrides) = self.changes(node, &["condition"], &["condition"], about)?;
        let now = self.collected.clock;
        self.collected.clock += 1;
        if append_flag || overrides.append.contains("condition") {
            return match self.collected.macros.get_mut(about.name) {
                Some(previous) => {
                    append(&mut previous.condition, &condition, place);
                    previous.changed = now;
                    Ok(())
                }
                None => self.no_previous(messages::NO_PREVIOUS_MACRO, place, about),
            };
        }
        let defined = self
            .collected
            .macros
            .get(about.name)
            .map_or(now, |old| old.defined);
        self.collected.macros.define(MacroItem {
            name: about.name.to_owned(),
            condition,
            defined,
            changed: now,
            place,
        });
        Ok(())
    }

    fn rule(&mut self, about: About<'_>) -> Read<()> {
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
    fn rule_key(
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

    fn rule_overrides(
        &mut self,
        overrides: &Overrides,
        place: Place,
        about: About<'_>,
    ) -> Read<()> {
        let node = about.node;
        let mut broken = false;
        for (keys, operation) in [
            (&overrides.append, "append"),
            (&overrides.replace, "replace"),
        ] {
            for key in keys.iter().filter(|key| node.get(key).is_none()) {
                let message = format!(
                    "An {operation} override for '{key}' was specified but '{key}' is not defined"
                );
                let place = self.place_of_key(node, "override");
                self.report_about(Code::InvalidOverride, message, place, about);
                broken = true;
            }
        }
        for key in RULE_REPLACEABLE {
            let named = overrides.append.contains(*key) || overrides.replace.contains(*key);
            if !named && node.get(key).is_some() {
                let message = format!(
                    "Unexpected key '{key}': no corresponding entry under 'override' is defined."
                );
                let place = self.place_of_key_itself(node, key);
                self.report_about(Code::InvalidOverride, message, place, about);
                broken = true;
            }
        }
        let Some(mut rule) = self.collected.rules.get(about.name).cloned() else {
            let message = if overrides.append.is_empty() {
                messages::NO_PREVIOUS_RULE_REPLACE
            } else {
                messages::NO_PREVIOUS_RULE_APPEND
            };
            return self.no_previous(message, place, about);
        };
        if broken {
            return Err(Broken);
        }
        self.same_source(&rule, place, about)?;
        for key in &overrides.append {
            self.append_rule_key(&mut rule, key, about)?;
        }
        for key in &overrides.replace {
            self.rule_key(&mut rule, key, true, about)?;
            if key == "exceptions" {
                for exception in &mut rule.exceptions {
                    if let Err(diagnostic) = complete_exception(exception) {
                        self.diagnostics.push(diagnostic.about("rule", about.name));
                        return Err(Broken);
                    }
                }
            }
        }
        rule.changed_at = place;
        self.collected.rules.define(rule);
        Ok(())
    }

    fn rule_append(&mut self, place: Place, about: About<'_>) -> Read<()> {
        let Some(mut rule) = self.collected.rules.get(about.name).cloned() else {
            return self.no_previous(messages::NO_PREVIOUS_RULE_APPEND, place, about);
        };
        self.same_source(&rule, place, about)?;
        let mut found = false;
        for key in ["condition", "exceptions"] {
            if about.node.get(key).is_some() {
                found = true;
                self.append_rule_key(&mut rule, key, about)?;
            }
        }
        if !found {
            let message = "Appended rule must have exceptions or condition property";
            return self.broken(Code::MissingKey, message, place);
        }
        rule.changed_at = place;
        self.collected.rules.define(rule);
        Ok(())
    }

    /// What changes a rule may name the rule's source, and no other. An empty source names none.
    fn same_source(&mut self, rule: &RuleItem, place: Place, about: About<'_>) -> Read<()> {
        let source = about.node.get("source").and_then(|value| value.scalar());
        if source.is_some_and(|source| !source.is_empty() && source != rule.source) {
            self.source_changed(place, rule.place, about);
            return Err(Broken);
        }
        Ok(())
    }

    fn source_changed(&mut self, place: Place, previous: Place, about: About<'_>) {
        let diagnostic = Diagnostic::new(Code::SourceChanged, messages::SOURCE_CHANGED)
            .at(place, "")
            .also(previous, "defined here")
            .about("rule", about.name);
        self.diagnostics.push(diagnostic);
    }

    fn append_rule_key(&mut self, rule: &mut RuleItem, key: &str, about: About<'_>) -> Read<()> {
        let value = self.required(about.node, key, about)?;
        let place = self.place(value);
        match key {
            "condition" => {
                let text = self.text_value(value, key, about)?;
                append(&mut rule.condition, &text, place);
            }
            "output" => {
                let text = trim(&self.text_value(value, key, about)?);
                append(&mut rule.output, &text, place);
            }
            "desc" => {
                let text = self.text_value(value, key, about)?;
                rule.desc.push(' ');
                rule.desc.push_str(text.as_str());
            }
            "tags" => rule.tags.extend(self.tags(value, about)?),
            "exceptions" => {
                for exception in self.exceptions(value, true, about)? {
                    self.append_exception(rule, exception, about)?;
                }
            }
            _ => unreachable!("the callers name the keys above only"),
        }
        Ok(())
    }

    fn append_exception(
        &mut self,
        rule: &mut RuleItem,
        mut exception: ExceptionItem,
        about: About<'_>,
    ) -> Read<()> {
        let place = exception.place;
        let previous = rule
            .exceptions
            .iter_mut()
            .find(|old| old.name == exception.name);
        let Some(previous) = previous else {
            if exception.fields.is_some() && exception.values.is_empty() {
                let message = "Rule exception must have values property with a list of values";
                return self.broken(Code::InvalidException, message, place);
            }
            if let Err(diagnostic) = complete_exception(&mut exception) {
                self.diagnostics.push(diagnostic.about("rule", about.name));
                return Err(Broken);
            }
            rule.exceptions.push(exception);
            return Ok(());
        };
        for (present, key) in [
            (exception.fields.is_some(), "fields"),
            (exception.comps.is_some(), "comps"),
        ] {
            if present {
                let message =
                    format!("Can not append exception {key} to existing exception, only values");
                return self.broken(Code::InvalidException, &message, place);
            }
        }
        previous.values.append(&mut exception.values);
        Ok(())
    }

    fn rule_enable(&mut self, place: Place, about: About<'_>) -> Read<()> {
        let Some(value) = about.node.get("enabled") else {
            let message = "Item has no mapping for key 'enabled'";
            let diagnostic = Diagnostic::new(Code::MissingKey, message)
                .at(self.head(about.node), "")
                .about(about.kind, about.name)
                .help("a rule has the keys `condition`, `output`, `desc` and `priority`");
            self.diagnostics.push(diagnostic);
            return Err(Broken);
        };
        let enabled = self.bool_value(value, "enabled", about)?;
        let key_place = self.place_of_key_itself(about.node, "enabled");
        self.warn(
            Code::DeprecatedKey,
            messages::ENABLED_ALONE.to_owned(),
            key_place,
            about,
        );
        match self.collected.rules.get_mut(about.name) {
            Some(rule) => {
                rule.enabled = enabled;
                rule.changed_at = place;
                Ok(())
            }
            None => self.no_previous(messages::NO_PREVIOUS_RULE_ENABLE, place, about),
        }
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

    fn sequence(&mut self, node: &Node, about: About<'_>) -> Read<SequenceItem> {
        let place = self.head(node);
        if !matches!(node.kind, Kind::Mapping(_)) {
            let message = "a sequence has the keys `by`, `within` and `steps`";
            return self.broken(Code::InvalidSequence, message, place);
        }
        self.unknown_keys(node, SEQUENCE_KEYS, about);
        // Each is read before any is given up, so that all that is wrong is said.
        let by = self.required(node, "by", about);
        let by = by.and_then(|by| self.text_value(by, "by", about));
        let within = self.required(node, "within", about);
        let within_ns = within.and_then(|within| self.duration(within, about));
        let steps = self.steps(node, about);
        Ok(SequenceItem {
            by: by?,
            within_ns: within_ns?,
            steps: steps?,
            place,
        })
    }

    fn steps(&mut self, node: &Node, about: About<'_>) -> Read<Vec<Text>> {
        let steps_node = self.required(node, "steps", about)?;
        let Kind::Sequence(nodes) = &steps_node.kind else {
            return self.wrong(steps_node, "Value is not a sequence", about);
        };
        if !(2..=SEQUENCE_STEPS_MAX).contains(&nodes.len()) {
            let message = format!(
                "a sequence has 2 to {SEQUENCE_STEPS_MAX} steps, not {}",
                nodes.len()
            );
            return self.broken(Code::InvalidSequence, &message, self.head(steps_node));
        }
        let mut steps = Vec::with_capacity(nodes.len());
        for step in nodes {
            steps.push(self.text_value(step, "steps", about)?);
        }
        Ok(steps)
    }

    fn duration(&mut self, node: &Node, about: About<'_>) -> Read<u64> {
        let text = self.text_value(node, "duration", about)?;
        match parse_duration_ns(text.as_str().trim()) {
            Some(ns @ 1..=SPAN_NS_MAX) => Ok(ns),
            _ => {
                let message = format!("'{}' is not a time span", text.as_str().trim());
                let diagnostic = Diagnostic::new(Code::InvalidSequence, message)
                    .at(self.place(node), "")
                    .about(about.kind, about.name)
                    .help(
                        "write a number and a unit, such as `10s`, `5m` or `1h30m`; at most 7 days",
                    );
                self.diagnostics.push(diagnostic);
                Err(Broken)
            }
        }
    }

    fn tags(&mut self, node: &Node, about: About<'_>) -> Read<BTreeSet<String>> {
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

    fn exceptions(
        &mut self,
        node: &Node,
        is_append: bool,
        about: About<'_>,
    ) -> Read<Vec<ExceptionItem>> {
        let nodes = match &node.kind {
            Kind::Null => return Ok(Vec::new()),
            Kind::Sequence(nodes) => nodes,
            _ => return self.wrong(node, "Rule exceptions must be a sequence", about),
        };
        let mut exceptions: Vec<ExceptionItem> = Vec::with_capacity(nodes.len());
        let mut names = HashSet::new();
        let mut broken = false;
        for node in nodes {
            let Ok(exception) = self.exception(node, is_append, about) else {
                broken = true;
                continue;
            };
            if !names.insert(exception.name.clone()) {
                let message = format!(
                    "Multiple definitions of exception '{}' in the same rule",
                    exception.name
                );
                self.warn(Code::ExceptionRepeated, message, exception.place, about);
            }
            exceptions.push(exception);
        }
        if broken { Err(Broken) } else { Ok(exceptions) }
    }

    fn exception(&mut self, node: &Node, is_append: bool, about: About<'_>) -> Read<ExceptionItem> {
        if !matches!(node.kind, Kind::Mapping(_)) {
            return self.wrong(node, "Rule exception must be a mapping", about);
        }
        self.unknown_keys(node, EXCEPTION_KEYS, about);
        let name_node = self.required(node, "name", about)?;
        let name = self.text_value(name_node, "name", about)?;
        let place = self.place(name_node);
        let fields = match node.get("fields") {
            None if is_append => None,
            _ => {
                let fields = self.required(node, "fields", about)?;
                Some(self.entry(fields, "fields", about)?)
            }
        };
        let comps = match node.get("comps") {
            None => None,
            Some(comps) => Some(self.entry(comps, "comps", about)?),
        };
        let mut values = Vec::new();
        match node.get("values") {
            Some(node) => {
                let Kind::Sequence(nodes) = &node.kind else {
                    return self.wrong(node, "Rule exception values must be a sequence", about);
                };
                for value in nodes {
                    values.push(self.entry(value, "values", about)?);
                }
            }
            None if is_append => {
                let message = "Overriding/appending exception with no values".to_owned();
                self.warn(Code::ExceptionWithoutValues, message, place, about);
            }
            None => {}
        }
        Ok(ExceptionItem {
            name: name.as_str().to_owned(),
            fields,
            comps,
            values,
            place,
        })
    }

    fn entry(&mut self, node: &Rc<Node>, key: &str, about: About<'_>) -> Read<Entry> {
        match &node.kind {
            Kind::Sequence(nodes) => {
                let mut entries = Vec::with_capacity(nodes.len());
                for node in nodes {
                    entries.push(self.entry(node, key, about)?);
                }
                Ok(Entry::Many(entries, self.place(node)))
            }
            _ => {
                let text = self.text_value(node, key, about)?;
                Ok(Entry::One(text, self.place(node)))
            }
        }
    }

    fn engine_version(&mut self, node: &Node) -> Read<()> {
        let about = About {
            kind: "required_engine_version",
            name: "",
            node,
        };
        let text = self.text_value(node, "required_engine_version", about)?;
        let place = self.place(node);
        let Some(wanted) = parse_version(text.as_str()) else {
            let message = format!(
                "Unable to parse engine version '{}' as a semver string. Expected \"x.y.z\" semver format.",
                text.as_str()
            );
            return self.broken(Code::EngineVersion, &message, place);
        };
        let (major, minor, patch) = ENGINE_VERSION;
        if wanted.0 != major || wanted > ENGINE_VERSION {
            let message = format!(
                "Rules require engine version {}.{}.{}, but engine version is {major}.{minor}.{patch}",
                wanted.0, wanted.1, wanted.2
            );
            return self.broken(Code::EngineVersion, &message, place);
        }
        let version = &mut self.collected.engine_version;
        *version = (*version).max(Some(wanted));
        Ok(())
    }

    fn plugin_versions(&mut self, node: &Node) -> Read<()> {
        let about = About {
            kind: "required_plugin_versions",
            name: "",
            node,
        };
        let Kind::Sequence(plugins) = &node.kind else {
            return self.wrong(
                node,
                "Value of required_plugin_versions must be a sequence",
                about,
            );
        };
        for plugin in plugins {
            if !matches!(plugin.kind, Kind::Mapping(_)) {
                return self.wrong(plugin, "Plugin version must be a mapping", about);
            }
            let mut names = vec![self.plugin(plugin, about)?];
            if let Some(alternatives) = plugin.get("alternatives") {
                let Kind::Sequence(nodes) = &alternatives.kind else {
                    let message = "Value of plugin version alternatives must be a sequence";
                    return self.wrong(alternatives, message, about);
                };
                for alternative in nodes {
                    if !matches!(alternative.kind, Kind::Mapping(_)) {
                        let message = "Plugin version alternative must be a mapping";
                        return self.wrong(alternative, message, about);
                    }
                    let name = self.plugin(alternative, about)?;
                    if names.contains(&name) {
                        let message = format!(
                            "Defined multiple alternative version requirements for plugin '{name}'"
                        );
                        return self.broken(Code::EngineVersion, &message, self.head(alternative));
                    }
                    names.push(name);
                }
            }
            // Saker supplies the container plugin's fields itself.
            if !names.iter().any(|name| name == "container") {
                let message = format!(
                    "plugin '{}' is not available; Saker has no plugins",
                    names[0]
                );
                self.warn(Code::PluginRequired, message, self.head(plugin), about);
            }
        }
        Ok(())
    }

    fn plugin(&mut self, node: &Node, about: About<'_>) -> Read<String> {
        let name = self.required(node, "name", about)?;
        let name = self.text_value(name, "name", about)?.as_str().to_owned();
        let version_node = self.required(node, "version", about)?;
        let version = self.text_value(version_node, "version", about)?;
        if parse_version(version.as_str()).is_none() {
            let message = format!(
                "Invalid required version '{}' for plugin '{name}'",
                version.as_str()
            );
            return self.broken(Code::EngineVersion, &message, self.place(version_node));
        }
        Ok(name)
    }

    /// Reads `append` and `override`, and refuses both together.
    fn changes(
        &mut self,
        node: &Node,
        appendable: &[&str],
        replaceable: &[&str],
        about: About<'_>,
    ) -> Read<(bool, Overrides)> {
        let mut append_flag = false;
        if let Some(value) = node.get("append") {
            append_flag = self.bool_value(value, "append", about)?;
            if append_flag {
                let place = self.place_of_key_itself(node, "append");
                self.warn(
                    Code::DeprecatedKey,
                    messages::APPEND.to_owned(),
                    place,
                    about,
                );
            }
        }
        let mut overrides = Overrides::default();
        let Some(value) = node.get("override") else {
            return Ok((append_flag, overrides));
        };
        let entries = match &value.kind {
            Kind::Mapping(entries) => entries.as_slice(),
            Kind::Null => &[],
            _ => return self.wrong(value, "Value of override must be a mapping", about),
        };
        for (key_node, operation_node) in entries {
            let key = self
                .text_value(key_node, "override", about)?
                .as_str()
                .to_owned();
            let operation = self.text_value(operation_node, &key, about)?;
            let may_append = appendable.contains(&key.as_str());
            let may_replace = replaceable.contains(&key.as_str());
            let place = self.place(key_node);
            match operation.as_str() {
                "append" if may_append => overrides.append.insert(key),
                "append" => {
                    let message =
                        format!("Key '{key}' cannot be appended to, use 'replace' instead");
                    return self.broken(Code::InvalidOverride, &message, place);
                }
                "replace" if may_replace => overrides.replace.insert(key),
                "replace" => {
                    let message = format!("Key '{key}' cannot be replaced");
                    return self.broken(Code::InvalidOverride, &message, place);
                }
                other => {
                    let mut message = format!(
                        "Invalid override operation for key '{key}': '{other}'. Allowed values are: "
                    );
                    for (allowed, word) in [(may_append, "append "), (may_replace, "replace ")] {
                        if allowed {
                            message.push_str(word);
                        }
                    }
                    let place = self.place(operation_node);
                    return self.broken(Code::InvalidOverride, message.trim_end(), place);
                }
            };
        }
        if append_flag && !(overrides.append.is_empty() && overrides.replace.is_empty()) {
            let place = self.place_of_key_itself(node, "override");
            return self.broken(Code::InvalidOverride, messages::OVERRIDE_AND_APPEND, place);
        }
        Ok((append_flag, overrides))
    }

    fn required<'n>(&mut self, node: &'n Node, key: &str, about: About<'_>) -> Read<&'n Rc<Node>> {
        match node.get(key) {
            Some(value) if value.is_null() => {
                let message = format!("Mapping for key '{key}' is empty");
                let place = self.place_of_key_itself(node, key);
                self.report_about(Code::MissingKey, message, place, about);
                Err(Broken)
            }
            Some(value) => Ok(value),
            None => {
                let message = format!("Item has no mapping for key '{key}'");
                self.report_about(Code::MissingKey, message, self.head(node), about);
                Err(Broken)
            }
        }
    }

    /// A scalar that is not empty, with the places of its characters.
    fn text_value(&mut self, node: &Node, key: &str, about: About<'_>) -> Read<Text> {
        match &node.kind {
            Kind::Scalar(text, _) if text.is_empty() => {
                self.wrong(node, "Value must be non-empty", about)
            }
            Kind::Scalar(..) => Ok(scalar_text(node, &self.source.text, self.file)),
            Kind::Null => {
                let message = format!("Mapping for key '{key}' is empty");
                self.report_about(Code::MissingKey, message, self.head(node), about);
                Err(Broken)
            }
            _ => self.wrong(node, "Value is not a scalar value", about),
        }
    }

    fn bool_value(&mut self, node: &Node, key: &str, about: About<'_>) -> Read<bool> {
        let text = self.text_value(node, key, about)?;
        match parse_bool(text.as_str()) {
            Some(value) => Ok(value),
            None => self.wrong(node, "Can't decode YAML scalar value", about),
        }
    }

    fn unknown_keys(&mut self, node: &Node, known: &[&str], about: About<'_>) {
        let Kind::Mapping(entries) = &node.kind else {
            return;
        };
        for (index, (key_node, _)) in entries.iter().enumerate() {
            let key = key_node.scalar().unwrap_or("");
            let place = self.place(key_node);
            if entries[..index]
                .iter()
                .any(|(other, _)| other.scalar() == Some(key))
            {
                let message = format!("Key '{key}' is repeated; its first value is used");
                self.warn(Code::UnknownKey, message, place, about);
            } else if !known.contains(&key) {
                let mut diagnostic =
                    Diagnostic::new(Code::UnknownKey, format!("Unknown key '{key}'"))
                        .at(place, "")
                        .about(about.kind, about.name);
                if key == "<<" {
                    diagnostic = diagnostic.help("keys are not merged; write them out");
                } else if let Some(near) = nearest(key, known.iter().copied()) {
                    diagnostic = diagnostic.help(format!("did you mean `{near}`?"));
                }
                self.diagnostics.push(diagnostic);
            }
        }
    }

    fn place(&self, node: &Node) -> Place {
        Place {
            file: self.file,
            span: node.span,
        }
    }

    /// The beginning of a node, where the whole would cover many lines.
    fn head(&self, node: &Node) -> Place {
        if let Kind::Mapping(entries) = &node.kind
            && let Some((key, _)) = entries.first()
        {
            return self.place(key);
        }
        let text = self
            .source
            .text
            .get(node.span.start..node.span.end)
            .unwrap_or("");
        let len = text.find('\n').unwrap_or(text.len());
        let span = crate::ast::Span::new(node.span.start, node.span.start + len);
        Place {
            file: self.file,
            span,
        }
    }

    fn place_of_key(&self, node: &Node, key: &str) -> Place {
        node.get(key)
            .map_or(self.head(node), |value| self.head(value))
    }

    fn place_of_key_itself(&self, node: &Node, key: &str) -> Place {
        let Kind::Mapping(entries) = &node.kind else {
            return self.head(node);
        };
        entries
            .iter()
            .find(|(name, _)| name.scalar() == Some(key))
            .map_or(self.head(node), |(name, _)| self.place(name))
    }

    fn report(&mut self, code: Code, message: &str, place: Place) {
        self.diagnostics
            .push(Diagnostic::new(code, message).at(place, ""));
    }

    fn report_about(&mut self, code: Code, message: String, place: Place, about: About<'_>) {
        let diagnostic = Diagnostic::new(code, message)
            .at(place, "")
            .about(about.kind, about.name);
        self.diagnostics.push(diagnostic);
    }

    fn warn(&mut self, code: Code, message: String, place: Place, about: About<'_>) {
        self.report_about(code, message, place, about);
    }

    fn broken<T>(&mut self, code: Code, message: &str, place: Place) -> Read<T> {
        self.report(code, message, place);
        Err(Broken)
    }

    fn wrong<T>(&mut self, node: &Node, message: &str, about: About<'_>) -> Read<T> {
        let place = self.head(node);
        self.report_about(Code::WrongType, message.to_owned(), place, about);
        Err(Broken)
    }

    fn no_previous<T>(&mut self, message: &str, place: Place, about: About<'_>) -> Read<T> {
        self.report_about(Code::NoPreviousItem, message.to_owned(), place, about);
        Err(Broken)
    }
}

#[derive(Default)]
struct Overrides {
    append: BTreeSet<String>,
    replace: BTreeSet<String>,
}

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

fn append(text: &mut Text, more: &Text, place: Place) {
    text.push_for(" ", place);
    text.push_text(more);
}

fn trim(text: &Text) -> Text {
    let all = text.as_str();
    let start = all.len() - all.trim_start().len();
    let mut out = Text::default();
    out.push_part(text, start..start + all.trim().len());
    out
}

fn is_identifier(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn is_bare_string(name: &str) -> bool {
    !name.is_empty()
        && !name.contains(|c: char| {
            c.is_ascii_whitespace() || matches!(c, '(' | ')' | '"' | '\'' | '=' | ',')
        })
}

/// What yaml-cpp, and so Falco, takes for a boolean.
fn parse_bool(text: &str) -> Option<bool> {
    let lower = text.to_ascii_lowercase();
    let capitalised = |word: &str| {
        let mut chars = word.chars();
        chars.next().is_some_and(char::is_uppercase) && chars.all(char::is_lowercase)
    };
    let one_case = text == lower || text == text.to_ascii_uppercase() || capitalised(text);
    match lower.as_str() {
        _ if !one_case => None,
        "y" | "yes" | "true" | "on" => Some(true),
        "n" | "no" | "false" | "off" => Some(false),
        _ => None,
    }
}

/// `x.y.z`, perhaps with a suffix, or a bare number, which stands for the middle one.
fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    if let Ok(number) = text.parse::<u32>() {
        return Some((0, number, 0));
    }
    let release = text.split(['-', '+']).next()?;
    let mut parts = release.split('.');
    let mut number = || parts.next()?.parse::<u32>().ok();
    let version = (number()?, number()?, number()?);
    parts.next().is_none().then_some(version)
}

fn parse_duration_ns(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = 0u64;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit_ns: u64 = match &rest[..letters] {
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60 * 1_000_000_000,
            "h" => 3600 * 1_000_000_000,
            "d" => 24 * 3600 * 1_000_000_000,
            _ => return None,
        };
        rest = &rest[letters..];
        total = total.checked_add(number.checked_mul(unit_ns)?)?;
    }
    Some(total)
}
