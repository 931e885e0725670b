//! What a process that uses a GPU shows in `/proc`: the libraries that it has mapped, its executable, its connections.
//!
//! It is looked at when it is new and then once a minute, on the sampler's thread: reading a process's maps can wait for that process.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::Read as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::Path,
};

use crate::event::gpu::{CONNECTIONS_MAX, Connections, GpuState, Libraries, Look, Made, Opener};

const AGAIN_NS: u64 = 60_000_000_000;
/// Processes that are looked at anew between two sweeps, which is one look at all GPUs: it must not take so long that the driver seems to
/// hang. The others keep what was seen of them, and have their turn later.
const NEW_MAX: usize = 64;
/// Bounds of what is read of one process. PyTorch's maps are about half a megabyte.
const MAPS_BYTES_MAX: u64 = 8 << 20;
const TABLE_BYTES_MAX: u64 = 1 << 20;
const DESCRIPTORS_MAX: usize = 4_096;
/// USER_HZ is 100 everywhere.
const TICK_NS: u64 = 10_000_000;

/// Beginnings of the names of libraries that machine learning and scientific computing use, and miners do without: they
/// link CUDA's runtime into themselves. `libcuda` and `libnvrtc` are not among them: every program on a GPU has the first, and miners that
/// generate their code the second.
const RUNTIMES: &[&str] = &[
    "libcudnn",
    "libcublas",
    "libcufft",
    "libcusolver",
    "libcusparse",
    "libnccl.so",
    "libtorch",
    "libc10_cuda",
    "libtensorflow",
    "_pywrap_tensorflow",
    "xla_extension",
    "xla_cuda_plugin",
    "libjax",
    "libonnxruntime",
    "libnvinfer",
    "libtriton",
    "libtritonserver",
    "libggml",
    "libllama",
    "libmxnet",
    "libpaddle",
    "libcupy",
    "libxgboost",
    "libamdhip64",
    "librocblas",
    "libMIOpen",
    "libcurand",
    "libcutensor",
    "libcudf",
    "librmm",
    "libcufile",
    "libnvshmem",
    "libnvoptix",
    "libnvcuvid",
    "libnvidia-encode",
    "libgromacs",
    "liblammps",
    "libOpenMM",
    "libmpi.so",
    "libhdf5",
];
/// CUDA's runtime alone says nothing: programs of every kind link it into themselves or load it.
const CUDA_RUNTIMES: &[&str] = &["libcudart.so", "libcudart-"];

/// Of them those whose programs compute with integers at length: models of 8 and 4 bits, tables and graphs, and whatever runs by MPI.
const INTEGER_RUNTIMES: &[&str] = &["libggml", "libllama", "libcudf", "librmm", "libmpi.so"];

/// What was found, by pid.
#[derive(Debug, Default)]
pub struct Looks {
    known: HashMap<u32, (u64, Look)>,
    /// Looked at since the last sweep.
    new: usize,
}

impl Looks {
    /// What a process shows; `None` where it is gone.
    pub fn of(&mut self, pid: u32, now_ns: u64) -> Option<Look> {
        let folder = Path::new("/proc").join(pid.to_string());
        let start_ns = start(&folder)?;
        match self.known.get(&pid) {
            Some((at, look)) if look.start_ns == start_ns && now_ns < at + AGAIN_NS => {
                Some(look.clone())
            }
            Some((_, look)) if look.start_ns == start_ns && self.new >= NEW_MAX => {
                Some(look.clone())
            }
            // Not kept, so that it is one of the first next time.
            _ if self.new >= NEW_MAX => Some(Look {
                start_ns,
                ..Look::default()
            }),
            _ => {
                self.new += 1;
                let look = look(&folder, start_ns);
                self.known.insert(pid, (now_ns, look.clone()));
                Some(look)
            }
        }
    }

