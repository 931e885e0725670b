//! One process: which files may hold the call sites of its Python, known before it imports anything.
//!
//! Everything is opened inside the process's own root folder and nothing leads out of it; only regular files are
//! opened. Reading them is `elf`'s business.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::elf::{self, Version};
use crate::source::calls::owned;

const ENVIRON_BYTES_MAX: u64 = 256 << 10;
const CONFIG_BYTES_MAX: u64 = 16 << 10;
const MAPS_BYTES_MAX: u64 = 1 << 20;
const FOLDER_ENTRIES_MAX: usize = 1024;
const FOUND_MAX: usize = 16;
/// Folders tried for one process; each costs one system call where it does not exist.
const FOLDERS_MAX: usize = 64;
/// Where a dynamic linker looks without being told.
const LIBRARY_FOLDERS: [&str; 7] = [
    "/usr/local/lib",
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/usr/lib",
];
/// The minor versions with audit events that are tried where a binary does not say which it is.
const MINORS: std::ops::RangeInclusive<u8> = 8..=14;

/// A file that may hold call sites.
#[derive(Debug)]
pub struct Found {
    /// Open for reading.
    pub file: File,
    /// Device and inode as this process sees them.
    id: (u64, u64),
    /// As the process sees it.
    pub inside: String,
    /// From the names around it, for files that do not say it themselves.
    pub version: Option<Version>,
}

/// What a process was found to run.
#[derive(Debug, Default)]
pub struct Look {
    /// Files that may hold call sites; none where it runs no Python.
    pub found: Vec<Found>,
    /// One of the bounds above was reached, and something may have been overlooked.
    pub is_cut: bool,
}

/// The files of a process that may hold call sites: its program, the libpython that this needs, and the extension
/// modules `_pickle` and `_ctypes` where Python would import them from. `None` where the process could not be looked at,
/// because it is gone for instance, which says nothing about its program.
pub fn of_process(proc: &Path, pid: u32) -> Option<Look> {
    let process = proc.join(pid.to_string());
    let mut look = Look::default();
    let exe = open_regular(&process.join("exe")).ok()?;
    let exe_path = fs::read_link(process.join("exe")).ok()?;
    let exe_path = exe_path.to_string_lossy().into_owned();
    let summary = match elf::summarize(&exe) {
        Ok(summary) => summary,
        Err(elf::ElfError::Io(_)) => return None,
        // A script's interpreter is what runs; anything else that runs and is no ELF file is no Python.
        Err(_) => return Some(look),
    };
    if !summary.is_python {
        return Some(look);
    }
    let version = summary.version.or_else(|| Version::of_program(&exe_path));
    let root = Root::open(&process.join("root")).ok()?;
    look.add(exe, exe_path.clone(), version);

    let environ = look.read(&process.join("environ"), ENVIRON_BYTES_MAX);
    let prefixes = prefixes(&root, &exe_path, &environ);
    let origin = parent(&exe_path);
    let mut libraries: Vec<String> = summary
        .library_paths
        .iter()
        .map(|path| path.replace("${ORIGIN}", origin).replace("$ORIGIN", origin))
        .collect();
    libraries.extend(list(&environ, "LD_LIBRARY_PATH"));
    libraries.extend(prefixes.iter().map(|prefix| format!("{prefix}/lib")));
    libraries.extend(LIBRARY_FOLDERS.map(str::to_owned));
    for name in summary.needs.iter().filter(|name| elf::is_libpython(name)) {
        let mut candidates = libraries.iter().map(|folder| format!("{folder}/{name}"));
        let is_found = candidates
            .by_ref()
            .take(FOLDERS_MAX)
            .any(|path| root.add(&mut look, &path, version));
        look.is_cut |= !is_found && candidates.next().is_some();
    }
    let versions: Vec<Version> = version.map_or_else(every_version, |version| vec![version]);
    for prefix in &prefixes {
        for version in &versions {
            for lib in ["lib", "lib64"] {
                let threads = if version.free_threaded { "t" } else { "" };
                let folder = format!(
                    "{prefix}/{lib}/python3.{}{threads}/lib-dynload",
                    version.minor
                );
                root.add_extensions(&mut look, &folder, *version);
            }
        }
    }
    for path in mapped(&process, &mut look) {
        root.add(&mut look, &path, version);
    }
    Some(look)
}

