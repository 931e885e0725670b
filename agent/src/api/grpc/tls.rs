//! TLS for gRPC over TCP, both ends: what the PEM files hold becomes what rustls wants, and a server's can be read again while it
//! runs.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        self, ClientConfig, RootCertStore, ServerConfig,
        crypto::{CryptoProvider, ring},
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
        server::WebPkiClientVerifier,
    },
};

use super::options::Tls;
use crate::bounded::read_bounded;

/// A PEM file above this size is refused.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why files do not make a TLS identity.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {problem}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The files do not fit together.
    #[error("certificate {} and key {} do not fit together", certificate.display(), key.display())]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What rustls says.
        source: rustls::Error,
    },
}

/// What was read again.
#[derive(Debug)]
pub struct Fresh(Arc<ServerConfig>);

/// A server's identity, which can change.
#[derive(Debug)]
pub struct Identity {
    files: Tls,
    current: RwLock<Arc<ServerConfig>>,
}

impl Identity {
    /// Reads the files.
    pub fn read(files: &Tls) -> Result<Self, TlsError> {
        Ok(Self {
            current: RwLock::new(Arc::new(server(files)?)),
            files: files.clone(),
        })
    }

    /// Reads the files again; nothing has changed yet.
    pub fn read_again(&self) -> Result<Fresh, TlsError> {
        Ok(Fresh(Arc::new(server(&self.files)?)))
    }

    /// What was read again is the identity of connections from now on. Those that are there stay.
    pub fn renew(&self, fresh: Fresh) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh.0;
    }

    /// For one connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        TlsAcceptor::from(Arc::clone(&current))
    }
}

/// A client's: its own certificate with its key, where it has one, and the roots of the servers that it trusts.
pub fn connector(roots: &Path, own: Option<(&Path, &Path)>) -> Result<TlsConnector, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap_or_else(|_| unreachable!("ring offers every version's suites"))
        .with_root_certificates(root_store(roots)?);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder
            .with_client_auth_cert(chain(certificate)?, private_key(key)?)
            .map_err(|source| mismatch(certificate, key, source))?,
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

fn server(files: &Tls) -> Result<ServerConfig, TlsError> {
    let roots = Arc::new(root_store(&files.client_ca)?);
    let clients = WebPkiClientVerifier::builder_with_provider(roots, provider())
        .build()
        .map_err(|error| content(&files.client_ca, error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap_or_else(|_| unreachable!("ring offers every version's suites"))
        .with_client_cert_verifier(clients)
        .with_single_cert(chain(&files.certificate)?, private_key(&files.key)?)
        .map_err(|source| mismatch(&files.certificate, &files.key, source))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// The one that builds without cmake.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn root_store(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for root in chain(path)? {
        store
            .add(root)
            .map_err(|error| content(path, format!("a certificate cannot be a root: {error}")))?;
    }
    Ok(store)
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = pem(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(content(path, "holds no certificate".into())),
        Ok(found) => Ok(found),
        Err(error) => Err(content(path, format!("holds no sound PEM: {error}"))),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&pem(path)?)
        .map_err(|error| content(path, format!("holds no private key: {error}")))
}

fn pem(path: &Path) -> Result<Vec<u8>, TlsError> {
    read_bounded(path, FILE_BYTES_MAX).map_err(|source| TlsError::Read {
        path: path.into(),
        source,
    })
}

fn content(path: &Path, problem: String) -> TlsError {
    TlsError::Content {
        path: path.into(),
        problem,
    }
}

fn mismatch(certificate: &Path, key: &Path, source: rustls::Error) -> TlsError {
    TlsError::Mismatch {
        certificate: certificate.into(),
        key: key.into(),
        source,
    }
}
