//! TLS towards other sides: whom to trust, and who we are. Files are read anew for each connection, so that certificates can be
//! replaced under a running agent.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{chain, files};

/// How the other side is checked, and who we are.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// PEM file of the authorities that may have signed the other side's certificate. Default: those that the system trusts.
    pub ca_file: Option<PathBuf>,
    /// PEM file of our certificate and what it was signed by, where the other side asks for one.
    pub cert_file: Option<PathBuf>,
    /// PEM file of its private key.
    pub key_file: Option<PathBuf>,
    /// The name that must stand in the other side's certificate. Default: the host that is connected to.
    pub server_name: Option<String>,
}

impl Tls {
    /// What cannot be meant; the key and what is wrong.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        if self.cert_file.is_some() != self.key_file.is_some() {
            let problem = "tls.cert_file and tls.key_file belong together".into();
            return Err(("tls.cert_file", problem));
        }
        match &self.server_name {
            Some(name) => match ServerName::try_from(name.clone()) {
                Ok(_) => Ok(()),
                Err(_) => Err(("tls.server_name", format!("{name:?} is no host's name"))),
            },
            None => Ok(()),
        }
    }

    /// What `rustls` is told; the files are read.
    pub(super) async fn client(&self) -> Result<ClientConfig, String> {
        let own = self.clone();
        files::apart(move || own.read()).await
    }

    /// The same where blocking is no matter.
    pub(super) fn read(&self) -> Result<ClientConfig, String> {
        let mut roots = RootCertStore::empty();
        match &self.ca_file {
            Some(path) => {
                for certificate in certificates(path)? {
                    roots
                        .add(certificate)
                        .map_err(|error| format!("tls.ca_file {}: {error}", path.display()))?;
                }
            }
            None => {
                let found = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(found.certs);
            }
        }
        if roots.is_empty() {
            return Err(
                "no authority to trust: the system has none, and tls.ca_file is not set".into(),
            );
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        let (Some(cert), Some(key)) = (&self.cert_file, &self.key_file) else {
            return Ok(builder.with_no_client_auth());
        };
        let private = PrivateKeyDer::from_pem_slice(&files::pem(key)?)
            .map_err(|error| format!("tls.key_file {}: {error}", key.display()))?;
        builder
            .with_client_auth_cert(certificates(cert)?, private)
            .map_err(|error| format!("tls.cert_file {}: {error}", cert.display()))
    }

    /// Speaks TLS over a connection to a host; the message of an error says what of the certificate is wrong.
    pub(super) async fn connect(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, String> {
        let name = self.server_name.as_deref().unwrap_or(host);
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| format!("{name:?} is no host's name"))?;
        let connector = TlsConnector::from(Arc::new(self.client().await?));
        connector
            .connect(name, stream)
            .await
            .map_err(|error| format!("TLS: {}", chain(&error)))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let bytes = files::pem(path)?;
    let found = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| failed(&error))?;
    if found.is_empty() {
        return Err(failed(&"there is no certificate in it"));
    }
    Ok(found)
}
