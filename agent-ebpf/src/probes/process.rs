//! Hooks: raw tracepoints sched_process_exec, sched_process_fork, sched_process_exit. Records out: [`Exec`],
//! [`Fork`], [`Exit`].
//!
//! Raw tracepoints fire once an exec, fork or exit, and cost every other system call nothing.

use core::hint::black_box;

use aya_ebpf::helpers::generated::{
    bpf_probe_read_kernel, bpf_probe_read_kernel_str, bpf_probe_read_user, bpf_probe_read_user_str,
};
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::LruHashMap;
use aya_ebpf::programs::RawTracePointContext;
use saker_ebpf::wire::process::{
    EXEC_ARGV_CUT, EXEC_ARGV_FAULT, EXEC_CAPABILITIES, EXEC_CWD_CUT, EXEC_DELETED, EXEC_DETACHED,
    EXEC_ENV, EXEC_ENV_CUT, EXEC_ENV_FAULT, EXEC_EXE_CUT, EXEC_FILENAME_CUT, EXEC_MEMFD,
};
use saker_ebpf::wire::{ARGV_BYTES_MAX, ENV_BYTES_MAX, Exec, Exit, Fork, Kind, PATH_BYTES_MAX};

use crate::emit::{self, Haste, Outcome};
use crate::kernel::{self, Address, Walk};
use crate::maps::{EXEC_SCRATCH, EXEC_TEXT_BYTES, EnvScan, ExecScratch};
use crate::settings::{self, Now, offset, present};

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
        let text = Text { scratch };
        text.set_used(0);
        core::ptr::write_volatile(&raw mut (*scratch).flags, 0);

        let filename: Address = kernel::read(binprm, offset!(binprm_filename));
        let length = text.append_string(filename);
        (*exec).filename_len = length;
        if length == PATH_BYTES_MAX as u32 {
            text.mark(EXEC_FILENAME_CUT);
        }

        walk.run(executable, root);
        (*exec).exe_len = text.append_path(walk);
        if walk.is_cut() {
            text.mark(EXEC_EXE_CUT);
        }
        if walk.is_detached() {
            text.mark(EXEC_DETACHED);
            if is_memfd(walk.path().0) {
                text.mark(EXEC_MEMFD);
            }
        }
        let inode = kernel::inode(executable.dentry);
        (*exec).inode = inode.number;
        (*exec).device = inode.device;
        if inode.links == 0 {
            text.mark(EXEC_DELETED);
        }
        let attributes = kernel::attributes(executable.dentry);
        (*exec).exe_uid = attributes.uid;
        (*exec).exe_gid = attributes.gid;
        (*exec).exe_mode = attributes.mode;
        (*exec).ctime_ns = attributes.ctime_ns;
        (*exec).mtime_ns = attributes.mtime_ns;
        text.mark(kernel::layer(executable.dentry));
        let [permitted, effective, inheritable] = match kernel::capabilities(task) {
            Some(sets) => {
                text.mark(EXEC_CAPABILITIES);
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
            text.mark(EXEC_CWD_CUT);
        }

        let arg_start: Address = kernel::read(mm, offset!(mm_arg_start));
        let arg_end: Address = kernel::read(mm, offset!(mm_arg_end));
        let argv_bytes = arg_end.wrapping_sub(arg_start);
        let too_long =
            negative((ARGV_BYTES_MAX as u64).wrapping_sub(argv_bytes)) | negative(argv_bytes);
        let wanted = argv_bytes & !too_long | ARGV_BYTES_MAX as u64 & too_long;
        let (length, fault) = text.append_user(arg_start, wanted as u32);
        (*exec).argv_len = length;
        text.mark(too_long as u32 & EXEC_ARGV_CUT | fault & EXEC_ARGV_FAULT);
        (*exec).argv_bytes = argv_bytes as u32;
        (*exec).argc = kernel::read(binprm, offset!(binprm_argc));

        (*exec).env_len = 0;
        let now = settings::now();
        if settings::wants_env() && kernel_shows_env() && now.wants_env() {
            let scan = &raw mut (*scratch).env;
            EnvScan::start(scan, mm);
            let mut round = 0;
            while round < ENV_STRINGS / ENV_ROUND_STRINGS && !EnvScan::is_done(scan) {
                round += 1;
                let mut step = 0;
                while step < ENV_ROUND_STRINGS {
                    step += 1;
                    EnvScan::step(scan, &text, now);
                }
            }
            (*exec).env_len = core::ptr::read_volatile(&raw const (*scan).env_len);
            text.mark(EXEC_ENV);
            if !EnvScan::is_done(scan) {
                text.mark(EXEC_ENV_CUT);
            }
        }

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
        let (mount_ns, sequence) = kernel::mount_ns(task);
        (*exec).mount_ns = mount_ns;
        (*exec).mount_ns_sequence = sequence;
        let folder = kernel::inode(root.dentry);
        (*exec).root_inode = folder.number;
        (*exec).root_device = folder.device;
        (*exec).reserved = 0;
        (*exec).flags = core::ptr::read_volatile(&raw const (*scratch).flags);

        let size =
            size_of::<Exec>() as u32 + (black_box(text.used()) & (EXEC_TEXT_BYTES as u32 - 1));
        let moment = kernel::now();
        kernel::fill_header(&raw mut (*exec).header, Kind::Exec, size, task, moment);
        let haste = haste(&inode, attributes.ctime_ns, moment);
        emit::output_in(ctx, Kind::Exec, exec.cast(), u64::from(size), haste);
    }
}

