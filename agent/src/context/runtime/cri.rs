//! A runtime that speaks `runtime.v1` over a Unix socket: containerd and CRI-O.

pub mod messages;

mod info;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::http::uri::PathAndQuery;
use prost::Message;
use tonic::{
    Code, Request, Status, Streaming,
    client::Grpc,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use super::{
    Failure,
    metadata::{self, Container, Image, MOUNTS_MAX, Mount, Pod, bounded, pairs, text},
    recent::Recent,
};
use info::Info;
use messages as m;

/// An answer longer than this is refused: a status is some kilobytes, a list of 10,000 containers some megabytes.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// One runtime; the connection is made with the first call, and again after it broke.
#[derive(Clone, Debug)]
pub struct Client {
    grpc: Grpc<Channel>,
    sandboxes: Arc<Recent<Sandbox>>,
    images: Arc<Recent<m::Image>>,
}

/// A sandbox, and which namespaces its containers share with the host.
type Sandbox = (Container, Option<m::NamespaceOption>);

/// How long a sandbox or an image is not asked for again.
const RECENT: Duration = Duration::from_secs(10);

impl Client {
    /// A client of the runtime behind this socket. Does not connect yet.
    pub fn new(socket: &Path) -> Result<Self, Failure> {
        let address = format!("unix:{}", socket.display());
        let endpoint = Endpoint::from_shared(address)
            .map_err(|error| Failure::Broken(error.to_string()))?
            .connect_timeout(super::CALL);
        let grpc = Grpc::new(endpoint.connect_lazy()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        Ok(Self {
            grpc,
            sandboxes: Arc::new(Recent::new(RECENT)),
            images: Arc::new(Recent::new(RECENT)),
        })
    }

    /// `container.type` of this runtime's containers.
    pub async fn kind(&self) -> Result<&'static str, Failure> {
        let version: m::VersionResponse = self
            .call("/runtime.v1.RuntimeService/Version", m::VersionRequest {})
            .await?;
        Ok(match version.runtime_name.as_str() {
            "containerd" => "containerd",
            "cri-o" => "cri-o",
            "docker" => "docker",
            _ => "cri",
        })
    }

    /// Ids of all containers and sandboxes.
    pub async fn ids(&self) -> Result<Vec<String>, Failure> {
        let containers: m::ListContainersResponse = self
            .call(
                "/runtime.v1.RuntimeService/ListContainers",
                m::ListContainersRequest {},
            )
            .await?;
        let sandboxes: m::ListPodSandboxResponse = self
            .call(
                "/runtime.v1.RuntimeService/ListPodSandbox",
                m::ListPodSandboxRequest {},
            )
            .await?;
        let all = containers.containers.into_iter().chain(sandboxes.items);
        Ok(all.map(|listed| listed.id).collect())
    }

    /// The containers that come and go, from now on. [`Failure::Unsupported`] before containerd 1.7.
    pub async fn events(&self) -> Result<Streaming<m::ContainerEventResponse>, Failure> {
        let mut grpc = self.grpc.clone();
        grpc.ready()
            .await
            .map_err(|error| Failure::Broken(error.to_string()))?;
        let path = PathAndQuery::from_static("/runtime.v1.RuntimeService/GetContainerEvents");
        let codec = ProstCodec::default();
        let answer = grpc
            .server_streaming(Request::new(m::GetEventsRequest {}), path, codec)
            .await
            .map_err(|status| failure(&status))?;
        Ok(answer.into_inner())
    }

    /// What the runtime knows of a container or sandbox; `None` where it knows none of this id.
    pub async fn container(
        &self,
        id: &str,
        kind: &'static str,
    ) -> Result<Option<Container>, Failure> {
        let request = m::ContainerStatusRequest {
            container_id: id.into(),
            verbose: true,
        };
        let path = "/runtime.v1.RuntimeService/ContainerStatus";
        match self
            .call::<_, m::ContainerStatusResponse>(path, request)
            .await
        {
            // An id is asked for in full; a runtime that completes a prefix must not answer for another.
            Ok(answer) => match answer.status {
                Some(status) if status.id == id => {
                    Ok(Some(self.complete(status, &answer.info, kind).await?))
                }
                _ => Ok(None),
            },
            Err(Failure::NotFound) => Ok(self.sandbox(id, kind).await?.map(|sandbox| sandbox.0)),
            Err(failure) => Err(failure),
        }
    }

    async fn complete(
        &self,
        status: m::ContainerStatus,
        verbose: &std::collections::BTreeMap<String, String>,
        kind: &'static str,
    ) -> Result<Container, Failure> {
        let info = Info::parse(verbose);
        let user_image = info.as_ref().map_or("", Info::user_image);
        let image = self.image(&status, user_image).await?;
        // The verbose part names it; where it does not, the label that every kubelet sets leads nowhere without a list.
        let sandbox = match sandbox_of(verbose) {
            Some(sandbox) => self.recent_sandbox(&sandbox, kind).await?,
            None => None,
        };
        Ok(described(&status, info, image, sandbox, kind))
    }

    /// The sandbox of a container: it is complete by then, and the same for all containers of its pod.
    async fn recent_sandbox(
        &self,
        id: &str,
        kind: &'static str,
    ) -> Result<Option<Sandbox>, Failure> {
        if let Some(sandbox) = self.sandboxes.get(id, Instant::now()) {
            return Ok(Some(sandbox));
        }
        let sandbox = self.sandbox(id, kind).await?;
        if let Some(sandbox) = &sandbox {
            self.sandboxes.put(id, sandbox.clone(), Instant::now());
        }
        Ok(sandbox)
    }

    async fn sandbox(&self, id: &str, kind: &'static str) -> Result<Option<Sandbox>, Failure> {
        let request = m::PodSandboxStatusRequest {
            pod_sandbox_id: id.into(),
            verbose: true,
        };
        let path = "/runtime.v1.RuntimeService/PodSandboxStatus";
        let answer: m::PodSandboxStatusResponse = match self.call(path, request).await {
            Ok(answer) => answer,
            Err(Failure::NotFound) => return Ok(None),
            Err(failure) => return Err(failure),
        };
        let Some(status) = answer.status.filter(|status| status.id == id) else {
            return Ok(None);
        };
        let mut cut = false;
        let info = Info::parse(&answer.info).unwrap_or_else(|| {
            cut = true;
            Info::default()
        });
        let metadata = status.metadata.unwrap_or_default();
        let ip = text(status.network.as_ref().map_or("", |network| &network.ip));
        let namespaces = status.linux.and_then(|linux| linux.namespaces?.options);
        let shares = |mode: fn(&m::NamespaceOption) -> i32| {
            namespaces.as_ref().map(|options| mode(options) == m::NODE)
        };
        let labels = pairs(&status.labels, &mut cut);
        let pod = Pod {
            name: text(&metadata.name),
            namespace: text(&metadata.namespace),
            uid: text(&metadata.uid),
            labels: labels.clone(),
            annotations: pairs(&status.annotations, &mut cut),
            sandbox_id: text(&status.id),
            ip: ip.clone(),
            cni: info.cni(),
        };
        let created_ns = u64::try_from(status.created_at).unwrap_or(0);
        let sandbox = Container {
            id: text(&status.id),
            kind,
            name: pod.name.clone(),
            image: Image::parse(info.image()),
            labels,
            privileged: info.privileged(),
            read_only: info.read_only(),
            user: info.user(),
            created_ns,
            started_ns: created_ns,
            host_network: shares(|options| options.network),
            host_pid: shares(|options| options.pid),
            host_ipc: shares(|options| options.ipc),
            ip,
            cni: pod.cni.clone(),
            gpus: bounded(info.gpus(), metadata::GPUS_MAX, &mut cut),
            pod: Some(pod),
            is_sandbox: true,
            cut,
            ..Container::default()
        };
        Ok(Some((sandbox, namespaces)))
    }

    /// All names of a container's image. A status may name it by its id alone, as the kubelet asks for it.
    async fn image(&self, status: &m::ContainerStatus, user_image: &str) -> Result<Image, Failure> {
        let spec = status.image.clone().unwrap_or_default();
        let wanted = [&status.image_id, &status.image_ref, &spec.image];
        let wanted = wanted.into_iter().find(|name| !name.is_empty());
        let wanted = wanted.map_or("", String::as_str);
        let stored = match self.images.get(wanted, Instant::now()) {
            Some(stored) => stored,
            None => {
                let stored = self.stored_image(wanted).await?;
                self.images.put(wanted, stored.clone(), Instant::now());
                stored
            }
        };
        let asked = [spec.user_specified_image.as_str(), user_image];
        Ok(names(&spec.image, &status.image_ref, asked, &stored))
    }

    async fn stored_image(&self, name: &str) -> Result<m::Image, Failure> {
        let request = m::ImageStatusRequest {
            image: Some(m::ImageSpec {
                image: name.into(),
                ..m::ImageSpec::default()
            }),
        };
        let path = "/runtime.v1.ImageService/ImageStatus";
        match self.call::<_, m::ImageStatusResponse>(path, request).await {
            Ok(answer) => Ok(answer.image.unwrap_or_default()),
            // It was removed while its container lives.
            Err(Failure::NotFound) => Ok(m::Image::default()),
            Err(failure) => Err(failure),
        }
    }

    async fn call<Q, A>(&self, path: &'static str, request: Q) -> Result<A, Failure>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = self.grpc.clone();
        let call = async {
            grpc.ready()
                .await
                .map_err(|error| Failure::Broken(error.to_string()))?;
            let codec = ProstCodec::<Q, A>::default();
            grpc.unary(
                Request::new(request),
                PathAndQuery::from_static(path),
                codec,
            )
            .await
            .map_err(|status| failure(&status))
        };
        let answer = tokio::time::timeout(super::CALL, call).await;
        Ok(answer.map_err(|_| Failure::Timeout)??.into_inner())
    }
}

/// What an error of a call means: whether the runtime is not there, or does not say what was asked.
pub fn failure(status: &Status) -> Failure {
    let message = super::one_line(status.message());
    match status.code() {
        Code::NotFound => Failure::NotFound,
        Code::Unimplemented => Failure::Unsupported,
        Code::DeadlineExceeded | Code::Cancelled => Failure::Timeout,
        Code::Unavailable => Failure::Broken(message),
        // Where the transport made the status, it carries the transport's error.
        _ if std::error::Error::source(status).is_some() => Failure::Broken(message),
        // containerd answers so for a container whose task is not there yet: it comes right by itself.
        _ => Failure::Refused(message),
    }
}

/// What a status and its verbose part say; that part is `None` where it makes no sense.
fn described(
    status: &m::ContainerStatus,
    info: Option<Info>,
    image: Image,
    sandbox: Option<Sandbox>,
    kind: &'static str,
) -> Container {
    let mut cut = info.is_none();
    let info = info.unwrap_or_default();
    let mounts = bounded(&status.mounts, MOUNTS_MAX, &mut cut);
    let user = status.user.as_ref().and_then(|user| user.linux.as_ref());
    let mut container = Container {
        id: text(&status.id),
        kind,
        name: text(
            status
                .metadata
                .as_ref()
                .map_or("", |metadata| &metadata.name),
        ),
        image,
        labels: pairs(&status.labels, &mut cut),
        mounts: mounts.into_iter().map(mount).collect(),
        privileged: info.privileged(),
        read_only: info.read_only(),
        user: user.map_or_else(
            || info.user(),
            |user| format!("{}:{}", user.uid, user.gid).into(),
        ),
        created_ns: u64::try_from(status.created_at).unwrap_or(0),
        started_ns: u64::try_from(status.started_at).unwrap_or(0),
        gpus: bounded(info.gpus(), metadata::GPUS_MAX, &mut cut),
        ..Container::default()
    };
    if let Some((sandbox, namespaces)) = sandbox {
        if let Some(namespaces) = namespaces {
            container.host_network = Some(namespaces.network == m::NODE);
            container.host_pid = Some(namespaces.pid == m::NODE);
            container.host_ipc = Some(namespaces.ipc == m::NODE);
        }
        cut |= sandbox.cut;
        container.ip = sandbox.ip;
        container.cni = sandbox.cni;
        container.pod = sandbox.pod;
    }
    container.cut = cut;
    container
}

/// What a runtime's bytes say of a container, without its image and its sandbox; `None` where they are no such answer.
pub fn read(answer: &[u8], kind: &'static str) -> Option<Container> {
    let answer = m::ContainerStatusResponse::decode(answer).ok()?;
    let info = Info::parse(&answer.info);
    let status = answer.status?;
    let reference = status.image_ref.as_str();
    let named = status.image.as_ref().map_or("", |image| &image.image);
    let user_image = info.as_ref().map_or("", Info::user_image);
    let image = names(named, reference, [user_image; 2], &m::Image::default());
    Some(described(&status, info, image, None, kind))
}

/// The sandbox's id: `sandboxID` in the info of both runtimes.
fn sandbox_of(verbose: &std::collections::BTreeMap<String, String>) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Of {
        #[serde(rename = "sandboxID", alias = "sandboxId")]
        sandbox: String,
    }
    let of: Of = serde_json::from_str(verbose.get("info")?).ok()?;
    (!of.sandbox.is_empty()).then_some(of.sandbox)
}

