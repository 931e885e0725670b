//! The kernels of the matrix: where Debian has them, and their images in the cache.
//!
//! A guest needs no modules: what the sensor asks of a kernel is built into Debian's cloud flavour.

use std::{
    cmp::Ordering,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::apt::{Apt, Debian, unpack};

/// A kernel that the sensor must work on.
#[derive(Debug)]
pub struct Kernel {
    /// Its series.
    pub series: &'static str,
    /// The Debian suite that has it.
    pub suite: &'static str,
}

/// The kernel of Debian 11, and the oldest that Saker works on.
pub const LINUX_5_10: Kernel = Kernel {
    series: "5.10",
    suite: "bullseye",
};

/// The kernel of Debian 12.
pub const LINUX_6_1: Kernel = Kernel {
    series: "6.1",
    suite: "bookworm",
};

/// The kernel of Debian 13.
pub const LINUX_6_12: Kernel = Kernel {
    series: "6.12",
    suite: "bookworm-backports",
};

/// The kernel of nearly today.
pub const LINUX_7_2: Kernel = Kernel {
    series: "7.2",
    suite: "trixie-backports",
};

impl Kernel {
    /// Its image from the cache, fetched and unpacked the first time.
    pub fn image(&self, debian: &Debian, cache: &Path) -> Result<PathBuf> {
        let folder = cache.join("kernels").join(self.series);
        let image = folder.join("vmlinuz");
        if image.exists() {
            return Ok(image);
        }
        let fetch = || -> Result<()> {
            let apt = Apt::update(debian, &[self.suite], &folder.join("apt"))?;
            let prefix = format!("linux-image-{}.", self.series);
            let name = newest(&apt.names(&prefix)?, &prefix)
                .with_context(|| format!("{} has no cloud kernel {}", self.suite, self.series))?;
            println!("vm: fetching {name} from {}", self.suite);
            let scratch = folder.join("unpacked");
            let mut wanted = Some(name.clone());
            while let Some(package) = wanted.take() {
                let _ = fs::remove_dir_all(&scratch);
                fs::create_dir_all(&scratch)?;
                unpack(&apt.download(&package)?, &scratch)?;
                if let Some(found) = find_image(&scratch)? {
                    fs::rename(found, &image)?;
                } else if package == name {
                    // Since 6.17 the image is in a package of its own.
                    wanted = binary_package(&apt.show(&name)?);
                }
            }
            if !image.exists() {
                bail!("{name} has no image");
            }
            fs::write(folder.join("package"), &name)?;
            fs::remove_dir_all(&scratch)?;
            // The indexes and the packages are many times larger than the image.
            fs::remove_dir_all(folder.join("apt"))?;
            Ok(())
        };
        fetch().with_context(|| format!("kernel {} of {}", self.series, self.suite))?;
        Ok(image)
    }
}

/// The newest cloud kernel among package names that begin with `prefix`.
fn newest(names: &[String], prefix: &str) -> Option<String> {
    names
        .iter()
        .filter(|name| name.starts_with(prefix) && name.ends_with("-cloud-amd64"))
        .max_by(|a, b| by_version(a, b))
        .cloned()
}

/// Compares names as people read them: runs of digits as numbers, the rest as text.
fn by_version(a: &str, b: &str) -> Ordering {
    fn parts(name: &str) -> Vec<(&str, Option<u64>)> {
        name.as_bytes()
            .chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit())
            .filter_map(|chunk| std::str::from_utf8(chunk).ok())
            .map(|part| (part, part.parse().ok()))
            .collect()
    }
    let (a, b) = (parts(a), parts(b));
    for ((a, a_number), (b, b_number)) in a.iter().zip(&b) {
        let order = match (a_number, b_number) {
            (Some(a), Some(b)) => a.cmp(b),
            _ => a.cmp(b),
        };
        if order.is_ne() {
            return order;
        }
    }
    a.len().cmp(&b.len())
}

/// The package with the image itself, from what the image package depends on.
fn binary_package(shown: &str) -> Option<String> {
    shown
        .lines()
        .find_map(|line| line.strip_prefix("Depends: "))?
        .split(", ")
        .filter_map(|dependency| dependency.split(' ').next())
        .find(|name| name.starts_with("linux-binary-"))
        .map(str::to_owned)
}

fn find_image(folder: &Path) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let found = if entry.file_type()?.is_dir() {
            find_image(&entry.path())?
        } else if entry.file_name().to_string_lossy().starts_with("vmlinuz") {
            Some(entry.path())
        } else {
            None
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_cloud_kernel_is_chosen() {
        let check = |names: &[&str], expected: Option<&str>| {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(newest(&names, "linux-image-6.1.").as_deref(), expected);
        };
        check(
            &[
                "linux-image-6.1.0-9-cloud-amd64",
                "linux-image-6.1.0-47-cloud-amd64",
                "linux-image-6.1.0-50-amd64",
                "linux-image-6.1.0-51-cloud-amd64-dbg",
                "linux-image-6.1.0-51-cloud-amd64-unsigned",
                "linux-image-6.12.95+deb12-cloud-amd64",
            ],
            Some("linux-image-6.1.0-47-cloud-amd64"),
        );
        check(&["linux-image-6.1.0-50-amd64"], None);
        check(&[], None);
    }

    #[test]
    fn versions_are_compared_by_their_numbers() {
        let check = |a: &str, b: &str, expected| assert_eq!(by_version(a, b), expected, "{a} {b}");
        check("6.12.9+deb12", "6.12.90+deb12", Ordering::Less);
        check(
            "x-6.12.90+deb12.1-cloud",
            "x-6.12.90+deb12-cloud",
            Ordering::Greater,
        );
        check("7.2.12", "7.2.12", Ordering::Equal);
        check("", "1", Ordering::Less);
        check("99999999999999999999999", "1", Ordering::Greater);
    }

    #[test]
    fn the_image_may_be_in_another_package() {
        let check = |shown: &str, expected: Option<&str>| {
            assert_eq!(binary_package(shown).as_deref(), expected);
        };
        check(
            "Package: a\nDepends: dracut | b (>= 1), linux-binary-7.2 (= 7.2-1), c\n\nPackage: a\n",
            Some("linux-binary-7.2"),
        );
        check("Package: a\nDepends: b\n", None);
        check("Package: a\n", None);
    }
}