/// Parts of Python that a process has loaded, whatever its program is: one that loads libpython by name shows so.
pub fn loaded(proc: &Path, pid: u32) -> Look {
    let process = proc.join(pid.to_string());
    let mut look = Look::default();
    if let Ok(root) = Root::open(&process.join("root")) {
        for path in mapped(&process, &mut look) {
            root.add(&mut look, &path, None);
        }
    }
    look
}

/// Whether a process uses a file of this name as code. Who copies, packs or unpacks an interpreter opens the same files.
pub fn runs(proc: &Path, pid: u32, path: &str) -> bool {
    let mut look = Look::default();
    let maps = look.read(&proc.join(pid.to_string()).join("maps"), MAPS_BYTES_MAX);
    // What is behind the bound may be it.
    look.is_cut || maps_as_code(&maps, base(path))
}

fn maps_as_code(maps: &[u8], name: &str) -> bool {
    String::from_utf8_lossy(maps).lines().any(|line| {
        let access = line.split(' ').nth(1).unwrap_or_default();
        access.contains('x') && line.find('/').is_some_and(|at| base(&line[at..]) == name)
    })
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// One file that a process has opened, by its path inside the process's root.
pub fn opened(proc: &Path, pid: u32, path: &str, version: Option<Version>) -> Option<Found> {
    let root = Root::open(&proc.join(pid.to_string()).join("root")).ok()?;
    let mut look = Look::default();
    root.add(&mut look, path, version);
    look.found.pop()
}

/// Where the interpreter's own library may be, most likely first.
fn prefixes(root: &Root, exe: &str, environ: &[u8]) -> Vec<String> {
    let mut prefixes = Vec::new();
    let folder = parent(exe);
    // A virtual environment made of copies names the interpreter that it was made from.
    for config in [
        format!("{folder}/pyvenv.cfg"),
        format!("{}/pyvenv.cfg", parent(folder)),
    ] {
        if let Ok(file) = root.open_file(&config) {
            let text = read_up_to(file, CONFIG_BYTES_MAX);
            if let Some(home) = home_of(&String::from_utf8_lossy(&text)) {
                prefixes.push(parent(&home).to_owned());
            }
        }
    }
    prefixes.extend(list(environ, "PYTHONHOME"));
    prefixes.push(parent(folder).to_owned());
    prefixes.extend(["/usr/local", "/usr"].map(str::to_owned));
    let mut seen = Vec::new();
    for prefix in prefixes {
        if !seen.contains(&prefix) && seen.len() < FOUND_MAX {
            seen.push(prefix);
        }
    }
    seen
}

/// `home = /usr/bin` in a pyvenv.cfg.
fn home_of(config: &str) -> Option<String> {
    config.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "home").then(|| value.trim().to_owned())
    })
}

/// The parts of a variable that holds paths.
fn list(environ: &[u8], name: &str) -> Vec<String> {
    environ
        .split(|byte| *byte == 0)
        .filter_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
        .flat_map(|value| value.split(|byte| *byte == b':'))
        .filter(|part| part.first() == Some(&b'/'))
        .take(FOUND_MAX)
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect()
}

