//! The decoder against records made by hand, by chance, and by damaging good ones. Needs no kernel.

use std::mem::{offset_of, size_of};
use std::net::IpAddr;

use saker::decode::{DecodeError, DecodeErrors, PythonSign, decode, python_sign};
use saker::event::{Body, DeviceType, Event, OpenSyscall};
use saker_ebpf::wire::{self, Header, Kind};

mod records;

use records::{
    cgroup_mkdir, connect, device, exec, exit, fork, good_records, open, opened, packet, pickle,
};

#[test]
fn signs_of_a_python_that_starts() {
    const MODULE: &[u8] =
        b"/usr/lib/python3.13/lib-dynload/_pickle.cpython-313-x86_64-linux-gnu.so";
    const OTHER: &[u8] = b"/srv/x/_json.cpython-313-x86_64-linux-gnu.so";
    const LIBRARY: &[u8] = b"/opt/lib/libpython3.12.so.1.0";
    let check = |record: &[u8], expected| assert_eq!(python_sign(record), expected);
    check(&exec(b"./x\0", 0), Some(PythonSign::Started(100)));
    check(&cgroup_mkdir(b"/a", 2, 0), Some(PythonSign::Expected));
    check(&fork(1, 2), None);
    for path in [MODULE, LIBRARY] {
        let read = opened(libc::O_RDONLY | libc::O_CLOEXEC, 3, 0, path);
        check(&read, Some(PythonSign::Opened(100, path)));
        check(&opened(libc::O_PATH, 3, 0, path), None);
        check(&opened(libc::O_RDONLY, -2, 0, path), None);
        check(
            &opened(libc::O_RDONLY, 3, wire::file::OPEN_RESOLVED_CUT, path),
            None,
        );
    }
    for path in [MODULE, OTHER, LIBRARY] {
        let written = opened(libc::O_WRONLY | libc::O_CREAT, 3, 0, path);
        check(&written, Some(PythonSign::Expected));
    }
    check(&opened(libc::O_RDONLY, 3, 0, OTHER), None);
    check(&opened(libc::O_WRONLY, 3, 0, b"/srv/x/notes.txt"), None);
    check(&[], None);
}

#[test]
fn texts_of_an_interpreter() {
    use wire::python::{
        PICKLE_FAULT, PICKLE_NAME_CUT, TEXT_ASCII, TEXT_LATIN1, TEXT_UCS2, TEXT_UCS4, TEXT_UNKNOWN,
    };
    let check = |form, stored: &[u8], expected: &str| {
        let record = pickle(stored, form, b"system", PICKLE_NAME_CUT);
        let Body::Pickle(pickle) = decode(&record).expect("a good record").body else {
            panic!("not a pickle");
        };
        assert_eq!(pickle.module.chars().collect::<String>(), expected);
        assert_eq!(pickle.name.bytes, b"system");
        assert!(pickle.name.cut && !pickle.module.cut && !pickle.unreadable);
    };
    let wide = |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_ne_bytes).collect() };
    let wider = |numbers: &[u32]| -> Vec<u8> {
        numbers
            .iter()
            .flat_map(|number| number.to_ne_bytes())
            .collect()
    };
    check(TEXT_ASCII, b"os", "os");
    check(TEXT_LATIN1, b"caf\xe9", "caf\u{e9}");
    check(TEXT_UCS2, &wide("mod\u{3b1}"), "mod\u{3b1}");
    check(TEXT_UCS4, &wider(&[0x1f40d, 0x61]), "\u{1f40d}a");
    // Half a pair, and what is no character at all.
    check(TEXT_UCS2, &0xd800u16.to_ne_bytes(), "\u{fffd}");
    check(TEXT_UCS4, &wider(&[0x11_0000]), "\u{fffd}");
    // Bytes that do not fill a character.
    check(TEXT_UCS4, b"abc", "");
    check(TEXT_ASCII, b"", "");

    let record = pickle(b"", TEXT_UNKNOWN, b"", PICKLE_FAULT);
    let Body::Pickle(unread) = decode(&record).expect("a good record").body else {
        panic!("not a pickle");
    };
    assert!(unread.unreadable && unread.module.bytes.is_empty());
    for (at, value) in [(80usize, 256u32), (84, u32::MAX), (88, 3), (92, 16)] {
        let mut record = pickle(b"os", TEXT_ASCII, b"system", 0);
        record[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        let error = decode(&record).expect_err("must be refused");
        assert_eq!(error.cause(), "value", "{error}");
    }
}

