//! What a runtime says about one container, in the agent's own terms, and cut to size: labels and annotations are whatever
//! their author wrote, so each part has a bound, and a container that exceeds one is marked.

use serde::{Deserialize, Deserializer, Serialize};

/// Labels or annotations kept of one container or pod.
pub const PAIRS_MAX: usize = 128;
/// Bytes of all labels, or of all annotations, of one container or pod. Kubernetes allows annotations of 256 KiB.
pub const PAIRS_BYTES_MAX: usize = 16 << 10;
/// Mounts kept of one container.
pub const MOUNTS_MAX: usize = 128;
/// Devices kept of one container.
pub const GPUS_MAX: usize = 64;
/// Bytes of any one name, path or value.
pub const TEXT_BYTES_MAX: usize = 4096;

/// A label or annotation.
pub type Pair = (Box<str>, Box<str>);

/// One of a few names.
pub type Kind = &'static str;

/// A container, or the sandbox of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Full id of 64 hexadecimal digits.
    pub id: Box<str>,
    /// `container.type`: `containerd`, `cri-o`, `docker` or `podman`.
    #[serde(deserialize_with = "kind")]
    pub kind: Kind,
    /// Name within its pod, or on the host.
    pub name: Box<str>,
    /// The image as the container names it.
    pub image: Image,
    /// Labels, sorted by name.
    pub labels: Vec<Pair>,
    /// Mounts from outside, in the runtime's order.
    pub mounts: Vec<Mount>,
    /// `None` where the runtime does not say.
    pub privileged: Option<bool>,
    /// Is its root file system mounted so that it cannot write to it? `None` where the runtime does not say.
    #[serde(default)]
    pub read_only: Option<bool>,
    /// The user that it was started as: `uid` or `uid:gid`, or the name that was asked for.
    pub user: Box<str>,
    /// When it was made, nanoseconds since the Unix epoch; 0 when unknown.
    pub created_ns: u64,
    /// When it was started; 0 while it was not.
    pub started_ns: u64,
    /// Does it share the host's namespaces? `None` where the runtime does not say.
    pub host_network: Option<bool>,
    /// As above.
    pub host_pid: Option<bool>,
    /// As above.
    pub host_ipc: Option<bool>,
    /// Its address; empty where it has none of its own.
    pub ip: Box<str>,
    /// The GPUs it was given: device nodes (`/dev/nvidia0`) and names in the form of CDI (`nvidia.com/gpu=0`).
    pub gpus: Vec<Box<str>>,
    /// Command of its health check; Docker's only.
    pub healthcheck: Box<str>,
    /// Results of its network's set-up as JSON; empty where the runtime does not say.
    pub cni: Box<str>,
    /// The pod that it belongs to.
    pub pod: Option<Pod>,
    /// It holds a pod's namespaces and runs nothing of the pod.
    pub is_sandbox: bool,
    /// A bound cut something off.
    pub cut: bool,
}

impl Container {
    /// About how much memory it holds.
    pub fn size_bytes(&self) -> usize {
        let Self {
            id,
            kind: _,
            name,
            image,
            labels,
            mounts,
            user,
            ip,
            gpus,
            healthcheck,
            cni,
            pod,
            ..
        } = self;
        let texts = |texts: &[&str]| -> usize { texts.iter().map(|text| text.len()).sum() };
        let pairs = |pairs: &[Pair]| -> usize {
            let texts = pairs.iter().map(|(name, value)| name.len() + value.len());
            size_of_val(pairs) + texts.sum::<usize>()
        };
        let of_mounts = mounts.iter().map(|mount| {
            let Mount {
                source,
                destination,
                mode,
                writable: _,
                propagation,
            } = mount;
            texts(&[source, destination, mode, propagation])
        });
        let Image {
            given,
            repository,
            tag,
            digest,
            id: image_id,
        } = image;
        let of_pod = |pod: &Pod| {
            let Pod {
                name,
                namespace,
                uid,
                labels,
                annotations,
                sandbox_id,
                ip,
                cni,
            } = pod;
            texts(&[name, namespace, uid, sandbox_id, ip, cni]) + pairs(labels) + pairs(annotations)
        };
        size_of::<Self>()
            + texts(&[id, name, user, ip, healthcheck, cni])
            + texts(&[given, repository, tag, digest, image_id])
            + pairs(labels)
            + size_of_val(&**mounts)
            + of_mounts.sum::<usize>()
            + size_of_val(&**gpus)
            + gpus.iter().map(|gpu| gpu.len()).sum::<usize>()
            + pod.as_ref().map_or(0, of_pod)
    }
}

