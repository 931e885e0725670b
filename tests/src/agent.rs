//! A running `saker run` or `saker record`, its alerts and its log lines.

use std::{
    io::{BufRead as _, BufReader, Read},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::Endpoint;

/// Long enough for an emulated guest on a loaded machine of two cores; a test that waits this long has failed.
pub const DEADLINE: Duration = Duration::from_secs(240);

/// The agent, started for one test and stopped at its end.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
    /// Everything read so far, for messages and for alerts that came while another was awaited.
    alerts: Vec<Value>,
    log: Vec<String>,
    _config: tempfile::TempDir,
}

impl Agent {
    /// Starts the agent with further arguments of `saker run` and waits until it detects.
    pub fn start(args: &[&str]) -> Self {
        Self::start_from(&crate::program("saker"), args)
    }

    /// Starts it with a configuration of the test's own.
    pub fn start_with(config: &Path, args: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut agent = Self::spawn_with(&crate::program("saker"), "run", config, args, folder);
        agent.await_log("watching");
        agent
    }

    /// Starts `saker record` with alerts, and waits until it detects. Without a configuration every key has its default.
    pub fn record(capture: &Path, config: Option<&Path>, args: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let none = folder.path().join("none.yaml");
        std::fs::write(&none, "alerts: {window_s: 0}\n").expect("the configuration is written");
        let capture = capture.to_str().expect("a path of text");
        let args = [&["--output", capture, "--alerts"], args].concat();
        let config = config.unwrap_or(&none);
        let program = crate::program("saker");
        let mut agent = Self::spawn_with(&program, "record", config, &args, folder);
        agent.await_log("watching");
        agent
    }

    /// The same with a binary from elsewhere.
    pub fn start_from(program: &Path, args: &[&str]) -> Self {
        let mut agent = Self::spawn(program, args);
        agent.await_log("watching");
        agent
    }

    /// Starts it without waiting. Metrics go to a port that the kernel picks, and gRPC nowhere, so that agents can run side by side.
    fn spawn(program: &Path, args: &[&str]) -> Self {
        let config = tempfile::tempdir().expect("a temporary folder");
        let file = config.path().join("saker.yaml");
        // Tests look for each alert, and some make thousands of one rule.
        let text = "http: {listen: '127.0.0.1:0'}\nalerts: {window_s: 0}\ngrpc: {unix: {enabled: false}}\n";
        std::fs::write(&file, text).expect("the configuration is written");
        Self::spawn_with(program, "run", &file, args, config)
    }

    fn spawn_with(
        program: &Path,
        command: &str,
        file: &Path,
        args: &[&str],
        config: tempfile::TempDir,
    ) -> Self {
        let mut child = Command::new(program)
            .arg(command)
            .arg("--config")
            .arg(file)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the agent starts");
        let stdout = lines(child.stdout.take().expect("stdout is piped"));
        let stderr = lines(child.stderr.take().expect("stderr is piped"));
        Self {
            child,
            stdout,
            stderr,
            alerts: Vec::new(),
            log: Vec::new(),
            _config: config,
        }
    }

    /// Where it serves metrics and health, from the log line that says so.
    pub fn endpoint(&mut self) -> Endpoint {
        let line = self.await_log("http://");
        let (_, rest) = line.split_once("http://").expect("it was awaited");
        let end = rest
            .find(|c: char| c == '/' || c.is_whitespace())
            .expect("the address ends");
        Endpoint {
            address: rest[..end].to_owned(),
        }
    }

