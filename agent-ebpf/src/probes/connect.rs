//! Hooks: cgroup connect4 and connect6 at the root cgroup; in their place the tracepoints sys_enter_connect and
//! sys_exit_connect. Records out: [`Connect`].
//! The cgroup hooks also note who owns a socket, for the programs that see packets.
//!
//! The cgroup hooks see the kernel's own copy of the address before the attempt, io_uring included, and cost other
//! system calls nothing. The tracepoints see the caller's memory and the result. Addresses are reported as given: the
//! agent turns IPv4-mapped ones into IPv4.

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::bpf_probe_read_user;
use aya_ebpf::macros::{cgroup_sock_addr, tracepoint};
use aya_ebpf::programs::{SockAddrContext, TracePointContext};
use saker_ebpf::wire::connect::{
    FAMILY_INET, FAMILY_INET6, HOOK_CGROUP, HOOK_SYSCALL, RES_ATTEMPT,
};
use saker_ebpf::wire::{Connect, Kind};

use crate::emit::{self, Outcome};
use crate::kernel::{self, Act};
use crate::maps::{CONNECT_PENDING, ConnectPending};
use crate::probes::file::syscall_argument;
use crate::probes::sockets::{self, IPPROTO_TCP, PORT_DNS};
use crate::probes::tls;
use crate::settings;

/// What the kernel takes for "go on".
pub const ALLOW: i32 = 1;

#[cgroup_sock_addr(connect4)]
pub fn saker_connect4(ctx: SockAddrContext) -> i32 {
    attempt(&ctx, FAMILY_INET, inet(&ctx));
    ALLOW
}

#[cgroup_sock_addr(connect6)]
pub fn saker_connect6(ctx: SockAddrContext) -> i32 {
    attempt(&ctx, FAMILY_INET6, inet6(&ctx));
    ALLOW
}

#[inline(always)]
fn attempt(ctx: &SockAddrContext, family: u16, address: [u32; 4]) {
    let is_own = settings::is_own(kernel::current_tgid());
    let (protocol, port) = sockets::protocol_and_port(ctx);
    let now = settings::now();
    let is_beginning = now.wants(Kind::Tls) && protocol == IPPROTO_TCP;
    let is_question = now.wants(Kind::Dns) && port == PORT_DNS;
    let is_wanted = now.wants(Kind::Connect) && !is_own;
    if now.wants(Kind::Connect) && is_own {
        emit::count(Kind::Connect, Outcome::Filtered);
    }
    if is_beginning {
        tls::connecting(ctx);
    }
    if !is_question && !is_wanted {
        return;
    }
    let act = Act::begin();
    if is_question {
        sockets::note_asking(ctx, &act, is_own);
    }
    if is_wanted {
        report(ctx, Kind::Connect, &act, family, address);
    }
}

/// Writes a [`Connect`] record.
#[inline(always)]
pub fn report(ctx: &SockAddrContext, kind: Kind, act: &Act, family: u16, address: [u32; 4]) {
    let sock_addr: *const bpf_sock_addr = ctx.sock_addr;
    // SAFETY: the kernel hands over a valid context. Volatile, because it allows only loads of a whole field.
    let (port, socket_type, protocol) = unsafe {
        (
            core::ptr::read_volatile(&raw const (*sock_addr).user_port),
            core::ptr::read_volatile(&raw const (*sock_addr).type_),
            core::ptr::read_volatile(&raw const (*sock_addr).protocol),
        )
    };
    let Some(mut entry) = emit::reserve_share::<Connect>(ctx, kind, act.cgroup_id, act.moment)
    else {
        return;
    };
    let connect = entry.as_mut_ptr();
    // SAFETY: the ring gave room for a `Connect`; `address` has the address's bytes in network order as they are.
    unsafe {
        act.fill(
            &raw mut (*connect).header,
            kind,
            size_of::<Connect>() as u32,
        );
        (*connect).address = core::mem::transmute::<[u32; 4], [u8; 16]>(address);
        (*connect).family = family;
        (*connect).port = u16::from_be(port as u16);
        (*connect).protocol = protocol as u16;
        (*connect).socket_type = socket_type as u16;
        (*connect).res = RES_ATTEMPT;
        (*connect).hook = HOOK_CGROUP;
    }
    emit::submit(kind, entry);
}

/// The address that the caller names, IPv6.
#[inline(always)]
pub fn inet6(ctx: &SockAddrContext) -> [u32; 4] {
    // SAFETY: as above.
    unsafe {
        let words = (&raw const (*ctx.sock_addr).user_ip6).cast::<u32>();
        [
            core::ptr::read_volatile(words),
            core::ptr::read_volatile(words.add(1)),
            core::ptr::read_volatile(words.add(2)),
            core::ptr::read_volatile(words.add(3)),
        ]
    }
}

/// The address that the caller names, IPv4.
#[inline(always)]
pub fn inet(ctx: &SockAddrContext) -> [u32; 4] {
    // SAFETY: as above.
    let address = unsafe { core::ptr::read_volatile(&raw const (*ctx.sock_addr).user_ip4) };
    [address, 0, 0, 0]
}

