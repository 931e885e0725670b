//! Hook: cgroup_skb egress at the root cgroup. Records out: [`Packet`](saker_ebpf::wire::Packet) of the kind `Tls`.
//!
//! Of each TCP connection the first bytes are looked at. Where they are the beginning of a TLS handshake they are recorded up to the end of
//! its first message, in as many pieces as they are sent in. Where the first byte opens an object of JSON, as miners greet
//! their pools, the first packet's beginning is recorded, once; what it says is user space's business.
//!
//! Which bytes are a connection's first follows from what its socket counts anyway, so nothing is kept of a connection whose first bytes are
//! neither, and its packets cost a subtraction.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::{__sk_buff, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::generated::{bpf_sk_storage_get, bpf_tcp_sock};
use aya_ebpf::macros::{btf_map, cgroup_skb};
use aya_ebpf::programs::{SkBuffContext, SockAddrContext};
use saker_ebpf::wire::Kind;
use saker_ebpf::wire::connect::{FAMILY_INET, FAMILY_INET6};
use saker_ebpf::wire::packet::{HELLO_BYTES_MAX, JSON, JSON_BYTES_MAX};

use super::packet::{self, ALLOW, About, Front};
use super::sockets::{self, IPPROTO_TCP, Owner};
use crate::emit::{self, Outcome};
use crate::opaque::opaque;
use crate::settings;

const TCP_SYN: u8 = 2;
const TCP_URG: u8 = 32;
/// A TLS record of the handshake.
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// Bytes of a TLS record's header, and of the header of the message in it.
const RECORD_HEADER: u32 = 5;
const MESSAGE_HEADER: u32 = 4;

/// Packets of a connection that are looked at while its beginning is incomplete. Who sends single bytes is not waited for.
const PACKETS_MAX: u32 = 64;

/// [`Beginning::state`]: nothing of it was seen.
const NEW: u32 = 0;
/// [`Beginning::state`]: it is being recorded.
const RECORDING: u32 = 1;
/// [`Beginning::state`]: all of it that is wanted was recorded.
const DONE: u32 = 2;

/// How far a connection's beginning has been recorded.
#[repr(C)]
struct Beginning {
    owner: Owner,
    state: u32,
    /// Number of its first byte.
    first: u32,
    /// Bytes of it that were recorded.
    recorded: u32,
    /// Bytes of it that are wanted.
    wanted: u32,
    /// Packets that are still looked at.
    packets_left: u32,
    /// Zero.
    reserved: u32,
}

/// Of connections whose first bytes were wanted.
#[btf_map]
static BEGINNINGS: SkStorage<Beginning> = SkStorage::new();

/// A socket is about to be connected by TCP.
#[inline(always)]
pub fn connecting(ctx: &SockAddrContext) {
    sockets::note_connecting(ctx);
    // SAFETY: the kernel hands over a valid context; its socket is never null, and what it keeps is valid while the program runs.
    unsafe {
        let sk = core::ptr::read_volatile(&raw const (*ctx.sock_addr).__bindgen_anon_1.sk);
        let beginning = storage(sk, 0);
        if !beginning.is_null() {
            // It was connected before. Whoever connects it can see to it that its bytes get the same numbers again.
            (*beginning).state = NEW;
        }
    }
}

#[cgroup_skb(egress)]
pub fn saker_tls(ctx: SkBuffContext) -> i32 {
    if let Some(segment) = Segment::of(&ctx)
        && let Some(near) = segment.near_beginning(&ctx)
    {
        let Near { offset, marks } = near;
        return observe(ctx.skb.skb, segment.sequence, segment.from, offset, marks);
    }
    ALLOW
}

/// Data that is sent by TCP.
struct Segment {
    /// Number of the first byte.
    sequence: u32,
    /// Where in the packet it starts.
    from: u32,
    /// Bytes there are; not 0.
    length: u32,
    /// FIN, SYN and so on.
    flags: u8,
}

/// Where data stands that is near its connection's beginning.
struct Near {
    /// Counted from the connection's first byte if its SYN was acknowledged, else from the second.
    offset: u32,
    /// Of these the ones that hold.
    marks: u32,
}

impl Near {
    /// The first byte of a socket that connected.
    const FIRST: u32 = 0;
    /// The first byte of one that accepted, or that was made to be connected without asking the other end (`TCP_REPAIR`).
    const FIRST_WITHOUT_SYN: u32 = u32::MAX;

