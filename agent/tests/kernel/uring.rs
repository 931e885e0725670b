//! What is done through a real io_uring ring, for which there is no system call: opens, devices, connections, datagrams.

use std::ffi::CString;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use io_uring::{IoUring, opcode, squeue, types};
use saker::event::{Body, Open, OpenSyscall};
use saker::source::{Kind, OpenFilter, SensorConfig};

use crate::device::renamed_node;
use crate::{Watch, kernel_is_at_least, kinds, watch};

/// A ring; `None`, with a visible line, where the machine does not allow one.
fn ring() -> Option<IoUring> {
    match IoUring::new(8) {
        Ok(ring) => Some(ring),
        Err(error) => {
            saker_tests::skip(&format!("no io_uring: {error}"));
            None
        }
    }
}

/// Has one request done, and returns its result.
fn act(ring: &mut IoUring, request: &squeue::Entry) -> i32 {
    // SAFETY: what the request points to outlives its completion, which is waited for here.
    unsafe { ring.submission().push(request).expect("the queue has room") };
    ring.submit_and_wait(1).expect("submit");
    ring.completion().next().expect("a completion").result()
}

fn path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no NUL in a path")
}

fn owned(descriptor: i32) -> OwnedFd {
    assert!(
        descriptor >= 0,
        "{}",
        std::io::Error::from_raw_os_error(-descriptor)
    );
    // SAFETY: the kernel has just handed it out, to nobody else.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// What a test compares of an open.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    path: Vec<u8>,
    resolved: Vec<u8>,
    syscall: OpenSyscall,
    flags: u64,
    res: i32,
}

fn open_of(watch: &mut Watch, name: &str) -> Seen {
    let ends = |open: &Open<'_>| open.path.bytes.ends_with(name.as_bytes());
    watch.until("open", |event| match &event.body {
        Body::Open(open) if event.tgid == std::process::id() && ends(open) => Some(Seen {
            path: open.path.bytes.to_vec(),
            resolved: open.resolved.bytes.to_vec(),
            syscall: open.syscall,
            flags: open.flags,
            res: open.res,
        }),
        _ => None,
    })
}

/// Does this kernel show what rings open? Where it does not, the sensor says so.
fn sees_opens(watch: &Watch) -> bool {
    let rows = watch.sensor.status();
    let open = rows.iter().find(|row| row.kind == "open").expect("a row");
    !open
        .lost
        .iter()
        .any(|lost| lost.starts_with("files opened through io_uring"))
}

