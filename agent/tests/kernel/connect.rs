//! Hooks of connections.

use saker::event::{Body, Connect};
use saker::source::{Kind, SensorConfig};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};

use crate::{Watch, kinds, watch};

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
    let Some(mut watch) = watch(SensorConfig {
        disabled_hooks: vec!["cgroup/connect".to_owned()],
        ..kinds(&[Kind::Connect])
    }) else {
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
    drop(listener);
    let connect = connect_to(&mut watch, port, || {
        TcpStream::connect(("127.0.0.1", port)).expect_err("nobody listens");
    });
    assert_eq!(connect.res, -libc::ECONNREFUSED);
}
