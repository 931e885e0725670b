//! Alerts to a syslog receiver in the form of RFC 5424: over a Unix socket (datagrams or a stream), TCP, or TLS (RFC 5425). Streams
//! frame each message by its length (RFC 6587, octet counting).
//!
//! Syslog has no acknowledgement. Over TCP and TLS a message counts as delivered when the receiver's kernel has it; what a receiver loses
//! that crashes before reading it is lost.

use std::{os::fd::AsRawFd as _, time::Duration};

use saker_rules::ruleset::Priority;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixDatagram, UnixStream},
    time::{sleep, timeout},
};

use super::{
    Format, chain,
    deliver::{Failure, Message, Progress, Target},
    filter::Filter,
    tls::Tls,
};

/// Alerts to a syslog receiver.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Name of the sink: its place in the alert log and its metrics are kept under it.
    pub name: String,
    /// `unix_datagram` (as `/dev/log`), `unix_stream`, `tcp` or `tls`.
    pub transport: Transport,
    /// Path of the socket, or `HOST:PORT`.
    pub address: String,
    /// `json`: Falco's shape; `ocsf`: an OCSF Detection Finding; `text`: the alert's text.
    #[serde(default)]
    pub format: Format,
    /// Which alerts.
    #[serde(default)]
    pub filter: Filter,
    /// Syslog facility, 0 to 23. Default: 16, `local0`.
    #[serde(default = "facility")]
    #[schemars(range(max = 23))]
    pub facility: u8,
    /// For `tls`.
    #[serde(default)]
    pub tls: Tls,
    /// How long connecting or sending may take, in seconds (1 to 600).
    #[serde(default = "timeout_s")]
    #[schemars(range(min = 1, max = 600))]
    pub timeout_s: u64,
    /// Longest pause between tries, in seconds (1 to 3600).
    #[serde(default = "super::deliver::pause_max_s")]
    #[schemars(range(min = 1, max = 3600))]
    pub pause_max_s: u64,
}

fn facility() -> u8 {
    16
}

pub(super) fn timeout_s() -> u64 {
    30
}

/// How messages travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names are the definition")]
pub enum Transport {
    UnixDatagram,
    UnixStream,
    Tcp,
    Tls,
}

impl Settings {
    /// What cannot be meant; the key and what is wrong.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        self.filter.check()?;
        self.tls.check()?;
        let is_unix = matches!(
            self.transport,
            Transport::UnixDatagram | Transport::UnixStream
        );
        if is_unix && !self.address.starts_with('/') {
            let problem = format!("{:?} is no absolute path of a socket", self.address);
            return Err(("address", problem));
        }
        if !is_unix && host_port(&self.address).is_none() {
            return Err(("address", format!("{:?} is not HOST:PORT", self.address)));
        }
        if self.tls != Tls::default() && self.transport != Transport::Tls {
            return Err(("tls", "only for transport: tls".into()));
        }
        if self.facility > 23 {
            return Err(("facility", format!("{} is not from 0 to 23", self.facility)));
        }
        Ok(())
    }
}

/// The host and the port of `HOST:PORT`; an IPv6 address stands in brackets.
fn host_port(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let is_whole = !bare.is_empty() && (!bare.contains(':') || host.starts_with('['));
    Some((bare, port.parse().ok()?)).filter(|_| is_whole)
}

/// The receiver.
#[derive(Debug)]
pub struct Receiver {
    settings: Settings,
    hostname: String,
    connection: Option<Connection>,
}

enum Connection {
    Datagram(UnixDatagram),
    Stream(Box<dyn Stream>),
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}

/// What a stream is asked beside reading and writing.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send + Sync {
    /// Its socket.
    fn fd(&self) -> i32;
}

impl Stream for UnixStream {
    fn fd(&self) -> i32 {
        self.as_raw_fd()
    }
}

impl Stream for TcpStream {
    fn fd(&self) -> i32 {
        self.as_raw_fd()
    }
}

impl Stream for tokio_rustls::client::TlsStream<TcpStream> {
    fn fd(&self) -> i32 {
        self.get_ref().0.as_raw_fd()
    }
}

impl Receiver {
    /// Nothing is connected yet; `hostname` is what messages say.
    pub fn new(settings: Settings, hostname: &str) -> Self {
        let printable = |c: &char| c.is_ascii_graphic();
        let hostname: String = hostname.chars().filter(printable).take(255).collect();
        Self {
            settings,
            hostname: if hostname.is_empty() {
                "-".into()
            } else {
                hostname
            },
            connection: None,
        }
    }

