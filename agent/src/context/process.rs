//! The process table: who runs, who started whom, and who lately ended.
//!
//! A process is known by its pid and its start time, so a pid that is used again is another process.
//! Exited processes stay for a while, because their children and their last events still speak of them.

use std::{collections::VecDeque, sync::Arc};

use rustc_hash::FxHashMap;

/// The kernel reports start times in nanoseconds, `/proc` in clock ticks of 10 ms (USER_HZ is 100 everywhere).
pub(super) const TICK_NS: u64 = 10_000_000;

/// How far up ancestry is followed; real trees are under 30 deep, a hostile one may be thousands.
pub const ANCESTORS_MAX: usize = 64;

/// How long an exited process is kept when there is room, in nanoseconds of the event clock.
const KEEP_EXITED_NS: u64 = 60_000_000_000;

/// What a process runs: what execve set and children share until they exec themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// `comm`: at most 15 bytes.
    pub name: Box<[u8]>,
    /// Absolute path of the executable, as the kernel resolved it; empty where it is not known.
    pub exe_path: Box<[u8]>,
    /// `argv[0]`, which the caller of execve chose freely.
    pub argv0: Box<[u8]>,
    /// How many arguments follow `argv[0]`.
    pub args_count: usize,
    /// Whether the kernel side had to cut the arguments.
    pub argv_truncated: bool,
    /// `name argv[1] argv[2] …`, built once.
    pub cmdline: Box<[u8]>,
    /// `argv[1] argv[2] …`: the tail of `cmdline`.
    args_at: usize,
    /// Working directory at exec; empty where it is not known.
    pub cwd: Box<[u8]>,
    /// Whether the executable lived in memory only (memfd_create).
    pub from_memfd: bool,
}

impl Image {
    /// Builds the joined command line along with the parts. `argv` are arguments, each ended by a NUL byte; it may lack the last one.
    pub fn new(
        name: &[u8],
        exe_path: &[u8],
        argv: &[u8],
        argv_truncated: bool,
        from_memfd: bool,
    ) -> Self {
        let argv = argv.strip_suffix(b"\0").unwrap_or(argv);
        let argv0 = argv.split(|byte| *byte == 0).next().unwrap_or_default();
        let mut cmdline = Vec::with_capacity(name.len() + argv.len() - argv0.len());
        cmdline.extend_from_slice(name);
        if argv.len() > argv0.len() {
            cmdline.push(b' ');
            cmdline.extend(
                argv[argv0.len() + 1..]
                    .iter()
                    .map(|byte| if *byte == 0 { b' ' } else { *byte }),
            );
        }
        let args_at = cmdline.len().min(name.len() + 1);
        Self {
            name: name.into(),
            exe_path: exe_path.into(),
            argv0: argv0.into(),
            args_count: argv.iter().filter(|byte| **byte == 0).count(),
            argv_truncated,
            cmdline: cmdline.into(),
            args_at,
            cwd: Box::default(),
            from_memfd,
        }
    }

    /// The same program, started in this folder.
    pub fn in_folder(self, cwd: &[u8]) -> Self {
        Self {
            cwd: cwd.into(),
            ..self
        }
    }

    /// `argv[1]` and the rest, joined by blanks.
    pub fn args(&self) -> &[u8] {
        &self.cmdline[self.args_at..]
    }

    /// About how much memory it holds.
    fn size_bytes(&self) -> usize {
        size_of::<Self>()
            + self.name.len()
            + self.exe_path.len()
            + self.argv0.len()
            + self.cmdline.len()
            + self.cwd.len()
    }
}

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
    /// The parent's pid at the last look; `parent` says which process that was.
    pub ppid: u32,
    parent: Option<Slot>,
    /// What it runs; shared with the process that it was forked from.
    pub image: Arc<Image>,
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
    /// Cgroup v2 id.
    pub cgroup_id: u64,
    /// When it ended, nanoseconds since boot.
    pub exited_ns: Option<u64>,
}

/// What is known of a process when it first appears.
#[derive(Clone, Debug, Default)]
#[allow(
    missing_docs,
    reason = "each is the field of Process with the same name"
)]
pub struct Seed {
    pub tgid: u32,
    pub start_ns: u64,
    pub start_rounded: bool,
    pub ppid: u32,
    pub image: Arc<Image>,
    /// Whether `image` is another process's too.
    pub image_shared: bool,
    pub uid: u32,
    pub gid: u32,
    pub loginuid: u32,
    pub sid: u32,
    pub tty: u32,
    pub vpid: Option<u32>,
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

