//! What is in the image: its one layer, as a tar archive whose bytes depend on the contents alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use base64::{Engine as _, prelude::BASE64_STANDARD};

use crate::process::{command, output};

/// A shared library of the image.
pub struct Library {
    /// By this name programs ask for it.
    pub name: String,
    /// Its bytes.
    pub content: Vec<u8>,
    /// Where it is on this machine.
    pub source: PathBuf,
}

/// Where libraries lie in the image, and the loader, which is asked for by its whole path.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";

/// What NVIDIA's management library asks for beside what the agent does. Since glibc 2.34 all but the first are empty shells.
const FOR_NVML: &[&str] = &["libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1"];

/// Folders that are mounted over or written to: a read-only root cannot get them later.
const FOLDERS: &[&str] = &[
    "dev",
    "proc",
    "sys",
    "run/saker",
    "var/lib/saker",
    "etc/saker/config",
    "etc/saker/rules",
    "etc/saker/secrets",
    "etc/saker/tls",
    "host/sys/fs/cgroup",
    "host/run/containerd",
    "host/run/crio",
];

/// The libraries that a program needs, and those of its plug-in, in the order of their names.
pub fn libraries(binary: &Path) -> Result<Vec<Library>> {
    let said = output(command("ldd").arg(binary))
        .with_context(|| format!("cannot tell what {} is linked with", binary.display()))?;
    let mut found: BTreeMap<String, PathBuf> = BTreeMap::new();
    for line in said.lines().map(str::trim) {
        // `name => path (address)`, or the loader's path alone; the kernel's own page has none.
        let path = match line.split_once(" => ") {
            Some((name, "not found")) => bail!("{name} is not on this machine"),
            Some((_, rest)) => rest,
            None => line,
        };
        let path = path.split(" (").next().unwrap_or_default();
        if path.starts_with('/') {
            let path = PathBuf::from(path);
            let name = path.file_name().context("a library has a name")?;
            found.insert(name.to_string_lossy().into_owned(), path);
        }
    }
    let folder = found
        .get("libc.so.6")
        .and_then(|path| path.parent())
        .context("the agent must be linked with glibc: NVIDIA's library is")?
        .to_owned();
    for name in FOR_NVML {
        let path = folder.join(name);
        if path.exists() {
            found.insert((*name).to_owned(), path);
        }
    }
    let mut libraries = Vec::new();
    for (name, source) in found {
        libraries.push(Library {
            name,
            content: fs::read(&source)
                .with_context(|| format!("cannot read {}", source.display()))?,
            source,
        });
    }
    Ok(libraries)
}

/// The layer, not compressed.
pub fn layer(binary: &Path, libraries: &[Library], bill: &[u8]) -> Result<Vec<u8>> {
    let mut agent = Vec::new();
    fs::File::open(binary)
        .with_context(|| format!("cannot read {}", binary.display()))?
        .read_to_end(&mut agent)?;
    // By path, so that the order is one and the same.
    let mut files: BTreeMap<String, (u32, Vec<u8>)> = BTreeMap::new();
    files.insert("usr/bin/saker".into(), (0o755, agent));
    for library in libraries {
        let path = format!("{LIBRARIES}/{}", library.name);
        files.insert(path, (0o755, library.content.clone()));
    }
    let text = |text: &str| (0o644, text.as_bytes().to_vec());
    files.insert(
        "etc/passwd".into(),
        text("root:x:0:0:root:/:/nonexistent\nnobody:x:65534:65534:nobody:/:/nonexistent\n"),
    );
    files.insert("etc/group".into(), text("root:x:0:\nnogroup:x:65534:\n"));
    files.insert("etc/nsswitch.conf".into(), text("hosts: files dns\n"));
    files.insert(
        "etc/ssl/certs/ca-certificates.crt".into(),
        text(&authorities()),
    );
    files.insert(
        "usr/share/saker/sbom.cdx.json".into(),
        (0o644, bill.to_vec()),
    );

    let loader = LOADER.rsplit('/').next().context("a path has an end")?;
    let loader = format!("../lib/x86_64-linux-gnu/{loader}");
    let links = [
        ("bin", "usr/bin"),
        ("lib", "usr/lib"),
        ("lib64", "usr/lib64"),
        ("usr/lib64/ld-linux-x86-64.so.2", loader.as_str()),
    ];

    let mut folders: BTreeSet<String> = BTreeSet::from(["tmp".to_owned()]);
    let paths = files.keys().map(String::as_str);
    let parents = paths.chain(links.iter().map(|(path, _)| *path));
    for path in parents.filter_map(|path| path.rsplit_once('/')) {
        add_with_parents(&mut folders, path.0);
    }
    for folder in FOLDERS {
        add_with_parents(&mut folders, folder);
    }

    let mut archive = tar::Builder::new(Vec::new());
    for folder in &folders {
        let mode = if folder == "tmp" { 0o1777 } else { 0o755 };
        let mut header = header(tar::EntryType::Directory, mode, 0);
        archive.append_data(&mut header, format!("{folder}/"), std::io::empty())?;
    }
    for (path, (mode, content)) in &files {
        let mut header = header(tar::EntryType::Regular, *mode, content.len() as u64);
        archive.append_data(&mut header, path, content.as_slice())?;
    }
    for (path, to) in links {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        archive.append_link(&mut header, path, to)?;
    }
    Ok(archive.into_inner()?)
}

fn add_with_parents(folders: &mut BTreeSet<String>, folder: &str) {
    for (at, _) in folder.match_indices('/') {
        folders.insert(folder[..at].to_owned());
    }
    folders.insert(folder.to_owned());
}

/// An entry of root's, from 1970.
pub fn header(kind: tar::EntryType, mode: u32, bytes: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(bytes);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// Mozilla's list, as the crate has it that Cargo.lock pins: the machine's own may hold authorities of its owner.
fn authorities() -> String {
    let mut text = String::new();
    for certificate in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = BASE64_STANDARD.encode(certificate);
        for line in encoded.as_bytes().chunks(64) {
            text.extend(line.iter().copied().map(char::from));
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}
