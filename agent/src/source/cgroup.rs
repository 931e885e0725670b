//! The root of the cgroup v2 hierarchy, where programs see every process of the machine.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use super::errors::SensorError;
use super::mounts;

/// The root cgroup, open.
#[derive(Debug)]
pub struct RootCgroup {
    /// For attaching.
    pub folder: OwnedFd,
    /// Where it is mounted; `None` when it is mounted nowhere and was opened privately.
    pub path: Option<PathBuf>,
}

impl RootCgroup {
    /// Its id in records.
    pub fn id(&self) -> io::Result<u64> {
        let folder = File::from(self.folder.try_clone()?);
        Ok(folder.metadata()?.ino())
    }
}

/// Finds the mounted hierarchy, also beside v1 (`/sys/fs/cgroup/unified`), or mounts one privately.
pub fn open_root() -> Result<RootCgroup, SensorError> {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    for path in mounted_roots(&mounts) {
        if let Ok(folder) = File::open(&path)
            && is_root(folder.as_fd())
        {
            return Ok(RootCgroup {
                folder: folder.into(),
                path: Some(path),
            });
        }
    }
    let open = || -> io::Result<OwnedFd> {
        let mount = mounts::mount_detached(c"cgroup2")?;
        // The descriptor of a mount is opened by path only, which attaching does not accept.
        let flags = libc::O_RDONLY | libc::O_DIRECTORY;
        let folder = mounts::open_below(mount.as_fd(), c".", flags)?;
        if is_root(folder.as_fd()) {
            Ok(folder)
        } else {
            Err(io::Error::other(
                "this cgroup namespace begins below the root: mount the host's /sys/fs/cgroup as well",
            ))
        }
    };
    match open() {
        Ok(folder) => Ok(RootCgroup { folder, path: None }),
        Err(source) => Err(SensorError::NoCgroup2 { source }),
    }
}

/// Is it the root of the whole hierarchy? A container on a node with v2 alone has a cgroup namespace of its own, in which its own cgroup
/// is mounted and called the root: whoever attaches there sees nothing but himself. The true root alone has no type.
fn is_root(folder: BorrowedFd<'_>) -> bool {
    mounts::open_below(folder, c"cgroup.type", libc::O_PATH)
        .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// The v1 hierarchy that tells containers apart where they are in the root of v2: the place of its controller's state, one of
/// `controllers`, and its number.
pub fn v1_stand_in(controllers: &[(&'static str, u32)]) -> Option<(u32, u32)> {
    stand_in(&fs::read_to_string("/proc/cgroups").ok()?, controllers)
}

/// By a `/proc/cgroups`: name, hierarchy (0 is v2), number of cgroups, enabled.
fn stand_in(text: &str, controllers: &[(&'static str, u32)]) -> Option<(u32, u32)> {
    controllers.iter().find_map(|(name, place)| {
        let line = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .find(|columns| columns.first() == Some(name))?;
        let hierarchy: u32 = line.get(1)?.parse().ok()?;
        (hierarchy != 0 && line.get(3) == Some(&"1")).then_some((*place, hierarchy))
    })
}

/// Mount points of whole cgroup2 hierarchies in a `mountinfo`. One whose root is not `/` shows a part: inside a cgroup
/// namespace, or a bind mount.
fn mounted_roots(mountinfo: &str) -> Vec<PathBuf> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (mount, file_system) = line.split_once(" - ")?;
            let mut mount = mount.split(' ').skip(3);
            let (root, point) = (mount.next()?, mount.next()?);
            // Seen from a cgroup namespace what is above it has two dots for each step.
            let is_above = root.split('/').skip(1).all(|step| step == "..");
            let is_whole = file_system.split(' ').next()? == "cgroup2" && (root == "/" || is_above);
            is_whole.then(|| PathBuf::from(unescape(point)))
        })
        .collect()
}

/// Blanks, tabs, newlines and backslashes in mount points are written in octal.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_controller_of_a_v1_hierarchy_stands_in() {
        let text = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n\
                    cpu\t1\t1\t1\nmemory\t4\t15\t0\ndevices\t0\t1\t1\npids\t8\t1\t1\n";
        let check = |text: &str, controllers: &[(&'static str, u32)], expected| {
            assert_eq!(stand_in(text, controllers), expected, "{controllers:?}");
        };
        let all = [("memory", 32), ("devices", 40), ("pids", 88), ("cpu", 8)];
        check(text, &all, Some((88, 8)));
        check(text, &all[..2], None);
        check(text, &[], None);
        check("", &all, None);
        check("pids\npids x y z\n", &all, None);
    }

    #[test]
    fn a_cgroup_is_not_the_root() {
        let Ok(root) = open_root() else {
            // Not this test's matter: without privileges there may be none to open.
            return;
        };
        assert!(is_root(root.folder.as_fd()));
        let below = root.path.and_then(|path| {
            let entries = fs::read_dir(path).ok()?.flatten();
            let mut folders = entries.filter(|entry| entry.path().is_dir());
            File::open(folders.next()?.path()).ok()
        });
        if let Some(below) = below {
            assert!(!is_root(below.as_fd()));
        }
    }

    #[test]
    fn finds_whole_hierarchies() {
        let check = |mountinfo: &str, expected: &[&str]| {
            let expected: Vec<PathBuf> = expected.iter().map(PathBuf::from).collect();
            assert_eq!(mounted_roots(mountinfo), expected, "{mountinfo:?}");
        };
        check("", &[]);
        check("nonsense", &[]);
        check(
            "35 25 0:30 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n",
            &["/sys/fs/cgroup"],
        );
        check(
            "30 25 0:26 / /sys/fs/cgroup rw shared:9 - tmpfs tmpfs rw\n\
             31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
             32 30 0:28 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw\n",
            &["/sys/fs/cgroup/unified"],
        );
        check(
            "35 25 0:30 /kubepods/x /sys/fs/cgroup ro - cgroup2 cgroup rw\n",
            &[],
        );
        check(
            "35 25 0:30 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n\
             36 25 0:30 /../../.. /host/sys/fs/cgroup ro - cgroup2 cgroup rw\n\
             37 25 0:30 /../x /y ro - cgroup2 cgroup rw\n",
            &["/sys/fs/cgroup", "/host/sys/fs/cgroup"],
        );
        check(
            "35 25 0:30 / /mnt/a\\040b rw - cgroup2 none rw\n",
            &["/mnt/a b"],
        );
    }
}
