//! What every field of containers and pods is for a device open in the test's container.

use super::CONTAINER;
use saker::event::{Body, CgroupMkdir, Text};

/// A new cgroup.
pub fn cgroup_mkdir() -> Body<'static> {
    Body::CgroupMkdir(CgroupMkdir {
        id: 9,
        path: Text {
            bytes: b"/kubepods/pod1",
            cut: false,
        },
    })
}

/// Field and value, as outputs show it.
pub const VALUES: &[(&str, &str)] = &[
    ("container.id", "0123456789ab"),
    ("container.full_id", CONTAINER),
    ("container.name", "main"),
    ("container.type", "containerd"),
    (
        "container.image",
        "registry.internal:5000/ml/trainer:v1@sha256:12",
    ),
    (
        "container.image.repository",
        "registry.internal:5000/ml/trainer",
    ),
    ("container.image.tag", "v1"),
    ("container.image.digest", "sha256:12"),
    ("container.image.id", "34"),
    ("container.privileged", "true"),
    ("container.read_only", "true"),
    ("container.user", "7:8"),
    ("container.host_network", "true"),
    ("container.host_pid", "false"),
    ("container.ip", "10.0.0.7"),
    ("container.label.role", "worker"),
    ("container.label[role]", "worker"),
    ("container.labels", "app:train, role:worker"),
    (
        "container.mounts",
        "/a:/b:z:true:private,/etc:/host/etc:z:false:private",
    ),
    ("container.mount[0]", "/a:/b:z:true:private"),
    ("container.mount[/e*]", "/etc:/host/etc:z:false:private"),
    ("container.mount[7]", "<NA>"),
    ("container.mount.source[/host/*]", "/etc"),
    ("container.mount.source[1]", "/etc"),
    ("container.mount.dest[/etc]", "/host/etc"),
    ("container.mount.rdwr[/etc]", "false"),
    ("container.mount.mode[/a]", "z"),
    ("container.mount.propagation[/a]", "private"),
    ("container.mount.dest[/host/etc]", "<NA>"),
    ("container.incomplete", "false"),
    ("container.duration", "40000000000"),
    ("k8s.pod.name", "trainer-0"),
    ("k8s.ns.name", "ml"),
    ("k8s.pod.uid", "uid-1"),
    ("k8s.pod.id", "uid-1"),
    ("k8s.pod.label.tier", "gpu"),
    ("k8s.pod.labels", "app:train, tier:gpu"),
    ("k8s.pod.annotation.app", "note"),
    ("k8s.pod.sandbox_id", "f123456789ab"),
    ("k8s.pod.ip", "10.0.0.7"),
    ("container.label.absent", "<NA>"),
    ("container.healthcheck", "true"),
    ("container.start_ts", "1700000060000000000"),
    ("container.cni.json", "{}"),
    ("container.host_ipc", "false"),
    ("container.gpus", "(/dev/nvidia0,nvidia.com/gpu=1)"),
    (
        "k8s.pod.full_sandbox_id",
        "f123456789abcdeff123456789abcdeff123456789abcdeff123456789abcdef",
    ),
    ("k8s.pod.cni.json", "{}"),
];
