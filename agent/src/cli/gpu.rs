//! `saker gpu`: what the running agent knows of GPUs and of who uses them, as a table or as JSON.

use std::{
    fmt::Write as _,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use super::{Failure, print};
use crate::{
    api::GPU_DRIVER,
    metrics::gpu::{Row, RowProcess},
};

/// An answer above this is none of ours.
const ANSWER_BYTES_MAX: usize = 8 << 20;
const PATIENCE: Duration = Duration::from_secs(5);

/// Options of `saker gpu`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the agent serves metrics.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9765")]
    address: SocketAddr,
    /// One JSON array instead of a table: a row for each GPU and each process on it.
    #[arg(long)]
    json: bool,
    /// Again every two seconds, until it is interrupted.
    #[arg(long, conflicts_with = "json")]
    watch: bool,
}

/// Shows what the agent found at its last look.
pub fn run(args: &Args) -> Result<(), Failure> {
    loop {
        let answer = ask(args.address)?;
        let rows = rows(args.address, &answer.rows)?;
        let state = unwatched(&answer.driver);
        if args.json {
            if let Some(state) = state.filter(|_| rows.is_empty()) {
                // The output is for programs; why it is empty is for whoever started it.
                let _ = writeln!(io::stderr(), "{state}");
            }
            return print(&(answer.rows + "\n"));
        }
        let table = match state.filter(|_| rows.is_empty()) {
            Some(state) => state + "\n",
            None => table(&rows),
        };
        if !args.watch {
            return print(&table);
        }
        // Clears the terminal.
        print(&format!("\x1b[H\x1b[2J{table}"))?;
        thread::sleep(Duration::from_secs(2));
    }
}

/// What an agent says.
struct Answer {
    /// JSON.
    rows: String,
    /// State of the driver, and why.
    driver: String,
}

/// Why no GPU is watched, for people; `None` while the driver answers, or where an older agent does not tell.
fn unwatched(driver: &str) -> Option<String> {
    let (state, why) = driver.split_once(": ").unwrap_or((driver, ""));
    let says = match state {
        "absent" => "no GPU is watched on this node: there is no driver",
        "failing" => "NO GPU IS WATCHED on this node: the driver fails",
        "hanging" => "NO GPU IS WATCHED on this node: the driver hangs",
        _ => return None,
    };
    // What a driver says goes to a terminal.
    let why: String = why.chars().filter(|letter| !letter.is_control()).collect();
    Some(if why.is_empty() {
        says.to_owned()
    } else {
        format!("{says} ({why})")
    })
}

fn rows(address: SocketAddr, answer: &str) -> Result<Vec<Row>, Failure> {
    serde_json::from_str(answer).map_err(|error| {
        Failure::Machine(format!("{address} does not answer as an agent: {error}"))
    })
}

fn ask(address: SocketAddr) -> Result<Answer, Failure> {
    let fail = |error: &dyn std::fmt::Display| {
        Failure::Machine(format!("no running agent answers on {address}: {error}"))
    };
    let mut stream =
        TcpStream::connect_timeout(&address, PATIENCE).map_err(|error| fail(&error))?;
    stream
        .set_write_timeout(Some(PATIENCE))
        .and_then(|()| write!(stream, "GET /gpu HTTP/1.0\r\nHost: saker\r\n\r\n"))
        .map_err(|error| fail(&error))?;
    let bytes = answer(stream, PATIENCE).map_err(|error| fail(&error))?;
    let text = String::from_utf8_lossy(&bytes);
    match text.split_once("\r\n\r\n") {
        Some((head, body)) if head.split(' ').nth(1) == Some("200") => {
            let fields = head.lines().filter_map(|line| line.split_once(": "));
            let mut drivers = fields
                .filter(|(name, _)| name.eq_ignore_ascii_case(GPU_DRIVER.as_str()))
                .map(|(_, value)| value);
            Ok(Answer {
                rows: body.to_owned(),
                driver: drivers.next().unwrap_or_default().to_owned(),
            })
        }
        _ => Err(fail(&"the answer is none of an agent that watches GPUs")),
    }
}

/// Everything up to the end, at most so much and for so long, however slowly it comes.
fn answer(mut stream: TcpStream, time: Duration) -> io::Result<Vec<u8>> {
    let until = Instant::now() + time;
    let mut bytes = Vec::new();
    let mut piece = [0; 16_384];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let text = "the answer takes too long";
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        stream.set_read_timeout(Some(left))?;
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Ok(bytes);
        }
        bytes.extend_from_slice(&piece[..count]);
        if bytes.len() > ANSWER_BYTES_MAX {
            let text = format!("the answer has more than {ANSWER_BYTES_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
    }
}

