//! Installs what the build and the tests need, says so, and does nothing twice.
//!
//! The toolchain itself is rustup's business (`rust-toolchain.toml`). A tool that is already on PATH in the
//! pinned version is used; otherwise it is installed under cargo's home in a folder of its own, so that another
//! version that the user keeps for other work stays as it is.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::process::{self, cargo, command, is_root, output, run};

/// The release that links with the pinned rustc's own LLVM.
const BPF_LINKER: &str = "0.10.3";

/// Debian packages that tests talk to. Each: package, the program that shows it is there, what needs it.
const TEST_PACKAGES: &[(&str, &str, &str)] = &[
    (
        "bpftool",
        "/usr/sbin/bpftool",
        "the test that compares struct offsets",
    ),
    (
        "python3",
        "/usr/bin/python3",
        "tests with Debian's own Python",
    ),
    (
        "curl",
        "/usr/bin/curl",
        "tests of the metrics endpoint and of download rules",
    ),
    (
        "containerd",
        "/usr/bin/containerd",
        "tests of container and pod names",
    ),
    (
        "prometheus",
        "/usr/bin/promtool",
        "the test of alerts over metrics",
    ),
    ("runc", "/usr/sbin/runc", "tests of container and pod names"),
    (
        "docker.io",
        "/usr/sbin/dockerd",
        "the test of container names from Docker",
    ),
    (
        "nats-server",
        "/usr/sbin/nats-server",
        "tests of delivery to NATS JetStream",
    ),
    (
        "rsyslog",
        "/usr/sbin/rsyslogd",
        "tests of delivery to syslog",
    ),
    (
        "rsyslog-gnutls",
        "/usr/lib/x86_64-linux-gnu/rsyslog/lmnsd_gtls.so",
        "tests of delivery to syslog over TLS",
    ),
    (
        "prometheus",
        "/usr/bin/prometheus",
        "the test that Prometheus reads the metrics, and fires a shipped alert",
    ),
    (
        "openssl",
        "/usr/bin/openssl",
        "tests that need certificates",
    ),
    (
        "busybox-static",
        "/bin/busybox",
        "tests that need a container image",
    ),
    (
        "npm",
        "/usr/bin/npm",
        "the test of custom resources in the manifests",
    ),
];

/// Debian packages that only benchmarks need.
const BENCH_PACKAGES: &[(&str, &str, &str)] = &[
    (
        "bpftrace",
        "/usr/bin/bpftrace",
        "bpftrace as a peer in `cargo xtask bench kernel`",
    ),
    (
        "auditd",
        "/sbin/auditctl",
        "auditd as a peer in `cargo xtask bench kernel`",
    ),
    (
        "stress-ng",
        "/usr/bin/stress-ng",
        "stress-ng's part in `cargo xtask bench stress`",
    ),
];

/// How much to install.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// What `saker` needs to be built.
    Build,
    /// That, and what the tests talk to.
    Tests,
}

/// Installs what is missing.
pub fn setup(need: Need) -> Result<()> {
    rust_src()?;
    bpf_linker()?;
    if need == Need::Tests {
        debian_packages()?;
        python_libraries()?;
        resource_types()?;
    }
    Ok(())
}

/// Where pinned tools go that are not on PATH in the right version.
pub fn tools_dir() -> PathBuf {
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    home.unwrap_or_else(|| process::root().join("target"))
        .join("saker-tools")
}

/// The kernel programs' target has no prebuilt `core`: it is built from source.
fn rust_src() -> Result<()> {
    let sysroot = output(command("rustc").args(["--print", "sysroot"]))?;
    if Path::new(&sysroot)
        .join("lib/rustlib/src/rust/library/core")
        .is_dir()
    {
        return Ok(());
    }
    say("the Rust component rust-src (the kernel programs' core library is built from it)");
    run(command("rustup").args(["component", "add", "rust-src"]))
        .context("rust-src is needed to build the kernel programs, and rustup could not add it")
}

fn bpf_linker() -> Result<()> {
    let found = output(command("bpf-linker").arg("--version")).unwrap_or_default();
    if found.split_whitespace().nth(1) == Some(BPF_LINKER) {
        return Ok(());
    }
    say(&format!(
        "bpf-linker {BPF_LINKER} into {} (a minute or two)",
        tools_dir().display()
    ));
    run(cargo()
        .args([
            "install",
            "--locked",
            "--force",
            "--version",
            BPF_LINKER,
            "--root",
        ])
        .arg(tools_dir())
        .arg("bpf-linker"))
    .context("bpf-linker is needed to link the kernel programs")
}

/// Installs a package that a benchmark needs; `false`, after a line that says why, where it is not to be had.
pub fn bench_package(name: &str) -> bool {
    let rows: Vec<_> = BENCH_PACKAGES
        .iter()
        .filter(|(package, ..)| *package == name)
        .copied()
        .collect();
    if let Err(why) = install(&rows) {
        println!("bench: {name} cannot be installed: {why:#}");
    }
    rows.iter()
        .any(|(_, program, _)| Path::new(program).exists())
}