    /// Among [`Near::marks`]: no data was sent before it, not even what went astray before it came here.
    const SENT_FIRST: u32 = 1 << 0;
    /// Among [`Near::marks`]: all before it was acknowledged. An accepted socket's second byte is that only if the other end acknowledged just the first.
    const NEXT: u32 = 1 << 1;
    /// Among [`Near::marks`]: one of its bytes is urgent (`MSG_OOB`).
    const URGENT: u32 = 1 << 2;

    /// Is it the first data of a socket that connected, and for the first time?
    #[inline(always)]
    fn is_first(&self) -> bool {
        self.offset == Self::FIRST && self.marks & Self::SENT_FIRST != 0
    }

    #[inline(always)]
    fn is_where_connections_begin(&self) -> bool {
        self.offset == Self::FIRST || self.offset == Self::FIRST_WITHOUT_SYN
    }

    /// Can it be the first data of a socket of which nobody knows that it connected?
    #[inline(always)]
    fn can_be_first(&self) -> bool {
        self.offset == Self::FIRST && self.marks & (Self::SENT_FIRST | Self::NEXT) != 0
    }
}

impl Segment {
    /// `None` for what carries no data of TCP's.
    #[inline(always)]
    fn of(ctx: &SkBuffContext) -> Option<Self> {
        let all = ctx.len();
        let (from, (sequence, flags)) = if let Some(front) = Front::of(ctx) {
            if front.protocol != IPPROTO_TCP {
                return None;
            }
            let from = front.behind_tcp();
            // Most packets of a short connection end here.
            if from >= all {
                return None;
            }
            (from, front.sequence_and_flags())
        } else {
            let ends = packet::ends(ctx)?;
            if u32::from(ends.protocol) != IPPROTO_TCP {
                return None;
            }
            let sequence: u32 = packet::read(ctx, ends.transport + 4);
            let [words, flags]: [u8; 2] = packet::read(ctx, ends.transport + 12);
            let from = ends.transport + packet::tcp_bytes(words);
            if from >= all {
                return None;
            }
            (from, (u32::from_be(sequence), flags))
        };
        // A SYN counts as a byte of its own; data may follow it at once (TCP Fast Open).
        let is_syn = flags & TCP_SYN != 0;
        Some(Self {
            sequence: sequence.wrapping_add(u32::from(is_syn)),
            from,
            length: all - from,
            flags,
        })
    }

    /// Where it stands, if that is no further from its connection's beginning than beginnings are looked at.
    #[inline(always)]
    fn near_beginning(&self, ctx: &SkBuffContext) -> Option<Near> {
        let sk = sockets::any(ctx);
        if sk.is_null() {
            return None;
        }
        // SAFETY: not null, so the kernel's. Volatile, because it allows only loads of a whole field.
        unsafe {
            let tcp = bpf_tcp_sock(sk);
            if tcp.is_null() {
                return None;
            }
            // The SYN counts among them. Nothing that was acknowledged is sent again; and numbers come again after four gigabytes.
            let acknowledged = core::ptr::read_volatile(&raw const (*tcp).bytes_acked);
            if acknowledged > u64::from(HELLO_BYTES_MAX) {
                return None;
            }
            let unacknowledged = core::ptr::read_volatile(&raw const (*tcp).snd_una);
            let first = unacknowledged
                .wrapping_sub(acknowledged as u32)
                .wrapping_add(1);
            let offset = self.sequence.wrapping_sub(first);
            if offset.wrapping_add(1) > HELLO_BYTES_MAX {
                return None;
            }
            let segments = core::ptr::read_volatile(&raw const (*ctx.skb.skb).gso_segs);
            // This packet's are among them already.
            let sent = core::ptr::read_volatile(&raw const (*tcp).data_segs_out);
            let mark = |holds: bool, mark: u32| if holds { mark } else { 0 };
            Some(Near {
                offset,
                marks: mark(sent <= segments.max(1), Near::SENT_FIRST)
                    | mark(unacknowledged == self.sequence, Near::NEXT)
                    | mark(self.flags & TCP_URG != 0, Near::URGENT),
            })
        }
    }
}

/// A part of a connection's beginning that is to be recorded.
struct Piece {
    owner: *const Owner,
    /// Where in the connection.
    offset: u32,
    /// Bytes of the segment in front of it.
    skip: u32,
    bytes: u32,
}