    /// Adds a process, unless it is there already; returns its slot. A live process with the same pid and another
    /// start time has ended without our seeing it.
    pub fn add(&mut self, seed: Seed, now_ns: u64) -> Slot {
        if let Some(slot) = self.find(seed.tgid, seed.start_ns) {
            return slot;
        }
        if let Some(stale) = self.live.get(&seed.tgid).copied() {
            self.end(stale, now_ns);
        }
        self.make_room(now_ns);
        let parent = self.live.get(&seed.ppid).copied();
        let id = self.next_id;
        self.next_id += 1;
        let process = Process {
            id,
            tgid: seed.tgid,
            start_ns: seed.start_ns,
            start_rounded: seed.start_rounded,
            ppid: seed.ppid,
            parent,
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
            cgroup_id: seed.cgroup_id,
            exited_ns: None,
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
        self.live.insert(seed.tgid, slot);
        slot
    }

    /// Gives a process the image of the program that it has just started.
    pub fn set_image(&mut self, slot: Slot, image: Image, now_ns: u64) {
        let size = image.size_bytes();
        let Some(process) = self.get_mut(slot) else {
            return;
        };
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
        process.exited_ns = Some(now_ns);
        let tgid = process.tgid;
        if self.live.get(&tgid) == Some(&slot) {
            self.live.remove(&tgid);
        }
        self.exited.push_back(slot);
        self.exited_by_tgid.insert(tgid, slot);
    }

    /// The parent, also one that has ended.
    pub fn parent(&self, process: &Process) -> Option<&Process> {
        let slot = process
            .parent
            .filter(|slot| self.get(*slot).is_some())
            .or_else(|| self.live(process.ppid))?;
        self.get(slot).filter(|parent| parent.id != process.id)
    }

    /// The chain of parents, nearest first, the process itself left out; bounded by [`ANCESTORS_MAX`].
    pub fn ancestors<'a>(&'a self, process: &'a Process) -> impl Iterator<Item = &'a Process> {
        std::iter::successors(self.parent(process), |process| self.parent(process))
            .take(ANCESTORS_MAX)
    }

    /// Links processes whose parents were added after them; for the start-up scan, which has no order.
    pub fn link_parents(&mut self) {
        let live = &self.live;
        for process in self
            .slots
            .iter_mut()
            .flatten()
            .filter(|process| process.parent.is_none())
        {
            process.parent = live
                .get(&process.ppid)
                .copied()
                .filter(|slot| slot.id != process.id);
        }
    }

    /// Live entries, exited entries, and how many were dropped for room since the start.
    pub fn sizes(&self) -> (usize, usize, u64) {
        (self.live.len(), self.exited.len(), self.evicted)
    }

    /// Drops what exited long ago, and the oldest exited where the table is full. Where everything is alive, the
    /// oldest slot's process goes: a bound that live processes could break would be none.
    fn make_room(&mut self, now_ns: u64) {
        while let Some(oldest) = self.exited.front().copied() {
            let full =
                self.live.len() + self.exited.len() >= self.max || self.bytes > self.bytes_max;
            let old = self
                .get(oldest)
                .and_then(|process| process.exited_ns)
                .is_none_or(|at| now_ns.saturating_sub(at) > KEEP_EXITED_NS);
            if !full && !old {
                return;
            }
            self.exited.pop_front();
            self.drop_slot(oldest);
            self.evicted += u64::from(full && !old);
        }
        if self.live.len() >= self.max {
            let victim = self.live.values().copied().min_by_key(|slot| slot.id);
            if let Some(victim) = victim {
                if let Some(tgid) = self.get(victim).map(|process| process.tgid) {
                    self.live.remove(&tgid);
                }
                self.drop_slot(victim);
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
        self.bytes -= self.slots[slot.index as usize]
            .take()
            .map_or(0, |process| process.charged);
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
mod tests {
    use super::*;

    fn seed(tgid: u32, ppid: u32, start_ns: u64) -> Seed {
        let image = Arc::new(Image::new(
            format!("p{tgid}").as_bytes(),
            b"/bin/p",
            b"p\0-x",
            false,
            false,
        ));
        Seed {
            tgid,
            ppid,
            start_ns,
            image,
            ..Seed::default()
        }
    }

    #[test]
    fn a_reused_pid_is_another_process() {
        let mut table = ProcessTable::new(100, 1 << 20);
        let first = table.add(seed(7, 1, 1_000), 0);
        let second = table.add(seed(7, 1, 2_000), 10);
        assert_ne!(first, second);
        assert_eq!(
            table.find(7, 1_000),
            Some(first),
            "the first is remembered as exited"
        );
        assert_eq!(table.find(7, 2_000), Some(second));
        assert_eq!(table.live(7), Some(second));
    }

    #[test]
    fn a_start_time_from_proc_matches_the_kernels() {
        let mut table = ProcessTable::new(100, 1 << 20);
        let scanned = table.add(
            Seed {
                start_rounded: true,
                ..seed(7, 1, 120_000_000)
            },
            0,
        );
        assert_eq!(table.find(7, 123_456_789), Some(scanned));
        assert_eq!(table.find(7, 133_456_789), None);
    }

    #[test]
    fn ancestry_survives_the_parents_exit() {
        let mut table = ProcessTable::new(100, 1 << 20);
        table.add(seed(1, 0, 1), 0);
        let shell = table.add(seed(10, 1, 2), 0);
        let child = table.add(seed(11, 10, 3), 0);
        table.end(shell, 5);
        let child = table.get(child).expect("the child lives");
        let names: Vec<_> = table.ancestors(child).map(|process| process.tgid).collect();
        assert_eq!(names, [10, 1]);
    }

    #[test]
    fn a_cycle_of_parents_ends() {
        let mut table = ProcessTable::new(100, 1 << 20);
        table.add(seed(10, 11, 1), 0);
        let b = table.add(seed(11, 10, 2), 0);
        table.link_parents();
        let b = table.get(b).expect("it lives");
        assert_eq!(table.ancestors(b).count(), ANCESTORS_MAX);
    }

    #[test]
    fn the_bound_holds_for_exited_and_for_live_ones() {
        let mut table = ProcessTable::new(10, 1 << 20);
        for tgid in 1..=50 {
            let slot = table.add(seed(tgid, 0, u64::from(tgid)), 0);
            if tgid % 2 == 0 {
                table.end(slot, 1);
            }
        }
        let (live, exited, evicted) = table.sizes();
        assert!(live + exited <= 10, "{live} live and {exited} exited");
        assert_eq!(evicted, 50 - (live + exited) as u64);
        assert!(table.live(49).is_some(), "the newest is there");
    }

    #[test]
    fn exited_processes_are_forgotten_after_a_while() {
        let mut table = ProcessTable::new(100, 1 << 20);
        let slot = table.add(seed(7, 1, 1_000), 0);
        table.end(slot, 5);
        table.add(seed(8, 1, 2_000), 5 + KEEP_EXITED_NS + 1);
        assert_eq!(table.find(7, 1_000), None);
        assert_eq!(table.sizes(), (1, 0, 0), "time is no eviction");
    }

    #[test]
    fn bytes_are_bounded_and_forked_children_share() {
        let mut table = ProcessTable::new(10_000, 100_000);
        let parent = table.add(seed(1, 0, 1), 0);
        table.set_image(
            parent,
            Image::new(b"p", b"/p", &[b'x'; 4096], false, false),
            0,
        );
        let image = Arc::clone(&table.get(parent).expect("it lives").image);
        for tgid in 2..1000 {
            let child = Seed {
                image: Arc::clone(&image),
                image_shared: true,
                ..seed(tgid, 1, u64::from(tgid))
            };
            let child = table.add(child, 0);
            table.end(child, 1);
        }
        assert!(
            table.bytes < 10_000,
            "{} bytes for one shared image",
            table.bytes
        );
        for tgid in 1000..2000 {
            let process = table.add(seed(tgid, 1, u64::from(tgid)), 0);
            table.set_image(
                process,
                Image::new(b"p", b"/p", &[b'x'; 4096], false, false),
                0,
            );
            table.end(process, 1);
        }
        assert!(table.bytes <= 100_000 + 8192, "{} bytes", table.bytes);
        assert!(table.get(parent).is_some(), "the living stay");
        assert!(table.sizes().2 > 0, "what went is counted");
    }

    #[test]
    fn a_command_line_is_joined_once() {
        let check = |argv: &[u8], cmdline: &str, args: &str, count: usize| {
            let image = Image::new(b"py", b"", argv, false, false);
            assert_eq!(
                (image.cmdline.as_ref(), image.args()),
                (cmdline.as_bytes(), args.as_bytes())
            );
            assert_eq!(image.args_count, count, "{cmdline}");
        };
        check(b"", "py", "", 0);
        check(b"python3\0", "py", "", 0);
        check(
            b"python3\0-c\0import os\0",
            "py -c import os",
            "-c import os",
            2,
        );
        check(b"python3\0\0x", "py  x", " x", 2);
    }
}