fn debian_packages() -> Result<()> {
    install(TEST_PACKAGES)
}

fn install(packages: &[(&str, &str, &str)]) -> Result<()> {
    let missing: Vec<_> = packages
        .iter()
        .filter(|(_, program, _)| !Path::new(program).exists())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root() || !has_apt() {
        let why = if is_root() {
            "this system has no apt-get"
        } else {
            "not root"
        };
        for (package, _, user) in missing {
            println!("setup: not installing {package} ({why}); skipped without it: {user}");
        }
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|(package, ..)| *package).collect();
    say(&format!("Debian packages: {}", names.join(", ")));
    let apt = |args: &[&str]| {
        let status = command("apt-get")
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(Stdio::null())
            .status()
            .context("cannot start apt-get")?;
        if status.success() {
            Ok(())
        } else {
            bail!("apt-get {} ended with {status}", args.join(" "))
        }
    };
    apt(&["update", "-q"])?;
    apt(&[&["install", "-qy", "--no-install-recommends"], &names[..]].concat())
}

/// Where [`python_libraries`] puts them.
pub fn python_folder() -> Result<PathBuf> {
    Ok(process::cache_dir()?.join("python-libraries"))
}

/// Virtual environments for tests: with the libraries that models are saved with, with those of gRPC, and with the linter of protos. The first are large, so they lie
/// in the user's cache, and what is there in the wanted versions stays; without them those tests skip themselves.
fn python_libraries() -> Result<()> {
    let models = "tests with models of real libraries";
    libraries(
        &python_folder()?,
        "tests/python/requirements.txt",
        &[],
        models,
    )?;
    let grpc = process::cache_dir()?.join("grpc-libraries");
    let clients = "tests with gRPC clients in Python";
    libraries(&grpc, "tests/python/grpc/requirements.txt", &[], clients)?;
    let protos = process::cache_dir()?.join("proto-libraries");
    let style = "the test of the protos' style";
    libraries(&protos, "tests/python/protos/requirements.txt", &[], style)?;
    let manifests = process::cache_dir()?.join("manifest-libraries");
    let checked = "tests of what is in deploy/";
    libraries(
        &manifests,
        "tests/python/deploy/requirements.txt",
        &[],
        checked,
    )?;
    // Its Python half wants a newer Python than Debian's and is not used: the tests call the library itself.
    let helm = process::cache_dir()?.join("helm-library");
    let any_python = ["--ignore-requires-python", "--no-deps"];
    libraries(&helm, "tests/python/deploy/helm.txt", &any_python, checked)
}

/// Types of custom resources and the compiler that checks manifests against them, in the user's cache like the libraries of Python.
fn resource_types() -> Result<()> {
    let folder = process::cache_dir()?.join("resource-types");
    let user = "the test of custom resources in the manifests";
    installed(
        &folder,
        "tests/python/deploy/package.json",
        user,
        &|wanted| {
            fs::create_dir_all(&folder)?;
            fs::copy(wanted, folder.join("package.json"))?;
            let mut npm = command("npm");
            npm.args([
                "install",
                "--silent",
                "--ignore-scripts",
                "--no-package-lock",
                "--prefix",
            ]);
            run(npm.arg(&folder))
        },
    )
}

fn libraries(folder: &Path, requirements: &str, options: &[&str], user: &str) -> Result<()> {
    installed(folder, requirements, user, &|wanted| {
        run(command("python3")
            .args(["-m", "venv", "--clear"])
            .arg(folder))?;
        run(command(&folder.join("bin/python3").to_string_lossy())
            .args(["-m", "pip", "install", "--quiet"])
            .args(options)
            .arg("--requirement")
            .arg(wanted))
    })
}

/// Sees to it that a folder holds what a file of this repository lists, by `make`, which gets that file.
fn installed(
    folder: &Path,
    list: &str,
    user: &str,
    make: &dyn Fn(&Path) -> Result<()>,
) -> Result<()> {
    let wanted = process::root().join(list);
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent)?;
    }
    // Two checkouts share it.
    let lock = fs::File::create(folder.with_extension("lock"))?;
    lock.lock()?;
    let stamp = folder.join("installed");
    let text = fs::read_to_string(&wanted)?;
    if fs::read_to_string(&stamp).is_ok_and(|found| found == text) {
        return Ok(());
    }
    say(&format!(
        "what {list} lists into {} (some minutes)",
        folder.display()
    ));
    match make(&wanted) {
        Ok(()) => fs::write(&stamp, text)?,
        Err(why) => println!(
            "setup: not installed: what {list} lists ({why:#}); skipped without it: {user}"
        ),
    }
    Ok(())
}

fn has_apt() -> bool {
    Command::new("apt-get")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

fn say(what: &str) {
    println!("setup: installing {what}");
}
