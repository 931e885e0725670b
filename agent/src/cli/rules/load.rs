//! Rule files from disk, behind the shipped prelude, and from there to a bundle.

use std::{
    fs,
    io::IsTerminal as _,
    path::{Path, PathBuf},
};

use saker_rules::{
    bundle::Bundle,
    compile::CompileOptions,
    loader::{LoadOptions, LoadReport, SourceFile, load},
    packs,
};

use crate::config::read_bounded;

use super::super::{Failure, chain, complain};

/// One rule file may be this large.
const FILE_BYTES_MAX: u64 = 32 << 20;
/// A folder may hold this many.
const FILES_MAX: usize = 10_000;

/// The bundle that `saker run` starts with: a given one, given files, or the shipped rules.
pub fn for_run(paths: &[PathBuf], bundle: Option<&Path>) -> Result<Bundle, Failure> {
    if let Some(path) = bundle {
        return Bundle::open(path)
            .map_err(|error| Failure::Input(format!("{}: {}", path.display(), chain(&error))));
    }
    if paths.is_empty() {
        return shipped();
    }
    let report = files(paths, &[packs::losses()], &LoadOptions::default())?;
    // Lints are for `saker rules check`; at start-up only what is wrong counts.
    if report.has_errors() {
        complain(&report.render(std::io::stderr().is_terminal()));
        return Err(Failure::Input(
            "no rule was loaded; the errors above say what to mend".into(),
        ));
    }
    compiled(&report)
}

/// The shipped rules, compiled when the agent was built.
pub fn shipped() -> Result<Bundle, Failure> {
    Bundle::from_bytes(include_bytes!(concat!(env!("OUT_DIR"), "/shipped.bundle"))).map_err(
        |error| Failure::Internal(format!("the shipped rules are damaged: {}", chain(&error))),
    )
}

/// Loads files behind the prelude, or the shipped packs where no path is given.
pub fn selected(paths: &[PathBuf], options: &LoadOptions) -> Result<LoadReport, Failure> {
    if paths.is_empty() {
        Ok(load(&packs::shipped(), options))
    } else {
        files(paths, &[], options)
    }
}

/// Compiles what loaded without an error.
pub fn compiled(report: &LoadReport) -> Result<Bundle, Failure> {
    Bundle::compile(&report.ruleset, &CompileOptions::default())
        .map_err(|error| Failure::Input(chain(&error)))
}

/// `always` stands behind the prelude.
fn files(
    paths: &[PathBuf],
    always: &[SourceFile],
    options: &LoadOptions,
) -> Result<LoadReport, Failure> {
    let mut sources = vec![packs::prelude()];
    sources.extend_from_slice(always);
    let mut problems = Vec::new();
    for path in paths {
        match expand(path) {
            Ok(files) => {
                for file in files {
                    match read(&file) {
                        Ok(text) => sources.push(SourceFile::new(file.display().to_string(), text)),
                        Err(problem) => problems.push(format!("{}: {problem}", file.display())),
                    }
                }
            }
            Err(problem) => problems.push(format!("{}: {problem}", path.display())),
        }
    }
    if !problems.is_empty() {
        return Err(Failure::Input(problems.join("\nsaker: ")));
    }
    Ok(load(&sources, options))
}

/// A file is itself; a folder is its `*.yaml` and `*.yml` in order of name, without those that hold rule tests.
fn expand(path: &Path) -> Result<Vec<PathBuf>, String> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let entries = fs::read_dir(path).map_err(|error| format!("cannot read the folder: {error}"))?;
    let mut found = Vec::new();
    for entry in entries {
        let file = entry
            .map_err(|error| format!("cannot read the folder: {error}"))?
            .path();
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let is_rules =
            (name.ends_with(".yaml") || name.ends_with(".yml")) && !name.ends_with("_test.yaml");
        if is_rules {
            found.push(file);
        }
        if found.len() > FILES_MAX {
            return Err(format!("holds more than {FILES_MAX} rule files"));
        }
    }
    if found.is_empty() {
        return Err("the folder holds no *.yaml file".into());
    }
    found.sort();
    Ok(found)
}

fn read(path: &Path) -> Result<String, String> {
    let bytes =
        read_bounded(path, FILE_BYTES_MAX).map_err(|error| format!("cannot read it: {error}"))?;
    String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
            + 1;
        format!("line {line} is not UTF-8 text")
    })
}
