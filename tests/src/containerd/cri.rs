//! The part of `runtime.v1` that a kubelet uses to run pods: calls, and messages as far as they are filled or read. A message
//! with one text is the same on the wire whatever it is called, and is written once.

use std::{collections::BTreeMap, path::Path, time::Duration};

use http::uri::PathAndQuery;
use prost::Message;
use tonic::{
    Request,
    client::Grpc,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use super::Wanted;

#[derive(Clone, PartialEq, Message)]
pub struct Nothing {}

/// Any message whose first field is a text: an id, mostly.
#[derive(Clone, PartialEq, Message)]
pub struct Text {
    #[prost(string, tag = "1")]
    pub text: String,
}

/// Any message whose first field is a message.
#[derive(Clone, PartialEq, Message)]
pub struct Holder {
    #[prost(message, optional, tag = "1")]
    pub inner: Option<Text>,
}

/// A list of things with ids.
#[derive(Clone, PartialEq, Message)]
pub struct List {
    #[prost(message, repeated, tag = "1")]
    pub items: Vec<Text>,
}

#[derive(Clone, PartialEq, Message)]
pub struct PodSandboxConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<PodMetadata>,
    #[prost(string, tag = "3")]
    log_directory: String,
    #[prost(btree_map = "string, string", tag = "6")]
    labels: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "7")]
    annotations: BTreeMap<String, String>,
    #[prost(message, optional, tag = "8")]
    linux: Option<LinuxPod>,
}

#[derive(Clone, PartialEq, Message)]
struct PodMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

