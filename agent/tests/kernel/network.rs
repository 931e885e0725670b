//! Hooks of datagrams and DNS answers, and what happens where nobody wants packets.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use saker::context::dns;
use saker::event::{Body, Connect, Event, Packet};
use saker::source::Kind;

use crate::tls::client_hello;
use crate::{Watch, kinds, watch};

const US: fn() -> u32 = std::process::id;

/// The hook that supplies a kind.
pub fn hook(watch: &Watch, kind: &str) -> Option<&'static str> {
    let rows = watch.sensor.status();
    rows.iter()
        .find(|row| row.kind == kind)
        .expect("a row")
        .hook
}

/// This process's next datagram to `port`.
fn sent_to(watch: &mut Watch, port: u16) -> Connect {
    watch.until("datagram", |event| match event.body {
        Body::Sendto(sent) if event.tgid == US() && sent.port == port => Some(sent),
        _ => None,
    })
}

#[test]
fn datagrams_are_reported_once_for_each_socket_and_address() {
    let Some(mut watch) = watch(kinds(&[Kind::Sendto])) else {
        return;
    };
    assert_eq!(hook(&watch, "sendto"), Some("cgroup/sendmsg"));
    let receiver = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let receiver6 = UdpSocket::bind("[::1]:0").expect("bind");
    let to = receiver.local_addr().expect("address");
    let to6 = receiver6.local_addr().expect("address");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    for _ in 0..1000 {
        socket.send_to(b"x", to).expect("send");
    }
    let sent = sent_to(&mut watch, to.port());
    assert_eq!((sent.addr, sent.is_inet6), (to.ip(), false));
    assert_eq!(sent.protocol, Some(libc::IPPROTO_UDP as u16));
    assert_eq!(sent.socket_type, Some(libc::SOCK_DGRAM as u16));

    let socket6 = UdpSocket::bind("[::]:0").expect("bind");
    socket6.send_to(b"x", to6).expect("send");
    let sent = sent_to(&mut watch, to6.port());
    assert_eq!((sent.addr, sent.is_inet6), (to6.ip(), true));
    // The same address by another socket, and written as IPv6.
    let mapped = SocketAddr::new(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), to.port());
    socket6.send_to(b"x", mapped).expect("send");
    assert_eq!(sent_to(&mut watch, to.port()).addr, to.ip());
    // Of a connected socket the address was given before.
    let connected = UdpSocket::bind("127.0.0.1:0").expect("bind");
    connected.connect(to).expect("connect");
    connected.send(b"x").expect("send");

    let mut more = 0;
    watch.finish(&mut |event| more += u32::from(event.tgid == US()));
    assert_eq!(more, 0);
    let counts = *watch
        .sensor
        .counters()
        .expect("counters")
        .kind(Kind::Sendto);
    assert!(counts.filtered >= 999, "{counts:?}");
    assert_eq!(
        counts.seen,
        counts.filtered + counts.submitted + counts.lost()
    );
}

