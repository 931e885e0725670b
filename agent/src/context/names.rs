//! Names of users and groups, from the host's own `/etc/passwd` and `/etc/group`.
//!
//! The files are read again when they change, looked at no more often than once a second. Directory services
//! (LDAP, SSSD) are not asked: a look-up there may take seconds, and the sensor thread waits for nobody.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use rustc_hash::FxHashMap;

/// A file above this size is not an account database that a node would have.
const FILE_BYTES_MAX: u64 = 16 << 20;
const RECHECK: Duration = Duration::from_secs(1);

/// One line of `/etc/passwd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: Box<[u8]>,
    /// Home directory.
    pub home: Box<[u8]>,
    /// Login shell.
    pub shell: Box<[u8]>,
}

/// Both databases.
#[derive(Debug)]
pub struct Names {
    users: Database<User>,
    groups: Database<Box<[u8]>>,
    checked: Option<Instant>,
}

impl Names {
    /// The host's databases below `etc`, normally `/etc`.
    pub fn new(etc: &Path) -> Self {
        Self {
            users: Database::new(etc.join("passwd")),
            groups: Database::new(etc.join("group")),
            checked: None,
        }
    }

    /// Reads what changed since the last look, at most once a second.
    pub fn refresh(&mut self, now: Instant) {
        if self
            .checked
            .is_some_and(|checked| now.duration_since(checked) < RECHECK)
        {
            return;
        }
        self.checked = Some(now);
        self.users.refresh(|columns| {
            let (name, home, shell) = (columns.first()?, columns.get(5)?, columns.get(6)?);
            Some(User {
                name: (*name).into(),
                home: (*home).into(),
                shell: (*shell).into(),
            })
        });
        self.groups
            .refresh(|columns| columns.first().map(|name| (*name).into()));
    }

    /// The user with this id.
    pub fn user(&self, uid: u32) -> Option<&User> {
        self.users.entries.get(&uid)
    }

    /// The name of the group with this id.
    pub fn group(&self, gid: u32) -> Option<&[u8]> {
        self.groups.entries.get(&gid).map(|name| &**name)
    }
}

#[derive(Debug)]
struct Database<T> {
    path: PathBuf,
    modified: Option<SystemTime>,
    entries: FxHashMap<u32, T>,
}

impl<T> Database<T> {
    fn new(path: PathBuf) -> Self {
        Self {
            path,
            modified: None,
            entries: FxHashMap::default(),
        }
    }

    /// Both files keep the numeric id in their third column; the first entry of an id wins, as for getpwuid(3).
    fn refresh(&mut self, entry: impl Fn(&[&[u8]]) -> Option<T>) {
        let Ok(metadata) = fs::metadata(&self.path) else {
            return;
        };
        let modified = metadata.modified().ok();
        if modified == self.modified || metadata.len() > FILE_BYTES_MAX {
            return;
        }
        let Ok(text) = fs::read(&self.path) else {
            return;
        };
        self.modified = modified;
        self.entries.clear();
        for line in text.split(|byte| *byte == b'\n') {
            let columns: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
            let id = columns
                .get(2)
                .and_then(|id| std::str::from_utf8(id).ok())
                .and_then(|id| id.parse().ok());
            if let (Some(id), Some(value)) = (id, entry(&columns)) {
                self.entries.entry(id).or_insert(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_files() {
        let etc = tempfile::tempdir().expect("a temporary folder");
        let write = |passwd: &str, age_s| {
            let path = etc.path().join("passwd");
            fs::write(&path, passwd).expect("passwd is written");
            let file = fs::File::options()
                .append(true)
                .open(&path)
                .expect("passwd opens");
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(age_s))
                .expect("its time is set");
        };
        fs::write(etc.path().join("group"), "wheel:x:10:a,b\nbroken\n").expect("group is written");
        write(
            "root:x:0:0:root:/r:/bin/sh\nagain:x:0:0::/:/bin/false\nshort:x:7\n",
            1,
        );
        let start = Instant::now();
        let mut names = Names::new(etc.path());
        names.refresh(start);
        let root = User {
            name: (*b"root").into(),
            home: (*b"/r").into(),
            shell: (*b"/bin/sh").into(),
        };
        assert_eq!(names.user(0), Some(&root));
        assert_eq!(
            (names.user(7), names.group(10), names.group(0)),
            (None, Some(&b"wheel"[..]), None)
        );

        write("admin:x:0:0::/:/bin/sh\n", 2);
        names.refresh(start);
        assert_eq!(
            names.user(0),
            Some(&root),
            "not looked at again within a second"
        );
        names.refresh(start + RECHECK);
        assert_eq!(names.user(0).map(|user| &*user.name), Some(&b"admin"[..]));
    }
}
