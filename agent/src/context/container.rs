//! From the cgroup id that the kernel recorded with an event to the container that owns the cgroup.
//!
//! The id is the cgroup directory's kernfs node, so the kernel itself turns it back into a path
//! (`open_by_handle_at` on the cgroup v2 mount), whatever became of the process. What was resolved is remembered, also after the cgroup
//! is removed. Names, images and pods are not known here: the path holds the container's id and nothing else.
//!
//! Where the controllers are v1's and a runtime puts its containers into them alone, everything is in the root of the v2 hierarchy.
//! Then `/proc/PID/cgroup` names the container; it is read when a process execs, and a new process is where its creator is.

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
use serde::{Deserialize, Serialize};

use super::outside::{Outside, Question};

/// Cgroups remembered at once, in two generations of half as many. A node runs hundreds; churn beyond this costs a look-up again.
const CGROUPS_MAX: usize = 32_768;

/// Processes of the v2 root whose v1 cgroup is remembered, likewise.
const PROCESSES_MAX: usize = 65_536;

/// A longer `/proc/PID/cgroup` is none: a line a hierarchy, of at most a path each.
const CGROUP_FILE_BYTES_MAX: u64 = 256 << 10;

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
    /// The cgroup was gone before it could be looked up and its process too.
    Unknown,
}

impl Owner {
    /// `container.id`: the first 12 digits, or `host`; `None` where it is not known.
    pub fn id(&self) -> Option<&str> {
        match self {
            Self::Host => Some("host"),
            Self::Container(id) => Some(&id[..SHORT_ID]),
            Self::Unknown => None,
        }
    }
}

/// In a capture: `host`, `unknown`, or the full id.
impl From<Owner> for String {
    fn from(owner: Owner) -> Self {
        match owner {
            Owner::Host => "host".into(),
            Owner::Unknown => "unknown".into(),
            Owner::Container(id) => (*id).into(),
        }
    }
}

