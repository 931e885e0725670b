//! Beginnings of connections that arrive in pieces, put together: bounded in number, bytes and time.
//!
//! The kernel side records the pieces in the order in which they are sent, each byte once; only of a socket that has no
//! memory left to keep anything with, a first piece that is sent again comes again. What never becomes a hello that can be read (it is too long, too slow, or a piece was lost) is handed on as it is after a while: a connection that
//! hides its hello is news too.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;
use saker_ebpf::wire::packet::HELLO_BYTES_MAX;

use super::{Extent, extent};

/// Connections that are waited for, and the bytes of them all.
const CONNECTIONS_MAX: usize = 1_024;
const BYTES_MAX: usize = 4 << 20;
/// How long the rest of a hello is waited for, on the clock of events.
const WAIT_NS: u64 = 10_000_000_000;

/// What is there of connections whose hello is not.
#[derive(Debug, Default)]
pub struct Assembly {
    parts: FxHashMap<u64, Part>,
    /// The connections in the order of their first pieces; some may be done.
    order: VecDeque<(u64, u64)>,
    bytes: usize,
    next: u64,
    counts: Counts,
}

#[derive(Debug)]
struct Part {
    /// Which of the connection's attempts.
    number: u64,
    since_ns: u64,
    /// The fixed part of the first piece's record, for all that it says of the connection.
    record: Box<[u8]>,
    data: Vec<u8>,
}

impl Part {
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.record.len() + self.data.len()
    }
}

/// How hellos came, in connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// In one piece.
    pub whole: u64,
    /// In several.
    pub joined: u64,
    /// Something else came than a hello, more than one may have, or another connection by the same socket.
    pub unreadable: u64,
    /// The rest did not come in time.
    pub late: u64,
    /// There was no room to wait for the rest.
    pub evicted: u64,
    /// Pieces behind one that is missing, or behind a hello that is complete.
    pub gap: u64,
}

/// What a piece makes of its connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// It is all there is.
    Itself,
    /// With those before it, it makes this, by the first piece's record.
    Joined(Hidden),
    /// Its socket was connected anew: this is all there is of the connection before, and the piece has to be added again.
    Before(Hidden),
    /// The next one has to come.
    Wait,
}

/// A connection's beginning, and the record of its first piece.
#[derive(Debug, PartialEq, Eq)]
pub struct Hidden {
    /// The first piece's record.
    pub record: Box<[u8]>,
    /// The bytes.
    pub data: Vec<u8>,
}

impl Assembly {
    /// Takes a piece of the connection, which starts at `offset`; `record` is what the wire says of it.
    pub fn add(
        &mut self,
        connection: u64,
        offset: u32,
        data: &[u8],
        record: &[u8],
        now_ns: u64,
    ) -> Step {
        let offset = offset as usize;
        if offset == 0 {
            if let Some(before) = self.take(connection) {
                self.counts.unreadable += 1;
                return Step::Before(before);
            }
            match extent(data) {
                Extent::Whole => {
                    self.counts.whole += 1;
                    return Step::Itself;
                }
                Extent::Other => {
                    self.counts.unreadable += 1;
                    return Step::Itself;
                }
                Extent::Part if data.len() >= HELLO_BYTES_MAX as usize => {
                    self.counts.unreadable += 1;
                    return Step::Itself;
                }
                Extent::Part => {}
            }
            self.next += 1;
            let part = Part {
                number: self.next,
                since_ns: now_ns,
                record: record.into(),
                data: data.into(),
            };
            self.bytes += part.bytes();
            self.order.push_back((connection, part.number));
            self.parts.insert(connection, part);
            return Step::Wait;
        }
        let Some(part) = self.parts.get_mut(&connection) else {
            // The first piece was lost, or all of it has been handed on.
            self.counts.gap += 1;
            return Step::Wait;
        };
        let have = part.data.len();
        if offset > have {
            self.counts.gap += 1;
            return self.take(connection).map_or(Step::Wait, Step::Joined);
        }
        let room = (HELLO_BYTES_MAX as usize).saturating_sub(have);
        let new = data.get(have - offset..).unwrap_or_default();
        let new = &new[..new.len().min(room)];
        part.data.extend_from_slice(new);
        self.bytes += new.len();
        match extent(&part.data) {
            Extent::Whole => self.counts.joined += 1,
            Extent::Part if part.data.len() < HELLO_BYTES_MAX as usize => return Step::Wait,
            Extent::Part | Extent::Other => self.counts.unreadable += 1,
        }
        self.take(connection).map_or(Step::Wait, Step::Joined)
    }

    /// A connection that is not waited for any longer, if there is one.
    pub fn overdue(&mut self, now_ns: u64) -> Option<Hidden> {
        loop {
            let &(connection, number) = self.order.front()?;
            let part = self.parts.get(&connection);
            let Some(part) = part.filter(|part| part.number == number) else {
                self.order.pop_front();
                continue;
            };
            if self.parts.len() > CONNECTIONS_MAX || self.bytes > BYTES_MAX {
                self.counts.evicted += 1;
            } else if now_ns.saturating_sub(part.since_ns) >= WAIT_NS {
                self.counts.late += 1;
            } else {
                return None;
            }
            self.order.pop_front();
            return self.take(connection);
        }
    }

    /// Connections whose rest is waited for.
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    /// Is none waited for?
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// How hellos came so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn take(&mut self, connection: u64) -> Option<Hidden> {
        let part = self.parts.remove(&connection)?;
        self.bytes -= part.bytes();
        // Behind one that is waited for the queue grows by what is done, so now and then that is left out.
        if self.order.len() > 2 * CONNECTIONS_MAX {
            let parts = &self.parts;
            self.order.retain(|(connection, number)| {
                parts
                    .get(connection)
                    .is_some_and(|part| part.number == *number)
            });
        }
        Some(Hidden {
            record: part.record,
            data: part.data,
        })
    }
}
