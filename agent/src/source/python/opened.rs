//! Files of Python that were opened and may be about to be run: the dynamic linker opens a file, reads its head, and maps it. Who
//! copies, packs or unpacks an interpreter opens it too. Whether a file is mapped is for `locate`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// When a file that is not mapped yet is looked for again, each time twice as late, and how often.
const WAIT: Duration = Duration::from_millis(1);
const LOOKS_MAX: u32 = 10;

/// Files that wait.
const WAITING_MAX: usize = 256;

/// A file that a process has opened.
#[derive(Debug)]
pub(super) struct Opened {
    due: Instant,
    pub(super) pid: u32,
    /// Inside the process's root.
    pub(super) path: String,
    looks: u32,
}

impl Opened {
    /// Due at once.
    pub(super) fn new(pid: u32, path: String) -> Self {
        Self {
            due: Instant::now(),
            pid,
            path,
            looks: 0,
        }
    }

    /// The same, after it was looked for in vain; `None` when that was often enough.
    pub(super) fn later(self) -> Option<Self> {
        (self.looks < LOOKS_MAX).then(|| Self {
            due: Instant::now() + WAIT * (1 << self.looks),
            looks: self.looks + 1,
            ..self
        })
    }
}

/// Those that wait, by when they are due.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    files: VecDeque<Opened>,
}

impl Waiting {
    /// Takes one in, once however often it was opened meanwhile. Whether there was room.
    pub(super) fn push(&mut self, opened: Opened) -> bool {
        let is_same = |other: &Opened| other.pid == opened.pid && other.path == opened.path;
        if self.files.iter().any(is_same) {
            return true;
        }
        if self.files.len() >= WAITING_MAX {
            return false;
        }
        let at = self.files.partition_point(|other| other.due <= opened.due);
        self.files.insert(at, opened);
        true
    }

    /// The next that is due by now.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Opened> {
        self.files.pop_front_if(|opened| opened.due <= now)
    }

    /// When the next is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.files.front().map(|opened| opened.due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_looked_for_again_waits_behind_who_is_new() {
        let mut waiting = Waiting::default();
        let old = Opened::new(1, "/old".into()).later().unwrap();
        let due = old.due;
        assert!(waiting.push(old));
        assert!(waiting.push(Opened::new(2, "/new".into())));
        assert!(
            waiting.push(Opened::new(2, "/new".into())),
            "once is enough"
        );
        let mut paths = std::iter::from_fn(|| waiting.pop(due)).map(|opened| opened.path);
        assert_eq!(
            [paths.next(), paths.next()],
            [Some("/new".into()), Some("/old".into())]
        );
        assert_eq!(paths.next(), None);
        assert_eq!(waiting.next_due(), None);
    }

    #[test]
    fn nothing_waits_for_ever_and_not_too_many_do() {
        let mut opened = Some(Opened::new(1, "/a".into()));
        let mut looks = 0;
        while let Some(next) = opened {
            opened = next.later();
            looks += 1;
        }
        assert_eq!(looks, LOOKS_MAX + 1);
        let mut waiting = Waiting::default();
        for pid in 0..WAITING_MAX as u32 {
            assert!(waiting.push(Opened::new(pid, "/a".into())));
        }
        assert!(!waiting.push(Opened::new(u32::MAX, "/a".into())));
    }
}
