//! What guests run: folders of unpacked Debian packages in the cache, of this machine's release so that what is built here runs there.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::apt::{Apt, Debian, unpack};

/// A set of packages that are unpacked together.
#[derive(Debug)]
pub struct Userland {
    /// Its folder in the cache.
    pub name: &'static str,
    /// What it is made of; what these depend on comes too.
    pub packages: &'static [&'static str],
}

/// Enough for the sensor's tests: a shell, the usual programs, Python, and bpftool to compare offsets with.
pub const PLAIN: Userland = Userland {
    name: "plain",
    packages: &[
        "base-files",
        "bpftool",
        "busybox-static",
        "coreutils",
        "dash",
        "libgcc-s1",
        "mount",
        "python3",
        "util-linux",
    ],
};

/// That, with systemd as the first program, and containerd as a node of a cluster has it.
pub const WITH_SYSTEMD: Userland = Userland {
    name: "systemd",
    packages: &[
        "base-files",
        "busybox-static",
        "containerd",
        "coreutils",
        "dash",
        "libgcc-s1",
        "mount",
        "runc",
        "systemd",
        "systemd-sysv",
        "tar",
        "util-linux",
    ],
};

/// Folders that are links on a Debian whose `/usr` is merged.
const MERGED: &[&str] = &["bin", "sbin", "lib", "lib64"];

/// Folders that a kernel or an init expects and no package brings.
const EXPECTED: &[&str] = &[
    "dev", "etc", "mnt", "proc", "root", "run", "sys", "tmp", "var/lib",
];

impl Userland {
    /// Its folder, fetched and unpacked the first time or after its list of packages has changed.
    pub fn folder(&self, debian: &Debian, cache: &Path) -> Result<PathBuf> {
        let folder = cache.join("userland").join(self.name);
        let root = folder.join("root");
        let made_of = format!("{} {}", debian.codename, self.packages.join(" "));
        let stamp = folder.join("made-of");
        if fs::read_to_string(&stamp).is_ok_and(|stamp| stamp == made_of) {
            return Ok(root);
        }
        let fetch = || -> Result<()> {
            println!(
                "vm: fetching {} and what they need",
                self.packages.join(", ")
            );
            let _ = fs::remove_dir_all(&folder);
            skeleton(&root)?;
            let apt = Apt::update(debian, &[&debian.codename], &folder.join("apt"))?;
            for package in apt.download_closure(self.packages)? {
                unpack(&package, &root)?;
            }
            if !root.join("bin/sh").exists() {
                symlink("dash", root.join("bin/sh"))?;
            }
            fs::remove_dir_all(folder.join("apt"))?;
            // Last: a fetch that was cut short is begun again.
            fs::write(&stamp, &made_of)?;
            Ok(())
        };
        fetch().with_context(|| format!("the guests' programs ({})", self.name))?;
        Ok(root)
    }
}

fn skeleton(root: &Path) -> Result<()> {
    for name in MERGED {
        fs::create_dir_all(root.join("usr").join(name))?;
        symlink(format!("usr/{name}"), root.join(name))?;
    }
    for name in EXPECTED {
        fs::create_dir_all(root.join(name))?;
    }
    // A container or a guest with this file missing has no names for anybody.
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\n")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skeleton_has_links_where_usr_is_merged() {
        let folder = tempfile::tempdir().expect("a folder");
        skeleton(folder.path()).expect("made");
        fs::write(folder.path().join("bin/x"), "x").expect("through the link");
        assert_eq!(
            fs::read(folder.path().join("usr/bin/x")).expect("there"),
            b"x"
        );
        for name in EXPECTED {
            assert!(folder.path().join(name).is_dir(), "{name}");
        }
        assert!(skeleton(folder.path()).is_err(), "made twice");
    }
}
