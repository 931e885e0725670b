//! From a file and the environment to a checked configuration, and what to say where that does not work.

use std::path::Path;

use serde_json::Value;

use super::{Config, ConfigError};
use crate::{api::grpc::tls::Identity, bounded::read_bounded};

/// A configuration file above this size is refused.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What the names of variables start with that override keys: `SAKER__HTTP__LISTEN` is `http.listen`.
const PREFIX: &str = "SAKER__";

impl Config {
    /// Reads a file, or none, applies what the environment overrides, and checks the outcome.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            name.starts_with(PREFIX)
                .then(|| (name, value.to_string_lossy().into_owned()))
        });
        Self::load_with(path, variables.collect())
    }

    /// Reads and checks a file, whatever the environment says.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        Self::load_with(Some(path), Vec::new())
    }

    fn load_with(
        path: Option<&Path>,
        variables: Vec<(String, String)>,
    ) -> Result<Self, ConfigError> {
        let text = match path {
            None => String::new(),
            Some(path) => {
                let read = |source| ConfigError::Read {
                    path: path.into(),
                    source,
                };
                let bytes = read_bounded(path, FILE_BYTES_MAX).map_err(read)?;
                String::from_utf8(bytes).map_err(|_| ConfigError::Parse {
                    path: path.into(),
                    message: "is not UTF-8 text".into(),
                })?
            }
        };
        Self::parse(path.unwrap_or(Path::new("defaults")), &text, variables)
    }

    pub(super) fn parse(
        path: &Path,
        text: &str,
        mut variables: Vec<(String, String)>,
    ) -> Result<Self, ConfigError> {
        // A file of comments only is an empty configuration.
        let empty = text
            .lines()
            .all(|line| line.trim_start().starts_with('#') || line.trim().is_empty());
        let wrong = |message: String| ConfigError::Parse {
            path: path.into(),
            message: helpful(message.trim_end()),
        };
        let mut config: Self = if empty {
            Self::default()
        } else {
            serde_saphyr::from_str(text).map_err(|error| wrong(error.to_string()))?
        };
        // The same order whatever order the environment has.
        variables.sort();
        let alone = config.clone();
        for (name, value) in &variables {
            config = config
                .overridden(name, value)
                .map_err(|message| ConfigError::Variable {
                    name: name.clone(),
                    message: helpful(&message),
                })?;
        }
        config.check(path).map_err(|error| {
            let is_the_files = alone
                .check(path)
                .is_err_and(|own| own.to_string() == error.to_string());
            if is_the_files {
                return error;
            }
            // Sound by itself: what is wrong came from outside.
            let names: Vec<_> = variables.iter().map(|(name, _)| name.as_str()).collect();
            let whole = format!("{} with {}", path.display(), names.join(", "));
            config.check(Path::new(&whole)).err().unwrap_or(error)
        })?;
        Ok(config)
    }

    fn overridden(&self, name: &str, text: &str) -> Result<Self, String> {
        let keys: Vec<String> = name[PREFIX.len()..]
            .split("__")
            .map(str::to_lowercase)
            .collect();
        let with = |value: Value| -> Result<Self, String> {
            let mut whole = serde_json::to_value(self).map_err(|error| error.to_string())?;
            set(&mut whole, &keys, value)?;
            serde_json::from_value(whole).map_err(|error| error.to_string())
        };
        // As it would stand in the file; what only makes sense as text may look like something else there.
        match serde_saphyr::from_str::<Value>(text) {
            Ok(value) => with(value).or_else(|error| with(text.into()).map_err(|_| error)),
            Err(_) => with(text.into()),
        }
    }

    /// Can the files be read that the configuration names?
    pub fn check_files(&self) -> Result<(), String> {
        let chain = |error: &dyn std::error::Error| match error.source() {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        };
        if let Some(files) = &self.grpc.tcp.tls {
            Identity::read(files).map_err(|error| format!("grpc.tcp.tls: {}", chain(&error)))?;
        }
        for path in &self.rules.paths {
            std::fs::metadata(path)
                .map_err(|error| format!("rules.paths: {}: {error}", path.display()))?;
        }
        self.sinks.check_files()
    }
}

fn set(whole: &mut Value, keys: &[String], value: Value) -> Result<(), String> {
    let mut at = whole;
    for (place, key) in keys.iter().enumerate() {
        // A section that is not there unless it is asked for.
        if at.is_null() {
            *at = Value::Object(serde_json::Map::new());
        }
        let is_section = place + 1 < keys.len();
        let Some(object) = at.as_object_mut() else {
            return Err(format!(
                "{} is a value, which has no keys",
                keys[..place].join(".")
            ));
        };
        let is_optional = object.is_empty();
        if !object.contains_key(key) && !is_optional {
            let known: Vec<_> = object.keys().map(|name| format!("`{name}`")).collect();
            return Err(format!(
                "unknown field `{key}`, expected one of {}",
                known.join(", ")
            ));
        }
        if !is_section {
            object.insert(key.clone(), value);
            return Ok(());
        }
        at = object.entry(key.clone()).or_insert(Value::Null);
    }
    Ok(())
}

