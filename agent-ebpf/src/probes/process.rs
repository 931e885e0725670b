//! Hooks: raw tracepoints sched_process_exec, sched_process_fork, sched_process_exit. Records out: [`Exec`],
//! [`Fork`], [`Exit`].
//!
//! Raw tracepoints fire once an exec, fork or exit, and cost every other system call nothing.

use core::hint::black_box;

use aya_ebpf::helpers::generated::{
    bpf_probe_read_kernel, bpf_probe_read_kernel_str, bpf_probe_read_user, bpf_probe_read_user_str,
};
use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use saker_ebpf::wire::process::{
    EXEC_ARGV_CUT, EXEC_ARGV_FAULT, EXEC_CAPABILITIES, EXEC_CWD_CUT, EXEC_DELETED, EXEC_DETACHED,
    EXEC_ENV, EXEC_ENV_CUT, EXEC_ENV_FAULT, EXEC_EXE_CUT, EXEC_FILENAME_CUT, EXEC_MEMFD,
};
use saker_ebpf::wire::{ARGV_BYTES_MAX, ENV_BYTES_MAX, Exec, Exit, Fork, Kind, PATH_BYTES_MAX};

use crate::emit::{self, Outcome};
use crate::kernel::{self, Address, Walk};
use crate::maps::{EXEC_SCRATCH, EXEC_TEXT_BYTES, EnvScan, ExecScratch};
use crate::settings::{self, offset, present};

/// `TP_PROTO(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`
///
/// Fires when the new image is in place: `mm` is the new one, and `argv` lies on its stack, which no other thread
/// can reach yet, so what is read is what the program will see.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn saker_exec(ctx: RawTracePointContext) -> i32 {
    emit::count(Kind::Exec, Outcome::Passed);
    let Some(scratch) = EXEC_SCRATCH.get_ptr_mut(0) else {
        emit::lose(&ctx, Kind::Exec, Outcome::TooBig);
        return 0;
    };
    // SAFETY: the map's value is an `ExecScratch`, this program's alone on this CPU while it runs.
    unsafe { build_exec(&ctx, scratch) }
    0
}

