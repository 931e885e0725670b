//! An event, typed and borrowed from the record that it was decoded from. No kernel layout, no JSON.
//!
//! Ids are those of the initial namespaces; `tgid` becomes `proc.pid` in `fields`, nowhere before.

pub mod gpu;

use std::net::{IpAddr, SocketAddr};

pub use saker_ebpf::wire::Kind;
use saker_ebpf::wire::packet::JSON;
use serde::{Deserialize, Serialize};

/// Something that happened, and the thread that did it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Event<'a> {
    /// Nanoseconds of `CLOCK_BOOTTIME`.
    pub ts_ns: u64,
    /// The CPU that it was recorded on.
    pub cpu: u32,
    /// Process (thread group) id.
    pub tgid: u32,
    /// Thread id.
    pub tid: u32,
    /// Process id of the real parent.
    pub ppid: u32,
    /// Start of the process, nanoseconds of `CLOCK_BOOTTIME`: with `tgid` it names a process for as long as the
    /// machine is up. `/proc/PID/stat` shows the same moment in ticks of 10 ms, in the reader's time namespace.
    pub start_ns: u64,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Effective user id.
    pub euid: u32,
    /// Effective group id.
    pub egid: u32,
    /// Id of the cgroup in the v2 hierarchy: the inode number of its folder. 0 when unknown.
    pub cgroup_id: u64,
    /// The thread's name, at most 15 bytes.
    pub comm: &'a [u8],
    /// What happened.
    pub body: Body<'a>,
}

/// Every `evt.type` that the agent raises, in the order of [`Event::type_index`].
pub static TYPES: [&str; 17] = [
    "execve",
    "clone",
    "procexit",
    "open",
    "openat",
    "openat2",
    "creat",
    "device_open",
    "connect",
    "pickle",
    "sendto",
    "dns",
    "tls",
    "cgroup_mkdir",
    "lost",
    "internal",
    "gpu",
];

impl<'a> Event<'a> {
    /// An event of the agent's own making.
    pub fn internal(ts_ns: u64, tgid: u32, body: Body<'a>) -> Self {
        Self {
            ts_ns,
            cpu: 0,
            tgid,
            tid: tgid,
            ppid: 0,
            start_ns: 0,
            uid: 0,
            gid: 0,
            euid: 0,
            egid: 0,
            cgroup_id: 0,
            comm: b"saker",
            body,
        }
    }

    /// The record's kind on the wire; `None` for an event that the agent made itself.
    pub fn kind(&self) -> Option<Kind> {
        Some(match self.body {
            Body::Exec(_) => Kind::Exec,
            Body::Fork(_) => Kind::Fork,
            Body::Exit(_) => Kind::Exit,
            Body::Open(_) => Kind::Open,
            Body::DeviceOpen(_) => Kind::DeviceOpen,
            Body::Connect(_) => Kind::Connect,
            Body::Pickle(_) => Kind::Pickle,
            Body::Sendto(_) => Kind::Sendto,
            Body::Dns(_) => Kind::Dns,
            Body::Tls(_) => Kind::Tls,
            Body::CgroupMkdir(_) => Kind::CgroupMkdir,
            Body::Lost(_) | Body::Internal(_) | Body::Gpu(_) => return None,
        })
    }

    /// The value of `evt.type`.
    pub fn type_name(&self) -> &'static str {
        TYPES[self.type_index()]
    }

    /// Its place in [`TYPES`].
    pub fn type_index(&self) -> usize {
        match self.body {
            Body::Exec(_) => 0,
            Body::Fork(_) => 1,
            Body::Exit(_) => 2,
            Body::Open(open) => match open.syscall {
                OpenSyscall::Open => 3,
                OpenSyscall::Openat => 4,
                OpenSyscall::Openat2 => 5,
                OpenSyscall::Creat => 6,
            },
            Body::DeviceOpen(_) => 7,
            Body::Connect(_) => 8,
            Body::Pickle(_) => 9,
            Body::Sendto(_) => 10,
            Body::Dns(_) => 11,
            Body::Tls(_) => 12,
            Body::CgroupMkdir(_) => 13,
            Body::Lost(_) => 14,
            Body::Internal(_) => 15,
            Body::Gpu(_) => 16,
        }
    }
}

