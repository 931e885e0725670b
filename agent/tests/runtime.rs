//! The resolver against a stand-in runtime: real gRPC over a Unix socket, answers that no real runtime gives on demand.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    header::HeaderMap,
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use saker::{
    context::runtime::{
        Directory, Look, RuntimeConfig, cri::messages as m, directory::Why, resolver,
    },
    metrics::{Metrics, RuntimeOutcome},
};
use tokio::net::UnixListener;

const DEADLINE: Duration = Duration::from_secs(120);

/// What the stand-in says.
enum Reply {
    Message(Vec<u8>),
    Status(u16),
}

const NOT_FOUND: Reply = Reply::Status(5);
const UNIMPLEMENTED: Reply = Reply::Status(12);
const INTERNAL: Reply = Reply::Status(13);

fn message(message: &impl Message) -> Reply {
    Reply::Message(message.encode_to_vec())
}

/// Serves `answer(call, request)` on a socket until the runtime ends.
fn serve(socket: &Path, answer: impl Fn(&str, &[u8]) -> Reply + Send + Sync + 'static) {
    let listener = UnixListener::bind(socket).expect("a socket");
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = Arc::clone(&answer);
                async move {
                    let call = request
                        .uri()
                        .path()
                        .rsplit('/')
                        .next()
                        .unwrap_or_default()
                        .to_owned();
                    let body = request.into_body().collect().await?.to_bytes();
                    let reply = answer(&call, body.get(5..).unwrap_or_default());
                    Ok::<_, hyper::Error>(response(reply))
                }
            });
            let connection = http2::Builder::new(TokioExecutor::new());
            tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
        }
    });
}

fn response(
    reply: Reply,
) -> Response<impl hyper::body::Body<Data = Bytes, Error = std::convert::Infallible>> {
    let (body, status) = match reply {
        Reply::Message(message) => {
            let length = u32::try_from(message.len()).expect("no test sends 4 GiB");
            let mut framed = vec![0];
            framed.extend_from_slice(&length.to_be_bytes());
            framed.extend_from_slice(&message);
            (framed, 0)
        }
        Reply::Status(status) => (Vec::new(), status),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.into());
    let body = Full::new(Bytes::from(body)).with_trailers(async { Some(Ok(trailers)) });
    let mut response = Response::new(body);
    response.headers_mut().insert(
        "content-type",
        "application/grpc".parse().expect("a header"),
    );
    response
}

fn id(number: usize) -> String {
    format!("{number:064x}")
}

fn status_of(id: &str) -> m::ContainerStatusResponse {
    m::ContainerStatusResponse {
        status: Some(m::ContainerStatus {
            id: id.into(),
            metadata: Some(m::ContainerMetadata {
                name: format!("name-{}", id.trim_start_matches('0')),
            }),
            created_at: 1,
            started_at: 2,
            image: Some(m::ImageSpec {
                image: "registry.internal/a:1".into(),
                ..m::ImageSpec::default()
            }),
            ..m::ContainerStatus::default()
        }),
        ..m::ContainerStatusResponse::default()
    }
}

/// Calls that every stand-in answers alike.
fn usual(call: &str) -> Reply {
    match call {
        "Version" => message(&m::VersionResponse {
            runtime_name: "containerd".into(),
            ..Default::default()
        }),
        "ListContainers" => message(&m::ListContainersResponse::default()),
        "ListPodSandbox" => message(&m::ListPodSandboxResponse::default()),
        "ImageStatus" => message(&m::ImageStatusResponse::default()),
        "PodSandboxStatus" => NOT_FOUND,
        _ => UNIMPLEMENTED,
    }
}

/// A directory whose resolver asks the runtime behind this socket.
fn directory(socket: &Path, max: usize) -> (Directory, Arc<Metrics>) {
    let (directory, ends) = Directory::new(max, 256 << 20);
    let metrics = Arc::new(Metrics::new());
    let config = RuntimeConfig {
        cri: vec![socket.into()],
        docker: Vec::new(),
        named: Vec::new(),
        host_root: "/".into(),
        poll: Duration::from_secs(600),
        hold: Duration::from_millis(500),
    };
    assert!(resolver::any_socket(&config));
    ends.present.store(true, Ordering::Relaxed);
    tokio::spawn(resolver::run(config, ends, || {}, Arc::clone(&metrics)));
    (directory, metrics)
}

