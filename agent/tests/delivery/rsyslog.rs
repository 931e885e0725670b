//! A real rsyslog over TLS: it takes what we send, whole and in order, and is not sent anything where its certificate is wrong.

use std::{
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use saker::sink::syslog::{Receiver, Settings};

use super::{alert, counts, finish, in_memory, number, parse, server::Authority, start, until};

const PROGRAM: &str = "/usr/sbin/rsyslogd";

struct Rsyslog {
    child: Child,
    folder: tempfile::TempDir,
    port: u16,
}

impl Rsyslog {
    async fn start(authority: &Authority, names: &[&str], is_over: bool) -> Self {
        let (cert, key) = authority.sign("rsyslog", names, is_over);
        let (ca, cert, key) = (authority.ca(), cert.display(), key.display());
        let driver = format!(
            r#"defaultNetstreamDriver="gtls" defaultNetstreamDriverCAFile="{}"
  defaultNetstreamDriverCertFile="{cert}" defaultNetstreamDriverKeyFile="{key}""#,
            ca.display()
        );
        let module =
            r#"streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="anon""#;
        Self::start_with(&driver, module, None).await
    }

    /// Without TLS, at some port or at one that it had before.
    async fn start_plain(port: Option<u16>) -> Self {
        Self::start_with("", "", port).await
    }

    async fn start_with(driver: &str, module: &str, port: Option<u16>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = TcpListener::bind("127.0.0.1:0").expect("some port is free");
        let free = listener.local_addr().expect("it is bound").port();
        drop(listener);
        let port = port.unwrap_or(free);
        let path = folder.path().display();
        let config = format!(
            r#"global(workDirectory="{path}" maxMessageSize="64k" {driver})
module(load="imtcp" {module})
input(type="imtcp" port="{port}" address="127.0.0.1")
template(name="line" type="string" string="%pri% %app-name% %hostname% %msg%\n")
action(type="omfile" file="{path}/out" template="line")
"#
        );
        let file = folder.path().join("rsyslog.conf");
        std::fs::write(&file, config).expect("it is written");
        let child = Command::new(PROGRAM)
            .args(["-n", "-i", "NONE", "-f"])
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.path().join("log")).expect("it is made"))
            .spawn()
            .expect("it starts");
        let server = Self {
            child,
            folder,
            port,
        };
        until("rsyslog listens", || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        })
        .await;
        server
    }

    fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.folder.path().join("out"));
        text.unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for Rsyslog {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_missing() -> bool {
    let driver = PathBuf::from("/usr/lib/x86_64-linux-gnu/rsyslog/lmnsd_gtls.so");
    let is_missing = !Path::new(PROGRAM).exists() || !driver.exists();
    if is_missing {
        saker_tests::skip("no rsyslog with TLS");
    }
    is_missing
}

fn target(port: u16, tls: &str) -> Receiver {
    let yaml = format!(
        "{{name: syslog, transport: tls, address: '127.0.0.1:{port}', timeout_s: 5, tls: {{{tls}}}}}"
    );
    let settings: Settings = parse(&yaml);
    settings.check().expect("it is right");
    Receiver::new(settings, "node-1")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rsyslog_gets_every_alert_over_tls() {
    if is_missing() {
        return;
    }
    let authority = Authority::new();
    let server = Rsyslog::start(&authority, &["127.0.0.1"], false).await;
    let (log, metrics) = in_memory();
    let tls = format!("ca_file: {}", authority.ca().display());
    let sink = start(&log, "syslog", target(server.port, &tls), &metrics);
    log.append((1..=1000).map(alert).collect());
    assert_eq!(finish(&log, vec![sink]).await, 0);
    until("it has written them", || server.lines().len() >= 1000).await;
    let lines = server.lines();
    // local0.warning
    let beginning = "132 saker node-1 ";
    let numbers: Vec<_> = lines
        .iter()
        .map(|line| line.strip_prefix(beginning).and_then(number))
        .collect();
    assert_eq!(numbers, (1..=1000).map(Some).collect::<Vec<_>>());
    assert_eq!(counts(&metrics, "syslog"), [1000, 0, 0, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rsyslog_with_a_wrong_certificate_gets_nothing() {
    if is_missing() {
        return;
    }
    let (authority, stranger) = (Authority::new(), Authority::new());
    let cases = [
        (&authority, &["127.0.0.1"][..], true, "expired"),
        (
            &authority,
            &["elsewhere.example"][..],
            false,
            "not valid for name",
        ),
        (&stranger, &["127.0.0.1"][..], false, "UnknownIssuer"),
    ];
    for (signer, names, is_over, expected) in cases {
        let server = Rsyslog::start(signer, names, is_over).await;
        let tls = format!("ca_file: {}", authority.ca().display());
        let mut target = target(server.port, &tls);
        let record = alert(1);
        let message = saker::sink::deliver::Message {
            cursor: 1,
            text: record.json.to_string(),
            record: record.into(),
        };
        let progress = saker::sink::deliver::Target::deliver(&mut target, &[message]).await;
        let said = format!("{:?}", progress.failure);
        assert!(
            progress.done == 0 && said.contains(expected),
            "{said} lacks {expected:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rsyslog_gets_every_alert_over_plain_tcp_also_after_it_was_away() {
    if is_missing() {
        return;
    }
    let server = Rsyslog::start_plain(None).await;
    let yaml = format!(
        "{{name: syslog, transport: tcp, address: 'localhost:{}', timeout_s: 5}}",
        server.port
    );
    let settings: Settings = parse(&yaml);
    settings.check().expect("it is right");
    let (log, metrics) = in_memory();
    let sink = start(&log, "syslog", Receiver::new(settings, "node-1"), &metrics);
    let numbers = |server: &Rsyslog| -> Vec<_> {
        let of = |line: &String| line.strip_prefix("132 saker node-1 ").and_then(number);
        server.lines().iter().map(of).collect()
    };
    log.append((1..=500).map(alert).collect());
    until("it has written them", || server.lines().len() >= 500).await;
    assert_eq!(numbers(&server), (1..=500).map(Some).collect::<Vec<_>>());
    let port = server.port;
    drop(server);
    log.append((501..=1000).map(alert).collect());
    until("it is noticed", || counts(&metrics, "syslog")[1] > 0).await;
    let server = Rsyslog::start_plain(Some(port)).await;
    assert_eq!(finish(&log, vec![sink]).await, 0);
    until("it has written them", || {
        numbers(&server).last() == Some(&Some(1000))
    })
    .await;
    // What the first one's kernel took and it did not read is lost with it: syslog knows no acknowledgement.
    let numbers = numbers(&server);
    let first = numbers[0].expect("an alert");
    assert!(numbers.len() > 100, "{} came", numbers.len());
    assert_eq!(numbers, (first..=1000).map(Some).collect::<Vec<_>>());
    assert_eq!(counts(&metrics, "syslog")[0], 1000);
}
