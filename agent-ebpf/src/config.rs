//! What the loader decides before the kernel programs are loaded: settings, and where the running kernel keeps the
//! struct fields that they read. And what it can change while they run: what the rules want.
//!
//! Settings are a read-only global of the object. The kernel freezes it, so the verifier sees constants and drops code
//! that a setting turns off. Offsets are put into the programs' instructions. What rules want is in maps, one of them a global that can be written.

use crate::extension::Ends;

/// Name of the global that holds [`Settings`].
pub const SETTINGS_GLOBAL: &str = "SAKER_SETTINGS";

/// In the place of the number of the kernel's function `bpf_rdonly_cast`, in every call of it. The loader puts the number there, or
/// takes the call away where the kernel does not have it.
pub const CAST_MARK: u32 = 0x7ca5_7ab1;

/// In the place of a number that the loader puts into the instructions, which costs nothing to look up: this and the place of a field in
/// [`FIELDS`] for where the kernel keeps it, [`CAST_TYPE`] for the type that addresses are taken for.
pub const NUMBER_MARK: u32 = 0x5a4e_0000;
/// Behind [`NUMBER_MARK`]: the number of the kernel's type that any address may be read as; 0 where reads go through a helper.
pub const CAST_TYPE: u32 = 0xffff;

/// Name of the section, and of the map, that holds one [`First`].
pub const FIRST_MAP: &str = ".data.first";
/// Name of the section, and of the map, that holds one [`Turns`].
pub const WANTED_MAP: &str = ".data.wanted";

/// Name of the map that holds one [`DeviceTable`].
pub const DEVICES_MAP: &str = "DEVICES";

/// Most device ranges that [`DeviceTable`] can hold.
pub const DEVICE_RANGES_MAX: usize = 16;
/// Most path prefixes that [`Wanted`] can hold.
pub const OPEN_PREFIXES_MAX: usize = 8;
/// [`Wanted::open_filter`]: paths are compared with the prefixes as the kernel resolved them, not as they were passed.
pub const OPEN_BY_RESOLVED: u32 = 1 << 0;
/// [`Wanted::open_filter`]: names are looked up in the map of extensions.
pub const OPEN_BY_EXTENSION: u32 = 1 << 1;

/// Bytes of a path that the prefix filter looks at, a multiple of 8.
pub const OPEN_PREFIX_BYTES: usize = 32;
const PREFIX_WORDS: usize = OPEN_PREFIX_BYTES / 8;

/// Most environment variables that [`Wanted`] can ask for.
pub const ENV_NAMES_MAX: usize = 16;

/// What the programs report and what they drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Settings {
    /// The agent's own process, in the initial pid namespace. Its opens, device opens and connects are dropped:
    /// otherwise delivering an alert would raise the next. 0 drops nobody's.
    pub own_tgid: u32,
    /// Not 0: also report new threads, not only new processes.
    pub report_threads: u32,
    /// Entries of [`Wanted::env`] that are looked at, in use or not.
    pub env_slots: u32,
    /// Zero.
    pub unused: u32,
    /// Nanoseconds of a cgroup's share that an event of a sheddable kind takes; 0: there are no shares.
    pub share_interval_ns: u64,
    /// Nanoseconds that a cgroup that was quiet may be ahead of its share.
    pub share_burst_ns: u64,
    /// The root cgroup, which has no share: where containers cannot be told apart, all processes are in it.
    pub root_cgroup_id: u64,
    /// Where `css_set` has the state of a controller of the v1 hierarchy that stands in for v2; [`ABSENT`] for none.
    pub v1_state: u32,
    /// That hierarchy's number; 0 for none.
    pub v1_hierarchy: u32,
    /// Drawn at random by the loader: no process can know which names the programs take for the same.
    pub seeds: [u64; 2],
}

/// What the rules want, which changes when they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Wanted {
    /// A bit for the number of each kind that is wanted, and not left to another hook. Read only by programs that serve several
    /// kinds.
    pub kinds: u32,
    /// `OPEN_BY_*` bits: how opens are filtered.
    pub open_filter: u32,
    /// Entries of `prefixes` in use.
    pub prefixes_len: u32,
    /// How many environment variables are asked for; 0 leaves environments alone.
    pub env_len: u32,
    /// Paths to report.
    pub prefixes: [OpenPrefix; OPEN_PREFIXES_MAX],
    /// Environment variables to report, as `NAME=`; [`OpenPrefix::NEVER`] where there is none.
    pub env: [OpenPrefix; ENV_NAMES_MAX],
}

