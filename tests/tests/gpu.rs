//! A miner on a GPU from end to end: a real container, the stand-in for NVIDIA's library, one alert.

use std::{
    io::Read as _,
    net::{TcpListener, UdpSocket},
    path::Path,
    process::Command,
    thread,
};

use saker_tests::{
    Agent, Containerd,
    containerd::Wanted,
    make_device,
    nvml::{self, Gpu, Play, Process, Scenario, Workload},
    program, repository, until,
};

const IMAGE: &str = "registry.internal/worker:v1";

/// Answers every question with 127.0.0.74.
fn name_server() {
    let socket = UdpSocket::bind("127.0.0.75:53").expect("the port is free");
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query) {
            let mut answer = query[..length].to_vec();
            answer[2..4].copy_from_slice(&[0x81, 0x80]);
            let is_ipv4 = answer[..length].ends_with(&[0, 1, 0, 1]);
            answer[6..8].copy_from_slice(&u16::from(is_ipv4).to_be_bytes());
            if is_ipv4 {
                answer.extend(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x7f\0\0\x4a");
            }
            let _ = socket.send_to(&answer, from);
        }
    });
}

/// Takes what anybody says first, and closes. Returns the port.
fn pool() -> u16 {
    let listener = TcpListener::bind("127.0.0.75:0").expect("an address");
    let port = listener.local_addr().expect("it is bound").port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // A client that is gone already has said it all the same.
            let _ = stream.read(&mut [0; 512]);
        }
    });
    port
}

/// The process of a container that sleeps, in the host's pid namespace.
fn sleeper(cgroup: &str) -> Option<u32> {
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    let procs = roots
        .iter()
        .find_map(|root| std::fs::read_to_string(format!("{root}{cgroup}/cgroup.procs")).ok())?;
    procs.lines().find_map(|pid| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        (name.trim() == "sleep").then(|| pid.parse().ok())?
    })
}

fn config(folder: &Path, containerd: &Containerd) -> std::path::PathBuf {
    let path = folder.join("saker.yaml");
    // Other packs ask for names and connections wherever they are.
    let packs = ["gpu-access", "gpu-usage", "mining"].map(|pack| {
        let file = format!("rules/packs/{pack}/{pack}.yaml");
        repository().join(file).display().to_string()
    });
    let text = format!(
        "http: {{listen: '127.0.0.1:0'}}\n\
         containers: {{cri_sockets: ['{}'], docker_sockets: [], hold_ms: 10000}}\n\
         gpu: {{interval_s: 1, retry_s: 1, library: '{}', mining_observe_s: 10}}\n\
         rules: {{paths: {packs:?}}}\n",
        containerd.socket().display(),
        nvml::library().display()
    );
    std::fs::write(&path, text).expect("the configuration is written");
    path
}

