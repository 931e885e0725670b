//! All reads of kernel structs. Offsets come from the loader; nothing here knows a layout.
//!
//! Reads go through `bpf_probe_read_kernel`, which clears its destination when an address is bad. So a read always
//! gives a value, a chain of reads through a missing pointer ends in zeros, and no error path multiplies what the
//! verifier has to follow (and none is there for it to prune wrongly, aya#1574).

use core::hint::black_box;

use aya_ebpf::helpers::generated::{
    bpf_get_current_task, bpf_get_smp_processor_id, bpf_ktime_get_boot_ns, bpf_probe_read_kernel,
};
use saker_ebpf::config::UPID_BYTES;
use saker_ebpf::wire::{self, Header, Kind};

use crate::maps::WALK_BYTES;
use crate::settings::{offset, present};

/// An address in the kernel, of whatever type; 0 where a pointer was missing.
pub type Address = u64;

/// Deepest path that is walked, in components and mount crossings together.
const WALK_STEPS: u32 = 64;

/// The longest file name that Linux allows.
const NAME_BYTES_MAX: u32 = 255;

/// `enum pid_type` since 4.19: the session's place in `signal_struct.pids`.
const PIDTYPE_SID: u32 = 3;

/// `signal_struct.flags`: the group is ending with one code for all.
const SIGNAL_GROUP_EXIT: u32 = 4;

/// Reads a `T` at `base + offset`; zeros when there is nothing to read.
#[inline(always)]
pub fn read<T: Copy>(base: Address, offset: u32) -> T {
    let mut value = core::mem::MaybeUninit::<T>::zeroed();
    // SAFETY: the helper writes at most `size_of::<T>()` bytes to `value`, and checks the source itself. `T` is used
    // only with integers and arrays of them, for which zeros are a value.
    unsafe {
        bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            (base + u64::from(offset)) as *const _,
        );
        value.assume_init()
    }
}

/// The thread that this program runs in.
#[inline(always)]
pub fn current_task() -> Address {
    // SAFETY: takes nothing, returns an address.
    unsafe { bpf_get_current_task() }
}

/// Fills a record's header for `task`.
///
/// # Safety
/// `header` is writable memory for a [`Header`].
#[inline(always)]
pub unsafe fn fill_header(header: *mut Header, kind: Kind, size: u32, task: Address) {
    let leader: Address = read(task, offset!(task_group_leader));
    let parent: Address = read(task, offset!(task_real_parent));
    let cred: Address = read(task, offset!(task_cred));
    // SAFETY: the caller vouches for `header`; the helpers take nothing.
    unsafe {
        (*header).version = wire::VERSION;
        (*header).kind = kind as u16;
        (*header).size = size;
        (*header).ktime_ns = bpf_ktime_get_boot_ns();
        (*header).start_ns = read(leader, offset!(task_start));
        (*header).cgroup_id = cgroup_id(task);
        (*header).tgid = read(task, offset!(task_tgid));
        (*header).tid = read(task, offset!(task_pid));
        (*header).ppid = read(parent, offset!(task_tgid));
        (*header).cpu = bpf_get_smp_processor_id();
        (*header).uid = read(cred, offset!(cred_uid));
        (*header).gid = read(cred, offset!(cred_gid));
        (*header).euid = read(cred, offset!(cred_euid));
        (*header).egid = read(cred, offset!(cred_egid));
        (*header).comm = read(task, offset!(task_comm));
    }
}

/// Process id of a task.
#[inline(always)]
pub fn tgid(task: Address) -> u32 {
    read(task, offset!(task_tgid))
}

/// Thread id of a task.
#[inline(always)]
pub fn tid(task: Address) -> u32 {
    read(task, offset!(task_pid))
}

/// Process id of a task's real parent.
#[inline(always)]
pub fn ppid(task: Address) -> u32 {
    read(
        read(task, offset!(task_real_parent)),
        offset!(task_tgid),
    )
}

/// When a task's process started, nanoseconds of `CLOCK_BOOTTIME`.
#[inline(always)]
pub fn start_ns(task: Address) -> u64 {
    read(
        read(task, offset!(task_group_leader)),
        offset!(task_start),
    )
}

/// When the process of a task's real parent started.
#[inline(always)]
pub fn parent_start_ns(task: Address) -> u64 {
    start_ns(read(task, offset!(task_real_parent)))
}

