//! Attaches kernel programs that do nothing, to see what hooks cost by themselves: `empty_programs HOOK…`, until its stdin ends.
//! A hook is `raw_tracepoint:NAME`, `tracepoint:CATEGORY/NAME`, or `TYPE@CGROUP` with the type as bpftool names it.
//!
//! The programs are two instructions (`r0 = …; exit`), so no object file and no loader stand between them and the kernel.

use std::{
    env,
    fs::{self, File},
    io::{self, Read as _},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
    process::ExitCode,
};

const PROG_LOAD: libc::c_int = 5;
const RAW_TRACEPOINT_OPEN: libc::c_int = 17;
const LINK_CREATE: libc::c_int = 28;

const TYPE_TRACEPOINT: u32 = 5;
const TYPE_CGROUP_SKB: u32 = 8;
const TYPE_CGROUP_SOCK: u32 = 9;
const TYPE_CGROUP_DEVICE: u32 = 15;
const TYPE_RAW_TRACEPOINT: u32 = 17;
const TYPE_CGROUP_SOCK_ADDR: u32 = 18;

const PERF_TYPE_TRACEPOINT: u32 = 2;
const PERF_EVENT_IOC_SET_BPF: libc::Ioctl = 0x4004_2408;
const PERF_EVENT_IOC_ENABLE: libc::Ioctl = 0x2400;

/// bpftool's name, the type of program, the type of attachment.
const CGROUP_HOOKS: &[(&str, u32, u32)] = &[
    ("cgroup_inet_ingress", TYPE_CGROUP_SKB, 0),
    ("cgroup_inet_egress", TYPE_CGROUP_SKB, 1),
    ("cgroup_inet_sock_create", TYPE_CGROUP_SOCK, 2),
    ("cgroup_device", TYPE_CGROUP_DEVICE, 6),
    ("cgroup_inet4_connect", TYPE_CGROUP_SOCK_ADDR, 10),
    ("cgroup_inet6_connect", TYPE_CGROUP_SOCK_ADDR, 11),
    ("cgroup_udp4_sendmsg", TYPE_CGROUP_SOCK_ADDR, 14),
    ("cgroup_udp6_sendmsg", TYPE_CGROUP_SOCK_ADDR, 15),
    ("cgroup_inet_sock_release", TYPE_CGROUP_SOCK, 34),
];

fn main() -> ExitCode {
    let mut attached = Vec::new();
    for hook in env::args().skip(1) {
        match attach(&hook) {
            Ok(mut found) => attached.append(&mut found),
            Err(error) => {
                eprintln!("{hook}: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!("attached");
    let _ = io::stdin().read_to_end(&mut Vec::new());
    ExitCode::SUCCESS
}

/// What keeps the program attached.
fn attach(hook: &str) -> io::Result<Vec<OwnedFd>> {
    if let Some(name) = hook.strip_prefix("raw_tracepoint:") {
        let program = load(TYPE_RAW_TRACEPOINT, 0, 0)?;
        let name = format!("{name}\0");
        let fd = descriptor(&program);
        let mut attr = Attr::default();
        attr.long(name.as_ptr() as u64).int(fd);
        let link = attr.call(RAW_TRACEPOINT_OPEN)?;
        return Ok(vec![program, link]);
    }
    if let Some(name) = hook.strip_prefix("tracepoint:") {
        return tracepoint(name);
    }
    let unknown = || io::Error::other("no hook of a known kind");
    let (name, cgroup) = hook.split_once('@').ok_or_else(unknown)?;
    let (_, program_type, attach_type) = CGROUP_HOOKS
        .iter()
        .find(|(known, ..)| *known == name)
        .ok_or_else(unknown)?;
    let cgroup = File::open(cgroup)?;
    let program = load(*program_type, *attach_type, 1)?;
    let mut attr = Attr::default();
    attr.int(descriptor(&program))
        .int(u32::try_from(cgroup.as_raw_fd()).unwrap_or_default())
        .int(*attach_type);
    let link = attr.call(LINK_CREATE)?;
    Ok(vec![program, link])
}

/// A tracepoint's program runs on every CPU, through a perf event of each.
fn tracepoint(name: &str) -> io::Result<Vec<OwnedFd>> {
    let roots = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
    let id = roots
        .iter()
        .find_map(|root| fs::read_to_string(format!("{root}/events/{name}/id")).ok())
        .ok_or_else(|| io::Error::other("no such tracepoint, or tracefs is not mounted"))?;
    let id: u64 = id.trim().parse().map_err(io::Error::other)?;
    let program = load(TYPE_TRACEPOINT, 0, 0)?;
    // One event is enough: the program is the tracepoint's, not the event's.
    let mut attr = [0_u64; 16];
    attr[0] = u64::from(PERF_TYPE_TRACEPOINT) | 128 << 32;
    attr[1] = id;
    attr[2] = 1;
    // SAFETY: the struct is ours, says its own length, and outlives the call.
    let event = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            attr.as_ptr(),
            -1,
            0,
            -1,
            8 as libc::c_ulong,
        )
    };
    let event = owned(event)?;
    for (request, argument) in [
        (PERF_EVENT_IOC_SET_BPF, program.as_raw_fd()),
        (PERF_EVENT_IOC_ENABLE, 0),
    ] {
        // SAFETY: both requests take a number.
        if unsafe { libc::ioctl(event.as_raw_fd(), request, argument) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(vec![program, event])
}

fn load(program_type: u32, attach_type: u32, result: u32) -> io::Result<OwnedFd> {
    // `r0 = result` and `exit`.
    let instructions = [0xb7 | u64::from(result) << 32, 0x95];
    let mut attr = Attr::default();
    attr.int(program_type)
        .int(2)
        .long(instructions.as_ptr() as u64)
        .long(c"GPL".as_ptr() as u64);
    // log_level to prog_ifindex are zero.
    attr.bytes.resize(68, 0);
    attr.int(attach_type);
    attr.call(PROG_LOAD)
}

/// The kernel's `union bpf_attr`, filled from its start.
#[derive(Default)]
struct Attr {
    bytes: Vec<u8>,
}

impl Attr {
    fn int(&mut self, value: u32) -> &mut Self {
        self.bytes.extend(value.to_ne_bytes());
        self
    }

    fn long(&mut self, value: u64) -> &mut Self {
        self.bytes.extend(value.to_ne_bytes());
        self
    }

    fn call(mut self, command: libc::c_int) -> io::Result<OwnedFd> {
        self.bytes.resize(128, 0);
        // SAFETY: the bytes are as many as is said; what they point to outlives the call.
        owned(unsafe {
            libc::syscall(
                libc::SYS_bpf,
                command,
                self.bytes.as_mut_ptr(),
                self.bytes.len(),
            )
        })
    }
}

fn descriptor(fd: &OwnedFd) -> u32 {
    u32::try_from(fd.as_raw_fd()).unwrap_or_default()
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just handed out this descriptor, to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
