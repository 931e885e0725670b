//! `cargo xtask image`: the container image, without a registry and without a daemon.
//!
//! The image holds the agent, the shared libraries that it and NVIDIA's management library need, authorities for TLS, and nothing else: no
//! shell, no package manager. A static binary would be smaller and could not load NVIDIA's library, which wants glibc.
//!
//! Equal inputs make equal bytes: times, owners, orders and compression are fixed, paths of this machine are left out of the binary. The
//! libraries are this machine's, so machines with different ones make different images.

mod oci;
mod rootfs;
mod sbom;

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    process::{cargo, command, output, root, run, target_dir},
    setup,
};

/// Name and tag where none is given.
const NAME: &str = concat!("localhost/saker:", env!("CARGO_PKG_VERSION"));

/// Options of `cargo xtask image`.
#[derive(clap::Args)]
pub struct Args {
    /// Where to: a folder that is made anew, with the image as OCI layout (`layout`), as archive for `ctr image import` and `docker
    /// load` (`saker.tar`), its files alone (`rootfs.tar`), and its bill of materials (`sbom.cdx.json`). Default: `target/image-out`.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Name and tag in the archive.
    #[arg(long, default_value = NAME)]
    name: String,
    /// A `saker` that is built already, in place of one built for the image.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Build everything a second time, from nothing, and fail where the digests differ.
    #[arg(long, conflicts_with = "binary")]
    twice: bool,
}

/// Packs a binary, or one that it builds, and returns it.
pub fn packed(binary: Option<PathBuf>) -> Result<PathBuf> {
    let args = Args {
        out: None,
        name: NAME.to_owned(),
        binary: binary.clone(),
        twice: false,
    };
    image(&args)?;
    match binary {
        Some(binary) => Ok(binary),
        None => Ok(target_dir()?.join("image/saker")),
    }
}

/// Builds the binary and the image.
pub fn image(args: &Args) -> Result<()> {
    let out = match &args.out {
        Some(out) => std::path::absolute(out)?,
        None => target_dir()?.join("image-out"),
    };
    let digest = once(args, &out)?;
    if args.twice {
        run(cargo().args(["clean", "--profile", "image"]))?;
        let again = once(args, &out)?;
        if again != digest {
            bail!("built twice, two images: {digest} and {again}");
        }
        println!("image: built twice, the same digest");
    }
    Ok(())
}

/// One build; returns the digest of the image's manifest.
fn once(args: &Args, out: &Path) -> Result<String> {
    let binary = match &args.binary {
        Some(binary) => std::path::absolute(binary)?,
        None => build()?,
    };
    if out.exists() {
        // Only what a run of this command made is removed.
        if !out.join("layout/oci-layout").exists() && fs::read_dir(out)?.next().is_some() {
            bail!("{} is not empty and holds no image", out.display());
        }
        fs::remove_dir_all(out)?;
    }
    fs::create_dir_all(out)?;
    let libraries = rootfs::libraries(&binary)?;
    let bill = sbom::bill(&libraries)?;
    fs::write(out.join("sbom.cdx.json"), &bill)?;
    let layer = rootfs::layer(&binary, &libraries, &bill)?;
    let made = oci::write(&out.join("layout"), &args.name, &layer, created()?)?;
    oci::archive(&out.join("layout"), &out.join("saker.tar"))?;
    fs::write(out.join("rootfs.tar"), &layer)?;
    println!(
        "image: {} {}\nimage: {:.1} MB compressed, {:.1} MB unpacked, of which saker {:.1} MB\nimage: {}",
        args.name,
        made.digest,
        megabytes(made.compressed),
        megabytes(layer.len() as u64),
        megabytes(fs::metadata(&binary)?.len()),
        out.display()
    );
    Ok(made.digest)
}

#[allow(clippy::cast_precision_loss)] // Shown with one decimal.
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// The agent without symbols and without paths of this machine.
fn build() -> Result<PathBuf> {
    setup::setup(setup::Need::Build)?;
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))
        .context("neither CARGO_HOME nor HOME is set")?;
    let sysroot = output(command("rustc").args(["--print", "sysroot"]))?;
    let target = target_dir()?;
    // Of two that fit the last counts: the target folder may lie in the repository, the toolchain in cargo's home.
    let places = [
        (home.as_path(), "/cargo"),
        (root(), "/saker"),
        (target.as_path(), "/saker/target"),
        (Path::new(&sysroot), "/rust"),
    ];
    let flags = places.map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()));
    run(cargo()
        .args(["build", "--package", "saker", "--bin", "saker"])
        .args(["--profile", "image", "--locked"])
        .env("RUSTFLAGS", flags.join(" ")))?;
    let binary = target.join("image/saker");
    let content = fs::read(&binary)?;
    for (place, _) in places {
        let place = format!("{}/", place.display());
        if content
            .windows(place.len())
            .any(|window| window == place.as_bytes())
        {
            bail!(
                "{place} is in the binary, so that the same sources elsewhere make another image"
            );
        }
    }
    Ok(binary)
}

/// Seconds since 1970 that stand for "now": of the last commit, or what SOURCE_DATE_EPOCH says.
fn created() -> Result<i64> {
    let text = match env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text,
        Err(_) => output(command("git").args(["log", "-1", "--format=%ct"]))?,
    };
    text.trim()
        .parse()
        .with_context(|| format!("{text:?} is no number of seconds since 1970"))
}
