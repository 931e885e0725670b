//! Hook: cgroup_skb egress at the root cgroup. Records out: [`Packet`](saker_ebpf::wire::Packet) of the kind `Tls`.
//!
//! Of each TCP connection that was seen to be made the first bytes are looked at. Where they are the beginning of a TLS
//! handshake they are recorded up to the end of its first message, in as many pieces as they are sent in; else, and from then
//! on, a packet of the connection costs one look at its socket's storage. Where the first byte opens an object of JSON, as miners greet
//! their pools, the first packet's beginning is recorded, once; what it says is user space's business. Connections of MPTCP send by other sockets than the
//! connected one, and are not seen.

use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use saker_ebpf::wire::Kind;
use saker_ebpf::wire::connect::{FAMILY_INET, FAMILY_INET6};
use saker_ebpf::wire::packet::{HELLO_BYTES_MAX, JSON, JSON_BYTES_MAX};

use super::packet::{self, ALLOW, About, Front};
use super::sockets::{self, CONNECTING, DONE, Owned, RECORDING};
use crate::emit::{self, Outcome};

const TCP_SYN: u8 = 2;
/// A TLS record of the handshake.
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// Bytes of a TLS record's header, and of the header of the message in it.
const RECORD_HEADER: u32 = 5;
const MESSAGE_HEADER: u32 = 4;

#[cgroup_skb(egress)]
pub fn saker_tls(ctx: SkBuffContext) -> i32 {
    if carries_nothing(&ctx) {
        return ALLOW;
    }
    let owned = sockets::of_packet(&ctx);
    if !owned.is_null() {
        // SAFETY: not null, so the map's value, which is valid while the program runs.
        unsafe {
            if (*owned).state != DONE {
                observe(&ctx, owned);
            }
        }
    }
    ALLOW
}

/// Is it known at the first look that this is no data of a TCP connection? Of a short connection's packets it is for most.
#[inline(always)]
fn carries_nothing(ctx: &SkBuffContext) -> bool {
    Front::of(ctx).is_some_and(|front| {
        front.protocol == sockets::IPPROTO_UDP
            || front.protocol == sockets::IPPROTO_TCP && front.headers == ctx.len()
    })
}

/// # Safety
/// `owned` is a value of the map's. A connection's packets are sent under its socket's lock, one after another.
#[inline(always)]
unsafe fn observe(ctx: &SkBuffContext, owned: *mut Owned) {
    let version: u8 = packet::read(ctx, 0);
    let transport = if version >> 4 == 6 {
        40
    } else {
        u32::from(version & 15) * 4
    };
    let sequence: u32 = packet::read(ctx, transport + 4);
    let mut sequence = u32::from_be(sequence);
    let [words, flags]: [u8; 2] = packet::read(ctx, transport + 12);
    let from = transport + u32::from(words >> 4) * 4;
    let all = ctx.len();
    if from > all {
        return;
    }
    let length = all - from;
    if flags & TCP_SYN != 0 {
        // It counts as a byte of its own; data may follow it at once (TCP Fast Open).
        sequence = sequence.wrapping_add(1);
    }
    if length == 0 {
        return;
    }
    // SAFETY: the caller vouches for `owned`.
    unsafe {
        if (*owned).state == CONNECTING {
            (*owned).first = sequence;
            let head: [u8; 6] = packet::read(ctx, from);
            let is_json = head[0] == JSON;
            let is_hello = head[0] == HANDSHAKE
                && (length < 2 || head[1] == 3)
                && (length < 6 || head[5] == CLIENT_HELLO);
            if !is_hello && !is_json {
                emit::count(Kind::Tls, Outcome::Filtered);
                (*owned).state = DONE;
                return;
            }
            (*owned).state = RECORDING;
            (*owned).wanted = if is_json {
                length.min(JSON_BYTES_MAX)
            } else {
                wanted(ctx, from, length)
            };
        }
        let offset = sequence.wrapping_sub((*owned).first);
        let end = offset.wrapping_add(length);
        // Sent again: it is here already. Also whatever lies before the first byte.
        if offset >= HELLO_BYTES_MAX || end <= (*owned).recorded {
            return;
        }
        let left = (*owned).packets_left.wrapping_sub(1);
        (*owned).packets_left = left;
        let wanted = (*owned).wanted;
        if end >= wanted || left == 0 {
            (*owned).state = DONE;
        }
        if offset >= wanted {
            return;
        }
        let bytes = (wanted - offset).min(length);
        (*owned).recorded = offset + bytes;
        let sk = sockets::socket(ctx);
        if sk.is_null() {
            return;
        }
        let about = about(sk, from, bytes, offset);
        packet::report(ctx, Kind::Tls, owned, &about);
    }
}

/// How much of a connection's beginning is wanted: the first record where the message in it ends there, else all that may be.
#[inline(always)]
fn wanted(ctx: &SkBuffContext, from: u32, length: u32) -> u32 {
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
