//! The hook of beginnings of TCP connections.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

use saker::context::tls::{self, Extent};
use saker::event::{Body, Packet};
use saker::source::Kind;
use saker_ebpf::wire::packet::JSON_BYTES_MAX;
use saker_tests::root_or_skip;

use crate::network::hook;
use crate::sockets::{
    QUEUE_SEQUENCE, RECEIVED, REPAIR_OFF, REPAIR_QUEUE, SENT, address, bind, connect,
    enter_own_network, set, set_second_address, set_tcp, socket, tcp_options, tcp_socket,
};
use crate::{Watch, kinds, watch};

/// The first piece of this process's next TLS connection to `port` that makes a hello with those before it.
fn hello(watch: &mut Watch, port: u16) -> (tls::Hello, u32) {
    let mut data: Vec<u8> = Vec::new();
    let mut pieces = 0;
    watch.until("hello", |event| match event.body {
        Body::Tls(packet) if packet.remote.port() == port && event.tgid != 0 => {
            assert_eq!(packet.offset as usize, data.len());
            assert_eq!(packet.protocol, libc::IPPROTO_TCP as u16);
            assert!(packet.remote.ip().is_loopback() && packet.local.port() != 0);
            data.extend_from_slice(packet.data.bytes);
            pieces += 1;
            (tls::extent(&data) == Extent::Whole).then(|| (tls::parse(&data), pieces))
        }
        _ => None,
    })
}

/// What a TLS client says first: a name, protocols, and further extensions of `padding` bytes.
pub fn client_hello(name: &str, padding: usize) -> Vec<u8> {
    let sized = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let extension = |number: u16, bytes: &[u8]| [&number.to_be_bytes()[..], &sized(bytes)].concat();
    let sni = sized(&[&[0][..], &sized(name.as_bytes())].concat());
    let extensions = [
        extension(21, &vec![0; padding]),
        extension(0, &sni),
        extension(16, &sized(b"\x02h2\x08http/1.1")),
        extension(43, b"\x04\x0a\x0a\x03\x04"),
    ]
    .concat();
    let mut body = vec![3, 3];
    body.extend_from_slice(&[7; 32]);
    body.push(0);
    body.extend_from_slice(&sized(&[0x13, 1]));
    body.extend_from_slice(&[1, 0]);
    body.extend_from_slice(&sized(&extensions));
    let length = (body.len() as u32).to_be_bytes();
    let message = [&[1, length[1], length[2], length[3]][..], &body].concat();
    [&[22, 3, 1][..], &sized(&message)].concat()
}

#[test]
fn hellos_are_seen_whole_and_in_pieces() {
    let Some(mut watch) = watch(kinds(&[Kind::Tls])) else {
        return;
    };
    assert_eq!(hook(&watch, "tls"), Some("cgroup_skb/egress"));
    let listener = TcpListener::bind("[::]:0").expect("bind");
    let port = listener.local_addr().expect("address").port();
    for (address, padding, piece) in [
        ("127.0.0.1", 0, usize::MAX),
        ("::1", 300, usize::MAX),
        ("::ffff:127.0.0.1", 1800, usize::MAX),
        ("127.0.0.1", 1800, 700),
        ("127.0.0.1", 3000, 2000),
    ] {
        say_hello(&mut watch, address, port, padding, piece);
    }
    let mut more = 0;
    watch.finish(&mut |event| {
        more += u32::from(matches!(event.body, Body::Tls(packet) if packet.remote.port() == port));
    });
    assert_eq!(more, 0, "only the hello is recorded");
}

#[test]
fn a_hello_in_very_small_pieces_is_seen() {
    let Some(mut watch) = watch(kinds(&[Kind::Tls])) else {
        return;
    };
    // Also shorter ones than what a hello is known by, or than a record's header.
    for piece in [7, 6, 5, 3, 2] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("address").port();
        say_hello(&mut watch, "127.0.0.1", port, 0, piece);
    }
}

