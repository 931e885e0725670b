//! `/etc/passwd` and `/etc/group`: bounded reading of files that may be anybody's, and their lines as tables.

use std::{
    ffi::CString,
    fs::File,
    io::{self, Read as _},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
    path::Path,
};

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

/// A file above this size is not an account database that a container would have.
pub const FILE_BYTES_MAX: u64 = 1 << 20;
/// Entries kept of one file, and the longest column of one.
const ENTRIES_MAX: usize = 16_384;
const COLUMN_BYTES_MAX: usize = 256;

/// One line of `/etc/passwd`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Login name.
    pub name: Box<[u8]>,
    /// Home directory.
    pub home: Box<[u8]>,
    /// Login shell.
    pub shell: Box<[u8]>,
}

/// Tells whether a file is still the one that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    inode: u64,
    size: u64,
    modified_ns: i128,
}

/// What one file held.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
pub struct Database<T> {
    #[serde(skip, default)]
    stamp: Option<Stamp>,
    entries: FxHashMap<u32, T>,
}

impl<T> Default for Database<T> {
    fn default() -> Self {
        Self {
            stamp: None,
            entries: FxHashMap::default(),
        }
    }
}

impl<T> Database<T> {
    /// The entry of an id.
    pub fn get(&self, id: u32) -> Option<&T> {
        self.entries.get(&id)
    }

    /// What tells one reading of the file from another.
    pub(super) fn stamp(&self) -> Option<Stamp> {
        self.stamp
    }

    /// Entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Reads the file below `root` again if it is another than last time. One that cannot be read leaves nothing: what it
    /// said before may be wrong by now.
    pub fn refresh(
        &mut self,
        root: &OwnedFd,
        file: &Path,
        entry: impl Fn(&[&[u8]]) -> Option<T>,
    ) -> io::Result<()> {
        let opened = open_below(root, file).and_then(|file| Ok((stamp(&file)?, file)));
        let (stamp, file) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                *self = Self::default();
                return Err(error);
            }
        };
        if self.stamp == Some(stamp) {
            return Ok(());
        }
        let mut text = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut text)?;
        self.stamp = Some(stamp);
        self.entries = parse(&text, entry);
        Ok(())
    }
}

/// Opens a regular file below a root that is not trusted. Symbolic links are followed as a process with that root would
/// follow them, never out of it; what is no regular file is not opened for reading at all.
fn open_below(root: &OwnedFd, path: &Path) -> io::Result<File> {
    /// `RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS`
    const RESOLVE: u64 = 0x10 | 0x02;
    let path = CString::new(path.as_os_str().as_bytes())?;
    let open = |flags: i32| -> io::Result<File> {
        // SAFETY: all zeros is a valid `open_how`, which the kernel may extend.
        let mut how: libc::open_how = unsafe { std::mem::zeroed() };
        how.flags = u64::from((flags | libc::O_CLOEXEC).unsigned_abs());
        how.resolve = RESOLVE;
        // SAFETY: path and struct are ours, outlive the call, and the struct's size is given.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                root.as_raw_fd(),
                path.as_ptr(),
                &raw const how,
                size_of::<libc::open_how>(),
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: the descriptor was just opened and nobody else has it.
        Ok(unsafe { File::from_raw_fd(fd) })
    };
    // Opening a device or a pipe can do something or wait for somebody; looking at its type cannot.
    if !open(libc::O_PATH)?.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let file = open(libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY)?;
    let metadata = file.metadata()?;
    // It can have been exchanged between the two.
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(io::Error::other("too long"));
    }
    Ok(file)
}

fn stamp(file: &File) -> io::Result<Stamp> {
    let metadata = file.metadata()?;
    Ok(Stamp {
        inode: metadata.ino(),
        size: metadata.len(),
        modified_ns: i128::from(metadata.mtime()) * 1_000_000_000
            + i128::from(metadata.mtime_nsec()),
    })
}

/// Both files keep the numeric id in their third column; the first entry of an id wins, as for getpwuid(3).
pub fn parse<T>(text: &[u8], entry: impl Fn(&[&[u8]]) -> Option<T>) -> FxHashMap<u32, T> {
    let mut entries = FxHashMap::default();
    for line in text.split(|byte| *byte == b'\n') {
        if entries.len() == ENTRIES_MAX {
            break;
        }
        // A group's members are not needed, however many there are.
        let columns: Vec<&[u8]> = line.split(|byte| *byte == b':').take(7).collect();
        let id = columns
            .get(2)
            .and_then(|id| std::str::from_utf8(id).ok()?.parse().ok());
        if let (Some(id), Some(value)) = (id, entry(&columns)) {
            entries.entry(id).or_insert(value);
        }
    }
    entries
}

/// A user from the columns of `/etc/passwd`.
pub fn user(columns: &[&[u8]]) -> Option<User> {
    Some(User {
        name: column(columns, 0)?,
        home: column(columns, 5)?,
        shell: column(columns, 6)?,
    })
}