fn every_version() -> Vec<Version> {
    MINORS
        .map(|minor| Version {
            major: 3,
            minor,
            free_threaded: false,
        })
        .collect()
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Files already mapped by the process whose names say that they are Python's.
fn mapped(process: &Path, look: &mut Look) -> Vec<String> {
    let maps = look.read(&process.join("maps"), MAPS_BYTES_MAX);
    let mut paths: Vec<String> = String::from_utf8_lossy(&maps)
        .lines()
        .filter_map(|line| Some(line[line.find('/')?..].to_owned()))
        .filter(|path| {
            let name = base(path);
            elf::is_libpython(name) || is_extension(name)
        })
        .collect();
    paths.dedup();
    look.is_cut |= paths.len() > FOUND_MAX;
    paths.truncate(FOUND_MAX);
    paths
}

fn is_extension(name: &str) -> bool {
    (name.starts_with("_pickle.") || name.starts_with("_ctypes.")) && name.ends_with(".so")
}

/// A process's root folder; nothing opened through it lies outside.
struct Root {
    folder: OwnedFd,
}

impl Root {
    fn open(path: &Path) -> io::Result<Root> {
        let folder = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(path)?;
        Ok(Root {
            folder: folder.into(),
        })
    }

    fn open_at(&self, inside: &str, flags: i32) -> io::Result<OwnedFd> {
        let path = CString::new(inside).map_err(io::Error::other)?;
        // SAFETY: open_how is plain numbers, for which zero is valid.
        let mut how: libc::open_how = unsafe { std::mem::zeroed() };
        how.flags = (flags | libc::O_CLOEXEC).cast_unsigned().into();
        how.resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
        // SAFETY: openat2 takes a folder, a C string, and the struct with its size.
        owned(unsafe {
            libc::syscall(
                libc::SYS_openat2,
                self.folder.as_raw_fd(),
                path.as_ptr(),
                &raw const how,
                size_of::<libc::open_how>(),
            )
        })
    }

    /// Opens a regular file. What it is gets known before it is opened for reading, so that no device is touched.
    fn open_file(&self, inside: &str) -> io::Result<File> {
        let place = self.open_at(inside, libc::O_PATH)?;
        open_regular(Path::new(&format!("/proc/self/fd/{}", place.as_raw_fd())))
    }

    fn add(&self, look: &mut Look, inside: &str, version: Option<Version>) -> bool {
        let Ok(file) = self.open_file(inside) else {
            return false;
        };
        look.add(file, inside.to_owned(), version);
        true
    }

    fn add_extensions(&self, look: &mut Look, folder: &str, version: Version) {
        let Ok(opened) = self.open_at(folder, libc::O_PATH | libc::O_DIRECTORY) else {
            return;
        };
        let Ok(entries) = fs::read_dir(format!("/proc/self/fd/{}", opened.as_raw_fd())) else {
            return;
        };
        for (number, entry) in entries.flatten().enumerate() {
            if number >= FOLDER_ENTRIES_MAX {
                look.is_cut = true;
                return;
            }
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| is_extension(name)) else {
                continue;
            };
            let version = Version::of_extension(name).unwrap_or(version);
            self.add(look, &format!("{folder}/{name}"), Some(version));
        }
    }
}

impl Look {
    fn add(&mut self, file: File, inside: String, version: Option<Version>) {
        let Ok(metadata) = file.metadata() else {
            return;
        };
        let id = (metadata.dev(), metadata.ino());
        if self.found.iter().any(|other| other.id == id) {
            return;
        }
        if self.found.len() >= FOUND_MAX {
            self.is_cut = true;
            return;
        }
        self.found.push(Found {
            file,
            id,
            inside,
            version,
        });
    }

    fn read(&mut self, path: &Path, bytes_max: u64) -> Vec<u8> {
        let bytes =
            File::open(path).map_or_else(|_| Vec::new(), |file| read_up_to(file, bytes_max));
        self.is_cut |= bytes.len() as u64 == bytes_max;
        bytes
    }
}

/// Opens through a link of procfs, and only what is a regular file.
fn open_regular(path: &Path) -> io::Result<File> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::from(io::ErrorKind::InvalidInput))
    }
}

