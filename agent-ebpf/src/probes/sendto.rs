//! Hooks: cgroup sendmsg4 and sendmsg6 at the root cgroup. Records out: [`saker_ebpf::wire::Connect`] of the kind `Sendto`.
//!
//! They see datagrams that are sent to an address of their own, by sendto, sendmsg, sendmmsg or io_uring; those of connected
//! sockets were seen at connect. A process, socket, address and port is reported once: a flood to one address costs a
//! look-up each. An IPv4-mapped address that is sent to by an IPv6 socket arrives at sendmsg4.

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated::bpf_get_socket_cookie;
use aya_ebpf::macros::{cgroup_sock_addr, map};
use aya_ebpf::maps::LruHashMap;
use aya_ebpf::programs::SockAddrContext;
use saker_ebpf::wire::Kind;
use saker_ebpf::wire::connect::{FAMILY_INET, FAMILY_INET6};

use super::connect::{ALLOW, inet, inet6, report};
use super::sockets::{self, PORT_DNS};
use crate::emit::{self, Outcome};
use crate::kernel::{self, Act};
use crate::settings;

/// Addresses that were reported. One that others push out is reported again, which costs a record.
#[map]
static SENT: LruHashMap<SentKey, u8> = LruHashMap::with_max_entries(16384, 0);

/// Where a process has sent to by a socket.
#[derive(Clone, Copy)]
#[repr(C)]
struct SentKey {
    socket: u64,
    address: [u32; 4],
    tgid: u32,
    /// In network order; the family is in its upper half.
    port: u32,
}

#[cgroup_sock_addr(sendmsg4)]
pub fn saker_sendmsg4(ctx: SockAddrContext) -> i32 {
    observe(&ctx, FAMILY_INET, inet(&ctx));
    ALLOW
}

#[cgroup_sock_addr(sendmsg6)]
pub fn saker_sendmsg6(ctx: SockAddrContext) -> i32 {
    observe(&ctx, FAMILY_INET6, inet6(&ctx));
    ALLOW
}

#[inline(always)]
fn observe(ctx: &SockAddrContext, family: u16, address: [u32; 4]) {
    let tgid = kernel::current_tgid();
    let is_own = settings::is_own(tgid);
    let (_, port) = sockets::protocol_and_port(ctx);
    let now = settings::now();
    if now.wants(Kind::Dns) && port == PORT_DNS {
        sockets::note_asking(ctx, &Act::begin(), is_own);
    }
    if !now.wants(Kind::Sendto) {
        return;
    }
    if is_own {
        emit::count(Kind::Sendto, Outcome::Filtered);
        return;
    }
    let sock_addr: *const bpf_sock_addr = ctx.sock_addr;
    // SAFETY: the kernel hands over a valid context. Volatile, because it allows only loads of a whole field.
    let port = unsafe { core::ptr::read_volatile(&raw const (*sock_addr).user_port) };
    let key = SentKey {
        // SAFETY: the helper takes the context.
        socket: unsafe { bpf_get_socket_cookie(ctx.sock_addr.cast()) },
        address,
        tgid,
        port: u32::from(family) << 16 | port & 0xffff,
    };
    // SAFETY: the value is not looked at, only whether there is one.
    if unsafe { SENT.get(key) }.is_some() {
        emit::count(Kind::Sendto, Outcome::Filtered);
        return;
    }
    // Noted even if the ring is full: what was lost is counted, and the flood that fills the ring must not get dearer by it.
    // A full map drops its oldest entry; should it fail all the same, the address is reported again.
    let _ = SENT.insert(key, 1, 0);
    report(ctx, Kind::Sendto, &Act::begin(), family, address);
}