    async fn connect(&self) -> Result<Connection, String> {
        let Settings {
            transport,
            address,
            tls,
            ..
        } = &self.settings;
        let failed = |error: std::io::Error| format!("{address}: {error}");
        match transport {
            Transport::UnixDatagram => {
                let socket = UnixDatagram::unbound().map_err(failed)?;
                socket.connect(address).map_err(failed)?;
                Ok(Connection::Datagram(socket))
            }
            Transport::UnixStream => {
                let stream = UnixStream::connect(address).await.map_err(failed)?;
                Ok(Connection::Stream(Box::new(stream)))
            }
            Transport::Tcp => {
                let stream = TcpStream::connect(address).await.map_err(failed)?;
                Ok(Connection::Stream(Box::new(stream)))
            }
            Transport::Tls => {
                let stream = TcpStream::connect(address).await.map_err(failed)?;
                let (host, _) = host_port(address).unwrap_or_default();
                let stream = tls.connect(host, stream).await;
                let stream = stream.map_err(|why| format!("{address}: {why}"))?;
                Ok(Connection::Stream(Box::new(stream)))
            }
        }
    }

    async fn send(&mut self, messages: &[Message]) -> Progress {
        if self.connection.is_none() {
            match self.connect().await {
                Ok(connection) => self.connection = Some(connection),
                Err(why) => return Progress::until(0, Failure::retry(why)),
            }
        }
        let (facility, hostname) = (self.settings.facility, self.hostname.clone());
        let line = |message: &Message| format_message(message, facility, &hostname);
        let progress = match &mut self.connection {
            Some(Connection::Datagram(socket)) => send_datagrams(socket, messages, line).await,
            Some(Connection::Stream(stream)) => {
                let mut bytes = Vec::new();
                for message in messages {
                    let line = line(message);
                    bytes.extend_from_slice(format!("{} ", line.len()).as_bytes());
                    bytes.extend_from_slice(line.as_bytes());
                }
                match send_stream(&mut **stream, &bytes).await {
                    Ok(()) => Progress::all(messages.len()),
                    Err(why) => Progress::until(0, Failure::retry(why)),
                }
            }
            None => unreachable!("it was connected above"),
        };
        if matches!(progress.failure, Some(Failure::Retry { .. })) {
            self.connection = None;
        }
        progress
    }
}

impl Target for Receiver {
    async fn deliver(&mut self, messages: &[Message]) -> Progress {
        let limit = Duration::from_secs(self.settings.timeout_s);
        match timeout(limit, self.send(messages)).await {
            Ok(progress) => progress,
            Err(_) => {
                self.connection = None;
                let why = format!("{}: nothing moves for {limit:?}", self.settings.address);
                Progress::until(0, Failure::retry(why))
            }
        }
    }
}

async fn send_datagrams(
    socket: &UnixDatagram,
    messages: &[Message],
    line: impl Fn(&Message) -> String,
) -> Progress {
    for (done, message) in messages.iter().enumerate() {
        if let Err(error) = socket.send(line(message).as_bytes()).await {
            let failure = if error.raw_os_error() == Some(libc::EMSGSIZE) {
                Failure::Refused("it is longer than the socket takes at once".into())
            } else {
                Failure::retry(error.to_string())
            };
            return Progress::until(done, failure);
        }
    }
    Progress::all(messages.len())
}

/// Writes, and waits until the other side's kernel has it all: what only lies in our own is lost with the connection.
async fn send_stream(stream: &mut dyn Stream, bytes: &[u8]) -> Result<(), String> {
    let failed = |error: std::io::Error| chain(&error);
    // A receiver says nothing; that it has gone is all that can be read.
    let mut byte = [0];
    let gone = tokio::select! {
        biased;
        read = stream.read(&mut byte) => Some(read),
        () = std::future::ready(()) => None,
    };
    match gone {
        Some(Ok(0)) => return Err("the receiver has closed the connection".into()),
        Some(Err(error)) => return Err(failed(error)),
        Some(Ok(_)) | None => {}
    }
    stream.write_all(bytes).await.map_err(failed)?;
    stream.flush().await.map_err(failed)?;
    let mut pause = Duration::from_micros(100);
    while unsent(stream.fd()) > 0 {
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(20));
    }
    Ok(())
}

/// Bytes that the other side's kernel does not have.
fn unsent(fd: i32) -> i32 {
    let mut bytes = 0;
    // SAFETY: the socket is open as long as the stream is borrowed, and the call writes one int.
    let asked = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut bytes) };
    if asked == 0 { bytes } else { 0 }
}

