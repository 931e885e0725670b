//! The thread that reads account databases. A file system in a container may be its owner's own program (FUSE) or a server
//! that is gone, and a look at it may never end; so the sensor thread asks here and goes on.

use std::{
    fs::{self, File},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::event::MountNs;

use super::database::{Database, IdMap, Stamp, User, group, user};

/// Questions that wait; more are dropped, and asked again with a later event.
const QUEUE_MAX: usize = 256;
/// A reader that takes longer is left to itself and another one takes its place, while no more than so many are.
const STUCK: Duration = Duration::from_secs(5);
const STUCK_MAX: usize = 8;

/// What one file system says of users and groups.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Accounts {
    /// Users by the id inside.
    pub users: Database<User>,
    /// Groups by the id inside.
    pub groups: Database<Box<[u8]>>,
    /// Ids of the host to ids inside.
    pub uids: IdMap,
    /// The same for groups.
    pub gids: IdMap,
}

impl Accounts {
    /// Reads what changed below a process's root folder.
    pub fn refresh(&mut self, proc: &Path, pid: u32) {
        let process = proc.join(pid.to_string());
        let map = |file: &str| {
            let text = fs::read_to_string(process.join(file)).unwrap_or_default();
            IdMap::parse(&text)
        };
        self.uids = map("uid_map");
        self.gids = map("gid_map");
        let Ok(root) = File::open(process.join("root")) else {
            return;
        };
        self.refresh_below(&OwnedFd::from(root));
    }

    /// What tells one reading of the files from another.
    pub(super) fn stamps(&self) -> [Option<Stamp>; 2] {
        [self.users.stamp(), self.groups.stamp()]
    }

    /// Reads what changed below a folder. A file that is not there, or is none, leaves its names unknown.
    pub fn refresh_below(&mut self, root: &OwnedFd) {
        let _ = self.users.refresh(root, Path::new("etc/passwd"), user);
        let _ = self.groups.refresh(root, Path::new("etc/group"), group);
    }
}

/// Reads the accounts that one of its processes sees.
#[derive(Debug)]
pub struct Question {
    /// The mount namespace.
    pub mount_ns: MountNs,
    /// A process of it.
    pub pid: u32,
    /// What is known already.
    pub accounts: Accounts,
}

/// The answer: whether the process was still of that namespace, and what there was to read.
#[derive(Debug)]
pub struct Answer {
    /// The mount namespace.
    pub mount_ns: MountNs,
    /// `None` where the process was gone.
    pub accounts: Option<Accounts>,
}

/// The thread, and the way to it and back.
#[derive(Debug)]
pub struct Reader {
    proc: PathBuf,
    questions: SyncSender<Question>,
    answers: Receiver<Answer>,
    /// Answers given by the thread that is there now.
    answered: Arc<AtomicU64>,
    seen: u64,
    asked: u64,
    waiting_since: Option<Instant>,
    /// What the thread that is there now is at.
    at: At,
    /// Threads that were left to themselves and have not ended.
    stuck: Vec<Weak<Mutex<Option<MountNs>>>>,
}

/// The mount namespace that a thread reads in, for as long as the thread is there.
type At = Arc<Mutex<Option<MountNs>>>;

impl Reader {
    /// Starts the thread; processes are looked up below `proc`.
    pub fn start(proc: &Path) -> Self {
        let (questions, answers, answered, at) = spawn(proc.to_owned());
        Self {
            proc: proc.to_owned(),
            questions,
            answers,
            answered,
            seen: 0,
            asked: 0,
            waiting_since: None,
            at,
            stuck: Vec::new(),
        }
    }

    /// Asks, unless too much is waiting.
    pub fn ask(&mut self, question: Question, now: Instant) -> bool {
        let asked = self.questions.try_send(question).is_ok();
        if asked {
            self.asked += 1;
            self.waiting_since.get_or_insert(now);
        }
        asked
    }

    /// An answer that is there; with `wait` one that comes within it.
    pub fn answer(&mut self, wait: Duration) -> Option<Answer> {
        let answer = if wait.is_zero() {
            self.answers
                .try_recv()
                .map_err(|error| error == TryRecvError::Empty)
                .ok()
        } else {
            self.answers.recv_timeout(wait).ok()
        };
        if answer.is_some() {
            self.seen += 1;
            self.waiting_since = (self.seen < self.asked).then(Instant::now);
        }
        answer
    }

    /// Replaces a thread that hangs. Its questions are lost; `true` tells that they were.
    pub fn replace_if_stuck(&mut self, now: Instant) -> bool {
        let is_stuck = self
            .waiting_since
            .is_some_and(|since| now.saturating_duration_since(since) > STUCK)
            && self.answered.load(Relaxed) == self.seen;
        if !is_stuck {
            return false;
        }
        self.stuck.retain(|thread| thread.strong_count() > 0);
        if self.stuck.len() == STUCK_MAX {
            return false;
        }
        let mut stuck = std::mem::take(&mut self.stuck);
        stuck.push(Arc::downgrade(&self.at));
        *self = Self::start(&self.proc);
        self.stuck = stuck;
        true
    }

    /// Whether a thread hangs in this namespace: another one would too.
    pub fn hangs_in(&self, mount_ns: MountNs) -> bool {
        let mut there = self.stuck.iter().filter_map(Weak::upgrade);
        there.any(|at| *at.lock().unwrap_or_else(PoisonError::into_inner) == Some(mount_ns))
    }

    /// Threads that were left to themselves and have not ended.
    pub fn stuck(&self) -> u64 {
        let there = self.stuck.iter().filter(|thread| thread.strong_count() > 0);
        there.count() as u64
    }
}

type Ends = (SyncSender<Question>, Receiver<Answer>, Arc<AtomicU64>, At);

fn spawn(proc: PathBuf) -> Ends {
    let (questions, to_read) = sync_channel::<Question>(QUEUE_MAX);
    // As many answers as there can be questions, waiting and in the making: giving one never waits.
    let (read, answers) = sync_channel(QUEUE_MAX + 1);
    let answered = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&answered);
    let at = At::default();
    let now_at = Arc::clone(&at);
    let body = move || {
        for Question {
            mount_ns,
            pid,
            mut accounts,
        } in to_read
        {
            *now_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(mount_ns);
            let is_it =
                || super::super::procfs::mount_namespace(&proc, pid) == Some(mount_ns.number);
            let was_it = is_it();
            if was_it {
                accounts.refresh(&proc, pid);
            }
            // The pid can have gone to a process of another namespace meanwhile.
            let accounts = (was_it && is_it()).then_some(accounts);
            count.fetch_add(1, Relaxed);
            if read.send(Answer { mount_ns, accounts }).is_err() {
                return;
            }
        }
    };
    // Without a thread every question is refused, and names of containers stay unknown.
    drop(thread::Builder::new().name("names".into()).spawn(body));
    (questions, answers, answered, at)
}
