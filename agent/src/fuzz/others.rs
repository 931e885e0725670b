//! Fuzzed: what containers, their runtimes and the network give the agent to read.

use std::{
    fs::File,
    io::Write as _,
    os::fd::{FromRawFd as _, RawFd},
};

use saker_ebpf::wire::packet::HELLO_BYTES_MAX;

use crate::{
    context::{
        container::{Owner, owner_of_path},
        dns as answers,
        names::{self, IdMap},
        resolved::Resolved,
        runtime::{
            cri, docker,
            metadata::{GPUS_MAX, MOUNTS_MAX, PAIRS_MAX, TEXT_BYTES_MAX},
        },
        tls::{
            self as hellos, Extent,
            assembly::{Assembly, Hidden, Step},
        },
    },
    source::python::elf as reader,
};

/// Takes bytes for an ELF file, as a container's Python would be.
///
/// # Panics
/// Where a call site is said to lie outside of the file, or no file in memory can be made.
pub fn elf(bytes: &[u8]) {
    let file = in_memory(bytes);
    let summary = reader::summarize(&file);
    let Ok(sites) = reader::analyze(&file) else {
        return;
    };
    assert!(summary.is_ok_and(|summary| summary.needs == sites.needs));
    let audits = reader::audits(&file).expect("it was read before");
    let calls = audits.calls.iter().map(|(_, site)| site);
    for site in sites.find_class.iter().chain(calls) {
        let (reader::Site::Call { file_offset } | reader::Site::Entry { file_offset }) = *site;
        assert!(file_offset < bytes.len() as u64);
    }
    assert!(audits.python.is_none_or(|at| at < bytes.len() as u64));
}

fn in_memory(bytes: &[u8]) -> File {
    // SAFETY: the name is NUL-terminated.
    let fd: RawFd = unsafe { libc::memfd_create(c"fuzz".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0, "a file in memory can be made");
    // SAFETY: the kernel has just handed out this descriptor, to nobody else.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(bytes).expect("memory suffices");
    file
}

/// Takes bytes for an answer of a container runtime: CRI's message, Docker's JSON of a container (and, behind a NUL, of its
/// image), and the path of a cgroup.
///
/// # Panics
/// Where a container has more than its bounds allow, or an id is none.
pub fn runtime(bytes: &[u8]) {
    let (container, image) = match bytes.iter().position(|byte| *byte == 0) {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, &b"{}"[..]),
    };
    let read = [
        cri::read(bytes, "cri"),
        docker::read(container, image, "docker"),
    ];
    for container in read.into_iter().flatten() {
        assert!(container.labels.len() <= PAIRS_MAX && container.mounts.len() <= MOUNTS_MAX);
        assert!(container.gpus.len() <= GPUS_MAX);
        let texts = [&container.id, &container.name, &container.user];
        let texts = texts.into_iter().chain(&container.gpus);
        assert!(
            texts
                .map(|text| text.len())
                .all(|bytes| bytes <= TEXT_BYTES_MAX)
        );
    }
    if let Some(id) = owner_of_path(bytes).full_id() {
        assert!(id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
}

/// Takes bytes for `/etc/passwd`, `/etc/group` and a map of ids.
///
/// # Panics
/// Where there are more entries than lines.
pub fn accounts(bytes: &[u8]) {
    let lines = bytes.split(|byte| *byte == b'\n').count();
    let users = names::parse(bytes, names::user).len();
    let groups = names::parse(bytes, names::group).len();
    // A user's line has the columns of a group's, too.
    assert!(users <= groups && groups <= lines);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let map = IdMap::parse(text);
        for id in [0, 1, 1000, u32::MAX] {
            std::hint::black_box(map.inside(id));
        }
    }
}

/// Takes bytes for a DNS answer, and remembers what it says.
///
/// # Panics
/// Where an answer is not the same when its end is said to be missing, or an address that was learnt has no name.
pub fn dns(bytes: &[u8]) {
    let Some(answer) = answers::parse(bytes, false) else {
        return;
    };
    let cut = answers::parse(bytes, true).expect("its header is there");
    assert_eq!(
        (&cut.name, &cut.addresses),
        (&answer.name, &answer.addresses)
    );
    let mut resolved = Resolved::default();
    resolved.learn(&Owner::Host, &answer, 1);
    for address in &answer.addresses {
        assert!(resolved.names(&Owner::Host, *address, 2).next().is_some());
    }
    resolved.sweep(u64::MAX);
    assert_eq!((resolved.sizes().0, resolved.sizes().1), (0, 0));
}

/// Takes bytes for the beginning of a TLS connection, whole and in two pieces.
///
/// # Panics
/// Where a whole hello says something else in two pieces.
pub fn tls(bytes: &[u8]) {
    let hello = hellos::parse(bytes);
    let is_whole = hellos::extent(bytes) == Extent::Whole;
    assert!(is_whole || hello.sni.is_none());
    if bytes.len() > HELLO_BYTES_MAX as usize {
        return;
    }
    let at = usize::from(bytes.last().copied().unwrap_or_default()) * bytes.len() / 256;
    if at == 0 {
        // No piece is empty.
        return;
    }
    let (first, second) = bytes.split_at(at);
    let mut assembly = Assembly::default();
    if assembly.add(7, 0, first, b"record", 1) != Step::Wait {
        return;
    }
    let offset = u32::try_from(at).expect("it is below the most bytes");
    match assembly.add(7, offset, second, b"again", 2) {
        Step::Joined(Hidden { data, .. }) => assert_eq!(hellos::parse(&data), hello),
        step => assert!(!is_whole, "{step:?} of a whole hello"),
    }
}
