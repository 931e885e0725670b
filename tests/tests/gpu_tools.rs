//! What `saker doctor` says of GPUs, with the stand-in for NVIDIA's library, and what `saker gpu` makes of an agent's answers.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};

use saker_tests::{
    nvml::{self, Gpu, Scenario},
    program,
};

fn doctor(folder: &Path, arguments: &[&str]) -> String {
    let shown = Command::new(program("saker"))
        .arg("doctor")
        .args(arguments)
        .env("LD_LIBRARY_PATH", folder)
        .env(nvml::FILE, folder.join("scenario"))
        .output()
        .expect("saker doctor runs");
    assert!(shown.status.success(), "{shown:?}");
    String::from_utf8(shown.stdout).expect("UTF-8")
}

#[test]
fn doctor_tells_of_gpus_of_none_and_of_a_driver_that_hangs() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.path();
    std::os::unix::fs::symlink(nvml::library(), folder.join("libnvidia-ml.so.1")).expect("a link");
    let play = |scenario: &Scenario| nvml::write(&folder.join("scenario"), scenario);
    let json = || -> serde_json::Value {
        let rows: serde_json::Value =
            serde_json::from_str(&doctor(folder, &["--json"])).expect("JSON");
        let rows = rows.as_array().expect("an array");
        let of_gpus: Vec<_> = rows.iter().filter(|row| row["kind"] == "gpu").collect();
        assert_eq!(of_gpus.len(), 1, "{rows:?}");
        assert!(rows.iter().any(|row| row["kind"] == "exec"), "{rows:?}");
        of_gpus[0].clone()
    };
    // A library without a driver.
    assert!(doctor(folder, &[]).contains("gpu          none that can be watched: "));
    let told = json();
    assert_eq!(
        (&told["hook"], &told["is_absent"]),
        (&().into(), &true.into())
    );

    let mut played = Scenario {
        driver: "550.54.15".into(),
        gpus: vec![
            Gpu::default(),
            Gpu {
                uuid: "GPU-b".into(),
                name: "NVIDIA A100-SXM4-80GB".into(),
                gpm: false,
                ..Gpu::default()
            },
        ],
        ..Scenario::default()
    };
    play(&played);
    let text = doctor(folder, &[]);
    assert!(text.contains("gpu          driver 550.54.15\n"), "{text}");
    assert!(
        text.contains(
            "gpu          1 NVIDIA A100-SXM4-80GB GPU-b: answers, no counters of arithmetic"
        ),
        "{text}"
    );
    let told = json();
    assert_eq!(told["hook"], "nvml");
    assert_eq!(told["driver"], "550.54.15");
    assert_eq!(told["gpus"][0]["counters"], true);
    assert_eq!(told["gpus"][1]["uuid"], "GPU-b");

    let hang = r#"{"call": "nvmlDeviceGetUtilizationRates", "hang": true}"#;
    played.faults = vec![serde_json::from_str(hang).expect("a fault")];
    play(&played);
    let told = json();
    assert_eq!(told["hook"], serde_json::Value::Null);
    assert_eq!(told["problem"], "the driver has not answered for 10s");
}

#[test]
fn doctor_looks_where_the_configuration_says() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.path();
    let scenario = Scenario {
        driver: "550.54.15".into(),
        gpus: vec![Gpu::default()],
        ..Scenario::default()
    };
    nvml::write(&folder.join("scenario"), &scenario);
    let config = folder.join("saker.yaml");
    let check = |text: &str, expected: &str| {
        fs::write(&config, text).expect("it is written");
        let shown = doctor(folder, &["--config", config.to_str().expect("UTF-8")]);
        assert!(shown.contains(expected), "{text}: {shown}");
    };
    // Where the loader looks there is none.
    let library = nvml::library();
    check(
        &format!("gpu: {{library: '{}'}}\n", library.display()),
        "gpu          driver 550.54.15\n",
    );
    check(
        "gpu: {enabled: false}\n",
        "gpu          none that can be watched: gpu.enabled is false",
    );
}

/// Is ended with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().expect("it runs");
        self.0.wait().expect("it ends");
    }
}

#[test]
fn the_table_is_shown_again_and_again_and_says_why_it_is_empty() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address").to_string();
    let row = r#"[{"gpu": 3, "uuid": "GPU-a", "name": "x", "health": "answers", "util": 97.0, "tensor": null,
        "mem_used": null, "mem_total": null, "power": null, "process": null}]"#;
    let answers = [
        ("hanging: a question is open", "[]"),
        ("failing: Unknown Error", "[]"),
        ("answering", row),
    ];
    let server = thread::spawn(move || {
        for (driver, rows) in answers {
            let (mut stream, _) = listener.accept().expect("accept");
            let mut question = [0; 1_024];
            let count = stream.read(&mut question).expect("a question");
            assert!(question[..count].starts_with(b"GET /gpu "));
            write!(
                stream,
                "HTTP/1.0 200 OK\r\nsaker-gpu-driver: {driver}\r\n\r\n{rows}"
            )
            .expect("it is told");
        }
    });
    let child = Command::new(program("saker"))
        .args(["gpu", "--watch", "--address", &address])
        .stdout(Stdio::piped())
        .spawn()
        .expect("saker gpu starts");
    let mut child = Running(child);
    let mut output = child.0.stdout.take().expect("it is piped");
    let mut shown = String::new();
    while !shown.contains("97%") {
        let mut piece = [0; 4_096];
        let count = output.read(&mut piece).expect("it can be read");
        assert!(count > 0, "it has ended: {shown}");
        shown.push_str(std::str::from_utf8(&piece[..count]).expect("UTF-8"));
    }
    server.join().expect("it ends");
    let pages: Vec<&str> = shown.split("\x1b[H\x1b[2J").skip(1).collect();
    assert_eq!(
        pages[..2],
        [
            "NO GPU IS WATCHED on this node: the driver hangs (a question is open)\n",
            "NO GPU IS WATCHED on this node: the driver fails (Unknown Error)\n",
        ]
    );
    assert!(pages[2].starts_with("GPU  UTIL  TENSOR"), "{shown}");
}
