//! Who owns a socket, kept with the socket itself for the programs that see packets: those run in whatever thread the kernel
//! happens to be in.
//!
//! A socket's storage comes and goes with it, so there is no bound to reach, and a socket that nobody noted costs a packet
//! one look at an empty pointer.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock, bpf_sock_addr};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::generated::{bpf_sk_fullsock, bpf_sk_storage_get};
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::{SkBuffContext, SockAddrContext};
use saker_ebpf::wire::{Header, Kind};

use crate::emit::{self, Outcome};
use crate::kernel::Act;
use crate::settings::Now;

/// Where DNS servers answer.
pub const PORT_DNS: u16 = 53;

pub const IPPROTO_TCP: u32 = 6;
pub const IPPROTO_UDP: u32 = 17;

/// [`Owned::state`]: nothing of the connection's beginning is wanted, or no longer.
pub const DONE: u32 = 0;
/// [`Owned::state`]: the connection is being made, nothing was sent yet.
pub const CONNECTING: u32 = 1;
/// [`Owned::state`]: the beginning is being recorded.
pub const RECORDING: u32 = 2;

/// What is kept of a socket.
#[repr(C)]
pub struct Owned {
    /// The thread that last connected it or sent by it.
    pub header: Header,
    /// Not 0: the agent's own.
    pub is_own: u32,
    /// How far a TCP connection's beginning has been seen.
    pub state: u32,
    /// Sequence number of its first byte.
    pub first: u32,
    /// Bytes of it that were recorded.
    pub recorded: u32,
    /// Bytes of it that are wanted.
    pub wanted: u32,
    /// Packets that are still looked at.
    pub packets_left: u32,
}

#[btf_map]
static SOCKETS: SkStorage<Owned> = SkStorage::new();

/// Packets of a connection that are looked at while its beginning is incomplete. Who sends single bytes is not waited for.
const PACKETS_MAX: u32 = 64;

/// Which packets of a socket that is being connected are wanted, if any.
#[inline(always)]
pub fn wanted(now: Now, protocol: u32, port: u16) -> Option<Kind> {
    if now.wants(Kind::Tls) && protocol == IPPROTO_TCP {
        Some(Kind::Tls)
    } else if now.wants(Kind::Dns) && port == PORT_DNS {
        Some(Kind::Dns)
    } else {
        None
    }
}

/// Notes whose a socket is: whoever `act`s, for packets of this kind.
#[inline(always)]
pub fn note(ctx: &SockAddrContext, act: &Act, is_own: bool, kind: Kind) {
    // SAFETY: the kernel hands over a valid context; its socket is never null.
    let owned = unsafe {
        let sk = core::ptr::read_volatile(&raw const (*ctx.sock_addr).__bindgen_anon_1.sk);
        storage(sk, BPF_SK_STORAGE_GET_F_CREATE)
    };
    if owned.is_null() {
        emit::count(kind, Outcome::Passed);
        emit::lose(ctx, kind, Outcome::MapFull);
        return;
    }
    let mut header = MaybeUninit::uninit();
    // SAFETY: the map's value is valid while the program runs, and not null; all of the header is filled. Copied at once, because another processor may be
    // reading it for a packet: two processes can share a socket.
    unsafe {
        act.fill(header.as_mut_ptr(), kind, 0);
        (*owned).header = header.assume_init();
        (*owned).is_own = u32::from(is_own);
        (*owned).recorded = 0;
        (*owned).wanted = 0;
        (*owned).packets_left = PACKETS_MAX;
        (*owned).state = if matches!(kind, Kind::Tls) && !is_own {
            CONNECTING
        } else {
            DONE
        };
    }
}

/// What is known of a packet's socket; null where nothing is.
#[inline(always)]
pub fn of_packet(ctx: &SkBuffContext) -> *mut Owned {
    let sk = socket(ctx);
    if sk.is_null() {
        return core::ptr::null_mut();
    }
    // SAFETY: not null, so the kernel's.
    unsafe { storage(sk, 0) }
}

/// A packet's socket, where it has one that is more than a request for one; null else.
#[inline(always)]
pub fn socket(ctx: &SkBuffContext) -> *mut bpf_sock {
    // SAFETY: the kernel hands over a valid context. Volatile, because it allows only loads of a whole field.
    unsafe {
        let sk = core::ptr::read_volatile(&raw const (*ctx.skb.skb).__bindgen_anon_2.sk);
        if sk.is_null() {
            return sk;
        }
        bpf_sk_fullsock(sk)
    }
}

/// # Safety
/// `sk` is a socket that the kernel gave.
#[inline(always)]
unsafe fn storage(sk: *mut bpf_sock, flags: u32) -> *mut Owned {
    // SAFETY: the map is a storage of sockets; without a value the kernel fills a new one with zeros.
    unsafe {
        bpf_sk_storage_get(
            (&raw const SOCKETS).cast_mut().cast(),
            sk.cast(),
            core::ptr::null_mut(),
            flags.into(),
        )
        .cast()
    }
}

/// Protocol and port that a socket is connected to, or sent by.
#[inline(always)]
pub fn protocol_and_port(ctx: &SockAddrContext) -> (u32, u16) {
    let sock_addr: *const bpf_sock_addr = ctx.sock_addr;
    // SAFETY: the kernel hands over a valid context. Volatile, because it allows only loads of a whole field.
    unsafe {
        (
            core::ptr::read_volatile(&raw const (*sock_addr).protocol),
            u16::from_be(core::ptr::read_volatile(&raw const (*sock_addr).user_port) as u16),
        )
    }
}
