//! The wire format: what the kernel programs write into the ring and the agent reads from it.
//!
//! Every record is a [`Header`], the fixed part of its [`Kind`], and for kinds with text the bytes of that text one
//! after another, as long as the fixed part says. Everything is in the machine's own byte order. Records are
//! described to the compiler once, here; sizes and offsets are asserted below, and the kernel object carries
//! [`TABLE`] so that an agent refuses an object built from another version of this file.

pub mod cgroup;
pub mod connect;
pub mod counters;
pub mod device;
pub mod file;
pub mod packet;
pub mod process;
pub mod python;
pub mod share;

use core::mem::{offset_of, size_of};

pub use cgroup::CgroupMkdir;
pub use connect::Connect;
pub use counters::{COUNTER_SLOTS, Counters};
pub use device::DeviceOpen;
pub use file::Open;
pub use packet::Packet;
pub use process::{Exec, Exit, Fork};
pub use python::Pickle;
use share::{Share, ShareKey};

/// Raised with every change to a record's layout or meaning.
pub const VERSION: u16 = 4;

/// Kernel `TASK_COMM_LEN`, including the terminating NUL.
pub const COMM_BYTES: usize = 16;

/// Most bytes of one path or file name that a record carries; longer ones are cut and marked.
///
/// A power of two less one: the verifier accepts a mask as the bound of a length.
pub const PATH_BYTES_MAX: usize = 1023;

/// Most bytes of `argv` that an [`Exec`] record carries; longer ones are cut and marked.
pub const ARGV_BYTES_MAX: usize = 4095;

/// Most bytes of environment variables that an [`Exec`] record carries; more are left out and marked. Of one variable at
/// most [`PATH_BYTES_MAX`] bytes are read.
pub const ENV_BYTES_MAX: usize = 4095;

/// What a record is about. The numbers are part of the wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum Kind {
    /// A process image was replaced: [`Exec`].
    Exec = 1,
    /// A process or thread came to be: [`Fork`].
    Fork = 2,
    /// The last thread of a process ended: [`Exit`].
    Exit = 3,
    /// A file was opened by path, or could not be: [`Open`].
    Open = 4,
    /// A device node's permissions were asked for: [`DeviceOpen`].
    DeviceOpen = 5,
    /// An address was connected to: [`Connect`].
    Connect = 6,
    /// An unpickler resolves a global: [`Pickle`].
    Pickle = 7,
    /// A datagram was sent to an address that its socket had not sent to before: [`Connect`].
    Sendto = 8,
    /// An answer to a DNS query came: [`Packet`].
    Dns = 9,
    /// A TLS connection begins: [`Packet`].
    Tls = 10,
    /// A cgroup was made: [`CgroupMkdir`].
    CgroupMkdir = 11,
}

impl Kind {
    /// Every kind, in the order of its number.
    pub const ALL: [Self; 11] = [
        Self::Exec,
        Self::Fork,
        Self::Exit,
        Self::Open,
        Self::DeviceOpen,
        Self::Connect,
        Self::Pickle,
        Self::Sendto,
        Self::Dns,
        Self::Tls,
        Self::CgroupMkdir,
    ];

    /// The kind with this number on the wire; `None` for a number that this version does not know.
    pub const fn from_wire(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Exec,
            2 => Self::Fork,
            3 => Self::Exit,
            4 => Self::Open,
            5 => Self::DeviceOpen,
            6 => Self::Connect,
            7 => Self::Pickle,
            8 => Self::Sendto,
            9 => Self::Dns,
            10 => Self::Tls,
            11 => Self::CgroupMkdir,
            _ => return None,
        })
    }

    /// A short stable name, for reports and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Fork => "fork",
            Self::Exit => "exit",
            Self::Open => "open",
            Self::DeviceOpen => "device_open",
            Self::Connect => "connect",
            Self::Pickle => "pickle",
            Self::Sendto => "sendto",
            Self::Dns => "dns",
            Self::Tls => "tls",
            Self::CgroupMkdir => "cgroup_mkdir",
        }
    }

    /// Does it go into the ring of what can be shed, where a cgroup has no more than its share? What the agent's picture of the
    /// machine is made of, and what is an attack by itself, never does.
    pub const fn is_sheddable(self) -> bool {
        match self {
            Self::Exec
            | Self::Fork
            | Self::Exit
            | Self::DeviceOpen
            | Self::Pickle
            | Self::CgroupMkdir => false,
            Self::Open | Self::Connect | Self::Sendto | Self::Dns | Self::Tls => true,
        }
    }

    /// Size of the header and the fixed part, in bytes. No record of this kind is shorter.
    pub const fn fixed_bytes(self) -> usize {
        match self {
            Self::Exec => size_of::<Exec>(),
            Self::Fork => size_of::<Fork>(),
            Self::Exit => size_of::<Exit>(),
            Self::Open => size_of::<Open>(),
            Self::DeviceOpen => size_of::<DeviceOpen>(),
            Self::Connect | Self::Sendto => size_of::<Connect>(),
            Self::Pickle => size_of::<Pickle>(),
            Self::Dns | Self::Tls => size_of::<Packet>(),
            Self::CgroupMkdir => size_of::<CgroupMkdir>(),
        }
    }
}