/// A function of its own, and told by numbers: few packets come here, and the others need not bring along the stack and the registers that this takes.
#[inline(never)]
fn observe(skb: *mut __sk_buff, sequence: u32, from: u32, offset: u32, marks: u32) -> i32 {
    let ctx = &SkBuffContext::new(skb);
    let segment = &Segment {
        sequence,
        from,
        length: ctx.len() - from,
        flags: 0,
    };
    let near = &Near { offset, marks };
    let sk = sockets::stream(ctx);
    if sk.is_null() {
        return allow();
    }
    let mut owner = MaybeUninit::uninit();
    // SAFETY: the socket is the kernel's; what it keeps is valid while the program runs. A connection's packets are sent under its socket's lock, one
    // after another.
    unsafe {
        let piece = if near.is_first() {
            begin(ctx, sk, segment, near, &mut owner)
        } else {
            let beginning = storage(sk, 0);
            if !beginning.is_null() && (*beginning).state != NEW {
                go_on(beginning, segment)
            } else if near.is_where_connections_begin() {
                begin(ctx, sk, segment, near, &mut owner)
            } else {
                None
            }
        };
        if let Some(piece) = piece {
            let about = about(sk, segment.from + piece.skip, piece.bytes, piece.offset);
            packet::report(ctx, Kind::Tls, piece.owner, &about);
        }
    }
    allow()
}

/// What the compiler does not know, so that it is what the function returns: the kernel refuses one that leaves an address of its stack in that register.
#[inline(always)]
fn allow() -> i32 {
    opaque(ALLOW as u64) as i32
}

/// What of a segment belongs to a beginning of which something was seen.
///
/// # Safety
/// `beginning` is valid.
#[inline(always)]
unsafe fn go_on(beginning: *mut Beginning, segment: &Segment) -> Option<Piece> {
    // SAFETY: the caller vouches for it.
    unsafe {
        let (recorded, wanted) = ((*beginning).recorded, (*beginning).wanted);
        let offset = segment.sequence.wrapping_sub((*beginning).first);
        let end = offset.wrapping_add(segment.length);
        // Sent again: it is here already.
        if (*beginning).state != RECORDING || offset >= HELLO_BYTES_MAX || end <= recorded {
            return None;
        }
        let left = (*beginning).packets_left.wrapping_sub(1);
        (*beginning).packets_left = left;
        if end >= wanted || left == 0 {
            (*beginning).state = DONE;
        }
        // Each byte once, so that what starts at 0 is a new connection's.
        let from = offset.max(recorded);
        let to = end.min(wanted);
        if from >= to {
            return None;
        }
        (*beginning).recorded = to;
        Some(Piece {
            owner: &raw const (*beginning).owner,
            offset: from,
            skip: from - offset,
            bytes: to - from,
        })
    }
}

/// What of a connection's first bytes is wanted. `owner` is room for who sent them.
///
/// # Safety
/// `sk` is a socket that the kernel gave, and not null.
#[inline(always)]
unsafe fn begin(
    ctx: &SkBuffContext,
    sk: *mut bpf_sock,
    segment: &Segment,
    near: &Near,
    owner: &mut MaybeUninit<Owner>,
) -> Option<Piece> {
    let wanted = wanted(ctx, segment, near);
    if wanted == 0 {
        if near.is_first() {
            emit::count(Kind::Tls, Outcome::Filtered);
        }
        return None;
    }
    let connected = sockets::connected(ctx);
    // Else it is what an accepted socket sends first or second.
    if !near.can_be_first() && connected == 0 {
        return None;
    }
    let sender = sockets::sender(ctx, sk);
    let owner = owner.write(Owner {
        header: match if sender == 0 { connected } else { sender } {
            0 => packet::nobody(ctx),
            task => sockets::header(task),
        },
        is_own: 0,
        reserved: 0,
    });
    if settings::is_own(owner.header.tgid) {
        emit::count(Kind::Tls, Outcome::Filtered);
        return None;
    }
    let bytes = wanted.min(segment.length);
    let mut piece = Piece {
        owner,
        offset: 0,
        skip: 0,
        bytes,
    };
    // SAFETY: the caller vouches for `sk`; what the kernel gives is valid while the program runs.
    unsafe {
        let beginning = storage(sk, BPF_SK_STORAGE_GET_F_CREATE);
        // Who has used all the memory for what is kept with his sockets is seen all the same; of the rest of an incomplete hello nothing is.
        if !beginning.is_null() {
            (*beginning).owner = *owner;
            (*beginning).state = if bytes == wanted { DONE } else { RECORDING };
            (*beginning).first = segment.sequence;
            (*beginning).recorded = bytes;
            (*beginning).wanted = wanted;
            (*beginning).packets_left = PACKETS_MAX - 1;
            piece.owner = &raw const (*beginning).owner;
        }
    }
    Some(piece)
}