/// One message: `<PRI>1 TIME HOST APP PID MSGID SD MESSAGE`.
fn format_message(message: &Message, facility: u8, hostname: &str) -> String {
    let severity = Priority::ALL
        .iter()
        .position(|priority| *priority == message.record.priority)
        .unwrap_or(Priority::ALL.len() - 1);
    let time = jiff::Timestamp::from_nanosecond(i128::from(message.record.time_ns))
        .unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    format!(
        "<{}>1 {} {hostname} saker {} alert - {}",
        usize::from(facility) * 8 + severity,
        time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ"),
        std::process::id(),
        message.text
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{alert::Alert, log::Record};

    fn message(text: &str) -> Message {
        Message {
            cursor: 1,
            record: Arc::new(Record::new(&Alert::for_tests("r"))),
            text: text.into(),
        }
    }

    fn settings(yaml: &str) -> Settings {
        let settings: Settings = serde_saphyr::from_str(yaml).expect(yaml);
        settings.check().expect(yaml);
        settings
    }

    #[test]
    fn a_message_is_of_rfc_5424() {
        let pid = std::process::id();
        let expected = format!("<132>1 2023-11-14T22:13:20.000000Z node saker {pid} alert - {{}}");
        assert_eq!(format_message(&message("{}"), 16, "node"), expected);
    }

    #[test]
    fn addresses_are_checked() {
        crate::sink::assert_refused(
            Settings::check,
            &[
                ("{name: s, transport: tcp, address: host}", "HOST:PORT"),
                ("{name: s, transport: tcp, address: '::1:514'}", "HOST:PORT"),
                ("{name: s, transport: unix_stream, address: x}", "absolute"),
                (
                    "{name: s, transport: tcp, address: 'h:1', tls: {ca_file: /x}}",
                    "only for",
                ),
                (
                    "{name: s, transport: tls, address: 'h:1', tls: {cert_file: /x}}",
                    "belong together",
                ),
            ],
        );
        settings("{name: s, transport: tcp, address: '[::1]:514'}");
    }

    #[tokio::test]
    async fn datagrams_reach_a_socket_that_comes_and_goes() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let yaml = format!(
            "{{name: s, transport: unix_datagram, address: {}}}",
            path.display()
        );
        let mut receiver = Receiver::new(settings(&yaml), "node");
        let failed = receiver.deliver(&[message("a")]).await;
        assert_eq!(failed.done, 0, "{failed:?}");
        for _ in 0..2 {
            let socket = UnixDatagram::bind(&path).expect("it is free");
            let progress = receiver.deliver(&[message("a")]).await;
            let progress = if progress.done == 1 {
                progress
            } else {
                receiver.deliver(&[message("a")]).await
            };
            assert_eq!((progress.done, progress.failure), (1, None));
            let mut bytes = [0; 1000];
            let length = socket.recv(&mut bytes).await.expect("it came");
            let text = String::from_utf8_lossy(&bytes[..length]);
            assert!(
                text.starts_with("<132>1 ") && text.ends_with(" - a"),
                "{text}"
            );
            std::fs::remove_file(&path).expect("it is ours");
        }
    }

    #[tokio::test]
    async fn a_datagram_that_is_too_long_is_a_dead_letter() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let _socket = UnixDatagram::bind(&path).expect("it is free");
        let yaml = format!(
            "{{name: s, transport: unix_datagram, address: {}}}",
            path.display()
        );
        let mut receiver = Receiver::new(settings(&yaml), "node");
        let huge = "x".repeat(4 << 20);
        let progress = receiver.deliver(&[message("a"), message(&huge)]).await;
        assert_eq!(progress.done, 1);
        assert!(matches!(progress.failure, Some(Failure::Refused(_))));
    }

    #[tokio::test]
    async fn streams_are_framed_by_length() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let listener = tokio::net::UnixListener::bind(&path).expect("it is free");
        let yaml = format!(
            "{{name: s, transport: unix_stream, address: {}}}",
            path.display()
        );
        let mut receiver = Receiver::new(settings(&yaml), "node");
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("it comes");
            let mut bytes = vec![0; 4096];
            let length = stream.read(&mut bytes).await.expect("it reads");
            String::from_utf8_lossy(&bytes[..length]).into_owned()
        });
        let progress = receiver.deliver(&[message("a"), message("bc")]).await;
        assert_eq!(progress.done, 2);
        let text = server.await.expect("no panic");
        let first = format_message(&message("a"), 16, "node");
        let second = format_message(&message("bc"), 16, "node");
        assert_eq!(
            text,
            format!("{} {first}{} {second}", first.len(), second.len())
        );
        // The server is gone.
        let failed = receiver.deliver(&[message("d")]).await;
        assert_eq!(failed.done, 0);
    }
}
