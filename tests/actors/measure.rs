//! Does one thing many times and says what one took, in nanoseconds of processor time, its own and its children's: `measure
//! open|null|exec|tcp|page|udp|getppid MILLISECONDS FILE`. The file is opened, or started. What counts is the median of batches, so
//! that a moment of noise does not, and not the time on the wall, which others on the same cores have a share of.

use std::{
    env,
    ffi::CString,
    fs::File,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    process::ExitCode,
    time::{Duration, Instant},
};

fn main() -> ExitCode {
    let args: Vec<String> = env::args().collect();
    let [_, what, milliseconds, file] = &args[..] else {
        eprintln!("usage: measure open|null|exec|tcp|page|udp|getppid MILLISECONDS FILE");
        return ExitCode::from(2);
    };
    let Ok(time) = milliseconds.parse().map(Duration::from_millis) else {
        eprintln!("MILLISECONDS is a number");
        return ExitCode::from(2);
    };
    let each = match what.as_str() {
        "getppid" => batches(time, 20_000, || {
            // SAFETY: getppid takes nothing and cannot fail.
            std::hint::black_box(unsafe { libc::getppid() });
        }),
        "open" => batches(time, 1_000, || drop(File::open(file).expect("it opens"))),
        "null" => batches(time, 1_000, || {
            drop(File::open("/dev/null").expect("it opens"));
        }),
        "exec" => {
            let program = CString::new(file.as_str()).expect("no NUL in an argument");
            batches(time, 16, || start(&program))
        }
        "tcp" => tcp(time, 1, 0),
        "page" => tcp(time, 200, 64 << 10),
        "udp" => udp(time),
        other => {
            eprintln!("{other} cannot be measured");
            return ExitCode::from(2);
        }
    };
    println!("{each:.1}");
    ExitCode::SUCCESS
}

/// Nanoseconds of one act, the median of batches of `size`.
fn batches(time: Duration, size: u32, mut act: impl FnMut()) -> f64 {
    for _ in 0..size {
        act();
    }
    let mut each = Vec::new();
    let end = Instant::now() + time;
    while Instant::now() < end || each.len() < 3 {
        let begun = processor_ns();
        for _ in 0..size {
            act();
        }
        each.push((processor_ns() - begun) / f64::from(size));
    }
    each.sort_by(f64::total_cmp);
    each[each.len() / 2]
}

/// Of this process and of the children that it has waited for.
fn processor_ns() -> f64 {
    let mut own = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: all zeros is a valid `rusage`, and both calls fill a struct of ours.
    let children = unsafe {
        let mut children: libc::rusage = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut own);
        libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut children);
        children
    };
    let ns = |time: libc::timeval| time.tv_sec as f64 * 1e9 + time.tv_usec as f64 * 1e3;
    own.tv_sec as f64 * 1e9 + own.tv_nsec as f64 + ns(children.ru_utime) + ns(children.ru_stime)
}

/// Starts a program and waits for its end: no shell, no pipes, nothing but fork, exec and wait.
fn start(program: &CString) {
    let argv = [program.as_ptr(), std::ptr::null()];
    let mut pid = 0;
    // SAFETY: program and arguments are NUL-terminated, the list ends with a null pointer, and the pid is ours to be written.
    let failed = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            program.as_ptr(),
            std::ptr::null(),
            std::ptr::null(),
            argv.as_ptr().cast(),
            argv[1..].as_ptr().cast(),
        )
    };
    assert_eq!(failed, 0, "the program starts");
    // SAFETY: the child is ours and was not waited for; nobody wants its status.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
}

/// Connect, accept, bytes of a request and of its answer, and close both ends.
fn tcp(time: Duration, request: usize, answer: usize) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it has an address");
    // What is not read yet lies in the sockets' buffers: pieces that are sure to fit.
    let piece = vec![b'x'; answer.clamp(request, 16 << 10)];
    let mut buffer = piece.clone();
    batches(time, 100, || {
        let mut stream = TcpStream::connect(address).expect("it listens");
        let (mut accepted, _) = listener.accept().expect("it is there");
        stream.write_all(&piece[..request]).expect("it is sent");
        accepted
            .read_exact(&mut buffer[..request])
            .expect("it is received");
        for _ in 0..answer / piece.len() {
            accepted.write_all(&piece).expect("it is sent");
            stream.read_exact(&mut buffer).expect("it is received");
        }
        reset(&stream);
    })
}

/// Closing resets the connection, so that its port can be used again at once.
fn reset(stream: &TcpStream) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: the struct is ours, outlives the call, and its size is given.
    let failed = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    };
    assert_eq!(failed, 0, "a socket can linger");
}

/// A datagram there and back, between unconnected sockets.
fn udp(time: Duration) -> f64 {
    let bind = || UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    let (one, other) = (bind(), bind());
    let addresses = [&one, &other].map(|socket| socket.local_addr().expect("it has an address"));
    let mut buffer = [0; 64];
    batches(time, 1_000, || {
        one.send_to(&[0; 64], addresses[1]).expect("it is sent");
        other.recv(&mut buffer).expect("it is received");
        other.send_to(&buffer, addresses[0]).expect("it is sent");
        one.recv(&mut buffer).expect("it is received");
    })
}