/// Names the nearest key, or the nearest of the words that a key takes, where one is unknown.
fn helpful(message: &str) -> String {
    const UNKNOWN: [&str; 2] = ["unknown field `", "unknown variant `"];
    let nearest = || {
        let (_, rest) = UNKNOWN
            .iter()
            .find_map(|unknown| message.split_once(unknown))?;
        let (name, rest) = rest.split_once('`')?;
        let (_, expected) = rest.split_once("expected ")?;
        let words = expected.lines().next()?.split([' ', ',', '`']);
        let known = words.filter(|word| !["", "one", "of", "or"].contains(word));
        let distance = |known: &str| strsim::damerau_levenshtein(name, known);
        let best = known.min_by_key(|known| distance(known))?;
        // Further away it is another word.
        (distance(best) <= name.len().max(best.len()).div_ceil(3)).then_some(best)
    };
    match nearest() {
        Some(name) => format!("{message}; did you mean `{name}`?"),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::parse(Path::new("saker.yaml"), text, variables.collect())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn an_unknown_key_is_told_with_its_nearest() {
        let check = |text: &str, expected: &str| {
            let message = parse(text, &[]).expect_err(text);
            assert!(message.contains(expected), "{message}");
        };
        check("sensor:\n  ring_byte: 1\n", "did you mean `ring_bytes`?");
        check("sensro: {}\n", "did you mean `sensor`?");
        check("grpc: {tcp: {lissen: x}}\n", "did you mean `listen`?");
        check("rules: {profile: strikt}\n", "did you mean `strict`?");
        let message = parse("quite_another: 1\n", &[]).expect_err("no such key");
        assert!(!message.contains("did you mean"), "{message}");
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let text = "http: {listen: '127.0.0.1:1'}\nrules: {paths: [/a]}\n";
        let config = parse(
            text,
            &[
                ("SAKER__HTTP__LISTEN", "127.0.0.1:2"),
                ("SAKER__RULES__PATHS", "[/b, /c]"),
                ("SAKER__HOSTNAME", "007"),
                ("SAKER__STDOUT__ENABLED", "false"),
                ("SAKER__SENSOR__RING_BYTES", "16384"),
                ("SAKER__GRPC__TCP__LISTEN", "127.0.0.1:3"),
            ],
        )
        .expect("it is sound");
        assert_eq!(config.http.listen.port(), 2);
        assert_eq!(config.rules.paths.len(), 2);
        assert_eq!(config.hostname.as_deref(), Some("007"));
        assert!(!config.stdout.enabled);
        assert_eq!(config.sensor.ring_bytes, 16384);
        assert_eq!(config.grpc.tcp.listen.map(|at| at.port()), Some(3));
        let tls = [
            ("SAKER__GRPC__TCP__LISTEN", "0.0.0.0:3"),
            (
                "SAKER__GRPC__TCP__TLS",
                "{certificate: /a, key: /b, client_ca: /c}",
            ),
        ];
        assert!(parse("", &tls).is_ok());
    }

    #[test]
    fn a_wrong_variable_is_named() {
        let check = |name: &str, value: &str, expected: &[&str]| {
            let message = parse("", &[(name, value)]).expect_err(name);
            for part in [name].iter().chain(expected) {
                assert!(message.contains(part), "{message:?} lacks {part:?}");
            }
        };
        check("SAKER__HTTP__LISTENS", "x", &["did you mean `listen`?"]);
        check("SAKER__HTTP__LISTEN", "nowhere", &["socket address"]);
        check(
            "SAKER__HTTP__LISTEN__PORT",
            "1",
            &["http.listen is a value"],
        );
        check("SAKER__SENSOR__RING_BYTES", "many", &["many"]);
        check("SAKER__", "1", &["unknown field"]);
        // Each by itself is a number.
        check("SAKER__SENSOR__RING_BYTES", "5", &["sensor.ring_bytes"]);
        let wrong = "sensor: {ring_bytes: 5}";
        let message = parse(wrong, &[("SAKER__HOSTNAME", "a")]).expect_err("a file's own fault");
        assert!(!message.contains("SAKER__"), "{message}");
    }

    #[test]
    fn what_is_printed_reads_back_as_the_same() {
        let config = parse("", &[("SAKER__HOSTNAME", "node-1")]).expect("it is sound");
        let text = serde_saphyr::to_string(&config).expect("it can be written");
        assert_eq!(parse(&text, &[]), Ok(config));
    }
}
