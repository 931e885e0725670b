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
}

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
