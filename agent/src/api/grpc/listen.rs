//! Connections of gRPC clients: from a Unix socket and from TCP, each with a bound on how many there are and on how long one may take to
//! begin. What is beyond the bounds is closed at once and counted: it cannot wait at anybody's cost.

use std::{
    fs, io,
    net::IpAddr,
    os::{
        fd::AsRawFd as _,
        unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixSocket, UnixStream},
    sync::mpsc,
    time::{Sleep, sleep, timeout},
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use tracing::{debug, warn};

use super::tls::Identity;
use crate::api::peers::{Peers, Place};
use crate::metrics::{Metrics, Outcome};

/// A connection must say that it speaks HTTP/2 within this time, its TLS handshake before that in as much.
const BEGIN: Duration = Duration::from_secs(10);

/// How long, and how much, a client that was refused is still listened to.
const PARTING: Duration = Duration::from_secs(1);
const PARTING_READS: usize = 16;

/// The preface of HTTP/2 and the head of the frame that must follow.
const BEGIN_BYTES: usize = 24 + 9;

/// How often handshakes that fail are said.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// Connections that the kernel holds until they are accepted.
const BACKLOG: u32 = 128;

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// A user of this node.
    User(u32),
    /// An address.
    Address(IpAddr),
}

/// How many connections there may be, and how many there are.
#[derive(Clone, Debug)]
pub struct Door {
    peers: Peers<Peer>,
    metrics: Arc<Metrics>,
}

impl Door {
    /// Nobody is there yet.
    pub fn new(all_max: usize, peer_max: usize, metrics: Arc<Metrics>) -> Self {
        let open = metrics.api.grpc_connections_open.clone();
        let show = move |all| {
            open.set(crate::metrics::level(all));
        };
        Self {
            peers: Peers::new(all_max, peer_max, show),
            metrics,
        }
    }

    /// A place for one more connection, if there is one.
    fn enter(&self, peer: Peer) -> Option<Seat> {
        let place = self.peers.enter(peer);
        let outcome = match place {
            Some(_) => "accepted",
            None => "refused",
        };
        self.metrics
            .api
            .grpc_connections
            .get_or_create(&Outcome { outcome })
            .inc();
        Some(Seat {
            _place: place?,
            metrics: Arc::clone(&self.metrics),
        })
    }
}

/// One connection's place, and what counts its calls.
#[derive(Debug)]
struct Seat {
    _place: Place<Peer>,
    metrics: Arc<Metrics>,
}

/// A socket of ours, and its file.
#[derive(Debug)]
pub struct Socket {
    /// What accepts.
    pub listener: UnixListener,
    /// Whoever keeps it decides when the file goes: a task that was told to end may do so when the process has ended.
    pub file: SocketFile,
}

/// A socket's file, which goes with this.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode, so that another agent's socket at the same place is left alone.
    identity: Option<(u64, u64)>,
}

impl Socket {
    /// Listens at a path that only this user can connect to. What is there already stays, unless it is a socket that nobody listens on.
    pub async fn bind(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(folder)?;
        }
        make_room(path).await?;
        let socket = UnixSocket::new_stream()?;
        // Before the file is there: it is made with these permissions, and there is no moment at which others could connect.
        // SAFETY: takes two numbers; the descriptor is open.
        if unsafe { libc::fchmod(socket.as_raw_fd(), 0o600) } != 0 {
            return Err(io::Error::last_os_error());
        }
        socket.bind(path)?;
        let identity = identity(path);
        let listener = socket.listen(BACKLOG)?;
        Ok(Self {
            listener,
            file: SocketFile {
                path: path.into(),
                identity,
            },
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let found = fs::symlink_metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

/// Removes a socket that nobody listens on any more.
async fn make_room(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(found) if !found.file_type().is_socket() => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "there is a file that is no socket; it is left alone",
        )),
        Ok(_) => match timeout(BEGIN, UnixStream::connect(path)).await {
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path)
            }
            Ok(Err(error)) => Err(error),
            Ok(Ok(_)) | Err(_) => Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another process listens there",
            )),
        },
    }
}

/// Accepts from a Unix socket until nobody takes connections any more.
pub async fn accept_unix(
    listener: UnixListener,
    door: Door,
    out: mpsc::Sender<io::Result<Connection>>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = out.closed() => return,
        };
        let Ok((stream, _)) = accepted else {
            // Out of descriptors, or the peer was gone: neither gets better by trying at once.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(credentials) = stream.peer_cred() else {
            continue;
        };
        let peer = Peer::User(credentials.uid());
        let Some(place) = door.enter(peer) else {
            continue;
        };
        let connection = Connection::new(Stream::Unix(stream), place, Via::Unix);
        if out.send(Ok(connection)).await.is_err() {
            return;
        }
    }
}

