//! Records of processes: exec, fork, exit.

use super::{COMM_BYTES, Header};

/// A process image was replaced (execve, execveat, fexecve). Written after the new image is in place.
///
/// After the fixed part stand, without separators: the file name as called, the executable's path, the working
/// directory, `argv` as it lies in the new process's memory (each argument ends with a NUL), and those variables of the
/// environment whose names the loader asked for (`NAME=value`, each ends with a NUL).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Exec {
    /// The new image's thread; `comm` is already the new one.
    pub header: Header,
    /// Start of the real parent, with `header.ppid` its key. Nanoseconds of `CLOCK_BOOTTIME`.
    pub parent_start_ns: u64,
    /// Inode number of the executable.
    pub inode: u64,
    /// Last change of the executable's inode, nanoseconds since the Unix epoch; [`TIME_UNKNOWN`]. 0 is a time: images
    /// that are built reproducibly are full of it.
    pub ctime_ns: u64,
    /// Last change of the executable's contents, likewise.
    pub mtime_ns: u64,
    /// Permitted capabilities, a bit each; meaningful with [`EXEC_CAPABILITIES`].
    pub cap_permitted: u64,
    /// Effective capabilities.
    pub cap_effective: u64,
    /// Inheritable capabilities.
    pub cap_inheritable: u64,
    /// Start of the first process of the pid namespace, nanoseconds of `CLOCK_BOOTTIME`; 0 for the machine's own, whose first
    /// process starts before the clock does; [`START_UNKNOWN`].
    pub pid_ns_start_ns: u64,
    /// Number of the mount namespace among all that ever were, 0 when unknown: inode numbers are used again.
    pub mount_ns_sequence: u64,
    /// Inode number of the process's root folder, 0 when unknown.
    pub root_inode: u64,
    /// Device of the executable's file system, as the kernel numbers it inside (major << 20 | minor).
    pub device: u32,
    /// `EXEC_*` bits.
    pub flags: u32,
    /// Arguments the kernel counted, also those that were cut off here.
    pub argc: u32,
    /// Bytes of `argv` before any cut.
    pub argv_bytes: u32,
    /// Audit login user; [`UNSET`] when nobody logged in or the kernel has no audit.
    pub loginuid: u32,
    /// Audit session; [`UNSET`] when there is none.
    pub audit_session: u32,
    /// Process id of the session leader, 0 when unknown.
    pub session_leader: u32,
    /// Controlling terminal as `stat` encodes a device (major << 8 | minor for small numbers), 0 when there is none.
    pub tty: u32,
    /// The process's id in its own pid namespace, 0 when unknown.
    pub ns_tgid: u32,
    /// Inode number of the mount namespace, 0 when unknown.
    pub mount_ns: u32,
    /// Inode number of the pid namespace, 0 when unknown.
    pub pid_ns: u32,
    /// Thread that called exec; it takes over `header.tgid`.
    pub old_tid: u32,
    /// Bytes of the file name as called.
    pub filename_len: u32,
    /// Bytes of the executable's path, as the kernel resolved it within the process's root.
    pub exe_len: u32,
    /// Bytes of the working directory.
    pub cwd_len: u32,
    /// Bytes of `argv`.
    pub argv_len: u32,
    /// Bytes of the environment variables.
    pub env_len: u32,
    /// Owner of the executable; [`UNSET`] when unknown.
    pub exe_uid: u32,
    /// Group of the executable.
    pub exe_gid: u32,
    /// Type and permission bits of the executable.
    pub exe_mode: u32,
    /// Id of the process group, 0 when unknown.
    pub pgid: u32,
    /// Id of the process group in the process's own pid namespace, 0 when unknown or when the group is none of that
    /// namespace's.
    pub ns_pgid: u32,
    /// Device of the root folder's file system.
    pub root_device: u32,
    /// Zero.
    pub reserved: u32,
}

/// A start that the kernel did not tell.
pub const START_UNKNOWN: u64 = u64::MAX;

/// For a file's time that cannot be told.
pub const TIME_UNKNOWN: u64 = u64::MAX;

/// A number that is not set: audit's own value for "no login".
pub const UNSET: u32 = u32::MAX;

/// `argv` is longer than the record carries.
pub const EXEC_ARGV_CUT: u32 = 1 << 0;
/// `argv` could not be read (its page was not in memory).
pub const EXEC_ARGV_FAULT: u32 = 1 << 1;
/// The executable's path is longer than the record carries; its end is there, its start is not.
pub const EXEC_EXE_CUT: u32 = 1 << 2;
/// The working directory is longer than the record carries.
pub const EXEC_CWD_CUT: u32 = 1 << 3;
/// The file name is longer than the record carries.
pub const EXEC_FILENAME_CUT: u32 = 1 << 4;
/// The executable has no name in any folder any more: deleted, or never linked.
pub const EXEC_DELETED: u32 = 1 << 5;
/// The executable's path leads to no mount (an anonymous file, a detached mount).
pub const EXEC_DETACHED: u32 = 1 << 6;
/// The executable is an anonymous memory file (`memfd_create`).
pub const EXEC_MEMFD: u32 = 1 << 7;

/// The executable lies in an overlay, in the layer of changes.
pub const EXEC_UPPER_LAYER: u32 = 1 << 8;
/// The executable lies in an overlay, in a layer below the changes.
pub const EXEC_LOWER_LAYER: u32 = 1 << 9;
/// The kernel has what tells whether an executable lies in an overlay.
pub const EXEC_LAYER_KNOWN: u32 = 1 << 10;
/// The capabilities were read.
pub const EXEC_CAPABILITIES: u32 = 1 << 11;
/// The environment was looked through for the variables that the loader asked for.
pub const EXEC_ENV: u32 = 1 << 12;
/// Variables that the loader asked for may be missing or cut: there was too much environment, or a value too long.
pub const EXEC_ENV_CUT: u32 = 1 << 13;
/// Part of the environment could not be read.
pub const EXEC_ENV_FAULT: u32 = 1 << 14;

/// A process or a thread came to be. The header describes its creator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Fork {
    /// The creating thread.
    pub header: Header,
    /// Start of the child's process, with `child_tgid` its key. A new thread shows its process's.
    pub child_start_ns: u64,
    /// The child's cgroup: clone3 can place it elsewhere than its creator.
    pub child_cgroup_id: u64,
    /// Process id of the child; equals `header.tgid` for a new thread.
    pub child_tgid: u32,
    /// Thread id of the child; equals `child_tgid` for a new process.
    pub child_tid: u32,
    /// The child's real parent: not its creator under `CLONE_PARENT`.
    pub child_ppid: u32,
    /// The child's process id in its own pid namespace, 0 when unknown.
    pub child_ns_tgid: u32,
    /// The child's name, its creator's until it execs.
    pub child_comm: [u8; COMM_BYTES],
    /// Process id of the session leader of child and creator, 0 when unknown.
    pub session_leader: u32,
    /// Id of the process group of child and creator, 0 when unknown.
    pub pgid: u32,
    /// The same in the child's pid namespace, as in [`Exec::ns_pgid`].
    pub child_ns_pgid: u32,
    /// Zero.
    pub reserved: u32,
}

/// The last thread of a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Exit {
    /// The thread that ended last, not always the leader.
    pub header: Header,
    /// As `wait` reports it: exit status << 8, or the signal in the low 7 bits and 0x80 for a core dump.
    pub code: u32,
    /// Zero.
    pub flags: u32,
}
