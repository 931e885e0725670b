//! Answers that servers write, and those that liars and chance write.

use super::*;

/// A message with these counts behind its id, and these bytes behind its header.
fn message(flags: [u8; 2], counts: [u8; 4], rest: &[&[u8]]) -> Vec<u8> {
    let mut message = vec![0, 7, flags[0], flags[1]];
    for count in counts {
        message.extend_from_slice(&[0, count]);
    }
    for part in rest {
        message.extend_from_slice(part);
    }
    message
}

fn name(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).expect("short"));
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

fn question(asked: &[u8], rtype: u8) -> Vec<u8> {
    [asked, &[0, rtype, 0, 1]].concat()
}

fn record(owner: &[u8], rtype: u8, ttl_s: u8, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).expect("short").to_be_bytes();
    [owner, &[0, rtype, 0, 1, 0, 0, 0, ttl_s], &length, data].concat()
}

const A: u8 = 1;
const CNAME: u8 = 5;
const AAAA: u8 = 28;
/// The name of the question, behind the header.
const ASKED: &[u8] = &[0xc0, 12];
const OK: [u8; 2] = [0x81, 0x80];

/// What an answer comes to: name, type, code, addresses, aliases, seconds, whether it is malformed.
fn check(bytes: &[u8], expected: &str) {
    let answer = parse(bytes, false).expect("a header");
    let addresses: Vec<String> = answer.addresses.iter().map(IpAddr::to_string).collect();
    let shown = format!(
        "{} {} {} [{}] [{}] {} {}",
        answer.name.as_deref().unwrap_or("-"),
        answer.rtype,
        answer.rcode,
        addresses.join(" "),
        answer.cnames.join(" "),
        answer.ttl_s,
        if answer.malformed {
            "malformed"
        } else {
            "whole"
        },
    );
    assert_eq!(shown, expected);
}

#[test]
fn answers_say_where_a_name_leads() {
    let asked = |rtype| question(&name("Www.Example.COM"), rtype);
    check(
        &message(
            OK,
            [1, 1, 0, 0],
            &[&asked(A), &record(ASKED, A, 60, &[192, 0, 2, 1])],
        ),
        "www.example.com A NOERROR [192.0.2.1] [] 60 whole",
    );
    check(
        &message([0x81, 0x83], [1, 0, 0, 0], &[&asked(AAAA)]),
        "www.example.com AAAA NXDOMAIN [] [] 0 whole",
    );
    // Aliases, in whatever order they are listed; an address of IPv4 that is written as IPv6.
    let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 2];
    check(
        &message(
            OK,
            [1, 4, 0, 0],
            &[
                &asked(AAAA),
                &record(&name("b.example"), AAAA, 9, &mapped),
                &record(&name("a.example"), CNAME, 20, &name("B.example")),
                &record(ASKED, CNAME, 30, &name("a.example")),
                &record(&name("b.example"), A, 40, &[192, 0, 2, 3]),
            ],
        ),
        "www.example.com AAAA NOERROR [192.0.2.2 192.0.2.3] [a.example b.example] 9 whole",
    );
    // Nobody asked for the second name.
    check(
        &message(
            OK,
            [1, 2, 0, 0],
            &[
                &asked(A),
                &record(ASKED, A, 60, &[192, 0, 2, 1]),
                &record(&name("bank.example"), A, 60, &[192, 0, 2, 66]),
            ],
        ),
        "www.example.com A NOERROR [192.0.2.1] [] 60 whole",
    );
    check(
        &message(OK, [1, 0, 0, 0], &[&question(&[0], 2)]),
        ". NS NOERROR [] [] 0 whole",
    );
    check(
        &message(
            OK,
            [1, 0, 0, 0],
            &[&question(b"\x05a.\\ \xff\x01B\x00", 16)],
        ),
        "a\\046\\092\\032\\255.b TXT NOERROR [] [] 0 whole",
    );
}

