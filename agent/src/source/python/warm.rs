//! Keeps the kernel ready to attach at once, for as long as a Python is likely to start that was never seen before.
//!
//! Whoever attaches to a file waits until every processor has passed a quiet state (an RCU grace period, 8 to 16 milliseconds with 250
//! ticks a second), because forks must not look at a process's memory meanwhile (`dup_mmap_sem` in the kernel's `uprobes.c`). A
//! process may have loaded its first pickle by then. Who attaches within a grace period after somebody else need not
//! wait: the forks are still on their guard. So when a container is being made, or Python's files are being written, this attaches to
//! a page that nobody runs and lets go of it again, every 8 milliseconds for two seconds, for some 2 % of a processor.
//!
//! Takes what does not hold the lock on all of perf's events, under which letting go would keep others from attaching: a
//! `BPF_LINK_TYPE_UPROBE_MULTI` (Linux 6.6). On older kernels nothing is done.

use std::ffi::CString;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use aya_obj::generated::bpf_attach_type::BPF_TRACE_UPROBE_MULTI;
use aya_obj::generated::bpf_attr;
use aya_obj::generated::bpf_cmd::BPF_LINK_CREATE;
use aya_obj::generated::bpf_prog_type::BPF_PROG_TYPE_KPROBE;

use crate::source::{
    calls::{self, owned},
    priority,
};

/// How long the kernel is kept ready after the last sign.
const LASTS: Duration = Duration::from_secs(2);

/// How often. The kernel is ready for at least one grace period more, and those are seldom shorter than this.
const EVERY: Duration = Duration::from_millis(8);

/// Threads that let go, which takes each of them 60 to 80 milliseconds: enough to keep up. They need next to no stack.
const LETTING_GO: usize = 12;
const STACK_BYTES: usize = 64 << 10;

/// The threads; they end when this is dropped.
#[derive(Debug)]
pub(super) struct Warmer {
    until: Arc<Until>,
    threads: Vec<JoinHandle<()>>,
}

/// Until when the kernel is to be ready.
#[derive(Debug, Default)]
struct Until {
    what: Mutex<What>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default)]
struct What {
    until: Option<Instant>,
    is_over: bool,
}

/// Asks for the kernel to be kept ready; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Warm(Arc<Until>);

impl Warm {
    /// A Python may be about to start.
    pub(super) fn expect(&self) {
        self.0.set(|what| what.until = Some(Instant::now() + LASTS));
    }
}

impl Until {
    fn set(&self, set: impl FnOnce(&mut What)) {
        set(&mut self.what.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
    }

    /// Waits until there is something to do; whether there is.
    fn wait(&self) -> bool {
        let mut what = self.what.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if what.is_over {
                return false;
            }
            if what.until.is_some_and(|until| Instant::now() < until) {
                return true;
            }
            what.until = None;
            what = self
                .changed
                .wait(what)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Warmer {
    /// Starts the threads, which wait to be asked; an error says what the kernel lacks.
    pub(super) fn start() -> io::Result<Self> {
        let attacher = Attacher::new()?;
        // Once, so that a kernel that does not know this says so here.
        drop(attacher.attach()?);
        let until = Arc::new(Until::default());
        let (links, to_let_go) = sync_channel(LETTING_GO);
        let to_let_go = Arc::new(Mutex::new(to_let_go));
        let mut warmer = Self {
            until: Arc::clone(&until),
            threads: Vec::with_capacity(LETTING_GO + 1),
        };
        for _ in 0..LETTING_GO {
            let links = Arc::clone(&to_let_go);
            warmer.spawn("python-cool", move || let_go(&links))?;
        }
        warmer.spawn("python-warm", move || keep_warm(&attacher, &until, &links))?;
        Ok(warmer)
    }

    fn spawn(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = thread::Builder::new()
            .name(name.into())
            .stack_size(STACK_BYTES)
            .spawn(body)?;
        self.threads.push(thread);
        Ok(())
    }

    /// Asks from another thread.
    pub(super) fn warm(&self) -> Warm {
        Warm(Arc::clone(&self.until))
    }
}

impl Drop for Warmer {
    fn drop(&mut self) {
        self.until.set(|what| what.is_over = true);
        // The last has the links' only sender: without it the others end.
        while let Some(thread) = self.threads.pop() {
            let _ = thread.join();
        }
    }
}

fn keep_warm(attacher: &Attacher, until: &Until, links: &SyncSender<OwnedFd>) {
    priority::hurry();
    while until.wait() {
        let start = Instant::now();
        // Should the kernel refuse, or letting go take longer than it does, there is another time.
        if let Ok(link) = attacher.attach() {
            let _ = links.try_send(link);
        }
        thread::sleep(EVERY.saturating_sub(start.elapsed()));
    }
}

fn let_go(links: &Mutex<Receiver<OwnedFd>>) {
    loop {
        let link = links.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match link {
            Ok(link) => drop(link),
            Err(_) => return,
        }
    }
}

/// A program that does nothing, and a page that nobody runs.
#[derive(Debug)]
struct Attacher {
    program: OwnedFd,
    page: OwnedFd,
}

impl Attacher {
    fn new() -> io::Result<Self> {
        // SAFETY: a name that ends with a zero, and flags.
        let page = owned(unsafe {
            libc::syscall(libc::SYS_memfd_create, c"saker".as_ptr(), libc::MFD_CLOEXEC)
        })?;
        let mut page = std::fs::File::from(page);
        page.write_all(&[0x90; 16])?;
        Ok(Self {
            program: load()?,
            page: page.into(),
        })
    }

    /// Attaches, until what is returned is dropped.
    fn attach(&self) -> io::Result<OwnedFd> {
        let path = CString::new(format!("/proc/self/fd/{}", self.page.as_raw_fd()))?;
        let offsets = [0u64];
        // SAFETY: a union of integers, for which zeros are a value.
        let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
        // SAFETY: the fields of this command, in a union that is zero otherwise.
        unsafe {
            let link = &mut attr.link_create;
            link.__bindgen_anon_1.prog_fd = self.program.as_raw_fd().cast_unsigned();
            link.attach_type = BPF_TRACE_UPROBE_MULTI as u32;
            let multi = &mut link.__bindgen_anon_3.uprobe_multi;
            multi.path = path.as_ptr() as u64;
            multi.offsets = offsets.as_ptr() as u64;
            multi.cnt = 1;
            calls::bpf(BPF_LINK_CREATE as u32, &attr)
        }
    }
}

/// Loads a program that returns at once.
fn load() -> io::Result<OwnedFd> {
    /// `r0 = 0; exit`
    const PROGRAM: [u64; 2] = [0x0000_0000_0000_00b7, 0x0000_0000_0000_0095];
    calls::load(
        BPF_PROG_TYPE_KPROBE as u32,
        BPF_TRACE_UPROBE_MULTI as u32,
        &PROGRAM,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_on_for_a_while_and_ends_when_it_is_dropped() {
        let warmer = match Warmer::start() {
            Ok(warmer) => warmer,
            Err(error) => {
                saker_tests::skip(&format!("the kernel cannot be kept ready: {error}"));
                return;
            }
        };
        let is_on = |until: &Until| until.what.lock().unwrap().until.is_some();
        assert!(!is_on(&warmer.until));
        warmer.warm().expect();
        assert!(is_on(&warmer.until));
        let deadline = Instant::now() + Duration::from_secs(60);
        while is_on(&warmer.until) {
            assert!(Instant::now() < deadline, "it does not stop");
            thread::yield_now();
        }
        warmer.warm().expect();
        drop(warmer);
    }
}
