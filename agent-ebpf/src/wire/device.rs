//! Records of device nodes.

use super::Header;

/// A device node's permission was asked for: it was opened, tested with `access`, or made with `mknod`.
///
/// The kernel asks before the driver does, so a record does not say that the open worked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DeviceOpen {
    /// The asking thread.
    pub header: Header,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// `DEVICE_*` bits.
    pub access: u32,
    /// [`NODE_BLOCK`] or [`NODE_CHARACTER`].
    pub node: u32,
    /// Bytes of the path; 0 where nothing is being opened by path.
    pub path_len: u32,
    /// `DEVICE_PATH_*` bits.
    pub flags: u32,
    /// The path that is being opened, as it was passed: the kernel's copy. What stands behind it says nothing.
    pub path: [u8; DEVICE_PATH_BYTES_MAX + 1],
}

/// Most bytes of a device's path that a record carries; of a longer one its beginning. Nothing is decided by it, and these records
/// must not be lost, so that they are short.
pub const DEVICE_PATH_BYTES_MAX: usize = 255;

/// The path is longer than a record carries.
pub const DEVICE_PATH_CUT: u32 = 1 << 0;

/// A node with these numbers is being made.
pub const DEVICE_MKNOD: u32 = 1 << 0;
/// Read access.
pub const DEVICE_READ: u32 = 1 << 1;
/// Write access.
pub const DEVICE_WRITE: u32 = 1 << 2;

/// A block device.
pub const NODE_BLOCK: u32 = 1;
/// A character device.
pub const NODE_CHARACTER: u32 = 2;