#[derive(Clone, PartialEq, Message)]
struct LinuxPod {
    #[prost(string, tag = "1")]
    cgroup_parent: String,
    #[prost(message, optional, tag = "2")]
    security: Option<PodSecurity>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSecurity {
    #[prost(message, optional, tag = "1")]
    namespaces: Option<Namespaces>,
    /// A privileged container wants a privileged sandbox.
    #[prost(bool, tag = "6")]
    privileged: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct Namespaces {
    #[prost(int32, tag = "1")]
    network: i32,
    #[prost(int32, tag = "2")]
    pid: i32,
}

#[derive(Clone, PartialEq, Message)]
struct RunPod {
    #[prost(message, optional, tag = "1")]
    config: Option<PodSandboxConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct CreateContainer {
    #[prost(string, tag = "1")]
    pod: String,
    #[prost(message, optional, tag = "2")]
    config: Option<ContainerConfig>,
    #[prost(message, optional, tag = "3")]
    sandbox: Option<PodSandboxConfig>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ContainerConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<Text>,
    #[prost(message, optional, tag = "2")]
    image: Option<Text>,
    #[prost(string, repeated, tag = "3")]
    command: Vec<String>,
    /// With no command: arguments of the image's own.
    #[prost(string, repeated, tag = "4")]
    args: Vec<String>,
    #[prost(message, repeated, tag = "6")]
    env: Vec<Variable>,
    #[prost(message, repeated, tag = "7")]
    mounts: Vec<Mount>,
    #[prost(message, repeated, tag = "8")]
    devices: Vec<Device>,
    #[prost(btree_map = "string, string", tag = "9")]
    labels: BTreeMap<String, String>,
    /// Below the pod's folder of logs.
    #[prost(string, tag = "11")]
    log_path: String,
    #[prost(message, optional, tag = "15")]
    linux: Option<LinuxContainer>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Variable {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Mount {
    #[prost(string, tag = "1")]
    pub container_path: String,
    #[prost(string, tag = "2")]
    pub host_path: String,
    #[prost(bool, tag = "3")]
    pub readonly: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Device {
    #[prost(string, tag = "1")]
    container_path: String,
    #[prost(string, tag = "2")]
    host_path: String,
    #[prost(string, tag = "3")]
    permissions: String,
}

#[derive(Clone, PartialEq, Message)]
struct LinuxContainer {
    #[prost(message, optional, tag = "2")]
    security: Option<ContainerSecurity>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ContainerSecurity {
    #[prost(message, optional, tag = "1")]
    pub capabilities: Option<Capabilities>,
    #[prost(bool, tag = "2")]
    pub privileged: bool,
    #[prost(message, optional, tag = "3")]
    pub namespaces: Option<Namespaces>,
    #[prost(message, optional, tag = "5")]
    pub user: Option<Number>,
    #[prost(bool, tag = "7")]
    pub readonly_root: bool,
    #[prost(int64, repeated, tag = "8")]
    pub groups: Vec<i64>,
    #[prost(bool, tag = "11")]
    pub no_new_privileges: bool,
    #[prost(message, optional, tag = "12")]
    pub group: Option<Number>,
    #[prost(string, repeated, tag = "13")]
    pub masked_paths: Vec<String>,
    #[prost(string, repeated, tag = "14")]
    pub readonly_paths: Vec<String>,
    /// Of which the default kind is the runtime's own profile.
    #[prost(message, optional, tag = "15")]
    pub seccomp: Option<Nothing>,
    /// Likewise.
    #[prost(message, optional, tag = "16")]
    pub apparmor: Option<Profile>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Profile {
    /// 0: the runtime's own, 1: none.
    #[prost(int32, tag = "1")]
    pub kind: i32,
}

#[derive(Clone, PartialEq, Message)]
pub struct Capabilities {
    #[prost(string, repeated, tag = "1")]
    pub add: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub drop: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Number {
    #[prost(int64, tag = "1")]
    pub value: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ExecSync {
    #[prost(string, tag = "1")]
    container: String,
    #[prost(string, repeated, tag = "2")]
    command: Vec<String>,
    #[prost(int64, tag = "3")]
    timeout_s: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ExecSyncAnswer {
    #[prost(bytes = "vec", tag = "1")]
    stdout: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    stderr: Vec<u8>,
    #[prost(int32, tag = "3")]
    exit_code: i32,
}

/// `NamespaceMode.NODE`: a network of its own would need CNI plugins.
const NODE: i32 = 2;
/// `NamespaceMode.CONTAINER`
const CONTAINER: i32 = 1;

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()))
        .collect()
}

/// A pod in namespace `ml` with the host's network.
pub fn pod_config(
    name: &str,
    uid: &str,
    cgroup_parent: &str,
    labels: &[(&str, &str)],
    annotations: &[(&str, &str)],
) -> PodSandboxConfig {
    let namespaces = Namespaces {
        network: NODE,
        pid: CONTAINER,
    };
    PodSandboxConfig {
        metadata: Some(PodMetadata {
            name: name.into(),
            uid: uid.into(),
            namespace: "ml".into(),
        }),
        log_directory: String::new(),
        labels: map(labels),
        annotations: map(annotations),
        linux: Some(LinuxPod {
            cgroup_parent: cgroup_parent.into(),
            security: Some(PodSecurity {
                namespaces: Some(namespaces),
                privileged: true,
            }),
        }),
    }
}

/// A container as wanted, in namespaces of its own but for the network.
pub fn container_config(wanted: &Wanted<'_>) -> ContainerConfig {
    let text = |text: &str| Some(Text { text: text.into() });
    let mounts = wanted.mounts.iter().map(|(from, to)| Mount {
        container_path: (*to).into(),
        host_path: (*from).into(),
        readonly: true,
    });
    let devices = wanted.devices.iter().map(|(from, to)| Device {
        container_path: (*to).into(),
        host_path: (*from).into(),
        permissions: "rwm".into(),
    });
    let namespaces = Namespaces {
        network: NODE,
        pid: CONTAINER,
    };
    ContainerConfig {
        metadata: text(wanted.name),
        image: text(wanted.image),
        command: wanted.command.iter().map(|part| (*part).into()).collect(),
        args: Vec::new(),
        env: Vec::new(),
        mounts: mounts.collect(),
        devices: devices.collect(),
        labels: map(wanted.labels),
        log_path: String::new(),
        linux: Some(LinuxContainer {
            security: Some(ContainerSecurity {
                privileged: wanted.privileged,
                namespaces: Some(namespaces),
                ..ContainerSecurity::default()
            }),
        }),
    }
}

/// The same pod without privileges, with a folder for logs and perhaps the node's process ids.
pub fn as_specified(pod: &mut PodSandboxConfig, logs: &Path, host_pid: bool) {
    pod.log_directory = logs.display().to_string();
    let security = pod.linux.as_mut().and_then(|linux| linux.security.as_mut());
    if let Some(security) = security {
        security.privileged = false;
        security.namespaces = Some(namespaces_of(host_pid));
    }
}

fn namespaces_of(host_pid: bool) -> Namespaces {
    Namespaces {
        network: NODE,
        pid: if host_pid { NODE } else { CONTAINER },
    }
}

/// A container of an image's own program.
pub fn specified(
    (name, image): (&str, &str),
    args: Vec<String>,
    env: Vec<Variable>,
    mounts: Vec<Mount>,
    security: ContainerSecurity,
    host_pid: bool,
) -> ContainerConfig {
    let text = |text: &str| Some(Text { text: text.into() });
    ContainerConfig {
        metadata: text(name),
        image: text(image),
        args,
        env,
        mounts,
        log_path: format!("{name}.log"),
        linux: Some(LinuxContainer {
            security: Some(ContainerSecurity {
                namespaces: Some(namespaces_of(host_pid)),
                ..security
            }),
        }),
        ..ContainerConfig::default()
    }
}

/// A client that waits for each answer.
#[derive(Debug)]
pub struct Runtime {
    tokio: tokio::runtime::Runtime,
    grpc: Grpc<Channel>,
}

type Answer<A> = Result<A, String>;

impl Runtime {
    pub fn new(socket: &Path) -> Self {
        let tokio = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a tokio runtime");
        let endpoint =
            Endpoint::from_shared(format!("unix:{}", socket.display())).expect("an address");
        let _inside = tokio.enter();
        let grpc = Grpc::new(endpoint.connect_lazy());
        drop(_inside);
        Self { tokio, grpc }
    }

    /// Does it answer?
    pub fn is_ready(&self) -> bool {
        self.runtime::<_, Nothing>("Status", Nothing {}).is_ok()
    }

    /// The id of a stored image.
    pub fn image(&self, name: &str) -> Option<String> {
        let request = Holder {
            inner: Some(Text { text: name.into() }),
        };
        let answer: Holder = self
            .call("/runtime.v1.ImageService/ImageStatus", request)
            .ok()?;
        Some(answer.inner?.text)
    }

    pub fn run_pod(&self, config: &PodSandboxConfig) -> Answer<String> {
        let request = RunPod {
            config: Some(config.clone()),
        };
        self.runtime::<_, Text>("RunPodSandbox", request)
            .map(|id| id.text)
    }

    pub fn create(
        &self,
        pod: &str,
        sandbox: &PodSandboxConfig,
        config: ContainerConfig,
    ) -> Answer<String> {
        let request = CreateContainer {
            pod: pod.into(),
            config: Some(config),
            sandbox: Some(sandbox.clone()),
        };
        self.runtime::<_, Text>("CreateContainer", request)
            .map(|id| id.text)
    }

    pub fn start(&self, container: &str) -> Answer<()> {
        self.runtime::<_, Nothing>(
            "StartContainer",
            Text {
                text: container.into(),
            },
        )
        .map(drop)
    }

    pub fn exec(&self, container: &str, command: &[&str]) -> Answer<String> {
        let command = command.iter().map(|part| (*part).into()).collect();
        let request = ExecSync {
            container: container.into(),
            command,
            timeout_s: 30,
        };
        let answer: ExecSyncAnswer = self.runtime("ExecSync", request)?;
        Ok(String::from_utf8_lossy(&answer.stdout).into_owned())
    }

    /// The same, but a program that fails is an error, with what it wrote.
    pub fn try_exec(&self, container: &str, command: &[&str]) -> Answer<String> {
        let request = ExecSync {
            container: container.into(),
            command: command.iter().map(|part| (*part).into()).collect(),
            timeout_s: 30,
        };
        let answer: ExecSyncAnswer = self.runtime("ExecSync", request)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match answer.exit_code {
            0 => Ok(text(&answer.stdout)),
            code => Err(format!("ended with {code}: {}", text(&answer.stderr))),
        }
    }

    pub fn remove(&self, container: &str) -> Answer<()> {
        self.runtime::<_, Nothing>(
            "RemoveContainer",
            Text {
                text: container.into(),
            },
        )
        .map(drop)
    }

    /// Stops and removes every pod with all that is in it.
    pub fn remove_all(&self) {
        let Ok(pods) = self.runtime::<_, List>("ListPodSandbox", Nothing {}) else {
            return;
        };
        for pod in pods.items {
            for call in ["StopPodSandbox", "RemovePodSandbox"] {
                let _ = self.runtime::<_, Nothing>(call, pod.clone());
            }
        }
    }

    fn runtime<Q: Message + 'static, A: Message + Default + 'static>(
        &self,
        call: &str,
        request: Q,
    ) -> Answer<A> {
        self.call(&format!("/runtime.v1.RuntimeService/{call}"), request)
    }

    fn call<Q: Message + 'static, A: Message + Default + 'static>(
        &self,
        path: &str,
        request: Q,
    ) -> Answer<A> {
        let mut grpc = self.grpc.clone();
        let name: PathAndQuery = path.parse().map_err(|error| format!("{path}: {error}"))?;
        let exchange = async {
            grpc.ready()
                .await
                .map_err(|error| format!("{path}: {error}"))?;
            let codec = ProstCodec::<Q, A>::default();
            let answer = grpc.unary(Request::new(request), name, codec).await;
            answer
                .map(tonic::Response::into_inner)
                .map_err(|status| format!("{path}: {status}"))
        };
        let bounded = async { tokio::time::timeout(Duration::from_secs(60), exchange).await };
        let answer = self.tokio.handle().block_on(bounded);
        answer.map_err(|_| format!("{path}: no answer"))?
    }
}
