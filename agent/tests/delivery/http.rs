//! The web server that fails, hangs, comes back, refuses, redirects; TLS that must not be trusted; tokens that vanish.

use saker::sink::http::{Server as Target, Settings};

use super::{
    alert, counts, finish, in_memory, number, parse,
    server::{Answer, Authority, Server, Told, server_config},
    start, until,
};

fn target(url: &str, more: &str) -> Target {
    let settings: Settings = parse(&format!(
        "{{name: http, url: '{url}', timeout_s: 1, {more}}}"
    ));
    settings.check().expect("it is right");
    Target::new(settings)
}

fn status(status: u16) -> Answer {
    Answer::Status(status, Vec::new())
}

fn taken(told: &Told) -> Vec<u64> {
    let bodies = told.taken();
    bodies.iter().filter_map(|body| number(body)).collect()
}

#[tokio::test]
async fn alerts_come_as_falco_sends_them() {
    let server = Server::start(None, Told::default(), None).await;
    let (log, metrics) = in_memory();
    let target = target(
        &format!("http://{}/in", server.address),
        "headers: {X-Site: a}",
    );
    let sink = start(&log, "http", target, &metrics);
    log.append((1..=20).map(alert).collect());
    assert_eq!(finish(&log, vec![sink]).await, 0);
    let seen = server.told.seen();
    assert_eq!(taken(&server.told), (1..=20).collect::<Vec<_>>());
    let header = |name: &str| seen[0].headers[name].to_str().expect("text").to_owned();
    assert_eq!(header("content-type"), "application/json");
    assert_eq!(
        (header("x-site").as_str(), header("host")),
        ("a", server.address.to_string())
    );
    let keys: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&seen[0].body).expect("one object");
    let keys: Vec<_> = keys.keys().map(String::as_str).collect();
    let falcos = [
        "hostname",
        "output",
        "output_fields",
        "priority",
        "rule",
        "source",
        "tags",
        "time",
    ];
    assert_eq!(keys, falcos);
}

/// Every status: taken, tried again until it is taken, or refused for good.
#[tokio::test]
async fn every_status_is_answered_for() {
    const REFUSED: [u16; 4] = [400, 413, 415, 422];
    let server = Server::start(None, Told::default(), None).await;
    let statuses: Vec<u16> = (200..600)
        .filter(|status| ![204, 205, 304].contains(status))
        .collect();
    for &code in &statuses {
        let answer = server.told.clone();
        answer.seen.lock().expect("no panic").clear();
        server.told.next([status(code)]);
        let (log, metrics) = in_memory();
        let target = target(&format!("http://{}/", server.address), "");
        let sink = start(&log, "http", target, &metrics);
        log.append(vec![alert(1), alert(2)]);
        assert_eq!(finish(&log, vec![sink]).await, 0, "{code}");
        let seen: Vec<_> = server
            .told
            .seen()
            .iter()
            .map(|seen| (seen.status, number(&seen.body)))
            .collect();
        let (expected, counted) = match code {
            200..300 => (vec![(code, Some(1)), (200, Some(2))], [2, 0, 0, 0]),
            _ if REFUSED.contains(&code) => (vec![(code, Some(1)), (200, Some(2))], [1, 1, 1, 0]),
            _ => (
                vec![(code, Some(1)), (200, Some(1)), (200, Some(2))],
                [2, 1, 0, 0],
            ),
        };
        assert_eq!(
            (seen, counts(&metrics, "http")),
            (expected, counted),
            "{code}"
        );
    }
    assert!(statuses.len() > 390);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let server = Server::start(None, Told::default(), None).await;
    let elsewhere = Server::start(None, Told::default(), None).await;
    let to = format!("http://{}/", elsewhere.address);
    server
        .told
        .next([Answer::Status(307, vec![("location", to)])]);
    let (log, metrics) = in_memory();
    let target = target(&format!("http://{}/", server.address), "");
    let sink = start(&log, "http", target, &metrics);
    log.append(vec![alert(1)]);
    finish(&log, vec![sink]).await;
    assert_eq!(
        (taken(&server.told), elsewhere.told.seen().len()),
        (vec![1], 0)
    );
}

