//! Real interpreters and the libraries that models are saved with, and processes that load models with them.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{Cgroup, image::output, repository, skip};

/// A script of `tests/python`.
pub fn script(name: &str) -> PathBuf {
    repository().join("tests/python").join(name)
}

/// The Python of the virtual environment that `cargo xtask setup` made, or `None` after recording a skip.
pub fn libraries() -> Option<PathBuf> {
    environment("SAKER_PYTHON_LIBRARIES", "python-libraries")
}

/// Likewise the one with gRPC's libraries.
pub fn grpc_libraries() -> Option<PathBuf> {
    environment("SAKER_GRPC_LIBRARIES", "grpc-libraries")
}

/// The linter of protos, which comes as a Python package, or `None` after recording a skip.
pub fn buf() -> Option<PathBuf> {
    let python = environment("SAKER_PROTO_LIBRARIES", "proto-libraries")?;
    Some(python.with_file_name("buf"))
}

/// Likewise the one with what manifests are checked by.
pub fn manifest_libraries() -> Option<PathBuf> {
    environment("SAKER_MANIFEST_LIBRARIES", "manifest-libraries")
}

/// Helm's library, which `cargo xtask setup` fetched as a package of Python's, or `None` after recording a skip.
pub fn helm_library() -> Option<PathBuf> {
    let python = environment("SAKER_HELM_LIBRARY", "helm-library")?;
    let libraries = python.parent()?.parent()?.join("lib");
    let versions = fs::read_dir(libraries).into_iter().flatten().flatten();
    let inside = "site-packages/helm_sdkpy/_lib/linux-amd64/libhelm_sdkpy.so";
    let found = versions
        .map(|version| version.path().join(inside))
        .find(|library| library.exists());
    if found.is_none() {
        skip("Helm's library is not installed for this processor: cargo xtask setup");
    }
    found
}

/// Where `cargo xtask setup` puts what it fetches for tests.
pub(crate) fn cache() -> PathBuf {
    env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")))
        .unwrap_or_default()
        .join("saker")
}

fn environment(variable: &str, name: &str) -> Option<PathBuf> {
    let folder = env::var_os(variable).map_or_else(|| cache().join(name), PathBuf::from);
    let python = folder.join("bin/python3");
    if python.exists() {
        return Some(python);
    }
    skip(&format!(
        "the Python libraries of {} are not installed: cargo xtask setup",
        folder.display()
    ));
    None
}

/// An interpreter of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interpreter {
    /// The program itself, no link.
    pub program: PathBuf,
    /// 11 for Python 3.11.
    pub minor: u32,
}

impl Interpreter {
    /// Asks a program; `None` where it does not run or is no Python 3.
    pub fn of(program: &Path) -> Option<Self> {
        let code = "import sys; print(*sys.version_info[:2])";
        let asked = Command::new(program)
            .args(["-c", code])
            .stdin(Stdio::null())
            .output()
            .ok()?;
        let answer = String::from_utf8_lossy(&asked.stdout).into_owned();
        let minor = answer.trim().strip_prefix("3 ")?.parse().ok()?;
        let program = fs::canonicalize(program).ok()?;
        Some(Self { program, minor })
    }
}

/// Debian's interpreter, which has `_pickle` built in, or `None` after recording a skip.
pub fn debian() -> Option<Interpreter> {
    let found = Interpreter::of(Path::new("/usr/bin/python3"));
    if found.is_none() {
        skip("no /usr/bin/python3");
    }
    found
}

/// pyenv's interpreters that announce what they unpickle (3.8 and later), the oldest first; a skip is recorded where there are none.
pub fn pyenv() -> Vec<Interpreter> {
    let folder = env::var_os("PYENV_ROOT").map_or_else(
        || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".pyenv"),
        PathBuf::from,
    );
    let entries = fs::read_dir(folder.join("versions")).into_iter().flatten();
    let mut found: Vec<_> = entries
        .flatten()
        .filter_map(|entry| Interpreter::of(&entry.path().join("bin/python3")))
        .filter(|interpreter| interpreter.minor >= 8)
        .collect();
    found.sort_by_key(|interpreter| interpreter.minor);
    if found.is_empty() {
        skip("no pyenv interpreters");
    }
    found
}

