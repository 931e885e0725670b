//! From the cgroup id that the kernel recorded with an event to the container that owns the cgroup.
//!
//! The id is the cgroup directory's kernfs node, so the kernel itself turns it back into a path
//! (`open_by_handle_at` on the cgroup v2 mount), whatever became of the process. What was resolved is remembered, also after the cgroup
//! is removed. Names, images and pods are not known here: the path holds the container's id and nothing else.
//!
//! Where the controllers are v1's and a runtime puts its containers into them alone, everything is in the root of the v2 hierarchy.
//! Then the kernel programs record the id in a v1 hierarchy. Where they cannot, `/proc/PID/cgroup` names the container; it is read when
//! a process execs, and a new process is where its creator is.

use std::{
    ffi::OsString,
    fs, io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::{
            ffi::{OsStrExt as _, OsStringExt as _},
            fs::MetadataExt as _,
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use rustc_hash::FxHashMap;
use saker_ebpf::wire::cgroup::CGROUP_OF_V1;
use serde::{Deserialize, Serialize};

use super::outside::{Outside, Question};

/// Cgroups remembered at once, in two generations of half as many. A node runs hundreds; churn beyond this costs a look-up again.
const CGROUPS_MAX: usize = 32_768;

/// Processes of the v2 root whose v1 cgroup is remembered, likewise.
const PROCESSES_MAX: usize = 65_536;

/// A longer `/proc/PID/cgroup` is none: a line a hierarchy, of at most a path each.
const CGROUP_FILE_BYTES_MAX: u64 = 256 << 10;

/// Stands for a user's service manager in a capture.
const USER: &str = "user";

/// Length of the short id, as every runtime and Falco print it.
const SHORT_ID: usize = 12;

/// What a cgroup belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Owner {
    /// No container: the host itself.
    Host,
    /// A container, by its full id of 64 hexadecimal digits.
    Container(Arc<str>),
    /// A container inside another one: what the outer one's runtime says is true of it, too, and what a runtime says of a container
    /// with the inner id is not. Whoever may make cgroups inside a container can give them any name.
    Nested {
        /// The innermost id.
        id: Arc<str>,
        /// The outermost.
        outer: Arc<str>,
    },
    /// A container that a user's own service manager runs. No runtime of the machine knows it, and the user can give it any name.
    Rootless(Arc<str>),
    /// The cgroup was gone before it could be looked up and its process too.
    Unknown,
}

impl Owner {
    /// `container.id`: the first 12 digits, or `host`; `None` where it is not known.
    pub fn id(&self) -> Option<&str> {
        match self {
            Self::Host => Some("host"),
            _ => self.full_id().map(|id| &id[..SHORT_ID]),
        }
    }

    /// `container.full_id`: all of it; `None` for the host, and where it is not known.
    pub fn full_id(&self) -> Option<&str> {
        match self {
            Self::Container(id) | Self::Nested { id, .. } | Self::Rootless(id) => Some(id),
            Self::Host | Self::Unknown => None,
        }
    }

    /// Is it certain that nobody can tell its names?
    pub fn is_nameless(&self) -> bool {
        matches!(self, Self::Rootless(_) | Self::Unknown)
    }

    /// Under which id the machine's runtimes know it, if one does.
    pub fn runtime_id(&self) -> Option<&Arc<str>> {
        match self {
            Self::Container(id) | Self::Nested { outer: id, .. } => Some(id),
            Self::Host | Self::Rootless(_) | Self::Unknown => None,
        }
    }
}

/// In a capture: `host`, `unknown`, or the full id, with the outer one's or `user` before it.
impl From<Owner> for String {
    fn from(owner: Owner) -> Self {
        match owner {
            Owner::Host => "host".into(),
            Owner::Unknown => "unknown".into(),
            Owner::Container(id) => (*id).into(),
            Owner::Nested { id, outer } => format!("{outer}/{id}"),
            Owner::Rootless(id) => format!("{USER}/{id}"),
        }
    }
}

impl TryFrom<String> for Owner {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.as_str() {
            "host" => Ok(Self::Host),
            "unknown" => Ok(Self::Unknown),
            id if is_id(id) => Ok(Self::Container(id.into())),
            ids => match ids.split_once('/') {
                Some((USER, id)) if is_id(id) => Ok(Self::Rootless(id.into())),
                Some((outer, id)) if is_id(outer) && is_id(id) => Ok(Self::Nested {
                    id: id.into(),
                    outer: outer.into(),
                }),
                _ => Err("not the id of a container"),
            },
        }
    }
}

