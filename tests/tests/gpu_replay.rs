//! Looks at GPUs are recorded with everything else: a replay comes to the same verdict, without a GPU, a library or the processes.

use std::{
    fs,
    process::{Child, Command},
};

use saker_tests::{
    Agent,
    nvml::{self, Gpu, Play, Process, Scenario, Workload},
    program, root_or_skip,
};
use serde_json::Value;

/// Ends with this value.
struct Sleeper(Child);

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.0.kill().expect("it runs");
        self.0.wait().expect("it ends");
    }
}

#[test]
fn a_replay_comes_to_the_same_verdict_on_a_gpu() {
    if !root_or_skip() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.path();
    let miner = folder.join("t-rex");
    fs::copy("/bin/sleep", &miner).expect("it is copied");
    let sleeper = Command::new(&miner).arg("1000").spawn();
    let sleeper = Sleeper(sleeper.expect("it starts"));
    let pid = sleeper.0.id();
    let scenario = folder.join("scenario");
    nvml::write(
        &scenario,
        &Scenario {
            gpus: vec![Gpu {
                processes: vec![Process {
                    pid,
                    play: Play::of(Workload::Kawpow, 1),
                    from_s: 0.0,
                    until_s: None,
                    instance: None,
                    graphics: false,
                }],
                ..Gpu::default()
            }],
            ..Scenario::default()
        },
    );
    // SAFETY: the only test of this program; nothing else reads the environment meanwhile.
    unsafe { std::env::set_var(nvml::FILE, &scenario) };
    let config = folder.join("saker.yaml");
    let text = format!(
        "http: {{enabled: false}}\ngrpc: {{unix: {{enabled: false}}}}\nalerts: {{window_s: 0}}\n\
         gpu: {{interval_s: 1, retry_s: 1, library: '{}', mining_observe_s: 10}}\n",
        nvml::library().display()
    );
    fs::write(&config, text).expect("the configuration is written");
    let capture = folder.join("capture");
    let mut agent = Agent::record(&capture, Some(&config), &[]);
    let is_it = |alert: &Value| {
        let fields = &alert["output_fields"];
        alert["rule"] == "GPU is used for mining" && fields["proc.pid"] == pid
    };
    let alert = agent.await_alert("mining", is_it);
    let evidence = alert["output_fields"]["mining.evidence"].to_string();
    assert!(
        evidence.contains("gpu.integer") && evidence.contains("process.miner-name"),
        "{evidence}"
    );
    let stopped = agent.stop();
    drop(sleeper);
    // What the library would say now.
    fs::remove_file(&scenario).expect("it is removed");

    let output = Command::new(program("saker"))
        .args(["replay", "--config"])
        .arg(&config)
        .arg(&capture)
        .output()
        .expect("it starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let replayed: Vec<Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert!(replayed.iter().any(is_it), "{stderr}");
    assert_eq!(replayed, stopped.alerts, "{stderr}");
    assert!(!stderr.contains("not recorded"), "{stderr}");
}
