//! A cgroup for one test, named like a container's, removed at its end.

use std::{
    fs, io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// A directory of the cgroup v2 hierarchy, or one in each of some v1 hierarchies.
#[derive(Debug)]
pub struct Cgroup {
    paths: Vec<PathBuf>,
    id: String,
}

static MADE: AtomicU32 = AtomicU32::new(0);

impl Cgroup {
    /// Makes a cgroup as containerd would for a new container, and tells its id of 64 hexadecimal digits.
    pub fn like_a_container() -> io::Result<Self> {
        Self::below(&[mount()?])
    }

    /// The same where controllers have hierarchies of version 1: in those of the controllers that every runtime uses. `None` where
    /// they have none.
    pub fn like_a_container_of_v1() -> io::Result<Option<Self>> {
        let mounts = mounts_of_v1()?;
        if mounts.is_empty() {
            return Ok(None);
        }
        Self::below(&mounts).map(Some)
    }

    fn below(mounts: &[PathBuf]) -> io::Result<Self> {
        // The first twelve digits tell one from the other: they are all that alerts show.
        let id = format!(
            "{:04x}{:08x}{}",
            MADE.fetch_add(1, Ordering::Relaxed) & 0xffff,
            std::process::id(),
            "5a".repeat(26)
        );
        let mut made = Self {
            paths: Vec::new(),
            id,
        };
        for mount in mounts {
            // Runtimes name the cgroup by the id alone; the folder above keeps tests apart from real containers.
            let path = mount.join(format!("saker-test-{}", made.id));
            let path = path.join(&made.id);
            fs::create_dir_all(&path)?;
            made.paths.push(path);
        }
        Ok(made)
    }

    /// The container's full id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// `container.id` as alerts show it.
    pub fn short_id(&self) -> &str {
        &self.id[..12]
    }

    /// The file to which a process writes 0 to be inside from then on; of v1 the first hierarchy's.
    pub fn procs(&self) -> PathBuf {
        self.paths[0].join("cgroup.procs")
    }

    /// Makes a program start inside the cgroup: it is there before it execs. Until then it holds a copy of whatever this process
    /// has open, which a test beside it may notice.
    pub fn enter(&self, command: &mut Command) {
        for path in &self.paths {
            let procs = path.join("cgroup.procs");
            // SAFETY: between fork and exec the closure only opens, writes and closes a file; the path was allocated before.
            unsafe {
                command.pre_exec(move || fs::write(&procs, "0"));
            }
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The kernel lets go of a cgroup a moment after its last process was reaped.
        let deadline = Instant::now() + Duration::from_secs(5);
        for path in &self.paths {
            while let Err(error) = fs::remove_dir(path) {
                if Instant::now() > deadline || error.kind() == io::ErrorKind::NotFound {
                    break;
                }
                std::thread::yield_now();
            }
            if let Some(parent) = path.parent() {
                let _ = fs::remove_dir(parent);
            }
        }
    }
}

/// Where cgroup v2 is mounted, in any of the layouts.
pub fn mount() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|columns| columns.get(2) == Some(&"cgroup2"))
        .map(|columns| Path::new(columns[1]).to_path_buf())
        .ok_or_else(|| io::Error::other("no cgroup v2 is mounted"))
}

/// Where v1 hierarchies of memory, pids and devices are mounted.
fn mounts_of_v1() -> io::Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let has_one = |options: &str| {
        let mut options = options.split(',');
        options.any(|option| ["memory", "pids", "devices"].contains(&option))
    };
    Ok(mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .filter(|columns| columns.get(2) == Some(&"cgroup"))
        .filter(|columns| columns.get(3).is_some_and(|options| has_one(options)))
        .map(|columns| Path::new(columns[1]).to_path_buf())
        .collect())
}
