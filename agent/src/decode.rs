//! Bytes to [`Event`]: total, and trusting nothing. A record can come from the ring or from a capture file.
//!
//! It only reads and borrows: no allocation, no copy of text.

use std::mem::{offset_of, size_of};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use saker_ebpf::wire::{
    self, Header, Kind, Plain, cgroup, connect, device, file, packet, process, python,
};
use thiserror::Error;

use crate::event::{
    Argv, Body, CgroupMkdir, Connect, DeviceOpen, DeviceType, Env, Event, ExeFile, Exec, Exit,
    Fork, MountNs, Open, OpenSyscall, Packet, Pickle, PyForm, PyText, Text,
};

/// Why a record is none.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum DecodeError {
    /// It is shorter than its header or the fixed part of its kind.
    #[error("{found} bytes, of at least {expected}")]
    Short {
        /// Bytes there are.
        found: usize,
        /// Bytes there should be.
        expected: usize,
    },
    /// Another version of the wire format wrote it.
    #[error("wire version {found}, not {}", wire::VERSION)]
    Version {
        /// The version it claims.
        found: u16,
    },
    /// It is about something unknown.
    #[error("unknown kind {found}")]
    Kind {
        /// The kind it claims.
        found: u16,
    },
    /// Its parts do not add up to its size, or it is not as long as it says.
    #[error("{found} bytes, where its own lengths say {expected}")]
    Length {
        /// Bytes there are.
        found: usize,
        /// Bytes there should be.
        expected: u64,
    },
    /// A field holds a value that has no meaning.
    #[error("{field} is {found}")]
    Value {
        /// The field.
        field: &'static str,
        /// Its value.
        found: u32,
    },
}

impl DecodeError {
    /// A short stable name of the cause, for metrics.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Short { .. } => "short",
            Self::Version { .. } => "version",
            Self::Kind { .. } => "kind",
            Self::Length { .. } => "length",
            Self::Value { .. } => "value",
        }
    }
}

/// Records that could not be decoded, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecodeErrors {
    short: u64,
    version: u64,
    kind: u64,
    length: u64,
    value: u64,
}

impl DecodeErrors {
    /// Counts one.
    pub fn count(&mut self, error: &DecodeError) {
        *match error {
            DecodeError::Short { .. } => &mut self.short,
            DecodeError::Version { .. } => &mut self.version,
            DecodeError::Kind { .. } => &mut self.kind,
            DecodeError::Length { .. } => &mut self.length,
            DecodeError::Value { .. } => &mut self.value,
        } += 1;
    }

    /// The counts, by [`DecodeError::cause`].
    pub fn by_cause(&self) -> [(&'static str, u64); 5] {
        [
            ("short", self.short),
            ("version", self.version),
            ("kind", self.kind),
            ("length", self.length),
            ("value", self.value),
        ]
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.by_cause().iter().map(|(_, count)| count).sum()
    }
}

/// Decodes one record, which must be all of `record`.
pub fn decode(record: &[u8]) -> Result<Event<'_>, DecodeError> {
    let header: Header = fixed(record)?;
    if header.version != wire::VERSION {
        return Err(DecodeError::Version {
            found: header.version,
        });
    }
    let kind = Kind::from_wire(header.kind).ok_or(DecodeError::Kind { found: header.kind })?;
    if u64::from(header.size) != record.len() as u64 {
        return Err(DecodeError::Length {
            found: record.len(),
            expected: u64::from(header.size),
        });
    }
    let body = match kind {
        Kind::Exec => Body::Exec(exec(record)?),
        Kind::Fork => Body::Fork(fork(record)?),
        Kind::Exit => Body::Exit(exit(record)?),
        Kind::Open => Body::Open(open(record)?),
        Kind::DeviceOpen => Body::DeviceOpen(device_open(record)?),
        Kind::Pickle => Body::Pickle(pickle(record)?),
        Kind::Connect => Body::Connect(connection(record)?),
        Kind::Sendto => Body::Sendto(connection(record)?),
        Kind::Dns => Body::Dns(payload(record)?),
        Kind::Tls => Body::Tls(payload(record)?),
        Kind::CgroupMkdir => Body::CgroupMkdir(cgroup_mkdir(record)?),
    };
    Ok(Event {
        ts_ns: header.ktime_ns,
        cpu: header.cpu,
        tgid: header.tgid,
        tid: header.tid,
        ppid: header.ppid,
        start_ns: header.start_ns,
        uid: header.uid,
        gid: header.gid,
        euid: header.euid,
        egid: header.egid,
        cgroup_id: header.cgroup_id,
        comm: name(record, std::mem::offset_of!(Header, comm)),
        body,
    })
}

