//! The process table: who runs, who started whom, and who lately ended.
//!
//! A process is known by its pid and its start time, so a pid that is used again is another process.
//! Exited processes stay for a while, because their last events still speak of them, and for as long as they have children
//! while there is room. So a process's parent here is who started it, also after that one has ended and the kernel has
//! given the child to a subreaper or to init; once the creator is forgotten, the new parent takes its place.

mod image;
mod lineage;

use std::{collections::VecDeque, sync::Arc};

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use crate::event::MountNs;

pub use image::{File, Image, Layer, Start};
pub use lineage::{Ancestor, Moment, Relatives};

/// The kernel reports start times in nanoseconds, `/proc` in clock ticks of 10 ms (USER_HZ is 100 everywhere).
pub(super) const TICK_NS: u64 = 10_000_000;

/// How far up ancestry is followed. Real trees are under 30 deep; a hostile one may be as deep as processes are allowed, and must
/// not cost every event of it that many steps.
pub const ANCESTORS_MAX: usize = 1024;

/// Programs remembered that a process ran before its current one.
pub const HISTORY_MAX: usize = 4;

/// Ended parents that are passed over in one search for room.
const SPARED_MAX: usize = 64;

/// How long an exited process is kept when there is room, in nanoseconds of the event clock.
const KEEP_EXITED_NS: u64 = 60_000_000_000;

/// One process.
#[derive(Clone, Debug)]
pub struct Process {
    /// Never reused while the agent runs; what `proc.lineage` holds.
    pub id: u64,
    /// Process id in the host's pid namespace.
    pub tgid: u32,
    /// When it started, nanoseconds since boot.
    pub start_ns: u64,
    /// Whether `start_ns` came from `/proc` and is rounded down to a tick.
    start_rounded: bool,
    /// The pid of the parent that the kernel names now; the creator's, until that one ends.
    pub ppid: u32,
    /// Who started it.
    parent: Option<Slot>,
    /// Entries whose `parent` this is.
    children: u32,
    /// What it runs; shared with the process that it was forked from.
    pub image: Arc<Image>,
    /// Paths of the executables that it ran before, the latest first.
    pub history: Box<[Box<[u8]>]>,
    /// Bytes of the image that this entry answers for: 0 where it shares another's.
    charged: usize,
    /// Real user id at the last exec or fork.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Login user id; `u32::MAX` where no login set one.
    pub loginuid: u32,
    /// Session id (the leader's pid).
    pub sid: u32,
    /// Controlling terminal's device number; 0 where there is none.
    pub tty: u32,
    /// Process id inside its own pid namespace.
    pub vpid: Option<u32>,
    /// Process group id (the leader's pid); 0 where it is not known.
    pub pgid: u32,
    /// The same inside its own pid namespace; `None` where it is not known, or the group is from outside.
    pub vpgid: Option<u32>,
    /// Start of its pid namespace's first process, nanoseconds since boot.
    pub pid_ns_start_ns: Option<u64>,
    /// Permitted, effective and inheritable capabilities at the last exec.
    pub capabilities: Option<[u64; 3]>,
    /// Mount namespace, and root in it, at the last exec; `None` where it is not known.
    pub mount_ns: Option<MountNs>,
    /// Cgroup v2 id.
    pub cgroup_id: u64,
    /// When it ended, nanoseconds since boot.
    pub exited_ns: Option<u64>,
    /// Since when it is kept; later than its end where children still speak of it.
    kept_since_ns: u64,
}

/// What is known of a process when it first appears.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(
    missing_docs,
    reason = "each is the field of Process with the same name"
)]
pub struct Seed {
    pub tgid: u32,
    pub start_ns: u64,
    pub start_rounded: bool,
    pub ppid: u32,
    #[serde(serialize_with = "image::write", deserialize_with = "image::read")]
    pub image: Arc<Image>,
    /// Whether `image` is another process's too.
    pub image_shared: bool,
    pub uid: u32,
    pub gid: u32,
    pub loginuid: u32,
    pub sid: u32,
    pub tty: u32,
    pub vpid: Option<u32>,
    pub pgid: u32,
    pub vpgid: Option<u32>,
    pub pid_ns_start_ns: Option<u64>,
    pub capabilities: Option<[u64; 3]>,
    pub mount_ns: Option<MountNs>,
    pub cgroup_id: u64,
}

