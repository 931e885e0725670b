//! From the cgroup id that the kernel recorded with an event to the container that owns the cgroup.
//!
//! The id is the cgroup directory's kernfs node, so the kernel itself turns it back into a path
//! (`open_by_handle_at` on the cgroup v2 mount), however late the look-up comes. Names, images and pods are
//! not known here: the path holds the container's id and nothing else.

use std::{
    ffi::OsString,
    fs, io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::PathBuf,
    sync::Arc,
};

use rustc_hash::FxHashMap;

/// Containers remembered at once. A node runs hundreds; churn beyond this costs a look-up again.
const CACHE_MAX: usize = 16_384;

/// Length of the short id, as every runtime and Falco print it.
const SHORT_ID: usize = 12;

/// What a cgroup belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// The look-up and its cache.
#[derive(Debug)]
pub struct Containers {
    hierarchy: Option<Hierarchy>,
    owners: FxHashMap<u64, Owner>,
}

impl Containers {
    /// For the cgroup v2 hierarchy with this root folder; without one, only `/proc/PID/cgroup` is left.
    pub fn new(root: Option<OwnedFd>) -> Self {
        Self {
            hierarchy: root.map(|root| Hierarchy { root }),
            owners: FxHashMap::default(),
        }
    }

    /// The owner of a cgroup, looked up at the first event from it.
    ///
    /// `tgid` is a process that was in the cgroup: where the kernel no longer knows the id, `/proc` may still.
    pub fn resolve(&mut self, cgroup_id: u64, tgid: u32) -> &Owner {
        // Ids are never reused within a boot, so forgetting all of them at the bound is safe and simple.
        if self.owners.len() >= CACHE_MAX && !self.owners.contains_key(&cgroup_id) {
            self.owners.clear();
        }
        let hierarchy = self.hierarchy.as_ref();
        let owner = self.owners.entry(cgroup_id).or_insert(Owner::Unknown);
        if *owner == Owner::Unknown {
            *owner = hierarchy
                .and_then(|hierarchy| hierarchy.path(cgroup_id).ok())
                .or_else(|| path_of_process(tgid))
                .map_or(Owner::Unknown, |path| {
                    owner_of_path(path.as_os_str().as_bytes())
                });
        }
        owner
    }

    /// What is known of a cgroup without looking it up.
    pub fn get(&self, cgroup_id: u64) -> &Owner {
        self.owners.get(&cgroup_id).unwrap_or(&Owner::Unknown)
    }

    /// Cgroups in the cache.
    pub fn len(&self) -> usize {
        self.owners.len()
    }

    /// Whether nothing has been looked up yet.
    pub fn is_empty(&self) -> bool {
        self.owners.is_empty()
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
    let component = std::str::from_utf8(component).ok()?;
    let name = component.strip_suffix(".scope").unwrap_or(component);
    // `crio-conmon-ID` holds CRI-O's monitor of the container, which runs on the host.
    if name.starts_with("crio-conmon-") || name.starts_with("libpod-conmon-") {
        return None;
    }
    let id = name.rsplit(['-', ':']).next()?;
    let hex = id.len() == 64
        && id
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    hex.then_some(id)
}

/// The `0::` line of `/proc/PID/cgroup`, or on a cgroup v1 node the longest line, which names the container too.
fn path_of_process(tgid: u32) -> Option<PathBuf> {
    let text = fs::read(format!("/proc/{tgid}/cgroup")).ok()?;
    let paths = || {
        text.split(|byte| *byte == b'\n')
            .filter_map(|line| line.splitn(3, |byte| *byte == b':').nth(2))
    };
    let named = paths().find(|path| owner_of_path(path) != Owner::Host);
    let path = named.or_else(|| paths().next())?;
    Some(PathBuf::from(OsString::from_vec(path.to_vec())))
}

/// The root folder of the cgroup v2 hierarchy.
#[derive(Debug)]
struct Hierarchy {
    root: OwnedFd,
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
    /// Where the cgroup is. What stands before the hierarchy's own part depends on the mount, and does not matter. Needs CAP_DAC_READ_SEARCH; fails with ESTALE
    /// once the cgroup is removed.
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
        fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn every_runtime_and_driver_is_recognised() {
        let paths = [
            "/docker/{}",
            "/system.slice/docker-{}.scope",
            "/kubepods/burstable/pod1ad2/{}",
            "/kubepods.slice/kubepods-pod1.slice/cri-containerd-{}.scope",
            "/kubepods.slice/kubepods-pod1.slice/crio-{}.scope",
            "/machine.slice/libpod-{}.scope",
            "/machine.slice/libpod-{}.scope/container",
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{}.scope",
            "/system.slice/nerdctl-{}.scope",
            "/kubepods-burstable-pod7.slice:cri-containerd:{}",
            "/docker/ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff/kubepods/pod9/{}",
        ];
        for path in paths {
            let owner = owner_of_path(path.replace("{}", ID).as_bytes());
            assert_eq!(owner, Owner::Container(ID.into()), "{path}");
            assert_eq!(owner.id(), Some("0123456789ab"));
        }
    }

    #[test]
    fn the_host_is_not_a_container() {
        let paths = [
            "/",
            "",
            "/user.slice/user-1000.slice/session-1.scope",
            "/system.slice/sshd.service",
            "/kubepods/burstable/pod1ad2",
            &format!("/kubepods.slice/crio-conmon-{ID}.scope"),
            &format!("/docker/{}", &ID[1..]),
            &format!("/docker/{}", ID.to_uppercase()),
        ];
        for path in paths {
            assert_eq!(owner_of_path(path.as_bytes()), Owner::Host, "{path}");
        }
    }
}
