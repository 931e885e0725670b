//! How soon a thread gets a processor that has something to do.

/// Its share when everybody wants one; -20 is the most, 0 what others have.
const NICE: i32 = -10;

/// How long it wants to run at a time, in nanoseconds; the least that the kernel takes. Since Linux 6.12 who asks for less goes before
/// who asks for more, and need not wait until that one's three milliseconds are over (sched_setattr(2), `sched_runtime`).
const SLICE_NS: u64 = 100_000;

/// `SCHED_FLAG_*`: none.
const NO_FLAGS: u64 = 0;

/// Lets the calling thread wait for nobody's turn: on a busy node the thread that hands processes over, and the one that looks at
/// them, have to overtake the process that they are about.
pub fn hurry() {
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_OTHER as u32,
        sched_flags: NO_FLAGS,
        sched_nice: NICE,
        sched_priority: 0,
        sched_runtime: SLICE_NS,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel reads as many bytes as `size` says; 0 is the calling thread. Where it is not allowed, nothing changes.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
}
