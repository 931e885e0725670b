//! A few thousand inputs for the fuzz targets: sound ones, and those with damage by chance, always the same.

use std::{fs, sync::Arc};

use saker_ebpf::wire::{Exec, Packet};

use super::*;
use crate::{
    context::{
        outside::{Note, Outside, Question, Totals},
        process::{Image, Seed, Start},
        runtime::{Container, cri::messages},
    },
    source::capture::Writer,
};

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).expect("it is below a usize")
    }

    /// Changes some bytes, takes some away or adds some.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..1 + self.below(4) {
            let at = self.below(bytes.len());
            match self.below(8) {
                _ if bytes.is_empty() => bytes.push(1),
                0 => bytes.truncate(at),
                1 => {
                    let end = (at + self.below(20)).min(bytes.len());
                    drop(bytes.drain(at..end));
                }
                2 => {
                    let more = bytes[at..(at + 16).min(bytes.len())].to_vec();
                    bytes.splice(at..at, more);
                }
                3 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][self.below(5)],
                _ => bytes[at] ^= 1 << self.below(8),
            }
        }
    }
}

fn packet(record: &mut Vec<u8>, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("short");
    let at = offset_of!(Packet, data_len);
    record[at..at + 4].copy_from_slice(&length.to_ne_bytes());
    record[offset_of!(Packet, family)] = 2;
    record.extend(payload);
}

/// `a.example` is `b.example`, and that 192.0.2.1.
fn dns_answer() -> Vec<u8> {
    let mut answer = b"\0\x07\x81\x80\0\x01\0\x02\0\0\0\0\x01a\x07example\0\0\x01\0\x01".to_vec();
    answer.extend(b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x04\x01b\xc0\x0e");
    answer.extend(b"\xc0\x27\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01");
    answer
}

/// It asks for `a.example` and offers `h2` and version 1.3.
fn tls_hello() -> Vec<u8> {
    let extensions = [
        &b"\0\0\0\x0e\0\x0c\0\0\x09a.example"[..],
        b"\0\x10\0\x05\0\x03\x02h2",
        b"\0\x2b\0\x03\x02\x03\x04",
    ]
    .concat();
    let mut body = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0, 0]].concat();
    body.push(u8::try_from(extensions.len()).expect("short"));
    body.extend(extensions);
    let length = u8::try_from(body.len()).expect("short");
    [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &body].concat()
}

/// A sound record of each kind, with texts where its kind has some.
fn records() -> Vec<Vec<u8>> {
    let of = |kind: Kind| {
        let mut record = vec![0; kind.fixed_bytes()];
        record[offset_of!(RecordHeader, kind)] = kind as u8 - 1;
        record[offset_of!(RecordHeader, tgid)] = 7;
        record[offset_of!(RecordHeader, start_ns)] = 9;
        match kind {
            Kind::Exec => {
                for (at, length) in [
                    (offset_of!(Exec, filename_len), 4),
                    (offset_of!(Exec, exe_len), 8),
                    (offset_of!(Exec, cwd_len), 5),
                    (offset_of!(Exec, argv_len), 12),
                    (offset_of!(Exec, env_len), 14),
                ] {
                    record[at] = length;
                }
                let flags = offset_of!(Exec, flags);
                record[flags..flags + 4].copy_from_slice(&u32::MAX.to_ne_bytes());
                record.extend(b"./x\0/usr/bin/tmp//x\0one\0t w\0\0LD_PRELOAD=/x\0");
            }
            Kind::Open => {
                record[108] = wire::file::SYSCALL_OPENAT as u8;
                record[112] = 3;
                record[116] = 7;
                record.extend(b"a/b/m/a.pt");
            }
            Kind::DeviceOpen => record[92] = 2,
            Kind::Connect | Kind::Sendto => record[96] = 2,
            Kind::Dns => packet(&mut record, &dns_answer()),
            Kind::Tls => packet(&mut record, &tls_hello()),
            Kind::Pickle => (record[80], record[84]) = (2, 6),
            Kind::Fork => (record[96], record[100]) = (8, 8),
            Kind::Exit => {}
            Kind::CgroupMkdir => {
                record[88] = 14;
                record[96..110].copy_from_slice(b"/kubepods/pod7");
            }
        }
        with_right_header(&record)
    };
    Kind::ALL.into_iter().map(of).collect()
}

