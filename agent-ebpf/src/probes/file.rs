//! Hooks: the tracepoints sys_enter_* and sys_exit_* of open, openat, openat2 and creat. Records out: [`Open`].
//!
//! Any syscall tracepoint makes every system call a little slower, so the loader attaches these only when a rule asks
//! for opens. The entry checks the path's first bytes and keeps the call in a map; the end adds the result. The path
//! is the caller's, as given: relative ones and detours (`/dev/../dev/x`) do not match a prefix, which is why devices
//! have a hook of their own.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::{bpf_probe_read_user, bpf_probe_read_user_str};
use aya_ebpf::macros::tracepoint;
use aya_ebpf::programs::TracePointContext;
use core::hint::black_box;
use saker_ebpf::config::OPEN_PREFIX_BYTES;
use saker_ebpf::wire::file::{
    OPEN_HOW_FAULT, OPEN_PATH_CUT, OPEN_PATH_LATE, SYSCALL_CREAT, SYSCALL_OPEN, SYSCALL_OPENAT,
    SYSCALL_OPENAT2,
};
use saker_ebpf::wire::{Kind, Open, PATH_BYTES_MAX};

use crate::emit::{self, Outcome};
use crate::kernel;
use crate::maps::{OPEN_PENDING, OPEN_SCRATCH, OpenScratch};
use crate::settings;

const AT_FDCWD: i32 = -100;
/// `O_CREAT | O_WRONLY | O_TRUNC`, which is what creat is.
const CREAT_FLAGS: u64 = 0o1101;
const EFAULT: i32 = -14;

/// A call as its entry sees it.
struct Call {
    syscall: u32,
    dfd: i32,
    path: u64,
    open_flags: u64,
    mode: u32,
    resolve: u64,
    flags: u32,
}

/// `struct open_how` of openat2.
#[derive(Clone, Copy)]
#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// Argument `at` of a system call, or at 0 of an exit tracepoint its result: both formats put a common header of
/// 8 bytes and the call's number before.
#[inline(always)]
pub fn syscall_argument(ctx: &TracePointContext, at: usize) -> u64 {
    use aya_ebpf::EbpfContext as _;
    // SAFETY: within the context of every syscall tracepoint; the verifier checks the bound.
    unsafe { core::ptr::read_volatile(ctx.as_ptr().cast::<u64>().add(2 + at)) }
}

/// `int open(const char *path, int flags, mode_t mode)`
#[tracepoint(category = "syscalls", name = "sys_enter_open")]
pub fn saker_enter_open(ctx: TracePointContext) -> u32 {
    let call = Call {
        syscall: SYSCALL_OPEN,
        dfd: AT_FDCWD,
        path: syscall_argument(&ctx, 0),
        open_flags: syscall_argument(&ctx, 1) as u32 as u64,
        mode: syscall_argument(&ctx, 2) as u32,
        resolve: 0,
        flags: 0,
    };
    enter(&ctx, &call)
}

/// `int creat(const char *path, mode_t mode)`
#[tracepoint(category = "syscalls", name = "sys_enter_creat")]
pub fn saker_enter_creat(ctx: TracePointContext) -> u32 {
    let call = Call {
        syscall: SYSCALL_CREAT,
        dfd: AT_FDCWD,
        path: syscall_argument(&ctx, 0),
        open_flags: CREAT_FLAGS,
        mode: syscall_argument(&ctx, 1) as u32,
        resolve: 0,
        flags: 0,
    };
    enter(&ctx, &call)
}

/// `int openat(int dfd, const char *path, int flags, mode_t mode)`
#[tracepoint(category = "syscalls", name = "sys_enter_openat")]
pub fn saker_enter_openat(ctx: TracePointContext) -> u32 {
    let call = Call {
        syscall: SYSCALL_OPENAT,
        dfd: syscall_argument(&ctx, 0) as i32,
        path: syscall_argument(&ctx, 1),
        open_flags: syscall_argument(&ctx, 2) as u32 as u64,
        mode: syscall_argument(&ctx, 3) as u32,
        resolve: 0,
        flags: 0,
    };
    enter(&ctx, &call)
}

/// `int openat2(int dfd, const char *path, struct open_how *how, size_t size)`
#[tracepoint(category = "syscalls", name = "sys_enter_openat2")]
pub fn saker_enter_openat2(ctx: TracePointContext) -> u32 {
    let mut how = core::mem::MaybeUninit::<OpenHow>::zeroed();
    // SAFETY: the helper writes at most the size of `how`, of which every byte pattern is a value.
    let (how, status) = unsafe {
        let status = bpf_probe_read_user(
            how.as_mut_ptr().cast(),
            size_of::<OpenHow>() as u32,
            syscall_argument(&ctx, 2) as *const _,
        );
        (how.assume_init(), status)
    };
    let call = Call {
        syscall: SYSCALL_OPENAT2,
        dfd: syscall_argument(&ctx, 0) as i32,
        path: syscall_argument(&ctx, 1),
        open_flags: how.flags,
        mode: how.mode as u32,
        resolve: how.resolve,
        flags: if status == 0 { 0 } else { OPEN_HOW_FAULT },
    };
    enter(&ctx, &call)
}

