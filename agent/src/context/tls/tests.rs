//! Hellos whole, in pieces, damaged, and without end.

use super::assembly::{Assembly, Counts, Hidden, Step};
use super::*;
use crate::context::dns::tests::Chance;

fn sized(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("short").to_be_bytes();
    [&length[..], bytes].concat()
}

fn extension(number: u16, bytes: &[u8]) -> Vec<u8> {
    [&number.to_be_bytes()[..], &sized(bytes)].concat()
}

fn server_name(name: &str) -> Vec<u8> {
    extension(0, &sized(&[&[0][..], &sized(name.as_bytes())].concat()))
}

fn alpn() -> Vec<u8> {
    extension(16, &sized(b"\x02h2\x08http/1.1"))
}

/// The message, without records.
fn hello(extensions: &[Vec<u8>]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend_from_slice(&[7; 32]);
    body.extend_from_slice(&[2, 1, 1]);
    body.extend_from_slice(&sized(&[0x13, 1, 0x13, 2]));
    body.extend_from_slice(&[1, 0]);
    if !extensions.is_empty() {
        body.extend_from_slice(&sized(&extensions.concat()));
    }
    let [_, high, middle, low] = u32::try_from(body.len()).expect("short").to_be_bytes();
    [&[1, high, middle, low][..], &body].concat()
}

/// In records of at most `each` bytes.
fn records(message: &[u8], each: usize) -> Vec<u8> {
    message
        .chunks(each)
        .flat_map(|part| [&[22, 3, 1][..], &sized(part)].concat())
        .collect()
}

fn check(bytes: &[u8], expected: &str) {
    let hello = parse(bytes);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let alpn: Vec<String> = hello.alpn.iter().map(|name| text(name)).collect();
    let shown = format!(
        "{} [{}] {} {}",
        hello.sni.as_deref().map_or("-".into(), text),
        alpn.join(" "),
        hello.version.unwrap_or("-"),
        if hello.malformed {
            "malformed"
        } else {
            "whole"
        },
    );
    assert_eq!(shown, expected);
}

#[test]
fn hellos_are_read() {
    let versions = extension(43, &[6, 0x0a, 0x0a, 3, 4, 3, 3]);
    let usual = hello(&[server_name("Models.Example."), alpn(), versions]);
    check(
        &records(&usual, 16_000),
        "models.example [h2 http/1.1] 1.3 whole",
    );
    // Split over records, down to single bytes.
    for each in [1, 3, 100] {
        check(
            &records(&usual, each),
            "models.example [h2 http/1.1] 1.3 whole",
        );
    }
    check(&records(&hello(&[]), 16_000), "- [] 1.2 whole");
    check(
        &records(&hello(&[alpn()]), 16_000),
        "- [h2 http/1.1] 1.2 whole",
    );
    // A newer version than any that is known, and one that is only there to be ignored.
    check(
        &records(&hello(&[extension(43, &[4, 0x7a, 0x7a, 3, 9])]), 16_000),
        "- [] 1.2 whole",
    );
    // What follows the hello is not looked at.
    let more = [records(&usual, 16_000), vec![0xff; 100]].concat();
    check(&more, "models.example [h2 http/1.1] 1.3 whole");
}

#[test]
fn an_extension_that_makes_no_sense_hides_no_other() {
    let name = server_name("models.example");
    // Of groups: says that it is longer than it is. Of versions: an odd number of bytes.
    for bad in [
        extension(10, &[0xff, 0xff, 0]),
        extension(43, &[3, 3, 4, 3]),
    ] {
        let bytes = records(&hello(&[bad, name.clone(), alpn()]), 16_000);
        let read = parse(&bytes);
        assert_eq!(
            read.sni.as_deref(),
            Some(&b"models.example"[..]),
            "{read:?}"
        );
        assert_eq!(read.alpn.len(), 2);
    }
    // The last one goes beyond the end.
    let bytes = records(&hello(&[name, vec![0, 10, 0, 200, 1]]), 16_000);
    check(&bytes, "models.example [] 1.2 malformed");
    // A name of no bytes, and a second name.
    let bytes = records(&hello(&[server_name(""), server_name("b.example")]), 16_000);
    check(&bytes, "b.example [] 1.2 whole");
}

#[test]
fn what_is_no_hello_is_told_from_a_part_of_one() {
    let whole = records(&hello(&[server_name("models.example")]), 40);
    for end in 0..whole.len() {
        assert_eq!(extent(&whole[..end]), Extent::Part, "{end}");
        assert!(parse(&whole[..end]).malformed, "{end}");
    }
    assert_eq!(extent(&whole), Extent::Whole);
    for other in [
        &b"GET / HTTP/1.1"[..],
        &[22, 2],
        &[22, 3, 1, 0, 0],
        &[22, 3, 1, 0, 4, 2, 0, 0, 0],
        &[22, 3, 1, 0, 2, 1, 0, 23, 3, 3, 0, 1],
        &[0x80, 0x2e, 1],
    ] {
        assert_eq!(extent(other), Extent::Other, "{other:?}");
    }
}