/// A capture with every kind of note, answer and record.
fn whole_capture() -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("capture");
    let writer = Writer::create(&path, &header(), 1 << 20, || ()).expect("it is made");
    let mut outside = Outside::recording(writer);
    let start = Start {
        name: b"py",
        argv: b"py\0a b\0c\0",
        ..Start::default()
    };
    let seed = Seed {
        tgid: 7,
        start_ns: 9,
        image: Arc::new(Image::new(&start)),
        ..Seed::default()
    };
    outside.note(|| Note::Drivers(vec![(195, "nvidia".into())]));
    outside.note(|| Note::Process(seed.clone()));
    outside.note(|| Note::Scanned);
    outside.note(|| Note::Clock(-5));
    outside.note(|| Note::Accounts(None, Default::default()));
    outside.note(|| Note::Accounts(Some(Default::default()), Default::default()));
    outside.runtimes_present(true);
    let id = "ab".repeat(32);
    for record in records() {
        let _ = outside.ask(Question::Process(7), || Some(seed.clone()));
        let _ = outside.ask(Question::Cgroup(0, 7), || {
            crate::context::container::Owner::Container(id.as_str().into())
        });
        outside.record(&record);
    }
    let container = Container {
        id: id.as_str().into(),
        kind: "docker",
        labels: vec![("a".into(), "b".into())],
        ..Container::default()
    };
    outside.note(|| Note::Runtime(5, id.clone(), Some(Box::new(container))));
    outside.note(|| Note::HoldOver(id.clone()));
    outside.note(|| Note::Lost(6, 7, "ring_full".into(), Some(8)));
    outside.finish(Totals::default()).expect("it was recorded");
    fs::read(path).expect("it is there")
}

#[test]
fn sound_records_raise_the_alert_that_shows_everything() {
    let mut replay = replay(&header());
    let mut alerts = 0;
    for record in records() {
        replay.frame(Frame::Record(&record), &mut |_| alerts += 1);
    }
    assert_eq!(alerts, Kind::ALL.len(), "{:?}", replay.counts());
}

#[test]
fn records_with_random_damage() {
    let mut random = Random(1);
    let sound = records();
    for _ in 0..5_000 {
        let mut bytes = sound[random.below(sound.len())].clone();
        random.damage(&mut bytes);
        record(&bytes);
    }
}

#[test]
fn a_sound_capture_is_replayed_whole() {
    let file = whole_capture();
    let mut reader = Reader::open(&file[..]).expect("it is a capture");
    let mut replay = replay(reader.header());
    let mut alerts = 0;
    while let Some(frame) = reader.next() {
        replay.frame(frame, &mut |_| alerts += 1);
    }
    // One for each record, and one for the loss.
    assert_eq!(alerts, Kind::ALL.len() + 1);
    assert_eq!(replay.recorded_lost(), 7);
    assert!(replay.totals().is_some());
    assert_eq!(replay.gaps().unreadable, 0);
    assert_eq!(reader.damage(), None);
}

/// The frames of a capture, damaged before they are compressed.
fn damaged_within(file: &[u8], random: &mut Random) -> Vec<u8> {
    let header = 20 + file[12] as usize + ((file[13] as usize) << 8);
    let length = |at: usize| {
        u32::from_le_bytes([file[at], file[at + 1], file[at + 2], file[at + 3]]) as usize
    };
    let packed = &file[header + 24..header + 24 + length(header + 16)];
    let mut frames = lz4_flex::block::decompress(packed, length(header + 12)).expect("it is sound");
    random.damage(&mut frames);
    let packed = lz4_flex::block::compress(&frames);
    let mut damaged = file[..header + 12].to_vec();
    for number in [frames.len(), packed.len(), 0] {
        damaged.extend(u32::try_from(number).expect("small").to_le_bytes());
    }
    damaged.extend(packed);
    damaged
}

#[test]
fn captures_with_random_damage() {
    let mut random = Random(3);
    let file = whole_capture();
    for _ in 0..200 {
        let mut bytes = file.clone();
        random.damage(&mut bytes);
        capture(&bytes);
        capture(&damaged_within(&file, &mut random));
    }
}

/// Damages each sound input many times, and takes what comes of it.
fn check(target: fn(&[u8]), sound: &[Vec<u8>], rounds: usize) {
    let mut random = Random(5);
    for round in 0..rounds {
        let mut bytes = sound[round % sound.len()].clone();
        target(&bytes);
        random.damage(&mut bytes);
        target(&bytes);
    }
}

