//! Records of cgroups.

use super::{Header, PATH_BYTES_MAX};

/// A cgroup of the v2 hierarchy came to be, or of the v1 hierarchy that stands in for it. Everything that ever happens in it comes later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct CgroupMkdir {
    /// The thread that made it.
    pub header: Header,
    /// Its id: the inode number of its folder, with [`CGROUP_OF_V1`] where it is of that one.
    pub id: u64,
    /// Bytes of the path.
    pub path_len: u32,
    /// `CGROUP_*` bits.
    pub flags: u32,
    /// From the root of the hierarchy, whoever asks. What stands behind it says nothing.
    pub path: [u8; PATH_BYTES_MAX + 1],
}

/// In a cgroup's id: of the v1 hierarchy that stands in where a process is in the root of v2. The kernel counts ids up from 1.
pub const CGROUP_OF_V1: u64 = 1 << 63;

/// The path is longer than a record carries: its end is missing.
pub const CGROUP_PATH_CUT: u32 = 1 << 0;
