//! Makes one TCP connection and closes it: `connect ADDRESS:PORT`. Exits 0 also where nobody listens.

use std::{env, net::TcpStream, process::ExitCode};

fn main() -> ExitCode {
    let Some(address) = env::args().nth(1) else {
        eprintln!("usage: connect ADDRESS:PORT");
        return ExitCode::from(2);
    };
    println!(
        "{}",
        TcpStream::connect(address).map_or_else(|error| error.to_string(), |_| "connected".into())
    );
    ExitCode::SUCCESS
}