/// Makes a virtual environment, of links or of copies, and returns its interpreter.
pub fn virtual_environment(of: &Interpreter, folder: &Path, copies: bool) -> PathBuf {
    let kind = if copies { "--copies" } else { "--symlinks" };
    let mut command = Command::new(&of.program);
    command
        .args(["-m", "venv", "--without-pip", kind])
        .arg(folder);
    output(&mut command).expect("the virtual environment is made");
    folder.join("bin/python3")
}

/// Copies an interpreter to another prefix, its program and its extension modules into files of their own, and links the rest:
/// nobody has seen those files before. Returns the copied program.
pub fn fresh_copy(of: &Interpreter, prefix: &Path) -> PathBuf {
    let home = of
        .program
        .parent()
        .and_then(Path::parent)
        .expect("an interpreter is in a folder bin");
    let library = format!("lib/python3.{}", of.minor);
    let to = prefix.join(&library);
    fs::create_dir_all(&to).expect("a folder");
    fs::create_dir_all(prefix.join("bin")).expect("a folder");
    for entry in fs::read_dir(home.join(&library))
        .expect("the standard library")
        .flatten()
    {
        if entry.file_name() != "lib-dynload" {
            std::os::unix::fs::symlink(entry.path(), to.join(entry.file_name())).expect("a link");
        }
    }
    // Through processes: a child that another thread forks meanwhile would hold our descriptors open for writing.
    let copy = |from: &Path, to: &Path| {
        output(Command::new("cp").arg("-r").arg(from).arg(to)).expect("a copy");
    };
    copy(
        &home.join(&library).join("lib-dynload"),
        &to.join("lib-dynload"),
    );
    let shared = fs::read_dir(home.join("lib")).expect("a folder").flatten();
    let is_shared = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with("libpython3.");
    for entry in shared.filter(|entry| is_shared(&entry.file_name())) {
        copy(&entry.path(), &prefix.join("lib").join(entry.file_name()));
    }
    let program = prefix
        .join("bin")
        .join(of.program.file_name().expect("a name"));
    copy(&of.program, &program);
    program
}

/// Parts of a standard library that are large and that nothing here imports.
const LARGE: &[&str] = &[
    "__pycache__",
    "config-",
    "dist-packages",
    "idlelib",
    "site-packages",
    "test",
    "tkinter",
];

/// Puts an interpreter into a container's root folder, below `prefix` as the container sees it, with the libraries that it needs.
pub fn install(of: &Interpreter, root: &Path, prefix: &str) -> io::Result<()> {
    let home = of.program.parent().and_then(Path::parent);
    let home = home.ok_or(io::ErrorKind::NotFound)?;
    let to = root.join(prefix.trim_start_matches('/'));
    let library = format!("lib/python3.{}", of.minor);
    fs::create_dir_all(to.join("bin"))?;
    fs::create_dir_all(to.join(&library))?;
    let copy = |from: &Path, to: &Path| output(Command::new("cp").arg("-rL").arg(from).arg(to));
    copy(&of.program, &to.join("bin/python3"))?;
    for entry in fs::read_dir(home.join(&library))?.flatten() {
        let name = entry.file_name();
        let is_large = LARGE
            .iter()
            .any(|large| name.to_string_lossy().starts_with(large));
        if !is_large {
            copy(&entry.path(), &to.join(&library).join(name))?;
        }
    }
    let needed = output(Command::new("ldd").arg(&of.program))?;
    for path in needed
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
    {
        // An interpreter's own library comes with it; the dynamic linker finds it here without being told.
        let name = path.rsplit('/').next().unwrap_or_default();
        let inside = if name.starts_with("libpython") {
            format!("/usr/lib/{name}")
        } else {
            path.to_owned()
        };
        let inside = root.join(inside.trim_start_matches('/'));
        fs::create_dir_all(inside.parent().ok_or(io::ErrorKind::NotFound)?)?;
        copy(Path::new(path), &inside)?;
    }
    Ok(())
}

/// Runs a program in a cgroup of its own to its end and returns what it printed.
pub fn run_in(cgroup: &Cgroup, command: &mut Command) -> String {
    cgroup.enter(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .expect("the program starts");
    assert!(
        output.status.success(),
        "{command:?} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