#[test]
fn damaged_hellos_never_panic() {
    let groups = extension(10, &sized(&[0, 29, 0, 23]));
    let shares = extension(51, &sized(&[&[0, 29][..], &sized(&[9; 32])].concat()));
    let good = hello(&[
        server_name("models.example"),
        groups,
        extension(13, &sized(&[4, 3, 8, 4])),
        alpn(),
        shares,
        extension(43, &[4, 3, 4, 3, 3]),
        extension(45, &[1, 1]),
        extension(21, &[0; 40]),
    ]);
    check(
        &records(&good, 16_000),
        "models.example [h2 http/1.1] 1.3 whole",
    );
    let mut chance = Chance(0x2545_f491_4f6c_dd1d);
    let mut named = 0;
    for _ in 0..50_000 {
        let mut bytes = records(&good, 1 + chance.below(300));
        for _ in 0..=chance.below(5) {
            let at = chance.below(bytes.len());
            bytes[at] = match chance.below(3) {
                0 => chance.below(256) as u8,
                1 => bytes[at] ^ 1 << chance.below(8),
                _ => 0xff,
            };
        }
        if chance.below(3) == 0 {
            bytes.truncate(bytes.len() - chance.below(bytes.len()));
        }
        extent(&bytes);
        let hello = parse(&bytes);
        assert!(hello.alpn.len() <= PROTOCOLS_MAX);
        named += u32::from(hello.sni.is_some());
    }
    assert!(
        named > 1000,
        "{named}: damage must leave a name now and then"
    );
}

const SECOND: u64 = 1_000_000_000;

#[test]
fn pieces_are_put_together() {
    let whole = records(
        &hello(&[server_name("models.example"), extension(21, &[0; 900])]),
        16_000,
    );
    let mut assembly = Assembly::default();
    assert_eq!(assembly.add(1, 0, &whole, b"r", 0), Step::Itself);
    let offset = |at: usize| u32::try_from(at).expect("small");
    // In three pieces, the second sent again with a part of the third.
    assert_eq!(assembly.add(2, 0, &whole[..100], b"first", 0), Step::Wait);
    assert_eq!(
        assembly.add(2, 100, &whole[100..500], b"second", 0),
        Step::Wait
    );
    assert_eq!(
        assembly.add(2, 100, &whole[100..600], b"again", 0),
        Step::Wait
    );
    assert_eq!(
        assembly.add(2, offset(600), &whole[600..], b"third", 0),
        Step::Joined(Hidden {
            record: b"first"[..].into(),
            data: whole.clone()
        })
    );
    // Something else than the rest.
    assert_eq!(assembly.add(3, 0, &whole[..7], b"first", 0), Step::Wait);
    assert_eq!(
        assembly.add(4, 0, &[22, 3, 1, 0, 5, 1], b"first", 0),
        Step::Wait
    );
    assert!(matches!(
        assembly.add(4, 6, &[0, 0, 9, 1, 23], b"", 0),
        Step::Joined(_)
    ));
    // A piece is missing.
    assert!(matches!(
        assembly.add(3, 50, &whole[50..], b"", 0),
        Step::Joined(_)
    ));
    assert_eq!(assembly.add(3, 70, &whole[70..], b"", 0), Step::Wait);
    assert!(assembly.is_empty());
    assert_eq!(
        assembly.counts(),
        Counts {
            whole: 1,
            joined: 1,
            unreadable: 1,
            gap: 2,
            ..Counts::default()
        }
    );
}

/// Else who connects twice by one socket could show one name and ask for another.
#[test]
fn a_socket_that_is_connected_anew_is_not_taken_for_the_connection_before() {
    let hello_to = |name: &str| records(&hello(&[server_name(name)]), 16_000);
    let (first, second) = (hello_to("shown.example"), hello_to("asked.example"));
    let mut assembly = Assembly::default();
    let without_end = &first[..first.len() - 1];
    assert_eq!(assembly.add(1, 0, without_end, b"first", 0), Step::Wait);
    assert_eq!(
        assembly.add(1, 0, &second, b"second", 0),
        Step::Before(Hidden {
            record: b"first"[..].into(),
            data: without_end.into()
        })
    );
    assert_eq!(assembly.add(1, 0, &second, b"second", 0), Step::Itself);
    assert!(assembly.is_empty());
    let counts = assembly.counts();
    assert_eq!((counts.whole, counts.unreadable), (1, 1));
}

#[test]
fn waiting_for_pieces_is_bounded() {
    let part = [22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff];
    let mut assembly = Assembly::default();
    // Too long to be waited for.
    assert_eq!(assembly.add(1, 0, &part, b"r", 0), Step::Wait);
    let mut at = part.len();
    let joined = loop {
        match assembly.add(1, u32::try_from(at).expect("small"), &[0; 500], b"", 0) {
            Step::Wait => at += 500,
            Step::Joined(joined) => break joined,
            step => panic!("a later piece: {step:?}"),
        }
    };
    assert_eq!(joined.data.len(), 4096);
    assert_eq!(assembly.overdue(u64::MAX), None);

    // Too many, and too late.
    for connection in 0..10_000 {
        let now_ns = connection * 1000;
        assert_eq!(
            assembly.add(connection, 0, &part, b"record", now_ns),
            Step::Wait
        );
        while let Some(hidden) = assembly.overdue(now_ns) {
            assert_eq!(hidden.data, part);
        }
    }
    assert_eq!(assembly.len(), 1024);
    assert_eq!(assembly.counts().evicted, 10_000 - 1024);
    assert_eq!(assembly.overdue(9 * SECOND), None);
    let mut late = 0;
    while assembly.overdue(20 * SECOND).is_some() {
        late += 1;
    }
    assert_eq!(
        (late, assembly.len(), assembly.counts().late),
        (1024, 0, 1024)
    );
}