/// The `evt.type` values that one wire kind becomes.
pub fn types_of(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Exec => &["execve"],
        Kind::Fork => &["clone"],
        Kind::Exit => &["procexit"],
        Kind::Open => &["open", "openat", "openat2", "creat"],
        Kind::DeviceOpen => &["device_open"],
        Kind::Connect => &["connect"],
        Kind::Pickle => &["pickle"],
        Kind::Sendto => &["sendto"],
        Kind::Dns => &["dns"],
        Kind::Tls => &["tls"],
        Kind::CgroupMkdir => &["cgroup_mkdir"],
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "borrowed and short-lived, one at a time; a box would cost an allocation an event"
)]
pub enum Body<'a> {
    /// The process started another program.
    Exec(Exec<'a>),
    /// The thread made a process or a thread.
    Fork(Fork<'a>),
    /// The process ended.
    Exit(Exit),
    /// The thread opened a file by path, or could not.
    Open(Open<'a>),
    /// The thread asked for a device.
    DeviceOpen(DeviceOpen<'a>),
    /// The thread connected a socket.
    Connect(Connect),
    /// An unpickler of the process's Python is about to resolve a global.
    Pickle(Pickle<'a>),
    /// The thread sent a datagram to an address that it had not sent to by this socket before.
    Sendto(Connect),
    /// A DNS message came in answer to a query of the process.
    Dns(Packet<'a>),
    /// The process began a TLS connection.
    Tls(Packet<'a>),
    /// The thread made a cgroup.
    CgroupMkdir(CgroupMkdir<'a>),
    /// The agent lost events.
    Lost(Lost<'a>),
    /// Something happened inside the agent.
    Internal(Internal<'a>),
    /// A GPU was looked at.
    Gpu(Gpu<'a>),
}

/// Something that happened inside the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Internal<'a> {
    /// What, in one word.
    pub what: &'a str,
    /// What, in words.
    pub text: &'a str,
}

/// A look at a GPU, or at one process on it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gpu<'a> {
    /// The GPU.
    pub state: &'a gpu::GpuState,
    /// The process; `None` where the event is about the GPU alone.
    pub process: Option<&'a gpu::GpuProcess>,
}

/// Events that were seen and not evaluated, since the last such event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost<'a> {
    /// How many.
    pub count: u64,
    /// Why: the name of a cause in `saker_events_lost_total`.
    pub cause: &'a str,
}

/// Bytes that may have been longer than a record carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Text<'a> {
    /// What the record carries of it.
    pub bytes: &'a [u8],
    /// Is a part missing? Of resolved paths the beginning is, of everything else the end.
    pub cut: bool,
}

/// A new cgroup of the v2 hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CgroupMkdir<'a> {
    /// Its id: the inode number of its folder.
    pub id: u64,
    /// Its path from the root of the hierarchy.
    pub path: Text<'a>,
}

/// A started program, as it was the moment that its image was in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exec<'a> {
    /// The executable's path as the kernel resolved it, seen from the process's root. For a script this is its
    /// interpreter.
    pub exe: Text<'a>,
    /// The file name as it was called: relative, a symbolic link, a script, `/dev/fd/N`.
    pub filename: Text<'a>,
    /// Working directory, seen from the process's root.
    pub cwd: Text<'a>,
    /// The arguments, from the new process's memory.
    pub argv: Argv<'a>,
    /// Start of the real parent, with `Event::ppid` its key.
    pub parent_start_ns: u64,
    /// Inode number of the executable, 0 when unknown.
    pub inode: u64,
    /// Major and minor number of the executable's file system.
    pub device: (u32, u32),
    /// The executable is an anonymous memory file.
    pub memfd: bool,
    /// The executable has no name in any folder any more.
    pub deleted: bool,
    /// The executable's path leads to no mount.
    pub detached: bool,
    /// Audit login user; `None` when nobody logged in.
    pub loginuid: Option<u32>,
    /// Audit session; `None` when there is none.
    pub audit_session: Option<u32>,
    /// Process id of the session leader; `None` when unknown.
    pub session_leader: Option<u32>,
    /// Controlling terminal, as `stat` encodes a device; 0 for none.
    pub tty: u32,
    /// The process's id in its own pid namespace; `None` when unknown.
    pub ns_tgid: Option<u32>,
    /// The mount namespace, and the root in it; `None` when unknown.
    pub mount_ns: Option<MountNs>,
    /// Inode number of the pid namespace; `None` when unknown.
    pub pid_ns: Option<u32>,
    /// Start of the pid namespace's first process, nanoseconds of `CLOCK_BOOTTIME`; `None` when unknown.
    pub pid_ns_start_ns: Option<u64>,
    /// The thread that called exec.
    pub old_tid: u32,
    /// Process group; `None` when unknown.
    pub pgid: Option<u32>,
    /// Process group in the process's own pid namespace; `None` when unknown, or when it is from outside.
    pub ns_pgid: Option<u32>,
    /// Owner, permissions and times of the executable; `None` when unknown.
    pub exe_file: Option<ExeFile>,
    /// Whether the executable lies in an overlay's layer of changes (`true`) or below it (`false`); `None` when it lies
    /// in no overlay.
    pub exe_upper_layer: Option<bool>,
    /// Whether `exe_upper_layer` could be told.
    pub exe_layer_known: bool,
    /// Permitted, effective and inheritable capabilities; `None` when unknown.
    pub capabilities: Option<[u64; 3]>,
    /// The environment variables that were asked for; `None` when none were, or the kernel does not show them.
    pub env: Option<Env<'a>>,
}

/// A mount namespace and a root folder in it: what tells the files that a process sees from those that others see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MountNs {
    /// Inode number, as `/proc/PID/ns/mnt` shows it. It is used again when the namespace is gone.
    pub number: u32,
    /// The kernel's own number, which never is; 0 when unknown.
    pub sequence: u64,
    /// Device and inode number of the root folder; zeros when unknown.
    pub root: (u32, u64),
}

/// What the kernel knows of an executable besides its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExeFile {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Type and permission bits.
    pub mode: u32,
    /// Last change of the inode, nanoseconds since the Unix epoch; `None` when unknown.
    pub ctime_ns: Option<u64>,
    /// Last change of the contents.
    pub mtime_ns: Option<u64>,
}

/// Variables of an environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Env<'a> {
    /// `NAME=value`, each with a NUL behind it.
    pub bytes: &'a [u8],
    /// Some may be missing, or cut.
    pub cut: bool,
}

/// The arguments of a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Argv<'a> {
    /// The arguments, each with a NUL behind it; of the last one the end may be cut off.
    pub bytes: &'a [u8],
    /// How many there were.
    pub argc: u32,
    /// Bytes there were.
    pub total_bytes: u32,
    /// Are some not here?
    pub cut: bool,
    /// They could not be read at all.
    pub unreadable: bool,
}

