//! Attaching a program to a tracepoint by its number, and to an instruction of a file.
//!
//! aya does this too, but finds the number only where tracefs is mounted. Containers and minimal nodes do not mount
//! it; here it is read through a detached mount then. The raw tracepoints `sys_enter` and `sys_exit` would need no
//! tracefs, but run the program for every system call of every task instead of for the few that are asked about.

use std::ffi::{CStr, CString};
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use aya_obj::generated::bpf_prog_info;

use super::{calls::owned, mounts};

/// Where tracefs is when somebody mounted it.
const MOUNT_POINTS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

const PERF_TYPE_TRACEPOINT: u32 = 2;
/// Size of the first published `perf_event_attr`, which has all that is used here.
const PERF_ATTR_BYTES: u32 = 64;
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
const PERF_EVENT_IOC_ENABLE: libc::c_ulong = 0x2400;
const PERF_EVENT_IOC_SET_BPF: libc::c_ulong = 0x4004_2408;

/// The numbers of the kernel's tracepoints.
#[derive(Debug)]
pub struct Tracefs {
    folder: OwnedFd,
}

#[repr(C)]
#[derive(Default)]
struct PerfEventAttr {
    kind: u32,
    size: u32,
    config: u64,
    rest: [u64; 6],
}

const _: () = assert!(size_of::<PerfEventAttr>() == PERF_ATTR_BYTES as usize);

impl Tracefs {
    /// Opens tracefs where it is mounted, or mounts it where nobody sees it.
    pub fn open() -> io::Result<Self> {
        for point in MOUNT_POINTS {
            if Path::new(point).join("events").is_dir() {
                return Ok(Self {
                    folder: fs::File::open(point)?.into(),
                });
            }
        }
        Ok(Self {
            folder: mounts::mount_detached(c"tracefs")?,
        })
    }

    /// Number of a tracepoint; an error of kind `NotFound` when the kernel does not have it.
    fn number(&self, category: &str, name: &str) -> io::Result<u64> {
        let path = CString::new(format!("events/{category}/{name}/id"))?;
        let file = mounts::open_below(self.folder.as_fd(), &path, libc::O_RDONLY)?;
        let mut text = String::new();
        fs::File::from(file).take(64).read_to_string(&mut text)?;
        text.trim().parse().map_err(io::Error::other)
    }
}

/// Runs `program` at a tracepoint of every CPU until the returned descriptor is closed.
pub fn attach(
    tracefs: &Tracefs,
    category: &str,
    name: &str,
    program: BorrowedFd<'_>,
) -> io::Result<OwnedFd> {
    let attr = PerfEventAttr {
        kind: PERF_TYPE_TRACEPOINT,
        size: PERF_ATTR_BYTES,
        config: tracefs.number(category, name)?,
        ..PerfEventAttr::default()
    };
    // SAFETY: `attr` is as long as it says.
    unsafe { open_event((&raw const attr).cast(), program) }
}

/// Opens an event and has it run a program.
///
/// # Safety
/// `attr` is a `perf_event_attr` of the size that it says, and what it points to is there.
unsafe fn open_event(attr: *const libc::c_void, program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let (every_process, cpu, no_group): (libc::pid_t, libc::c_int, libc::c_int) = (-1, 0, -1);
    // SAFETY: the caller vouches for `attr`. The programs of such an event run on all CPUs, whichever is named.
    let event = owned(unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            attr,
            every_process,
            cpu,
            no_group,
            PERF_FLAG_FD_CLOEXEC,
        )
    })?;
    for (request, argument) in [
        (PERF_EVENT_IOC_SET_BPF, program.as_raw_fd()),
        (PERF_EVENT_IOC_ENABLE, 0),
    ] {
        // SAFETY: both requests take an integer.
        if unsafe { libc::ioctl(event.as_raw_fd(), request as _, argument) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(event)
}

/// The kernel's number for uprobes as a source of events.
pub fn uprobe_type() -> io::Result<u32> {
    let text = fs::read_to_string("/sys/bus/event_source/devices/uprobe/type")?;
    text.trim().parse().map_err(io::Error::other)
}

/// `perf_event_attr` up to `config2`.
#[repr(C)]
#[derive(Default)]
struct UprobeAttr {
    kind: u32,
    size: u32,
    unused: [u64; 6],
    path: u64,
    offset: u64,
}

const _: () = assert!(size_of::<UprobeAttr>() == 72);

/// Runs `program` whenever a process executes the instruction at `offset` of the file at `path`, until the returned
/// descriptor is closed.
pub fn attach_uprobe(
    kind: u32,
    path: &CStr,
    offset: u64,
    program: BorrowedFd<'_>,
) -> io::Result<OwnedFd> {
    let attr = UprobeAttr {
        kind,
        size: size_of::<UprobeAttr>() as u32,
        path: path.as_ptr() as u64,
        offset,
        ..UprobeAttr::default()
    };
    // SAFETY: `attr` is as long as it says, and `path` outlives the call.
    unsafe { open_event((&raw const attr).cast(), program) }
}

/// What the kernel counts of a program since it was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// Runs that the kernel left out because the program was already running on that CPU.
    pub missed: u64,
    /// Nanoseconds in it, while `kernel.bpf_stats_enabled` is 1.
    pub time_ns: u64,
    /// Runs, likewise.
    pub count: u64,
}

/// Asks the kernel.
pub fn runs(program: BorrowedFd<'_>) -> io::Result<Runs> {
    const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
    #[repr(C)]
    struct Attr {
        fd: u32,
        info_bytes: u32,
        info: u64,
    }
    // SAFETY: the struct holds integers only, for which zeros are a value. A kernel older than 5.12 leaves the field 0.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    let attr = Attr {
        fd: program.as_raw_fd().cast_unsigned(),
        info_bytes: size_of::<bpf_prog_info>() as u32,
        info: (&raw mut info) as u64,
    };
    // SAFETY: `attr` is as long as is said, and `info` as long as it says.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET_INFO_BY_FD,
            &raw const attr,
            size_of::<Attr>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Runs {
        missed: info.recursion_misses,
        time_ns: info.run_time_ns,
        count: info.run_cnt,
    })
}
