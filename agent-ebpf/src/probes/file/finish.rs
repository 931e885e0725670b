//! An open that ended: is it wanted, what was opened, and its record.
//!
//! The name of a file that was opened is the kernel's own, walked from the file behind the descriptor: links, detours,
//! folders that moved and threads that change the caller's memory make no difference. Only of an open that failed is
//! there nothing but the path as passed.

use core::hint::black_box;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_user_str};
use saker_ebpf::wire::connect::RES_ATTEMPT;
use saker_ebpf::wire::file::{OPEN_DETACHED, OPEN_PATH_CUT, OPEN_PATH_FAULT, OPEN_RESOLVED_CUT};
use saker_ebpf::wire::{Kind, Open, PATH_BYTES_MAX};

use super::name;
use crate::emit::{self, Outcome};
use crate::kernel::{self, Address};
use crate::maps::{
    OPEN_SCRATCH, OPEN_SCRATCHES, OPEN_TEXT_BYTES, OpenCall, OpenScratch, UringOpen,
};
use crate::{settings, share};

const EFAULT: i32 = -14;

/// How an open ended.
#[derive(Clone, Copy)]
pub enum Ending {
    /// With a descriptor, or an error.
    Descriptor(i32),
    /// With something that is no descriptor, though it may be open, or with an error.
    Result(i32),
    /// That is not known: it was asked for.
    Unknown,
}

/// Who puts records together where: programs that can interrupt each other on a CPU have different places. Those at tracepoints of
/// system calls cannot.
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Scratch {
    Tracepoint,
    Submit,
    Complete,
    Open,
    Creat,
    Openat,
    Openat2,
    Open32,
    Creat32,
    Openat32,
    Openat2_32,
}

impl Scratch {
    /// Nobody else runs on the CPU meanwhile that counts opens.
    #[inline(always)]
    fn is_of_tracepoint(self) -> bool {
        matches!(self, Self::Tracepoint | Self::Submit | Self::Complete)
    }
}

const _: () = assert!(Scratch::Openat2_32 as u32 + 1 == OPEN_SCRATCHES);

/// Reports a call of the running `task`, if it is wanted.
///
/// Nearly no open is, and most are decided by the name of the opened file alone. So nothing else is looked at before that: what was
/// `call`ed is not read, and nothing is looked up but the name's extension, where it has one.
#[inline(always)]
pub fn finish(
    ctx: &impl EbpfContext,
    task: Address,
    ending: Ending,
    scratch: Scratch,
    call: impl FnOnce() -> OpenCall,
) {
    finish_of(ctx, task, ending, scratch, None, call);
}

/// Likewise of a path that was `kept`.
///
/// # Safety
/// `kept` is a value of a map, and stays one.
#[inline(always)]
pub unsafe fn finish_kept(
    ctx: &impl EbpfContext,
    task: Address,
    ending: Ending,
    scratch: Scratch,
    kept: *const UringOpen,
) {
    finish_of(ctx, task, ending, scratch, Some(kept), || {
        // SAFETY: the caller vouches for `kept`.
        unsafe { (*kept).call }
    });
}

#[inline(always)]
fn finish_of(
    ctx: &impl EbpfContext,
    task: Address,
    ending: Ending,
    scratch: Scratch,
    kept: Option<*const UringOpen>,
    call: impl FnOnce() -> OpenCall,
) {
    let opened = Opened::of(task, ending);
    if !opened.is_decided(scratch) {
        finish_undecided(ctx, task, opened, scratch, kept, call);
    }
}

/// What an open came to.
#[derive(Clone, Copy)]
pub struct Opened {
    pub res: i32,
    /// 0: none, or none that can be found.
    pub file: Address,
}

impl Opened {
    #[inline(always)]
    pub fn of(task: Address, ending: Ending) -> Self {
        let (res, file) = match ending {
            Ending::Descriptor(res) if res >= 0 => (res, kernel::opened(task, res as u32)),
            Ending::Descriptor(res) | Ending::Result(res) => (res, 0),
            Ending::Unknown => (RES_ATTEMPT, 0),
        };
        Self { res, file }
    }

    #[inline(always)]
    fn dentry(self) -> Address {
        if self.file == 0 {
            0
        } else {
            kernel::dentry(self.file)
        }
    }

    /// Is it a file whose name alone decides that nobody wants it? Then it is counted: what nearly every open ends with.
    #[inline(always)]
    pub fn is_decided(self, scratch: Scratch) -> bool {
        let is_decided = name::is_unwanted(self.dentry());
        if is_decided {
            count_filtered(scratch);
        }
        is_decided
    }
}

