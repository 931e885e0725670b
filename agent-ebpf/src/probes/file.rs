//! Hooks: fexit of the functions behind open, openat, openat2 and creat (`functions`); or the tracepoints sys_exit_* of open, openat, openat2 and creat, alone or with their sys_enter_*.
//! Records out: [`saker_ebpf::wire::Open`].
//!
//! What io_uring opens is for `uring`.
//!
//! Any syscall tracepoint makes every system call a little slower, so the loader attaches these only when a rule asks
//! for opens, and only where fexit is refused. Since 5.15 a program can ask for the registers that the task entered the kernel with, and the end of the
//! call is all that is needed: its arguments are still there, and so is the file that it opened. On older kernels the
//! entry keeps the arguments in a map. What is reported, and how it is named, is for `finish`.

mod finish;
mod functions;
mod name;
mod uring;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::{
    bpf_get_current_task_btf, bpf_probe_read_user, bpf_task_pt_regs,
};
use aya_ebpf::macros::tracepoint;
use aya_ebpf::programs::TracePointContext;
use saker_ebpf::wire::Kind;
use saker_ebpf::wire::file::{
    OPEN_HOW_FAULT, SYSCALL_CREAT, SYSCALL_OPEN, SYSCALL_OPENAT, SYSCALL_OPENAT2,
};

use crate::emit::{self, Outcome};
use crate::kernel;
use crate::maps::{OPEN_PENDING, OpenCall};
use crate::settings::{self, offset};

use finish::{Ending, Opened, Scratch};

const AT_FDCWD: i32 = -100;
/// `O_CREAT | O_WRONLY | O_TRUNC`, which is what creat is.
const CREAT_FLAGS: u64 = 0o1101;

/// Argument `at` of a system call, or at 0 of an exit tracepoint its result: both formats put a common header of
/// 8 bytes and the call's number before.
#[inline(always)]
pub fn syscall_argument(ctx: &TracePointContext, at: usize) -> u64 {
    // SAFETY: within the context of every syscall tracepoint; the verifier checks the bound.
    unsafe { core::ptr::read_volatile(ctx.as_ptr().cast::<u64>().add(2 + at)) }
}

/// `int open(const char *path, int flags, mode_t mode)`
#[inline(always)]
fn open_call(argument: impl Fn(usize) -> u64) -> OpenCall {
    OpenCall {
        path: argument(0),
        open_flags: u64::from(argument(1) as u32),
        resolve: 0,
        mode: argument(2) as u32,
        dfd: AT_FDCWD,
        syscall: SYSCALL_OPEN,
        flags: 0,
    }
}

/// `int creat(const char *path, mode_t mode)`
#[inline(always)]
fn creat_call(argument: impl Fn(usize) -> u64) -> OpenCall {
    OpenCall {
        path: argument(0),
        open_flags: CREAT_FLAGS,
        resolve: 0,
        mode: argument(1) as u32,
        dfd: AT_FDCWD,
        syscall: SYSCALL_CREAT,
        flags: 0,
    }
}

/// `int openat(int dfd, const char *path, int flags, mode_t mode)`
#[inline(always)]
fn openat_call(argument: impl Fn(usize) -> u64) -> OpenCall {
    OpenCall {
        path: argument(1),
        open_flags: u64::from(argument(2) as u32),
        resolve: 0,
        mode: argument(3) as u32,
        dfd: argument(0) as i32,
        syscall: SYSCALL_OPENAT,
        flags: 0,
    }
}

/// `struct open_how` of openat2.
#[derive(Clone, Copy)]
#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// `int openat2(int dfd, const char *path, struct open_how *how, size_t size)`
#[inline(always)]
fn openat2_call(argument: impl Fn(usize) -> u64) -> OpenCall {
    let mut how = core::mem::MaybeUninit::<OpenHow>::zeroed();
    // SAFETY: the helper writes at most the size of `how`, of which every byte pattern is a value.
    let (how, status) = unsafe {
        let status = bpf_probe_read_user(
            how.as_mut_ptr().cast(),
            size_of::<OpenHow>() as u32,
            argument(2) as *const _,
        );
        (how.assume_init(), status)
    };
    OpenCall {
        path: argument(1),
        open_flags: how.flags,
        resolve: how.resolve,
        mode: how.mode as u32,
        dfd: argument(0) as i32,
        syscall: SYSCALL_OPENAT2,
        flags: if status == 0 { 0 } else { OPEN_HOW_FAULT },
    }
}

/// A call by its arguments.
#[inline(always)]
fn call(syscall: u32, argument: impl Fn(usize) -> u64) -> OpenCall {
    match syscall {
        SYSCALL_OPEN => open_call(argument),
        SYSCALL_CREAT => creat_call(argument),
        SYSCALL_OPENAT => openat_call(argument),
        _ => openat2_call(argument),
    }
}

#[tracepoint(category = "syscalls", name = "sys_exit_open")]
pub fn saker_end_open(ctx: TracePointContext) -> u32 {
    end::<SYSCALL_OPEN>(&ctx)
}

#[tracepoint(category = "syscalls", name = "sys_exit_creat")]
pub fn saker_end_creat(ctx: TracePointContext) -> u32 {
    end::<SYSCALL_CREAT>(&ctx)
}

