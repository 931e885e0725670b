//! A real nats-server with JetStream: acknowledged, de-duplicated by the alert's id, away and back.

use std::{
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use async_nats::jetstream;
use saker::sink::nats::{JetStream, Settings};

use super::{DEADLINE, alert, counts, finish, in_memory, parse, server::Authority, start, until};

const PROGRAM: &str = "/usr/sbin/nats-server";

struct Nats(Child);

impl Nats {
    fn start(folder: &Path, port: u16, more: &[&str]) -> Self {
        let child = Command::new(PROGRAM)
            .args(["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd"])
            .arg(folder)
            .args(more)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        Self(child)
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn is_missing() -> bool {
    let is_missing = !Path::new(PROGRAM).exists();
    if is_missing {
        saker_tests::skip("no nats-server");
    }
    is_missing
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("some port is free");
    listener.local_addr().expect("it is bound").port()
}

fn target(port: u16, more: &str) -> JetStream {
    let yaml =
        format!("{{name: nats, servers: ['nats://127.0.0.1:{port}'], timeout_s: 2, {more}}}");
    let settings: Settings = parse(&yaml);
    settings.check().expect("it is right");
    JetStream::new(settings, "node.one")
}

async fn context(port: u16) -> jetstream::Context {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        match async_nats::connect(format!("127.0.0.1:{port}")).await {
            Ok(client) => return jetstream::new(client),
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn messages(context: &jetstream::Context) -> u64 {
    let stream = context.get_stream("alerts").await.expect("it was made");
    stream.cached_info().state.messages
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_gets_every_alert_once_though_its_server_goes_and_comes() {
    if is_missing() {
        return;
    }
    let (folder, port) = (tempfile::tempdir().expect("a folder"), free_port());
    let (log, metrics) = in_memory();
    let sink = start(
        &log,
        "nats",
        target(port, "create_stream: alerts"),
        &metrics,
    );
    log.append((1..=300).map(alert).collect());
    until("nobody is there", || counts(&metrics, "nats")[1] > 0).await;
    let server = Nats::start(folder.path(), port, &[]);
    until("300 are there", || counts(&metrics, "nats")[0] == 300).await;
    drop(server);
    log.append((301..=600).map(alert).collect());
    let failed = counts(&metrics, "nats")[1];
    until("it is gone", || counts(&metrics, "nats")[1] > failed).await;
    let _server = Nats::start(folder.path(), port, &[]);
    assert_eq!(finish(&log, vec![sink]).await, 0);
    let context = context(port).await;
    assert_eq!(messages(&context).await, 600);

    // The same alerts again, as after a crash: the stream knows them.
    let (log, metrics) = in_memory();
    let sink = start(&log, "nats", target(port, ""), &metrics);
    log.append((550..=610).map(alert).collect());
    assert_eq!(finish(&log, vec![sink]).await, 0);
    assert_eq!(messages(&context).await, 610);
    let stream = context.get_stream("alerts").await.expect("it was made");
    let first = stream.get_raw_message(1).await.expect("it is there");
    assert_eq!(first.subject.as_str(), "saker.alerts.warning.node_one");
    let id = first
        .headers
        .get("Nats-Msg-Id")
        .expect("it has one")
        .to_string();
    assert_eq!(id, format!("{:032x}", 1));
    assert_eq!(
        super::number(&String::from_utf8_lossy(&first.payload)),
        Some(1)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_stream_is_made_unasked_and_what_is_too_long_is_a_dead_letter() {
    if is_missing() {
        return;
    }
    let (folder, port) = (tempfile::tempdir().expect("a folder"), free_port());
    let _server = Nats::start(folder.path(), port, &[]);
    let context = context(port).await;
    let (log, metrics) = in_memory();
    let sink = start(&log, "nats", target(port, ""), &metrics);
    log.append(vec![alert(1)]);
    until("no stream takes it", || counts(&metrics, "nats")[1] > 0).await;
    let config = jetstream::stream::Config {
        name: "alerts".into(),
        subjects: vec!["saker.>".into()],
        ..Default::default()
    };
    context.create_stream(config).await.expect("it is made");
    let mut huge = alert(2);
    huge.json = format!("{{\"x\":\"{}\"}}", "y".repeat(2 << 20)).into();
    log.append(vec![huge, alert(3)]);
    assert_eq!(finish(&log, vec![sink]).await, 0);
    assert_eq!(
        (messages(&context).await, counts(&metrics, "nats")[2]),
        (2, 1)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_tls_and_a_token_takes_alerts_of_who_trusts_it_and_knows_the_token() {
    if is_missing() {
        return;
    }
    let (folder, port) = (tempfile::tempdir().expect("a folder"), free_port());
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (cert, key) = authority.sign("nats", &["127.0.0.1"], false);
    let config = folder.path().join("nats.conf");
    let text = format!(
        "authorization {{ token: \"t0ken\" }}\ntls {{ cert_file: \"{}\", key_file: \"{}\" }}\n",
        cert.display(),
        key.display()
    );
    std::fs::write(&config, text).expect("it is written");
    let config = config.to_str().expect("text").to_owned();
    let _server = Nats::start(folder.path(), port, &["-c", &config]);
    let token = folder.path().join("token");
    std::fs::write(&token, "t0ken\n").expect("it is written");
    let wrong = folder.path().join("wrong");
    std::fs::write(&wrong, "another\n").expect("it is written");
    let (log, metrics) = in_memory();
    let with = |ca: &Authority, token: &Path| {
        let more = format!(
            "create_stream: alerts, tls: {{ca_file: {}}}, token_file: {}",
            ca.ca().display(),
            token.display()
        );
        target(port, &more)
    };
    let untrusted = start(&log, "untrusted", with(&stranger, &token), &metrics);
    let unknown = start(&log, "unknown", with(&authority, &wrong), &metrics);
    let good = start(&log, "good", with(&authority, &token), &metrics);
    log.append((1..=5).map(alert).collect());
    until("the good one delivers", || counts(&metrics, "good")[0] == 5).await;
    for sink in ["untrusted", "unknown"] {
        until(sink, || counts(&metrics, sink)[1] > 1).await;
        assert_eq!(counts(&metrics, sink)[0], 0, "{sink}");
    }
    for sink in [untrusted, unknown, good] {
        sink.abort();
    }
}