/// Reports a call whose file's name did not decide it, if it is wanted.
#[inline(always)]
pub fn finish_undecided(
    ctx: &impl EbpfContext,
    task: Address,
    opened: Opened,
    scratch: Scratch,
    kept: Option<*const UringOpen>,
    call: impl FnOnce() -> OpenCall,
) {
    let Opened { res, file } = opened;
    let dentry = opened.dentry();
    let now = settings::now();
    // Something is open, or may be, and nobody knows its name: the path as passed can lead to another one by a link. So it is when
    // another thread has closed the file meanwhile.
    let is_nameless = dentry == 0 && (res >= 0 || res == RES_ATTEMPT);
    let by_extension = now.opens_by_extension();
    let by_path = now.opens_by_resolved() || now.has_prefixes();
    let mut wanted = now.wants_every_path()
        || by_extension && (is_nameless || dentry != 0 && name::is_wanted(dentry));
    if !wanted && dentry != 0 && !by_path {
        count_filtered(scratch);
        return;
    }
    // Of the agent's own most are decided, and counted, above like anybody's.
    if super::is_own(task) {
        return;
    }
    let call = call();
    let place = kernel::place(file);
    let Some(scratch) = OPEN_SCRATCH.get_ptr_mut(scratch as u32) else {
        return;
    };
    // SAFETY: the map's value is an `OpenScratch`, nobody else's on this CPU while the program runs.
    unsafe {
        let mut is_read = false;
        let mut is_walked = false;
        if !wanted && now.opens_by_resolved() {
            if place.dentry == 0 {
                wanted = is_nameless;
            } else {
                (*scratch).walk.run(place, kernel::root(task));
                is_walked = true;
                // What is linked into no folder goes by the path as passed.
                wanted =
                    (*scratch).walk.is_detached() || now.wants_path(&(*scratch).walk.beginning());
            }
        }
        let by_plain = now.opens_by_resolved() && place.dentry == 0;
        let by_passed = now.has_prefixes() && (!now.opens_by_resolved() || by_plain);
        let by_tail = by_extension && place.dentry == 0;
        if !wanted && (by_passed || by_tail) {
            if by_plain {
                (*scratch).clear();
            }
            read_path(scratch, call.path, kept);
            is_read = true;
            // A path that led nowhere may be written in many ways, and rules see it made plain. Those of loaders that try one folder after
            // another are plain: thousands a second on a node where programs start.
            wanted = by_plain && !(*scratch).is_plain()
                || by_passed && now.wants_path(&(*scratch).beginning())
                || by_tail && name::is_tail_wanted(scratch);
        }
        if !wanted {
            emit::count(Kind::Open, Outcome::Filtered);
            return;
        }
        if !is_read {
            read_path(scratch, call.path, kept);
        }
        let mut flags = call.flags;
        if (*scratch).read_status < 0 {
            // The kernel could not read it either: nothing was opened, and there is no name to report.
            if res == EFAULT {
                emit::count(Kind::Open, Outcome::Filtered);
                return;
            }
            flags |= OPEN_PATH_FAULT;
        }
        emit::count(Kind::Open, Outcome::Passed);
        if !share::admits(Kind::Open, kernel::cgroup_id(task)) {
            return;
        }
        let open = &raw mut (*scratch).open;
        let path_len = (*scratch).path_len() & PATH_BYTES_MAX as u32;
        if path_len == PATH_BYTES_MAX as u32 {
            flags |= OPEN_PATH_CUT;
        }
        let mut resolved_len = 0;
        if place.dentry != 0 {
            if !is_walked {
                (*scratch).walk.run(place, kernel::root(task));
            }
            let (path, length) = (*scratch).walk.path();
            resolved_len = black_box(length) & PATH_BYTES_MAX as u32;
            let to = black_box(path_len) as usize & (OPEN_TEXT_BYTES - 1);
            bpf_probe_read_kernel(
                (&raw mut (*scratch).text).cast::<u8>().add(to).cast(),
                resolved_len,
                path.cast(),
            );
            if (*scratch).walk.is_cut() {
                flags |= OPEN_RESOLVED_CUT;
            }
            if (*scratch).walk.is_detached() {
                flags |= OPEN_DETACHED;
            }
        }
        (*open).open_flags = call.open_flags;
        (*open).resolve = call.resolve;
        (*open).mode = call.mode;
        (*open).dfd = call.dfd;
        (*open).res = res;
        (*open).syscall = call.syscall;
        (*open).path_len = path_len;
        (*open).resolved_len = resolved_len;
        (*open).flags = flags;
        (*open).reserved = 0;
        let size = size_of::<Open>() as u32
            + (black_box(path_len + resolved_len) & (2 * OPEN_TEXT_BYTES as u32 - 1));
        let moment = kernel::now();
        kernel::fill_header(&raw mut (*open).header, Kind::Open, size, task, moment);
        emit::output(ctx, Kind::Open, scratch.cast(), u64::from(size));
    }
}

/// Counts an open that its file's name decided.
#[inline(always)]
fn count_filtered(scratch: Scratch) {
    if scratch.is_of_tracepoint() {
        emit::count_alone(Kind::Open, Outcome::Filtered);
    } else {
        emit::count(Kind::Open, Outcome::Filtered);
    }
}

/// Reads the path as passed, which the caller has at an address or which was `kept`.
///
/// # Safety
/// `scratch` is the value of [`OPEN_SCRATCH`], `kept` one of another map.
#[inline(always)]
unsafe fn read_path(scratch: *mut OpenScratch, address: Address, kept: Option<*const UringOpen>) {
    // SAFETY: `text` has PATH_BYTES_MAX + 1 bytes and more, and a path that was kept has as many.
    unsafe {
        if let Some(kept) = kept {
            (*scratch).read_status = (*kept).read_status;
            bpf_probe_read_kernel(
                (&raw mut (*scratch).text).cast(),
                OPEN_TEXT_BYTES as u32,
                (&raw const (*kept).path).cast(),
            );
            return;
        }
        (*scratch).read_status = bpf_probe_read_user_str(
            (&raw mut (*scratch).text).cast(),
            PATH_BYTES_MAX as u32 + 1,
            address as *const _,
        );
    }
}