/// Id of a task's cgroup in the v2 hierarchy.
#[inline(always)]
pub fn cgroup_id(task: Address) -> u64 {
    let css_set: Address = read(task, offset!(task_cgroups));
    let cgroup: Address = read(css_set, offset!(css_set_dfl_cgrp));
    let node: Address = read(cgroup, offset!(cgroup_kn));
    read(node, offset!(kernfs_node_id))
}

/// Has the last thread of this task's process ended?
#[inline(always)]
pub fn is_process_dead(task: Address) -> bool {
    let live: u32 = read(read(task, offset!(task_signal)), offset!(signal_live));
    live == 0
}

/// How a process ended, as `wait` tells it.
#[inline(always)]
pub fn exit_code(task: Address) -> u32 {
    let signal: Address = read(task, offset!(task_signal));
    let flags: u32 = read(signal, offset!(signal_flags));
    if flags & SIGNAL_GROUP_EXIT != 0 {
        return read(signal, offset!(signal_group_exit_code));
    }
    read(task, offset!(task_exit_code))
}

/// Audit's login user and session.
#[inline(always)]
pub fn audit(task: Address) -> (u32, u32) {
    let value = |offset| {
        if present(offset) {
            read(task, offset)
        } else {
            wire::process::UNSET
        }
    };
    (value(offset!(task_loginuid)), value(offset!(task_sessionid)))
}

