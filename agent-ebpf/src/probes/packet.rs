//! Packets as cgroup_skb programs see them, from the IP header on, and records of their payload.
//!
//! Reads that fail give zeros: no error path multiplies what the verifier has to follow.

use core::hint::black_box;

use aya_ebpf::helpers::generated::{
    bpf_get_smp_processor_id, bpf_get_socket_cookie, bpf_ktime_get_boot_ns, bpf_skb_cgroup_id,
    bpf_skb_load_bytes,
};
use aya_ebpf::programs::SkBuffContext;
use saker_ebpf::wire::connect::{FAMILY_INET, FAMILY_INET6};
use saker_ebpf::wire::packet::{PACKET_BYTES_MAX, PACKET_BYTES_SMALL, PACKET_CUT};
use saker_ebpf::wire::{self, Header, Kind, Packet};

use super::sockets::Owned;
use crate::emit;

/// What the kernel takes for "go on".
pub const ALLOW: i32 = 1;

/// The ends of a packet, and where what it carries starts.
#[derive(Clone, Copy)]
pub struct Ends {
    pub source: [u8; 16],
    pub destination: [u8; 16],
    pub family: u16,
    /// `IPPROTO_*`
    pub protocol: u8,
    /// Where the transport's header starts.
    pub transport: u32,
}

/// What the first bytes of a packet say, where the kernel has them side by side: they cost a comparison, not a call. Of IPv4 without
/// options, and of IPv6.
pub struct Front {
    /// `IPPROTO_*`
    pub protocol: u32,
    /// The first two bytes of the transport's header: of TCP and UDP both, the sender's port.
    pub port: u16,
    /// Bytes of the headers, if it is TCP.
    pub headers: u32,
}

impl Front {
    /// `None` where more has to be looked at to know.
    #[inline(always)]
    pub fn of(ctx: &SkBuffContext) -> Option<Self> {
        const INET: usize = 20;
        const INET6: usize = 40;
        /// Up to the byte of TCP's header that says how long it is, and one more: the verifier learns nothing from a comparison with
        /// the very beginning.
        const TRANSPORT: usize = 14;
        // SAFETY: the kernel hands over a valid context, and of the packet nothing is read that does not lie before its end. Volatile,
        // because of the context the kernel allows only loads of a whole field, and of the packet only what was compared before.
        unsafe {
            let data = core::ptr::read_volatile(&raw const (*ctx.skb.skb).data) as usize;
            let end = core::ptr::read_volatile(&raw const (*ctx.skb.skb).data_end) as usize;
            let byte = |at: usize| core::ptr::read_volatile((data + at) as *const u8);
            if data + INET + TRANSPORT > end {
                return None;
            }
            let first = byte(0);
            if first == 0x45 {
                return Some(Self {
                    protocol: byte(9).into(),
                    port: u16::from_be_bytes([byte(INET), byte(INET + 1)]),
                    headers: INET as u32 + u32::from(byte(INET + 12) >> 4) * 4,
                });
            }
            if first >> 4 != 6 || data + INET6 + TRANSPORT > end {
                return None;
            }
            Some(Self {
                protocol: byte(6).into(),
                port: u16::from_be_bytes([byte(INET6), byte(INET6 + 1)]),
                headers: INET6 as u32 + u32::from(byte(INET6 + 12) >> 4) * 4,
            })
        }
    }
}

/// Reads the IP header; `None` for what is neither IPv4 nor IPv6. Extension headers of IPv6 are not followed: a packet that
/// has any shows the first one's number for its protocol.
#[inline(always)]
pub fn ends(ctx: &SkBuffContext) -> Option<Ends> {
    let head: [u8; 20] = read(ctx, 0);
    match head[0] >> 4 {
        4 => {
            let mut ends = Ends {
                source: [0; 16],
                destination: [0; 16],
                family: FAMILY_INET,
                protocol: head[9],
                transport: u32::from(head[0] & 15) * 4,
            };
            let mut at = 0;
            while at < 4 {
                ends.source[at] = head[12 + at];
                ends.destination[at] = head[16 + at];
                at += 1;
            }
            Some(ends)
        }
        6 => Some(Ends {
            source: read(ctx, 8),
            destination: read(ctx, 24),
            family: FAMILY_INET6,
            protocol: head[6],
            transport: 40,
        }),
        _ => None,
    }
}

