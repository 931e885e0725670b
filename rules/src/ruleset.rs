//! What loading yields: checked rules in file order, with typed conditions.

use std::time::Duration;

use serde::Serialize;

use crate::{
    expr::{Expr, FieldRef},
    template::Template,
};

/// Falco's eight priorities, most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[allow(missing_docs, reason = "the names are the definition")]
pub enum Priority {
    Emergency,
    Alert,
    Critical,
    Error,
    Warning,
    Notice,
    Informational,
    Debug,
}

impl Priority {
    /// Every priority, most urgent first.
    pub const ALL: [Priority; 8] = [
        Priority::Emergency,
        Priority::Alert,
        Priority::Critical,
        Priority::Error,
        Priority::Warning,
        Priority::Notice,
        Priority::Informational,
        Priority::Debug,
    ];

    /// As Falco writes it in alerts.
    pub fn name(self) -> &'static str {
        match self {
            Priority::Emergency => "Emergency",
            Priority::Alert => "Alert",
            Priority::Critical => "Critical",
            Priority::Error => "Error",
            Priority::Warning => "Warning",
            Priority::Notice => "Notice",
            Priority::Informational => "Informational",
            Priority::Debug => "Debug",
        }
    }

    /// Reads a name in any case; `INFO` is short for `Informational`.
    pub fn parse(name: &str) -> Option<Self> {
        if name.eq_ignore_ascii_case("info") {
            return Some(Priority::Informational);
        }
        Self::ALL
            .into_iter()
            .find(|priority| priority.name().eq_ignore_ascii_case(name))
    }
}

/// Which of the rules are at work: a rule names the profiles that enable it, all of them unless it says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Every control of a hardened cluster is expected to be there.
    Strict,
    /// Quiet on a healthy node that does machine learning.
    Default,
    /// Everything, and what merely tells what goes on: to learn a node before its lists are filled in.
    Observe,
}

impl Profile {
    /// Every profile.
    pub const ALL: [Profile; 3] = [Profile::Strict, Profile::Default, Profile::Observe];

    /// As rules and the configuration write it.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Strict => "strict",
            Profile::Default => "default",
            Profile::Observe => "observe",
        }
    }

    /// Reads a name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.name() == name)
    }
}

/// One rule, checked.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Unique within its source.
    pub name: String,
    /// What it detects, in words.
    pub desc: String,
    /// The condition as written, after appends and exceptions, for listings.
    pub condition_text: String,
    /// When it fires.
    pub detection: Detection,
    /// The alert's text.
    pub output: Template,
    /// How urgent.
    pub priority: Priority,
    /// `syscall` unless the file says otherwise.
    pub source: String,
    /// Sorted, without duplicates.
    pub tags: Vec<String>,
    /// A disabled rule is loaded and never evaluated. So is one that the profile of the load does not enable.
    pub enabled: bool,
    /// The profiles that enable it, in their order.
    pub profiles: Vec<Profile>,
    /// The file that last defined or changed it, and the line there.
    pub origin: (String, u32),
    /// Why the rule can't match on a live agent (an event kind that is not traced, a field that cannot
    /// be supplied), in one sentence each. Empty for an active rule. Recorded events are evaluated all the same.
    pub inactive: Vec<String>,
}

/// When a rule fires.
#[derive(Clone, Debug)]
pub enum Detection {
    /// Whenever an event meets the condition.
    Event(Expr),
    /// When events meet the steps in order, for one value of `by`, within a time.
    Sequence {
        /// What the events must share. A list-valued field (`proc.lineage`) opens an instance under its first
        /// element and continues any instance that one of its elements names.
        by: FieldRef,
        /// From the first step to the last.
        within: Duration,
        /// At least two.
        steps: Vec<Expr>,
    },
    /// When the condition has held without a gap for a time, per owner (`gpu.uuid`, `container.id`, `proc.pid`: see docs).
    For {
        /// The condition.
        condition: Expr,
        /// How long.
        hold: Duration,
    },
}

/// All rules of a load, in order of definition.
#[derive(Clone, Debug, Default)]
pub struct RuleSet {
    /// Rules of every source, disabled ones included.
    pub rules: Vec<Rule>,
}
