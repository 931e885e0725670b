//! `container.*` and `k8s.*`: where it happened. The id comes from the cgroup, everything else from the container's runtime;
//! outside of containers only id, name and type have a value, which is `host`.

use std::ffi::CString;

use saker_rules::{FieldArgRef, fields::Field, value::Value};

use super::EventView;
use crate::context::{
    container::Owner,
    runtime::metadata::{Container, Mount, Pair, Pod, find},
};

/// The field's value, where it is one of this family and known.
pub fn value<'a>(view: &'a EventView<'_>, field: Field, arg: FieldArgRef<'a>) -> Option<Value<'a>> {
    match (field, view.owner) {
        (Field::ContainerId, owner) => return Some(Value::Bytes(owner.id()?.as_bytes())),
        (Field::ContainerName | Field::ContainerType, Owner::Host) => {
            return Some(Value::Bytes(b"host"));
        }
        (Field::ContainerFullId, owner) => return Some(Value::Bytes(owner.full_id()?.as_bytes())),
        (Field::ContainerIncomplete, owner) => {
            return Some(Value::Bool(*owner != Owner::Host && view.incomplete));
        }
        _ => {}
    }
    let container = view.container?;
    let text = |text: &'a str| (!text.is_empty()).then_some(Value::Bytes(text.as_bytes()));
    match field {
        Field::ContainerName => text(&container.name),
        Field::ContainerType => text(container.kind),
        Field::ContainerImage => text(&container.image.given),
        Field::ContainerImageId => text(&container.image.id),
        Field::ContainerImageRepository => text(&container.image.repository),
        Field::ContainerImageTag => text(&container.image.tag),
        Field::ContainerImageDigest => text(&container.image.digest),
        Field::ContainerPrivileged => container.privileged.map(Value::Bool),
        Field::ContainerReadOnly => container.read_only.map(Value::Bool),
        Field::ContainerUser => text(&container.user),
        Field::ContainerHostPid => container.host_pid.map(Value::Bool),
        Field::ContainerHostNetwork => container.host_network.map(Value::Bool),
        Field::ContainerHostIpc => container.host_ipc.map(Value::Bool),
        Field::ContainerIp => text(&container.ip),
        Field::ContainerCniJson => text(&container.cni),
        Field::ContainerHealthcheck => text(&container.healthcheck),
        Field::ContainerLabel => label(view, &container.labels, arg),
        Field::ContainerLabels => labels(view, &container.labels),
        Field::ContainerGpus => {
            let gpus = container.gpus.iter();
            // A list of nothing would exist all the same.
            (gpus.len() > 0).then(|| view.list(gpus.map(|gpu| Value::Bytes(gpu.as_bytes()))))
        }
        Field::ContainerStartTs => Some(Value::Uint(start_ns(container)?)),
        Field::ContainerDuration => {
            let now_ns = u64::try_from(view.time_ns()).ok()?;
            Some(Value::Uint(now_ns.saturating_sub(start_ns(container)?)))
        }
        Field::ContainerMounts => {
            let mut all = bumpalo::collections::String::new_in(view.arena);
            for mount in &container.mounts {
                if !all.is_empty() {
                    all.push(',');
                }
                push_mount(&mut all, mount);
            }
            text(all.into_bump_str())
        }
        Field::ContainerMount => {
            let mut one = bumpalo::collections::String::new_in(view.arena);
            push_mount(&mut one, mount(container, arg, |mount| &mount.source)?);
            Some(Value::Bytes(one.into_bump_str().as_bytes()))
        }
        Field::ContainerMountSource => {
            text(&mount(container, arg, |mount| &mount.destination)?.source)
        }
        Field::ContainerMountDest => {
            text(&mount(container, arg, |mount| &mount.source)?.destination)
        }
        Field::ContainerMountMode => text(&mount(container, arg, |mount| &mount.source)?.mode),
        Field::ContainerMountRdwr => text(writable(mount(container, arg, |mount| &mount.source)?)),
        Field::ContainerMountPropagation => {
            text(&mount(container, arg, |mount| &mount.source)?.propagation)
        }
        _ => pod(view, container.pod.as_ref()?, field, arg),
    }
}

