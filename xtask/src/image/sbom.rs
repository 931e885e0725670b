//! The bill of materials: every crate that is in the binary, kernel programs included, and every shared library, as CycloneDX 1.5.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};
use cargo_metadata::{CargoOpt, DependencyKind, Metadata, MetadataCommand, PackageId};
use cyclonedx_bom::{
    external_models::{normalized_string::NormalizedString, spdx::SpdxExpression, uri::Purl},
    models::{
        bom::{Bom, SpecVersion},
        component::{Classification, Component, Components},
        dependency::{Dependencies, Dependency},
        hash::{Hash, HashAlgorithm, HashValue, Hashes},
        license::{LicenseChoice, Licenses},
        metadata::Metadata as BomMetadata,
        property::{Properties, Property},
    },
    validation::Validate as _,
};
use sha2::{Digest as _, Sha256};

use super::rootfs::Library;
use crate::process::{command, output, root};

/// The bill, as JSON whose bytes depend on Cargo.lock and the libraries alone: no time, no serial number.
pub fn bill(libraries: &[Library]) -> Result<Vec<u8>> {
    let mut crates = BTreeMap::new();
    let agent = walk("saker", CargoOpt::SomeFeatures(Vec::new()), &mut crates)?;
    // The kernel programs are a build of their own, inside the agent's.
    let kernel = CargoOpt::SomeFeatures(vec!["saker-ebpf/kernel".to_owned()]);
    walk("saker-ebpf", kernel, &mut crates)?;
    let reference = agent;
    let (agent, needs) = crates.remove(&reference).context("the agent is a crate")?;

    let mut components = Vec::new();
    let mut dependencies = vec![Dependency {
        dependency_ref: reference,
        dependencies: needs.into_iter().collect(),
    }];
    for (reference, (component, needs)) in crates {
        components.push(component);
        dependencies.push(Dependency {
            dependency_ref: reference,
            dependencies: needs.into_iter().collect(),
        });
    }
    for library in libraries {
        components.push(shared(library));
    }
    let bom = Bom {
        serial_number: None,
        metadata: Some(BomMetadata {
            component: Some(agent),
            ..BomMetadata::default()
        }),
        components: Some(Components(components)),
        dependencies: Some(Dependencies(dependencies)),
        spec_version: SpecVersion::V1_5,
        ..Bom::default()
    };
    let checked = bom.validate_version(SpecVersion::V1_5);
    if !checked.passed() {
        bail!("the bill of materials is not valid: {:?}", checked.errors());
    }
    let mut text = Vec::new();
    bom.output_as_json(&mut text, SpecVersion::V1_5)
        .context("the bill of materials cannot be written")?;
    text.push(b'\n');
    Ok(text)
}

/// Crates by their reference, each with what it needs.
type Crates = BTreeMap<String, (Component, BTreeSet<String>)>;

/// Adds a package of ours and everything that is linked into it on the image's platform; returns its reference.
fn walk(package: &str, features: CargoOpt, crates: &mut Crates) -> Result<String> {
    let mut ask = MetadataCommand::new();
    ask.current_dir(root()).features(features).other_options(
        ["--filter-platform", "x86_64-unknown-linux-gnu", "--locked"].map(str::to_owned),
    );
    let metadata = ask.exec()?;
    let found = metadata
        .packages
        .iter()
        .find(|found| found.name.as_str() == package)
        .with_context(|| format!("no package {package}"))?;
    let resolve = metadata.resolve.as_ref().context("cargo resolves")?;
    let mut waiting = vec![found.id.clone()];
    let mut seen: BTreeSet<PackageId> = waiting.iter().cloned().collect();
    while let Some(id) = waiting.pop() {
        let node = resolve
            .nodes
            .iter()
            .find(|node| node.id == id)
            .with_context(|| format!("{id} is not resolved"))?;
        let linked = node.deps.iter().filter(|dependency| {
            let mut kinds = dependency.dep_kinds.iter();
            kinds.any(|kind| kind.kind == DependencyKind::Normal)
        });
        let mut needs = BTreeSet::new();
        for dependency in linked {
            needs.insert(reference(&metadata, &dependency.pkg)?);
            if seen.insert(dependency.pkg.clone()) {
                waiting.push(dependency.pkg.clone());
            }
        }
        let entry = crates
            .entry(reference(&metadata, &id)?)
            .or_insert((component(&metadata, &id)?, BTreeSet::new()));
        entry.1.extend(needs);
    }
    reference(&metadata, &found.id)
}

fn package<'a>(metadata: &'a Metadata, id: &PackageId) -> Result<&'a cargo_metadata::Package> {
    let mut packages = metadata.packages.iter();
    packages
        .find(|package| package.id == *id)
        .with_context(|| format!("{id} is not listed"))
}

/// A package's URL, which also names it within the bill.
fn reference(metadata: &Metadata, id: &PackageId) -> Result<String> {
    let package = package(metadata, id)?;
    Ok(format!("pkg:cargo/{}@{}", package.name, package.version))
}

fn component(metadata: &Metadata, id: &PackageId) -> Result<Component> {
    let package = package(metadata, id)?;
    let (name, version) = (package.name.as_str(), package.version.to_string());
    let kind = if name == "saker" {
        Classification::Application
    } else {
        Classification::Library
    };
    let mut component = Component::new(kind, name, &version, Some(reference(metadata, id)?));
    component.purl = Some(Purl::new("cargo", name, &version)?);
    component.licenses = package.license.as_deref().map(|license| {
        // Some old crates write a slash for "or".
        let license = SpdxExpression::new(&license.replace('/', " OR "));
        Licenses(vec![LicenseChoice::Expression(license)])
    });
    Ok(component)
}

/// A library of this machine, with the Debian package that it came from where there is one.
fn shared(library: &Library) -> Component {
    let digest = Sha256::digest(&library.content);
    let digest: Vec<_> = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let (name, version) =
        debian(library).unwrap_or_else(|| (library.name.clone(), "unknown".into()));
    let reference = Some(format!("library:{}", library.name));
    let mut component = Component::new(Classification::Library, &library.name, &version, reference);
    component.purl = Purl::new("deb", &name, &version).ok();
    component.hashes = Some(Hashes(vec![Hash {
        alg: HashAlgorithm::SHA_256,
        content: HashValue(digest.concat()),
    }]));
    let package = Property {
        name: "saker:package".to_owned(),
        value: NormalizedString::new(&name),
    };
    component.properties = Some(Properties(vec![package]));
    component
}

fn debian(library: &Library) -> Option<(String, String)> {
    // The merged /usr has two names for each file, of which dpkg may know either.
    let path = library.source.to_string_lossy().into_owned();
    let other = match path.strip_prefix("/usr") {
        Some(rest) => rest.to_owned(),
        None => format!("/usr{path}"),
    };
    [path, other].iter().find_map(|path| {
        let owner = output(command("dpkg-query").args(["--search", path])).ok()?;
        let name = owner.split(':').next()?.to_owned();
        let format = "--showformat=${Version}";
        let version = output(command("dpkg-query").args(["--show", format, &name])).ok()?;
        Some((name, version))
    })
}
