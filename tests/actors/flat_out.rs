//! Does one thing as often as it can for some seconds, and says how often: `flat_out open|connect|exec SECONDS [PROGRAM]`.
//! What it opens are the files of `/usr`, in turn; what it connects to is itself, and it starts the program.

use std::{
    env, fs,
    net::{TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

/// As many files are opened in turn.
const FILES_MAX: usize = 4096;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().collect();
    let seconds = args.get(2).and_then(|seconds| seconds.parse().ok());
    let Some(seconds) = seconds.map(Duration::from_secs) else {
        eprintln!("usage: flat_out open|connect|exec SECONDS [PROGRAM]");
        return ExitCode::from(2);
    };
    let end = Instant::now() + seconds;
    let count = match (args[1].as_str(), args.get(3)) {
        ("open", None) => open(end),
        ("connect", None) => connect(end),
        ("exec", Some(program)) => exec(end, program),
        _ => {
            eprintln!("open, connect, or exec with a program");
            return ExitCode::from(2);
        }
    };
    println!("{} {count}", args[1]);
    ExitCode::SUCCESS
}

fn open(end: Instant) -> u64 {
    let mut files = Vec::new();
    gather(Path::new("/usr"), &mut files);
    let mut count = 0;
    while Instant::now() < end {
        for file in &files {
            drop(fs::File::open(file));
            count += 1;
        }
    }
    count
}

fn gather(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if files.len() == FILES_MAX {
            return;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => gather(&entry.path(), files),
            Ok(kind) if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
}

fn connect(end: Instant) -> u64 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it has an address");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    let mut count = 0;
    while Instant::now() < end {
        for _ in 0..16 {
            udp.connect(address).expect("nothing is sent");
            count += 1;
        }
        // Both ends are closed at once; the ports come back with a reset rather than after a minute.
        let stream = TcpStream::connect(address).expect("it listens");
        let (accepted, _) = listener.accept().expect("it is there");
        let _ = set_linger(&stream);
        drop(stream);
        drop(accepted);
        count += 1;
    }
    count
}

fn set_linger(stream: &TcpStream) -> i32 {
    use std::os::fd::AsRawFd as _;
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: the struct is ours, outlives the call, and its size is given.
    unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    }
}

fn exec(end: Instant, program: &str) -> u64 {
    let mut count = 0;
    while Instant::now() < end {
        let round = format!("--round={count}");
        if Command::new(program).arg(round).status().is_ok() {
            count += 1;
        }
    }
    count
}
