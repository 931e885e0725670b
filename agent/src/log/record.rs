//! An alert as the log holds it: its JSON, written once, and what every sink asks of it; and how many of them make a block.

use std::sync::Arc;

use saker_rules::ruleset::Priority;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Cursor;
use crate::alert::Alert;

/// Bytes that a record takes in memory beyond its texts.
const OVERHEAD_BYTES: usize = 192;

/// The first byte of a block: the layout of what follows.
const LAYOUT: u8 = 1;

/// Behind it: CRC of the rest, then the length of the text before it was compressed.
const HEADER_BYTES: usize = 9;

/// A block that says it is longer is damaged: no alert comes near.
const RAW_BYTES_MAX: usize = 256 << 20;

/// An alert in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When the event happened, nanoseconds since the Unix epoch.
    pub time_ns: i64,
    /// The rule's.
    pub priority: Priority,
    /// The same however often it is delivered.
    pub id: Box<str>,
    /// The rule's name.
    pub rule: Box<str>,
    /// The pod's namespace, where there is one.
    pub namespace: Option<Box<str>>,
    /// The alert in Falco's shape, one line without its end.
    pub json: Box<str>,
    /// What `ocsf` tells beyond that: a JSON object of fields. Only there where a sink asked for it.
    pub context: Option<Box<str>>,
}

impl Record {
    /// Writes the alert's JSON.
    pub fn new(alert: &Alert) -> Self {
        let context = alert.context.as_ref().map(|fields| {
            serde_json::to_string(fields)
                .expect("fields are strings, numbers and lists")
                .into()
        });
        Self {
            time_ns: alert.time_ns(),
            priority: alert.priority,
            id: alert.id.as_str().into(),
            rule: alert.rule.as_str().into(),
            namespace: alert.namespace.as_deref().map(Into::into),
            json: alert.to_json().into(),
            context,
        }
    }

    /// The alert's JSON, read. `Null` where it cannot be, which only a damaged file can bring about.
    pub fn value(&self) -> Value {
        serde_json::from_str(&self.json).unwrap_or_default()
    }

    /// About how much memory it takes.
    pub fn size_bytes(&self) -> usize {
        let optional = |text: &Option<Box<str>>| text.as_ref().map_or(0, |text| text.len());
        let texts = self.id.len() + self.rule.len() + self.json.len();
        texts + optional(&self.namespace) + optional(&self.context) + OVERHEAD_BYTES
    }
}

/// A record and its place in the log.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its place.
    pub cursor: Cursor,
    /// The alert.
    pub record: Arc<Record>,
}

/// As it is written in a block.
#[derive(Debug, Deserialize, Serialize)]
struct Row<'a> {
    time_ns: i64,
    priority: u8,
    id: &'a str,
    rule: &'a str,
    namespace: Option<&'a str>,
    json: &'a str,
    context: Option<&'a str>,
}

/// Why bytes are no block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// Written by another release.
    #[error("its layout is {0}, not {LAYOUT}")]
    Layout(u8),
    /// The checksum does not fit.
    #[error("its checksum does not fit")]
    Checksum,
    /// The checksum fits and the rest makes no sense.
    #[error("it cannot be read")]
    Unreadable,
}

/// Records as one block: compressed together, because alerts resemble each other.
pub fn encode(records: &[Arc<Record>]) -> Vec<u8> {
    let rows: Vec<_> = records.iter().map(|record| Row::of(record)).collect();
    let raw = postcard::to_stdvec(&rows).expect("texts and numbers can always be written");
    let mut block = vec![LAYOUT, 0, 0, 0, 0];
    let length = u32::try_from(raw.len()).expect("a block's records are bounded by its writer");
    block.extend_from_slice(&length.to_le_bytes());
    block.extend_from_slice(&lz4_flex::block::compress(&raw));
    let checksum = crc32fast::hash(&block[5..]);
    block[1..5].copy_from_slice(&checksum.to_le_bytes());
    block
}

/// The records of a block.
pub fn decode(block: &[u8]) -> Result<Vec<Record>, BlockError> {
    let (header, body) = block
        .split_at_checked(HEADER_BYTES)
        .ok_or(BlockError::Unreadable)?;
    if header[0] != LAYOUT {
        return Err(BlockError::Layout(header[0]));
    }
    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| header[at + byte]));
    if crc32fast::hash(&block[5..]) != word(1) {
        return Err(BlockError::Checksum);
    }
    let length = word(5) as usize;
    if length > RAW_BYTES_MAX {
        return Err(BlockError::Unreadable);
    }
    let raw = lz4_flex::block::decompress(body, length).map_err(|_| BlockError::Unreadable)?;
    let rows: Vec<Row<'_>> = postcard::from_bytes(&raw).map_err(|_| BlockError::Unreadable)?;
    rows.into_iter().map(Row::record).collect()
}

impl<'a> Row<'a> {
    fn of(record: &'a Record) -> Self {
        let place = Priority::ALL
            .iter()
            .position(|priority| *priority == record.priority);
        Self {
            time_ns: record.time_ns,
            priority: place.map_or(0, |place| place as u8),
            id: &record.id,
            rule: &record.rule,
            namespace: record.namespace.as_deref(),
            json: &record.json,
            context: record.context.as_deref(),
        }
    }

    fn record(self) -> Result<Record, BlockError> {
        let priority = Priority::ALL.get(usize::from(self.priority));
        Ok(Record {
            time_ns: self.time_ns,
            priority: *priority.ok_or(BlockError::Unreadable)?,
            id: self.id.into(),
            rule: self.rule.into(),
            namespace: self.namespace.map(Into::into),
            json: self.json.into(),
            context: self.context.map(Into::into),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(count: usize) -> Vec<Arc<Record>> {
        (0..count)
            .map(|number| Arc::new(Record::new(&Alert::for_tests(&format!("rule {number}")))))
            .collect()
    }

    #[test]
    fn a_block_gives_back_what_went_in_and_is_smaller() {
        let mut records = records(100);
        Arc::make_mut(&mut records[1]).context = Some("{}".into());
        Arc::make_mut(&mut records[2]).namespace = Some("ml".into());
        let block = encode(&records);
        let bytes: usize = records.iter().map(|record| record.json.len()).sum();
        assert!(block.len() < bytes / 3, "{} of {bytes}", block.len());
        let back = decode(&block).expect("nothing was damaged");
        let expected: Vec<_> = records.iter().map(|record| (**record).clone()).collect();
        assert_eq!(back, expected);
    }

    #[test]
    fn damage_of_any_byte_is_noticed() {
        let block = encode(&records(3));
        for at in 0..block.len() {
            let mut damaged = block.clone();
            damaged[at] ^= 0x40;
            assert!(decode(&damaged).is_err(), "byte {at}");
            assert!(decode(&block[..at]).is_err(), "{at} bytes");
        }
    }

    #[test]
    fn a_length_that_cannot_be_is_refused_before_room_is_made_for_it() {
        let mut block = encode(&records(1));
        block[5..9].copy_from_slice(&u32::MAX.to_le_bytes());
        let checksum = crc32fast::hash(&block[5..]);
        block[1..5].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(decode(&block), Err(BlockError::Unreadable));
    }
}
