//! The agent, with a rule that tells of every process on a GPU, at every look.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::Duration,
};

use serde_json::Value;

/// Alerts that wait for this program; more are not needed.
const QUEUE: usize = 1_024;

const CONFIG: &str = "\
http: {enabled: false}
grpc: {unix: {enabled: false}}
alerts: {window_s: 0}
gpu: {interval_s: 1, retry_s: 1, mining_observe_s: 30}
";

const RULES: &str = "\
- rule: Process on a GPU
  desc: Everything that is known of it, for the check on a real card.
  condition: evt.type = gpu and gpu.proc.seen in (driver, both)
  output: >
    %proc.pid %proc.name %gpu.index %gpu.uuid %gpu.util %gpu.mem.used %gpu.power %gpu.temperature %gpu.sm %gpu.tensor %gpu.integer
    %gpu.fp32 %gpu.dram %gpu.proc.util %gpu.proc.mem %gpu.proc.seen %mining.suspected %mining.score %mining.evidence
  priority: NOTICE
";

/// A running agent; ends with this value.
pub struct Agent {
    child: Child,
    alerts: Receiver<Value>,
}

impl Agent {
    /// Starts it; its log goes where this program's errors go.
    pub fn start(program: &Path, folder: &Path) -> Result<Self, String> {
        let (config, rules) = (folder.join("saker.yaml"), folder.join("rules.yaml"));
        for (path, text) in [(&config, CONFIG), (&rules, RULES)] {
            fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        let started = Command::new(program)
            .args(["run", "--config"])
            .arg(&config)
            .arg("--rules")
            .arg(&rules)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn();
        let mut child = started.map_err(|error| format!("{}: {error}", program.display()))?;
        let (send, alerts) = mpsc::sync_channel(QUEUE);
        if let Some(out) = child.stdout.take() {
            thread::spawn(move || {
                for line in BufReader::new(out).lines().map_while(Result::ok) {
                    // What is no alert is none of this program's business; nobody listens any more at the end.
                    if let Ok(alert) = serde_json::from_str(&line)
                        && send.send(alert).is_err()
                    {
                        return;
                    }
                }
            });
        }
        Ok(Self { child, alerts })
    }

    /// The next alert, if one comes in this time.
    pub fn next(&mut self, time: Duration) -> Result<Option<Value>, String> {
        match self.alerts.recv_timeout(time) {
            Ok(alert) => Ok(Some(alert)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                Err("the agent ended; its log above says why".into())
            }
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        super::stop(&mut self.child);
    }
}
