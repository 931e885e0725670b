//! Records that carry what a packet carries: DNS answers, and the beginning of TLS connections.

use super::Header;

/// Most payload bytes that a record carries; longer ones are cut and marked. DNS over UDP seldom goes beyond 1,232 bytes.
pub const PACKET_BYTES_MAX: usize = 4096;

/// Records come in two sizes, so that a short payload does not take the room of the longest.
pub const PACKET_BYTES_SMALL: usize = 1024;

/// Most bytes of a connection's beginning that are looked at. A hello with hybrid keys has about 1,800.
pub const HELLO_BYTES_MAX: u32 = PACKET_BYTES_MAX as u32;

/// What an object of JSON begins with: no TLS record does.
pub const JSON: u8 = b'{';

/// Most bytes of such a beginning that are recorded. A miner's login, with its wallet and all algorithms that it knows, has some hundred.
pub const JSON_BYTES_MAX: u32 = PACKET_BYTES_SMALL as u32;

/// A packet's payload, of which the first `data_len` bytes behind this struct count; what lies behind them says nothing.
///
/// The header is of the thread that sends a TCP connection's first bytes; where they waited, of the first thread of the process that connected. Of
/// a DNS answer it is of the thread that last connected the socket, or sent by it to an address, as it was then. Time and CPU
/// are the packet's. Where that is not known all of the header but its cgroup, which is the one that
/// the socket was made in, is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Packet {
    /// The thread that owns the socket.
    pub header: Header,
    /// The socket's cookie: no other socket gets the same until the machine is started anew.
    pub connection: u64,
    /// This machine's address in network order; IPv4 uses the first four bytes, the rest is zero.
    pub local: [u8; 16],
    /// The other end's address.
    pub remote: [u8; 16],
    /// [`super::connect::FAMILY_INET`] or `FAMILY_INET6`.
    pub family: u16,
    /// `IPPROTO_*`
    pub protocol: u16,
    /// This machine's port, in the machine's byte order.
    pub local_port: u16,
    /// The other end's port.
    pub remote_port: u16,
    /// Where in its connection the payload starts, in bytes. 0 for a datagram.
    pub offset: u32,
    /// Bytes of payload that are here.
    pub data_len: u32,
    /// `PACKET_*` bits.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}

/// The payload is longer than the record carries; its beginning is there.
pub const PACKET_CUT: u32 = 1 << 0;
