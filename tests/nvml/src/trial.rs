//! A trial of the verdict on mining: what a program does to a GPU, what else is known of it, and what must come of it. One a file.
//!
//! `docs/mining-detection.md` describes every key.

use std::{fs, path::Path};

use serde::Deserialize;

use crate::workload::Play;

/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A trial.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// What it is, and where its numbers come from.
    pub about: String,
    /// Must it be found? Else it may never be.
    pub mines: bool,
    /// What it does to a GPU. Its seed is replaced.
    pub play: Play,
    /// What else is known: one row of the table each.
    pub programs: Vec<Program>,
    /// On cards with counters, without, or on both.
    #[serde(default = "both")]
    pub counters: Vec<bool>,
}

/// What is known of a program besides what it does to a GPU.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// As the table names it.
    pub label: String,
    /// Its name: `comm`.
    #[serde(default = "worker")]
    pub name: String,
    /// Its executable's path.
    #[serde(default = "worker_path")]
    pub exe: String,
    /// Its arguments.
    #[serde(default)]
    pub args: String,
    /// The library of a framework that it has mapped.
    #[serde(default)]
    pub library: Option<String>,
    /// Whether its executable is in memory only.
    #[serde(default)]
    pub memfd: bool,
    /// Whether its executable was removed.
    #[serde(default)]
    pub deleted: bool,
    /// A pool's name that its container was told.
    #[serde(default)]
    pub pool: Option<String>,
    /// A method of Stratum that it called.
    #[serde(default)]
    pub stratum: Option<String>,
    /// Its only connection.
    #[serde(default)]
    pub connection: Option<Connection>,
    /// Its connections, where they are several.
    #[serde(default)]
    pub connections: Vec<Connection>,
    /// Whether other machines connect to it and it connects to nothing.
    #[serde(default)]
    pub serves: bool,
    /// Names of the programs that it comes from, nearest first; what follows a blank are arguments.
    #[serde(default)]
    pub ancestors: Vec<String>,
    /// Why it is judged wrongly on cards with counters, if it is.
    #[serde(default)]
    pub limit: Option<String>,
    /// Why on cards without.
    #[serde(default)]
    pub limit_without_counters: Option<String>,
}

/// A program's connection, from its first look on.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connection {
    /// The other end.
    pub remote: String,
    /// Bytes a second both ways; left out where the kernel does not tell.
    #[serde(default)]
    pub rate: Option<f64>,
}

fn both() -> Vec<bool> {
    vec![true, false]
}

fn worker() -> String {
    "worker".into()
}

fn worker_path() -> String {
    "/app/worker".into()
}

impl Trial {
    /// Reads a trial; or what is wrong, by line and column or by key.
    pub fn parse(text: &str) -> Result<Self, String> {
        let trial: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        trial
            .play
            .check()
            .map_err(|error| format!("play.{error}"))?;
        if trial.programs.is_empty() {
            return Err("programs: there is none".into());
        }
        if trial.counters.is_empty() {
            return Err("counters: neither with nor without".into());
        }
        for (at, program) in trial.programs.iter().enumerate() {
            let is_wrong =
                |known: &Connection| known.rate.is_some_and(|rate| !(0.0..1e12).contains(&rate));
            if program.connection.as_ref().is_some_and(is_wrong) {
                return Err(format!(
                    "programs[{at}].connection.rate: it is not within 0 and 1e12"
                ));
            }
            if let Some(number) = program.connections.iter().position(is_wrong) {
                return Err(format!(
                    "programs[{at}].connections[{number}].rate: it is not within 0 and 1e12"
                ));
            }
            if program.connection.is_some() && !program.connections.is_empty() {
                return Err(format!(
                    "programs[{at}].connections: there is connection already"
                ));
            }
        }
        Ok(trial)
    }

    /// Reads all trials of a folder, or one of a file, by the names of their files without the ending; in the order of the names.
    pub fn read(place: &Path) -> Result<Vec<(String, Self)>, String> {
        let wrong =
            |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let mut files = vec![place.to_owned()];
        if place.is_dir() {
            let entries = fs::read_dir(place).map_err(|error| wrong(place, &error))?;
            files = entries.flatten().map(|entry| entry.path()).collect();
            files.retain(|path| path.extension().is_some_and(|ending| ending == "json"));
            files.sort();
        }
        let mut trials = Vec::new();
        for path in files {
            let length = fs::metadata(&path)
                .map_err(|error| wrong(&path, &error))?
                .len();
            if length > FILE_BYTES_MAX {
                return Err(wrong(&path, &format!("more than {FILE_BYTES_MAX} bytes")));
            }
            let text = fs::read_to_string(&path).map_err(|error| wrong(&path, &error))?;
            let trial = Self::parse(&text).map_err(|error| wrong(&path, &error))?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            trials.push((name.into_owned(), trial));
        }
        Ok(trials)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_named() {
        let check = |text: &str, expected: &str| {
            let error = Trial::parse(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        };
        let trial = |rest: &str| {
            format!(
                r#"{{"about": "a", "mines": true, "play": {{"workload": "ethash"}}, "programs": [{{"label": "x"}}]{rest}}}"#
            )
        };
        assert!(Trial::parse(&trial("")).is_ok());
        check(
            &trial(r#", "counters": []"#),
            "counters: neither with nor without",
        );
        check(&trial(r#", "minds": 1"#), "unknown field `minds`");
        check("{}", "missing field `about`");
        check(
            r#"{"about": "", "mines": true, "play": {"workload": "ethash", "cap": 2}, "programs": []}"#,
            "play.cap: 2 is not within 0 and 1",
        );
        check(
            r#"{"about": "", "mines": true, "play": {"workload": "ethash"}, "programs": []}"#,
            "programs: there is none",
        );
        check(
            r#"{"about": "", "mines": true, "play": {"workload": "ethash"}, "programs": [{"label": "x", "connection": {"remote": "y", "rate": -1}}]}"#,
            "programs[0].connection.rate: it is not within",
        );
    }
}
