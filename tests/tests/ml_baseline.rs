//! The baseline for ML namespaces (deploy/ml-baseline): Kubernetes would take it, and it allows what docs/ml-baseline.md says and nothing else.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use saker_tests::{manifests, python, repository, skip};

fn baseline() -> PathBuf {
    repository().join("deploy/ml-baseline")
}

#[test]
fn the_baseline_validates_strictly() {
    let files = manifests::below(&baseline());
    let Some(checked) = manifests::validate(&files) else {
        return;
    };
    assert!(checked.wrong.is_empty(), "{:#?}", checked.wrong);
    assert_eq!(checked.versions.len(), 3, "{checked:?}");
    // What extends Kubernetes is checked by the test after this one.
    for kind in &checked.unknown {
        assert!(
            kind.contains("istio.io/") || kind.starts_with("external-secrets.io/"),
            "no schema for {kind}"
        );
    }
}

#[test]
fn its_custom_resources_validate_strictly() {
    let files = manifests::below(&baseline().join("components"));
    let Some((objects, wrong)) = manifests::validate_custom(&files) else {
        return;
    };
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(objects, 9);
}

#[test]
fn the_checks_refuse_what_is_wrong() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let check = |text: &str, part: &str| {
        let file = folder.path().join("wrong.yaml");
        fs::write(&file, text).expect("it is written");
        let files = [file];
        let kubernetes = manifests::validate(&files);
        let custom = manifests::validate_custom(&files);
        let (Some(kubernetes), Some((_, custom))) = (kubernetes, custom) else {
            return;
        };
        let wrong = [kubernetes.wrong, custom].concat().join("\n");
        assert!(wrong.contains(part), "{text}: {wrong}");
    };
    let policy =
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}\nspec: ";
    check(
        &format!("{policy}{{podSelector: {{}}, egres: []}}\n"),
        "'egres' was unexpected",
    );
    check(
        &format!("{policy}{{podSelector: {{}}, podSelector: {{}}}}\n"),
        "twice: podSelector",
    );
    check(
        &format!("{policy}{{podSelector: []}}\n"),
        "is not of type 'object'",
    );
    let istio = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: a}\n";
    check(
        &format!("{istio}spec: {{mtls: {{moed: STRICT}}}}\n"),
        "moed",
    );
    check(
        &format!("{istio}spec: {{mtls: {{mode: STRIKT}}}}\n"),
        "STRIKT",
    );
}

/// Every way that is open, by an analyzer that computes what all policies together allow between the pods of
/// `testdata/deploy/pods.yaml` and the world. With SAKER_UPDATE=1 the answer is written to the file it is compared with.
#[test]
fn policies_allow_what_is_meant_and_nothing_else() {
    let Some(python) = python::manifest_libraries() else {
        return;
    };
    let data = repository().join("tests/testdata/deploy");
    let policies = [
        "default-deny.yaml",
        "dns.yaml",
        "training.yaml",
        "inference.yaml",
        "pii.yaml",
        "registries.yaml",
        "components/istio/control-plane.yaml",
        "components/node-local-dns/dns.yaml",
    ];
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (number, policy) in policies.iter().enumerate() {
        let to = folder.path().join(format!("{number}.yaml"));
        fs::copy(baseline().join(policy), to).expect("the policy is there");
    }
    let mut analyzer = Command::new(python.with_file_name("nca"));
    analyzer
        .arg("--connectivity")
        .arg(folder.path())
        .arg("-r")
        .arg(data.join("pods.yaml"))
        // Pair by pair: how it groups them changes from run to run.
        .args(["-o", "txt_no_fw_rules"]);
    let said = saker_tests::image::output(&mut analyzer).expect("the analyzer runs");
    let mut ways: Vec<_> = said.lines().filter(|line| line.contains(" => ")).collect();
    ways.sort_unstable();
    let found = ways.join("\n") + "\n";
    let golden = data.join("open-ways.txt");
    if std::env::var_os("SAKER_UPDATE").is_some() {
        fs::write(&golden, &found).expect("it is written");
    }
    let expected = fs::read_to_string(&golden).expect("SAKER_UPDATE=1 writes it");
    assert_eq!(found, expected, "the analyzer said:\n{said}");
}

#[test]
fn admission_policies_refuse_each_thing_by_name() {
    let Some(python) = python::manifest_libraries() else {
        return;
    };
    let mut command = Command::new(python);
    command
        .arg(python::script("deploy/admission.py"))
        .arg(baseline().join("admission.yaml"))
        .args(manifests::below(&baseline().join("examples")));
    let said = manifests::answer(&mut command);
    assert_eq!(said["wrong"], serde_json::json!([]), "{said:#}");
    assert_eq!(said["cases"], 66, "{said:#}");
}

/// Every file is part of the whole, and the whole is what kustomize makes of it.
#[test]
fn kustomize_takes_the_baseline() {
    let mut listed: Vec<PathBuf> = Vec::new();
    let folders = [
        "",
        "components/istio",
        "components/external-secrets",
        "components/node-local-dns",
    ];
    for folder in folders.map(|folder| baseline().join(folder)) {
        let text = fs::read_to_string(folder.join("kustomization.yaml")).expect("it is there");
        let names = text.lines().filter_map(|line| line.strip_prefix("  - "));
        listed.extend(names.map(|name| folder.join(name)));
    }
    listed.sort();
    let mut there = manifests::below(&baseline());
    there.retain(|file| !file.starts_with(baseline().join("examples")));
    assert_eq!(listed, there);
    let kubectl = Path::new("/usr/bin/kubectl");
    if !kubectl.exists() {
        return skip("no kubectl: what kustomize makes of it is not compared");
    }
    let mut build = Command::new(kubectl);
    build.arg("kustomize").arg(baseline());
    let built = saker_tests::image::output(&mut build).expect("kustomize takes it");
    let count = |text: &str| {
        text.lines()
            .filter(|line| line.starts_with("kind: "))
            .count()
    };
    let own: usize = listed
        .iter()
        .filter(|file| !file.starts_with(baseline().join("components")))
        .map(|file| count(&fs::read_to_string(file).expect("it is there")))
        .sum();
    assert_eq!(count(&built), own);
}