/// The controlling terminal, encoded as `stat` does; 0 when there is none.
#[inline(always)]
pub fn tty(task: Address) -> u32 {
    if !present(offset!(signal_tty)) || !present(offset!(tty_driver_minor_start)) {
        return 0;
    }
    let signal: Address = read(task, offset!(task_signal));
    let tty: Address = read(signal, offset!(signal_tty));
    if tty == 0 {
        return 0;
    }
    let driver: Address = read(tty, offset!(tty_driver));
    let index: u32 = read(tty, offset!(tty_index));
    let major: u32 = read(driver, offset!(tty_driver_major));
    let minor_start: u32 = read(driver, offset!(tty_driver_minor_start));
    let minor = minor_start.wrapping_add(index);
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// The ids of a process that depend on namespaces.
pub struct Ids {
    /// Its id in its own pid namespace.
    pub ns_tgid: u32,
    /// Inode number of that namespace.
    pub pid_ns: u32,
    /// Its session leader, in the initial namespace.
    pub session_leader: u32,
}

/// Reads [`Ids`] of a thread group leader; zeros on a kernel that lacks a field for them.
#[inline(always)]
pub fn ids(task: Address) -> Ids {
    if !present(offset!(task_thread_pid)) || !present(offset!(pid_ns_inum)) {
        return Ids {
            ns_tgid: 0,
            pid_ns: 0,
            session_leader: 0,
        };
    }
    let pid: Address = read(task, offset!(task_thread_pid));
    let level: u32 = read(pid, offset!(pid_level));
    let own = pid + u64::from(offset!(pid_numbers)) + u64::from(level) * u64::from(UPID_BYTES);
    let namespace: Address = read(own, offset!(upid_ns));
    let signal: Address = read(task, offset!(task_signal));
    let session: Address = read(signal, offset!(signal_pids) + PIDTYPE_SID * 8);
    Ids {
        ns_tgid: read(own, offset!(upid_nr)),
        pid_ns: read(namespace, offset!(pid_ns_inum)),
        session_leader: read(session, offset!(pid_numbers) + offset!(upid_nr)),
    }
}

/// Inode number of a task's mount namespace, 0 when unknown.
#[inline(always)]
pub fn mount_ns(task: Address) -> u32 {
    if !present(offset!(task_nsproxy)) || !present(offset!(mnt_ns_inum)) {
        return 0;
    }
    let proxy: Address = read(task, offset!(task_nsproxy));
    read(read(proxy, offset!(nsproxy_mnt)), offset!(mnt_ns_inum))
}

/// What the kernel knows of a file apart from its name.
pub struct Inode {
    pub number: u64,
    pub device: u32,
    pub links: u32,
}

/// Reads [`Inode`] for a dentry; one link and zeros on a kernel that lacks a field for it.
#[inline(always)]
pub fn inode(dentry: Address) -> Inode {
    if !present(offset!(dentry_inode)) || !present(offset!(super_block_dev)) {
        return Inode {
            number: 0,
            device: 0,
            links: 1,
        };
    }
    let inode: Address = read(dentry, offset!(dentry_inode));
    Inode {
        number: read(inode, offset!(inode_ino)),
        links: read(inode, offset!(inode_nlink)),
        device: read(read(inode, offset!(inode_sb)), offset!(super_block_dev)),
    }
}

/// A place in the file system: `struct path`.
#[derive(Clone, Copy)]
pub struct Place {
    pub mount: Address,
    pub dentry: Address,
}

/// The root folder of a task: `/` for it, the container's root for a container's process.
#[inline(always)]
pub fn root(task: Address) -> Place {
    let fs: Address = read(task, offset!(task_fs));
    Place {
        mount: read(fs, offset!(fs_root_mnt)),
        dentry: read(fs, offset!(fs_root_dentry)),
    }
}

/// The working directory of a task.
#[inline(always)]
pub fn working_directory(task: Address) -> Place {
    let fs: Address = read(task, offset!(task_fs));
    Place {
        mount: read(fs, offset!(fs_pwd_mnt)),
        dentry: read(fs, offset!(fs_pwd_dentry)),
    }
}

/// The executable of an address space.
#[inline(always)]
pub fn executable(mm: Address) -> Place {
    let file: Address = read(mm, offset!(mm_exe_file));
    Place {
        mount: read(file, offset!(file_mnt)),
        dentry: read(file, offset!(file_dentry)),
    }
}

/// A path put together at the end of its buffer.
pub struct Walked {
    /// First byte in use; the path ends at [`WALK_BYTES`].
    pub start: u32,
    /// Did its beginning not fit?
    pub cut: bool,
    /// Is it the name of something that is linked into no folder, such as a memfd?
    pub detached: bool,
}

/// Writes the path of `place` as a process rooted at `root` sees it, from its last component to its first.
///
/// `d_path` is not to be had in a raw tracepoint, so this is its walk: up the parents, and at the root of a mount on
/// to where that is mounted. It takes no lock; a rename meanwhile can mix the names of two real paths. What lies
/// outside `root` gets its path from the root of its mount namespace.
///
/// # Safety
/// `buffer` is the `walk` field of an [`crate::maps::ExecScratch`].
#[inline(always)]
pub unsafe fn walk(buffer: *mut u8, place: Place, root: Place) -> Walked {
    let mut at = place;
    let mut walked = Walked {
        start: WALK_BYTES as u32,
        cut: true,
        detached: false,
    };
    let mut step = 0;
    while step < WALK_STEPS {
        step += 1;
        if at.dentry == 0 || (at.dentry == root.dentry && at.mount == root.mount) {
            walked.cut = false;
            break;
        }
        let mount_root: Address = read(at.mount, offset!(vfsmount_root));
        if at.dentry == mount_root {
            let mount = at.mount.wrapping_sub(u64::from(offset!(mount_mnt)));
            let parent: Address = read(mount, offset!(mount_parent));
            if parent == mount || parent == 0 {
                walked.cut = false;
                break;
            }
            at.dentry = read(mount, offset!(mount_mountpoint));
            at.mount = parent.wrapping_add(u64::from(offset!(mount_mnt)));
            continue;
        }
        let length: u32 = read(at.dentry, offset!(dentry_name_len));
        let length = if length > NAME_BYTES_MAX {
            NAME_BYTES_MAX
        } else {
            length
        };
        if length + 1 > walked.start {
            break;
        }
        walked.start -= length + 1;
        // The masks repeat what was just checked, in the form that the verifier follows; `black_box` keeps the
        // compiler from seeing that they change nothing.
        let to = black_box(walked.start) as usize & (WALK_BYTES - 1);
        let length = black_box(length) & NAME_BYTES_MAX;
        let name: Address = read(at.dentry, offset!(dentry_name));
        // SAFETY: `to` is at most 1023 and `length` at most 255: within the buffer and its slack.
        unsafe {
            *buffer.add(to) = b'/';
            bpf_probe_read_kernel(buffer.add(to + 1).cast(), length, name as *const _);
        }
        let parent: Address = read(at.dentry, offset!(dentry_parent));
        if parent == at.dentry {
            walked.cut = false;
            walked.detached = true;
            break;
        }
        at.dentry = parent;
    }
    if walked.start == WALK_BYTES as u32 && !walked.cut && place.dentry != 0 {
        walked.start -= 1;
        // SAFETY: the last byte before WALK_BYTES.
        unsafe { *buffer.add(WALK_BYTES - 1) = b'/' };
    }
    walked
}
