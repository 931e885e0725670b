//! Hook: cgroup_device at the root cgroup. Records out: [`DeviceOpen`].
//!
//! Sees a device by its numbers, whatever its node is called and however it was made, also through io_uring. Opens of
//! anything but a device never get here. The path that is being opened is the kernel's copy, from the walk that the task is in.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use aya_ebpf::macros::cgroup_device;
use aya_ebpf::programs::DeviceContext;
use saker_ebpf::wire::device::{DEVICE_PATH_BYTES_MAX, DEVICE_PATH_CUT};
use saker_ebpf::wire::{DeviceOpen, Kind};

use crate::emit::{self, Outcome};
use crate::{kernel, settings};

/// What the kernel takes for "go on".
const ALLOW: i32 = 1;

#[cgroup_device]
pub fn saker_device(ctx: DeviceContext) -> i32 {
    observe(&ctx);
    ALLOW
}

#[inline(always)]
fn observe(ctx: &DeviceContext) {
    // SAFETY: the kernel hands over a valid context. Volatile, because it allows only loads of a whole field.
    let (access_type, major, minor) = unsafe {
        (
            core::ptr::read_volatile(&raw const (*ctx.device).access_type),
            core::ptr::read_volatile(&raw const (*ctx.device).major),
            core::ptr::read_volatile(&raw const (*ctx.device).minor),
        )
    };
    let node = access_type & 0xffff;
    let access = access_type >> 16;
    if !settings::wants_device(node, major, minor) {
        emit::count(Kind::DeviceOpen, Outcome::Filtered);
        return;
    }
    let task = kernel::current_task();
    if settings::is_own(kernel::tgid(task)) {
        emit::count(Kind::DeviceOpen, Outcome::Filtered);
        return;
    }
    let moment = kernel::now();
    let Some(mut entry) = emit::reserve::<DeviceOpen>(ctx, Kind::DeviceOpen) else {
        return;
    };
    let open = entry.as_mut_ptr();
    // SAFETY: the ring gave room for a `DeviceOpen`.
    unsafe {
        kernel::fill_header(
            &raw mut (*open).header,
            Kind::DeviceOpen,
            size_of::<DeviceOpen>() as u32,
            task,
            moment,
        );
        (*open).major = major;
        (*open).minor = minor;
        (*open).access = access;
        (*open).node = node;
        let path = kernel::opening(task);
        let mut length = 0;
        if path != 0 {
            let status = bpf_probe_read_kernel_str(
                (&raw mut (*open).path).cast(),
                DEVICE_PATH_BYTES_MAX as u32 + 1,
                path as *const _,
            );
            length = if status > 0 { status as u32 - 1 } else { 0 };
        }
        (*open).path_len = length;
        (*open).flags = if length == DEVICE_PATH_BYTES_MAX as u32 {
            DEVICE_PATH_CUT
        } else {
            0
        };
    }
    emit::submit(Kind::DeviceOpen, entry);
}
