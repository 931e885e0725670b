//! SIGKILL at random moments under load: what the log acknowledged reaches every sink, and only what was under way comes twice.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use saker::sink::{
    file::{FileTarget, Settings as FileSettings},
    http::{Server as HttpTarget, Settings as HttpSettings},
};

use super::{
    alert, finish, number, open, parse,
    server::{Server, Told},
    start,
};

/// Where the agent of a round works, and the web server's address.
const FOLDER: &str = "SAKER_TEST_CRASH_FOLDER";
const SERVER: &str = "SAKER_TEST_CRASH_SERVER";
/// Set for the last one, which only delivers.
const LAST: &str = "SAKER_TEST_CRASH_LAST";

/// What a sink reads at once, and so what may come twice.
const BATCH: u64 = 256;

fn rounds() -> u64 {
    let wanted = std::env::var("SAKER_TEST_CRASH_ROUNDS").ok();
    wanted.and_then(|rounds| rounds.parse().ok()).unwrap_or(200)
}

/// Not a test of its own: the process that is killed. Offers alerts and notes those that the log has acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_that_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        return;
    };
    let server = std::env::var(SERVER).expect("the test says where");
    let (log, metrics) = open(&folder);
    let out = folder.join("out.jsonl");
    let file: FileSettings = parse(&format!("{{name: file, path: {}}}", out.display()));
    let http: HttpSettings = parse(&format!(
        "{{name: http, url: 'http://{server}/', batch_max: 100}}"
    ));
    let sinks = vec![
        start(&log, "file", FileTarget::new(file), &metrics),
        start(&log, "http", HttpTarget::new(http), &metrics),
    ];
    if std::env::var_os(LAST).is_some() {
        assert_eq!(finish(&log, sinks).await, 0);
        return;
    }
    let offered = folder.join("offered");
    let mut next: u64 = fs::read_to_string(&offered)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1);
    let mut acknowledged = OpenOptions::new()
        .append(true)
        .create(true)
        .open(folder.join("acknowledged"))
        .expect("it opens");
    let mut newest = log.follow();
    loop {
        let last = next + 19;
        // First: a number is never offered twice.
        fs::write(offered.with_extension("new"), (last + 1).to_string()).expect("it is written");
        fs::rename(offered.with_extension("new"), &offered).expect("it is ours");
        let cursor = log.append((next..=last).map(alert).collect());
        assert!(newest.reaches(cursor).await, "the log is open");
        acknowledged
            .write_all(format!("{next} {last}\n").as_bytes())
            .expect("it is written");
        next = last + 1;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn agent(folder: &Path, server: &Server) -> Command {
    let mut agent = Command::new(std::env::current_exe().expect("a running program has a path"));
    agent
        .args(["--exact", "crash::the_agent_that_is_killed", "--nocapture"])
        .env(FOLDER, folder)
        .env(SERVER, server.address.to_string())
        .stdout(Stdio::null())
        .stderr(File::create(folder.join("stderr")).expect("it is made"));
    agent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigkill_at_any_moment_loses_nothing_that_was_acknowledged() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(None, Told::default(), None).await;
    let rounds = rounds();
    // Like chance, and the same each time.
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    for _ in 0..rounds {
        let mut agent = agent(folder.path(), &server).spawn().expect("it starts");
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // From before the log is open to well under load.
        thread::sleep(Duration::from_millis(10 + state % 300));
        agent.kill().expect("it is ours");
        let status = agent.wait().expect("it is ours");
        assert_eq!(status.signal(), Some(9), "{}", stderr(folder.path()));
    }
    let begun = Instant::now();
    let last = agent(folder.path(), &server)
        .env(LAST, "1")
        .status()
        .expect("it starts");
    assert!(last.success(), "{}", stderr(folder.path()));
    let catching_up = begun.elapsed();

    let text = fs::read_to_string(folder.path().join("acknowledged")).expect("some were");
    let acknowledged: Vec<u64> = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .flat_map(|(first, last)| {
            first.parse().expect("a number")..=last.parse::<u64>().expect("a number")
        })
        .collect();
    assert!(
        acknowledged.len() as u64 > rounds * 20,
        "{} alerts",
        acknowledged.len()
    );
    let file = fs::read_to_string(folder.path().join("out.jsonl")).expect("it was written");
    let by_file: Vec<u64> = file.lines().filter_map(number).collect();
    let by_http: Vec<u64> = server
        .told
        .taken()
        .iter()
        .flat_map(|body| {
            let alerts: Vec<serde_json::Value> = serde_json::from_str(body).expect("an array");
            let numbers = alerts
                .into_iter()
                .filter_map(|alert| number(&alert.to_string()));
            numbers.collect::<Vec<_>>()
        })
        .collect();
    for (sink, had) in [("file", by_file), ("http", by_http)] {
        let distinct: std::collections::BTreeSet<u64> = had.iter().copied().collect();
        let lost: Vec<_> = acknowledged
            .iter()
            .filter(|number| !distinct.contains(number))
            .collect();
        assert!(lost.is_empty(), "{sink} never had {lost:?}");
        let twice = (had.len() - distinct.len()) as u64;
        println!(
            "{sink}: {rounds} rounds, {} acknowledged, {} delivered, {twice} twice; catching up took {catching_up:?}",
            acknowledged.len(),
            had.len()
        );
        assert!(twice <= rounds * BATCH, "{sink}: {twice} came twice");
        // In order, each time from where it was: what is new is newer than all before.
        let mut newest = 0;
        let mut back = 0;
        for number in had {
            if number > newest {
                newest = number;
            } else {
                assert!(newest - number < BATCH, "{sink}: {number} after {newest}");
                back += 1;
            }
        }
        assert_eq!(back, twice, "{sink}: out of order");
    }
}

fn stderr(folder: &Path) -> String {
    fs::read_to_string(folder.join("stderr")).unwrap_or_default()
}