fn say_hello(watch: &mut Watch, address: &str, port: u16, padding: usize, piece: usize) {
    let address: IpAddr = address.parse().expect("an address");
    let mut client = TcpStream::connect((address, port)).expect("connect");
    client.set_nodelay(true).expect("set");
    let bytes = client_hello("Models.Example", padding);
    let mut pieces = 0;
    for part in bytes.chunks(piece) {
        client.write_all(part).expect("write");
        pieces += 1;
    }
    // What follows is the client's business.
    client.write_all(&[23; 5000]).expect("write");
    let (hello, seen) = hello(watch, port);
    assert_eq!(
        hello.sni.as_deref(),
        Some(&b"models.example"[..]),
        "{padding} {piece}"
    );
    assert_eq!(
        hello.alpn,
        [Box::from(&b"h2"[..]), Box::from(&b"http/1.1"[..])]
    );
    assert_eq!((hello.version, hello.malformed), (Some("1.3"), false));
    assert!(seen <= pieces, "{seen} of {pieces}");
}

#[test]
fn connections_that_are_not_tls_are_left_alone() {
    let Some(mut watch) = watch(kinds(&[Kind::Tls])) else {
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let to = listener.local_addr().expect("address");
    let mut client = TcpStream::connect(to).expect("connect");
    let (mut server, _) = listener.accept().expect("accept");
    client.write_all(b"GET / HTTP/1.1\r\n").expect("write");
    // Not the first bytes, and not a client's.
    client
        .write_all(&client_hello("late.example", 0))
        .expect("write");
    server
        .write_all(&client_hello("server.example", 0))
        .expect("write");
    // The kernel counts a server's bytes from the second. As PostgreSQL does: a byte, and what a server says first of TLS.
    for first in [b"S", b"{", &[22]] {
        let _client = TcpStream::connect(to).expect("connect");
        let (mut server, _) = listener.accept().expect("accept");
        server.set_nodelay(true).expect("set");
        server.write_all(first).expect("write");
        server
            .write_all(&[22, 3, 3, 0, 90, 2, 0, 0, 86])
            .expect("write");
    }
    let mut records = 0;
    watch.finish(&mut |event| {
        let is_here = |packet: &Packet<'_>| packet.remote == to || packet.local == to;
        records += u32::from(matches!(event.body, Body::Tls(packet) if is_here(&packet)));
    });
    assert_eq!(records, 0);
    let counts = *watch.sensor.counters().expect("counters").kind(Kind::Tls);
    assert!(counts.filtered >= 1, "{counts:?}");
    assert_eq!(
        counts.seen,
        counts.filtered + counts.submitted + counts.lost()
    );
}

#[test]
fn a_beginning_in_json_is_recorded_once_and_bounded() {
    let Some(mut watch) = watch(kinds(&[Kind::Tls])) else {
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let to = listener.local_addr().expect("address");
    let greeting = br#"{"id":1,"method":"mining.subscribe","params":["x/1"]}"#;
    for first in [&greeting[..], &[b'{'; 3_000]] {
        let mut client = TcpStream::connect(to).expect("connect");
        let (mut server, _) = listener.accept().expect("accept");
        client.write_all(first).expect("write");
        // Neither what follows, nor what the other end says.
        client.write_all(greeting).expect("write");
        server.write_all(greeting).expect("write");
    }
    let mut found = Vec::new();
    watch.finish(&mut |event| {
        if let Body::Tls(packet) = event.body
            && (packet.remote == to || packet.local == to)
        {
            assert!(packet.begins_as_json() && event.tgid == std::process::id());
            found.push(packet.data.bytes.to_vec());
        }
    });
    let [greeted, long] = &found[..] else {
        panic!("{} records", found.len());
    };
    assert_eq!(
        saker::mining::stratum::method(greeted),
        Some("mining.subscribe")
    );
    assert_eq!(greeted, greeting);
    assert_eq!(long, &[b'{'; JSON_BYTES_MAX as usize]);
}

#[test]
fn a_beginning_without_end_is_recorded_up_to_a_bound() {
    let Some(mut watch) = watch(kinds(&[Kind::Tls])) else {
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let to = listener.local_addr().expect("address");
    let mut client = TcpStream::connect(to).expect("connect");
    client.set_nodelay(true).expect("set");
    // A hello of 16 megabytes, as far as it says.
    client
        .write_all(&[22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff])
        .expect("write");
    for _ in 0..200 {
        client.write_all(&[1; 100]).expect("write");
    }
    let (mut bytes, mut records) = (0, 0);
    watch.finish(&mut |event| {
        if let Body::Tls(packet) = event.body
            && packet.remote == to
        {
            assert_eq!(packet.offset as usize, bytes);
            bytes += packet.data.bytes.len();
            records += 1;
        }
    });
    assert!(
        bytes <= 4096 && records <= 64,
        "{bytes} bytes, {records} records"
    );
    assert!(bytes > 1000, "{bytes}");
}

#[test]
fn the_hello_of_a_real_client_is_read() {
    let Some(mut watch) = watch(kinds(&[Kind::Tls, Kind::Connect])) else {
        return;
    };
    if !Command::new("python3")
        .arg("-c")
        .arg("import ssl")
        .status()
        .is_ok_and(|ran| ran.success())
    {
        return saker_tests::skip("python3 with its module ssl is not here");
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("address").port();
    let script = format!(
        "import socket, ssl\n\
         c = ssl.create_default_context()\n\
         c.set_alpn_protocols(['h2', 'http/1.1'])\n\
         s = socket.create_connection(('127.0.0.1', {port}))\n\
         try: c.wrap_socket(s, server_hostname='huggingface.example')\n\
         except OSError: pass\n"
    );
    let mut python = Command::new("python3")
        .arg("-c")
        .arg(script)
        .stderr(Stdio::null())
        .spawn()
        .expect("spawn");
    let (server, _) = listener.accept().expect("accept");
    let pid = python.id();
    let owner = watch.until("hello", |event| match event.body {
        Body::Tls(packet) if packet.remote.port() == port => {
            let hello = tls::parse(packet.data.bytes);
            assert_eq!(hello.sni.as_deref(), Some(&b"huggingface.example"[..]));
            assert_eq!(hello.alpn.first().map(|name| &name[..]), Some(&b"h2"[..]));
            assert_eq!((hello.version, hello.malformed), (Some("1.3"), false));
            Some(event.tgid)
        }
        _ => None,
    });
    assert_eq!(owner, pid);
    drop(server);
    python.wait().expect("wait");
}

/// The owner and the name of the next whole hello to `port`.
fn next_name(watch: &mut Watch, port: u16) -> (u32, String) {
    watch.until("hello", |event| match event.body {
        Body::Tls(packet) if packet.remote.port() == port => {
            assert_eq!(packet.offset, 0);
            let name = tls::parse(packet.data.bytes).sni.expect("a name");
            Some((event.tgid, String::from_utf8(name.into()).expect("ASCII")))
        }
        _ => None,
    })
}

/// What is corked leaves by a timer, whoever runs then.
#[test]
fn a_hello_that_waits_is_of_the_process_that_connected() {
    let Some(mut watch) = watch(kinds(&[Kind::Tls])) else {
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let to = listener.local_addr().expect("address");
    let mut client = TcpStream::connect(to).expect("connect");
    set_tcp(&client, libc::TCP_CORK, 1);
    client
        .write_all(&client_hello("late.example", 0))
        .expect("write");
    let seen = next_name(&mut watch, to.port());
    assert_eq!(seen, (std::process::id(), "late.example".into()));
}

#[test]
fn a_connection_from_before_is_of_the_process_that_sends() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let to = listener.local_addr().expect("address");
    let mut clients = [(); 2].map(|()| TcpStream::connect(to).expect("connect"));
    let Some(mut watch) = watch(kinds(&[Kind::Tls])) else {
        return;
    };
    let bytes = client_hello("before.example", 0);
    clients[0].write_all(&bytes).expect("write");
    let seen = next_name(&mut watch, to.port());
    assert_eq!(seen, (std::process::id(), "before.example".into()));
    // What a timer sends then is nobody's, but in a cgroup.
    set_tcp(&clients[1], libc::TCP_CORK, 1);
    clients[1].write_all(&bytes).expect("write");
    let seen = watch.until("hello", |event| match event.body {
        Body::Tls(packet) if packet.remote == to => {
            Some((event.tgid, event.start_ns, event.cgroup_id != 0))
        }
        _ => None,
    });
    assert_eq!(seen, (0, 0, true));
}

/// Whoever connects can see to it that its bytes get the numbers that those of the connection before had.
#[test]
fn a_socket_that_is_connected_anew_says_hello_anew() {
    let Some(mut watch) = watch(kinds(&[Kind::Tls])) else {
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let to = listener.local_addr().expect("address");
    let mut client = tcp_socket();
    for (name, bytes) in [
        // More of it is waited for.
        ("first.example", 90),
        ("second.example", usize::MAX),
        ("third.example", usize::MAX),
    ] {
        set_tcp(&client, libc::TCP_REPAIR, 1);
        set_tcp(&client, REPAIR_QUEUE, SENT);
        set_tcp(&client, QUEUE_SEQUENCE, 5000);
        set_tcp(&client, libc::TCP_REPAIR, REPAIR_OFF);
        connect(&client, address(to));
        let hello = client_hello(name, 100);
        let hello = &hello[..bytes.min(hello.len())];
        client.write_all(hello).expect("write");
        let seen = watch.until("hello", |event| match event.body {
            Body::Tls(packet) if packet.remote == to => {
                Some((packet.offset, packet.data.bytes.to_vec()))
            }
            _ => None,
        });
        assert_eq!(seen, (0, hello.to_vec()), "{name}");
        let mut nowhere = address(to);
        nowhere.sin_family = libc::AF_UNSPEC as u16;
        connect(&client, nowhere);
    }
}

/// Such a socket sends by others, which the kernel makes and connects for it.
#[test]
fn a_hello_over_mptcp_is_of_the_process_that_connected() {
    let Some(mut watch) = watch(kinds(&[Kind::Tls])) else {
        return;
    };
    let [listener, client] = [(); 2].map(|()| socket(libc::IPPROTO_MPTCP));
    let (Ok(listener), Ok(client)) = (listener, client) else {
        return saker_tests::skip("this kernel has no MPTCP");
    };
    // SAFETY: takes numbers.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 1) }, 0);
    let listener = TcpListener::from(listener);
    let to = listener.local_addr().expect("address");
    let mut client = TcpStream::from(client);
    connect(&client, address(to));
    client
        .write_all(&client_hello("many.example", 0))
        .expect("write");
    let seen = next_name(&mut watch, to.port());
    assert_eq!(seen, (std::process::id(), "many.example".into()));
}

#[test]
fn options_of_ip_hide_no_hello() {
    let Some(mut watch) = watch(kinds(&[Kind::Tls])) else {
        return;
    };
    /// `IPV6_DSTOPTS`
    const DESTINATION_OPTIONS: i32 = 59;
    for (at, level, option, value) in [
        ("127.0.0.1", libc::IPPROTO_IP, libc::IP_OPTIONS, &[1; 4][..]),
        (
            "::1",
            libc::IPPROTO_IPV6,
            DESTINATION_OPTIONS,
            // Two times eight bytes, of padding.
            &[0, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ),
    ] {
        let listener = TcpListener::bind((at, 0)).expect("bind");
        let to = listener.local_addr().expect("address");
        let mut client = TcpStream::connect(to).expect("connect");
        set(&client, level, option, value);
        client
            .write_all(&client_hello("hidden.example", 0))
            .expect("write");
        let seen = next_name(&mut watch, to.port());
        assert_eq!(seen, (std::process::id(), "hidden.example".into()));
    }
}

/// Who receives does not see it, unless he asks for it: what he reads is a hello.
#[test]
fn an_urgent_byte_hides_no_hello() {
    let Some(mut watch) = watch(kinds(&[Kind::Tls])) else {
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let to = listener.local_addr().expect("address");
    let mut client = TcpStream::connect(to).expect("connect");
    // SAFETY: a byte there is.
    let sent = unsafe { libc::send(client.as_raw_fd(), b"x".as_ptr().cast(), 1, libc::MSG_OOB) };
    assert_eq!(sent, 1, "{}", io::Error::last_os_error());
    client
        .write_all(&client_hello("urgent.example", 0))
        .expect("write");
    let seen = watch.until("beginning", |event| match event.body {
        Body::Tls(packet) if packet.remote == to => {
            Some((packet.offset, packet.data.bytes[0], event.tgid))
        }
        _ => None,
    });
    assert_eq!(seen, (0, b'x', std::process::id()));
}

/// What CRIU does with connections that it moves: neither end sends a SYN.
#[test]
fn a_connection_that_is_made_without_a_handshake_is_seen() {
    let Some(mut watch) = watch(kinds(&[Kind::Tls])) else {
        return;
    };
    // Ports that are nobody's while these sockets hold them.
    let ends = [(tcp_socket(), 1000, 2000), (tcp_socket(), 2000, 1000)];
    for (end, sent, received) in &ends {
        let anywhere = address("127.0.0.1:0".parse().expect("an address"));
        bind(end, anywhere);
        set_tcp(end, libc::TCP_REPAIR, 1);
        for (queue, sequence) in [(SENT, *sent), (RECEIVED, *received)] {
            set_tcp(end, REPAIR_QUEUE, queue);
            set_tcp(end, QUEUE_SEQUENCE, sequence);
        }
    }
    let [(mut client, ..), (server, ..)] = ends;
    let at = |end: &TcpStream| end.local_addr().expect("address");
    connect(&client, address(at(&server)));
    connect(&server, address(at(&client)));
    set_tcp(&client, libc::TCP_REPAIR, 0);
    set_tcp(&server, libc::TCP_REPAIR, 0);
    client.set_nodelay(true).expect("set");
    let bytes = client_hello("moved.example", 0);
    // The kernel counts such a connection's bytes from the second.
    client.write_all(&bytes[..1]).expect("write");
    client.write_all(&bytes[1..]).expect("write");
    let (hello, _) = hello(&mut watch, at(&server).port());
    assert_eq!(hello.sni.as_deref(), Some(&b"moved.example"[..]));
}

/// With Fast Open, the second connection's first data leave with its SYN.
#[test]
fn a_hello_beside_the_syn_is_seen() {
    let Some(mut watch) = watch(kinds(&[Kind::Tls])) else {
        return;
    };
    /// `TCPI_OPT_SYN_DATA`
    const SYN_DATA: u8 = 32;
    // In a network of its own, where it is allowed.
    let client = thread::spawn(|| {
        enter_own_network();
        std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", "3").expect("Fast Open");
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        set(
            &listener,
            libc::IPPROTO_TCP,
            libc::TCP_FASTOPEN,
            &[5, 0, 0, 0],
        );
        let to = listener.local_addr().expect("address");
        let mut options = 0;
        for name in ["first.example", "second.example"] {
            let client = tcp_socket();
            let (hello, to) = (client_hello(name, 0), address(to));
            // SAFETY: the bytes and the address are as long as is said.
            let sent = unsafe {
                libc::sendto(
                    client.as_raw_fd(),
                    hello.as_ptr().cast(),
                    hello.len(),
                    libc::MSG_FASTOPEN,
                    (&raw const to).cast(),
                    size_of_val(&to) as u32,
                )
            };
            assert_eq!(sent, hello.len() as isize, "{}", io::Error::last_os_error());
            let _server = listener.accept().expect("accept");
            options = tcp_options(&client);
        }
        assert_ne!(
            options & SYN_DATA,
            0,
            "the SYN carried no data: {options:#x}"
        );
        to.port()
    });
    let port = client.join().expect("the client comes through");
    for name in ["first.example", "second.example"] {
        assert_eq!(
            next_name(&mut watch, port),
            (std::process::id(), name.into())
        );
    }
}

/// The kernel counts it as sent, and what leaves is not the first any more.
#[test]
fn a_hello_that_found_no_way_at_first_is_seen() {
    if !root_or_skip() {
        return;
    }
    let (ready, is_ready) = mpsc::channel();
    let (watched, is_watched) = mpsc::channel::<()>();
    let client = thread::spawn(move || {
        enter_own_network();
        let here = [192, 0, 2, 1];
        set_second_address(here);
        let listener = TcpListener::bind(SocketAddr::from((here, 0))).expect("bind");
        let to = listener.local_addr().expect("address");
        // Nobody sees who connects.
        let mut client = TcpStream::connect(to).expect("connect");
        let (mut server, _) = listener.accept().expect("accept");
        ready.send(to).expect("the test waits");
        if is_watched.recv().is_err() {
            // There is no watching here.
            return;
        }
        let bytes = client_hello("astray.example", 0);
        set_second_address([0; 4]);
        client.write_all(&bytes).expect("write");
        set_second_address(here);
        // Sent again after a while.
        let mut received = vec![0; bytes.len()];
        server.read_exact(&mut received).expect("it comes");
        assert_eq!(received, bytes);
    });
    let to = is_ready.recv().expect("the client connects");
    let Some(mut watch) = watch(kinds(&[Kind::Tls])) else {
        return;
    };
    watched.send(()).expect("the client waits");
    client.join().expect("the client comes through");
    let name = watch.until("hello", |event| match event.body {
        Body::Tls(packet) if packet.remote == to => tls::parse(packet.data.bytes).sni,
        _ => None,
    });
    assert_eq!(&name[..], b"astray.example");
}
