//! The `saker` program: parses, dispatches, exits with the documented code.

use std::process::ExitCode;

fn main() -> ExitCode {
    saker::cli::main()
}
