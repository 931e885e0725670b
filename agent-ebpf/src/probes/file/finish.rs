//! An open that ended: is it wanted, what was opened, and its record.
//!
//! The name of a file that was opened is the kernel's own, walked from the file behind the descriptor: links, detours,
//! folders that moved and threads that change the caller's memory make no difference. Only of an open that failed is
//! there nothing but the path as passed.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_user_str};

use core::hint::black_box;
use saker_ebpf::config::EXTENSION_BYTES;
use saker_ebpf::wire::file::{OPEN_DETACHED, OPEN_PATH_CUT, OPEN_PATH_FAULT, OPEN_RESOLVED_CUT};
use saker_ebpf::wire::{Kind, Open, PATH_BYTES_MAX};

use crate::emit::{self, Outcome};
use crate::kernel::{self, Address, Place};
use crate::maps::{
    OPEN_EXTENSIONS, OPEN_SCRATCH, OPEN_SCRATCHES, OPEN_TEXT_BYTES, OpenCall, OpenScratch,
};
use crate::{settings, share};

const EFAULT: i32 = -14;

/// Beside the `OPEN_*` bits of a call: what it opens gets no descriptor, so that its result is none. Not part of the record.
pub const NO_DESCRIPTOR: u32 = 1 << 31;

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

const _: () = assert!(Scratch::Openat2_32 as u32 + 1 == OPEN_SCRATCHES);

/// Reports a call, if it is wanted.
#[inline(always)]
pub fn finish(ctx: &impl EbpfContext, call: &OpenCall, res: i32, scratch: Scratch) {
    let task = kernel::current_task();
    let place = if res >= 0 && call.flags & NO_DESCRIPTOR == 0 {
        kernel::opened(task, res as u32)
    } else {
        Place::NONE
    };
    let Some(scratch) = OPEN_SCRATCH.get_ptr_mut(scratch as u32) else {
        return;
    };
    // SAFETY: the map's value is an `OpenScratch`, nobody else's on this CPU while the program runs.
    unsafe {
        let by_extension = settings::opens_by_extension();
        let mut is_read = false;
        let mut is_walked = false;
        let mut wanted = settings::wants_every_path()
            || by_extension && place.dentry != 0 && wants_name(place.dentry);
        if !wanted && settings::opens_by_resolved() {
            if place.dentry == 0 {
                // A path that led nowhere may be written in many ways, and rules see it made plain.
                wanted = true;
            } else {
                (*scratch).walk.run(place, kernel::root(task));
                is_walked = true;
                // What is linked into no folder goes by the path as passed.
                wanted = (*scratch).walk.is_detached()
                    || settings::wants_path(&(*scratch).walk.beginning());
            }
        }
        let by_passed = settings::has_prefixes() && !settings::opens_by_resolved();
        let by_tail = by_extension && place.dentry == 0;
        if !wanted && (by_passed || by_tail) {
            read_path(scratch, call.path);
            is_read = true;
            wanted = by_passed && settings::wants_path(&(*scratch).beginning())
                || by_tail && wants_tail(scratch);
        }
        if !wanted {
            emit::count(Kind::Open, Outcome::Filtered);
            return;
        }
        if !is_read {
            read_path(scratch, call.path);
        }
        let mut flags = call.flags & !NO_DESCRIPTOR;
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
        kernel::fill_header(&raw mut (*open).header, Kind::Open, size, task);
        emit::output(ctx, Kind::Open, scratch.cast(), u64::from(size));
    }
}

/// Reads the path as passed.
///
/// # Safety
/// `scratch` is the value of [`OPEN_SCRATCH`].
#[inline(always)]
unsafe fn read_path(scratch: *mut OpenScratch, address: Address) {
    // SAFETY: `text` has PATH_BYTES_MAX + 1 bytes and more.
    unsafe {
        (*scratch).read_status = bpf_probe_read_user_str(
            (&raw mut (*scratch).text).cast(),
            PATH_BYTES_MAX as u32 + 1,
            address as *const _,
        );
    }
}

/// Does the opened file's name end in a wanted extension?
#[inline(always)]
fn wants_name(dentry: Address) -> bool {
    let (name, length) = kernel::name(dentry);
    let mut tail = [0u8; EXTENSION_BYTES];
    // A name shorter than the tail has other bytes of the kernel's before it; they are not looked at.
    // SAFETY: the helper writes at most the size of `tail`.
    unsafe {
        bpf_probe_read_kernel(
            tail.as_mut_ptr().cast(),
            EXTENSION_BYTES as u32,
            name.wrapping_add(u64::from(length))
                .wrapping_sub(EXTENSION_BYTES as u64) as *const _,
        );
    }
    wants_extension(&tail, length)
}

/// Does the path as passed end in a wanted extension?
///
/// # Safety
/// `scratch` is the value of [`OPEN_SCRATCH`], and its path was read.
#[inline(always)]
unsafe fn wants_tail(scratch: *mut OpenScratch) -> bool {
    // SAFETY: `from` is below the size of `text`, whose slack is longer than a tail.
    unsafe {
        let length = (*scratch).path_len();
        if length < EXTENSION_BYTES as u32 {
            // Shorter than the tail: moved, so that it ends where a longer one does.
            let mut tail = [0u8; EXTENSION_BYTES];
            let mut at = 0;
            while at < EXTENSION_BYTES as u32 {
                if at < length {
                    let to = (EXTENSION_BYTES as u32 - length + at) & (EXTENSION_BYTES as u32 - 1);
                    tail[to as usize] = (*scratch).text[at as usize];
                }
                at += 1;
            }
            return wants_extension(&tail, length);
        }
        let from = black_box(length - EXTENSION_BYTES as u32) as usize & PATH_BYTES_MAX;
        let tail = (&raw const (*scratch).text)
            .cast::<u8>()
            .add(from)
            .cast::<[u8; EXTENSION_BYTES]>()
            .read_unaligned();
        wants_extension(&tail, length)
    }
}

/// Looks up what follows the last dot within the last bytes of a name that is `length` long.
#[inline(always)]
fn wants_extension(tail: &[u8; EXTENSION_BYTES], length: u32) -> bool {
    let mut key = [0u64; 2];
    let mut back = 1;
    while back <= EXTENSION_BYTES {
        if back as u32 > length {
            return false;
        }
        let byte = tail[EXTENSION_BYTES - back];
        // The bytes behind move one place on, and this one becomes the first.
        key[1] = key[1] << 8 | key[0] >> 56;
        key[0] = key[0] << 8 | u64::from(byte);
        if byte == b'.' {
            // SAFETY: the value is not looked at, only whether there is one.
            return unsafe { OPEN_EXTENSIONS.get(key).is_some() };
        }
        back += 1;
    }
    false
}
