//! Debian packages of any suite, without touching the machine's own apt: a private configuration, signatures checked.
//!
//! The mirror is the one that this machine's sources name, the signatures are checked against Debian's keyring. Each suite
//! has a folder of its own, so that one whose Release file cannot be had is named and stands in nobody's way.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::process::{command, output, run};

/// What every suite that is asked for must be signed with.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A machine whose sources name a Debian mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Debian {
    /// This machine's release, in one word.
    pub codename: String,
    /// Where its packages come from.
    pub mirror: String,
}

impl Debian {
    /// Reads what this machine is and which mirror it uses; the error says what is missing.
    pub fn of_this_machine() -> Result<Self> {
        if !cfg!(target_arch = "x86_64") {
            bail!("guests are x86-64 alone");
        }
        let codename = fs::read_to_string("/etc/os-release")
            .ok()
            .and_then(|text| codename(&text))
            .context("not a Debian machine: /etc/os-release has no code name")?;
        if !Path::new(KEYRING).exists() {
            bail!("Debian's keyring is not at {KEYRING}");
        }
        let targets = output(command("apt-get").args([
            "indextargets",
            "--format",
            "$(REPO_URI) $(RELEASE) $(COMPONENT)",
            "Identifier: Packages",
        ]))?;
        let mirror = mirror(&targets, &codename)
            .with_context(|| format!("apt's sources have no line for {codename} main"))?;
        Ok(Self { codename, mirror })
    }
}

/// The code name in the text of `/etc/os-release`.
fn codename(os_release: &str) -> Option<String> {
    let line = |key: &str| {
        os_release
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .map(|value| value.trim_matches('"').to_owned())
    };
    (line("ID")? == "debian")
        .then(|| line("VERSION_CODENAME"))
        .flatten()
}

/// The address of `codename main` in apt's list of what it would fetch.
fn mirror(targets: &str, codename: &str) -> Option<String> {
    targets.lines().find_map(|line| {
        let [address, release, component] = line.split(' ').collect::<Vec<_>>()[..] else {
            return None;
        };
        (release == codename && component == "main").then(|| address.to_owned())
    })
}

/// Apt, seeing one set of suites and nothing of what is installed here.
pub struct Apt {
    folder: PathBuf,
    config: PathBuf,
    suites: String,
}

impl Apt {
    /// Fetches the indexes of these suites into `folder` and checks their signatures.
    pub fn update(debian: &Debian, suites: &[&str], folder: &Path) -> Result<Self> {
        for part in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let sources: String = suites
            .iter()
            .map(|suite| format!("deb [signed-by={KEYRING}] {} {suite} main\n", debian.mirror))
            .collect();
        fs::write(folder.join("sources.list"), sources)?;
        fs::write(folder.join("status"), "")?;
        let config = folder.join("apt.conf");
        fs::write(&config, configuration(folder))?;
        let apt = Self {
            folder: folder.to_owned(),
            config,
            suites: suites.join(" and "),
        };
        output(apt.get().args(["update", "-qq"]))
            .with_context(|| format!("the Release file of {} cannot be had", apt.suites))?;
        Ok(apt)
    }

    /// The names of all packages that begin like this.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let names = output(self.program("apt-cache").args(["pkgnames", prefix]))?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// What the packages of this name declare, newest first.
    pub fn show(&self, name: &str) -> Result<String> {
        output(self.program("apt-cache").args(["show", name]))
    }

    /// Fetches one package, without what it depends on, and returns its file.
    pub fn download(&self, name: &str) -> Result<PathBuf> {
        let archives = self.folder.join("archives");
        let uris = output(self.get().args(["download", "--print-uris", name]))?;
        output(
            self.get()
                .args(["download", "-qq", name])
                .current_dir(&archives),
        )
        .with_context(|| format!("{name} of {} cannot be fetched", self.suites))?;
        let files = file_names(&uris);
        let [file] = files.as_slice() else {
            bail!("apt names {} files for {name}", files.len());
        };
        Ok(archives.join(file))
    }

