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
    ruleset::Profile,
};

use crate::config::read_bounded;

use super::super::{Failure, chain, complain};

/// One rule file may be this large.
const FILE_BYTES_MAX: u64 = 32 << 20;
/// A folder may hold this many.
const FILES_MAX: usize = 10_000;

/// What an agent takes its rules from.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// Files and folders; none: the shipped rules.
    pub paths: &'a [PathBuf],
    /// The shipped rules are read in front of them.
    pub keep_shipped: bool,
    /// A bundle instead, whatever the rest says.
    pub bundle: Option<&'a Path>,
    /// Which of the rules are enabled.
    pub profile: Profile,
}

/// The bundle that `saker run` starts with: a given one, given files, or the shipped rules.
pub fn for_run(given: Given<'_>) -> Result<Bundle, Failure> {
    for_reload(given, std::io::stderr().is_terminal()).map_err(|wrong| match wrong {
        Wrong::Rules(rendered) => {
            complain(&rendered);
            Failure::Input("no rule was loaded; the errors above say what to mend".into())
        }
        Wrong::Other(failure) => failure,
    })
}

/// Why there is no bundle.
#[derive(Debug)]
pub enum Wrong {
    /// Rules are wrong: every diagnostic, rendered.
    Rules(String),
    /// Anything else.
    Other(Failure),
}

impl From<Failure> for Wrong {
    fn from(failure: Failure) -> Self {
        Self::Other(failure)
    }
}

/// The same, without a word on stderr.
pub fn for_reload(given: Given<'_>, colour: bool) -> Result<Bundle, Wrong> {
    if let Some(path) = given.bundle {
        let opened = Bundle::open(path)
            .map_err(|error| Failure::Input(format!("{}: {}", path.display(), chain(&error))));
        return Ok(opened?);
    }
    if given.paths.is_empty() {
        return Ok(shipped(given.profile)?);
    }
    let before = if given.keep_shipped {
        packs::shipped()
    } else {
        vec![packs::prelude(), packs::losses()]
    };
    let report = files(given.paths, before, &enabled_by(given.profile))?;
    // Lints are for `saker rules check`; at start-up only what is wrong counts.
    if report.has_errors() {
        return Err(Wrong::Rules(report.render(colour)));
    }
    Ok(compiled(&report)?)
}

/// The files that these paths stand for now, and the folders among them: what has to be looked at to see whether rules have changed.
pub fn watched(paths: &[PathBuf]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in paths {
        found.push(path.clone());
        found.extend(expand(path).unwrap_or_default());
    }
    found
}

/// Loading for one profile.
pub fn enabled_by(profile: Profile) -> LoadOptions {
    LoadOptions {
        profile: Some(profile),
        ..LoadOptions::default()
    }
}

/// The shipped rules, compiled when the agent was built.
fn shipped(profile: Profile) -> Result<Bundle, Failure> {
    macro_rules! built {
        ($file:literal) => {
            include_bytes!(concat!(env!("OUT_DIR"), $file)).as_slice()
        };
    }
    let bytes = match profile {
        Profile::Strict => built!("/shipped-strict.bundle"),
        Profile::Default => built!("/shipped-default.bundle"),
        Profile::Observe => built!("/shipped-observe.bundle"),
    };
    Bundle::from_bytes(bytes).map_err(|error| {
        Failure::Internal(format!("the shipped rules are damaged: {}", chain(&error)))
    })
}

/// Loads files behind the prelude, or behind all shipped packs where these are kept; the packs alone where no path is given.
pub fn selected(
    paths: &[PathBuf],
    keep_shipped: bool,
    options: &LoadOptions,
) -> Result<LoadReport, Failure> {
    if paths.is_empty() {
        Ok(load(&packs::shipped(), options))
    } else if keep_shipped {
        files(paths, packs::shipped(), options)
    } else {
        files(paths, vec![packs::prelude()], options)
    }
}

/// Compiles what loaded without an error.
pub fn compiled(report: &LoadReport) -> Result<Bundle, Failure> {
    Bundle::compile(&report.ruleset, &CompileOptions::default())
        .map_err(|error| Failure::Input(chain(&error)))
}

/// What lies at these paths, behind `sources`.
fn files(
    paths: &[PathBuf],
    mut sources: Vec<SourceFile>,
    options: &LoadOptions,
) -> Result<LoadReport, Failure> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_rules_append_to_the_shipped_ones_that_are_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("own.yaml");
        let text =
            "- list: approved_tmp_parents\n  items: [our-builder]\n  override: {items: append}\n";
        fs::write(&path, text).expect("it is written");
        let paths = [path];
        let options = LoadOptions::default();
        let alone = selected(&paths, false, &options).expect("it is read");
        assert!(alone.has_errors());
        let kept = selected(&paths, true, &options).expect("it is read");
        assert!(!kept.has_errors(), "{}", kept.render(false));
        let shipped = selected(&[], false, &options).expect("they are there");
        assert_eq!(kept.ruleset.rules.len(), shipped.ruleset.rules.len());
    }
}