impl Seed {
    /// Whether a start time from the kernel is this process's; the one here came from `/proc`.
    pub fn is_started_at(&self, start_ns: u64) -> bool {
        self.start_ns / TICK_NS == start_ns / TICK_NS
    }
}

/// A place in the table, valid while its process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    index: u32,
    id: u64,
}

/// All processes that are known.
#[derive(Debug)]
pub struct ProcessTable {
    slots: Vec<Option<Process>>,
    free: Vec<u32>,
    /// Live processes by pid.
    live: FxHashMap<u32, Slot>,
    /// Ended ones, oldest first.
    exited: VecDeque<Slot>,
    /// The last process that ended under each pid.
    exited_by_tgid: FxHashMap<u32, Slot>,
    /// Live ones in the order they were added, with ended ones still among them.
    births: Vec<Slot>,
    max: usize,
    /// Bytes of all images, and their bound. Images of live processes may exceed it: they are what detection is about.
    bytes: usize,
    bytes_max: usize,
    next_id: u64,
    evicted: u64,
}

impl ProcessTable {
    /// An empty table of at most `max` entries, live and exited together, that remembers exited ones while command lines and paths
    /// take at most `bytes_max`.
    pub fn new(max: usize, bytes_max: usize) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            live: FxHashMap::default(),
            exited: VecDeque::new(),
            exited_by_tgid: FxHashMap::default(),
            births: Vec::new(),
            max: max.max(2),
            bytes: 0,
            bytes_max,
            next_id: 1,
            evicted: 0,
        }
    }

    /// The process that an event speaks of, if it is known.
    pub fn find(&self, tgid: u32, start_ns: u64) -> Option<Slot> {
        let is_it = |slot: &Slot| {
            self.get(*slot)
                .is_some_and(|process| process.tgid == tgid && process.started_at(start_ns))
        };
        let live = self.live.get(&tgid).copied().filter(is_it);
        live.or_else(|| self.exited_by_tgid.get(&tgid).copied().filter(is_it))
    }

    /// The process in a slot, unless it was evicted since.
    pub fn get(&self, slot: Slot) -> Option<&Process> {
        self.slots
            .get(slot.index as usize)?
            .as_ref()
            .filter(|process| process.id == slot.id)
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut Process> {
        self.slots
            .get_mut(slot.index as usize)?
            .as_mut()
            .filter(|process| process.id == slot.id)
    }

    /// The live process with this pid.
    pub fn live(&self, tgid: u32) -> Option<Slot> {
        self.live.get(&tgid).copied()
    }

    /// Adds a process, unless it is there already; returns its slot. Of two live processes with the same pid the one that
    /// started earlier has ended without our seeing it: usually the one that is there, and the new one where an old event
    /// comes after the scan of what runs now.
    pub fn add(&mut self, seed: Seed, now_ns: u64) -> Slot {
        if let Some(slot) = self.find(seed.tgid, seed.start_ns) {
            return slot;
        }
        let other = self.live.get(&seed.tgid).copied();
        let is_past = other
            .and_then(|other| self.get(other))
            .is_some_and(|other| other.start_ns > seed.start_ns);
        if let Some(other) = other.filter(|_| !is_past) {
            self.end(other, now_ns);
        }
        self.make_room(now_ns);
        let parent = self.parent_for(seed.ppid, seed.start_ns);
        let id = self.next_id;
        self.next_id += 1;
        let process = Process {
            id,
            tgid: seed.tgid,
            start_ns: seed.start_ns,
            start_rounded: seed.start_rounded,
            ppid: seed.ppid,
            parent,
            children: 0,
            history: Box::default(),
            charged: if seed.image_shared {
                0
            } else {
                seed.image.size_bytes()
            },
            image: seed.image,
            uid: seed.uid,
            gid: seed.gid,
            loginuid: seed.loginuid,
            sid: seed.sid,
            tty: seed.tty,
            vpid: seed.vpid,
            pgid: seed.pgid,
            vpgid: seed.vpgid,
            pid_ns_start_ns: seed.pid_ns_start_ns,
            capabilities: seed.capabilities,
            mount_ns: seed.mount_ns,
            cgroup_id: seed.cgroup_id,
            exited_ns: None,
            kept_since_ns: 0,
        };
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index as usize] = Some(process);
                index
            }
            None => {
                self.slots.push(Some(process));
                u32::try_from(self.slots.len() - 1).expect("the table's bound is far below 2^32")
            }
        };
        self.bytes += self.slots[index as usize]
            .as_ref()
            .map_or(0, |process| process.charged);
        let slot = Slot { index, id };
        if let Some(parent) = parent {
            self.count_child(parent, 1);
        }
        if is_past {
            // It must not take the pid from the living one, which has it now.
            self.mark_ended(slot, now_ns);
            return slot;
        }
        self.live.insert(seed.tgid, slot);
        self.births.push(slot);
        if self.births.len() > 2 * self.max.min(self.live.len() + 1024) {
            let live = &self.live;
            let slots = &self.slots;
            self.births.retain(|slot| {
                let process = slots[slot.index as usize].as_ref();
                process.is_some_and(|process| live.get(&process.tgid) == Some(slot))
            });
        }
        slot
    }

    /// The live process that can be the parent of one that started then.
    fn parent_for(&self, ppid: u32, start_ns: u64) -> Option<Slot> {
        let slot = self.live.get(&ppid).copied()?;
        // A clock tick more, because either start may be rounded down to one.
        let is_older = |parent: &Process| parent.start_ns <= start_ns.saturating_add(TICK_NS);
        self.get(slot).is_some_and(is_older).then_some(slot)
    }

    fn count_child(&mut self, parent: Slot, by: i32) {
        if let Some(parent) = self.get_mut(parent) {
            parent.children = parent.children.saturating_add_signed(by);
        }
    }

    /// Gives a process the image of the program that it has just started.
    pub fn set_image(&mut self, slot: Slot, image: Image, now_ns: u64) {
        let size = image.size_bytes();
        let Some(process) = self.get_mut(slot) else {
            return;
        };
        if !process.image.exe_path.is_empty() {
            let before = std::iter::once(process.image.exe_path.clone());
            let older = std::mem::take(&mut process.history);
            process.history = before.chain(older).take(HISTORY_MAX).collect();
        }
        let history: usize = process.history.iter().map(|path| 16 + path.len()).sum();
        let size = size + history;
        let before = std::mem::replace(&mut process.charged, size);
        process.image = Arc::new(image);
        self.bytes = self.bytes + size - before;
        self.make_room(now_ns);
    }

    /// Marks a process as ended; it stays for those who still ask.
    pub fn end(&mut self, slot: Slot, now_ns: u64) {
        let Some(process) = self.get_mut(slot) else {
            return;
        };
        if process.exited_ns.is_some() {
            return;
        }
        let tgid = process.tgid;
        if self.live.get(&tgid) == Some(&slot) {
            self.live.remove(&tgid);
        }
        self.mark_ended(slot, now_ns);
    }

    fn mark_ended(&mut self, slot: Slot, now_ns: u64) {
        let Some(process) = self.get_mut(slot) else {
            return;
        };
        process.exited_ns = Some(now_ns);
        process.kept_since_ns = now_ns;
        let (tgid, start_ns) = (process.tgid, process.start_ns);
        self.exited.push_back(slot);
        let last = self
            .exited_by_tgid
            .get(&tgid)
            .and_then(|slot| self.get(*slot));
        if last.is_none_or(|last| last.start_ns <= start_ns) {
            self.exited_by_tgid.insert(tgid, slot);
        }
    }

    /// Who started a process, also one that has ended; whom the kernel gave it to, where that one is forgotten.
    pub fn parent(&self, process: &Process) -> Option<&Process> {
        let slot = process
            .parent
            .filter(|slot| self.get(*slot).is_some())
            .or_else(|| self.parent_for(process.ppid, process.start_ns))?;
        self.get(slot).filter(|parent| parent.id != process.id)
    }

    /// The leader of a session or a process group, also one that has ended: its pid is not used again while the session or
    /// the group is there.
    pub fn leader(&self, id: u32) -> Option<&Process> {
        let slot = self
            .live
            .get(&id)
            .or_else(|| self.exited_by_tgid.get(&id))?;
        self.get(*slot)
    }

    /// Notes which parent the kernel names for a process now.
    pub fn set_parent_pid(&mut self, slot: Slot, ppid: u32) {
        if let Some(process) = self.get_mut(slot) {
            process.ppid = ppid;
        }
    }

    /// Bytes of images and histories that are held, and of the table itself.
    pub fn bytes(&self) -> usize {
        self.bytes + self.slots.capacity() * size_of::<Option<Process>>()
    }

    /// The chain of parents, nearest first, the process itself left out; bounded by [`ANCESTORS_MAX`].
    pub fn ancestors<'a>(&'a self, process: &'a Process) -> impl Iterator<Item = &'a Process> {
        std::iter::successors(self.parent(process), |process| self.parent(process))
            .take(ANCESTORS_MAX)
    }

    /// Links processes whose parents were added after them; for the start-up scan, which has no order.
    pub fn link_parents(&mut self) {
        for index in 0..self.slots.len() {
            let Some(process) = self.slots[index].as_ref() else {
                continue;
            };
            let found = self.parent_for(process.ppid, process.start_ns);
            let Some(parent) = found.filter(|slot| slot.id != process.id) else {
                continue;
            };
            if let Some(process) = self.slots[index]
                .as_mut()
                .filter(|process| process.parent.is_none())
            {
                process.parent = Some(parent);
                self.count_child(parent, 1);
            }
        }
    }

    /// Live entries, exited entries, and how many were dropped for room since the start.
    pub fn sizes(&self) -> (usize, usize, u64) {
        (self.live.len(), self.exited.len(), self.evicted)
    }

    /// Drops what exited long ago and has no children, and the oldest exited where the table is full, those without children first. Where everything is
    /// alive the youngest goes: a bound that live processes could break would be none, and whoever fills the table with
    /// processes must not take the memory of those that were there before.
    fn make_room(&mut self, now_ns: u64) {
        // One round, after which the oldest is in front again.
        let mut to_spare = self.exited.len().min(SPARED_MAX);
        while let Some(oldest) = self.exited.front().copied() {
            let full =
                self.live.len() + self.exited.len() >= self.max || self.bytes > self.bytes_max;
            let process = self.get(oldest);
            let old = process.is_none_or(|process| {
                now_ns.saturating_sub(process.kept_since_ns) > KEEP_EXITED_NS
            });
            if !full && !old {
                break;
            }
            self.exited.pop_front();
            // Whom living processes descend from goes last: who fills the table with short ones must not cut off their lineage.
            let is_spared = !full || to_spare > 0;
            if let Some(process) = self.get_mut(oldest)
                && process.children > 0
                && is_spared
            {
                process.kept_since_ns = now_ns;
                self.exited.push_back(oldest);
                to_spare = to_spare.saturating_sub(1);
                continue;
            }
            self.drop_slot(oldest);
            self.evicted += u64::from(full && !old);
        }
        while self.live.len() >= self.max {
            let Some(youngest) = self.births.pop() else {
                return;
            };
            let Some(tgid) = self.get(youngest).map(|process| process.tgid) else {
                continue;
            };
            if self.live.get(&tgid) == Some(&youngest) {
                self.live.remove(&tgid);
                self.drop_slot(youngest);
                self.evicted += 1;
            }
        }
    }

    fn drop_slot(&mut self, slot: Slot) {
        let Some(tgid) = self.get(slot).map(|process| process.tgid) else {
            return;
        };
        if self.exited_by_tgid.get(&tgid) == Some(&slot) {
            self.exited_by_tgid.remove(&tgid);
        }
        if let Some(process) = self.slots[slot.index as usize].take() {
            self.bytes -= process.charged;
            if let Some(parent) = process.parent {
                self.count_child(parent, -1);
            }
        }
        self.free.push(slot.index);
    }
}

impl Process {
    /// Whether a start time from the kernel or from `/proc` is this process's.
    fn started_at(&self, start_ns: u64) -> bool {
        if self.start_rounded || start_ns.is_multiple_of(TICK_NS) {
            self.start_ns / TICK_NS == start_ns / TICK_NS
        } else {
            self.start_ns == start_ns
        }
    }
}

#[cfg(test)]
mod tests;