    /// Forgets processes that use no GPU any more.
    pub fn sweep(&mut self, gpus: &[GpuState], openers: &[Opener]) {
        let processes = gpus.iter().flat_map(|gpu| &gpu.processes);
        let used: HashSet<u32> = processes
            .map(|process| process.pid)
            .chain(openers.iter().map(|opener| opener.pid))
            .collect();
        self.known.retain(|pid, _| used.contains(pid));
        self.new = 0;
    }
}

fn look(folder: &Path, start_ns: u64) -> Look {
    let exe = fs::read_link(folder.join("exe")).unwrap_or_default();
    let held = Held::of(folder);
    Look {
        start_ns,
        libraries: bounded(&folder.join("maps"), MAPS_BYTES_MAX).map(|maps| Libraries {
            runtime: runtime(&maps),
        }),
        deleted: exe.as_os_str().as_encoded_bytes().ends_with(b" (deleted)"),
        connections: held.as_ref().map(|held| connections(folder, held)),
        holds: held.map(|held| held.cards),
    }
}

/// The first library of a framework in a `maps` file, or else CUDA's runtime.
fn runtime(maps: &[u8]) -> Option<Box<str>> {
    let names = maps.split(|byte| *byte == b'\n').filter_map(|line| {
        let slash = line.iter().rposition(|byte| *byte == b'/')?;
        std::str::from_utf8(&line[slash + 1..]).ok()
    });
    let shown = |name: &str| Some(name.chars().take(64).collect::<String>().into());
    let mut cuda = None;
    let mut last = "";
    for name in names {
        // A library has a line for each of its parts, one after another.
        if name != last {
            if RUNTIMES.iter().any(|runtime| name.starts_with(runtime)) {
                return shown(name);
            }
            if is_cuda_runtime(name) {
                cuda = cuda.or(Some(name));
            }
        }
        last = name;
    }
    cuda.and_then(shown)
}

/// Is this CUDA's own runtime, and so no sign of any framework?
pub fn is_cuda_runtime(name: &str) -> bool {
    CUDA_RUNTIMES
        .iter()
        .any(|runtime| name.starts_with(runtime))
}

/// What a process's descriptors are of.
#[derive(Debug, Default)]
struct Held {
    /// Descriptors of sockets, by inode.
    sockets: HashMap<u64, i32>,
    /// Minor numbers of cards.
    cards: Vec<u32>,
}

impl Held {
    /// `None` where they cannot be read.
    fn of(folder: &Path) -> Option<Self> {
        let mut held = Self::default();
        for entry in fs::read_dir(folder.join("fd"))
            .ok()?
            .flatten()
            .take(DESCRIPTORS_MAX)
        {
            let Ok(target) = fs::read_link(entry.path()) else {
                continue;
            };
            let Some(target) = target.to_str() else {
                continue;
            };
            if let Some(card) = card(target) {
                if !held.cards.contains(&card) {
                    held.cards.push(card);
                }
                continue;
            }
            let inode = target
                .strip_prefix("socket:[")
                .and_then(|target| target.strip_suffix(']'))
                .and_then(|inode| inode.parse::<u64>().ok());
            let descriptor = entry.file_name();
            let descriptor = descriptor
                .to_str()
                .and_then(|descriptor| descriptor.parse::<i32>().ok());
            held.sockets.extend(inode.zip(descriptor));
        }
        Some(held)
    }
}

/// The minor number of the card whose node this is; NVIDIA's libraries know it by its name alone, whatever the container.
fn card(target: &str) -> Option<u32> {
    let number = target.strip_prefix("/dev/nvidia")?;
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
    number.parse().ok().filter(|card| is_number && *card < 255)
}

/// Is this one that itself computes with integers at length?
pub fn is_integer_runtime(name: &str) -> bool {
    INTEGER_RUNTIMES
        .iter()
        .any(|runtime| name.starts_with(runtime))
}

