//! gRPC from outside: clients in Python of code made from our proto files and from Falco's, and clients that mean harm.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    process::Command,
};

use saker_tests::{
    grpc::{Client, Served, certificates, expire, renew},
    root_or_skip,
    scenario::run,
    until,
};
use serde_json::{Value, json};

const RULES: &str = r"
- rule: Marked start
  desc: a start that a test makes
  condition: evt.type = execve and proc.args contains grpc-marker
  output: marked (args=%proc.args pid=%proc.pid)
  priority: ERROR
  tags: [marked, t1]
";

/// Starts a program with a marker among its arguments.
fn mark(marker: &str) {
    run(Command::new("true").arg(format!("grpc-marker-{marker}"))).expect("it runs");
}

fn alert_of<'a>(answers: &'a [Value], marker: &str) -> &'a Value {
    let is_it = |answer: &&Value| {
        let output = answer["alert"]["output"].as_str().unwrap_or_default();
        output.contains(&format!("grpc-marker-{marker}"))
    };
    let found = answers.iter().find(is_it);
    &found.unwrap_or_else(|| panic!("no alert of {marker}: {answers:?}"))["alert"]
}

/// Takes answers of a stream until one is an alert.
fn await_alert(call: &mut saker_tests::grpc::Call) -> Value {
    loop {
        let answer = call.answer().expect("the stream goes on");
        if answer["alert"].is_object() {
            return answer;
        }
    }
}

#[test]
fn a_python_client_of_our_protos_reads_everything() {
    if !root_or_skip() {
        return;
    }
    let mut served = Served::start("", RULES);
    let Some(client) = Client::saker(&served.address()) else {
        return;
    };
    let mode = fs::metadata(served.socket())
        .expect("the socket")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);

    let status = &client.call(&["status"])[0];
    assert_eq!(status["ready"], true, "{status}");
    let traced = status["probes"].as_array().expect("a list");
    let exec = traced
        .iter()
        .find(|probe| probe["kind"] == "exec")
        .expect("it is there");
    assert_eq!(exec["wanted"], true, "{exec}");
    assert!(
        !exec["hook"].as_str().unwrap_or_default().is_empty(),
        "{exec}"
    );

    let pages = client.call(&["rules", "2"]);
    let names: Vec<_> = pages
        .iter()
        .flat_map(|page| page["rules"].as_array().expect("a list"))
        .map(|rule| rule["name"].as_str().expect("a name").to_owned())
        .collect();
    assert!(
        pages.len() > 1
            && pages
                .iter()
                .all(|page| page["rules"].as_array().expect("a list").len() <= 2)
    );
    assert!(names.contains(&"Marked start".to_owned()), "{names:?}");
    assert_eq!(status["rules"]["active"], names.len(), "{status}");

    assert_eq!(
        client.call(&["health", "saker.v1.AgentService"])[0]["status"],
        "SERVING"
    );
    let services = &client.call(&["reflection"])[0];
    for service in [
        "saker.v1.AgentService",
        "falco.outputs.service",
        "grpc.health.v1.Health",
    ] {
        let found = services["services"].as_array().expect("a list");
        assert!(found.iter().any(|name| name == service), "{services}");
    }

    // From the first message on nothing is missed.
    let mut stream = client.begin(&["alerts", "{}", "3"]);
    let position = stream.answer().expect("a first message");
    assert!(position["position"].is_object(), "{position}");
    mark("one");
    mark("two");
    let first = await_alert(&mut stream);
    let alert = alert_of(std::slice::from_ref(&first), "one");
    assert_eq!(alert["rule"], "Marked start");
    assert_eq!(alert["priority"], "PRIORITY_ERROR");
    assert_eq!(alert["tags"], json!(["marked", "t1"]));
    assert!(
        alert["fields"]["proc.pid"]["integer"].is_string(),
        "{alert}"
    );
    let inside: Value = serde_json::from_str(alert["json"].as_str().expect("text")).expect("JSON");
    assert_eq!(inside["output"], alert["output"]);
    alert_of(&[await_alert(&mut stream)], "two");
    drop(stream);

    // And whoever comes again with the cursor goes on behind it.
    let cursor = &alert["cursor"];
    let again = json!({"resume_after": cursor, "no_follow": true}).to_string();
    let rest = client.call(&["alerts", &again, "0"]);
    alert_of(&rest, "two");
    assert!(
        !rest
            .iter()
            .any(|answer| answer["alert"]["cursor"] == *cursor),
        "{rest:?}"
    );
    let all = json!({"resume_after": "0", "no_follow": true}).to_string();
    alert_of(&client.call(&["alerts", &all, "0"]), "one");
    let since = json!({"since": alert["time"], "no_follow": true}).to_string();
    alert_of(&client.call(&["alerts", &since, "0"]), "one");
    let other = json!({"resume_after": "0", "no_follow": true, "filter": {"tags": ["other"]}});
    let none = client.call(&["alerts", &other.to_string(), "0"]);
    assert!(
        !none.iter().any(|answer| answer["alert"].is_object()),
        "{none:?}"
    );

    let condition = json!({
        "condition": "evt.type = execve and proc.args contains grpc-marker-three",
        "fields": ["proc.name", "proc.args", "proc.aname[99]"],
    });
    let mut events = client.begin(&["events", &condition.to_string(), "2"]);
    let started = events.answer().expect("a first message");
    let traced = started["started"]["traced"].as_array().expect("a list");
    assert!(traced.iter().any(|kind| kind == "execve"), "{started}");
    mark("other");
    mark("three");
    let event = events.answer().expect("an event");
    assert_eq!(event["event"]["type"], "execve", "{event}");
    assert_eq!(
        event["event"]["fields"]["proc.name"]["text"], "true",
        "{event}"
    );
    assert_eq!(
        event["event"]["fields"]["proc.aname[99]"]["null"],
        "NULL_VALUE_UNSPECIFIED"
    );
    served.agent.await_rule("Marked start", "three");
}

