//! What a DNS answer says: what was asked for, how it ended, and the addresses that the name leads to.
//!
//! The packet is whatever somebody sent: names that point at themselves, counts that lie, records that end in the middle. What
//! can be read up to there counts, the rest is said to be malformed. Only records that the question leads to count, as for a
//! resolver: an answer that also claims an address for a name that nobody asked for changes nothing.

use std::fmt::Write as _;
use std::net::IpAddr;

use domain::base::name::ToLabelIter;
use domain::base::{Message, ParsedName, Rtype};
use domain::rdata::{A, Aaaa, Cname};

/// Most records of an answer that count: aliases and addresses together. Resolvers give up earlier.
const RECORDS_MAX: usize = 256;

/// An answer, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// What was asked for: lower case, without the last dot, bytes that are no text as `\DDD`. `None` where it cannot be read.
    pub name: Option<Box<str>>,
    /// The type that was asked for, such as `AAAA`.
    pub rtype: Box<str>,
    /// How it ended, such as `NXDOMAIN`.
    pub rcode: Box<str>,
    /// The addresses, in their order; IPv4-mapped ones are IPv4.
    pub addresses: Vec<IpAddr>,
    /// The names that the name stands for, in the order of the chain.
    pub cnames: Vec<Box<str>>,
    /// Seconds that all of it may be kept.
    pub ttl_s: u32,
    /// Something of it could not be read.
    pub malformed: bool,
}

/// Reads an answer. `cut`: its end is not there, which is no fault of its sender. `None` for less than a header.
pub fn parse(message: &[u8], cut: bool) -> Option<Answer> {
    let message = Message::from_octets(message).ok()?;
    let mut answer = Answer {
        rcode: message.header().rcode().to_string().into(),
        ..Answer::default()
    };
    let mut questions = message.question();
    let Some(Ok(question)) = questions.next() else {
        answer.malformed = true;
        return Some(answer);
    };
    let asked = text(question.qname());
    answer.rtype = question.qtype().to_string().into();
    let is_complete = follow(&message, &asked, &mut answer).is_some();
    answer.name = Some(asked);
    answer.malformed = !is_complete && !cut || message.header_counts().qdcount() != 1;
    Some(answer)
}

/// Goes from the name that was asked for along its aliases to the addresses. `None` where a record cannot be read.
fn follow(message: &Message<&[u8]>, asked: &str, answer: &mut Answer) -> Option<()> {
    let mut aliases: Vec<(Box<str>, Box<str>, u32)> = Vec::new();
    let mut addresses: Vec<(Box<str>, IpAddr, u32)> = Vec::new();
    let mut is_complete = Some(());
    match message.answer() {
        Err(_) => is_complete = None,
        Ok(records) => {
            for record in records {
                let Ok(record) = record else {
                    is_complete = None;
                    break;
                };
                if aliases.len() + addresses.len() >= RECORDS_MAX {
                    is_complete = None;
                    break;
                }
                let owner = record.owner();
                let ttl_s = record.ttl().as_secs();
                let address = match record.rtype() {
                    Rtype::A => record
                        .to_record::<A>()
                        .map(|a| a.map(|a| IpAddr::V4(a.data().addr()))),
                    Rtype::AAAA => record
                        .to_record::<Aaaa>()
                        .map(|a| a.map(|a| IpAddr::V6(a.data().addr()).to_canonical())),
                    Rtype::CNAME => {
                        match record.to_record::<Cname<ParsedName<_>>>() {
                            Ok(Some(alias)) => {
                                aliases.push((text(&owner), text(alias.data().cname()), ttl_s));
                            }
                            _ => is_complete = None,
                        }
                        continue;
                    }
                    _ => continue,
                };
                match address {
                    Ok(Some(address)) => addresses.push((text(&owner), address, ttl_s)),
                    _ => is_complete = None,
                }
            }
        }
    }
    let mut ttl_s = u32::MAX;
    let mut name: &str = asked;
    // Each alias counts once, so a circle of them ends.
    while let Some(at) = aliases.iter().position(|(owner, _, _)| &**owner == name) {
        let (_, target, ttl) = aliases.swap_remove(at);
        ttl_s = ttl_s.min(ttl);
        answer.cnames.push(target);
        name = answer.cnames.last().map_or(asked, |last| last);
    }
    for (owner, address, ttl) in &addresses {
        if &**owner == name && !answer.addresses.contains(address) {
            ttl_s = ttl_s.min(*ttl);
            answer.addresses.push(*address);
        }
    }
    answer.ttl_s = if ttl_s == u32::MAX { 0 } else { ttl_s };
    is_complete
}

/// A name as rules compare it.
fn text(name: &impl ToLabelIter) -> Box<str> {
    let mut text = String::new();
    for label in name.iter_labels().filter(|label| !label.is_root()) {
        if !text.is_empty() {
            text.push('.');
        }
        for byte in label.as_slice() {
            match byte {
                b'.' | b'\\' | 0..=b' ' | 0x7f.. => {
                    let _ = write!(text, "\\{byte:03}");
                }
                byte => text.push(byte.to_ascii_lowercase().into()),
            }
        }
    }
    if text.is_empty() {
        text.push('.');
    }
    text.into()
}

#[cfg(test)]
pub(in crate::context) mod tests;
