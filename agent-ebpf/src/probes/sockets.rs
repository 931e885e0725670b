//! Who owns a socket, for the programs that see packets: those run in whatever thread the kernel happens to be in.
//!
//! Of a socket that asks a DNS server it is kept with the socket itself, and comes and goes with it: there is no bound to reach.
//!
//! A TCP connection's first bytes are mostly sent by the thread that runs. Where they are not (they were held back, or the other end was not ready) it
//! counts who connected. That is noted in two words for each connection: few of them are ever asked for, and what is kept with the
//! socket takes ten times as long to come and go.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock, bpf_sock_addr};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::generated::{
    bpf_get_socket_cookie, bpf_sk_fullsock, bpf_sk_storage_get, bpf_skb_cgroup_id,
    bpf_skc_to_tcp_sock,
};
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::Array;
use aya_ebpf::programs::{SkBuffContext, SockAddrContext};
use saker_ebpf::wire::{Header, Kind};

use crate::emit::{self, Outcome};
use crate::kernel::{self, Act, Address};
use crate::settings::{offset, present};

/// Where DNS servers answer.
pub const PORT_DNS: u16 = 53;

pub const IPPROTO_TCP: u32 = 6;
pub const IPPROTO_UDP: u32 = 17;

/// Who owns a socket.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Owner {
    /// The thread that last connected it or sent by it.
    pub header: Header,
    /// Not 0: the agent's own.
    pub is_own: u32,
    /// Zero.
    pub reserved: u32,
}

#[btf_map]
static SOCKETS: SkStorage<Owner> = SkStorage::new();

/// Who connected by TCP, at the place that the socket's cookie says.
///
/// The two words need not be written at once, nor stay: who reads them asks the process when it started. If they are of two that wrote at the same
/// time, of another socket with the same place, or if the memory is another process's by now, the answer does not fit.
#[derive(Clone, Copy)]
#[repr(C)]
struct Connected {
    /// The process's first thread.
    leader: Address,
    /// When the process started, in nanoseconds, XOR the cookie.
    proof: u64,
}

/// Places.
const CONNECTED_MAX: u32 = 1 << CONNECTED_BITS;
const CONNECTED_BITS: u32 = 16;

/// Where a cookie's place is. The kernel hands cookies out in sequence, to each processor 4,096 at a time, and those of all processors are to be spread.
#[inline(always)]
fn place(cookie: u64) -> u32 {
    // 2 to the power of 64, divided by the golden ratio.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    (cookie.wrapping_mul(SPREAD) >> (u64::BITS - CONNECTED_BITS)) as u32
}

#[map]
static CONNECTED: Array<Connected> = Array::with_max_entries(CONNECTED_MAX, 0);

/// The header of a record about what the process or thread `task` does, wherever this runs.
#[inline(always)]
pub fn header(task: Address) -> Header {
    let mut header = MaybeUninit::uninit();
    // SAFETY: all of the header is filled.
    unsafe {
        Act::of(task).fill(header.as_mut_ptr(), Kind::Tls, 0);
        header.assume_init()
    }
}

/// Notes who connects by TCP: whoever runs, if that is a process.
#[inline(always)]
pub fn note_connecting(ctx: &SockAddrContext) {
    let task = kernel::current_task();
    if kernel::is_kernel_thread(task) {
        return;
    }
    let leader = kernel::leader(task);
    // SAFETY: the helper takes the context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.sock_addr.cast()) };
    let Some(noted) = CONNECTED.get_ptr_mut(place(cookie)) else {
        return;
    };
    let connected = Connected {
        leader,
        proof: kernel::start_ns(leader) ^ cookie,
    };
    // SAFETY: the map's value, which is valid while the program runs.
    unsafe { *noted = connected };
}

/// The first thread of the process that connected the packet's socket by TCP; 0 where that is not known, or it has ended.
#[inline(always)]
pub fn connected(ctx: &SkBuffContext) -> Address {
    // SAFETY: the helper takes the context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.skb.skb.cast()) };
    let Some(connected) = CONNECTED.get(place(cookie)) else {
        return 0;
    };
    let Connected { leader, proof } = *connected;
    if kernel::start_ns(leader) ^ cookie != proof {
        return 0;
    }
    // Another thread that starts a program becomes the first.
    let leader = kernel::leader(leader);
    if kernel::is_reaped(leader) { 0 } else { leader }
}

