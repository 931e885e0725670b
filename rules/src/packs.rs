//! The shipped rules: the prelude and every pack, as files that the loader takes.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::{
    loader::{LoadOptions, SourceFile, load},
    prelude::PRELUDE,
};

macro_rules! packs {
    ($($path:literal),* $(,)?) => {
        /// Path below `rules/packs` and text of each pack, in the order of loading.
        pub static PACKS: &[(&str, &str)] = &[$(($path, include_str!(concat!("../packs/", $path)))),*];
    };
}

packs! {
    "agent/losses.yaml",
    "agent/tampering.yaml",
    "container-escape/container-escape.yaml",
    "controls/controls.yaml",
    "credentials/credentials.yaml",
    "gpu-access/gpu-access.yaml",
    "gpu-usage/gpu-usage.yaml",
    "mining/mining.yaml",
    "mining/pools.yaml",
    "ml-servers/ml-servers.yaml",
    "model-deserialization/model-deserialization.yaml",
    "model-deserialization/pickle.yaml",
    "model-download/model-download.yaml",
    "model-download/packages.yaml",
    "model-theft/model-theft.yaml",
    "persistence/persistence.yaml",
    "reverse-shell/reverse-shell.yaml",
    "supply-chain/supply-chain.yaml",
}

/// The shipped macros and lists, which stand before any rule file.
pub fn prelude() -> SourceFile {
    SourceFile::library("saker/prelude.yaml", PRELUDE)
}

/// The rule that tells of losses. An agent has it whatever else it is given: loss must never be silent.
pub fn losses() -> SourceFile {
    let (path, text) = PACKS[0];
    SourceFile::library(format!("saker/{path}"), text)
}

/// The prelude and every pack.
pub fn shipped() -> Vec<SourceFile> {
    let packs = PACKS
        .iter()
        .map(|(path, text)| SourceFile::new(format!("saker/{path}"), *text));
    std::iter::once(prelude()).chain(packs).collect()
}

/// A list or macro of the packs that is there to be replaced by whoever runs them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Its name.
    pub name: String,
    /// Whether it is a list; a macro otherwise.
    pub is_list: bool,
    /// What it is for, as the file says behind `# Tune this:`.
    pub purpose: String,
    /// The rules whose conditions change with it.
    pub rules: Vec<String>,
}

/// What the shipped files mark as there to be tuned, in their order. Which rules depend on one is tried out: the packs are loaded
/// with another one in its place.
pub fn tuning() -> Vec<Tuning> {
    let files = shipped();
    let options = LoadOptions::default();
    let report = load(&files, &options);
    let detections = |files: &[SourceFile]| -> BTreeMap<String, String> {
        let rules = load(files, &options).ruleset.rules.into_iter();
        rules
            .map(|rule| (rule.name, format!("{:?}", rule.detection)))
            .collect()
    };
    let before = detections(&files);
    let mut found: Vec<Tuning> = files.iter().flat_map(|file| marked(&file.text)).collect();
    for tuning in &mut found {
        let mut text = String::new();
        if tuning.is_list {
            let list = report.lists.iter().find(|list| list.name == tuning.name);
            let items = match list.and_then(|list| list.items.split_last()) {
                Some((_, rest)) => rest,
                None => &["saker-probe".to_owned()],
            };
            let _ = writeln!(text, "- list: {}\n  items: {items:?}", tuning.name);
        } else {
            let _ = writeln!(text, "- macro: {}\n  condition: (evt.num = 1)", tuning.name);
        }
        let mut files = files.clone();
        files.push(SourceFile::new("probe.yaml", text));
        let after = detections(&files);
        let is_changed = |rule: &&String| matches!((before.get(*rule), after.get(*rule)), (Some(old), Some(new)) if old != new);
        tuning.rules = before.keys().filter(is_changed).cloned().collect();
    }
    found
}

/// The lists and macros that stand right behind a comment which begins with `Tune this:`.
fn marked(text: &str) -> Vec<Tuning> {
    let mut found = Vec::new();
    let mut purpose: Option<String> = None;
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix('#') {
            let comment = comment.trim();
            match (comment.strip_prefix("Tune this:"), &mut purpose) {
                (Some(first), _) => purpose = Some(first.trim().to_owned()),
                (None, Some(begun)) => {
                    begun.push(' ');
                    begun.push_str(comment);
                }
                (None, None) => {}
            }
            continue;
        }
        let item = [("- list: ", true), ("- macro: ", false)]
            .into_iter()
            .find_map(|(head, is_list)| Some((line.strip_prefix(head)?.trim(), is_list)));
        if let (Some(purpose), Some((name, is_list))) = (purpose.take(), item) {
            found.push(Tuning {
                name: name.to_owned(),
                is_list,
                purpose,
                rules: Vec::new(),
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pack_loads_without_a_remark_and_every_rule_is_active() {
        let report = load(&shipped(), &LoadOptions::default());
        assert!(report.diagnostics.is_empty(), "{}", report.render(false));
        let inactive: Vec<_> = report
            .ruleset
            .rules
            .iter()
            .filter(|rule| !rule.inactive.is_empty())
            .map(|rule| &rule.name)
            .collect();
        assert!(inactive.is_empty(), "{inactive:?}");
    }

    #[test]
    fn every_file_of_the_folder_is_in_the_table() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("packs");
        let mut found = Vec::new();
        for topic in std::fs::read_dir(&folder)
            .expect("the packs are there")
            .flatten()
            .filter(|entry| entry.path().is_dir())
        {
            for file in std::fs::read_dir(topic.path())
                .expect("a topic is a folder")
                .flatten()
            {
                let path = file
                    .path()
                    .strip_prefix(&folder)
                    .expect("it is below")
                    .display()
                    .to_string();
                if !path.ends_with("_test.yaml") {
                    found.push(path);
                }
            }
        }
        found.sort();
        assert_eq!(
            found,
            PACKS.iter().map(|(path, _)| *path).collect::<Vec<_>>()
        );
    }
}
