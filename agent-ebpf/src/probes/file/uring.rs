//! Hooks: the raw tracepoints io_uring_submit_req (io_uring_submit_sqe before 6.3) and io_uring_complete.
//! Records out: [`saker_ebpf::wire::Open`], as by the system calls openat and openat2.
//!
//! No system call opens what a ring is asked to open. A request is noted when it is submitted, by its address, and reported
//! when it completes: in the process that asked, by then with the descriptor. A request whose completion nobody wants to hear
//! of is reported when it is submitted, as an attempt. Both fire for every request of every ring, so they are attached only
//! where opens are wanted.

use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use saker_ebpf::wire::Kind;
use saker_ebpf::wire::file::{SYSCALL_OPENAT, SYSCALL_OPENAT2};

use super::finish::{self, Ending, Scratch};
use crate::emit::{self, Outcome};
use crate::kernel::{self, Address};
use crate::maps::{OPEN_PENDING, OpenCall};
use crate::settings::offset;

const IORING_OP_OPENAT: u8 = 18;
const IORING_OP_OPENAT2: u8 = 28;

/// `IOSQE_CQE_SKIP_SUCCESS`, the same bit in the request's flags.
const NO_COMPLETION: u32 = 1 << 6;

/// Beside the `OPEN_*` bits of a call that is noted: what it opens gets no descriptor, so that its result is none.
const NO_DESCRIPTOR: u32 = 1 << 31;

/// The kernel adds it to every open.
const O_LARGEFILE: u64 = 0o10_0000;

/// `TP_PROTO(struct io_kiocb *req)`, before 6.3 with a second argument.
#[raw_tracepoint(tracepoint = "io_uring_submit_req")]
pub fn saker_uring_submit(ctx: RawTracePointContext) -> i32 {
    let request: Address = ctx.arg(0);
    let opcode: u8 = kernel::read(request, offset!(uring_opcode));
    let syscall = match opcode {
        IORING_OP_OPENAT => SYSCALL_OPENAT,
        IORING_OP_OPENAT2 => SYSCALL_OPENAT2,
        _ => return 0,
    };
    let task = kernel::current_task();
    if super::is_own(task) {
        return 0;
    }
    let open = request.wrapping_add(u64::from(offset!(uring_command)));
    let name: Address = kernel::read(open, offset!(uring_open_filename));
    let slot: u32 = kernel::read(open, offset!(uring_open_slot));
    let flags: u64 = kernel::read(open, offset!(uring_open_flags));
    let mode: u64 = kernel::read(open, offset!(uring_open_mode));
    let call = OpenCall {
        path: kernel::read(name, offset!(filename_user)),
        open_flags: flags & !O_LARGEFILE,
        resolve: kernel::read(open, offset!(uring_open_resolve)),
        mode: mode as u32,
        dfd: kernel::read(open, offset!(uring_open_dfd)),
        syscall,
        flags: if slot == 0 { 0 } else { NO_DESCRIPTOR },
    };
    let request_flags: u32 = kernel::read(request, offset!(uring_flags));
    if request_flags & NO_COMPLETION != 0 {
        finish::finish(&ctx, task, Ending::Unknown, Scratch::Submit, || call);
        return 0;
    }
    if OPEN_PENDING.insert(request, call, 0).is_err() {
        emit::count(Kind::Open, Outcome::Passed);
        emit::lose(&ctx, Kind::Open, Outcome::MapFull);
    }
    0
}

/// `TP_PROTO(struct io_ring_ctx *ctx, void *req, ...)`. A request's address is its own until it has completed. Threads have keys
/// of their own in the map: no thread's number is an address of the kernel's.
#[raw_tracepoint(tracepoint = "io_uring_complete")]
pub fn saker_uring_complete(ctx: RawTracePointContext) -> i32 {
    let request: Address = ctx.arg(1);
    // SAFETY: nobody else uses the request's key before its completion.
    let Some(call) = (unsafe { OPEN_PENDING.get(request) }).copied() else {
        return 0;
    };
    let _ = OPEN_PENDING.remove(request);
    let result: i32 = kernel::read(request, offset!(uring_result));
    let ending = if call.flags & NO_DESCRIPTOR == 0 {
        Ending::Descriptor(result)
    } else {
        Ending::Result(result)
    };
    finish::finish(
        &ctx,
        kernel::current_task(),
        ending,
        Scratch::Complete,
        || OpenCall {
            flags: call.flags & !NO_DESCRIPTOR,
            ..call
        },
    );
    0
}