fn exec(record: &[u8]) -> Result<Exec<'_>, DecodeError> {
    let exec: wire::Exec = fixed(record)?;
    let [filename, exe_path, cwd, argv, env] = texts::<wire::Exec, 5>(
        record,
        [
            exec.filename_len,
            exec.exe_len,
            exec.cwd_len,
            exec.argv_len,
            exec.env_len,
        ],
    )?;
    let has = |bit: u32| exec.flags & bit != 0;
    let set = |id: u32| (id != process::UNSET).then_some(id);
    let known = |id: u32| (id != 0).then_some(id);
    let moment = |ns: u64| (ns != process::TIME_UNKNOWN).then_some(ns);
    Ok(Exec {
        exe: Text {
            bytes: exe_path,
            cut: has(process::EXEC_EXE_CUT),
        },
        filename: Text {
            bytes: filename,
            cut: has(process::EXEC_FILENAME_CUT),
        },
        cwd: Text {
            bytes: cwd,
            cut: has(process::EXEC_CWD_CUT),
        },
        argv: Argv {
            bytes: argv,
            argc: exec.argc,
            total_bytes: exec.argv_bytes,
            cut: has(process::EXEC_ARGV_CUT),
            unreadable: has(process::EXEC_ARGV_FAULT),
        },
        parent_start_ns: exec.parent_start_ns,
        inode: exec.inode,
        // The kernel's own packing, which differs from the one that stat shows.
        device: (exec.device >> 20, exec.device & 0xf_ffff),
        memfd: has(process::EXEC_MEMFD),
        deleted: has(process::EXEC_DELETED),
        detached: has(process::EXEC_DETACHED),
        loginuid: set(exec.loginuid),
        audit_session: set(exec.audit_session),
        session_leader: known(exec.session_leader),
        tty: exec.tty,
        ns_tgid: known(exec.ns_tgid),
        mount_ns: known(exec.mount_ns).map(|number| MountNs {
            number,
            sequence: exec.mount_ns_sequence,
            root: (exec.root_device, exec.root_inode),
        }),
        pid_ns: known(exec.pid_ns),
        pid_ns_start_ns: (exec.pid_ns_start_ns != process::START_UNKNOWN)
            .then_some(exec.pid_ns_start_ns),
        old_tid: exec.old_tid,
        pgid: known(exec.pgid),
        ns_pgid: known(exec.ns_pgid),
        exe_file: set(exec.exe_uid).map(|uid| ExeFile {
            uid,
            gid: exec.exe_gid,
            mode: exec.exe_mode,
            ctime_ns: moment(exec.ctime_ns),
            mtime_ns: moment(exec.mtime_ns),
        }),
        exe_upper_layer: if has(process::EXEC_UPPER_LAYER) {
            Some(true)
        } else {
            has(process::EXEC_LOWER_LAYER).then_some(false)
        },
        exe_layer_known: has(process::EXEC_LAYER_KNOWN),
        capabilities: has(process::EXEC_CAPABILITIES).then_some([
            exec.cap_permitted,
            exec.cap_effective,
            exec.cap_inheritable,
        ]),
        env: has(process::EXEC_ENV).then_some(Env {
            bytes: env,
            cut: has(process::EXEC_ENV_CUT) || has(process::EXEC_ENV_FAULT),
        }),
    })
}

