//! The thread that looks at every process that starts, and attaches the kernel's programs to the Python that it runs.
//!
//! A uprobe belongs to a file, so one look at an interpreter serves all processes that run it, those to come included. The
//! race is with the first process of a file never seen before: it must be looked at before it has imported `pickle`, which
//! it does some ten milliseconds after it started. So the sensor thread hands a process over before it does anything else
//! with its start, and this thread does nothing but look.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use aya::programs::ProgramFd;
use tracing::{debug, info, warn};

use super::attach::Programs;
use super::detach::Detacher;
use super::elf::{self, Audits, ElfError, Site, Sites, Version};
use super::interpreters::Interpreters;
use super::key::FileKey;
use super::locate;
use super::opened::{Opened, Waiting};
use super::warm::{Warm, Warmer};
use crate::source::priority;

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

/// Files whose reading can wait until nobody is in a hurry. Each is an open file; where there are more, nothing waits.
const LATER_MAX: usize = 128;

/// How often files that nobody runs any more are let go, and how long one is kept after its last use.
const SWEEP: Duration = Duration::from_secs(10);
const KEEP_IDLE: Duration = Duration::from_secs(60);

/// The running thread.
#[derive(Debug)]
pub struct Watch {
    queue: SyncSender<Ask>,
    stop: Arc<AtomicBool>,
    interpreters: Arc<Interpreters>,
    thread: Option<JoinHandle<()>>,
    /// `None` where the kernel cannot be kept ready.
    warmer: Option<Warmer>,
}

/// What the thread is asked for.
#[derive(Debug)]
enum Ask {
    /// A look at a process that has just started its program.
    Started(u32),
    /// A look at a file that a process has opened, by its path inside.
    Opened(u32, String),
    /// A word when everything before is done.
    Tell(SyncSender<()>),
    /// Nothing: to wake it.
    Wake,
}

/// Hands processes over; cheap to clone.
#[derive(Clone, Debug)]
pub struct Looker {
    queue: SyncSender<Ask>,
    interpreters: Arc<Interpreters>,
    warm: Option<Warm>,
}

impl Looker {
    /// Has a process looked at, that has just started its program. Never waits.
    pub fn look(&self, pid: u32) {
        self.ask(Ask::Started(pid));
    }

    /// Has a file looked at that a process has opened, a part of Python by its name: the process may be one that was taken for
    /// something else, or the file lies where nobody looks. Never waits.
    pub fn opened(&self, pid: u32, path: &[u8]) {
        self.ask(Ask::Opened(pid, String::from_utf8_lossy(path).into_owned()));
    }

    /// A Python that nobody has seen before may be about to start. Never waits.
    pub fn expect(&self) {
        if let Some(warm) = &self.warm {
            warm.expect();
        }
    }

