//! The header of a record: who did what it tells of, and when.

use aya_ebpf::helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_boot_ns};
use saker_ebpf::wire::{self, Header, Kind};

use super::{Address, cgroup_id, current_cgroup_id, current_task, read, tgid, tid};
use crate::settings::offset;

/// When a record's event happens, nanoseconds of `CLOCK_BOOTTIME`. To be asked **before** room in a ring is reserved: the agent merges rings
/// by these moments, and what stands in front of a record must not claim to be later than what that record led to (`agent/src/source/ring.rs`).
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: takes nothing.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// What is asked before there is room for a record of what the running thread does.
pub struct Act {
    task: Address,
    /// When, nanoseconds of `CLOCK_BOOTTIME`.
    pub moment: u64,
    /// Where.
    pub cgroup_id: u64,
}

impl Act {
    /// Of the thread that this program runs in, now.
    #[inline(always)]
    pub fn begin() -> Self {
        let task = current_task();
        Self {
            task,
            moment: now(),
            cgroup_id: current_cgroup_id(task),
        }
    }

    /// Of any thread, wherever this runs.
    #[inline(always)]
    pub fn of(task: Address) -> Self {
        Self {
            task,
            moment: now(),
            cgroup_id: cgroup_id(task),
        }
    }

    /// Fills a record's header. Where it will stay: on the stack first, and copied, it took longer.
    ///
    /// # Safety
    /// `header` is writable memory for a [`Header`].
    #[inline(always)]
    pub unsafe fn fill(&self, header: *mut Header, kind: Kind, size: u32) {
        let task = self.task;
        let leader: Address = read(task, offset!(task_group_leader));
        let parent: Address = read(task, offset!(task_real_parent));
        let cred: Address = read(task, offset!(task_cred));
        let [tid, tgid] = thread_ids(task);
        let [uid, gid, euid, egid] = users(cred);
        // SAFETY: the caller vouches for `header`; the helper takes nothing.
        unsafe {
            (*header).version = wire::VERSION;
            (*header).kind = kind as u16;
            (*header).size = size;
            (*header).ktime_ns = self.moment;
            (*header).start_ns = read(leader, offset!(task_start));
            (*header).cgroup_id = self.cgroup_id;
            (*header).tgid = tgid;
            (*header).tid = tid;
            (*header).ppid = read(parent, offset!(task_tgid));
            (*header).cpu = bpf_get_smp_processor_id();
            (*header).uid = uid;
            (*header).gid = gid;
            (*header).euid = euid;
            (*header).egid = egid;
            (*header).comm = read(task, offset!(task_comm));
        }
    }
}

/// Fills a record's header for `task`, the thread that this program runs in, at `moment`.
///
/// # Safety
/// `header` is writable memory for a [`Header`].
#[inline(always)]
pub unsafe fn fill_header(header: *mut Header, kind: Kind, size: u32, task: Address, moment: u64) {
    let act = Act {
        task,
        moment,
        cgroup_id: current_cgroup_id(task),
    };
    // SAFETY: the caller vouches for `header`.
    unsafe { act.fill(header, kind, size) };
}

/// Thread and process id. The verifier knows the offsets, and keeps only one of the two ways.
#[inline(always)]
fn thread_ids(task: Address) -> [u32; 2] {
    let first = offset!(task_pid);
    if offset!(task_tgid) == first.wrapping_add(4) {
        return read(task, first);
    }
    [tid(task), tgid(task)]
}

/// Real user and group, effective user and group.
#[inline(always)]
fn users(cred: Address) -> [u32; 4] {
    let first = offset!(cred_uid);
    let at = |place: u32| first.wrapping_add(place * 4);
    let is_usual =
        offset!(cred_gid) == at(1) && offset!(cred_euid) == at(4) && offset!(cred_egid) == at(5);
    if is_usual {
        let [uid, gid, _suid, _sgid, euid, egid]: [u32; 6] = read(cred, first);
        return [uid, gid, euid, egid];
    }
    [
        read(cred, first),
        read(cred, offset!(cred_gid)),
        read(cred, offset!(cred_euid)),
        read(cred, offset!(cred_egid)),
    ]
}
