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
    // SAFETY: the helper takes the context; `owned` is the kernel's where it is not null.
    let cgroup_id = unsafe {
        if owned.is_null() {
            bpf_skb_cgroup_id(ctx.skb.skb)
        } else {
            (*owned).header.cgroup_id
        }
    };
    let Some(mut entry) = emit::reserve_share::<Room<N>>(ctx, kind, cgroup_id) else {
        return;
    };
    let room = entry.as_mut_ptr();
    // The room is a power of two, so one less is the mask, and one is added behind it.
    let bytes = about.bytes.min(N as u32);
    let bytes = (black_box(bytes - 1) & (N as u32 - 1)) + 1;
    // SAFETY: the ring gave room for a `Room`, the helper checks what it reads, and `owned` is null or the kernel's.
    unsafe {
        let packet = &raw mut (*room).packet;
        if owned.is_null() {
            (*packet).header = core::mem::zeroed::<Header>();
            (*packet).header.cgroup_id = cgroup_id;
        } else {
            (*packet).header = (*owned).header;
        }
        (*packet).header.version = wire::VERSION;
        (*packet).header.kind = kind as u16;
        (*packet).header.size = size_of::<Room<N>>() as u32;
        (*packet).header.ktime_ns = bpf_ktime_get_boot_ns();
        (*packet).header.cpu = bpf_get_smp_processor_id();
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
