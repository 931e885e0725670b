//! Sockets and networks, where the standard library does not reach.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd as _, OwnedFd};

/// `TCP_REPAIR_QUEUE`, and its values.
pub const REPAIR_QUEUE: i32 = 20;
pub const RECEIVED: i32 = 1;
pub const SENT: i32 = 2;
/// `TCP_QUEUE_SEQ`
pub const QUEUE_SEQUENCE: i32 = 21;
/// `TCP_REPAIR_OFF_NO_WP`: and send nothing for it.
pub const REPAIR_OFF: i32 = -1;

pub fn set(socket: &impl AsRawFd, level: i32, name: i32, value: &[u8]) {
    // SAFETY: the value is as long as is said.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            value.len() as u32,
        )
    };
    let error = io::Error::last_os_error();
    assert_eq!(status, 0, "option {name} of {level}: {error}");
}

/// A socket over IPv4.
pub fn socket(protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers; what it gives is nobody else's.
    unsafe {
        match libc::socket(
            libc::AF_INET,
            libc::SOCK_STREAM | libc::SOCK_CLOEXEC,
            protocol,
        ) {
            -1 => Err(io::Error::last_os_error()),
            socket => Ok(OwnedFd::from_raw_fd(socket)),
        }
    }
}

pub fn tcp_socket() -> TcpStream {
    socket(libc::IPPROTO_TCP).expect("a socket").into()
}

/// An address of IPv4 as the kernel has it.
pub fn address(of: SocketAddr) -> libc::sockaddr_in {
    let SocketAddr::V4(of) = of else {
        panic!("{of} is not IPv4");
    };
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: of.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes(of.ip().octets()),
        },
        sin_zero: [0; 8],
    }
}

pub fn bind(socket: &TcpStream, at: libc::sockaddr_in) {
    name(libc::bind, socket, at);
}

pub fn connect(socket: &TcpStream, to: libc::sockaddr_in) {
    name(libc::connect, socket, to);
}

/// Calls what takes a socket and an address.
fn name(
    call: unsafe extern "C" fn(i32, *const libc::sockaddr, libc::socklen_t) -> i32,
    socket: &TcpStream,
    address: libc::sockaddr_in,
) {
    // SAFETY: the address is as long as is said.
    let status = unsafe {
        call(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as u32,
        )
    };
    assert_eq!(status, 0, "{}", io::Error::last_os_error());
}

/// Sets an option of TCP's to a number.
pub fn set_tcp(socket: &TcpStream, name: i32, value: i32) {
    set(socket, libc::IPPROTO_TCP, name, &value.to_ne_bytes());
}

/// `tcpi_options` of a connection.
pub fn tcp_options(socket: &TcpStream) -> u8 {
    let mut info = [0_u8; 8];
    let mut length = info.len() as u32;
    // SAFETY: no more is written than there is room for.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    assert_eq!(status, 0, "{}", io::Error::last_os_error());
    info[5]
}

/// Gives this thread a network of its own, with a loopback device that is up.
pub fn enter_own_network() {
    // SAFETY: takes a number, and concerns this thread alone.
    let status = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(status, 0, "{}", io::Error::last_os_error());
    set_loopback(b"lo", libc::SIOCSIFFLAGS as _, |value| {
        value.ifru_flags = libc::IFF_UP as libc::c_short;
    });
}

/// Gives the loopback device of this thread's network one more address; 0.0.0.0 takes it away.
pub fn set_second_address(at: [u8; 4]) {
    set_loopback(b"lo:1", libc::SIOCSIFADDR as _, |value| {
        let at = address(SocketAddr::from((at, 0)));
        // SAFETY: both are as long, and one is the other for IPv4.
        value.ifru_addr = unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(at) };
    });
}

fn set_loopback(
    name: &[u8],
    request: libc::Ioctl,
    set: impl FnOnce(&mut libc::__c_anonymous_ifr_ifru),
) {
    let any = tcp_socket();
    // SAFETY: zeros are a request, and the kernel reads no more than that.
    let status = unsafe {
        let mut asked: libc::ifreq = std::mem::zeroed();
        for (to, from) in asked.ifr_name.iter_mut().zip(name) {
            *to = from.cast_signed();
        }
        set(&mut asked.ifr_ifru);
        libc::ioctl(any.as_raw_fd(), request, &raw const asked)
    };
    assert_eq!(status, 0, "{}", io::Error::last_os_error());
}