/// Established TCP connections of a process.
fn connections(folder: &Path, held: &Held) -> Connections {
    let sockets = &held.sockets;
    let mut found: Vec<Connection> = Vec::new();
    // Ports that it listens on: a connection to one of them was made by the other end.
    let mut served = HashSet::new();
    for table in ["net/tcp", "net/tcp6"] {
        let Some(text) = bounded(&folder.join(table), TABLE_BYTES_MAX) else {
            continue;
        };
        let text = String::from_utf8_lossy(&text);
        for line in text.lines().skip(1) {
            match tcp(line, sockets) {
                Some(Tcp::Listens(port)) => {
                    served.insert(port);
                }
                Some(Tcp::Connected(connection)) => found.push(connection),
                None => {}
            }
        }
    }
    let (own, others): (Vec<_>, Vec<_>) = found
        .iter()
        .partition(|connection| !served.contains(&connection.local_port));
    let mut made: Vec<SocketAddr> = own
        .iter()
        .filter(|connection| !connection.is_within)
        .map(|connection| connection.remote)
        .collect();
    made.sort_unstable();
    made.dedup();
    let bytes = |remote: SocketAddr| {
        let to_it = own.iter().filter(|connection| connection.remote == remote);
        to_it
            .map(|connection| carried(folder, connection.descriptor))
            .sum()
    };
    let count = u32::try_from(made.len()).unwrap_or(u32::MAX);
    if made.len() > CONNECTIONS_MAX {
        made.clear();
    }
    let made = made.into_iter().map(|remote| Made {
        remote: remote.to_string().into(),
        bytes: bytes(remote),
    });
    Connections {
        count,
        made: made.collect(),
        is_called: others.iter().any(|connection| !connection.is_within),
        calls: !own.is_empty(),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Tcp {
    /// On this port.
    Listens(u16),
    Connected(Connection),
}

/// An established connection.
#[derive(Debug, PartialEq, Eq)]
struct Connection {
    remote: SocketAddr,
    /// Whether the other end is this machine as well, or its own network namespace.
    is_within: bool,
    local_port: u16,
    descriptor: i32,
}

/// A line of `/proc/net/tcp`, where it is of one of these sockets, with their descriptors by inode.
fn tcp(line: &str, sockets: &HashMap<u64, i32>) -> Option<Tcp> {
    let mut words = line.split_ascii_whitespace();
    let local = address(words.nth(1)?)?;
    let local_port = local.port();
    let remote = words.next()?;
    let state = words.next()?;
    let descriptor = *sockets.get(&words.nth(5)?.parse().ok()?)?;
    match state {
        "01" => {
            let remote = address(remote)?;
            Some(Tcp::Connected(Connection {
                remote,
                is_within: remote.ip().is_loopback() || remote.ip() == local.ip(),
                local_port,
                descriptor,
            }))
        }
        "0A" => Some(Tcp::Listens(local_port)),
        _ => None,
    }
}

/// The address that `/proc/net/tcp` writes so.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let address = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(
            u32::from_str_radix(address, 16).ok()?.to_ne_bytes(),
        )),
        32 => {
            let mut bytes = [0; 16];
            for (word, to) in bytes.chunks_exact_mut(4).enumerate() {
                let digits = address.get(word * 8..word * 8 + 8)?;
                to.copy_from_slice(&u32::from_str_radix(digits, 16).ok()?.to_ne_bytes());
            }
            let address = Ipv6Addr::from(bytes);
            address
                .to_ipv4_mapped()
                .map_or(IpAddr::V6(address), IpAddr::V4)
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

/// Bytes that a process's connection has carried both ways. The kernel lends the socket for one question; the process does not
/// see it, and where the kernel is older than 5.6 or forbids it nothing is known.
fn carried(folder: &Path, descriptor: i32) -> Option<u64> {
    /// `struct tcp_info` up to and with `tcpi_bytes_received`, which is there since Linux 4.1.
    const INFO_BYTES: usize = 136;
    const ACKED: usize = 120;
    const RECEIVED: usize = 128;
    let pid: i32 = folder.file_name()?.to_str()?.parse().ok()?;
    // SAFETY: the calls take integers, and return a descriptor that is ours or an error.
    let (process, socket) = unsafe {
        let process = owned(libc::syscall(libc::SYS_pidfd_open, pid, 0))?;
        let process_fd = process.as_raw_fd();
        let socket = libc::syscall(libc::SYS_pidfd_getfd, process_fd, descriptor, 0);
        (process, owned(socket)?)
    };
    drop(process);
    let mut info = [0_u8; INFO_BYTES];
    let mut length = INFO_BYTES as libc::socklen_t;
    // SAFETY: the buffer is as long as `length` says, and both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 || (length as usize) < INFO_BYTES {
        return None;
    }
    let number = |at: usize| {
        let bytes = info[at..at + 8].try_into().unwrap_or_default();
        u64::from_ne_bytes(bytes)
    };
    Some(number(ACKED).saturating_add(number(RECEIVED)))
}