/// The start of every record: what happened, when, and the thread that did it.
///
/// Ids are those of the initial namespaces. `start_ns` with `tgid` names a process for as long as the machine is up,
/// also when its number is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    /// [`VERSION`] of the writer.
    pub version: u16,
    /// A [`Kind`].
    pub kind: u16,
    /// Bytes of the whole record, this header included.
    pub size: u32,
    /// Nanoseconds of `CLOCK_BOOTTIME`.
    pub ktime_ns: u64,
    /// Start of the process (of its thread group leader), nanoseconds of `CLOCK_BOOTTIME`.
    pub start_ns: u64,
    /// Id of the task's cgroup in the v2 hierarchy: the inode number of its folder. Of a task in its root, that of its cgroup in a v1
    /// hierarchy, with [`cgroup::CGROUP_OF_V1`], unless that is the root, too. 0 when unknown.
    pub cgroup_id: u64,
    /// Process (thread group) id.
    pub tgid: u32,
    /// Thread id.
    pub tid: u32,
    /// Process id of the real parent.
    pub ppid: u32,
    /// The CPU that the record was written on.
    pub cpu: u32,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Effective user id.
    pub euid: u32,
    /// Effective group id.
    pub egid: u32,
    /// The thread's name, NUL-padded.
    pub comm: [u8; COMM_BYTES],
}

/// What an object file says of the wire format it was built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Table {
    /// [`TABLE_MAGIC`].
    pub magic: u64,
    /// [`VERSION`].
    pub version: u32,
    /// Size of [`Header`].
    pub header_bytes: u32,
    /// Fixed size of each kind, in the order of [`Kind::ALL`].
    pub kind_bytes: [u32; Kind::ALL.len()],
    /// Size of [`Counters`].
    pub counters_bytes: u32,
    /// Size of [`crate::config::Settings`].
    pub settings_bytes: u32,
    /// Size of [`crate::config::Offsets`].
    pub offsets_bytes: u32,
    /// Sum over names and order of [`crate::config::FIELDS`], so that two fields cannot trade places.
    pub offsets_digest: u32,
    /// Zero: the size is a multiple of the magic's.
    pub reserved: u32,
}

/// "SAKERWIR", to tell a table from whatever else a damaged object holds in its place.
pub const TABLE_MAGIC: u64 = u64::from_be_bytes(*b"SAKERWIR");

/// The section of the object that holds nothing but its [`Table`].
pub const TABLE_SECTION: &str = ".rodata.wire";

/// The table of this version.
pub const TABLE: Table = {
    let mut kind_bytes = [0; Kind::ALL.len()];
    let mut at = 0;
    while at < kind_bytes.len() {
        assert!(
            Kind::ALL[at] as usize == at + 1,
            "kinds are numbered from 1 without a gap"
        );
        kind_bytes[at] = Kind::ALL[at].fixed_bytes() as u32;
        at += 1;
    }
    Table {
        magic: TABLE_MAGIC,
        version: VERSION as u32,
        header_bytes: size_of::<Header>() as u32,
        kind_bytes,
        counters_bytes: size_of::<Counters>() as u32,
        settings_bytes: size_of::<crate::config::Settings>() as u32,
        offsets_bytes: size_of::<crate::config::Offsets>() as u32,
        offsets_digest: crate::config::fields_digest(),
        reserved: 0,
    }
};

impl Table {
    /// The table's bytes as they stand in the object's section.
    pub const fn to_bytes(self) -> [u8; size_of::<Self>()] {
        // SAFETY: `Table` is repr(C) and its asserted size is the sum of its integer fields, so it has no padding and
        // every byte is initialised.
        unsafe { core::mem::transmute(self) }
    }
}