/// A process, for as long as the machine is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProcessKey {
    /// Process id.
    pub tgid: u32,
    /// Start, nanoseconds since boot.
    pub start_ns: u64,
}

/// The look-up and its caches.
#[derive(Debug)]
pub struct Containers {
    hierarchy: Option<Hierarchy>,
    /// The root cgroup's own id.
    root_id: Option<u64>,
    cgroups: Generations<u64>,
    /// Processes in the root of v2, on a node with v1 hierarchies.
    processes: Generations<ProcessKey>,
    has_v1: bool,
    proc: PathBuf,
}

impl Containers {
    /// For the cgroup v2 hierarchy with this root folder; without one, only `/proc/PID/cgroup` is left.
    pub fn new(root: Option<OwnedFd>) -> Self {
        let mounts = fs::read("/proc/self/mounts").unwrap_or_default();
        Self::with(root, has_v1_controllers(&mounts), Path::new("/proc"))
    }

    fn with(root: Option<OwnedFd>, has_v1: bool, proc: &Path) -> Self {
        let hierarchy = root.and_then(|root| Hierarchy::new(root).ok());
        Self {
            root_id: hierarchy.as_ref().map(|hierarchy| hierarchy.root_id),
            hierarchy,
            cgroups: Generations::new(CGROUPS_MAX / 2),
            processes: Generations::new(PROCESSES_MAX / 2),
            has_v1,
            proc: proc.into(),
        }
    }

    /// For a replay: which cgroup was the root, and whether there were hierarchies of version 1.
    pub fn told(root_id: Option<u64>, has_v1: bool) -> Self {
        Self {
            root_id,
            ..Self::with(None, has_v1, Path::new("/proc"))
        }
    }

    /// What [`Self::told`] takes.
    pub fn origin(&self) -> (Option<u64>, bool) {
        (self.root_id, self.has_v1)
    }

    /// A cgroup was made, at this path from the root of the v2 hierarchy: what happens in it needs no look-up, ever. Of a path that
    /// is cut the innermost folders are missing, and with them perhaps the container: then nothing is known.
    pub fn made(&mut self, cgroup_id: u64, path: &[u8], is_cut: bool) {
        if !is_cut {
            self.cgroups.put(cgroup_id, owner_of_path(path));
        }
    }

    /// The owner of a cgroup, looked up at the first event from it.
    ///
    /// `process` is one that was in the cgroup when the event happened: where the kernel no longer knows the id, `/proc` may
    /// still. `moved`: it may be elsewhere than at its last event, because it has just executed.
    pub fn resolve(
        &mut self,
        outside: &Outside,
        cgroup_id: u64,
        process: ProcessKey,
        moved: bool,
    ) -> Owner {
        let owner = match self.cgroups.get(&cgroup_id) {
            Some(owner) => owner,
            None => {
                let question = Question::Cgroup(cgroup_id, process.tgid);
                let owner = outside
                    .ask(question, || self.look_up(cgroup_id, process.tgid))
                    .unwrap_or(Owner::Unknown);
                // What could not be found may be by the next event's process.
                if owner != Owner::Unknown {
                    self.cgroups.put(cgroup_id, owner.clone());
                }
                owner
            }
        };
        if !(self.has_v1 && self.root_id == Some(cgroup_id)) {
            return owner;
        }
        let known = self.processes.get(&process);
        if let (Some(owner), false) = (&known, moved) {
            return owner.clone();
        }
        // A process that has ended is where it was, and where that is not known either, on the host as far as anyone can tell.
        let question = Question::ProcessCgroup(process.tgid);
        let owner = outside
            .ask(question, || owner_of_process(&self.proc, process.tgid))
            .flatten()
            .or(known)
            .unwrap_or(Owner::Host);
        self.processes.put(process, owner.clone());
        owner
    }

