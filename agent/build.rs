//! Builds the kernel programs and leaves the object where `source` includes it from; compiles the shipped rules; makes code of the
//! protobuf files.
//!
//! The workspace pins a stable toolchain, and building `core` for the BPF target takes an unstable flag:
//! `RUSTC_BOOTSTRAP` lets that one build, and nothing else, use it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::exit;

use aya_build::{Package, Toolchain, build_ebpf};
use prost::Message as _;
use saker_rules::bundle::Bundle;
use saker_rules::compile::CompileOptions;
use saker_rules::loader::{LoadOptions, load};
use saker_rules::packs;
use saker_rules::ruleset::Profile;

/// Package and folder of the kernel programs, seen from this package.
const PACKAGE: &str = "saker-ebpf";
const FOLDER: &str = "../agent-ebpf";

/// The compiler's release, which the agent shows in its metrics.
fn tell_compiler() {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let asked = std::process::Command::new(rustc).arg("--version").output();
    let said = asked.map_or(String::new(), |asked| {
        String::from_utf8_lossy(&asked.stdout).into_owned()
    });
    // `rustc 1.95.0 (59807616e 2026-04-14)`
    let release = said.split_whitespace().nth(1).unwrap_or("unknown");
    println!("cargo:rustc-env=SAKER_RUSTC_VERSION={release}");
}

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    compile_shipped_rules();
    generate_messages();
    tell_compiler();
    println!("cargo:rerun-if-env-changed=PATH");
    add_tools_to_path();
    if !is_on_path("bpf-linker") {
        fail(
            "bpf-linker is not installed: run `cargo xtask setup`, or `cargo install bpf-linker@0.10.3 --locked`",
        );
    }
    let environment = [
        ("RUSTC_BOOTSTRAP", "1"),
        // The workspace's release profile is for the agent. The BPF target links bitcode, which is whole-program
        // optimisation already, and one unit makes the same object every time.
        ("CARGO_PROFILE_RELEASE_LTO", "off"),
        ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
        ("CARGO_PROFILE_RELEASE_DEBUG", "2"),
        // Less, and the programs cannot be linked: they are made of closures that must be inlined.
        ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3"),
        // Names of files in the object are without this machine's folders, so that the same sources elsewhere make the same agent.
        ("CARGO_UNSTABLE_TRIM_PATHS", "true"),
        ("CARGO_PROFILE_RELEASE_TRIM_PATHS", "all"),
        // aya-build shows every line that the build prints as a warning.
        ("CARGO_TERM_QUIET", "true"),
    ];
    for (name, value) in environment {
        // SAFETY: a build script runs as one thread until it starts others, which comes after this.
        unsafe { env::set_var(name, value) };
    }
    // Under rustup this names the toolchain that runs right now; aya-build asks rustup for it again.
    let toolchain = env::var("RUSTUP_TOOLCHAIN").unwrap_or_else(|_| "stable".to_owned());
    let package = Package {
        name: PACKAGE,
        root_dir: FOLDER,
        no_default_features: true,
        features: &["kernel"],
    };
    if let Err(error) = build_ebpf([package], Toolchain::Custom(&toolchain)) {
        fail(&format!(
            "the kernel programs do not build: {error:#} (is rust-src installed? `cargo xtask setup` sees to it)"
        ));
    }
}

/// The shipped rules become bundles here, one a profile, so that a starting agent compiles nothing.
fn compile_shipped_rules() {
    println!("cargo:rerun-if-changed=../rules/packs");
    let folder = env::var_os("OUT_DIR").unwrap_or_else(|| fail("cargo sets no OUT_DIR"));
    for profile in Profile::ALL {
        let options = LoadOptions {
            profile: Some(profile),
            ..LoadOptions::default()
        };
        let report = load(&packs::shipped(), &options);
        if report.has_errors() {
            fail(&format!(
                "the shipped rules are wrong:\n{}",
                report.render(false)
            ));
        }
        let bundle = Bundle::compile(&report.ruleset, &CompileOptions::default())
            .unwrap_or_else(|error| fail(&format!("the shipped rules do not compile: {error}")));
        let file = format!("shipped-{}.bundle", profile.name());
        if let Err(error) = bundle.write_to(Path::new(&folder).join(file)) {
            fail(&format!(
                "the bundle of shipped rules cannot be written: {error}"
            ));
        }
    }
}

/// The messages and services of `proto/`, by a protobuf compiler that is a crate: no protoc is needed. The descriptors are for the
/// reflection service.
fn generate_messages() {
    println!("cargo:rerun-if-changed=proto");
    let files = [
        "saker/v1/agent.proto",
        "falco/outputs.proto",
        "falco/schema.proto",
        "falco/version.proto",
    ];
    let descriptors = protox::compile(files, ["proto"])
        .unwrap_or_else(|error| fail(&format!("the protobuf files are wrong: {error}")));
    let folder = env::var_os("OUT_DIR").unwrap_or_else(|| fail("cargo sets no OUT_DIR"));
    let path = Path::new(&folder).join("descriptors.bin");
    if let Err(error) = std::fs::write(&path, descriptors.encode_to_vec()) {
        fail(&format!("{} cannot be written: {error}", path.display()));
    }
    if let Err(error) = tonic_prost_build::configure().compile_fds(descriptors) {
        fail(&format!(
            "no code could be made of the protobuf files: {error}"
        ));
    }
}

/// Programs that `cargo xtask setup` installed are found, whoever starts the build.
fn add_tools_to_path() {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let Some(home) = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))
    else {
        return;
    };
    let tools = home.join("saker-tools/bin");
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(tools).chain(env::split_paths(&path));
    if let Ok(path) = env::join_paths(folders) {
        // SAFETY: a build script runs as one thread until it starts others, which comes after this.
        unsafe { env::set_var("PATH", path) };
    }
}

fn is_on_path(program: &str) -> bool {
    env::var_os("PATH")
        .is_some_and(|path| env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

fn fail(reason: &str) -> ! {
    println!("cargo::error={reason}");
    exit(1);
}
