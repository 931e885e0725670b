//! The thread that looks at every process that starts, and attaches the kernel's programs to the Python that it runs.
//!
//! A uprobe belongs to a file, so one look at an interpreter serves all processes that run it, those to come included. The
//! race is with the first process of a file never seen before: it must be looked at before it has imported `pickle`, which
//! it does some ten milliseconds after it started. So the sensor thread hands a process over before it does anything else
//! with its start, and this thread does nothing but look.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use aya::programs::ProgramFd;
use tracing::{debug, info, warn};

use super::elf::{self, Site, Sites, Version};
use super::key::FileKey;
use super::locate;
use crate::source::perf;

/// Processes that wait to be looked at. One that finds no room is looked at later, when its file shows up again.
const QUEUE_MAX: usize = 8192;

/// Files with a program attached. Each holds a few kilobytes of kernel memory.
const ATTACHED_MAX: usize = 512;

/// Files that were looked at, whatever came of it.
const KNOWN_MAX: usize = 8192;

/// Places in one file: compilers copy a call once or twice.
const SITES_MAX: usize = 8;

/// Processes remembered for each file.
const USERS_MAX: usize = 64;

/// When a process that showed no Python at its start is looked at again: it may have loaded one since.
const SECOND_LOOK: Duration = Duration::from_secs(1);

/// Processes that wait for their second look.
const SECOND_LOOKS_MAX: usize = 4096;

/// How often files that nobody runs any more are let go, and how long one is kept after its last use.
const SWEEP: Duration = Duration::from_secs(10);
const KEEP_IDLE: Duration = Duration::from_secs(60);

/// What is known of the interpreters on this node; shared with who asks.
#[derive(Debug, Default)]
pub struct Interpreters {
    versions: Mutex<Versions>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Versions {
    of_process: HashMap<u32, Version>,
    /// By the program's file.
    of_program: HashMap<FileKey, Version>,
}

/// What the thread did so far.
#[derive(Debug, Default)]
pub struct Counts {
    /// Files with a program at the call, now.
    pub at_call: AtomicU64,
    /// Files with a program at the function's entry, now.
    pub at_entry: AtomicU64,
    /// Files with a program at `sys.audit` only, now.
    pub in_python: AtomicU64,
    /// Interpreters in which neither was found.
    pub without_site: AtomicU64,
    /// Files that could not be attached to.
    pub failed: AtomicU64,
    /// Processes that were not looked at because too many waited.
    pub queue_full: AtomicU64,
    /// Files let go because too many were attached.
    pub evicted: AtomicU64,
    /// Processes of which not all was looked at, because a bound was reached.
    pub cut: AtomicU64,
    /// Python's files that could not be read.
    pub unreadable: AtomicU64,
    /// Processes that showed no Python and are not looked at again, because too many wait for that.
    pub unseconded: AtomicU64,
    /// Processes looked at.
    pub looked_at: AtomicU64,
}

impl Interpreters {
    /// What was done so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The version of the Python that a process runs, where it was read from its file. A process that was forked runs what
    /// its program's file says, which takes asking for.
    pub fn version_of(&self, proc: &Path, pid: u32) -> Option<Version> {
        if let Some(version) = self.versions().of_process.get(&pid) {
            return Some(*version);
        }
        let exe = FileKey::at(&proc.join(pid.to_string()).join("exe")).ok()?;
        self.versions().of_program.get(&exe).copied()
    }

    fn versions(&self) -> MutexGuard<'_, Versions> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_version(&self, pid: u32, program: &FileKey, version: Version) {
        let mut versions = self.versions();
        if versions.of_process.len() >= KNOWN_MAX {
            versions.of_process.clear();
        }
        if versions.of_program.len() >= KNOWN_MAX {
            versions.of_program.clear();
        }
        versions.of_process.insert(pid, version);
        versions.of_program.insert(*program, version);
    }

    /// The process has started another program.
    fn forget(&self, pid: u32) {
        self.versions().of_process.remove(&pid);
    }
}

