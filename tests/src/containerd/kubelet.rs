//! A pod's specification as the kubelet hands it to the runtime: the container's program, variables, mounts, user, capabilities, seccomp,
//! and read-only root, out of the manifest itself.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{Containerd, Pod, cri};

/// What of a pod is this test's own and not the manifest's.
#[derive(Debug)]
pub struct Node<'a> {
    /// The image that is there, in place of the manifest's.
    pub image: &'a str,
    /// Variables beside the manifest's.
    pub env: &'a [(&'a str, &'a str)],
    /// Folders of the machine by the name of the volume, in place of the host paths, config maps and empty folders of the manifest.
    pub volumes: &'a BTreeMap<String, PathBuf>,
    /// Capabilities of the manifest that are not given.
    pub without: &'a [&'a str],
    /// Folder for what the container writes.
    pub logs: &'a Path,
}

impl Containerd {
    /// Starts the first container of a pod (its `spec`); returns the pod and the container's id.
    pub fn run_spec(&self, name: &str, spec: &Value, node: &Node<'_>) -> (Pod, String) {
        let uid = format!("uid-{name}");
        let mut config = cri::pod_config(name, &uid, &self.pod_cgroup(&uid), &[], &[]);
        let host_pid = spec["hostPID"] == true;
        cri::as_specified(&mut config, node.logs, host_pid);
        let pod = self.start_pod(name, &uid, config).expect("the pod starts");
        let container = container(spec, node, host_pid);
        let id = self
            .runtime
            .create(&pod.id, &pod.config, container)
            .expect("the container is made");
        self.start_container(&id);
        (pod, id)
    }
}

/// What the kubelet hides of /proc and /sys, and what it lets nobody write.
const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READ_ONLY: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

fn container(spec: &Value, node: &Node<'_>, host_pid: bool) -> cri::ContainerConfig {
    let container = &spec["containers"][0];
    let of_pod = &spec["securityContext"];
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let texts = |value: &Value| list(value).iter().map(text).collect::<Vec<_>>();
    let variable = |name: &str, value: &str| cri::Variable {
        name: name.into(),
        value: value.into(),
    };
    let mut env: Vec<_> = list(&container["env"])
        .iter()
        .map(|of| {
            // What the downward API fills in is the node's name here.
            let value = of["value"].as_str().unwrap_or("node-of-the-test");
            variable(&text(&of["name"]), value)
        })
        .collect();
    env.extend(node.env.iter().map(|(name, value)| variable(name, value)));
    let mounts = list(&container["volumeMounts"]);
    let mounts = mounts.iter().map(|mount| cri::Mount {
        container_path: text(&mount["mountPath"]),
        host_path: node.volumes[mount["name"].as_str().expect("text")]
            .display()
            .to_string(),
        readonly: mount["readOnly"] == true,
    });
    let security = &container["securityContext"];
    // What a container does not say of itself its pod says for all.
    let said = |key: &str| match &security[key] {
        Value::Null => &of_pod[key],
        own => own,
    };
    assert_eq!(said("seccompProfile")["type"], "RuntimeDefault");
    // Where nothing is said the runtime does as it likes; its own profile by name it refuses where there is no AppArmor.
    let apparmor = match said("appArmorProfile")["type"].as_str() {
        None => None,
        Some("RuntimeDefault") => Some(cri::Profile { kind: 0 }),
        Some("Unconfined") => Some(cri::Profile { kind: 1 }),
        other => panic!("{other:?}"),
    };
    let mut add = texts(&security["capabilities"]["add"]);
    let before = add.len();
    add.retain(|name| !node.without.contains(&name.as_str()));
    assert_eq!(add.len() + node.without.len(), before, "{:?}", node.without);
    let number = |key: &str| said(key).as_i64().map(|value| cri::Number { value });
    let fixed = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
    let security = cri::ContainerSecurity {
        capabilities: Some(cri::Capabilities {
            add,
            drop: texts(&security["capabilities"]["drop"]),
        }),
        user: number("runAsUser"),
        group: number("runAsGroup"),
        readonly_root: security["readOnlyRootFilesystem"] == true,
        groups: of_pod["fsGroup"].as_i64().into_iter().collect(),
        no_new_privileges: security["allowPrivilegeEscalation"] == false,
        masked_paths: fixed(MASKED),
        readonly_paths: fixed(READ_ONLY),
        seccomp: Some(cri::Nothing {}),
        apparmor,
        ..cri::ContainerSecurity::default()
    };
    let args = texts(&container["args"]);
    let name = text(&container["name"]);
    let (env, mounts) = (env, mounts.collect());
    cri::specified((&name, node.image), args, env, mounts, security, host_pid)
}

/// The lines that the containers of a pod wrote to one of their streams, without what the runtime puts before them.
pub fn log_lines(logs: &Path, stream: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    // time, stream, F for a whole line or P for a part, text
    for part in raw_log(logs).lines() {
        let mut columns = part.splitn(4, ' ').skip(1);
        if columns.next() != Some(stream) {
            continue;
        }
        let is_end = columns.next() == Some("F");
        line.push_str(columns.next().unwrap_or_default());
        if is_end {
            lines.push(std::mem::take(&mut line));
        }
    }
    lines
}

/// All that the containers of a pod wrote, as the runtime keeps it.
pub fn raw_log(logs: &Path) -> String {
    let files = fs::read_dir(logs).into_iter().flatten().flatten();
    let mut files: Vec<_> = files.map(|file| file.path()).collect();
    files.sort();
    let texts = files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok());
    texts.collect()
}
