//! Fields of datagrams, DNS answers and TLS connections.

use saker::{
    context::{container::Owner, dns, resolved::Resolved},
    event::{Body, Connect, Packet, Text},
};
use saker_rules::{FieldArgRef, FieldSource as _, fields::Field, value::Value};

use super::{CONTAINER, SECOND, World, event};

/// models.test is an alias of edge.test, at 10.0.0.1 and 2001:db8::1.
const ANSWER: &[u8] = b"\x12\x34\x81\x80\x00\x01\x00\x03\x00\x00\x00\x00\x06Models\x04test\x00\x00\x1c\x00\x01\
    \xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x3c\x00\x07\x04edge\xc0\x13\
    \xc0\x29\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x0a\x00\x00\x01\
    \xc0\x29\x00\x1c\x00\x01\x00\x00\x00\x3c\x00\x10\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01";

const HELLO: &[u8] = b"\x16\x03\x01\x00\x5a\x01\x00\x00\x56\x03\x03\
    0123456789abcdef0123456789abcdef\x00\x00\x02\x13\x01\x01\x00\x00\x2b\
    \x00\x00\x00\x0d\x00\x0b\x00\x00\x08Hub.test\
    \x00\x10\x00\x0b\x00\x09\x02h2\x05other\
    \x00\x2b\x00\x07\x06\x0a\x0a\x03\x04\x03\x03";

fn packet(data: &'static [u8], protocol: i32, port: u16, remote: &str) -> Packet<'static> {
    Packet {
        connection: 9,
        local: "10.0.0.9:40000".parse().expect("an address"),
        remote: format!("{remote}:{port}").parse().expect("an address"),
        protocol: u16::try_from(protocol).expect("small"),
        offset: 0,
        data: Text {
            bytes: data,
            cut: false,
        },
    }
}

pub fn dns() -> Body<'static> {
    Body::Dns(packet(ANSWER, libc::IPPROTO_UDP, 53, "10.0.0.2"))
}

pub fn tls() -> Body<'static> {
    Body::Tls(packet(HELLO, libc::IPPROTO_TCP, 443, "10.0.0.1"))
}

pub fn sendto() -> Body<'static> {
    Body::Sendto(Connect {
        addr: "10.0.0.1".parse().expect("an address"),
        port: 53,
        is_inet6: false,
        protocol: Some(17),
        socket_type: Some(2),
        res: -libc::EINPROGRESS,
    })
}

/// The container was given [`ANSWER`]; its own address has a name as well.
pub fn resolved() -> Resolved {
    let mut resolved = Resolved::default();
    let owner = Owner::Container(CONTAINER.into());
    let answer = dns::parse(ANSWER, false).expect("an answer");
    resolved.learn(&owner, &answer, 90 * SECOND);
    let own = dns::Answer {
        name: Some("trainer-0".into()),
        addresses: vec!["10.0.0.9".parse().expect("an address")],
        ..dns::Answer::default()
    };
    resolved.learn(&owner, &own, 90 * SECOND);
    resolved
}

#[test]
fn values_are_what_the_packets_say() {
    let world = World::new();
    let check = |body: Body<'_>, field: &str, expected: &str| {
        assert_eq!(world.show(body, field), expected, "{field}");
    };
    for (field, expected) in [
        ("evt.type", "dns"),
        ("evt.category", "net"),
        ("evt.res", "<NA>"),
        ("syscall.type", "<NA>"),
        ("dns.name", "models.test"),
        ("dns.type", "AAAA"),
        ("dns.rcode", "NOERROR"),
        ("dns.answers", "(10.0.0.1,2001:db8::1)"),
        ("dns.cnames", "(edge.test)"),
        ("dns.server", "10.0.0.2"),
        ("dns.malformed", "false"),
        ("fd.name", "10.0.0.9:40000->10.0.0.2:53"),
        ("fd.sip", "10.0.0.2"),
        ("fd.cip", "10.0.0.9"),
        ("fd.l4proto", "udp"),
        ("fd.sip.name", "<NA>"),
        ("fd.cip.name", "(trainer-0)"),
        ("fd.is_server", "false"),
        ("tls.sni", "<NA>"),
    ] {
        check(dns(), field, expected);
    }
    for (field, expected) in [
        ("evt.type", "tls"),
        ("tls.sni", "hub.test"),
        ("tls.alpn", "(h2,other)"),
        ("tls.version", "1.3"),
        ("tls.malformed", "false"),
        ("fd.rip", "10.0.0.1"),
        ("fd.rport", "443"),
        ("fd.lport", "40000"),
        ("fd.sip.name", "(models.test,edge.test)"),
        ("fd.l4proto", "tcp"),
        ("fd.type", "ipv4"),
        ("dns.name", "<NA>"),
    ] {
        check(tls(), field, expected);
    }
    for (field, expected) in [
        ("evt.type", "sendto"),
        ("syscall.type", "sendto"),
        ("evt.res", "EINPROGRESS"),
        ("evt.is_io_write", "true"),
        ("fd.connected", "false"),
        ("fd.name_changed", "true"),
        ("fd.name", "10.0.0.1:53"),
        ("fd.rip.name", "(models.test,edge.test)"),
        ("fd.cip", "<NA>"),
        ("fd.l4proto", "udp"),
    ] {
        check(sendto(), field, expected);
    }
}

#[test]
fn names_end_with_their_time_and_belong_to_their_container() {
    let mut later = event(tls());
    later.ts_ns = 90 * SECOND + 601 * SECOND;
    let world = World::new();
    let view = world.view(&later);
    assert_eq!(view.field(Field::FdSipName, FieldArgRef::None), None);
    let elsewhere = World {
        owner: Owner::Host,
        ..World::new()
    };
    assert_eq!(elsewhere.show(tls(), "fd.sip.name"), "<NA>");
}

#[test]
fn either_end_counts_where_it_is_known() {
    let world = World::new();
    let event = event(tls());
    let view = world.view(&event);
    let Some(Value::List(ports)) = view.field(Field::FdPort, FieldArgRef::None) else {
        panic!("a list")
    };
    assert_eq!(ports, [Value::Uint(40000), Value::Uint(443)]);
}
