//! A running agent from outside: where it is, and how a connection to it is made.

use std::{io, path::PathBuf, time::Duration};

use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::transport::{Channel, Endpoint, Uri};

use super::{Failure, chain};
use crate::{api::grpc::tls, proto::saker::v1::agent_service_client::AgentServiceClient};

/// How long the agent may take to answer the door.
const CONNECT: Duration = Duration::from_secs(10);

/// A message of the agent's may have so many bytes: an alert with every field at its longest, and room.
const MESSAGE_BYTES_MAX: usize = 8 << 20;

/// Where the agent is.
#[derive(Clone, Debug, clap::Args)]
pub struct Remote {
    /// Where the agent listens: `unix:/PATH`, or `HOST:PORT`.
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "unix:/run/saker/saker.sock"
    )]
    address: String,
    /// Root certificates of the agent, PEM; the connection to `HOST:PORT` is encrypted then.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// This client's certificate, PEM, for an agent that asks for one.
    #[arg(long, value_name = "FILE", requires_all = ["key", "ca"])]
    certificate: Option<PathBuf>,
    /// Its private key.
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// The name in the agent's certificate, where it is another than HOST.
    #[arg(long, value_name = "NAME", requires = "ca")]
    server_name: Option<String>,
}

impl Remote {
    /// A connection.
    pub async fn connect(&self) -> Result<AgentServiceClient<Channel>, Failure> {
        let failed = |why: String| {
            Failure::Machine(format!("cannot reach an agent at {}: {why}", self.address))
        };
        let channel = match self.address.strip_prefix("unix:") {
            Some(path) => {
                let path = PathBuf::from(path);
                endpoint()
                    .connect_with_connector(tower::service_fn(move |_: Uri| {
                        let path = path.clone();
                        async move { UnixStream::connect(path).await.map(TokioIo::new) }
                    }))
                    .await
            }
            None => self.tcp().await?,
        };
        let channel = channel.map_err(|error| failed(chain(&error)))?;
        Ok(AgentServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    async fn tcp(&self) -> Result<Result<Channel, tonic::transport::Error>, Failure> {
        let wrong = |why: String| Failure::Input(format!("--address {}: {why}", self.address));
        let (host, port) = self
            .address
            .rsplit_once(':')
            .ok_or_else(|| wrong("is neither unix:/PATH nor HOST:PORT".into()))?;
        let port: u16 = port
            .parse()
            .map_err(|_| wrong(format!("{port:?} is no port")))?;
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let Some(ca) = &self.ca else {
            let connector = tower::service_fn(move |_: Uri| {
                let host = host.clone();
                async move { Ok::<_, io::Error>(TokioIo::new(dial(&host, port).await?)) }
            });
            return Ok(endpoint().connect_with_connector(connector).await);
        };
        let own = self.certificate.as_deref().zip(self.key.as_deref());
        let tls = tls::connector(ca, own).map_err(|error| Failure::Input(chain(&error)))?;
        let name = self.server_name.as_ref().unwrap_or(&host).clone();
        let name = ServerName::try_from(name)
            .map_err(|_| wrong("HOST is neither a name nor an address".into()))?;
        let connector = tower::service_fn(move |_: Uri| {
            let (host, tls, name) = (host.clone(), tls.clone(), name.clone());
            async move {
                let stream = dial(&host, port).await?;
                Ok::<_, io::Error>(TokioIo::new(tls.connect(name, stream).await?))
            }
        });
        Ok(endpoint().connect_with_connector(connector).await)
    }
}

use hyper_util::rt::TokioIo;

async fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The address is the connector's business; this one is a name in requests.
fn endpoint() -> Endpoint {
    Endpoint::from_static("http://saker")
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20))
}

/// What a call's end means for the exit code.
pub fn refused(status: &tonic::Status) -> Failure {
    use tonic::Code;
    // What ended a connection, a TLS alert for one, stands in the causes only.
    let text = std::error::Error::source(status).map_or_else(
        || status.message().to_owned(),
        |cause| format!("{}: {}", status.message(), chain(cause)),
    );
    let text = crate::sink::printable(&text).into_owned();
    match status.code() {
        Code::InvalidArgument | Code::OutOfRange | Code::PermissionDenied => Failure::Input(text),
        _ => Failure::Machine(format!("the agent ended the stream: {text}")),
    }
}
