//! The container image: the same bytes each time, well-formed, and with what it is made of.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use saker_tests::{image::output, program};
use serde_json::Value;

/// Packs the tests' own binary; returns the digest that was said.
fn pack(out: &Path) -> String {
    let mut pack = Command::new(program("xtask"));
    pack.args(["image", "--name", "localhost/saker:test", "--binary"])
        .arg(program("saker"))
        .arg("--out")
        .arg(out)
        .env("SOURCE_DATE_EPOCH", "1767225600");
    let said = output(&mut pack).expect("the image is made");
    let line = said.lines().find(|line| line.contains("sha256:"));
    let line = line.expect("the digest is said");
    line.rsplit(' ').next().expect("it is last").to_owned()
}

fn json(path: &Path) -> Value {
    let text = fs::read_to_string(path).expect("it is there");
    serde_json::from_str(&text).expect("JSON")
}

fn blob(layout: &Path, descriptor: &Value) -> PathBuf {
    let digest = descriptor["digest"].as_str().expect("text");
    let path = layout.join("blobs").join(digest.replace(':', "/"));
    // Every blob is what its name says, and as long as whoever refers to it says.
    let sum = output(Command::new("sha256sum").arg(&path)).expect("it is there");
    assert!(digest.ends_with(sum.split(' ').next().expect("a sum")));
    let bytes = fs::metadata(&path).expect("it is there").len();
    assert_eq!(descriptor["size"].as_u64(), Some(bytes));
    path
}

#[test]
fn the_same_inputs_make_the_same_image() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let places = ["first", "second"].map(|name| folder.path().join(name));
    let [first, second] = places.each_ref().map(|place| pack(place));
    assert_eq!(first, second);
    for file in [
        "saker.tar",
        "rootfs.tar",
        "sbom.cdx.json",
        "layout/index.json",
    ] {
        let [one, other] = places.each_ref().map(|place| fs::read(place.join(file)));
        let (one, other) = (one.expect("it is there"), other.expect("it is there"));
        assert!(one == other, "{file} differs");
    }

    let layout = places[0].join("layout");
    assert_eq!(
        json(&layout.join("oci-layout"))["imageLayoutVersion"],
        "1.0.0"
    );
    let index = json(&layout.join("index.json"));
    let manifests = index["manifests"].as_array().expect("a list");
    assert_eq!(manifests.len(), 1);
    assert_eq!(manifests[0]["digest"], first.as_str());
    let manifest = json(&blob(&layout, &manifests[0]));
    let config = json(&blob(&layout, &manifest["config"]));
    assert_eq!(config["created"], "2026-01-01T00:00:00Z");
    let layers = manifest["layers"].as_array().expect("a list");
    assert_eq!(layers.len(), 1);
    let layer = blob(&layout, &layers[0]);
    let unpacked = format!("gzip -dc {} | sha256sum", layer.display());
    let sum = output(Command::new("sh").args(["-c", &unpacked])).expect("it unpacks");
    let whole = config["rootfs"]["diff_ids"][0].as_str().expect("text");
    assert!(whole.ends_with(sum.split(' ').next().expect("a sum")));
    no_more_than_it_should(&places[0]);
    the_bill_names_what_is_inside(&places[0]);
}

/// The agent, libraries, and a few files that libraries read; nothing that could be started but the agent and the loader.
fn no_more_than_it_should(image: &Path) {
    let list = output(
        Command::new("tar")
            .args(["-tvf"])
            .arg(image.join("rootfs.tar")),
    );
    let list = list.expect("it is an archive");
    let mut programs = BTreeSet::new();
    for line in list.lines() {
        assert!(
            line.contains(" 0/0 ") || line.contains("root/root"),
            "{line}"
        );
        let is_file = line.starts_with('-');
        let mode = line.split(' ').next().expect("a mode");
        assert!(!mode.contains('s'), "{line}");
        let path = line.rsplit(' ').next().expect("a path");
        if is_file && mode.contains('x') && !path.contains(".so") {
            programs.insert(path.to_owned());
        }
    }
    assert_eq!(programs, BTreeSet::from(["usr/bin/saker".to_owned()]));
    let root = tempfile::tempdir().expect("a temporary folder");
    let mut unpack = Command::new("tar");
    unpack.arg("-C").arg(root.path()).arg("-xf");
    output(unpack.arg(image.join("rootfs.tar"))).expect("it unpacks");
    if !saker_tests::root_or_skip() {
        return;
    }
    // With nothing but what is inside.
    let mut inside = Command::new("chroot");
    inside
        .arg(root.path())
        .args(["/usr/bin/saker", "--version"]);
    let said = output(&mut inside).expect("it runs");
    assert!(said.starts_with("saker "), "{said}");
}

fn the_bill_names_what_is_inside(image: &Path) {
    let bill = json(&image.join("sbom.cdx.json"));
    assert_eq!(bill["bomFormat"], "CycloneDX");
    assert_eq!(bill["specVersion"], "1.5");
    assert_eq!(bill["metadata"]["component"]["name"], "saker");
    let components = bill["components"].as_array().expect("a list");
    let find = |name: &str| {
        components
            .iter()
            .find(|component| component["name"] == name)
    };
    // Of the agent, of the kernel programs alone, and of the machine.
    for name in ["tokio", "saker-rules", "aya-ebpf", "libc.so.6"] {
        assert!(find(name).is_some(), "{name}");
    }
    // What only builds or tests it is not in it.
    for name in ["tempfile", "aya-build", "protox", "xtask"] {
        assert!(find(name).is_none(), "{name}");
    }
    let tokio = find("tokio").expect("it was found");
    assert_eq!(tokio["licenses"][0]["expression"], "MIT");
    let purl = tokio["purl"].as_str().expect("text");
    assert!(purl.starts_with("pkg:cargo/tokio@"), "{purl}");
    let libc = find("libc.so.6").expect("it was found");
    assert_eq!(libc["hashes"][0]["alg"], "SHA-256");
}
