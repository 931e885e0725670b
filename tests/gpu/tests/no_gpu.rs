//! Without a GPU the check says that nothing was checked, and is no success.

use std::{path::Path, process::Command};

#[test]
fn a_machine_without_a_gpu_is_skipped_and_says_so() {
    if Path::new("/proc/driver/nvidia/version").exists() {
        return eprintln!("skipped: there is an NVIDIA driver here; run saker-gpu-check itself");
    }
    let run = |arguments: &[&str]| {
        let ended = Command::new(env!("CARGO_BIN_EXE_saker-gpu-check"))
            .args(arguments)
            .output()
            .expect("it starts");
        let error = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(ended.stdout.is_empty(), "{ended:?}");
        (ended.status.code(), error)
    };
    let (code, error) = run(&[]);
    assert_eq!(code, Some(77), "{error}");
    assert!(
        error.contains("nothing was checked") && error.contains("libcuda.so.1"),
        "{error}"
    );
    let (code, error) = run(&["--load", "hash"]);
    assert_eq!(code, Some(1), "{error}");
    assert!(
        error.contains("the load hash cannot be made: libcuda.so.1"),
        "{error}"
    );
    let (code, error) = run(&["--seconds", "3"]);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("40..=3600"), "{error}");
}