/// In a [`ConnectPending`]: neither IPv4 nor IPv6.
const FAMILY_OTHER: u16 = u16::MAX;

const EFAULT: i32 = -14;

/// `struct sockaddr_in` and `sockaddr_in6`, as far as both are the same and then some.
#[derive(Clone, Copy)]
#[repr(C)]
struct SocketAddress {
    family: u16,
    port: [u8; 2],
    /// IPv4: the address. IPv6: the flow label.
    first: [u8; 4],
    /// IPv6: the address.
    rest: [u8; 16],
}

impl ConnectPending {
    /// Reads the address that the caller keeps there. Its family stays 0 where that is not possible.
    #[inline(always)]
    fn read(given: u64) -> Self {
        let mut pending = Self {
            given,
            address: [0; 16],
            family: 0,
            port: 0,
            reserved: 0,
        };
        let mut there = core::mem::MaybeUninit::<SocketAddress>::zeroed();
        // A family of two bytes decides how much to read: an IPv4 address may end at its last byte of readable memory.
        // SAFETY: the helper writes at most the size given to `there`, whose every byte pattern is a value.
        let there = unsafe {
            let mut status = bpf_probe_read_user(there.as_mut_ptr().cast(), 8, given as *const _);
            if status == 0 && (*there.as_ptr()).family == FAMILY_INET6 {
                status = bpf_probe_read_user(
                    there.as_mut_ptr().cast(),
                    size_of::<SocketAddress>() as u32,
                    given as *const _,
                );
            }
            if status != 0 {
                return pending;
            }
            there.assume_init()
        };
        pending.port = u16::from_be_bytes(there.port);
        pending.family = match there.family {
            FAMILY_INET => {
                let [a, b, c, d] = there.first;
                pending.address = [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                FAMILY_INET
            }
            FAMILY_INET6 => {
                pending.address = there.rest;
                FAMILY_INET6
            }
            _ => FAMILY_OTHER,
        };
        pending
    }
}

/// `int connect(int fd, const struct sockaddr *address, int length)`
#[tracepoint(category = "syscalls", name = "sys_enter_connect")]
pub fn saker_enter_connect(ctx: TracePointContext) -> u32 {
    let thread = bpf_get_current_pid_tgid();
    if settings::is_own((thread >> 32) as u32) {
        emit::count(Kind::Connect, Outcome::Filtered);
        return 0;
    }
    let pending = ConnectPending::read(syscall_argument(&ctx, 1));
    if pending.family == FAMILY_OTHER {
        emit::count(Kind::Connect, Outcome::Filtered);
        return 0;
    }
    // Memory that could not be read yet is read again at the end: the kernel will have fetched it until then.
    if CONNECT_PENDING.insert(thread, pending, 0).is_err() {
        emit::count(Kind::Connect, Outcome::Passed);
        emit::lose(&ctx, Kind::Connect, Outcome::MapFull);
    }
    0
}

/// The call's end. A thread that never comes back from connect (it was killed in it) leaves its entry behind; the
/// thread id's next user overwrites it.
#[tracepoint(category = "syscalls", name = "sys_exit_connect")]
pub fn saker_exit_connect(ctx: TracePointContext) -> u32 {
    let thread = bpf_get_current_pid_tgid();
    // SAFETY: only this thread uses the key, and it is here.
    let Some(pending) = (unsafe { CONNECT_PENDING.get(thread) }).copied() else {
        return 0;
    };
    // Only this thread uses the key, so it is there; were it not, nothing would have to be done.
    let _ = CONNECT_PENDING.remove(thread);
    let result = syscall_argument(&ctx, 0) as i32;
    if pending.family != 0 {
        ended(&ctx, &pending, result);
        return 0;
    }
    let again = ConnectPending::read(pending.given);
    if result == EFAULT || again.family == FAMILY_OTHER {
        // Nothing that the kernel could connect to, or nobody's business.
        emit::count(Kind::Connect, Outcome::Filtered);
    } else if again.family == 0 {
        // The kernel has read what is gone by now.
        emit::count(Kind::Connect, Outcome::Passed);
        emit::lose(&ctx, Kind::Connect, Outcome::ReadFault);
    } else {
        ended(&ctx, &again, result);
    }
    0
}

#[inline(always)]
fn ended(ctx: &TracePointContext, pending: &ConnectPending, result: i32) {
    let act = Act::begin();
    let kind = Kind::Connect;
    let Some(mut entry) = emit::reserve_share::<Connect>(ctx, kind, act.cgroup_id, act.moment)
    else {
        return;
    };
    let connect = entry.as_mut_ptr();
    // SAFETY: the ring gave room for a `Connect`.
    unsafe {
        act.fill(
            &raw mut (*connect).header,
            kind,
            size_of::<Connect>() as u32,
        );
        (*connect).address = pending.address;
        (*connect).family = pending.family;
        (*connect).port = pending.port;
        (*connect).protocol = 0;
        (*connect).socket_type = 0;
        (*connect).res = result;
        (*connect).hook = HOOK_SYSCALL;
    }
    emit::submit(kind, entry);
}