fn fork(record: &[u8]) -> Result<Fork<'_>, DecodeError> {
    let fork: wire::Fork = whole(record)?;
    Ok(Fork {
        child_tgid: fork.child_tgid,
        child_tid: fork.child_tid,
        child_ppid: fork.child_ppid,
        child_start_ns: fork.child_start_ns,
        child_cgroup_id: fork.child_cgroup_id,
        child_ns_tgid: (fork.child_ns_tgid != 0).then_some(fork.child_ns_tgid),
        child_comm: name(record, std::mem::offset_of!(wire::Fork, child_comm)),
        session_leader: (fork.session_leader != 0).then_some(fork.session_leader),
        pgid: (fork.pgid != 0).then_some(fork.pgid),
        child_ns_pgid: (fork.child_ns_pgid != 0).then_some(fork.child_ns_pgid),
    })
}

fn exit(record: &[u8]) -> Result<Exit, DecodeError> {
    let exit: wire::Exit = whole(record)?;
    Ok(Exit {
        wait_status: exit.code,
    })
}

fn open(record: &[u8]) -> Result<Open<'_>, DecodeError> {
    let open: wire::Open = fixed(record)?;
    let [path, resolved] = texts::<wire::Open, 2>(record, [open.path_len, open.resolved_len])?;
    Ok(Open {
        syscall: match open.syscall {
            file::SYSCALL_OPEN => OpenSyscall::Open,
            file::SYSCALL_OPENAT => OpenSyscall::Openat,
            file::SYSCALL_OPENAT2 => OpenSyscall::Openat2,
            file::SYSCALL_CREAT => OpenSyscall::Creat,
            found => {
                return Err(DecodeError::Value {
                    field: "open.syscall",
                    found,
                });
            }
        },
        path: Text {
            bytes: path,
            cut: open.flags & file::OPEN_PATH_CUT != 0,
        },
        resolved: Text {
            bytes: resolved,
            cut: open.flags & file::OPEN_RESOLVED_CUT != 0,
        },
        flags: open.open_flags,
        mode: open.mode,
        resolve: open.resolve,
        dfd: open.dfd,
        res: open.res,
        path_unreadable: open.flags & file::OPEN_PATH_FAULT != 0,
        detached: open.flags & file::OPEN_DETACHED != 0,
        how_unreadable: open.flags & file::OPEN_HOW_FAULT != 0,
    })
}

fn pickle(record: &[u8]) -> Result<Pickle<'_>, DecodeError> {
    let pickle: wire::Pickle = whole(record)?;
    let text = |field, len: u32, form, at: usize, cut| {
        let form = match form {
            python::TEXT_ASCII | python::TEXT_UNKNOWN => PyForm::Ascii,
            python::TEXT_LATIN1 => PyForm::Latin1,
            python::TEXT_UCS2 => PyForm::Ucs2,
            python::TEXT_UCS4 => PyForm::Ucs4,
            found => return Err(DecodeError::Value { field, found }),
        };
        if len as usize > python::PICKLE_TEXT_BYTES_MAX {
            return Err(DecodeError::Value { field, found: len });
        }
        Ok(PyText {
            bytes: &record[at..at + len as usize],
            form,
            cut: pickle.flags & cut != 0,
        })
    };
    Ok(Pickle {
        module: text(
            "pickle.module",
            pickle.module_len,
            pickle.module_form,
            offset_of!(wire::Pickle, module),
            python::PICKLE_MODULE_CUT,
        )?,
        name: text(
            "pickle.name",
            pickle.name_len,
            pickle.name_form,
            offset_of!(wire::Pickle, name),
            python::PICKLE_NAME_CUT,
        )?,
        unreadable: pickle.flags & python::PICKLE_FAULT != 0,
    })
}

fn device_open(record: &[u8]) -> Result<DeviceOpen<'_>, DecodeError> {
    let open: wire::DeviceOpen = whole(record)?;
    let at = offset_of!(wire::DeviceOpen, path);
    let length = open.path_len as usize;
    if length > device::DEVICE_PATH_BYTES_MAX {
        return Err(DecodeError::Value {
            field: "device.path_len",
            found: open.path_len,
        });
    }
    Ok(DeviceOpen {
        major: open.major,
        minor: open.minor,
        read: open.access & device::DEVICE_READ != 0,
        write: open.access & device::DEVICE_WRITE != 0,
        mknod: open.access & device::DEVICE_MKNOD != 0,
        dev_type: match open.node {
            device::NODE_CHARACTER => DeviceType::Character,
            device::NODE_BLOCK => DeviceType::Block,
            found => {
                return Err(DecodeError::Value {
                    field: "device.node",
                    found,
                });
            }
        },
        path: Text {
            bytes: &record[at..at + length],
            cut: open.flags & device::DEVICE_PATH_CUT != 0,
        },
    })
}

