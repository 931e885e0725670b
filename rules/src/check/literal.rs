//! Reads constant values by the type of what they are compared with.

use std::{net::IpAddr, str::FromStr};

use crate::{
    diagnostic::Code,
    expr::{Literal, Op, Operand},
    fields::Field,
    kinds,
    value::FieldType,
};

/// Why a value cannot be read.
pub(super) struct LiteralError {
    pub(super) code: Code,
    pub(super) message: String,
    pub(super) help: Option<String>,
}

type Read = Result<Literal, LiteralError>;

/// Reads a value that stands beside an operand of a type.
pub(super) fn read(op: Op, lhs: &Operand, ty: FieldType, bytes: &[u8]) -> Read {
    if matches!(op, Op::BContains | Op::BStartsWith) {
        return hex(bytes);
    }
    let text = || String::from_utf8_lossy(bytes);
    match ty {
        FieldType::Str | FieldType::Path => string(op, lhs, bytes),
        FieldType::Bytes => Ok(Literal::Bytes(bytes.into())),
        FieldType::Uint => unsigned(lhs, &text()),
        FieldType::RelTime | FieldType::AbsTime => unsigned(lhs, &text()),
        FieldType::Int => signed(&text()),
        FieldType::Double => match f64::from_str(text().trim()) {
            Ok(number) if number.is_finite() => Ok(Literal::Double(number.to_bits())),
            _ => invalid(format!("'{}' is not a valid number", text()), None),
        },
        FieldType::Bool => match bytes {
            b"true" => Ok(Literal::Bool(true)),
            b"false" => Ok(Literal::Bool(false)),
            _ => invalid(
                format!("filter error: unrecognized boolean value {}", text()),
                Some("write `true` or `false`"),
            ),
        },
        FieldType::Ip => match IpAddr::from_str(&text()) {
            Ok(address) => Ok(Literal::Ip(address)),
            Err(_) if bytes.contains(&b'/') => invalid(
                format!("unrecognized IP address {}", text()),
                Some("compare networks with fd.net, fd.snet, fd.cnet, fd.lnet or fd.rnet"),
            ),
            Err(_) => invalid(format!("unrecognized IP address {}", text()), None),
        },
        FieldType::Net => net(&text()),
        FieldType::Port => port(&text()),
    }
}

fn invalid<T>(message: String, help: Option<&str>) -> Result<T, LiteralError> {
    Err(LiteralError {
        code: Code::InvalidValue,
        message,
        help: help.map(str::to_owned),
    })
}

fn string(op: Op, lhs: &Operand, bytes: &[u8]) -> Read {
    if bytes.contains(&0) {
        return invalid(
            "a string never contains a NUL byte, so this could not hold".to_owned(),
            Some("buffers (evt.buffer) may contain NUL bytes; compare them with bcontains"),
        );
    }
    let is_event_type = matches!(lhs, Operand::Field(field) if field.field == Field::EvtType);
    if is_event_type && matches!(op, Op::Eq | Op::Ne | Op::In | Op::Intersects) {
        let name = String::from_utf8_lossy(bytes);
        if kinds::index_of(&name).is_none() {
            let help = kinds::suggest(&name).map(|near| format!("did you mean `{near}`?"));
            let message = format!("unknown event type {name}");
            return Err(LiteralError {
                code: Code::UnknownEventType,
                message,
                help,
            });
        }
    }
    if op == Op::Regex
        && let Err(message) = crate::semantics::check_regex(bytes)
    {
        return invalid(format!("invalid regular expression: {message}"), None);
    }
    Ok(Literal::Bytes(bytes.into()))
}

fn hex(bytes: &[u8]) -> Read {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = bytes.chunks(2).map(|pair| match *pair {
        [high, low] => Some((digit(high)? * 16 + digit(low)?) as u8),
        _ => None,
    });
    match pairs.collect::<Option<Vec<u8>>>() {
        Some(decoded) if !decoded.is_empty() => Ok(Literal::Bytes(decoded.into())),
        _ => invalid(
            "filter error: bcontains and bstartswith operator support hex strings only".to_owned(),
            Some("write two hexadecimal digits for every byte, such as `48545450`"),
        ),
    }
}

