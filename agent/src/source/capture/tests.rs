//! Captures that are whole, cut at every place that matters, damaged, hostile, or of another version.

use std::{fs, path::Path};

use saker_ebpf::wire;

use super::*;

const BLOCKS: u32 = 5;
const RECORDS_PER_BLOCK: u32 = 3;

/// A capture of five blocks with three records, an answer and a note each, and the borders of its blocks.
fn capture(folder: &Path) -> (Vec<u8>, Vec<usize>) {
    let path = folder.join("whole");
    let mut writer =
        Writer::create(&path, &Header::of_this_agent(), 1 << 30, || ()).expect("it is made");
    for block in 0..BLOCKS {
        for record in 0..RECORDS_PER_BLOCK {
            writer.frame(Frame::Answer(b"answer"));
            writer.frame(Frame::Record(&text(block, record)));
        }
        if block + 1 < BLOCKS {
            writer.frame(Frame::Note(b"note"));
            writer.flush();
        }
    }
    let written = writer.finish(Frame::Note(b"end"));
    assert!(written.error.is_none() && written.left_out == 0 && written.too_long == 0);
    assert_eq!(written.records, u64::from(BLOCKS * RECORDS_PER_BLOCK));
    let bytes = fs::read(&path).expect("it is there");
    assert_eq!(written.bytes, bytes.len() as u64);
    let borders = (0..bytes.len())
        .filter(|at| bytes[*at..].starts_with(&BLOCK) || bytes[*at..].starts_with(&LAST_BLOCK))
        .chain([bytes.len()])
        .collect::<Vec<_>>();
    // The frames before the last one are a block of their own.
    assert_eq!(borders.len(), BLOCKS as usize + 2);
    (bytes, borders)
}

fn text(block: u32, record: u32) -> Vec<u8> {
    format!("record {record} of block {block}").into_bytes()
}

/// The records that a file gives, and its damage.
fn read(bytes: &[u8]) -> (Vec<Vec<u8>>, Option<Damage>) {
    let mut reader = Reader::open(bytes).expect("its header is whole");
    let mut records = Vec::new();
    while let Some(frame) = reader.next() {
        if let Frame::Record(bytes) = frame {
            records.push(bytes.to_vec());
        }
    }
    (records, reader.damage().cloned())
}

fn expected(blocks: u32) -> Vec<Vec<u8>> {
    (0..blocks.min(BLOCKS))
        .flat_map(|block| (0..RECORDS_PER_BLOCK).map(move |record| text(block, record)))
        .collect()
}

#[test]
fn what_is_written_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let (bytes, _) = capture(folder.path());
    assert_eq!(read(&bytes), (expected(BLOCKS), None));
}

#[test]
fn a_cut_capture_loses_its_end_and_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let (bytes, borders) = capture(folder.path());
    for length in borders[0]..bytes.len() {
        let (records, damage) = read(&bytes[..length]);
        let whole = borders[1..].iter().filter(|end| **end <= length).count();
        let whole = u32::try_from(whole).expect("few");
        assert_eq!(records, expected(whole), "{length}");
        let damage = damage.expect("the end is missing");
        let left = length - borders[whole as usize];
        assert_eq!((damage.block, damage.bytes), (whole, left as u64));
        let fault = if left == 0 { Fault::NoEnd } else { Fault::Cut };
        assert_eq!((damage.fault, damage.records), (fault, 0), "{length}");
    }
    for length in 0..borders[0] {
        let error = Reader::open(&bytes[..length]).expect_err("no header");
        let is_none = length < MAGIC.len();
        assert_eq!(matches!(error, CaptureError::NotACapture), is_none);
        assert_eq!(matches!(error, CaptureError::Short), !is_none, "{error}");
    }
}

