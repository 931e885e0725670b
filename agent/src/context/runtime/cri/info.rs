//! The verbose part of a status: JSON of the runtime's own making, of which containerd and CRI-O share what is read here.
//! None of it is promised by the protocol, so each part may be missing.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use crate::context::runtime::metadata::{is_gpu_node, nvidia_visible, text};

/// What a container's info says.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Info {
    #[serde(deserialize_with = "or_default")]
    config: Config,
    #[serde(deserialize_with = "or_default")]
    runtime_spec: Spec,
    /// CRI-O says it here, containerd in the configuration.
    privileged: Option<bool>,
    /// A sandbox's image.
    image: Option<String>,
    /// Results of the sandbox's network set-up.
    cni_result: Option<serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    #[serde(deserialize_with = "or_default")]
    image: ConfigImage,
    #[serde(deserialize_with = "or_default")]
    linux: ConfigLinux,
    #[serde(rename = "CDI_devices", deserialize_with = "or_default")]
    cdi_devices: Vec<CdiDevice>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ConfigImage {
    user_specified_image: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ConfigLinux {
    security_context: Option<SecurityContext>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SecurityContext {
    privileged: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CdiDevice {
    name: String,
}

/// The OCI runtime specification's `config.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Spec {
    #[serde(deserialize_with = "or_default")]
    process: Process,
    #[serde(deserialize_with = "or_default")]
    linux: Linux,
    root: Option<Root>,
    #[serde(deserialize_with = "or_default")]
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Root {
    /// Left out where it is false.
    readonly: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Process {
    #[serde(deserialize_with = "or_default")]
    user: User,
    #[serde(deserialize_with = "or_default")]
    env: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct User {
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Linux {
    #[serde(deserialize_with = "or_default")]
    devices: Vec<Device>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Device {
    path: String,
    major: i64,
    minor: i64,
}

/// NVIDIA's fixed major number: the minor is the GPU's.
const NVIDIA_MAJOR: i64 = 195;

impl Device {
    /// The node's path where it is an accelerator's; the usual path of one that was given under another name.
    fn gpu(&self) -> Option<Box<str>> {
        if is_gpu_node(&self.path) {
            return Some(text(&self.path));
        }
        (self.major == NVIDIA_MAJOR).then(|| match self.minor {
            255 => "/dev/nvidiactl".into(),
            254 => "/dev/nvidia-modeset".into(),
            minor => format!("/dev/nvidia{minor}").into(),
        })
    }
}

/// Go writes null for what is empty.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Info {
    /// Reads the map that a verbose status carries. `None` where it holds something else than what it should.
    pub fn parse(info: &BTreeMap<String, String>) -> Option<Self> {
        match info.get("info") {
            Some(json) => serde_json::from_str(json).ok(),
            None => Some(Self::default()),
        }
    }

    /// Is the container privileged?
    pub fn privileged(&self) -> Option<bool> {
        let config = self.config.linux.security_context.as_ref();
        self.privileged.or(config.map(|context| context.privileged))
    }

    /// Can the container not write to its root? `None` where the runtime shows no specification.
    pub fn read_only(&self) -> Option<bool> {
        self.runtime_spec.root.as_ref().map(|root| root.readonly)
    }

    /// Who its first program runs as.
    pub fn user(&self) -> Box<str> {
        let user = &self.runtime_spec.process.user;
        match (user.uid, user.gid) {
            (Some(uid), Some(gid)) => format!("{uid}:{gid}").into(),
            (Some(uid), None) => format!("{uid}").into(),
            _ => Box::default(),
        }
    }

    /// The image that the pod's author wrote, before anyone resolved it.
    pub fn user_image(&self) -> &str {
        &self.config.image.user_specified_image
    }

    /// A sandbox's image.
    pub fn image(&self) -> &str {
        self.image.as_deref().unwrap_or_default()
    }

    /// The network's results, as JSON again.
    pub fn cni(&self) -> Box<str> {
        let json = self.cni_result.as_ref().filter(|result| !result.is_null());
        json.map(|result| text(&result.to_string()))
            .unwrap_or_default()
    }

    /// The accelerators that the container was given: by node, by CDI name, or by NVIDIA's environment variable.
    pub fn gpus(&self) -> Vec<Box<str>> {
        let spec = &self.runtime_spec;
        let nodes = spec.linux.devices.iter().filter_map(Device::gpu);
        let mut gpus: Vec<Box<str>> = nodes.collect();
        let asked = self
            .config
            .cdi_devices
            .iter()
            .map(|device| device.name.as_str());
        let annotated = spec
            .annotations
            .iter()
            .filter(|(name, _)| name.starts_with("cdi.k8s.io/"))
            .flat_map(|(_, value)| value.split(','));
        gpus.extend(
            asked
                .chain(annotated)
                .filter(|name| !name.is_empty())
                .map(text),
        );
        let variable = "NVIDIA_VISIBLE_DEVICES=";
        let visible = spec
            .process
            .env
            .iter()
            .filter_map(|entry| entry.strip_prefix(variable));
        gpus.extend(visible.flat_map(nvidia_visible));
        gpus.sort_unstable();
        gpus.dedup();
        gpus
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(json: &str) -> Option<Info> {
        Info::parse(&BTreeMap::from([("info".to_owned(), json.to_owned())]))
    }

    #[test]
    fn both_runtimes_ways_to_say_it_are_read() {
        let containerd = info(
            r#"{"sandboxID":"x","pid":7,"config":{"metadata":{"name":"a"},
                "image":{"image":"sha256:1","user_specified_image":"a:1"},
                "linux":{"security_context":{"privileged":true}},"CDI_devices":[{"name":"nvidia.com/gpu=1"}]},
                "runtimeSpec":{"process":{"user":{"uid":7,"gid":8},"env":["PATH=/","NVIDIA_VISIBLE_DEVICES=all"]},
                "root":{"path":"rootfs","readonly":true},
                "linux":{"devices":[{"path":"/dev/nvidia0","type":"c","major":195},{"path":"/dev/fuse"},{"path":"/x","major":195,"minor":3}]},
                "annotations":{"cdi.k8s.io/x":"nvidia.com/gpu=2,amd.com/gpu=0","other":"y"}}}"#,
        )
        .expect("it is right");
        assert_eq!(containerd.privileged(), Some(true));
        assert_eq!(containerd.read_only(), Some(true));
        assert_eq!(&*containerd.user(), "7:8");
        assert_eq!(containerd.user_image(), "a:1");
        let expected = [
            "/dev/nvidia0",
            "/dev/nvidia3",
            "amd.com/gpu=0",
            "nvidia.com/gpu=1",
            "nvidia.com/gpu=2",
            "nvidia.com/gpu=all",
        ];
        assert_eq!(
            containerd
                .gpus()
                .iter()
                .map(|gpu| &**gpu)
                .collect::<Vec<_>>(),
            expected
        );

        let crio = info(r#"{"privileged":false,"runtimeSpec":{"root":{"path":"x"},"process":{"user":{"uid":0}}}}"#)
            .expect("right");
        assert_eq!((crio.privileged(), &*crio.user()), (Some(false), "0"));
        assert_eq!(crio.read_only(), Some(false));
        let nulls = r#"{"config":null,"runtimeSpec":{"process":{"env":null},"linux":{"devices":null},"annotations":null}}"#;
        assert_eq!(info(nulls).expect("null is nothing").gpus().len(), 0);
    }

    #[test]
    fn what_is_missing_or_nonsense_is_not_known() {
        let nothing = Info::parse(&BTreeMap::new()).expect("no info is no error");
        assert_eq!(
            (nothing.privileged(), nothing.gpus().len(), &*nothing.user()),
            (None, 0, "")
        );
        assert_eq!(nothing.read_only(), None);
        for json in [
            "",
            "null",
            "{",
            r#"{"config":7}"#,
            r#"{"runtimeSpec":{"linux":{"devices":"x"}}}"#,
        ] {
            assert!(info(json).is_none(), "{json}");
        }
        assert!(info(&"[".repeat(100_000)).is_none());
    }
}
