//! `saker rules list` and `saker rules coverage`.

use std::{fmt::Write as _, io::IsTerminal as _};

use saker_rules::{
    loader::LoadOptions,
    ruleset::{Rule, RuleSet},
};
use serde_json::json;

use super::{Selection, load};
use crate::{
    cli::{Failure, complain, print},
    config::Profile,
};

/// Options of both.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    selection: Selection,
    /// One JSON array instead of text.
    #[arg(long)]
    json: bool,
    /// Only for this profile; what it does not enable is disabled. Without one: whatever the rules' profiles are.
    #[arg(long, value_name = "PROFILE")]
    profile: Option<Profile>,
}

/// Name, priority, tags, profiles and description of every rule; last how many rules each profile enables.
pub fn list(args: &Args) -> Result<(), Failure> {
    let rules = rules(args)?;
    if args.json {
        return json_lines(&rules.rules.iter().map(describe).collect::<Vec<_>>());
    }
    let mut text = String::new();
    for rule in &rules.rules {
        let state = if rule.enabled { "" } else { " (disabled)" };
        let _ = writeln!(
            text,
            "{:13} {}{state}\n{:13} {}\n{:13} [{}]\n{:13} profiles: {}",
            format!("{:?}", rule.priority),
            rule.name,
            "",
            rule.desc.trim(),
            "",
            rule.tags.join(", "),
            "",
            rule.profiles
                .iter()
                .map(|profile| profile.name())
                .collect::<Vec<_>>()
                .join(", ")
        );
    }
    for profile in saker_rules::ruleset::Profile::ALL {
        let enabled = rules
            .rules
            .iter()
            .filter(|rule| rule.profiles.contains(&profile));
        let _ = writeln!(text, "{:8} {} rules", profile.name(), enabled.count());
    }
    print(&text)
}

/// Active, inactive and disabled rules, with the reasons.
pub fn coverage(args: &Args) -> Result<(), Failure> {
    let rules = rules(args)?;
    if args.json {
        return json_lines(&rules.rules.iter().map(describe).collect::<Vec<_>>());
    }
    let mut text = String::new();
    let (mut active, mut inactive, mut disabled) = (0, 0, 0);
    for rule in &rules.rules {
        if !rule.enabled {
            disabled += 1;
            let _ = writeln!(text, "disabled  {}", rule.name);
        } else if rule.inactive.is_empty() {
            active += 1;
            let _ = writeln!(text, "active    {}", rule.name);
        } else {
            inactive += 1;
            let _ = writeln!(text, "inactive  {}", rule.name);
            for reason in &rule.inactive {
                let _ = writeln!(text, "            {reason}");
            }
        }
    }
    let _ = writeln!(
        text,
        "{} rules: {active} active, {inactive} inactive, {disabled} disabled",
        rules.rules.len()
    );
    print(&text)
}

fn rules(args: &Args) -> Result<RuleSet, Failure> {
    let options = LoadOptions {
        profile: args.profile.map(Into::into),
        ..LoadOptions::default()
    };
    let report = load::selected(&args.selection.paths, args.selection.keep_shipped, &options)?;
    if report.has_errors() {
        complain(&report.render(std::io::stderr().is_terminal()));
        return Err(Failure::Input(String::new()));
    }
    Ok(report.ruleset)
}

fn describe(rule: &Rule) -> serde_json::Value {
    json!({
        "name": rule.name,
        "desc": rule.desc,
        "priority": rule.priority,
        "source": rule.source,
        "tags": rule.tags,
        "profiles": rule.profiles,
        "condition": rule.condition_text,
        "enabled": rule.enabled,
        "active": rule.enabled && rule.inactive.is_empty(),
        "inactive_because": rule.inactive,
        "file": rule.origin.0,
        "line": rule.origin.1,
    })
}

fn json_lines(rules: &[serde_json::Value]) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(rules)
        .map_err(|error| Failure::Internal(error.to_string()))?;
    print(&(text + "\n"))
}
