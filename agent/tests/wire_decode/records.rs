//! Records made by hand.

use std::mem::size_of;

use saker_ebpf::wire::{self, Header, Kind, Plain};

pub fn header(kind: Kind, size: usize) -> Header {
    let mut comm = [0; wire::COMM_BYTES];
    comm[..6].copy_from_slice(b"python");
    Header {
        version: wire::VERSION,
        kind: kind as u16,
        size: size as u32,
        ktime_ns: 7,
        start_ns: 5,
        cgroup_id: 3,
        tgid: 100,
        tid: 101,
        ppid: 1,
        cpu: 2,
        uid: 1000,
        gid: 1001,
        euid: 0,
        egid: 1002,
        comm,
    }
}

pub fn bytes<T: Plain>(fixed: &T, text: &[&[u8]]) -> Vec<u8> {
    // SAFETY: a `Plain` type has no padding, so all its bytes are initialised.
    let fixed =
        unsafe { std::slice::from_raw_parts((&raw const *fixed).cast::<u8>(), size_of::<T>()) };
    let mut record = fixed.to_vec();
    for text in text {
        record.extend_from_slice(text);
    }
    record
}

pub fn exec(argv: &[u8], flags: u32) -> Vec<u8> {
    let texts: [&[u8]; 5] = [b"./x", b"/usr/bin/x", b"/tmp", argv, b"LD_PRELOAD=/x\0"];
    let size = size_of::<wire::Exec>() + texts.iter().map(|text| text.len()).sum::<usize>();
    bytes(
        &wire::Exec {
            header: header(Kind::Exec, size),
            parent_start_ns: 4,
            inode: 9,
            ctime_ns: 11,
            mtime_ns: wire::process::TIME_UNKNOWN,
            cap_permitted: 3,
            cap_effective: 2,
            cap_inheritable: 1,
            pid_ns_start_ns: 2,
            device: 254 << 20 | 1,
            flags,
            argc: 2,
            argv_bytes: argv.len() as u32,
            loginuid: wire::process::UNSET,
            audit_session: 8,
            session_leader: 0,
            tty: 0x8800,
            ns_tgid: 1,
            mount_ns: 0xf000_0000,
            pid_ns: 0,
            old_tid: 101,
            filename_len: 3,
            exe_len: 10,
            cwd_len: 4,
            argv_len: argv.len() as u32,
            env_len: 14,
            exe_uid: 0,
            exe_gid: 1,
            exe_mode: 0o100_755,
            pgid: 100,
            ns_pgid: 0,
            mount_ns_sequence: 12,
            root_inode: 13,
            root_device: 14,
            reserved: 0,
        },
        &texts,
    )
}

pub fn fork(child_tgid: u32, child_tid: u32) -> Vec<u8> {
    bytes(
        &wire::Fork {
            header: header(Kind::Fork, size_of::<wire::Fork>()),
            child_start_ns: 6,
            child_cgroup_id: 3,
            child_tgid,
            child_tid,
            child_ppid: 100,
            child_ns_tgid: 0,
            child_comm: *b"a-name-16-bytes!",
            session_leader: 90,
            pgid: 91,
            child_ns_pgid: 0,
            reserved: 0,
        },
        &[],
    )
}

pub fn exit(code: u32) -> Vec<u8> {
    bytes(
        &wire::Exit {
            header: header(Kind::Exit, size_of::<wire::Exit>()),
            code,
            flags: 0,
        },
        &[],
    )
}

pub fn cgroup_mkdir(path: &[u8], path_len: u32, flags: u32) -> Vec<u8> {
    let mut room = [b'!'; wire::PATH_BYTES_MAX + 1];
    room[..path.len()].copy_from_slice(path);
    bytes(
        &wire::CgroupMkdir {
            header: header(Kind::CgroupMkdir, size_of::<wire::CgroupMkdir>()),
            id: 77,
            path_len,
            flags,
            path: room,
        },
        &[],
    )
}

pub fn open(syscall: u32, path: &[u8]) -> Vec<u8> {
    bytes(
        &wire::Open {
            header: header(Kind::Open, size_of::<wire::Open>() + path.len() + 3),
            open_flags: 0o2,
            resolve: 0,
            mode: 0o600,
            dfd: -100,
            res: -2,
            syscall,
            path_len: path.len() as u32,
            resolved_len: 3,
            flags: wire::file::OPEN_RESOLVED_CUT,
            reserved: 0,
        },
        &[path, b"/x/"],
    )
}