/// An image, by all its names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// As the container names it: `registry/name:tag`.
    pub given: Box<str>,
    /// Without tag and digest.
    pub repository: Box<str>,
    /// Empty where it has none.
    pub tag: Box<str>,
    /// Digest of the manifest, `sha256:…`; empty where the runtime knows none.
    pub digest: Box<str>,
    /// Digest of the configuration, without `sha256:`.
    pub id: Box<str>,
}

impl Image {
    /// Takes a reference apart: `[host[:port]/]path[:tag][@digest]`.
    pub fn parse(reference: &str) -> Self {
        let (name, digest) = reference.split_once('@').unwrap_or((reference, ""));
        // A colon before the last slash belongs to a port.
        let at = name.rfind('/').map_or(0, |slash| slash + 1);
        let (repository, tag) = match name[at..].rfind(':') {
            Some(colon) => (&name[..at + colon], &name[at + colon + 1..]),
            None => (name, ""),
        };
        Self {
            given: text(reference),
            repository: text(repository),
            tag: text(tag),
            digest: text(digest),
            id: Box::default(),
        }
    }
}

/// A pod, as far as a runtime knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Name.
    pub name: Box<str>,
    /// Namespace.
    pub namespace: Box<str>,
    /// Unique id.
    pub uid: Box<str>,
    /// Labels, sorted by name.
    pub labels: Vec<Pair>,
    /// Annotations, sorted by name.
    pub annotations: Vec<Pair>,
    /// Full id of the sandbox.
    pub sandbox_id: Box<str>,
    /// Its address; empty where it uses the host's.
    pub ip: Box<str>,
    /// Results of its network's set-up as JSON.
    pub cni: Box<str>,
}

/// A mount from outside the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Path on the host.
    pub source: Box<str>,
    /// Path in the container.
    pub destination: Box<str>,
    /// Options as the runtime writes them.
    pub mode: Box<str>,
    /// Can it be written?
    pub writable: bool,
    /// `private`, `rslave` or `rshared`.
    pub propagation: Box<str>,
}

/// One of the kinds that there are; a capture may claim another.
fn kind<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Kind, D::Error> {
    let found = String::deserialize(deserializer)?;
    let known = ["containerd", "cri-o", "docker", "podman"];
    Ok(known.into_iter().find(|kind| *kind == found).unwrap_or(""))
}

/// Text of bounded length, cut at a character.
pub fn text(text: &str) -> Box<str> {
    cut(text, TEXT_BYTES_MAX).into()
}

fn cut(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Sorted pairs within the bounds; sets `is_cut` where some did not fit.
pub fn pairs<K: AsRef<str>, V: AsRef<str>>(
    given: impl IntoIterator<Item = (K, V)>,
    is_cut: &mut bool,
) -> Vec<Pair> {
    let mut all: Vec<(K, V)> = given.into_iter().collect();
    all.sort_by(|a, b| a.0.as_ref().cmp(b.0.as_ref()));
    let mut room = PAIRS_BYTES_MAX;
    let mut kept = Vec::with_capacity(all.len().min(PAIRS_MAX));
    for (name, value) in &all {
        let (name, value) = (name.as_ref(), value.as_ref());
        let size = name.len() + value.len().min(TEXT_BYTES_MAX);
        if kept.len() == PAIRS_MAX || size > room {
            // A long one does not push out the short ones behind it.
            *is_cut = true;
            continue;
        }
        *is_cut |= value.len() > TEXT_BYTES_MAX;
        room -= size;
        kept.push((name.into(), text(value)));
    }
    kept
}

/// At most `max` of them; sets `is_cut` where there were more.
pub fn bounded<T>(items: impl IntoIterator<Item = T>, max: usize, is_cut: &mut bool) -> Vec<T> {
    let mut items = items.into_iter();
    let kept: Vec<T> = items.by_ref().take(max).collect();
    *is_cut |= items.next().is_some();
    kept
}

/// The value of a label.
pub fn find<'a>(pairs: &'a [Pair], name: &str) -> Option<&'a str> {
    let at = pairs.binary_search_by(|(key, _)| (**key).cmp(name)).ok()?;
    Some(&pairs[at].1)
}

/// Is it the node of an accelerator, or of the driver behind one?
pub fn is_gpu_node(path: &str) -> bool {
    [
        "/dev/nvidia",
        "/dev/dri/",
        "/dev/kfd",
        "/dev/accel",
        "/dev/habanalabs",
    ]
    .iter()
    .any(|start| path.starts_with(start))
}