/// As much as can be read: procfs ends early for a process that is gone.
fn read_up_to(file: File, bytes_max: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = file.take(bytes_max).read_to_end(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;
    use std::process::{Child, Command, Stdio};

    /// A Python that waits for its standard input to end.
    fn start(program: &Path) -> Option<Child> {
        let child = Command::new(program)
            .args([
                "-S",
                "-c",
                "import sys; print(1, flush=True); sys.stdin.read()",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            saker_tests::skip(&format!("{} does not run", program.display()));
            return None;
        };
        let mut line = [0; 2];
        child.stdout.as_mut()?.read_exact(&mut line).ok()?;
        Some(child)
    }

    #[track_caller]
    fn check_pickle_is_found(program: &Path) {
        let Some(mut child) = start(program) else {
            return;
        };
        let found = of_process(Path::new("/proc"), child.id());
        let found = found.expect("it runs").found;
        drop(child.stdin.take());
        child.wait().unwrap();
        let with_site = found.iter().any(|found| {
            let sites = elf::analyze(&found.file).unwrap();
            assert!(found.version.is_some(), "{found:?}");
            !sites.find_class.is_empty()
        });
        assert!(with_site, "{found:?}");
    }

    #[track_caller]
    fn check_maps(line: &str, expected: bool) {
        let maps =
            format!("{line}\n7ffc0000-7ffd0000 r-xp 00000000 00:00 0                  [vdso]\n");
        assert_eq!(
            maps_as_code(maps.as_bytes(), "_pickle.so"),
            expected,
            "{line}"
        );
    }

    #[test]
    fn code_is_what_is_mapped_to_be_run() {
        check_maps("7f00-7f01 r-xp 00001000 08:01 42   /a b/_pickle.so", true);
        check_maps("7f00-7f01 r--p 00000000 08:01 42   /a b/_pickle.so", false);
        check_maps("7f00-7f01 r-xp 00001000 08:01 42   /a/x_pickle.so", false);
        check_maps("7f00-7f01 r-xp 00001000 00:00 0", false);
        check_maps("", false);
    }

    #[test]
    fn installed_interpreters_lead_to_their_pickle() {
        check_pickle_is_found(Path::new("/usr/bin/python3"));
        let home = std::env::var_os("HOME").unwrap_or_default();
        let versions = PathBuf::from(home).join(".pyenv/versions");
        // Those that a machine for these tests has.
        for minor in 8..=13 {
            let Some(version) = fs::read_dir(&versions).ok().and_then(|versions| {
                versions.flatten().find(|version| {
                    version
                        .file_name()
                        .to_string_lossy()
                        .starts_with(&format!("3.{minor}."))
                })
            }) else {
                saker_tests::skip(&format!("no pyenv interpreter 3.{minor}"));
                continue;
            };
            check_pickle_is_found(&version.path().join("bin/python3"));
        }
    }

    #[test]
    fn other_programs_lead_nowhere() {
        let look = of_process(Path::new("/proc"), std::process::id()).expect("it runs");
        assert!(look.found.is_empty() && !look.is_cut);
        assert!(of_process(Path::new("/proc"), u32::MAX).is_none());
    }

    #[test]
    fn nothing_leads_out_of_the_root_and_only_files_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let inside = |name: &str| folder.path().join(name);
        fs::create_dir(inside("etc")).unwrap();
        std::os::unix::fs::symlink("/../../../etc/passwd", inside("out")).unwrap();
        std::os::unix::fs::symlink("loop", inside("loop")).unwrap();
        let root = Root::open(folder.path()).unwrap();
        for path in ["/out", "/loop", "/etc", "/absent", "/../../etc/passwd"] {
            assert!(root.open_file(path).is_err(), "{path}");
        }
        fs::write(inside("etc/passwd"), b"ours").unwrap();
        assert_eq!(read_up_to(root.open_file("/out").unwrap(), 9), b"ours");
    }

    #[test]
    fn a_virtual_environment_names_its_home() {
        assert_eq!(
            home_of("home = /opt/py/bin\nversion = 3.11"),
            Some("/opt/py/bin".to_owned())
        );
        assert_eq!(home_of("homes = /x\nnothing"), None);
    }
}