#[inline(always)]
unsafe fn build_exec(ctx: &RawTracePointContext, scratch: *mut ExecScratch) {
    let task: Address = ctx.arg(0);
    let old_tid: u32 = ctx.arg(1);
    let binprm: Address = ctx.arg(2);
    let mm: Address = kernel::read(task, offset!(task_mm));
    let root = kernel::root(task);
    let executable = kernel::executable(mm);

    // SAFETY: `scratch` is valid for the whole struct; every offset into it is masked to stay within.
    unsafe {
        let exec = &raw mut (*scratch).exec;
        let walk = &mut (*scratch).walk;
        let mut text = Text {
            start: (&raw mut (*scratch).text).cast(),
            used: 0,
        };
        let mut flags = 0;

        let filename: Address = kernel::read(binprm, offset!(binprm_filename));
        let length = text.append_string(filename);
        (*exec).filename_len = length;
        if length == PATH_BYTES_MAX as u32 {
            flags |= EXEC_FILENAME_CUT;
        }

        walk.run(executable, root);
        (*exec).exe_len = text.append_path(walk);
        if walk.is_cut() {
            flags |= EXEC_EXE_CUT;
        }
        if walk.is_detached() {
            flags |= EXEC_DETACHED;
            if is_memfd(walk.path().0) {
                flags |= EXEC_MEMFD;
            }
        }
        let inode = kernel::inode(executable.dentry);
        (*exec).inode = inode.number;
        (*exec).device = inode.device;
        if inode.links == 0 {
            flags |= EXEC_DELETED;
        }
        let attributes = kernel::attributes(executable.dentry);
        (*exec).exe_uid = attributes.uid;
        (*exec).exe_gid = attributes.gid;
        (*exec).exe_mode = attributes.mode;
        (*exec).ctime_ns = attributes.ctime_ns;
        (*exec).mtime_ns = attributes.mtime_ns;
        flags |= kernel::layer(executable.dentry);
        let [permitted, effective, inheritable] = match kernel::capabilities(task) {
            Some(sets) => {
                flags |= EXEC_CAPABILITIES;
                sets
            }
            None => [0; 3],
        };
        (*exec).cap_permitted = permitted;
        (*exec).cap_effective = effective;
        (*exec).cap_inheritable = inheritable;

        walk.run(kernel::working_directory(task), root);
        (*exec).cwd_len = text.append_path(walk);
        if walk.is_cut() {
            flags |= EXEC_CWD_CUT;
        }

        let arg_start: Address = kernel::read(mm, offset!(mm_arg_start));
        let arg_end: Address = kernel::read(mm, offset!(mm_arg_end));
        let argv_bytes = arg_end.wrapping_sub(arg_start);
        let wanted = if argv_bytes > ARGV_BYTES_MAX as u64 {
            flags |= EXEC_ARGV_CUT;
            ARGV_BYTES_MAX as u32
        } else {
            argv_bytes as u32
        };
        let (length, fault) = text.append_user(arg_start, wanted);
        (*exec).argv_len = length;
        if fault {
            flags |= EXEC_ARGV_FAULT;
        }
        (*exec).argv_bytes = argv_bytes as u32;
        (*exec).argc = kernel::read(binprm, offset!(binprm_argc));

        (*exec).env_len = 0;
        if settings::wants_env() && kernel_shows_env() {
            let scan = &raw mut (*scratch).env;
            EnvScan::start(scan, mm, text.used);
            let mut step = 0;
            while step < ENV_STRINGS {
                step += 1;
                if EnvScan::step(scan, text.start) {
                    break;
                }
            }
            text.used = core::ptr::read_volatile(&raw const (*scan).used);
            (*exec).env_len = core::ptr::read_volatile(&raw const (*scan).env_len);
            flags |= core::ptr::read_volatile(&raw const (*scan).flags) | EXEC_ENV;
            if core::ptr::read_volatile(&raw const (*scan).done) == 0 {
                flags |= EXEC_ENV_CUT;
            }
        }

        (*exec).flags = flags;
        (*exec).old_tid = old_tid;
        (*exec).parent_start_ns = kernel::parent_start_ns(task);
        let (loginuid, audit_session) = kernel::audit(task);
        (*exec).loginuid = loginuid;
        (*exec).audit_session = audit_session;
        (*exec).tty = kernel::tty(task);
        let ids = kernel::ids(task);
        (*exec).ns_tgid = ids.ns_tgid;
        (*exec).pid_ns = ids.pid_ns;
        (*exec).session_leader = ids.session_leader;
        (*exec).pgid = ids.pgid;
        (*exec).ns_pgid = ids.ns_pgid;
        (*exec).pid_ns_start_ns = ids.pid_ns_start_ns;
        (*exec).mount_ns = kernel::mount_ns(task);

        let size = size_of::<Exec>() as u32 + (black_box(text.used) & (EXEC_TEXT_BYTES as u32 - 1));
        kernel::fill_header(&raw mut (*exec).header, Kind::Exec, size, task);
        emit::output(ctx, Kind::Exec, exec.cast(), u64::from(size));
    }
}