#[inline(always)]
fn enter(ctx: &TracePointContext, call: &Call) -> u32 {
    let thread = bpf_get_current_pid_tgid();
    if settings::is_own((thread >> 32) as u32) {
        emit::count(Kind::Open, Outcome::Filtered);
        return 0;
    }
    let mut start = [0u64; OPEN_PREFIX_BYTES / 8];
    // SAFETY: the helper writes at most the size of `start`.
    let status = unsafe {
        bpf_probe_read_user_str(
            start.as_mut_ptr().cast(),
            OPEN_PREFIX_BYTES as u32,
            call.path as *const _,
        )
    };
    // A page that is not in memory yet (a program's first open of a literal) is read by the call itself, so at its end
    // the path can be read too, and is checked then.
    let is_late = status < 0;
    if !is_late && !settings::wants_path(&start) {
        emit::count(Kind::Open, Outcome::Filtered);
        return 0;
    }
    let Some(scratch) = OPEN_SCRATCH.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: the map's value is an `OpenScratch`; tracepoint programs do not interrupt each other on a CPU.
    unsafe {
        let open = &raw mut (*scratch).open;
        (*open).open_flags = call.open_flags;
        (*open).resolve = call.resolve;
        (*open).mode = call.mode;
        (*open).dfd = call.dfd;
        (*open).syscall = call.syscall;
        (*open).flags = call.flags;
        (*open).path_len = 0;
        (*scratch).path_address = call.path;
        if is_late {
            (*open).flags |= OPEN_PATH_LATE;
        } else {
            read_path(scratch, call.path);
        }
        if OPEN_PENDING.insert(thread, &*scratch, 0).is_err() {
            emit::count(Kind::Open, Outcome::Passed);
            emit::lose(ctx, Kind::Open, Outcome::MapFull);
        }
    }
    0
}

/// Reads the whole path; `false` when it is not to be read.
///
/// # Safety
/// `scratch` is the value of [`OPEN_SCRATCH`] or [`OPEN_PENDING`].
#[inline(always)]
unsafe fn read_path(scratch: *mut OpenScratch, address: u64) -> bool {
    // SAFETY: `path` has PATH_BYTES_MAX + 1 bytes.
    unsafe {
        let status = bpf_probe_read_user_str(
            (&raw mut (*scratch).path).cast(),
            PATH_BYTES_MAX as u32 + 1,
            address as *const _,
        );
        if status <= 0 {
            return false;
        }
        let length = status as u32 - 1;
        (*scratch).open.path_len = length;
        if length == PATH_BYTES_MAX as u32 {
            (*scratch).open.flags |= OPEN_PATH_CUT;
        }
        true
    }
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

#[inline(always)]
fn exit(ctx: &TracePointContext) -> u32 {
    let thread = bpf_get_current_pid_tgid();
    let Some(pending) = OPEN_PENDING.get_ptr_mut(thread) else {
        return 0;
    };
    let res = syscall_argument(ctx, 0) as i32;
    // SAFETY: the map's value is an `OpenScratch`, valid while the program runs; only this thread uses its key.
    unsafe {
        finish(ctx, pending, res);
    }
    let _ = OPEN_PENDING.remove(thread);
    0
}

#[inline(always)]
unsafe fn finish(ctx: &TracePointContext, pending: *mut OpenScratch, res: i32) {
    // SAFETY: the caller vouches for `pending`.
    unsafe {
        if (*pending).open.flags & OPEN_PATH_LATE != 0 {
            if !read_path(pending, (*pending).path_address) {
                // The kernel could not read it either: nothing was opened, and there is no name to report.
                if res == EFAULT {
                    emit::count(Kind::Open, Outcome::Filtered);
                } else {
                    emit::count(Kind::Open, Outcome::Passed);
                    emit::lose(ctx, Kind::Open, Outcome::ReadFault);
                }
                return;
            }
            #[expect(clippy::cast_ptr_alignment, reason = "`maps` asserts the alignment")]
            let start = (&raw const (*pending).path).cast::<[u64; 4]>().read();
            if !settings::wants_path(&start) {
                emit::count(Kind::Open, Outcome::Filtered);
                return;
            }
        }
        emit::count(Kind::Open, Outcome::Passed);
        (*pending).open.res = res;
        let length = black_box((*pending).open.path_len) & PATH_BYTES_MAX as u32;
        let size = size_of::<Open>() as u32 + length;
        kernel::fill_header(
            &raw mut (*pending).open.header,
            Kind::Open,
            size,
            kernel::current_task(),
        );
        emit::output(ctx, Kind::Open, pending.cast(), u64::from(size));
    }
}
