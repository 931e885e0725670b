//! What is known of the Pythons of this node: their versions, and what the thread that looks at them did.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::elf::Version;
use super::key::FileKey;

/// Processes and programs whose version is known.
const KNOWN_MAX: usize = 8192;

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
}

impl Interpreters {
    /// What was done so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The version of the Python that a process runs, where it was read from its file, or that those run from which it was forked:
    /// `kin`, the nearest first. Where nobody looked at any of them, its program's file is asked for.
    pub fn version_of(
        &self,
        proc: &Path,
        pid: u32,
        kin: impl IntoIterator<Item = u32>,
    ) -> Option<Version> {
        {
            let versions = self.versions();
            let mut pids = std::iter::once(pid).chain(kin);
            if let Some(version) = pids.find_map(|pid| versions.of_process.get(&pid)) {
                return Some(*version);
            }
        }
        let exe = FileKey::at(&proc.join(pid.to_string()).join("exe")).ok()?;
        self.versions().of_program.get(&exe).copied()
    }

    fn versions(&self) -> MutexGuard<'_, Versions> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a look at a process said.
    pub(super) fn set_version(&self, pid: u32, program: &FileKey, version: Version) {
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
    pub(super) fn forget(&self, pid: u32) {
        self.versions().of_process.remove(&pid);
    }
}
