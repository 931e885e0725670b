//! What a TLS client says first: the name of the server that it wants, and the protocols that it offers to speak.
//!
//! The bytes are whatever somebody sent. A hello may be split over records and its extensions may be nonsense: each is looked
//! at for itself, so that one that no server minds does not hide the others. With Encrypted Client Hello the name is the
//! public one of the provider.

pub mod assembly;

use std::borrow::Cow;

use tls_parser::{
    SNIType, TlsExtension, TlsVersion, parse_tls_client_hello_extension,
    parse_tls_handshake_client_hello,
};

/// Bytes of a TLS record's header, and of the header of a handshake message.
const RECORD_HEADER: usize = 5;
const MESSAGE_HEADER: usize = 4;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;

/// Most protocols that are kept. Browsers offer two.
const PROTOCOLS_MAX: usize = 16;

/// A client's hello, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// The server's name, lower case, without a last dot. `None` where the client names none.
    pub sni: Option<Box<[u8]>>,
    /// Protocols for the connection's content, such as `h2`.
    pub alpn: Vec<Box<[u8]>>,
    /// The newest version that is offered, such as `1.3`; `None` where it is none that is known.
    pub version: Option<&'static str>,
    /// It could not be read to its end.
    pub malformed: bool,
}

/// How much of a hello is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Whole,
    /// Its beginning.
    Part,
    /// It is none.
    Other,
}

/// How much of a hello `bytes`, the beginning of a connection, hold.
pub fn extent(bytes: &[u8]) -> Extent {
    match message(bytes) {
        Ok(_) => Extent::Whole,
        Err(extent) => extent,
    }
}

/// Reads the hello that a connection begins with.
pub fn parse(bytes: &[u8]) -> Hello {
    let mut hello = Hello {
        malformed: true,
        ..Hello::default()
    };
    let Ok(message) = message(bytes) else {
        return hello;
    };
    let Ok((rest, content)) = parse_tls_handshake_client_hello(&message) else {
        return hello;
    };
    let mut version = content.version;
    hello.malformed = !rest.is_empty();
    let mut extensions = content.ext.unwrap_or_default();
    while !extensions.is_empty() {
        let Some((extension, behind)) = split_extension(extensions) else {
            hello.malformed = true;
            break;
        };
        extensions = behind;
        match parse_tls_client_hello_extension(extension) {
            Ok((_, TlsExtension::SNI(names))) => {
                let name = names.iter().find(|(kind, _)| *kind == SNIType::HostName);
                if hello.sni.is_none() {
                    hello.sni = name.and_then(|(_, name)| host_name(name));
                }
            }
            Ok((_, TlsExtension::ALPN(protocols))) => {
                let known = protocols.iter().take(PROTOCOLS_MAX);
                hello.alpn = known.map(|protocol| (*protocol).into()).collect();
            }
            Ok((_, TlsExtension::SupportedVersions(versions))) => {
                let newest = versions
                    .into_iter()
                    .filter(|version| number(*version).is_some())
                    .max_by_key(|version| version.0);
                version = newest.unwrap_or(version);
            }
            Ok(_) => {}
            Err(_) => hello.malformed = true,
        }
    }
    hello.version = number(version);
    hello
}

/// The message within the records that it is split over, without its header.
fn message(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Extent> {
    let mut joined: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    let mut rest = bytes;
    loop {
        if rest.first().is_some_and(|kind| *kind != HANDSHAKE)
            || rest.get(1).is_some_and(|major| *major != 3)
        {
            return Err(Extent::Other);
        }
        let Some((header, behind)) = rest.split_at_checked(RECORD_HEADER) else {
            return Err(Extent::Part);
        };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        let (here, behind) = behind.split_at(length.min(behind.len()));
        if joined.is_empty() {
            joined = Cow::Borrowed(here);
        } else {
            joined.to_mut().extend_from_slice(here);
        }
        if joined.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Err(Extent::Other);
        }
        if let [_, high, middle, low, ..] = *joined {
            let all = MESSAGE_HEADER + (u32::from_be_bytes([0, high, middle, low]) as usize);
            if joined.len() >= all {
                return Ok(match joined {
                    Cow::Borrowed(joined) => Cow::Borrowed(&joined[MESSAGE_HEADER..all]),
                    Cow::Owned(joined) => Cow::Owned(joined[MESSAGE_HEADER..all].into()),
                });
            }
        }
        // An empty record of a handshake is forbidden, and would let this go on without getting on.
        if length == 0 {
            return Err(Extent::Other);
        }
        if here.len() < length || behind.is_empty() {
            return Err(Extent::Part);
        }
        rest = behind;
    }
}

/// The next extension with its header, and what follows it.
fn split_extension(extensions: &[u8]) -> Option<(&[u8], &[u8])> {
    let [_, _, high, low, ..] = *extensions else {
        return None;
    };
    extensions.split_at_checked(4 + usize::from(u16::from_be_bytes([high, low])))
}

fn host_name(name: &[u8]) -> Option<Box<[u8]>> {
    let name = name.strip_suffix(b".").unwrap_or(name);
    (!name.is_empty()).then(|| name.to_ascii_lowercase().into())
}

fn number(version: TlsVersion) -> Option<&'static str> {
    Some(match version.0 {
        0x0300 => "ssl3",
        0x0301 => "1.0",
        0x0302 => "1.1",
        0x0303 => "1.2",
        0x0304 => "1.3",
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