fn connection(record: &[u8]) -> Result<Connect, DecodeError> {
    let connect: wire::Connect = whole(record)?;
    let addr = address(connect.family, connect.address)?;
    let known = |number: u16| (number != 0).then_some(number);
    Ok(Connect {
        addr,
        port: connect.port,
        is_inet6: connect.family == connect::FAMILY_INET6,
        protocol: known(connect.protocol),
        socket_type: known(connect.socket_type),
        res: connect.res,
    })
}

fn payload(record: &[u8]) -> Result<Packet<'_>, DecodeError> {
    let packet: wire::Packet = fixed(record)?;
    let end = size_of::<wire::Packet>() as u64 + u64::from(packet.data_len);
    // The room behind the payload is part of the record.
    let Some(data) = usize::try_from(end)
        .ok()
        .and_then(|end| record.get(size_of::<wire::Packet>()..end))
    else {
        return Err(DecodeError::Length {
            found: record.len(),
            expected: end,
        });
    };
    let end = |bytes, port| Ok(SocketAddr::new(address(packet.family, bytes)?, port));
    Ok(Packet {
        connection: packet.connection,
        local: end(packet.local, packet.local_port)?,
        remote: end(packet.remote, packet.remote_port)?,
        protocol: packet.protocol,
        offset: packet.offset,
        data: Text {
            bytes: data,
            cut: packet.flags & packet::PACKET_CUT != 0,
        },
    })
}

fn cgroup_mkdir(record: &[u8]) -> Result<CgroupMkdir<'_>, DecodeError> {
    let made: wire::CgroupMkdir = whole(record)?;
    let at = offset_of!(wire::CgroupMkdir, path);
    let length = made.path_len as usize;
    if length > wire::PATH_BYTES_MAX {
        return Err(DecodeError::Value {
            field: "cgroup.path_len",
            found: made.path_len,
        });
    }
    Ok(CgroupMkdir {
        id: made.id,
        path: Text {
            bytes: &record[at..at + length],
            cut: made.flags & cgroup::CGROUP_PATH_CUT != 0,
        },
    })
}