#[test]
fn wrong_and_oversized_calls_are_refused_and_the_agent_goes_on() {
    if !root_or_skip() {
        return;
    }
    let mut served = Served::start("", RULES);
    let Some(client) = Client::saker(&served.address()) else {
        return;
    };
    let events = |request: Value| client.refused(&["events", &request.to_string(), "1"]);
    assert_eq!(
        events(json!({"condition": "proc.nam = x"})),
        "INVALID_ARGUMENT"
    );
    assert_eq!(
        events(json!({"condition": "a ".repeat(4000)})),
        "INVALID_ARGUMENT"
    );
    assert_eq!(events(json!({"fields": ["no.such"]})), "INVALID_ARGUMENT");
    let alerts = |request: Value| client.refused(&["alerts", &request.to_string(), "1"]);
    assert_eq!(
        alerts(json!({"resume_after": u64::MAX.to_string()})),
        "OUT_OF_RANGE"
    );
    assert_eq!(
        alerts(json!({"filter": {"min_priority": 77}})),
        "INVALID_ARGUMENT"
    );
    assert_eq!(client.refused(&["unknown"]), "UNIMPLEMENTED");
    assert_eq!(client.refused(&["malformed"]), "INTERNAL");
    let code = client.refused(&["oversized"]);
    assert!(
        ["OUT_OF_RANGE", "RESOURCE_EXHAUSTED"].contains(&code.as_str()),
        "{code}"
    );
    // What is no HTTP/2 at all, and what stops in the middle.
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 4096],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"PRI * HTT",
    ] {
        let mut stream = UnixStream::connect(served.socket()).expect("it listens");
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
    }
    assert_eq!(client.call(&["status"])[0]["ready"], true);
    mark("after-all");
    served.agent.await_rule("Marked start", "after-all");
}

