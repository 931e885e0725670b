//! Values that fields yield and literals that rules compare them with.
//!
//! A value borrows from the event that it describes, so reading a field copies nothing.
//! Whether a comparison between two values holds is decided in `semantics.rs`, not here.

use std::net::IpAddr;

use serde::Serialize;

/// The type of a field. It decides how a literal beside the field is read and which operators apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FieldType {
    /// Text. Bytes as the kernel gave them; not necessarily UTF-8.
    Str,
    /// A file system path; text whose literals may be compared by components.
    Path,
    /// Raw bytes (payloads, buffers).
    Bytes,
    /// Unsigned number.
    Uint,
    /// Signed number.
    Int,
    /// Floating-point number.
    Double,
    /// `true` or `false`.
    Bool,
    /// IPv4 or IPv6 address.
    Ip,
    /// An address that is compared with networks in CIDR notation.
    Net,
    /// A TCP or UDP port; literals may be numbers or service names.
    Port,
    /// A span of time in nanoseconds.
    RelTime,
    /// A moment, nanoseconds since the Unix epoch.
    AbsTime,
}

/// What a field yields for one event. Absence (`None` where an `Option<Value>` is returned) means that
/// the field could not be extracted, which makes every comparison on it false.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// For `Str`, `Path` and `Bytes`.
    Bytes(&'a [u8]),
    /// For `Uint`, `Port`, `RelTime` and `AbsTime`.
    Uint(u64),
    /// For `Int`.
    Int(i64),
    /// For `Double`.
    Double(f64),
    /// For `Bool`.
    Bool(bool),
    /// For `Ip` and `Net`.
    Ip(IpAddr),
    /// For fields that yield several values; no element is itself a list.
    List(&'a [Value<'a>]),
}