/// Does the path name an anonymous memory file? The kernel names them `memfd:` and what the caller likes.
///
/// # Safety
/// Eight bytes are readable at `path`.
#[inline(always)]
unsafe fn is_memfd(path: *const u8) -> bool {
    let mut at = 0;
    let name = *b"/memfd:";
    while at < name.len() {
        // SAFETY: the caller vouches for eight bytes.
        if unsafe { *path.add(at) } != name[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// The text behind a record's fixed part, growing.
struct Text {
    start: *mut u8,
    used: u32,
}

impl Text {
    /// Where the next text goes.
    ///
    /// # Safety
    /// `start` is the `text` of an [`ExecScratch`].
    #[inline(always)]
    unsafe fn end(&self) -> *mut u8 {
        let used = black_box(self.used) as usize & (EXEC_TEXT_BYTES - 1);
        // SAFETY: `used` is below EXEC_TEXT_BYTES.
        unsafe { self.start.add(used) }
    }

    /// Appends a NUL-terminated string of the kernel's; returns its length without the NUL.
    #[inline(always)]
    unsafe fn append_string(&mut self, string: Address) -> u32 {
        // SAFETY: the slack behind `end` holds PATH_BYTES_MAX + 1 bytes.
        let status = unsafe {
            bpf_probe_read_kernel_str(
                self.end().cast(),
                PATH_BYTES_MAX as u32 + 1,
                string as *const _,
            )
        };
        let length = if status > 0 { status as u32 - 1 } else { 0 };
        let length = length & PATH_BYTES_MAX as u32;
        self.used += length;
        length
    }

    /// Appends a path that was walked; returns its length.
    #[inline(always)]
    unsafe fn append_path(&mut self, walk: &Walk) -> u32 {
        let (path, length) = walk.path();
        let length = black_box(length) & PATH_BYTES_MAX as u32;
        // SAFETY: the slack behind `end` holds PATH_BYTES_MAX bytes; the helper checks what it reads.
        unsafe {
            bpf_probe_read_kernel(self.end().cast(), length, path.cast());
        }
        self.used += length;
        length
    }

    /// Appends bytes of the process's own memory; returns how many, and whether they could not be read.
    #[inline(always)]
    unsafe fn append_user(&mut self, address: Address, length: u32) -> (u32, bool) {
        let length = black_box(length) & ARGV_BYTES_MAX as u32;
        // SAFETY: the slack behind `end` holds ARGV_BYTES_MAX bytes.
        let status = unsafe { bpf_probe_read_user(self.end().cast(), length, address as *const _) };
        if status != 0 {
            return (0, true);
        }
        self.used += length;
        (length, false)
    }
}

/// Strings of an environment that are looked at. The kernel's own limit is none; with Kubernetes' service links a few
/// hundred are ordinary. A longer environment is marked as cut.
const ENV_STRINGS: u32 = 320;

/// Does the kernel have what tells where the environment lies?
#[inline(always)]
fn kernel_shows_env() -> bool {
    present(offset!(mm_env_start)) && present(offset!(mm_env_end))
}

impl EnvScan {
    /// Starts at the first string of the environment of `mm`; `used` bytes of text are there already.
    ///
    /// # Safety
    /// `scan` is the scan of an [`ExecScratch`].
    #[inline(always)]
    unsafe fn start(scan: *mut Self, mm: Address, used: u32) {
        // SAFETY: the caller vouches for `scan`; volatile to keep the values in the map.
        unsafe {
            core::ptr::write_volatile(
                &raw mut (*scan).address,
                kernel::read(mm, offset!(mm_env_start)),
            );
            core::ptr::write_volatile(&raw mut (*scan).end, kernel::read(mm, offset!(mm_env_end)));
            core::ptr::write_volatile(&raw mut (*scan).used, used);
            core::ptr::write_volatile(&raw mut (*scan).env_len, 0);
            core::ptr::write_volatile(&raw mut (*scan).is_inside, 0);
            core::ptr::write_volatile(&raw mut (*scan).flags, 0);
            core::ptr::write_volatile(&raw mut (*scan).done, 0);
        }
    }

    /// One string, or one piece of a long one: copied behind the text, and kept there if it is asked for. `true` at the
    /// end.
    ///
    /// # Safety
    /// `scan` and `text` are those of one [`ExecScratch`].
    #[inline(always)]
    unsafe fn step(scan: *mut Self, text: *mut u8) -> bool {
        // SAFETY: the caller vouches for both; volatile to keep the values in the map, and every offset is masked.
        unsafe {
            let address = core::ptr::read_volatile(&raw const (*scan).address);
            if address >= core::ptr::read_volatile(&raw const (*scan).end) {
                core::ptr::write_volatile(&raw mut (*scan).done, 1);
                return true;
            }
            let used = core::ptr::read_volatile(&raw const (*scan).used);
            let at = black_box(used) as usize & (EXEC_TEXT_BYTES - 1);
            let to = text.add(at);
            // The words that are compared may reach behind a short string.
            to.cast::<[u64; 4]>().write_unaligned([0; 4]);
            let status =
                bpf_probe_read_user_str(to.cast(), PATH_BYTES_MAX as u32 + 1, address as *const _);
            if status <= 0 {
                core::ptr::write_volatile(&raw mut (*scan).flags, EXEC_ENV_FAULT);
                core::ptr::write_volatile(&raw mut (*scan).done, 1);
                return true;
            }
            // With its NUL, which also stands behind a piece that was cut.
            let length = status as u32;
            let is_piece = length == PATH_BYTES_MAX as u32 + 1;
            let was_inside = core::ptr::read_volatile(&raw const (*scan).is_inside);
            core::ptr::write_volatile(&raw mut (*scan).is_inside, u32::from(is_piece));
            let step = length - u32::from(is_piece);
            core::ptr::write_volatile(&raw mut (*scan).address, address + u64::from(step));
            if was_inside == 0 {
                let start = to.cast::<[u64; 4]>().read_unaligned();
                if settings::wants_variable(&start) {
                    let env_len = core::ptr::read_volatile(&raw const (*scan).env_len);
                    let flags = core::ptr::read_volatile(&raw const (*scan).flags);
                    if env_len + length > ENV_BYTES_MAX as u32 {
                        core::ptr::write_volatile(&raw mut (*scan).flags, flags | EXEC_ENV_CUT);
                        core::ptr::write_volatile(&raw mut (*scan).done, 1);
                        return true;
                    }
                    core::ptr::write_volatile(&raw mut (*scan).env_len, env_len + length);
                    core::ptr::write_volatile(&raw mut (*scan).used, used + length);
                    if is_piece {
                        core::ptr::write_volatile(&raw mut (*scan).flags, flags | EXEC_ENV_CUT);
                    }
                }
            }
            false
        }
    }
}

/// `TP_PROTO(struct task_struct *parent, struct task_struct *child)`
#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn saker_fork(ctx: RawTracePointContext) -> i32 {
    let parent: Address = ctx.arg(0);
    let child: Address = ctx.arg(1);
    let child_tgid = kernel::tgid(child);
    let child_tid = kernel::tid(child);
    if child_tgid != child_tid && !settings::report_threads() {
        emit::count(Kind::Fork, Outcome::Filtered);
        return 0;
    }
    let Some(mut entry) = emit::reserve::<Fork>(&ctx, Kind::Fork) else {
        return 0;
    };
    let fork = entry.as_mut_ptr();
    // SAFETY: the ring gave room for a `Fork`.
    unsafe {
        kernel::fill_header(
            &raw mut (*fork).header,
            Kind::Fork,
            size_of::<Fork>() as u32,
            parent,
        );
        (*fork).child_start_ns = kernel::start_ns(child);
        (*fork).child_cgroup_id = kernel::cgroup_id(child);
        (*fork).child_tgid = child_tgid;
        (*fork).child_tid = child_tid;
        (*fork).child_ppid = kernel::ppid(child);
        let ids = kernel::ids(child);
        (*fork).child_ns_tgid = ids.ns_tgid;
        (*fork).session_leader = ids.session_leader;
        (*fork).pgid = ids.pgid;
        (*fork).child_ns_pgid = ids.ns_pgid;
        (*fork).reserved = 0;
        (*fork).child_comm = kernel::read(child, offset!(task_comm));
    }
    emit::submit(Kind::Fork, entry);
    0
}

/// `TP_PROTO(struct task_struct *p)`, since 6.16 also `bool group_dead`
///
/// Fires for every thread; the last one of its process is reported. Should the last two end at the same moment, both
/// can look like the last, and the process's end is reported twice.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn saker_exit(ctx: RawTracePointContext) -> i32 {
    let task: Address = ctx.arg(0);
    if !kernel::is_process_dead(task) {
        emit::count(Kind::Exit, Outcome::Filtered);
        return 0;
    }
    let Some(mut entry) = emit::reserve::<Exit>(&ctx, Kind::Exit) else {
        return 0;
    };
    let exit = entry.as_mut_ptr();
    // SAFETY: the ring gave room for an `Exit`.
    unsafe {
        kernel::fill_header(
            &raw mut (*exit).header,
            Kind::Exit,
            size_of::<Exit>() as u32,
            task,
        );
        (*exit).code = kernel::exit_code(task);
        (*exit).flags = 0;
    }
    emit::submit(Kind::Exit, entry);
    0
}
