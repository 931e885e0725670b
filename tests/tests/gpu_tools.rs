//! What `saker doctor` says of GPUs: with the stand-in for NVIDIA's library where the loader finds the real one.

use std::{path::Path, process::Command};

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