#[tokio::test]
async fn a_server_that_fails_hangs_floods_and_comes_back_gets_everything_in_order() {
    let told = Told::default();
    let server = Server::start(None, told.clone(), None).await;
    let address = server.address;
    let (log, metrics) = in_memory();
    let sink = start(
        &log,
        "http",
        target(&format!("http://{address}/"), ""),
        &metrics,
    );
    let busy = Answer::Status(503, vec![("retry-after", "1".into())]);
    told.next([busy, Answer::Hang, status(500), Answer::Endless]);
    log.append((1..=5).map(alert).collect());
    until("five are taken", || taken(&told).len() >= 5).await;
    drop(server);
    log.append((6..=9).map(alert).collect());
    let failed = counts(&metrics, "http")[1];
    until("nobody is there", || counts(&metrics, "http")[1] > failed).await;
    let _server = Server::start(Some(address), told.clone(), None).await;
    assert_eq!(finish(&log, vec![sink]).await, 0);
    let mut numbers = taken(&told);
    numbers.dedup();
    assert_eq!(numbers, (1..=9).collect::<Vec<_>>());
}

#[tokio::test]
async fn batches_are_arrays_and_the_alert_at_fault_is_found() {
    let server = Server::start(None, Told::default(), None).await;
    *server.told.refuse.lock().expect("no panic") = Some("number=13)".into());
    let (log, metrics) = in_memory();
    let more = "batch_max: 64, gzip: true";
    let target = target(&format!("http://{}/", server.address), more);
    let sink = start(&log, "http", target, &metrics);
    log.append((1..=80).map(alert).collect());
    finish(&log, vec![sink]).await;
    let mut numbers = Vec::new();
    for body in server.told.taken() {
        let alerts: Vec<serde_json::Value> = serde_json::from_str(&body).expect("an array");
        numbers.extend(alerts.iter().filter_map(|alert| number(&alert.to_string())));
    }
    let expected: Vec<_> = (1..=80).filter(|number| *number != 13).collect();
    assert_eq!((numbers, counts(&metrics, "http")[2]), (expected, 1));
}

#[tokio::test]
async fn what_cannot_be_trusted_gets_nothing_and_the_log_says_why() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let good = authority.sign("good", &["127.0.0.1", "localhost"], false);
    let over = authority.sign("over", &["127.0.0.1"], true);
    let other = authority.sign("other", &["elsewhere.example"], false);
    let unknown = stranger.sign("unknown", &["127.0.0.1"], false);
    let check =
        async |files: &(std::path::PathBuf, std::path::PathBuf), more: &str, expected: &str| {
            let tls = server_config(&files.0, &files.1, None);
            let server = Server::start(None, Told::default(), Some(tls)).await;
            let more = format!("tls: {{ca_file: {}{more}}}", authority.ca().display());
            let mut target = target(&format!("https://{}/", server.address), &more);
            let message = message();
            let progress = saker::sink::deliver::Target::deliver(&mut target, &[message]).await;
            let said = format!("{:?}", progress.failure);
            if expected.is_empty() {
                assert_eq!((progress.done, progress.failure), (1, None));
            } else {
                assert!(
                    progress.done == 0 && said.contains(expected),
                    "{said} lacks {expected:?}"
                );
                assert_eq!(server.told.seen().len(), 0);
            }
        };
    check(&good, "", "").await;
    check(&over, "", "expired").await;
    check(&other, "", "not valid for name").await;
    check(&other, ", server_name: elsewhere.example", "").await;
    check(&unknown, "", "UnknownIssuer").await;
}

fn message() -> saker::sink::deliver::Message {
    let record = alert(1);
    saker::sink::deliver::Message {
        cursor: 1,
        text: record.json.to_string(),
        record: record.into(),
    }
}