/// The running thread, if it is that which sends the packet; else 0.
///
/// A thread that sends holds the socket, and no timer and no packet from the other end sends meanwhile. But whoever holds it sends what waits, a kernel
/// thread too; and what was sent before and waited somewhere else can pass here in whatever thread lets it go on. So it has to be a process's, in the cgroup
/// that the socket was made in.
#[inline(always)]
pub fn sender(ctx: &SkBuffContext, sk: *mut bpf_sock) -> Address {
    let owned = offset!(sock_lock_owned);
    if !present(owned) {
        return 0;
    }
    // SAFETY: the socket is the kernel's.
    let tcp = unsafe { bpf_skc_to_tcp_sock(sk.cast()) };
    if tcp.is_null() || kernel::read::<u32>(tcp as Address, owned) == 0 {
        return 0;
    }
    let task = kernel::current_task();
    // SAFETY: the helper takes the context.
    let made_in = unsafe { bpf_skb_cgroup_id(ctx.skb.skb) };
    if kernel::cgroup_id_of_v2(task) == made_in && !kernel::is_kernel_thread(task) {
        task
    } else {
        0
    }
}

/// Notes who asks a DNS server by a socket: whoever `act`s.
#[inline(always)]
pub fn note_asking(ctx: &SockAddrContext, act: &Act, is_own: bool) {
    // SAFETY: the kernel hands over a valid context; its socket is never null.
    let owner: *mut Owner = unsafe {
        let sk = core::ptr::read_volatile(&raw const (*ctx.sock_addr).__bindgen_anon_1.sk);
        bpf_sk_storage_get(
            (&raw const SOCKETS).cast_mut().cast(),
            sk.cast(),
            core::ptr::null_mut(),
            BPF_SK_STORAGE_GET_F_CREATE.into(),
        )
        .cast()
    };
    if owner.is_null() {
        emit::count(Kind::Dns, Outcome::Passed);
        emit::lose(ctx, Kind::Dns, Outcome::MapFull);
        return;
    }
    let mut header = MaybeUninit::uninit();
    // SAFETY: the map's value is valid while the program runs, and not null; all of the header is filled. Copied at once, because another processor
    // may be reading it for a packet: two processes can share a socket.
    unsafe {
        act.fill(header.as_mut_ptr(), Kind::Dns, 0);
        *owner = Owner {
            header: header.assume_init(),
            is_own: u32::from(is_own),
            reserved: 0,
        };
    }
}

/// Who asked a DNS server by the packet's socket; null where nobody was seen to.
#[inline(always)]
pub fn asking(ctx: &SkBuffContext) -> *const Owner {
    let sk = full(ctx);
    if sk.is_null() {
        return core::ptr::null();
    }
    // SAFETY: the socket is the kernel's, and the map is a storage of sockets.
    unsafe {
        bpf_sk_storage_get(
            (&raw const SOCKETS).cast_mut().cast(),
            sk.cast(),
            core::ptr::null_mut(),
            0,
        )
        .cast()
    }
}

/// A packet's socket; null where it has none. It may be a request for one.
#[inline(always)]
pub fn any(ctx: &SkBuffContext) -> *mut bpf_sock {
    // SAFETY: the kernel hands over a valid context. Volatile, because it allows only loads of a whole field.
    unsafe { core::ptr::read_volatile(&raw const (*ctx.skb.skb).__bindgen_anon_2.sk) }
}

/// A packet's socket, where it has one that is more than a request for one; null else.
#[inline(always)]
pub fn full(ctx: &SkBuffContext) -> *mut bpf_sock {
    let sk = any(ctx);
    if sk.is_null() {
        return sk;
    }
    // SAFETY: not null, so the kernel's.
    unsafe { bpf_sk_fullsock(sk) }
}

/// A packet's socket, where that is a stream's: a raw one can speak of TCP, too.
#[inline(always)]
pub fn stream(ctx: &SkBuffContext) -> *mut bpf_sock {
    /// `SOCK_STREAM`
    const STREAM: u32 = 1;
    let sk = full(ctx);
    // SAFETY: the kernel's where it is not null. Volatile, because it allows only loads of a whole field.
    if !sk.is_null() && unsafe { core::ptr::read_volatile(&raw const (*sk).type_) } == STREAM {
        sk
    } else {
        core::ptr::null_mut()
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