impl TryFrom<String> for Owner {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.as_str() {
            "host" => Ok(Self::Host),
            "unknown" => Ok(Self::Unknown),
            id if container_id(id.as_bytes()) == Some(id) => Ok(Self::Container(id.into())),
            _ => Err("not the id of a container"),
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
    let id = path.rsplit(|byte| *byte == b'/').find_map(container_id);
    id.map_or(Owner::Host, |id| Owner::Container(id.into()))
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
fn owner_of_process(proc: &Path, tgid: u32) -> Option<Owner> {
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
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const OUTER: &str = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";

    #[test]
    fn every_runtime_and_driver_is_recognised() {
        let check = |path: &str| {
            let path = path.replace("ID", ID).replace("OUTER", OUTER);
            let owner = owner_of_path(path.as_bytes());
            assert_eq!(owner, Owner::Container(ID.into()), "{path}");
            assert_eq!(owner.id(), Some("0123456789ab"));
        };
        // Docker: cgroupfs, systemd, a parent of one's own, rootless.
        check("/docker/ID");
        check("/system.slice/docker-ID.scope");
        check("/my.slice/docker-ID.scope");
        check("/user.slice/user-1000.slice/user@1000.service/user.slice/docker-ID.scope");
        // containerd under a kubelet: cgroupfs, systemd, each quality of service, and as containerd says it when it has no systemd.
        check("/kubepods/pod1ad2/ID");
        check("/kubepods/burstable/pod1ad2/ID");
        check("/kubepods/besteffort/pod1ad2-34/ID");
        check("/kubepods.slice/kubepods-pod1.slice/cri-containerd-ID.scope");
        check(
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-ID.scope",
        );
        check("/kubepods-burstable-pod7.slice:cri-containerd:ID");
        check("/system.slice/containerd.service/kubepods-burstable-pod7.slice:cri-containerd:ID");
        check("/k8s.io/ID");
        // What runs in cgroups of its own inside (systemd, a container with cgroup delegation).
        check("/kubepods.slice/kubepods-pod1.slice/cri-containerd-ID.scope/init.scope");
        check(
            "/kubepods.slice/kubepods-pod1.slice/cri-containerd-ID.scope/system.slice/sshd.service",
        );
        // nerdctl, ECS.
        check("/system.slice/nerdctl-ID.scope");
        check("/default/ID");
        check("/ecs/0f1e2d3c4b5a69788796a5b4c3d2e1f0/ID");
        // CRI-O: both drivers, and crun's container folder.
        check("/kubepods.slice/kubepods-pod1.slice/crio-ID.scope");
        check("/kubepods.slice/kubepods-pod1.slice/crio-ID.scope/container");
        check("/kubepods/besteffort/pod1/crio-ID");
        // Podman: root, rootless, split.
        check("/machine.slice/libpod-ID.scope");
        check("/machine.slice/libpod-ID.scope/container");
        check("/libpod_parent/libpod-ID");
        check("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope");
        check("/system.slice/web.service/libpod-payload-ID");
        // Nested: Docker in Docker, kind.
        check("/docker/OUTER/docker/ID");
        check("/docker/OUTER/kubepods/besteffort/pod9/ID");
        check(
            "/docker/OUTER/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod1.slice/cri-containerd-ID.scope",
        );
        check("/kubepods/burstable/podX/OUTER/system.slice/docker-ID.scope");
        // A conmon inside a container is that container's.
        check("/docker/ID/machine.slice/libpod-conmon-OUTER.scope");
    }

    #[test]
    fn the_host_is_not_a_container() {
        let check = |path: &[u8]| {
            assert_eq!(
                owner_of_path(path),
                Owner::Host,
                "{}",
                String::from_utf8_lossy(path)
            );
        };
        for path in [
            "/",
            "",
            "/user.slice/user-1000.slice/session-1.scope",
            "/system.slice/sshd.service",
            "/system.slice/containerd.service",
            "/system.slice/docker.service",
            "/kubepods/burstable/pod1ad2",
            "/kubepods.slice/kubepods-pod1ad2.slice",
            "/docker",
            "/docker/buildkit/0123456789abcdefghijklmno",
            "/ecs/0f1e2d3c4b5a69788796a5b4c3d2e1f0",
            "/lxc/web",
        ] {
            check(path.as_bytes());
        }
        for path in [
            "/kubepods.slice/crio-conmon-ID.scope",
            "/kubepods/pod1/crio-conmon-ID",
            "/machine.slice/libpod-conmon-ID.scope",
            "/docker/IDa",
            "/docker/ID.service",
            "/docker/ID ",
            "/docker/-ID-",
            "/docker/docker-ID.scope.scope",
        ] {
            check(path.replace("ID", ID).as_bytes());
        }
        check(format!("/docker/{}", &ID[1..]).as_bytes());
        check(format!("/docker/{}", ID.to_uppercase()).as_bytes());
        check(format!("/docker/{}", ID.replace('0', "g")).as_bytes());
        check(&[b"/docker/".as_slice(), &[0xff; 64]].concat());
        check(&vec![b'/'; 1 << 20]);
        check(&vec![b'a'; 1 << 20]);
        check(format!("/{}{ID}", "x".repeat(1 << 20)).as_bytes());
    }

    #[test]
    fn v1_controllers_are_told_from_named_hierarchies() {
        let check = |mounts: &str, expected| {
            assert_eq!(has_v1_controllers(mounts.as_bytes()), expected, "{mounts}");
        };
        check("cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n", false);
        check(
            "cgroup /sys/fs/cgroup/pids cgroup rw,relatime,pids 0 0\n",
            true,
        );
        check(
            "cgroup /sys/fs/cgroup/systemd cgroup rw,xattr,name=systemd 0 0\n",
            false,
        );
        check(
            "cgroup2 /x cgroup2 rw 0 0\ncgroup /y cgroup rw,cpu,cpuacct 0 0\n",
            true,
        );
        check("", false);
        check("cgroup", false);
    }

    /// A stand-in for `/proc` with one process.
    fn proc_with(tgid: u32, cgroups: &str) -> tempfile::TempDir {
        let proc = tempfile::tempdir().expect("a temporary folder");
        let folder = proc.path().join(tgid.to_string());
        fs::create_dir(&folder).expect("a folder");
        fs::write(folder.join("cgroup"), cgroups.replace("ID", ID)).expect("a file");
        proc
    }

    #[test]
    fn a_process_tells_its_cgroups_in_every_layout() {
        let check = |cgroups: &str, expected: Owner| {
            let proc = proc_with(7, cgroups);
            assert_eq!(
                owner_of_process(proc.path(), 7),
                Some(expected),
                "{cgroups}"
            );
        };
        let container = || Owner::Container(ID.into());
        check("0::/docker/ID\n", container());
        check(
            "12:pids:/docker/ID\n1:name=systemd:/docker/ID\n0::/\n",
            container(),
        );
        check(
            "12:pids:/kubepods/pod1/ID\n0::/system.slice/containerd.service\n",
            container(),
        );
        check("0::/system.slice/a:b:c.service\n", Owner::Host);
        check("12:pids:/\n0::/\n", Owner::Host);
        check("nonsense\n::\n", Owner::Host);
        let proc = proc_with(7, "");
        assert_eq!(owner_of_process(proc.path(), 7), None);
        assert_eq!(owner_of_process(proc.path(), 8), None);
    }

    #[test]
    fn what_nobody_asks_for_is_forgotten_and_the_rest_stays() {
        let mut owners = Generations::new(100);
        for key in 0..10_000_u64 {
            owners.put(key, Owner::Host);
            assert!(owners.get(&0).is_some(), "0 is asked for all the time");
            assert!(owners.len() <= 200);
        }
        assert!(owners.get(&1).is_none());
        assert!(owners.get(&9_999).is_some());
    }

    #[test]
    fn a_cgroup_that_nobody_knows_is_asked_of_the_process() {
        let proc = proc_with(7, "0::/docker/ID\n");
        let mut containers = Containers::with(None, false, proc.path());
        let process = |tgid| ProcessKey { tgid, start_ns: 1 };
        // A process that is gone says nothing, and the next one of the same cgroup is asked again.
        assert_eq!(
            containers.resolve(&Outside::machine(), 5, process(8), false),
            Owner::Unknown
        );
        assert_eq!(
            containers.resolve(&Outside::machine(), 5, process(7), false),
            Owner::Container(ID.into())
        );
        assert_eq!(
            containers.resolve(&Outside::machine(), 5, process(8), false),
            Owner::Container(ID.into())
        );
        assert_eq!(containers.len(), 1);
    }

    #[test]
    fn a_cgroup_that_was_seen_coming_needs_no_look_up() {
        let mut containers = Containers::with(None, false, Path::new("/nowhere"));
        let process = ProcessKey {
            tgid: 8,
            start_ns: 1,
        };
        let mut check = |path: &str, is_cut, expected| {
            containers.made(5, path.as_bytes(), is_cut);
            let owner = containers.resolve(&Outside::machine(), 5, process, false);
            assert_eq!(owner, expected, "{path}");
        };
        let path = format!("/kubepods.slice/cri-containerd-{ID}.scope");
        check(&path, true, Owner::Unknown);
        check(&path, false, Owner::Container(ID.into()));
        // The number of a cgroup that is gone, used again.
        check("/system.slice", false, Owner::Host);
    }

    #[test]
    fn owners_from_a_capture_are_checked() {
        let check = |text: &str, expected: Option<Owner>| {
            assert_eq!(Owner::try_from(text.to_owned()).ok(), expected, "{text}");
        };
        check("host", Some(Owner::Host));
        check("unknown", Some(Owner::Unknown));
        check(ID, Some(Owner::Container(ID.into())));
        for text in ["", "äöüäöüäöüäöü", &ID[1..], &format!("docker-{ID}.scope")] {
            check(text, None);
        }
        for owner in [Owner::Host, Owner::Unknown, Owner::Container(ID.into())] {
            check(&String::from(owner.clone()), Some(owner));
        }
    }
}