#[test]
fn a_client_of_falcos_protos_is_served() {
    if !root_or_skip() {
        return;
    }
    // Over TCP, with nothing that such a client does not do by itself.
    let mut served = Served::start("  tcp: {listen: '127.0.0.1:0'}", RULES);
    let address = tcp_address(&mut served, "without TLS");
    let Some(client) = Client::falco(&address) else {
        return;
    };
    let version = &client.call(&["version"])[0];
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"), "{version}");
    let mut subscription = client.begin(&["sub", "1"]);
    assert_eq!(subscription.answer(), Some(json!({"subscribed": true})));
    mark("falco");
    let alert = subscription.answer().expect("an alert");
    assert_eq!(alert["rule"], "Marked start", "{alert}");
    assert_eq!(alert["priority"], "ERROR", "{alert}");
    assert_eq!(alert["source"], "syscall", "{alert}");
    assert!(alert["output_fields"]["proc.pid"].is_string(), "{alert}");
    assert!(
        alert["time"].as_str().unwrap_or_default().starts_with("20"),
        "{alert}"
    );
    let of_marker = |alerts: &[Value]| {
        let is_it = |alert: &&Value| {
            alert["output"]
                .as_str()
                .unwrap_or_default()
                .contains("grpc-marker-falco")
        };
        alerts.iter().filter(is_it).count()
    };
    assert_eq!(of_marker(&client.call(&["get"])), 1);
    // Each alert once.
    assert_eq!(of_marker(&client.call(&["get"])), 0);
}

/// Where it serves gRPC over TCP, from the log line that says so.
fn tcp_address(served: &mut Served, how: &str) -> String {
    let line = served.agent.await_log(how);
    let address = line
        .split_whitespace()
        .find(|word| word.starts_with("127.0.0.1:"));
    let address = address.expect("the line names it");
    address.trim_end_matches(',').to_owned()
}

/// Memory of the process's own: pages of the program's file come back when they are needed, whoever connects.
fn own_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .expect("a line");
    line.trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("a number")
}

#[test]
fn a_thousand_connections_cost_nobody_else_anything() {
    if !root_or_skip() {
        return;
    }
    let mut served = Served::start("", RULES);
    let endpoint = served.agent.endpoint();
    let pid = served.agent.pid();
    let before = own_kib(pid);
    let connections: Vec<_> = (0..1000)
        .map(|_| UnixStream::connect(served.socket()).expect("the kernel takes it"))
        .collect();
    until("all are taken or refused", || {
        let count = |outcome: &str| {
            endpoint
                .metric("saker_grpc_connections_total", outcome)
                .unwrap_or(0.0)
        };
        count("accepted") + count("refused") >= 1000.0
    });
    let open = endpoint
        .metric("saker_grpc_connections_open", "")
        .expect("it is there");
    assert!(open <= 32.0, "{open} connections of one user");
    let grown = own_kib(pid).saturating_sub(before);
    assert!(
        grown < 16 << 10,
        "{grown} KiB for connections that say nothing"
    );
    // Detection does not notice.
    mark("crowded");
    served.agent.await_rule("Marked start", "crowded");
    // Who says nothing loses its place, also while it stays connected.
    until("places are free again", || {
        endpoint.metric("saker_grpc_connections_open", "") == Some(0.0)
    });
    if let Some(client) = Client::saker(&served.address()) {
        assert_eq!(client.call(&["status"])[0]["ready"], true);
    }
    drop(connections);
}