/// Which of an image's names is the container's, and its digest and id.
///
/// `named` is what the status says, `asked` what the pod's author wrote. Several tags may stand for one image; the one that was
/// asked for counts where the runtime confirms that the image has it.
fn names(named: &str, reference: &str, asked: [&str; 2], stored: &m::Image) -> Image {
    let is_name = |name: &str| !name.is_empty() && !is_id(name);
    let known = |name: &&str| {
        is_name(name)
            && (stored.repo_tags.iter().chain(&stored.repo_digests)).any(|known| known == name)
    };
    let given = asked
        .into_iter()
        .find(|name| known(name))
        .or_else(|| Some(named).filter(|name| is_name(name)))
        .or_else(|| {
            stored
                .repo_tags
                .iter()
                .chain(&stored.repo_digests)
                .next()
                .map(String::as_str)
        })
        .or_else(|| asked.into_iter().find(|name| is_name(name)))
        .unwrap_or(named);
    let mut image = Image::parse(given);
    if is_id(given) {
        (image.repository, image.tag) = Default::default();
    }
    if image.digest.is_empty() {
        let all = || {
            stored
                .repo_digests
                .iter()
                .map(String::as_str)
                .chain([reference])
        };
        let of = |name: &str| {
            name.split_once('@')
                .map(|(repository, digest)| (repository.to_owned(), text(digest)))
        };
        let same = all()
            .filter_map(of)
            .find(|(repository, _)| **repository == *image.repository);
        image.digest = same
            .or_else(|| all().find_map(of))
            .map(|(_, digest)| digest)
            .unwrap_or_default();
    }
    let id = [stored.id.as_str(), reference, named]
        .into_iter()
        .find(|id| is_id(id));
    image.id = text(id.unwrap_or_default().trim_start_matches("sha256:"));
    image
}

