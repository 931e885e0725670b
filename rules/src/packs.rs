//! The shipped rules: the prelude and every pack, as files that the loader takes.

use crate::{loader::SourceFile, prelude::PRELUDE};

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loader::{LoadOptions, load};

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