/// Answers to the question for a name, as a server writes them.
fn answer(id: u16, name: &str, records: &[(&str, u16, Vec<u8>)]) -> Vec<u8> {
    let wire_name = |name: &str| -> Vec<u8> {
        let mut bytes = Vec::new();
        for label in name.split('.') {
            bytes.push(label.len() as u8);
            bytes.extend_from_slice(label.as_bytes());
        }
        bytes.push(0);
        bytes
    };
    let mut message = id.to_be_bytes().to_vec();
    message.extend_from_slice(&[0x81, 0x80, 0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
    message.extend_from_slice(&wire_name(name));
    message.extend_from_slice(&[0, 1, 0, 1]);
    for (owner, rtype, data) in records {
        message.extend_from_slice(&wire_name(owner));
        message.extend_from_slice(&rtype.to_be_bytes());
        message.extend_from_slice(&[0, 1, 0, 0, 0, 60]);
        message.extend_from_slice(&(data.len() as u16).to_be_bytes());
        message.extend_from_slice(data);
    }
    message
}

/// Sockets at port 53 of an address of the loopback's, one for each test.
fn server(address: &str) -> UdpSocket {
    UdpSocket::bind((address.parse::<IpAddr>().expect("an address"), 53)).expect("bind port 53")
}

fn dns_event<T>(
    watch: &mut Watch,
    server: IpAddr,
    f: impl Fn(&Event<'_>, &Packet<'_>, &dns::Answer) -> T,
) -> T {
    watch.until("answer", |event| match event.body {
        Body::Dns(packet) if packet.remote.ip() == server => {
            let answer = dns::parse(packet.data.bytes, packet.data.cut).expect("an answer");
            Some(f(event, &packet, &answer))
        }
        _ => None,
    })
}

#[test]
fn dns_answers_are_seen_with_who_asked() {
    let Some(mut watch) = watch(kinds(&[Kind::Dns])) else {
        return;
    };
    assert_eq!(hook(&watch, "dns"), Some("cgroup_skb/ingress"));
    for (at, connected) in [("127.0.0.61", true), ("127.0.0.62", false), ("::1", true)] {
        let server = server(at);
        let to = server.local_addr().expect("address");
        let any = if to.is_ipv4() {
            "127.0.0.1:0"
        } else {
            "[::1]:0"
        };
        let client = UdpSocket::bind(any).expect("bind");
        if connected {
            client.connect(to).expect("connect");
            client.send(b"a question").expect("send");
        } else {
            client.send_to(b"a question", to).expect("send");
        }
        let mut question = [0; 100];
        let (_, from) = server.recv_from(&mut question).expect("receive");
        let records = [("Model.Example", 1, vec![192, 0, 2, 7])];
        let message = answer(7, "model.EXAMPLE", &records);
        server.send_to(&message, from).expect("send");
        let local = client.local_addr().expect("address");
        dns_event(&mut watch, to.ip(), |event, packet, answer| {
            assert_eq!(event.tgid, US());
            assert_eq!((packet.local, packet.remote), (local, to));
            assert_eq!(packet.protocol, libc::IPPROTO_UDP as u16);
            assert_eq!(answer.name.as_deref(), Some("model.example"));
            assert_eq!(
                answer.addresses,
                ["192.0.2.7".parse::<IpAddr>().expect("one")]
            );
            assert!(!answer.malformed);
        });
    }
}

#[test]
fn of_dns_only_answers_from_servers_are_reported() {
    let Some(mut watch) = watch(kinds(&[Kind::Dns])) else {
        return;
    };
    let server = server("127.0.0.63");
    let to = server.local_addr().expect("address");
    let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
    // From another port, a question, and less than a header.
    client
        .send_to(
            &answer(1, "other.example", &[]),
            client.local_addr().expect("address"),
        )
        .expect("send");
    let mut question = answer(2, "question.example", &[]);
    question[2] &= 0x7f;
    let from = client.local_addr().expect("address");
    server.send_to(&question, from).expect("send");
    server.send_to(&[0x81; 11], from).expect("send");
    // Nobody saw this socket ask: the answer is reported, without a process.
    let long = vec![0x3f; 4000];
    let message = answer(3, "long.example", &[("long.example", 16, long)]);
    server.send_to(&message, from).expect("send");
    dns_event(&mut watch, to.ip(), |event, packet, answer| {
        assert_eq!(answer.name.as_deref(), Some("long.example"));
        assert_eq!(packet.data.bytes, &message[..]);
        assert_eq!((event.tgid, event.start_ns), (0, 0));
        assert_ne!(event.cgroup_id, 0);
    });
    // Longer than a record.
    let message = answer(4, "longer.example", &[("x", 16, vec![1; 9000])]);
    server.send_to(&message, from).expect("send");
    dns_event(&mut watch, to.ip(), |_, packet, answer| {
        assert_eq!(answer.name.as_deref(), Some("longer.example"));
        assert!(packet.data.cut && packet.data.bytes.len() == 4096);
        assert!(!answer.malformed, "what is cut is not its sender's fault");
    });
    watch.finish(&mut |_| {});
    let counts = *watch.sensor.counters().expect("counters").kind(Kind::Dns);
    assert_eq!((counts.submitted, counts.lost()), (2, 0), "{counts:?}");
    assert!(counts.filtered >= 1, "{counts:?}");
}

#[test]
fn dns_over_tcp_is_seen_where_it_comes_in_one_piece() {
    let Some(mut watch) = watch(kinds(&[Kind::Dns])) else {
        return;
    };
    let listener = TcpListener::bind("127.0.0.64:53").expect("bind port 53");
    let to = listener.local_addr().expect("address");
    let _client = TcpStream::connect(to).expect("connect");
    let (mut server, _) = listener.accept().expect("accept");
    let message = answer(5, "tcp.example", &[("tcp.example", 1, vec![192, 0, 2, 9])]);
    let mut framed = (message.len() as u16).to_be_bytes().to_vec();
    framed.extend_from_slice(&message);
    server.write_all(&framed).expect("write");
    dns_event(&mut watch, to.ip(), |event, packet, answer| {
        assert_eq!(event.tgid, US());
        assert_eq!(packet.protocol, libc::IPPROTO_TCP as u16);
        assert_eq!(packet.data.bytes, &message[..]);
        assert_eq!(answer.name.as_deref(), Some("tcp.example"));
    });
}

#[test]
fn packets_are_left_alone_where_nobody_wants_them() {
    let Some(mut watch) = watch(kinds(&[Kind::Connect])) else {
        return;
    };
    for kind in ["dns", "tls", "sendto"] {
        assert_eq!(hook(&watch, kind), None);
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let mut client = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
    client
        .write_all(&client_hello("nobody.example", 0))
        .expect("write");
    let mut others = 0;
    watch.finish(&mut |event| others += u32::from(!matches!(event.body, Body::Connect(_))));
    assert_eq!(others, 0);
}

#[test]
fn dns_alone_reports_no_connections() {
    let Some(mut watch) = watch(kinds(&[Kind::Dns])) else {
        return;
    };
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    socket.connect("127.0.0.1:9").expect("connect");
    let other = UdpSocket::bind("127.0.0.1:0").expect("bind");
    other.send_to(b"x", "127.0.0.1:9").expect("send");
    let mut others = 0;
    watch.finish(&mut |event| others += u32::from(!matches!(event.body, Body::Dns(_))));
    assert_eq!(others, 0);
}