impl<'a> Argv<'a> {
    /// The arguments in order, the program's own name first.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (bytes, is_empty) = match self.bytes {
            [rest @ .., 0] => (rest, false),
            [] => (self.bytes, true),
            rest => (rest, false),
        };
        bytes
            .split(|byte| *byte == 0)
            .take(if is_empty { 0 } else { usize::MAX })
    }
}

/// A new process or thread; the event is its creator's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fork<'a> {
    /// Process id of the child; the creator's own for a new thread.
    pub child_tgid: u32,
    /// Thread id of the child.
    pub child_tid: u32,
    /// The child's real parent: not its creator under `CLONE_PARENT`.
    pub child_ppid: u32,
    /// Start of the child's process, with `child_tgid` its key.
    pub child_start_ns: u64,
    /// The child's cgroup, 0 when unknown.
    pub child_cgroup_id: u64,
    /// The child's process id in its own pid namespace; `None` when unknown.
    pub child_ns_tgid: Option<u32>,
    /// The child's name.
    pub child_comm: &'a [u8],
    /// Session leader of child and creator; `None` when unknown.
    pub session_leader: Option<u32>,
    /// Process group of child and creator; `None` when unknown.
    pub pgid: Option<u32>,
    /// The same in the child's pid namespace.
    pub child_ns_pgid: Option<u32>,
}

impl Fork<'_> {
    /// Is the child a thread of an existing process?
    pub fn is_thread(&self) -> bool {
        self.child_tgid != self.child_tid
    }
}

/// The end of a process. Should its last two threads end at the same moment, it can be reported twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// As `wait` reports it.
    pub wait_status: u32,
}

impl Exit {
    /// The exit status; `None` when a signal ended the process.
    pub fn code(&self) -> Option<u8> {
        (self.signal().is_none()).then_some((self.wait_status >> 8) as u8)
    }

    /// The signal that ended the process.
    pub fn signal(&self) -> Option<u8> {
        let signal = (self.wait_status & 0x7f) as u8;
        (signal != 0).then_some(signal)
    }
}

