//! The agent's image under the real containerd as the DaemonSet runs it: the manifest's own mounts, capabilities, seccomp and read-only root. It
//! detects, and with one capability fewer it says what that costs.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use saker_tests::{
    Containerd,
    agent::DEADLINE,
    containerd::{
        Wanted,
        kubelet::{Node, log_lines, raw_log},
    },
    grpc,
    image::output,
    manifests::{self, Helm},
    program,
    python::{self, pyenv},
    repository,
};
use serde_json::{Value, json};

const IMAGE: &str = "localhost/saker:test";

/// The pods of these tests share the machine's network, and others' agents run on it.
const ENV: &[(&str, &str)] = &[("SAKER__HTTP__LISTEN", "127.0.0.1:0")];

/// Of every marked start, who and where.
const RULES: &str = "- rule: Marked\n  desc: every marked start\n  condition: evt.type = execve and proc.args contains daemon-set-marker\n  \
                     output: marked (%proc.args %container.id %container.image.repository %k8s.pod.name)\n  priority: WARNING\n\
                     - rule: Unpickled\n  desc: what pickles load\n  condition: evt.type = pickle and pickle.dangerous = true\n  \
                     output: unpickled (%pickle.module.%pickle.name %container.id)\n  priority: WARNING\n";

/// Loads a pickle that names a dangerous global, again and again until somebody ends it.
const LOAD: &str = "
import io, pickle, time
for _ in range(2400):
    pickle.Unpickler(io.BytesIO(b'cos\\nsystem\\n.')).load()
    time.sleep(0.05)
";

/// The agent's pod, as the chart renders it with a rule of the test's own, and its configuration.
struct Rendered {
    spec: Value,
    config: String,
    capabilities: Vec<String>,
}

fn rendered() -> Option<Rendered> {
    let helm = Helm::or_skip(&repository().join("deploy/helm/saker"))?;
    let values = json!({"rules": {"marked.yaml": RULES}});
    let text = helm.render(&values).expect("it renders").manifest;
    let documents = manifests::documents(&text)?;
    let of_kind = |kind: &str| {
        let found = documents.iter().find(|document| document["kind"] == kind);
        found.expect("there is one").clone()
    };
    let spec = of_kind("DaemonSet")["spec"]["template"]["spec"].clone();
    let added = &spec["containers"][0]["securityContext"]["capabilities"]["add"];
    let added = added.as_array().expect("a list").iter();
    let capabilities = added.map(|name| name.as_str().expect("text").to_owned());
    Some(Rendered {
        capabilities: capabilities.collect(),
        config: of_kind("ConfigMap")["data"]["saker.yaml"]
            .as_str()
            .expect("text")
            .to_owned(),
        spec,
    })
}

/// What the node of the manifest has, on this machine: folders by the name of the volume.
struct Volumes {
    folder: tempfile::TempDir,
    by_name: BTreeMap<String, PathBuf>,
}

impl Volumes {
    fn new(rendered: &Rendered, containerd: &Containerd) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut by_name = BTreeMap::new();
        for volume in rendered.spec["volumes"].as_array().expect("a list") {
            let name = volume["name"].as_str().expect("text");
            let own = folder.path().join(name);
            fs::create_dir(&own).expect("it is new");
            let path = match name {
                // Of the test's containerd, which listens elsewhere than the node's.
                "runtime" => containerd.socket().parent().expect("a folder").to_owned(),
                "tracing" => tracing(&own),
                "cgroup" => PathBuf::from(volume["hostPath"]["path"].as_str().expect("text")),
                _ => own,
            };
            by_name.insert(name.to_owned(), path);
        }
        let write = |volume: &str, file: &str, text: &str| {
            fs::write(folder.path().join(volume).join(file), text).expect("it is written");
        };
        write("config", "saker.yaml", &rendered.config);
        write("rules", "marked.yaml", RULES);
        Self { folder, by_name }
    }
}

impl Drop for Volumes {
    fn drop(&mut self) {
        let mut unmount = Command::new("umount");
        let _ = output(
            unmount
                .arg("--lazy")
                .arg(self.folder.path().join("tracing")),
        );
    }
}

/// A node with systemd has tracefs in its place; this machine may not.
fn tracing(own: &Path) -> PathBuf {
    let place = Path::new("/sys/kernel/tracing");
    if place.join("events").is_dir() {
        return place.into();
    }
    let mut mount = Command::new("mount");
    output(mount.args(["-t", "tracefs", "none"]).arg(own)).expect("tracefs is mounted");
    own.into()
}

/// Has `cargo xtask image` pack the tests' own binary, and imports it.
fn import(containerd: &Containerd) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut pack = Command::new(program("xtask"));
    pack.args(["image", "--name", IMAGE, "--binary"])
        .arg(program("saker"))
        .arg("--out")
        .arg(folder.path().join("image"));
    output(&mut pack).expect("the image is made");
    containerd.import_archive(IMAGE, &folder.path().join("image/saker.tar"));
}

