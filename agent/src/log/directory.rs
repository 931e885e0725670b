//! The alert log's directory: one agent's at a time, for nobody else's eyes, and a note of what was acknowledged.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::{
        DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _,
        PermissionsExt as _,
    },
    path::{Path, PathBuf},
};

use super::{Cursor, LogError};

/// Inside the configured one, which may be anybody's: this one is ours.
const NAME: &str = "alerts";

/// Where the newest cursor is noted.
const NEWEST: &str = "newest";

/// The newest cursor and the number of alerts, and what checks them.
const NEWEST_BYTES: usize = 20;

/// The directory, locked.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// Locked until it is closed.
    _lock: File,
    newest: File,
}

impl Directory {
    /// Makes it where it is missing, and takes it.
    pub(super) fn take(configured: &Path) -> Result<Self, LogError> {
        let path = configured.join(NAME);
        let failed = |attempt| {
            let path = path.clone();
            move |source| LogError::Directory {
                attempt,
                path,
                source,
            }
        };
        let mut builder = DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(failed("make"))?;
        let found = fs::symlink_metadata(&path).map_err(failed("look at"))?;
        // SAFETY: takes nothing and cannot fail.
        let own = unsafe { libc::geteuid() };
        if !found.is_dir() || found.uid() != own {
            let problem = "it is not a directory of the user that the agent runs as";
            return Err(failed("use")(io::Error::other(problem)));
        }
        if found.mode() & 0o077 != 0 {
            fs::set_permissions(&path, Permissions::from_mode(0o700))
                .map_err(failed("keep others out of"))?;
        }
        let open = |name: &str| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path.join(name))
                .map_err(failed("write to"))
        };
        let mut lock = open("lock")?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let _ = (&lock).take(32).read_to_string(&mut pid);
                let path = path.clone();
                let pid = pid.trim().to_owned();
                return Err(LogError::Taken { path, pid });
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock")(error)),
        }
        // For whoever is refused; a full disk need not keep the agent from starting.
        let _ = lock.set_len(0);
        let _ = writeln!(lock, "{}", std::process::id());
        let newest = open(NEWEST)?;
        Ok(Self {
            path,
            _lock: lock,
            newest,
        })
    }

    /// Where the files are.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Notes what the log has acknowledged, so that an end that goes missing is noticed.
    pub(super) fn note_newest(&self, newest: Cursor, total: u64) -> io::Result<()> {
        let mut note = [0; NEWEST_BYTES];
        note[..8].copy_from_slice(&newest.to_le_bytes());
        note[8..16].copy_from_slice(&total.to_le_bytes());
        let checksum = crc32fast::hash(&note[..16]);
        note[16..].copy_from_slice(&checksum.to_le_bytes());
        self.newest.write_all_at(&note, 0)
    }

    /// The newest cursor that was noted in a directory that cannot be taken, because it cannot be written.
    pub(super) fn newest_in(configured: &Path) -> Option<Cursor> {
        let newest = File::open(configured.join(NAME).join(NEWEST)).ok()?;
        noted(&newest).map(|(newest, _)| newest)
    }

    /// What was noted last; `None` where nothing was, or it cannot be read.
    pub(super) fn newest(&self) -> Option<(Cursor, u64)> {
        noted(&self.newest)
    }
}

fn noted(file: &File) -> Option<(Cursor, u64)> {
    let mut note = [0; NEWEST_BYTES];
    file.read_exact_at(&mut note, 0).ok()?;
    let (texts, checksum) = note.split_at(16);
    if crc32fast::hash(texts).to_le_bytes() != checksum {
        return None;
    }
    let word = |at: usize| texts[at..at + 8].try_into().map(u64::from_le_bytes).ok();
    Some((word(0)?, word(8)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_agent_at_a_time_and_nobody_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let taken = Directory::take(folder.path()).expect("it is free");
        let mode = fs::metadata(taken.path()).expect("it is there").mode();
        assert_eq!(mode & 0o777, 0o700);
        let refused = Directory::take(folder.path()).expect_err("it is taken");
        let text = refused.to_string();
        let pid = std::process::id().to_string();
        assert!(text.contains(&pid) && text.contains("alerts"), "{text}");
        drop(taken);
        fs::set_permissions(folder.path().join(NAME), Permissions::from_mode(0o755))
            .expect("it is ours");
        let again = Directory::take(folder.path()).expect("it is free again");
        let mode = fs::metadata(again.path()).expect("it is there").mode();
        assert_eq!(mode & 0o777, 0o700, "others are kept out");
    }

    #[test]
    fn what_was_acknowledged_is_remembered_and_checked() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = Directory::take(folder.path()).expect("it is free");
        assert_eq!(directory.newest(), None);
        directory.note_newest(7, 5).expect("it is written");
        assert_eq!(directory.newest(), Some((7, 5)));
        assert_eq!(Directory::newest_in(folder.path()), Some(7));
        let file = directory.path().join("newest");
        fs::write(&file, [1; NEWEST_BYTES]).expect("it is ours");
        assert_eq!(directory.newest(), None);
    }
}
