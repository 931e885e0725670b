//! Messages in Falco's words, which tools look for.

pub(super) const OVERRIDE_AND_APPEND: &str = "Keys 'override' and 'append: true' cannot be used together. Add an 'append' entry (e.g. 'condition: append') under 'override' instead.";
pub(super) const APPEND: &str = "'append' key is deprecated. Add an 'append' entry (e.g. 'condition: append') under 'override' instead.";
pub(super) const ENABLED_ALONE: &str = "The standalone 'enabled' key usage is deprecated. The correct approach requires also a 'replace' entry under the 'override' key (i.e. 'enabled: replace').";
pub(super) const NO_PREVIOUS_MACRO: &str =
    "Macro uses 'append' or 'override.condition: append' but no macro by that name already exists";
pub(super) const NO_PREVIOUS_LIST: &str =
    "List uses 'append' or 'override.items: append' but no list by that name already exists";
pub(super) const NO_PREVIOUS_RULE_APPEND: &str =
    "Rule uses 'append' or 'override.<key>: append' but no rule by that name already exists";
pub(super) const NO_PREVIOUS_RULE_REPLACE: &str =
    "An 'override.<key>: replace' to a rule was requested but no rule by that name already exists";
pub(super) const NO_PREVIOUS_RULE_ENABLE: &str =
    "Rule has 'enabled' key but no rule by that name already exists";
pub(super) const SOURCE_CHANGED: &str = "Rule has been re-defined with a different source";
pub(super) const INVALID_MACRO_NAME: &str = "Macro has an invalid name. Macro names should match a regular expression: [a-zA-Z]+[a-zA-Z0-9_]*, unlike";
pub(super) const INVALID_LIST_NAME: &str = "List has an invalid name. List names should match a regular expression: [^()\"'[:space:]=,]+, unlike";
pub(super) const NO_EVTTYPE: &str =
    "Rule matches too many evt.type values. This has a significant performance penalty.";