    fn ask(&self, ask: Ask) {
        if let Err(TrySendError::Full(_)) = self.queue.try_send(ask) {
            self.interpreters
                .counts()
                .queue_full
                .fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Watch {
    /// Starts the thread; it looks at all processes that run now, and then at those that are handed over.
    pub fn start(uprobes: Vec<(&'static str, ProgramFd)>) -> io::Result<Self> {
        let (queue, asked) = sync_channel(QUEUE_MAX);
        let stop = Arc::new(AtomicBool::new(false));
        let interpreters = Arc::new(Interpreters::default());
        let worker = Worker {
            programs: Programs::new(uprobes)?,
            attached: HashMap::new(),
            known: HashMap::new(),
            strangers: HashSet::new(),
            second_looks: VecDeque::new(),
            opened: Waiting::default(),
            interpreters: Arc::clone(&interpreters),
            stop: Arc::clone(&stop),
            proc: PathBuf::from("/proc"),
            later: VecDeque::new(),
            tells: Vec::new(),
            detacher: Detacher::start(&stop)?,
        };
        let thread = thread::Builder::new()
            .name("python".into())
            .spawn(move || worker.run(&asked))?;
        Ok(Self {
            queue,
            stop,
            interpreters,
            thread: Some(thread),
            warmer: Warmer::start()
                .inspect_err(|error| debug!("attaching takes its time: {error}"))
                .ok(),
        })
    }

    /// Hands processes over from another thread.
    pub fn looker(&self) -> Looker {
        Looker {
            queue: self.queue.clone(),
            interpreters: Arc::clone(&self.interpreters),
            warm: self.warmer.as_ref().map(Warmer::warm),
        }
    }

    /// Waits until all processes were looked at that ran when it started, and all that were handed over before, at most this
    /// long. Whether it came to that.
    pub fn wait(&self, at_most: Duration) -> bool {
        let (tell, told) = sync_channel(1);
        self.queue.send(Ask::Tell(tell)).is_ok() && told.recv_timeout(at_most).is_ok()
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
        // Should the queue be full, it is awake.
        let _ = self.queue.try_send(Ask::Wake);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Worker {
    programs: Programs,
    attached: HashMap<FileKey, Attached>,
    /// What a file was found to be. `None`: it could not be read.
    known: HashMap<FileKey, Option<Known>>,
    /// Programs that were looked at and did not run Python.
    strangers: HashSet<FileKey>,
    second_looks: VecDeque<(Instant, u32)>,
    opened: Waiting,
    interpreters: Arc<Interpreters>,
    stop: Arc<AtomicBool>,
    proc: PathBuf,
    /// What is done when nobody is in a hurry.
    later: VecDeque<Later>,
    /// Who is told when everything is done.
    tells: Vec<SyncSender<()>>,
    /// Lets files go, which takes the kernel a while.
    detacher: Detacher,
}

/// What a file was found to be.
#[derive(Clone)]
struct Known {
    sites: Arc<Sites>,
    /// `None`: not looked for yet.
    python_audit: Option<Option<u64>>,
}

/// A file whose reading takes long and is not urgent.
enum Later {
    /// A part of a process whose unpickler is in another file.
    Part {
        pid: u32,
        exe: FileKey,
        part: locate::Found,
    },
    /// An interpreter, whose `sys.audit` is to be watched.
    Interpreter {
        pid: u32,
        version: Version,
        part: locate::Found,
    },
}

/// Where a file is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    AtCall,
    AtEntry,
    /// Only at `sys.audit`: the other unpickler is in another file.
    InPython,
}

/// A file with programs attached, until it is dropped.
struct Attached {
    events: Vec<OwnedFd>,
    how: How,
    /// Also at `sys.audit`.
    in_python: bool,
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
    fn run(mut self, asked: &Receiver<Ask>) {
        priority::hurry();
        self.look_at_all(asked);
        let mut next_sweep = Instant::now() + SWEEP;
        while !self.stop.load(Ordering::Acquire) {
            self.take_asked(asked);
            let now = Instant::now();
            if let Some(opened) = self.opened.pop(now) {
                self.look_at_opened(opened);
            } else if let Some(later) = self.later.pop_front() {
                self.take_later(later);
            }
            if let Some((_, pid)) = self.second_looks.pop_front_if(|(due, _)| *due <= now) {
                self.look(pid, false);
            }
            if now >= next_sweep {
                self.sweep(now, asked);
                next_sweep = now + SWEEP;
            }
            if !self.later.is_empty() {
                continue;
            }
            for tell in self.tells.drain(..) {
                // Who does not wait any more need not know.
                let _ = tell.try_send(());
            }
            let second = self.second_looks.front().map(|(due, _)| *due);
            let opened = self.opened.next_due();
            let due = [second, opened]
                .into_iter()
                .flatten()
                .fold(next_sweep, Instant::min);
            match asked.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(ask) => self.take(ask),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
    }

    /// Does what was asked for meanwhile: who has just started goes before everything else.
    fn take_asked(&mut self, asked: &Receiver<Ask>) {
        for ask in asked.try_iter().take(QUEUE_MAX) {
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            self.take(ask);
        }
    }

    fn take(&mut self, ask: Ask) {
        match ask {
            Ask::Started(pid) => self.look(pid, true),
            Ask::Opened(pid, path) => self.await_mapping(Opened::new(pid, path)),
            Ask::Tell(tell) => self.tells.push(tell),
            Ask::Wake => {}
        }
    }

    /// Looks at what runs already. What starts meanwhile goes first: it is in a hurry.
    fn look_at_all(&mut self, asked: &Receiver<Ask>) {
        let Ok(entries) = fs::read_dir(&self.proc) else {
            return;
        };
        for entry in entries.flatten() {
            self.take_asked(asked);
            if self.stop.load(Ordering::Acquire) {
                return;
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
            let counts = &self.interpreters.counts();
            counts
                .cut
                .fetch_add(u64::from(look.is_cut), Ordering::Relaxed);
            // The small file first: where it is, the unpickler is in it. The others take longer to read, and the next process is
            // in a hurry too.
            look.found.sort_by_key(|part| !is_pickle(part));
            let is_python = !look.found.is_empty();
            let is_urgent = !look.found.first().is_some_and(is_pickle);
            for part in look.found {
                if is_urgent || is_pickle(&part) {
                    self.consider(pid, &key, part);
                } else {
                    self.postpone(Later::Part {
                        pid,
                        exe: key,
                        part,
                    });
                }
            }
            if is_python {
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
            let counts = &self.interpreters.counts();
            counts.unseconded.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Has a file looked at that was opened, when it is due.
    fn await_mapping(&mut self, opened: Opened) {
        if !self.opened.push(opened) {
            let counts = &self.interpreters.counts();
            counts.queue_full.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Looks at one file of a process, if it is there to be run; at all of the process, where it was no Python until now.
    fn look_at_opened(&mut self, opened: Opened) {
        if !locate::runs(&self.proc, opened.pid, &opened.path) {
            if let Some(later) = opened.later() {
                self.await_mapping(later);
            }
            return;
        }
        let (pid, path) = (opened.pid, opened.path.as_str());
        let Ok(exe) = FileKey::at(&self.proc.join(pid.to_string()).join("exe")) else {
            return;
        };
        let version = Version::of_extension(path).or_else(|| Version::of_library(path));
        if let Some(part) = locate::opened(&self.proc, pid, path, version) {
            self.consider(pid, &exe, part);
        }
        if self.strangers.remove(&exe) {
            self.look(pid, false);
        }
    }

    fn postpone(&mut self, later: Later) {
        if self.later.len() < LATER_MAX {
            self.later.push_back(later);
        } else {
            self.take_later(later);
        }
    }

    fn take_later(&mut self, later: Later) {
        match later {
            Later::Part { pid, exe, part } => self.consider(pid, &exe, part),
            Later::Interpreter { pid, version, part } => self.watch_python(pid, version, &part),
        }
    }

    /// Attaches to a file, if the unpickler is in it.
    fn consider(&mut self, pid: u32, exe: &FileKey, found: locate::Found) {
        let Ok(key) = FileKey::of(&found.file) else {
            return;
        };
        let known = match self.known.get(&key) {
            Some(known) => known.clone(),
            None => {
                let known = self.analyze(&found).map(|sites| Known {
                    sites: Arc::new(sites),
                    python_audit: None,
                });
                self.remember(key, known.clone());
                known
            }
        };
        let version = known
            .as_ref()
            .and_then(|known| known.sites.version)
            .or(found.version);
        if let Some(version) = version {
            self.interpreters.set_version(pid, exe, version);
        }
        let Some(known) = known else { return };
        let sites = &known.sites;
        let is_interpreter = sites.audit_entry.is_some();
        if sites.find_class.is_empty() && !is_interpreter {
            return;
        }
        let Some(version) = version else {
            self.without_site(&found.inside, "its version is not known");
            return;
        };
        if let Some(first) = sites.find_class.first()
            && !self.is_used(&key, pid)
        {
            let how = match first {
                Site::Call { .. } => How::AtCall,
                Site::Entry { .. } => How::AtEntry,
            };
            self.watch(key, pid, &found, &sites.find_class, version, how);
        }
        let is_done = self
            .attached
            .get(&key)
            .is_some_and(|attached| attached.in_python);
        if is_interpreter && !is_done && known.python_audit != Some(None) {
            self.postpone(Later::Interpreter {
                pid,
                version,
                part: found,
            });
        } else if is_interpreter {
            self.is_used(&key, pid);
        }
    }

    /// Attaches to the function behind `sys.audit`, by which unpicklers announce that are Python themselves.
    fn watch_python(&mut self, pid: u32, version: Version, found: &locate::Found) {
        let Ok(key) = FileKey::of(&found.file) else {
            return;
        };
        let python_audit = match self.known.get(&key) {
            Some(Some(known)) if known.python_audit.is_some() => known.python_audit.flatten(),
            _ => {
                let audits = self.read(found, elf::audits, |audits: &Audits| audits.is_cut);
                let at = audits.and_then(|audits| audits.python);
                if let Some(Some(known)) = self.known.get_mut(&key) {
                    known.python_audit = Some(at);
                }
                at
            }
        };
        let Some(file_offset) = python_audit else {
            return;
        };
        let is_done = self
            .attached
            .get(&key)
            .is_some_and(|attached| attached.in_python);
        if is_done {
            self.is_used(&key, pid);
        } else {
            let sites = [Site::Entry { file_offset }];
            self.watch(key, pid, found, &sites, version, How::InPython);
        }
    }

    /// Whether a file is attached, and if so, by whom it is used.
    fn is_used(&mut self, key: &FileKey, pid: u32) -> bool {
        let Some(attached) = self.attached.get_mut(key) else {
            return false;
        };
        attached.used = Instant::now();
        if attached.users.len() < USERS_MAX {
            attached.users.insert(pid);
        }
        true
    }

    /// Attaches to a file at these places.
    fn watch(
        &mut self,
        key: FileKey,
        pid: u32,
        found: &locate::Found,
        sites: &[Site],
        version: Version,
        how: How,
    ) {
        let sites = &sites[..sites.len().min(SITES_MAX)];
        self.detacher.stand_back();
        let events = match self.programs.attach(&found.file, sites, version) {
            Ok(events) => events,
            Err(error) => {
                let counts = &self.interpreters.counts();
                counts.failed.fetch_add(1, Ordering::Relaxed);
                warn!("pickles in {} are not seen: {error}", found.inside);
                return;
            }
        };
        debug!("watching {} ({version}) {how:?}", found.inside);
        if !self.attached.contains_key(&key) {
            self.make_room();
        }
        let attached = self.attached.entry(key).or_insert_with(|| Attached {
            events: Vec::new(),
            how,
            in_python: false,
            users: HashSet::new(),
            used: Instant::now(),
        });
        attached.events.extend(events);
        attached.in_python |= how == How::InPython;
        self.is_used(&key, pid);
        self.count();
    }

    /// Reads a file; says once what stands in the way of watching it.
    fn analyze(&self, found: &locate::Found) -> Option<Sites> {
        let sites = self.read(found, elf::analyze, |sites: &Sites| sites.is_cut)?;
        // A module of this name has nothing else to do.
        if is_pickle(found) && sites.find_class.is_empty() {
            self.without_site(&found.inside, "the call to watch was not found in it");
        }
        Some(sites)
    }

    fn read<T>(
        &self,
        found: &locate::Found,
        read: fn(&File) -> Result<T, ElfError>,
        is_cut: fn(&T) -> bool,
    ) -> Option<T> {
        let counts = &self.interpreters.counts();
        match read(&found.file) {
            Ok(read) => {
                counts
                    .cut
                    .fetch_add(u64::from(is_cut(&read)), Ordering::Relaxed);
                Some(read)
            }
            Err(error) => {
                counts.unreadable.fetch_add(1, Ordering::Relaxed);
                info!("pickles in {} are not seen: {error}", found.inside);
                None
            }
        }
    }

    fn without_site(&self, exe: &str, why: &str) {
        self.interpreters
            .counts()
            .without_site
            .fetch_add(1, Ordering::Relaxed);
        info!("pickles in {exe} are not seen: {why}");
    }

    fn remember(&mut self, key: FileKey, known: Option<Known>) {
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        self.known.entry(key).or_insert(known);
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
            let evicted = self.attached.remove(&key);
            self.detacher
                .let_go(evicted.into_iter().flat_map(|file| file.events));
            self.interpreters
                .counts()
                .evicted
                .fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lets files go that nobody runs: a program at a file keeps its file system from being unmounted. Who ran a file is known
    /// of those that started it, not of those that were forked since: before one is let go, all processes are looked at again.
    fn sweep(&mut self, now: Instant, asked: &Receiver<Ask>) {
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
            let idle = self
                .attached
                .extract_if(|_, attached| attached.is_idle(now))
                .flat_map(|(_, attached)| attached.events);
            self.detacher.let_go(idle);
        }
        self.count();
    }

    fn count(&self) {
        let counts = &self.interpreters.counts();
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