impl Wanted {
    /// Nothing.
    pub const NONE: Self = Self {
        kinds: 0,
        open_filter: 0,
        prefixes_len: 0,
        env_len: 0,
        prefixes: [OpenPrefix::NEVER; OPEN_PREFIXES_MAX],
        env: [OpenPrefix::NEVER; ENV_NAMES_MAX],
    };
}

/// What most opens are decided by, before anything else is looked at. It changes a word at a time, so it lets both through while rules change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct First {
    /// 1: nothing but its name decides whether an opened file is wanted; else 0.
    pub by_name_alone: u64,
    /// How wanted names end.
    pub ends: Ends,
}

impl First {
    /// Decides nothing.
    pub const NONE: Self = Self {
        by_name_alone: 0,
        ends: Ends::NONE,
    };

    /// Lets through whatever either lets through.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        Self {
            by_name_alone: self.by_name_alone & other.by_name_alone,
            ends: self.ends.or(&other.ends),
        }
    }
}

/// What the rules want, twice, so that it changes at once: the agent writes the one that does not count, and then says that it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Turns {
    /// Which of the two counts, by its lowest bit.
    pub turn: u32,
    /// Zero.
    pub reserved: u32,
    /// The two.
    pub wanted: [Wanted; 2],
}

impl Turns {
    /// Nothing is wanted.
    pub const NONE: Self = Self {
        turn: 0,
        reserved: 0,
        wanted: [Wanted::NONE; 2],
    };
}

/// The device numbers to report. In a map and not among the settings: drivers are loaded and get their numbers while
/// the agent runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DeviceTable {
    /// Entries in use.
    pub len: u32,
    /// The numbers.
    pub ranges: [DeviceRange; DEVICE_RANGES_MAX],
}

impl DeviceTable {
    /// Holds `ranges`, as many as fit.
    pub fn new(ranges: &[DeviceRange]) -> Self {
        let mut table = Self::default();
        for (slot, range) in table.ranges.iter_mut().zip(ranges) {
            *slot = *range;
            table.len += 1;
        }
        table
    }
}

/// Device nodes of one type and major, from one minor number to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DeviceRange {
    /// [`crate::wire::device::NODE_CHARACTER`] or `NODE_BLOCK`.
    pub node: u32,
    /// Major number.
    pub major: u32,
    /// First minor number.
    pub minor_first: u32,
    /// Last minor number, included.
    pub minor_last: u32,
}

/// The first bytes of a path, prepared for comparison by words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct OpenPrefix {
    /// All ones where a byte has to match.
    pub mask: [u64; PREFIX_WORDS],
    /// The bytes, zero where `mask` is.
    pub value: [u64; PREFIX_WORDS],
}

impl OpenPrefix {
    /// What nothing starts with: a byte that would have to be another than it is compared as.
    pub const NEVER: Self = Self {
        mask: [0; PREFIX_WORDS],
        value: [u64::MAX; PREFIX_WORDS],
    };

    /// Prepares `prefix`. Only its first [`OPEN_PREFIX_BYTES`] count: a longer one lets more through, never less.
    pub fn new(prefix: &[u8]) -> Self {
        let mut mask = [0u8; OPEN_PREFIX_BYTES];
        let mut value = [0u8; OPEN_PREFIX_BYTES];
        for (at, byte) in prefix.iter().take(OPEN_PREFIX_BYTES).enumerate() {
            mask[at] = u8::MAX;
            value[at] = *byte;
        }
        let words = |bytes: [u8; OPEN_PREFIX_BYTES]| {
            core::array::from_fn(|word| {
                u64::from_ne_bytes(core::array::from_fn(|at| bytes[word * 8 + at]))
            })
        };
        Self {
            mask: words(mask),
            value: words(value),
        }
    }

    /// Does a path start with it? `start` is the path's first bytes, zero-padded.
    #[inline(always)]
    pub fn matches(&self, start: &[u64; PREFIX_WORDS]) -> bool {
        self.difference(start) == 0
    }

