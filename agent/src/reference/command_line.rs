//! The command line, from the parser itself.

use std::fmt::Write as _;

use clap::Command;

use super::{cell, title};

/// Every command with its options, and the exit codes.
pub fn page(mut command: Command) -> String {
    command.build();
    let mut page = title("Command line", "the argument parser");
    section(&command, "saker", &mut page);
    page.push_str(
        "## Exit codes\n\n| code | meaning |\n|---|---|\n| 0 | done |\n| 1 | the input was wrong: rules, configuration, events |\n\
         | 2 | usage |\n| 3 | this machine can't: permissions, kernel, a port that is taken |\n| 4 | internal error |\n",
    );
    page
}

fn section(command: &Command, path: &str, page: &mut String) {
    let commands: Vec<_> = command
        .get_subcommands()
        .filter(|sub| !sub.is_hide_set() && sub.get_name() != "help")
        .collect();
    let about = command
        .get_about()
        .map(ToString::to_string)
        .unwrap_or_default();
    let _ = writeln!(page, "## `{path}`\n\n{about}\n");
    let arguments: Vec<_> = command
        .get_arguments()
        .filter(|argument| {
            !argument.is_hide_set() && !["help", "version"].contains(&argument.get_id().as_str())
        })
        .collect();
    if !arguments.is_empty() {
        page.push_str("| argument | meaning |\n|---|---|\n");
        for argument in arguments {
            let help = argument
                .get_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            let _ = writeln!(
                page,
                "| `{}` | {} |",
                argument.to_string().replace('|', "\\|"),
                cell(&help)
            );
        }
        page.push('\n');
    }
    for sub in commands {
        section(sub, &format!("{path} {}", sub.get_name()), page);
    }
}
