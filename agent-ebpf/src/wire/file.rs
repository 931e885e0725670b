//! Records of files opened by path.

use super::Header;

/// An open by path ended, well or not. The path's bytes follow the fixed part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Open {
    /// The opening thread, at the end of the call.
    pub header: Header,
    /// `O_*` flags as given; `creat` shows the flags it stands for.
    pub open_flags: u64,
    /// `RESOLVE_*` flags of openat2, else 0.
    pub resolve: u64,
    /// Permission bits asked for, meaningful with `O_CREAT` or `O_TMPFILE`.
    pub mode: u32,
    /// Folder that a relative path starts from; `AT_FDCWD` (-100) for the working directory.
    pub dfd: i32,
    /// File descriptor, or a negative errno.
    pub res: i32,
    /// One of `SYSCALL_*`.
    pub syscall: u32,
    /// Bytes of the path.
    pub path_len: u32,
    /// `OPEN_*` bits.
    pub flags: u32,
}

/// The call was `open`.
pub const SYSCALL_OPEN: u32 = 1;
/// The call was `openat`.
pub const SYSCALL_OPENAT: u32 = 2;
/// The call was `openat2`.
pub const SYSCALL_OPENAT2: u32 = 3;
/// The call was `creat`.
pub const SYSCALL_CREAT: u32 = 4;

/// The path is longer than the record carries; its start is there.
pub const OPEN_PATH_CUT: u32 = 1 << 0;
/// The path was not in memory when the call started and was read at its end, when another thread could have changed it.
pub const OPEN_PATH_LATE: u32 = 1 << 1;
/// `struct open_how` could not be read: flags, mode and resolve are 0.
pub const OPEN_HOW_FAULT: u32 = 1 << 2;