#[tokio::test]
async fn a_server_that_asks_who_we_are_is_told() {
    let authority = Authority::new();
    let (cert, key) = authority.sign("server", &["127.0.0.1"], false);
    let (own_cert, own_key) = authority.sign("client", &["node"], false);
    let tls = server_config(&cert, &key, Some(&authority.ca()));
    let server = Server::start(None, Told::default(), Some(tls)).await;
    let url = format!("https://{}/", server.address);
    let ca = authority.ca();
    let deliver = async |more: &str| {
        let mut target = target(&url, &format!("tls: {{ca_file: {}{more}}}", ca.display()));
        saker::sink::deliver::Target::deliver(&mut target, &[message()]).await
    };
    assert_eq!(deliver("").await.done, 0, "without a certificate of ours");
    let own = format!(
        ", cert_file: {}, key_file: {}",
        own_cert.display(),
        own_key.display()
    );
    let progress = deliver(&own).await;
    assert_eq!((progress.done, progress.failure), (1, None));
    std::fs::remove_file(&own_key).expect("it is ours");
    let failure = format!("{:?}", deliver(&own).await.failure);
    assert!(failure.contains("client.key"), "{failure}");
}

#[tokio::test]
async fn a_token_that_vanishes_holds_alerts_back_until_it_returns() {
    let server = Server::start(None, Told::default(), None).await;
    let folder = tempfile::tempdir().expect("a folder");
    let token = folder.path().join("token");
    std::fs::write(&token, "one\n").expect("it is written");
    let more = format!("token_file: {}", token.display());
    let (log, metrics) = in_memory();
    let sink = start(
        &log,
        "http",
        target(&format!("http://{}/", server.address), &more),
        &metrics,
    );
    log.append(vec![alert(1)]);
    until("the first is taken", || taken(&server.told) == [1]).await;
    std::fs::remove_file(&token).expect("it is ours");
    log.append(vec![alert(2)]);
    until("it is missed", || counts(&metrics, "http")[1] > 0).await;
    assert_eq!(taken(&server.told), [1]);
    std::fs::write(&token, "two").expect("it is written");
    finish(&log, vec![sink]).await;
    let tokens: Vec<_> = server
        .told
        .seen()
        .iter()
        .map(|seen| {
            seen.headers["authorization"]
                .to_str()
                .expect("text")
                .to_owned()
        })
        .collect();
    assert_eq!(
        (taken(&server.told), tokens),
        (vec![1, 2], vec!["Bearer one".into(), "Bearer two".into()])
    );
}

/// Begins each answer as told and goes on with the same for as long as anybody takes it.
fn endless(beginning: &'static [u8], more: &'static [u8]) -> std::net::SocketAddr {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("some port is free");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(beginning);
                let more = more.repeat(1 + 60_000 / more.len());
                while stream.write_all(&more).is_ok() {}
            });
        }
    });
    address
}

/// On one thread: what one server does to its sink it would do to all else.
#[tokio::test]
async fn answers_that_never_end_are_given_up() {
    use saker::sink::deliver::{Failure, Message, Target as _};
    let cases: [(&[u8], &[u8], &str); 4] = [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", "no answer within"),
        (b"HTTP/1.1 200 OK\r\n", b"X-More: and more\r\n", "head"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"y", "head"),
        (
            b"HTTP/1.1 503 Busy\r\nRetry-After: 99999999999999999999\r\n\r\n",
            b"z",
            "503",
        ),
    ];
    for (beginning, more, expected) in cases {
        let address = endless(beginning, more);
        let mut target = target(&format!("http://{address}/?key=secret"), "");
        let record = alert(1);
        let message = Message {
            cursor: 1,
            text: record.json.to_string(),
            record: record.into(),
        };
        let progress = target.deliver(&[message]).await;
        let Some(Failure::Retry { why, .. }) = progress.failure else {
            panic!("{expected}: {progress:?}");
        };
        assert!(
            why.contains(expected) && !why.contains("secret"),
            "{why} lacks {expected:?}"
        );
    }
}
