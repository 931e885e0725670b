//! Applies what a later item says of an earlier rule: overrides, appends, and `enabled` alone.

use super::{
    About, Broken, Read, Reader,
    overrides::Overrides,
    rules::RULE_REPLACEABLE,
    values::{append, trim},
};
use crate::{
    diagnostic::{Code, Diagnostic, Place},
    loader::{
        items::{ExceptionItem, RuleItem, complete_exception},
        messages,
    },
};

impl Reader<'_> {
    pub(super) fn rule_overrides(
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

    pub(super) fn rule_append(&mut self, place: Place, about: About<'_>) -> Read<()> {
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

    pub(super) fn rule_enable(&mut self, place: Place, about: About<'_>) -> Read<()> {
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

    /// What changes a rule may name the rule's source, and no other. An empty source names none.
    fn same_source(&mut self, rule: &RuleItem, place: Place, about: About<'_>) -> Read<()> {
        let source = about.node.get("source").and_then(|value| value.scalar());
        if source.is_some_and(|source| !source.is_empty() && source != rule.source) {
            self.source_changed(place, rule.place, about);
            return Err(Broken);
        }
        Ok(())
    }

    pub(super) fn source_changed(&mut self, place: Place, previous: Place, about: About<'_>) {
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
}
