//! A runtime that speaks the Docker Engine API over a Unix socket: Docker, and Podman's compatible service.
//!
//! One connection a request: a look-up is rare, and a broken connection then concerns nobody else.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{
    Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{net::UnixStream, task::AbortHandle, time::timeout};

use super::{
    Failure,
    metadata::{
        self, Container, Image, MOUNTS_MAX, Mount, Pod, bounded, find, is_gpu_node, nvidia_visible,
        pairs, text,
    },
};

/// An answer longer than this is refused.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// An event longer than this is refused.
const LINE_BYTES_MAX: usize = 1 << 20;

/// One runtime.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the runtime behind this socket. Does not connect yet.
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.into(),
        }
    }

    /// `container.type` of this runtime's containers.
    pub async fn kind(&self) -> Result<&'static str, Failure> {
        let version: Version = self.get("/version").await?;
        let is_podman = version
            .components
            .iter()
            .any(|component| component.name.starts_with("Podman"));
        Ok(if is_podman { "podman" } else { "docker" })
    }

    /// Ids of all containers.
    pub async fn ids(&self) -> Result<Vec<String>, Failure> {
        let listed: Vec<Listed> = self.get("/containers/json?all=1").await?;
        Ok(listed.into_iter().map(|container| container.id).collect())
    }

    /// What the runtime knows of a container; `None` where it knows none of this id.
    pub async fn container(
        &self,
        id: &str,
        kind: &'static str,
    ) -> Result<Option<Container>, Failure> {
        let found: Inspected = match self.get(&format!("/containers/{id}/json")).await {
            Ok(found) => found,
            Err(Failure::NotFound) => return Ok(None),
            Err(failure) => return Err(failure),
        };
        // Docker completes a prefix; what was asked for is in full.
        if found.id != id {
            return Ok(None);
        }
        let image: InspectedImage = match self.get(&format!("/images/{}/json", found.image)).await {
            Ok(image) => image,
            // Removed while its container lives.
            Err(Failure::NotFound) => InspectedImage::default(),
            Err(failure) => return Err(failure),
        };
        Ok(Some(container(&found, &image, kind)))
    }

    /// Ids of containers as they are made and started, from now on.
    pub async fn events(&self) -> Result<Events, Failure> {
        let filter = "%7B%22type%22%3A%5B%22container%22%5D%2C%22event%22%3A%5B%22create%22%2C%22start%22%5D%7D";
        let (body, connection) = self.open(&format!("/events?filters={filter}")).await?;
        Ok(Events {
            body,
            buffer: Vec::new(),
            _connection: connection,
        })
    }

    async fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A, Failure> {
        let answer = timeout(super::CALL, async {
            let (body, _connection) = self.open(path).await?;
            Limited::new(body, ANSWER_BYTES_MAX)
                .collect()
                .await
                .map_err(|error| broken(&*error))
        });
        let bytes = answer.await.map_err(|_| Failure::Timeout)??.to_bytes();
        serde_json::from_slice(&bytes).map_err(|error| broken(&error))
    }

    /// The body of a successful answer, and what keeps its connection going.
    async fn open(&self, path: &str) -> Result<(Incoming, Connection), Failure> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|error| broken(&error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(&error))?;
        let connection = Connection(tokio::spawn(connection).abort_handle());
        let request = Request::get(path)
            .header("Host", "runtime")
            .body(Empty::<Bytes>::new())
            .map_err(|error| broken(&error))?;
        let answer = sender
            .send_request(request)
            .await
            .map_err(|error| broken(&error))?;
        match answer.status() {
            StatusCode::OK => Ok((answer.into_body(), connection)),
            StatusCode::NOT_FOUND => Err(Failure::NotFound),
            other => Err(Failure::Broken(format!(
                "HTTP status {other} for {}",
                super::one_line(path)
            ))),
        }
    }
}

