//! Container images without a registry: busybox and a configuration in an archive that `ctr image import` and `docker load`
//! both take.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Debian's busybox-static.
const BUSYBOX: &str = "/bin/busybox";

/// Programs that the images have.
const APPLETS: &[&str] = &[
    "sh", "sleep", "cat", "true", "head", "id", "dd", "echo", "mkdir", "usleep",
];

/// Writes an archive with one image of this name (`repository:tag`) into a folder. Images differ by their name, so that
/// each has an id and a digest of its own.
pub fn archive(folder: &Path, name: &str, entrypoint: &[&str]) -> io::Result<PathBuf> {
    archive_with(folder, name, entrypoint, &|_| Ok(()))
}

/// The same with more files, which `fill` puts below the image's root.
pub fn archive_with(
    folder: &Path,
    name: &str,
    entrypoint: &[&str],
    fill: &dyn Fn(&Path) -> io::Result<()>,
) -> io::Result<PathBuf> {
    let work = tempfile::tempdir_in(folder)?;
    let root = work.path().join("root");
    for dir in ["bin", "etc", "dev", "proc", "sys", "tmp"] {
        fs::create_dir_all(root.join(dir))?;
    }
    fs::copy(BUSYBOX, root.join("bin/busybox"))?;
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0::/:/bin/sh\nml:x:1000:1000::/:/bin/sh\n",
    )?;
    fs::write(root.join("etc/group"), "root:x:0:\nml:x:1000:\n")?;
    fill(&root)?;
    let layer = work.path().join("layer.tar");
    // The same bytes each time: images then share the layer.
    tar(
        &["--sort=name", "--mtime=@0", "--owner=0", "--group=0"],
        &root,
        &[".".as_ref()],
        &layer,
    )?;
    let sum = output(Command::new("sha256sum").arg(&layer))?;
    let digest = sum.split(' ').next().unwrap_or_default();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Entrypoint": entrypoint, "Env": ["PATH=/bin"], "Labels": {"name": name}},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        "history": [{"created_by": name}],
    });
    let manifest =
        serde_json::json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]);
    fs::write(work.path().join("config.json"), config.to_string())?;
    fs::write(work.path().join("manifest.json"), manifest.to_string())?;
    let archive = folder.join(format!("{}.tar", name.replace(['/', ':'], "_")));
    let parts = ["manifest.json", "config.json", "layer.tar"].map(Path::new);
    tar(&[], work.path(), &parts, &archive)?;
    Ok(archive)
}

fn tar(options: &[&str], folder: &Path, parts: &[&Path], archive: &Path) -> io::Result<()> {
    let mut command = Command::new("tar");
    command
        .args(options)
        .arg("-C")
        .arg(folder)
        .arg("-cf")
        .arg(archive)
        .args(parts);
    output(&mut command).map(drop)
}

/// Runs a program to its end; an error holds what it said.
pub fn output(command: &mut Command) -> io::Result<String> {
    let done = command.stdin(Stdio::null()).output()?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        return Err(io::Error::other(format!(
            "{command:?} ended with {}: {said}",
            done.status
        )));
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
