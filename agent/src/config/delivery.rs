//! The part of the configuration that is about delivery: the alert log and the sinks.

use std::{path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    alert::hygiene::Limits,
    log,
    sink::{Format, check_files, deliver::Common, file, filter::Filter, http, nats, syslog},
};

/// Sinks together: each has a task, and keeps the log's alerts until it has them.
const SINKS_MAX: usize = 32;

/// How often the same may be said.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Alerts {
    /// Length of the window in which alerts of one rule and container are bounded, in seconds (0 to 3600), by the events' own time; at
    /// its end one alert tells how many were left out. 0: every alert is passed on.
    #[schemars(range(max = 3600))]
    pub window_s: u32,
    /// In it, at most this often the same: a rule's alert of one container whose fields are the same but for process ids, times and the like.
    #[schemars(range(min = 1))]
    pub same_max: u32,
    /// In it, at most this many of one rule and container, however different.
    #[schemars(range(min = 1))]
    pub rate_max: u32,
}

impl Default for Alerts {
    fn default() -> Self {
        Self {
            window_s: 60,
            same_max: 20,
            rate_max: 300,
        }
    }
}

impl Alerts {
    /// What no node can want; the key and what is wrong with its value.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        if self.window_s > 3600 {
            let problem = format!("{} is not from 0 to 3600", self.window_s);
            return Err(("alerts.window_s", problem));
        }
        let nothing = "0 would pass nothing on; at least 1, or window_s: 0 for no bound";
        for (key, max) in [
            ("alerts.same_max", self.same_max),
            ("alerts.rate_max", self.rate_max),
        ] {
            if max == 0 {
                return Err((key, nothing.into()));
            }
        }
        Ok(())
    }

    /// For the stage that bounds them.
    pub fn limits(&self) -> Limits {
        Limits {
            window_ns: i64::from(self.window_s) * 1_000_000_000,
            same_max: self.same_max,
            rate_max: self.rate_max,
        }
    }
}

/// The alert log.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AlertLog {
    /// Folder in which alerts are kept until every sink has them, across restarts and crashes: an absolute path, below which the agent
    /// makes a folder of its own. Default: what the environment variable `STATE_DIRECTORY` names, which systemd sets for a unit that has one;
    /// where that is not set either, alerts are kept in memory only.
    pub directory: Option<PathBuf>,
    /// At most this many bytes of alerts (compressed) in that folder (1 MiB to 1 TiB), delivered or not; beyond it the oldest is dropped,
    /// and counted where a sink had not had it.
    #[schemars(range(min = 1_048_576, max = 1_099_511_627_776_u64))]
    pub bytes_max: u64,
    /// Alerts are dropped from it when they are older than this many hours (1 to 87600), delivered or not.
    #[schemars(range(min = 1, max = 87_600))]
    pub age_max_h: u64,
    /// How often what was stored is brought to the disk, in milliseconds (10 to 60000). A power cut may lose what came since; the end of
    /// the agent, however sudden, loses nothing.
    #[schemars(range(min = 10, max = 60_000))]
    pub sync_ms: u64,
    /// At most this many bytes of alerts in memory (64 KiB to 4 GiB): all that no sink has delivered where there is no folder, or while
    /// the folder cannot be written. Beyond it the oldest is dropped and counted.
    #[schemars(range(min = 65_536, max = 4_294_967_296_u64))]
    pub memory_bytes_max: usize,
    /// At most this many alerts between the sensor and the log; beyond it new ones are dropped and counted.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub queue_max: usize,
}

impl Default for AlertLog {
    fn default() -> Self {
        Self {
            directory: None,
            bytes_max: 1 << 30,
            age_max_h: 7 * 24,
            sync_ms: 1000,
            memory_bytes_max: 64 << 20,
            queue_max: 8192,
        }
    }
}

impl AlertLog {
    /// What no node can want; the key and what is wrong with its value.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let ranges = [
            ("alert_log.bytes_max", self.bytes_max, 1 << 20..=1 << 40),
            ("alert_log.age_max_h", self.age_max_h, 1..=87_600),
            ("alert_log.sync_ms", self.sync_ms, 10..=60_000),
            (
                "alert_log.memory_bytes_max",
                self.memory_bytes_max as u64,
                1 << 16..=1 << 32,
            ),
            ("alert_log.queue_max", self.queue_max as u64, 1..=1 << 20),
        ];
        for (key, value, range) in ranges {
            if !range.contains(&value) {
                let problem = format!("{value} is not from {} to {}", range.start(), range.end());
                return Err((key, problem));
            }
        }
        if let Some(path) = &self.directory
            && !path.is_absolute()
        {
            let problem = format!("{path:?} is not an absolute path");
            return Err(("alert_log.directory", problem));
        }
        Ok(())
    }

    /// For the log.
    pub fn settings(&self) -> log::Settings {
        log::Settings {
            directory: self.directory.clone().or_else(state_directory),
            bytes_max: self.bytes_max,
            age_max: Duration::from_secs(self.age_max_h * 3600),
            memory_bytes_max: self.memory_bytes_max,
            sync: Duration::from_millis(self.sync_ms),
        }
    }
}

/// What systemd made for the agent.
fn state_directory() -> Option<PathBuf> {
    let paths = std::env::var_os("STATE_DIRECTORY")?;
    std::env::split_paths(&paths).find(|path| path.is_absolute())
}

/// Alerts on standard output.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Stdout {
    /// Whether alerts are written to standard output.
    pub enabled: bool,
    /// `json`: one object a line in Falco's shape; `ocsf`: one a line, as OCSF Detection Finding; `text`: the alert's text.
    pub format: Format,
    /// Which alerts.
    pub filter: Filter,
}

