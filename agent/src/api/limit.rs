//! A listener that accepts a bounded number of connections, half of them of one address at most, and ends each after a bounded time:
//! soon where nothing is asked.
//!
//! Without it anybody on the node could take every file descriptor of the agent by connecting and saying nothing, or keep the kubelet
//! from asking whether it lives.

use std::{
    future::Future as _,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep},
};

use super::peers::{Peers, Place};

/// Prometheus, the kubelet and an operator or two need a handful.
const CONNECTIONS_MAX: usize = 32;

/// Of one address.
const OF_ONE_MAX: usize = CONNECTIONS_MAX / 2;

/// A request's head comes at once, and the next one soon.
const SILENCE: Duration = Duration::from_secs(2);

/// A scrape takes milliseconds; a connection that is kept open for the next one is made anew.
const LIFETIME: Duration = Duration::from_secs(20);

/// The listener.
pub struct Limited {
    listener: TcpListener,
    places: Arc<Semaphore>,
    peers: Peers<IpAddr>,
}

impl Limited {
    /// Limits what `listener` accepts.
    pub fn new(listener: TcpListener) -> Self {
        Self {
            listener,
            places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            peers: Peers::new(CONNECTIONS_MAX, OF_ONE_MAX, |_| {}),
        }
    }
}

impl Listener for Limited {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let place = Arc::clone(&self.places)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    // Closed at once where its address has enough.
                    let Some(peer) = self.peers.enter(address.ip()) else {
                        continue;
                    };
                    let connection = Connection {
                        stream,
                        end: Box::pin(sleep(LIFETIME)),
                        silence: Box::pin(sleep(SILENCE)),
                        _place: place,
                        _peer: peer,
                    };
                    return (connection, address);
                }
                // Out of descriptors, or the peer was gone: neither gets better by trying at once.
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// One connection; reads fail once its time is over, which ends it.
pub struct Connection {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    /// Begins anew with each answer.
    silence: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
    _peer: Place<IpAddr>,
}

impl Connection {
    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        self.end.as_mut().poll(context).is_ready()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_over(context) || self.silence.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_over(context) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if matches!(written, Poll::Ready(Ok(_))) {
            self.silence.as_mut().reset(Instant::now() + SILENCE);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_address_leaves_room_for_others_and_gets_its_own_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("it is bound");
        let mut limited = Limited::new(listener);
        let mut taken = Vec::new();
        for _ in 0..OF_ONE_MAX {
            let client = TcpStream::connect(at).await.expect("it connects");
            taken.push((client, limited.accept().await.0));
        }
        let refused = TcpStream::connect(at).await.expect("the kernel takes it");
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket
            .bind("127.0.0.2:0".parse().expect("an address"))
            .expect("an address of this machine");
        let other = socket.connect(at).await.expect("it connects");
        let (_other_side, address) = limited.accept().await;
        assert_eq!(Some(address), other.local_addr().ok());
        let mut byte = [0];
        let ended = tokio::io::AsyncReadExt::read(&mut { refused }, &mut byte).await;
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
        taken.pop();
        let again = TcpStream::connect(at).await.expect("it connects");
        let (_again_side, address) = limited.accept().await;
        assert_eq!(Some(address), again.local_addr().ok());
    }

    #[tokio::test]
    async fn who_asks_nothing_is_ended() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("it is bound");
        let mut limited = Limited::new(listener);
        let _client = TcpStream::connect(at).await.expect("it connects");
        let (mut connection, _) = limited.accept().await;
        let read = tokio::io::AsyncReadExt::read(&mut connection, &mut [0; 8]).await;
        assert_eq!(
            read.map_err(|error| error.kind()),
            Err(io::ErrorKind::TimedOut)
        );
    }
}
