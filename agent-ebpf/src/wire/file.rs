//! Records of files opened by path.

use super::Header;

/// An open by path ended, well or not. After the fixed part stand the path as passed, and the kernel's own path of the
/// file that was opened.
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
    /// Bytes of the path as passed.
    pub path_len: u32,
    /// Bytes of the opened file's path within the process's root; 0 where nothing was opened.
    pub resolved_len: u32,
    /// `OPEN_*` bits.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
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
/// The path as passed could not be read.
pub const OPEN_PATH_FAULT: u32 = 1 << 1;
/// `struct open_how` could not be read: flags, mode and resolve are 0.
pub const OPEN_HOW_FAULT: u32 = 1 << 2;
/// The opened file's path is longer than the record carries; its end is there, its start is not.
pub const OPEN_RESOLVED_CUT: u32 = 1 << 3;
/// The opened file has no name in any folder: an anonymous one.
pub const OPEN_DETACHED: u32 = 1 << 4;