impl Default for Stdout {
    fn default() -> Self {
        Self {
            enabled: true,
            format: Format::Json,
            filter: Filter::default(),
        }
    }
}

/// Where alerts go besides standard output.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sinks {
    /// Files.
    pub file: Vec<file::Settings>,
    /// Syslog receivers.
    pub syslog: Vec<syslog::Settings>,
    /// Web servers.
    pub http: Vec<http::Settings>,
    /// NATS servers.
    pub nats: Vec<nats::Settings>,
}

impl Sinks {
    /// Can the files be read that they name? A running sink waits for one that is missing.
    pub(super) fn check_files(&self) -> Result<(), String> {
        let of = |kind: &str, name: &str, checked: Result<(), String>| {
            checked.map_err(|why| format!("sinks.{kind}: {name}: {why}"))
        };
        for sink in &self.syslog {
            of("syslog", &sink.name, check_files(&sink.tls, []))?;
        }
        for sink in &self.http {
            let secrets = sink.token_file.iter().chain(sink.header_files.values());
            of("http", &sink.name, check_files(&sink.tls, secrets))?;
        }
        for sink in &self.nats {
            let secrets = [
                &sink.token_file,
                &sink.password_file,
                &sink.credentials_file,
            ];
            let secrets = secrets.into_iter().flatten();
            of("nats", &sink.name, check_files(&sink.tls, secrets))?;
        }
        Ok(())
    }

    /// What cannot be meant; the key and what is wrong.
    pub(super) fn check(&self) -> Result<(), (String, String)> {
        let mut names = vec!["stdout"];
        let parts: [(&str, Vec<Part<'_>>); 4] = [
            (
                "file",
                parts(&self.file, |sink| {
                    (&sink.name, sink.check(), None, sink.pause_max_s)
                }),
            ),
            (
                "syslog",
                parts(&self.syslog, |sink| {
                    (
                        &sink.name,
                        sink.check(),
                        Some(sink.timeout_s),
                        sink.pause_max_s,
                    )
                }),
            ),
            (
                "http",
                parts(&self.http, |sink| {
                    (
                        &sink.name,
                        sink.check(),
                        Some(sink.timeout_s),
                        sink.pause_max_s,
                    )
                }),
            ),
            (
                "nats",
                parts(&self.nats, |sink| {
                    (
                        &sink.name,
                        sink.check(),
                        Some(sink.timeout_s),
                        sink.pause_max_s,
                    )
                }),
            ),
        ];
        // Two would rename each other's file away.
        for (index, sink) in self.file.iter().enumerate() {
            let mut before = self.file[..index].iter();
            if before.any(|other| other.takes(&sink.path) || sink.takes(&other.path)) {
                let problem = format!("{:?} is the file of another sink", sink.path);
                return Err((format!("sinks.file[{index}].path"), problem));
            }
        }
        for (kind, sinks) in parts {
            for (index, (name, checked, timeout_s, pause_max_s)) in sinks.into_iter().enumerate() {
                let key = |key: &str| format!("sinks.{kind}[{index}].{key}");
                let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
                if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
                    let problem =
                        format!("{name:?} is not 1 to 64 letters, digits, '-', '_' and '.'");
                    return Err((key("name"), problem));
                }
                if names.contains(&name) {
                    return Err((key("name"), format!("{name:?} is the name of another sink")));
                }
                names.push(name);
                checked.map_err(|(of, problem)| (key(of), problem))?;
                if timeout_s.is_some_and(|time| !(1..=600).contains(&time)) {
                    return Err((key("timeout_s"), "not from 1 to 600".into()));
                }
                if !(1..=3600).contains(&pause_max_s) {
                    return Err((key("pause_max_s"), "not from 1 to 3600".into()));
                }
            }
        }
        if names.len() > SINKS_MAX {
            return Err((
                "sinks".into(),
                format!("{} sinks; at most {SINKS_MAX}", names.len()),
            ));
        }
        Ok(())
    }

    /// Whether a sink tells more of an alert than its rule does.
    pub fn needs_context(&self, stdout: &Stdout) -> bool {
        let formats = [
            self.file.iter().map(|sink| sink.format).collect::<Vec<_>>(),
            self.syslog.iter().map(|sink| sink.format).collect(),
            self.http.iter().map(|sink| sink.format).collect(),
            self.nats.iter().map(|sink| sink.format).collect(),
        ];
        stdout.enabled && stdout.format == Format::Ocsf
            || formats
                .iter()
                .flatten()
                .any(|format| *format == Format::Ocsf)
    }
}

/// A sink's name, what its own check says, its timeout and its longest pause.
type Part<'s> = (
    &'s str,
    Result<(), (&'static str, String)>,
    Option<u64>,
    u64,
);

fn parts<'s, S>(
    sinks: &'s [S],
    part: impl Fn(
        &'s S,
    ) -> (
        &'s String,
        Result<(), (&'static str, String)>,
        Option<u64>,
        u64,
    ),
) -> Vec<Part<'s>> {
    let part = |sink| {
        let (name, checked, timeout_s, pause_max_s) = part(sink);
        (name.as_str(), checked, timeout_s, pause_max_s)
    };
    sinks.iter().map(part).collect()
}

/// What the loop of every sink is told.
pub fn common(format: Format, filter: &Filter, pause_max_s: u64) -> Common {
    Common {
        format,
        filter: filter.clone(),
        pause_max: Duration::from_secs(pause_max_s),
    }
}
