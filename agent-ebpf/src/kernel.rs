//! All reads of kernel structs. Offsets come from the loader; nothing here knows a layout.
//!
//! A read of a bad address gives zeros, and never an error: so a chain of reads through a missing pointer ends in zeros, and no
//! error path multiplies what the verifier has to follow (and none is there for it to prune wrongly, aya#1574). `memory` does it.

mod header;
mod memory;

use core::hint::black_box;

use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_get_current_task,
    bpf_probe_read_kernel,
};
use saker_ebpf::config::UPID_BYTES;
use saker_ebpf::wire;
use saker_ebpf::wire::cgroup::CGROUP_OF_V1;

use crate::settings::{self, offset, present};

pub use header::{Act, fill_header, now};
use memory::pair;
pub use memory::{read, tail};

/// An address in the kernel, of whatever type; 0 where a pointer was missing.
pub type Address = u64;

/// Deepest path that is walked, in components and mount crossings together: this many rounds of steps, with a look at whether
/// that was all between them.
const WALK_ROUNDS: u32 = 8;
const WALK_ROUND_STEPS: u32 = 8;

/// Bytes of a path being put together, a power of two, so that a mask bounds a position; and room behind the last
/// possible position for the longest component.
const WALK_BYTES: usize = 1024;
const WALK_SLACK_BYTES: usize = 256;

/// The longest file name that Linux allows. All ones: it serves as a mask too.
const NAME_BYTES_MAX: u32 = 255;

/// `enum pid_type` since 4.19: the session's place in `signal_struct.pids`.
const PIDTYPE_SID: u32 = 3;
/// The process group's.
const PIDTYPE_PGID: u32 = 2;

/// `OVERLAYFS_SUPER_MAGIC`
const OVERLAY_MAGIC: u64 = 0x794c_7630;

/// `signal_struct.flags`: the group is ending with one code for all.
const SIGNAL_GROUP_EXIT: u32 = 4;

/// The thread that this program runs in.
#[inline(always)]
pub fn current_task() -> Address {
    // SAFETY: takes nothing, returns an address.
    unsafe { bpf_get_current_task() }
}

/// Process id of a task.
#[inline(always)]
pub fn tgid(task: Address) -> u32 {
    read(task, offset!(task_tgid))
}

