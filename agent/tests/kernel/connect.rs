//! Hooks of connections.

use saker::event::{Body, Connect};
use saker::source::{Kind, SensorConfig};
use std::io::Write as _;
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::ptr::null_mut;
use std::time::Instant;

use crate::{DEADLINE, Watch, kinds, watch};

/// The hooks that see the caller's memory.
fn tracepoints() -> SensorConfig {
    SensorConfig {
        disabled_hooks: vec!["cgroup/connect".to_owned()],
        ..kinds(&[Kind::Connect])
    }
}

/// Acts, and returns this process's connect event to `port`.
fn connect_to(watch: &mut Watch, port: u16, act: impl FnOnce()) -> Connect {
    act();
    watch.until("connect", |event| match event.body {
        Body::Connect(connect) if event.tgid == std::process::id() && connect.port == port => {
            Some(connect)
        }
        _ => None,
    })
}

#[test]
fn connections_are_seen_as_attempts() {
    let Some(mut watch) = watch(kinds(&[Kind::Connect])) else {
        return;
    };
    assert_eq!(
        watch
            .sensor
            .status()
            .iter()
            .find(|row| row.kind == "connect")
            .expect("a row")
            .hook,
        Some("cgroup/connect")
    );
    let listener = TcpListener::bind("[::]:0").expect("bind");
    let port = listener.local_addr().expect("address").port();
    for (address, expected, is_inet6) in [
        ("127.0.0.1", "127.0.0.1", false),
        ("::1", "::1", true),
        ("::ffff:127.0.0.1", "127.0.0.1", true),
    ] {
        let address: IpAddr = address.parse().expect("an address");
        let connect = connect_to(&mut watch, port, || {
            TcpStream::connect((address, port)).expect("connect");
        });
        let expected: IpAddr = expected.parse().expect("an address");
        assert_eq!((connect.addr, connect.is_inet6), (expected, is_inet6));
        assert_eq!(
            (connect.protocol, connect.res),
            (Some(libc::IPPROTO_TCP as u16), -libc::EINPROGRESS)
        );
        assert_eq!(connect.socket_type, Some(libc::SOCK_STREAM as u16));
    }
    let datagrams = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let port = datagrams.local_addr().expect("address").port();
    let connect = connect_to(&mut watch, port, || {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
        socket.connect(("127.0.0.1", port)).expect("connect");
    });
    assert_eq!(connect.protocol, Some(libc::IPPROTO_UDP as u16));
    assert_eq!(connect.socket_type, Some(libc::SOCK_DGRAM as u16));
}

#[test]
fn tracepoints_stand_in_for_the_connect_hooks() {
    let Some(mut watch) = watch(tracepoints()) else {
        return;
    };
    let status = watch
        .sensor
        .status()
        .iter()
        .find(|row| row.kind == "connect")
        .expect("a row")
        .clone();
    assert_eq!(status.hook, Some("syscalls/connect"));
    assert_eq!(status.refused[0].reason, "disabled by configuration");
    assert!(!status.lost.is_empty());
    let listener = TcpListener::bind("[::]:0").expect("bind");
    let port = listener.local_addr().expect("address").port();
    for address in ["127.0.0.1", "::1"] {
        let address: IpAddr = address.parse().expect("an address");
        let connect = connect_to(&mut watch, port, || {
            TcpStream::connect((address, port)).expect("connect");
        });
        assert_eq!(
            (connect.addr, connect.protocol, connect.res),
            (address, None, 0)
        );
    }
    // A port that is taken and not listened at: one that is given back may be another test's by now.
    let taken = tokio::net::TcpSocket::new_v4().expect("a socket");
    taken.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
    let port = taken.local_addr().expect("address").port();
    let connect = connect_to(&mut watch, port, || {
        TcpStream::connect(("127.0.0.1", port)).expect_err("nobody listens");
    });
    assert_eq!(connect.res, -libc::ECONNREFUSED);
}

/// The address of a port of the loopback's, on a page of a file that the kernel has not fetched for this process yet.
struct Unfetched(*mut libc::c_void);

// SAFETY: whose memory it is does not depend on the thread, and only the kernel reads it.
unsafe impl Sync for Unfetched {}

impl Unfetched {
    const BYTES: usize = 4096;

    fn new(port: u16) -> Self {
        let mut file = tempfile::tempfile().expect("a file");
        let mut bytes = vec![0; Self::BYTES];
        bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        bytes[2..4].copy_from_slice(&port.to_be_bytes());
        bytes[4..8].copy_from_slice(&[127, 0, 0, 1]);
        file.write_all(&bytes).expect("write");
        // SAFETY: a new mapping, at a place that the kernel chooses.
        let page = unsafe {
            let (protection, flags) = (libc::PROT_READ, libc::MAP_PRIVATE);
            libc::mmap(
                null_mut(),
                Self::BYTES,
                protection,
                flags,
                file.as_raw_fd(),
                0,
            )
        };
        assert_ne!(page, libc::MAP_FAILED);
        Self(page)
    }

