//! Records of outgoing connections.

use super::Header;

/// A socket was connected to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Connect {
    /// The connecting thread.
    pub header: Header,
    /// The address in network order; IPv4 uses the first four bytes, the rest is zero.
    pub address: [u8; 16],
    /// [`FAMILY_INET`] or [`FAMILY_INET6`]: that of the address, not of the socket's creation.
    pub family: u16,
    /// Port in the machine's byte order.
    pub port: u16,
    /// `IPPROTO_*`, 0 when the hook does not know it.
    pub protocol: u16,
    /// `SOCK_*` type, 0 when the hook does not know it.
    pub socket_type: u16,
    /// 0 or a negative errno; [`RES_ATTEMPT`] where the hook sees the attempt and not its end.
    pub res: i32,
    /// [`HOOK_CGROUP`] or [`HOOK_SYSCALL`].
    pub hook: u32,
}

/// `AF_INET`.
pub const FAMILY_INET: u16 = 2;
/// `AF_INET6`.
pub const FAMILY_INET6: u16 = 10;

/// `-EINPROGRESS`: the connection is being attempted.
pub const RES_ATTEMPT: i32 = -115;

/// Seen at the cgroup hook: the kernel's own copy of the address, before the attempt.
pub const HOOK_CGROUP: u32 = 1;
/// Seen at the system call: the caller's memory as it was at entry, and the call's result.
pub const HOOK_SYSCALL: u32 = 2;
