//! Names of users and groups: the host's from its own `/etc/passwd` and `/etc/group`, a container's from the files that its
//! processes see there.
//!
//! A container is told by its mount namespace and the root folder in it, as they were when the process last executed: a runtime's own
//! programs run in the namespace before the container's files are its root, and the namespace's number is soon another's; what a number is called is asked of the container's file with the number that
//! the user has inside, which a user namespace may make another. The files are read again when they change, looked at no
//! more often than once a second for the host and every ten seconds for a container. Directory services (LDAP, SSSD) are not
//! asked: a look-up there may take seconds, and the sensor thread waits for nobody.

mod database;
mod reader;

use std::{
    fs::File,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustc_hash::FxHashMap;

use super::container::Owner;
use crate::event::MountNs;

pub use database::{IdMap, User, group, parse, user};
pub use reader::Accounts;
use reader::{Question, Reader};

const RECHECK: Duration = Duration::from_secs(1);
const RECHECK_CONTAINER: Duration = Duration::from_secs(10);

/// Containers whose names are kept, and entries of all of them together.
const CONTAINERS_MAX: usize = 4_096;
const ENTRIES_MAX: usize = 1 << 20;

/// How long the first program of a container may be held back until its names are read, which takes a fraction of a
/// millisecond; and for how much of a second all of them together.
const WAIT: Duration = Duration::from_millis(5);
const WAIT_PER_SECOND: Duration = Duration::from_millis(50);

/// The host's names, and those of every container.
#[derive(Debug)]
pub struct Names {
    root: PathBuf,
    host: Accounts,
    checked: Option<Instant>,
    host_ns: Option<u32>,
    containers: FxHashMap<MountNs, Container>,
    entries: usize,
    /// `None` in a replay, which is told.
    reader: Option<Reader>,
    /// Whose names have changed since somebody asked, while somebody wants to know.
    changed: Option<Vec<Option<MountNs>>>,
    waited: Duration,
    clock: u64,
    evicted: u64,
}

#[derive(Debug, Default)]
struct Container {
    accounts: Accounts,
    checked: Option<Instant>,
    is_asked: bool,
    used: u64,
}

impl Names {
    /// The host's databases lie below `root`, normally `/`; containers are looked up below `proc`, whose process 1 is the
    /// host's.
    pub fn new(root: &Path, proc: &Path) -> Self {
        Self {
            root: root.into(),
            host: Accounts::default(),
            checked: None,
            host_ns: host_ns(proc),
            containers: FxHashMap::default(),
            entries: 0,
            reader: Some(Reader::start(proc)),
            changed: None,
            waited: Duration::ZERO,
            clock: 0,
            evicted: 0,
        }
    }

    /// For a replay: nothing is read, and what was recorded is told.
    pub fn told(host_ns: Option<u32>) -> Self {
        Self {
            root: PathBuf::new(),
            host: Accounts::default(),
            checked: None,
            host_ns,
            containers: FxHashMap::default(),
            entries: 0,
            reader: None,
            changed: None,
            waited: Duration::ZERO,
            clock: 0,
            evicted: 0,
        }
    }

    /// The host's mount namespace.
    pub fn host_ns(&self) -> Option<u32> {
        self.host_ns
    }

    /// From now on remembers whose names change.
    pub fn watch_changes(&mut self) {
        self.changed = Some(Vec::new());
    }

    /// Hands out the names that have changed; `None` is the host.
    pub fn take_changes(&mut self) -> impl Iterator<Item = (Option<MountNs>, Accounts)> {
        let changed = self.changed.as_mut().map(std::mem::take);
        changed.unwrap_or_default().into_iter().map(|mount_ns| {
            let accounts = match mount_ns {
                None => Some(&self.host),
                Some(of) => self.containers.get(&of).map(|found| &found.accounts),
            };
            (mount_ns, accounts.cloned().unwrap_or_default())
        })
    }

    /// Takes in recorded names; `None` is the host.
    pub fn tell(&mut self, mount_ns: Option<MountNs>, accounts: Accounts) {
        let Some(mount_ns) = mount_ns else {
            self.host = accounts;
            return;
        };
        self.make_room();
        self.entries += entries(&accounts);
        let container = self.containers.entry(mount_ns).or_default();
        self.entries -= entries(&container.accounts);
        container.accounts = accounts;
        container.used = self.clock;
    }

    fn has_changed(&mut self, mount_ns: Option<MountNs>) {
        if let Some(changed) = &mut self.changed {
            changed.push(mount_ns);
        }
    }

    /// Reads what changed since the last look at the host's files, at most once a second, and takes what came of containers.
    pub fn refresh(&mut self, now: Instant) {
        self.take_answers(Duration::ZERO, None);
        let Some(reader) = &mut self.reader else {
            return;
        };
        if reader.replace_if_stuck(now) {
            for container in self.containers.values_mut() {
                container.is_asked = false;
            }
        }
        if self
            .checked
            .is_some_and(|checked| now.duration_since(checked) < RECHECK)
        {
            return;
        }
        self.checked = Some(now);
        self.waited = Duration::ZERO;
        if let Ok(root) = File::open(&self.root) {
            let before = self.host.stamps();
            self.host.refresh_below(&OwnedFd::from(root));
            if self.host.stamps() != before {
                self.has_changed(None);
            }
        }
    }

    /// Is it the host's own mount namespace?
    pub fn is_hosts(&self, mount_ns: MountNs) -> bool {
        self.host_ns == Some(mount_ns.number)
    }

    /// Has the names of a mount namespace read, by one of its processes that has just done something. The first time this
    /// waits for them, for a moment.
    pub fn prepare(&mut self, mount_ns: MountNs, pid: u32, now: Instant) {
        if self.is_hosts(mount_ns) {
            return;
        }
        self.clock += 1;
        let clock = self.clock;
        let Some(reader) = &mut self.reader else {
            if let Some(container) = self.containers.get_mut(&mount_ns) {
                container.used = clock;
            }
            return;
        };
        if reader.hangs_in(mount_ns) {
            return;
        }
        if let Some(container) = self.containers.get_mut(&mount_ns) {
            container.used = clock;
            let is_fresh = |checked: Instant| now.duration_since(checked) < RECHECK_CONTAINER;
            if container.is_asked || container.checked.is_some_and(is_fresh) {
                return;
            }
            let accounts = container.accounts.clone();
            container.is_asked = reader.ask(
                Question {
                    mount_ns,
                    pid,
                    accounts,
                },
                now,
            );
            return;
        }
        let question = Question {
            mount_ns,
            pid,
            accounts: Accounts::default(),
        };
        let is_asked = reader.ask(question, now);
        self.make_room();
        let container = Container {
            is_asked,
            used: clock,
            ..Container::default()
        };
        self.containers.insert(mount_ns, container);
        if is_asked && self.waited < WAIT_PER_SECOND {
            self.take_answers(WAIT, Some(mount_ns));
            self.waited += now.elapsed();
        }
    }

    /// The user with this id of the host, as the namespace's own files call him.
    pub fn user(&self, mount_ns: Option<MountNs>, uid: u32) -> Option<&User> {
        match self.accounts(mount_ns) {
            Some(accounts) => accounts.users.get(accounts.uids.inside(uid)?),
            None => self.host.users.get(uid),
        }
    }

    /// The name of the group with this id of the host, as the namespace's own files have it.
    pub fn group(&self, mount_ns: Option<MountNs>, gid: u32) -> Option<&[u8]> {
        let name = match self.accounts(mount_ns) {
            Some(accounts) => accounts.groups.get(accounts.gids.inside(gid)?),
            None => self.host.groups.get(gid),
        };
        name.map(|name| &**name)
    }

    /// Containers whose names are kept; containers forgotten for room; reader threads that hang.
    pub fn sizes(&self) -> (usize, u64, u64) {
        let stuck = self.reader.as_ref().map_or(0, Reader::stuck);
        (self.containers.len(), self.evicted, stuck)
    }

    /// `None` for the host. A container that is not known yet has no names rather than the host's.
    fn accounts(&self, mount_ns: Option<MountNs>) -> Option<&Accounts> {
        static UNKNOWN: std::sync::LazyLock<Accounts> = std::sync::LazyLock::new(Accounts::default);
        let mount_ns = mount_ns.filter(|mount_ns| !self.is_hosts(*mount_ns))?;
        let container = self.containers.get(&mount_ns);
        Some(container.map_or(&UNKNOWN, |container| &container.accounts))
    }

    /// Takes what the reader has; with `awaited`, until that namespace's answer is there or the time is over.
    fn take_answers(&mut self, wait: Duration, awaited: Option<MountNs>) {
        let start = Instant::now();
        loop {
            let left = if awaited.is_some() {
                wait.saturating_sub(start.elapsed())
            } else {
                Duration::ZERO
            };
            let Some(answer) = self.reader.as_mut().and_then(|reader| reader.answer(left)) else {
                return;
            };
            if let Some(container) = self.containers.get_mut(&answer.mount_ns) {
                container.is_asked = false;
                // Where the process was gone, the next one's event asks again.
                if let Some(accounts) = answer.accounts {
                    self.entries -= entries(&container.accounts);
                    self.entries += entries(&accounts);
                    container.accounts = accounts;
                    container.checked = Some(Instant::now());
                    self.has_changed(Some(answer.mount_ns));
                }
            }
            if awaited == Some(answer.mount_ns) {
                return;
            }
        }
    }

    /// Forgets the quarter of the containers that nothing was heard of for the longest time.
    fn make_room(&mut self) {
        if self.containers.len() < CONTAINERS_MAX && self.entries < ENTRIES_MAX {
            return;
        }
        let mut used: Vec<u64> = self
            .containers
            .values()
            .map(|container| container.used)
            .collect();
        used.sort_unstable();
        let limit = used[used.len() / 4];
        let before = self.containers.len();
        self.containers
            .retain(|_, container| container.used > limit);
        self.evicted += (before - self.containers.len()) as u64;
        self.entries = self
            .containers
            .values()
            .map(|container| entries(&container.accounts))
            .sum();
    }
}

/// The mount namespace of process 1; where that one lets nobody look, the agent's own, unless it is in a container.
fn host_ns(proc: &Path) -> Option<u32> {
    let first = super::procfs::mount_namespace(proc, 1);
    first.or_else(|| {
        let own = std::process::id();
        let is_host = super::container::owner_of_process(proc, own) == Some(Owner::Host);
        is_host.then(|| super::procfs::mount_namespace(proc, own))?
    })
}

fn entries(accounts: &Accounts) -> usize {
    accounts.users.len() + accounts.groups.len()
}

#[cfg(test)]
mod tests;
