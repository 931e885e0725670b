//! A runtime that speaks the Docker Engine API over a Unix socket: Docker, and Podman's compatible service.
//!
//! One connection a request: a look-up is rare, and a broken connection then concerns nobody else.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::{
    Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
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
                .map_err(|error| match error.is::<LengthLimitError>() {
                    true => Failure::Refused(super::one_line(&error.to_string())),
                    false => broken(&*error),
                })
        });
        let bytes = answer.await.map_err(|_| Failure::Timeout)??.to_bytes();
        serde_json::from_slice(&bytes).map_err(|error| refused(&error))
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
            other => Err(Failure::Refused(format!(
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
                let event: Event =
                    serde_json::from_slice(&line).map_err(|error| refused(&error))?;
                return Ok(Some(event.actor.id));
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return Err(Failure::Refused(format!(
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

fn refused(error: &serde_json::Error) -> Failure {
    Failure::Refused(super::one_line(&error.to_string()))
}

/// Go writes null for whatever is empty, wherever it may be so.
fn or_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The same for lists and what they hold.
fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let found: Vec<Option<T>> = or_empty(deserializer)?;
    Ok(found.into_iter().flatten().collect())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Version {
    #[serde(deserialize_with = "list")]
    components: Vec<Component>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Component {
    #[serde(deserialize_with = "or_empty")]
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Listed {
    #[serde(deserialize_with = "or_empty", rename = "Id")]
    id: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Event {
    #[serde(deserialize_with = "or_empty", rename = "Actor")]
    actor: Actor,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Actor {
    #[serde(deserialize_with = "or_empty", rename = "ID")]
    id: String,
}

/// `GET /containers/ID/json`, as far as it is read. Whatever may be left out may be null.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Inspected {
    #[serde(deserialize_with = "or_empty")]
    id: String,
    #[serde(deserialize_with = "or_empty")]
    name: String,
    #[serde(deserialize_with = "or_empty")]
    created: String,
    #[serde(deserialize_with = "or_empty")]
    image: String,
    #[serde(deserialize_with = "or_empty")]
    state: State,
    #[serde(deserialize_with = "or_empty")]
    config: Config,
    #[serde(deserialize_with = "or_empty")]
    host_config: HostConfig,
    #[serde(deserialize_with = "list")]
    mounts: Vec<InspectedMount>,
    #[serde(deserialize_with = "or_empty")]
    network_settings: NetworkSettings,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct State {
    #[serde(deserialize_with = "or_empty")]
    started_at: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Config {
    #[serde(deserialize_with = "or_empty")]
    image: String,
    #[serde(deserialize_with = "or_empty")]
    user: String,
    #[serde(deserialize_with = "or_empty")]
    labels: BTreeMap<String, Option<String>>,
    #[serde(deserialize_with = "list")]
    env: Vec<String>,
    #[serde(deserialize_with = "or_empty")]
    healthcheck: Healthcheck,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Healthcheck {
    #[serde(deserialize_with = "list")]
    test: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct HostConfig {
    #[serde(deserialize_with = "or_empty")]
    privileged: bool,
    #[serde(rename = "ReadonlyRootfs", deserialize_with = "or_empty")]
    read_only: bool,
    #[serde(deserialize_with = "or_empty")]
    network_mode: String,
    #[serde(deserialize_with = "or_empty")]
    pid_mode: String,
    #[serde(deserialize_with = "or_empty")]
    ipc_mode: String,
    #[serde(deserialize_with = "or_empty")]
    runtime: String,
    #[serde(deserialize_with = "list")]
    devices: Vec<HostDevice>,
    #[serde(deserialize_with = "list")]
    device_requests: Vec<DeviceRequest>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct HostDevice {
    #[serde(deserialize_with = "or_empty")]
    path_on_host: String,
    #[serde(deserialize_with = "or_empty")]
    path_in_container: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct DeviceRequest {
    #[serde(deserialize_with = "or_empty")]
    driver: String,
    #[serde(deserialize_with = "or_empty")]
    count: i64,
    #[serde(deserialize_with = "list", rename = "DeviceIDs")]
    device_ids: Vec<String>,
    #[serde(deserialize_with = "list")]
    capabilities: Vec<Vec<Option<String>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct InspectedMount {
    #[serde(deserialize_with = "or_empty")]
    source: String,
    #[serde(deserialize_with = "or_empty")]
    destination: String,
    #[serde(deserialize_with = "or_empty")]
    mode: String,
    #[serde(deserialize_with = "or_empty", rename = "RW")]
    rw: bool,
    #[serde(deserialize_with = "or_empty")]
    propagation: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct NetworkSettings {
    #[serde(deserialize_with = "or_empty", rename = "IPAddress")]
    ip_address: String,
    #[serde(deserialize_with = "or_empty")]
    networks: BTreeMap<String, Option<Network>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Network {
    #[serde(deserialize_with = "or_empty", rename = "IPAddress")]
    ip_address: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct InspectedImage {
    #[serde(deserialize_with = "or_empty")]
    id: String,
    #[serde(deserialize_with = "list")]
    repo_tags: Vec<String>,
    #[serde(deserialize_with = "list")]
    repo_digests: Vec<String>,
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
    let given = config.labels.iter();
    let given = given.map(|(name, value)| (name, value.as_deref().unwrap_or_default()));
    let labels = pairs(given, &mut cut);
    let networks = found.network_settings.networks.values().flatten();
    let ip = std::iter::once(&found.network_settings.ip_address)
        .chain(networks.map(|network| &network.ip_address))
        .find(|ip| !ip.is_empty());
    let mounts = found.mounts.iter().map(|mount| Mount {
        source: text(&mount.source),
        destination: text(&mount.destination),
        mode: text(&mount.mode),
        writable: mount.rw,
        propagation: text(&mount.propagation),
    });
    // The first word says how the rest is run: NONE, CMD or CMD-SHELL.
    let test = config.healthcheck.test.get(1..);
    let healthcheck = test.unwrap_or_default().join(" ");
    let ip = text(ip.map_or("", String::as_str));
    let container = Container {
        id: text(&found.id),
        kind,
        name: text(found.name.trim_start_matches('/')),
        image: image(&config.image, &found.image, stored),
        mounts: bounded(mounts, MOUNTS_MAX, &mut cut),
        privileged: Some(host.privileged),
        read_only: Some(host.read_only),
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
    let tags = || stored.repo_tags.iter().map(String::as_str);
    let digests = || stored.repo_digests.iter().map(String::as_str);
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
    let devices = host.devices.iter().filter_map(|device| {
        let names = [&device.path_on_host, &device.path_in_container];
        names.into_iter().find(|path| is_gpu_node(path))
    });
    let mut gpus: Vec<Box<str>> = devices.map(|path| text(path)).collect();
    for request in &host.device_requests {
        let names = request.device_ids.iter();
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
            "HostConfig":{{"Privileged":true,"ReadonlyRootfs":true,"NetworkMode":"host","PidMode":"","IpcMode":"private","Devices":[
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
        assert_eq!(found.read_only, Some(true));
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
    fn null_stands_for_nothing_wherever_it_stands() {
        let nulls = [
            r#""Config":null"#,
            r#""Config":{"Image":null,"User":null,"Env":[null],"Healthcheck":null,"Labels":null}"#,
            r#""Config":{"Labels":{"a":null},"Healthcheck":{"Test":null}}"#,
            r#""State":null,"Mounts":[null],"Name":null,"Created":null,"Image":null"#,
            r#""State":{"StartedAt":null},"Mounts":[{"Source":null,"RW":null}]"#,
            r#""HostConfig":null,"NetworkSettings":null"#,
            r#""HostConfig":{"Privileged":null,"Devices":[null],"DeviceRequests":[{"Count":null,"Capabilities":[null,["gpu",null]]}]}"#,
            r#""NetworkSettings":{"IPAddress":null,"Networks":{"x":null}}"#,
        ];
        for part in nulls {
            let found = read(
                &format!(r#"{{"Id":"{HEX}",{part}}}"#),
                r#"{"RepoTags":[null]}"#,
            );
            assert_eq!(&*found.id, HEX, "{part}");
        }
        let found = read(r#"{"Config":{"Labels":{"a":null,"b":"1"}}}"#, "{}");
        assert_eq!(
            (find(&found.labels, "a"), find(&found.labels, "b")),
            (Some(""), Some("1"))
        );
        let listed: Vec<Listed> = serde_json::from_str(r#"[{"Id":null},{}]"#).expect("a list");
        assert_eq!(listed.len(), 2);
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