#[test]
fn lies_and_loops_are_survived() {
    let asked = question(&name("x.example"), A);
    let good = record(ASKED, A, 60, &[192, 0, 2, 1]);
    for (rest, expected) in [
        // A name that points at itself, and one that points behind itself.
        (
            &[&[0xc0, 12, 0, 1, 0, 1][..]][..],
            "-  NOERROR [] [] 0 malformed",
        ),
        (&[&[0xc0, 200, 0, 1, 0, 1]], "-  NOERROR [] [] 0 malformed"),
        // Fewer records than are promised.
        (
            &[&asked, &good],
            "x.example A NOERROR [192.0.2.1] [] 60 malformed",
        ),
        // A record that ends in the middle, and an address that is too short.
        (
            &[&asked, &good, &good[..8]],
            "x.example A NOERROR [192.0.2.1] [] 60 malformed",
        ),
        (
            &[&asked, &good, &record(ASKED, A, 60, &[192, 0, 2])],
            "x.example A NOERROR [192.0.2.1] [] 60 malformed",
        ),
        // An alias of itself, through another.
        (
            &[
                &asked,
                &record(ASKED, CNAME, 5, &name("y.example")),
                &record(&name("y.example"), CNAME, 5, &name("x.example")),
            ],
            "x.example A NOERROR [] [y.example x.example] 5 whole",
        ),
        // An alias whose name is a loop of its own.
        (
            &[&asked, &good, &record(ASKED, CNAME, 5, &[0xc0, 72])],
            "x.example A NOERROR [192.0.2.1] [] 60 malformed",
        ),
    ] {
        check(&message(OK, [1, 2, 0, 0], rest), expected);
    }
    check(
        &message(OK, [0, 0, 0, 0], &[]),
        "-  NOERROR [] [] 0 malformed",
    );
    check(
        &message(OK, [2, 0, 0, 0], &[&asked, &asked]),
        "x.example A NOERROR [] [] 0 malformed",
    );
    assert_eq!(parse(&[0; 11], false), None);
    // What the record could not carry is no lie.
    let cut = message(OK, [1, 2, 0, 0], &[&asked, &good]);
    assert!(!parse(&cut, true).expect("an answer").malformed);
}

#[test]
fn an_answer_of_very_many_records_is_read_up_to_a_bound() {
    let asked = question(&name("x.example"), A);
    let records: Vec<u8> = (0..=255u8)
        .flat_map(|last| record(ASKED, A, 60, &[10, 0, 0, last]))
        .cycle()
        .take(16 * 400)
        .collect();
    let mut bytes = message(OK, [1, 0, 0, 0], &[&asked, &records]);
    bytes[6..8].copy_from_slice(&400u16.to_be_bytes());
    let answer = parse(&bytes, false).expect("an answer");
    assert!(answer.addresses.len() <= RECORDS_MAX && answer.malformed);
}

/// A sequence of numbers that looks like chance and is the same every time.
pub(in crate::context) struct Chance(pub u64);

impl Chance {
    pub(in crate::context) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end.max(1) as u64) as usize
    }
}

#[test]
fn damaged_answers_never_panic_and_stay_small() {
    let www = name("www.example.com");
    let good = message(
        OK,
        [1, 4, 1, 1],
        &[
            &question(&www, AAAA),
            &record(ASKED, CNAME, 30, &[3, b'c', b'd', b'n', 0xc0, 16]),
            &record(&[0xc0, 45], CNAME, 20, &name("edge.example.net")),
            &record(&name("edge.example.net"), AAAA, 9, &[0x20; 16]),
            &record(&name("edge.example.net"), A, 40, &[192, 0, 2, 3]),
            &record(&[0], 6, 1, &[0; 22]),
            &record(&[0], 41, 0, &[]),
        ],
    );
    check(
        &good,
        "www.example.com AAAA NOERROR [2020:2020:2020:2020:2020:2020:2020:2020 192.0.2.3] \
         [cdn.example.com edge.example.net] 9 whole",
    );
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    let mut read = 0;
    for _ in 0..50_000 {
        let mut bytes = good.clone();
        for _ in 0..=chance.below(6) {
            let at = chance.below(bytes.len());
            bytes[at] = match chance.below(4) {
                0 => 0xc0,
                1 => chance.below(256) as u8,
                2 => bytes[at] ^ 1 << chance.below(8),
                _ => 0xff,
            };
        }
        bytes.truncate(bytes.len() - chance.below(bytes.len() / 2));
        if let Some(answer) = parse(&bytes, chance.below(2) == 0) {
            let longest = answer
                .name
                .iter()
                .chain(&answer.cnames)
                .map(|name| name.len())
                .max();
            assert!(longest.unwrap_or(0) <= 4 * 255 && answer.cnames.len() <= 4);
            read += usize::from(!answer.addresses.is_empty());
        }
    }
    assert!(
        read > 300,
        "{read}: damage must leave something to be read now and then"
    );
}