/// Does it name an image by its digest alone?
fn is_id(name: &str) -> bool {
    let hex = name.strip_prefix("sha256:").unwrap_or(name);
    hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn mount(mount: &m::Mount) -> Mount {
    Mount {
        source: text(&mount.host_path),
        destination: text(&mount.container_path),
        mode: Box::default(),
        writable: !mount.readonly,
        propagation: match mount.propagation {
            0 => "private",
            1 => "rslave",
            2 => "rshared",
            _ => "unknown",
        }
        .into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn the_image_is_named_as_its_author_did() {
        let stored = m::Image {
            id: ID.into(),
            repo_tags: vec![
                "docker.io/library/other:1".into(),
                "registry.internal/ml-trainer:v2".into(),
            ],
            repo_digests: vec![
                "docker.io/library/other@sha256:aa".into(),
                "registry.internal/ml-trainer@sha256:bb".into(),
            ],
        };
        let check = |named: &str, asked: &str, stored: &m::Image, expected: [&str; 5]| {
            let image = names(named, ID, ["", asked], stored);
            let found = [
                &*image.given,
                &*image.repository,
                &*image.tag,
                &*image.digest,
                &*image.id,
            ];
            assert_eq!(found, expected, "{named:?} {asked:?}");
        };
        let hex = &ID[7..];
        let trainer = "registry.internal/ml-trainer";
        let with_tag = "registry.internal/ml-trainer:v2";
        // By name, as crictl asks; by id, as a kubelet does, with and without what the author wrote.
        check(
            with_tag,
            "",
            &stored,
            [with_tag, trainer, "v2", "sha256:bb", hex],
        );
        check(
            ID,
            with_tag,
            &stored,
            [with_tag, trainer, "v2", "sha256:bb", hex],
        );
        check(
            "docker.io/library/other:1",
            with_tag,
            &stored,
            [with_tag, trainer, "v2", "sha256:bb", hex],
        );
        let other = "docker.io/library/other:1";
        check(
            ID,
            "",
            &stored,
            [other, "docker.io/library/other", "1", "sha256:aa", hex],
        );
        // What the author wrote is not what runs: it does not count.
        check(
            other,
            "registry.internal/model-server:v9",
            &stored,
            [other, "docker.io/library/other", "1", "sha256:aa", hex],
        );
        // An image without names.
        let bare = m::Image {
            id: ID.into(),
            ..m::Image::default()
        };
        check(ID, "", &bare, [ID, "", "", "", hex]);
        check("a:1", "", &m::Image::default(), ["a:1", "a", "1", "", hex]);
    }
}
