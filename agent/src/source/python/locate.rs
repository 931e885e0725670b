//! Which files hold the Python that a process runs, before it has loaded them all.
//!
//! The program itself, the library that it needs, and the module `_pickle` where its layout puts it. Everything is opened
//! within the process's own root, and only regular files are.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::elf::{self, Sites, Version};

/// A file to look at.
#[derive(Debug)]
pub struct Found {
    /// The file, open.
    pub file: File,
    /// Its path as the process sees it.
    pub exe: String,
    /// It is the module `_pickle`, by its name.
    pub is_pickle: bool,
}

/// The program that a process runs.
pub fn program(proc: &Path, pid: u32) -> Option<Found> {
    let exe = proc.join(pid.to_string()).join("exe");
    let path = fs::read_link(&exe).ok()?;
    Some(Found {
        file: File::open(&exe).ok()?,
        exe: path.to_string_lossy().into_owned(),
        is_pickle: false,
    })
}

/// Other files that may hold the unpickler of the Python that a process runs: the module where its layout puts it, or else
/// the library that it lives in.
pub fn parts(proc: &Path, pid: u32, exe: &Path, sites: &Sites) -> Vec<Found> {
    let mut found = Vec::new();
    let folder = proc.join(pid.to_string());
    let Ok(root) = File::open(folder.join("root")) else {
        return found;
    };
    let needed: Vec<&String> = sites
        .needed
        .iter()
        .filter(|name| name.starts_with("libpython3"))
        .collect();
    let is_named_so = exe
        .file_name()
        .is_some_and(|name| name.as_bytes().starts_with(b"python"));
    let mut versions: BTreeSet<Version> = sites
        .version
        .into_iter()
        .chain(elf::version_in(exe.as_os_str().as_bytes()))
        .chain(
            needed
                .iter()
                .filter_map(|name| elf::version_in(name.as_bytes())),
        )
        .collect();
    if versions.is_empty() && is_named_so {
        versions.extend((8..=14).map(|minor| Version {
            minor,
            free_threaded: false,
        }));
    }
    let libraries = libraries(exe, &sites.search);
    if !versions.is_empty() {
        let mut prefixes: Vec<&Path> = exe.parent().and_then(Path::parent).into_iter().collect();
        prefixes.extend(libraries.iter().filter_map(|library| library.parent()));
        modules(&root, &prefixes, &versions, &mut found);
    }
    if found.is_empty() {
        for name in needed {
            found.extend(
                libraries
                    .iter()
                    .find_map(|library| open_in(&root, &library.join(name))),
            );
        }
        found.extend(mapped(&folder, &root));
    }
    found
}

/// Where a program's libraries are looked for.
fn libraries(exe: &Path, search: &[String]) -> Vec<PathBuf> {
    let origin = exe.parent().unwrap_or(Path::new("/")).to_string_lossy();
    let standard = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/local/lib",
        "/usr/lib64",
        "/usr/lib",
    ];
    search
        .iter()
        .flat_map(|paths| paths.split(':'))
        .map(|path| {
            PathBuf::from(
                path.replace("${ORIGIN}", &origin)
                    .replace("$ORIGIN", &origin),
            )
        })
        .chain(standard.map(PathBuf::from))
        .collect()
}

/// The module `_pickle` of each version below each prefix.
fn modules(root: &File, prefixes: &[&Path], versions: &BTreeSet<Version>, found: &mut Vec<Found>) {
    let machine = std::env::consts::ARCH;
    let standard = ["/usr", "/usr/local"].map(Path::new);
    let mut seen = BTreeSet::new();
    for prefix in prefixes.iter().copied().chain(standard) {
        if !seen.insert(prefix) {
            continue;
        }
        for Version {
            minor,
            free_threaded,
        } in versions
        {
            let thread = if *free_threaded { "t" } else { "" };
            for lib in ["lib", "lib64"] {
                let path = prefix.join(format!(
                    "{lib}/python3.{minor}{thread}/lib-dynload/_pickle.cpython-3{minor}{thread}-{machine}-linux-gnu.so"
                ));
                found.extend(open_in(root, &path));
            }
        }
    }
}

/// Parts of Python that the process has already loaded.
fn mapped(folder: &Path, root: &File) -> Vec<Found> {
    const MAPS_BYTES_MAX: usize = 1 << 20;
    let mut text = Vec::new();
    let Ok(maps) = File::open(folder.join("maps")) else {
        return Vec::new();
    };
    let _ = std::io::Read::read_to_end(
        &mut std::io::Read::take(maps, MAPS_BYTES_MAX as u64),
        &mut text,
    );
    let text = String::from_utf8_lossy(&text);
    let paths: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.split_once('/').map(|(_, path)| path))
        .filter(|path| {
            let name = path.rsplit('/').next().unwrap_or(path);
            name.starts_with("_pickle") || name.starts_with("libpython3")
        })
        .take(8)
        .collect();
    paths
        .into_iter()
        .filter_map(|path| open_in(root, &Path::new("/").join(path)))
        .collect()
}

/// Opens a regular file within a root that its owner may have filled with anything.
fn open_in(root: &File, path: &Path) -> Option<Found> {
    let relative = path.strip_prefix("/").ok()?;
    let name = CString::new(relative.as_os_str().as_bytes()).ok()?;
    // SAFETY: zeros are a value of the struct.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY) as u64;
    how.resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
    // SAFETY: a C string, and a struct of the size that is said.
    let descriptor = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            root.as_raw_fd(),
            name.as_ptr(),
            &raw const how,
            size_of_val(&how),
        )
    };
    let descriptor = i32::try_from(descriptor)
        .ok()
        .filter(|number| *number >= 0)?;
    // SAFETY: the kernel has just handed out this descriptor, to nobody else.
    let file = unsafe { File::from_raw_fd(descriptor) };
    let metadata = file.metadata().ok()?;
    (metadata.is_file() && metadata.size() > 0).then(|| Found {
        file,
        exe: path.to_string_lossy().into_owned(),
        is_pickle: path
            .file_name()
            .is_some_and(|name| name.as_bytes().starts_with(b"_pickle.")),
    })
}