#[test]
fn files_opened_through_a_ring_are_seen_or_said_not_to_be() {
    let Some(mut watch) = watch(SensorConfig {
        opens: OpenFilter::everything(),
        ..kinds(&[Kind::Open])
    }) else {
        return;
    };
    let Some(mut ring) = ring() else { return };
    assert_eq!(
        sees_opens(&watch),
        kernel_is_at_least(6, 0),
        "{:?}",
        watch.sensor.status()
    );
    if !sees_opens(&watch) {
        // Said, which is all that such a kernel allows: before 6.0 a request does not tell what it asks for.
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let target = folder
        .path()
        .canonicalize()
        .expect("a path")
        .join("opened-by-ring");
    std::fs::write(&target, "x").expect("write");
    let link = folder.path().join("link-of-ring");
    std::os::unix::fs::symlink(&target, &link).expect("a link");
    let here = types::Fd(libc::AT_FDCWD);

    let name = path(&link);
    let request = opcode::OpenAt::new(here, name.as_ptr())
        .flags(libc::O_RDWR)
        .build();
    let file = owned(act(&mut ring, &request));
    let expected = |res: RawFd| Seen {
        path: name.as_bytes().to_vec(),
        resolved: target.as_os_str().as_bytes().to_vec(),
        syscall: OpenSyscall::Openat,
        flags: libc::O_RDWR as u64,
        res,
    };
    assert_eq!(
        open_of(&mut watch, "link-of-ring"),
        expected(file.as_raw_fd())
    );

    // Done by a worker, and by openat2.
    let request = opcode::OpenAt::new(here, name.as_ptr())
        .flags(libc::O_RDWR)
        .build();
    let file = owned(act(&mut ring, &request.flags(squeue::Flags::ASYNC)));
    assert_eq!(
        open_of(&mut watch, "link-of-ring"),
        expected(file.as_raw_fd())
    );
    let how = types::OpenHow::new().flags(libc::O_RDWR as u64);
    let request = opcode::OpenAt2::new(here, name.as_ptr(), &raw const how).build();
    let file = owned(act(&mut ring, &request));
    let by_openat2 = Seen {
        syscall: OpenSyscall::Openat2,
        ..expected(file.as_raw_fd())
    };
    assert_eq!(open_of(&mut watch, "link-of-ring"), by_openat2);

    // In vain.
    let nothing = path(&folder.path().join("nothing-for-ring"));
    let request = opcode::OpenAt::new(here, nothing.as_ptr()).build();
    assert_eq!(act(&mut ring, &request), -libc::ENOENT);
    let seen = open_of(&mut watch, "nothing-for-ring");
    assert_eq!((seen.res, seen.resolved.is_empty()), (-libc::ENOENT, true));

    // Into the ring's own table: it gets no descriptor, and descriptor 0 is another file.
    ring.submitter().register_files_sparse(2).expect("register");
    let slot = types::DestinationSlot::try_from_slot_target(1).expect("a slot");
    let request = opcode::OpenAt::new(here, name.as_ptr())
        .file_index(Some(slot))
        .build();
    assert_eq!(act(&mut ring, &request), 0);
    let seen = open_of(&mut watch, "link-of-ring");
    assert_eq!((seen.res, seen.resolved.is_empty()), (0, true));

    // Without a completion, which would be the time to report it.
    let request = opcode::OpenAt::new(here, name.as_ptr()).build();
    let quiet = request.flags(squeue::Flags::SKIP_SUCCESS);
    // SAFETY: the name outlives the test.
    unsafe { ring.submission().push(&quiet).expect("room") };
    ring.submit().expect("submit");
    let seen = open_of(&mut watch, "link-of-ring");
    assert_eq!(
        (seen.res, seen.resolved.is_empty()),
        (-libc::EINPROGRESS, true)
    );

    watch.finish(&mut |_| {});
    let counts = *watch.sensor.counters().expect("counters").kind(Kind::Open);
    assert_eq!(
        counts.seen,
        counts.filtered + counts.submitted + counts.lost()
    );
}

#[test]
fn devices_opened_through_a_ring_are_seen() {
    let Some(mut watch) = watch(kinds(&[Kind::DeviceOpen])) else {
        return;
    };
    let Some(mut ring) = ring() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let node = path(&renamed_node(folder.path()));
    let request = opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), node.as_ptr()).build();
    // There is no driver behind it.
    assert_eq!(act(&mut ring, &request), -libc::ENXIO);
    watch.until("device", |event| match event.body {
        Body::DeviceOpen(open) if open.read && event.tgid == std::process::id() => {
            assert_eq!((open.major, open.minor), (195, 0));
            Some(())
        }
        _ => None,
    });
}

/// An address as the kernel takes it.
fn inet(port: u16) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes([127, 0, 0, 1]),
        },
        sin_zero: [0; 8],
    }
}

#[test]
fn connections_and_datagrams_through_a_ring_are_seen() {
    let Some(mut watch) = watch(kinds(&[Kind::Connect, Kind::Sendto])) else {
        return;
    };
    let Some(mut ring) = ring() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("address").port();
    // SAFETY: takes numbers.
    let client = owned(unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) });
    let to = inet(port);
    let length = size_of_val(&to) as libc::socklen_t;
    let request = opcode::Connect::new(
        types::Fd(client.as_raw_fd()),
        (&raw const to).cast(),
        length,
    )
    .build();
    assert_eq!(act(&mut ring, &request), 0);
    watch.until("connect", |event| match event.body {
        Body::Connect(connect) if connect.port == port => {
            assert_eq!(event.tgid, std::process::id());
            Some(())
        }
        _ => None,
    });

    let receiver = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let port = receiver.local_addr().expect("address").port();
    let sender = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let mut to = inet(port);
    let mut part = libc::iovec {
        iov_base: c"x".as_ptr().cast_mut().cast(),
        iov_len: 1,
    };
    // SAFETY: zeros are a message without anything.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = (&raw mut to).cast();
    message.msg_namelen = size_of_val(&to) as libc::socklen_t;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    let request = opcode::SendMsg::new(types::Fd(sender.as_raw_fd()), &raw const message).build();
    assert_eq!(act(&mut ring, &request), 1);
    watch.until("datagram", |event| match event.body {
        Body::Sendto(sent) if sent.port == port => {
            assert_eq!(event.tgid, std::process::id());
            Some(())
        }
        _ => None,
    });
}