#[test]
fn packets_carry_a_payload_in_room_for_more() {
    for (room, family, remote) in [
        (9, wire::connect::FAMILY_INET6, "127.0.0.1:53"),
        (1024, wire::connect::FAMILY_INET, "0.0.0.0:53"),
    ] {
        let record = packet(Kind::Dns, family, b"an answer", room);
        let Body::Dns(decoded) = decode(&record).expect("a good record").body else {
            panic!("not an answer");
        };
        assert_eq!(
            (decoded.data.bytes, decoded.data.cut),
            (&b"an answer"[..], true)
        );
        assert_eq!(decoded.remote.to_string(), remote);
        assert_eq!((decoded.local.port(), decoded.protocol), (40_000, 17));
        assert_eq!((decoded.connection, decoded.offset), (12, 9));
    }
    // A length beyond the record, and a family that is none.
    let good = packet(Kind::Tls, wire::connect::FAMILY_INET, b"x", 1);
    for (at, value, cause) in [
        (offset_of!(wire::Packet, data_len), 2, "length"),
        (offset_of!(wire::Packet, data_len), u32::MAX, "length"),
        (offset_of!(wire::Packet, family), 1, "value"),
    ] {
        let mut record = good.clone();
        record[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        let error = decode(&record).expect_err("must be refused");
        assert_eq!(error.cause(), cause, "{error}");
    }
}

#[test]
fn a_packets_record_takes_another_payload() {
    let record = packet(Kind::Tls, wire::connect::FAMILY_INET6, b"a part", 1024);
    let all = vec![7; 3000];
    let joined = saker::decode::with_payload(&record, &all).expect("a packet's record");
    let Body::Tls(decoded) = decode(&joined).expect("a good record").body else {
        panic!("not a hello");
    };
    assert_eq!((decoded.data.bytes, decoded.data.cut), (&all[..], false));
    assert_eq!((decoded.offset, decoded.connection), (0, 12));
    assert_eq!(saker::decode::with_payload(&record[..100], &all), None);
}

#[test]
fn headers_become_events() {
    for (record, kind) in good_records().iter().zip(Kind::ALL) {
        let event = decode(record).expect("a good record");
        assert_eq!(event.kind(), Some(kind));
        let Event {
            ts_ns,
            cpu,
            tgid,
            tid,
            ppid,
            start_ns,
            uid,
            gid,
            euid,
            egid,
            cgroup_id,
            comm,
            body: _,
        } = event;
        assert_eq!((ts_ns, start_ns, cgroup_id, cpu), (7, 5, 3, 2));
        assert_eq!((tgid, tid, ppid), (100, 101, 1));
        assert_eq!((uid, gid, euid, egid), (1000, 1001, 0, 1002));
        assert_eq!(comm, b"python");
    }
}

#[test]
fn arguments_are_split_at_their_ends() {
    let check = |argv: &[u8], expected: &[&[u8]]| {
        let record = exec(argv, 0);
        let Body::Exec(exec) = decode(&record).expect("a good record").body else {
            panic!("not an exec");
        };
        assert_eq!(exec.argv.iter().collect::<Vec<_>>(), expected, "{argv:?}");
    };
    check(b"", &[]);
    check(b"\0", &[b""]);
    check(b"x\0", &[b"x"]);
    check(b"x\0\0y z\0", &[b"x", b"", b"y z"]);
    check(b"x\0cut of", &[b"x", b"cut of"]);
    check(b"x\0\0\0", &[b"x", b"", b""]);
    check(b"\xff\xfe\0", &[b"\xff\xfe"]);
}

#[test]
fn exec_fields_and_flags() {
    let record = exec(
        b"x\0",
        wire::process::EXEC_MEMFD | wire::process::EXEC_ARGV_CUT | wire::process::EXEC_EXE_CUT,
    );
    let Body::Exec(exec) = decode(&record).expect("a good record").body else {
        panic!("not an exec");
    };
    assert_eq!(exec.filename.bytes, b"./x");
    assert_eq!((exec.exe.bytes, exec.exe.cut), (&b"/usr/bin/x"[..], true));
    assert_eq!((exec.cwd.bytes, exec.cwd.cut), (&b"/tmp"[..], false));
    assert_eq!(
        (exec.memfd, exec.deleted, exec.detached),
        (true, false, false)
    );
    assert_eq!((exec.argv.cut, exec.argv.unreadable), (true, false));
    assert_eq!(exec.device, (254, 1));
    assert_eq!((exec.loginuid, exec.audit_session), (None, Some(8)));
    assert_eq!(
        (exec.session_leader, exec.ns_tgid, exec.pid_ns),
        (None, Some(1), None)
    );
}

#[test]
fn new_cgroups_have_a_path_and_nothing_behind_it() {
    use wire::cgroup::CGROUP_PATH_CUT;
    for (length, flags, path, is_cut) in [
        (14, 0, &b"/kubepods/pod1"[..], false),
        (0, 0, b"", false),
        (9, CGROUP_PATH_CUT, b"/kubepods", true),
    ] {
        let record = cgroup_mkdir(b"/kubepods/pod1", length, flags);
        let Body::CgroupMkdir(made) = decode(&record).expect("a good record").body else {
            panic!("not a cgroup");
        };
        assert_eq!(
            (made.id, made.path.bytes, made.path.cut),
            (77, path, is_cut)
        );
    }
    let record = cgroup_mkdir(b"/a", wire::PATH_BYTES_MAX as u32 + 1, 0);
    assert_eq!(decode(&record).expect_err("too long").cause(), "value");
}

#[test]
fn forks_tell_threads_from_processes() {
    for (tgid, tid, is_thread) in [(200, 200, false), (100, 201, true)] {
        let record = fork(tgid, tid);
        let Body::Fork(fork) = decode(&record).expect("a good record").body else {
            panic!("not a fork");
        };
        assert_eq!(fork.is_thread(), is_thread);
        assert_eq!(fork.child_comm, b"a-name-16-bytes!");
    }
}

#[test]
fn exits_tell_codes_from_signals() {
    let check = |status, code, signal| {
        let record = exit(status);
        let Body::Exit(exit) = decode(&record).expect("a good record").body else {
            panic!("not an exit");
        };
        assert_eq!((exit.code(), exit.signal()), (code, signal), "{status:#x}");
    };
    check(0, Some(0), None);
    check(0x300, Some(3), None);
    check(0xff00, Some(255), None);
    check(9, None, Some(9));
    check(0x8b, None, Some(11));
}

#[test]
fn opens_devices_and_connections() {
    let record = open(wire::file::SYSCALL_CREAT, b"relative\xff");
    let Body::Open(open) = decode(&record).expect("a good record").body else {
        panic!("not an open");
    };
    assert_eq!(
        (open.syscall, open.path.bytes),
        (OpenSyscall::Creat, &b"relative\xff"[..])
    );
    assert_eq!(
        (open.dfd, open.res, open.mode, open.flags),
        (-100, -2, 0o600, 2)
    );
    assert!(open.resolved.cut && !open.path_unreadable && !open.path.cut && !open.how_unreadable);

    let record = device(
        wire::device::NODE_BLOCK,
        wire::device::DEVICE_MKNOD | wire::device::DEVICE_WRITE,
    );
    let Body::DeviceOpen(device) = decode(&record).expect("a good record").body else {
        panic!("not a device");
    };
    assert_eq!(
        (device.major, device.minor, device.dev_type),
        (195, 255, DeviceType::Block)
    );
    assert_eq!(
        (device.read, device.write, device.mknod),
        (false, true, true)
    );
    assert_eq!((device.path.bytes, device.path.cut), (&b"x/y"[..], true));

    let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1];
    let four = [192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let six = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let (inet, inet6) = (wire::connect::FAMILY_INET, wire::connect::FAMILY_INET6);
    for (family, address, expected, is_inet6) in [
        (inet, four, "192.0.2.1", false),
        (inet6, mapped, "192.0.2.1", true),
        (inet6, six, "2001:db8::1", true),
    ] {
        let record = connect(family, address);
        let Body::Connect(connect) = decode(&record).expect("a good record").body else {
            panic!("not a connect");
        };
        assert_eq!(
            connect.addr,
            expected.parse::<IpAddr>().expect("an address")
        );
        assert_eq!(
            (connect.is_inet6, connect.port, connect.res),
            (is_inet6, 443, -115)
        );
        assert_eq!((connect.protocol, connect.socket_type), (Some(6), None));
    }
}

#[test]
fn bad_records_are_refused_by_cause() {
    let check = |record: &[u8], cause: &str| {
        let error = decode(record).expect_err("must be refused");
        assert_eq!(error.cause(), cause, "{error}");
        let mut errors = DecodeErrors::default();
        errors.count(&error);
        assert_eq!(errors.total(), 1);
        assert!(errors.by_cause().contains(&(cause, 1)));
    };
    let patched = |mut record: Vec<u8>, at: usize, with: &[u8]| {
        record[at..at + with.len()].copy_from_slice(with);
        record
    };
    check(b"", "short");
    check(&[0; size_of::<Header>() - 1], "short");
    check(
        &patched(exit(0), 0, &(wire::VERSION - 1).to_ne_bytes()),
        "version",
    );
    check(
        &patched(exit(0), 0, &(wire::VERSION + 1).to_ne_bytes()),
        "version",
    );
    check(&patched(exit(0), 2, &0u16.to_ne_bytes()), "kind");
    let unknown = Kind::ALL.len() as u16 + 1;
    check(&patched(exit(0), 2, &unknown.to_ne_bytes()), "kind");
    check(&patched(exit(0), 4, &0u32.to_ne_bytes()), "length");
    check(&patched(exit(0), 4, &u32::MAX.to_ne_bytes()), "length");
    // A good header of a kind whose fixed part is longer.
    check(
        &patched(exit(0), 2, &(Kind::Fork as u16).to_ne_bytes()),
        "short",
    );
    // A good header of a kind whose fixed part is shorter.
    check(
        &patched(fork(1, 1), 2, &(Kind::Exit as u16).to_ne_bytes()),
        "length",
    );
    // Lengths of texts that do not add up, and that overflow when added in 32 bits.
    check(
        &patched(
            exec(b"x\0", 0),
            std::mem::offset_of!(wire::Exec, argv_len),
            &1u32.to_ne_bytes(),
        ),
        "length",
    );
    check(
        &patched(
            exec(b"x\0", 0),
            std::mem::offset_of!(wire::Exec, argv_len),
            &u32::MAX.to_ne_bytes(),
        ),
        "length",
    );
    check(
        &patched(
            exec(b"x\0", 0),
            offset_of!(wire::Exec, filename_len),
            &[0xff; 16],
        ),
        "length",
    );
    check(&open(0, b"/x"), "value");
    check(&open(5, b"/x"), "value");
    check(&device(0, 0), "value");
    check(&device(3, 0), "value");
    check(&connect(1, [0; 16]), "value");
    assert_eq!(
        decode(&open(9, b"")),
        Err(DecodeError::Value {
            field: "open.syscall",
            found: 9
        })
    );
}

/// A small generator: the test must give the same bytes every time it runs.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// Reads all that an event borrows: a wrong length would show here.
fn touch(event: &Event<'_>) -> usize {
    let text = match &event.body {
        Body::Exec(exec) => {
            exec.exe.bytes.len()
                + exec.filename.bytes.len()
                + exec.cwd.bytes.len()
                + exec.argv.iter().map(<[u8]>::len).sum::<usize>()
        }
        Body::Open(open) => open.path.bytes.len() + open.resolved.bytes.len(),
        _ => 0,
    };
    event.comm.len() + text
}

#[test]
fn damaged_records_never_panic() {
    let mut chance = Chance(1);
    let good = good_records();
    let (mut decoded, mut refused) = (0u32, 0u32);
    for _ in 0..400_000 {
        let mut record = good[chance.below(good.len())].clone();
        match chance.below(4) {
            0 => record.truncate(chance.below(record.len() + 1)),
            1 => {
                let more = chance.below(64);
                record.extend((0..more).map(|at| at as u8));
            }
            _ => {}
        }
        for _ in 0..chance.below(4) {
            if !record.is_empty() {
                let at = chance.below(record.len());
                record[at] = chance.next() as u8;
            }
        }
        // Half of the damaged lengths are made to agree again, to get past the first check.
        if record.len() >= 8 && chance.below(2) == 0 {
            let size = (record.len() as u32).to_ne_bytes();
            record[4..8].copy_from_slice(&size);
        }
        match decode(&record) {
            Ok(event) => {
                assert!(touch(&event) <= record.len());
                decoded += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(
        decoded > 10_000 && refused > 10_000,
        "{decoded} decoded, {refused} refused"
    );
}

#[test]
fn noise_never_panics() {
    let mut chance = Chance(2);
    for _ in 0..200_000 {
        let length = chance.below(300);
        let mut record: Vec<u8> = (0..length).map(|_| chance.next() as u8).collect();
        if length >= 8 {
            let kind = chance.below(8) as u16;
            record[..2].copy_from_slice(&wire::VERSION.to_ne_bytes());
            record[2..4].copy_from_slice(&kind.to_ne_bytes());
            record[4..8].copy_from_slice(&(length as u32).to_ne_bytes());
        }
        if let Ok(event) = decode(&record) {
            assert!(touch(&event) <= record.len());
        }
    }
}
