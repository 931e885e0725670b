//! What makes a file the same file, for a program that the kernel attached to it.
//!
//! The kernel attaches to the file below: containers that share a layer share it, and each shows it under a device number of its
//! own. Attached through each of them, every call would be reported once for each container. Their overlay file systems pass on
//! the number and the time of the file below, which therefore stand for it.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Stands for the device of every overlay: no device has this number.
const OVERLAY: u64 = u64::MAX;

/// A file, for as long as it is not written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileKey {
    /// Device number; one for all overlays.
    device: u64,
    inode: u64,
    bytes: u64,
    /// A file that was replaced in place, or whose number was given out again.
    changed: (i64, i64),
}

impl FileKey {
    /// Of an open file.
    pub fn of(file: &File) -> io::Result<Self> {
        let found = file.metadata()?;
        // SAFETY: plain numbers, for which zeros are a value.
        let mut system: libc::statfs = unsafe { std::mem::zeroed() };
        // SAFETY: `system` has room for what the call writes, and the descriptor is open.
        let known = unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut system) } == 0;
        Ok(Self::new(&found, known && is_overlay(&system)))
    }

    /// Of the file that a path leads to.
    pub fn at(path: &Path) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        // Only file systems without a device of their own can be overlays.
        if libc::major(found.dev()) != 0 {
            return Ok(Self::new(&found, false));
        }
        let path = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: plain numbers, for which zeros are a value.
        let mut system: libc::statfs = unsafe { std::mem::zeroed() };
        // SAFETY: `system` has room for what the call writes, and the path ends with a zero.
        let known = unsafe { libc::statfs(path.as_ptr(), &raw mut system) } == 0;
        Ok(Self::new(&found, known && is_overlay(&system)))
    }

    fn new(found: &fs::Metadata, is_overlay: bool) -> Self {
        Self {
            device: if is_overlay { OVERLAY } else { found.dev() },
            inode: found.ino(),
            bytes: found.size(),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }
}

fn is_overlay(system: &libc::statfs) -> bool {
    // The type is signed or not, by architecture; the number fits both.
    system.f_type == libc::OVERLAYFS_SUPER_MAGIC
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_itself_however_it_is_reached_until_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| folder.path().join(name));
        fs::write(&one, b"text").unwrap();
        fs::hard_link(&one, &other).unwrap();
        let of = |path: &Path| FileKey::of(&File::open(path).unwrap()).unwrap();
        let before = of(&one);
        assert_eq!(before, of(&other));
        assert_eq!(before, FileKey::at(&other).unwrap());
        fs::write(&one, b"longer text").unwrap();
        assert_ne!(before, of(&one));
        assert!(FileKey::at(&folder.path().join("absent")).is_err());
    }
}