#[test]
fn a_flipped_bit_costs_what_follows_and_no_more() {
    let folder = tempfile::tempdir().expect("a folder");
    let (bytes, borders) = capture(folder.path());
    for at in borders[0]..bytes.len() {
        for bit in [0, 7] {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1 << bit;
            let block = borders.iter().filter(|start| **start <= at).count() - 1;
            let (records, damage) = read(&bytes);
            let block_number = u32::try_from(block).expect("few");
            assert_eq!(records, expected(block_number), "{at}");
            let damage = damage.expect("a bit is wrong");
            assert_eq!(damage.block, block_number, "{at}");
            assert_eq!(damage.bytes as usize, bytes.len() - borders[block]);
            let behind =
                (BLOCKS * RECORDS_PER_BLOCK).saturating_sub((block_number + 1) * RECORDS_PER_BLOCK);
            assert_eq!(damage.records, u64::from(behind), "{at}: {damage}");
        }
    }
    for at in MAGIC.len()..borders[0] {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        let error = Reader::open(&bytes[..]).expect_err("the header is damaged");
        match at {
            8..10 => assert!(matches!(error, CaptureError::Format { .. })),
            10..12 => assert!(matches!(error, CaptureError::Wire { .. })),
            // A length that is a little wrong leaves a wrong sum.
            _ => assert!(
                matches!(error, CaptureError::Header { .. } | CaptureError::Short),
                "{error}"
            ),
        }
    }
}

#[test]
fn blocks_that_are_missing_doubled_or_behind_the_end_are_noticed() {
    let folder = tempfile::tempdir().expect("a folder");
    let (bytes, borders) = capture(folder.path());
    let part = |number: usize| &bytes[borders[number]..borders[number + 1]];
    let check = |blocks: &[usize], whole: u32, expected_fault: Fault, behind: u64| {
        let mut file = bytes[..borders[0]].to_vec();
        for block in blocks {
            file.extend_from_slice(part(*block));
        }
        let (records, damage) = read(&file);
        let damage = damage.expect("it is damaged");
        assert_eq!(records, expected(whole), "{blocks:?}");
        assert_eq!(damage.fault, expected_fault, "{blocks:?}");
        assert_eq!(damage.records, behind, "{blocks:?}");
    };
    check(&[], 0, Fault::NoEnd, 0);
    check(&[0, 2, 3, 4, 5], 1, Fault::OutOfOrder, 9);
    check(&[0, 0, 1], 1, Fault::OutOfOrder, 6);
    check(&[0, 1, 2, 3, 4, 5, 0], 5, Fault::Behind, 3);
    let mut junk = bytes.clone();
    junk.extend_from_slice(b"x");
    assert_eq!(
        read(&junk).1.map(|damage| (damage.fault, damage.bytes)),
        Some((Fault::Behind, 1))
    );
}

/// A block with these frames that lies about what it pleases, and nothing behind it.
fn forged(lie: impl Fn(&mut BlockHeader), packed: &[u8], raw_len: usize) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let (bytes, borders) = capture(folder.path());
    let mut header = BlockHeader {
        is_last: false,
        number: 0,
        records: 1,
        raw_len: u32::try_from(raw_len).expect("small"),
        packed_len: u32::try_from(packed.len()).expect("small"),
        sum: 0,
    };
    lie(&mut header);
    [&bytes[..borders[0]], &header.to_bytes(packed), packed].concat()
}

#[test]
fn blocks_that_lie_are_refused_in_bounded_memory() {
    let check = |file: &[u8], fault: Fault| {
        let (records, damage) = read(file);
        assert!(records.is_empty());
        assert_eq!(damage.map(|damage| damage.fault), Some(fault));
    };
    let zeros = lz4_flex::block::compress(&vec![0; BLOCK_BYTES_MAX + 1]);
    let claim = |length: usize| forged(|_| (), &zeros, length);
    // More than a block can hold, a shorter and a longer length than the bytes give, and bytes that give none.
    check(&claim(BLOCK_BYTES_MAX + 1), Fault::NoBlock);
    check(&claim(BLOCK_BYTES_MAX), Fault::Compression);
    check(&claim(0), Fault::Compression);
    check(&forged(|_| (), &zeros[..10], 1000), Fault::Compression);
    check(&forged(|_| (), b"", 10), Fault::Compression);
    check(
        &forged(|header| header.packed_len = u32::MAX, &zeros, 10),
        Fault::NoBlock,
    );
    check(
        &forged(|header| header.packed_len += 1, &zeros, 10),
        Fault::Cut,
    );
    // Frames that reach beyond their block, of no known kind, or cut within their own header.
    let frames = |frames: &[u8]| {
        let packed = lz4_flex::block::compress(frames);
        forged(|_| (), &packed, frames.len())
    };
    check(&frames(&[1, 2, 0, 0, 0, 7]), Fault::Frames);
    check(&frames(&[1, 255, 255, 255, 255, 7]), Fault::Frames);
    check(&frames(&[9, 1, 0, 0, 0, 7]), Fault::Frames);
    check(&frames(&[1, 0, 0]), Fault::Frames);
    assert_eq!(
        read(&frames(&[1, 0, 0, 0, 0])).0,
        [Vec::<u8>::new()],
        "an empty record is for the decoder to refuse"
    );
}