/// Marks types whose every byte pattern is a value and that have no padding, so that a record can be read from bytes.
///
/// # Safety
/// The type is `repr(C)`, holds only integers and arrays of them, and has no padding.
pub unsafe trait Plain: Copy {}

macro_rules! layout {
    ($($record:ty: $size:literal { $($field:ident @ $offset:literal),+ $(,)? })+) => {
        $(
            // SAFETY: integers only; the sum of the fields equals the size, which the asserts below pin down.
            unsafe impl Plain for $record {}
            const _: () = {
                assert!(size_of::<$record>() == $size);
                $(assert!(offset_of!($record, $field) == $offset);)+
            };
        )+
    };
}

// The numbers are written out on purpose: a change that moves a field has to be made twice, and VERSION raised.
layout! {
    Header: 80 {
        version @ 0, kind @ 2, size @ 4, ktime_ns @ 8, start_ns @ 16, cgroup_id @ 24, tgid @ 32, tid @ 36, ppid @ 40,
        cpu @ 44, uid @ 48, gid @ 52, euid @ 56, egid @ 60, comm @ 64,
    }
    Exec: 256 {
        header @ 0, parent_start_ns @ 80, inode @ 88, ctime_ns @ 96, mtime_ns @ 104, cap_permitted @ 112,
        cap_effective @ 120, cap_inheritable @ 128, pid_ns_start_ns @ 136, mount_ns_sequence @ 144, root_inode @ 152,
        device @ 160, flags @ 164, argc @ 168, argv_bytes @ 172, loginuid @ 176, audit_session @ 180,
        session_leader @ 184, tty @ 188, ns_tgid @ 192, mount_ns @ 196, pid_ns @ 200, old_tid @ 204, filename_len @ 208,
        exe_len @ 212, cwd_len @ 216, argv_len @ 220, env_len @ 224, exe_uid @ 228, exe_gid @ 232, exe_mode @ 236,
        pgid @ 240, ns_pgid @ 244, root_device @ 248, reserved @ 252,
    }
    Fork: 144 {
        header @ 0, child_start_ns @ 80, child_cgroup_id @ 88, child_tgid @ 96, child_tid @ 100, child_ppid @ 104,
        child_ns_tgid @ 108, child_comm @ 112, session_leader @ 128, pgid @ 132, child_ns_pgid @ 136, reserved @ 140,
    }
    Exit: 88 { header @ 0, code @ 80, flags @ 84 }
    Open: 128 {
        header @ 0, open_flags @ 80, resolve @ 88, mode @ 96, dfd @ 100, res @ 104, syscall @ 108, path_len @ 112,
        resolved_len @ 116, flags @ 120, reserved @ 124,
    }
    DeviceOpen: 360 {
        header @ 0, major @ 80, minor @ 84, access @ 88, node @ 92, path_len @ 96, flags @ 100, path @ 104,
    }
    Connect: 112 {
        header @ 0, address @ 80, family @ 96, port @ 98, protocol @ 100, socket_type @ 102, res @ 104, hook @ 108,
    }
    Pickle: 616 {
        header @ 0, module_len @ 80, name_len @ 84, module_form @ 88, name_form @ 92, flags @ 96, reserved @ 100,
        module @ 104, name @ 360,
    }
    Packet: 144 {
        header @ 0, connection @ 80, local @ 88, remote @ 104, family @ 120, protocol @ 122, local_port @ 124,
        remote_port @ 126, offset @ 128, data_len @ 132, flags @ 136, reserved @ 140,
    }
    CgroupMkdir: 1120 { header @ 0, id @ 80, path_len @ 88, flags @ 92, path @ 96 }
    Counters: 64 {
        passed @ 0, filtered @ 8, submitted @ 16, lost_ring_full @ 24, lost_too_big @ 32, lost_map_full @ 40,
        lost_read_fault @ 48, lost_over_share @ 56,
    }
    ShareKey: 16 { cgroup_id @ 0, part @ 8 }
    Share: 16 { used_until_ns @ 0, left_out @ 8 }
    Table: 80 {
        magic @ 0, version @ 8, header_bytes @ 12, kind_bytes @ 16, counters_bytes @ 60, settings_bytes @ 64,
        offsets_bytes @ 68, offsets_digest @ 72, reserved @ 76,
    }
}

/// The longest record that any kind can be; a ring must hold several.
pub const RECORD_BYTES_MAX: usize =
    size_of::<Exec>() + 3 * PATH_BYTES_MAX + ARGV_BYTES_MAX + ENV_BYTES_MAX;