/// A line for each GPU and each process on it.
fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "no GPU is watched on this node\n".to_owned();
    }
    let mut lines = vec![
        [
            "GPU", "UTIL", "TENSOR", "MEMORY", "POD", "PROCESS", "SINCE", "IDLE", "MINING",
        ]
        .map(str::to_owned),
    ];
    for row in rows {
        let percent = |share: Option<f32>| share.map_or("-".into(), |share| format!("{share:.0}%"));
        let process = row.process.as_ref();
        let memory = process.and_then(|process| process.mem).or(row.mem_used);
        let text = |of: fn(&RowProcess) -> String| process.map_or("-".into(), of);
        let util = match row.health.as_str() {
            "answers" => percent(process.and_then(|process| process.sm).or(row.util)),
            health => health.to_owned(),
        };
        lines.push([
            row.gpu.to_string(),
            util,
            percent(row.tensor),
            memory.map_or("-".into(), |bytes| {
                format!("{:.1}G", bytes as f64 / (1u64 << 30) as f64)
            }),
            text(|process| match process.pod.as_str() {
                "" if process.container.is_empty() => "-".into(),
                "" => process.container.clone(),
                pod => format!("{}/{pod}", process.namespace),
            }),
            text(|process| format!("{} ({})", process.name, process.pid)),
            text(|process| span(process.since_s)),
            text(|process| span(process.idle_s)),
            text(|process| format!("{} {:+}", process.mining, process.mining_score)),
        ]);
    }
    let mut widths = [0; 9];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in &lines {
        let mut shown = String::new();
        for (width, cell) in widths.iter().zip(line) {
            // What a process calls itself may hold anything, and this goes to a terminal.
            let cell: String = cell
                .chars()
                .map(|letter| if letter.is_control() { '?' } else { letter })
                .collect();
            let _ = write!(shown, "{cell:width$}  ");
        }
        text.push_str(shown.trim_end());
        text.push('\n');
    }
    text
}

fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        _ => format!("{}h{}m", seconds / 3_600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of an answer; `None`: nothing is said, and the connection stays open.
    fn told(said: Option<Vec<u8>>) -> Result<usize, String> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            let mut question = [0; 64];
            let count = stream.read(&mut question).expect("a question");
            assert!(question[..count].starts_with(b"GET /gpu "));
            let Some(said) = said else {
                // Until the other end gives up.
                let _ = stream.read(&mut question);
                return;
            };
            // Who has had enough closes.
            let _ = stream.write_all(&said);
        });
        let outcome = ask(address).and_then(|answer| rows(address, &answer.rows));
        server.join().expect("it ends");
        outcome
            .map(|rows| rows.len())
            .map_err(|failure| match failure {
                Failure::Machine(text) => text,
                other => panic!("{other:?}"),
            })
    }

    #[test]
    fn whoever_is_no_agent_is_named_and_not_waited_for() {
        let check = |said: &[u8], expected: Result<usize, &str>| {
            let found = told(Some(said.to_vec()));
            match (&found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(*found, expected),
                (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
                _ => panic!("{found:?}, not {expected:?}"),
            }
        };
        let ok = |body: &str| format!("HTTP/1.0 200 OK\r\n\r\n{body}").into_bytes();
        check(&ok("[]"), Ok(0));
        check(&ok("{}"), Err("does not answer as an agent"));
        check(&ok("[{\"gpu\": -1}]"), Err("does not answer as an agent"));
        check(&ok("[] trailing"), Err("does not answer as an agent"));
        check(b"HTTP/1.0 404 Not Found\r\n\r\n", Err("none of an agent"));
        check(b"SSH-2.0-OpenSSH_9.2\r\n", Err("none of an agent"));
        check(b"", Err("none of an agent"));
        check(
            &ok(&"[".repeat(ANSWER_BYTES_MAX)),
            Err("more than 8388608 bytes"),
        );
        let error = told(None).expect_err("it says nothing");
        assert!(
            error.contains("no running agent answers on 127.0.0.1:"),
            "{error}"
        );
    }

    #[test]
    fn a_driver_that_does_not_answer_is_named_with_its_reason() {
        let check = |driver: &str, expected: Option<&str>| {
            assert_eq!(unwatched(driver).as_deref(), expected, "{driver}");
        };
        check("", None);
        check("answering", None);
        check(
            "absent: the driver is not loaded",
            Some("no GPU is watched on this node: there is no driver (the driver is not loaded)"),
        );
        check(
            "hanging: a question\x1b[2J is open",
            Some("NO GPU IS WATCHED on this node: the driver hangs (a question[2J is open)"),
        );
        check(
            "failing",
            Some("NO GPU IS WATCHED on this node: the driver fails"),
        );
    }

    #[test]
    fn a_table_has_a_line_for_each_process_and_harmless_text() {
        assert_eq!(table(&[]), "no GPU is watched on this node\n");
        let row = Row {
            health: "answers".into(),
            util: Some(99.0),
            tensor: Some(0.0),
            process: Some(RowProcess {
                pid: 7,
                name: "x\x1b[2J".into(),
                pod: "p".into(),
                namespace: "ml".into(),
                sm: Some(98.0),
                mem: Some(6 << 30),
                since_s: 3_700,
                mining: "likely".into(),
                mining_score: 9,
                ..RowProcess::default()
            }),
            ..Row::default()
        };
        let lost = Row {
            gpu: 1,
            health: "lost".into(),
            ..Row::default()
        };
        let text = table(&[row, lost]);
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            lines[1..],
            [
                vec![
                    "0", "98%", "0%", "6.0G", "ml/p", "x?[2J", "(7)", "1h1m", "0s", "likely", "+9"
                ],
                vec!["1", "lost", "-", "-", "-", "-", "-", "-", "-"],
            ]
        );
    }
}