#[test]
fn a_miner_in_a_pod_raises_one_alert_with_its_evidence() {
    let Some(containerd) = Containerd::start_or_skip() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let scenario = folder.path().join("scenario");
    // SAFETY: the only test of this program; nothing else reads the environment meanwhile.
    unsafe { std::env::set_var(nvml::FILE, &scenario) };
    let mut played = Scenario {
        driver: "550.54.15".into(),
        gpus: vec![Gpu::default()],
        ..Scenario::default()
    };
    name_server();
    let node = folder.path().join("nvidia0");
    make_device(&node, 195, 0);
    containerd.import(IMAGE, &["/bin/sh"]);
    let mut agent = Agent::start_with(&config(folder.path(), &containerd), &[]);
    let endpoint = agent.endpoint();
    // Without a driver nothing is asked of the kernel side that serves GPUs alone; once there is one, without a restart.
    let is_traced = |kind: &str| {
        let metrics = endpoint.get("/metrics");
        metrics.contains(&format!("saker_probe_attached{{kind=\"{kind}\""))
    };
    until("no driver is seen", || {
        endpoint.metric("saker_gpu_driver_state", "state=\"absent\"") == Some(1.0)
    });
    assert!(is_traced("exec"));
    // A machine with a card has its real driver, which counts though another library is looked at.
    let has_driver = Path::new("/proc/driver/nvidia/version").exists();
    assert_eq!([is_traced("tls"), is_traced("dns")], [has_driver; 2]);
    nvml::write(&scenario, &played);
    until("the GPU is seen", || {
        endpoint.metric("saker_gpu_driver_state", "state=\"answering\"") == Some(1.0)
    });
    assert!(is_traced("tls") && is_traced("dns"));

    let pod = containerd.pod("worker-0", &[("app", "web")], &[]);
    let node = node.to_str().expect("UTF-8");
    let script = format!(
        "cat /dev/nvidia0; nslookup eu1.ethermine.org 127.0.0.75; \
         echo '{{\"id\":1,\"method\":\"mining.subscribe\",\"params\":[\"x/1\"]}}' | nc 127.0.0.75 {}; exec /bin/sleep 1000",
        pool()
    );
    let id = containerd.run(
        &pod,
        &Wanted {
            name: "main",
            image: IMAGE,
            command: &["/bin/sh", "-c", &script],
            devices: &[(node, "/dev/nvidia0")],
            ..Wanted::default()
        },
    );
    agent.await_alert("the GPU's node opened", |alert| {
        alert["rule"] == "GPU opened outside the approved images"
            && alert["output_fields"]["container.id"] == id[..12]
    });
    let cgroup = containerd.cgroup_of(&pod, &id);
    until("the container has asked its question", || {
        sleeper(&cgroup).is_some()
    });
    played.gpus[0].processes.push(Process {
        pid: sleeper(&cgroup).expect("it sleeps"),
        play: Play::of(Workload::Kheavyhash, 1),
        from_s: 0.0,
        until_s: None,
        instance: None,
        graphics: false,
    });
    nvml::write(&scenario, &played);

    let is_of_mining = |alert: &serde_json::Value| alert["rule"] == "GPU is used for mining";
    let alert = agent.await_alert("mining", is_of_mining);
    let fields = &alert["output_fields"];
    assert_eq!(fields["k8s.pod.name"], "worker-0", "{alert}");
    assert_eq!(fields["k8s.ns.name"], "ml", "{alert}");
    assert_eq!(
        fields["container.image.repository"], "registry.internal/worker",
        "{alert}"
    );
    assert_eq!(fields["container.id"], id[..12], "{alert}");
    assert_eq!(fields["proc.name"], "sleep", "{alert}");
    assert!(
        fields["gpu.util"].as_f64().is_some_and(|util| util > 95.0),
        "{alert}"
    );
    let evidence = fields["mining.evidence"].to_string();
    assert!(
        evidence.contains("network.pool-name: eu1.ethermine.org by DNS"),
        "{alert}"
    );
    assert!(evidence.contains("process.no-runtime"), "{alert}");
    assert!(
        evidence.contains("network.stratum: mining.subscribe"),
        "{alert}"
    );

    // Once the GPU has been seen long enough, what it does is evidence as well.
    let rows = || -> serde_json::Value {
        let shown = Command::new(program("saker"))
            .args(["gpu", "--json", "--address", &endpoint.address])
            .output()
            .expect("saker gpu runs");
        assert!(shown.status.success(), "{shown:?}");
        serde_json::from_slice(&shown.stdout).expect("JSON")
    };
    until("what the GPU does is evidence", || {
        let process = &rows()[0]["process"];
        process["evidence"].to_string().contains("gpu.integer")
            && process["pod"] == "worker-0"
            && process["mining"] == "near certain"
    });
    let owner = "namespace=\"ml\",pod=\"worker-0\",container=\"main\",app=\"web\"";
    assert!(
        endpoint
            .metric("saker_gpu_owner_mining_score", owner)
            .is_some_and(|score| score >= 12.0)
    );
    assert_eq!(
        endpoint.metric("saker_gpu_utilization_ratio", owner),
        Some(1.0)
    );
    let stopped = agent.stop();
    let mining = stopped
        .alerts
        .iter()
        .filter(|alert| is_of_mining(alert))
        .count();
    assert_eq!(mining, 1, "{:#?}", stopped.alerts);
}