/// The record of a packet with another payload, which starts its connection. `None` where `record` is no such record.
pub fn with_payload(record: &[u8], data: &[u8]) -> Option<Vec<u8>> {
    let fixed_bytes = size_of::<wire::Packet>();
    let mut whole = Vec::with_capacity(fixed_bytes + data.len());
    whole.extend_from_slice(record.get(..fixed_bytes)?);
    whole.extend_from_slice(data);
    let size = u32::try_from(whole.len()).ok()?;
    let data_len = u32::try_from(data.len()).ok()?;
    for (at, value) in [
        (offset_of!(Header, size), size),
        (offset_of!(wire::Packet, offset), 0),
        (offset_of!(wire::Packet, data_len), data_len),
        (offset_of!(wire::Packet, flags), 0),
    ] {
        whole[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    Some(whole)
}

/// An address; of one that maps IPv4 into IPv6 the IPv4 one.
fn address(family: u16, bytes: [u8; 16]) -> Result<IpAddr, DecodeError> {
    match family {
        connect::FAMILY_INET => {
            let [a, b, c, d, ..] = bytes;
            Ok(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
        }
        connect::FAMILY_INET6 => {
            let v6 = Ipv6Addr::from(bytes);
            Ok(v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4))
        }
        found => Err(DecodeError::Value {
            field: "connect.family",
            found: u32::from(found),
        }),
    }
}

/// The fixed part at the start of a record.
fn fixed<T: Plain>(record: &[u8]) -> Result<T, DecodeError> {
    if record.len() < size_of::<T>() {
        return Err(DecodeError::Short {
            found: record.len(),
            expected: size_of::<T>(),
        });
    }
    // SAFETY: there are enough bytes, they need not be aligned, and every byte pattern is a `Plain` type's value.
    Ok(unsafe { record.as_ptr().cast::<T>().read_unaligned() })
}

/// A record that is its fixed part and nothing else.
fn whole<T: Plain>(record: &[u8]) -> Result<T, DecodeError> {
    let value = fixed(record)?;
    if record.len() != size_of::<T>() {
        return Err(DecodeError::Length {
            found: record.len(),
            expected: size_of::<T>() as u64,
        });
    }
    Ok(value)
}

/// When a record was written, nanoseconds of `CLOCK_BOOTTIME`, without decoding more of it than that.
pub fn moment(record: &[u8]) -> Option<u64> {
    let at = record.get(offset_of!(Header, ktime_ns)..)?;
    at.first_chunk().copied().map(u64::from_ne_bytes)
}

/// The process of a record of this kind, without decoding more of it than that.
fn process_of(record: &[u8], kind: Kind) -> Option<u32> {
    let at = |offset: usize| record.get(offset..);
    let found = at(offset_of!(Header, kind))?.first_chunk()?;
    let tgid = at(offset_of!(Header, tgid))?.first_chunk()?;
    (u16::from_ne_bytes(*found) == kind as u16).then(|| u32::from_ne_bytes(*tgid))
}

/// What a record says to who waits for Pythons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PythonSign<'a> {
    /// This process has just started a program.
    Started(u32),
    /// This process has opened this file inside its root, to read it: by its name the module `_pickle`, or the interpreter's library.
    Opened(u32, &'a [u8]),
    /// A container is being made, or a part of Python written: one that nobody has seen may start soon.
    Expected,
}

/// What a record says to who waits for Pythons, without decoding more of it than that.
pub fn python_sign(record: &[u8]) -> Option<PythonSign<'_>> {
    if let Some(pid) = process_of(record, Kind::Exec) {
        return Some(PythonSign::Started(pid));
    }
    if process_of(record, Kind::CgroupMkdir).is_some() {
        return Some(PythonSign::Expected);
    }
    let pid = process_of(record, Kind::Open)?;
    let opened = open(record).ok()?;
    let path = opened.resolved.bytes;
    if opened.res < 0 || opened.resolved.cut || opened.detached {
        return None;
    }
    let name = path.rsplit(|byte| *byte == b'/').next()?;
    let is_library = name.starts_with(b"libpython3.");
    if opened.flags & libc::O_PATH as u64 != 0 {
        return None;
    }
    if opened.flags & libc::O_ACCMODE as u64 == libc::O_RDONLY as u64 {
        let is_part = is_library || name.starts_with(b"_pickle.");
        return is_part.then_some(PythonSign::Opened(pid, path));
    }
    let is_extension = memchr::memmem::find(name, b".cpython-3").is_some();
    (is_library || is_extension).then_some(PythonSign::Expected)
}

/// The texts behind the fixed part `T`, which they must fill to the last byte.
fn texts<T, const N: usize>(record: &[u8], lengths: [u32; N]) -> Result<[&[u8]; N], DecodeError> {
    let expected = size_of::<T>() as u64 + lengths.iter().copied().map(u64::from).sum::<u64>();
    if expected != record.len() as u64 {
        return Err(DecodeError::Length {
            found: record.len(),
            expected,
        });
    }
    let mut rest = &record[size_of::<T>()..];
    // The lengths add up to what is there, so none of them is larger than what is left.
    Ok(lengths.map(|length| {
        let (text, behind) = rest.split_at(length as usize);
        rest = behind;
        text
    }))
}

/// A NUL-padded name at `at`, which lies within a fixed part that was checked.
fn name(record: &[u8], at: usize) -> &[u8] {
    let padded = &record[at..at + wire::COMM_BYTES];
    let end = padded.iter().position(|byte| *byte == 0);
    &padded[..end.unwrap_or(wire::COMM_BYTES)]
}