/// # Safety
/// The number is a descriptor that nobody else owns, or negative.
unsafe fn owned(result: libc::c_long) -> Option<OwnedFd> {
    let descriptor = i32::try_from(result).ok().filter(|number| *number >= 0)?;
    // SAFETY: the caller vouches for it.
    Some(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// When a process started, nanoseconds since boot.
fn start(folder: &Path) -> Option<u64> {
    let stat = bounded(&folder.join("stat"), 4_096)?;
    // The name may hold anything, blanks and brackets included.
    let after = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let text = std::str::from_utf8(&stat[after..]).ok()?;
    let ticks: u64 = text.split_ascii_whitespace().nth(19)?.parse().ok()?;
    Some(ticks.saturating_mul(TICK_NS))
}

fn bounded(path: &Path, max: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .ok()?
        .take(max)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_are_known_by_their_mapped_files() {
        let check = |maps: &str, expected: Option<&str>| {
            assert_eq!(runtime(maps.as_bytes()).as_deref(), expected, "{maps}");
        };
        check("", None);
        check(
            "7f00-7f01 r-xp 0 00:01 5 /usr/lib/libcuda.so.550\n7f02-7f03 rw-p 0 00:00 0 [heap]",
            None,
        );
        check(
            "7f00-7f01 r-xp 0 00:01 5 /a/libcuda.so.1\n7f02-7f03 r-xp 0 00:01 6 /v/torch/lib/libtorch_cuda.so",
            Some("libtorch_cuda.so"),
        );
        check("7f00-7f01 r-xp 0 00:01 5 /libcudnn/xmrig", None);
        // CUDA's runtime is told only where nothing says more.
        check(
            "7f00-7f01 r-xp 0 00:01 5 /a/libcudart.so.12",
            Some("libcudart.so.12"),
        );
        check(
            "7f00-7f01 r-xp 0 00:01 5 /a/libcudart.so.12\n7f02-7f03 r-xp 0 00:01 6 /a/libcublas.so.12",
            Some("libcublas.so.12"),
        );
        check(
            "7f00-7f01 r-xp 0 00:01 5 /tmp/libnvrtc.so.12 (deleted)",
            None,
        );
    }

    #[test]
    fn the_other_ends_of_its_own_connections_are_read() {
        let own = HashMap::from([(77, 5)]);
        let check = |line: &str, expected: Option<&str>| {
            let found = match tcp(line, &own) {
                Some(Tcp::Connected(found)) => {
                    assert_eq!((found.local_port, found.descriptor), (40_000, 5), "{line}");
                    let within = if found.is_within { "within: " } else { "" };
                    Some(format!("{within}{}", found.remote))
                }
                Some(Tcp::Listens(port)) => Some(format!("listens on {port}")),
                None => None,
            };
            assert_eq!(found.as_deref(), expected, "{line}");
        };
        let line = |remote: &str, state: &str, inode: u32| {
            format!(
                "  0: 0100A8C0:9C40 {remote} {state} 00000000:00000000 00:00000000 00000000  1000        0 {inode} 1 0"
            )
        };
        check(&line("08080808:0D05", "01", 77), Some("8.8.8.8:3333"));
        check(&line("08080808:0D05", "01", 78), None);
        check(&line("00000000:0000", "0A", 77), Some("listens on 40000"));
        check(&line("08080808:0D05", "06", 77), None);
        check(
            &line("0100007F:0D05", "01", 77),
            Some("within: 127.0.0.1:3333"),
        );
        check(
            &line("0100A8C0:0D05", "01", 77),
            Some("within: 192.168.0.1:3333"),
        );
        check(
            &line("0000000000000000FFFF00000100007F:0D05", "01", 77),
            Some("within: 127.0.0.1:3333"),
        );
        check(
            &line("0000000000000000FFFF000008080808:0D05", "01", 77),
            Some("8.8.8.8:3333"),
        );
        check("", None);
        check(&line("zz", "01", 77), None);
    }

    #[test]
    fn a_card_is_known_by_its_node() {
        let check =
            |target: &str, expected: Option<u32>| assert_eq!(card(target), expected, "{target}");
        check("/dev/nvidia0", Some(0));
        check("/dev/nvidia15", Some(15));
        check("/dev/nvidiactl", None);
        check("/dev/nvidia255", None);
        check("/dev/nvidia-uvm", None);
        check("/dev/nvidia", None);
        check("/dev/nvidia+1", None);
        check("/tmp/dev/nvidia0", None);
    }

    #[test]
    fn the_kernel_tells_how_much_a_connection_has_carried() {
        use std::io::Write as _;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let to = listener.local_addr().expect("address");
        let mut client = std::net::TcpStream::connect(to).expect("connect");
        let (mut server, _) = listener.accept().expect("accept");
        client.write_all(&[7; 1_000]).expect("write");
        server.read_exact(&mut [0; 1_000]).expect("read");
        server.write_all(&[7; 500]).expect("write");
        client.read_exact(&mut [0; 500]).expect("read");
        let own = Path::new("/proc").join(std::process::id().to_string());
        let bytes = carried(&own, client.as_raw_fd()).expect("it is a connection");
        // What was read was acknowledged with the answer, and the handshake counts for nothing or one.
        assert!((1_500..=1_502).contains(&bytes), "{bytes}");
        assert_eq!(carried(&own, -1), None);
        assert_eq!(carried(Path::new("/proc/self"), client.as_raw_fd()), None);
    }

    #[test]
    fn connections_within_the_machine_are_no_connections_to_others() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let to = listener.local_addr().expect("address");
        let _client = std::net::TcpStream::connect(to).expect("connect");
        let _server = listener.accept().expect("accept");
        let own = Path::new("/proc").join(std::process::id().to_string());
        let held = Held::of(&own).expect("it can be read");
        let found = connections(&own, &held);
        assert!(found.calls, "{found:?}");
        let is_own = |made: &Made| made.remote.starts_with("127.");
        assert!(!found.made.iter().any(is_own), "{found:?}");
        assert!(!found.is_called, "{found:?}");
    }

    #[test]
    fn this_process_can_be_looked_at() {
        let mut looks = Looks::default();
        let look = looks.of(std::process::id(), 1).expect("it runs");
        assert!(
            look.libraries
                .is_some_and(|libraries| libraries.runtime.is_none())
        );
        assert!(looks.of(u32::MAX, 1).is_none());
        // The driver gives 0 for processes of other pid namespaces than its own.
        assert!(looks.of(0, 1).is_none());
        looks.sweep(&[], &[]);
        assert!(looks.known.is_empty());
        // So many that the rest has to wait: of those only the start is known, and it is they whose turn is next.
        looks.new = NEW_MAX;
        let waits = looks.of(std::process::id(), 2).expect("it runs");
        assert!(waits.start_ns > 0 && waits.libraries.is_none());
        looks.sweep(&[], &[]);
        let seen = looks.of(std::process::id(), 3).expect("it runs");
        assert!(seen.libraries.is_some());
        looks.new = NEW_MAX;
        let kept = looks.of(std::process::id(), 4 + AGAIN_NS).expect("it runs");
        assert_eq!(kept, seen);
    }
}