/// Waits for a line of this stream; panics with everything that was written where none comes.
fn await_line(logs: &Path, stream: &str, what: &str, is_it: impl Fn(&str) -> bool) -> String {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let lines = log_lines(logs, stream);
        if let Some(line) = lines.iter().find(|line| is_it(line)) {
            return line.clone();
        }
        assert!(
            Instant::now() < deadline,
            "no {what}; it wrote:\n{}",
            raw_log(logs)
        );
        thread::park_timeout(Duration::from_millis(20));
    }
}

#[test]
fn the_image_detects_as_the_daemon_set_runs_it() {
    let Some(containerd) = Containerd::start_or_skip() else {
        return;
    };
    let Some(rendered) = rendered() else { return };
    import(&containerd);
    let volumes = Volumes::new(&rendered, &containerd);
    let logs = tempfile::tempdir().expect("a temporary folder");
    let node = Node {
        image: IMAGE,
        env: ENV,
        volumes: &volumes.by_name,
        without: &[],
        logs: logs.path(),
    };
    containerd.import("registry.internal/victim:v1", &["/bin/sh"]);
    let (_, agent) = containerd.run_spec("saker", &rendered.spec, &node);
    await_line(logs.path(), "stderr", "word that it watches", |line| {
        line.contains("watching")
    });
    let pod = containerd.pod("victim-0", &[], &[]);
    let victim = Wanted {
        name: "main",
        image: "registry.internal/victim:v1",
        command: &["/bin/sleep", "1000", "daemon-set-marker"],
        ..Wanted::default()
    };
    let victim = containerd.run(&pod, &victim);
    let alert = await_line(logs.path(), "stdout", "alert", |line| {
        line.contains("Marked") && line.contains(&victim[..12])
    });
    let alert: Value = serde_json::from_str(&alert).expect("an alert is JSON");
    let fields = &alert["output_fields"];
    assert_eq!(fields["container.id"], victim[..12], "{alert}");
    assert_eq!(
        fields["container.image.repository"], "registry.internal/victim",
        "{alert}"
    );
    assert_eq!(fields["k8s.pod.name"], "victim-0", "{alert}");
    // What Python loads is seen inside a container whose interpreter the agent has never met.
    if let Some(of) = pyenv().pop() {
        let image = "registry.internal/python:v1";
        containerd.import_with(image, &|root| python::install(&of, root, "/usr/local"));
        let loader = Wanted {
            name: "loader",
            image,
            command: &["/usr/local/bin/python3", "-c", LOAD],
            ..Wanted::default()
        };
        let loader = containerd.run(&pod, &loader);
        await_line(logs.path(), "stdout", "alert of a pickle", |line| {
            line.contains("Unpickled") && line.contains(&loader[..12])
        });
    }
    // Nothing is missing that the manifest should give.
    let said = log_lines(logs.path(), "stderr").join("\n");
    assert!(!said.contains(" is missing: "), "{said}");
    assert!(!said.contains("pid namespace"), "{said}");
    // The root is read-only, and the agent's own programs answer in the container.
    let write = [
        "/usr/bin/saker",
        "rules",
        "compile",
        "-o",
        "/x",
        "/etc/saker/rules",
    ];
    let refused = containerd.try_exec(&agent, &write);
    assert!(
        refused
            .as_ref()
            .is_err_and(|said| said.contains("Read-only file system")),
        "{refused:?}"
    );
    let doctor = containerd.exec(&agent, &["/usr/bin/saker", "doctor"]);
    assert!(doctor.contains("cgroup/connect"), "{doctor}");
}

/// Every capability of the manifest is needed: without it the agent names it, and what is lost.
#[test]
fn each_capability_less_is_named_with_its_cost() {
    let Some(containerd) = Containerd::start_or_skip() else {
        return;
    };
    let Some(rendered) = rendered() else { return };
    assert!(
        rendered.capabilities.len() >= 6,
        "{:?}",
        rendered.capabilities
    );
    import(&containerd);
    for capability in &rendered.capabilities {
        let volumes = Volumes::new(&rendered, &containerd);
        let logs = tempfile::tempdir().expect("a temporary folder");
        // CAP_SYS_ADMIN stands for those without which nothing can be loaded.
        let without: &[&str] = match capability.as_str() {
            "BPF" | "PERFMON" | "NET_ADMIN" => &[capability, "SYS_ADMIN"],
            _ => &[capability],
        };
        let node = Node {
            image: IMAGE,
            env: ENV,
            volumes: &volumes.by_name,
            without,
            logs: logs.path(),
        };
        let name = format!("without-{}", capability.to_lowercase().replace('_', "-"));
        let (_, id) = containerd.run_spec(&name, &rendered.spec, &node);
        let full = format!("CAP_{capability}");
        let line = await_line(logs.path(), "stderr", &full, |line| line.contains(&full));
        // Either it cannot work at all and ends, or it goes on and says what it does not see.
        let is_refusal = line.contains("loading kernel programs needs");
        let (_, cost) = line.split_once(" is missing: ").unwrap_or_default();
        assert!(is_refusal || cost.len() > 40, "{capability}: {line}");
        let others = rendered
            .capabilities
            .iter()
            .filter(|other| *other != capability);
        for other in others {
            assert!(!line.contains(&format!("CAP_{other}")), "{line}");
        }
        containerd.remove(&id);
    }
}

