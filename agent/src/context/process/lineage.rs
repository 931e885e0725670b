//! A process's relatives: as they are, or as they were when an event came that is evaluated later.

use std::sync::Arc;

use super::{Image, Process, ProcessTable};

/// An ancestor.
#[derive(Clone, Copy, Debug)]
pub struct Ancestor<'a> {
    /// As [`Process::id`].
    pub id: u64,
    /// Process id in the host's pid namespace.
    pub tgid: u32,
    /// When it started, nanoseconds since boot.
    pub start_ns: u64,
    /// Process id inside its own pid namespace.
    pub vpid: Option<u32>,
    /// What it runs.
    pub image: &'a Arc<Image>,
}

impl<'a> From<&'a Process> for Ancestor<'a> {
    fn from(process: &'a Process) -> Self {
        Self {
            id: process.id,
            tgid: process.tgid,
            start_ns: process.start_ns,
            vpid: process.vpid,
            image: &process.image,
        }
    }
}

/// A process and its relatives as they were at one moment. Images are shared with the table, so this is small.
#[derive(Clone, Debug)]
pub struct Moment {
    /// The process itself.
    pub process: Process,
    ancestors: Box<[Kept]>,
    session_leader: Option<Arc<Image>>,
    group_leader: Option<Arc<Image>>,
}

#[derive(Clone, Debug)]
struct Kept {
    id: u64,
    tgid: u32,
    start_ns: u64,
    vpid: Option<u32>,
    image: Arc<Image>,
}

impl Moment {
    /// What the table says now; at most [`ANCESTORS_MAX`](super::ANCESTORS_MAX) ancestors.
    pub fn of(table: &ProcessTable, process: &Process) -> Self {
        let ancestors = table.ancestors(process).map(|process| Kept {
            id: process.id,
            tgid: process.tgid,
            start_ns: process.start_ns,
            vpid: process.vpid,
            image: Arc::clone(&process.image),
        });
        let leader = |id: u32| {
            let leader = (id != 0).then(|| table.leader(id)).flatten()?;
            Some(Arc::clone(&leader.image))
        };
        Self {
            ancestors: ancestors.collect(),
            session_leader: leader(process.sid),
            group_leader: leader(process.pgid),
            process: process.clone(),
        }
    }

    /// Bytes of it, without the images.
    pub fn size_bytes(&self) -> usize {
        let history: usize = self
            .process
            .history
            .iter()
            .map(|path| 16 + path.len())
            .sum();
        size_of::<Self>() + history + size_of_val(&*self.ancestors)
    }

    /// The images that it keeps alive; one may come more than once.
    pub fn images(&self) -> impl Iterator<Item = &Arc<Image>> {
        let ancestors = self.ancestors.iter().map(|kept| &kept.image);
        let leaders = self.session_leader.iter().chain(&self.group_leader);
        std::iter::once(&self.process.image)
            .chain(ancestors)
            .chain(leaders)
    }
}

/// Where a process's relatives are looked up.
#[derive(Clone, Copy, Debug)]
pub enum Relatives<'e> {
    /// As they are now.
    Now(&'e ProcessTable),
    /// As they were.
    Then(&'e Moment),
}

impl<'e> Relatives<'e> {
    /// The chain of parents, nearest first, the process itself left out. Of a moment only its own process has some.
    pub fn ancestors(self, process: &'e Process) -> impl Iterator<Item = Ancestor<'e>> {
        let (now, then) = match self {
            Self::Now(table) => (Some(table.ancestors(process).map(Ancestor::from)), None),
            Self::Then(moment) => {
                let kept = moment.ancestors.iter().map(|kept| Ancestor {
                    id: kept.id,
                    tgid: kept.tgid,
                    start_ns: kept.start_ns,
                    vpid: kept.vpid,
                    image: &kept.image,
                });
                (None, Some(kept))
            }
        };
        now.into_iter().flatten().chain(then.into_iter().flatten())
    }

    /// Who started it.
    pub fn parent(self, process: &'e Process) -> Option<Ancestor<'e>> {
        match self {
            Self::Now(table) => table.parent(process).map(Ancestor::from),
            Self::Then(_) => self.ancestors(process).next(),
        }
    }

    /// What the leader of its session runs.
    pub fn session_leader(self, process: &'e Process) -> Option<&'e Arc<Image>> {
        match self {
            Self::Now(table) => leader(table, process.sid),
            Self::Then(moment) => moment.session_leader.as_ref(),
        }
    }

    /// What the leader of its process group runs.
    pub fn group_leader(self, process: &'e Process) -> Option<&'e Arc<Image>> {
        match self {
            Self::Now(table) => leader(table, process.pgid),
            Self::Then(moment) => moment.group_leader.as_ref(),
        }
    }
}

/// 0 stands for a session or a group that is not known, or that is none.
fn leader(table: &ProcessTable, id: u32) -> Option<&Arc<Image>> {
    (id != 0)
        .then(|| table.leader(id))
        .flatten()
        .map(|leader| &leader.image)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::process::Seed;

    fn seed(tgid: u32, ppid: u32, name: &str) -> Seed {
        Seed {
            tgid,
            ppid,
            start_ns: u64::from(tgid) * 1_000_000_007,
            image: Arc::new(Image::named(name.as_bytes())),
            sid: 20,
            pgid: 25,
            ..Seed::default()
        }
    }

    #[test]
    fn a_moment_stays_as_it_was() {
        let mut table = ProcessTable::new(1024, 1 << 20);
        table.add(seed(1, 0, "init"), 0);
        let shell = table.add(seed(20, 1, "bash"), 0);
        let group = table.add(seed(25, 20, "sudo"), 0);
        let child = table.add(seed(30, 25, "id"), 0);
        let names = |relatives: Relatives<'_>, process: &Process| {
            let mut names: Vec<String> = relatives
                .ancestors(process)
                .map(|ancestor| String::from_utf8_lossy(&ancestor.image.name).into_owned())
                .collect();
            let parent = relatives.parent(process).expect("it has one");
            assert_eq!(parent.image.name.as_ref(), names[0].as_bytes());
            for leader in [
                relatives.session_leader(process),
                relatives.group_leader(process),
            ] {
                let name = &leader.expect("it is known").name;
                names.push(String::from_utf8_lossy(name).into_owned());
            }
            names
        };
        let process = table.get(child).expect("it lives");
        let moment = Moment::of(&table, process);
        let before = ["sudo", "bash", "init", "bash", "sudo"];
        assert_eq!(names(Relatives::Now(&table), process), before);
        for slot in [shell, group] {
            table.set_image(slot, Image::named(b"innocent"), 1);
        }
        table.end(group, 2);
        let process = table.get(child).expect("it lives");
        assert_eq!(
            names(Relatives::Now(&table), process),
            ["innocent", "innocent", "init", "innocent", "innocent"]
        );
        assert_eq!(names(Relatives::Then(&moment), &moment.process), before);
        assert_eq!(moment.images().count(), 6);
        assert!(moment.size_bytes() > 3 * size_of::<Kept>());
    }
}
