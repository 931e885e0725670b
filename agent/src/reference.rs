//! Reference pages in Markdown, each from the table that the program itself uses.

pub mod command_line;
pub mod configuration;
pub mod tables;

/// The first lines of every page.
fn title(text: &str, source: &str) -> String {
    format!("# {text}\n\nGenerated from {source} by `cargo xtask check --fix`; do not edit.\n\n")
}

/// Text that may stand in a table cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}