    /// The owner of a process of which no event has told the cgroup yet.
    pub fn of_process(&mut self, outside: &Outside, process: ProcessKey) -> Owner {
        if let Some(owner) = self.processes.get(&process) {
            return owner;
        }
        let question = Question::ProcessCgroup(process.tgid);
        let owner = outside
            .ask(question, || owner_of_process(&self.proc, process.tgid))
            .flatten()
            .unwrap_or(Owner::Host);
        self.processes.put(process, owner.clone());
        owner
    }

    /// A new process is where its creator was, unless it was made elsewhere; that cgroup is looked up while it surely exists.
    pub fn forked(
        &mut self,
        outside: &Outside,
        creator: ProcessKey,
        child: ProcessKey,
        child_cgroup_id: u64,
    ) {
        if let Some(owner) = self.processes.get(&creator) {
            self.processes.put(child, owner);
        }
        if self.cgroups.get(&child_cgroup_id).is_none() {
            self.resolve(outside, child_cgroup_id, child, false);
        }
    }

    fn look_up(&self, cgroup_id: u64, tgid: u32) -> Owner {
        let path = self
            .hierarchy
            .as_ref()
            .filter(|_| cgroup_id & CGROUP_OF_V1 == 0)
            .and_then(|hierarchy| hierarchy.path(cgroup_id).ok());
        match path {
            Some(path) => owner_of_path(path.as_os_str().as_bytes()),
            None => owner_of_process(&self.proc, tgid).unwrap_or(Owner::Unknown),
        }
    }

    /// Cgroups in the cache.
    pub fn len(&self) -> usize {
        self.cgroups.len()
    }

    /// Whether nothing has been looked up yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Owners by key, in two generations: when the young one is full it becomes the old one, and what nobody asked for since is
/// forgotten. What is needed stays, and each look-up is one or two hashes.
#[derive(Debug)]
struct Generations<K> {
    young: FxHashMap<K, Owner>,
    old: FxHashMap<K, Owner>,
    max: usize,
}

impl<K: Copy + Eq + std::hash::Hash> Generations<K> {
    fn new(max: usize) -> Self {
        Self {
            young: FxHashMap::default(),
            old: FxHashMap::default(),
            max,
        }
    }

    fn get(&mut self, key: &K) -> Option<Owner> {
        if let Some(owner) = self.young.get(key) {
            return Some(owner.clone());
        }
        let owner = self.old.remove(key)?;
        self.put(*key, owner.clone());
        Some(owner)
    }

    fn put(&mut self, key: K, owner: Owner) {
        if self.young.len() >= self.max {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, owner);
    }

    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

/// The container that a cgroup path names, in any layout that containerd, CRI-O, Docker and Podman use with either
/// cgroup driver: a component that is a 64-digit id, alone or between a runtime's prefix and `.scope`.
/// The innermost one counts: a container inside a container (kind, Docker in Docker) is itself.
pub fn owner_of_path(path: &[u8]) -> Owner {
    let components = || path.split(|byte| *byte == b'/');
    let Some(id) = components().rev().find_map(container_id) else {
        return Owner::Host;
    };
    let mut before = components().take_while(|component| container_id(component).is_none());
    if before.any(is_service_manager) {
        return Owner::Rootless(id.into());
    }
    match components().find_map(container_id) {
        Some(outer) if outer != id => Owner::Nested {
            id: id.into(),
            outer: outer.into(),
        },
        _ => Owner::Container(id.into()),
    }
}

/// `user@1000.service`, whose user does as he likes below it.
fn is_service_manager(component: &[u8]) -> bool {
    let number = component
        .strip_prefix(b"user@")
        .and_then(|rest| rest.strip_suffix(b".service"));
    number.is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit))
}

fn is_id(id: &str) -> bool {
    container_id(id.as_bytes()) == Some(id)
}