    /// 0 where a path starts with it.
    #[inline(always)]
    pub fn difference(&self, start: &[u64; PREFIX_WORDS]) -> u64 {
        let mut difference = 0;
        let mut word = 0;
        while word < PREFIX_WORDS {
            difference |= (start[word] & self.mask[word]) ^ self.value[word];
            word += 1;
        }
        difference
    }
}

impl Settings {
    /// Settings that drop nobody's events.
    pub const NONE: Self = Self {
        own_tgid: 0,
        report_threads: 0,
        env_slots: 0,
        unused: 0,
        share_interval_ns: 0,
        share_burst_ns: 0,
        root_cgroup_id: 0,
        v1_state: ABSENT,
        v1_hierarchy: 0,
        seeds: [0; 2],
    };
}

/// Which programs cannot do without a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Every record's header.
    Header,
    /// Exec records.
    Exec,
    /// Fork records.
    Fork,
    /// Exit records.
    Exit,
    /// The file behind a descriptor.
    Descriptor,
    /// The arguments of a system call that is ending.
    Registers,
    /// The arguments of a 32-bit one.
    Registers32,
    /// Programs at functions: without it the kernel does not keep a program from interrupting itself.
    Recursion,
    /// Pickle records.
    Pickle,
    /// Opens through io_uring.
    Uring,
    /// Records of new cgroups.
    Cgroup,
    /// Nothing: a record's value stays unset without it. The text names what is lost.
    Extra(&'static str),
}

/// A field of a kernel struct that the programs read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Name in [`Offsets`].
    pub key: &'static str,
    /// The struct, by its name in the kernel.
    pub type_name: &'static str,
    /// Members from the struct to the value, with dots between; anonymous members are not named. Where kernels name a
    /// member differently, its names with `|` between, the first that is there counts. [`SIZE`]: the struct's size.
    pub path: &'static str,
    /// Bytes that the programs read there. 0: the field's address is used, not its value.
    pub bytes: u32,
    /// Who needs it.
    pub group: Group,
}

/// In the place of members: the size of the struct itself.
pub const SIZE: &str = "sizeof";

/// Marks a field that the running kernel does not have. The largest number that an instruction can hold as it is.
pub const ABSENT: u32 = i32::MAX as u32;

