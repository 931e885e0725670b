//! The kernel's boot clock, and its distance from the wall clock, which steps when an operator or NTP sets it.

/// The machine's clock, or that of the machine on which a capture was made.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Nanoseconds from the boot clock to the Unix epoch.
    pub epoch_offset_ns: i64,
    /// The moment that a replay has come to; `None`: the machine's own clock goes on by itself.
    told_ns: Option<u64>,
}

impl Clock {
    /// The machine's.
    pub fn new() -> Self {
        let mut clock = Self {
            epoch_offset_ns: 0,
            told_ns: None,
        };
        clock.adjust();
        clock
    }

    /// One that stands until it is told the time.
    pub fn told(epoch_offset_ns: i64) -> Self {
        Self {
            epoch_offset_ns,
            told_ns: Some(0),
        }
    }

    /// Tells a standing clock the time.
    pub fn tell(&mut self, boot_ns: u64) {
        self.told_ns = self.told_ns.map(|_| boot_ns);
    }

    /// Measures the distance to the wall clock again.
    pub fn adjust(&mut self) {
        if self.told_ns.is_some() {
            return;
        }
        let (wall, boot) = (
            read_clock(libc::CLOCK_REALTIME),
            read_clock(libc::CLOCK_BOOTTIME),
        );
        self.epoch_offset_ns =
            i64::try_from(wall).unwrap_or(i64::MAX) - i64::try_from(boot).unwrap_or(0);
    }

    /// Nanoseconds of `CLOCK_BOOTTIME`, which records carry.
    pub fn boot_ns(self) -> u64 {
        self.told_ns
            .unwrap_or_else(|| read_clock(libc::CLOCK_BOOTTIME))
    }

    /// Nanoseconds since the Unix epoch.
    pub fn epoch_ns(self) -> i64 {
        let boot_ns = i64::try_from(self.boot_ns()).unwrap_or(i64::MAX);
        boot_ns.saturating_add(self.epoch_offset_ns)
    }

    /// Does it go on by itself, so that a time can be measured by it?
    pub fn is_running(self) -> bool {
        self.told_ns.is_none()
    }
}

fn read_clock(id: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the struct is ours and outlives the call, which writes it.
    unsafe { libc::clock_gettime(id, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000
        + u64::try_from(time.tv_nsec).unwrap_or(0)
}
