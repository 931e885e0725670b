//! Rendered diagnostics, compared with golden files: `testdata/diagnostics/NAME.yaml` beside
//! `NAME.expected`. `SAKER_BLESS=1 cargo test` writes them anew.

use std::{collections::BTreeSet, fs, path::PathBuf};

use saker_rules::{
    diagnostic::{Code, Severity},
    loader::{self, LoadOptions, SourceFile},
};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/diagnostics")
}

fn inputs() -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .collect();
    paths.sort();
    assert!(!paths.is_empty());
    paths
}

fn report(path: &PathBuf) -> loader::LoadReport {
    let name = path.file_name().unwrap().to_str().unwrap();
    let file = SourceFile::new(name, fs::read_to_string(path).unwrap());
    // The file whose name says so is loaded for first match.
    let first_match = name.starts_with("first_match");
    loader::load(
        &[file],
        &LoadOptions {
            first_match,
            ..LoadOptions::default()
        },
    )
}

#[test]
fn messages_are_as_recorded() {
    let mut wrong = Vec::new();
    for path in inputs() {
        let rendered = report(&path).render(false);
        let expected_path = path.with_extension("expected");
        if std::env::var_os("SAKER_BLESS").is_some() {
            fs::write(&expected_path, &rendered).unwrap();
        }
        let expected = fs::read_to_string(&expected_path).unwrap_or_default();
        if rendered != expected {
            wrong.push(format!("{}:\n{rendered}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "not as recorded:\n{}", wrong.join("\n"));
}

/// Codes that no rules file alone can bring about.
const ELSEWHERE: &[Code] = &[
    // Comes from the kernel filter.
    Code::Expensive,
    // Needs a file of many megabytes; see `loader.rs`.
    Code::TooLarge,
];

#[test]
fn every_code_has_an_example() {
    let shown: BTreeSet<_> = inputs()
        .iter()
        .flat_map(|path| {
            report(path)
                .diagnostics
                .into_iter()
                .map(|diagnostic| diagnostic.code)
        })
        .collect();
    let missing: Vec<_> = Code::ALL
        .iter()
        .filter(|code| !shown.contains(code) && !ELSEWHERE.contains(code))
        .collect();
    assert!(missing.is_empty(), "no example of {missing:?}");
}

#[test]
fn codes_are_unique() {
    let ids: BTreeSet<_> = Code::ALL.iter().map(|code| code.id()).collect();
    assert_eq!(ids.len(), Code::ALL.len());
}

#[test]
fn falcos_shape_holds_one_result_a_file() {
    let files = [
        SourceFile::new("good.yaml", "- list: a\n  items: [b]\n"),
        SourceFile::new("bad.yaml", "- macro: m\n  condition: proc.nme = x\n"),
        SourceFile::new(
            "worse.yaml",
            "- rule: r\n  desc: d\n  condition: evt.type = open and proc.nme = x\n  output: o\n  priority: INFO\n",
        ),
    ];
    let report = loader::load(&files, &LoadOptions::default());
    let json = report.to_falco_json();
    let results = json["falco_load_results"].as_array().unwrap();
    assert_eq!(results.len(), 3);
    assert_eq!(results[0]["successful"], true);
    assert_eq!(results[0]["warnings"][0]["code"], "LOAD_UNUSED_LIST");
    let error = &results[2]["errors"][0];
    assert_eq!(results[2]["successful"], false);
    assert_eq!(error["code"], "LOAD_ERR_COMPILE_CONDITION");
    assert_eq!(error["codedesc"], "Error compiling condition");
    assert_eq!(error["context"]["locations"][0]["item_type"], "rule");
    assert_eq!(error["context"]["locations"][0]["position"]["line"], 2);
    assert!(
        error["context"]["snippet"]
            .as_str()
            .unwrap()
            .contains("proc.nme")
    );
    assert!(
        report
            .diagnostics
            .iter()
            .any(|diagnostic| diagnostic.severity == Severity::Error)
    );
}

#[test]
fn places_are_exact_in_every_way_to_write_a_condition() {
    // Written here, for editors and git change line ends and marks in files.
    let check = |condition: &str| {
        let plain = format!(
            "- rule: r\n  desc: d\n  output: o\n  priority: INFO\n  condition: {condition}\n"
        );
        let forms = [
            plain.replace('\n', "\r\n"),
            format!("\u{feff}{plain}"),
            plain.replace(" proc", "\tproc"),
            plain,
        ];
        for text in forms {
            let before = &text[..text.find("proc.nme").unwrap()];
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap().chars().count() + 1;
            let file = SourceFile::new("f.yaml", text.clone());
            let rendered = loader::load(&[file], &LoadOptions::default()).render(false);
            for wanted in [
                "nonexistent field proc.nme",
                &format!("f.yaml:{line}:{column}\n"),
                "^^^^^^^^ no such field",
            ] {
                assert!(
                    rendered.contains(wanted),
                    "{text:?}: {wanted} in {rendered}"
                );
            }
        }
    };
    check("evt.type = open and proc.nme = x");
    check("evt.type = open\n    and proc.nme = x");
    check("'evt.type = open and fd.name != ''a'' and proc.nme = x'");
    check(r#""evt.type = open and fd.name != \"\u017e\" and proc.nme = x""#);
    check("\"evt.type = open\n    and \\\n    proc.nme = x\"");
    check(">\n    evt.type = open\n    and proc.nme = x");
    check(">-\n    evt.type = open\n      and proc.nme = x\n\n    and fd.name != y");
    check("|\n    evt.type = open\n\n    and proc.nme = x");
    check("evt.type = open and fd.name != 'žluťoučký 日本' and proc.nme = x");
    check("&anchor evt.type = open and proc.nme = x");
    check("!!str evt.type = open and proc.nme = x");
}
