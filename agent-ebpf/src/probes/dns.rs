//! Hook: cgroup_skb ingress at the root cgroup. Records out: [`Packet`](saker_ebpf::wire::Packet) of the kind `Dns`.
//!
//! Sees what is delivered to a local socket from port 53: of UDP every answer, of TCP those that arrive in one piece. What
//! they say is for the agent to read.

use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use saker_ebpf::wire::Kind;

use super::packet::{self, ALLOW, About, Ends, Front};
use super::sockets::{self, IPPROTO_TCP, IPPROTO_UDP, PORT_DNS};
use crate::emit::{self, Outcome};

/// Bytes of a DNS message's header.
const HEADER_BYTES: u32 = 12;
/// In the header's third byte: this is an answer.
const ANSWER: u8 = 0x80;

#[cgroup_skb(ingress)]
pub fn saker_dns(ctx: SkBuffContext) -> i32 {
    if !is_from_elsewhere(&ctx)
        && let Some(ends) = packet::ends(&ctx)
    {
        observe(&ctx, &ends);
    }
    ALLOW
}

/// Is it known at the first look that no DNS server sent this?
#[inline(always)]
fn is_from_elsewhere(ctx: &SkBuffContext) -> bool {
    Front::of(ctx).is_some_and(|front| front.port() != PORT_DNS)
}

#[inline(always)]
fn observe(ctx: &SkBuffContext, ends: &Ends) {
    let protocol = u32::from(ends.protocol);
    if protocol != IPPROTO_UDP && protocol != IPPROTO_TCP {
        return;
    }
    let [from, to]: [u16; 2] = packet::read(ctx, ends.transport);
    if u16::from_be(from) != PORT_DNS {
        return;
    }
    let message = if protocol == IPPROTO_UDP {
        ends.transport + 8
    } else {
        // The message's length, in two bytes, stands before it.
        let words: u8 = packet::read(ctx, ends.transport + 12);
        ends.transport + u32::from(words >> 4) * 4 + 2
    };
    let all = ctx.len();
    let length = all.wrapping_sub(message);
    // Without room for a header: an acknowledgement, or nonsense.
    if message > all || length < HEADER_BYTES {
        return;
    }
    if protocol == IPPROTO_TCP {
        let said: u16 = packet::read(ctx, message - 2);
        if u32::from(u16::from_be(said)) != length {
            emit::count(Kind::Dns, Outcome::Filtered);
            return;
        }
    }
    let flags: u8 = packet::read(ctx, message + 2);
    let owner = sockets::asking(ctx);
    // SAFETY: not null, so the map's value, which is valid while the program runs.
    let is_own = !owner.is_null() && unsafe { (*owner).is_own } != 0;
    if flags & ANSWER == 0 || is_own {
        emit::count(Kind::Dns, Outcome::Filtered);
        return;
    }
    let about = About {
        local: ends.destination,
        remote: ends.source,
        family: ends.family,
        protocol: u16::from(ends.protocol),
        local_port: u16::from_be(to),
        remote_port: PORT_DNS,
        from: message,
        bytes: length,
        length,
        offset: 0,
    };
    packet::report(ctx, Kind::Dns, owner, &about);
}