/// An open by path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open<'a> {
    /// The call that was made.
    pub syscall: OpenSyscall,
    /// The path as given: perhaps relative to `dfd`.
    pub path: Text<'a>,
    /// The kernel's own path of the file that was opened, within the process's root; empty where nothing was opened.
    pub resolved: Text<'a>,
    /// `O_*` flags.
    pub flags: u64,
    /// Permission bits asked for, meaningful when the file was made.
    pub mode: u32,
    /// `RESOLVE_*` flags of openat2.
    pub resolve: u64,
    /// The folder that a relative path starts from; -100 (`AT_FDCWD`) for the working directory.
    pub dfd: i32,
    /// File descriptor, or a negative errno.
    pub res: i32,
    /// The path as given could not be read.
    pub path_unreadable: bool,
    /// The file has no name in any folder: an anonymous one.
    pub detached: bool,
    /// The caller's `struct open_how` could not be read: flags, mode and resolve are 0.
    pub how_unreadable: bool,
}

/// The calls that open by path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenSyscall {
    /// `open`
    Open,
    /// `openat`
    Openat,
    /// `openat2`
    Openat2,
    /// `creat`
    Creat,
}

impl OpenSyscall {
    /// The call's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Openat => "openat",
            Self::Openat2 => "openat2",
            Self::Creat => "creat",
        }
    }
}

/// A device's permission was asked for: by opening it, by `access`, or by `mknod`. The driver has not been asked yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceOpen<'a> {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// For reading.
    pub read: bool,
    /// For writing.
    pub write: bool,
    /// A node is being made; nothing is opened.
    pub mknod: bool,
    /// Character or block device.
    pub dev_type: DeviceType,
    /// The path that is being opened, as it was passed; empty where nothing is opened by path.
    pub path: Text<'a>,
}

/// The two types of devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceType {
    /// A character device.
    Character,
    /// A block device.
    Block,
}

/// A socket was connected, or tried to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect {
    /// The address; IPv4-mapped ones are IPv4.
    pub addr: IpAddr,
    /// Port.
    pub port: u16,
    /// Was the address given as IPv6, IPv4-mapped ones included?
    pub is_inet6: bool,
    /// `IPPROTO_*`; `None` where the hook does not know it.
    pub protocol: Option<u16>,
    /// `SOCK_*`; `None` where the hook does not know it.
    pub socket_type: Option<u16>,
    /// 0 or a negative errno; `-EINPROGRESS` for an attempt whose end is not known.
    pub res: i32,
}

/// What a packet carried, or a part of it, and the connection that it belongs to.
///
/// The event's process is the one that connected the socket, or sent by it; 0 where nobody was seen to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Names the socket for as long as the machine is up.
    pub connection: u64,
    /// This machine's end; IPv4-mapped addresses are IPv4.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// `IPPROTO_*`
    pub protocol: u16,
    /// Where in the connection the payload starts, bytes.
    pub offset: u32,
    /// The payload.
    pub data: Text<'a>,
}

impl Packet<'_> {
    /// Is this the beginning of a connection that starts with an object of JSON, and so with no hello?
    pub fn begins_as_json(&self) -> bool {
        self.offset == 0 && self.data.bytes.first() == Some(&JSON)
    }
}

/// A global that an unpickler resolves: what follows is an import and the reading of an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pickle<'a> {
    /// The module, before its Python 2 name is mapped to the one of Python 3.
    pub module: PyText<'a>,
    /// The name within the module, perhaps with dots.
    pub name: PyText<'a>,
    /// One of them could not be read.
    pub unreadable: bool,
}

/// A text as CPython stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PyText<'a> {
    /// The stored bytes.
    pub bytes: &'a [u8],
    /// How they are stored.
    pub form: PyForm,
    /// The rest did not fit the record.
    pub cut: bool,
}

/// How CPython stores a text; multi-byte forms are in the machine's byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the encodings'")]
pub enum PyForm {
    Ascii,
    Latin1,
    Ucs2,
    Ucs4,
}

impl PyText<'_> {
    /// The text's characters; what is none shows as U+FFFD.
    pub fn chars(&self) -> impl Iterator<Item = char> {
        let width = match self.form {
            PyForm::Ascii | PyForm::Latin1 => 1,
            PyForm::Ucs2 => 2,
            PyForm::Ucs4 => 4,
        };
        self.bytes.chunks_exact(width).map(|unit| {
            let number = match *unit {
                [byte] => u32::from(byte),
                [first, second] => u32::from(u16::from_ne_bytes([first, second])),
                [first, second, third, fourth] => {
                    u32::from_ne_bytes([first, second, third, fourth])
                }
                _ => u32::MAX,
            };
            char::from_u32(number).unwrap_or(char::REPLACEMENT_CHARACTER)
        })
    }
}
