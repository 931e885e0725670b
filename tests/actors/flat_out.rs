//! Does one thing for some seconds, as often as it can or so often a second, and says how often:
//! `flat_out open|connect SECONDS [A_SECOND]`, `flat_out exec SECONDS PROGRAM [A_SECOND]`.
//! What it opens are the files of `/usr`, in turn; what it connects to is itself, and it starts the program.

use std::{
    env, fs,
    net::{TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    thread,
    time::{Duration, Instant},
};

/// As many files are opened in turn.
const FILES_MAX: usize = 4096;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().collect();
    let args: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
    let Some((what, rest)) = args.split_first() else {
        return usage();
    };
    let numbers: Vec<u64> = rest.iter().filter_map(|text| text.parse().ok()).collect();
    let (seconds, a_second) = match numbers[..] {
        [seconds] => (seconds, None),
        [seconds, a_second] if a_second > 0 => (seconds, Some(a_second as f64)),
        _ => return usage(),
    };
    let pace = Pace::new(Duration::from_secs(seconds), a_second);
    let program = rest.iter().find(|text| text.parse::<u64>().is_err());
    let count = match (*what, program) {
        ("open", None) => open(pace),
        ("connect", None) => connect(pace),
        ("exec", Some(program)) => exec(pace, program),
        _ => return usage(),
    };
    println!("{what} {count}");
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("usage: flat_out open|connect SECONDS [A_SECOND] | exec SECONDS PROGRAM [A_SECOND]");
    ExitCode::from(2)
}

/// How much more there is to do now.
struct Pace {
    begun: Instant,
    lasts: Duration,
    /// None: as often as can be.
    a_second: Option<f64>,
    done: u64,
    /// Time in which nothing is due any more.
    idle: Duration,
}

/// What was not done by then is not made up for, but for one.
const LATE: Duration = Duration::from_millis(10);

impl Pace {
    fn new(lasts: Duration, a_second: Option<f64>) -> Self {
        Self {
            begun: Instant::now(),
            lasts,
            a_second,
            done: 0,
            idle: Duration::ZERO,
        }
    }

    /// Waits until one more is due; `None` once the time is over.
    fn next(&mut self) -> Option<()> {
        loop {
            let passed = self.begun.elapsed();
            if passed >= self.lasts {
                return None;
            }
            if self
                .a_second
                .is_none_or(|a_second| self.is_due(passed, a_second))
            {
                self.done += 1;
                return Some(());
            }
            thread::sleep(Duration::from_micros(500));
        }
    }

    fn is_due(&mut self, passed: Duration, a_second: f64) -> bool {
        let due = passed.saturating_sub(self.idle).as_secs_f64() * a_second;
        let behind = due - self.done as f64;
        let too_late = behind / a_second - LATE.as_secs_f64().max(1.0 / a_second);
        self.idle += Duration::from_secs_f64(too_late.max(0.0));
        behind >= 1.0
    }
}

fn open(mut pace: Pace) -> u64 {
    let mut files = Vec::new();
    gather(Path::new("/usr"), &mut files);
    for file in files.iter().cycle() {
        if pace.next().is_none() {
            break;
        }
        drop(fs::File::open(file));
    }
    pace.done
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

/// One in 17 is a TCP connection, the others are of datagrams.
fn connect(mut pace: Pace) -> u64 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it has an address");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    while pace.next().is_some() {
        if !pace.done.is_multiple_of(17) {
            udp.connect(address).expect("nothing is sent");
            continue;
        }
        // Both ends are closed at once; the ports come back with a reset rather than after a minute.
        let stream = TcpStream::connect(address).expect("it listens");
        let (accepted, _) = listener.accept().expect("it is there");
        let _ = set_linger(&stream);
        drop(stream);
        drop(accepted);
    }
    pace.done
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

fn exec(mut pace: Pace, program: &str) -> u64 {
    while pace.next().is_some() {
        let round = format!("--round={}", pace.done);
        // Not started: that one does not count.
        if Command::new(program).arg(round).status().is_err() {
            pace.done -= 1;
        }
    }
    pace.done
}
