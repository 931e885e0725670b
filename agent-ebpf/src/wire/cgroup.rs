//! Records of cgroups.

use super::{Header, PATH_BYTES_MAX};

/// A cgroup of the v2 hierarchy came to be. Everything that ever happens in it comes later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct CgroupMkdir {
    /// The thread that made it.
    pub header: Header,
    /// Its id: the inode number of its folder.
    pub id: u64,
    /// Bytes of the path.
    pub path_len: u32,
    /// `CGROUP_*` bits.
    pub flags: u32,
    /// From the root of the hierarchy, whoever asks. What stands behind it says nothing.
    pub path: [u8; PATH_BYTES_MAX + 1],
}

/// The path is longer than a record carries: its end is missing.
pub const CGROUP_PATH_CUT: u32 = 1 << 0;