/// An open that led to a file.
pub fn opened(open_flags: i32, res: i32, flags: u32, resolved: &[u8]) -> Vec<u8> {
    bytes(
        &wire::Open {
            header: header(Kind::Open, size_of::<wire::Open>() + 1 + resolved.len()),
            open_flags: open_flags as u64,
            resolve: 0,
            mode: 0,
            dfd: -100,
            res,
            syscall: wire::file::SYSCALL_OPENAT,
            path_len: 1,
            resolved_len: resolved.len() as u32,
            flags,
            reserved: 0,
        },
        &[b"x", resolved],
    )
}

pub fn device(node: u32, access: u32) -> Vec<u8> {
    bytes(
        &wire::DeviceOpen {
            header: header(Kind::DeviceOpen, size_of::<wire::DeviceOpen>()),
            major: 195,
            minor: 255,
            access,
            node,
            path_len: 3,
            flags: wire::device::DEVICE_PATH_CUT,
            path: {
                let mut path = [b'?'; wire::device::DEVICE_PATH_BYTES_MAX + 1];
                path[..3].copy_from_slice(b"x/y");
                path
            },
        },
        &[],
    )
}

pub fn pickle(module: &[u8], module_form: u32, name: &[u8], flags: u32) -> Vec<u8> {
    let area = |text: &[u8]| {
        let mut area = [b'?'; wire::python::PICKLE_TEXT_BYTES_MAX + 1];
        area[..text.len()].copy_from_slice(text);
        area
    };
    bytes(
        &wire::Pickle {
            header: header(Kind::Pickle, size_of::<wire::Pickle>()),
            module_len: module.len() as u32,
            name_len: name.len() as u32,
            module_form,
            name_form: wire::python::TEXT_ASCII,
            flags,
            reserved: 0,
            module: area(module),
            name: area(name),
        },
        &[],
    )
}

pub fn connect(family: u16, address: [u8; 16]) -> Vec<u8> {
    bytes(
        &wire::Connect {
            header: header(Kind::Connect, size_of::<wire::Connect>()),
            address,
            family,
            port: 443,
            protocol: 6,
            socket_type: 0,
            res: wire::connect::RES_ATTEMPT,
            hook: wire::connect::HOOK_CGROUP,
        },
        &[],
    )
}

/// One good record of every kind.
pub fn good_records() -> Vec<Vec<u8>> {
    vec![
        exec(b"x\0-c\0", 0),
        fork(200, 200),
        exit(0x300),
        open(wire::file::SYSCALL_OPENAT, b"/dev/nvidia0"),
        device(wire::device::NODE_CHARACTER, wire::device::DEVICE_READ),
        connect(wire::connect::FAMILY_INET6, [1; 16]),
        pickle(b"os", wire::python::TEXT_ASCII, b"system", 0),
        sendto(),
        packet(Kind::Dns, wire::connect::FAMILY_INET, b"an answer", 1024),
        packet(Kind::Tls, wire::connect::FAMILY_INET6, b"\x16\x03\x01", 3),
        cgroup_mkdir(b"/a", 2, 0),
    ]
}

pub fn sendto() -> Vec<u8> {
    let mut record = connect(wire::connect::FAMILY_INET, [127; 16]);
    record[2..4].copy_from_slice(&(Kind::Sendto as u16).to_ne_bytes());
    record
}

/// A record with a payload, in room for `room` bytes.
pub fn packet(kind: Kind, family: u16, payload: &[u8], room: usize) -> Vec<u8> {
    let mut data = vec![b'?'; room];
    data[..payload.len()].copy_from_slice(payload);
    bytes(
        &wire::Packet {
            header: header(kind, size_of::<wire::Packet>() + room),
            connection: 12,
            local: [10; 16],
            remote: std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets(),
            family,
            protocol: 17,
            local_port: 40_000,
            remote_port: 53,
            offset: 9,
            data_len: payload.len() as u32,
            flags: wire::packet::PACKET_CUT,
            reserved: 0,
        },
        &[&data],
    )
}