/// Takes answers in until something is so.
async fn until(
    directory: &mut Directory,
    what: &str,
    mut is_so: impl FnMut(&mut Directory) -> bool,
) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so(directory) {
        assert!(
            Instant::now() < deadline,
            "not in time: {what}; {:?}",
            directory.sizes()
        );
        while directory.next_answer(1).is_some() {}
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_containers_are_known_before_they_are_asked_for() {
    const COUNT: usize = 10_000;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let socket = folder.path().join("cri.sock");
    serve(&socket, |call, request| match call {
        "ListContainers" => {
            let containers = (0..COUNT)
                .map(|number| m::Listed { id: id(number) })
                .collect();
            message(&m::ListContainersResponse { containers })
        }
        "ContainerStatus" => {
            let request = m::ContainerStatusRequest::decode(request).expect("our own request");
            message(&status_of(&request.container_id))
        }
        call => usual(call),
    });
    let (mut all, _) = directory(&socket, COUNT * 2);
    until(&mut all, "all are listed", |directory| {
        directory.sizes().0 >= COUNT
    })
    .await;
    for number in [0, 1, COUNT / 2, COUNT - 1] {
        let Look::Known(container) = all.look(&id(number), 2) else {
            panic!("{number} is not known");
        };
        assert_eq!(&*container.id, &*id(number));
        assert_eq!(&*container.image.repository, "registry.internal/a");
    }
    let (entries, bytes, evicted) = all.sizes();
    assert_eq!((entries, evicted), (COUNT, 0));
    assert!(
        bytes < 20 << 20,
        "{bytes} bytes for {entries} small containers"
    );

    // A table that is too small for the node forgets, and asks again.
    let (mut small, _) = directory(&socket, 500);
    until(&mut small, "the small table is full", |directory| {
        directory.sizes().2 > 1000
    })
    .await;
    assert!(small.sizes().0 <= 500);
    let wanted = id(3);
    until(&mut small, "one is known", |directory| {
        matches!(directory.look(&wanted, 9), Look::Known(_))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_is_refused_and_a_late_answer_is_taken() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let socket = folder.path().join("cri.sock");
    let asked = Mutex::new(HashMap::<String, u32>::new());
    serve(&socket, move |call, request| {
        if call != "ContainerStatus" {
            return usual(call);
        }
        let request = m::ContainerStatusRequest::decode(request).expect("our own request");
        let mut asked = asked.lock().expect("nobody panicked");
        let count = asked.entry(request.container_id.clone()).or_default();
        *count += 1;
        let number = usize::from_str_radix(&request.container_id, 16).expect("our own id");
        match number {
            // Another container than was asked for.
            1 => message(&status_of(&id(77))),
            // More than anyone may send.
            2 => Reply::Message(vec![0x7a; 20 << 20]),
            // Bytes that are no message; a text that is no UTF-8; a length beyond the end.
            3 => Reply::Message(vec![0xff; 100]),
            4 => Reply::Message(vec![0x0a, 0x03, 0x0a, 0x01, 0xff]),
            5 => Reply::Message(vec![0x0a, 0x7f, 0x01]),
            6 => INTERNAL,
            7 => Reply::Message(Vec::new()),
            // What it says of the container itself is right, the JSON beside it is not.
            8 => {
                let mut status = status_of(&request.container_id);
                status.info.insert("info".into(), "{{{{".repeat(1000));
                message(&status)
            }
            // Labels without end.
            9 => {
                let mut status = status_of(&request.container_id);
                let labels = &mut status.status.as_mut().expect("it has one").labels;
                labels.extend((0..50_000).map(|n| (format!("label-{n}"), "x".repeat(100))));
                message(&status)
            }
            // It is being made at this moment.
            10 if *count < 4 => NOT_FOUND,
            _ => message(&status_of(&request.container_id)),
        }
    });
    let (mut directory, metrics) = directory(&socket, 1000);
    for number in 1..=10 {
        assert!(
            matches!(directory.look(&id(number), 1), Look::Asked),
            "{number}"
        );
    }
    until(&mut directory, "the late one is known", |directory| {
        matches!(directory.look(&id(10), 1), Look::Known(_))
    })
    .await;
    for number in [8, 9] {
        until(&mut directory, "it is known", |directory| {
            matches!(directory.look(&id(number), 1), Look::Known(_))
        })
        .await;
        let Look::Known(container) = directory.look(&id(number), 1) else {
            panic!("{number} was known");
        };
        assert!(container.cut, "{number} is marked");
        assert!(container.size_bytes() < 100_000, "{number}");
        assert_eq!(&*container.image.tag, "1", "{number}");
    }
    for number in 1..=7 {
        let unknown = |directory: &mut Directory| {
            matches!(directory.look(&id(number), 1), Look::Unknown(Why::NotFound))
        };
        until(&mut directory, "it is given up", unknown).await;
    }
    let runtime = socket.display().to_string();
    for outcome in ["found", "not_found", "refused"] {
        let labels = RuntimeOutcome {
            runtime: runtime.clone(),
            outcome,
        };
        assert!(
            metrics.runtime_lookups.get_or_create(&labels).get() > 0,
            "{outcome}"
        );
    }
}