/// What a value of `NVIDIA_VISIBLE_DEVICES` gives: a list of indexes, UUIDs or `all`, in the names that CDI has for them.
pub fn nvidia_visible(value: &str) -> impl Iterator<Item = Box<str>> + use<'_> {
    value
        .split(',')
        .map(str::trim)
        .filter(|name| !matches!(*name, "" | "none" | "void"))
        .map(|name| text(&format!("nvidia.com/gpu={}", cut(name, 128))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_references_are_taken_apart() {
        let check = |reference: &str, repository: &str, tag: &str, digest: &str| {
            let image = Image::parse(reference);
            assert_eq!(
                (
                    &*image.repository,
                    &*image.tag,
                    &*image.digest,
                    &*image.given
                ),
                (repository, tag, digest, reference)
            );
        };
        check("busybox", "busybox", "", "");
        check("busybox:1.36", "busybox", "1.36", "");
        check(
            "docker.io/library/busybox:latest",
            "docker.io/library/busybox",
            "latest",
            "",
        );
        check(
            "registry.internal:5000/a/b",
            "registry.internal:5000/a/b",
            "",
            "",
        );
        check(
            "registry.internal:5000/a/b:v1",
            "registry.internal:5000/a/b",
            "v1",
            "",
        );
        check("a/b@sha256:12", "a/b", "", "sha256:12");
        check("a/b:v1@sha256:12", "a/b", "v1", "sha256:12");
        check("sha256:12", "sha256", "12", "");
        check("", "", "", "");
        check("@", "", "", "");
        check(":::", "::", "", "");
        check("/", "/", "", "");
    }

    #[test]
    fn pairs_are_sorted_found_and_bounded() {
        let mut cut = false;
        let kept = pairs([("b", "2"), ("a", "1")], &mut cut);
        assert_eq!(
            (find(&kept, "a"), find(&kept, "b"), find(&kept, "c")),
            (Some("1"), Some("2"), None)
        );
        assert!(!cut);

        let many = (0..1000).map(|n| (format!("k{n:04}"), "v"));
        assert_eq!(pairs(many, &mut cut).len(), PAIRS_MAX);
        assert!(cut);

        cut = false;
        let huge = "ä".repeat(PAIRS_BYTES_MAX);
        let kept = pairs([("a", huge.as_str()), ("z", "short")], &mut cut);
        assert!(cut);
        assert!(kept[0].1.len() <= TEXT_BYTES_MAX);
        assert_eq!(find(&kept, "z"), Some("short"));

        cut = false;
        let long_name = "n".repeat(PAIRS_BYTES_MAX + 1);
        assert_eq!(
            pairs([(long_name.as_str(), "v"), ("z", "w")], &mut cut).len(),
            1
        );
        assert!(cut);
    }

    #[test]
    fn whatever_a_container_holds_counts() {
        let long = || Box::<str>::from("x".repeat(1000));
        let pairs = || vec![(long(), long())];
        let all = Container {
            id: long(),
            name: long(),
            image: Image {
                given: long(),
                repository: long(),
                tag: long(),
                digest: long(),
                id: long(),
            },
            labels: pairs(),
            mounts: vec![Mount {
                source: long(),
                destination: long(),
                mode: long(),
                writable: true,
                propagation: long(),
            }],
            user: long(),
            ip: long(),
            gpus: vec![long()],
            healthcheck: long(),
            cni: long(),
            pod: Some(Pod {
                name: long(),
                namespace: long(),
                uid: long(),
                labels: pairs(),
                annotations: pairs(),
                sandbox_id: long(),
                ip: long(),
                cni: long(),
            }),
            ..Container::default()
        };
        let texts = serde_json::to_string(&all)
            .expect("JSON")
            .matches(&*long())
            .count();
        assert_eq!(texts, 28);
        let size = all.size_bytes();
        let bound = texts * 1000 + 2000;
        assert!((texts * 1000..bound).contains(&size), "{size}");
    }

    #[test]
    fn visible_devices_become_names() {
        let check = |value: &str, expected: &[&str]| {
            let names: Vec<_> = nvidia_visible(value).collect();
            assert_eq!(
                names.iter().map(|name| &**name).collect::<Vec<_>>(),
                expected,
                "{value}"
            );
        };
        check("all", &["nvidia.com/gpu=all"]);
        check("0, GPU-1f", &["nvidia.com/gpu=0", "nvidia.com/gpu=GPU-1f"]);
        check("none", &[]);
        check("void", &[]);
        check("", &[]);
    }
}
