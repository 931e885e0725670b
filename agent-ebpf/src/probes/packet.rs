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

use super::sockets::Owner;
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

/// The beginning of a packet, where the kernel has its bytes side by side: to look at them costs a comparison, not a call. Of IPv4 without
/// options, and of IPv6.
pub struct Front {
    /// `IPPROTO_*`
    pub protocol: u32,
    /// Where the transport's header starts.
    pub transport: u32,
    /// What is there. [`TRANSPORT`] bytes can be read.
    header: *const u8,
}

/// Bytes of a transport's header that a [`Front`] has: up to TCP's flags.
const TRANSPORT: usize = 14;

impl Front {
    /// `None` where more has to be looked at to know.
    #[inline(always)]
    pub fn of(ctx: &SkBuffContext) -> Option<Self> {
        const INET: usize = 20;
        const INET6: usize = 40;
        // SAFETY: the kernel hands over a valid context, and of the packet nothing is read that does not lie before its end. Volatile,
        // because of the context the kernel allows only loads of a whole field, and of the packet only what was compared before.
        unsafe {
            let data = core::ptr::read_volatile(&raw const (*ctx.skb.skb).data) as usize;
            let end = core::ptr::read_volatile(&raw const (*ctx.skb.skb).data_end) as usize;
            let front = |protocol: usize, transport: usize| {
                Some(Self {
                    protocol: core::ptr::read_volatile((data + protocol) as *const u8).into(),
                    transport: transport as u32,
                    header: (data + transport) as *const u8,
                })
            };
            if data + INET + TRANSPORT > end {
                return None;
            }
            let first = core::ptr::read_volatile(data as *const u8);
            if first == 0x45 {
                return front(9, INET);
            }
            if first >> 4 != 6 || data + INET6 + TRANSPORT > end {
                return None;
            }
            front(6, INET6).filter(|front| !is_extension(front.protocol as u8))
        }
    }

    /// The transport's header, byte by byte.
    #[inline(always)]
    fn byte(&self, at: usize) -> u8 {
        // SAFETY: within what was compared with the packet's end. Volatile, so that it is read as it stands here.
        unsafe { core::ptr::read_volatile(self.header.add(at)) }
    }

    /// Of TCP and UDP both: the sender's port.
    #[inline(always)]
    pub fn port(&self) -> u16 {
        u16::from_be_bytes([self.byte(0), self.byte(1)])
    }

    /// Of TCP: where in the packet what it carries starts.
    #[inline(always)]
    pub fn behind_tcp(&self) -> u32 {
        self.transport + tcp_bytes(self.byte(12))
    }

    /// Of TCP: the number of the segment's first byte, or of its SYN; and FIN, SYN and so on.
    #[inline(always)]
    pub fn sequence_and_flags(&self) -> (u32, u8) {
        // SAFETY: as of the bytes. The kernel itself reads the number so: its headers start at multiples of four bytes.
        let sequence = unsafe { core::ptr::read_volatile(self.header.add(4).cast::<u32>()) };
        (u32::from_be(sequence), self.byte(13))
    }
}

/// The length of a TCP header, from the byte that says it in words of four bytes.
#[inline(always)]
pub fn tcp_bytes(words: u8) -> u32 {
    u32::from(words >> 4) * 4
}

/// Extension headers of IPv6 that are followed. Whoever sends decides how many there are.
const EXTENSIONS_MAX: u32 = 8;

/// Is it one of those that can stand before the transport's header, where nothing is encrypted or in pieces: options for each hop, a route, options for
/// the destination? (RFC 8200, section 4)
#[inline(always)]
fn is_extension(protocol: u8) -> bool {
    matches!(protocol, 0 | 43 | 60)
}

/// The protocol behind extension headers of IPv6, and where it starts.
#[inline(always)]
fn behind_extensions(ctx: &SkBuffContext, first: u8) -> (u8, u32) {
    let (mut protocol, mut at) = (first, 40);
    let mut followed = 0;
    while followed < EXTENSIONS_MAX && is_extension(protocol) {
        let [next, more]: [u8; 2] = read(ctx, at);
        protocol = next;
        // Its length, in eights of bytes without the first.
        at += (u32::from(more) + 1) * 8;
        followed += 1;
    }
    (protocol, at)
}

/// Reads the IP header; `None` for what is neither IPv4 nor IPv6.
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
        6 => {
            let (protocol, transport) = behind_extensions(ctx, head[6]);
            Some(Ends {
                source: read(ctx, 8),
                destination: read(ctx, 24),
                family: FAMILY_INET6,
                protocol,
                transport,
            })
        }
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

/// Writes a record with the payload. `owner` is who owns the packet's socket, or null.
#[inline(always)]
pub fn report(ctx: &SkBuffContext, kind: Kind, owner: *const Owner, about: &About) {
    if about.bytes <= PACKET_BYTES_SMALL as u32 {
        write::<PACKET_BYTES_SMALL>(ctx, kind, owner, about);
    } else {
        write::<PACKET_BYTES_MAX>(ctx, kind, owner, about);
    }
}

/// Where it is not known whose a packet's socket is: all that is known is the cgroup that the socket was made in.
#[inline(always)]
pub fn nobody(ctx: &SkBuffContext) -> Header {
    // SAFETY: zeros are a header, and the helper takes the context.
    unsafe {
        let mut nobody = core::mem::zeroed::<Header>();
        nobody.cgroup_id = bpf_skb_cgroup_id(ctx.skb.skb);
        nobody
    }
}

#[inline(always)]
fn write<const N: usize>(ctx: &SkBuffContext, kind: Kind, owner: *const Owner, about: &About) {
    if about.bytes == 0 {
        return;
    }
    // SAFETY: the helpers take nothing; `owner` is the kernel's where it is not null.
    let header = unsafe {
        let mut header = if owner.is_null() {
            nobody(ctx)
        } else {
            (*owner).header
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
    // SAFETY: the ring gave room for a `Room`, the helper checks what it reads, and `owner` is null or the kernel's.
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
