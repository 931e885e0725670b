//! Hook: raw tracepoint cgroup_mkdir. Records out: [`CgroupMkdir`].
//!
//! A container's cgroup is made before its first process is in it. Whoever reads the record knows whose every later event from there
//! is, also when the container and its cgroup are gone by then.
//!
//! Who may make cgroups may make any number of them. So a cgroup has a share of those that are made in it, and all together have half
//! of the ring: a tree that grows in depth as well as in width finds its end there.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use saker_ebpf::wire::cgroup::{CGROUP_OF_V1, CGROUP_PATH_CUT};
use saker_ebpf::wire::{CgroupMkdir, Kind, PATH_BYTES_MAX};

use crate::emit::{self, Outcome};
use crate::kernel::{self, Address};
use crate::settings::{self, offset};

/// The number of the v2 hierarchy; those of version 1 have others.
const DEFAULT_HIERARCHY: u32 = 0;

/// `TP_PROTO(struct cgroup *cgrp, const char *path)`
#[raw_tracepoint(tracepoint = "cgroup_mkdir")]
pub fn saker_cgroup_mkdir(ctx: RawTracePointContext) -> i32 {
    let cgroup: Address = ctx.arg(0);
    let path: Address = ctx.arg(1);
    let root: Address = kernel::read(cgroup, offset!(cgroup_root));
    let hierarchy: u32 = kernel::read(root, offset!(cgroup_root_hierarchy));
    let (_, of_v1) = settings::v1();
    let mark = if hierarchy == DEFAULT_HIERARCHY {
        0
    } else {
        CGROUP_OF_V1
    };
    if mark != 0 && hierarchy != of_v1 {
        emit::count(Kind::CgroupMkdir, Outcome::Filtered);
        return 0;
    }
    let parent = parent_id(cgroup, mark);
    let moment = kernel::now();
    let Some(mut entry) =
        emit::reserve_half_of_share::<CgroupMkdir>(&ctx, Kind::CgroupMkdir, parent)
    else {
        return 0;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: the ring gave room for a `CgroupMkdir`.
    unsafe {
        kernel::fill_header(
            &raw mut (*record).header,
            Kind::CgroupMkdir,
            size_of::<CgroupMkdir>() as u32,
            kernel::current_task(),
            moment,
        );
        (*record).id = kernel::id_of_cgroup(cgroup) | mark;
        let status = bpf_probe_read_kernel_str(
            (&raw mut (*record).path).cast(),
            PATH_BYTES_MAX as u32 + 1,
            path as *const _,
        );
        let length = if status > 0 { status as u32 - 1 } else { 0 };
        (*record).path_len = length;
        (*record).flags = if length == PATH_BYTES_MAX as u32 {
            CGROUP_PATH_CUT
        } else {
            0
        };
    }
    emit::submit(Kind::CgroupMkdir, entry);
    0
}

/// The id of the cgroup that a new one is made in; that of the root of v2 stands for the root of a v1 hierarchy, too.
#[inline(always)]
fn parent_id(cgroup: Address, mark: u64) -> u64 {
    let css: Address = kernel::read(cgroup, offset!(cgroup_parent));
    let id = kernel::id_of_cgroup(css.wrapping_sub(u64::from(offset!(cgroup_self))));
    if mark != 0 && id <= kernel::V1_ROOT {
        return settings::root_cgroup_id();
    }
    id | mark
}