    /// The agent's pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a log line that contains a text and returns it.
    pub fn await_log(&mut self, text: &str) -> String {
        let deadline = Instant::now() + DEADLINE;
        if let Some(line) = self.log.iter().find(|line| line.contains(text)) {
            return line.clone();
        }
        loop {
            match self
                .stderr
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) => {
                    self.log.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(why) => panic!(
                    "no log line with {text:?} ({why:?}); the log:\n{}",
                    self.log.join("\n")
                ),
            }
        }
    }

    /// Forgets the log lines so far: the next that is awaited is a new one.
    pub fn forget_log(&mut self) {
        self.log.extend(self.stderr.try_iter());
        self.log.clear();
    }

    /// Waits for an alert that fits; alerts seen before count.
    pub fn await_alert(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + DEADLINE;
        if let Some(alert) = self.alerts.iter().find(|alert| fits(alert)) {
            return alert.clone();
        }
        loop {
            match self
                .stdout
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) => {
                    let alert: Value = serde_json::from_str(&line).unwrap_or_else(|error| {
                        panic!("stdout has a line that is no JSON ({error}): {line}")
                    });
                    self.alerts.push(alert.clone());
                    if fits(&alert) {
                        return alert;
                    }
                }
                Err(why) => {
                    self.log.extend(self.stderr.try_iter());
                    let seen: Vec<_> = self.alerts.iter().map(|alert| alert.to_string()).collect();
                    panic!(
                        "no alert of {what} ({why:?}); alerts:\n{}\nlog:\n{}",
                        seen.join("\n"),
                        self.log.join("\n")
                    );
                }
            }
        }
    }

    /// Waits for an alert of a rule whose text holds a marker that only the test's own act has.
    pub fn await_rule(&mut self, rule: &str, marker: &str) -> Value {
        self.await_alert(&format!("{rule:?} with {marker:?}"), |alert| {
            alert["rule"] == rule
                && alert["output"]
                    .as_str()
                    .is_some_and(|output| output.contains(marker))
        })
    }

    /// Every alert so far, without waiting.
    pub fn alerts(&mut self) -> &[Value] {
        let new: Vec<_> = self
            .stdout
            .try_iter()
            .map(|line| serde_json::from_str(&line).expect("stdout holds JSON lines"))
            .collect();
        self.alerts.extend(new);
        &self.alerts
    }

    /// Asks it to stop, waits for its end, and returns exit status, all alerts and the whole log.
    pub fn stop(mut self) -> Stopped {
        let ended = self.child.try_wait().expect("the child is ours");
        assert!(ended.is_none(), "the agent ended by itself: {ended:?}");
        self.signal(libc::SIGTERM);
        let status = self.await_end();
        let mut alerts = std::mem::take(&mut self.alerts);
        alerts.extend(
            self.stdout
                .iter()
                .map(|line| serde_json::from_str(&line).expect("stdout holds JSON lines")),
        );
        let mut log = std::mem::take(&mut self.log);
        log.extend(self.stderr.iter());
        Stopped {
            status,
            alerts,
            log,
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).expect("a pid is a positive i32");
        // SAFETY: kill takes two numbers; the child was not waited for, so the pid is still its own.
        let sent = unsafe { libc::kill(pid, signal) };
        assert_eq!(sent, 0, "{}", std::io::Error::last_os_error());
    }

    fn await_end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().expect("the child is ours") {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "the agent does not stop; log:\n{}",
                self.log.join("\n")
            );
            thread::yield_now();
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a stopped agent left.
#[derive(Debug)]
pub struct Stopped {
    /// How it ended.
    pub status: ExitStatus,
    /// Every alert it wrote.
    pub alerts: Vec<Value>,
    /// Every log line.
    pub log: Vec<String>,
}

impl Stopped {
    /// What it said of losses, and its books: what a test shows that misses an alert.
    pub fn losses(&self) -> Vec<&String> {
        let lines = self.log.iter();
        lines
            .filter(|line| line.contains("lost") || line.contains("stopped: "))
            .collect()
    }
}

/// Whether an alert is of priority WARNING or above.
pub fn is_alarm(alert: &Value) -> bool {
    let priority = alert["priority"].as_str().unwrap_or_default();
    ["Emergency", "Alert", "Critical", "Error", "Warning"].contains(&priority)
}

/// The alerts of a container at WARNING or above.
pub fn alarms<'a>(alerts: &'a [Value], cgroup: &crate::Cgroup) -> Vec<&'a Value> {
    let is_of = |alert: &Value| alert["output_fields"]["container.id"] == cgroup.short_id();
    alerts
        .iter()
        .filter(|alert| is_alarm(alert) && is_of(alert))
        .collect()
}

fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    // The reader must not block on the test, and a test's agent writes little: unbounded is right here.
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Asserts that the summary of a stopped agent accounts for every event: seen = delivered + filtered + lost.
pub fn assert_books_close(stopped: &Stopped) {
    let summary = stopped
        .log
        .iter()
        .find(|line| line.contains("stopped: "))
        .unwrap_or_else(|| panic!("no summary: {:?}", stopped.log));
    let number = |name: &str| -> u64 {
        let rest = summary.split(&format!(" {name}=")).nth(1);
        let digits = rest.and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
        digits
            .and_then(|digits| digits.parse().ok())
            .unwrap_or_else(|| panic!("no {name} in {summary}"))
    };
    assert_eq!(
        number("seen"),
        number("delivered") + number("filtered") + number("lost"),
        "{summary}"
    );
}