/// Files that were started lately.
#[map]
static STARTED: LruHashMap<StartedKey, u8> = LruHashMap::with_max_entries(4096, 0);

#[derive(Clone, Copy)]
#[repr(C)]
struct StartedKey {
    inode: u64,
    device: u64,
    /// Of the file: one that was written since is another.
    ctime_ns: u64,
    /// The time, in spans of [`STARTED_SPAN_BITS`].
    span: u64,
}

/// 2^34 ns, 17 seconds. The agent looks after an interpreter that nobody uses for a minute, so it still knows what was started in the same span.
const STARTED_SPAN_BITS: u32 = 34;

/// How soon the agent should see a start. A Python has to be found before it loads anything, and what the agent looks for in it belongs to its
/// file: of one that it has just looked at, nothing is to be found.
#[inline(always)]
fn haste(inode: &kernel::Inode, ctime_ns: u64, moment: u64) -> Haste {
    if inode.number == 0 {
        // This kernel does not say.
        return Haste::Most;
    }
    let key = StartedKey {
        inode: inode.number,
        device: u64::from(inode.device),
        ctime_ns,
        span: moment >> STARTED_SPAN_BITS,
    };
    // SAFETY: the value is not looked at, only whether there is one.
    if unsafe { STARTED.get(key) }.is_some() {
        return Haste::None;
    }
    // A full map drops its oldest entry; should it fail all the same, the agent is woken again.
    let _ = STARTED.insert(key, 1, 0);
    Haste::Most
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

/// The text behind a record's fixed part, growing, and the record's flags.
///
/// Both are kept in the map, so that the verifier, which does not see into it, follows what comes after a path that may be
/// cut once, and not once for each way that it came by.
struct Text {
    scratch: *mut ExecScratch,
}

impl Text {
    /// Bytes in use.
    ///
    /// # Safety
    /// `scratch` is valid.
    #[inline(always)]
    unsafe fn used(&self) -> u32 {
        // SAFETY: the caller vouches for it; volatile to read it from the map.
        unsafe { core::ptr::read_volatile(&raw const (*self.scratch).used) }
    }

    /// # Safety
    /// As above.
    #[inline(always)]
    unsafe fn set_used(&self, used: u32) {
        // SAFETY: as above.
        unsafe { core::ptr::write_volatile(&raw mut (*self.scratch).used, used) };
    }

    /// Sets bits of the record's flags.
    ///
    /// # Safety
    /// As above.
    #[inline(always)]
    unsafe fn mark(&self, flags: u32) {
        // SAFETY: as above.
        unsafe {
            let before = core::ptr::read_volatile(&raw const (*self.scratch).flags);
            core::ptr::write_volatile(&raw mut (*self.scratch).flags, before | flags);
        }
    }

    /// Where the next text goes.
    ///
    /// # Safety
    /// As above.
    #[inline(always)]
    unsafe fn end(&self) -> *mut u8 {
        // SAFETY: the offset is below EXEC_TEXT_BYTES.
        unsafe {
            let used = black_box(self.used()) as usize & (EXEC_TEXT_BYTES - 1);
            (&raw mut (*self.scratch).text).cast::<u8>().add(used)
        }
    }

    /// # Safety
    /// As above.
    #[inline(always)]
    unsafe fn grow(&self, length: u32) {
        // SAFETY: as above.
        unsafe { self.set_used(self.used() + length) };
    }

    /// Appends a NUL-terminated string of the kernel's; returns its length without the NUL.
    #[inline(always)]
    unsafe fn append_string(&self, string: Address) -> u32 {
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
        // SAFETY: `scratch` is valid.
        unsafe { self.grow(length) };
        length
    }

    /// Appends a path that was walked; returns its length.
    #[inline(always)]
    unsafe fn append_path(&self, walk: &Walk) -> u32 {
        let (path, length) = walk.path();
        let length = black_box(length) & PATH_BYTES_MAX as u32;
        // SAFETY: the slack behind `end` holds PATH_BYTES_MAX bytes; the helper checks what it reads.
        unsafe {
            bpf_probe_read_kernel(self.end().cast(), length, path.cast());
            self.grow(length);
        }
        length
    }

    /// Appends bytes of the process's own memory; returns how many, and all ones if they could not be read.
    ///
    /// # Safety
    /// `scratch` is valid.
    #[inline(always)]
    unsafe fn append_user(&self, address: Address, length: u32) -> (u32, u32) {
        let length = black_box(length) & ARGV_BYTES_MAX as u32;
        // SAFETY: the slack behind `end` holds ARGV_BYTES_MAX bytes.
        unsafe {
            let status = bpf_probe_read_user(self.end().cast(), length, address as *const _);
            let fault = negative(status as u64) as u32;
            self.grow(length & !fault);
            (length & !fault, fault)
        }
    }
}

/// Strings of an environment that are looked at. The kernel's own limit is none; with Kubernetes' service links a few
/// hundred are ordinary. A longer environment is marked as cut.
const ENV_STRINGS: u32 = 320;
/// Strings between two looks at whether that was all.
const ENV_ROUND_STRINGS: u32 = 16;

/// Does the kernel have what tells where the environment lies?
#[inline(always)]
fn kernel_shows_env() -> bool {
    present(offset!(mm_env_start)) && present(offset!(mm_env_end))
}

impl EnvScan {
    /// Starts at the first string of the environment of `mm`.
    ///
    /// # Safety
    /// `scan` is the scan of an [`ExecScratch`].
    #[inline(always)]
    unsafe fn start(scan: *mut Self, mm: Address) {
        // SAFETY: the caller vouches for `scan`; volatile to keep the values in the map.
        unsafe {
            core::ptr::write_volatile(
                &raw mut (*scan).address,
                kernel::read(mm, offset!(mm_env_start)),
            );
            core::ptr::write_volatile(&raw mut (*scan).end, kernel::read(mm, offset!(mm_env_end)));
            core::ptr::write_volatile(&raw mut (*scan).env_len, 0);
            core::ptr::write_volatile(&raw mut (*scan).is_inside, 0);
        }
    }

    /// Is there nothing more to look at?
    ///
    /// # Safety
    /// `scan` is the scan of an [`ExecScratch`].
    #[inline(always)]
    unsafe fn is_done(scan: *const Self) -> bool {
        // SAFETY: the caller vouches for `scan`; volatile to read it from the map.
        unsafe {
            core::ptr::read_volatile(&raw const (*scan).address)
                >= core::ptr::read_volatile(&raw const (*scan).end)
        }
    }

    /// One string, or one piece of a long one: read to a place of its own, and copied behind the text if it is asked for; nothing
    /// behind the end.
    ///
    /// Without a branch: each would have the verifier follow what comes after it twice from every string on, and which of that it
    /// sees to be the same depends on the kernel. So conditions are masks, all ones where they hold.
    ///
    /// # Safety
    /// `scan` and `text` are those of one [`ExecScratch`].
    #[inline(always)]
    unsafe fn step(scan: *mut Self, text: &Text, now: Now) {
        // SAFETY: the caller vouches for both; volatile to keep the values in the map, and every offset is masked.
        unsafe {
            let address = core::ptr::read_volatile(&raw const (*scan).address);
            let is_there =
                sign(address.wrapping_sub(core::ptr::read_volatile(&raw const (*scan).end)));
            let there = is_there.wrapping_neg();
            let variable = (&raw mut (*text.scratch).variable).cast::<u64>();
            // The words that are compared may reach behind a short string.
            let mut word = 0;
            while word < 4 {
                variable.add(word).write_volatile(0);
                word += 1;
            }
            let most = is_there as u32 * (PATH_BYTES_MAX as u32 + 1);
            let status = bpf_probe_read_user_str(variable.cast(), most, address as *const _) as u64;
            let unread = negative(status.wrapping_sub(1)) & there;
            // With its NUL, which also stands behind a piece that was cut.
            let length = status & there & !unread;
            // 1: it is as long as a piece can be.
            let piece = length / (PATH_BYTES_MAX as u64 + 1) & 1;
            let was_inside = core::ptr::read_volatile(&raw const (*scan).is_inside);
            core::ptr::write_volatile(&raw mut (*scan).is_inside, piece as u32);
            let start = [
                variable.read_volatile(),
                variable.add(1).read_volatile(),
                variable.add(2).read_volatile(),
                variable.add(3).read_volatile(),
            ];
            let wanted = now.wanted_variable(&start) & u64::from(was_inside ^ 1);
            let wanted = wanted.wrapping_neg() & there & !unread;
            let env_len = core::ptr::read_volatile(&raw const (*scan).env_len);
            let too_long =
                negative((ENV_BYTES_MAX as u64).wrapping_sub(u64::from(env_len) + length)) & wanted;
            let kept = (length & wanted & !too_long) as u32;
            core::ptr::write_volatile(&raw mut (*scan).env_len, env_len + kept);
            // Not more than ENV_BYTES_MAX; the helper does nothing for none.
            bpf_probe_read_kernel(
                text.end().cast(),
                black_box(kept) & ENV_BYTES_MAX as u32,
                variable.cast(),
            );
            text.grow(kept);
            text.mark(
                unread as u32 & EXEC_ENV_FAULT
                    | too_long as u32 & EXEC_ENV_CUT
                    | (wanted & piece) as u32 * EXEC_ENV_CUT,
            );
            // A number that is behind every address, and that no sum makes negative.
            let stop = (unread | too_long) >> 2;
            core::ptr::write_volatile(&raw mut (*scan).address, address + length - piece | stop);
        }
    }
}

/// All ones for a number that is negative when signed, else 0.
#[inline(always)]
fn negative(value: u64) -> u64 {
    sign(value).wrapping_neg()
}

/// 1 for a number that is negative when signed, else 0. `black_box`, or the compiler makes branches of what is done with it.
///
/// Masks are not made by an arithmetic shift, and constants not cut out of them but multiplied: both ways have the verifier of
/// new kernels take the values apart itself.
#[inline(always)]
fn sign(value: u64) -> u64 {
    black_box(value >> 63)
}

const _: () = {
    assert!(ENV_STRINGS % ENV_ROUND_STRINGS == 0);
    assert!((PATH_BYTES_MAX + 1).is_power_of_two());
    assert!((ENV_BYTES_MAX + 1).is_power_of_two());
};

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
    let moment = kernel::now();
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
            moment,
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
    let moment = kernel::now();
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
            moment,
        );
        (*exit).code = kernel::exit_code(task);
        (*exit).flags = 0;
    }
    emit::submit(Kind::Exit, entry);
    0
}
