//! Starts a program many times, one after another as fast as it ends: `exec_flood COUNT PROGRAM`.
//! Its argument is the number of the round, so that a lost one can be named.

use std::{
    env,
    process::{Command, ExitCode},
};

fn main() -> ExitCode {
    let args: Vec<String> = env::args().collect();
    let [_, count, program] = &args[..] else {
        eprintln!("usage: exec_flood COUNT PROGRAM");
        return ExitCode::from(2);
    };
    let Ok(count) = count.parse::<u32>() else {
        eprintln!("COUNT is a number");
        return ExitCode::from(2);
    };
    for round in 0..count {
        if let Err(error) = Command::new(program)
            .arg(format!("--round={round}"))
            .status()
        {
            eprintln!("round {round}: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