/// Reads a `T` of the packet; zeros where it is not that long.
#[inline(always)]
pub fn read<T: Copy>(ctx: &SkBuffContext, offset: u32) -> T {
    let mut value = core::mem::MaybeUninit::<T>::zeroed();
    // SAFETY: the helper writes `size_of::<T>()` bytes to `value`, zeros where there are none to read. `T` is used only with
    // integers and arrays of them.
    unsafe {
        bpf_skb_load_bytes(
            ctx.skb.skb.cast(),
            offset,
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
        );
        value.assume_init()
    }
}

/// A record and its payload, as long as the room for it.
#[repr(C)]
struct Room<const N: usize> {
    packet: Packet,
    data: [u8; N],
}

/// What a record says of a packet besides its payload.
pub struct About {
    pub local: [u8; 16],
    pub remote: [u8; 16],
    pub family: u16,
    pub protocol: u16,
    pub local_port: u16,
    pub remote_port: u16,
    /// Where in the packet the payload starts.
    pub from: u32,
    /// Bytes of payload that are wanted.
    pub bytes: u32,
    /// Bytes of payload there are.
    pub length: u32,
    /// Where in its connection it starts.
    pub offset: u32,
}

/// Writes a record with the payload. `owned` is of the packet's socket, or null.
#[inline(always)]
pub fn report(ctx: &SkBuffContext, kind: Kind, owned: *const Owned, about: &About) {
    if about.bytes <= PACKET_BYTES_SMALL as u32 {
        write::<PACKET_BYTES_SMALL>(ctx, kind, owned, about);
    } else {
        write::<PACKET_BYTES_MAX>(ctx, kind, owned, about);
    }
}

#[inline(always)]
fn write<const N: usize>(ctx: &SkBuffContext, kind: Kind, owned: *const Owned, about: &About) {
    if about.bytes == 0 {
        return;
    }
    // SAFETY: the helpers take the context or nothing; `owned` is the kernel's where it is not null.
    let header = unsafe {
        let mut header = if owned.is_null() {
            let mut nobody = core::mem::zeroed::<Header>();
            nobody.cgroup_id = bpf_skb_cgroup_id(ctx.skb.skb);
            nobody
        } else {
            (*owned).header
        };
        header.version = wire::VERSION;
        header.kind = kind as u16;
        header.size = size_of::<Room<N>>() as u32;
        header.ktime_ns = bpf_ktime_get_boot_ns();
        header.cpu = bpf_get_smp_processor_id();
        header
    };
    let (cgroup_id, moment) = (header.cgroup_id, header.ktime_ns);
    let Some(mut entry) = emit::reserve_share::<Room<N>>(ctx, kind, cgroup_id, moment) else {
        return;
    };
    let room = entry.as_mut_ptr();
    // The room is a power of two, so one less is the mask, and one is added behind it.
    let bytes = about.bytes.min(N as u32);
    let bytes = (black_box(bytes - 1) & (N as u32 - 1)) + 1;
    // SAFETY: the ring gave room for a `Room`, the helper checks what it reads, and `owned` is null or the kernel's.
    unsafe {
        let packet = &raw mut (*room).packet;
        (*packet).header = header;
        (*packet).connection = bpf_get_socket_cookie(ctx.skb.skb.cast());
        (*packet).local = about.local;
        (*packet).remote = about.remote;
        (*packet).family = about.family;
        (*packet).protocol = about.protocol;
        (*packet).local_port = about.local_port;
        (*packet).remote_port = about.remote_port;
        (*packet).offset = about.offset;
        (*packet).data_len = bytes;
        (*packet).flags = if about.length > bytes { PACKET_CUT } else { 0 };
        (*packet).reserved = 0;
        bpf_skb_load_bytes(
            ctx.skb.skb.cast(),
            about.from,
            (&raw mut (*room).data).cast(),
            bytes,
        );
    }
    emit::submit(kind, entry);
}