#[test]
fn clients_that_do_not_read_are_cut_off_and_the_sensor_loses_nothing_by_them() {
    if !root_or_skip() {
        return;
    }
    let mut served = Served::start(
        "  limits: {stuck_s: 1, watchers_max: 4, watcher_events_max: 64}",
        RULES,
    );
    let Some(client) = Client::saker(&served.address()) else {
        return;
    };
    let endpoint = served.agent.endpoint();
    let before = own_kib(served.agent.pid());
    let mut stuck = client.begin(&["stuck", "4"]);
    for _ in 0..4 {
        stuck.answer().expect("each stream begins");
    }
    assert_eq!(client.refused(&["events", "{}", "1"]), "RESOURCE_EXHAUSTED");
    let begun = endpoint
        .metric("saker_events_total", "execve")
        .unwrap_or(0.0);
    let nothing = saker_tests::program("nothing");
    let mut rounds = 0_u32;
    until("they are cut off", || {
        // More than a client's windows and the agent's queue hold.
        run(Command::new(saker_tests::program("exec_flood"))
            .arg("500")
            .arg(&nothing))
        .expect("it runs");
        rounds += 500;
        endpoint
            .metric("saker_grpc_cut_off_total", "")
            .is_some_and(|count| count > 0.0)
    });
    until("their places are free", || {
        endpoint.metric("saker_watchers", "") == Some(0.0)
    });
    let dropped = endpoint
        .metric("saker_watched_events_total", "dropped")
        .unwrap_or(0.0);
    assert!(
        dropped > 0.0,
        "nothing was dropped for clients that do not read"
    );
    until("all events were evaluated", || {
        let seen = endpoint
            .metric("saker_events_total", "execve")
            .unwrap_or(0.0)
            - begun;
        seen >= f64::from(rounds)
    });
    let grown = own_kib(served.agent.pid()).saturating_sub(before);
    assert!(
        grown < 32 << 10,
        "{grown} KiB for four clients that do not read"
    );
    drop(stuck);
    let stopped = served.agent.stop();
    saker_tests::agent::assert_books_close(&stopped);
    let losses = stopped
        .log
        .iter()
        .filter(|line| line.contains("events were lost"))
        .count();
    assert_eq!(losses, 0, "{:?}", stopped.log);
}

#[test]
fn over_tcp_only_clients_with_a_certificate_of_ours_are_served() {
    if !root_or_skip() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    certificates(folder.path());
    let at = |name: &str| folder.path().join(name).display().to_string();
    let mut served = Served::start(
        &format!(
            "  tcp:\n    listen: 127.0.0.1:0\n    tls: {{certificate: {}, key: {}, client_ca: {}}}",
            at("server.pem"),
            at("server.key"),
            at("ca.pem")
        ),
        RULES,
    );
    let address = tcp_address(&mut served, "with TLS");
    if let Some(client) = Client::saker(&address) {
        let client = client.with_certificates(folder.path());
        assert_eq!(client.call(&["status"])[0]["ready"], true);
        // Not what SIGHUP does, unless it is allowed.
        assert_eq!(client.refused(&["reload"]), "PERMISSION_DENIED");
        let nobody = tempfile::tempdir().expect("a temporary folder");
        fs::copy(at("ca.pem"), nobody.path().join("ca.pem")).expect("a copy");
        let client = client.with_certificates(nobody.path());
        assert_eq!(client.refused(&["status"]), "UNAVAILABLE");
    }
    let alerts = |arguments: &[&str]| {
        Command::new(saker_tests::program("saker"))
            .args(["alerts", "--no-follow", "--address", &address])
            .args(arguments)
            .output()
            .expect("it starts")
    };
    let own = [
        "--certificate",
        &at("client.pem"),
        "--key",
        &at("client.key"),
    ];
    let with = |more: &[&str]| alerts(&[&own[..], more].concat());
    let good = with(&["--ca", &at("ca.pem")]);
    assert!(
        good.status.success(),
        "{}",
        String::from_utf8_lossy(&good.stderr)
    );
    let check = |output: std::process::Output, expected: &str| {
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{stderr}");
        assert!(stderr.contains(expected), "no {expected:?} in {stderr}");
    };
    check(with(&["--ca", &at("other.pem")]), "UnknownIssuer");
    check(
        with(&["--ca", &at("ca.pem"), "--server-name", "elsewhere"]),
        "not valid for name",
    );
    let endpoint = served.agent.endpoint();
    until("a failed handshake is counted", || {
        endpoint
            .metric("saker_grpc_connections_total", "handshake_failed")
            .is_some_and(|count| count > 0.0)
    });
}

