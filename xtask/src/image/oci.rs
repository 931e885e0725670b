//! The image format: an OCI layout (image-spec 1.1) with one image of one layer, and the same as an archive.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
};

use anyhow::{Context as _, Result};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::rootfs::header;

/// An image that was written.
pub struct Made {
    /// Of its manifest: `sha256:…`, by which it is pinned.
    pub digest: String,
    /// Bytes of its layer as it is stored and pulled.
    pub compressed: u64,
}

/// Writes the layout into a folder.
pub fn write(folder: &Path, name: &str, layer: &[u8], created: i64) -> Result<Made> {
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let blob = |content: &[u8]| -> Result<String> {
        let digest = hex(content);
        fs::write(blobs.join(&digest), content)?;
        Ok(format!("sha256:{digest}"))
    };
    let compressed = compress(layer)?;
    let layer_digest = blob(&compressed)?;
    let version = env!("CARGO_PKG_VERSION");
    let created = timestamp(created)?;
    let labels = json!({
        "org.opencontainers.image.title": "saker",
        "org.opencontainers.image.description": "Runtime security for GPU nodes that run machine learning",
        "org.opencontainers.image.version": version,
        "org.opencontainers.image.licenses": "Apache-2.0",
    });
    let config = json!({
        "created": created,
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "User": "0:0",
            "Entrypoint": ["/usr/bin/saker"],
            "Cmd": ["run"],
            "Env": ["PATH=/usr/bin", "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"],
            "WorkingDir": "/",
            "Labels": labels,
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hex(layer))]},
        "history": [{"created": created, "created_by": "cargo xtask image"}],
    });
    let config = config.to_string();
    let config_digest = blob(config.as_bytes())?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config_digest,
            "size": config.len(),
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": layer_digest,
            "size": compressed.len(),
        }],
        "annotations": labels,
    })
    .to_string();
    let digest = blob(manifest.as_bytes())?;
    let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest,
            "size": manifest.len(),
            "platform": {"architecture": "amd64", "os": "linux"},
            // The first is the standard's, the second containerd's whole name.
            "annotations": {
                "org.opencontainers.image.ref.name": tag,
                "io.containerd.image.name": name,
            },
        }],
    });
    fs::write(folder.join("index.json"), index.to_string())?;
    let version: Value = json!({"imageLayoutVersion": "1.0.0"});
    fs::write(folder.join("oci-layout"), version.to_string())?;
    // Docker's own list, which `docker load` of every version reads.
    let place = |digest: &str| format!("blobs/{}", digest.replace(':', "/"));
    let docker = json!([{
        "Config": place(&config_digest),
        "RepoTags": [name],
        "Layers": [place(&layer_digest)],
    }]);
    fs::write(folder.join("manifest.json"), docker.to_string())?;
    Ok(Made {
        digest,
        compressed: compressed.len() as u64,
    })
}

/// The layout as one file.
pub fn archive(layout: &Path, to: &Path) -> Result<()> {
    let mut archive = tar::Builder::new(File::create(to)?);
    let mut files = vec![
        "oci-layout".to_owned(),
        "index.json".into(),
        "manifest.json".into(),
    ];
    for blob in fs::read_dir(layout.join("blobs/sha256"))? {
        files.push(format!("blobs/sha256/{}", blob?.file_name().display()));
    }
    files.sort_unstable();
    for file in files {
        let content =
            fs::read(layout.join(&file)).with_context(|| format!("cannot read {file}"))?;
        let mut header = header(tar::EntryType::Regular, 0o644, content.len() as u64);
        archive.append_data(&mut header, file, content.as_slice())?;
    }
    archive.into_inner()?.flush()?;
    Ok(())
}

/// gzip without a time and without a name.
fn compress(content: &[u8]) -> Result<Vec<u8>> {
    let mut writer = GzBuilder::new()
        .mtime(0)
        .write(Vec::new(), Compression::new(6));
    writer.write_all(content)?;
    Ok(writer.finish()?)
}

fn hex(content: &[u8]) -> String {
    use std::fmt::Write as _;
    let digest = Sha256::digest(content);
    digest.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// RFC 3339, in UTC.
fn timestamp(seconds: i64) -> Result<String> {
    Ok(jiff::Timestamp::from_second(seconds)?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compression_says_nothing_of_when_and_where() {
        let packed = compress(b"text").expect("it is in memory");
        // Magic, deflate, no flags, no time.
        assert_eq!(packed[..8], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0]);
    }
}