#[test]
fn a_file_of_false_starts_is_read_to_its_end_all_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let (bytes, borders) = capture(folder.path());
    let claim = BlockHeader {
        is_last: false,
        number: 0,
        records: 1,
        raw_len: 1,
        packed_len: 4 << 20,
        sum: 0,
    };
    let mut start = claim.to_bytes(b"");
    start[20] ^= 1;
    let mut file = bytes[..borders[0]].to_vec();
    file.extend(std::iter::repeat_n(start, 1 << 19).flatten());
    let (records, damage) = read(&file);
    let damage = damage.expect("there is no block");
    assert!(records.is_empty());
    assert_eq!(damage.bytes as usize, file.len() - borders[0]);
}

#[test]
fn other_files_and_versions_are_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let (bytes, _) = capture(folder.path());
    let check = |file: &[u8], part: &str| {
        let error = Reader::open(file).expect_err(part).to_string();
        assert!(error.contains(part), "{error}");
    };
    check(b"", "not a capture");
    check(b"SAKERCA", "not a capture");
    check(&[0x0a, 0x0d, 0x0d, 0x0a].repeat(100), "not a capture");
    let with = |at: usize, value: u16| {
        let mut bytes = bytes.clone();
        bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    check(&with(8, 99), "format 99");
    check(&with(10, wire::VERSION + 1), "wire version");
    check(&with(10, 1), "wire version 1");
    check(&with(14, u16::MAX), "of at most");
    let header = |text: &[u8]| {
        let mut bytes = bytes[..PREFIX_BYTES].to_vec();
        bytes[12..16].copy_from_slice(&u32::try_from(text.len()).expect("small").to_le_bytes());
        bytes[16..20].copy_from_slice(&crc32fast::hash(text).to_le_bytes());
        [&bytes, text].concat()
    };
    check(&header(b"not JSON"), "header is damaged");
    check(&header(&b"[".repeat(10_000)), "header is damaged");
    check(&header(b"{}"), "laid out otherwise");
    check(
        &header(br#"{"record_bytes":[1,2,3]}"#),
        "laid out otherwise",
    );
}

#[test]
fn a_capture_ends_at_its_length_with_its_end_mark() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("full");
    let (told, is_full) = std::sync::mpsc::channel();
    let bytes_max = 40_000;
    let mut writer = Writer::create(&path, &Header::of_this_agent(), bytes_max, move || {
        told.send(()).expect("somebody listens");
    })
    .expect("it is made");
    let mut state = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    })
    .take(10_000)
    .collect();
    for _ in 0..10 {
        writer.frame(Frame::Record(&noise));
        writer.flush();
    }
    let written = writer.finish(Frame::Note(b"end"));
    is_full.try_recv().expect("it was said that it is full");
    is_full.try_recv().expect_err("once");
    assert_eq!(written.records + written.left_out, 10);
    assert!(written.left_out > 0 && written.bytes <= bytes_max);
    let (records, damage) = read(&fs::read(&path).expect("it is there"));
    assert_eq!((records.len() as u64, damage), (written.records, None));
}

#[test]
fn nobody_else_reads_it_and_nothing_else_is_overwritten() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("mine");
    fs::write(&path, "old").expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("its mode");
    let create = |path: &Path| Writer::create(path, &Header::of_this_agent(), 1 << 20, || ());
    create(&path).expect("it is made").finish(Frame::Note(b""));
    let mode = fs::metadata(&path)
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let link = folder.path().join("link");
    symlink(&path, &link).expect("a link");
    let before = fs::read(&path).expect("it is there");
    assert!(create(&link).is_err());
    assert_eq!(fs::read(&path).expect("it is there"), before);
    assert!(create(folder.path()).is_err());
    assert!(create(Path::new("/dev/null")).is_err());
    assert!(create(&folder.path().join("no/such/folder")).is_err());
}