    /// Fetches packages with everything that they depend on, as for a machine on which nothing is installed.
    pub fn download_closure(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let install = |also: &str| {
            let mut install = self.get();
            install
                .args(["install", "-qq", "-y", "--no-install-recommends", also])
                .args(names);
            install
        };
        // Those that are there already are not named again, so this must come before anything is fetched.
        self.forget()?;
        let files = file_names(&output(&mut install("--print-uris"))?);
        output(&mut install("--download-only"))
            .with_context(|| format!("packages of {} cannot be fetched", self.suites))?;
        let archives = self.folder.join("archives");
        Ok(files.iter().map(|file| archives.join(file)).collect())
    }

    /// Installs a package on this machine, with this apt's view of what there is.
    pub fn install_here(&self, name: &str, release: &str) -> Result<()> {
        run(self
            .get()
            .args(["-o", "Dir::State::status=/var/lib/dpkg/status"])
            .args(["install", "-qq", "-y", "--no-install-recommends"])
            .args(["-t", release, name])
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(std::process::Stdio::null()))
    }

    /// Removes the package files; what was unpacked from them stays.
    pub fn forget(&self) -> Result<()> {
        output(self.get().arg("clean")).map(drop)
    }

    fn get(&self) -> Command {
        self.program("apt-get")
    }

    fn program(&self, name: &str) -> Command {
        let mut apt = command(name);
        apt.env("APT_CONFIG", &self.config).env("LC_ALL", "C");
        apt
    }
}

/// Settings that keep apt inside `folder`. They come after the machine's own, and override them.
fn configuration(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        r#"Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State::lists "{folder}/lists";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}";
Dir::Cache::archives "{folder}/archives";
Dir::Log "{folder}";
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
APT::Keep-Downloaded-Packages "true";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
"#
    )
}

/// The file names in what `--print-uris` writes: address, name, size and hash, a line each.
fn file_names(uris: &str) -> Vec<String> {
    uris.lines()
        .filter(|line| line.starts_with('\''))
        .filter_map(|line| line.split(' ').nth(1))
        .map(str::to_owned)
        .collect()
}

/// Unpacks a package into `root`, leaving links to folders (`bin`, `lib`) as they are, and runs none of its scripts.
pub fn unpack(package: &Path, root: &Path) -> Result<()> {
    let mut packed = command("dpkg-deb");
    packed.arg("--fsys-tarfile").arg(package);
    let mut packed = packed.stdout(std::process::Stdio::piped()).spawn()?;
    let tar = packed.stdout.take().context("no pipe")?;
    let unpacked = command("tar")
        .args([
            "-x",
            "--keep-directory-symlink",
            "--no-same-owner",
            "--warning=no-timestamp",
        ])
        .arg("-C")
        .arg(root)
        .stdin(tar)
        .status()?;
    if !packed.wait()?.success() || !unpacked.success() {
        bail!("cannot unpack {}", package.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_debian_has_a_code_name() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(codename(text).as_deref(), expected, "{text}");
        };
        check("ID=debian\nVERSION_CODENAME=bookworm\n", Some("bookworm"));
        check(
            "VERSION_CODENAME=\"trixie\"\nID=\"debian\"\n",
            Some("trixie"),
        );
        check("ID=debian\nVERSION_ID=12\n", None);
        check("ID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=jammy\n", None);
        check("", None);
    }

    #[test]
    fn the_mirror_is_that_of_the_release_itself() {
        let check = |targets: &str, expected: Option<&str>| {
            assert_eq!(
                mirror(targets, "bookworm").as_deref(),
                expected,
                "{targets}"
            );
        };
        check(
            "http://m/security/ bookworm-security main\nhttp://m/debian/ bookworm main\n",
            Some("http://m/debian/"),
        );
        check("http://m/ bookworm contrib\n", None);
        check("http://m/ bookworm-updates main\nnot a line\n", None);
        check("", None);
    }

    #[test]
    fn files_are_read_from_the_list_of_addresses() {
        let check = |uris: &str, expected: &[&str]| assert_eq!(file_names(uris), expected);
        check(
            "Reading package lists...\n'http://m/a%2bb.deb' a+b.deb 19 SHA256:00\n'http://m/c.deb' c.deb 1 MD5Sum:1\n",
            &["a+b.deb", "c.deb"],
        );
        check("nothing to do\n", &[]);
    }
}
