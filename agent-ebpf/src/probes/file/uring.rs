//! Hooks: the raw tracepoints io_uring_submit_req (io_uring_submit_sqe before 6.3) and io_uring_complete.
//! Records out: [`saker_ebpf::wire::Open`], as by the system calls openat and openat2.
//!
//! No system call opens what a ring is asked to open. A request is noted when it is submitted, by its address, and reported
//! when it completes: in the process that asked, by then with the descriptor. The path is noted too, the kernel's copy that is what
//! will be opened, and which is gone by then. A request whose completion nobody wants to hear of is reported when it is submitted,
//! as an attempt; so is one that finds no room. Both fire for every request of every ring, so they are attached only where opens
//! are wanted.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use saker_ebpf::wire::file::{SYSCALL_OPENAT, SYSCALL_OPENAT2};

use super::finish::{self, Ending, Scratch};
use crate::kernel::{self, Address};
use crate::maps::{OPEN_TEXT_BYTES, OpenCall, URING_OPENS, URING_SCRATCH};
use crate::settings::offset;

const IORING_OP_OPENAT: u8 = 18;
const IORING_OP_OPENAT2: u8 = 28;

/// `IOSQE_CQE_SKIP_SUCCESS`, the same bit in the request's flags.
const NO_COMPLETION: u32 = 1 << 6;

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
    let Some(kept) = URING_SCRATCH.get_ptr_mut(0) else {
        return 0;
    };
    let open = request.wrapping_add(u64::from(offset!(uring_command)));
    let filename: Address = kernel::read(open, offset!(uring_open_filename));
    let slot: u32 = kernel::read(open, offset!(uring_open_slot));
    let flags: u64 = kernel::read(open, offset!(uring_open_flags));
    let mode: u64 = kernel::read(open, offset!(uring_open_mode));
    let request_flags: u32 = kernel::read(request, offset!(uring_flags));
    // SAFETY: the map's value is a `UringOpen`, nobody else's on this CPU while the program runs.
    unsafe {
        (*kept).call = OpenCall {
            path: 0,
            open_flags: flags & !O_LARGEFILE,
            resolve: kernel::read(open, offset!(uring_open_resolve)),
            mode: mode as u32,
            dfd: kernel::read(open, offset!(uring_open_dfd)),
            syscall,
            flags: 0,
        };
        (*kept).slot = slot;
        (*kept).reserved = 0;
        (*kept).read_status = bpf_probe_read_kernel_str(
            (&raw mut (*kept).path).cast(),
            OPEN_TEXT_BYTES as u32,
            kernel::file_name(filename) as *const _,
        );
        let is_completed = request_flags & NO_COMPLETION == 0;
        if !is_completed || URING_OPENS.insert(request, &*kept, 0).is_err() {
            finish::finish_kept(&ctx, task, Ending::Unknown, Scratch::Submit, kept);
        }
    }
    0
}

/// `TP_PROTO(struct io_ring_ctx *ctx, void *req, ...)`. A request's address is its own until it has completed.
#[raw_tracepoint(tracepoint = "io_uring_complete")]
pub fn saker_uring_complete(ctx: RawTracePointContext) -> i32 {
    let request: Address = ctx.arg(1);
    let Some(kept) = URING_OPENS.get_ptr(request) else {
        return 0;
    };
    let result: i32 = kernel::read(request, offset!(uring_result));
    let task = kernel::current_task();
    // SAFETY: nobody else uses the request's key before its completion, so the value is there until it is removed below.
    unsafe {
        let ending = if (*kept).slot == 0 {
            Ending::Descriptor(result)
        } else {
            Ending::Result(result)
        };
        finish::finish_kept(&ctx, task, ending, Scratch::Complete, kept);
    }
    let _ = URING_OPENS.remove(request);
    0
}
