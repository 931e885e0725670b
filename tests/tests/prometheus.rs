//! Prometheus itself: it reads the metrics, has nothing to complain of them, and fires an alert that is shipped.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Child, Command, Stdio},
};

use saker_tests::{Endpoint, grpc::Served, repository, root_or_skip, skip, until};

const PROMETHEUS: &str = "/usr/bin/prometheus";
const PROMTOOL: &str = "/usr/bin/promtool";

fn is_there() -> bool {
    let is_there = Path::new(PROMETHEUS).exists() && Path::new(PROMTOOL).exists();
    if !is_there {
        skip("Prometheus is not installed: cargo xtask setup");
    }
    is_there
}

fn promtool(arguments: &[&str], input: &str) {
    let mut child = Command::new(PROMTOOL)
        .args(arguments)
        .current_dir(repository())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    child
        .stdin
        .take()
        .expect("stdin is piped")
        .write_all(input.as_bytes())
        .expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "promtool {arguments:?}: {said}\n{input}"
    );
    if arguments[0] == "check" && arguments[1] == "metrics" {
        assert!(said.trim().is_empty(), "promtool complains: {said}");
    }
}

#[test]
fn shipped_alert_rules_are_sound_and_fire_when_they_should() {
    if !is_there() {
        return;
    }
    promtool(
        &["check", "rules", "deploy/prometheus/saker-alerts.yaml"],
        "",
    );
    promtool(
        &["test", "rules", "deploy/prometheus/saker-alerts_test.yaml"],
        "",
    );
}

/// Stopped with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn prometheus_reads_the_metrics_and_a_shipped_alert_fires() {
    if !root_or_skip() || !is_there() {
        return;
    }
    let rules = "- rule: R\n  desc: d\n  condition: evt.type = execve and proc.name = true\n  output: r\n  priority: DEBUG\n";
    let mut served = Served::start("reload: {watch_files: false}", rules);
    let agent = served.agent.endpoint();
    // Something of everything: a match, and with it what appears late.
    assert!(Command::new("true").status().expect("it runs").success());
    served.agent.await_rule("R", "");
    until("the sensor has published", || {
        agent.metric("saker_events_total", "execve").is_some()
    });
    let answer = agent.get("/metrics");
    let (_, text) = answer.split_once("\r\n\r\n").expect("a body");
    promtool(&["check", "metrics"], text);

    let folder = served.folder.path();
    let config = folder.join("prometheus.yml");
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        free.local_addr().expect("it has one").port()
    };
    fs::write(
        &config,
        format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{}]\nscrape_configs:\n- job_name: saker\n  static_configs: [{{targets: ['{}']}}]\n",
            repository().join("deploy/prometheus/saker-alerts.yaml").display(),
            agent.address
        ),
    )
    .expect("the configuration is written");
    let _running = Running(
        Command::new(PROMETHEUS)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--log.level=error")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Prometheus starts"),
    );
    let prometheus = Endpoint {
        address: format!("127.0.0.1:{port}"),
    };
    until("Prometheus answers", || {
        std::net::TcpStream::connect(&prometheus.address).is_ok()
    });
    let has = |path: &str, text: &str| prometheus.get(path).contains(text);
    until("the agent is scraped", || {
        has("/api/v1/query?query=up%7Bjob=%22saker%22%7D", ",\"1\"]")
    });
    // As a counter, with what the agent counts.
    until("a counter has its value", || {
        has(
            "/api/v1/query?query=saker_rule_matches_total%7Brule=%22R%22%7D%3E0",
            "\"rule\":\"R\"",
        )
    });
    assert!(has(
        "/api/v1/metadata?metric=saker_rule_matches",
        "\"counter\""
    ));
    assert!(!has("/api/v1/alerts", "SakerReloadFailed"));
    fs::write(folder.join("rules.yaml"), "- rule: [").expect("the rules are written");
    served.agent.signal(libc::SIGHUP);
    until("the alert fires", || {
        let alerts = prometheus.get("/api/v1/alerts");
        alerts.contains("SakerReloadFailed") && alerts.contains("\"state\":\"firing\"")
    });
}
