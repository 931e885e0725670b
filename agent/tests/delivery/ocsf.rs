//! Findings of whole alerts, against the published schema.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use saker::sink::ocsf::finding;
use serde_json::json;

use super::alert;

/// What carries the schema that findings are checked against.
const SCHEMA: &str = "pydantic-ocsf==3.0.0";

/// A Python that has the schema, made once and kept in the user's cache.
fn python() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    let folder = cache.join("saker/ocsf-schema-3.0.0");
    let python = folder.join("bin/python3");
    let has_schema = |python: &Path| {
        let import = [
            "-c",
            "import importlib.util as u, sys; sys.exit(u.find_spec('ocsf') is None)",
        ];
        Command::new(python)
            .args(import)
            .output()
            .is_ok_and(|done| done.status.success())
    };
    if has_schema(&python) {
        return Some(python);
    }
    let made = Command::new("/usr/bin/python3")
        .args(["-m", "venv", "--clear"])
        .arg(&folder)
        .output();
    if !made.is_ok_and(|made| made.status.success()) {
        return None;
    }
    let pip = Command::new(&python)
        .args(["-m", "pip", "install", "--quiet", "--no-deps", SCHEMA])
        .output();
    (pip.is_ok_and(|done| done.status.success()) && has_schema(&python)).then_some(python)
}

#[test]
fn a_finding_of_every_kind_is_what_the_published_schema_says() {
    use std::{io::Write as _, process::Stdio};
    let Some(python) = python() else {
        saker_tests::skip("no pydantic-ocsf, which carries the schema of OCSF");
        return;
    };
    let process = json!({
        "proc.pid": 42, "proc.name": "python3", "proc.exepath": "/usr/bin/python3", "thread.tid": 43, "proc.cwd": "/work",
        "proc.cmdline": "python3 train.py", "proc.pid.ts": 1_700_000_000_000_000_000_i64, "saker.process_uid": "0123456789abcdef",
        "proc.ppid": 41, "proc.pname": "sh", "proc.pexepath": "/bin/sh", "proc.pcmdline": "sh -c x",
        "proc.apid[2]": 1, "proc.aname[2]": "tini", "proc.aexepath[2]": "/sbin/tini",
        "user.uid": 0, "user.name": "root", "group.gid": 0, "group.name": "root",
    });
    let container = json!({
        "container.id": "0123456789ab", "container.full_id": "0123456789ab0123", "container.name": "trainer",
        "container.image.repository": "docker.io/ml/train", "container.image.tag": "1", "container.image.digest": "sha256:00",
        "container.type": "containerd", "k8s.ns.name": "ml", "k8s.pod.name": "train-0",
        "k8s.pod.uid": "6a0d2f7e-2f9c-4c55-9d6a-0f4f5a3b1c2d",
    });
    let exec = json!({"evt.type": "execve"});
    let open = json!({"evt.type": "openat", "fd.name": "/models/a.pt", "fd.typechar": "f"});
    let device = json!({"evt.type": "device_open", "fd.name": "/dev/nvidia0", "fd.typechar": "f"});
    let connect =
        json!({"evt.type": "connect", "fd.rip": "192.0.2.1", "fd.rport": 443, "fd.typechar": "4"});
    let tls = json!({"evt.type": "tls", "fd.rip": "2001:db8::1", "fd.rport": 443, "tls.sni": "huggingface.co"});
    let dns = json!({"evt.type": "dns", "dns.name": "pool.example"});
    let pickle =
        json!({"evt.type": "pickle", "pickle.global": "os.system", "pickle.file": "/models/a.pt"});
    let gpu = json!({"evt.type": "gpu", "gpu.util": 97.5, "gpu.uuid": "GPU-0"});
    let internal =
        json!({"evt.type": "internal", "internal.what": "reload_failed", "internal.text": "wrong"});
    let lost = json!({"evt.type": "lost", "lost.count": 3, "lost.cause": "ring_full"});
    let (of_process, of_container) = ("actor data process", "actor container data process");
    let cases = [
        (vec![&exec, &process], of_process.to_owned()),
        (vec![&exec, &process, &container], of_container.to_owned()),
        (vec![&open, &process], format!("{of_process} file")),
        (
            vec![&device, &process, &container],
            format!("{of_container} file"),
        ),
        (
            vec![&connect, &process],
            format!("{of_process} dst_endpoint"),
        ),
        (
            vec![&tls, &process, &container],
            format!("{of_container} dst_endpoint"),
        ),
        (vec![&dns, &process], format!("{of_process} dst_endpoint")),
        (
            vec![&pickle, &process, &container],
            format!("{of_container} file"),
        ),
        (vec![&gpu], "data".to_owned()),
        (vec![&gpu, &process, &container], of_container.to_owned()),
        (vec![&internal], "data".to_owned()),
        (vec![&lost, &container], "container data".to_owned()),
    ];
    let tags = r#""tags":["AML.T0010.003","AML.TA0004","T1059","mitre_execution","ml"]"#;
    for (number, (parts, told)) in (1..).zip(cases) {
        let mut record = alert(number);
        let members = parts.iter().filter_map(|part| part.as_object()).flatten();
        let context: serde_json::Map<_, _> = members.map(|(k, v)| (k.clone(), v.clone())).collect();
        let text = serde_json::Value::Object(context).to_string();
        record.context = Some(text.into());
        record.json = record.json.replace(r#""tags":["ml"]"#, tags).into();
        let finding = finding(&record).to_string();
        let mut check = Command::new(&python)
            .arg(saker_tests::python::script("ocsf_check.py"))
            .arg(&told)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut stdin = check.stdin.take().expect("it is piped");
        stdin.write_all(finding.as_bytes()).expect("it reads");
        drop(stdin);
        let done = check.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{said}\n{finding}");
    }
}