/// Ends the task that serves a connection.
#[derive(Debug)]
struct Connection(AbortHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The stream of events: a JSON object a line.
#[derive(Debug)]
pub struct Events {
    body: Incoming,
    buffer: Vec<u8>,
    _connection: Connection,
}

impl Events {
    /// The container of the next event; `None` at the end. Waits as long as nothing happens.
    pub async fn next_id(&mut self) -> Result<Option<String>, Failure> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let event: Event = serde_json::from_slice(&line).map_err(|error| broken(&error))?;
                return Ok(Some(event.actor.id));
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return Err(Failure::Broken(format!(
                    "an event longer than {LINE_BYTES_MAX} bytes"
                )));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                Some(Err(error)) => return Err(broken(&error)),
                None => return Ok(None),
            }
        }
    }
}

fn broken(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::Broken(super::one_line(&error.to_string()))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Version {
    components: Vec<Component>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Component {
    name: String,
}

#[derive(Debug, Deserialize)]
struct Listed {
    #[serde(rename = "Id")]
    id: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Event {
    #[serde(rename = "Actor")]
    actor: Actor,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Actor {
    #[serde(rename = "ID")]
    id: String,
}

/// `GET /containers/ID/json`, as far as it is read. Lists and maps may be null.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Inspected {
    id: String,
    name: String,
    created: String,
    image: String,
    state: State,
    config: Config,
    host_config: HostConfig,
    mounts: Option<Vec<InspectedMount>>,
    network_settings: NetworkSettings,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct State {
    started_at: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Config {
    image: String,
    user: String,
    labels: Option<BTreeMap<String, String>>,
    env: Option<Vec<String>>,
    healthcheck: Option<Healthcheck>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Healthcheck {
    test: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct HostConfig {
    privileged: bool,
    network_mode: String,
    pid_mode: String,
    ipc_mode: String,
    runtime: String,
    devices: Option<Vec<HostDevice>>,
    device_requests: Option<Vec<DeviceRequest>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct HostDevice {
    path_on_host: String,
    path_in_container: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct DeviceRequest {
    driver: String,
    count: i64,
    #[serde(rename = "DeviceIDs")]
    device_ids: Option<Vec<String>>,
    capabilities: Option<Vec<Vec<String>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct InspectedMount {
    source: String,
    destination: String,
    mode: String,
    #[serde(rename = "RW")]
    rw: bool,
    propagation: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct NetworkSettings {
    #[serde(rename = "IPAddress")]
    ip_address: String,
    networks: Option<BTreeMap<String, Network>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Network {
    #[serde(rename = "IPAddress")]
    ip_address: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct InspectedImage {
    id: String,
    repo_tags: Option<Vec<String>>,
    repo_digests: Option<Vec<String>>,
}

/// What two answers of a runtime say of a container; `None` where one of them is no such answer.
pub fn read(container_json: &[u8], image_json: &[u8], kind: &'static str) -> Option<Container> {
    let found = serde_json::from_slice(container_json).ok()?;
    let stored = serde_json::from_slice(image_json).ok()?;
    Some(container(&found, &stored, kind))
}

fn container(found: &Inspected, stored: &InspectedImage, kind: &'static str) -> Container {
    let mut cut = false;
    let config = &found.config;
    let host = &found.host_config;
    let labels = pairs(config.labels.iter().flatten(), &mut cut);
    let networks = found.network_settings.networks.iter().flatten();
    let ip = std::iter::once(&found.network_settings.ip_address)
        .chain(networks.map(|(_, network)| &network.ip_address))
        .find(|ip| !ip.is_empty());
    let mounts = found.mounts.iter().flatten().map(|mount| Mount {
        source: text(&mount.source),
        destination: text(&mount.destination),
        mode: text(&mount.mode),
        writable: mount.rw,
        propagation: text(&mount.propagation),
    });
    let test = config
        .healthcheck
        .as_ref()
        .and_then(|check| check.test.as_deref());
    // The first word says how the rest is run: NONE, CMD or CMD-SHELL.
    let healthcheck = test
        .and_then(|test| test.get(1..))
        .unwrap_or_default()
        .join(" ");
    let ip = text(ip.map_or("", String::as_str));
    let container = Container {
        id: text(&found.id),
        kind,
        name: text(found.name.trim_start_matches('/')),
        image: image(&config.image, &found.image, stored),
        mounts: bounded(mounts, MOUNTS_MAX, &mut cut),
        privileged: Some(host.privileged),
        user: text(&config.user),
        created_ns: time_ns(&found.created),
        started_ns: time_ns(&found.state.started_at),
        host_network: Some(host.network_mode == "host"),
        host_pid: Some(host.pid_mode == "host"),
        host_ipc: Some(host.ipc_mode == "host"),
        gpus: bounded(gpus(config, host), metadata::GPUS_MAX, &mut cut),
        healthcheck: text(&healthcheck),
        pod: pod(&labels, &ip),
        is_sandbox: find(&labels, "io.kubernetes.docker.type") == Some("podsandbox"),
        labels,
        ip,
        ..Container::default()
    };
    Container { cut, ..container }
}

/// The names that the container was started with, unless it was by id; then the image's own.
fn image(given: &str, id: &str, stored: &InspectedImage) -> Image {
    let id = if stored.id.is_empty() { id } else { &stored.id };
    let hex = id.trim_start_matches("sha256:");
    let by_id = given.is_empty() || hex.starts_with(given.trim_start_matches("sha256:"));
    let tags = || stored.repo_tags.iter().flatten().map(String::as_str);
    let digests = || stored.repo_digests.iter().flatten().map(String::as_str);
    let given = if by_id {
        tags().chain(digests()).next().unwrap_or_default()
    } else {
        given
    };
    let mut image = Image::parse(given);
    if image.digest.is_empty() {
        let of = |name: &'_ str| {
            name.split_once('@')
                .map(|(repository, digest)| (repository.to_owned(), text(digest)))
        };
        let same = digests()
            .filter_map(of)
            .find(|(repository, _)| **repository == *image.repository);
        image.digest = same
            .or_else(|| digests().find_map(of))
            .map(|(_, digest)| digest)
            .unwrap_or_default();
    }
    image.id = text(hex);
    image
}

/// What a kubelet with Docker behind it (cri-dockerd) writes into labels.
fn pod(labels: &[metadata::Pair], ip: &str) -> Option<Pod> {
    let label = |name: &str| text(find(labels, name).unwrap_or_default());
    let name = find(labels, "io.kubernetes.pod.name")?;
    Some(Pod {
        name: text(name),
        namespace: label("io.kubernetes.pod.namespace"),
        uid: label("io.kubernetes.pod.uid"),
        sandbox_id: label("io.kubernetes.sandbox.id"),
        ip: ip.into(),
        ..Pod::default()
    })
}

fn gpus(config: &Config, host: &HostConfig) -> Vec<Box<str>> {
    // A node may have another name inside; by the one that says what it is.
    let devices = host.devices.iter().flatten().filter_map(|device| {
        let names = [&device.path_on_host, &device.path_in_container];
        names.into_iter().find(|path| is_gpu_node(path))
    });
    let mut gpus: Vec<Box<str>> = devices.map(|path| text(path)).collect();
    for request in host.device_requests.iter().flatten() {
        let names = request.device_ids.iter().flatten();
        if request.driver == "cdi" {
            gpus.extend(names.map(|name| text(name)));
            continue;
        }
        let is_gpu = request
            .capabilities
            .iter()
            .flatten()
            .flatten()
            .any(|word| word == "gpu");
        if !is_gpu && request.driver != "nvidia" {
            continue;
        }
        let named = gpus.len();
        gpus.extend(names.flat_map(|name| nvidia_visible(name)));
        if gpus.len() == named {
            // Docker's `--gpus all` is a count of -1, `--gpus 2` any two.
            let count = if request.count < 0 {
                "all".to_owned()
            } else {
                format!("any-{}", request.count)
            };
            gpus.extend(nvidia_visible(&count));
        }
    }
    // The variable stands in many images and means something to NVIDIA's runtime only.
    if host.runtime == "nvidia" {
        let values = config
            .env
            .iter()
            .flatten()
            .filter_map(|entry| entry.strip_prefix("NVIDIA_VISIBLE_DEVICES="));
        gpus.extend(values.flat_map(nvidia_visible));
    }
    gpus.sort_unstable();
    gpus.dedup();
    gpus
}

/// RFC 3339; 0 for the year 1, by which Docker says "never".
fn time_ns(text: &str) -> u64 {
    let time: Option<jiff::Timestamp> = text.parse().ok();
    time.and_then(|time| u64::try_from(time.as_nanosecond()).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn read(json: &str, image: &str) -> Container {
        super::read(json.as_bytes(), image.as_bytes(), "docker").expect("a container and its image")
    }

    #[test]
    fn an_inspected_container_is_taken_over() {
        let json = format!(
            r#"{{"Id":"{HEX}","Name":"/ann","Created":"2026-11-20T10:00:00.5Z","Image":"sha256:{HEX}",
            "State":{{"StartedAt":"0001-01-01T00:00:00Z"}},
            "Config":{{"Image":"busybox:1","User":"7:8","Labels":{{"b":"2","a":"1"}},"Env":null,
              "Healthcheck":{{"Test":["CMD-SHELL","true || false"]}}}},
            "HostConfig":{{"Privileged":true,"NetworkMode":"host","PidMode":"","IpcMode":"private","Devices":[
              {{"PathOnHost":"/dev/nvidia0","PathInContainer":"/x"}},{{"PathOnHost":"/dev/fuse"}},{{"PathOnHost":"/y","PathInContainer":"/dev/kfd"}}],
              "DeviceRequests":[{{"Driver":"","Count":-1,"DeviceIDs":null,"Capabilities":[["gpu"]]}}]}},
            "Mounts":[{{"Source":"/a","Destination":"/b","Mode":"ro","RW":false,"Propagation":"rprivate"}}],
            "NetworkSettings":{{"IPAddress":"","Networks":{{"x":{{"IPAddress":"10.0.0.7"}}}}}},"Unknown":[1]}}"#
        );
        let found = read(
            &json,
            r#"{"Id":"","RepoTags":null,"RepoDigests":["other@sha256:1","busybox@sha256:2"]}"#,
        );
        assert_eq!(
            (&*found.name, &*found.user, &*found.ip),
            ("ann", "7:8", "10.0.0.7")
        );
        assert_eq!(
            (
                &*found.image.repository,
                &*found.image.tag,
                &*found.image.digest
            ),
            ("busybox", "1", "sha256:2")
        );
        assert_eq!(
            (&*found.image.id, &*found.healthcheck),
            (HEX, "true || false")
        );
        assert_eq!(find(&found.labels, "a"), Some("1"));
        assert_eq!(
            (found.privileged, found.host_network, found.host_pid),
            (Some(true), Some(true), Some(false))
        );
        assert_eq!(
            (found.created_ns, found.started_ns),
            (1_795_168_800_500_000_000, 0)
        );
        assert_eq!(
            found.gpus.iter().map(|gpu| &**gpu).collect::<Vec<_>>(),
            ["/dev/kfd", "/dev/nvidia0", "nvidia.com/gpu=all"]
        );
        assert_eq!(
            (&*found.mounts[0].source, found.mounts[0].writable),
            ("/a", false)
        );
        assert!(found.pod.is_none() && !found.cut);
    }

    #[test]
    fn an_image_given_by_id_gets_its_own_name() {
        let stored =
            |tags: &str| format!(r#"{{"Id":"sha256:{HEX}","RepoTags":[{tags}],"RepoDigests":[]}}"#);
        let check = |given: &str, tags: &str, expected: &str| {
            let json = format!(
                r#"{{"Id":"{HEX}","Image":"sha256:{HEX}","Config":{{"Image":"{given}"}}}}"#
            );
            assert_eq!(
                &*read(&json, &stored(tags)).image.given,
                expected,
                "{given}"
            );
        };
        check("0123456789ab", r#""a:1""#, "a:1");
        check(&format!("sha256:{HEX}"), r#""a:1""#, "a:1");
        check("", "", "");
        check("deadbeef:1", r#""a:1""#, "deadbeef:1");
    }

    #[test]
    fn a_kubelets_labels_name_the_pod() {
        let labels = r#"{"io.kubernetes.pod.name":"p","io.kubernetes.pod.namespace":"n","io.kubernetes.pod.uid":"u"}"#;
        let found = read(&format!(r#"{{"Config":{{"Labels":{labels}}}}}"#), "{}");
        let pod = found.pod.expect("a pod");
        assert_eq!((&*pod.name, &*pod.namespace, &*pod.uid), ("p", "n", "u"));
    }
}
