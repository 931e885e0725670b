//! A web server that answers as it is told, plain or with TLS, and certificates for it.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::pending,
    io::Read as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

/// How a request is answered.
#[derive(Clone, Debug)]
pub enum Answer {
    /// With a status and headers.
    Status(u16, Vec<(&'static str, String)>),
    /// Not at all.
    Hang,
    /// With a body that has no end in sight.
    Endless,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub headers: hyper::HeaderMap,
    pub body: String,
    pub status: u16,
}

/// What it is told, and what it has seen.
#[derive(Clone, Debug, Default)]
pub struct Told {
    pub answers: Arc<Mutex<VecDeque<Answer>>>,
    pub seen: Arc<Mutex<Vec<Seen>>>,
    /// Bodies that contain this are refused with 400.
    pub refuse: Arc<Mutex<Option<String>>>,
}

impl Told {
    pub fn next(&self, answers: impl IntoIterator<Item = Answer>) {
        self.answers.lock().expect("no panic").extend(answers);
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no panic").clone()
    }

    /// Bodies that were taken.
    pub fn taken(&self) -> Vec<String> {
        let seen = self.seen.lock().expect("no panic");
        let taken = seen.iter().filter(|seen| seen.status == 200);
        taken.map(|seen| seen.body.clone()).collect()
    }
}

/// A running one; ends with it.
#[derive(Debug)]
pub struct Server {
    pub address: SocketAddr,
    pub told: Told,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Serves on an address, or on one that the kernel picks.
    pub async fn start(address: Option<SocketAddr>, told: Told, tls: Option<ServerConfig>) -> Self {
        let address = address.unwrap_or_else(|| ([127, 0, 0, 1], 0).into());
        let listener = TcpListener::bind(address)
            .await
            .expect("the address is free");
        let address = listener.local_addr().expect("it is bound");
        let acceptor = tls.map(|tls| TlsAcceptor::from(Arc::new(tls)));
        let shared = told.clone();
        let task = tokio::spawn(async move {
            // Its connections end with it.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (told, acceptor) = (shared.clone(), acceptor.clone());
                connections.spawn(async move {
                    match acceptor {
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                serve(stream, told).await;
                            }
                        }
                        None => serve(stream, told).await,
                    }
                });
            }
        });
        Self {
            address,
            told,
            task,
        }
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, told: Told) {
    let service = service_fn(move |request: Request<Incoming>| answer(request, told.clone()));
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(
    request: Request<Incoming>,
    told: Told,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        return pending().await;
    };
    let body = body.to_bytes();
    let body = if parts.headers.contains_key("content-encoding") {
        let mut text = String::new();
        let mut decoder = flate2::read::GzDecoder::new(&*body);
        decoder.read_to_string(&mut text).expect("it is gzip");
        text
    } else {
        String::from_utf8_lossy(&body).into_owned()
    };
    let refuse = told.refuse.lock().expect("no panic").clone();
    let is_refused = refuse.is_some_and(|text| body.contains(&text));
    let next = told.answers.lock().expect("no panic").pop_front();
    let next = match next {
        None if is_refused => Answer::Status(400, Vec::new()),
        None => Answer::Status(200, Vec::new()),
        Some(next) => next,
    };
    let see = |status| {
        told.seen.lock().expect("no panic").push(Seen {
            headers: parts.headers.clone(),
            body: body.clone(),
            status,
        });
    };
    match next {
        Answer::Hang => {
            see(0);
            pending().await
        }
        Answer::Endless => {
            see(200);
            Ok(Response::new(Full::new(vec![b'x'; 8 << 20].into())))
        }
        Answer::Status(status, headers) => {
            see(status);
            let mut answer = Response::builder().status(status);
            for (name, value) in headers {
                answer = answer.header(name, value);
            }
            let body = Full::new(Bytes::from_static(b"{\"said\": \"as told\"}"));
            Ok(answer.body(body).expect("it is right"))
        }
    }
}

/// An authority and what it signed, as files.
pub struct Authority {
    folder: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        // Each has a name of its own, as authorities have.
        let name = folder.path().display().to_string();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("it signs itself");
        let authority = Self { folder, issuer };
        std::fs::write(authority.ca(), authority.issuer.pem()).expect("it is written");
        authority
    }

    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate and its key: for these names, and over already or not.
    pub fn sign(&self, file: &str, names: &[&str], is_over: bool) -> (PathBuf, PathBuf) {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names of hosts");
        if is_over {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("it is signed");
        let cert_file = self.folder.path().join(format!("{file}.pem"));
        let key_file = self.folder.path().join(format!("{file}.key"));
        std::fs::write(&cert_file, certificate.pem()).expect("it is written");
        std::fs::write(&key_file, key.serialize_pem()).expect("it is written");
        (cert_file, key_file)
    }
}

/// A server with such files; with an authority it asks clients for a certificate of that.
pub fn server_config(cert: &Path, key: &Path, clients: Option<&Path>) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("ring has them");
    let certificates = |path: &Path| {
        CertificateDer::pem_file_iter(path)
            .expect("it is there")
            .collect::<Result<Vec<_>, _>>()
            .expect("it is PEM")
    };
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates(ca));
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().expect("it has an authority"))
        }
    };
    let key = PrivateKeyDer::from_pem_file(key).expect("it is PEM");
    builder
        .with_single_cert(certificates(cert), key)
        .expect("they belong together")
}