/// A group's name from the columns of `/etc/group`.
pub fn group(columns: &[&[u8]]) -> Option<Box<[u8]>> {
    column(columns, 0)
}

fn column(columns: &[&[u8]], at: usize) -> Option<Box<[u8]>> {
    let column = *columns.get(at)?;
    (column.len() <= COLUMN_BYTES_MAX).then(|| column.into())
}

/// A map of ids between a user namespace and the host: `/proc/PID/uid_map`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// First id inside, first outside, how many; none maps nothing.
    ranges: Vec<(u32, u32, u32)>,
}

impl IdMap {
    /// Reads the three columns; a line that has others is left out.
    pub fn parse(text: &str) -> Self {
        let range = |line: &str| {
            let mut columns = line.split_ascii_whitespace().map(str::parse::<u32>);
            let mut next = || columns.next()?.ok();
            Some((next()?, next()?, next()?))
        };
        // The kernel allows no more lines.
        Self {
            ranges: text.lines().take(340).filter_map(range).collect(),
        }
    }

    /// The id inside for one of the host; `None` where it has none.
    pub fn inside(&self, id: u32) -> Option<u32> {
        self.ranges.iter().find_map(|(inside, outside, count)| {
            let offset = id.checked_sub(*outside).filter(|offset| offset < count)?;
            inside.checked_add(offset)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    fn root(folder: &Path) -> OwnedFd {
        fs::create_dir_all(folder.join("etc")).expect("a folder");
        File::open(folder).expect("it opens").into()
    }

    #[test]
    fn what_is_no_database_is_refused_without_waiting() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = root(folder.path());
        let passwd = folder.path().join("etc/passwd");
        let mut database = Database::default();
        let mut check = |what: &str, expected: &str| {
            let error = database
                .refresh(&root, Path::new("etc/passwd"), user)
                .expect_err(what)
                .to_string();
            assert!(error.contains(expected), "{what}: {error}");
            fs::remove_file(&passwd).unwrap_or_default();
        };
        check("nothing", "No such file");
        let name = CString::new(passwd.as_os_str().as_bytes()).expect("a path");
        // SAFETY: takes a C string that outlives the call.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        check("a pipe", "not a regular file");
        symlink("/dev/zero", &passwd).expect("a link");
        check("a link to what is not below the root", "No such file");
        symlink("../../../../../../etc/passwd-", &passwd).expect("a link");
        check("a way out", "No such file");
        symlink("passwd", &passwd).expect("a link");
        check("a link to itself", "Too many levels");
        symlink("/proc/self/fd/0", &passwd).expect("a link");
        check("a magic link", "No such file");
        let file = File::create(&passwd).expect("a file");
        file.set_len(FILE_BYTES_MAX + 1).expect("it grows");
        check("a long file", "too long");
        fs::create_dir(&passwd).expect("a folder");
        check("a folder", "not a regular file");
    }

    #[test]
    fn links_are_followed_within_the_root() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = root(folder.path());
        fs::write(folder.path().join("real"), "ann:x:7:8::/srv:/bin/sh\n").expect("written");
        symlink("/real", folder.path().join("etc/passwd")).expect("a link");
        let mut database = Database::default();
        database
            .refresh(&root, Path::new("etc/passwd"), user)
            .expect("it reads");
        assert_eq!(database.get(7).map(|user| &*user.name), Some(&b"ann"[..]));
    }

    #[test]
    fn odd_lines_are_left_out() {
        let long = "x".repeat(COLUMN_BYTES_MAX + 1);
        let text = format!(
            "root:x:0:0:r:/r:/bin/sh\nagain:x:0:0::/:/bin/false\nshort:x:7\n\n:::\nneg:x:-1:0::/:\n\
             big:x:4294967296:0::/:\n{long}:x:9:9::/:/s\nlast:x:4294967295:0::/:/s"
        );
        let users = parse(text.as_bytes(), user);
        let mut ids: Vec<_> = users.keys().copied().collect();
        ids.sort_unstable();
        assert_eq!(ids, [0, u32::MAX]);
        assert_eq!(&*users[&0].name, b"root");
        let many: String = (0..ENTRIES_MAX + 10)
            .map(|id| format!("u:x:{id}:0::/:/s\n"))
            .collect();
        assert_eq!(parse(many.as_bytes(), user).len(), ENTRIES_MAX);
    }

    #[test]
    fn ids_are_mapped_as_the_namespace_says() {
        let check = |map: &str, id: u32, expected: Option<u32>| {
            assert_eq!(IdMap::parse(map).inside(id), expected, "{map:?} {id}");
        };
        check("0 0 4294967295\n", 1000, Some(1000));
        check("         0     100000      65536\n", 100_007, Some(7));
        check("0 100000 65536", 7, None);
        check("0 100000 10\n1000 500 1\n", 500, Some(1000));
        check("", 0, None);
        check("nonsense\n0 x 1\n", 0, None);
        check("4294967295 0 2", 1, None);
    }
}