/// # Safety
/// `sk` is a socket that the kernel gave, and not null.
#[inline(always)]
unsafe fn storage(sk: *mut bpf_sock, flags: u32) -> *mut Beginning {
    // SAFETY: the map is a storage of sockets; without a value the kernel fills a new one with zeros.
    unsafe {
        bpf_sk_storage_get(
            (&raw const BEGINNINGS).cast_mut().cast(),
            sk.cast(),
            core::ptr::null_mut(),
            flags.into(),
        )
        .cast()
    }
}

/// How much of a connection's beginning is wanted, from its first bytes; 0 where they are neither a handshake's nor JSON's.
#[inline(always)]
fn wanted(ctx: &SkBuffContext, segment: &Segment, near: &Near) -> u32 {
    if near.marks & Near::URGENT != 0 {
        // Most who receive it never see the urgent byte, and a hello stands behind it.
        return HELLO_BYTES_MAX;
    }
    let (from, length) = (segment.from, segment.length);
    // No more is read than there is: of what is shorter nothing comes.
    let first: u8 = packet::read(ctx, from);
    if first == JSON {
        return length.min(JSON_BYTES_MAX);
    }
    if first != HANDSHAKE {
        return 0;
    }
    let is_hello = if length >= RECORD_HEADER + 1 {
        let [_, major, .., message]: [u8; RECORD_HEADER as usize + 1] = packet::read(ctx, from);
        major == 3 && message == CLIENT_HELLO
    } else {
        length == 1 || packet::read::<u8>(ctx, from + 1) == 3
    };
    if is_hello {
        of_hello(ctx, from, length)
    } else {
        0
    }
}

/// How much of a handshake is wanted: the first record where the message in it ends there, else all that may be.
#[inline(always)]
fn of_hello(ctx: &SkBuffContext, from: u32, length: u32) -> u32 {
    if length < RECORD_HEADER + MESSAGE_HEADER {
        return HELLO_BYTES_MAX;
    }
    let [.., high, low]: [u8; 5] = packet::read(ctx, from);
    let record = u32::from(high) << 8 | u32::from(low);
    let message: u32 = packet::read(ctx, from + RECORD_HEADER);
    let message = u32::from_be(message) & 0xff_ffff;
    if record < message + MESSAGE_HEADER || RECORD_HEADER + record > HELLO_BYTES_MAX {
        return HELLO_BYTES_MAX;
    }
    RECORD_HEADER + record
}

/// # Safety
/// `sk` is a socket that the kernel gave.
#[inline(always)]
unsafe fn about(sk: *const bpf_sock, from: u32, bytes: u32, offset: u32) -> About {
    // SAFETY: the caller vouches for `sk`. Volatile, because the kernel allows only loads of a whole field.
    unsafe {
        let word = |field: *const u32| core::ptr::read_volatile(field);
        let words = |field: *const [u32; 4]| {
            let field: *const u32 = field.cast();
            let words = [
                word(field),
                word(field.add(1)),
                word(field.add(2)),
                word(field.add(3)),
            ];
            core::mem::transmute::<[u32; 4], [u8; 16]>(words)
        };
        let is_inet6 = word(&raw const (*sk).family) == u32::from(FAMILY_INET6);
        let inet =
            |field: *const u32| core::mem::transmute::<[u32; 4], [u8; 16]>([word(field), 0, 0, 0]);
        About {
            local: if is_inet6 {
                words(&raw const (*sk).src_ip6)
            } else {
                inet(&raw const (*sk).src_ip4)
            },
            remote: if is_inet6 {
                words(&raw const (*sk).dst_ip6)
            } else {
                inet(&raw const (*sk).dst_ip4)
            },
            family: if is_inet6 { FAMILY_INET6 } else { FAMILY_INET },
            protocol: 6,
            local_port: word(&raw const (*sk).src_port) as u16,
            remote_port: u16::from_be(core::ptr::read_volatile(&raw const (*sk).dst_port)),
            from,
            bytes,
            length: bytes,
            offset,
        }
    }
}