#[tracepoint(category = "syscalls", name = "sys_exit_openat")]
pub fn saker_end_openat(ctx: TracePointContext) -> u32 {
    end::<SYSCALL_OPENAT>(&ctx)
}

#[tracepoint(category = "syscalls", name = "sys_exit_openat2")]
pub fn saker_end_openat2(ctx: TracePointContext) -> u32 {
    end::<SYSCALL_OPENAT2>(&ctx)
}

/// A call that ends, its arguments still in the registers that it came with.
#[inline(always)]
fn end<const SYSCALL: u32>(ctx: &TracePointContext) -> u32 {
    let result = syscall_argument(ctx, 0) as i32;
    let task = kernel::current_task();
    let opened = Opened::of(task, Ending::Descriptor(result));
    if !opened.is_decided(Scratch::Tracepoint) {
        end_undecided::<SYSCALL>(ctx, task, opened.res, opened.file);
    }
    0
}

/// A function of its own: what it needs of the stack, and to save of registers, is no business of nearly all opens, which do not come here.
#[inline(never)]
fn end_undecided<const SYSCALL: u32>(
    ctx: &TracePointContext,
    task: kernel::Address,
    res: i32,
    file: kernel::Address,
) {
    finish::finish_undecided(
        ctx,
        task,
        Opened { res, file },
        Scratch::Tracepoint,
        None,
        || {
            // SAFETY: takes the running task, which is what the first helper gives.
            let registers =
                unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) } as kernel::Address;
            call(SYSCALL, |at| argument(registers, at))
        },
    );
}

/// Argument `at` of a 64-bit call, in the registers that it came with.
#[inline(always)]
fn argument(registers: kernel::Address, at: usize) -> u64 {
    let offset = match at {
        0 => offset!(registers_first),
        1 => offset!(registers_second),
        2 => offset!(registers_third),
        _ => offset!(registers_fourth),
    };
    kernel::read(registers, offset)
}

#[tracepoint(category = "syscalls", name = "sys_enter_open")]
pub fn saker_enter_open(ctx: TracePointContext) -> u32 {
    enter(&ctx, SYSCALL_OPEN)
}

#[tracepoint(category = "syscalls", name = "sys_enter_creat")]
pub fn saker_enter_creat(ctx: TracePointContext) -> u32 {
    enter(&ctx, SYSCALL_CREAT)
}

#[tracepoint(category = "syscalls", name = "sys_enter_openat")]
pub fn saker_enter_openat(ctx: TracePointContext) -> u32 {
    enter(&ctx, SYSCALL_OPENAT)
}

#[tracepoint(category = "syscalls", name = "sys_enter_openat2")]
pub fn saker_enter_openat2(ctx: TracePointContext) -> u32 {
    enter(&ctx, SYSCALL_OPENAT2)
}

#[inline(always)]
fn enter(ctx: &TracePointContext, syscall: u32) -> u32 {
    if is_own(kernel::current_task()) {
        return 0;
    }
    // One argument too many, and the kernel refuses to attach: a tracepoint's context is as long as its call's arguments.
    let call = call(syscall, |at| syscall_argument(ctx, at));
    if OPEN_PENDING
        .insert(bpf_get_current_pid_tgid(), call, 0)
        .is_err()
    {
        emit::count(Kind::Open, Outcome::Passed);
        emit::lose(ctx, Kind::Open, Outcome::MapFull);
    }
    0
}

#[tracepoint(category = "syscalls", name = "sys_exit_open")]
pub fn saker_exit_open(ctx: TracePointContext) -> u32 {
    exit(&ctx)
}

#[tracepoint(category = "syscalls", name = "sys_exit_creat")]
pub fn saker_exit_creat(ctx: TracePointContext) -> u32 {
    exit(&ctx)
}

#[tracepoint(category = "syscalls", name = "sys_exit_openat")]
pub fn saker_exit_openat(ctx: TracePointContext) -> u32 {
    exit(&ctx)
}

#[tracepoint(category = "syscalls", name = "sys_exit_openat2")]
pub fn saker_exit_openat2(ctx: TracePointContext) -> u32 {
    exit(&ctx)
}

/// A call that ends and whose entry was seen.
#[inline(always)]
fn exit(ctx: &TracePointContext) -> u32 {
    let thread = bpf_get_current_pid_tgid();
    // SAFETY: only this thread uses its key, and it is here.
    let Some(call) = (unsafe { OPEN_PENDING.get(thread) }).copied() else {
        return 0;
    };
    let _ = OPEN_PENDING.remove(thread);
    let result = syscall_argument(ctx, 0) as i32;
    finish::finish(
        ctx,
        kernel::current_task(),
        Ending::Descriptor(result),
        Scratch::Tracepoint,
        || call,
    );
    0
}

/// Is this the agent's own call? It is counted once also where entry and end are seen: its end finds nothing in the map.
#[inline(always)]
fn is_own(task: kernel::Address) -> bool {
    let own = settings::is_own(kernel::tgid(task));
    if own {
        emit::count(Kind::Open, Outcome::Filtered);
    }
    own
}