#[test]
fn answers_of_runtimes_with_random_damage() {
    let id = "5e".repeat(32);
    let docker = format!(
        r#"{{"Id":"{id}","Name":"/a","Created":"2026-11-20T10:00:00.5Z","Image":"sha256:{id}","Config":{{"Image":"b:1",
        "Labels":{{"io.kubernetes.pod.name":"p"}},"Env":["NVIDIA_VISIBLE_DEVICES=0,1"]}},"HostConfig":{{"Runtime":"nvidia",
        "Devices":[{{"PathOnHost":"/dev/nvidia0"}}]}},"Mounts":[{{"Source":"/a"}}]}}{}{{"RepoTags":["b:1"],"RepoDigests":["b@sha256:{id}"]}}"#,
        '\0'
    );
    let verbose = r#"{"privileged":true,"config":{"CDI_devices":[{"name":"nvidia.com/gpu=0"}],"linux":{"security_context":{}}},
        "runtimeSpec":{"process":{"user":{"uid":1,"gid":2},"env":["NVIDIA_VISIBLE_DEVICES=all"]},
        "linux":{"devices":[{"path":"/x","major":195,"minor":3}]}}}"#;
    let status = messages::ContainerStatus {
        id: id.clone(),
        image_ref: format!("b@sha256:{id}"),
        labels: [("a".to_owned(), "b".to_owned())].into(),
        mounts: vec![messages::Mount::default()],
        ..messages::ContainerStatus::default()
    };
    let cri = messages::ContainerStatusResponse {
        status: Some(status),
        info: [("info".to_owned(), verbose.to_owned())].into(),
    };
    let cri = prost::Message::encode_to_vec(&cri);
    let of_docker = docker.split('\0').next().unwrap_or_default();
    let gpus = |found: Option<Container>| found.map(|container| container.gpus.len());
    assert_eq!(
        gpus(crate::context::runtime::cri::read(&cri, "cri")),
        Some(3)
    );
    assert_eq!(
        gpus(crate::context::runtime::docker::read(
            of_docker.as_bytes(),
            b"{}",
            "docker"
        )),
        Some(3)
    );
    let path = format!("/kubepods/burstable/pod7/cri-containerd-{id}.scope");
    check(runtime, &[docker.into(), cri, path.into()], 3_000);
}

#[test]
fn account_files_with_random_damage() {
    let files = [
        "root:x:0:0:root:/root:/bin/bash\nann:x:1000:1000:,,,:/srv/ann:/bin/sh\n",
        "root:x:0:\nvideo:x:44:ann,bob\n",
        "0 100000 65536\n65536 4294967295 1\n",
    ];
    check(accounts, &files.map(|file| file.into()), 3_000);
}

/// The smallest file with a segment of code, one of constants, and a dynamic table: enough for a call to be found.
fn small_elf() -> Vec<u8> {
    let mut file = vec![0; 0x300];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[3, 0, 62, 0, 1]);
    put(32, &[64]);
    put(52, &[64, 0, 56, 0, 3]);
    let mut segments = [
        // Type, flags, offset, bytes.
        (1_u32, 5_u32, 0x100_u64, 0x40_u64),
        (1, 4, 0x140, 0xc0),
        (2, 4, 0x200, 0x40),
    ]
    .into_iter();
    for at in [64, 120, 176] {
        let (kind, flags, offset, bytes) = segments.next().expect("there are three");
        put(at, &kind.to_le_bytes());
        put(at + 4, &flags.to_le_bytes());
        for (field, value) in [(8, offset), (16, offset), (32, bytes), (40, bytes)] {
            put(at + field, &value.to_le_bytes());
        }
    }
    // `lea rdi, [rip + to the name]`, then `call`.
    put(0x100, &[0x48, 0x8d, 0x3d, 0x39, 0, 0, 0, 0xe8, 0, 0, 0, 0]);
    put(0x140, b"pickle.find_class\0libpython3.12.so.1.0\0");
    for (at, tag, value) in [(0x200, 5_u64, 0x140_u64), (0x210, 1, 18)] {
        put(at, &tag.to_le_bytes());
        put(at + 8, &value.to_le_bytes());
    }
    file
}

#[test]
fn elf_files_with_random_damage() {
    let sound = small_elf();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("elf");
    fs::write(&path, &sound).expect("it is written");
    let file = fs::File::open(path).expect("it opens");
    let sites = crate::source::python::elf::analyze(&file).expect("it is sound");
    assert!(sites.is_python && sites.find_class.len() == 1, "{sites:?}");
    check(elf, &[sound], 1_000);
}

#[test]
fn dns_answers_with_random_damage() {
    let answer = crate::context::dns::parse(&dns_answer(), false).expect("it is sound");
    assert_eq!(answer.name.as_deref(), Some("a.example"));
    assert_eq!(
        (answer.cnames.len(), answer.addresses.len()),
        (1, 1),
        "{answer:?}"
    );
    check(dns, &[dns_answer()], 3_000);
}

#[test]
fn tls_hellos_with_random_damage() {
    let hello = crate::context::tls::parse(&tls_hello());
    assert_eq!(hello.sni.as_deref(), Some(&b"a.example"[..]), "{hello:?}");
    assert!(!hello.malformed && hello.alpn.len() == 1 && hello.version == Some("1.3"));
    check(tls, &[tls_hello()], 3_000);
}