fn container_id(component: &[u8]) -> Option<&str> {
    // Longer than any runtime's: not worth a closer look.
    let component = std::str::from_utf8(component.get(..component.len().min(256))?).ok()?;
    let name = component.strip_suffix(".scope").unwrap_or(component);
    // `crio-conmon-ID` and `libpod-conmon-ID` hold the monitor of the container, which runs on the host.
    if name.contains("conmon-") {
        return None;
    }
    let id = name.rsplit(['-', ':']).next()?;
    let hex = id.len() == 64
        && id
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    hex.then_some(id)
}

/// The owner of a process's cgroups by `/proc/PID/cgroup`: the container that any line names, v2's or a v1 controller's. `None`
/// where the process is gone.
pub(super) fn owner_of_process(proc: &Path, tgid: u32) -> Option<Owner> {
    let mut text = Vec::new();
    let file = fs::File::open(proc.join(tgid.to_string()).join("cgroup")).ok()?;
    io::Read::read_to_end(&mut io::Read::take(file, CGROUP_FILE_BYTES_MAX), &mut text).ok()?;
    // A process that ends at this moment has an empty file.
    if text.is_empty() {
        return None;
    }
    let paths = text
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.splitn(3, |byte| *byte == b':').nth(2));
    let named = paths.map(owner_of_path).find(|owner| *owner != Owner::Host);
    Some(named.unwrap_or(Owner::Host))
}

/// Is a controller mounted the v1 way? A named hierarchy without controllers (`name=systemd`) holds no containers of its own.
fn has_v1_controllers(mounts: &[u8]) -> bool {
    let text = String::from_utf8_lossy(mounts);
    text.lines().any(|line| {
        let mut columns = line.split(' ').skip(2);
        let is_v1 = columns.next() == Some("cgroup");
        let options = columns.next().unwrap_or_default();
        is_v1 && !options.split(',').any(|option| option.starts_with("name="))
    })
}

/// The root folder of the cgroup v2 hierarchy.
#[derive(Debug)]
struct Hierarchy {
    root: OwnedFd,
    /// The root cgroup's own id.
    root_id: u64,
    /// Where it is mounted: what stands before a cgroup's own path, and may itself look like a container's.
    path: PathBuf,
}

/// `struct file_handle` of open_by_handle_at(2) with kernfs's 8-byte handle behind it.
#[repr(C)]
struct KernfsHandle {
    handle_bytes: u32,
    handle_type: i32,
    id: [u8; 8],
}

/// `FILEID_KERNFS` of the kernel's include/linux/exportfs.h: the handle is the 64-bit node id.
const FILEID_KERNFS: i32 = 0xfe;

impl Hierarchy {
    fn new(root: OwnedFd) -> io::Result<Self> {
        let path = path_of(&root)?;
        let root_id = fs::metadata(format!("/proc/self/fd/{}", root.as_raw_fd()))?.ino();
        Ok(Self {
            root,
            root_id,
            path,
        })
    }

    /// Where the cgroup is within the hierarchy. Needs CAP_DAC_READ_SEARCH; fails with ESTALE once the cgroup is removed.
    fn path(&self, cgroup_id: u64) -> io::Result<PathBuf> {
        let mut handle = KernfsHandle {
            handle_bytes: 8,
            handle_type: FILEID_KERNFS,
            id: cgroup_id.to_ne_bytes(),
        };
        // SAFETY: the handle has the layout that the call expects, says its own length, and outlives the call.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_open_by_handle_at,
                self.root.as_raw_fd(),
                &raw mut handle,
                libc::O_PATH | libc::O_CLOEXEC,
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: the descriptor was just opened and nobody else has it.
        let directory = unsafe { OwnedFd::from_raw_fd(fd) };
        let path = path_of(&directory)?;
        Ok(path
            .strip_prefix(&self.path)
            .map_or(path.clone(), Path::to_path_buf))
    }
}

/// The path of an open folder. The kernel marks one that was removed meanwhile, which does not make it another.
fn path_of(folder: &OwnedFd) -> io::Result<PathBuf> {
    let path = fs::read_link(format!("/proc/self/fd/{}", folder.as_raw_fd()))?;
    let bytes = path.into_os_string().into_vec();
    let bytes = bytes.strip_suffix(b" (deleted)").unwrap_or(&bytes).to_vec();
    Ok(OsString::from_vec(bytes).into())
}

#[cfg(test)]
mod tests;
