//! File systems that nobody mounted: a mount of our own that appears nowhere.
//!
//! `fsopen` and `fsmount` (Linux 5.2) give a mount that is attached to no folder of no namespace: files are reached
//! through its descriptor, nobody else sees it, and it is gone when the descriptor is. Mounting on a temporary folder
//! would show up in the host's mount table, and a mount namespace of our own would cut the agent off from mounts made
//! later.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::calls::owned;

/// Not in the libc crate for every target.
const FSCONFIG_CMD_CREATE: libc::c_ulong = 6;

/// Mounts a file system of this type, detached, and returns its root folder.
pub fn mount_detached(file_system: &CStr) -> io::Result<OwnedFd> {
    let none: libc::c_ulong = 0;
    // SAFETY: fsopen takes a C string and flags.
    let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, file_system.as_ptr(), none) })?;
    // SAFETY: fsconfig with this command takes no key, value or further argument.
    let created = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            FSCONFIG_CMD_CREATE,
            std::ptr::null::<u8>(),
            std::ptr::null::<u8>(),
            none,
        )
    };
    if created < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fsmount takes the context and flags.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), none, none) })
}

/// The same file in a mount of our own, which appears nowhere either: what the kernel keeps of the file then keeps nobody from
/// unmounting the one that it was found in. Only for files in mounts of this process's namespace.
pub fn clone_detached(file: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE
        | libc::OPEN_TREE_CLOEXEC
        | libc::c_uint::try_from(libc::AT_EMPTY_PATH).map_err(io::Error::other)?;
    // SAFETY: open_tree takes a descriptor, a C string, and flags.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, file.as_raw_fd(), c"".as_ptr(), flags) })
}

/// Opens a file or folder below an open folder.
pub fn open_below(folder: BorrowedFd<'_>, path: &CStr, flags: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: openat takes a folder and a C string.
    let opened =
        unsafe { libc::openat(folder.as_raw_fd(), path.as_ptr(), flags | libc::O_CLOEXEC) };
    owned(libc::c_long::from(opened))
}