macro_rules! offsets {
    ($($group:expr => { $($key:ident: $type_name:literal $path:literal $bytes:literal,)+ })+) => {
        /// Byte offset of every field in [`FIELDS`], in the same order; [`ABSENT`] where there is none.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(C)]
        pub struct Offsets { $($(#[doc = concat!("`", $type_name, ".", $path, "`")] pub $key: u32,)+)+ }

        /// THE table of kernel struct fields: all that the programs read, each found in the running kernel's BTF.
        pub const FIELDS: &[Field] = &[$($(Field {
            key: stringify!($key),
            type_name: $type_name,
            path: $path,
            bytes: $bytes,
            group: $group,
        },)+)+];

        impl Offsets {
            /// No field is known.
            pub const NONE: Self = Self { $($($key: ABSENT,)+)+ };

            /// From one offset a field, in the order of [`FIELDS`].
            pub fn from_array(offsets: [u32; FIELDS.len()]) -> Self {
                let [$($($key,)+)+] = offsets;
                Self { $($($key,)+)+ }
            }
        }
    };
}

offsets! {
    Group::Header => {
        task_pid: "task_struct" "pid" 4,
        task_tgid: "task_struct" "tgid" 4,
        task_group_leader: "task_struct" "group_leader" 8,
        task_real_parent: "task_struct" "real_parent" 8,
        task_start: "task_struct" "start_boottime" 8,
        task_comm: "task_struct" "comm" 16,
        task_cred: "task_struct" "cred" 8,
        task_cgroups: "task_struct" "cgroups" 8,
        cred_uid: "cred" "uid" 4,
        cred_gid: "cred" "gid" 4,
        cred_euid: "cred" "euid" 4,
        cred_egid: "cred" "egid" 4,
        css_set_dfl_cgrp: "css_set" "dfl_cgrp" 8,
        cgroup_kn: "cgroup" "kn" 8,
        kernfs_node_id: "kernfs_node" "id" 8,
    }
    Group::Exec => {
        task_mm: "task_struct" "mm" 8,
        task_fs: "task_struct" "fs" 8,
        mm_arg_start: "mm_struct" "arg_start" 8,
        mm_arg_end: "mm_struct" "arg_end" 8,
        mm_exe_file: "mm_struct" "exe_file" 8,
        file_mnt: "file" "f_path.mnt" 8,
        file_dentry: "file" "f_path.dentry" 8,
        fs_root_mnt: "fs_struct" "root.mnt" 8,
        fs_root_dentry: "fs_struct" "root.dentry" 8,
        fs_pwd_mnt: "fs_struct" "pwd.mnt" 8,
        fs_pwd_dentry: "fs_struct" "pwd.dentry" 8,
        dentry_parent: "dentry" "d_parent" 8,
        dentry_name: "dentry" "d_name.name" 8,
        dentry_name_len: "dentry" "d_name.len" 4,
        vfsmount_root: "vfsmount" "mnt_root" 8,
        mount_mnt: "mount" "mnt" 0,
        mount_parent: "mount" "mnt_parent" 8,
        mount_mountpoint: "mount" "mnt_mountpoint" 8,
        binprm_filename: "linux_binprm" "filename" 8,
        binprm_argc: "linux_binprm" "argc" 4,
    }
    Group::Exit => {
        task_exit_code: "task_struct" "exit_code" 4,
        signal_live: "signal_struct" "live.counter" 4,
        signal_flags: "signal_struct" "flags" 4,
        signal_group_exit_code: "signal_struct" "group_exit_code" 4,
        task_signal: "task_struct" "signal" 8,
    }
    Group::Descriptor => {
        task_files: "task_struct" "files" 8,
        files_table: "files_struct" "fdt" 8,
        table_files: "fdtable" "fd" 8,
        table_len: "fdtable" "max_fds" 4,
    }
    Group::Cgroup => {
        cgroup_root: "cgroup" "root" 8,
        cgroup_self: "cgroup" "self" 0,
        cgroup_parent: "cgroup" "self.parent" 8,
        cgroup_root_hierarchy: "cgroup_root" "hierarchy_id" 4,
    }
    Group::Pickle => {
        task_exec_id: "task_struct" "self_exec_id" 8,
    }
    Group::Registers => {
        registers_first: "pt_regs" "di" 8,
        registers_second: "pt_regs" "si" 8,
        registers_third: "pt_regs" "dx" 8,
        registers_fourth: "pt_regs" "r10" 8,
    }
    Group::Registers32 => {
        registers_first32: "pt_regs" "bx" 8,
        registers_second32: "pt_regs" "cx" 8,
    }
    Group::Recursion => {
        program_misses: "bpf_prog_info" "recursion_misses" 8,
    }
    Group::Uring => {
        uring_opcode: "io_kiocb" "opcode" 1,
        // 8 bytes wide on newer kernels and 4 before; its lower bits are what counts.
        uring_flags: "io_kiocb" "flags" 0,
        uring_result: "io_kiocb" "cqe.res" 4,
        // Since 6.0, as are the tracepoints' arguments that the programs count on.
        uring_command: "io_kiocb" "cmd" 0,
        uring_open_dfd: "io_open" "dfd" 4,
        uring_open_slot: "io_open" "file_slot" 4,
        uring_open_filename: "io_open" "filename" 8,
        uring_open_flags: "io_open" "how.flags" 8,
        uring_open_mode: "io_open" "how.mode" 8,
        uring_open_resolve: "io_open" "how.resolve" 8,
        filename_name: "filename" "name" 8,
    }
    Group::Extra("the path that a device is opened by") => {
        task_nameidata: "task_struct" "nameidata" 8,
        nameidata_name: "nameidata" "name" 8,
    }
    Group::Extra("the executable's inode, device and whether it was deleted") => {
        dentry_inode: "dentry" "d_inode" 8,
        inode_ino: "inode" "i_ino" 8,
        inode_nlink: "inode" "i_nlink" 4,
        inode_sb: "inode" "i_sb" 8,
        super_block_dev: "super_block" "s_dev" 4,
    }
    Group::Extra("owner, permissions and times of the executable") => {
        inode_mode: "inode" "i_mode" 2,
        inode_uid: "inode" "i_uid" 4,
        inode_gid: "inode" "i_gid" 4,
        inode_ctime_s: "inode" "i_ctime_sec|__i_ctime.tv_sec|i_ctime.tv_sec" 8,
        // 4 bytes wide since 6.11 and 8 before; its value fits in the lower 4, which stand first on every supported machine.
        inode_ctime_ns: "inode" "i_ctime_nsec|__i_ctime.tv_nsec|i_ctime.tv_nsec" 0,
        inode_mtime_s: "inode" "i_mtime_sec|__i_mtime.tv_sec|i_mtime.tv_sec" 8,
        inode_mtime_ns: "inode" "i_mtime_nsec|__i_mtime.tv_nsec|i_mtime.tv_nsec" 0,
    }
    Group::Extra("the layer of a container's file system that holds the executable") => {
        super_block_magic: "super_block" "s_magic" 8,
        // An overlay's inode continues behind the struct with the dentry of the layer of changes. `struct ovl_inode` is in a
        // module's type information on many kernels; where it is at hand, it is checked.
        inode_size: "inode" "sizeof" 0,
    }
    Group::Extra("the process of a connection that was made before the agent started, or long before its first bytes") => {
        sock_lock_owned: "sock" "sk_lock.owned" 4,
    }
    Group::Extra("capabilities") => {
        cred_cap_permitted: "cred" "cap_permitted" 8,
        cred_cap_effective: "cred" "cap_effective" 8,
        cred_cap_inheritable: "cred" "cap_inheritable" 8,
    }
    Group::Extra("environment variables") => {
        mm_env_start: "mm_struct" "env_start" 8,
        mm_env_end: "mm_struct" "env_end" 8,
    }
    Group::Extra("start of the pid namespace") => {
        pid_ns_child_reaper: "pid_namespace" "child_reaper" 8,
    }
    Group::Extra("login user and audit session") => {
        task_loginuid: "task_struct" "loginuid" 4,
        task_sessionid: "task_struct" "sessionid" 4,
    }
    Group::Extra("controlling terminal") => {
        signal_tty: "signal_struct" "tty" 8,
        tty_driver: "tty_struct" "driver" 8,
        tty_index: "tty_struct" "index" 4,
        tty_driver_major: "tty_driver" "major" 4,
        tty_driver_minor_start: "tty_driver" "minor_start" 4,
    }
    Group::Extra("process id in the container, session leader, pid namespace") => {
        task_thread_pid: "task_struct" "thread_pid" 8,
        signal_pids: "signal_struct" "pids" 0,
        pid_level: "pid" "level" 4,
        pid_numbers: "pid" "numbers" 0,
        upid_nr: "upid" "nr" 4,
        upid_ns: "upid" "ns" 8,
        pid_ns_inum: "pid_namespace" "ns.inum" 4,
    }
    Group::Extra("mount namespace") => {
        task_nsproxy: "task_struct" "nsproxy" 8,
        nsproxy_mnt: "nsproxy" "mnt_ns" 8,
        mnt_ns_inum: "mnt_namespace" "ns.inum" 4,
    }
    Group::Extra("what tells a mount namespace from a later one of the same number") => {
        mnt_ns_sequence: "mnt_namespace" "seq|ns.ns_id" 8,
    }
    Group::Extra("cgroups of version 1 hierarchies") => {
        css_set_subsys: "css_set" "subsys" 0,
        css_cgroup: "cgroup_subsys_state" "cgroup" 8,
    }
}

/// Size of `struct upid` as the programs assume it: an id, padding, and a pointer.
pub const UPID_BYTES: u32 = 16;

/// FNV-1a over every field's struct, path and size, in order.
pub const fn fields_digest() -> u32 {
    let mut hash = 0x811c_9dc5u32;
    let mut at = 0;
    while at < FIELDS.len() {
        hash = digest(hash, FIELDS[at].type_name.as_bytes());
        hash = digest(hash, FIELDS[at].path.as_bytes());
        hash = digest(hash, &FIELDS[at].bytes.to_le_bytes());
        at += 1;
    }
    hash
}

const fn digest(mut hash: u32, bytes: &[u8]) -> u32 {
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u32).wrapping_mul(0x0100_0193);
        at += 1;
    }
    hash
}
