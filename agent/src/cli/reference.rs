//! `saker reference`: the generated pages of `docs/reference`.

use clap::ValueEnum;

use super::{Failure, print};
use crate::reference;

/// Options of `saker reference`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which page.
    page: Page,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Page {
    CommandLine,
    Configuration,
    Fields,
    Metrics,
    EventKinds,
    Diagnostics,
    Rules,
}

/// Prints the page as Markdown.
pub fn run(args: &Args, command: clap::Command) -> Result<(), Failure> {
    let page = match args.page {
        Page::CommandLine => reference::command_line::page(command),
        Page::Configuration => reference::configuration::page(),
        Page::Fields => reference::tables::fields(),
        Page::Metrics => reference::tables::metrics(),
        Page::EventKinds => reference::tables::event_kinds(),
        Page::Diagnostics => reference::tables::diagnostics(),
        Page::Rules => reference::tables::rules(),
    };
    print(&page)
}
