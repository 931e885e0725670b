//! `saker fields`: the field table.

use std::fmt::Write as _;

use saker_rules::fields::{FIELDS, Supply};

use super::{Failure, print};

/// Options of `saker fields`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// One JSON array instead of text.
    #[arg(long)]
    json: bool,
    /// Only fields whose name contains this.
    filter: Option<String>,
}

/// Prints the table.
pub fn run(args: &Args) -> Result<(), Failure> {
    let chosen: Vec<_> = FIELDS
        .iter()
        .filter(|field| {
            args.filter
                .as_ref()
                .is_none_or(|filter| field.name.contains(filter.as_str()))
        })
        .collect();
    if args.json {
        let text = serde_json::to_string_pretty(&chosen)
            .map_err(|error| Failure::Internal(error.to_string()))?;
        return print(&(text + "\n"));
    }
    let mut text = String::new();
    for field in chosen {
        let list = if field.list { " list" } else { "" };
        let unit = if field.unit.is_empty() {
            String::new()
        } else {
            format!(", {}", field.unit)
        };
        let kinds = if field.kinds.is_empty() {
            "every event".to_owned()
        } else {
            field.kinds.join(", ")
        };
        let origin = match field.supply {
            Supply::Live(origin) => format!("from: {origin}"),
            Supply::Recorded(reason) => format!("recorded events only: {reason}"),
        };
        let _ = writeln!(
            text,
            "{} ({:?}{list}{unit}; {kinds})\n    {}\n    {origin}",
            field.name, field.ty, field.doc
        );
    }
    print(&text)
}
