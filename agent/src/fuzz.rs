//! What the fuzz targets do with their input; here, so that an ordinary test runs the same code on a few thousand inputs.
//!
//! `cargo fuzz run record` in `agent/` runs a target; see CONTRIBUTING.md. Here is what comes through the ring or from a
//! capture; `others` has the files and answers of programs that are not ours.

mod others;

use std::{
    cell::RefCell,
    mem::offset_of,
    sync::{Arc, LazyLock},
};

use saker_ebpf::wire::{self, Header as RecordHeader, Kind};
use saker_rules::{bundle::Bundle, fields::FIELDS, template::Template};

pub use others::{accounts, dns, elf, runtime, tls};

use crate::{
    config::Config,
    detect::{Detect, DetectOptions},
    metrics::Metrics,
    pipeline::Replay,
    source::capture::{FORMAT, Frame, Header, Reader},
};

const OPTIONS: DetectOptions = DetectOptions {
    first_match: false,
    instances_max: 1000,
};

/// A rule for every event whose text shows every field, behind the shipped rules' kinds.
const EVERYTHING: &str = "- rule: every event\n  desc: d\n  condition: evt.num > 0 and evt.type exists\n  priority: DEBUG\n  output: \"";

/// A header of an agent that no record speaks of.
fn header() -> Header {
    Header {
        own_tgid: u32::MAX,
        ..Header::of_this_agent()
    }
}

/// A replay with a rule that asks for every field of every event.
pub(crate) fn replay(header: &Header) -> Replay {
    static RULES: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let plain = |name: &str| Template::parse(&format!("%{name}")).is_ok();
        let fields = FIELDS.iter().map(|info| info.name);
        let output: String = fields
            .filter(|name| plain(name))
            .map(|name| format!("%{name} "))
            .collect();
        let text = format!("{EVERYTHING}{output}\"\n");
        let file = saker_rules::loader::SourceFile::new("fuzz.yaml", text.as_str());
        let options = saker_rules::loader::LoadOptions::default();
        let report = saker_rules::loader::load(&[file], &options);
        assert!(!report.has_errors(), "{}", report.render(false));
        let options = saker_rules::compile::CompileOptions::default();
        let bundle = Bundle::compile(&report.ruleset, &options);
        bundle.expect("one rule fits").as_bytes().to_vec()
    });
    let metrics = Arc::new(Metrics::new());
    let bundle = Bundle::from_bytes(&RULES).expect("it was just compiled");
    let detect = Detect::new(bundle, &OPTIONS);
    let mut config = Config::default();
    config.processes.max = 1024;
    config.containers.hold_events_max = 256;
    // Compiling its patterns takes longer than all the rest, and they are tested by themselves.
    config.redact.enabled = false;
    Replay::new(&config, header, detect, metrics)
}

/// Takes bytes for a record, as they are and with a header that is right, through all stages.
///
/// # Panics
/// Where a record is not counted once, or raises more alerts than there are rules.
pub fn record(bytes: &[u8]) {
    thread_local! {
        static REPLAY: RefCell<Replay> = RefCell::new(replay(&header()));
    }
    REPLAY.with_borrow_mut(|replay| {
        for record in [bytes.to_vec(), with_right_header(bytes)] {
            let before = replay.counts();
            replay.frame(Frame::Record(&record), &mut |alert| {
                assert!(!alert.to_json().is_empty());
            });
            let after = replay.counts();
            let decoded = after.delivered() - before.delivered();
            assert_eq!(decoded + (after.undecoded - before.undecoded), 1);
            // The recording agent's own events raise none, and several pieces of a connection's beginning raise one.
            assert!(after.alerts <= after.delivered(), "an event has an alert");
        }
    });
}

fn with_right_header(bytes: &[u8]) -> Vec<u8> {
    let mut record = bytes.to_vec();
    let Some(kind) = record.get(offset_of!(RecordHeader, kind)) else {
        return record;
    };
    let kind = Kind::ALL[usize::from(*kind) % Kind::ALL.len()];
    record.resize(record.len().max(kind.fixed_bytes()), 0);
    let size = u32::try_from(record.len()).unwrap_or(u32::MAX);
    let mut put = |at: usize, bytes: &[u8]| record[at..at + bytes.len()].copy_from_slice(bytes);
    put(
        offset_of!(RecordHeader, version),
        &wire::VERSION.to_ne_bytes(),
    );
    put(offset_of!(RecordHeader, kind), &(kind as u16).to_ne_bytes());
    put(offset_of!(RecordHeader, size), &size.to_ne_bytes());
    record
}

/// Takes bytes for a capture, as they are and with versions and sums that are right, and replays it.
///
/// # Panics
/// Where frames are handed out behind a damage.
pub fn capture(bytes: &[u8]) {
    for file in [bytes.to_vec(), with_right_sums(bytes)] {
        let Ok(mut reader) = Reader::open(&file[..]) else {
            continue;
        };
        let mut replay = replay(reader.header());
        while let Some(frame) = reader.next() {
            replay.frame(frame, &mut |_| ());
        }
        replay.finish(&mut |_| ());
        assert!(reader.next().is_none());
    }
}

/// The prefix with this agent's versions, and every sum as it should be.
fn with_right_sums(bytes: &[u8]) -> Vec<u8> {
    let mut file = bytes.to_vec();
    if file.len() < 20 {
        return file;
    }
    file[8..10].copy_from_slice(&FORMAT.to_le_bytes());
    file[10..12].copy_from_slice(&wire::VERSION.to_le_bytes());
    let long = |file: &[u8], at: usize| {
        let four = file.get(at..)?.first_chunk().copied()?;
        Some(u32::from_le_bytes(four) as usize)
    };
    let Some(header) = long(&file, 12).and_then(|length| file.get(20..20 + length)) else {
        return file;
    };
    let mut at = 20 + header.len();
    let sum = crc32fast::hash(header);
    file[16..20].copy_from_slice(&sum.to_le_bytes());
    while let Some(length) = long(&file, at + 16) {
        let Some(packed) = file.get(at + 24..at + 24 + length) else {
            break;
        };
        let mut sum = crc32fast::Hasher::new();
        sum.update(&file[at..at + 20]);
        sum.update(packed);
        let sum = sum.finalize();
        file[at + 20..at + 24].copy_from_slice(&sum.to_le_bytes());
        at += 24 + length;
    }
    file
}

#[cfg(test)]
mod tests;
