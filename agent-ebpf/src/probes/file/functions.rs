//! Hooks: fexit of the functions behind open, openat, openat2 and creat, of 64-bit and of 32-bit calls.
//! Records out: [`saker_ebpf::wire::Open`].
//!
//! A program at a function costs the other system calls nothing, which no tracepoint of a call can say. And it sees the calls that
//! 32-bit programs make, or any program by `int 0x80`: the tracepoints leave them out.
//!
//! Each of these functions has one argument, the registers that the task came with. A program can be interrupted here by another one
//! on its CPU, though not by itself: each has a scratch of its own, and what the kernel leaves out for that reason it counts.

use aya_ebpf::macros::fexit;
use aya_ebpf::programs::FExitContext;
use saker_ebpf::wire::file::{SYSCALL_CREAT, SYSCALL_OPEN, SYSCALL_OPENAT, SYSCALL_OPENAT2};

use super::finish::{self, Ending, Scratch};
use crate::kernel::{self, Address};
use crate::maps::OpenCall;
use crate::settings::offset;

#[fexit(function = "__x64_sys_open")]
pub fn saker_function_open(ctx: FExitContext) -> i32 {
    end(&ctx, SYSCALL_OPEN, Scratch::Open)
}

#[fexit(function = "__x64_sys_creat")]
pub fn saker_function_creat(ctx: FExitContext) -> i32 {
    end(&ctx, SYSCALL_CREAT, Scratch::Creat)
}

#[fexit(function = "__x64_sys_openat")]
pub fn saker_function_openat(ctx: FExitContext) -> i32 {
    end(&ctx, SYSCALL_OPENAT, Scratch::Openat)
}

#[fexit(function = "__x64_sys_openat2")]
pub fn saker_function_openat2(ctx: FExitContext) -> i32 {
    end(&ctx, SYSCALL_OPENAT2, Scratch::Openat2)
}

#[fexit(function = "__ia32_compat_sys_open")]
pub fn saker_function_open32(ctx: FExitContext) -> i32 {
    end32(&ctx, SYSCALL_OPEN, Scratch::Open32)
}

#[fexit(function = "__ia32_sys_creat")]
pub fn saker_function_creat32(ctx: FExitContext) -> i32 {
    end32(&ctx, SYSCALL_CREAT, Scratch::Creat32)
}

#[fexit(function = "__ia32_compat_sys_openat")]
pub fn saker_function_openat32(ctx: FExitContext) -> i32 {
    end32(&ctx, SYSCALL_OPENAT, Scratch::Openat32)
}

#[fexit(function = "__ia32_sys_openat2")]
pub fn saker_function_openat2_32(ctx: FExitContext) -> i32 {
    end32(&ctx, SYSCALL_OPENAT2, Scratch::Openat2_32)
}

/// A 64-bit call that ends.
#[inline(always)]
fn end(ctx: &FExitContext, syscall: u32, scratch: Scratch) -> i32 {
    let registers: Address = ctx.arg(0);
    finish(ctx, scratch, || {
        super::call(syscall, |at| super::argument(registers, at))
    })
}

/// A 32-bit call that ends: other registers, of which the lower halves count.
#[inline(always)]
fn end32(ctx: &FExitContext, syscall: u32, scratch: Scratch) -> i32 {
    let registers: Address = ctx.arg(0);
    finish(ctx, scratch, || {
        super::call(syscall, |at| {
            let offset = match at {
                0 => offset!(registers_first32),
                1 => offset!(registers_second32),
                2 => offset!(registers_third),
                _ => offset!(registers_second),
            };
            let value: u64 = kernel::read(registers, offset);
            value & u64::from(u32::MAX)
        })
    })
}

#[inline(always)]
fn finish(ctx: &FExitContext, scratch: Scratch, call: impl FnOnce() -> OpenCall) -> i32 {
    // Behind the arguments stands what the function returned.
    let result: u64 = ctx.arg(1);
    finish::finish(
        ctx,
        kernel::current_task(),
        Ending::Descriptor(result as i32),
        scratch,
        call,
    );
    0
}