/// The same from TCP; with an identity, behind a TLS handshake, which nobody else waits for.
pub async fn accept_tcp(
    listener: TcpListener,
    identity: Option<Arc<Identity>>,
    door: Door,
    out: mpsc::Sender<io::Result<Connection>>,
) {
    let failures = Arc::new(Failures::default());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = out.closed() => return,
        };
        let Ok((stream, address)) = accepted else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Some(place) = door.enter(Peer::Address(address.ip())) else {
            continue;
        };
        let _ = stream.set_nodelay(true);
        let Some(identity) = &identity else {
            let connection = Connection::new(Stream::Tcp(stream), place, Via::Tcp);
            if out.send(Ok(connection)).await.is_err() {
                return;
            }
            continue;
        };
        let (acceptor, out, metrics) =
            (identity.acceptor(), out.clone(), Arc::clone(&door.metrics));
        let failures = Arc::clone(&failures);
        // As many of these as there are places.
        tokio::spawn(async move {
            let handshake = acceptor.accept(stream).into_fallible();
            let (failed, stream) = match timeout(BEGIN, handshake).await {
                Ok(Ok(stream)) => {
                    let connection =
                        Connection::new(Stream::Tls(Box::new(stream)), place, Via::Tcp);
                    let _ = out.send(Ok(connection)).await;
                    return;
                }
                Ok(Err((error, stream))) => (error.to_string(), Some(stream)),
                Err(_) => ("it took too long".into(), None),
            };
            failures.say(&format!(
                "the TLS handshake with {address} failed: {failed}"
            ));
            metrics
                .api
                .grpc_connections
                .get_or_create(&Outcome {
                    outcome: "handshake_failed",
                })
                .inc();
            if let Some(stream) = stream {
                part(stream).await;
            }
        });
    }
}

/// Ends a connection so that the client hears why: what it has sent and nobody read would make the kernel throw away what we said last.
async fn part(mut stream: TcpStream) {
    let _ = stream.shutdown().await;
    let mut unread = [0; 4096];
    let rest = async {
        for _ in 0..PARTING_READS {
            if matches!(stream.read(&mut unread).await, Ok(0) | Err(_)) {
                break;
            }
        }
    };
    let _ = timeout(PARTING, rest).await;
}

/// Handshakes that fail are said, but a client that tries again and again does not fill the log.
#[derive(Debug, Default)]
struct Failures(Mutex<Option<Instant>>);

impl Failures {
    fn say(&self, what: &str) {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
            *said = Some(Instant::now());
            warn!("gRPC: {what}; others are only counted for {SAY_AGAIN:?}");
        } else {
            debug!("gRPC: {what}");
        }
    }
}

/// What a service knows of the connection that a call came by.
#[derive(Clone, Debug)]
pub struct Line {
    /// The way a client came.
    pub via: Via,
    cut: Arc<Cut>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Cut {
    is_cut: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Line {
    /// Ends the connection at once, with every call on it: for a client that takes nothing, whom no answer reaches.
    pub fn cut(&self) {
        if !self.cut.is_cut.swap(true, Ordering::AcqRel) {
            self.metrics.api.grpc_cut_off.inc();
        }
        let waker = self
            .cut
            .waker
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(waker) = &*waker {
            waker.wake_by_ref();
        }
    }
}

impl Cut {
    fn is_cut(&self, context: &Context<'_>) -> bool {
        let mut waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        if waker
            .as_ref()
            .is_none_or(|waker| !waker.will_wake(context.waker()))
        {
            *waker = Some(context.waker().clone());
        }
        self.is_cut.load(Ordering::Acquire)
    }
}

/// The way a client came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// The Unix socket: the agent's own user.
    Unix,
    /// TCP.
    Tcp,
}

#[derive(Debug)]
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// One connection. Reads fail where it has not begun in time, which ends it.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    /// `None` once it has begun.
    begin: Option<Pin<Box<Sleep>>>,
    read_bytes: usize,
    line: Line,
    _place: Seat,
}

impl Connection {
    fn new(stream: Stream, place: Seat, via: Via) -> Self {
        Self {
            stream,
            begin: Some(Box::pin(sleep(BEGIN))),
            read_bytes: 0,
            line: Line {
                via,
                cut: Arc::default(),
                metrics: Arc::clone(&place.metrics),
            },
            _place: place,
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Line;

    fn connect_info(&self) -> Line {
        self.line.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.line.cut.is_cut(context) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if let Some(begin) = &mut self.begin
            && begin.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buffer.filled().len();
        let outcome = match &mut self.stream {
            Stream::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        };
        if self.begin.is_some() {
            self.read_bytes += buffer.filled().len() - before;
            if self.read_bytes >= BEGIN_BYTES {
                self.begin = None;
            }
        }
        outcome
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Unix(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