    fn connect(&self, socket: &OwnedFd) -> i32 {
        // SAFETY: the kernel checks the address itself.
        unsafe { libc::connect(socket.as_raw_fd(), self.0.cast(), 16) }
    }

    /// Nobody can read it from now on. It stays mapped: its place must not become that of another test's memory.
    fn hide(&self) {
        // SAFETY: nothing but the kernel looks there.
        let failed = unsafe { libc::mprotect(self.0, Self::BYTES, libc::PROT_NONE) };
        assert_eq!(failed, 0);
    }
}

impl Drop for Unfetched {
    fn drop(&mut self) {
        // SAFETY: mapped above, this long, and nobody looks there any more.
        unsafe { libc::munmap(self.0, Self::BYTES) };
    }
}

fn socket(kind: i32) -> OwnedFd {
    // SAFETY: takes numbers, and what comes back is nobody else's.
    unsafe {
        let socket = libc::socket(libc::AF_INET, kind | libc::SOCK_CLOEXEC, 0);
        assert!(socket >= 0);
        OwnedFd::from_raw_fd(socket)
    }
}

/// From now on SIGUSR1 ends the call that a thread waits in, and nothing else.
fn let_signals_interrupt() {
    extern "C" fn ignore(_: libc::c_int) {}
    // SAFETY: the handler does nothing, and the struct outlives the call.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = ignore as *const () as usize;
        libc::sigaction(libc::SIGUSR1, &raw const action, null_mut());
    }
}

/// `TCP_SYN_SENT`: the other end has not answered yet.
const SYN_SENT: u8 = 2;

/// The state of a TCP socket, which is the first byte of what the kernel tells of it.
fn tcp_state(socket: &OwnedFd) -> u8 {
    let mut state = 0u8;
    let mut bytes: libc::socklen_t = 1;
    // SAFETY: the kernel writes at most as many bytes as it is given.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut state).cast(),
            &raw mut bytes,
        )
    };
    assert_eq!(failed, 0);
    state
}

#[test]
fn an_address_that_is_not_in_memory_yet_is_read_at_the_end() {
    let Some(mut watch) = watch(tracepoints()) else {
        return;
    };
    let receiver = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let port = receiver.local_addr().expect("address").port();
    let address = Unfetched::new(port);
    let connect = connect_to(&mut watch, port, || {
        assert_eq!(address.connect(&socket(libc::SOCK_DGRAM)), 0);
    });
    assert_eq!(connect.addr, "127.0.0.1".parse::<IpAddr>().expect("one"));
    address.hide();
    // What the kernel could not read either is nobody's loss.
    assert_eq!(address.connect(&socket(libc::SOCK_DGRAM)), -1);
    watch.finish(&mut |_| {});
    let counters = watch.sensor.counters().expect("counters");
    let counts = counters.kind(Kind::Connect);
    assert!(counts.filtered >= 1, "{counts:?}");
    assert_eq!(counts.lost(), 0, "{counts:?}");
}

#[test]
fn an_address_that_is_gone_at_the_end_is_counted_as_lost() {
    let Some(mut watch) = watch(tracepoints()) else {
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    // SAFETY: takes two numbers.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
    let to = listener.local_addr().expect("address");
    // It waits to be accepted, and there is no room for a second: whoever connects now waits.
    let _first = TcpStream::connect(to).expect("connect");
    let second = socket(libc::SOCK_STREAM);
    let address = Unfetched::new(to.port());
    let_signals_interrupt();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let (address, second) = (&address, &second);
        let connecting = scope.spawn(move || {
            // SAFETY: takes nothing and cannot fail.
            tell.send(unsafe { libc::pthread_self() }).expect("awaited");
            Unfetched::connect(address, second)
        });
        let thread = told.recv().expect("it says");
        // By then the kernel has read the address.
        let end = Instant::now() + DEADLINE;
        while tcp_state(second) != SYN_SENT {
            assert!(Instant::now() < end, "it does not connect");
            std::thread::yield_now();
        }
        address.hide();
        // Or it would wait for minutes: kernels differ in whether a shutdown ends that.
        // SAFETY: the thread has not been joined.
        assert_eq!(unsafe { libc::pthread_kill(thread, libc::SIGUSR1) }, 0);
        assert_eq!(connecting.join().expect("join"), -1);
    });
    watch.finish(&mut |_| {});
    let counters = watch.sensor.counters().expect("counters");
    let counts = counters.kind(Kind::Connect);
    assert_eq!(counts.lost_read_fault, 1, "{counts:?}");
    assert_eq!(
        counts.seen,
        counts.filtered + counts.submitted + counts.lost()
    );
}