/// The running thread.
#[derive(Debug)]
pub struct Watch {
    queue: SyncSender<u32>,
    stop: Arc<AtomicBool>,
    interpreters: Arc<Interpreters>,
    has_looked: Mutex<Receiver<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Hands processes over; cheap to clone.
#[derive(Clone, Debug)]
pub struct Looker {
    queue: SyncSender<u32>,
    interpreters: Arc<Interpreters>,
}

impl Looker {
    /// Has a process looked at, that has just started its program. Never waits.
    pub fn look(&self, pid: u32) {
        if let Err(TrySendError::Full(_)) = self.queue.try_send(pid) {
            self.interpreters
                .counts
                .queue_full
                .fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Watch {
    /// Starts the thread; it looks at all processes that run now, and then at those that are handed over.
    pub fn start(uprobes: Vec<(&'static str, ProgramFd)>) -> io::Result<Self> {
        let (queue, asked) = sync_channel(QUEUE_MAX);
        let (looked, has_looked) = sync_channel(1);
        let stop = Arc::new(AtomicBool::new(false));
        let interpreters = Arc::new(Interpreters::default());
        let worker = Worker {
            uprobes,
            perf_type: perf::uprobe_type()?,
            attached: HashMap::new(),
            known: HashMap::new(),
            strangers: HashSet::new(),
            second_looks: VecDeque::new(),
            interpreters: Arc::clone(&interpreters),
            stop: Arc::clone(&stop),
            proc: PathBuf::from("/proc"),
            looked: Some(looked),
        };
        let thread = thread::Builder::new()
            .name("python".into())
            .spawn(move || worker.run(&asked))?;
        Ok(Self {
            queue,
            stop,
            interpreters,
            has_looked: Mutex::new(has_looked),
            thread: Some(thread),
        })
    }

    /// Hands processes over from another thread.
    pub fn looker(&self) -> Looker {
        Looker {
            queue: self.queue.clone(),
            interpreters: Arc::clone(&self.interpreters),
        }
    }

    /// Waits until all processes were looked at that ran when it started, at most this long.
    pub fn wait(&self, at_most: Duration) {
        let has_looked = self
            .has_looked
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // The end of the first look closes the channel.
        let _ = has_looked.recv_timeout(at_most);
    }

    /// What is known of the interpreters.
    pub fn interpreters(&self) -> Arc<Interpreters> {
        Arc::clone(&self.interpreters)
    }
}

impl Drop for Watch {
    /// Detaches everything, and waits until that is done.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Any number wakes the thread; should the queue be full, it is awake.
        let _ = self.queue.try_send(0);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Worker {
    uprobes: Vec<(&'static str, ProgramFd)>,
    perf_type: u32,
    attached: HashMap<FileKey, Attached>,
    /// What a file was found to be. `None`: it could not be read.
    known: HashMap<FileKey, Option<Arc<Sites>>>,
    /// Programs that were looked at and did not run Python.
    strangers: HashSet<FileKey>,
    second_looks: VecDeque<(Instant, u32)>,
    interpreters: Arc<Interpreters>,
    stop: Arc<AtomicBool>,
    proc: PathBuf,
    /// Dropped after the first look at all processes.
    looked: Option<SyncSender<()>>,
}

/// Where a file is attached to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    AtCall,
    AtEntry,
    /// Only at `sys.audit`: the other unpickler is in another file.
    InPython,
}

/// A file with programs attached, until it is dropped.
struct Attached {
    _events: Vec<OwnedFd>,
    how: How,
    /// Processes that ran it; at most [`USERS_MAX`].
    users: HashSet<u32>,
    used: Instant,
}

impl Attached {
    fn is_idle(&self, now: Instant) -> bool {
        self.users.is_empty() && now.saturating_duration_since(self.used) >= KEEP_IDLE
    }
}

impl Worker {
    fn run(mut self, asked: &Receiver<u32>) {
        hurry();
        self.look_at_all(asked);
        drop(self.looked.take());
        let mut next_sweep = Instant::now() + SWEEP;
        loop {
            let now = Instant::now();
            let due = self
                .second_looks
                .front()
                .map_or(next_sweep, |(due, _)| next_sweep.min(*due));
            match asked.recv_timeout(due.saturating_duration_since(now)) {
                Ok(pid) if pid != 0 => self.look(pid, true),
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            let now = Instant::now();
            while let Some((_, pid)) = self.second_looks.pop_front_if(|(due, _)| *due <= now) {
                self.look(pid, false);
            }
            if now >= next_sweep {
                self.sweep(now, asked);
                next_sweep = now + SWEEP;
            }
        }
    }

    /// Looks at what runs already. What starts meanwhile goes first: it is in a hurry.
    fn look_at_all(&mut self, asked: &Receiver<u32>) {
        let Ok(entries) = fs::read_dir(&self.proc) else {
            return;
        };
        for entry in entries.flatten() {
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            while let Ok(pid) = asked.try_recv() {
                self.look(pid, true);
            }
            if let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            {
                self.look(pid, false);
            }
        }
    }

    /// Looks at a process, and attaches to the Python that it runs.
    fn look(&mut self, pid: u32, is_start: bool) {
        self.interpreters
            .counts
            .looked_at
            .fetch_add(1, Ordering::Relaxed);
        if is_start {
            self.interpreters.forget(pid);
        }
        let exe = self.proc.join(pid.to_string()).join("exe");
        let Ok(key) = FileKey::at(&exe) else {
            return;
        };
        // Most programs are no Python, and known after one look at their file.
        if !is_start || !self.strangers.contains(&key) {
            let Some(mut look) = locate::of_process(&self.proc, pid) else {
                return;
            };
            if !is_start && look.found.is_empty() {
                look = locate::loaded(&self.proc, pid);
            }
            let counts = &self.interpreters.counts;
            counts
                .cut
                .fetch_add(u64::from(look.is_cut), Ordering::Relaxed);
            // The small file first: where it is, the unpickler is in it, and the others take longer to read.
            look.found.sort_by_key(|part| !is_pickle(part));
            for part in &look.found {
                self.consider(pid, &key, part);
            }
            if !look.found.is_empty() {
                self.strangers.remove(&key);
                return;
            }
        }
        if self.strangers.len() >= KNOWN_MAX {
            self.strangers.clear();
        }
        self.strangers.insert(key);
        if !is_start {
            return;
        }
        if self.second_looks.len() < SECOND_LOOKS_MAX {
            self.second_looks
                .push_back((Instant::now() + SECOND_LOOK, pid));
        } else {
            let counts = &self.interpreters.counts;
            counts.unseconded.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Attaches to a file, if the unpickler is in it.
    fn consider(&mut self, pid: u32, exe: &FileKey, found: &locate::Found) {
        let Ok(key) = FileKey::of(&found.file) else {
            return;
        };
        let sites = match self.known.get(&key) {
            Some(sites) => sites.clone(),
            None => {
                let sites = self.analyze(found);
                self.remember(key, sites.clone());
                sites
            }
        };
        let version = sites
            .as_ref()
            .and_then(|sites| sites.version)
            .or(found.version);
        if let Some(version) = version {
            self.interpreters.set_version(pid, exe, version);
        }
        let Some(sites) = sites.filter(|sites| sites.is_worth_attaching()) else {
            return;
        };
        let now = Instant::now();
        if let Some(attached) = self.attached.get_mut(&key) {
            attached.used = now;
            if attached.users.len() < USERS_MAX {
                attached.users.insert(pid);
            }
            return;
        }
        let Some(version) = version else {
            self.without_site(&found.inside, "its version is not known");
            return;
        };
        let in_python = sites
            .python_audit
            .map(|file_offset| Site::Entry { file_offset });
        let events: io::Result<Vec<OwnedFd>> = sites
            .find_class
            .iter()
            .take(SITES_MAX)
            .chain(&in_python)
            .map(|site| self.attach(&found.file, site, version))
            .collect();
        match events {
            Ok(events) => {
                debug!("watching {} ({version})", found.inside);
                self.make_room();
                let how = match sites.find_class.first() {
                    Some(Site::Call { .. }) => How::AtCall,
                    Some(Site::Entry { .. }) => How::AtEntry,
                    None => How::InPython,
                };
                self.attached.insert(
                    key,
                    Attached {
                        _events: events,
                        how,
                        users: HashSet::from([pid]),
                        used: now,
                    },
                );
                self.count();
            }
            Err(error) => {
                self.interpreters
                    .counts
                    .failed
                    .fetch_add(1, Ordering::Relaxed);
                warn!("pickles in {} are not seen: {error}", found.inside);
            }
        }
    }

    /// Reads a file; says once what stands in the way of watching it.
    fn analyze(&self, found: &locate::Found) -> Option<Arc<Sites>> {
        match elf::analyze(&found.file) {
            Ok(sites) => {
                let counts = &self.interpreters.counts;
                counts
                    .cut
                    .fetch_add(u64::from(sites.is_cut), Ordering::Relaxed);
                // A module of this name has nothing else to do.
                if is_pickle(found) && sites.find_class.is_empty() {
                    self.without_site(&found.inside, "the call to watch was not found in it");
                }
                Some(Arc::new(sites))
            }
            Err(error) => {
                self.interpreters
                    .counts
                    .unreadable
                    .fetch_add(1, Ordering::Relaxed);
                info!("pickles in {} are not seen: {error}", found.inside);
                None
            }
        }
    }

    fn without_site(&self, exe: &str, why: &str) {
        self.interpreters
            .counts
            .without_site
            .fetch_add(1, Ordering::Relaxed);
        info!("pickles in {exe} are not seen: {why}");
    }

    fn attach(&self, file: &File, site: &Site, version: Version) -> io::Result<OwnedFd> {
        let (name, offset) = match site {
            Site::Call { file_offset } => (program(version, false), *file_offset),
            Site::Entry { file_offset } => (program(version, true), *file_offset),
        };
        let (_, program) = self
            .uprobes
            .iter()
            .find(|(uprobe, _)| *uprobe == name)
            .ok_or_else(|| io::Error::other(format!("program {name} is not loaded")))?;
        // The file that was read, whatever its name means by now.
        let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        perf::attach_uprobe(self.perf_type, &path, offset, program.as_fd())
    }

    fn remember(&mut self, key: FileKey, sites: Option<Arc<Sites>>) {
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        self.known.entry(key).or_insert(sites);
    }

    /// Lets the file go that was used longest ago, where there are too many.
    fn make_room(&mut self) {
        if self.attached.len() < ATTACHED_MAX {
            return;
        }
        let oldest = self
            .attached
            .iter()
            .min_by_key(|(_, attached)| attached.used)
            .map(|(key, _)| *key);
        if let Some(key) = oldest {
            self.attached.remove(&key);
            self.interpreters
                .counts
                .evicted
                .fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lets files go that nobody runs: a program at a file keeps its file system from being unmounted. Who ran a file is known
    /// of those that started it, not of those that were forked since: before one is let go, all processes are looked at again.
    fn sweep(&mut self, now: Instant, asked: &Receiver<u32>) {
        let proc = &self.proc;
        let mut is_any_idle = false;
        for attached in self.attached.values_mut() {
            attached
                .users
                .retain(|pid| proc.join(pid.to_string()).exists());
            is_any_idle |= attached.is_idle(now);
        }
        if is_any_idle {
            self.look_at_all(asked);
            self.attached.retain(|_, attached| !attached.is_idle(now));
        }
        self.count();
    }

    fn count(&self) {
        let counts = &self.interpreters.counts;
        for (how, count) in [
            (How::AtCall, &counts.at_call),
            (How::AtEntry, &counts.at_entry),
            (How::InPython, &counts.in_python),
        ] {
            let of_it = self.attached.values().filter(|file| file.how == how);
            count.store(of_it.count() as u64, Ordering::Relaxed);
        }
    }
}

/// Is it the module `_pickle`, by its name?
fn is_pickle(found: &locate::Found) -> bool {
    let name = found.inside.rsplit('/').next().unwrap_or_default();
    name.starts_with("_pickle.")
}

/// The kernel's program for a version's layout of `str`.
fn program(version: Version, at_entry: bool) -> &'static str {
    match (version.minor, version.free_threaded, at_entry) {
        (..=11, _, false) => "saker_pickle_wstr",
        (..=11, _, true) => "saker_audit_wstr",
        (_, false, false) => "saker_pickle",
        (_, false, true) => "saker_audit",
        (..=13, true, false) => "saker_pickle_free",
        (..=13, true, true) => "saker_audit_free",
        (_, true, false) => "saker_pickle_free_wide",
        (_, true, true) => "saker_audit_free_wide",
    }
}

/// On a busy node this thread must not wait its turn behind the process that it is to overtake.
fn hurry() {
    // SAFETY: takes integers; 0 is the calling thread. Where it is not allowed, nothing changes.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -10) };
}