#[test]
fn what_is_at_the_socket_is_only_removed_if_it_is_a_stale_socket() {
    if !root_or_skip() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let socket = folder.path().join("saker.sock");
    let config = folder.path().join("saker.yaml");
    let text = format!(
        "http: {{enabled: false}}\ngrpc: {{unix: {{path: {}}}}}\n",
        socket.display()
    );
    fs::write(&config, text).expect("the configuration is written");
    let start = || saker_tests::Agent::start_with(&config, &[]);

    fs::write(&socket, "precious").expect("a file");
    let mut agent = start();
    agent.await_log("it is left alone");
    agent.stop();
    assert_eq!(
        fs::read_to_string(&socket).expect("it is there"),
        "precious"
    );

    fs::remove_file(&socket).expect("it is there");
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("a socket"));
    let mut first = start();
    first.await_log("gRPC on unix:");
    let mut second = start();
    second.await_log("another process listens there");
    second.stop();
    UnixStream::connect(&socket).expect("the first still listens");
    first.stop();
    assert!(!socket.exists(), "it goes with its agent");
}

#[test]
fn certificates_expire_and_are_renewed_under_a_running_agent() {
    if !root_or_skip() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    certificates(folder.path());
    expire(folder.path(), "server");
    let at = |name: &str| folder.path().join(name).display().to_string();
    let mut served = Served::start(
        &format!(
            "  tcp:\n    listen: 127.0.0.1:0\n    tls: {{certificate: {}, key: {}, client_ca: {}}}\nreload: {{watch_files: false}}",
            at("server.pem"),
            at("server.key"),
            at("ca.pem")
        ),
        RULES,
    );
    let address = tcp_address(&mut served, "with TLS");
    let endpoint = served.agent.endpoint();
    let alerts = || {
        let (ca, certificate, key) = (at("ca.pem"), at("client.pem"), at("client.key"));
        let output = Command::new(saker_tests::program("saker"))
            .args(["alerts", "--no-follow", "--address", &address])
            .args(["--ca", &ca, "--certificate", &certificate, "--key", &key])
            .output()
            .expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    let reloads = |outcome: &str| endpoint.metric("saker_reloads_total", outcome);
    let failed = || endpoint.metric("saker_grpc_connections_total", "handshake_failed");

    let (code, said) = alerts();
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("certificate expired"), "{said}");

    // What is new is half of what it must be: the old one stays, and everybody is told.
    let good = fs::read(at("server.key")).expect("it is there");
    fs::copy(at("client.key"), at("server.key")).expect("a copy");
    renew(folder.path(), "server");
    served.agent.signal(libc::SIGHUP);
    let line = served.agent.await_log("not reloaded");
    assert!(
        line.contains("server.key") && line.contains("fit"),
        "{line}"
    );
    assert_eq!(reloads("failed"), Some(1.0));
    let (_, said) = alerts();
    assert!(said.contains("certificate expired"), "{said}");

    fs::write(at("server.key"), good).expect("it is written");
    served.agent.signal(libc::SIGHUP);
    until("it is reloaded", || {
        endpoint.metric("saker_reload_failed", "") == Some(0.0)
    });
    let (code, said) = alerts();
    assert_eq!(code, Some(0), "{said}");

    let before = failed();
    expire(folder.path(), "client");
    let (code, said) = alerts();
    assert_eq!(code, Some(3), "{said}");
    assert!(said.to_lowercase().contains("expired"), "{said}");
    let line = served.agent.await_log("TLS handshake");
    assert!(line.contains("127.0.0.1"), "{line}");
    until("it is counted", || failed() > before);
}