/// Negative numbers wrap around, as in Falco, where fields have C's types: `user.uid = -1`.
fn unsigned(lhs: &Operand, text: &str) -> Read {
    let number = match text.strip_prefix('-') {
        Some(digits) => decimal(digits).map(u64::wrapping_neg),
        None => decimal(text.strip_prefix('+').unwrap_or(text)),
    };
    match number {
        Some(number) if text.starts_with('-') && is_32_bits(lhs) => {
            Ok(Literal::Uint(number & u64::from(u32::MAX)))
        }
        Some(number) => Ok(Literal::Uint(number)),
        None => invalid(format!("{text} is not a valid number"), None),
    }
}

fn signed(text: &str) -> Read {
    let number = match text.strip_prefix('-') {
        Some(digits) => {
            decimal(digits).map(|number| i64::try_from(number).map_or(i64::MIN, |number| -number))
        }
        None => decimal(text.strip_prefix('+').unwrap_or(text))
            .map(|number| i64::try_from(number).unwrap_or(i64::MAX)),
    };
    match number {
        Some(number) => Ok(Literal::Int(number)),
        None => invalid(format!("{text} is not a valid number"), None),
    }
}

/// Decimal or, behind 0x, hexadecimal digits. A number too large is the largest.
fn decimal(digits: &str) -> Option<u64> {
    let (digits, radix) = match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (digits, 10),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    Some(u64::from_str_radix(digits, radix).unwrap_or(u64::MAX))
}

fn is_32_bits(lhs: &Operand) -> bool {
    matches!(lhs, Operand::Field(field) if matches!(
        field.field,
        Field::UserUid | Field::GroupGid | Field::ProcTty | Field::EvtCount | Field::SyslogFacility
            | Field::SyslogSeverity | Field::EvtTypeIs
    ))
}

fn net(text: &str) -> Read {
    let help = Some("write an address and a prefix length, such as `10.0.0.0/8`");
    let Some((address, len)) = text.split_once('/') else {
        return invalid(format!("unrecognized IP network {text}"), help);
    };
    let Ok(address) = IpAddr::from_str(address) else {
        return invalid(format!("unrecognized IP address {text}"), help);
    };
    let len_max = if address.is_ipv4() { 32 } else { 128 };
    match u8::from_str(len) {
        Ok(len) if len <= len_max => Ok(Literal::Net(address, len)),
        _ => invalid(format!("invalid netmask {len}"), help),
    }
}

fn port(text: &str) -> Read {
    if let Ok(number) = u16::from_str(text) {
        return Ok(Literal::Uint(number.into()));
    }
    match SERVICES.iter().find(|(name, _)| *name == text) {
        Some(&(_, number)) => Ok(Literal::Uint(number.into())),
        None => invalid(
            format!("unrecognized protocol {text}"),
            Some("write a port from 0 to 65535 or a common service's name"),
        ),
    }
}

/// Services that rules name. The host's own database would make a rule's meaning depend on the node.
static SERVICES: &[(&str, u16)] = &[
    ("ftp-data", 20),
    ("ftp", 21),
    ("ssh", 22),
    ("telnet", 23),
    ("smtp", 25),
    ("domain", 53),
    ("dns", 53),
    ("bootps", 67),
    ("bootpc", 68),
    ("tftp", 69),
    ("http", 80),
    ("kerberos", 88),
    ("pop3", 110),
    ("sunrpc", 111),
    ("ntp", 123),
    ("netbios-ns", 137),
    ("netbios-dgm", 138),
    ("netbios-ssn", 139),
    ("imap2", 143),
    ("imap", 143),
    ("snmp", 161),
    ("snmp-trap", 162),
    ("bgp", 179),
    ("ldap", 389),
    ("https", 443),
    ("microsoft-ds", 445),
    ("submission", 587),
    ("ldaps", 636),
    ("imaps", 993),
    ("pop3s", 995),
    ("socks", 1080),
    ("ms-sql-s", 1433),
    ("nfs", 2049),
    ("mysql", 3306),
    ("postgresql", 5432),
    ("amqp", 5672),
    ("redis", 6379),
    ("http-alt", 8080),
];