fn pod<'a>(
    view: &'a EventView<'_>,
    pod: &'a Pod,
    field: Field,
    arg: FieldArgRef<'a>,
) -> Option<Value<'a>> {
    let text = |text: &'a str| (!text.is_empty()).then_some(Value::Bytes(text.as_bytes()));
    match field {
        Field::K8SPodName => text(&pod.name),
        Field::K8SPodId | Field::K8SPodUid => text(&pod.uid),
        Field::K8SPodSandboxId => text(pod.sandbox_id.get(..12)?),
        Field::K8SPodFullSandboxId => text(&pod.sandbox_id),
        Field::K8SPodIp => text(&pod.ip),
        Field::K8SPodCniJson => text(&pod.cni),
        Field::K8SPodLabels => labels(view, &pod.labels),
        Field::K8sPodLabel => label(view, &pod.labels, arg),
        Field::K8sPodAnnotation => label(view, &pod.annotations, arg),
        Field::K8SNsName => text(&pod.namespace),
        _ => None,
    }
}

/// The runtime's time of start; before it knows one, that of its creation.
fn start_ns(container: &Container) -> Option<u64> {
    [container.started_ns, container.created_ns]
        .into_iter()
        .find(|at| *at != 0)
}

fn label<'a>(
    view: &'a EventView<'_>,
    pairs: &'a [Pair],
    arg: FieldArgRef<'a>,
) -> Option<Value<'a>> {
    let FieldArgRef::Key(name) = arg else {
        return None;
    };
    let value = find(pairs, name)?.as_bytes();
    Some(Value::Bytes(view.named(name.as_bytes(), value)))
}

/// `name:value, name:value`, as Falco writes them.
fn labels<'a>(view: &'a EventView<'_>, pairs: &'a [Pair]) -> Option<Value<'a>> {
    let mut all = bumpalo::collections::Vec::new_in(view.arena);
    for (name, value) in pairs {
        if !all.is_empty() {
            all.extend_from_slice(b", ");
        }
        all.extend_from_slice(name.as_bytes());
        all.push(b':');
        all.extend_from_slice(view.named(name.as_bytes(), value.as_bytes()));
    }
    (!all.is_empty()).then(|| Value::Bytes(all.into_bump_slice()))
}

/// `source:destination:mode:writable:propagation`
fn push_mount(line: &mut bumpalo::collections::String<'_>, mount: &Mount) {
    let parts = [
        &*mount.source,
        &mount.destination,
        &mount.mode,
        writable(mount),
        &mount.propagation,
    ];
    for (index, part) in parts.into_iter().enumerate() {
        if index > 0 {
            line.push(':');
        }
        line.push_str(part);
    }
}

fn writable(mount: &Mount) -> &'static str {
    if mount.writable { "true" } else { "false" }
}

/// The mount with this number, or the first of which one end fits a shell pattern.
fn mount<'a>(
    container: &'a Container,
    arg: FieldArgRef<'_>,
    end: impl Fn(&Mount) -> &str,
) -> Option<&'a Mount> {
    match arg {
        FieldArgRef::Index(index) => container.mounts.get(index as usize),
        FieldArgRef::Key(pattern) => {
            let pattern = CString::new(pattern).ok()?;
            container
                .mounts
                .iter()
                .find(|mount| fits(&pattern, end(mount)))
        }
        FieldArgRef::None => None,
    }
}

fn fits(pattern: &CString, text: &str) -> bool {
    let Ok(text) = CString::new(text) else {
        return false;
    };
    // SAFETY: both are NUL-terminated and outlive the call.
    unsafe { libc::fnmatch(pattern.as_ptr(), text.as_ptr(), 0) == 0 }
}
