//! Fields, metrics, event kinds, diagnostics and shipped rules, each from its table.

use std::fmt::Write as _;

use saker_rules::{
    diagnostic::Code,
    fields::{ArgRule, FIELDS, Supply},
    kinds::{self, KINDS},
    loader::{LoadOptions, load},
    packs,
};

use super::{cell, title};
use crate::metrics;

/// Every field.
pub fn fields() -> String {
    let mut page = title("Fields", "the table in `rules/src/fields.rs`");
    page.push_str(
        "A field that cannot be extracted from an event makes every comparison on it false, `!=` included.\n\n\
         ## Supplied by a running agent\n\n| field | type | events | meaning | where it comes from |\n|---|---|---|---|---|\n",
    );
    for field in FIELDS {
        if let Supply::Live(origin) = field.supply {
            let kinds = if field.kinds.is_empty() {
                "all".into()
            } else {
                field.kinds.join(", ")
            };
            let (name, ty) = (argument(field.name, field.arg), kind(field));
            let _ = writeln!(
                page,
                "| `{name}` | {ty} | {kinds} | {} | {} |",
                cell(field.doc),
                cell(origin)
            );
        }
    }
    page.push_str(
        "\n## Known, and supplied by recorded events only\n\nA rule may use them; one that can never match without them \
         is reported as inactive.\n\n| field | type | meaning | why not live |\n|---|---|---|---|\n",
    );
    for field in FIELDS {
        if let Supply::Recorded(reason) = field.supply {
            let (name, ty) = (argument(field.name, field.arg), kind(field));
            let _ = writeln!(
                page,
                "| `{name}` | {ty} | {} | {} |",
                cell(field.doc),
                cell(reason)
            );
        }
    }
    page
}

fn kind(field: &saker_rules::fields::FieldInfo) -> String {
    let list = if field.list { " list" } else { "" };
    let unit = if field.unit.is_empty() {
        String::new()
    } else {
        format!(", {}", field.unit)
    };
    format!("{:?}{list}{unit}", field.ty)
}

fn argument(name: &str, rule: ArgRule) -> String {
    match rule {
        ArgRule::None => name.into(),
        ArgRule::Index => format!("{name}[N]"),
        ArgRule::Key => format!("{name}[NAME]"),
        ArgRule::IndexOrKey => format!("{name}[N or NAME]"),
        ArgRule::OptionalIndex => format!("{name}, {name}[N]"),
        ArgRule::OptionalKey => format!("{name}, {name}[NAME]"),
        ArgRule::OptionalIndexOrKey => format!("{name}, {name}[N or NAME]"),
    }
}

/// Every metric.
pub fn metrics() -> String {
    let mut page = title(
        "Metrics",
        "the tables in `agent/src/metrics.rs` and `agent/src/metrics/`",
    );
    page.push_str("Served at `/metrics` in the OpenMetrics text format.\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for metric in metrics::rows() {
        let _ = writeln!(
            page,
            "| `{}` | {} | {} | {} |",
            metric.name,
            metric.kind,
            metric.labels.join(", "),
            cell(metric.help)
        );
    }
    page
}

/// Every event kind.
pub fn event_kinds() -> String {
    let mut page = title("Event kinds", "the table in `rules/src/kinds.rs`");
    page.push_str("Values of `evt.type`. Rules may name any of them; a rule that needs an untraced one is reported as inactive.\n\n## Traced\n\n");
    for kind in KINDS.iter().filter(|kind| kind.is_traced()) {
        let _ = writeln!(page, "- `{}`", kind.name);
    }
    page.push_str("\n## Known and not traced\n\n");
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for kind in KINDS {
        if let kinds::Supply::Untraced(reason) = kind.supply {
            match reasons.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, names)) => names.push(kind.name),
                None => reasons.push((reason, vec![kind.name])),
            }
        }
    }
    for (reason, names) in reasons {
        let _ = writeln!(
            page,
            "{}: {}\n",
            cell(reason),
            names
                .iter()
                .map(|name| format!("`{name}`"))
                .collect::<Vec<_>>()
                .join(", ")
        );
    }
    page.truncate(page.trim_end().len());
    page.push('\n');
    page
}

/// Every diagnostic code.
pub fn diagnostics() -> String {
    let mut page = title("Diagnostics", "the table in `rules/src/diagnostic/code.rs`");
    page.push_str("What `saker rules check` and `saker run` may say of rules.\n\n| code | severity | meaning |\n|---|---|---|\n");
    for code in Code::ALL {
        let _ = writeln!(
            page,
            "| {} | {:?} | {} |",
            code.id(),
            code.severity(),
            cell(code.meaning())
        );
    }
    page
}

/// Every shipped rule.
pub fn rules() -> String {
    let mut page = title("Shipped rules", "`rules/packs`");
    let tuning = packs::tuning();
    page.push_str("What can be tuned stands at the [end](#lists-and-macros-to-tune).\n\n");
    for rule in load(&packs::shipped(), &LoadOptions::default())
        .ruleset
        .rules
    {
        let (file, _) = &rule.origin;
        let _ = writeln!(
            page,
            "## {}\n\n{} · {} · {} · `{file}`\n\n{}\n",
            rule.name,
            format_args!("{:?}", rule.priority),
            rule.profiles
                .iter()
                .map(|profile| profile.name())
                .collect::<Vec<_>>()
                .join(", "),
            rule.tags.join(", "),
            rule.desc.trim()
        );
        let names: Vec<String> = tuning
            .iter()
            .filter(|tuning| tuning.rules.contains(&rule.name))
            .map(|tuning| format!("`{}`", tuning.name))
            .collect();
        let _ = writeln!(page, "Tune: {}\n", names.join(", "));
        for reason in &rule.inactive {
            let _ = writeln!(page, "Not active yet: {reason}\n");
        }
    }
    page.push_str(
        "## Lists and macros to tune\n\nReplace one in a file of your own behind the packs, or append to a list (`override: {items: append}`). A macro that \
         is `(never_true)` stands for an exception yet to be written.\n\n| name | kind | what it holds | rules |\n|---|---|---|---|\n",
    );
    for tuning in &tuning {
        let kind = if tuning.is_list { "list" } else { "macro" };
        let _ = writeln!(
            page,
            "| `{}` | {kind} | {} | {} |",
            tuning.name,
            cell(&tuning.purpose),
            tuning.rules.join(", ")
        );
    }
    page
}
