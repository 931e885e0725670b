//! What rules ask of an event: each field of the table from the event and its context, computed when asked for.
//!
//! One match a family, split by family. Computed text lives in an arena that is emptied after every event, so a field costs
//! no allocation once the arena has grown to its size.

mod capabilities;
mod container;
mod event;
mod fd;
mod gpu;
mod network;
mod process;
mod python;
mod running;
mod shown;

use std::path::Path;

use bumpalo::Bump;
use saker_rules::{FieldArgRef, FieldSource, fields::Field, value::Value};
use serde::{Deserialize, Serialize};

use crate::{
    context::{
        container::Owner,
        dns,
        gpu::GpuFacts,
        names::Names,
        outside::Outside,
        process::{Process, Relatives},
        resolved::Resolved,
        runtime::Container,
        tls,
    },
    event::{Body, Event},
    redact::Redactor,
};

/// An event with all that is known about who did it.
#[derive(Clone, Copy, Debug)]
pub struct EventView<'e> {
    /// What happened.
    pub event: &'e Event<'e>,
    /// Its number, growing by one from 1.
    pub number: u64,
    /// Nanoseconds between the boot clock and the Unix epoch.
    pub epoch_offset_ns: i64,
    /// This node's name.
    pub hostname: &'e str,
    /// The process that acted, where it is known.
    pub process: Option<&'e Process>,
    /// Where its ancestors are looked up.
    pub relatives: Relatives<'e>,
    /// For an open by a relative path, the folder that it starts from, where the process could still be asked.
    pub folder: Option<&'e [u8]>,
    /// The device, for an event about one that has a name.
    pub device: Option<Device<'e>>,
    /// For an event from inside Python, what is known of it beyond the event.
    pub python: Option<&'e Python>,
    /// For an event about a packet, what the packet says.
    pub carried: Option<&'e Carried>,
    /// For an event about a GPU, what is known of it beyond the event.
    pub gpu: Option<GpuFacts<'e>>,
    /// Names of addresses.
    pub resolved: &'e Resolved,
    /// The container of the process.
    pub owner: &'e Owner,
    /// What the container's runtime says of it, where that is known.
    pub container: Option<&'e Container>,
    /// Whether something of the container that could be known is not.
    pub incomplete: bool,
    /// Users and groups.
    pub names: &'e Names,
    /// The `/proc` file system, for what only a running process can tell.
    pub proc: &'e Path,
    /// The way to it, or to what it showed when it was recorded.
    pub outside: &'e Outside,
    /// What takes secrets out of the values, where they are for an alert; `None`: they are true, as rules need them.
    pub redactor: Option<&'e Redactor>,
    /// Where computed values live until the event is done.
    pub arena: &'e Bump,
}

/// A device that an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device<'e> {
    /// Its registered name.
    pub name: &'e str,
    /// Its major number.
    pub major: u32,
    /// Its minor number.
    pub minor: u32,
}

/// What a packet says, read once for all fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carried {
    /// A DNS answer.
    Dns(dns::Answer),
    /// A TLS client's first message.
    Tls(tls::Hello),
}

impl Carried {
    /// Reads the packet of an event, if it has one that says something.
    pub fn of(event: &Event<'_>) -> Option<Self> {
        match event.body {
            Body::Dns(packet) => dns::parse(packet.data.bytes, packet.data.cut).map(Self::Dns),
            Body::Tls(packet) => Some(Self::Tls(tls::parse(packet.data.bytes))),
            _ => None,
        }
    }
}

/// What is known of the Python that an event came from, asked of the process when the event came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Python {
    /// Its version, as in `3.11` or `3.13t`.
    pub version: Option<Box<str>>,
    /// The model file that the process opened last, of those that it has open.
    pub model_file: Option<Box<[u8]>>,
}

impl EventView<'_> {
    /// When it happened, nanoseconds since the Unix epoch.
    pub fn time_ns(&self) -> i64 {
        i64::try_from(self.event.ts_ns)
            .unwrap_or(i64::MAX)
            .saturating_add(self.epoch_offset_ns)
    }

    /// Formats into the arena.
    fn text<'a>(&'a self, text: std::fmt::Arguments<'_>) -> Value<'a> {
        let mut formatted = bumpalo::collections::String::new_in(self.arena);
        // Writing into a string in memory cannot fail.
        let _ = std::fmt::Write::write_fmt(&mut formatted, text);
        Value::Bytes(formatted.into_bump_str().as_bytes())
    }

    /// Collects a list into the arena.
    fn list<'a>(&'a self, values: impl Iterator<Item = Value<'a>>) -> Value<'a> {
        let mut list = bumpalo::collections::Vec::new_in(self.arena);
        list.extend(values);
        Value::List(list.into_bump_slice())
    }
}

impl FieldSource for EventView<'_> {
    fn event_type(&self) -> Option<&[u8]> {
        Some(self.event.type_name().as_bytes())
    }

    fn field<'a>(&'a self, field: Field, arg: FieldArgRef<'a>) -> Option<Value<'a>> {
        let value = event::value(self, field, arg)
            .or_else(|| process::value(self, field, arg))
            .or_else(|| container::value(self, field, arg))
            .or_else(|| fd::value(self, field))
            .or_else(|| running::value(self, field, arg))
            .or_else(|| python::value(self, field))
            .or_else(|| network::value(self, field))
            .or_else(|| gpu::value(self, field, arg));
        match self.redactor {
            Some(redactor) => Some(shown::value(self, redactor, field, arg, value?)),
            None => value,
        }
    }
}

/// Text as a value; absent where it is empty, because the kernel side could not supply it.
fn known(text: &[u8]) -> Option<Value<'_>> {
    (!text.is_empty()).then_some(Value::Bytes(text))
}
