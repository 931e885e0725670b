//! Names: what a container was told by DNS, and what its TLS connections ask for, in alerts.

use std::{
    net::{TcpListener, UdpSocket},
    process::{Child, Command, Stdio},
    thread,
};

use saker_tests::{Agent, Cgroup, agent::assert_books_close, root_or_skip, skip};

const RULES: &str = r#"
- rule: Asked for a name
  desc: A DNS answer came.
  condition: evt.type = dns and dns.name = models.test and dns.answers in (127.0.0.72) and dns.nets intersects (127.0.0.0/8)
  output: "told %proc.name %proc.pid %container.id %dns.type %dns.rcode %dns.answers %dns.cnames by %dns.server %fd.sport"
  priority: NOTICE
- rule: Connected to a name
  desc: By whichever name of its chain.
  condition: evt.type in (connect, sendto) and fd.sip = 127.0.0.72 and (fd.sip.name = edge.test or not fd.sip.name exists)
  output: "%evt.type to %fd.sip.name by %proc.pid %container.id"
  priority: NOTICE
- rule: TLS to a name
  desc: As the client asks for it.
  condition: evt.type = tls and tls.sni = hub.test
  output: "tls to %tls.sni %tls.alpn %tls.version %fd.sip.name by %proc.pid %container.id at %fd.sip:%fd.sport %evt.category"
  priority: NOTICE
"#;

/// Asks the server at 127.0.0.73 for models.test, in the way that the first argument says; sends a datagram to the address and
/// connects to the port there, with TLS.
const CLIENT: &str = r#"
import socket, ssl, sys
way, port = sys.argv[1], int(sys.argv[2])
if way != "unasked":
    query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06models\x04test\x00\x00\x01\x00\x01"
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    if way == "connected":
        s.connect(("127.0.0.73", 53)); s.send(query)
    else:
        s.sendto(query, ("127.0.0.73", 53))
    s.recv(512)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.sendto(b"x", ("127.0.0.72", 9))
c = socket.create_connection(("127.0.0.72", port))
context = ssl.create_default_context()
context.set_alpn_protocols(["h2"])
try: context.wrap_socket(c, server_hostname="hub.test")
except OSError: pass
"#;

/// models.test is an alias of edge.test, which has the address 127.0.0.72, and nobody asked for bank.test.
const ANSWER: &[u8] =
    b"\x12\x34\x81\x80\x00\x01\x00\x03\x00\x00\x00\x00\x06models\x04test\x00\x00\x01\x00\x01\
    \xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x05\x00\x07\x04edge\xc0\x13\
    \xc0\x29\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\x7f\x00\x00\x48\
    \x04bank\xc0\x13\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\x7f\x00\x00\x48";

fn client(way: &str, port: u16, cgroup: Option<&Cgroup>) -> Child {
    let mut command = Command::new("python3");
    command
        .args(["-c", CLIENT, way, &port.to_string()])
        .stderr(Stdio::null());
    if let Some(cgroup) = cgroup {
        cgroup.enter(&mut command);
    }
    command.spawn().expect("python3 starts")
}

#[test]
fn alerts_name_what_was_asked_for_and_what_was_connected_to() {
    if !root_or_skip() {
        return;
    }
    if !Command::new("python3")
        .args(["-c", "import ssl"])
        .status()
        .is_ok_and(|ran| ran.success())
    {
        return skip("python3 with its module ssl is not here");
    }
    let server =
        UdpSocket::bind("127.0.0.73:53").expect("port 53 of an address that nobody else uses");
    let listener = TcpListener::bind("127.0.0.72:0").expect("bind");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((_, from)) = server.recv_from(&mut question) {
            if server.send_to(ANSWER, from).is_err() {
                return;
            }
        }
    });
    // Accepts and hangs up, which ends the client's handshake.
    thread::spawn(move || for _client in listener.incoming() {});
    let rules = tempfile::NamedTempFile::with_suffix(".yaml").expect("a file");
    std::fs::write(rules.path(), RULES).expect("the rules are written");
    let mut agent = Agent::start(&["--rules", rules.path().to_str().expect("a path in UTF-8")]);

    let cgroup = Cgroup::like_a_container().expect("a cgroup");
    for (way, place) in [
        ("connected", None),
        ("unconnected", None),
        ("connected", Some(&cgroup)),
    ] {
        let mut python = client(way, port, place);
        let container = place.map_or("host", Cgroup::short_id);
        let who = format!("{} {container}", python.id());
        let told = format!("{who} A NOERROR (127.0.0.72) (edge.test) by 127.0.0.73 53");
        agent.await_rule("Asked for a name", &told);
        for kind in ["sendto", "connect"] {
            let by = format!("{kind} to (models.test,edge.test) by {who}");
            agent.await_rule("Connected to a name", &by);
        }
        let asked = format!(
            "tls to hub.test (h2) 1.3 (models.test,edge.test) by {who} at 127.0.0.72:{port} net"
        );
        agent.await_rule("TLS to a name", &asked);
        python.wait().expect("it ends");
    }
    // What others were told is not what this container was told.
    let other = Cgroup::like_a_container().expect("a cgroup");
    let mut python = client("unasked", port, Some(&other));
    let by = format!("connect to <NA> by {} {}", python.id(), other.short_id());
    agent.await_rule("Connected to a name", &by);
    python.wait().expect("it ends");
    let stopped = agent.stop();
    assert!(stopped.status.success());
    assert_books_close(&stopped);
}