/// What `helm test` starts, with everything that brings files: each container reads all that the configuration names, as a user without rights. The
/// kubelet gives files of Secrets the mode of the manifest and the pod's group.
#[test]
fn the_test_pod_accepts_what_was_installed() {
    let Some(containerd) = Containerd::start_or_skip() else {
        return;
    };
    let Some(helm) = Helm::or_skip(&repository().join("deploy/helm/saker")) else {
        return;
    };
    let sink = json!({"name": "siem", "url": "https://siem.internal/", "token_file": "/etc/saker/secrets/siem/token"});
    let values = json!({"rules": {"marked.yaml": RULES}, "secretFiles": ["siem"], "grpc": {"enabled": true},
                        "config": {"sinks": {"http": [sink]}}});
    let rendered = helm.render(&values).expect("it renders");
    let parsed = |text: &str| manifests::documents(text);
    let (Some(installed), Some(hooks)) = (parsed(&rendered.manifest), parsed(&rendered.hooks))
    else {
        return;
    };
    import(&containerd);
    let spec = &hooks[0]["spec"];
    let group = spec["securityContext"]["fsGroup"].as_u64();
    let group = u32::try_from(group.expect("a number")).expect("a group");
    let check = |name: &str, group: u32, expected: &dyn Fn(&str, &str) -> bool| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let by_name = files_of(spec, &installed, folder.path(), group);
        for container in spec["containers"].as_array().expect("a list") {
            let mut spec = spec.clone();
            spec["containers"] = json!([container]);
            let of = container["name"].as_str().expect("text");
            let logs = tempfile::tempdir().expect("a temporary folder");
            let node = Node {
                image: IMAGE,
                env: &[],
                volumes: &by_name,
                without: &[],
                logs: logs.path(),
            };
            let (_, id) = containerd.run_spec(&format!("{name}-{of}"), &spec, &node);
            let deadline = Instant::now() + DEADLINE;
            while !expected(of, &raw_log(logs.path())) {
                assert!(Instant::now() < deadline, "{of}: {}", raw_log(logs.path()));
                thread::park_timeout(Duration::from_millis(20));
            }
            containerd.remove(&id);
        }
    };
    check("test", group, &|of, said| match of {
        "config" => said.contains("the configuration is sound"),
        _ => said.contains(" 0 errors"),
    });
    // Another group's: the same is refused, by the file's name. The rules are no secret.
    check("other", group - 1, &|of, said| match of {
        "config" => said.contains("/etc/saker/tls/") && said.contains("ermission denied"),
        _ => said.contains(" 0 errors"),
    });
}

/// The files of a pod's volumes: of ConfigMaps what was installed, of Secrets what a test has.
fn files_of(
    spec: &Value,
    installed: &[Value],
    folder: &Path,
    group: u32,
) -> BTreeMap<String, PathBuf> {
    let certificates = folder.join("certificates");
    fs::create_dir(&certificates).expect("it is new");
    grpc::certificates(&certificates);
    let mut by_name = BTreeMap::new();
    for volume in spec["volumes"].as_array().expect("a list") {
        let name = volume["name"].as_str().expect("text");
        let own = folder.join(name);
        fs::create_dir(&own).expect("it is new");
        let put = |file: &str, content: &[u8], mode: u32, group: u32| {
            let path = own.join(file);
            fs::write(&path, content).expect("it is written");
            chown(&path, None, Some(group)).expect("its group is changed");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))
                .expect("its mode is changed");
        };
        if let Some(map) = volume["configMap"]["name"].as_str() {
            let is_it = |one: &&Value| one["kind"] == "ConfigMap" && one["metadata"]["name"] == map;
            let map = installed.iter().find(is_it).expect("it is installed");
            for (file, text) in map["data"].as_object().expect("files") {
                put(file, text.as_str().expect("text").as_bytes(), 0o644, group);
            }
        } else {
            let mode = volume["secret"]["defaultMode"].as_u64().expect("a number");
            let mode = u32::try_from(mode).expect("a mode");
            let read = |from: &str| fs::read(certificates.join(from)).expect("it is there");
            match name {
                "tls" => {
                    put("tls.crt", &read("server.pem"), mode, group);
                    put("tls.key", &read("server.key"), mode, group);
                    put("ca.crt", &read("ca.pem"), mode, group);
                }
                _ => put("token", b"x", mode, group),
            }
        }
        by_name.insert(name.to_owned(), own);
    }
    by_name
}