/// Process id of the thread that this program runs in.
#[inline(always)]
pub fn current_tgid() -> u32 {
    if settings::cast_type() != 0 {
        return tgid(current_task());
    }
    // SAFETY: takes nothing.
    (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32
}

/// Thread id of a task.
#[inline(always)]
pub fn tid(task: Address) -> u32 {
    read(task, offset!(task_pid))
}

/// Process id of a task's real parent.
#[inline(always)]
pub fn ppid(task: Address) -> u32 {
    read(read(task, offset!(task_real_parent)), offset!(task_tgid))
}

/// The first thread of a task's process.
#[inline(always)]
pub fn leader(task: Address) -> Address {
    read(task, offset!(task_group_leader))
}

/// When a task's process started, nanoseconds of `CLOCK_BOOTTIME`.
#[inline(always)]
pub fn start_ns(task: Address) -> u64 {
    read(leader(task), offset!(task_start))
}

/// When the process of a task's real parent started.
#[inline(always)]
pub fn parent_start_ns(task: Address) -> u64 {
    start_ns(read(task, offset!(task_real_parent)))
}

/// Id of a task's cgroup in the v2 hierarchy, or where that is the root, in the v1 hierarchy that stands in for it.
#[inline(always)]
pub fn cgroup_id(task: Address) -> u64 {
    or_of_v1(cgroup_id_of_v2(task), task)
}

/// Id of a task's cgroup in the v2 hierarchy.
#[inline(always)]
pub fn cgroup_id_of_v2(task: Address) -> u64 {
    let css_set: Address = read(task, offset!(task_cgroups));
    id_of_cgroup(read(css_set, offset!(css_set_dfl_cgrp)))
}

/// Likewise of the thread that this program runs in, which the kernel tells for less than four copies.
#[inline(always)]
pub fn current_cgroup_id(task: Address) -> u64 {
    if settings::cast_type() != 0 {
        return cgroup_id(task);
    }
    // SAFETY: takes nothing.
    or_of_v1(unsafe { bpf_get_current_cgroup_id() }, task)
}

#[inline(always)]
fn or_of_v1(id: u64, task: Address) -> u64 {
    let (state, _) = settings::v1();
    if !present(state) || id != settings::root_cgroup_id() {
        return id;
    }
    let css_set: Address = read(task, offset!(task_cgroups));
    let state: Address = read(css_set, state);
    let of_v1 = id_of_cgroup(read(state, offset!(css_cgroup)));
    if of_v1 <= V1_ROOT {
        return id;
    }
    of_v1 | CGROUP_OF_V1
}

/// The kernel's number for the root folder of every hierarchy.
pub const V1_ROOT: u64 = 1;

/// Id of a cgroup within its hierarchy.
#[inline(always)]
pub fn id_of_cgroup(cgroup: Address) -> u64 {
    read(read(cgroup, offset!(cgroup_kn)), offset!(kernfs_node_id))
}

/// Has the last thread of this task's process ended?
#[inline(always)]
pub fn is_process_dead(task: Address) -> bool {
    let live: u32 = read(read(task, offset!(task_signal)), offset!(signal_live));
    live == 0
}

/// Is it a thread of the kernel's own? So is called, too, what has given its memory back because it ends.
#[inline(always)]
pub fn is_kernel_thread(task: Address) -> bool {
    present(offset!(task_mm)) && read::<Address>(task, offset!(task_mm)) == 0
}

/// Has somebody waited for its end, so that what it pointed to may be another's by now?
#[inline(always)]
pub fn is_reaped(task: Address) -> bool {
    present(offset!(task_thread_pid)) && read::<Address>(task, offset!(task_thread_pid)) == 0
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

/// How often a task's process has started a program: with its id and start it names what it runs now.
#[inline(always)]
pub fn exec_id(task: Address) -> u64 {
    read(task, offset!(task_exec_id))
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
    (
        value(offset!(task_loginuid)),
        value(offset!(task_sessionid)),
    )
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
    /// Its process group, in the initial namespace.
    pub pgid: u32,
    /// The same in its own pid namespace; 0 when the group came from outside.
    pub ns_pgid: u32,
    /// When the namespace's first process started.
    pub pid_ns_start_ns: u64,
}

/// Reads [`Ids`] of a thread group leader; zeros on a kernel that lacks a field for them.
#[inline(always)]
pub fn ids(task: Address) -> Ids {
    if !present(offset!(task_thread_pid)) || !present(offset!(pid_ns_inum)) {
        return Ids {
            ns_tgid: 0,
            pid_ns: 0,
            session_leader: 0,
            pgid: 0,
            ns_pgid: 0,
            pid_ns_start_ns: wire::process::START_UNKNOWN,
        };
    }
    let pid: Address = read(task, offset!(task_thread_pid));
    let level: u32 = read(pid, offset!(pid_level));
    let own = pid + u64::from(offset!(pid_numbers)) + u64::from(level) * u64::from(UPID_BYTES);
    let namespace: Address = read(own, offset!(upid_ns));
    let signal: Address = read(task, offset!(task_signal));
    let session: Address = read(signal, offset!(signal_pids) + PIDTYPE_SID * 8);
    let group: Address = read(signal, offset!(signal_pids) + PIDTYPE_PGID * 8);
    let group_level: u32 = read(group, offset!(pid_level));
    let group_own =
        group + u64::from(offset!(pid_numbers)) + u64::from(level) * u64::from(UPID_BYTES);
    let ns_pgid: u32 = if group_level >= level {
        read(group_own, offset!(upid_nr))
    } else {
        0
    };
    let first: Address = if present(offset!(pid_ns_child_reaper)) {
        read(namespace, offset!(pid_ns_child_reaper))
    } else {
        0
    };
    Ids {
        pgid: read(group, offset!(pid_numbers) + offset!(upid_nr)),
        ns_pgid,
        pid_ns_start_ns: if first == 0 {
            wire::process::START_UNKNOWN
        } else {
            read(first, offset!(task_start))
        },
        ns_tgid: read(own, offset!(upid_nr)),
        pid_ns: read(namespace, offset!(pid_ns_inum)),
        session_leader: read(session, offset!(pid_numbers) + offset!(upid_nr)),
    }
}

/// Inode number of a task's mount namespace, and its number among all that ever were; 0 when unknown.
#[inline(always)]
pub fn mount_ns(task: Address) -> (u32, u64) {
    if !present(offset!(task_nsproxy)) || !present(offset!(mnt_ns_inum)) {
        return (0, 0);
    }
    let proxy: Address = read(task, offset!(task_nsproxy));
    let namespace: Address = read(proxy, offset!(nsproxy_mnt));
    let sequence = if present(offset!(mnt_ns_sequence)) {
        read(namespace, offset!(mnt_ns_sequence))
    } else {
        0
    };
    (read(namespace, offset!(mnt_ns_inum)), sequence)
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

/// Who may do what with a file, and when it changed.
pub struct Attributes {
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
    pub ctime_ns: u64,
    pub mtime_ns: u64,
}

/// Reads [`Attributes`] for a dentry; no owner on a kernel that lacks a field for it.
#[inline(always)]
pub fn attributes(dentry: Address) -> Attributes {
    if !present(offset!(dentry_inode))
        || !present(offset!(inode_mode))
        || !present(offset!(inode_uid))
        || !present(offset!(inode_gid))
    {
        return Attributes {
            uid: wire::process::UNSET,
            gid: wire::process::UNSET,
            mode: 0,
            ctime_ns: wire::process::TIME_UNKNOWN,
            mtime_ns: wire::process::TIME_UNKNOWN,
        };
    }
    let inode: Address = read(dentry, offset!(dentry_inode));
    let mode: u16 = read(inode, offset!(inode_mode));
    Attributes {
        uid: read(inode, offset!(inode_uid)),
        gid: read(inode, offset!(inode_gid)),
        mode: u32::from(mode),
        ctime_ns: moment(inode, offset!(inode_ctime_s), offset!(inode_ctime_ns)),
        mtime_ns: moment(inode, offset!(inode_mtime_s), offset!(inode_mtime_ns)),
    }
}

/// Seconds and nanoseconds as one number; unknown for a moment before 1970, and one that the kernel does not show.
#[inline(always)]
fn moment(inode: Address, seconds: u32, nanoseconds: u32) -> u64 {
    if !present(seconds) || !present(nanoseconds) {
        return wire::process::TIME_UNKNOWN;
    }
    let seconds: u64 = read(inode, seconds);
    // Since 6.13 the uppermost bit says that somebody has asked for the time, and is no part of it.
    let nanoseconds = read::<u32>(inode, nanoseconds) & 0x7fff_ffff;
    if seconds > u64::MAX / 2_000_000_000 {
        return wire::process::TIME_UNKNOWN;
    }
    seconds * 1_000_000_000 + u64::from(nanoseconds)
}

/// The `EXEC_*_LAYER` bits of a file by its dentry.
#[inline(always)]
pub fn layer(dentry: Address) -> u32 {
    if !present(offset!(dentry_inode))
        || !present(offset!(inode_sb))
        || !present(offset!(super_block_magic))
        || !present(offset!(inode_size))
    {
        return 0;
    }
    let inode: Address = read(dentry, offset!(dentry_inode));
    let magic: u64 = read(read(inode, offset!(inode_sb)), offset!(super_block_magic));
    if magic != OVERLAY_MAGIC {
        return wire::process::EXEC_LAYER_KNOWN;
    }
    let upper: Address = read(inode, offset!(inode_size));
    let upper_inode: Address = read(upper, offset!(dentry_inode));
    if upper != 0 && upper_inode != 0 {
        wire::process::EXEC_LAYER_KNOWN | wire::process::EXEC_UPPER_LAYER
    } else {
        wire::process::EXEC_LAYER_KNOWN | wire::process::EXEC_LOWER_LAYER
    }
}

/// Permitted, effective and inheritable capabilities of a task.
#[inline(always)]
pub fn capabilities(task: Address) -> Option<[u64; 3]> {
    if !present(offset!(cred_cap_permitted))
        || !present(offset!(cred_cap_effective))
        || !present(offset!(cred_cap_inheritable))
    {
        return None;
    }
    let cred: Address = read(task, offset!(task_cred));
    Some([
        read(cred, offset!(cred_cap_permitted)),
        read(cred, offset!(cred_cap_effective)),
        read(cred, offset!(cred_cap_inheritable)),
    ])
}

/// A place in the file system: `struct path`.
#[derive(Clone, Copy)]
pub struct Place {
    pub mount: Address,
    pub dentry: Address,
}

impl Place {
    /// Nowhere.
    pub const NONE: Self = Self {
        mount: 0,
        dentry: 0,
    };
}

/// The file behind a descriptor of a task; 0 when there is none.
#[inline(always)]
pub fn opened(task: Address, descriptor: u32) -> Address {
    let files: Address = read(task, offset!(task_files));
    let table: Address = read(files, offset!(files_table));
    // The number is 4 bytes long; what follows it is padding, or read on its own.
    let (len, all) = pair(table, offset!(table_len), offset!(table_files));
    if descriptor >= len as u32 {
        return 0;
    }
    read(all + u64::from(descriptor) * 8, 0)
}

/// The path that a task is opening a file by, as it was passed; 0 when it is not doing that. While it only looks for a file, or
/// makes one, nobody asks for permission to use a device.
#[inline(always)]
pub fn opening(task: Address) -> Address {
    if !present(offset!(task_nameidata))
        || !present(offset!(nameidata_name))
        || !present(offset!(filename_name))
    {
        return 0;
    }
    let walk: Address = read(task, offset!(task_nameidata));
    if walk == 0 {
        return 0;
    }
    file_name(read(walk, offset!(nameidata_name)))
}

/// The text of the kernel's copy of a path.
#[inline(always)]
pub fn file_name(filename: Address) -> Address {
    read(filename, offset!(filename_name))
}

/// The dentry that a file was opened by.
#[inline(always)]
pub fn dentry(file: Address) -> Address {
    read(file, offset!(file_dentry))
}

/// Where a file is; nowhere without a file.
#[inline(always)]
pub fn place(file: Address) -> Place {
    if file == 0 {
        return Place::NONE;
    }
    let (mount, dentry) = pair(file, offset!(file_mnt), offset!(file_dentry));
    Place { mount, dentry }
}

/// A dentry's name, and its length.
#[inline(always)]
pub fn name(dentry: Address) -> (Address, u32) {
    let length = offset!(dentry_name_len);
    let name = offset!(dentry_name);
    if u64::from(length) + 4 == u64::from(name) {
        // The length is the upper half of a word whose lower one is the name's hash.
        let (hash_and_length, name) = pair(dentry + u64::from(length) - 4, 0, 8);
        return (name, (hash_and_length >> 32) as u32);
    }
    (read(dentry, name), read(dentry, length))
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

/// A path put together at the end of a buffer, from its last component to its first.
///
/// All of it lives in a map, also what is only needed along the way. The verifier does not follow values through map
/// memory, so it sees every step of the walk start from the same unknowns, and follows each step once. With the state
/// in registers it followed every mixture of components and mount crossings, and gave up at a million instructions.
#[repr(C)]
pub struct Walk {
    dentry: Address,
    mount: Address,
    /// First byte in use; the path ends at [`WALK_BYTES`].
    start: u32,
    /// Not 0: its beginning did not fit.
    cut: u32,
    /// Not 0: it is the name of something that is linked into no folder, such as a memfd.
    detached: u32,
    /// Not 0: nothing is left to do.
    done: u32,
    path: [u8; WALK_BYTES + WALK_SLACK_BYTES],
}

impl Walk {
    /// Walks from `place` up to `root`, and makes the path as a process with that root sees it.
    ///
    /// `d_path` is not to be had in a raw tracepoint, so this does what it does: up the parents, and at the root of a
    /// mount on to where that is mounted. It takes no lock; a rename meanwhile can mix the names of two real paths.
    /// What lies outside `root` gets its path from the root of its mount namespace.
    #[inline(always)]
    pub fn run(&mut self, place: Place, root: Place) {
        self.set(place.dentry, place.mount, WALK_BYTES as u32);
        self.cut = 1;
        self.detached = 0;
        self.end(0);
        let mut round = 0;
        while round < WALK_ROUNDS && !self.is_done() {
            round += 1;
            let mut step = 0;
            while step < WALK_ROUND_STEPS {
                step += 1;
                self.step(root);
            }
        }
        if self.start() == WALK_BYTES as u32 && place.dentry != 0 {
            self.path[WALK_BYTES - 1] = b'/';
            self.set(0, 0, WALK_BYTES as u32 - 1);
        }
    }

    /// One component, or one mount crossing; nothing behind the end. A way out of the loop from here, from each of its
    /// steps, would have the verifier follow the rest of the program from each.
    #[inline(always)]
    fn step(&mut self, root: Place) {
        if self.is_done() {
            return;
        }
        // SAFETY: fields of `self`; volatile to keep them in the map.
        let (dentry, mount) = unsafe {
            (
                core::ptr::read_volatile(&raw const self.dentry),
                core::ptr::read_volatile(&raw const self.mount),
            )
        };
        if dentry == 0 || (dentry == root.dentry && mount == root.mount) {
            self.cut = 0;
            return self.end(1);
        }
        let start = self.start();
        let mount_root: Address = read(mount, offset!(vfsmount_root));
        if dentry == mount_root {
            let mount = mount.wrapping_sub(u64::from(offset!(mount_mnt)));
            let parent: Address = read(mount, offset!(mount_parent));
            if parent == mount || parent == 0 {
                self.cut = 0;
                return self.end(1);
            }
            self.set(
                read(mount, offset!(mount_mountpoint)),
                parent.wrapping_add(u64::from(offset!(mount_mnt))),
                start,
            );
            return;
        }
        let (name, length) = name(dentry);
        let length = black_box(length) & NAME_BYTES_MAX;
        if length + 1 > start {
            return self.end(1);
        }
        let start = start - length - 1;
        // The mask repeats what was just checked, in the form that the verifier follows; `black_box` keeps the
        // compiler from seeing that it changes nothing.
        let to = black_box(start) as usize & (WALK_BYTES - 1);
        // SAFETY: `to` is at most 1023 and `length` at most 255: within the buffer and its slack.
        unsafe {
            let path = (&raw mut self.path).cast::<u8>().add(to);
            *path = b'/';
            bpf_probe_read_kernel(path.add(1).cast(), length, name as *const _);
        }
        let parent: Address = read(dentry, offset!(dentry_parent));
        self.set(parent, mount, start);
        if parent == dentry {
            self.cut = 0;
            self.detached = 1;
            self.end(1);
        }
    }

    #[inline(always)]
    fn is_done(&self) -> bool {
        // SAFETY: a field of `self`; volatile to read it from the map.
        unsafe { core::ptr::read_volatile(&raw const self.done) != 0 }
    }

    #[inline(always)]
    fn end(&mut self, done: u32) {
        // SAFETY: a field of `self`; volatile to keep it in the map.
        unsafe { core::ptr::write_volatile(&raw mut self.done, done) };
    }

    #[inline(always)]
    fn set(&mut self, dentry: Address, mount: Address, start: u32) {
        // SAFETY: fields of `self`; volatile to keep them in the map.
        unsafe {
            core::ptr::write_volatile(&raw mut self.dentry, dentry);
            core::ptr::write_volatile(&raw mut self.mount, mount);
            core::ptr::write_volatile(&raw mut self.start, start);
        }
    }

    #[inline(always)]
    fn start(&self) -> u32 {
        // SAFETY: a field of `self`; volatile to read it from the map.
        unsafe { core::ptr::read_volatile(&raw const self.start) }
    }

    /// Did the path's beginning not fit?
    #[inline(always)]
    pub fn is_cut(&self) -> bool {
        // SAFETY: as above.
        unsafe { core::ptr::read_volatile(&raw const self.cut) != 0 }
    }

    /// Is it the name of something that is linked into no folder?
    #[inline(always)]
    pub fn is_detached(&self) -> bool {
        // SAFETY: as above.
        unsafe { core::ptr::read_volatile(&raw const self.detached) != 0 }
    }

    /// The path's first bytes, for comparison; what lies behind a shorter path is anything.
    #[inline(always)]
    pub fn beginning(&self) -> [u64; 4] {
        let (path, _) = self.path();
        // SAFETY: a path starts within the buffer, whose slack is longer than this.
        unsafe { path.cast::<[u64; 4]>().read_unaligned() }
    }

    /// The path's first byte, and how many there are.
    #[inline(always)]
    pub fn path(&self) -> (*const u8, u32) {
        let start = self.start();
        let from = black_box(start) as usize & (WALK_BYTES - 1);
        // SAFETY: `from` is within the buffer.
        let path = unsafe { (&raw const self.path).cast::<u8>().add(from) };
        (path, WALK_BYTES as u32 - start)
    }
}
