//! Alerts name the container and the pod, as a real containerd knows them.

use saker_tests::{
    Agent, Containerd,
    containerd::{Pod, Wanted},
};
use serde_json::Value;

/// Alerts for every program start in a container whose arguments hold a marker, with everything that is known of the container.
fn rules(folder: &std::path::Path) -> std::path::PathBuf {
    let fields = [
        "proc.args",
        "evt.num",
        "container.id",
        "container.full_id",
        "container.name",
        "container.type",
        "container.image",
        "container.image.repository",
        "container.image.tag",
        "container.image.digest",
        "container.image.id",
        "container.label.role",
        "container.labels",
        "container.mounts",
        "container.mount.dest[/etc]",
        "container.privileged",
        "container.user",
        "container.gpus",
        "container.incomplete",
        "container.start_ts",
        "container.duration",
        "container.host_network",
        "container.host_pid",
        "k8s.ns.name",
        "k8s.pod.name",
        "k8s.pod.uid",
        "k8s.pod.id",
        "k8s.pod.label.app",
        "k8s.pod.labels",
        "k8s.pod.annotation.team",
        "k8s.pod.sandbox_id",
        "k8s.pod.full_sandbox_id",
    ];
    let output: Vec<_> = fields.iter().map(|field| format!("%{field}")).collect();
    let rule = format!(
        "- rule: Marked\n  desc: every marked start\n  condition: evt.type = execve and proc.args contains marked\n  \
         output: marked ({})\n  priority: DEBUG\n",
        output.join(" ")
    );
    let path = folder.join("marked.yaml");
    std::fs::write(&path, rule).expect("the rule is written");
    path
}

/// An agent that knows no runtime but this one.
fn agent(containerd: &Containerd, folder: &std::path::Path, more: &str) -> Agent {
    let config = folder.join("agent.yaml");
    let socket = containerd.socket();
    let text = format!(
        "http: {{listen: '127.0.0.1:0'}}\ncontainers: {{cri_sockets: ['{}'], docker_sockets: []{more}}}\n",
        socket.display()
    );
    std::fs::write(&config, text).expect("the configuration is written");
    let rules = rules(folder);
    Agent::start_with(&config, &["--rules", rules.to_str().expect("UTF-8")])
}

fn marked(agent: &mut Agent, marker: &str) -> Value {
    let marker = format!("marked-{marker}");
    let alert = agent.await_alert(&marker, |alert| {
        alert["output_fields"]["proc.args"]
            .as_str()
            .is_some_and(|args| args.ends_with(&marker))
    });
    alert["output_fields"].clone()
}

/// What must be true of every alert of a container in this pod.
fn check(fields: &Value, pod: &Pod, id: &str, image: &str, digest: &str) {
    let (repository, tag) = image.rsplit_once(':').expect("a tag");
    let expected = [
        ("container.id", &id[..12]),
        ("container.full_id", id),
        ("container.type", "containerd"),
        ("container.image", image),
        ("container.image.repository", repository),
        ("container.image.tag", tag),
        ("container.image.digest", digest),
        ("k8s.ns.name", "ml"),
        ("k8s.pod.name", &pod.name),
        ("k8s.pod.uid", &pod.uid),
        ("k8s.pod.id", &pod.uid),
        ("k8s.pod.label.app", "train"),
        ("k8s.pod.annotation.team", "vision"),
        ("k8s.pod.full_sandbox_id", &pod.id),
        ("k8s.pod.sandbox_id", &pod.id[..12]),
    ];
    for (field, value) in expected {
        assert_eq!(fields[field], value, "{field} of {fields}");
    }
    assert_eq!(fields["container.incomplete"], false, "{fields}");
}

const IMAGE: &str = "registry.internal/ml-trainer:v1";
const LABELS: &[(&str, &str)] = &[("app", "train"), ("tier", "gpu")];
const NOTES: &[(&str, &str)] = &[("team", "vision")];

#[test]
fn an_alert_names_container_image_and_pod() {
    let Some(containerd) = Containerd::start_or_skip() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let digest = containerd.import(IMAGE, &["/bin/sh"]);
    let mut agent = agent(&containerd, folder.path(), "");
    let pod = containerd.pod("trainer-0", LABELS, NOTES);
    let id = containerd.run(
        &pod,
        &Wanted {
            name: "main",
            image: IMAGE,
            command: &["/bin/sleep", "1000", "marked-first"],
            labels: &[("role", "worker")],
            mounts: &[("/etc", "/host/etc")],
            ..Wanted::default()
        },
    );
    // busybox sleep refuses an argument that is no number, but it was started with it.
    let fields = marked(&mut agent, "first");
    check(&fields, &pod, &id, IMAGE, &digest);
    assert_eq!(fields["container.name"], "main");
    assert_eq!(fields["container.label.role"], "worker");
    assert_eq!(
        fields["container.mount.dest[/etc]"], "/host/etc",
        "{fields}"
    );
    assert_eq!(fields["container.privileged"], false);
    assert_eq!(fields["container.user"], "0:0");
    assert_eq!(fields["container.host_network"], true);
    assert_eq!(fields["container.host_pid"], false);
    assert_eq!(fields["k8s.pod.labels"], "app:train, tier:gpu");
    assert_eq!(
        fields["container.image.id"].as_str().map(str::len),
        Some(64),
        "{fields}"
    );
    assert!(
        fields["container.start_ts"]
            .as_u64()
            .is_some_and(|at| at > 1_700_000_000_000_000_000),
        "{fields}"
    );
}
